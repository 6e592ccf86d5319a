//! What happens to clients that read too slowly, by every policy: memory stays flat, nobody else misses anything, and
//! what the slow one lost is said exactly.
//!
//! A publisher numbers its events over all topics. `SAPWOOD_STALL_MIB=1024` lets a gigabyte pass by the caps that a
//! broker has unless told otherwise; without it less passes by smaller caps.

mod common;
#[path = "common/load.rs"]
mod load;

use std::io::Write;
use std::net::TcpStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::Broker;
use common::native::{Decoder, Event, NativeClient};
use common::resp::{RawClient, Value, request};
use load::{
    Crowd, File, MIB, Progress, STUCK_AFTER, alone, baseline_kib, check_peak, connect_to_shard,
    counter, memory_cap_kib,
};
use rustix::net::sockopt;
use sapwood_wire::native::{self, BrokerFrame, Policy, kind};

/// Fewer than a megabyte of answers, which count like all that waits.
const PINGS_MAX: u32 = 10_000;

/// How much passes, and by which caps.
struct Volume {
    bytes: u64,
    outbox_bytes: u64,
    config: Option<File>,
}

impl Volume {
    fn chosen() -> Volume {
        match std::env::var("SAPWOOD_STALL_MIB") {
            Ok(text) => {
                let mib: u64 = text.parse().expect("SAPWOOD_STALL_MIB is a number");
                Volume {
                    bytes: mib * MIB,
                    outbox_bytes: 32 * MIB,
                    config: None,
                }
            }
            Err(_) => Volume {
                bytes: 32 * MIB,
                outbox_bytes: 6 * MIB,
                config: Some(File::new("[limits]\noutbox_bytes_max = \"6MiB\"\n")),
            },
        }
    }

    fn broker(&self, shards: usize, arguments: &[&str]) -> Broker {
        let mut all = arguments.to_vec();
        if let Some(config) = &self.config {
            all.extend(["--config", config.path()]);
        }
        Broker::start(shards, &all)
    }

    /// How far the publisher may be ahead of those who read: below every policy's threshold.
    fn lead_bytes(&self) -> u64 {
        self.outbox_bytes / 2
    }
}

/// The events of a publisher: of one size, their topics in turn.
#[derive(Clone, Copy)]
struct Stream {
    size: usize,
    topics: u64,
    /// Small events for those who read, beside each of them.
    noise: u64,
}

impl Stream {
    fn new(size: usize, topics: u64) -> Stream {
        Stream {
            size,
            topics,
            noise: 0,
        }
    }

    fn events(&self, volume: &Volume) -> u64 {
        // What surrounds a small event costs more than it.
        volume.bytes / (self.size as u64).max(64)
    }

    fn topic(&self, number: u64) -> String {
        format!("p.{}", number % self.topics)
    }

    fn payload(&self, number: u64) -> Vec<u8> {
        let mut payload = number.to_le_bytes().to_vec();
        let filler = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        payload.extend(filler.iter().cycle().take(self.size - 8));
        payload
    }

    /// The number of an event, which must be whole and unchanged.
    fn check(&self, topic: &[u8], payload: &[u8]) -> u64 {
        assert_eq!(payload.len(), self.size, "a cut event");
        let (number, filler) = payload.split_at(8);
        let number = u64::from_le_bytes(number.try_into().expect("eight bytes"));
        let expected = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        let mut pieces = filler.chunks(8);
        assert!(
            pieces.all(|piece| *piece == expected[..piece.len()]),
            "event {number} was changed"
        );
        assert_eq!(topic, self.topic(number).as_bytes());
        number
    }

