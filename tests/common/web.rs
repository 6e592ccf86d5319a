//! Raw connections to the listener of HTTP: bytes out, one answer, event or message at a time in.
//!
//! It reads the framing of RFC 9112, RFC 6455 and of server-sent events, and is strict where they are: what breaks them is an
//! error that says so. It knows nothing of what the broker should answer. Functions that begin with `try_` give such an error
//! back, so that a table of cases can go on and name them all; the others panic.

// Each test binary compiles this module for itself and uses a part of it.
#![allow(dead_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::common::VALUE_SECONDS_MAX;
use super::frames::{Said, accept_of, frames, parse_frame};

/// As many as keep two processors busy while each waits for an answer now and then.
const THREADS: usize = 4;

/// A moment in which the broker reads what stands before a cut. If it does not, a case tests less and still holds.
const CUT_PAUSE: Duration = Duration::from_micros(30);

/// How bytes are handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Whole,
    /// In two pieces, the first of so many bytes.
    At(usize),
    /// In pieces of so many bytes.
    Pieces(usize),
}

/// Whole, byte by byte, and cut at every place; a long input in two ways that take less.
pub fn cuts(length: usize) -> Vec<Cut> {
    match length {
        0..=1 => vec![Cut::Whole],
        2..=160 => {
            let places = (1..length).map(Cut::At);
            [Cut::Whole, Cut::Pieces(1)]
                .into_iter()
                .chain(places)
                .collect()
        }
        161..=2_000 => vec![Cut::Whole, Cut::Pieces(1)],
        _ => vec![Cut::Whole, Cut::Pieces(1_021)],
    }
}

