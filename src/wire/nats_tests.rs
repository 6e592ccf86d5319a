//! The grammar, case by case, then random streams whole, in pieces and byte by byte.

use super::*;
use proptest::prelude::*;

const CAPS: Caps = Caps {
    line: 4_096,
    body: 1_000,
};

fn parse_one(input: &[u8]) -> Result<Option<(Operation<'_>, usize)>, Violation> {
    parse(input, CAPS).map(|parsed| match parsed {
        Parsed::Operation { operation, length } => Some((operation, length)),
        Parsed::Incomplete { needed } => {
            assert!(
                needed > input.len(),
                "no progress at {}",
                input.escape_ascii()
            );
            None
        }
    })
}

fn message<'a>(
    subject: &'a str,
    reply: Option<&'a str>,
    headers: &'a str,
    payload: &'a str,
) -> Operation<'a> {
    Operation::Publish(Publish {
        subject: subject.as_bytes(),
        reply: reply.map(str::as_bytes),
        headers: headers.as_bytes(),
        payload: payload.as_bytes(),
    })
}

#[test]
fn every_operation_is_read_as_nats_server_reads_it() {
    let sub = |subject: &'static [u8], queue, sid: &'static [u8]| Operation::Subscribe {
        subject,
        queue,
        sid,
    };
    let unsub = |sid: &'static [u8], after| Operation::Unsubscribe { sid, after };
    let block = "NATS/1.0\r\nA: b\r\n\r\n";
    let cases = [
        ("PUB a 5\r\nhello\r\n", message("a", None, "", "hello")),
        ("pub a 5\r\nhello\r\n", message("a", None, "", "hello")),
        ("Pub\ta \t 5\nhello\r\n", message("a", None, "", "hello")),
        (
            "PUB  a.b  r.1  2 \r\nhi\r\n",
            message("a.b", Some("r.1"), "", "hi"),
        ),
        ("PUB a 00\r\n\r\n", message("a", None, "", "")),
        (
            "PUB a 4\r\n\r\n\r\n\r\n",
            message("a", None, "", "\r\n\r\n"),
        ),
        (
            "HPUB a 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nxy\r\n",
            message("a", None, block, "xy"),
        ),
        (
            "HPUB a r 18 18\r\nNATS/1.0\r\nA: b\r\n\r\n\r\n",
            message("a", Some("r"), block, ""),
        ),
        ("SUB a.* 1\r\n", sub(b"a.*", None, b"1")),
        ("sub a q seven\n", sub(b"a", Some(b"q"), b"seven")),
        ("UNSUB 1\r\n", unsub(b"1", 0)),
        ("UNSUB 1 10\r\n", unsub(b"1", 10)),
        ("CONNECT {\"a\": 1}\r\n", Operation::Connect(b"{\"a\": 1}")),
        ("PING\r\n", Operation::Ping),
        ("ping \n", Operation::Ping),
        ("PONG\r\n", Operation::Pong),
        ("+OK\r\n", Operation::Ignored),
        ("UNSUB 1 x\r\n", unsub(b"1", 0)),
        ("UNSUB 1 -1\r\n", unsub(b"1", 0)),
        ("INFO {}\r\n", Operation::Ignored),
    ];
    for (text, expected) in cases {
        let input = text.as_bytes();
        assert_eq!(
            parse_one(input),
            Ok(Some((expected, input.len()))),
            "{text:?}"
        );
        for cut in 0..input.len() {
            assert_eq!(parse_one(&input[..cut]), Ok(None), "{text:?} cut at {cut}");
        }
    }
}

#[test]
fn what_is_no_operation_is_refused_by_name() {
    let cases: &[(&[u8], Violation)] = &[
        (b"\r\n", Violation::Unknown),
        (b"GET / HTTP/1.1\r\n", Violation::Unknown),
        (b"PUBLISH a 1\r\n", Violation::Unknown),
        (b"PUB a\r\n", Violation::Unknown),
        (b"PUB a b c d 1\r\n", Violation::Unknown),
        (b"PUB a x\r\n", Violation::Unknown),
        (b"PUB a -1\r\n", Violation::Unknown),
        (b"PUB a 1.0\r\n", Violation::Unknown),
        (b"PUB a 1\r\nxx\r\n", Violation::Unknown),
        (b"PUB a 1\r\nx\n\n", Violation::Unknown),
        (b"PUB a 99999999999999999999\r\n", Violation::Unknown),
        (b"HPUB a 1\r\n", Violation::Unknown),
        (b"HPUB a 3 2\r\nxx\r\n", Violation::Unknown),
        (b"SUB a\r\n", Violation::Unknown),
        (b"SUB a b c d\r\n", Violation::Unknown),
        (b"UNSUB\r\n", Violation::Unknown),
        (b"-ERR 'x'\r\n", Violation::Unknown),
        (b"UNSUB 1 2 3\r\n", Violation::Unknown),
        // Refused before a byte of the body has come.
        (b"PUB a 1001\r\n", Violation::BodyTooLong),
        (b"HPUB a 10 1001\r\n", Violation::BodyTooLong),
        (b"PUB a 999999999\r\n", Violation::BodyTooLong),
    ];
    for (input, violation) in cases {
        assert_eq!(
            parse_one(input),
            Err(*violation),
            "{}",
            input.escape_ascii()
        );
    }
    let long = |bytes: usize| [b"SUB ", &vec![b'a'; bytes][..], b" 1\r\n"].concat();
    assert!(parse_one(&long(4_094)).is_ok());
    assert_eq!(parse_one(&long(4_095)), Err(Violation::LineTooLong));
    let endless = vec![b'a'; 5_000];
    assert_eq!(parse_one(&endless), Err(Violation::LineTooLong));
}

