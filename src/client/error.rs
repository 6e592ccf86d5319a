//! Errors, one enum for each operation. Each says what was wrong and, in its text, what to do.
//!
//! Two terms recur. *Refused*: the broker refused the operation, and nothing has changed. *Unknown*: the operation was
//! written to a connection that ended before the answer, so it may or may not have been done; the client never retries
//! it by itself.

use crate::config::ConfigError;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::native::{FrameError, PartsError};
use sapwood_wire::scope::ScopeError;
use sapwood_wire::topic::TopicError;
use std::fmt;
use std::io;
use std::time::Duration;

/// An ERROR frame of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its code; a newer broker may have more than [`ErrorCode`] knows.
    pub number: u16,
    /// The broker's text, for people.
    pub text: String,
}

impl Refusal {
    /// The error code, if this version knows it.
    pub fn code(&self) -> Option<ErrorCode> {
        ErrorCode::from_number(self.number)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.text)?;
        match self.code() {
            Some(code) => write!(f, "{code})"),
            None => write!(f, "code {})", self.number),
        }
    }
}

/// Why a connection ended or could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disconnect {
    /// Connecting, reading or writing failed.
    Io {
        /// The kind of error.
        kind: io::ErrorKind,
        /// The operating system's text.
        text: String,
    },
    /// No connection, or no WELCOME, within `connect_timeout`.
    ConnectTimedOut,
    /// The broker closed the connection.
    ClosedByBroker,
    /// The broker closed the connection and gave a reason.
    Rejected(Refusal),
    /// The broker did not answer a PING in time.
    Silent,
    /// The broker is about to stop; all operations in flight were answered before.
    Draining,
    /// The input is not the native protocol, or violates it.
    Protocol(ProtocolError),
    /// This side closed the connection.
    Closed,
}

impl From<io::Error> for Disconnect {
    fn from(error: io::Error) -> Self {
        Disconnect::Io {
            kind: error.kind(),
            text: error.to_string(),
        }
    }
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Disconnect::Io { text, .. } => write!(f, "{text}"),
            Disconnect::ConnectTimedOut => {
                write!(
                    f,
                    "there was no WELCOME in time; is this a Sapwood broker's native port?"
                )
            }
            Disconnect::ClosedByBroker => write!(f, "the broker closed the connection"),
            Disconnect::Rejected(refusal) => {
                write!(f, "the broker closed the connection: {refusal}")
            }
            Disconnect::Silent => write!(f, "the broker did not answer a PING in time"),
            Disconnect::Draining => write!(f, "the broker is stopping"),
            Disconnect::Protocol(error) => write!(f, "{error}"),
            Disconnect::Closed => write!(f, "the client closed the connection"),
        }
    }
}

/// A protocol violation by the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Bytes that are not a frame.
    Frame(FrameError),
    /// An answer to a request that was not made, or out of order; holds the request's number.
    Answer(u32),
    /// A frame that must not come at this point; holds its name.
    Misplaced(&'static str),
    /// A WELCOME with a protocol version that the client did not offer.
    Version(u8),
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the broker broke the protocol: ")?;
        match self {
            ProtocolError::Frame(error) => write!(f, "{error}"),
            ProtocolError::Answer(request) => {
                write!(f, "it answered request {request}, which was not its turn")
            }
            ProtocolError::Misplaced(frame) => write!(f, "{frame} must not stand here"),
            ProtocolError::Version(version) => {
                write!(f, "it chose version {version}, which was not offered")
            }
        }
    }
}

/// Why a client is closed for good.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// `close` was called, or the client's driver ended.
    Closed,
    /// The client was drained.
    Drained,
    /// The broker does not let the client in, and trying again would not help.
    Rejected(Refusal),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Closed => write!(f, "the client is closed"),
            CloseReason::Drained => write!(f, "the client was drained"),
            CloseReason::Rejected(refusal) => {
                write!(f, "the broker does not let this client in: {refusal}")
            }
        }
    }
}

/// Why it is unknown whether an operation was done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doubt {
    /// The connection ended before the answer arrived.
    Disconnected(Disconnect),
    /// No answer arrived within `answer_timeout`.
    TimedOut,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is not known whether this was done: ")?;
        match self {
            Doubt::Disconnected(reason) => write!(f, "{reason}"),
            Doubt::TimedOut => write!(f, "no answer came in time"),
        }
    }
}

