//! Commands: what a partition is told to do, as it stands in an entry of the log.
//!
//! Owns their encoded form. Must not know whether they can be carried out. Invariants: what [`Command::read`] returned
//! was looked at to its end, so that its messages can be walked without errors; messages are not copied. Start at
//! [`Command`], [`AppendWriter`] and [`Commands`].
//!
//! An entry is commands one behind the other, each behind its length (4 bytes): version (1), kind (1), body. Of the
//! kinds, `stream` being a number (4) and a text of n bytes having its length (2) before it:
//!
//! | kind | body |
//! |---|---|
//! | 1 create | configuration |
//! | 2 update | stream, configuration |
//! | 3 delete | stream |
//! | 4 append | stream, count (4), messages |
//! | 5 batch | count (2), for each its length (4) and what an append's body is |
//! | 6 purge | stream, flags (1; 1: a filter), filter, before (8), keep (8) |
//! | 7 delete message | stream, sequence (8) |
//! | 8 expire by age | stream, most (4) |
//! | 9 expire by TTL | stream, most (4) |
//! | 10 prune ids | stream |
//! | 11 raise | by (8) |
//! | 12 raise `os` streams | by (8) |
//!
//! A message: flags (1), then what they say stands there, in this order: topic (2 + n; 1: that of the message before),
//! id (1 + n; 2), expected last sequence of the stream (8; 4), of the topic (8; 8), TTL in milliseconds (8; 16), headers
//! (4 + n; 32); then the body (4 + n).

use super::codec::{DecodeError, Reader, put_bytes8, put_bytes16, put_bytes32, put_u32, put_u64};
use super::config::StreamConfig;
use super::{Sequence, StreamNumber, VERSION};
use crate::limits::{
    BATCH_APPENDS_MAX, MESSAGE_HEADERS_BYTES_MAX, MESSAGE_ID_BYTES_MAX, PAYLOAD_BYTES_MAX,
    RAISE_MAX, STATE_COMMAND_BYTES_MAX, TOPIC_BYTES_MAX,
};

const CREATE: u8 = 1;
const UPDATE: u8 = 2;
const DELETE: u8 = 3;
const APPEND: u8 = 4;
const BATCH: u8 = 5;
const PURGE: u8 = 6;
const DELETE_MESSAGE: u8 = 7;
const EXPIRE_AGE: u8 = 8;
const EXPIRE_TTL: u8 = 9;
const PRUNE_IDS: u8 = 10;
const RAISE: u8 = 11;
const RAISE_OS: u8 = 12;

const SAME_TOPIC: u8 = 1;
const HAS_ID: u8 = 2;
const HAS_EXPECTED: u8 = 4;
const HAS_EXPECTED_OF_TOPIC: u8 = 8;
const HAS_TTL: u8 = 16;
const HAS_HEADERS: u8 = 32;
const KNOWN_FLAGS: u8 = 63;

/// What a partition is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Makes a stream. One that exists with this configuration is answered as if it were made.
    Create(StreamConfig),
    /// Gives a stream another configuration of the same name.
    Update(StreamNumber, StreamConfig),
    /// Ends a stream and all it holds.
    Delete(StreamNumber),
    /// Stores messages, each by itself.
    Append(Append<'a>),
    /// Stores messages in one or several streams of the partition, all or none.
    Batch(Batch<'a>),
    /// Removes messages.
    Purge(Purge<'a>),
    /// Removes one message.
    DeleteMessage(StreamNumber, Sequence),
    /// Removes at most so many messages that are older than the stream keeps them.
    ExpireAge(StreamNumber, u32),
    /// Looks at no more than so many messages whose TTL is over, and removes them.
    ExpireTtl(StreamNumber, u32),
    /// Forgets ids that are older than the window.
    PruneIds(StreamNumber),
    /// Raises the next sequence of every stream of the partition by so much at least: a restore does, because clients
    /// that know no lineage would take new messages for those they had.
    Raise(u64),
    /// The same for the streams of durability `os` alone: a start does after one that a power cut may have ended, because
    /// readers may have seen messages that are lost.
    RaiseOs(u64),
}

/// Which messages of a stream to remove: those below `before` that the filter matches, but for the newest `keep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purge<'a> {
    /// Of which stream.
    pub stream: StreamNumber,
    /// A topic or wildcard; none matches all.
    pub filter: Option<&'a [u8]>,
    /// The first that stays in any case; `u64::MAX` removes up to the last.
    pub before: Sequence,
    /// How many of the newest stay: without a filter of all, with one of those below `before` that it matches.
    pub keep: u64,
}

/// Messages for one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Append<'a> {
    /// Where to.
    pub stream: StreamNumber,
    /// What.
    pub messages: Messages<'a>,
}

