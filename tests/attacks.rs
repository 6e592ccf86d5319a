//! One client that tries to stop the broker for all: how long another waits for a PING meanwhile, and what the broker
//! keeps in memory.
//!
//! Every attack runs with one shard and with two; each shard has a client that pings it without end. Before these
//! attacks were met, another client waited for 1 to 10 seconds. The bound here leaves room for a busy machine of two
//! CPUs, on which attacker, broker and bystanders share; the figures that are printed (`--nocapture`) are for people.

mod common;
#[path = "common/load.rs"]
mod load;
#[path = "common/nats.rs"]
mod nats;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::Broker;
use common::resp::{RawClient, Value, request};
use load::{
    alone, baseline_kib, connect_to_shard, counter, peak_kib, wait_until, want_descriptors,
};
use nats::NatsClient;

/// Longest wait for a PING: a shard that nobody attacks answers within milliseconds here, and within tens on a busy
/// machine. Without what meets the attacks it is 1 to 10 seconds.
const WAIT_MAX: Duration = Duration::from_millis(600);

/// Clients that ping each shard until they are asked for the longest wait.
struct Bystanders {
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Duration>>,
}

impl Bystanders {
    fn new(broker: &Broker) -> Bystanders {
        let ends = Arc::new(AtomicBool::new(false));
        let threads = (0..broker.shards()).map(|shard| {
            let mut client = connect_to_shard(broker.port(), shard);
            let ends = Arc::clone(&ends);
            std::thread::spawn(move || {
                let mut longest = Duration::ZERO;
                while !ends.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let answer = client.call(&["PING"]);
                    assert_eq!(answer, Value::Simple("PONG".to_string()));
                    longest = longest.max(begin.elapsed());
                    std::thread::sleep(Duration::from_millis(1));
                }
                longest
            })
        });
        let threads = threads.collect();
        Bystanders { ends, threads }
    }

    fn longest_wait(self) -> Duration {
        self.ends.store(true, Ordering::Relaxed);
        let waits = self.threads.into_iter().map(|thread| thread.join());
        waits
            .map(|wait| wait.expect("a bystander"))
            .max()
            .expect("one")
    }
}

/// Runs an attack with one shard and with two, and checks what others notice.
fn attack(what: &str, peak_mib_max: u64, attack: impl Fn(&Broker)) {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let baseline = baseline_kib(&broker);
        let bystanders = Bystanders::new(&broker);
        let begin = Instant::now();
        attack(&broker);
        let took = begin.elapsed();
        let longest = bystanders.longest_wait();
        let peak = (peak_kib(&broker) - baseline) / 1024;
        println!(
            "{what}, {shards} shards: {:.1} s; another client waits at most {:.1} ms; {peak} MiB more at most",
            took.as_secs_f64(),
            longest.as_secs_f64() * 1000.0
        );
        assert!(
            longest < WAIT_MAX,
            "{what}: another client waited {longest:?}"
        );
        let allowed = peak_mib_max * shards as u64;
        assert!(
            peak <= allowed,
            "{what}: {peak} MiB more, {allowed} are allowed"
        );
    }
}

/// A connection that is sent to and, by another thread, read from.
fn split(stream: &TcpStream) -> (TcpStream, TcpStream) {
    let stream = stream.try_clone().expect("a socket");
    (stream.try_clone().expect("a socket"), stream)
}

/// Reads everything until the connection ends; gives the bytes.
fn drain(mut stream: TcpStream) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            total += count as u64;
        }
        total
    })
}

/// A client of 10,000 subscriptions to names of 1 KiB, all of the letter `a` but for their ends.
fn subscribe_to_long_names(broker: &Broker) -> RawClient {
    let mut client = RawClient::connect(broker.port());
    for chunk in 0..100 {
        let names: Vec<Vec<u8>> = (0..100)
            .map(|number| format!("{}{:06}", "a".repeat(1_018), chunk * 100 + number).into_bytes())
            .collect();
        let names = names.iter().map(Vec::as_slice);
        let words: Vec<&[u8]> = std::iter::once(&b"SUBSCRIBE"[..]).chain(names).collect();
        client.send(&request(&words));
        (0..100).for_each(|_| drop(client.value()));
    }
    client
}

