//! The native protocol, as `NATIVE.md` beside `wire/native.rs` specifies it.
//!
//! Owns the protocol's state of a connection: whether it was let in, its name, and a drain in progress. Every request
//! is answered once, in the order of the requests, but for what waits for the state plane (`state.rs`), which is answered
//! as it comes. Start at [`NativeSession::handle`].

mod state;

use super::pending::PendingCalls;
use super::{BROKER, TOO_MANY_CONNECTIONS};
use crate::command::{
    ClientRecord, CloseReason, ConnId, Event, Filter, FilterKind, Refusal, Space,
};
use crate::context::{Context, SessionStep, Then};
use crate::delivery::PublishedRun;
use crate::limits::GUEST_OUTBOX_BYTES_MAX;
use crate::outbox::Outboxes;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::limits::{NATIVE_FRAME_BYTES_MAX, NATIVE_HELLO_BYTES_MAX, PAYLOAD_BYTES_MAX};
use sapwood_wire::native::{
    self, ClientFrame, Hello, Message, Parsed, Subscription, VERSION, Welcome, When, flag,
};
use sapwood_wire::run::Head;
use sapwood_wire::topic;

/// State of a native connection. Small: most connections are idle subscribers.
#[derive(Debug)]
pub(crate) struct NativeSession {
    /// The client has authenticated by other means.
    is_known: bool,
    welcomed: bool,
    /// A DRAIN in progress: its request, and the number of subscriptions that end.
    draining: Option<(u32, u32)>,
    last_frame: &'static str,
    name: Box<str>,
    library: Box<str>,
    /// What waits for the state plane.
    calls: PendingCalls<state::Awaited>,
    /// How many of those are read part by part.
    reads: usize,
    /// Answers to the calls that tests make by the verbs of a context.
    #[cfg(test)]
    pub(crate) heard: Vec<(
        crate::command::CallId,
        Result<crate::command::Answers, crate::command::CallError>,
    )>,
}

/// Result of a frame.
enum NativeStep {
    Done,
    /// Nothing was done: handle the frame again when the connection is resumed.
    Hold,
    Close(CloseReason),
}

impl NativeSession {
    /// A session before HELLO; `is_known` if the client has authenticated by other means.
    pub(crate) fn new(is_known: bool) -> NativeSession {
        NativeSession {
            is_known,
            welcomed: false,
            draining: None,
            last_frame: "none",
            name: Box::default(),
            library: Box::default(),
            calls: PendingCalls::default(),
            reads: 0,
            #[cfg(test)]
            heard: Vec::new(),
        }
    }

    pub(crate) fn awaits_auth(&self) -> bool {
        !self.welcomed
    }

