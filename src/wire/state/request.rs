//! Requests: what sessions ask the worker of a stream for.
//!
//! Owns their encoded form. Streams are named, because a number means something only to the worker, which resolves it.
//! Must not know who asks. Invariant: what [`Request::read`] returned was looked at to its end. Start at [`Request`].
//!
//! Each is version (1), kind (1), order (1; 1: behind the caller's own writes) and a body. Names, topics and filters
//! have their length (2) before them, other numbers 8 bytes unless said:
//!
//! | kind | body |
//! |---|---|
//! | 1 create | configuration |
//! | 2 update | configuration |
//! | 3 delete | stream |
//! | 4 info | stream |
//! | 5 list | after, prefix, most (2) |
//! | 6 append | stream, empty for those that keep the topics; count (4), messages as in commands |
//! | 7 batch | count (2), for each its length (4) and what an append's body is |
//! | 8 purge | stream, has a filter (1), filter, before, keep |
//! | 9 delete message | stream, sequence |
//! | 10 get | stream, which (1; 1 sequence, 2 last of a topic, 3 first at a time), sequence, topic or ms |
//! | 11 read | stream, start (1) and its field, number of filters (1), filters, most messages (4), most bytes (4) |
//! | 12 wait | stream, token, ms |
//!
//! A read's start: 1 first, 2 last, 3 new, 4 sequence, 5 time in ms, 6 last of each topic, 7 resume token (lineage,
//! stream number (4), sequence).

use super::codec::{DecodeError, Reader, put_bytes16, put_u32, put_u64};
use super::command::{Messages, MessagesWriter};
use super::config::StreamConfig;
use super::{Lineage, ResumeToken, Sequence, StreamNumber, VERSION};
use crate::limits::{BATCH_APPENDS_MAX, STREAM_FILTERS_MAX};

/// When a request may be carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// At once, on what is applied.
    #[default]
    Now,
    /// Behind what the same caller wrote to the same partition before. It makes a difference for reads alone: writes
    /// keep their order in any case.
    BehindWrites,
}

/// What a session asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// When.
    pub order: Order,
    /// What.
    pub ask: Ask<'a>,
}

