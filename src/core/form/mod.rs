//! How an event is written in each form that connections take events in.
//!
//! A frame is a head, which is the same for all events of one topic that reach a connection by one
//! filter, and what differs from event to event. Start at [`encode_event`].

pub(crate) mod sids;

use crate::command::{Event, FilterKind, Form, Space};
use sapwood_wire::native::{self, flag, kind};
use sapwood_wire::resp::{self, Version};
use sapwood_wire::run::{Source, Span, turn_into_pushes};
use sapwood_wire::{json, nats, websocket};
use sids::Sid;

/// Numbers of events of one shard are so far apart that no two shards have the same.
pub(crate) const EVENT_NUMBER_STEP: u64 = crate::limits::SHARDS_MAX as u64;

/// Writes what the frames of one topic begin with, to be given to [`encode_event`] with each.
pub(crate) fn encode_event_head(
    form: Form,
    kind: FilterKind,
    filter: &[u8],
    topic: &[u8],
    out: &mut Vec<u8>,
) {
    let version = match form {
        Form::Resp2 => Version::Two,
        Form::Resp3 => Version::Three,
        Form::Native | Form::NativeMessages => {
            out.extend_from_slice(&[kind::MESSAGE, 0]);
            return native::write_text16(out, topic);
        }
        Form::Text => {
            // Never written, but it tells one topic's frames from another's.
            out.push(b't');
            return out.extend_from_slice(topic);
        }
        Form::Json | Form::JsonLines => return json::write_message_head(out, text_of(topic)),
        Form::Sse => return json::write_sse_head(out, text_of(topic)),
        Form::Nats => {
            out.extend_from_slice(b"MSG ");
            out.extend_from_slice(topic);
            return out.push(b' ');
        }
    };
    let (word, names): (&[u8], &[&[u8]]) = match kind {
        FilterKind::Topic | FilterKind::Node => (b"message", &[topic]),
        FilterKind::ShardChannel => (b"smessage", &[topic]),
        FilterKind::Glob | FilterKind::Wildcard => (b"pmessage", &[filter, topic]),
    };
    resp::push(out, version, 2 + names.len());
    resp::bulk(out, word);
    for name in names {
        resp::bulk(out, name);
    }
}

/// A topic that only forms which need text are asked to write if it is text.
fn text_of(topic: &[u8]) -> &str {
    // invariant: `Way::carries` has looked.
    std::str::from_utf8(topic).expect("a topic that JSON can carry")
}

/// Writes an event's whole frame; to a form whose clients name their subscriptions, for `sid`.
pub(crate) fn encode_event(
    form: Form,
    head: &[u8],
    sid: Option<&Sid>,
    event: &Event<'_>,
    out: &mut Vec<u8>,
) {
    if form.is_json() {
        return encode_json(form, head, event, out);
    }
    encode_event_before_payload(form, head, sid, event, out);
    out.extend_from_slice(event.payload);
    out.extend_from_slice(event_end(form));
}

/// Writes an event's whole frame in one of the forms of JSON.
fn encode_json(form: Form, head: &[u8], event: &Event<'_>, out: &mut Vec<u8>) {
    let object = |out: &mut Vec<u8>| {
        out.extend_from_slice(head);
        json::write_event(out, event.flags, event.attributes, event.payload);
    };
    match form {
        Form::Json => {
            let expected = head.len() + event.payload.len() + JSON_REST_BYTES;
            websocket::write_frame(out, websocket::TEXT, expected, object);
        }
        Form::Sse => {
            out.extend_from_slice(b"id: ");
            out.extend_from_slice(itoa::Buffer::new().format(event.number).as_bytes());
            out.extend_from_slice(b"\ndata: ");
            object(out);
            out.extend_from_slice(b"\n\n");
        }
        _ => {
            object(out);
            out.push(b'\n');
        }
    }
}

/// What a plain event of JSON has beside its head and payload: `,"data":""}`.
const JSON_REST_BYTES: usize = 11;

