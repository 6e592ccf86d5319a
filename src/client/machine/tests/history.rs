//! Random histories: bytes split anywhere, connections that break anywhere, time that passes. proptest prints the
//! failing history, and keeps its seed.

use super::rig::{Peer, Rig, config};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Publish,
    Confirm,
    Request,
    Subscribe { group: bool, lossy: bool },
    Unsubscribe(usize),
    Take(usize),
    Act,
    Write(usize),
    Read(usize),
    Cut,
    Draining,
    Due,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Publish),
        6 => Just(Step::Confirm),
        2 => Just(Step::Request),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(group, lossy)| Step::Subscribe { group, lossy }),
        1 => any::<usize>().prop_map(Step::Unsubscribe),
        2 => any::<usize>().prop_map(Step::Take),
        4 => Just(Step::Act),
        8 => prop_oneof![1..40usize, Just(usize::MAX)].prop_map(Step::Write),
        8 => prop_oneof![1..40usize, Just(usize::MAX)].prop_map(Step::Read),
        1 => Just(Step::Cut),
        1 => Just(Step::Draining),
        2 => Just(Step::Due),
        1 => (0..5_000u64).prop_map(Step::Pass),
    ]
}

/// A rig, and the values that are compared in the end.
struct History {
    rig: Rig,
    next: u32,
    published: Vec<u32>,
    confirmed: Vec<(u64, u32)>,
    called: Vec<(CallId, u32)>,
    subscriptions: Vec<(SubscriptionId, Vec<String>)>,
}

impl History {
    fn new() -> History {
        let config = Config {
            window_bytes: 400,
            window_requests: 12,
            queue_bytes: 100,
            queues_bytes_max: 400,
            ..config()
        };
        History {
            rig: Rig::new(config),
            next: 0,
            published: Vec::new(),
            confirmed: Vec::new(),
            called: Vec::new(),
            subscriptions: Vec::new(),
        }
    }

    /// The next number as a payload: numbers in the window ascend.
    fn number(&mut self) -> String {
        self.next += 1;
        self.next.to_string()
    }

    fn take(&mut self, at: usize) {
        if let Some(count) = self.subscriptions.len().checked_sub(1) {
            let at = at % (count + 1);
            let told = self.rig.told(self.subscriptions[at].0);
            self.subscriptions[at].1.extend(told);
        }
    }

    fn subscribe(&mut self, group: bool, lossy: bool) {
        let group = if group { "group" } else { "" };
        let overflow = if lossy {
            Overflow::DropOldest
        } else {
            Overflow::Wait
        };
        let token = self.rig.token();
        let filter = Filter {
            filter: b"*",
            group: group.as_bytes(),
            queue_bytes: None,
            overflow,
        };
        let now = self.rig.now;
        match self.rig.machine.subscribe(now, token, &filter) {
            Ok(id) => self.subscriptions.push((id, Vec::new())),
            Err(error) => assert_eq!(error, SubscribeError::Full),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish => {
                let number = self.number();
                match self.rig.publish(&number) {
                    Ok(()) => self.published.push(self.next),
                    Err(error) => assert_eq!(error, PublishError::Full),
                }
            }
            Step::Confirm => {
                let number = self.number();
                match self.rig.publish_confirmed(&number) {
                    Ok(token) => self.confirmed.push((token, self.next)),
                    Err(error) => assert_eq!(error, PublishError::Full),
                }
            }
            Step::Request => {
                let number = self.number();
                match self.rig.request(&number) {
                    Ok(call) => self.called.push((call, self.next)),
                    Err(error) => assert_eq!(error, RequestError::Full),
                }
            }
            Step::Subscribe { group, lossy } => self.subscribe(group, lossy),
            Step::Unsubscribe(at) => {
                if let Some(count) = self.subscriptions.len().checked_sub(1) {
                    let (id, _) = self.subscriptions.swap_remove(at % (count + 1));
                    self.rig.machine.unsubscribe(id);
                }
            }
            Step::Take(at) => self.take(at),
            Step::Act => {
                self.rig.act();
            }
            Step::Write(bytes) => {
                self.rig.write(bytes);
            }
            Step::Read(bytes) => {
                self.rig.read(bytes);
            }
            Step::Cut => self.rig.cut(Disconnect::ClosedByBroker),
            Step::Draining => {
                if self.rig.machine.is_connected() {
                    native::write_draining(&mut self.rig.peer.output, 1_000);
                }
            }
            Step::Due => {
                self.rig.now = self.rig.machine.next_deadline().unwrap_or(self.rig.now);
                self.rig.act();
            }
            Step::Pass(milliseconds) => {
                self.rig.pass(Duration::from_millis(milliseconds));
            }
        }
        self.rig.listen();
        let gauge = self.rig.machine.gauge;
        // The last run was queued before the cap was checked, and each queue may keep its newest event.
        assert!(
            gauge.bytes <= 400 + self.subscriptions.len() * 100 + 40,
            "{gauge:?}"
        );
    }

