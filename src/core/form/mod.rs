//! Encoding of events in each form that connections take them in.
//!
//! A frame is a head, which is the same for all events of one topic that reach a connection by one filter, and a rest
//! that differs from event to event. This file says which protocol's file writes which form. Start at [`encode_event`].

mod json;
mod native;
mod nats;
mod resp;
pub(crate) mod sids;
mod text;

pub(crate) use json::encode_turn as encode_json_turn;
pub(crate) use native::encode_turn_before_payload;
pub(crate) use nats::{NameMark, encode_renamed};
pub(crate) use resp::translate_events;
pub(crate) use text::text_or_binary;

use crate::command::{Event, FilterKind, Form, Space, Volume};
use sapwood_wire::native::{self as wire_native, kind};
use sapwood_wire::resp::Version;
use sapwood_wire::run::{Source, Span};
use sapwood_wire::{http, json as wire_json, websocket};
use sids::Sid;

/// Step between the event numbers of a shard, so that no two shards use the same.
pub(crate) const EVENT_NUMBER_STEP: u64 = crate::limits::SHARDS_MAX as u64;

/// Writes the head that the frames of one topic share, to be given to [`encode_event`] with each event.
pub(crate) fn encode_event_head(
    form: Form,
    kind: FilterKind,
    filter: &[u8],
    topic: &[u8],
    out: &mut Vec<u8>,
) {
    match form {
        Form::Resp2 => resp::encode_head(Version::Two, kind, filter, topic, out),
        Form::Resp3 => resp::encode_head(Version::Three, kind, filter, topic, out),
        Form::Native | Form::NativeMessages => native::encode_head(topic, out),
        Form::Text => text::encode_head(topic, out),
        Form::Json | Form::JsonLines | Form::Sse | Form::SsePlain => {
            json::encode_head(form, topic, out);
        }
        Form::Nats => nats::encode_head(topic, out),
    }
}

/// Writes an event's whole frame. `sid`: the subscription, in a form whose messages name it.
pub(crate) fn encode_event(
    form: Form,
    head: &[u8],
    sid: Option<&Sid>,
    event: &Event<'_>,
    out: &mut Vec<u8>,
) {
    if form.is_json() {
        return json::encode_event(form, head, event, out);
    }
    encode_event_before_payload(form, head, sid, event, out);
    out.extend_from_slice(event.payload);
    out.extend_from_slice(event_end(form));
}

/// Bytes after a payload of Redis and of NATS.
const LINE_END_BYTES: usize = 2;

/// A run: adjacent publishes of one topic, for the members of one filter.
pub(crate) struct Run<'a> {
    pub source: Source,
    /// Kind of the filter.
    pub kind: FilterKind,
    pub topic: &'a [u8],
    /// Head of the frames in the form that is wanted.
    pub head: &'a [u8],
    /// Frames as they came from the publisher.
    pub frames: &'a [u8],
    /// Spans of the payloads, counted from the start of `frames`.
    pub payloads: &'a [Span],
    /// Its events, and the bytes of their payloads.
    pub volume: Volume,
    /// Number of the first event.
    pub number: u64,
}

impl Run<'_> {
    /// The first so many events of it.
    pub(crate) fn first(self, events: usize) -> Self {
        if events == self.payloads.len() {
            return self;
        }
        let payloads = &self.payloads[..events];
        let lengths = payloads.iter().map(|&(start, end)| u64::from(end - start));
        let volume = Volume {
            events: events as u64,
            bytes: lengths.sum(),
        };
        Run {
            payloads,
            volume,
            ..self
        }
    }

    /// Writes the frames in this form; gives the offset in `out` of the last one.
    ///
    /// Cost: one copy of all frames where the forms allow it, else an encoding for each event.
    pub(crate) fn encode(&self, form: Form, out: &mut Vec<u8>) -> usize {
        let start = out.len();
        let is_topic = self.kind == FilterKind::Topic;
        match (self.source, form) {
            (Source::Native, Form::Native) => out.extend_from_slice(self.frames),
            (Source::Resp, Form::Resp2) if is_topic => resp::encode_run(self, b'*', out),
            (Source::Resp, Form::Resp3) if is_topic => resp::encode_run(self, b'>', out),
            (_, Form::Native) => return native::encode_run(self, out),
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
            [.., (_, end), _] => *end as usize + LINE_END_BYTES,
            _ => 0,
        };
        start + last
    }
}

