//! What subscribers must read, and the check of what they read.
//!
//! Owns the bytes of every event, in the forms of a WebSocket and of an event stream, made without the broker's code, and
//! for each subscriber how far it has come. Content, order and count are checked to the byte, but for the numbers
//! of an event stream, of which only the order is promised, and how that is cut into chunks. Knows no sockets and no clock.

use serde_json::json;

use crate::script::{Mismatch, mismatch, payload};

/// What a subscriber is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A WebSocket with the sub-protocol `sapwood.json`.
    Socket,
    /// Server-sent events.
    Stream,
}

/// A text message, and a ping, each in one frame.
const TEXT: u8 = 0x81;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;

/// The bit that says that a mask follows, and the longest length of a control frame.
const MASKED: u8 = 0x80;
const CONTROL_BYTES_MAX: u8 = 125;

/// A comment of an event stream, by which the broker shows that it is there.
const COMMENT: &[u8] = b":\n\n";

/// The end of a chunk's size, and of the chunk.
const CHUNK_END: &[u8] = b"\r\n";

/// What an event of an event stream begins with.
const ID: &[u8] = b"id: ";

/// The events of a topic.
#[derive(Debug)]
pub struct Script {
    /// Each payload.
    pub payloads: Vec<Vec<u8>>,
    sockets: Vec<Vec<u8>>,
    streams: Vec<Vec<u8>>,
}

impl Script {
    /// So many events of a topic, of so many bytes each.
    pub fn new(topic: &str, events: usize, size: usize) -> Script {
        let payloads: Vec<Vec<u8>> = (0..events).map(|place| payload(0, place, size)).collect();
        let texts = payloads
            .iter()
            .map(|payload| json!(String::from_utf8_lossy(payload)));
        let (sockets, streams) = texts
            .map(|data| {
                let fields = format!("\"topic\":{},\"data\":{data}}}", json!(topic));
                let message = format!("{{\"op\":\"message\",{fields}");
                let event = format!("data: {{{fields}\n\n");
                (frame(TEXT, message.as_bytes()), event.into_bytes())
            })
            .unzip();
        Script {
            payloads,
            sockets,
            streams,
        }
    }

    /// What a subscriber reads of an event; of an event stream, what stands behind the number.
    pub fn event(&self, kind: Kind, place: usize) -> &[u8] {
        match kind {
            Kind::Socket => &self.sockets[place],
            Kind::Stream => &self.streams[place],
        }
    }
}

