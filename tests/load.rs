//! The broker under load, and at its caps: what it keeps in memory is bounded by what `limits.rs` says, and whoever
//! behaves misses nothing.
//!
//! Every test runs with one shard and with two. Times are deadlines against hanging, never marks. The figures that a
//! test prints (`--nocapture`) are for people.

mod common;
#[path = "common/load.rs"]
mod load;
#[path = "common/nats.rs"]
mod nats;

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::Broker;
use common::resp::{RawClient, Value, request};
use load::{
    Crowd, Expected, MIB, Progress, Publisher, Publishing, STUCK_AFTER, alone, baseline_kib,
    broker_with_limits, check_peak, connect_to_shard, counter, event, memory_cap_kib, numbers,
    payload, subscribed, wait_until, want_descriptors,
};
use nats::NatsClient;

fn publish_request(topic: &str, payload: &[u8]) -> Vec<u8> {
    request(&[b"PUBLISH", topic.as_bytes(), payload])
}

/// A publisher of [`payload`]s of one size, repeating after `period`.
fn publisher(
    client: &RawClient,
    topic: &'static str,
    size: usize,
    period: u64,
    publishing: Publishing,
    progress: &Progress,
) -> Publisher {
    let requests: Vec<Vec<u8>> = (0..period)
        .map(|number| publish_request(topic, &payload(0, number, size)))
        .collect();
    Publisher::start(client, publishing, progress.clone(), move |number, out| {
        out.extend_from_slice(&requests[(number % period) as usize]);
    })
}

/// Makes 10,000 subscriptions to topics of their own.
fn subscribe_to_topics(broker: &Broker, place: usize) -> RawClient {
    let mut client = RawClient::connect(broker.port());
    for first in (0..10_000).step_by(1_000) {
        let names: Vec<String> = (first..first + 1_000)
            .map(|number| format!("room.{place}.sensor.{number}.temperature"))
            .collect();
        let names = names.iter().map(String::as_bytes);
        let words: Vec<&[u8]> = std::iter::once(&b"SUBSCRIBE"[..]).chain(names).collect();
        client.send(&request(&words));
        for _ in first..first + 1_000 {
            assert!(matches!(client.value(), Value::Array(_)));
        }
    }
    client
}

/// The same with wildcards of NATS.
fn subscribe_to_wildcards(broker: &Broker, place: usize) -> NatsClient {
    let mut client = NatsClient::connect(broker.nats_port());
    let lines = (0..10_000).map(|number| format!("SUB room.{place}.*.{number} {number}\r\n"));
    client.send(&lines.collect::<String>());
    client.sync();
    client
}

#[test]
fn memory_goes_with_the_subscriptions_that_took_it() {
    const CLIENTS: usize = 10;
    const KIB_WITH_MIN: u64 = 60 * 1024;
    const KIB_AFTER_MAX: u64 = 30 * 1024;
    let _alone = alone();
    let broker = Broker::start(2, &[]);
    let topics: Vec<RawClient> = (0..CLIENTS)
        .map(|place| subscribe_to_topics(&broker, place))
        .collect();
    let mut wildcards: Vec<NatsClient> = (0..CLIENTS)
        .map(|place| subscribe_to_wildcards(&broker, place))
        .collect();
    let with = broker.resident_kib();
    assert!(with > KIB_WITH_MIN, "{with} KiB show nothing");
    // Some go with their connections, which end; the others' stay.
    drop(topics);
    let lines = (0..10_000).map(|number| format!("UNSUB {number}\r\n"));
    let lines = lines.collect::<String>();
    for client in &mut wildcards {
        client.send(&lines);
        client.sync();
    }
    let mut asker = RawClient::connect(broker.port());
    wait_until("no subscription is left", || {
        counter(&mut asker, "subscriptions") == 0
    });
    let ended = Instant::now();
    wait_until("the memory is given back", || {
        broker.resident_kib() < KIB_AFTER_MAX
    });
    println!(
        "{with} KiB with 200,000 subscriptions, {} KiB {:?} after they ended",
        broker.resident_kib(),
        ended.elapsed()
    );
}

