//! The settings of a client: addresses, credentials and limits.
//!
//! The reasons for the numbers are in [`limits`].

use crate::limits;
use sapwood_wire::limits::NATIVE_HELLO_BYTES_MAX;
use sapwood_wire::native::Policy;
use std::fmt;
use std::time::Duration;

/// Maximum length of a client's name, set by the protocol.
const NAME_BYTES_MAX: usize = 255;

/// The settings of a client. The defaults suit most programs; the builders of both clients set the fields by name.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// `host:port` of each broker, tried in turn.
    pub addresses: Vec<String>,
    /// The user name; the broker assumes `default`.
    pub user: Option<Vec<u8>>,
    /// The password. Never printed.
    pub password: Option<Vec<u8>>,
    /// A name for people, at most 255 bytes, shown in the broker's lists of clients.
    pub name: String,
    /// The broker's slow consumer policy for this client; `None` leaves it to the broker.
    pub policy: Option<Policy>,
    /// Ceiling of the backoff before the first reconnect; it doubles up to `backoff_max`. The delay is drawn evenly
    /// between zero and the ceiling ("full jitter").
    pub backoff_min: Duration,
    /// Maximum ceiling of the backoff before a reconnect.
    pub backoff_max: Duration,
    /// Time-out for one address to connect and accept the client.
    pub connect_timeout: Duration,
    /// After this long without any input, a PING is sent.
    pub ping_interval: Duration,
    /// Time-out of that PING's answer; then the connection is closed.
    pub ping_timeout: Duration,
    /// Time-out of an acknowledged operation, checked about once a second.
    pub answer_timeout: Duration,
    /// Time-out of a request's first reply and of each further one, unless the request sets its own.
    pub request_timeout: Duration,
    /// Time-out of a drain; then the client closes all the same.
    pub drain_timeout: Duration,
    /// Maximum bytes queued or unacknowledged; one more message is always accepted.
    pub window_bytes: usize,
    /// Maximum requests queued or unacknowledged.
    pub window_requests: usize,
    /// Maximum bytes in the queue of a subscription, unless it sets its own.
    pub queue_bytes: usize,
    /// Maximum bytes in all queues together while an answer is awaited.
    pub queues_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            addresses: Vec::new(),
            user: None,
            password: None,
            name: String::new(),
            policy: None,
            backoff_min: limits::BACKOFF_MIN,
            backoff_max: limits::BACKOFF_MAX,
            connect_timeout: limits::CONNECT_TIMEOUT,
            ping_interval: limits::PING_INTERVAL,
            ping_timeout: limits::PING_TIMEOUT,
            answer_timeout: limits::ANSWER_TIMEOUT,
            request_timeout: limits::REQUEST_TIMEOUT,
            drain_timeout: limits::DRAIN_TIMEOUT,
            window_bytes: limits::WINDOW_BYTES,
            window_requests: limits::WINDOW_REQUESTS,
            queue_bytes: limits::QUEUE_BYTES,
            queues_bytes_max: limits::QUEUES_BYTES_MAX,
        }
    }
}

impl fmt::Debug for Config {
    /// All fields except the password, which must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_deref().map(String::from_utf8_lossy);
        f.debug_struct("Config")
            .field("addresses", &self.addresses)
            .field("user", &user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("name", &self.name)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// Why a [`Config`] is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no address to connect to.
    NoAddress,
    /// The name is longer than 255 bytes; holds its length.
    NameTooLong(usize),
    /// User, password and name do not fit into 16 KiB; holds their length.
    CredentialsTooLong(usize),
    /// A limit or time is zero, so that nothing could work; holds the field's name.
    Zero(&'static str),
    /// The operating system could not start a thread; holds its reason.
    Thread(std::io::ErrorKind),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::NoAddress => {
                write!(f, "there is no address; give one such as 127.0.0.1:7400")
            }
            ConfigError::NameTooLong(bytes) => write!(
                f,
                "the name has {bytes} bytes, at most {NAME_BYTES_MAX} are allowed"
            ),
            ConfigError::CredentialsTooLong(bytes) => write!(
                f,
                "user, password and name have {bytes} bytes together, too many for a HELLO of {NATIVE_HELLO_BYTES_MAX} bytes"
            ),
            ConfigError::Zero(field) => write!(f, "{field} is zero; give more, or leave it out"),
            ConfigError::Thread(kind) => {
                write!(f, "the operating system gives no thread: {kind}")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Checks the settings.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.addresses.is_empty() {
            return Err(ConfigError::NoAddress);
        }
        if self.name.len() > NAME_BYTES_MAX {
            return Err(ConfigError::NameTooLong(self.name.len()));
        }
        let credentials = [&self.user, &self.password].into_iter().flatten();
        let bytes = credentials.map(Vec::len).sum::<usize>() + self.name.len();
        // Room for the fixed fields, the options' heads and the library's name.
        if bytes > NATIVE_HELLO_BYTES_MAX - 512 {
            return Err(ConfigError::CredentialsTooLong(bytes));
        }
        let times = [
            ("backoff_min", self.backoff_min),
            ("backoff_max", self.backoff_max),
            ("connect_timeout", self.connect_timeout),
            ("ping_interval", self.ping_interval),
            ("ping_timeout", self.ping_timeout),
            ("answer_timeout", self.answer_timeout),
            ("request_timeout", self.request_timeout),
            ("drain_timeout", self.drain_timeout),
        ];
        let sizes = [
            ("window_bytes", self.window_bytes),
            ("window_requests", self.window_requests),
            ("queue_bytes", self.queue_bytes),
            ("queues_bytes_max", self.queues_bytes_max),
        ];
        let mut zeros = times
            .iter()
            .filter(|(_, time)| time.is_zero())
            .map(|(field, _)| field)
            .chain(
                sizes
                    .iter()
                    .filter(|(_, size)| *size == 0)
                    .map(|(field, _)| field),
            );
        match zeros.next() {
            Some(field) => Err(ConfigError::Zero(field)),
            None => Ok(()),
        }
    }
}

/// What happens when the queue of a subscription is full. See [the machine](crate::machine#full-queues) for the
/// reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// The connection is not read until there is room (back-pressure), so that the broker's slow consumer policy
    /// applies. While an answer is awaited, reading goes on and the queue grows, up to `queues_bytes_max`.
    #[default]
    Wait,
    /// The oldest events of this subscription are dropped, and a gap says how many. Other subscriptions are not held
    /// up.
    DropOldest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_not_printed() {
        let config = Config {
            password: Some(b"secret".to_vec()),
            ..Config::default()
        };
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_field() {
        let good = Config {
            addresses: vec!["broker:7400".to_string()],
            ..Config::default()
        };
        assert_eq!(good.check(), Ok(()));
        assert_eq!(Config::default().check(), Err(ConfigError::NoAddress));
        let long = Config {
            name: "n".repeat(256),
            ..good.clone()
        };
        assert_eq!(long.check(), Err(ConfigError::NameTooLong(256)));
        let heavy = Config {
            password: Some(vec![0; NATIVE_HELLO_BYTES_MAX]),
            ..good.clone()
        };
        assert!(matches!(
            heavy.check(),
            Err(ConfigError::CredentialsTooLong(_))
        ));
        let narrow = Config {
            window_requests: 0,
            ..good
        };
        assert_eq!(narrow.check(), Err(ConfigError::Zero("window_requests")));
    }
}
