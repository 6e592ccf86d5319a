//! Input from the broker.
//!
//! Owns the path from bytes to queues and answers. Must not know when to connect. Invariants: bytes are consumed in
//! whole frames, so the same bytes give the same result however they are split; nothing that a broker sends causes a
//! panic, or more waiting memory than one frame and the queues' caps. Adjacent events for the same subscriptions are
//! one *run*, which is looked up, checked against caps and queued once. Start at [`Machine::handle_bytes`].

use super::calls::CallId;
use super::link::{Link, Open};
use super::outgoing::Ask;
use super::{ConnectionEvent, End, Machine, Outcome, Reader, Standing, SubscriptionId};
use crate::error::{Disconnect, ProtocolError, Refusal, RequestError};
use bytes::{Bytes, BytesMut};
use sapwood_wire::headers::{NO_RESPONDERS, STATUS};
use sapwood_wire::limits::{NATIVE_FRAME_BYTES_MAX, PAYLOAD_BYTES_MAX};
use sapwood_wire::native::{self, BrokerFrame, Message, Parsed, Welcome};
use std::ops::Range;
use std::time::Duration;

/// Adjacent events for the same receivers.
#[derive(Debug, Default)]
struct Run {
    /// The range of their frames in the read.
    frames: Range<usize>,
    /// The range of the last event's topic in the read.
    topic: Range<usize>,
    /// The group member whose turns all of them are, if they are turns.
    member: Option<u32>,
    /// The receiving subscriptions.
    places: Vec<u32>,
}

impl Machine {
    /// Handles what the driver has read. Takes the whole frames out of `input` and leaves the rest, to which the driver
    /// appends its next read. All whole frames are taken: a driver that should stop reading asks `wants_read` first.
    pub fn handle_bytes(&mut self, now: Duration, input: &mut BytesMut) {
        self.now = self.now.max(now);
        if !self.link.is_opening_written() {
            input.clear();
            return;
        }
        if let Link::Open(open) = &mut self.link {
            open.heard = self.now;
            open.probe_deadline = None;
        }
        let read = input.split_to(whole_frames(input)).freeze();
        let mut run = Run {
            places: std::mem::take(&mut self.places),
            ..Run::default()
        };
        let result = self.handle_frames(&read, &mut run);
        self.finish_run(&read, &mut run);
        self.places = run.places;
        // The rest has no whole frame, but its length field may be wrong already.
        let result = result.and(match native::parse_from_broker(input) {
            Ok(_) => Ok(()),
            Err(error) => Err(ProtocolError::Frame(error)),
        });
        if let Err(error) = result {
            self.disconnect(Disconnect::Protocol(error));
        }
        self.advance_leave();
        self.advance_drain();
        self.tell_room();
    }

