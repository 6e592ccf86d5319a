//! Text commands over WebSocket: events are delivered as payloads only, and PING is the only command with a reply.
//!
//! Start at [`TextSession::message`].

use crate::command::{CloseReason, Event, Filter, FilterKind, Refusal, Space};
use crate::context::{Context, Then};
use crate::form::text_or_binary;
use sapwood_wire::limits::PAYLOAD_BYTES_MAX;
use sapwood_wire::text::{self, Command, Names};
use sapwood_wire::websocket;

/// Number of a subscription among those to one filter: there is at most one.
const NUMBER: u32 = 0;

/// State of a connection with text commands.
#[derive(Debug)]
pub(super) struct TextSession {
    authenticated: bool,
    last_command: &'static str,
}

impl TextSession {
    /// `is_known` if the client has authenticated, or need not.
    pub(super) fn new(is_known: bool) -> TextSession {
        TextSession {
            authenticated: is_known,
            last_command: "none",
        }
    }

    pub(super) fn awaits_auth(&self) -> bool {
        !self.authenticated
    }

    pub(super) fn last_command(&self) -> &'static str {
        self.last_command
    }

    /// Carries out a command; `None` when it is handled.
    pub(super) fn message(&mut self, message: &[u8], cx: &mut Context<'_>) -> Option<Then> {
        let command = match text::parse(message) {
            Ok(command) => command,
            Err(error) => return refuse(cx, &error),
        };
        if self.awaits_auth() && !matches!(command, Command::Auth(_)) {
            refuse(
                cx,
                &"this broker wants a password, send AUTH [user] password first",
            );
            return Some(Then::Close(CloseReason::Protocol));
        }
        let (name, then) = match command {
            Command::Publish { channel, payload } => ("publish", publish(channel, payload, cx)),
            Command::Subscribe(names) => ("subscribe", subscribe(FilterKind::Topic, names, cx)),
            Command::PatternSubscribe(names) => {
                ("psubscribe", subscribe(FilterKind::Glob, names, cx))
            }
            Command::Unsubscribe(names) => {
                ("unsubscribe", unsubscribe(FilterKind::Topic, names, cx))
            }
            Command::PatternUnsubscribe(names) => {
                ("punsubscribe", unsubscribe(FilterKind::Glob, names, cx))
            }
            Command::Ping(text) => ("ping", pong(text, cx)),
            Command::Auth(proof) => ("auth", self.authenticate(proof, cx)),
        };
        self.last_command = name;
        then
    }

    fn authenticate(&mut self, proof: &[u8], cx: &mut Context<'_>) -> Option<Then> {
        if cx.must_wait_to_prove() {
            return Some(Then::Hold);
        }
        let blank = proof.iter().position(|&byte| byte == b' ');
        let is_user = blank.is_some_and(|blank| {
            let (user, password) = (&proof[..blank], &proof[blank + 1..]);
            cx.settings().is_let_in(Some(user), Some(password))
        });
        if !is_user && !cx.settings().is_let_in(None, Some(proof)) {
            cx.note_wrong_password();
            refuse(cx, &"the user or the password is wrong");
            return Some(Then::Close(CloseReason::Protocol));
        }
        self.authenticated = true;
        cx.hear_all();
        None
    }
}

fn publish(channel: &[u8], payload: &[u8], cx: &mut Context<'_>) -> Option<Then> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return refuse(cx, &Refusal::PayloadTooLong(payload.len()));
    }
    if let Err(refusal) = cx.check_topic(Space::Topic, channel) {
        return refuse(cx, &refusal);
    }
    match cx.publish(Event::plain(Space::Topic, channel, payload)) {
        None => Some(Then::Hold),
        Some(_) => None,
    }
}

fn subscribe(kind: FilterKind, names: Names<'_>, cx: &mut Context<'_>) -> Option<Then> {
    for name in names.iter() {
        if let Err(refusal) = cx.subscribe(NUMBER, Filter::plain(kind, name)) {
            refuse(cx, &refusal);
        }
    }
    None
}

fn unsubscribe(kind: FilterKind, names: Names<'_>, cx: &mut Context<'_>) -> Option<Then> {
    let given: Vec<Box<[u8]>> = names.iter().map(Box::from).collect();
    let names = match given.is_empty() {
        true => cx.names(kind),
        false => given,
    };
    for name in names {
        cx.unsubscribe(NUMBER, Filter::plain(kind, &name));
    }
    None
}

fn pong(text: &[u8], cx: &mut Context<'_>) -> Option<Then> {
    let opcode = text_or_binary(text);
    cx.reply_bare(|out| {
        websocket::write_frame(out, opcode, 4 + text.len(), |out| {
            out.extend_from_slice(b"PONG");
            if !text.is_empty() {
                out.push(b' ');
                out.extend_from_slice(text);
            }
        });
    });
    None
}

/// Replies an error; the command is handled.
fn refuse(cx: &mut Context<'_>, what: &dyn std::fmt::Display) -> Option<Then> {
    cx.counters().errors += 1;
    let text = format!("ERR {what}");
    cx.reply(|out| out.extend_from_slice(text.as_bytes()));
    None
}
