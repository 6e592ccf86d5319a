//! Frames in JSON, and the way to bytes and back by the wire package.
//!
//! Owns the fields' names and what absence means. Must not know connections. It adds to the parsers what the broker checks
//! behind them: names, headers' bytes and the payload's length. Start at [`decode`].

use sapwood_client::{ErrorCode, Policy};
use sapwood_wire::limits::{NATIVE_FRAME_BYTES_MAX, NATIVE_HELLO_BYTES_MAX, PAYLOAD_BYTES_MAX};
use sapwood_wire::native::{
    self, BrokerFrame, ClientFrame, FrameError, Hello, LENGTH_BYTES, Parsed, Parts, PartsError,
    Welcome, When, flag, kind,
};
use sapwood_wire::topic;
use serde::{Deserialize, Serialize};

use crate::json::{Bytes, Failure, Message};

/// The bit of a kind that only the broker sends.
const FROM_BROKER: u8 = 0x80;

/// A frame. Numbers of 64 bits are decimal texts.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "UPPERCASE")]
pub enum Frame {
    Hello {
        oldest: u8,
        newest: u8,
        user: Option<Bytes>,
        password: Option<Bytes>,
        name: Option<String>,
        library: Option<String>,
        policy: Option<String>,
    },
    Publish {
        request: u32,
        when: u8,
        message: Message,
    },
    Subscribe(Subscribing),
    Unsubscribe(Subscribing),
    Ping {
        request: u32,
    },
    Drain {
        request: u32,
    },
    Message {
        message: Message,
    },
    Welcome {
        version: u8,
        broker: Option<String>,
        client: Option<String>,
        run: Option<String>,
        payload_max: Option<u32>,
    },
    Ack {
        request: u32,
        count: u32,
    },
    Error {
        request: u32,
        code: u16,
        text: String,
    },
    Turn {
        member: u32,
        message: Message,
    },
    Gap {
        events: String,
    },
    Draining {
        milliseconds: u32,
    },
}

/// The fields of SUBSCRIBE and UNSUBSCRIBE.
#[derive(Debug, Deserialize, Serialize)]
pub struct Subscribing {
    request: u32,
    filter: Bytes,
    #[serde(default)]
    group: Bytes,
    #[serde(default)]
    member: u32,
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Failure {
        Failure::refused(error.code(), error)
    }
}

/// The frame in these bytes, which are one, or the code that the page has for them.
pub fn decode(bytes: &[u8]) -> Result<Frame, Failure> {
    let number = bytes.get(LENGTH_BYTES).copied().unwrap_or_default();
    if number & FROM_BROKER != 0 {
        broker_frame(whole(native::parse_from_broker(bytes)?, bytes)?)
    } else {
        let cap = match number {
            kind::HELLO => NATIVE_HELLO_BYTES_MAX,
            _ => NATIVE_FRAME_BYTES_MAX,
        };
        client_frame(whole(native::parse_from_client(bytes, cap)?, bytes)?)
    }
}

/// The frame, if it is all that there is.
fn whole<F>(parsed: Parsed<F>, bytes: &[u8]) -> Result<F, Failure> {
    match parsed {
        Parsed::Frame { frame, length } if length == bytes.len() => Ok(frame),
        _ => Err(Failure::refused(
            ErrorCode::Malformed,
            "its length is not that of the bytes",
        )),
    }
}

fn client_frame(frame: ClientFrame<'_>) -> Result<Frame, Failure> {
    Ok(match frame {
        ClientFrame::Hello(hello) => Frame::Hello {
            oldest: hello.versions.0,
            newest: hello.versions.1,
            user: hello.user.map(Bytes::from),
            password: hello.password.map(Bytes::from),
            name: label(hello.name),
            library: label(hello.library),
            policy: hello.policy.map(|policy| policy.name().to_string()),
        },
        ClientFrame::Publish {
            request,
            when,
            message,
        } => Frame::Publish {
            request,
            when: match when {
                When::Always => 1,
                When::Unheard => 2,
            },
            message: message_of(&message)?,
        },
        ClientFrame::Subscribe {
            request,
            subscription,
        } => Frame::Subscribe(subscribing_of(request, &subscription)?),
        ClientFrame::Unsubscribe {
            request,
            subscription,
        } => Frame::Unsubscribe(subscribing_of(request, &subscription)?),
        // What is said of streams is not among the cases.
        ClientFrame::PublishStored { .. } => {
            return Err(FrameError::UnknownKind(kind::PUBLISH).into());
        }
        ClientFrame::Call { .. } => return Err(FrameError::UnknownKind(kind::CALL).into()),
        ClientFrame::Ping { request } => Frame::Ping { request },
        ClientFrame::Drain { request } => Frame::Drain { request },
        ClientFrame::Message(message) => Frame::Message {
            message: message_of(&message)?,
        },
    })
}

