//! The whole simulated node: shards, clients, clock, and the order in which they act.
//!
//! Owns everything; `driver` drives a shard, `check` compares. A history has three parts: the
//! workload, the drain (faults are lifted, all must come to rest) and the end (everybody leaves,
//! nothing may be left). Start at [`World::play`].

use crate::client::{Client, End, Reading, Role, Said};
use crate::command::PASSWORD;
use crate::coverage::Coverage;
use crate::driver::Node;
use crate::machines::Actor;
use crate::model::Model;
use crate::reader::Value;
use crate::rng::{Rng, Trace};
use crate::{Failure, Options, Report, Sabotage, fail};
use sapwood_core::command::{Now, ShardId};
use sapwood_core::limits::Limits;
use sapwood_core::{BodyGauge, Config, PAYLOAD_BYTES_MAX, Protocol, Shard};
use std::collections::BTreeMap;
use std::time::Duration;

/// Turns of all shards within which a node without faults must come to rest.
const DRAIN_ROUNDS_MAX: u64 = 20_000;

/// All there is.
#[derive(Debug)]
pub(crate) struct World {
    options: Options,
    pub rng: Rng,
    pub now: Now,
    pub step: u64,
    pub nodes: Vec<Node>,
    pub clients: Vec<Client>,
    /// By client: output was given up, so that what it read may end anywhere.
    pub cut: Vec<bool>,
    pub model: Model,
    pub limits: Limits,
    pub coverage: Coverage,
    pub trace: Trace,
    pub has_password: bool,
    /// What CLIENT LIST says of losses must be exact now.
    pub audits: bool,
    /// Turns of the fair group, by client and member.
    pub fair_turns: BTreeMap<(usize, u32), usize>,
    pub machines: Vec<Actor>,
    /// What a native client has just read.
    pub frames_read: Vec<Value>,
    clients_max: usize,
    /// How late batches arrive, by sender and receiver, in steps.
    delays: Vec<Vec<usize>>,
    pub drains: bool,
    sabotaged: bool,
}

/// A crowd has room for so much that writes are due in the middle of an input.
fn choose_limits(is_crowd: bool, rng: &mut Rng) -> Limits {
    if is_crowd {
        return Limits {
            connections_max: 64,
            handover_window_bytes: 1 << 20,
            handover_backlog_bytes: 1 << 20,
            ..Limits::default()
        };
    }
    Limits {
        connections_max: rng.pick(&[4, 12, 64, 64, 64]),
        outbox_bytes_max: rng.pick(&[8_000, 60_000, 200_000, 2_000_000]),
        outboxes_bytes_max: rng.pick(&[150_000, 600_000, 1 << 30, 1 << 30]),
        inputs_bytes_max: rng.pick(&[60_000, 300_000, 1 << 28, 1 << 28]),
        subscriptions_max: rng.pick(&[3, 100, 100]),
        handover_window_bytes: rng.pick(&[4_096, 12_000, 100_000, 1 << 20]),
        handover_backlog_bytes: rng.pick(&[300, 5_000, 60_000, 1 << 20]),
        transaction_bytes_max: rng.pick(&[1_000, 50_000, 1 << 20]),
        guest_ms_max: rng.pick(&[40, 400]),
        ..Limits::default()
    }
}

