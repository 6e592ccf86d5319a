//! Space: it returns when messages go, and nothing goes by a floor that no flush made durable.

use super::streams::{Machine, PARTITION};
use super::*;
use sapwood_state::partition::Partition;
use sapwood_state::streams::{PageEnd, PageLimits, Place, Start, StreamView};
use sapwood_wire::state::*;

const ONE: StreamNumber = StreamNumber(1);
const PLACE: Place = Place {
    partition: PARTITION,
    stream: ONE,
};

const ALL: PageLimits = PageLimits {
    messages: usize::MAX,
    bytes: usize::MAX,
    looked_at: usize::MAX,
};

fn config(number: u32) -> StreamConfig {
    StreamConfig {
        name: format!("s{number}").into_bytes(),
        filters: vec![format!("{number}.>").into_bytes()],
        ..StreamConfig::default()
    }
}

fn purge(before: u64) -> Command<'static> {
    Command::Purge(Purge {
        stream: ONE,
        filter: None,
        before: Sequence(before),
        keep: 0,
    })
}

/// A stream with so many messages in entries of 100, spread over some topics.
fn filled(messages: u64, topics: u64, bytes: usize) -> Machine {
    let mut machine = Machine::new();
    machine.tell(&Command::Create(config(1)));
    for first in (0..messages).step_by(100) {
        machine.append(1, first..first + 100, topics, bytes);
    }
    machine
}

/// The first message and how many there are, all of which are read.
fn read_all(store: &RocksStore) -> (u64, u64) {
    let view = StreamView::open(store, PLACE).unwrap().unwrap();
    let (mut first, mut count) = (0, 0);
    let page = view.page(Start::First, &[], ALL, 0, &mut |message| {
        let expected = Random(message.sequence.0 - 1).bytes(message.body.len());
        assert!(message.body == expected, "body of {:?}", message.sequence);
        if count == 0 {
            first = message.sequence.0;
        }
        count += 1;
    });
    let page = page.unwrap();
    assert_eq!((page.end, page.gap), (PageEnd::Head, None));
    assert_eq!(count, view.info().messages);
    (first, count)
}

fn rows(store: &RocksStore, family: Family) -> usize {
    rows_of(
        store,
        family,
        &[0],
        &[255; 8],
        Direction::Forward,
        usize::MAX,
    )
    .len()
}

/// The fault of a prototype: floor 0 and first message 900,000.
#[test]
fn nothing_goes_by_a_floor_that_is_not_durable() {
    for bytes in [300, 5_000] {
        let mut machine = filled(1_000, 7, bytes);
        machine.store.flush().unwrap();
        machine.tell(&purge(901));
        // All that might drop rows, while the floor can still be lost. The purge left these families alone, so that a
        // compaction of theirs flushes nothing.
        let families = [Family::Msgs, Family::Blobs];
        compact(&machine.store, &families);
        machine.store.reclaim().unwrap();
        compact(&machine.store, &families);
        assert_eq!(read_all(&machine.store), (901, 100));
        let entries = machine.partition.applied();
        machine.crash();
        assert!(machine.partition.applied() < entries);
        assert_eq!(read_all(&machine.store), (1, 1_000));
        // Durable, it counts.
        machine.catch_up();
        machine.store.flush().unwrap();
        let before = rows(&machine.store, Family::Msgs);
        compact_all(&machine.store);
        machine.store.reclaim().unwrap();
        assert!(rows(&machine.store, Family::Msgs) < before / 2);
        machine.crash();
        assert_eq!(read_all(&machine.store), (901, 100));
    }
}

#[test]
fn space_returns_without_a_compaction_of_rocksdbs_own() {
    for bytes in [1_000, 10_000] {
        let mut machine = filled(3_000, 7, bytes);
        machine.store.flush().unwrap();
        // Down to the lowest level, where nothing is compacted any more unless something is written above it.
        compact_all(&machine.store);
        let full = machine.store.disk_bytes().unwrap();
        assert!(full > 3_000 * bytes as u64);
        machine.tell(&purge(2_901));
        machine.store.flush().unwrap();
        let reclaimed = machine.store.reclaim().unwrap();
        let left = machine.store.disk_bytes().unwrap();
        println!("{full} bytes, then {left}; {reclaimed:?}");
        assert!(left < full / 5, "{left} of {full} bytes are left");
        assert_eq!(read_all(&machine.store), (2_901, 100));
        // Once is enough.
        assert_eq!(machine.store.reclaim().unwrap(), Reclaimed::default());
        machine.crash();
        assert_eq!(read_all(&machine.store), (2_901, 100));
    }
}

