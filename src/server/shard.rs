//! One shard's loop: the order of a turn, and when to sleep.
//!
//! A turn reads at most once from each ready connection, handles batches of other shards, writes each dirty connection
//! once and sends at most one batch to each other shard. Owns this order; must not know protocols. Start at
//! [`ShardLoop::turn`].

use crate::Latency;
use crate::conn::{About, Accepted, Connections, own};
use crate::listen::BACKLOG;
use crate::mesh::Mesh;
use crate::pace::{HOLD_NS, Pacer};
use crate::park::{Parker, WakeCell, Woken};
use crate::ring::{Completion, Errno, Ring};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::net::{SocketFlags, accept_with, getpeername, getsockname, sockopt};
use rustix::time::{ClockId, clock_gettime};
use sapwood_core::command::{CloseReason, ConnId, Now, ShardId};
use sapwood_core::driver::{Driver, Mail, Sockets};
use sapwood_core::limits::SPARE_BYTES_IDLE_MAX;
use sapwood_core::mailbox::Batch;
use sapwood_core::tree::{Dial, Notice};
use sapwood_core::{Input, Policy, Protocol, Shard};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the shard waits in its own ring before it sleeps in glommio, where other tasks of the
/// executor can run. A sleep there costs nine system calls, and so short a timer as 100 us costs
/// more than it saves: programming it took 12 of 37 us of CPU for a lone message on a virtual
/// machine, where 5 ms took none to speak of.
const RING_WAIT: Duration = Duration::from_millis(5);

/// How long a spinning shard polls for input before it sleeps: beyond a millisecond, sleeping adds little to the wait.
const SPIN: Duration = Duration::from_millis(1);

/// Idle time before the first TCP keepalive probe, as in redis-server.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(300);

/// Interval of keepalive probes; the next constant is their number.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(40);
const KEEPALIVE_PROBES: u32 = 3;

/// Accepts in progress at a time on each listener.
const ACCEPTS_AT_A_TIME: usize = 16;

/// Pause of accepting after the process ran out of descriptors.
const ACCEPT_PAUSE_NS: u64 = 100_000_000;

/// How long the shard waits in its own ring if no descriptor is left for a sleep in glommio. A poke is noticed only
/// after this time.
const STARVED_WAIT: Duration = Duration::from_millis(5);

/// Interval at which a lame duck disconnects some of its clients.
const LAME_DUCK_STEP_NS: u64 = 20_000_000;

/// The part of a lame duck's time in which clients may leave by themselves: a twelfth.
const LAME_DUCK_GRACE_PART: u64 = 12;

/// How long a draining node still reads input that clients sent before.
const DRAIN_READ_NS: u64 = 100_000_000;

/// Part of a drain's time after which a node leaves the tree, whether other nodes have acknowledged everything or not.
const HAND_OVER_NS: u64 = 800_000_000;

/// A drain ends after this time, even if some clients have not read their replies.
const DRAIN_NS: u64 = 1_500_000_000;

/// After this long without work, a shard frees the buffers that it keeps for its next turn.
const RELEASE_AFTER_NS: u64 = 1_000_000_000;

/// How the connections of a listener are served: protocol and slow consumer policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Front {
    pub protocol: Protocol,
    /// The slow consumer policy, unless the client chooses one.
    pub policy: Policy,
}

/// A listener of this shard.
#[derive(Debug)]
pub(crate) struct Listener {
    pub front: Front,
    /// Closed and removed when the node drains.
    pub socket: Option<OwnedFd>,
}

/// The progress of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    /// A lame duck since this time.
    Lame {
        since: u64,
        /// Number of connections at its start.
        connections: usize,
        /// When the next of them are disconnected.
        next: u64,
        /// Whether all are disconnected.
        is_empty: bool,
    },
    /// Reading the last input, since this time.
    Reading(u64),
    /// Other nodes have to acknowledge what they were sent. Since this time.
    HandingOver(u64),
    /// This shard has handed over; other shards may not have. Since this time.
    HandedOver(u64),
    Flushing(u64),
    /// This shard has written all output; other shards may not have. Since this time.
    Waiting(u64),
}

