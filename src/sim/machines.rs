//! Clients that are the client library's own machine, on connections that stall and are cut.
//!
//! The machine does all that a client decides; here is only its driver, which plays the network and
//! the program that uses the client. Each connection is a client of the node like the others, whose
//! orders the model reads from the bytes that the machine wrote, so that all checks hold for it too.
//! What is checked here is what the machine promises on top: how each publish ended, and that a
//! subscriber hears all that its connections brought, with a mark wherever something may be missing.
//! Start at [`World::drive`].

mod promises;

use crate::client::{Client, End, Link, Role};
use crate::command::{Event, NO_GROUP, Name, Order, PASSWORD, TOPICS};
use crate::native::{Request, Sub, kind_of};
use crate::reader::Value;
use crate::rng::Rng;
use crate::world::World;
use crate::{Failure, Sabotage, fail};
use bytes::BytesMut;
use promises::{Fate, Hearing};
use sapwood_client::config::{Config, Overflow};
use sapwood_client::error::Disconnect;
use sapwood_client::machine::{Action, Filter, Machine, Output, Token, Transmit};
use sapwood_core::Protocol;
use sapwood_core::command::Space;
use sapwood_wire::limits::NATIVE_FRAME_BYTES_MAX;
use sapwood_wire::native::{ClientFrame, Message, Parsed, Parts, kind, parse_from_client};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// What programs subscribe to, each at most once: topic or wildcard, and group.
const FILTERS: [(Name, Name); 10] = [
    (b"hot", NO_GROUP),
    (b"news.>", NO_GROUP),
    (b"a", NO_GROUP),
    (b"*", NO_GROUP),
    (b"hot", b"workers"),
    (b"news.*", NO_GROUP),
    (b"news.>", b"workers"),
    (b">", NO_GROUP),
    (b"hot", b"audit"),
    (b"quiet", NO_GROUP),
];

/// One connection of a machine.
#[derive(Debug)]
struct Connection {
    /// The client that it is to the node.
    key: usize,
    /// When the machine is told that it stands, or that it could not be made.
    due: u64,
    is_told: bool,
    /// Written bytes that make no whole frame yet.
    written: Vec<u8>,
    /// Which subscription a request is about.
    requests: BTreeMap<u32, usize>,
}

/// A machine, its driver's state, and what it has promised so far.
#[derive(Debug)]
pub(crate) struct Actor {
    machine: Machine,
    transmit: Transmit,
    input: BytesMut,
    connection: Option<Connection>,
    /// The network does nothing until this step.
    stalled_until: u64,
    hearings: Vec<Hearing>,
    fates: Vec<Fate>,
    /// Connections that ended after the broker had let the machine in, or might have.
    cuts: u64,
}

fn config(has_password: bool, rng: &mut Rng) -> Config {
    let policies = [
        None,
        Some(sapwood_client::Policy::Close),
        Some(sapwood_client::Policy::DropOldest),
        Some(sapwood_client::Policy::Latest),
    ];
    Config {
        addresses: vec!["first".to_string(), "second".to_string()],
        password: has_password.then(|| PASSWORD.to_vec()),
        policy: rng.pick(&policies),
        backoff_min: Duration::from_millis(2),
        backoff_max: Duration::from_millis(20),
        connect_timeout: Duration::from_millis(200),
        ping_interval: Duration::from_millis(rng.pick(&[40, 400])),
        ping_timeout: Duration::from_millis(400),
        answer_timeout: Duration::from_millis(rng.pick(&[300, 3_000])),
        window_bytes: rng.pick(&[5_000, 100_000, 4_000_000]),
        window_requests: rng.pick(&[3, 50, 8_192]),
        queue_bytes: rng.pick(&[2_000, 60_000, 1 << 20]),
        ..Config::default()
    }
}

impl Actor {
    pub(crate) fn new(has_password: bool, now: Duration, rng: &mut Rng) -> Actor {
        let seed = u128::from(rng.next());
        let machine = Machine::new(config(has_password, rng), seed, now);
        Actor {
            // invariant: the configuration above is legal.
            machine: machine.expect("a legal configuration"),
            transmit: Transmit::default(),
            input: BytesMut::new(),
            connection: None,
            stalled_until: 0,
            hearings: Vec::new(),
            fates: Vec::new(),
            cuts: 0,
        }
    }

    /// Whether it is connected and everything it was asked for has ended.
    fn is_settled(&self) -> bool {
        self.machine.is_connected()
            && !self.machine.has_transmit()
            && self.transmit.is_written()
            && self.fates.iter().all(Fate::is_known)
            && self.hearings.iter().all(Hearing::is_answered)
    }

