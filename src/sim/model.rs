//! What the broker must do, said once more and plainly: who listens, what each command is
//! answered with, whom each event reaches.
//!
//! Sees only what a driver sees: how many bytes a shard consumed of a connection, how many
//! commands that was, which batches it sent and took, which connections it named as closing. From
//! that it derives the exact order in which each client must read replies and events. It relies
//! on three promises of core's door, beyond those of its documentation: subscriptions that
//! changed are told to the other shards at `TurnEnd`; the next batch for a shard carries all that
//! was told; who handles a batch knows of the changes before it delivers the batch's events.
//! Invariant: nothing here depends on the order of a hash table. Start at [`Model::handled`].

mod groups;
mod native;

use crate::Failure;
use crate::client::Client;
use crate::command::{Command, Event, Filter, KillForm, NO_GROUP, Name, Order};
use crate::expect::{Confirm, NamesOwed, Owed, What, subscribe_word, unsubscribe_word};
use crate::fail;
use crate::stream::Stream;
use crate::turns::{TurnId, Turns};
pub(crate) use groups::{Retries, TRIES_MAX, Unheard};
use sapwood_core::Protocol;
use sapwood_core::command::{CloseReason, FilterKind, Space};
use sapwood_core::limits::Limits;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::glob;
use sapwood_wire::topic::wildcard_matches;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// Bytes of a handed-over event beside its message, at most: head, lengths, and a group's name.
const HANDED_EXTRA: usize = 64;

/// How many listen to each filter.
pub(crate) type Table = BTreeMap<Filter, u64>;

/// A subscription of a connection.
#[derive(Debug)]
struct Subscription {
    filter: Filter,
    /// The client's number for it, natively.
    number: u32,
    id: u64,
    /// The client has read its confirmation.
    confirmed: bool,
}

/// What stands between MULTI and EXEC.
#[derive(Debug, Default)]
struct Transaction {
    queue: VecDeque<Command>,
    bytes: usize,
    failed: bool,
}

/// One connection, from its acceptance on.
#[derive(Debug)]
pub(crate) struct Conn {
    pub protocol: Protocol,
    pub shard: usize,
    /// Not closed, and not named as closing.
    pub open: bool,
    pub reason: Option<CloseReason>,
    pub opened: u64,
    pub closed: u64,
    /// When it became a guest, if it is one.
    pub guest_ns: u64,
    pub version: u8,
    pub authenticated: bool,
    /// Commands that were sent, each with its end in the stream of bytes.
    sent: VecDeque<(u64, Order)>,
    /// The client has sent what breaks the protocol, and why that is so.
    pub garbage: Option<ErrorCode>,
    pub consumed: u64,
    subscriptions: Vec<Subscription>,
    /// Its changes of interest are not known to all shards.
    pub barrier: bool,
    /// A DRAIN under way: its request, and how many subscriptions end. Those without a group still
    /// hear what is on its way.
    draining: Option<(u32, u64)>,
    transaction: Option<Transaction>,
    pub executing: VecDeque<Command>,
    /// What it is owed now stands inside the array of an EXEC.
    inside: bool,
    /// What others published between two commands of its EXEC: read after the array.
    deferred: VecDeque<(Rc<Event>, Vec<Filter>)>,
    pub stream: Stream,
}

impl Conn {
    fn owe_event(&mut self, event: Rc<Event>, filters: Vec<Filter>, inside: bool) {
        self.stream.owed.push_back(Owed {
            version: self.version,
            floats: false,
            inside,
            what: What::Event(event, filters),
        });
    }

    fn owe_last_event(&mut self) {
        if let Some((event, filters)) = self.deferred.pop_back() {
            self.owe_event(event, filters, self.inside);
        }
    }

    /// The deferred events are owed, unless the array of an EXEC is still being answered.
    fn owe_deferred(&mut self) {
        while self.executing.is_empty()
            && let Some((event, filters)) = self.deferred.pop_front()
        {
            self.owe_event(event, filters, false);
        }
    }
}

