//! Reads what the broker says: to a Redis client replies and pushes of both protocol versions, to a
//! native client frames.
//!
//! Strict where a lenient client would hide a fault: a byte that cannot stand where it stands is
//! an error. Source: the protocol specification of redis.io ("Redis serialization protocol"), and
//! NATIVE.md, read by `sapwood_wire`, whose own tests compare it with that page.

use crate::command::shown;
use sapwood_wire::native::{self, BrokerFrame, Parsed};
use std::fmt;

/// One frame of the native protocol.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    Welcome {
        version: u8,
        client: u64,
        run: String,
        payload_max: u32,
        broker: String,
    },
    /// Request and count.
    Ack(u32, u32),
    /// Request, code and text.
    Error(u32, u16, String),
    Message(Vec<u8>),
    /// Member and message.
    Turn(u32, Vec<u8>),
    Gap(u64),
    Draining(u32),
    Unknown(u8),
}

impl fmt::Debug for Frame {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = |bytes: &[u8]| shown(&bytes[..bytes.len().min(40)]);
        match self {
            Frame::Welcome { client, .. } => write!(out, "WELCOME {client}"),
            Frame::Ack(request, count) => write!(out, "ACK {request} {count}"),
            Frame::Error(request, code, text) => write!(out, "ERROR {request} {code} {text}"),
            Frame::Message(bytes) => write!(out, "MESSAGE {}", start(bytes)),
            Frame::Turn(member, bytes) => write!(out, "TURN {member} {}", start(bytes)),
            Frame::Gap(events) => write!(out, "GAP {events}"),
            Frame::Draining(ms) => write!(out, "DRAINING {ms}"),
            Frame::Unknown(kind) => write!(out, "unknown kind {kind}"),
        }
    }
}

impl Frame {
    fn of(frame: &BrokerFrame<'_>) -> Frame {
        match *frame {
            BrokerFrame::Welcome(welcome) => Frame::Welcome {
                version: welcome.version,
                client: welcome.client,
                run: welcome.run.to_string(),
                payload_max: welcome.payload_max,
                broker: welcome.broker.to_string(),
            },
            BrokerFrame::Ack { request, count } => Frame::Ack(request, count),
            BrokerFrame::Error {
                request,
                code,
                text,
            } => Frame::Error(request, code, text.to_string()),
            BrokerFrame::Message(message) => Frame::Message(message.bytes.to_vec()),
            BrokerFrame::Turn { member, message } => Frame::Turn(member, message.bytes.to_vec()),
            BrokerFrame::Gap { events } => Frame::Gap(events),
            BrokerFrame::Draining { milliseconds } => Frame::Draining(milliseconds),
            BrokerFrame::Answer { .. } => Frame::Unknown(native::kind::ANSWER),
            BrokerFrame::Stored { .. } => Frame::Unknown(native::kind::STORED),
            BrokerFrame::Unknown(kind) => Frame::Unknown(kind),
        }
    }
}

/// One value of either protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Simple(Vec<u8>),
    Error(Vec<u8>),
    Integer(i64),
    Bulk(Vec<u8>),
    /// No value, in the form of this protocol version.
    Null(u8),
    Array(Vec<Value>),
    Push(Vec<Value>),
    /// Keys and values, flat.
    Map(Vec<Value>),
    Verbatim(Vec<u8>),
    /// The head of an array whose elements are read one by one: that of EXEC.
    Head(usize),
    /// What a native client reads.
    Frame(Frame),
}

/// The bytes that a client has received and not read yet.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
    at: usize,
}

/// What was found at a place: a value and where the next stands, or that it has not all arrived.
type Found<T> = Result<Option<(T, usize)>, String>;

impl Reader {
    pub(crate) fn take_in(&mut self, bytes: &[u8]) {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        } else if self.at > 64 * 1024 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a value has begun and is not whole.
    pub(crate) fn is_inside(&self) -> bool {
        self.at < self.bytes.len()
    }

    /// The next value, if it is whole.
    pub(crate) fn next(&mut self) -> Result<Option<Value>, String> {
        let found = self.value(self.at)?;
        Ok(found.map(|(value, end)| {
            self.at = end;
            value
        }))
    }

    /// Whether what comes next is an event rather than the array of an EXEC; `None` if too little of
    /// it is there.
    pub(crate) fn is_event_next(&self) -> Option<bool> {
        if self.bytes.get(self.at)? != &b'*' {
            return Some(true);
        }
        let (count, start) = self.number(self.at + 1).ok()??;
        let words: [&[u8]; 2] = [b"$7\r\nmessage\r\n", b"$8\r\n?message\r\n"];
        if !(3..=4).contains(&count) {
            return Some(false);
        }
        let next = &self.bytes[start..];
        let is_like = |word: &[u8]| {
            let pairs = word.iter().zip(next);
            pairs
                .clone()
                .all(|(&byte, &other)| byte == other || byte == b'?')
        };
        let word = words.into_iter().find(|word| is_like(word));
        match word {
            Some(word) => (next.len() >= word.len()).then_some(true),
            None => Some(false),
        }
    }

