//! The native protocol, as NATIVE.md beside this file specifies it.
//!
//! Owns both directions: the broker parses with [`parse_from_client`], a client with
//! [`parse_from_broker`], and the rest writes frames. Must not know connections or versions'
//! history. Invariants: parsing borrows from the input and allocates nothing; what was parsed
//! from a frame is inside that frame; bytes from outside never panic. A frame is parsed only when
//! it is whole, so that a parser has no state: who reads collects, until so many bytes stand as
//! [`Parsed::Incomplete`] says. Start at [`parse_from_client`] and [`Message`].

use crate::error::ErrorCode;
use crate::headers::Headers;
use crate::limits::NATIVE_FRAME_BYTES_MAX;
use crate::topic;
use std::fmt;

mod write;
pub use write::{
    GAP_BYTES, Parts, PartsError, write_ack, write_answer, write_call, write_draining, write_error,
    write_frame, write_gap, write_hello, write_message, write_publish, write_publish_stored,
    write_request, write_stored, write_subscription, write_text16, write_turn, write_welcome,
};

/// The version that this code speaks.
pub const VERSION: u8 = 1;

/// What a HELLO begins with, so that a connection of another protocol is noticed at once.
pub const MAGIC: &[u8; 4] = b"SAPW";

/// Bytes of a frame's length.
pub const LENGTH_BYTES: usize = 4;

/// The numbers of the kinds.
pub mod kind {
    #![allow(missing_docs)]
    pub const HELLO: u8 = 0x01;
    pub const PUBLISH: u8 = 0x02;
    pub const SUBSCRIBE: u8 = 0x03;
    pub const UNSUBSCRIBE: u8 = 0x04;
    pub const PING: u8 = 0x05;
    pub const DRAIN: u8 = 0x06;
    pub const CALL: u8 = 0x07;
    pub const MESSAGE: u8 = 0x10;
    pub const WELCOME: u8 = 0x81;
    pub const ACK: u8 = 0x82;
    pub const ERROR: u8 = 0x83;
    pub const TURN: u8 = 0x84;
    pub const GAP: u8 = 0x85;
    pub const DRAINING: u8 = 0x86;
    pub const ANSWER: u8 = 0x87;
    pub const STORED: u8 = 0x88;
}

/// The bits of a message's flags.
pub mod flag {
    /// A reply topic follows the topic.
    pub const REPLY: u8 = 1;
    /// Headers follow.
    pub const HEADERS: u8 = 2;
    /// The last of several replies.
    pub const END: u8 = 4;
    /// All that version 1 knows.
    pub const ALL: u8 = REPLY | HEADERS | END;
    /// Beside [`HEADERS`]: they stand as the block that a NATS client sent. Inside the broker and between nodes alone.
    pub const BLOCK: u8 = 8;
}

/// What stands at the start of some input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<F> {
    /// A whole frame.
    Frame {
        /// It.
        frame: F,
        /// Its bytes in the input, its length field included.
        length: usize,
    },
    /// The frame is not whole.
    Incomplete {
        /// Parsing is of use again once so many bytes stand.
        needed: usize,
    },
}

/// Why bytes are no frame. The connection that they came from cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The length field names more bytes than allowed.
    TooLong {
        /// What it names.
        length: usize,
        /// What is allowed.
        cap: usize,
    },
    /// A length of 0: not even a kind.
    Empty,
    /// A kind that this side must not be sent.
    UnknownKind(u8),
    /// The frame ends within a field, or a part of it does.
    Truncated {
        /// The kind.
        kind: u8,
        /// The field that could not be read.
        field: &'static str,
    },
    /// The frame goes on behind its last field.
    Trailing {
        /// The kind.
        kind: u8,
        /// So many bytes are too many.
        bytes: usize,
    },
    /// A field has a value that it must not have.
    Value {
        /// The kind.
        kind: u8,
        /// The field.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
    },
}

