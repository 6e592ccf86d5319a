//! Runs a history against two servers of NATS and finds the first difference.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::compare::{self, Frame};
use super::dice::Dice;
use super::history::{CONNECTIONS, History, Step};
use super::plan::Delivery;

/// How long the second server may take for what the first has said.
const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(5);
/// The same while a failed history is made shorter.
const SHRINK_ANSWER_MAX: Duration = Duration::from_millis(300);
/// So many connections ask whether another is gone, so that all shards are asked.
const CONTROLS: usize = 4;

/// The first difference.
#[derive(Debug)]
pub struct Failure {
    pub step: usize,
    place: String,
    expected: Vec<String>,
    got: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "step {} differs: {}", self.step, self.place)?;
        writeln!(out, "nats-server: {:#?}", self.expected)?;
        write!(out, "sapwood:     {:#?}", self.got)
    }
}

/// The reference and the server under test, with the same connections to both.
pub struct Pair {
    reference: Side,
    tested: Side,
    /// Messages of the reference so far.
    pub messages: usize,
}

impl Pair {
    pub fn new(reference: u16, tested: u16) -> Pair {
        Pair {
            reference: Side::new(reference),
            tested: Side::new(tested),
            messages: 0,
        }
    }

    /// Runs it on new connections, which all leave.
    pub fn run(&mut self, history: &History, delivery: Delivery) -> Result<(), Failure> {
        let steps = history.deliver(delivery);
        self.run_steps(&steps, &steps, delivery)
    }

    /// Tells the two servers different things.
    pub fn run_different(&mut self, left: &History, right: &History) -> Result<(), Failure> {
        self.tested.answer_max = SHRINK_ANSWER_MAX;
        let [left, right] = [left, right].map(|history| history.deliver(Delivery::Stepwise));
        self.run_steps(&left, &right, Delivery::Stepwise)
    }

    /// Drops steps as long as the history still fails.
    pub fn shrink(
        &mut self,
        mut history: History,
        delivery: Delivery,
        mut failure: Failure,
        deadline: Instant,
    ) -> (History, Failure) {
        self.tested.answer_max = SHRINK_ANSWER_MAX;
        let mut chunk = history.steps.len() / 2;
        while chunk > 0 {
            let mut at = 0;
            while at < history.steps.len() && Instant::now() < deadline {
                let mut shorter = history.clone();
                let end = (at + chunk).min(shorter.steps.len());
                shorter.steps.drain(at..end);
                match self.run(&shorter, delivery) {
                    Err(found) => (history, failure) = (shorter, found),
                    Ok(()) => at += chunk,
                }
            }
            chunk /= 2;
        }
        (history, failure)
    }

    fn run_steps(
        &mut self,
        steps: &[Step],
        others: &[Step],
        delivery: Delivery,
    ) -> Result<(), Failure> {
        self.reference.open();
        self.tested.open();
        let result =
            steps
                .iter()
                .zip(others)
                .enumerate()
                .try_for_each(|(number, (step, other))| {
                    let cut = (delivery == Delivery::Split).then_some(number as u64);
                    let expected = self.reference.step(step, cut);
                    let got = self.tested.step(other, cut);
                    let is_message = |frame: &&Frame| matches!(frame, Frame::Message(_));
                    self.messages += expected.iter().flatten().filter(is_message).count();
                    self.compare(number, step.connection, expected, got)
                });
        self.reference.leave_all();
        self.tested.leave_all();
        result
    }

    fn compare(
        &mut self,
        step: usize,
        actor: usize,
        expected: Vec<Vec<Frame>>,
        mut got: Vec<Vec<Frame>>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + self.tested.answer_max;
        // What one shard hands to another may come after the answers of both.
        while let Some((place, expected, found)) = compare::difference(&expected, &got) {
            if Instant::now() > deadline {
                let place = format!("{place} (connection {actor} acted)");
                return Err(Failure {
                    step,
                    place,
                    expected,
                    got: found,
                });
            }
            for (got, late) in got.iter_mut().zip(self.tested.late()) {
                got.extend(late);
            }
        }
        Ok(())
    }
}

struct Side {
    port: u16,
    answer_max: Duration,
    controls: Vec<Connection>,
    connections: Vec<Connection>,
}

impl Side {
    fn new(port: u16) -> Side {
        let controls = (0..CONTROLS).map(|_| Connection::open(port)).collect();
        let mut side = Side {
            port,
            answer_max: ANSWER_SECONDS_MAX,
            controls,
            connections: Vec::new(),
        };
        for (number, control) in side.controls.iter_mut().enumerate() {
            let connect = r#"CONNECT {"verbose":false,"headers":true,"no_responders":true}"#;
            control.write(format!("{connect}\r\nSUB unheard.{number} 1\r\n").as_bytes());
            control.barrier(0, ANSWER_SECONDS_MAX);
            control.frames.clear();
        }
        side
    }

    fn open(&mut self) {
        self.connections = (0..CONNECTIONS)
            .map(|_| Connection::open(self.port))
            .collect();
    }

    /// Writes a step, and gives what every connection was sent because of it.
    fn step(&mut self, step: &Step, cut: Option<u64>) -> Vec<Vec<Frame>> {
        let (actor, limit) = (step.connection, self.answer_max);
        if self.connections[actor].closed {
            self.connections[actor] = Connection::open(self.port);
        }
        self.write(step, cut);
        if step.closes {
            self.connections[actor].read_to_end(limit);
        } else if !step.leaves {
            self.connections[actor].barrier(step.pings, limit);
        }
        if step.leaves || self.connections[actor].closed {
            self.connections[actor].leave();
            self.await_gone(actor);
        }
        for (number, connection) in self.connections.iter_mut().enumerate() {
            if number != actor {
                connection.barrier(0, limit);
            }
        }
        self.take()
    }

