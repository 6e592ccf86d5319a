//! Segments: their ends, and their reuse.

use super::*;

#[test]
fn segment_ends_well_at_every_alignment() {
    // The first command shifts all that follows; records of every length come to the segment's end.
    for shift in 0..=200 {
        for length in [0, 1, 7, 8, 33, 100, 199, 200] {
            let mut world = World::new(SMALL);
            world.append(&[entry_of(1, 1, &vec![1; shift])]);
            let mut index = 1;
            while world.writer.written().segment < SegmentNumber(4) {
                index += 1;
                world.append(&[entry_of(1, index, &vec![2; length])]);
            }
            let (recovered, entries) = recover(&world.cache, &world.store).expect("no damage");
            assert!(entries == world.model, "shift {shift}, length {length}");
            assert_eq!(recovered.end(), world.writer.written());
            assert_eq!(recovered.cut(), None);
        }
    }
}

#[test]
fn start_that_has_no_room_begins_the_next_segment() {
    let mut torn = 0;
    for shift in 0..=200 {
        let mut world = World::new(SMALL);
        world.append(&[entry_of(1, 1, &vec![1; shift]), entry_of(1, 2, &[2; 40])]);
        world.rebase();
        let mut store = world.store.clone();
        store.applied.insert(PartitionId(5), 5);
        let model = world.model.clone();
        let mut next = World::start(&world.cache, &store, &model, SMALL).expect("no damage");
        let is_next = next.writer.written().segment > world.writer.written().segment;
        torn += usize::from(is_next);
        if is_next || shift % 16 == 0 {
            next.append(&[entry_of(1, 3, b"three"), entry_of(5, 6, b"six")]);
            let model = next.model.clone();
            next.tear(|disk, store, acknowledged| {
                check_crash(disk, store, &model, acknowledged.max(2));
                World::start(disk, store, &model, SMALL).expect("no damage");
            });
        }
    }
    assert!(torn > 10, "{torn} starts had no room");
}

#[test]
fn segment_is_used_again_only_when_the_store_has_all_of_it() {
    let mut random = Random(7);
    let mut world = World::new(SMALL);
    world.work(&mut random, 40);
    world.sync();
    let applied = BTreeMap::from([(PartitionId(0), u64::MAX), (PartitionId(1), u64::MAX)]);
    // Partition 2 is not flushed at all: everything from its first entry on is needed.
    let before = world.store.remembered.needed.0.max(1);
    let flushed = world
        .store
        .applied
        .get(&PartitionId(2))
        .copied()
        .unwrap_or(0);
    let remembered = world
        .writer
        .remember(|partition| match applied.get(&partition) {
            Some(applied) => *applied,
            None => flushed,
        });
    assert!(remembered.needed.0 >= before);
    let mut store = world.store.clone();
    store.remembered = remembered;
    let (recovered, entries) = recover(&world.cache, &store).expect("no damage");
    let first = entries
        .iter()
        .find(|entry| entry.partition == PartitionId(2));
    assert!(
        first.is_some_and(|entry| entry.index <= flushed + 1),
        "{first:?}"
    );
    assert_eq!(recovered.end(), world.writer.written());
    // Everything applied: only the segment that is written to is needed.
    let all = world.writer.remember(|_| u64::MAX);
    assert_eq!(all.needed, world.writer.written().segment);
}

#[test]
fn segment_whose_records_are_not_synced_is_not_the_first_needed() {
    let mut world = World::new(SMALL);
    let mut index = 0;
    while world.writer.written().segment < SegmentNumber(3) {
        index += 1;
        world.append(&[entry_of(1, index, &[3; 100])]);
    }
    let remembered = world.writer.remember(|_| u64::MAX);
    assert!(remembered.needed <= world.writer.synced().segment);
    world.sync();
    assert_eq!(world.writer.remember(|_| u64::MAX).needed, SegmentNumber(3));
}

#[test]
fn files_are_used_again_and_their_old_records_never_come_back() {
    let mut random = Random(3);
    let mut world = World::new(SMALL);
    for turn in 0..400 {
        let entries = world.random_entries(&mut random, 3);
        world.append(&entries);
        world.sync();
        if turn % 5 == 0 {
            world.flush(world.acknowledged);
        }
        check_crash(&world.cache, &world.store, &world.model, world.acknowledged);
    }
    assert!(world.writer.written().segment.0 > 40);
    assert!(world.cache.0.len() < 8, "{} files", world.cache.0.len());
}

#[test]
fn unsynced_files_are_those_that_were_written_to() {
    let mut world = World::new(SMALL);
    world.sync();
    assert_eq!(world.writer.unsynced_files().count(), 0);
    let begin = world.writer.written().segment;
    let mut index = 0;
    while world.writer.written().segment.0 < begin.0 + 2 {
        index += 1;
        world.append(&[entry_of(1, index, &[3; 100])]);
    }
    let files: Vec<_> = world.writer.unsynced_files().collect();
    assert_eq!(files, [FileId(1), FileId(2), FileId(3)]);
}

#[test]
fn writes_of_one_append_are_one_for_each_segment() {
    let mut world = World::new(SMALL);
    world.prepare();
    let entries: Vec<_> = (1..=6).map(|index| entry_of(1, index, &[9; 60])).collect();
    let offered: Vec<_> = entries.iter().map(Owned::as_entry).collect();
    let taken = world
        .writer
        .append(&offered, &mut world.writes)
        .expect("a segment");
    let writes: Vec<_> = world.writes.iter().collect();
    assert_eq!((taken, writes.len()), (6, 2));
    assert_eq!((writes[0].file, writes[1].file), (FileId(1), FileId(2)));
    assert_eq!(writes[1].offset, RECORDS_OFFSET);
}
