//! The generator: one thread, one epoll set, every connection of a run.
//!
//! Owns sockets and the counts of what was sent and what came back. It sends what a
//! [`Script`](crate::script::Script) says within a window, and hands all that it reads to
//! [`Expect`]. Knows no protocol: what opens a connection and what ends the opening are bytes to it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;

use crate::dialect::Dialect;
use crate::questions::{Question, Questions, expected};
use crate::script::{Expect, Mismatch};

/// One read of a connection.
const READ_BYTES: usize = 256 * 1024;

/// How long opening a connection may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// What stopped a run.
#[derive(Debug)]
pub enum Trouble {
    /// A socket, or the server.
    Io(io::Error),
    /// Something wrong came.
    Wrong(String),
    /// Too little came, and then nothing.
    Stuck(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

impl From<rustix::io::Errno> for Trouble {
    fn from(error: rustix::io::Errno) -> Trouble {
        Trouble::Io(error.into())
    }
}

impl From<Mismatch> for Trouble {
    fn from(mismatch: Mismatch) -> Trouble {
        Trouble::Wrong(mismatch.0)
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Io(error) => write!(f, "{error}"),
            Trouble::Wrong(text) | Trouble::Stuck(text) => write!(f, "{text}"),
        }
    }
}

/// Connects, says hello and `first`, and waits until the server has dealt with all of it.
pub fn open(address: SocketAddr, dialect: Dialect, first: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(OPEN_TIMEOUT))?;
    stream.write_all(&[&dialect.hello(), first, &dialect.ping()].concat())?;
    let (mut input, mut buffer) = (Vec::new(), [0; 4_096]);
    while !input.ends_with(&dialect.pong()) {
        match stream.read(&mut buffer)? {
            0 => {
                let said = input.escape_ascii().to_string();
                return Err(io::Error::other(format!(
                    "the server closed, having said \"{said}\""
                )));
            }
            count => input.extend_from_slice(&buffer[..count]),
        }
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// How a sender writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// At most so many bytes at once.
    Run(usize),
    /// One message a write, at most so many a turn.
    Single(usize),
}

/// What a connection sends: a block of equal frames, over and over.
#[derive(Debug)]
pub struct Sender {
    block: Vec<u8>,
    at: usize,
    frame: usize,
    writing: Writing,
    bytes: u64,
    is_blocked: bool,
}

impl Sender {
    /// The block consists of so many frames of equal length.
    pub fn new(block: Vec<u8>, frames: usize, writing: Writing) -> Sender {
        assert!(
            frames > 0 && block.len().is_multiple_of(frames),
            "the frames of a block differ in length"
        );
        Sender {
            frame: block.len() / frames,
            block,
            at: 0,
            writing,
            bytes: 0,
            is_blocked: false,
        }
    }

    /// Frames begun.
    pub fn frames(&self) -> u64 {
        self.bytes.div_ceil(self.frame as u64)
    }

    /// Frames of its block.
    pub fn block_frames(&self) -> u64 {
        (self.block.len() / self.frame) as u64
    }

    fn is_within_frame(&self) -> bool {
        !self.bytes.is_multiple_of(self.frame as u64)
    }
}

/// A connection: what it sends, what it must read, and how much of that came.
#[derive(Debug)]
pub struct Link {
    /// The socket.
    pub stream: TcpStream,
    /// What it sends.
    pub sender: Option<Sender>,
    /// What it must read.
    pub expect: Option<Expect>,
    /// Whether what it reads are deliveries, not answers to its publishes.
    pub counts: bool,
    /// Frames that it read whole.
    pub frames: u64,
    /// If it is a responder: its reply to each requester.
    pub replies: Vec<Vec<u8>>,
    questions: Questions,
}

impl Link {
    /// Takes what was read; answers how many frames became whole.
    fn take(&mut self, input: &[u8], question: Option<Question>) -> Result<u64, Trouble> {
        let Some(question) = question else {
            return Ok(expected(input, self.expect.as_mut())?);
        };
        let frames = self.questions.take(input, question, self.expect.as_mut())?;
        self.answer(question)?;
        Ok(frames)
    }

    /// Answers what the server has asked, unless that would stand within a frame.
    fn answer(&mut self, question: Question) -> io::Result<()> {
        let is_busy = |sender: &Sender| sender.is_blocked || sender.is_within_frame();
        while self.questions.open > 0 && !self.sender.as_ref().is_some_and(is_busy) {
            // So few bytes fit whole or not at all.
            match self.stream.write_all(question.answer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                done => done?,
            }
            self.questions.open -= 1;
        }
        Ok(())
    }
}

/// All connections of a run.
pub struct Generator {
    epoll: OwnedFd,
    question: Option<Question>,
    /// By place.
    pub links: Vec<Link>,
    senders: Vec<usize>,
    first_sender: usize,
    buffer: Vec<u8>,
    events: Vec<epoll::Event>,
    /// Deliveries that a frame sent makes.
    pub fan_out: u64,
    /// Frames that were sent.
    pub sent: u64,
    /// Deliveries that came and were right.
    pub delivered: u64,
}

impl Generator {
    /// Without connections yet; `question` is what the server may ask of each at any time.
    pub fn new(fan_out: u64, question: Option<Question>) -> io::Result<Generator> {
        Ok(Generator {
            question,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            links: Vec::new(),
            senders: Vec::new(),
            first_sender: 0,
            buffer: vec![0; READ_BYTES],
            events: Vec::with_capacity(1_024),
            fan_out,
            sent: 0,
            delivered: 0,
        })
    }

