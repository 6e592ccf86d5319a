//! Any bytes, cut anywhere, parse to the same native frames as in one piece. What was parsed lies
//! inside its frame, and written again it is what was there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::limits::{NATIVE_FRAME_BYTES_MAX, NATIVE_HELLO_BYTES_MAX};
use sapwood_wire::native::*;
use std::fmt::Debug;

/// The frames at the start of the input, each with its bytes, and why there are no more, if it is an error.
type Frames<'a, F> = (Vec<(F, &'a [u8])>, Option<FrameError>);

/// Reads in steps of so many bytes, as a connection does: until as many stand as the parser asked for.
fn frames<'a, F>(
    input: &'a [u8],
    step: usize,
    parse: impl Fn(&'a [u8]) -> Result<Parsed<F>, FrameError>,
) -> Frames<'a, F> {
    let (mut frames, mut start, mut end, mut needed) = (Vec::new(), 0, 0, 1);
    while end < input.len() {
        end = (end + step).min(input.len());
        while end - start >= needed {
            match parse(&input[start..end]) {
                Err(error) => return (frames, Some(error)),
                Ok(Parsed::Incomplete { needed: more }) => {
                    assert!(more > end - start, "asks for what it has");
                    needed = more;
                }
                Ok(Parsed::Frame { frame, length }) => {
                    assert!(length > LENGTH_BYTES && length <= end - start, "takes what is there");
                    frames.push((frame, &input[start..start + length]));
                    start += length;
                    needed = 1;
                }
            }
        }
    }
    (frames, None)
}

/// Parts of a frame that were borrowed from it. Empty ones may be anywhere.
fn assert_inside(frame: &[u8], parts: &[&[u8]]) {
    let frame = frame.as_ptr_range();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let part = part.as_ptr_range();
        assert!(frame.start <= part.start && part.end <= frame.end, "outside of its frame");
    }
}

fn check_message(frame: &[u8], message: &Message<'_>) {
    let headers: Vec<_> = message.headers().collect();
    assert_inside(frame, &[message.bytes, message.topic, message.attributes, message.payload]);
    assert_inside(frame, &[message.reply().unwrap_or_default()]);
    assert!(frame.ends_with(message.bytes));
    for (name, value) in &headers {
        assert_inside(frame, &[name, value]);
        assert!(message.headers().find(name).is_some());
    }
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
    // Headers may be announced where none are; nobody writes that.
    if written.is_ok() && (message.flags & flag::HEADERS == 0 || !headers.is_empty()) {
        assert_eq!(again, message.bytes);
    }
}

/// Whether options are what a writer makes of them: known, in order, and none that it leaves out.
fn is_canonical(mut options: &[u8], required: &[u8], id_max: u8, may_stand: fn(u8, &[u8]) -> bool) -> bool {
    let mut ids = vec![0];
    while let [id, low, high, rest @ ..] = options {
        let (value, behind) = rest.split_at(usize::from(u16::from_le_bytes([*low, *high])));
        if *id <= *ids.last().unwrap_or(&0) || *id > id_max || !may_stand(*id, value) {
            return false;
        }
        ids.push(*id);
        options = behind;
    }
    required.iter().all(|id| ids.contains(id))
}

/// Compares a frame with itself written again.
fn check_again<F: Debug + PartialEq>(
    frame: &F,
    bytes: &[u8],
    again: &[u8],
    canonical: bool,
    read_again: Result<Parsed<F>, FrameError>,
) {
    assert!(!canonical || again == bytes, "{frame:?}");
    match read_again {
        Ok(Parsed::Frame { frame: other, length }) => assert_eq!((&other, length), (frame, again.len())),
        _ => panic!("what was written is refused: {frame:?}"),
    }
}

