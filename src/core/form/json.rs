//! JSON forms: in WebSocket messages, in lines, and as server-sent events. No other form encodes the payload.

use crate::command::{Event, Form};
use sapwood_wire::{http, json, websocket};

pub(super) fn encode_head(form: Form, topic: &[u8], out: &mut Vec<u8>) {
    match form {
        Form::Sse | Form::SsePlain => json::write_sse_head(out, text_of(topic)),
        _ => json::write_message_head(out, text_of(topic)),
    }
}

/// The topic as text; only a topic that is UTF-8 comes here.
fn text_of(topic: &[u8]) -> &str {
    // invariant: `CachedRoute::carries` has checked that it is UTF-8.
    std::str::from_utf8(topic).expect("a topic that JSON can carry")
}

/// Writes the whole frame of an event in a JSON form.
pub(super) fn encode_event(form: Form, head: &[u8], event: &Event<'_>, out: &mut Vec<u8>) {
    let object = |out: &mut Vec<u8>| {
        out.extend_from_slice(head);
        json::write_event(out, event.flags, event.attributes, event.payload);
    };
    let sent = |out: &mut Vec<u8>| {
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(itoa::Buffer::new().format(event.number).as_bytes());
        out.extend_from_slice(b"\ndata: ");
        object(out);
        out.extend_from_slice(b"\n\n");
    };
    let expected = head.len() + event.payload.len() + JSON_REST_BYTES;
    match form {
        Form::Json => websocket::write_frame(out, websocket::TEXT, expected, object),
        Form::Sse => http::write_chunk(out, expected + SSE_REST_BYTES, sent),
        Form::SsePlain => sent(out),
        _ => {
            object(out);
            out.push(b'\n');
        }
    }
}

/// Bytes of a plain JSON event besides its head and payload: `,"data":""}`.
const JSON_REST_BYTES: usize = 11;

/// Bytes of a server-sent event besides its JSON: `id: `, a number of usually 19 digits, and three line ends with `data: `.
const SSE_REST_BYTES: usize = 32;

/// Writes the whole frame of a queue group member's turn in a JSON form.
pub(crate) fn encode_turn(form: Form, number: u32, event: &Event<'_>, out: &mut Vec<u8>) {
    let mut head = Vec::new();
    json::write_turn_head(&mut head, number, text_of(event.topic));
    encode_event(form, &head, event, out);
}
