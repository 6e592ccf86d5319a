//! Simulated clients: what they say next, how they read, and the sockets between.
//!
//! A client does not wait for replies unless its socket is full: it pipelines, stalls, reads a
//! little at a time or vanishes. Must not know shards or the model.

use crate::command::{
    Command, Event, GARBAGE, GLOBS, KillForm, Name, Order, SHARD_CHANNELS, TOPICS,
};
use crate::native::{Speaker, may_be_turn};
use crate::reader::Reader;
use crate::rng::Rng;
use sapwood_core::command::{FilterKind, Space};
use sapwood_core::{Policy, Protocol};
use sapwood_wire::error::ErrorCode;
use std::collections::VecDeque;
use std::rc::Rc;

/// What a client mostly does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Subscriber,
    Publisher,
    /// Publishes long runs of large events.
    Flooder,
    /// A bit of everything.
    Mixed,
    /// Asks about and kills others.
    Admin,
    /// Never gets past the password, if there is one.
    Guest,
    /// Says what a machine of the client library writes.
    Driven,
}

/// How a client takes what is sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Promptly,
    /// At most so many bytes at a time.
    Slowly(usize),
    /// Not at all until this step.
    Not(u64),
}

/// How the client's end of the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Open,
    /// It sends nothing more and reads nothing more; what it sent can be read.
    Finished,
    /// It is gone, and with it all that was under way.
    Aborted,
}

/// A socket with its two buffers.
#[derive(Debug)]
pub(crate) struct Link {
    /// From the client.
    pub up: VecDeque<u8>,
    pub up_max: usize,
    /// To the client.
    pub down: VecDeque<u8>,
    pub down_max: usize,
    pub end: End,
    /// The broker has closed it.
    pub closed: bool,
}

impl Link {
    /// Takes whatever comes.
    pub(crate) fn wide() -> Link {
        Link {
            up: VecDeque::new(),
            up_max: usize::MAX,
            down: VecDeque::new(),
            down_max: usize::MAX,
            end: End::Open,
            closed: false,
        }
    }
}

/// One client of the simulation.
#[derive(Debug)]
pub(crate) struct Client {
    pub protocol: Protocol,
    /// What its listener does with those who read too slowly.
    pub policy: Policy,
    pub role: Role,
    pub reading: Reading,
    pub link: Link,
    pub reader: Reader,
    /// Bytes that do not stand in the socket yet.
    pub outgoing: VecDeque<u8>,
    /// All bytes it said.
    pub said: u64,
    pub accepted: bool,
    /// It says nothing more.
    pub silent: bool,
    /// Elements of an EXEC's reply that are still to be read.
    pub exec_left: usize,
    pub published: u64,
    pub native: Speaker,
    authenticated: bool,
    resp3: bool,
    queueing: bool,
}

/// What a client says: an order, or bytes that are none and close the connection. Natively a code
/// says why.
pub(crate) enum Said {
    Order(Order, Vec<u8>),
    Garbage(Vec<u8>, ErrorCode),
    Nothing,
}

impl Client {
    pub(crate) fn new(rng: &mut Rng) -> Client {
        let role = match rng.below(100) {
            0..40 => Role::Subscriber,
            40..60 => Role::Publisher,
            60..66 => Role::Flooder,
            66..88 => Role::Mixed,
            88..95 => Role::Admin,
            _ => Role::Guest,
        };
        let reading = match rng.below(100) {
            0..70 => Reading::Promptly,
            70..85 => Reading::Slowly(rng.pick(&[1, 20, 500, 4000])),
            _ => Reading::Not(0),
        };
        let protocol = rng.pick(&[Protocol::Redis, Protocol::Native]);
        let policy = match rng.below(100) {
            0..70 => Policy::Close,
            70..85 => Policy::DropOldest,
            _ => Policy::Latest,
        };
        Client {
            protocol,
            policy,
            role,
            reading,
            link: Link {
                up_max: rng.pick(&[200, 8_000, 64_000, 2_000_000]),
                down_max: rng.pick(&[50, 1_000, 20_000, 200_000]),
                ..Link::wide()
            },
            reader: Reader::default(),
            outgoing: VecDeque::new(),
            said: 0,
            accepted: false,
            silent: false,
            exec_left: 0,
            published: 0,
            native: Speaker::default(),
            authenticated: false,
            resp3: false,
            queueing: false,
        }
    }