/// Runs `check` on every item, some at a time, and panics with all that they say was wrong.
pub fn check_all<T: Sync>(items: &[T], check: impl Fn(&T) -> Result<(), String> + Sync) {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(what) = check(item) {
                        wrong.lock().unwrap().push(what);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    let count = items.len();
    assert!(
        wrong.is_empty(),
        "{} of {count} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// A TCP connection, and what came of it and nobody has taken yet.
pub struct Wire {
    stream: TcpStream,
    came: Vec<u8>,
    /// So many bytes of that have been taken; they are dropped a megabyte at a time, because many messages are short.
    taken: usize,
    /// The peer did not close in order.
    pub was_reset: bool,
}

impl Wire {
    pub fn dial(port: u16) -> Wire {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .unwrap_or_else(|error| panic!("cannot connect to port {port}: {error}"));
        stream.set_nodelay(true).unwrap();
        // A broker that does not read on is found out, instead of stopping the test.
        stream.set_write_timeout(Some(VALUE_SECONDS_MAX)).unwrap();
        Wire {
            stream,
            came: Vec::new(),
            taken: 0,
            was_reset: false,
        }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// What came and nobody has taken yet.
    pub fn unread(&self) -> &[u8] {
        &self.came[self.taken..]
    }

    /// Writes bytes. A peer that has closed is no error here: reading tells.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// The same, in pieces.
    pub fn send_cut(&mut self, bytes: &[u8], cut: Cut) {
        let first = match cut {
            Cut::Whole => bytes.len(),
            Cut::At(place) => place.min(bytes.len()),
            Cut::Pieces(length) => {
                for piece in bytes.chunks(length) {
                    self.send(piece);
                    thread::sleep(CUT_PAUSE);
                }
                return;
            }
        };
        self.send(&bytes[..first]);
        if first < bytes.len() {
            thread::sleep(CUT_PAUSE);
            self.send(&bytes[first..]);
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Waits for bytes; false once the peer has closed.
    pub fn fill(&mut self, deadline: Instant) -> Result<bool, String> {
        let mut chunk = [0; 64 * 1024];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!(
                    "nothing more in time; unread: {}",
                    shown(self.unread())
                ));
            }
            let left = left.max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).unwrap();
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(length) => {
                    self.came.extend_from_slice(&chunk[..length]);
                    return Ok(true);
                }
                Err(error) => match error.kind() {
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                        self.was_reset = true;
                        return Ok(false);
                    }
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    _ => return Err(format!("reading failed: {error}")),
                },
            }
        }
    }

    /// Reads until `parse` finds something at the start of what came; `None` once the peer has closed without it.
    pub fn try_until<T>(
        &mut self,
        mut parse: impl FnMut(&[u8]) -> Result<Option<(T, usize)>, String>,
    ) -> Result<Option<T>, String> {
        let deadline = Instant::now() + VALUE_SECONDS_MAX;
        loop {
            if let Some((value, length)) = parse(self.unread())? {
                self.taken += length;
                if self.taken == self.came.len() || self.taken > 1_000_000 {
                    self.came.drain(..self.taken);
                    self.taken = 0;
                }
                return Ok(Some(value));
            }
            if !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Waits until the peer closes, and gives all that came before that.
    pub fn try_rest(&mut self) -> Result<Vec<u8>, String> {
        let deadline = Instant::now() + VALUE_SECONDS_MAX;
        while self.fill(deadline)? {}
        let rest = self.unread().to_vec();
        (self.came, self.taken) = (Vec::new(), 0);
        Ok(rest)
    }

    /// Waits until the peer closes, which must send nothing more.
    pub fn try_expect_close(&mut self) -> Result<(), String> {
        match self.try_rest()? {
            rest if rest.is_empty() => Ok(()),
            rest => Err(format!("more before the close: {}", shown(&rest))),
        }
    }

    pub fn expect_close(&mut self) {
        self.try_expect_close()
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// A line without its LF; the connection must not end before.
    pub fn line(&mut self) -> String {
        let line = self.try_until(|bytes| {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            Ok(end.map(|end| (bytes[..end].to_vec(), end + 1)))
        });
        let line = line.unwrap_or_else(|error| panic!("{error}"));
        let line =
            line.unwrap_or_else(|| panic!("the end, behind a part: {}", shown(self.unread())));
        String::from_utf8(line).expect("a line is UTF-8")
    }

    /// Nothing comes for a moment.
    pub fn hears_nothing(&mut self) {
        let came = self.fill(Instant::now() + Duration::from_millis(50));
        assert!(came.is_err(), "more came: {}", shown(self.unread()));
    }
}

/// Bytes as people read them, not too many.
pub fn shown(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(300)];
    let more = bytes.len() - start.len();
    let text = format!("\"{}\"", start.escape_ascii());
    match more {
        0 => text,
        more => format!("{text} and {more} bytes more"),
    }
}

/// An answer of HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header that stands once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let first = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} stands twice in {self:?}");
        first
    }

    pub fn json(&self) -> Json {
        assert_eq!(
            self.header("Content-Type").unwrap_or("none"),
            "application/json"
        );
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of an error, which must be written as the specification says.
    pub fn code(&self) -> String {
        let json = self.json();
        let text = json["error"]["text"].as_str().unwrap_or_default();
        assert!(!text.is_empty(), "no text in {json}");
        let fields = |json: &Json| json.as_object().map_or(0, |object| object.len());
        assert_eq!((fields(&json), fields(&json["error"])), (1, 2), "{json}");
        json["error"]["code"]
            .as_str()
            .expect("a code is a string")
            .to_string()
    }

    fn is_chunked(&self) -> bool {
        self.header("Transfer-Encoding") == Some("chunked")
    }
}

/// Whether an answer's request was HEAD, whose answer has no body whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Head,
    Other,
}

/// A connection that speaks HTTP.
pub struct Http {
    pub wire: Wire,
    port: u16,
}

impl Http {
    pub fn dial(port: u16) -> Http {
        Http {
            wire: Wire::dial(port),
            port,
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes);
    }

    /// Sends a request with `Host` and `Content-Length`, and reads its answer.
    pub fn ask(&mut self, line: &str, headers: &[&str], body: &[u8]) -> Answer {
        self.wire.send(request(self.port, line, headers, body));
        self.answer()
    }

