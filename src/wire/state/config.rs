//! What a stream is told to keep.
//!
//! Owns the configuration, its limits and its encoded form. Must not know who announces filters or applies limits.
//! Start at [`StreamConfig`].

use super::codec::{DecodeError, Reader, put_bytes16, put_u32, put_u64};
use crate::limits::{STORED_MESSAGE_BYTES_MAX, STREAM_FILTERS_MAX, STREAM_NAME_BYTES_MAX};
use crate::topic::{self, check_wildcard};
use std::fmt;

/// When a message counts as stored. Replies name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once the disk has it.
    #[default]
    Fsync,
    /// Once it is applied; the disk has it within 100 ms. A crash of the machine may lose what is younger.
    Os,
}

/// What happens at a stream's limits of messages and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Discard {
    /// The oldest messages go.
    #[default]
    Old,
    /// New ones are refused.
    New,
}

/// Whether messages may bring a time to live of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageTtl {
    /// One that does is refused.
    #[default]
    Refused,
    /// They may.
    Allowed,
}

/// A stream's configuration. Limits that are 0 are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamConfig {
    /// 1 to 1,024 bytes; see [`is_plain_name`] for what people may type.
    pub name: Vec<u8>,
    /// Topics or wildcards whose events it stores, at most 64; none begins with `$`. May be none: then it stores what
    /// is appended to it by its name, whatever the topic.
    pub filters: Vec<Vec<u8>>,
    /// Milliseconds that a message is kept.
    pub age_ms_max: u64,
    /// Bytes that are kept: topics, headers and bodies, and 32 more for each message.
    pub bytes_max: u64,
    /// Messages that are kept.
    pub messages_max: u64,
    /// What happens at the two limits above.
    pub discard: Discard,
    /// Milliseconds within which a message of the same id is not stored again; 0 looks at no ids.
    pub duplicate_window_ms: u64,
    /// Longest headers and body of a message together, at most 1 MiB and 64 KiB, which 0 stands for.
    pub message_bytes_max: u32,
    /// When a message counts as stored.
    pub durability: Durability,
    /// Whether messages may bring a time to live.
    pub message_ttl: MessageTtl,
}

/// What is wrong with a configuration. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ConfigError {
    /// The name is empty or longer than 1,024 bytes.
    Name = 1,
    /// There are more than 64 filters.
    FiltersTooMany = 2,
    /// A filter is no topic or wildcard.
    Filter = 3,
    /// A filter begins with `$`.
    FilterReserved = 4,
    /// Two filters of the stream may match one topic.
    FiltersOverlap = 5,
    /// Messages longer than a stored one may be.
    MessageBytes = 6,
    /// An update gives another name.
    NameChanged = 7,
}

impl ConfigError {
    /// That of a number.
    pub fn from_number(number: u8) -> Option<ConfigError> {
        Some(match number {
            1 => ConfigError::Name,
            2 => ConfigError::FiltersTooMany,
            3 => ConfigError::Filter,
            4 => ConfigError::FilterReserved,
            5 => ConfigError::FiltersOverlap,
            6 => ConfigError::MessageBytes,
            7 => ConfigError::NameChanged,
            _ => return None,
        })
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Name => write!(f, "a stream's name has 1 to {STREAM_NAME_BYTES_MAX} bytes"),
            ConfigError::FiltersTooMany => {
                write!(f, "a stream has at most {STREAM_FILTERS_MAX} filters")
            }
            ConfigError::Filter => f.write_str(
                "a filter is a topic, or a wildcard with '>' as its last token only, of at most 1024 bytes in 64 tokens",
            ),
            ConfigError::FilterReserved => {
                f.write_str("names that begin with '$' are the broker's own and are not stored")
            }
            ConfigError::FiltersOverlap => {
                f.write_str("two filters of the stream match the same topics: leave one out")
            }
            ConfigError::MessageBytes => {
                write!(f, "headers and body of a stored message have at most {STORED_MESSAGE_BYTES_MAX} bytes")
            }
            ConfigError::NameChanged => f.write_str("a stream keeps its name"),
        }
    }
}

/// Whether a name is one that people and all protocols can write: 1 to 255 bytes of UTF-8 without whitespace, control
/// characters, and `.` `*` `>` `/` `\`, which mean something in topics and paths.
pub fn is_plain_name(name: &[u8]) -> bool {
    let is_plain = |character: char| {
        !character.is_whitespace()
            && !character.is_control()
            && !matches!(character, '.' | '*' | '>' | '/' | '\\')
    };
    (1..=255).contains(&name.len())
        && std::str::from_utf8(name).is_ok_and(|name| name.chars().all(is_plain))
}

impl StreamConfig {
    /// Checks all but whether the name is taken and the filters are free.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(1..=STREAM_NAME_BYTES_MAX).contains(&self.name.len()) {
            return Err(ConfigError::Name);
        }
        if self.filters.len() > STREAM_FILTERS_MAX {
            return Err(ConfigError::FiltersTooMany);
        }
        for (position, filter) in self.filters.iter().enumerate() {
            if check_wildcard(filter).is_err() {
                return Err(ConfigError::Filter);
            }
            if topic::is_reserved(filter) {
                return Err(ConfigError::FilterReserved);
            }
            let earlier = &self.filters[..position];
            if earlier
                .iter()
                .any(|other| topic::wildcards_overlap(other, filter))
            {
                return Err(ConfigError::FiltersOverlap);
            }
        }
        if self.message_bytes_max as usize > STORED_MESSAGE_BYTES_MAX {
            return Err(ConfigError::MessageBytes);
        }
        Ok(())
    }

    /// Appends the encoded form, without version and kind: what contains it has them.
    pub fn write(&self, out: &mut Vec<u8>) {
        put_bytes16(out, &self.name);
        out.push(self.filters.len() as u8);
        for filter in &self.filters {
            put_bytes16(out, filter);
        }
        put_u64(out, self.age_ms_max);
        put_u64(out, self.bytes_max);
        put_u64(out, self.messages_max);
        out.push(self.discard as u8);
        put_u64(out, self.duplicate_window_ms);
        put_u32(out, self.message_bytes_max);
        out.push(self.durability as u8);
        out.push(self.message_ttl as u8);
    }

    /// Takes it from the front. What [`check`](StreamConfig::check) checks is not checked here.
    pub fn read(reader: &mut Reader) -> Result<StreamConfig, DecodeError> {
        let name = reader.bytes16("name")?.to_vec();
        let mut filters = Vec::new();
        // Bounded by the bytes that stand there: each filter takes two at least.
        for _ in 0..reader.u8("number of filters")? {
            filters.push(reader.bytes16("filter")?.to_vec());
        }
        Ok(StreamConfig {
            name,
            filters,
            age_ms_max: reader.u64("age")?,
            bytes_max: reader.u64("bytes")?,
            messages_max: reader.u64("messages")?,
            discard: match reader.u8("discard")? {
                0 => Discard::Old,
                1 => Discard::New,
                _ => return Err(DecodeError::Value("discard")),
            },
            duplicate_window_ms: reader.u64("window")?,
            message_bytes_max: reader.u32("message size")?,
            durability: match reader.u8("durability")? {
                0 => Durability::Fsync,
                1 => Durability::Os,
                _ => return Err(DecodeError::Value("durability")),
            },
            message_ttl: match reader.u8("message TTL")? {
                0 => MessageTtl::Refused,
                1 => MessageTtl::Allowed,
                _ => return Err(DecodeError::Value("message TTL")),
            },
        })
    }
}
