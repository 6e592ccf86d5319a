//! Calls of a shard's connections that are not answered yet.
//!
//! A call asks shards, or one state worker, for something. It has an id, the connection that waits for it, and rounds: in
//! each round some shards are asked one thing each, and all their answers come to the session together, which may ask
//! on. Memory is bounded: every answer is bounded, at most [`CALLS_BEGUN_MAX`] (16) calls are begun at a time, and
//! [`CALL_ROUNDS_A_TURN`] (8) rounds go out in a turn; a streamed call stops while its client does not read, a spooled
//! one while the shard's output is at its cap. Calls begin in the order in which they were asked; a streamed call waits
//! for the earlier calls of its connection. Those to workers, which may wait for a disk, stand in a line of their own, so
//! that those to shards never wait for them; one whose answer is short goes out at once ([`Calls::send`]) and is bounded
//! by the mailbox. Must not know what is asked, nor protocols. Invariants: a call is sent at once, in a line's `queue` or
//! `begun`, parked, or behind an earlier call of its connection; every round is answered once by each shard that it asks,
//! even if the asker is gone. Start at [`Calls::ask`].

use crate::command::{Answer, Answers, CallId, ClientId, ConnId, Round, ShardId, Written};
use crate::limits::{
    CALL_MS_MAX, CALL_ROUNDS_A_TURN, CALLS_BEGUN_MAX, CALLS_SHARD_MAX, STATE_CALLS_BEGUN_MAX,
    STATE_ROUNDS_A_TURN,
};
use crate::mailbox::CallKey;
use std::collections::{BTreeMap, VecDeque};

/// State of a call.
#[derive(Debug, PartialEq, Eq)]
enum CallStage {
    /// It waits for an earlier call of its connection.
    Behind,
    /// It is in `queue`.
    Queued,
    /// Begun: its next round may go out.
    Ready,
    /// Begun, or sent at once: its round is out, and some shards have not answered it.
    Asking,
    /// Set aside because its client does not read what is streamed.
    Parked,
}

/// A call that is not answered yet.
#[derive(Debug)]
struct Call {
    client: ClientId,
    stage: CallStage,
    written: Written,
    /// The worker that it asks; `None` if it asks shards.
    worker: Option<ShardId>,
    /// It was sent at once, and is in no line.
    is_direct: bool,
    /// The next round; empty while a round is out.
    round: Round,
    missing: usize,
    answers: Answers,
    /// When it was asked or last answered, in nanoseconds of the monotonic clock.
    moved_ns: u64,
}

impl Call {
    /// When it is refused for lack of room, by the monotonic clock; `None` if it does not wait for room.
    fn deadline_ns(&self) -> Option<u64> {
        let waits = self.stage == CallStage::Ready && self.written == Written::Spooled;
        waits.then_some(self.moved_ns + CALL_MS_MAX * 1_000_000)
    }
}

/// Calls that wait for their turn, and those that have it.
#[derive(Debug)]
struct Line {
    /// Calls that may begin, in this order.
    queue: VecDeque<CallKey>,
    /// Calls that are `Ready` or `Asking`.
    begun: VecDeque<CallKey>,
    begun_max: usize,
    /// Rounds that went out in this turn.
    sent: usize,
    sent_max: usize,
}

impl Line {
    fn new(begun_max: usize, sent_max: usize) -> Line {
        Line {
            queue: VecDeque::new(),
            begun: VecDeque::new(),
            begun_max,
            sent: 0,
            sent_max,
        }
    }
}

/// The calls of a shard's connections.
#[derive(Debug)]
pub(crate) struct Calls {
    calls: BTreeMap<CallKey, Call>,
    last: u64,
    /// Calls to shards, and calls to workers.
    lines: [Line; 2],
    /// Connections that were refused a call at [`CALLS_SHARD_MAX`] and wait for fewer calls.
    waiting: Vec<(ConnId, ClientId)>,
    /// Calls that were sent to a worker that is gone.
    unsent: Vec<CallKey>,
}

impl Default for Calls {
    fn default() -> Calls {
        Calls {
            calls: BTreeMap::new(),
            last: 0,
            lines: [
                Line::new(CALLS_BEGUN_MAX, CALL_ROUNDS_A_TURN),
                Line::new(STATE_CALLS_BEGUN_MAX, STATE_ROUNDS_A_TURN),
            ],
            waiting: Vec::new(),
            unsent: Vec::new(),
        }
    }
}

