//! Random histories of the Redis protocol around pub/sub: valid use, wrong use and broken bytes.
//!
//! The generator keeps clear of what is undefined or broken in `redis-server` itself: CLIENT REPLY OFF
//! or SKIP within MULTI (the array of EXEC then lacks elements), QUIT and protocol errors while replies
//! are off (the socket stays open and dead), NUL bytes in inline commands (they wedge it).

use std::fmt;

use super::compare::{ID_FOLLOWS, Unordered};
use super::dice::Dice;
use super::plan::Delivery;

pub const CONNECTIONS: usize = 5;
/// It seldom subscribes: in RESP2 a subscriber cannot publish, and little would be heard.
const PUBLISHER: usize = 0;
/// They are mostly subscribers, and leave the publishing to others.
const RESP2_SUBSCRIBERS: [usize; 2] = [2, 4];
/// Most subscribe and publish to the first so many names, so that messages are heard.
const FEW: usize = 4;
const STEPS: usize = 60;
/// Payloads that do not fit one small read or one small buffer.
const LARGE_PAYLOAD_BYTES: usize = 40_000;

/// Channel names. No name is also the argument of an ECHO or PING, see `Unordered::names`.
pub const NAMES: &[&[u8]] = &[
    b"a",
    b"b",
    b"c",
    b"ab",
    b"abc",
    b"a.b",
    b"a.b.c",
    b"news.tech",
    b"news.art",
    b"",
    b"*",
    b"a*b",
    b"[a]",
    b"a b",
    b"\\",
    b"?",
    b"^",
    b"-",
    b"\x00",
    b"a\x00b",
    b"\xff\xfe",
    b"a\r\nb",
    b"A",
    b"]",
    b".",
    b"..",
    b">",
    b"a.>",
];

const GLOBS: &[&[u8]] = &[
    b"*", b"a*", b"*b", b"a?", b"?", b"??", b"[abc]", b"[a-c]", b"[c-a]", b"[^a]", b"[^a-b]*",
    b"a[", b"[", b"[a", b"[]", b"[]a]", b"[^]", b"[a-]", b"[-a]", b"\\*", b"a\\*b", b"\\", b"a\\",
    b"\\\\", b"[\\]]", b"[\\[]a]", b"\\[a\\]", b"**", b"*a*b*", b"a.b", b"a.*", b"news.*", b"*.*",
    b"", b"???*", b"*[a-c]", b"[a-c-e]", b"\xff*", b"*\x00*", b"a*?", b"[A-z]", b"[?]", b"[*]",
    b"a**b", b"*\\", b"[\\-a]", b"[a\\-c]", b"[^^]", b"a\r*", b">", b"a.>",
];

const ARGS: &[&[u8]] = &[
    b"x",
    b"hello there",
    b"",
    b"x'y",
    b"x\"y",
    b"x\r\ny",
    b"\x00",
    b"x\x00y",
    b"\xff\xfe",
    b"12",
    b"-1",
    b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    &[b'x'; 130],
    &[b'y'; 126],
    &[b'z'; 600],
];

const UNKNOWN: &[&[u8]] = &[
    b"FOO",
    b"foo",
    b"",
    b"SUBSCRIBE ",
    b"CLIENT|ID",
    b"pub",
    b"f\r\no",
    b"f\x00o",
    b"\xff",
    b"it's",
    &[b'F'; 140],
    b"*1",
    b"$3",
];