impl World {
    pub(crate) fn new(options: Options) -> World {
        let mut rng = Rng::new(options.seed);
        let chosen = rng.within(1..9) as u16;
        let shards = options.shards.unwrap_or(chosen);
        let is_crowd = rng.percent(10);
        let limits = choose_limits(is_crowd, &mut rng);
        let has_password = rng.percent(25);
        let gauge = BodyGauge::default();
        let make = |shard| Config {
            shard: ShardId(shard),
            shards,
            user: None,
            password: has_password.then(|| PASSWORD.to_vec()),
            nats_payload_max: PAYLOAD_BYTES_MAX,
            web: Default::default(),
            may_broadcast: true,
            tree: None,
            vitals: Default::default(),
            limits: limits.clone(),
            hash_seed: options.hash_seed,
            capacity: Default::default(),
            body_gauge: gauge.clone(),
            run_id: "0".repeat(40),
            process_id: 1,
            started_wall_ms: 0,
        };
        let count = usize::from(shards);
        let nodes = (0..shards).map(|shard| Node::new(Shard::new(make(shard)), count));
        let nodes = nodes.collect();
        let clients_max = match is_crowd {
            true => 50 * count.min(2),
            false => rng.pick(&[3, 8, 20, 30]) * count.min(4) + 2,
        };
        let slowest = rng.pick(&[1, 20, 150]);
        let delays = (0..count).map(|_| (0..count).map(|_| rng.within(0..slowest)).collect());
        let delays = delays.collect();
        // Where there is always a place for them, since they must all come through in the end.
        let machines = match is_crowd || limits.connections_max < 64 {
            true => 0,
            false => rng.pick(&[0, 0, 1, 2, 4]),
        };
        let machines = (0..machines).map(|_| Actor::new(has_password, Duration::ZERO, &mut rng));
        let machines = machines.collect();
        World {
            options,
            now: Now::default(),
            step: 0,
            nodes,
            clients: Vec::new(),
            cut: Vec::new(),
            model: Model::new(count, limits.clone(), has_password),
            limits,
            coverage: Coverage::default(),
            trace: Trace::default(),
            has_password,
            audits: false,
            fair_turns: BTreeMap::new(),
            machines,
            frames_read: Vec::new(),
            clients_max,
            delays,
            drains: false,
            sabotaged: false,
            rng,
        }
    }

    pub(crate) fn steps(&self) -> u64 {
        self.step
    }

    pub(crate) fn report(&self) -> Report {
        Report {
            trace: self.trace.0,
            coverage: self.coverage.clone(),
            steps: self.step,
        }
    }

    /// Plays the history through.
    pub(crate) fn play(&mut self) -> Result<(), Failure> {
        for _ in 0..self.options.steps {
            self.work()?;
        }
        self.drain()?;
        self.check_rest()?;
        self.check_machines()?;
        self.play_finale()?;
        self.check_machines()?;
        self.machines.clear();
        for client in &mut self.clients {
            client.link.end = End::Finished;
        }
        for _ in 0..2_000 {
            if self
                .nodes
                .iter()
                .all(|node| node.sockets.iter().all(Option::is_none))
            {
                break;
            }
            self.pass_time(1_000_000);
            self.all_turn()?;
        }
        self.drain()?;
        self.check_emptiness()
    }

    fn pass_time(&mut self, ns: u64) {
        self.step += 1;
        self.now.monotonic_ns += ns;
        self.model.now_ns = self.now.monotonic_ns;
        self.now.wall_ms = 1_700_000_000_000 + self.now.monotonic_ns / 1_000_000;
    }

    fn work(&mut self) -> Result<(), Failure> {
        let ns = self.rng.below(2_000_000) as u64;
        self.pass_time(ns);
        let alive = self
            .clients
            .iter()
            .filter(|client| !client.link.closed && client.link.end == End::Open);
        if alive.count() < self.clients_max && self.rng.percent(30) {
            self.connect();
        }
        for _ in 0..self.rng.within(1..6) {
            if !self.clients.is_empty() {
                let key = self.rng.below(self.clients.len());
                self.act(key)?;
            }
        }
        for number in 0..self.machines.len() {
            if self.rng.percent(30) {
                self.play_machine(number)?;
            }
        }
        let shard = self.rng.below(self.nodes.len());
        if self.rng.below(2_000) == 0 {
            self.announce_end(shard)?;
        }
        self.turn(shard)
    }

    fn connect(&mut self) {
        let shard = self.rng.below(self.nodes.len());
        let key = self.clients.len();
        self.clients.push(Client::new(&mut self.rng));
        self.cut.push(false);
        self.nodes[shard].accepting.push_back(key);
    }

