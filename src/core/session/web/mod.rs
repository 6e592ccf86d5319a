//! Connections of the web: HTTP requests, server-sent events, WebSocket with its sub-protocols, and the JSON protocol
//! in lines, which the first byte tells from HTTP.
//!
//! Owns which of these a connection is. `WEB.md` and `JSON.md` specify them. Start at [`WebSession::handle`].

mod http;
mod json;
mod monitor;
mod response;
mod routes;
mod socket;
mod streams;
mod text;

use super::Spoken;
use crate::command::{Answers, CallError, CallId, ClientRecord, CloseReason, ConnId, Form, Now};
use crate::context::{Context, SessionStep, Then};
use crate::limits::{HTTP_BODY_MS_MAX, HTTP_IDLE_MS_MAX, SSE_HEARTBEAT_MS, WEB_PINGS_OUT_MAX};
use crate::outbox::Outboxes;
use crate::settings::Settings;
use http::Http;
use json::JsonSession;
use sapwood_wire::http::LAST_CHUNK;
use socket::Socket;

/// State of a web connection.
#[derive(Debug)]
pub(crate) struct WebSession {
    mode: Mode,
    /// It has become a connection that must authenticate, since this was last asked.
    needs_auth: bool,
    /// When the last heartbeat or ping was sent, by the monotonic clock.
    asked_ns: u64,
    /// Pings that the client has not answered.
    pings_out: u8,
}

/// Kinds of web connections.
#[derive(Debug)]
enum Mode {
    Http(Http),
    /// Server-sent events; input is ignored.
    Events,
    Socket(Box<Socket>),
    /// The JSON protocol without WebSocket, a frame in each line.
    Lines(Box<JsonSession>),
}

/// Result of handling input.
enum Done {
    /// Stop here, with this next step.
    Then(Then),
    /// The connection changes its kind from here on.
    Becomes(Mode),
}

impl WebSession {
    pub(crate) fn new() -> WebSession {
        WebSession {
            mode: Mode::Http(Http::default()),
            needs_auth: false,
            asked_ns: 0,
            pings_out: 0,
        }
    }

    /// A WebSocket whose opening handshake is over.
    pub(crate) fn opened(spoken: Spoken, is_known: bool) -> WebSession {
        let socket = Socket::new(spoken, is_known);
        WebSession {
            mode: Mode::Socket(Box::new(socket)),
            ..WebSession::new()
        }
    }

    pub(crate) fn handle(&mut self, input: &[u8], cx: &mut Context<'_>) -> SessionStep {
        let mut consumed = 0;
        self.pings_out = 0;
        loop {
            let rest = &input[consumed..];
            let (taken, done) = match &mut self.mode {
                Mode::Http(http) if http.is_fresh() && rest.first() == Some(&b'{') => {
                    let lines = JsonSession::new(cx.settings().password.is_none());
                    (0, Done::Becomes(Mode::Lines(Box::new(lines))))
                }
                Mode::Http(http) => http.handle(rest, cx),
                Mode::Events => (rest.len(), Done::Then(Then::Read { needed: 1 })),
                Mode::Socket(socket) => {
                    let (taken, then) = socket.handle(rest, cx);
                    (taken, Done::Then(then))
                }
                Mode::Lines(json) => {
                    let (taken, then) = json.handle_lines(rest, cx);
                    (taken, Done::Then(then))
                }
            };
            consumed += taken;
            match done {
                Done::Then(then) => return SessionStep { consumed, then },
                Done::Becomes(mode) => self.become_mode(mode, cx),
            }
        }
    }

    fn become_mode(&mut self, mode: Mode, cx: &mut Context<'_>) {
        match &mode {
            Mode::Lines(_) => cx.change_form(Form::JsonLines),
            Mode::Socket(socket) => cx.change_form(socket.spoken().form()),
            Mode::Http(_) | Mode::Events => {}
        }
        self.mode = mode;
        self.asked_ns = cx.now().monotonic_ns;
        self.needs_auth = self.awaits_auth();
        if self.hears_all() {
            cx.hear_all();
        }
    }

    /// Whether it gets events published to `$all` from the start.
    fn hears_all(&self) -> bool {
        match &self.mode {
            Mode::Socket(socket) => socket.hears_all(),
            Mode::Lines(json) => !json.awaits_auth(),
            Mode::Http(_) | Mode::Events => false,
        }
    }

    /// Starts a connection that is a WebSocket from the start.
    pub(crate) fn greet(&self, conn: ConnId, outboxes: &mut Outboxes) {
        if self.hears_all() {
            outboxes.hear_all(conn);
        }
    }

    pub(crate) fn answered(
        &mut self,
        call: CallId,
        answers: Result<Answers, CallError>,
        cx: &mut Context<'_>,
    ) {
        match &mut self.mode {
            Mode::Http(http) => http.answered(call, answers, cx),
            Mode::Socket(socket) => socket.answered(call, answers, cx),
            Mode::Events | Mode::Lines(_) => unreachable!("these ask nothing: {answers:?}"),
        }
    }

