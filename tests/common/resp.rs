//! A raw connection that speaks RESP2 and RESP3: bytes out, one value at a time in.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::VALUE_SECONDS_MAX;

/// One value of RESP2 or RESP3. RESP2's null bulk and null array are `Null` too.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Verbatim(Vec<u8>),
    Null,
    Boolean(bool),
    /// As written: a text compares exactly.
    Double(String),
    BigNumber(String),
    Array(Vec<Value>),
    Set(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Push(Vec<Value>),
}

impl Value {
    pub fn bulk(bytes: impl AsRef<[u8]>) -> Value {
        Value::Bulk(bytes.as_ref().to_vec())
    }

    pub fn ok() -> Value {
        Value::Simple("OK".to_string())
    }

    /// The text of a string or error, lossy, for messages and `contains`.
    pub fn text(&self) -> String {
        match self {
            Value::Simple(text) | Value::Error(text) => text.clone(),
            Value::Bulk(bytes) | Value::Verbatim(bytes) => {
                String::from_utf8_lossy(bytes).into_owned()
            }
            other => format!("{other:?}"),
        }
    }
}

/// A request as clients send it: an array of bulk strings.
pub fn request(args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// A connection of its own, with no behaviour: it answers nothing by itself.
pub struct RawClient {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl RawClient {
    pub fn connect(port: u16) -> RawClient {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .unwrap_or_else(|error| panic!("cannot connect to port {port}: {error}"));
        stream
            .set_nodelay(true)
            .expect("a TCP socket has TCP_NODELAY");
        RawClient {
            stream,
            buffer: Vec::new(),
        }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Writes bytes. A peer that has closed is no error here: reading tells.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream
            .set_nonblocking(false)
            .expect("a socket can block");
        let _ = self.stream.write_all(bytes);
    }

    /// Sends a request and reads one value.
    pub fn call(&mut self, args: &[&str]) -> Value {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        self.send(&request(&args));
        self.value()
    }

    /// Reads exactly one value, be it reply or push, and panics when none comes.
    pub fn value(&mut self) -> Value {
        self.try_value(VALUE_SECONDS_MAX)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Sends a request and reads one value, as the bytes that it came as: they tell what [`Value`] does not.
    pub fn call_raw(&mut self, args: &[&str]) -> Vec<u8> {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        self.send(&request(&args));
        let value = self.try_bytes(VALUE_SECONDS_MAX);
        value.unwrap_or_else(|error| panic!("{error}")).1
    }

    /// Reads exactly one value within `limit`.
    pub fn try_value(&mut self, limit: Duration) -> Result<Value, String> {
        self.try_bytes(limit).map(|(value, _)| value)
    }

    fn try_bytes(&mut self, limit: Duration) -> Result<(Value, Vec<u8>), String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some((value, length)) = parse(&self.buffer, 0)? {
                return Ok((value, self.buffer.drain(..length).collect()));
            }
            if !self.fill(deadline)? {
                return Err(format!(
                    "the connection was closed before a whole value; it had sent {:?}",
                    String::from_utf8_lossy(&self.buffer)
                ));
            }
        }
    }

    /// Waits until the peer closes, and panics when it does not or sends anything more.
    pub fn expect_close(&mut self) {
        let deadline = Instant::now() + VALUE_SECONDS_MAX;
        while self
            .fill(deadline)
            .unwrap_or_else(|error| panic!("{error}"))
        {}
        assert!(
            self.buffer.is_empty(),
            "more before the close: {:?}",
            String::from_utf8_lossy(&self.buffer)
        );
    }

    /// Waits for bytes; false once the peer has closed.
    fn fill(&mut self, deadline: Instant) -> Result<bool, String> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!(
                "no whole value in time; received so far {:?}",
                String::from_utf8_lossy(&self.buffer)
            ));
        }
        self.stream
            .set_nonblocking(false)
            .expect("a socket can block");
        self.stream
            .set_read_timeout(Some(left))
            .expect("the time left is not zero");
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Ok(false),
            Ok(length) => {
                self.buffer.extend_from_slice(&chunk[..length]);
                Ok(true)
            }
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Ok(false),
                // Timed out, or interrupted: the next call finds out.
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(true),
                _ => Err(format!("reading failed: {error}")),
            },
        }
    }
}

/// Nested deeper than any reply of the protocol; it bounds the recursion on input.
const DEPTH_MAX: usize = 16;

/// Parses the value at the start of `bytes`: the value and its length, or `None` when it is incomplete.
pub fn parse(bytes: &[u8], depth: usize) -> Result<Option<(Value, usize)>, String> {
    if depth > DEPTH_MAX {
        return Err("a value nested too deep".to_string());
    }
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return Ok(None);
    };
    let kind = bytes[0];
    let line = String::from_utf8_lossy(&bytes[1..end]).into_owned();
    let head = end + 2;
    let number = || {
        line.parse::<i64>()
            .map_err(|_| format!("not a number: {line:?}"))
    };
    let value = match kind {
        b'+' => Value::Simple(line),
        b'-' => Value::Error(line),
        b':' => Value::Integer(number()?),
        b',' => Value::Double(line),
        b'(' => Value::BigNumber(line),
        b'_' => Value::Null,
        b'#' => Value::Boolean(line == "t"),
        b'$' | b'=' | b'!' => {
            let length = number()?;
            if length < 0 {
                return Ok(Some((Value::Null, head)));
            }
            let length = usize::try_from(length).expect("it is not negative");
            let Some(body) = bytes.get(head..head + length + 2) else {
                return Ok(None);
            };
            let Some(text) = body.strip_suffix(b"\r\n") else {
                return Err(format!("a bulk of {length} bytes does not end in CR LF"));
            };
            let value = match kind {
                b'$' => Value::bulk(text),
                b'=' => Value::Verbatim(text.to_vec()),
                _ => Value::Error(String::from_utf8_lossy(text).into_owned()),
            };
            return Ok(Some((value, head + length + 2)));
        }
        b'*' | b'~' | b'>' | b'%' => {
            let count = number()?;
            if count < 0 {
                return Ok(Some((Value::Null, head)));
            }
            let count = usize::try_from(count).expect("it is not negative");
            return parse_items(bytes, kind, count, head, depth);
        }
        _ => {
            return Err(format!(
                "a value cannot begin with {:?}",
                String::from_utf8_lossy(bytes)
            ));
        }
    };
    Ok(Some((value, head)))
}

fn parse_items(
    bytes: &[u8],
    kind: u8,
    count: usize,
    head: usize,
    depth: usize,
) -> Result<Option<(Value, usize)>, String> {
    let wanted = if kind == b'%' { count * 2 } else { count };
    let mut items = Vec::new();
    let mut used = head;
    while items.len() < wanted {
        match parse(&bytes[used..], depth + 1)? {
            None => return Ok(None),
            Some((item, length)) => {
                used += length;
                items.push(item);
            }
        }
    }
    let value = match kind {
        b'*' => Value::Array(items),
        b'~' => Value::Set(items),
        b'>' => Value::Push(items),
        _ => {
            let mut pairs = Vec::new();
            let mut items = items.into_iter();
            while let (Some(key), Some(value)) = (items.next(), items.next()) {
                pairs.push((key, value));
            }
            Value::Map(pairs)
        }
    };
    Ok(Some((value, used)))
}
