//! Calls on the shard's side: rounds that go out, answers that come in, and queries of other shards.
//!
//! A shard answers from what it has, a bounded part at a time: its clients, its counters, the names with subscribers,
//! and the clients to be closed. What state workers are asked it only hands on. Must not know protocols beyond their own description of a connection. Start at
//! [`Shard::run_calls`].

use super::{Shard, resume_if_free, split};
use crate::command::{
    Answer, Answers, CallError, ClientRecord, CloseReason, ConnId, FilterKind, Form,
    NamedSubscription, Now, Query, Selected, Selection, ShardId, Sort, Subscribed, Volume,
};
use crate::connection::Connection;
use crate::input::{Handled, Outputs};
use crate::limits::{CALL_CLIENTS_MAX, CALL_GLOB_COST_MAX, CALL_LOOKED_AT_MAX, CALL_NAMES_BYTES};
use crate::mailbox::{CallKey, Control};
use crate::session::Session;
use sapwood_wire::glob::Glob;

impl Shard {
    /// Sends rounds of calls, as many as a turn allows.
    pub(super) fn run_calls(&mut self, now: Now, outputs: &mut Outputs) {
        if self.calls.is_empty() {
            return;
        }
        for key in self.calls.take_unsent() {
            self.fail_call(key, CallError::NoWorker, now, outputs);
        }
        while let Some(key) = self
            .calls
            .next_ready(!self.outboxes.is_full(), now.monotonic_ns)
        {
            if self.calls.is_streamed(key) && !self.outboxes.takes_parts(key.0) {
                self.calls.park(key);
                continue;
            }
            let worker = self.calls.worker(key);
            if worker.is_some_and(|worker| self.mailboxes.is_closed(worker)) {
                self.fail_call(key, CallError::NoWorker, now, outputs);
                continue;
            }
            let mut own = None;
            for (shard, query) in self.calls.take_round(key) {
                match query {
                    Query::State(request) => self.mailboxes.push_ask(shard, key, request),
                    query if shard == self.settings.shard => own = Some(query),
                    query => {
                        let ask = Control::Ask { call: key, query };
                        self.mailboxes.push_control(shard, ask);
                    }
                }
            }
            if let Some(query) = own {
                let answer = self.answer(&query, Some(key.0), now, outputs);
                self.call_answered(key, self.settings.shard, answer, now, outputs);
            }
        }
    }

    /// Takes a shard's answer to a round; the session gets the answers when all are there.
    pub(super) fn call_answered(
        &mut self,
        key: CallKey,
        by: ShardId,
        answer: Answer,
        now: Now,
        outputs: &mut Outputs,
    ) {
        if let Some(answers) = self.calls.answered(key, by, answer, now.monotonic_ns) {
            self.end_round(key, Ok(answers), now, outputs);
        }
    }

    /// Refuses calls that have waited too long for room in the shard's output.
    pub(super) fn refuse_late_calls(&mut self, now: Now, outputs: &mut Outputs) {
        while self.outboxes.is_full()
            && let Some(key) = self.calls.take_late(now.monotonic_ns)
        {
            self.counters.calls_refused += 1;
            self.end_round(key, Err(CallError::NoRoom), now, outputs);
        }
    }

    /// Ends a call whose worker is gone.
    fn fail_call(&mut self, key: CallKey, error: CallError, now: Now, outputs: &mut Outputs) {
        self.counters.calls_refused += 1;
        self.calls.fail(key);
        self.end_round(key, Err(error), now, outputs);
    }

    /// A state worker is gone: whoever waits for it is told, and goes on.
    pub(super) fn worker_gone(
        &mut self,
        worker: ShardId,
        now: Now,
        outputs: &mut Outputs,
    ) -> Handled {
        self.mailboxes.close(worker);
        for key in self.calls.with_worker(worker) {
            self.fail_call(key, CallError::Unknown, now, outputs);
        }
        Handled::DONE
    }

    /// Hands the answers of a round to the session: it asks on, or the call is over.
    fn end_round(
        &mut self,
        key: CallKey,
        answers: Result<Answers, CallError>,
        now: Now,
        outputs: &mut Outputs,
    ) {
        let (conn, call) = key;
        // invariant: the calls of a connection are removed when it is gone.
        let client = self.calls.client(key).expect("a call that is there");
        // invariant: as above.
        let mut connection = self.connections.take(conn).expect("who asked");
        assert!(connection.client == client, "a call of another connection");
        let (session, mut cx) = split(self, &mut connection, conn, now);
        session.answered(call, answers, &mut cx);
        let is_over = self.calls.is_over(key);
        let has_slot = self.outboxes.has_slot(conn, call);
        let is_in_order = self.outboxes.outbox(conn).form.answers_in_order();
        assert!(
            has_slot.is_none_or(|has_slot| has_slot == (is_in_order && !is_over)),
            "a reply slot stays exactly as long as its call: {call:?}"
        );
        if is_over {
            self.calls.end(key);
            connection.calls_waiting -= 1;
            let may_go_on = |at: u32| connection.calls_waiting <= at;
            if connection.blocked.calls.is_some_and(may_go_on) {
                connection.blocked.calls = None;
                resume_if_free(&connection, conn, outputs);
            }
        }
        let kills_itself = is_over && connection.kills_itself;
        self.connections.put(conn, connection);
        if kills_itself {
            self.begin_close(conn, CloseReason::Killed, outputs);
        }
    }

