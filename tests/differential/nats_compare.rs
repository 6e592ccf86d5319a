//! What a client of NATS is sent, as comparable text.

use std::collections::BTreeMap;

/// Subjects of the test itself begin like this, and are not compared.
pub const OWN: &[u8] = b"z.z.z.z.z.z.";

/// The name of a subscription of a queue group begins like this; digits follow the group's name.
pub const QUEUE: u8 = b'q';

/// What Sapwood says before it closes where nats-server may say nothing, see the table.
const OFTEN_SILENT: &[&str] = &[
    "-ERR 'Unknown Protocol Operation'",
    "-ERR 'message headers not supported'",
];

/// One thing that a server says.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    Pong,
    /// +OK, -ERR and whatever is unknown.
    Line(String),
    Message(Message),
    Closed,
    /// It did not say what it should have, in time.
    Silent,
}

/// What nats-server says again when the payload comes in several reads, see the table.
const OFTEN_REPEATED: &str = "-ERR 'Invalid Publish Subject'";

#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub subject: Vec<u8>,
    pub sid: Vec<u8>,
    pub reply: Option<Vec<u8>>,
    pub headers: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Message {
    /// Says that nobody heard a request. Which of several own subscriptions for the reply hears it is open.
    fn is_unheard(&self) -> bool {
        self.payload.is_empty() && self.headers == b"NATS/1.0 503\r\n\r\n" && self.reply.is_none()
    }

    /// The queue group it is for. All members' messages are compared together.
    fn queue(&self) -> Option<String> {
        let is_digit = |byte: &u8| byte.is_ascii_digit();
        let end = self.sid.iter().position(is_digit)?;
        (self.sid.first() == Some(&QUEUE)).then(|| self.sid[..end].escape_ascii().to_string())
    }

    fn text(&self, with_headers: bool) -> String {
        let reply = self.reply.as_deref().unwrap_or(b"-");
        let headers = if with_headers {
            &self.headers
        } else {
            &b""[..]
        };
        format!(
            "{} reply {} headers \"{}\" payload \"{}\"",
            self.subject.escape_ascii(),
            reply.escape_ascii(),
            headers.escape_ascii(),
            shortened(&self.payload)
        )
    }
}

/// Long payloads by their length and sum.
fn shortened(payload: &[u8]) -> String {
    if payload.len() <= 100 {
        return payload.escape_ascii().to_string();
    }
    let sum = payload.iter().fold(0_u64, |sum, &byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    let start = payload[..30].escape_ascii();
    format!("{start}... {} bytes, sum {sum:x}", payload.len())
}

/// Takes whole frames off the front of `buffer`. INFO, PING and the test's own messages are left out.
pub fn take_frames(buffer: &mut Vec<u8>, frames: &mut Vec<Frame>) {
    let mut used = 0;
    while let Some((frame, length)) = frame(&buffer[used..]) {
        used += length;
        match frame {
            Some(Frame::Message(message)) if message.subject.starts_with(OWN) => {}
            Some(frame) => frames.push(frame),
            None => {}
        }
    }
    buffer.drain(..used);
}

/// The frame that `bytes` begin with, and its length; `None` if it is not whole.
fn frame(bytes: &[u8]) -> Option<(Option<Frame>, usize)> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let (line, start) = (&bytes[..end], end + 2);
    let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<usize>().ok();
    let (subject, sid, reply, headers, total) = match words[..] {
        [b"MSG", subject, sid, total] => (subject, sid, None, 0, number(total)),
        [b"MSG", subject, sid, reply, total] => (subject, sid, Some(reply), 0, number(total)),
        [b"HMSG", subject, sid, headers, total] => {
            (subject, sid, None, number(headers)?, number(total))
        }
        [b"HMSG", subject, sid, reply, headers, total] => {
            (subject, sid, Some(reply), number(headers)?, number(total))
        }
        [b"PONG"] => return Some((Some(Frame::Pong), start)),
        [b"PING"] | [b"INFO", ..] => return Some((None, start)),
        _ => return Some((Some(Frame::Line(text(line))), start)),
    };
    let total = total?;
    let body = bytes.get(start..start + total + 2)?;
    let frame = match body.strip_suffix(b"\r\n") {
        Some(body) => Frame::Message(Message {
            subject: subject.to_vec(),
            sid: sid.to_vec(),
            reply: reply.map(<[u8]>::to_vec),
            headers: body[..headers].to_vec(),
            payload: body[headers..].to_vec(),
        }),
        None => Frame::Line(format!("a body without an end: {}", line.escape_ascii())),
    };
    Some((Some(frame), start + total + 2))
}

fn text(bytes: &[u8]) -> String {
    let escaped = bytes.escape_ascii().to_string();
    escaped.replace("\\'", "'").replace("\\\"", "\"")
}

/// What one connection saw, in order and in short.
pub fn brief(frames: &[Frame]) -> Vec<String> {
    let text = |frame: &Frame| match frame {
        Frame::Pong => "PONG".to_string(),
        Frame::Line(line) => line.clone(),
        Frame::Message(message) => {
            let subject = message.subject.escape_ascii();
            let headers = message.headers.escape_ascii();
            let payload = shortened(&message.payload);
            format!("{subject} {headers}{payload}")
        }
        Frame::Closed => "closed".to_string(),
        Frame::Silent => "silent".to_string(),
    };
    frames.iter().map(text).collect()
}

/// What all connections saw in one step, by place: a connection's answers, a subscription, a queue group.
pub fn render(connections: &[Vec<Frame>]) -> BTreeMap<String, Vec<String>> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut queues: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (connection, frames) in connections.iter().enumerate() {
        let mut answers = Vec::new();
        for frame in frames {
            match frame {
                Frame::Pong => answers.push("PONG".to_string()),
                Frame::Line(line) => answers.push(line.clone()),
                Frame::Silent => answers.push("<silent>".to_string()),
                Frame::Closed => {
                    if (answers.last()).is_some_and(|last| OFTEN_SILENT.contains(&last.as_str())) {
                        answers.pop();
                    }
                    answers.push("<closed>".to_string());
                }
                Frame::Message(message) => {
                    if let Some(queue) = message.queue() {
                        queues.entry(queue).or_default().push(message.text(false));
                        continue;
                    }
                    let place = match message.is_unheard() {
                        true => format!("connection {connection}, unheard requests"),
                        false => {
                            let sid = message.sid.escape_ascii();
                            format!("connection {connection}, subscription {sid}")
                        }
                    };
                    places.entry(place).or_default().push(message.text(true));
                }
            }
        }
        answers.dedup_by(|a, b| a == b && *a == OFTEN_REPEATED);
        places.insert(format!("connection {connection}, answers"), answers);
    }
    for (queue, mut messages) in queues {
        messages.sort();
        places.insert(format!("queue group {queue}"), messages);
    }
    places
}

/// The first place that differs, with what was seen there.
pub fn difference(
    expected: &[Vec<Frame>],
    got: &[Vec<Frame>],
) -> Option<(String, Vec<String>, Vec<String>)> {
    let (mut expected, mut got) = (render(expected), render(got));
    let places: Vec<String> = expected.keys().chain(got.keys()).cloned().collect();
    places.into_iter().find_map(|place| {
        let pair = (
            expected.remove(&place).unwrap_or_default(),
            got.remove(&place).unwrap_or_default(),
        );
        (pair.0 != pair.1).then_some((place, pair.0, pair.1))
    })
}
