//! The NATS protocol: operations of clients to commands of the broker, with the texts of nats-server.
//!
//! Owns the protocol's state of a connection: what CONNECT said, and how many PINGs are unanswered. Order of checks and
//! texts of errors are those of nats-server 2.9.10, which the differential test compares with. Start at
//! [`NatsSession::handle`].

use crate::command::{
    ClientRecord, CloseReason, ConnId, Event, Filter, FilterKind, Refusal, Space,
};
use crate::context::{Context, SessionStep, Then};
use crate::delivery::PublishedRun;
use crate::limits::{
    GUEST_OUTBOX_BYTES_MAX, NATS_HEADERS_BYTES_MAX, NATS_PINGS_OUT_MAX, NATS_QUEUE_BYTES_MAX,
    NATS_SID_BYTES_MAX,
};
use crate::outbox::Outboxes;
use crate::settings::{Identity, Settings, is_equal};
use sapwood_wire::limits::TOPIC_BYTES_MAX;
use sapwood_wire::native::{self, flag};
use sapwood_wire::nats::{self, Caps, Connect, Info, Operation, Parsed, Publish};
use sapwood_wire::run::Head;
use sapwood_wire::topic;

/// Version of nats-server whose protocol the broker speaks, for clients that choose by version.
const NATS_VERSION: &str = "2.9.10";

/// Name of the broker in INFO.
const BROKER: &str = concat!("sapwood-", env!("CARGO_PKG_VERSION"));

/// The no-responders message of request/reply, from after the subscription's name on.
const NO_RESPONDERS: &[u8] = b" 16 16\r\nNATS/1.0 503\r\n\r\n\r\n";

const AUTHORIZATION: &str = "Authorization Violation";

/// State of a NATS connection. Small: most connections are idle subscribers.
#[derive(Debug)]
pub(crate) struct NatsSession {
    authenticated: bool,
    verbose: bool,
    pedantic: bool,
    echo: bool,
    headers: bool,
    no_responders: bool,
    /// The client accepts INFO at any time.
    takes_info: bool,
    /// PINGs that the client has not answered.
    pings_out: u8,
    /// Version of the addresses of other nodes that it was told.
    urls_told: u64,
    last_operation: &'static str,
    client: Option<Box<Client>>,
}

/// How the client describes itself in CONNECT.
#[derive(Debug)]
struct Client {
    name: String,
    lang: String,
    version: String,
}

/// Result of an operation.
enum NatsStep {
    Done,
    /// Nothing was done: handle the operation again when the connection is resumed.
    Hold,
    Close(CloseReason),
}

impl NatsSession {
    pub(crate) fn new(settings: &Settings) -> NatsSession {
        NatsSession {
            authenticated: settings.password.is_none(),
            // Defaults of nats-server for what CONNECT does not say.
            verbose: true,
            pedantic: true,
            echo: true,
            headers: false,
            no_responders: false,
            takes_info: false,
            pings_out: 0,
            urls_told: 0,
            last_operation: "none",
            client: None,
        }
    }

    pub(crate) fn awaits_auth(&self) -> bool {
        !self.authenticated
    }

    pub(crate) fn describe(&self, record: &mut ClientRecord) {
        if let Some(client) = &self.client {
            record.name = client.name.as_bytes().to_vec();
            record.library = (
                client.lang.as_bytes().into(),
                client.version.as_bytes().into(),
            );
        }
        record.command = self.last_operation;
    }

    /// Writes INFO, which opens the connection, before the client sends CONNECT.
    pub(crate) fn greet(
        &mut self,
        settings: &Settings,
        identity: Identity,
        conn: ConnId,
        outboxes: &mut Outboxes,
    ) {
        self.urls_told = settings.connect_urls.version;
        write_info(settings, identity, false, conn, outboxes);
    }

    /// Tells the client the addresses of other nodes, if it takes such news and does not know them yet.
    pub(crate) fn tell_urls(
        &mut self,
        settings: &Settings,
        identity: Identity,
        conn: ConnId,
        outboxes: &mut Outboxes,
    ) {
        if self.misses_urls(settings) {
            write_info(settings, identity, settings.is_ending, conn, outboxes);
        }
    }

