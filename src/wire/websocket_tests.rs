//! Frames at every length and cut everywhere, masks, texts in parts, closes; and what is written, read again.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const MASK: [u8; 4] = [0x11, 0x22, 0x44, 0x88];

/// The header of a client's frame, with its length written in so many bytes.
fn header(first: u8, length: u64, length_bytes: usize) -> Vec<u8> {
    let mut out = vec![first];
    match length_bytes {
        0 => out.push(0x80 | length as u8),
        2 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out
}

/// Reads a header, and checks that no part of the input says anything else.
fn read(input: &[u8]) -> Result<Option<Frame>, Closing> {
    let whole = Frame::parse(input);
    for cut in 0..input.len() {
        let part = Frame::parse(&input[..cut]);
        let is_whole = matches!(whole, Ok(Some(frame)) if cut >= frame.header);
        let shown = input[..cut].escape_ascii();
        match part {
            Ok(None) => assert!(!is_whole, "not whole: {shown}"),
            _ => assert_eq!(part, whole, "{shown}"),
        }
    }
    whole
}

#[test]
fn headers_are_read_at_every_length() {
    let cases = [
        (0, 0),
        (1, 0),
        (125, 0),
        (126, 2),
        (127, 2),
        (65_535, 2),
        (65_536, 8),
        (1 << 32, 8),
        (i64::MAX as u64, 8),
    ];
    let kinds = [
        (0x80, CONTINUE),
        (0x00, CONTINUE),
        (0x81, TEXT),
        (0x01, TEXT),
        (0x82, BINARY),
        (0x02, BINARY),
        (0x88, CLOSE),
        (0x89, PING),
        (0x8a, PONG),
    ];
    for ((length, length_bytes), (first, opcode)) in cases
        .into_iter()
        .flat_map(|case| kinds.map(|kind| (case, kind)))
    {
        let input = header(first, length, length_bytes);
        let is_control = first & 8 != 0;
        let expected = match is_control && length > 125 {
            true => Err(Closing::protocol("a control frame has at most 125 bytes")),
            false => Ok(Some(Frame {
                opcode,
                is_final: first & 0x80 != 0,
                mask: MASK,
                length,
                header: input.len(),
            })),
        };
        assert_eq!(read(&input), expected, "{first:x} of {length}");
        let more = [&input[..], &[0xff; 20]].concat();
        assert_eq!(read(&more), expected, "{first:x} of {length}, and more");
    }
}

#[test]
fn what_is_no_frame_of_a_client_is_refused() {
    let shortest = "a length is not written in the shortest way";
    let reserved = (3..=7).chain(11..=15).map(|opcode| {
        let input = header(0x80 | opcode, 1, 0);
        (input, "an opcode is reserved")
    });
    let bits =
        [0x40, 0x20, 0x10, 0x70].map(|bits| (header(0x81 | bits, 1, 0), "reserved bits are set"));
    let fragmented = [0x08, 0x09, 0x0a].map(|first| {
        (
            header(first, 1, 0),
            "a control frame must not be fragmented",
        )
    });
    let unmasked = [
        vec![0x81, 0],
        vec![0x82, 0x7d, 1],
        vec![0x81, 126, 1, 0],
        vec![0x88, 0],
    ]
    .map(|input| (input, "a client's frame must be masked"));
    let lengths = [
        (header(0x81, 0, 2), shortest),
        (header(0x81, 125, 2), shortest),
        (header(0x81, 0, 8), shortest),
        (header(0x81, 126, 8), shortest),
        (header(0x81, 65_535, 8), shortest),
        (header(0x82, 1 << 63, 8), shortest),
        (header(0x82, u64::MAX, 8), shortest),
    ];
    let all = reserved
        .chain(bits)
        .chain(fragmented)
        .chain(unmasked)
        .chain(lengths);
    for (input, text) in all {
        assert_eq!(
            read(&input),
            Err(Closing::protocol(text)),
            "{}",
            input.escape_ascii()
        );
        assert!(text.len() <= CONTROL_BYTES_MAX - 2);
    }
}

#[test]
fn what_is_written_is_read_again() {
    let kinds = [TEXT, BINARY, PING, PONG, CLOSE];
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
        let payload: Vec<u8> = (0..length).map(|place| place as u8).collect();
        for opcode in kinds {
            let mut out = Vec::new();
            write_header(&mut out, opcode, length);
            let start = out.len();
            out.extend_from_slice(&payload);
            let range = start..out.len();
            assert_eq!(server_frame(&out), Some((u8::from(opcode), range.clone())));
            assert_eq!(
                out[0],
                0x80 | u8::from(opcode),
                "whole, without reserved bits"
            );
            for cut in (0..out.len())
                .step_by(1 + length / 64)
                .chain([out.len() - 1])
            {
                assert_eq!(server_frame(&out[..cut]), None, "{length} cut at {cut}");
            }
            // Whatever was guessed of its length.
            for expected in [0, length, 125, 126, 65_535, 65_536] {
                let mut framed = b"before".to_vec();
                write_frame(&mut framed, opcode, expected, |out| {
                    out.extend_from_slice(&payload)
                });
                assert!(framed[6..] == out[..], "{length} guessed {expected}");
            }
            out.extend_from_slice(b"behind");
            assert_eq!(server_frame(&out), Some((u8::from(opcode), range)));
            let mut header = Vec::new();
            write_client_header(&mut header, opcode, length);
            let frame = Frame {
                opcode,
                is_final: true,
                mask: [0; 4],
                length: length as u64,
                header: header.len(),
            };
            if length <= CONTROL_BYTES_MAX || !matches!(opcode, OpCode::Control(_)) {
                assert_eq!(read(&header), Ok(Some(frame)));
            }
        }
    }
    // A length that no memory has is no frame, and no overflow either.
    let endless = [&[0x82, 127][..], &u64::MAX.to_be_bytes(), b"x"].concat();
    assert_eq!(server_frame(&endless), None);
}

