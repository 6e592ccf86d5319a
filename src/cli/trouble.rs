//! What can go wrong while a command is a client, how that is said, and with which exit code it ends.
//!
//! The exit codes are for scripts, so they tell apart what a script would act on: nobody listened, or no answer came in
//! time. They stand in the help of `sapwood`, in its manual pages and in src/docs/examples.md.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use sapwood_client::ErrorCode;
use sapwood_client::error::{
    CloseReason, ConnectError, Disconnect, PingError, PublishError, Refusal, RequestError,
    StreamError, SubscribeError,
};

use super::{EXIT_NO_ANSWER, EXIT_NOBODY_LISTENS, EXIT_RUNTIME, EXIT_USAGE, publish, text};

/// Why a command that is a client failed.
#[derive(Debug)]
pub enum Trouble {
    /// No connection.
    Connect {
        /// The client's words.
        error: ConnectError,
        /// Whether a password was shown.
        has_password: bool,
    },
    /// The client was closed while the command ran; another try would not help.
    Closed(CloseReason),
    /// There is no MESSAGE, and stdin is a terminal.
    NoMessage,
    /// The payload could not be read from a file, or from stdin where there is no name.
    Input(Option<PathBuf>, io::Error),
    /// A payload is longer than any broker takes; holds how long it may be.
    TooLong(u64),
    /// Stdout does not take the output.
    Output(io::Error),
    /// An event could not be published to this topic.
    Publish(String, PublishError),
    /// Events that were published without asking for an answer came to nothing.
    NotPublished {
        /// How many the broker refused.
        refused: u64,
        /// Why it refused the first.
        why: Option<Refusal>,
        /// Of how many it is not known whether they arrived.
        unknown: u64,
    },
    /// Some events, of so many, reached no subscription.
    NobodyListens {
        /// Where they were published.
        topic: String,
        /// How many reached nobody.
        unheard: u64,
        /// How many were published.
        events: u64,
    },
    /// The subscription to this filter could not be made.
    Subscribe(String, SubscribeError),
    /// After a reconnect the broker refused the subscription to this filter.
    Resubscribe(String, Refusal),
    /// No event came for so long; holds how many came before.
    Quiet(Duration, u64),
    /// A request to this topic failed after so many replies.
    Request(String, RequestError, u64),
    /// The broker did not answer a PING.
    Ping(PingError),
    /// No PING of so many was answered.
    NoPong(u64),
    /// Some of so many requests could not be answered.
    NotAnswered {
        /// How many could not.
        failed: u64,
        /// How many came.
        requests: u64,
    },
    /// A benchmark found that not all came, or not as it was sent.
    NotIntact,
    /// A command cannot be run like this; holds what would be right.
    Plan(String),
    /// A file cannot be written.
    File(PathBuf, io::Error),
    /// What was asked of a stream was not done.
    Stream(String, StreamError),
    /// What was published to a topic was not stored.
    Store(String, StreamError),
    /// The broker does not know the topic by which nodes are asked.
    TooOld(String),
    /// No node answered; holds what that means.
    NoNode(String),
}

impl Trouble {
    /// How the process ends.
    pub fn exit_code(&self) -> u8 {
        match self {
            Trouble::NoMessage
            | Trouble::Plan(_)
            | Trouble::Publish(_, PublishError::Invalid(_))
            | Trouble::Store(_, StreamError::Invalid(_))
            | Trouble::Subscribe(_, SubscribeError::Filter(_) | SubscribeError::GroupTooLong(_))
            | Trouble::Request(_, RequestError::Invalid(_), _) => EXIT_USAGE,
            Trouble::NobodyListens { .. } | Trouble::Request(_, RequestError::NoResponders, _) => {
                EXIT_NOBODY_LISTENS
            }
            Trouble::Quiet(..)
            | Trouble::NoPong(_)
            | Trouble::NoNode(_)
            | Trouble::Request(_, RequestError::TimedOut(_), _) => EXIT_NO_ANSWER,
            _ => EXIT_RUNTIME,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Connect {
                error,
                has_password,
            } => write_connect(out, error, *has_password),
            Trouble::Closed(reason) => write!(out, "{}.", shown(reason)),
            Trouble::NoMessage => write!(
                out,
                "there is nothing to publish: give a MESSAGE ('' is an empty one), --file FILE, or write to stdin."
            ),
            Trouble::Input(Some(path), error) => {
                write!(out, "cannot read {}: {error}.", path.display())
            }
            Trouble::Input(None, error) => write!(out, "cannot read stdin: {error}."),
            Trouble::TooLong(max) => write!(
                out,
                "the payload is longer than {max} bytes, the most that a broker takes; --lines publishes each line alone."
            ),
            Trouble::Output(error) => write!(out, "cannot write to stdout: {error}."),
            Trouble::Publish(topic, error) => {
                write!(out, "cannot publish to {topic}: {}.", shown(error))
            }
            Trouble::NotPublished {
                refused,
                why,
                unknown,
            } => write_not_published(out, *refused, why.as_ref(), *unknown),
            Trouble::NobodyListens {
                topic,
                unheard,
                events,
            } => write_nobody_listens(out, topic, *unheard, *events),
            Trouble::Subscribe(filter, error) => {
                write!(out, "cannot subscribe to {filter}: {}.", shown(error))
            }
            Trouble::Resubscribe(filter, refusal) => write!(
                out,
                "the broker does not take the subscription to {filter} any more: {}.",
                shown(refusal)
            ),
            Trouble::Quiet(time, 0) => write!(out, "no event came within {time:?}."),
            Trouble::Quiet(time, events) => {
                write!(
                    out,
                    "no further event came within {time:?}, after {events}."
                )
            }
            Trouble::Request(topic, error, replies) => write_request(out, topic, error, *replies),
            Trouble::Ping(error) => write!(out, "the broker does not answer: {error}."),
            Trouble::NoPong(pings) => write!(out, "no answer to {pings} pings."),
            Trouble::NotAnswered { failed, requests } => {
                write!(out, "{failed} of {requests} requests got no proper answer.")
            }
            Trouble::NotIntact => write!(
                out,
                "what was published did not arrive whole and in order; the table says what is missing."
            ),
            Trouble::Stream(name, error) => write_stream(out, name, error),
            Trouble::Store(topic, error) => {
                write!(out, "nothing is stored of {topic}: {}.", shown(error))
            }
            Trouble::Plan(what) | Trouble::NoNode(what) => write!(out, "{what}"),
            Trouble::TooOld(topic) => write_too_old(out, topic),
            Trouble::File(path, error) => write!(out, "cannot write {}: {error}.", path.display()),
        }
    }
}