    /// The next answer, which must come.
    pub fn answer(&mut self) -> Answer {
        let answer = self
            .try_answer(Asked::Other)
            .unwrap_or_else(|error| panic!("{error}"));
        answer.expect("the broker closed without an answer")
    }

    /// The next answer; `None` if the broker closed without one.
    pub fn try_answer(&mut self, asked: Asked) -> Result<Option<Answer>, String> {
        let Some(mut answer) = self.try_head()? else {
            return match self.wire.unread().is_empty() {
                true => Ok(None),
                false => Err(format!("the end within {}", shown(self.wire.unread()))),
            };
        };
        if asked == Asked::Head || matches!(answer.status, 100..=199 | 204 | 304) {
            return Ok(Some(answer));
        }
        if answer.is_chunked() {
            // Ends: the last chunk is empty, and without it the body is not whole.
            loop {
                let chunk = self.try_chunk()?.ok_or("the end within a chunked body")?;
                if chunk.is_empty() {
                    return Ok(Some(answer));
                }
                answer.body.extend_from_slice(&chunk);
            }
        }
        let Some(length) = answer.header("Content-Length") else {
            answer.body = self.wire.try_rest()?;
            return Ok(Some(answer));
        };
        let length: usize = length.parse().map_err(|_| format!("{answer:?}"))?;
        let body = self.wire.try_until(|bytes| {
            Ok((bytes.len() >= length).then(|| (bytes[..length].to_vec(), length)))
        })?;
        answer.body = body.ok_or("the end within a body")?;
        Ok(Some(answer))
    }

    /// The next answer up to its body.
    pub fn try_head(&mut self) -> Result<Option<Answer>, String> {
        self.wire.try_until(parse_head)
    }

    /// The next chunk of a body, empty if it is the last; `None` if the broker closed before it.
    pub fn try_chunk(&mut self) -> Result<Option<Vec<u8>>, String> {
        self.wire.try_until(parse_chunk)
    }

    pub fn expect_close(&mut self) {
        self.wire.expect_close();
    }
}

/// One answer on a connection of its own.
pub fn ask(port: u16, line: &str, headers: &[&str], body: &[u8]) -> Answer {
    Http::dial(port).ask(line, headers, body)
}

/// A request: `line` is its method and target; a `Host` among the headers replaces the right one.
pub fn request(port: u16, line: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{line} HTTP/1.1\r\n");
    if !headers.iter().any(|header| header.starts_with("Host:")) {
        text += &format!("Host: 127.0.0.1:{port}\r\n");
    }
    for header in headers {
        text += &format!("{header}\r\n");
    }
    if !body.is_empty() || line.starts_with("POST") {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    text += "\r\n";
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn parse_head(bytes: &[u8]) -> Result<Option<(Answer, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let wrong = |what: &str| format!("{what}: {}", shown(&bytes[..end]));
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| wrong("a head that is no text"))?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|line| line.split_once(' '))
        .filter(|(status, _)| status.len() == 3)
        .and_then(|(status, _)| status.parse().ok());
    let mut answer = Answer {
        status: status.ok_or_else(|| wrong("no status line"))?,
        ..Answer::default()
    };
    for line in lines {
        let header = line.split_once(": ").filter(|(name, value)| {
            let is_token = name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            is_token && !value.contains(['\r', '\n', '\0'])
        });
        let (name, value) = header.ok_or_else(|| wrong("no header"))?;
        answer.headers.push((name.to_string(), value.to_string()));
    }
    if answer.header("Transfer-Encoding").is_some() && answer.header("Content-Length").is_some() {
        return Err(wrong("two lengths"));
    }
    Ok(Some((answer, end + 4)))
}

