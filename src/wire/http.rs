//! HTTP/1.1 as a server reads and writes it (RFC 9110, 9112), strictly: what two readers could take for two different things
//! is refused.
//!
//! `httparse` reads lines and fields; how long a message is, and which of its forms are let in, is decided here. Owns
//! the grammar; must not know connections, topics or passwords. Start at [`Head::parse`].

use crate::limits::{
    HTTP_CHUNK_LINE_BYTES_MAX, HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX, HTTP_TRAILERS_BYTES_MAX,
};
use memchr::memchr;
use std::fmt;

/// Ends every line.
pub const END: &[u8] = b"\r\n";

/// Why a request is refused, by a status, a stable word and words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpError {
    /// The status.
    pub status: u16,
    /// For programs.
    pub code: &'static str,
    /// What was wrong and what to do.
    pub text: String,
}

impl HttpError {
    /// A request that cannot be read, or in two ways: the connection cannot go on.
    fn bad(text: &str) -> HttpError {
        HttpError::new(400, "request_invalid", text)
    }

    /// With these.
    pub fn new(status: u16, code: &'static str, text: &str) -> HttpError {
        HttpError {
            status,
            code,
            text: text.to_string(),
        }
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.code, self.text)
    }
}

impl std::error::Error for HttpError {}

/// The methods that mean something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD: as GET, and the answer has no body.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
    /// OPTIONS.
    Options,
    /// Another one.
    Other,
}

/// How long a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes.
    Length(usize),
    /// As its chunks say.
    Chunked,
}

/// A request line and its headers.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    /// What is to be done.
    pub method: Method,
    /// The target's path, percent-encoded.
    pub path: &'a str,
    /// What stands behind the target's `?`; empty if nothing does.
    pub query: &'a str,
    /// Bytes of request line and headers, the empty line included.
    pub length: usize,
    /// What follows.
    pub body: Body,
    /// Whether the connection may go on after the answer.
    pub keep_alive: bool,
    /// Whether the client waits for leave to send the body.
    pub expects_continue: bool,
    /// Whether it is HTTP/1.1, not 1.0.
    pub is_current: bool,
    /// Whom the request is for, a name or address with a port or without: the target's authority, else the `Host`.
    /// HTTP/1.0 may name none.
    pub host: Option<&'a [u8]>,
    headers: Vec<(&'a str, &'a [u8])>,
}

/// Whether a list of words, as in `Connection`, has this one.
pub fn has_word(list: &[u8], word: &str) -> bool {
    let mut words = list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    words.any(|other| other.eq_ignore_ascii_case(word.as_bytes()))
}

