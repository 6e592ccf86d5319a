//! Paths and queries under `/v1/streams`.
//!
//! Owns which request each is, and the names of parameters. Must not know configurations, nor who answers. Start at
//! [`find`].

use super::super::routes::{NoRoute, invalid, refuse};
use super::read::{ReadAsked, Shape};
use sapwood_wire::http::{Head, Method, decode, query_pairs};
use sapwood_wire::limits::LIST_STREAMS_MAX;
use sapwood_wire::state::{PurgeOf, ReadStart, ResumeToken, Sequence, Which as AskWhich};

/// What a request under `/v1/streams` asks for. Names are as they came.
#[derive(Debug)]
pub(in super::super) enum StreamRoute {
    List(Page),
    Info(Vec<u8>),
    Put(Vec<u8>),
    Delete(Vec<u8>),
    Append(Append),
    Purge(Purge),
    Get(Vec<u8>, Which),
    DeleteMessage(Vec<u8>, Sequence),
    Read(Box<ReadAsked>),
}

/// Which part of the list of streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Page {
    pub after: Vec<u8>,
    pub prefix: Vec<u8>,
    pub limit: u16,
}

/// A message for a stream.
#[derive(Debug)]
pub(in super::super) struct Append {
    pub stream: Vec<u8>,
    pub topic: Vec<u8>,
    pub conditions: Conditions,
}

/// How a message is to be stored; `None` where the request says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Conditions {
    pub id: Option<Vec<u8>>,
    pub expected_last: Option<u64>,
    pub expected_last_of_topic: Option<u64>,
    pub ttl_ms: Option<u64>,
}

/// Which messages to remove.
#[derive(Debug)]
pub(in super::super) struct Purge {
    pub stream: Vec<u8>,
    filter: Option<Vec<u8>>,
    before: u64,
    keep: u64,
}

impl Purge {
    pub(super) fn request(&self) -> PurgeOf<'_> {
        PurgeOf {
            stream: &self.stream,
            filter: self.filter.as_deref(),
            before: Sequence(self.before),
            keep: self.keep,
        }
    }
}

/// Which message.
#[derive(Debug)]
pub(in super::super) enum Which {
    Sequence(Sequence),
    LastOf(Vec<u8>),
}

impl Which {
    pub(super) fn request(&self) -> AskWhich<'_> {
        match self {
            Which::Sequence(sequence) => AskWhich::Sequence(*sequence),
            Which::LastOf(topic) => AskWhich::LastOf(topic),
        }
    }
}

/// The stream of a path, percent-encoded, and what stands behind it. Empty names are none.
fn split(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/v1/streams")?;
    match rest {
        "" | "/" => Some(("", "")),
        _ => {
            let rest = rest.strip_prefix('/')?;
            let (stream, behind) = rest.split_once('/').unwrap_or((rest, ""));
            (!stream.is_empty()).then_some((stream, behind))
        }
    }
}

/// The methods that a path takes; `None` if there is nothing at it.
pub(in super::super) fn allows(path: &str) -> Option<&'static str> {
    let (stream, behind) = split(path)?;
    match (stream, behind) {
        ("", _) => Some("GET, OPTIONS"),
        (_, "") => Some("GET, PUT, POST, DELETE, OPTIONS"),
        (_, "purge") => Some("POST, OPTIONS"),
        (_, "messages") => Some("GET, OPTIONS"),
        (_, one) => {
            let message = one.strip_prefix("messages/")?;
            (!message.contains('/')).then_some("GET, DELETE, OPTIONS")
        }
    }
}

/// The values of parameters, each of which may stand once unless it is a list.
struct Parameters(Vec<(Vec<u8>, Vec<u8>)>);

impl Parameters {
    fn of(head: &Head<'_>) -> Result<Parameters, NoRoute> {
        let wrong = || invalid("a `%` is followed by two hexadecimal digits");
        let pairs = query_pairs(head.query).map(|pair| pair.ok_or_else(wrong));
        Ok(Parameters(pairs.collect::<Result<_, _>>()?))
    }

    /// The last value of a parameter that is not empty.
    fn text(&mut self, name: &str) -> Option<Vec<u8>> {
        let mut values = self.all(name);
        values.pop().filter(|value| !value.is_empty())
    }

    fn all(&mut self, name: &str) -> Vec<Vec<u8>> {
        let meant = self.0.extract_if(.., |(other, _)| other == name.as_bytes());
        meant.map(|(_, value)| value).collect()
    }

    fn number(&mut self, name: &str) -> Result<Option<u64>, NoRoute> {
        let Some(value) = self.text(name) else {
            return Ok(None);
        };
        match number_of(&value) {
            Some(number) => Ok(Some(number)),
            None => Err(invalid(&format!("`{name}` is a whole number"))),
        }
    }
}

fn number_of(text: &[u8]) -> Option<u64> {
    let is_number = text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| is_number)?;
    text.parse().ok()
}

impl Conditions {
    /// Those of a publish that is to be stored.
    pub(in super::super) fn of(head: &Head<'_>) -> Result<Conditions, NoRoute> {
        Conditions::read(head, &mut Parameters::of(head)?)
    }

    fn read(head: &Head<'_>, query: &mut Parameters) -> Result<Conditions, NoRoute> {
        let id = head.only("nats-msg-id").map(<[u8]>::to_vec);
        Ok(Conditions {
            id: query.text("id").or(id),
            expected_last: query.number("expected_last")?,
            expected_last_of_topic: query.number("expected_last_of_topic")?,
            ttl_ms: query.number("ttl_ms")?,
        })
    }

