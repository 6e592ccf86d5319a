//! How an event is written in each form that connections take events in.
//!
//! A frame is a head, which is the same for all events of one topic that reach a connection by one
//! filter, and what differs from event to event. Start at [`encode_event`].

use crate::command::{Event, FilterKind, Form, Space};
use crate::sids::Sid;
use sapwood_wire::native::{self, flag, kind};
use sapwood_wire::nats;
use sapwood_wire::resp::{self, Version};
use sapwood_wire::run::{Source, Span, turn_into_pushes};

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
        Form::Native => {
            out.extend_from_slice(&[kind::MESSAGE, 0]);
            return native::write_text16(out, topic);
        }
        Form::Nats => {
            out.extend_from_slice(b"MSG ");
            out.extend_from_slice(topic);
            return out.push(b' ');
        }
    };
    let (word, names): (&[u8], &[&[u8]]) = match kind {
        FilterKind::Topic => (b"message", &[topic]),
        FilterKind::ShardChannel => (b"smessage", &[topic]),
        FilterKind::Glob | FilterKind::Wildcard => (b"pmessage", &[filter, topic]),
    };
    resp::push(out, version, 2 + names.len());
    resp::bulk(out, word);
    for name in names {
        resp::bulk(out, name);
    }
}

/// Writes an event's whole frame; to a form whose clients name their subscriptions, for `sid`.
pub(crate) fn encode_event(
    form: Form,
    head: &[u8],
    sid: Option<&Sid>,
    event: &Event<'_>,
    out: &mut Vec<u8>,
) {
    encode_event_before_payload(form, head, sid, event, out);
    out.extend_from_slice(event.payload);
    out.extend_from_slice(event_end(form));
}

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
            _ => {
                let mut last = start;
                for &(from, to) in self.payloads {
                    last = out.len();
                    let payload = &self.frames[from as usize..to as usize];
                    let event = Event::plain(Space::Topic, self.topic, payload);
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
                Source::Native => {
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
        Form::Native => {
            let length = head.len() + event.attributes.len() + event.payload.len();
            out.extend_from_slice(&(length as u32).to_le_bytes());
            out.extend_from_slice(&[head[0], event.flags]);
            out.extend_from_slice(&head[2..]);
            out.extend_from_slice(event.attributes);
        }
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
        Form::Native => b"",
    }
}

/// Most bytes of an event's frame but for its head and payload.
pub(crate) fn event_room(event: &Event<'_>) -> usize {
    const NUMBERS_AND_ENDS: usize = 64;
    // A header of NATS has one byte more than a native one.
    NUMBERS_AND_ENDS + 2 * event.attributes.len()
}

/// Writes the frame of a member's turn up to the payload, natively: the only form so far whose
/// clients can be in a group.
pub(crate) fn encode_turn_before_payload(number: u32, event: &Event<'_>, out: &mut Vec<u8>) {
    let message = 1 + 2 + event.topic.len() + event.attributes.len() + event.payload.len();
    out.extend_from_slice(&((1 + 4 + message) as u32).to_le_bytes());
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
        Form::Resp2 | Form::Resp3 | Form::Nats => {}
        Form::Native => native::write_gap(out, events),
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
        Form::Native | Form::Nats => unreachable!("only clients of Redis change their form"),
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