impl<'a> Head<'a> {
    /// Reads the request line and headers at the start of the input; `None` if they have not come whole.
    pub fn parse(input: &'a [u8]) -> Result<Option<Head<'a>>, HttpError> {
        let lines = &input[..input.len().min(HTTP_HEAD_BYTES_MAX)];
        check_lines(lines)?;
        let mut fields = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let length = match request.parse(lines) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if lines.len() < HTTP_HEAD_BYTES_MAX => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                let text = "the request line and headers have at most 16 KiB and 64 headers";
                return Err(HttpError::new(431, "request_invalid", text));
            }
            Err(httparse::Error::Version) => {
                let text = "HTTP/1.1 and HTTP/1.0 are spoken here";
                return Err(HttpError::new(505, "request_invalid", text));
            }
            Err(error) => {
                let why = why_no_request(error);
                return Err(HttpError::bad(&format!("this is no HTTP request: {why}")));
            }
        };
        let is_current = request.version == Some(1);
        let headers: Vec<(&str, &[u8])> = request
            .headers
            .iter()
            .map(|header| (header.name, header.value))
            .collect();
        let method = match request.method {
            Some("GET") => Method::Get,
            Some("HEAD") => Method::Head,
            Some("POST") => Method::Post,
            Some("PUT") => Method::Put,
            Some("DELETE") => Method::Delete,
            Some("OPTIONS") => Method::Options,
            _ => Method::Other,
        };
        let target = request.path.unwrap_or_default();
        let (authority, path, query) = split_target(target, method)?;
        let mut head = Head {
            method,
            path,
            query,
            length,
            body: Body::Length(0),
            keep_alive: is_current,
            expects_continue: false,
            is_current,
            host: None,
            headers,
        };
        head.host = head.find_host(authority)?;
        head.body = head.find_body()?;
        head.find_wishes()?;
        Ok(Some(head))
    }

    /// The values of a header, in their order. `name` in any case.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let headers = self.headers.iter();
        let meant = headers.filter(move |(other, _)| other.eq_ignore_ascii_case(name));
        meant.map(|&(_, value)| value.trim_ascii())
    }

    /// The value of a header that stands once; `None` if it is missing or stands again.
    pub fn only(&self, name: &str) -> Option<&'a [u8]> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// Whether a header that is a list has this word.
    pub fn lists(&self, name: &str, word: &str) -> bool {
        self.values(name).any(|list| has_word(list, word))
    }

    /// A request has one `Host`, and it is one. A target that names a host counts in its place, whatever it says (RFC 9112,
    /// section 3.2.2).
    fn find_host(&self, authority: Option<&'a str>) -> Result<Option<&'a [u8]>, HttpError> {
        let mut hosts = self.values("host");
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) if is_host(host) => Some(host),
            (None, None) if !self.is_current => None,
            (Some(_), None) => return Err(HttpError::bad("Host is a name or address, and a port")),
            _ => return Err(HttpError::bad("a request has one Host header")),
        };
        let Some(authority) = authority.map(str::as_bytes) else {
            return Ok(host);
        };
        match is_host(authority) && !matches!(authority.first(), None | Some(b':')) {
            true => Ok(Some(authority)),
            false => Err(HttpError::bad(
                "a target names a host, or an address, and a port",
            )),
        }
    }

    fn find_body(&self) -> Result<Body, HttpError> {
        let mut codings = self.values("transfer-encoding");
        let mut lengths = self.values("content-length");
        match (codings.next(), lengths.next()) {
            (None, None) => Ok(Body::Length(0)),
            (None, Some(length)) => {
                let is_sound = length.iter().all(u8::is_ascii_digit) && lengths.next().is_none();
                let length = std::str::from_utf8(length).ok().filter(|_| is_sound);
                let length = length.and_then(|length| length.parse().ok());
                let wrong = || HttpError::bad("Content-Length is one number, given once");
                Ok(Body::Length(length.ok_or_else(wrong)?))
            }
            (Some(_), Some(_)) => Err(HttpError::bad(
                "Content-Length and Transfer-Encoding contradict each other",
            )),
            (Some(coding), None) => {
                let is_chunked = coding.eq_ignore_ascii_case(b"chunked");
                if is_chunked && codings.next().is_none() && self.is_current {
                    return Ok(Body::Chunked);
                }
                let text = "the only Transfer-Encoding is \"chunked\", in HTTP/1.1";
                Err(HttpError::bad(text))
            }
        }
    }

    fn find_wishes(&mut self) -> Result<(), HttpError> {
        if self.lists("connection", "close") {
            self.keep_alive = false;
        } else if self.lists("connection", "keep-alive") {
            self.keep_alive = true;
        }
        let is_known = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
        if !self.values("expect").all(is_known) {
            let text = "of Expect only \"100-continue\" is known";
            return Err(HttpError::new(417, "request_invalid", text));
        }
        let expects_continue = self.is_current && self.values("expect").next().is_some();
        self.expects_continue = expects_continue;
        Ok(())
    }
}

/// What the parser found wrong.
fn why_no_request(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => {
            "a header is a name of letters, digits and hyphens, a colon and a value"
        }
        httparse::Error::HeaderValue => "a header's value has a control character",
        httparse::Error::NewLine => "a line ends with CR LF, and CR stands nowhere else",
        _ => "it begins with a line such as GET /v1/info HTTP/1.1",
    }
}

/// Every line ends with CR and LF, and neither stands elsewhere: other readers see other lines.
fn check_lines(input: &[u8]) -> Result<(), HttpError> {
    let mut from = 0;
    let mut has_begun = false;
    while let Some(at) = memchr(b'\r', &input[from..]) {
        let at = from + at;
        if memchr(b'\n', &input[from..at]).is_some() {
            return Err(HttpError::bad("a line ends with LF alone"));
        }
        match input.get(at + 1) {
            None => return Ok(()),
            Some(b'\n') => {}
            Some(_) => return Err(HttpError::bad("a CR stands alone")),
        }
        if at == from && has_begun {
            // The empty line: what follows is no header. Those before the request line end nothing.
            return Ok(());
        }
        has_begun |= at > from;
        from = at + 2;
    }
    match memchr(b'\n', &input[from..]) {
        Some(_) => Err(HttpError::bad("a line ends with LF alone")),
        None => Ok(()),
    }
}

/// Whether this is a name or address, with a port or without.
fn is_host(host: &[u8]) -> bool {
    let name_end = match host.first() {
        Some(b'[') => memchr(b']', host).map(|end| end + 1),
        _ => Some(memchr(b':', host).unwrap_or(host.len())),
    };
    let Some((name, port)) = name_end.and_then(|end| host.split_at_checked(end)) else {
        return false;
    };
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=[]:".contains(byte);
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    name.iter().all(is_part) && is_port
}