impl FrameError {
    /// Its stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            FrameError::TooLong { .. } => ErrorCode::FrameTooLong,
            FrameError::UnknownKind(_) => ErrorCode::UnknownKind,
            FrameError::Empty
            | FrameError::Truncated { .. }
            | FrameError::Trailing { .. }
            | FrameError::Value { .. } => ErrorCode::Malformed,
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLong { length, cap } => {
                write!(
                    f,
                    "a frame says that {length} bytes follow, at most {cap} may; is this the native protocol?"
                )
            }
            FrameError::Empty => write!(f, "a frame of length 0 has no kind"),
            FrameError::UnknownKind(kind) => write!(
                f,
                "a frame of kind 0x{kind:02x} must not be sent in this direction; is this the native protocol?"
            ),
            FrameError::Truncated { kind, field } => write!(
                f,
                "a frame of kind 0x{kind:02x} is too short for its field {field}"
            ),
            FrameError::Trailing { kind, bytes } => write!(
                f,
                "a frame of kind 0x{kind:02x} is longer than its fields by {bytes} bytes"
            ),
            FrameError::Value {
                kind,
                field,
                expected,
            } => write!(
                f,
                "in a frame of kind 0x{kind:02x}, the field {field} must be {expected}"
            ),
        }
    }
}

impl std::error::Error for FrameError {}

/// One message: what travels from a publisher to its subscribers byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// All of it, from the flags to the end of the payload.
    pub bytes: &'a [u8],
    /// See [`flag`].
    pub flags: u8,
    /// What it is published to.
    pub topic: &'a [u8],
    /// The fields between topic and payload as they stand: reply topic and headers.
    pub attributes: &'a [u8],
    /// What it carries.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Where replies go.
    pub fn reply(&self) -> Option<&'a [u8]> {
        attributes_reply(self.flags, self.attributes)
    }

    /// Its headers, in order; none if it has none.
    pub fn headers(&self) -> Headers<'a> {
        attributes_headers(self.flags, self.attributes)
    }

    /// Whether it is the last of several replies.
    pub fn is_end(&self) -> bool {
        self.flags & flag::END != 0
    }
}

/// The reply topic among the attributes of a message with these flags.
pub fn attributes_reply(flags: u8, attributes: &[u8]) -> Option<&[u8]> {
    if flags & flag::REPLY == 0 {
        return None;
    }
    Reader::new(kind::MESSAGE, attributes).text16("reply").ok()
}

/// The headers among the attributes of a message with these flags.
pub fn attributes_headers(flags: u8, attributes: &[u8]) -> Headers<'_> {
    let mut reader = Reader::new(kind::MESSAGE, attributes);
    if flags & flag::REPLY != 0 && reader.text16("reply").is_err() {
        return Headers::default();
    }
    if flags & flag::HEADERS == 0 {
        return Headers::default();
    }
    let headers = reader.text16("headers").unwrap_or_default();
    match flags & flag::BLOCK {
        0 => Headers::of_pairs(headers),
        _ => Headers::of_block(headers),
    }
}

/// Whether these flags and attributes are those of an event inside the broker: whole, without anything too much, the
/// reply topic one that may be published to, and no byte in a header that it must not hold. A block may hold any.
pub fn attributes_are_valid(flags: u8, attributes: &[u8]) -> bool {
    let is_block = flags & flag::BLOCK != 0;
    if flags & !(flag::ALL | flag::BLOCK) != 0 || (is_block && flags & flag::HEADERS == 0) {
        return false;
    }
    let mut reader = Reader::new(kind::MESSAGE, attributes);
    if reader.attributes(flags).is_err() || reader.end().is_err() {
        return false;
    }
    let reply = attributes_reply(flags, attributes);
    reply.is_none_or(|reply| topic::check_name(reply).is_ok())
        && attributes_headers(flags, attributes).are_valid()
}

/// How far a published event got, as ACK's count says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Subscriptions on the publisher's node; a group is one.
    pub subscriptions: u64,
    /// Other nodes are known to have some, or may have; or a stream keeps it.
    pub is_beyond: bool,
}

impl Reached {
    const BEYOND: u32 = 1 << 31;

    /// What a count says.
    pub fn of_count(count: u32) -> Reached {
        Reached {
            subscriptions: u64::from(count & !Reached::BEYOND),
            is_beyond: count & Reached::BEYOND != 0,
        }
    }

