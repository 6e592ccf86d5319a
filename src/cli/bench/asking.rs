//! `bench request`: publishers that ask, subscribers that answer with what they were asked.
//!
//! Each who asks is a thread with a runtime of its own, so that a round trip is not delayed by a hand-over between threads of
//! the bench, and has one request under way. Those who answer are members of one group.

use std::num::NonZeroU64;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::set_current_timer_slack;
use sapwood_client::error::RequestError;
use sapwood_client::{Client, Event, Outgoing};
use tokio::runtime::Runtime;

use super::event::Payload;
use super::report::ProgressLine;
use super::{Limit, Outcome, Plan, Progress, STALL_TIME, builder, cpu_time};
use crate::cli::Failure;
use crate::cli::connect::{self, Connector, Threads};
use crate::cli::latency::Latency;
use crate::cli::stop::Stop;
use crate::cli::trouble::Trouble;

/// How often the main thread looks how far the run is.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The longest somebody who asks sleeps before looking whether to stop.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// The group of those who answer.
const GROUP: &str = "bench";

/// What those who ask share.
struct Shared {
    plan: Plan,
    topic: String,
    /// When time zero was. Set once all are connected.
    start: OnceLock<Instant>,
    progress: Progress,
    failure: Mutex<Option<String>>,
}

impl Shared {
    fn start(&self) -> Instant {
        *self.start.get_or_init(Instant::now)
    }

    /// Notes what failed, if it is the first.
    fn fail(&self, what: String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(what);
    }
}

/// What one who asks has found.
struct Asked {
    requests: u64,
    replies: u64,
    corrupt: u64,
    ended: Duration,
    latency: Latency,
    lateness: Latency,
}

/// Runs the benchmark. It ends early when it is told to stop.
pub fn run(plan: &Plan, connector: &Connector, stop: &Stop) -> Result<Outcome, Failure> {
    let shared = Arc::new(Shared {
        plan: plan.clone(),
        topic: plan.topic(0),
        start: OnceLock::new(),
        progress: Progress::default(),
        failure: Mutex::new(None),
    });
    let runtime = connect::runtime(Threads::Many)?;
    let answering = runtime.block_on(answer(&shared, connector))?;
    let cpu_before = cpu_time();
    let asked = thread::scope(|scope| {
        let askers = start_askers(scope, &shared, connector, stop)?;
        let mut line = ProgressLine::new(plan);
        // Ends with those who ask, who end with their share, their time, or when they are told to.
        while askers.iter().any(|asker| !asker.is_finished()) {
            thread::sleep(LOOK_INTERVAL);
            if let Some(start) = shared.start.get() {
                line.show(&shared.progress, start.elapsed());
            }
        }
        line.clear();
        let joined = askers.into_iter().filter_map(|asker| asker.join().ok());
        joined.collect::<Result<Vec<Asked>, Failure>>()
    })?;
    let cpu = cpu_time().saturating_sub(cpu_before);
    for client in answering {
        client.close();
    }
    Ok(sum_up(&shared, &asked, cpu))
}

/// Connects those who answer, and lets them.
async fn answer(shared: &Shared, connector: &Connector) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::with_capacity(shared.plan.subscribers);
    for _ in 0..shared.plan.subscribers {
        let client = connector.connect(builder(connector)).await?;
        let subscription = client
            .subscription(&shared.topic)
            .group(GROUP)
            .subscribe()
            .await;
        let mut requests = subscription
            .map_err(|error| Failure::Client(Trouble::Subscribe(shared.topic.clone(), error)))?;
        let answering = client.clone();
        tokio::spawn(async move {
            // Ends when the client is closed. What cannot be answered is missed by who asked.
            while let Some(event) = requests.next().await {
                if let Event::Message(request) = event {
                    let _ = answering.reply(&request, request.payload()).await;
                }
            }
        });
        clients.push(client);
    }
    Ok(clients)
}

type Asking<'scope> = ScopedJoinHandle<'scope, Result<Asked, Failure>>;

fn start_askers<'scope>(
    scope: &'scope Scope<'scope, '_>,
    shared: &Arc<Shared>,
    connector: &'scope Connector,
    stop: &Stop,
) -> Result<Vec<Asking<'scope>>, Failure> {
    // All begin when all are connected.
    let connected = Arc::new(Gate::new(shared.plan.publishers));
    let mut askers = Vec::with_capacity(shared.plan.publishers);
    for number in 0..shared.plan.publishers {
        let (shared, stop, gate) = (shared.clone(), stop.clone(), connected.clone());
        let ask = move || {
            let connected = connect_one(connector);
            gate.pass();
            let (runtime, client) = connected?;
            let asker = Asker::new(shared, number, client, stop);
            Ok(runtime.block_on(asker.ask_all()))
        };
        let asker = thread::Builder::new()
            .name(format!("sapwood-ask-{number}"))
            .spawn_scoped(scope, ask);
        if asker.is_err() {
            // Those who wait for one that will never come must not wait for ever.
            connected.open();
        }
        askers.push(asker.map_err(|error| Failure::System("start a thread", error))?);
    }
    Ok(askers)
}

