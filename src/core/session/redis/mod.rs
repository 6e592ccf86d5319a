//! The Redis protocol: requests to commands of the broker, and replies with the texts of redis-server.
//!
//! Owns the protocol's state of a connection: its protocol version, name, transaction, pending calls, and whether
//! replies are wanted. Order of checks and texts of errors are those of redis-server 7.0.15, which the differential
//! test compares with. Start at [`RedisSession::handle`].

mod calls;
mod client;
mod info;
mod probes;
mod pubsub;
mod server;
mod table;
mod transaction;

use crate::command::{CloseReason, ConnId, Form};
use crate::context::{Context, SessionStep, Then};
use crate::limits::GUEST_OUTBOX_BYTES_MAX;
use crate::outbox::Outboxes;
use crate::session::pending::PendingCalls;
use crate::settings::Settings;
use calls::PendingCall;
use probes::Tracking;
use sapwood_wire::limits::PAYLOAD_BYTES_MAX;
use sapwood_wire::resp::{self, Arguments, Parser, Progress, RequestLimits, Version};
use sapwood_wire::run::Head;
use table::{Spec, Verb};
use transaction::Transaction;

/// Version of Redis whose commands the broker speaks, for clients that choose by version.
pub(crate) const REDIS_VERSION: &str = "7.2.0";

/// Whether replies are written (CLIENT REPLY).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ReplyMode {
    #[default]
    On,
    Off,
    /// Not for the next command.
    SkipNext,
    /// Not for this command.
    SkipThis,
}

/// Result of a command.
#[derive(Debug)]
enum RedisStep {
    Done,
    /// Nothing was done: handle the command again when the connection is resumed.
    Hold,
    /// It was carried out; later commands wait until it is answered.
    Wait,
    /// It was carried out in part: handle it again in the next turn, after other connections.
    Yield,
    Close(CloseReason),
}

/// How far a request that names very many subscriptions has come.
#[derive(Clone, Copy, Debug, Default)]
struct RequestPart {
    /// Its length in bytes, unless it stands in a transaction.
    length: u32,
    /// The next name, or subscription; 0 if none is carried out in part.
    next: u32,
}

/// State of a Redis connection. Small: most connections are idle subscribers.
#[derive(Debug)]
pub(crate) struct RedisSession {
    version: Version,
    authenticated: bool,
    needs_auth: bool,
    no_evict: bool,
    tracking: Tracking,
    reply_mode: ReplyMode,
    database: u8,
    last_command: &'static str,
    name: Box<[u8]>,
    library: Option<Box<(Vec<u8>, Vec<u8>)>>,
    /// Parser of an unfinished request, or of one that is carried out in part.
    unfinished: Option<Box<Parser>>,
    /// Of a request that is carried out in part: its length in bytes, and how far it has come.
    part: RequestPart,
    transaction: Option<Box<Transaction>>,
    /// Unanswered calls, in their order.
    pending: PendingCalls<PendingCall>,
}

impl RedisSession {
    pub(crate) fn new(settings: &Settings) -> RedisSession {
        RedisSession {
            version: Version::Two,
            authenticated: settings.password.is_none(),
            needs_auth: false,
            no_evict: false,
            tracking: Tracking::Off,
            reply_mode: ReplyMode::On,
            database: 0,
            last_command: "NULL",
            name: Box::default(),
            library: None,
            unfinished: None,
            part: RequestPart::default(),
            transaction: None,
            pending: PendingCalls::default(),
        }
    }

    pub(crate) fn awaits_auth(&self) -> bool {
        !self.authenticated
    }

    pub(crate) fn take_needs_auth(&mut self) -> bool {
        std::mem::take(&mut self.needs_auth)
    }

    pub(crate) fn forget_unfinished(&mut self) {
        self.unfinished = None;
        self.part = RequestPart::default();
        self.transaction = None;
        self.pending = PendingCalls::default();
    }

    /// Writes why the connection is closed, where redis-server does.
    pub(crate) fn say_why(&self, reason: CloseReason, conn: ConnId, outboxes: &mut Outboxes) {
        if reason == CloseReason::TooManyConnections {
            outboxes.reply(conn, |out| {
                resp::error(out, b"ERR max number of clients reached");
            });
        }
    }

