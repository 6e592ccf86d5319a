//! HTTP requests, one after the other: each is read whole, carried out, and answered.
//!
//! Owns a request whose chunked body is not complete, and the requests that wait for calls to shards. Start at
//! [`Http::handle`].

use super::monitor::{self, Asked, ConnzList};
use super::response::{
    JSON, Manner, Reply, SSE_COMMENT, error_body, json_reply, write_head_of, write_part,
    write_reply, write_streamed_head,
};
use super::routes::{self, HttpRoute, NoRoute, Opening};
use super::socket::Socket;
use super::streams::{
    self, Append, Conditions, Following, Part, Reading, Shape, Short, StreamCall, StreamRoute,
};
use super::{Done, Mode};
use crate::command::{
    Answers, CallError, CallId, CloseReason, ConnId, Event, Filter, FilterKind, Form, Query,
    Refusal, ShardId, Space, Written,
};
use crate::context::{Context, Stored, Then};
use crate::limits::{CALL_RESERVED_BYTES, HTTP_OUTBOX_BYTES_MAX, STREAM_CONFIG_BODY_BYTES_MAX};
use crate::outbox::Outboxes;
use crate::session::TOO_MANY_CONNECTIONS;
use crate::session::pending::PendingCalls;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::http::{self, Body, Chunks, Head, HttpError, Moment, write_head};
use sapwood_wire::limits::{PAYLOAD_BYTES_MAX, STORED_BODY_BYTES_MAX};
use sapwood_wire::native::{Parts, flag};
use sapwood_wire::state::{Message, Sequence, write_append};
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
    /// A request with a chunked body.
    chunked: Option<Box<Chunked>>,
    /// Requests that wait for calls to shards, in their order.
    pending: PendingCalls<PendingRequest>,
    /// The last request has been answered: the connection is to be closed.
    is_over: bool,
}

/// A request whose chunked body is not complete.
#[derive(Debug)]
struct Chunked {
    wanted: Wanted,
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

impl PendingRequest {
    /// Whether its response has begun and goes on with what is stored later.
    fn follows(&self) -> bool {
        match &self.reply {
            PendingAnswer::Read(reading) => reading.is_begun() && reading.shape() == Shape::Events,
            _ => false,
        }
    }
}

/// What the call is for.
#[derive(Debug)]
enum PendingAnswer {
    Counters(Asked),
    Connz(Box<ConnzList>),
    Stream(StreamCall),
    /// A message that is being stored.
    Storing(StreamCall),
    Read(Box<Reading>),
}

/// What a body is for.
#[derive(Debug)]
enum Wanted {
    Publish(Publish),
    /// A publish that is answered when it is stored.
    PublishStored(Publish),
    /// A message for the stream of this name.
    Append(Box<Append>, Publish),
    /// The configuration of the stream of this name.
    Put(Vec<u8>),
}

impl Wanted {
    /// The longest body.
    fn bytes_max(&self) -> usize {
        match self {
            Wanted::Publish(_) => PAYLOAD_BYTES_MAX,
            Wanted::PublishStored(_) | Wanted::Append(..) => STORED_BODY_BYTES_MAX,
            Wanted::Put(_) => STREAM_CONFIG_BODY_BYTES_MAX,
        }
    }
}

/// Destination of an event or message.
#[derive(Debug)]
struct Publish {
    topic: Vec<u8>,
    flags: u8,
    attributes: Vec<u8>,
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

