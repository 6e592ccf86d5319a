//! The bytes: golden ones, and a round trip.

use super::*;

/// The bytes in hexadecimal, sixteen a group.
fn hex(bytes: &[u8]) -> String {
    let group = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    bytes.chunks(16).map(group).collect::<Vec<_>>().join(" ")
}

#[test]
fn segment_header_has_these_bytes() {
    let mut world = World::open(&Disk::default(), &Store::default(), &[], SMALL).expect("empty");
    let prepare = world.writer.prepare().expect("segment 1");
    let expected = concat!(
        "53774c6f675365670100000090110000 0100000000000000225c3f58f29d01a6 ",
        "00000000000000000000000000000000 00000000000000000000000063e53267"
    );
    assert_eq!(hex(&prepare.head), expected);
}

#[test]
fn records_have_these_bytes() {
    let mut store = Store::default();
    store.applied.insert(PartitionId(2), 7);
    let mut world = World::start(&Disk::default(), &store, &[], SMALL).expect("empty");
    let expected = concat!(
        "53775263680000000010000001000000 01000000000000000000000000000000 ",
        "0010000001000000010000009488d0b9 01000000020000000000000000000000 ",
        "d0064a9f370e8f920000000002000200 07000000000000000000000000000000 0000000000000000"
    );
    assert_eq!(
        hex(world.writes.iter().next().expect("a write").bytes),
        expected
    );
    let entries = [entry_of(1, 1, b"one"), entry_of(2, 8, b"")];
    world.append(&entries);
    let write = world.writes.iter().next().expect("a write");
    assert_eq!(
        (write.file, write.offset),
        (FileId(1), RECORDS_OFFSET + 104)
    );
    let expected = concat!(
        "53775263900000006810000001000000 0200000000000000d0064a9f370e8f92 ",
        "681000000100000001000000592657a8 02000000010000000000000000000000 ",
        "1f5d878f3a5ff40e0300000001000100 01000000000000000168e5cf8b010000 ",
        "00000000000000006f6e650000000002 00010008000000000000000868e5cf8b ",
        "01000000000000000000000000000000"
    );
    assert_eq!(hex(write.bytes), expected);
}

#[test]
fn what_was_written_comes_back() {
    for seed in 0..50 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut world = World::new(SMALL);
        for _ in 0..30 {
            let entries = world.random_entries(&mut random, 9);
            world.append(&entries);
        }
        world.sync();
        let (recovered, entries) = recover(&world.cache, &world.store).expect("no damage");
        assert!(
            entries == world.model,
            "{} of {}",
            entries.len(),
            world.model.len()
        );
        assert_eq!(recovered.end(), world.writer.written());
        assert_eq!(recovered.cut(), None);
        for partition in (0..3).map(PartitionId) {
            let next = world.writer.next_index(partition);
            assert_eq!(recovered.last_index(partition) + 1, next);
        }
    }
}
