//! How shards reach each other: one inbox a shard, batches that come back, and waking who sleeps.
//!
//! Owns the channels and the doors; what a batch means and how many may be on the way is core's
//! business. Nothing here waits. Invariants: an inbox has room for every batch that core's credit
//! allows, so a send never finds it full; a shard that is about to sleep says so before it looks
//! at its inbox for the last time, and a sender looks whether it sleeps after it has sent, so no
//! wake-up is lost between the two. Start at [`Mesh::send`].

use crate::conn::Moved;
use crate::poker::Watch;
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use sapwood_core::command::ShardId;
use sapwood_core::limits::HANDOVER_ITEMS_MAX;
use sapwood_core::mailbox::Batch;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Connections that may wait for a shard to take them: more than a tree's links bring at once.
const ARRIVALS_MAX: usize = 1024;

/// Where a shard is woken, and how far it has come.
#[derive(Debug)]
pub struct Door {
    /// Read by the shard's ring; in blocking mode, as the ring asks.
    bell: OwnedFd,
    asleep: CachePadded<AtomicBool>,
    /// The shard has batches that wait for credit: what comes back should wake it.
    wants_credit: CachePadded<AtomicBool>,
    /// Turns the shard has done.
    turns: CachePadded<AtomicU64>,
    /// Where the poking thread is roused, lest a ring of the bell is lost.
    watch: Arc<Watch>,
    /// For the test of the poking thread: the next ring of the bell is not heard.
    #[cfg(test)]
    swallow_next: AtomicBool,
}

impl Door {
    fn new(watch: &Arc<Watch>) -> io::Result<Door> {
        Ok(Door {
            watch: Arc::clone(watch),
            bell: eventfd(0, EventfdFlags::CLOEXEC)?,
            asleep: CachePadded::default(),
            wants_credit: CachePadded::default(),
            turns: CachePadded::default(),
            #[cfg(test)]
            swallow_next: AtomicBool::new(false),
        })
    }

    /// Wakes the shard if it sleeps.
    pub fn wake(&self) {
        // Pairs with the fence in `fall_asleep`: either we see that it sleeps, or it sees what we sent.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            self.ring_bell();
            // Pairs with the fence of the poking thread, lest this ring is lost: either we see that it dozes, or it sees
            // that the shard was woken.
            std::sync::atomic::fence(Ordering::SeqCst);
        }
        self.watch.rouse();
    }

    /// Wakes the shard, asleep or not.
    pub fn ring_bell(&self) {
        #[cfg(test)]
        if self.swallow_next.swap(false, Ordering::AcqRel) {
            return;
        }
        // Fails only when the count is at its greatest, and then the bell is ringing already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Loses the next ring of the bell.
    #[cfg(test)]
    pub(crate) fn swallow_next(&self) {
        self.swallow_next.store(true, Ordering::Release);
    }

    /// Whether a ring was lost since [`swallow_next`](Door::swallow_next).
    #[cfg(test)]
    pub(crate) fn has_swallowed(&self) -> bool {
        !self.swallow_next.load(Ordering::Acquire)
    }

    #[cfg(test)]
    pub(crate) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Acquire)
    }

    /// Says that the shard sleeps, whatever waits for it.
    #[cfg(test)]
    pub(crate) fn pretend_asleep(&self) {
        self.asleep.store(true, Ordering::Release);
    }

    /// Turns done so far: stands still while the shard sleeps or hangs.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }
}

/// What all shards of a node share.
#[derive(Debug)]
pub struct Doors {
    doors: Vec<Door>,
    /// `returns[sender][receiver]`: batches that the receiver has dealt with.
    returns: Vec<Vec<ArrayQueue<Batch>>>,
    /// What each shard's inbox holds, for the poking thread.
    inboxes: Vec<flume::Sender<(ShardId, Batch)>>,
    arrivals: Vec<flume::Sender<Moved>>,
    watch: Arc<Watch>,
    draining: AtomicBool,
    /// The node is a lame duck: it takes no more clients, and sends those it has away bit by bit.
    lame: AtomicBool,
    /// Shards that have sent all away since then.
    emptied: AtomicU64,
    /// Shards that have written all they had when the node began to drain.
    flushed: AtomicU64,
}

