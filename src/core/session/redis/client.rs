//! The CLIENT commands.

use super::table::Verb;
use super::{RedisSession, RedisStep, ReplyMode};
use crate::command::{ClientId, ClientRecord, Selection};
use crate::context::Context;
use core::net::SocketAddr;
use sapwood_wire::resp::{self, Arguments, Version};
use std::fmt::Write;

type ErrorText = Vec<u8>;

impl RedisSession {
    pub(super) fn client(
        &mut self,
        verb: Verb,
        arguments: Arguments<'_>,
        cx: &mut Context<'_>,
    ) -> RedisStep {
        let word = |index: usize| arguments.get(index).unwrap_or_default();
        match verb {
            Verb::ClientId => self.integer(cx, cx.client().0 as i64),
            Verb::ClientGetname if self.name.is_empty() => {
                let version = self.version;
                self.write(cx, |out| resp::null(out, version));
            }
            Verb::ClientGetname => self.write(cx, |out| resp::bulk(out, &self.name)),
            Verb::ClientSetname => match self.set_name(word(2)) {
                Ok(()) => self.simple(cx, "OK"),
                Err(text) => self.error(cx, &text),
            },
            Verb::ClientSetinfo => self.set_info(word(2), word(3), cx),
            Verb::ClientNoEvict | Verb::ClientNoTouch => self.set_switch(verb, word(2), cx),
            Verb::ClientTracking => self.track(arguments, cx),
            Verb::ClientCaching => self.cache(word(2), cx),
            Verb::ClientReply => self.set_reply_mode(word(2), cx),
            // The same record as in CLIENT LIST, so it takes a call.
            Verb::ClientInfo => return self.ask_itself(cx),
            Verb::ClientList => match list_selection(arguments) {
                Ok(selection) => return self.ask_clients(selection, cx),
                Err(text) => self.error(cx, &text),
            },
            Verb::ClientKill if arguments.len() == 3 => {
                let peer = parse_address(word(2));
                let selection = Selection {
                    peer,
                    nobody: peer.is_none(),
                    ..Selection::default()
                };
                return self.ask_kill(selection, true, cx);
            }
            Verb::ClientKill => match kill_selection(arguments, cx) {
                Ok(selection) => return self.ask_kill(selection, false, cx),
                Err(text) => self.error(cx, &text),
            },
            other => unreachable!("{other:?} is not of the CLIENT group"),
        }
        RedisStep::Done
    }

    /// Sets the connection's name, or clears it if `name` is empty.
    pub(super) fn set_name(&mut self, name: &[u8]) -> Result<(), ErrorText> {
        if !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
            let text = "ERR Client names cannot contain spaces, newlines or special characters.";
            return Err(text.into());
        }
        if name.len() > sapwood_wire::limits::TOPIC_BYTES_MAX {
            return Err(b"ERR Client names are at most 1024 bytes long.".to_vec());
        }
        self.name = name.into();
        Ok(())
    }

    fn set_info(&mut self, attribute: &[u8], value: &[u8], cx: &mut Context<'_>) {
        let is_printable = value.iter().all(|byte| (b'!'..=b'~').contains(byte));
        let library = self.library.get_or_insert_default();
        let place = match attribute.to_ascii_lowercase().as_slice() {
            b"lib-name" => &mut library.0,
            b"lib-ver" => &mut library.1,
            _ => {
                let shown = super::shown(attribute, 128);
                return self.error(cx, &[b"ERR Unrecognized option '", shown, b"'"].concat());
            }
        };
        if !is_printable || value.len() > sapwood_wire::limits::TOPIC_BYTES_MAX {
            let name = String::from_utf8_lossy(attribute).to_lowercase();
            let text = format!("ERR {name} cannot contain spaces, newlines or special characters.");
            return self.error(cx, text.as_bytes());
        }
        *place = value.to_vec();
        self.simple(cx, "OK");
    }

    fn set_switch(&mut self, verb: Verb, value: &[u8], cx: &mut Context<'_>) {
        let on = match value.to_ascii_lowercase().as_slice() {
            b"on" => true,
            b"off" => false,
            _ => return self.error(cx, b"ERR syntax error"),
        };
        if verb == Verb::ClientNoEvict {
            self.no_evict = on;
        }
        self.simple(cx, "OK");
    }

    fn set_reply_mode(&mut self, mode: &[u8], cx: &mut Context<'_>) {
        match mode.to_ascii_lowercase().as_slice() {
            b"on" => {
                self.reply_mode = ReplyMode::On;
                self.simple(cx, "OK");
            }
            b"off" => self.reply_mode = ReplyMode::Off,
            b"skip" if self.reply_mode != ReplyMode::Off => self.reply_mode = ReplyMode::SkipNext,
            b"skip" => {}
            _ => self.error(cx, b"ERR syntax error"),
        }
    }

    /// Fills in the fields of the client's record that the session knows; the shard fills in the others.
    pub(crate) fn describe(&self, record: &mut ClientRecord) {
        record.name = self.name.to_vec();
        record.library = self.library.as_deref().cloned().unwrap_or_default();
        record.queued = self
            .transaction
            .as_ref()
            .map(|transaction| transaction.len());
        record.database = self.database;
        record.version = match self.version {
            Version::Two => 2,
            Version::Three => 3,
        };
        record.command = self.last_command;
        record.no_evict = self.no_evict;
    }
}

