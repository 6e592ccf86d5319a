//! Streams over HTTP: what is asked of state workers, and how their answers are shown.
//!
//! Owns the requests under `/v1/streams` that wait for a worker, round by round. Must not know what workers keep, nor how
//! a response is framed. Invariants: a request is answered once; what can be long is shown part by part
//! ([`Reading`]) or in pages ([`Listing`]). Start at [`StreamCall::begin`].

mod config;
mod list;
mod read;
mod route;

pub(super) use read::{Part, Reading, Shape};
pub(super) use route::{Append, Conditions, StreamRoute, allows, find};

use crate::command::{Answer as CallAnswer, Answers, CallError, Extent, Query, Round, ShardId};
use crate::context::Context;
use bytes::Bytes;
use list::Listing;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::http::HttpError;
use sapwood_wire::json::{write_stored, write_text};
use sapwood_wire::native::Reached;
use sapwood_wire::state::{
    Answer, Ask, Creation, Order, Outcome, Outcomes, Refusal, Request, Stored, StreamConfig,
    partition_of,
};
use std::io::Write;

/// What a request under way waits for.
#[derive(Debug)]
pub(super) enum StreamCall {
    /// A stream is made, or changed if it exists, and shown.
    Put(Box<Put>),
    /// A page of the list.
    List(Box<Listing>),
    /// Anything that a single answer says.
    Short(Short),
}

/// How far a PUT is.
#[derive(Debug)]
pub(super) struct Put {
    config: StreamConfig,
    worker: ShardId,
    is_new: bool,
}

/// What a single answer is about.
#[derive(Debug)]
pub(super) enum Short {
    /// Whatever the answer says.
    Any,
    /// An event that was published too, and how far it got.
    Published(Reached),
}

/// What follows an answer.
#[derive(Debug)]
pub(super) enum Following {
    /// This response, of a status and JSON.
    Reply(u16, Vec<u8>),
    /// Another round.
    Ask(Round),
}

/// Why a request cannot be asked.
pub(super) fn no_data() -> HttpError {
    let text = "this broker keeps no streams: start it with --data DIR, or without --data off";
    HttpError::new(503, "no_data", text)
}

/// The worker of a stream.
pub(super) fn worker_of(stream: &[u8], cx: &Context<'_>) -> Result<ShardId, HttpError> {
    let partitions = cx.settings().partitions;
    if partitions == 0 {
        return Err(no_data());
    }
    cx.worker_of(partition_of(stream, partitions).0)
        .ok_or_else(no_data)
}

/// The encoded request.
pub(super) fn request_of(ask: Ask<'_>) -> Bytes {
    let mut out = Vec::new();
    // HTTP answers in order, and what was written before on the connection is answered before this is asked.
    let order = Order::Now;
    Request { order, ask }.write(&mut out);
    out.into()
}

impl StreamCall {
    /// The first request of a route that has no body, and which worker is asked.
    pub(super) fn begin(
        route: &StreamRoute,
        cx: &Context<'_>,
    ) -> Result<(ShardId, Bytes, StreamCall), HttpError> {
        let short = |stream: &[u8], ask: Ask<'_>| {
            let worker = worker_of(stream, cx)?;
            Ok((worker, request_of(ask), StreamCall::Short(Short::Any)))
        };
        match route {
            StreamRoute::List(page) => {
                if cx.settings().workers == 0 {
                    return Err(no_data());
                }
                let listing = Listing::new(page.clone(), cx);
                let (worker, request) = listing.first();
                Ok((worker, request, StreamCall::List(Box::new(listing))))
            }
            StreamRoute::Info(stream) => short(stream, Ask::Info(stream)),
            StreamRoute::Delete(stream) => short(stream, Ask::Delete(stream)),
            StreamRoute::Purge(purge) => short(&purge.stream, Ask::Purge(purge.request())),
            StreamRoute::Get(stream, which) => short(stream, Ask::Get(stream, which.request())),
            StreamRoute::DeleteMessage(stream, sequence) => {
                short(stream, Ask::DeleteMessage(stream, *sequence))
            }
            StreamRoute::Put(_) | StreamRoute::Append(_) => unreachable!("it has a body"),
            StreamRoute::Read(_) => unreachable!("it is streamed"),
        }
    }

    /// The first request of a PUT with this body.
    pub(super) fn begin_put(
        stream: &[u8],
        body: &[u8],
        cx: &Context<'_>,
    ) -> Result<(ShardId, Bytes, StreamCall), HttpError> {
        let config = config::parse(stream, body)?;
        let worker = worker_of(stream, cx)?;
        let request = request_of(Ask::Create(config.clone()));
        let put = Put {
            config,
            worker,
            is_new: false,
        };
        Ok((worker, request, StreamCall::Put(Box::new(put))))
    }

    /// Bytes that it keeps of answers.
    pub(super) fn kept_bytes(&self) -> usize {
        match self {
            StreamCall::List(listing) => listing.kept_bytes(),
            StreamCall::Put(_) | StreamCall::Short(_) => 0,
        }
    }

    /// Takes the answer of a round.
    pub(super) fn answered(&mut self, answers: Result<Answers, CallError>) -> Following {
        let (bytes, _) = match state_of(answers) {
            Ok(answer) => answer,
            Err(error) => return refused(&error),
        };
        let answer = match Answer::read(&bytes) {
            Ok(answer) => answer,
            Err(_) => return refused(&unreadable()),
        };
        match self {
            StreamCall::Put(put) => put.answered(&answer),
            StreamCall::List(listing) => match answer {
                Answer::List(infos, rest) => listing.answered(infos, rest),
                other => show(&other, None),
            },
            StreamCall::Short(Short::Any) => show(&answer, None),
            StreamCall::Short(Short::Published(reached)) => show(&answer, Some(*reached)),
        }
    }
}

