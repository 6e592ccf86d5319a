//! Crashes: torn at every byte, twice in a row, and with sectors that were lost out of order.

use super::*;

/// A log that has used its segments again, over several starts.
fn old_world(random: &mut Random) -> World {
    let mut world = World::new(SMALL);
    for _ in 0..2 {
        world.work(random, 14);
        let (disk, store, _) = world.lose_sectors(random);
        world = World::start(&disk, &store, &world.model, SMALL).expect("a crash is no damage");
    }
    world.work(random, 10);
    let (live, _, free) = world.writer.segments();
    assert!(live + free > 1, "nothing to use again");
    world.rebase();
    world
}

#[test]
fn log_torn_at_any_byte_is_a_prefix_with_all_that_was_synced() {
    let (mut cuts, mut used_again) = (0, 0);
    for seed in 0..40 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut world = old_world(&mut random);
        world.work(&mut random, 12);
        used_again += usize::from(world.writer.segments().0 < world.cache.0.len());
        world.tear(|disk, store, acknowledged| {
            check_crash(disk, store, &world.model, acknowledged);
            cuts += 1;
        });
    }
    println!("{cuts} cuts");
    assert!(cuts > 40_000 && used_again > 10, "{cuts} {used_again}");
}

#[test]
fn first_start_torn_at_any_byte_is_an_empty_log() {
    let mut world = World::new(SMALL);
    world.append(&[entry_of(1, 1, b"one")]);
    world.tear(|disk, store, acknowledged| {
        check_crash(disk, store, &world.model, acknowledged);
        World::start(disk, store, &world.model, SMALL).expect("a start");
    });
}

/// After each crash the entries that were lost are proposed once more, so that what is written is as much like the dead
/// records as it can be.
#[test]
fn second_crash_at_any_byte_raises_nothing_dead() {
    let (mut cuts, mut dead) = (0, 0);
    for seed in 0..5 {
        println!("seed {seed}");
        let mut random = Random(1_000 + seed);
        let mut world = old_world(&mut random);
        // Not synced at all, so that all of it may become dead.
        for _ in 0..2 {
            let entries = world.random_entries(&mut random, 3);
            world.append(&entries);
        }
        let model = world.model.clone();
        world.tear(|disk, store, acknowledged| {
            let kept = check_crash(disk, store, &model, acknowledged);
            let mut next = World::start(disk, store, &model, SMALL).expect("no damage");
            next.append(&model[kept..]);
            if kept < model.len() {
                next.mark();
            }
            next.tear(|disk, store, acknowledged| {
                check_crash(disk, store, &model, acknowledged);
                cuts += 1;
            });
        });
        // Behind a lost first sector the others are dead; that, too, twice.
        for _ in 0..100 {
            let (disk, store, acknowledged) = world.lose_sectors(&mut random);
            let kept = check_crash(&disk, &store, &model, acknowledged);
            dead += recover(&disk, &store).expect("no damage").0.dead_records();
            let mut next = World::start(&disk, &store, &model, SMALL).expect("no damage");
            next.append(&model[kept..]);
            next.tear(|disk, store, acknowledged| {
                check_crash(disk, store, &model, acknowledged);
                cuts += 1;
            });
        }
    }
    println!("{cuts} cuts, {dead} dead records");
    assert!(cuts > 100_000 && dead > 10);
}

#[test]
fn sectors_lost_out_of_order_cost_nothing_that_was_synced() {
    let mut dead = 0;
    for seed in 0..700 {
        let mut random = Random(2_000 + seed);
        let mut world = old_world(&mut random);
        world.work(&mut random, 12);
        for _ in 0..10 {
            let (disk, store, acknowledged) = world.lose_sectors(&mut random);
            let kept =
                std::panic::catch_unwind(|| check_crash(&disk, &store, &world.model, acknowledged));
            assert!(kept.is_ok(), "seed {seed}");
            dead += recover(&disk, &store).expect("no damage").0.dead_records();
        }
    }
    assert!(dead > 1_000, "{dead} dead records");
}

/// After a sync that failed, what it covered may be in the page cache alone: headers too.
#[test]
fn log_is_whole_once_what_is_unproven_is_written_again() {
    let mut lost = 0;
    for seed in 0..60 {
        println!("seed {seed}");
        let mut random = Random(3_000 + seed);
        let mut world = old_world(&mut random);
        let synced = world.cache.clone();
        world.mark();
        for _ in 0..random.below(5) {
            let entries = world.random_entries(&mut random, 4);
            world.append(&entries);
        }
        let (recovered, entries) = recover(&world.cache, &world.store).expect("no damage");
        let mut disk = Disk::default();
        for (file, content) in &world.cache.0 {
            let zeros = vec![0; content.len()];
            let before = synced.0.get(file).cloned().unwrap_or(zeros);
            disk.0.insert(*file, before);
        }
        lost += u64::from(disk != world.cache);
        for (file, part) in recovered.unproven() {
            let bytes = &world.cache.0[&file][part.start as usize..part.end as usize];
            disk.write(file, part.start, bytes);
        }
        let (again, found) = recover(&disk, &world.store).expect("no damage");
        assert_eq!((again.end(), found), (recovered.end(), entries));
        assert_eq!(again.prepared.len(), recovered.prepared.len());
    }
    assert!(lost > 50);
}

