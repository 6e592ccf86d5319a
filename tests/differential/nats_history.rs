//! Random histories of the NATS protocol: valid use, wrong use that is answered, and errors that close.
//!
//! Half of the histories are calm: nobody leaves, and filters may match every subject. In the others
//! clients come and go, and no filter matches the subjects by which the test learns that one is gone.

use std::fmt;

use super::dice::Dice;
use super::plan::Delivery;

pub const CONNECTIONS: usize = 5;
const STEPS: usize = 60;
/// A payload that does not fit one small read.
const LARGE_PAYLOAD_BYTES: usize = 40_000;

const SUBJECTS: &[&str] = &[
    "a", "b", "a.b", "a.c", "a.b.c", "b.b", "x.y.z", "A", "a*", "a>b", "-", "é", "a.*", "a.>", "*",
    ">", "*.b",
];
/// Most subscribe and publish to these, so that messages are heard.
const FEW: &[&str] = &["a", "a.b", "a.b.c"];
const FILTERS: &[&str] = &[
    "a", "b", "a.b", "a.c", "a.b.c", "A", "a*", "a>b", "é", "*", "a.*", "a.>", "*.b", "*.*",
    "a.*.c", "*.*.*", "a.b.>", "*.b.>", "x.>",
];
/// They also match what the test itself publishes.
const WIDE: &[&str] = &[">", "*.>"];
const WRONG_FILTERS: &[&str] = &["a..b", ".a", "a.", ".", "a.>.b", ">.a", "..", ">.>"];
const SIDS: &[&str] = &[
    "1",
    "2",
    "3",
    "4",
    "x",
    "A-b_9",
    "007",
    "é",
    "*",
    "a.b",
    "18446744073709551616",
];
const QUEUES: &[&str] = &["qred", "qblue"];
const PAYLOADS: &[&[u8]] = &[
    b"",
    b"",
    b"\r\n",
    b"PUB a 1\r\nx\r\n",
    b"PING\r\n",
    b"\x00\xff\xfe",
    b"-ERR 'x'\r\n",
    b" ",
    b"\n",
];
const HEADERS: &[&str] = &[
    "NATS/1.0\r\n\r\n",
    "NATS/1.0\r\nA: b\r\n\r\n",
    "NATS/1.0\r\nkey: one\r\nKey: two\r\nkey: three\r\n\r\n",
    "NATS/1.0\r\nEmpty: \r\n\r\n",
    "NATS/1.0\r\nA: b: c \r\nX-Y_z: é\r\n\r\n",
    "NATS/1.0 100 FlowControl Request\r\n\r\n",
    "NATS/1.0 408\r\nNats-Pending: 1\r\n\r\n",
    "NATS/1.0\r\nA:b\r\nMy Name:  c \r\nno colon\r\n\r\n",
    "no headers",
];
/// The server closes after each of these.
const CLOSING: &[&str] = &[
    "garbage\r\n",
    "\r\n",
    "PUB a\r\n",
    "PUB a b c 1\r\nx\r\n",
    "PUB a x\r\n",
    "PUB a -1\r\n",
    "PUB a 1234567890\r\n",
    "PUB a 2000000\r\n",
    "PUB a 1\r\nxyz\r\n",
    "SUB a\r\n",
    "SUB\r\n",
    "SUB a b c d\r\n",
    "UNSUB\r\n",
    "UNSUB 1 2 3\r\n",
    "CONNECT\r\n",
    "CONNECT {x\r\n",
    "CONNECT {\"verbose\":1}\r\n",
    "CONNECT {\"protocol\":7}\r\n",
    "-ERR 'x'\r\n",
    "CONNECT {\"headers\":false,\"no_responders\":true}\r\n",
    "CONNECT {\"headers\":true}\r\nHPUB a 12\r\n",
    "CONNECT {\"headers\":true}\r\nHPUB a 13 12\r\n",
    "CONNECT {\"headers\":false,\"no_responders\":false}\r\nHPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n",
];

/// Bytes of one connection that are written and compared together.
#[derive(Clone)]
pub struct Step {
    pub connection: usize,
    pub bytes: Vec<u8>,
    /// PINGs among them.
    pub pings: usize,
    /// The server closes after them.
    pub closes: bool,
    /// The client closes after them; there are none.
    pub leaves: bool,
}

#[derive(Clone)]
pub struct History {
    pub steps: Vec<Step>,
}

impl History {
    /// The history of that seed.
    pub fn random(seed: u64) -> History {
        let mut generator = Generator {
            dice: Dice::new(seed),
            is_calm: seed.is_multiple_of(2),
            published: 0,
            clients: vec![Client::default(); CONNECTIONS],
        };
        let mut steps = Vec::new();
        for connection in 0..CONNECTIONS {
            // Who does not say CONNECT has every default.
            if !generator.dice.one_in(6) {
                steps.push(generator.connect(connection));
            }
        }
        while steps.len() < STEPS {
            steps.push(generator.step());
        }
        History { steps }
    }

