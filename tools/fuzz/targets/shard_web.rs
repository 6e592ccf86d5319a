//! The web's part of the target `shard`: what clients of HTTP, WebSocket and JSON say, and what they must be able to read.

use sapwood_core::{Protocol, Spoken};
use sapwood_wire::json;
use sapwood_wire::native::{self, Hello, Parsed};
use sapwood_wire::websocket::{parse_close, server_frame};
use serde_json::Value;

/// How many connections of the web there are.
pub const CONNECTIONS: usize = 9;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

const NAMES: [&str; 10] = ["a", "b", "a.b", "*", "a.*", ">", "$x", "a..b", "$all", ""];

/// What a connection is for: two of HTTP or JSON as their first bytes say, three that are upgraded, four that are from the
/// start.
pub fn protocol(place: usize, password: bool) -> Protocol {
    let of = |spoken| Protocol::WebSocket { spoken, is_known: !password };
    match place {
        5 => of(Spoken::Text),
        6 => of(Spoken::Json),
        7 => of(Spoken::Native),
        8 => of(Spoken::Echo),
        _ => Protocol::Web,
    }
}

/// What is spoken once the connection has begun as [`begin`] says; `None` is HTTP.
fn spoken(place: usize) -> Option<Spoken> {
    match place {
        2 | 5 => Some(Spoken::Text),
        3 | 6 => Some(Spoken::Json),
        4 | 7 => Some(Spoken::Native),
        8 => Some(Spoken::Echo),
        _ => None,
    }
}

/// What most of what follows needs.
pub fn begin(place: usize, password: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if let 2..=4 = place {
        let name = ["text", "json", "native"][place - 2];
        out.extend_from_slice(&request("GET /ws", password, &upgrade(&format!("sapwood.{name}"))));
    }
    if spoken(place) == Some(Spoken::Native) && !password {
        let mut hello = Vec::new();
        native::write_hello(&mut hello, &Hello::default());
        frame(&mut out, 0x82, &hello);
    }
    out
}

fn upgrade(name: &str) -> String {
    format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Protocol: {name}\r\n"
    )
}

fn request(line: &str, password: bool, headers: &str) -> Vec<u8> {
    let proof = if password { "Authorization: Bearer a\r\n" } else { "" };
    format!("{line} HTTP/1.1\r\nHost: localhost\r\n{proof}{headers}\r\n").into_bytes()
}