#[test]
fn ten_thousand_subscribers_get_every_event_within_the_memory_cap() {
    let _alone = alone();
    want_descriptors(10_500);
    for shards in [1, 2] {
        fan_out(shards);
    }
}

fn fan_out(shards: usize) {
    const SUBSCRIBERS: u64 = 10_000;
    const EVENTS: u64 = 1_500;
    // Who is further behind than this is not healthy, and would be closed: the outboxes of a shard have room for it.
    const LEAD: u64 = 150;
    const OUTBOXES_MIB: u64 = 256;
    let limits = format!("outboxes_bytes_max = \"{OUTBOXES_MIB}MiB\"");
    let (broker, _config) = broker_with_limits(shards, &limits);
    let expected = Expected::new("fan", 128, EVENTS, EVENTS);
    assert!(LEAD * SUBSCRIBERS * expected.frame_bytes() as u64 <= OUTBOXES_MIB * MIB);
    let mut crowd = Crowd::new();
    for _ in 0..SUBSCRIBERS {
        crowd.add(subscribed(broker.port(), "fan"), 0u64);
    }
    let mut client = RawClient::connect(broker.port());
    let baseline = baseline_kib(&broker);
    let progress = Progress::default();
    let publishing = Publishing {
        events: EVENTS,
        lead: LEAD,
        receivers: SUBSCRIBERS,
    };
    let publisher = publisher(&client, "fan", 128, EVENTS, publishing, &progress);
    expected.all_arrive(&mut crowd, &progress);
    assert_eq!(publisher.join(), EVENTS);
    let cap = memory_cap_kib(shards, SUBSCRIBERS, OUTBOXES_MIB * MIB);
    check_peak("10,000 subscribers", &broker, baseline, cap);
    assert_eq!(
        counter(&mut client, "events_delivered"),
        EVENTS * SUBSCRIBERS
    );
    assert_eq!(counter(&mut client, "closed_outbox_full"), 0);
    assert_eq!(counter(&mut client, "closed_outboxes_full"), 0);
}

#[test]
fn stalled_readers_are_closed_and_counted_while_a_gigabyte_passes() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut client = RawClient::connect(broker.port());
        // Half of it below the size from which payloads are shared, half above.
        pass_stalled_reader(&broker, &mut client, 1024, 1);
        pass_stalled_reader(&broker, &mut client, 64 * 1024, 2);
    }
}

fn pass_stalled_reader(broker: &Broker, client: &mut RawClient, size: usize, stalled: u64) {
    const HEALTHY: usize = 3;
    const LEAD_BYTES: u64 = 16 * MIB;
    const OUTBOX_BYTES: u64 = 32 * MIB;
    let period = 512;
    let events = 512 * MIB / size as u64;
    let expected = Expected::new("past", size, period, events);
    let mut crowd = Crowd::new();
    for _ in 0..HEALTHY {
        crowd.add(subscribed(broker.port(), "past"), 0u64);
    }
    let mut sleeper = subscribed(broker.port(), "past");
    let baseline = baseline_kib(broker);
    let progress = Progress::default();
    // The count in the replies drops by one when the stalled reader is closed, so only a part is compared: the count of
    // healthy ones is that of the last reply.
    let publisher = {
        let requests: Vec<Vec<u8>> = (0..period)
            .map(|number| publish_request("past", &payload(0, number, size)))
            .collect();
        let publishing = Publishing {
            events,
            lead: LEAD_BYTES / size as u64,
            receivers: Publishing::ANY_DIGIT,
        };
        Publisher::start(client, publishing, progress.clone(), move |number, out| {
            out.extend_from_slice(&requests[(number % period) as usize]);
        })
    };
    expected.all_arrive(&mut crowd, &progress);
    assert_eq!(publisher.join(), events);
    let outboxes = OUTBOX_BYTES + HEALTHY as u64 * LEAD_BYTES;
    let cap = memory_cap_kib(broker.shards(), 1 + HEALTHY as u64, outboxes);
    check_peak(
        &format!("512 MiB in payloads of {size} bytes past a stalled reader"),
        broker,
        baseline,
        cap,
    );
    assert_eq!(counter(client, "closed_outbox_full"), stalled);
    // What it finds when it wakes up is a part of the stream, then the end.
    let mut part = Vec::new();
    sleeper.set_read_timeout(Some(STUCK_AFTER)).unwrap();
    let end = sleeper.read_to_end(&mut part);
    assert!(
        end.is_ok() || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    );
    expected.check(0, &part);
}

