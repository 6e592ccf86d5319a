//! The NATS client protocol: operations of clients out of bytes, and what they are sent as bytes.
//!
//! A line of words, separated by blanks and ended by CR LF (a client may leave the CR out), and for
//! some operations a body behind it. Owns the grammar as nats-server has it and the texts of its errors;
//! must not know connections or subscriptions. Everything is bounded by [`Caps`], before it has come.
//! Start at [`parse`].

use memchr::memchr;
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt;

/// Ends every line and every body.
pub const END: &[u8] = b"\r\n";

/// Most digits of a body's length, as in nats-server.
const LENGTH_DIGITS_MAX: usize = 9;

/// Most bytes of an operation's name and what ends its line, which the cap on its arguments leaves out.
const OPERATION_BYTES_MAX: usize = 16;

/// How much a client may send at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Most bytes of a line's arguments.
    pub line: usize,
    /// Most bytes of a body, headers included.
    pub body: usize,
}

/// What a client asks for. All names are as they came: nothing in them has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// CONNECT: its JSON, see [`Connect`].
    Connect(&'a [u8]),
    /// PUB or HPUB.
    Publish(Publish<'a>),
    /// SUB.
    Subscribe {
        /// What is to be heard.
        subject: &'a [u8],
        /// The group whose member the subscriber is.
        queue: Option<&'a [u8]>,
        /// The client's name for the subscription.
        sid: &'a [u8],
    },
    /// UNSUB.
    Unsubscribe {
        /// The client's name for the subscription.
        sid: &'a [u8],
        /// It ends after so many messages in all; 0: now.
        after: u64,
    },
    /// PING.
    Ping,
    /// PONG.
    Pong,
    /// What servers say, and clients may repeat: nothing to be done.
    Ignored,
}

/// A message of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Where to.
    pub subject: &'a [u8],
    /// Where replies go.
    pub reply: Option<&'a [u8]>,
    /// The block of headers with the empty line that ends it; empty if there is none.
    pub headers: &'a [u8],
    /// What it carries.
    pub payload: &'a [u8],
}

/// What stands at the start of some input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A whole operation.
    Operation {
        /// It.
        operation: Operation<'a>,
        /// Its bytes in the input.
        length: usize,
    },
    /// The operation is not whole.
    Incomplete {
        /// Parsing is of use again once so many bytes stand.
        needed: usize,
    },
}

/// Why bytes are no operation. The connection that they came from cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// No operation of a client, or not its arguments, or a body that does not end where it should.
    Unknown,
    /// The arguments have more bytes than allowed.
    LineTooLong,
    /// The body has more bytes than allowed.
    BodyTooLong,
}

