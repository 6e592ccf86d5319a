//! HTTP requests, one after the other: each is read whole, carried out, and answered.
//!
//! Owns a request whose chunked body is not complete, and the requests that wait for calls to shards. Start at
//! [`Http::handle`].

use super::monitor::{self, Asked, ConnzList};
use super::routes::{self, HttpRoute, NoRoute, Opening};
use super::socket::Socket;
use super::{Done, Mode};
use crate::command::{
    Answers, CallError, CallId, CloseReason, ConnId, Event, Filter, FilterKind, Form, Query,
    Refusal, Space, Written,
};
use crate::context::{Context, Then};
use crate::limits::HTTP_OUTBOX_BYTES_MAX;
use crate::outbox::Outboxes;
use crate::session::TOO_MANY_CONNECTIONS;
use crate::session::pending::PendingCalls;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::http::{self, Body, Chunks, Head, HttpError, Method, Moment, write_head};
use sapwood_wire::limits::PAYLOAD_BYTES_MAX;
use sapwood_wire::native::Parts;
use sapwood_wire::{json, topic};

/// State of an HTTP connection. Small: most wait for a request.
#[derive(Debug, Default)]
pub(super) struct Http {
    /// Whether any byte has come.
    is_used: bool,
    /// Whether a request brought the right password.
    is_known: bool,
    /// When an incomplete request line with headers began to come, by the monotonic clock; 0 for none.
    begun_ns: u64,
    /// A body has begun and is not complete.
    has_body_begun: bool,
    /// 100 Continue was sent for this request's body.
    has_continued: bool,
    /// A publish with a chunked body.
    chunked: Option<Box<Chunked>>,
    /// Requests that wait for calls to shards, in their order.
    pending: PendingCalls<PendingRequest>,
    /// The last request has been answered: the connection is to be closed.
    is_over: bool,
}

/// A publish whose chunked body is not complete.
#[derive(Debug)]
struct Chunked {
    publish: Publish,
    manner: Manner,
    chunks: Chunks,
    body: Vec<u8>,
}

/// A request that waits for a call to shards.
#[derive(Debug)]
struct PendingRequest {
    reply: PendingAnswer,
    manner: Manner,
}

/// What the call is for.
#[derive(Debug)]
enum PendingAnswer {
    Counters(Asked),
    Connz(Box<ConnzList>),
}

/// Destination of a body.
#[derive(Debug)]
struct Publish {
    topic: Vec<u8>,
    flags: u8,
    attributes: Vec<u8>,
}

/// How a request is answered, whatever the response.
#[derive(Debug)]
struct Manner {
    keep_alive: bool,
    /// The response body may be chunked.
    takes_chunks: bool,
    /// Only the headers are wanted (HEAD).
    is_head: bool,
    /// Origin whose scripts may read the response (CORS), or [`routes::ANY_ORIGIN`].
    origin: Option<Box<str>>,
}

/// A response.
struct Reply<'a> {
    status: u16,
    media_type: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: &'a [u8],
}

const JSON: &str = "application/json";

/// A comment of server-sent events, which clients leave out.
pub(super) const SSE_COMMENT: &[u8] = b":\n\n";

impl Manner {
    fn of(head: &Head<'_>, cx: &Context<'_>) -> Manner {
        Manner {
            keep_alive: head.keep_alive,
            takes_chunks: head.is_current,
            is_head: head.method == Method::Head,
            origin: routes::readable_by(head, cx.settings()).map(Box::from),
        }
    }

    /// The headers that follow the own headers of every response.
    fn headers<'a>(&'a self, date: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut headers = vec![("Date", date), ("X-Content-Type-Options", "nosniff")];
        if let Some(origin) = &self.origin {
            headers.push(("Access-Control-Allow-Origin", origin));
            headers.push(("Vary", "Origin"));
            if **origin != *routes::ANY_ORIGIN {
                headers.push(("Access-Control-Allow-Credentials", "true"));
            }
        }
        headers
    }

    /// The header of a response of unknown length: its body is chunked, or ends with the connection.
    fn transfer_encoding(&self) -> Option<(&'static str, &'static str)> {
        self.takes_chunks
            .then_some(("Transfer-Encoding", "chunked"))
    }

    /// The Connection header: whether the connection stays open after the response.
    fn connection(&self) -> (&'static str, &'static str) {
        let word = if self.keep_alive {
            "keep-alive"
        } else {
            "close"
        };
        ("Connection", word)
    }
}

