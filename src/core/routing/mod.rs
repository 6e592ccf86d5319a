//! Routing: subscriptions, the index of filters, turns of queue groups, and the interest of other shards and links.
//!
//! Must not know sessions, outboxes or time. Start at [`broker::Broker::route`].

pub(crate) mod broker;
mod globs;
pub(crate) mod groups;
pub mod interest;
mod places;
pub(crate) mod subs;
mod trie;
mod versions;
