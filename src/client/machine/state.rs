//! What is asked of streams, and what they answer.
//!
//! Owns which message of several an answer is about. Must not know how requests of the state plane are made: they are
//! bytes here. Start at [`Machine::publish_stored`] and [`Machine::call`].

use super::outgoing::{Ask, Pending, Place};
use super::{Machine, Outcome, Token};
use crate::error::{CallError, MessageError, ProtocolError, PublishError};
use bytes::Bytes;
use sapwood_wire::limits::STATE_REQUEST_BYTES_MAX;
use sapwood_wire::native::{self, BrokerFrame, Parts};
use sapwood_wire::state::{Answer, Durability, Outcome as Fate, Outcomes, Reader, Sequence};
use std::sync::Arc;
use std::time::Duration;

/// What became of a message that was to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The stream's name; empty if none took it.
    pub stream: Arc<[u8]>,
    /// How durable it is, if it is stored.
    pub durability: Durability,
    /// Where it stands, or why it does not.
    pub fate: Fate,
}

impl Machine {
    /// Queues a publish whose token comes back with [`Outcome::Stored`] once a stream has it.
    pub fn publish_stored(
        &mut self,
        now: Duration,
        token: Token,
        parts: &Parts<'_>,
    ) -> Result<(), PublishError> {
        self.check_publish(parts)?;
        if !self.has_room() {
            return Err(PublishError::Full);
        }
        let pushed = self.outgoing.push_store(now, token, parts);
        pushed.map_err(|error| PublishError::Invalid(MessageError::Parts(error)))
    }

    /// Queues a CALL with these bytes. Its token comes back with [`Outcome::Answered`].
    pub fn call(&mut self, now: Duration, token: Token, body: &[u8]) -> Result<(), CallError> {
        self.check_open().map_err(CallError::Closed)?;
        if body.len() > STATE_REQUEST_BYTES_MAX {
            return Err(CallError::TooLong(body.len()));
        }
        if !self.has_room() {
            return Err(CallError::Full);
        }
        let ask = Ask::State(Some(token));
        self.outgoing
            .push_request(Place::Last, now, ask, |out, request| {
                native::write_call(out, request, |out| out.extend_from_slice(body));
            });
        Ok(())
    }

    /// Handles an ANSWER or a STORED.
    pub(super) fn handle_state(
        &mut self,
        read: &Bytes,
        frame: &BrokerFrame<'_>,
    ) -> Result<(), ProtocolError> {
        match *frame {
            BrokerFrame::Answer {
                request,
                part,
                body,
            } => {
                let answered = self
                    .outgoing
                    .answer_part(request, read.slice_ref(body), part);
                let answered = answered.map_err(|_| ProtocolError::Answer(request))?;
                if let Some((Pending { ask, .. }, parts)) = answered
                    && let Some(token) = ask.token()
                {
                    self.complete(token, Outcome::Answered(parts));
                }
                Ok(())
            }
            BrokerFrame::Stored {
                first,
                count,
                answers,
            } => self.handle_stored(first, count, answers),
            _ => Ok(()),
        }
    }

    fn handle_stored(
        &mut self,
        first: u32,
        count: u32,
        answers: &[u8],
    ) -> Result<(), ProtocolError> {
        let mut reader = Reader::new(answers);
        while !reader.rest().is_empty() {
            let answer = Answer::read_next(&mut reader);
            let answer = answer.map_err(|_| ProtocolError::Misplaced("what is no answer"))?;
            match answer {
                Answer::Stored(stored) => {
                    let stream: Arc<[u8]> = stored.stream.into();
                    let at = first.wrapping_add(stored.position);
                    for (place, fate) in (0..).zip(fates(&stored.outcomes.outcomes)) {
                        let request = at.wrapping_add(place);
                        if request.wrapping_sub(first) >= count {
                            return Err(ProtocolError::Answer(request));
                        }
                        let stream = stream.clone();
                        let durability = stored.durability;
                        self.place(request, stream, durability, fate)?;
                    }
                }
                Answer::Refused(refusal, stream) => {
                    let stream: Arc<[u8]> = stream.into();
                    for request in first..=first.saturating_add(count - 1) {
                        let fate = Fate::Refused(refusal);
                        self.place(request, stream.clone(), Durability::Fsync, fate)?;
                    }
                }
                _ => return Err(ProtocolError::Misplaced("another answer than to a publish")),
            }
        }
        Ok(())
    }

    fn place(
        &mut self,
        request: u32,
        stream: Arc<[u8]>,
        durability: Durability,
        fate: Fate,
    ) -> Result<(), ProtocolError> {
        let pending = self.outgoing.answer(request);
        match pending.map(|pending| pending.ask) {
            Ok(Ask::Store(Some(token))) => {
                let placed = Placed {
                    stream,
                    durability,
                    fate,
                };
                self.complete(token, Outcome::Stored(placed));
                Ok(())
            }
            Ok(Ask::Store(None)) => Ok(()),
            _ => Err(ProtocolError::Answer(request)),
        }
    }
}

/// What became of each message.
fn fates(outcomes: &Outcomes) -> Box<dyn Iterator<Item = Fate> + '_> {
    match outcomes {
        Outcomes::Run { first, count } => {
            let sequences = first.0..first.0.saturating_add(u64::from(*count));
            Box::new(sequences.map(|sequence| Fate::Stored(Sequence(sequence))))
        }
        Outcomes::Each(each) => Box::new(each.iter().copied()),
    }
}