/// The authority that a target names, if it does, its path and its query.
type Target<'a> = (Option<&'a str>, &'a str, &'a str);

fn split_target(target: &str, method: Method) -> Result<Target<'_>, HttpError> {
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(HttpError::bad("a target is ASCII, percent-encoded"));
    }
    let wrong = || HttpError::bad("a target is a path, such as /health");
    let (authority, target) = match target {
        "*" if method == Method::Options => (None, "/"),
        _ if target.starts_with('/') => (None, target),
        _ => {
            let scheme = target.get(..7);
            let is_http = scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
            let rest = is_http.then(|| &target[7..]).ok_or_else(wrong)?;
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            (Some(authority), if path.is_empty() { "/" } else { path })
        }
    };
    // A fragment is never sent; one that is belongs to nothing.
    if target.contains('#') {
        return Err(wrong());
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok((authority, if path.is_empty() { "/" } else { path }, query))
}

/// Decodes percent-encoding; `None` if a `%` is not followed by two hexadecimal digits. In a query, `+` is a blank.
pub fn decode(text: &str, is_query: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || (bytes.next()? as char).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                (high * 16 + low) as u8
            }
            b'+' if is_query => b' ',
            other => other,
        });
    }
    Some(out)
}

/// Names and values of a query, decoded; `None` stands for one that cannot be.
pub fn query_pairs(query: &str) -> impl Iterator<Item = Option<(Vec<u8>, Vec<u8>)>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode(name, true)?, decode(value, true)?))
    })
}

/// Takes the chunks of a body apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chunks {
    /// A line with a chunk's size comes next.
    #[default]
    Size,
    /// So many bytes of a chunk are missing.
    Data(usize),
    /// The end of the line behind a chunk is missing.
    DataEnd,
    /// Behind the last chunk: trailers, of which so many bytes have come, and an empty line.
    Trailers(usize),
    /// The body is whole.
    Done,
}

impl Chunks {
    /// Takes what stands in the input, as far as it goes: appends the body's bytes to `out`, which may hold `body_max`, and gives how many
    /// bytes of the input are done with.
    pub fn take(
        &mut self,
        input: &[u8],
        body_max: usize,
        out: &mut Vec<u8>,
    ) -> Result<usize, HttpError> {
        let mut at = 0;
        while *self != Chunks::Done {
            let rest = &input[at..];
            match *self {
                Chunks::Size => {
                    let Some(line) = line_of(rest, HTTP_CHUNK_LINE_BYTES_MAX)? else {
                        break;
                    };
                    let size = chunk_size(line)?;
                    if size > body_max.saturating_sub(out.len()) {
                        return Err(too_long(body_max));
                    }
                    at += line.len() + END.len();
                    *self = match size {
                        0 => Chunks::Trailers(0),
                        _ => Chunks::Data(size),
                    };
                }
                Chunks::Data(_) if rest.is_empty() => break,
                Chunks::Data(missing) => {
                    let taken = missing.min(rest.len());
                    out.extend_from_slice(&rest[..taken]);
                    at += taken;
                    *self = match missing - taken {
                        0 => Chunks::DataEnd,
                        left => Chunks::Data(left),
                    };
                }
                Chunks::DataEnd => {
                    if !END.starts_with(&rest[..rest.len().min(END.len())]) {
                        return Err(HttpError::bad("a chunk is not as long as it says"));
                    }
                    if rest.len() < END.len() {
                        break;
                    }
                    at += END.len();
                    *self = Chunks::Size;
                }
                Chunks::Trailers(so_far) => {
                    let Some(line) = line_of(rest, HTTP_TRAILERS_BYTES_MAX - so_far)? else {
                        break;
                    };
                    if !line.is_empty() && !is_field(line) {
                        return Err(HttpError::bad("a trailer is a name, a colon and a value"));
                    }
                    at += line.len() + END.len();
                    let so_far = (so_far + line.len() + END.len()).min(HTTP_TRAILERS_BYTES_MAX);
                    *self = match line.is_empty() {
                        true => Chunks::Done,
                        false => Chunks::Trailers(so_far),
                    };
                }
                Chunks::Done => {}
            }
        }
        Ok(at)
    }
}

/// Whether a line is a name, which is a token, a colon, and a value.
fn is_field(line: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let is_value = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
    let colon = memchr(b':', line).filter(|&colon| colon > 0);
    colon.is_some_and(|colon| {
        line[..colon].iter().all(is_token) && line[colon + 1..].iter().all(is_value)
    })
}