/// Index of the line for a call, by the worker that it asks.
fn line_of(worker: Option<ShardId>) -> usize {
    usize::from(worker.is_some())
}

impl Calls {
    /// Number of calls.
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether there is no call.
    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Whether another call is taken in: there are fewer than [`CALLS_SHARD_MAX`]. If not, the connection waits until
    /// [`take_waiting`](Calls::take_waiting) names it.
    pub(crate) fn has_room(&mut self, asker: (ConnId, ClientId)) -> bool {
        let has_room = self.calls.len() < CALLS_SHARD_MAX;
        if !has_room {
            self.waiting.push(asker);
        }
        has_room
    }

    /// The number of the next call.
    pub(crate) fn next_id(&self) -> CallId {
        CallId(self.last + 1)
    }

    /// Takes a call in, to shards or to the one worker named. `None` if there is no [room](Calls::has_room).
    pub(crate) fn ask(
        &mut self,
        asker: (ConnId, ClientId),
        (round, worker): (Round, Option<ShardId>),
        written: Written,
        now_ns: u64,
    ) -> Option<CallId> {
        assert!(!round.is_empty(), "a call that asks nobody");
        assert!(
            worker.is_none_or(|worker| round.len() == 1 && round[0].0 == worker),
            "a call to a worker asks that one alone: {round:?}"
        );
        if !self.has_room(asker) {
            return None;
        }
        let (conn, client) = asker;
        let key = (conn, self.next_id());
        // A streamed reply must be the first in its client's output.
        let must_wait = written == Written::Streamed && self.first_of(conn).is_some();
        let stage = match must_wait {
            true => CallStage::Behind,
            false => {
                self.lines[line_of(worker)].queue.push_back(key);
                CallStage::Queued
            }
        };
        let call = Call {
            client,
            stage,
            written,
            worker,
            is_direct: false,
            round,
            missing: 0,
            answers: Vec::new(),
            moved_ns: now_ns,
        };
        self.insert(key, call);
        Some(key.1)
    }

    /// Takes in a call to a worker that the caller sends now, whose answer is [`Written::Short`]. The caller has seen that
    /// there is [room](Calls::has_room).
    pub(crate) fn send(
        &mut self,
        (conn, client): (ConnId, ClientId),
        worker: ShardId,
        is_gone: bool,
        now_ns: u64,
    ) -> CallId {
        let key = (conn, self.next_id());
        let call = Call {
            client,
            stage: CallStage::Asking,
            written: Written::Short,
            worker: Some(worker),
            is_direct: true,
            round: Vec::new(),
            missing: 1,
            answers: Vec::new(),
            moved_ns: now_ns,
        };
        self.insert(key, call);
        if is_gone {
            self.unsent.push(key);
        }
        key.1
    }

    fn insert(&mut self, key: CallKey, call: Call) {
        self.last = key.1.0;
        self.calls.insert(key, call);
    }

    /// Sets the next round of a call whose answers the session is handling. A call to a worker may ask another one.
    pub(crate) fn ask_on(&mut self, key: CallKey, round: Round) {
        assert!(!round.is_empty(), "a call that asks nobody");
        let call = self.call_mut(key);
        assert!(
            call.stage == CallStage::Ready && call.round.is_empty(),
            "a call asks on behind its answers alone: {call:?}"
        );
        if let Some(worker) = &mut call.worker {
            assert!(round.len() == 1, "one worker at a time: {round:?}");
            *worker = round[0].0;
        }
        call.round = round;
        if std::mem::take(&mut call.is_direct) {
            self.enqueue(key);
        }
    }

    /// Lets a call to a worker, whose answers the session is handling, wait there for what is to come. The caller sends
    /// the round now. It waits in no line, so that others go on.
    pub(crate) fn wait_on(&mut self, key: CallKey, is_gone: bool) {
        self.end_turns(|&other| other == key);
        let call = self.call_mut(key);
        assert!(
            call.stage == CallStage::Ready && call.round.is_empty() && call.worker.is_some(),
            "a call waits behind its answers alone, at a worker: {call:?}"
        );
        call.stage = CallStage::Asking;
        call.missing = 1;
        call.is_direct = true;
        if is_gone {
            self.unsent.push(key);
        }
    }