    /// Resumes the connections that waited until the shard had fewer calls, whether those were answered or forgotten.
    pub(super) fn resume_callers(&mut self, outputs: &mut Outputs) {
        for (conn, client) in self.calls.take_waiting() {
            if let Some(connection) = self.connections.of_client(conn, client)
                && connection.blocked.calls.take().is_some()
            {
                resume_if_free(connection, conn, outputs);
            }
        }
    }

    /// Answers a query; `asker` is the connection that asks, if it is one of this shard.
    pub(super) fn answer(
        &mut self,
        query: &Query,
        asker: Option<ConnId>,
        now: Now,
        outputs: &mut Outputs,
    ) -> Answer {
        match query {
            Query::Counters => {
                self.note_rates(now);
                Answer::Counters(Box::new(self.counters()))
            }
            Query::Select {
                selection,
                sort,
                from,
            } => {
                let (places, next) = self.connections.places_from(*from, CALL_LOOKED_AT_MAX);
                let found = places.filter_map(|conn| {
                    let connection = self.selected(conn, selection, now)?;
                    Some(Selected {
                        rank: self.rank(conn, connection, *sort),
                        client: connection.client,
                        shard: self.settings.shard,
                        conn,
                    })
                });
                Answer::Selected {
                    found: found.collect(),
                    next,
                }
            }
            Query::Describe {
                clients,
                with_subscriptions,
            } => {
                assert!(clients.len() <= CALL_CLIENTS_MAX, "too many in a round");
                let there = clients.iter().filter_map(|&(conn, client)| {
                    let connection = self.connections.get(conn)?;
                    let is_meant = connection.client == client && is_shown(connection);
                    is_meant.then(|| self.describe(conn, connection, *with_subscriptions, now))
                });
                Answer::Described(there.collect())
            }
            Query::SubscriptionsOf { conn, client, from } => {
                let is_there = self.connections.is_there(*conn, *client);
                let (listens_to, next) = match is_there {
                    true => self.subscriptions_of(*conn, *from),
                    false => (Vec::new(), None),
                };
                Answer::Subscribed { listens_to, next }
            }
            Query::ActiveNames {
                kind,
                pattern,
                from,
            } => {
                let (names, next) = self.active_names(*kind, pattern.as_deref(), *from);
                Answer::Names { names, next }
            }
            Query::Kill { selection, from } => self.kill(selection, *from, asker, now, outputs),
            Query::State(_) => unreachable!("a worker answers this"),
        }
    }

    /// Closes the clients that match a selection, from a place on. The asker itself is closed once it is answered.
    fn kill(
        &mut self,
        selection: &Selection,
        from: ConnId,
        asker: Option<ConnId>,
        now: Now,
        outputs: &mut Outputs,
    ) -> Answer {
        let (places, mut next) = self.connections.places_from(from, CALL_LOOKED_AT_MAX);
        let mut count = 0;
        for conn in places {
            if count == CALL_CLIENTS_MAX as u64 {
                next = Some(conn);
                break;
            }
            if self.selected(conn, selection, now).is_none() {
                continue;
            }
            count += 1;
            if Some(conn) != asker {
                self.begin_close(conn, CloseReason::Killed, outputs);
            } else if let Some(connection) = self.connections.get_mut(conn) {
                connection.kills_itself = true;
            }
        }
        Answer::Killed { count, next }
    }

    /// The names of one kind with subscribers anywhere on the node, from a filter on, and where the rest begins.
    fn active_names(
        &self,
        kind: FilterKind,
        pattern: Option<&[u8]>,
        from: usize,
    ) -> (Vec<Box<[u8]>>, Option<usize>) {
        let (mut looked_at, mut cost, mut bytes) = (0, 0, 0);
        let pattern = pattern.map(Glob::new);
        let mut names = Vec::new();
        for (place, entry) in self.broker.filters().iter_from(from) {
            let is_enough = looked_at >= CALL_LOOKED_AT_MAX || cost >= CALL_GLOB_COST_MAX;
            if is_enough || bytes >= CALL_NAMES_BYTES {
                return (names, Some(place));
            }
            looked_at += 1;
            if entry.kind != kind || self.broker.filters().listeners(entry) == 0 {
                continue;
            }
            if let Some(pattern) = &pattern {
                cost += pattern.cost();
                if !pattern.matches_text(&entry.name) {
                    continue;
                }
            }
            bytes += entry.name.len();
            names.push(entry.name.clone());
        }
        (names, None)
    }

