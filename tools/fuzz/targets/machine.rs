//! A broker that says anything, in any pieces, to a client that does anything: the client does not panic, each operation ends
//! exactly once, and no more waits in its queues than their caps allow.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use sapwood_client::machine::{
    Action, Filter, Machine, Output, SubscriptionId, Taken, Token, Transmit,
};
use sapwood_client::{Config, Outgoing, Overflow, error};
use sapwood_wire::error::ErrorCode;
use sapwood_wire::native;
use std::collections::BTreeSet;
use std::time::Duration;

const QUEUE_BYTES: usize = 200;
const QUEUES_BYTES_MAX: usize = 1_000;

struct World {
    machine: Machine,
    transmit: Transmit,
    input: BytesMut,
    now: Duration,
    is_connected: bool,
    last_token: u64,
    waiting: BTreeSet<u64>,
    subscriptions: Vec<SubscriptionId>,
    published: u64,
}

impl World {
    fn new() -> World {
        let config = Config {
            addresses: vec!["a:1".to_string(), "b:2".to_string()],
            window_bytes: 500,
            window_requests: 10,
            queue_bytes: QUEUE_BYTES,
            queues_bytes_max: QUEUES_BYTES_MAX,
            ..Config::default()
        };
        World {
            machine: Machine::new(config, 7, Duration::ZERO).expect("settings"),
            transmit: Transmit::default(),
            input: BytesMut::new(),
            now: Duration::ZERO,
            is_connected: false,
            last_token: 0,
            waiting: BTreeSet::new(),
            subscriptions: Vec::new(),
            published: 0,
        }
    }

    fn token(&mut self) -> Token {
        self.last_token += 1;
        Token(self.last_token)
    }

    /// Takes what the machine tells and does what it wants.
    fn settle(&mut self) {
        self.machine.handle_time(self.now);
        match self.machine.poll_action() {
            Some(Action::Connect { .. }) => {
                self.is_connected = true;
                self.input.clear();
                self.machine.handle_connected(self.now);
            }
            Some(Action::Disconnect) => self.cut(),
            None => {}
        }
        while let Some(output) = self.machine.poll_output() {
            if let Output::Completed { token, .. } = output {
                assert!(self.waiting.remove(&token.0), "an operation ended twice");
            }
        }
    }

    fn cut(&mut self) {
        self.is_connected = false;
        let reason = error::Disconnect::ClosedByBroker;
        self.machine
            .handle_disconnected(self.now, &mut self.transmit, reason);
    }

    fn write(&mut self, bytes_max: usize) {
        if self.machine.poll_transmit(&mut self.transmit) {
            let length = self.transmit.bytes().len().min(bytes_max);
            self.transmit.advance(length);
        }
    }

    /// The broker says something. Half of it comes first.
    fn hear(&mut self, bytes: &[u8]) {
        if !self.is_connected || !self.machine.wants_read() {
            return;
        }
        for part in [&bytes[..bytes.len() / 2], &bytes[bytes.len() / 2..]] {
            self.input.extend_from_slice(part);
            self.machine.handle_bytes(self.now, &mut self.input);
        }
    }

    fn subscribe(&mut self, group: u8) {
        let token = self.token();
        let filter = Filter {
            filter: if group & 1 == 0 { b"t" } else { b">" },
            group: if group & 2 == 0 { b"" } else { b"group" },
            queue_bytes: None,
            overflow: if group & 4 == 0 {
                Overflow::Wait
            } else {
                Overflow::DropOldest
            },
        };
        self.waiting.insert(token.0);
        match self.machine.subscribe(self.now, token, &filter) {
            Ok(id) => self.subscriptions.push(id),
            Err(_) => {
                self.waiting.remove(&token.0);
            }
        }
    }

