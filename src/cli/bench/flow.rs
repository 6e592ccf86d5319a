//! `bench pub` and `bench fanout`: publishers, subscribers, and what keeps the former from outrunning the latter.
//!
//! Every publisher counts what it has published, and every subscriber what it has received from each publisher. Without
//! `--rate` a publisher stops when its window is on its way, and the subscriber that takes the event which makes room wakes
//! it. Invariant: a publisher that waits has said so before it looked a last time, so no wake-up is missed.

use std::future::poll_fn;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use futures_core::Stream;
use rustix::thread::set_current_timer_slack;
use sapwood_client::error::PublishError;
use sapwood_client::{Client, Event, Subscription};
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

use super::event::{Checker, Findings, Payload, topic_index};
use super::report::ProgressLine;
use super::{Limit, Mode, Outcome, Plan, Progress, STALL_TIME, builder, cpu_time};
use crate::cli::Failure;
use crate::cli::connect::{self, Connector, Threads};
use crate::cli::latency::Latency;
use crate::cli::stop::Stop;
use crate::cli::trouble::Trouble;

/// How many events a publisher publishes before it looks at the clock, at its window and at what it was told. A batch takes
/// some microseconds, which is what a time stamp is then off by.
const BATCH_EVENTS: u64 = 16;

/// How many events a subscriber takes before it looks at the clock and tells the publishers.
const TURN_EVENTS: usize = 64;

/// How often the main thread looks how far the run is.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The longest a publisher sleeps before it looks whether it was told to stop.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// What publishers and subscribers share.
struct Shared {
    plan: Plan,
    topics: Vec<String>,
    /// When time zero was. Set once all are connected.
    start: OnceLock<Instant>,
    progress: Progress,
    /// For each subscriber and each publisher, how many events of the latter the former has taken.
    taken: Vec<AtomicU64>,
    /// For each publisher, whether it waits for room.
    waiting: Vec<AtomicBool>,
    /// For each publisher, its thread.
    threads: Vec<OnceLock<Thread>>,
    failure: Mutex<Option<String>>,
}

impl Shared {
    fn new(plan: &Plan) -> Shared {
        let (publishers, subscribers) = (plan.publishers, plan.subscribers);
        Shared {
            topics: (0..plan.topics).map(|topic| plan.topic(topic)).collect(),
            plan: plan.clone(),
            start: OnceLock::new(),
            progress: Progress::default(),
            taken: (0..publishers * subscribers)
                .map(|_| AtomicU64::new(0))
                .collect(),
            waiting: (0..publishers).map(|_| AtomicBool::new(false)).collect(),
            threads: (0..publishers).map(|_| OnceLock::new()).collect(),
            failure: Mutex::new(None),
        }
    }

    fn start(&self) -> Instant {
        *self.start.get_or_init(Instant::now)
    }

    /// Notes what failed, if it is the first.
    fn fail(&self, what: String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(what);
    }

    /// How many of a publisher's events its slowest subscriber has taken, or all together where they share them.
    fn taken(&self, publisher: usize) -> u64 {
        let taken = self.taken.chunks_exact(self.plan.publishers);
        let taken = taken.map(|row| row[publisher].load(Ordering::SeqCst));
        match self.plan.mode {
            Mode::Fanout => taken.min().unwrap_or(u64::MAX),
            Mode::Pub | Mode::Request => match self.plan.subscribers {
                0 => u64::MAX,
                _ => taken.sum(),
            },
        }
    }

    /// Waits until fewer than the window are on their way. Break: it was told to stop, or nothing moves any more.
    fn wait_for_room(&self, publisher: usize, published: u64, stop: &Stop) -> Room {
        let window = self.plan.window();
        let on_the_way = || published.saturating_sub(self.taken(publisher));
        let mut since = (Instant::now(), on_the_way());
        // Ends when there is room, when it is told to, or when there has been no progress for long.
        loop {
            let left = on_the_way();
            if left < window {
                return Room::Events(window - left);
            }
            if stop.is_stopped() {
                return Room::Stopped;
            }
            if left != since.1 {
                since = (Instant::now(), left);
            } else if since.0.elapsed() > STALL_TIME {
                self.fail(format!(
                    "nothing has arrived for {STALL_TIME:?} while {left} events of a publisher were on their way"
                ));
                return Room::Stopped;
            }
            self.waiting[publisher].store(true, Ordering::SeqCst);
            if on_the_way() >= window {
                thread::park_timeout(SLEEP_MAX);
            }
        }
    }
}

