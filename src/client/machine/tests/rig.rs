//! A machine connected to a minimal broker, for the tests: no I/O, time passed by hand.

use super::*;
use crate::message::{Message, Outgoing};
use bytes::BytesMut;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::native::{ClientFrame, Parsed, Subscription, Welcome, When};
use std::collections::{BTreeSet, VecDeque};

/// What the broker does with its input, and what it keeps for the tests.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Bytes of an unfinished frame.
    input: Vec<u8>,
    /// Bytes that the client has yet to read.
    pub(super) output: Vec<u8>,
    plain: BTreeSet<Vec<u8>>,
    members: Vec<(Vec<u8>, u32)>,
    /// The kinds of this connection's frames, in order.
    pub(super) kinds: Vec<u8>,
    /// Payloads published on all connections.
    pub(super) received: Vec<String>,
    /// The reply topics of the latest requests.
    pub(super) reply_topics: VecDeque<Vec<u8>>,
    /// Refuse subscriptions.
    pub(super) refuses: bool,
    /// Requests to store or of the state plane, which tests answer.
    pub(super) of_state: Vec<u32>,
    /// Sends nothing at all.
    pub(super) is_mute: bool,
}

impl Peer {
    /// Forgets the connection, but not what was received.
    fn reset(&mut self) {
        *self = Peer {
            received: std::mem::take(&mut self.received),
            refuses: self.refuses,
            is_mute: self.is_mute,
            ..Peer::default()
        };
    }

    fn handle(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        while let Parsed::Frame { frame, length } =
            native::parse_from_client(&input[at..], usize::MAX).expect("clients send frames")
        {
            self.kinds.push(input[at + native::LENGTH_BYTES]);
            at += length;
            if !self.is_mute {
                self.handle_frame(&frame);
            }
        }
        self.input = input[at..].to_vec();
    }

    fn handle_frame(&mut self, frame: &ClientFrame<'_>) {
        let out = &mut self.output;
        match *frame {
            ClientFrame::Hello(_) => native::write_welcome(
                out,
                &Welcome {
                    version: native::VERSION,
                    broker: "peer/1",
                    client: 7,
                    run: "run",
                    payload_max: 1_000,
                },
            ),
            ClientFrame::Message(message) => {
                self.publish(&message);
            }
            ClientFrame::Publish {
                request,
                when,
                message,
            } => {
                let count = self.publish(&message);
                self.reply_topics
                    .extend(message.reply().map(<[u8]>::to_vec));
                if when == When::Always || count == 0 {
                    native::write_ack(&mut self.output, request, count);
                }
            }
            ClientFrame::Subscribe { request, .. } if self.refuses => {
                native::write_error(out, request, ErrorCode::SubscriptionsFull, "no");
            }
            ClientFrame::Subscribe {
                request,
                subscription,
            } => {
                self.subscribe(&subscription);
                native::write_ack(&mut self.output, request, 1);
            }
            ClientFrame::Unsubscribe {
                request,
                subscription,
            } => {
                match subscription.member {
                    0 => {
                        self.plain.remove(subscription.filter);
                    }
                    member => self.members.retain(|(_, other)| *other != member),
                }
                native::write_ack(&mut self.output, request, 0);
            }
            ClientFrame::PublishStored { request, message } => {
                self.of_state.push(request);
                self.publish(&message);
            }
            ClientFrame::Call { request, .. } => self.of_state.push(request),
            ClientFrame::Ping { request } => native::write_ack(out, request, 0),
            ClientFrame::Drain { request } => {
                self.plain.clear();
                self.members.clear();
                native::write_ack(&mut self.output, request, 0);
            }
        }
    }

    fn subscribe(&mut self, subscription: &Subscription<'_>) {
        match subscription.member {
            0 => {
                self.plain.insert(subscription.filter.to_vec());
            }
            member => self.members.push((subscription.filter.to_vec(), member)),
        }
    }

