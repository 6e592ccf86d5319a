//! A read of a stream that is shown as it comes: lines of JSON, or server-sent events that go on with what is stored later.
//!
//! Owns where a read is. Each round asks for one part from where the last ended, so that a worker keeps nothing for a
//! reader that is slow; the parts of a read of the last of each topic belong together and are asked for as one. Invariants:
//! a part is asked for when the one before was written; what was skipped is said before what follows it. Start at
//! [`Reading::answered`].

use super::{error_of, request_of, state_of, unreadable, worker_of};
use crate::command::{Answers, CallError, Extent, Query, Round, ShardId};
use crate::context::Context;
use crate::limits::{SSE_HEARTBEAT_MS, STREAM_PAGE_MESSAGES_MAX};
use bytes::Bytes;
use sapwood_wire::http::HttpError;
use sapwood_wire::json::{write_stored, write_text};
use sapwood_wire::limits::ANSWER_PART_BYTES;
use sapwood_wire::state::{
    Answer, Ask, Read, ReadEnd, ReadHead, ReadPage, ReadStart, Rest, ResumeToken, Wait,
};
use std::io::Write;

/// How messages are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Shape {
    /// A JSON object in each line, to the end of the stream.
    Lines,
    /// Server-sent events; at the end of the stream they go on as messages are stored.
    Events,
}

/// What is to be read.
#[derive(Debug)]
pub(in super::super) struct ReadAsked {
    pub stream: Vec<u8>,
    pub filters: Vec<Vec<u8>>,
    pub start: ReadStart,
    pub limit: u64,
    pub shape: Shape,
}

/// A read in progress.
#[derive(Debug)]
pub(in super::super) struct Reading {
    asked: ReadAsked,
    worker: ShardId,
    /// The response has begun.
    is_begun: bool,
    /// The end of the stream was reached and said.
    is_at_head: bool,
}

/// What follows a part.
#[derive(Debug)]
pub(in super::super) enum Part {
    /// This refusal, in place of a response.
    Refused(HttpError),
    /// More of the body, and the next round.
    More(Vec<u8>, Round),
    /// More of the body, and the next request, which is answered once something is stored.
    Wait(Vec<u8>, Bytes),
    /// The rest of the body.
    End(Vec<u8>),
}

impl Reading {
    pub(in super::super) fn new(asked: ReadAsked, cx: &Context<'_>) -> Result<Reading, HttpError> {
        Ok(Reading {
            worker: worker_of(&asked.stream, cx)?,
            asked,
            is_begun: false,
            is_at_head: false,
        })
    }

    /// The worker that is asked.
    pub(in super::super) fn worker(&self) -> ShardId {
        self.worker
    }

    pub(in super::super) fn shape(&self) -> Shape {
        self.asked.shape
    }

    /// Whether the response has begun.
    pub(in super::super) fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// The request for the next part.
    pub(in super::super) fn request(&self) -> Bytes {
        let is_whole = self.asked.start == ReadStart::LastOfEach;
        let (messages, bytes) = match is_whole {
            true => (u32::MAX, u32::MAX),
            false => {
                let most = u64::from(STREAM_PAGE_MESSAGES_MAX);
                (self.asked.limit.min(most) as u32, ANSWER_PART_BYTES as u32)
            }
        };
        request_of(Ask::Read(Read {
            stream: &self.asked.stream,
            start: self.asked.start,
            filters: self.asked.filters.iter().map(Vec::as_slice).collect(),
            messages,
            bytes,
        }))
    }

    /// The request that is answered once something stands behind the token, or a heartbeat is due.
    fn wait_request(&self, token: ResumeToken) -> Bytes {
        request_of(Ask::Wait(Wait {
            stream: &self.asked.stream,
            token,
            ms: SSE_HEARTBEAT_MS,
        }))
    }

    fn round(&self, request: Bytes) -> Round {
        vec![(self.worker, Query::State(request))]
    }

    /// Takes the answer of a round.
    pub(in super::super) fn answered(&mut self, answers: Result<Answers, CallError>) -> Part {
        let (bytes, extent) = match state_of(answers) {
            Ok(answer) => answer,
            Err(error) => return self.refused(error),
        };
        match Answer::read(&bytes) {
            Ok(Answer::Page(page)) => self.page(&page, extent),
            Ok(Answer::Refused(refusal, other)) => self.refused(error_of(refusal, other)),
            Ok(_) | Err(_) => self.refused(unreadable()),
        }
    }

