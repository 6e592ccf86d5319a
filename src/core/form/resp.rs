//! Redis forms: pushes of version 3, and arrays of version 2, which differ from pushes in the first byte only.

use super::Run;
use crate::command::{Event, FilterKind, Form};
use sapwood_wire::resp::{self, Version};
use sapwood_wire::run::turn_into_pushes;

pub(super) fn encode_head(
    version: Version,
    kind: FilterKind,
    filter: &[u8],
    topic: &[u8],
    out: &mut Vec<u8>,
) {
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

pub(super) fn encode_before_payload(head: &[u8], event: &Event<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(head);
    resp::bulk_header(out, event.payload.len());
}

/// Writes PUBLISH frames of Redis as messages for subscribers of exactly their topic.
pub(super) fn encode_run(run: &Run<'_>, mark: u8, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(run.frames);
    turn_into_pushes(mark, &mut out[start..], run.payloads);
}

/// Translates whole frames of events, in place, from another Redis form into this one. Of a frame around a shared
/// payload, the part before the payload is enough.
///
/// The Redis forms differ in the first byte only, so nothing moves. Cost: a step for each string of a frame.
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

/// The number of a frame's head or of a string, and the offset after it.
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