    /// Handles a message, and sends it to the client's own subscriptions.
    fn publish(&mut self, message: &native::Message<'_>) -> u32 {
        self.received
            .push(String::from_utf8(message.payload.to_vec()).expect("tests send text"));
        let mut count = 0;
        let matches = |filter: &Vec<u8>| topic::wildcard_matches(filter, message.topic);
        if self.plain.iter().any(matches) {
            count += 1;
            native::write_message(&mut self.output, message.bytes);
        }
        for (_, member) in self.members.iter().filter(|(filter, _)| matches(filter)) {
            count += 1;
            native::write_turn(&mut self.output, *member, message.bytes);
        }
        count
    }

    /// Publishes to the client, with or without a subscription.
    pub(super) fn send(&mut self, topic: &[u8], payload: &str, end: bool) {
        let outgoing = Outgoing::new(topic, payload);
        let outgoing = if end { outgoing.end() } else { outgoing };
        let mut message = Vec::new();
        outgoing.parts().write(&mut message).expect("a message");
        native::write_message(&mut self.output, &message);
    }
}

/// A machine and its broker, see the module.
pub(super) struct Rig {
    pub(super) machine: Machine,
    pub(super) peer: Peer,
    pub(super) now: Duration,
    pub(super) transmit: Transmit,
    pub(super) input: BytesMut,
    is_connected: bool,
    pub(super) outcomes: Vec<(u64, Outcome)>,
    pub(super) events: Vec<ConnectionEvent>,
    pub(super) readable: Vec<Reader>,
    pub(super) rooms: usize,
    pub(super) connects: Vec<usize>,
    last_token: u64,
}

pub(super) fn config() -> Config {
    Config {
        addresses: vec!["a:1".to_string(), "b:2".to_string()],
        ..Config::default()
    }
}

impl Rig {
    pub(super) fn new(config: Config) -> Rig {
        Rig {
            machine: Machine::new(config, 7, Duration::ZERO).expect("settings"),
            peer: Peer::default(),
            now: Duration::ZERO,
            transmit: Transmit::default(),
            input: BytesMut::new(),
            is_connected: false,
            outcomes: Vec::new(),
            events: Vec::new(),
            readable: Vec::new(),
            rooms: 0,
            connects: Vec::new(),
            last_token: 0,
        }
    }

    /// A rig that is connected.
    pub(super) fn open(config: Config) -> Rig {
        let mut rig = Rig::new(config);
        rig.settle();
        assert!(rig.machine.is_connected());
        rig
    }

    pub(super) fn token(&mut self) -> Token {
        self.last_token += 1;
        Token(self.last_token)
    }