/// Commands with fewer or more arguments than they take.
const WRONG_ARITY: &[&[&[u8]]] = &[
    &[b"PUBLISH"],
    &[b"PUBLISH", b"a"],
    &[b"PUBLISH", b"a", b"x", b"y"],
    &[b"SPUBLISH", b"a"],
    &[b"SUBSCRIBE"],
    &[b"PSUBSCRIBE"],
    &[b"SSUBSCRIBE"],
    &[b"PUBSUB"],
    &[b"PUBSUB", b"NUMPAT", b"x"],
    &[b"CLIENT"],
    &[b"CLIENT", b"ID", b"x"],
    &[b"CLIENT", b"GETNAME", b"x"],
    &[b"CLIENT", b"SETNAME"],
    &[b"CLIENT", b"SETNAME", b"x", b"y"],
    &[b"CLIENT", b"REPLY"],
    &[b"CLIENT", b"NO-EVICT"],
    &[b"CLIENT", b"KILL"],
    &[b"CLIENT", b"INFO", b"x"],
    &[b"ECHO"],
    &[b"ECHO", b"x", b"y"],
    &[b"SELECT"],
    &[b"SELECT", b"0", b"1"],
    &[b"MULTI", b"x"],
    &[b"DISCARD", b"x"],
    &[b"WATCH"],
    &[b"UNWATCH", b"x"],
    &[b"RESET", b"x"],
    &[b"AUTH"],
    &[b"PING", b"x", b"y"],
];

/// Errors that are found only when the command runs, so that within MULTI they are queued.
const WRONG_USE: &[&[&[u8]]] = &[
    &[b"PUBSUB", b"CHANNELS", b"a", b"b"],
    &[b"pubsub", b"shardchannels", b"a", b"b"],
    &[b"CLIENT", b"SETNAME", b"x y"],
    &[b"CLIENT", b"SETNAME", b"x\n"],
    &[b"CLIENT", b"SETNAME", b"\xff"],
    &[b"CLIENT", b"SETNAME", b"\x00"],
    &[b"CLIENT", b"REPLY", b"FOO"],
    &[b"CLIENT", b"NO-EVICT", b"FOO"],
    &[b"SELECT", b"16"],
    &[b"SELECT", b"-1"],
    &[b"SELECT", b"x"],
    &[b"SELECT", b"+1"],
    &[b"SELECT", b"01"],
    &[b"SELECT", b""],
    &[b"SELECT", b"99999999999999999999"],
    &[b"AUTH", b"x"],
    &[b"AUTH", b"default", b"x"],
    &[b"AUTH", b"nobody", b"x"],
    &[b"AUTH", b"x", b"y", b"z"],
    &[b"CLIENT", b"KILL", b"1.1.1.1:1"],
    &[b"CLIENT", b"KILL", b"ID", b"x"],
    &[b"CLIENT", b"KILL", b"ID", b"0"],
    &[b"CLIENT", b"KILL", b"ID", b"999999999"],
    &[b"CLIENT", b"KILL", b"TYPE", b"foo"],
    &[b"CLIENT", b"KILL", b"FOO", b"x"],
    &[b"CLIENT", b"KILL", b"ADDR", b"1.1.1.1:1", b"SKIPME"],
    &[
        b"CLIENT",
        b"KILL",
        b"ADDR",
        b"1.1.1.1:1",
        b"SKIPME",
        b"maybe",
    ],
    &[b"CLIENT", b"KILL", b"ADDR", b"1.1.1.1:1"],
    &[b"CLIENT", b"KILL", b"USER", b"nobody"],
    &[b"CLIENT", b"KILL", b"ID"],
    &[b"CLIENT", b"LIST", b"TYPE", b"foo"],
    &[b"CLIENT", b"LIST", b"FOO"],
    &[b"CLIENT", b"LIST", b"ID"],
    &[b"CLIENT", b"LIST", b"ID", b"x"],
    &[b"CLIENT", b"LIST", b"ID", b"999999999"],
    &[b"CLIENT", b"LIST", b"TYPE"],
    &[b"FLUSHALL", b"x"],
];

/// Subcommands that do not exist.
const UNKNOWN_SUBCOMMANDS: &[&[&[u8]]] = &[
    &[b"PUBSUB", b"FOO"],
    &[b"pubsub", b"foo", b"x"],
    &[b"CLIENT", b"FOO"],
    &[b"client", b"x\r\ny", b"z"],
    &[b"CLIENT", b""],
    &[b"CLIENT", &[b'F'; 140]],
    &[b"PUBSUB", b"x\x00y"],
    &[b"PUBSUB", b"NUMSUBS"],
    &[b"Client", b"I'd"],
];

