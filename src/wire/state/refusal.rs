//! Why the state plane refused a command: one table of codes for all protocols.
//!
//! Owns the codes, their names and texts. A code is never used again for something else. Start at [`Refusal`].

use super::codec::{DecodeError, Reader, put_u32, put_u64};
use super::config::ConfigError;
use super::{Sequence, StreamNumber};
use crate::limits::MESSAGE_ID_BYTES_MAX;
use std::fmt;

/// Why a command, or a message of it, was refused. It changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such stream, or not any more.
    NoStream,
    /// A stream of this name exists and has another configuration.
    StreamExists(StreamNumber),
    /// The configuration is not a legal one.
    Config(ConfigError),
    /// A filter matches topics that another stream stores.
    FiltersTaken(StreamNumber),
    /// The partition has as many streams as it may.
    StreamsFull,
    /// The stream does not store this topic, or it is none.
    TopicNotKept,
    /// Headers and body are longer than this.
    MessageTooLong(u32),
    /// The id is empty or longer than 255 bytes.
    IdInvalid,
    /// The stream takes no TTL from messages.
    TtlRefused,
    /// The last message of the stream is this one, not the one expected.
    WrongLast(Sequence),
    /// The last message of the topic is this one, not the one expected.
    WrongLastOfTopic(Sequence),
    /// The stream has as many messages or bytes as it may, and discards none.
    StreamFull,
    /// There is no such message.
    NoMessage,
    /// Too many deleted messages stand before the topic's last one: searched down to this one.
    SearchTooLong(Sequence),
    /// The filter is no topic or wildcard.
    FilterInvalid,
    /// The disk failed; nothing is stored until the broker is started again.
    StorageFailed,
    /// The message, or the request, is longer than this.
    TooLarge(u32),
    /// The disk failed while this was under way: it may be stored, or not.
    Unknown,
    /// Streams of a batch live in several partitions.
    BatchSpans,
    /// The request is not in a form that this build knows.
    RequestInvalid,
    /// As many reads are open as may be.
    Busy,
}

impl Refusal {
    /// The number that stands for it.
    pub fn code(self) -> u16 {
        match self {
            Refusal::NoStream => 1,
            Refusal::StreamExists(_) => 2,
            Refusal::Config(_) => 3,
            Refusal::FiltersTaken(_) => 4,
            Refusal::StreamsFull => 5,
            Refusal::TopicNotKept => 6,
            Refusal::MessageTooLong(_) => 7,
            Refusal::IdInvalid => 8,
            Refusal::TtlRefused => 9,
            Refusal::WrongLast(_) => 10,
            Refusal::WrongLastOfTopic(_) => 11,
            Refusal::StreamFull => 12,
            Refusal::NoMessage => 13,
            Refusal::SearchTooLong(_) => 14,
            Refusal::FilterInvalid => 15,
            Refusal::StorageFailed => 16,
            Refusal::TooLarge(_) => 17,
            Refusal::Unknown => 18,
            Refusal::BatchSpans => 19,
            Refusal::RequestInvalid => 20,
            Refusal::Busy => 21,
        }
    }

