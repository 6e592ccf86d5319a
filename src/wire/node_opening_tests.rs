//! Preambles, refusals, HELLO and WELCOME.

use super::*;
use crate::limits::NODE_REFUSAL_BYTES_MAX;
use crate::node::hello::*;

const DIAL: Dial = Dial {
    versions: (1, 3),
    sealed: true,
    lane: 63,
};

#[test]
fn preambles_are_those_of_the_page() {
    let golden = golden("```preambles");
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    write_accepted(&mut accepted, 1);
    write_refused(&mut refused, Refusal::Full, "full");
    let expected = [
        ("dial", DIAL.bytes().to_vec()),
        ("accepted", accepted),
        ("refused", refused),
        ("prologue", prologue(&DIAL, 1).to_vec()),
    ];
    assert_eq!(golden, expected);
}

#[test]
fn the_dialers_preamble_is_whole_with_its_last_byte() {
    for sealed in [true, false] {
        let dial = Dial { sealed, ..DIAL };
        let bytes = [&dial.bytes()[..], b"more"].concat();
        for length in 0..DIAL_BYTES {
            let needed = DIAL_BYTES;
            let parsed = parse_dial(&bytes[..length]);
            assert_eq!(parsed, Ok(Opening::Incomplete { needed }));
        }
        assert_eq!(parse_dial(&bytes), Ok(Opening::Whole(dial, DIAL_BYTES)));
    }
}

#[test]
fn a_dialer_of_another_protocol_is_refused_at_its_first_wrong_byte() {
    assert_eq!(parse_dial(b"G"), Err(Refusal::Protocol));
    assert_eq!(parse_dial(b"SAPWN!"), Err(Refusal::Protocol));
    let bytes = DIAL.bytes();
    for at in 0..DIAL_BYTES {
        for value in 0..=u8::MAX {
            let mut bytes = bytes;
            bytes[at] = value;
            let is_legal = match at {
                8 | 9 => true,
                10 => value <= 1,
                12 => value < 64,
                _ => value == DIAL.bytes()[at],
            };
            assert_eq!(parse_dial(&bytes).is_ok(), is_legal, "{value} at {at}");
            let early = parse_dial(&bytes[..at + 1]);
            assert!(at >= 8 || early.is_ok() == is_legal);
        }
    }
}

#[test]
fn the_newest_version_that_both_know_is_chosen() {
    let choose = |versions, ours| Dial { versions, ..DIAL }.choose_version(ours);
    assert_eq!(choose((1, 1), (1, 1)), Ok(1));
    assert_eq!(choose((1, 5), (2, 3)), Ok(3));
    assert_eq!(choose((2, 3), (1, 5)), Ok(3));
    assert_eq!(choose((1, 3), (3, 9)), Ok(3));
    assert_eq!(choose((0, 255), (1, 1)), Ok(1));
    assert_eq!(choose((4, 5), (1, 3)), Err(Refusal::Version));
    assert_eq!(choose((1, 3), (4, 5)), Err(Refusal::Version));
    assert_eq!(choose((3, 1), (1, 3)), Err(Refusal::Version));
    assert_eq!(choose((0, 0), (0, 1)), Err(Refusal::Version));
}

#[test]
fn codes_of_refusals_are_stable() {
    for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(refusal.code()), index + 1);
        assert_eq!(Refusal::from_code(refusal.code()), Some(refusal));
        assert!(refusal.text().len() <= NODE_REFUSAL_BYTES_MAX);
        let row = format!("| {} | ", refusal.code());
        assert!(PAGE.contains(&row), "the page lacks {row}");
    }
    assert_eq!(Refusal::from_code(0), None);
    assert_eq!(Refusal::from_code(10), None);
}

#[test]
fn refusals_are_read_at_every_cut() {
    for refusal in Refusal::ALL {
        let (mut bytes, text) = (Vec::new(), refusal.text());
        write_refused(&mut bytes, refusal, text);
        let code = refusal.code();
        for length in 0..bytes.len() {
            let parsed = parse_answer(&bytes[..length], (1, 1));
            let Ok(Opening::Incomplete { needed }) = parsed else {
                panic!("{length} bytes are {parsed:?}");
            };
            let head = length < ANSWER_BYTES;
            assert_eq!(needed, if head { ANSWER_BYTES } else { bytes.len() });
        }
        let whole = Opening::Whole(Answer::Refused { code, text }, bytes.len());
        bytes.extend_from_slice(b"more");
        assert_eq!(parse_answer(&bytes, (1, 1)), Ok(whole));
    }
}

#[test]
fn a_text_that_is_too_long_is_cut_between_characters() {
    let mut bytes = Vec::new();
    write_refused(&mut bytes, Refusal::Place, &"ø".repeat(300)[..599 - 1]);
    let Ok(Opening::Whole(Answer::Refused { text, .. }, 520)) = parse_answer(&bytes, (1, 1)) else {
        panic!("no refusal");
    };
    assert_eq!(text, "ø".repeat(256));
    bytes.clear();
    write_refused(&mut bytes, Refusal::Place, &format!("x{}", "ø".repeat(300)));
    assert_eq!(bytes.len(), ANSWER_BYTES + 511);
}

