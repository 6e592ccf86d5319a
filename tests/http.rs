//! HTTP, server-sent events, the JSON protocol and text commands as WEB.md and JSON.md say them, by raw bytes over TCP.
//! `tests/websocket.rs` is about the frames of WebSockets.

mod common;
#[path = "common/frames.rs"]
mod frames;
#[path = "common/load.rs"]
mod load;
#[path = "common/nats.rs"]
mod nats;
#[path = "common/web.rs"]
mod web;

#[path = "http/access.rs"]
mod access;
#[path = "http/broadcast.rs"]
mod broadcast;
#[path = "http/delays.rs"]
mod delays;
#[path = "http/events.rs"]
mod events;
#[path = "http/json.rs"]
mod json;
#[path = "http/json_cases.rs"]
mod json_cases;
#[path = "http/monitoring.rs"]
mod monitoring;
#[path = "http/nats_pages.rs"]
mod nats_pages;
#[path = "http/random.rs"]
mod random;
#[path = "http/refusals.rs"]
mod refusals;
#[path = "http/requests.rs"]
mod requests;
#[path = "http/streams.rs"]
mod streams;
#[path = "http/text.rs"]
mod text;