#[test]
fn headers_that_promise_gigabytes_cost_less_than_a_mebibyte() {
    let _alone = alone();
    want_descriptors(2_500);
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        // The connections themselves are not what is measured here: they are there before.
        let mut clients: Vec<RawClient> = (0..1_000)
            .map(|_| RawClient::connect(broker.port()))
            .collect();
        for client in &mut clients {
            assert_eq!(client.call(&["PING"]), Value::Simple("PONG".to_string()));
        }
        let baseline = baseline_kib(&broker);
        for client in &mut clients {
            client.send(b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$67108864\r\n");
        }
        let mut client = RawClient::connect(broker.port());
        wait_until("all headers were read", || {
            counter(&mut client, "input_bytes") >= 1_000 * 35
        });
        check_peak("1,000 promises of 64 MiB", &broker, baseline, 1024);
        for _ in 0..1_000 {
            let mut liar = RawClient::connect(broker.port());
            liar.send(b"*1\r\n$4294967296\r\n");
            assert_eq!(
                liar.value(),
                Value::Error("ERR Protocol error: invalid bulk length".to_string())
            );
            liar.expect_close();
        }
        check_peak("and 1,000 promises of 4 GiB", &broker, baseline, 1024);
        assert_eq!(counter(&mut client, "closed_protocol"), 1_000);
    }
}

/// What a subscriber of the flood remembers: what came of an unfinished frame, and the next number of each publisher.
#[derive(Default)]
struct Flooded {
    unread: Vec<u8>,
    next: [u64; FLOOD_PUBLISHERS],
}

const FLOOD_PUBLISHERS: usize = 4;
const FLOOD_SUBSCRIBERS: usize = 4;
const FLOOD_PAYLOAD_BYTES: usize = 128;
/// Two publishers of a shard are together this far ahead at most: eight times what fits between two shards below.
const FLOOD_LEAD_BYTES: u64 = 2 * MIB;

#[test]
fn a_flood_in_both_directions_between_shards_ends_with_every_event_in_order() {
    let _alone = alone();
    let seconds = std::env::var("SAPWOOD_FLOOD_SECONDS").map_or(5, |text| {
        text.parse().expect("SAPWOOD_FLOOD_SECONDS is a number")
    });
    for shards in [1, 2] {
        // The default caps, and caps so small that they are reached all the time.
        flood(shards, Duration::from_secs(seconds).div_f32(2.0), "");
        let small = "handover_window_bytes = \"64KiB\"\nhandover_backlog_bytes = \"64KiB\"";
        flood(shards, Duration::from_secs(seconds).div_f32(2.0), small);
    }
}