enum Room {
    Events(u64),
    Stopped,
}

/// What a publisher has done.
struct Published {
    events: u64,
    /// When the broker had all of them.
    ended: Duration,
    lateness: Latency,
}

/// Runs the benchmark. It ends early when it is told to stop.
pub fn run(plan: &Plan, connector: &Connector, stop: &Stop) -> Result<Outcome, Failure> {
    let runtime = connect::runtime(Threads::Many)?;
    let shared = Arc::new(Shared::new(plan));
    let subscribers = runtime.block_on(subscribe_all(&shared, connector))?;
    let clients = runtime.block_on(connect_all(plan.publishers, connector))?;
    let cpu_before = cpu_time();
    let start = shared.start();
    let watch = clients.clone();
    let publishers = start_publishers(&shared, &runtime, clients, stop)?;
    let mut line = ProgressLine::new(plan);
    // Ends with the publishers, which end with their share, their time, or when they are told to.
    while publishers.iter().any(|publisher| !publisher.is_finished()) {
        thread::sleep(LOOK_INTERVAL);
        line.show(&shared.progress, start.elapsed());
    }
    let published: Vec<Published> = publishers
        .into_iter()
        .filter_map(|publisher| publisher.join().ok())
        .collect();
    let events = published.iter().map(|one| one.events).sum::<u64>();
    let expected = match plan.mode {
        Mode::Fanout => events * plan.subscribers as u64,
        Mode::Pub | Mode::Request if plan.subscribers == 0 => 0,
        Mode::Pub | Mode::Request => events,
    };
    wait_for_rest(&shared, expected, stop, &mut line);
    let cpu = cpu_time().saturating_sub(cpu_before);
    line.clear();
    let received = runtime.block_on(end_all(subscribers));
    note_losses(&shared, &watch);
    Ok(sum_up(&shared, &published, received, expected, cpu))
}

async fn connect_all(count: usize, connector: &Connector) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(connector.connect(builder(connector)).await?);
    }
    Ok(clients)
}

async fn subscribe_all(
    shared: &Arc<Shared>,
    connector: &Connector,
) -> Result<Vec<Listener>, Failure> {
    let mut listeners = Vec::with_capacity(shared.plan.subscribers);
    for number in 0..shared.plan.subscribers {
        let client = connector.connect(builder(connector)).await?;
        let filter = shared.plan.filter(number);
        let subscription = client
            .subscribe(&filter)
            .await
            .map_err(|error| Failure::Client(Trouble::Subscribe(filter, error)))?;
        let plan = &shared.plan;
        let checker = Checker::new(plan.size, plan.run, plan.publishers, shared.topics.clone());
        let subscriber = Subscriber {
            shared: shared.clone(),
            number,
            subscription,
            checker,
            latency: Latency::new(),
            ended: Duration::ZERO,
            untold: vec![0; plan.publishers],
            now: Duration::ZERO,
        };
        listeners.push(Listener {
            client,
            task: tokio::spawn(subscriber.listen()),
        });
    }
    Ok(listeners)
}

struct Listener {
    client: Client,
    task: JoinHandle<Received>,
}

/// What a subscriber has found.
struct Received {
    findings: Findings,
    latency: Latency,
    /// When the last event came.
    ended: Duration,
}

struct Subscriber {
    shared: Arc<Shared>,
    number: usize,
    subscription: Subscription,
    checker: Checker,
    latency: Latency,
    ended: Duration,
    /// For each publisher, how many events it has not been told of.
    untold: Vec<u64>,
    /// The time of the current turn.
    now: Duration,
}

impl Subscriber {
    /// Takes events until the client is closed.
    async fn listen(mut self) -> Received {
        poll_fn(|cx| self.poll(cx)).await;
        Received {
            findings: self.checker.findings,
            latency: self.latency,
            ended: self.ended,
        }
    }

