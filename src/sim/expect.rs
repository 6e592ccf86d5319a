//! What a client must read next, and whether what it read is that.

use crate::command::{Event, Filter, KillForm, NO_GROUP, Name};
use crate::reader::{Frame, Value};
use crate::turns::{TurnId, Turns};
use sapwood_core::command::FilterKind;
use sapwood_core::limits::SHARED_BODY_BYTES_MIN;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::limits::PAYLOAD_BYTES_MAX;
use std::collections::BTreeSet;
use std::rc::Rc;

/// One thing that a client is owed, in the order it is owed.
#[derive(Clone, Debug)]
pub(crate) struct Owed {
    /// The protocol version it is said in.
    pub version: u8,
    /// It is answered by all shards: events may come before it, replies may not.
    pub floats: bool,
    /// It stands inside the array of an EXEC: nothing of others may come before it.
    pub inside: bool,
    pub what: What,
}

/// What the answer to PUBSUB CHANNELS may be.
#[derive(Clone, Debug)]
pub(crate) struct NamesOwed {
    pub kind: FilterKind,
    pub pattern: Option<Name>,
    /// Names that were active all the time since it was asked.
    pub always: BTreeSet<Name>,
    /// Names that were active at any time since.
    pub ever: BTreeSet<Name>,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Simple(&'static str),
    /// An error that begins so.
    Error(&'static str),
    Integer(u64),
    Bulk(Vec<u8>),
    /// PONG in the form of subscribers.
    Pong(Vec<u8>),
    ExecHead(usize),
    Confirm(Confirm),
    /// The same event by each of these subscriptions, which come in any order.
    Event(Rc<Event>, Vec<Filter>),
    /// The same event natively: once for the subscriptions without a group, and for each group
    /// whose turn may be one of this connection's members, in any order.
    Native {
        event: Rc<Event>,
        plain: bool,
        turns: Vec<(TurnId, Vec<u32>)>,
    },
    Welcome {
        id: u64,
    },
    Ack {
        request: u32,
        count: u64,
        /// The subscription that is confirmed, if one is.
        subscription: Option<u64>,
    },
    Refused {
        request: u32,
        code: ErrorCode,
    },
    Draining(u32),
    Clients {
        asked: u64,
    },
    Killed {
        form: KillForm,
        target: usize,
        asked: u64,
        is_me: bool,
    },
    Numsub(Vec<(Name, u64)>),
    /// Active names, as they were when it was answered, which may be later than it was asked.
    Names(NamesOwed),
    Greeting {
        id: u64,
    },
}

/// The confirmation of a subscription or of its end.
#[derive(Clone, Debug)]
pub(crate) struct Confirm {
    pub word: &'static str,
    /// Any of these, if a command without names ended them; empty for no name at all.
    pub names: BTreeSet<Name>,
    /// How many of `names` are to be confirmed: each counts one less than the one before.
    pub left: usize,
    pub count: u64,
    /// The subscription that is confirmed, if one is.
    pub subscription: Option<u64>,
}

/// What of a thing that is owed a value was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Reply,
    /// The event by this subscription.
    By(Filter),
    /// The event for all native subscriptions without a group.
    Plain,
    /// The turn of this member.
    Turn(u32),
}

/// Which words a kind of filter is confirmed and delivered with.
pub(crate) fn subscribe_word(kind: FilterKind) -> &'static str {
    match kind {
        FilterKind::Glob => "psubscribe",
        FilterKind::ShardChannel => "ssubscribe",
        FilterKind::Topic | FilterKind::Wildcard | FilterKind::Node => "subscribe",
    }
}

pub(crate) fn unsubscribe_word(kind: FilterKind) -> &'static str {
    match kind {
        FilterKind::Glob => "punsubscribe",
        FilterKind::ShardChannel => "sunsubscribe",
        FilterKind::Topic | FilterKind::Wildcard | FilterKind::Node => "unsubscribe",
    }
}

