//! The comparison's checks notice what is lost, doubled, out of order or changed, however it is cut into reads: a
//! benchmark that counted bytes nobody looked at would measure nothing.

// A benchmark and this test each use a part of these.
#[allow(dead_code)]
#[path = "../benches/comparison/dialect.rs"]
mod dialect;
#[allow(dead_code)]
#[path = "../benches/comparison/questions.rs"]
mod questions;
#[allow(dead_code)]
#[path = "../benches/comparison/script.rs"]
mod script;

use dialect::{Asked, Dialect, topic};
use questions::{Question, Questions};
use script::{Cycle, Expect, Mixed, Script, Share, payload};

const SIZE: usize = 40;
const DIALECTS: [Dialect; 4] = [
    Dialect::Redis,
    Dialect::Nats,
    Dialect::Native,
    Dialect::Plain,
];

/// What is wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Lost,
    Doubled,
    Swapped,
    Changed,
    Foreign,
}

const FAULTS: [Fault; 6] = [
    Fault::None,
    Fault::Lost,
    Fault::Doubled,
    Fault::Swapped,
    Fault::Changed,
    Fault::Foreign,
];

fn spoil(mut frames: Vec<Vec<u8>>, fault: Fault) -> Vec<u8> {
    let middle = frames.len() / 2;
    match fault {
        Fault::None => {}
        Fault::Lost => drop(frames.remove(middle)),
        Fault::Doubled => frames.insert(middle, frames[middle].clone()),
        Fault::Swapped => frames.swap(middle, middle + 1),
        Fault::Changed => {
            let end = frames[middle].len() - 4;
            frames[middle][end] ^= 1;
        }
        Fault::Foreign => {
            let foreign = frames[middle].iter().map(|byte| byte.rotate_left(1));
            frames[middle] = foreign.collect();
        }
    }
    frames.concat()
}

/// Whether the checks take the stream, given in reads of so many bytes, for right.
fn is_taken(mut expect: Expect, stream: &[u8], read: usize, due: u64) -> bool {
    let mut count = 0;
    for bytes in stream.chunks(read) {
        match expect.take(bytes) {
            Ok(frames) => count += frames,
            Err(_) => return false,
        }
    }
    count == due
}

fn check(make: impl Fn() -> Expect, frames: &[Vec<u8>], what: &str) {
    for fault in FAULTS {
        let stream = spoil(frames.to_vec(), fault);
        for read in [1, 7, 64, 1_000, stream.len()] {
            let is_right = is_taken(make(), &stream, read, frames.len() as u64);
            assert_eq!(
                is_right,
                fault == Fault::None,
                "{what}, {fault:?}, reads of {read}"
            );
        }
    }
}

fn frames_of(script: &Script, dialect: Dialect, asked: &Asked, count: usize) -> Vec<Vec<u8>> {
    let block = script.received(dialect, None, asked, 12_345);
    let length = block.len() / script.topics.len();
    block
        .chunks(length)
        .cycle()
        .take(count)
        .map(<[u8]>::to_vec)
        .collect()
}

#[test]
fn one_publishers_stream_is_checked_to_the_byte() {
    for dialect in DIALECTS {
        for asked in [Asked::Exact, Asked::Pattern] {
            let script = Script {
                publisher: 7,
                topics: vec![3; 20],
                size: SIZE,
            };
            let block = script.received(dialect, None, &asked, 12_345);
            let frames = frames_of(&script, dialect, &asked, 50);
            let make = || Expect::Cycle(Cycle::new(block.clone(), 20));
            check(make, &frames, &format!("{dialect:?} {asked:?}"));
        }
    }
}

#[test]
fn each_publishers_order_is_checked_where_several_are_mixed() {
    for dialect in DIALECTS {
        let scripts: Vec<Script> = (2..5)
            .map(|publisher| Script {
                publisher,
                topics: vec![0; 20],
                size: SIZE,
            })
            .collect();
        let lists: Vec<Vec<u8>> = scripts
            .iter()
            .map(|script| script.received(dialect, Some(0), &Asked::Exact, 12_345))
            .collect();
        let all: Vec<Vec<Vec<u8>>> = scripts
            .iter()
            .map(|script| frames_of(script, dialect, &Asked::Exact, 30))
            .collect();
        // Turns of ten: the faults meet two of one publisher.
        let frames: Vec<Vec<u8>> = (0..3)
            .flat_map(|turn| {
                all.iter()
                    .flat_map(move |list| list[turn * 10..][..10].to_vec())
            })
            .collect();
        let length = frames[0].len();
        let make = || Expect::Mixed(Mixed::new(lists.clone(), 2, length, SIZE, dialect));
        check(make, &frames, &format!("{dialect:?}"));
    }
}