    /// Whether a DRAIN is in progress.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    pub(crate) fn describe(&self, record: &mut ClientRecord) {
        record.name = self.name.as_bytes().to_vec();
        let (name, version) = self.library.split_once('/').unwrap_or((&self.library, ""));
        record.library = (name.into(), version.into());
        record.command = self.last_frame;
    }

    /// Carries out the frames in `input`, as far as the connection may go on.
    pub(crate) fn handle(&mut self, input: &[u8], cx: &mut Context<'_>) -> SessionStep {
        let mut consumed = 0;
        if !cx.waits_for_barrier() {
            self.end_drain(cx);
        } else if self.draining.is_some() {
            // Offered again for another reason, such as its turn after changes before the DRAIN.
            let then = Then::Hold;
            return SessionStep { consumed, then };
        }
        let then = loop {
            let guest_cap = self.awaits_auth().then_some(GUEST_OUTBOX_BYTES_MAX);
            if let Some(then) = cx.must_pause(guest_cap) {
                break then;
            }
            let publish = |rest: &[u8], cx: &mut Context<'_>| self.publish_run(rest, cx);
            let (published, is_due) = cx.publish_runs(&input[consumed..], publish);
            consumed += published;
            if is_due {
                continue;
            }
            let cap = if self.welcomed {
                NATIVE_FRAME_BYTES_MAX
            } else {
                NATIVE_HELLO_BYTES_MAX
            };
            let (frame, length) = match native::parse_from_client(&input[consumed..], cap) {
                Ok(Parsed::Frame { frame, length }) => (frame, length),
                Ok(Parsed::Incomplete { needed }) => break Then::Read { needed },
                Err(error) => {
                    cx.counters().errors += 1;
                    let code = self.code_of(&error);
                    write_error(cx, 0, code, &error);
                    break Then::Close(CloseReason::Protocol);
                }
            };
            match self.frame(frame, cx) {
                NativeStep::Done => {
                    cx.counters().commands += 1;
                    consumed += length;
                    if self.draining.is_some() {
                        // The reply to DRAIN comes before the replies to later frames.
                        break Then::Hold;
                    }
                }
                NativeStep::Hold => break Then::Hold,
                NativeStep::Close(reason) => {
                    consumed += length;
                    break Then::Close(reason);
                }
            }
        };
        SessionStep { consumed, then }
    }

    /// Publishes the run at the start of the input; `None` if the next message must be handled by itself.
    fn publish_run(&mut self, input: &[u8], cx: &mut Context<'_>) -> Option<PublishedRun> {
        // A publisher that has subscriptions gets its own events and replies in order, so no runs.
        if !self.welcomed || cx.listens() {
            return None;
        }
        if let Some(head) = Head::of_native_stored(input) {
            return self.publish_stored_run(&head, input, cx);
        }
        let head = Head::of_native(input)?;
        let published = cx.publish_run(&head, input, PAYLOAD_BYTES_MAX)?;
        self.last_frame = "message";
        Some(published)
    }

    /// Before HELLO, a frame of unknown kind is reported as a missing HELLO.
    fn code_of(&self, error: &native::FrameError) -> ErrorCode {
        match error.code() {
            ErrorCode::UnknownKind if !self.welcomed => ErrorCode::HelloExpected,
            code => code,
        }
    }

    fn frame(&mut self, frame: ClientFrame<'_>, cx: &mut Context<'_>) -> NativeStep {
        let is_hello = matches!(frame, ClientFrame::Hello(_));
        if is_hello == self.welcomed {
            let text = if self.welcomed {
                "HELLO opens a connection, and stands there only once"
            } else {
                "the first frame must be a HELLO"
            };
            return close_with(cx, ErrorCode::HelloExpected, text);
        }
        let (name, step) = match frame {
            ClientFrame::Message(message) => ("message", publish(0, None, message, cx)),
            ClientFrame::Publish {
                request,
                when,
                message,
            } => ("publish", publish(request, Some(when), message, cx)),
            ClientFrame::PublishStored { request, message } => {
                ("publish", self.publish_stored(request, message, cx))
            }
            ClientFrame::Call { request, body } => ("call", self.call(request, body, cx)),
            ClientFrame::Hello(hello) => ("hello", self.hello(hello, cx)),
            ClientFrame::Subscribe {
                request,
                subscription,
            } => ("subscribe", subscribe(request, subscription, cx)),
            ClientFrame::Unsubscribe {
                request,
                subscription,
            } => ("unsubscribe", unsubscribe(request, subscription, cx)),
            ClientFrame::Ping { request } => ("ping", ack(cx, request, 0)),
            ClientFrame::Drain { request } => ("drain", self.drain(request, cx)),
        };
        self.last_frame = name;
        step
    }

    fn hello(&mut self, hello: Hello<'_>, cx: &mut Context<'_>) -> NativeStep {
        let (oldest, newest) = hello.versions;
        if !(oldest..=newest).contains(&VERSION) {
            let text = format!(
                "the client speaks versions {oldest} to {newest}, this broker version {VERSION}"
            );
            return close_with(cx, ErrorCode::Version, &text);
        }
        if !self.is_known && hello.password.is_some() && cx.must_wait_to_prove() {
            return NativeStep::Hold;
        }
        if !self.is_known && !cx.settings().is_let_in(hello.user, hello.password) {
            let text = match hello.password {
                Some(_) => {
                    cx.note_wrong_password();
                    "the user or the password is wrong"
                }
                None => "this broker wants a password, give it in HELLO",
            };
            return close_with(cx, ErrorCode::Authentication, text);
        }
        self.welcomed = true;
        cx.hear_all();
        self.name = hello.name.into();
        self.library = hello.library.into();
        if let Some(policy) = hello.policy {
            cx.set_policy(policy);
        }
        let welcome = Welcome {
            version: VERSION,
            broker: BROKER,
            client: cx.client().0,
            run: &cx.settings().run_id,
            payload_max: PAYLOAD_BYTES_MAX as u32,
        };
        cx.reply(|out| native::write_welcome(out, &welcome));
        NativeStep::Done
    }

    /// Begins to end all subscriptions; events on their way to them are delivered first.
    fn drain(&mut self, request: u32, cx: &mut Context<'_>) -> NativeStep {
        let count = cx.begin_drain();
        self.draining = Some((request, count as u32));
        if !cx.waits_for_barrier() {
            self.end_drain(cx);
        }
        NativeStep::Done
    }

    /// Ends a DRAIN whose events have all come, and acknowledges it.
    fn end_drain(&mut self, cx: &mut Context<'_>) {
        if let Some((request, count)) = self.draining.take() {
            cx.end_drain();
            ack(cx, request, count);
        }
    }

    /// Writes why the connection is closed, if the protocol has a code for it.
    pub(crate) fn say_why(&self, reason: CloseReason, conn: ConnId, outboxes: &mut Outboxes) {
        let (code, text) = match reason {
            CloseReason::TooManyConnections => (ErrorCode::ConnectionsFull, TOO_MANY_CONNECTIONS),
            CloseReason::AuthTimeout => (ErrorCode::HelloLate, "no HELLO came in time"),
            _ => return,
        };
        outboxes.reply(conn, |out| native::write_error(out, 0, code, text));
    }

    /// Writes that the node will close all connections within `milliseconds`.
    pub(crate) fn announce_end(&self, milliseconds: u32, conn: ConnId, outboxes: &mut Outboxes) {
        if self.welcomed {
            outboxes.reply(conn, |out| native::write_draining(out, milliseconds));
        }
    }
}