/// Appends a client's line of CLIENT LIST.
pub(super) fn write_record(record: &ClientRecord, user: &[u8], out: &mut Vec<u8>) {
    let mut line = String::new();
    let [topics, globs, shard_channels] = record.subscriptions;
    let mut flags = String::new();
    if record.no_evict {
        flags.push('e');
    }
    if topics + globs + shard_channels > 0 {
        flags.push('P');
    }
    if record.queued.is_some() {
        flags.push('x');
    }
    if flags.is_empty() {
        flags.push('N');
    }
    let multi = record.queued.map_or(-1, |queued| queued as i64);
    let (bytes, pieces) = record.output;
    // Writing to a String cannot fail.
    let _ = write!(
        line,
        "id={} addr={} laddr={}",
        record.id.0, record.peer, record.local
    );
    let _ = write!(line, " fd=-1 name={}", one_word(&record.name));
    let _ = write!(
        line,
        " age={} idle={} flags={flags}",
        record.age_s, record.idle_s
    );
    let _ = write!(line, " db={} sub={topics} psub={globs}", record.database);
    let _ = write!(
        line,
        " ssub={shard_channels} multi={multi} obl={bytes} oll={pieces}"
    );
    let _ = write!(
        line,
        " omem={bytes} events=r cmd={} user={}",
        record.command,
        one_word(user)
    );
    let _ = write!(line, " redir=-1 resp={}", record.version);
    let _ = write!(line, " lib-name={}", one_word(&record.library.0));
    let _ = write!(line, " lib-ver={}", one_word(&record.library.1));
    let _ = writeln!(line, " shard={} lost={}", record.shard.0, record.lost);
    out.extend_from_slice(line.as_bytes());
}

/// Text of a client as one word: clients of other protocols may use spaces and line ends, with which they could forge
/// other clients' fields and lines.
fn one_word(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.replace(|c: char| c.is_whitespace() || c.is_control(), "_")
}

fn parse_address(text: &[u8]) -> Option<SocketAddr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn parse_type(text: &[u8], selection: &mut Selection) -> Result<(), ErrorText> {
    match text.to_ascii_lowercase().as_slice() {
        b"normal" => selection.subscribed = Some(false),
        b"pubsub" => selection.subscribed = Some(true),
        b"master" | b"replica" | b"slave" => selection.nobody = true,
        _ => {
            let shown = super::shown(text, 128);
            return Err([b"ERR Unknown client type '", shown, b"'"].concat());
        }
    }
    Ok(())
}

fn list_selection(arguments: Arguments<'_>) -> Result<Selection, ErrorText> {
    let mut selection = Selection::default();
    let Some(option) = arguments.get(2) else {
        return Ok(selection);
    };
    match (option.to_ascii_lowercase().as_slice(), arguments.len()) {
        (b"type", 4) => parse_type(arguments.get(3).unwrap_or_default(), &mut selection)?,
        (b"id", 4..) => {
            for text in arguments.iter().skip(3) {
                let id = resp::parse_integer(text).filter(|&id| id >= 0);
                let id = id.ok_or_else(|| b"ERR Invalid client ID".to_vec())?;
                selection.ids.push(ClientId(id as u64));
            }
        }
        _ => return Err(b"ERR syntax error".to_vec()),
    }
    selection.sort_ids();
    Ok(selection)
}

fn kill_selection(arguments: Arguments<'_>, cx: &Context<'_>) -> Result<Selection, ErrorText> {
    let syntax_error = || b"ERR syntax error".to_vec();
    let mut selection = Selection {
        but: Some(cx.client()),
        ..Selection::default()
    };
    let mut at = 2;
    while at < arguments.len() {
        let option = arguments.get(at).unwrap_or_default();
        let value = arguments.get(at + 1).ok_or_else(syntax_error)?;
        match option.to_ascii_lowercase().as_slice() {
            b"id" => {
                let id = resp::parse_integer(value).filter(|&id| id > 0);
                let id = id.ok_or(&b"ERR client-id should be greater than 0"[..])?;
                selection.ids.push(ClientId(id as u64));
            }
            b"type" => parse_type(value, &mut selection)?,
            b"addr" => match parse_address(value) {
                Some(peer) => selection.peer = Some(peer),
                None => selection.nobody = true,
            },
            b"laddr" => match parse_address(value) {
                Some(local) => selection.local = Some(local),
                None => selection.nobody = true,
            },
            b"user" if cx.settings().is_user(value) => {}
            b"user" => {
                let shown = super::shown(value, 128);
                return Err([b"ERR No such user '", shown, b"'"].concat());
            }
            b"maxage" => {
                let age = resp::parse_integer(value).filter(|&age| age > 0);
                let age = age.ok_or(&b"ERR maxage is not an integer or out of range"[..])?;
                selection.age_s_min = Some(age as u64);
            }
            b"skipme" => match value.to_ascii_lowercase().as_slice() {
                b"yes" => selection.but = Some(cx.client()),
                b"no" => selection.but = None,
                _ => return Err(syntax_error()),
            },
            _ => return Err(syntax_error()),
        }
        at += 2;
    }
    selection.sort_ids();
    Ok(selection)
}