fn flood(shards: usize, time: Duration, limits: &str) {
    let (broker, _config) = broker_with_limits(shards, limits);
    let port = broker.port();
    let mut crowd = Crowd::new();
    for number in 0..FLOOD_SUBSCRIBERS {
        let mut subscriber = connect_to_shard(port, number % shards);
        subscriber.call(&["SUBSCRIBE", "flood"]);
        crowd.add(subscriber.stream().try_clone().unwrap(), Flooded::default());
    }
    let clients: Vec<RawClient> = (0..FLOOD_PUBLISHERS)
        .map(|number| connect_to_shard(port, number % shards))
        .collect();
    let baseline = baseline_kib(&broker);
    let progress: [Progress; FLOOD_PUBLISHERS] = Default::default();
    let publishers = start_flood(&clients, &progress);
    let end = Instant::now() + time;
    while Instant::now() < end {
        read_flood(&mut crowd, &progress);
    }
    publishers.iter().for_each(Publisher::stop);
    while !publishers.iter().all(Publisher::is_done) {
        read_flood(&mut crowd, &progress);
    }
    let published: Vec<u64> = publishers.into_iter().map(Publisher::join).collect();
    finish_flood(&mut crowd, &progress, &published);
    let frame_bytes = event("flood", &[0; FLOOD_PAYLOAD_BYTES]).len() as u64;
    let lead = FLOOD_LEAD_BYTES / FLOOD_PAYLOAD_BYTES as u64 * frame_bytes;
    let outboxes = lead * (FLOOD_PUBLISHERS * FLOOD_SUBSCRIBERS) as u64;
    let cap = memory_cap_kib(shards, FLOOD_SUBSCRIBERS as u64, outboxes);
    check_peak("flood", &broker, baseline, cap);
    let mut client = RawClient::connect(port);
    println!(
        "flood, {shards} shards: {} events, {} handed over, {} stalls of publishers",
        published.iter().sum::<u64>(),
        counter(&mut client, "events_handed_over"),
        counter(&mut client, "stalled_publishers"),
    );
    assert_eq!(counter(&mut client, "closed_outbox_full"), 0);
    assert_eq!(counter(&mut client, "handover_backlog_bytes"), 0);
    if shards > 1 {
        assert_eq!(
            counter(&mut client, "events_handed_over"),
            published.iter().sum::<u64>()
        );
    }
}

/// One publisher at each of the connections, all on one topic.
fn start_flood(clients: &[RawClient], progress: &[Progress; FLOOD_PUBLISHERS]) -> Vec<Publisher> {
    (0..FLOOD_PUBLISHERS)
        .map(|publisher| {
            let publishing = Publishing {
                events: u64::MAX,
                lead: FLOOD_LEAD_BYTES / FLOOD_PAYLOAD_BYTES as u64,
                receivers: FLOOD_SUBSCRIBERS as u64,
            };
            let progress = progress[publisher].clone();
            Publisher::start(
                &clients[publisher],
                publishing,
                progress,
                move |number, out| {
                    let payload = payload(publisher, number, FLOOD_PAYLOAD_BYTES);
                    out.extend_from_slice(&publish_request("flood", &payload));
                },
            )
        })
        .collect()
}

/// Reads until every subscriber has all that was published.
fn finish_flood(
    crowd: &mut Crowd<Flooded>,
    progress: &[Progress; FLOOD_PUBLISHERS],
    published: &[u64],
) {
    let deadline = Instant::now() + STUCK_AFTER;
    while !crowd
        .members
        .iter()
        .flatten()
        .all(|(_, flooded)| flooded.next[..] == published[..])
    {
        assert!(
            Instant::now() < deadline,
            "of {published:?} there came {:?}",
            crowd
                .members
                .iter()
                .flatten()
                .map(|(_, flooded)| flooded.next)
                .collect::<Vec<_>>()
        );
        read_flood(crowd, progress);
    }
}

/// Reads what has come and checks it: every publisher's events are numbered without a gap.
fn read_flood(crowd: &mut Crowd<Flooded>, progress: &[Progress; FLOOD_PUBLISHERS]) {
    let head = event("flood", &[0; FLOOD_PAYLOAD_BYTES]);
    let head = &head[..head.len() - FLOOD_PAYLOAD_BYTES - 2];
    let frame_bytes = head.len() + FLOOD_PAYLOAD_BYTES + 2;
    crowd.read(|place, flooded, bytes| {
        assert!(!bytes.is_empty(), "subscriber {place} was closed");
        flooded.unread.extend_from_slice(bytes);
        let mut frames = flooded.unread.chunks_exact(frame_bytes);
        for frame in &mut frames {
            assert!(frame.starts_with(head), "a broken frame");
            let body = &frame[head.len()..head.len() + FLOOD_PAYLOAD_BYTES];
            let (publisher, number) = numbers(body);
            assert_eq!(number, flooded.next[publisher], "publisher {publisher}");
            assert!(body == payload(publisher, number, FLOOD_PAYLOAD_BYTES));
            flooded.next[publisher] += 1;
        }
        let rest = frames.remainder().len();
        flooded.unread.drain(..flooded.unread.len() - rest);
    });
    for (publisher, progress) in progress.iter().enumerate() {
        let slowest = crowd.members.iter().flatten();
        let slowest = slowest.map(|(_, flooded)| flooded.next[publisher]).min();
        progress.set(slowest.expect("there are subscribers"));
    }
}