    /// Whether the client takes news and is to be told addresses of other nodes; it counts as told.
    fn misses_urls(&mut self, settings: &Settings) -> bool {
        let version = settings.connect_urls.version;
        let misses = self.takes_info && self.authenticated && self.urls_told != version;
        if misses {
            self.urls_told = version;
        }
        misses
    }

    /// Carries out the operations in `input`, as far as the connection may go on.
    pub(crate) fn handle(&mut self, input: &[u8], cx: &mut Context<'_>) -> SessionStep {
        let mut consumed = 0;
        let then = loop {
            let guest_cap = self.awaits_auth().then_some(GUEST_OUTBOX_BYTES_MAX);
            if let Some(then) = cx.must_pause(guest_cap) {
                break then;
            }
            let publish = |rest: &[u8], cx: &mut Context<'_>| self.publish_run(rest, cx);
            let (published, is_due) = cx.publish_runs(&input[consumed..], publish);
            consumed += published;
            if is_due {
                continue;
            }
            let rest = &input[consumed..];
            if self.awaits_auth() && rest.first().is_some_and(|first| !b"Cc".contains(first)) {
                break refuse(cx, AUTHORIZATION);
            }
            let caps = Caps {
                line: cx.settings().limits.control_line_bytes_max,
                body: cx.settings().nats_payload_max,
            };
            let (operation, length) = match nats::parse(rest, caps) {
                Ok(Parsed::Operation { operation, length }) => (operation, length),
                Ok(Parsed::Incomplete { needed }) => break Then::Read { needed },
                Err(violation) => break refuse(cx, violation.text()),
            };
            match self.operation(operation, cx) {
                NatsStep::Done => {
                    cx.counters().commands += 1;
                    consumed += length;
                }
                NatsStep::Hold => break Then::Hold,
                NatsStep::Close(reason) => {
                    consumed += length;
                    break Then::Close(reason);
                }
            }
        };
        SessionStep { consumed, then }
    }

    /// Publishes the run at the start of the input; `None` if the next message must be handled by itself.
    fn publish_run(&mut self, input: &[u8], cx: &mut Context<'_>) -> Option<PublishedRun> {
        if !self.authenticated || self.verbose {
            return None;
        }
        // A client without echo must not get its own events, which a run would give to all subscribers.
        if !self.echo && cx.listens() {
            return None;
        }
        let head = Head::of_nats(input, TOPIC_BYTES_MAX)?;
        let is_sound = !self.pedantic || nats::is_literal_subject(head.topic);
        let published = is_sound.then(|| {
            let payload_max = cx.settings().nats_payload_max;
            cx.publish_run(&head, input, payload_max)
        })??;
        self.last_operation = "pub";
        Some(published)
    }

    fn operation(&mut self, operation: Operation<'_>, cx: &mut Context<'_>) -> NatsStep {
        let (name, step) = match operation {
            Operation::Publish(publish) => ("pub", self.publish(&publish, cx)),
            Operation::Subscribe {
                subject,
                queue,
                sid,
            } => ("sub", self.subscribe(subject, queue, sid, cx)),
            Operation::Unsubscribe { sid, after } => ("unsub", self.unsubscribe(sid, after, cx)),
            Operation::Connect(json) => ("connect", self.connect(json, cx)),
            Operation::Ping => {
                cx.reply(|out| out.extend_from_slice(b"PONG\r\n"));
                // What changed while it connected: not sooner, because libraries wait for this first PONG alone.
                let (settings, identity) = (cx.settings(), cx.identity());
                if self.misses_urls(settings) {
                    cx.reply(|out| encode_info(settings, identity, settings.is_ending, out));
                }
                ("ping", NatsStep::Done)
            }
            Operation::Pong => {
                self.pings_out = 0;
                ("pong", NatsStep::Done)
            }
            Operation::Ignored => (self.last_operation, NatsStep::Done),
        };
        self.last_operation = name;
        step
    }