/// CPU time used by the calling thread.
fn own_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Everything that a shard runs with.
pub(crate) struct ShardLoop {
    driver: Driver,
    ring: Ring,
    mesh: Mesh,
    connections: Connections,
    listeners: Vec<Listener>,
    clients: Arc<AtomicU64>,
    started: Instant,
    completions: Vec<Completion>,
    /// Accepts are paused until this time, because no descriptor was left.
    accept_pause: Option<u64>,
    /// The last accept failed for lack of a descriptor, and this was logged.
    starved: bool,
    /// For each listener, the number of accepts to queue.
    accepts_due: Vec<usize>,
    bell_armed: bool,
    /// The earliest timer on the ring.
    timer: Option<u64>,
    drain: Drain,
    lame_duck: Duration,
    pacer: Pacer,
    /// When paced connections are read again.
    hold_until: u64,
    /// When the last turn ended.
    turn_ended: u64,
    /// When the shard last had work, other than a timer.
    busy_at: u64,
    /// Workers that are known to be gone, one bit each.
    gone_workers: u64,
}

impl ShardLoop {
    pub(crate) fn new(
        core: Shard,
        ring: Ring,
        mesh: Mesh,
        listeners: Vec<Listener>,
        clients: Arc<AtomicU64>,
        lame_duck: Duration,
    ) -> ShardLoop {
        let accepts_due = vec![ACCEPTS_AT_A_TIME; listeners.len()];
        ShardLoop {
            driver: Driver::new(core),
            ring,
            mesh,
            connections: Connections::new(),
            listeners,
            clients,
            started: Instant::now(),
            completions: Vec::new(),
            accept_pause: None,
            starved: false,
            accepts_due,
            bell_armed: false,
            timer: None,
            drain: Drain::No,
            lame_duck,
            pacer: Pacer::new(),
            hold_until: 0,
            turn_ended: 0,
            busy_at: 0,
            gone_workers: 0,
        }
    }

    /// Runs until the node has drained.
    ///
    /// Fails if the ring fails, which is a system fault that cannot be repaired here.
    pub(crate) async fn run(mut self, wake: &WakeCell, latency: Latency) -> io::Result<()> {
        let mut parker = Parker::new();
        let mut is_idle = false;
        loop {
            let is_busy = self.turn();
            self.mesh.note_turn();
            if self.has_drained() {
                return Ok(());
            }
            if self.has_more() {
                self.ring.submit()?;
                continue;
            }
            // One system call submits what this turn queued and waits for the next input. Only if that takes too long
            // does the shard sleep where glommio's other tasks can run.
            let wants_credit = self.driver.shard().wants_credit() || self.is_draining();
            let hears_workers = self.driver.shard().hears_workers();
            if !self.mesh.fall_asleep(wants_credit, hears_workers) {
                self.ring.submit()?;
                continue;
            }
            if is_idle && !is_busy {
                let woken = parker.wait(&mut self.ring, wake).await?;
                if woken == Woken::NoDescriptor {
                    self.ring.submit_and_wait(STARVED_WAIT)?;
                }
                // After a poke without work, the shard need not wait in the ring again.
                is_idle = woken == Woken::Poked;
            } else {
                let wait = self.ring_wait();
                if latency == Latency::Spin && self.spin(wait.min(SPIN))? {
                    is_idle = false;
                    self.mesh.awake();
                    continue;
                }
                is_idle = !self.ring.submit_and_wait(wait)? && wait == RING_WAIT;
            }
            self.mesh.awake();
        }
    }

