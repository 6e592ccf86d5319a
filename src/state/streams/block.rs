//! Blocks: what is known of each 1,024 sequences of a stream.
//!
//! Owns the row's form: version (1 byte, 1), flags (1; 1: a bitmap stands at the end), first and end of what was stored
//! here, as offsets (2 each), live messages (2), their bytes (8), times of the first and the last that was stored (8
//! each), bitmap of deleted messages (128). Must not know the floor: live messages and bytes are of those at or above it,
//! because whoever raises it takes the others out, but what lies below is not marked. Start at [`Block::store`].

use crate::limits::BLOCK_SEQUENCES;
use sapwood_wire::state::{DecodeError, Reader, put_u64};

const VERSION: u8 = 1;
const HAS_BITMAP: u8 = 1;
const WORDS: usize = BLOCK_SEQUENCES as usize / 64;

/// What is known of 1,024 sequences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// Offset of the first message that was stored.
    pub first: u16,
    /// Offset behind the last.
    pub end: u16,
    /// Messages that are neither deleted nor below the floor.
    pub live: u16,
    /// What they count.
    pub bytes: u64,
    /// The time of the first that was stored.
    pub first_ms: u64,
    /// The time of the last.
    pub last_ms: u64,
    deleted: Option<Box<[u64; WORDS]>>,
}

impl Block {
    /// Adds a message behind the last.
    pub fn store(&mut self, offset: u16, size: u64, ms: u64) {
        if self.end == 0 {
            self.first = offset;
            self.end = offset;
            self.first_ms = ms;
        }
        assert!(self.end == offset && u64::from(offset) < BLOCK_SEQUENCES);
        self.end += 1;
        self.live += 1;
        self.bytes += size;
        self.last_ms = ms;
    }

    /// Takes a live message out, because it is deleted.
    pub fn delete(&mut self, offset: u16, size: u64) {
        assert!(self.is_stored_and_not_deleted(offset));
        let bitmap = self.deleted.get_or_insert_default();
        bitmap[usize::from(offset) / 64] |= 1 << (offset % 64);
        self.take_out(1, size);
    }

    /// Takes live messages out, because the floor is above them.
    pub fn take_out(&mut self, messages: u16, bytes: u64) {
        // invariant: both counted when they were stored.
        self.live = self.live.checked_sub(messages).expect("they were live");
        self.bytes = self.bytes.checked_sub(bytes).expect("they were live"); // invariant: as above.
    }

    /// Whether a message is live, if it is not below the floor.
    pub fn is_stored_and_not_deleted(&self, offset: u16) -> bool {
        let is_deleted = self
            .deleted
            .as_ref()
            .is_some_and(|bitmap| bitmap[usize::from(offset) / 64] & (1 << (offset % 64)) != 0);
        (self.first..self.end).contains(&offset) && !is_deleted
    }

    /// The first message from an offset on that is not deleted.
    pub fn next_live(&self, from: u16) -> Option<u16> {
        (from.max(self.first)..self.end).find(|&offset| self.is_stored_and_not_deleted(offset))
    }

    /// The row.
    pub fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(32);
        row.extend_from_slice(&[VERSION, u8::from(self.deleted.is_some())]);
        for number in [self.first, self.end, self.live] {
            row.extend_from_slice(&number.to_be_bytes());
        }
        for number in [self.bytes, self.first_ms, self.last_ms] {
            put_u64(&mut row, number);
        }
        let words = self.deleted.iter().flat_map(|bitmap| bitmap.iter());
        words.for_each(|&word| put_u64(&mut row, word));
        row
    }

    /// From its row.
    pub fn decode(row: &[u8]) -> Result<Block, DecodeError> {
        let mut reader = Reader::new(row);
        match reader.u8("version")? {
            VERSION => {}
            version => return Err(DecodeError::Version(version)),
        }
        let flags = reader.u8("flags")?;
        let mut block = Block {
            first: reader.u16("first")?,
            end: reader.u16("end")?,
            live: reader.u16("live messages")?,
            bytes: reader.u64("bytes")?,
            first_ms: reader.u64("time")?,
            last_ms: reader.u64("time")?,
            deleted: None,
        };
        if u64::from(block.end) > BLOCK_SEQUENCES {
            return Err(DecodeError::Value("end"));
        }
        if flags & HAS_BITMAP != 0 {
            let bitmap = block.deleted.get_or_insert_default();
            for word in bitmap.iter_mut() {
                *word = reader.u64("bitmap")?;
            }
        }
        reader.end()?;
        Ok(block)
    }
}

/// The block of a sequence.
pub(crate) fn block_of(sequence: u64) -> u64 {
    sequence / BLOCK_SEQUENCES
}

/// Where a sequence stands in its block.
pub(crate) fn offset_of(sequence: u64) -> u16 {
    (sequence % BLOCK_SEQUENCES) as u16
}
