//! Reads: parts, starts, limits, order, lists.

use super::*;

#[test]
fn reads_come_in_parts_that_their_reader_asks_for() {
    let mut bench = Bench::new();
    bench.make(config("orders", &["o.>"]));
    for number in 0..300 {
        bench.append(Some("orders"), &[(&format!("o.{}", number % 3), 1_000)]);
    }
    bench.settle();
    let tag = bench.read(reading("orders", ReadStart::First));
    // Ends with the last part.
    while !bench.is_ended(tag) {
        let before = bench.parts(tag).len();
        bench.hear();
        assert_eq!(bench.parts(tag).len(), before, "no part comes unasked");
        bench.worker.handle_more(tag);
        bench.hear();
    }
    let parts = bench.parts(tag);
    assert!(parts.len() > 4);
    assert_eq!(sequences(&parts), (1..=300).collect::<Vec<_>>());
    for part in &parts {
        let Heard::Page(messages, _) = part else {
            panic!("{part:?}");
        };
        let bytes: usize = messages.iter().map(|one| one.1.len() + one.2).sum();
        assert!(bytes <= ANSWER_PART_BYTES);
    }
    let end = head(parts.last().unwrap()).end.unwrap();
    assert_eq!((end.rest, end.token.sequence), (Rest::Done, Sequence(300)));
    // A filter that matches little is looked for in steps, of which nobody hears.
    let tag = bench.read(Read {
        filters: vec![b"o.9"],
        ..reading("orders", ReadStart::First)
    });
    assert_eq!(sequences(&[bench.answer(tag)]), Vec::<u64>::new());
    // One that nobody waits for any more ends.
    let tag = bench.read(reading("orders", ReadStart::First));
    bench.worker.handle_gone(tag);
    bench.worker.handle_more(tag);
    bench.hear();
    assert_eq!(bench.parts(tag).len(), 1);
    assert_eq!(bench.worker.reads_open(), 0);
}

#[test]
fn reads_begin_where_they_are_told_and_keep_their_limits() {
    let mut bench = Bench::new();
    bench.make(config("orders", &["o.>"]));
    for number in 1..=9 {
        bench.worker.handle_clock(1_000 + 10 * number);
        bench.append(Some("orders"), &[(&format!("o.{}", number % 3), 100)]);
        bench.turn();
    }
    bench.settle();
    let gone = Ask::DeleteMessage(b"orders", Sequence(9));
    bench.ask(gone);
    bench.settle();
    let token = |sequence| ResumeToken {
        lineage: LINEAGE,
        stream: StreamNumber(1),
        sequence: Sequence(sequence),
    };
    let other_lineage = ResumeToken {
        lineage: Lineage(8),
        ..token(3)
    };
    for (start, expected) in [
        (ReadStart::First, vec![1, 2, 3, 4, 5, 6, 7, 8]),
        (ReadStart::Last, vec![8]),
        (ReadStart::New, vec![]),
        (ReadStart::Sequence(Sequence(7)), vec![7, 8]),
        (ReadStart::Sequence(Sequence(700)), vec![]),
        (ReadStart::Time(1_061), vec![7, 8]),
        (ReadStart::LastOfEach, vec![6, 7, 8]),
        (ReadStart::Resume(token(6)), vec![7, 8]),
        (ReadStart::Resume(token(77)), vec![1, 2, 3, 4, 5, 6, 7, 8]),
        (
            ReadStart::Resume(other_lineage),
            vec![1, 2, 3, 4, 5, 6, 7, 8],
        ),
    ] {
        let tag = bench.read(reading("orders", start));
        let answer = bench.answer(tag);
        assert_eq!(
            sequences(std::slice::from_ref(&answer)),
            expected,
            "{start:?}"
        );
        let head = head(&answer);
        let is_reset = matches!(start, ReadStart::Resume(of) if of != token(6));
        assert_eq!(head.is_reset, is_reset, "{start:?}");
        let end = head.end.unwrap();
        assert_eq!((end.rest, end.token), (Rest::Done, token(9)), "{start:?}");
    }
    let tag = bench.read(Read {
        messages: 3,
        filters: vec![b"o.1", b"o.2"],
        ..reading("orders", ReadStart::First)
    });
    assert_eq!(sequences(&[bench.answer(tag)]), [1, 2, 4]);
    assert_eq!(head(&bench.answer(tag)).end.unwrap().rest, Rest::More);
    let tag = bench.read(Read {
        bytes: 250,
        ..reading("orders", ReadStart::First)
    });
    assert_eq!(sequences(&[bench.answer(tag)]), [1, 2]);
    let wrong = bench.read(Read {
        filters: vec![b"a.>.b"],
        ..reading("orders", ReadStart::First)
    });
    assert_eq!(bench.answer(wrong), refused(Refusal::FilterInvalid));
}

#[test]
fn last_of_each_topic_neither_doubles_nor_misses_what_comes_meanwhile() {
    let mut bench = Bench::new();
    bench.make(config("orders", &["o.>"]));
    let topics: Vec<_> = (0..100).map(|number| format!("o.{number:03}")).collect();
    for topic in topics.iter().chain(&topics) {
        bench.append(Some("orders"), &[(topic, 2_000)]);
    }
    bench.settle();
    let tag = bench.read(reading("orders", ReadStart::LastOfEach));
    assert!(!bench.is_ended(tag));
    // One that was given and one that was not change meanwhile.
    bench.append(Some("orders"), &[("o.000", 1), ("o.099", 1)]);
    bench.settle();
    while !bench.is_ended(tag) {
        bench.worker.handle_more(tag);
        bench.hear();
    }
    let parts = bench.parts(tag);
    assert_eq!(sequences(&parts), (101..200).collect::<Vec<_>>());
    let end = head(parts.last().unwrap()).end.unwrap();
    let tag = bench.read(reading("orders", ReadStart::Resume(end.token)));
    assert_eq!(sequences(&[bench.answer(tag)]), [201, 202]);
}