    /// Whether EXEC's array is written in part.
    pub(crate) fn is_replying(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| {
            transaction.is_executing() && (transaction.has_next() || !self.pending.is_empty())
        })
    }

    pub(crate) fn kept_bytes(&self) -> usize {
        let queued = self.transaction.as_ref();
        let queued = queued.map_or(0, |transaction| transaction.bytes());
        let unfinished = self.unfinished.as_ref();
        queued + unfinished.map_or(0, |parser| parser.kept_bytes())
    }

    /// Carries out the requests in `input`, as far as the connection may go on.
    pub(crate) fn handle(&mut self, input: &[u8], cx: &mut Context<'_>) -> SessionStep {
        let mut consumed = 0;
        loop {
            let guest_cap = (!self.authenticated).then_some(GUEST_OUTBOX_BYTES_MAX);
            if let Some(then) = cx.must_pause(guest_cap) {
                return SessionStep { consumed, then };
            }
            let step = if self
                .transaction
                .as_ref()
                .is_some_and(|queue| queue.is_executing())
            {
                self.continue_exec(cx)
            } else {
                let published = self.publish_runs(&input[consumed..], cx);
                if published > 0 {
                    consumed += published;
                    continue;
                }
                match self.next_request(&input[consumed..], cx) {
                    Ok((length, step)) => {
                        consumed += length;
                        step
                    }
                    Err(then) => return SessionStep { consumed, then },
                }
            };
            let then = match step {
                RedisStep::Done => continue,
                RedisStep::Hold | RedisStep::Wait => Then::Hold,
                // The other shards keep up with the changes: the next come when they know these.
                RedisStep::Yield if cx.waits_for_barrier() => Then::Hold,
                RedisStep::Yield => Then::Yield,
                RedisStep::Close(reason) => Then::Close(reason),
            };
            return SessionStep { consumed, then };
        }
    }

    /// Publishes the runs of PUBLISH at the start of the input and answers them; gives their bytes, 0 if the next
    /// request must be handled by itself.
    fn publish_runs(&mut self, input: &[u8], cx: &mut Context<'_>) -> usize {
        let is_plain = self.authenticated
            && self.unfinished.is_none()
            && self.transaction.is_none()
            && self.reply_mode == ReplyMode::On
            // A publisher that has subscriptions gets its own events and replies in order, so no runs.
            && !cx.listens()
            && !cx.has_calls();
        let mut consumed = 0;
        // Equal replies that are not written yet; nothing else is written between them.
        let (mut answer, mut times) = (0, 0);
        while is_plain
            && let Some(head) = Head::of_resp(&input[consumed..])
            && let Some(run) = cx.publish_run(&head, &input[consumed..], PAYLOAD_BYTES_MAX)
        {
            if run.subscriptions != answer {
                self.answer_runs(answer, times, cx);
                (answer, times) = (run.subscriptions, 0);
            }
            times += run.volume.events as usize;
            consumed += run.bytes;
            if cx.is_check_due(&run, consumed) {
                break;
            }
        }
        if times > 0 {
            self.last_command = "publish";
            self.answer_runs(answer, times, cx);
        }
        consumed
    }

    fn answer_runs(&self, answer: u64, times: usize, cx: &mut Context<'_>) {
        if times > 0 {
            cx.reply_repeated(times, |out| {
                resp::integer(out, answer as i64);
            });
        }
    }

    /// Parses one request and carries it out; gives the bytes it consumed and its result.
    fn next_request(
        &mut self,
        input: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(usize, RedisStep), Then> {
        if input.is_empty() {
            return Err(Then::Read { needed: 1 });
        }
        let limits = if self.authenticated {
            RequestLimits::MEMBER
        } else {
            RequestLimits::GUEST
        };
        let mut parser = match self.unfinished.take() {
            Some(parser) => *parser,
            None => std::mem::take(&mut cx.scratch().resp),
        };
        let progress = match self.part.next {
            0 => parser.parse(input, &limits),
            _ => Ok(Progress::Request {
                length: self.part.length as usize,
            }),
        };
        let result = match progress {
            Ok(Progress::Request { length }) => {
                let step = self.request(parser.arguments(input), cx);
                match step {
                    RedisStep::Yield => {
                        self.part.length = length as u32;
                        self.unfinished = Some(Box::new(parser));
                        return Ok((0, step));
                    }
                    RedisStep::Hold => Ok((0, step)),
                    step => Ok((length, step)),
                }
            }
            Ok(Progress::Incomplete { needed }) => {
                self.unfinished = Some(Box::new(parser));
                return Err(Then::Read { needed });
            }
            // The error is found again once the earlier calls are answered.
            Err(_) if cx.must_wait_for_calls() => Err(Then::Hold),
            Err(error) => {
                cx.counters().errors += 1;
                self.write(cx, |out| resp::error(out, &error.reply()));
                Err(Then::Close(CloseReason::Protocol))
            }
        };
        parser.reset();
        cx.scratch().resp = parser;
        result
    }

    /// Checks a request in redis-server's order, then carries it out, queues it or refuses it.
    fn request(&mut self, arguments: Arguments<'_>, cx: &mut Context<'_>) -> RedisStep {
        if self.reply_mode == ReplyMode::SkipNext {
            self.reply_mode = ReplyMode::SkipThis;
        }
        let step = match arguments.get(0) {
            None => RedisStep::Done,
            Some(name) if is_of_http(name) && cx.must_wait_for_calls() => RedisStep::Hold,
            Some(name) if is_of_http(name) => {
                // A web page can make a browser send these lines, with commands after them.
                return RedisStep::Close(CloseReason::Protocol);
            }
            Some(name) => match self.admit(name, arguments, cx) {
                // Effects that others can see keep the order of the requests.
                Ok(spec) if !calls::is_call(spec.verb) && cx.must_wait_for_calls() => {
                    RedisStep::Hold
                }
                Ok(spec) if self.is_queued(spec.verb) => {
                    self.queue(spec, arguments, cx);
                    RedisStep::Done
                }
                Ok(spec) => self.execute(spec, arguments, cx),
                Err(()) => RedisStep::Done,
            },
        };
        match (&step, self.reply_mode) {
            // The command is tried again, and must still be skipped then.
            (RedisStep::Hold | RedisStep::Yield, ReplyMode::SkipThis) => {
                self.reply_mode = ReplyMode::SkipNext
            }
            (_, ReplyMode::SkipThis) => self.reply_mode = ReplyMode::On,
            _ => {}
        }
        step
    }

    /// Finds the command, and refuses one that may not be carried out now.
    fn admit(
        &mut self,
        name: &[u8],
        arguments: Arguments<'_>,
        cx: &mut Context<'_>,
    ) -> Result<&'static Spec, ()> {
        let Some(mut spec) = table::find(name) else {
            self.reject(None, probes::refusal(name, arguments), cx);
            return Err(());
        };
        if spec.verb == Verb::Quit {
            return Ok(spec);
        }
        let has_subcommands = matches!(spec.verb, Verb::Container | Verb::Command);
        if has_subcommands && let Some(word) = arguments.get(1) {
            match table::find_subcommand(spec, word) {
                Some(found) => spec = found,
                None => {
                    let text = unknown_subcommand(spec.name, word);
                    self.reject(None, text, cx);
                    return Err(());
                }
            }
        }
        if !spec.takes(arguments.len()) {
            let text = format!("ERR wrong number of arguments for '{}' command", spec.name);
            self.reject(Some(spec.verb), text.into_bytes(), cx);
            return Err(());
        }
        if !self.authenticated && !spec.flags.contains("no_auth") {
            self.reject(
                Some(spec.verb),
                b"NOAUTH Authentication required.".to_vec(),
                cx,
            );
            return Err(());
        }
        if self.version == Version::Two && cx.listens() && !allowed_to_subscriber(spec.verb) {
            let text = format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
                spec.name
            );
            self.reject(Some(spec.verb), text.into_bytes(), cx);
            return Err(());
        }
        Ok(spec)
    }

    /// Replies an error for a command that was not carried out; an open transaction is marked as failed.
    fn reject(&mut self, verb: Option<Verb>, text: Vec<u8>, cx: &mut Context<'_>) {
        if verb == Some(Verb::Exec) {
            self.transaction = None;
            let text = text.strip_prefix(b"ERR ").unwrap_or(&text);
            let whole = [b"EXECABORT Transaction discarded because of: ", text].concat();
            self.error(cx, &whole);
            return;
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.fail();
        }
        self.error(cx, &text);
    }

    fn execute(
        &mut self,
        spec: &Spec,
        arguments: Arguments<'_>,
        cx: &mut Context<'_>,
    ) -> RedisStep {
        self.last_command = spec.name;
        let step = self.carry_out(spec.verb, arguments, cx);
        if !matches!(step, RedisStep::Hold | RedisStep::Yield) {
            cx.counters().commands += 1;
        }
        step
    }

    fn carry_out(
        &mut self,
        verb: Verb,
        arguments: Arguments<'_>,
        cx: &mut Context<'_>,
    ) -> RedisStep {
        match verb {
            Verb::Publish | Verb::Spublish => return self.publish(verb, arguments, cx),
            Verb::Subscribe | Verb::Psubscribe | Verb::Ssubscribe => {
                return self.subscribe(verb, arguments, cx);
            }
            Verb::Unsubscribe | Verb::Punsubscribe | Verb::Sunsubscribe => {
                return self.unsubscribe(verb, arguments, cx);
            }
            Verb::PubsubChannels
            | Verb::PubsubNumpat
            | Verb::PubsubNumsub
            | Verb::PubsubShardchannels
            | Verb::PubsubShardnumsub => return self.pubsub(verb, arguments, cx),
            Verb::ClientCaching
            | Verb::ClientGetname
            | Verb::ClientId
            | Verb::ClientInfo
            | Verb::ClientKill
            | Verb::ClientList
            | Verb::ClientNoEvict
            | Verb::ClientNoTouch
            | Verb::ClientReply
            | Verb::ClientSetinfo
            | Verb::ClientSetname
            | Verb::ClientTracking => return self.client(verb, arguments, cx),
            Verb::Multi => self.multi(cx),
            Verb::Exec => self.begin_exec(cx),
            Verb::Discard => self.discard(cx),
            Verb::Watch => self.watch(cx),
            Verb::Quit => {
                self.simple(cx, "OK");
                return RedisStep::Close(CloseReason::Quit);
            }
            _ => return self.serve(verb, arguments, cx),
        }
        RedisStep::Done
    }

    fn form(&self) -> Form {
        match self.version {
            Version::Two => Form::Resp2,
            Version::Three => Form::Resp3,
        }
    }

    fn set_version(&mut self, version: Version, cx: &mut Context<'_>) {
        if version == self.version {
            return;
        }
        self.version = version;
        cx.change_form(self.form());
    }

    /// Appends a reply, if the client wants it.
    fn write(&self, cx: &mut Context<'_>, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.is_reply_wanted() {
            cx.reply(encode);
        }
    }

    fn is_reply_wanted(&self) -> bool {
        !matches!(self.reply_mode, ReplyMode::Off | ReplyMode::SkipThis)
    }

    fn simple(&self, cx: &mut Context<'_>, text: &str) {
        self.write(cx, |out| resp::simple(out, text));
    }

    fn integer(&self, cx: &mut Context<'_>, number: i64) {
        self.write(cx, |out| resp::integer(out, number));
    }

    fn error(&self, cx: &mut Context<'_>, text: &[u8]) {
        cx.counters().errors += 1;
        self.write(cx, |out| resp::error(out, text));
    }
}

