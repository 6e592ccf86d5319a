//! A shard: the order of the steps that each input takes.
//!
//! Owns nothing beyond its parts: connections, routing, outboxes, mailboxes, links, delivery. `input` hands bytes to
//! sessions, `links` keeps the links of the tree, `calls` and `answers` tell what the shard knows. Start at
//! [`Shard::handle`].

mod answers;
mod calls;
mod connect_urls;
mod input;
mod links;
#[cfg(test)]
mod tests;

use crate::calls::Calls;
use crate::command::{ClientId, CloseReason, ConnId, Form, Now, ShardId, Volume};
use crate::connection::{Connection, Connections};
use crate::context::{Blocked, Context, Parts, Scratch};
use crate::counters::{Counters, Rates};
use crate::delivery::{Delivery, Egress, Source};
use crate::guesses::Guesses;
use crate::input::{Config, Handled, Input, Next, Outputs};
use crate::limits;
use crate::liveness::Liveness;
use crate::mailbox::{Batch, BatchCursor, Control, Mailboxes, Records, Unheard};
use crate::outbox::Outboxes;
use crate::routing::broker::Broker;
use crate::routing::interest::{self, Interest};
use crate::session::{Protocol, Session};
use crate::settings::{ConnectUrls, Identity, Settings};
use crate::tree::links::Links;
use crate::tree::notice::Notice;
use crate::tree::place::Place;
use crate::tree::state::Tree;
use bytes::Bytes;
use connect_urls::Telling;
use core::net::SocketAddr;
use std::collections::VecDeque;
use std::sync::Arc;

/// A connection that ends, while its subscriptions are removed.
#[derive(Debug)]
struct Leaving {
    conn: ConnId,
    client: ClientId,
    form: Form,
}

/// One shard of a node: the broker of the connections it owns.
#[derive(Debug)]
pub struct Shard {
    settings: Settings,
    connections: Connections,
    broker: Broker,
    outboxes: Outboxes,
    mailboxes: Mailboxes,
    interest: Interest,
    links: Links,
    tree: Option<Box<Tree>>,
    delivery: Delivery,
    counters: Counters,
    rates: Rates,
    calls: Calls,
    guesses: Guesses,
    liveness: Liveness,
    /// Scratch buffers, empty between inputs.
    scratch: Scratch,
    /// Connections beyond the caps, in places kept for peers on loopback, those that came first before.
    kept_places: VecDeque<ConnId>,
    /// Connections that end, with more subscriptions than one turn removes.
    leaving: VecDeque<Leaving>,
    /// For each peer, the connections that wait for room there: a publisher waits for the one that was full, not for all.
    stalled: Vec<Vec<(ConnId, ClientId)>>,
    /// How far NATS clients have been told of other nodes.
    telling: Telling,
}

impl Shard {
    /// An empty shard of a node that keeps nothing.
    pub fn new(config: Config) -> Shard {
        Shard::with_workers(config, 0, 1)
    }

    /// An empty shard of a node with so many state workers, at most [`limits::WORKERS_MAX`], and partitions. Workers are its
    /// peers beside the other shards, numbered from `config.shards` on; see [`crate::worker`].
    pub fn with_workers(config: Config, workers: u16, partitions: u16) -> Shard {
        assert!(partitions > 0, "a stream is in a partition");
        check_numbers(&config, workers);
        let Config {
            shard,
            shards,
            limits,
            ..
        } = config;
        // Larger than all numbers of the run before, unless that had 16 events in each microsecond.
        let first_number = (config.started_wall_ms << 20) + u64::from(shard.0);
        let me = config.tree.as_ref().map(|tree| &tree.place);
        let me = me.map(|place| (place.node, place.incarnation));
        let links = Links::new(
            (shard.0, shards),
            me.unwrap_or_default(),
            &limits,
            config.body_gauge.clone(),
            config.hash_seed,
        );
        let mut broker = Broker::new(shard, config.hash_seed, &limits);
        if let Some(tree) = &config.tree {
            broker.call_node(&tree.names());
        }
        let tree = config.tree.map(|tree| Box::new(Tree::new(tree, shard.0)));
        Shard {
            connections: Connections::default(),
            broker,
            outboxes: Outboxes::new(&limits, config.body_gauge, config.hash_seed),
            mailboxes: Mailboxes::new(shard, (shards, workers), &limits),
            interest: Interest::new(shard, shards),
            links,
            tree,
            delivery: Delivery::new(config.hash_seed, first_number),
            counters: Counters::default(),
            rates: Rates::default(),
            calls: Calls::default(),
            guesses: Guesses::new(config.hash_seed),
            liveness: Liveness::default(),
            scratch: Scratch::default(),
            kept_places: VecDeque::new(),
            leaving: VecDeque::new(),
            stalled: vec![Vec::new(); usize::from(shards + workers)],
            telling: Telling::default(),
            settings: Settings {
                shard,
                shards,
                workers,
                partitions,
                user: config.user,
                password: config.password,
                nats_payload_max: config.nats_payload_max,
                web: config.web,
                may_broadcast: config.may_broadcast,
                connect_urls: ConnectUrls::default(),
                vitals: config.vitals,
                is_ending: false,
                run_id: config.run_id,
                process_id: config.process_id,
                started_wall_ms: config.started_wall_ms,
                capacity: config.capacity,
                limits,
            },
        }
    }