    /// Publishes all of it in a thread of its own, ahead of those who read by the lead at most; then `end`.
    fn publish(
        self,
        mut client: NativeClient,
        volume: &Volume,
        progress: &Progress,
    ) -> JoinHandle<()> {
        let events = self.events(volume);
        let lead = volume.lead_bytes() / (self.size as u64 + 64) / (1 + self.noise);
        assert!(lead >= 2, "events too large for the cap");
        let progress = progress.clone();
        thread::spawn(move || {
            let noise = Event::new("noise", [b'n'; 100]).message();
            let mut bytes = Vec::new();
            let mut number = 0;
            let mut waiting_since = Instant::now();
            while number < events {
                let until = (progress.events() + lead).min(events);
                if number + lead / 2 > until && until < events {
                    assert!(waiting_since.elapsed() < STUCK_AFTER, "nobody reads on");
                    thread::sleep(Duration::from_micros(200));
                    continue;
                }
                bytes.clear();
                while number < until && bytes.len() < 256 * 1024 {
                    let event = Event::new(&self.topic(number), self.payload(number));
                    native::write_message(&mut bytes, &event.message());
                    (0..self.noise).for_each(|_| native::write_message(&mut bytes, &noise));
                    number += 1;
                }
                client
                    .stream()
                    .write_all(&bytes)
                    .expect("the broker reads on");
                waiting_since = Instant::now();
            }
            client.publish(&Event::new("end", ""));
            assert_eq!(client.ping(), [], "something was refused");
        })
    }
}

/// One who reads all the time.
#[derive(Default)]
struct Healthy {
    decoder: Decoder,
    next: u64,
    noise: u64,
    has_ended: bool,
}

impl Healthy {
    fn take(&mut self, bytes: &[u8], stream: &Stream) {
        let Healthy {
            decoder,
            next,
            noise,
            has_ended,
        } = self;
        decoder.feed(bytes, |frame| match frame {
            BrokerFrame::Message(message) if message.topic == b"end" => *has_ended = true,
            BrokerFrame::Message(message) if message.topic == b"noise" => *noise += 1,
            BrokerFrame::Message(message) => {
                assert_eq!(stream.check(message.topic, message.payload), *next);
                *next += 1;
            }
            other => panic!("a healthy reader gets {other:?}"),
        });
    }
}

/// A broker, two who read and one publisher of it.
struct Scene<'a> {
    volume: &'a Volume,
    stream: Stream,
    broker: Broker,
    asker: RawClient,
    crowd: Crowd<Healthy>,
    /// Their connections.
    readers: Vec<NativeClient>,
}

