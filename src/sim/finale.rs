//! What is tried once a history has come to rest, before everybody leaves: the list of clients says
//! what they lost, and a group whose members stay takes its turns fairly.
//!
//! Fresh clients do it, and nothing else happens meanwhile, so that what they find must be exact.
//! Start at [`World::play_finale`].

use crate::client::{Client, End, Link, Reading, Role, Said};
use crate::command::{Command, Event, Order};
use crate::native::{self, Sub, kind_of};
use crate::world::World;
use crate::{Failure, fail};
use sapwood_core::command::Space;
use sapwood_core::{Policy, Protocol};
use std::rc::Rc;

/// What is published to the fair group; nothing else is.
pub(crate) const TOPIC: &[u8] = b"fair.hour";

/// What its members listen to.
const FILTERS: [&[u8]; 3] = [TOPIC, b"fair.*", b"fair.>"];

const GROUP: &[u8] = b"fair";

/// Most clients with members of the fair group on a shard.
const LISTENERS_MAX: usize = 2;

/// Most clients that publish to it, all perhaps on one shard.
const PUBLISHERS_MAX: usize = 2;

/// Most connections that the finale has on a shard at a time. Who audits has left before these come.
const CONNECTIONS_MAX: usize = LISTENERS_MAX + PUBLISHERS_MAX;

impl World {
    /// Plays it, if the shards have room for those who do.
    pub(crate) fn play_finale(&mut self) -> Result<(), Failure> {
        let taken = |node: &crate::driver::Node| node.sockets.iter().flatten().count();
        let most = self.nodes.iter().map(taken).max().unwrap_or_default();
        if most + CONNECTIONS_MAX > self.limits.connections_max {
            return Ok(());
        }
        self.announce_end_everywhere()?;
        self.audit()?;
        self.share_fairly()
    }

    fn announce_end_everywhere(&mut self) -> Result<(), Failure> {
        for shard in 0..self.nodes.len() {
            self.announce_end(shard)?;
        }
        self.drain()?;
        self.check_rest()
    }

    /// A client that is there at once, reads promptly and is let in.
    fn join(&mut self, shard: usize, protocol: Protocol) -> Result<usize, Failure> {
        let key = self.clients.len();
        let mut client = Client::new(&mut self.rng);
        client.role = Role::Subscriber;
        client.protocol = protocol;
        client.policy = Policy::Close;
        client.reading = Reading::Promptly;
        client.link = Link::wide();
        self.clients.push(client);
        self.cut.push(false);
        self.nodes[shard].accepting.push_back(key);
        self.drain()?;
        if self.clients[key].link.closed {
            return fail("finale", format!("client {key} was not let in"));
        }
        Ok(key)
    }

    fn order(&mut self, key: usize, command: Command) {
        let bytes = command.encode(false);
        self.say(key, Said::Order(Order::Redis(command), bytes));
    }

    /// The list of clients names what each of them lost.
    fn audit(&mut self) -> Result<(), Failure> {
        let shard = self.rng.below(self.nodes.len());
        let key = self.join(shard, Protocol::Redis)?;
        if self.has_password {
            self.order(key, Command::Auth(true));
        }
        self.order(key, Command::ClientList);
        self.audits = true;
        self.drain()?;
        self.audits = false;
        self.check_rest()?;
        self.clients[key].link.end = End::Finished;
        self.drain()
    }

    /// Members of a new group get turns one after the other. With one filter and one publishing
    /// shard no two members' counts ever differ by more than one. With several of both, each has had
    /// as many as the others once every publishing shard has gone round. No turn is missing.
    fn share_fairly(&mut self) -> Result<(), Failure> {
        let is_simple = self.rng.percent(50);
        let mut members = Vec::new();
        let most = self.limits.subscriptions_max.min(3);
        for shard in 0..self.nodes.len() {
            for _ in 0..self.rng.below(LISTENERS_MAX + 1) {
                let key = self.join(shard, Protocol::Native)?;
                for number in 0..self.rng.within(1..most + 1) as u32 {
                    let name = match is_simple {
                        true => FILTERS[0],
                        false => self.rng.pick(&FILTERS),
                    };
                    let filter = (kind_of(name), name, GROUP);
                    let sub = Sub { number, filter };
                    self.say(key, native::subscribe(number + 1, sub));
                    members.push((key, number));
                }
            }
        }
        if members.is_empty() {
            return Ok(());
        }
        self.drain()?;
        let publishers = match is_simple {
            true => 1,
            false => self.rng.within(1..PUBLISHERS_MAX + 1),
        };
        let mut published = 0;
        for _ in 0..publishers {
            let shard = self.rng.below(self.nodes.len());
            let key = self.join(shard, Protocol::Native)?;
            let count = match is_simple {
                true => self.rng.within(1..3 * members.len() + 1),
                false => self.rng.within(1..3) * members.len(),
            };
            published += count;
            for number in 0..count {
                let event = Event {
                    space: Space::Topic,
                    topic: TOPIC,
                    flags: 0,
                    attributes: Vec::new(),
                    payload: format!("{key}:{number}").into_bytes(),
                };
                self.say(key, native::message(Rc::new(event)));
            }
        }
        self.drain()?;
        self.check_rest()?;
        let counts: Vec<usize> = members
            .iter()
            .map(|member| self.fair_turns.get(member).copied().unwrap_or_default())
            .collect();
        let least = counts.iter().min().copied().unwrap_or_default();
        let most = counts.iter().max().copied().unwrap_or_default();
        let spread = usize::from(is_simple);
        let is_complete = counts.iter().sum::<usize>() == published;
        if !is_complete || most > least + spread {
            let text = format!("members {members:?} had {counts:?} turns of {published} events");
            return fail("fairness", text);
        }
        self.coverage.hit("fair groups");
        Ok(())
    }
}
