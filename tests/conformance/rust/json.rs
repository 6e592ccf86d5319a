//! What stands in the lines between runner and agent, but for frames.
//!
//! Owns the JSON of commands, messages and failures, as `../README.md` says it. Must not know connections. Start at
//! [`Command`].

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sapwood_client::ErrorCode;
use sapwood_client::config::ConfigError;
use sapwood_client::error::{
    CloseReason, Disconnect, Doubt, DrainError, MessageError, PingError, PublishError, Refusal,
    RequestError, SubscribeError,
};
use sapwood_client::{Outgoing, Policy};
use sapwood_wire::native::PartsError;
use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};
use serde_json::{Value, json};

/// Bytes, as base64.
#[derive(Clone, Debug, Default)]
pub struct Bytes(pub Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text).map_err(D::Error::custom)?;
        Ok(Bytes(bytes))
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Bytes {
        Bytes(bytes.to_vec())
    }
}

/// Names and values, in order.
pub type Headers = Vec<(Bytes, Bytes)>;

/// A message.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub struct Message {
    pub topic: Bytes,
    #[serde(default)]
    pub payload: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
    #[serde(default)]
    pub last: bool,
}

impl Message {
    /// The message as the library takes it.
    pub fn outgoing(&self) -> Outgoing<'_> {
        let mut outgoing = Outgoing::new(&self.topic.0, &self.payload.0);
        if let Some(reply) = &self.reply {
            outgoing = outgoing.reply_to(&reply.0);
        }
        for (name, value) in self.headers.iter().flatten() {
            outgoing = outgoing.header(&name.0, &value.0);
        }
        if self.last { outgoing.end() } else { outgoing }
    }
}

impl From<&sapwood_client::Message> for Message {
    /// The library does not tell an empty list of headers from none.
    fn from(message: &sapwood_client::Message) -> Message {
        let headers = message.headers();
        let headers: Headers = headers.map(|(n, v)| (n.into(), v.into())).collect();
        Message {
            topic: message.topic().into(),
            payload: message.payload().into(),
            reply: message.reply().map(Bytes::from),
            headers: (!headers.is_empty()).then_some(headers),
            last: message.is_end(),
        }
    }
}

/// What a client connects with.
#[derive(Debug, serde::Deserialize)]
pub struct Connect {
    pub client: String,
    pub address: String,
    pub user: Option<Bytes>,
    pub password: Option<Bytes>,
    pub name: Option<String>,
    #[serde(default, deserialize_with = "policy")]
    pub policy: Option<Policy>,
}

fn policy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Policy>, D::Error> {
    let Some(name) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let policy = Policy::from_name(&name).ok_or_else(|| D::Error::custom("no such policy"))?;
    Ok(Some(policy))
}

/// What is waited for.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum For {
    Draining,
    Refused,
    Closed,
}

/// A command to one client.
#[derive(Debug, serde::Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum ClientCommand {
    Publish {
        message: Message,
    },
    PublishConfirmed {
        message: Message,
    },
    Pipeline {
        messages: Vec<Message>,
    },
    Subscribe {
        subscription: String,
        filter: Bytes,
        group: Option<Bytes>,
    },
    Unsubscribe {
        subscription: String,
    },
    Next {
        subscription: String,
        timeout_ms: u64,
    },
    Request {
        request: String,
        message: Message,
    },
    NextReply {
        request: String,
        timeout_ms: u64,
    },
    Respond {
        subscription: String,
        payload: Bytes,
        last: bool,
        headers: Option<Headers>,
    },
    Ping,
    Drain,
    Close,
    Wait {
        #[serde(rename = "for")]
        what: For,
        timeout_ms: u64,
    },
}

/// What the runner asks for.
#[derive(Debug)]
pub enum Command {
    Describe,
    Connect(Connect),
    Matches {
        filter: Bytes,
        topic: Bytes,
    },
    Decode {
        bytes: Bytes,
    },
    Encode {
        frame: Box<crate::codec::Frame>,
    },
    Client {
        client: String,
        command: ClientCommand,
    },
}

impl Command {
    /// The command in a line.
    pub fn parse(line: &Value) -> Result<Command, Failure> {
        fn field<'a, T: Deserialize<'a>>(line: &'a Value, name: &str) -> Result<T, Failure> {
            let value = line.get(name).unwrap_or(&Value::Null);
            T::deserialize(value).map_err(|error| Failure::agent(format!("{name}: {error}")))
        }
        let whole = |error| Failure::agent(format!("{error}"));
        let name: String = field(line, "do")?;
        Ok(match name.as_str() {
            "describe" => Command::Describe,
            "connect" => Command::Connect(Connect::deserialize(line).map_err(whole)?),
            "matches" => Command::Matches {
                filter: field(line, "filter")?,
                topic: field(line, "topic")?,
            },
            "decode" => Command::Decode {
                bytes: field(line, "bytes")?,
            },
            "encode" => Command::Encode {
                frame: field(line, "frame")?,
            },
            _ => Command::Client {
                client: field(line, "client")?,
                command: ClientCommand::deserialize(line).map_err(whole)?,
            },
        })
    }
}

