//! Damage: flipped bits, files that are gone, and what a client would forge.

use super::super::format::{RECORD_MAGIC, RecordHead};
use super::*;

/// A log of several needed segments, some free ones and one prepared, all synced; the store remembers the sync.
fn synced_world(seed: u64) -> World {
    let mut random = Random(seed);
    let mut world = World::new(SMALL);
    world.work(&mut random, 20);
    world.sync();
    world.flush(world.acknowledged);
    // Beyond the segments that this freed, and the ones it needs.
    while world.writer.segments().0 < 3 {
        let entries = world.random_entries(&mut random, 3);
        world.append(&entries);
    }
    world.sync();
    world.prepare();
    assert!(world.writer.segments().2 > 0, "no free segment");
    world.store.remembered.synced = world.writer.synced();
    world
}

/// The file that an error names.
fn named(error: &RecoveryError) -> Option<FileId> {
    match error {
        RecoveryError::Damaged { file, .. }
        | RecoveryError::Refused { file, .. }
        | RecoveryError::File { file, .. }
        | RecoveryError::Index { file, .. } => Some(*file),
        RecoveryError::Missing { suspect, .. } => match suspect {
            Suspect::Unreadable(file) | Suspect::Absent(file) => Some(*file),
            Suspect::Unknown => None,
        },
        RecoveryError::Gap { .. } | RecoveryError::Remembered(_) => None,
    }
}

/// For each file the range of records that are needed.
fn needed(world: &World) -> BTreeMap<FileId, std::ops::Range<u32>> {
    let mut recovery = Recovery::new(
        Secret::new(&SECRET),
        world.store.remembered,
        &world.cache.starts(),
    )
    .expect("no damage");
    let mut ranges = BTreeMap::new();
    while let Some(file) = recovery.wanted() {
        let bytes = &world.cache.0[&file];
        while let Some(record) = recovery.next(bytes).expect("no damage") {
            let start = record.position.offset as usize;
            let length = u32::from_le_bytes(bytes[start + 4..start + 8].try_into().expect("four"));
            let range = ranges.entry(file).or_insert(RECORDS_OFFSET..RECORDS_OFFSET);
            range.end = record.position.offset + length;
        }
    }
    let last = world.writer.written().segment;
    for (file, range) in &mut ranges {
        // The mark of the segment's end follows the last record, but in the last segment.
        let number = &world.cache.0[file][16..20];
        if number != last.0.to_le_bytes() {
            range.end += RECORD_HEAD_BYTES as u32;
        }
    }
    ranges
}

#[test]
fn flipped_bit_below_the_synced_position_is_refused_and_named() {
    let (mut refused, mut harmless) = (0, 0);
    for seed in 0..8 {
        println!("seed {seed}");
        let world = synced_world(seed);
        let needed = needed(&world);
        assert!(needed.len() >= 3);
        let (_, whole) = recover(&world.cache, &world.store).expect("no damage");
        let mut disk = world.cache.clone();
        for (file, content) in &world.cache.0 {
            // A header's page holds 64 bytes; the rest is slack, of which a few bytes are enough.
            let slack = SEGMENT_HEAD_BYTES as u32 + 16..RECORDS_OFFSET - 16;
            for at in (0..content.len() as u32).filter(|at| !slack.contains(at)) {
                let flipped = content[at as usize] ^ (1 << ((at + seed as u32) % 8));
                disk.write(*file, at, &[flipped]);
                let found = recover(&disk, &world.store);
                disk.write(*file, at, &[content[at as usize]]);
                let is_needed = needed
                    .get(file)
                    .is_some_and(|range| range.contains(&at) || at < SEGMENT_HEAD_BYTES as u32);
                match found {
                    Err(error) => {
                        assert!(is_needed, "{file}, offset {at}: {error}");
                        assert_eq!(named(&error), Some(*file), "offset {at}: {error}");
                        assert_near(&error, at);
                        refused += 1;
                    }
                    Ok((_, entries)) => {
                        assert!(!is_needed, "{file}, offset {at}: taken");
                        assert!(entries == whole, "{file}, offset {at}");
                        harmless += 1;
                    }
                }
            }
        }
    }
    println!("{refused} refused, {harmless} harmless");
    assert!(refused > 8_000 && harmless > 1_000);
}

/// The offset that an error names is the beginning of the record that holds the damage.
fn assert_near(error: &RecoveryError, at: u32) {
    if let RecoveryError::Damaged { position, .. } | RecoveryError::Refused { position, .. } = error
    {
        let longest = SMALL.record_bytes_max as u32;
        assert!(
            position.offset <= at && at < position.offset + longest,
            "offset {at}: {error}"
        );
        assert!(
            error
                .to_string()
                .contains(&format!("offset {}", position.offset))
        );
    }
}

