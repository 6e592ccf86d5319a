//! What a client must read next, and whether what it read is that.

use crate::command::{Event, Filter, KillForm, Name};
use crate::reader::Value;
use sapwood_core::command::FilterKind;
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
    Names(BTreeSet<Name>),
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

/// How a value compares with what is owed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// It is that, and nothing more is owed of it.
    Whole,
    /// It is a part of that.
    Part,
    No,
}

/// Which words a kind of filter is confirmed and delivered with.
pub(crate) fn subscribe_word(kind: FilterKind) -> &'static str {
    match kind {
        FilterKind::Glob => "psubscribe",
        FilterKind::ShardChannel => "ssubscribe",
        FilterKind::Topic | FilterKind::Wildcard => "subscribe",
    }
}

pub(crate) fn unsubscribe_word(kind: FilterKind) -> &'static str {
    match kind {
        FilterKind::Glob => "punsubscribe",
        FilterKind::ShardChannel => "sunsubscribe",
        FilterKind::Topic | FilterKind::Wildcard => "unsubscribe",
    }
}

impl Owed {
    /// Compares, and takes what was found out of what is owed.
    pub(crate) fn take(&mut self, value: &Value) -> Match {
        let version = self.version;
        match &mut self.what {
            What::Simple(text) => whole(value == &Value::Simple(text.as_bytes().to_vec())),
            What::Error(start) => match value {
                Value::Error(text) => whole(text.starts_with(start.as_bytes())),
                _ => Match::No,
            },
            What::Integer(number) => whole(value == &Value::Integer(*number as i64)),
            What::Bulk(bytes) => whole(is_bulk(value, bytes)),
            What::Pong(said) => whole(match value {
                Value::Array(values) => {
                    values.len() == 2 && is_bulk(&values[0], b"pong") && is_bulk(&values[1], said)
                }
                _ => false,
            }),
            What::ExecHead(count) => whole(value == &Value::Head(*count)),
            What::Confirm(confirm) => {
                pushed(value, version).map_or(Match::No, |values| confirm.take(values, version))
            }
            What::Event(event, filters) => pushed(value, version)
                .map_or(Match::No, |values| take_event(event, filters, values)),
            What::Clients { .. } => whole(match version {
                2 => matches!(value, Value::Bulk(_)),
                _ => matches!(value, Value::Verbatim(_)),
            }),
            What::Killed { form, .. } => whole(match form {
                KillForm::Address => matches!(value, Value::Simple(_) | Value::Error(_)),
                _ => matches!(value, Value::Integer(0 | 1)),
            }),
            What::Numsub(counts) => whole(is_numsub(value, counts)),
            What::Names(names) => whole(is_names(value, names)),
            What::Greeting { id } => whole(is_greeting(value, version, *id)),
        }
    }
}

impl Confirm {
    fn take(&mut self, values: &[Value], version: u8) -> Match {
        let [word, name, Value::Integer(count)] = values else {
            return Match::No;
        };
        if !is_bulk(word, self.word.as_bytes()) || *count != self.count as i64 {
            return Match::No;
        }
        if self.names.is_empty() {
            return whole(*name == Value::Null(version));
        }
        let Value::Bulk(name) = name else {
            return Match::No;
        };
        if !self.names.remove(&name[..]) {
            return Match::No;
        }
        self.left -= 1;
        if self.left == 0 {
            return Match::Whole;
        }
        self.count = self.count.saturating_sub(1);
        Match::Part
    }
}

fn whole(is_it: bool) -> Match {
    if is_it { Match::Whole } else { Match::No }
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

fn take_event(event: &Event, filters: &mut Vec<Filter>, values: &[Value]) -> Match {
    let found = match values {
        [word, topic, payload] if is_bulk(topic, event.topic) => {
            let kind = match word {
                Value::Bulk(word) if word == b"message" => FilterKind::Topic,
                Value::Bulk(word) if word == b"smessage" => FilterKind::ShardChannel,
                _ => return Match::No,
            };
            is_bulk(payload, &event.payload).then_some((kind, event.topic))
        }
        [word, Value::Bulk(glob), topic, payload] if is_bulk(topic, event.topic) => {
            let is_it = is_bulk(word, b"pmessage") && is_bulk(payload, &event.payload);
            let filter = filters
                .iter()
                .find(|(kind, name)| *kind == FilterKind::Glob && name == glob);
            filter.copied().filter(|_| is_it)
        }
        _ => None,
    };
    let place = filters.iter().position(|&filter| Some(filter) == found);
    let Some(place) = place else {
        return Match::No;
    };
    filters.remove(place);
    if filters.is_empty() {
        Match::Whole
    } else {
        Match::Part
    }
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

fn is_names(value: &Value, names: &BTreeSet<Name>) -> bool {
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
    values.len() == names.len() && found.iter().eq(names.iter())
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