/// Why a client could not connect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// The settings are invalid.
    Config(ConfigError),
    /// No address led to a broker; holds the last address and the reason.
    Unreachable {
        /// The last address tried.
        address: String,
        /// The reason.
        reason: Disconnect,
    },
    /// The broker does not let this client in: another user, password or version is needed.
    Rejected(Refusal),
    /// The client was closed while it was connecting.
    Closed,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Config(error) => write!(f, "{error}"),
            ConnectError::Unreachable { address, reason } => {
                write!(f, "no broker at {address}: {reason}")
            }
            ConnectError::Rejected(refusal) => CloseReason::Rejected(refusal.clone()).fmt(f),
            ConnectError::Closed => CloseReason::Closed.fmt(f),
        }
    }
}

/// Why a message is not valid. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageError {
    /// The topic is not valid.
    Topic(TopicError),
    /// The topic starts with `$` but is not one that clients may publish to, or its target nodes are not valid.
    Scope(ScopeError),
    /// The reply topic is not valid.
    Reply(TopicError),
    /// The request has no reply topic.
    NoReply,
    /// A header, the headers together, or the payload is not valid.
    Parts(PartsError),
    /// The payload is longer than this broker accepts.
    PayloadTooLong {
        /// Its length in bytes.
        length: usize,
        /// The broker's maximum in bytes.
        max: usize,
    },
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MessageError::Topic(error) => write!(f, "this is no topic: {error}"),
            MessageError::Scope(error) => error.fmt(f),
            MessageError::Reply(error) => write!(f, "this is no reply topic: {error}"),
            MessageError::NoReply => {
                write!(f, "the message asks for no reply: it has no reply topic")
            }
            MessageError::Parts(error) => write!(f, "{error}"),
            MessageError::PayloadTooLong { length, max } => {
                write!(
                    f,
                    "a payload of {length} bytes is too long: this broker takes {max}"
                )
            }
        }
    }
}

/// Why a publish failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The message is not valid. Nothing was sent.
    Invalid(MessageError),
    /// The window is full. Nothing was sent; only the `try_` forms return this, the others wait.
    Full,
    /// The broker refused the publish. Nothing was published.
    Refused(Refusal),
    /// The message may or may not have been published.
    Unknown(Doubt),
    /// The client is closed. Nothing was sent.
    Closed(CloseReason),
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishError::Invalid(error) => write!(f, "{error}"),
            PublishError::Full => write!(
                f,
                "the window is full; try again later, or use a form that waits"
            ),
            PublishError::Refused(refusal) => write!(f, "the broker refused it: {refusal}"),
            PublishError::Unknown(doubt) => write!(f, "{doubt}"),
            PublishError::Closed(reason) => write!(f, "{reason}"),
        }
    }
}

/// Why a subscribe failed. There is no subscription then.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The filter is not valid.
    Filter(TopicError),
    /// The group's name is longer than 255 bytes; holds its length.
    GroupTooLong(usize),
    /// The broker refused it.
    Refused(Refusal),
    /// No answer arrived within `answer_timeout`.
    TimedOut,
    /// The client is closed or draining.
    Closed(CloseReason),
    /// The window is full. Only the machine returns this; the clients wait instead.
    Full,
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SubscribeError::Filter(error) => write!(f, "this is no filter: {error}"),
            SubscribeError::GroupTooLong(bytes) => {
                write!(f, "a group's name has at most 255 bytes, not {bytes}")
            }
            SubscribeError::Refused(refusal) => write!(f, "the broker refused it: {refusal}"),
            SubscribeError::TimedOut => write!(f, "the subscription was not confirmed in time"),
            SubscribeError::Closed(reason) => write!(f, "{reason}"),
            SubscribeError::Full => write!(f, "the window is full; try again later"),
        }
    }
}

/// Why a request got no reply, or no further one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// The message is not valid. Nothing was sent.
    Invalid(MessageError),
    /// The window is full. Nothing was sent. Only the machine returns this; the clients wait instead.
    Full,
    /// No responders: nobody listens on the topic. The broker says so at once.
    NoResponders,
    /// No reply arrived within this time. Whether the responder did its work is unknown.
    TimedOut(Duration),
    /// The broker refused the request. Nothing was published.
    Refused(Refusal),
    /// The connection ended. Whether the responder did its work is unknown.
    Unknown(Doubt),
    /// Up to `events` replies may be missing here; more may follow. See [`Event::Gap`](crate::Event::Gap).
    Gap {
        /// Events dropped on the whole connection.
        events: u64,
    },
    /// The client is closed or draining.
    Closed(CloseReason),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Invalid(error) => write!(f, "{error}"),
            RequestError::Full => write!(f, "the window is full; try again later"),
            RequestError::NoResponders => {
                write!(f, "nobody listens on this topic; is the service running?")
            }
            RequestError::TimedOut(after) => write!(f, "no reply came within {after:?}"),
            RequestError::Refused(refusal) => write!(f, "the broker refused it: {refusal}"),
            RequestError::Unknown(doubt) => write!(f, "{doubt}"),
            RequestError::Gap { events } => {
                write!(
                    f,
                    "up to {events} replies may be missing here, because they were read too slowly"
                )
            }
            RequestError::Closed(reason) => write!(f, "{reason}"),
        }
    }
}