    /// Handles one input. Never waits and never fails: errors in an input are answered to its sender. Bounded: after
    /// about [`limits::UNFLUSHED_BYTES_MAX`] of output it returns [`Next::Flush`]; the work of one command is bounded
    /// by what it names and by the caps.
    pub fn handle(&mut self, input: Input<'_>, now: Now, outputs: &mut Outputs) -> Handled {
        self.delivery.begin_input();
        self.outboxes.take_crowded();
        let handled = match input {
            Input::Bytes { conn, bytes, fresh } => {
                self.counters.bytes_in += fresh as u64;
                self.handle_bytes(conn, bytes, now, outputs)
            }
            Input::Lent { conn, bytes, fresh } => {
                self.counters.bytes_in += fresh as u64;
                self.delivery.lent = Some(bytes.clone());
                let handled = self.handle_bytes(conn, bytes, now, outputs);
                self.delivery.lent = None;
                handled
            }
            Input::Batch {
                from,
                batch,
                cursor,
            } => self.handle_batch(from, batch, cursor, now, outputs),
            Input::Returned { by, batch } => {
                if !batch.unheard.is_empty() {
                    self.retry_turns(by, &batch);
                }
                self.mailboxes.returned(by, batch);
                Handled::DONE
            }
            Input::Opened {
                conn,
                client,
                protocol,
                policy,
                peer,
                local,
            } => {
                self.finish_leaving(conn, outputs);
                self.delivery.put_off.forget(conn);
                self.outboxes.open(conn, protocol.form(), policy);
                self.open(conn, client, protocol, (peer, local), now, outputs);
                Handled::DONE
            }
            Input::DialFailed { dial } => {
                self.dial_failed(dial, now);
                Handled::DONE
            }
            Input::Closed { conn } => {
                self.close(conn, now, outputs);
                Handled::DONE
            }
            Input::WorkerGone { worker } => self.worker_gone(worker, now, outputs),
            Input::TurnEnd => {
                self.end_turn(now, outputs);
                Handled::DONE
            }
            Input::Ending { milliseconds } => self.announce_end(milliseconds),
            Input::HandOver => self.hand_over(now, outputs),
            Input::Leave => self.leave_tree(now),
            Input::Tick => {
                self.delivery.put_off.look_again();
                self.let_guess(now, outputs);
                self.close_overdue(now, outputs);
                self.refuse_late_calls(now, outputs);
                self.tick_tree(now, outputs);
                Handled::DONE
            }
        };
        self.act_on_tree(now, outputs);
        self.sweep_closing(outputs);
        handled
    }

    /// Turns an input buffer into one that [`Input::Lent`] may lend. It counts as a shared payload until its last part
    /// is dropped.
    pub fn lend(&self, input: Vec<u8>) -> Bytes {
        self.outboxes.gauge().adopt(input)
    }

