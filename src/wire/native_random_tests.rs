//! The native protocol on random frames, on frames with random damage, and on random bytes.

use super::*;
use proptest::prelude::*;

/// What [`Parts`] borrow.
#[derive(Clone, Debug)]
struct Pieces {
    topic: Vec<u8>,
    reply: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    is_end: bool,
    payload: Vec<u8>,
}

impl Pieces {
    fn with_parts(&self, then: impl FnOnce(Parts<'_>)) {
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), &value[..]))
            .collect();
        then(Parts {
            topic: &self.topic,
            reply: self.reply.as_deref(),
            headers: &headers,
            is_end: self.is_end,
            payload: &self.payload,
        });
    }
}

fn bytes(length_max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..=length_max)
}

prop_compose! {
    fn pieces()(
        topic in bytes(40),
        reply in prop::option::of(bytes(20)),
        headers in prop::collection::vec(("[!-9;-~]{1,12}", bytes(20)), 0..4),
        is_end in any::<bool>(),
        payload in bytes(300),
    ) -> Pieces {
        let headers = headers.into_iter().map(|(name, mut value)| {
            value.retain(|byte| !matches!(byte, b'\r' | b'\n' | 0));
            (name, value)
        });
        Pieces { topic, reply, headers: headers.collect(), is_end, payload }
    }
}

