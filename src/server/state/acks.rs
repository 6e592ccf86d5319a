//! Who waits for what a worker answers, and what is said at reply topics.
//!
//! Owns the tags that are out, the headers that mean something to a stream, and the JSON of an acknowledgement, which has
//! the shape of JetStream's PubAck: `{"stream":"orders","seq":7}`, with `"duplicate":true` where the id was stored before.
//! Must not know workers' machines. Start at [`Waiters`] and [`Fields`].

use sapwood_core::command::ShardId;
use sapwood_core::worker::Asker;
use sapwood_state::worker::{Part, Tag};
use sapwood_wire::headers::Headers;
use sapwood_wire::json::write_text;
use sapwood_wire::native::flag;
use sapwood_wire::state::{
    Answer, Ask, Message, Outcome, Outcomes, Refusal, Request, Sequence, Stored,
};
use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

/// Who waits for an answer.
#[derive(Debug)]
pub(super) enum Waiter {
    /// A call of a connection.
    Call(Asker),
    /// The call of messages that are to be stored, and what was answered for some of them: streams and entries answer each
    /// for their own, and the call is told all in one.
    Stored(Asker, Vec<u8>),
    /// Whoever listens to a topic; published by this shard.
    Reply(ShardId, Box<[u8]>),
}

/// The tags that are out. A tag is used once.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    last: u64,
    waiting: HashMap<Tag, Waiter>,
    /// Reads of which a part was given, and since when their reader has not asked on.
    paused: HashMap<Asker, (Tag, Instant)>,
}

impl Waiters {
    fn add(&mut self, waiter: Waiter) -> Tag {
        self.last += 1;
        let tag = Tag(self.last);
        self.waiting.insert(tag, waiter);
        tag
    }

    pub fn call(&mut self, asker: Asker) -> Tag {
        self.add(Waiter::Call(asker))
    }

    /// A call whose messages are to be stored.
    pub fn stored(&mut self, asker: Asker) -> Tag {
        self.add(Waiter::Stored(asker, Vec::new()))
    }

    pub fn reply(&mut self, shard: ShardId, topic: &[u8]) -> Tag {
        self.add(Waiter::Reply(shard, topic.into()))
    }

    /// The reader of a part asks on.
    pub fn resume(&mut self, asker: Asker) -> Option<Tag> {
        let (tag, _) = self.paused.remove(&asker)?;
        self.waiting.insert(tag, Waiter::Call(asker));
        Some(tag)
    }

    /// Who hears an answer; nobody yet while others about the same messages follow. A part of a read pauses it.
    ///
    /// Panics if nobody waits: the machine has answered twice.
    pub fn answered(&mut self, tag: Tag, bytes: &[u8], part: Part) -> Option<Waiter> {
        if part == Part::More
            && let Some(Waiter::Stored(_, before)) = self.waiting.get_mut(&tag)
        {
            before.extend_from_slice(bytes);
            return None;
        }
        // invariant: a tag is answered once, and a reader of a part asks on before the next.
        let waiter = self.waiting.remove(&tag).expect("somebody waits");
        if let (Part::More, &Waiter::Call(asker)) = (part, &waiter) {
            self.paused.insert(asker, (tag, Instant::now()));
        }
        Some(waiter)
    }

    /// Whether reads wait for their readers.
    pub fn has_paused(&self) -> bool {
        !self.paused.is_empty()
    }

    /// Takes out the reads whose readers have not asked on for so long.
    pub fn take_idle(&mut self, now: Instant, most: Duration) -> Vec<Tag> {
        let mut idle = Vec::new();
        self.paused.retain(|_, &mut (tag, since)| {
            let is_idle = now.duration_since(since) >= most;
            if is_idle {
                idle.push(tag);
            }
            !is_idle
        });
        idle
    }
}

/// What headers say about how a message is to be stored. The names are JetStream's, in all protocols.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields<'a> {
    id: &'a [u8],
    expected_last: Option<Sequence>,
    expected_last_of_topic: Option<Sequence>,
    ttl_ms: u64,
}

