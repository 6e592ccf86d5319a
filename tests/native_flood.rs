//! A flood over the native protocol in both directions between shards, with groups: it ends, memory stays bounded, and
//! everybody gets what is theirs.

mod common;
#[path = "common/load.rs"]
mod load;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::native::{Decoder, Event, NativeClient};
use common::resp::RawClient;
use load::{
    Crowd, MIB, Progress, STUCK_AFTER, alone, baseline_kib, broker_with_limits, check_peak,
    counter, memory_cap_kib,
};
use sapwood_wire::native::{self, BrokerFrame, Policy};

const PUBLISHERS: usize = 4;
const PLAIN: usize = 4;
const MEMBERS: usize = 4;
/// In the first group all filters differ, in the second none do.
const GROUPS: [&str; 2] = ["mixed", "same"];
const FILTERS: [&str; MEMBERS] = ["flood.a", "flood.*", "*.a", "flood.>"];
const PAYLOAD_BYTES: usize = 128;
/// Two publishers of a shard are together this far ahead at most: eight times what fits between two shards below.
const LEAD_BYTES: u64 = 2 * MIB;

/// What a reader remembers.
#[derive(Default)]
struct Reader {
    decoder: Decoder,
    /// The group of a member.
    group: Option<usize>,
    has_ended: [bool; PUBLISHERS],
    of: [Numbers; PUBLISHERS],
}

/// What came of one publisher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Numbers {
    count: u64,
    next: u64,
    /// Adds the numbers up in a way that a lost one and a doubled one do not make good.
    digest: u64,
}

impl Numbers {
    fn add(&mut self, number: u64) {
        assert!(number >= self.next, "{number} comes behind {}", self.next);
        self.next = number + 1;
        self.count += 1;
        self.digest = self.digest.wrapping_add(mixed(number));
    }

    fn all_below(count: u64) -> Numbers {
        let mut numbers = Numbers::default();
        (0..count).for_each(|number| numbers.add(number));
        numbers
    }
}

