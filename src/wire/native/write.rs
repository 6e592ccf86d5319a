//! Writes messages and frames.
//!
//! Must not know what was said before. Invariant: what is written here is parsed again to the same
//! by `super`. Start at [`Parts::write`] and [`write_frame`].

use super::{
    AnswerPart, Hello, LENGTH_BYTES, MAGIC, Subscription, WHEN_STORED, Welcome, When, flag, kind,
};
use crate::error::ErrorCode;
use crate::headers;
use crate::limits::PAYLOAD_BYTES_MAX;
use std::fmt;

/// The parts of a message that is to be written. Whether its topics are legal is the caller's to
/// check, by [`crate::topic::check_name`]; the rest is checked by [`Parts::write`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts<'a> {
    /// What it is published to, at most 1,024 bytes.
    pub topic: &'a [u8],
    /// Where replies go.
    pub reply: Option<&'a [u8]>,
    /// Names and values; with their lengths at most 65,535 bytes together.
    pub headers: &'a [(&'a [u8], &'a [u8])],
    /// Whether it is the last of several replies.
    pub is_end: bool,
    /// What it carries.
    pub payload: &'a [u8],
}

/// Why parts make no message. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartsError {
    /// The topic or reply topic is longer than its length field can say.
    Topic(usize),
    /// A header's name or value holds what it must not, or is too long.
    Header,
    /// The headers together are longer than 65,535 bytes.
    Headers(usize),
    /// The payload is longer than `PAYLOAD_BYTES_MAX`.
    Payload(usize),
}

impl fmt::Display for PartsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartsError::Topic(length) => write!(f, "a topic of {length} bytes is too long"),
            PartsError::Header => write!(
                f,
                "a header's name is 1 to 255 bytes from '!' to '~' without ':', its value at most 65,535 bytes without CR, LF and NUL"
            ),
            PartsError::Headers(length) => write!(
                f,
                "the headers take {length} bytes together, at most 65,535 may"
            ),
            PartsError::Payload(length) => write!(f, "a payload of {length} bytes is too long"),
        }
    }
}

impl std::error::Error for PartsError {}

impl Parts<'_> {
    /// Appends the message alone, without a frame around it. All or nothing.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), PartsError> {
        let headers_length = self.check()?;
        out.reserve(8 + self.topic.len() + headers_length + self.payload.len());
        out.push(self.flags());
        write_text16(out, self.topic);
        self.push_attributes(headers_length, out);
        out.extend_from_slice(self.payload);
        Ok(())
    }

    /// Appends what stands between a message's topic and payload; gives its flags. All or nothing.
    pub fn write_attributes(&self, out: &mut Vec<u8>) -> Result<u8, PartsError> {
        let headers_length = self.check()?;
        self.push_attributes(headers_length, out);
        Ok(self.flags())
    }

    /// Whether the parts make a message; gives the length of the headers.
    fn check(&self) -> Result<usize, PartsError> {
        for name in [Some(self.topic), self.reply].into_iter().flatten() {
            if name.len() > usize::from(u16::MAX) {
                return Err(PartsError::Topic(name.len()));
            }
        }
        if self.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(PartsError::Payload(self.payload.len()));
        }
        let mut headers_length = 0;
        for (name, value) in self.headers {
            if !headers::is_name(name) || !headers::is_value(value) {
                return Err(PartsError::Header);
            }
            headers_length += 1 + name.len() + 2 + value.len();
        }
        if headers_length > usize::from(u16::MAX) {
            return Err(PartsError::Headers(headers_length));
        }
        Ok(headers_length)
    }

    fn flags(&self) -> u8 {
        let mut flags = 0;
        flags |= self.reply.map_or(0, |_| flag::REPLY);
        flags |= if self.headers.is_empty() {
            0
        } else {
            flag::HEADERS
        };
        flags | if self.is_end { flag::END } else { 0 }
    }

    fn push_attributes(&self, headers_length: usize, out: &mut Vec<u8>) {
        if let Some(reply) = self.reply {
            write_text16(out, reply);
        }
        if !self.headers.is_empty() {
            out.extend_from_slice(&(headers_length as u16).to_le_bytes());
            for (name, value) in self.headers {
                out.push(name.len() as u8);
                out.extend_from_slice(name);
                write_text16(out, value);
            }
        }
    }
}

/// Appends a frame of this kind, whose fields `write` appends.
pub fn write_frame(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    out.push(kind);
    write(out);
    let length = (out.len() - start - LENGTH_BYTES) as u32;
    out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
}

/// Appends a length of two bytes and the text. Panics if that is longer than 65,535 bytes.
pub fn write_text16(out: &mut Vec<u8>, text: &[u8]) {
    assert!(text.len() <= usize::from(u16::MAX), "a text is too long");
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text);
}

pub(super) fn write_option(out: &mut Vec<u8>, id: u8, value: &[u8]) {
    out.push(id);
    write_text16(out, value);
}

/// Appends a HELLO. Its texts must keep the lengths that NATIVE.md states; panics if one is longer
/// than its length field can say.
pub fn write_hello(out: &mut Vec<u8>, hello: &Hello<'_>) {
    write_frame(out, kind::HELLO, |out| {
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[hello.versions.0, hello.versions.1]);
        if let Some(user) = hello.user {
            write_option(out, 1, user);
        }
        if let Some(password) = hello.password {
            write_option(out, 2, password);
        }
        if !hello.name.is_empty() {
            write_option(out, 3, hello.name.as_bytes());
        }
        if !hello.library.is_empty() {
            write_option(out, 4, hello.library.as_bytes());
        }
        if let Some(policy) = hello.policy {
            write_option(out, 5, &[policy.number()]);
        }
    });
}

