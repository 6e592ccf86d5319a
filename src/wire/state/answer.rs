//! Answers: what sessions hear of their requests.
//!
//! Owns their encoded form. Must not know protocols: each says it in its own way. An answer may come in parts; the
//! mailbox says which is the last. Invariants: what [`Answer::read`] returned was looked at to its end; messages are not
//! copied. Start at [`Answer`].
//!
//! Each is version (1), kind (1) and a body; names, topics and filters have their length (2) before them, other numbers
//! 8 bytes unless said:
//!
//! | kind | body |
//! |---|---|
//! | 1 stored | stream, position (4), durability (1), an append's outcomes as in replies |
//! | 2 batch stored | durability (1), count (2), for each append its stream and outcomes |
//! | 3 batch refused | position (4), refusal |
//! | 4 created | existing (1) |
//! | 5 updated | |
//! | 6 deleted | messages |
//! | 7 purged | messages |
//! | 8 message deleted | |
//! | 9 refused | refusal, name of another stream or none |
//! | 10 info | info |
//! | 11 list | more (1), count (2), infos |
//! | 12 message | message |
//! | 13 page | flags (1; 1 reset, 2 gap, 4 end), gap from and to, end: more (1) and token; count (4), messages |
//!
//! An info: lineage, partition (2), stream number (4), messages, bytes, first, last, time of the first, of the last,
//! configuration. A message: sequence, ms, topic, headers (4 + n), body (4 + n). A token: lineage, stream number (4),
//! sequence.

use super::codec::{DecodeError, Reader, put_bytes16, put_bytes32, put_u32, put_u64};
use super::config::{Durability, StreamConfig};
use super::reply::{Appended, Creation, Rest};
use super::request::{read_token, write_token};
use super::{Lineage, PartitionId, Refusal, ResumeToken, Sequence, StreamNumber, VERSION};
use crate::limits::BATCH_APPENDS_MAX;

const IS_RESET: u8 = 1;
const HAS_GAP: u8 = 2;
const HAS_END: u8 = 4;

/// What became of a request, or a part of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Of messages of an append, or of a publish that asked for it.
    Stored(Stored<'a>),
    /// Of a batch: all is stored, as durably as this. In the order of its appends.
    BatchStored(Durability, Vec<BatchPart<'a>>),
    /// Nothing of the batch is stored, because of this message, counted over all from 0.
    BatchRefused(u32, Refusal),
    /// The stream is there, durable as `fsync`, and all shards of the node know its filters.
    Created(Creation),
    /// The stream has its new configuration, durable as `fsync`, and all shards know its filters.
    Updated,
    /// The stream is gone with so many messages, durable as `fsync`.
    Deleted(u64),
    /// So many messages are gone, durable as `fsync`.
    Purged(u64),
    /// The message is gone, durable as `fsync`.
    MessageDeleted,
    /// Nothing was changed; the name is that of the stream which stands in the way, or empty.
    Refused(Refusal, &'a [u8]),
    /// What a stream is.
    Info(StreamInfo),
    /// Streams by name, and whether there are more.
    List(Vec<StreamInfo>, Rest),
    /// A single message.
    Message(StoredMessage<'a>),
    /// A part of a read.
    Page(ReadPage<'a>),
}

/// What became of messages that stood next to each other in a request and went to one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    /// The stream's name; empty if none keeps them.
    pub stream: &'a [u8],
    /// Which message of the request is the first of these, from 0.
    pub position: u32,
    /// How durable those are that are stored.
    pub durability: Durability,
    /// One for each message, in order.
    pub outcomes: Appended,
}

/// What became of one append of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchPart<'a> {
    /// The stream's name.
    pub stream: &'a [u8],
    /// One for each message, in order.
    pub outcomes: Appended,
}

/// What a stream is, and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// That of the data directory.
    pub lineage: Lineage,
    /// Where it lives.
    pub partition: PartitionId,
    /// Which creation there.
    pub number: StreamNumber,
    /// Messages that it holds; those whose TTL is over count until they are removed.
    pub messages: u64,
    /// Their topics, headers and bodies, and 32 bytes each.
    pub bytes: u64,
    /// The first message; behind the last if there is none.
    pub first: Sequence,
    /// The last that was given to a message, or passed over; 0 before.
    pub last: Sequence,
    /// The first message's time in ms; 0 if there is none.
    pub first_ms: u64,
    /// The last's, if one was ever stored.
    pub last_ms: u64,
    /// What it is told to keep.
    pub config: StreamConfig,
}

/// A message as readers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredMessage<'a> {
    /// Its number.
    pub sequence: Sequence,
    /// When it was stored, ms since 1970.
    pub ms: u64,
    /// Its topic.
    pub topic: &'a [u8],
    /// As they came.
    pub headers: &'a [u8],
    /// What it carries.
    pub body: &'a [u8],
}

