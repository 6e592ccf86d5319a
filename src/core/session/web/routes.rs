//! Routes of HTTP requests, and who may make them.
//!
//! Owns paths and methods, and the rules about passwords, hosts and origins. Start at [`find`].

use super::monitor::Connz;
use super::streams::{self, Conditions, StreamRoute};
use crate::session::Spoken;
use crate::settings::{Asset, Settings};
use core::net::IpAddr;
use sapwood_wire::http::{Head, HttpError, Method, decode, query_pairs};
use sapwood_wire::json;
use sapwood_wire::websocket::accept_key;

/// Most topics of one request for server-sent events.
const TOPICS_MAX: usize = 1_000;

/// Known WebSocket sub-protocols.
const SUB_PROTOCOLS: [(&str, Spoken); 3] = [
    ("sapwood.text", Spoken::Text),
    ("sapwood.json", Spoken::Json),
    ("sapwood.native", Spoken::Native),
];

/// What a request asks for.
#[derive(Debug)]
pub(super) enum HttpRoute {
    Page(&'static Asset),
    Health,
    Info,
    Varz,
    Connz(Connz),
    Subsz,
    /// Publish to this topic.
    Publish(Vec<u8>),
    /// The same, answered when it is stored.
    PublishStored(Vec<u8>, Conditions),
    Stream(StreamRoute),
    /// Server-sent events of these topics and wildcards.
    Events(Vec<Vec<u8>>),
    WebSocket(Opening),
    /// CORS preflight: what a script of another origin may do.
    Preflight,
}

impl HttpRoute {
    /// Whether it is answered by a call to shards, and changes nothing.
    pub(super) fn is_call(&self) -> bool {
        matches!(
            self,
            HttpRoute::Info | HttpRoute::Varz | HttpRoute::Subsz | HttpRoute::Connz(_)
        )
    }

