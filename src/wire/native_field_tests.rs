//! The native protocol field by field: too short, too long, at its borders and past its caps.

use super::*;
use crate::headers;
use crate::topic::check_name;

/// What stands behind the last field of a kind.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tail {
    Nothing,
    /// Any bytes.
    Rest,
    /// Options, which begin or end at these places.
    Options(&'static [usize]),
}

/// Where a field ends, and its name.
type Field = (usize, &'static str);

/// Examples, where their fields end, counted from behind the kind, and what stands after these.
const FIELDS: &[(&str, &[Field], Tail)] = &[
    (
        "hello_password",
        &[(4, "magic"), (5, "oldest version"), (6, "newest version")],
        Tail::Options(&[6, 12, 21]),
    ),
    ("welcome", &[(1, "version")], Tail::Options(&[1, 12, 19])),
    ("message", &[(1, "flags"), (7, "topic")], Tail::Rest),
    (
        "message_full",
        &[(1, "flags"), (6, "topic"), (12, "reply"), (24, "headers")],
        Tail::Rest,
    ),
    (
        "request",
        &[
            (4, "request"),
            (5, "when"),
            (6, "flags"),
            (11, "topic"),
            (16, "reply"),
        ],
        Tail::Rest,
    ),
    (
        "subscribe_group",
        &[(4, "request"), (8, "member"), (11, "group")],
        Tail::Rest,
    ),
    (
        "unsubscribe",
        &[(4, "request"), (8, "member"), (9, "group")],
        Tail::Rest,
    ),
    ("ping", &[(4, "request")], Tail::Nothing),
    ("drain", &[(4, "request")], Tail::Nothing),
    ("ack", &[(4, "request"), (8, "count")], Tail::Nothing),
    ("error", &[(4, "request"), (6, "code")], Tail::Rest),
    (
        "turn",
        &[(4, "member"), (5, "flags"), (11, "topic")],
        Tail::Rest,
    ),
    ("gap", &[(8, "events")], Tail::Nothing),
    ("draining", &[(4, "milliseconds")], Tail::Nothing),
];

/// Whether it parses, by the broker for what clients send and by a client for the rest.
fn outcome(frame: &[u8]) -> Result<(), FrameError> {
    let whole = |length| assert_eq!(length, frame.len());
    let result = match frame[LENGTH_BYTES] {
        kind if kind < 0x80 => parse_client(frame).map(|parsed| match parsed {
            Parsed::Frame { length, .. } => whole(length),
            Parsed::Incomplete { .. } => panic!("a whole frame is incomplete"),
        }),
        _ => parse_from_broker(frame).map(|parsed| match parsed {
            Parsed::Frame { length, .. } => whole(length),
            Parsed::Incomplete { .. } => panic!("a whole frame is incomplete"),
        }),
    };
    if frame[LENGTH_BYTES] == kind::MESSAGE {
        assert_eq!(result, parse_from_broker(frame).map(|_| ()), "both sides");
    }
    result
}

#[test]
fn frames_shorter_or_longer_than_their_fields_are_refused() {
    for &(name, fields, tail) in FIELDS {
        let frame = example(name);
        let (kind, body) = (frame[LENGTH_BYTES], &frame[LENGTH_BYTES + 1..]);
        for cut in 0..body.len() {
            let field = fields.iter().find(|(end, _)| cut < *end);
            let field = match (field, tail) {
                (Some((_, field)), _) => Some(*field),
                (None, Tail::Options(ends)) if !ends.contains(&cut) => Some("options"),
                _ => None,
            };
            let expected = field.map_or(Ok(()), |field| Err(FrameError::Truncated { kind, field }));
            let short = framed(kind, &body[..cut]);
            assert_eq!(outcome(&short), expected, "{name} cut to {cut} bytes");
        }
        for bytes in [1, 2, 300] {
            let expected = match tail {
                Tail::Nothing => Err(FrameError::Trailing { kind, bytes }),
                Tail::Rest => Ok(()),
                Tail::Options(_) => Err(FrameError::Truncated {
                    kind,
                    field: "options",
                }),
            };
            let long = framed(kind, &[body, &vec![b'x'; bytes]].concat());
            assert_eq!(outcome(&long), expected, "{name} and {bytes} bytes");
        }
    }
}

#[test]
fn lengths_within_a_frame_cannot_reach_beyond_it() {
    // Where lengths of two bytes stand, counted from behind the kind, and what they measure.
    let lengths = [
        ("message", 1, "topic"),
        ("message_full", 6, "reply"),
        ("message_full", 12, "headers"),
        ("message_full", 17, "header value"),
        ("message_full", 22, "header value"),
        ("request", 6, "topic"),
        ("turn", 5, "topic"),
        ("hello_password", 7, "options"),
        ("hello_password", 13, "options"),
        ("welcome", 2, "options"),
        ("welcome", 13, "options"),
    ];
    for (name, place, field) in lengths {
        let mut frame = example(name);
        let (kind, place) = (frame[LENGTH_BYTES], LENGTH_BYTES + 1 + place);
        let left = frame.len() - place - 2;
        for length in [left + 1, left + 256, usize::from(u16::MAX)] {
            frame[place..place + 2].copy_from_slice(&(length as u16).to_le_bytes());
            let expected = Err(FrameError::Truncated { kind, field });
            assert_eq!(outcome(&frame), expected, "{name}: {field} of {length}");
        }
    }
    let mut group = example("subscribe_group");
    group[13] = 8;
    let (kind, field) = (kind::SUBSCRIBE, "group");
    assert_eq!(outcome(&group), Err(FrameError::Truncated { kind, field }));
}

#[test]
fn headers_fill_their_block_exactly() {
    let kind = kind::MESSAGE;
    let full = example("message_full");
    for length in 0..10 {
        let mut frame = full.clone();
        frame[17] = length;
        let expected = match length {
            0 | 6 => Ok(()),
            1 | 2 | 7 => Err("header name"),
            _ => Err("header value"),
        };
        let expected = expected.map_err(|field| FrameError::Truncated { kind, field });
        assert_eq!(outcome(&frame), expected, "headers of {length} bytes");
    }
    // A name that reaches behind the headers, where the payload has bytes enough.
    let frame = framed(kind, b"\x02\x01\0a\x04\0\x04a\0\0payload");
    let field = "header name";
    assert_eq!(outcome(&frame), Err(FrameError::Truncated { kind, field }));
}

fn hello_with(options: &[u8]) -> Vec<u8> {
    framed(kind::HELLO, &[b"SAPW\x01\x01", options].concat())
}

fn option(id: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write::write_option(&mut out, id, value);
    out
}

#[test]
fn values_that_must_not_be_are_refused() {
    let policy = |value: &[u8]| hello_with(&option(5, value));
    let welcome =
        |id, value: &[u8]| framed(kind::WELCOME, &[b"\x01", &option(id, value)[..]].concat());
    let cases: &[(Vec<u8>, &str)] = &[
        (framed(kind::HELLO, b"SAPX\x01\x01"), "magic"),
        (framed(kind::PING, &[0; 4]), "request"),
        (framed(kind::DRAIN, &[0; 4]), "request"),
        (framed(kind::PUBLISH, b"\0\0\0\0\x01\0\x01\0a"), "request"),
        (framed(kind::SUBSCRIBE, b"\0\0\0\0\0\0\0\0\0a"), "request"),
        (framed(kind::UNSUBSCRIBE, b"\0\0\0\0\0\0\0\0\0a"), "request"),
        (framed(kind::ACK, &[0; 8]), "request"),
        (framed(kind::PUBLISH, b"\x01\0\0\0\0\0\x01\0a"), "when"),
        (framed(kind::PUBLISH, b"\x01\0\0\0\x04\0\x01\0a"), "when"),
        (framed(kind::ANSWER, b"\x01\0\0\0\x02"), "more"),
        (framed(kind::STORED, b"\x01\0\0\0\0\0\0\0"), "count"),
        (framed(kind::STORED, b"\xff\xff\xff\xff\x02\0\0\0"), "count"),
        (framed(kind::MESSAGE, b"\x08\x01\0a"), "flags"),
        (framed(kind::MESSAGE, b"\x80\x01\0a"), "flags"),
        (framed(kind::TURN, b"\x01\0\0\0\x10\x01\0a"), "flags"),
        (
            framed(kind::SUBSCRIBE, b"\x01\0\0\0\x01\0\0\0\0a"),
            "member",
        ),
        (
            framed(kind::UNSUBSCRIBE, b"\x01\0\0\0\0\0\0\x01\0a"),
            "member",
        ),
        (framed(kind::ERROR, b"\0\0\0\0\x64\0\xff"), "text"),
        (policy(b""), "options"),
        (policy(b"\0"), "options"),
        (policy(b"\x04"), "options"),
        (policy(b"\x01\0"), "options"),
        (hello_with(&option(3, b"\xff")), "options"),
        (hello_with(&option(3, &[b'n'; 256])), "options"),
        (hello_with(&option(4, b"\xff")), "options"),
        (hello_with(&option(4, &[b'l'; 256])), "options"),
        (welcome(1, b"\xff"), "options"),
        (welcome(2, &[0; 7]), "options"),
        (welcome(2, &[0; 9]), "options"),
        (welcome(3, b"\xff"), "options"),
        (welcome(4, &[0; 3]), "options"),
        (welcome(4, &[0; 5]), "options"),
    ];
    for (frame, expected_field) in cases {
        let error = outcome(frame).expect_err(expected_field);
        assert_eq!(error.code(), ErrorCode::Malformed);
        let FrameError::Value { kind, field, .. } = error else {
            panic!("{error:?} instead of the field {expected_field}");
        };
        assert_eq!((kind, field), (frame[LENGTH_BYTES], *expected_field));
        assert!(error.to_string().contains(&format!("0x{kind:02x}")));
    }
}

#[test]
fn values_at_their_borders_are_taken() {
    let long = "n".repeat(255);
    let hello = Hello {
        versions: (0, 255),
        user: Some(b""),
        password: Some(b"\0\xff"),
        name: &long,
        library: &long,
        policy: None,
    };
    check(&Sent::Hello(hello));
    check(&Sent::Ping(u32::MAX));
    check(&Sent::Gap(u64::MAX));
    check(&Sent::Error(0, ErrorCode::Malformed, ""));
    let member = Subscription {
        member: 0,
        group: &[b'g'; 255],
        filter: b"",
    };
    check(&Sent::Subscribe(1, member));
    check(&Sent::Message(message_parts(b"", b"")));
    // A block without headers, and a reply topic without bytes: nothing forbids them.
    let frame = framed(kind::MESSAGE, b"\x03\x01\0a\0\0\0\0payload");
    let Ok(Parsed::Frame { frame, .. }) = parse_client(&frame) else {
        panic!("refused");
    };
    let ClientFrame::Message(message) = frame else {
        panic!("{frame:?}");
    };
    assert_eq!(
        (message.reply(), message.headers().count()),
        (Some(&b""[..]), 0)
    );
}

#[test]
fn options_are_skipped_when_unknown_and_refused_when_twice() {
    let expected = Hello {
        user: Some(b"ada"),
        ..Hello::default()
    };
    for id in 0..=u8::MAX {
        let twice = |kind| {
            Err(FrameError::Value {
                kind,
                field: "options",
                expected: "without one that stands twice",
            })
        };
        let once = option(id, b"\x01");
        let frame = hello_with(&[&once[..], &once].concat());
        assert_eq!(outcome(&frame), twice(kind::HELLO), "option {id}");
        let once = option(id, if id == 4 { b"0000" } else { b"00000000" });
        let frame = framed(kind::WELCOME, &[b"\x01", &once[..], &once].concat());
        assert_eq!(outcome(&frame), twice(kind::WELCOME), "option {id}");
        if !(1..=5).contains(&id) {
            let options = [&option(id, &[0xff; 300])[..], &option(1, b"ada")].concat();
            let frame = hello_with(&options);
            check_parser(
                &frame,
                frame.len(),
                ClientFrame::Hello(expected),
                parse_client,
            );
        }
        if !(1..=4).contains(&id) {
            let fields = [
                b"\x01",
                &option(id, &[0xff; 300])[..],
                &option(4, &[9, 0, 0, 0]),
            ];
            let frame = framed(kind::WELCOME, &fields.concat());
            let expected = BrokerFrame::Welcome(Welcome {
                version: 1,
                payload_max: 9,
                ..Welcome::default()
            });
            check_parser(&frame, frame.len(), expected, parse_from_broker);
        }
    }
}

#[test]
fn lengths_over_the_cap_are_refused_from_the_header_alone() {
    for cap in [NATIVE_HELLO_BYTES_MAX, NATIVE_FRAME_BYTES_MAX] {
        for length in [cap + 1, u32::MAX as usize] {
            let header = (length as u32).to_le_bytes();
            let error = FrameError::TooLong { length, cap };
            assert_eq!(parse_from_client(&header, cap), Err(error));
            assert_eq!(error.code(), ErrorCode::FrameTooLong);
            assert!(error.to_string().contains(&cap.to_string()));
        }
        let header = (cap as u32).to_le_bytes();
        let needed = LENGTH_BYTES + cap;
        let incomplete = Ok(Parsed::Incomplete { needed });
        assert_eq!(parse_from_client(&header, cap), incomplete);
    }
    // A reader that waits for as many bytes as it was told to learns it no later.
    let slowly = frames_in_pieces(&[0xff; 4], &[1, 2, 3], parse_client);
    assert!(matches!(slowly, Err(FrameError::TooLong { .. })));
    let (length, cap) = (NATIVE_FRAME_BYTES_MAX + 1, NATIVE_FRAME_BYTES_MAX);
    let header = (length as u32).to_le_bytes();
    assert_eq!(
        parse_from_broker(&header),
        Err(FrameError::TooLong { length, cap })
    );
    assert_eq!(parse_client(&[0; 4]), Err(FrameError::Empty));
    assert_eq!(parse_from_broker(&[0; 4]), Err(FrameError::Empty));
    assert_eq!(FrameError::Empty.code(), ErrorCode::Malformed);
    assert_eq!(FrameError::UnknownKind(0).code(), ErrorCode::UnknownKind);
}

#[test]
fn the_largest_legal_message_fits_into_a_frame_of_each_kind() {
    let topic = [b't'; TOPIC_BYTES_MAX];
    check_name(&topic).expect("a legal topic");
    let value = vec![b'v'; 65_535 - 3 - 1];
    let payload = vec![0; PAYLOAD_BYTES_MAX];
    let parts = Parts {
        topic: &topic,
        reply: Some(&topic),
        headers: &[(b"n", &value)],
        is_end: true,
        payload: &payload,
    };
    for sent in [
        Sent::Message(parts),
        Sent::Publish(1, When::Always, parts),
        Sent::Turn(1, parts),
    ] {
        let frame = sent.write();
        outcome(&frame).expect("a frame under the cap");
    }
}

#[test]
fn parts_that_make_no_message_write_nothing() {
    fn refused(parts: &Parts<'_>) -> Option<PartsError> {
        let mut out = b"before".to_vec();
        let result = parts.write(&mut out);
        assert_eq!(result.is_err(), out == b"before", "all or nothing");
        result.err()
    }
    let (fits, long) = (vec![b'a'; 65_535], vec![b'a'; 65_536]);
    assert_eq!(refused(&message_parts(&fits, b"")), None);
    assert_eq!(
        refused(&message_parts(&long, b"")),
        Some(PartsError::Topic(65_536))
    );
    let with_reply = |reply| Parts {
        reply: Some(reply),
        ..message_parts(b"a", b"")
    };
    assert_eq!(refused(&with_reply(&fits)), None);
    assert_eq!(refused(&with_reply(&long)), Some(PartsError::Topic(65_536)));
    let payload = vec![0; PAYLOAD_BYTES_MAX + 1];
    let error = PartsError::Payload(PAYLOAD_BYTES_MAX + 1);
    assert_eq!(refused(&message_parts(b"a", &payload)), Some(error));

    let with_headers = |headers: &[(&[u8], &[u8])]| {
        refused(&Parts {
            headers,
            ..message_parts(b"a", b"")
        })
    };
    assert_eq!(with_headers(&[(b"n", &fits[4..])]), None);
    let error = Some(PartsError::Headers(65_536));
    assert_eq!(with_headers(&[(b"n", &fits[3..])]), error);
    assert_eq!(with_headers(&[(b"n", &fits[10..]), (b"name", b"")]), error);
    assert_eq!(with_headers(&[(b"n", &fits[11..]), (b"name", b"")]), None);
    let error = Some(PartsError::Header);
    assert_eq!(with_headers(&[(b"n", b""), (b"", b"")]), error);
    assert_eq!(with_headers(&[(b"n:", b"")]), error);
    assert_eq!(with_headers(&[(&fits[..256], b"")]), error);
    assert_eq!(with_headers(&[(b"n", b"a\nb")]), error);
    assert_eq!(with_headers(&[(b"n", &long)]), error);
}

#[test]
fn headers_stand_in_order_and_are_found_by_name() {
    let parts = Parts {
        reply: Some(b"r"),
        headers: &[
            (b"b", b"1"),
            (b"Content-Type", b"text"),
            (b"B", b""),
            (b"b", b"2"),
        ],
        ..message_parts(b"a", b"payload")
    };
    let bytes = message_bytes(&parts);
    let message = message_from(&parts, &bytes);
    let headers = message.headers();
    assert_eq!(headers.find(b"b"), Some(&b"1"[..]), "the first of a name");
    assert_eq!(headers.find(b"CONTENT-type"), Some(&b"text"[..]));
    assert_eq!(headers.find(b"Content"), None);
    assert_eq!(headers.find(b""), None);
    assert_eq!(headers.count(), 4, "finding takes nothing away");
    let mut headers = message.headers();
    assert_eq!(headers.by_ref().count(), 4);
    assert_eq!(headers.next(), None, "the end stays the end");
}

#[test]
fn attributes_are_read_as_the_flags_say() {
    let attributes = b"\x01\0r\x04\0\x01n\0\0";
    let name = |flags| {
        attributes_headers(flags, attributes)
            .next()
            .map(|(name, _)| name)
    };
    assert_eq!(attributes_reply(0, attributes), None);
    assert_eq!(attributes_reply(flag::REPLY, attributes), Some(&b"r"[..]));
    assert_eq!(attributes_reply(flag::ALL, attributes), Some(&b"r"[..]));
    assert_eq!(name(flag::ALL), Some(&b"n"[..]));
    assert_eq!(name(flag::REPLY), None);
    assert_eq!(name(flag::END), None);
    let only_headers = attributes_headers(flag::HEADERS, &attributes[3..]);
    assert_eq!(only_headers.collect::<Vec<_>>(), [(&b"n"[..], &b""[..])]);
    // Attributes that no parser gave: nothing is found, nothing panics.
    for end in 0..3 {
        assert_eq!(attributes_reply(flag::ALL, &attributes[..end]), None);
        assert_eq!(
            attributes_headers(flag::ALL, &attributes[..end]).next(),
            None
        );
    }
}

#[test]
fn header_names_and_values_hold_only_their_bytes() {
    for byte in 0..=u8::MAX {
        let in_name = (0x21..=0x7e).contains(&byte) && byte != 0x3a;
        assert_eq!(
            headers::is_name(&[b'n', byte]),
            in_name,
            "{byte:#x} in a name"
        );
        let in_value = ![0x00, 0x0a, 0x0d].contains(&byte);
        assert_eq!(
            headers::is_value(&[b'v', byte]),
            in_value,
            "{byte:#x} in a value"
        );
        // What the parser takes, because it is not its business, is told apart by `are_valid`.
        let block = [2, b'n', byte, 2, 0, b'v', byte];
        let attributes = [&[7, 0], &block[..]].concat();
        let headers = attributes_headers(flag::HEADERS, &attributes);
        assert_eq!(headers.are_valid(), in_name && in_value, "{byte:#x}");
    }
    assert!(!headers::is_name(b""));
    assert!(!attributes_headers(flag::HEADERS, b"\x03\0\0\0\0").are_valid());
    assert!(headers::is_name(&[b'n'; 255]) && !headers::is_name(&[b'n'; 256]));
    assert!(headers::is_value(b"") && headers::is_value(&vec![b'v'; 65_535]));
    assert!(!headers::is_value(&vec![b'v'; 65_536]));
}

#[test]
fn policies_are_known_by_name() {
    for policy in Policy::ALL {
        assert_eq!(Policy::from_name(policy.name()), Some(policy));
    }
    assert_eq!(Policy::from_name("Close"), None);
    assert_eq!(Policy::default(), Policy::Close);
}

#[test]
#[should_panic(expected = "a group is too long")]
fn a_group_that_its_length_field_cannot_say_is_not_written() {
    let subscription = Subscription {
        member: 1,
        group: &[b'g'; 256],
        filter: b"a",
    };
    write_subscription(&mut Vec::new(), kind::SUBSCRIBE, 1, &subscription);
}

#[test]
#[should_panic(expected = "a text is too long")]
fn an_option_that_its_length_field_cannot_say_is_not_written() {
    let hello = Hello {
        password: Some(&[b'p'; 65_536]),
        ..Hello::default()
    };
    write_hello(&mut Vec::new(), &hello);
}
