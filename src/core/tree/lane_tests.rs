//! A lane's promises: pushed frames arrive once and in order, whatever breaks, unless a frame says how many events were
//! lost.

use super::*;
use crate::command::ConnId;
use proptest::prelude::*;
use sapwood_wire::node::events::{Event, Events, EventsHead, Route, Space, write_events};
use sapwood_wire::node::{Frame, NodeId, kind};

/// A frame of one event with this number.
fn frame(number: u64, padding: usize) -> Vec<u8> {
    let head = EventsHead {
        origin: NodeId(1),
        incarnation: 1,
        lane: 0,
        first: number,
        topic: b"t",
        space: Space::Topic,
        route: Route {
            plain: true,
            ..Route::default()
        },
    };
    let payload = vec![b'.'; padding];
    let event = Event {
        flags: 0,
        attributes: &[],
        payload: &payload,
    };
    let mut out = Vec::new();
    write_events(&mut out, VERSIONS.1, &head, std::iter::once(event));
    out
}

/// The other side of a lane: the event numbers received, and how many were reported lost.
#[derive(Debug, Default)]
struct Other {
    /// Received bytes of an incomplete frame.
    input: Vec<u8>,
    received: u64,
    events: Vec<u64>,
    lost: u64,
    needs: Vec<Needs>,
}

impl Other {
    /// Receives bytes, and handles whole frames.
    fn take(&mut self, bytes: &[u8]) {
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut at = 0;
        while let Ok(Parsed::Frame(frame, length)) =
            node::parse(&input[at..], VERSIONS.1, NODE_FRAME_BYTES_MAX)
        {
            self.deal_with(&frame);
            at += length;
        }
        input.drain(..at);
        self.input = input;
    }

    fn deal_with(&mut self, frame: &Frame<'_>) {
        self.received += 1;
        match frame.kind {
            kind::EVENTS => self.events.push(Events::read(frame).unwrap().head().first),
            kind::LOST => self.lost += Lost::read(frame).unwrap().events,
            kind::NEEDS => self.needs.push(Needs::read(frame).unwrap()),
            other => panic!("a frame of kind {other:#x}"),
        }
    }
}

fn given(lane: &mut Lane, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    lane.give(most, |piece| bytes.extend_from_slice(piece));
    bytes
}

#[test]
fn a_lane_knows_how_many_events_it_keeps() {
    let mut lane = Lane::new(0, 1 << 20);
    for number in 1..=7 {
        lane.push(&frame(number, 10), 1, Needs::default());
    }
    assert_eq!(lane.unacknowledged(), 7);
    lane.give(usize::MAX, |_| {});
    for number in 8..=10 {
        lane.push(&frame(number, 10), 1, Needs::default());
    }
    assert_eq!(lane.unacknowledged(), 10);
    assert!(lane.acknowledged(7));
    assert_eq!(lane.unacknowledged(), 3);
}

#[test]
fn a_lane_goes_on_when_its_old_connection_brought_more_than_its_new_one_was_told() {
    let mut lane = Lane::new(0, 1 << 20);
    assert!(lane.resume(ConnId(1), 0));
    let mut old = Vec::new();
    for number in 1..=6 {
        lane.push(&frame(number, 10), 1, Needs::default());
        // Each is a piece.
        old.extend(given(&mut lane, usize::MAX));
    }
    let mut other = Other::default();
    let half = old.len() / 2;
    other.take(&old[..half]);
    let told = other.received;
    // It says what it has, and only then comes to the rest of the old connection.
    assert!(lane.resume(ConnId(2), told));
    other.take(&old[half..]);
    assert_eq!(other.received, 6);
    let first = given(&mut lane, 1);
    let frames = first.len() / frame(1, 10).len();
    assert!(frames < 3, "one piece at a time");
    assert!(lane.acknowledged(other.received), "it has all of them");
    // What it skips must still come.
    let again = [first, given(&mut lane, usize::MAX)].concat();
    assert_eq!(again, old[half..]);
    // The next connection begins behind all that it has, given on this one or not.
    assert!(lane.resume(ConnId(3), told + 1));
    assert_eq!(given(&mut lane, 1), frame(told + 2, 10));
    assert!(lane.resume(ConnId(4), 6));
    assert!(lane.is_acknowledged() && !lane.has_more());
    assert!(!lane.resume(ConnId(5), 7), "never queued");
}

#[test]
fn a_full_lane_drops_whole_frames_and_says_so_where_they_stood() {
    let mut lane = Lane::new(0, 1_000);
    assert!(lane.resume(ConnId(1), 0));
    let needs = Needs::default();
    let pushed: Vec<Pushed> = (1..=20)
        .map(|number| lane.push(&frame(number, 100), 1, needs))
        .collect();
    let kept = pushed
        .iter()
        .filter(|&&pushed| pushed == Pushed::Kept)
        .count();
    assert!((1..20).contains(&kept), "{kept}");
    let mut other = Other::default();
    other.take(&given(&mut lane, usize::MAX));
    assert_eq!((other.events.len(), other.lost), (kept, 0));
    // Once there is room, a LOST frame comes before the next event.
    assert!(lane.acknowledged(other.received));
    assert_eq!(lane.len(), 0);
    lane.push(&frame(21, 100), 1, needs);
    other.take(&given(&mut lane, usize::MAX));
    assert_eq!(
        (other.events.last(), other.lost),
        (Some(&21), 20 - kept as u64)
    );
    assert_eq!(lane.take_lost_unsaid(), 20 - kept as u64);
}

