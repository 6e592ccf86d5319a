//! Transcripts of a connection as comparable text.
//!
//! Tokens are flat, not trees: within EXEC the Redis protocol writes pushes and confirmations between an
//! array's elements, so that under RESP2 the elements cannot be told from what follows.

use super::{INTENDED, Treatment};

/// One line of the protocol, with the body where it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The type byte, or `CLOSED`.
    pub kind: u8,
    pub bytes: Vec<u8>,
}

/// The kind of the token that stands for the end of the connection.
pub const CLOSED: u8 = b'E';

/// What of a transcript may be in another order on another server.
#[derive(Clone, Copy, Default)]
pub struct Unordered {
    /// An array of channel names: the answer of PUBSUB CHANNELS.
    pub names: bool,
    /// The names confirmed by an UNSUBSCRIBE without arguments.
    pub unsubscribed: bool,
}

/// Renders the tokens at the start, and says how many it used, where the tokens are its case.
pub type Mask = fn(before: &[Token], tokens: &[Token]) -> Option<(String, usize)>;

/// The bulk string after which an integer is a connection's own id.
pub const ID_FOLLOWS: &[u8] = b"id-follows";

/// Connections of the test itself have this name, and are not compared.
pub const CONTROL: &str = "control";

/// What of CLIENT LIST follows from the history.
const CLIENT_FIELDS: &[&str] = &["name", "db", "sub", "psub", "ssub", "multi", "resp"];

impl Token {
    fn count(&self) -> Option<usize> {
        if !matches!(self.kind, b'*' | b'>' | b'~' | b'%') {
            return None;
        }
        let count: usize = std::str::from_utf8(&self.bytes).ok()?.parse().ok()?;
        Some(if self.kind == b'%' { count * 2 } else { count })
    }

    fn is_bulk(&self, bytes: &[u8]) -> bool {
        self.kind == b'$' && self.bytes == bytes
    }

    fn text(&self) -> String {
        if self.kind == CLOSED {
            return "<closed>".to_string();
        }
        let quote = if matches!(self.kind, b'$' | b'=') {
            "\""
        } else {
            ""
        };
        format!(
            "{}{quote}{}{quote}",
            char::from(self.kind),
            self.bytes.escape_ascii()
        )
    }
}

/// Takes whole tokens off the front of `buffer`.
pub fn take_tokens(buffer: &mut Vec<u8>, tokens: &mut Vec<Token>) {
    let mut used = 0;
    while let Some(length) = buffer[used..].windows(2).position(|pair| pair == b"\r\n") {
        let line = &buffer[used..used + length];
        let mut next = used + length + 2;
        let (kind, mut bytes) = match line.split_first() {
            Some((kind, rest)) => (*kind, rest.to_vec()),
            None => (b'?', Vec::new()),
        };
        if matches!(kind, b'$' | b'=')
            && let Some(body) = std::str::from_utf8(&bytes)
                .ok()
                .and_then(|n| n.parse::<usize>().ok())
        {
            if buffer.len() < next + body + 2 {
                break;
            }
            bytes = buffer[next..next + body].to_vec();
            next += body + 2;
        } else if kind == b'$' {
            // Only -1 is left: the null of RESP2, which must differ from a bulk with the text "-1".
            bytes.insert(0, b'#');
        }
        tokens.push(Token { kind, bytes });
        used = next;
    }
    buffer.drain(..used);
}

/// The transcript as lines in which all that may legitimately differ is made equal.
pub fn render(tokens: &[Token], unordered: Unordered, names: &[&[u8]]) -> Vec<String> {
    let mut events: Vec<Event> = Vec::new();
    let mut at = 0;
    'next: while at < tokens.len() {
        let (before, rest) = tokens.split_at(at);
        for difference in INTENDED {
            if let Treatment::Masked(mask) = difference.treatment
                && let Some((text, used)) = mask(before, rest)
            {
                events.push(Event::other(text));
                at += used;
                continue 'next;
            }
        }
        let (event, used) = event(rest, unordered, names);
        events.push(event);
        at += used;
    }
    order(&mut events, unordered);
    events.into_iter().map(|event| event.text()).collect()
}

/// A pushed message, a confirmation, or anything else.
struct Event {
    /// `pmessage`, `unsubscribe` and the like; empty for what is none.
    kind: String,
    /// The part by which events may be in another order.
    name: String,
    rest: String,
}

impl Event {
    fn other(text: String) -> Event {
        Event {
            kind: String::new(),
            name: String::new(),
            rest: text,
        }
    }

