//! The NATS form: each message names its subscription.

use super::Run;
use super::sids::Sid;
use crate::command::Event;
use sapwood_wire::native::{self, flag};
use sapwood_wire::nats;
use sapwood_wire::run::Source;

pub(super) fn encode_head(topic: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"MSG ");
    out.extend_from_slice(topic);
    out.push(b' ');
}

/// Writes MSG or HMSG up to the payload.
pub(super) fn encode_before_payload(head: &[u8], sid: &Sid, event: &Event<'_>, out: &mut Vec<u8>) {
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
    let length = headers.block_length();
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.push(b' ');
    nats::write_length(out, length + event.payload.len());
    headers.write_block(out);
}

impl Run<'_> {
    /// Writes the frames as NATS messages for this subscription, and notes the offsets of each frame and of the name in
    /// it.
    pub(crate) fn encode_named(&self, sid: &[u8], out: &mut Vec<u8>, marks: &mut Vec<NameMark>) {
        for &(from, to) in self.payloads {
            let (from, to) = (from as usize, to as usize);
            let frame_at = out.len();
            out.extend_from_slice(self.head);
            let name_at = out.len();
            out.extend_from_slice(sid);
            out.push(b' ');
            match self.source {
                // Length, payload and payload end are the same bytes in Redis and NATS.
                Source::Resp | Source::Nats => {
                    let digits = self.frames[..from - nats::END.len()].iter().rev();
                    let digits = digits.take_while(|byte| byte.is_ascii_digit()).count();
                    let line_at = from - nats::END.len() - digits;
                    out.extend_from_slice(&self.frames[line_at..to + nats::END.len()]);
                }
                Source::Native | Source::NativeStored | Source::Node => {
                    nats::write_length(out, to - from);
                    out.extend_from_slice(&self.frames[from..to]);
                    out.extend_from_slice(nats::END);
                }
            }
            marks.push(NameMark { frame_at, name_at });
        }
    }
}

/// Offset of a frame that names a subscription, and of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameMark {
    pub frame_at: usize,
    pub name_at: usize,
}

/// Writes frames for another subscription, in place of the one of a name of `length` bytes that they were written for.
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
