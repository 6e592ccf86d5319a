//! Readers who wait at the end of a stream.

use super::*;
use crate::limits::WAITS_MAX;
use sapwood_wire::state::Wait;

fn wait(bench: &mut Bench, stream: &str, sequence: u64, ms: u64) -> Tag {
    let token = ResumeToken {
        lineage: LINEAGE,
        stream: StreamNumber(1),
        sequence: Sequence(sequence),
    };
    let stream = stream.as_bytes();
    let tag = bench.ask(Ask::Wait(Wait { stream, token, ms }));
    bench.hear();
    tag
}

/// How a wait ended: whether there is more, and behind which message.
fn ended(bench: &Bench, tag: Tag) -> (Rest, u64) {
    let answer = bench.answer(tag);
    assert_eq!(sequences(std::slice::from_ref(&answer)), Vec::<u64>::new());
    let end = head(&answer).end.unwrap();
    (end.rest, end.token.sequence.0)
}

#[test]
fn a_wait_ends_with_what_is_stored_next_or_its_time() {
    let mut bench = Bench::new();
    bench.make(config("orders", &["o.>"]));
    bench.make(config("others", &["p.>"]));
    bench.publish("o.a", 3);
    bench.settle();
    // There is something already, or the token is of something else.
    for sequence in [0, 2, 4] {
        let tag = wait(&mut bench, "orders", sequence, 50);
        assert_eq!(ended(&bench, tag), (Rest::More, sequence));
    }
    let late = wait(&mut bench, "orders", 3, 50);
    let kept = wait(&mut bench, "orders", 3, u64::MAX);
    assert_eq!(bench.worker.deadline_ms(), Some(1_050));
    assert_eq!(bench.worker.reads_open(), 0, "a wait is no open read");
    bench.publish("p.a", 1);
    bench.worker.handle_clock(1_049);
    bench.settle();
    assert!(!bench.is_ended(late) && !bench.is_ended(kept));
    bench.worker.handle_clock(1_050);
    bench.hear();
    assert_eq!(ended(&bench, late), (Rest::Done, 3));
    assert!(!bench.is_ended(kept));
    bench.publish("o.a", 1);
    bench.turn();
    bench.hear();
    assert!(!bench.is_ended(kept), "it is not stored yet");
    bench.settle();
    assert_eq!(ended(&bench, kept), (Rest::More, 3));
    bench.worker.handle_clock(1_000_000);
    bench.hear();
    bench.answer(kept);
}

#[test]
fn a_wait_ends_with_its_stream_and_there_are_only_so_many() {
    let mut bench = Bench::new();
    bench.make(config("orders", &["o.>"]));
    let all: Vec<Tag> = (0..WAITS_MAX)
        .map(|_| wait(&mut bench, "orders", 0, 50))
        .collect();
    let one_more = wait(&mut bench, "orders", 0, 50);
    assert_eq!(bench.answer(one_more), refused(Refusal::Busy));
    bench.ask(Ask::Delete(b"orders"));
    bench.settle();
    for tag in all {
        assert_eq!(ended(&bench, tag), (Rest::More, 0));
    }
    let gone = wait(&mut bench, "orders", 0, 50);
    assert_eq!(bench.answer(gone), refused(Refusal::NoStream));
    assert_eq!(bench.worker.deadline_ms(), None);
}