/// Why a command failed, in the contract's words.
#[derive(Debug)]
pub struct Failure {
    error: &'static str,
    /// The page's code, if there is one.
    pub code: Option<u16>,
    text: String,
}

impl Failure {
    fn new(error: &'static str, code: Option<u16>, text: impl fmt::Display) -> Failure {
        let text = text.to_string();
        Failure { error, code, text }
    }

    /// The agent itself failed, or was asked for what makes no sense.
    pub fn agent(text: impl fmt::Display) -> Failure {
        Failure::new("agent", None, text)
    }

    pub fn refused(code: ErrorCode, text: impl fmt::Display) -> Failure {
        Failure::new("refused", Some(code.number()), text)
    }

    pub fn unsupported(text: impl fmt::Display) -> Failure {
        Failure::new("unsupported", None, text)
    }

    pub fn timeout() -> Failure {
        Failure::new("timeout", None, "nothing came in time")
    }

    pub fn closed(text: impl fmt::Display) -> Failure {
        Failure::new("closed", None, text)
    }

    /// The answer's fields.
    pub fn json(&self) -> Value {
        json!({ "error": self.error, "code": self.code, "text": self.text })
    }
}

/// The code of the broker's ERROR that ended a connection, if it sent one.
pub fn disconnect_code(reason: &Disconnect) -> Option<u16> {
    match reason {
        Disconnect::Rejected(refusal) => Some(refusal.number),
        _ => None,
    }
}

/// The code of the broker's ERROR that ended a client, if it sent one.
pub fn close_code(reason: &CloseReason) -> Option<u16> {
    match reason {
        CloseReason::Rejected(refusal) => Some(refusal.number),
        _ => None,
    }
}

impl From<&Disconnect> for Failure {
    fn from(reason: &Disconnect) -> Failure {
        Failure::new("closed", disconnect_code(reason), reason)
    }
}

impl From<&CloseReason> for Failure {
    fn from(reason: &CloseReason) -> Failure {
        Failure::new("closed", close_code(reason), reason)
    }
}

impl From<&Refusal> for Failure {
    fn from(refusal: &Refusal) -> Failure {
        Failure::new("refused", Some(refusal.number), refusal)
    }
}

impl From<&Doubt> for Failure {
    fn from(doubt: &Doubt) -> Failure {
        match doubt {
            Doubt::Disconnected(reason) => Failure::new("closed", disconnect_code(reason), doubt),
            _ => Failure::new("timeout", None, doubt),
        }
    }
}

impl From<MessageError> for Failure {
    fn from(error: MessageError) -> Failure {
        let code = match error {
            MessageError::Topic(_)
            | MessageError::Reply(_)
            | MessageError::Parts(PartsError::Topic(_)) => ErrorCode::TopicInvalid,
            MessageError::Scope(error) => error.code(),
            MessageError::Parts(PartsError::Header | PartsError::Headers(_)) => {
                ErrorCode::HeadersInvalid
            }
            MessageError::Parts(PartsError::Payload(_)) | MessageError::PayloadTooLong { .. } => {
                ErrorCode::PayloadTooLong
            }
            _ => return Failure::agent(error),
        };
        Failure::refused(code, error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::new("refused", None, error)
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Failure {
        match error {
            PublishError::Invalid(error) => error.into(),
            PublishError::Refused(refusal) => (&refusal).into(),
            PublishError::Unknown(doubt) => (&doubt).into(),
            PublishError::Closed(reason) => (&reason).into(),
            _ => Failure::agent(error),
        }
    }
}

impl From<SubscribeError> for Failure {
    fn from(error: SubscribeError) -> Failure {
        match error {
            SubscribeError::Filter(_) => Failure::refused(ErrorCode::TopicInvalid, error),
            SubscribeError::Refused(refusal) => (&refusal).into(),
            SubscribeError::TimedOut => Failure::new("timeout", None, error),
            SubscribeError::Closed(reason) => (&reason).into(),
            _ => Failure::agent(error),
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Failure {
        match error {
            RequestError::Invalid(error) => error.into(),
            RequestError::NoResponders => Failure::new("no_responders", None, error),
            RequestError::TimedOut(_) => Failure::new("timeout", None, error),
            RequestError::Refused(refusal) => (&refusal).into(),
            RequestError::Unknown(doubt) => (&doubt).into(),
            RequestError::Closed(reason) => (&reason).into(),
            _ => Failure::agent(error),
        }
    }
}

impl From<PingError> for Failure {
    fn from(error: PingError) -> Failure {
        match error {
            PingError::Unknown(doubt) => (&doubt).into(),
            PingError::Closed(reason) => (&reason).into(),
            _ => Failure::agent(error),
        }
    }
}

impl From<DrainError> for Failure {
    fn from(error: DrainError) -> Failure {
        match error {
            DrainError::TimedOut => Failure::new("timeout", None, error),
            DrainError::Closed(reason) => (&reason).into(),
            _ => Failure::agent(error),
        }
    }
}
