//! The Redis serialization protocol, versions 2 and 3: requests in, replies and pushes out.
//!
//! [`Parser`] reads requests (arrays of bulk strings, or inline lines) and keeps its place in an
//! unfinished one, so that a request that arrives byte by byte is still scanned only once. The
//! functions that encode append to a buffer and cannot fail.
//!
//! Source: the protocol specification of redis.io ("Redis serialization protocol") and the
//! behaviour of redis-server 7.0.15; where the two differ, the server wins. One deliberate
//! difference: a bulk string must end in CR LF, which redis-server does not check. Bodies travel
//! verbatim to subscribers, so what stands there must be right.

use crate::limits::{
    GUEST_ARGUMENT_BYTES_MAX, GUEST_ARGUMENTS_MAX, LINE_BYTES_MAX, PAYLOAD_BYTES_MAX,
    REQUEST_ARGUMENTS_MAX, REQUEST_BYTES_MAX,
};
use std::fmt;

/// What a connection may send at its present stage.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Most arguments in a request.
    pub arguments_max: usize,
    /// Longest argument, in bytes.
    pub argument_bytes_max: usize,
    /// Longest request in all, in bytes.
    pub request_bytes_max: usize,
}

impl RequestLimits {
    /// For a client that is let in.
    pub const MEMBER: RequestLimits = RequestLimits {
        arguments_max: REQUEST_ARGUMENTS_MAX,
        argument_bytes_max: PAYLOAD_BYTES_MAX,
        request_bytes_max: REQUEST_BYTES_MAX,
    };
    /// For a client that has yet to authenticate.
    pub const GUEST: RequestLimits = RequestLimits {
        arguments_max: GUEST_ARGUMENTS_MAX,
        argument_bytes_max: GUEST_ARGUMENT_BYTES_MAX,
        request_bytes_max: GUEST_ARGUMENTS_MAX * (GUEST_ARGUMENT_BYTES_MAX + 32),
    };
}

/// What broke the protocol. The connection cannot go on: its place in the stream is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The number after `*` is not a number, or beyond the cap.
    MultibulkLength,
    /// More arguments than a guest may send.
    GuestMultibulkLength,
    /// An argument does not begin with `$`; holds what stood there.
    ExpectedDollar(u8),
    /// The number after `$` is not a number, or beyond the cap.
    BulkLength,
    /// An argument longer than a guest may send.
    GuestBulkLength,
    /// An argument is not followed by CR LF.
    BulkNotTerminated,
    /// The whole request is longer than the cap.
    RequestTooBig,
    /// A `*` line without an end.
    MultibulkLineTooBig,
    /// A `$` line without an end.
    BulkLineTooBig,
    /// An inline request without an end.
    InlineTooBig,
    /// Quotes of an inline request that do not close.
    UnbalancedQuotes,
}

impl ProtocolError {
    /// The text of the error reply: as it is displayed, but for a byte that is shown as it came.
    pub fn reply(&self) -> Vec<u8> {
        match self {
            ProtocolError::ExpectedDollar(found) => [
                b"ERR Protocol error: expected '$', got '",
                &[*found][..],
                b"'",
            ]
            .concat(),
            other => format!("ERR {other}").into_bytes(),
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            ProtocolError::MultibulkLength => "invalid multibulk length",
            ProtocolError::GuestMultibulkLength => "unauthenticated multibulk length",
            ProtocolError::ExpectedDollar(found) => {
                return write!(
                    f,
                    "Protocol error: expected '$', got '{}'",
                    found.escape_ascii()
                );
            }
            ProtocolError::BulkLength => "invalid bulk length",
            ProtocolError::GuestBulkLength => "unauthenticated bulk length",
            ProtocolError::BulkNotTerminated => "expected CR LF behind a bulk string",
            ProtocolError::RequestTooBig => "the request is larger than the broker takes",
            ProtocolError::MultibulkLineTooBig => "too big mbulk count string",
            ProtocolError::BulkLineTooBig => "too big bulk count string",
            ProtocolError::InlineTooBig => "too big inline request",
            ProtocolError::UnbalancedQuotes => "unbalanced quotes in request",
        };
        write!(f, "Protocol error: {text}")
    }
}

impl std::error::Error for ProtocolError {}