#[test]
fn a_mask_comes_off_at_every_offset() {
    let payload: Vec<u8> = (0..60_u8).map(|place| place.wrapping_mul(7)).collect();
    let far = [
        0,
        1,
        2,
        3,
        4,
        5,
        125,
        u64::from(u32::MAX),
        1 << 40,
        i64::MAX as u64 - 100,
    ];
    for from in far {
        for length in 0..payload.len() {
            let expected: Vec<u8> = (0..length)
                .map(|place| payload[place] ^ MASK[((from + place as u64) % 4) as usize])
                .collect();
            let mut bytes = payload[..length].to_vec();
            unmask(&mut bytes, MASK, from);
            assert_eq!(bytes, expected, "{length} from {from}");
            unmask(&mut bytes, MASK, from);
            assert_eq!(bytes, payload[..length], "off and on again");
        }
    }
}

#[test]
fn a_close_has_a_code_that_may_be_sent_and_a_reason_in_utf8() {
    assert_eq!(parse_close(b""), Ok(None));
    let short = Closing::protocol("a close has a code of two bytes, or none");
    assert_eq!(parse_close(b"\x03"), Err(short));
    let wrong = Closing::protocol("a close has a code that must not be sent");
    for code in 0..=u16::MAX {
        let payload = code.to_be_bytes();
        let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        let expected = if may_be_sent {
            Ok(Some(code))
        } else {
            Err(wrong)
        };
        assert_eq!(parse_close(&payload), expected, "{code}");
    }
    let with = |reason: &[u8]| [&1000_u16.to_be_bytes()[..], reason].concat();
    assert_eq!(parse_close(&with("gr\u{fc}n".as_bytes())), Ok(Some(1000)));
    for reason in [&b"\xff"[..], b"a\xc3", b"\xed\xa0\x80"] {
        assert_eq!(parse_close(&with(reason)), Err(Closing::NOT_UTF8));
    }
    for (code, text) in [(None, ""), (Some(1000), ""), (Some(1009), "too long")] {
        let mut out = Vec::new();
        write_close(&mut out, code, text);
        let (opcode, range) = server_frame(&out).unwrap();
        assert_eq!((opcode, range.end), (8, out.len()));
        let payload = &out[range];
        assert_eq!(parse_close(payload), Ok(code));
        assert_eq!(payload.get(2..).unwrap_or_default(), text.as_bytes());
    }
}

