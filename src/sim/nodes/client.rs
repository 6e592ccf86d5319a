//! A client of a node, in the native protocol: what it wants, what it got.

use sapwood_wire::limits::NATIVE_FRAME_BYTES_MAX;
use sapwood_wire::native::{self, BrokerFrame, Hello, Parsed, Parts, Subscription, When, kind};
use sapwood_wire::topic;
use std::collections::BTreeMap;

/// What an event of the workload says: who published it, its number, and in which part of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Word {
    pub publisher: u32,
    pub sequence: u64,
    pub is_final: bool,
}

impl Word {
    pub(crate) fn bytes(self, padding: usize) -> Vec<u8> {
        let mut bytes = self.publisher.to_le_bytes().to_vec();
        bytes.extend(self.sequence.to_le_bytes());
        bytes.push(u8::from(self.is_final));
        bytes.resize(bytes.len() + padding, b'.');
        bytes
    }

    fn of(bytes: &[u8]) -> Option<Word> {
        let (publisher, rest) = bytes.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        Some(Word {
            publisher: u32::from_le_bytes(*publisher),
            sequence: u64::from_le_bytes(*sequence),
            is_final: *rest.first()? == 1,
        })
    }
}

/// What came for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Event {
        topic: Vec<u8>,
        word: Word,
        reply: Option<Vec<u8>>,
        member: Option<u32>,
    },
    /// To a request of this number.
    Ack(u32, u32),
    Gap,
}

/// A client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub node: usize,
    pub is_gone: bool,
    pub filters: Vec<Vec<u8>>,
    /// A group that it is a member of, on the topics `job.*`.
    pub group: Option<Vec<u8>>,
    input: Vec<u8>,
    pub outgoing: Vec<u8>,
    next_request: u32,
    /// Events that it published.
    pub published: u64,
    /// The last event of each publisher and topic.
    pub last: BTreeMap<(u32, Vec<u8>), u64>,
    /// Events of the last part, by publisher and topic.
    pub finals: BTreeMap<(u32, Vec<u8>), Vec<u64>>,
    pub turns: u64,
    pub acknowledged: u32,
    /// Replies that came to it.
    pub replies: Vec<u64>,
}

impl Client {
    pub(crate) fn new(node: usize) -> Client {
        let mut client = Client {
            node,
            ..Client::default()
        };
        native::write_hello(&mut client.outgoing, &Hello::default());
        client
    }

    pub(crate) fn subscribe(&mut self, filter: &[u8]) -> u32 {
        self.filters.push(filter.to_vec());
        self.ask_for(filter, b"", 0)
    }

    /// Says that it wants something, and does not ask for it.
    pub(crate) fn pretend(&mut self, filter: &[u8]) {
        self.filters.push(filter.to_vec());
    }

    /// Asks for something that it does not say it wants.
    pub(crate) fn subscribe_hidden(&mut self, filter: &[u8]) {
        self.ask_for(filter, b"", 0);
    }

    /// Whether an event of this topic is for it.
    pub(crate) fn wants(&self, topic: &[u8]) -> bool {
        let mut filters = self.filters.iter();
        filters.any(|filter| filter == topic || topic::wildcard_matches(filter, topic))
    }

    pub(crate) fn join(&mut self, filter: &[u8], group: &[u8], member: u32) -> u32 {
        self.group = Some(group.to_vec());
        self.ask_for(filter, group, member)
    }

    fn ask_for(&mut self, filter: &[u8], group: &[u8], member: u32) -> u32 {
        self.next_request += 1;
        let subscription = Subscription {
            member,
            group,
            filter,
        };
        let out = &mut self.outgoing;
        native::write_subscription(out, kind::SUBSCRIBE, self.next_request, &subscription);
        self.next_request
    }

    pub(crate) fn publish(&mut self, topic: &[u8], payload: &[u8], reply: Option<&[u8]>) {
        let parts = Parts {
            topic,
            reply,
            headers: &[],
            payload,
            is_end: false,
        };
        let mut message = Vec::new();
        // invariant: the simulator's names are legal.
        parts.write(&mut message).expect("a message");
        native::write_message(&mut self.outgoing, &message);
    }

    /// Publishes with a wish to hear if nobody listens.
    pub(crate) fn request(&mut self, topic: &[u8], payload: &[u8], reply: &[u8]) -> u32 {
        let parts = Parts {
            topic,
            reply: Some(reply),
            headers: &[],
            payload,
            is_end: false,
        };
        let mut message = Vec::new();
        // invariant: the simulator's names are legal.
        parts.write(&mut message).expect("a message");
        self.next_request += 1;
        native::write_publish(
            &mut self.outgoing,
            self.next_request,
            When::Unheard,
            &message,
        );
        self.next_request
    }

    /// Takes what came; whole frames of it, in order.
    pub(crate) fn take_in(&mut self, bytes: &[u8]) -> Vec<Came> {
        self.input.extend_from_slice(bytes);
        let mut came = Vec::new();
        let mut at = 0;
        // Ends because each round steps over a frame.
        while let Ok(Parsed::Frame { frame, length }) = native::parse_from_broker(&self.input[at..])
        {
            assert!(length <= NATIVE_FRAME_BYTES_MAX);
            at += length;
            match frame {
                BrokerFrame::Message(message) => came.extend(event_of(&message, None)),
                BrokerFrame::Turn { member, message } => {
                    came.extend(event_of(&message, Some(member)));
                }
                BrokerFrame::Ack { request, count } => came.push(Came::Ack(request, count)),
                BrokerFrame::Gap { .. } => came.push(Came::Gap),
                _ => {}
            }
        }
        self.input.drain(..at);
        came
    }
}

fn event_of(message: &native::Message<'_>, member: Option<u32>) -> Option<Came> {
    Some(Came::Event {
        topic: message.topic.to_vec(),
        word: Word::of(message.payload)?,
        reply: message.reply().map(<[u8]>::to_vec),
        member,
    })
}
