//! The crowd and its publishers: one thread, one epoll set.
//!
//! Owns sockets, and when each event was published and arrived. What is read is checked by [`Listener`]. Does not know
//! when to publish; that is in [`crate::course`].

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use serde_json::json;

use crate::crowd::Arrival;
use crate::dialect::Dialect;
use crate::generator::Trouble;
use crate::listener::{Kind, Listener, Script, frame, request};

/// One read of a connection.
const READ_BYTES: usize = 256 * 1024;

/// How long opening a connection may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest answer to what opens a connection.
const OPENING_BYTES_MAX: usize = 4 * 1024;

/// Places in the epoll set of who is no member of the crowd.
const PUBLISHER: u64 = u64::MAX;
const FLOODER: u64 = u64::MAX - 1;

/// The key of the example in RFC 6455, section 1.3, and its answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Reads until the input ends in these bytes.
fn read_until(stream: &mut TcpStream, end: &[u8]) -> io::Result<Vec<u8>> {
    let (mut input, mut buffer) = (Vec::new(), [0; OPENING_BYTES_MAX]);
    while !input.ends_with(end) {
        let count = stream.read(&mut buffer)?;
        input.extend_from_slice(&buffer[..count]);
        if count == 0 || input.len() > OPENING_BYTES_MAX {
            let said = input.escape_ascii();
            return Err(io::Error::other(format!("the server answered \"{said}\"")));
        }
    }
    Ok(input)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(OPEN_TIMEOUT))?;
    Ok(stream)
}

