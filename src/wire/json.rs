//! The JSON protocol, as `JSON.md` beside this file specifies it: the native protocol written as text.
//!
//! Owns how requests are read and frames are written; must not know how they travel, as lines or in
//! WebSocket messages, nor connections. Start at [`Request::parse`] and [`write_event`].

mod wrong;

use crate::headers::Headers;
use crate::native::{self, Parts, PartsError, Policy, When};
use crate::state::StoredMessage;
use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;
use wrong::Wrong;

/// Largest request id: the largest whole number that JSON libraries keep exactly.
const ID_MAX: u64 = 9_007_199_254_740_991;

/// A JSON string: as it stands in the input where it holds no escapes.
#[derive(Debug, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A field that is there has a value: `null` is none.
fn given<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// All fields that any request may have.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct Fields<'a> {
    #[serde(borrow)]
    op: Text<'a>,
    #[serde(default, deserialize_with = "given")]
    id: Option<u64>,
    #[serde(borrow, default, deserialize_with = "given")]
    topic: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "given")]
    data: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "given")]
    data_b64: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "given")]
    reply: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "given")]
    headers: Option<Vec<(Text<'a>, Text<'a>)>>,
    #[serde(default, deserialize_with = "given")]
    last: Option<bool>,
    #[serde(borrow, default, deserialize_with = "given")]
    when: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "given")]
    filter: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "given")]
    group: Option<Text<'a>>,
    #[serde(default, deserialize_with = "given")]
    member: Option<u32>,
    #[serde(borrow, default, deserialize_with = "given")]
    user: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "given")]
    password: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "given")]
    name: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "given")]
    library: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "given")]
    policy: Option<Text<'a>>,
    #[serde(default, deserialize_with = "given")]
    version: Option<u64>,
}

/// A client's request, and the id under which it wants an answer.
#[derive(Debug)]
pub struct Request<'a> {
    /// What its answer carries.
    pub id: Option<u64>,
    /// What it asks for.
    pub op: Op<'a>,
}

/// What a request asks for. Names are as they came: nothing in them has been checked.
#[derive(Debug)]
pub enum Op<'a> {
    /// Opens the connection.
    Hello(Hello<'a>),
    /// Publishes.
    Publish(Publish<'a>),
    /// Subscribes.
    Subscribe(Subscription<'a>),
    /// Unsubscribes.
    Unsubscribe(Subscription<'a>),
    /// Asks for an answer.
    Ping,
    /// Ends all subscriptions.
    Drain,
}

/// Who a client is.
#[derive(Debug)]
pub struct Hello<'a> {
    /// The user, if one is named.
    pub user: Option<Cow<'a, str>>,
    /// The password.
    pub password: Option<Cow<'a, str>>,
    /// For people to read.
    pub name: Cow<'a, str>,
    /// `name/version`.
    pub library: Cow<'a, str>,
    /// What happens when it reads too slowly.
    pub policy: Option<Policy>,
    /// The version that it speaks, if it says so.
    pub version: Option<u64>,
}

/// A message to be published.
#[derive(Debug)]
pub struct Publish<'a> {
    /// What it is published to.
    pub topic: Cow<'a, str>,
    /// What it carries.
    pub payload: Cow<'a, [u8]>,
    /// When it is answered.
    pub when: When,
    reply: Option<Text<'a>>,
    headers: Vec<(Text<'a>, Text<'a>)>,
    last: bool,
}

impl Publish<'_> {
    /// Where replies go.
    pub fn reply(&self) -> Option<&[u8]> {
        self.reply.as_ref().map(|reply| reply.0.as_bytes())
    }

    /// Appends reply topic and headers in the native form; gives the native flags. All or nothing.
    pub fn write_attributes(&self, out: &mut Vec<u8>) -> Result<u8, PartsError> {
        let headers = self.headers.iter();
        let headers: Vec<(&[u8], &[u8])> = headers
            .map(|(name, value)| (name.0.as_bytes(), value.0.as_bytes()))
            .collect();
        let parts = Parts {
            topic: self.topic.as_bytes(),
            reply: self.reply(),
            headers: &headers,
            is_end: self.last,
            payload: &self.payload,
        };
        parts.write_attributes(out)
    }
}

/// What is subscribed to.
#[derive(Debug)]
pub struct Subscription<'a> {
    /// A topic or wildcard.
    pub filter: Cow<'a, str>,
    /// The group; empty for none.
    pub group: Cow<'a, str>,
    /// The client's number for this member of it.
    pub member: u32,
}

