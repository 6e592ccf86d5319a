//! Any bytes as frames between nodes, cut anywhere; any archive under any kind is refused, or is what is written again;
//! preambles; and what is sealed and changed on the way is never opened.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sapwood_wire::limits::NODE_FRAME_BYTES_MAX;
use sapwood_wire::node::events::{Events, write_events};
use sapwood_wire::node::hello::{Answer, Hello, Opening, Welcome, is_refusal, parse_answer, parse_dial, write_accepted};
use sapwood_wire::node::interest::{Beat, Interest, Lost, Needs, changes_that_fit, write_interest};
use sapwood_wire::node::seal::{Sealer, SecretKey};
use sapwood_wire::node::{Frame, FrameError, HEADER_BYTES, Parsed, kind, parse, write_frame};
use std::sync::LazyLock;

const VERSION: u8 = 1;

/// The frames at the start of the input, read in steps as a connection does, and why there are no more.
fn frames(input: &[u8], step: usize) -> (Vec<Frame<'_>>, Option<FrameError>) {
    let (mut frames, mut start, mut end) = (Vec::new(), 0, 0);
    while end < input.len() {
        end = (end + step).min(input.len());
        // Asked again before as much stands as it needs, it may notice a wrong start.
        while start < end {
            match parse(&input[start..end], VERSION, NODE_FRAME_BYTES_MAX) {
                Err(error) => return (frames, Some(error)),
                Ok(Parsed::Incomplete { needed }) => {
                    assert!(needed > end - start, "asks for what it has");
                    break;
                }
                Ok(Parsed::Frame(frame, length)) => {
                    assert!(length >= HEADER_BYTES && length <= end - start, "takes what is there");
                    assert_eq!(frame.body, &input[start + HEADER_BYTES..start + length]);
                    frames.push(frame);
                    start += length;
                }
            }
        }
    }
    (frames, None)
}

/// The frame as its view writes it again.
fn again(frame: &Frame<'_>) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    match frame.kind {
        kind::HELLO => Hello::read(frame)?.write(VERSION, &mut out),
        kind::WELCOME => Welcome::read(frame)?.write(VERSION, &mut out),
        kind::BEAT => Beat::read(frame)?.write(VERSION, &mut out),
        kind::NEEDS => Needs::read(frame)?.write(VERSION, &mut out),
        kind::LOST => Lost::read(frame)?.write(VERSION, &mut out),
        kind::EVENTS => {
            let events = Events::read(frame)?;
            for placed in events.iter() {
                let payload = placed.event.payload;
                assert_eq!(&frame.body[placed.payload_start..][..payload.len()], payload);
            }
            let mut other = Vec::new();
            write_events(&mut out, VERSION, events.head(), events.iter().map(|placed| placed.event));
            events.write_to(events.head().route, VERSION, &mut other);
            assert_eq!(out, other);
        }
        kind::INTEREST => {
            let interest = Interest::read(frame)?;
            let changes = interest.changes();
            assert_eq!(changes_that_fit(changes.clone()), changes.len());
            write_interest(&mut out, VERSION, interest.head(), changes);
        }
        other => return Err(FrameError::Kind(other)),
    }
    Ok(out)
}

fn check_frame(frame: &Frame<'_>) {
    let mut expected = Vec::new();
    write_frame(&mut expected, VERSION, frame.kind, frame.flags, |out| out.extend_from_slice(frame.body));
    match again(frame) {
        Ok(again) => assert_eq!(again, expected),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The examples of the page, whole frames.
static EXAMPLES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let page = include_str!("../../../src/wire/NODE.md");
    let block = page.split("```golden\n").nth(1).and_then(|rest| rest.split("```").next());
    let examples = block.expect("examples").lines().map(|line| {
        let hex = line.split('#').next().and_then(|line| line.split_once(' ')).expect("a name and bytes").1;
        let digits: Vec<_> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|two| (two[0] << 4 | two[1]) as u8).collect()
    });
    examples.collect()
});

