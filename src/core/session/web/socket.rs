//! WebSocket below a session: the client's frames become messages, which a session of its own handles.
//!
//! Owns the message that is being received, and the rules of RFC 6455 that span frames. Output of the session is framed
//! by the form of the connection. A message that is whole in the input is unmasked into a scratch buffer shared by all
//! connections; only a message that comes in parts is kept. Start at [`Socket::handle`].

use super::json::JsonSession;
use super::text::TextSession;
use crate::command::{Answers, CallError, CallId, ClientRecord, CloseReason, ConnId};
use crate::context::{Context, Then};
use crate::limits::GUEST_OUTBOX_BYTES_MAX;
use crate::outbox::Outboxes;
use crate::session::Spoken;
use crate::session::native::NativeSession;
use sapwood_wire::limits::{
    GUEST_MESSAGE_BYTES_MAX, NATIVE_FRAME_BYTES_MAX, NATIVE_HELLO_BYTES_MAX, TEXT_COMMAND_BYTES_MAX,
};
use sapwood_wire::native::LENGTH_BYTES;
use sapwood_wire::websocket::{
    self, BINARY, CLOSE, CONTINUE, CONTROL_BYTES_MAX, Closing, Frame, OpCode, PING, PONG, TEXT,
    Utf8Check,
};

/// Session that handles the messages.
#[derive(Debug)]
enum Inner {
    Text(TextSession),
    Json(JsonSession),
    Native(NativeSession),
    Echo,
}

/// A frame whose payload is not complete.
#[derive(Clone, Copy, Debug)]
struct Part {
    frame: Frame,
    /// Bytes of its payload that have come.
    came: u64,
}

/// State of a WebSocket.
#[derive(Debug)]
pub(super) struct Socket {
    inner: Inner,
    /// Opcode of a message in several frames, or in one that is not complete.
    begun: Option<OpCode>,
    part: Option<Part>,
    /// The part of that message that has come, or the rest of a whole message that could not be handled at once.
    message: Vec<u8>,
    /// `message` is whole, and is handled before further input.
    is_whole: bool,
    check: Utf8Check,
    /// A close frame has been written: nothing may follow.
    is_closed: bool,
}

impl Socket {
    /// `is_known` if the client has authenticated, or need not.
    pub(super) fn new(spoken: Spoken, is_known: bool) -> Socket {
        Socket {
            inner: match spoken {
                Spoken::Text => Inner::Text(TextSession::new(is_known)),
                Spoken::Json => Inner::Json(JsonSession::new(is_known)),
                Spoken::Native => Inner::Native(NativeSession::new(is_known)),
                Spoken::Echo => Inner::Echo,
            },
            begun: None,
            part: None,
            message: Vec::new(),
            is_whole: false,
            check: Utf8Check::default(),
            is_closed: false,
        }
    }

    pub(super) fn spoken(&self) -> Spoken {
        match &self.inner {
            Inner::Text(_) => Spoken::Text,
            Inner::Json(_) => Spoken::Json,
            Inner::Native(_) => Spoken::Native,
            Inner::Echo => Spoken::Echo,
        }
    }

    pub(super) fn awaits_auth(&self) -> bool {
        match &self.inner {
            Inner::Text(text) => text.awaits_auth(),
            Inner::Json(json) => json.awaits_auth(),
            Inner::Native(native) => native.awaits_auth(),
            Inner::Echo => false,
        }
    }

    /// Whether it gets events published to `$all` in its current state.
    pub(super) fn hears_all(&self) -> bool {
        matches!(self.inner, Inner::Text(_) | Inner::Json(_)) && !self.awaits_auth()
    }

    pub(super) fn describe(&self, record: &mut ClientRecord) {
        match &self.inner {
            Inner::Text(text) => record.command = text.last_command(),
            Inner::Json(json) => json.describe(record),
            Inner::Native(native) => native.describe(record),
            Inner::Echo => record.command = "echo",
        }
    }

