//! Rule 6, and what recovery says of indexes.

use super::super::format::{RecordHead, write_entry};
use super::*;

#[test]
fn next_index_is_above_the_log_and_the_store() {
    for (log, store, next) in [(0, 0, 1), (7, 0, 8), (0, 7, 8), (7, 9, 10), (9, 7, 10)] {
        assert_eq!(next_index(log, store), next);
    }
}

#[test]
fn index_that_the_store_used_beyond_the_log_is_not_used_again() {
    let mut world = World::new(SMALL);
    world.append(&[entry_of(1, 1, b"one"), entry_of(2, 1, b"one")]);
    world.sync();
    // Entries 2 and 3 of partition 1 were applied, and flushed, when the log lost them.
    let mut store = world.store.clone();
    store.applied.insert(PartitionId(1), 3);
    let mut next = World::start(&world.cache, &store, &world.model, SMALL).expect("no damage");
    assert_eq!(next.writer.next_index(PartitionId(1)), 4);
    assert_eq!(next.writer.next_index(PartitionId(2)), 2);
    assert_eq!(next.writer.next_index(PartitionId(3)), 1);
    next.append(&[entry_of(1, 4, b"four"), entry_of(2, 2, b"two")]);
    let (recovered, entries) = recover(&next.cache, &store).expect("the start said so");
    assert_eq!(entries.len(), 4);
    assert_eq!(recovered.last_index(PartitionId(1)), 4);
    // And once more, with nothing but what the start says.
    let again = World::start(&next.cache, &store, &next.model, SMALL).expect("no damage");
    assert_eq!(again.writer.next_index(PartitionId(1)), 5);
}

#[test]
#[should_panic(expected = "proposes index 3, 2 comes next")]
fn index_that_skips_is_not_written() {
    let mut world = World::new(SMALL);
    world.append(&[entry_of(1, 1, b"one"), entry_of(1, 3, b"three")]);
}

#[test]
fn log_in_which_an_index_goes_back_or_skips_is_refused() {
    let mut world = World::new(SMALL);
    world.append(&[entry_of(1, 1, b"one"), entry_of(1, 2, b"two")]);
    let record = RECORDS_OFFSET as usize + RECORD_HEAD_BYTES;
    let content = &world.cache.0[&FileId(1)];
    let seal = u64::from_le_bytes(content[record - 8..record].try_into().expect("eight"));
    for (first, second, is_good) in [
        (1, 2, true),
        (5, 6, true),
        (1, 1, false),
        (1, 3, false),
        (2, 1, false),
        (0, 1, false),
        (u64::MAX, 0, false),
    ] {
        let mut body = Vec::new();
        for index in [first, second] {
            let entry = entry_of(1, index % 1_000, b"same");
            let entry = Entry {
                index: Index(index),
                ..entry.as_entry()
            };
            write_entry(&entry, EntryKind::Command, &mut body);
        }
        let head = RecordHead {
            length: (RECORD_HEAD_BYTES + body.len()) as u32,
            position: Position {
                segment: SegmentNumber(1),
                offset: record as u32,
            },
            number: 2,
            previous: seal,
            synced: Position::default(),
            epoch: 1,
            checksum: crc32c::crc32c(&body),
            entries: 2,
            kind: RecordKind::Batch,
        };
        let mut disk = world.cache.clone();
        disk.write(
            FileId(1),
            record as u32,
            &head.encode(&Secret::new(&SECRET)).0,
        );
        disk.write(FileId(1), (record + RECORD_HEAD_BYTES) as u32, &body);
        let found = recover(&disk, &world.store);
        match found {
            Ok((_, entries)) => assert!(is_good && entries.len() == 2, "{first} {second}"),
            Err(error) => {
                assert!(!is_good, "{first} {second}: {error}");
                assert!(matches!(error, RecoveryError::Index { .. }), "{error}");
            }
        }
    }
}

#[test]
fn log_that_begins_behind_the_store_is_refused() {
    let mut world = World::new(SMALL);
    let mut random = Random(1);
    world.work(&mut random, 30);
    world.sync();
    world.flush(world.acknowledged);
    world.work(&mut random, 30);
    world.sync();
    // An older copy of the store, which wrongly says that the same segments are enough.
    let mut store = world.store.clone();
    for applied in store.applied.values_mut() {
        *applied = 1;
    }
    let (recovered, _) = recover(&world.cache, &store).expect("no damage");
    let error = Writer::new(recovered, &store.applied(), SMALL).err();
    assert!(
        matches!(error, Some(RecoveryError::Gap { .. })),
        "{error:?}"
    );
}

#[test]
fn log_whose_first_entry_of_an_unknown_partition_is_not_its_first_is_refused() {
    let mut store = Store::default();
    store.applied.insert(PartitionId(1), 4);
    let mut world = World::start(&Disk::default(), &store, &[], SMALL).expect("empty");
    world.append(&[entry_of(1, 5, b"five")]);
    let (recovered, _) = recover(&world.cache, &store).expect("no damage");
    let expected = RecoveryError::Gap {
        partition: PartitionId(1),
        applied: 0,
        first: 5,
    };
    assert_eq!(Writer::new(recovered, &[], SMALL).err(), Some(expected));
}
