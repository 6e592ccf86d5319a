//! The thread of a state worker: it moves what shards hand over into the worker's machine, what that proposes to the log, and
//! what it answers back.
//!
//! Owns the order of a turn, and who waits for which tag. Must not know what requests and answers mean, beyond what an
//! acknowledgement at a reply topic says. Invariants: a batch of a shard goes back once all of it was taken in, and is
//! taken in only while the machine has room; the thread sleeps without a timer where nothing is due. Start at
//! [`WorkerThread::turn`].

use super::acks::{self, Waiters};
use super::error::Failure;
use super::plane::{NewsBox, Opening, Plane, Share, wall_ms};
use super::store::RocksStore;
use super::threads::spawn;
use crate::mesh::{Doors, Mesh};
use bytes::Bytes;
use sapwood_core::command::{Event, Extent, ShardId, Space};
use sapwood_core::limits::Limits;
use sapwood_core::mailbox::{Batch, BatchCursor};
use sapwood_core::worker::{Asker, Captured, Heard, WorkerPort};
use sapwood_state::partition::Partition;
use sapwood_state::store::StoreError;
use sapwood_state::worker::{ChangeNumber, Output, Part, Proposal, Tag, Worker, WorkerError};
use sapwood_wire::native;
use sapwood_wire::state::{Answer, Index, Message, Refusal, Request, Rest};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most acknowledgements that wait for room at shards; beyond it nothing more is taken in.
const OUTGOING_MAX: usize = 16_384;

/// Steps of reads between looks at what else there is to do: each copies at most 64 KiB.
const READS_A_TURN: usize = 4;

/// The longest sleep while something is due by the wall clock, which may step.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// A read whose reader has not asked on for so long is ended.
const READ_IDLE: Duration = Duration::from_secs(30);

/// Starts the thread of a worker.
pub(crate) fn start(
    plane: &Arc<Plane>,
    (number, shards): (u16, u16),
    mesh: Mesh,
    limits: &Limits,
    ready: flume::Sender<()>,
) -> io::Result<JoinHandle<()>> {
    let port = WorkerPort::new(number, shards, limits);
    let plane = Arc::clone(plane);
    spawn("sapwood-state", move || {
        mesh.wakes_this_thread();
        let mut guard = SaysGone {
            doors: mesh.doors(),
            number,
            is_orderly: false,
        };
        WorkerThread::new(plane, number, port, mesh).run(ready);
        guard.is_orderly = true;
    })
}

/// Says that the thread has ended, if that is by a panic.
struct SaysGone {
    doors: Arc<Doors>,
    number: u16,
    is_orderly: bool,
}

impl Drop for SaysGone {
    fn drop(&mut self) {
        if !self.is_orderly {
            tracing::error!(
                "a state worker ended by a fault; nothing of its streams is stored or read until the broker is started again"
            );
            self.doors.note_worker_gone(self.number);
        }
    }
}

/// A worker's machine, with what it works on.
struct Running {
    machine: Worker,
    store: RocksStore,
    log: super::log::LogHandle,
    news: Arc<NewsBox>,
    /// Proposals that the log had no room for.
    proposals: Vec<Proposal>,
    /// Changes of filters that not all shards know: the port's number and the machine's.
    changes: VecDeque<(u64, ChangeNumber)>,
    /// For each partition, how far the log knows that it has come.
    noted: Vec<Index>,
    /// Whether the operator was told of a failure.
    is_failure_said: bool,
}

/// See the module.
struct WorkerThread {
    plane: Arc<Plane>,
    number: u16,
    port: WorkerPort,
    mesh: Mesh,
    running: Option<Box<Running>>,
    /// Why nothing can be kept.
    refused: Option<String>,
    /// The batch that is being taken in.
    batch: Option<(ShardId, Batch, BatchCursor)>,
    waiters: Waiters,
    outgoing: Outgoing,
}

/// Acknowledgements at reply topics that wait for room: the shard that publishes, topic, payload.
type Outgoing = VecDeque<(ShardId, Box<[u8]>, Vec<u8>)>;

impl WorkerThread {
    fn new(plane: Arc<Plane>, number: u16, port: WorkerPort, mesh: Mesh) -> WorkerThread {
        WorkerThread {
            plane,
            number,
            port,
            mesh,
            running: None,
            refused: None,
            batch: None,
            waiters: Waiters::default(),
            outgoing: VecDeque::new(),
        }
    }