/// Sends on a connection of NATS without waiting for anything, until the broker has carried out a PING behind it.
fn send_all(client: &mut NatsClient, lines: impl Iterator<Item = String>) {
    for chunk in lines.collect::<Vec<String>>().chunks(10_000) {
        client.send(&chunk.concat());
    }
    client.sync();
}

/// A client with 100,000 subscriptions to the subject `t`.
fn subscribe_a_hundred_thousand_times(broker: &Broker) -> NatsClient {
    let mut client = NatsClient::connect(broker.nats_port());
    let lines = (0..100_000).map(|sid| format!("SUB t {sid}\r\n"));
    send_all(&mut client, lines);
    client
}

#[test]
fn one_event_for_a_hundred_thousand_subscriptions_of_a_client_that_does_not_read() {
    attack("100,000 sids, unread", 100, |broker| {
        let _subscriber = subscribe_a_hundred_thousand_times(broker);
        let mut publisher = NatsClient::connect(broker.nats_port());
        publisher.publish("t", &"x".repeat(16_383));
        publisher.sync();
        let mut watch = RawClient::connect(broker.port());
        wait_until("the slow consumer is closed", || {
            counter(&mut watch, "closed_outbox_full") == 1
        });
    });
}

#[test]
fn one_event_for_a_hundred_thousand_subscriptions_of_a_client_that_reads() {
    attack("100,000 sids, read", 100, |broker| {
        let subscriber = subscribe_a_hundred_thousand_times(broker);
        let (reading, writing) = split(subscriber.stream());
        let read = drain(reading);
        let mut publisher = NatsClient::connect(broker.nats_port());
        // Below the cap of its outbox together, so that it is not closed where this machine is too busy for it to read.
        publisher.publish("t", &"x".repeat(200));
        publisher.sync();
        (&writing).write_all(b"PING\r\n").expect("it is open");
        let mut watch = RawClient::connect(broker.port());
        wait_until("all is delivered", || {
            counter(&mut watch, "events_delivered") == 100_000
        });
        std::thread::sleep(Duration::from_millis(200));
        writing
            .shutdown(std::net::Shutdown::Both)
            .expect("it is open");
        let total = read.join().expect("a reader");
        assert!(total >= 100_000 * 200, "{total} bytes");
    });
}

#[test]
fn globs_that_are_costly_to_match() {
    attack("costly globs", 250, |broker| {
        let _names = subscribe_to_long_names(broker);
        let mut asking = RawClient::connect(broker.port());
        let pattern = format!("*{}b", "a".repeat(500));
        assert_eq!(
            asking.call(&["PUBSUB", "CHANNELS", &pattern]),
            Value::Array(vec![])
        );
        let pattern = format!("*{}?b*", "a".repeat(500));
        assert_eq!(
            asking.call(&["PUBSUB", "CHANNELS", &pattern]),
            Value::Array(vec![])
        );
        // As many as are allowed, each as costly as one may be.
        let mut globs = RawClient::connect(broker.port());
        let mut refused = 0;
        for number in 0..16_384 {
            let pattern = format!("*{}b*{number}", "a".repeat(500));
            globs.send(&request(&[b"PSUBSCRIBE", pattern.as_bytes()]));
            if number % 64 == 63 {
                (0..64).for_each(|_| {
                    refused += usize::from(matches!(globs.value(), Value::Error(_)));
                });
            }
        }
        assert!(refused > 0, "their sum is capped");
        let mut publisher = RawClient::connect(broker.port());
        let topics: Vec<String> = (0..100)
            .map(|number| format!("{}{number}", "a".repeat(900)))
            .collect();
        let publishes: Vec<u8> = topics
            .iter()
            .flat_map(|topic| request(&[b"PUBLISH", topic.as_bytes(), b"x"]))
            .collect();
        publisher.send(&publishes);
        (0..100).for_each(|_| assert_eq!(publisher.value(), Value::Integer(0)));
    });
}