    fn connect(&mut self, json: &[u8], cx: &mut Context<'_>) -> NatsStep {
        let mut connect = self.said();
        if let Err(violation) = connect.update(json) {
            return close_with(cx, violation.text());
        }
        // A client that is let in need not authenticate again.
        let is_in = self.client.is_some() && !connect.has_proof();
        if !is_in && connect.has_proof() && cx.must_wait_to_prove() {
            return NatsStep::Hold;
        }
        if !is_in && !is_let_in(&connect, cx.settings()) {
            cx.note_wrong_password();
            return close_with(cx, AUTHORIZATION);
        }
        if !(0..=1).contains(&connect.protocol) {
            return close_with(cx, "invalid client protocol");
        }
        if connect.no_responders && !connect.headers {
            return close_with(cx, "no responders requires headers support");
        }
        self.authenticated = true;
        self.verbose = connect.verbose;
        self.pedantic = connect.pedantic;
        self.echo = connect.echo;
        self.headers = connect.headers;
        self.no_responders = connect.no_responders;
        self.takes_info = connect.protocol >= 1;
        self.client = Some(Box::new(Client {
            name: connect.name.unwrap_or_default(),
            lang: connect.lang.unwrap_or_default(),
            version: connect.version.unwrap_or_default(),
        }));
        self.done(cx)
    }

    /// What CONNECT has said so far, without the credentials.
    fn said(&self) -> Connect {
        let client = self.client.as_deref();
        Connect {
            verbose: self.verbose,
            pedantic: self.pedantic,
            echo: self.echo,
            headers: self.headers,
            no_responders: self.no_responders,
            protocol: i64::from(self.takes_info),
            name: client.map(|client| client.name.clone()),
            lang: client.map(|client| client.lang.clone()),
            version: client.map(|client| client.version.clone()),
            ..Connect::default()
        }
    }

    /// Ends an operation, with +OK if the client is verbose.
    fn done(&self, cx: &mut Context<'_>) -> NatsStep {
        if self.verbose {
            cx.reply(|out| out.extend_from_slice(b"+OK\r\n"));
        }
        NatsStep::Done
    }

    fn publish(&mut self, publish: &Publish<'_>, cx: &mut Context<'_>) -> NatsStep {
        if cx.waits_for_barrier() {
            // A receiver may reply at once (request/reply), so this client's subscriptions must be known to all shards
            // first.
            return NatsStep::Hold;
        }
        if !publish.headers.is_empty() && !self.headers {
            return close_with(cx, "message headers not supported");
        }
        if let Some(step) = self.check(publish, cx) {
            return step;
        }
        let mut attributes = std::mem::take(&mut cx.scratch().attributes);
        let flags = write_attributes(publish, &mut attributes);
        let step = self.publish_event(publish, flags, &attributes, cx);
        attributes.clear();
        cx.scratch().attributes = attributes;
        step
    }

    /// Refuses a message that must not be published; `None` if it may be published.
    fn check(&self, publish: &Publish<'_>, cx: &mut Context<'_>) -> Option<NatsStep> {
        let Publish {
            subject,
            reply,
            headers,
            ..
        } = *publish;
        let wrong = check_subject(subject).or_else(|| {
            let wrong = check_subject(reply?)?;
            Some(format!("its reply subject: {wrong}"))
        });
        if let Some(wrong) = wrong {
            return Some(self.forbid(cx, subject, &wrong));
        }
        if headers.len() > NATS_HEADERS_BYTES_MAX {
            let length = headers.len();
            let wrong =
                format!("its headers have {length} bytes, at most {NATS_HEADERS_BYTES_MAX} may");
            return Some(self.forbid(cx, subject, &wrong));
        }
        if let Err(refusal) = cx.check_topic(Space::Topic, subject) {
            // Libraries ask about optional features of the server there; no responders means that it has none.
            if let Some(reply) = reply
                && self.no_responders
            {
                self.say_unheard(reply, cx);
                return Some(self.done(cx));
            }
            return Some(self.forbid(cx, subject, &refusal.to_string()));
        }
        if self.pedantic && !nats::is_literal_subject(subject) {
            // It is published nevertheless.
            cx.reply(|out| nats::write_error(out, "Invalid Publish Subject"));
        }
        None
    }