/// Bytes that are nearly frames: an example, some of its bytes changed, something behind it, and
/// perhaps its length made right again.
fn near_frames() -> impl Strategy<Value = Vec<u8>> {
    let examples: Vec<_> = page_examples()
        .into_iter()
        .map(|(_, frame)| frame)
        .collect();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let parts = (
        prop::sample::select(examples),
        changes,
        bytes(8),
        0usize..12,
        any::<bool>(),
    );
    parts.prop_map(|(mut frame, changes, tail, cut, fixed)| {
        for (place, byte) in changes {
            let place = place.index(frame.len());
            frame[place] = byte;
        }
        frame.truncate((frame.len() - cut.min(frame.len())).max(LENGTH_BYTES + 1));
        frame.extend_from_slice(&tail);
        if fixed {
            let length = (frame.len() - LENGTH_BYTES) as u32;
            frame[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        }
        frame
    })
}

/// The message again from what was read of it, if its headers may be written.
fn check_message(message: &Message<'_>) {
    let length = (message.topic.len() as u16).to_le_bytes();
    let fields = [
        &[message.flags],
        &length[..],
        message.topic,
        message.attributes,
    ];
    assert_eq!(
        [&fields.concat()[..], message.payload].concat(),
        message.bytes
    );
    let headers: Vec<_> = message.headers().collect();
    let parts = Parts {
        topic: message.topic,
        reply: message.reply(),
        headers: &headers,
        is_end: message.is_end(),
        payload: message.payload,
    };
    let mut again = Vec::new();
    let written = parts.write(&mut again);
    assert_eq!(written.is_ok(), message.headers().are_valid());
    let has_empty_block = message.flags & flag::HEADERS != 0 && headers.is_empty();
    if written.is_ok() && !has_empty_block {
        assert_eq!(again, message.bytes);
    }
}

fn rewrite_from_client(frame: &ClientFrame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    match frame {
        ClientFrame::Hello(hello) => write_hello(&mut out, hello),
        ClientFrame::Publish {
            request,
            when,
            message,
        } => {
            check_message(message);
            write_publish(&mut out, *request, *when, message.bytes);
        }
        ClientFrame::Subscribe {
            request,
            subscription,
        } => {
            write_subscription(&mut out, kind::SUBSCRIBE, *request, subscription);
        }
        ClientFrame::Unsubscribe {
            request,
            subscription,
        } => {
            write_subscription(&mut out, kind::UNSUBSCRIBE, *request, subscription);
        }
        ClientFrame::PublishStored { request, message } => {
            check_message(message);
            write_publish_stored(&mut out, *request, message.bytes);
        }
        ClientFrame::Call { request, body } => {
            write_call(&mut out, *request, |out| out.extend_from_slice(body));
        }
        ClientFrame::Ping { request } => write_request(&mut out, kind::PING, *request),
        ClientFrame::Drain { request } => write_request(&mut out, kind::DRAIN, *request),
        ClientFrame::Message(message) => {
            check_message(message);
            write_message(&mut out, message.bytes);
        }
    }
    out
}

/// The frame again; `None` if the code of an error or the kind is one that only a newer broker has.
fn rewrite_from_broker(frame: &BrokerFrame<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match *frame {
        BrokerFrame::Welcome(ref welcome) => write_welcome(&mut out, welcome),
        BrokerFrame::Ack { request, count } => write_ack(&mut out, request, count),
        BrokerFrame::Error {
            request,
            code,
            text,
        } => {
            write_error(&mut out, request, ErrorCode::from_number(code)?, text);
        }
        BrokerFrame::Message(ref message) => {
            check_message(message);
            write_message(&mut out, message.bytes);
        }
        BrokerFrame::Turn {
            member,
            ref message,
        } => {
            check_message(message);
            write_turn(&mut out, member, message.bytes);
        }
        BrokerFrame::Gap { events } => write_gap(&mut out, events),
        BrokerFrame::Draining { milliseconds } => write_draining(&mut out, milliseconds),
        BrokerFrame::Answer {
            request,
            part,
            body,
        } => write_answer(&mut out, request, part, body),
        BrokerFrame::Stored {
            first,
            count,
            answers,
        } => write_stored(&mut out, first, count, answers),
        BrokerFrame::Unknown(_) => return None,
    }
    Some(out)
}

/// What was read from arbitrary bytes, written again, is what was there. Options may be ordered
/// otherwise or be unknown, so their frames need only be read as the same.
fn check_arbitrary(input: &[u8]) {
    if let Ok(Parsed::Frame { frame, length }) = parse_client(input) {
        let again = rewrite_from_client(&frame);
        match frame {
            ClientFrame::Hello(_) => {
                let length = again.len();
                assert_eq!(parse_client(&again), Ok(Parsed::Frame { frame, length }));
            }
            _ => assert_eq!(again, &input[..length]),
        }
    }
    if let Ok(Parsed::Frame { frame, length }) = parse_from_broker(input) {
        match (frame, rewrite_from_broker(&frame)) {
            (_, None) => {}
            (BrokerFrame::Welcome(_), Some(again)) => {
                let length = again.len();
                assert_eq!(
                    parse_from_broker(&again),
                    Ok(Parsed::Frame { frame, length })
                );
            }
            (_, Some(again)) => assert_eq!(again, &input[..length]),
        }
    }
}

proptest! {
    #[test]
    fn messages_are_read_as_they_were_written(pieces in pieces(), number in 1u32.., unheard in any::<bool>()) {
        let when = if unheard { When::Unheard } else { When::Always };
        pieces.with_parts(|parts| {
            check(&Sent::Message(parts));
            check(&Sent::Publish(number, when, parts));
            check(&Sent::PublishStored(number, parts));
            check(&Sent::Turn(number, parts));
        });
    }

    #[test]
    fn openings_are_read_as_they_were_written(
        versions in any::<(u8, u8)>(),
        user in prop::option::of(bytes(30)),
        password in prop::option::of(bytes(30)),
        name in "\\PC{0,40}",
        library in "\\PC{0,40}",
        policy in prop::option::of(prop::sample::select(&Policy::ALL[..])),
        client in any::<u64>(),
        payload_max in any::<u32>(),
    ) {
        let (user, password) = (user.as_deref(), password.as_deref());
        check(&Sent::Hello(Hello { versions, user, password, name: &name, library: &library, policy }));
        let (broker, run) = (&name[..], &library[..]);
        check(&Sent::Welcome(Welcome { version: versions.0, broker, client, run, payload_max }));
    }

    #[test]
    fn requests_and_answers_are_read_as_they_were_written(
        request in 1u32..,
        number in any::<u32>(),
        events in any::<u64>(),
        code in prop::sample::select(ErrorCode::ALL),
        text in "\\PC{0,60}",
        group in bytes(255),
        filter in bytes(100),
    ) {
        let member = if group.is_empty() { 0 } else { number };
        let subscription = Subscription { member, group: &group, filter: &filter };
        for sent in [
            Sent::Subscribe(request, subscription),
            Sent::Unsubscribe(request, subscription),
            Sent::Ping(request),
            Sent::Drain(request),
            Sent::Ack(request, number),
            Sent::Error(number, code, &text),
            Sent::Gap(events),
            Sent::Draining(number),
        ] {
            check(&sent);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_nor_change(input in bytes(80)) {
        check_arbitrary(&input);
    }

    #[test]
    fn arbitrary_fields_never_panic_nor_change(kind in prop::sample::select(vec![1u8, 2, 3, 4, 5, 6, 16, 129, 130, 131, 132, 133, 134]), fields in bytes(60)) {
        check_arbitrary(&framed(kind, &fields));
    }

    #[test]
    fn bytes_that_are_nearly_frames_never_panic_nor_change(input in near_frames()) {
        check_arbitrary(&input);
    }

    #[test]
    fn cuts_change_nothing_on_bytes_that_are_nearly_frames(
        frames in prop::collection::vec(near_frames(), 1..4),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let input = frames.concat();
        let mut cuts: Vec<_> = cuts.drain(..).map(|cut| cut.index(input.len())).collect();
        cuts.sort_unstable();
        let whole = frames_in_pieces(&input, &[], parse_client);
        prop_assert_eq!(frames_in_pieces(&input, &cuts, parse_client), whole);
        let whole = frames_in_pieces(&input, &[], parse_from_broker);
        prop_assert_eq!(frames_in_pieces(&input, &cuts, parse_from_broker), whole);
    }
}
