//! The machine's promises, one by one.

mod history;
mod rig;
mod streams;

use super::*;
use crate::error::ProtocolError;
use bytes::BytesMut;
use rig::{Rig, config};
use sapwood_wire::error::ErrorCode;
use sapwood_wire::limits::NATIVE_FRAME_BYTES_MAX;
use sapwood_wire::native::flag;
use sapwood_wire::scope::ScopeError;

/// The reasons of all disconnects and failed connects so far.
fn disconnects(rig: &Rig) -> Vec<&Disconnect> {
    let reasons = rig.events.iter().filter_map(|event| match event {
        ConnectionEvent::Disconnected { reason }
        | ConnectionEvent::ConnectFailed { reason, .. } => Some(reason),
        _ => None,
    });
    reasons.collect()
}

fn unconfirmed(rig: &Rig) -> u64 {
    let counts = rig.events.iter().map(|event| match event {
        ConnectionEvent::Unconfirmed { publishes } => *publishes,
        _ => 0,
    });
    counts.sum()
}

#[test]
fn subscriber_hears_what_is_published_after_its_confirmation() {
    let mut rig = Rig::open(config());
    let plain = rig.subscribe("t", "");
    let wild = rig.subscribe(">", "");
    let member = rig.subscribe("t", "group");
    assert_eq!(rig.outcomes.len(), 0);
    rig.settle();
    assert_eq!(rig.outcomes.len(), 3);
    rig.publish("1").unwrap();
    rig.publish("2").unwrap();
    rig.settle();
    for id in [plain, wild, member] {
        assert_eq!(rig.told(id), ["1", "2"]);
    }
    rig.machine.unsubscribe(plain);
    rig.publish("3").unwrap();
    rig.settle();
    assert_eq!(rig.told(plain), ["ended"]);
    assert_eq!(rig.told(wild), ["3"]);
}

#[test]
fn many_publishes_are_one_write() {
    let mut rig = Rig::open(config());
    for number in 0..1_000 {
        rig.publish(&number.to_string()).unwrap();
    }
    assert!(rig.write(usize::MAX));
    assert_eq!(rig.peer.received.len(), 1_000);
}

#[test]
fn addresses_are_tried_in_turn_then_waits_grow_with_jitter() {
    let mut rig = Rig::new(config());
    let mut starts = Vec::new();
    for _ in 0..40 {
        while !rig.act() {
            rig.now = rig.machine.next_deadline().unwrap();
        }
        starts.push(rig.now);
        rig.cut(Disconnect::ClosedByBroker);
    }
    assert!(
        rig.connects
            .iter()
            .enumerate()
            .all(|(at, address)| at % 2 == *address)
    );
    let waits: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // No delay within a round; between rounds, below a ceiling that doubles.
    assert!(waits.iter().step_by(2).all(Duration::is_zero));
    let mut ceiling = crate::limits::BACKOFF_MIN;
    let between: Vec<_> = waits.iter().skip(1).step_by(2).collect();
    for wait in &between {
        assert!(**wait < ceiling, "{waits:?}");
        ceiling = (ceiling * 2).min(crate::limits::BACKOFF_MAX);
    }
    assert!(
        between
            .iter()
            .any(|wait| **wait > crate::limits::BACKOFF_MAX / 4)
    );
}

#[test]
fn waits_begin_anew_only_after_a_connection_that_stood() {
    let mut rig = Rig::open(config());
    for _ in 0..10 {
        rig.cut(Disconnect::ClosedByBroker);
        rig.settle();
    }
    let grown = rig.machine.failed_rounds;
    assert!(grown > 5, "{grown}");
    rig.now += crate::limits::BACKOFF_MAX * 2;
    rig.cut(Disconnect::ClosedByBroker);
    assert_eq!(rig.machine.failed_rounds, 1);
}