/// Adjacent publishes of one topic, for the members of one filter.
pub(crate) struct Run<'a> {
    pub source: Source,
    /// The filter's.
    pub kind: FilterKind,
    pub topic: &'a [u8],
    /// What the frames begin with in the form that is wanted.
    pub head: &'a [u8],
    /// The frames as they came.
    pub frames: &'a [u8],
    /// Where the payloads stand in what `frames` is the start of.
    pub payloads: &'a [Span],
    /// The first event's.
    pub number: u64,
}

impl Run<'_> {
    /// Writes the frames in this form; gives where in `out` the last begins.
    ///
    /// Cost: a copy of all at once where the forms allow it, else an encoding for each.
    pub(crate) fn encode(&self, form: Form, out: &mut Vec<u8>) -> usize {
        let start = out.len();
        let is_topic = self.kind == FilterKind::Topic;
        match (self.source, form) {
            (Source::Native, Form::Native) => out.extend_from_slice(self.frames),
            (Source::Resp, Form::Resp2) if is_topic => self.push(b'*', out),
            (Source::Resp, Form::Resp3) if is_topic => self.push(b'>', out),
            (_, Form::Native) => return self.encode_native(out),
            _ => {
                let mut last = start;
                for (place, &(from, to)) in self.payloads.iter().enumerate() {
                    last = out.len();
                    let payload = &self.frames[from as usize..to as usize];
                    let event = Event {
                        number: self.number + place as u64 * EVENT_NUMBER_STEP,
                        ..Event::plain(Space::Topic, self.topic, payload)
                    };
                    encode_event(form, self.head, None, &event, out);
                }
                return last;
            }
        }
        let last = match self.payloads {
            [.., (_, end), _] if self.source == Source::Native => *end as usize,
            [.., (_, end), _] => *end as usize + resp::END.len(),
            _ => 0,
        };
        start + last
    }

    /// The same in the native form, where only the payloads differ.
    fn encode_native(&self, out: &mut Vec<u8>) -> usize {
        let payloads = self.payloads.iter().map(|&(from, to)| (to - from) as usize);
        let each = native::LENGTH_BYTES + self.head.len();
        out.reserve(payloads.sum::<usize>() + each * self.payloads.len());
        let mut last = out.len();
        for &(from, to) in self.payloads {
            last = out.len();
            let length = self.head.len() as u32 + to - from;
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(self.head);
            out.extend_from_slice(&self.frames[from as usize..to as usize]);
        }
        last
    }

    /// Writes the frames as messages of NATS for this subscription, and notes where each begins and where
    /// its name stands.
    pub(crate) fn encode_named(&self, sid: &[u8], out: &mut Vec<u8>, marks: &mut Vec<NameMark>) {
        for &(from, to) in self.payloads {
            let (from, to) = (from as usize, to as usize);
            let frame_at = out.len();
            out.extend_from_slice(self.head);
            let name_at = out.len();
            out.extend_from_slice(sid);
            out.push(b' ');
            match self.source {
                // The length, the payload and what ends them are the same bytes in both.
                Source::Resp | Source::Nats => {
                    let digits = self.frames[..from - nats::END.len()].iter().rev();
                    let digits = digits.take_while(|byte| byte.is_ascii_digit()).count();
                    let line_at = from - nats::END.len() - digits;
                    out.extend_from_slice(&self.frames[line_at..to + nats::END.len()]);
                }
                Source::Native | Source::Node => {
                    nats::write_length(out, to - from);
                    out.extend_from_slice(&self.frames[from..to]);
                    out.extend_from_slice(nats::END);
                }
            }
            marks.push(NameMark { frame_at, name_at });
        }
    }

    fn push(&self, mark: u8, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(self.frames);
        turn_into_pushes(mark, &mut out[start..], self.payloads);
    }
}

/// Where a frame that names a subscription begins, and where the name does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameMark {
    pub frame_at: usize,
    pub name_at: usize,
}

