//! Messages in both directions: received ones, as views of the bytes that were read, and those to be published.
//!
//! Owns the arithmetic of the views. Must not know connections. Invariant: a [`Batch`] holds whole frames that the
//! machine has already parsed, so parsing them again cannot fail. Start at [`Message`].

use bytes::{Buf, Bytes};
use sapwood_wire::headers::Headers;
use sapwood_wire::native::{self, BrokerFrame, Parsed, Parts};
use std::borrow::Cow;
use std::fmt;

/// A received event. Cheap to clone and to keep for a while: it is a view of the bytes that were read, and keeps that
/// read (64 KiB, or a longer message alone) in memory. Copy the payload to keep it for long.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The frame from its flags to the end of the payload.
    bytes: Bytes,
    topic_length: u16,
    /// Position of the payload.
    payload: u32,
}

/// Position of the topic: after the flags and the topic's length.
const TOPIC_START: usize = 3;

impl Message {
    /// Parses the message in these bytes, which must be exactly one frame.
    fn from_frame(mut frame: Bytes) -> Option<Message> {
        let (head, topic_length, payload) = match native::parse_from_broker(&frame) {
            Ok(Parsed::Frame {
                frame: BrokerFrame::Message(message) | BrokerFrame::Turn { message, .. },
                length,
            }) => (
                length - message.bytes.len(),
                message.topic.len() as u16,
                (message.bytes.len() - message.payload.len()) as u32,
            ),
            _ => return None,
        };
        frame.advance(head);
        Some(Message {
            bytes: frame,
            topic_length,
            payload,
        })
    }

    fn topic_end(&self) -> usize {
        TOPIC_START + usize::from(self.topic_length)
    }

    fn attributes(&self) -> &[u8] {
        &self.bytes[self.topic_end()..self.payload as usize]
    }

    /// The topic. Topics are bytes; see [`topic_text`](Message::topic_text).
    pub fn topic(&self) -> &[u8] {
        &self.bytes[TOPIC_START..self.topic_end()]
    }

    /// The topic as text; invalid UTF-8 is replaced.
    pub fn topic_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.topic())
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.payload as usize..]
    }

    /// The payload as `Bytes`, which share the message's memory.
    pub fn payload_bytes(&self) -> Bytes {
        self.bytes.slice(self.payload as usize..)
    }

    /// The payload as text; invalid UTF-8 is replaced.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.payload())
    }

    /// The reply topic, if replies are wanted. To answer, see `reply` of the client.
    pub fn reply(&self) -> Option<&[u8]> {
        native::attributes_reply(self.bytes[0], self.attributes())
    }

    /// The headers, names and values, in order.
    pub fn headers(&self) -> Headers<'_> {
        native::attributes_headers(self.bytes[0], self.attributes())
    }

    /// The value of the first header with this name, ignoring case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(name.as_bytes())
    }

    /// Whether this is the last of several replies.
    pub fn is_end(&self) -> bool {
        self.bytes[0] & native::flag::END != 0
    }
}

impl fmt::Debug for Message {
    /// Prints the topic and the payload's length only: payloads can be long, and can be private.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic_text())
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}

/// An iterator over adjacent events of one subscription, in order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Whole frames, MESSAGE or TURN.
    frames: Bytes,
}

impl Batch {
    pub(crate) fn new(frames: Bytes) -> Batch {
        Batch { frames }
    }

    /// Whether no event is left.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

impl Iterator for Batch {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        let length = frame_length(&self.frames)?;
        Message::from_frame(self.frames.split_to(length))
    }
}

/// Length of the first of some whole frames; `None` at their end.
pub(crate) fn frame_length(frames: &[u8]) -> Option<usize> {
    let field = frames.first_chunk::<{ native::LENGTH_BYTES }>()?;
    let length = native::LENGTH_BYTES + u32::from_le_bytes(*field) as usize;
    (length <= frames.len()).then_some(length)
}