impl<'a> Fields<'a> {
    /// Reads the headers that mean something to a stream.
    pub fn read(headers: Headers<'a>) -> Fields<'a> {
        let number = |name: &str| {
            let text = std::str::from_utf8(headers.find(name.as_bytes())?).ok()?;
            text.trim().parse().ok()
        };
        let seconds = headers.find(b"Nats-TTL").and_then(ttl_ms);
        Fields {
            id: headers.find(b"Nats-Msg-Id").unwrap_or_default(),
            expected_last: number("Nats-Expected-Last-Sequence").map(Sequence),
            expected_last_of_topic: number("Nats-Expected-Last-Subject-Sequence").map(Sequence),
            ttl_ms: seconds.unwrap_or(0),
        }
    }

    /// A message with these fields and nothing else.
    pub fn message(&self) -> Message<'a> {
        Message {
            id: self.id,
            expected_last: self.expected_last,
            expected_last_of_topic: self.expected_last_of_topic,
            ttl_ms: self.ttl_ms,
            ..Message::default()
        }
    }
}

/// A time to live: seconds, or a number with `ms`, `s`, `m` or `h`. None if it is neither; 0 for ever.
fn ttl_ms(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let digits = text.find(|digit: char| !digit.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let each: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(each)
}

/// The bytes of the headers among a message's attributes: pairs, or a block that begins with `NATS/1.0`.
pub(super) fn header_bytes(flags: u8, attributes: &[u8]) -> &[u8] {
    if flags & flag::HEADERS == 0 {
        return b"";
    }
    let mut rest = attributes;
    if flags & flag::REPLY != 0 {
        rest = behind_text(rest);
    }
    rest.get(2..).unwrap_or_default()
}

/// What stands behind a text that has its length before it.
fn behind_text(bytes: &[u8]) -> &[u8] {
    let length = bytes
        .first_chunk()
        .map_or(0, |&length| u16::from_le_bytes(length));
    bytes.get(2 + usize::from(length)..).unwrap_or_default()
}

/// Whether a request stores messages, whose streams and entries answer each for their own.
pub(super) fn is_append(bytes: &[u8]) -> bool {
    Request::read(bytes).is_ok_and(|request| matches!(request.ask, Ask::Append(_)))
}

/// Whether a request makes a stream.
pub(super) fn is_create(bytes: &[u8]) -> bool {
    Request::read(bytes).is_ok_and(|request| matches!(request.ask, Ask::Create(_)))
}

/// Whether a request lists streams.
pub(super) fn is_list(request: &Request) -> bool {
    matches!(request.ask, Ask::List(_))
}

/// What is published at the reply topic of a message; nothing if the answer is not about one.
pub(super) fn pub_ack(answer: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match Answer::read(answer).ok()? {
        Answer::Stored(stored) => write_stored(&stored, &mut out),
        Answer::Refused(refusal, stream) => write_refused(refusal, stream, &mut out),
        _ => return None,
    }
    Some(out)
}

fn write_stored(stored: &Stored, out: &mut Vec<u8>) {
    let outcome = match &stored.outcomes.outcomes {
        Outcomes::Run { first, .. } => Outcome::Stored(*first),
        Outcomes::Each(each) => match each.first() {
            Some(outcome) => *outcome,
            None => return,
        },
    };
    let (sequence, is_duplicate) = match outcome {
        Outcome::Stored(sequence) => (sequence, false),
        Outcome::Duplicate(sequence) => (sequence, true),
        Outcome::Refused(refusal) => return write_refused(refusal, stored.stream, out),
    };
    out.extend_from_slice(b"{\"stream\":");
    write_text(out, &String::from_utf8_lossy(stored.stream));
    // Writing to memory never fails.
    let _ = write!(out, ",\"seq\":{}", sequence.0);
    if is_duplicate {
        out.extend_from_slice(b",\"duplicate\":true");
    }
    out.push(b'}');
}

/// The error's codes are JetStream's where it has one, so that its clients find what they look for.
fn write_refused(refusal: Refusal, stream: &[u8], out: &mut Vec<u8>) {
    let (code, number) = match refusal {
        Refusal::WrongLast(_) | Refusal::WrongLastOfTopic(_) => (400, 10_071),
        Refusal::StreamFull => (400, 10_077),
        Refusal::NoStream => (404, 10_059),
        Refusal::MessageTooLong(_) | Refusal::TooLarge(_) => (400, 10_054),
        Refusal::StorageFailed | Refusal::Unknown | Refusal::Busy => (503, 10_077),
        _ => (400, 10_003),
    };
    let _ = write!(
        out,
        "{{\"error\":{{\"code\":{code},\"err_code\":{number},\"description\":"
    );
    write_text(out, &refusal.to_string());
    out.extend_from_slice(b"},\"stream\":");
    write_text(out, &String::from_utf8_lossy(stream));
    out.extend_from_slice(b",\"seq\":0}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use sapwood_core::command::{CallId, ConnId};

    #[test]
    fn headers_say_how_a_message_is_stored() {
        let block = b"NATS/1.0\r\nnats-msg-id: a7\r\nNats-TTL: 90s\r\nNats-Expected-Last-Sequence: 12\r\n\r\n";
        let message = Fields::read(Headers::of_block(block)).message();
        assert_eq!(message.id, b"a7");
        assert_eq!(message.ttl_ms, 90_000);
        assert_eq!(message.expected_last, Some(Sequence(12)));
        assert_eq!(message.expected_last_of_topic, None);
        let cases: [(&[u8], _); 6] = [
            (b"5", Some(5_000)),
            (b"250ms", Some(250)),
            (b"2h", Some(7_200_000)),
            (b"1d", None),
            (b"-1", None),
            (b"99999999999999999999", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(ttl_ms(text), wanted);
        }
    }

    #[test]
    fn headers_are_found_behind_a_reply_topic() {
        let attributes = b"\x03\0r.1\x05\0\x02id\x01\0";
        assert_eq!(
            header_bytes(flag::REPLY | flag::HEADERS, attributes),
            b"\x02id\x01\0"
        );
        assert_eq!(
            header_bytes(flag::HEADERS, &attributes[5..]),
            b"\x02id\x01\0"
        );
        assert_eq!(header_bytes(flag::REPLY, attributes), b"");
    }

    #[test]
    fn a_read_whose_reader_does_not_ask_on_is_taken_out() {
        let mut waiters = Waiters::default();
        let asker = Asker {
            shard: ShardId(0),
            conn: ConnId(1),
            call: CallId(2),
        };
        let tag = waiters.call(asker);
        waiters.answered(tag, b"", Part::More);
        assert!(waiters.has_paused());
        assert!(
            waiters
                .take_idle(Instant::now(), Duration::from_secs(60))
                .is_empty()
        );
        assert_eq!(waiters.resume(asker), Some(tag));
        waiters.answered(tag, b"", Part::More);
        assert_eq!(waiters.take_idle(Instant::now(), Duration::ZERO), [tag]);
        assert_eq!(waiters.resume(asker), None);
    }

    #[test]
    fn what_became_of_a_call_s_messages_is_told_in_one() {
        let mut waiters = Waiters::default();
        let asker = Asker {
            shard: ShardId(0),
            conn: ConnId(1),
            call: CallId(2),
        };
        let tag = waiters.stored(asker);
        assert!(waiters.answered(tag, b"one", Part::More).is_none());
        assert!(waiters.answered(tag, b"two", Part::More).is_none());
        assert!(!waiters.has_paused(), "nobody asks on");
        match waiters.answered(tag, b"three", Part::Last) {
            Some(Waiter::Stored(who, before)) => {
                assert_eq!((who, &before[..]), (asker, &b"onetwo"[..]));
            }
            other => panic!("{other:?}"),
        }
    }
}
