//! HELLO, AUTH, COMMAND and the small commands of a connection.

use super::info::DATABASES;
use super::probes::Tracking;
use super::table::{self, COMMANDS, Spec, Verb, subcommands};
use super::{REDIS_VERSION, RedisSession, RedisStep, ReplyMode};
use crate::context::Context;
use sapwood_wire::resp::{self, Arguments, Version};

/// Most names in COMMAND INFO and DOCS: each is answered with up to a kilobyte.
const COMMAND_NAMES_MAX: usize = 2 * COMMANDS.len();
const TOO_MANY_NAMES: &[u8] = b"ERR more names than there are commands, ask without names for all";
const WRONG_PASSWORD: &[u8] = b"WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD: &[u8] = b"ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?";
const HELLO_NEEDS_AUTH: &[u8] = b"NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";

/// Whether HELLO may bring a password.
fn has_proof(arguments: Arguments<'_>) -> bool {
    let mut words = arguments.iter().skip(2);
    words.any(|word| word.eq_ignore_ascii_case(b"auth"))
}

impl RedisSession {
    /// Carries out the commands that are about the connection or the server.
    pub(super) fn serve(
        &mut self,
        verb: Verb,
        arguments: Arguments<'_>,
        cx: &mut Context<'_>,
    ) -> RedisStep {
        let word = |index: usize| arguments.get(index).unwrap_or_default();
        match verb {
            Verb::Ping => self.ping(arguments, cx),
            Verb::Echo => self.write(cx, |out| resp::bulk(out, word(1))),
            Verb::Select => self.select(word(1), cx),
            Verb::Reset => self.reset(cx),
            Verb::Auth if cx.must_wait_to_prove() => return RedisStep::Hold,
            Verb::Auth => self.auth(arguments, cx),
            Verb::Hello if has_proof(arguments) && cx.must_wait_to_prove() => {
                return RedisStep::Hold;
            }
            Verb::Hello => self.hello(arguments, cx),
            Verb::Unwatch => self.simple(cx, "OK"),
            Verb::Time => {
                let (seconds, millis) = (cx.now().wall_ms / 1000, cx.now().wall_ms % 1000);
                self.write(cx, |out| {
                    resp::array(out, 2);
                    resp::bulk(out, seconds.to_string().as_bytes());
                    resp::bulk(out, (millis * 1000).to_string().as_bytes());
                });
            }
            Verb::Role => self.write(cx, |out| {
                resp::array(out, 3);
                resp::bulk(out, b"master");
                resp::integer(out, 0);
                resp::array(out, 0);
            }),
            Verb::Info => {
                let sections = arguments.iter().skip(1);
                let sections = sections.map(|name| String::from_utf8_lossy(name).to_lowercase());
                return self.ask_info(sections.collect(), cx);
            }
            Verb::ConfigGet => self.config_get(arguments, cx),
            Verb::ConfigSet => self.config_set(arguments, cx),
            Verb::Command | Verb::CommandInfo => self.command_info(arguments, cx),
            Verb::CommandCount => self.integer(cx, top_commands().count() as i64),
            Verb::CommandDocs => self.command_docs(arguments, cx),
            Verb::CommandList => self.write(cx, |out| {
                resp::array(out, top_commands().count());
                top_commands().for_each(|spec| resp::bulk(out, spec.name.as_bytes()));
            }),
            _ => self.answer_probe(verb, arguments, cx),
        }
        RedisStep::Done
    }

    fn ping(&self, arguments: Arguments<'_>, cx: &mut Context<'_>) {
        if arguments.len() > 2 {
            return self.error(cx, b"ERR wrong number of arguments for 'ping' command");
        }
        let said = arguments.get(1);
        if self.pings_as_subscriber(cx) {
            self.write(cx, |out| {
                resp::array(out, 2);
                resp::bulk(out, b"pong");
                resp::bulk(out, said.unwrap_or_default());
            });
            return;
        }
        match said {
            None => self.simple(cx, "PONG"),
            Some(said) => self.write(cx, |out| resp::bulk(out, said)),
        }
    }

