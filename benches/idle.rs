//! What a broker costs that has nothing to do, and what it keeps of what is over:
//!
//! ```sh
//! cargo bench --bench idle                      # about 8 minutes
//! cargo bench --bench idle -- --quick           # a look: shorter waits
//! cargo bench --bench idle -- --binary PATH     # the same of another build, for comparisons; may be given twice
//! ```
//!
//! Prints tables, writes nothing. CPU time and memory are read from `/proc`. Start reading at [`main`].

#![forbid(unsafe_code)]

#[path = "idle/broker.rs"]
mod broker;

use broker::{Broker, ask, connect, for_each_binary};
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Subscriptions that come and go.
const SUBSCRIPTIONS: usize = 500_000;
/// Connections that make them.
const SUBSCRIBERS: usize = 50;
/// Subscriptions in one write.
const AT_A_TIME: usize = 1_000;
/// Connections whose memory is measured.
const IDLE_CONNECTIONS: usize = 1_000;
/// First messages whose latency is measured.
const FIRST_MESSAGES: usize = 10;

/// How subscriptions are made and ended.
#[derive(Clone, Copy)]
enum Way {
    /// Topics of Redis clients, which then close.
    RedisTopics,
    /// Wildcards of NATS clients, which end them one by one and stay.
    NatsWildcards,
}

/// Makes all subscriptions.
fn subscribe(broker: &Broker, way: Way) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    let each = SUBSCRIPTIONS / SUBSCRIBERS;
    for place in 0..SUBSCRIBERS {
        let mut client = match way {
            Way::RedisTopics => broker.redis(),
            Way::NatsWildcards => connect(broker.nats),
        };
        for first in (0..each).step_by(AT_A_TIME) {
            let numbers = first..first + AT_A_TIME;
            match way {
                Way::RedisTopics => {
                    let names =
                        numbers.map(|number| format!(" room.{place}.sensor.{number}.temperature"));
                    let command = format!("SUBSCRIBE{}\r\n", names.collect::<String>());
                    ask(&mut client, command.as_bytes(), b"subscribe\r\n", AT_A_TIME);
                }
                Way::NatsWildcards => {
                    let lines = numbers
                        .map(|number| format!("SUB room.{place}.sensor.{number}.* {number}\r\n"));
                    let lines = lines.collect::<String>() + "PING\r\n";
                    ask(&mut client, lines.as_bytes(), b"PONG\r\n", 1);
                }
            }
        }
        clients.push(client);
    }
    clients
}

/// Ends all of them; gives the clients that stay.
fn unsubscribe(mut clients: Vec<TcpStream>, way: Way) -> Vec<TcpStream> {
    if let Way::RedisTopics = way {
        return Vec::new();
    }
    let lines = (0..SUBSCRIPTIONS / SUBSCRIBERS).map(|number| format!("UNSUB {number}\r\n"));
    let lines = lines.collect::<String>() + "PING\r\n";
    for client in &mut clients {
        ask(client, lines.as_bytes(), b"PONG\r\n", 1);
    }
    clients
}

/// The longest that another client waits for a reply while `work` goes on.
fn longest_wait<T>(broker: &Broker, work: impl FnOnce() -> T) -> (T, Duration) {
    let mut client = broker.redis();
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !ended.load(std::sync::atomic::Ordering::Acquire) {
                let begin = Instant::now();
                ask(&mut client, b"PING\r\n", b"+PONG\r\n", 1);
                longest = longest.max(begin.elapsed());
                sleep(Duration::from_micros(500));
            }
            longest
        });
        let done = work();
        // The broker ends the subscriptions of closed connections after the close; a second covers that.
        sleep(Duration::from_secs(1));
        ended.store(true, std::sync::atomic::Ordering::Release);
        (done, waiter.join().expect("the waiter does not panic"))
    })
}

fn measure_memory(binary: &str, way: Way, waits: &[u64]) {
    let name = match way {
        Way::RedisTopics => "topics (Redis), clients close",
        Way::NatsWildcards => "wildcards (NATS), clients stay",
    };
    let broker = Broker::start(binary, 2);
    sleep(Duration::from_secs(1));
    let start = broker.resident_mib();
    let clients = subscribe(&broker, way);
    let most = broker.resident_mib();
    let (stay, longest) = longest_wait(&broker, || unsubscribe(clients, way));
    print!(
        "| {name} | {start:.1} | {most:.0} | {:.1} ms |",
        longest.as_secs_f64() * 1e3
    );
    let begin = Instant::now();
    for &seconds in waits {
        sleep(Duration::from_secs(seconds).saturating_sub(begin.elapsed()));
        print!(" {:.1} |", broker.resident_mib());
    }
    println!(" {:.2} % |", broker.cpu_share(Duration::from_secs(5)));
    drop(stay);
}

/// A first message after idleness: how long its reply takes, and the median of the next ones.
fn measure_first_messages(binary: &str, idle: Duration) {
    let broker = Broker::start(binary, 2);
    let mut client = broker.redis();
    let mut times: Vec<Duration> = (0..FIRST_MESSAGES)
        .map(|_| {
            sleep(idle);
            let begin = Instant::now();
            ask(&mut client, b"PING\r\n", b"+PONG\r\n", 1);
            begin.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "first message after {:?} of idleness: median {} us, most {} us",
        idle,
        times[times.len() / 2].as_micros(),
        times[times.len() - 1].as_micros()
    );
}

fn measure(binary: &str, is_quick: bool) {
    println!("## {binary}\n");
    let over = Duration::from_secs(if is_quick { 5 } else { 30 });
    println!("| shards | idle subscribed connections | share of a core |\n|---|---|---|");
    for shards in [1, 2] {
        for connections in [0, 100] {
            let broker = Broker::start(binary, shards);
            let clients = broker.idle_connections(connections);
            sleep(Duration::from_secs(2));
            let share = broker.cpu_share(over);
            println!("| {shards} | {connections} | {share:.3} % |");
            drop(clients);
        }
    }
    let broker = Broker::start(binary, 2);
    sleep(Duration::from_secs(1));
    let before = broker.resident_kib();
    let clients = broker.idle_connections(IDLE_CONNECTIONS);
    sleep(Duration::from_secs(2));
    let each = (broker.resident_kib() - before) as f64 / IDLE_CONNECTIONS as f64;
    println!(
        "\nat start {before} KiB; each of {IDLE_CONNECTIONS} idle subscribed connections {each:.2} KiB"
    );
    drop(clients);
    drop(broker);
    measure_first_messages(binary, Duration::from_secs(if is_quick { 1 } else { 10 }));
    let waits: &[u64] = if is_quick { &[1, 5, 15] } else { &[1, 15, 60] };
    let heads = waits
        .iter()
        .map(|seconds| format!(" MiB after {seconds} s |"));
    println!(
        "\n| {SUBSCRIPTIONS} subscriptions | MiB at start | with them | another's longest wait while they end |{} CPU then |",
        heads.collect::<String>()
    );
    println!("|---|---|---|---|{}---|", "---|".repeat(waits.len()));
    measure_memory(binary, Way::RedisTopics, waits);
    measure_memory(binary, Way::NatsWildcards, waits);
    println!();
}

fn main() -> ExitCode {
    for_each_binary(measure)
}
