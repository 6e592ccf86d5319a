//! What simulated clients of the Redis protocol say, and the words that all clients share.
//!
//! Names come from small fixed sets, so that clients meet. Must not know shards or what a command
//! is answered with.

use crate::native::Request;
use sapwood_core::command::{FilterKind, Space};
use std::fmt;
use std::rc::Rc;

/// A topic, shard channel, pattern or group.
pub(crate) type Name = &'static [u8];

/// What a subscription asks for, and the group that it is of; empty for none.
pub(crate) type Filter = (FilterKind, Name, Name);

/// The group of who gets every event.
pub(crate) const NO_GROUP: Name = b"";

/// One thing that a client asks for, by its protocol.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    Redis(Command),
    Native(Request),
}

/// Topics that are published; the first is hot.
pub(crate) const TOPICS: &[Name] = &[
    b"hot",
    b"news",
    b"news.art",
    b"news.art.paris",
    b"",
    b"with space",
    b"line\r\nbreak",
    b"a",
    b"ab",
    b"*",
    b"\xff\x00\x01",
    b"quiet",
];

/// Globs that are subscribed to.
pub(crate) const GLOBS: &[Name] = &[b"news*", b"[ab]*", b"?", b"*", b"h?t", b"nothing.*"];

/// Shard channels; one has the name of a topic, from which it must be told apart.
pub(crate) const SHARD_CHANNELS: &[Name] = &[b"shard.1", b"shard.2", b"hot"];

/// The password of a node that has one.
pub(crate) const PASSWORD: &[u8] = b"correct horse";

/// One event as it was published.
pub(crate) struct Event {
    pub space: Space,
    pub topic: Name,
    /// The flags, and what stands between topic and payload; none where the publisher's protocol
    /// has neither.
    pub flags: u8,
    pub attributes: Vec<u8>,
    pub payload: Vec<u8>,
}

impl fmt::Debug for Event {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "Event {} {:?} of {} bytes: {}",
            shown(self.topic),
            self.attributes,
            self.payload.len(),
            shown(&self.payload[..self.payload.len().min(12)])
        )
    }
}

/// Bytes for people to read.
pub(crate) fn shown(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

impl Event {
    /// The native message: what every native subscriber must read, byte for byte.
    pub(crate) fn message(&self) -> Vec<u8> {
        let mut bytes = vec![self.flags];
        sapwood_wire::native::write_text16(&mut bytes, self.topic);
        bytes.extend_from_slice(&self.attributes);
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// Whether these bytes are that message.
    pub(crate) fn is_message(&self, bytes: &[u8]) -> bool {
        let length = 3 + self.topic.len() + self.attributes.len() + self.payload.len();
        length == bytes.len() && bytes.ends_with(&self.payload) && bytes == self.message()
    }
}

/// How CLIENT KILL says whom it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KillForm {
    Id,
    /// `ID n SKIPME no`: the asker may mean itself.
    IdOrMe,
    /// The old form: by address, answered OK or an error.
    Address,
}

/// What breaks the protocol.
pub(crate) const GARBAGE: &[&[u8]] = &[
    b"*1\r\nPING\r\n",
    b"*nothing\r\n",
    b"*1\r\n$-5\r\n",
    b"*1\r\n$4\r\nPINGxx",
    b"*2\r\n$4\r\nECHO\r\n$9999999999\r\n",
    b"PING \"open\r\n",
];

/// One command of a client.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Subscribe(FilterKind, Vec<Name>),
    /// From all of the kind if no name is given.
    Unsubscribe(FilterKind, Vec<Name>),
    Publish(Rc<Event>),
    Multi,
    Exec,
    Discard,
    ClientList,
    ClientId,
    Kill(KillForm, usize),
    Numsub(FilterKind, Vec<Name>),
    Channels(FilterKind, Option<Name>),
    Numpat,
    Ping(Option<Vec<u8>>),
    Echo(Vec<u8>),
    /// Version, and whether the right password goes with it.
    Hello(u8, bool),
    /// Whether the password is the right one.
    Auth(bool),
    Reset,
    Quit,
    Unknown,
    WrongArity,
}