/// A part of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPage<'a> {
    /// What stands before the messages, and behind them.
    pub head: ReadHead,
    /// In order.
    pub messages: StoredMessages<'a>,
}

/// What a part of a read says beside its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadHead {
    /// The token means nothing here: the read begins anew, and the reader forgets what it had.
    pub is_reset: bool,
    /// Messages from the first to before the second may have been missed; those of this part stand behind them.
    pub gap: Option<(Sequence, Sequence)>,
    /// Where the read ended; none if another part follows.
    pub end: Option<ReadEnd>,
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadEnd {
    /// More if a limit ended it; done if there was nothing behind it any more.
    pub rest: Rest,
    /// Where to go on.
    pub token: ResumeToken,
}

/// Messages as they stand in a page; an iterator over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredMessages<'a> {
    count: u32,
    rest: &'a [u8],
}

impl StoredMessages<'_> {
    /// How many are left.
    pub fn remaining(&self) -> u32 {
        self.count
    }
}

impl<'a> Iterator for StoredMessages<'a> {
    type Item = StoredMessage<'a>;

    fn next(&mut self) -> Option<StoredMessage<'a>> {
        self.count = self.count.checked_sub(1)?;
        let mut reader = Reader::new(self.rest);
        // invariant: `Answer::read` went over the same bytes.
        let message = StoredMessage::read(&mut reader).expect("checked before");
        self.rest = reader.rest();
        Some(message)
    }
}