/// A chunk's data; the last is empty. Trailers are none of the broker's.
fn parse_chunk(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else {
        return Ok(None);
    };
    let size = std::str::from_utf8(&bytes[..end])
        .ok()
        .and_then(|text| usize::from_str_radix(text, 16).ok());
    let size = size.ok_or_else(|| format!("no chunk: {}", shown(bytes)))?;
    let whole = end + 2 + size + 2;
    if bytes.len() < whole {
        return Ok(None);
    }
    match bytes[whole - 2..whole] == *b"\r\n" {
        true => Ok(Some((bytes[end + 2..whole - 2].to_vec(), whole))),
        false => Err(format!("no CR LF behind a chunk: {}", shown(bytes))),
    }
}

/// A stream of server-sent events.
pub struct Events {
    http: Http,
    pub head: Answer,
    text: Vec<u8>,
}

impl Events {
    /// Asks for a stream, which the broker must give.
    pub fn open(port: u16, target: &str, headers: &[&str]) -> Events {
        Events::asked(port, request(port, &format!("GET {target}"), headers, b""))
    }

    /// The same by HTTP/1.0.
    pub fn open_old(port: u16, target: &str, headers: &[&str]) -> Events {
        let headers: String = headers
            .iter()
            .map(|header| format!("{header}\r\n"))
            .collect();
        Events::asked(port, format!("GET {target} HTTP/1.0\r\n{headers}\r\n"))
    }

    fn asked(port: u16, request: impl AsRef<[u8]>) -> Events {
        let mut http = Http::dial(port);
        http.send(request);
        let head = http.try_head().unwrap_or_else(|error| panic!("{error}"));
        let head = head.expect("the broker closed without an answer");
        assert_eq!(head.status, 200, "{head:?}");
        let kind = head.header("Content-Type").unwrap_or_default();
        assert_eq!(kind.split(';').next(), Some("text/event-stream"));
        Events {
            http,
            head,
            text: Vec::new(),
        }
    }

    pub fn wire(&mut self) -> &mut Wire {
        &mut self.http.wire
    }

    /// The fields of the next event in their order; comments are left out, and so is an event of nothing else.
    /// `None` at the end of the stream.
    pub fn fields(&mut self) -> Option<Vec<(String, String)>> {
        loop {
            let end = self.text.windows(2).position(|two| two == b"\n\n");
            if let Some(end) = end {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                let block = std::str::from_utf8(&block[..end]).expect("events are UTF-8");
                let fields: Vec<_> = block
                    .lines()
                    .filter(|line| !line.starts_with(':') && !line.is_empty())
                    .map(|line| {
                        let (name, value) = line.split_once(": ").expect("a field has a value");
                        (name.to_string(), value.to_string())
                    })
                    .collect();
                if !fields.is_empty() {
                    return Some(fields);
                }
                continue;
            }
            let more = self.more()?;
            self.text.extend_from_slice(&more);
        }
    }

    /// More of the body; `None` at its end.
    fn more(&mut self) -> Option<Vec<u8>> {
        let more = match self.head.is_chunked() {
            true => self.http.try_chunk(),
            false => self
                .http
                .wire
                .try_until(|bytes| Ok((!bytes.is_empty()).then(|| (bytes.to_vec(), bytes.len())))),
        };
        let more = more.unwrap_or_else(|error| panic!("{error}"));
        more.filter(|more| !more.is_empty())
    }

    /// The id and the data of the next event, which must have these two fields and no other.
    pub fn event(&mut self) -> (u64, Json) {
        let fields = self.fields().expect("the stream goes on");
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["id", "data"], "{fields:?}");
        let id = fields[0].1.parse().expect("an id is a number");
        (id, serde_json::from_str(&fields[1].1).unwrap())
    }

    /// The data of the next event.
    pub fn data(&mut self) -> Json {
        self.event().1
    }
}

/// A WebSocket.
pub struct WebSocket {
    pub wire: Wire,
    pub answer: Answer,
    /// The opcode and the bytes of a message that came in part.
    part: Option<(u8, Vec<u8>)>,
    sent: u32,
}

/// A key as clients make it, with sixteen bytes, and what must be answered to it.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The headers that ask for a WebSocket.
pub fn upgrade_headers() -> Vec<String> {
    let key = format!("Sec-WebSocket-Key: {KEY}");
    let fixed = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        &key,
        "Sec-WebSocket-Version: 13",
    ];
    fixed.map(str::to_string).to_vec()
}

