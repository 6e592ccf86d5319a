//! Answers to what clients and tools ask of any server: subcommands, cluster mode, scripts, functions, modules, keys,
//! slow commands, users.
//!
//! The broker has none of these but its one user, and says so in the words of redis-server. Start at
//! [`RedisSession::answer_probe`].

use super::table::{self, Spec, Verb};
use super::{RedisSession, unknown_command};
use crate::context::Context;
use sapwood_wire::resp::{self, Arguments};

const NO_CLUSTER: &[u8] = b"ERR This instance has cluster support disabled";
const NOT_BUSY: &[u8] = b"NOTBUSY No scripts in execution right now.";
const SYNTAX_ERROR: &[u8] = b"ERR syntax error";

/// Commands that run scripts and functions.
const SCRIPTED: [&[u8]; 6] = [
    b"eval",
    b"eval_ro",
    b"evalsha",
    b"evalsha_ro",
    b"fcall",
    b"fcall_ro",
];

/// CLIENT TRACKING: nothing is kept that could change, so a client that asks to be told of changes never is. Its mode
/// decides what CLIENT CACHING answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tracking {
    #[default]
    Off,
    On,
    OptIn,
    OptOut,
    Broadcast,
}

impl RedisSession {
    pub(super) fn answer_probe(
        &mut self,
        verb: Verb,
        arguments: Arguments<'_>,
        cx: &mut Context<'_>,
    ) {
        let word = |index: usize| arguments.get(index).unwrap_or_default();
        let version = self.version;
        match verb {
            Verb::Help => self.help(word(0), cx),
            Verb::Cluster => self.error(cx, NO_CLUSTER),
            Verb::Flush => match is_flush(arguments, 1) {
                true => self.simple(cx, "OK"),
                false => self.error(cx, SYNTAX_ERROR),
            },
            Verb::FlushScripts => match is_flush(arguments, 2) {
                true => self.simple(cx, "OK"),
                false => {
                    let group = String::from_utf8_lossy(word(0)).to_uppercase();
                    let text = format!("ERR {group} FLUSH only supports SYNC|ASYNC option");
                    self.error(cx, text.as_bytes());
                }
            },
            Verb::Nothing => self.simple(cx, "OK"),
            Verb::NotBusy => self.error(cx, NOT_BUSY),
            Verb::NoneListed => self.write(cx, |out| resp::array(out, 0)),
            Verb::NoneMapped => self.write(cx, |out| resp::map(out, version, 0)),
            Verb::NoValue => self.write(cx, |out| resp::null(out, version)),
            Verb::Zero => self.integer(cx, 0),
            Verb::ScriptExists => self.write(cx, |out| {
                resp::array(out, arguments.len() - 2);
                (2..arguments.len()).for_each(|_| resp::integer(out, 0));
            }),
            Verb::SlowlogGet => {
                let count = arguments.get(2).map(resp::parse_integer);
                match count.is_none_or(|count| count.is_some_and(|count| count >= -1)) {
                    true => self.write(cx, |out| resp::array(out, 0)),
                    false => {
                        self.error(cx, b"ERR count should be greater than or equal to -1");
                    }
                }
            }
            Verb::Scan => self.scan(arguments, cx),
            Verb::AclWhoami => {
                let user = cx.settings().user();
                self.write(cx, |out| resp::bulk(out, user));
            }
            Verb::AclUsers => {
                let user = cx.settings().user();
                self.write(cx, |out| {
                    resp::array(out, 1);
                    resp::bulk(out, user);
                });
            }
            other => unreachable!("{other:?} is carried out elsewhere"),
        }
    }

