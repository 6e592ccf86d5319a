//! The builder of a client's settings, one call each. Used by both clients.

use crate::config::Config;
use sapwood_wire::native::Policy;
use std::marker::PhantomData;
use std::time::Duration;

/// Collects the settings of a client of type `C`, then `connect` creates it. Settings not given have the defaults of
/// [`Config`].
#[derive(Clone, Debug)]
pub struct Builder<C> {
    pub(crate) config: Config,
    client: PhantomData<fn() -> C>,
}

impl<C> Default for Builder<C> {
    fn default() -> Self {
        Builder {
            config: Config::default(),
            client: PhantomData,
        }
    }
}

impl<C> Builder<C> {
    /// Adds the `host:port` of a broker. With several, they are tried in turn.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.config.addresses.push(address.into());
        self
    }

    /// Sets the user name.
    pub fn user(mut self, user: impl Into<Vec<u8>>) -> Self {
        self.config.user = Some(user.into());
        self
    }

    /// Sets the password.
    pub fn password(mut self, password: impl Into<Vec<u8>>) -> Self {
        self.config.password = Some(password.into());
        self
    }

    /// Sets the client's name, which the broker shows in its lists of clients.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Sets the broker's slow consumer policy for this client.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.config.policy = Some(policy);
        self
    }

    /// Sets the minimum and maximum ceiling of the backoff before a reconnect.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        (self.config.backoff_min, self.config.backoff_max) = (min, max);
        self
    }

    /// Sets how long one address may take to accept the client.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// Sets the interval of silence after which a PING is sent, and the time-out of its answer.
    pub fn liveness(mut self, ping_interval: Duration, ping_timeout: Duration) -> Self {
        (self.config.ping_interval, self.config.ping_timeout) = (ping_interval, ping_timeout);
        self
    }

    /// Sets the time-out of acknowledged operations.
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.config.answer_timeout = timeout;
        self
    }

    /// Sets the time-out of requests.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.config.request_timeout = timeout;
        self
    }

    /// Sets the time-out of a drain.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.config.drain_timeout = timeout;
        self
    }

    /// Sets the cap on queued and unacknowledged bytes and requests.
    pub fn window(mut self, bytes: usize, requests: usize) -> Self {
        (self.config.window_bytes, self.config.window_requests) = (bytes, requests);
        self
    }

    /// Sets the cap of one subscription's queue in bytes, and that of all queues together while an answer is awaited.
    pub fn queues(mut self, bytes: usize, all_bytes: usize) -> Self {
        (self.config.queue_bytes, self.config.queues_bytes_max) = (bytes, all_bytes);
        self
    }

    /// The settings so far.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl<C> From<Config> for Builder<C> {
    fn from(config: Config) -> Self {
        Builder {
            config,
            ..Builder::default()
        }
    }
}
