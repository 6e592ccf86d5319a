//! Sealed connections against their page, and bytes that were changed on the way.

use super::*;
use crate::node::hello::{Dial, prologue};
use proptest::prelude::*;

const PAGE: &str = include_str!("../NODE.md");

const SECRET: &[u8] = b"sixteen letters!";

fn key(secret: &[u8]) -> SecretKey {
    SecretKey::from_secret(secret).expect("a secret")
}

fn sides() -> (Sealer, Sealer) {
    let dial = Dial {
        versions: (1, 3),
        sealed: true,
        lane: 63,
    };
    let prologue = prologue(&dial, 1);
    let dialer = Sealer::dial(&key(SECRET), &prologue, [1; 32]);
    (dialer, Sealer::accept(&key(SECRET), &prologue, [2; 32]))
}

/// Both sides behind their handshake, and its two messages.
fn shaken() -> (Sealer, Sealer, [Vec<u8>; 2]) {
    let (mut dialer, mut acceptor) = sides();
    let mut messages = [Vec::new(), Vec::new()];
    let (mut hello, mut welcome) = (Vec::new(), Vec::new());
    let written = dialer.write_handshake(b"HELLO", &mut messages[0]);
    written.expect("the dialer speaks first");
    let opened = acceptor.read_handshake(&messages[0], &mut hello);
    let consumed = messages[0].len();
    let needed = LENGTH_BYTES;
    assert_eq!(opened, Ok(Opened { consumed, needed }));
    let written = acceptor.write_handshake(b"WELCOME", &mut messages[1]);
    written.expect("the acceptor answers");
    let opened = dialer.read_handshake(&messages[1], &mut welcome);
    let consumed = messages[1].len();
    assert_eq!(opened, Ok(Opened { consumed, needed }));
    assert_eq!((&hello[..], &welcome[..]), (&b"HELLO"[..], &b"WELCOME"[..]));
    (dialer, acceptor, messages)
}

fn sealed(sealer: &mut Sealer, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    sealer.seal(plain, &mut out).expect("it is open");
    out
}

/// An example of the page.
fn golden(name: &str) -> Vec<u8> {
    let start = PAGE.find("```sealed").expect("the page has the block");
    let mut lines = PAGE[start..].lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let hex = line.expect("the page has the example").split('#').next();
    let digits: Vec<u8> = hex
        .unwrap_or_default()
        .bytes()
        .filter(|byte| *byte != b' ')
        .collect();
    let bytes = digits.chunks(2).map(|two| {
        let two = std::str::from_utf8(two).expect("digits");
        u8::from_str_radix(two, 16).expect("hexadecimal digits")
    });
    bytes.collect()
}

#[test]
fn the_examples_of_the_page_are_what_is_sealed() {
    assert_eq!(key(SECRET).0.to_vec(), golden("psk"));
    let (mut dialer, mut acceptor, [hello, welcome]) = shaken();
    assert_eq!(hello, golden("dialer"));
    assert_eq!(welcome, golden("acceptor"));
    let up = [
        sealed(&mut dialer, b"first"),
        sealed(&mut dialer, b"second"),
    ];
    assert_eq!(up.concat(), golden("up"));
    assert_eq!(sealed(&mut acceptor, b"answer"), golden("down"));
}

#[test]
fn line_ends_behind_a_secret_do_not_count() {
    for file in [
        "sixteen letters!\n",
        "sixteen letters!\r\n",
        "sixteen letters!\n\n",
    ] {
        assert_eq!(key(file.as_bytes()).0, key(SECRET).0);
    }
    assert_ne!(key(b"sixteen letters! ").0, key(SECRET).0);
    assert_ne!(key(b"\nsixteen letters!").0, key(SECRET).0);
}

#[test]
fn secrets_that_are_none_are_refused_with_the_reason() {
    let refused = |file: &[u8]| SecretKey::from_secret(file).err();
    assert_eq!(refused(b""), Some(SecretError::Empty));
    assert_eq!(refused(b"\r\n\n"), Some(SecretError::Empty));
    assert_eq!(
        refused(b"fifteen letters\n\n"),
        Some(SecretError::Short(15))
    );
    assert_eq!(refused(&[7; NODE_SECRET_BYTES_MAX]), None);
    let long = NODE_SECRET_BYTES_MAX + 1;
    assert_eq!(refused(&vec![7; long]), Some(SecretError::Long(long)));
}

#[test]
fn a_key_is_never_shown() {
    assert_eq!(format!("{:?}", key(SECRET)), "SecretKey(..)");
    assert_eq!(format!("{:?}", sides().0), "Sealer(handshake)");
}

#[test]
fn each_side_is_confirmed_only_when_the_other_speaks_now() {
    let (dialer, acceptor) = sides();
    assert!(!dialer.is_confirmed() && !dialer.is_open());
    assert!(!acceptor.is_confirmed());
    let (mut dialer, mut acceptor, _) = shaken();
    assert!(dialer.is_confirmed() && dialer.is_open());
    assert!(!acceptor.is_confirmed() && acceptor.is_open());
    let message = sealed(&mut dialer, b"x");
    let opened = acceptor.open(&message, &mut Vec::new());
    assert!(opened.is_ok() && acceptor.is_confirmed());
}