/// Appends a WELCOME.
pub fn write_welcome(out: &mut Vec<u8>, welcome: &Welcome<'_>) {
    write_frame(out, kind::WELCOME, |out| {
        out.push(welcome.version);
        if !welcome.broker.is_empty() {
            write_option(out, 1, welcome.broker.as_bytes());
        }
        write_option(out, 2, &welcome.client.to_le_bytes());
        if !welcome.run.is_empty() {
            write_option(out, 3, welcome.run.as_bytes());
        }
        if welcome.payload_max > 0 {
            write_option(out, 4, &welcome.payload_max.to_le_bytes());
        }
    });
}

/// Appends a PUBLISH around a message that was written before.
pub fn write_publish(out: &mut Vec<u8>, request: u32, when: When, message: &[u8]) {
    write_frame(out, kind::PUBLISH, |out| {
        out.extend_from_slice(&request.to_le_bytes());
        out.push(match when {
            When::Always => 1,
            When::Unheard => 2,
        });
        out.extend_from_slice(message);
    });
}

/// Appends a PUBLISH that is answered once it is stored, around a message that was written before.
pub fn write_publish_stored(out: &mut Vec<u8>, request: u32, message: &[u8]) {
    write_frame(out, kind::PUBLISH, |out| {
        out.extend_from_slice(&request.to_le_bytes());
        out.push(WHEN_STORED);
        out.extend_from_slice(message);
    });
}

/// Appends a CALL, whose request `write` appends.
pub fn write_call(out: &mut Vec<u8>, request: u32, write: impl FnOnce(&mut Vec<u8>)) {
    write_frame(out, kind::CALL, |out| {
        out.extend_from_slice(&request.to_le_bytes());
        write(out);
    });
}

/// Appends an ANSWER.
pub fn write_answer(out: &mut Vec<u8>, request: u32, part: AnswerPart, body: &[u8]) {
    write_frame(out, kind::ANSWER, |out| {
        out.extend_from_slice(&request.to_le_bytes());
        out.push(match part {
            AnswerPart::Last => 0,
            AnswerPart::More => 1,
        });
        out.extend_from_slice(body);
    });
}

/// Appends a STORED for so many requests from the first on.
pub fn write_stored(out: &mut Vec<u8>, first: u32, count: u32, answers: &[u8]) {
    write_frame(out, kind::STORED, |out| {
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(answers);
    });
}

/// Appends a MESSAGE around a message that was written before.
pub fn write_message(out: &mut Vec<u8>, message: &[u8]) {
    write_frame(out, kind::MESSAGE, |out| out.extend_from_slice(message));
}

/// Appends a SUBSCRIBE or, by its kind, an UNSUBSCRIBE. Panics if the group is longer than 255 bytes.
pub fn write_subscription(
    out: &mut Vec<u8>,
    kind: u8,
    request: u32,
    subscription: &Subscription<'_>,
) {
    let group = subscription.group;
    assert!(group.len() <= usize::from(u8::MAX), "a group is too long");
    write_frame(out, kind, |out| {
        out.extend_from_slice(&request.to_le_bytes());
        out.extend_from_slice(&subscription.member.to_le_bytes());
        out.push(group.len() as u8);
        out.extend_from_slice(group);
        out.extend_from_slice(subscription.filter);
    });
}

/// Appends a PING or, by its kind, a DRAIN.
pub fn write_request(out: &mut Vec<u8>, kind: u8, request: u32) {
    write_frame(out, kind, |out| {
        out.extend_from_slice(&request.to_le_bytes());
    });
}

/// Appends an ACK.
pub fn write_ack(out: &mut Vec<u8>, request: u32, count: u32) {
    write_frame(out, kind::ACK, |out| {
        out.extend_from_slice(&request.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
    });
}

/// Appends an ERROR; request 0 is the connection or a MESSAGE.
pub fn write_error(out: &mut Vec<u8>, request: u32, code: ErrorCode, text: &str) {
    write_frame(out, kind::ERROR, |out| {
        out.extend_from_slice(&request.to_le_bytes());
        out.extend_from_slice(&code.number().to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    });
}

/// Appends a TURN around a message that was written before.
pub fn write_turn(out: &mut Vec<u8>, member: u32, message: &[u8]) {
    write_frame(out, kind::TURN, |out| {
        out.extend_from_slice(&member.to_le_bytes());
        out.extend_from_slice(message);
    });
}

/// Bytes of a GAP frame.
pub const GAP_BYTES: usize = LENGTH_BYTES + 1 + 8;

/// Appends a GAP.
pub fn write_gap(out: &mut Vec<u8>, events: u64) {
    write_frame(out, kind::GAP, |out| {
        out.extend_from_slice(&events.to_le_bytes());
    });
}

/// Appends a DRAINING.
pub fn write_draining(out: &mut Vec<u8>, milliseconds: u32) {
    write_frame(out, kind::DRAINING, |out| {
        out.extend_from_slice(&milliseconds.to_le_bytes());
    });
}
