//! Any bytes as a frame of JSON: what is accepted is within the caps, and no frame cut short is one; events that are
//! written are JSON, and read again they are the same publish.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sapwood_wire::json::{self, Hello, Op, Publish, Request};
use sapwood_wire::native::{Parts, attributes_headers, attributes_reply, flag};
use serde_json::Value;

const ID_MAX: u64 = 9_007_199_254_740_991;

/// What bytes from 128 on stand for, where input is written with them: a request is hard to guess.
const TOKENS: &[&str] = &[
    "{\"op\":\"publish\",\"topic\":\"a\",", "{\"op\":\"subscribe\",\"filter\":\"a.*\",", "{\"op\":\"hello\",",
    "{\"op\":\"ping\",", "{\"op\":\"drain\"}", "{\"op\":\"unsubscribe\",", "\"id\":", "\"data\":\"", "\"data_b64\":\"",
    "\"reply\":\"", "\"headers\":[[\"", "\",\"", "\"],[\"", "\"]]", "\"last\":true", "\"when\":\"unheard\"", "\"when\":\"always\"",
    "\"filter\":\"", "\"group\":\"", "\"member\":", "\"user\":\"", "\"password\":\"", "\"name\":\"", "\"library\":\"",
    "\"policy\":\"latest\"", "\"version\":1", "\"", ",", "}", "\\u0041", "\\ud83d\\ude00", "\\n", "null", "aGVsbG8=", "1",
];

fn expand(input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for &byte in input {
        match TOKENS.get(usize::from(byte).wrapping_sub(128)) {
            Some(token) => out.extend_from_slice(token.as_bytes()),
            None => out.push(byte),
        }
    }
    out
}

fn check(frame: &[u8]) {
    let request = match Request::parse(frame) {
        Ok(request) => request,
        Err(error) => {
            assert!(error.id.is_none_or(|id| (1..=ID_MAX).contains(&id)), "{error}");
            return;
        }
    };
    let value: Value = serde_json::from_slice(frame).expect("JSON");
    assert_eq!(value.get("id").and_then(Value::as_u64), request.id);
    assert!(request.id.is_none_or(|id| (1..=ID_MAX).contains(&id)));
    let whole = frame.trim_ascii_end();
    for cut in (0..whole.len()).step_by(1 + whole.len() / 64) {
        assert!(Request::parse(&whole[..cut]).is_err(), "cut at {cut}");
    }
    let is = |field: &str, text: &str| value[field].as_str() == Some(text);
    match &request.op {
        Op::Hello(Hello { name, library, .. }) => assert!(name.len().max(library.len()) <= 255),
        Op::Publish(publish) => {
            assert!(is("topic", &publish.topic));
            there_and_back(publish);
        }
        Op::Subscribe(subscription) | Op::Unsubscribe(subscription) => {
            assert!(is("filter", &subscription.filter) && subscription.group.len() <= 255);
            assert!(!subscription.group.is_empty() || subscription.member == 0);
        }
        Op::Ping | Op::Drain => {}
    }
}

/// What is published is written as an event, and read as a publish again.
fn there_and_back(publish: &Publish<'_>) {
    let mut attributes = Vec::new();
    let Ok(flags) = publish.write_attributes(&mut attributes) else {
        assert!(attributes.is_empty(), "what was written in part is taken back");
        return;
    };
    assert_eq!(attributes_reply(flags, &attributes), publish.reply());
    event(&publish.topic, flags, &attributes, &publish.payload);
}

fn event(topic: &str, flags: u8, attributes: &[u8], payload: &[u8]) {
    let mut head = b"{\"op\":\"publish\",\"topic\":".to_vec();
    json::write_text(&mut head, topic);
    let before = head.len();
    json::write_event(&mut head, flags, attributes, payload);
    let room = json::event_room(attributes, payload);
    assert!(head.len() - before <= room, "more than there is room for");
    let request = Request::parse(&head).expect("an event has a publish's fields");
    let Op::Publish(read) = &request.op else { panic!("another op") };
    assert_eq!((&*read.topic, &*read.payload), (topic, payload));
    let mut again = Vec::new();
    if read.write_attributes(&mut again).is_ok_and(|read| read == flags) {
        let is_text = std::str::from_utf8(attributes_reply(flags, attributes).unwrap_or_default()).is_ok();
        let headers = attributes_headers(flags, attributes);
        let are_texts = headers.clone().all(|(name, value)| {
            std::str::from_utf8(name).is_ok() && std::str::from_utf8(value).is_ok()
        });
        assert!(again == attributes || !is_text || !are_texts);
        assert_eq!(attributes_headers(flags, &again).count(), headers.count());
    }
    for write in [message as fn(&mut Vec<u8>, &str), turn, sse] {
        let mut out = Vec::new();
        write(&mut out, topic);
        json::write_event(&mut out, flags, attributes, payload);
        assert!(!out.iter().any(|byte| *byte < 0x20), "an event is one line");
        let value: Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(value["topic"], topic);
        assert_eq!(value.get("last").is_some(), flags & flag::END != 0);
    }
}

fn message(out: &mut Vec<u8>, topic: &str) {
    json::write_message_head(out, topic);
}

fn turn(out: &mut Vec<u8>, topic: &str) {
    json::write_turn_head(out, 7, topic);
}

fn sse(out: &mut Vec<u8>, topic: &str) {
    json::write_sse_head(out, topic);
}

/// Any event, of any bytes where those are let in.
fn any_event(pieces: &[&[u8]], payload: &[u8]) {
    let pairs: Vec<(&[u8], &[u8])> = pieces.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let topic = String::from_utf8_lossy(payload);
    let parts = Parts {
        topic: b"a",
        reply: pieces.first().copied().filter(|reply| !reply.is_empty()),
        headers: &pairs,
        is_end: payload.len() % 2 == 1,
        payload,
    };
    let mut attributes = Vec::new();
    if let Ok(flags) = parts.write_attributes(&mut attributes) {
        event(&topic, flags, &attributes, payload);
    }
}

fuzz_target!(|data: (bool, Vec<&[u8]>, &[u8])| {
    let (is_raw, pieces, input) = data;
    let frame = if is_raw { input.to_vec() } else { expand(input) };
    check(&frame);
    any_event(&pieces, input);
    let base64 = json::base64(input);
    assert_eq!(json::from_base64(base64.as_bytes()).as_deref(), Some(input));
    if let Some(bytes) = json::from_base64(input) {
        assert_eq!(json::base64(&bytes).as_bytes(), input, "two texts for the same bytes");
    }
});