#[test]
fn wrong_answers_are_refused_for_what_is_wrong() {
    let answer = |bytes: &[u8]| parse_answer(bytes, (2, 3)).map(|_| ());
    assert_eq!(answer(b"SAPW\x02\0\0\0"), Ok(()));
    assert_eq!(answer(b"H"), Err(AnswerError::Magic));
    assert_eq!(answer(b"SAX"), Err(AnswerError::Magic));
    assert_eq!(answer(b"SAPW\x01\0\0\0"), Err(AnswerError::Version(1)));
    assert_eq!(answer(b"SAPW\x04\0\0\0"), Err(AnswerError::Version(4)));
    assert_eq!(answer(b"SAPW\x02\x01\0\0"), Err(AnswerError::Code(1)));
    assert_eq!(answer(b"SAPW\0\0\0\0"), Err(AnswerError::Code(0)));
    assert_eq!(answer(b"SAPW\x02\0\x01\0"), Err(AnswerError::Text(1)));
    assert_eq!(answer(b"SAPW\0\x01\x01\x02"), Err(AnswerError::Text(513)));
    assert_eq!(answer(b"SAPW\0\x01\x01\0\xff"), Err(AnswerError::Text(1)));
    assert_eq!(answer(b"SAPW\0\xff\x01\0?"), Ok(()));
}

#[test]
fn a_refusal_in_place_of_welcome_is_told_from_it() {
    let mut bytes = Vec::new();
    write_refused(&mut bytes, Refusal::Itself, Refusal::Itself.text());
    assert_eq!(is_refusal(&bytes), Some(true));
    assert_eq!(is_refusal(&bytes[..1]), None);
    let [_, (_, welcome), ..] = &examples()[..] else {
        panic!("no examples");
    };
    assert_eq!(is_refusal(&welcome.write()), Some(false));
}

#[test]
fn openings_beyond_their_caps_are_refused_by_the_field() {
    let (longest, long) = ("ø".repeat(32), "x".repeat(65));
    let [(_, Sent::Hello(hello)), (_, Sent::Welcome(welcome)), ..] = examples()[..] else {
        panic!("no examples");
    };
    // Wrong field, lane, shards, advertised address, name.
    let cases = [
        (None, 0, 64, &longest[..], &longest[..]),
        (None, 63, 1, "", ""),
        (Some("name"), 0, 1, "", &long),
        (Some("name"), 0, 1, "", "a\nb"),
        (Some("name"), 0, 1, "", "a\u{85}b"),
        (Some("advertise"), 0, 1, &long, ""),
        (Some("advertise"), 0, 1, "\0", ""),
        (Some("lane"), 64, 1, "", ""),
        (Some("shards"), 0, 0, "", ""),
        (Some("shards"), 0, 65, "", ""),
    ];
    for (field, lane, shards, advertise, name) in cases {
        let hello = Hello {
            lane,
            shards,
            advertise,
            name,
            ..hello
        };
        let expected = field.map_or(Ok(()), |field| Err(FrameError::Body(kind::HELLO, field)));
        assert_eq!(hello.check(), expected);
        let result = check_any(kind::HELLO, &Raw::of_hello(&hello));
        assert_eq!(result, expected);
        let welcome = Welcome {
            shards,
            advertise,
            name,
            ..welcome
        };
        let result = check_any(kind::WELCOME, &Raw::of_welcome(&welcome));
        let is_lane = field == Some("lane");
        assert_eq!(result.is_ok(), field.is_none() || is_lane);
    }
    let unknown = Welcome {
        resumed: false,
        ..welcome
    };
    let result = check_any(kind::WELCOME, &Raw::of_welcome(&unknown));
    assert_eq!(result, Err(FrameError::Body(kind::WELCOME, "received")));
}

#[test]
fn a_name_that_is_not_utf8_is_refused() {
    let raw = Raw::default().u64(1).u64(2).u64(3).u64(4).u8(0).u8(1);
    let body = raw.bytes(b"").bytes(b"\xff").body();
    let expected = Err(FrameError::Body(kind::HELLO, "name"));
    assert_eq!(check_any(kind::HELLO, &body), expected);
}

proptest! {
    #[test]
    fn any_bytes_as_a_preamble_never_panic(input in prop::collection::vec(any::<u8>(), 0..40)) {
        for start in [&b""[..], b"SAPWNODE", b"SAPW", b"SAPW\0\x01"] {
            let input = [start, &input].concat();
            if let Ok(Opening::Incomplete { needed }) = parse_dial(&input) {
                prop_assert!(needed > input.len());
            }
            match parse_answer(&input, (1, 9)) {
                Ok(Opening::Incomplete { needed }) => prop_assert!(needed > input.len()),
                Ok(Opening::Whole(_, length)) => prop_assert!(length <= input.len()),
                Err(_) => {}
            }
        }
    }
}