fn check_from_client(frame: &ClientFrame<'_>, bytes: &[u8]) {
    let (mut again, mut canonical) = (Vec::new(), true);
    match frame {
        ClientFrame::Hello(hello) => {
            assert_inside(bytes, &[hello.user.unwrap_or_default(), hello.password.unwrap_or_default()]);
            assert_inside(bytes, &[hello.name.as_bytes(), hello.library.as_bytes()]);
            canonical = is_canonical(&bytes[11..], &[], 5, |id, value| !matches!(id, 3 | 4) || !value.is_empty());
            write_hello(&mut again, hello);
        }
        ClientFrame::Publish { request, when, message } => {
            check_message(bytes, message);
            write_publish(&mut again, *request, *when, message.bytes);
        }
        ClientFrame::Subscribe { request, subscription } | ClientFrame::Unsubscribe { request, subscription } => {
            assert_inside(bytes, &[subscription.group, subscription.filter]);
            assert!(subscription.member == 0 || !subscription.group.is_empty());
            write_subscription(&mut again, bytes[LENGTH_BYTES], *request, subscription);
        }
        ClientFrame::PublishStored { request, message } => {
            check_message(bytes, message);
            write_publish_stored(&mut again, *request, message.bytes);
        }
        ClientFrame::Call { request, body } => {
            assert_inside(bytes, &[body]);
            write_call(&mut again, *request, |out| out.extend_from_slice(body));
        }
        ClientFrame::Ping { request } | ClientFrame::Drain { request } => {
            write_request(&mut again, bytes[LENGTH_BYTES], *request);
        }
        ClientFrame::Message(message) => {
            check_message(bytes, message);
            write_message(&mut again, message.bytes);
        }
    }
    check_again(frame, bytes, &again, canonical, parse_from_client(&again, NATIVE_FRAME_BYTES_MAX));
}

fn check_from_broker(frame: &BrokerFrame<'_>, bytes: &[u8]) {
    let (mut again, mut canonical) = (Vec::new(), true);
    match *frame {
        BrokerFrame::Welcome(ref welcome) => {
            assert_inside(bytes, &[welcome.broker.as_bytes(), welcome.run.as_bytes()]);
            canonical = is_canonical(&bytes[6..], &[2], 4, |_, value| !matches!(value, [] | [0, 0, 0, 0]));
            write_welcome(&mut again, welcome);
        }
        BrokerFrame::Ack { request, count } => write_ack(&mut again, request, count),
        BrokerFrame::Error { request, code, text } => {
            assert_inside(bytes, &[text.as_bytes()]);
            // A code that only a newer broker has cannot be written.
            let Some(code) = ErrorCode::from_number(code) else { return };
            write_error(&mut again, request, code, text);
        }
        BrokerFrame::Message(ref message) => {
            check_message(bytes, message);
            write_message(&mut again, message.bytes);
        }
        BrokerFrame::Turn { member, ref message } => {
            check_message(bytes, message);
            write_turn(&mut again, member, message.bytes);
        }
        BrokerFrame::Gap { events } => write_gap(&mut again, events),
        BrokerFrame::Draining { milliseconds } => write_draining(&mut again, milliseconds),
        BrokerFrame::Answer { request, part, body } => {
            assert_inside(bytes, &[body]);
            write_answer(&mut again, request, part, body);
        }
        BrokerFrame::Stored { first, count, answers } => {
            assert_inside(bytes, &[answers]);
            write_stored(&mut again, first, count, answers);
        }
        BrokerFrame::Unknown(kind) => {
            assert_eq!(kind, bytes[LENGTH_BYTES]);
            return;
        }
    }
    check_again(frame, bytes, &again, canonical, parse_from_broker(&again));
}

fuzz_target!(|data: (u8, bool, &[u8])| {
    let (step, guest, input) = data;
    let cap = if guest { NATIVE_HELLO_BYTES_MAX } else { NATIVE_FRAME_BYTES_MAX };
    let (whole, step) = (input.len().max(1), usize::from(step).max(1));
    let from_client = |input| parse_from_client(input, cap);
    let read = frames(input, whole, from_client);
    assert_eq!(frames(input, step, from_client), read);
    for (frame, bytes) in &read.0 {
        check_from_client(frame, bytes);
    }
    let read = frames(input, whole, parse_from_broker);
    assert_eq!(frames(input, step, parse_from_broker), read);
    for (frame, bytes) in &read.0 {
        check_from_broker(frame, bytes);
    }
});
