//! What clients and servers say to each other in each protocol, as bytes.
//!
//! Owns the forms of a publish, of its delivery and of what opens a connection. Knows no sockets.
//! Everything is made before a run begins, so that a run compares bytes and encodes nothing.

use sapwood_wire::native::{self, Hello, Parts, When, kind};

use crate::questions::Question;

/// A protocol that the generator speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// RESP3, which today's Redis clients begin with.
    Redis,
    /// The NATS client protocol.
    Nats,
    /// Sapwood's own.
    Native,
    /// The relay's: a role, then native frames that it does not look at.
    Plain,
}

/// How a subscriber asked for what it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// For one topic.
    Exact,
    /// For all topics of the benchmark at once.
    Pattern,
    /// As a member of a group.
    Group,
}

/// The request number of the ping that ends the opening: no other request has it.
const PING_REQUEST: u32 = u32::MAX;

/// The request number of every answered native publish: which numbers are in use is the client's business.
const PUBLISH_REQUEST: u32 = 7;

/// The number of a group's member.
const MEMBER: u32 = 3;

/// Which topic, by number: all names are equally long, so that all frames of a run are.
pub fn topic(number: usize) -> Vec<u8> {
    format!("bench.topic.{number:05}").into_bytes()
}

/// Where replies to requester `number` go.
pub fn inbox(number: usize) -> Vec<u8> {
    format!("_INBOX.bench.{number:05}").into_bytes()
}