impl Owed {
    /// Compares, and takes what was found out of what is owed; `None` if it is something else.
    pub(crate) fn take(&mut self, value: &Value, turns: &mut Turns) -> Option<Part> {
        let version = self.version;
        let is_it = match &mut self.what {
            What::Event(event, filters) => {
                let values = pushed(value, version)?;
                return take_event(event, filters, values).map(Part::By);
            }
            What::Native {
                event,
                plain,
                turns: mine,
            } => return take_native(event, plain, mine, value, turns),
            What::Simple(text) => value == &Value::Simple(text.as_bytes().to_vec()),
            What::Error(start) => match value {
                Value::Error(text) => text.starts_with(start.as_bytes()),
                _ => false,
            },
            What::Integer(number) => value == &Value::Integer(*number as i64),
            What::Bulk(bytes) => is_bulk(value, bytes),
            What::Pong(said) => match value {
                Value::Array(values) => {
                    values.len() == 2 && is_bulk(&values[0], b"pong") && is_bulk(&values[1], said)
                }
                _ => false,
            },
            What::ExecHead(count) => value == &Value::Head(*count),
            What::Confirm(confirm) => confirm.take(pushed(value, version)?, version),
            What::Clients { .. } if is_refused_call(value) => true,
            What::Names(_) if is_refused_call(value) => true,
            What::Clients { .. } => match version {
                2 => matches!(value, Value::Bulk(_)),
                _ => matches!(value, Value::Verbatim(_)),
            },
            What::Killed { form, .. } => match form {
                KillForm::Address => matches!(value, Value::Simple(_) | Value::Error(_)),
                _ => matches!(value, Value::Integer(0 | 1)),
            },
            What::Numsub(counts) => is_numsub(value, counts),
            What::Names(names) => names.is_answer(value),
            What::Greeting { id } => is_greeting(value, version, *id),
            What::Welcome { id } => is_welcome(value, *id),
            What::Ack { request, count, .. } => {
                let ack = Frame::Ack(*request, u32::try_from(*count).unwrap_or(u32::MAX));
                value == &Value::Frame(ack)
            }
            What::Refused { request, code } => match value {
                Value::Frame(Frame::Error(found, number, text)) => {
                    (*found, *number) == (*request, code.number()) && !text.is_empty()
                }
                _ => false,
            },
            What::Draining(ms) => value == &Value::Frame(Frame::Draining(*ms)),
        };
        is_it.then_some(Part::Reply)
    }

    /// Whether it is an event rather than an answer.
    pub(crate) fn is_event(&self) -> bool {
        matches!(self.what, What::Event(..) | What::Native { .. })
    }

    /// How many frames of it are still to come for certain, and how many may: turns that nobody
    /// has had yet.
    pub(crate) fn left(&self, turns: &Turns) -> (u64, u64) {
        match &self.what {
            What::Event(_, filters) => (filters.len() as u64, 0),
            What::Native {
                plain, turns: mine, ..
            } => {
                let open = mine.iter().filter(|&&(id, _)| !turns.is_taken(id));
                (u64::from(*plain), open.count() as u64)
            }
            What::Confirm(confirm) => (confirm.left as u64, 0),
            _ => (1, 0),
        }
    }

    /// Whether nothing more of it can come, a part of it having been read.
    pub(crate) fn is_done(&self) -> bool {
        match &self.what {
            What::Event(_, filters) => filters.is_empty(),
            What::Native { plain, turns, .. } => !plain && turns.is_empty(),
            What::Confirm(confirm) => confirm.left == 0 || confirm.names.is_empty(),
            _ => true,
        }
    }

    /// Whether a turn of it may have been given out at another time as well.
    pub(crate) fn is_doubted(&self, turns: &Turns) -> bool {
        match &self.what {
            What::Native { turns: mine, .. } => mine.iter().any(|&(id, _)| turns.is_doubted(id)),
            _ => false,
        }
    }

    /// Its event.
    pub(crate) fn event(&self) -> Option<&Rc<Event>> {
        match &self.what {
            What::Event(event, _) | What::Native { event, .. } => Some(event),
            _ => None,
        }
    }

    /// Whether it is an event whose payload receivers share.
    pub(crate) fn has_large_payload(&self) -> bool {
        let event = self.event();
        event.is_some_and(|event| event.payload.len() >= SHARED_BODY_BYTES_MIN)
    }