#[test]
fn an_idle_subscribed_connection_costs_at_most_2_kib() {
    const COUNT: u64 = 4_000;
    let _alone = alone();
    want_descriptors(4_500);
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        // What a first connection brings in once and for all: code, tables, receive buffers.
        for round in 0..200 {
            let topic = format!("warm:{round}");
            let _subscriber = subscribed(broker.port(), &topic);
            RawClient::connect(broker.port()).call(&["PUBLISH", &topic, "hello"]);
        }
        let before = broker.resident_kib();
        // A topic each: nothing is shared between them.
        let idle: Vec<TcpStream> = (0..COUNT)
            .map(|number| subscribed(broker.port(), &format!("idle:{number}")))
            .collect();
        let growth = broker.resident_kib() - before;
        println!(
            "{COUNT} idle subscribed connections, {shards} shards: {:.2} KiB each",
            growth as f64 / COUNT as f64
        );
        assert!(growth <= 2 * COUNT, "{growth} KiB for {COUNT} connections");
        let mut client = RawClient::connect(broker.port());
        assert_eq!(
            client.call(&["PUBLISH", "idle:77", "hello"]),
            Value::Integer(1)
        );
        drop(idle);
    }
}

#[test]
fn payloads_of_every_size_up_to_the_cap_reach_subscribers_on_all_shards() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut subscribers: Vec<RawClient> = (0..2 * shards)
            .map(|number| {
                let mut subscriber = connect_to_shard(broker.port(), number % shards);
                subscriber.call(&["SUBSCRIBE", "sizes"]);
                subscriber
            })
            .collect();
        let mut publishers: Vec<RawClient> = (0..shards)
            .map(|shard| connect_to_shard(broker.port(), shard))
            .collect();
        let sizes = [
            0,
            1,
            16,
            16 * 1024 - 1,
            16 * 1024,
            64 * 1024,
            1024 * 1024,
            64 * 1024 * 1024,
        ];
        for size in sizes {
            let body: Vec<u8> = (0..size).map(|at| (at * 31 + at / 251) as u8).collect();
            let publisher = &mut publishers[size % shards];
            publisher.send(&publish_request("sizes", &body));
            assert_eq!(
                publisher.value(),
                Value::Integer(subscribers.len() as i64),
                "{size} bytes"
            );
            for subscriber in &mut subscribers {
                let words = [
                    Value::bulk("message"),
                    Value::bulk("sizes"),
                    Value::bulk(&body),
                ];
                let is_whole = subscriber.value() == Value::Array(words.to_vec());
                assert!(is_whole, "a payload of {size} bytes came otherwise");
            }
        }
        let mut publisher = RawClient::connect(broker.port());
        publisher.send(b"*3\r\n$7\r\nPUBLISH\r\n$5\r\nsizes\r\n$67108865\r\n");
        assert_eq!(
            publisher.value(),
            Value::Error("ERR Protocol error: invalid bulk length".to_string())
        );
        publisher.expect_close();
        assert_eq!(
            publishers[0].call(&["PUBLISH", "sizes", "last"]),
            Value::Integer(subscribers.len() as i64)
        );
        let payload_bytes: usize = sizes.iter().sum();
        assert!(counter(&mut publishers[0], "bytes_in") > payload_bytes as u64);
        wait_until("no payload is kept", || {
            let kept = ["shared_body_bytes", "outbox_bytes", "input_bytes"];
            kept.iter()
                .all(|name| counter(&mut publishers[0], name) == 0)
        });
    }
}