impl Doors {
    /// Each shard's door.
    pub fn iter(&self) -> impl Iterator<Item = &Door> {
        self.doors.iter()
    }

    /// Asks all shards to drain. Idempotent.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.ring_all();
    }

    /// Asks all shards to send their clients away bit by bit, and then to drain. Idempotent.
    pub fn lame_duck(&self) {
        self.lame.store(true, Ordering::Release);
        self.ring_all();
    }

    /// Wakes all shards, asleep or not.
    fn ring_all(&self) {
        for door in &self.doors {
            // Lest the ring is lost, the poking thread finds a shard that is awake and stands still.
            door.asleep.store(false, Ordering::Release);
            door.ring_bell();
        }
        std::sync::atomic::fence(Ordering::SeqCst);
        self.watch.rouse();
    }

    /// Whether the node drains.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Where the poking thread dozes.
    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Whether a shard that stands still has something to do: it was woken and has not said that it sleeps since, or
    /// something waits for it. What its ring has is not known here.
    pub(crate) fn has_pending(&self, shard: usize) -> bool {
        let door = &self.doors[shard];
        let is_awake = !door.asleep.load(Ordering::Acquire);
        let has_mail = !self.inboxes[shard].is_empty() || !self.arrivals[shard].is_empty();
        let wants_credit = door.wants_credit.load(Ordering::Relaxed);
        is_awake || has_mail || wants_credit && self.has_returned(shard)
    }

    /// Whether batches of a shard came back to it.
    fn has_returned(&self, shard: usize) -> bool {
        self.returns[shard].iter().any(|queue| !queue.is_empty())
    }
}

/// One shard's end of the mesh.
#[derive(Debug)]
pub struct Mesh {
    me: ShardId,
    inbox: flume::Receiver<(ShardId, Batch)>,
    arrivals: flume::Receiver<Moved>,
    /// Where connections that are other shards' go.
    departures: Vec<flume::Sender<Moved>>,
    others: Vec<flume::Sender<(ShardId, Batch)>>,
    doors: Arc<Doors>,
}

/// The ends of the mesh for so many shards.
///
/// Fails if no descriptor is left for a bell.
pub fn weave(shards: u16) -> io::Result<(Vec<Mesh>, Arc<Doors>)> {
    let count = usize::from(shards);
    let returns = || {
        (0..count)
            .map(|_| ArrayQueue::new(HANDOVER_ITEMS_MAX))
            .collect()
    };
    let room = HANDOVER_ITEMS_MAX * count;
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| flume::bounded(room)).unzip();
    let moved = || flume::bounded(ARRIVALS_MAX);
    let (departures, arrivals): (Vec<_>, Vec<_>) = (0..count).map(|_| moved()).unzip();
    let watch = Arc::new(Watch::new()?);
    let doors = (0..count).map(|_| Door::new(&watch));
    let doors = Arc::new(Doors {
        doors: doors.collect::<io::Result<_>>()?,
        returns: (0..count).map(|_| returns()).collect(),
        inboxes: senders.clone(),
        arrivals: departures.clone(),
        watch,
        draining: AtomicBool::new(false),
        lame: AtomicBool::new(false),
        emptied: AtomicU64::new(0),
        flushed: AtomicU64::new(0),
    });
    let ends = receivers
        .into_iter()
        .zip(arrivals)
        .zip(0..shards)
        .map(|((inbox, arrivals), me)| Mesh {
            me: ShardId(me),
            inbox,
            arrivals,
            departures: departures.clone(),
            others: senders.clone(),
            doors: Arc::clone(&doors),
        });
    Ok((ends.collect(), doors))
}

impl Mesh {
    /// What all shards share.
    pub fn doors(&self) -> Arc<Doors> {
        Arc::clone(&self.doors)
    }

