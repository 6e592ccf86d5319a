//! Replies: what became of a command.
//!
//! Owns their encoded form. Must not know who waits for them. Start at [`Reply`].
//!
//! Each is version (1), kind (1) and a body; `stream` is a number (4), other numbers have 8 bytes unless said:
//!
//! | kind | body |
//! |---|---|
//! | 1 created | stream, existing (1) |
//! | 2 updated | stream |
//! | 3 deleted | stream, messages |
//! | 4 appended | an append's outcomes |
//! | 5 batch | count (2), outcomes of each append |
//! | 6 batch refused | which message of all (4), refusal |
//! | 7 purged | stream, messages, goes on (1), before, keep |
//! | 8 expired | stream, messages, more (1) |
//! | 9 pruned | stream |
//! | 10 refused | refusal |
//! | 11 message deleted | stream |
//! | 12 raised | |
//!
//! Outcomes: stream, form (1). Form 0: first sequence, count (4). Form 1: count (4), for each its form (1; 0 stored, 1
//! duplicate, 2 refused) and sequence or refusal. A refusal: code (2) and its field, if it has one.

use super::codec::{DecodeError, Reader, put_u32, put_u64};
use super::{Refusal, Sequence, StreamNumber, VERSION};
use crate::limits::BATCH_APPENDS_MAX;

/// Whether a stream was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// It was.
    New,
    /// It existed, with the same configuration.
    Existing,
}

/// What became of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored under this sequence.
    Stored(Sequence),
    /// Its id was stored under this sequence before, within the window.
    Duplicate(Sequence),
    /// Not stored.
    Refused(Refusal),
}

/// What became of the messages of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcomes {
    /// All were stored, one behind the other.
    Run {
        /// The sequence of the first.
        first: Sequence,
        /// How many.
        count: u32,
    },
    /// One for each.
    Each(Vec<Outcome>),
}

/// The answer to an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// To which stream.
    pub stream: StreamNumber,
    /// What became of its messages.
    pub outcomes: Outcomes,
}

/// With what a purge goes on: it looked at as many messages as one command may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurgeRest {
    /// The first that was looked at.
    pub before: Sequence,
    /// How many more are to be kept.
    pub keep: u64,
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Not now.
    Done,
    /// The command's bound was reached.
    More,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Of a create.
    Created(StreamNumber, Creation),
    /// Of an update.
    Updated(StreamNumber),
    /// Of a delete: so many messages went.
    Deleted(StreamNumber, u64),
    /// Of an append.
    Appended(Appended),
    /// Of a batch: all is stored.
    Batch(Vec<Appended>),
    /// Nothing of the batch is stored, because of this message, counted over all from 0.
    BatchRefused(u32, Refusal),
    /// Of a purge: so many went, and this is left to do.
    Purged(StreamNumber, u64, Option<PurgeRest>),
    /// Of an expiry: so many went.
    Expired(StreamNumber, u64, Rest),
    /// Of a pruning.
    Pruned(StreamNumber),
    /// Nothing was changed.
    Refused(Refusal),
    /// Of the deletion of one message.
    MessageDeleted(StreamNumber),
    /// Of a raise.
    Raised,
}

