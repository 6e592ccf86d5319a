//! The mesh between peers, which are shards and state workers: an inbox for each, batches that come back, and waking who
//! sleeps.
//!
//! Owns the channels and the doors; what a batch means and how many may be on the way is core's business. What workers
//! say to a shard has a channel of its own, because the shard does not always take it. Nothing here blocks. Invariants: an inbox has room for every batch that core's credit allows, so a send never finds it full; a
//! shard that is about to sleep says so before its last look at its inbox, and a sender checks whether it sleeps after
//! sending, so no wake-up is lost between the two. Start at [`Mesh::send`].

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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

/// Maximum connections waiting for a shard to take them: more than a tree's links bring at once.
const ARRIVALS_MAX: usize = 1024;

/// What wakes a peer.
#[derive(Debug)]
enum Bell {
    /// Of a shard: an eventfd read by its ring; in blocking mode, as the ring needs.
    Event(OwnedFd),
    /// Of a worker: its thread, once that runs.
    Thread(OnceLock<Thread>),
}

/// The door of a peer: its wake-up bell, and its progress.
#[derive(Debug)]
pub struct Door {
    bell: Bell,
    asleep: CachePadded<AtomicBool>,
    /// Whether batches wait for credit, so that a returned batch must wake the peer.
    wants_credit: CachePadded<AtomicBool>,
    /// Whether what workers say would be taken now.
    hears_workers: CachePadded<AtomicBool>,
    /// Number of turns done.
    turns: CachePadded<AtomicU64>,
    /// The poking thread's alarm, which is rung in case a bell is lost.
    watch: Arc<Watch>,
    /// Fault injection: the next ring of the bell is lost.
    #[cfg(test)]
    swallow_next: AtomicBool,
}

impl Door {
    fn new(watch: &Arc<Watch>, bell: Bell) -> Door {
        Door {
            watch: Arc::clone(watch),
            bell,
            asleep: CachePadded::default(),
            wants_credit: CachePadded::default(),
            hears_workers: CachePadded::default(),
            turns: CachePadded::default(),
            #[cfg(test)]
            swallow_next: AtomicBool::new(false),
        }
    }

    /// Wakes the peer if it sleeps.
    pub fn wake(&self) {
        // Pairs with the fence in `fall_asleep`: either this side sees that the shard sleeps, or the shard sees what
        // was sent.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            self.ring_bell();
            // Pairs with the fence of the poking thread, in case the bell is lost: either this side sees that the
            // thread dozes, or the thread sees that the shard was woken.
            std::sync::atomic::fence(Ordering::SeqCst);
        }
        if matches!(self.bell, Bell::Event(_)) {
            self.watch.rouse();
        }
    }

    /// Wakes the peer, asleep or not.
    pub fn ring_bell(&self) {
        #[cfg(test)]
        if self.swallow_next.swap(false, Ordering::AcqRel) {
            return;
        }
        match &self.bell {
            // Fails only if the counter is at its maximum, and then the bell is ringing already.
            Bell::Event(bell) => drop(rustix::io::write(bell, &1u64.to_ne_bytes())),
            Bell::Thread(thread) => thread.get().into_iter().for_each(Thread::unpark),
        }
    }

    /// Fault injection: loses the next ring of the bell.
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

    /// Marks the shard as asleep, whatever waits for it. For tests.
    #[cfg(test)]
    pub(crate) fn pretend_asleep(&self) {
        self.asleep.store(true, Ordering::Release);
    }

    /// Turns done so far. Does not change while the shard sleeps or hangs.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }
}

/// The state that all peers of a node share.
#[derive(Debug)]
pub struct Doors {
    /// By peer: the shards', then the workers'.
    doors: Vec<Door>,
    shards: usize,
    /// Workers whose thread has ended by a fault, one bit each.
    gone_workers: AtomicU64,
    /// `returns[sender][receiver]`: batches that the receiver has handled.
    returns: Vec<Vec<ArrayQueue<Batch>>>,
    /// Senders of the inboxes, through which the poking thread sees what waits there.
    inboxes: Vec<flume::Sender<(ShardId, Batch)>>,
    /// Senders of what workers say to each shard.
    said: Vec<flume::Sender<(ShardId, Batch)>>,
    arrivals: Vec<flume::Sender<Moved>>,
    watch: Arc<Watch>,
    draining: AtomicBool,
    /// Whether the node is a lame duck: it accepts no more clients, and disconnects those it has bit by bit.
    lame: AtomicBool,
    /// Number of shards that have disconnected all their clients since then.
    emptied: AtomicU64,
    /// Number of shards that have handed over to other nodes since the drain began.
    handed_over: AtomicU64,
    /// Number of shards that have written all output since the drain began.
    flushed: AtomicU64,
}

impl Doors {
    /// The door of each shard.
    pub fn iter(&self) -> impl Iterator<Item = &Door> {
        self.doors[..self.shards].iter()
    }

    /// The door of a worker.
    pub(crate) fn of_worker(&self, worker: u16) -> &Door {
        &self.doors[self.shards + usize::from(worker)]
    }

