//! Text commands over WebSocket: `SUBSCRIBE ch`, `UNSUBSCRIBE ch`, `PUBLISH ch msg` and a few more.
//!
//! A message is a command. `WEB.md` lists them. Start at [`parse`].

use std::fmt;

/// A client's command. Names are as they came: nothing in them has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Subscribes to channels; never empty.
    Subscribe(Names<'a>),
    /// Unsubscribes; from all if there is no name.
    Unsubscribe(Names<'a>),
    /// Subscribes to patterns; never empty.
    PatternSubscribe(Names<'a>),
    /// Unsubscribes from patterns; from all if there is no name.
    PatternUnsubscribe(Names<'a>),
    /// Publishes.
    Publish {
        /// To this channel.
        channel: &'a [u8],
        /// All that stands behind the blank after it.
        payload: &'a [u8],
    },
    /// Asks for a PONG with the same text.
    Ping(&'a [u8]),
    /// Proves who the client is: a password; or a user's name, a blank and the password, which may hold blanks itself.
    Auth(&'a [u8]),
}

/// Names that stand behind each other, separated by blanks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a>(&'a [u8]);

impl<'a> Names<'a> {
    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .split(|&byte| byte == b' ')
            .filter(|name| !name.is_empty())
    }
}

/// Why a message is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextError {
    /// Its first word; shortened.
    Unknown(String),
    /// How the command is to be written.
    Usage(&'static str),
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TextError::Unknown(word) => write!(
                f,
                "unknown command '{word}', these are known: SUBSCRIBE, UNSUBSCRIBE, PSUBSCRIBE, PUNSUBSCRIBE, PUBLISH, PING, AUTH"
            ),
            TextError::Usage(usage) => write!(f, "the command is written so: {usage}"),
        }
    }
}

impl std::error::Error for TextError {}

/// Bytes of an unknown command that an error shows.
const SHOWN_BYTES_MAX: usize = 32;

/// Reads a command.
pub fn parse(message: &[u8]) -> Result<Command<'_>, TextError> {
    let end = message.iter().position(|&byte| byte == b' ');
    let (word, rest) = match end {
        Some(end) => (&message[..end], &message[end + 1..]),
        None => (message, &[][..]),
    };
    let names = |usage: &'static str| {
        let names = Names(rest);
        match names.iter().next() {
            Some(_) => Ok(names),
            None => Err(TextError::Usage(usage)),
        }
    };
    let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    if is("PUBLISH") {
        let blank = rest.iter().position(|&byte| byte == b' ');
        match blank {
            Some(0) | None => Err(TextError::Usage("PUBLISH ch msg")),
            Some(blank) => Ok(Command::Publish {
                channel: &rest[..blank],
                payload: &rest[blank + 1..],
            }),
        }
    } else if is("SUBSCRIBE") {
        names("SUBSCRIBE ch [ch ...]").map(Command::Subscribe)
    } else if is("UNSUBSCRIBE") {
        Ok(Command::Unsubscribe(Names(rest)))
    } else if is("PSUBSCRIBE") {
        names("PSUBSCRIBE pat [pat ...]").map(Command::PatternSubscribe)
    } else if is("PUNSUBSCRIBE") {
        Ok(Command::PatternUnsubscribe(Names(rest)))
    } else if is("PING") {
        Ok(Command::Ping(rest))
    } else if is("AUTH") {
        match rest {
            [] => Err(TextError::Usage("AUTH [user] password")),
            proof => Ok(Command::Auth(proof)),
        }
    } else {
        let shown = &word[..word.len().min(SHOWN_BYTES_MAX)];
        Err(TextError::Unknown(shown.escape_ascii().to_string()))
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
