//! The settings of a client, one call each. Both clients share it.

use crate::config::Config;
use sapwood_wire::native::Policy;
use std::marker::PhantomData;
use std::time::Duration;

/// Collects the settings of a client of the kind `C`; then `connect` makes it. What is not set has the default of
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

    /// Says who the client is.
    pub fn user(mut self, user: impl Into<Vec<u8>>) -> Self {
        self.config.user = Some(user.into());
        self
    }

    /// Proves it.
    pub fn password(mut self, password: impl Into<Vec<u8>>) -> Self {
        self.config.password = Some(password.into());
        self
    }

    /// Names the client in the broker's lists.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Says what the broker does when this client reads too slowly.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.config.policy = Some(policy);
        self
    }

    /// Sets the lowest and the highest ceiling of the wait before a reconnect.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        (self.config.backoff_min, self.config.backoff_max) = (min, max);
        self
    }

    /// Sets how long one address may take to let the client in.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// Sets after how long a silence the broker is asked for a sign of life, and how long that may take.
    pub fn liveness(mut self, ping_interval: Duration, ping_timeout: Duration) -> Self {
        (self.config.ping_interval, self.config.ping_timeout) = (ping_interval, ping_timeout);
        self
    }

    /// Sets how long an acknowledged operation waits for its answer.
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.config.answer_timeout = timeout;
        self
    }

    /// Sets how long a request waits for a reply.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.config.request_timeout = timeout;
        self
    }

    /// Sets how long a drain may take.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.config.drain_timeout = timeout;
        self
    }

    /// Sets how many bytes and requests may be queued or in flight.
    pub fn window(mut self, bytes: usize, requests: usize) -> Self {
        (self.config.window_bytes, self.config.window_requests) = (bytes, requests);
        self
    }

    /// Sets how many bytes may wait in the queue of one subscription, and in all together while an answer is awaited.
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
