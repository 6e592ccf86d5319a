//! What is asked of streams: answers behind later ones, in parts, several in one, and connections that end.

use super::rig::{Rig, config};
use super::*;
use crate::error::Doubt;
use crate::message::Outgoing;
use sapwood_wire::native::AnswerPart;
use sapwood_wire::state::{
    Answer, Appended, Durability, Outcome as Fate, Outcomes, Refusal, Sequence, Stored,
    StreamNumber,
};

fn publish_stored(rig: &mut Rig) -> u64 {
    let token = rig.token();
    let outgoing = Outgoing::new("t", "x");
    let queued = rig
        .machine
        .publish_stored(rig.now, token, &outgoing.parts());
    queued.expect("there is room");
    token.0
}

fn call(rig: &mut Rig) -> u64 {
    let token = rig.token();
    rig.machine
        .call(rig.now, token, b"asked")
        .expect("there is room");
    token.0
}

fn stored(position: u32, outcomes: Outcomes) -> Vec<u8> {
    let mut out = Vec::new();
    let outcomes = Appended {
        stream: StreamNumber(1),
        outcomes,
    };
    Answer::Stored(Stored {
        stream: b"s",
        position,
        durability: Durability::Fsync,
        outcomes,
    })
    .write(&mut out);
    out
}

fn fates(rig: &Rig) -> Vec<(u64, Fate)> {
    let outcomes = rig.outcomes.iter().map(|(token, outcome)| match outcome {
        Outcome::Stored(placed) => (*token, placed.fate),
        other => panic!("{other:?}"),
    });
    outcomes.collect()
}

#[test]
fn one_frame_answers_publishes_that_stood_together() {
    let mut rig = Rig::open(config());
    let tokens: Vec<u64> = (0..4).map(|_| publish_stored(&mut rig)).collect();
    rig.settle();
    assert!(rig.outcomes.is_empty());
    let first = rig.peer.of_state[0];
    let run = Outcomes::Run {
        first: Sequence(40),
        count: 2,
    };
    let each = Outcomes::Each(vec![
        Fate::Refused(Refusal::StreamFull),
        Fate::Duplicate(Sequence(7)),
    ]);
    let answers = [stored(0, run), stored(2, each)].concat();
    native::write_stored(&mut rig.peer.output, first, 4, &answers);
    rig.settle();
    let expected = [
        Fate::Stored(Sequence(40)),
        Fate::Stored(Sequence(41)),
        Fate::Refused(Refusal::StreamFull),
        Fate::Duplicate(Sequence(7)),
    ];
    let expected: Vec<_> = tokens.into_iter().zip(expected).collect();
    assert_eq!(fates(&rig), expected);
    assert!(rig.machine.is_connected());
}

#[test]
fn answers_to_later_requests_pass_what_waits_for_a_disk() {
    let mut rig = Rig::open(config());
    let slow = publish_stored(&mut rig);
    let asked = call(&mut rig);
    let quick = rig.publish_confirmed("quick").unwrap();
    rig.settle();
    assert_eq!(rig.outcomes, [(quick, Outcome::Acknowledged(0))]);
    rig.outcomes.clear();
    let [of_slow, of_asked] = rig.peer.of_state[..] else {
        panic!("{:?}", rig.peer.of_state)
    };
    let out = &mut rig.peer.output;
    native::write_answer(out, of_asked, AnswerPart::More, b"one");
    native::write_answer(out, of_asked, AnswerPart::Last, b"two");
    rig.settle();
    let parts = vec![Bytes::from("one"), Bytes::from("two")];
    assert_eq!(rig.outcomes, [(asked, Outcome::Answered(parts))]);
    rig.outcomes.clear();
    let run = Outcomes::Run {
        first: Sequence(1),
        count: 1,
    };
    native::write_stored(&mut rig.peer.output, of_slow, 1, &stored(0, run));
    rig.settle();
    assert_eq!(fates(&rig), [(slow, Fate::Stored(Sequence(1)))]);
    // All is settled: the window is empty.
    assert_eq!(rig.machine.outgoing.window(), (0, 0));
    assert_eq!(rig.machine.outgoing.awaited(), 0);
}

#[test]
fn what_was_written_and_not_answered_is_unknown_and_the_rest_is_sent_again() {
    let mut rig = Rig::open(config());
    let passed = publish_stored(&mut rig);
    let quick = rig.publish_confirmed("quick").unwrap();
    rig.settle();
    assert_eq!(rig.outcomes, [(quick, Outcome::Acknowledged(0))]);
    rig.outcomes.clear();
    let written = call(&mut rig);
    assert!(rig.write(usize::MAX));
    let kept = publish_stored(&mut rig);
    rig.cut(Disconnect::ClosedByBroker);
    let doubt = Outcome::Unknown(Doubt::Disconnected(Disconnect::ClosedByBroker));
    let expected = [(passed, doubt.clone()), (written, doubt)];
    assert_eq!(rig.outcomes, expected);
    rig.outcomes.clear();
    rig.settle();
    let [again] = rig.peer.of_state[..] else {
        panic!("{:?}", rig.peer.of_state)
    };
    let run = Outcomes::Run {
        first: Sequence(9),
        count: 1,
    };
    native::write_stored(&mut rig.peer.output, again, 1, &stored(0, run));
    rig.settle();
    assert_eq!(fates(&rig), [(kept, Fate::Stored(Sequence(9)))]);
}

#[test]
fn refusals_and_time_outs_end_what_is_asked_of_streams() {
    let mut rig = Rig::open(config());
    let (refused, late) = (publish_stored(&mut rig), call(&mut rig));
    rig.settle();
    let request = rig.peer.of_state[0];
    native::write_error(&mut rig.peer.output, request, ErrorCode::NoStream, "no");
    rig.settle();
    let refusal = crate::error::Refusal {
        number: ErrorCode::NoStream.number(),
        text: "no".to_string(),
    };
    assert_eq!(rig.outcomes, [(refused, Outcome::Refused(refusal))]);
    rig.outcomes.clear();
    let patience = rig.machine.config().answer_timeout * 2;
    rig.pass(patience);
    assert_eq!(rig.outcomes, [(late, Outcome::Unknown(Doubt::TimedOut))]);
}

#[test]
fn answers_that_nobody_asked_for_end_the_connection() {
    let run = |count| Outcomes::Run {
        first: Sequence(1),
        count,
    };
    for what in 0..4 {
        let mut rig = Rig::open(config());
        publish_stored(&mut rig);
        rig.settle();
        let request = rig.peer.of_state[0];
        let out = &mut rig.peer.output;
        match what {
            0 => native::write_stored(out, request, 1, &stored(0, run(2))),
            1 => native::write_stored(out, request + 1, 1, &stored(0, run(1))),
            2 => native::write_stored(out, request, 1, b"no answer"),
            _ => native::write_answer(out, request, AnswerPart::Last, b""),
        }
        rig.act();
        rig.read(usize::MAX);
        rig.act();
        let ended = disconnects(&rig).into_iter();
        let ended: Vec<_> = ended
            .filter(|it| matches!(it, Disconnect::Protocol(_)))
            .collect();
        assert_eq!(ended.len(), 1, "{what}: {:?}", rig.events);
    }
}