impl<'a> Scene<'a> {
    fn new(volume: &'a Volume, stream: Stream, shards: usize, arguments: &[&str]) -> Scene<'a> {
        let broker = volume.broker(shards, arguments);
        let asker = RawClient::connect(broker.port());
        let mut crowd = Crowd::new();
        let mut readers = Vec::new();
        for place in 0..2 {
            let shard = place % shards;
            let mut client = NativeClient::connect_to_shard(&broker, shard, Policy::Close);
            for filter in ["p.>", "end", "noise"] {
                client.subscribe(filter);
            }
            crowd.add(client.stream().try_clone().unwrap(), Healthy::default());
            readers.push(client);
        }
        Scene {
            volume,
            stream,
            broker,
            asker,
            crowd,
            readers,
        }
    }

    /// Lets all events pass; `meanwhile` is called again and again. Then everybody who reads has all, and what the
    /// others are owed stands in the broker.
    fn pass(&mut self, mut meanwhile: impl FnMut()) {
        let progress = Progress::default();
        let publisher = NativeClient::connect_to_shard(&self.broker, 0, Policy::Close);
        let publishing = self.stream.publish(publisher, self.volume, &progress);
        let mut last_news = Instant::now();
        while !self.healthy().all(|healthy| healthy.has_ended) {
            let stream = self.stream;
            self.crowd.read(|place, healthy, bytes| {
                assert!(!bytes.is_empty(), "reader {place} was closed");
                healthy.take(bytes, &stream);
                last_news = Instant::now();
            });
            let slowest = self.healthy().map(|healthy| healthy.next).min();
            progress.set(slowest.unwrap_or(0));
            assert!(last_news.elapsed() < STUCK_AFTER, "nothing comes any more");
            meanwhile();
        }
        publishing.join().expect("the publisher publishes");
        let events = self.stream.events(self.volume);
        for healthy in self.healthy() {
            assert_eq!(
                (healthy.next, healthy.noise),
                (events, events * self.stream.noise)
            );
        }
        assert_eq!(self.readers.len(), 2);
    }

    fn healthy(&self) -> impl Iterator<Item = &Healthy> {
        self.crowd
            .members
            .iter()
            .flatten()
            .map(|(_, healthy)| healthy)
    }

    /// Checks the memory when so many stalled, and says what passed.
    fn check_memory(&self, what: &str, baseline: u64, stalled: u64) {
        let outboxes = stalled * self.volume.outbox_bytes + 2 * self.volume.lead_bytes();
        // An event on its way is as large as it is.
        let on_the_way = 4 * self.stream.size as u64;
        let cap = memory_cap_kib(self.broker.shards(), 2 + stalled, outboxes + on_the_way);
        let Stream {
            size,
            topics,
            noise,
        } = self.stream;
        let what = format!(
            "{} MiB in events of {size} bytes on {topics} topics, {noise} small ones beside each, past {what}",
            self.volume.bytes / MIB
        );
        check_peak(&what, &self.broker, baseline, cap);
    }

    fn counter(&mut self, name: &str) -> u64 {
        counter(&mut self.asker, name)
    }
}

/// What one that stalled finds when it reads at last.
struct Found {
    stream: Stream,
    policy: Policy,
    /// Events that came, and those that were said to be lost.
    events: u64,
    lost: u64,
    /// Lost ones that were said since the last event.
    gap: u64,
    /// The newest event of each topic.
    newest: Vec<Option<u64>>,
    acks: u32,
    has_ended: bool,
}

impl Found {
    fn new(stream: Stream, policy: Policy) -> Found {
        Found {
            stream,
            policy,
            events: 0,
            lost: 0,
            gap: 0,
            newest: vec![None; stream.topics as usize],
            acks: 0,
            has_ended: false,
        }
    }

    fn next(&self) -> u64 {
        self.newest
            .iter()
            .flatten()
            .max()
            .map_or(0, |newest| newest + 1)
    }

