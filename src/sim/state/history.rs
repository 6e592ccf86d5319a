//! What was handed to the log, what of it must be there after a crash, and what was acknowledged.
//!
//! Must not know streams. Invariant: an entry's place in its partition is its index. Start at [`History::check`].

use crate::{Failure, fail};

/// An entry as it was proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub partition: usize,
    pub index: u64,
    pub wall_ms: u64,
    pub commands: Vec<u8>,
}

/// Up to where a partition's calls were acknowledged, by durability.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acknowledged {
    pub fsync: u64,
    pub os: u64,
}

#[derive(Debug)]
pub(super) struct History {
    /// By partition; index 1 first.
    pub partitions: Vec<Vec<Owned>>,
    /// In the log's order.
    chain: Vec<(usize, u64)>,
    /// So many of the chain are in the page cache, and so many on the disk.
    written: usize,
    synced: usize,
    acknowledged: Vec<Acknowledged>,
    /// The power was cut since the last start.
    pub lost_power: bool,
}

/// What a recovery leaves of a history.
#[derive(Debug)]
pub(super) struct Kept {
    chain: usize,
    /// Each partition's last index.
    pub last: Vec<u64>,
    /// The store has entries that the log lost.
    pub is_store_ahead: bool,
}

impl History {
    pub fn new(partitions: usize) -> History {
        History {
            partitions: vec![Vec::new(); partitions],
            chain: Vec::new(),
            written: 0,
            synced: 0,
            acknowledged: vec![Acknowledged::default(); partitions],
            lost_power: false,
        }
    }

    /// The log took an entry.
    pub fn append(&mut self, entry: Owned) {
        let of = &mut self.partitions[entry.partition];
        assert_eq!(of.len() as u64 + 1, entry.index, "an index was used before");
        self.chain.push((entry.partition, entry.index));
        of.push(entry);
    }

    /// All that was taken is written.
    pub fn handle_written(&mut self) {
        self.written = self.chain.len();
    }

    /// So much of the chain is synced; what is new in that.
    pub fn handle_synced(&mut self, chain: usize) -> Vec<(usize, u64)> {
        let synced = chain.max(self.synced);
        let before = std::mem::replace(&mut self.synced, synced);
        self.chain[before..self.synced].to_vec()
    }

    /// How much of the chain is written.
    pub fn written(&self) -> usize {
        self.written
    }

    pub fn acknowledge(&mut self, partition: usize, index: u64, is_os: bool) {
        let of = &mut self.acknowledged[partition];
        let last = if is_os { &mut of.os } else { &mut of.fsync };
        *last = index.max(*last);
    }

    /// What recovery gave must be a piece of the chain that lacks nothing which must be there.
    pub fn check(&self, found: &[Owned], in_store: &[u64]) -> Result<Kept, Failure> {
        let is_stored = |&(partition, index): &(usize, u64)| index <= in_store[partition];
        let begin = match found.first() {
            None => self.chain.iter().take_while(|one| is_stored(one)).count(),
            Some(first) => {
                let is_first = |one: &(usize, u64)| *one == (first.partition, first.index);
                self.chain.iter().take_while(|one| !is_first(one)).count()
            }
        };
        let end = begin + found.len();
        for (place, one) in (begin..).zip(found) {
            let is_it = self.chain.get(place) == Some(&(one.partition, one.index))
                && self.partitions[one.partition].get(one.index as usize - 1) == Some(one);
            if !is_it {
                let text =
                    format!("entry {place} of the log is {one:?}, which was not written there");
                return fail("log", text);
            }
        }
        if let Some(one) = self.chain[..begin].iter().find(|one| !is_stored(one)) {
            return fail(
                "log",
                format!("it begins behind {one:?}, which the store has not"),
            );
        }
        let least = if self.lost_power {
            self.synced
        } else {
            self.written
        };
        let mut last = in_store.to_vec();
        for &(partition, index) in &self.chain[..end] {
            last[partition] = last[partition].max(index);
        }
        let kept = Kept {
            chain: end,
            last,
            is_store_ahead: self.chain[end..].iter().any(is_stored),
        };
        self.check_acknowledged(&kept)?;
        let missing = self.chain[end..].iter().take(least.saturating_sub(end));
        if let Some(one) = missing.clone().find(|one| !is_stored(one)) {
            let text = format!(
                "{end} entries of {least} are there, {one:?} is not; {} synced, power cut: {}",
                self.synced, self.lost_power
            );
            return fail("missing", text);
        }
        Ok(kept)
    }

    fn check_acknowledged(&self, kept: &Kept) -> Result<(), Failure> {
        for (partition, of) in self.acknowledged.iter().enumerate() {
            let last = kept.last[partition];
            let os = if self.lost_power { 0 } else { of.os };
            if of.fsync.max(os) > last {
                let text = format!("partition {partition} ends with {last}, {of:?}");
                return fail("acknowledged is missing", text);
            }
        }
        Ok(())
    }

    /// A start made durable what it found: the rest never was.
    pub fn commit(&mut self, kept: &Kept) -> usize {
        let lost = self.chain.len() - kept.chain;
        self.chain.truncate(kept.chain);
        (self.written, self.synced) = (kept.chain, kept.chain);
        let all = self.partitions.iter_mut().zip(&mut self.acknowledged);
        for ((entries, acknowledged), last) in all.zip(&kept.last) {
            entries.truncate(*last as usize);
            acknowledged.os = acknowledged.os.min(*last);
        }
        self.lost_power = false;
        lost
    }
}
