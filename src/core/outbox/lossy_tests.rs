//! Random histories of one connection that loses events: what is read in the end must be whole
//! frames, every reply, and gaps that add up.

use super::super::{BodyGauge, Outboxes};
use super::*;
use crate::command::Volume;
use crate::limits::Limits;
use proptest::prelude::*;
use sapwood_wire::native::{self, BrokerFrame, Parsed, Parts};
use std::collections::HashMap;

const CONN: ConnId = ConnId(3);

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    /// This many events of this topic at once, each with this many bytes beside its number.
    Run(u8, usize, usize),
    /// One event with a shared payload.
    Shared(u8, usize),
    Reply,
    /// This share of the waiting bytes is sent, in 256ths.
    Sent(usize),
    Hold,
    Release,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..4, 1usize..6, 0usize..300).prop_map(|(topic, events, more)| Step::Run(topic, events, more)),
        2 => (0u8..4, 0usize..3000).prop_map(|(topic, more)| Step::Shared(topic, more)),
        2 => Just(Step::Reply),
        3 => (0usize..=256).prop_map(Step::Sent),
        1 => Just(Step::Hold),
        1 => Just(Step::Release),
    ]
}

/// A connection, what it was offered, and what it has read.
struct History {
    outboxes: Outboxes,
    offered: u64,
    replies: u32,
    stream: Vec<u8>,
    newest: HashMap<u8, u64>,
}

impl History {
    fn new(policy: Policy, cap: usize) -> History {
        let limits = Limits {
            outbox_bytes_max: cap,
            ..Limits::default()
        };
        let mut outboxes = Outboxes::new(&limits, BodyGauge::default(), 1);
        outboxes.open(CONN, Form::Native, policy);
        History {
            outboxes,
            offered: 0,
            replies: 0,
            stream: Vec::new(),
            newest: HashMap::new(),
        }
    }