#[test]
fn a_key_is_accepted_as_the_rfc_says() {
    let accepted = accept_key(b"dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(accepted, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

/// Whether so many bytes of a text may be followed by any that make it UTF-8, and whether they are.
fn judge(text: &[u8]) -> (bool, bool) {
    match std::str::from_utf8(text) {
        Ok(_) => (true, true),
        Err(error) => (error.error_len().is_none(), false),
    }
}

/// Gives a text in parts, and checks after each what is said of it.
fn check_text(text: &[u8], cuts: &[usize]) {
    let mut check = Utf8Check::default();
    let mut end = 0;
    for &cut in cuts.iter().cycle() {
        let start = end;
        end = (end + cut).min(text.len());
        let (goes_on, is_whole) = judge(&text[..end]);
        let shown = text[..end].escape_ascii();
        assert_eq!(
            check.take(&text[start..end]),
            goes_on,
            "{shown} from {start}"
        );
        if !goes_on {
            return;
        }
        assert_eq!(check.is_whole(), is_whole, "{shown} from {start}");
        if end == text.len() {
            return;
        }
    }
}

#[test]
fn what_no_character_begins_with_is_refused_at_that_byte() {
    let mut starts = BTreeSet::new();
    for character in '\u{80}'..=char::MAX {
        let mut bytes = [0; 4];
        let length = character.encode_utf8(&mut bytes).len();
        // Those of the same first bytes stand behind each other.
        for start in (1..length).rev().map(|length| &bytes[..length]) {
            if !starts.contains(start) {
                starts.insert(start.to_vec());
            }
        }
    }
    let mut tried = 0;
    let mut check_next = |start: &[u8]| {
        for byte in 0..=255_u8 {
            let bytes = [start, &[byte]].concat();
            let mut check = Utf8Check::default();
            assert!(start.iter().all(|byte| check.take(&[*byte])));
            let is_start = starts.contains(&bytes);
            let is_whole = std::str::from_utf8(&bytes).is_ok();
            assert_eq!(
                check.take(&[byte]),
                is_start || is_whole,
                "{}",
                bytes.escape_ascii()
            );
            tried += 1;
        }
    };
    check_next(b"");
    starts.iter().for_each(|start| check_next(start));
    // Two bytes: 30 starts; three: 16 starts of 64 less 32; four: 5 of one byte, 256 + 16 of two, and 64 each of three.
    assert!(tried > 256 * 4_000, "{tried}");
}

/// What is next to what a character may begin with.
const BORDERS: &[&[u8]] = &[
    b"\xc0\x80",
    b"\xe0\x9f\x80",
    b"\xed\xa0\x80",
    b"\xf0\x8f\x80\x80",
    b"\xf4\x90\x80\x80",
    b"\xf4\x8f",
    b"\xed\x9f",
    b"\xef\xbf\xbf",
    b"\xc2",
];

fn any_text() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => any::<char>().prop_map(|character| character.to_string().into_bytes()),
        2 => "[a-z]{0,20}".prop_map(String::into_bytes),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
        1 => prop::sample::select(BORDERS).prop_map(<[u8]>::to_vec),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    /// A text in parts is judged as in one piece, after every part.
    #[test]
    fn a_text_is_judged_after_each_part(
        text in any_text(),
        cuts in prop::collection::vec(0..7usize, 0..10).prop_map(|mut cuts| { cuts.push(1); cuts }),
    ) {
        check_text(&text, &cuts);
        check_text(&text, &[1]);
        check_text(&text, &[text.len().max(1)]);
    }

    /// Any bytes are a frame's header or refused, and no part of them says another thing.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
        let whole = Frame::parse(&bytes);
        for cut in 0..bytes.len() {
            match (Frame::parse(&bytes[..cut]), whole) {
                (Ok(None), _) => {}
                (Err(part), Err(whole)) => prop_assert_eq!(part.code, whole.code),
                (part, whole) => prop_assert_eq!(part, whole),
            }
        }
        if let Some((opcode, range)) = server_frame(&bytes) {
            prop_assert!(opcode < 16 && range.start <= range.end && range.end <= bytes.len());
        }
    }
}
