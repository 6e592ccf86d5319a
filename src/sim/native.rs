//! What simulated clients of the native protocol say: requests, and their bytes.
//!
//! Names come from small fixed sets, those of the Redis clients among them, so that both meet.
//! Must not know shards or the model. Start at [`Speaker::speak`].

use crate::client::{Role, Said, payload};
use crate::command::{Event, Filter, NO_GROUP, Name, Order, PASSWORD, TOPICS};
use crate::rng::Rng;
use sapwood_core::Policy;
use sapwood_core::command::{FilterKind, Space};
use sapwood_wire::error::ErrorCode;
use sapwood_wire::native::{
    Hello, Parts, Subscription, When, flag, kind, write_frame, write_hello, write_message,
    write_publish, write_request, write_subscription, write_text16,
};
use sapwood_wire::topic;
use std::rc::Rc;

/// Wildcards that are subscribed to without a group.
const WILDCARDS: &[Name] = &[b"news.*", b"news.>", b">", b"*", b"*.art", b"nothing.>"];

/// Filters of groups; no event without payload is published to what they match, so that two events
/// that one of them matches always differ.
const GROUP_FILTERS: &[Name] = &[b"hot", b"hot", b"news.*", b"news.>", b"news.art"];

/// Groups, and the numbers that their members choose from: no number is of two groups, so that a
/// turn tells whose it is. The odd one looks like the head of a message on `hot`.
const GROUPS: &[(Name, &[u32])] = &[
    (b"workers", &[1, 2, 0x0003_0010]),
    (b"audit", &[0, 11, u32::MAX]),
];

/// Reply topics.
const REPLIES: &[Name] = &[b"_INBOX.a.1", b"", b"r\xff"];

const LONG: Name = &[b'x'; 1025];
const DEEP: Name = &[b'.'; 64];

/// The member of a subscription's group, and what it listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sub {
    pub number: u32,
    pub filter: Filter,
}

impl Sub {
    fn wire(&self) -> Subscription<'static> {
        Subscription {
            member: self.number,
            group: self.filter.2,
            filter: self.filter.1,
        }
    }
}

/// One request of a native client.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Hello {
        policy: Option<Policy>,
    },
    Message(Rc<Event>),
    Publish {
        request: u32,
        when: When,
        event: Rc<Event>,
    },
    Subscribe {
        request: u32,
        sub: Sub,
    },
    Unsubscribe {
        request: u32,
        sub: Sub,
    },
    Ping {
        request: u32,
    },
    Drain {
        request: u32,
    },
    /// What is refused whoever sends it; request 0 for a message.
    Refused {
        request: u32,
        code: ErrorCode,
    },
}

/// Whether a filter names a topic or is a wildcard.
pub(crate) fn kind_of(filter: Name) -> FilterKind {
    match topic::is_wildcard(filter) {
        true => FilterKind::Wildcard,
        false => FilterKind::Topic,
    }
}

/// What a native client keeps in mind to speak.
#[derive(Debug, Default)]
pub(crate) struct Speaker {
    greeted: bool,
    last_request: u32,
    subs: Vec<Sub>,
}

impl Speaker {
    /// Chooses what to say next; `published` numbers the events of client `key`.
    pub(crate) fn speak(
        &mut self,
        (key, published): (usize, &mut u64),
        role: Role,
        has_password: bool,
        rng: &mut Rng,
    ) -> Said {
        if !self.greeted {
            return match role {
                Role::Guest if rng.percent(97) => Said::Nothing,
                Role::Guest => bad_greeting(has_password, rng),
                _ if rng.percent(2) => bad_greeting(has_password, rng),
                _ => self.greet(has_password, rng),
            };
        }
        if rng.below(1000) < 2 {
            return bad_frame(rng);
        }
        self.last_request += 1;
        let request = self.last_request;
        let publishes = match role {
            Role::Publisher => 88,
            Role::Flooder => 95,
            Role::Mixed | Role::Admin => 40,
            _ => 3,
        };
        let subscribes = match role {
            Role::Subscriber => 75,
            Role::Mixed | Role::Admin => 40,
            _ => 4,
        };
        let roll = rng.below(100);
        let mut bytes = Vec::new();
        let request = if roll < publishes {
            *published += 1;
            let event = Rc::new(event((key, *published), role, rng));
            publish(request, event, &mut bytes, rng)
        } else if roll < publishes + subscribes {
            self.subscription(request, &mut bytes, rng)
        } else {
            match rng.below(100) {
                0..70 => {
                    write_request(&mut bytes, kind::PING, request);
                    Request::Ping { request }
                }
                70..80 => {
                    self.subs.clear();
                    write_request(&mut bytes, kind::DRAIN, request);
                    Request::Drain { request }
                }
                _ => refused(request, &mut bytes, rng),
            }
        };
        Said::Order(Order::Native(request), bytes)
    }