/// A disk on which the record in front of a whole one was lost.
fn with_dead_record() -> (Disk, Store, Vec<Owned>) {
    let roomy = Settings {
        first_segment_bytes: RECORDS_OFFSET + 2_000,
        ..SMALL
    };
    let mut world = World::new(roomy);
    world.append(&[entry_of(1, 1, b"lives")]);
    world.rebase();
    let lost = world.writer.written();
    let (first, second) = (entry_of(1, 2, b"the lost one"), entry_of(1, 3, b"dead"));
    world.append(std::slice::from_ref(&first));
    world.append(&[second]);
    let mut disk = world.cache.clone();
    let head = [0; RECORD_HEAD_BYTES];
    disk.write(FileId(1), lost.offset, &head);
    let (recovered, entries) = recover(&disk, &world.store).expect("no damage");
    assert_eq!((entries.len(), recovered.dead_records()), (1, 1));
    assert_eq!(recovered.end(), lost);
    (disk, world.store, world.model)
}

/// The start record has the length, place and number of the record that was lost, and is torn where that was: then no
/// start has told anybody of the loss.
#[test]
fn cut_record_may_come_back_until_the_start_record_is_synced() {
    let roomy = Settings {
        first_segment_bytes: RECORDS_OFFSET + 2_000,
        ..SMALL
    };
    let mut world = World::new(roomy);
    for index in 1..3 {
        world.append(&[entry_of(1, index, &[7; 112])]);
    }
    world.rebase();
    let lost = world.writer.written();
    assert_eq!(lost.offset % 512, 504, "eight bytes in the first sector");
    world.mark();
    world.append(&[entry_of(1, 3, b"behind")]);
    let mut disk = world.cache.clone();
    disk.write(FileId(1), lost.offset, &[0; 8]);
    let (recovered, entries) = recover(&disk, &world.store).expect("no damage");
    assert_eq!((recovered.end(), entries.len()), (lost, 2));
    let mut next = World::open(&disk, &world.store, &world.model, roomy).expect("no damage");
    next.writer.start(&mut next.writes).expect("it has room");
    let start = next.writes.iter().next().expect("one write").bytes.to_vec();
    disk.write(FileId(1), lost.offset, &start[..8]);
    let (_, entries) = recover(&disk, &world.store).expect("no damage");
    assert_eq!(entries, world.model);
    disk.write(FileId(1), lost.offset, &start);
    let (_, entries) = recover(&disk, &world.store).expect("no damage");
    assert_eq!(entries, world.model[..2]);
}

/// Shows that the tests here could fail: a start that says nothing of itself writes the lost record once more, and what
/// was dead behind it lives.
#[test]
fn without_a_new_epoch_a_dead_record_is_raised() {
    let (disk, store, model) = with_dead_record();
    let mut world = World::open(&disk, &store, &model, SMALL).expect("no damage");
    world.writer.start_unnoticed();
    world.append(&model[1..2]);
    let (_, entries) = recover(&world.cache, &store).expect("no damage");
    assert_eq!(entries.len(), 3, "the dead record was raised");
}

#[test]
fn with_a_new_epoch_a_dead_record_stays_dead() {
    let (disk, store, model) = with_dead_record();
    let mut world = World::start(&disk, &store, &model, SMALL).expect("no damage");
    world.append(&model[1..2]);
    let (recovered, entries) = recover(&world.cache, &store).expect("no damage");
    assert_eq!(entries, model[..2]);
    assert_eq!(recovered.epoch(), 3);
}

/// Where nothing was synced but the start, all else of it may be lost but a record in the middle.
#[test]
fn epoch_is_above_that_of_dead_records() {
    let mut store = Store::default();
    store.applied.insert(PartitionId(1), 7);
    let mut world = World::open(&Disk::default(), &store, &[], SMALL).expect("empty");
    world.prepare();
    world
        .writer
        .start(&mut world.writes)
        .expect("a segment is prepared");
    world.note_writes();
    let recovered = recover(&world.cache, &world.store).expect("no damage").0;
    assert_eq!((recovered.epoch(), recovered.dead_records()), (2, 0));
    // Its entries' checksum is wrong, its header is whole.
    let end = world.writer.written().offset;
    let mut torn = world.cache.clone();
    torn.write(FileId(1), end - 8, &[1]);
    let recovered = recover(&torn, &world.store).expect("no damage").0;
    assert_eq!((recovered.epoch(), recovered.dead_records()), (2, 1));
}