    /// Whether it goes on with what is stored later, until the node or the stream ends.
    pub(super) fn is_following(&self) -> bool {
        self.pending.iter().any(|(_, one)| one.follows())
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
            Ok(route) if self.must_wait(&route, cx) => {
                return Ok((0, Some(Done::Then(Then::Hold))));
            }
            Ok(route) => route,
            Err(no_route) => return Ok(self.refuse_unread(&no_route, manner, (&head, input), cx)),
        };
        let wanted = match wanted_of(route, &head, cx) {
            Ok(Ok(wanted)) => wanted,
            Ok(Err(route)) => return Ok(self.take_bodyless(route, manner, (&head, input), cx)),
            Err(refusal) => {
                return Ok(self.refuse_unread(&no_route_of(refusal), manner, (&head, input), cx));
            }
        };
        let most = wanted.bytes_max();
        if matches!(head.body, Body::Length(length) if length > most) {
            let error = http::too_long(most);
            return Ok(self.refuse_unread(&error.into(), manner, (&head, input), cx));
        }
        self.has_body_begun = true;
        if head.expects_continue && !std::mem::replace(&mut self.has_continued, true) {
            cx.reply_bare(|out| write_head(out, 100, &[]));
        }
        match head.body {
            Body::Length(length) => match input[head.length..].get(..length) {
                None => read_on(head.length + length),
                Some(body) => match self.take_body(&wanted, body, &manner, cx) {
                    Some(done) => Ok((0, Some(done))),
                    None => Ok((head.length + length, None)),
                },
            },
            Body::Chunked => {
                self.chunked = Some(Box::new(Chunked {
                    wanted,
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
        let most = chunked.wanted.bytes_max();
        let taken = chunked.chunks.take(input, most, &mut chunked.body)?;
        if chunked.chunks != Chunks::Done {
            self.chunked = Some(chunked);
            let needed = input.len() - taken + 1;
            return Ok((taken, Some(Done::Then(Then::Read { needed }))));
        }
        let done = self.take_body(&chunked.wanted, &chunked.body, &chunked.manner, cx);
        if done.is_some() {
            self.chunked = Some(chunked);
        }
        Ok((taken, done))
    }

    /// Whether requests before this one must be answered first. Effects that others can see keep the order of the
    /// requests, and so does what a client wrote and then reads.
    fn must_wait(&self, route: &HttpRoute, cx: &mut Context<'_>) -> bool {
        let are_stores = || {
            let mut pending = self.pending.iter();
            pending.all(|(_, one)| matches!(one.reply, PendingAnswer::Storing(_)))
        };
        let may_go = route.is_call() || route.stores() && are_stores();
        !may_go && cx.must_wait_for_calls()
    }

    /// Carries out a request with its whole body; gives the next step if that cannot be done now.
    fn take_body(
        &mut self,
        wanted: &Wanted,
        body: &[u8],
        manner: &Manner,
        cx: &mut Context<'_>,
    ) -> Option<Done> {
        let asked = match wanted {
            Wanted::Publish(publish) => return self.publish(publish, body, manner, cx),
            Wanted::PublishStored(publish) => {
                return self.publish_stored(publish, body, manner, cx);
            }
            Wanted::Append(append, publish) => append_of(append, publish, body, cx),
            Wanted::Put(stream) => StreamCall::begin_put(stream, body, cx),
        };
        let is_store = matches!(wanted, Wanted::Append(..));
        match asked {
            Ok((worker, request, call)) => {
                let call_id = cx.ask_state(worker, request, Written::Short);
                let reply = match is_store {
                    true => PendingAnswer::Storing(call),
                    false => PendingAnswer::Stream(call),
                };
                if let Some(hold) = self.pend(call_id, reply, manner.clone()) {
                    return Some(hold);
                }
            }
            Err(error) => self.refuse(&error.into(), manner, cx),
        }
        self.end_body(cx);
        None
    }

    /// A request with a body is carried out.
    fn end_body(&mut self, cx: &mut Context<'_>) {
        cx.counters().commands += 1;
        self.has_body_begun = false;
        self.has_continued = false;
    }

    /// Publishes a body that is to be stored; gives the next step if that cannot be done now.
    fn publish_stored(
        &mut self,
        publish: &Publish,
        body: &[u8],
        manner: &Manner,
        cx: &mut Context<'_>,
    ) -> Option<Done> {
        if cx.settings().workers == 0 {
            self.refuse(&streams::no_data().into(), manner, cx);
            self.end_body(cx);
            return None;
        }
        match cx.publish_stored(publish.event(body)) {
            Stored::Held => return Some(Done::Then(Then::Hold)),
            Stored::Asked(call, count) => {
                let reached = cx.reached(count);
                let storing = StreamCall::Short(Short::Published(reached));
                self.pend(Some(call), PendingAnswer::Storing(storing), manner.clone());
            }
            Stored::NoStream => {
                let error = streams::error_of(sapwood_wire::state::Refusal::NoStream, b"");
                self.refuse(&error.into(), manner, cx);
            }
        }
        self.end_body(cx);
        None
    }

    /// Publishes a body and responds; gives the next step if that cannot be done now.
    fn publish(
        &mut self,
        publish: &Publish,
        body: &[u8],
        manner: &Manner,
        cx: &mut Context<'_>,
    ) -> Option<Done> {
        let Some(count) = cx.publish(publish.event(body)) else {
            return Some(Done::Then(Then::Hold));
        };
        self.end_body(cx);
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
            HttpRoute::Publish(_) | HttpRoute::PublishStored(..) => {
                unreachable!("a publish has a body")
            }
            HttpRoute::Stream(StreamRoute::Read(asked)) => {
                return match Reading::new(*asked, cx) {
                    Ok(reading) => self.begin_read(reading, manner, cx),
                    Err(error) => {
                        self.refuse(&error.into(), &manner, cx);
                        None
                    }
                };
            }
            HttpRoute::Stream(route) => match StreamCall::begin(&route, cx) {
                Ok((worker, request, stream)) => {
                    return self.ask_stream((worker, request), stream, manner, cx);
                }
                Err(error) => self.refuse(&error.into(), &manner, cx),
            },
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

    fn ask_stream(
        &mut self,
        (worker, request): (ShardId, bytes::Bytes),
        stream: StreamCall,
        manner: Manner,
        cx: &mut Context<'_>,
    ) -> Option<Done> {
        let written = match stream {
            StreamCall::List(_) => Written::Spooled,
            StreamCall::Put(_) | StreamCall::Short(_) => Written::Short,
        };
        let call = cx.ask_state(worker, request, written);
        self.pend(call, PendingAnswer::Stream(stream), manner)
    }

    fn begin_read(
        &mut self,
        reading: Reading,
        mut manner: Manner,
        cx: &mut Context<'_>,
    ) -> Option<Done> {
        manner.keep_alive &= manner.takes_chunks && reading.shape() == Shape::Lines;
        let call = cx.ask_state(reading.worker(), reading.request(), Written::Streamed);
        self.pend(call, PendingAnswer::Read(Box::new(reading)), manner)
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
                        write_part(out, part.as_bytes(), manner);
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
            (PendingAnswer::Stream(stream) | PendingAnswer::Storing(stream), answers) => {
                match stream.answered(answers) {
                    Following::Ask(round) => {
                        cx.reserve(call, stream.kept_bytes().max(CALL_RESERVED_BYTES));
                        cx.ask_on(call, round);
                        return self.pending.put(call, one);
                    }
                    Following::Reply(status, body) => {
                        cx.counters().errors += u64::from(status >= 400);
                        write_reply(&mut whole, &json_reply(status, &body), manner, now);
                    }
                }
            }
            (PendingAnswer::Read(reading), answers) => {
                match read_on(reading, answers, (call, manner, now), cx) {
                    ReadStep::GoesOn => return self.pending.put(call, one),
                    ReadStep::Over(end) => whole = end,
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
            (
                "Access-Control-Allow-Methods",
                "GET, HEAD, POST, PUT, DELETE",
            ),
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
        let mut pending = self.pending.iter();
        if let Some((call, one)) = pending.find(|(_, one)| one.follows()) {
            // What was written is whole. A client that is behind can tell by the missing chunk that it was cut off.
            if reason == CloseReason::Ending && one.manner.takes_chunks {
                outboxes.end_slot(conn, *call, http::LAST_CHUNK);
            }
            return;
        }
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

/// Whether a read goes on behind a part.
enum ReadStep {
    GoesOn,
    /// These bytes end its response.
    Over(Vec<u8>),
}

/// Takes the answer of a read's round: writes it, and asks on or ends the response.
fn read_on(
    reading: &mut Reading,
    answers: Result<Answers, CallError>,
    (call, manner, now): (CallId, &Manner, Moment),
    cx: &mut Context<'_>,
) -> ReadStep {
    let is_first = !reading.is_begun();
    let part = reading.answered(answers);
    let shape = reading.shape();
    let write = |out: &mut Vec<u8>, body: &[u8]| {
        if is_first {
            write_read_head(out, shape, manner, now);
        }
        if !body.is_empty() {
            write_part(out, body, manner);
        }
    };
    match part {
        Part::Refused(error) => {
            cx.counters().errors += 1;
            let body = error_body(error.code, &error.text);
            let mut whole = Vec::new();
            write_reply(&mut whole, &json_reply(error.status, &body), manner, now);
            ReadStep::Over(whole)
        }
        Part::More(body, round) => {
            cx.stream(call, |out| write(out, &body));
            cx.ask_on(call, round);
            ReadStep::GoesOn
        }
        Part::Wait(body, request) => {
            cx.stream(call, |out| write(out, &body));
            cx.wait_on(call, reading.worker(), request);
            ReadStep::GoesOn
        }
        Part::End(body) => {
            cx.stream(call, |out| write(out, &body));
            let last = if manner.takes_chunks {
                http::LAST_CHUNK
            } else {
                b""
            };
            ReadStep::Over(last.to_vec())
        }
    }
}

/// Writes the head of a response with a stream's messages.
fn write_read_head(out: &mut Vec<u8>, shape: Shape, manner: &Manner, now: Moment) {
    match shape {
        Shape::Lines => write_head_of(
            out,
            &[("Content-Type", "application/x-ndjson")],
            manner,
            now,
        ),
        Shape::Events => {
            // Proxies must not buffer events.
            let headers = [
                ("Content-Type", "text/event-stream"),
                ("X-Accel-Buffering", "no"),
            ];
            write_head_of(out, &headers, manner, now);
        }
    }
}

/// Asks for a message to be stored in a stream.
fn append_of(
    append: &Append,
    publish: &Publish,
    body: &[u8],
    cx: &Context<'_>,
) -> Result<(ShardId, bytes::Bytes, StreamCall), HttpError> {
    let worker = streams::worker_of(&append.stream, cx)?;
    let Conditions {
        ref id,
        expected_last,
        expected_last_of_topic,
        ttl_ms,
    } = append.conditions;
    let headers = match publish.flags & flag::HEADERS {
        0 => &[],
        // Behind their length.
        _ => publish.attributes.get(2..).unwrap_or_default(),
    };
    let message = Message {
        topic: &publish.topic,
        id: id.as_deref().unwrap_or_default(),
        expected_last: expected_last.map(Sequence),
        expected_last_of_topic: expected_last_of_topic.map(Sequence),
        ttl_ms: ttl_ms.unwrap_or(0),
        headers,
        body,
    };
    let mut out = Vec::new();
    write_append(&mut out, Some(&append.stream), |push| push(&message));
    Ok((worker, out.into(), StreamCall::Short(Short::Any)))
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

/// What the body of a request is for; the route again if it has none.
fn wanted_of(
    route: HttpRoute,
    head: &Head<'_>,
    cx: &Context<'_>,
) -> Result<Result<Wanted, HttpRoute>, Refusal> {
    let none = Conditions::default();
    let reply = head.only("sapwood-reply");
    let wanted = match route {
        HttpRoute::Publish(topic) => Wanted::Publish(publish_of((topic, reply), &none, head, cx)?),
        HttpRoute::PublishStored(topic, conditions) => {
            Wanted::PublishStored(publish_of((topic, reply), &conditions, head, cx)?)
        }
        HttpRoute::Stream(StreamRoute::Append(append)) => {
            let topic = append.topic.clone();
            // Nobody hears it live, who could reply.
            let publish = publish_of((topic, None), &append.conditions, head, cx)?;
            Wanted::Append(Box::new(append), publish)
        }
        HttpRoute::Stream(StreamRoute::Put(stream)) => Wanted::Put(stream),
        route => return Ok(Err(route)),
    };
    Ok(Ok(wanted))
}

impl Publish {
    fn event<'a>(&'a self, payload: &'a [u8]) -> Event<'a> {
        Event {
            space: Space::Topic,
            topic: &self.topic,
            flags: self.flags,
            attributes: &self.attributes,
            payload,
            number: 0,
        }
    }
}

/// The publish that a request with these headers makes to a topic.
fn publish_of(
    (topic, reply): (Vec<u8>, Option<&[u8]>),
    conditions: &Conditions,
    head: &Head<'_>,
    cx: &Context<'_>,
) -> Result<Publish, Refusal> {
    cx.check_topic(Space::Topic, &topic)?;
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
    let own = conditions.headers();
    headers.extend(own.iter().map(|(name, value)| (*name, value.as_slice())));
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