    /// Runs until the plane ends. `ready` goes once what is kept was announced.
    fn run(mut self, ready: flume::Sender<()>) {
        if self.plane.is_open() {
            self.begin();
        }
        self.turn();
        drop(ready);
        loop {
            let is_busy = self.turn();
            if !is_busy && self.plane.is_ending() && self.has_ended() {
                return;
            }
            if !is_busy {
                self.sleep();
            }
        }
    }

    /// Whether nothing is left to be done for those who are still there.
    fn has_ended(&self) -> bool {
        let is_settled = |running: &Running| {
            running.machine.is_failed()
                || running.proposals.is_empty()
                    && !running.machine.wants_turn()
                    && running.machine.counters().proposed == running.machine.counters().applied
        };
        self.batch.is_none() && self.running.as_deref().is_none_or(is_settled)
    }

    /// Sleeps until shards send or give back something that it can go on with, the log has news, or something is due.
    fn sleep(&mut self) {
        let waits_for_room = self.port.wants_credit() || !self.outgoing.is_empty();
        let waits_for_readers = !self.port.shards().all(|shard| self.port.may_read(shard));
        let wants_credit = waits_for_room || waits_for_readers;
        if !self.mesh.worker_falls_asleep(wants_credit, !self.is_full()) {
            return;
        }
        let news = self.running.as_deref().map(|running| &running.news);
        if news.is_some_and(|news| news.is_new()) || self.plane.is_ending() && self.has_ended() {
            return self.mesh.awake();
        }
        match self.next_deadline() {
            Some(wait) => std::thread::park_timeout(wait),
            None => std::thread::park(),
        }
        self.mesh.awake();
    }

    /// For how long it may sleep; without end if nothing is due.
    fn next_deadline(&self) -> Option<Duration> {
        let running = self.running.as_deref()?;
        let due = running.machine.deadline_ms().map(|due_ms| {
            let left = Duration::from_millis(due_ms.saturating_sub(wall_ms()));
            left.clamp(Duration::from_millis(1), SLEEP_MAX)
        });
        let reads = self.waiters.has_paused().then_some(SLEEP_MAX);
        due.into_iter().chain(reads).min()
    }

    /// Does what there is to do. False if that was nothing.
    fn turn(&mut self) -> bool {
        let mut is_busy = false;
        while let Some((by, batch)) = self.mesh.take_returned() {
            self.port.handle_returned(by, batch);
            is_busy = true;
        }
        is_busy |= self.take_in();
        is_busy |= self.drive();
        is_busy |= self.publish();
        for shard in self.port.shards() {
            if let Some(batch) = self.port.take_batch(shard) {
                self.mesh.send(shard, batch);
                is_busy = true;
            }
        }
        is_busy
    }

    /// Takes in what shards have sent, as long as there is room. False if there was nothing.
    fn take_in(&mut self) -> bool {
        let mut is_busy = false;
        if let Some(running) = &mut self.running {
            running.machine.handle_clock(wall_ms());
        }
        while !self.is_full() {
            let next = self.batch.take().or_else(|| {
                let (from, batch) = self.mesh.receive()?;
                Some((from, batch, BatchCursor::default()))
            });
            let Some((from, batch, mut cursor)) = next else {
                break;
            };
            is_busy = true;
            if self.take_in_batch(from, &batch, &mut cursor) {
                self.mesh.give_back(from, batch);
            } else {
                self.batch = Some((from, batch, cursor));
            }
        }
        is_busy
    }

    fn is_full(&self) -> bool {
        let running = self.running.as_deref();
        self.outgoing.len() >= OUTGOING_MAX
            || running.is_some_and(|running| running.machine.is_full())
    }

    /// Takes in a batch from where it was left. False if there is no room for the rest.
    fn take_in_batch(&mut self, from: ShardId, batch: &Batch, cursor: &mut BatchCursor) -> bool {
        loop {
            if self.is_full() {
                return false;
            }
            let Some(heard) = self.port.handle_batch(from, batch, cursor).next() else {
                return true;
            };
            match heard {
                Heard::Events(captured) => self.capture(from, &captured),
                Heard::Asked { asker, request, .. } => self.request(asker, request),
            }
        }
    }