    /// Whether it may say something more now.
    pub(crate) fn may_speak(&self) -> bool {
        self.accepted
            && !self.silent
            && self.link.end == End::Open
            && !self.link.closed
            && self.outgoing.len() < 100_000
    }

    /// Chooses what to say next; `others` is how many clients there have been.
    pub(crate) fn speak(
        &mut self,
        key: usize,
        has_password: bool,
        others: usize,
        rng: &mut Rng,
    ) -> Said {
        if self.protocol == Protocol::Native {
            let numbering = (key, &mut self.published);
            let said = self.native.speak(numbering, self.role, has_password, rng);
            self.silent |= matches!(said, Said::Garbage(..));
            return said;
        }
        if rng.below(1000) < 2 {
            self.silent = true;
            return Said::Garbage(rng.pick(GARBAGE).to_vec(), ErrorCode::Malformed);
        }
        let command = if self.role == Role::Guest && has_password {
            match rng.below(20) {
                0 => Command::Auth(false),
                1 => Command::Ping(None),
                _ => return Said::Nothing,
            }
        } else if has_password && !self.authenticated {
            self.log_in(rng)
        } else if self.queueing {
            self.choose_queued(key, others, rng)
        } else {
            self.choose(key, others, rng)
        };
        self.note(&command, has_password);
        let bytes = command.encode(rng.percent(20));
        Said::Order(Order::Redis(command), bytes)
    }

    fn log_in(&mut self, rng: &mut Rng) -> Command {
        match rng.below(10) {
            0..5 => Command::Auth(true),
            5 => Command::Hello(2, true),
            6..9 => Command::Hello(3, true),
            _ => Command::Auth(false),
        }
    }

    /// Keeps in mind what the command will do to this client.
    fn note(&mut self, command: &Command, has_password: bool) {
        match command {
            Command::Auth(true) | Command::Hello(_, true) => self.authenticated = true,
            Command::Reset => {
                self.authenticated = !has_password;
                self.resp3 = false;
                self.queueing = false;
            }
            Command::Multi => self.queueing = true,
            Command::Exec | Command::Discard => self.queueing = false,
            Command::Quit => self.silent = true,
            _ => {}
        }
        if let Command::Hello(version, _) = command {
            self.resp3 = *version == 3;
        }
    }

    fn choose(&mut self, key: usize, others: usize, rng: &mut Rng) -> Command {
        let publishes = match self.role {
            Role::Publisher => 85,
            Role::Flooder => 95,
            Role::Mixed => 40,
            _ => 3,
        };
        let subscribes = match self.role {
            Role::Subscriber => 70,
            Role::Mixed => 25,
            _ => 2,
        };
        let roll = rng.below(100);
        if roll < publishes {
            return self.publish(key, rng);
        }
        if roll < publishes + subscribes {
            return subscription(rng);
        }
        match rng.below(100) {
            0..12 => Command::Multi,
            12 => Command::Exec,
            13 => Command::Discard,
            14..30 => Command::Ping(rng.percent(50).then(|| b"are you there".to_vec())),
            30..36 => Command::Hello(rng.pick(&[2, 3, 3]), false),
            36..38 => Command::Reset,
            38..39 => Command::Quit,
            39..41 => Command::Unknown,
            41..43 => Command::WrongArity,
            _ => self.ask(key, others, rng),
        }
    }