/// Appends that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    count: u16,
    rest: &'a [u8],
}

/// One message to store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its topic.
    pub topic: &'a [u8],
    /// Stored once within the stream's window; empty for none.
    pub id: &'a [u8],
    /// Stored only if this is the stream's last sequence.
    pub expected_last: Option<Sequence>,
    /// Stored only if this is the last sequence of the topic, 0 if there is none.
    pub expected_last_of_topic: Option<Sequence>,
    /// Milliseconds to live; 0 for ever.
    pub ttl_ms: u64,
    /// Pairs or a block, as they came.
    pub headers: &'a [u8],
    /// What it carries.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// What it takes in a command at most.
    pub fn encoded_bytes_max(&self) -> usize {
        // Flags, three numbers, and the lengths of topic, id, headers and body.
        let fields = 1 + 3 * 8 + 2 + 1 + 4 + 4;
        fields + self.topic.len() + self.id.len() + self.headers.len() + self.body.len()
    }
}

/// Messages as they stand in a command; an iterator over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Messages<'a> {
    count: u32,
    topic: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// How many are left.
    pub fn remaining(&self) -> u32 {
        self.count
    }

    /// Takes a count and so many messages, which reach to the end.
    pub(super) fn read_counted(mut reader: Reader<'a>) -> Result<Messages<'a>, DecodeError> {
        let count = reader.u32("count")?;
        Messages::read(count, reader.rest())
    }

    /// Checks them to their end.
    fn read(count: u32, records: &'a [u8]) -> Result<Messages<'a>, DecodeError> {
        let messages = Messages {
            count,
            topic: &[],
            rest: records,
        };
        let mut reader = Reader::new(records);
        let mut topic = None;
        // Ends early where the bytes do: each message takes five at least.
        for _ in 0..count {
            let message = read_message(&mut reader, topic)?;
            topic = Some(message.topic);
        }
        reader.end()?;
        Ok(messages)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        self.count = self.count.checked_sub(1)?;
        let mut reader = Reader::new(self.rest);
        // invariant: `read` went over the same bytes.
        let message = read_message(&mut reader, Some(self.topic)).expect("checked before");
        (self.rest, self.topic) = (reader.rest(), message.topic);
        Some(message)
    }
}

/// Takes a message from the front; `before` is the topic of the one before.
fn read_message<'a>(
    reader: &mut Reader<'a>,
    before: Option<&'a [u8]>,
) -> Result<Message<'a>, DecodeError> {
    let flags = reader.u8("flags")?;
    if flags & !KNOWN_FLAGS != 0 {
        return Err(DecodeError::Value("flags"));
    }
    let topic = match flags & SAME_TOPIC {
        0 => reader.bytes16("topic")?,
        _ => before.ok_or(DecodeError::Value("flags"))?,
    };
    let mut message = Message {
        topic,
        ..Message::default()
    };
    if flags & HAS_ID != 0 {
        message.id = reader.bytes8("id")?;
        if message.id.is_empty() {
            return Err(DecodeError::Value("id"));
        }
    }
    if flags & HAS_EXPECTED != 0 {
        message.expected_last = Some(Sequence(reader.u64("expected sequence")?));
    }
    if flags & HAS_EXPECTED_OF_TOPIC != 0 {
        message.expected_last_of_topic = Some(Sequence(reader.u64("expected sequence")?));
    }
    if flags & HAS_TTL != 0 {
        message.ttl_ms = reader.u64("TTL")?;
    }
    if flags & HAS_HEADERS != 0 {
        message.headers = reader.bytes32("headers")?;
    }
    message.body = reader.bytes32("body")?;
    let is_short = message.topic.len() <= TOPIC_BYTES_MAX
        && message.headers.len() <= MESSAGE_HEADERS_BYTES_MAX
        && message.body.len() <= PAYLOAD_BYTES_MAX;
    is_short
        .then_some(message)
        .ok_or(DecodeError::Value("length"))
}