/// What the model knows of a shard.
#[derive(Debug)]
pub(crate) struct ShardModel {
    pub table: Table,
    /// Subscriptions that are gone for the others and hear what is on its way to them.
    leaving: Table,
    /// What it told last, for the next batches.
    pub told: Rc<Table>,
    /// What it knows of each shard.
    pub known: Vec<Rc<Table>>,
    /// For each shard, events that stand in no batch yet.
    pub pending: Vec<VecDeque<HandedOver>>,
    pub published: u64,
    /// Without turns.
    pub delivered: u64,
    pub turns_taken: u64,
    /// A connection closed in the middle of a batch: `delivered` may be too high.
    pub inexact: bool,
    pub open: Vec<usize>,
    /// Clients that asked for active names, and may not have been answered.
    asked_names: Vec<usize>,
}

/// An event on its way to another shard, or perhaps on its way: whose turn it is, is not known.
#[derive(Clone, Debug)]
pub(crate) struct HandedOver {
    pub event: Rc<Event>,
    /// It is for those who get every event, and so certainly on its way.
    pub plain: bool,
    pub turns: Vec<TurnId>,
    /// So many shards had no member left.
    pub tries: u8,
}

impl HandedOver {
    /// The most records that it is in a batch: what comes back goes on turn by turn.
    pub(crate) fn records(&self) -> usize {
        match self.tries {
            0 => 1,
            _ => self.turns.len(),
        }
    }

    /// Most bytes that it takes in a batch if it has come back before, else none.
    pub(crate) fn bytes_again(&self) -> usize {
        match self.tries {
            0 => 0,
            _ => self.records() * (HANDED_EXTRA + self.event.message().len()),
        }
    }
}

/// The whole node.
#[derive(Debug)]
pub(crate) struct Model {
    pub turns: Turns,
    pub shards: Vec<ShardModel>,
    /// By client; a client that was not accepted yet has none.
    pub conns: Vec<Option<Conn>>,
    /// Counts what happens, so that before and after can be told.
    pub tick: u64,
    pub now_ns: u64,
    /// Clients whose end another one asked for.
    pub hunted: BTreeSet<usize>,
    /// Clients whose events are noted by their payloads, and how often each was published.
    pub watched: BTreeSet<usize>,
    pub reached: BTreeMap<Vec<u8>, u64>,
    /// Events that had to wait for the end of an EXEC.
    pub kept_for_exec: u64,
    limits: Limits,
    has_password: bool,
    next_subscription: u64,
}

/// Whether a filter matches an event.
fn matches(filter: Filter, event: &Event) -> bool {
    match (filter.0, event.space) {
        (FilterKind::Topic, Space::Topic) | (FilterKind::ShardChannel, Space::ShardChannel) => {
            filter.1 == event.topic
        }
        (FilterKind::Glob, Space::Topic) => glob::matches(filter.1, event.topic),
        (FilterKind::Wildcard, Space::Topic) => wildcard_matches(filter.1, event.topic),
        _ => false,
    }
}

/// Subscriptions that get every event.
fn listeners(table: &Table, event: &Event) -> u64 {
    let plain = table.iter().filter(|(filter, _)| filter.2 == NO_GROUP);
    let matching = plain.filter(|&(&filter, _)| matches(filter, event));
    matching.map(|(_, &count)| count).sum()
}

fn forget(table: &mut Table, filter: Filter) {
    // invariant: a subscription stands in one of its shard's tables.
    let count = table.get_mut(&filter).expect("a filter with a listener");
    *count -= 1;
    if *count == 0 {
        table.remove(&filter);
    }
}

impl Model {
    pub(crate) fn new(shards: usize, limits: Limits, has_password: bool) -> Model {
        let shard = |_| ShardModel {
            table: Table::new(),
            leaving: Table::new(),
            told: Rc::default(),
            known: vec![Rc::default(); shards],
            pending: vec![VecDeque::new(); shards],
            published: 0,
            delivered: 0,
            turns_taken: 0,
            inexact: false,
            asked_names: Vec::new(),
            open: Vec::new(),
        };
        Model {
            turns: Turns::default(),
            shards: (0..shards).map(shard).collect(),
            conns: Vec::new(),
            tick: 0,
            now_ns: 0,
            hunted: BTreeSet::new(),
            watched: BTreeSet::new(),
            reached: BTreeMap::new(),
            kept_for_exec: 0,
            limits,
            has_password,
            next_subscription: 1,
        }
    }

    pub(crate) fn conn(&mut self, key: usize) -> &mut Conn {
        // invariant: only clients that were accepted are asked for.
        self.conns[key].as_mut().expect("an accepted client")
    }