    /// The name that stands for it in texts.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::NoStream => "no_stream",
            Refusal::StreamExists(_) => "stream_exists",
            Refusal::Config(_) => "config_invalid",
            Refusal::FiltersTaken(_) => "filters_taken",
            Refusal::StreamsFull => "streams_full",
            Refusal::TopicNotKept => "topic_not_kept",
            Refusal::MessageTooLong(_) => "message_too_long",
            Refusal::IdInvalid => "id_invalid",
            Refusal::TtlRefused => "ttl_refused",
            Refusal::WrongLast(_) => "wrong_last_sequence",
            Refusal::WrongLastOfTopic(_) => "wrong_last_of_topic",
            Refusal::StreamFull => "stream_full",
            Refusal::NoMessage => "no_message",
            Refusal::SearchTooLong(_) => "search_too_long",
            Refusal::FilterInvalid => "filter_invalid",
            Refusal::StorageFailed => "storage_failed",
            Refusal::TooLarge(_) => "too_large",
            Refusal::Unknown => "unknown",
            Refusal::BatchSpans => "batch_spans_partitions",
            Refusal::RequestInvalid => "request_invalid",
            Refusal::Busy => "busy",
        }
    }

    /// Appends code and field.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.code().to_be_bytes());
        match self {
            Refusal::StreamExists(stream) | Refusal::FiltersTaken(stream) => {
                put_u32(out, stream.0);
            }
            Refusal::Config(error) => out.push(error as u8),
            Refusal::MessageTooLong(cap) | Refusal::TooLarge(cap) => put_u32(out, cap),
            Refusal::WrongLast(sequence)
            | Refusal::WrongLastOfTopic(sequence)
            | Refusal::SearchTooLong(sequence) => put_u64(out, sequence.0),
            _ => {}
        }
    }

    /// Takes it from the front.
    pub(super) fn read(reader: &mut Reader) -> Result<Refusal, DecodeError> {
        const FIELD: &str = "refusal";
        Ok(match reader.u16(FIELD)? {
            1 => Refusal::NoStream,
            2 => Refusal::StreamExists(StreamNumber(reader.u32(FIELD)?)),
            3 => {
                let error = ConfigError::from_number(reader.u8(FIELD)?);
                Refusal::Config(error.ok_or(DecodeError::Value(FIELD))?)
            }
            4 => Refusal::FiltersTaken(StreamNumber(reader.u32(FIELD)?)),
            5 => Refusal::StreamsFull,
            6 => Refusal::TopicNotKept,
            7 => Refusal::MessageTooLong(reader.u32(FIELD)?),
            8 => Refusal::IdInvalid,
            9 => Refusal::TtlRefused,
            10 => Refusal::WrongLast(Sequence(reader.u64(FIELD)?)),
            11 => Refusal::WrongLastOfTopic(Sequence(reader.u64(FIELD)?)),
            12 => Refusal::StreamFull,
            13 => Refusal::NoMessage,
            14 => Refusal::SearchTooLong(Sequence(reader.u64(FIELD)?)),
            15 => Refusal::FilterInvalid,
            16 => Refusal::StorageFailed,
            17 => Refusal::TooLarge(reader.u32(FIELD)?),
            18 => Refusal::Unknown,
            19 => Refusal::BatchSpans,
            20 => Refusal::RequestInvalid,
            21 => Refusal::Busy,
            _ => return Err(DecodeError::Value(FIELD)),
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoStream => f.write_str(
                "no stream has this name or keeps this topic: create one, or list those that there are",
            ),
            Refusal::StreamExists(_) => f.write_str(
                "a stream of this name exists with another configuration: update it, or take another name",
            ),
            Refusal::Config(error) => error.fmt(f),
            Refusal::FiltersTaken(_) => f.write_str(
                "a filter matches topics that another stream keeps: narrow one of both, or delete the other stream",
            ),
            Refusal::StreamsFull => {
                f.write_str("there are as many streams as there may be: delete some")
            }
            Refusal::TopicNotKept => f.write_str(
                "the topic matches no filter of the stream, or is none: add a filter, or take another topic",
            ),
            Refusal::MessageTooLong(cap) => write!(
                f,
                "headers and body are longer than the stream's limit of {cap} bytes: shorten them, or raise the limit"
            ),
            Refusal::IdInvalid => write!(
                f,
                "a message id has 1 to {MESSAGE_ID_BYTES_MAX} bytes: shorten it, for example to a hash"
            ),
            Refusal::TtlRefused => f.write_str(
                "the stream takes no TTL from messages: allow it in its configuration",
            ),
            Refusal::WrongLast(actual) => write!(
                f,
                "the last sequence of the stream is {actual}, not the one expected: read what came, then try again"
            ),
            Refusal::WrongLastOfTopic(actual) => write!(
                f,
                "the last sequence of the topic is {actual}, not the one expected: read what came, then try again"
            ),
            Refusal::StreamFull => f.write_str(
                "the stream is at its limit and is told to refuse new messages: purge it, or raise the limit",
            ),
            Refusal::NoMessage => f.write_str(
                "there is no such message: it was never stored, was deleted, or is older than the stream keeps",
            ),
            Refusal::SearchTooLong(reached) => write!(
                f,
                "too many messages were looked at for the topic's last one, none was found down to {reached}: read from there"
            ),
            Refusal::FilterInvalid => f.write_str(
                "a filter is a topic, or a wildcard with '>' as its last token only",
            ),
            Refusal::StorageFailed => f.write_str(
                "the disk failed: nothing is stored until the operator has seen to it and started the broker again",
            ),
            Refusal::TooLarge(cap) => write!(
                f,
                "it is longer than {cap} bytes, the most that is stored at once: send it in parts"
            ),
            Refusal::Unknown => f.write_str(
                "the disk failed meanwhile, so it may be stored or not: look, or send it again under the same id",
            ),
            Refusal::BatchSpans => f.write_str(
                "the streams of a batch live in several partitions: give their names the same {tag}",
            ),
            Refusal::RequestInvalid => f.write_str(
                "the request is not in a form that this broker knows: it may come from a newer version",
            ),
            Refusal::Busy => f.write_str("too many reads are open: try again when some have ended"),
        }
    }
}

impl std::error::Error for Refusal {}