impl<'a> Append<'a> {
    fn read(mut reader: Reader<'a>) -> Result<Append<'a>, DecodeError> {
        let stream = StreamNumber(reader.u32("stream")?);
        let messages = Messages::read_counted(reader)?;
        Ok(Append { stream, messages })
    }
}

impl<'a> Batch<'a> {
    /// How many appends are left.
    pub fn remaining(&self) -> u16 {
        self.count
    }

    fn read(mut reader: Reader<'a>) -> Result<Batch<'a>, DecodeError> {
        let count = reader.u16("count")?;
        if usize::from(count) > BATCH_APPENDS_MAX {
            return Err(DecodeError::Value("count"));
        }
        let rest = reader.rest();
        for _ in 0..count {
            Append::read(Reader::new(reader.bytes32("append")?))?;
        }
        reader.end()?;
        Ok(Batch { count, rest })
    }
}

impl<'a> Iterator for Batch<'a> {
    type Item = Append<'a>;

    fn next(&mut self) -> Option<Append<'a>> {
        self.count = self.count.checked_sub(1)?;
        let mut reader = Reader::new(self.rest);
        let append = reader.bytes32("append");
        self.rest = reader.rest();
        let append = append.and_then(|append| Append::read(Reader::new(append)));
        Some(append.expect("checked before")) // invariant: `read` went over the same bytes.
    }
}

impl<'a> Command<'a> {
    /// Reads one, from its version on.
    ///
    /// Cost: a walk over the fields; bodies are not touched.
    pub fn read(bytes: &'a [u8]) -> Result<Command<'a>, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8("version")? {
            VERSION => {}
            version => return Err(DecodeError::Version(version)),
        }
        let kind = reader.u8("kind")?;
        let command = match kind {
            APPEND => return Append::read(reader).map(Command::Append),
            BATCH => return Batch::read(reader).map(Command::Batch),
            RAISE | RAISE_OS => match reader.u64("raise")? {
                by @ ..=RAISE_MAX if kind == RAISE => Command::Raise(by),
                by @ ..=RAISE_MAX => Command::RaiseOs(by),
                _ => return Err(DecodeError::Value("raise")),
            },
            CREATE => Command::Create(StreamConfig::read(&mut reader)?),
            UPDATE | DELETE | PURGE | DELETE_MESSAGE | EXPIRE_AGE | EXPIRE_TTL | PRUNE_IDS => {
                let stream = StreamNumber(reader.u32("stream")?);
                match kind {
                    UPDATE => Command::Update(stream, StreamConfig::read(&mut reader)?),
                    DELETE => Command::Delete(stream),
                    PURGE => Command::Purge(Purge {
                        stream,
                        filter: match reader.u8("flags")? {
                            0 => None,
                            1 => Some(reader.bytes16("filter")?),
                            _ => return Err(DecodeError::Value("flags")),
                        },
                        before: Sequence(reader.u64("before")?),
                        keep: reader.u64("keep")?,
                    }),
                    DELETE_MESSAGE => {
                        Command::DeleteMessage(stream, Sequence(reader.u64("sequence")?))
                    }
                    EXPIRE_AGE => Command::ExpireAge(stream, reader.u32("most")?),
                    EXPIRE_TTL => Command::ExpireTtl(stream, reader.u32("most")?),
                    _ => Command::PruneIds(stream),
                }
            }
            kind => return Err(DecodeError::Kind(kind)),
        };
        reader.end()?;
        Ok(command)
    }