#[test]
fn the_members_of_a_group_together_get_each_message_once() {
    for dialect in [Dialect::Nats, Dialect::Native] {
        let script = Script {
            publisher: 0,
            topics: vec![0; 20],
            size: SIZE,
        };
        let block = script.received(dialect, Some(0), &Asked::Group, 12_345);
        let length = block.len() / 20;
        let frames = frames_of(&script, dialect, &Asked::Group, 50);
        for fault in FAULTS {
            let mut members = [(); 3].map(|()| Share::new(block.clone(), length, SIZE, dialect));
            let mut wrong = false;
            for (turn, frame) in frames.iter().enumerate() {
                let middle = frames.len() / 2;
                let frame = match fault {
                    Fault::Lost if turn == middle => continue,
                    Fault::Changed | Fault::Foreign if turn == middle => {
                        &spoil(vec![frame.clone(); 2], fault)[length..]
                    }
                    _ => frame,
                };
                wrong |= members[turn % 3].take(frame).is_err();
                if fault == Fault::Doubled && turn == middle {
                    wrong |= members[(turn + 1) % 3].take(frame).is_err();
                }
            }
            let sum: u64 = members.iter().map(|member| member.sum).sum();
            let is_right = !wrong && sum == Share::sum_of(50, 20);
            // Which member gets what is the broker's choice, so that an order between them is no fault.
            let is_fine = matches!(fault, Fault::None | Fault::Swapped);
            assert_eq!(is_right, is_fine, "{dialect:?}, {fault:?}");
        }
    }
}

/// What comes of a stream in reads of so many bytes: whole frames and questions.
fn asked_amid(
    mut expect: Option<Expect>,
    stream: &[u8],
    read: usize,
    question: Question,
) -> Option<(u64, usize)> {
    let (mut questions, mut frames) = (Questions::default(), 0);
    for bytes in stream.chunks(read) {
        frames += questions.take(bytes, question, expect.as_mut()).ok()?;
    }
    Some((frames, questions.open))
}

#[test]
fn what_the_server_asks_is_told_from_what_is_delivered() {
    let dialect = Dialect::Nats;
    let question = dialect.question().expect("NATS asks");
    let script = Script::on_topic(0, 0, SIZE);
    let deliveries = frames_of(&script, dialect, &Asked::Exact, 50);
    let block = script.received(dialect, Some(0), &Asked::Exact, 12_345);
    // Answers begin as the question does.
    let answers = vec![dialect.pong(); 50];
    for (frames, make) in [
        (deliveries, Cycle::new(block, script.topics.len())),
        (answers, Cycle::of_frame(&dialect.pong())),
    ] {
        let mut stream = Vec::new();
        for (place, frame) in frames.iter().enumerate() {
            if [0, 1, 20, 21].contains(&place) {
                stream.extend_from_slice(question.asked);
            }
            stream.extend_from_slice(frame);
        }
        stream.extend(question.asked.repeat(2));
        let length = frames[0].len();
        let mut amid = frames.concat();
        amid.splice(length + 3..length + 3, question.asked.iter().copied());
        for read in [1, 2, 5, 6, 64, stream.len()] {
            let make = || Some(Expect::Cycle(make.clone()));
            let got = asked_amid(make(), &stream, read, question);
            assert_eq!(got, Some((50, 6)), "reads of {read}");
            let got = asked_amid(make(), &amid, read, question);
            assert_eq!(got, None, "within a frame, reads of {read}");
        }
    }
    for read in [1, 4, 12] {
        let got = asked_amid(None, &question.asked.repeat(2), read, question);
        assert_eq!(got, Some((0, 2)), "where nothing else is heard");
        assert_eq!(asked_amid(None, b"PING\r\nMSG", read, question), None);
    }
}

#[test]
fn payloads_differ_from_each_other() {
    let mut seen = std::collections::BTreeSet::new();
    for publisher in 0..20 {
        for place in 0..200 {
            assert!(seen.insert(payload(publisher, place, SIZE)));
        }
    }
    assert_ne!(topic(1), topic(2));
}