    /// Whether it stores a message. Those keep their order among themselves, so that many may be under way.
    pub(super) fn stores(&self) -> bool {
        matches!(
            self,
            HttpRoute::PublishStored(..) | HttpRoute::Stream(StreamRoute::Append(_))
        )
    }
}

/// The opening handshake of a WebSocket.
#[derive(Debug)]
pub(super) struct Opening {
    pub spoken: Spoken,
    /// The sub-protocol, if one was asked for.
    pub name: Option<&'static str>,
    pub accept: String,
    /// The request has authenticated the client, or no password is wanted.
    pub is_known: bool,
}

/// The endpoint of a request's path, before its rights are checked.
enum Endpoint {
    Page(&'static Asset),
    Health,
    Info,
    Varz,
    Connz,
    Subsz,
    Topics,
    /// Streams, and the methods that the path takes.
    Streams(&'static str),
    WebSocket,
    Echo,
}

impl Endpoint {
    fn of(path: &str, settings: &Settings) -> Option<Endpoint> {
        Some(match path {
            "/health" | "/healthz" => Endpoint::Health,
            "/info" => Endpoint::Info,
            "/varz" => Endpoint::Varz,
            "/connz" => Endpoint::Connz,
            "/subsz" => Endpoint::Subsz,
            "/ws" => Endpoint::WebSocket,
            "/echo" if settings.web.echo => Endpoint::Echo,
            "/v1/topics" => Endpoint::Topics,
            _ if path.starts_with("/v1/topics/") => Endpoint::Topics,
            _ if path.starts_with("/v1/streams") => Endpoint::Streams(streams::allows(path)?),
            _ => Endpoint::Page(settings.web.page.iter().find(|asset| asset.path == path)?),
        })
    }

    /// The methods that it takes, as text for the Allow header and for people.
    fn allows(&self) -> &'static str {
        match self {
            Endpoint::Topics => "GET, POST, OPTIONS",
            Endpoint::Streams(allows) => allows,
            Endpoint::WebSocket | Endpoint::Echo => "GET, OPTIONS",
            _ => "GET, HEAD, OPTIONS",
        }
    }

    fn takes(&self, method: Method) -> bool {
        match method {
            Method::Options => true,
            Method::Get => self.allows().contains("GET"),
            Method::Head => self.allows().contains("HEAD"),
            Method::Post => self.allows().contains("POST"),
            Method::Put => self.allows().contains("PUT"),
            Method::Delete => self.allows().contains("DELETE"),
            Method::Other => false,
        }
    }
}

/// Why a request has no route, and the allowed methods if the method was wrong.
#[derive(Debug)]
pub(super) struct NoRoute {
    pub error: HttpError,
    pub allow: Option<&'static str>,
}

impl From<HttpError> for NoRoute {
    fn from(error: HttpError) -> NoRoute {
        NoRoute { error, allow: None }
    }
}

pub(super) fn refuse(status: u16, code: &'static str, text: &str) -> NoRoute {
    HttpError::new(status, code, text).into()
}

/// Finds the route of a request, and checks that the client may make it.
pub(super) fn find(head: &Head<'_>, settings: &Settings) -> Result<HttpRoute, NoRoute> {
    check_host(head, settings)?;
    let place = Endpoint::of(head.path, settings).ok_or_else(|| {
        refuse(
            404,
            "not_found",
            "there is nothing at this path; GET / shows what there is",
        )
    })?;
    if !place.takes(head.method) {
        let text = format!("this path takes {}", place.allows());
        return Err(NoRoute {
            error: HttpError::new(405, "method", &text),
            allow: Some(place.allows()),
        });
    }
    if head.method == Method::Options {
        return Ok(HttpRoute::Preflight);
    }
    let opens = matches!(place, Endpoint::WebSocket | Endpoint::Echo);
    // The stream of events would go on for a script that may not read it.
    let is_guarded = opens || matches!(place, Endpoint::Topics | Endpoint::Streams(_));
    if is_guarded && !is_origin_welcome(head, settings) {
        let text = "scripts of this origin may not use this broker, unless --http-origin names it";
        return Err(refuse(403, "origin", text));
    }
    let proof = proof(head, settings);
    if proof == Proof::Wrong || proof == Proof::Missing && !opens && !is_open(&place) {
        let text = "this broker wants a password, by Authorization: Bearer or Basic";
        return Err(refuse(401, "authentication", text));
    }
    Ok(match place {
        Endpoint::Page(asset) => HttpRoute::Page(asset),
        Endpoint::Health => HttpRoute::Health,
        Endpoint::Info => HttpRoute::Info,
        Endpoint::Varz => HttpRoute::Varz,
        Endpoint::Connz => HttpRoute::Connz(Connz::asked(head)?),
        Endpoint::Subsz => HttpRoute::Subsz,
        Endpoint::Topics => topics(head)?,
        Endpoint::Streams(_) => HttpRoute::Stream(streams::find(head)?),
        Endpoint::WebSocket | Endpoint::Echo => {
            let mut opening = opening(head)?;
            opening.is_known = proof == Proof::Right;
            if let Endpoint::Echo = place {
                opening.spoken = Spoken::Echo;
            }
            HttpRoute::WebSocket(opening)
        }
    })
}

/// Whether a request brings the right password, or none is wanted.
pub(super) fn is_let_in(head: &Head<'_>, settings: &Settings) -> bool {
    proof(head, settings) == Proof::Right
}

/// Whether an endpoint needs no password.
fn is_open(place: &Endpoint) -> bool {
    matches!(place, Endpoint::Health)
}

/// Result of checking a request's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Right,
    Wrong,
    Missing,
}

fn proof(head: &Head<'_>, settings: &Settings) -> Proof {
    if settings.password.is_none() {
        return Proof::Right;
    }
    if head.values("authorization").next().is_none() {
        return Proof::Missing;
    }
    let is_right = head.only("authorization").is_some_and(|value| {
        let blank = value.iter().position(|&byte| byte == b' ');
        let (scheme, rest) = value.split_at(blank.unwrap_or(value.len()));
        let rest = rest.trim_ascii();
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return settings.is_let_in(None, Some(rest));
        }
        let decoded = scheme
            .eq_ignore_ascii_case(b"basic")
            .then(|| json::from_base64(rest));
        let decoded = decoded.flatten().unwrap_or_default();
        let colon = decoded.iter().position(|&byte| byte == b':');
        colon.is_some_and(|colon| {
            let user = Some(&decoded[..colon]).filter(|user| !user.is_empty());
            settings.is_let_in(user, Some(&decoded[colon + 1..]))
        })
    });
    match is_right {
        true => Proof::Right,
        false => Proof::Wrong,
    }
}

/// A host name or address without its port.
fn host_name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// Without a password, refuses host names that others could point to this machine (DNS rebinding): a page with such a
/// name would be of the same origin.
fn check_host(head: &Head<'_>, settings: &Settings) -> Result<(), NoRoute> {
    let Some(host) = head.host else {
        return Ok(());
    };
    let host = String::from_utf8_lossy(host);
    let name = host_name(&host);
    let is_local = name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok();
    let is_given = settings.web.origins.iter().any(|origin| {
        let given = origin.split_once("://").map_or(&**origin, |(_, rest)| rest);
        origin == "*" || host_name(given).eq_ignore_ascii_case(name)
    });
    if settings.password.is_some() || is_local || is_given {
        return Ok(());
    }
    let text = "without a password, this broker answers to addresses, localhost and the hosts given by --http-origin";
    Err(refuse(403, "host", text))
}

/// What stands for any origin, in the settings and in a response.
pub(super) const ANY_ORIGIN: &str = "*";

/// Whose scripts may read the response, if those of the request's origin may: that origin if it is named in the settings, else any.
pub(super) fn readable_by<'a>(head: &Head<'a>, settings: &Settings) -> Option<&'a str> {
    let origin = std::str::from_utf8(head.only("origin")?).ok()?;
    let origins = &settings.web.origins;
    let is_named = origins
        .iter()
        .any(|given| given.eq_ignore_ascii_case(origin));
    let is_any = origins.iter().any(|given| given == ANY_ORIGIN);
    match is_named {
        true => Some(origin),
        false => is_any.then_some(ANY_ORIGIN),
    }
}