const HELLO: &[&[&[u8]]] = &[
    &[],
    &[b"2"],
    &[b"3"],
    &[b"3"],
    &[b"4"],
    &[b"1"],
    &[b"-1"],
    &[b"x"],
    &[b""],
    &[b"03"],
    &[b"3.0"],
    &[b"99999999999999999999"],
    &[b"3", b"SETNAME", b"bob"],
    &[b"2", b"setname", b"eve"],
    &[b"3", b"SETNAME", b""],
    &[b"3", b"SETNAME", b"x y"],
    &[b"3", b"SETNAME"],
    &[b"3", b"FOO"],
    &[b"3", b"x\r\ny"],
    &[b"3", b"AUTH", b"default"],
    &[b"3", b"AUTH", b"default", b"x"],
    &[b"3", b"AUTH", b"nobody", b"x"],
    &[b"3", b"SETNAME", b"kept", b"FOO"],
    &[b"2", b"SETNAME", b"kept", b"AUTH", b"nobody", b"x"],
    &[b"2", b"SETNAME", b"one", b"SETNAME", b"two"],
    &[b"SETNAME", b"x"],
    &[b"4", b"SETNAME", b"unset"],
];

const INLINE: &[&[u8]] = &[
    b"PING\r\n",
    b"ping\n",
    b"  ping   'x y'  \r\n",
    b"PING \"x\\x41\\n\\r\\t\\b\\a\\\\\\\"\\q\"\r\n",
    b"ping 'x\\'y\\n'\r\n",
    b"ping \"\"\r\n",
    b"ping ''\r\n",
    b"ping x\ty\r\n",
    b"ping x\ry\r\n",
    b"echo x\r\r\n",
    b"ECHO x\"y z\"\r\n",
    b"echo \"\\x4\"\r\n",
    b"echo \"\\xFf\\x00\"\r\n",
    b"subscribe a b\r\n",
    b"unsubscribe a\r\n",
    b"publish a inline\r\n",
    b"foo x 'y z'\r\n",
    b"echo \xff\xfe\r\n",
    b"echo x'y'\r\n",
    b"PUBSUB NUMSUB a\n",
    b"echo $3\r\n",
    b"echo *1\r\n",
];

const EMPTY: &[&[u8]] = &[
    b"\r\n", b"\n", b"   \r\n", b"\t\n", b"*0\r\n", b"*-1\r\n", b"*-7\r\n",
];

/// Bytes after which the server closes.
const BROKEN: &[&[u8]] = &[
    b"*x\r\n",
    b"*\r\n",
    b"*+1\r\n",
    b"*01\r\n",
    b"*1 \r\n",
    b"*-0\r\n",
    b"*2147483648\r\n",
    b"*99999999999999999999\r\n",
    b"*1\r\nPING\r\n",
    b"*1\r\n*1\r\n",
    b"*1\r\n\xff\r\n",
    b"*1\r\n'\r\n",
    b"*1\r\n\r\n",
    b"*1\r\n$x\r\n",
    b"*1\r\n$\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$04\r\n",
    b"*1\r\n$+4\r\n",
    b"*1\r\n$-0\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n$4294967296\r\n",
    b"*2\r\n$4\r\nPING\r\n:1\r\n",
    b"ping \"x\r\n",
    b"ping 'x\r\n",
    b"ping \"x\"y\r\n",
    b"ping 'x'y\r\n",
    b"ping x\"y z\"x\r\n",
    b"ping \"x\\\"\r\n",
];

/// Bytes of one connection that are written and compared together.
#[derive(Clone)]
pub struct Step {
    pub connection: usize,
    pub bytes: Vec<u8>,
    pub unordered: Unordered,
    /// Pipelines end before and after it.
    alone: bool,
}