    /// A HELLO that lets the client in.
    pub(crate) fn greet(&mut self, has_password: bool, rng: &mut Rng) -> Said {
        self.greeted = true;
        let policy = rng.pick(&[
            None,
            Some(Policy::Close),
            Some(Policy::DropOldest),
            Some(Policy::Latest),
        ]);
        let hello = Hello {
            versions: rng.pick(&[(1, 1), (1, 3), (0, 1)]),
            user: rng.percent(50).then_some(b"default"),
            password: (has_password || rng.percent(20)).then_some(PASSWORD),
            name: rng.pick(&["", "simulated"]),
            library: rng.pick(&["", "sim/1", "sim"]),
            policy,
        };
        let mut bytes = Vec::new();
        write_hello(&mut bytes, &hello);
        Said::Order(Order::Native(Request::Hello { policy }), bytes)
    }

    fn subscription(&mut self, request: u32, bytes: &mut Vec<u8>, rng: &mut Rng) -> Request {
        if !self.subs.is_empty() && rng.percent(30) {
            let place = rng.below(self.subs.len());
            let sub = self.subs.swap_remove(place);
            write_subscription(bytes, kind::UNSUBSCRIBE, request, &sub.wire());
            return Request::Unsubscribe { request, sub };
        }
        let sub = any_sub(rng);
        if rng.percent(10) {
            write_subscription(bytes, kind::UNSUBSCRIBE, request, &sub.wire());
            return Request::Unsubscribe { request, sub };
        }
        self.subs.push(sub);
        write_subscription(bytes, kind::SUBSCRIBE, request, &sub.wire());
        Request::Subscribe { request, sub }
    }
}

/// A subscription to `filter` in a group, or without one.
pub(crate) fn subscribe(request: u32, sub: Sub) -> Said {
    let mut bytes = Vec::new();
    write_subscription(&mut bytes, kind::SUBSCRIBE, request, &sub.wire());
    Said::Order(Order::Native(Request::Subscribe { request, sub }), bytes)
}

/// An event that is published without a word.
pub(crate) fn message(event: Rc<Event>) -> Said {
    let mut bytes = Vec::new();
    write_message(&mut bytes, &event.message());
    Said::Order(Order::Native(Request::Message(event)), bytes)
}

fn any_sub(rng: &mut Rng) -> Sub {
    let (number, name, group) = match rng.below(100) {
        0..45 => {
            let (group, numbers) = rng.pick(GROUPS);
            (rng.pick(numbers), rng.pick(GROUP_FILTERS), group)
        }
        45..75 => (0, rng.pick(TOPICS), NO_GROUP),
        _ => (0, rng.pick(WILDCARDS), NO_GROUP),
    };
    Sub {
        number,
        filter: (kind_of(name), name, group),
    }
}

/// An event of any topic; those that groups listen to are never empty, and so all differ.
fn event((key, number): (usize, u64), role: Role, rng: &mut Rng) -> Event {
    let topic = match rng.percent(40) {
        true => TOPICS[0],
        false => rng.pick(TOPICS),
    };
    let mut payload = payload((key, number), role, rng);
    if rng.percent(3) && !may_be_turn(topic) {
        payload.clear();
    }
    let reply = rng.percent(15).then(|| rng.pick(REPLIES));
    let headers: &[(&[u8], &[u8])] = match rng.below(10) {
        0 => &[(b"Trace", b"7f"), (b"x", b""), (b"trace", b"again")],
        1 => &[(b"id", b"\xff\x01")],
        _ => &[],
    };
    let parts = Parts {
        topic,
        reply,
        headers,
        is_end: rng.percent(10),
        payload: &[],
    };
    let mut head = Vec::new();
    // invariant: the parts above are all legal.
    parts.write(&mut head).expect("a legal message");
    let mut event = Event {
        space: Space::Topic,
        topic,
        flags: head[0],
        attributes: head[3 + topic.len()..].to_vec(),
        payload,
    };
    if event.flags & flag::HEADERS == 0 && rng.percent(3) {
        // Announced, and none are there.
        event.flags |= flag::HEADERS;
        event.attributes.extend_from_slice(&[0, 0]);
    }
    event
}

/// Whether the groups of the workload listen to this topic.
pub(crate) fn may_be_turn(topic: Name) -> bool {
    let mut filters = GROUP_FILTERS.iter();
    filters.any(|filter| filter == &topic || topic::wildcard_matches(filter, topic))
}

fn publish(request: u32, event: Rc<Event>, bytes: &mut Vec<u8>, rng: &mut Rng) -> Request {
    let when = match rng.below(3) {
        0 => {
            write_message(bytes, &event.message());
            return Request::Message(event);
        }
        1 => When::Always,
        _ => When::Unheard,
    };
    write_publish(bytes, request, when, &event.message());
    Request::Publish {
        request,
        when,
        event,
    }
}