#[test]
fn a_hello_that_is_played_again_confirms_nothing() {
    let (mut dialer, _, [hello, _]) = shaken();
    let stream = sealed(&mut dialer, b"x");
    let (_, mut acceptor) = sides();
    // Another run of the acceptor has other randomness.
    let prologue = prologue(
        &Dial {
            versions: (1, 3),
            sealed: true,
            lane: 63,
        },
        1,
    );
    let mut later = Sealer::accept(&key(SECRET), &prologue, [3; 32]);
    for acceptor in [&mut acceptor, &mut later] {
        acceptor
            .read_handshake(&hello, &mut Vec::new())
            .expect("a true HELLO");
        acceptor
            .write_handshake(b"WELCOME", &mut Vec::new())
            .expect("its turn");
    }
    assert_eq!(later.open(&stream, &mut Vec::new()), Err(SealError::Tag));
    assert!(!later.is_confirmed());
}

#[test]
fn handshakes_are_read_at_every_cut() {
    let (_, _, [hello, _]) = shaken();
    for length in 0..hello.len() {
        let (_, mut acceptor) = sides();
        let mut out = Vec::new();
        let opened = acceptor.read_handshake(&hello[..length], &mut out);
        let needed = if length < 2 { 2 } else { hello.len() };
        assert_eq!(
            opened,
            Ok(Opened {
                consumed: 0,
                needed
            })
        );
        let opened = acceptor.read_handshake(&hello, &mut out);
        assert_eq!(opened.map(|opened| opened.consumed), Ok(hello.len()));
        assert_eq!(out, b"HELLO");
    }
}

#[test]
fn no_bit_of_a_handshake_can_be_changed() {
    let (_, _, [hello, welcome]) = shaken();
    for bit in 0..hello.len() * 8 {
        let (mut dialer, mut acceptor) = sides();
        let mut changed = hello.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let (mut own, mut out) = (Vec::new(), b"kept".to_vec());
        dialer
            .write_handshake(b"HELLO", &mut own)
            .expect("its turn");
        match acceptor.read_handshake(&changed, &mut out) {
            Ok(opened) => assert!(opened.consumed == 0 && opened.needed > changed.len()),
            Err(error) => assert_ne!(error, SealError::Order),
        }
        assert_eq!(out, b"kept");
        let mut changed = welcome.clone();
        changed[bit.min(welcome.len() * 8 - 1) / 8] ^= 1 << (bit % 8);
        match dialer.read_handshake(&changed, &mut out) {
            Ok(opened) => assert!(opened.consumed == 0 && opened.needed > changed.len()),
            Err(error) => assert_ne!(error, SealError::Order),
        }
    }
}

#[test]
fn another_secret_or_prologue_is_noticed_at_the_first_message() {
    let hello = |key: &SecretKey, prologue: &[u8]| {
        let mut out = Vec::new();
        let mut dialer = Sealer::dial(key, prologue, [1; 32]);
        dialer
            .write_handshake(b"HELLO", &mut out)
            .expect("its turn");
        out
    };
    let read = |message: &[u8]| {
        let mut acceptor = Sealer::accept(&key(SECRET), b"p", [2; 32]);
        acceptor
            .read_handshake(message, &mut Vec::new())
            .map(|_| ())
    };
    assert_eq!(read(&hello(&key(SECRET), b"p")), Ok(()));
    assert_eq!(read(&hello(&key(SECRET), b"q")), Err(SealError::Tag));
    let other = key(b"sixteen letters?");
    assert_eq!(read(&hello(&other, b"p")), Err(SealError::Tag));
}

#[test]
fn a_stream_is_cut_into_messages_of_the_greatest_size() {
    let (mut dialer, mut acceptor, _) = shaken();
    let plain: Vec<u8> = (0..3 * PLAIN_BYTES_MAX + 5).map(|at| at as u8).collect();
    let message = sealed(&mut dialer, &plain);
    assert_eq!(message.len(), plain.len() + 4 * (LENGTH_BYTES + TAG_BYTES));
    assert_eq!(message[..2], [0xff, 0xff]);
    let mut out = Vec::new();
    let opened = acceptor.open(&message, &mut out);
    let (consumed, needed) = (message.len(), LENGTH_BYTES);
    assert_eq!(opened, Ok(Opened { consumed, needed }));
    assert_eq!(out, plain);
    assert!(sealed(&mut dialer, b"").is_empty());
}

