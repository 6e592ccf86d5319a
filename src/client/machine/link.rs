//! Connection states: when and where to connect, when to give up, and what is left when a connection ends.
//!
//! Owns the states, all deadlines, and the backoff between attempts. Must not know what frames mean. Invariants: the
//! driver has at most one connection; each ends by `handle_disconnected`, once; nothing queued is written before the
//! broker's WELCOME. Start at [`Link`].

use super::outgoing::{Ask, Pending, Place, Transmit};
use super::{
    Action, ConnectionEvent, Disconnect, Doubt, End, Machine, Outcome, Reader, Standing,
    write_drain, write_ping,
};
use crate::error::{CloseReason, RequestError};
use sapwood_wire::error::ErrorCode;
use sapwood_wire::native::{self, Hello, kind};
use std::collections::BTreeSet;
use std::time::Duration;

/// Interval at which acknowledged operations are checked for time-outs.
const SCAN_INTERVAL: Duration = Duration::from_secs(1);

/// The client library's name and version, sent to the broker.
const LIBRARY: &str = concat!("sapwood-client/", env!("CARGO_PKG_VERSION"));

/// The state of the connection.
#[derive(Debug)]
pub(super) enum Link {
    /// No connection, and no attempt before this time (backoff).
    Waiting { until: Duration },
    /// The driver is connecting.
    Connecting { deadline: Duration },
    /// HELLO was queued, WELCOME is awaited.
    Greeting { deadline: Duration },
    /// The broker has accepted the client.
    Open(Open),
    /// The driver was told to disconnect.
    Leaving {
        reason: Disconnect,
        /// How long the connection was open, if the broker had accepted the client.
        stood: Option<Duration>,
    },
    /// The client is closed.
    Closed,
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Open {
    since: Duration,
    /// When input last arrived, or reading was last held back.
    pub(super) heard: Duration,
    /// The time-out of the machine's own ping.
    pub(super) probe_deadline: Option<Duration>,
    leave: Leave,
}

/// Whether the broker is about to stop.
#[derive(Debug)]
enum Leave {
    No,
    /// The broker is about to stop: what is in flight is finished first, open requests until `asking`.
    Wanted {
        asking: Duration,
        deadline: Duration,
    },
    /// DRAIN was queued as the last frame of this connection.
    Asked {
        deadline: Duration,
    },
}

impl Open {
    pub(super) fn new(now: Duration) -> Open {
        Open {
            since: now,
            heard: now,
            probe_deadline: None,
            leave: Leave::No,
        }
    }

    /// Whether queued frames are held for another connection.
    pub(super) fn is_leaving(&self) -> bool {
        !matches!(self.leave, Leave::No)
    }
}

impl Link {
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Link::Open(_))
    }

    /// Whether the present subscriptions were sent to the broker, so that each change must be sent too.
    pub(super) fn is_opening_written(&self) -> bool {
        matches!(self, Link::Greeting { .. } | Link::Open(_))
    }
}

/// A pseudo-random generator (SplitMix64, Steele and others 2014): good enough for jitter.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A random time from zero to below `ceiling`.
    fn below(&mut self, ceiling: Duration) -> Duration {
        let nanoseconds = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(self.next() % nanoseconds)
    }
}

impl Machine {
    /// Handles the passing of time: starts what is due and gives up what is overdue.
    pub fn handle_time(&mut self, now: Duration) {
        self.now = self.now.max(now);
        let now = self.now;
        match &self.link {
            Link::Waiting { until } if *until <= now => {
                self.link = Link::Connecting {
                    deadline: now.saturating_add(self.config.connect_timeout),
                };
                self.action = Some(Action::Connect {
                    address: self.address,
                });
            }
            Link::Connecting { deadline } | Link::Greeting { deadline } if *deadline <= now => {
                self.disconnect(Disconnect::ConnectTimedOut);
            }
            Link::Open(_) => self.check_open_link(),
            _ => {}
        }
        // Ends because each round ends a call.
        while let Some(call) = self.calls.expire(now) {
            self.tell_readable(Reader::Call(call));
        }
        if self.next_scan <= now {
            self.next_scan = now.saturating_add(SCAN_INTERVAL);
            self.give_up_waiting();
        }
        if self
            .drain
            .as_ref()
            .is_some_and(|drain| drain.deadline <= now)
        {
            self.finish_drain(Outcome::TimedOut);
        }
        self.advance_drain();
    }

