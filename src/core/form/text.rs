//! The text form: a WebSocket message is a payload and nothing else.

use crate::command::Event;
use sapwood_wire::websocket;

/// A head that is never written; it only tells the frames of one topic from those of another.
pub(super) fn encode_head(topic: &[u8], out: &mut Vec<u8>) {
    out.push(b't');
    out.extend_from_slice(topic);
}

pub(super) fn encode_before_payload(event: &Event<'_>, out: &mut Vec<u8>) {
    let opcode = text_or_binary(event.payload);
    websocket::write_header(out, opcode, event.payload.len());
}

/// Opcode of a message: text if the payload is UTF-8, else binary.
pub(crate) fn text_or_binary(payload: &[u8]) -> websocket::OpCode {
    match std::str::from_utf8(payload) {
        Ok(_) => websocket::TEXT,
        Err(_) => websocket::BINARY,
    }
}