#[test]
fn wrong_password_and_unknown_version_are_final() {
    for code in [ErrorCode::Authentication, ErrorCode::Version] {
        let mut rig = Rig::new(config());
        rig.peer.is_mute = true;
        rig.act();
        native::write_error(&mut rig.peer.output, 0, code, "no");
        let token = rig.publish_confirmed("x").unwrap();
        rig.settle();
        let reason = CloseReason::Rejected(Refusal {
            number: code.number(),
            text: "no".to_string(),
        });
        assert_eq!(rig.machine.closed(), Some(&reason));
        assert_eq!(rig.outcome(token), Some(&Outcome::Closed(reason.clone())));
        assert_eq!(rig.publish("y"), Err(PublishError::Closed(reason)));
        assert_eq!(rig.connects.len(), 1);
        assert_eq!(rig.machine.next_deadline(), None);
    }
}

#[test]
fn full_broker_is_tried_again() {
    let mut rig = Rig::new(config());
    rig.peer.is_mute = true;
    rig.act();
    native::write_error(&mut rig.peer.output, 0, ErrorCode::ConnectionsFull, "full");
    rig.read(usize::MAX);
    rig.act();
    rig.peer.is_mute = false;
    rig.settle();
    assert_eq!(rig.connects, [0, 1]);
}

#[test]
fn silent_port_is_given_up_after_the_connect_time_out() {
    let mut rig = Rig::new(config());
    rig.peer.is_mute = true;
    rig.act();
    assert_eq!(
        rig.machine.next_deadline(),
        Some(crate::limits::CONNECT_TIMEOUT)
    );
    rig.pass(crate::limits::CONNECT_TIMEOUT);
    assert_eq!(disconnects(&rig), [&Disconnect::ConnectTimedOut]);
}

#[test]
fn nothing_queued_is_written_before_welcome_and_subscriptions_come_first() {
    let mut rig = Rig::new(config());
    rig.publish("early").unwrap();
    rig.subscribe("t", "");
    rig.act();
    rig.write(usize::MAX);
    assert_eq!(rig.peer.kinds, [kind::HELLO, kind::SUBSCRIBE]);
    assert!(!rig.write(usize::MAX));
    rig.settle();
    assert_eq!(rig.peer.received, ["early"]);
}

#[test]
fn written_requests_are_unknown_and_unwritten_ones_are_sent_once() {
    let mut rig = Rig::open(config());
    let tokens: Vec<_> = (0..10)
        .map(|number| rig.publish_confirmed(&number.to_string()).unwrap())
        .collect();
    // Each frame has 4 + 1 + 4 + 1 + 1 + 2 + 1 + 1 bytes: three whole ones, and one byte of the fourth.
    rig.write(3 * 15 + 1);
    rig.cut(Disconnect::ClosedByBroker);
    let doubt = Outcome::Unknown(Doubt::Disconnected(Disconnect::ClosedByBroker));
    for (number, token) in tokens.iter().enumerate() {
        let expected = (number < 4).then_some(&doubt);
        assert_eq!(rig.outcome(*token), expected, "publish {number}");
    }
    rig.settle();
    assert_eq!(
        rig.peer.received,
        ["0", "1", "2", "4", "5", "6", "7", "8", "9"]
    );
    for token in &tokens[4..] {
        assert_eq!(rig.outcome(*token), Some(&Outcome::Acknowledged(0)));
    }
}

#[test]
fn frame_of_which_nothing_was_written_is_kept_at_its_border() {
    let mut rig = Rig::open(config());
    let tokens: Vec<_> = (0..3)
        .map(|number| rig.publish_confirmed(&number.to_string()).unwrap())
        .collect();
    rig.write(2 * 15);
    rig.cut(Disconnect::ClosedByBroker);
    rig.settle();
    assert!(matches!(rig.outcome(tokens[1]), Some(Outcome::Unknown(_))));
    assert_eq!(rig.outcome(tokens[2]), Some(&Outcome::Acknowledged(0)));
}

#[test]
fn publishes_that_no_answer_proved_are_counted() {
    let mut rig = Rig::open(config());
    for _ in 0..5 {
        rig.publish("x").unwrap();
    }
    let token = rig.publish_confirmed("y").unwrap();
    rig.settle();
    assert_eq!(rig.outcome(token), Some(&Outcome::Acknowledged(0)));
    for _ in 0..3 {
        rig.publish("z").unwrap();
    }
    rig.write(usize::MAX);
    rig.publish("never written").unwrap();
    rig.cut(Disconnect::ClosedByBroker);
    assert_eq!(unconfirmed(&rig), 3);
    assert_eq!(rig.machine.statistics().unconfirmed_publishes, 3);
    rig.settle();
    assert_eq!(rig.peer.received.last().unwrap(), "never written");
}

