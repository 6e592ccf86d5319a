//! What a native client asks the state plane: CALL, and PUBLISH that is answered once it is stored.
//!
//! Owns which call of the shard answers which request. Must not know what is stored, nor what answers mean: they are
//! handed on as they come. Invariants: each request is answered once to its end; a run of publishes is one call and one
//! answer; reads, whose answers may be long, go on only while their client reads, and few of them wait at a time. Start at
//! [`NativeSession::call`].

use super::{NativeSession, NativeStep, check, event_of, refuse, write_error};
use crate::command::{Answer, Answers, CallError, CallId, Extent, Query, ShardId, Written};
use crate::context::{Context, Stored};
use crate::delivery::PublishedRun;
use crate::limits::NATIVE_READS_MAX;
use bytes::Bytes;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::limits::{PAYLOAD_BYTES_MAX, STATE_REQUEST_BYTES_MAX};
use sapwood_wire::native::{self, AnswerPart, Message};
use sapwood_wire::run::Head;
use sapwood_wire::state::{Ask, Request, partition_of};

/// What a call is for.
#[derive(Debug)]
pub(super) enum Awaited {
    /// PUBLISHes: the first request, and how many.
    Stored(u32, u32),
    /// A CALL whose answer is short.
    Call(u32),
    /// A CALL that reads.
    Read(u32),
    /// A CALL that lists streams, which all workers are asked for in turn.
    List(u32, Bytes),
}

impl NativeSession {
    /// Publishes the run at the start of the input, to be stored.
    pub(super) fn publish_stored_run(
        &mut self,
        head: &Head<'_>,
        input: &[u8],
        cx: &mut Context<'_>,
    ) -> Option<PublishedRun> {
        let (published, call) = cx.publish_stored_run(head, input, PAYLOAD_BYTES_MAX)?;
        let count = published.volume.events as u32;
        self.calls
            .put(call, Awaited::Stored(head.first_request, count));
        self.last_frame = "publish";
        Some(published)
    }

    /// Publishes a message that is answered once it is stored.
    pub(super) fn publish_stored(
        &mut self,
        request: u32,
        message: Message<'_>,
        cx: &mut Context<'_>,
    ) -> NativeStep {
        if let Err(refusal) = check(&message, cx) {
            return refuse(cx, request, refusal);
        }
        if cx.settings().workers == 0 {
            return refuse_with(cx, request, ErrorCode::NoData);
        }
        match cx.publish_stored(event_of(&message)) {
            Stored::Held => return NativeStep::Hold,
            Stored::NoStream => return refuse_with(cx, request, ErrorCode::NoStream),
            Stored::Asked(call, _) => self.calls.put(call, Awaited::Stored(request, 1)),
        }
        NativeStep::Done
    }

    /// Asks the worker of the stream that a request names.
    pub(super) fn call(&mut self, request: u32, body: &[u8], cx: &mut Context<'_>) -> NativeStep {
        let (shards, partitions) = (cx.settings().shards, cx.settings().partitions);
        if cx.settings().workers == 0 {
            return refuse_with(cx, request, ErrorCode::NoData);
        }
        if body.len() > STATE_REQUEST_BYTES_MAX {
            return refuse_with(cx, request, ErrorCode::TooLarge);
        }
        let asked = match Request::read(body) {
            Ok(asked) => asked,
            Err(error) => {
                cx.counters().errors += 1;
                let text =
                    format!("the request cannot be read: {error}; is it as NATIVE.md has it?");
                write_error(cx, request, ErrorCode::RequestInvalid, &text);
                return NativeStep::Done;
            }
        };
        let is_list = matches!(asked.ask, Ask::List(_));
        let is_read = is_list || matches!(asked.ask, Ask::Info(_) | Ask::Get(..) | Ask::Read(_));
        let worker = match asked.stream() {
            Some(name) => cx.worker_of(partition_of(name, partitions).0),
            None if is_list => Some(ShardId(shards)),
            None => None,
        };
        let Some(worker) = worker else {
            cx.counters().errors += 1;
            let text = "the request names no stream: to store by topic, use PUBLISH with when 3";
            write_error(cx, request, ErrorCode::RequestInvalid, &text);
            return NativeStep::Done;
        };
        if is_read && self.reads >= NATIVE_READS_MAX {
            cx.wait_for_a_call();
            return NativeStep::Hold;
        }
        let written = if is_read {
            Written::Streamed
        } else {
            Written::Short
        };
        let body = Bytes::copy_from_slice(body);
        let Some(call) = cx.ask_state(worker, body.clone(), written) else {
            return NativeStep::Hold;
        };
        self.reads += usize::from(is_read);
        let pending = match (is_list, is_read) {
            (true, _) => Awaited::List(request, body),
            (false, true) => Awaited::Read(request),
            (false, false) => Awaited::Call(request),
        };
        self.calls.put(call, pending);
        NativeStep::Done
    }