    /// The connection's first call that is not answered.
    fn first_of(&self, conn: ConnId) -> Option<CallKey> {
        let its_own = (conn, CallId(0))..=(conn, CallId(u64::MAX));
        self.calls.range(its_own).next().map(|(&key, _)| key)
    }

    fn call_mut(&mut self, key: CallKey) -> &mut Call {
        // invariant: a key is used only while its call is not answered.
        self.calls.get_mut(&key).expect("a call that is there")
    }

    /// Whether a round may go out; `may_spool` if the shard's output has room for spooled answers.
    pub(crate) fn is_ready(&self, may_spool: bool) -> bool {
        if self.calls.is_empty() {
            return false;
        }
        let may_go = |line: &Line| {
            let may_begin = !line.queue.is_empty() && line.begun.len() < line.begun_max;
            may_begin || self.first_ready(line, may_spool).is_some()
        };
        self.lines.iter().any(may_go) || !self.unsent.is_empty()
    }

    fn first_ready(&self, line: &Line, may_spool: bool) -> Option<usize> {
        let may_go = |key: &CallKey| {
            let call = &self.calls[key];
            call.stage == CallStage::Ready && (may_spool || call.written != Written::Spooled)
        };
        line.begun.iter().position(may_go)
    }

    /// Begins queued calls, up to as many of each line as may be begun, and gives the next call whose round may go out.
    /// Begun calls take turns. `None` after as many rounds as a turn may have.
    pub(crate) fn next_ready(&mut self, may_spool: bool, now_ns: u64) -> Option<CallKey> {
        (0..self.lines.len()).find_map(|line| self.next_ready_of(line, may_spool, now_ns))
    }

    fn next_ready_of(&mut self, line: usize, may_spool: bool, now_ns: u64) -> Option<CallKey> {
        if self.lines[line].sent >= self.lines[line].sent_max {
            return None;
        }
        while self.lines[line].begun.len() < self.lines[line].begun_max
            && let Some(key) = self.lines[line].queue.pop_front()
        {
            // Calls of connections that are gone stay in the queue until they come up.
            let Some(call) = self.calls.get_mut(&key) else {
                continue;
            };
            assert!(call.stage == CallStage::Queued, "queued twice: {call:?}");
            call.stage = CallStage::Ready;
            // Its time in the queue is no waiting for room.
            call.moved_ns = now_ns;
            self.lines[line].begun.push_back(key);
        }
        let place = self.first_ready(&self.lines[line], may_spool)?;
        let begun = &mut self.lines[line].begun;
        let key = begun.remove(place)?;
        begun.push_back(key);
        Some(key)
    }

    /// The worker that a call asks, if it asks one.
    pub(crate) fn worker(&self, key: CallKey) -> Option<ShardId> {
        self.calls[&key].worker
    }

    /// Takes the calls that were sent to a worker that is gone; the caller [fails](Calls::fail) them.
    pub(crate) fn take_unsent(&mut self) -> Vec<CallKey> {
        let unsent = std::mem::take(&mut self.unsent).into_iter();
        unsent.filter(|key| self.calls.contains_key(key)).collect()
    }

    /// The calls that a worker has not answered.
    pub(crate) fn with_worker(&self, worker: ShardId) -> Vec<CallKey> {
        let is_meant = |call: &Call| call.worker == Some(worker) && call.missing > 0;
        let calls = self.calls.iter().filter(|(_, call)| is_meant(call));
        calls.map(|(&key, _)| key).collect()
    }

    /// Takes a call as answered whose worker is gone.
    pub(crate) fn fail(&mut self, key: CallKey) {
        let call = self.call_mut(key);
        assert!(call.worker.is_some(), "shards do not go: {call:?}");
        call.stage = CallStage::Ready;
        call.missing = 0;
        call.round = Vec::new();
    }

    /// The client that made the call, if the call is still there.
    pub(crate) fn client(&self, key: CallKey) -> Option<ClientId> {
        self.calls.get(&key).map(|call| call.client)
    }