/// Whether scripts of this origin may change something: it is the origin of the broker's own page, or is configured.
fn is_origin_welcome(head: &Head<'_>, settings: &Settings) -> bool {
    if head.values("origin").next().is_none() {
        // Not a browser: browsers always send Origin with such requests.
        return true;
    }
    let origin = head
        .only("origin")
        .and_then(|origin| std::str::from_utf8(origin).ok());
    let host = head.host.and_then(|host| std::str::from_utf8(host).ok());
    let is_same = origin.zip(host).is_some_and(|(origin, host)| {
        let of = origin.split_once("://").map(|(_, rest)| rest);
        of.is_some_and(|of| of.eq_ignore_ascii_case(host))
    });
    let may = match readable_by(head, settings) {
        // A browser sends a password that its user once typed for any page that asks it to.
        Some(ANY_ORIGIN) => settings.password.is_none() || !sends_basic(head),
        Some(_) => true,
        None => false,
    };
    is_same || may
}

/// Whether credentials are of the kind that a browser keeps, and sends by itself.
fn sends_basic(head: &Head<'_>) -> bool {
    let mut values = head.values("authorization");
    values.any(|value| {
        let scheme = value.get(..5).unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"basic")
    })
}

pub(super) fn invalid(text: &str) -> NoRoute {
    refuse(400, "request_invalid", text)
}

/// The topics of a path and its query.
fn topics(head: &Head<'_>) -> Result<HttpRoute, NoRoute> {
    let wrong = || invalid("a `%` is followed by two hexadecimal digits");
    let mut topics = Vec::new();
    if let Some(topic) = head.path.strip_prefix("/v1/topics/") {
        topics.push(decode(topic, false).ok_or_else(wrong)?);
    }
    let in_path = topics.len();
    let mut is_stored = false;
    for pair in query_pairs(head.query) {
        let (name, value) = pair.ok_or_else(wrong)?;
        // Others are left out of account: clients add some of their own, such as `_=1` against caches.
        if name == b"topic" {
            topics.push(value);
        } else if name == b"stored" {
            is_stored = match value.as_slice() {
                b"1" => true,
                b"" | b"0" => false,
                _ => return Err(invalid("`stored` is 1 or 0")),
            };
        }
    }
    if head.method == Method::Post {
        return match (topics.pop(), in_path, topics.len()) {
            (Some(topic), 1, 0) if is_stored => {
                Ok(HttpRoute::PublishStored(topic, Conditions::of(head)?))
            }
            (Some(topic), 1, 0) => Ok(HttpRoute::Publish(topic)),
            _ => Err(invalid(
                "a publish goes to one topic, /v1/topics/{topic}, without ?topic=",
            )),
        };
    }
    match topics.len() {
        0 => Err(invalid("name a topic: /v1/topics/{topic}, or ?topic=")),
        1..=TOPICS_MAX => Ok(HttpRoute::Events(topics)),
        _ => Err(invalid("at most 1,000 topics at once")),
    }
}

/// Whether a client comes back to an event stream. Those that may send no header of their own say so in the query.
pub(super) fn has_been_away(head: &Head<'_>) -> bool {
    let in_query = query_pairs(head.query).flatten();
    let mut in_query = in_query.filter(|(name, _)| name == b"lastEventId");
    head.values("last-event-id").any(|id| !id.is_empty()) || in_query.any(|(_, id)| !id.is_empty())
}

/// Checks a request to open a WebSocket, and chooses the sub-protocol.
fn opening(head: &Head<'_>) -> Result<Opening, NoRoute> {
    let is_upgrade = head.lists("connection", "upgrade") && head.lists("upgrade", "websocket");
    if !is_upgrade || !head.is_current {
        let text =
            "a WebSocket is opened here: Connection: Upgrade, Upgrade: websocket, in HTTP/1.1";
        return Err(refuse(426, "request_invalid", text));
    }
    if head.only("sec-websocket-version") != Some(b"13") {
        return Err(refuse(
            426,
            "request_invalid",
            "Sec-WebSocket-Version is 13",
        ));
    }
    let key = head.only("sec-websocket-key").unwrap_or_default();
    if json::from_base64(key).is_none_or(|key| key.len() != 16) {
        return Err(invalid("Sec-WebSocket-Key is 16 bytes in base64"));
    }
    let asked = head.values("sec-websocket-protocol");
    let mut asked = asked.flat_map(|list| list.split(|&byte| byte == b','));
    let mut is_asked = false;
    let chosen = asked.find_map(|name| {
        is_asked = true;
        let name = name.trim_ascii();
        let mut known = SUB_PROTOCOLS.iter();
        known.find(|(other, _)| other.as_bytes() == name)
    });
    let (name, spoken) = match (chosen, is_asked) {
        (Some(&(name, spoken)), _) => (Some(name), spoken),
        (None, false) => (None, Spoken::Text),
        (None, true) => {
            let text = "of sub-protocols sapwood.text, sapwood.json and sapwood.native are known";
            return Err(invalid(text));
        }
    };
    Ok(Opening {
        spoken,
        name,
        accept: accept_key(key),
        is_known: false,
    })
}
