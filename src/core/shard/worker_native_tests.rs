//! What native clients ask of workers, frame by frame.

use super::*;
use crate::limits::NATIVE_READS_MAX;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::limits::STATE_REQUEST_BYTES_MAX;
use sapwood_wire::native::{AnswerPart, BrokerFrame, Parsed, parse_from_broker};
use sapwood_wire::state::{Ask, Order, Request};

fn store(request: u32, topic: &str, payload: &str) -> Vec<u8> {
    let parts = Parts {
        topic: topic.as_bytes(),
        payload: payload.as_bytes(),
        ..Parts::default()
    };
    let (mut message, mut bytes) = (Vec::new(), Vec::new());
    parts.write(&mut message).expect("a legal message");
    native::write_publish_stored(&mut bytes, request, &message);
    bytes
}

fn call(request: u32, ask: Ask<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let order = Order::Now;
    native::write_call(&mut bytes, request, |out| {
        Request { order, ask }.write(out);
    });
    bytes
}

/// What a connection was sent, in words.
fn frames(all: &mut Stateful, shard: usize, conn: u32) -> Vec<String> {
    let bytes = all.node.take(shard, conn);
    let (mut at, mut frames) = (0, Vec::new());
    while let Ok(Parsed::Frame { frame, length }) = parse_from_broker(&bytes[at..]) {
        at += length;
        frames.push(match frame {
            BrokerFrame::Stored {
                first,
                count,
                answers,
            } => format!("stored {first} {count} {}", text(answers)),
            BrokerFrame::Answer {
                request,
                part,
                body,
            } => {
                let more = if part == AnswerPart::More { "+" } else { "" };
                format!("answer {request} {}{more}", text(body))
            }
            BrokerFrame::Error { request, code, .. } => format!("error {request} {code}"),
            BrokerFrame::Ack { request, count } => format!("ack {request} {count}"),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(at, bytes.len(), "a cut frame");
    frames
}

#[test]
fn a_run_of_stored_publishes_is_one_call_one_record_and_one_frame() {
    for shards in [1, 2] {
        let mut all = Stateful::keeping(shards, &[&[b"t"]], Limits::default());
        all.open(Protocol::Native, 0, 0);
        let run: Vec<Vec<u8>> = (0..100)
            .map(|number| store(10 + number, "t", &number.to_string()))
            .collect();
        all.node.give(0, 0, &run.concat());
        assert_eq!(all.calls(0).len(), 1);
        all.settle();
        let took = all.took(0);
        let [
            Took::Events {
                payloads, is_acked, ..
            },
        ] = &took[..]
        else {
            panic!("{took:?}")
        };
        let expected: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        assert_eq!((payloads, *is_acked), (&expected, true));
        // Others are answered meanwhile.
        let mut ping = Vec::new();
        native::write_request(&mut ping, native::kind::PING, 7);
        all.node.give(0, 0, &ping);
        all.settle();
        assert_eq!(frames(&mut all, 0, 0), ["ack 7 0"]);
        let asker = all.askers[0].pop().expect("somebody waits");
        all.answer(0, asker, "all", Extent::Done);
        all.settle();
        assert_eq!(frames(&mut all, 0, 0), ["stored 10 100 all"]);
        assert!(all.calls(0).is_empty());
    }
}

#[test]
fn what_is_no_run_is_stored_one_by_one_and_answered_as_it_comes() {
    let mut all = Stateful::keeping(1, &[&[b"t"], &[b"u"]], Limits::default());
    all.open(Protocol::Native, 0, 0);
    let input = [store(1, "t", "a"), store(2, "u", "b"), store(4, "u", "c")];
    all.node.give(0, 0, &input.concat());
    all.settle();
    assert_eq!(all.calls(0).len(), 3);
    for (worker, answers) in [(1, vec!["u1", "u2"]), (0, vec!["t1"])] {
        let askers = std::mem::take(&mut all.askers[worker]);
        for (asker, answer) in askers.into_iter().zip(answers) {
            all.answer(worker, asker, answer, Extent::Done);
        }
        all.settle();
    }
    let expected = ["stored 2 1 u1", "stored 4 1 u2", "stored 1 1 t1"];
    assert_eq!(frames(&mut all, 0, 0), expected);
}

#[test]
fn reads_come_in_parts_one_behind_the_other_and_few_wait() {
    let mut all = Stateful::keeping(1, &[&[]], Limits::default());
    all.open(Protocol::Native, 0, 0);
    let input: Vec<Vec<u8>> = (1..=40)
        .map(|request| call(request, Ask::Info(b"s")))
        .collect();
    let mut rest = input.concat();
    for request in 1..=40 {
        // Offered again whenever the connection is resumed.
        let handled = all.node.give(0, 0, &rest);
        rest.drain(..handled.consumed);
        assert!(all.calls(0).len() <= NATIVE_READS_MAX);
        for part in 0..3 {
            all.settle();
            let took = all.took(0);
            assert_eq!(took.len(), 1, "one at a time: {took:?}");
            let asks_on = took[0] == Took::Asked(String::new());
            assert_eq!(asks_on, part > 0, "the next part is asked for by nothing");
            let asker = all.askers[0].pop().expect("somebody asks");
            let extent = if part < 2 { Extent::More } else { Extent::Done };
            all.answer(0, asker, &part.to_string(), extent);
            all.hear(0, 0);
        }
        let expected = [
            format!("answer {request} 0+"),
            format!("answer {request} 1+"),
            format!("answer {request} 2"),
        ];
        assert_eq!(frames(&mut all, 0, 0), expected);
    }
    assert!(rest.is_empty() && all.calls(0).is_empty());
}

#[test]
fn a_list_asks_all_workers_in_turn() {
    let mut all = Stateful::keeping(2, &[&[], &[], &[]], Limits::default());
    all.open(Protocol::Native, 1, 0);
    all.node.give(1, 0, &call(5, Ask::List(Default::default())));
    for worker in 0..3 {
        all.settle();
        assert_eq!(all.took(worker).len(), 1, "{worker}");
        let asker = all.askers[worker].pop().expect("somebody asks");
        all.answer(worker, asker, &worker.to_string(), Extent::Done);
    }
    all.settle();
    let expected = ["answer 5 0+", "answer 5 1+", "answer 5 2"];
    assert_eq!(frames(&mut all, 1, 0), expected);
    assert!(all.calls(1).is_empty());
}

#[test]
fn what_cannot_be_asked_is_refused_at_once() {
    let mut all = Stateful::keeping(1, &[&[b"t"]], Limits::default());
    all.open(Protocol::Native, 0, 0);
    let mut long = Vec::new();
    native::write_call(&mut long, 3, |out| {
        out.resize(out.len() + STATE_REQUEST_BYTES_MAX + 1, 0);
    });
    let mut empty = Vec::new();
    native::write_call(&mut empty, 4, |_| ());
    let input = [store(1, "u", "x"), store(2, "$JS.x", "x"), long, empty];
    all.node.give(0, 0, &input.concat());
    all.settle();
    let code = |code: ErrorCode| code.number();
    let expected = [
        format!("error 1 {}", code(ErrorCode::NoStream)),
        format!("error 2 {}", code(ErrorCode::TopicReserved)),
        format!("error 3 {}", code(ErrorCode::TooLarge)),
        format!("error 4 {}", code(ErrorCode::RequestInvalid)),
    ];
    assert_eq!(frames(&mut all, 0, 0), expected);
    let mut nothing = Stateful::new(1, 0, Limits::default());
    nothing.open(Protocol::Native, 0, 0);
    let input = [store(1, "t", "x"), call(2, Ask::Info(b"s"))];
    nothing.node.give(0, 0, &input.concat());
    nothing.settle();
    let no_data = code(ErrorCode::NoData);
    let expected = [format!("error 1 {no_data}"), format!("error 2 {no_data}")];
    assert_eq!(frames(&mut nothing, 0, 0), expected);
}

#[test]
fn each_request_of_a_run_ends_as_unknown_when_its_worker_goes() {
    let mut all = Stateful::keeping(1, &[&[b"t"]], Limits::default());
    all.open(Protocol::Native, 0, 0);
    let input = [
        store(1, "t", "a"),
        store(2, "t", "b"),
        call(3, Ask::Info(b"s")),
    ];
    all.node.give(0, 0, &input.concat());
    all.settle();
    let worker = all.peer(0);
    all.node.handle(0, Input::WorkerGone { worker });
    all.node.settle();
    let unknown = ErrorCode::Unknown.number();
    let frames = frames(&mut all, 0, 0);
    for request in [1, 2] {
        assert!(
            frames.contains(&format!("error {request} {unknown}")),
            "{frames:?}"
        );
    }
    assert_eq!(frames.len(), 3);
    assert!(all.calls(0).is_empty());
}
