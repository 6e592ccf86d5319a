//! Faults: restarts, signals, clients that vanish, descriptors that run out. Whoever is not at fault notices nothing,
//! and nothing is left behind.
//!
//! Every test runs with one shard and with two. The only times that count are those the broker promises: an end within
//! two seconds of SIGTERM, a start within five; all others are deadlines against hanging.

mod common;
#[path = "common/load.rs"]
mod load;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::Broker;
use common::resp::{RawClient, Value, request};
use load::{
    Crowd, Expected, Progress, Publisher, Publishing, STUCK_AFTER, alone, connect_to_shard,
    counter, descriptors, exit_code, limit_descriptors, payload, reset, signal, subscribed,
    wait_until,
};
use rustix::process::Signal;

const END_MAX: Duration = Duration::from_secs(2);
const START_MAX: Duration = Duration::from_secs(5);

/// A client that reconnects for ever and counts what it gets done.
fn reconnecting(
    port: u16,
    stop: &Arc<AtomicBool>,
    work: fn(&mut TcpStream, &AtomicU64) -> std::io::Result<()>,
) -> (Arc<AtomicU64>, thread::JoinHandle<()>) {
    let rounds = Arc::new(AtomicU64::new(0));
    let (done, stop) = (Arc::clone(&rounds), Arc::clone(stop));
    let client = thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
                thread::sleep(Duration::from_millis(2));
                continue;
            };
            stream.set_read_timeout(Some(STUCK_AFTER)).unwrap();
            while !stop.load(Ordering::Relaxed) {
                match work(&mut stream, &done) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        panic!("the broker hangs: nothing for {STUCK_AFTER:?}")
                    }
                    // Closed or reset: the broker restarts.
                    Err(_) => break,
                }
            }
        }
    });
    (rounds, client)
}