#[test]
fn what_a_kept_request_proves_is_counted_on_its_new_connection() {
    let mut rig = Rig::open(config());
    for _ in 0..5 {
        rig.publish("lost").unwrap();
    }
    rig.write(usize::MAX);
    rig.publish_confirmed("kept").unwrap();
    rig.cut(Disconnect::ClosedByBroker);
    assert_eq!(unconfirmed(&rig), 5);
    rig.settle();
    for _ in 0..3 {
        rig.publish("lost again").unwrap();
    }
    rig.write(usize::MAX);
    rig.cut(Disconnect::ClosedByBroker);
    assert_eq!(unconfirmed(&rig), 5 + 3);
}

#[test]
fn silent_connection_is_asked_then_given_up() {
    let mut rig = Rig::open(config());
    let pings = |rig: &Rig| {
        rig.peer
            .kinds
            .iter()
            .filter(|it| **it == kind::PING)
            .count()
    };
    rig.pass(crate::limits::PING_INTERVAL);
    rig.settle();
    assert_eq!(pings(&rig), 1);
    assert!(disconnects(&rig).is_empty());
    rig.peer.is_mute = true;
    rig.pass(crate::limits::PING_INTERVAL + crate::limits::PING_TIMEOUT);
    assert_eq!(disconnects(&rig), [&Disconnect::Silent]);
}

#[test]
fn window_in_bytes_says_full_and_then_room() {
    let config = Config {
        window_bytes: 1_000,
        ..config()
    };
    let mut rig = Rig::open(config);
    let payload = "x".repeat(91);
    let mut taken = 0;
    while rig.publish(&payload).is_ok() {
        taken += 1;
    }
    assert_eq!(rig.publish(&payload), Err(PublishError::Full));
    // 100 bytes each.
    assert_eq!(taken, 10);
    assert_eq!(rig.rooms, 0);
    rig.settle();
    assert_eq!(rig.rooms, 1);
    assert_eq!(rig.publish(&payload), Ok(()));
}

#[test]
fn window_in_requests_says_full_and_then_room() {
    let config = Config {
        window_requests: 4,
        ..config()
    };
    let mut rig = Rig::open(config);
    for _ in 0..4 {
        rig.publish_confirmed("x").unwrap();
    }
    assert_eq!(rig.publish_confirmed("x"), Err(PublishError::Full));
    // Requests without an answer do not count.
    assert_eq!(rig.publish("x"), Ok(()));
    rig.settle();
    assert_eq!(rig.rooms, 1);
    rig.publish_confirmed("x").unwrap();
}

#[test]
fn replies_come_in_order_up_to_the_end_mark() {
    let mut rig = Rig::open(config());
    rig.subscribe("svc", "");
    rig.settle();
    let call = rig.request("?").unwrap();
    rig.settle();
    let topic = rig.peer.reply_topics.pop_back().unwrap();
    for number in 0..3 {
        rig.peer.send(&topic, &number.to_string(), number == 2);
    }
    rig.peer.send(&topic, "too late", false);
    rig.settle();
    assert_eq!(rig.replies(call), ["0", "1", "2", "ended"]);
}

#[test]
fn replies_reach_a_subscription_that_matches_them_too() {
    let mut rig = Rig::open(config());
    let all = rig.subscribe(">", "");
    rig.settle();
    let call = rig.request("?").unwrap();
    rig.settle();
    let topic = rig.peer.reply_topics.pop_back().unwrap();
    for number in 0..3 {
        rig.peer.send(&topic, &number.to_string(), number == 2);
    }
    rig.settle();
    assert_eq!(rig.replies(call), ["0", "1", "2", "ended"]);
    assert_eq!(rig.told(all), ["?", "0", "1", "2"]);
}