/// Writes frames for another subscription than the one of a name of `length` bytes that they were
/// written for.
pub(crate) fn encode_renamed(
    frames: &[u8],
    marks: &[NameMark],
    length: usize,
    name: &[u8],
    out: &mut Vec<u8>,
) {
    let start = out.len();
    if name.len() == length {
        out.extend_from_slice(frames);
        for mark in marks {
            let at = start + mark.name_at;
            out[at..at + length].copy_from_slice(name);
        }
        return;
    }
    let mut from = 0;
    for mark in marks {
        out.extend_from_slice(&frames[from..mark.name_at]);
        out.extend_from_slice(name);
        from = mark.name_at + length;
    }
    out.extend_from_slice(&frames[from..]);
}

/// Writes an event's frame up to its payload, which is kept elsewhere; behind that comes
/// [`event_end`].
pub(crate) fn encode_event_before_payload(
    form: Form,
    head: &[u8],
    sid: Option<&Sid>,
    event: &Event<'_>,
    out: &mut Vec<u8>,
) {
    match form {
        Form::Nats => {
            // invariant: whoever takes this form has named its subscription.
            let sid = sid.expect("a message of NATS without a subscription");
            encode_message_before_payload(head, sid, event, out);
        }
        Form::Resp2 | Form::Resp3 => {
            out.extend_from_slice(head);
            resp::bulk_header(out, event.payload.len());
        }
        Form::Native | Form::NativeMessages => {
            let length = head.len() + event.attributes.len() + event.payload.len();
            if form == Form::NativeMessages {
                let frame = native::LENGTH_BYTES + length;
                websocket::write_header(out, websocket::BINARY, frame);
            }
            out.extend_from_slice(&(length as u32).to_le_bytes());
            out.extend_from_slice(&[head[0], event.flags]);
            out.extend_from_slice(&head[2..]);
            out.extend_from_slice(event.attributes);
        }
        Form::Text => {
            let opcode = text_or_binary(event.payload);
            websocket::write_header(out, opcode, event.payload.len());
        }
        Form::Json | Form::JsonLines | Form::Sse => {
            unreachable!("JSON does not hold payloads as they are")
        }
    }
}

/// The opcode of a message that should be text if it can be.
pub(crate) fn text_or_binary(payload: &[u8]) -> websocket::OpCode {
    match std::str::from_utf8(payload) {
        Ok(_) => websocket::TEXT,
        Err(_) => websocket::BINARY,
    }
}

/// Writes MSG or HMSG up to the payload.
fn encode_message_before_payload(head: &[u8], sid: &Sid, event: &Event<'_>, out: &mut Vec<u8>) {
    let headers = native::attributes_headers(event.flags, event.attributes);
    let has_headers = event.flags & flag::HEADERS != 0 && sid.takes_headers;
    if has_headers {
        out.push(b'H');
    }
    out.extend_from_slice(head);
    out.extend_from_slice(&sid.name);
    out.push(b' ');
    if let Some(reply) = native::attributes_reply(event.flags, event.attributes) {
        out.extend_from_slice(reply);
        out.push(b' ');
    }
    if !has_headers {
        return nats::write_length(out, event.payload.len());
    }
    let length = nats::headers_length(headers);
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.push(b' ');
    nats::write_length(out, length + event.payload.len());
    nats::write_headers(headers, out);
}

/// What stands behind an event's payload.
pub(crate) fn event_end(form: Form) -> &'static [u8] {
    match form {
        Form::Resp2 | Form::Resp3 => resp::END,
        Form::Nats => nats::END,
        _ => b"",
    }
}

/// Most bytes of an event's frame but for its head and payload.
pub(crate) fn event_room(form: Form, event: &Event<'_>) -> usize {
    const NUMBERS_AND_ENDS: usize = 64;
    if form.is_json() {
        return NUMBERS_AND_ENDS + json::event_room(event.attributes, event.payload);
    }
    // A header of NATS has one byte more than a native one.
    NUMBERS_AND_ENDS + 2 * event.attributes.len()
}