impl Reply {
    /// Appends the encoded form.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut begin = |kind: u8, stream: Option<StreamNumber>| {
            out.extend_from_slice(&[VERSION, kind]);
            if let Some(stream) = stream {
                put_u32(out, stream.0);
            }
        };
        match self {
            Reply::Created(stream, creation) => {
                begin(1, Some(*stream));
                out.push(*creation as u8);
            }
            Reply::Updated(stream) => begin(2, Some(*stream)),
            Reply::Deleted(stream, messages) => {
                begin(3, Some(*stream));
                put_u64(out, *messages);
            }
            Reply::Appended(appended) => {
                begin(4, None);
                appended.write(out);
            }
            Reply::Batch(parts) => {
                begin(5, None);
                assert!(parts.len() <= BATCH_APPENDS_MAX);
                out.extend_from_slice(&(parts.len() as u16).to_be_bytes());
                parts.iter().for_each(|part| part.write(out));
            }
            Reply::BatchRefused(position, refusal) => {
                begin(6, None);
                put_u32(out, *position);
                refusal.write(out);
            }
            Reply::Purged(stream, messages, rest) => {
                begin(7, Some(*stream));
                put_u64(out, *messages);
                out.push(u8::from(rest.is_some()));
                if let Some(rest) = rest {
                    put_u64(out, rest.before.0);
                    put_u64(out, rest.keep);
                }
            }
            Reply::Expired(stream, messages, rest) => {
                begin(8, Some(*stream));
                put_u64(out, *messages);
                out.push(*rest as u8);
            }
            Reply::Pruned(stream) => begin(9, Some(*stream)),
            Reply::Refused(refusal) => {
                begin(10, None);
                refusal.write(out);
            }
            Reply::MessageDeleted(stream) => begin(11, Some(*stream)),
            Reply::Raised => begin(12, None),
        }
    }

    /// Reads one.
    pub fn read(bytes: &[u8]) -> Result<Reply, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8("version")? {
            VERSION => {}
            version => return Err(DecodeError::Version(version)),
        }
        let kind = reader.u8("kind")?;
        let reply = match kind {
            1 | 2 | 3 | 7 | 8 | 9 | 11 => {
                let stream = StreamNumber(reader.u32("stream")?);
                Reply::read_of_stream(kind, stream, &mut reader)?
            }
            4 => Reply::Appended(Appended::read(&mut reader)?),
            5 => {
                let count = reader.u16("count")?;
                if usize::from(count) > BATCH_APPENDS_MAX {
                    return Err(DecodeError::Value("count"));
                }
                let mut parts = Vec::new();
                for _ in 0..count {
                    parts.push(Appended::read(&mut reader)?);
                }
                Reply::Batch(parts)
            }
            6 => {
                let position = reader.u32("position")?;
                Reply::BatchRefused(position, Refusal::read(&mut reader)?)
            }
            10 => Reply::Refused(Refusal::read(&mut reader)?),
            12 => Reply::Raised,
            kind => return Err(DecodeError::Kind(kind)),
        };
        reader.end()?;
        Ok(reply)
    }

    fn read_of_stream(
        kind: u8,
        stream: StreamNumber,
        reader: &mut Reader,
    ) -> Result<Reply, DecodeError> {
        Ok(match kind {
            1 => Reply::Created(
                stream,
                match reader.u8("existing")? {
                    0 => Creation::New,
                    1 => Creation::Existing,
                    _ => return Err(DecodeError::Value("existing")),
                },
            ),
            2 => Reply::Updated(stream),
            3 => Reply::Deleted(stream, reader.u64("messages")?),
            7 => {
                let messages = reader.u64("messages")?;
                let rest = match reader.u8("rest")? {
                    0 => None,
                    1 => Some(PurgeRest {
                        before: Sequence(reader.u64("before")?),
                        keep: reader.u64("keep")?,
                    }),
                    _ => return Err(DecodeError::Value("rest")),
                };
                Reply::Purged(stream, messages, rest)
            }
            8 => {
                let messages = reader.u64("messages")?;
                let rest = match reader.u8("rest")? {
                    0 => Rest::Done,
                    1 => Rest::More,
                    _ => return Err(DecodeError::Value("rest")),
                };
                Reply::Expired(stream, messages, rest)
            }
            9 => Reply::Pruned(stream),
            _ => Reply::MessageDeleted(stream),
        })
    }
}

impl Appended {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_u32(out, self.stream.0);
        match &self.outcomes {
            Outcomes::Run { first, count } => {
                out.push(0);
                put_u64(out, first.0);
                put_u32(out, *count);
            }
            Outcomes::Each(outcomes) => {
                out.push(1);
                put_u32(out, outcomes.len() as u32);
                for outcome in outcomes {
                    match outcome {
                        Outcome::Stored(sequence) => {
                            out.push(0);
                            put_u64(out, sequence.0);
                        }
                        Outcome::Duplicate(sequence) => {
                            out.push(1);
                            put_u64(out, sequence.0);
                        }
                        Outcome::Refused(refusal) => {
                            out.push(2);
                            refusal.write(out);
                        }
                    }
                }
            }
        }
    }

    pub(super) fn read(reader: &mut Reader) -> Result<Appended, DecodeError> {
        let stream = StreamNumber(reader.u32("stream")?);
        let outcomes = match reader.u8("form")? {
            0 => Outcomes::Run {
                first: Sequence(reader.u64("sequence")?),
                count: reader.u32("count")?,
            },
            1 => {
                let mut outcomes = Vec::new();
                // Ends early where the bytes do: each outcome takes three at least.
                for _ in 0..reader.u32("count")? {
                    outcomes.push(match reader.u8("outcome")? {
                        0 => Outcome::Stored(Sequence(reader.u64("sequence")?)),
                        1 => Outcome::Duplicate(Sequence(reader.u64("sequence")?)),
                        2 => Outcome::Refused(Refusal::read(reader)?),
                        _ => return Err(DecodeError::Value("outcome")),
                    });
                }
                Outcomes::Each(outcomes)
            }
            _ => return Err(DecodeError::Value("form")),
        };
        Ok(Appended { stream, outcomes })
    }
}
