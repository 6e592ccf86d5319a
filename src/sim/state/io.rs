//! What a history's parts share: the disk with its faults, the seed's choices, the clock, what was seen.
//!
//! Must not know the log. Start at [`Io`].

use super::disk::{Covered, Disk};
use super::{SITUATIONS, Sabotage, Sum};
use crate::rng::Rng;
use sapwood_state::log::FileId;

/// How badly a seed's disk and clock behave; parts of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub sync_fails: usize,
    pub write_fails: usize,
    pub no_space: usize,
    pub crash: usize,
    pub crash_in_start: usize,
    pub flip: usize,
    pub clock_steps: usize,
    /// Longest sync, ms.
    pub sync_ms_max: usize,
}

/// A call of the disk failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiskError {
    NoSpace,
    Io,
}

pub(super) struct Io {
    pub disk: Disk,
    pub rng: Rng,
    pub faults: Faults,
    pub sabotage: Option<Sabotage>,
    /// Time that passed.
    pub now_ms: u64,
    /// What the wall clock shows; it may step.
    pub wall_ms: u64,
    /// A write or a sync of the log failed since the last start.
    pub has_failed: bool,
    pub sum: Sum,
}

impl Io {
    /// Notes that a situation came up.
    pub fn note(&mut self, name: &'static str) {
        assert!(SITUATIONS.contains(&name), "{name} is not in the table");
        *self.sum.situations.entry(name).or_default() += 1;
    }

    /// True in so many of a thousand cases.
    pub fn happens(&mut self, of: usize) -> bool {
        self.rng.below(1_000) < of
    }

    pub fn is_sabotaged(&self, by: Sabotage) -> bool {
        self.sabotage == Some(by)
    }

    /// Writes a part of the bytes; how many.
    pub fn write(&mut self, file: FileId, offset: u32, bytes: &[u8]) -> Result<usize, DiskError> {
        if self.happens(self.faults.write_fails) {
            self.note("write fails");
            return Err(DiskError::Io);
        }
        if self.happens(self.faults.no_space) {
            self.note("no space left");
            return Err(DiskError::NoSpace);
        }
        let mut count = bytes.len();
        if count > 1 && self.rng.percent(25) {
            self.note("short write");
            count = 1 + self.rng.below(count - 1);
        }
        self.disk.write(file, offset, &bytes[..count]);
        Ok(count)
    }

    /// When a sync that begins now ends.
    pub fn sync_end_ms(&mut self) -> u64 {
        let most = self.faults.sync_ms_max;
        let takes = match self.rng.percent(10) {
            true => self.rng.below(most + 1),
            false => self.rng.below(most / 20 + 1),
        };
        if takes > 200 {
            self.note("slow sync");
        }
        self.now_ms + takes as u64
    }

    /// Ends syncs that were begun.
    pub fn end_syncs(&mut self, covered: &[Covered]) -> Result<(), DiskError> {
        for &one in covered {
            if self.happens(self.faults.sync_fails) {
                self.note("sync fails");
                self.disk.fail_sync(one, &mut self.rng);
                return Err(DiskError::Io);
            }
            self.disk.end_sync(one);
        }
        Ok(())
    }
}
