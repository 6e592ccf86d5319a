//! Requests field by field and cut everywhere, the caps, and events that are written and read again by another reader.

use super::*;
use crate::limits::{JSON_FRAME_BYTES_MAX, PAYLOAD_BYTES_MAX, TOPIC_BYTES_MAX};
use crate::native::{attributes_headers, flag};
use base64::engine::general_purpose::URL_SAFE;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Reads a frame, and checks that no part of it is one.
fn read(frame: &str) -> Result<String, (Option<u64>, String)> {
    let show = |frame: &[u8]| match Request::parse(frame) {
        Ok(request) => Ok(format!("{request:?}")),
        Err(error) => Err((error.id, error.to_string())),
    };
    for cut in 0..frame.trim_end().len() {
        let part = show(&frame.as_bytes()[..cut]);
        assert!(part.is_err(), "{frame} cut at {cut}: {part:?}");
    }
    let whole = show(frame.as_bytes());
    let blanks = show(format!(" \t{frame}\r\n ").as_bytes());
    assert_eq!(blanks.is_ok(), whole.is_ok(), "blanks around {frame}");
    whole.as_ref().map_err(Clone::clone)?;
    for behind in ["x", ",", "}", "{}", "\0"] {
        assert!(
            show(format!("{frame}{behind}").as_bytes()).is_err(),
            "{behind} behind {frame}"
        );
    }
    whole
}

#[track_caller]
fn publish(frame: &str) -> Publish<'_> {
    match Request::parse(frame.as_bytes()).map(|request| request.op) {
        Ok(Op::Publish(publish)) => publish,
        other => panic!("{frame}: {other:?}"),
    }
}