    fn take(&mut self, frame: BrokerFrame<'_>, first_ping: u32) {
        match frame {
            BrokerFrame::Message(message) if message.topic == b"end" => self.has_ended = true,
            BrokerFrame::Message(message) => {
                let number = self.stream.check(message.topic, message.payload);
                self.event(number);
            }
            BrokerFrame::Gap { events } => {
                assert!(events > 0, "a gap of nothing");
                self.gap += events;
                self.lost += events;
            }
            BrokerFrame::Ack { request, count } => {
                assert_eq!(
                    (request, count),
                    (first_ping + self.acks, 0),
                    "an ACK is missing"
                );
                self.acks += 1;
                if self.policy == Policy::Latest {
                    // Before an answer stands what was kept of everything before it.
                    assert_eq!(self.events + self.lost, self.next());
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn event(&mut self, number: u64) {
        let newest = &self.newest[(number % self.stream.topics) as usize];
        assert!(newest.is_none_or(|newest| newest < number), "out of order");
        if self.policy != Policy::Latest || self.stream.topics == 1 {
            // What is missing here is what the notice here says.
            assert_eq!(
                number,
                self.next() + self.gap,
                "the numbers and the gap differ"
            );
        }
        self.gap = 0;
        self.newest[(number % self.stream.topics) as usize] = Some(number);
        self.events += 1;
    }

    /// Checks what it is in all.
    fn check(&self, events: u64) {
        assert_eq!(self.events + self.lost, events, "{} came", self.events);
        for (topic, newest) in self.newest.iter().enumerate() {
            let topics = self.stream.topics;
            let last = (events - 1 - topic as u64) / topics * topics + topic as u64;
            assert_eq!(*newest, Some(last), "the last of topic {topic}");
        }
    }
}

/// Makes the kernel keep little of what one that stalls does not read.
fn read_little(stream: &TcpStream) {
    sockopt::set_socket_recv_buffer_size(stream, 64 * 1024).unwrap();
}

/// One that subscribes, sends PINGs, and does not read.
struct Stalled {
    client: NativeClient,
    first_ping: u32,
    pings: u32,
}

impl Stalled {
    fn new(broker: &Broker, shard: usize, policy: Policy, filters: &[&str]) -> Stalled {
        let mut client = NativeClient::connect_to_shard(broker, shard, policy);
        read_little(client.stream());
        for filter in filters.iter().chain(&["end"]) {
            client.subscribe(filter);
        }
        let first_ping = client.request() + 1;
        let mut stalled = Stalled {
            client,
            first_ping,
            pings: 0,
        };
        (0..10).for_each(|_| stalled.ping());
        stalled
    }

    fn ping(&mut self) {
        if self.pings < PINGS_MAX {
            self.client.send_request(kind::PING);
            self.pings += 1;
        }
    }

    fn read(&mut self, found: &mut Found) {
        while !(found.has_ended && found.acks == self.pings) {
            let first_ping = self.first_ping;
            let is_open = self.client.read_each(|frame| found.take(frame, first_ping));
            assert!(is_open, "the stalled one was closed");
        }
    }
}

#[test]
fn a_stalled_reader_that_may_lose_events_is_told_exactly_how_many() {
    let _alone = alone();
    let volume = Volume::chosen();
    let noisy = Stream {
        noise: 20,
        ..Stream::new(20_000, 3)
    };
    // Small ones, shared ones, and both; one filter, and several that match the same event.
    let streams: [(Stream, &[&str]); 5] = [
        (Stream::new(16, 5), &["p.*"]),
        (Stream::new(1_000, 1), &["p.0", "p.*", ">"]),
        (Stream::new(20 * 1024, 7), &["p.>", "p.3"]),
        (Stream::new(1024 * 1024, 2), &["p.0", "p.1"]),
        (noisy, &["p.*"]),
    ];
    for shards in [1, 2] {
        for (stream, filters) in streams {
            for policy in [Policy::DropOldest, Policy::Latest] {
                stall(&volume, shards, stream, filters, policy);
            }
        }
    }
}

fn stall(volume: &Volume, shards: usize, stream: Stream, filters: &[&str], policy: Policy) {
    let mut scene = Scene::new(volume, stream, shards, &[]);
    let begun = Instant::now();
    let mut stalled: Vec<Stalled> = (0..shards)
        .map(|shard| Stalled::new(&scene.broker, shard, policy, filters))
        .collect();
    let baseline = baseline_kib(&scene.broker);
    scene.pass(|| stalled.iter_mut().for_each(Stalled::ping));
    let what = format!("{} who stalled by {}", stalled.len(), policy.name());
    scene.check_memory(&what, baseline, stalled.len() as u64);
    let mut lost = 0;
    for one in &mut stalled {
        let shown = one.client.field(&mut scene.asker, "lost");
        let shown: u64 = shown.expect("it is still there").parse().expect("a number");
        one.ping();
        let mut found = Found::new(stream, policy);
        one.read(&mut found);
        // `>` also matches what is meant for those who read.
        let noise = if filters.contains(&">") {
            stream.noise
        } else {
            0
        };
        assert_eq!(noise, 0, "the numbers of noise are not looked at");
        found.check(stream.events(volume));
        assert_eq!(found.lost, shown, "CLIENT LIST says another number");
        assert!(found.lost > 0, "nothing was lost: the test shows nothing");
        println!(
            "  {} events came and {} were lost; {} ACKs",
            found.events, found.lost, found.acks
        );
        lost += found.lost;
    }
    let lost_counters = ["events_lost_drop_oldest", "events_lost_latest"];
    let counted = lost_counters.map(|name| scene.counter(name));
    let expected = match policy {
        Policy::Latest => [0, lost],
        _ => [lost, 0],
    };
    assert_eq!(counted, expected);
    for name in ["closed_outbox_full", "closed_outboxes_full"] {
        assert_eq!(scene.counter(name), 0);
    }
    println!("  {:.1} s", begun.elapsed().as_secs_f32());
}

#[test]
fn a_stalled_reader_that_must_lose_nothing_is_closed_and_has_a_part_of_the_stream() {
    let _alone = alone();
    let volume = Volume::chosen();
    for shards in [1, 2] {
        for size in [200, 100_000] {
            let stream = Stream::new(size, 3);
            let mut scene = Scene::new(&volume, stream, shards, &["--native-policy", "latest"]);
            let mut stalled: Vec<Stalled> = (0..shards)
                .map(|shard| Stalled::new(&scene.broker, shard, Policy::Close, &["p.*"]))
                .collect();
            let baseline = baseline_kib(&scene.broker);
            scene.pass(|| stalled.iter_mut().for_each(Stalled::ping));
            scene.check_memory("who stalled by close", baseline, stalled.len() as u64);
            assert_eq!(scene.counter("closed_outbox_full"), stalled.len() as u64);
            for one in &mut stalled {
                let mut found = Found::new(stream, Policy::Close);
                let first_ping = one.first_ping;
                while one.client.read_each(|frame| found.take(frame, first_ping)) {}
                assert!(found.events > 0 && !found.has_ended);
                assert_eq!(found.lost, 0, "who loses nothing is told of a loss");
            }
        }
    }
}

#[test]
fn a_listener_s_policy_holds_for_who_says_nothing_and_hello_has_the_last_word() {
    let _alone = alone();
    let volume = Volume::chosen();
    let stream = Stream::new(2_000, 2);
    let arguments = ["--native-policy", "drop-oldest"];
    let mut scene = Scene::new(&volume, stream, 1, &arguments);
    let mut quiet = NativeClient::connect(scene.broker.native_port());
    let mut choosing = Stalled::new(&scene.broker, 0, Policy::Latest, &["p.*"]);
    read_little(quiet.stream());
    quiet.subscribe("p.*");
    scene.pass(|| {});
    let lost = |client: &NativeClient, asker: &mut RawClient| {
        let lost = client.field(asker, "lost").expect("it is still there");
        lost.parse::<u64>().expect("a number")
    };
    let by_listener = lost(&quiet, &mut scene.asker);
    let by_hello = lost(&choosing.client, &mut scene.asker);
    assert!(by_listener > 0 && by_hello > 0);
    assert_eq!(scene.counter("events_lost_drop_oldest"), by_listener);
    assert_eq!(scene.counter("events_lost_latest"), by_hello);
    let mut found = Found::new(stream, Policy::Latest);
    choosing.ping();
    choosing.read(&mut found);
    found.check(stream.events(&volume));
}

#[test]
fn a_stalled_redis_reader_loses_whole_events_which_are_counted() {
    let _alone = alone();
    let volume = Volume::chosen();
    for shards in [1, 2] {
        for policy in [Policy::DropOldest, Policy::Latest] {
            for stream in [
                Stream::new(100, 4),
                Stream::new(20_000, 4),
                Stream::new(1 << 19, 2),
            ] {
                stall_redis(&volume, shards, stream, policy);
            }
        }
    }
}

fn stall_redis(volume: &Volume, shards: usize, stream: Stream, policy: Policy) {
    let arguments = ["--redis-policy", policy.name()];
    let mut scene = Scene::new(volume, stream, shards, &arguments);
    let mut stalled = connect_to_shard(scene.broker.port(), shards - 1);
    read_little(stalled.stream());
    let Value::Integer(id) = stalled.call(&["CLIENT", "ID"]) else {
        panic!("CLIENT ID gives no number");
    };
    // Each event of the first topic comes twice.
    for subscribe in [
        ["PSUBSCRIBE", "p.*"],
        ["SUBSCRIBE", "p.0"],
        ["SUBSCRIBE", "end"],
    ] {
        assert!(matches!(stalled.call(&subscribe), Value::Array(_)));
    }
    let baseline = baseline_kib(&scene.broker);
    let mut pings = 0;
    scene.pass(|| {
        if pings < PINGS_MAX {
            stalled.send(&request(&[b"PING", pings.to_string().as_bytes()]));
            pings += 1;
        }
    });
    let what = format!("a Redis reader who stalled by {}", policy.name());
    scene.check_memory(&what, baseline, 1);
    let list = scene
        .asker
        .call(&["CLIENT", "LIST", "ID", &id.to_string()])
        .text();
    let lost = list
        .split_whitespace()
        .find_map(|word| word.strip_prefix("lost="));
    let lost: u64 = lost.expect("it is still there").parse().expect("a number");
    let (by_pattern, by_name) = read_stalled_redis(&mut stalled, stream, pings);
    let events = stream.events(volume);
    let offered = events + events.div_ceil(stream.topics);
    let came = (by_pattern.len() + by_name.len()) as u64;
    println!("  {came} came and {lost} were lost; {pings} PONGs");
    assert_eq!(came + lost, offered);
    assert!(lost > 0, "nothing was lost: the test shows nothing");
    for numbers in [&by_pattern, &by_name] {
        for topic in 0..stream.topics {
            let own = numbers
                .iter()
                .filter(|&number| number % stream.topics == topic);
            assert!(own.is_sorted_by(|one, next| one < next), "out of order");
        }
    }
    for topic in 0..stream.topics {
        let last = (events - 1 - topic) / stream.topics * stream.topics + topic;
        assert!(by_pattern.contains(&last), "the last of topic {topic}");
    }
    let last = (events - 1) / stream.topics * stream.topics;
    assert!(by_name.contains(&last));
    let names = ["events_lost_drop_oldest", "events_lost_latest"];
    let counted = names.map(|name| scene.counter(name));
    assert_eq!(counted.iter().sum::<u64>(), lost);
    assert_eq!(counted[usize::from(policy == Policy::DropOldest)], 0);
}

/// The numbers of the events that came by the pattern, and of those by the name, up to the end; every PONG must be
/// there.
fn read_stalled_redis(stalled: &mut RawClient, stream: Stream, pings: u32) -> (Vec<u64>, Vec<u64>) {
    let (mut by_pattern, mut by_name) = (Vec::new(), Vec::new());
    let mut pongs = 0;
    let mut has_ended = false;
    while !(has_ended && pongs == pings) {
        let Value::Array(words) = stalled.value() else {
            panic!("no array");
        };
        let words: Vec<Vec<u8>> = words
            .into_iter()
            .map(|word| match word {
                Value::Bulk(bytes) => bytes,
                other => panic!("{other:?} among the words"),
            })
            .collect();
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        match words[..] {
            [b"pong", number] => {
                assert_eq!(number, pongs.to_string().as_bytes(), "a PONG is missing");
                pongs += 1;
            }
            [b"message", b"end", _] => has_ended = true,
            [b"message", topic, payload] => by_name.push(stream.check(topic, payload)),
            [b"pmessage", b"p.*", topic, payload] => {
                by_pattern.push(stream.check(topic, payload));
            }
            _ => panic!("{} words", words.len()),
        }
    }
    (by_pattern, by_name)
}

#[test]
fn the_newest_message_and_the_newest_turn_of_a_topic_are_both_kept() {
    let _alone = alone();
    let volume = Volume::chosen();
    let stream = Stream::new(500, 2);
    for shards in [1, 2] {
        let mut scene = Scene::new(&volume, stream, shards, &[]);
        let mut stalled = NativeClient::connect_to_shard(&scene.broker, shards - 1, Policy::Latest);
        stalled.subscribe("p.0");
        // Two members of one group on one connection, so that each has half the turns. One number's bytes are those
        // that stand in a MESSAGE before a topic of three bytes.
        let members = [u32::from_le_bytes([kind::MESSAGE, 0, 3, 0]), 1];
        for member in members {
            stalled.join("g", member, "p.0");
        }
        scene.pass(|| {});
        stalled.send_request(kind::PING);
        let (mut came, mut lost) = (0, 0);
        let mut newest = [None; 3];
        let mut has_answered = false;
        while !has_answered {
            let is_open = stalled.read_each(|frame| {
                let (place, message) = match frame {
                    BrokerFrame::Message(message) if message.topic == b"end" => return,
                    BrokerFrame::Message(message) => (0, message),
                    BrokerFrame::Turn { member, message } => {
                        (1 + usize::from(member != members[0]), message)
                    }
                    BrokerFrame::Gap { events } => {
                        lost += events;
                        return;
                    }
                    BrokerFrame::Ack { .. } => {
                        has_answered = true;
                        return;
                    }
                    other => panic!("{other:?}"),
                };
                came += 1;
                newest[place] = Some(stream.check(message.topic, message.payload));
            });
            assert!(is_open, "the stalled one was closed");
        }
        let events = stream.events(&volume);
        let last = (events - 1) / 2 * 2;
        assert_eq!(
            came + lost,
            2 * events.div_ceil(2),
            "once as a message, once as a turn"
        );
        assert!(lost > 0);
        assert_eq!(newest[0], Some(last), "the newest message");
        let mut turns = newest[1..].to_vec();
        turns.sort_unstable();
        assert_eq!(
            turns,
            [Some(last - 2), Some(last)],
            "the newest turn of each member"
        );
    }
}

#[test]
fn the_newest_events_of_very_many_topics_cost_no_more_than_the_cap() {
    const TOPICS: u32 = 200_000;
    let _alone = alone();
    let volume = Volume::chosen();
    for shards in [1, 2] {
        let broker = volume.broker(shards, &[]);
        let connect = |policy| NativeClient::connect_to_shard(&broker, shards - 1, policy);
        let mut stalled = connect(Policy::Latest);
        read_little(stalled.stream());
        stalled.subscribe("t.>");
        let mut publisher = connect(Policy::Close);
        let baseline = baseline_kib(&broker);
        // What fills the stream up to the point from which on only the newest wait.
        let filler = Event::new("t.filler", vec![b'f'; 10_000]);
        let mut published = volume.outbox_bytes / 10_000;
        (0..published).for_each(|_| publisher.publish(&filler));
        for first in (0..TOPICS).step_by(10_000) {
            let mut bytes = Vec::new();
            for topic in first..first + 10_000 {
                let event = Event::new(&format!("t.{topic}"), "");
                native::write_message(&mut bytes, &event.message());
            }
            publisher.send(&bytes);
            assert_eq!(publisher.ping(), []);
        }
        published += u64::from(TOPICS);
        let cap = memory_cap_kib(shards, 1, volume.outbox_bytes);
        // Half of the cap is the stream's; the rest of what a node may keep is not touched here.
        let cap = cap.min(2 * volume.outbox_bytes / 1024 + 8 * 1024);
        check_peak("a topic for each event", &broker, baseline, cap);
        let request = stalled.send_request(kind::PING);
        let (mut came, mut lost, mut newest) = (0, 0, 0);
        let mut has_answered = false;
        while !has_answered {
            let is_open = stalled.read_each(|frame| match frame {
                BrokerFrame::Message(message) => {
                    came += 1;
                    let topic = std::str::from_utf8(&message.topic[2..]).expect("text");
                    newest = topic.parse().unwrap_or(newest);
                }
                BrokerFrame::Gap { events } => lost += events,
                BrokerFrame::Ack { request: other, .. } => has_answered = other == request,
                other => panic!("{other:?}"),
            });
            assert!(is_open, "the stalled one was closed");
        }
        println!("  {came} came and {lost} were lost");
        assert_eq!(came + lost, published);
        assert_eq!(newest, TOPICS - 1);
        assert!(lost > 0, "nothing was lost: the test shows nothing");
    }
}
