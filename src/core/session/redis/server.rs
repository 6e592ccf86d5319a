//! HELLO, AUTH, INFO, CONFIG, COMMAND and the small commands of a connection.

use super::table::{self, COMMANDS, Spec, Verb};
use super::{REDIS_VERSION, RedisSession, RedisStep, ReplyMode};
use crate::command::{Answers, FilterKind, ShardId, counters_of};
use crate::context::Context;
use crate::counters::Counters;
use sapwood_wire::glob::Glob;
use sapwood_wire::resp::{self, Arguments, Version};
use sapwood_wire::topic;
use std::fmt::Write;

const DATABASES: i64 = 16;
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
            Verb::Flush => match (arguments.len(), word(1).to_ascii_lowercase().as_slice()) {
                (1, _) | (2, b"sync" | b"async") => self.simple(cx, "OK"),
                _ => self.error(cx, b"ERR syntax error"),
            },
            Verb::Dbsize => self.integer(cx, 0),
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
            other => unreachable!("{other:?} is carried out elsewhere"),
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

    /// The text of INFO, from the counters of all shards.
    pub(super) fn info(
        &self,
        sections: &[String],
        answers: Answers,
        cx: &mut Context<'_>,
    ) -> String {
        let shards = counters_of(answers);
        let mut total = Counters::default();
        shards.iter().for_each(|(_, counters)| total.add(counters));
        let all = ["all", "default", "everything"];
        let wants_all = sections.is_empty() || sections.iter().any(|name| all.contains(&&**name));
        let wants = |name: &str| wants_all || sections.iter().any(|section| section == name);
        let mut text = String::new();
        let uptime_s = cx
            .now()
            .wall_ms
            .saturating_sub(cx.settings().started_wall_ms)
            / 1000;
        // Writing to a String cannot fail.
        if wants("server") {
            let _ = write!(
                text,
                "# Server\r\nredis_version:{REDIS_VERSION}\r\nsapwood_version:{}\r\nredis_mode:standalone\r\nos:Linux\r\narch_bits:64\r\nmultiplexing_api:io_uring\r\nprocess_id:{}\r\nrun_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:{uptime_s}\r\nuptime_in_days:{}\r\n\r\n",
                env!("CARGO_PKG_VERSION"),
                cx.settings().process_id,
                cx.settings().run_id,
                cx.identity().local.port(),
                uptime_s / 86_400,
            );
        }
        if wants("clients") {
            let _ = write!(
                text,
                "# Clients\r\nconnected_clients:{}\r\nmaxclients:{}\r\n\r\n",
                total.connections,
                cx.settings().limits.connections_max * usize::from(cx.settings().shards),
            );
        }
        if wants("persistence") {
            text.push_str("# Persistence\r\nloading:0\r\n\r\n");
        }
        if wants("stats") {
            let count = |kind| cx.filters(kind);
            let _ = write!(
                text,
                "# Stats\r\ntotal_connections_received:{}\r\ntotal_commands_processed:{}\r\ntotal_net_input_bytes:{}\r\ntotal_net_output_bytes:{}\r\nrejected_connections:{}\r\ntotal_error_replies:{}\r\npubsub_channels:{}\r\npubsub_patterns:{}\r\npubsubshard_channels:{}\r\n\r\n",
                total.connections_accepted,
                total.commands,
                total.bytes_in,
                total.bytes_out,
                total.connections_refused,
                total.errors,
                count(FilterKind::Topic),
                cx.active_globs(),
                count(FilterKind::ShardChannel),
            );
        }
        if wants("replication") {
            text.push_str("# Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n");
        }
        if wants("sapwood") {
            write_counters(&mut text, &total, &shards);
        }
        text
    }

    fn config_get(&self, arguments: Arguments<'_>, cx: &mut Context<'_>) {
        let limits = &cx.settings().limits;
        let values = [
            ("appendonly", "no".to_string()),
            ("databases", DATABASES.to_string()),
            (
                "maxclients",
                (limits.connections_max * usize::from(cx.settings().shards)).to_string(),
            ),
            ("maxmemory", "0".to_string()),
            ("port", cx.identity().local.port().to_string()),
            (
                "proto-max-bulk-len",
                sapwood_wire::limits::PAYLOAD_BYTES_MAX.to_string(),
            ),
            ("save", String::new()),
            ("timeout", "0".to_string()),
        ];
        let mut found: Vec<(Vec<u8>, &str)> = Vec::new();
        for pattern in arguments
            .iter()
            .skip(2)
            .filter(|name| topic::check_name(name).is_ok())
        {
            let lower = pattern.to_ascii_lowercase();
            let glob = Glob::new(&lower);
            for (name, value) in &values {
                let is_exact = lower == name.as_bytes();
                if !is_exact && !glob.matches_text(name.as_bytes()) {
                    continue;
                }
                // The reply repeats the key as it was asked for.
                let key = if is_exact { pattern } else { name.as_bytes() };
                if !found
                    .iter()
                    .any(|(other, _)| other.eq_ignore_ascii_case(key))
                {
                    found.push((key.to_vec(), value));
                }
            }
        }
        let version = self.version;
        self.write(cx, |out| {
            resp::map(out, version, found.len());
            for (name, value) in &found {
                resp::bulk(out, name);
                resp::bulk(out, value.as_bytes());
            }
        });
    }

    fn config_set(&self, arguments: Arguments<'_>, cx: &mut Context<'_>) {
        let name = super::shown(arguments.get(2).unwrap_or_default(), 128);
        let known: [&[u8]; 8] = [
            b"appendonly",
            b"databases",
            b"maxclients",
            b"maxmemory",
            b"port",
            b"proto-max-bulk-len",
            b"save",
            b"timeout",
        ];
        let text = if known.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            [
                b"ERR CONFIG SET failed (possibly related to argument '",
                name,
                b"') - can't set immutable config; set it when the broker starts, see sapwood serve --help",
            ]
            .concat()
        } else {
            [
                b"ERR Unknown option or number of arguments for CONFIG SET - '",
                name,
                b"'",
            ]
            .concat()
        };
        self.error(cx, &text);
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
                    None => match version {
                        Version::Two => out.extend_from_slice(b"*-1\r\n"),
                        Version::Three => resp::null(out, version),
                    },
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

fn write_counters(text: &mut String, total: &Counters, shards: &[(ShardId, Counters)]) {
    let _ = write!(text, "# Sapwood\r\nshards:{}\r\n", shards.len());
    for (name, value) in total.entries() {
        // Every shard reports filters and shared payloads of the whole node, so a sum would be wrong.
        let value = match name {
            "filters" | "shared_body_bytes" => {
                let each = shards.iter().map(|(_, counters)| {
                    if name == "filters" {
                        counters.filters
                    } else {
                        counters.shared_body_bytes
                    }
                });
                each.max().unwrap_or(0)
            }
            _ => value,
        };
        let _ = write!(text, "{name}:{value}\r\n");
    }
    for (shard, counters) in shards {
        let entries = counters.entries();
        let line: Vec<String> = entries
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let _ = write!(text, "shard{}:{}\r\n", shard.0, line.join(","));
    }
    text.push_str("\r\n");
}

fn top_commands() -> impl Iterator<Item = &'static Spec> {
    COMMANDS.iter().filter(|spec| spec.is_top())
}

fn subcommands(group: &Spec) -> impl Iterator<Item = &'static Spec> {
    let name = group.name;
    COMMANDS.iter().filter(move |spec| {
        spec.name
            .split_once('|')
            .is_some_and(|(container, _)| container == name)
    })
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