/// A request that is refused, and changes nothing.
fn refused(request: u32, bytes: &mut Vec<u8>, rng: &mut Rng) -> Request {
    let message = |topic: &[u8], reply: &[u8], headers: &[u8]| {
        let mut message = vec![flag::REPLY | flag::HEADERS];
        write_text16(&mut message, topic);
        write_text16(&mut message, reply);
        write_text16(&mut message, headers);
        message.extend_from_slice(b"payload");
        message
    };
    let (code, message) = match rng.below(7) {
        0 => (ErrorCode::TopicInvalid, message(LONG, b"", b"")),
        1 => (ErrorCode::TopicInvalid, message(DEEP, b"", b"")),
        2 => (ErrorCode::TopicInvalid, message(b"hot", LONG, b"")),
        3 => (ErrorCode::TopicReserved, message(b"$JS.hot", b"", b"")),
        4 => (
            ErrorCode::HeadersInvalid,
            message(b"hot", b"", b"\x02a:\x01\0x"),
        ),
        5 => (
            ErrorCode::HeadersInvalid,
            message(b"hot", b"", b"\x01a\x01\0\n"),
        ),
        _ => {
            let filter = rng.pick(&[LONG, DEEP, b">.hot", b"news.>.>", b"*.>.a"]);
            let group = rng.pick(&[NO_GROUP, b"workers"]);
            let subscription = Subscription {
                member: 0,
                group,
                filter,
            };
            write_subscription(bytes, kind::SUBSCRIBE, request, &subscription);
            let code = ErrorCode::TopicInvalid;
            return Request::Refused { request, code };
        }
    };
    if rng.percent(50) {
        write_message(bytes, &message);
        return Request::Refused { request: 0, code };
    }
    write_publish(bytes, request, When::Unheard, &message);
    Request::Refused { request, code }
}

fn hello_of(hello: &Hello<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_hello(&mut bytes, hello);
    bytes
}

/// What lets nobody in.
fn bad_greeting(has_password: bool, rng: &mut Rng) -> Said {
    let mut ping = Vec::new();
    write_request(&mut ping, kind::PING, 1);
    let mut choices = vec![
        (ping, ErrorCode::HelloExpected),
        (
            hello_of(&Hello {
                versions: (2, 9),
                ..Hello::default()
            }),
            ErrorCode::Version,
        ),
        (vec![1, 0, 0, 0, 0x7f], ErrorCode::HelloExpected),
        (b"PING\r\n".to_vec(), ErrorCode::FrameTooLong),
        (16_385_u32.to_le_bytes().to_vec(), ErrorCode::FrameTooLong),
        (b"\x06\0\0\0\x01SAPX\x01\x01".to_vec(), ErrorCode::Malformed),
    ];
    if has_password {
        let wrong = [
            Hello {
                password: Some(b"correct horse?"),
                ..Hello::default()
            },
            Hello {
                user: Some(b"root"),
                password: Some(PASSWORD),
                ..Hello::default()
            },
            Hello::default(),
        ];
        choices.extend(wrong.map(|hello| (hello_of(&hello), ErrorCode::Authentication)));
    }
    let place = rng.below(choices.len());
    let (bytes, code) = choices.swap_remove(place);
    Said::Garbage(bytes, code)
}

/// What closes the connection of a client that was let in.
fn bad_frame(rng: &mut Rng) -> Said {
    let mut request_0 = Vec::new();
    write_request(&mut request_0, kind::PING, 0);
    let mut bad_when = Vec::new();
    write_frame(&mut bad_when, kind::PUBLISH, |out| {
        out.extend_from_slice(b"\x01\0\0\0\x04\0\x01\0a");
    });
    let mut bad_flags = Vec::new();
    write_message(&mut bad_flags, b"\x08\x01\0a");
    let mut member_of_none = Vec::new();
    write_frame(&mut member_of_none, kind::SUBSCRIBE, |out| {
        out.extend_from_slice(b"\x01\0\0\0\x01\0\0\0\0hot");
    });
    let mut choices = vec![
        (request_0, ErrorCode::Malformed),
        (bad_when, ErrorCode::Malformed),
        (bad_flags, ErrorCode::Malformed),
        (member_of_none, ErrorCode::Malformed),
        (vec![0; 4], ErrorCode::Malformed),
        (vec![1, 0, 0, 0, kind::ACK], ErrorCode::UnknownKind),
        (vec![0xff; 4], ErrorCode::FrameTooLong),
        (hello_of(&Hello::default()), ErrorCode::HelloExpected),
    ];
    let place = rng.below(choices.len());
    let (bytes, code) = choices.swap_remove(place);
    Said::Garbage(bytes, code)
}