#[test]
fn connect_takes_for_granted_what_nats_server_does() {
    let read = |json: &str| {
        let mut connect = Connect::default();
        connect.update(json.as_bytes()).map(|()| connect)
    };
    assert_eq!(read("{}"), Ok(Connect::default()));
    let connect =
        read(r#"{"verbose":false,"echo":false,"user":"u","pass":"p","jwt":"x","nkey":null}"#);
    let connect = connect.unwrap();
    assert!(!connect.verbose && connect.pedantic && !connect.echo);
    assert_eq!(
        (connect.user.as_deref(), connect.pass.as_deref()),
        (Some("u"), Some("p"))
    );
    for wrong in ["", "[]", "{", "{\"verbose\":1}", "\u{0}"] {
        assert_eq!(read(wrong), Err(Violation::Unknown), "{wrong:?}");
    }
}

#[test]
fn a_second_connect_changes_what_it_says() {
    let mut connect = Connect::default();
    let first = br#"{"Verbose":false,"HEADERS":true,"name":"one","protocol":1}"#;
    assert_eq!(connect.update(first), Ok(()));
    let second = br#"{"verbose":null,"name":"two","name":"three","unknown":[1],"echo":false}"#;
    assert_eq!(connect.update(second), Ok(()));
    let expected = Connect {
        verbose: false,
        headers: true,
        echo: false,
        protocol: 1,
        name: Some("three".to_string()),
        ..Connect::default()
    };
    assert_eq!(connect, expected);
    for wrong in [
        r#"{"lang":3}"#,
        r#"{"protocol":"1"}"#,
        r#"{"protocol":0.5}"#,
    ] {
        let refused = connect.update(wrong.as_bytes());
        assert_eq!(refused, Err(Violation::Unknown), "{wrong}");
    }
}

#[test]
fn info_is_one_line_of_json() {
    let info = Info {
        server_id: "id",
        server_name: "name\r\n",
        version: "2.9.10",
        proto: 1,
        host: "127.0.0.1".to_string(),
        port: 4222,
        headers: true,
        max_payload: 1024,
        client_id: 7,
        client_ip: "::1".to_string(),
        auth_required: false,
        ldm: true,
        connect_urls: &[],
    };
    let mut out = Vec::new();
    write_info(&mut out, &info);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.matches("\r\n").count(), 1, "{text:?}");
    let json: serde_json::Value = serde_json::from_str(&text["INFO ".len()..]).unwrap();
    assert_eq!(
        (&json["max_payload"], &json["ldm"]),
        (&1024.into(), &true.into())
    );
    assert!(json.get("auth_required").is_none() && json.get("connect_urls").is_none());
}

#[test]
fn subjects_are_judged_as_nats_server_does() {
    for (subject, can_publish, can_subscribe) in [
        ("a", true, true),
        ("a.b.c", true, true),
        ("a*.>b", true, true),
        ("*", false, true),
        ("a.*", false, true),
        ("a.>", false, true),
        (">", false, true),
        (">.a", false, false),
        ("a..b", false, false),
        (".a", false, false),
        ("a.", false, false),
        ("", false, false),
        ("a b", false, false),
    ] {
        let judged = (
            is_literal_subject(subject.as_bytes()),
            is_subject(subject.as_bytes()),
        );
        assert_eq!(judged, (can_publish, can_subscribe), "{subject:?}");
    }
}

fn any_operation() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(any::<u8>(), 0..60);
    let word = "[a-zA-Z0-9.*>_]{1,8}";
    let publish = (word, prop::option::of(word), body).prop_map(|(subject, reply, body)| {
        let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
        let mut out = format!("PUB {subject} {reply}{}\r\n", body.len()).into_bytes();
        out.extend_from_slice(&body);
        out.extend_from_slice(b"\r\n");
        out
    });
    let others = prop_oneof![
        Just("PING\r\n".to_string()),
        Just("PONG\n".to_string()),
        Just("CONNECT {}\r\n".to_string()),
        (word, word).prop_map(|(subject, sid)| format!("SUB {subject} {sid}\r\n")),
        (word, 0..1_000u32).prop_map(|(sid, after)| format!("UNSUB {sid} {after}\r\n")),
    ];
    prop_oneof![publish, others.prop_map(String::into_bytes)]
}

proptest! {
    /// However a stream is cut, the same operations come out of it.
    #[test]
    fn a_stream_is_read_alike_however_it_is_cut(
        operations in prop::collection::vec(any_operation(), 1..8),
        cuts in prop::collection::vec(1..40usize, 1..40),
    ) {
        let stream = operations.concat();
        let mut whole = Vec::new();
        let mut at = 0;
        while let Some((operation, length)) = parse_one(&stream[at..]).unwrap() {
            whole.push(format!("{operation:?}"));
            at += length;
        }
        prop_assert_eq!((at, whole.len()), (stream.len(), operations.len()));
        let (mut pieces, mut end, mut at) = (Vec::new(), 0, 0);
        for cut in cuts.iter().cycle() {
            end = (end + cut).min(stream.len());
            while let Some((operation, length)) = parse_one(&stream[at..end]).unwrap() {
                pieces.push(format!("{operation:?}"));
                at += length;
            }
            if end == stream.len() {
                break;
            }
        }
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(Some((_, length))) = parse_one(&bytes) {
            prop_assert!(length > 0 && length <= bytes.len());
        }
    }
}