    /// Polls for completions without sleeping. Returns whether there are any.
    fn spin(&mut self, at_most: Duration) -> io::Result<bool> {
        self.ring.submit()?;
        let begin = Instant::now();
        while !self.ring.has_completions() {
            if begin.elapsed() >= at_most {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
        // Completions that the kernel has ready may still have to be fetched.
        self.ring.submit()?;
        Ok(true)
    }

    /// How long to wait in the ring: less if paced connections are due before.
    fn ring_wait(&self) -> Duration {
        if self.connections.has_paced() {
            let left = self.hold_until.saturating_sub(self.turn_ended);
            return Duration::from_nanos(left.min(HOLD_NS));
        }
        RING_WAIT
    }

    /// Decides whether reads are paced.
    fn pace(&mut self) {
        self.turn_ended = self.started.elapsed().as_nanos() as u64;
        let messages = self.driver.shard().commands();
        self.pacer.turn_ended(self.turn_ended, messages, own_cpu_ns);
        let is_pacing = self.pacer.is_pacing();
        if self.connections.is_pacing != is_pacing {
            self.connections.is_pacing = is_pacing;
            tracing::debug!(is_pacing, "reads of busy connections");
        }
        if !is_pacing || self.turn_ended >= self.hold_until {
            self.connections.release_paced();
            self.hold_until = self.turn_ended + HOLD_NS;
        }
    }

    /// Whether there is work that no completion will announce.
    fn has_more(&self) -> bool {
        let has_nodes = !self.connections.moving.is_empty() || self.connections.dials.is_due();
        has_nodes || self.driver.has_more()
    }

    /// Runs one turn. Returns whether there was work.
    fn turn(&mut self) -> bool {
        let now = self.now();
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.completions(&mut completions);
        let mut is_busy = !completions.is_empty();
        for completion in completions.drain(..) {
            self.complete(completion, now);
        }
        self.completions = completions;
        self.deal_with_nodes(now);
        self.note_gone_workers(now);
        let mut wired = Wired {
            connections: &mut self.connections,
            mesh: &mut self.mesh,
        };
        if self.driver.turn(&mut wired, now) {
            is_busy = true;
            self.busy_at = now.monotonic_ns;
        }
        self.keep_time(now);
        while self.step_drain(now) {}
        self.pace();
        self.arm();
        is_busy
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            monotonic_ns: self.started.elapsed().as_nanos() as u64,
            wall_ms: wall.as_millis() as u64,
        }
    }

    fn complete(&mut self, completion: Completion, now: Now) {
        let (about, place) = About::of(completion.token);
        if about != About::Timer {
            self.busy_at = now.monotonic_ns;
        }
        match about {
            About::Receive => {
                self.connections
                    .received(&mut self.driver, &mut self.ring, completion, now);
            }
            About::Readable => self.connections.readable(&mut self.driver, completion, now),
            About::Writable => self.connections.writable(&mut self.driver, completion, now),
            About::Accept => self.accept(place, completion, now),
            About::Bell => self.bell_armed = false,
            About::Timer => self.timer = None,
            About::Dialed => self.dialed(completion, now),
        }
    }

    fn accept(&mut self, listener: usize, completion: Completion, now: Now) {
        if !self.is_draining() {
            self.accepts_due[listener] += 1;
        }
        match completion.result {
            Ok(descriptor) => {
                self.starved = false;
                self.let_in(listener, own(descriptor), now);
            }
            Err(Errno(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)) => {
                if !std::mem::replace(&mut self.starved, true) {
                    tracing::warn!(
                        connections = self.connections.len(),
                        "no file descriptor or memory is left for more connections; raise the limit of open files"
                    );
                }
                self.accept_pause = Some(now.monotonic_ns + ACCEPT_PAUSE_NS);
            }
            Err(_) => {}
        }
    }

    fn let_in(&mut self, listener: usize, socket: OwnedFd, now: Now) {
        // A peer that is already gone has no address.
        if let Ok(accepted) = prepare(&socket, self.listeners[listener].front) {
            let clients = &self.clients;
            self.connections
                .accepted(&mut self.driver, socket, accepted, clients, now);
        }
    }

    /// Handles the completion of a dial.
    fn dialed(&mut self, completion: Completion, now: Now) {
        let Some((dial, socket)) = self.connections.dials.complete(completion) else {
            return;
        };
        let front = Front {
            protocol: Protocol::NodeDialed { dial },
            policy: Policy::Close,
        };
        let prepared = socket.and_then(|socket| Some((prepare(&socket, front).ok()?, socket)));
        let Some((accepted, socket)) = prepared else {
            let input = Input::DialFailed { dial };
            self.driver.handle(&mut self.connections, input, now);
            return;
        };
        let clients = &self.clients;
        self.connections
            .accepted(&mut self.driver, socket, accepted, clients, now);
    }

    /// Starts dials, reports failed ones to core, and exchanges connections with other shards.
    fn deal_with_nodes(&mut self, now: Now) {
        self.connections.dials.begin(now);
        self.connections.dials.end_late(now);
        for dial in self.connections.dials.take_failed() {
            let input = Input::DialFailed { dial };
            self.driver.handle(&mut self.connections, input, now);
        }
        for (to, moved) in std::mem::take(&mut self.connections.moving) {
            self.mesh.send_moved(to, moved);
        }
        while let Some(moved) = self.mesh.receive_moved() {
            let front = Front {
                protocol: Protocol::Node,
                policy: Policy::Close,
            };
            if let Ok(accepted) = prepare(&moved.fd, front) {
                let clients = &self.clients;
                self.connections
                    .arrived(&mut self.driver, moved, accepted, clients, now);
            }
        }
    }

    /// Tells core of workers whose thread has ended by a fault.
    fn note_gone_workers(&mut self, now: Now) {
        let gone = self.mesh.gone_workers();
        let mut new = gone & !self.gone_workers;
        self.gone_workers = gone;
        while new != 0 {
            let worker = self
                .driver
                .shard()
                .peer_of_worker(new.trailing_zeros() as u16);
            let input = Input::WorkerGone { worker };
            self.driver.handle(&mut self.connections, input, now);
            new &= new - 1;
        }
    }

    /// Accepts connections that are already established in the backlog, then stops listening. Their clients reached the
    /// broker before it stopped, so what they have sent is answered like everybody's.
    fn end_listening(&mut self, now: Now) {
        for place in 0..self.listeners.len() {
            self.accepts_due[place] = 0;
            // Accepts in progress end, some with a connection.
            self.ring.cancel(About::Accept.token(place));
            let Some(socket) = self.listeners[place].socket.take() else {
                continue;
            };
            // If this fails, accepting from an empty backlog would block the shard.
            if rustix::io::ioctl_fionbio(&socket, true).is_err() {
                continue;
            }
            // New connections may keep arriving; those established before are at most the backlog.
            for _ in 0..BACKLOG {
                match accept_with(&socket, SocketFlags::CLOEXEC) {
                    Ok(accepted) => self.let_in(place, accepted, now),
                    Err(_) => break,
                }
            }
        }
    }

    fn is_draining(&self) -> bool {
        self.drain != Drain::No
    }

    /// Keeps a timer on the ring for the next deadline.
    fn keep_time(&mut self, now: Now) {
        let lingering = self.connections.end_lingering(&mut self.driver, now);
        if self
            .accept_pause
            .is_some_and(|until| until <= now.monotonic_ns)
        {
            self.accept_pause = None;
        }
        let drain = match self.drain {
            Drain::No | Drain::Lame { is_empty: true, .. } => None,
            Drain::Lame { next, .. } => Some(next),
            Drain::Reading(since) => Some(since + DRAIN_READ_NS),
            Drain::HandingOver(since) | Drain::HandedOver(since) => Some(since + HAND_OVER_NS),
            Drain::Flushing(since) | Drain::Waiting(since) => Some(since + DRAIN_NS),
        };
        let deadlines = [
            self.driver.shard().next_deadline(),
            lingering,
            self.connections.dials.next_deadline(),
            self.accept_pause,
            self.release_spares(now),
            drain,
        ];
        let Some(next) = deadlines.into_iter().flatten().min() else {
            return;
        };
        if self.timer.is_none_or(|timer| timer > next) {
            self.timer = Some(next);
            let after = next.saturating_sub(now.monotonic_ns);
            self.ring
                .timeout(Duration::from_nanos(after), About::Timer.token(0));
        }
    }

    /// Frees the buffers that core keeps for its next turn, if there was no work for a while. Returns when to check
    /// again, if it keeps much.
    fn release_spares(&mut self, now: Now) -> Option<u64> {
        if self.driver.shard().spare_bytes() <= SPARE_BYTES_IDLE_MAX {
            return None;
        }
        let due = self.busy_at + RELEASE_AFTER_NS;
        if now.monotonic_ns < due {
            return Some(due);
        }
        self.driver.release_spares();
        None
    }

    /// Queues everything that the ring has to wait for.
    fn arm(&mut self) {
        self.connections.arm(&mut self.ring);
        if !self.bell_armed {
            self.bell_armed = true;
            self.ring
                .read_counter(self.mesh.bell(), About::Bell.token(0));
        }
        if self.accept_pause.is_none() {
            for (place, listener) in self.listeners.iter().enumerate() {
                let Some(socket) = &listener.socket else {
                    continue;
                };
                for _ in 0..std::mem::take(&mut self.accepts_due[place]) {
                    self.ring
                        .accept(socket.as_raw_fd(), About::Accept.token(place));
                }
            }
        }
    }

    /// Advances the drain, if there is one. True if another step may follow at once.
    fn step_drain(&mut self, now: Now) -> bool {
        let before = self.drain;
        match self.drain {
            Drain::No if self.mesh.is_draining() => {
                self.drain = Drain::Reading(now.monotonic_ns);
                self.end_listening(now);
                self.announce_end(DRAIN_NS, now);
            }
            // Told to drain now, or all clients are disconnected.
            Drain::Lame { .. } if self.mesh.is_draining() => {
                self.drain = Drain::Reading(now.monotonic_ns);
            }
            Drain::No if self.mesh.is_lame_duck() => {
                self.end_listening(now);
                let whole = self.lame_duck.as_nanos() as u64;
                self.announce_end(whole, now);
                self.drain = Drain::Lame {
                    since: now.monotonic_ns,
                    connections: self.connections.len(),
                    next: now.monotonic_ns + whole / LAME_DUCK_GRACE_PART,
                    is_empty: false,
                };
            }
            Drain::Lame {
                since,
                connections,
                next,
                is_empty: false,
            } if now.monotonic_ns >= next || self.connections.len() == 0 => {
                self.send_away(since, connections, now);
            }
            Drain::Reading(since) if now.monotonic_ns >= since + DRAIN_READ_NS => {
                self.connections.reading_ended = true;
                self.tell_core(Input::HandOver, now);
                self.drain = Drain::HandingOver(since);
            }
            Drain::HandingOver(since) => {
                let core = self.driver.shard();
                let is_over = core.has_handed_over() && core.is_settled();
                if is_over || now.monotonic_ns >= since + HAND_OVER_NS {
                    self.mesh.note_handed_over();
                    self.drain = Drain::HandedOver(since);
                }
            }
            Drain::HandedOver(since)
                if self.mesh.all_handed_over() || now.monotonic_ns >= since + HAND_OVER_NS =>
            {
                self.tell_core(Input::Leave, now);
                self.drain = Drain::Flushing(since);
            }
            Drain::Flushing(since) => {
                let waits_for = self.unflushed();
                if waits_for.is_none() || now.monotonic_ns >= since + DRAIN_NS {
                    if let Some(waits_for) = waits_for {
                        tracing::warn!(waits_for, "draining took too long, and ends");
                    }
                    self.mesh.note_flushed();
                    self.drain = Drain::Waiting(since);
                }
            }
            _ => {}
        }
        self.drain != before
    }

    /// What the end of a drain still waits for on this shard.
    fn unflushed(&self) -> Option<&'static str> {
        let core = self.driver.shard();
        if !core.is_settled() {
            Some("other shards, or deliveries")
        } else if !core.has_left_tree() {
            Some("other nodes")
        } else if !self.connections.is_flushed(&self.driver) {
            Some("clients that do not read")
        } else {
            None
        }
    }

