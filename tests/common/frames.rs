//! WebSocket frames in a short notation, and the parser of those that the broker sends (RFC 6455, section 5).
//!
//! Frames stand one behind the other, with blanks between:
//!
//! ```text
//! [how.]kind[-][:payload]
//! ```
//!
//! `kind` is `text`, `binary`, `cont`, `close`, `ping`, `pong` or `op` and a number; `-` behind it says that it is not the
//! last fragment. The payload is text; `<c3a9>` is bytes in hexadecimal, and `x*125` is 125 times what stands before the
//! star. `close:1000,bye` has a code and a reason. `how` is one or more of
//!
//! - `bare`: not masked;
//! - `rsv1`, `rsv2`, `rsv3`: with that bit;
//! - `len16`, `len64`: the length in so many bits, needed or not;
//! - `claim=N`: the frame says that it has N bytes, whatever follows.

// Each test binary compiles this module for itself and uses a part of it.
#![allow(dead_code)]

use super::web::shown;

/// What comes of a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    /// The connection ended.
    End,
}

impl Said {
    pub fn text(text: &str) -> Said {
        Said::Text(text.to_string())
    }

    pub fn message(opcode: u8, bytes: Vec<u8>) -> Result<Said, String> {
        if opcode == 2 {
            return Ok(Said::Binary(bytes));
        }
        let text = String::from_utf8(bytes);
        text.map(Said::Text).map_err(|error| {
            format!(
                "a text message that is no UTF-8: {}",
                shown(error.as_bytes())
            )
        })
    }

    pub fn control(opcode: u8, payload: Vec<u8>) -> Result<Said, String> {
        match opcode {
            9 => Ok(Said::Ping(payload)),
            10 => Ok(Said::Pong(payload)),
            8 if payload.is_empty() => Ok(Said::Close(None)),
            8 if payload.len() >= 2 && std::str::from_utf8(&payload[2..]).is_ok() => {
                Ok(Said::Close(Some(u16::from_be_bytes([
                    payload[0], payload[1],
                ]))))
            }
            _ => Err(format!("opcode {opcode} with {}", shown(&payload))),
        }
    }
}

/// What stands in a notation, as it is expected from the broker: whole messages, control frames, and `end`.
pub fn said(notation: &str) -> Vec<Said> {
    let each = notation.split_whitespace().map(|item| {
        let (kind, rest) = item.split_once(':').unwrap_or((item, ""));
        let bytes = || payload(rest);
        match kind {
            "text" => Said::Text(String::from_utf8(bytes()).expect("a text is UTF-8")),
            "binary" => Said::Binary(bytes()),
            "ping" => Said::Ping(bytes()),
            "pong" => Said::Pong(bytes()),
            "close" => Said::Close(rest.parse().ok()),
            "end" => Said::End,
            _ => panic!("{item:?} is nothing that comes"),
        }
    });
    each.collect()
}

/// Shortens what is long, for messages to people.
pub fn short(said: &[Said]) -> String {
    let text = format!("{said:?}");
    match text.char_indices().nth(400) {
        None => text,
        Some((place, _)) => format!("{} ...", &text[..place]),
    }
}

/// The bytes of frames in the notation, each masked by a key of its own.
pub fn frames(notation: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (place, item) in notation.split_whitespace().enumerate() {
        let mask = (place as u32 + 1).wrapping_mul(0x9e37_79b9).to_be_bytes();
        write_notation(&mut bytes, item, mask);
    }
    bytes
}

fn write_notation(bytes: &mut Vec<u8>, item: &str, mask: [u8; 4]) {
    let (head, rest) = item.split_once(':').unwrap_or((item, ""));
    let (how, kind) = head.rsplit_once('.').unwrap_or(("", head));
    let (kind, is_last) = match kind.strip_suffix('-') {
        Some(kind) => (kind, false),
        None => (kind, true),
    };
    let opcode = match kind {
        "cont" => 0,
        "text" => 1,
        "binary" => 2,
        "close" => 8,
        "ping" => 9,
        "pong" => 10,
        other => {
            let number = other.strip_prefix("op").and_then(|text| text.parse().ok());
            number.unwrap_or_else(|| panic!("{item:?} has no kind"))
        }
    };
    let payload = match kind {
        "close" if !rest.is_empty() => {
            let (code, reason) = rest.split_once(',').unwrap_or((rest, ""));
            let code: u16 = code.parse().expect("a code is a number");
            [&code.to_be_bytes()[..], &payload(reason)].concat()
        }
        _ => payload(rest),
    };
    let (mut first, mut mask_bit, mut length_bits) = (opcode, 0x80, 0);
    let mut length = payload.len() as u64;
    if is_last {
        first |= 0x80;
    }
    for word in how.split('.').filter(|word| !word.is_empty()) {
        match word {
            "bare" => mask_bit = 0,
            "rsv1" => first |= 0x40,
            "rsv2" => first |= 0x20,
            "rsv3" => first |= 0x10,
            "len16" => length_bits = 16,
            "len64" => length_bits = 64,
            _ => {
                let claim = word.strip_prefix("claim=").and_then(|n| n.parse().ok());
                length = claim.unwrap_or_else(|| panic!("{word:?} in {item:?}"));
            }
        }
    }
    bytes.push(first);
    write_length(bytes, mask_bit, length, length_bits);
    match mask_bit {
        0 => bytes.extend_from_slice(&payload),
        _ => write_masked(bytes, mask, &payload),
    }
}