#[test]
fn unheard_request_fails_by_the_answer_alone() {
    let mut rig = Rig::open(config());
    let call = rig.request("?").unwrap();
    rig.settle();
    assert_eq!(rig.replies(call), ["NoResponders", "ended"]);
}

#[test]
fn request_without_a_reply_times_out_and_each_reply_renews_it() {
    let mut rig = Rig::open(config());
    rig.subscribe("svc", "");
    let call = rig.request("?").unwrap();
    rig.settle();
    let topic = rig.peer.reply_topics.pop_back().unwrap();
    rig.pass(crate::limits::REQUEST_TIMEOUT - Duration::from_secs(1));
    rig.peer.send(&topic, "part", false);
    rig.settle();
    rig.pass(crate::limits::REQUEST_TIMEOUT - Duration::from_secs(1));
    assert_eq!(rig.replies(call), ["part"]);
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.replies(call), ["TimedOut(10s)", "ended"]);
}

#[test]
fn requests_answered_by_replies_alone_do_not_fill_the_window() {
    let config = Config {
        window_requests: 8,
        ..config()
    };
    let mut rig = Rig::open(config);
    rig.subscribe("svc", "");
    rig.settle();
    for number in 0..1_000 {
        let call = rig
            .request("?")
            .unwrap_or_else(|error| panic!("{number}: {error}"));
        rig.settle();
        let topic = rig.peer.reply_topics.pop_back().unwrap();
        rig.peer.send(&topic, "!", true);
        rig.settle();
        assert_eq!(rig.replies(call), ["!", "ended"]);
        rig.machine.forget_call(call);
    }
}

#[test]
fn broken_connection_ends_written_requests_and_keeps_unwritten_ones() {
    let mut rig = Rig::open(config());
    rig.subscribe("svc", "");
    let written = rig.request("1").unwrap();
    rig.settle();
    let unwritten = rig.request("2").unwrap();
    rig.cut(Disconnect::ClosedByBroker);
    assert_eq!(
        rig.replies(written),
        ["Unknown(Disconnected(ClosedByBroker))", "ended"]
    );
    assert_eq!(rig.replies(unwritten), [""; 0]);
    rig.settle();
    let topic = rig.peer.reply_topics.pop_back().unwrap();
    rig.peer.send(&topic, "!", true);
    rig.settle();
    assert_eq!(rig.replies(unwritten), ["!", "ended"]);
}

#[test]
fn reconnect_is_marked_where_events_may_be_missing() {
    let mut rig = Rig::open(config());
    let id = rig.subscribe("t", "");
    rig.settle();
    rig.publish("1").unwrap();
    rig.settle();
    rig.cut(Disconnect::ClosedByBroker);
    rig.publish("2").unwrap();
    rig.settle();
    assert_eq!(rig.told(id), ["1", "reconnected", "2"]);
}

#[test]
fn subscription_that_is_refused_after_a_reconnect_ends_and_says_so() {
    let mut rig = Rig::open(config());
    let id = rig.subscribe("t", "");
    rig.settle();
    rig.peer.refuses = true;
    rig.cut(Disconnect::ClosedByBroker);
    rig.settle();
    assert_eq!(rig.told(id), ["reconnected", "refused 204", "ended"]);
}

#[test]
fn refused_subscription_is_none() {
    let mut rig = Rig::open(config());
    rig.peer.refuses = true;
    let id = rig.subscribe("t", "");
    rig.settle();
    assert!(matches!(rig.outcomes[..], [(_, Outcome::Refused(_))]));
    assert_eq!(rig.told(id), ["ended"]);
    rig.machine.unsubscribe(id);
    rig.settle();
    assert_eq!(rig.peer.kinds, [kind::HELLO, kind::SUBSCRIBE]);
}

#[test]
fn gap_is_told_to_every_subscription_at_its_place() {
    let mut rig = Rig::open(config());
    let ids = [rig.subscribe("t", ""), rig.subscribe("other", "")];
    rig.settle();
    rig.publish("1").unwrap();
    rig.settle();
    native::write_gap(&mut rig.peer.output, 5);
    rig.publish("2").unwrap();
    rig.settle();
    assert_eq!(rig.told(ids[0]), ["1", "gap 5", "2"]);
    assert_eq!(rig.told(ids[1]), ["gap 5"]);
    assert_eq!(rig.machine.statistics().gap_events, 5);
}