    /// The program asks for something.
    fn ask(&mut self, number: usize, now: Duration, rng: &mut Rng) {
        match rng.below(100) {
            0..12 if self.hearings.len() < FILTERS.len() => {
                let (name, group) = FILTERS[self.hearings.len()];
                let token = Token(self.fates.len() as u64);
                let filter = Filter {
                    filter: name,
                    group,
                    queue_bytes: None,
                    overflow: Overflow::Wait,
                };
                if let Ok(id) = self.machine.subscribe(now, token, &filter) {
                    self.hearings.push(Hearing::new(id, name, group));
                    let place = self.hearings.len() - 1;
                    self.fates.push(Fate::of_subscription(place));
                }
            }
            12..16 if !self.hearings.is_empty() => {
                let place = rng.below(self.hearings.len());
                self.end_hearing(place);
            }
            16..25 => {
                let token = Token(self.fates.len() as u64);
                if self.machine.ping(now, token).is_ok() {
                    self.fates.push(Fate::of_ping());
                }
            }
            _ => self.publish(number, now, rng),
        }
    }

    fn end_hearing(&mut self, place: usize) {
        self.machine.unsubscribe(self.hearings[place].id);
        self.hearings[place].end();
    }

    fn publish(&mut self, number: usize, now: Duration, rng: &mut Rng) {
        let mut payload = format!("machine {number}, {}:", self.fates.len()).into_bytes();
        let size = rng.pick(&[30, 30, 200, 3_000, 20_000]);
        payload.resize(size.max(payload.len()), b'm');
        let reply: Option<&[u8]> = rng.percent(20).then_some(b"r.1");
        let parts = Parts {
            topic: rng.pick(TOPICS),
            reply,
            is_end: rng.percent(10),
            payload: &payload,
            ..Parts::default()
        };
        let token = Token(self.fates.len() as u64);
        if rng.percent(50) {
            if self.machine.publish_confirmed(now, token, &parts).is_ok() {
                self.fates.push(Fate::of_publish(payload));
            }
        } else if self.machine.publish(&parts).is_ok() {
            self.fates.push(Fate::of_message(payload));
        }
    }

    /// Takes what the machine tells and what its subscriptions hold; the program reads on only now
    /// and then, unless all is to come to rest.
    fn listen(&mut self, reads: &mut dyn FnMut() -> bool) -> Result<(), Failure> {
        while let Some(output) = self.machine.poll_output() {
            if let Output::Completed { token, outcome } = output {
                let fate = &mut self.fates[token.0 as usize];
                fate.end(outcome)?;
                if let Some(place) = fate.failed_subscription() {
                    self.end_hearing(place);
                }
            }
        }
        for hearing in &mut self.hearings {
            // Ends because what is queued is bounded, and nothing is added meanwhile.
            while reads() && hearing.take(&mut self.machine)? {}
        }
        Ok(())
    }
}

/// A name of the workload, for the model to keep.
fn known(name: &[u8]) -> Name {
    let mut names = TOPICS.iter().chain(FILTERS.iter().map(|(name, _)| name));
    // invariant: machines use these names alone.
    names.find(|known| **known == name).expect("a known name")
}

fn known_group(name: &[u8]) -> Name {
    let mut groups = FILTERS.iter().map(|&(_, group)| group);
    // invariant: machines use these groups alone.
    groups.find(|known| *known == name).expect("a known group")
}

fn event_of(message: &Message<'_>) -> Rc<Event> {
    Rc::new(Event {
        space: Space::Topic,
        topic: known(message.topic),
        flags: message.flags,
        attributes: message.attributes.to_vec(),
        payload: message.payload.to_vec(),
    })
}

/// What the model must know of a frame that a machine wrote.
fn request_of(frame: &ClientFrame<'_>) -> Request {
    let sub = |subscription: &sapwood_wire::native::Subscription<'_>| {
        let name = known(subscription.filter);
        Sub {
            number: subscription.member,
            filter: (kind_of(name), name, known_group(subscription.group)),
        }
    };
    match *frame {
        ClientFrame::Hello(hello) => Request::Hello {
            policy: hello.policy,
        },
        ClientFrame::Message(ref message) => Request::Message(event_of(message)),
        ClientFrame::Publish {
            request,
            when,
            ref message,
        } => Request::Publish {
            request,
            when,
            event: event_of(message),
        },
        ClientFrame::Subscribe {
            request,
            ref subscription,
        } => Request::Subscribe {
            request,
            sub: sub(subscription),
        },
        ClientFrame::Unsubscribe {
            request,
            ref subscription,
        } => Request::Unsubscribe {
            request,
            sub: sub(subscription),
        },
        ClientFrame::Ping { request } => Request::Ping { request },
        ClientFrame::Drain { request } => Request::Drain { request },
        ClientFrame::PublishStored { .. } | ClientFrame::Call { .. } => {
            unreachable!("no machine here asks a stream")
        }
    }
}