fn write_length(bytes: &mut Vec<u8>, mask_bit: u8, length: u64, bits: u8) {
    match (length, bits) {
        (0..=125, 0) => bytes.push(mask_bit | length as u8),
        (0..=65_535, 0 | 16) => {
            bytes.push(mask_bit | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(mask_bit | 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
}

fn write_masked(bytes: &mut Vec<u8>, mask: [u8; 4], payload: &[u8]) {
    bytes.extend_from_slice(&mask);
    let key = mask.iter().cycle();
    bytes.extend(payload.iter().zip(key).map(|(byte, key)| byte ^ key));
}

/// A client's frame as it should be.
pub fn write_frame(bytes: &mut Vec<u8>, first: u8, mask: [u8; 4], payload: &[u8]) {
    bytes.push(first);
    write_length(bytes, 0x80, payload.len() as u64, 0);
    write_masked(bytes, mask, payload);
}

/// The bytes of a payload in the notation.
pub fn payload(notation: &str) -> Vec<u8> {
    let (mut bytes, mut unit) = (Vec::new(), Vec::new());
    let mut rest = notation;
    // Ends: each turn takes at least one character.
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        if character == '*' {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let count: usize = rest[..digits].parse().expect("a star has a number");
            rest = &rest[digits..];
            (1..count).for_each(|_| bytes.extend_from_slice(&unit));
            continue;
        }
        unit = match character {
            '<' => {
                let (hex, behind) = rest.split_once('>').expect("hexadecimal ends");
                rest = behind;
                unhex(hex)
            }
            other => other.to_string().into_bytes(),
        };
        bytes.extend_from_slice(&unit);
    }
    bytes
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair| {
        let digits = std::str::from_utf8(pair).unwrap();
        u8::from_str_radix(digits, 16).expect("hexadecimal")
    };
    pairs.map(byte).collect()
}

/// A frame's first byte and its payload, with its length on the wire.
type Parsed = ((u8, Vec<u8>), usize);

/// The frame at the start, which must be as a server has to write it.
pub fn parse_frame(bytes: &[u8]) -> Result<Option<Parsed>, String> {
    let [first, second, ..] = *bytes else {
        return Ok(None);
    };
    let wrong = |what: &str| Err(format!("a frame {what}: {}", shown(bytes)));
    let opcode = first & 0x0f;
    if first & 0x70 != 0 || !matches!(opcode, 0..=2 | 8..=10) {
        return wrong("of no known kind");
    }
    let (head, length) = match second {
        0..=125 => (2, u64::from(second)),
        126 => match bytes.get(2..4) {
            None => return Ok(None),
            Some(field) => (4, u64::from(u16::from_be_bytes(field.try_into().unwrap()))),
        },
        127 => match bytes.get(2..10) {
            None => return Ok(None),
            Some(field) => (10, u64::from_be_bytes(field.try_into().unwrap())),
        },
        _ => return wrong("that is masked"),
    };
    if head == 4 && length < 126 || head == 10 && length < 65_536 {
        return wrong("with a length in too many bytes");
    }
    if opcode >= 8 && (head > 2 || first & 0x80 == 0) {
        return wrong("of control that is long or in pieces");
    }
    let whole = head + usize::try_from(length).unwrap();
    let body = bytes.get(head..whole);
    Ok(body.map(|body| ((first, body.to_vec()), whole)))
}

/// What a server must answer to a key.
pub fn accept_of(key: &str) -> String {
    use base64::Engine;
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(sha1(text.as_bytes()))
}

/// SHA-1 as FIPS 180-4 defines it, so that the test does not compute it with what the broker uses.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    let mut state: [u32; 5] = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0];
    for block in padded.chunks(64) {
        let mut schedule = [0u32; 80];
        for (word, bytes) in schedule.iter_mut().zip(block.chunks(4)) {
            *word = u32::from_be_bytes(bytes.try_into().unwrap());
        }
        for t in 16..80 {
            let mixed = schedule[t - 3] ^ schedule[t - 8] ^ schedule[t - 14] ^ schedule[t - 16];
            schedule[t] = mixed.rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (t, word) in schedule.iter().enumerate() {
            let (f, k) = match t / 20 {
                0 => (b & c | !b & d, 0x5a827999),
                1 => (b ^ c ^ d, 0x6ed9eba1),
                2 => (b & c | b & d | c & d, 0x8f1bbcdc),
                _ => (b ^ c ^ d, 0xca62c1d6u32),
            };
            let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e);
            let next = next.wrapping_add(k).wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (word, add) in state.iter_mut().zip([a, b, c, d, e]) {
            *word = word.wrapping_add(add);
        }
    }
    let mut digest = [0; 20];
    for (bytes, word) in digest.chunks_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}