/// Whatever is the last row of a file.
#[test]
fn row_at_the_floor_stays_wherever_the_floor_is() {
    let mut machine = filled(600, 7, 1_500);
    machine.store.flush().unwrap();
    compact_all(&machine.store);
    for floor in 2..=600 {
        machine.tell(&purge(floor));
        machine.store.flush().unwrap();
        machine.store.reclaim().unwrap();
        let view = StreamView::open(&machine.store, PLACE).unwrap().unwrap();
        let mut found = 0;
        view.message(Sequence(floor), 0, &mut |one| found = one.sequence.0)
            .unwrap();
        assert_eq!(found, floor);
    }
    assert_eq!(read_all(&machine.store), (600, 1));
    assert!(machine.store.disk_bytes().unwrap() < 300_000);
}

#[test]
fn topics_that_are_gone_give_their_rows_back() {
    let mut machine = filled(4_000, 4_000, 10);
    machine.store.flush().unwrap();
    compact_all(&machine.store);
    assert_eq!(rows(&machine.store, Family::Last), 4_000);
    machine.tell(&purge(3_901));
    machine.store.flush().unwrap();
    machine.store.reclaim().unwrap();
    assert_eq!(rows(&machine.store, Family::Last), 100);
}

#[test]
fn deleted_stream_gives_all_its_space_back() {
    for bytes in [1_000, 10_000] {
        let mut machine = filled(1_000, 1_000, bytes);
        machine.tell(&Command::Create(config(2)));
        machine.append(2, 0..100, 5, bytes);
        machine.store.flush().unwrap();
        compact_all(&machine.store);
        let full = machine.store.disk_bytes().unwrap();
        machine.tell(&Command::Delete(ONE));
        machine.store.flush().unwrap();
        machine.store.reclaim().unwrap();
        let left = machine.store.disk_bytes().unwrap();
        assert!(left < full / 3, "{left} of {full} bytes are left");
        let other = Place {
            stream: StreamNumber(2),
            ..PLACE
        };
        let view = StreamView::open(&machine.store, other).unwrap().unwrap();
        let mut count = 0;
        view.page(Start::First, &[], ALL, 0, &mut |_| count += 1)
            .unwrap();
        assert_eq!(count, 100);
    }
}

#[test]
fn reader_that_the_floor_overtakes_is_told_of_the_gap() {
    for bytes in [1_000, 10_000] {
        let mut machine = filled(1_000, 7, bytes);
        machine.store.flush().unwrap();
        compact_all(&machine.store);
        let reader = machine.store.for_replay();
        let view = StreamView::open(&reader, PLACE).unwrap().unwrap();
        machine.tell(&purge(951));
        machine.store.flush().unwrap();
        machine.store.reclaim().unwrap();
        compact_all(&machine.store);
        let (mut first, mut count) = (0, 0);
        let page = view.page(Start::At(Sequence(1)), &[], ALL, 0, &mut |message| {
            if count == 0 {
                first = message.sequence.0;
            }
            count += 1;
        });
        let page = page.unwrap();
        let gap = page.gap.expect("there is a gap");
        assert_eq!(gap.0, Sequence(1));
        assert!(first >= gap.1.0 && count > 0, "{gap:?}, first {first}");
        assert!(first <= 951 && page.next > Sequence(951));
    }
}

#[test]
fn store_that_was_opened_again_knows_what_is_dead_from_its_first_flush_on() {
    let mut machine = filled(3_000, 7, 1_000);
    machine.tell(&purge(2_901));
    let Machine {
        directory,
        store,
        partition,
        ..
    } = machine;
    drop((store, partition));
    let store = directory.open();
    assert_eq!(
        Partition::open(PARTITION, &store).unwrap().applied(),
        Index(32)
    );
    let full = store.disk_bytes().unwrap();
    store.flush().unwrap();
    compact_all(&store);
    let left = store.disk_bytes().unwrap();
    assert!(left < full / 5, "{left} of {full} bytes are left");
    assert_eq!(read_all(&store), (2_901, 100));
}