    /// The count; more subscriptions than it can say are said as the most.
    pub fn count(self) -> u32 {
        let most = Reached::BEYOND - 1;
        let subscriptions = u32::try_from(self.subscriptions).map_or(most, |count| count.min(most));
        subscriptions | if self.is_beyond { Reached::BEYOND } else { 0 }
    }

    /// Whether nobody in the whole tree is known to listen.
    pub fn is_nobody(self) -> bool {
        self == Reached::default()
    }
}

impl fmt::Display for Reached {
    /// The subscriptions, and a `+` if other nodes have some.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beyond = if self.is_beyond { "+" } else { "" };
        write!(f, "{}{beyond}", self.subscriptions)
    }
}

/// What happens to a client that reads too slowly, as HELLO asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The connection is closed.
    #[default]
    Close,
    /// The oldest events that wait are dropped.
    DropOldest,
    /// From half the cap on, only the newest event of each topic waits.
    Latest,
}

impl Policy {
    /// All of them.
    pub const ALL: [Policy; 3] = [Policy::Close, Policy::DropOldest, Policy::Latest];

    /// Its number in HELLO.
    pub fn number(self) -> u8 {
        match self {
            Policy::Close => 1,
            Policy::DropOldest => 2,
            Policy::Latest => 3,
        }
    }

    /// Its name in settings and texts.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Close => "close",
            Policy::DropOldest => "drop-oldest",
            Policy::Latest => "latest",
        }
    }

    /// The policy of this name.
    pub fn from_name(name: &str) -> Option<Policy> {
        Policy::ALL.into_iter().find(|policy| policy.name() == name)
    }
}

/// What a client opens with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Oldest and newest version that it speaks.
    pub versions: (u8, u8),
    /// Who it is.
    pub user: Option<&'a [u8]>,
    /// What proves it.
    pub password: Option<&'a [u8]>,
    /// Its name, for people.
    pub name: &'a str,
    /// Its library and that library's version, `name/version`.
    pub library: &'a str,
    /// What happens when it reads too slowly; `None` leaves it to the broker.
    pub policy: Option<Policy>,
}

impl Default for Hello<'_> {
    fn default() -> Self {
        Hello {
            versions: (VERSION, VERSION),
            user: None,
            password: None,
            name: "",
            library: "",
            policy: None,
        }
    }
}

/// What the broker answers to HELLO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The version spoken from now on.
    pub version: u8,
    /// The broker's name and version, `sapwood/x.y.z`.
    pub broker: &'a str,
    /// The connection's number on the broker.
    pub client: u64,
    /// Names this run of the broker.
    pub run: &'a str,
    /// Longest payload that it takes; 0 if it does not say.
    pub payload_max: u32,
}

/// One subscription; all three fields are its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subscription<'a> {
    /// The client's number for a member of a group; 0 without a group.
    pub member: u32,
    /// The group; empty for none.
    pub group: &'a [u8],
    /// A topic, or a wildcard by [`crate::topic::is_wildcard`].
    pub filter: &'a [u8],
}

/// When a PUBLISH is answered by an ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// Only if nobody listens.
    Unheard,
}

/// What `when` of a PUBLISH says that is answered once it is stored.
pub(crate) const WHEN_STORED: u8 = 3;

/// Whether the answer to a CALL has another part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerPart {
    /// It is the last, or the only one.
    Last,
    /// Another one follows.
    More,
}