    /// The parts that are still to come or may be.
    pub(crate) fn parts(&self) -> Vec<Part> {
        match &self.what {
            What::Event(_, filters) => filters.iter().copied().map(Part::By).collect(),
            What::Native { plain, turns, .. } => {
                let numbers = turns.iter().flat_map(|(_, numbers)| numbers);
                let plain = plain.then_some(Part::Plain);
                let turns = numbers.map(|&number| Part::Turn(number));
                plain.into_iter().chain(turns).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Strikes a part out: a newer one has come in its place. Gives what was lost: frames for
    /// certain, and turns that may have been lost.
    pub(crate) fn strike(&mut self, part: Part, open: &Turns) -> (u64, u64) {
        match (&mut self.what, part) {
            (What::Event(_, filters), Part::By(filter)) => {
                let before = filters.len();
                filters.retain(|&other| other != filter);
                ((before - filters.len()) as u64, 0)
            }
            (What::Native { plain, .. }, Part::Plain) => (u64::from(std::mem::take(plain)), 0),
            (What::Native { turns, .. }, Part::Turn(number)) => {
                let mut possible = 0;
                turns.retain_mut(|(id, numbers)| {
                    let had = numbers.len();
                    numbers.retain(|&other| other != number);
                    possible += u64::from(numbers.len() < had && !open.is_taken(*id));
                    !numbers.is_empty()
                });
                (0, possible)
            }
            _ => (0, 0),
        }
    }
}

impl Confirm {
    fn take(&mut self, values: &[Value], version: u8) -> bool {
        let [word, name, Value::Integer(count)] = values else {
            return false;
        };
        if !is_bulk(word, self.word.as_bytes()) || *count != self.count as i64 {
            return false;
        }
        if self.names.is_empty() {
            return *name == Value::Null(version);
        }
        let Value::Bulk(name) = name else {
            return false;
        };
        if !self.names.remove(&name[..]) {
            return false;
        }
        self.left -= 1;
        self.count = self.count.saturating_sub(u64::from(self.left > 0));
        true
    }
}

fn is_bulk(value: &Value, bytes: &[u8]) -> bool {
    matches!(value, Value::Bulk(found) if found == bytes)
}

/// What was pushed, in the form of the protocol's version.
fn pushed(value: &Value, version: u8) -> Option<&[Value]> {
    match (value, version) {
        (Value::Array(values), 2) | (Value::Push(values), 3) => Some(values),
        _ => None,
    }
}

fn take_event(event: &Event, filters: &mut Vec<Filter>, values: &[Value]) -> Option<Filter> {
    let found = match values {
        [word, topic, payload] if is_bulk(topic, event.topic) => {
            let kind = match word {
                Value::Bulk(word) if word == b"message" => FilterKind::Topic,
                Value::Bulk(word) if word == b"smessage" => FilterKind::ShardChannel,
                _ => return None,
            };
            is_bulk(payload, &event.payload).then_some((kind, event.topic, NO_GROUP))
        }
        [word, Value::Bulk(glob), topic, payload] if is_bulk(topic, event.topic) => {
            let is_it = is_bulk(word, b"pmessage") && is_bulk(payload, &event.payload);
            let filter = filters
                .iter()
                .find(|(kind, name, _)| *kind == FilterKind::Glob && name == glob);
            filter.copied().filter(|_| is_it)
        }
        _ => None,
    };
    let place = filters.iter().position(|&filter| Some(filter) == found)?;
    Some(filters.remove(place))
}

fn take_native(
    event: &Event,
    plain: &mut bool,
    mine: &mut Vec<(TurnId, Vec<u32>)>,
    value: &Value,
    turns: &mut Turns,
) -> Option<Part> {
    match value {
        Value::Frame(Frame::Message(bytes)) if *plain && event.is_message(bytes) => {
            *plain = false;
            Some(Part::Plain)
        }
        Value::Frame(Frame::Turn(number, bytes)) => {
            let place = mine
                .iter()
                .position(|(id, numbers)| numbers.contains(number) && !turns.is_taken(*id))?;
            if !event.is_message(bytes) {
                return None;
            }
            let (id, _) = mine.remove(place);
            turns.take(id);
            Some(Part::Turn(*number))
        }
        _ => None,
    }
}

fn is_welcome(value: &Value, id: u64) -> bool {
    let Value::Frame(Frame::Welcome {
        version,
        client,
        run,
        payload_max,
        broker,
    }) = value
    else {
        return false;
    };
    (*version, *client, *payload_max) == (1, id, PAYLOAD_BYTES_MAX as u32)
        && run.len() == 40
        && broker.starts_with("sapwood/")
}

fn is_numsub(value: &Value, counts: &[(Name, u64)]) -> bool {
    let Value::Array(values) = value else {
        return false;
    };
    values.len() == 2 * counts.len()
        && values.chunks(2).zip(counts).all(|(pair, (name, count))| {
            is_bulk(&pair[0], name) && pair[1] == Value::Integer(*count as i64)
        })
}

/// Whether a call was refused because its answer has no room, which the caps of a history may lead to.
pub(crate) fn is_refused_call(value: &Value) -> bool {
    let refusals = ["ERR the reply is longer than", "ERR no room for the answer"];
    let Value::Error(text) = value else {
        return false;
    };
    refusals
        .iter()
        .any(|refusal| text.starts_with(refusal.as_bytes()))
}

impl Owed {
    /// Whether it is answered at once while calls before it are not answered, and written behind them.
    pub(crate) fn stands_behind_calls(&self) -> bool {
        matches!(self.what, What::Error(_) | What::Simple("QUEUED"))
    }
}

impl NamesOwed {
    fn is_answer(&self, value: &Value) -> bool {
        let Value::Array(values) = value else {
            return false;
        };
        let found: BTreeSet<&[u8]> = values
            .iter()
            .filter_map(|value| match value {
                Value::Bulk(name) => Some(&name[..]),
                _ => None,
            })
            .collect();
        let is_each_once = values.len() == found.len();
        let has_all = self.always.iter().all(|name| found.contains(name));
        is_each_once && has_all && found.iter().all(|name| self.ever.contains(name))
    }
}

fn is_greeting(value: &Value, version: u8, id: u64) -> bool {
    let fields = match (value, version) {
        (Value::Array(fields), 2) | (Value::Map(fields), 3) => fields,
        _ => return false,
    };
    let mut pairs = fields.chunks(2);
    let mut has = |key: &[u8], number: i64| {
        pairs.any(|pair| is_bulk(&pair[0], key) && pair[1] == Value::Integer(number))
    };
    fields.len() == 14 && has(b"proto", i64::from(version)) && has(b"id", id as i64)
}