/// A frame as the broker writes it, without a mask.
pub fn frame(first: u8, message: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match message.len() {
        length @ 0..=125 => out.push(length as u8),
        length => {
            // Events of this benchmark are far below 64 KiB, from where lengths are written in another way.
            out.push(126);
            out.extend((length as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(message);
    out
}

/// A frame as a client writes it. A mask of zeros leaves the message as it is.
pub fn masked(first: u8, message: &[u8]) -> Vec<u8> {
    let mut out = frame(first, message);
    out[1] |= MASKED;
    let start = out.len() - message.len();
    out.splice(start..start, [0; 4]);
    out
}

/// The text message of a client.
pub fn request(message: &serde_json::Value) -> Vec<u8> {
    masked(TEXT, message.to_string().as_bytes())
}

/// Within what the input stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    Nothing,
    Comment,
    Id,
    Number,
    Event,
    Control,
}

/// Within what of an event stream's chunks the input stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// The digits of its size, as far as they came.
    Size(Option<usize>),
    /// So many bytes of the line end behind the size came.
    SizeEnd(usize, usize),
    /// So many bytes of it are missing.
    Data(usize),
    /// So many bytes of the line end behind it came.
    End(usize),
}

/// A subscriber, by what it has read.
#[derive(Debug)]
pub struct Listener {
    /// What it is.
    pub kind: Kind,
    /// Events that it read whole.
    pub events: usize,
    /// What it has to answer.
    pub answer: Vec<u8>,
    chunk: Chunk,
    within: Within,
    at: usize,
    number: u64,
    number_before: u64,
    control: Vec<u8>,
}

impl Listener {
    /// One that has read nothing yet.
    pub fn new(kind: Kind) -> Listener {
        Listener {
            kind,
            events: 0,
            answer: Vec::new(),
            chunk: Chunk::Size(None),
            within: Within::Nothing,
            at: 0,
            number: 0,
            number_before: 0,
            control: Vec::new(),
        }
    }

    /// Whether it stands between events.
    pub fn is_between(&self) -> bool {
        self.within == Within::Nothing && self.chunk == Chunk::Size(None)
    }

    /// Takes what was read, while the first `published` events of the script may come.
    pub fn take(
        &mut self,
        mut input: &[u8],
        script: &Script,
        published: usize,
    ) -> Result<(), Mismatch> {
        if self.kind == Kind::Socket {
            return self.take_plain(input, script, published);
        }
        // Ends: each round takes at least one byte.
        while let Some(&byte) = input.first() {
            let mut taken = 1;
            self.chunk = match self.chunk {
                Chunk::Size(size) => match (char::from(byte).to_digit(16), size) {
                    (Some(digit), None) => Chunk::Size(Some(digit as usize)),
                    (Some(digit), Some(size)) if size < 1 << 32 => {
                        Chunk::Size(Some(size * 16 + digit as usize))
                    }
                    (None, Some(size)) if byte == CHUNK_END[0] => Chunk::SizeEnd(1, size),
                    _ => return Err(mismatch("no size of a chunk", b"", input)),
                },
                Chunk::SizeEnd(came, size) if byte == CHUNK_END[came] => match size {
                    0 => return Err(mismatch("the end of a stream", b"", input)),
                    _ => Chunk::Data(size),
                },
                Chunk::Data(missing) => {
                    taken = missing.min(input.len());
                    self.take_plain(&input[..taken], script, published)?;
                    match missing - taken {
                        0 => Chunk::End(0),
                        missing => Chunk::Data(missing),
                    }
                }
                Chunk::End(0) if byte == CHUNK_END[0] => Chunk::End(1),
                Chunk::End(1) if byte == CHUNK_END[1] => Chunk::Size(None),
                Chunk::SizeEnd(..) | Chunk::End(_) => {
                    return Err(mismatch("no end of a chunk", CHUNK_END, input));
                }
            };
            input = &input[taken..];
        }
        Ok(())
    }

    /// Takes bytes of a body without chunks, or of the content of a chunk.
    fn take_plain(
        &mut self,
        mut input: &[u8],
        script: &Script,
        published: usize,
    ) -> Result<(), Mismatch> {
        // Ends: what takes no byte of the input begins something that takes at least one.
        while !input.is_empty() {
            let taken = match self.within {
                Within::Nothing => self.begin(input, published)?,
                Within::Comment => self.literal(COMMENT, input, Within::Nothing)?,
                Within::Id => self.literal(ID, input, Within::Number)?,
                Within::Number => self.digit(input)?,
                Within::Control => self.control(input)?,
                Within::Event => {
                    let event = script.event(self.kind, self.events);
                    let taken = self.literal(event, input, Within::Nothing)?;
                    self.events += usize::from(self.within == Within::Nothing);
                    taken
                }
            };
            input = &input[taken..];
        }
        Ok(())
    }

    /// What begins here, of which nothing is taken yet.
    fn begin(&mut self, input: &[u8], published: usize) -> Result<usize, Mismatch> {
        self.at = 0;
        self.within = match (self.kind, input[0]) {
            (Kind::Stream, b':') => Within::Comment,
            (Kind::Socket, PING) => Within::Control,
            _ if self.events == published => {
                return Err(mismatch("more than was published", b"", input));
            }
            (Kind::Socket, _) => Within::Event,
            (Kind::Stream, _) => Within::Id,
        };
        Ok(0)
    }

    /// Compares with what is expected here, and goes on to `next` at its end.
    fn literal(&mut self, expected: &[u8], input: &[u8], next: Within) -> Result<usize, Mismatch> {
        let rest = &expected[self.at..];
        let taken = rest.len().min(input.len());
        if rest[..taken] != input[..taken] {
            let what = match self.kind {
                Kind::Socket => "a WebSocket's event is wrong or out of order",
                Kind::Stream => "a stream's event is wrong or out of order",
            };
            return Err(mismatch(what, rest, input));
        }
        self.at += taken;
        if taken == rest.len() {
            self.at = 0;
            self.within = next;
        }
        Ok(taken)
    }

    fn digit(&mut self, input: &[u8]) -> Result<usize, Mismatch> {
        let byte = input[0];
        if byte == b'\n' && self.number > self.number_before {
            self.number_before = self.number;
            self.number = 0;
            self.at = 0;
            self.within = Within::Event;
            return Ok(1);
        }
        let digit = char::from(byte).to_digit(10).map(u64::from);
        let number = digit.and_then(|digit| self.number.checked_mul(10)?.checked_add(digit));
        let wrong = || mismatch("an id that is no larger number than before", b"", input);
        self.number = number.ok_or_else(wrong)?;
        Ok(1)
    }

    /// A ping, byte by byte: there is one in two minutes.
    fn control(&mut self, input: &[u8]) -> Result<usize, Mismatch> {
        self.control.push(input[0]);
        let Some(&length) = self.control.get(1) else {
            return Ok(1);
        };
        if length > CONTROL_BYTES_MAX {
            return Err(mismatch("a wrong ping", b"", &self.control));
        }
        if self.control.len() == 2 + usize::from(length) {
            self.answer.extend(masked(PONG, &self.control[2..]));
            self.control = Vec::new();
            self.within = Within::Nothing;
        }
        Ok(1)
    }
}