    /// Lets everything finish, and compares.
    fn check(&mut self) {
        for _ in 0..3 {
            self.rig.settle();
            // A broker that stops is left after a while.
            self.rig.pass(Duration::from_secs(2));
            self.rig.settle();
            for at in 0..self.subscriptions.len() {
                self.take(at);
            }
        }
        for (call, _) in &self.called {
            self.rig.replies(*call);
            self.rig.machine.forget_call(*call);
        }
        let received: Vec<u32> = self
            .rig
            .peer
            .received
            .iter()
            .map(|it| it.parse().unwrap())
            .collect();
        let in_order = received.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(
            in_order,
            "something came twice or out of order: {received:?}"
        );
        let received: BTreeSet<u32> = received.into_iter().collect();

        for (token, number) in &self.confirmed {
            match self.rig.outcome(*token) {
                Some(Outcome::Acknowledged(_)) => assert!(received.contains(number)),
                Some(Outcome::Unknown(_)) => {}
                other => panic!("{number} ended as {other:?}"),
            }
        }
        let missing = self
            .published
            .iter()
            .filter(|it| !received.contains(it))
            .count() as u64;
        let unconfirmed = self.rig.machine.statistics().unconfirmed_publishes;
        assert!(
            missing <= unconfirmed,
            "{missing} are missing, {unconfirmed} are told"
        );
        assert!(unconfirmed <= self.published.len() as u64);
        self.check_told(&received);
        assert_eq!(self.rig.machine.gauge, Gauge::default());
    }

    /// Checks that a subscription's events are in order, and that nothing is missing without a gap.
    fn check_told(&self, received: &BTreeSet<u32>) {
        for (_, told) in &self.subscriptions {
            let mut last = None;
            for entry in told {
                let Ok(number) = entry.parse::<u32>() else {
                    last = None;
                    continue;
                };
                if let Some(last) = last {
                    assert!(number > last, "{number} after {last}");
                    let missed = received.range(last + 1..number).next();
                    assert_eq!(missed, None, "missing in {told:?}");
                }
                last = Some(number);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn histories_keep_every_promise(steps in proptest::collection::vec(step(), 0..120)) {
        let mut history = History::new();
        for step in &steps {
            history.step(step);
        }
        history.check();
    }
}

/// The input from a broker that has accepted the client, in pieces.
fn stream(pieces: &[u8]) -> Vec<u8> {
    let mut peer = Peer::default();
    for (number, piece) in pieces.iter().enumerate() {
        let payload = number.to_string();
        match piece % 7 {
            0 | 1 => peer.send(b"t", &payload, false),
            2 => peer.send(b"other", &payload, false),
            3 => peer.send(b"nobody.listens", &payload, false),
            4 => native::write_gap(&mut peer.output, number as u64 + 1),
            5 => {
                let mut message = Vec::new();
                crate::Outgoing::new("t", &payload)
                    .parts()
                    .write(&mut message)
                    .unwrap();
                native::write_turn(&mut peer.output, 1, &message);
            }
            _ => native::write_frame(&mut peer.output, 0x99, |out| out.extend([1, 2, 3])),
        }
    }
    peer.output
}

/// What two subscriptions and a member receive if a stream arrives in these parts, and whether the machine is still
/// connected.
fn told_in_parts(stream: &[u8], ends: &[usize]) -> (Vec<Vec<String>>, bool) {
    let mut rig = Rig::open(config());
    let ids = [
        rig.subscribe("t", ""),
        rig.subscribe(">", ""),
        rig.subscribe("t", "group"),
    ];
    rig.settle();
    let mut at = 0;
    for end in ends.iter().copied().chain([stream.len()]) {
        rig.input.extend_from_slice(&stream[at..end]);
        at = end;
        rig.machine.handle_bytes(rig.now, &mut rig.input);
    }
    let told = ids.map(|id| rig.told(id)).to_vec();
    (told, rig.machine.is_connected())
}

proptest! {
    #[test]
    fn every_split_of_a_stream_tells_the_same(
        pieces in proptest::collection::vec(any::<u8>(), 1..12),
        damage in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut stream = stream(&pieces);
        if let Some((at, byte)) = damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let whole = told_in_parts(&stream, &[]);
        let bytes: Vec<_> = (0..stream.len()).collect();
        prop_assert_eq!(&told_in_parts(&stream, &bytes), &whole);
        for end in 0..stream.len() {
            prop_assert_eq!(&told_in_parts(&stream, &[end]), &whole);
        }
    }

    #[test]
    fn any_bytes_are_taken_without_panic_or_growth(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        lengths in proptest::collection::vec(0..40u8, 0..20),
    ) {
        // Half of the streams have right lengths, so that more than the first frame is parsed.
        let mut stream = Vec::new();
        let mut rest = &bytes[..];
        for length in lengths {
            let (frame, behind) = rest.split_at(rest.len().min(usize::from(length)));
            stream.extend_from_slice(&(frame.len() as u32).to_le_bytes());
            stream.extend_from_slice(frame);
            rest = behind;
        }
        stream.extend_from_slice(rest);
        told_in_parts(&stream, &[]);
    }
}

#[test]
fn endless_frame_is_never_longer_than_the_cap() {
    let mut rig = Rig::open(config());
    let length = sapwood_wire::limits::NATIVE_FRAME_BYTES_MAX as u32;
    rig.input.extend_from_slice(&length.to_le_bytes());
    let chunk = vec![kind::MESSAGE; 1 << 20];
    // A topic's length in those bytes leads past the frame's end, so the frame is no message in the end.
    for _ in 0..65 {
        rig.input.extend_from_slice(&chunk);
        rig.machine.handle_bytes(rig.now, &mut rig.input);
    }
    rig.act();
    assert!(!rig.machine.is_connected());
    assert!(rig.input.len() < chunk.len());
}