    /// The next native frame, if it is whole.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Value>, String> {
        match native::parse_from_broker(&self.bytes[self.at..]) {
            Ok(Parsed::Frame { frame, length }) => {
                let value = Value::Frame(Frame::of(&frame));
                self.at += length;
                Ok(Some(value))
            }
            Ok(Parsed::Incomplete { .. }) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The head of an array, whose elements are then read by [`next`](Reader::next).
    pub(crate) fn next_head(&mut self) -> Result<Option<Value>, String> {
        if self.bytes.get(self.at).is_some_and(|&byte| byte != b'*') {
            return self.next();
        }
        let Some((count, end)) = self.number(self.at + 1)? else {
            return Ok(None);
        };
        self.at = end;
        Ok(Some(Value::Head(count.max(0) as usize)))
    }

    /// The head of an array, if it is all that is left and no more will come. It is that of an EXEC,
    /// as events come whole.
    pub(crate) fn last_head(&mut self) -> Option<Value> {
        let (count, end) = self.number(self.at + 1).ok()??;
        if self.bytes[self.at] != b'*' || end < self.bytes.len() {
            return None;
        }
        self.at = end;
        Some(Value::Head(count.max(0) as usize))
    }

    fn line(&self, from: usize) -> Found<&[u8]> {
        let Some(rest) = self.bytes.get(from..) else {
            return Ok(None);
        };
        let Some(end) = rest.iter().position(|&byte| byte == b'\r') else {
            return Ok(None);
        };
        match rest.get(end + 1) {
            None => Ok(None),
            Some(b'\n') => Ok(Some((&rest[..end], from + end + 2))),
            Some(_) => Err("CR without LF in a line".to_string()),
        }
    }

    fn number(&self, from: usize) -> Found<i64> {
        let Some((line, end)) = self.line(from)? else {
            return Ok(None);
        };
        let number = sapwood_wire::resp::parse_integer(line)
            .ok_or_else(|| format!("{:?} is no number", String::from_utf8_lossy(line)))?;
        Ok(Some((number, end)))
    }

    fn blob(&self, from: usize) -> Found<Option<Vec<u8>>> {
        let Some((length, start)) = self.number(from)? else {
            return Ok(None);
        };
        if length == -1 {
            return Ok(Some((None, start)));
        }
        let end = start + length as usize;
        let Some(body) = self.bytes.get(start..end + 2) else {
            return Ok(None);
        };
        let (body, close) = body.split_at(length as usize);
        if close != b"\r\n" {
            return Err("a string is not followed by CR LF".to_string());
        }
        Ok(Some((Some(body.to_vec()), end + 2)))
    }

    fn list(&self, from: usize, each: usize) -> Found<Vec<Value>> {
        let Some((count, mut at)) = self.number(from)? else {
            return Ok(None);
        };
        let mut values = Vec::new();
        for _ in 0..count.max(0) as usize * each {
            // Recursion is bounded: the broker's replies are two levels deep.
            let Some((value, end)) = self.value(at)? else {
                return Ok(None);
            };
            values.push(value);
            at = end;
        }
        Ok(Some((values, at)))
    }

    fn value(&self, at: usize) -> Found<Value> {
        let Some(&kind) = self.bytes.get(at) else {
            return Ok(None);
        };
        let from = at + 1;
        let value = match kind {
            b'+' => with(self.line(from)?, |text| Value::Simple(text.to_vec())),
            b'-' => with(self.line(from)?, |text| Value::Error(text.to_vec())),
            b':' => with(self.number(from)?, Value::Integer),
            b'$' => with(self.blob(from)?, |blob| {
                blob.map_or(Value::Null(2), Value::Bulk)
            }),
            b'=' => with(self.blob(from)?, |blob| {
                blob.map_or(Value::Null(2), Value::Verbatim)
            }),
            b'_' => with(self.line(from)?, |_| Value::Null(3)),
            b'*' => with(self.list(from, 1)?, Value::Array),
            b'>' => with(self.list(from, 1)?, Value::Push),
            b'%' => with(self.list(from, 2)?, Value::Map),
            other => return Err(format!("no value begins with {:?}", other as char)),
        };
        Ok(value)
    }
}

fn with<T>(found: Option<(T, usize)>, make: impl FnOnce(T) -> Value) -> Option<(Value, usize)> {
    found.map(|(value, end)| (make(value), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_byte_by_byte() {
        let bytes = b"+OK\r\n:-7\r\n$3\r\na\r\n\r\n$-1\r\n_\r\n*2\r\n$0\r\n\r\n:1\r\n>1\r\n+x\r\n%1\r\n+k\r\n:2\r\n-ERR no\r\n";
        let mut reader = Reader::default();
        let mut values = Vec::new();
        for byte in bytes {
            reader.take_in(&[*byte]);
            while let Some(value) = reader.next().expect("legal") {
                values.push(value);
            }
        }
        let expected = [
            Value::Simple(b"OK".to_vec()),
            Value::Integer(-7),
            Value::Bulk(b"a\r\n".to_vec()),
            Value::Null(2),
            Value::Null(3),
            Value::Array(vec![Value::Bulk(Vec::new()), Value::Integer(1)]),
            Value::Push(vec![Value::Simple(b"x".to_vec())]),
            Value::Map(vec![Value::Simple(b"k".to_vec()), Value::Integer(2)]),
            Value::Error(b"ERR no".to_vec()),
        ];
        assert_eq!(values, expected);
        assert!(!reader.is_inside());
    }

    #[test]
    fn a_head_that_nothing_follows_is_no_event_at_the_end() {
        let mut reader = Reader::default();
        assert_eq!(reader.last_head(), None);
        reader.take_in(b"*4\r");
        assert_eq!(reader.last_head(), None, "not even the head is whole");
        reader.take_in(b"\n");
        assert_eq!(reader.is_event_next(), None, "it may be either");
        assert_eq!(reader.last_head(), Some(Value::Head(4)));
        assert!(!reader.is_inside());
        reader.take_in(b"*4\r\n$8\r\n");
        assert_eq!(reader.last_head(), None, "an event was cut");
        assert!(reader.is_inside());
    }

    #[test]
    fn what_no_value_begins_with_is_an_error() {
        let mut reader = Reader::default();
        reader.take_in(b"message");
        assert!(reader.next().is_err());
    }
}
