//! A raw connection that speaks the native protocol: frames out, one frame at a time in.
//!
//! It reads with the parser of `sapwood-wire` and behaves like nothing in particular: it answers nothing by itself and
//! drops nothing. Start at [`NativeClient`].

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use sapwood_wire::native::{
    self, AnswerPart, BrokerFrame, Hello, Message, Parsed, Parts, Policy, Subscription, When, kind,
};

use super::resp::RawClient;
use super::{Broker, VALUE_SECONDS_MAX};

/// A message as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub topic: Vec<u8>,
    pub reply: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub is_end: bool,
    pub payload: Vec<u8>,
}

impl Event {
    pub fn new(topic: &str, payload: impl AsRef<[u8]>) -> Event {
        Event {
            topic: topic.into(),
            payload: payload.as_ref().to_vec(),
            ..Event::default()
        }
    }

    pub fn of(message: &Message<'_>) -> Event {
        let headers = message.headers();
        Event {
            topic: message.topic.to_vec(),
            reply: message.reply().map(<[u8]>::to_vec),
            headers: headers
                .map(|(name, value)| (name.to_vec(), value.to_vec()))
                .collect(),
            is_end: message.is_end(),
            payload: message.payload.to_vec(),
        }
    }

    /// The message's bytes, without a frame around them.
    pub fn message(&self) -> Vec<u8> {
        let headers = self.headers.iter();
        let headers: Vec<(&[u8], &[u8])> =
            headers.map(|(name, value)| (&**name, &**value)).collect();
        let parts = Parts {
            topic: &self.topic,
            reply: self.reply.as_deref(),
            headers: &headers,
            is_end: self.is_end,
            payload: &self.payload,
        };
        let mut bytes = Vec::new();
        parts.write(&mut bytes).expect("a test's message is legal");
        bytes
    }
}

/// A frame of the broker's that owns what it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Welcome {
        client: u64,
        payload_max: u32,
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
    Message(Event),
    Turn {
        member: u32,
        event: Event,
    },
    Gap(u64),
    Draining(u32),
    Answer {
        request: u32,
        part: AnswerPart,
        body: Vec<u8>,
    },
    Stored {
        first: u32,
        count: u32,
        answers: Vec<u8>,
    },
    Unknown(u8),
}

impl Frame {
    fn of(frame: &BrokerFrame<'_>) -> Frame {
        match *frame {
            BrokerFrame::Welcome(welcome) => Frame::Welcome {
                client: welcome.client,
                payload_max: welcome.payload_max,
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
            BrokerFrame::Message(message) => Frame::Message(Event::of(&message)),
            BrokerFrame::Turn { member, message } => Frame::Turn {
                member,
                event: Event::of(&message),
            },
            BrokerFrame::Gap { events } => Frame::Gap(events),
            BrokerFrame::Draining { milliseconds } => Frame::Draining(milliseconds),
            BrokerFrame::Answer {
                request,
                part,
                body,
            } => Frame::Answer {
                request,
                part,
                body: body.to_vec(),
            },
            BrokerFrame::Stored {
                first,
                count,
                answers,
            } => Frame::Stored {
                first,
                count,
                answers: answers.to_vec(),
            },
            BrokerFrame::Unknown(kind) => Frame::Unknown(kind),
        }
    }
}

/// What came of a stream and is no whole frame yet.
#[derive(Debug, Default)]
pub struct Decoder {
    unread: Vec<u8>,
}

impl Decoder {
    /// Takes in what came, and gives each frame that is whole to `each`; panics on what is no frame.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(BrokerFrame<'_>)) {
        self.unread.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            match native::parse_from_broker(&self.unread[at..]) {
                Ok(Parsed::Frame { frame, length }) => {
                    each(frame);
                    at += length;
                }
                Ok(Parsed::Incomplete { .. }) => break,
                Err(error) => panic!("the broker sent no frame: {error}"),
            }
        }
        self.unread.drain(..at);
    }

    /// Whether the stream stands between two frames.
    pub fn is_between_frames(&self) -> bool {
        self.unread.is_empty()
    }
}

fn keep(frames: &mut VecDeque<Frame>, frame: BrokerFrame<'_>) {
    frames.push_back(Frame::of(&frame));
}