/// The store lags; then the log's own word is enough for all but the last record.
#[test]
fn flipped_bit_below_what_a_later_record_says_is_refused_without_the_store() {
    for seed in 0..4 {
        println!("seed {seed}");
        let mut world = synced_world(100 + seed);
        world.store.remembered.synced = world.store.remembered.needed.begin();
        world.store.remembered.synced.offset += RECORD_HEAD_BYTES as u32;
        let before = world.writer.written();
        world.mark();
        let files = needed(&world);
        let mut disk = world.cache.clone();
        for (file, range) in files {
            let content = &world.cache.0[&file];
            for at in (0..SEGMENT_HEAD_BYTES as u32).chain(range) {
                let is_mark =
                    content[16..20] == before.segment.0.to_le_bytes() && at >= before.offset;
                disk.write(file, at, &[content[at as usize] ^ 1]);
                let found = recover(&disk, &world.store);
                disk.write(file, at, &[content[at as usize]]);
                if world.writer.written().segment == before.segment {
                    assert_eq!(found.is_ok(), is_mark, "{file}, offset {at}");
                }
            }
        }
    }
}

#[test]
fn flipped_bit_in_the_tail_leaves_a_prefix() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut random = Random(200 + seed);
        let mut world = World::new(SMALL);
        world.work(&mut random, 8);
        world.sync();
        let synced = world.writer.synced();
        world.store.remembered.synced = synced;
        let (before, acknowledged) = (world.steps.len(), world.acknowledged);
        for _ in 0..3 {
            let entries = world.random_entries(&mut random, 3);
            world.append(&entries);
        }
        let mut disk = world.cache.clone();
        let mut flips = 0;
        for step in &world.steps[before..] {
            let Step::Write(file, offset, bytes) = step else {
                continue;
            };
            if *offset == 0 {
                continue;
            }
            for (at, byte) in (*offset..).zip(bytes) {
                disk.write(*file, at, &[byte ^ (1 << (at % 8))]);
                let kept = check_crash(&disk, &world.store, &world.model, acknowledged);
                assert!(kept < world.model.len(), "{file}, offset {at}: taken");
                disk.write(*file, at, &[*byte]);
                flips += 1;
            }
        }
        assert!(flips > 200);
    }
}

#[test]
fn file_that_is_gone_is_refused_by_name() {
    for seed in 0..10 {
        let world = synced_world(300 + seed);
        for file in needed(&world).into_keys() {
            let mut disk = world.cache.clone();
            disk.0.remove(&file);
            let error = recover(&disk, &world.store).expect_err("a file is missing");
            let RecoveryError::Missing { suspect, .. } = error else {
                panic!("{error}");
            };
            // The last of all may have been any.
            let is_last = world.cache.0.keys().all(|other| *other <= file);
            let expected = if is_last {
                Suspect::Unknown
            } else {
                Suspect::Absent(file)
            };
            assert_eq!(suspect, expected, "{error}");
        }
    }
}

