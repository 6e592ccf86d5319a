//! What a connection may ask of all shards at once: who is connected, the counters, to close some.
//!
//! A question goes to the others as control messages and its answers are merged as they come; the
//! asker is held until all have answered. Must not know protocols beyond their own description of
//! a connection. Invariant: every question is answered once by each other shard, whatever becomes
//! of the asker. Start at [`Shard::ask`].

use super::{Shard, resume_if_free, split};
use crate::command::{
    Answer, ClientId, ClientRecord, CloseReason, ConnId, FilterKind, Now, Query, Selection, Traffic,
};
use crate::connection::Connection;
use crate::input::Outputs;
use crate::mailbox::Control;
use crate::session::Session;

/// A question that other shards have still to answer.
#[derive(Debug)]
pub(crate) struct PendingCall {
    pub number: u64,
    pub conn: ConnId,
    pub client: ClientId,
    pub missing: usize,
    pub answer: Answer,
}

impl Shard {
    /// Asks all shards for a connection; true if the answer is there already.
    pub(crate) fn ask(
        &mut self,
        conn: ConnId,
        query: &Query,
        now: Now,
        outputs: &mut Outputs,
    ) -> bool {
        let Some(connection) = self.connections.get(conn) else {
            return false;
        };
        let client = connection.client;
        let answer = self.answer(query, Some(conn), now, outputs);
        let number = self.next_call;
        self.next_call += 1;
        let mut missing = 0;
        for shard in self.mailboxes.others() {
            let question = Control::Ask {
                number,
                query: query.clone(),
            };
            self.mailboxes.push_control(shard, question);
            missing += 1;
        }
        let call = PendingCall {
            number,
            conn,
            client,
            missing,
            answer,
        };
        if missing > 0 {
            self.calls.push(call);
            return false;
        }
        self.finish_call(call, now, outputs);
        true
    }

    pub(crate) fn finish_call(&mut self, call: PendingCall, now: Now, outputs: &mut Outputs) {
        let PendingCall {
            conn,
            client,
            answer,
            ..
        } = call;
        if !self.connections.is_there(conn, client) {
            return;
        }
        let Some(mut connection) = self.connections.take(conn) else {
            return;
        };
        connection.blocked.call = false;
        let (session, mut cx) = split(self, &mut connection, conn, now);
        session.answered(answer, &mut cx);
        if self.settings.shards > 1 {
            resume_if_free(&connection, conn, outputs);
        }
        let kills_itself = connection.kills_itself;
        self.connections.put(conn, connection);
        if kills_itself {
            self.begin_close(conn, CloseReason::Killed, outputs);
        }
    }

    /// What this shard has to say to a question; `asker` is the connection if it is one of its own.
    pub(crate) fn answer(
        &mut self,
        query: &Query,
        asker: Option<ConnId>,
        now: Now,
        outputs: &mut Outputs,
    ) -> Answer {
        match query {
            Query::Counters => Answer::Counters(vec![(self.settings.shard, self.counters())]),
            Query::Clients(selection) => {
                let records = self.open_connections().filter_map(|(conn, connection)| {
                    let is_meant = self.is_selected(conn, connection, selection, now);
                    is_meant.then(|| {
                        let mut record = self.describe(conn, connection, now);
                        if selection.with_names {
                            record.names = self.names_of(conn);
                        }
                        record
                    })
                });
                Answer::Clients(records.collect())
            }
            Query::Kill(selection) => {
                let meant: Vec<ConnId> = self
                    .open_connections()
                    .filter(|(conn, connection)| {
                        self.is_selected(*conn, connection, selection, now)
                    })
                    .map(|(conn, _)| conn)
                    .collect();
                for &conn in &meant {
                    if Some(conn) != asker {
                        self.begin_close(conn, CloseReason::Killed, outputs);
                    } else if let Some(connection) = self.connections.get_mut(conn) {
                        connection.kills_itself = true;
                    }
                }
                Answer::Killed(meant.len() as u64)
            }
        }
    }

    fn open_connections(&self) -> impl Iterator<Item = (ConnId, &Connection)> {
        // Links are shown with the tree, and nobody's to kill.
        let is_client = |connection: &Connection| !matches!(connection.session, Session::Node(_));
        let all = self.connections.iter();
        all.filter(move |(_, connection)| !connection.closing && is_client(connection))
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
            subscribed,
            age_s_min,
            but,
            nobody,
            with_names: _,
        } = selection;
        !nobody
            && (ids.is_empty() || ids.binary_search(&connection.client).is_ok())
            && peer.is_none_or(|peer| peer == connection.peer)
            && local.is_none_or(|local| local == connection.local)
            && subscribed.is_none_or(|subscribed| subscribed == self.broker.listens(conn))
            && age_s_min.is_none_or(|least| age_s >= least)
            && but.is_none_or(|but| but != connection.client)
    }

    /// The names of all that a connection subscribed to.
    fn names_of(&self, conn: ConnId) -> Vec<Box<[u8]>> {
        let kinds = [
            FilterKind::Topic,
            FilterKind::Wildcard,
            FilterKind::Glob,
            FilterKind::ShardChannel,
        ];
        kinds
            .into_iter()
            .flat_map(|kind| self.broker.names(conn, kind))
            .collect()
    }

    fn describe(&self, conn: ConnId, connection: &Connection, now: Now) -> ClientRecord {
        let outbox = self.outboxes.outbox(conn);
        let count = |kind| self.broker.count(conn, kind);
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
            output: (outbox.len(), outbox.pieces()),
            lost: outbox.lost(),
            traffic: Traffic {
                events_in: connection.events_in,
                events_out: outbox.taken.0 - outbox.lost().min(outbox.taken.0),
                bytes_in: connection.bytes_in,
                bytes_out: outbox.taken.1,
            },
            names: Vec::new(),
            database: 0,
            version: 0,
            command: "",
            no_evict: false,
        };
        connection.session.describe(&mut record);
        record
    }
}

fn seconds(now_ns: u64, then_ns: u64) -> u64 {
    now_ns.saturating_sub(then_ns) / 1_000_000_000
}