fn resp(parts: &[&[u8]], mark: u8) -> Vec<u8> {
    let mut out = vec![mark];
    out.extend_from_slice(format!("{}\r\n", parts.len()).as_bytes());
    for part in parts {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn message(topic: &[u8], reply: Option<&[u8]>, is_end: bool, payload: &[u8]) -> Vec<u8> {
    let parts = Parts {
        topic,
        reply,
        is_end,
        payload,
        ..Parts::default()
    };
    let mut out = Vec::new();
    // invariant: the benchmark's own names and payloads are within the protocol's limits.
    parts
        .write(&mut out)
        .expect("a benchmark's message is valid");
    out
}

fn lines(head: String, payload: &[u8]) -> Vec<u8> {
    let mut out = head.into_bytes();
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
    out
}

impl Dialect {
    /// What a server asks of a client that it has not heard of for a while, or that has just connected.
    pub fn question(self) -> Option<Question> {
        (self == Dialect::Nats).then_some(Question {
            asked: b"PING\r\n",
            answer: b"PONG\r\n",
        })
    }

    /// What a client sends before anything else; [`Dialect::ping`] follows.
    pub fn hello(self) -> Vec<u8> {
        match self {
            Dialect::Redis => resp(&[b"HELLO", b"3"], b'*'),
            Dialect::Nats => {
                b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\n".to_vec()
            }
            Dialect::Native => {
                let mut out = Vec::new();
                native::write_hello(&mut out, &Hello::default());
                out
            }
            Dialect::Plain => Vec::new(),
        }
    }

    /// Asks for an answer that comes behind all others.
    pub fn ping(self) -> Vec<u8> {
        match self {
            Dialect::Redis => resp(&[b"PING"], b'*'),
            Dialect::Nats => b"PING\r\n".to_vec(),
            Dialect::Native => {
                let mut out = Vec::new();
                native::write_request(&mut out, kind::PING, PING_REQUEST);
                out
            }
            Dialect::Plain => vec![b'?'],
        }
    }

    /// How the answer to [`Dialect::ping`] ends.
    pub fn pong(self) -> Vec<u8> {
        match self {
            Dialect::Redis => b"+PONG\r\n".to_vec(),
            Dialect::Nats => b"PONG\r\n".to_vec(),
            Dialect::Native => {
                let mut out = Vec::new();
                native::write_ack(&mut out, PING_REQUEST, 0);
                out
            }
            Dialect::Plain => vec![b'!'],
        }
    }

    /// Subscribes; `sid` is NATS's number for it.
    pub fn subscribe(self, name: &[u8], asked: &Asked, sid: usize) -> Vec<u8> {
        let all = match self {
            Dialect::Redis => &b"bench.topic.*"[..],
            _ => b"bench.topic.>",
        };
        let filter = if *asked == Asked::Pattern { all } else { name };
        match (self, asked) {
            (Dialect::Redis, Asked::Pattern) => resp(&[b"PSUBSCRIBE", filter], b'*'),
            (Dialect::Redis, _) => resp(&[b"SUBSCRIBE", filter], b'*'),
            (Dialect::Nats, _) => {
                let group = if *asked == Asked::Group { "crew " } else { "" };
                format!("SUB {} {group}{sid}\r\n", String::from_utf8_lossy(filter)).into_bytes()
            }
            (Dialect::Native, _) => {
                let (member, group) = if *asked == Asked::Group {
                    (MEMBER, &b"crew"[..])
                } else {
                    (0, &b""[..])
                };
                let mut out = Vec::new();
                let wanted = native::Subscription {
                    member,
                    group,
                    filter,
                };
                native::write_subscription(&mut out, kind::SUBSCRIBE, 1, &wanted);
                out
            }
            (Dialect::Plain, _) => {
                let mut out = vec![b'S'];
                out.extend_from_slice(&name[name.len() - 5..]);
                out
            }
        }
    }

    /// What the relay must hear before it copies a connection's bytes to the subscribers of `name`; with
    /// none given, each frame names its own. Nothing for the other protocols.
    pub fn announce_publisher(self, name: Option<&[u8]>) -> Vec<u8> {
        match (self, name) {
            (Dialect::Plain, Some(name)) => [b"P", &name[name.len() - 5..]].concat(),
            (Dialect::Plain, None) => b"R".to_vec(),
            _ => Vec::new(),
        }
    }

    /// Publishes. Natively nothing answers it.
    pub fn publish(self, topic: &[u8], payload: &[u8]) -> Vec<u8> {
        match self {
            Dialect::Redis => resp(&[b"PUBLISH", topic, payload], b'*'),
            Dialect::Nats => lines(
                format!(
                    "PUB {} {}\r\n",
                    String::from_utf8_lossy(topic),
                    payload.len()
                ),
                payload,
            ),
            Dialect::Native | Dialect::Plain => {
                let mut out = Vec::new();
                native::write_message(&mut out, &message(topic, None, false, payload));
                out
            }
        }
    }

    /// What answers each [`Dialect::publish`] that reached so many; empty: nothing does.
    pub fn publish_answer(self, receivers: usize) -> Vec<u8> {
        match self {
            Dialect::Redis => format!(":{receivers}\r\n").into_bytes(),
            _ => Vec::new(),
        }
    }

    /// Publishes and asks for an answer, and what that is if it reached so many.
    pub fn publish_answered(
        self,
        topic: &[u8],
        payload: &[u8],
        receivers: usize,
    ) -> (Vec<u8>, Vec<u8>) {
        match self {
            Dialect::Redis => (self.publish(topic, payload), self.publish_answer(receivers)),
            Dialect::Nats => (
                [self.publish(topic, payload), self.ping()].concat(),
                self.pong(),
            ),
            Dialect::Native | Dialect::Plain => {
                let (mut out, mut answer) = (Vec::new(), Vec::new());
                let body = message(topic, None, false, payload);
                native::write_publish(&mut out, PUBLISH_REQUEST, When::Always, &body);
                native::write_ack(&mut answer, PUBLISH_REQUEST, receivers as u32);
                (out, answer)
            }
        }
    }

    /// What a subscriber gets for a publish.
    pub fn delivery(self, topic: &[u8], payload: &[u8], asked: &Asked, sid: usize) -> Vec<u8> {
        match (self, asked) {
            (Dialect::Redis, Asked::Pattern) => {
                resp(&[b"pmessage", b"bench.topic.*", topic, payload], b'>')
            }
            (Dialect::Redis, _) => resp(&[b"message", topic, payload], b'>'),
            (Dialect::Nats, _) => {
                let topic = String::from_utf8_lossy(topic);
                lines(format!("MSG {topic} {sid} {}\r\n", payload.len()), payload)
            }
            (Dialect::Native, Asked::Group) => {
                let mut out = Vec::new();
                native::write_turn(&mut out, MEMBER, &message(topic, None, false, payload));
                out
            }
            (Dialect::Native | Dialect::Plain, _) => self.publish(topic, payload),
        }
    }

    /// Bytes that stand behind a frame's payload: a line end, where the protocol has one.
    pub fn end_bytes(self) -> usize {
        match self {
            Dialect::Redis | Dialect::Nats => 2,
            Dialect::Native | Dialect::Plain => 0,
        }
    }

    /// A request whose replies go to `reply`.
    pub fn request(self, topic: &[u8], reply: &[u8], payload: &[u8]) -> Vec<u8> {
        let names = || {
            (
                String::from_utf8_lossy(topic),
                String::from_utf8_lossy(reply),
            )
        };
        match self {
            Dialect::Nats => {
                let (topic, reply) = names();
                lines(
                    format!("PUB {topic} {reply} {}\r\n", payload.len()),
                    payload,
                )
            }
            _ => {
                let mut out = Vec::new();
                let body = message(topic, Some(reply), false, payload);
                native::write_publish(&mut out, PUBLISH_REQUEST, When::Unheard, &body);
                out
            }
        }
    }

    /// How [`Dialect::request`] reaches the responder.
    pub fn request_delivery(
        self,
        topic: &[u8],
        reply: &[u8],
        payload: &[u8],
        sid: usize,
    ) -> Vec<u8> {
        match self {
            Dialect::Nats => {
                let (topic, reply) = (
                    String::from_utf8_lossy(topic),
                    String::from_utf8_lossy(reply),
                );
                lines(
                    format!("MSG {topic} {sid} {reply} {}\r\n", payload.len()),
                    payload,
                )
            }
            _ => {
                let mut out = Vec::new();
                native::write_message(&mut out, &message(topic, Some(reply), false, payload));
                out
            }
        }
    }

    /// A reply, which is the last one, and how it reaches the requester.
    pub fn reply(self, inbox: &[u8], payload: &[u8], sid: usize) -> (Vec<u8>, Vec<u8>) {
        match self {
            Dialect::Nats => (
                self.publish(inbox, payload),
                self.delivery(inbox, payload, &Asked::Exact, sid),
            ),
            _ => {
                let mut out = Vec::new();
                native::write_message(&mut out, &message(inbox, None, true, payload));
                (out.clone(), out)
            }
        }
    }
}