    /// Ends with a message that everybody hears, so that a payload is all that may differ.
    pub fn with_last_message(&self, payload: &str) -> History {
        let step = |bytes: String| Step {
            connection: 0,
            bytes: bytes.into_bytes(),
            pings: 0,
            closes: false,
            leaves: false,
        };
        let mut history = self.clone();
        history.steps.push(step("SUB last last\r\n".to_string()));
        let length = payload.len();
        history
            .steps
            .push(step(format!("PUB last {length}\r\n{payload}\r\n")));
        history
    }

    pub fn deliver(&self, delivery: Delivery) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for step in &self.steps {
            match steps.last_mut() {
                Some(last)
                    if delivery != Delivery::Stepwise
                        && last.connection == step.connection
                        && !(last.closes || last.leaves || step.leaves) =>
                {
                    last.bytes.extend_from_slice(&step.bytes);
                    last.pings += step.pings;
                    last.closes = step.closes;
                }
                _ => steps.push(step.clone()),
            }
        }
        steps
    }
}

impl fmt::Display for History {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.steps.iter().enumerate() {
            let end = match (step.closes, step.leaves) {
                (true, _) => " (closes)",
                (_, true) => "(leaves)",
                _ => "",
            };
            // Long payloads are all of one letter.
            let mut bytes = step.bytes.clone();
            bytes.dedup_by(|a, b| a == b && *a == b'l');
            let (connection, bytes) = (step.connection, bytes.escape_ascii());
            writeln!(out, "{number:3} connection {connection}: {bytes}{end}")?;
        }
        Ok(())
    }
}

/// What must be known of a client to let it do what both servers agree on.
#[derive(Clone, Default)]
struct Client {
    headers: bool,
    /// From then on headers stay as they are, see the table.
    has_subscribed: bool,
}

struct Generator {
    dice: Dice,
    is_calm: bool,
    published: usize,
    clients: Vec<Client>,
}

impl Generator {
    fn step(&mut self) -> Step {
        let connection = self.dice.below(CONNECTIONS);
        let mut step = self.empty(connection);
        if !self.is_calm && self.dice.one_in(25) {
            step.leaves = true;
            self.clients[connection] = Client::default();
            return step;
        }
        if self.dice.one_in(30) {
            return self.connect(connection);
        }
        let operations = *self.dice.pick(&[1, 1, 1, 2, 3, 6]);
        for _ in 0..operations {
            self.operation(&mut step);
        }
        if !self.is_calm && self.dice.one_in(30) {
            step.bytes
                .extend_from_slice(self.dice.text(CLOSING).as_bytes());
            step.closes = true;
            self.clients[connection] = Client::default();
        }
        step
    }

    fn empty(&self, connection: usize) -> Step {
        Step {
            connection,
            bytes: Vec::new(),
            pings: 0,
            closes: false,
            leaves: false,
        }
    }

    fn operation(&mut self, step: &mut Step) {
        match self.dice.below(20) {
            0..=5 => self.subscribe(step),
            6..=8 => self.unsubscribe(step),
            9..=15 => self.publish(step),
            16..=17 if self.clients[step.connection].headers => self.publish_headers(step),
            16..=17 => self.publish(step),
            18 => {
                step.pings += 1;
                self.line(step, &["PING"]);
            }
            _ => {
                let words = *self.dice.pick(&["PONG", "+OK", "INFO {}", "PONG x"]);
                step.bytes.extend_from_slice(words.as_bytes());
                step.bytes.extend_from_slice(b"\r\n");
            }
        }
    }

    fn connect(&mut self, connection: usize) -> Step {
        let mut step = self.empty(connection);
        let client = &mut self.clients[connection];
        let mut fields = vec![format!("\"verbose\":{}", self.dice.one_in(4))];
        if !client.has_subscribed {
            client.headers = !self.dice.one_in(4);
        }
        fields.push(format!("\"headers\":{}", client.headers));
        let no_responders = client.headers && self.dice.one_in(2);
        fields.push(format!("\"no_responders\":{no_responders}"));
        // Who leaves them out keeps what it had.
        if !self.dice.one_in(4) {
            fields.push(format!("\"pedantic\":{}", self.dice.one_in(4)));
        }
        if self.dice.one_in(3) {
            fields.push(format!("\"echo\":{}", self.dice.one_in(2)));
        }
        let others = [
            "\"name\":\"é\"",
            "\"lang\":\"go\"",
            "\"version\":\"1\"",
            "\"protocol\":1",
            "\"user\":null",
            "\"unknown\":[{}]",
        ];
        fields.push(self.dice.pick(&others).to_string());
        self.line(
            &mut step,
            &["CONNECT", &format!("{{{}}}", fields.join(","))],
        );
        step
    }