fn mixed(number: u64) -> u64 {
    let number = (number ^ number >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (number ^ number >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
}

fn payload(publisher: usize, number: u64) -> Vec<u8> {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(PAYLOAD_BYTES, publisher as u8);
    payload
}

impl Reader {
    fn take(&mut self, bytes: &[u8]) {
        let Reader {
            decoder,
            group,
            has_ended,
            of,
        } = self;
        decoder.feed(bytes, |frame| {
            let message = match frame {
                BrokerFrame::Message(message) if message.topic == b"end" => {
                    has_ended[usize::from(message.payload[0])] = true;
                    return;
                }
                BrokerFrame::Message(message) if group.is_none() => message,
                BrokerFrame::Turn { member, message } if *group == Some(member as usize) => message,
                other => panic!("{other:?}"),
            };
            let (number, rest) = message.payload.split_at(8);
            let number = u64::from_le_bytes(number.try_into().expect("eight bytes"));
            let publisher = usize::from(rest[0]);
            assert!(message.payload == payload(publisher, number), "changed");
            of[publisher].add(number);
        });
    }
}

#[test]
fn a_native_flood_between_shards_ends_with_every_event_and_every_turn_taken() {
    let _alone = alone();
    let seconds = std::env::var("SAPWOOD_FLOOD_SECONDS").map_or(4, |text| {
        text.parse().expect("SAPWOOD_FLOOD_SECONDS is a number")
    });
    for shards in [1, 2] {
        // The default caps, and caps so small that they are reached all the time.
        flood(shards, Duration::from_secs(seconds).div_f32(4.0), "");
        let small = "handover_window_bytes = \"64KiB\"\nhandover_backlog_bytes = \"64KiB\"";
        flood(shards, Duration::from_secs(seconds).div_f32(4.0), small);
    }
}

/// Plain subscribers and members of both groups.
fn gather(connect: &impl Fn(usize) -> NativeClient) -> Crowd<Reader> {
    let mut crowd = Crowd::new();
    for place in 0..PLAIN + MEMBERS * GROUPS.len() {
        let mut client = connect(place);
        client.subscribe("end");
        let group = match place {
            0..PLAIN => None,
            _ => Some((place - PLAIN) % GROUPS.len()),
        };
        match group {
            None => client.subscribe(FILTERS[place]),
            Some(0) => client.join(GROUPS[0], 0, FILTERS[(place - PLAIN) / 2]),
            Some(group) => client.join(GROUPS[group], group as u32, FILTERS[0]),
        };
        let reader = Reader {
            group,
            ..Reader::default()
        };
        crowd.add(client.stream().try_clone().unwrap(), reader);
    }
    crowd
}

fn flood(shards: usize, time: Duration, limits: &str) {
    let (broker, _config) = broker_with_limits(shards, limits);
    let connect = |place| NativeClient::connect_to_shard(&broker, place % shards, Policy::Close);
    let mut crowd = gather(&connect);
    let stop = Arc::new(AtomicBool::new(false));
    let progress: [Progress; PUBLISHERS] = Default::default();
    let clients: Vec<NativeClient> = (0..PUBLISHERS).map(connect).collect();
    let baseline = baseline_kib(&broker);
    let publishers: Vec<JoinHandle<u64>> = clients
        .into_iter()
        .enumerate()
        .map(|(publisher, client)| {
            let (progress, stop) = (progress[publisher].clone(), Arc::clone(&stop));
            thread::spawn(move || publish(client, publisher, &progress, &stop))
        })
        .collect();
    let end = Instant::now() + time;
    let mut last_news = Instant::now();
    while !readers(&crowd).all(|reader| reader.has_ended == [true; PUBLISHERS]) {
        if Instant::now() >= end {
            stop.store(true, Ordering::Relaxed);
        }
        crowd.read(|place, reader, bytes| {
            assert!(!bytes.is_empty(), "reader {place} was closed");
            reader.take(bytes);
            last_news = Instant::now();
        });
        for (publisher, progress) in progress.iter().enumerate() {
            let plain = readers(&crowd).filter(|reader| reader.group.is_none());
            let slowest = plain.map(|reader| reader.of[publisher].next).min();
            progress.set(slowest.unwrap_or(0));
        }
        assert!(last_news.elapsed() < STUCK_AFTER, "nothing comes any more");
    }
    let published: Vec<u64> = publishers
        .into_iter()
        .map(|publisher| publisher.join().expect("a publisher publishes"))
        .collect();
    check_readers(&crowd, &published, shards);
    let receivers = (PLAIN + MEMBERS * GROUPS.len()) as u64;
    // A frame is the payload and less than 32 bytes; the members of a group share one stream.
    let lead = LEAD_BYTES / PAYLOAD_BYTES as u64 * (PAYLOAD_BYTES as u64 + 32);
    let outboxes = lead * (PUBLISHERS * (PLAIN + GROUPS.len())) as u64;
    let cap = memory_cap_kib(shards, receivers, outboxes);
    check_peak("native flood", &broker, baseline, cap);
    let mut asker = RawClient::connect(broker.port());
    println!(
        "native flood, {shards} shards: {} events, {} handed over, {} stalls of publishers",
        published.iter().sum::<u64>(),
        counter(&mut asker, "events_handed_over"),
        counter(&mut asker, "stalled_publishers"),
    );
    for name in [
        "closed_outbox_full",
        "handover_backlog_bytes",
        "turns_retried",
        "turns_unheard",
    ] {
        assert_eq!(counter(&mut asker, name), 0, "{name}");
    }
}

fn readers(crowd: &Crowd<Reader>) -> impl Iterator<Item = &Reader> {
    crowd.members.iter().flatten().map(|(_, reader)| reader)
}

fn check_readers(crowd: &Crowd<Reader>, published: &[u64], shards: usize) {
    for (publisher, &count) in published.iter().enumerate() {
        let whole = Numbers::all_below(count);
        let plain = readers(crowd).filter(|reader| reader.group.is_none());
        assert!(
            plain
                .into_iter()
                .all(|reader| reader.of[publisher] == whole)
        );
        for group in 0..GROUPS.len() {
            let members = readers(crowd).filter(|reader| reader.group == Some(group));
            let mut sum = Numbers::default();
            for member in members {
                sum.count += member.of[publisher].count;
                sum.next = sum.next.max(member.of[publisher].next);
                sum.digest = sum.digest.wrapping_add(member.of[publisher].digest);
            }
            assert_eq!(sum, whole, "group {group}, publisher {publisher}");
        }
    }
    let all: u64 = published.iter().sum();
    for group in 0..GROUPS.len() {
        let members = readers(crowd).filter(|reader| reader.group == Some(group));
        for member in members {
            let count: u64 = member.of.iter().map(|numbers| numbers.count).sum();
            let uneven = count.abs_diff(all / MEMBERS as u64);
            assert!(uneven <= shards as u64, "group {group}: {count} of {all}");
        }
    }
}

/// Publishes until told to stop, ahead of the slowest reader by the lead at most; then the end of its stream.
fn publish(
    mut client: NativeClient,
    publisher: usize,
    progress: &Progress,
    stop: &AtomicBool,
) -> u64 {
    let lead = LEAD_BYTES / PAYLOAD_BYTES as u64;
    let mut number = 0;
    let mut bytes = Vec::new();
    let mut waiting_since = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let until = progress.events() + lead;
        // In bursts: one event at a time would measure system calls.
        if number + lead / 2 > until {
            assert!(waiting_since.elapsed() < STUCK_AFTER, "nobody reads on");
            thread::sleep(Duration::from_micros(200));
            continue;
        }
        bytes.clear();
        while number < until && bytes.len() < 256 * 1024 {
            let event = Event::new("flood.a", payload(publisher, number));
            native::write_message(&mut bytes, &event.message());
            number += 1;
        }
        let mut stream = client.stream();
        stream.write_all(&bytes).expect("the broker reads on");
        waiting_since = Instant::now();
    }
    client.publish(&Event::new("end", [publisher as u8]));
    assert_eq!(client.ping(), [], "something was refused");
    number
}
