//! Caps and failures: what is refused leaves everything as it was.

use super::super::format::{RecordHead, read_head};
use super::*;

#[test]
fn entry_above_the_cap_is_refused_and_nothing_changes() {
    let mut world = World::new(SMALL);
    let before = (
        world.writer.written(),
        world.writer.next_index(PartitionId(1)),
    );
    let (good, long) = (entry_of(1, 1, b"good"), entry_of(1, 2, &[0; 201]));
    let refused = world
        .writer
        .append(&[good.as_entry(), long.as_entry()], &mut world.writes);
    let expected = WriterError::EntryTooLong {
        entry: 1,
        bytes: 201,
        cap: 200,
    };
    assert_eq!(refused, Err(expected));
    assert!(world.writes.is_empty());
    let after = (
        world.writer.written(),
        world.writer.next_index(PartitionId(1)),
    );
    assert_eq!(before, after);
    world.append(&[good, entry_of(1, 2, &[0; 200])]);
    let (_, entries) = recover(&world.cache, &world.store).expect("no damage");
    assert_eq!(entries.len(), 2);
}

#[test]
fn longest_entry_of_the_default_settings_fits() {
    let mut world = World::new(Settings::default());
    let command = vec![1; crate::limits::ENTRY_COMMAND_BYTES_MAX];
    for index in 1..=5 {
        world.append(&[entry_of(0, index, &command)]);
    }
    let (_, entries) = recover(&world.cache, &world.store).expect("no damage");
    assert!(entries == world.model);
    assert_eq!(world.writer.written().segment, SegmentNumber(2));
}

#[test]
fn append_stops_at_its_cap_and_goes_on() {
    let mut world = World::new(SMALL);
    let entries: Vec<_> = (1..=40).map(|index| entry_of(1, index, &[5; 30])).collect();
    let offered: Vec<_> = entries.iter().map(Owned::as_entry).collect();
    world.prepare();
    let taken = world
        .writer
        .append(&offered, &mut world.writes)
        .expect("a segment");
    assert!((1..40).contains(&taken), "{taken} taken");
    let most = SMALL.append_bytes_max + SMALL.record_bytes_max + RECORD_HEAD_BYTES;
    assert!(world.writes.len() <= most, "{} bytes", world.writes.len());
    world.note_writes();
    world.model.extend_from_slice(&entries[..taken]);
    world.append(&entries[taken..]);
    let (_, found) = recover(&world.cache, &world.store).expect("no damage");
    assert!(found == entries);
}

#[test]
fn length_of_four_gibibytes_is_refused_before_anything_is_read() {
    let secret = Secret::new(&SECRET);
    let at = SegmentNumber(1).begin();
    for length in [u32::MAX, u32::MAX - 7, 1 << 31, 0, 64, 71, 73] {
        let head = RecordHead {
            length,
            position: at,
            number: 1,
            previous: 0,
            synced: Position::default(),
            epoch: 1,
            checksum: 0,
            entries: u32::MAX,
            kind: RecordKind::Batch,
        };
        let (bytes, _) = head.encode(&secret);
        let found = read_head(&bytes, at, u32::MAX, &secret);
        assert_eq!(found.expect_err("too long"), Flaw::Length(length));
    }
    // An entry that is longer than its record, sealed as it is.
    let mut store = Store::default();
    store.applied.insert(PartitionId(1), 7);
    let world = World::start(&Disk::default(), &store, &[], SMALL).expect("an empty directory");
    let mut disk = world.cache.clone();
    let body = RECORDS_OFFSET as usize + RECORD_HEAD_BYTES;
    disk.write(FileId(1), body as u32, &[0xff; 4]);
    let content = &disk.0[&FileId(1)];
    let head = RecordHead {
        length: (RECORD_HEAD_BYTES + ENTRY_HEAD_BYTES) as u32,
        position: at,
        number: 1,
        previous: 0,
        synced: Position::default(),
        epoch: 1,
        checksum: crc32c::crc32c(&content[body..body + ENTRY_HEAD_BYTES]),
        entries: 1,
        kind: RecordKind::Start,
    };
    disk.write(FileId(1), RECORDS_OFFSET, &head.encode(&secret).0);
    let error = recover(&disk, &world.store).expect_err("a bug wrote it");
    assert!(
        matches!(
            error,
            RecoveryError::Refused {
                flaw: Flaw::Entry("length"),
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn after_a_failure_nothing_is_taken_and_nothing_becomes_synced() {
    let mut world = World::new(SMALL);
    world.append(&[entry_of(1, 1, b"one")]);
    let (written, synced) = (world.writer.written(), world.writer.synced());
    world.writer.fail();
    assert!(world.writer.is_failed());
    let entry = entry_of(1, 2, b"two");
    let refused = world.writer.append(&[entry.as_entry()], &mut world.writes);
    assert_eq!(refused, Err(WriterError::Failed));
    assert_eq!(
        world.writer.mark(&mut world.writes),
        Err(WriterError::Failed)
    );
    assert_eq!(
        world.writer.start(&mut world.writes),
        Err(WriterError::Failed)
    );
    assert_eq!(
        world.writer.handle_synced(written),
        Err(WriterError::Failed)
    );
    assert!(world.writes.is_empty());
    assert!(world.writer.prepare().is_none());
    assert_eq!(
        (world.writer.written(), world.writer.synced()),
        (written, synced)
    );
}

#[test]
#[should_panic(expected = "the start record is not synced")]
fn nothing_is_written_before_the_start_is_synced() {
    let mut world = World::open(&Disk::default(), &Store::default(), &[], SMALL).expect("empty");
    world.prepare();
    world
        .writer
        .start(&mut world.writes)
        .expect("a segment is prepared");
    let entry = entry_of(1, 1, b"one");
    let _ = world.writer.append(&[entry.as_entry()], &mut world.writes);
}

#[test]
fn at_the_cap_of_files_the_log_waits_for_the_store() {
    let mut world = World::new(SMALL);
    let mut index = 0;
    // Ends: the files are capped.
    let refused = loop {
        world.prepare();
        index += 1;
        let entry = entry_of(1, index, &[1; 200]);
        match world.writer.append(&[entry.as_entry()], &mut world.writes) {
            Ok(_) => {
                world.note_writes();
                world.model.push(entry);
            }
            Err(error) => break error,
        }
    };
    assert_eq!(refused, WriterError::NoSegment);
    assert_eq!(world.cache.0.len(), crate::limits::LOG_FILES_MAX);
    assert_eq!(world.writer.next_index(PartitionId(1)), index);
    world.sync();
    world.flush(world.acknowledged);
    world.append(&[entry_of(1, index, &[1; 200])]);
    let (_, entries) = recover(&world.cache, &world.store).expect("no damage");
    assert_eq!(entries.last(), world.model.last());
}