    /// Takes a connection; answers its place.
    pub fn add(
        &mut self,
        stream: TcpStream,
        sender: Option<Sender>,
        expect: Option<Expect>,
        counts: bool,
    ) -> io::Result<usize> {
        let place = self.links.len();
        epoll::add(
            &self.epoll,
            &stream,
            EventData::new_u64(place as u64),
            EventFlags::IN,
        )?;
        if sender.is_some() {
            self.senders.push(place);
        }
        self.links.push(Link {
            stream,
            sender,
            expect,
            counts,
            frames: 0,
            replies: Vec::new(),
            questions: Questions::default(),
        });
        Ok(place)
    }

    /// Deliveries that are owed.
    pub fn in_flight(&self) -> u64 {
        (self.sent * self.fan_out).saturating_sub(self.delivered)
    }

    /// Lets each sender that may write once, while at most `window` frames are on their way: each gets the
    /// same share of what is free, and another begins each time. Answers whether one could go on.
    pub fn send(&mut self, window: u64) -> Result<bool, Trouble> {
        let mut may_go_on = false;
        let count = self.senders.len();
        let share = (window / count.max(1) as u64).max(1);
        for index in 0..count {
            let place = self.senders[(self.first_sender + index) % count];
            let free = window.saturating_sub(self.in_flight() / self.fan_out);
            may_go_on |= self.send_from(place, free.min(share))?;
        }
        self.first_sender = (self.first_sender + 1) % count.max(1);
        Ok(may_go_on)
    }

    /// Finishes the frames that were begun, and sends no other.
    pub fn finish(&mut self) -> Result<(), Trouble> {
        for index in 0..self.senders.len() {
            let place = self.senders[index];
            if self.links[place]
                .sender
                .as_ref()
                .is_some_and(Sender::is_within_frame)
            {
                self.send_from(place, 0)?;
            }
        }
        Ok(())
    }

    fn send_from(&mut self, place: usize, free: u64) -> Result<bool, Trouble> {
        let link = &mut self.links[place];
        if let Some(question) = self.question {
            link.answer(question)?;
        }
        let Some(sender) = &mut link.sender else {
            return Ok(false);
        };
        if sender.is_blocked {
            return Ok(false);
        }
        let (mut turns, most) = match sender.writing {
            Writing::Run(bytes) => (1, bytes),
            Writing::Single(times) => (times, sender.frame),
        };
        let before = sender.frames();
        while turns > 0 {
            turns -= 1;
            let begun = (sender.frame - sender.at % sender.frame) % sender.frame;
            let left = free.saturating_sub(sender.frames() - before) as usize;
            let allowed = begun + left.saturating_mul(sender.frame);
            let allowed = if begun > 0 && sender.writing != Writing::Run(most) {
                begun
            } else {
                allowed.min(most)
            };
            let run = allowed.min(sender.block.len() - sender.at);
            if run == 0 {
                break;
            }
            match link.stream.write(&sender.block[sender.at..sender.at + run]) {
                Ok(count) => {
                    sender.bytes += count as u64;
                    sender.at = (sender.at + count) % sender.block.len();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    sender.is_blocked = true;
                    let flags = EventFlags::IN | EventFlags::OUT;
                    epoll::modify(
                        &self.epoll,
                        &link.stream,
                        EventData::new_u64(place as u64),
                        flags,
                    )?;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let begun = sender.frames() - before;
        self.sent += begun;
        Ok(begun > 0)
    }

    /// Reads once from each connection that has something; waits for that at most `timeout`.
    pub fn receive(&mut self, timeout: Duration) -> Result<(), Trouble> {
        self.receive_with(timeout, |_, _, _| Ok(()))
    }

    /// As [`Generator::receive`], and calls `then(link, place, frames that became whole)`.
    pub fn receive_with(
        &mut self,
        timeout: Duration,
        mut then: impl FnMut(&mut Link, usize, u64) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
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
        for event in self.events.drain(..) {
            // The kernel's struct is packed, so its fields cannot be borrowed.
            let (flags, data) = (event.flags, event.data);
            let place = data.u64() as usize;
            let link = &mut self.links[place];
            if flags.contains(EventFlags::OUT)
                && let Some(sender) = &mut link.sender
            {
                sender.is_blocked = false;
                epoll::modify(&self.epoll, &link.stream, data, EventFlags::IN)?;
            }
            if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                continue;
            }
            let count = match link.stream.read(&mut self.buffer) {
                Ok(0) => return Err(Trouble::Wrong("the server closed a connection".to_string())),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            let frames = link.take(&self.buffer[..count], self.question)?;
            link.frames += frames;
            if link.counts {
                self.delivered += frames;
            }
            then(link, place, frames)?;
        }
        Ok(())
    }
}