    /// A connection was accepted, or refused because there are too many.
    pub(crate) fn opened(&mut self, key: usize, client: &Client, shard: usize) {
        let Client {
            protocol, policy, ..
        } = *client;
        self.tick += 1;
        // What waits aside is bounded by the cap of all connections too, unless that is far.
        let aside_max = match self.limits.outboxes_bytes_max >= 1 << 30 {
            true => self.limits.outbox_bytes_max / 2,
            false => 0,
        };
        if self.conns.len() <= key {
            self.conns.resize_with(key + 1, || None);
        }
        self.conns[key] = Some(Conn {
            protocol,
            shard,
            open: true,
            reason: None,
            opened: self.tick,
            closed: u64::MAX,
            guest_ns: self.now_ns,
            version: 2,
            authenticated: !self.has_password && protocol == Protocol::Redis,
            sent: VecDeque::new(),
            garbage: None,
            consumed: 0,
            subscriptions: Vec::new(),
            barrier: false,
            draining: None,
            transaction: None,
            executing: VecDeque::new(),
            inside: false,
            deferred: VecDeque::new(),
            stream: Stream::new(protocol, policy, aside_max),
        });
        self.shards[shard].open.push(key);
    }

    /// An order was sent, of which the last byte is byte `end` of the client's.
    pub(crate) fn sent(&mut self, key: usize, end: u64, order: Order) {
        self.conn(key).sent.push_back((end, order));
    }

    /// A shard consumed bytes of a connection and carried out so many commands.
    pub(crate) fn handled(&mut self, key: usize, consumed: u64, count: u64) -> Result<(), Failure> {
        self.tick += 1;
        if !self.conn(key).barrier {
            self.end_drain(key);
        }
        let mut left = count;
        self.conn(key).consumed += consumed;
        loop {
            let conn = self.conn(key);
            let consumed = conn.consumed;
            let has_next = conn.sent.front().is_some_and(|&(end, _)| end <= consumed);
            if !conn.open {
                break;
            }
            if let Some(command) = conn.executing.front().cloned() {
                if left == 0 {
                    if has_next {
                        return fail(
                            "exec",
                            format!("client {key}: EXEC was not finished before the next command"),
                        );
                    }
                    break;
                }
                conn.executing.pop_front();
                left -= 1;
                conn.inside = true;
                self.carry_out(key, &command)?;
                let conn = self.conn(key);
                conn.inside = false;
                conn.owe_deferred();
            } else if has_next && let Some((_, order)) = conn.sent.pop_front() {
                let counts = match &order {
                    Order::Redis(command) => u64::from(self.request(key, command)?),
                    Order::Native(request) => {
                        self.native_request(key, request)?;
                        1
                    }
                };
                if counts > left {
                    return fail(
                        "commands",
                        format!("client {key}: {order:?} was consumed, not counted"),
                    );
                }
                left -= counts;
            } else {
                break;
            }
        }
        if left > 0 {
            return fail(
                "commands",
                format!("client {key}: {left} commands counted that were not sent"),
            );
        }
        Ok(())
    }

    fn owe(&mut self, key: usize, what: What) {
        let floats = matches!(
            what,
            What::Clients { .. } | What::Killed { .. } | What::Names(_)
        );
        let conn = self.conn(key);
        let version = conn.version;
        conn.stream.owed.push_back(Owed {
            version,
            floats,
            inside: conn.inside,
            what,
        });
    }

    /// Refuses a command before it is carried out.
    fn reject(&mut self, key: usize, is_exec: bool, text: &'static str) {
        let conn = self.conn(key);
        if is_exec {
            conn.transaction = None;
            return self.owe(
                key,
                What::Error("EXECABORT Transaction discarded because of: "),
            );
        }
        if let Some(transaction) = &mut conn.transaction {
            transaction.failed = true;
        }
        self.owe(key, What::Error(text));
    }