    fn filter(&mut self) -> &'static str {
        match self.dice.below(10) {
            0..=3 => self.dice.text(FEW),
            4 if self.is_calm => self.dice.text(WIDE),
            _ => self.dice.text(FILTERS),
        }
    }

    fn sid(&mut self) -> &'static str {
        // Mostly a few, so that names are used twice.
        let count = *self.dice.pick(&[4, 4, SIDS.len()]);
        self.dice.text(&SIDS[..count])
    }

    fn subscribe(&mut self, step: &mut Step) {
        self.clients[step.connection].has_subscribed = true;
        let filter = match self.dice.one_in(15) {
            true => self.dice.text(WRONG_FILTERS),
            false => self.filter(),
        };
        let sid = self.sid();
        match self.dice.below(6) {
            0 => {
                let queue = self.dice.text(QUEUES);
                let sid = format!("{queue}{}", self.dice.below(3));
                self.line(step, &["SUB", filter, queue, &sid]);
            }
            // A group of one: it hears all, and may end after a count.
            1 => self.line(
                step,
                &[
                    "SUB",
                    filter,
                    &format!("solo{}-{sid}", step.connection),
                    sid,
                ],
            ),
            _ => self.line(step, &["SUB", filter, sid]),
        }
    }

    fn unsubscribe(&mut self, step: &mut Step) {
        if self.dice.one_in(5) {
            let sid = format!("{}{}", self.dice.text(QUEUES), self.dice.below(3));
            return self.line(step, &["UNSUB", &sid]);
        }
        let sid = self.sid();
        let after = *self.dice.pick(&[
            "",
            "0",
            "1",
            "2",
            "3",
            "5",
            "8",
            "20",
            "x",
            "-1",
            "007",
            "9999999999",
        ]);
        match after {
            "" => self.line(step, &["UNSUB", sid]),
            after => self.line(step, &["UNSUB", sid, after]),
        }
    }

    fn subject(&mut self) -> &'static str {
        match self.dice.one_in(3) {
            true => self.dice.text(SUBJECTS),
            false => self.dice.text(FEW),
        }
    }

    fn payload(&mut self) -> Vec<u8> {
        self.published += 1;
        match self.dice.below(12) {
            0..=2 => self.dice.pick(PAYLOADS).to_vec(),
            3 => {
                let length = self.dice.below(LARGE_PAYLOAD_BYTES);
                let mut payload = format!("{} ", self.published).into_bytes();
                payload.resize(payload.len() + length, b'l');
                payload
            }
            _ => format!("message {}", self.published).into_bytes(),
        }
    }

    fn reply(&mut self) -> Option<&'static str> {
        let replies = ["a", "b", "a.b", "_INBOX.x.y", "nobody", "é"];
        self.dice.one_in(3).then(|| *self.dice.pick(&replies))
    }

    fn publish(&mut self, step: &mut Step) {
        // Several of one subject next to each other take another way through the broker.
        let count = *self.dice.pick(&[1, 1, 1, 3]);
        let subject = self.subject();
        for _ in 0..count {
            let payload = self.payload();
            let zeros = *self.dice.pick(&["", "", "", "", "00"]);
            let length = format!("{zeros}{}", payload.len());
            match self.reply() {
                Some(reply) => self.line(step, &["PUB", subject, reply, &length]),
                None => self.line(step, &["PUB", subject, &length]),
            }
            step.bytes.extend_from_slice(&payload);
            step.bytes.extend_from_slice(b"\r\n");
        }
    }

    fn publish_headers(&mut self, step: &mut Step) {
        let (subject, payload) = (self.subject(), self.payload());
        let headers = self.dice.text(HEADERS);
        let (first, total) = (headers.len(), headers.len() + payload.len());
        let (first, total) = (first.to_string(), total.to_string());
        match self.reply() {
            Some(reply) => self.line(step, &["HPUB", subject, reply, &first, &total]),
            None => self.line(step, &["HPUB", subject, &first, &total]),
        }
        step.bytes.extend_from_slice(headers.as_bytes());
        step.bytes.extend_from_slice(&payload);
        step.bytes.extend_from_slice(b"\r\n");
    }

    /// Writes a line of words, mostly as libraries do.
    fn line(&mut self, step: &mut Step, words: &[&str]) {
        let name = match self.dice.below(8) {
            0 => words[0].to_lowercase(),
            1 => format!("{}{}", &words[0][..1], words[0][1..].to_lowercase()),
            _ => words[0].to_string(),
        };
        let blank = *self.dice.pick(&[" ", " ", " ", " ", " ", "\t", "  "]);
        let end = *self
            .dice
            .pick(&["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", " \r\n"]);
        let line = [&[name.as_str()], &words[1..]].concat().join(blank);
        step.bytes.extend_from_slice(line.as_bytes());
        step.bytes.extend_from_slice(end.as_bytes());
    }
}
