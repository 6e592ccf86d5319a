//! Where a stream's rows stand.
//!
//! Owns all keys. Numbers are big endian, so that rows of a stream stand together and in the order of their numbers.
//! Every key begins with partition (2 bytes) and, but for a partition's own row, stream (4):
//!
//! | family | key behind them | value |
//! |---|---|---|
//! | meta | kind 0 in place of the stream | applied index (8), next stream number (4) |
//! | meta | kind 1 before the stream | configuration, as in commands, behind a version (1) |
//! | meta | kind 2 before the stream | state: `state.rs` |
//! | msgs | last sequence of the run (8) | run: `run.rs` |
//! | blobs | sequence (8) | a body longer than 4 KiB |
//! | last | topic | its last sequence (8) |
//! | block | sequence / 1,024 (8) | `block.rs` |
//! | dedup | start of the bucket in ms (8), id | sequence (8), time in ms (8) |
//! | ttl | when it expires in ms (8), sequence (8) | nothing |
//!
//! Rows are not deleted when messages go: those below a floor or a cursor of the state are dead, and `floors.rs` says
//! which. Long bodies of messages that are deleted one by one are the exception.

use sapwood_wire::state::{PartitionId, StreamNumber};

/// Bytes before what a family's key has of its own.
pub(crate) const PREFIX_BYTES: usize = 6;

/// What a partition's own row has in place of a stream.
pub(crate) const KIND_PARTITION: u8 = 0;
/// Of a stream's configuration.
pub(crate) const KIND_CONFIG: u8 = 1;
/// Of a stream's state.
pub(crate) const KIND_STATE: u8 = 2;

/// A stream in its partition: the front of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Where it lives.
    pub partition: PartitionId,
    /// Which it is there.
    pub stream: StreamNumber,
}

impl Place {
    /// The front of its keys.
    pub(crate) fn prefix(self) -> [u8; PREFIX_BYTES] {
        let mut key = [0; PREFIX_BYTES];
        key[..2].copy_from_slice(&self.partition.0.to_be_bytes());
        key[2..].copy_from_slice(&self.stream.0.to_be_bytes());
        key
    }

    /// All its keys, but those of meta rows: from the first to before the second.
    pub fn range(self) -> ([u8; PREFIX_BYTES], [u8; PREFIX_BYTES]) {
        let mut behind = self;
        // invariant: numbers of streams end below the highest.
        behind.stream.0 += 1;
        (self.prefix(), behind.prefix())
    }

    /// The key of one number.
    pub(crate) fn number(self, number: u64) -> [u8; PREFIX_BYTES + 8] {
        let mut key = [0; PREFIX_BYTES + 8];
        key[..PREFIX_BYTES].copy_from_slice(&self.prefix());
        key[PREFIX_BYTES..].copy_from_slice(&number.to_be_bytes());
        key
    }

    /// The key of two numbers.
    pub(crate) fn pair(self, first: u64, second: u64) -> [u8; PREFIX_BYTES + 16] {
        let mut key = [0; PREFIX_BYTES + 16];
        key[..PREFIX_BYTES + 8].copy_from_slice(&self.number(first));
        key[PREFIX_BYTES + 8..].copy_from_slice(&second.to_be_bytes());
        key
    }

    /// Puts the key of a topic in `last` in place of what stands there.
    pub(crate) fn topic(self, topic: &[u8], key: &mut Vec<u8>) {
        key.clear();
        key.extend_from_slice(&self.prefix());
        key.extend_from_slice(topic);
    }

    /// The key of an id in its bucket.
    pub(crate) fn id(self, bucket: u64, id: &[u8]) -> Vec<u8> {
        [&self.number(bucket)[..], id].concat()
    }

    /// The key of a meta row.
    pub(crate) fn meta(self, kind: u8) -> [u8; 7] {
        let mut key = [0; 7];
        key[..2].copy_from_slice(&self.partition.0.to_be_bytes());
        key[2] = kind;
        key[3..].copy_from_slice(&self.stream.0.to_be_bytes());
        key
    }
}

/// The key of a partition's own row.
pub(crate) fn partition_row(partition: PartitionId) -> [u8; 3] {
    let [high, low] = partition.0.to_be_bytes();
    [high, low, KIND_PARTITION]
}

/// The number that stands at a place of a key.
pub(crate) fn number_at(key: &[u8], at: usize) -> Option<u64> {
    let bytes = key.get(at..at + 8)?.first_chunk()?;
    Some(u64::from_be_bytes(*bytes))
}