    pub(super) fn forget_unfinished(&mut self) {
        self.message = Vec::new();
        self.is_whole = false;
    }

    pub(super) fn kept_bytes(&self) -> usize {
        self.message.capacity()
    }

    /// Longest message that may come, in bytes.
    fn message_bytes_max(&self) -> usize {
        match &self.inner {
            Inner::Text(text) if text.awaits_auth() => GUEST_MESSAGE_BYTES_MAX,
            Inner::Text(_) | Inner::Echo => TEXT_COMMAND_BYTES_MAX,
            Inner::Json(json) => json.frame_bytes_max(),
            Inner::Native(native) if native.awaits_auth() => NATIVE_HELLO_BYTES_MAX + LENGTH_BYTES,
            Inner::Native(_) => NATIVE_FRAME_BYTES_MAX + LENGTH_BYTES,
        }
    }

    /// Handles the frames at the start of the input, as far as the connection may go on; gives their bytes, and the
    /// next step.
    pub(super) fn handle(&mut self, input: &[u8], cx: &mut Context<'_>) -> (usize, Then) {
        let mut consumed = 0;
        let then = loop {
            let guest_cap = self.awaits_auth().then_some(GUEST_OUTBOX_BYTES_MAX);
            if let Some(then) = cx.must_pause(guest_cap) {
                break then;
            }
            if let Some(then) = self.go_on(cx) {
                break then;
            }
            if self.is_whole {
                if let Some(then) = self.deal_with_kept(cx) {
                    break self.ended(then, cx);
                }
                continue;
            }
            let rest = &input[consumed..];
            let step = match self.part {
                Some(part) => self.take_part(part, rest),
                None => self.take_frame(rest, cx),
            };
            match step {
                Ok((taken, None)) => consumed += taken,
                Ok((taken, Some(then))) => {
                    consumed += taken;
                    break self.ended(then, cx);
                }
                Err(closing) => break self.close(closing, cx),
            }
        };
        (consumed, then)
    }

    /// Lets the session end a drain in progress; gives the next step unless that is the next message.
    fn go_on(&mut self, cx: &mut Context<'_>) -> Option<Then> {
        match &mut self.inner {
            Inner::Native(native) if native.is_draining() => match native.handle(&[], cx).then {
                Then::Read { .. } => None,
                then => Some(then),
            },
            Inner::Json(json) => json.end_drain(cx),
            Inner::Text(_) | Inner::Native(_) | Inner::Echo => None,
        }
    }

    /// Takes the answers of a round of a call.
    pub(super) fn answered(
        &mut self,
        call: CallId,
        answers: Result<Answers, CallError>,
        cx: &mut Context<'_>,
    ) {
        match &mut self.inner {
            Inner::Native(native) => native.answered(call, answers, cx),
            _ => unreachable!("this protocol asks nothing: {answers:?}"),
        }
    }

    /// Closes the connection because of an error in what the client sent.
    fn close(&mut self, closing: Closing, cx: &mut Context<'_>) -> Then {
        cx.counters().errors += 1;
        cx.reply_bare(|out| {
            websocket::write_close(out, Some(closing.code), closing.text);
        });
        self.is_closed = true;
        Then::Close(CloseReason::Protocol)
    }

    /// Writes a close frame if the session ends with a protocol error.
    fn ended(&mut self, then: Then, cx: &mut Context<'_>) -> Then {
        if let Then::Close(CloseReason::Protocol) = then
            && !self.is_closed
        {
            let closing = match self.awaits_auth() {
                true => Closing {
                    code: 1008,
                    text: "not let in",
                },
                false => Closing::protocol("the error before says why"),
            };
            return self.close(closing, cx);
        }
        then
    }

