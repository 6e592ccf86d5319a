//! WebSocket frames (RFC 6455), as a server reads and writes them.
//!
//! Headers and codes are tungstenite's; the rules that it leaves to its own connection stand here. Owns
//! what may stand in a frame; must not know connections. Start at [`Frame::parse`].

use sha1::{Digest, Sha1};
use std::io::Cursor;
use std::ops::Range;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data};

pub use tungstenite::protocol::frame::coding::OpCode;

/// Longest payload of a ping, pong or close.
pub const CONTROL_BYTES_MAX: usize = 125;

/// Longest header of a frame.
const HEADER_BYTES_MAX: usize = 14;

/// What RFC 6455 appends to a client's key.
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A text message's opcode.
pub const TEXT: OpCode = OpCode::Data(Data::Text);
/// A binary message's.
pub const BINARY: OpCode = OpCode::Data(Data::Binary);
/// A continuation's.
pub const CONTINUE: OpCode = OpCode::Data(Data::Continue);
/// A ping's.
pub const PING: OpCode = OpCode::Control(Control::Ping);
/// A pong's.
pub const PONG: OpCode = OpCode::Control(Control::Pong);
/// A close's.
pub const CLOSE: OpCode = OpCode::Control(Control::Close);

/// Why a connection is closed: a code of RFC 6455 and words for people, at most 123 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The code.
    pub code: u16,
    /// What was wrong.
    pub text: &'static str,
}

impl Closing {
    /// The rules of RFC 6455 are broken.
    pub const fn protocol(text: &'static str) -> Closing {
        Closing { code: 1002, text }
    }

    /// A text is not UTF-8.
    pub const NOT_UTF8: Closing = Closing {
        code: 1007,
        text: "a text is not UTF-8",
    };
}

/// The header of a frame that a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub opcode: OpCode,
    /// Whether its message ends with it.
    pub is_final: bool,
    /// What its payload is masked with.
    pub mask: [u8; 4],
    /// Bytes of the payload.
    pub length: u64,
    /// Bytes of the header.
    pub header: usize,
}

impl Frame {
    /// Reads the header at the start of the input; `None` if it has not come whole.
    ///
    /// Refused as soon as it shows: reserved bits and opcodes, a frame without a mask, control frames that are long
    /// or fragmented, and lengths that are not written in the shortest way.
    pub fn parse(input: &[u8]) -> Result<Option<Frame>, Closing> {
        if let Some(&first) = input.first()
            && first & 0x70 != 0
        {
            return Err(Closing::protocol("reserved bits are set"));
        }
        let is_masked = |second: &u8| second & 0x80 != 0;
        if input.get(1).is_some_and(|second| !is_masked(second)) {
            return Err(Closing::protocol("a client's frame must be masked"));
        }
        if let [first, second, ..] = input
            && first & 8 != 0
        {
            if first & 0x80 == 0 {
                return Err(Closing::protocol("a control frame must not be fragmented"));
            }
            if usize::from(second & 0x7f) > CONTROL_BYTES_MAX {
                return Err(Closing::protocol("a control frame has at most 125 bytes"));
            }
        }
        let is_known = |first: &u8| matches!(first & 15, 0..=2 | 8..=10);
        if input.first().is_some_and(|first| !is_known(first)) {
            return Err(Closing::protocol("an opcode is reserved"));
        }
        let mut cursor = Cursor::new(&input[..input.len().min(HEADER_BYTES_MAX)]);
        let parsed = FrameHeader::parse(&mut cursor);
        let parsed = parsed.map_err(|_| Closing::protocol("an opcode is reserved"))?;
        let Some((header, length)) = parsed else {
            return Ok(None);
        };
        let bytes = cursor.position() as usize;
        if length > i64::MAX as u64 || header.len(length) != bytes {
            return Err(Closing::protocol(
                "a length is not written in the shortest way",
            ));
        }
        Ok(Some(Frame {
            opcode: header.opcode,
            is_final: header.is_final,
            mask: header.mask.unwrap_or_default(),
            length,
            header: bytes,
        }))
    }
}