    /// A client does something: says, reads, changes its habits or goes.
    fn act(&mut self, key: usize) -> Result<(), Failure> {
        if self.clients[key].role == Role::Driven {
            return Ok(());
        }
        let roll = self.rng.below(1000);
        match roll {
            0..4 => self.vanish(key),
            4..10 => {
                let until = self.step + self.rng.within(50..600) as u64;
                self.clients[key].reading = Reading::Not(until);
            }
            10..20 => self.clients[key].reading = Reading::Promptly,
            _ => {}
        }
        let count = match self.clients[key].role {
            Role::Flooder => self.rng.within(1..40),
            _ => self.rng.within(0..6),
        };
        for _ in 0..count {
            self.speak(key);
        }
        self.push_up(key);
        self.read(key)
    }

    fn speak(&mut self, key: usize) {
        let others = self.clients.len();
        let client = &mut self.clients[key];
        if !client.may_speak() {
            return;
        }
        let said = client.speak(key, self.has_password, others, &mut self.rng);
        self.say(key, said);
    }

    /// A client says something.
    pub(crate) fn say(&mut self, key: usize, said: Said) {
        let client = &mut self.clients[key];
        match said {
            Said::Nothing => {}
            Said::Garbage(bytes, code) => {
                client.outgoing.extend(bytes);
                self.model.conn(key).garbage = Some(code);
            }
            Said::Order(order, bytes) => {
                client.said += bytes.len() as u64;
                client.outgoing.extend(bytes);
                self.model.sent(key, self.clients[key].said, order);
            }
        }
    }

    /// Most native clients say HELLO at once; the others when they come to it.
    pub(crate) fn greet(&mut self, key: usize) {
        let client = &mut self.clients[key];
        let speaks = !matches!(client.role, Role::Guest | Role::Driven);
        let is_prompt = speaks && (self.drains || self.rng.percent(85));
        if client.protocol == Protocol::Native && is_prompt {
            let said = client.native.greet(self.has_password, &mut self.rng);
            self.say(key, said);
            self.push_up(key);
        }
    }

    /// Ends a client's connection, often inside a command.
    fn vanish(&mut self, key: usize) {
        let others = self.clients.len();
        let client = &mut self.clients[key];
        if client.may_speak() {
            let said = client.speak(key, self.has_password, others, &mut self.rng);
            if let Said::Order(_, bytes) = said {
                // Not all of it, so that it can never be carried out.
                let part = self.rng.below(bytes.len());
                client.outgoing.extend(&bytes[..part]);
                self.coverage.hit("half commands");
            }
        }
        client.silent = true;
        let end = self.rng.pick(&[End::Finished, End::Aborted]);
        self.push_up(key);
        self.clients[key].link.end = end;
    }

    /// Puts bytes into the client's socket, as many as go in.
    fn push_up(&mut self, key: usize) {
        let piece = match self.drains {
            true => usize::MAX,
            false => self.rng.pick(&[1, 30, 1_000, 100_000, 2_000_000]),
        };
        let client = &mut self.clients[key];
        if client.link.end != End::Open {
            return;
        }
        let room = client.link.up_max.saturating_sub(client.link.up.len());
        let count = room.min(piece).min(client.outgoing.len());
        client.link.up.extend(client.outgoing.drain(..count));
    }

    fn read(&mut self, key: usize) -> Result<(), Failure> {
        let client = &mut self.clients[key];
        let most = match client.reading {
            _ if client.link.end != End::Open || client.role == Role::Driven => 0,
            Reading::Promptly => usize::MAX,
            Reading::Slowly(most) => most,
            Reading::Not(until) if until > self.step => 0,
            Reading::Not(_) => usize::MAX,
        };
        let count = most.min(client.link.down.len());
        if count == 0 {
            return Ok(());
        }
        let bytes: Vec<u8> = client.link.down.drain(..count).collect();
        client.reader.take_in(&bytes);
        self.check_read(key)
    }