impl Step {
    /// Whether a shorter history may lack it. Without the end of CLIENT REPLY OFF, it would run into
    /// what the generator keeps clear of.
    pub fn is_dispensable(&self) -> bool {
        let text = self.bytes.to_ascii_uppercase();
        !text
            .windows(5)
            .any(|word| word == b"REPLY" || word == b"RESET")
    }
}

impl Step {
    pub fn raw(connection: usize, bytes: &[u8]) -> Step {
        Step {
            connection,
            bytes: bytes.to_vec(),
            unordered: Unordered::default(),
            alone: false,
        }
    }
}

#[derive(Clone)]
pub struct History {
    pub steps: Vec<Step>,
}

impl fmt::Display for History {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(out, "  {}: {}", step.connection, step.bytes.escape_ascii())?;
        }
        Ok(())
    }
}

impl History {
    pub fn random(seed: u64) -> History {
        Generator::new(seed).history()
    }

    /// The same with a message at the end that somebody hears.
    pub fn with_last_message(&self, payload: &[u8]) -> History {
        let mut history = self.clone();
        for (connection, args) in [
            (0, [&b"RESET"[..]].as_slice()),
            (1, &[b"RESET"]),
            (0, &[b"SUBSCRIBE", b"a"]),
            (1, &[b"PUBLISH", b"a", payload]),
        ] {
            history
                .steps
                .push(Step::raw(connection, &super::common::resp::request(args)));
        }
        history
    }

    pub fn deliver(&self, delivery: Delivery) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for step in &self.steps {
            match steps.last_mut() {
                Some(last)
                    if delivery != Delivery::Stepwise
                        && last.connection == step.connection
                        && !last.alone
                        && !step.alone =>
                {
                    last.bytes.extend_from_slice(&step.bytes);
                    last.unordered.names |= step.unordered.names;
                    last.unordered.unsubscribed |= step.unordered.unsubscribed;
                }
                _ => steps.push(step.clone()),
            }
        }
        steps
    }
}

/// What the generator believes of a connection. It may be wrong; that makes a history duller, not invalid.
#[derive(Clone, Copy, Default)]
struct Belief {
    /// Within MULTI.
    queueing: bool,
    /// What the queued commands may answer in any order.
    queued: Unordered,
    /// After CLIENT REPLY OFF.
    quiet: bool,
    /// It asked for a subscription, and may be in the subscriber mode of RESP2.
    may_subscribe: bool,
}

struct Generator {
    dice: Dice,
    beliefs: [Belief; CONNECTIONS],
    steps: Vec<Step>,
    connection: usize,
    published: usize,
}

impl Generator {
    fn new(seed: u64) -> Generator {
        Generator {
            dice: Dice::new(seed),
            beliefs: [Belief::default(); CONNECTIONS],
            steps: Vec::new(),
            connection: 0,
            published: 0,
        }
    }