fn broker_frame(frame: BrokerFrame<'_>) -> Result<Frame, Failure> {
    Ok(match frame {
        // The wire package has 0 and the empty text for what is absent.
        BrokerFrame::Welcome(welcome) => Frame::Welcome {
            version: welcome.version,
            broker: label(welcome.broker),
            client: (welcome.client != 0).then(|| welcome.client.to_string()),
            run: label(welcome.run),
            payload_max: (welcome.payload_max != 0).then_some(welcome.payload_max),
        },
        BrokerFrame::Ack { request, count } => Frame::Ack { request, count },
        BrokerFrame::Error {
            request,
            code,
            text,
        } => Frame::Error {
            request,
            code,
            text: text.to_string(),
        },
        BrokerFrame::Message(message) => Frame::Message {
            message: message_of(&message)?,
        },
        BrokerFrame::Turn { member, message } => Frame::Turn {
            member,
            message: message_of(&message)?,
        },
        BrokerFrame::Gap { events } => Frame::Gap {
            events: events.to_string(),
        },
        BrokerFrame::Draining { milliseconds } => Frame::Draining { milliseconds },
        BrokerFrame::Answer { .. } => return Err(FrameError::UnknownKind(kind::ANSWER).into()),
        BrokerFrame::Stored { .. } => return Err(FrameError::UnknownKind(kind::STORED).into()),
        BrokerFrame::Unknown(number) => {
            return Err(FrameError::UnknownKind(number).into());
        }
    })
}

fn label(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_string())
}

fn message_of(message: &native::Message<'_>) -> Result<Message, Failure> {
    for name in [Some(message.topic), message.reply()].into_iter().flatten() {
        topic::check_name(name).map_err(name_refused)?;
    }
    if !message.headers().are_valid() {
        let text = "a header's name or value holds what it must not";
        return Err(Failure::refused(ErrorCode::HeadersInvalid, text));
    }
    if message.payload.len() > PAYLOAD_BYTES_MAX {
        let text = "the payload is too long";
        return Err(Failure::refused(ErrorCode::PayloadTooLong, text));
    }
    let headers = message.headers();
    Ok(Message {
        topic: message.topic.into(),
        payload: message.payload.into(),
        reply: message.reply().map(Bytes::from),
        headers: (message.flags & flag::HEADERS != 0)
            .then(|| headers.map(|(n, v)| (n.into(), v.into())).collect()),
        last: message.is_end(),
    })
}

fn subscribing_of(
    request: u32,
    subscription: &native::Subscription<'_>,
) -> Result<Subscribing, Failure> {
    let filter = subscription.filter;
    let checked = match topic::is_wildcard(filter) {
        true => topic::check_wildcard(filter),
        false => topic::check_name(filter),
    };
    checked.map_err(name_refused)?;
    Ok(Subscribing {
        request,
        filter: filter.into(),
        group: subscription.group.into(),
        member: subscription.member,
    })
}

fn name_refused(error: topic::TopicError) -> Failure {
    Failure::refused(ErrorCode::TopicInvalid, error)
}