/// Writes the whole frame of a member's turn in a form of JSON.
pub(crate) fn encode_json_turn(form: Form, number: u32, event: &Event<'_>, out: &mut Vec<u8>) {
    let mut head = Vec::new();
    json::write_turn_head(&mut head, number, text_of(event.topic));
    encode_json(form, &head, event, out);
}

/// Writes the frame of a member's turn up to the payload, in a form of the native protocol.
pub(crate) fn encode_turn_before_payload(
    form: Form,
    number: u32,
    event: &Event<'_>,
    out: &mut Vec<u8>,
) {
    let message = 1 + 2 + event.topic.len() + event.attributes.len() + event.payload.len();
    let length = 1 + 4 + message;
    if form == Form::NativeMessages {
        websocket::write_header(out, websocket::BINARY, native::LENGTH_BYTES + length);
    }
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.push(kind::TURN);
    out.extend_from_slice(&number.to_le_bytes());
    out.push(event.flags);
    native::write_text16(out, event.topic);
    out.extend_from_slice(event.attributes);
}

/// Writes what is the same for all turns of a member on one topic, and differs from the heads of
/// frames of every other kind.
pub(crate) fn encode_turn_key(number: u32, topic: &[u8], out: &mut Vec<u8>) {
    out.push(kind::TURN);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(topic);
}

/// Writes that events were lost, in a form that has a frame for it.
pub(crate) fn encode_gap(form: Form, events: u64, out: &mut Vec<u8>) {
    match form {
        Form::Resp2 | Form::Resp3 | Form::Nats | Form::Text => {}
        Form::Native => native::write_gap(out, events),
        Form::NativeMessages | Form::Json | Form::JsonLines => {
            encode_reply(form, out, |out| match form {
                Form::NativeMessages => native::write_gap(out, events),
                _ => json::write_gap(out, events),
            });
        }
        Form::Sse => {
            out.extend_from_slice(b"event: gap\ndata: {\"events\":");
            out.extend_from_slice(itoa::Buffer::new().format(events).as_bytes());
            out.extend_from_slice(b"}\n\n");
        }
    }
}

/// Writes a reply, as connections of this form take it.
pub(crate) fn encode_reply(form: Form, out: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) {
    match form {
        Form::Text | Form::Json => websocket::write_frame(out, websocket::TEXT, 0, encode),
        Form::NativeMessages => websocket::write_frame(out, websocket::BINARY, 0, encode),
        Form::JsonLines => {
            encode(out);
            out.push(b'\n');
        }
        Form::Resp2 | Form::Resp3 | Form::Native | Form::Nats | Form::Sse => encode(out),
    }
}

/// Turns whole frames of events, written in another form, into this form. Of a frame around a
/// shared payload, what stands before the payload is enough.
///
/// The forms of Redis differ in the first byte only, so that nothing moves. Cost: a step for each
/// string of a frame.
pub(crate) fn translate_events(to: Form, frames: &mut [u8]) {
    let mark = match to {
        Form::Resp2 => b'*',
        Form::Resp3 => b'>',
        _ => unreachable!("only clients of Redis change their form"),
    };
    let mut at = 0;
    // Ends because each round steps over the frame's head at least.
    while at < frames.len() {
        frames[at] = mark;
        let (count, mut end) = number_at(frames, at + 1);
        for _ in 0..count {
            if end < frames.len() {
                let (length, start) = number_at(frames, end + 1);
                end = start + length + resp::END.len();
            }
        }
        at = end;
    }
}

/// The number of a frame's head or of a string's, and where what follows it begins.
fn number_at(frames: &[u8], from: usize) -> (usize, usize) {
    let digits = frames[from..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let (mut number, mut end) = (0, from);
    for &digit in digits {
        number = number * 10 + usize::from(digit - b'0');
        end += 1;
    }
    (number, end + resp::END.len())
}