#[test]
fn every_request_is_read() {
    let frames = [
        (r#"{"op":"ping"}"#, "id: None, op: Ping"),
        (r#"{"id":1,"op":"ping"}"#, "id: Some(1), op: Ping"),
        (
            r#"{ "op" : "drain" , "id" : 9007199254740991 }"#,
            "id: Some(9007199254740991), op: Drain",
        ),
        (r#"{"op":"p\u0069ng"}"#, "id: None, op: Ping"),
        (
            r#"{"op":"subscribe","filter":"a.*"}"#,
            r#"id: None, op: Subscribe(Subscription { filter: "a.*", group: "", member: 0 })"#,
        ),
        (
            r#"{"op":"unsubscribe","member":4294967295,"group":"g","filter":"","id":2}"#,
            r#"id: Some(2), op: Unsubscribe(Subscription { filter: "", group: "g", member: 4294967295 })"#,
        ),
        (
            r#"{"op":"hello"}"#,
            "id: None, op: Hello(Hello { user: None, password: None, name: \"\", library: \"\", policy: None, version: None })",
        ),
        (
            r#"{"op":"hello","user":"u","password":"p","name":"n","library":"l/1","policy":"latest","version":2}"#,
            "id: None, op: Hello(Hello { user: Some(\"u\"), password: Some(\"p\"), name: \"n\", library: \"l/1\", \
             policy: Some(Latest), version: Some(2) })",
        ),
    ];
    for (frame, expected) in frames {
        assert_eq!(
            read(frame),
            Ok(format!("Request {{ {expected} }}")),
            "{frame}"
        );
    }
}

#[test]
fn a_publish_is_read_field_by_field() {
    let frames = [
        (r#"{"op":"publish","topic":"a"}"#, "a", &b""[..]),
        (r#"{"op":"publish","topic":"a","data":"b c"}"#, "a", b"b c"),
        (
            r#"{"data":"\"\\\/\b\f\n\r\t\u0000","topic":"\u00fc","op":"publish"}"#,
            "\u{fc}",
            b"\"\\/\x08\x0c\n\r\t\0",
        ),
        (
            r#"{"op":"publish","topic":"a","data":"\ud83d\ude00"}"#,
            "a",
            "\u{1f600}".as_bytes(),
        ),
        (r#"{"op":"publish","topic":"a","data_b64":""}"#, "a", b""),
        (
            r#"{"op":"publish","topic":"a","data_b64":"AP\u002f+"}"#,
            "a",
            b"\0\xff\xfe",
        ),
        (
            r#"{"op":"publish","topic":"a","data_b64":"/w=="}"#,
            "a",
            b"\xff",
        ),
    ];
    for (frame, topic, payload) in frames {
        assert!(read(frame).is_ok(), "{frame}");
        let publish = publish(frame);
        assert_eq!(
            (&*publish.topic, &*publish.payload),
            (topic, payload),
            "{frame}"
        );
        assert_eq!(
            (publish.when, publish.reply()),
            (When::Always, None),
            "{frame}"
        );
    }
    let full = r#"{"op":"publish","topic":"a","reply":"r","headers":[["k","1"],["K","\u0032"]],"last":true,"when":"unheard","id":3}"#;
    assert!(read(full).is_ok());
    let full = publish(full);
    assert_eq!((full.reply(), full.when), (Some(&b"r"[..]), When::Unheard));
    let mut attributes = Vec::new();
    let flags = full.write_attributes(&mut attributes).unwrap();
    assert_eq!(flags, flag::REPLY | flag::HEADERS | flag::END);
    let headers: Vec<_> = attributes_headers(flags, &attributes).collect();
    assert_eq!(headers, [(&b"k"[..], &b"1"[..]), (b"K", b"2")]);
    // What needs no copy is none.
    let plain = r#"{"op":"publish","topic":"a","data":"b"}"#;
    let plain = publish(plain);
    assert!(matches!(
        (plain.topic, plain.payload),
        (Cow::Borrowed(_), Cow::Borrowed(_))
    ));
}

/// What is wrong with a frame that has an id, but for the id.
const WRONG_WITH_ID: &[&str] = &[
    r#""op":"ping","topic":"a""#,
    r#""op":"ping","unknown":1"#,
    r#""op":"nothing""#,
    r#""op":"PING""#,
    r#""op":1"#,
    r#""op":null"#,
    r#""x":1"#,
    r#""op":"ping","op":"ping""#,
    r#""op":"publish""#,
    r#""op":"publish","topic":null"#,
    r#""op":"publish","topic":"a","topic":"b""#,
    r#""op":"publish","topic":"a","data":null"#,
    r#""op":"publish","topic":"a","data":1"#,
    r#""op":"publish","topic":"a","data":"","data_b64":"""#,
    r#""op":"publish","topic":"a","data_b64":"YQ""#,
    r#""op":"publish","topic":"a","data_b64":"Y Q=""#,
    r#""op":"publish","topic":"a","data_b64":"YR==""#,
    r#""op":"publish","topic":"a","data_b64":"_w==""#,
    r#""op":"publish","topic":"a","headers":[["a"]]"#,
    r#""op":"publish","topic":"a","headers":[["a","b","c"]]"#,
    r#""op":"publish","topic":"a","headers":{"a":"b"}"#,
    r#""op":"publish","topic":"a","headers":[["a",1]]"#,
    r#""op":"publish","topic":"a","last":1"#,
    r#""op":"publish","topic":"a","last":null"#,
    r#""op":"publish","topic":"a","when":"never""#,
    r#""op":"publish","topic":"a","filter":"a""#,
    r#""op":"subscribe","topic":"a""#,
    r#""op":"subscribe","filter":"a","data":"b""#,
    r#""op":"subscribe","filter":"a","member":1"#,
    r#""op":"subscribe","filter":"a","group":"","member":1"#,
    r#""op":"subscribe","filter":"a","group":"g","member":4294967296"#,
    r#""op":"subscribe","filter":"a","group":"g","member":-1"#,
    r#""op":"subscribe","filter":"a","group":"g","member":1.0"#,
    r#""op":"hello","policy":"never""#,
    r#""op":"hello","version":"1""#,
    r#""op":"hello","user":null"#,
    r#""op":"drain","filter":"a""#,
];

#[test]
fn what_is_no_request_is_refused_with_its_id() {
    for fields in WRONG_WITH_ID {
        for frame in [
            format!("{{\"id\":7,{fields}}}"),
            format!("{{{fields},\"id\":7}}"),
        ] {
            let refused = read(&frame);
            assert_eq!(refused.map_err(|(id, _)| id), Err(Some(7)), "{frame}");
        }
    }
    let without_id = [
        "",
        "null",
        "[]",
        "1",
        "\"op\"",
        "{}",
        "{\"op\":\"ping\"",
        "{'op':'ping'}",
        "{\"op\":\"ping\",}",
        "{\"op\":\"publish\",\"topic\":\"a\",\"when\":\"unheard\"}",
        "{\"op\":\"ping\",\"id\":null}",
        "{\"op\":\"ping\",\"id\":0}",
        "{\"op\":\"ping\",\"id\":-1}",
        "{\"op\":\"ping\",\"id\":1.0}",
        "{\"op\":\"ping\",\"id\":\"1\"}",
        "{\"op\":\"ping\",\"id\":9007199254740992}",
        "{\"op\":\"ping\",\"id\":18446744073709551616}",
        "{\"op\":\"ping\",\"id\":1,\"id\":2}",
        "{\"op\":\"nothing\",\"id\":9007199254740992}",
        "{\"op\":\"publish\",\"topic\":\"a\",\"data\":\"\\ud83d\"}",
        "{\"op\":\"publish\",\"topic\":\"a\",\"data\":\"\\x\"}",
        "{\"op\":\"publish\",\"topic\":\"a\",\"data\":\"\n\"}",
    ];
    for frame in without_id {
        let refused = read(frame);
        assert_eq!(refused.map_err(|(id, _)| id), Err(None), "{frame}");
    }
    let not_utf8 = b"{\"op\":\"publish\",\"topic\":\"a\",\"data\":\"\xff\"}";
    assert!(Request::parse(not_utf8).is_err());
    // What is nested is refused, and costs no stack.
    let deep = format!("{{\"x\":{}", "[".repeat(1_000_000));
    assert!(Request::parse(deep.as_bytes()).is_err());
}

#[test]
fn fields_are_taken_up_to_their_caps() {
    for (length, is_taken) in [(254, true), (255, true), (256, false)] {
        let text = "x".repeat(length);
        for frame in [
            format!("{{\"op\":\"subscribe\",\"filter\":\"a\",\"group\":\"{text}\"}}"),
            format!("{{\"op\":\"hello\",\"name\":\"{text}\"}}"),
            format!("{{\"op\":\"hello\",\"library\":\"{text}\"}}"),
        ] {
            assert_eq!(
                Request::parse(frame.as_bytes()).is_ok(),
                is_taken,
                "{length}"
            );
        }
    }
    // Of headers, each name and value has three bytes more.
    for (length, is_taken) in [(65_531, true), (65_532, false)] {
        let value = "x".repeat(length);
        let frame =
            format!("{{\"op\":\"publish\",\"topic\":\"a\",\"headers\":[[\"k\",\"{value}\"]]}}");
        let mut attributes = Vec::new();
        let written = publish(&frame).write_attributes(&mut attributes);
        assert_eq!(written.is_ok(), is_taken, "{length}");
        assert_eq!(attributes.is_empty(), !is_taken, "all or nothing");
    }
    for name in ["", "a b", "a:", "\\u0000"] {
        let frame =
            format!("{{\"op\":\"publish\",\"topic\":\"a\",\"headers\":[[\"{name}\",\"v\"]]}}");
        let written = publish(&frame).write_attributes(&mut Vec::new());
        assert_eq!(written, Err(PartsError::Header), "{name:?}");
    }
    for (length, is_taken) in [(PAYLOAD_BYTES_MAX, true), (PAYLOAD_BYTES_MAX + 1, false)] {
        let frame = format!(
            "{{\"op\":\"publish\",\"topic\":\"a\",\"data\":\"{}\"}}",
            "x".repeat(length)
        );
        let publish = publish(&frame);
        assert_eq!(publish.payload.len(), length);
        let written = publish.write_attributes(&mut Vec::new());
        assert_eq!(written.is_ok(), is_taken, "{length}");
    }
    // The longest payload in base64 fits into a frame with the longest names and headers, even if every byte of those is escaped.
    let base64 = PAYLOAD_BYTES_MAX.div_ceil(3) * 4;
    let others = 6 * (2 * TOPIC_BYTES_MAX + usize::from(u16::MAX));
    assert!(base64 + others + 200 <= JSON_FRAME_BYTES_MAX);
}

#[test]
fn base64_is_that_of_the_rfc() {
    for (bytes, text) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert_eq!(base64(bytes.as_bytes()), text);
        assert_eq!(
            from_base64(text.as_bytes()).as_deref(),
            Some(bytes.as_bytes())
        );
    }
    for wrong in [
        "Z",
        "Zg",
        "Zg=",
        "Zh==",
        "Zm9=",
        "Zm8",
        "Zm8=\n",
        " Zm8=",
        "Zg==Zg==",
        "====",
        "Zm\u{e9}=",
    ] {
        assert_eq!(from_base64(wrong.as_bytes()), None, "{wrong:?}");
    }
    let other = URL_SAFE.encode(b"\xff\xfe\xfd");
    assert_eq!(from_base64(other.as_bytes()), None, "{other}");
}

#[test]
fn frames_of_the_broker_are_as_specified() {
    let welcome = native::Welcome {
        version: 1,
        broker: "sapwood/1",
        client: 7,
        run: "ab",
        payload_max: 64,
    };
    let write = |frame: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        frame(&mut out);
        String::from_utf8(out).unwrap()
    };
    let rest = r#""version":1,"broker":"sapwood/1","client":7,"run":"ab","payload_max":64}"#;
    let cases = [
        (
            write(&|out| write_welcome(out, None, &welcome)),
            format!("{{\"op\":\"welcome\",{rest}"),
        ),
        (
            write(&|out| write_welcome(out, Some(2), &welcome)),
            format!("{{\"op\":\"welcome\",\"id\":2,{rest}"),
        ),
        (
            write(&|out| write_ok(out, ID_MAX, u64::MAX)),
            r#"{"op":"ok","id":9007199254740991,"count":18446744073709551615}"#.into(),
        ),
        (
            write(&|out| write_error(out, None, "c", "t\n\"")),
            r#"{"op":"error","code":"c","text":"t\n\""}"#.into(),
        ),
        (
            write(&|out| write_error(out, Some(1), "c", "")),
            r#"{"op":"error","id":1,"code":"c","text":""}"#.into(),
        ),
        (
            write(&|out| write_gap(out, 3)),
            r#"{"op":"gap","events":3}"#.into(),
        ),
        (
            write(&|out| write_draining(out, 4)),
            r#"{"op":"draining","ms":4}"#.into(),
        ),
    ];
    for (written, expected) in cases {
        assert_eq!(written, expected);
    }
}

#[test]
fn a_payload_comes_as_text_where_it_is_one() {
    for (payload, expected) in [
        (&b""[..], r#"{"op":"message","topic":"a","data":""}"#),
        (b"x", r#"{"op":"message","topic":"a","data":"x"}"#),
        (
            b"\t\n\r\x20\x7f",
            "{\"op\":\"message\",\"topic\":\"a\",\"data\":\"\\t\\n\\r \x7f\"}",
        ),
        (b"\"\\/", r#"{"op":"message","topic":"a","data":"\"\\/"}"#),
        (
            "\u{fc}\u{1f600}".as_bytes(),
            "{\"op\":\"message\",\"topic\":\"a\",\"data\":\"\u{fc}\u{1f600}\"}",
        ),
        (
            b"x\x1f",
            r#"{"op":"message","topic":"a","data_b64":"eB8="}"#,
        ),
        (b"\0", r#"{"op":"message","topic":"a","data_b64":"AA=="}"#),
        (b"\xc3", r#"{"op":"message","topic":"a","data_b64":"ww=="}"#),
    ] {
        let mut out = Vec::new();
        write_message_head(&mut out, "a");
        write_event(&mut out, 0, &[], payload);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

/// A header's name, and its value.
fn any_header() -> impl Strategy<Value = (String, String)> {
    ("[!-9;-~]{1,8}", prop_oneof!["[ -~]{0,10}", "\\PC{0,6}"])
}

/// Payloads of all kinds: text, text with control characters, and bytes.
fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "\\PC{0,40}".prop_map(String::into_bytes),
        "[\\x00-\\x7f]{0,10}".prop_map(String::into_bytes),
        "[\"\\\\\r\n\t]{0,10}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..40),
    ]
}

/// What another reader finds in an event.
fn event_of(value: &Value) -> (Vec<u8>, Value, Value, Value) {
    let payload = match (value.get("data"), value.get("data_b64")) {
        (Some(text), None) => text.as_str().unwrap().as_bytes().to_vec(),
        (None, Some(text)) => STANDARD.decode(text.as_str().unwrap()).unwrap(),
        other => panic!("{other:?}"),
    };
    let field = |name: &str| value.get(name).cloned().unwrap_or_default();
    (payload, field("reply"), field("headers"), field("last"))
}

proptest! {
    /// An event is one line of JSON, from which another reader gets all that was put in, and which can be published again.
    #[test]
    fn an_event_is_read_as_it_was_written(
        topic in "\\PC{0,20}",
        payload in any_payload(),
        reply in prop::option::of("\\PC{1,10}"),
        headers in prop::collection::vec(any_header(), 0..4),
        is_end in any::<bool>(),
        member in any::<u32>(),
    ) {
        let pairs: Vec<(&[u8], &[u8])> =
            headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let parts = Parts {
            topic: topic.as_bytes(),
            reply: reply.as_deref().map(str::as_bytes),
            headers: &pairs,
            is_end,
            payload: &payload,
        };
        let mut attributes = Vec::new();
        let flags = parts.write_attributes(&mut attributes);
        prop_assume!(flags.is_ok());
        let flags = flags.unwrap();
        let given = |value: Value, is_given: bool| if is_given { value } else { Value::Null };
        let expected = (
            payload.clone(),
            reply.clone().map_or(Value::Null, Value::from),
            given(json!(headers), !headers.is_empty()),
            given(json!(true), is_end),
        );
        type Write<'a> = &'a dyn Fn(&mut Vec<u8>);
        let heads: [(&str, Write<'_>); 3] = [
            ("\"message\"", &|out| write_message_head(out, &topic)),
            ("\"turn\"", &|out| write_turn_head(out, member, &topic)),
            ("null", &|out| write_sse_head(out, &topic)),
        ];
        for (op, head) in heads {
            let mut out = Vec::new();
            head(&mut out);
            let start = out.len();
            write_event(&mut out, flags, &attributes, &payload);
            prop_assert!(out.len() - start <= event_room(&attributes, &payload));
            prop_assert!(out.iter().all(|byte| *byte >= 0x20), "one line");
            let value: Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(value.get("op").cloned().unwrap_or_default().to_string(), op);
            prop_assert_eq!(&value["topic"], &topic);
            prop_assert_eq!(value.get("member").is_some(), op == "\"turn\"");
            prop_assert_eq!(event_of(&value), expected.clone());
        }
        let mut again = b"{\"op\":\"publish\",\"topic\":".to_vec();
        write_text(&mut again, &topic);
        write_event(&mut again, flags, &attributes, &payload);
        let again = String::from_utf8(again).unwrap();
        let read = publish(&again);
        prop_assert_eq!((&*read.topic, &*read.payload), (&*topic, &payload[..]));
        let mut written = Vec::new();
        prop_assert_eq!(read.write_attributes(&mut written), Ok(flags));
        prop_assert_eq!(written, attributes);
    }

    #[test]
    fn base64_goes_there_and_back(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let text = base64(&bytes);
        prop_assert_eq!(text.len(), bytes.len().div_ceil(3) * 4);
        prop_assert_eq!(from_base64(text.as_bytes()), Some(bytes));
    }

    #[test]
    fn any_text_is_a_request_or_none(text in "[\\{\\}\\[\\],:\"a-z0-9\\\\]{0,40}") {
        if let Err(error) = Request::parse(text.as_bytes()) {
            prop_assert!(error.id.is_none_or(|id| (1..=ID_MAX).contains(&id)));
        }
    }
}

/// What a library would say, and a user of the broker should not have to read.
const OF_LIBRARIES: [&str; 12] = [
    "EOF while",
    " at line ",
    "expected value",
    "expected ident",
    "expected `",
    "invalid type",
    "invalid value",
    "invalid length",
    "missing field",
    "unknown field",
    "duplicate field",
    "trailing",
];

#[test]
fn what_is_wrong_is_said_in_words_of_our_own_and_where() {
    const EXAMPLE: &str = r#"a request is one JSON object such as {"op":"ping","id":1}"#;
    let no_json = |what: &str| format!("this is no JSON: {what}; {EXAMPLE}");
    let cases: [(&[u8], Option<u64>, String); 29] = [
        (b"", None, no_json("it ends too early, at byte 0")),
        (b"{\"op\":\"ping\"", None, no_json("it ends too early, at byte 12")),
        (b"{\"op\":ping}", None, no_json("at byte 7 stands `p`")),
        (b"{\"op\":\"ping\",}", None, no_json("at byte 14 stands `}`")),
        (b"{\"op\":\"ping\"} x", None, no_json("at byte 15 stands `x`")),
        (b"{'op':'ping'}", None, no_json("at byte 2 stands ', and strings stand in double quotes")),
        (b"{\n \"op\":\n  ping}", None, no_json("at byte 3 of line 3 stands `p`")),
        (
            b"{\"op\":\"a\tb\"}",
            None,
            no_json("at byte 9 stands the byte 0x09, which is written \\u0009 in a string"),
        ),
        (
            b"{\"op\":\"a\nb\"}",
            None,
            no_json("line 1 ends within a string, where \\n is written"),
        ),
        (b"{\"op\":\"\xff\"}", None, no_json("byte 8 is not UTF-8")),
        (b"[1]", None, format!("this is no object: {EXAMPLE}")),
        (b"7", None, format!("this is no object: {EXAMPLE}")),
        (b"{}", None, format!("the field `op` is missing: {EXAMPLE}")),
        (b"{\"id\":4}", Some(4), format!("the field `op` is missing: {EXAMPLE}")),
        (b"{\"op\":5,\"id\":4}", Some(4), "the field `op` is a string, not this number".into()),
        (b"{\"op\":\"ping\",\"id\":\"4\"}", None, "the field `id` is a whole number from 1 to 9007199254740991, not a string".into()),
        (b"{\"op\":\"ping\",\"id\":1.5}", None, "the field `id` is a whole number from 1 to 9007199254740991, not this number".into()),
        (b"{\"op\":\"ping\",\"id\":0}", None, "`id` is a whole number from 1 to 9007199254740991".into()),
        (b"{\"op\":\"ping\",\"topc\":1,\"id\":4}", Some(4), "a request has no field `topc`".into()),
        (b"{\"op\":\"ping\",\"op\":\"ping\",\"id\":4}", Some(4), "the field `op` stands there twice".into()),
        (b"{\"op\":\"ping\",\"id\":4,\"id\":5}", None, "the field `id` stands there twice".into()),
        (b"{\"op\":\"hello\",\"user\":null}", None, "the field `user` is a string, not null".into()),
        (b"{\"op\":\"publish\",\"last\":\"no\"}", None, "the field `last` is true or false, not a string".into()),
        (b"{\"op\":\"publish\",\"data\":{\"a\":1}}", None, "the field `data` is a string, not an object".into()),
        (b"{\"op\":\"publish\",\"data\":true}", None, "the field `data` is a string, not true or false".into()),
        (
            b"{\"op\":\"publish\",\"headers\":{}}",
            None,
            "the field `headers` is a list of pairs of strings such as [[\"name\",\"value\"]], not an object".into(),
        ),
        (
            b"{\"op\":\"publish\",\"headers\":[[\"a\"]],\"id\":9}",
            Some(9),
            "the field `headers` is a list of pairs of strings such as [[\"name\",\"value\"]]".into(),
        ),
        (
            b"{\"op\":\"subscribe\",\"member\":4294967296}",
            None,
            "the field `member` is a whole number from 0 to 4294967295, not this number".into(),
        ),
        (
            b"{\"op\":\"publish\",\"topic\":\"a\",\"data_b64\":\"AA!A\"}",
            None,
            "`data_b64` is no base64: `!` stands at byte 3, and only A-Z, a-z, 0-9, + and / may, and = at the end".into(),
        ),
    ];
    for (frame, id, text) in cases {
        let error = Request::parse(frame).expect_err("it is no request");
        let frame = frame.escape_ascii();
        assert_eq!((error.id, error.to_string()), (id, text), "{frame}");
    }
}

#[test]
fn names_of_fields_are_cut_and_escaped() {
    let frame = format!("{{\"op\":\"ping\",\"\\u001b[2J{}\":1}}", "x".repeat(5_000));
    let error = Request::parse(frame.as_bytes()).expect_err("it has no such field");
    let text = error.to_string();
    assert!(
        text.starts_with("a request has no field `\\u{1b}[2Jxx"),
        "{text}"
    );
    assert!(text.len() < 100, "{text}");
}

proptest! {
    #[test]
    fn no_library_speaks_for_us(frame in "[\\[\\]{}:,\"\\\\0-9a-z' \n\t\u{e9}.-]{0,12}", place in 0usize..40) {
        let whole = r#"{"op":"publish","topic":"a","headers":[["b","c"]],"data_b64":"AAA=","id":7}"#;
        let mut frames = vec![frame.clone()];
        let (before, after) = whole.split_at(place);
        frames.push(format!("{before}{frame}{after}"));
        for frame in frames {
            if let Err(error) = Request::parse(frame.as_bytes()) {
                let text = error.to_string();
                let spoken = OF_LIBRARIES.iter().find(|words| text.contains(**words));
                prop_assert_eq!(spoken, None, "{}: {}", frame, text);
            }
        }
    }
}

/// Topic, headers and body, and the line.
type StoredCase = (&'static [u8], &'static [u8], &'static [u8], &'static str);

#[test]
fn stored_messages_are_shown_with_the_headers_they_came_with() {
    let cases: [StoredCase; 4] = [
        (
            b"a.b",
            b"",
            b"x\ny",
            r#"{"seq":7,"time_ms":9,"topic":"a.b","data":"x\ny"}"#,
        ),
        (
            b"a",
            b"\x01k\x01\0v",
            b"",
            r#"{"seq":7,"time_ms":9,"topic":"a","headers":[["k","v"]],"data":""}"#,
        ),
        (
            b"a",
            b"NATS/1.0\r\nk: v\r\nk: w\r\n\r\n",
            b"\0\xff",
            r#"{"seq":7,"time_ms":9,"topic":"a","headers":[["k","v"],["k","w"]],"data_b64":"AP8="}"#,
        ),
        // What is cut off or no text is left out or replaced, and the line stays one.
        (
            b"\xff\"",
            b"\x01k\xff\xffv",
            b"\"",
            "{\"seq\":7,\"time_ms\":9,\"topic\":\"\u{fffd}\\\"\",\"headers\":[],\"data\":\"\\\"\"}",
        ),
    ];
    for (topic, headers, body, expected) in cases {
        let mut out = Vec::new();
        let message = StoredMessage {
            sequence: crate::state::Sequence(7),
            ms: 9,
            topic,
            headers,
            body,
        };
        write_stored(&mut out, &message);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
