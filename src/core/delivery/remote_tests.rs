//! Frames received from another node for a shard whose mailbox is full.

use super::*;
use crate::command::{ConnId, Filter, FilterKind, Form, Member, ShardId};
use crate::delivery::Published;
use crate::limits::Limits;
use crate::mailbox::Mailboxes;
use crate::outbox::{BodyGauge, Outboxes};
use crate::routing::broker::Broker;
use crate::routing::interest::Change;
use crate::tree::links::{Links, Peer};
use sapwood_wire::limits::NODE_FRAME_BYTES_MAX;
use sapwood_wire::native::Policy;
use sapwood_wire::node::{self, NodeId, Parsed};

const LINK: LinkId = LinkId(0);
const SUBSCRIBER: ConnId = ConnId(0);
const SLOW: ShardId = ShardId(1);

/// Shard 0 of a node, with a link to another node.
struct OneShard {
    delivery: Delivery,
    broker: Broker,
    outboxes: Outboxes,
    mailboxes: Mailboxes,
    links: Links,
}

impl OneShard {
    fn new(node: u64, shards: u16, limits: &Limits) -> OneShard {
        let gauge = BodyGauge::default();
        let me = (NodeId(node), 1);
        let mut links = Links::new((0, shards), me, limits, gauge.clone(), 1);
        let peer = Peer {
            node: NodeId(3 - node),
            incarnation: 1,
            shards: 1,
            name: String::new(),
            address: None,
        };
        links.open(LINK, 1, peer, None);
        links.get_mut(LINK).expect("it was opened").is_adopted = true;
        OneShard {
            delivery: Delivery::new(1, 1),
            broker: Broker::new(ShardId(0), 1, limits),
            outboxes: Outboxes::new(limits, gauge, 1),
            mailboxes: Mailboxes::new(ShardId(0), (shards, 0), limits),
            links,
        }
    }

    fn egress(&mut self) -> (&mut Delivery, Egress<'_>) {
        let egress = Egress {
            broker: &mut self.broker,
            outboxes: &mut self.outboxes,
            mailboxes: &mut self.mailboxes,
            links: &mut self.links,
        };
        (&mut self.delivery, egress)
    }

    /// Takes the frames of events queued for the other node.
    fn frames(&mut self) -> Vec<Vec<u8>> {
        let lane = self.links.lane_mut(LINK, 0).expect("one lane");
        let mut bytes = Vec::new();
        lane.give(usize::MAX, |piece| bytes.extend_from_slice(piece));
        let mut frames = Vec::new();
        let mut rest = &bytes[..];
        while let Ok(Parsed::Frame(frame, length)) =
            node::parse(rest, node::VERSIONS.1, NODE_FRAME_BYTES_MAX)
        {
            if Events::read(&frame).is_ok() {
                frames.push(rest[..length].to_vec());
            }
            rest = &rest[length..];
        }
        frames
    }

    fn receive(&mut self, whole: &[u8]) -> Received {
        let parsed = node::parse(whole, node::VERSIONS.1, NODE_FRAME_BYTES_MAX);
        let Ok(Parsed::Frame(frame, _)) = parsed else {
            panic!("no frame");
        };
        let events = Events::read(&frame).expect("events");
        let (delivery, mut egress) = self.egress();
        let arrival = Arrival {
            link: LINK,
            frame: whole,
            events: &events,
        };
        let received = delivery.receive_events(&mut egress, arrival);
        delivery.settle(egress.broker, egress.outboxes);
        received
    }

    fn is_wanted_on_the_slow_shard(&mut self, name: &[u8], group: &[u8]) {
        let change = Change {
            kind: FilterKind::Topic,
            name: name.into(),
            group: group.into(),
            listeners: 1,
        };
        self.broker.apply_changes(SLOW, &[change]);
    }
}