    /// Whether the answer is written part by part rather than when it is whole.
    pub(crate) fn is_streamed(&self, key: CallKey) -> bool {
        self.calls[&key].written == Written::Streamed
    }

    /// When the first call is refused for lack of room, by the monotonic clock.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let begun = self.lines.iter().flat_map(|line| &line.begun);
        let begun = begun.map(|key| &self.calls[key]);
        begun.filter_map(Call::deadline_ns).min()
    }

    /// Finds a call that has waited too long for room, and drops its round; the caller refuses the call.
    pub(crate) fn take_late(&mut self, now_ns: u64) -> Option<CallKey> {
        let is_late = |key: &&CallKey| {
            let deadline_ns = self.calls[*key].deadline_ns();
            deadline_ns.is_some_and(|deadline_ns| deadline_ns <= now_ns)
        };
        let mut begun = self.lines.iter().flat_map(|line| &line.begun);
        let key = *begun.find(is_late)?;
        self.call_mut(key).round = Vec::new();
        Some(key)
    }

    /// Takes the round that goes out now.
    pub(crate) fn take_round(&mut self, key: CallKey) -> Round {
        let call = self.call_mut(key);
        assert!(call.stage == CallStage::Ready, "not ready: {call:?}");
        call.stage = CallStage::Asking;
        call.missing = call.round.len();
        let round = std::mem::take(&mut call.round);
        let line = line_of(call.worker);
        self.lines[line].sent += 1;
        round
    }

    /// Ends a turn: the cap on rounds counts from 0 again.
    pub(crate) fn end_turn(&mut self) {
        self.lines.iter_mut().for_each(|line| line.sent = 0);
    }

    /// Takes the answer of one shard. Gives the answers of all, in the order of shard numbers, once none is missing. An
    /// answer to a call that is gone is dropped.
    pub(crate) fn answered(
        &mut self,
        key: CallKey,
        by: ShardId,
        answer: Answer,
        now_ns: u64,
    ) -> Option<Answers> {
        // The asker may have left meanwhile.
        let call = self.calls.get_mut(&key)?;
        assert!(
            call.stage == CallStage::Asking && call.missing > 0,
            "an answer to what was not asked: {call:?}"
        );
        call.answers.push((by, answer));
        call.missing -= 1;
        if call.missing > 0 {
            return None;
        }
        call.stage = CallStage::Ready;
        call.moved_ns = now_ns;
        let mut answers = std::mem::take(&mut call.answers);
        answers.sort_by_key(|&(shard, _)| shard);
        Some(answers)
    }

    /// Whether the call has nothing more to ask.
    pub(crate) fn is_over(&self, key: CallKey) -> bool {
        let call = &self.calls[&key];
        call.stage == CallStage::Ready && call.round.is_empty()
    }

    /// Parks a call until its client reads again, so that another may begin.
    pub(crate) fn park(&mut self, key: CallKey) {
        self.end_turns(|&other| other == key);
        self.call_mut(key).stage = CallStage::Parked;
    }

    /// The client reads again: queues its parked call.
    pub(crate) fn unpark(&mut self, conn: ConnId) {
        if let Some(key) = self.first_of(conn)
            && self.calls[&key].stage == CallStage::Parked
        {
            self.enqueue(key);
        }
    }

    fn enqueue(&mut self, key: CallKey) {
        let call = self.call_mut(key);
        call.stage = CallStage::Queued;
        let line = line_of(call.worker);
        self.lines[line].queue.push_back(key);
    }

    /// Removes calls from those that are begun.
    fn end_turns(&mut self, mut is_meant: impl FnMut(&CallKey) -> bool) {
        for line in &mut self.lines {
            line.begun.retain(|key| !is_meant(key));
        }
    }

    /// Removes a call that is answered or refused, and queues a streamed one that waited for it.
    pub(crate) fn end(&mut self, key: CallKey) {
        // invariant: a call ends once.
        let call = self.calls.remove(&key).expect("a call that is there");
        if !call.is_direct {
            self.end_turns(|&other| other == key);
        }
        if let Some(next) = self.first_of(key.0)
            && self.calls[&next].stage == CallStage::Behind
        {
            self.enqueue(next);
        }
    }

    /// Removes all calls of a connection that is gone. Cost: its calls, and the queue once half of that is stale.
    pub(crate) fn forget(&mut self, conn: ConnId) {
        while let Some(key) = self.first_of(conn) {
            self.calls.remove(&key);
        }
        self.end_turns(|&(other, _)| other == conn);
        let calls = &self.calls;
        for line in &mut self.lines {
            if line.queue.len() > 2 * calls.len() + CALLS_BEGUN_MAX {
                line.queue.retain(|key| calls.contains_key(key));
            }
        }
    }

    /// Whether [`take_waiting`](Calls::take_waiting) names anyone.
    pub(crate) fn may_resume_waiting(&self) -> bool {
        !self.waiting.is_empty() && self.calls.len() <= CALLS_SHARD_MAX / 2
    }

    /// Takes the connections that wait for a call, once at most half of [`CALLS_SHARD_MAX`] calls are left.
    pub(crate) fn take_waiting(&mut self) -> Vec<(ConnId, ClientId)> {
        match self.may_resume_waiting() {
            true => std::mem::take(&mut self.waiting),
            false => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Query;

    const CLIENT: ClientId = ClientId(7);

    fn round(shards: u16) -> Round {
        let each = (0..shards).map(|shard| (ShardId(shard), Query::Counters));
        each.collect()
    }

    fn killed(count: u64) -> Answer {
        Answer::Killed { count, next: None }
    }

    fn ask(calls: &mut Calls, conn: u32, written: Written) -> CallKey {
        let conn = ConnId(conn);
        let call = calls.ask((conn, CLIENT), (round(2), None), written, 0);
        (conn, call.expect("there is room"))
    }

    /// Lets one round go out and be answered by all shards; gives its key.
    fn answer_next(calls: &mut Calls) -> Option<CallKey> {
        calls.end_turn();
        let key = calls.next_ready(true, 0)?;
        assert_eq!(calls.take_round(key).len(), 2);
        assert_eq!(calls.answered(key, ShardId(1), killed(1), 0), None);
        let both = calls.answered(key, ShardId(0), killed(2), 0);
        let both = both.expect("both have answered");
        assert_eq!(both, [(ShardId(0), killed(2)), (ShardId(1), killed(1))]);
        Some(key)
    }

    #[test]
    fn calls_begin_in_their_order_and_take_turns() {
        let mut calls = Calls::default();
        let keys: Vec<CallKey> = (0..40)
            .map(|conn| ask(&mut calls, conn, Written::Streamed))
            .collect();
        let mut order = Vec::new();
        // Two rounds each.
        while let Some(key) = answer_next(&mut calls) {
            match order.contains(&key) {
                true => calls.end(key),
                false => calls.ask_on(key, round(2)),
            }
            order.push(key);
        }
        assert!(calls.is_empty() && !calls.is_ready(true));
        let (first, more) = keys.split_at(CALLS_BEGUN_MAX);
        let (second, third) = more.split_at(CALLS_BEGUN_MAX);
        let expected = [first, first, second, second, third, third].concat();
        assert_eq!(order, expected, "nobody waits behind those who came later");
    }

    #[test]
    fn streamed_calls_of_a_connection_wait_for_each_other() {
        let mut calls = Calls::default();
        let first = ask(&mut calls, 1, Written::Streamed);
        let second = ask(&mut calls, 1, Written::Streamed);
        let short = ask(&mut calls, 1, Written::Short);
        assert_eq!(answer_next(&mut calls), Some(first));
        calls.ask_on(first, round(2));
        assert_eq!(answer_next(&mut calls), Some(short));
        calls.end(short);
        assert_eq!(answer_next(&mut calls), Some(first));
        assert!(calls.is_over(first));
        calls.end(first);
        assert_eq!(answer_next(&mut calls), Some(second));
    }

    #[test]
    fn who_does_not_read_makes_room_for_others_and_comes_back() {
        let mut calls = Calls::default();
        let keys: Vec<CallKey> = (0..CALLS_BEGUN_MAX as u32)
            .map(|conn| ask(&mut calls, conn, Written::Streamed))
            .collect();
        let late = ask(&mut calls, 99, Written::Streamed);
        for &key in &keys {
            assert_eq!(calls.next_ready(true, 0), Some(key));
            calls.park(key);
        }
        assert_eq!(answer_next(&mut calls), Some(late));
        calls.end(late);
        assert!(!calls.is_ready(true), "all the others are parked");
        calls.unpark(keys[3].0);
        assert_eq!(answer_next(&mut calls), Some(keys[3]));
    }

    #[test]
    fn answers_to_who_left_are_dropped() {
        let mut calls = Calls::default();
        let gone = ask(&mut calls, 1, Written::Streamed);
        let behind = ask(&mut calls, 1, Written::Streamed);
        let other = ask(&mut calls, 2, Written::Short);
        assert_eq!(calls.next_ready(true, 0), Some(gone));
        calls.take_round(gone);
        calls.forget(gone.0);
        assert_eq!(calls.answered(gone, ShardId(0), killed(1), 0), None);
        assert_eq!(calls.client(behind), None);
        assert_eq!(answer_next(&mut calls), Some(other));
    }

    #[test]
    fn the_queue_does_not_grow_by_connections_that_come_and_go() {
        let mut calls = Calls::default();
        // None ends, so that none of the others begins.
        for _ in 0..CALLS_BEGUN_MAX {
            ask(&mut calls, 0, Written::Short);
        }
        while let Some(key) = calls.next_ready(true, 0) {
            calls.take_round(key);
            calls.end_turn();
        }
        for conn in 1..10_000 {
            ask(&mut calls, conn, Written::Short);
            calls.forget(ConnId(conn));
        }
        let (most, queued) = (
            2 * calls.len() + CALLS_BEGUN_MAX,
            calls.lines[0].queue.len(),
        );
        assert!(queued <= most, "{queued}");
        let late = ask(&mut calls, 1, Written::Short);
        calls.forget(ConnId(0));
        calls.end_turn();
        assert_eq!(answer_next(&mut calls), Some(late));
    }

    #[test]
    fn calls_that_wait_at_a_worker_stand_in_nobodys_way() {
        let mut calls = Calls::default();
        let worker = ShardId(2);
        let begin = |calls: &mut Calls, conn: u32| {
            let round = vec![(worker, Query::State(bytes::Bytes::new()))];
            let asked = (round, Some(worker));
            let call = calls.ask((ConnId(conn), CLIENT), asked, Written::Streamed, 0);
            let key = (ConnId(conn), call.expect("there is room"));
            calls.end_turn();
            assert_eq!(calls.next_ready(true, 0), Some(key));
            calls.take_round(key);
            assert!(calls.answered(key, worker, killed(1), 0).is_some());
            key
        };
        let count = 2 * STATE_CALLS_BEGUN_MAX;
        let waits: Vec<CallKey> = (0..count as u32)
            .map(|conn| {
                let key = begin(&mut calls, conn);
                calls.wait_on(key, false);
                assert!(!calls.is_over(key));
                key
            })
            .collect();
        let other = begin(&mut calls, count as u32);
        calls.end(other);
        // One is answered and asks on, as any call does; one whose client is gone is forgotten.
        let (first, second) = (waits[0], waits[1]);
        assert!(calls.answered(first, worker, killed(1), 0).is_some());
        calls.ask_on(first, vec![(worker, Query::State(bytes::Bytes::new()))]);
        calls.end_turn();
        assert_eq!(calls.next_ready(true, 0), Some(first));
        calls.forget(second.0);
        assert_eq!(calls.answered(second, worker, killed(1), 0), None);
        assert_eq!(calls.len(), count - 1);
    }

    #[test]
    fn a_shard_has_only_so_many_calls() {
        let mut calls = Calls::default();
        for conn in 0..CALLS_SHARD_MAX {
            ask(&mut calls, conn as u32 % 64, Written::Short);
        }
        let late = (ConnId(65), CLIENT);
        let of_late = (round(2), None);
        assert_eq!(calls.ask(late, of_late.clone(), Written::Short, 0), None);
        assert!(calls.take_waiting().is_empty(), "no room yet");
        for _ in 0..CALLS_SHARD_MAX / 2 {
            let key = answer_next(&mut calls).expect("there are calls");
            calls.end(key);
        }
        assert_eq!(calls.take_waiting(), [late]);
        assert!(calls.ask(late, of_late, Written::Short, 0).is_some());
    }
}