impl Violation {
    /// nats-server's words for it.
    pub fn text(self) -> &'static str {
        match self {
            Violation::Unknown => "Unknown Protocol Operation",
            Violation::LineTooLong => "maximum control line exceeded",
            Violation::BodyTooLong => "Maximum Payload Violation",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Violation {}

/// What CONNECT says. What is left out is as in nats-server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Every operation is answered by +OK.
    pub verbose: bool,
    /// Subjects of publishes are checked.
    pub pedantic: bool,
    /// Whether the client's subscriptions hear what it publishes itself.
    pub echo: bool,
    /// Whether it understands messages with headers.
    pub headers: bool,
    /// Whether it wants to be told when nobody heard a request.
    pub no_responders: bool,
    /// 1: it understands INFO at any time.
    pub protocol: i64,
    /// Who it is.
    pub user: Option<String>,
    /// Proof of that.
    pub pass: Option<String>,
    /// Proof without a name.
    pub auth_token: Option<String>,
    /// How it calls itself.
    pub name: Option<String>,
    /// The language of its library.
    pub lang: Option<String>,
    /// The version of its library.
    pub version: Option<String>,
}

impl Default for Connect {
    fn default() -> Connect {
        Connect {
            verbose: true,
            pedantic: true,
            echo: true,
            headers: false,
            no_responders: false,
            protocol: 0,
            user: None,
            pass: None,
            auth_token: None,
            name: None,
            lang: None,
            version: None,
        }
    }
}

impl Connect {
    /// Takes over what the argument of CONNECT says, and leaves the rest as it was: a client may say CONNECT
    /// again. As in nats-server, names may have letters of any case, and null says nothing.
    pub fn update(&mut self, json: &[u8]) -> Result<(), Violation> {
        if json.first() != Some(&b'{') {
            return Err(Violation::Unknown);
        }
        let fields: Map<String, Value> =
            serde_json::from_slice(json).map_err(|_| Violation::Unknown)?;
        for (name, value) in fields {
            if !value.is_null() {
                self.set(&name.to_ascii_lowercase(), value)?;
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: Value) -> Result<(), Violation> {
        let flag = match name {
            "verbose" => &mut self.verbose,
            "pedantic" => &mut self.pedantic,
            "echo" => &mut self.echo,
            "headers" => &mut self.headers,
            "no_responders" => &mut self.no_responders,
            "protocol" => {
                self.protocol = value.as_i64().ok_or(Violation::Unknown)?;
                return Ok(());
            }
            _ => return self.set_text(name, value),
        };
        *flag = value.as_bool().ok_or(Violation::Unknown)?;
        Ok(())
    }

    fn set_text(&mut self, name: &str, value: Value) -> Result<(), Violation> {
        let text = match name {
            "user" => &mut self.user,
            "pass" => &mut self.pass,
            "auth_token" => &mut self.auth_token,
            "name" => &mut self.name,
            "lang" => &mut self.lang,
            "version" => &mut self.version,
            _ => return Ok(()),
        };
        match value {
            Value::String(value) => *text = Some(value),
            _ => return Err(Violation::Unknown),
        }
        Ok(())
    }

    /// Whether it says anything of who the client is.
    pub fn has_proof(&self) -> bool {
        self.user.is_some() || self.pass.is_some() || self.auth_token.is_some()
    }
}

/// What INFO says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Info<'a> {
    /// The node's random name for this run.
    pub server_id: &'a str,
    /// What the broker calls itself.
    pub server_name: &'a str,
    /// The version of nats-server whose protocol it speaks.
    pub version: &'a str,
    /// 1: INFO may come at any time.
    pub proto: u8,
    /// Where the client connected to.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether messages may have headers.
    pub headers: bool,
    /// Most bytes of a body.
    pub max_payload: usize,
    /// The client's number.
    pub client_id: u64,
    /// The client's own address.
    pub client_ip: String,
    /// Whether CONNECT must prove who the client is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub auth_required: bool,
    /// The broker is about to close all connections.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ldm: bool,
    /// Where else a client can connect: addresses of other nodes.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub connect_urls: &'a [String],
}

/// Looks at what stands at the start of the input.
///
/// Cost: one look at each byte of a line, none at those of a body.
pub fn parse(input: &[u8], caps: Caps) -> Result<Parsed<'_>, Violation> {
    let line_max = caps.line + OPERATION_BYTES_MAX;
    let window = &input[..input.len().min(line_max)];
    let Some(end) = memchr(b'\n', window) else {
        if window.len() == line_max {
            return Err(Violation::LineTooLong);
        }
        let needed = input.len() + 1;
        return Ok(Parsed::Incomplete { needed });
    };
    let line = window[..end].strip_suffix(b"\r").unwrap_or(&window[..end]);
    let (name, arguments) = split_name(line);
    if arguments.len() > caps.line {
        return Err(Violation::LineTooLong);
    }
    let is = |operation: &[u8]| name.eq_ignore_ascii_case(operation);
    let length = end + 1;
    let operation = if is(b"PUB") {
        return publish(input, length, arguments, Kind::Plain, caps);
    } else if is(b"HPUB") {
        return publish(input, length, arguments, Kind::WithHeaders, caps);
    } else if is(b"SUB") {
        subscribe(arguments)?
    } else if is(b"UNSUB") {
        unsubscribe(arguments)?
    } else if is(b"CONNECT") {
        Operation::Connect(arguments)
    } else if is(b"PING") {
        Operation::Ping
    } else if is(b"PONG") {
        Operation::Pong
    } else if is(b"+OK") || is(b"INFO") {
        Operation::Ignored
    } else {
        return Err(Violation::Unknown);
    };
    Ok(Parsed::Operation { operation, length })
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// The name of an operation, and its arguments without the blanks around them.
fn split_name(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|&byte| is_blank(byte));
    let (name, arguments) = line.split_at(end.unwrap_or(line.len()));
    (name, arguments.trim_ascii())
}

/// The words of a line, if they are not more than it can have.
fn words<const MOST: usize>(arguments: &[u8]) -> Result<([&[u8]; MOST], usize), Violation> {
    let mut words: [&[u8]; MOST] = [&[]; MOST];
    let mut count = 0;
    for word in arguments.split(|&byte| is_blank(byte)) {
        if !word.is_empty() {
            *words.get_mut(count).ok_or(Violation::Unknown)? = word;
            count += 1;
        }
    }
    Ok((words, count))
}

/// A number as nats-server reads lengths: digits only, leading zeros allowed.
fn number(digits: &[u8]) -> Result<usize, Violation> {
    if digits.is_empty() || digits.len() > LENGTH_DIGITS_MAX {
        return Err(Violation::Unknown);
    }
    digits.iter().try_fold(0, |number, &digit| match digit {
        b'0'..=b'9' => Ok(number * 10 + usize::from(digit - b'0')),
        _ => Err(Violation::Unknown),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    WithHeaders,
}

/// PUB or HPUB, whose body begins at `body`.
fn publish<'a>(
    input: &'a [u8],
    body: usize,
    arguments: &'a [u8],
    kind: Kind,
    caps: Caps,
) -> Result<Parsed<'a>, Violation> {
    let (words, count) = words::<4>(arguments)?;
    let (subject, reply, lengths) = match (kind, count) {
        (Kind::Plain, 2) => (words[0], None, [&b"0"[..], words[1]]),
        (Kind::Plain, 3) => (words[0], Some(words[1]), [&b"0"[..], words[2]]),
        (Kind::WithHeaders, 3) => (words[0], None, [words[1], words[2]]),
        (Kind::WithHeaders, 4) => (words[0], Some(words[1]), [words[2], words[3]]),
        _ => return Err(Violation::Unknown),
    };
    let (headers, total) = (number(lengths[0])?, number(lengths[1])?);
    if headers > total {
        return Err(Violation::Unknown);
    }
    if total > caps.body {
        return Err(Violation::BodyTooLong);
    }
    let end = body + total;
    let length = end + END.len();
    if input.len() < length {
        return Ok(Parsed::Incomplete { needed: length });
    }
    if &input[end..length] != END {
        return Err(Violation::Unknown);
    }
    let operation = Operation::Publish(Publish {
        subject,
        reply,
        headers: &input[body..body + headers],
        payload: &input[body + headers..end],
    });
    Ok(Parsed::Operation { operation, length })
}

fn subscribe(arguments: &[u8]) -> Result<Operation<'_>, Violation> {
    let (subject, queue, sid) = match words::<3>(arguments)? {
        ([subject, sid, _], 2) => (subject, None, sid),
        ([subject, queue, sid], 3) => (subject, Some(queue), sid),
        _ => return Err(Violation::Unknown),
    };
    Ok(Operation::Subscribe {
        subject,
        queue,
        sid,
    })
}