/// A pipeline of publishes and all its replies.
fn publish_round(stream: &mut TcpStream, rounds: &AtomicU64) -> std::io::Result<()> {
    let one = request(&[b"PUBLISH", b"restarts", &payload(0, 0, 1_024)]);
    stream.write_all(&one.repeat(100))?;
    let mut left = 100;
    let mut chunk = [0; 4096];
    while left > 0 {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        left -= chunk[..count].iter().filter(|&&byte| byte == b'\n').count();
    }
    rounds.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Subscribes, then reads events until the end.
fn subscribe_round(stream: &mut TcpStream, rounds: &AtomicU64) -> std::io::Result<()> {
    stream.write_all(&request(&[b"SUBSCRIBE", b"restarts"]))?;
    let mut chunk = [0; 64 * 1024];
    loop {
        if stream.read(&mut chunk)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn twenty_restarts_under_load_hang_nobody() {
    let _alone = alone();
    for shards in [1, 2] {
        let mut broker = Broker::start_restartable(shards, None);
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..8)
            .map(|number| {
                let work = [publish_round, subscribe_round][number % 2];
                reconnecting(broker.port(), &stop, work)
            })
            .collect();
        let (mut longest_end, mut longest_start) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..20 {
            let before: Vec<u64> = clients
                .iter()
                .map(|(rounds, _)| rounds.load(Ordering::Relaxed))
                .collect();
            wait_until("every client works again", || {
                let mut rounds = clients.iter().zip(&before);
                rounds.all(|((rounds, _), before)| rounds.load(Ordering::Relaxed) > before + 1)
            });
            let asked = Instant::now();
            signal(&broker, Signal::TERM);
            assert_eq!(exit_code(&broker, STUCK_AFTER), Some(0));
            let took = asked.elapsed();
            assert!(took < END_MAX, "an end took {took:?}: {}", broker.stderr());
            longest_end = longest_end.max(took);
            let started = Instant::now();
            broker.restart();
            longest_start = longest_start.max(started.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        // Subscribers wait for events, and the publishers are gone: the end of the broker wakes them.
        drop(broker);
        for (_, client) in clients {
            client.join().expect("no client hangs");
        }
        println!(
            "20 restarts, {shards} shards: the longest end {longest_end:?}, the longest start {longest_start:?}"
        );
        assert!(longest_start < START_MAX, "a start took {longest_start:?}");
    }
}

#[test]
fn replies_to_what_was_sent_before_sigterm_are_written() {
    let _alone = alone();
    for shards in [1, 2] {
        let pings = request(&[b"PING"]).repeat(10_000);
        drained(shards, &pings, &b"+PONG\r\n".repeat(10_000));
        // More than the kernel keeps for a connection: a part of the replies is still in the broker.
        let word = payload(0, 0, 1_024);
        let mut echo = format!("${}\r\n", word.len()).into_bytes();
        echo.extend_from_slice(&word);
        echo.extend_from_slice(b"\r\n");
        drained(
            shards,
            &request(&[b"PING", &word]).repeat(10_000),
            &echo.repeat(10_000),
        );
    }
}

/// Sends requests, ends the broker, then reads what has to come and the end.
fn drained(shards: usize, requests: &[u8], replies: &[u8]) {
    let broker = Broker::start(shards, &[]);
    let mut stream = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
    stream.write_all(requests).unwrap();
    let asked = Instant::now();
    signal(&broker, Signal::TERM);
    check_drain(stream, replies);
    assert_eq!(exit_code(&broker, STUCK_AFTER), Some(0));
    let took = asked.elapsed();
    println!(
        "drain, {shards} shards: {} bytes of replies, {took:?}",
        replies.len()
    );
    assert!(took < END_MAX, "the end took {took:?}: {}", broker.stderr());
}

fn check_drain(mut stream: TcpStream, expected: &[u8]) {
    stream.set_read_timeout(Some(STUCK_AFTER)).unwrap();
    let mut read = Vec::new();
    let end = stream.read_to_end(&mut read);
    assert_eq!(read.len(), expected.len(), "{end:?}");
    assert!(read == expected);
    assert!(end.is_ok(), "an end, not {end:?}");
}

#[test]
fn events_published_before_sigterm_reach_subscribers_on_all_shards() {
    const EVENTS: u64 = 10_000;
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let subscribers: Vec<TcpStream> = (0..4)
            .map(|number| {
                let mut client = connect_to_shard(broker.port(), number % shards);
                client.call(&["SUBSCRIBE", "last"]);
                client.stream().try_clone().unwrap()
            })
            .collect();
        let mut publisher = RawClient::connect(broker.port());
        let requests: Vec<u8> = (0..EVENTS)
            .flat_map(|number| request(&[b"PUBLISH", b"last", &payload(0, number, 128)]))
            .collect();
        let events: Vec<u8> = (0..EVENTS)
            .flat_map(|number| load::event("last", &payload(0, number, 128)))
            .collect();
        publisher.send(&requests);
        signal(&broker, Signal::TERM);
        check_drain(
            publisher.stream().try_clone().unwrap(),
            &b":4\r\n".repeat(EVENTS as usize),
        );
        for subscriber in subscribers {
            check_drain(subscriber, &events);
        }
        assert_eq!(exit_code(&broker, STUCK_AFTER), Some(0));
    }
}

#[test]
fn who_reads_nothing_does_not_hold_up_the_end() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut deaf: Vec<RawClient> = (0..4).map(|_| RawClient::connect(broker.port())).collect();
        let word = payload(0, 0, 64 * 1024);
        for client in &mut deaf {
            client.send(&request(&[b"PING", &word]).repeat(200));
        }
        let asked = Instant::now();
        signal(&broker, Signal::TERM);
        assert_eq!(exit_code(&broker, STUCK_AFTER), Some(0));
        let took = asked.elapsed();
        println!("end beside deaf clients, {shards} shards: {took:?}");
        assert!(took < END_MAX, "the end took {took:?}");
    }
}

#[test]
fn a_broker_that_was_stopped_for_five_seconds_goes_on() {
    const EVENTS: u64 = 400_000;
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let expected = Expected::new("stop", 128, 1_000, EVENTS);
        let mut crowd = Crowd::new();
        for number in 0..4 {
            let mut client = connect_to_shard(broker.port(), number % shards);
            client.call(&["SUBSCRIBE", "stop"]);
            crowd.add(client.stream().try_clone().unwrap(), 0u64);
        }
        let client = RawClient::connect(broker.port());
        let progress = Progress::default();
        let publishing = Publishing {
            events: EVENTS,
            lead: 10_000,
            receivers: 4,
        };
        let requests: Vec<Vec<u8>> = (0..1_000)
            .map(|number| request(&[b"PUBLISH", b"stop", &payload(0, number, 128)]))
            .collect();
        let publisher =
            Publisher::start(&client, publishing, progress.clone(), move |number, out| {
                out.extend_from_slice(&requests[number as usize % 1_000]);
            });
        thread::scope(|scope| {
            scope.spawn(|| {
                wait_until("a part has arrived", || progress.events() > EVENTS / 4);
                signal(&broker, Signal::STOP);
                thread::sleep(Duration::from_secs(5));
                assert!(progress.events() < EVENTS, "it was stopped too late");
                signal(&broker, Signal::CONT);
            });
            expected.all_arrive(&mut crowd, &progress);
        });
        assert_eq!(publisher.join(), EVENTS);
        let mut fresh = RawClient::connect(broker.port());
        assert_eq!(counter(&mut fresh, "closed_outbox_full"), 0);
    }
}

