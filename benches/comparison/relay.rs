//! The floor: what moving the bytes costs when nothing is done with them.
//!
//! One thread, one epoll set, one read of 256 KiB for each ready connection and turn, one write for
//! each subscriber and turn. A connection says first what it is: `Snnnnn` subscribes to topic
//! nnnnn, `Pnnnnn` is copied to the subscribers of that topic without being looked at, and the
//! frames that follow `R` are native ones, of which the length and the topic's last digits are
//! read. `?` is answered by `!`. It trusts its peer and has no caps: it is a measure, not a product.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const READ_BYTES: usize = 256 * 1024;

/// Digits of a topic's number.
const DIGITS: usize = 5;

/// What waits for a subscriber above which publishers are not read.
const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// Of a native frame's length field, kind, flags and topic length.
const LENGTH_BYTES: usize = 4;
const TOPIC_AT: usize = 8;

#[derive(Debug)]
enum Role {
    Unknown,
    Subscriber,
    Publisher(usize),
    Router(Vec<u8>),
}

#[derive(Debug)]
struct Peer {
    stream: TcpStream,
    role: Role,
    output: Vec<u8>,
    written: usize,
}

#[derive(Debug, Default)]
struct Relay {
    peers: Vec<Peer>,
    topics: Vec<Vec<usize>>,
    dirty: BTreeSet<usize>,
}

fn number(digits: &[u8]) -> usize {
    digits.iter().fold(0, |number, digit| {
        number * 10 + usize::from(digit.wrapping_sub(b'0'))
    })
}

impl Relay {
    fn subscribers(&mut self, topic: usize) -> &mut Vec<usize> {
        if self.topics.len() <= topic {
            self.topics.resize(topic + 1, Vec::new());
        }
        &mut self.topics[topic]
    }

    fn copy(&mut self, topic: usize, bytes: &[u8]) {
        let subscribers = std::mem::take(self.subscribers(topic));
        for &place in &subscribers {
            self.peers[place].output.extend_from_slice(bytes);
            self.dirty.insert(place);
        }
        self.topics[topic] = subscribers;
    }

    fn take(&mut self, place: usize, mut input: &[u8]) {
        while !input.is_empty() {
            match &mut self.peers[place].role {
                Role::Publisher(topic) => {
                    let topic = *topic;
                    return self.copy(topic, input);
                }
                Role::Router(waiting) => {
                    waiting.extend_from_slice(input);
                    let waiting = std::mem::take(waiting);
                    let used = self.route(&waiting);
                    self.peers[place].role = Role::Router(waiting[used..].to_vec());
                    return;
                }
                Role::Unknown | Role::Subscriber => input = self.learn(place, input),
            }
        }
    }

    fn route(&mut self, input: &[u8]) -> usize {
        let mut at = 0;
        while let Some(head) = input.get(at..at + TOPIC_AT) {
            let length =
                u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize + LENGTH_BYTES;
            let topic_length = usize::from(u16::from_le_bytes([head[6], head[7]]));
            let Some(frame) = input.get(at..at + length) else {
                break;
            };
            let end = TOPIC_AT + topic_length;
            self.copy(number(&frame[end - DIGITS..end]), frame);
            at += length;
        }
        at
    }

    fn learn<'a>(&mut self, place: usize, input: &'a [u8]) -> &'a [u8] {
        match input[0] {
            b'?' => {
                self.peers[place].output.push(b'!');
                self.dirty.insert(place);
                &input[1..]
            }
            b'R' => {
                self.peers[place].role = Role::Router(Vec::new());
                &input[1..]
            }
            role => {
                let topic = number(&input[1..=DIGITS]);
                if role == b'S' {
                    self.subscribers(topic).push(place);
                    self.peers[place].role = Role::Subscriber;
                } else {
                    self.peers[place].role = Role::Publisher(topic);
                }
                &input[1 + DIGITS..]
            }
        }
    }

    /// Writes once to each connection that has something. What does not fit is tried again after the next
    /// read; above the cap nothing is read before there is room.
    fn flush(&mut self) -> io::Result<()> {
        for place in std::mem::take(&mut self.dirty) {
            let peer = &mut self.peers[place];
            loop {
                match peer.stream.write(&peer.output[peer.written..]) {
                    Ok(count) => peer.written += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => peer.written = peer.output.len(),
                }
                if peer.output.len() - peer.written <= WAITING_BYTES_MAX {
                    break;
                }
                let mut ready = [PollFd::new(&peer.stream, PollFlags::OUT)];
                poll(&mut ready, None)?;
            }
            if peer.written == peer.output.len() {
                peer.output.clear();
                peer.written = 0;
            } else {
                peer.output.drain(..peer.written);
                peer.written = 0;
                self.dirty.insert(place);
            }
        }
        Ok(())
    }

    /// Answers whether the connection goes on.
    fn read(&mut self, place: usize, buffer: &mut [u8]) -> bool {
        match self.peers[place].stream.read(buffer) {
            Ok(0) => return false,
            Ok(count) => self.take(place, &buffer[..count]),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
        true
    }

    /// Its place stays empty: a relay lives for one run.
    fn end(&mut self, place: usize) {
        for subscribers in &mut self.topics {
            subscribers.retain(|&subscriber| subscriber != place);
        }
        self.peers[place].output = Vec::new();
        self.dirty.remove(&place);
    }
}

/// Serves until the process is ended.
pub fn run(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        &listener,
        EventData::new_u64(u64::MAX),
        EventFlags::IN,
    )?;
    let mut relay = Relay::default();
    let mut buffer = vec![0; READ_BYTES];
    let mut events = Vec::with_capacity(1_024);
    let soon = Timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000,
    };
    loop {
        let timeout = (!relay.dirty.is_empty()).then_some(&soon);
        epoll::wait(&epoll, spare_capacity(&mut events), timeout)?;
        for event in events.drain(..) {
            if event.data.u64() != u64::MAX {
                let place = event.data.u64() as usize;
                if !relay.read(place, &mut buffer) {
                    epoll::delete(&epoll, &relay.peers[place].stream)?;
                    relay.end(place);
                }
                continue;
            }
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let place = relay.peers.len();
            epoll::add(
                &epoll,
                &stream,
                EventData::new_u64(place as u64),
                EventFlags::IN,
            )?;
            relay.peers.push(Peer {
                stream,
                role: Role::Unknown,
                output: Vec::new(),
                written: 0,
            });
        }
        relay.flush()?;
    }
}