    /// Hands on what a worker answered.
    pub(crate) fn answered(
        &mut self,
        call: CallId,
        answers: Result<Answers, CallError>,
        cx: &mut Context<'_>,
    ) {
        #[cfg(test)]
        if self.is_of_test(call) {
            return self.heard_by_test(call, answers, cx);
        }
        let pending = self.calls.take(call);
        let (worker, bytes, extent) = match answers.as_deref() {
            Ok([(worker, Answer::State { bytes, extent })]) => (*worker, bytes, *extent),
            Ok(other) => unreachable!("{other:?} is no answer of one worker"),
            Err(error) => {
                self.reads -= usize::from(matches!(pending, Awaited::Read(_) | Awaited::List(..)));
                return fail(&pending, *error, cx);
            }
        };
        match pending {
            Awaited::Stored(first, count) => {
                assert!(extent == Extent::Done, "what is stored is said at once");
                cx.reply(|out| native::write_stored(out, first, count, bytes));
            }
            Awaited::Call(request) => {
                assert!(extent == Extent::Done, "a short answer is whole");
                cx.reply(|out| native::write_answer(out, request, AnswerPart::Last, bytes));
            }
            Awaited::Read(request) if extent == Extent::More => {
                cx.reply(|out| native::write_answer(out, request, AnswerPart::More, bytes));
                // Empty: the next part.
                cx.ask_on(call, vec![(worker, Query::State(Bytes::new()))]);
                self.calls.put(call, Awaited::Read(request));
            }
            Awaited::Read(request) => {
                self.reads -= 1;
                cx.reply(|out| native::write_answer(out, request, AnswerPart::Last, bytes));
            }
            Awaited::List(request, body) => {
                let settings = cx.settings();
                let next = ShardId(worker.0 + 1);
                if next.0 == settings.shards + settings.workers {
                    self.reads -= 1;
                    return cx
                        .reply(|out| native::write_answer(out, request, AnswerPart::Last, bytes));
                }
                cx.reply(|out| native::write_answer(out, request, AnswerPart::More, bytes));
                cx.ask_on(call, vec![(next, Query::State(body.clone()))]);
                self.calls.put(call, Awaited::List(request, body));
            }
        }
    }

    /// Whether a call was made by a test rather than by a frame.
    #[cfg(test)]
    fn is_of_test(&self, call: CallId) -> bool {
        !self.calls.has(call)
    }
}

/// Says that a call has ended without its answer.
fn fail(pending: &Awaited, error: CallError, cx: &mut Context<'_>) {
    let code = match error {
        CallError::NoRoom => ErrorCode::Busy,
        CallError::Unknown => ErrorCode::Unknown,
        CallError::NoWorker => ErrorCode::StorageFailed,
    };
    let (first, count) = match *pending {
        Awaited::Stored(first, count) => (first, count),
        Awaited::Call(request) | Awaited::Read(request) | Awaited::List(request, _) => (request, 1),
    };
    cx.counters().errors += 1;
    for request in first..=first + (count - 1) {
        write_error(cx, request, code, &error);
    }
}

fn refuse_with(cx: &mut Context<'_>, request: u32, code: ErrorCode) -> NativeStep {
    cx.counters().errors += 1;
    write_error(cx, request, code, &code.meaning());
    NativeStep::Done
}
