//! The broker is killed and started again fifty times while both clients publish and listen. Every publish is known as
//! delivered, refused or unknown; what is missing is marked; nothing comes twice.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::Broker;
use sapwood_client::error::PublishError;
use sapwood_client::{Builder, Client, Event, Reached, blocking};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

const RESTARTS: usize = 50;
/// Confirmed publishes that each publisher has to bring through between two restarts.
const PROGRESS: u64 = 20;
/// When a test that makes no progress is declared stuck: generous, it is no measure of speed.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Delivered(u64),
    Refused,
    Unknown,
}

/// What the publishers have done, and when they are to stop.
#[derive(Debug, Default)]
struct Ledger {
    /// By topic, the fate of each number.
    fates: Mutex<BTreeMap<String, Vec<Fate>>>,
    delivered: [AtomicU64; PUBLISHERS],
    is_over: AtomicBool,
}

const ASYNC_PUBLISHERS: usize = 4;
const PUBLISHERS: usize = ASYNC_PUBLISHERS + 2;

impl Ledger {
    fn note(&self, publisher: usize, topic: &str, result: Result<Reached, PublishError>) {
        let fate = match result {
            Ok(reached) => {
                self.delivered[publisher].fetch_add(1, Ordering::Relaxed);
                Fate::Delivered(reached.subscriptions)
            }
            Err(PublishError::Unknown(_)) => Fate::Unknown,
            Err(PublishError::Refused(_)) => Fate::Refused,
            Err(error) => panic!("{error}"),
        };
        let mut fates = self.fates.lock().unwrap();
        fates.entry(topic.to_string()).or_default().push(fate);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Waits until every publisher has got through often enough since the last time.
    fn wait_for_progress(&self, before: &mut [u64; PUBLISHERS]) {
        let deadline = Instant::now() + STUCK_AFTER;
        for (delivered, before) in self.delivered.iter().zip(before) {
            while delivered.load(Ordering::Relaxed) < *before + PROGRESS {
                assert!(Instant::now() < deadline, "a publisher is stuck");
                thread::yield_now();
            }
            *before = delivered.load(Ordering::Relaxed);
        }
    }
}

/// What a subscriber has heard: for each topic the numbers, with `None` where something may be missing.
#[derive(Debug, Default)]
struct Heard(BTreeMap<String, Vec<Option<usize>>>);

impl Heard {
    /// Takes an event; says whether it was the last.
    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Message(message) if message.topic() == b"load.end" => return true,
            Event::Message(message) => {
                let number = message.text().parse().unwrap();
                let heard = self.0.entry(message.topic_text().into_owned());
                heard.or_default().push(Some(number));
            }
            Event::Gap { .. } | Event::Reconnected => {
                for heard in self.0.values_mut() {
                    heard.push(None);
                }
            }
            other => panic!("{other:?}"),
        }
        false
    }

    /// Compares with what became of each publish.
    fn check(&self, fates: &BTreeMap<String, Vec<Fate>>) {
        for (topic, heard) in &self.0 {
            let fates = fates.get(topic).unwrap_or_else(|| panic!("{topic} is new"));
            let (mut next, mut is_marked) = (0, true);
            for entry in heard {
                let Some(number) = *entry else {
                    is_marked = true;
                    continue;
                };
                assert!(
                    number >= next,
                    "{topic}: {number} came twice or out of order"
                );
                for (missing, &fate) in fates.iter().enumerate().take(number).skip(next) {
                    assert!(
                        is_marked || fate != Fate::Delivered(SUBSCRIBERS),
                        "{topic}: {missing} is missing, was delivered to all, and nothing says so"
                    );
                }
                (next, is_marked) = (number + 1, false);
            }
        }
    }
}

const SUBSCRIBERS: u64 = 2;

fn settings<C>(broker: &Broker) -> Builder<C> {
    Builder::default()
        .address(format!("127.0.0.1:{}", broker.native_port()))
        .backoff(Duration::from_millis(1), Duration::from_millis(50))
}

/// Publishes without asking what became of it; says how many, and of how many the client itself is not sure.
fn publish_unconfirmed(client: &blocking::Client, ledger: &Ledger) -> (u64, u64) {
    let mut published = 0;
    while !ledger.is_over() {
        client.publish("quiet", published.to_string()).unwrap();
        published += 1;
        // The window is megabytes, and the other publishers want their turn.
        if published % 100 == 0 {
            let _ = client.flush();
        }
    }
    client.flush().unwrap();
    (published, client.statistics().unconfirmed_publishes)
}

async fn publish_until_over(client: Client, ledger: Arc<Ledger>, publisher: usize) {
    let topic = format!("load.{publisher}");
    for number in 0.. {
        if ledger.is_over() {
            return;
        }
        let result = client.publish_confirmed(&topic, number.to_string()).await;
        ledger.note(publisher, &topic, result);
    }
}

fn publish_until_over_blocking(client: &blocking::Client, ledger: &Ledger, publisher: usize) {
    let topic = format!("load.{publisher}");
    for number in 0.. {
        if ledger.is_over() {
            return;
        }
        let result = client.publish_confirmed(&topic, number.to_string());
        ledger.note(publisher, &topic, result);
    }
}