impl Command {
    /// The words that it is sent as.
    pub(crate) fn words(&self) -> Vec<Vec<u8>> {
        let text = |words: &[&str]| -> Vec<Vec<u8>> {
            words.iter().map(|word| word.as_bytes().to_vec()).collect()
        };
        let named = |word: &str, names: &[Name]| -> Vec<Vec<u8>> {
            let names = names.iter().map(|name| name.to_vec());
            text(&[word]).into_iter().chain(names).collect()
        };
        match self {
            Command::Subscribe(FilterKind::Glob, names) => named("PSUBSCRIBE", names),
            Command::Subscribe(FilterKind::ShardChannel, names) => named("SSUBSCRIBE", names),
            Command::Subscribe(_, names) => named("SUBSCRIBE", names),
            Command::Unsubscribe(FilterKind::Glob, names) => named("PUNSUBSCRIBE", names),
            Command::Unsubscribe(FilterKind::ShardChannel, names) => named("sunsubscribe", names),
            Command::Unsubscribe(_, names) => named("UNSUBSCRIBE", names),
            Command::Publish(event) => {
                let word = match event.space {
                    Space::Topic => "PUBLISH",
                    Space::ShardChannel => "SPUBLISH",
                };
                vec![word.into(), event.topic.to_vec(), event.payload.clone()]
            }
            Command::Multi => text(&["MULTI"]),
            Command::Exec => text(&["exec"]),
            Command::Discard => text(&["DISCARD"]),
            Command::ClientList => text(&["CLIENT", "LIST"]),
            Command::ClientId => text(&["client", "id"]),
            Command::Kill(form, key) => {
                let id = (key + 1).to_string();
                match form {
                    KillForm::Id => text(&["CLIENT", "KILL", "ID", &id]),
                    KillForm::IdOrMe => text(&["CLIENT", "KILL", "ID", &id, "SKIPME", "no"]),
                    KillForm::Address => text(&["CLIENT", "KILL", &peer(*key).to_string()]),
                }
            }
            Command::Numsub(kind, names) => {
                let word = match kind {
                    FilterKind::ShardChannel => "SHARDNUMSUB",
                    _ => "NUMSUB",
                };
                let names = names.iter().map(|name| name.to_vec());
                text(&["PUBSUB", word]).into_iter().chain(names).collect()
            }
            Command::Channels(kind, pattern) => {
                let word = match kind {
                    FilterKind::ShardChannel => "SHARDCHANNELS",
                    _ => "CHANNELS",
                };
                let pattern = pattern.map(|pattern| pattern.to_vec());
                text(&["PUBSUB", word]).into_iter().chain(pattern).collect()
            }
            Command::Numpat => text(&["PUBSUB", "NUMPAT"]),
            Command::Ping(said) => text(&["PING"]).into_iter().chain(said.clone()).collect(),
            Command::Echo(said) => vec![b"ECHO".to_vec(), said.clone()],
            Command::Hello(version, false) => text(&["HELLO", &version.to_string()]),
            Command::Hello(version, true) => {
                let mut words = text(&["HELLO", &version.to_string(), "AUTH", "default"]);
                words.push(PASSWORD.to_vec());
                words
            }
            Command::Auth(true) => vec![b"AUTH".to_vec(), PASSWORD.to_vec()],
            Command::Auth(false) => text(&["AUTH", "wrong"]),
            Command::Reset => text(&["RESET"]),
            Command::Quit => text(&["QUIT"]),
            Command::Unknown => text(&["GET", "key"]),
            Command::WrongArity => text(&["PUBLISH", "hot"]),
        }
    }

    /// Its bytes: an array of bulk strings, or a line where that can be.
    pub(crate) fn encode(&self, inline: bool) -> Vec<u8> {
        let words = self.words();
        let is_plain = |word: &Vec<u8>| {
            !word.is_empty() && word.iter().all(|byte| byte.is_ascii_alphanumeric())
        };
        if inline && words.iter().all(is_plain) {
            let mut line = words.join(&b' ');
            line.extend_from_slice(b"\r\n");
            return line;
        }
        let mut bytes = Vec::new();
        sapwood_wire::resp::array(&mut bytes, words.len());
        for word in &words {
            sapwood_wire::resp::bulk(&mut bytes, word);
        }
        bytes
    }
}

/// A client's own address, one of a kind.
pub(crate) fn peer(key: usize) -> std::net::SocketAddr {
    let [_, a, b, c] = (key as u32 + 1).to_be_bytes();
    std::net::SocketAddr::from(([10, a, b, c], 40_000))
}
