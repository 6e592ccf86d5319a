//! The state that a client's handles share with its driver: the machine behind a lock, and the wakers of everything
//! that waits.
//!
//! Owns the lock, the clock's start and every waker. Must not know tokio, threads or sockets: its interface is polls
//! and wakers, which the tokio client awaits and the blocking client parks on. Invariants: the lock is never held
//! across a wait, a system call or a wake; a parked driver is woken by every change that concerns it; each operation's
//! slot is freed once, by its waiter or, if that is gone, by its outcome. Start at [`Shared::with`].

use crate::config::{Config, ConfigError};
use crate::error::Disconnect;
use crate::error::{
    CallError, CloseReason, ConnectError, PingError, PublishError, RequestError, SubscribeError,
};
use crate::limits::EVENTS_MAX;
use crate::machine::{
    Action, CallId, ConnectionEvent, Machine, Outcome, Output, Reader, Statistics, SubscriptionId,
    Taken, TakenReply, Token, Transmit,
};
use crate::message::{Batch, Event, Message};
use bytes::BytesMut;
use sapwood_wire::native::{Parts, Reached};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// An error that may mean that the window is full, so that the call waits for room.
pub(crate) trait MayBeFull {
    fn is_full(&self) -> bool;
}

macro_rules! may_be_full {
    ($($error:ident),*) => {
        $(impl MayBeFull for $error {
            fn is_full(&self) -> bool {
                matches!(self, $error::Full)
            }
        })*
    };
}

may_be_full!(
    PublishError,
    SubscribeError,
    RequestError,
    PingError,
    CallError
);

/// The state of an acknowledged operation.
#[derive(Debug)]
enum Slot {
    Free,
    Waiting(Option<Waker>),
    /// The waiter is gone.
    Abandoned,
    Done(Outcome),
}

/// A driver that sleeps until something that it waits for changes.
#[derive(Debug)]
struct Parked {
    waker: Waker,
    wait: Wait,
}

/// What a parked driver waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wait {
    /// The driver has bytes that the socket does not take, so further bytes need not wake it.
    pub(crate) is_writing: bool,
    /// Whether it reads; `None` if another thread reads.
    pub(crate) reads: Option<bool>,
    /// When its timer is due.
    pub(crate) deadline: Option<Duration>,
}

#[derive(Debug)]
struct State {
    machine: Machine,
    slots: Vec<Slot>,
    free: Vec<usize>,
    readers: HashMap<Reader, Waker>,
    room: Vec<Waker>,
    connecting: Vec<Waker>,
    events: VecDeque<ConnectionEvent>,
    /// Number of the first event in `events`.
    first_event: u64,
    event_readers: Vec<Waker>,
    driver: Option<Parked>,
    /// Waker of a reading thread that waits until it may read.
    reading: Option<Waker>,
    /// Wakers to call after the lock is released.
    woken: Vec<Waker>,
}

/// The shared state, see the module.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    start: Instant,
}

