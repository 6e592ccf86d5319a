//! Runs a history against two servers and finds the first difference.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::common::resp::{RawClient, Value};
use super::compare::{self, CLOSED, Token, Unordered};
use super::dice::Dice;
use super::history::{CONNECTIONS, History, NAMES, Step};
use super::plan::Delivery;

/// How long the second server may take for what the first has said.
const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(5);
/// The same while a failed history is made shorter: most of the tries end by this limit.
const SHRINK_ANSWER_MAX: Duration = Duration::from_millis(300);

/// As if so much had been written: some 200 round trips for what comes late.
const LATE_BYTES: usize = 400_000;

/// The first difference.
#[derive(Debug)]
pub struct Failure {
    pub step: usize,
    place: String,
    /// What the step brought there, for the message.
    expected: Vec<String>,
    got: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            out,
            "step {} is answered differently on {}",
            self.step, self.place
        )?;
        writeln!(out, "redis-server: {:#?}", self.expected)?;
        write!(out, "sapwood:      {:#?}", self.got)
    }
}

/// The reference and the server under test, with the same connections to both.
pub struct Pair {
    reference: Side,
    tested: Side,
    answer_max: Duration,
}

impl Pair {
    pub fn new(reference: u16, tested: u16) -> Pair {
        Pair {
            reference: Side::new(reference),
            tested: Side::new(tested),
            answer_max: ANSWER_SECONDS_MAX,
        }
    }

    /// Runs it on connections that are as new, and leaves them so when it ends well.
    pub fn run(&mut self, history: &History, delivery: Delivery) -> Result<(), Failure> {
        self.run_steps(&history.deliver(delivery), None, delivery)?;
        self.reset(history.steps.len())
    }

    /// Tells the two servers different things.
    pub fn run_different(&mut self, left: &History, right: &History) -> Result<(), Failure> {
        self.answer_max = SHRINK_ANSWER_MAX;
        let right = right.deliver(Delivery::Stepwise);
        self.run_steps(
            &left.deliver(Delivery::Stepwise),
            Some(&right),
            Delivery::Stepwise,
        )
    }

    /// Drops steps as long as the history still fails.
    pub fn shrink(
        &mut self,
        mut history: History,
        delivery: Delivery,
        mut failure: Failure,
        deadline: Instant,
    ) -> (History, Failure) {
        self.answer_max = SHRINK_ANSWER_MAX;
        if delivery == Delivery::Stepwise {
            history.steps.truncate(failure.step + 1);
        }
        let mut chunk = history.steps.len() / 2;
        while chunk > 0 {
            let mut at = 0;
            while at < history.steps.len() && Instant::now() < deadline {
                let mut shorter = history.clone();
                let mut index = 0;
                shorter.steps.retain(|step| {
                    index += 1;
                    !(at < index && index <= at + chunk && step.is_dispensable())
                });
                if shorter.steps.len() == history.steps.len() {
                    at += chunk;
                    continue;
                }
                self.reconnect();
                match self.run(&shorter, delivery) {
                    Err(found) => (history, failure) = (shorter, found),
                    Ok(()) => at += chunk,
                }
            }
            chunk /= 2;
        }
        (history, failure)
    }

    /// New connections to both, once the servers have forgotten the old ones.
    pub fn reconnect(&mut self) {
        for side in [&mut self.reference, &mut self.tested] {
            side.connections.clear();
            *side = Side::new(side.port);
        }
    }

    fn run_steps(
        &mut self,
        steps: &[Step],
        others: Option<&[Step]>,
        delivery: Delivery,
    ) -> Result<(), Failure> {
        for (index, step) in steps.iter().enumerate() {
            let other = others.map_or(step, |others| &others[index]);
            let cut = (delivery == Delivery::Split).then_some(index as u64);
            self.reference.write(step, cut);
            self.tested.write(other, cut);
            self.compare(index, step.bytes.len(), step.unordered)?;
        }
        Ok(())
    }