    fn publish_event(
        &mut self,
        publish: &Publish<'_>,
        flags: u8,
        attributes: &[u8],
        cx: &mut Context<'_>,
    ) -> NatsStep {
        let event = Event {
            space: Space::Topic,
            topic: publish.subject,
            flags,
            attributes,
            payload: publish.payload,
            number: 0,
        };
        let published = match self.echo {
            true => cx.publish(event),
            false => cx.publish_to_others(event),
        };
        let Some(subscriptions) = published else {
            return NatsStep::Hold;
        };
        if let Some(reply) = publish.reply
            && self.no_responders
            && cx.reached(subscriptions).is_nobody()
        {
            self.say_unheard(reply, cx);
        }
        self.done(cx)
    }

    /// Sends the no-responders message to the client's own subscription for replies.
    fn say_unheard(&self, reply: &[u8], cx: &mut Context<'_>) {
        let Some(name) = cx.name_for(reply) else {
            return;
        };
        cx.reply(|out| {
            out.extend_from_slice(b"HMSG ");
            out.extend_from_slice(reply);
            out.push(b' ');
            out.extend_from_slice(&name);
            out.extend_from_slice(NO_RESPONDERS);
        });
    }

    fn subscribe(
        &mut self,
        subject: &[u8],
        queue: Option<&[u8]>,
        sid: &[u8],
        cx: &mut Context<'_>,
    ) -> NatsStep {
        if cx.has_named(sid) {
            // As in nats-server, the first subscription of this name stays.
            return self.done(cx);
        }
        let is_subject = !nats::can_carry(subject) || nats::is_subject(subject);
        if !is_subject {
            return self.refuse(cx, "Invalid Subject");
        }
        let group = queue.unwrap_or_default();
        let wrong = check_subject(subject)
            .or_else(|| too_long("sid", sid, NATS_SID_BYTES_MAX))
            .or_else(|| too_long("queue name", group, NATS_QUEUE_BYTES_MAX));
        if let Some(wrong) = wrong {
            return self.forbid_subscription(cx, subject, queue, &wrong);
        }
        let filter = Filter {
            kind: FilterKind::of_tokens(subject),
            name: subject,
            group,
        };
        match cx.subscribe_named(sid, filter, self.headers) {
            Ok(_) => self.done(cx),
            Err(Refusal::TooManySubscriptions(_)) => {
                self.refuse(cx, "maximum subscriptions exceeded")
            }
            Err(refusal) => self.forbid_subscription(cx, subject, queue, &refusal.to_string()),
        }
    }

    fn unsubscribe(&mut self, sid: &[u8], after: u64, cx: &mut Context<'_>) -> NatsStep {
        cx.unsubscribe_named(sid, after);
        self.done(cx)
    }

    /// Refuses a message that nats-server would take. Client libraries end the connection at any other error.
    fn forbid(&self, cx: &mut Context<'_>, subject: &[u8], why: &str) -> NatsStep {
        let subject = shown(subject);
        let text = format!("Permissions Violation for Publish to \"{subject}\": {why}");
        self.refuse(cx, &text)
    }

    /// The same for a subscription.
    fn forbid_subscription(
        &self,
        cx: &mut Context<'_>,
        subject: &[u8],
        queue: Option<&[u8]>,
        why: &str,
    ) -> NatsStep {
        let subject = shown(subject);
        let queue = queue.map(|queue| format!(" using queue \"{}\"", shown(queue)));
        let queue = queue.unwrap_or_default();
        let text = format!("Permissions Violation for Subscription to \"{subject}\"{queue}: {why}");
        self.refuse(cx, &text)
    }

    /// Refuses an operation with an error; the connection stays open.
    fn refuse(&self, cx: &mut Context<'_>, text: &str) -> NatsStep {
        cx.counters().errors += 1;
        cx.reply(|out| nats::write_error(out, text));
        NatsStep::Done
    }

    /// Pings a silent client; false if it has left too many PINGs unanswered.
    pub(crate) fn ping(&mut self, conn: ConnId, outboxes: &mut Outboxes) -> bool {
        if self.pings_out >= NATS_PINGS_OUT_MAX {
            return false;
        }
        self.pings_out += 1;
        outboxes.reply(conn, |out| out.extend_from_slice(b"PING\r\n"));
        true
    }