#[test]
fn full_queue_stops_reading_and_taking_starts_it_again() {
    let mut rig = Rig::open(config());
    let id = rig.subscribe_with("t", "", Some(30), Overflow::Wait);
    rig.settle();
    for number in 0..9 {
        rig.publish(&number.to_string()).unwrap();
    }
    while rig.write(usize::MAX) {}
    while rig.read(12) {}
    assert!(!rig.machine.wants_read());
    let before = rig.told(id);
    assert_eq!(before, ["0", "1", "2"]);
    assert!(rig.machine.wants_read());
    rig.settle();
    assert_eq!(rig.told(id), ["3", "4", "5", "6", "7", "8"]);
}

#[test]
fn answer_behind_a_full_queue_comes_without_anybody_reading_the_queue() {
    let mut rig = Rig::open(config());
    let id = rig.subscribe_with("t", "", Some(30), Overflow::Wait);
    rig.settle();
    for number in 0..100 {
        rig.publish(&number.to_string()).unwrap();
    }
    let token = rig.publish_confirmed("100").unwrap();
    rig.settle();
    assert_eq!(rig.outcome(token), Some(&Outcome::Acknowledged(1)));
    let expected: Vec<_> = (0..=100).map(|number| number.to_string()).collect();
    assert_eq!(rig.told(id), expected);
}

#[test]
fn queues_past_the_cap_of_all_drop_their_oldest_and_say_so() {
    let config = Config {
        queue_bytes: 120,
        queues_bytes_max: 600,
        ..config()
    };
    let mut rig = Rig::open(config);
    let id = rig.subscribe("t", "");
    rig.settle();
    for number in 100..200 {
        rig.publish(&number.to_string()).unwrap();
    }
    let token = rig.publish_confirmed("200").unwrap();
    while rig.write(usize::MAX) {}
    while rig.read(64) {}
    assert_eq!(rig.outcome(token), Some(&Outcome::Acknowledged(1)));
    assert!(rig.machine.gauge.bytes <= 600);
    let told = rig.told(id);
    let gap: usize = told[0].strip_prefix("gap ").unwrap().parse().unwrap();
    assert_eq!(gap + told.len() - 1, 101);
    assert_eq!(told.last().unwrap(), "200");
}

#[test]
fn subscription_that_drops_its_oldest_never_stops_reading() {
    let mut rig = Rig::open(config());
    let id = rig.subscribe_with("t", "", Some(40), Overflow::DropOldest);
    rig.settle();
    for number in 0..10 {
        rig.publish(&number.to_string()).unwrap();
    }
    rig.settle();
    assert!(rig.peer.output.is_empty());
    let told = rig.told(id);
    assert_eq!(told[0], "gap 6");
    assert_eq!(told[1..], ["6", "7", "8", "9"]);
}

#[test]
fn draining_broker_is_left_without_losing_an_answer() {
    let mut rig = Rig::open(config());
    let id = rig.subscribe("t", "");
    rig.settle();
    let before = rig.publish_confirmed("1").unwrap();
    rig.publish("2").unwrap();
    rig.write(usize::MAX);
    native::write_draining(&mut rig.peer.output, 2_000);
    rig.read(usize::MAX);
    let after = rig.publish_confirmed("3").unwrap();
    while rig.write(usize::MAX) {}
    rig.settle();
    assert_eq!(disconnects(&rig), [&Disconnect::Draining]);
    assert_eq!(unconfirmed(&rig), 0);
    for token in [before, after] {
        assert_eq!(rig.outcome(token), Some(&Outcome::Acknowledged(1)));
    }
    assert_eq!(rig.connects, [0, 1]);
    assert_eq!(rig.peer.received, ["1", "2", "3"]);
    assert_eq!(rig.told(id), ["1", "2", "reconnected", "3"]);
}