    fn compare(
        &mut self,
        step: usize,
        written: usize,
        unordered: Unordered,
    ) -> Result<(), Failure> {
        let mut expected = self.reference.settled(written);
        let mut got = self.tested.at_least(&counts(&expected), self.answer_max);
        if let Err(failure) = differs(step, &expected, &got, unordered) {
            // Under load the reference's bytes may be later than the round trips. More of them show it.
            let more = self.reference.settled(LATE_BYTES);
            if more.iter().all(Vec::is_empty) {
                return Err(failure);
            }
            for (expected, more) in expected.iter_mut().zip(more) {
                expected.extend(more);
            }
            let missing: Vec<usize> = counts(&expected)
                .iter()
                .zip(&got)
                .map(|(count, got)| count.saturating_sub(got.len()))
                .collect();
            let more = self.tested.at_least(&missing, self.answer_max);
            for (got, more) in got.iter_mut().zip(more) {
                got.extend(more);
            }
            return differs(step, &expected, &got, unordered);
        }
        Ok(())
    }

    /// RESET on every connection. It answers whatever the state, and nothing may come before the answer.
    fn reset(&mut self, step: usize) -> Result<(), Failure> {
        for connection in 0..CONNECTIONS {
            let step = Step::raw(connection, b"*1\r\n$5\r\nRESET\r\n");
            self.reference.write(&step, None);
            self.tested.write(&step, None);
        }
        self.compare(step, 0, Unordered::default())?;
        for question in ["CHANNELS", "SHARDCHANNELS", "NUMPAT"] {
            let expected = left_over(&mut self.reference.control, question);
            let got = left_over(&mut self.tested.control, question);
            if expected != got {
                let place = format!("PUBSUB {question} after a RESET of every connection");
                return Err(Failure {
                    step,
                    place,
                    expected,
                    got,
                });
            }
        }
        Ok(())
    }
}

fn counts(transcripts: &[Vec<Token>]) -> Vec<usize> {
    transcripts.iter().map(Vec::len).collect()
}

/// The first connection whose transcripts differ.
fn differs(
    step: usize,
    expected: &[Vec<Token>],
    got: &[Vec<Token>],
    unordered: Unordered,
) -> Result<(), Failure> {
    for (connection, (expected, got)) in expected.iter().zip(got).enumerate() {
        let expected = compare::render(expected, unordered, NAMES);
        let got = compare::render(got, unordered, NAMES);
        if expected != got {
            let place = format!("connection {connection}");
            return Err(Failure {
                step,
                place,
                expected,
                got,
            });
        }
    }
    Ok(())
}

/// What PUBSUB still counts, in an order of its own.
fn left_over(control: &mut RawClient, question: &str) -> Vec<String> {
    match control.call(&["PUBSUB", question]) {
        Value::Array(items) => {
            let mut names: Vec<String> = items.iter().map(Value::text).collect();
            names.sort();
            names
        }
        other => vec![other.text()],
    }
}

struct Side {
    port: u16,
    control: RawClient,
    connections: Vec<Connection>,
}

impl Side {
    fn new(port: u16) -> Side {
        let mut control = RawClient::connect(port);
        control.call(&["CLIENT", "SETNAME", compare::CONTROL]);
        // Connections of an earlier try may still be there, and would be counted in CLIENT LIST.
        let deadline = Instant::now() + ANSWER_SECONDS_MAX;
        while Instant::now() < deadline {
            let list = control.call(&["CLIENT", "LIST"]).text();
            let is_other = |line: &&str| !line.contains(&format!("name={}", compare::CONTROL));
            if list
                .lines()
                .filter(|line| line.starts_with("id="))
                .filter(is_other)
                .count()
                == 0
            {
                break;
            }
        }
        let connections = (0..CONNECTIONS).map(|_| Connection::open(port)).collect();
        Side {
            port,
            control,
            connections,
        }
    }