    /// Writes why the connection is closed.
    pub(crate) fn say_why(&self, reason: CloseReason, conn: ConnId, outboxes: &mut Outboxes) {
        match &self.mode {
            Mode::Http(http) => http.say_why(reason, conn, outboxes),
            // The stream is whole. Without this, its client could not tell it from one that is cut off.
            Mode::Events if outboxes.outbox(conn).form == Form::Sse => {
                outboxes.reply_bare(conn, |out| out.extend_from_slice(LAST_CHUNK));
            }
            Mode::Events => {}
            Mode::Socket(socket) => socket.say_why(reason, conn, outboxes),
            Mode::Lines(json) => json.say_why(reason, conn, outboxes),
        }
    }

    pub(crate) fn announce_end(&self, milliseconds: u32, conn: ConnId, outboxes: &mut Outboxes) {
        match &self.mode {
            Mode::Http(_) | Mode::Events => {}
            Mode::Socket(socket) => socket.announce_end(milliseconds, conn, outboxes),
            Mode::Lines(json) => json.announce_end(milliseconds, conn, outboxes),
        }
    }

    /// Whether it is closed before the node ends, to say so: a WebSocket has a close frame, an event stream a last chunk.
    pub(crate) fn is_closed_early(&self) -> bool {
        match &self.mode {
            Mode::Socket(_) | Mode::Events => true,
            Mode::Http(http) => http.is_following(),
            Mode::Lines(_) => false,
        }
    }

    pub(crate) fn describe(&self, record: &mut ClientRecord) {
        match &self.mode {
            Mode::Http(_) => record.command = "http",
            Mode::Events => record.command = "events",
            Mode::Socket(socket) => socket.describe(record),
            Mode::Lines(json) => json.describe(record),
        }
    }

    pub(crate) fn awaits_auth(&self) -> bool {
        match &self.mode {
            // Each request carries its own credentials.
            Mode::Http(_) | Mode::Events => false,
            Mode::Socket(socket) => socket.awaits_auth(),
            Mode::Lines(json) => json.awaits_auth(),
        }
    }

    pub(crate) fn take_needs_auth(&mut self) -> bool {
        std::mem::take(&mut self.needs_auth)
    }

    pub(crate) fn forget_unfinished(&mut self) {
        match &mut self.mode {
            Mode::Http(http) => http.forget_unfinished(),
            Mode::Socket(socket) => socket.forget_unfinished(),
            Mode::Lines(json) => json.forget_unfinished(),
            Mode::Events => {}
        }
    }

    pub(crate) fn kept_bytes(&self) -> usize {
        match &self.mode {
            Mode::Http(http) => http.kept_bytes(),
            Mode::Socket(socket) => socket.kept_bytes(),
            Mode::Lines(json) => json.kept_bytes(),
            Mode::Events => 0,
        }
    }

    /// Handles a timer: sends heartbeats and pings. Gives a reason if the connection is to be closed.
    pub(crate) fn run_timer(
        &mut self,
        (opened_ns, active_ns): (u64, u64),
        now: Now,
        settings: &Settings,
        conn: ConnId,
        outboxes: &mut Outboxes,
    ) -> Option<CloseReason> {
        let since = |then_ns: u64| now.monotonic_ns.saturating_sub(then_ns) / 1_000_000;
        match &mut self.mode {
            Mode::Http(http) => {
                let begun_ns = http.begun_ns();
                let is_guest = settings.password.is_some() && !http.is_known();
                let is_late = if is_guest && since(opened_ns) >= settings.limits.guest_ms_max {
                    // Whatever it asks for meanwhile, or however slowly.
                    true
                } else if http.is_waiting() {
                    false
                } else if begun_ns > 0 {
                    since(begun_ns) >= settings.limits.guest_ms_max
                } else if http.has_body_begun() {
                    since(active_ns) >= HTTP_BODY_MS_MAX
                } else {
                    since(active_ns) >= HTTP_IDLE_MS_MAX
                };
                is_late.then_some(CloseReason::Stale)
            }
            Mode::Events => {
                // No heartbeat while output waits, which serves the same purpose.
                let is_due = since(self.asked_ns) >= SSE_HEARTBEAT_MS;
                if is_due && outboxes.outbox(conn).len() == 0 {
                    self.asked_ns = now.monotonic_ns;
                    outboxes.reply(conn, |out| out.extend_from_slice(response::SSE_COMMENT));
                }
                None
            }
            Mode::Socket(socket) => {
                let quiet_ms = since(active_ns.max(self.asked_ns));
                if quiet_ms < settings.limits.ping_ms || socket.awaits_auth() {
                    return None;
                }
                if self.pings_out == WEB_PINGS_OUT_MAX {
                    return Some(CloseReason::Stale);
                }
                self.pings_out += 1;
                self.asked_ns = now.monotonic_ns;
                socket.ping(conn, outboxes);
                None
            }
            Mode::Lines(_) => None,
        }
    }
}