/// What a body that is too long is answered.
pub fn too_long(body_max: usize) -> HttpError {
    let text = format!("a body has at most {body_max} bytes");
    HttpError::new(413, "payload_too_long", &text)
}

/// The line at the start of the input, without its end; `None` if it has not come whole.
fn line_of(input: &[u8], bytes_max: usize) -> Result<Option<&[u8]>, HttpError> {
    let seen = &input[..input.len().min(bytes_max)];
    let wrong =
        || HttpError::bad("a line of a chunked body is too long, or does not end with CR and LF");
    let Some(at) = memchr(b'\n', seen) else {
        // A CR is followed by an LF, once that is there.
        let is_open = memchr(b'\r', seen).is_none_or(|at| at + 1 == seen.len());
        return match input.len() < bytes_max && is_open {
            true => Ok(None),
            false => Err(wrong()),
        };
    };
    let line = seen[..at].strip_suffix(b"\r").ok_or_else(wrong)?;
    match memchr(b'\r', line) {
        None => Ok(Some(line)),
        Some(_) => Err(wrong()),
    }
}

/// The size of a chunk: hexadecimal digits, and extensions that mean nothing here.
fn chunk_size(line: &[u8]) -> Result<usize, HttpError> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    let is_sound = (1..=8).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_hexdigit)
        && !line.iter().any(is_control);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_sound);
    let size = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok());
    size.ok_or_else(|| HttpError::bad("a chunk's size is one to eight hexadecimal digits"))
}

/// A status' usual words.
fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Error",
    }
}

/// Writes the status line and headers of an answer.
pub fn write_head(out: &mut Vec<u8>, status: u16, headers: &[(&str, &str)]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(END);
    for (name, value) in headers {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(END);
    }
    out.extend_from_slice(END);
}

/// Writes a chunk of a body: what `encode` writes, and nothing if that is nothing, which would be the body's end.
///
/// Cost: if the number of its digits is not that of `expected`, the chunk is moved once.
pub fn write_chunk(out: &mut Vec<u8>, expected: usize, encode: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    let mut size = ChunkSize::of(expected);
    out.extend_from_slice(size.line());
    let body = out.len();
    encode(out);
    if out.len() == body {
        return out.truncate(start);
    }
    size = ChunkSize::of(out.len() - body);
    out.splice(start..body, size.line().iter().copied());
    out.extend_from_slice(END);
}

/// The line before a chunk.
struct ChunkSize {
    bytes: [u8; ChunkSize::BYTES_MAX],
    from: usize,
}

impl ChunkSize {
    const BYTES_MAX: usize = usize::BITS as usize / 4 + END.len();

    fn of(mut size: usize) -> ChunkSize {
        let mut bytes = [0; ChunkSize::BYTES_MAX];
        let mut from = bytes.len() - END.len();
        bytes[from..].copy_from_slice(END);
        // Ends after the last digit that is not 0.
        loop {
            from -= 1;
            bytes[from] = b"0123456789abcdef"[size % 16];
            size /= 16;
            if size == 0 {
                return ChunkSize { bytes, from };
            }
        }
    }

    fn line(&self) -> &[u8] {
        &self.bytes[self.from..]
    }
}

/// The end of a body in chunks.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A moment by the calendar, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    year: u64,
    month: u64,
    day: u64,
    weekday: usize,
    seconds: u64,
    milliseconds: u64,
}

impl Moment {
    /// From milliseconds since 1970.
    pub fn of(wall_ms: u64) -> Moment {
        let days = wall_ms / 86_400_000;
        // Years that begin in March, so that the day that leap years add is their last: an era is 400 of them.
        let since = days + 719_468;
        let (era, day_of_era) = (since / 146_097, since % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 {
            shifted + 3
        } else {
            shifted - 9
        };
        Moment {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted + 2) / 5 + 1,
            weekday: ((days + 4) % 7) as usize,
            seconds: wall_ms / 1_000 % 86_400,
            milliseconds: wall_ms % 1_000,
        }
    }

    fn clock(&self) -> (u64, u64, u64) {
        (
            self.seconds / 3_600,
            self.seconds / 60 % 60,
            self.seconds % 60,
        )
    }

    /// As HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
    pub fn http(&self) -> String {
        const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let (hour, minute, second) = self.clock();
        format!(
            "{}, {:02} {} {} {hour:02}:{minute:02}:{second:02} GMT",
            DAYS[self.weekday],
            self.day,
            MONTHS[self.month as usize - 1],
            self.year
        )
    }

    /// As RFC 3339 writes it: `1994-11-06T08:49:37.000Z`.
    pub fn rfc3339(&self) -> String {
        let (hour, minute, second) = self.clock();
        format!(
            "{}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
            self.year, self.month, self.day, self.milliseconds
        )
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
