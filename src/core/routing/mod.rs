//! Whom an event reaches: subscriptions, the index of filters, turns of groups, and what other shards listen to.
//!
//! Must not know sessions, outboxes or time. Start at [`broker::Broker::route`].

pub(crate) mod broker;
pub(crate) mod groups;
pub mod interest;
pub(crate) mod subs;
mod trie;
mod versions;