/// An example with some bytes changed, so that most of its archive is right.
fn check_changed(which: u8, input: &[u8]) {
    let mut bytes = EXAMPLES[usize::from(which) % EXAMPLES.len()].clone();
    let length = bytes.len();
    for change in input.chunks_exact(2).take(16) {
        let body = HEADER_BYTES + usize::from(change[0]) % (length - HEADER_BYTES);
        bytes[body] = change[1];
    }
    let (kind, flags, body) = (bytes[3], 0, &bytes[HEADER_BYTES..]);
    check_frame(&Frame { kind, flags, body });
}

fn preambles(input: &[u8]) {
    let is_short = |needed: usize| assert!(needed > input.len());
    match parse_dial(input) {
        Ok(Opening::Whole(dial, length)) => assert_eq!(dial.bytes(), input[..length]),
        Ok(Opening::Incomplete { needed }) => is_short(needed),
        Err(_) => {}
    }
    match parse_answer(input, (1, 3)) {
        Ok(Opening::Whole(answer, length)) => {
            assert_eq!(is_refusal(input), Some(true));
            let mut again = Vec::new();
            match answer {
                Answer::Accepted { version } => write_accepted(&mut again, version),
                Answer::Refused { code, text } => {
                    assert_ne!(code, 0);
                    again.extend_from_slice(&input[..8]);
                    again.extend_from_slice(text.as_bytes());
                }
            }
            assert_eq!(again, input[..length]);
        }
        Ok(Opening::Incomplete { needed }) => is_short(needed),
        Err(_) => {}
    }
}

fn sides() -> (Sealer, Sealer) {
    let key = SecretKey::from_secret(b"sixteen letters!").expect("a secret");
    let mut dialer = Sealer::dial(&key, b"prologue", [1; 32]);
    let mut acceptor = Sealer::accept(&key, b"prologue", [2; 32]);
    let (mut hello, mut welcome, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    dialer.write_handshake(b"", &mut hello).expect("first");
    acceptor.read_handshake(&hello, &mut plain).expect("whole");
    acceptor.write_handshake(b"", &mut welcome).expect("second");
    dialer.read_handshake(&welcome, &mut plain).expect("whole");
    (dialer, acceptor)
}

/// Sealed, cut anywhere and opened it is the same; with a byte changed nothing but what stands before is opened.
fn seals(input: &[u8], step: usize, flip: Option<u8>) {
    let (mut dialer, mut acceptor) = sides();
    let mut sealed = Vec::new();
    input.chunks(step).for_each(|part| dialer.seal(part, &mut sealed).expect("open"));
    if let Some(flip) = flip {
        let at = usize::from(flip) % sealed.len().max(1);
        sealed.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1);
    }
    let (mut start, mut end, mut plain) = (0, 0, Vec::new());
    while end < sealed.len() {
        end = (end + step * 3).min(sealed.len());
        match acceptor.open(&sealed[start..end], &mut plain) {
            Ok(opened) => {
                start += opened.consumed;
                assert!(opened.needed > end - start);
            }
            Err(_) => {
                assert!(flip.is_some());
                break;
            }
        }
    }
    assert!(input.starts_with(&plain));
    assert!(plain.len() == input.len() || flip.is_some());
    assert!(flip.is_none() || plain.len() < input.len() || input.is_empty());
    let (_, mut acceptor) = sides();
    assert!(acceptor.open(input, &mut plain).is_ok_and(|opened| opened.consumed == 0) || !acceptor.is_open());
}

fuzz_target!(|data: (u8, u8, Option<u8>, &[u8])| {
    let (kind, step, flip, input) = data;
    let step = usize::from(step).max(1);
    let read = frames(input, input.len().max(1));
    assert_eq!(frames(input, step), read);
    read.0.iter().for_each(check_frame);
    let (flags, body) = (0, input);
    check_frame(&Frame { kind, flags, body });
    check_changed(kind, input);
    preambles(input);
    // A handshake takes milliseconds with the fuzzer's checks, so only few inputs get one.
    if kind == u8::MAX && step % 32 == 31 {
        seals(input, step, flip);
    }
});