/// The kinds of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Makes a stream. One that exists with this configuration is answered as if it were made.
    Create(StreamConfig),
    /// Gives the stream of this name another configuration.
    Update(StreamConfig),
    /// Ends a stream and all it holds.
    Delete(&'a [u8]),
    /// What a stream is, and holds.
    Info(&'a [u8]),
    /// The worker's streams, by name.
    List(List<'a>),
    /// Stores messages, each by itself.
    Append(AppendTo<'a>),
    /// Stores messages in streams of one partition, all or none.
    Batch(BatchTo<'a>),
    /// Removes messages.
    Purge(PurgeOf<'a>),
    /// Removes one message.
    DeleteMessage(&'a [u8], Sequence),
    /// One message.
    Get(&'a [u8], Which<'a>),
    /// Messages in order.
    Read(Read<'a>),
    /// For something to read. The answer is a page without messages, which ends at the token: more if there is something
    /// behind it, or it means nothing here (any more); done if the time is over.
    Wait(Wait<'a>),
}

/// Which streams to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List<'a> {
    /// Those whose names are greater; empty for the first page.
    pub after: &'a [u8],
    /// Those whose names begin so.
    pub prefix: &'a [u8],
    /// How many at most; the worker has a cap of its own.
    pub most: u16,
}

/// Messages to store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendTo<'a> {
    /// In this stream; none for the stream that keeps each one's topic.
    pub stream: Option<&'a [u8]>,
    /// What.
    pub messages: Messages<'a>,
}

/// Appends that belong together; an iterator over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchTo<'a> {
    count: u16,
    rest: &'a [u8],
}

/// Which messages to remove; see [`Purge`](super::Purge).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurgeOf<'a> {
    /// Of which stream.
    pub stream: &'a [u8],
    /// A topic or wildcard; none matches all.
    pub filter: Option<&'a [u8]>,
    /// The first that stays in any case; `u64::MAX` removes up to the last.
    pub before: Sequence,
    /// How many of the newest stay.
    pub keep: u64,
}

/// Which message to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which<'a> {
    /// This one.
    Sequence(Sequence),
    /// The last of a topic.
    LastOf(&'a [u8]),
    /// The first that was stored at or after this time, ms since 1970.
    FirstAt(u64),
}

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadStart {
    /// At the first message that there is.
    First,
    /// At the last message that there is.
    Last,
    /// Behind the last: the answer is its end alone, with a token.
    New,
    /// At this sequence or the first behind it; gap is said if messages from there on are gone.
    Sequence(Sequence),
    /// At the first message that was stored at or after this time, ms since 1970.
    Time(u64),
    /// The last message of each topic, in the order of topics. The token at its end goes on behind what was the last
    /// message when the read began; what came later is not given, so nothing comes twice and nothing is missed.
    LastOfEach,
    /// Behind the message of a token; reset is said, and the read begins at the first, if that means nothing here.
    Resume(ResumeToken),
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait<'a> {
    /// In this stream.
    pub stream: &'a [u8],
    /// A message behind this one.
    pub token: ResumeToken,
    /// So many milliseconds; the worker has a cap of its own.
    pub ms: u64,
}

/// Messages to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<'a> {
    /// Of which stream.
    pub stream: &'a [u8],
    /// From where on.
    pub start: ReadStart,
    /// Those whose topic one of these matches; without filters all. At most 64.
    pub filters: Vec<&'a [u8]>,
    /// How many at most.
    pub messages: u32,
    /// Bytes of topics, headers and bodies; one message always goes in.
    pub bytes: u32,
}

impl<'a> AppendTo<'a> {
    fn read(mut reader: Reader<'a>) -> Result<AppendTo<'a>, DecodeError> {
        let stream = reader.bytes16("stream")?;
        let messages = Messages::read_counted(reader)?;
        Ok(AppendTo {
            stream: (!stream.is_empty()).then_some(stream),
            messages,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_bytes16(out, self.stream.unwrap_or_default());
        let mut writer = MessagesWriter::new(out);
        self.messages.for_each(|message| writer.push(out, &message));
    }
}

impl<'a> BatchTo<'a> {
    /// How many appends are left.
    pub fn remaining(&self) -> u16 {
        self.count
    }

    fn read(mut reader: Reader<'a>) -> Result<BatchTo<'a>, DecodeError> {
        let count = reader.u16("count")?;
        if usize::from(count) > BATCH_APPENDS_MAX {
            return Err(DecodeError::Value("count"));
        }
        let rest = reader.rest();
        for _ in 0..count {
            AppendTo::read(Reader::new(reader.bytes32("append")?))?;
        }
        reader.end()?;
        Ok(BatchTo { count, rest })
    }
}

impl<'a> Iterator for BatchTo<'a> {
    type Item = AppendTo<'a>;

    fn next(&mut self) -> Option<AppendTo<'a>> {
        self.count = self.count.checked_sub(1)?;
        let mut reader = Reader::new(self.rest);
        let append = reader.bytes32("append");
        self.rest = reader.rest();
        let append = append.and_then(|append| AppendTo::read(Reader::new(append)));
        Some(append.expect("checked before")) // invariant: `read` went over the same bytes.
    }
}

fn begin(out: &mut Vec<u8>, kind: u8, order: Order) {
    out.extend_from_slice(&[VERSION, kind, order as u8]);
}

/// Appends a request to store messages, which `fill` gives one by one; none for the streams that keep their topics.
pub fn write_append(
    out: &mut Vec<u8>,
    stream: Option<&[u8]>,
    fill: impl FnOnce(&mut dyn FnMut(&super::Message)),
) {
    begin(out, 6, Order::Now);
    write_append_body(out, stream, fill);
}

fn write_append_body(
    out: &mut Vec<u8>,
    stream: Option<&[u8]>,
    fill: impl FnOnce(&mut dyn FnMut(&super::Message)),
) {
    put_bytes16(out, stream.unwrap_or_default());
    let mut writer = MessagesWriter::new(out);
    fill(&mut |message| writer.push(out, message));
}

/// Writes a request for an atomic batch, append by append.
#[derive(Debug)]
pub struct BatchToWriter<'o> {
    out: &'o mut Vec<u8>,
    count_at: usize,
    count: u16,
}

impl<'o> BatchToWriter<'o> {
    /// Appends the start.
    pub fn new(out: &'o mut Vec<u8>) -> BatchToWriter<'o> {
        begin(out, 7, Order::Now);
        let count_at = out.len();
        out.extend_from_slice(&[0, 0]);
        BatchToWriter {
            out,
            count_at,
            count: 0,
        }
    }

    /// Appends messages for a stream. Panics beyond the most appends of a batch: the caller's bug.
    pub fn push(
        &mut self,
        stream: Option<&[u8]>,
        fill: impl FnOnce(&mut dyn FnMut(&super::Message)),
    ) {
        assert!(usize::from(self.count) < BATCH_APPENDS_MAX);
        self.count += 1;
        self.out[self.count_at..self.count_at + 2].copy_from_slice(&self.count.to_be_bytes());
        let length_at = self.out.len();
        put_u32(self.out, 0);
        write_append_body(self.out, stream, fill);
        let length = (self.out.len() - length_at - 4) as u32;
        self.out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    }
}

impl<'a> Request<'a> {
    /// Reads one.
    ///
    /// Cost: a walk over the fields; bodies are not touched.
    pub fn read(bytes: &'a [u8]) -> Result<Request<'a>, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8("version")? {
            VERSION => {}
            version => return Err(DecodeError::Version(version)),
        }
        let kind = reader.u8("kind")?;
        let order = match reader.u8("order")? {
            0 => Order::Now,
            1 => Order::BehindWrites,
            _ => return Err(DecodeError::Value("order")),
        };
        let ask = match kind {
            6 => Ask::Append(AppendTo::read(reader)?),
            7 => Ask::Batch(BatchTo::read(reader)?),
            _ => {
                let ask = Ask::read(kind, &mut reader)?;
                reader.end()?;
                ask
            }
        };
        Ok(Request { order, ask })
    }

    /// Appends the encoded form. Appends are written in place by [`write_append`]; here what stands in one is written
    /// anew. Panics if there are more filters than may be: the caller's bug.
    pub fn write(&self, out: &mut Vec<u8>) {
        begin(out, self.ask.kind(), self.order);
        match &self.ask {
            Ask::Create(config) | Ask::Update(config) => config.write(out),
            Ask::Delete(stream) | Ask::Info(stream) => put_bytes16(out, stream),
            Ask::List(list) => {
                put_bytes16(out, list.after);
                put_bytes16(out, list.prefix);
                out.extend_from_slice(&list.most.to_be_bytes());
            }
            Ask::Append(append) => append.write(out),
            Ask::Batch(batch) => {
                out.extend_from_slice(&batch.count.to_be_bytes());
                out.extend_from_slice(batch.rest);
            }
            Ask::Purge(purge) => {
                put_bytes16(out, purge.stream);
                out.push(u8::from(purge.filter.is_some()));
                if let Some(filter) = purge.filter {
                    put_bytes16(out, filter);
                }
                put_u64(out, purge.before.0);
                put_u64(out, purge.keep);
            }
            Ask::DeleteMessage(stream, sequence) => {
                put_bytes16(out, stream);
                put_u64(out, sequence.0);
            }
            Ask::Get(stream, which) => {
                put_bytes16(out, stream);
                which.write(out);
            }
            Ask::Read(read) => read.write(out),
            Ask::Wait(wait) => {
                put_bytes16(out, wait.stream);
                write_token(&wait.token, out);
                put_u64(out, wait.ms);
            }
        }
    }

    /// The name by which its worker is found; none for a list, which all workers are asked for, and for messages that go
    /// to the streams that keep their topics.
    pub fn stream(&self) -> Option<&[u8]> {
        match &self.ask {
            Ask::Create(config) | Ask::Update(config) => Some(&config.name),
            Ask::Delete(stream) | Ask::Info(stream) => Some(stream),
            Ask::DeleteMessage(stream, _) | Ask::Get(stream, _) => Some(stream),
            Ask::List(_) => None,
            Ask::Append(append) => append.stream,
            Ask::Batch(batch) => batch.clone().find_map(|append| append.stream),
            Ask::Purge(purge) => Some(purge.stream),
            Ask::Read(read) => Some(read.stream),
            Ask::Wait(wait) => Some(wait.stream),
        }
    }
}

impl<'a> Ask<'a> {
    fn kind(&self) -> u8 {
        match self {
            Ask::Create(_) => 1,
            Ask::Update(_) => 2,
            Ask::Delete(_) => 3,
            Ask::Info(_) => 4,
            Ask::List(_) => 5,
            Ask::Append(_) => 6,
            Ask::Batch(_) => 7,
            Ask::Purge(_) => 8,
            Ask::DeleteMessage(..) => 9,
            Ask::Get(..) => 10,
            Ask::Read(_) => 11,
            Ask::Wait(_) => 12,
        }
    }

    fn read(kind: u8, reader: &mut Reader<'a>) -> Result<Ask<'a>, DecodeError> {
        Ok(match kind {
            1 => Ask::Create(StreamConfig::read(reader)?),
            2 => Ask::Update(StreamConfig::read(reader)?),
            3 => Ask::Delete(reader.bytes16("stream")?),
            4 => Ask::Info(reader.bytes16("stream")?),
            5 => Ask::List(List {
                after: reader.bytes16("after")?,
                prefix: reader.bytes16("prefix")?,
                most: reader.u16("most")?,
            }),
            8 => Ask::Purge(PurgeOf {
                stream: reader.bytes16("stream")?,
                filter: match reader.u8("flags")? {
                    0 => None,
                    1 => Some(reader.bytes16("filter")?),
                    _ => return Err(DecodeError::Value("flags")),
                },
                before: Sequence(reader.u64("before")?),
                keep: reader.u64("keep")?,
            }),
            9 => Ask::DeleteMessage(reader.bytes16("stream")?, Sequence(reader.u64("sequence")?)),
            10 => Ask::Get(reader.bytes16("stream")?, Which::read(reader)?),
            11 => Ask::Read(Read::take(reader)?),
            12 => Ask::Wait(Wait {
                stream: reader.bytes16("stream")?,
                token: read_token(reader)?,
                ms: reader.u64("time")?,
            }),
            kind => return Err(DecodeError::Kind(kind)),
        })
    }
}

impl<'a> Which<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Which<'a>, DecodeError> {
        Ok(match reader.u8("which")? {
            1 => Which::Sequence(Sequence(reader.u64("sequence")?)),
            2 => Which::LastOf(reader.bytes16("topic")?),
            3 => Which::FirstAt(reader.u64("time")?),
            _ => return Err(DecodeError::Value("which")),
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Which::Sequence(sequence) => {
                out.push(1);
                put_u64(out, sequence.0);
            }
            Which::LastOf(topic) => {
                out.push(2);
                put_bytes16(out, topic);
            }
            Which::FirstAt(ms) => {
                out.push(3);
                put_u64(out, *ms);
            }
        }
    }
}

impl<'a> Read<'a> {
    fn take(reader: &mut Reader<'a>) -> Result<Read<'a>, DecodeError> {
        let stream = reader.bytes16("stream")?;
        let start = match reader.u8("start")? {
            1 => ReadStart::First,
            2 => ReadStart::Last,
            3 => ReadStart::New,
            4 => ReadStart::Sequence(Sequence(reader.u64("sequence")?)),
            5 => ReadStart::Time(reader.u64("time")?),
            6 => ReadStart::LastOfEach,
            7 => ReadStart::Resume(read_token(reader)?),
            _ => return Err(DecodeError::Value("start")),
        };
        let mut filters = Vec::new();
        let count = reader.u8("number of filters")?;
        if usize::from(count) > STREAM_FILTERS_MAX {
            return Err(DecodeError::Value("number of filters"));
        }
        for _ in 0..count {
            filters.push(reader.bytes16("filter")?);
        }
        Ok(Read {
            stream,
            start,
            filters,
            messages: reader.u32("messages")?,
            bytes: reader.u32("bytes")?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        assert!(self.filters.len() <= STREAM_FILTERS_MAX);
        put_bytes16(out, self.stream);
        match self.start {
            ReadStart::First => out.push(1),
            ReadStart::Last => out.push(2),
            ReadStart::New => out.push(3),
            ReadStart::Sequence(sequence) => {
                out.push(4);
                put_u64(out, sequence.0);
            }
            ReadStart::Time(ms) => {
                out.push(5);
                put_u64(out, ms);
            }
            ReadStart::LastOfEach => out.push(6),
            ReadStart::Resume(token) => {
                out.push(7);
                write_token(&token, out);
            }
        }
        out.push(self.filters.len() as u8);
        self.filters.iter().for_each(|one| put_bytes16(out, one));
        put_u32(out, self.messages);
        put_u32(out, self.bytes);
    }
}

/// Takes a token's fields from the front.
pub(super) fn read_token(reader: &mut Reader) -> Result<ResumeToken, DecodeError> {
    Ok(ResumeToken {
        lineage: Lineage(reader.u64("lineage")?),
        stream: StreamNumber(reader.u32("stream")?),
        sequence: Sequence(reader.u64("sequence")?),
    })
}

/// Appends a token's fields.
pub(super) fn write_token(token: &ResumeToken, out: &mut Vec<u8>) {
    put_u64(out, token.lineage.0);
    put_u32(out, token.stream.0);
    put_u64(out, token.sequence.0);
}