/// What the driver must do next.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) action: Option<Action>,
    /// Whether to read. The blocking driver's reader calls `poll_reads` instead.
    #[cfg(feature = "tokio")]
    pub(crate) reads: bool,
    pub(crate) is_closed: bool,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Result<Shared, ConfigError> {
        let state = State {
            machine: Machine::new(config, unguessable_seed(), Duration::ZERO)?,
            slots: Vec::new(),
            free: Vec::new(),
            readers: HashMap::new(),
            room: Vec::new(),
            connecting: Vec::new(),
            events: VecDeque::new(),
            first_event: 0,
            event_readers: Vec::new(),
            driver: None,
            reading: None,
            woken: Vec::new(),
        };
        Ok(Shared {
            state: Mutex::new(state),
            start: Instant::now(),
        })
    }

    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The instant of a machine's time.
    #[cfg(feature = "tokio")]
    pub(crate) fn instant(&self, time: Duration) -> Option<Instant> {
        self.start.checked_add(time)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it changes the state, so a poisoned lock guards a valid state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `use_it` under the lock, then wakes everything that the outputs concern.
    fn with<R>(&self, use_it: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = use_it(&mut state);
        state.sort_outputs();
        state.wake_driver();
        let woken = mem::take(&mut state.woken);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        result
    }

    // For the driver.

    /// Advances the time, and returns what to do. Fills `transmit` if it was written.
    pub(crate) fn drive(&self, transmit: &mut Transmit) -> Order {
        let now = self.now();
        self.with(|state| {
            state.driver = None;
            let machine = &mut state.machine;
            machine.handle_time(now);
            let action = machine.poll_action();
            machine.poll_transmit(transmit);
            Order {
                action,
                #[cfg(feature = "tokio")]
                reads: machine.wants_read(),
                is_closed: machine.closed().is_some(),
            }
        })
    }

    pub(crate) fn handle_connected(&self) {
        let now = self.now();
        self.with(|state| state.machine.handle_connected(now));
    }

    pub(crate) fn handle_bytes(&self, input: &mut BytesMut) {
        let now = self.now();
        self.with(|state| state.machine.handle_bytes(now, input));
    }

    pub(crate) fn handle_disconnected(&self, transmit: &mut Transmit, reason: Disconnect) {
        let now = self.now();
        self.with(|state| {
            state.machine.handle_disconnected(now, transmit, reason);
        });
    }

    /// Parks the driver unless there is something to do. Returns until when it may sleep, or [`Busy`].
    pub(crate) fn park(&self, waker: &Waker, mut wait: Wait) -> Result<Option<Duration>, Busy> {
        let now = self.now();
        let mut state = self.lock();
        wait.deadline = state.machine.next_deadline();
        if state.is_news(&wait) || wait.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Busy);
        }
        state.driver = Some(Parked {
            waker: waker.clone(),
            wait,
        });
        Ok(wait.deadline)
    }

    /// Waits until the machine wants to read. For the reading thread of the blocking driver.
    #[cfg(feature = "blocking")]
    pub(crate) fn poll_reads(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.machine.wants_read() {
            return Poll::Ready(());
        }
        state.reading = Some(cx.waker().clone());
        Poll::Pending
    }

    // For the handles.

    pub(crate) fn machine<R>(&self, use_it: impl FnOnce(&mut Machine) -> R) -> R {
        self.with(|state| use_it(&mut state.machine))
    }

    /// Queues a publish without an answer. This is the hottest call: it makes no outputs and moves no deadline, so the
    /// only consequence is that the driver has something to write.
    pub(crate) fn publish(&self, parts: &Parts<'_>) -> Result<(), PublishError> {
        let mut state = self.lock();
        let result = state.machine.publish(parts);
        let wants_to_know = state.driver.as_ref().is_some_and(|it| !it.wait.is_writing);
        if wants_to_know && state.machine.has_transmit() {
            let driver = state.driver.take();
            drop(state);
            driver.into_iter().for_each(|it| it.waker.wake());
        }
        result
    }

    /// Like [`publish`](Shared::publish), but waits while the window is full.
    pub(crate) fn poll_publish(
        &self,
        cx: &mut Context<'_>,
        parts: &Parts<'_>,
    ) -> Poll<Result<(), PublishError>> {
        match self.publish(parts) {
            // Retried under the lock that keeps the waker, because there may be room by now.
            Err(PublishError::Full) => self.poll_room(cx, |machine| machine.publish(parts)),
            result => Poll::Ready(result),
        }
    }

    /// Tries a call that needs room in the window, and waits for room if there is none.
    pub(crate) fn poll_room<T, E: MayBeFull>(
        &self,
        cx: &mut Context<'_>,
        attempt: impl FnOnce(&mut Machine) -> Result<T, E>,
    ) -> Poll<Result<T, E>> {
        self.with(|state| match attempt(&mut state.machine) {
            Err(error) if error.is_full() => {
                keep_waker(&mut state.room, cx.waker());
                Poll::Pending
            }
            result => Poll::Ready(result),
        })
    }

    /// Starts an acknowledged operation, waiting for room in the window.
    pub(crate) fn poll_start<T, E: MayBeFull>(
        self: &Arc<Shared>,
        cx: &mut Context<'_>,
        start: impl FnOnce(&mut Machine, Duration, Token) -> Result<T, E>,
    ) -> Poll<Result<(T, Operation), E>> {
        let now = self.now();
        self.with(|state| {
            let slot = state.free.pop().unwrap_or_else(|| {
                state.slots.push(Slot::Free);
                state.slots.len() - 1
            });
            match start(&mut state.machine, now, Token(slot as u64)) {
                Ok(started) => {
                    state.slots[slot] = Slot::Waiting(None);
                    let shared = self.clone();
                    Poll::Ready(Ok((started, Operation { shared, slot })))
                }
                Err(error) => {
                    state.free.push(slot);
                    if error.is_full() {
                        keep_waker(&mut state.room, cx.waker());
                        return Poll::Pending;
                    }
                    Poll::Ready(Err(error))
                }
            }
        })
    }

    /// Starts a drain.
    pub(crate) fn drain(self: &Arc<Shared>) -> Operation {
        let now = self.now();
        self.with(|state| {
            state.slots.push(Slot::Waiting(None));
            let slot = state.slots.len() - 1;
            state.machine.drain(now, Some(Token(slot as u64)));
            let shared = self.clone();
            Operation { shared, slot }
        })
    }

    /// The last handle was dropped: queued publishes are still written, then the client ends.
    pub(crate) fn abandon(&self) {
        let now = self.now();
        self.machine(|machine| machine.drain(now, None));
    }

    pub(crate) fn close(&self) {
        self.machine(|machine| machine.close(CloseReason::Closed));
    }

    pub(crate) fn statistics(&self) -> Statistics {
        self.lock().machine.statistics()
    }

    /// Waits for the first connection, or until every address has failed.
    pub(crate) fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        let mut state = self.lock();
        let machine = &state.machine;
        if machine.statistics().connections > 0 {
            return Poll::Ready(Ok(()));
        }
        match machine.closed() {
            Some(CloseReason::Rejected(refusal)) => {
                return Poll::Ready(Err(ConnectError::Rejected(refusal.clone())));
            }
            Some(_) => return Poll::Ready(Err(ConnectError::Closed)),
            None => {}
        }
        if let Some((address, reason)) = machine.failure() {
            return Poll::Ready(Err(ConnectError::Unreachable {
                address: address.to_string(),
                reason: reason.clone(),
            }));
        }
        keep_waker(&mut state.connecting, cx.waker());
        Poll::Pending
    }

    /// The next event of a subscription. `batch` holds events taken earlier and not yet returned, so that the lock is
    /// taken once for many events.
    pub(crate) fn poll_event(
        &self,
        cx: &mut Context<'_>,
        id: SubscriptionId,
        batch: &mut Batch,
    ) -> Poll<Option<Event>> {
        if let Some(message) = batch.next() {
            return Poll::Ready(Some(Event::Message(message)));
        }
        let taken = self.with(|state| {
            let taken = state.machine.take(id);
            if matches!(taken, Taken::Empty) {
                let reader = Reader::Subscription(id);
                state.readers.insert(reader, cx.waker().clone());
            }
            taken
        });
        Poll::Ready(match taken {
            Taken::Batch(taken) => {
                *batch = taken;
                batch.next().map(Event::Message)
            }
            Taken::Gap { events } => Some(Event::Gap { events }),
            Taken::Reconnected => Some(Event::Reconnected),
            Taken::Refused(refusal) => Some(Event::Refused(refusal)),
            Taken::Empty => return Poll::Pending,
            Taken::Ended => None,
        })
    }

    /// The next reply to a request.
    pub(crate) fn poll_reply(
        &self,
        cx: &mut Context<'_>,
        id: CallId,
        batch: &mut Batch,
    ) -> Poll<Option<Result<Message, RequestError>>> {
        if let Some(message) = batch.next() {
            return Poll::Ready(Some(Ok(message)));
        }
        let taken = self.with(|state| {
            let taken = state.machine.take_reply(id);
            if matches!(taken, TakenReply::Empty) {
                state.readers.insert(Reader::Call(id), cx.waker().clone());
            }
            taken
        });
        Poll::Ready(match taken {
            TakenReply::Batch(taken) => {
                *batch = taken;
                batch.next().map(Ok)
            }
            TakenReply::Failed(error) => Some(Err(error)),
            TakenReply::Empty => return Poll::Pending,
            TakenReply::Ended => None,
        })
    }

    pub(crate) fn unsubscribe(&self, id: SubscriptionId) {
        self.with(|state| {
            state.readers.remove(&Reader::Subscription(id));
            state.machine.unsubscribe(id);
        });
    }

    pub(crate) fn forget_call(&self, id: CallId) {
        self.with(|state| {
            state.readers.remove(&Reader::Call(id));
            state.machine.forget_call(id);
        });
    }

    /// The number that the next connection event will have.
    pub(crate) fn event_position(&self) -> u64 {
        let state = self.lock();
        state.first_event + state.events.len() as u64
    }

    /// The connection event at this position, or a notice that it was dropped.
    pub(crate) fn poll_connection_event(
        &self,
        cx: &mut Context<'_>,
        position: &mut u64,
    ) -> Poll<Option<ConnectionEvent>> {
        let mut state = self.lock();
        if *position < state.first_event {
            let events = state.first_event - *position;
            *position = state.first_event;
            return Poll::Ready(Some(ConnectionEvent::Missed { events }));
        }
        let index = (*position - state.first_event) as usize;
        if let Some(event) = state.events.get(index) {
            *position += 1;
            return Poll::Ready(Some(event.clone()));
        }
        if state.machine.closed().is_some() {
            return Poll::Ready(None);
        }
        keep_waker(&mut state.event_readers, cx.waker());
        Poll::Pending
    }
}