    fn message(&mut self, topic: u8, more: usize) -> Vec<u8> {
        self.offered += 1;
        self.newest.insert(topic, self.offered);
        let mut payload = self.offered.to_le_bytes().to_vec();
        payload.resize(8 + more, topic);
        let parts = Parts {
            topic: &[topic],
            payload: &payload,
            ..Parts::default()
        };
        let mut message = Vec::new();
        parts.write(&mut message).unwrap();
        message
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Run(topic, events, more) => {
                let (mut frames, mut last_at) = (Vec::new(), 0);
                for _ in 0..events {
                    last_at = frames.len();
                    let message = self.message(topic, more);
                    native::write_message(&mut frames, &message);
                }
                let offer = Offer {
                    volume: Volume {
                        events: events as u64,
                        bytes: 0,
                    },
                    last_at,
                    key: &[topic],
                };
                self.outboxes.offer(CONN, &frames, offer);
            }
            Step::Shared(topic, more) => {
                let mut frame = Vec::new();
                let message = self.message(topic, more);
                native::write_message(&mut frame, &message);
                let body_at = frame.len() - more;
                let body = self.outboxes.gauge().share(&frame[body_at..]);
                let head = &frame[..body_at];
                let one = Volume {
                    events: 1,
                    bytes: more as u64,
                };
                let key = [topic];
                let offer = Offer::one(one, &key);
                self.outboxes.offer_shared(CONN, head, &body, b"", offer);
            }
            Step::Reply => {
                self.replies += 1;
                let request = self.replies;
                self.outboxes
                    .reply(CONN, |out| native::write_ack(out, request, 0));
            }
            Step::Sent(share) => {
                let waiting: usize = self.outboxes.slices(CONN).map(<[u8]>::len).sum();
                self.send(waiting * share / 256, share < 256);
            }
            Step::Hold => self.outboxes.hold(CONN),
            Step::Release => self.outboxes.release(CONN),
        }
        self.check_books();
    }

    fn send(&mut self, count: usize, blocked: bool) {
        let before = self.stream.len();
        for piece in self.outboxes.slices(CONN) {
            let left = count - (self.stream.len() - before);
            self.stream
                .extend_from_slice(&piece[..left.min(piece.len())]);
        }
        let taken = self.stream.len() - before;
        self.outboxes.sent(CONN, taken, blocked);
    }

    /// Checks that the counted bytes are those that are held.
    fn check_books(&self) {
        let outbox = self.outboxes.outbox(CONN);
        let lossy = outbox.lossy.as_ref().unwrap();
        let units: usize = lossy.units.iter().map(|unit| unit.bytes).sum();
        assert_eq!(units - lossy.front_sent, outbox.length, "units and stream");
        let stream = outbox.segments.iter().map(|piece| piece.as_slice().len());
        let stream = stream.sum::<usize>() + outbox.tail.len() - outbox.head;
        assert_eq!(stream, outbox.length, "pieces and stream");
        let owned = outbox.segments.iter().map(|piece| match piece {
            Segment::Owned(bytes) => bytes.len(),
            Segment::Shared(_) => 0,
        });
        let owned = owned.sum::<usize>() + outbox.tail.len() + lossy.latest_owned;
        assert_eq!(self.outboxes.bytes(), owned, "bytes of the shard");
        let latest = lossy.latest.iter();
        let aside = latest.map(|(key, latest)| latest.owned(key) + latest.shared());
        assert_eq!(lossy.latest_bytes(), aside.sum::<usize>(), "bytes aside");
    }

    /// Reads everything that is left, and gives the frames; the outbox must be empty then.
    fn finish(mut self) -> (Vec<Read>, History) {
        self.outboxes.release(CONN);
        // Conflated events come when the rest is sent.
        while self.outboxes.has_output(CONN) {
            self.send(usize::MAX, false);
        }
        self.check_books();
        assert_eq!(self.outboxes.bytes(), 0);
        assert_eq!(self.outboxes.gauge().bytes(), 0);
        let (mut at, mut frames) = (0, Vec::new());
        while at < self.stream.len() {
            let Ok(Parsed::Frame { frame, length }) = native::parse_from_broker(&self.stream[at..])
            else {
                panic!("no whole frame at {at}");
            };
            at += length;
            frames.push(match frame {
                BrokerFrame::Message(message) => {
                    let number = message.payload[..8].try_into().unwrap();
                    assert!(
                        message.payload[8..]
                            .iter()
                            .all(|&byte| byte == message.topic[0])
                    );
                    Read::Event(message.topic[0], u64::from_le_bytes(number))
                }
                BrokerFrame::Ack { request, .. } => Read::Reply(request),
                BrokerFrame::Gap { events } => Read::Gap(events),
                other => panic!("{other:?}"),
            });
        }
        (frames, self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Event(u8, u64),
    Reply(u32),
    Gap(u64),
}

/// Checks what holds for both policies: all replies in order, and gaps that add up.
fn check_common(frames: &[Read], history: &History) {
    let replies = frames.iter().filter_map(|frame| match frame {
        Read::Reply(number) => Some(*number),
        _ => None,
    });
    assert!(replies.eq(1..=history.replies), "every reply, in order");
    let read = frames
        .iter()
        .filter(|frame| matches!(frame, Read::Event(..)));
    let lost = frames.iter().map(|frame| match frame {
        Read::Gap(events) => *events,
        _ => 0,
    });
    let lost: u64 = lost.sum();
    assert_eq!(read.count() as u64 + lost, history.offered);
    assert_eq!(history.outboxes.outbox(CONN).lost(), lost);
    let counters = &history.outboxes.counters;
    assert_eq!(counters.lost_drop_oldest + counters.lost_latest, lost);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn drop_oldest_says_every_loss_where_it_was(
        steps in prop::collection::vec(any_step(), 1..120),
        cap in 600usize..20_000,
    ) {
        let mut history = History::new(Policy::DropOldest, cap);
        for step in &steps {
            history.apply(step);
        }
        let (frames, history) = history.finish();
        check_common(&frames, &history);
        let mut next = 1;
        for frame in &frames {
            match *frame {
                Read::Event(_, number) => {
                    prop_assert_eq!(number, next);
                    next += 1;
                }
                Read::Gap(events) => next += events,
                Read::Reply(_) => {}
            }
        }
    }

    #[test]
    fn latest_keeps_the_newest_of_each_topic(
        steps in prop::collection::vec(any_step(), 1..120),
        cap in 20_000usize..60_000,
    ) {
        let mut history = History::new(Policy::Latest, cap);
        for step in &steps {
            history.apply(step);
        }
        let (frames, history) = history.finish();
        check_common(&frames, &history);
        let mut last: HashMap<u8, u64> = HashMap::new();
        for frame in &frames {
            if let Read::Event(topic, number) = *frame {
                let before = last.insert(topic, number);
                prop_assert!(before < Some(number), "{:?} before {}", before, number);
            }
        }
        // Half the cap holds an event of each of the four topics, so none was dropped.
        prop_assert_eq!(&last, &history.newest);
    }

    #[test]
    fn latest_adds_up_when_even_the_newest_find_no_room(
        steps in prop::collection::vec(any_step(), 1..120),
        cap in 200usize..3_000,
    ) {
        let mut history = History::new(Policy::Latest, cap);
        for step in &steps {
            history.apply(step);
        }
        let (frames, history) = history.finish();
        check_common(&frames, &history);
    }
}