    /// Lists the subcommands of a group.
    fn help(&self, group: &[u8], cx: &mut Context<'_>) {
        // invariant: the table has the group of each subcommand.
        let group = table::find(group).expect("a group");
        let title = group.name.to_uppercase();
        self.write(cx, |out| {
            resp::array(out, 1 + 2 * table::subcommands(group).count());
            let text = format!("{title} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
            resp::simple(out, &text);
            for spec in table::subcommands(group) {
                resp::simple(out, &usage(spec));
                resp::simple(out, &format!("    {}", spec.summary));
            }
        });
    }

    fn scan(&self, arguments: Arguments<'_>, cx: &mut Context<'_>) {
        let word = |index: usize| arguments.get(index).unwrap_or_default();
        let cursor = std::str::from_utf8(word(1)).ok();
        if cursor.is_none_or(|cursor| cursor.parse::<u64>().is_err()) {
            return self.error(cx, b"ERR invalid cursor");
        }
        for at in (2..arguments.len()).step_by(2) {
            let count = resp::parse_integer(word(at + 1));
            match (arguments.get(at + 1), &*word(at).to_ascii_lowercase()) {
                (Some(_), b"match" | b"type") => {}
                (Some(_), b"count") if count.is_some_and(|count| count > 0) => {}
                (Some(_), b"count") if count.is_none() => {
                    return self.error(cx, b"ERR value is not an integer or out of range");
                }
                _ => return self.error(cx, SYNTAX_ERROR),
            }
        }
        self.write(cx, |out| {
            resp::array(out, 2);
            resp::bulk(out, b"0");
            resp::array(out, 0);
        });
    }

    pub(super) fn track(&mut self, arguments: Arguments<'_>, cx: &mut Context<'_>) {
        match tracking_asked(arguments, self.tracking) {
            Ok(tracking) => {
                self.tracking = tracking;
                self.simple(cx, "OK");
            }
            Err(text) => self.error(cx, text),
        }
    }

    pub(super) fn cache(&self, answer: &[u8], cx: &mut Context<'_>) {
        let text: &[u8] = match (&*answer.to_ascii_lowercase(), self.tracking) {
            (_, Tracking::Off) => {
                b"ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled"
            }
            (b"yes", Tracking::OptIn) | (b"no", Tracking::OptOut) => return self.simple(cx, "OK"),
            (b"yes", _) => {
                b"ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."
            }
            (b"no", _) => {
                b"ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."
            }
            _ => SYNTAX_ERROR,
        };
        self.error(cx, text);
    }
}

/// The error for a command that is not in the table.
pub(super) fn refusal(name: &[u8], arguments: Arguments<'_>) -> Vec<u8> {
    match SCRIPTED.contains(&&*name.to_ascii_lowercase()) {
        true => [
            b"ERR unknown command '",
            name,
            b"': this server runs no scripts; a script that publishes is replaced by PUBLISH, several at once by MULTI and EXEC",
        ]
        .concat(),
        false => unknown_command(name, arguments),
    }
}

/// Whether what follows the first words is nothing or how to flush.
fn is_flush(arguments: Arguments<'_>, words: usize) -> bool {
    let how = arguments.get(words).map(<[u8]>::to_ascii_lowercase);
    let is_known = matches!(how.as_deref(), None | Some(b"sync" | b"async"));
    is_known && arguments.len() <= words + 1
}

/// A subcommand and its arguments.
fn usage(spec: &Spec) -> String {
    let name = spec.name.split('|').next_back().unwrap_or_default();
    let usage = format!("{} {}", name.to_uppercase(), spec.usage);
    usage.trim_end().to_string()
}

/// What CLIENT TRACKING asks for, checked in redis-server's order.
fn tracking_asked(arguments: Arguments<'_>, now: Tracking) -> Result<Tracking, &'static [u8]> {
    let (mut opt_in, mut opt_out, mut broadcast, mut has_prefix) = (false, false, false, false);
    let mut at = 3;
    while let Some(option) = arguments.get(at) {
        match (&*option.to_ascii_lowercase(), arguments.get(at + 1)) {
            (b"optin", _) => opt_in = true,
            (b"optout", _) => opt_out = true,
            (b"bcast", _) => broadcast = true,
            (b"noloop", _) => {}
            (b"prefix", Some(_)) => {
                has_prefix = true;
                at += 1;
            }
            // Nobody is told of anything, so it does not matter who.
            (b"redirect", Some(client)) if resp::parse_integer(client).is_some() => at += 1,
            (b"redirect", Some(_)) => {
                return Err(b"ERR value is not an integer or out of range");
            }
            _ => return Err(SYNTAX_ERROR),
        }
        at += 1;
    }
    let is_on = match &*arguments.get(2).unwrap_or_default().to_ascii_lowercase() {
        b"on" => true,
        b"off" => false,
        _ => return Err(SYNTAX_ERROR),
    };
    let switches = now != Tracking::Off && (now == Tracking::Broadcast) != broadcast;
    let swaps = now == Tracking::OptIn && opt_out || now == Tracking::OptOut && opt_in;
    match (opt_in, opt_out) {
        _ if !is_on => Ok(Tracking::Off),
        _ if has_prefix && !broadcast => Err(b"ERR PREFIX option requires BCAST mode to be enabled"),
        _ if switches => Err(b"ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode."),
        (true, _) | (_, true) if broadcast => {
            Err(b"ERR OPTIN and OPTOUT are not compatible with BCAST")
        }
        (true, true) => Err(b"ERR You can't specify both OPTIN mode and OPTOUT mode"),
        _ if swaps => Err(b"ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode."),
        _ if broadcast => Ok(Tracking::Broadcast),
        (true, false) => Ok(Tracking::OptIn),
        (false, true) => Ok(Tracking::OptOut),
        (false, false) => Ok(Tracking::On),
    }
}