impl World {
    fn clock(&self) -> Duration {
        Duration::from_nanos(self.now.monotonic_ns)
    }

    /// The program and the network of a machine do something.
    pub(crate) fn play_machine(&mut self, number: usize) -> Result<(), Failure> {
        let now = self.clock();
        for _ in 0..self.rng.below(4) {
            self.machines[number].ask(number, now, &mut self.rng);
        }
        match self.rng.below(400) {
            0..3 => self.cut_machine(number, End::Aborted),
            3..5 => self.cut_machine(number, End::Finished),
            5..9 => {
                let steps = self.rng.within(10..300) as u64;
                self.machines[number].stalled_until = self.step + steps;
            }
            _ => {}
        }
        self.drive(number)
    }

    /// One round of a machine's driver.
    pub(crate) fn drive(&mut self, number: usize) -> Result<(), Failure> {
        let now = self.clock();
        self.machines[number].machine.handle_time(now);
        match self.machines[number].machine.poll_action() {
            Some(Action::Connect { .. }) => self.begin_connection(number),
            Some(Action::Disconnect) => self.cut_machine(number, End::Finished),
            None => {}
        }
        if self.machines[number].stalled_until <= self.step || self.drains {
            self.advance_connection(number);
            self.write_machine(number)?;
            self.read_machine(number)?;
        }
        let (drains, rng) = (self.drains, &mut self.rng);
        self.machines[number].listen(&mut || drains || rng.percent(60))
    }

    fn begin_connection(&mut self, number: usize) {
        let shard = self.rng.below(self.nodes.len());
        let key = self.clients.len();
        let mut client = Client::new(&mut self.rng);
        client.role = Role::Driven;
        client.protocol = Protocol::Native;
        client.silent = true;
        client.link = match self.drains {
            true => Link::wide(),
            false => client.link,
        };
        self.clients.push(client);
        self.cut.push(false);
        self.nodes[shard].accepting.push_back(key);
        self.machines[number].connection = Some(Connection {
            key,
            due: self.step + self.rng.below(20) as u64,
            is_told: false,
            written: Vec::new(),
            requests: BTreeMap::new(),
        });
        self.coverage.hit("machine connects");
    }

    /// Tells the machine that its connection stands, or has ended.
    fn advance_connection(&mut self, number: usize) {
        let Some(connection) = &mut self.machines[number].connection else {
            return;
        };
        let client = &self.clients[connection.key];
        if client.link.closed && client.link.down.is_empty() {
            return self.cut_machine(number, End::Aborted);
        }
        if connection.is_told || connection.due > self.step || !client.accepted {
            return;
        }
        if !self.drains && self.rng.percent(10) {
            return self.cut_machine(number, End::Aborted);
        }
        connection.is_told = true;
        let now = self.clock();
        self.machines[number].machine.handle_connected(now);
    }

    /// Ends a machine's connection, whoever wants that.
    fn cut_machine(&mut self, number: usize, end: End) {
        let now = self.clock();
        let actor = &mut self.machines[number];
        let Some(connection) = actor.connection.take() else {
            return;
        };
        self.clients[connection.key].link.end = end;
        actor.cuts += 1;
        actor.input.clear();
        actor
            .machine
            .handle_disconnected(now, &mut actor.transmit, Disconnect::ClosedByBroker);
        self.coverage.hit("machine cut");
    }

    fn write_machine(&mut self, number: usize) -> Result<(), Failure> {
        loop {
            let actor = &mut self.machines[number];
            let Some(connection) = actor.connection.as_mut().filter(|there| there.is_told) else {
                return Ok(());
            };
            if !actor.machine.poll_transmit(&mut actor.transmit) {
                return Ok(());
            }
            let link = &mut self.clients[connection.key].link;
            let room = link.up_max.saturating_sub(link.up.len());
            let most = match self.drains {
                true => usize::MAX,
                false => self.rng.pick(&[7, 500, 100_000]),
            };
            let bytes = actor.transmit.bytes();
            let count = bytes.len().min(room).min(most);
            link.up.extend(&bytes[..count]);
            connection.written.extend_from_slice(&bytes[..count]);
            let is_publish = count == bytes.len()
                && matches!(bytes.get(4), Some(&(kind::PUBLISH | kind::MESSAGE)));
            self.note_written(number);
            if is_publish && self.sabotage(Sabotage::WriteAgain) {
                self.cut_machine(number, End::Finished);
                return Ok(());
            }
            let actor = &mut self.machines[number];
            actor.transmit.advance(count);
            if count == 0 || !self.machines[number].transmit.is_written() {
                return Ok(());
            }
        }
    }