    /// When `handle_time` must be called at the latest, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        let link = match &self.link {
            Link::Waiting { until } => Some(*until),
            Link::Connecting { deadline } | Link::Greeting { deadline } => Some(*deadline),
            Link::Open(open) => {
                let liveness = open
                    .probe_deadline
                    .unwrap_or(open.heard.saturating_add(self.config.ping_interval));
                let leave = match open.leave {
                    Leave::No => liveness,
                    Leave::Wanted { asking, .. } => asking,
                    Leave::Asked { deadline } => deadline,
                };
                Some(liveness.min(leave))
            }
            Link::Leaving { .. } | Link::Closed => None,
        };
        let scan = (self.outgoing.awaited() > 0 || self.asked > 0).then_some(self.next_scan);
        let drain = self.drain.as_ref().map(|drain| drain.deadline);
        [link, self.calls.next_deadline(), scan, drain]
            .into_iter()
            .flatten()
            .min()
    }

    /// Reports time-outs of acknowledged operations.
    fn give_up_waiting(&mut self) {
        let Some(since) = self.now.checked_sub(self.config.answer_timeout) else {
            return;
        };
        let mut expired = Vec::new();
        self.outgoing.give_up(since, &mut expired);
        for ask in expired {
            if let Some(token) = ask.token() {
                self.complete(token, Outcome::Unknown(Doubt::TimedOut));
            }
        }
        if self.asked == 0 {
            return;
        }
        let mut late = Vec::new();
        for local in self.subscriptions.iter_mut() {
            if let Standing::Asked(Some((token, asked_at))) = local.standing
                && asked_at <= since
            {
                local.standing = Standing::Asked(None);
                late.push(token);
            }
        }
        self.asked -= late.len();
        for token in late {
            self.complete(token, Outcome::TimedOut);
        }
    }

    /// Checks the liveness of an open connection.
    fn check_open_link(&mut self) {
        let (now, reads) = (self.now, self.wants_read());
        let Link::Open(open) = &mut self.link else {
            return;
        };
        if let Leave::Wanted { deadline, .. } | Leave::Asked { deadline } = open.leave
            && deadline <= now
        {
            self.disconnect(Disconnect::Draining);
            return;
        }
        if !reads {
            // Input that is not read cannot show that the broker is alive.
            open.heard = now;
            open.probe_deadline = None;
        } else if open.probe_deadline.is_some_and(|deadline| deadline <= now) {
            self.disconnect(Disconnect::Silent);
            return;
        } else if open.probe_deadline.is_none()
            && open.heard.saturating_add(self.config.ping_interval) <= now
        {
            open.probe_deadline = Some(now.saturating_add(self.config.ping_timeout));
            self.outgoing
                .push_request(Place::Next, now, Ask::Probe, write_ping);
        }
        self.advance_leave();
    }

    /// The broker will stop: queued frames are held for another connection from now on.
    pub(super) fn handle_draining(&mut self, within: Duration) {
        let now = self.now;
        if let Link::Open(open) = &mut self.link {
            open.leave = Leave::Wanted {
                asking: now.saturating_add(within / 2),
                deadline: now.saturating_add(within),
            };
            self.tell(ConnectionEvent::Draining { within });
            self.advance_leave();
        }
    }

    /// Sends the last frame on a connection that is being left, once no reply is awaited or half of the time has
    /// passed.
    pub(super) fn advance_leave(&mut self) {
        let Link::Open(open) = &mut self.link else {
            return;
        };
        let Leave::Wanted { asking, deadline } = open.leave else {
            return;
        };
        if self.calls.open() <= self.outgoing.unsent_calls() || asking <= self.now {
            open.leave = Leave::Asked { deadline };
            self.outgoing
                .push_request(Place::Next, self.now, Ask::Leave, write_drain);
        }
    }

    /// The driver has connected.
    pub fn handle_connected(&mut self, now: Duration) {
        self.now = self.now.max(now);
        let Link::Connecting { deadline } = self.link else {
            return;
        };
        self.link = Link::Greeting { deadline };
        let config = &self.config;
        let hello = Hello {
            user: config.user.as_deref(),
            password: config.password.as_deref(),
            name: &config.name,
            library: LIBRARY,
            policy: config.policy,
            ..Hello::default()
        };
        let kept = self
            .outgoing
            .begin_opening(|out| native::write_hello(out, &hello));
        if self.inbox_is_wanted {
            self.subscribe_inbox(Place::Next);
        }
        for local in self.subscriptions.iter() {
            if matches!(local.standing, Standing::Asked(_) | Standing::Active) {
                let (ask, key) = (Ask::Subscribe(local.id), local.key());
                self.outgoing
                    .push_request(Place::Next, self.now, ask, |out, request| {
                        native::write_subscription(out, kind::SUBSCRIBE, request, &key);
                    });
            }
        }
        self.outgoing.finish_opening(kept);
    }

    /// Takes back what was written, and gives the next bytes to write. False if there is nothing to write now.
    pub fn poll_transmit(&mut self, transmit: &mut Transmit) -> bool {
        let place = match &self.link {
            Link::Greeting { .. } => Place::Next,
            Link::Open(open) if open.is_leaving() => Place::Next,
            Link::Open(_) => Place::Last,
            _ => return false,
        };
        let has_bytes = self.outgoing.hand_out(transmit, place);
        self.tell_room();
        has_bytes
    }

    /// Whether `poll_transmit` would give bytes, for a caller that must wake the driver.
    pub fn has_transmit(&self) -> bool {
        match &self.link {
            Link::Greeting { .. } => self.outgoing.has_frames(Place::Next),
            Link::Open(open) if open.is_leaving() => self.outgoing.has_frames(Place::Next),
            Link::Open(_) => self.outgoing.has_frames(Place::Last),
            _ => false,
        }
    }

    /// Whether the driver must read. See [full queues](super#full-queues).
    pub fn wants_read(&self) -> bool {
        let is_awaited = || self.outgoing.awaited() > 0 || self.asked > 0 || self.calls.open() > 0;
        self.link.is_opening_written() && (self.gauge.full == 0 || is_awaited())
    }

    /// Tells the driver to end the connection.
    pub(super) fn disconnect(&mut self, reason: Disconnect) {
        let stood = match &self.link {
            Link::Open(open) => Some(self.now.saturating_sub(open.since)),
            Link::Connecting { .. } | Link::Greeting { .. } => None,
            Link::Waiting { .. } | Link::Leaving { .. } | Link::Closed => return,
        };
        self.link = Link::Leaving { reason, stood };
        self.action = Some(Action::Disconnect);
    }

    fn backoff_ceiling(&self) -> Duration {
        let doubled = 1u32.checked_shl(self.failed_rounds).unwrap_or(u32::MAX);
        let ceiling = self.config.backoff_min.saturating_mul(doubled);
        ceiling.min(self.config.backoff_max)
    }

    /// The connection ended, or could not be made. `transmit` is what the driver was writing; `reason` is what the
    /// driver knows, used unless the machine itself ended the connection.
    pub fn handle_disconnected(
        &mut self,
        now: Duration,
        transmit: &mut Transmit,
        reason: Disconnect,
    ) {
        self.now = self.now.max(now);
        if matches!(self.link, Link::Waiting { .. } | Link::Closed) {
            return;
        }
        // Uses the driver's reason, unless the machine has its own.
        self.disconnect(reason);
        let ended = std::mem::replace(&mut self.link, Link::Waiting { until: now });
        let Link::Leaving { reason, stood } = ended else {
            return;
        };
        self.action = None;
        self.payload_max = sapwood_wire::limits::PAYLOAD_BYTES_MAX;
        self.tell_end(stood.is_some(), &reason);
        self.settle_remains(transmit, &reason);
        self.schedule(stood);
        if let Some(closing) = self.closing.take() {
            self.finish_close(closing);
        } else if let Disconnect::Rejected(refusal) = reason
            && matches!(
                refusal.code(),
                Some(ErrorCode::Authentication | ErrorCode::Version)
            )
        {
            self.finish_close(CloseReason::Rejected(refusal));
        }
        self.interrupt_drain();
        self.advance_drain();
        self.tell_room();
    }

    fn tell_end(&mut self, was_open: bool, reason: &Disconnect) {
        let reason = reason.clone();
        if was_open {
            self.tell(ConnectionEvent::Disconnected { reason });
        } else {
            self.last_failure = Some((self.address, reason.clone()));
            let address = self.config.addresses[self.address].clone();
            self.tell(ConnectionEvent::ConnectFailed { address, reason });
        }
    }

    /// Reports the operations that were lost with the connection.
    fn settle_remains(&mut self, transmit: &mut Transmit, reason: &Disconnect) {
        let remains = self.outgoing.break_off(transmit);
        let doubt = Doubt::Disconnected(reason.clone());
        if remains.unconfirmed > 0 {
            self.doubt_drain(&doubt);
            let publishes = remains.unconfirmed;
            self.statistics.unconfirmed_publishes += publishes;
            self.tell(ConnectionEvent::Unconfirmed { publishes });
        }
        for Pending { ask, .. } in remains.touched {
            if let Some(token) = ask.token() {
                self.complete(token, Outcome::Unknown(doubt.clone()));
            }
        }
        let kept: BTreeSet<_> = self.outgoing.kept_calls().collect();
        self.unproved_calls = kept.len();
        for call in self.calls.open_but(&kept) {
            let error = RequestError::Unknown(doubt.clone());
            self.end_call(call, End::Failed(error));
        }
    }

    /// Decides when and where to reconnect: every address at once, then after a backoff. A connection that was open for
    /// longer than the present backoff ceiling resets the backoff; after a shorter one, such as to a broker that
    /// accepts and then disconnects clients, it keeps growing.
    fn schedule(&mut self, stood: Option<Duration>) {
        let addresses = self.config.addresses.len();
        self.address = (self.address + 1) % addresses;
        self.failed_addresses = match stood {
            Some(_) => addresses,
            None => self.failed_addresses + 1,
        };
        let mut wait = Duration::ZERO;
        if self.failed_addresses >= addresses {
            let ceiling = self.backoff_ceiling();
            if stood.is_some_and(|stood| stood > ceiling) {
                self.failed_rounds = 0;
            }
            wait = self.random.below(self.backoff_ceiling());
            self.failed_addresses = 0;
            self.failed_rounds = self.failed_rounds.saturating_add(1);
        }
        self.link = Link::Waiting {
            until: self.now.saturating_add(wait),
        };
    }

    /// The last failure to connect, if it ended a round over all addresses and no connection is open.
    pub fn failure(&self) -> Option<(&str, &Disconnect)> {
        let (address, reason) = self.last_failure.as_ref()?;
        let address = self.config.addresses[*address].as_str();
        (self.failed_addresses == 0 && !self.is_connected()).then_some((address, reason))
    }

    /// Whether the broker has accepted the client and the connection is open.
    pub fn is_connected(&self) -> bool {
        self.link.is_open()
    }
}
