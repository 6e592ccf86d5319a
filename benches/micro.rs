//! What the broker's core and its parsers cost by themselves: shards in one thread, without sockets.
//!
//! `cargo bench --bench micro`, or with a part of a name behind it: `cargo bench --bench micro -- match/`. Times are
//! those of one message, but for `fanout`, where they are those of one publish, `runs`, where they are those of one
//! read, `interest`, where they are those of a subscription and its end, and `node`, where they are those of one frame;
//! the rates of the first two are in deliveries.
//! What stands in `sapwood_core` is driven through `Shard::handle`, as the server does it, so that what is
//! measured is what runs; a message to nobody is the least that it can cost.

#[path = "../tests/common/shards.rs"]
mod shards;

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sapwood_wire::native::{self, Parsed};
use sapwood_wire::node::events::{Event, Events, EventsHead, Route, Space, write_events};
use sapwood_wire::node::interest::Beat;
use sapwood_wire::node::{self, Frame, NodeId};
use sapwood_wire::resp::{Parser, Progress, RequestLimits};
use shards::{Client, Node, native_message, resp_publish, resp_request};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Messages in one read of a publisher, where reads are not counted in bytes.
const MESSAGES_EACH_READ: usize = 256;

/// What one read of a publisher holds at most, where it is full.
const READ_BYTES: usize = 64 * 1024;

/// Subscriptions of one connection: several connections share a million of them.
const SUBSCRIPTIONS_EACH: usize = 100_000;

/// Topics that are busy where only few of all are.
const BUSY_TOPICS: usize = 64;

/// A prime: its multiples visit every one of a round number of topics, none near the one before.
const STRIDE: usize = 618_041;

/// How large the payload is where only the topic counts.
const SMALL_BYTES: usize = 16;

const PAYLOADS: &[(&str, usize)] = &[("16B", 16), ("128B", 128), ("64KiB", 64 * 1024)];

const COUNTS: &[(&str, usize)] = &[("1", 1), ("1k", 1_000), ("1M", 1_000_000)];

const WILDCARD_COUNTS: &[(&str, usize)] = &[("1", 1), ("1k", 1_000), ("100k", 100_000)];

/// Globs are matched one after the other, and capped at 16,384 for it.
const GLOB_COUNTS: &[(&str, usize)] = &[("1", 1), ("100", 100), ("1k", 1_000)];

/// Measures `pass`, which deals with so many messages, as the time of one.
fn each_message(bencher: &mut Bencher<'_>, messages: usize, mut pass: impl FnMut()) {
    bencher.iter_custom(|wanted| {
        let passes = wanted.div_ceil(messages as u64);
        let start = Instant::now();
        (0..passes).for_each(|_| pass());
        let share = wanted as f64 / (passes * messages as u64) as f64;
        start.elapsed().mul_f64(share)
    });
}

/// A publisher's reads, one after the other and again from the first.
struct Reads {
    publisher: Client,
    reads: Vec<Vec<u8>>,
    next: usize,
}

impl Reads {
    /// Reads of the native protocol with a small message to each of these topics.
    fn to(publisher: Client, topics: &[String]) -> Reads {
        let reads = topics.chunks_exact(MESSAGES_EACH_READ).map(|topics| {
            let messages = topics
                .iter()
                .map(|topic| native_message(topic, SMALL_BYTES));
            messages.flatten().collect()
        });
        Reads {
            publisher,
            reads: reads.collect(),
            next: 0,
        }
    }

    fn pass(&mut self, node: &mut Node) {
        node.give(self.publisher, &self.reads[self.next]);
        node.turn();
        self.next = (self.next + 1) % self.reads.len();
    }
}

/// So many topics that visit all of `count` before one comes again; at least four reads of them.
fn visits(count: usize, topic: impl Fn(usize, usize) -> String) -> Vec<String> {
    let reads = (count / MESSAGES_EACH_READ).max(4);
    let visits = (0..reads * MESSAGES_EACH_READ).map(|visit| topic(visit, visit * STRIDE % count));
    visits.collect()
}

fn exact_topic(number: usize) -> String {
    format!("device.{number:07}.temperature")
}

/// A node where so many topics have one subscriber each, on shard 0.
fn with_topics(shards: u16, count: usize) -> Node {
    let mut node = Node::new(shards);
    let topics: Vec<String> = (0..count).map(exact_topic).collect();
    for topics in topics.chunks(SUBSCRIPTIONS_EACH) {
        let client = node.connect_resp2(0);
        node.subscribe_resp(client, "SUBSCRIBE", topics.iter().map(String::as_str));
    }
    node
}

