//! Publishers that wait for a subscriber who is behind.
//!
//! A publisher that is faster than a subscriber of its shard fills that subscriber's output up to the cap, where the slow
//! consumer policy decides. Past half of the cap it waits first, as long as the subscriber takes output: until a quarter is
//! left, or for a bounded time. A subscriber that was waited for in vain is not waited for again before it has caught
//! up, so one that does not read holds a publisher once, and not for long. Only publishers with policy `close` among their
//! subscribers wait; events of other shards and nodes never do. Start at [`Stalls::begin`].

use crate::command::ConnId;
use crate::limits::{STALL_IDLE_MS_MAX, STALL_MS_MAX, STALL_OWN_IDLE_MS_MAX};
use crate::outbox::Outboxes;
use foldhash::fast::FixedState;
use indexmap::IndexMap;

#[derive(Debug)]
struct Stall {
    subscriber: ConnId,
    /// The publisher is its own subscriber.
    is_own: bool,
    since_ns: u64,
    /// Bytes that the subscriber has taken so far, and when it last took some.
    taken: (u64, u64),
    /// Nothing has happened since it was last looked at.
    is_waiting: bool,
}

impl Stall {
    /// Until when the subscriber is waited for, if it takes nothing more. One that is its own publisher makes nobody else
    /// wait, so there is no other end.
    fn deadline_ns(&self) -> u64 {
        let (_, idle_since_ns) = self.taken;
        if self.is_own {
            return idle_since_ns + STALL_OWN_IDLE_MS_MAX * 1_000_000;
        }
        let idle_end_ns = idle_since_ns + STALL_IDLE_MS_MAX * 1_000_000;
        idle_end_ns.min(self.since_ns + STALL_MS_MAX * 1_000_000)
    }

    /// Whether the publisher may go on.
    fn is_over(&mut self, outboxes: &mut Outboxes, now_ns: u64) -> bool {
        let Some(bytes) = outboxes.taken_since_crowded(self.subscriber) else {
            return true;
        };
        if bytes != self.taken.0 {
            self.taken = (bytes, now_ns);
        }
        let is_in_vain = now_ns >= self.deadline_ns();
        if is_in_vain {
            outboxes.give_up(self.subscriber);
        }
        self.is_waiting = !is_in_vain;
        is_in_vain
    }
}

/// All publishers that wait for a subscriber.
#[derive(Debug, Default)]
pub(crate) struct Stalls(IndexMap<ConnId, Stall, FixedState>);

impl Stalls {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A publisher waits from now on, if the subscriber is still behind. Gives whether it does.
    pub(super) fn begin(
        &mut self,
        (publisher, subscriber): (ConnId, ConnId),
        outboxes: &Outboxes,
        now_ns: u64,
    ) -> bool {
        let Some(bytes) = outboxes.taken_since_crowded(subscriber) else {
            return false;
        };
        let stall = Stall {
            subscriber,
            is_own: publisher == subscriber,
            since_ns: now_ns,
            taken: (bytes, now_ns),
            is_waiting: true,
        };
        self.0.insert(publisher, stall);
        true
    }

    pub(super) fn waits(&self, publisher: ConnId) -> bool {
        self.0.contains_key(&publisher)
    }

    /// A publisher is being closed, or gone: it waits for nobody.
    pub(super) fn forget(&mut self, publisher: ConnId) {
        self.0.swap_remove(&publisher);
    }

    pub(super) fn is_due(&self) -> bool {
        self.0.values().any(|stall| !stall.is_waiting)
    }

    /// A client has taken output, or time has passed.
    pub(super) fn look_again(&mut self) {
        for stall in self.0.values_mut() {
            stall.is_waiting = false;
        }
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.0.values().map(Stall::deadline_ns).min()
    }

    /// Ends those that are over; adds the publishers to `done`.
    pub(super) fn end(&mut self, outboxes: &mut Outboxes, now_ns: u64, done: &mut Vec<ConnId>) {
        self.0.retain(|&publisher, stall| {
            let is_over = !stall.is_waiting && stall.is_over(outboxes, now_ns);
            if is_over {
                done.push(publisher);
            }
            !is_over
        });
    }
}