/// The driver must not sleep: there is something to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Busy;

impl State {
    /// Moves each output of the machine to its waiter.
    fn sort_outputs(&mut self) {
        // Ends because nothing in the loop makes outputs.
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Completed { token, outcome } => self.finish(token.0 as usize, outcome),
                Output::Readable(reader) => self.woken.extend(self.readers.remove(&reader)),
                Output::Room => self.woken.append(&mut self.room),
                Output::Event(event) => {
                    if self.events.len() == EVENTS_MAX {
                        self.events.pop_front();
                        self.first_event += 1;
                    }
                    self.events.push_back(event);
                    self.woken.append(&mut self.event_readers);
                    self.woken.append(&mut self.connecting);
                }
            }
        }
    }

    fn finish(&mut self, slot: usize, outcome: Outcome) {
        match mem::replace(&mut self.slots[slot], Slot::Done(outcome)) {
            Slot::Waiting(waker) => self.woken.extend(waker),
            Slot::Abandoned => {
                self.slots[slot] = Slot::Free;
                self.free.push(slot);
            }
            Slot::Free | Slot::Done(_) => unreachable!("an operation ends once"),
        }
    }

    fn wake_driver(&mut self) {
        let is_news = match &self.driver {
            Some(parked) => {
                let deadline = self.machine.next_deadline();
                self.is_news(&parked.wait)
                    || deadline.is_some_and(|new| parked.wait.deadline.is_none_or(|old| new < old))
            }
            None => false,
        };
        if is_news {
            self.woken
                .extend(self.driver.take().map(|parked| parked.waker));
        }
        if self.reading.is_some() && self.machine.wants_read() {
            self.woken.extend(self.reading.take());
        }
    }

    /// Whether a driver with this wait must be woken.
    fn is_news(&self, wait: &Wait) -> bool {
        let machine = &self.machine;
        machine.closed().is_some()
            || machine.has_action()
            || !wait.is_writing && machine.has_transmit()
            || wait
                .reads
                .is_some_and(|reads| reads != machine.wants_read())
    }
}

