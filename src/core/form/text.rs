//! The form of text: a message of a WebSocket is a payload and no more.

use crate::command::Event;
use sapwood_wire::websocket;

/// Never written, but it tells one topic's frames from another's.
pub(super) fn encode_head(topic: &[u8], out: &mut Vec<u8>) {
    out.push(b't');
    out.extend_from_slice(topic);
}

pub(super) fn encode_before_payload(event: &Event<'_>, out: &mut Vec<u8>) {
    let opcode = text_or_binary(event.payload);
    websocket::write_header(out, opcode, event.payload.len());
}

/// The opcode of a message that should be text if it can be.
pub(crate) fn text_or_binary(payload: &[u8]) -> websocket::OpCode {
    match std::str::from_utf8(payload) {
        Ok(_) => websocket::TEXT,
        Err(_) => websocket::BINARY,
    }
}