/// A frame that clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ClientFrame<'a> {
    Hello(Hello<'a>),
    Publish {
        request: u32,
        when: When,
        message: Message<'a>,
    },
    /// A PUBLISH that is answered once a stream has stored it.
    PublishStored {
        request: u32,
        message: Message<'a>,
    },
    /// Asks the state plane; what it says is not looked at.
    Call {
        request: u32,
        body: &'a [u8],
    },
    Subscribe {
        request: u32,
        subscription: Subscription<'a>,
    },
    Unsubscribe {
        request: u32,
        subscription: Subscription<'a>,
    },
    Ping {
        request: u32,
    },
    Drain {
        request: u32,
    },
    Message(Message<'a>),
}

/// A frame that the broker sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BrokerFrame<'a> {
    Welcome(Welcome<'a>),
    Ack {
        request: u32,
        count: u32,
    },
    Error {
        request: u32,
        /// Not an `ErrorCode`: a newer broker may have more.
        code: u16,
        text: &'a str,
    },
    Message(Message<'a>),
    Turn {
        member: u32,
        message: Message<'a>,
    },
    Gap {
        events: u64,
    },
    Draining {
        milliseconds: u32,
    },
    /// What the state plane answers to a CALL, or a part of that.
    Answer {
        request: u32,
        part: AnswerPart,
        body: &'a [u8],
    },
    /// What became of so many PUBLISHes with consecutive requests: one or more answers of the state plane.
    Stored {
        first: u32,
        count: u32,
        answers: &'a [u8],
    },
    /// A kind that this version does not know, to be skipped.
    Unknown(u8),
}

/// Parses the frame at the start of what a client sent, if it is whole. Until HELLO was taken,
/// `cap` is `NATIVE_HELLO_BYTES_MAX`, then `NATIVE_FRAME_BYTES_MAX`.
pub fn parse_from_client(input: &[u8], cap: usize) -> Result<Parsed<ClientFrame<'_>>, FrameError> {
    let (body, length) = match split_frame(input, cap)? {
        Parsed::Frame { frame, length } => (frame, length),
        Parsed::Incomplete { needed } => return Ok(Parsed::Incomplete { needed }),
    };
    let mut reader = Reader::new(body[0], &body[1..]);
    let frame = match body[0] {
        kind::MESSAGE => ClientFrame::Message(reader.message()?),
        kind::PUBLISH => reader.publish()?,
        kind::CALL => ClientFrame::Call {
            request: reader.request()?,
            body: reader.rest(),
        },
        kind::SUBSCRIBE => ClientFrame::Subscribe {
            request: reader.request()?,
            subscription: reader.subscription()?,
        },
        kind::UNSUBSCRIBE => ClientFrame::Unsubscribe {
            request: reader.request()?,
            subscription: reader.subscription()?,
        },
        kind::PING => ClientFrame::Ping {
            request: reader.request()?,
        },
        kind::DRAIN => ClientFrame::Drain {
            request: reader.request()?,
        },
        kind::HELLO => ClientFrame::Hello(reader.hello()?),
        other => return Err(FrameError::UnknownKind(other)),
    };
    reader.end()?;
    Ok(Parsed::Frame { frame, length })
}

/// Parses the frame at the start of what the broker sent, if it is whole.
pub fn parse_from_broker(input: &[u8]) -> Result<Parsed<BrokerFrame<'_>>, FrameError> {
    let (body, length) = match split_frame(input, NATIVE_FRAME_BYTES_MAX)? {
        Parsed::Frame { frame, length } => (frame, length),
        Parsed::Incomplete { needed } => return Ok(Parsed::Incomplete { needed }),
    };
    let mut reader = Reader::new(body[0], &body[1..]);
    let frame = match body[0] {
        kind::MESSAGE => BrokerFrame::Message(reader.message()?),
        kind::TURN => BrokerFrame::Turn {
            member: reader.u32("member")?,
            message: reader.message()?,
        },
        kind::ACK => BrokerFrame::Ack {
            request: reader.request()?,
            count: reader.u32("count")?,
        },
        kind::ERROR => BrokerFrame::Error {
            request: reader.u32("request")?,
            code: reader.u16("code")?,
            text: {
                let text = reader.rest();
                reader.utf8("text", text)?
            },
        },
        kind::GAP => BrokerFrame::Gap {
            events: reader.u64("events")?,
        },
        kind::DRAINING => BrokerFrame::Draining {
            milliseconds: reader.u32("milliseconds")?,
        },
        kind::WELCOME => BrokerFrame::Welcome(reader.welcome()?),
        kind::ANSWER => BrokerFrame::Answer {
            request: reader.request()?,
            part: match reader.u8("more")? {
                0 => AnswerPart::Last,
                1 => AnswerPart::More,
                _ => return Err(reader.value("more", "0 or 1")),
            },
            body: reader.rest(),
        },
        kind::STORED => reader.stored()?,
        other => {
            reader.rest();
            BrokerFrame::Unknown(other)
        }
    };
    reader.end()?;
    Ok(Parsed::Frame { frame, length })
}

