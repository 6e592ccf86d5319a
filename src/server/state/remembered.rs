//! What the store keeps of the log: a row that is written before each flush.
//!
//! Must not know how stores flush. Invariant: the row stands in `meta`, behind the rows of all partitions.

use sapwood_state::limits::PARTITIONS_MAX;
use sapwood_state::log::{Position, Remembered, SegmentNumber};
use sapwood_state::store::{Family, Store, StoreError, Write, WriteBatch};

/// Behind all partitions, whose rows begin with their number.
const KEY: [u8; 6] = *b"\xff\xfflog\0";

const VERSION: u8 = 1;

const _: () = assert!(PARTITIONS_MAX < 0xffff);

/// What was written with the last flush; the default if there was none.
pub(super) fn read(store: &impl Store) -> Result<Remembered, StoreError> {
    let mut row = Vec::new();
    if !store.get(Family::Meta, &KEY, &mut row)? {
        return Ok(Remembered::default());
    }
    let damaged = |what| StoreError::Damaged {
        family: Family::Meta,
        key: KEY.to_vec(),
        what,
    };
    let Ok(row) = <[u8; 13]>::try_from(row) else {
        return Err(damaged("length"));
    };
    if row[0] != VERSION {
        return Err(damaged("version"));
    }
    let (mut needed, mut synced) = ([0; 4], [0; 8]);
    needed.copy_from_slice(&row[1..5]);
    synced.copy_from_slice(&row[5..]);
    Ok(Remembered {
        needed: SegmentNumber(u32::from_be_bytes(needed)),
        synced: Position::from_u64(u64::from_be_bytes(synced)),
    })
}

/// The batch that writes it.
pub(super) fn batch(remembered: Remembered) -> WriteBatch {
    let mut row = vec![VERSION];
    row.extend_from_slice(&remembered.needed.0.to_be_bytes());
    row.extend_from_slice(&remembered.synced.to_u64().to_be_bytes());
    WriteBatch {
        writes: vec![Write {
            family: Family::Meta,
            key: KEY.to_vec(),
            value: Some(row),
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sapwood_state::store::MemoryStore;

    #[test]
    fn row_is_read_as_it_was_written_and_damage_is_said() {
        let mut store = MemoryStore::default();
        assert_eq!(read(&store), Ok(Remembered::default()));
        let remembered = Remembered {
            needed: SegmentNumber(7),
            synced: Position {
                segment: SegmentNumber(9),
                offset: 4711,
            },
        };
        store.write(&batch(remembered)).unwrap();
        assert_eq!(read(&store), Ok(remembered));
        for (value, what) in [(vec![1; 12], "length"), (vec![2; 13], "version")] {
            let mut wrong = batch(remembered);
            wrong.writes[0].value = Some(value);
            store.write(&wrong).unwrap();
            let error = read(&store).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { what: said, .. } if said == what));
        }
    }
}
