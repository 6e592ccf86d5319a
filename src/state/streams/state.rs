//! What changes about a stream with each batch.
//!
//! Owns the row's form: version (1 byte, 1), then the fields of [`State`] in their order, eight bytes each; of the
//! buckets the count (2) and for each start and last time, of the holes the count (2) and for each its ends. Must not know rows of messages.

use crate::limits::BLOCK_SEQUENCES;
use sapwood_wire::state::{DecodeError, Reader, put_u64};

const VERSION: u8 = 1;

/// Ids of one part of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// When it began; stands in its keys.
    pub start_ms: u64,
    /// When the last id came in.
    pub last_ms: u64,
}

/// A stream's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The first live message; `next` if there is none. All below is gone.
    pub floor: u64,
    /// What the next message will have.
    pub next: u64,
    /// Live messages.
    pub messages: u64,
    /// What they count.
    pub bytes: u64,
    /// The time of the first live message; 0 if there is none.
    pub first_ms: u64,
    /// The time of the last message that was ever stored; 0 before.
    pub last_ms: u64,
    /// Rows of `ttl` below this are done with: when, and which sequence.
    pub ttl_cursor: (u64, u64),
    /// When the next message may expire; 0 for never.
    pub ttl_next_ms: u64,
    /// Buckets of ids that began before are gone.
    pub dedup_cursor: u64,
    /// Buckets of ids, the oldest first.
    pub buckets: Vec<Bucket>,
    /// Sequences above the floor that a raise passed over: from the first to before the second. Between two of them
    /// stand messages, and each ends at the start of a block.
    pub holes: Vec<(u64, u64)>,
}

impl Default for State {
    fn default() -> State {
        State {
            floor: 1,
            next: 1,
            messages: 0,
            bytes: 0,
            first_ms: 0,
            last_ms: 0,
            ttl_cursor: (0, 0),
            ttl_next_ms: 0,
            dedup_cursor: 0,
            buckets: Vec::new(),
            holes: Vec::new(),
        }
    }
}

impl State {
    /// Where the hole ends in which a sequence is; the sequence itself if it is in none.
    pub fn skip_hole(&self, sequence: u64) -> u64 {
        let mut holes = self.holes.iter();
        let hole = holes.find(|(from, to)| (*from..*to).contains(&sequence));
        hole.map_or(sequence, |(_, to)| *to)
    }

    /// The last sequence that was given to a message, if there are messages.
    pub fn last_stored(&self) -> u64 {
        match self.holes.last() {
            Some((from, to)) if *to == self.next => from - 1,
            _ => self.next - 1,
        }
    }

    /// Raises the next sequence by so much at least, to the start of a block.
    pub fn raise(&mut self, by: u64) {
        let before = self.last_stored() + 1;
        self.next = (self.next + by).next_multiple_of(BLOCK_SEQUENCES);
        if self.messages == 0 {
            self.floor = self.next;
        } else if before < self.next {
            self.holes.retain(|(from, _)| *from != before);
            self.holes.push((before, self.next));
        }
    }

    /// The row.
    pub fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(96 + 16 * self.buckets.len());
        row.push(VERSION);
        for number in [
            self.floor,
            self.next,
            self.messages,
            self.bytes,
            self.first_ms,
            self.last_ms,
            self.ttl_cursor.0,
            self.ttl_cursor.1,
            self.ttl_next_ms,
            self.dedup_cursor,
        ] {
            put_u64(&mut row, number);
        }
        row.extend_from_slice(&(self.buckets.len() as u16).to_be_bytes());
        for bucket in &self.buckets {
            put_u64(&mut row, bucket.start_ms);
            put_u64(&mut row, bucket.last_ms);
        }
        row.extend_from_slice(&(self.holes.len() as u16).to_be_bytes());
        for (from, to) in &self.holes {
            put_u64(&mut row, *from);
            put_u64(&mut row, *to);
        }
        row
    }

    /// From its row.
    pub fn decode(row: &[u8]) -> Result<State, DecodeError> {
        let mut reader = Reader::new(row);
        match reader.u8("version")? {
            VERSION => {}
            version => return Err(DecodeError::Version(version)),
        }
        let mut state = State {
            floor: reader.u64("floor")?,
            next: reader.u64("next sequence")?,
            messages: reader.u64("messages")?,
            bytes: reader.u64("bytes")?,
            first_ms: reader.u64("first time")?,
            last_ms: reader.u64("last time")?,
            ttl_cursor: (reader.u64("TTL cursor")?, reader.u64("TTL cursor")?),
            ttl_next_ms: reader.u64("next TTL")?,
            dedup_cursor: reader.u64("cursor of ids")?,
            buckets: Vec::new(),
            holes: Vec::new(),
        };
        for _ in 0..reader.u16("buckets")? {
            state.buckets.push(Bucket {
                start_ms: reader.u64("bucket")?,
                last_ms: reader.u64("bucket")?,
            });
        }
        for _ in 0..reader.u16("holes")? {
            state.holes.push((reader.u64("hole")?, reader.u64("hole")?));
        }
        reader.end()?;
        Ok(state)
    }
}
