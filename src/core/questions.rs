//! What a connection may ask of all shards at once: who is connected, the counters, to close some.
//!
//! A question goes to the others as control messages and its answers are merged as they come; the
//! asker is held until all have answered. Must not know protocols beyond their own description of
//! a connection. Invariant: every question is answered once by each other shard, whatever becomes
//! of the asker. Start at [`Shard::ask`].

use crate::command::{
    Answer, ClientId, ClientRecord, CloseReason, ConnId, FilterKind, Now, Query, Selection, Traffic,
};
use crate::handover::Control;
use crate::session::Session;
use crate::{Connection, Outputs, Shard, resume_if_free, split};

/// A question that other shards have still to answer.
#[derive(Debug)]
pub(crate) struct Gathering {
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
        let Some(Some(connection)) = self.connections.get(conn.slot()) else {
            return false;
        };
        let client = connection.client;
        let answer = self.answer(query, Some(conn), now, outputs);
        let number = self.next_question;
        self.next_question += 1;
        let mut missing = 0;
        for shard in self.hand_overs.others() {
            let question = Control::Ask {
                number,
                query: query.clone(),
            };
            self.hand_overs.push_control(shard, question);
            missing += 1;
        }
        let gathering = Gathering {
            number,
            conn,
            client,
            missing,
            answer,
        };
        if missing > 0 {
            self.gatherings.push(gathering);
            return false;
        }
        self.finish_gathering(gathering, now, outputs);
        true
    }

    pub(crate) fn finish_gathering(
        &mut self,
        gathering: Gathering,
        now: Now,
        outputs: &mut Outputs,
    ) {
        let Gathering {
            conn,
            client,
            answer,
            ..
        } = gathering;
        let is_same = |connection: &mut Box<Connection>| connection.client == client;
        let place = self.connections.get_mut(conn.slot());
        let Some(mut connection) = place.and_then(|place| place.take_if(is_same)) else {
            return;
        };
        connection.holds.gather = false;
        let (session, mut cx) = split(self, &mut connection, conn, now);
        session.answered(answer, &mut cx);
        if self.settings.shards > 1 {
            resume_if_free(&connection, conn, outputs);
        }
        let kills_itself = connection.kills_itself;
        self.connections[conn.slot()] = Some(connection);
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
                    } else if let Some(Some(connection)) = self.connections.get_mut(conn.slot()) {
                        connection.kills_itself = true;
                    }
                }
                Answer::Killed(meant.len() as u64)
            }
        }
    }

    fn open_connections(&self) -> impl Iterator<Item = (ConnId, &Connection)> {
        let places = self.connections.iter().enumerate();
        places.filter_map(|(slot, place)| {
            let connection = place.as_deref().filter(|connection| !connection.closing)?;
            // Links are shown with the tree, and nobody's to kill.
            let is_client = !matches!(connection.session, Session::Node(_));
            is_client.then_some(())?;
            Some((ConnId(slot as u32), connection))
        })
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