    /// Writes a step; with `cut` as seed, in pieces that the server reads one by one.
    fn write(&mut self, step: &Step, cut: Option<u64>) {
        if self.connections[step.connection].closed {
            self.connections[step.connection] = Connection::open(self.port);
        }
        let Some(seed) = cut else {
            self.connections[step.connection].write(&step.bytes);
            return;
        };
        let mut dice = Dice::new(seed);
        let mut rest = step.bytes.as_slice();
        while !rest.is_empty() {
            // Mostly a few bytes, so that cuts fall into names, numbers and line ends; at times more.
            let longest = *dice.pick(&[1, 2, 5, 20, 100, 10_000]);
            let length = (1 + dice.below(longest)).min(rest.len());
            self.connections[step.connection].write(&rest[..length]);
            rest = &rest[length..];
            // An answered PING: the server has seen the piece by itself, at least with one thread.
            self.round_trip();
        }
    }

    /// All that a single-threaded server has to say to so many bytes.
    fn settled(&mut self, written: usize) -> Vec<Vec<Token>> {
        // The first answer may be of the same turn as the step, whose output is then still being
        // written; a connection that closes is freed a turn later. Of one connection a turn reads
        // at most 16 KiB, and less where the bytes arrive in segments.
        let turns = 3 + written / 2048;
        for _ in 0..turns {
            self.round_trip();
        }
        if turns > 3 {
            // What is written to a connection that nobody reads may wait for room in its buffers.
            while self.connections.iter_mut().any(Connection::has_more) {
                self.round_trip();
                self.round_trip();
            }
        }
        self.connections.iter_mut().map(Connection::take).collect()
    }

    /// Reads every connection until it has said that much, or time is over.
    fn at_least(&mut self, counts: &[usize], limit: Duration) -> Vec<Vec<Token>> {
        let deadline = Instant::now() + limit;
        for (connection, count) in self.connections.iter_mut().zip(counts) {
            connection.read_until(*count, deadline);
        }
        self.connections.iter_mut().map(Connection::take).collect()
    }

    fn round_trip(&mut self) {
        assert_eq!(
            self.control.call(&["PING"]),
            Value::Simple("PONG".to_string())
        );
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    tokens: Vec<Token>,
    closed: bool,
}

impl Connection {
    fn open(port: u16) -> Connection {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server accepts");
        stream
            .set_nodelay(true)
            .expect("a TCP socket has TCP_NODELAY");
        Connection {
            stream,
            buffer: Vec::new(),
            tokens: Vec::new(),
            closed: false,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream
            .set_nonblocking(false)
            .expect("a socket can block");
        // The server may have closed after a protocol error in the bytes before: reading tells.
        let _ = self.stream.write_all(bytes);
    }

    /// Reads what is there, and says whether that was anything.
    fn has_more(&mut self) -> bool {
        self.stream
            .set_nonblocking(true)
            .expect("a socket can be non-blocking");
        let mut more = false;
        while self.read() {
            more = true;
        }
        more
    }

    /// What has come since the last call.
    fn take(&mut self) -> Vec<Token> {
        self.has_more();
        if !self.buffer.is_empty() && self.closed {
            self.tokens.push(Token {
                kind: b'?',
                bytes: std::mem::take(&mut self.buffer),
            });
        }
        std::mem::take(&mut self.tokens)
    }

    fn read_until(&mut self, count: usize, deadline: Instant) {
        self.stream
            .set_nonblocking(false)
            .expect("a socket can block");
        while self.tokens.len() < count && !self.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.stream
                .set_read_timeout(Some(left))
                .expect("the time left is not zero");
            self.read();
        }
    }

    /// Reads once; false when there is nothing.
    fn read(&mut self) -> bool {
        if self.closed {
            return false;
        }
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(length @ 1..) => {
                self.buffer.extend_from_slice(&chunk[..length]);
                compare::take_tokens(&mut self.buffer, &mut self.tokens);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                false
            }
            // The end, or a reset because the server closed with bytes unread.
            _ => {
                self.closed = true;
                self.tokens.push(Token {
                    kind: CLOSED,
                    bytes: Vec::new(),
                });
                false
            }
        }
    }
}