    fn history(mut self) -> History {
        for connection in [1, 3] {
            self.connection = connection;
            self.command(&[b"HELLO", b"3"]);
        }
        while self.steps.len() < STEPS {
            self.connection = self.dice.below(CONNECTIONS);
            // Runs of one connection, so that pipelines are worth their name.
            for _ in 0..=self.dice.below(6) {
                if self.beliefs[self.connection].quiet {
                    self.quiet_step();
                } else {
                    self.step();
                }
            }
        }
        History { steps: self.steps }
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0..=14 => self.subscribe(),
            15..=19 => self.unsubscribe(),
            20..=41 => self.publish(),
            42..=51 => self.pubsub(),
            52..=57 => self.ping(),
            58..=69 => self.transaction(),
            70..=78 => self.client(),
            79..=81 => self.options(HELLO, &[b"HELLO"]),
            82..=83 => self.options(WRONG_ARITY, &[]),
            84..=86 => self.options(WRONG_USE, &[]),
            87 => self.options(UNKNOWN_SUBCOMMANDS, &[]),
            88..=89 => self.unknown(),
            90..=92 => self.bytes_of(INLINE),
            93 => self.bytes_of(EMPTY),
            94 => self.reset(),
            95 => self.select(),
            96 => self.reply_mode(),
            97 => self.close(),
            98 => self.command(&[b"FLUSHALL"]),
            _ => self.command(&[b"FLUSHDB"]),
        }
    }

    fn subscribe(&mut self) {
        if self.connection == PUBLISHER && !self.dice.one_in(8) {
            return self.publish();
        }
        match self.dice.below(3) {
            0 => self.named(b"SUBSCRIBE", NAMES, 1),
            1 => self.named(b"PSUBSCRIBE", GLOBS, 1),
            _ => self.named(b"SSUBSCRIBE", NAMES, 1),
        }
    }

    fn unsubscribe(&mut self) {
        match self.dice.below(3) {
            0 => self.named(b"UNSUBSCRIBE", NAMES, 0),
            1 => self.named(b"PUNSUBSCRIBE", GLOBS, 0),
            _ => self.named(b"SUNSUBSCRIBE", NAMES, 0),
        }
    }

    /// A command with some names; few are wanted, as then subscriptions and messages meet.
    fn named(&mut self, command: &[u8], names: &[&'static [u8]], least: usize) {
        let count = least + self.dice.below(3);
        let mut args = vec![command];
        for _ in 0..count {
            let limit = if self.dice.one_in(4) {
                names.len()
            } else {
                FEW
            };
            args.push(names[self.dice.below(limit)]);
        }
        self.command(&args);
    }

    fn publish(&mut self) {
        if RESP2_SUBSCRIBERS.contains(&self.connection) && !self.dice.one_in(6) {
            self.connection = *self.dice.pick(&[PUBLISHER, 1, 3]);
            if self.beliefs[self.connection].quiet {
                return self.quiet_step();
            }
        }
        let command: &[u8] = if self.dice.one_in(3) {
            b"SPUBLISH"
        } else {
            b"PUBLISH"
        };
        let limit = if self.dice.one_in(4) {
            NAMES.len()
        } else {
            FEW
        };
        let name = NAMES[self.dice.below(limit)];
        self.published += 1;
        // Each payload is told apart from all others.
        let mut payload = format!("m{}", self.published).into_bytes();
        match self.dice.below(12) {
            0 => payload.extend_from_slice(b"\r\n$3\r\n\x00\xff"),
            1 => payload.resize(LARGE_PAYLOAD_BYTES, b'm'),
            _ => {}
        }
        self.command(&[command, name, &payload]);
    }

    fn pubsub(&mut self) {
        let subcommand = self.dice.word(&[
            b"CHANNELS",
            b"SHARDCHANNELS",
            b"NUMSUB",
            b"SHARDNUMSUB",
            b"NUMPAT",
            b"numpat",
        ]);
        let mut args = vec![&b"PUBSUB"[..], subcommand];
        if subcommand.ends_with(b"CHANNELS") {
            if self.dice.one_in(2) {
                args.push(*self.dice.pick(GLOBS));
            }
        } else if subcommand.ends_with(b"NUMSUB") {
            for _ in 0..self.dice.below(4) {
                args.push(*self.dice.pick(NAMES));
            }
        }
        self.command(&args);
    }

    fn ping(&mut self) {
        let arg = *self.dice.pick(ARGS);
        match self.dice.below(4) {
            0 => self.command(&[b"ECHO", arg]),
            1 => self.command(&[b"PING", arg]),
            _ => self.command(&[b"PING"]),
        }
    }

    fn transaction(&mut self) {
        let queueing = self.beliefs[self.connection].queueing;
        let command: &[&[u8]] = match self.dice.below(20) {
            0..=5 if !queueing => &[b"MULTI"],
            0..=9 => &[b"EXEC"],
            10 => &[b"EXEC", b"x"],
            11..=12 => &[b"DISCARD"],
            13..=15 => &[b"MULTI"],
            16 => &[b"WATCH", b"a", b"b"],
            17 => &[b"UNWATCH"],
            18 => &[b"DISCARD", b"x"],
            _ => &[b"EXEC"],
        };
        self.command(command);
    }

    fn client(&mut self) {
        match self.dice.below(12) {
            0..=2 => self.command(&[b"CLIENT", b"GETNAME"]),
            3..=5 => {
                let name = self.dice.word(&[b"bob", b"!~", b"", b"x:y=z", b"eve"]);
                self.command(&[b"CLIENT", b"SETNAME", name]);
            }
            // In one step, so that the id is known for one however the history is cut.
            6 => self.together(&[&[b"ECHO", ID_FOLLOWS], &[b"CLIENT", b"ID"]]),
            7 => self.command(&[b"CLIENT", b"INFO"]),
            8 => self.command(&[b"CLIENT", b"LIST"]),
            9 => self.command(&[b"CLIENT", b"LIST", b"TYPE", b"pubsub"]),
            10 => {
                let switch = self.dice.word(&[b"ON", b"off"]);
                self.command(&[b"CLIENT", b"NO-EVICT", switch]);
            }
            _ if self.dice.one_in(4) && !self.beliefs[self.connection].queueing => {
                // What others were sent before may get lost with the kill: it needs a step of its own.
                let kill: &[&[u8]] = &[b"CLIENT", b"KILL", b"TYPE", b"pubsub", b"SKIPME", b"yes"];
                let bytes = super::common::resp::request(kill);
                self.push(bytes, Unordered::default(), true);
            }
            _ => self.command(&[b"CLIENT", b"REPLY", b"ON"]),
        }
    }

    fn options(&mut self, table: &[&[&[u8]]], start: &[&[u8]]) {
        let row = *self.dice.pick(table);
        self.command(&[start, row].concat());
    }

    fn unknown(&mut self) {
        let mut args = vec![*self.dice.pick(UNKNOWN)];
        for _ in 0..self.dice.below(8) {
            args.push(*self.dice.pick(ARGS));
        }
        self.command(&args);
    }

    fn bytes_of(&mut self, table: &[&[u8]]) {
        let bytes = *self.dice.pick(table);
        self.push(bytes.to_vec(), Unordered::default(), false);
    }

    fn reset(&mut self) {
        self.command(&[b"RESET"]);
    }

    fn select(&mut self) {
        let number = self.dice.word(&[b"0", b"1", b"15"]);
        self.command(&[b"SELECT", number]);
    }

    /// Silence is never the end of a step: with nothing to wait for, the next step could overtake.
    fn reply_mode(&mut self) {
        if self.beliefs[self.connection].queueing {
            return self.ping();
        }
        if self.dice.one_in(3) {
            self.beliefs[self.connection].quiet = true;
            return self.together(&[&[b"CLIENT", b"REPLY", b"OFF"], FENCE]);
        }
        let skipped = self.harmless();
        let skipped: Vec<&[u8]> = skipped.iter().map(Vec::as_slice).collect();
        self.together(&[&[b"CLIENT", b"REPLY", b"SKIP"], &skipped, &[b"PING"]]);
    }

    fn quiet_step(&mut self) {
        match self.dice.below(8) {
            // It is refused, and unheard, in the subscriber mode of RESP2.
            0 => self.together(&[&[b"CLIENT", b"REPLY", b"ON"], FENCE]),
            1 => self.reset(),
            _ => {
                let command = self.harmless();
                let command: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
                self.together(&[&command, FENCE]);
            }
        }
    }

    /// A command after which the connection's mode is what it was.
    fn harmless(&mut self) -> Vec<Vec<u8>> {
        self.published += 1;
        let payload = format!("quiet{}", self.published).into_bytes();
        let name = NAMES[self.dice.below(FEW)].to_vec();
        let command: &[&[u8]] = match self.dice.below(8) {
            0 => &[b"PING"],
            1 => &[b"ECHO", b"x"],
            2 | 3 => &[b"PUBLISH", &name, &payload],
            4 => &[b"SUBSCRIBE", &name],
            5 => &[b"UNSUBSCRIBE", &name],
            6 => &[b"CLIENT", b"SETNAME", b"quiet"],
            _ => &[b"FOO", b"x"],
        };
        command.iter().map(|arg| arg.to_vec()).collect()
    }

    fn close(&mut self) {
        if self.dice.one_in(3) {
            let quit: &[&[u8]] = if self.dice.one_in(2) {
                &[b"QUIT"]
            } else {
                &[b"quit", b"x"]
            };
            let bytes = super::common::resp::request(quit);
            self.push(bytes, Unordered::default(), true);
        } else {
            let bytes = self.dice.pick(BROKEN).to_vec();
            self.push(bytes, Unordered::default(), true);
        }
        self.beliefs[self.connection] = Belief::default();
    }

    fn command(&mut self, args: &[&[u8]]) {
        self.together(&[args]);
    }

    /// Commands in one step, whatever the delivery.
    fn together(&mut self, commands: &[&[&[u8]]]) {
        let mut bytes = Vec::new();
        let mut unordered = Unordered::default();
        for args in commands {
            let answers = self.believe(args);
            unordered.names |= answers.names;
            unordered.unsubscribed |= answers.unsubscribed;
            let name = if self.dice.one_in(6) {
                self.any_case(args[0])
            } else {
                args[0].to_vec()
            };
            let mut args = args.to_vec();
            args[0] = &name;
            bytes.extend(super::common::resp::request(&args));
        }
        self.push(bytes, unordered, false);
    }

    fn any_case(&mut self, name: &[u8]) -> Vec<u8> {
        let dice = &mut self.dice;
        name.iter()
            .map(|byte| {
                if dice.one_in(2) {
                    byte.to_ascii_lowercase()
                } else {
                    *byte
                }
            })
            .collect()
    }

    /// Follows what the command does to the connection; what of its answer has no order.
    fn believe(&mut self, args: &[&[u8]]) -> Unordered {
        let name = args[0].to_ascii_uppercase();
        let belief = &mut self.beliefs[self.connection];
        let answers = Unordered {
            names: name == b"PUBSUB",
            unsubscribed: name.ends_with(b"UNSUBSCRIBE") && args.len() == 1,
        };
        match name.as_slice() {
            b"MULTI" if args.len() == 1 && !belief.queueing => {
                belief.queueing = true;
                belief.queued = Unordered::default();
            }
            b"EXEC" => {
                belief.queueing = false;
                return belief.queued;
            }
            b"DISCARD" if args.len() == 1 => belief.queueing = false,
            b"RESET" if args.len() == 1 => *belief = Belief::default(),
            b"SUBSCRIBE" | b"PSUBSCRIBE" | b"SSUBSCRIBE" => belief.may_subscribe = true,
            // In the subscriber mode of RESP2 it is refused, and nobody hears of that.
            b"CLIENT"
                if belief.quiet && !belief.may_subscribe && args.get(2) == Some(&&b"ON"[..]) =>
            {
                belief.quiet = false;
            }
            _ => {}
        }
        if belief.queueing {
            belief.queued.names |= answers.names;
            belief.queued.unsubscribed |= answers.unsubscribed;
        }
        answers
    }

    fn push(&mut self, bytes: Vec<u8>, unordered: Unordered, alone: bool) {
        self.steps.push(Step {
            connection: self.connection,
            bytes,
            unordered,
            alone,
        });
    }
}

/// It is answered even while replies are off, and changes nothing.
const FENCE: &[&[u8]] = &[b"SUNSUBSCRIBE", b"fence"];