/// Why a frame is no request.
#[derive(Debug)]
pub struct RequestError {
    /// The request's id, if that could be read.
    pub id: Option<u64>,
    text: String,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for RequestError {}

/// Why a text is no base64.
fn not_base64(text: &str, error: DecodeError) -> String {
    let why = match error {
        DecodeError::InvalidByte(place, byte) => format!(
            "`{}` stands at byte {}, and only A-Z, a-z, 0-9, + and / may, and = at the end",
            byte.escape_ascii(),
            place + 1
        ),
        DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => format!(
            "it has {} bytes, and with = at the end it has a multiple of 4",
            text.len()
        ),
        DecodeError::InvalidLastSymbol { offset, symbol, .. } => format!(
            "`{}` at byte {} says more bits than the last byte has",
            symbol.escape_ascii(),
            offset + 1
        ),
    };
    format!("`data_b64` is no base64: {why}")
}

/// A field that must be there.
fn need<'a>(field: &mut Option<Text<'a>>, name: &str) -> Result<Cow<'a, str>, String> {
    let text = field.take().map(|text| text.0);
    text.ok_or_else(|| format!("the field `{name}` is missing"))
}

fn optional<'a>(field: &mut Option<Text<'a>>) -> Option<Cow<'a, str>> {
    field.take().map(|text| text.0)
}

impl<'a> Fields<'a> {
    fn publish(&mut self) -> Result<Publish<'a>, String> {
        let topic = need(&mut self.topic, "topic")?;
        let payload = match (self.data.take(), self.data_b64.take()) {
            (None, None) => Cow::Borrowed(&b""[..]),
            (Some(Text(Cow::Borrowed(text))), None) => Cow::Borrowed(text.as_bytes()),
            (Some(Text(Cow::Owned(text))), None) => Cow::Owned(text.into_bytes()),
            (None, Some(Text(text))) => {
                let bytes = STANDARD.decode(text.as_bytes());
                Cow::Owned(bytes.map_err(|error| not_base64(&text, error))?)
            }
            (Some(_), Some(_)) => {
                return Err("only one of `data` and `data_b64` may be given".to_string());
            }
        };
        let when = match optional(&mut self.when).as_deref() {
            None | Some("always") => When::Always,
            Some("unheard") if self.id.is_some() => When::Unheard,
            Some("unheard") => return Err("`when` \"unheard\" needs an `id`".to_string()),
            Some(_) => return Err("`when` is \"always\" or \"unheard\"".to_string()),
        };
        Ok(Publish {
            topic,
            payload,
            when,
            reply: self.reply.take(),
            headers: self.headers.take().unwrap_or_default(),
            last: self.last.take().unwrap_or_default(),
        })
    }

    fn subscription(&mut self) -> Result<Subscription<'a>, String> {
        let filter = need(&mut self.filter, "filter")?;
        let group = optional(&mut self.group).unwrap_or_default();
        let member = self.member.take().unwrap_or_default();
        if group.is_empty() && member != 0 {
            return Err("`member` belongs to a `group`".to_string());
        }
        if group.len() > usize::from(u8::MAX) {
            return Err("`group` has at most 255 bytes".to_string());
        }
        Ok(Subscription {
            filter,
            group,
            member,
        })
    }

    fn hello(&mut self) -> Result<Hello<'a>, String> {
        let policy = match optional(&mut self.policy) {
            None => None,
            Some(name) => Some(Policy::from_name(&name).ok_or_else(|| {
                "`policy` is \"close\", \"drop-oldest\" or \"latest\"".to_string()
            })?),
        };
        let hello = Hello {
            user: optional(&mut self.user),
            password: optional(&mut self.password),
            name: optional(&mut self.name).unwrap_or_default(),
            library: optional(&mut self.library).unwrap_or_default(),
            policy,
            version: self.version.take(),
        };
        if hello.name.len().max(hello.library.len()) > usize::from(u8::MAX) {
            return Err("`name` and `library` have at most 255 bytes".to_string());
        }
        Ok(hello)
    }

    fn op(&mut self) -> Result<Op<'a>, String> {
        if self.id.is_some_and(|id| id == 0 || id > ID_MAX) {
            self.id = None;
            return Err(format!("`id` is a whole number from 1 to {ID_MAX}"));
        }
        let op = match &*self.op.0 {
            "hello" => Op::Hello(self.hello()?),
            "publish" => Op::Publish(self.publish()?),
            "subscribe" => Op::Subscribe(self.subscription()?),
            "unsubscribe" => Op::Unsubscribe(self.subscription()?),
            "ping" => Op::Ping,
            "drain" => Op::Drain,
            _ => {
                return Err(
                    "`op` is \"hello\", \"publish\", \"subscribe\", \"unsubscribe\", \"ping\" or \"drain\""
                        .to_string(),
                );
            }
        };
        match self.left() {
            None => Ok(op),
            Some(field) => Err(format!("\"{}\" has no field `{field}`", self.op.0)),
        }
    }

    /// A field that the request has and nothing took.
    fn left(&self) -> Option<&'static str> {
        let texts = [
            (&self.topic, "topic"),
            (&self.data, "data"),
            (&self.data_b64, "data_b64"),
            (&self.reply, "reply"),
            (&self.when, "when"),
            (&self.filter, "filter"),
            (&self.group, "group"),
            (&self.user, "user"),
            (&self.password, "password"),
            (&self.name, "name"),
            (&self.library, "library"),
            (&self.policy, "policy"),
        ];
        let text = texts.into_iter().find(|(text, _)| text.is_some());
        let others = [
            (self.headers.is_some(), "headers"),
            (self.last.is_some(), "last"),
            (self.member.is_some(), "member"),
            (self.version.is_some(), "version"),
        ];
        let other = others.into_iter().find(|(is_there, _)| *is_there);
        text.map(|(_, name)| name).or(other.map(|(_, name)| name))
    }
}

