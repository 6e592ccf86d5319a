//! Runs: messages that one entry stored next to each other, in one row.
//!
//! Owns their form. A run never holds messages of two entries, so that the rows are the same however many entries a
//! batch had. All messages of a run have one time. Must not know which of them are still alive. Start at [`RunWriter`]
//! and [`Run`].
//!
//! A run: version (1 byte, 1), reserved (1), count (2), first sequence (8), time in ms (8). Then for each message: flags
//! (1), and in this order what they say: topic (length 2, bytes; flag 1: that of the message before), headers (length 4,
//! bytes; flag 2), when it expires in ms (8; flag 4); then the body's length (4) and, without flag 8, its bytes; with it
//! they stand in `blobs`.

use crate::limits::{MESSAGE_OVERHEAD_BYTES, RUN_BODY_BYTES_MAX, RUN_BYTES_MAX};
use sapwood_wire::state::{
    DecodeError, Message, Reader, put_bytes16, put_bytes32, put_u32, put_u64,
};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 20;

const SAME_TOPIC: u8 = 1;
const HAS_HEADERS: u8 = 2;
const HAS_EXPIRY: u8 = 4;
const IN_BLOBS: u8 = 8;

/// What a message counts against a cap on bytes.
pub(crate) fn size_of(topic: &[u8], headers: &[u8], body_bytes: usize) -> u64 {
    (topic.len() + headers.len() + body_bytes) as u64 + MESSAGE_OVERHEAD_BYTES
}

/// Gathers a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunWriter {
    bytes: Vec<u8>,
    count: u16,
    first: u64,
    topic: (usize, usize),
}

impl RunWriter {
    /// Whether a message must wait for the next run.
    pub fn is_full_for(&self, message: &Message) -> bool {
        let body = match message.body.len() {
            bytes if bytes > RUN_BODY_BYTES_MAX => 0,
            bytes => bytes,
        };
        let bytes = 19 + message.topic.len() + message.headers.len() + body;
        self.count > 0 && self.bytes.len() + bytes > RUN_BYTES_MAX
    }

    /// Adds a message. True if its body is to stand in `blobs`.
    pub fn push(&mut self, message: &Message, sequence: u64, ms: u64, expires_ms: u64) -> bool {
        if self.count == 0 {
            self.first = sequence;
            self.bytes.extend_from_slice(&[VERSION, 0, 0, 0]);
            put_u64(&mut self.bytes, sequence);
            put_u64(&mut self.bytes, ms);
        }
        assert_eq!(self.first + u64::from(self.count), sequence);
        let (start, end) = self.topic;
        let is_same = self.count > 0 && &self.bytes[start..end] == message.topic;
        let is_long = message.body.len() > RUN_BODY_BYTES_MAX;
        let bit = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let bytes = &mut self.bytes;
        bytes.push(
            bit(is_same, SAME_TOPIC)
                | bit(!message.headers.is_empty(), HAS_HEADERS)
                | bit(expires_ms != 0, HAS_EXPIRY)
                | bit(is_long, IN_BLOBS),
        );
        if !is_same {
            put_bytes16(bytes, message.topic);
            self.topic = (bytes.len() - message.topic.len(), bytes.len());
        }
        if !message.headers.is_empty() {
            put_bytes32(bytes, message.headers);
        }
        if expires_ms != 0 {
            put_u64(bytes, expires_ms);
        }
        match is_long {
            true => put_u32(bytes, message.body.len() as u32),
            false => put_bytes32(bytes, message.body),
        }
        self.count += 1;
        is_long
    }

    /// Takes the run, with its last sequence; none if it is empty.
    pub fn take(&mut self) -> Option<(u64, Vec<u8>)> {
        if self.count == 0 {
            return None;
        }
        self.bytes[2..4].copy_from_slice(&self.count.to_be_bytes());
        let last = self.first + u64::from(self.count) - 1;
        // A copy of the right length: the buffer is used again, and most runs are shorter than the longest.
        let row = self.bytes.clone();
        self.bytes.clear();
        self.count = 0;
        Some((last, row))
    }
}

/// A message as it stands in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub sequence: u64,
    pub ms: u64,
    pub topic: &'a [u8],
    pub headers: &'a [u8],
    /// 0 for never.
    pub expires_ms: u64,
    pub body_bytes: usize,
    /// None if it stands in `blobs`.
    pub body: Option<&'a [u8]>,
}

impl Record<'_> {
    /// What it counts against a cap on bytes.
    pub fn size(&self) -> u64 {
        size_of(self.topic, self.headers, self.body_bytes)
    }
}

/// A run; an iterator over its messages, which ends behind the first error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    pub first: u64,
    /// Messages left.
    left: u16,
    next: u64,
    ms: u64,
    topic: &'a [u8],
    reader: Reader<'a>,
}

impl<'a> Run<'a> {
    /// Reads the head of a row.
    pub fn read(row: &'a [u8]) -> Result<Run<'a>, DecodeError> {
        let mut reader = Reader::new(row);
        match reader.u8("version")? {
            VERSION => {}
            version => return Err(DecodeError::Version(version)),
        }
        reader.u8("reserved")?;
        let left = reader.u16("count")?;
        let first = reader.u64("first sequence")?;
        let ms = reader.u64("time")?;
        debug_assert_eq!(row.len() - reader.rest().len(), HEAD_BYTES);
        Ok(Run {
            first,
            left,
            next: first,
            ms,
            topic: &[],
            reader,
        })
    }

    fn record(&mut self) -> Result<Record<'a>, DecodeError> {
        let reader = &mut self.reader;
        let flags = reader.u8("flags")?;
        if flags & SAME_TOPIC == 0 {
            self.topic = reader.bytes16("topic")?;
        }
        let headers = match flags & HAS_HEADERS {
            0 => &[],
            _ => reader.bytes32("headers")?,
        };
        let expires_ms = match flags & HAS_EXPIRY {
            0 => 0,
            _ => reader.u64("expiry")?,
        };
        let body_bytes = reader.u32("body")? as usize;
        let body = match flags & IN_BLOBS {
            0 => Some(reader.take(body_bytes, "body")?),
            _ => None,
        };
        self.next += 1;
        Ok(Record {
            sequence: self.next - 1,
            ms: self.ms,
            topic: self.topic,
            headers,
            expires_ms,
            body_bytes,
            body,
        })
    }
}

impl<'a> Iterator for Run<'a> {
    type Item = Result<Record<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let record = self.record();
        if record.is_err() {
            self.left = 0;
        }
        Some(record)
    }
}