    fn capture(&mut self, from: ShardId, captured: &Captured) {
        let waiter = match (captured.ack, captured.reply()) {
            (Some(asker), _) => Some(self.waiters.stored(asker)),
            (None, Some(topic)) => Some(self.waiters.reply(from, topic)),
            (None, None) => None,
        };
        let Some(running) = &mut self.running else {
            if let Some(tag) = waiter {
                self.refuse(tag, Refusal::NoStream);
            }
            return;
        };
        let headers = native::attributes_headers(captured.flags, captured.attributes);
        let block = acks::header_bytes(captured.flags, captured.attributes);
        let fields = acks::Fields::read(headers);
        let messages = captured.payloads().map(|body| Message {
            topic: captured.topic,
            headers: block,
            body,
            ..fields.message()
        });
        running.machine.capture(messages, waiter);
    }

    fn request(&mut self, asker: Asker, bytes: &[u8]) {
        // The reader of a part wants the next one.
        if bytes.is_empty() {
            let tag = self.waiters.resume(asker);
            match (tag, &mut self.running) {
                (Some(tag), Some(running)) => running.machine.handle_more(tag),
                _ => {
                    let tag = self.waiters.call(asker);
                    self.refuse(tag, Refusal::RequestInvalid);
                }
            }
            return;
        }
        let tag = match acks::is_append(bytes) {
            true => self.waiters.stored(asker),
            false => self.waiters.call(asker),
        };
        if self.running.is_none() && acks::is_create(bytes) {
            self.begin();
        }
        if let Some(running) = &mut self.running {
            return running.machine.handle_request(tag, bytes);
        }
        let is_list = Request::read(bytes).is_ok_and(|request| acks::is_list(&request));
        match (&self.refused, is_list) {
            (None, true) => self.answer(tag, &Answer::List(Vec::new(), Rest::Done)),
            (None, false) => self.refuse(tag, Refusal::NoStream),
            (Some(_), _) => self.refuse(tag, Refusal::StorageFailed),
        }
    }

    fn refuse(&mut self, tag: Tag, refusal: Refusal) {
        self.answer(tag, &Answer::Refused(refusal, b""));
    }

    fn answer(&mut self, tag: Tag, answer: &Answer) {
        let mut bytes = Vec::new();
        answer.write(&mut bytes);
        deliver(
            &mut self.waiters,
            &mut self.port,
            &mut self.outgoing,
            (tag, &bytes, Part::Last),
        );
    }

    /// Begins to keep: the plane is opened if it is not.
    fn begin(&mut self) {
        match self.plane.share(self.number) {
            Opening::Open(share) => {
                let Share {
                    setup,
                    store,
                    log,
                    news,
                } = *share;
                let machine = Worker::new(setup);
                self.running = Some(Box::new(Running {
                    noted: machine.owned().map(Partition::applied).collect(),
                    machine,
                    store,
                    log,
                    news,
                    proposals: Vec::new(),
                    changes: VecDeque::new(),
                    is_failure_said: false,
                }));
            }
            Opening::Refused(why) => self.refused = Some(why),
        }
    }

    /// Moves what the machine has to say, to the log and to those who wait. False if there was nothing.
    fn drive(&mut self) -> bool {
        let Some(running) = &mut self.running else {
            return false;
        };
        let mut is_busy = false;
        running.machine.end_turn();
        is_busy |= running.propose();
        if let Some(news) = running.news.take() {
            running.machine.handle_news(news);
            is_busy = true;
        }
        running.look_for_failure();
        is_busy |= running.apply();
        let may_read = self.port.shards().all(|shard| self.port.may_read(shard));
        if may_read {
            is_busy |= running.read();
        }
        let (waiters, port, outgoing) = (&mut self.waiters, &mut self.port, &mut self.outgoing);
        running.machine.take_answers(|tag, bytes, part| {
            deliver(waiters, port, outgoing, (tag, bytes, part));
            is_busy = true;
        });
        while let Some(output) = running.machine.poll_output() {
            if let Output::Filters {
                change,
                added,
                removed,
            } = output
            {
                let [added, removed] =
                    [&added, &removed].map(|all| all.iter().map(Vec::as_slice).collect::<Vec<_>>());
                let number = self.port.set_filters(&added, &removed);
                running.changes.push_back((number, change));
            }
            is_busy = true;
        }
        while let Some(&(number, change)) = running.changes.front()
            && self.port.is_known(number)
        {
            running.changes.pop_front();
            running.machine.handle_known(change);
            is_busy = true;
        }
        for tag in self.waiters.take_idle(Instant::now(), READ_IDLE) {
            running.machine.handle_gone(tag);
        }
        is_busy
    }