    /// Says that a worker's thread has ended by a fault.
    pub(crate) fn note_worker_gone(&self, worker: u16) {
        self.gone_workers.fetch_or(1 << worker, Ordering::AcqRel);
        self.ring_all();
    }

    /// Tells all shards to drain. Idempotent.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.ring_all();
    }

    /// Tells all shards to disconnect their clients bit by bit, and then to drain. Idempotent.
    pub fn lame_duck(&self) {
        self.lame.store(true, Ordering::Release);
        self.ring_all();
    }

    /// Wakes all shards, asleep or not.
    fn ring_all(&self) {
        for door in self.iter() {
            // In case the ring is lost: the poking thread looks at shards that are awake and stand still.
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

    /// The alarm and state of the poking thread's doze.
    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Whether a shard has something to do as seen from here: it was woken and has not gone back to sleep since, or its
    /// inbox or returned batches hold something. Completions of its ring are not visible here.
    pub(crate) fn has_pending(&self, shard: usize) -> bool {
        let door = &self.doors[shard];
        let is_awake = !door.asleep.load(Ordering::Acquire);
        let has_mail = !self.inboxes[shard].is_empty() || !self.arrivals[shard].is_empty();
        let wants_credit = door.wants_credit.load(Ordering::Relaxed);
        let hears = door.hears_workers.load(Ordering::Relaxed);
        let is_told = hears && !self.said[shard].is_empty();
        is_awake || has_mail || is_told || wants_credit && self.has_returned(shard)
    }

    /// Whether batches have come back to this shard.
    fn has_returned(&self, shard: usize) -> bool {
        self.returns[shard].iter().any(|queue| !queue.is_empty())
    }
}

/// One peer's end of the mesh.
#[derive(Debug)]
pub struct Mesh {
    me: ShardId,
    inbox: flume::Receiver<(ShardId, Batch)>,
    /// What workers say to this shard; nothing comes to a worker.
    said: flume::Receiver<(ShardId, Batch)>,
    arrivals: flume::Receiver<Moved>,
    /// Channels for connections that belong to other shards.
    departures: Vec<flume::Sender<Moved>>,
    others: Vec<flume::Sender<(ShardId, Batch)>>,
    doors: Arc<Doors>,
}

/// A mesh: the ends of the shards, those of the state workers, and what they share.
pub struct Woven {
    pub shards: Vec<Mesh>,
    pub workers: Vec<Mesh>,
    pub doors: Arc<Doors>,
}

/// Creates a mesh of so many shards and state workers.
///
/// Fails if no descriptor is left for a bell.
pub fn weave(shards: u16, workers: u16) -> io::Result<Woven> {
    let (count, peers) = (usize::from(shards), shards + workers);
    let all = usize::from(peers);
    let returns = || {
        (0..all)
            .map(|_| ArrayQueue::new(HANDOVER_ITEMS_MAX))
            .collect()
    };
    let room = HANDOVER_ITEMS_MAX * all;
    let channels = |count| (0..count).map(|_| flume::bounded(room)).unzip();
    let (senders, receivers): (Vec<_>, Vec<_>) = channels(all);
    let (said, hears): (Vec<_>, Vec<_>) = channels(all);
    let moved = || flume::bounded(ARRIVALS_MAX);
    let (departures, arrivals): (Vec<_>, Vec<_>) = (0..all).map(|_| moved()).unzip();
    let watch = Arc::new(Watch::new()?);
    let door = |place| -> io::Result<Door> {
        let bell = match place < count {
            true => Bell::Event(eventfd(0, EventfdFlags::CLOEXEC)?),
            false => Bell::Thread(OnceLock::new()),
        };
        Ok(Door::new(&watch, bell))
    };
    let doors = Arc::new(Doors {
        doors: (0..all).map(door).collect::<io::Result<_>>()?,
        shards: count,
        gone_workers: AtomicU64::new(0),
        returns: (0..all).map(|_| returns()).collect(),
        inboxes: senders.clone(),
        said: said.clone(),
        arrivals: departures.clone(),
        watch: Arc::clone(&watch),
        draining: AtomicBool::new(false),
        lame: AtomicBool::new(false),
        emptied: AtomicU64::new(0),
        handed_over: AtomicU64::new(0),
        flushed: AtomicU64::new(0),
    });
    let received = receivers.into_iter().zip(hears).zip(arrivals);
    let ends = received
        .zip(0..peers)
        .map(|(((inbox, hears), arrivals), me)| Mesh {
            me: ShardId(me),
            inbox,
            said: hears,
            arrivals,
            departures: departures.clone(),
            others: match me < shards {
                true => senders.clone(),
                false => said.clone(),
            },
            doors: Arc::clone(&doors),
        });
    let mut shards: Vec<_> = ends.collect();
    let workers = shards.split_off(count);
    Ok(Woven {
        shards,
        workers,
        doors,
    })
}

impl Mesh {
    /// The shared state of all shards.
    pub fn doors(&self) -> Arc<Doors> {
        Arc::clone(&self.doors)
    }

    /// Sends a batch. It is lost if the other shard has ended, which happens only while the node drains.
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

    /// Hands a connection to another shard. If that shard has its maximum waiting, the connection is closed, and will
    /// be dialed again.
    pub fn send_moved(&self, to: ShardId, moved: Moved) {
        let place = usize::from(to.0);
        if self.departures[place].try_send(moved).is_ok() {
            self.doors.doors[place].wake();
        }
    }

    /// The next connection handed over by another shard.
    pub fn receive_moved(&self) -> Option<Moved> {
        self.arrivals.try_recv().ok()
    }

    /// The next batch from another shard.
    pub fn receive(&self) -> Option<(ShardId, Batch)> {
        self.inbox.try_recv().ok()
    }

    /// The next batch from a state worker.
    pub fn receive_said(&self) -> Option<(ShardId, Batch)> {
        self.said.try_recv().ok()
    }

    /// The workers whose thread has ended by a fault, one bit each.
    pub fn gone_workers(&self) -> u64 {
        self.doors.gone_workers.load(Ordering::Acquire)
    }

    /// Returns a handled batch to its sender.
    pub fn give_back(&self, to: ShardId, batch: Batch) {
        let sender = usize::from(to.0);
        // The queue holds as many batches as can be on the way. Were it full, the batch would only be freed.
        let _ = self.doors.returns[sender][usize::from(self.me.0)].push(batch);
        let door = &self.doors.doors[sender];
        // Pairs with `fall_asleep`, as in `wake`.
        std::sync::atomic::fence(Ordering::SeqCst);
        if door.wants_credit.load(Ordering::Relaxed) {
            door.wake();
        }
    }

    /// The next of this shard's batches that came back, with the shard that returned it.
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
        match &self.doors.doors[usize::from(self.me.0)].bell {
            Bell::Event(bell) => bell.as_raw_fd(),
            Bell::Thread(_) => unreachable!("a worker has no ring that could read a bell"),
        }
    }

    /// The calling thread is that of this worker: it is what is woken.
    pub fn wakes_this_thread(&self) {
        if let Bell::Thread(thread) = &self.doors.doors[usize::from(self.me.0)].bell {
            thread.get_or_init(std::thread::current);
        }
    }

    /// Marks this shard as about to sleep. False if there is something to do after all. `hears_workers` if what workers say
    /// would be taken.
    pub fn fall_asleep(&self, wants_credit: bool, hears_workers: bool) -> bool {
        let door = &self.doors.doors[usize::from(self.me.0)];
        door.hears_workers.store(hears_workers, Ordering::Relaxed);
        self.say_asleep(wants_credit);
        let told = hears_workers && !self.said.is_empty();
        let has_come = told || !self.inbox.is_empty() || !self.arrivals.is_empty();
        self.may_sleep(wants_credit, has_come)
    }

    /// Marks this worker as about to sleep; `takes_batches` if it has room for what shards send. False if there is
    /// something to do after all, as far as the mesh knows: what else wakes it is to be looked at behind this.
    pub fn worker_falls_asleep(&self, wants_credit: bool, takes_batches: bool) -> bool {
        self.say_asleep(wants_credit);
        self.may_sleep(wants_credit, takes_batches && !self.inbox.is_empty())
    }

    fn say_asleep(&self, wants_credit: bool) {
        let door = &self.doors.doors[usize::from(self.me.0)];
        door.wants_credit.store(wants_credit, Ordering::Relaxed);
        door.asleep.store(true, Ordering::Relaxed);
        // Pairs with the one in `wake`.
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    fn may_sleep(&self, wants_credit: bool, has_come: bool) -> bool {
        let has_more = has_come || wants_credit && self.doors.has_returned(usize::from(self.me.0));
        if has_more {
            self.awake();
        }
        !has_more
    }

    /// Marks this peer as awake.
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

    /// Whether clients are to be disconnected bit by bit.
    pub fn is_lame_duck(&self) -> bool {
        self.doors.lame.load(Ordering::Acquire)
    }

    /// Records that this shard has disconnected all its clients. Once all shards have, the node drains.
    pub fn note_emptied(&self) {
        let emptied = self.doors.emptied.fetch_add(1, Ordering::AcqRel) + 1;
        if emptied == self.doors.shards as u64 {
            self.doors.drain();
        }
    }

    /// Records that this shard has handed over to other nodes what it had for them.
    pub fn note_handed_over(&self) {
        self.doors.handed_over.fetch_add(1, Ordering::AcqRel);
        self.doors.iter().for_each(Door::wake);
    }

    /// Whether all shards have handed over.
    pub fn all_handed_over(&self) -> bool {
        self.doors.handed_over.load(Ordering::Acquire) >= self.doors.shards as u64
    }

    /// Records that this shard has written all its output.
    pub fn note_flushed(&self) {
        self.doors.flushed.fetch_add(1, Ordering::AcqRel);
        self.doors.iter().for_each(Door::wake);
    }

    /// Whether all shards have written all their output.
    pub fn all_flushed(&self) -> bool {
        self.doors.flushed.load(Ordering::Acquire) >= self.doors.shards as u64
    }
}
