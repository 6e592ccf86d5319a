//! The checks of the web's benchmark notice what is lost, doubled, out of order or changed, however it is cut into reads,
//! and take what the broker may put between events.

// A benchmark and this test each use a part of these.
#[allow(dead_code)]
#[path = "../benches/comparison/dialect.rs"]
mod dialect;
#[allow(dead_code)]
#[path = "../benches/web/listener.rs"]
mod listener;
#[allow(dead_code)]
#[path = "../benches/comparison/questions.rs"]
mod questions;
#[allow(dead_code)]
#[path = "../benches/comparison/script.rs"]
mod script;

use listener::{Kind, Listener, Script, masked};

const EVENTS: usize = 5;

/// Long enough for a frame whose length takes three bytes.
const SIZES: [usize; 2] = [20, 128];

/// What a subscriber reads of each event, with ids that are not next to each other.
fn read(script: &Script, kind: Kind) -> Vec<Vec<u8>> {
    let events = (0..EVENTS).map(|place| {
        let event = script.event(kind, place);
        match kind {
            Kind::Socket => event.to_vec(),
            Kind::Stream => chunk(&sent(&format!("{}", 97 + 2 * place), event)),
        }
    });
    events.collect()
}

/// An event of an event stream.
fn sent(id: &str, event: &[u8]) -> Vec<u8> {
    [format!("id: {id}\n").as_bytes(), event].concat()
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let size = format!("{:x}\r\n", bytes.len());
    [size.as_bytes(), bytes, b"\r\n"].concat()
}

/// Takes the reads in two parts, cut everywhere, and byte by byte; gives how many events came, or that it was refused.
/// All ways must agree.
fn take(kind: Kind, script: &Script, published: usize, input: &[u8]) -> Option<usize> {
    let cut = |parts: &[&[u8]]| {
        let mut listener = Listener::new(kind);
        for part in parts {
            listener.take(part, script, published).ok()?;
        }
        listener.is_between().then_some(listener.events)
    };
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    let came = cut(&bytes);
    for at in 0..=input.len() {
        assert_eq!(cut(&[&input[..at], &input[at..]]), came, "cut at {at}");
    }
    came
}

fn for_each_kind(check: impl Fn(Kind, &Script, Vec<Vec<u8>>)) {
    for kind in [Kind::Socket, Kind::Stream] {
        for size in SIZES {
            let script = Script::new("a.b", EVENTS, size);
            let events = read(&script, kind);
            check(kind, &script, events);
        }
    }
}

#[test]
fn whole_streams_are_taken_with_what_stands_between_events() {
    for_each_kind(|kind, script, events| {
        let whole = take(kind, script, EVENTS, &events.concat());
        assert_eq!(whole, Some(EVENTS));
        let between: &[u8] = match kind {
            Kind::Socket => b"\x89\x00\x89\x02hi",
            Kind::Stream => b"3\r\n:\n\n\r\n6\r\n:\n\n:\n\n\r\n",
        };
        let input = [between, &events.join(between), between].concat();
        assert_eq!(take(kind, script, EVENTS, &input), Some(EVENTS));
    });
}

#[test]
fn faults_are_noticed_however_they_are_cut() {
    for_each_kind(|kind, script, events| {
        let refused = |spoil: &dyn Fn(&mut Vec<Vec<u8>>)| {
            let mut events = events.clone();
            spoil(&mut events);
            assert_eq!(take(kind, script, EVENTS, &events.concat()), None);
        };
        refused(&|events| drop(events.remove(2)));
        refused(&|events| events.swap(2, 3));
        refused(&|events| events.insert(2, events[2].clone()));
        refused(&|events| events.push(events[EVENTS - 1].clone()));
        let end = events[2].len();
        for at in 0..end {
            // The number of an event stream's event is the broker's choice, so only other bytes must be these.
            // It stands behind `id: `, and that behind the chunk's size of two digits.
            if kind == Kind::Socket || !(8..11).contains(&at) {
                refused(&|events| events[2][at] ^= 1);
            }
        }
        refused(&|events| events[EVENTS - 1].truncate(3));
    });
}

#[test]
fn events_before_their_publish_and_lost_at_the_end_are_noticed() {
    for_each_kind(|kind, script, events| {
        assert_eq!(take(kind, script, EVENTS - 1, &events.concat()), None);
        let fewer = events[..EVENTS - 1].concat();
        assert_eq!(take(kind, script, EVENTS, &fewer), Some(EVENTS - 1));
    });
}

#[test]
fn chunks_may_be_cut_anywhere_and_must_be_whole() {
    let script = Script::new("a.b", EVENTS, SIZES[0]);
    let events =
        (0..EVENTS).map(|place| sent(&format!("{}", 5 + place), script.event(Kind::Stream, place)));
    let events = events.collect::<Vec<_>>().concat();
    for length in [1, 7, 16, events.len()] {
        let mut input: Vec<u8> = events.chunks(length).flat_map(chunk).collect();
        assert_eq!(take(Kind::Stream, &script, EVENTS, &input), Some(EVENTS));
        // Without the line end behind the last, and with the last chunk, which no stream may have here.
        assert_eq!(
            take(Kind::Stream, &script, EVENTS, &input[..input.len() - 1]),
            None
        );
        input.extend(b"0\r\n\r\n");
        assert_eq!(take(Kind::Stream, &script, EVENTS, &input), None);
    }
    assert_eq!(
        take(Kind::Stream, &script, EVENTS, &events),
        None,
        "no chunks"
    );
}

#[test]
fn ids_must_grow() {
    let script = Script::new("a.b", EVENTS, SIZES[0]);
    for (ids, is_right) in [
        (["1", "2"], true),
        (["2", "2"], false),
        (["2", "1"], false),
        (["0", "1"], false),
        (["1", "x"], false),
        (["1", ""], false),
        (["1", "99999999999999999999"], false),
    ] {
        let events = ids
            .iter()
            .zip(0..)
            .map(|(id, place)| chunk(&sent(id, script.event(Kind::Stream, place))));
        let input = events.collect::<Vec<_>>().concat();
        let came = take(Kind::Stream, &script, EVENTS, &input);
        assert_eq!(came, is_right.then_some(2), "{ids:?}");
    }
}

#[test]
fn pings_are_answered_by_masked_pongs() {
    let script = Script::new("a.b", EVENTS, SIZES[0]);
    let mut listener = Listener::new(Kind::Socket);
    let taken = listener.take(b"\x89\x02hi", &script, 0);
    assert!(taken.is_ok());
    assert_eq!(listener.answer, b"\x8a\x82\0\0\0\0hi");
    assert_eq!(masked(0x81, b"a"), b"\x81\x81\0\0\0\0a");
}