fn connect_one(connector: &Connector) -> Result<(Runtime, Client), Failure> {
    let runtime = connect::runtime(Threads::Here)?;
    let client = runtime.block_on(connector.connect(builder(connector)))?;
    Ok((runtime, client))
}

/// Where threads wait until so many have come, or until it is opened.
struct Gate {
    awaited: Mutex<usize>,
    opened: Condvar,
}

impl Gate {
    fn new(awaited: usize) -> Gate {
        Gate {
            awaited: Mutex::new(awaited),
            opened: Condvar::new(),
        }
    }

    fn pass(&self) {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        *awaited = awaited.saturating_sub(1);
        self.opened.notify_all();
        let opened = self.opened.wait_while(awaited, |awaited| *awaited > 0);
        drop(opened.unwrap_or_else(PoisonError::into_inner));
    }

    fn open(&self) {
        *self.awaited.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        self.opened.notify_all();
    }
}

struct Asker {
    shared: Arc<Shared>,
    number: usize,
    client: Client,
    stop: Stop,
    payload: Payload,
    asked: Asked,
}

impl Asker {
    fn new(shared: Arc<Shared>, number: usize, client: Client, stop: Stop) -> Asker {
        // Sleeps end when they should, not up to 50 us later; where the system forbids that, the table shows it as lateness.
        let _ = set_current_timer_slack(NonZeroU64::new(1));
        let payload = Payload::new(shared.plan.size, number as u16, shared.plan.run);
        Asker {
            shared,
            number,
            client,
            stop,
            payload,
            asked: Asked {
                requests: 0,
                replies: 0,
                corrupt: 0,
                ended: Duration::ZERO,
                latency: Latency::new(),
                lateness: Latency::new(),
            },
        }
    }

    async fn ask_all(mut self) -> Asked {
        let share = self.shared.plan.share(self.number);
        let end = match self.shared.plan.limit {
            Limit::Time(time) => time,
            Limit::Events(_) => Duration::MAX,
        };
        let start = self.shared.start();
        // Ends with its share, with its time, when it is told to, or when nobody answers.
        while self.asked.requests < share && !self.stop.is_stopped() {
            let mut since = start.elapsed();
            if since >= end {
                break;
            }
            if let Some(due) = self.due() {
                if due >= end {
                    break;
                }
                if due > since {
                    // Nothing is under way, so there is nothing that the runtime would do meanwhile.
                    thread::sleep((due - since).min(SLEEP_MAX));
                    continue;
                }
                self.asked.lateness.record(since - due);
                since = due;
            }
            if let Err(error) = self.ask(since).await {
                self.shared.fail(format!("a request failed: {error}"));
                break;
            }
        }
        self.asked
    }

    /// When the next request is due, if there is a rate: those who ask take turns in one schedule.
    fn due(&self) -> Option<Duration> {
        let plan = &self.shared.plan;
        let turn = self.asked.requests * plan.publishers as u64 + self.number as u64;
        plan.rate.map(|rate| rate.due(turn))
    }

    async fn ask(&mut self, since: Duration) -> Result<(), RequestError> {
        let number = self.asked.requests as u32;
        let payload = self.payload.event(number, since);
        self.asked.requests += 1;
        self.shared.progress.add_published(1);
        let message = Outgoing::new(&self.shared.topic, payload);
        let reply = self
            .client
            .request_message(&message, Some(STALL_TIME))
            .await?;
        let now = self.shared.start().elapsed();
        if reply.payload() == payload {
            self.asked.replies += 1;
            self.asked.latency.record(now.saturating_sub(since));
        } else {
            self.asked.corrupt += 1;
        }
        self.asked.ended = now;
        self.shared.progress.add_received(1);
        Ok(())
    }
}

fn sum_up(shared: &Shared, asked: &[Asked], cpu: Duration) -> Outcome {
    let (mut latency, mut lateness) = (Latency::new(), Latency::new());
    for one in asked {
        latency.add(&one.latency);
        lateness.add(&one.lateness);
    }
    let ended = asked.iter().map(|one| one.ended).max().unwrap_or_default();
    let requests = asked.iter().map(|one| one.requests).sum();
    Outcome {
        published: requests,
        publishing: ended,
        received: asked.iter().map(|one| one.replies).sum(),
        expected: requests,
        receiving: ended,
        latency,
        lateness,
        misordered: 0,
        corrupt: asked.iter().map(|one| one.corrupt).sum(),
        failure: shared
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(),
        cpu,
    }
}