#[test]
fn file_of_another_size_is_refused() {
    let world = synced_world(1);
    for file in needed(&world).into_keys() {
        let mut disk = world.cache.clone();
        disk.0.get_mut(&file).expect("it is there").pop();
        let error = recover(&disk, &world.store).expect_err("a file is shorter");
        assert!(
            matches!(
                error,
                RecoveryError::File {
                    what: FileFlaw::Size { .. },
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(named(&error), Some(file));
    }
}

#[test]
fn file_that_is_there_twice_is_refused() {
    let world = synced_world(2);
    let mut disk = world.cache.clone();
    let (file, content) = world.cache.0.last_key_value().expect("a file");
    let other = FileId(file.0 + 1);
    disk.0.insert(other, content.clone());
    let error = recover(&disk, &world.store).expect_err("a segment is there twice");
    let segment = SegmentNumber(u32::from_le_bytes(
        content[16..20].try_into().expect("four"),
    ));
    let what = FileFlaw::Twice(segment, *file);
    assert_eq!(error, RecoveryError::File { file: other, what });
}

#[test]
fn log_of_another_secret_or_version_is_refused() {
    let world = synced_world(3);
    let other = Secret::new(b"sixteen others!!");
    for store in [&world.store, &Store::default()] {
        let error = recover_with(&other, &world.cache, store).expect_err("another secret");
        assert!(
            matches!(
                error,
                RecoveryError::File {
                    what: FileFlaw::OtherSecret,
                    ..
                }
            ),
            "{error}"
        );
    }
    let mut disk = world.cache.clone();
    let content = disk.0.get_mut(&FileId(1)).expect("it is there");
    content[8] = 2;
    let checksum = crc32c::crc32c(&content[..60]);
    content[60..64].copy_from_slice(&checksum.to_le_bytes());
    let error = recover(&disk, &world.store).expect_err("another version");
    let expected = RecoveryError::File {
        file: FileId(1),
        what: FileFlaw::Version(2),
    };
    assert_eq!(error, expected);
}

#[test]
fn store_that_forgot_the_log_is_noticed() {
    let world = synced_world(4);
    // A new store wants the log from its beginning on, which was used again.
    let error = recover(&world.cache, &Store::default()).expect_err("a new store");
    assert!(
        matches!(
            error,
            RecoveryError::Missing {
                segment: SegmentNumber(1),
                ..
            }
        ),
        "{error}"
    );
    let wrong = Remembered {
        needed: SegmentNumber(2),
        synced: SegmentNumber(2).begin(),
    };
    let store = Store {
        remembered: wrong,
        ..Store::default()
    };
    let error = recover(&world.cache, &store).expect_err("a contradiction");
    assert_eq!(error, RecoveryError::Remembered(wrong));
}

/// A command full of records, each right in every public field where it will stand, and one that would end the chain's
/// next step; all say that more was synced than there is.
fn forged_command(secret: &Secret, body_at: Position, seal_before: u64) -> Vec<u8> {
    let mut command = Vec::new();
    for index in 0..2 {
        let offset = body_at.offset + index * RECORD_HEAD_BYTES as u32;
        let at = Position { offset, ..body_at };
        let head = RecordHead {
            length: RECORD_HEAD_BYTES as u32,
            position: at,
            number: 3 + u64::from(index),
            previous: seal_before,
            synced: at,
            epoch: 1,
            checksum: 0,
            entries: 0,
            kind: RecordKind::Batch,
        };
        let (bytes, _) = head.encode(secret);
        command.extend_from_slice(&bytes);
    }
    command
}

/// A log that ends with a command of forged records, whose record was torn: its header is gone.
fn with_forged(secret: &Secret) -> (Disk, Store, Vec<Owned>) {
    let roomy = Settings {
        first_segment_bytes: RECORDS_OFFSET + 2_000,
        ..SMALL
    };
    let mut world = World::new(roomy);
    world.append(&[entry_of(1, 1, b"lives")]);
    world.rebase();
    let at = world.writer.written();
    let content = &world.cache.0[&FileId(1)];
    // The forger even knows the seal before.
    let before = RECORDS_OFFSET as usize + RECORD_HEAD_BYTES - 8;
    let seal = u64::from_le_bytes(content[before..before + 8].try_into().expect("eight"));
    let body_at = Position {
        offset: at.offset + (RECORD_HEAD_BYTES + ENTRY_HEAD_BYTES) as u32,
        ..at
    };
    let command = forged_command(secret, body_at, seal);
    assert!(command[..4] == RECORD_MAGIC.to_le_bytes() && body_at.offset.is_multiple_of(8));
    world.append(&[entry_of(1, 2, &command)]);
    let mut disk = world.cache.clone();
    disk.write(FileId(1), at.offset, &[0; RECORD_HEAD_BYTES]);
    (disk, world.store, world.model)
}

#[test]
fn forged_records_in_a_command_are_not_believed() {
    let guessed = Secret::new(b"sixteen guesses!");
    let (disk, store, model) = with_forged(&guessed);
    let (recovered, entries) = recover(&disk, &store).expect("nothing is damaged");
    assert_eq!(entries, model[..1]);
    assert_eq!((recovered.dead_records(), recovered.epoch()), (0, 2));
    // Not when the log has grown over them, either: the next record ends at each place in turn.
    for length in 0..=200 {
        let mut world = World::start(&disk, &store, &model, SMALL).expect("no damage");
        world.append(&[entry_of(1, 2, &vec![7; length])]);
        let (recovered, entries) = recover(&world.cache, &store).expect("no damage");
        assert_eq!((entries.len(), recovered.dead_records()), (2, 0));
    }
}

/// Shows that it is the secret that keeps them out.
#[test]
fn forged_records_with_the_secret_would_refuse_the_log() {
    let (disk, store, _) = with_forged(&Secret::new(&SECRET));
    let error = recover(&disk, &store).expect_err("believed");
    assert!(matches!(error, RecoveryError::Damaged { .. }), "{error}");
}

#[test]
fn forged_records_are_not_believed_where_a_segment_header_is_torn() {
    let guessed = Secret::new(b"sixteen guesses!");
    let (mut disk, store, _) = with_forged(&guessed);
    // As if no other segment had been prepared.
    disk.0.remove(&FileId(2));
    // Of what was synced here only the forger speaks; the log's own record says that the start was.
    disk.write(FileId(1), 0, &[0; 8]);
    let error = recover(&disk, &store).expect_err("the start was synced");
    let expected = RecoveryError::Missing {
        segment: SegmentNumber(1),
        suspect: Suspect::Unreadable(FileId(1)),
    };
    assert_eq!(error, expected);
    let record = RECORDS_OFFSET + RECORD_HEAD_BYTES as u32;
    disk.write(FileId(1), record, &[0; RECORD_HEAD_BYTES]);
    let (recovered, entries) = recover(&disk, &store).expect("nobody speaks of a sync");
    assert_eq!(
        (entries.len(), recovered.end()),
        (0, SegmentNumber(1).begin())
    );
}

#[test]
fn unknown_kind_of_record_is_refused_even_in_the_tail() {
    let (mut disk, store, _) = with_forged(&Secret::new(b"sixteen guesses!"));
    let at = recover(&disk, &store).expect("no damage").0.end();
    let (mut head, _) = RecordHead {
        length: RECORD_HEAD_BYTES as u32,
        position: at,
        number: 3,
        previous: 0,
        synced: at,
        epoch: 1,
        checksum: 0,
        entries: 0,
        kind: RecordKind::Batch,
    }
    .encode(&Secret::new(&SECRET));
    head[52] = 9;
    let seal = Secret::new(&SECRET).seal(&head[..64]);
    head[64..].copy_from_slice(&seal.to_le_bytes());
    disk.write(FileId(1), at.offset, &head);
    let error = recover(&disk, &store).expect_err("a newer version wrote it");
    assert!(
        matches!(
            error,
            RecoveryError::Refused {
                flaw: Flaw::Kind(9),
                ..
            }
        ),
        "{error}"
    );
}

/// A record that would come next, but for one thing.
fn next_but(change: impl FnOnce(&mut RecordHead)) -> (Recovered, usize) {
    let mut world = World::new(SMALL);
    // Two starts, so that an epoch can be too small.
    world.append(&[entry_of(1, 1, b"one")]);
    let mut world = World::start(&world.cache, &world.store, &world.model, SMALL).expect("whole");
    world.append(&[entry_of(1, 2, b"two")]);
    let (recovered, entries) = recover(&world.cache, &world.store).expect("no damage");
    assert_eq!(entries.len(), 2);
    let mut head = RecordHead {
        length: RECORD_HEAD_BYTES as u32,
        position: recovered.end,
        number: recovered.number,
        previous: recovered.previous,
        synced: recovered.proven,
        epoch: recovered.epoch - 1,
        checksum: 0,
        entries: 0,
        kind: RecordKind::Batch,
    };
    change(&mut head);
    let (bytes, _) = head.encode(&Secret::new(&SECRET));
    let mut disk = world.cache.clone();
    let end = recovered.end;
    let file = FileId(end.segment.0);
    disk.write(file, end.offset, &bytes);
    let (found, entries) = recover(&disk, &world.store).expect("nothing was synced there");
    assert_eq!(entries.len(), 2);
    let taken = found.end.offset - end.offset;
    (found, taken as usize)
}

#[test]
fn record_that_differs_in_anything_is_not_the_next() {
    let (whole, bytes) = next_but(|_| {});
    assert_eq!((whole.cut(), bytes), (None, RECORD_HEAD_BYTES));
    let (next, bytes) = next_but(|head| {
        head.kind = RecordKind::Start;
        head.epoch += 1;
    });
    assert_eq!((next.cut(), bytes), (None, RECORD_HEAD_BYTES));
    type Change = fn(&mut RecordHead);
    type IsExpected = fn(Flaw) -> bool;
    let changes: [(Change, IsExpected); 9] = [
        (
            |head| head.number += 1,
            |flaw| matches!(flaw, Flaw::Number(_)),
        ),
        (
            |head| head.number -= 1,
            |flaw| matches!(flaw, Flaw::Number(_)),
        ),
        (
            |head| head.previous ^= 1,
            |flaw| matches!(flaw, Flaw::Previous),
        ),
        (
            |head| head.epoch -= 1,
            |flaw| matches!(flaw, Flaw::Epoch(1)),
        ),
        (
            |head| head.epoch += 1,
            |flaw| matches!(flaw, Flaw::Epoch(3)),
        ),
        (
            |head| head.position.offset += 8,
            |flaw| matches!(flaw, Flaw::Position(_)),
        ),
        (
            |head| head.position.segment.0 += 1,
            |flaw| matches!(flaw, Flaw::Position(_)),
        ),
        (
            |head| head.synced.segment.0 = u32::MAX,
            |flaw| matches!(flaw, Flaw::Synced(_)),
        ),
        (
            |head| head.checksum = 1,
            |flaw| matches!(flaw, Flaw::Checksum),
        ),
    ];
    for (index, (change, is_expected)) in changes.into_iter().enumerate() {
        let (recovered, bytes) = next_but(change);
        let cut = recovered.cut();
        assert!(cut.is_some_and(is_expected), "change {index}: {cut:?}");
        assert_eq!(bytes, 0, "change {index}");
    }
}