/// One client vanishes in the middle of a payload, another in the middle of a pipeline of subscriptions.
fn vanish_while_writing(port: u16, number: usize, megabyte: &[u8]) {
    let mut in_payload = RawClient::connect(port);
    let whole = request(&[b"PUBLISH", b"quiet", megabyte]);
    in_payload.send(&whole[..whole.len() / 2]);
    reset(in_payload);

    let mut in_subscribing = RawClient::connect(port);
    let names: Vec<u8> = (0..500)
        .flat_map(|name| {
            let name = format!("vanish:{number}:{name}");
            request(&[b"SUBSCRIBE", name.as_bytes()])
        })
        .collect();
    in_subscribing.send(&names[..names.len() - 7]);
    reset(in_subscribing);
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    const EACH: usize = 50;
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let port = broker.port();
        let mut client = RawClient::connect(port);
        let mut bystander = RawClient::connect(port);
        bystander.call(&["SUBSCRIBE", "quiet"]);
        let gauges = [
            "connections",
            "subscriptions",
            "filters",
            "input_bytes",
            "outbox_bytes",
        ];
        let before: Vec<u64> = gauges
            .iter()
            .map(|name| counter(&mut client, name))
            .collect();
        // A shard that sleeps holds one descriptor more than one that does not.
        let descriptors_max = descriptors(&broker) + shards;
        let mut events = 0;
        let megabyte = payload(0, 0, 1024 * 1024);
        let mut notices_nothing = |client: &mut RawClient| {
            events += 1;
            let text = format!("{events}");
            assert_eq!(client.call(&["PUBLISH", "quiet", &text]), Value::Integer(1));
            assert_eq!(
                bystander.value(),
                Value::Array(vec![
                    Value::bulk("message"),
                    Value::bulk("quiet"),
                    Value::bulk(&text)
                ])
            );
        };
        for number in 0..EACH {
            vanish_while_writing(port, number, &megabyte);
            let mut in_reading = connect_to_shard(port, number % shards);
            in_reading.call(&["SUBSCRIBE", "much"]);
            let publishes = request(&[b"PUBLISH", b"much", &megabyte]).repeat(8);
            client.send(&publishes);
            reset(in_reading);
            for _ in 0..8 {
                assert!(matches!(client.value(), Value::Integer(0 | 1)));
            }
            notices_nothing(&mut client);
        }
        wait_until("all is as it was before", || {
            let now: Vec<u64> = gauges
                .iter()
                .map(|name| counter(&mut client, name))
                .collect();
            now == before && descriptors(&broker) <= descriptors_max
        });
        assert_eq!(counter(&mut client, "shared_body_bytes"), 0);
    }
}

/// Members that were answered.
fn served(crowd: &Crowd<usize>) -> usize {
    let members = crowd.members.iter().flatten();
    members.filter(|(_, bytes)| *bytes > 0).count()
}

/// Reads what comes, until nothing came for a tenth of a second. Nobody may have been closed.
fn read_until_quiet(crowd: &mut Crowd<usize>, broker: &Broker) {
    loop {
        let mut came = false;
        crowd.read(|_, have, bytes| {
            assert!(
                !bytes.is_empty(),
                "a connection was closed: {}",
                broker.stderr()
            );
            *have += bytes.len();
            came = true;
        });
        if !came {
            return;
        }
    }
}