/// Finds the frame at the start of the input: kind and fields, and its length in the input.
fn split_frame(input: &[u8], cap: usize) -> Result<Parsed<&[u8]>, FrameError> {
    let Some((field, rest)) = input.split_first_chunk::<LENGTH_BYTES>() else {
        return Ok(Parsed::Incomplete {
            needed: LENGTH_BYTES,
        });
    };
    let length = u32::from_le_bytes(*field) as usize;
    if length == 0 {
        return Err(FrameError::Empty);
    }
    if length > cap {
        return Err(FrameError::TooLong { length, cap });
    }
    match rest.get(..length) {
        Some(frame) => Ok(Parsed::Frame {
            frame,
            length: LENGTH_BYTES + length,
        }),
        None => Ok(Parsed::Incomplete {
            needed: LENGTH_BYTES + length,
        }),
    }
}

/// Reads fields from the front of a frame.
struct Reader<'a> {
    kind: u8,
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(kind: u8, bytes: &'a [u8]) -> Reader<'a> {
        Reader { kind, bytes }
    }

    fn truncated(&self, field: &'static str) -> FrameError {
        FrameError::Truncated {
            kind: self.kind,
            field,
        }
    }

    fn value(&self, field: &'static str, expected: &'static str) -> FrameError {
        FrameError::Value {
            kind: self.kind,
            field,
            expected,
        }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FrameError> {
        let (array, rest) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(self.truncated(field))?;
        self.bytes = rest;
        Ok(*array)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, FrameError> {
        self.array(field).map(u8::from_le_bytes)
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, FrameError> {
        self.array(field).map(u16::from_le_bytes)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, FrameError> {
        self.array(field).map(u32::from_le_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, FrameError> {
        self.array(field).map(u64::from_le_bytes)
    }

    fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], FrameError> {
        if length > self.bytes.len() {
            return Err(self.truncated(field));
        }
        let (taken, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        Ok(taken)
    }

    fn text8(&mut self, field: &'static str) -> Result<&'a [u8], FrameError> {
        let length = self.u8(field)?;
        self.take(usize::from(length), field)
    }

    fn text16(&mut self, field: &'static str) -> Result<&'a [u8], FrameError> {
        let length = self.u16(field)?;
        self.take(usize::from(length), field)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    fn end(&self) -> Result<(), FrameError> {
        match self.bytes {
            [] => Ok(()),
            _ => Err(FrameError::Trailing {
                kind: self.kind,
                bytes: self.bytes.len(),
            }),
        }
    }

    fn utf8(&self, field: &'static str, bytes: &'a [u8]) -> Result<&'a str, FrameError> {
        std::str::from_utf8(bytes).map_err(|_| self.value(field, "UTF-8"))
    }

    fn request(&mut self) -> Result<u32, FrameError> {
        match self.u32("request")? {
            0 => Err(self.value("request", "at least 1")),
            request => Ok(request),
        }
    }

    fn publish(&mut self) -> Result<ClientFrame<'a>, FrameError> {
        let request = self.request()?;
        let when = match self.u8("when")? {
            1 => When::Always,
            2 => When::Unheard,
            WHEN_STORED => {
                let message = self.message()?;
                return Ok(ClientFrame::PublishStored { request, message });
            }
            _ => return Err(self.value("when", "1, 2 or 3")),
        };
        Ok(ClientFrame::Publish {
            request,
            when,
            message: self.message()?,
        })
    }

    fn stored(&mut self) -> Result<BrokerFrame<'a>, FrameError> {
        let first = self.request()?;
        let count = self.u32("count")?;
        if count == 0 || first.checked_add(count - 1).is_none() {
            return Err(self.value(
                "count",
                "at least 1, and no more than requests have numbers",
            ));
        }
        Ok(BrokerFrame::Stored {
            first,
            count,
            answers: self.rest(),
        })
    }

    fn message(&mut self) -> Result<Message<'a>, FrameError> {
        let bytes = self.bytes;
        let flags = self.u8("flags")?;
        if flags & !flag::ALL != 0 {
            return Err(self.value("flags", "a sum of 1, 2 and 4"));
        }
        let topic = self.text16("topic")?;
        let behind_topic = self.bytes;
        self.attributes(flags)?;
        let payload = self.rest();
        Ok(Message {
            bytes,
            flags,
            topic,
            attributes: &behind_topic[..behind_topic.len() - payload.len()],
            payload,
        })
    }

    /// Reads over the fields that these flags announce behind the topic.
    fn attributes(&mut self, flags: u8) -> Result<(), FrameError> {
        if flags & flag::REPLY != 0 {
            self.text16("reply")?;
        }
        if flags & flag::HEADERS != 0 {
            let headers = self.text16("headers")?;
            if flags & flag::BLOCK != 0 {
                return Ok(());
            }
            let mut headers = Reader::new(self.kind, headers);
            // Ends because each round takes three bytes at least.
            while !headers.bytes.is_empty() {
                headers.text8("header name")?;
                headers.text16("header value")?;
            }
        }
        Ok(())
    }

    fn subscription(&mut self) -> Result<Subscription<'a>, FrameError> {
        let member = self.u32("member")?;
        let group = self.text8("group")?;
        if group.is_empty() && member != 0 {
            return Err(self.value("member", "0 if there is no group"));
        }
        Ok(Subscription {
            member,
            group,
            filter: self.rest(),
        })
    }

    /// The next option and its value, if it is not among those that were seen.
    fn option(&mut self, seen: &mut [bool; 256]) -> Result<Option<(u8, &'a [u8])>, FrameError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let id = self.u8("options")?;
        let value = self.text16("options")?;
        if std::mem::replace(&mut seen[usize::from(id)], true) {
            return Err(self.value("options", "without one that stands twice"));
        }
        Ok(Some((id, value)))
    }

    fn label(&self, value: &'a [u8]) -> Result<&'a str, FrameError> {
        let expected = "UTF-8 of at most 255 bytes in its name and library";
        let text = std::str::from_utf8(value).ok();
        text.filter(|text| text.len() <= usize::from(u8::MAX))
            .ok_or(self.value("options", expected))
    }

    fn sized<const N: usize>(
        &self,
        value: &[u8],
        expected: &'static str,
    ) -> Result<[u8; N], FrameError> {
        let array = value.try_into();
        array.map_err(|_| self.value("options", expected))
    }

    fn hello(&mut self) -> Result<Hello<'a>, FrameError> {
        if &self.array("magic")? != MAGIC {
            return Err(self.value("magic", "\"SAPW\""));
        }
        let versions = (self.u8("oldest version")?, self.u8("newest version")?);
        let mut hello = Hello {
            versions,
            ..Hello::default()
        };
        let mut seen = [false; 256];
        while let Some((id, value)) = self.option(&mut seen)? {
            match id {
                1 => hello.user = Some(value),
                2 => hello.password = Some(value),
                3 => hello.name = self.label(value)?,
                4 => hello.library = self.label(value)?,
                5 => {
                    let mut policies = Policy::ALL.into_iter();
                    let policy = policies.find(|policy| value == [policy.number()]);
                    let expected = "1, 2 or 3 in its policy";
                    hello.policy = Some(policy.ok_or(self.value("options", expected))?);
                }
                _ => {}
            }
        }
        Ok(hello)
    }

    fn welcome(&mut self) -> Result<Welcome<'a>, FrameError> {
        let mut welcome = Welcome {
            version: self.u8("version")?,
            ..Welcome::default()
        };
        let mut seen = [false; 256];
        while let Some((id, value)) = self.option(&mut seen)? {
            match id {
                1 => welcome.broker = self.utf8("options", value)?,
                2 => {
                    welcome.client = u64::from_le_bytes(self.sized(value, "8 bytes in its client")?)
                }
                3 => welcome.run = self.utf8("options", value)?,
                4 => {
                    let payload_max = self.sized(value, "4 bytes in its payload_max")?;
                    welcome.payload_max = u32::from_le_bytes(payload_max);
                }
                _ => {}
            }
        }
        Ok(welcome)
    }
}

#[cfg(test)]
#[path = "native_tests.rs"]
mod tests;
