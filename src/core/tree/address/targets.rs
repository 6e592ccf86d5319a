//! A sorted set of paths as a frame holds it: what a path has in common with the one before is not said again.
//!
//! Each target is a byte whose upper four bits say how many numbers are taken off the end of the target before, and whose
//! lower four how many follow; then those numbers. Fifteen in either half means that the whole count, at least fifteen,
//! stands in a byte after it, that of the upper half first. Nothing is taken off before the first target. A set has
//! exactly one form: targets are sorted, each there once, and as few numbers as can be are taken off. In a full tree a
//! target costs two bytes.

use super::{Path, shared};
use crate::limits::{PATH_NUMBERS_MAX, TARGETS_BYTES_MAX};
use core::fmt;

/// In four bits: the count stands in a byte of its own.
const LONG: u8 = 15;

/// The longest form of a target: three bytes of counts, and all its numbers.
const TARGET_BYTES_MAX: usize = 3 + PATH_NUMBERS_MAX;

/// Why bytes are no set of targets. Those that are wrong in a target hold where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetsError {
    /// More bytes than a set may have; holds how many.
    TooLong(usize),
    /// The bytes end within a target.
    Cut(usize),
    /// A count has a byte of its own, but is small enough to need none.
    Count(usize),
    /// More numbers are taken off than the target before has.
    Above(usize),
    /// The target has more numbers than a path may have.
    TooDeep(usize),
    /// The target does not come after the one before, or takes off and says again what it has in common with it.
    Order(usize),
}

impl fmt::Display for TargetsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetsError::TooLong(bytes) => write!(
                f,
                "targets take {bytes} bytes, at most {TARGETS_BYTES_MAX} are allowed"
            ),
            TargetsError::Cut(at) => write!(f, "the target at byte {at} is cut off"),
            TargetsError::Count(at) => {
                write!(
                    f,
                    "a count of the target at byte {at} is longer than need be"
                )
            }
            TargetsError::Above(at) => write!(f, "the target at byte {at} leads above the root"),
            TargetsError::TooDeep(at) => {
                write!(
                    f,
                    "the target at byte {at} has more than {PATH_NUMBERS_MAX} numbers"
                )
            }
            TargetsError::Order(at) => {
                write!(
                    f,
                    "the target at byte {at} does not follow in order from the one before"
                )
            }
        }
    }
}

impl std::error::Error for TargetsError {}

/// Appends as many targets as fit in [`TARGETS_BYTES_MAX`], and gives how many: those after belong in another frame. At
/// least 254 fit, whatever they are.
///
/// Targets must be sorted, each there once.
#[must_use]
pub fn encode_targets<'a>(targets: impl IntoIterator<Item = &'a Path>, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    let mut before: Option<&Path> = None;
    let mut count = 0;
    for target in targets {
        assert!(
            before.is_none_or(|before| before < target),
            "targets must be sorted, each there once"
        );
        let target_start = out.len();
        encode_target(before.map_or(&[], Path::numbers), target.numbers(), out);
        if out.len() - start > TARGETS_BYTES_MAX {
            out.truncate(target_start);
            break;
        }
        before = Some(target);
        count += 1;
    }
    count
}

fn encode_target(before: &[u8], target: &[u8], out: &mut Vec<u8>) {
    let kept = shared(before, target);
    // Both are at most the length of a path, which a byte holds.
    let counts = [before.len() - kept, target.len() - kept].map(|count| count as u8);
    let [off, more] = counts.map(|count| count.min(LONG));
    out.push(off << 4 | more);
    out.extend(counts.into_iter().filter(|count| *count >= LONG));
    out.extend_from_slice(&target[kept..]);
}

/// Reads a whole set of targets: sorted, each there once.
///
/// Worst memory: 11 MiB, for 32,700 targets of 255 numbers that share nearly all with the one before; those of up to 32
/// numbers take 40 bytes each.
pub fn decode_targets(bytes: &[u8]) -> Result<Vec<Path>, TargetsError> {
    if bytes.len() > TARGETS_BYTES_MAX {
        return Err(TargetsError::TooLong(bytes.len()));
    }
    let mut targets = Vec::new();
    let mut numbers = [0; PATH_NUMBERS_MAX];
    let mut depth: usize = 0;
    let mut at = 0;
    // Ends: each target takes a byte at least.
    while at < bytes.len() {
        let is_first = at == 0;
        let counts = counts(bytes, at)?;
        let (off, more) = (counts.off, counts.more);
        let kept = depth.checked_sub(off).ok_or(TargetsError::Above(at))?;
        let from = at + counts.bytes;
        let new = bytes.get(from..from + more).ok_or(TargetsError::Cut(at))?;
        if kept + more > PATH_NUMBERS_MAX {
            return Err(TargetsError::TooDeep(at));
        }
        let follows = match new.first() {
            None => is_first,
            Some(first) => off == 0 || *first > numbers[kept],
        };
        if !follows {
            return Err(TargetsError::Order(at));
        }
        numbers[kept..kept + more].copy_from_slice(new);
        depth = kept + more;
        targets.push(Path::of_part(&numbers[..depth]));
        at = from + more;
    }
    assert!(bytes.len() <= TARGETS_BYTES_MAX && targets.len() <= TARGETS_BYTES_MAX / 2 + 1);
    Ok(targets)
}

/// What a target begins with.
struct Counts {
    /// How many numbers are taken off.
    off: usize,
    /// How many follow.
    more: usize,
    /// How many bytes say so.
    bytes: usize,
}

/// Reads the counts of the target that begins at `at`, before the end.
fn counts(bytes: &[u8], at: usize) -> Result<Counts, TargetsError> {
    let mut end = at + 1;
    let mut count = |half: u8| {
        if half < LONG {
            return Ok(usize::from(half));
        }
        let long = *bytes.get(end).ok_or(TargetsError::Cut(at))?;
        end += 1;
        match long < LONG {
            true => Err(TargetsError::Count(at)),
            false => Ok(usize::from(long)),
        }
    };
    let off = count(bytes[at] >> 4)?;
    let more = count(bytes[at] & LONG)?;
    Ok(Counts {
        off,
        more,
        bytes: end - at,
    })
}

const _: () = assert!(TARGETS_BYTES_MAX / TARGET_BYTES_MAX == 254);