fn unsubscribe(arguments: &[u8]) -> Result<Operation<'_>, Violation> {
    let (sid, after) = match words::<2>(arguments)? {
        ([sid, _], 1) => (sid, 0),
        // As nats-server has it: what is no number ends it now.
        ([sid, after], 2) => (sid, number(after).unwrap_or(0) as u64),
        _ => return Err(Violation::Unknown),
    };
    Ok(Operation::Unsubscribe { sid, after })
}

/// Whether a subject is one that messages can be published to, by the rules that PUB follows if the
/// client is pedantic: no empty token, and no token that is a wildcard.
pub fn is_literal_subject(subject: &[u8]) -> bool {
    is_subject(subject)
        && subject
            .split(|&byte| byte == b'.')
            .all(|token| token != b"*" && token != b">")
}

/// Whether a subject can be subscribed to: no blanks, no empty token, and `>` only at the end.
pub fn is_subject(subject: &[u8]) -> bool {
    let mut tokens = subject.split(|&byte| byte == b'.').peekable();
    can_carry(subject)
        && std::iter::from_fn(|| tokens.next().map(|token| (token, tokens.peek().is_none())))
            .all(|(token, is_last)| !token.is_empty() && (token != b">" || is_last))
}

/// Whether a topic of another protocol can stand in a line at all.
pub fn can_carry(topic: &[u8]) -> bool {
    let is_wrong = |&byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0);
    !topic.is_empty() && !topic.iter().any(is_wrong)
}

/// Writes INFO.
pub fn write_info(out: &mut Vec<u8>, info: &Info<'_>) {
    out.extend_from_slice(b"INFO ");
    // invariant: its fields are texts and numbers, and a Vec takes all bytes.
    serde_json::to_writer(&mut *out, info).expect("INFO can always be written");
    out.extend_from_slice(b" \r\n");
}

/// Writes -ERR with one of nats-server's texts, or one of ours.
pub fn write_error(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(b"-ERR '");
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"'\r\n");
}

/// Writes what the line of a message ends with.
pub fn write_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.extend_from_slice(END);
}

#[cfg(test)]
#[path = "nats_tests.rs"]
mod tests;