impl Put {
    fn ask(&self, ask: Ask<'_>) -> Following {
        Following::Ask(vec![(self.worker, Query::State(request_of(ask)))])
    }

    fn answered(&mut self, answer: &Answer<'_>) -> Following {
        match answer {
            Answer::Refused(Refusal::StreamExists(_), _) => {
                self.ask(Ask::Update(self.config.clone()))
            }
            Answer::Created(creation) => {
                self.is_new = *creation == Creation::New;
                self.ask(Ask::Info(&self.config.name))
            }
            Answer::Updated => self.ask(Ask::Info(&self.config.name)),
            Answer::Info(info) => {
                let status = if self.is_new { 201 } else { 200 };
                Following::Reply(status, config::show(info))
            }
            other => show(other, None),
        }
    }
}

/// The one answer of a worker.
pub(super) fn state_of(answers: Result<Answers, CallError>) -> Result<(Bytes, Extent), HttpError> {
    let answers = answers.map_err(|error| {
        let (status, code) = match error {
            CallError::NoRoom => (503, ErrorCode::Busy.name()),
            CallError::Unknown => (500, Refusal::Unknown.name()),
            CallError::NoWorker => (503, Refusal::StorageFailed.name()),
        };
        HttpError::new(status, code, &error.to_string())
    })?;
    match answers.into_iter().next() {
        Some((_, CallAnswer::State { bytes, extent })) => Ok((bytes, extent)),
        other => unreachable!("{other:?} is no worker's answer"),
    }
}

/// A worker's answer that this build cannot read.
pub(super) fn unreadable() -> HttpError {
    let text = "the part of the broker that keeps this gave an answer that cannot be read";
    HttpError::new(500, "internal", text)
}

/// How a refusal is said.
pub(super) fn error_of(refusal: Refusal, other: &[u8]) -> HttpError {
    let status = match refusal {
        Refusal::NoStream | Refusal::NoMessage | Refusal::SearchTooLong(_) => 404,
        Refusal::StreamExists(_)
        | Refusal::FiltersTaken(_)
        | Refusal::WrongLast(_)
        | Refusal::WrongLastOfTopic(_) => 409,
        Refusal::MessageTooLong(_) | Refusal::TooLarge(_) => 413,
        Refusal::Unknown => 500,
        Refusal::StreamsFull | Refusal::StorageFailed | Refusal::Busy => 503,
        Refusal::StreamFull => 507,
        Refusal::Config(_)
        | Refusal::TopicNotKept
        | Refusal::IdInvalid
        | Refusal::TtlRefused
        | Refusal::FilterInvalid
        | Refusal::BatchSpans
        | Refusal::RequestInvalid => 400,
    };
    let mut text = refusal.to_string();
    if matches!(refusal, Refusal::FiltersTaken(_)) && !other.is_empty() {
        text += &format!(" (stream \"{}\")", String::from_utf8_lossy(other));
    }
    HttpError::new(status, refusal.name(), &text)
}

fn refused(error: &HttpError) -> Following {
    Following::Reply(
        error.status,
        super::response::error_body(error.code, &error.text),
    )
}

/// Shows an answer that is whole in itself.
fn show(answer: &Answer<'_>, reached: Option<Reached>) -> Following {
    let mut out = Vec::new();
    // Writing to memory never fails.
    let _ = match answer {
        Answer::Stored(stored) => return show_stored(stored, reached),
        Answer::Refused(refusal, other) => return refused(&error_of(*refusal, other)),
        Answer::Info(info) => return Following::Reply(200, config::show(info)),
        Answer::Message(message) => {
            write_stored(&mut out, message);
            Ok(())
        }
        Answer::Deleted(messages) => write!(out, "{{\"deleted\":true,\"messages\":{messages}}}"),
        Answer::Purged(messages) => write!(out, "{{\"purged\":{messages}}}"),
        Answer::MessageDeleted => write!(out, "{{\"deleted\":true}}"),
        _ => return refused(&unreadable()),
    };
    Following::Reply(200, out)
}

/// What became of the one message of a request.
fn show_stored(stored: &Stored<'_>, reached: Option<Reached>) -> Following {
    let outcome = match &stored.outcomes.outcomes {
        Outcomes::Run { first, .. } => Some(Outcome::Stored(*first)),
        Outcomes::Each(each) => each.first().copied(),
    };
    let (sequence, is_duplicate) = match outcome {
        Some(Outcome::Stored(sequence)) => (sequence, false),
        Some(Outcome::Duplicate(sequence)) => (sequence, true),
        Some(Outcome::Refused(refusal)) => return refused(&error_of(refusal, b"")),
        None => return refused(&unreadable()),
    };
    let mut out = b"{\"stream\":".to_vec();
    write_text(&mut out, &String::from_utf8_lossy(stored.stream));
    let durability = config::name_of(stored.durability);
    // Writing to memory never fails.
    let _ = write!(
        out,
        ",\"seq\":{sequence},\"duplicate\":{is_duplicate},\"durability\":\"{durability}\""
    );
    if let Some(reached) = reached {
        let _ = write!(out, ",\"count\":{}", reached.subscriptions);
        if reached.is_beyond {
            out.extend_from_slice(b",\"beyond\":true");
        }
    }
    out.push(b'}');
    Following::Reply(200, out)
}