    fn handle_frames(&mut self, read: &Bytes, run: &mut Run) -> Result<(), ProtocolError> {
        let mut at = 0;
        // Ends because a frame has five bytes at least.
        while at < read.len() && self.link.is_opening_written() {
            let parsed = native::parse_from_broker(&read[at..]).map_err(ProtocolError::Frame)?;
            let Parsed::Frame { frame, length } = parsed else {
                break;
            };
            let range = at..at + length;
            at += length;
            match frame {
                BrokerFrame::Message(message) if self.link.is_open() => {
                    self.handle_message(read, run, range, &message);
                }
                BrokerFrame::Turn { member, message } if self.link.is_open() => {
                    self.handle_turn(read, run, range, member, &message);
                }
                BrokerFrame::Message(_) => return Err(ProtocolError::Misplaced("a MESSAGE")),
                BrokerFrame::Turn { .. } => return Err(ProtocolError::Misplaced("a TURN")),
                frame => {
                    self.finish_run(read, run);
                    match frame {
                        BrokerFrame::Answer { .. } | BrokerFrame::Stored { .. }
                            if self.link.is_open() =>
                        {
                            self.handle_state(read, &frame)?;
                        }
                        frame => self.handle_frame(&frame)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn handle_message(
        &mut self,
        read: &Bytes,
        run: &mut Run,
        frame: Range<usize>,
        message: &Message<'_>,
    ) {
        let topic_start = frame.end - message.bytes.len() + 3;
        let topic = topic_start..topic_start + message.topic.len();
        let is_run = !run.frames.is_empty() && run.member.is_none();
        if is_run && read[run.topic.clone()] == *message.topic {
            run.frames.end = frame.end;
            return;
        }
        let call = self.calls.route(message.topic);
        let places = self.subscriptions.route_topic(message.topic);
        if is_run && call.is_none() && run.places == places {
            run.frames.end = frame.end;
            run.topic = topic;
            return;
        }
        let places = std::mem::take(&mut self.subscriptions.last_places);
        self.finish_run(read, run);
        run.places.extend_from_slice(&places);
        self.subscriptions.last_places = places;
        if let Some(call) = call {
            self.handle_reply(read, frame.clone(), call, message);
        }
        if !run.places.is_empty() {
            run.frames = frame;
            run.topic = topic;
        }
        // Replies are queued one by one: a run of them would have to be split again at its end mark.
        if call.is_some() {
            self.finish_run(read, run);
        }
    }

    fn handle_turn(
        &mut self,
        read: &Bytes,
        run: &mut Run,
        frame: Range<usize>,
        member: u32,
        _message: &Message<'_>,
    ) {
        if run.member == Some(member) {
            run.frames.end = frame.end;
            return;
        }
        self.finish_run(read, run);
        // A turn of a member that has just left is dropped: only the broker knew the other members.
        if let Some(place) = self.subscriptions.route_member(member) {
            run.frames = frame;
            run.member = Some(member);
            run.places.push(place);
        }
    }

    /// Queues the current run, if there is one.
    fn finish_run(&mut self, read: &Bytes, run: &mut Run) {
        let frames = std::mem::take(&mut run.frames);
        for place in run.places.drain(..) {
            if frames.is_empty() {
                continue;
            }
            let Some(local) = self.subscriptions.at(place) else {
                continue;
            };
            let (id, was_empty) = (local.id, local.queue.is_empty());
            let bytes_max = self.config.queues_bytes_max;
            local
                .queue
                .push(&mut self.gauge, bytes_max, read, frames.clone());
            if was_empty {
                self.tell_readable(Reader::Subscription(id));
            }
        }
        run.member = None;
    }

    fn handle_reply(
        &mut self,
        read: &Bytes,
        frame: Range<usize>,
        call: CallId,
        message: &Message<'_>,
    ) {
        // No responders: another node found that nobody listens.
        let is_refusal = message.is_end() && message.payload.is_empty();
        if is_refusal && message.headers().find(STATUS) == Some(NO_RESPONDERS) {
            return self.end_call(call, End::Failed(RequestError::NoResponders));
        }
        let bytes_max = self.config.queues_bytes_max;
        if let Some(queue) = self.calls.handle_reply(self.now, call) {
            let was_empty = queue.is_empty();
            queue.push(&mut self.gauge, bytes_max, read, frame);
            if was_empty {
                self.tell_readable(Reader::Call(call));
            }
        }
        if message.is_end() {
            self.end_call(call, End::Marked);
        }
    }

    /// Handles all frames except events.
    fn handle_frame(&mut self, frame: &BrokerFrame<'_>) -> Result<(), ProtocolError> {
        match *frame {
            BrokerFrame::Unknown(_) => Ok(()),
            BrokerFrame::Error {
                request: 0,
                code,
                text,
            } => {
                self.handle_refusal(refusal(code, text));
                Ok(())
            }
            BrokerFrame::Welcome(welcome) if !self.link.is_open() => self.handle_welcome(&welcome),
            BrokerFrame::Welcome(_) => Err(ProtocolError::Misplaced("a second WELCOME")),
            _ if !self.link.is_open() => Err(ProtocolError::Misplaced("what comes before WELCOME")),
            BrokerFrame::Ack { request, count } => {
                let pending = self.outgoing.answer(request);
                let pending = pending.map_err(|_| ProtocolError::Answer(request))?;
                self.handle_ack(pending.ask, count);
                Ok(())
            }
            BrokerFrame::Error {
                request,
                code,
                text,
            } => {
                let pending = self.outgoing.answer(request);
                let pending = pending.map_err(|_| ProtocolError::Answer(request))?;
                let refusal = refusal(code, text);
                self.handle_refused(pending.ask, &refusal);
                if code < FIRST_GENTLE_CODE {
                    self.disconnect(Disconnect::Rejected(refusal));
                }
                Ok(())
            }
            BrokerFrame::Gap { events } => {
                self.handle_gap(events);
                Ok(())
            }
            BrokerFrame::Draining { milliseconds } => {
                self.handle_draining(Duration::from_millis(u64::from(milliseconds)));
                Ok(())
            }
            BrokerFrame::Message(_)
            | BrokerFrame::Turn { .. }
            | BrokerFrame::Answer { .. }
            | BrokerFrame::Stored { .. } => Ok(()),
        }
    }

    fn handle_welcome(&mut self, welcome: &Welcome<'_>) -> Result<(), ProtocolError> {
        if welcome.version != native::VERSION {
            return Err(ProtocolError::Version(welcome.version));
        }
        self.link = Link::Open(Open::new(self.now));
        if welcome.payload_max > 0 {
            self.payload_max = PAYLOAD_BYTES_MAX.min(welcome.payload_max as usize);
        }
        self.statistics.connections += 1;
        self.tell(ConnectionEvent::Connected {
            address: self.config.addresses[self.address].clone(),
            broker: welcome.broker.to_string(),
            client: welcome.client,
            run: welcome.run.to_string(),
        });
        // Only subscriptions confirmed on an earlier connection may have missed events.
        let mut readable = Vec::new();
        for local in self.subscriptions.iter_mut() {
            if local.standing == Standing::Active {
                if local.queue.is_empty() {
                    readable.push(Reader::Subscription(local.id));
                }
                local.queue.mark_reconnected();
            }
        }
        readable.into_iter().for_each(|it| self.tell_readable(it));
        if self.unproved_calls > 0 {
            self.probe();
        }
        Ok(())
    }

    /// The broker refused a message, or ends the connection.
    fn handle_refusal(&mut self, refusal: Refusal) {
        if refusal.number < FIRST_GENTLE_CODE {
            self.disconnect(Disconnect::Rejected(refusal));
        } else {
            self.statistics.refused_publishes += 1;
            self.tell(ConnectionEvent::Refused(refusal));
        }
    }

    fn handle_ack(&mut self, ask: Ask, count: u32) {
        match ask {
            Ask::Publish(Some(token)) | Ask::Ping(Some(token)) => {
                self.complete(token, Outcome::Acknowledged(count));
            }
            Ask::Call(call) if count == 0 => {
                self.end_call(call, End::Failed(RequestError::NoResponders));
            }
            Ask::Subscribe(id) => self.handle_subscribed(id, count),
            Ask::Drain => self.handle_drained(),
            Ask::Leave => self.disconnect(Disconnect::Draining),
            Ask::LastPing => self.finish_drain(Outcome::Acknowledged(0)),
            // What waits for the state plane is not answered so, but the caller waits.
            Ask::Store(Some(token)) | Ask::State(Some(token)) => {
                self.complete(token, Outcome::Answered(Vec::new()));
            }
            Ask::Publish(None)
            | Ask::Ping(None)
            | Ask::Store(None)
            | Ask::State(None)
            | Ask::Call(_)
            | Ask::Inbox
            | Ask::Unsubscribe
            | Ask::Probe => {}
        }
    }

    fn handle_subscribed(&mut self, id: SubscriptionId, count: u32) {
        let Some(local) = self.subscriptions.find(id) else {
            return;
        };
        let Standing::Asked(caller) = local.standing else {
            return;
        };
        self.subscriptions.activate(id);
        if let Some((token, _)) = caller {
            self.asked -= 1;
            self.complete(token, Outcome::Acknowledged(count));
        }
    }

    fn handle_refused(&mut self, ask: Ask, refusal: &Refusal) {
        match ask {
            Ask::Publish(Some(token))
            | Ask::Ping(Some(token))
            | Ask::Store(Some(token))
            | Ask::State(Some(token)) => {
                self.complete(token, Outcome::Refused(refusal.clone()));
            }
            Ask::Call(call) => {
                let error = RequestError::Refused(refusal.clone());
                self.end_call(call, End::Failed(error));
            }
            Ask::Inbox => {
                self.inbox_is_wanted = false;
                for call in self.calls.open_but(&Default::default()) {
                    let error = RequestError::Refused(refusal.clone());
                    self.end_call(call, End::Failed(error));
                }
            }
            Ask::Subscribe(id) => self.handle_subscription_refused(id, refusal),
            // A refusal ends these like an answer; the broker's text gives the reason.
            Ask::Drain => self.handle_drained(),
            Ask::Leave => self.disconnect(Disconnect::Draining),
            Ask::LastPing => self.finish_drain(Outcome::Acknowledged(0)),
            Ask::Publish(None)
            | Ask::Ping(None)
            | Ask::Store(None)
            | Ask::State(None)
            | Ask::Unsubscribe
            | Ask::Probe => {}
        }
    }

    fn handle_subscription_refused(&mut self, id: SubscriptionId, refusal: &Refusal) {
        self.subscriptions.deactivate(id);
        let Some(local) = self.subscriptions.find(id) else {
            return;
        };
        match local.standing.clone() {
            Standing::Asked(Some((token, _))) => {
                self.asked -= 1;
                self.subscriptions.remove(id, &mut self.gauge);
                self.complete(token, Outcome::Refused(refusal.clone()));
            }
            Standing::Asked(None) | Standing::Active => {
                local.standing = Standing::Refused(refusal.clone());
                self.tell_readable(Reader::Subscription(id));
            }
            Standing::Ended | Standing::Refused(_) => {}
        }
    }

    /// The broker dropped events of this connection. It does not say whose, so all subscriptions are told.
    fn handle_gap(&mut self, events: u64) {
        if events == 0 {
            return;
        }
        self.statistics.gap_events = self.statistics.gap_events.saturating_add(events);
        let mut readable = Vec::new();
        for local in self.subscriptions.iter_mut() {
            if local.standing == Standing::Active {
                readable.push(Reader::Subscription(local.id));
                local.queue.mark_gap(events);
            }
        }
        let calls = self.calls.mark_gap(events);
        readable.extend(calls.into_iter().map(Reader::Call));
        readable.into_iter().for_each(|it| self.tell_readable(it));
        self.tell(ConnectionEvent::Gap { events });
    }
}

/// For codes below this, the broker closes the connection after the ERROR.
const FIRST_GENTLE_CODE: u16 = 200;

fn refusal(code: u16, text: &str) -> Refusal {
    Refusal {
        number: code,
        text: text.to_string(),
    }
}

/// Length of the whole frames at the start of the input, up to the first wrong length field.
fn whole_frames(input: &[u8]) -> usize {
    let mut whole = 0;
    // Ends because each round takes five bytes at least.
    while let Some(field) = input[whole..].first_chunk::<{ native::LENGTH_BYTES }>() {
        let length = u32::from_le_bytes(*field) as usize;
        let end = whole + native::LENGTH_BYTES + length;
        if !(1..=NATIVE_FRAME_BYTES_MAX).contains(&length) || end > input.len() {
            break;
        }
        whole = end;
    }
    whole
}