    /// Takes a frame's header, and its payload if that is complete; gives their bytes, and the next step unless that is
    /// the next frame.
    fn take_frame(
        &mut self,
        input: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(usize, Option<Then>), Closing> {
        let Some(frame) = Frame::parse(input)? else {
            let needed = input.len() + 1;
            return Ok((0, Some(Then::Read { needed })));
        };
        let payload = &input[frame.header..];
        if matches!(frame.opcode, OpCode::Control(_)) {
            let length = frame.length as usize;
            let Some(payload) = payload.get(..length) else {
                let needed = frame.header + length;
                return Ok((0, Some(Then::Read { needed })));
            };
            let then = control(&frame, payload, cx)?;
            return Ok((frame.header + length, then));
        }
        match (frame.opcode == CONTINUE, self.begun) {
            (true, None) => return Err(Closing::protocol("there is nothing to continue")),
            (false, Some(_)) => return Err(Closing::protocol("a message is not finished")),
            _ => {}
        }
        let cap = self.message_bytes_max();
        if frame.length > (cap - self.message.len().min(cap)) as u64 {
            return Err(Closing {
                code: 1009,
                text: "the message is too long",
            });
        }
        match (&self.inner, frame.opcode) {
            (Inner::Json(_), BINARY) => return Err(unsupported("JSON comes in text messages")),
            (Inner::Native(_), TEXT) => {
                return Err(unsupported("native frames come in binary messages"));
            }
            _ => {}
        }
        let length = frame.length as usize;
        if let Some(payload) = payload.get(..length)
            && frame.is_final
            && self.begun.is_none()
        {
            let then = self.take_message(&frame, payload, cx)?;
            return Ok((frame.header + length, then));
        }
        if frame.opcode != CONTINUE {
            self.begun = Some(frame.opcode);
        }
        self.part = Some(Part { frame, came: 0 });
        Ok((frame.header, None))
    }

    /// Takes more of a frame's payload.
    fn take_part(
        &mut self,
        mut part: Part,
        input: &[u8],
    ) -> Result<(usize, Option<Then>), Closing> {
        let left = part.frame.length - part.came;
        let taken = left.min(input.len() as u64) as usize;
        if taken == 0 && left > 0 {
            return Ok((0, Some(Then::Read { needed: 1 })));
        }
        let start = self.message.len();
        self.message.extend_from_slice(&input[..taken]);
        let fresh = &mut self.message[start..];
        websocket::unmask(fresh, part.frame.mask, part.came);
        if self.begun == Some(TEXT) && !self.check.take(fresh) {
            return Err(Closing::NOT_UTF8);
        }
        part.came += taken as u64;
        let is_over = part.came == part.frame.length;
        self.part = (!is_over).then_some(part);
        if is_over && part.frame.is_final {
            if !self.check.is_whole() {
                return Err(Closing::NOT_UTF8);
            }
            self.is_whole = true;
        }
        Ok((taken, None))
    }

    /// Handles a message that is whole in the input; keeps what cannot be handled now.
    fn take_message(
        &mut self,
        frame: &Frame,
        payload: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<Option<Then>, Closing> {
        let mut message = std::mem::take(&mut cx.scratch().message);
        message.extend_from_slice(payload);
        websocket::unmask(&mut message, frame.mask, 0);
        let is_sound = frame.opcode != TEXT || std::str::from_utf8(&message).is_ok();
        let then = is_sound.then(|| {
            let (consumed, then) = self.deal_with(frame.opcode, &message, cx);
            if consumed < message.len() {
                self.message = message[consumed..].to_vec();
                self.begun = Some(frame.opcode);
                self.is_whole = true;
            }
            then
        });
        message.clear();
        cx.scratch().message = message;
        then.ok_or(Closing::NOT_UTF8)
    }

    /// Handles the kept message.
    fn deal_with_kept(&mut self, cx: &mut Context<'_>) -> Option<Then> {
        let mut message = std::mem::take(&mut self.message);
        let opcode = self.begun.unwrap_or(BINARY);
        let (consumed, then) = self.deal_with(opcode, &message, cx);
        if consumed < message.len() {
            message.drain(..consumed);
            self.message = message;
        } else {
            self.begun = None;
            self.is_whole = false;
        }
        then
    }

    /// Hands a message to the session; gives how many of its bytes are handled, and the next step unless that is the
    /// next message.
    fn deal_with(
        &mut self,
        opcode: OpCode,
        message: &[u8],
        cx: &mut Context<'_>,
    ) -> (usize, Option<Then>) {
        let then = match &mut self.inner {
            Inner::Text(text) => text.message(message, cx),
            Inner::Json(json) => json.message(message, cx),
            Inner::Native(native) => {
                let handled = native.handle(message, cx);
                let is_all = handled.consumed == message.len();
                return match handled.then {
                    Then::Read { .. } if is_all => (handled.consumed, None),
                    Then::Read { .. } => {
                        let text = "native frames stand whole in a message";
                        (message.len(), Some(self.close(Closing::protocol(text), cx)))
                    }
                    then => (handled.consumed, Some(then)),
                };
            }
            Inner::Echo => {
                cx.reply_bare(|out| {
                    websocket::write_header(out, opcode, message.len());
                    out.extend_from_slice(message);
                });
                None
            }
        };
        match then {
            Some(Then::Hold) if message.is_empty() => {
                unreachable!("an empty message asks for nothing that could wait")
            }
            Some(Then::Hold) => (0, then),
            _ => (message.len(), then),
        }
    }

    /// Writes why the connection is closed, in the session's protocol and by a close frame.
    pub(super) fn say_why(&self, reason: CloseReason, conn: ConnId, outboxes: &mut Outboxes) {
        let (code, text) = match reason {
            CloseReason::AuthTimeout => (1008, "not let in in time"),
            CloseReason::TooManyConnections => (1013, "too many connections"),
            CloseReason::Ending => (1001, "the broker ends"),
            CloseReason::Killed => (1008, "closed by another client"),
            CloseReason::Stale => (1008, "no answer to a ping"),
            _ => return,
        };
        match &self.inner {
            Inner::Json(json) => json.say_why(reason, conn, outboxes),
            Inner::Native(native) => native.say_why(reason, conn, outboxes),
            Inner::Text(_) | Inner::Echo => {}
        }
        outboxes.reply_bare(conn, |out| websocket::write_close(out, Some(code), text));
    }

    pub(super) fn announce_end(&self, milliseconds: u32, conn: ConnId, outboxes: &mut Outboxes) {
        match &self.inner {
            Inner::Json(json) => json.announce_end(milliseconds, conn, outboxes),
            Inner::Native(native) => native.announce_end(milliseconds, conn, outboxes),
            Inner::Text(_) | Inner::Echo => {}
        }
    }

    /// Sends a ping.
    pub(super) fn ping(&self, conn: ConnId, outboxes: &mut Outboxes) {
        outboxes.reply_bare(conn, |out| websocket::write_header(out, PING, 0));
    }
}

fn unsupported(text: &'static str) -> Closing {
    Closing { code: 1003, text }
}

/// Handles a ping, pong or close frame.
fn control(frame: &Frame, payload: &[u8], cx: &mut Context<'_>) -> Result<Option<Then>, Closing> {
    let mut buffer = [0; CONTROL_BYTES_MAX];
    let unmasked = &mut buffer[..payload.len()];
    unmasked.copy_from_slice(payload);
    websocket::unmask(unmasked, frame.mask, 0);
    match frame.opcode {
        PING => {
            cx.reply_bare(|out| {
                websocket::write_header(out, PONG, unmasked.len());
                out.extend_from_slice(unmasked);
            });
            Ok(None)
        }
        CLOSE => {
            let code = websocket::parse_close(unmasked)?;
            cx.reply_bare(|out| websocket::write_close(out, code, ""));
            Ok(Some(Then::Close(CloseReason::Quit)))
        }
        _ => Ok(None),
    }
}