/// A node and what is published there, made when the first benchmark that is not filtered out needs it.
type Prepared = Option<(Node, Reads)>;

fn bench_match(
    criterion: &mut Criterion,
    name: (&str, &str),
    prepared: &mut Prepared,
    prepare: impl Fn() -> (Node, Reads),
) {
    let mut group = criterion.benchmark_group("match");
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::new(name.0, name.1), |bencher| {
        let (node, reads) = prepared.get_or_insert_with(&prepare);
        each_message(bencher, MESSAGES_EACH_READ, || reads.pass(node));
    });
    group.finish();
}

/// A publish among exact topics: `exact` visits all of them; `busy` only 64 of them, so that the processor's caches
/// hold what is needed; `miss` is heard by nobody; `last` is to the topic of the message before, which is not looked
/// up. Where only one topic is listened to, every other message of `exact` is to another one.
fn match_exact(criterion: &mut Criterion) {
    type Topics = fn(usize) -> Vec<String>;
    let ways: [(&str, Topics); 4] = [
        ("exact", |count| {
            visits(count, |visit, number| match (count, visit % 2) {
                (1, 1) => exact_topic(1),
                _ => exact_topic(number),
            })
        }),
        ("busy", |count| {
            let busy = count.min(BUSY_TOPICS);
            visits(busy, |visit, number| {
                exact_topic((number * (count / busy)).max(visit % 2))
            })
        }),
        ("miss", |count| {
            visits(count.max(1_000), |_, number| {
                format!("absent.{number:07}.temperature")
            })
        }),
        ("last", |count| visits(1, |_, _| exact_topic(count / 2))),
    ];
    for &(label, count) in COUNTS {
        // One node for all ways: making the largest takes seconds.
        let mut prepared: Prepared = None;
        for (way, topics) in ways {
            if let Some((_, reads)) = &mut prepared {
                *reads = Reads::to(reads.publisher, &topics(count));
            }
            bench_match(criterion, (way, label), &mut prepared, || {
                let mut node = with_topics(1, count);
                let publisher = node.connect_native(0);
                let reads = Reads::to(publisher, &topics(count));
                (node, reads)
            });
        }
    }
}

/// A publish among token wildcards of four shapes, half of which begin with `*`; each topic matches one of them. Where
/// there is only one, two topics take turns.
fn match_wildcards(criterion: &mut Criterion) {
    for &(label, count) in WILDCARD_COUNTS {
        bench_match(criterion, ("wildcard", label), &mut None, || {
            let mut node = Node::new(1);
            let filters: Vec<String> = (0..count).map(wildcard).collect();
            let client = node.connect_native(0);
            node.subscribe_native(client, ("", 0), filters.iter().map(String::as_str));
            let publisher = node.connect_native(0);
            let topics = visits(count, |visit, number| match number % 4 {
                0 | 1 => format!("device.{number}.port{}", visit % 2),
                _ => format!("any{}.{number}.temperature", visit % 2),
            });
            (node, Reads::to(publisher, &topics))
        });
    }
}

fn wildcard(number: usize) -> String {
    match number % 4 {
        0 => format!("device.{number}.*"),
        1 => format!("device.{number}.>"),
        2 => format!("*.{number}.temperature"),
        _ => format!("*.{number}.>"),
    }
}

/// A publish among globs of Redis, one of which matches: each of them is tried, so this grows with them.
fn match_globs(criterion: &mut Criterion) {
    for &(label, count) in GLOB_COUNTS {
        bench_match(criterion, ("glob", label), &mut None, || {
            let mut node = Node::new(1);
            let globs: Vec<String> = (0..count)
                .map(|number| format!("device.{number}.*"))
                .collect();
            let client = node.connect_resp2(0);
            node.subscribe_resp(client, "PSUBSCRIBE", globs.iter().map(String::as_str));
            let publisher = node.connect_native(0);
            let topics = visits(count, |visit, number| {
                format!("device.{number}.port{}", visit % 2)
            });
            (node, Reads::to(publisher, &topics))
        });
    }
}

/// As many of one message as a read holds, at least one.
fn full_read(message: &[u8]) -> (Vec<u8>, usize) {
    let messages = (READ_BYTES / message.len()).max(1);
    (message.repeat(messages), messages)
}

fn throughput(message: &[u8]) -> Throughput {
    Throughput::ElementsAndBytes {
        elements: 1,
        bytes: message.len() as u64,
    }
}