#[test]
fn one_frame_larger_than_the_cap_goes_through_an_empty_lane() {
    let mut lane = Lane::new(0, 1_000);
    assert_eq!(
        lane.push(&frame(1, 5_000), 1, Needs::default()),
        Pushed::Kept
    );
    assert_eq!(
        lane.push(&frame(2, 0), 1, Needs::default()),
        Pushed::Dropped
    );
}

#[test]
fn interest_goes_in_beyond_the_cap_and_then_the_lane_is_given_up() {
    let mut lane = Lane::new(0, 1_000);
    let piece = vec![0; LANE_INTEREST_BYTES_MAX / 2];
    let mut push = || lane.push_interest(|out| out.extend_from_slice(&piece));
    assert!(push() && push());
    assert!(!push());
}

#[test]
fn what_must_be_known_is_said_once_before_the_events_that_need_it() {
    let mut lane = Lane::new(0, 1 << 20);
    let needs = |sequence, known| Needs { sequence, known };
    for (number, needs) in [
        (1, needs(0, 0)),
        (2, needs(1, 0)),
        (3, needs(1, 0)),
        (4, needs(1, 2)),
    ] {
        lane.push(&frame(number, 0), 1, needs);
    }
    let mut other = Other::default();
    other.take(&given(&mut lane, usize::MAX));
    assert_eq!(other.needs, [needs(1, 0), needs(1, 2)]);
    assert_eq!(other.events, [1, 2, 3, 4]);
    assert_eq!(other.received, 6);
}

#[test]
fn what_cannot_have_been_received_is_no_place_to_resume() {
    let mut lane = Lane::new(0, 1 << 20);
    lane.push(&frame(1, 0), 1, Needs::default());
    given(&mut lane, usize::MAX);
    assert!(!lane.acknowledged(2), "only one was sent");
    assert!(lane.acknowledged(1));
    assert!(!lane.resume(ConnId(1), 0), "the first is gone");
    assert!(!lane.resume(ConnId(1), 2));
    assert!(lane.resume(ConnId(1), 1));
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Share(usize),
    /// Gives so many bytes to the connection, and delivers them.
    Give(usize),
    Acknowledge,
    /// The connection breaks; so many bytes of those given last have not arrived.
    Break(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..300).prop_map(Step::Push),
        1 => (0usize..300).prop_map(Step::Share),
        3 => (1usize..2_000).prop_map(Step::Give),
        1 => Just(Step::Acknowledge),
        1 => (0usize..1_000).prop_map(Step::Break),
    ]
}

proptest! {
    #[test]
    fn everything_comes_once_and_in_order_wherever_connections_break(
        steps in prop::collection::vec(any_step(), 1..80),
    ) {
        let mut lane = Lane::new(0, 1 << 20);
        let mut other = Other::default();
        let mut pushed = 0;
        prop_assert!(lane.resume(ConnId(0), 0));
        for step in steps {
            match step {
                Step::Push(padding) => {
                    pushed += 1;
                    let needs = Needs { sequence: pushed / 5, known: 0 };
                    prop_assert_eq!(lane.push(&frame(pushed, padding), 1, needs), Pushed::Kept);
                }
                Step::Share(padding) => {
                    pushed += 1;
                    let bytes = Bytes::from(frame(pushed, padding));
                    let pushed = lane.push_shared(&bytes, 1, Needs::default());
                    prop_assert_eq!(pushed, Pushed::Kept);
                }
                Step::Give(most) => other.take(&given(&mut lane, most)),
                Step::Acknowledge => prop_assert!(lane.acknowledged(other.received)),
                Step::Break(missing) => {
                    let bytes = given(&mut lane, usize::MAX);
                    other.take(&bytes[..bytes.len().saturating_sub(missing)]);
                    // An incomplete frame is lost with the connection.
                    other.input.clear();
                    prop_assert!(lane.resume(ConnId(0), other.received));
                }
            }
        }
        while lane.has_more() {
            other.take(&given(&mut lane, 500));
        }
        prop_assert!(other.input.is_empty());
        prop_assert_eq!(other.events, (1..=pushed).collect::<Vec<_>>());
        prop_assert!(lane.acknowledged(other.received));
        prop_assert_eq!(lane.len(), 0);
    }
}

#[test]
fn buffers_that_the_other_side_has_are_used_again_but_for_those_that_somebody_holds() {
    let mut lane = Lane::new(0, 1 << 20);
    let mut held = Vec::new();
    for number in 1..=40u64 {
        lane.push(&frame(number, 1_000), 1, Needs::default());
        lane.give(usize::MAX, |bytes| held.push(bytes.clone()));
        if number % 4 != 0 {
            held.pop();
        }
    }
    assert!(lane.acknowledged(40));
    assert_eq!((lane.len(), lane.spare.len()), (0, LANE_SPARES_MAX));
    // Buffers that are still held must not change.
    for number in 41..=60u64 {
        lane.push(&frame(number, 1_000), 1, Needs::default());
        lane.give(usize::MAX, |_| {});
    }
    assert_eq!(lane.spare.len(), 0);
    for (place, bytes) in held.iter().enumerate() {
        assert_eq!(bytes[..], frame(4 * (place as u64 + 1), 1_000), "{place}");
    }
    let large = frame(61, LANE_SPARE_BYTES_MAX);
    lane.push(&large, 1, Needs::default());
    lane.give(usize::MAX, |_| {});
    assert!(lane.acknowledged(61));
    let sizes = lane.spare.iter().map(Vec::capacity);
    assert!(sizes.max().unwrap_or(0) <= LANE_SPARE_BYTES_MAX);
}