/// The bytes of a frame.
pub fn encode(frame: &Frame) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    match frame {
        Frame::Hello { .. } => write_hello(&mut out, frame)?,
        Frame::Welcome { .. } => write_welcome(&mut out, frame)?,
        Frame::Publish {
            request,
            when,
            message,
        } => {
            let when = match when {
                1 => When::Always,
                2 => When::Unheard,
                _ => return Err(Failure::agent("when is neither 1 nor 2")),
            };
            native::write_publish(&mut out, *request, when, &message_bytes(message)?);
        }
        Frame::Subscribe(fields) => write_subscribing(&mut out, kind::SUBSCRIBE, fields),
        Frame::Unsubscribe(fields) => write_subscribing(&mut out, kind::UNSUBSCRIBE, fields),
        Frame::Ping { request } => native::write_request(&mut out, kind::PING, *request),
        Frame::Drain { request } => native::write_request(&mut out, kind::DRAIN, *request),
        Frame::Message { message } => native::write_message(&mut out, &message_bytes(message)?),
        Frame::Ack { request, count } => native::write_ack(&mut out, *request, *count),
        Frame::Error {
            request,
            code,
            text,
        } => {
            let code = ErrorCode::from_number(*code)
                .ok_or_else(|| Failure::unsupported("the wire package writes known codes only"))?;
            native::write_error(&mut out, *request, code, text);
        }
        Frame::Turn { member, message } => {
            native::write_turn(&mut out, *member, &message_bytes(message)?);
        }
        Frame::Gap { events } => native::write_gap(&mut out, number(events)?),
        Frame::Draining { milliseconds } => native::write_draining(&mut out, *milliseconds),
    }
    Ok(out)
}

fn number(digits: &str) -> Result<u64, Failure> {
    digits.parse().map_err(Failure::agent)
}

fn write_hello(out: &mut Vec<u8>, frame: &Frame) -> Result<(), Failure> {
    let Frame::Hello {
        oldest,
        newest,
        user,
        password,
        name,
        library,
        policy,
    } = frame
    else {
        return Err(Failure::agent("this is no HELLO"));
    };
    let policy = policy.as_ref().map(|name| {
        Policy::from_name(name).ok_or_else(|| Failure::agent(format!("no policy is {name}")))
    });
    let hello = Hello {
        versions: (*oldest, *newest),
        user: user.as_ref().map(|user| user.0.as_slice()),
        password: password.as_ref().map(|password| password.0.as_slice()),
        name: name.as_deref().unwrap_or_default(),
        library: library.as_deref().unwrap_or_default(),
        policy: policy.transpose()?,
    };
    native::write_hello(out, &hello);
    Ok(())
}

fn write_welcome(out: &mut Vec<u8>, frame: &Frame) -> Result<(), Failure> {
    let Frame::Welcome {
        version,
        broker,
        client,
        run,
        payload_max,
    } = frame
    else {
        return Err(Failure::agent("this is no WELCOME"));
    };
    let Some(client) = client else {
        return Err(Failure::unsupported(
            "the wire package writes no WELCOME without the client's number",
        ));
    };
    let welcome = Welcome {
        version: *version,
        broker: broker.as_deref().unwrap_or_default(),
        client: number(client)?,
        run: run.as_deref().unwrap_or_default(),
        payload_max: payload_max.unwrap_or_default(),
    };
    native::write_welcome(out, &welcome);
    Ok(())
}

fn write_subscribing(out: &mut Vec<u8>, kind: u8, fields: &Subscribing) {
    let subscription = native::Subscription {
        member: fields.member,
        group: &fields.group.0,
        filter: &fields.filter.0,
    };
    native::write_subscription(out, kind, fields.request, &subscription);
}

/// A message alone, without a frame around it.
fn message_bytes(message: &Message) -> Result<Vec<u8>, Failure> {
    let headers: Vec<(&[u8], &[u8])> = match &message.headers {
        Some(headers) => headers
            .iter()
            .map(|(name, value)| (name.0.as_slice(), value.0.as_slice()))
            .collect(),
        None => Vec::new(),
    };
    let mut parts = Parts {
        topic: &message.topic.0,
        reply: message.reply.as_ref().map(|reply| reply.0.as_slice()),
        headers: &headers,
        is_end: message.last,
        payload: &message.payload.0,
    };
    let mut out = Vec::new();
    let refused =
        |error: PartsError| Failure::from(sapwood_client::error::MessageError::Parts(error));
    if message.headers.is_none() || !headers.is_empty() {
        parts.write(&mut out).map_err(refused)?;
        return Ok(out);
    }
    // Parts leave an empty list of headers out. Here it has to be said: the flag, and a length of 0.
    parts.payload = b"";
    parts.write(&mut out).map_err(refused)?;
    out[0] |= flag::HEADERS;
    native::write_text16(&mut out, b"");
    out.extend_from_slice(&message.payload.0);
    Ok(out)
}