/// A connection of its own.
pub struct NativeClient {
    stream: TcpStream,
    decoder: Decoder,
    frames: VecDeque<Frame>,
    client: u64,
    next_request: u32,
}

impl NativeClient {
    /// Connects and says nothing.
    pub fn dial(port: u16) -> NativeClient {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .unwrap_or_else(|error| panic!("cannot connect to port {port}: {error}"));
        stream
            .set_nodelay(true)
            .expect("a TCP socket has TCP_NODELAY");
        NativeClient {
            stream,
            decoder: Decoder::default(),
            frames: VecDeque::new(),
            client: 0,
            next_request: 1,
        }
    }

    /// Connects and is let in.
    pub fn connect(port: u16) -> NativeClient {
        NativeClient::connect_with(port, &Hello::default())
    }

    /// Connects, chooses what happens when it reads too slowly, and is let in.
    pub fn connect_with_policy(port: u16, policy: Policy) -> NativeClient {
        let hello = Hello {
            policy: Some(policy),
            ..Hello::default()
        };
        NativeClient::connect_with(port, &hello)
    }

    /// Connects with this HELLO and is let in.
    pub fn connect_with(port: u16, hello: &Hello<'_>) -> NativeClient {
        let mut client = NativeClient::dial(port);
        client.write(|out| native::write_hello(out, hello));
        match client.frame() {
            Frame::Welcome { client: id, .. } => client.client = id,
            other => panic!("{other:?} is no welcome"),
        }
        client
    }

    /// Connects to the shard with this number. The kernel chooses, so it takes a few attempts.
    pub fn connect_to_shard(broker: &Broker, shard: usize, policy: Policy) -> NativeClient {
        let mut asker = RawClient::connect(broker.port());
        for _ in 0..1_000 {
            let client = NativeClient::connect_with_policy(broker.native_port(), policy);
            let shown = client.field(&mut asker, "shard");
            if shown.as_deref() == Some(&*shard.to_string()) {
                return client;
            }
        }
        panic!("a thousand connections, and none is at shard {shard}");
    }

    /// Its number on the broker.
    pub fn client(&self) -> u64 {
        self.client
    }