    /// One turn: then others may have the thread.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.now = self.shared.start().elapsed();
        for _ in 0..TURN_EVENTS {
            match Pin::new(&mut self.subscription).poll_next(cx) {
                Poll::Ready(Some(event)) => self.take(&event),
                Poll::Ready(None) => {
                    self.tell();
                    return Poll::Ready(());
                }
                Poll::Pending => {
                    self.tell();
                    return Poll::Pending;
                }
            }
        }
        self.tell();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Message(message) => {
                let checked = self.checker.check(message.topic(), message.payload());
                if let Some(checked) = checked {
                    let now = self.now.as_nanos() as u64;
                    self.latency.record_nanos(now.saturating_sub(checked.nanos));
                    self.untold[checked.publisher] += 1;
                    self.ended = self.now;
                }
            }
            Event::Gap { events } => self.shared.fail(format!(
                "the broker dropped {events} events, because a subscriber read too slowly"
            )),
            Event::Reconnected => self
                .shared
                .fail("a subscriber's connection was lost".to_string()),
            _ => self.shared.fail("a subscription was refused".to_string()),
        }
    }

    /// Tells the publishers what was taken, and wakes those that wait.
    fn tell(&mut self) {
        let mut all = 0;
        for (publisher, count) in self
            .untold
            .iter_mut()
            .enumerate()
            .filter(|(_, count)| **count > 0)
        {
            all += *count;
            let taken = &self.shared.taken[self.number * self.shared.plan.publishers + publisher];
            taken.fetch_add(std::mem::take(count), Ordering::SeqCst);
            if self.shared.waiting[publisher].load(Ordering::SeqCst)
                && self.shared.waiting[publisher].swap(false, Ordering::SeqCst)
                && let Some(thread) = self.shared.threads[publisher].get()
            {
                thread.unpark();
            }
        }
        self.shared.progress.add_received(all);
    }
}

fn start_publishers(
    shared: &Arc<Shared>,
    runtime: &Runtime,
    clients: Vec<Client>,
    stop: &Stop,
) -> Result<Vec<thread::JoinHandle<Published>>, Failure> {
    let mut publishers = Vec::with_capacity(clients.len());
    for (number, client) in clients.into_iter().enumerate() {
        let plan = &shared.plan;
        let publisher = Publisher {
            shared: shared.clone(),
            number,
            client,
            handle: runtime.handle().clone(),
            stop: stop.clone(),
            payload: Payload::new(plan.size, number as u16, plan.run),
            events: 0,
            room: 0,
            lateness: Latency::new(),
        };
        let spawned = thread::Builder::new()
            .name(format!("sapwood-pub-{number}"))
            .spawn(move || publisher.publish());
        let spawned = spawned.map_err(|error| Failure::System("start a thread", error))?;
        // It is set once, before anybody looks: a thread that is not there yet is not woken, and does not sleep for long.
        let _ = shared.threads[number].set(spawned.thread().clone());
        publishers.push(spawned);
    }
    Ok(publishers)
}

struct Publisher {
    shared: Arc<Shared>,
    number: usize,
    client: Client,
    handle: Handle,
    stop: Stop,
    payload: Payload,
    events: u64,
    /// How many events may be published before the subscribers are looked at again.
    room: u64,
    lateness: Latency,
}

impl Publisher {
    fn publish(mut self) -> Published {
        // Sleeps end when they should, not up to 50 us later; where the system forbids that, the table shows it as lateness.
        let _ = set_current_timer_slack(NonZeroU64::new(1));
        if let Err(error) = self.publish_all() {
            self.shared.fail(format!("a publish failed: {error}"));
        }
        if let Err(error) = self.handle.block_on(self.client.flush()) {
            self.shared
                .fail(format!("the broker did not confirm the end: {error}"));
        }
        Published {
            events: self.events,
            ended: self.shared.start().elapsed(),
            lateness: self.lateness,
        }
    }

    fn publish_all(&mut self) -> Result<(), PublishError> {
        let share = self.shared.plan.share(self.number);
        let end = match self.shared.plan.limit {
            Limit::Time(time) => time,
            Limit::Events(_) => Duration::MAX,
        };
        // Ends with its share, with its time, or when it is told to.
        while self.events < share && !self.stop.is_stopped() {
            let now = self.shared.start().elapsed();
            if now >= end {
                break;
            }
            match self.shared.plan.rate {
                Some(_) => self.publish_due(now, share, end)?,
                None => {
                    // Looking at every subscriber costs, so it is done once for all the room that there is.
                    if self.room == 0 {
                        let waited =
                            self.shared
                                .wait_for_room(self.number, self.events, &self.stop);
                        let Room::Events(room) = waited else { break };
                        self.room = room;
                    }
                    let batch = self.room.min(BATCH_EVENTS).min(share - self.events);
                    self.room -= batch;
                    let now = self.shared.start().elapsed();
                    for _ in 0..batch {
                        self.publish_one(now)?;
                    }
                    self.shared.progress.add_published(batch);
                }
            }
        }
        Ok(())
    }