    /// The connection at this place, if it is a client's and matches the selection.
    fn selected(&self, conn: ConnId, selection: &Selection, now: Now) -> Option<&Connection> {
        let connection = self.connections.get(conn)?;
        let is_meant = is_shown(connection) && self.is_selected(conn, connection, selection, now);
        is_meant.then_some(connection)
    }

    fn rank(&self, conn: ConnId, connection: &Connection, sort: Sort) -> u64 {
        let outbox = self.outboxes.outbox(conn);
        match sort {
            Sort::Id => 0,
            Sort::Subscriptions => self.broker.count_all(conn) as u64,
            Sort::Pending => outbox.waiting() as u64,
            Sort::EventsOut => outbox.events_out(),
            Sort::EventsIn => connection.published.events,
            Sort::BytesOut => outbox.admitted.bytes,
            Sort::BytesIn => connection.published.bytes,
            Sort::Idle => u64::MAX - connection.active_ns,
            Sort::Last => connection.active_ns,
            // Not the time, which is that of a turn and differs from shard to shard.
            Sort::Start => connection.client.0,
        }
    }

    fn is_selected(
        &self,
        conn: ConnId,
        connection: &Connection,
        selection: &Selection,
        now: Now,
    ) -> bool {
        let age_s = seconds(now.monotonic_ns, connection.opened_ns);
        let Selection {
            ids,
            peer,
            local,
            form,
            subscribed,
            age_s_min,
            but,
            nobody,
        } = selection;
        !nobody
            && (ids.is_empty() || ids.binary_search(&connection.client).is_ok())
            && peer.is_none_or(|peer| peer == connection.peer)
            && local.is_none_or(|local| local == connection.local)
            && form.is_none_or(|form| form == self.outboxes.outbox(conn).form)
            && subscribed.is_none_or(|subscribed| subscribed == self.broker.listens(conn))
            && age_s_min.is_none_or(|least| age_s >= least)
            && but.is_none_or(|but| but != connection.client)
    }

    /// What a connection is subscribed to, from a place on, and where the rest begins.
    fn subscriptions_of(&self, conn: ConnId, from: usize) -> (Vec<Subscribed>, Option<usize>) {
        let mut bytes = 0;
        let mut listens_to = Vec::new();
        let is_named = self.outboxes.outbox(conn).form == Form::NAMED;
        for (place, (number, entry)) in self.broker.subscribed_from(conn, from) {
            if bytes >= CALL_NAMES_BYTES {
                return (listens_to, Some(place));
            }
            let named = is_named.then(|| {
                let sid = self.delivery.named.sids.get(number);
                NamedSubscription {
                    sid: sid.name.clone(),
                    messages: sid.delivered,
                    messages_max: sid.after,
                }
            });
            let group = entry
                .group
                .map(|group| self.broker.filters().groups.name(group).into());
            let subscribed = Subscribed {
                name: entry.name.clone(),
                group,
                named,
            };
            bytes += size_of_val(&subscribed) + entry.name.len();
            listens_to.push(subscribed);
        }
        (listens_to, None)
    }

    fn describe(
        &self,
        conn: ConnId,
        connection: &Connection,
        with_subscriptions: bool,
        now: Now,
    ) -> ClientRecord {
        let outbox = self.outboxes.outbox(conn);
        let count = |kind| self.broker.count(conn, kind);
        let (listens_to, listens_next) = match with_subscriptions {
            true => self.subscriptions_of(conn, 0),
            false => (Vec::new(), None),
        };
        let mut record = ClientRecord {
            id: connection.client,
            shard: self.settings.shard,
            peer: connection.peer,
            local: connection.local,
            name: Vec::new(),
            library: (Vec::new(), Vec::new()),
            age_s: seconds(now.monotonic_ns, connection.opened_ns),
            idle_s: seconds(now.monotonic_ns, connection.active_ns),
            subscriptions: [
                count(FilterKind::Topic),
                count(FilterKind::Glob) + count(FilterKind::Wildcard),
                count(FilterKind::ShardChannel),
            ],
            queued: None,
            output: (outbox.waiting(), outbox.pieces()),
            lost: outbox.lost(),
            published: connection.published,
            delivered: Volume {
                events: outbox.events_out(),
                ..outbox.admitted
            },
            form: outbox.form,
            listens_to,
            listens_next,
            database: 0,
            version: 0,
            command: "",
            no_evict: false,
        };
        connection.session.describe(&mut record);
        record
    }
}

/// Whether a connection is in lists of clients. Links are not: they are shown with the tree, and no client may kill
/// them.
fn is_shown(connection: &Connection) -> bool {
    !connection.closing && !matches!(connection.session, Session::Node(_))
}

fn seconds(now_ns: u64, then_ns: u64) -> u64 {
    now_ns.saturating_sub(then_ns) / 1_000_000_000
}