    /// Publishes acknowledgements, as far as shards have room. False if none.
    fn publish(&mut self) -> bool {
        let mut is_busy = false;
        while let Some((shard, ..)) = self.outgoing.front()
            && self.port.may_publish(*shard)
            && let Some((shard, topic, payload)) = self.outgoing.pop_front()
        {
            let event = Event {
                space: Space::Topic,
                topic: &topic,
                flags: 0,
                attributes: &[],
                payload: &payload,
                number: 0,
            };
            self.port.publish(shard, event);
            is_busy = true;
        }
        is_busy
    }
}

impl Running {
    fn propose(&mut self) -> bool {
        while let Some(proposal) = self.machine.poll_proposal() {
            self.proposals.push(proposal);
        }
        if self.proposals.is_empty() || self.machine.is_failed() {
            return false;
        }
        let worker = self.proposals[0].worker;
        // A refusal is a failure, which is looked for next.
        self.log
            .propose(worker, &mut self.proposals)
            .is_ok_and(|taken| taken > 0)
    }

    fn look_for_failure(&mut self) {
        if !self.log.has_failed() || self.is_failure_said {
            return;
        }
        self.is_failure_said = true;
        self.proposals.clear();
        self.machine.fail();
        if let Some(failure) = self.log.failure() {
            tracing::error!("nothing more is stored until the broker is started again: {failure}");
        }
    }

    fn apply(&mut self) -> bool {
        let mut is_busy = false;
        while !self.machine.is_failed() {
            let (begun, batches) = (Instant::now(), self.machine.counters().batches);
            match self.machine.apply(&mut self.store) {
                Ok(_) if self.machine.counters().batches == batches => break,
                Ok(_) => self.note_applied(begun.elapsed()),
                Err(error) => self.log.fail(failure_of(error)),
            }
            is_busy = true;
        }
        self.look_for_failure();
        is_busy
    }

    /// Tells the log how far partitions have come. What it took together is said with the first.
    fn note_applied(&mut self, took: Duration) {
        let mut took = took;
        for (partition, noted) in self.machine.owned().zip(&mut self.noted) {
            let applied = partition.applied();
            if *noted != applied {
                *noted = applied;
                self.log
                    .note_applied(partition.id(), applied, std::mem::take(&mut took));
            }
        }
    }

    fn read(&mut self) -> bool {
        let mut is_busy = false;
        for _ in 0..READS_A_TURN {
            match self.machine.read(&self.store) {
                Ok(true) => is_busy = true,
                Ok(false) => break,
                Err(error) => tracing::error!("a read found {error}"),
            }
        }
        is_busy
    }
}

fn failure_of(error: WorkerError) -> Failure {
    match error {
        WorkerError::Apply(error) => Failure::Store(StoreError::Failed(error.to_string())),
        WorkerError::Store(error) => Failure::Store(error),
    }
}

/// Gives an answer to who waits for it.
fn deliver(
    waiters: &mut Waiters,
    port: &mut WorkerPort,
    outgoing: &mut Outgoing,
    (tag, bytes, part): (Tag, &[u8], Part),
) {
    match waiters.answered(tag, bytes, part) {
        None => {}
        Some(acks::Waiter::Stored(asker, before)) => {
            let bytes = match before.is_empty() {
                true => Bytes::copy_from_slice(bytes),
                false => [&before, bytes].concat().into(),
            };
            port.answer(asker, bytes, Extent::Done);
        }
        Some(acks::Waiter::Call(asker)) => {
            let extent = match part {
                Part::More => Extent::More,
                Part::Last => Extent::Done,
            };
            port.answer(asker, Bytes::copy_from_slice(bytes), extent);
        }
        Some(acks::Waiter::Reply(shard, topic)) => {
            outgoing.extend(acks::pub_ack(bytes).map(|payload| (shard, topic, payload)));
        }
    }
}
