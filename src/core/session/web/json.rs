//! The JSON protocol, as `JSON.md` beside `wire/json.rs` specifies it: the native protocol as text.
//!
//! Start at [`JsonSession::message`].

use crate::command::{
    ClientRecord, CloseReason, ConnId, Event, Filter, FilterKind, Refusal, Space,
};
use crate::context::{Context, Then};
use crate::outbox::Outboxes;
use crate::session::{BROKER, TOO_MANY_CONNECTIONS};
use sapwood_wire::error::ErrorCode;
use sapwood_wire::json::{self, Hello, Op, Publish, Request, Subscription};
use sapwood_wire::limits::{GUEST_MESSAGE_BYTES_MAX, JSON_FRAME_BYTES_MAX, PAYLOAD_BYTES_MAX};
use sapwood_wire::native::{PartsError, VERSION, Welcome, When};
use sapwood_wire::topic;

/// State of a JSON connection.
#[derive(Debug)]
pub(super) struct JsonSession {
    authenticated: bool,
    has_said_anything: bool,
    /// A `drain` in progress: its id, and the number of subscriptions that end.
    draining: Option<(Option<u64>, u64)>,
    last_op: &'static str,
    name: Box<str>,
    library: Box<str>,
    /// The part of a line that has come, where frames are lines.
    line: Vec<u8>,
    /// `line` is whole, and is handled before further input.
    is_line_whole: bool,
}

impl JsonSession {
    /// `is_known` if the client has authenticated, or need not.
    pub(super) fn new(is_known: bool) -> JsonSession {
        JsonSession {
            authenticated: is_known,
            has_said_anything: false,
            draining: None,
            last_op: "none",
            name: Box::default(),
            library: Box::default(),
            line: Vec::new(),
            is_line_whole: false,
        }
    }

    pub(super) fn awaits_auth(&self) -> bool {
        !self.authenticated
    }

    pub(super) fn describe(&self, record: &mut ClientRecord) {
        record.name = self.name.as_bytes().to_vec();
        let (name, version) = self.library.split_once('/').unwrap_or((&self.library, ""));
        record.library = (name.into(), version.into());
        record.command = self.last_op;
    }

    /// Longest frame that the client may send, in bytes.
    pub(super) fn frame_bytes_max(&self) -> usize {
        match self.awaits_auth() {
            true => GUEST_MESSAGE_BYTES_MAX,
            false => JSON_FRAME_BYTES_MAX,
        }
    }

    /// Carries out the lines in `input`, as far as the connection may go on. The part of an incomplete line is kept
    /// here, so that nothing is searched twice.
    pub(super) fn handle_lines(&mut self, input: &[u8], cx: &mut Context<'_>) -> (usize, Then) {
        let mut consumed = 0;
        loop {
            if let Some(then) = cx.must_pause(None) {
                return (consumed, then);
            }
            if let Some(then) = self.end_drain(cx) {
                return (consumed, then);
            }
            if self.is_line_whole {
                if let Some(then) = self.deal_with_line(cx) {
                    return (consumed, then);
                }
                continue;
            }
            let rest = &input[consumed..];
            let cap = self.frame_bytes_max();
            let end = memchr::memchr(b'\n', rest);
            // One byte more, for a CR after the frame.
            if self.line.len() + end.unwrap_or(rest.len()) > cap + 1 {
                let text = format!("a line has at most {cap} bytes");
                let then = fail(cx, None, ErrorCode::FrameTooLong, &text);
                return (consumed, then);
            }
            let Some(end) = end else {
                self.line.extend_from_slice(rest);
                return (input.len(), Then::Read { needed: 1 });
            };
            if self.line.is_empty() {
                let then = self.deal_with(&rest[..end], cx);
                if !matches!(then, Some(Then::Hold)) {
                    consumed += end + 1;
                }
                if let Some(then) = then {
                    return (consumed, then);
                }
                continue;
            }
            self.line.extend_from_slice(&rest[..end]);
            self.is_line_whole = true;
            consumed += end + 1;
        }
    }

    /// Handles the kept line, and drops it unless it has to wait.
    fn deal_with_line(&mut self, cx: &mut Context<'_>) -> Option<Then> {
        let line = std::mem::take(&mut self.line);
        let then = self.deal_with(&line, cx);
        match then {
            Some(Then::Hold) => self.line = line,
            _ => self.is_line_whole = false,
        }
        then
    }