    /// Publishes what is due, each with the time at which it was, then sleeps until the next one is.
    fn publish_due(
        &mut self,
        now: Duration,
        share: u64,
        end: Duration,
    ) -> Result<(), PublishError> {
        for _ in 0..BATCH_EVENTS {
            let due = self.due();
            if self.events == share || due >= end {
                // Nothing more is due within the time, so the rest of it is waited for.
                thread::sleep(end.saturating_sub(now).min(SLEEP_MAX));
                return Ok(());
            }
            if due > now {
                let left = due.saturating_sub(self.shared.start().elapsed());
                thread::sleep(left.min(SLEEP_MAX));
                return Ok(());
            }
            self.lateness.record(now - due);
            self.publish_one(due)?;
            self.shared.progress.add_published(1);
        }
        Ok(())
    }

    /// When this publisher's next event is due: they take turns in one schedule.
    fn due(&self) -> Duration {
        let turn = self.events * self.shared.plan.publishers as u64 + self.number as u64;
        let rate = self.shared.plan.rate;
        rate.map_or(Duration::ZERO, |rate| rate.due(turn))
    }

    fn publish_one(&mut self, time: Duration) -> Result<(), PublishError> {
        let number = self.events as u32;
        let topic = topic_index(self.number, number, self.shared.topics.len());
        let topic = &self.shared.topics[topic];
        let payload = self.payload.event(number, time);
        match self.client.try_publish(topic, payload) {
            Err(PublishError::Full) => {
                self.handle.block_on(self.client.publish(topic, payload))?;
            }
            published => published?,
        }
        self.events += 1;
        Ok(())
    }
}

/// Waits until everything has arrived, or until nothing has for long.
fn wait_for_rest(shared: &Shared, expected: u64, stop: &Stop, line: &mut ProgressLine) {
    let told_before = stop.is_stopped();
    let mut since = (Instant::now(), shared.progress.received());
    // Ends when all is there, when nothing has moved for long, or when it is told to while it waits.
    while shared.progress.received() < expected && since.0.elapsed() < STALL_TIME {
        if stop.is_stopped() && !told_before {
            break;
        }
        thread::sleep(LOOK_INTERVAL);
        line.show(&shared.progress, shared.start().elapsed());
        let received = shared.progress.received();
        if received != since.1 {
            since = (Instant::now(), received);
        }
    }
}

async fn end_all(listeners: Vec<Listener>) -> Vec<Received> {
    for listener in &listeners {
        listener.client.close();
    }
    let mut received = Vec::with_capacity(listeners.len());
    for listener in listeners {
        if let Ok(one) = listener.task.await {
            received.push(one);
        }
    }
    received
}

/// Notes what the publishers' connections lost.
fn note_losses(shared: &Shared, clients: &[Client]) {
    let lost: u64 = clients
        .iter()
        .map(|client| client.statistics())
        .map(|statistics| statistics.refused_publishes + statistics.unconfirmed_publishes)
        .sum();
    if lost > 0 {
        shared.fail(format!(
            "{lost} events were refused, or lost with a connection"
        ));
    }
}

fn sum_up(
    shared: &Shared,
    published: &[Published],
    received: Vec<Received>,
    expected: u64,
    cpu: Duration,
) -> Outcome {
    let mut latency = Latency::new();
    let mut findings = Findings::default();
    let mut receiving = Duration::ZERO;
    for one in &received {
        latency.add(&one.latency);
        findings.received += one.findings.received;
        findings.misordered += one.findings.misordered;
        findings.corrupt += one.findings.corrupt;
        receiving = receiving.max(one.ended);
    }
    let mut lateness = Latency::new();
    for one in published {
        lateness.add(&one.lateness);
    }
    Outcome {
        published: published.iter().map(|one| one.events).sum(),
        publishing: published
            .iter()
            .map(|one| one.ended)
            .max()
            .unwrap_or_default(),
        received: findings.received,
        expected,
        receiving,
        latency,
        lateness,
        misordered: findings.misordered,
        corrupt: findings.corrupt,
        failure: shared
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(),
        cpu,
    }
}