/// Publishes a message; `when` says whether a PUBLISH is acknowledged, and is `None` for a MESSAGE.
fn publish(
    request: u32,
    when: Option<When>,
    message: Message<'_>,
    cx: &mut Context<'_>,
) -> NativeStep {
    if let Err(refusal) = check(&message, cx) {
        return refuse(cx, request, refusal);
    }
    match cx.publish(event_of(&message)) {
        None => NativeStep::Hold,
        Some(subscriptions) => {
            let reached = cx.reached(subscriptions);
            let is_wanted = match when {
                None => false,
                Some(When::Always) => true,
                Some(When::Unheard) => reached.is_nobody(),
            };
            match is_wanted {
                true => ack(cx, request, reached.count()),
                false => NativeStep::Done,
            }
        }
    }
}

fn event_of<'a>(message: &Message<'a>) -> Event<'a> {
    Event {
        space: Space::Topic,
        topic: message.topic,
        flags: message.flags,
        attributes: message.attributes,
        payload: message.payload,
        number: 0,
    }
}

/// Checks what the parser of frames leaves to the broker.
fn check(message: &Message<'_>, cx: &Context<'_>) -> Result<(), Refusal> {
    cx.check_topic(Space::Topic, message.topic)?;
    if message.payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Refusal::PayloadTooLong(message.payload.len()));
    }
    if let Some(reply) = message.reply() {
        topic::check_name(reply).map_err(Refusal::Name)?;
    }
    if message.flags & flag::HEADERS != 0 && !message.headers().are_valid() {
        return Err(Refusal::Headers);
    }
    Ok(())
}

fn subscribe(request: u32, subscription: Subscription<'_>, cx: &mut Context<'_>) -> NativeStep {
    match cx.subscribe(subscription.member, filter_of(subscription)) {
        Ok(_) => ack(cx, request, cx.count_all() as u32),
        Err(refusal) => refuse(cx, request, refusal),
    }
}

fn unsubscribe(request: u32, subscription: Subscription<'_>, cx: &mut Context<'_>) -> NativeStep {
    cx.unsubscribe(subscription.member, filter_of(subscription));
    ack(cx, request, cx.count_all() as u32)
}

fn filter_of(subscription: Subscription<'_>) -> Filter<'_> {
    Filter {
        kind: FilterKind::of_tokens(subscription.filter),
        name: subscription.filter,
        group: subscription.group,
    }
}

fn ack(cx: &mut Context<'_>, request: u32, count: u32) -> NativeStep {
    cx.reply(|out| native::write_ack(out, request, count));
    NativeStep::Done
}

fn refuse(cx: &mut Context<'_>, request: u32, refusal: Refusal) -> NativeStep {
    cx.counters().errors += 1;
    write_error(cx, request, refusal.code(), &refusal);
    NativeStep::Done
}

fn close_with(cx: &mut Context<'_>, code: ErrorCode, text: &str) -> NativeStep {
    cx.counters().errors += 1;
    write_error(cx, 0, code, &text);
    NativeStep::Close(CloseReason::Protocol)
}

fn write_error(cx: &mut Context<'_>, request: u32, code: ErrorCode, text: &dyn std::fmt::Display) {
    let text = text.to_string();
    cx.reply(|out| native::write_error(out, request, code, &text));
}