    fn announce_end(&mut self, within_ns: u64, now: Now) {
        let milliseconds = (within_ns / 1_000_000) as u32;
        self.tell_core(Input::Ending { milliseconds }, now);
    }

    fn tell_core(&mut self, input: Input<'_>, now: Now) {
        self.driver.handle(&mut self.connections, input, now);
        self.driver.flush(&mut self.connections, now);
    }

    /// Disconnects as many of a lame duck's clients as are due by now.
    fn send_away(&mut self, since: u64, connections: usize, now: Now) {
        let whole = (self.lame_duck.as_nanos() as u64).max(1);
        let grace = whole / LAME_DUCK_GRACE_PART;
        let passed = (now.monotonic_ns - since).min(whole);
        let left = connections as u64 * (whole - passed) / (whole - grace);
        self.connections
            .send_away(&mut self.driver, left as usize, now);
        let is_empty = self.connections.len() == 0 || passed == whole;
        if is_empty {
            self.mesh.note_emptied();
        }
        self.drain = Drain::Lame {
            since,
            connections,
            next: now.monotonic_ns + LAME_DUCK_STEP_NS,
            is_empty,
        };
    }

    /// Whether all shards have written their output, or the time for it is over.
    fn has_drained(&mut self) -> bool {
        let Drain::Waiting(since) = self.drain else {
            return false;
        };
        let now = self.now();
        if !self.mesh.all_flushed() && now.monotonic_ns < since + DRAIN_NS {
            return false;
        }
        self.driver.flush(&mut self.connections, now);
        self.connections.close_all(&mut self.driver, now);
        true
    }
}