/// Requests of Redis and native frames, parsed one after the other out of a full read.
fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for &(label, payload_bytes) in PAYLOADS {
        let message = resp_publish("device.0000001.temperature", payload_bytes);
        let (read, messages) = full_read(&message);
        group.throughput(throughput(&message));
        group.bench_function(BenchmarkId::new("resp", label), |bencher| {
            let mut parser = Parser::new();
            each_message(bencher, messages, || {
                let mut at = 0;
                while let Ok(Progress::Request { length }) =
                    parser.parse(&read[at..], &RequestLimits::MEMBER)
                {
                    black_box(parser.arguments(&read[at..]).get(2));
                    at += length;
                }
                assert_eq!(at, read.len());
            });
        });
        let message = native_message("device.0000001.temperature", payload_bytes);
        let (read, messages) = full_read(&message);
        group.throughput(throughput(&message));
        group.bench_function(BenchmarkId::new("native", label), |bencher| {
            each_message(bencher, messages, || {
                let mut at = 0;
                while let Ok(Parsed::Frame { frame, length }) =
                    native::parse_from_client(&read[at..], usize::MAX)
                {
                    black_box(frame);
                    at += length;
                }
                assert_eq!(at, read.len());
            });
        });
    }
    group.finish();
}

/// How clients take events, and how one is connected to shard 0.
type Form = (&'static str, fn(&mut Node) -> Client);

const FORMS: &[Form] = &[
    ("resp2", |node| node.connect_resp2(0)),
    ("resp3", |node| node.connect_resp3(0)),
    ("native", |node| node.connect_native(0)),
];

/// A topic with so many subscribers of a form.
fn with_subscribers((form, connect): Form, subscribers: usize) -> Node {
    let mut node = Node::new(1);
    for _ in 0..subscribers {
        let client = connect(&mut node);
        match form {
            "native" => node.subscribe_native(client, ("", 0), ["device.0000001.temperature"]),
            _ => node.subscribe_resp(client, "SUBSCRIBE", ["device.0000001.temperature"]),
        }
    }
    node
}

/// A full read of one topic's native messages, encoded for its only subscriber. What is not encoding in it is
/// `encode/none`, where nobody subscribes: parsing, and comparing the topic with that of the message before.
fn encode(criterion: &mut Criterion) {
    let nobody: Form = ("none", FORMS[2].1);
    let mut group = criterion.benchmark_group("encode");
    for &(label, payload_bytes) in PAYLOADS {
        let message = native_message("device.0000001.temperature", payload_bytes);
        let (read, messages) = full_read(&message);
        group.throughput(throughput(&message));
        for &form in FORMS.iter().chain([&nobody]) {
            group.bench_function(BenchmarkId::new(form.0, label), |bencher| {
                let mut node = with_subscribers(form, usize::from(form.0 != "none"));
                let publisher = node.connect_native(0);
                each_message(bencher, messages, || {
                    node.give(publisher, &read);
                    node.turn();
                });
            });
        }
    }
    group.finish();
}

/// One publish of 128 bytes to many subscribers of one form; each takes what stands for it before the next.
fn fanout(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fanout");
    let message = native_message("device.0000001.temperature", 128);
    for &form in FORMS {
        for (label, subscribers) in [("1", 1), ("100", 100), ("10k", 10_000)] {
            group.throughput(Throughput::Elements(subscribers as u64));
            group.bench_function(BenchmarkId::new(form.0, label), |bencher| {
                let mut node = with_subscribers(form, subscribers);
                let publisher = node.connect_native(0);
                bencher.iter(|| {
                    node.give(publisher, &message);
                    node.turn();
                });
            });
        }
    }
    group.finish();
}

/// Runs of one topic, 64 publishes of 128 bytes in a read, to many native subscribers, or to one of another shard.
fn runs(criterion: &mut Criterion) {
    const PUBLISHES: usize = 64;
    let mut group = criterion.benchmark_group("runs");
    let read = native_message("device.0000001.temperature", 128).repeat(PUBLISHES);
    for (label, subscribers) in [("1", 1), ("100", 100), ("10k", 10_000)] {
        group.throughput(Throughput::Elements((PUBLISHES * subscribers) as u64));
        group.bench_function(label, |bencher| {
            let mut node = with_subscribers(FORMS[2], subscribers);
            let publisher = node.connect_native(0);
            bencher.iter(|| {
                node.give(publisher, &read);
                node.turn();
            });
        });
    }
    group.throughput(Throughput::Elements(PUBLISHES as u64));
    group.bench_function("1 of another shard", |bencher| {
        let mut node = Node::new(2);
        let client = node.connect_native(1);
        node.subscribe_native(client, ("", 0), ["device.0000001.temperature"]);
        let publisher = node.connect_native(0);
        bencher.iter(|| {
            node.give(publisher, &read);
            node.turn();
        });
    });
    group.finish();
}

/// A subscription to a new topic and its end, each told to another shard, known there and confirmed, while both shards
/// know so many other topics.
fn interest(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("interest");
    for &(label, count) in COUNTS {
        let mut prepared: Option<(Node, Client)> = None;
        group.bench_function(label, |bencher| {
            let (node, client) = prepared.get_or_insert_with(|| {
                let mut node = with_topics(2, count);
                let client = node.connect_resp2(0);
                (node, client)
            });
            let (subscribe, unsubscribe) = (
                resp_request(&["SUBSCRIBE", "another.topic"]),
                resp_request(&["UNSUBSCRIBE", "another.topic"]),
            );
            bencher.iter(|| {
                node.give(*client, &subscribe);
                node.give(*client, &unsubscribe);
                node.turn();
            });
        });
    }
    group.finish();
}

/// A publish among a thousand topics with a subscriber each, while another client subscribes to a topic of its own and
/// leaves it between one read and the next; `alone` is the same without that one. Of both times, that of the churn
/// itself is a part.
fn churn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("churn");
    group.throughput(Throughput::Elements(1));
    for (label, shard) in [
        ("alone", None),
        ("same shard", Some(0)),
        ("other shard", Some(1)),
    ] {
        group.bench_function(label, |bencher| {
            let mut node = with_topics(2, 1_000);
            let publisher = node.connect_native(0);
            let mut reads = Reads::to(publisher, &visits(1_000, |_, number| exact_topic(number)));
            let client = shard.map(|shard| node.connect_resp2(shard));
            each_message(bencher, MESSAGES_EACH_READ, || {
                if let Some(client) = client {
                    node.subscribe_resp(client, "SUBSCRIBE", ["another.topic"]);
                    node.subscribe_resp(client, "UNSUBSCRIBE", ["another.topic"]);
                }
                reads.pass(&mut node);
            });
        });
    }
    group.finish();
}