    /// The headers that say the same, by which every reader sees them.
    pub(in super::super) fn headers(&self) -> Vec<(&'static [u8], Vec<u8>)> {
        let number = |name: &'static str, value: Option<u64>, unit: &str| {
            value.map(|value| (name.as_bytes(), format!("{value}{unit}").into_bytes()))
        };
        let id = self.id.clone().map(|id| (&b"Nats-Msg-Id"[..], id));
        let all = [
            id,
            number("Nats-Expected-Last-Sequence", self.expected_last, ""),
            number(
                "Nats-Expected-Last-Subject-Sequence",
                self.expected_last_of_topic,
                "",
            ),
            number("Nats-TTL", self.ttl_ms, "ms"),
        ];
        all.into_iter().flatten().collect()
    }
}

/// The request of a method and path that [`allows`] each other.
pub(in super::super) fn find(head: &Head<'_>) -> Result<StreamRoute, NoRoute> {
    let (stream, behind) = split(head.path).unwrap_or_default();
    let wrong = || invalid("a `%` is followed by two hexadecimal digits");
    let stream = decode(stream, false).ok_or_else(wrong)?;
    let mut query = Parameters::of(head)?;
    Ok(match (stream.is_empty(), behind, head.method) {
        (true, _, _) => StreamRoute::List(page(&mut query)?),
        (_, "", Method::Put) => StreamRoute::Put(stream),
        (_, "", Method::Delete) => StreamRoute::Delete(stream),
        (_, "", Method::Post) => StreamRoute::Append(Append {
            topic: query.text("topic").unwrap_or_else(|| stream.clone()),
            conditions: Conditions::read(head, &mut query)?,
            stream,
        }),
        (_, "", _) => StreamRoute::Info(stream),
        (_, "purge", _) => StreamRoute::Purge(Purge {
            filter: query.text("filter"),
            before: query.number("before")?.unwrap_or(u64::MAX),
            keep: query.number("keep")?.unwrap_or(0),
            stream,
        }),
        (_, "messages", _) => StreamRoute::Read(Box::new(read(stream, head, &mut query)?)),
        (_, one, method) => message(stream, one, method, &mut query)?,
    })
}

fn page(query: &mut Parameters) -> Result<Page, NoRoute> {
    let most = u64::from(LIST_STREAMS_MAX);
    let limit = query.number("limit")?.unwrap_or(most).clamp(1, most);
    Ok(Page {
        after: query.text("after").unwrap_or_default(),
        prefix: query.text("prefix").unwrap_or_default(),
        limit: limit as u16,
    })
}

fn message(
    stream: Vec<u8>,
    behind: &str,
    method: Method,
    query: &mut Parameters,
) -> Result<StreamRoute, NoRoute> {
    let which = behind.strip_prefix("messages/").unwrap_or_default();
    if which == "last" && method != Method::Delete {
        let topic = query.text("topic");
        let topic = topic.ok_or_else(|| invalid("name a topic: messages/last?topic="))?;
        return Ok(StreamRoute::Get(stream, Which::LastOf(topic)));
    }
    let wrong = || invalid("a message is named by its sequence, or as last?topic=");
    let sequence = Sequence(number_of(which.as_bytes()).ok_or_else(wrong)?);
    Ok(match method {
        Method::Delete => StreamRoute::DeleteMessage(stream, sequence),
        _ => StreamRoute::Get(stream, Which::Sequence(sequence)),
    })
}

fn read(stream: Vec<u8>, head: &Head<'_>, query: &mut Parameters) -> Result<ReadAsked, NoRoute> {
    let shape = match head.lists("accept", "text/event-stream") {
        true => Shape::Events,
        false => Shape::Lines,
    };
    // A client that comes back knows better than the address it first asked for.
    let last = head.values("last-event-id").find(|id| !id.is_empty());
    let in_query = query.text("lastEventId");
    let last = last.map(<[u8]>::to_vec).or(in_query);
    let token = last
        .filter(|_| shape == Shape::Events)
        .or(query.text("after"));
    let time = query.number("time_ms")?;
    let from = query.text("from");
    let start = match (token, time, from.as_deref()) {
        (Some(token), ..) => {
            let token = std::str::from_utf8(&token).ok();
            let token = token.and_then(|token| token.parse::<ResumeToken>().ok());
            let wrong = || {
                refuse(
                    400,
                    "token_invalid",
                    &sapwood_wire::state::TokenError.to_string(),
                )
            };
            ReadStart::Resume(token.ok_or_else(wrong)?)
        }
        (None, Some(ms), _) => ReadStart::Time(ms),
        (None, None, None | Some(b"first")) => ReadStart::First,
        (None, None, Some(b"last")) => ReadStart::Last,
        (None, None, Some(b"new")) => ReadStart::New,
        (None, None, Some(b"last-per-topic")) => ReadStart::LastOfEach,
        (None, None, Some(text)) => {
            let wrong = || invalid("`from` is first, last, new, last-per-topic or a sequence");
            ReadStart::Sequence(Sequence(number_of(text).ok_or_else(wrong)?))
        }
    };
    let limit = query.number("limit")?;
    if limit.is_some() && start == ReadStart::LastOfEach {
        return Err(invalid("`limit` does not go with from=last-per-topic"));
    }
    let filters = query.all("filter");
    if filters.len() > sapwood_wire::limits::STREAM_FILTERS_MAX {
        return Err(invalid("at most 64 filters at once"));
    }
    Ok(ReadAsked {
        stream,
        filters,
        start,
        limit: limit.unwrap_or(u64::MAX).max(1),
        shape,
    })
}