/// Words that may hold the broker's own text, which must not reach a terminal as it is.
fn shown(words: &impl fmt::Display) -> String {
    let words = text::printable(words.to_string().as_bytes());
    words.trim_end_matches('.').to_string()
}

fn write_connect(
    out: &mut fmt::Formatter<'_>,
    error: &ConnectError,
    has_password: bool,
) -> fmt::Result {
    match error {
        ConnectError::Unreachable {
            address,
            reason: Disconnect::Io { kind, .. },
        } if *kind == io::ErrorKind::ConnectionRefused => write!(
            out,
            "nothing listens on {address}. Start a broker with `sapwood serve`, name another address with --native, or \
             let --wait 10s wait for one."
        ),
        ConnectError::Unreachable { address, reason } => write!(
            out,
            "cannot connect to {address}: {}. Name the address of a broker's native listener with --native.",
            shown(reason)
        ),
        ConnectError::Rejected(refusal)
            if refusal.code() == Some(ErrorCode::Authentication) && !has_password =>
        {
            write!(
                out,
                "the broker wants a password. Give it with --password-file FILE, or as SAPWOOD_PASSWORD in the environment."
            )
        }
        ConnectError::Rejected(refusal) if refusal.code() == Some(ErrorCode::Authentication) => {
            write!(out, "the broker does not take this password.")
        }
        _ => write!(out, "{}.", shown(error)),
    }
}

fn write_stream(out: &mut fmt::Formatter<'_>, name: &str, error: &StreamError) -> fmt::Result {
    match name {
        "" => write!(out, "streams cannot be listed: {}.", shown(error)),
        _ => write!(out, "stream {name}: {}.", shown(error)),
    }
}

fn write_too_old(out: &mut fmt::Formatter<'_>, topic: &str) -> fmt::Result {
    write!(
        out,
        "the broker does not take {topic}: it is older than this command, and cannot say where nodes are."
    )
}

fn write_not_published(
    out: &mut fmt::Formatter<'_>,
    refused: u64,
    why: Option<&Refusal>,
    unknown: u64,
) -> fmt::Result {
    if refused > 0 {
        write!(out, "the broker refused {refused} events")?;
        if let Some(why) = why {
            write!(out, ": {}", shown(why))?;
        }
        write!(out, ".")?;
    }
    if unknown > 0 {
        let space = if refused > 0 { " " } else { "" };
        write!(
            out,
            "{space}The connection broke, and it is not known whether {unknown} events arrived; --confirm knows it of each."
        )?;
    }
    Ok(())
}

fn write_nobody_listens(
    out: &mut fmt::Formatter<'_>,
    topic: &str,
    unheard: u64,
    events: u64,
) -> fmt::Result {
    match events {
        1 if publish::names_nodes(topic) => write!(
            out,
            "nobody listens on {topic}: no node that it names is known, or none has a subscriber; sapwood tree shows \
             who is there."
        ),
        1 => write!(out, "nobody listens on {topic}."),
        _ => write!(
            out,
            "nobody listened on {topic} to {unheard} of {events} events."
        ),
    }
}

fn write_request(
    out: &mut fmt::Formatter<'_>,
    topic: &str,
    error: &RequestError,
    replies: u64,
) -> fmt::Result {
    match error {
        RequestError::NoResponders if publish::names_nodes(topic) => write!(
            out,
            "nobody listens on {topic}, so nobody will answer; `sapwood reply '{}' --echo` on such a node would.",
            topic.rsplit(':').next().unwrap_or_default()
        ),
        RequestError::NoResponders => write!(
            out,
            "nobody listens on {topic}, so nobody will answer; `sapwood reply {topic} --echo` would."
        ),
        RequestError::TimedOut(time) if replies == 0 => write!(
            out,
            "no reply came from {topic} within {time:?}; --timeout waits longer."
        ),
        RequestError::TimedOut(time) => write!(
            out,
            "no further reply came from {topic} within {time:?}, after {replies}."
        ),
        _ => write!(out, "the request to {topic} failed: {}.", shown(error)),
    }
}