/// Whether a request is a line of HTTP, which comes here only by mistake or as an attack.
fn is_of_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

fn allowed_to_subscriber(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Subscribe
            | Verb::Psubscribe
            | Verb::Ssubscribe
            | Verb::Unsubscribe
            | Verb::Punsubscribe
            | Verb::Sunsubscribe
            | Verb::Ping
            | Verb::Quit
            | Verb::Reset
    )
}

/// Bytes as redis-server puts them into an error: up to the first NUL, and at most `most`.
fn shown(bytes: &[u8], most: usize) -> &[u8] {
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    &bytes[..end.min(most)]
}

fn unknown_command(name: &[u8], arguments: Arguments<'_>) -> Vec<u8> {
    let mut listed = Vec::new();
    for argument in arguments.iter().skip(1) {
        if listed.len() >= 128 {
            break;
        }
        let most = 128 - listed.len();
        listed.push(b'\'');
        listed.extend_from_slice(shown(argument, most));
        listed.extend_from_slice(b"' ");
    }
    let name = shown(name, 128);
    [
        b"ERR unknown command '",
        name,
        b"', with args beginning with: ",
        &listed,
    ]
    .concat()
}

fn unknown_subcommand(group: &str, word: &[u8]) -> Vec<u8> {
    let group = group.to_uppercase();
    let word = shown(word, 128);
    [
        b"ERR unknown subcommand '",
        word,
        b"'. Try ",
        group.as_bytes(),
        b" HELP.",
    ]
    .concat()
}