    /// Tells the model of the frames that were written whole.
    fn note_written(&mut self, number: usize) {
        loop {
            let actor = &mut self.machines[number];
            let Some(connection) = &mut actor.connection else {
                return;
            };
            let parsed = parse_from_client(&connection.written, NATIVE_FRAME_BYTES_MAX);
            let Ok(Parsed::Frame { frame, length }) = parsed else {
                return;
            };
            let request = request_of(&frame);
            if let Request::Subscribe { request, sub } = &request {
                let mut hearings = actor.hearings.iter_mut().enumerate();
                let found = hearings.find(|(_, hearing)| hearing.is_for(sub));
                if let Some((place, hearing)) = found {
                    hearing.member = sub.number;
                    connection.requests.insert(*request, place);
                }
            }
            connection.written.drain(..length);
            let key = connection.key;
            self.model.watched.insert(key);
            self.clients[key].said += length as u64;
            let end = self.clients[key].said;
            self.model.sent(key, end, Order::Native(request));
        }
    }

    fn read_machine(&mut self, number: usize) -> Result<(), Failure> {
        let most = match self.drains {
            true => usize::MAX,
            false => self.rng.pick(&[1, 100, 5_000, 100_000]),
        };
        let actor = &self.machines[number];
        let Some(connection) = actor.connection.as_ref().filter(|there| there.is_told) else {
            return Ok(());
        };
        if !actor.machine.wants_read() {
            self.coverage.hit("machine holds back reading");
            return Ok(());
        }
        let key = connection.key;
        let client = &mut self.clients[key];
        let count = most.min(client.link.down.len());
        if count == 0 {
            return Ok(());
        }
        let mut bytes: Vec<u8> = client.link.down.drain(..count).collect();
        let is_between = !client.reader.is_inside();
        client.reader.take_in(&bytes);
        self.frames_read.clear();
        self.check_read(key)?;
        let frames = std::mem::take(&mut self.frames_read);
        let hides = is_between
            && matches!(
                frames.first(),
                Some(Value::Frame(crate::reader::Frame::Message(_)))
            )
            && self.sabotage(Sabotage::HideEvent);
        if hides {
            let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            bytes.drain(..4 + length as usize);
        }
        let now = self.clock();
        let actor = &mut self.machines[number];
        if let Some(connection) = &actor.connection {
            for frame in &frames {
                if let Value::Frame(frame) = frame {
                    promises::expect(&mut actor.hearings, &connection.requests, frame);
                }
            }
        }
        actor.input.extend_from_slice(&bytes);
        actor.machine.handle_bytes(now, &mut actor.input);
        Ok(())
    }

    /// Whether all machines are connected and have nothing left to do.
    pub(crate) fn machines_are_still(&self) -> bool {
        self.machines.iter().all(Actor::is_settled)
    }

    /// At rest every machine is connected, its subscriptions stand, and every promise was kept.
    pub(crate) fn check_machines(&mut self) -> Result<(), Failure> {
        for (number, actor) in self.machines.iter_mut().enumerate() {
            let Some(connection) = &actor.connection else {
                return fail("machine", format!("machine {number} is not connected"));
            };
            for hearing in &mut actor.hearings {
                hearing.finish(number)?;
            }
            let hearings = actor
                .hearings
                .iter()
                .filter(|hearing| hearing.is_standing());
            let wanted = hearings.map(|hearing| (hearing.filter(), hearing.member));
            self.model
                .check_subscriptions(connection.key, wanted.collect())?;
            let statistics = actor.machine.statistics();
            let reached =
                |payload: &[u8]| self.model.reached.get(payload).copied().unwrap_or_default();
            let lost = promises::check_fates(number, &actor.fates, actor.cuts, &reached)?;
            if lost > statistics.unconfirmed_publishes {
                let text = format!("machine {number} lost {lost} publishes, {statistics:?}");
                return fail("machine", text);
            }
            self.coverage.count("machine publishes unconfirmed", lost);
            let doubtful = actor.fates.iter().filter(|fate| fate.is_doubtful()).count();
            self.coverage.count("machine in doubt", doubtful as u64);
            let heard = actor
                .hearings
                .iter()
                .map(|hearing| hearing.reconnected)
                .sum();
            self.coverage
                .count("machine told of a new connection", heard);
        }
        Ok(())
    }
}