#[test]
fn running_out_of_descriptors_harms_nobody_who_is_connected() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut first = RawClient::connect(broker.port());
        assert_eq!(first.call(&["PING"]), Value::Simple("PONG".to_string()));
        // Accepts that are under way keep the limit they began with: some more than twenty get in.
        limit_descriptors(&broker, descriptors(&broker) as u64 + 20);
        let mut crowd = Crowd::new();
        for _ in 0..100 {
            let mut stream = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
            stream.write_all(&request(&[b"PING"])).unwrap();
            crowd.add(stream, 0);
        }
        let read = |crowd: &mut Crowd<usize>| read_until_quiet(crowd, &broker);
        wait_until("as many as there are descriptors are served", || {
            read(&mut crowd);
            served(&crowd) >= 15
        });
        // Those who are in are served while the others wait and the broker goes on trying.
        for _ in 0..300 {
            assert_eq!(first.call(&["PING"]), Value::Simple("PONG".to_string()));
            thread::sleep(Duration::from_millis(1));
        }
        read(&mut crowd);
        let before = served(&crowd);
        assert!(before < 80, "the limit was not reached");
        let mut leaving = before - 2;
        for member in &mut crowd.members {
            if leaving > 0 && member.as_ref().is_some_and(|(_, bytes)| *bytes > 0) {
                *member = None;
                leaving -= 1;
            }
        }
        wait_until("others take the places of those who left", || {
            read(&mut crowd);
            served(&crowd) >= 2 + 10
        });
        assert_eq!(first.call(&["PING"]), Value::Simple("PONG".to_string()));
        drop(crowd);
        wait_until("whoever comes is served again", || {
            counter(&mut first, "connections") == 1
        });
        subscribed(broker.port(), "again");
        let warnings = broker
            .stderr()
            .matches("raise the limit of open files")
            .count();
        println!("no descriptor left, {shards} shards: {warnings} warnings");
        assert!(warnings > 0, "the limit was reached and nobody was told");
    }
}

#[test]
fn a_second_broker_on_the_same_port_is_refused() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let address = format!("127.0.0.1:{}", broker.port());
        let second = Command::new(env!("CARGO_BIN_EXE_sapwood"))
            .args([
                "serve",
                "--redis",
                &address,
                "--shards",
                &shards.to_string(),
                "--native",
                "127.0.0.1:0",
                "--nats",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--node",
                "127.0.0.1:0",
            ])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&second.stderr);
        assert!(!second.status.success(), "{text}");
        for part in [address.as_str(), "in use", "--redis"] {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
        let mut client = RawClient::connect(broker.port());
        assert_eq!(client.call(&["PING"]), Value::Simple("PONG".to_string()));
    }
}

#[test]
fn shards_may_run_on_any_cpu_if_they_are_not_pinned() {
    let _alone = alone();
    for (args, is_own) in [(&[][..], true), (&["--cpus", "0"], false)] {
        let broker = Broker::start(1, &[&["--pin", "off"], args].concat());
        let threads = load::threads(&broker);
        let (_, of_process) = &threads[0];
        let expected = if is_own { &**of_process } else { "0" };
        let mut shards = threads
            .iter()
            .filter(|(name, _)| name.starts_with("sapwood-0"));
        let (_, allowed) = shards.next().expect("a shard's thread");
        assert_eq!(allowed, expected, "{threads:?}");
    }
}

#[test]
fn shards_are_pinned_and_their_connections_kept_alive() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let _clients: Vec<RawClient> = (0..shards)
            .map(|shard| connect_to_shard(broker.port(), shard))
            .collect();
        let threads = load::threads(&broker);
        let mut cpus = Vec::new();
        for shard in 0..shards {
            let name = format!("sapwood-{shard}");
            let of_shard = threads
                .iter()
                .filter(|(thread, _)| thread.starts_with(&name));
            let allowed: Vec<&String> = of_shard.map(|(_, allowed)| allowed).collect();
            assert!(!allowed.is_empty(), "no thread of {name} in {threads:?}");
            assert!(
                allowed
                    .iter()
                    .all(|cpu| cpu.parse::<usize>().is_ok() && *cpu == allowed[0]),
                "more than one CPU in {threads:?}"
            );
            cpus.push(allowed[0].clone());
        }
        cpus.sort_unstable();
        cpus.dedup();
        assert_eq!(cpus.len(), shards, "two shards share a CPU: {threads:?}");
        let timers = load::tcp_timers(broker.port());
        assert!(timers.len() >= shards, "{timers:?}");
        // 2 is the timer of keep-alive for a connection with nothing unacknowledged.
        wait_until("every connection has its keep-alive timer", || {
            load::tcp_timers(broker.port())
                .iter()
                .all(|&timer| timer == 2)
        });
    }
}