    /// Appends the encoded form, from the version on. Appends are written in place by [`AppendWriter`]; here what
    /// stands in one is written anew.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut begin = |kind: u8, stream: Option<StreamNumber>| {
            out.extend_from_slice(&[VERSION, kind]);
            if let Some(stream) = stream {
                put_u32(out, stream.0);
            }
        };
        match self {
            Command::Create(config) => {
                begin(CREATE, None);
                config.write(out);
            }
            Command::Update(stream, config) => {
                begin(UPDATE, Some(*stream));
                config.write(out);
            }
            Command::Delete(stream) => begin(DELETE, Some(*stream)),
            Command::Append(append) => {
                let mut writer = AppendWriter::new(out, append.stream);
                append.messages.for_each(|message| writer.push(&message));
            }
            Command::Batch(batch) => {
                let mut writer = BatchWriter::new(out);
                for append in *batch {
                    let messages = append.messages;
                    writer.push(append.stream, |part| {
                        messages.for_each(|message| part.push(&message));
                    });
                }
            }
            Command::Purge(purge) => {
                begin(PURGE, Some(purge.stream));
                out.push(u8::from(purge.filter.is_some()));
                if let Some(filter) = purge.filter {
                    put_bytes16(out, filter);
                }
                put_u64(out, purge.before.0);
                put_u64(out, purge.keep);
            }
            Command::DeleteMessage(stream, sequence) => {
                begin(DELETE_MESSAGE, Some(*stream));
                put_u64(out, sequence.0);
            }
            Command::ExpireAge(stream, most) => {
                begin(EXPIRE_AGE, Some(*stream));
                put_u32(out, *most);
            }
            Command::ExpireTtl(stream, most) => {
                begin(EXPIRE_TTL, Some(*stream));
                put_u32(out, *most);
            }
            Command::PruneIds(stream) => begin(PRUNE_IDS, Some(*stream)),
            Command::Raise(by) => {
                begin(RAISE, None);
                put_u64(out, *by);
            }
            Command::RaiseOs(by) => {
                begin(RAISE_OS, None);
                put_u64(out, *by);
            }
        }
    }
}

/// Writes messages one behind the other, with their count before them, into a buffer that the caller keeps.
#[derive(Debug)]
pub struct MessagesWriter {
    count_at: usize,
    /// Where the last topic stands.
    topic: Option<(usize, usize)>,
}

impl MessagesWriter {
    /// Appends the count.
    pub fn new(out: &mut Vec<u8>) -> MessagesWriter {
        let count_at = out.len();
        put_u32(out, 0);
        MessagesWriter {
            count_at,
            topic: None,
        }
    }

    /// Appends a message to the same buffer, behind the one before. Panics if a part is longer than its cap: the
    /// caller's bug.
    pub fn push(&mut self, out: &mut Vec<u8>, message: &Message) {
        assert!(
            message.topic.len() <= TOPIC_BYTES_MAX
                && message.id.len() <= MESSAGE_ID_BYTES_MAX
                && message.headers.len() <= MESSAGE_HEADERS_BYTES_MAX
                && message.body.len() <= PAYLOAD_BYTES_MAX
        );
        let last = self.topic.map(|(start, end)| &out[start..end]);
        let is_same = last == Some(message.topic);
        let bit = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        out.push(
            bit(is_same, SAME_TOPIC)
                | bit(!message.id.is_empty(), HAS_ID)
                | bit(message.expected_last.is_some(), HAS_EXPECTED)
                | bit(
                    message.expected_last_of_topic.is_some(),
                    HAS_EXPECTED_OF_TOPIC,
                )
                | bit(message.ttl_ms != 0, HAS_TTL)
                | bit(!message.headers.is_empty(), HAS_HEADERS),
        );
        if !is_same {
            put_bytes16(out, message.topic);
            let end = out.len();
            self.topic = Some((end - message.topic.len(), end));
        }
        if !message.id.is_empty() {
            put_bytes8(out, message.id);
        }
        let expected = [message.expected_last, message.expected_last_of_topic];
        for sequence in expected.into_iter().flatten() {
            put_u64(out, sequence.0);
        }
        if message.ttl_ms != 0 {
            put_u64(out, message.ttl_ms);
        }
        if !message.headers.is_empty() {
            put_bytes32(out, message.headers);
        }
        put_bytes32(out, message.body);
        let count = &mut out[self.count_at..self.count_at + 4];
        let before = u32::from_be_bytes([count[0], count[1], count[2], count[3]]);
        count.copy_from_slice(&(before + 1).to_be_bytes());
    }
}

/// Writes an append, message by message.
#[derive(Debug)]
pub struct AppendWriter<'o> {
    out: &'o mut Vec<u8>,
    messages: MessagesWriter,
}