    fn select(&mut self, number: &[u8], cx: &mut Context<'_>) {
        match resp::parse_integer(number) {
            Some(database @ 0..DATABASES) => {
                self.database = database as u8;
                self.simple(cx, "OK");
            }
            Some(database) if i32::try_from(database).is_ok() => {
                self.error(cx, b"ERR DB index is out of range");
            }
            _ => self.error(cx, b"ERR value is not an integer or out of range"),
        }
    }

    fn reset(&mut self, cx: &mut Context<'_>) {
        self.transaction = None;
        cx.unsubscribe_all();
        self.set_version(Version::Two, cx);
        self.name = Box::default();
        self.database = 0;
        self.no_evict = false;
        self.tracking = Tracking::Off;
        self.needs_auth |= self.authenticated && cx.settings().password.is_some();
        self.authenticated = cx.settings().password.is_none();
        if self.reply_mode == ReplyMode::Off {
            self.reply_mode = ReplyMode::On;
        }
        self.simple(cx, "RESET");
    }

    fn auth(&mut self, arguments: Arguments<'_>, cx: &mut Context<'_>) {
        let word = |index: usize| arguments.get(index).unwrap_or_default();
        let (user, password) = match arguments.len() {
            2 if cx.settings().password.is_none() => return self.error(cx, NO_PASSWORD),
            // As in Redis before it had users: the password is that of the only user.
            2 => (cx.settings().user(), word(1)),
            3 => (word(1), word(2)),
            _ => return self.error(cx, b"ERR syntax error"),
        };
        match self.check_password(user, password, cx) {
            true => self.simple(cx, "OK"),
            false => self.error(cx, WRONG_PASSWORD),
        }
    }

    fn check_password(&mut self, user: &[u8], password: &[u8], cx: &mut Context<'_>) -> bool {
        // The name is checked even if no password is wanted, as in redis-server.
        let settings = cx.settings();
        let is_right = settings.is_user(user) && settings.is_let_in(Some(user), Some(password));
        if is_right {
            self.authenticated = true;
        } else {
            cx.note_wrong_password();
        }
        is_right
    }

    fn hello(&mut self, arguments: Arguments<'_>, cx: &mut Context<'_>) {
        let mut version = self.version;
        if let Some(text) = arguments.get(1) {
            version = match resp::parse_integer(text) {
                Some(2) => Version::Two,
                Some(3) => Version::Three,
                Some(_) => return self.error(cx, b"NOPROTO unsupported protocol version"),
                None => {
                    let text = b"ERR Protocol version is not an integer or out of range";
                    return self.error(cx, text);
                }
            };
        }
        let mut at = 2;
        while let Some(option) = arguments.get(at) {
            let (first, second) = (arguments.get(at + 1), arguments.get(at + 2));
            match (option.to_ascii_lowercase().as_slice(), first, second) {
                (b"auth", Some(user), Some(password)) => {
                    if !self.check_password(user, password, cx) {
                        return self.error(cx, WRONG_PASSWORD);
                    }
                    at += 3;
                }
                (b"setname", Some(name), _) => {
                    if let Err(text) = self.set_name(name) {
                        return self.error(cx, &text);
                    }
                    at += 2;
                }
                _ => {
                    let shown = super::shown(option, usize::MAX);
                    let text = [b"ERR Syntax error in HELLO option '", shown, b"'"].concat();
                    return self.error(cx, &text);
                }
            }
        }
        if !self.authenticated {
            return self.error(cx, HELLO_NEEDS_AUTH);
        }
        self.set_version(version, cx);
        let client = cx.client().0 as i64;
        self.write(cx, |out| write_greeting(out, version, client));
    }