    fn all_turn(&mut self) -> Result<(), Failure> {
        for shard in 0..self.nodes.len() {
            self.turn(shard)?;
        }
        Ok(())
    }

    /// Lifts all faults and waits until nothing moves any more.
    pub(crate) fn drain(&mut self) -> Result<(), Failure> {
        self.drains = true;
        for row in &mut self.delays {
            row.iter_mut().for_each(|delay| *delay = (*delay).min(3));
        }
        for client in &mut self.clients {
            client.reading = Reading::Promptly;
            client.silent = true;
            client.link.up_max = usize::MAX;
            client.link.down_max = usize::MAX;
        }
        let mut still = 0;
        for _ in 0..DRAIN_ROUNDS_MAX {
            self.pass_time(100_000);
            for key in 0..self.clients.len() {
                self.push_up(key);
                self.read(key)?;
            }
            for number in 0..self.machines.len() {
                self.drive(number)?;
            }
            self.all_turn()?;
            still = if self.is_still() { still + 1 } else { 0 };
            // Some rounds more, because a turn reads from a connection only now and then.
            if still > 20 {
                return Ok(());
            }
        }
        fail("deadlock", self.what_moves())
    }

    fn is_still(&self) -> bool {
        let nodes = self.nodes.iter().all(|node| {
            node.inbox.iter().all(|queue| queue.is_empty())
                && node.returns.iter().all(|queue| queue.is_empty())
                && node.unfinished.is_none()
                && node.accepting.is_empty()
                && node.core().is_settled()
                && node.sockets.iter().flatten().all(|socket| !socket.held)
        });
        let unread = |client: &Client| {
            client.link.end == End::Open
                && (!client.link.down.is_empty()
                    || (!client.link.closed && !client.link.up.is_empty()))
        };
        nodes
            && self.machines_are_still()
            && !self.clients.iter().any(unread)
            && self.open_output().is_none()
    }

    /// A connection that has output nobody takes.
    fn open_output(&self) -> Option<usize> {
        self.nodes.iter().find_map(|node| {
            let mut sockets = node.sockets.iter().enumerate();
            sockets.find_map(|(slot, socket)| {
                let socket = socket.as_ref()?;
                let conn = sapwood_core::command::ConnId(slot as u32);
                node.core().has_output(conn).then_some(socket.client)
            })
        })
    }

    fn what_moves(&self) -> String {
        let mut text = format!("not at rest after {DRAIN_ROUNDS_MAX} rounds;");
        if let Some(client) = self.open_output() {
            text.push_str(&format!(" client {client} has output;"));
        }
        for (shard, node) in self.nodes.iter().enumerate() {
            if !node.core().is_settled() {
                text.push_str(&format!(" shard {shard} is not settled;"));
            }
            for socket in node.sockets.iter().flatten().filter(|socket| socket.held) {
                text.push_str(&format!(
                    " client {} of shard {shard} is held;",
                    socket.client
                ));
            }
        }
        text
    }

    /// When a batch that leaves now arrives.
    pub(crate) fn due(&mut self, from: usize, to: usize) -> u64 {
        self.step + self.rng.below(self.delays[from][to] + 1) as u64
    }

    /// Whether the driver breaks this rule now. Only once in a history, or checks that need what
    /// follows would not get to see it.
    pub(crate) fn sabotage(&mut self, kind: Sabotage) -> bool {
        let now = self.options.sabotage == Some(kind)
            && !self.sabotaged
            && !self.drains
            && self.step > 300
            && self.rng.percent(30);
        self.sabotaged |= now;
        now
    }

    /// Whether the driver breaks this rule from now on.
    pub(crate) fn sabotage_for_good(&mut self, kind: Sabotage) -> bool {
        self.options.sabotage == Some(kind) && self.step > 300
    }
}