    /// Reads one subscription to its end; says how many bytes of payload that were.
    fn take(&mut self, at: usize) -> usize {
        let Some(id) = self
            .subscriptions
            .get(at % self.subscriptions.len().max(1))
            .copied()
        else {
            return 0;
        };
        let mut bytes = 0;
        loop {
            match self.machine.take(id) {
                Taken::Batch(batch) => bytes += batch.map(|it| it.payload().len()).sum::<usize>(),
                Taken::Empty | Taken::Ended => return bytes,
                Taken::Gap { events } => assert!(events > 0),
                Taken::Reconnected | Taken::Refused(_) => {}
            }
        }
    }

    fn ask(&mut self, what: u8, size: u8) {
        let payload = vec![b'x'; usize::from(size)];
        let outgoing = Outgoing::new("t", &payload);
        let token = self.token();
        let is_asked = match what % 5 {
            0 => {
                self.published += u64::from(self.machine.publish(&outgoing.parts()).is_ok());
                false
            }
            1 => self
                .machine
                .publish_confirmed(self.now, token, &outgoing.parts())
                .is_ok(),
            2 => self.machine.ping(self.now, token).is_ok(),
            3 => {
                // Its end is seen by nobody, as when a caller has gone.
                let _ = self
                    .machine
                    .request(self.now, &outgoing.parts(), Duration::from_secs(1));
                false
            }
            _ if size == 0 => {
                self.waiting.insert(token.0);
                self.machine.drain(self.now, Some(token));
                return;
            }
            _ => false,
        };
        if is_asked {
            self.waiting.insert(token.0);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut world = World::new();
    let mut rest = data;
    while let Some((&[what, first, second], behind)) = rest.split_first_chunk() {
        rest = behind;
        match what % 12 {
            0 => world.ask(first, second),
            1 => world.subscribe(first),
            2 => world.write(usize::from(second)),
            3 => world.write(usize::MAX),
            4 => {
                world.take(usize::from(first));
            }
            5 => world.now += Duration::from_millis(u64::from(first) << (second % 12)),
            6 if first == 0 => world.cut(),
            6 => {
                let mut out = Vec::new();
                native::write_welcome(
                    &mut out,
                    &native::Welcome {
                        version: 1,
                        ..Default::default()
                    },
                );
                world.hear(&out);
            }
            7 => {
                let mut out = Vec::new();
                native::write_ack(&mut out, u32::from(first), u32::from(second));
                world.hear(&out);
            }
            8 => {
                let mut out = Vec::new();
                let code = ErrorCode::ALL[usize::from(second) % ErrorCode::ALL.len()];
                native::write_error(&mut out, u32::from(first), code, "no");
                world.hear(&out);
            }
            9 => {
                let mut message = Vec::new();
                let payload = vec![b'y'; usize::from(second)];
                Outgoing::new("t", &payload)
                    .parts()
                    .write(&mut message)
                    .expect("a message");
                let mut out = Vec::new();
                match first % 4 {
                    0 => native::write_turn(&mut out, u32::from(first / 4), &message),
                    _ => native::write_message(&mut out, &message),
                }
                world.hear(&out);
            }
            // A frame of any kind with any fields, and then bytes that are no frame.
            10 => {
                let mut out = Vec::new();
                let length = usize::from(second).min(rest.len());
                native::write_frame(&mut out, first, |out| {
                    out.extend_from_slice(&rest[..length])
                });
                world.hear(&out);
            }
            _ if first == 0 => world.machine.close(error::CloseReason::Closed),
            _ => world.hear(&[first, second]),
        }
        world.settle();
    }
    // A cap, the newest event of each queue, and what its own cap lets every queue hold.
    let most = QUEUES_BYTES_MAX + world.subscriptions.len() * (QUEUE_BYTES + 2 * 256);
    let held: usize = (0..world.subscriptions.len())
        .map(|at| world.take(at))
        .sum();
    assert!(held <= most, "{held} bytes waited");
    assert!(world.machine.statistics().unconfirmed_publishes <= world.published);
    world.machine.close(error::CloseReason::Closed);
    world.settle();
    world.settle();
    assert!(world.machine.closed().is_some());
    assert!(world.waiting.is_empty(), "an operation never ended");
});