impl<'o> AppendWriter<'o> {
    /// Appends the start of a command.
    pub fn new(out: &'o mut Vec<u8>, stream: StreamNumber) -> AppendWriter<'o> {
        out.extend_from_slice(&[VERSION, APPEND]);
        AppendWriter::body(out, stream)
    }

    fn body(out: &'o mut Vec<u8>, stream: StreamNumber) -> AppendWriter<'o> {
        put_u32(out, stream.0);
        let messages = MessagesWriter::new(out);
        AppendWriter { out, messages }
    }

    /// Appends a message. Panics if a part is longer than its cap: the caller's bug.
    pub fn push(&mut self, message: &Message) {
        self.messages.push(self.out, message);
    }
}

/// An append that grows over a time. It owns its buffer, which is an entry of one command once it is finished.
#[derive(Debug)]
pub struct AppendBuffer {
    bytes: Vec<u8>,
    messages: MessagesWriter,
}

impl AppendBuffer {
    /// Begins one in a buffer of any content.
    pub fn new(mut bytes: Vec<u8>, stream: StreamNumber) -> AppendBuffer {
        bytes.clear();
        put_u32(&mut bytes, 0);
        bytes.extend_from_slice(&[VERSION, APPEND]);
        put_u32(&mut bytes, stream.0);
        let messages = MessagesWriter::new(&mut bytes);
        AppendBuffer { bytes, messages }
    }

    /// Adds a message. Panics if a part is longer than its cap: the caller's bug.
    pub fn push(&mut self, message: &Message) {
        self.messages.push(&mut self.bytes, message);
    }

    /// How long it is by now, the command's length in front included.
    pub fn entry_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The entry. Panics if the command is longer than one may be: the caller's bug.
    pub fn finish(mut self) -> Vec<u8> {
        end_length(&mut self.bytes, 0);
        self.bytes
    }
}

/// Writes an atomic batch, append by append.
#[derive(Debug)]
pub struct BatchWriter<'o> {
    out: &'o mut Vec<u8>,
    count_at: usize,
    count: u16,
}

impl<'o> BatchWriter<'o> {
    /// Appends the start of a command.
    pub fn new(out: &'o mut Vec<u8>) -> BatchWriter<'o> {
        out.extend_from_slice(&[VERSION, BATCH, 0, 0]);
        let count_at = out.len() - 2;
        BatchWriter {
            out,
            count_at,
            count: 0,
        }
    }

    /// Appends messages for a stream. Panics beyond the most appends of a batch: the caller's bug.
    pub fn push(&mut self, stream: StreamNumber, fill: impl FnOnce(&mut AppendWriter)) {
        assert!(usize::from(self.count) < BATCH_APPENDS_MAX);
        self.count += 1;
        self.out[self.count_at..self.count_at + 2].copy_from_slice(&self.count.to_be_bytes());
        let length_at = self.out.len();
        put_u32(self.out, 0);
        fill(&mut AppendWriter::body(self.out, stream));
        end_length(self.out, length_at);
    }
}

fn end_length(out: &mut [u8], length_at: usize) {
    let length = out.len() - length_at - 4;
    assert!(
        length <= STATE_COMMAND_BYTES_MAX,
        "a command of {length} bytes"
    );
    out[length_at..length_at + 4].copy_from_slice(&(length as u32).to_be_bytes());
}

/// Appends a command to an entry; `write` appends its encoded form. Panics if that is longer than a command may be.
pub fn push_command(entry: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let length_at = entry.len();
    put_u32(entry, 0);
    write(entry);
    end_length(entry, length_at);
}

/// The commands of an entry, in order. Nothing follows an error.
#[derive(Clone, Debug)]
pub struct Commands<'a> {
    reader: Reader<'a>,
}

impl<'a> Commands<'a> {
    /// Those that [`push_command`] appended.
    pub fn new(entry: &'a [u8]) -> Commands<'a> {
        Commands {
            reader: Reader::new(entry),
        }
    }
}

impl<'a> Iterator for Commands<'a> {
    type Item = Result<Command<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.rest().is_empty() {
            return None;
        }
        let command = self.reader.bytes32("command").and_then(Command::read);
        if command.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(command)
    }
}