    /// A command as it came: whether it was carried out and so is counted.
    fn request(&mut self, key: usize, command: &Command) -> Result<bool, Failure> {
        let cap = self.limits.transaction_bytes_max;
        let conn = self.conn(key);
        let is_subscriber = conn.version == 2 && !conn.subscriptions.is_empty();
        let is_exec = matches!(command, Command::Exec);
        let refusal = match command {
            Command::Quit => None,
            Command::Unknown => Some("ERR unknown command 'GET'"),
            Command::WrongArity => Some("ERR wrong number of arguments for 'publish'"),
            Command::Auth(_) | Command::Hello(..) | Command::Reset if !conn.authenticated => None,
            _ if !conn.authenticated => Some("NOAUTH Authentication required."),
            Command::Subscribe(..)
            | Command::Unsubscribe(..)
            | Command::Ping(_)
            | Command::Reset => None,
            _ if is_subscriber => Some("ERR Can't execute"),
            _ => None,
        };
        if let Some(text) = refusal {
            self.reject(key, is_exec, text);
            return Ok(false);
        }
        let at_once = matches!(
            command,
            Command::Exec | Command::Discard | Command::Multi | Command::Quit | Command::Reset
        );
        if let Some(transaction) = conn.transaction.as_mut().filter(|_| !at_once) {
            let words = command.words();
            let size = words.iter().map(Vec::len).sum::<usize>() + 8 * words.len() + 64;
            if transaction.failed {
                self.owe(key, What::Simple("QUEUED"));
            } else if transaction.bytes + size > cap {
                transaction.failed = true;
                self.owe(key, What::Error("ERR the transaction is larger than"));
            } else {
                transaction.bytes += size;
                transaction.queue.push_back(command.clone());
                self.owe(key, What::Simple("QUEUED"));
            }
            return Ok(false);
        }
        self.carry_out(key, command)?;
        Ok(true)
    }

    fn carry_out(&mut self, key: usize, command: &Command) -> Result<(), Failure> {
        let what = match command {
            Command::Subscribe(kind, names) => {
                names
                    .iter()
                    .for_each(|name| self.subscribe(key, (*kind, name, NO_GROUP)));
                return Ok(());
            }
            Command::Unsubscribe(kind, names) => {
                self.unsubscribe(key, *kind, names);
                return Ok(());
            }
            Command::Publish(event) => {
                let count = self.publish(key, event)?;
                What::Integer(count)
            }
            Command::Multi if self.conn(key).transaction.is_some() => {
                What::Error("ERR MULTI calls")
            }
            Command::Multi => {
                self.conn(key).transaction = Some(Transaction::default());
                What::Simple("OK")
            }
            Command::Exec => match self.conn(key).transaction.take() {
                None => What::Error("ERR EXEC without MULTI"),
                Some(transaction) if transaction.failed => What::Error("EXECABORT Transaction"),
                Some(transaction) => {
                    let count = transaction.queue.len();
                    self.conn(key).executing = transaction.queue;
                    What::ExecHead(count)
                }
            },
            Command::Discard => match self.conn(key).transaction.take() {
                None => What::Error("ERR DISCARD without MULTI"),
                Some(_) => What::Simple("OK"),
            },
            Command::ClientList => What::Clients { asked: self.tick },
            Command::ClientId => What::Integer(key as u64 + 1),
            Command::Kill(form, target) => {
                self.kill(key, *form, *target);
                return Ok(());
            }
            Command::Numsub(kind, names) => {
                let shard = self.conn(key).shard;
                let count = |name: &Name| (*name, self.count(shard, *kind, name));
                What::Numsub(names.iter().map(count).collect())
            }
            Command::Channels(kind, pattern) => self.channels(key, *kind, *pattern),
            Command::Numpat => {
                let shard = self.conn(key).shard;
                let globs = self.active(shard).into_iter();
                What::Integer(globs.filter(|filter| filter.0 == FilterKind::Glob).count() as u64)
            }
            Command::Ping(said) => self.ping(key, said.as_deref()),
            Command::Echo(said) => What::Bulk(said.clone()),
            Command::Quit => {
                self.owe(key, What::Simple("OK"));
                self.close(key, CloseReason::Quit);
                return Ok(());
            }
            Command::Hello(..) | Command::Auth(_) | Command::Reset => self.identify(key, command),
            Command::Unknown | Command::WrongArity => {
                return fail("model", format!("{command:?} is never carried out"));
            }
        };
        self.owe(key, what);
        Ok(())
    }

    fn ping(&mut self, key: usize, said: Option<&[u8]>) -> What {
        let conn = self.conn(key);
        match said {
            _ if conn.version == 2 && !conn.subscriptions.is_empty() => {
                What::Pong(said.unwrap_or_default().to_vec())
            }
            None => What::Simple("PONG"),
            Some(said) => What::Bulk(said.to_vec()),
        }
    }