    fn command_info(&self, arguments: Arguments<'_>, cx: &mut Context<'_>) {
        if arguments.len() > COMMAND_NAMES_MAX {
            return self.error(cx, TOO_MANY_NAMES);
        }
        let version = self.version;
        self.write(cx, |out| {
            if arguments.len() <= 2 {
                resp::array(out, top_commands().count());
                top_commands().for_each(|spec| write_spec(out, version, spec));
                return;
            }
            resp::array(out, arguments.len() - 2);
            for name in arguments.iter().skip(2) {
                match find_by_full_name(name) {
                    Some(spec) => write_spec(out, version, spec),
                    None => resp::null(out, version),
                }
            }
        });
    }

    fn command_docs(&self, arguments: Arguments<'_>, cx: &mut Context<'_>) {
        if arguments.len() > COMMAND_NAMES_MAX {
            return self.error(cx, TOO_MANY_NAMES);
        }
        let version = self.version;
        let specs: Vec<&Spec> = match arguments.len() {
            ..=2 => top_commands().collect(),
            _ => arguments
                .iter()
                .skip(2)
                .filter_map(find_by_full_name)
                .collect(),
        };
        self.write(cx, |out| {
            resp::map(out, version, specs.len());
            for spec in specs {
                resp::bulk(out, spec.name.as_bytes());
                write_docs(out, version, spec);
            }
        });
    }
}

fn write_greeting(out: &mut Vec<u8>, version: Version, client: i64) {
    resp::map(out, version, 7);
    for (key, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        resp::bulk(out, key.as_bytes());
        resp::bulk(out, value.as_bytes());
    }
    resp::bulk(out, b"proto");
    resp::integer(out, if version == Version::Two { 2 } else { 3 });
    resp::bulk(out, b"id");
    resp::integer(out, client);
    for (key, value) in [("mode", "standalone"), ("role", "master")] {
        resp::bulk(out, key.as_bytes());
        resp::bulk(out, value.as_bytes());
    }
    resp::bulk(out, b"modules");
    resp::array(out, 0);
}

fn top_commands() -> impl Iterator<Item = &'static Spec> {
    COMMANDS.iter().filter(|spec| spec.is_top())
}

fn find_by_full_name(name: &[u8]) -> Option<&'static Spec> {
    match name.iter().position(|&byte| byte == b'|') {
        None => table::find(name),
        Some(bar) => table::find_subcommand(table::find(&name[..bar])?, &name[bar + 1..]),
    }
}

/// Writes one entry of COMMAND: ten fields, of which the last is the entries of its subcommands.
fn write_spec(out: &mut Vec<u8>, version: Version, spec: &Spec) {
    resp::array(out, 10);
    resp::bulk(out, spec.name.as_bytes());
    resp::integer(out, i64::from(spec.arity));
    let flags: Vec<&str> = spec.flags.split_whitespace().collect();
    resp::set(out, version, flags.len());
    flags.iter().for_each(|flag| resp::simple(out, flag));
    // First key, last key and step: no command of the broker has keys.
    (0..3).for_each(|_| resp::integer(out, 0));
    resp::set(out, version, 1);
    resp::simple(out, &format!("@{}", spec.group));
    // Tips and key specifications.
    resp::set(out, version, 0);
    resp::set(out, version, 0);
    resp::array(out, subcommands(spec).count());
    // Recursion ends at depth two: a subcommand has no subcommands.
    subcommands(spec).for_each(|subcommand| write_spec(out, version, subcommand));
}

fn write_docs(out: &mut Vec<u8>, version: Version, spec: &Spec) {
    let has_subcommands = subcommands(spec).next().is_some();
    resp::map(out, version, 3 + usize::from(has_subcommands));
    for (key, value) in [
        ("summary", spec.summary),
        ("since", "1.0.0"),
        ("group", spec.group),
    ] {
        resp::bulk(out, key.as_bytes());
        resp::bulk(out, value.as_bytes());
    }
    if has_subcommands {
        resp::bulk(out, b"subcommands");
        resp::map(out, version, subcommands(spec).count());
        for subcommand in subcommands(spec) {
            resp::bulk(out, subcommand.name.as_bytes());
            write_docs(out, version, subcommand);
        }
    }
}
