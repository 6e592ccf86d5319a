//! What is left of a publisher's rate while another client subscribes and unsubscribes at full speed:
//!
//! ```sh
//! cargo bench --bench churn                     # two minutes
//! cargo bench --bench churn -- --quick          # a look
//! cargo bench --bench churn -- --binary PATH    # the same of another build, for comparisons; may be given twice
//! ```
//!
//! The publisher goes over 1,000 topics in turn, pipelined, each with one subscriber. Prints a table, writes nothing.
//! Start reading at [`main`].

#![forbid(unsafe_code)]

#[path = "idle/broker.rs"]
mod broker;

use broker::{Broker, ask, for_each_binary};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Topics that are published to in turn.
const TOPICS: usize = 1_000;
/// Bytes of each payload.
const PAYLOAD_BYTES: usize = 128;
/// Names that the other client subscribes to and unsubscribes from in turn.
const NAMES: usize = 64;

/// Behaviour of the client that changes its subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Churn {
    /// Nothing: the rate that the others are compared with.
    None,
    /// A subscription, then its end, each once the one before is confirmed.
    Waiting,
    /// Subscribes and unsubscribes without waiting for confirmations: pipelined.
    Pipelined,
}

/// Writes the same bytes again and again until the time is over, and counts what comes back; gives that count.
fn repeat(client: TcpStream, bytes: &[u8], reply: &[u8], over: &AtomicBool, count: &AtomicU64) {
    let reader = client.try_clone().expect("a socket can be shared");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut reader, mut buffer) = (reader, vec![0; 256 * 1024]);
            let mut read = 0;
            // Ends when the writer has closed the connection.
            while let Ok(bytes @ 1..) = reader.read(&mut buffer) {
                read += bytes;
                count.store((read / reply.len()) as u64, Ordering::Relaxed);
            }
        });
        let mut writer = &client;
        while !over.load(Ordering::Relaxed) && writer.write_all(bytes).is_ok() {}
        // Both ends may be gone already.
        let _ = client.shutdown(Shutdown::Both);
    });
}

/// Subscribes and unsubscribes until the time is over; gives how often.
fn churn(broker: &Broker, kind: Churn, over: &AtomicBool, count: &AtomicU64) {
    let one = |number: usize| {
        let name = format!("churn.{number:03}");
        format!("SUBSCRIBE {name}\r\nUNSUBSCRIBE {name}\r\n")
    };
    match kind {
        Churn::None => {}
        Churn::Waiting => {
            let mut client = broker.redis();
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                ask(&mut client, one(number % NAMES).as_bytes(), b":0\r\n", 1);
                number += 1;
                count.store(2 * number as u64, Ordering::Relaxed);
            }
        }
        Churn::Pipelined => {
            let bytes: String = (0..NAMES).map(one).collect();
            let confirmed = "*3\r\n$11\r\nunsubscribe\r\n$9\r\nchurn.000\r\n:0\r\n";
            // A subscription's confirmation is two bytes shorter.
            let each = confirmed.len() - 1;
            repeat(
                broker.redis(),
                bytes.as_bytes(),
                &confirmed.as_bytes()[..each],
                over,
                count,
            );
        }
    }
}

/// Rates of the publisher, and of the changes of subscriptions, in millions a second.
fn measure_one(binary: &str, shards: usize, kind: Churn, seconds: f64) -> (f64, f64) {
    let broker = Broker::start(binary, shards);
    let mut subscriber = broker.redis();
    for topic in 0..TOPICS {
        let command = format!("SUBSCRIBE topic.{topic:04}\r\n");
        ask(&mut subscriber, command.as_bytes(), b"\r\n:", 1);
    }
    let payload = "x".repeat(PAYLOAD_BYTES);
    let publishes: String = (0..TOPICS)
        .map(|topic| {
            format!("*3\r\n$7\r\nPUBLISH\r\n$10\r\ntopic.{topic:04}\r\n$128\r\n{payload}\r\n")
        })
        .collect();
    let over = AtomicBool::new(false);
    let (published, changed) = (AtomicU64::new(0), AtomicU64::new(0));
    let publisher = broker.redis();
    let taken = subscriber.try_clone().expect("a socket can be shared");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut taken, mut buffer) = (&taken, vec![0; 256 * 1024]);
            while let Ok(1..) = taken.read(&mut buffer) {}
        });
        scope.spawn(|| {
            repeat(
                publisher,
                publishes.as_bytes(),
                b":1\r\n",
                &over,
                &published,
            )
        });
        scope.spawn(|| churn(&broker, kind, &over, &changed));
        sleep(Duration::from_millis(500));
        let counts = || [&published, &changed].map(|count| count.load(Ordering::Relaxed));
        let (before, begin) = (counts(), Instant::now());
        sleep(Duration::from_secs_f64(seconds));
        let (after, elapsed) = (counts(), begin.elapsed().as_secs_f64());
        over.store(true, Ordering::Relaxed);
        // The writers may wait for the broker to read.
        sleep(Duration::from_millis(50));
        let _ = subscriber.shutdown(Shutdown::Both);
        let rate = |place: usize| (after[place] - before[place]) as f64 / elapsed / 1e6;
        (rate(0), rate(1))
    })
}

fn measure(binary: &str, is_quick: bool) {
    let (rounds, seconds) = if is_quick { (1, 1.0) } else { (5, 2.0) };
    println!("## {binary}\n");
    println!(
        "| shards | the other client | changes, M/s | published, M/s | of the rate alone |\n|---|---|---|---|---|"
    );
    let kinds = [Churn::None, Churn::Waiting, Churn::Pipelined];
    for shards in [1, 2] {
        let mut rates = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            for (place, &kind) in kinds.iter().enumerate() {
                rates[place].push(measure_one(binary, shards, kind, seconds));
            }
        }
        let median = |of: &mut Vec<(f64, f64)>| {
            of.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            of[of.len() / 2]
        };
        let medians = rates.each_mut().map(median);
        for (kind, (published, changed)) in kinds.iter().zip(medians) {
            let share = 100.0 * published / medians[0].0;
            println!("| {shards} | {kind:?} | {changed:.3} | {published:.3} | {share:.0} % |");
        }
    }
    println!();
}

fn main() -> ExitCode {
    for_each_binary(measure)
}