    /// HELLO, AUTH and RESET: who the client is and what it speaks.
    fn identify(&mut self, key: usize, command: &Command) -> What {
        let (has_password, now_ns) = (self.has_password, self.now_ns);
        let conn = self.conn(key);
        match command {
            Command::Auth(_) if !has_password => What::Error("ERR AUTH <password> called"),
            Command::Auth(false) => What::Error("WRONGPASS"),
            Command::Auth(true) => {
                conn.authenticated = true;
                What::Simple("OK")
            }
            Command::Hello(_, false) if !conn.authenticated => What::Error("NOAUTH HELLO must"),
            Command::Hello(version, _) => {
                conn.authenticated = true;
                conn.version = *version;
                What::Greeting { id: key as u64 + 1 }
            }
            _ => {
                conn.transaction = None;
                conn.version = 2;
                if conn.authenticated {
                    conn.guest_ns = now_ns;
                }
                conn.authenticated = !has_password;
                self.leave(key);
                What::Simple("RESET")
            }
        }
    }

    fn confirm_count(&mut self, key: usize, kind: FilterKind) -> u64 {
        let is_shard_channel = kind == FilterKind::ShardChannel;
        let all = self.conn(key).subscriptions.iter();
        let counted =
            all.filter(|sub| (sub.filter.0 == FilterKind::ShardChannel) == is_shard_channel);
        counted.count() as u64
    }

    fn subscribe(&mut self, key: usize, filter: Filter) {
        let Some(id) = self.add_subscription(key, 0, filter) else {
            return self.owe(key, What::Error("ERR this connection has"));
        };
        let confirm = Confirm {
            word: subscribe_word(filter.0),
            names: BTreeSet::from([filter.1]),
            left: 1,
            count: self.confirm_count(key, filter.0),
            subscription: Some(id),
        };
        self.owe(key, What::Confirm(confirm));
    }

    /// Adds a subscription, if it is not there yet, and gives its number; `None` if the connection
    /// has as many as it may.
    fn add_subscription(&mut self, key: usize, number: u32, filter: Filter) -> Option<u64> {
        let cap = self.limits.subscriptions_max;
        let many = self.shards.len() > 1;
        let id = self.next_subscription;
        let conn = self.conn(key);
        let mut all = conn.subscriptions.iter();
        let present = all.find(|sub| (sub.filter, sub.number) == (filter, number));
        match present {
            Some(sub) => return Some(sub.id),
            None if conn.subscriptions.len() >= cap => return None,
            None => {}
        }
        conn.subscriptions.push(Subscription {
            filter,
            number,
            id,
            confirmed: false,
        });
        let shard = conn.shard;
        conn.barrier = many;
        self.next_subscription += 1;
        *self.shards[shard].table.entry(filter).or_default() += 1;
        Some(id)
    }

    fn unsubscribe(&mut self, key: usize, kind: FilterKind, names: &[Name]) {
        let confirm = |names: BTreeSet<Name>, count| {
            What::Confirm(Confirm {
                word: unsubscribe_word(kind),
                left: names.len().max(1),
                names,
                count,
                subscription: None,
            })
        };
        for name in names {
            self.drop_subscription(key, 0, (kind, name, NO_GROUP));
            let count = self.confirm_count(key, kind);
            self.owe(key, confirm(BTreeSet::from([*name]), count));
        }
        if !names.is_empty() {
            return;
        }
        let all = self.conn(key).subscriptions.iter();
        let all = all
            .filter(|sub| sub.filter.0 == kind)
            .map(|sub| sub.filter.1);
        let all: BTreeSet<Name> = all.collect();
        // Each confirmation counts one less than the one before.
        let count = self.confirm_count(key, kind);
        let first = count.saturating_sub(u64::from(!all.is_empty()));
        for name in &all {
            self.drop_subscription(key, 0, (kind, name, NO_GROUP));
        }
        self.owe(key, confirm(all, first));
    }

    fn drop_subscription(&mut self, key: usize, number: u32, filter: Filter) {
        let many = self.shards.len() > 1;
        let conn = self.conn(key);
        let shard = conn.shard;
        let place = conn
            .subscriptions
            .iter()
            .position(|sub| (sub.filter, sub.number) == (filter, number));
        if let Some(place) = place {
            conn.subscriptions.remove(place);
            conn.barrier = many;
            forget(&mut self.shards[shard].table, filter);
        }
    }