impl<'a> StoredMessage<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<StoredMessage<'a>, DecodeError> {
        Ok(StoredMessage {
            sequence: Sequence(reader.u64("sequence")?),
            ms: reader.u64("time")?,
            topic: reader.bytes16("topic")?,
            headers: reader.bytes32("headers")?,
            body: reader.bytes32("body")?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_u64(out, self.sequence.0);
        put_u64(out, self.ms);
        put_bytes16(out, self.topic);
        put_bytes32(out, self.headers);
        put_bytes32(out, self.body);
    }
}

impl StreamInfo {
    fn read(reader: &mut Reader) -> Result<StreamInfo, DecodeError> {
        Ok(StreamInfo {
            lineage: Lineage(reader.u64("lineage")?),
            partition: PartitionId(reader.u16("partition")?),
            number: StreamNumber(reader.u32("stream")?),
            messages: reader.u64("messages")?,
            bytes: reader.u64("bytes")?,
            first: Sequence(reader.u64("first")?),
            last: Sequence(reader.u64("last")?),
            first_ms: reader.u64("time")?,
            last_ms: reader.u64("time")?,
            config: StreamConfig::read(reader)?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_u64(out, self.lineage.0);
        out.extend_from_slice(&self.partition.0.to_be_bytes());
        put_u32(out, self.number.0);
        for number in [
            self.messages,
            self.bytes,
            self.first.0,
            self.last.0,
            self.first_ms,
            self.last_ms,
        ] {
            put_u64(out, number);
        }
        self.config.write(out);
    }
}

/// Writes a part of a read: messages first, what stands beside them when it ends.
#[derive(Debug)]
pub struct ReadPageWriter {
    messages: Vec<u8>,
    count: u32,
}

impl ReadPageWriter {
    /// Begins one in a buffer of any content.
    pub fn new(mut buffer: Vec<u8>) -> ReadPageWriter {
        buffer.clear();
        ReadPageWriter {
            messages: buffer,
            count: 0,
        }
    }

    /// Adds a message.
    pub fn push(&mut self, message: &StoredMessage) {
        message.write(&mut self.messages);
        self.count += 1;
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Appends the answer, and gives the buffer back.
    pub fn finish(self, head: &ReadHead, out: &mut Vec<u8>) -> Vec<u8> {
        write_page_head(head, self.count, out);
        out.extend_from_slice(&self.messages);
        self.messages
    }
}

fn write_page_head(head: &ReadHead, count: u32, out: &mut Vec<u8>) {
    let bit = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let flags = bit(head.is_reset, IS_RESET)
        | bit(head.gap.is_some(), HAS_GAP)
        | bit(head.end.is_some(), HAS_END);
    out.extend_from_slice(&[VERSION, 13, flags]);
    if let Some((from, to)) = head.gap {
        put_u64(out, from.0);
        put_u64(out, to.0);
    }
    if let Some(end) = &head.end {
        out.push(end.rest as u8);
        write_token(&end.token, out);
    }
    put_u32(out, count);
}

fn read_rest(reader: &mut Reader) -> Result<Rest, DecodeError> {
    match reader.u8("rest")? {
        0 => Ok(Rest::Done),
        1 => Ok(Rest::More),
        _ => Err(DecodeError::Value("rest")),
    }
}

fn read_durability(reader: &mut Reader) -> Result<Durability, DecodeError> {
    match reader.u8("durability")? {
        0 => Ok(Durability::Fsync),
        1 => Ok(Durability::Os),
        _ => Err(DecodeError::Value("durability")),
    }
}

impl<'a> ReadPage<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<ReadPage<'a>, DecodeError> {
        let flags = reader.u8("flags")?;
        if flags & !(IS_RESET | HAS_GAP | HAS_END) != 0 {
            return Err(DecodeError::Value("flags"));
        }
        let mut head = ReadHead {
            is_reset: flags & IS_RESET != 0,
            ..ReadHead::default()
        };
        if flags & HAS_GAP != 0 {
            head.gap = Some((Sequence(reader.u64("gap")?), Sequence(reader.u64("gap")?)));
        }
        if flags & HAS_END != 0 {
            head.end = Some(ReadEnd {
                rest: read_rest(reader)?,
                token: read_token(reader)?,
            });
        }
        let count = reader.u32("count")?;
        let rest = reader.rest();
        // Ends early where the bytes do: each message takes 26 at least.
        for _ in 0..count {
            StoredMessage::read(reader)?;
        }
        let messages = StoredMessages { count, rest };
        Ok(ReadPage { head, messages })
    }
}

impl<'a> Answer<'a> {
    /// Reads one.
    ///
    /// Cost: a walk over the fields; bodies are not touched.
    pub fn read(bytes: &'a [u8]) -> Result<Answer<'a>, DecodeError> {
        let mut reader = Reader::new(bytes);
        let answer = Answer::read_next(&mut reader)?;
        reader.end()?;
        Ok(answer)
    }

    /// Takes one from the front: what became of a call's messages may be said by several, one behind the other.
    pub fn read_next(reader: &mut Reader<'a>) -> Result<Answer<'a>, DecodeError> {
        match reader.u8("version")? {
            VERSION => {}
            version => return Err(DecodeError::Version(version)),
        }
        let kind = reader.u8("kind")?;
        Answer::read_kind(kind, reader)
    }

    fn read_kind(kind: u8, reader: &mut Reader<'a>) -> Result<Answer<'a>, DecodeError> {
        Ok(match kind {
            1 => Answer::Stored(Stored {
                stream: reader.bytes16("stream")?,
                position: reader.u32("position")?,
                durability: read_durability(reader)?,
                outcomes: Appended::read(reader)?,
            }),
            2 => {
                let durability = read_durability(reader)?;
                let count = reader.u16("count")?;
                if usize::from(count) > BATCH_APPENDS_MAX {
                    return Err(DecodeError::Value("count"));
                }
                let mut parts = Vec::new();
                for _ in 0..count {
                    parts.push(BatchPart {
                        stream: reader.bytes16("stream")?,
                        outcomes: Appended::read(reader)?,
                    });
                }
                Answer::BatchStored(durability, parts)
            }
            3 => Answer::BatchRefused(reader.u32("position")?, Refusal::read(reader)?),
            4 => Answer::Created(match reader.u8("existing")? {
                0 => Creation::New,
                1 => Creation::Existing,
                _ => return Err(DecodeError::Value("existing")),
            }),
            5 => Answer::Updated,
            6 => Answer::Deleted(reader.u64("messages")?),
            7 => Answer::Purged(reader.u64("messages")?),
            8 => Answer::MessageDeleted,
            9 => Answer::Refused(Refusal::read(reader)?, reader.bytes16("stream")?),
            10 => Answer::Info(StreamInfo::read(reader)?),
            11 => {
                let rest = read_rest(reader)?;
                let mut infos = Vec::new();
                // Ends early where the bytes do: each takes more than 60.
                for _ in 0..reader.u16("count")? {
                    infos.push(StreamInfo::read(reader)?);
                }
                Answer::List(infos, rest)
            }
            12 => Answer::Message(StoredMessage::read(reader)?),
            13 => Answer::Page(ReadPage::read(reader)?),
            kind => return Err(DecodeError::Kind(kind)),
        })
    }

    /// Appends the encoded form. Pages are written in place by [`ReadPageWriter`]; here what stands in one is copied.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut begin = |kind: u8| out.extend_from_slice(&[VERSION, kind]);
        match self {
            Answer::Stored(stored) => {
                begin(1);
                put_bytes16(out, stored.stream);
                put_u32(out, stored.position);
                out.push(stored.durability as u8);
                stored.outcomes.write(out);
            }
            Answer::BatchStored(durability, parts) => {
                begin(2);
                out.push(*durability as u8);
                assert!(parts.len() <= BATCH_APPENDS_MAX);
                out.extend_from_slice(&(parts.len() as u16).to_be_bytes());
                for part in parts {
                    put_bytes16(out, part.stream);
                    part.outcomes.write(out);
                }
            }
            Answer::BatchRefused(position, refusal) => {
                begin(3);
                put_u32(out, *position);
                refusal.write(out);
            }
            Answer::Created(creation) => {
                begin(4);
                out.push(*creation as u8);
            }
            Answer::Updated => begin(5),
            Answer::Deleted(messages) => {
                begin(6);
                put_u64(out, *messages);
            }
            Answer::Purged(messages) => {
                begin(7);
                put_u64(out, *messages);
            }
            Answer::MessageDeleted => begin(8),
            Answer::Refused(refusal, stream) => {
                begin(9);
                refusal.write(out);
                put_bytes16(out, stream);
            }
            Answer::Info(info) => {
                begin(10);
                info.write(out);
            }
            Answer::List(infos, rest) => {
                begin(11);
                out.push(*rest as u8);
                out.extend_from_slice(&(infos.len() as u16).to_be_bytes());
                infos.iter().for_each(|info| info.write(out));
            }
            Answer::Message(message) => {
                begin(12);
                message.write(out);
            }
            Answer::Page(page) => {
                write_page_head(&page.head, page.messages.count, out);
                out.extend_from_slice(page.messages.rest);
            }
        }
    }
}
