//! The native form, by itself and in WebSocket messages.

use super::Run;
use crate::command::{Event, Form};
use sapwood_wire::native::{self, flag, kind};
use sapwood_wire::websocket;
use std::borrow::Cow;

/// Flags and attributes as clients take them: headers that came as a NATS block become pairs.
fn for_clients<'a>(event: &Event<'a>) -> (u8, Cow<'a, [u8]>) {
    if event.flags & flag::BLOCK == 0 {
        return (event.flags, Cow::Borrowed(event.attributes));
    }
    let mut attributes = Vec::with_capacity(event.attributes.len());
    if let Some(reply) = native::attributes_reply(event.flags, event.attributes) {
        native::write_text16(&mut attributes, reply);
    }
    let length_at = attributes.len();
    attributes.extend_from_slice(&[0, 0]);
    native::attributes_headers(event.flags, event.attributes).write_pairs(&mut attributes);
    let length = (attributes.len() - length_at - 2) as u16;
    attributes[length_at..length_at + 2].copy_from_slice(&length.to_le_bytes());
    (event.flags & !flag::BLOCK, Cow::Owned(attributes))
}

pub(super) fn encode_head(topic: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind::MESSAGE, 0]);
    native::write_text16(out, topic);
}

pub(super) fn encode_before_payload(form: Form, head: &[u8], event: &Event<'_>, out: &mut Vec<u8>) {
    let (flags, attributes) = for_clients(event);
    let length = head.len() + attributes.len() + event.payload.len();
    if form == Form::NativeMessages {
        let frame = native::LENGTH_BYTES + length;
        websocket::write_header(out, websocket::BINARY, frame);
    }
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.extend_from_slice(&[head[0], flags]);
    out.extend_from_slice(&head[2..]);
    out.extend_from_slice(&attributes);
}

/// Writes a run, whose frames differ in the payloads only; gives the offset in `out` of the last frame.
pub(super) fn encode_run(run: &Run<'_>, out: &mut Vec<u8>) -> usize {
    let payloads = run.payloads.iter().map(|&(from, to)| (to - from) as usize);
    let each = native::LENGTH_BYTES + run.head.len();
    out.reserve(payloads.sum::<usize>() + each * run.payloads.len());
    let mut last = out.len();
    for &(from, to) in run.payloads {
        last = out.len();
        let length = run.head.len() as u32 + to - from;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(run.head);
        out.extend_from_slice(&run.frames[from as usize..to as usize]);
    }
    last
}

/// Writes the frame of a queue group member's turn up to the payload, in a native form.
pub(crate) fn encode_turn_before_payload(
    form: Form,
    number: u32,
    event: &Event<'_>,
    out: &mut Vec<u8>,
) {
    let (flags, attributes) = for_clients(event);
    let message = 1 + 2 + event.topic.len() + attributes.len() + event.payload.len();
    let length = 1 + 4 + message;
    if form == Form::NativeMessages {
        websocket::write_header(out, websocket::BINARY, native::LENGTH_BYTES + length);
    }
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.push(kind::TURN);
    out.extend_from_slice(&number.to_le_bytes());
    out.push(flags);
    native::write_text16(out, event.topic);
    out.extend_from_slice(&attributes);
}