    fn leave(&mut self, key: usize) {
        let conn = self.conn(key);
        let shard = conn.shard;
        let is_draining = conn.draining.take().is_some();
        for sub in std::mem::take(&mut conn.subscriptions) {
            match is_draining {
                true => forget(&mut self.shards[shard].leaving, sub.filter),
                false => forget(&mut self.shards[shard].table, sub.filter),
            }
        }
    }

    /// Whoever has read the confirmation of a subscription is known to every shard.
    fn check_barrier(&self, shard: usize, other: usize, event: &Event) -> Result<(), Failure> {
        for &key in &self.shards[other].open {
            let Some(conn) = &self.conns[key] else {
                continue;
            };
            for sub in &conn.subscriptions {
                if conn.draining.is_some() {
                    continue;
                }
                let known = || self.shards[shard].known[other].contains_key(&sub.filter);
                if sub.confirmed && matches(sub.filter, event) && !known() {
                    return fail(
                        "barrier",
                        format!(
                            "client {key} has read the confirmation of {:?}, and shard {shard} does not know",
                            sub.filter
                        ),
                    );
                }
            }
        }
        Ok(())
    }

    /// Whom it means is there until a shard carries it out, which may have so many calls that this one waits.
    fn kill(&mut self, key: usize, form: KillForm, target: usize) {
        let is_me = target == key;
        let asked = self.tick;
        self.owe(
            key,
            What::Killed {
                form,
                target,
                asked,
                is_me,
            },
        );
        if !is_me {
            self.hunted.insert(target);
        }
    }

    /// Listeners of exactly this name, in groups too, as a shard knows them.
    fn count(&self, shard: usize, kind: FilterKind, name: Name) -> u64 {
        let known = self.shards[shard].known.iter().map(|table| &**table);
        let tables = std::iter::once(&self.shards[shard].table).chain(known);
        let entries = tables.flat_map(|table| table.iter());
        let of_name = entries.filter(|(filter, _)| (filter.0, filter.1) == (kind, name));
        of_name.map(|(_, &count)| count).sum()
    }

    /// Filters that anyone listens to, as a shard knows them.
    pub(crate) fn active(&self, shard: usize) -> BTreeSet<Filter> {
        let own = self.shards[shard].table.keys();
        let known = self.shards[shard].known.iter();
        own.chain(known.flat_map(|table| table.keys()))
            .copied()
            .collect()
    }

    /// Filters that a shard has entries for: that of a group hangs on one of the same name.
    pub(crate) fn known_filters(&self, shard: usize) -> u64 {
        let active = self.active(shard);
        let anchors = active.iter().map(|&(kind, name, _)| (kind, name, NO_GROUP));
        let all: BTreeSet<Filter> = anchors.chain(active.iter().copied()).collect();
        all.len() as u64
    }

    fn channels(&mut self, key: usize, kind: FilterKind, pattern: Option<Name>) -> What {
        let shard = self.conn(key).shard;
        let active = self.active_names(shard, kind, pattern);
        self.shards[shard].asked_names.push(key);
        What::Names(NamesOwed {
            kind,
            pattern,
            always: active.clone(),
            ever: active,
        })
    }

    fn active_names(
        &self,
        shard: usize,
        kind: FilterKind,
        pattern: Option<Name>,
    ) -> BTreeSet<Name> {
        let active = self.active(shard).into_iter();
        let names = active
            .filter(|filter| filter.0 == kind)
            .map(|filter| filter.1);
        let is_meant = |name: &Name| pattern.is_none_or(|pattern| glob::matches(pattern, name));
        names.filter(is_meant).collect()
    }

    /// A shard handled an input, and may have answered who asked for active names; `has_calls` if it still owes answers.
    pub(crate) fn note_names(&mut self, shard: usize, has_calls: bool) {
        let asked = std::mem::take(&mut self.shards[shard].asked_names);
        for &key in &asked {
            let Some(mut conn) = self.conns[key].take() else {
                continue;
            };
            for owed in &mut conn.stream.owed {
                if let What::Names(names) = &mut owed.what {
                    let now = self.active_names(shard, names.kind, names.pattern);
                    names.always.retain(|name| now.contains(name));
                    names.ever.extend(now);
                }
            }
            self.conns[key] = Some(conn);
        }
        if has_calls {
            self.shards[shard].asked_names = asked;
        }
    }

    /// A connection is being closed; from now on it hears and says nothing.
    pub(crate) fn close(&mut self, key: usize, reason: CloseReason) {
        if !self.conn(key).open {
            return;
        }
        self.gone(key);
        self.conn(key).reason = Some(reason);
    }