/// How far [`Parser::parse`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A whole request stands in the first `length` bytes. It may have no arguments (an empty
    /// line, `*0`): nothing to do and nothing to answer.
    Request {
        /// Its length in bytes.
        length: usize,
    },
    /// The input ends inside the request. Another attempt is of use once `needed` bytes stand.
    Incomplete {
        /// Length of input, counted from the request's first byte.
        needed: usize,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Start,
    /// Before a `$` line, with so many arguments still to come.
    Arguments { left: usize },
    /// Before an argument's bytes.
    Body { left: usize, length: usize },
    /// The request is complete; its arguments may be read.
    Complete,
}

/// Reads one request at a time, and keeps its place between calls.
///
/// After `Incomplete`, call again with input that begins at the same byte. After `Request`, read
/// [`arguments`](Parser::arguments), then call with input that begins behind it.
#[derive(Debug, Default)]
pub struct Parser {
    stage: Stage,
    position: usize,
    /// Start and end of each argument, in the input or in `unescaped`.
    ranges: Vec<(u32, u32)>,
    /// The arguments of an inline request, whose quotes and escapes are resolved.
    unescaped: Vec<u8>,
    inline: bool,
}

impl Parser {
    /// A parser before the first byte of a request.
    pub fn new() -> Parser {
        Parser::default()
    }

    /// Whether a request has begun and is not whole yet.
    pub fn is_inside_request(&self) -> bool {
        !matches!(self.stage, Stage::Start | Stage::Complete)
    }

    /// Bytes that it keeps beside the input: where the arguments stand.
    pub fn kept_bytes(&self) -> usize {
        self.ranges.capacity() * size_of::<(u32, u32)>() + self.unescaped.capacity()
    }

    /// Forgets an unfinished request.
    pub fn reset(&mut self) {
        self.stage = Stage::Start;
        self.position = 0;
        self.ranges.clear();
        self.unescaped.clear();
        self.inline = false;
        // A request with a million arguments must not keep its ranges for ever.
        self.ranges.shrink_to(1024);
        self.unescaped.shrink_to(LINE_BYTES_MAX);
    }

    /// Reads on. The input begins with the request's first byte, also on later calls.
    ///
    /// Memory grows with the arguments that arrived, never with what a header claims.
    pub fn parse(
        &mut self,
        input: &[u8],
        limits: &RequestLimits,
    ) -> Result<Progress, ProtocolError> {
        if self.stage == Stage::Complete {
            self.reset();
        }
        loop {
            match self.stage {
                Stage::Start => match input.first() {
                    None => return Ok(Progress::Incomplete { needed: 1 }),
                    Some(b'*') => {
                        if !self.parse_count(input, limits)? {
                            return Ok(incomplete(input));
                        }
                    }
                    Some(_) => return self.parse_inline(input, limits),
                },
                Stage::Arguments { left: 0 } => {
                    self.stage = Stage::Complete;
                    return Ok(Progress::Request {
                        length: self.position,
                    });
                }
                Stage::Arguments { left } => {
                    if !self.parse_length(input, limits, left)? {
                        return Ok(incomplete(input));
                    }
                }
                Stage::Body { left, length } => {
                    let end = self.position + length;
                    if input.len() < end + 2 {
                        return Ok(Progress::Incomplete { needed: end + 2 });
                    }
                    if &input[end..end + 2] != b"\r\n" {
                        return Err(ProtocolError::BulkNotTerminated);
                    }
                    self.ranges.push((self.position as u32, end as u32));
                    self.position = end + 2;
                    self.stage = Stage::Arguments { left: left - 1 };
                }
                Stage::Complete => unreachable!("reset at the entry, and left only by return"),
            }
        }
    }

    /// The arguments of the request that [`parse`](Parser::parse) completed, read from the same input.
    pub fn arguments<'a>(&'a self, input: &'a [u8]) -> Arguments<'a> {
        let source = if self.inline { &self.unescaped } else { input };
        Arguments {
            ranges: &self.ranges,
            source,
        }
    }

    fn parse_count(&mut self, input: &[u8], limits: &RequestLimits) -> Result<bool, ProtocolError> {
        let Some((line, next)) = header_line(input, 1) else {
            return too_long(input.len(), ProtocolError::MultibulkLineTooBig);
        };
        let count = parse_integer(line).ok_or(ProtocolError::MultibulkLength)?;
        if count > REQUEST_ARGUMENTS_MAX as i64 {
            return Err(ProtocolError::MultibulkLength);
        }
        if count > limits.arguments_max as i64 {
            return Err(ProtocolError::GuestMultibulkLength);
        }
        self.position = next;
        self.stage = Stage::Arguments {
            left: count.max(0) as usize,
        };
        Ok(true)
    }