    fn choose_queued(&mut self, key: usize, others: usize, rng: &mut Rng) -> Command {
        match rng.below(100) {
            0..22 => Command::Exec,
            22..24 => Command::Discard,
            24..25 => Command::Multi,
            25..26 => Command::Unknown,
            26..27 => Command::Reset,
            27..60 => self.publish(key, rng),
            60..75 => match subscription(rng) {
                // Refused inside EXEC, as Redis does; the differential test sees to that.
                Command::Subscribe(FilterKind::ShardChannel, _) => Command::Ping(None),
                other => other,
            },
            75..78 => Command::Hello(rng.pick(&[2, 3]), false),
            _ => self.ask(key, others, rng),
        }
    }

    fn ask(&mut self, key: usize, others: usize, rng: &mut Rng) -> Command {
        let kind = rng.pick(&[FilterKind::Topic, FilterKind::ShardChannel]);
        let names = match kind {
            FilterKind::ShardChannel => SHARD_CHANNELS,
            _ => TOPICS,
        };
        match rng.below(100) {
            0..10 => Command::ClientList,
            10..18 => Command::ClientId,
            18..40 => Command::Numsub(kind, some(names, 0, rng)),
            40..55 => Command::Channels(kind, rng.percent(50).then(|| rng.pick(GLOBS))),
            55..65 => Command::Numpat,
            65..85 => Command::Echo(vec![b'e'; rng.pick(&[0, 5, 900])]),
            85..88 if self.role == Role::Admin => {
                let form = rng.pick(&[KillForm::Id, KillForm::IdOrMe, KillForm::Address]);
                let target = if rng.percent(15) {
                    key
                } else {
                    rng.below(others)
                };
                Command::Kill(form, target)
            }
            _ => Command::Ping(None),
        }
    }

    fn publish(&mut self, key: usize, rng: &mut Rng) -> Command {
        self.published += 1;
        let mut payload = payload((key, self.published), self.role, rng);
        let space = match rng.percent(15) {
            true => Space::ShardChannel,
            false => Space::Topic,
        };
        let topic = match space {
            Space::ShardChannel => rng.pick(SHARD_CHANNELS),
            Space::Topic if rng.percent(40) => TOPICS[0],
            Space::Topic => rng.pick(TOPICS),
        };
        if rng.percent(3) && !may_be_turn(topic) {
            payload.clear();
        }
        Command::Publish(Rc::new(Event {
            space,
            topic,
            flags: 0,
            attributes: Vec::new(),
            payload,
        }))
    }
}

/// A payload that no other event has: that of event `number` of client `key`.
pub(crate) fn payload((key, number): (usize, u64), role: Role, rng: &mut Rng) -> Vec<u8> {
    let size = match role {
        Role::Flooder if rng.percent(60) => rng.within(14_000..40_960),
        _ => match rng.below(100) {
            0..65 => rng.within(12..80),
            65..90 => rng.within(80..1_500),
            90..97 => rng.within(1_500..16_000),
            _ => rng.within(16_000..40_961),
        },
    };
    let mut payload = format!("{key}:{number}:").into_bytes();
    let filler = b'a' + (number % 26) as u8;
    payload.resize(size, filler);
    payload
}

/// Some names, at least so many; now and then one twice.
fn some(names: &[Name], least: usize, rng: &mut Rng) -> Vec<Name> {
    let count = rng.within(least..4);
    (0..count).map(|_| rng.pick(names)).collect()
}

fn subscription(rng: &mut Rng) -> Command {
    let (kind, names) = match rng.below(10) {
        0..6 => (FilterKind::Topic, TOPICS),
        6..8 => (FilterKind::Glob, GLOBS),
        _ => (FilterKind::ShardChannel, SHARD_CHANNELS),
    };
    match rng.below(10) {
        0..6 => Command::Subscribe(kind, some(names, 1, rng)),
        6 => Command::Unsubscribe(kind, Vec::new()),
        _ => Command::Unsubscribe(kind, some(names, 1, rng)),
    }
}