    /// Takes the machine's outputs.
    pub(super) fn listen(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Completed { token, outcome } => self.outcomes.push((token.0, outcome)),
                Output::Readable(reader) => self.readable.push(reader),
                Output::Room => self.rooms += 1,
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    /// Carries out the machine's actions: connects at once.
    pub(super) fn act(&mut self) -> bool {
        self.machine.handle_time(self.now);
        let action = self.machine.poll_action();
        match action {
            Some(Action::Connect { address }) => {
                self.connects.push(address);
                self.peer.reset();
                self.input.clear();
                self.is_connected = true;
                self.machine.handle_connected(self.now);
            }
            Some(Action::Disconnect) => self.cut(Disconnect::Closed),
            None => {}
        }
        self.listen();
        action.is_some()
    }

    /// Writes at most `bytes_max` bytes to the peer.
    pub(super) fn write(&mut self, bytes_max: usize) -> bool {
        let has_bytes = self.machine.poll_transmit(&mut self.transmit);
        self.listen();
        if !has_bytes || !self.is_connected {
            return false;
        }
        let length = self.transmit.bytes().len().min(bytes_max);
        let bytes = self.transmit.bytes()[..length].to_vec();
        self.transmit.advance(length);
        self.peer.handle(&bytes);
        self.listen();
        true
    }

    /// Reads at most `bytes_max` bytes from the peer, if the machine wants to.
    pub(super) fn read(&mut self, bytes_max: usize) -> bool {
        let length = self.peer.output.len().min(bytes_max);
        if length == 0 || !self.machine.wants_read() || !self.is_connected {
            return false;
        }
        self.input.extend(self.peer.output.drain(..length));
        self.machine.handle_bytes(self.now, &mut self.input);
        self.listen();
        true
    }

    /// Ends the connection from the broker's side.
    pub(super) fn cut(&mut self, reason: Disconnect) {
        self.is_connected = false;
        self.peer.output.clear();
        self.machine
            .handle_disconnected(self.now, &mut self.transmit, reason);
        self.listen();
    }

    /// Runs until nothing more can happen now, and passes time until there is a connection.
    pub(super) fn settle(&mut self) {
        // Ends because nothing here goes on for ever; the bound catches a machine that does.
        for _ in 0..100_000 {
            let acted = self.act();
            let written = self.write(usize::MAX);
            let read = self.read(usize::MAX);
            if acted || written || read {
                continue;
            }
            if self.machine.is_connected() || self.machine.closed().is_some() {
                return;
            }
            self.now = self.machine.next_deadline().expect("something is due");
        }
        panic!("this never comes to rest");
    }

    /// Lets time pass, stopping at each deadline.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.machine.next_deadline().filter(|it| *it <= end) {
            self.now = self.now.max(deadline);
            self.act();
            self.write(usize::MAX);
            self.read(usize::MAX);
        }
        self.now = end;
        self.act();
    }

    pub(super) fn publish(&mut self, payload: &str) -> Result<(), PublishError> {
        self.machine.publish(&Outgoing::new("t", payload).parts())
    }

    pub(super) fn publish_confirmed(&mut self, payload: &str) -> Result<u64, PublishError> {
        let token = self.token();
        let outgoing = Outgoing::new("t", payload);
        self.machine
            .publish_confirmed(self.now, token, &outgoing.parts())?;
        Ok(token.0)
    }

    pub(super) fn request(&mut self, payload: &str) -> Result<CallId, RequestError> {
        let timeout = self.machine.config().request_timeout;
        let outgoing = Outgoing::new("svc", payload);
        self.machine.request(self.now, &outgoing.parts(), timeout)
    }

    pub(super) fn subscribe(&mut self, filter: &str, group: &str) -> SubscriptionId {
        self.subscribe_with(filter, group, None, Overflow::Wait)
    }

    pub(super) fn subscribe_with(
        &mut self,
        filter: &str,
        group: &str,
        queue_bytes: Option<usize>,
        overflow: Overflow,
    ) -> SubscriptionId {
        let token = self.token();
        let filter = Filter {
            filter: filter.as_bytes(),
            group: group.as_bytes(),
            queue_bytes,
            overflow,
        };
        self.machine
            .subscribe(self.now, token, &filter)
            .expect("a subscription")
    }

    pub(super) fn outcome(&self, token: u64) -> Option<&Outcome> {
        let mut found = self.outcomes.iter().filter(|(of, _)| *of == token);
        let first = found.next().map(|(_, outcome)| outcome);
        assert!(found.next().is_none(), "an operation ends once");
        first
    }

    /// Everything that a subscription returns, in words.
    pub(super) fn told(&mut self, id: SubscriptionId) -> Vec<String> {
        let mut told = Vec::new();
        // Ends because a queue is finite.
        loop {
            match self.machine.take(id) {
                Taken::Batch(batch) => told.extend(batch.map(|it: Message| it.text().into_owned())),
                Taken::Gap { events } => told.push(format!("gap {events}")),
                Taken::Reconnected => told.push("reconnected".to_string()),
                Taken::Refused(refusal) => told.push(format!("refused {}", refusal.number)),
                Taken::Empty => return told,
                Taken::Ended => {
                    told.push("ended".to_string());
                    return told;
                }
            }
        }
    }

    /// Everything that a request returns, in words.
    pub(super) fn replies(&mut self, call: CallId) -> Vec<String> {
        let mut told = Vec::new();
        // Ends because a queue is finite.
        loop {
            match self.machine.take_reply(call) {
                TakenReply::Batch(batch) => {
                    told.extend(batch.map(|it: Message| it.text().into_owned()));
                }
                TakenReply::Failed(error) => told.push(format!("{error:?}")),
                TakenReply::Empty => return told,
                TakenReply::Ended => {
                    told.push("ended".to_string());
                    return told;
                }
            }
        }
    }
}
