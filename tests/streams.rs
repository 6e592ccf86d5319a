//! Streams of a real broker: what it acknowledged is there after SIGKILL, once, in order.
//!
//! Owns the clients that publish until their broker is killed, and the comparison with what is read back. kill -9 keeps the
//! page cache, so this proves nothing about syncs: the file layer of the server's own tests does. Start at [`check_kills`].

mod common;
#[path = "common/nats.rs"]
mod nats;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::native::{Event, Frame, NativeClient};
use common::{Broker, plays_all};
use nats::{NatsClient, Said};
use sapwood_client::blocking::Client;
use sapwood_client::error::StreamError;
use sapwood_client::stream::{
    AtHead, Creation, Purge, ReadOptions, Start, StoredMessage, StreamConfig, StreamEvent,
};
use sapwood_wire::error::ErrorCode;
use sapwood_wire::native::{self, BrokerFrame};
use sapwood_wire::state::{Answer, Ask, Order, Outcome, Outcomes, Reader, Request};

/// A data directory of its own, removed on drop.
struct Data(PathBuf);

impl Data {
    fn new() -> Data {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sapwood-streams-{}-{number}", std::process::id());
        Data(std::env::temp_dir().join(name))
    }

    fn broker(&self, shards: usize) -> Broker {
        let path = self.0.to_str().expect("a path of ASCII");
        Broker::start_restartable_with(shards, None, &["--data", path])
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn client(broker: &Broker) -> Client {
    let address = format!("127.0.0.1:{}", broker.native_port());
    Client::connect(address).expect("a broker")
}

fn keeping(filter: &str) -> StreamConfig {
    StreamConfig {
        filters: vec![filter.into()],
        ..StreamConfig::default()
    }
}

/// All messages of a stream; panics on a gap or a reset.
fn read_all(client: &Client, name: &str) -> Vec<StoredMessage> {
    let events = client.stream(name).read(ReadOptions::default());
    let messages = events.map(|event| match event {
        Ok(StreamEvent::Message(message)) => message,
        other => panic!("{name}: {other:?}"),
    });
    messages.collect()
}

fn texts(messages: &[StoredMessage]) -> Vec<String> {
    let texts = messages.iter().map(|message| message.text().into_owned());
    texts.collect()
}

#[test]
fn what_was_stored_is_read_back_after_a_kill() {
    for shards in [1, 2] {
        let data = Data::new();
        let mut broker = data.broker(shards);
        let before = client(&broker);
        let orders = before.stream("orders");
        let config = keeping("orders.>");
        assert_eq!(orders.create(&config), Ok(Creation::New));
        assert_eq!(orders.create(&config), Ok(Creation::Existing));
        for number in 1..=10u64 {
            let stored = orders.publish("orders.new", number.to_string());
            let stored = stored.expect("it is stored");
            assert_eq!((stored.sequence, &*stored.stream), (number, "orders"));
        }
        broker.restart();
        let after = client(&broker);
        let messages = read_all(&after, "orders");
        let expected: Vec<String> = (1..=10).map(|number| number.to_string()).collect();
        assert_eq!(texts(&messages), expected);
        let info = after.stream("orders").info().expect("it is there");
        assert_eq!((info.messages, info.last.0), (10, 10));
        // Numbers go on where they were.
        let stored = after.stream("orders").publish("orders.new", "11");
        assert_eq!(stored.expect("it is stored").sequence, 11);
    }
}

#[test]
fn streams_do_what_is_asked_of_them() {
    let data = Data::new();
    let broker = data.broker(2);
    let client = client(&broker);
    for name in ["c", "a", "b", "other"] {
        let made = client.stream(name).create(&keeping(&format!("{name}.>")));
        assert_eq!(made, Ok(Creation::New), "{name}");
    }
    let names = |prefix: &str| -> Vec<Vec<u8>> {
        let infos = client.streams(prefix).expect("a list");
        infos.into_iter().map(|info| info.config.name).collect()
    };
    assert_eq!(names(""), [&b"a"[..], b"b", b"c", b"other"]);
    assert_eq!(names("o"), [b"other"]);

    let a = client.stream("a");
    for number in 0..6 {
        let topic = format!("a.{}", number % 2);
        a.publish(&topic, number.to_string()).expect("it is stored");
    }
    assert_eq!(a.get(2).expect("message 2").text(), "1");
    assert_eq!(a.last_of("a.0").expect("the last").text(), "4");
    let read = |options: ReadOptions| -> Vec<String> {
        let messages: Vec<_> = a
            .read(options)
            .map(|event| event.expect("no error"))
            .collect();
        let messages = messages.into_iter().filter_map(StreamEvent::message);
        messages
            .map(|message| message.text().into_owned())
            .collect()
    };
    let from = |start| ReadOptions {
        start,
        ..ReadOptions::default()
    };
    assert_eq!(read(from(Start::Sequence(5))), ["4", "5"]);
    assert_eq!(read(from(Start::Last)), ["5"]);
    assert_eq!(read(from(Start::New)), [""; 0]);
    assert_eq!(read(from(Start::LastOfEach)), ["4", "5"]);
    let filtered = ReadOptions {
        filters: vec![b"a.1".to_vec()],
        ..ReadOptions::default()
    };
    assert_eq!(read(filtered), ["1", "3", "5"]);
}

#[test]
fn readers_go_on_by_tokens_and_hear_of_gaps_and_resets() {
    let data = Data::new();
    let broker = data.broker(2);
    let client = client(&broker);
    let a = client.stream("a");
    a.create(&keeping("a.>")).expect("it is made");
    for number in 0..6 {
        a.publish("a.x", number.to_string()).expect("it is stored");
    }
    let from = |start| ReadOptions {
        start,
        ..ReadOptions::default()
    };
    let read = |options: ReadOptions| -> Vec<String> {
        let messages = a
            .read(options)
            .filter_map(|event| event.expect("no error").message());
        messages
            .map(|message| message.text().into_owned())
            .collect()
    };
    let mut reading = a.read(ReadOptions::default());
    for _ in 0..3 {
        reading.next().expect("a message").expect("no error");
    }
    let token = reading.token().expect("a token");
    assert_eq!(read(from(Start::Resume(token))), ["3", "4", "5"]);

    assert_eq!(a.delete_message(1), Ok(()));
    let keep_two = Purge {
        keep: 2,
        ..Purge::default()
    };
    assert_eq!(a.purge(&keep_two), Ok(3));
    assert_eq!(read(from(Start::First)), ["4", "5"]);
    // A reader who was away is told what it missed.
    let events: Vec<_> = a.read(from(Start::Sequence(2))).collect();
    let gap = StreamEvent::Gap { from: 2, before: 5 };
    assert_eq!(events[0], Ok(gap));
    assert_eq!(a.delete(), Ok(2));
    assert!(matches!(a.info(), Err(StreamError::Declined(..))));
    a.create(&keeping("a.>")).expect("it is free again");
    a.publish("a.x", "anew").expect("it is stored");
    let events: Vec<_> = a.read(from(Start::Resume(token))).collect();
    assert_eq!(events[0], Ok(StreamEvent::Reset));
    assert_eq!(events.len(), 2);
}

#[test]
fn a_reader_that_follows_gets_what_comes() {
    let data = Data::new();
    let broker = data.broker(1);
    let client = client(&broker);
    let live = client.stream("live");
    live.create(&keeping("live.>")).expect("it is made");
    let follow = ReadOptions {
        at_head: AtHead::Follow,
        ..ReadOptions::default()
    };
    let mut reading = live.read(follow);
    for number in 0..3 {
        live.publish("live.x", number.to_string()).expect("stored");
        let message = reading.next().expect("it follows").expect("no error");
        let message = message.message().expect("a message");
        assert_eq!(message.text(), number.to_string());
    }
}

#[test]
fn headers_come_back_and_ids_are_stored_once() {
    let data = Data::new();
    let broker = data.broker(1);
    let client = client(&broker);
    let stream = client.stream("once");
    let config = StreamConfig {
        duplicate_window_ms: 60_000,
        ..keeping("once.>")
    };
    stream.create(&config).expect("it is made");
    let message = sapwood_client::Outgoing::new("once.a", "body")
        .header("Nats-Msg-Id", "id-1")
        .header("lang", "en");
    let first = stream.publish_message(&message).expect("it is stored");
    let again = stream.publish_message(&message).expect("it is known");
    assert!(!first.is_duplicate && again.is_duplicate);
    assert_eq!(first.sequence, again.sequence);
    let stored = stream.get(first.sequence).expect("it is there");
    assert_eq!(stored.headers().find(b"lang"), Some(&b"en"[..]));
    assert_eq!(stored.payload(), b"body");
}

#[test]
fn what_cannot_be_stored_is_refused_and_says_why() {
    let data = Data::new();
    let broker = data.broker(2);
    let mut raw = NativeClient::connect(broker.native_port());
    let store = |raw: &mut NativeClient, topic: &str| {
        let request = raw.request();
        let event = Event::new(topic, "x");
        raw.write(|out| native::write_publish_stored(out, request, &event.message()));
        raw.error()
    };
    let mut subscriber = NativeClient::connect(broker.native_port());
    subscriber.subscribe(">");
    assert_eq!(store(&mut raw, "free").0, ErrorCode::NoStream.number());
    assert!(subscriber.ping().is_empty(), "nothing was published");
    let request = raw.request();
    raw.write(|out| native::write_call(out, request, |out| out.extend_from_slice(b"\x01\xff\0")));
    assert_eq!(raw.error(), (ErrorCode::RequestInvalid.number(), request));
    let request = raw.request();
    raw.write(|out| native::write_call(out, request, |_| ()));
    assert_eq!(raw.error(), (ErrorCode::RequestInvalid.number(), request));
    let request = raw.request();
    let long = vec![0; 2 << 20];
    raw.write(|out| native::write_call(out, request, |out| out.extend_from_slice(&long)));
    assert_eq!(raw.error(), (ErrorCode::TooLarge.number(), request));

    let nothing = Broker::start(1, &["--data", "off"]);
    let mut raw = NativeClient::connect(nothing.native_port());
    assert_eq!(store(&mut raw, "free").0, ErrorCode::NoData.number());
    let request = raw.request();
    raw.write(|out| native::write_call(out, request, list));
    assert_eq!(raw.error(), (ErrorCode::NoData.number(), request));
}

fn list(out: &mut Vec<u8>) {
    let request = Request {
        order: Order::Now,
        ask: Ask::List(Default::default()),
    };
    request.write(out);
}

#[test]
fn publishes_that_stand_together_are_answered_together() {
    for shards in [1, 2] {
        let data = Data::new();
        let broker = data.broker(shards);
        let maker = client(&broker);
        maker.stream("run").create(&keeping("run")).expect("made");
        let mut raw = NativeClient::connect(broker.native_port());
        let first = raw.request();
        let mut bytes = Vec::new();
        for number in 0..100 {
            let event = Event::new("run", number.to_string());
            native::write_publish_stored(&mut bytes, first + number, &event.message());
        }
        raw.send(&bytes);
        let (mut frames, mut answered) = (0, Vec::new());
        while answered.len() < 100 {
            let Frame::Stored {
                first: from,
                count,
                answers,
            } = raw.frame()
            else {
                panic!("another frame")
            };
            let placed = sequences(from, &answers);
            assert_eq!(placed.len(), count as usize);
            answered.extend(placed);
            frames += 1;
        }
        assert!(frames <= 10, "{frames} frames for 100 publishes");
        let expected = (0..100).map(|place| (first + place, u64::from(place) + 1));
        assert_eq!(answered, expected.collect::<Vec<_>>());
        let stored = texts(&read_all(&maker, "run"));
        let sent: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        assert_eq!(stored, sent);
    }
}

/// Request and sequence of each message that a STORED is about; panics if one was refused.
fn sequences(first: u32, answers: &[u8]) -> Vec<(u32, u64)> {
    let mut reader = Reader::new(answers);
    let mut placed = Vec::new();
    while !reader.rest().is_empty() {
        let Ok(Answer::Stored(stored)) = Answer::read_next(&mut reader) else {
            panic!("no answer about messages")
        };
        let at = first + stored.position;
        match stored.outcomes.outcomes {
            Outcomes::Run { first, count } => {
                placed.extend((0..count).map(|place| (at + place, first.0 + u64::from(place))));
            }
            Outcomes::Each(each) => placed.extend((at..).zip(each).map(|(at, one)| match one {
                Outcome::Stored(sequence) => (at, sequence.0),
                other => panic!("{other:?}"),
            })),
        }
    }
    placed
}

#[test]
fn who_does_not_read_its_answers_is_not_read_and_others_are_served() {
    let data = Data::new();
    let broker = data.broker(1);
    let maker = client(&broker);
    let big = maker.stream("big");
    big.create(&keeping("big")).expect("it is made");
    for _ in 0..64 {
        big.publish("big", vec![7; 256 * 1024]).expect("stored");
    }
    let before = broker.resident_kib();
    let mut idle = NativeClient::connect(broker.native_port());
    // 16 MiB each, asked for without reading.
    let mut bytes = Vec::new();
    for request in 1..=200 {
        native::write_call(&mut bytes, request, |out| {
            let read = sapwood_wire::state::Read {
                stream: b"big",
                start: sapwood_wire::state::ReadStart::First,
                filters: Vec::new(),
                messages: u32::MAX,
                bytes: u32::MAX,
            };
            Request {
                order: Order::Now,
                ask: Ask::Read(read),
            }
            .write(out);
        });
    }
    idle.send(&bytes);
    for _ in 0..20 {
        big.publish("big", "quick").expect("others are served");
        thread::sleep(Duration::from_millis(10));
    }
    let grown = broker.resident_kib().saturating_sub(before);
    assert!(grown < 96 * 1024, "{grown} KiB for who does not read");
    // Once it reads, it gets all of the first.
    let mut parts = 0;
    let last = idle.until(|frame| {
        parts += 1;
        matches!(
            frame,
            Frame::Answer {
                request: 1,
                part: native::AnswerPart::Last,
                ..
            }
        )
    });
    assert!(
        parts > 64
            && last
                .iter()
                .all(|frame| matches!(frame, Frame::Answer { request: 1, .. }))
    );
}

/// What a client published until its broker was killed.
struct Written {
    stream: String,
    /// Its name, which its payloads begin with.
    writer: String,
    /// Number of the first that was not sent.
    next: u64,
    /// Numbers and their sequences.
    acknowledged: Vec<(u64, u64)>,
}

/// Publishes natively with 64 in flight until the broker is gone.
fn write_natively(port: u16, stream: &str, writer: &str, from: u64) -> Written {
    let topic = format!("{stream}.{writer}");
    let mut raw = NativeClient::connect(port);
    let (mut next, mut acknowledged) = (from, Vec::new());
    // Requests count from 1 on each connection.
    let request_of = |number: u64| (number - from + 1) as u32;
    loop {
        let mut bytes = Vec::new();
        while next < from + acknowledged.len() as u64 + 64 {
            let event = Event::new(&topic, format!("{writer}:{next}"));
            native::write_publish_stored(&mut bytes, request_of(next), &event.message());
            next += 1;
        }
        raw.send(&bytes);
        let is_open = raw.read_each(|frame| match frame {
            BrokerFrame::Stored { first, answers, .. } => {
                let placed = sequences(first, answers).into_iter();
                let placed = placed.map(|(request, at)| (from + u64::from(request) - 1, at));
                acknowledged.extend(placed);
            }
            other => panic!("{other:?}"),
        });
        if !is_open {
            return Written {
                stream: stream.into(),
                writer: writer.into(),
                next,
                acknowledged,
            };
        }
    }
}

/// The same as a client of NATS, by reply topics, with 16 in flight.
fn write_by_nats(port: u16, stream: &str, writer: &str, from: u64) -> Written {
    let topic = format!("{stream}.{writer}");
    let mut nats = NatsClient::connect(port);
    nats.send(&format!("SUB _INBOX.{stream}.{writer}.* 1\r\n"));
    let (mut next, mut acknowledged) = (from, Vec::new());
    loop {
        let mut text = String::new();
        while next < from + acknowledged.len() as u64 + 16 {
            let payload = format!("{writer}:{next}");
            let length = payload.len();
            text +=
                &format!("PUB {topic} _INBOX.{stream}.{writer}.{next} {length}\r\n{payload}\r\n");
            next += 1;
        }
        let is_gone = std::io::Write::write_all(&mut nats.stream(), text.as_bytes()).is_err();
        let said = if is_gone {
            Said::End
        } else {
            nats.said_or_end()
        };
        match said {
            Said::Message(message) => {
                let (_, number) = message.subject.rsplit_once('.').expect("an inbox");
                let ack: serde_json::Value =
                    serde_json::from_slice(&message.payload).expect("a PubAck");
                assert_eq!(ack["stream"], stream, "{ack}");
                let sequence = ack["seq"].as_u64().expect("a sequence");
                acknowledged.push((number.parse().expect("a number"), sequence));
            }
            Said::Line(line) => panic!("{line}"),
            Said::End => {
                return Written {
                    stream: stream.into(),
                    writer: writer.into(),
                    next,
                    acknowledged,
                };
            }
        }
    }
}

/// Compares what stands in a stream with what its writers know: nothing acknowledged is missing or elsewhere, nothing
/// stands there twice, and each writer's messages stand in its order.
fn check_stream(messages: &[StoredMessage], written: &[&Written]) {
    let mut places: HashMap<String, u64> = HashMap::new();
    let mut last: HashMap<String, u64> = HashMap::new();
    for (message, sequence) in messages.iter().zip(1..) {
        assert_eq!(message.sequence, sequence, "sequences have no holes");
        let text = message.text().into_owned();
        let (writer, number) = text.split_once(':').expect("a writer and a number");
        let number: u64 = number.parse().expect("a number");
        let before = last.insert(writer.to_string(), number);
        assert!(
            before < Some(number),
            "{text} behind {before:?} of its writer"
        );
        assert!(places.insert(text, sequence).is_none(), "stored twice");
    }
    for one in written {
        let mut seen = HashSet::new();
        for (number, sequence) in &one.acknowledged {
            assert!(seen.insert(number), "acknowledged twice");
            let text = format!("{}:{number}", one.writer);
            assert_eq!(places.get(&text), Some(sequence), "{}: {text}", one.stream);
        }
    }
}

/// Streams of these tests and who writes to them.
const STREAMS: [&str; 3] = ["red", "green", "blue"];

fn check_kills(shards: usize, rounds: u64) {
    let data = Data::new();
    let mut broker = data.broker(shards);
    let maker = client(&broker);
    for name in STREAMS {
        let made = maker.stream(name).create(&keeping(&format!("{name}.>")));
        assert_eq!(made, Ok(Creation::New));
    }
    drop(maker);
    let mut written: Vec<Written> = Vec::new();
    for round in 0..rounds {
        let (native, nats) = (broker.native_port(), broker.nats_port());
        let threads: Vec<_> = STREAMS
            .iter()
            .flat_map(|&name| ["native", "nats", "second"].map(|kind| (name, kind)))
            .map(|(name, kind)| {
                // Numbers that were sent and not acknowledged are not sent again.
                let from = written
                    .iter()
                    .filter(|one| (&*one.stream, &*one.writer) == (name, kind));
                let from = from.map(|one| one.next).max().unwrap_or(0);
                thread::spawn(move || match kind {
                    "nats" => write_by_nats(nats, name, kind, from),
                    _ => write_natively(native, name, kind, from),
                })
            })
            .collect();
        // Not at the same point of each round, and under load in all of them.
        thread::sleep(Duration::from_millis(150 + 137 * (round % 4)));
        let begun = Instant::now();
        broker.restart();
        let took = begun.elapsed();
        written.extend(threads.into_iter().map(|one| one.join().expect("a writer")));
        let reader = client(&broker);
        let mut all = 0;
        for name in STREAMS {
            let messages = read_all(&reader, name);
            let of = written.iter().filter(|one| one.stream == name);
            check_stream(&messages, &of.collect::<Vec<_>>());
            all += messages.len();
        }
        let acknowledged: usize = written.iter().map(|one| one.acknowledged.len()).sum();
        eprintln!(
            "{shards} shards, round {round}: {acknowledged} acknowledged, {all} stored, up in {took:?}"
        );
        assert!(acknowledged > 0, "nothing was acknowledged before the kill");
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kills_of_a_broker_of_one_shard() {
    check_kills(1, if plays_all() { 20 } else { 3 });
}

#[test]
fn nothing_acknowledged_is_lost_by_kills_of_a_broker_of_two_shards() {
    check_kills(2, if plays_all() { 20 } else { 3 });
}