/// Takes a mask off (or puts it on) bytes that stand `from` the start of the payload.
pub fn unmask(bytes: &mut [u8], mask: [u8; 4], from: u64) {
    let turned: [u8; 4] = std::array::from_fn(|place| mask[(place as u64 + from) as usize % 4]);
    let word = u32::from_ne_bytes(turned);
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for bytes in words {
        *bytes = (u32::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(turned) {
        *byte ^= mask;
    }
}

/// Checks a text that comes in parts, and finds what is no UTF-8 as soon as it shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Utf8Check {
    /// The start of a character whose rest has not come.
    begun: [u8; 3],
    length: u8,
}

impl Utf8Check {
    /// Takes the next part; false if the text cannot be UTF-8 any more.
    pub fn take(&mut self, mut part: &[u8]) -> bool {
        while self.length > 0 {
            let Some((&next, rest)) = part.split_first() else {
                return true;
            };
            let held = usize::from(self.length);
            let mut character = [0; 4];
            character[..held].copy_from_slice(&self.begun[..held]);
            character[held] = next;
            part = rest;
            match std::str::from_utf8(&character[..=held]) {
                Ok(_) => self.length = 0,
                Err(error) if error.error_len().is_some() => return false,
                Err(_) => {
                    self.begun[held] = next;
                    self.length += 1;
                }
            }
        }
        match std::str::from_utf8(part) {
            Ok(_) => true,
            Err(error) if error.error_len().is_some() => false,
            Err(error) => {
                let rest = &part[error.valid_up_to()..];
                self.begun[..rest.len()].copy_from_slice(rest);
                self.length = rest.len() as u8;
                true
            }
        }
    }

    /// Whether the text may end here.
    pub fn is_whole(self) -> bool {
        self.length == 0
    }
}

/// Reads the payload of a client's close; `None` if it gives no code.
pub fn parse_close(payload: &[u8]) -> Result<Option<u16>, Closing> {
    let [high, low, reason @ ..] = payload else {
        return match payload {
            [] => Ok(None),
            _ => Err(Closing::protocol(
                "a close has a code of two bytes, or none",
            )),
        };
    };
    let code = u16::from_be_bytes([*high, *low]);
    // The codec does not know 1014, which was registered later.
    if !CloseCode::from(code).is_allowed() && code != 1014 {
        return Err(Closing::protocol(
            "a close has a code that must not be sent",
        ));
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Some(code)),
        Err(_) => Err(Closing::NOT_UTF8),
    }
}

/// Writes the header of a frame that is a whole message, or a control frame.
pub fn write_header(out: &mut Vec<u8>, opcode: OpCode, length: usize) {
    let header = FrameHeader {
        opcode,
        ..FrameHeader::default()
    };
    let written = header.format(length as u64, out);
    // invariant: writing to a Vec cannot fail.
    written.expect("room for a header");
}

/// Writes a frame whose payload is written by `encode`, and has about `expected` bytes. Cost: a move of the payload where that
/// guess was so wrong that the header is longer or shorter.
pub fn write_frame(
    out: &mut Vec<u8>,
    opcode: OpCode,
    expected: usize,
    encode: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    write_header(out, opcode, expected);
    let body = out.len();
    encode(out);
    let mut header = Vec::with_capacity(HEADER_BYTES_MAX);
    write_header(&mut header, opcode, out.len() - body);
    out.splice(start..body, header);
}

/// Writes the header of a client's whole message, with a mask that changes nothing: for who hands on what
/// another has unmasked.
pub fn write_client_header(out: &mut Vec<u8>, opcode: OpCode, length: usize) {
    let header = FrameHeader {
        opcode,
        mask: Some([0; 4]),
        ..FrameHeader::default()
    };
    let written = header.format(length as u64, out);
    // invariant: writing to a Vec cannot fail.
    written.expect("room for a header");
}

/// Finds the frame that a server wrote at the start of the input: its opcode, and where its payload stands. `None` if it
/// has not come whole.
pub fn server_frame(input: &[u8]) -> Option<(u8, Range<usize>)> {
    let mut cursor = Cursor::new(&input[..input.len().min(HEADER_BYTES_MAX)]);
    let (header, length) = FrameHeader::parse(&mut cursor).ok()??;
    let start = cursor.position() as usize;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    (end <= input.len()).then(|| (header.opcode.into(), start..end))
}

/// Writes a close.
pub fn write_close(out: &mut Vec<u8>, code: Option<u16>, text: &str) {
    let length = code.map_or(0, |_| 2 + text.len());
    write_header(out, CLOSE, length);
    if let Some(code) = code {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
}

/// What the server answers to a client's key.
pub fn accept_key(key: &[u8]) -> String {
    let digest = Sha1::new()
        .chain_update(key)
        .chain_update(KEY_SUFFIX)
        .finalize();
    crate::json::base64(&digest)
}

#[cfg(test)]
#[path = "websocket_tests.rs"]
mod tests;