    /// A connection is gone without a word.
    pub(crate) fn gone(&mut self, key: usize) {
        let tick = self.tick;
        let conn = self.conn(key);
        if !conn.open {
            return;
        }
        conn.open = false;
        conn.closed = tick;
        // Of an array that is never whole nothing follows.
        conn.owe_deferred();
        conn.deferred.clear();
        conn.executing.clear();
        let shard = conn.shard;
        self.leave(key);
        self.shards[shard].open.retain(|&other| other != key);
    }

    /// A shard's turn ended: it tells what changed.
    pub(crate) fn turn_ended(&mut self, shard: usize) {
        let shard = &mut self.shards[shard];
        if *shard.told != shard.table {
            shard.told = Rc::new(shard.table.clone());
        }
    }

    /// The client has read the confirmation of a subscription.
    pub(crate) fn confirmed(&mut self, key: usize, id: u64) {
        let subscriptions = self.conn(key).subscriptions.iter_mut();
        for sub in subscriptions.filter(|sub| sub.id == id) {
            sub.confirmed = true;
        }
    }

    /// What the broker says to whom it closes, where the protocol has words for it.
    pub(crate) fn owe_reason(&mut self, key: usize, reason: CloseReason) {
        let conn = self.conn(key);
        let (text, code) = match reason {
            CloseReason::Protocol => (Some("ERR Protocol error"), conn.garbage),
            CloseReason::TooManyConnections => (
                Some("ERR max number of clients reached"),
                Some(ErrorCode::ConnectionsFull),
            ),
            CloseReason::AuthTimeout => (None, Some(ErrorCode::HelloLate)),
            _ => (None, None),
        };
        let what = match conn.protocol {
            Protocol::Redis => text.map(What::Error),
            Protocol::Native => code.map(|code| What::Refused { request: 0, code }),
            _ => None,
        };
        if let Some(what) = what {
            self.owe(key, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn hot() -> Rc<Event> {
        Rc::new(Event {
            space: Space::Topic,
            topic: b"hot",
            flags: 0,
            attributes: Vec::new(),
            payload: Vec::new(),
        })
    }

    /// As long as the call waits behind others.
    #[test]
    fn who_is_to_be_killed_is_a_subscriber_until_that_is_carried_out() {
        let mut model = Model::new(1, Limits::default(), false);
        let mut client = Client::new(&mut Rng::new(1));
        client.protocol = Protocol::Redis;
        (0..3).for_each(|key| model.opened(key, &client, 0));
        let handle = |model: &mut Model, key, end, command| {
            model.sent(key, end, Order::Redis(command));
            model.handled(key, 10, 1).expect("carried out");
        };
        let subscribe = Command::Subscribe(FilterKind::Topic, vec![b"hot"]);
        handle(&mut model, 0, 10, subscribe);
        handle(&mut model, 1, 10, Command::Kill(KillForm::Id, 0));
        for (end, count) in [(10, 1), (20, 0)] {
            handle(&mut model, 2, end, Command::Publish(hot()));
            let owed = model.conn(2).stream.owed.pop_back().map(|owed| owed.what);
            let is_owed = matches!(owed, Some(What::Integer(told)) if told == count);
            assert!(is_owed, "{count} listen, and it is owed {owed:?}");
            model.close(0, CloseReason::Killed);
        }
    }

    /// A subscriber on shard 1 that has read its confirmation, and a publisher on shard 0.
    #[test]
    fn a_confirmation_that_a_shard_does_not_know_of_is_found() {
        for is_known in [true, false] {
            let mut model = Model::new(2, Limits::default(), false);
            let mut client = Client::new(&mut Rng::new(1));
            client.protocol = Protocol::Redis;
            model.opened(0, &client, 0);
            model.opened(1, &client, 1);
            let subscribe = Command::Subscribe(FilterKind::Topic, vec![b"hot"]);
            model.sent(1, 10, Order::Redis(subscribe));
            model.handled(1, 10, 1).expect("subscribed");
            model.turn_ended(1);
            model.confirmed(1, 1);
            if is_known {
                model.shards[0].known[1] = Rc::clone(&model.shards[1].told);
            }
            model.sent(0, 10, Order::Redis(Command::Publish(hot())));
            let found = model.handled(0, 10, 1).err().map(|failure| failure.check);
            assert_eq!(found, (!is_known).then_some("barrier"));
        }
    }
}