/// Frames between nodes: 64 events of 128 bytes, written, read, and written for the next node; and a beat.
fn node_frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("node");
    let payload = [b'x'; 128];
    let event = Event {
        flags: 0,
        attributes: b"",
        payload: &payload,
    };
    let head = EventsHead {
        origin: NodeId(1),
        incarnation: 1,
        lane: 0,
        first: 1,
        topic: b"device.0000001.temperature",
        space: Space::Topic,
        route: Route::default(),
    };
    let events = std::iter::repeat_n(event, 64);
    let mut frame = Vec::new();
    write_events(&mut frame, 1, &head, events.clone());
    group.throughput(Throughput::Elements(64));
    let mut out = Vec::with_capacity(frame.len());
    group.bench_function("write/64 of 128B", |bencher| {
        bencher.iter(|| {
            out.clear();
            write_events(&mut out, 1, &head, black_box(events.clone()));
        });
    });
    group.bench_function("read/64 of 128B", |bencher| {
        bencher.iter(|| {
            let events = Events::read(&whole_frame(black_box(&frame)));
            let events = events.expect("events");
            events.iter().for_each(|event| {
                black_box(event);
            });
        });
    });
    group.bench_function("pass on/64 of 128B", |bencher| {
        let events = Events::read(&whole_frame(&frame)).expect("events");
        bencher.iter(|| {
            out.clear();
            black_box(&events).write_to(Route::default(), 1, &mut out);
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("write and read/beat", |bencher| {
        bencher.iter(|| {
            out.clear();
            black_box(Beat::default()).write(1, &mut out);
            Beat::read(&whole_frame(&out)).expect("a beat")
        });
    });
    group.finish();
}

fn whole_frame(bytes: &[u8]) -> Frame<'_> {
    match node::parse(bytes, 1, bytes.len()) {
        Ok(node::Parsed::Frame(frame, _)) => frame,
        other => panic!("no frame: {other:?}"),
    }
}

criterion_group! {
    name = micro;
    // Short, because what is measured allocates nothing and has settled after a few rounds; a change of a tenth
    // shows all the same.
    config = Criterion::default()
        .sample_size(20)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_000));
    targets = match_exact, match_wildcards, match_globs, parse, encode, fanout, runs, interest, churn, node_frames
}
criterion_main!(micro);