impl<'a> Request<'a> {
    /// Reads a frame.
    ///
    /// Cost: names and payloads are copied only where they hold escapes, or base64.
    pub fn parse(frame: &'a [u8]) -> Result<Request<'a>, RequestError> {
        let mut fields: Fields<'a> = match serde_json::from_slice(frame) {
            Ok(fields) => fields,
            // Whoever waits for an answer gets it, if it can be told whose it is.
            Err(_) => {
                let Wrong { id, text } = Wrong::of(frame);
                return Err(RequestError { id, text });
            }
        };
        let op = fields.op();
        let id = fields.id;
        match op {
            Ok(op) => Ok(Request { id, op }),
            Err(text) => Err(RequestError { id, text }),
        }
    }
}

/// Bytes in base64, with padding.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of a base64 text.
pub fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Writes a JSON string.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    // invariant: writing to a Vec cannot fail.
    serde_json::to_writer(out, text).expect("room for a text");
}

fn write_field(out: &mut Vec<u8>, name: &str, text: &str) {
    out.push(b',');
    write_text(out, name);
    out.push(b':');
    write_text(out, text);
}

fn write_number(out: &mut Vec<u8>, name: &str, number: u64) {
    out.push(b',');
    write_text(out, name);
    out.push(b':');
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Whether a payload is written as text.
fn as_text(payload: &[u8]) -> Option<&str> {
    let is_plain = |byte: &u8| *byte >= 0x20 || matches!(byte, b'\t' | b'\n' | b'\r');
    let text = std::str::from_utf8(payload).ok()?;
    payload.iter().all(is_plain).then_some(text)
}

/// Writes what the `message`s of one topic begin with, to be given to [`write_event`] with each.
pub fn write_message_head(out: &mut Vec<u8>, topic: &str) {
    out.extend_from_slice(b"{\"op\":\"message\",\"topic\":");
    write_text(out, topic);
}

/// The same of a `turn`.
pub fn write_turn_head(out: &mut Vec<u8>, member: u32, topic: &str) {
    out.extend_from_slice(b"{\"op\":\"turn\"");
    write_number(out, "member", u64::from(member));
    write_field(out, "topic", topic);
}

/// The same of an event sent by the server, which has no `op`.
pub fn write_sse_head(out: &mut Vec<u8>, topic: &str) {
    out.extend_from_slice(b"{\"topic\":");
    write_text(out, topic);
}

/// Writes the gap notice of server-sent events; without a number, it is not known how many events are missing.
pub fn write_sse_gap(out: &mut Vec<u8>, events: Option<u64>) {
    out.extend_from_slice(b"event: gap\ndata: {\"events\":");
    match events {
        Some(events) => out.extend_from_slice(itoa::Buffer::new().format(events).as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b"}\n\n");
}

/// Writes an event behind its head: reply topic and headers, given natively, and the payload. A reply topic that is not UTF-8
/// is left out; of a header that is not, what is wrong is replaced.
pub fn write_event(out: &mut Vec<u8>, flags: u8, attributes: &[u8], payload: &[u8]) {
    if flags != 0 {
        write_attributes(out, flags, attributes);
    }
    write_data(out, payload);
    out.push(b'}');
}

/// Writes a message of a stream, an object of one line: `seq`, `time_ms`, `topic`, `headers` if it has some, `data` or
/// `data_b64`. What is wrong in a topic or header that is not UTF-8 is replaced.
pub fn write_stored(out: &mut Vec<u8>, message: &StoredMessage<'_>) {
    out.extend_from_slice(b"{\"seq\":");
    let mut number = itoa::Buffer::new();
    out.extend_from_slice(number.format(message.sequence.0).as_bytes());
    write_number(out, "time_ms", message.ms);
    write_field(out, "topic", &String::from_utf8_lossy(message.topic));
    let headers = match message.headers.starts_with(BLOCK_START) {
        true => Headers::of_block(message.headers),
        false => Headers::of_pairs(message.headers),
    };
    if !message.headers.is_empty() {
        write_headers(out, headers);
    }
    write_data(out, message.body);
    out.push(b'}');
}

/// A block of headers begins so, and of pairs none but a name of 78 bytes that nobody gives.
const BLOCK_START: &[u8] = b"NATS/1.0";

fn write_data(out: &mut Vec<u8>, payload: &[u8]) {
    if payload.is_empty() {
        return out.extend_from_slice(b",\"data\":\"\"");
    }
    match as_text(payload) {
        Some(text) => {
            out.extend_from_slice(b",\"data\":");
            write_text(out, text);
        }
        None => {
            out.extend_from_slice(b",\"data_b64\":\"");
            let start = out.len();
            out.resize(start + payload.len().div_ceil(3) * 4, 0);
            let written = STANDARD.encode_slice(payload, &mut out[start..]);
            // invariant: base64 takes four bytes for each three.
            written.expect("room for base64");
            out.push(b'"');
        }
    }
}

fn write_attributes(out: &mut Vec<u8>, flags: u8, attributes: &[u8]) {
    let reply = native::attributes_reply(flags, attributes);
    if let Some(reply) = reply.and_then(|reply| std::str::from_utf8(reply).ok()) {
        write_field(out, "reply", reply);
    }
    if flags & native::flag::HEADERS != 0 {
        write_headers(out, native::attributes_headers(flags, attributes));
    }
    if flags & native::flag::END != 0 {
        out.extend_from_slice(b",\"last\":true");
    }
}

fn write_headers(out: &mut Vec<u8>, headers: Headers<'_>) {
    out.extend_from_slice(b",\"headers\":[");
    for (place, (name, value)) in headers.enumerate() {
        out.extend_from_slice(if place > 0 { b",[" } else { b"[" });
        write_text(out, &String::from_utf8_lossy(name));
        out.push(b',');
        write_text(out, &String::from_utf8_lossy(value));
        out.push(b']');
    }
    out.push(b']');
}

/// Most bytes of an event behind its head, but for the payload's own text: for who makes room.
pub fn event_room(attributes: &[u8], payload: &[u8]) -> usize {
    const NAMES: usize = 96;
    NAMES + 6 * attributes.len() + 2 * payload.len()
}

/// Writes `welcome`.
pub fn write_welcome(out: &mut Vec<u8>, id: Option<u64>, welcome: &native::Welcome<'_>) {
    out.extend_from_slice(b"{\"op\":\"welcome\"");
    if let Some(id) = id {
        write_number(out, "id", id);
    }
    write_number(out, "version", u64::from(welcome.version));
    write_field(out, "broker", welcome.broker);
    write_number(out, "client", welcome.client);
    write_field(out, "run", welcome.run);
    write_number(out, "payload_max", u64::from(welcome.payload_max));
    out.push(b'}');
}

/// Writes `ok`.
pub fn write_ok(out: &mut Vec<u8>, id: u64, count: u64) {
    let reached = native::Reached {
        subscriptions: count,
        is_beyond: false,
    };
    write_published(out, id, reached);
}

/// Writes `ok` for what was published; `beyond` stands only where it is true.
pub fn write_published(out: &mut Vec<u8>, id: u64, reached: native::Reached) {
    out.extend_from_slice(b"{\"op\":\"ok\"");
    write_number(out, "id", id);
    write_number(out, "count", reached.subscriptions);
    if reached.is_beyond {
        out.extend_from_slice(b",\"beyond\":true");
    }
    out.push(b'}');
}

/// Writes `error`.
pub fn write_error(out: &mut Vec<u8>, id: Option<u64>, code: &str, text: &str) {
    out.extend_from_slice(b"{\"op\":\"error\"");
    if let Some(id) = id {
        write_number(out, "id", id);
    }
    write_field(out, "code", code);
    write_field(out, "text", text);
    out.push(b'}');
}

/// Writes `gap`.
pub fn write_gap(out: &mut Vec<u8>, events: u64) {
    out.extend_from_slice(b"{\"op\":\"gap\"");
    write_number(out, "events", events);
    out.push(b'}');
}

/// Writes `draining`.
pub fn write_draining(out: &mut Vec<u8>, milliseconds: u32) {
    out.extend_from_slice(b"{\"op\":\"draining\"");
    write_number(out, "ms", u64::from(milliseconds));
    out.push(b'}');
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