#[test]
fn read_behind_writes_waits_for_those_of_its_partition_alone() {
    let mut bench = Bench::new();
    let (one, two) = (name_in(1), name_in(2));
    bench.make(config(&one, &["o"]));
    bench.make(config(&two, &["p"]));
    bench.publish("o", 1);
    let at_once = bench.ask(Ask::Read(reading(&one, ReadStart::First)));
    let behind = bench.ask_in(
        Order::BehindWrites,
        Ask::Read(reading(&one, ReadStart::First)),
    );
    let elsewhere = bench.ask_in(
        Order::BehindWrites,
        Ask::Read(reading(&two, ReadStart::First)),
    );
    bench.hear();
    assert_eq!(sequences(&[bench.answer(at_once)]), Vec::<u64>::new());
    assert_eq!(sequences(&[bench.answer(elsewhere)]), Vec::<u64>::new());
    assert_eq!(bench.parts(behind), []);
    bench.turn();
    // What comes later is not waited for.
    bench.publish("o", 1);
    let last = bench.log.last().unwrap().number;
    bench.news(last, last);
    assert_eq!(sequences(&[bench.answer(behind)]), [1]);
}

#[test]
fn open_reads_are_bounded() {
    let mut bench = Bench::new();
    bench.make(config("orders", &["o"]));
    let tags: Vec<_> = (0..=OPEN_READS_MAX)
        .map(|_| bench.ask(Ask::Info(b"orders")))
        .collect();
    bench.hear();
    assert_eq!(bench.answer(tags[OPEN_READS_MAX]), refused(Refusal::Busy));
    let again = bench.ask(Ask::Info(b"orders"));
    bench.hear();
    assert!(matches!(bench.answer(again), Heard::Other(_)));
}

#[test]
fn single_messages_infos_and_lists_are_read() {
    let mut bench = Bench::new();
    for name in ["a", "b1", "b2", "b3", "c"] {
        bench.make(config(name, &[]));
    }
    bench.append(Some("b1"), &[("x", 1), ("y", 2), ("x", 3)]);
    bench.settle();
    let mut get = |which| {
        let tag = bench.ask(Ask::Get(b"b1", which));
        bench.hear();
        match bench.answer(tag) {
            Heard::Other(bytes) => match Answer::read(&bytes) {
                Ok(Answer::Message(one)) => Ok((one.sequence.0, one.body.len())),
                other => panic!("{other:?}"),
            },
            Heard::Refused(refusal, _) => Err(refusal),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(get(Which::Sequence(Sequence(2))), Ok((2, 2)));
    assert_eq!(get(Which::LastOf(b"x")), Ok((3, 3)));
    assert_eq!(get(Which::FirstAt(0)), Ok((1, 1)));
    assert_eq!(get(Which::FirstAt(u64::MAX)), Err(Refusal::NoMessage));
    assert_eq!(get(Which::LastOf(b"z")), Err(Refusal::NoMessage));
    let mut list = |after: &str, prefix: &str, most| {
        let list = List {
            after: after.as_bytes(),
            prefix: prefix.as_bytes(),
            most,
        };
        let tag = bench.ask(Ask::List(list));
        bench.hear();
        let Heard::Other(bytes) = bench.answer(tag) else {
            panic!("no list");
        };
        let Ok(Answer::List(infos, rest)) = Answer::read(&bytes) else {
            panic!("no list");
        };
        let names = infos.iter().map(|one| text(&one.config.name));
        (names.collect::<Vec<_>>().join(" "), rest)
    };
    assert_eq!(list("", "", 9), ("a b1 b2 b3 c".into(), Rest::Done));
    assert_eq!(list("", "b", 2), ("b1 b2".into(), Rest::More));
    assert_eq!(list("b2", "b", 2), ("b3".into(), Rest::Done));
    assert_eq!(list("", "b2", 2), ("b2".into(), Rest::Done));
    let tag = bench.ask(Ask::Info(b"b1"));
    let nobody = bench.ask(Ask::Info(b"nobody"));
    bench.hear();
    let Heard::Other(bytes) = bench.answer(tag) else {
        panic!("no info");
    };
    let Ok(Answer::Info(info)) = Answer::read(&bytes) else {
        panic!("no info");
    };
    assert_eq!((info.messages, info.last), (3, Sequence(3)));
    assert_eq!(info.partition, partition_of(b"b1", PARTITIONS));
    assert_eq!(bench.answer(nobody), refused(Refusal::NoStream));
}

#[test]
fn gap_is_said_where_messages_went_before_they_were_read() {
    let mut bench = Bench::new();
    bench.make(config("orders", &["o.>"]));
    bench.publish("o.1", 8);
    bench.settle();
    let token = |sequence| ResumeToken {
        lineage: LINEAGE,
        stream: StreamNumber(1),
        sequence: Sequence(sequence),
    };
    let purge = PurgeOf {
        stream: b"orders",
        filter: None,
        before: Sequence(5),
        keep: 0,
    };
    bench.ask(Ask::Purge(purge));
    bench.settle();
    let tag = bench.read(reading("orders", ReadStart::Resume(token(2))));
    let answer = bench.answer(tag);
    let gap = Some((Sequence(3), Sequence(5)));
    assert_eq!(head(&answer).gap, gap);
    assert_eq!(sequences(&[answer]), [5, 6, 7, 8]);
}