    /// Sends a batch; lost if that shard has ended, which happens only while the node drains.
    pub fn send(&self, to: ShardId, batch: Batch) {
        let place = usize::from(to.0);
        match self.others[place].try_send((self.me, batch)) {
            Ok(()) => self.doors.doors[place].wake(),
            Err(flume::TrySendError::Disconnected(_)) => {}
            Err(flume::TrySendError::Full(_)) => {
                unreachable!("core's credit allows fewer batches than an inbox holds")
            }
        }
    }

    /// Gives a connection to another shard. If that has as many waiting as it may, the connection is closed, and dialed
    /// again.
    pub fn send_moved(&self, to: ShardId, moved: Moved) {
        let place = usize::from(to.0);
        if self.departures[place].try_send(moved).is_ok() {
            self.doors.doors[place].wake();
        }
    }

    /// The next connection that another shard gave.
    pub fn receive_moved(&self) -> Option<Moved> {
        self.arrivals.try_recv().ok()
    }

    /// The next batch from another shard.
    pub fn receive(&self) -> Option<(ShardId, Batch)> {
        self.inbox.try_recv().ok()
    }

    /// Gives a batch that was dealt with back to its sender.
    pub fn give_back(&self, to: ShardId, batch: Batch) {
        let sender = usize::from(to.0);
        // A queue holds as many as can be on the way; if it did not, the batch would only be freed.
        let _ = self.doors.returns[sender][usize::from(self.me.0)].push(batch);
        let door = &self.doors.doors[sender];
        // Pairs with `fall_asleep`, as in `wake`.
        std::sync::atomic::fence(Ordering::SeqCst);
        if door.wants_credit.load(Ordering::Relaxed) {
            door.wake();
        }
    }

    /// The next of this shard's batches that came back, and who gave it back.
    pub fn take_returned(&self) -> Option<(ShardId, Batch)> {
        let queues = self.doors.returns[usize::from(self.me.0)]
            .iter()
            .enumerate();
        queues
            .filter_map(|(by, queue)| Some((ShardId(by as u16), queue.pop()?)))
            .next()
    }

    /// The descriptor that becomes readable when this shard is woken.
    pub fn bell(&self) -> RawFd {
        self.doors.doors[usize::from(self.me.0)].bell.as_raw_fd()
    }

    /// Says that this shard is about to sleep; false if there is something to do after all.
    pub fn fall_asleep(&self, wants_credit: bool) -> bool {
        let door = &self.doors.doors[usize::from(self.me.0)];
        door.wants_credit.store(wants_credit, Ordering::Relaxed);
        door.asleep.store(true, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::SeqCst);
        let returned = self.doors.has_returned(usize::from(self.me.0));
        if self.inbox.is_empty() && self.arrivals.is_empty() && !(wants_credit && returned) {
            return true;
        }
        self.awake();
        false
    }

    /// Says that this shard is awake.
    pub fn awake(&self) {
        let door = &self.doors.doors[usize::from(self.me.0)];
        door.asleep.store(false, Ordering::Relaxed);
    }

    /// Counts a turn.
    pub fn note_turn(&self) {
        let turns = &self.doors.doors[usize::from(self.me.0)].turns;
        turns.store(turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Whether the node drains.
    pub fn is_draining(&self) -> bool {
        self.doors.is_draining()
    }

    /// Whether clients are to be sent away bit by bit.
    pub fn is_lame_duck(&self) -> bool {
        self.doors.lame.load(Ordering::Acquire)
    }

    /// Takes note that this shard has sent all away; once all shards have, the node drains.
    pub fn note_emptied(&self) {
        let emptied = self.doors.emptied.fetch_add(1, Ordering::AcqRel) + 1;
        if emptied == self.doors.doors.len() as u64 {
            self.doors.drain();
        }
    }

    /// Says that this shard has written all it had.
    pub fn note_flushed(&self) {
        self.doors.flushed.fetch_add(1, Ordering::AcqRel);
        self.doors.doors.iter().for_each(Door::wake);
    }

    /// Whether all shards have written all they had.
    pub fn all_flushed(&self) -> bool {
        self.doors.flushed.load(Ordering::Acquire) >= self.others.len() as u64
    }
}