    fn deal_with(&mut self, line: &[u8], cx: &mut Context<'_>) -> Option<Then> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.is_empty() {
            true => None,
            false => self.message(line, cx),
        }
    }

    /// Drops a kept line, because the connection is being closed.
    pub(super) fn forget_unfinished(&mut self) {
        self.line = Vec::new();
        self.is_line_whole = false;
    }

    pub(super) fn kept_bytes(&self) -> usize {
        self.line.capacity()
    }

    /// Carries out a frame. `None` when it is handled, and [`Then::Hold`] if it must be given again.
    pub(super) fn message(&mut self, frame: &[u8], cx: &mut Context<'_>) -> Option<Then> {
        if let Some(then) = self.end_drain(cx) {
            return Some(then);
        }
        let Request { id, op } = match Request::parse(frame) {
            Ok(request) => request,
            Err(error) => {
                refuse(cx, error.id, ErrorCode::RequestInvalid, &error);
                return self
                    .awaits_auth()
                    .then_some(Then::Close(CloseReason::Protocol));
            }
        };
        if self.awaits_auth() && !matches!(op, Op::Hello(_)) {
            let text = "this broker wants a password, send \"hello\" first";
            return Some(fail(cx, id, ErrorCode::Authentication, text));
        }
        let (name, then) = match op {
            Op::Hello(hello) => ("hello", self.hello(id, &hello, cx)),
            Op::Publish(publish) => ("publish", publish_message(id, &publish, cx)),
            Op::Subscribe(subscription) => ("subscribe", subscribe(id, &subscription, cx)),
            Op::Unsubscribe(subscription) => ("unsubscribe", unsubscribe(id, &subscription, cx)),
            Op::Ping => ("ping", ok(cx, id, 0)),
            Op::Drain => ("drain", self.drain(id, cx)),
        };
        self.last_op = name;
        self.has_said_anything |= !matches!(then, Some(Then::Hold));
        then
    }

    fn hello(&mut self, id: Option<u64>, hello: &Hello<'_>, cx: &mut Context<'_>) -> Option<Then> {
        if self.has_said_anything {
            let text = "\"hello\" opens a connection, and stands there only once";
            return Some(fail(cx, id, ErrorCode::HelloExpected, text));
        }
        if let Some(version) = hello.version
            && version != u64::from(VERSION)
        {
            let text =
                format!("the client speaks version {version}, this broker version {VERSION}");
            return Some(fail(cx, id, ErrorCode::Version, &text));
        }
        let user = hello.user.as_deref().map(str::as_bytes);
        let password = hello.password.as_deref().map(str::as_bytes);
        // A client that authenticated by the request that opened the WebSocket need not do so again.
        let must_prove = self.awaits_auth() || password.is_some();
        if must_prove && password.is_some() && cx.must_wait_to_prove() {
            return Some(Then::Hold);
        }
        if must_prove && !cx.settings().is_let_in(user, password) {
            if password.is_some() {
                cx.note_wrong_password();
            }
            let text = match password {
                Some(_) => "the user or the password is wrong",
                None => "this broker wants a password, give it in \"hello\"",
            };
            return Some(fail(cx, id, ErrorCode::Authentication, text));
        }
        self.authenticated = true;
        self.name = (&*hello.name).into();
        self.library = (&*hello.library).into();
        cx.hear_all();
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
        cx.reply(|out| json::write_welcome(out, id, &welcome));
        None
    }

    /// Begins to end all subscriptions; events on their way to them are delivered first.
    fn drain(&mut self, id: Option<u64>, cx: &mut Context<'_>) -> Option<Then> {
        let count = cx.begin_drain() as u64;
        self.draining = Some((id, count));
        self.end_drain(cx);
        None
    }

    /// Ends a `drain` whose events have all come, and answers it; [`Then::Hold`] while they have not.
    pub(super) fn end_drain(&mut self, cx: &mut Context<'_>) -> Option<Then> {
        let (id, count) = self.draining?;
        if cx.waits_for_barrier() {
            return Some(Then::Hold);
        }
        self.draining = None;
        cx.end_drain();
        ok(cx, id, count)
    }

    /// Writes why the connection is closed, if the protocol has a code for it.
    pub(super) fn say_why(&self, reason: CloseReason, conn: ConnId, outboxes: &mut Outboxes) {
        let (code, text) = match reason {
            CloseReason::TooManyConnections => (ErrorCode::ConnectionsFull, TOO_MANY_CONNECTIONS),
            CloseReason::AuthTimeout => (ErrorCode::HelloLate, "no \"hello\" came in time"),
            _ => return,
        };
        outboxes.reply(conn, |out| json::write_error(out, None, code.name(), text));
    }

    pub(super) fn announce_end(&self, milliseconds: u32, conn: ConnId, outboxes: &mut Outboxes) {
        if !self.awaits_auth() {
            outboxes.reply(conn, |out| json::write_draining(out, milliseconds));
        }
    }
}