    fn text(&self) -> String {
        if self.kind.is_empty() {
            return self.rest.clone();
        }
        format!("{} {} {}", self.kind, self.name, self.rest)
    }
}

fn event(tokens: &[Token], unordered: Unordered, names: &[&[u8]]) -> (Event, usize) {
    let head = &tokens[0];
    let Some(items) = head.count().and_then(|count| tokens.get(1..=count)) else {
        return (Event::other(head.text()), 1);
    };
    let is_name = |item: &Token| item.kind == b'$' && names.contains(&item.bytes.as_slice());
    if unordered.names && items.len() > 1 && items.iter().all(is_name) {
        let mut sorted: Vec<String> = items.iter().map(Token::text).collect();
        sorted.sort();
        return (
            Event::other(format!("{} any order {sorted:?}", head.text())),
            1 + items.len(),
        );
    }
    if let [first, name, rest @ ..] = items
        && first.kind == b'$'
        && [
            &b"pmessage"[..],
            b"unsubscribe",
            b"punsubscribe",
            b"sunsubscribe",
        ]
        .contains(&first.bytes.as_slice())
        && !rest.is_empty()
    {
        let event = Event {
            kind: format!("{} {}", head.text(), first.text()),
            name: name.text(),
            rest: rest.iter().map(Token::text).collect::<Vec<_>>().join(" "),
        };
        return (event, 1 + items.len());
    }
    (Event::other(head.text()), 1)
}

/// Brings what has no order of its own into one.
fn order(events: &mut [Event], unordered: Unordered) {
    // One message that several patterns of a connection match: in the order of a hash table.
    for run in events
        .chunk_by_mut(|a, b| a.kind.contains("pmessage") && a.kind == b.kind && a.rest == b.rest)
    {
        run.sort_by(|a, b| a.name.cmp(&b.name));
    }
    if !unordered.unsubscribed {
        return;
    }
    // The names come in the order of a hash table too; the counts that go down stay in place.
    for run in events.chunk_by_mut(|a, b| a.kind.contains("unsubscribe") && a.kind == b.kind) {
        let mut sorted: Vec<String> = run.iter().map(|event| event.name.clone()).collect();
        sorted.sort();
        for (event, name) in run.iter_mut().zip(sorted) {
            event.name = name;
        }
    }
}

pub fn mask_hello(_: &[Token], tokens: &[Token]) -> Option<(String, usize)> {
    let count = tokens[0].count()?;
    if !tokens.get(1)?.is_bulk(b"server") {
        return None;
    }
    let mut text = tokens[0].text();
    let mut at = 1;
    for _ in 0..count / 2 {
        let key = tokens.get(at)?;
        let length = value_length(tokens.get(at + 1..)?)?;
        text = text + " " + &key.text();
        if key.is_bulk(b"proto") {
            text = text + "=" + &tokens[at + 1].text();
        }
        at += 1 + length;
    }
    Some((text, at))
}

/// How many tokens the value at the start has.
fn value_length(tokens: &[Token]) -> Option<usize> {
    let mut left = 1;
    for (index, token) in tokens.iter().enumerate() {
        left += token.count().unwrap_or(0);
        left -= 1;
        if left == 0 {
            return Some(index + 1);
        }
    }
    None
}

pub fn mask_client_id(before: &[Token], tokens: &[Token]) -> Option<(String, usize)> {
    let told = before.last().is_some_and(|token| token.is_bulk(ID_FOLLOWS));
    (told && tokens[0].kind == b':').then(|| (":<id>".to_string(), 1))
}

pub fn mask_client_list(_: &[Token], tokens: &[Token]) -> Option<(String, usize)> {
    let head = &tokens[0];
    let body = match head.kind {
        b'$' => head.bytes.as_slice(),
        b'=' => head.bytes.strip_prefix(b"txt:")?,
        _ => return None,
    };
    let lines = std::str::from_utf8(body).ok()?.strip_prefix("id=")?;
    let mut clients: Vec<String> = lines
        .lines()
        .map(|line| {
            line.split(' ')
                .filter(|field| is_compared(field))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .filter(|line| !line.contains(&format!("name={CONTROL}")))
        .collect();
    clients.sort();
    Some((format!("{} {clients:?}", char::from(head.kind)), 1))
}

fn is_compared(field: &str) -> bool {
    field
        .split_once('=')
        .is_some_and(|(key, _)| CLIENT_FIELDS.contains(&key))
}
