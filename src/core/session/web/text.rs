//! Text commands over WebSocket: the payload alone is delivered, and only PING is answered.
//!
//! Start at [`TextSession::message`].

use super::super::{Context, Then};
use crate::command::{CloseReason, Event, Filter, FilterKind, Member, Refusal, Space};
use crate::session::form::text_or_binary;
use sapwood_wire::limits::PAYLOAD_BYTES_MAX;
use sapwood_wire::text::{self, Command, Names};
use sapwood_wire::websocket;

/// What the text commands remember of a connection.
#[derive(Debug)]
pub(super) struct TextSession {
    authenticated: bool,
    last_command: &'static str,
}

impl TextSession {
    /// `is_known` if the client has proved who it is, or need not.
    pub(super) fn new(is_known: bool) -> TextSession {
        TextSession {
            authenticated: is_known,
            last_command: "none",
        }
    }

    pub(super) fn is_guest(&self) -> bool {
        !self.authenticated
    }

    pub(super) fn last_command(&self) -> &'static str {
        self.last_command
    }

    /// Carries out a command; `None` once it is dealt with.
    pub(super) fn message(&mut self, message: &[u8], cx: &mut Context<'_>) -> Option<Then> {
        let command = match text::parse(message) {
            Ok(command) => command,
            Err(error) => return refuse(cx, &error),
        };
        if self.is_guest() && !matches!(command, Command::Auth(_)) {
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
        let blank = proof.iter().position(|&byte| byte == b' ');
        let is_user = blank.is_some_and(|blank| {
            let (user, password) = (&proof[..blank], &proof[blank + 1..]);
            cx.settings.is_let_in(Some(user), Some(password))
        });
        if !is_user && !cx.settings.is_let_in(None, Some(proof)) {
            cx.counters.wrong_passwords += 1;
            refuse(cx, &"the user or the password is wrong");
            return Some(Then::Close(CloseReason::Protocol));
        }
        self.authenticated = true;
        cx.outboxes.hear_all(cx.conn);
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
    match cx.publish_one(Event::plain(Space::Topic, channel, payload)) {
        None => Some(Then::Hold),
        Some(_) => None,
    }
}

fn subscribe(kind: FilterKind, names: Names<'_>, cx: &mut Context<'_>) -> Option<Then> {
    cx.settle();
    let mut is_new = false;
    for name in names.iter() {
        let filter = Filter::plain(kind, name);
        match cx.broker.subscribe(member(cx), cx.form(), filter) {
            Ok(changed) => is_new |= changed,
            Err(refusal) => {
                refuse(cx, &refusal);
            }
        }
    }
    if is_new {
        cx.interest_changed();
    }
    None
}

fn unsubscribe(kind: FilterKind, names: Names<'_>, cx: &mut Context<'_>) -> Option<Then> {
    cx.settle();
    let given: Vec<Box<[u8]>> = names.iter().map(Box::from).collect();
    let names = match given.is_empty() {
        true => cx.broker.names(cx.conn, kind),
        false => given,
    };
    let mut is_gone = false;
    for name in names {
        let filter = Filter::plain(kind, &name);
        is_gone |= cx.broker.unsubscribe(member(cx), cx.form(), filter);
    }
    if is_gone {
        cx.interest_changed();
    }
    None
}

fn member(cx: &Context<'_>) -> Member {
    Member {
        conn: cx.conn,
        number: 0,
    }
}

fn pong(text: &[u8], cx: &mut Context<'_>) -> Option<Then> {
    cx.settle();
    let opcode = text_or_binary(text);
    cx.outboxes.reply_bare(cx.conn, |out| {
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

/// Says what was wrong; the command is dealt with.
fn refuse(cx: &mut Context<'_>, what: &dyn std::fmt::Display) -> Option<Then> {
    cx.settle();
    cx.counters.errors += 1;
    let text = format!("ERR {what}");
    cx.outboxes
        .reply(cx.conn, |out| out.extend_from_slice(text.as_bytes()));
    None
}