impl WebSocket {
    /// Opens one, which the broker must give.
    pub fn open(port: u16, target: &str, headers: &[&str]) -> WebSocket {
        WebSocket::try_open(port, target, headers).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Opens one that speaks this sub-protocol.
    pub fn speaking(port: u16, protocol: &str) -> WebSocket {
        let header = format!("Sec-WebSocket-Protocol: {protocol}");
        WebSocket::open(port, "/ws", &[&header])
    }

    pub fn try_open(port: u16, target: &str, headers: &[&str]) -> Result<WebSocket, String> {
        let mut http = Http::dial(port);
        let fixed = upgrade_headers();
        let all: Vec<&str> = fixed
            .iter()
            .map(String::as_str)
            .chain(headers.iter().copied())
            .collect();
        http.send(request(port, &format!("GET {target}"), &all, b""));
        let answer = http
            .try_head()?
            .ok_or("the broker closed without an answer")?;
        if answer.status != 101 || answer.header("Sec-WebSocket-Accept") != Some(&accept_of(KEY)) {
            return Err(format!("no WebSocket: {answer:?}"));
        }
        Ok(WebSocket::of(http.wire, answer))
    }

    /// What an answered handshake has become.
    pub fn of(wire: Wire, answer: Answer) -> WebSocket {
        WebSocket {
            wire,
            answer,
            part: None,
            sent: 0,
        }
    }

    /// Sends frames, written as [`frames`] reads them.
    pub fn send(&mut self, notation: &str) {
        self.wire.send(frames(notation));
    }

    pub fn send_text(&mut self, text: &str) {
        self.send_message(1, text.as_bytes());
    }

    pub fn send_binary(&mut self, bytes: &[u8]) {
        self.send_message(2, bytes);
    }

    fn send_message(&mut self, opcode: u8, payload: &[u8]) {
        self.sent += 1;
        let mask = self.sent.wrapping_mul(0x9e37_79b9).to_be_bytes();
        let mut bytes = Vec::new();
        super::frames::write_frame(&mut bytes, 0x80 | opcode, mask, payload);
        self.wire.send(bytes);
    }

    /// The next whole message or control frame, or the end.
    pub fn try_said(&mut self) -> Result<Said, String> {
        loop {
            let Some((head, payload)) = self.wire.try_until(parse_frame)? else {
                return match self.wire.unread().is_empty() && self.part.is_none() {
                    true => Ok(Said::End),
                    false => Err(format!("the end within {}", shown(self.wire.unread()))),
                };
            };
            let (is_last, opcode) = (head & 0x80 != 0, head & 0x0f);
            if opcode >= 8 {
                return Said::control(opcode, payload);
            }
            let (first, mut bytes) = match (opcode, self.part.take()) {
                (0, Some(part)) => part,
                (1 | 2, None) => (opcode, Vec::new()),
                _ => return Err(format!("a fragment out of place: opcode {opcode}")),
            };
            bytes.extend_from_slice(&payload);
            match is_last {
                true => return Said::message(first, bytes),
                false => self.part = Some((first, bytes)),
            }
        }
    }

    pub fn said(&mut self) -> Said {
        self.try_said().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The next message, which must be a text.
    pub fn text(&mut self) -> String {
        match self.said() {
            Said::Text(text) => text,
            other => panic!("{other:?} is no text message"),
        }
    }

    /// The next message, which must be binary.
    pub fn binary(&mut self) -> Vec<u8> {
        match self.said() {
            Said::Binary(bytes) => bytes,
            other => panic!("{other:?} is no binary message"),
        }
    }

    /// The broker closes with this code, and says nothing else before.
    pub fn expect_close(&mut self, code: u16) {
        assert_eq!(self.said(), Said::Close(Some(code)));
        self.wire.finish();
        assert_eq!(self.said(), Said::End);
    }
}