#[test]
fn draining_broker_is_left_after_the_replies_or_half_of_its_time() {
    let mut rig = Rig::open(config());
    rig.subscribe("svc", "");
    let call = rig.request("?").unwrap();
    rig.settle();
    native::write_draining(&mut rig.peer.output, 2_000);
    rig.settle();
    let topic = rig.peer.reply_topics.pop_back().unwrap();
    rig.peer.send(&topic, "!", true);
    rig.settle();
    assert_eq!(rig.replies(call), ["!", "ended"]);
    assert_eq!(disconnects(&rig), [&Disconnect::Draining]);

    let mut rig = Rig::open(config());
    rig.subscribe("svc", "");
    rig.request("?").unwrap();
    rig.settle();
    native::write_draining(&mut rig.peer.output, 2_000);
    rig.read(usize::MAX);
    rig.pass(Duration::from_millis(999));
    assert!(disconnects(&rig).is_empty());
    rig.pass(Duration::from_millis(1));
    rig.settle();
    assert_eq!(disconnects(&rig), [&Disconnect::Draining]);
}

#[test]
fn drain_waits_for_replies_then_readers_then_the_last_publish() {
    let mut rig = Rig::open(config());
    let id = rig.subscribe("t", "");
    let call = rig.request("?").unwrap();
    rig.publish("1").unwrap();
    let token = rig.token();
    rig.machine.drain(rig.now, Some(token));
    rig.settle();
    assert_eq!(rig.replies(call), ["NoResponders", "ended"]);
    // The reader has not seen the end, and may still publish.
    assert_eq!(rig.outcome(token.0), None);
    rig.publish("2").unwrap();
    assert_eq!(rig.told(id), ["1", "ended"]);
    assert_eq!(
        rig.publish("3"),
        Err(PublishError::Closed(CloseReason::Drained))
    );
    rig.settle();
    assert_eq!(rig.outcome(token.0), Some(&Outcome::Acknowledged(0)));
    assert_eq!(rig.machine.closed(), Some(&CloseReason::Drained));
    assert_eq!(rig.peer.received, ["?", "1", "2"]);
    assert_eq!(rig.peer.kinds.last(), Some(&kind::PING));
}

#[test]
fn drain_goes_on_over_a_break_and_sends_what_was_not_sent() {
    let mut rig = Rig::open(config());
    let id = rig.subscribe("t", "");
    rig.settle();
    rig.publish("1").unwrap();
    let token = rig.token();
    rig.machine.drain(rig.now, Some(token));
    rig.cut(Disconnect::ClosedByBroker);
    assert_eq!(rig.told(id), ["ended"]);
    rig.settle();
    assert_eq!(rig.outcome(token.0), Some(&Outcome::Acknowledged(0)));
    assert_eq!(rig.peer.received, ["1"]);
}

#[test]
fn last_flush_of_a_drain_is_begun_again_after_a_break() {
    let mut rig = Rig::open(config());
    for number in 0..4 {
        rig.publish(&number.to_string()).unwrap();
    }
    let token = rig.token();
    rig.machine.drain(rig.now, Some(token));
    rig.write(usize::MAX);
    rig.read(usize::MAX);
    rig.cut(Disconnect::ClosedByBroker);
    rig.settle();
    // The answer to DRAIN proved all of them received.
    assert_eq!(rig.outcome(token.0), Some(&Outcome::Acknowledged(0)));

    let mut rig = Rig::open(config());
    let id = rig.subscribe("t", "");
    rig.settle();
    let token = rig.token();
    rig.machine.drain(rig.now, Some(token));
    while rig.write(usize::MAX) {}
    rig.read(usize::MAX);
    for number in 0..4 {
        rig.publish(&number.to_string()).unwrap();
    }
    assert_eq!(rig.told(id), ["ended"]);
    // A MESSAGE takes 10 bytes: one whole frame, and a part of the next.
    rig.write(12);
    rig.cut(Disconnect::ClosedByBroker);
    rig.settle();
    assert_eq!(rig.peer.received, ["0", "2", "3"]);
    let doubt = Doubt::Disconnected(Disconnect::ClosedByBroker);
    assert_eq!(rig.outcome(token.0), Some(&Outcome::Unknown(doubt)));
    assert_eq!(unconfirmed(&rig), 2);
}

