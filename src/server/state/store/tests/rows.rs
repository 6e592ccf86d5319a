//! Rows: the store answers as the one in memory does.

use super::*;
use sapwood_state::store::MemoryStore;

/// Few keys, so that they meet, of few lengths, some of which are the front of others.
fn key(random: &mut Random) -> Vec<u8> {
    let count = 1 + random.below(3) as usize;
    (0..count).map(|_| 1 + random.below(9) as u8 * 28).collect()
}

fn batch(random: &mut Random) -> WriteBatch {
    let mut rows = std::collections::BTreeMap::new();
    for _ in 0..random.below(30) {
        let family = Family::ALL[random.below(7) as usize];
        let count = match random.one_in(8) {
            true => random.below(20_000) as usize,
            false => random.below(30) as usize,
        };
        let value = (!random.one_in(3)).then(|| random.bytes(count));
        rows.insert((family, key(random)), value);
    }
    let writes = rows.into_iter();
    let writes = writes.map(|((family, key), value)| Write { family, key, value });
    WriteBatch {
        writes: writes.collect(),
    }
}

#[test]
fn answers_are_those_of_the_store_in_memory() {
    for seed in 0..12 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let (directory, mut memory) = (Directory::new(), MemoryStore::default());
        let mut store = directory.open();
        for _ in 0..150 {
            let batch = batch(&mut random);
            memory.write(&batch).unwrap();
            store.write(&batch).unwrap();
            match random.below(60) {
                0..=5 => store.flush().unwrap(),
                6 => compact_all(&store),
                7 => {
                    drop(store);
                    store = directory.open();
                }
                _ => {}
            }
            let family = Family::ALL[random.below(7) as usize];
            let (from, to) = (key(&mut random), key(&mut random));
            let limit = 1 + random.below(40) as usize;
            for direction in [Direction::Forward, Direction::Backward] {
                let expected = rows_of(&memory, family, &from, &to, direction, limit);
                for store in [&store, &store.for_replay()] {
                    let found = rows_of(store, family, &from, &to, direction, limit);
                    assert!(
                        found == expected,
                        "{family:?} {from:?} {to:?} {direction:?}"
                    );
                }
            }
            // What stood there before must go.
            let (mut value, mut expected) = (vec![1, 2], Vec::new());
            let is_there = memory.get(family, &from, &mut expected).unwrap();
            assert_eq!(store.get(family, &from, &mut value).unwrap(), is_there);
            assert!(value == expected, "{family:?} {from:?}");
        }
    }
}

#[test]
fn clones_are_one_store() {
    let directory = Directory::new();
    let mut store = directory.open();
    let mut other = store.clone();
    let writer = std::thread::spawn(move || {
        let writes = vec![put(Family::Last, b"a", b"1")];
        other.write(&WriteBatch { writes }).unwrap();
    });
    writer.join().unwrap();
    let writes = vec![put(Family::Last, b"b", b"2")];
    store.write(&WriteBatch { writes }).unwrap();
    let rows = rows_of(&store, Family::Last, b"a", b"z", Direction::Forward, 9);
    assert_eq!(rows.len(), 2);
}