    /// Writes why the connection is closed, as nats-server words it.
    pub(crate) fn say_why(&self, reason: CloseReason, conn: ConnId, outboxes: &mut Outboxes) {
        let text = match reason {
            CloseReason::TooManyConnections => "maximum connections exceeded",
            CloseReason::AuthTimeout => "Authentication Timeout",
            CloseReason::Stale => "Stale Connection",
            _ => return,
        };
        outboxes.reply(conn, |out| nats::write_error(out, text));
    }

    /// Announces the node's shutdown (lame duck mode).
    pub(crate) fn announce_end(
        &self,
        settings: &Settings,
        identity: Identity,
        conn: ConnId,
        outboxes: &mut Outboxes,
    ) {
        if self.takes_info && self.authenticated {
            write_info(settings, identity, true, conn, outboxes);
        }
    }
}

fn write_info(
    settings: &Settings,
    identity: Identity,
    ldm: bool,
    conn: ConnId,
    outboxes: &mut Outboxes,
) {
    outboxes.reply(conn, |out| encode_info(settings, identity, ldm, out));
}

fn encode_info(settings: &Settings, identity: Identity, ldm: bool, out: &mut Vec<u8>) {
    let info = Info {
        server_id: &settings.run_id,
        server_name: BROKER,
        version: NATS_VERSION,
        proto: 1,
        host: identity.local.ip().to_string(),
        port: identity.local.port(),
        headers: true,
        max_payload: settings.nats_payload_max,
        client_id: identity.client.0,
        client_ip: identity.peer.ip().to_string(),
        auth_required: settings.password.is_some(),
        ldm,
        connect_urls: &settings.connect_urls.list,
    };
    nats::write_info(out, &info);
}

fn is_let_in(connect: &Connect, settings: &Settings) -> bool {
    let Some(password) = &settings.password else {
        return true;
    };
    let is_it = |given: &String| is_equal(given.as_bytes(), password);
    match (&connect.user, &connect.pass, &connect.auth_token) {
        (Some(user), Some(pass), _) => settings.is_user(user.as_bytes()) && is_it(pass),
        (None, None, Some(token)) => is_it(token),
        // Some libraries send what comes alone before the '@' of a URL as a token, others as a user.
        (Some(token), None, None) => is_it(token),
        _ => false,
    }
}

/// Why a subject cannot be a topic; `None` if it can.
fn check_subject(subject: &[u8]) -> Option<String> {
    if !nats::can_carry(subject) {
        return Some("a subject holds no NUL and no CR".into());
    }
    topic::check_name(subject)
        .err()
        .map(|error| error.to_string())
}

fn too_long(what: &str, name: &[u8], bytes_max: usize) -> Option<String> {
    let length = name.len();
    (length > bytes_max).then(|| format!("its {what} has {length} bytes, at most {bytes_max} may"))
}

/// A name as it may stand in an error: of bounded length, without what would end the line.
fn shown(name: &[u8]) -> String {
    let name = &name[..name.len().min(TOPIC_BYTES_MAX)];
    let text = String::from_utf8_lossy(name);
    text.replace(|character: char| character.is_control(), "?")
}

/// Writes reply subject and headers as native attributes, and gives the flags. The headers stay the block that they
/// are.
fn write_attributes(publish: &Publish<'_>, out: &mut Vec<u8>) -> u8 {
    let mut flags = 0;
    if let Some(reply) = publish.reply {
        flags |= flag::REPLY;
        native::write_text16(out, reply);
    }
    if !publish.headers.is_empty() {
        flags |= flag::HEADERS | flag::BLOCK;
        native::write_text16(out, publish.headers);
    } else if publish.payload.is_empty() {
        // In NATS an empty body ends a series of replies; natively a flag does.
        flags |= flag::END;
    }
    flags
}

fn close_with(cx: &mut Context<'_>, text: &str) -> NatsStep {
    cx.counters().errors += 1;
    cx.reply(|out| nats::write_error(out, text));
    NatsStep::Close(CloseReason::Protocol)
}

fn refuse(cx: &mut Context<'_>, text: &str) -> Then {
    cx.counters().errors += 1;
    cx.reply(|out| nats::write_error(out, text));
    Then::Close(CloseReason::Protocol)
}