#[test]
fn drain_that_takes_too_long_closes_all_the_same() {
    let mut rig = Rig::open(config());
    rig.subscribe("t", "");
    rig.settle();
    let token = rig.token();
    rig.machine.drain(rig.now, Some(token));
    rig.settle();
    rig.pass(crate::limits::DRAIN_TIMEOUT);
    assert_eq!(rig.outcome(token.0), Some(&Outcome::TimedOut));
    assert_eq!(rig.machine.closed(), Some(&CloseReason::Drained));
}

#[test]
fn close_tells_everybody_who_waits() {
    let mut rig = Rig::open(config());
    let id = rig.subscribe("t", "");
    rig.settle();
    rig.peer.is_mute = true;
    let written = rig.publish_confirmed("1").unwrap();
    rig.write(usize::MAX);
    let unwritten = rig.publish_confirmed("2").unwrap();
    let call = rig.request("?").unwrap();
    let late = rig.subscribe("late", "");
    rig.machine.close(CloseReason::Closed);
    rig.settle();
    assert!(matches!(rig.outcome(written), Some(Outcome::Unknown(_))));
    assert_eq!(
        rig.outcome(unwritten),
        Some(&Outcome::Closed(CloseReason::Closed))
    );
    assert_eq!(rig.replies(call), ["Closed(Closed)", "ended"]);
    assert_eq!(rig.told(id), ["ended"]);
    assert_eq!(rig.told(late), ["ended"]);
    assert_eq!(rig.outcomes.len(), 4);
}

#[test]
fn operation_that_waits_too_long_is_told() {
    let mut rig = Rig::open(config());
    rig.peer.is_mute = true;
    let token = rig.publish_confirmed("1").unwrap();
    rig.subscribe("t", "");
    // Liveness must not end the connection first.
    for _ in 0..35 {
        rig.write(usize::MAX);
        rig.machine.handle_bytes(rig.now, &mut BytesMut::new());
        rig.pass(Duration::from_secs(1));
    }
    assert_eq!(rig.outcome(token), Some(&Outcome::Unknown(Doubt::TimedOut)));
    assert!(rig.outcomes.iter().any(|(_, it)| *it == Outcome::TimedOut));
}

#[test]
fn what_the_broker_would_refuse_is_refused_here() {
    let mut rig = Rig::open(config());
    let mut refused = |outgoing: crate::Outgoing<'_>| rig.machine.publish(&outgoing.parts());
    use crate::Outgoing;
    assert_eq!(
        refused(Outgoing::new("$KV.t", "")),
        Err(PublishError::Invalid(MessageError::Scope(
            ScopeError::Reserved
        )))
    );
    assert!(matches!(
        refused(Outgoing::new(&"t".repeat(1_025), "")),
        Err(PublishError::Invalid(MessageError::Topic(_)))
    ));
    assert!(matches!(
        refused(Outgoing::new("t", "").header("a:b", "")),
        Err(PublishError::Invalid(MessageError::Parts(_)))
    ));
    assert_eq!(
        refused(Outgoing::new("t", &"x".repeat(1_001))),
        Err(PublishError::Invalid(MessageError::PayloadTooLong {
            length: 1_001,
            max: 1_000
        }))
    );
    assert!(!rig.machine.has_transmit());
}

#[test]
fn refused_message_is_told_as_an_event() {
    let mut rig = Rig::open(config());
    native::write_error(&mut rig.peer.output, 0, ErrorCode::TopicReserved, "no");
    rig.settle();
    assert!(matches!(
        rig.events.last(),
        Some(ConnectionEvent::Refused(_))
    ));
    assert!(rig.machine.is_connected());
    assert_eq!(rig.machine.statistics().refused_publishes, 1);
}

/// Feeds a hostile broker's bytes to a connected machine, and checks why it disconnects.
#[track_caller]
fn check_hostile(expected: &Disconnect, write: impl FnOnce(&mut Vec<u8>)) {
    let mut rig = Rig::open(config());
    write(&mut rig.peer.output);
    rig.read(usize::MAX);
    rig.act();
    assert_eq!(disconnects(&rig), [expected]);
}