    fn refused(&mut self, error: HttpError) -> Part {
        if !self.is_begun {
            return Part::Refused(error);
        }
        let mut out = Vec::new();
        self.notice(&mut out, "error", None, |out| {
            out.extend_from_slice(b"\"code\":");
            write_text(out, error.code);
            out.extend_from_slice(b",\"text\":");
            write_text(out, &error.text);
        });
        Part::End(out)
    }

    fn page(&mut self, page: &ReadPage<'_>, extent: Extent) -> Part {
        self.is_begun = true;
        let mut out = Vec::new();
        self.show_head(&page.head, &mut out);
        let token = page.head.end.map(|end| end.token);
        // What is the last of its topic is no place to go on from.
        let has_ids = self.asked.start != ReadStart::LastOfEach;
        for message in page.messages {
            if self.asked.shape == Shape::Lines {
                write_stored(&mut out, &message);
                out.push(b'\n');
                continue;
            }
            if let Some(token) = token.filter(|_| has_ids) {
                let sequence = message.sequence;
                let _ = writeln!(out, "id: {}", ResumeToken { sequence, ..token });
            }
            out.extend_from_slice(b"data: ");
            write_stored(&mut out, &message);
            out.extend_from_slice(b"\n\n");
        }
        let count = u64::from(page.messages.remaining());
        self.asked.limit = self.asked.limit.saturating_sub(count);
        let Some(end) = page.head.end else {
            return match extent {
                // An empty request asks for the next part.
                Extent::More => Part::More(out, self.round(Bytes::new())),
                Extent::Done => self.refused(unreadable()),
            };
        };
        self.go_on(end, count, out)
    }

    /// What follows the end of a page.
    fn go_on(&mut self, end: ReadEnd, count: u64, mut out: Vec<u8>) -> Part {
        let is_new = self.asked.start != ReadStart::Resume(end.token);
        self.asked.start = ReadStart::Resume(end.token);
        let is_at_head = end.rest == Rest::Done;
        if self.asked.limit == 0 || is_at_head && self.asked.shape == Shape::Lines {
            let at_head = if is_at_head { "true" } else { "false" };
            self.notice(&mut out, "end", Some(end.token), |out| {
                out.extend_from_slice(b"\"at_head\":");
                out.extend_from_slice(at_head.as_bytes());
            });
            return Part::End(out);
        }
        if !is_at_head {
            return Part::More(out, self.round(self.request()));
        }
        if !std::mem::replace(&mut self.is_at_head, true) {
            self.notice(&mut out, "head", Some(end.token), |_| {});
        } else if count == 0 && is_new {
            // Messages that the filters leave out need not be looked at again.
            let _ = write!(out, "id: {}\n\n", end.token);
        } else if out.is_empty() {
            out.extend_from_slice(super::super::response::SSE_COMMENT);
        }
        Part::Wait(out, self.wait_request(end.token))
    }

    fn show_head(&self, head: &ReadHead, out: &mut Vec<u8>) {
        if head.is_reset {
            self.notice(out, "reset", None, |_| {});
        }
        if let Some((from, to)) = head.gap {
            self.notice(out, "gap", None, |out| {
                let last = to.0.saturating_sub(1);
                let _ = write!(out, "\"first\":{from},\"last\":{last}");
            });
        }
    }

    /// Writes something that is no message: its kind, and with a token where to go on.
    fn notice(
        &self,
        out: &mut Vec<u8>,
        kind: &str,
        token: Option<ResumeToken>,
        fields: impl FnOnce(&mut Vec<u8>),
    ) {
        let is_line = self.asked.shape == Shape::Lines;
        match (is_line, token) {
            (true, _) => out.extend_from_slice(b"{\"event\":\""),
            (false, Some(token)) => {
                let _ = write!(out, "id: {token}\nevent: ");
            }
            (false, None) => out.extend_from_slice(b"event: "),
        }
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(if is_line { b"\"" } else { b"\ndata: {" });
        let start = out.len();
        if is_line {
            out.push(b',');
        }
        let before = out.len();
        fields(out);
        if let Some(token) = token {
            if out.len() > before {
                out.push(b',');
            }
            let _ = write!(out, "\"resume\":\"{token}\"");
        }
        if out.len() == before {
            out.truncate(start);
        }
        out.extend_from_slice(if is_line { b"}\n" } else { b"}\n\n" });
    }
}