impl Http {
    /// Whether no byte has come yet.
    pub(super) fn is_fresh(&self) -> bool {
        !self.is_used
    }

    /// Whether a request brought the right password.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    pub(super) fn begun_ns(&self) -> u64 {
        self.begun_ns
    }

    pub(super) fn has_body_begun(&self) -> bool {
        self.has_body_begun
    }

    /// Whether the client waits for the broker, rather than the broker for the client.
    pub(super) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn kept_bytes(&self) -> usize {
        self.chunked
            .as_ref()
            .map_or(0, |chunked| chunked.body.capacity())
    }

    pub(super) fn forget_unfinished(&mut self) {
        self.chunked = None;
        self.pending = PendingCalls::default();
    }

    /// Carries out the requests in `input`, as far as the connection may go on; gives the bytes consumed, and the next
    /// step.
    pub(super) fn handle(&mut self, input: &[u8], cx: &mut Context<'_>) -> (usize, Done) {
        let mut consumed = 0;
        loop {
            // The small cap holds for every client, because many requests need no password.
            if let Some(then) = cx.must_pause(Some(HTTP_OUTBOX_BYTES_MAX)) {
                return (consumed, Done::Then(then));
            }
            if self.is_over {
                let then = match cx.must_wait_for_calls() {
                    true => Then::Hold,
                    false => Then::Close(CloseReason::Quit),
                };
                return (consumed, Done::Then(then));
            }
            let rest = &input[consumed..];
            let step = match self.chunked.take() {
                Some(chunked) => self.take_chunks(chunked, rest, cx),
                None => self.take_request(rest, cx),
            };
            match step {
                Ok((taken, None)) => consumed += taken,
                Ok((taken, Some(done))) => return (consumed + taken, done),
                Err(_) if cx.must_wait_for_calls() => return (consumed, Done::Then(Then::Hold)),
                Err(error) => {
                    // After a malformed request, the start of the next one is unknown.
                    let manner = Manner {
                        keep_alive: false,
                        takes_chunks: false,
                        is_head: false,
                        origin: None,
                    };
                    self.refuse(&error.into(), &manner, cx);
                }
            }
        }
    }

    /// Takes the request at the start of the input; gives its bytes, and the next step unless that is the next request.
    fn take_request(
        &mut self,
        input: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(usize, Option<Done>), HttpError> {
        if input.starts_with(http::END) {
            // Old clients send one line end too many after a body.
            return Ok((http::END.len(), None));
        }
        let read_on = |needed| Ok((0, Some(Done::Then(Then::Read { needed }))));
        self.is_used |= !input.is_empty();
        let Some(head) = Head::parse(input)? else {
            if !input.is_empty() && self.begun_ns == 0 {
                self.begun_ns = cx.now().monotonic_ns.max(1);
            }
            return read_on(input.len() + 1);
        };
        self.begun_ns = 0;
        let has_proof = head.values("authorization").next().is_some();
        if has_proof && !self.is_known && cx.must_wait_to_prove() {
            return Ok((0, Some(Done::Then(Then::Hold))));
        }
        self.is_known = self.is_known || routes::is_let_in(&head, cx.settings());
        let manner = Manner::of(&head, cx);
        let route = match routes::find(&head, cx.settings()) {
            Ok(route) if !route.is_call() && cx.must_wait_for_calls() => {
                // Effects that others can see keep the order of the requests.
                return Ok((0, Some(Done::Then(Then::Hold))));
            }
            Ok(route) => route,
            Err(no_route) => return Ok(self.refuse_unread(&no_route, manner, (&head, input), cx)),
        };
        let HttpRoute::Publish(topic) = route else {
            return Ok(self.take_bodyless(route, manner, (&head, input), cx));
        };
        let publish = match publish_of(topic, &head, cx) {
            Ok(publish) => publish,
            Err(refusal) => {
                return Ok(self.refuse_unread(&no_route_of(refusal), manner, (&head, input), cx));
            }
        };
        if matches!(head.body, Body::Length(length) if length > PAYLOAD_BYTES_MAX) {
            let error = http::too_long(PAYLOAD_BYTES_MAX);
            return Ok(self.refuse_unread(&error.into(), manner, (&head, input), cx));
        }
        self.has_body_begun = true;
        if head.expects_continue && !std::mem::replace(&mut self.has_continued, true) {
            cx.reply_bare(|out| write_head(out, 100, &[]));
        }
        match head.body {
            Body::Length(length) => match input[head.length..].get(..length) {
                None => read_on(head.length + length),
                Some(body) => match self.publish(&publish, body, &manner, cx) {
                    Some(done) => Ok((0, Some(done))),
                    None => Ok((head.length + length, None)),
                },
            },
            Body::Chunked => {
                self.chunked = Some(Box::new(Chunked {
                    publish,
                    manner,
                    chunks: Chunks::default(),
                    body: Vec::new(),
                }));
                Ok((head.length, None))
            }
        }
    }

    /// Takes a request that has no body.
    fn take_bodyless(
        &mut self,
        route: HttpRoute,
        manner: Manner,
        (head, input): (&Head<'_>, &[u8]),
        cx: &mut Context<'_>,
    ) -> (usize, Option<Done>) {
        if head.body != Body::Length(0) {
            let text = "this request has no body";
            let error = HttpError::new(400, "request_invalid", text);
            return self.refuse_unread(&error.into(), manner, (head, input), cx);
        }
        let done = self.carry_out(route, manner, head, cx);
        if matches!(done, Some(Done::Then(Then::Hold))) {
            return (0, done);
        }
        cx.counters().commands += 1;
        (head.length, done)
    }

    /// Takes more of a chunked body.
    fn take_chunks(
        &mut self,
        mut chunked: Box<Chunked>,
        input: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(usize, Option<Done>), HttpError> {
        let taken = chunked
            .chunks
            .take(input, PAYLOAD_BYTES_MAX, &mut chunked.body)?;
        if chunked.chunks != Chunks::Done {
            self.chunked = Some(chunked);
            let needed = input.len() - taken + 1;
            return Ok((taken, Some(Done::Then(Then::Read { needed }))));
        }
        let done = self.publish(&chunked.publish, &chunked.body, &chunked.manner, cx);
        if done.is_some() {
            self.chunked = Some(chunked);
        }
        Ok((taken, done))
    }

    /// Publishes a body and responds; gives the next step if that cannot be done now.
    fn publish(
        &mut self,
        publish: &Publish,
        body: &[u8],
        manner: &Manner,
        cx: &mut Context<'_>,
    ) -> Option<Done> {
        let event = Event {
            space: Space::Topic,
            topic: &publish.topic,
            flags: publish.flags,
            attributes: &publish.attributes,
            payload: body,
            number: 0,
        };
        let Some(count) = cx.publish(event) else {
            return Some(Done::Then(Then::Hold));
        };
        cx.counters().commands += 1;
        self.has_body_begun = false;
        self.has_continued = false;
        let beyond = match cx.reached(count).is_beyond {
            true => ",\"beyond\":true",
            false => "",
        };
        self.answer_json(200, &format!("{{\"count\":{count}{beyond}}}"), manner, cx);
        None
    }

    /// Carries out a request without a body; gives the next step unless that is the next request.
    fn carry_out(
        &mut self,
        route: HttpRoute,
        manner: Manner,
        head: &Head<'_>,
        cx: &mut Context<'_>,
    ) -> Option<Done> {
        match route {
            HttpRoute::Page(asset) => {
                let reply = Reply {
                    status: 200,
                    media_type: asset.media_type,
                    headers: &[
                        (
                            "Content-Security-Policy",
                            "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
                        ),
                        ("Cache-Control", "no-cache"),
                    ],
                    body: asset.bytes,
                };
                self.answer(&reply, &manner, cx);
            }
            HttpRoute::Health => {
                let (status, word) = match cx.settings().is_ending {
                    true => (503, "draining"),
                    false => (200, "ok"),
                };
                self.answer_json(status, &format!("{{\"status\":\"{word}\"}}"), &manner, cx);
            }
            HttpRoute::Preflight => self.preflight(manner, head, cx),
            HttpRoute::Events(topics) => return self.begin_events(&topics, manner, head, cx),
            HttpRoute::WebSocket(opening) => return Some(open_socket(&opening, &manner, cx)),
            HttpRoute::Publish(_) => unreachable!("a publish has a body"),
            HttpRoute::Info => return self.ask_counters(Asked::Info, manner, cx),
            HttpRoute::Varz => return self.ask_counters(Asked::Varz, manner, cx),
            HttpRoute::Subsz => return self.ask_counters(Asked::Subsz, manner, cx),
            HttpRoute::Connz(connz) => {
                let mut manner = manner;
                manner.keep_alive &= manner.takes_chunks;
                if manner.is_head {
                    let now = Moment::of(cx.now().wall_ms);
                    cx.reply_bare(|out| write_streamed_head(out, &manner, now));
                    self.is_over = !manner.keep_alive;
                    return None;
                }
                let (list, first) = ConnzList::new(connz);
                let call = cx.ask_all(&first, Written::Streamed);
                return self.pend(call, PendingAnswer::Connz(Box::new(list)), manner);
            }
        }
        None
    }

    fn ask_counters(&mut self, asked: Asked, manner: Manner, cx: &mut Context<'_>) -> Option<Done> {
        let call = cx.ask_all(&Query::Counters, Written::Spooled);
        self.pend(call, PendingAnswer::Counters(asked), manner)
    }

    fn pend(&mut self, call: Option<CallId>, reply: PendingAnswer, manner: Manner) -> Option<Done> {
        let Some(call) = call else {
            return Some(Done::Then(Then::Hold));
        };
        self.is_over = !manner.keep_alive;
        self.pending.put(call, PendingRequest { reply, manner });
        None
    }

    /// Takes the answers of a round: writes what is complete, and asks on or ends the response.
    pub(super) fn answered(
        &mut self,
        call: CallId,
        answers: Result<Answers, CallError>,
        cx: &mut Context<'_>,
    ) {
        let mut one = self.pending.take(call);
        let PendingRequest { reply, manner } = &mut one;
        let now = Moment::of(cx.now().wall_ms);
        let mut whole = Vec::new();
        match (reply, answers) {
            (PendingAnswer::Counters(asked), Ok(answers)) => {
                let body = monitor::show(*asked, answers, cx);
                write_reply(&mut whole, &json_reply(200, body.as_bytes()), manner, now);
            }
            (PendingAnswer::Connz(list), Ok(answers)) => {
                let is_first = !list.is_begun();
                let (part, next) = list.answered(answers, cx);
                cx.reserve(call, list.kept_bytes());
                if list.is_begun() {
                    cx.stream(call, |out| {
                        if is_first {
                            write_streamed_head(out, manner, now);
                        }
                        write_part(out, &part, manner);
                    });
                }
                if let Some(round) = next {
                    cx.ask_on(call, round);
                    return self.pending.put(call, one);
                }
                if manner.takes_chunks {
                    whole.extend_from_slice(http::LAST_CHUNK);
                }
            }
            (_, Err(error)) => {
                cx.counters().errors += 1;
                let body = error_body(ErrorCode::Busy.name(), &error.to_string());
                write_reply(&mut whole, &json_reply(503, &body), manner, now);
            }
        }
        cx.end_call(call, &whole);
    }

    fn preflight(&mut self, manner: Manner, head: &Head<'_>, cx: &mut Context<'_>) {
        if manner.origin.is_none() && head.values("origin").next().is_some() {
            let text =
                "scripts of this origin may not use this broker, unless --http-origin names it";
            let error = HttpError::new(403, "origin", text);
            return self.refuse(&error.into(), &manner, cx);
        }
        let mut headers = vec![
            ("Access-Control-Allow-Methods", "GET, HEAD, POST"),
            ("Access-Control-Max-Age", "600"),
        ];
        // Whatever the script's library sends: those that mean something here may all be sent, and no other does harm.
        let asked = head.only("access-control-request-headers");
        let asked = asked.and_then(|asked| std::str::from_utf8(asked).ok());
        headers.extend(asked.map(|asked| ("Access-Control-Allow-Headers", asked)));
        let reply = Reply {
            status: 204,
            media_type: "",
            headers: &headers,
            body: b"",
        };
        self.answer(&reply, &manner, cx);
    }

    /// Subscribes to all topics, or to none after a refusal, and begins the stream.
    fn begin_events(
        &mut self,
        topics: &[Vec<u8>],
        manner: Manner,
        head: &Head<'_>,
        cx: &mut Context<'_>,
    ) -> Option<Done> {
        cx.change_form(match manner.takes_chunks {
            true => Form::Sse,
            false => Form::SsePlain,
        });
        for topic in topics {
            let kind = FilterKind::of_tokens(topic);
            if let Err(refusal) = cx.subscribe(0, Filter::plain(kind, topic)) {
                cx.unsubscribe_all();
                self.refuse(&no_route_of(refusal), &manner, cx);
                return None;
            }
        }
        let date = Moment::of(cx.now().wall_ms).http();
        let mut headers = vec![
            ("Content-Type", "text/event-stream"),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
            // Proxies must not buffer events.
            ("X-Accel-Buffering", "no"),
        ];
        headers.extend(manner.transfer_encoding());
        headers.extend(manner.headers(&date));
        cx.reply_bare(|out| write_head(out, 200, &headers));
        // Many clients take a stream for open only when the first bytes of its body come.
        cx.reply(|out| out.extend_from_slice(SSE_COMMENT));
        if routes::has_been_away(head) {
            cx.reply(|out| json::write_sse_gap(out, None));
        }
        Some(Done::Becomes(Mode::Events))
    }

    /// Refuses a request. Its body is skipped if all of it is there; otherwise the connection is closed.
    fn refuse_unread(
        &mut self,
        no_route: &NoRoute,
        mut manner: Manner,
        (head, input): (&Head<'_>, &[u8]),
        cx: &mut Context<'_>,
    ) -> (usize, Option<Done>) {
        let length = match head.body {
            Body::Length(length) if length <= input.len() - head.length => Some(length),
            Body::Length(_) | Body::Chunked => None,
        };
        // After a body that should not be there, the next bytes may be no request.
        let is_sound = head.body == Body::Length(0) || no_route.error.status != 400;
        manner.keep_alive &= length.is_some() && is_sound;
        if no_route.error.status == 401 && head.values("authorization").next().is_some() {
            cx.note_wrong_password();
        }
        self.refuse(no_route, &manner, cx);
        (head.length + length.unwrap_or(0), None)
    }

    fn refuse(&mut self, no_route: &NoRoute, manner: &Manner, cx: &mut Context<'_>) {
        cx.counters().errors += 1;
        let error = &no_route.error;
        let mut headers = Vec::new();
        match error.status {
            401 => {
                // One line for each challenge: browsers read only one in a line.
                let basic = "Basic realm=\"Sapwood\", charset=\"UTF-8\"";
                headers.push(("WWW-Authenticate", basic));
                headers.push(("WWW-Authenticate", "Bearer realm=\"Sapwood\""));
            }
            426 => {
                headers.push(("Upgrade", "websocket"));
                headers.push(("Sec-WebSocket-Version", "13"));
            }
            _ => {}
        }
        headers.extend(no_route.allow.map(|allow| ("Allow", allow)));
        let body = error_body(error.code, &error.text);
        let reply = Reply {
            status: error.status,
            media_type: JSON,
            headers: &headers,
            body: &body,
        };
        self.answer(&reply, manner, cx);
    }

    fn answer_json(&mut self, status: u16, body: &str, manner: &Manner, cx: &mut Context<'_>) {
        self.answer(&json_reply(status, body.as_bytes()), manner, cx);
    }

    fn answer(&mut self, reply: &Reply<'_>, manner: &Manner, cx: &mut Context<'_>) {
        let now = Moment::of(cx.now().wall_ms);
        cx.reply_bare(|out| write_reply(out, reply, manner, now));
        self.is_over = !manner.keep_alive;
    }

    /// Writes why the connection is closed, if it is one too many or a request has begun and is late.
    pub(super) fn say_why(&self, reason: CloseReason, conn: ConnId, outboxes: &mut Outboxes) {
        let is_late = reason == CloseReason::Stale && (self.begun_ns > 0 || self.has_body_begun);
        let (status, code, text) = match reason {
            CloseReason::TooManyConnections if self.pending.is_empty() => {
                (503, ErrorCode::ConnectionsFull.name(), TOO_MANY_CONNECTIONS)
            }
            _ if is_late => (408, "request_invalid", "the request did not come in time"),
            _ => return,
        };
        let body = error_body(code, text);
        let mut length = itoa::Buffer::new();
        let headers = [
            ("Content-Type", JSON),
            ("Content-Length", length.format(body.len())),
            ("Connection", "close"),
        ];
        outboxes.reply_bare(conn, |out| {
            write_head(out, status, &headers);
            out.extend_from_slice(&body);
        });
    }
}

fn json_reply(status: u16, body: &[u8]) -> Reply<'_> {
    Reply {
        status,
        media_type: JSON,
        headers: &[("Cache-Control", "no-store")],
        body,
    }
}

fn write_reply(out: &mut Vec<u8>, reply: &Reply<'_>, manner: &Manner, now: Moment) {
    let date = now.http();
    let mut length = itoa::Buffer::new();
    let length = length.format(reply.body.len());
    let mut headers = Vec::new();
    if reply.status != 204 {
        headers.push(("Content-Type", reply.media_type));
        headers.push(("Content-Length", length));
    }
    headers.extend(reply.headers);
    headers.extend(manner.headers(&date));
    headers.push(manner.connection());
    write_head(out, reply.status, &headers);
    if !manner.is_head {
        out.extend_from_slice(reply.body);
    }
}

/// Writes the head of a JSON response of unknown length.
fn write_streamed_head(out: &mut Vec<u8>, manner: &Manner, now: Moment) {
    let date = now.http();
    let mut headers = vec![("Content-Type", JSON), ("Cache-Control", "no-store")];
    headers.extend(manner.transfer_encoding());
    headers.extend(manner.headers(&date));
    headers.push(manner.connection());
    write_head(out, 200, &headers);
}

/// Writes a part of the body of a streamed response.
fn write_part(out: &mut Vec<u8>, part: &str, manner: &Manner) {
    match manner.takes_chunks {
        true => http::write_chunk(out, part.len(), |out| {
            out.extend_from_slice(part.as_bytes())
        }),
        false => out.extend_from_slice(part.as_bytes()),
    }
}

fn error_body(code: &str, text: &str) -> Vec<u8> {
    let mut body = b"{\"error\":{\"code\":".to_vec();
    json::write_text(&mut body, code);
    body.extend_from_slice(b",\"text\":");
    json::write_text(&mut body, text);
    body.extend_from_slice(b"}}");
    body
}

fn no_route_of(refusal: Refusal) -> NoRoute {
    let status = match refusal.code() {
        ErrorCode::TopicReserved => 403,
        ErrorCode::PayloadTooLong => 413,
        ErrorCode::SubscriptionsFull | ErrorCode::FiltersFull => 503,
        _ => 400,
    };
    HttpError::new(status, refusal.code().name(), &refusal.to_string()).into()
}

/// The publish that a request with these headers makes to a topic.
fn publish_of(topic: Vec<u8>, head: &Head<'_>, cx: &Context<'_>) -> Result<Publish, Refusal> {
    cx.check_topic(Space::Topic, &topic)?;
    let reply = head.only("sapwood-reply");
    if let Some(reply) = reply {
        topic::check_name(reply).map_err(Refusal::Name)?;
    }
    let mut headers = Vec::new();
    for header in head.values("sapwood-header") {
        let colon = header.iter().position(|&byte| byte == b':');
        let colon = colon.ok_or(Refusal::Headers)?;
        headers.push((
            header[..colon].trim_ascii(),
            header[colon + 1..].trim_ascii(),
        ));
    }
    let parts = Parts {
        topic: &topic,
        reply,
        headers: &headers,
        is_end: false,
        payload: b"",
    };
    let mut attributes = Vec::new();
    let flags = parts.write_attributes(&mut attributes);
    let flags = flags.map_err(|_| Refusal::Headers)?;
    Ok(Publish {
        topic,
        flags,
        attributes,
    })
}

/// Responds 101: from here on the connection is a WebSocket.
fn open_socket(opening: &Opening, manner: &Manner, cx: &mut Context<'_>) -> Done {
    let date = Moment::of(cx.now().wall_ms).http();
    let mut headers = vec![
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", opening.accept.as_str()),
    ];
    headers.extend(opening.name.map(|name| ("Sec-WebSocket-Protocol", name)));
    headers.extend(manner.headers(&date));
    cx.reply_bare(|out| write_head(out, 101, &headers));
    let socket = Socket::new(opening.spoken, opening.is_known);
    Done::Becomes(Mode::Socket(Box::new(socket)))
}