fn publish_message(id: Option<u64>, publish: &Publish<'_>, cx: &mut Context<'_>) -> Option<Then> {
    let mut attributes = std::mem::take(&mut cx.scratch().attributes);
    let published = check(publish, cx).and_then(|()| {
        let flags = publish
            .write_attributes(&mut attributes)
            .map_err(refusal_of)?;
        let event = Event {
            space: Space::Topic,
            topic: publish.topic.as_bytes(),
            flags,
            attributes: &attributes,
            payload: &publish.payload,
            number: 0,
        };
        Ok(cx.publish(event))
    });
    attributes.clear();
    cx.scratch().attributes = attributes;
    match published {
        Err(refusal) => {
            refuse(cx, id, refusal.code(), &refusal);
            None
        }
        Ok(None) => Some(Then::Hold),
        Ok(Some(count)) => {
            let reached = cx.reached(count);
            let is_wanted = publish.when == When::Always || reached.is_nobody();
            if let Some(id) = id.filter(|_| is_wanted) {
                cx.reply(|out| json::write_published(out, id, reached));
            }
            None
        }
    }
}

fn refusal_of(error: PartsError) -> Refusal {
    match error {
        PartsError::Payload(length) => Refusal::PayloadTooLong(length),
        PartsError::Topic(_) | PartsError::Header | PartsError::Headers(_) => Refusal::Headers,
    }
}

fn check(publish: &Publish<'_>, cx: &Context<'_>) -> Result<(), Refusal> {
    cx.check_topic(Space::Topic, publish.topic.as_bytes())?;
    match publish.reply() {
        Some(reply) => topic::check_name(reply).map_err(Refusal::Name),
        None => Ok(()),
    }
}

fn subscribe(
    id: Option<u64>,
    subscription: &Subscription<'_>,
    cx: &mut Context<'_>,
) -> Option<Then> {
    match cx.subscribe(subscription.member, filter_of(subscription)) {
        Ok(_) => ok(cx, id, cx.count_all() as u64),
        Err(refusal) => {
            refuse(cx, id, refusal.code(), &refusal);
            None
        }
    }
}

fn unsubscribe(
    id: Option<u64>,
    subscription: &Subscription<'_>,
    cx: &mut Context<'_>,
) -> Option<Then> {
    cx.unsubscribe(subscription.member, filter_of(subscription));
    ok(cx, id, cx.count_all() as u64)
}

fn filter_of<'a>(subscription: &'a Subscription<'_>) -> Filter<'a> {
    let name = subscription.filter.as_bytes();
    Filter {
        kind: FilterKind::of_tokens(name),
        name,
        group: subscription.group.as_bytes(),
    }
}

/// Answers a request with its count, if it has an id.
fn ok(cx: &mut Context<'_>, id: Option<u64>, count: u64) -> Option<Then> {
    if let Some(id) = id {
        cx.reply(|out| json::write_ok(out, id, count));
    }
    None
}

fn refuse(cx: &mut Context<'_>, id: Option<u64>, code: ErrorCode, what: &dyn std::fmt::Display) {
    cx.counters().errors += 1;
    let text = what.to_string();
    cx.reply(|out| {
        json::write_error(out, id, code.name(), &text);
    });
}

fn fail(cx: &mut Context<'_>, id: Option<u64>, code: ErrorCode, text: &str) -> Then {
    refuse(cx, id, code, &text);
    Then::Close(CloseReason::Protocol)
}