    /// What has come since, with whatever more round trips bring. Their own answers are left out.
    fn late(&mut self) -> Vec<Vec<Frame>> {
        for connection in &mut self.connections {
            connection.barrier(0, self.answer_max);
            let last = connection.frames.iter().rposition(|f| *f == Frame::Pong);
            if let Some(last) = last {
                connection.frames.remove(last);
            }
        }
        self.take()
    }

    fn take(&mut self) -> Vec<Vec<Frame>> {
        let frames = |connection: &mut Connection| std::mem::take(&mut connection.frames);
        self.connections.iter_mut().map(frames).collect()
    }

    /// Writes a step; with `cut` as seed, in pieces that the server reads one by one.
    fn write(&mut self, step: &Step, cut: Option<u64>) {
        let actor = &mut self.connections[step.connection];
        // What follows an error may be lost with the error, if it comes when the server has closed.
        let Some(seed) = cut.filter(|_| !step.closes) else {
            return actor.write(&step.bytes);
        };
        let mut dice = Dice::new(seed);
        let mut rest = step.bytes.as_slice();
        while !rest.is_empty() {
            let longest = *dice.pick(&[1, 2, 5, 20, 100, 10_000]);
            let length = (1 + dice.below(longest)).min(rest.len());
            actor.write(&rest[..length]);
            rest = &rest[length..];
            // An answered PING: the server has most likely seen the piece by itself.
            self.controls[0].barrier(0, ANSWER_SECONDS_MAX);
            self.controls[0].frames.clear();
        }
    }

    fn leave_all(&mut self) {
        for connection in &mut self.connections {
            connection.leave();
        }
        for connection in 0..self.connections.len() {
            let is_gone = self.await_gone(connection);
            assert!(is_gone, "a client that left still has subscriptions");
        }
    }

    /// Waits until nobody hears what the connection alone would: its subscriptions are gone everywhere.
    /// False if they are not in time, or others hear everything.
    fn await_gone(&mut self, connection: usize) -> bool {
        let subject = self.connections[connection].own_subject();
        let deadline = Instant::now() + self.answer_max;
        for (number, control) in self.controls.iter_mut().enumerate() {
            loop {
                control.write(format!("PUB {subject} unheard.{number} 0\r\n\r\n").as_bytes());
                control.barrier(0, ANSWER_SECONDS_MAX);
                let frames = std::mem::take(&mut control.frames);
                if frames
                    .iter()
                    .any(|frame| matches!(frame, Frame::Message(_)))
                {
                    break;
                }
                if Instant::now() > deadline {
                    return false;
                }
            }
        }
        true
    }
}

/// One connection to a server.
pub struct Connection {
    number: u64,
    stream: TcpStream,
    buffer: Vec<u8>,
    pub frames: Vec<Frame>,
    pub closed: bool,
}

impl Connection {
    /// Opens one that has subscribed to a subject of its own, and said nothing else.
    pub fn open(port: u16) -> Connection {
        let mut connection = Connection::open_bare(port);
        let subject = connection.own_subject();
        connection.write(format!("SUB {subject} {subject}\r\n").as_bytes());
        connection.barrier(0, ANSWER_SECONDS_MAX);
        let ok = Frame::Line("+OK".to_string());
        assert_eq!(connection.frames, [ok, Frame::Pong], "a new connection");
        connection.frames.clear();
        connection
    }

    /// Opens one that has said nothing.
    pub fn open_bare(port: u16) -> Connection {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server accepts");
        stream
            .set_nodelay(true)
            .expect("a TCP socket has TCP_NODELAY");
        Connection {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            stream,
            buffer: Vec::new(),
            frames: Vec::new(),
            closed: false,
        }
    }

    fn own_subject(&self) -> String {
        let prefix = str::from_utf8(compare::OWN).expect("it is ASCII");
        format!("{prefix}{}", self.number)
    }

    pub fn write(&mut self, bytes: &[u8]) {
        // The server may have closed after an error in the bytes before: reading tells.
        let _ = self.stream.write_all(bytes);
    }

    /// Reads until the answer of one more PING, behind those of so many.
    pub fn barrier(&mut self, pings: usize, limit: Duration) {
        if self.closed {
            return;
        }
        self.write(b"PING\r\n");
        self.read_until(limit, |frames| {
            frames.iter().filter(|f| **f == Frame::Pong).count() > pings
        });
    }

    pub fn read_to_end(&mut self, limit: Duration) {
        self.read_until(limit, |_| false);
    }

    fn read_until(&mut self, limit: Duration, is_enough: impl Fn(&[Frame]) -> bool) {
        let deadline = Instant::now() + limit;
        while !self.closed && !is_enough(&self.frames) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.frames.push(Frame::Silent);
                return;
            }
            self.stream
                .set_read_timeout(Some(left))
                .expect("the time left is not zero");
            self.read();
        }
    }

    fn read(&mut self) {
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(length @ 1..) => {
                self.buffer.extend_from_slice(&chunk[..length]);
                compare::take_frames(&mut self.buffer, &mut self.frames);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // The end, or a reset because the server closed with bytes unread.
            _ => {
                self.closed = true;
                self.frames.push(Frame::Closed);
            }
        }
    }

    fn leave(&mut self) {
        self.closed = true;
        // It fails if the server was first.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