/// The driver's view of a shard: its connections, and its mail to other shards.
struct Wired<'a> {
    connections: &'a mut Connections,
    mesh: &'a mut Mesh,
}

impl Sockets for Wired<'_> {
    fn write(&mut self, driver: &mut Driver, conn: ConnId, now: Now) {
        self.connections.write(driver, conn, now);
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason, now: Now) {
        self.connections.close(conn, reason, now);
    }

    fn resume(&mut self, driver: &mut Driver, conn: ConnId, now: Now) {
        self.connections.resume(driver, conn, now);
    }

    fn is_open(&self, conn: ConnId) -> bool {
        self.connections.is_open(conn)
    }

    fn dial(&mut self, dial: Dial) {
        self.connections.dial(dial);
    }

    fn move_to(&mut self, driver: &mut Driver, conn: ConnId, to: ShardId, now: Now) {
        self.connections.move_to(driver, conn, to, now);
    }

    fn notice(&mut self, notice: Notice) {
        self.connections.notice(notice);
    }
}

impl Mail for Wired<'_> {
    fn next_returned(&mut self, _driver: &Driver) -> Option<(ShardId, Batch)> {
        self.mesh.take_returned()
    }

    fn next_batch(&mut self, _driver: &Driver) -> Option<(ShardId, Batch)> {
        self.mesh.receive()
    }

    fn next_said(&mut self, _driver: &Driver) -> Option<(ShardId, Batch)> {
        self.mesh.receive_said()
    }

    fn give_back(&mut self, to: ShardId, batch: Batch) {
        self.mesh.give_back(to, batch);
    }

    fn send(&mut self, to: ShardId, batch: Batch) {
        self.mesh.send(to, batch);
    }
}

/// Prepares a new socket, and finds its addresses.
fn prepare(socket: &OwnedFd, front: Front) -> io::Result<Accepted> {
    sockopt::set_tcp_nodelay(socket, true)?;
    // A peer that vanished silently is found within seven minutes, not the system's two hours.
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_EVERY)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
    let unknown = || io::Error::from(io::ErrorKind::NotConnected);
    let peer = getpeername(socket)?.ok_or_else(unknown)?;
    Ok(Accepted {
        front,
        peer: SocketAddr::try_from(peer)?,
        local: SocketAddr::try_from(getsockname(socket)?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn an_accepted_socket_sends_at_once_and_is_kept_alive() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let socket = OwnedFd::from(listener.accept().unwrap().0);
        let front = Front {
            protocol: Protocol::Native,
            policy: Policy::Close,
        };
        let accepted = prepare(&socket, front).unwrap();
        assert!(sockopt::tcp_nodelay(&socket).unwrap());
        assert!(sockopt::socket_keepalive(&socket).unwrap());
        assert_eq!(accepted.local, address);
        assert_eq!(accepted.peer, client.local_addr().unwrap());
    }
}