#[test]
fn broker_that_breaks_the_protocol_is_left() {
    let protocol = Disconnect::Protocol;
    check_hostile(&protocol(ProtocolError::Answer(1)), |out| {
        native::write_ack(out, 1, 0);
    });
    check_hostile(
        &protocol(ProtocolError::Misplaced("a second WELCOME")),
        |out| {
            native::write_welcome(out, &native::Welcome::default());
        },
    );
    check_hostile(
        &protocol(ProtocolError::Frame(native::FrameError::Empty)),
        |out| out.extend_from_slice(&[0, 0, 0, 0]),
    );
    let length = NATIVE_FRAME_BYTES_MAX + 1;
    let cap = NATIVE_FRAME_BYTES_MAX;
    check_hostile(
        &protocol(ProtocolError::Frame(native::FrameError::TooLong {
            length,
            cap,
        })),
        |out| out.extend_from_slice(&(length as u32).to_le_bytes()),
    );
    let kind = kind::MESSAGE;
    let expected = "a sum of 1, 2 and 4";
    let field = "flags";
    check_hostile(
        &protocol(ProtocolError::Frame(native::FrameError::Value {
            kind,
            field,
            expected,
        })),
        |out| native::write_message(out, &[flag::ALL + 1, 0, 0]),
    );
}

#[test]
fn answers_out_of_order_and_to_what_was_not_sent_are_noticed() {
    let mut rig = Rig::open(config());
    rig.peer.is_mute = true;
    rig.publish_confirmed("1").unwrap();
    rig.publish_confirmed("2").unwrap();
    rig.write(usize::MAX);
    native::write_ack(&mut rig.peer.output, 2, 0);
    rig.read(usize::MAX);
    rig.act();
    let answer = |request| Disconnect::Protocol(ProtocolError::Answer(request));
    assert_eq!(disconnects(&rig), [&answer(2)]);

    let mut rig = Rig::open(config());
    rig.publish_confirmed("1").unwrap();
    native::write_ack(&mut rig.peer.output, 1, 0);
    rig.read(usize::MAX);
    rig.act();
    assert_eq!(disconnects(&rig), [&answer(1)]);
}

#[test]
fn event_before_welcome_is_noticed() {
    let mut rig = Rig::new(config());
    rig.peer.is_mute = true;
    rig.act();
    rig.peer.send(b"t", "x", false);
    rig.read(usize::MAX);
    rig.act();
    assert_eq!(
        disconnects(&rig),
        [&Disconnect::Protocol(ProtocolError::Misplaced("a MESSAGE"))]
    );
}

#[test]
fn unknown_kind_is_skipped() {
    let mut rig = Rig::open(config());
    native::write_frame(&mut rig.peer.output, 0xee, |out| out.push(1));
    rig.settle();
    assert!(rig.machine.is_connected());
}

#[test]
fn inbox_is_not_the_same_for_another_seed() {
    let inbox = |seed| {
        Machine::new(config(), seed, Duration::ZERO)
            .unwrap()
            .calls
            .inbox()
    };
    assert_ne!(inbox(1), inbox(2));
    assert_eq!(inbox(1), inbox(1));
    assert!(topic::wildcard_matches(&inbox(1), &{
        let machine = Machine::new(config(), 1, Duration::ZERO).unwrap();
        machine.calls.reply_topic(machine.calls.upcoming())
    }));
}

#[test]
fn a_request_ends_when_another_node_says_that_nobody_is_there() {
    let mut rig = Rig::open(config());
    rig.subscribe("svc", "");
    let call = rig.request("svc").unwrap();
    rig.settle();
    let topic = rig.peer.reply_topics.pop_back().unwrap();
    let topic = String::from_utf8(topic).unwrap();
    let outgoing = crate::Outgoing::new(&topic, "");
    let outgoing = outgoing.header("NATS-Status", "503").end();
    let mut message = Vec::new();
    outgoing.parts().write(&mut message).unwrap();
    native::write_message(&mut rig.peer.output, &message);
    rig.settle();
    assert_eq!(rig.replies(call), ["NoResponders", "ended"]);
}