#[test]
fn lengths_that_no_message_has_are_refused() {
    for length in [0, 1, 16] {
        let (_, mut acceptor, _) = shaken();
        let opened = acceptor.open(&[length, 0], &mut Vec::new());
        assert_eq!(opened, Err(SealError::Length(usize::from(length))));
    }
    for length in [47, HANDSHAKE_BYTES_MAX + 1, 0xffff] {
        let (_, mut acceptor) = sides();
        let input = (length as u16).to_le_bytes();
        let opened = acceptor.read_handshake(&input, &mut Vec::new());
        assert_eq!(opened, Err(SealError::Length(length)));
    }
    let (mut dialer, _) = sides();
    let payload = vec![0; NODE_HELLO_BYTES_MAX + HEADER_BYTES + 1];
    let mut out = b"kept".to_vec();
    let expected = Err(SealError::Length(HANDSHAKE_BYTES_MAX + 1));
    assert_eq!(dialer.write_handshake(&payload, &mut out), expected);
    assert_eq!(out, b"kept");
}

#[test]
fn a_refusal_is_longer_than_any_handshake_if_it_is_taken_for_one() {
    let start = crate::node::hello::ANSWER_MAGIC;
    let length = u16::from_le_bytes([start[0], start[1]]);
    assert!(usize::from(length) > HANDSHAKE_BYTES_MAX);
}

#[test]
fn what_was_changed_repeated_or_left_out_is_refused_and_ends_all() {
    let (mut dialer, _, _) = shaken();
    let [one, two] = [sealed(&mut dialer, b"one"), sealed(&mut dialer, b"two")];
    let mut changed = one.clone();
    changed[3] ^= 1;
    for input in [&changed[..], &two, &[&one[..], &one].concat()] {
        let (_, mut acceptor, _) = shaken();
        let mut out = b"kept".to_vec();
        assert_eq!(acceptor.open(input, &mut out), Err(SealError::Tag));
        assert_eq!(out, b"kept");
        assert_eq!(acceptor.open(&one, &mut out), Err(SealError::Order));
        assert_eq!(acceptor.seal(b"x", &mut out), Err(SealError::Order));
        assert_eq!(out, b"kept");
    }
}

#[test]
fn what_is_not_due_is_refused() {
    let out = &mut Vec::new();
    let (mut dialer, mut acceptor) = sides();
    assert_eq!(acceptor.write_handshake(b"", out), Err(SealError::Order));
    assert_eq!(dialer.seal(b"x", out), Err(SealError::Order));
    let (mut dialer, mut acceptor, [hello, welcome]) = shaken();
    assert_eq!(acceptor.read_handshake(&hello, out), Err(SealError::Order));
    assert_eq!(dialer.read_handshake(&welcome, out), Err(SealError::Order));
    assert!(out.is_empty());
}

#[test]
fn no_message_is_opened_behind_the_last_number() {
    let (mut dialer, mut acceptor, _) = shaken();
    let message = sealed(&mut dialer, b"x");
    let State::Transport(transport) = &mut acceptor.state else {
        panic!("not open");
    };
    transport.set_receiving_nonce(u64::MAX);
    let opened = acceptor.open(&message, &mut Vec::new());
    assert_eq!(opened, Err(SealError::Exhausted));
}

#[test]
fn entropy_is_handed_out_as_it_is_and_then_hashed_forward() {
    let mut drawn = Drawn {
        block: [7; 32],
        used: 0,
    };
    let mut out = [0; 80];
    drawn.try_fill_bytes(&mut out).expect("it never ends");
    let second = blake2s(ENTROPY_DOMAIN, &[7; 32]);
    let third = blake2s(ENTROPY_DOMAIN, &second);
    assert_eq!(out[..32], [7; 32]);
    assert_eq!(out[32..64], second);
    assert_eq!(out[64..], third[..16]);
}

proptest! {
    #[test]
    fn a_stream_is_the_same_however_it_is_cut(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 1..6),
        steps in prop::collection::vec(1usize..500, 1..20),
    ) {
        let (mut dialer, mut acceptor, _) = shaken();
        let plain = parts.concat();
        let stream: Vec<u8> = parts.iter().flat_map(|part| sealed(&mut dialer, part)).collect();
        let (mut start, mut end, mut out) = (0, 0, Vec::new());
        for step in steps.iter().cycle().take(5_000) {
            end = (end + step).min(stream.len());
            let opened = acceptor.open(&stream[start..end], &mut out).expect("nothing was changed");
            start += opened.consumed;
            prop_assert!(opened.needed > end - start);
            if start == stream.len() {
                break;
            }
        }
        prop_assert_eq!(out, plain);
    }

    #[test]
    fn garbage_never_panics(input in prop::collection::vec(any::<u8>(), 0..200), length in 0u16..200) {
        let framed = [&length.to_le_bytes()[..], &input].concat();
        for input in [&input, &framed] {
            let (mut dialer, mut acceptor, _) = shaken();
            let _ = dialer.open(input, &mut Vec::new());
            prop_assert!(acceptor.open(input, &mut Vec::new()).is_ok_and(|opened| opened.consumed == 0) || !acceptor.is_open());
            let (_, mut acceptor) = sides();
            let _ = acceptor.read_handshake(input, &mut Vec::new());
        }
    }
}