/// Adds a waker unless it is already there.
fn keep_waker(wakers: &mut Vec<Waker>, waker: &Waker) {
    if !wakers.iter().any(|kept| kept.will_wake(waker)) {
        wakers.push(waker.clone());
    }
}

/// A started acknowledged operation. Dropping it stops waiting for the operation, but does not cancel it.
#[derive(Debug)]
pub(crate) struct Operation {
    shared: Arc<Shared>,
    slot: usize,
}

impl Operation {
    pub(crate) fn poll_outcome(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.shared.lock();
        match &mut state.slots[self.slot] {
            Slot::Done(outcome) => {
                let outcome = outcome.clone();
                Poll::Ready(outcome)
            }
            slot => {
                *slot = Slot::Waiting(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        match &mut state.slots[self.slot] {
            slot @ Slot::Waiting(_) => *slot = Slot::Abandoned,
            slot => {
                *slot = Slot::Free;
                state.free.push(self.slot);
            }
        }
    }
}

/// Lives as long as any handle of a client. Dropping it ends the client.
#[derive(Debug)]
pub(crate) struct Handles {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.shared.abandon();
    }
}

/// Random bits from the operating system, by way of the standard library's hash map keys.
fn unguessable_seed() -> u128 {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    half() << 64 | half()
}

/// Outcomes that only what is asked of streams has.
const OF_STREAMS: &str = "this is not asked of a stream";

/// Converts the outcome of a confirmed publish.
pub(crate) fn published(outcome: Outcome) -> Result<Reached, PublishError> {
    match outcome {
        Outcome::Acknowledged(count) => Ok(Reached::of_count(count)),
        Outcome::Refused(refusal) => Err(PublishError::Refused(refusal)),
        Outcome::Unknown(doubt) => Err(PublishError::Unknown(doubt)),
        Outcome::TimedOut => Err(PublishError::Unknown(crate::error::Doubt::TimedOut)),
        Outcome::Closed(reason) => Err(PublishError::Closed(reason)),
        Outcome::Stored(_) | Outcome::Answered(_) => unreachable!("{OF_STREAMS}"),
    }
}

/// Converts the outcome of a subscribe.
pub(crate) fn subscribed(outcome: Outcome) -> Result<(), SubscribeError> {
    match outcome {
        Outcome::Acknowledged(_) => Ok(()),
        Outcome::Refused(refusal) => Err(SubscribeError::Refused(refusal)),
        Outcome::Unknown(_) | Outcome::TimedOut => Err(SubscribeError::TimedOut),
        Outcome::Closed(reason) => Err(SubscribeError::Closed(reason)),
        Outcome::Stored(_) | Outcome::Answered(_) => unreachable!("{OF_STREAMS}"),
    }
}

/// Converts the outcome of a ping.
pub(crate) fn ponged(outcome: Outcome) -> Result<(), PingError> {
    match outcome {
        // A refused PING was answered all the same.
        Outcome::Acknowledged(_) | Outcome::Refused(_) => Ok(()),
        Outcome::Unknown(doubt) => Err(PingError::Unknown(doubt)),
        Outcome::TimedOut => Err(PingError::Unknown(crate::error::Doubt::TimedOut)),
        Outcome::Closed(reason) => Err(PingError::Closed(reason)),
        Outcome::Stored(_) | Outcome::Answered(_) => unreachable!("{OF_STREAMS}"),
    }
}

/// Converts the outcome of a drain.
pub(crate) fn drained(outcome: Outcome) -> Result<(), crate::error::DrainError> {
    use crate::error::DrainError;
    match outcome {
        Outcome::Acknowledged(_) => Ok(()),
        Outcome::Closed(reason) => Err(DrainError::Closed(reason)),
        Outcome::Unknown(doubt) => Err(DrainError::Unknown(doubt)),
        Outcome::Refused(_) | Outcome::TimedOut => Err(DrainError::TimedOut),
        Outcome::Stored(_) | Outcome::Answered(_) => unreachable!("{OF_STREAMS}"),
    }
}