/// Appends a client's frame, masked.
fn frame(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    const MASK: [u8; 4] = [1, 2, 3, 4];
    out.push(first);
    match u8::try_from(payload.len()) {
        Ok(length @ ..126) => out.push(0x80 | length),
        _ => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Appends what a client says: mostly what makes sense.
pub fn append(input: &mut Vec<u8>, place: usize, how: u8, bytes: &[u8]) {
    let [kind, fields @ ..] = bytes else { return };
    let fields = &fields[..fields.len().min(4000)];
    let has_password = how & 4 != 0;
    match spoken(place) {
        _ if how % 4 == 0 => input.extend_from_slice(bytes),
        None if place == 0 => input.extend_from_slice(&asked(*kind, fields, has_password)),
        None => {
            input.extend_from_slice(&said_in_json(*kind, fields));
            input.extend_from_slice(if has_password { b"\n" } else { b"\r\n" });
        }
        Some(spoken) => messages(input, spoken, *kind, how, fields),
    }
}

/// A request of HTTP.
fn asked(kind: u8, fields: &[u8], password: bool) -> Vec<u8> {
    let name = name(fields, 0);
    let body = fields.get(1..).unwrap_or_default();
    let paths = ["/", "/health", "/info", "/varz", "/connz?subs=1", "/subsz", "/nothing", "/app.js"];
    match kind % 12 {
        0 | 1 => {
            let headers = format!("Content-Length: {}\r\n", body.len());
            [request(&format!("POST /v1/topics/{name}"), password, &headers), body.to_vec()].concat()
        }
        2 => {
            let headers = "Transfer-Encoding: chunked\r\nSapwood-Reply: b\r\nSapwood-Header: a: b\r\n";
            let head = request(&format!("POST /v1/topics/{name}"), password, headers);
            let (first, second) = body.split_at(body.len() / 2);
            let mut out = head;
            for chunk in [first, second].into_iter().filter(|chunk| !chunk.is_empty()) {
                out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\nA: b\r\n\r\n");
            out
        }
        3 => request(&format!("GET /v1/topics/{name}?topic=b"), password, "Last-Event-ID: 7\r\n"),
        4 => request("HEAD /", password, ""),
        5 => request("OPTIONS /v1/topics/a", password, "Origin: http://localhost\r\n"),
        6 => request("GET /echo", password, &upgrade("sapwood.text")),
        7 => request("POST /v1/topics/a", password, "Expect: 100-continue\r\nContent-Length: 3\r\n"),
        8 => request("GET /ws", password, &upgrade("sapwood.json, sapwood.text")),
        _ => request(&format!("GET {}", paths[body.len() % paths.len()]), password, ""),
    }
}

fn name(fields: &[u8], at: usize) -> &'static str {
    NAMES[usize::from(fields.get(at).copied().unwrap_or_default()) % NAMES.len()]
}

/// A frame of the JSON protocol.
fn said_in_json(kind: u8, fields: &[u8]) -> Vec<u8> {
    let (first, second) = (name(fields, 0), name(fields, 1));
    let body = fields.get(2..).unwrap_or_default();
    let mut text = Vec::new();
    json::write_text(&mut text, &String::from_utf8_lossy(body));
    let text = String::from_utf8(text).expect("JSON is text");
    let id = body.len() + 1;
    let base64 = json::base64(body);
    let member = body.len() % 3;
    let said = match kind % 10 {
        0 | 1 => format!("\"publish\",\"topic\":\"{first}\",\"data\":{text},\"id\":{id}"),
        2 => format!("\"publish\",\"topic\":\"{first}\",\"data_b64\":\"{base64}\""),
        3 => format!(
            "\"publish\",\"topic\":\"{first}\",\"reply\":\"{second}\",\"headers\":[[\"a\",{text}]],\"last\":true,\
             \"when\":\"unheard\",\"id\":{id}"
        ),
        4 => format!("\"subscribe\",\"filter\":\"{first}\",\"id\":{id}"),
        5 => format!("\"subscribe\",\"filter\":\"{first}\",\"group\":\"g\",\"member\":{member},\"id\":{id}"),
        6 => format!("\"unsubscribe\",\"filter\":\"{first}\""),
        7 => format!("\"ping\",\"id\":{id}"),
        8 => format!("\"drain\",\"id\":{id}"),
        _ => format!("\"hello\",\"password\":\"a\",\"policy\":\"drop-oldest\",\"name\":{text},\"id\":{id}"),
    };
    format!("{{\"op\":{said}}}").into_bytes()
}

/// A text command.
fn said_in_text(kind: u8, fields: &[u8]) -> Vec<u8> {
    let (first, second) = (name(fields, 0), name(fields, 1));
    let body = fields.get(2..).unwrap_or_default();
    let words = match kind % 10 {
        0 | 1 => format!("PUBLISH {first} "),
        2 => format!("SUBSCRIBE {first} {second}"),
        3 => format!("PSUBSCRIBE {first} {second}"),
        4 => format!("UNSUBSCRIBE {first}"),
        5 => format!("PUNSUBSCRIBE {first}"),
        6 => "UNSUBSCRIBE".to_string(),
        7 => "PING ".to_string(),
        8 => "AUTH a".to_string(),
        _ => return body.to_vec(),
    };
    let has_body = matches!(kind % 10, 0 | 1 | 7);
    [words.as_bytes(), if has_body { body } else { b"" }].concat()
}

/// A message in one frame or two, or a control frame.
fn messages(input: &mut Vec<u8>, spoken: Spoken, kind: u8, how: u8, fields: &[u8]) {
    let message = match spoken {
        Spoken::Text => said_in_text(kind, fields),
        Spoken::Json => said_in_json(kind, fields),
        Spoken::Native => {
            let mut out = Vec::new();
            native::write_frame(&mut out, kind, |out| out.extend_from_slice(fields));
            out
        }
        Spoken::Echo => fields.to_vec(),
    };
    let is_binary = spoken == Spoken::Native || spoken != Spoken::Json && std::str::from_utf8(&message).is_err();
    let opcode = if is_binary { 2 } else { 1 };
    match kind / 10 {
        20 => return frame(input, 0x89, &fields[..fields.len().min(125)]),
        21 => return frame(input, 0x88, &fields[..fields.len().min(125)]),
        22 => return frame(input, kind, fields),
        _ => {}
    }
    if how % 4 == 1 {
        return frame(input, 0x80 | opcode, &message);
    }
    let (first, second) = message.split_at(message.len() / 2);
    frame(input, opcode, first);
    if how % 4 == 2 {
        frame(input, 0x89, b"");
    }
    frame(input, 0x80, second);
}

/// A body that comes in chunks, and how many bytes it takes; `None` while it is not whole.
fn unchunked(mut bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let all = bytes.len();
    let mut whole = Vec::new();
    loop {
        let line = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[..line]).expect("a chunk's size is text");
        let size = usize::from_str_radix(size, 16).expect("a chunk's size is hexadecimal");
        let chunk = bytes.get(line + 2..line + 4 + size)?;
        assert_eq!(&chunk[size..], b"\r\n", "the end of a chunk");
        whole.extend_from_slice(&chunk[..size]);
        bytes = &bytes[line + 4 + size..];
        if size == 0 {
            return Some((whole, all - bytes.len()));
        }
    }
}

/// What a client has understood of what it read.
enum Mode {
    /// Nothing has come, or answers of HTTP.
    Answers,
    Events,
    Lines,
    Socket(Spoken),
}

/// Reads what the broker writes to a connection of the web, and asserts that it can be read.
pub struct Reader {
    mode: Mode,
    read: Vec<u8>,
    last_id: u64,
    /// A close has come.
    is_over: bool,
}

impl Reader {
    pub fn new(place: usize) -> Reader {
        let mode = match protocol(place, false) {
            Protocol::WebSocket { spoken, .. } => Mode::Socket(spoken),
            _ => Mode::Answers,
        };
        Reader { mode, read: Vec::new(), last_id: 0, is_over: false }
    }

    pub fn take(&mut self, bytes: &[u8]) {
        self.read.extend_from_slice(bytes);
        let read = std::mem::take(&mut self.read);
        let mut at = 0;
        // Ends because each part has bytes.
        while at < read.len() {
            let rest = &read[at..];
            let taken = match self.mode {
                Mode::Answers if rest[0] == b'{' => {
                    self.mode = Mode::Lines;
                    continue;
                }
                Mode::Answers => self.answer(rest),
                Mode::Events => self.event(rest),
                Mode::Lines => line(rest),
                Mode::Socket(spoken) => self.message(spoken, rest),
            };
            match taken {
                Some(taken) => at += taken,
                None => break,
            }
        }
        self.read = read[at..].to_vec();
    }

    fn answer(&mut self, bytes: &[u8]) -> Option<usize> {
        const START: &[u8] = b"HTTP/1.1 ";
        let known = bytes.len().min(START.len());
        assert_eq!(bytes[..known], START[..known], "an answer, or the end of a body: {}", bytes.escape_ascii());
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&bytes[..end]).expect("headers are text");
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        if head.starts_with("HTTP/1.1 101 ") {
            assert_eq!(header("Sec-WebSocket-Accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
            self.mode = Mode::Socket(match header("Sec-WebSocket-Protocol") {
                Some("sapwood.json") => Spoken::Json,
                Some("sapwood.native") => Spoken::Native,
                // The same path has text commands and echoes.
                _ => Spoken::Echo,
            });
            return Some(end);
        }
        if header("Content-Type") == Some("text/event-stream") {
            self.mode = Mode::Events;
            return Some(end);
        }
        let length: usize = header("Content-Length").map_or(0, |length| length.parse().expect("a length"));
        let body = &bytes[end..];
        // A HEAD is answered by headers alone; no body here begins so.
        let is_bare = body.len() >= START.len() && body.starts_with(START);
        let is_chunked = header("Transfer-Encoding") == Some("chunked");
        if (length > 0 || is_chunked) && is_bare {
            return Some(end);
        }
        if is_chunked {
            let (whole, length) = unchunked(body)?;
            let _: Value = serde_json::from_slice(&whole).expect("a body of JSON in chunks");
            return Some(end + length);
        }
        let body = body.get(..length)?;
        if header("Content-Type") == Some("application/json") {
            let _: Value = serde_json::from_slice(body).expect("a body of JSON");
        }
        Some(end + length)
    }

    fn event(&mut self, bytes: &[u8]) -> Option<usize> {
        let end = bytes.windows(2).position(|pair| pair == b"\n\n")?;
        let block = std::str::from_utf8(&bytes[..end]).expect("events are text");
        let lines: Vec<&str> = block.split('\n').collect();
        match lines.as_slice() {
            [":"] => {}
            ["event: gap", data] => drop(object(data.strip_prefix("data: ").expect("data").as_bytes())),
            [id, data] => {
                let id = id.strip_prefix("id: ").expect("an id").parse().expect("a number");
                assert!(id > self.last_id, "an id that is not larger");
                self.last_id = id;
                object(data.strip_prefix("data: ").expect("data").as_bytes());
            }
            _ => panic!("no event: {block}"),
        }
        Some(end + 2)
    }

    fn message(&mut self, spoken: Spoken, bytes: &[u8]) -> Option<usize> {
        assert!(!self.is_over, "behind a close: {}", bytes.escape_ascii());
        assert!(bytes[0] & 0xf0 == 0x80 && bytes.get(1).is_none_or(|second| second & 0x80 == 0), "a whole message");
        let (opcode, range) = server_frame(bytes)?;
        let (payload, end) = (&bytes[range.clone()], range.end);
        let is_text = std::str::from_utf8(payload).is_ok();
        match (opcode, spoken) {
            (8, _) => {
                parse_close(payload).expect("a close that may be sent");
                self.is_over = true;
            }
            (9 | 10, _) => {}
            (1, Spoken::Json) => drop(object(payload)),
            (2, Spoken::Native) => frames(payload),
            (1, Spoken::Text | Spoken::Echo) => assert!(is_text),
            (2, Spoken::Text) => assert!(!is_text, "a text in a binary message"),
            (2, Spoken::Echo) => {}
            _ => panic!("opcode {opcode} where {spoken:?} is spoken"),
        }
        Some(end)
    }
}

/// One frame of JSON, and the end of its line.
fn line(bytes: &[u8]) -> Option<usize> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let value = object(&bytes[..end]);
    assert!(value["op"].is_string(), "{value}");
    Some(end + 1)
}

fn object(bytes: &[u8]) -> Value {
    let value = serde_json::from_slice(bytes);
    let value: Value = value.unwrap_or_else(|error| panic!("{error}: {}", bytes.escape_ascii()));
    assert!(value.is_object());
    value
}

fn frames(payload: &[u8]) {
    let mut at = 0;
    // Ends because a frame has five bytes at least.
    while at < payload.len() {
        match native::parse_from_broker(&payload[at..]).expect("a frame of the broker's") {
            Parsed::Frame { length, .. } => at += length,
            other => panic!("part of a frame: {other:?}"),
        }
    }
}