    fn parse_length(
        &mut self,
        input: &[u8],
        limits: &RequestLimits,
        left: usize,
    ) -> Result<bool, ProtocolError> {
        match input.get(self.position) {
            None => return Ok(false),
            Some(b'$') => {}
            Some(&found) => return Err(ProtocolError::ExpectedDollar(found)),
        }
        let Some((line, next)) = header_line(input, self.position + 1) else {
            return too_long(input.len() - self.position, ProtocolError::BulkLineTooBig);
        };
        let length = parse_integer(line).ok_or(ProtocolError::BulkLength)?;
        if length < 0 || length > PAYLOAD_BYTES_MAX as i64 {
            return Err(ProtocolError::BulkLength);
        }
        let length = length as usize;
        if length > limits.argument_bytes_max {
            return Err(ProtocolError::GuestBulkLength);
        }
        if next + length + 2 > limits.request_bytes_max {
            return Err(ProtocolError::RequestTooBig);
        }
        self.position = next;
        self.stage = Stage::Body { left, length };
        Ok(true)
    }

    fn parse_inline(
        &mut self,
        input: &[u8],
        limits: &RequestLimits,
    ) -> Result<Progress, ProtocolError> {
        // Only bytes that were not there at the last call are searched for the line's end.
        let from = self.position;
        let Some(end) = memchr::memchr(b'\n', &input[from..]).map(|at| from + at) else {
            self.position = input.len();
            too_long(input.len(), ProtocolError::InlineTooBig)?;
            return Ok(incomplete(input));
        };
        let line = &input[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > LINE_BYTES_MAX {
            return Err(ProtocolError::InlineTooBig);
        }
        self.inline = true;
        self.split_inline(line)?;
        if self.ranges.len() > limits.arguments_max {
            return Err(ProtocolError::GuestMultibulkLength);
        }
        self.stage = Stage::Complete;
        Ok(Progress::Request { length: end + 1 })
    }

    /// Splits a line into words: quotes and escapes as redis-cli and redis-server have them.
    fn split_inline(&mut self, line: &[u8]) -> Result<(), ProtocolError> {
        let mut at = 0;
        loop {
            while at < line.len() && is_space(line[at]) {
                at += 1;
            }
            if at == line.len() || line[at] == 0 {
                return Ok(());
            }
            let start = self.unescaped.len() as u32;
            at = self.unescape_word(line, at)?;
            self.ranges.push((start, self.unescaped.len() as u32));
        }
    }

    /// Appends one word to `unescaped`; gives where the next may begin.
    fn unescape_word(&mut self, line: &[u8], mut at: usize) -> Result<usize, ProtocolError> {
        let mut quote: Option<u8> = None;
        while at < line.len() {
            let byte = line[at];
            match quote {
                None if is_space(byte) || byte == 0 => return Ok(at),
                None if byte == b'"' || byte == b'\'' => quote = Some(byte),
                None => self.unescaped.push(byte),
                Some(open) if byte == open => {
                    // A closing quote ends the word: what follows must be a space or the end.
                    return match line.get(at + 1) {
                        Some(&next) if !is_space(next) => Err(ProtocolError::UnbalancedQuotes),
                        _ => Ok(at + 1),
                    };
                }
                Some(b'"') if byte == b'\\' && at + 1 < line.len() => {
                    let (value, taken) = unescape(&line[at + 1..]);
                    self.unescaped.push(value);
                    at += taken;
                }
                Some(b'\'') if byte == b'\\' && line.get(at + 1) == Some(&b'\'') => {
                    self.unescaped.push(b'\'');
                    at += 1;
                }
                Some(_) => self.unescaped.push(byte),
            }
            at += 1;
        }
        if quote.is_some() {
            Err(ProtocolError::UnbalancedQuotes)
        } else {
            Ok(at)
        }
    }
}

/// The arguments of one request; borrowed, so reading them allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a> {
    ranges: &'a [(u32, u32)],
    source: &'a [u8],
}

impl<'a> Arguments<'a> {
    /// Arguments that stand at `ranges` (start and end) of `source`: a request that was kept.
    /// Panics when read if a range lies outside.
    pub fn new(ranges: &'a [(u32, u32)], source: &'a [u8]) -> Arguments<'a> {
        Arguments { ranges, source }
    }

    /// How many there are, the command's name included.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none: nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The argument at `index`, if there are so many.
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        let &(start, end) = self.ranges.get(index)?;
        Some(&self.source[start as usize..end as usize])
    }

    /// All of them in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let source = self.source;
        self.ranges
            .iter()
            .map(move |&(start, end)| &source[start as usize..end as usize])
    }
}

