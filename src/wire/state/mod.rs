//! What shards and state workers say to each other, and what stands in the log: requests, answers, commands, replies.
//!
//! Owns the encoded forms and their versions, and the numbers by which both planes name things. Must not know how
//! commands are applied. Each form begins with a version and a kind; what a newer build wrote is refused by name, never
//! guessed at. Invariants: a kind's bytes never change (golden bytes in the tests): a change is a new kind or version;
//! reading never panics, and allocates nothing by a length that is only claimed. Numbers are big endian, as in the
//! store. Start at [`Request`] and [`Answer`] for what sessions say and hear, at [`Command`], [`Reply`] and [`Refusal`] for
//! what partitions do.

mod answer;
mod codec;
mod command;
mod config;
mod place;
mod refusal;
mod reply;
mod request;
mod token;

pub use answer::{
    Answer, BatchPart, ReadEnd, ReadHead, ReadPage, ReadPageWriter, Stored, StoredMessage,
    StoredMessages, StreamInfo,
};
pub use codec::{DecodeError, Reader, put_bytes8, put_bytes16, put_bytes32, put_u32, put_u64};
pub use command::{
    Append, AppendBuffer, AppendWriter, Batch, BatchWriter, Command, Commands, Message, Messages,
    MessagesWriter, Purge, push_command,
};
pub use config::{ConfigError, Discard, Durability, MessageTtl, StreamConfig, is_plain_name};
pub use place::{affinity, partition_of};
pub use refusal::Refusal;
pub use reply::{Appended, Creation, Outcome, Outcomes, PurgeRest, Reply, Rest};
pub use request::{
    AppendTo, Ask, BatchTo, BatchToWriter, List, Order, PurgeOf, Read, ReadStart, Request, Wait,
    Which, write_append,
};
pub use token::{ResumeToken, TokenError};

use std::fmt;

/// The version that all forms of this build begin with.
pub const VERSION: u8 = 1;

/// Declares a number that names something.
macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
            pub struct $name(pub $inner);

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.fmt(f)
                }
            }
        )*
    };
}

numbers! {
    /// A partition of a data directory, from 0.
    PartitionId(u16);
    /// A stream within its partition: never used again, so that it is the number of its creation too. From 1.
    StreamNumber(u32);
    /// A message of a stream, from 1; never used again. 0 is none.
    Sequence(u64);
    /// An entry of a partition in the log, from 1. 0 is none.
    Index(u64);
}

/// A random number made with the data directory, and anew by each restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lineage(pub u64);

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod asking_tests;
#[cfg(test)]
mod tests;