/// Listens with a tokio client until the end comes.
fn listen(broker: &Broker, runtime: &Runtime) -> JoinHandle<Heard> {
    let builder = settings::<Client>(broker);
    let mut events = runtime.block_on(async {
        let client = builder.connect().await.unwrap();
        client.subscribe(">").await.unwrap()
    });
    runtime.spawn(async move {
        let mut heard = Heard::default();
        while let Some(event) = events.next().await {
            if heard.take(event) {
                break;
            }
        }
        heard
    })
}

/// Listens with a blocking client until the end comes.
fn listen_blocking(broker: &Broker) -> thread::JoinHandle<Heard> {
    let client = settings::<blocking::Client>(broker).connect().unwrap();
    let mut events = client.subscribe(">").unwrap();
    thread::spawn(move || {
        let mut heard = Heard::default();
        events.find(|event| heard.take(event.clone()));
        heard
    })
}

#[test]
fn fifty_restarts_under_load_lose_nothing_silently() {
    let mut broker = Broker::start_restartable(2, None);
    let ledger = Arc::new(Ledger::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let heard = listen(&broker, &runtime);
    let heard_blocking = listen_blocking(&broker);
    let client = runtime
        .block_on(settings::<Client>(&broker).connect())
        .unwrap();
    let tasks: Vec<_> = (0..ASYNC_PUBLISHERS)
        .map(|number| runtime.spawn(publish_until_over(client.clone(), ledger.clone(), number)))
        .collect();
    let blocking = settings::<blocking::Client>(&broker).connect().unwrap();
    let threads: Vec<_> = (ASYNC_PUBLISHERS..PUBLISHERS)
        .map(|number| {
            let (client, ledger) = (blocking.clone(), ledger.clone());
            thread::spawn(move || publish_until_over_blocking(&client, &ledger, number))
        })
        .collect();

    let quiet = {
        let (client, ledger) = (settings::<blocking::Client>(&broker), ledger.clone());
        let client = client.connect().unwrap();
        thread::spawn(move || publish_unconfirmed(&client, &ledger))
    };

    let mut before = [0; PUBLISHERS];
    for _ in 0..RESTARTS {
        ledger.wait_for_progress(&mut before);
        broker.restart();
    }
    ledger.wait_for_progress(&mut before);
    ledger.is_over.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|it| it.join().unwrap());
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    end(&blocking);
    let heard = [
        runtime.block_on(heard).unwrap(),
        heard_blocking.join().unwrap(),
    ];
    check_all(&ledger, &heard);
    let (published, unconfirmed) = quiet.join().unwrap();
    check_quiet(&heard, published, unconfirmed);
}

/// Of what was published without confirmation, nothing came twice or out of order, and what did not come is either
/// marked by the listener or counted by the publisher.
fn check_quiet(all_heard: &[Heard], published: u64, unconfirmed: u64) {
    for heard in all_heard {
        let (mut next, mut is_marked, mut missing) = (0, true, 0);
        for entry in &heard.0["quiet"] {
            let Some(number) = *entry else {
                is_marked = true;
                continue;
            };
            assert!(number >= next, "{number} came twice or out of order");
            missing += if is_marked { 0 } else { number - next };
            (next, is_marked) = (number + 1, false);
        }
        assert!(next as u64 <= published);
        println!("{missing} of {published} missing without a mark, {unconfirmed} unconfirmed");
        assert!(missing as u64 <= unconfirmed);
    }
}

/// Tells both subscribers that nothing follows. Nothing breaks any more, so once both listen again, it reaches both.
fn end(client: &blocking::Client) {
    let deadline = Instant::now() + STUCK_AFTER;
    while client
        .publish_confirmed("load.probe", "0")
        .unwrap()
        .subscriptions
        < SUBSCRIBERS
    {
        assert!(Instant::now() < deadline, "a subscriber does not come back");
    }
    client.publish_confirmed("load.end", "").unwrap();
}

fn check_all(ledger: &Ledger, all_heard: &[Heard]) {
    let fates = ledger.fates.lock().unwrap();
    for heard in all_heard {
        // The probes were all called 0, so there is nothing to compare.
        let mut heard = Heard(heard.0.clone());
        heard.0.remove("load.probe");
        heard.0.remove("quiet");
        assert_eq!(heard.0.len(), PUBLISHERS, "somebody was never heard");
        heard.check(&fates);
    }
    let count = |fate: fn(&Fate) -> bool| {
        let counted = fates.values().flatten().filter(|it| fate(it));
        counted.count()
    };
    let unknown = count(|fate| *fate == Fate::Unknown);
    let to_all = count(|fate| *fate == Fate::Delivered(SUBSCRIBERS));
    println!("{unknown} unknown, {to_all} delivered to all");
    assert!(unknown > 0, "no kill met a publish, so this tests nothing");
    assert!(
        to_all > 0,
        "nothing reached everybody, so this tests nothing"
    );
    assert_eq!(count(|fate| *fate == Fate::Refused), 0);
}
