//! Where a stream lives: the partition that its name gives.
//!
//! Owns the affinity of names. Whoever asks for a stream finds its worker by this, without asking anyone, so it never
//! changes. Start at [`partition_of`].

use super::PartitionId;
use xxhash_rust::xxh3::xxh3_64;

/// The part of a name that decides where it lives: what stands in its first `{...}`, if that is not empty, else all of
/// it. Names with the same one share a partition, so that a batch may change them together.
pub fn affinity(name: &[u8]) -> &[u8] {
    let tag = name.iter().position(|&byte| byte == b'{').and_then(|open| {
        let behind = &name[open + 1..];
        let close = behind.iter().position(|&byte| byte == b'}')?;
        (close > 0).then(|| &behind[..close])
    });
    tag.unwrap_or(name)
}

/// The partition of a stream's name, of so many. Panics if there are none: the caller's bug.
///
/// ```
/// use sapwood_wire::state::partition_of;
/// assert_eq!(partition_of(b"{orders}.new", 64), partition_of(b"orders", 64));
/// ```
pub fn partition_of(name: &[u8], partitions: u16) -> PartitionId {
    PartitionId((xxh3_64(affinity(name)) % u64::from(partitions)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_decide_where_a_name_lives() {
        for (name, expected) in [
            ("orders", "orders"),
            ("{orders}", "orders"),
            ("{orders}.new{x}", "orders"),
            ("new.{orders}", "orders"),
            ("{}orders", "{}orders"),
            ("{orders", "{orders"),
            ("}{orders}", "orders"),
            ("", ""),
        ] {
            assert_eq!(affinity(name.as_bytes()), expected.as_bytes(), "{name:?}");
        }
    }

    #[test]
    fn partitions_of_names_stay_what_they_are() {
        // They are on disks: other numbers here mean that streams are not found any more.
        let of = |name: &str| partition_of(name.as_bytes(), 64).0;
        assert_eq!(["orders", "audit", "{a}b", ""].map(of), GOLDEN);
    }

    const GOLDEN: [u16; 4] = [59, 20, 31, 2];
}