/// Writes an event's frame up to its payload, which is kept elsewhere. [`event_end`] comes after the payload.
pub(crate) fn encode_event_before_payload(
    form: Form,
    head: &[u8],
    sid: Option<&Sid>,
    event: &Event<'_>,
    out: &mut Vec<u8>,
) {
    match form {
        Form::Nats => {
            // invariant: a connection that takes this form has named its subscription.
            let sid = sid.expect("a message of NATS without a subscription");
            nats::encode_before_payload(head, sid, event, out);
        }
        Form::Resp2 | Form::Resp3 => {
            resp::encode_before_payload(head, event, out);
        }
        Form::Native | Form::NativeMessages => {
            native::encode_before_payload(form, head, event, out);
        }
        Form::Text => {
            text::encode_before_payload(event, out);
        }
        Form::Json | Form::JsonLines | Form::Sse | Form::SsePlain => {
            unreachable!("JSON does not hold payloads as they are")
        }
    }
}

/// Bytes after an event's payload.
pub(crate) fn event_end(form: Form) -> &'static [u8] {
    match form {
        Form::Resp2 | Form::Resp3 => sapwood_wire::resp::END,
        Form::Nats => sapwood_wire::nats::END,
        _ => b"",
    }
}

/// What an event counts as, delivered in a form whose messages name no subscription.
pub(crate) fn volume(form: Form, event: &Event<'_>) -> Volume {
    match form {
        Form::Resp2 | Form::Resp3 | Form::Text => event.bare_volume(),
        _ => event.volume(),
    }
}

/// Most bytes of an event's frame besides its head and payload.
pub(crate) fn event_room(form: Form, event: &Event<'_>) -> usize {
    const NUMBERS_AND_ENDS: usize = 64;
    if form.is_json() {
        return NUMBERS_AND_ENDS + wire_json::event_room(event.attributes, event.payload);
    }
    // A NATS header has one byte more than a native one.
    NUMBERS_AND_ENDS + 2 * event.attributes.len()
}

/// Writes the key of a member's turns on one topic, which differs from the heads of all other frames.
pub(crate) fn encode_turn_key(number: u32, topic: &[u8], out: &mut Vec<u8>) {
    out.push(kind::TURN);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(topic);
}

/// Writes the gap notice of lost events, in forms that have one.
pub(crate) fn encode_gap(form: Form, events: u64, out: &mut Vec<u8>) {
    match form {
        Form::Resp2 | Form::Resp3 | Form::Nats | Form::Text => {}
        Form::Native => wire_native::write_gap(out, events),
        Form::NativeMessages | Form::Json | Form::JsonLines | Form::Sse | Form::SsePlain => {
            encode_reply(form, out, |out| match form {
                Form::NativeMessages => wire_native::write_gap(out, events),
                Form::Sse | Form::SsePlain => wire_json::write_sse_gap(out, Some(events)),
                _ => wire_json::write_gap(out, events),
            });
        }
    }
}

/// Writes a reply with the framing of the form.
pub(crate) fn encode_reply(form: Form, out: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) {
    match form {
        Form::Text | Form::Json => websocket::write_frame(out, websocket::TEXT, 0, encode),
        Form::NativeMessages => websocket::write_frame(out, websocket::BINARY, 0, encode),
        Form::JsonLines => {
            encode(out);
            out.push(b'\n');
        }
        Form::Sse => http::write_chunk(out, 0, encode),
        Form::Resp2 | Form::Resp3 | Form::Native | Form::Nats | Form::SsePlain => encode(out),
    }
}