fn incomplete(input: &[u8]) -> Progress {
    Progress::Incomplete {
        needed: input.len() + 1,
    }
}

fn too_long(length: usize, error: ProtocolError) -> Result<bool, ProtocolError> {
    if length > LINE_BYTES_MAX {
        Err(error)
    } else {
        Ok(false)
    }
}

/// The text from `from` to CR LF, and where the next line begins; `None` if it has not all arrived.
fn header_line(input: &[u8], from: usize) -> Option<(&[u8], usize)> {
    let rest = &input[from..];
    // Numbers are short: a plain loop beats a vectorised search here.
    let end = rest
        .iter()
        .take(LINE_BYTES_MAX)
        .position(|&byte| byte == b'\r')?;
    (rest.len() > end + 1).then(|| (&rest[..end], from + end + 2))
}

/// A canonical decimal integer, as redis-server takes them: no sign but `-`, no leading zero.
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, text),
    };
    if digits == b"0" {
        return (!negative).then_some(0);
    }
    if digits.is_empty() || digits.len() > 19 || digits[0] == b'0' {
        return None;
    }
    let mut value: i64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        let digit = i64::from(digit - b'0');
        value = value.checked_mul(10)?;
        value = if negative {
            value.checked_sub(digit)?
        } else {
            value.checked_add(digit)?
        };
    }
    Some(value)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Resolves what stands behind a backslash in double quotes; gives the byte and how many it took.
fn unescape(rest: &[u8]) -> (u8, usize) {
    if let [b'x', high, low, ..] = rest
        && let (Some(high), Some(low)) = (hex(*high), hex(*low))
    {
        return (high * 16 + low, 3);
    }
    let value = match rest[0] {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    };
    (value, 1)
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// The version of the protocol that a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Version {
    /// RESP2: what a connection speaks until it says HELLO 3.
    #[default]
    Two,
    /// RESP3: with maps, nulls of its own and pushes.
    Three,
}

fn header(out: &mut Vec<u8>, kind: u8, number: i64) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// What ends every line and every string.
pub const END: &[u8] = b"\r\n";

/// `+text`: a short reply without line breaks.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// `-text`: an error, its code first. Line breaks in it become spaces, so that text from outside
/// cannot forge a reply.
pub fn error(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'-');
    out.extend(text.iter().map(|&byte| {
        if matches!(byte, b'\r' | b'\n') {
            b' '
        } else {
            byte
        }
    }));
    out.extend_from_slice(b"\r\n");
}

/// `:number`.
pub fn integer(out: &mut Vec<u8>, number: i64) {
    header(out, b':', number);
}

/// `$length`, then the bytes.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len() as i64);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// The head of a bulk string whose `length` bytes and CR LF follow by other ways.
pub fn bulk_header(out: &mut Vec<u8>, length: usize) {
    header(out, b'$', length as i64);
}

/// Text: RESP3 has a form that says so, RESP2 takes a bulk string.
pub fn verbatim(out: &mut Vec<u8>, version: Version, text: &[u8]) {
    verbatim_header(out, version, text.len());
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

/// What stands before a text for people of so many bytes; CR LF follows it.
pub fn verbatim_header(out: &mut Vec<u8>, version: Version, length: usize) {
    match version {
        Version::Two => header(out, b'$', length as i64),
        Version::Three => {
            header(out, b'=', length as i64 + 4);
            out.extend_from_slice(b"txt:");
        }
    }
}

/// The head of an array of `length` values.
pub fn array(out: &mut Vec<u8>, length: usize) {
    header(out, b'*', length as i64);
}

/// The head of a map of `pairs` keys and values: flattened in RESP2.
pub fn map(out: &mut Vec<u8>, version: Version, pairs: usize) {
    match version {
        Version::Two => array(out, pairs * 2),
        Version::Three => header(out, b'%', pairs as i64),
    }
}

/// The head of a set of `length` values: an array in RESP2.
pub fn set(out: &mut Vec<u8>, version: Version, length: usize) {
    match version {
        Version::Two => array(out, length),
        Version::Three => header(out, b'~', length as i64),
    }
}

/// The head of a push of `length` values: an array in RESP2.
pub fn push(out: &mut Vec<u8>, version: Version, length: usize) {
    match version {
        Version::Two => array(out, length),
        Version::Three => header(out, b'>', length as i64),
    }
}

/// No value.
pub fn null(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(match version {
        Version::Two => b"$-1\r\n",
        Version::Three => b"_\r\n",
    });
}

#[cfg(test)]
#[path = "resp_tests.rs"]
mod tests;