/// Events that a full mailbox cannot take are dropped for that shard alone: the lane goes on, and local publishers have
/// room of their own.
#[test]
fn a_shard_that_is_behind_holds_no_lane() {
    let limits = Limits {
        handover_window_bytes: 1_000,
        handover_backlog_bytes: 3_000,
        handover_links_bytes: 5_000,
        ..Limits::default()
    };
    let mut far = OneShard::new(1, 1, &limits);
    let mut here = OneShard::new(2, 2, &limits);
    let payload = [b'x'; 100];
    for topic in [&b"plain"[..], b"turn"] {
        for _ in 0..200 {
            let event = Event::plain(Space::Topic, topic, &payload);
            let (_, egress) = far.egress();
            egress
                .links
                .publish(std::iter::once(LINK), to_all(), &event);
        }
    }
    let filter = Filter::plain(FilterKind::Topic, b"plain");
    here.outboxes.open(SUBSCRIBER, Form::Native, Policy::Close);
    let member = Member {
        conn: SUBSCRIBER,
        number: 1,
    };
    assert_eq!(
        here.broker.subscribe(member, Form::Native, filter),
        Ok(true)
    );
    here.is_wanted_on_the_slow_shard(b"plain", b"");
    here.is_wanted_on_the_slow_shard(b"turn", b"");
    let frames = far.frames();
    assert!(frames.len() > 2, "{} frames", frames.len());
    for frame in &frames {
        while here.receive(frame) == Received::Part {}
    }
    assert_eq!(here.links.counters.events_in, 400);
    assert_eq!(here.outboxes.outbox(SUBSCRIBER).events_out(), 200);
    let (handed, lost) = (here.mailboxes.events, here.mailboxes.lost);
    assert_eq!(handed + lost, 400);
    // Each event takes its payload, and at most as much again plus a little.
    assert!(
        (5_000 / 300..=5_000 / 100).contains(&handed),
        "{handed} were kept"
    );
    // Local publishes have their own room, with its own cap.
    let publish = |here: &mut OneShard| {
        let event = Event::plain(Space::Topic, b"plain", &payload);
        let (delivery, mut egress) = here.egress();
        delivery.publish(&mut egress, None, event)
    };
    for published in 0..1_000 {
        if publish(&mut here) == Published::NoRoom(SLOW) {
            assert!(published >= 3_000 / 200, "{published} were taken");
            break;
        }
        assert!(published < 100, "publishers never wait");
    }
    // After the shard has handled a batch, there is room again.
    let batch = here.mailboxes.take(SLOW).expect("a batch");
    here.mailboxes.returned(SLOW, batch);
    assert!(matches!(publish(&mut here), Published::To(_)));
    assert_eq!(here.mailboxes.lost, lost);
}

/// Events that a state worker has no room for go to their subscribers, are counted, and their publishers hear of it.
#[test]
fn a_worker_that_is_behind_holds_no_lane() {
    let limits = Limits {
        handover_links_bytes: 5_000,
        ..Limits::default()
    };
    let worker = ShardId(1);
    let mut far = OneShard::new(1, 1, &limits);
    let mut here = OneShard::new(2, 1, &limits);
    here.mailboxes = Mailboxes::new(ShardId(0), (1, 1), &limits);
    let change = Change {
        kind: FilterKind::Topic,
        name: b"kept".as_slice().into(),
        group: Box::default(),
        listeners: 1,
    };
    here.broker.apply_keeping(worker, &[change]);
    here.outboxes.open(SUBSCRIBER, Form::Native, Policy::Close);
    let member = Member {
        conn: SUBSCRIBER,
        number: 1,
    };
    let filter = Filter::plain(FilterKind::Topic, b"kept");
    assert_eq!(
        here.broker.subscribe(member, Form::Native, filter),
        Ok(true)
    );
    let parts = sapwood_wire::native::Parts {
        reply: Some(b"acks.1"),
        ..Default::default()
    };
    let mut attributes = Vec::new();
    let flags = parts.write_attributes(&mut attributes).expect("attributes");
    // Single events, and such as make runs.
    for flags in [flags, 0] {
        for _ in 0..100 {
            let event = Event {
                flags,
                attributes: if flags == 0 { &[] } else { &attributes },
                ..Event::plain(Space::Topic, b"kept", &[b'x'; 100])
            };
            let (_, egress) = far.egress();
            let link = std::iter::once(LINK);
            egress.links.publish(link, to_all(), &event);
        }
    }
    for frame in &far.frames() {
        while here.receive(frame) == Received::Part {}
    }
    assert_eq!(here.outboxes.outbox(SUBSCRIBER).events_out(), 200);
    let (handed, not_stored) = (here.mailboxes.events, here.mailboxes.not_stored);
    assert_eq!((handed + not_stored, here.mailboxes.lost), (200, 0));
    assert!(
        (5_000 / 300..=5_000 / 100).contains(&handed),
        "{handed} were handed over"
    );
    let told = here.delivery.questions.take(0);
    assert_eq!(told.len() as u64, 100 - handed, "who gave a reply topic");
    assert!(told.iter().all(|question| *question.reply == *b"acks.1"));
    // Once the worker has taken in what it was given, it gets more.
    let batch = here.mailboxes.take(worker).expect("a batch");
    here.mailboxes.returned(worker, batch);
    let (delivery, mut egress) = here.egress();
    let event = Event::plain(Space::Topic, b"kept", b"");
    let published = delivery.publish(&mut egress, None, event);
    assert_eq!(published, Published::To(1), "the stream is not counted");
    assert_eq!(here.mailboxes.events, handed + 1);
}