/// Why a ping or flush failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PingError {
    /// The window is full. Only the machine returns this; the clients wait instead.
    Full,
    /// The connection ended or was silent: what was published before may or may not have arrived.
    Unknown(Doubt),
    /// The client is closed.
    Closed(CloseReason),
}

impl fmt::Display for PingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PingError::Full => write!(f, "the window is full; try again later"),
            PingError::Unknown(doubt) => write!(f, "{doubt}"),
            PingError::Closed(reason) => write!(f, "{reason}"),
        }
    }
}

/// Why a CALL was not made, or has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// Longer than the broker takes; holds its length. Nothing was sent.
    TooLong(usize),
    /// The window is full. Nothing was sent. Only the machine returns this; the clients wait instead.
    Full,
    /// The client is closed. Nothing was sent.
    Closed(CloseReason),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::TooLong(bytes) => write!(
                f,
                "a request of {bytes} bytes is longer than the broker takes; send it in parts"
            ),
            CallError::Full => write!(f, "the window is full; try again later"),
            CallError::Closed(reason) => write!(f, "{reason}"),
        }
    }
}

/// Why something asked of a stream was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamError {
    /// The message is not valid. Nothing was sent.
    Invalid(MessageError),
    /// The stream refused it, with the name of the stream that stands in the way, if one does. Nothing has changed.
    Declined(sapwood_wire::state::Refusal, String),
    /// The broker refused it. Nothing has changed.
    Refused(Refusal),
    /// It may or may not have been done.
    Unknown(Doubt),
    /// What keeps the stream failed meanwhile, so it may or may not have been done.
    Failed(String),
    /// Longer than the broker takes; holds its length. Nothing was sent.
    TooLong(usize),
    /// The last messages of all topics are more than 64 MiB.
    TooManyTopics,
    /// The client is closed. Nothing was sent.
    Closed(CloseReason),
    /// The broker answered what this client does not understand: it may be newer.
    NotUnderstood,
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::Invalid(error) => write!(f, "{error}"),
            StreamError::Declined(refusal, stream) if stream.is_empty() => {
                write!(f, "{refusal} ({})", refusal.name())
            }
            StreamError::Declined(refusal, stream) => {
                write!(f, "{refusal} ({}; stream \"{stream}\")", refusal.name())
            }
            StreamError::Refused(refusal) => write!(f, "the broker refused it: {refusal}"),
            StreamError::Unknown(doubt) => write!(f, "{doubt}"),
            StreamError::Failed(text) => write!(f, "{text}"),
            StreamError::TooLong(bytes) => CallError::TooLong(*bytes).fmt(f),
            StreamError::TooManyTopics => write!(
                f,
                "the last messages of the stream's topics are more than 64 MiB; read them with filters"
            ),
            StreamError::Closed(reason) => write!(f, "{reason}"),
            StreamError::NotUnderstood => write!(
                f,
                "the broker's answer is not one that this client knows: take a newer client"
            ),
        }
    }
}

/// Why a drain did not complete. The client is closed all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainError {
    /// The drain took longer than `drain_timeout`: the broker was away, a request stayed open, or a subscription was
    /// neither read to its end nor dropped. Publishes still queued were not sent.
    TimedOut,
    /// A connection broke during the drain, and publishes made shortly before may or may not have arrived;
    /// [`ConnectionEvent::Unconfirmed`](crate::ConnectionEvent::Unconfirmed) says how many.
    Unknown(Doubt),
    /// The client was already closed.
    Closed(CloseReason),
}

impl fmt::Display for DrainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DrainError::TimedOut => write!(
                f,
                "draining took too long; read every subscription to its end, or drop it"
            ),
            DrainError::Unknown(doubt) => write!(f, "{doubt}"),
            DrainError::Closed(reason) => write!(f, "{reason}"),
        }
    }
}

macro_rules! errors {
    ($($error:ty),*) => { $(impl std::error::Error for $error {})* };
}

errors!(
    Refusal,
    Disconnect,
    ProtocolError,
    CloseReason,
    Doubt,
    ConnectError,
    MessageError,
    PublishError,
    SubscribeError,
    RequestError,
    PingError,
    CallError,
    StreamError,
    DrainError
);