    /// When [`Input::Tick`] is due next, by the monotonic clock; `None` if nothing waits for time.
    pub fn next_deadline(&self) -> Option<u64> {
        let is_full = self.outboxes.is_full();
        let calls_ns = is_full.then(|| self.calls.next_deadline()).flatten();
        let deadlines = [
            self.liveness.next_deadline(),
            self.delivery.put_off.next_deadline(),
            self.guesses.next_deadline(),
            calls_ns,
            self.tree_deadline(),
            self.next_urls_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Moves the connections that have output to be written into `into`, each once.
    pub fn take_dirty(&mut self, into: &mut Vec<ConnId>) {
        self.outboxes.take_dirty(into);
    }

    /// The output of a connection, in order; empty while it waits at the barrier.
    pub fn output(&self, conn: ConnId) -> impl Iterator<Item = &[u8]> {
        self.outboxes.slices(conn)
    }

    /// Whether a connection that is being closed must stay open: output waits, or not all shards know yet that its
    /// subscriptions have ended.
    pub fn has_output(&self, conn: ConnId) -> bool {
        self.outboxes.has_output(conn)
    }

    /// Notes that the first `count` bytes of the output were written, and whether writing more would have blocked.
    pub fn sent(&mut self, conn: ConnId, count: usize, blocked: bool, outputs: &mut Outputs) {
        self.outboxes.sent(conn, count, blocked);
        if count > 0 {
            self.delivery.put_off.look_again();
        }
        if self.links.len() > 0 {
            self.note_lane_sent(conn);
        }
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        if connection.blocked.output && self.outboxes.has_caught_up(conn) {
            connection.blocked.output = false;
            resume_if_free(connection, conn, outputs);
        }
        if connection.calls_waiting > 0 && self.outboxes.takes_parts(conn) {
            self.calls.unpark(conn);
        }
    }

    /// The other shards of the node, then its state workers.
    pub fn peers(&self) -> impl Iterator<Item = ShardId> + use<> {
        self.mailboxes.peers()
    }

    /// A state worker's number among the peers.
    pub fn peer_of_worker(&self, worker: u16) -> ShardId {
        ShardId(self.settings.shards + worker)
    }

    /// Whether batches of state workers are taken: while all other shards have room, because what a worker says may be
    /// events for them. Batches of shards are always taken.
    pub fn hears_workers(&self) -> bool {
        self.mailboxes.has_workers() && self.has_room_everywhere()
    }

    /// Takes the next batch for a peer, if something waits and credit allows it.
    pub fn take_batch(&mut self, to: ShardId) -> Option<Batch> {
        self.mailboxes.take(to)
    }

    /// Bytes of spare buffers.
    pub fn spare_bytes(&self) -> usize {
        self.outboxes.spare_bytes() + self.mailboxes.spare_bytes()
    }

    /// Frees the spare buffers, and what else a shard needs only while it is busy. For a driver whose shard has been
    /// idle for a while; must be called between turns. Changes no behaviour.
    pub fn release_spares(&mut self) {
        // Both may still name places of connections that are gone.
        if !self.delivery.put_off.is_empty() || !self.leaving.is_empty() {
            return;
        }
        self.broker.release_spares();
        self.outboxes.release_spares();
        self.mailboxes.release_spares();
    }

    /// Whether no batch waits or is on the way, and no call is unanswered.
    pub fn is_settled(&self) -> bool {
        let is_done = self.delivery.put_off.is_empty() && self.leaving.is_empty();
        is_done && self.mailboxes.is_idle() && self.calls.is_empty()
    }

    /// Whether another [`Input::TurnEnd`] has work to do: a batch that was taken may have made room for stalled
    /// publishers, and a write may have found that a subscriber is gone.
    pub fn is_turn_due(&self) -> bool {
        let has_news = self.broker.has_changes() || self.interest.is_awaited();
        let has_interest = self.tells_links() && self.broker.has_changes_for_links();
        let has_lanes = self.links.has_listed() || has_interest;
        let is_asked = !self.delivery.questions.is_empty() && self.has_room_everywhere();
        let has_calls =
            self.calls.is_ready(!self.outboxes.is_full()) || self.calls.may_resume_waiting();
        let may_leave = !self.leaving.is_empty() && !self.interest.is_behind();
        let is_owed = self.delivery.put_off.is_due() || may_leave || self.telling.is_due();
        has_news || has_lanes || is_asked || has_calls || is_owed || self.may_resume_stalled()
    }

    /// Whether a batch of this shard cannot go on because its deliveries wait for clients that are behind.
    pub fn is_waiting_for_clients(&self, from: ShardId) -> bool {
        let put_off = &self.delivery.put_off;
        put_off.waits(Source::Batch(from)) && !put_off.is_due()
    }

    /// Whether a connection's session does not go on whatever is offered: at the barrier, or while it is owed deliveries.
    pub fn is_held_back(&self, conn: ConnId) -> bool {
        let there = self.connections.get(conn);
        there.is_some_and(|there| there.blocked.barrier.is_some()) || self.outboxes.is_owed(conn)
    }

    /// Whether batches wait for credit, so that returned batches should be handed in at once.
    pub fn wants_credit(&self) -> bool {
        self.mailboxes.is_waiting()
    }

    /// The node's place in the tree; known to shard 0 only.
    pub fn place(&self) -> Option<&Place> {
        self.tree.as_ref()?.place.as_ref()
    }

    /// Number of requests carried out so far, as a measure of the shard's work.
    pub fn commands(&self) -> u64 {
        self.counters.commands
    }

    /// Current values of the counters.
    pub fn counters(&self) -> Counters {
        let [commands_per_s, bytes_in_per_s, bytes_out_per_s] = self.rates.per_s;
        let outboxes = &self.outboxes.counters;
        let mut delivered = self.delivery.delivered;
        delivered += self.delivery.named.delivered;
        let (links, link_bytes_kept) = self.links.gauges();
        let beyond = &self.links.counters;
        Counters {
            links,
            link_bytes_kept,
            link_events_out: beyond.events_out,
            link_events_in: beyond.events_in,
            link_events_twice: beyond.events_twice,
            link_events_lost: beyond.events_lost,
            link_events_lost_before: beyond.events_lost_before,
            link_reconnects: beyond.reconnects,
            links_lost: self.place().map_or(0, Place::links_lost),
            link_origins: self.links.dedup.len() as u64,
            bytes_out: outboxes.bytes_out,
            commands_per_s,
            bytes_in_per_s,
            bytes_out_per_s,
            closed_outbox_full: outboxes.closed_outbox_full,
            closed_outboxes_full: outboxes.closed_outboxes_full,
            events_lost_drop_oldest: outboxes.lost_drop_oldest,
            events_lost_latest: outboxes.lost_latest,
            events_not_carried: self.delivery.named.uncarried,
            turns_retried: self.delivery.turns_retried,
            turns_unheard: self.delivery.turns_unheard,
            places_unheard: self.delivery.lost_places,
            questions_unanswered: self.delivery.questions.unanswered,
            calls_waiting: self.calls.len() as u64,
            outbox_bytes: self.outboxes.waiting_bytes() as u64,
            shared_body_bytes: self.outboxes.gauge().bytes() as u64,
            events_delivered: delivered.events,
            payload_bytes_out: delivered.bytes,
            events_handed_over: self.mailboxes.events,
            handovers: self.mailboxes.sent,
            handover_events_lost: self.mailboxes.lost,
            events_not_stored: self.mailboxes.not_stored,
            handover_backlog_bytes: self.mailboxes.backlog_bytes() as u64,
            subscriptions: self.broker.subscriptions(),
            filters: self.broker.filters().len() as u64,
            ..self.counters.clone()
        }
    }

    /// Announces the shutdown of the node to all clients whose protocol has a message for it, and closes WebSockets and
    /// event streams if it is near.
    fn announce_end(&mut self, milliseconds: u32) -> Handled {
        for (conn, connection) in self.connections.iter().filter(|(_, there)| !there.closing) {
            connection.session.announce_end(
                milliseconds,
                &self.settings,
                connection.identity(),
                conn,
                &mut self.outboxes,
            );
        }
        self.settings.is_ending = true;
        Handled::DONE
    }

    /// Notes how fast the counters grow.
    fn note_rates(&mut self, now: Now) {
        let Counters {
            commands, bytes_in, ..
        } = self.counters;
        let totals = [commands, bytes_in, self.outboxes.counters.bytes_out];
        self.rates.look(now.monotonic_ns, totals);
    }

    fn open(
        &mut self,
        conn: ConnId,
        client: ClientId,
        protocol: Protocol,
        (peer, local): (SocketAddr, SocketAddr),
        now: Now,
        outputs: &mut Outputs,
    ) {
        let mut session = match protocol {
            Protocol::NodeDialed { dial } => match self.dialed_session(dial) {
                Some(session) => Session::Node(Box::new(session)),
                None => Session::new(Protocol::Node, &self.settings),
            },
            protocol => Session::new(protocol, &self.settings),
        };
        let identity = Identity {
            client,
            peer,
            local,
        };
        session.greet(&self.settings, identity, conn, &mut self.outboxes);
        let is_refused = !self.takes_in(conn, protocol, peer, outputs);
        if is_refused {
            self.counters.connections_refused += 1;
            let reason = CloseReason::TooManyConnections;
            session.say_why(reason, conn, &mut self.outboxes);
            outputs.closing.push((conn, reason));
        }
        self.counters.connections += 1;
        self.counters.connections_accepted += 1;
        self.settings.capacity.note_opened();
        let mut connection = Box::new(Connection {
            client,
            session,
            blocked: Blocked::default(),
            peer,
            local,
            opened_ns: now.monotonic_ns,
            active_ns: now.monotonic_ns,
            published: Volume::default(),
            calls_waiting: 0,
            kept_bytes: 0,
            auth_deadline_ns: 0,
            in_auth_deadlines: false,
            has_waited: false,
            closing: is_refused,
            kills_itself: false,
        });
        self.liveness
            .opened(&mut connection, conn, now, &self.settings);
        self.connections.put(conn, connection);
    }

    /// Whether a new connection may stay. Beyond the caps, only a peer on loopback may: it gets one of the places kept for
    /// such, and the one that has had its place longest is closed if all are taken.
    fn takes_in(
        &mut self,
        conn: ConnId,
        protocol: Protocol,
        peer: SocketAddr,
        outputs: &mut Outputs,
    ) -> bool {
        let connections = self.counters.connections;
        let has_room = |kept: usize, settings: &Settings| {
            let most = settings.limits.connections_max + kept;
            connections < most as u64 && settings.capacity.has_room(kept as u64)
        };
        // Those that would have room by now are no longer in a place beyond the caps.
        while !self.kept_places.is_empty() && has_room(self.kept_places.len(), &self.settings) {
            self.kept_places.pop_front();
        }
        let is_node = matches!(protocol, Protocol::Node | Protocol::NodeDialed { .. });
        if has_room(0, &self.settings) {
            return true;
        }
        if is_node || !peer.ip().to_canonical().is_loopback() {
            return false;
        }
        if self.kept_places.len() == limits::CONNECTIONS_KEPT
            && let Some(longest) = self.kept_places.pop_front()
        {
            self.close_kept(longest, outputs);
        }
        self.counters.connections_kept += 1;
        self.kept_places.push_back(conn);
        true
    }

    /// Closes a connection beyond the caps.
    fn close_kept(&mut self, conn: ConnId, outputs: &mut Outputs) {
        let Some(connection) = self.connections.get(conn) else {
            return;
        };
        if connection.closing {
            return;
        }
        self.counters.connections_refused += 1;
        let reason = CloseReason::TooManyConnections;
        if !connection.session.is_replying() {
            connection.session.say_why(reason, conn, &mut self.outboxes);
        }
        self.begin_close(conn, reason, outputs);
    }

    fn close(&mut self, conn: ConnId, now: Now, outputs: &mut Outputs) {
        let Some(connection) = self.connections.take(conn) else {
            return;
        };
        self.kept_places.retain(|&there| there != conn);
        self.settings.capacity.note_closed();
        self.counters.connections -= 1;
        self.counters.input_bytes -= connection.kept_bytes as u64;
        self.leave(conn, connection.client);
        self.delivery.put_off.end_stall(conn);
        self.calls.forget(conn);
        self.outboxes.kill(conn);
        self.liveness.closed(&connection, &self.connections);
        if let Session::Node(session) = &connection.session {
            self.node_gone(session, conn, now, outputs);
        }
    }

    /// Closes connections whose deadline has passed.
    fn close_overdue(&mut self, now: Now, outputs: &mut Outputs) {
        // Ends because each connection is taken from its list before it is given. One that is already being closed is
        // not given.
        while let Some((conn, reason)) = self.liveness.poll_overdue(
            now,
            &mut self.connections,
            &self.settings,
            &mut self.outboxes,
        ) {
            self.begin_close(conn, reason, outputs);
        }
    }

    /// Closes those that have an end of their own, by that, because the node shuts down.
    fn close_early(&mut self, outputs: &mut Outputs) {
        for conn in self.connections.places() {
            let Some(connection) = self.connections.get(conn) else {
                continue;
            };
            let session = &connection.session;
            let is_meant = matches!(session, Session::Web(web) if web.is_closed_early());
            if is_meant && !connection.closing {
                session.say_why(CloseReason::Ending, conn, &mut self.outboxes);
                self.begin_close(conn, CloseReason::Ending, outputs);
            }
        }
    }

    /// Removes all subscriptions of a connection that ends, or begins to if they are many. Gives whether none is left.
    fn leave(&mut self, conn: ConnId, client: ClientId) -> bool {
        if self.is_leaving(conn) {
            return false;
        }
        let form = self.outboxes.outbox(conn).form;
        let has_left = self.remove_some(conn, form, limits::ENDED_AT_ONCE);
        if !has_left {
            self.outboxes.end_events(conn);
            self.leaving.push_back(Leaving { conn, client, form });
        }
        has_left
    }

    fn remove_some(&mut self, conn: ConnId, form: Form, most: usize) -> bool {
        let sids = &mut self.delivery.named.sids;
        self.broker.leave_some(conn, form, most, |number| {
            if form == Form::NAMED {
                sids.forget(number);
            }
        })
    }

    /// Removes more subscriptions of connections that end.
    fn go_on_leaving(&mut self, outputs: &mut Outputs) {
        let Some(Leaving { conn, form, .. }) = self.leaving.front() else {
            return;
        };
        let (conn, form) = (*conn, *form);
        if self.interest.is_behind() {
            return;
        }
        self.delivery.settle(&mut self.broker, &mut self.outboxes);
        if self.remove_some(conn, form, limits::ENDED_AT_ONCE) {
            self.has_left(outputs);
        }
    }

    /// The first of those that leave has no subscription left: it may be closed, once all shards know.
    fn has_left(&mut self, outputs: &mut Outputs) {
        let Some(Leaving { conn, client, .. }) = self.leaving.pop_front() else {
            return;
        };
        let Some(connection) = self.connections.of_client(conn, client) else {
            return;
        };
        if self.interest.is_alone() {
            self.outboxes.release(conn);
            resume_if_free(connection, conn, outputs);
        } else {
            connection.blocked.barrier = Some(self.interest.wait(conn, client));
        }
    }

    /// Removes what is left of a connection's subscriptions at once, because its place is another's now.
    fn finish_leaving(&mut self, conn: ConnId, outputs: &mut Outputs) {
        let Some(place) = self.leaving.iter().position(|there| there.conn == conn) else {
            return;
        };
        self.leaving.swap(0, place);
        let form = self.leaving[0].form;
        self.delivery.settle(&mut self.broker, &mut self.outboxes);
        self.remove_some(conn, form, usize::MAX);
        self.has_left(outputs);
    }

    /// Whether the subscriptions of a connection that has ended are still being removed. Its place should not be given
    /// to another until then.
    pub fn is_leaving(&self, conn: ConnId) -> bool {
        self.leaving.iter().any(|there| there.conn == conn)
    }

    fn handle_batch(
        &mut self,
        from: ShardId,
        batch: &mut Batch,
        cursor: &mut BatchCursor,
        now: Now,
        outputs: &mut Outputs,
    ) -> Handled {
        let is_worker = self.mailboxes.is_worker(from);
        if is_worker && self.mailboxes.is_closed(from) {
            return Handled::DONE;
        }
        if !cursor.control_done {
            cursor.control_done = true;
            self.counters.events_received += batch.events;
            for control in std::mem::take(&mut batch.control) {
                self.handle_control(from, control, now, outputs);
            }
        }
        let source = Source::Batch(from);
        self.delivery.put_off.source = Some(source);
        if self.delivery.put_off.waits(source) {
            // Not only at the end of a turn, which a driver may leave out while a batch is unfinished.
            self.give_what_was_put_off(now, outputs);
        }
        let mut records = Records::new(batch, *cursor);
        let mut next = Next::Done;
        let mut unheard = Vec::new();
        let mut egress = Egress {
            broker: &mut self.broker,
            outboxes: &mut self.outboxes,
            mailboxes: &mut self.mailboxes,
            links: &mut self.links,
        };
        loop {
            if self.delivery.must_pause(egress.outboxes) {
                next = Next::Flush;
                break;
            }
            let cursor = records.cursor;
            let Some(record) = records.next() else { break };
            if is_worker {
                if !self.delivery.receive_emitted(&mut egress, &record) {
                    records.cursor = cursor;
                    next = Next::Hold;
                    break;
                }
                continue;
            }
            let note = |group| unheard.push(Unheard { cursor, group });
            self.delivery.receive(&mut egress, &record, note);
        }
        *cursor = records.cursor;
        self.delivery.settle(&mut self.broker, &mut self.outboxes);
        if self.delivery.put_off.waits(Source::Batch(from)) {
            next = Next::Flush;
        }
        batch.unheard.extend(unheard);
        if next == Next::Done && batch.known > 0 {
            self.release_barriers(from, batch.known, outputs);
        }
        Handled { consumed: 0, next }
    }

    /// Gives turns of queue groups that no member could take to members elsewhere.
    fn retry_turns(&mut self, by: ShardId, batch: &Batch) {
        let mut egress = Egress {
            broker: &mut self.broker,
            outboxes: &mut self.outboxes,
            mailboxes: &mut self.mailboxes,
            links: &mut self.links,
        };
        self.delivery.retry(&mut egress, by, batch);
        self.delivery.settle(&mut self.broker, &mut self.outboxes);
    }

    fn handle_control(&mut self, from: ShardId, control: Control, now: Now, outputs: &mut Outputs) {
        match control {
            Control::Interest { sequence, changes } => {
                match self.mailboxes.is_worker(from) {
                    true => self.broker.apply_keeping(from, &changes),
                    false => self.broker.apply_changes(from, &changes),
                }
                self.mailboxes.acknowledge(from, sequence);
            }
            Control::Tree(news) => self.handle_tree_news(news, now, outputs),
            Control::Ask { call, query } => {
                let answer = self.answer(&query, None, now, outputs);
                self.mailboxes
                    .push_control(from, Control::Answer { call, answer });
            }
            Control::Answer { call, answer } => {
                self.call_answered(call, from, answer, now, outputs);
            }
        }
    }

    fn release_barriers(&mut self, by: ShardId, number: u64, outputs: &mut Outputs) {
        let Shard {
            interest,
            connections,
            outboxes,
            ..
        } = self;
        interest.acknowledged(by, number, |number, conn, client| {
            let Some(connection) = connections.get_mut(conn) else {
                return;
            };
            // A connection that waits for a later change too stays at the barrier.
            if connection.client != client || connection.blocked.barrier != Some(number) {
                return;
            }
            connection.blocked.barrier = None;
            outboxes.release(conn);
            resume_if_free(connection, conn, outputs);
        });
    }

    /// Begins to close a connection: names it in `outputs`, ends its subscriptions, and handles no more of its input.
    fn begin_close(&mut self, conn: ConnId, reason: CloseReason, outputs: &mut Outputs) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        if connection.closing {
            return;
        }
        // If this input made the slow consumer policy close it, that is the reason.
        let mut given_up = self.outboxes.closing.iter();
        let given_up = given_up.find(|&&(other, _)| other == conn);
        let reason = given_up.map_or(reason, |&(_, reason)| reason);
        connection.closing = true;
        let listens = self.broker.listens(conn) && !self.interest.is_alone();
        let client = connection.client;
        // The driver drops its input now, so it must stop counting against the cap before it is gone.
        let is_replying = connection.session.is_replying();
        connection.session.forget_unfinished();
        self.delivery.put_off.end_stall(conn);
        self.calls.forget(conn);
        self.outboxes.drop_slots(conn);
        connection.calls_waiting = 0;
        self.counters.input_bytes -= connection.kept_bytes as u64;
        connection.kept_bytes = 0;
        match reason {
            CloseReason::Protocol => self.counters.closed_protocol += 1,
            CloseReason::AuthTimeout => self.counters.closed_guest_timeout += 1,
            CloseReason::Stale => self.counters.closed_stale += 1,
            CloseReason::InputsFull => self.counters.closed_inputs_full += 1,
            CloseReason::Killed => self.counters.closed_killed += 1,
            // Counted where they are decided, or not an error.
            CloseReason::Quit
            | CloseReason::Ending
            | CloseReason::OutboxFull
            | CloseReason::OutboxesFull
            | CloseReason::TooManyConnections => {}
        }
        self.delivery.settle(&mut self.broker, &mut self.outboxes);
        match is_replying {
            true => self.outboxes.drop_deferred(conn),
            false => self.outboxes.append_deferred(conn),
        }
        // A client that sees the connection end may rely on its subscriptions having ended: they end first, on all
        // shards.
        let has_left = self.leave(conn, client);
        if listens || !has_left {
            self.outboxes.hold(conn);
        }
        if let Some(connection) = self.connections.get_mut(conn)
            && listens
            && has_left
        {
            connection.blocked.barrier = Some(self.interest.wait(conn, client));
        }
        outputs.closing.push((conn, reason));
    }

    /// Begins to close the connections that the slow consumer policy closed during delivery.
    fn sweep_closing(&mut self, outputs: &mut Outputs) {
        for (conn, reason) in std::mem::take(&mut self.outboxes.closing) {
            self.begin_close(conn, reason, outputs);
        }
    }

    /// Whether a connection waits for a peer that has room again.
    fn may_resume_stalled(&self) -> bool {
        let mut peers = self.mailboxes.peers();
        peers.any(|to| self.may_resume_for(to))
    }

    fn may_resume_for(&self, to: ShardId) -> bool {
        !self.stalled[to.index()].is_empty() && self.mailboxes.has_room(to)
    }

    fn has_room_everywhere(&self) -> bool {
        let mut others = self.mailboxes.others();
        others.all(|to| self.mailboxes.has_room(to))
    }

    fn end_turn(&mut self, now: Now, outputs: &mut Outputs) {
        self.note_rates(now);
        self.delivery.look_ups.begin_turn();
        self.go_on_leaving(outputs);
        self.give_what_was_put_off(now, outputs);
        self.calls.end_turn();
        self.run_calls(now, outputs);
        self.resume_callers(outputs);
        self.answer_questions(now);
        self.end_turn_of_links();
        self.tell_connect_urls(now);
        let changes = self.broker.take_changes();
        let is_news = !changes.is_empty() || self.interest.is_awaited();
        if is_news && !self.interest.is_alone() {
            let sequence = self.interest.tell();
            self.counters.interest_changes += changes.len() as u64;
            let changes: Arc<[interest::Change]> = changes.into();
            for shard in self.mailboxes.others() {
                let changes = Arc::clone(&changes);
                self.mailboxes
                    .push_control(shard, Control::Interest { sequence, changes });
            }
        }
        for peer in self.mailboxes.peers() {
            if self.may_resume_for(peer) {
                self.resume_stalled(peer, outputs);
            }
        }
    }

    /// Tells operators of addresses that sent too many wrong passwords.
    pub(crate) fn tell_of_guesses(&mut self, outputs: &mut Outputs) {
        let notices = self.guesses.notices.drain(..);
        outputs
            .notices
            .extend(notices.map(|(address, count)| Notice::WrongPasswords { address, count }));
    }

    /// Resumes connections whose passwords have waited.
    fn let_guess(&mut self, now: Now, outputs: &mut Outputs) {
        for (conn, client) in self.guesses.take_due(now.monotonic_ns) {
            if let Some(connection) = self.connections.of_client(conn, client) {
                connection.blocked.guess = false;
                resume_if_free(connection, conn, outputs);
            }
        }
    }

    /// Makes deliveries that were put off, and resumes those whose events are done with.
    fn give_what_was_put_off(&mut self, now: Now, outputs: &mut Outputs) {
        if self.delivery.put_off.is_empty() {
            return;
        }
        let now_ns = now.monotonic_ns;
        let (broker, outboxes) = (&mut self.broker, &mut self.outboxes);
        for conn in self.delivery.go_on(broker, outboxes, now_ns) {
            let waits = self.delivery.put_off.waits(Source::Conn(conn));
            if let Some(connection) = self.connections.get_mut(conn)
                && connection.blocked.deliveries
                && !waits
                && !self.outboxes.is_owed(conn)
            {
                connection.blocked.deliveries = false;
                resume_if_free(connection, conn, outputs);
            }
        }
    }

    /// Resumes the connections that wait for room at this peer.
    fn resume_stalled(&mut self, peer: ShardId, outputs: &mut Outputs) {
        for (conn, client) in std::mem::take(&mut self.stalled[peer.index()]) {
            // The connection may be gone, and its place may be another client's, which waits for something else.
            if let Some(connection) = self.connections.of_client(conn, client)
                && connection.blocked.room == Some(peer)
            {
                connection.blocked.room = None;
                resume_if_free(connection, conn, outputs);
            }
        }
    }
}

fn check_numbers(config: &Config, workers: u16) {
    assert!(
        config.shard.0 < config.shards,
        "a shard's number is below their count"
    );
    assert!(
        usize::from(config.shards) <= limits::SHARDS_MAX,
        "too many shards"
    );
    assert!(
        usize::from(workers) <= limits::WORKERS_MAX,
        "too many workers"
    );
}

/// A connection's session, and its context of disjoint parts of the shard.
fn split<'a>(
    shard: &'a mut Shard,
    connection: &'a mut Connection,
    conn: ConnId,
    now: Now,
) -> (&'a mut Session, Context<'a>) {
    let identity = connection.identity();
    let parts = Parts {
        conn,
        identity,
        now,
        settings: &shard.settings,
        blocked: &mut connection.blocked,
        broker: &mut shard.broker,
        outboxes: &mut shard.outboxes,
        mailboxes: &mut shard.mailboxes,
        interest: &mut shard.interest,
        links: &mut shard.links,
        tree: &mut shard.tree,
        delivery: &mut shard.delivery,
        calls: &mut shard.calls,
        guesses: &mut shard.guesses,
        has_waited: &mut connection.has_waited,
        counters: &mut shard.counters,
        scratch: &mut shard.scratch,
        published: &mut connection.published,
        calls_waiting: &mut connection.calls_waiting,
    };
    (&mut connection.session, Context::new(parts))
}

fn resume_if_free(connection: &Connection, conn: ConnId, outputs: &mut Outputs) {
    if !connection.blocked.any() && !connection.closing {
        outputs.resumed.push(conn);
    }
}