#[test]
fn very_many_queue_groups_of_one_topic_that_come_and_go() {
    attack("queue groups", 250, |broker| {
        let mut client = NatsClient::connect(broker.nats_port());
        let (reading, mut writing) = split(client.stream());
        let lines: String = (0..65_536)
            .map(|group| format!("SUB t g{group} {group}\r\n"))
            .collect();
        client.send(&lines);
        client.sync();
        let mut watch = RawClient::connect(broker.port());
        assert!(counter(&mut watch, "subscriptions") >= 65_536);
        let lines: String = (0..30_000)
            .map(|group| format!("UNSUB {group}\r\n"))
            .collect();
        client.send(&lines);
        client.sync();
        writing
            .write_all(b"SUB t h 1000000\r\n")
            .expect("it is open");
        drop((reading, writing, client));
        wait_until("they are gone", || {
            counter(&mut watch, "subscriptions") == 0
        });
    });
}

#[test]
fn clients_that_ask_for_long_lists_and_do_not_read() {
    want_descriptors(4_000);
    attack("450 lists, unread", 1_300, |broker| {
        let _names = subscribe_to_long_names(broker);
        let mut asking: Vec<RawClient> = (0..450)
            .map(|_| RawClient::connect(broker.port()))
            .collect();
        for client in &mut asking {
            client.send(b"PUBSUB CHANNELS\r\nCLIENT LIST\r\nCLIENT LIST\r\n");
        }
        std::thread::sleep(Duration::from_secs(2));
    });
}

#[test]
fn requests_of_a_million_arguments() {
    attack("80 x a million arguments", 700, |broker| {
        let clients: Vec<RawClient> = (0..80).map(|_| RawClient::connect(broker.port())).collect();
        let mut request = b"*1000001\r\n".to_vec();
        (0..1_000_000).for_each(|_| request.extend_from_slice(b"$0\r\n\r\n"));
        for client in clients.chunks(8) {
            let threads: Vec<_> = client
                .iter()
                .map(|client| {
                    let (mut stream, request) = (split(client.stream()).1, request.clone());
                    // It may be closed at the cap.
                    std::thread::spawn(move || drop(stream.write_all(&request)))
                })
                .collect();
            threads
                .into_iter()
                .for_each(|thread| thread.join().expect("a client"));
        }
        let mut watch = RawClient::connect(broker.port());
        wait_until("some are refused at the cap", || {
            counter(&mut watch, "closed_inputs_full") > 0
        });
    });
}

#[test]
fn wildcards_that_part_at_each_token() {
    attack("wildcards", 250, |broker| {
        let mut client = NatsClient::connect(broker.nats_port());
        let (reading, mut writing) = split(client.stream());
        client.sync();
        let read = drain(reading);
        let lines = (0..1 << 18).map(|number: usize| {
            let tokens = (0..18).map(|bit| if number >> bit & 1 == 0 { "a" } else { "*" });
            let tokens: Vec<&str> = tokens.collect();
            format!("SUB {}.never {number}\r\n", tokens.join("."))
        });
        for chunk in lines.collect::<Vec<String>>().chunks(10_000) {
            // Closed, or refused line by line: both are fine.
            if writing.write_all(chunk.concat().as_bytes()).is_err() {
                break;
            }
        }
        let mut publisher = NatsClient::connect(broker.nats_port());
        let topic = vec!["a"; 18].join(".");
        for number in 0..100 {
            publisher.publish(&format!("{topic}.{number}"), "x");
        }
        publisher.sync();
        let _ = writing.shutdown(std::net::Shutdown::Both);
        assert!(read.join().expect("a reader") > 0, "some were refused");
    });
}

#[test]
fn a_million_subscriptions_that_come_in_one_request_and_end_at_once() {
    attack("1M subscriptions", 900, |broker| {
        let client = RawClient::connect(broker.port());
        let (reading, mut writing) = split(client.stream());
        let read = drain(reading);
        let mut request = b"*1000001\r\n$9\r\nSUBSCRIBE\r\n".to_vec();
        for number in 0..1_000_000 {
            request.extend_from_slice(format!("$8\r\nt{number:07}\r\n").as_bytes());
        }
        writing.write_all(&request).expect("it is open");
        let mut watch = RawClient::connect(broker.port());
        wait_until("all are there", || {
            counter(&mut watch, "subscriptions") == 1_000_000
        });
        writing
            .shutdown(std::net::Shutdown::Both)
            .expect("it is open");
        wait_until("all have ended", || {
            counter(&mut watch, "subscriptions") == 0
        });
        read.join().expect("a reader");
    });
}