/// What a subscription receives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An event.
    Message(Message),
    /// Events were dropped at this place because this client is a slow consumer. If the broker dropped them, it is up
    /// to this many, counted over all subscriptions of this client, and each of them is told. If the subscription's own
    /// queue was full, it is exactly this many of this subscription.
    Gap {
        /// Number of events.
        events: u64,
    },
    /// The connection ended and another one is open: events may be missing at this place.
    Reconnected,
    /// The broker refused the subscription after a reconnect. Nothing follows.
    Refused(crate::error::Refusal),
}

impl Event {
    /// The message, if this is one.
    pub fn message(self) -> Option<Message> {
        match self {
            Event::Message(message) => Some(message),
            _ => None,
        }
    }
}

/// A message to be published, for more than a topic and a payload.
///
/// ```
/// use sapwood_client::Outgoing;
/// let order = Outgoing::new("orders.7.paid", "{}").header("content-type", "application/json");
/// # let _ = order;
/// ```
#[derive(Clone, Debug, Default)]
pub struct Outgoing<'a> {
    topic: &'a [u8],
    reply: Option<&'a [u8]>,
    headers: Vec<(&'a [u8], &'a [u8])>,
    is_end: bool,
    payload: &'a [u8],
}

impl<'a> Outgoing<'a> {
    /// A message without headers.
    pub fn new(
        topic: &'a (impl AsRef<[u8]> + ?Sized),
        payload: &'a (impl AsRef<[u8]> + ?Sized),
    ) -> Outgoing<'a> {
        Outgoing {
            topic: topic.as_ref(),
            payload: payload.as_ref(),
            ..Outgoing::default()
        }
    }

    /// Adds a header. Its name is 1 to 255 bytes from `!` to `~` without `:`; its value has neither CR, LF nor
    /// NUL.
    pub fn header(
        mut self,
        name: &'a (impl AsRef<[u8]> + ?Sized),
        value: &'a (impl AsRef<[u8]> + ?Sized),
    ) -> Outgoing<'a> {
        self.headers.push((name.as_ref(), value.as_ref()));
        self
    }

    /// Sets the reply topic. Requests choose their own.
    pub fn reply_to(mut self, topic: &'a (impl AsRef<[u8]> + ?Sized)) -> Outgoing<'a> {
        self.reply = Some(topic.as_ref());
        self
    }

    /// Marks the message as the last of several replies.
    pub fn end(mut self) -> Outgoing<'a> {
        self.is_end = true;
        self
    }

    /// The parts of the message, as the wire crate takes them.
    pub fn parts(&self) -> Parts<'_> {
        Parts {
            topic: self.topic,
            reply: self.reply,
            headers: &self.headers,
            is_end: self.is_end,
            payload: self.payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(messages: &[Parts<'_>]) -> Bytes {
        let mut out = Vec::new();
        for (index, parts) in messages.iter().enumerate() {
            let mut message = Vec::new();
            parts.write(&mut message).unwrap();
            match index % 2 {
                0 => native::write_message(&mut out, &message),
                _ => native::write_turn(&mut out, 7, &message),
            }
        }
        Bytes::from(out)
    }

    #[test]
    fn views_are_the_parts_that_were_written() {
        let full = Parts {
            topic: b"a.b",
            reply: Some(b"r.12"),
            headers: &[(b"id", b"7"), (b"x", b"")],
            is_end: true,
            payload: b"done",
        };
        let bare = Parts {
            topic: b"t",
            ..Parts::default()
        };
        let messages: Vec<_> = Batch::new(frames(&[full, bare, full])).collect();
        assert_eq!(messages.len(), 3);
        for message in [&messages[0], &messages[2]] {
            assert_eq!(message.topic(), b"a.b");
            assert_eq!(message.reply(), Some(&b"r.12"[..]));
            assert_eq!(message.header("ID"), Some(&b"7"[..]));
            assert_eq!(message.headers().count(), 2);
            assert_eq!(message.payload(), b"done");
            assert_eq!(message.payload_bytes(), b"done"[..]);
            assert!(message.is_end());
        }
        assert_eq!(messages[1].topic_text(), "t");
        assert_eq!(messages[1].reply(), None);
        assert_eq!(messages[1].text(), "");
        assert!(!messages[1].is_end());
    }
}