    /// What CLIENT LIST says of it under this name; `None` if the broker does not know it any more.
    pub fn field(&self, asker: &mut RawClient, name: &str) -> Option<String> {
        let list = asker.call(&["CLIENT", "LIST", "ID", &self.client.to_string()]);
        let text = list.text();
        let mut words = text.split_whitespace();
        words.find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_string()))
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Writes bytes. A peer that has closed is no error here: reading tells.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Writes what `build` appends.
    pub fn write(&mut self, build: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        build(&mut bytes);
        self.send(&bytes);
    }

    /// A number for the next request.
    pub fn request(&mut self) -> u32 {
        self.next_request += 1;
        self.next_request - 1
    }

    /// Publishes without being answered.
    pub fn publish(&mut self, event: &Event) {
        self.write(|out| native::write_message(out, &event.message()));
    }

    /// Publishes, and gives the count of the ACK, which must come next.
    pub fn publish_counted(&mut self, event: &Event) -> u32 {
        let request = self.request();
        self.write(|out| native::write_publish(out, request, When::Always, &event.message()));
        self.acknowledged(request)
    }

    /// Subscribes without a group, and gives the count of the ACK, which must come next.
    pub fn subscribe(&mut self, filter: &str) -> u32 {
        self.join("", 0, filter)
    }

    /// Becomes a member of a group, and gives the count of the ACK, which must come next.
    pub fn join(&mut self, group: &str, member: u32, filter: &str) -> u32 {
        let request = self.send_subscription(kind::SUBSCRIBE, group, member, filter);
        self.acknowledged(request)
    }

    /// Sends a SUBSCRIBE or UNSUBSCRIBE, and gives its number.
    pub fn send_subscription(&mut self, kind: u8, group: &str, member: u32, filter: &str) -> u32 {
        let request = self.request();
        let subscription = Subscription {
            member,
            group: group.as_bytes(),
            filter: filter.as_bytes(),
        };
        self.write(|out| native::write_subscription(out, kind, request, &subscription));
        request
    }

    /// Sends a PING or DRAIN, and gives its number.
    pub fn send_request(&mut self, kind: u8) -> u32 {
        let request = self.request();
        self.write(|out| native::write_request(out, kind, request));
        request
    }

    /// Sends a PING and gives what stands before its ACK.
    pub fn ping(&mut self) -> Vec<Frame> {
        let request = self.send_request(kind::PING);
        self.until(|frame| matches!(frame, Frame::Ack { request: other, .. } if *other == request))
    }

    /// Reads frames up to the first for which `is_last` holds; gives those before it.
    pub fn until(&mut self, mut is_last: impl FnMut(&Frame) -> bool) -> Vec<Frame> {
        let mut before = Vec::new();
        loop {
            let frame = self.frame();
            if is_last(&frame) {
                return before;
            }
            before.push(frame);
        }
    }

    /// The count of the ACK for this request, which must be the next frame.
    pub fn acknowledged(&mut self, request: u32) -> u32 {
        match self.frame() {
            Frame::Ack {
                request: other,
                count,
            } if other == request => count,
            other => panic!("{other:?} is not the answer to request {request}"),
        }
    }

    /// The next frame, which must be a MESSAGE.
    pub fn message(&mut self) -> Event {
        match self.frame() {
            Frame::Message(event) => event,
            other => panic!("{other:?} is no message"),
        }
    }

    /// The code and the request of the next frame, which must be an ERROR with a text.
    pub fn error(&mut self) -> (u16, u32) {
        match self.frame() {
            Frame::Error {
                request,
                code,
                text,
            } => {
                assert!(!text.is_empty(), "error {code} says nothing");
                (code, request)
            }
            other => panic!("{other:?} is no error"),
        }
    }

    /// Reads exactly one frame, and panics when none comes.
    pub fn frame(&mut self) -> Frame {
        let deadline = Instant::now() + VALUE_SECONDS_MAX;
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return frame;
            }
            let is_open = self
                .fill(deadline, keep)
                .unwrap_or_else(|error| panic!("{error}"));
            assert!(
                is_open,
                "the connection {:?} was closed before a whole frame; {:?} stands there",
                self.stream, self.decoder
            );
        }
    }

    /// Reads once and gives each frame that is whole to `each`, without a copy; false once the peer has closed.
    pub fn read_each(&mut self, mut each: impl FnMut(BrokerFrame<'_>)) -> bool {
        assert!(self.frames.is_empty(), "frames were read and not taken");
        let deadline = Instant::now() + VALUE_SECONDS_MAX;
        let is_open = self.fill(deadline, |_, frame| each(frame));
        is_open.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Whether all that came so far was whole frames.
    pub fn is_between_frames(&self) -> bool {
        self.decoder.is_between_frames()
    }

    /// Waits until the peer closes, and gives the whole frames before that.
    pub fn rest(&mut self) -> Vec<Frame> {
        let deadline = Instant::now() + VALUE_SECONDS_MAX;
        while self
            .fill(deadline, keep)
            .unwrap_or_else(|error| panic!("{error}"))
        {}
        std::mem::take(&mut self.frames).into()
    }

    /// Waits until the peer closes, and panics when it does not or sends anything more.
    pub fn expect_close(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "more before the close: {rest:?}");
        assert!(self.decoder.is_between_frames(), "a cut frame");
    }

    /// Waits for bytes; false once the peer has closed. `take` gets each frame that is whole.
    fn fill(
        &mut self,
        deadline: Instant,
        mut take: impl FnMut(&mut VecDeque<Frame>, BrokerFrame<'_>),
    ) -> Result<bool, String> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("no whole frame in time".to_string());
        }
        let left = left.max(Duration::from_millis(1));
        self.stream
            .set_read_timeout(Some(left))
            .expect("the time left is not zero");
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Ok(false),
            Ok(length) => {
                let NativeClient {
                    decoder, frames, ..
                } = self;
                decoder.feed(&chunk[..length], |frame| take(frames, frame));
                Ok(true)
            }
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Ok(false),
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(true),
                _ => Err(format!("reading failed: {error}")),
            },
        }
    }
}