/// Opens a WebSocket and subscribes to the topics; returns when the broker has confirmed them.
pub fn open_socket(http: SocketAddr, topics: &[&str]) -> io::Result<TcpStream> {
    let mut stream = connect(http)?;
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: {http}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: sapwood.json\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let answer = read_until(&mut stream, b"\r\n\r\n")?;
    let answer = String::from_utf8_lossy(&answer);
    if !answer.starts_with("HTTP/1.1 101 ") || !answer.contains(ACCEPT) {
        return Err(io::Error::other(format!("no WebSocket: {answer}")));
    }
    for (topic, id) in topics.iter().zip(1..) {
        let subscribe = json!({"op": "subscribe", "filter": topic, "id": id});
        stream.write_all(&request(&subscribe))?;
        let ok = format!("{{\"op\":\"ok\",\"id\":{id},\"count\":{id}}}");
        read_until(&mut stream, &frame(0x81, ok.as_bytes()))?;
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Opens a stream of a topic's events.
pub fn open_stream(http: SocketAddr, topic: &str) -> io::Result<TcpStream> {
    let mut stream = connect(http)?;
    let head = format!(
        "GET /v1/topics/{topic} HTTP/1.1\r\nHost: {http}\r\nAccept: text/event-stream\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let answer = read_until(&mut stream, b"\r\n\r\n3\r\n:\n\n\r\n")?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        let said = answer.escape_ascii();
        return Err(io::Error::other(format!("no event stream: {said}")));
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// A counter of the broker, from `GET /info`.
pub fn counter(http: SocketAddr, name: &str) -> io::Result<u64> {
    let mut stream = connect(http)?;
    let head = format!("GET /info HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let info: serde_json::Value = serde_json::from_str(body)?;
    info["counters"][name]
        .as_u64()
        .ok_or_else(|| io::Error::other(format!("no counter {name} in {body}")))
}

/// A Redis client that publishes and reads how many heard it.
#[derive(Debug)]
pub struct Publisher {
    stream: TcpStream,
    out: Vec<u8>,
    input: Vec<u8>,
    /// How many heard each publish.
    pub heard: Vec<u64>,
}

impl Publisher {
    fn open(redis: SocketAddr) -> io::Result<Publisher> {
        let stream = connect(redis)?;
        stream.set_nonblocking(true)?;
        Ok(Publisher {
            stream,
            out: Vec::new(),
            input: Vec::new(),
            heard: Vec::new(),
        })
    }

    /// Whether something waits for room in the socket.
    pub fn is_behind(&self) -> bool {
        !self.out.is_empty()
    }

    /// Writes a publish, as far as the socket takes it.
    pub fn publish(&mut self, topic: &str, payload: &[u8]) -> io::Result<()> {
        self.out
            .extend(Dialect::Redis.publish(topic.as_bytes(), payload));
        self.write()
    }

    /// Writes what waits.
    pub fn write(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), Trouble> {
        let count = self.stream.read(buffer)?;
        if count == 0 {
            return Err(Trouble::Wrong("the server closed a publisher".to_string()));
        }
        self.input.extend_from_slice(&buffer[..count]);
        while let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
            let line: Vec<u8> = self.input.drain(..end + 2).collect();
            let number = line.strip_prefix(b":").map(|rest| &rest[..end - 1]);
            let number = number.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            let wrong = || Trouble::Wrong(format!("a publish got \"{}\"", line.escape_ascii()));
            self.heard.push(number.ok_or_else(wrong)?);
        }
        Ok(())
    }
}

/// How an event came to the subscribers of a kind.
#[derive(Clone, Copy, Debug, Default)]
struct Come {
    count: usize,
    first: Duration,
    last: Duration,
}

/// An event that was published.
#[derive(Debug)]
struct Published {
    at: Instant,
    sockets: Come,
    streams: Come,
}

/// The subscribers that read, and who publishes to them.
pub struct Audience {
    epoll: OwnedFd,
    members: Vec<(TcpStream, Listener)>,
    /// Publishes the topic's events.
    pub publisher: Publisher,
    /// Publishes what only the stalled subscriber gets.
    pub flooder: Publisher,
    topic: &'static str,
    script: Script,
    published: Vec<Published>,
    /// Deliveries that came and were right.
    pub delivered: u64,
    buffer: Vec<u8>,
    events: Vec<epoll::Event>,
}

impl Audience {
    /// Without subscribers yet.
    pub fn new(redis: SocketAddr, topic: &'static str, script: Script) -> io::Result<Audience> {
        let audience = Audience {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            members: Vec::new(),
            publisher: Publisher::open(redis)?,
            flooder: Publisher::open(redis)?,
            topic,
            script,
            published: Vec::new(),
            delivered: 0,
            buffer: vec![0; READ_BYTES],
            events: Vec::with_capacity(1_024),
        };
        for (publisher, place) in [
            (&audience.publisher, PUBLISHER),
            (&audience.flooder, FLOODER),
        ] {
            audience.watch(&publisher.stream, place)?;
        }
        Ok(audience)
    }

    fn watch(&self, stream: &TcpStream, place: u64) -> io::Result<()> {
        let data = EventData::new_u64(place);
        Ok(epoll::add(&self.epoll, stream, data, EventFlags::IN)?)
    }

    /// Takes a subscriber.
    pub fn add(&mut self, stream: TcpStream, kind: Kind) -> io::Result<()> {
        self.watch(&stream, self.members.len() as u64)?;
        self.members.push((stream, Listener::new(kind)));
        Ok(())
    }

    /// Subscribers that read.
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// Events published so far.
    pub fn published(&self) -> usize {
        self.published.len()
    }

    /// Deliveries that are owed.
    pub fn missing(&self) -> u64 {
        (self.published.len() * self.members.len()) as u64 - self.delivered
    }

    /// Publishes the script's next event.
    pub fn publish(&mut self) -> io::Result<()> {
        let payload = &self.script.payloads[self.published.len()];
        self.published.push(Published {
            at: Instant::now(),
            sockets: Come::default(),
            streams: Come::default(),
        });
        self.publisher.publish(self.topic, payload)
    }

    /// Reads once from each connection that has something; waits for that at most `timeout`.
    pub fn receive(&mut self, timeout: Duration) -> Result<(), Trouble> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        match epoll::wait(
            &self.epoll,
            spare_capacity(&mut self.events),
            Some(&timeout),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            // The kernel's struct is packed, so its fields cannot be borrowed.
            let data = event.data;
            match data.u64() {
                PUBLISHER => self.publisher.read(&mut self.buffer)?,
                FLOODER => self.flooder.read(&mut self.buffer)?,
                place => self.read(place as usize)?,
            }
        }
        self.events = events;
        Ok(())
    }

    fn read(&mut self, place: usize) -> Result<(), Trouble> {
        let (stream, listener) = &mut self.members[place];
        let count = match stream.read(&mut self.buffer) {
            Ok(0) => return Err(Trouble::Wrong("the server closed a subscriber".to_string())),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let now = Instant::now();
        let before = listener.events;
        listener.take(&self.buffer[..count], &self.script, self.published.len())?;
        for event in &mut self.published[before..listener.events] {
            let come = match listener.kind {
                Kind::Socket => &mut event.sockets,
                Kind::Stream => &mut event.streams,
            };
            come.last = now - event.at;
            if come.count == 0 {
                come.first = come.last;
            }
            come.count += 1;
            self.delivered += 1;
        }
        if !listener.answer.is_empty() {
            // So few bytes fit into a socket to which nothing else was written.
            stream.write_all(&std::mem::take(&mut listener.answer))?;
        }
        Ok(())
    }

    /// When the events from a place on arrived at the subscribers of a kind, if all did.
    pub fn arrivals(&self, from: usize, kind: Kind) -> Result<Vec<Arrival>, Trouble> {
        let members = self.members.iter();
        let count = members.filter(|(_, one)| one.kind == kind).count();
        let arrivals = self.published[from..].iter().map(|event| {
            let come = match kind {
                Kind::Socket => event.sockets,
                Kind::Stream => event.streams,
            };
            let nanoseconds = |time: Duration| time.as_nanos() as u64;
            match come.count == count {
                true => Ok(Arrival(nanoseconds(come.first), nanoseconds(come.last))),
                false => Err(Trouble::Wrong(format!(
                    "an event came to {} of {count} subscribers",
                    come.count
                ))),
            }
        });
        arrivals.collect()
    }

    /// Whether nobody is within an event.
    pub fn is_between_events(&self) -> bool {
        self.members.iter().all(|(_, one)| one.is_between())
    }
}
