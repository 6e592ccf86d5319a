//! Sockets: what was read goes into driver, what core has to say is written.
//!
//! Owns the descriptors, what stands unread of each connection's input, and which requests to the
//! ring are under way. Must not know protocols. Invariants: at most one receive and one wait for
//! writability a socket; a place is free again only when both have ended, so a completion never
//! meets another connection; nothing here waits. Start at [`Connections::received`].

use crate::dial::Dials;
use crate::ring::{Completion, Errno, Expect, RECEIVE_BYTES, Ring, Token};
use crate::shard::Front;
use rustix::buffer::spare_capacity;
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use rustix::io::Errno as SystemError;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown,
};
use sapwood_core::command::{ClientId, CloseReason, ConnId, Now, ShardId};
use sapwood_core::driver::{Driver, Sockets};
use sapwood_core::tree::{Dial, Notice};
use sapwood_core::{Input, Next};
use slab::Slab;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pieces of output in one system call: enough for the pieces of a megabyte of shared payloads.
const SLICES_MAX: usize = 64;

/// How long a connection that is being closed may take to read its last replies.
const LINGER_NS: u64 = 1_000_000_000;

/// Reads after which a connection is busy enough to be paced.
const PACED_AFTER_READS: u8 = 32;

/// A paced connection whose read brings fewer messages is prompt again.
const PACED_MESSAGES_MIN: u64 = 2;

/// What is copied at least to complete a request: more than the heads of a small one.
const COMPLETION_BYTES_MIN: usize = 512;

/// A request of which so much stands is read on straight to where it is kept: a copy less.
const LONG_BYTES_MIN: usize = 16 * 1024;

/// The one buffer in which connections that bring much are read. It stays in the processor's cache, which the
/// ring's many buffers would not: a quarter less CPU for each message of a pipelining publisher. What a
/// connection that is held keeps of its input is at most this, besides an unfinished request.
const MUCH_BYTES: usize = 128 * 1024;

/// What all of these may bring in a turn together; the others come first in the next.
const MUCH_BYTES_EACH_TURN: usize = 4 * 1024 * 1024;

/// What is read straight to its place of one connection in a turn.
const LONG_BYTES_EACH_TURN: usize = 256 * 1024;

/// What a completion is about; with the place of the connection in the lower half, a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    Receive,
    Readable,
    Writable,
    Accept,
    Bell,
    Timer,
    Dialed,
}

impl About {
    const ALL: [About; 7] = [
        About::Receive,
        About::Readable,
        About::Writable,
        About::Accept,
        About::Bell,
        About::Timer,
        About::Dialed,
    ];

    pub(crate) fn token(self, place: usize) -> Token {
        Token((self as u64) << 32 | place as u64)
    }

    pub(crate) fn of(token: Token) -> (About, usize) {
        (
            About::ALL[(token.0 >> 32) as usize],
            (token.0 & u64::from(u32::MAX)) as usize,
        )
    }
}

#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    /// Input that core has not consumed, from its first unconsumed byte.
    input: Vec<u8>,
    /// The request that stands in `input` is not whole below this length.
    needed: usize,
    receiving: bool,
    awaiting_room: bool,
    /// The last receive left more in the socket, or the last read brought more than a receive would have:
    /// the ring says when there is something, and it is read straight into the shared buffer.
    brings_much: bool,
    /// Core said not to read on.
    held: bool,
    /// Reads that brought something, since it last brought too little to be paced; counted up to
    /// [`PACED_AFTER_READS`].
    reads: u8,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Core is done with it; its last output is being written, until this time.
    Lingering(u64),
    /// Core has forgotten it; what is under way in the ring has to end.
    Closed,
}

/// What was accepted, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted {
    pub front: Front,
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// All connections of a shard.
#[derive(Debug)]
pub(crate) struct Connections {
    sockets: Slab<Socket>,
    /// Connections that found no receive buffer, came after the others had brought a turn's share, or were paced:
    /// first in the next turn, and without waiting for what is there already.
    to_receive_now: Vec<usize>,
    /// Connections to be received from when the ring can be had.
    to_receive: Vec<usize>,
    to_await_room: Vec<usize>,
    /// When the connections that are being closed are given up, and their places.
    lingering: VecDeque<(u64, usize)>,
    /// Connections that are not read before the hold ends.
    paced: Vec<usize>,
    /// Where connections that bring much are read.
    much: Vec<u8>,
    /// What they may still bring in this turn.
    much_left: usize,
    /// Whether busy connections are to be paced: see [`crate::pace`].
    pub is_pacing: bool,
    /// The node drains: nothing more is read.
    pub reading_ended: bool,
    /// Connections to other nodes.
    pub dials: Dials,
    /// Connections that other shards are to take.
    pub moving: Vec<(ShardId, Moved)>,
}

/// A connection on its way to another shard of the node.
#[derive(Debug)]
pub(crate) struct Moved {
    pub fd: OwnedFd,
    /// What came and was not consumed.
    pub input: Vec<u8>,
}

impl Connections {
    pub(crate) fn new() -> Connections {
        Connections {
            sockets: Slab::new(),
            to_receive_now: Vec::new(),
            to_receive: Vec::new(),
            to_await_room: Vec::new(),
            lingering: VecDeque::new(),
            paced: Vec::new(),
            much: Vec::with_capacity(MUCH_BYTES),
            much_left: MUCH_BYTES_EACH_TURN,
            is_pacing: false,
            reading_ended: false,
            dials: Dials::default(),
            moving: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Takes an accepted socket in.
    pub(crate) fn accepted(
        &mut self,
        driver: &mut Driver,
        socket: OwnedFd,
        accepted: Accepted,
        clients: &AtomicU64,
        now: Now,
    ) -> usize {
        let place = self.sockets.insert(Socket {
            fd: socket,
            input: Vec::new(),
            needed: 1,
            receiving: false,
            awaiting_room: false,
            brings_much: false,
            held: false,
            reads: 0,
            phase: Phase::Open,
        });
        let Accepted {
            front: Front { protocol, policy },
            peer,
            local,
        } = accepted;
        let client = ClientId(clients.fetch_add(1, Ordering::Relaxed));
        let conn = ConnId(place as u32);
        let input = Input::Opened {
            conn,
            client,
            protocol,
            policy,
            peer,
            local,
        };
        driver.handle(self, input, now);
        self.to_receive.push(place);
        place
    }

    /// Takes in a connection of another shard, with what had come on it.
    pub(crate) fn arrived(
        &mut self,
        driver: &mut Driver,
        moved: Moved,
        accepted: Accepted,
        clients: &AtomicU64,
        now: Now,
    ) {
        let place = self.accepted(driver, moved.fd, accepted, clients, now);
        self.take_in(driver, place, &moved.input, now);
    }

    /// Takes the end of a receive in: hands what came to driver, and reads on if core wants it.
    pub(crate) fn received(
        &mut self,
        driver: &mut Driver,
        ring: &mut Ring,
        completion: Completion,
        now: Now,
    ) {
        let (_, place) = About::of(completion.token);
        let socket = &mut self.sockets[place];
        socket.receiving = false;
        socket.brings_much = completion.more_waiting;
        let (Ok(count), Some(buffer)) = (completion.result, completion.buffer) else {
            match completion.result {
                Err(Errno::NO_BUFFERS) if socket.phase != Phase::Closed => {
                    self.to_receive_now.push(place);
                }
                Err(error) => {
                    tracing::debug!(conn = place, %error, "receiving failed");
                    self.gone(driver, place, now);
                }
                Ok(_) => self.gone(driver, place, now),
            }
            return;
        };
        let bytes = ring.buffer(buffer, count as usize);
        if self.sockets[place].phase == Phase::Open {
            let before = driver.shard().commands();
            self.take_in(driver, place, bytes, now);
            if completion.more_waiting {
                self.read_much(driver, place, now);
            }
            self.end_read(driver, place, before, now);
        } else {
            self.drop_if_ended(place);
        }
        ring.release(buffer);
    }

    /// Takes the end of a wait for input in: reads what a connection that brings much has.
    pub(crate) fn readable(&mut self, driver: &mut Driver, completion: Completion, now: Now) {
        let (_, place) = About::of(completion.token);
        let socket = &mut self.sockets[place];
        socket.receiving = false;
        if socket.phase != Phase::Open {
            return self.drop_if_ended(place);
        }
        if self.much_left == 0 {
            self.to_receive_now.push(place);
            return;
        }
        let before = driver.shard().commands();
        self.read_much(driver, place, now);
        self.end_read(driver, place, before, now);
    }

    /// Ends what a completion began: `before` is how many commands core had carried out until then.
    fn end_read(&mut self, driver: &mut Driver, place: usize, before: u64, now: Now) {
        self.read_long(driver, place, now);
        self.note_read(place, driver.shard().commands() - before);
    }

    /// Reads once into the buffer that all who bring much share. What the socket says about its end or
    /// a fault, the ring's next receive meets again.
    fn read_much(&mut self, driver: &mut Driver, place: usize, now: Now) {
        let Some(socket) = self.sockets.get_mut(place) else {
            return;
        };
        if socket.held || socket.phase != Phase::Open || self.much_left == 0 {
            return;
        }
        let mut much = std::mem::take(&mut self.much);
        much.clear();
        let received = recv(&socket.fd, spare_capacity(&mut much), RecvFlags::DONTWAIT);
        socket.brings_much = received.is_ok() && much.len() >= RECEIVE_BYTES;
        self.much_left = self.much_left.saturating_sub(much.len());
        match much.is_empty() {
            true => self.to_receive.push(place),
            false => self.take_in(driver, place, &much, now),
        }
        self.much = much;
    }

    /// Takes note of how many messages a read brought.
    fn note_read(&mut self, place: usize, messages: u64) {
        if let Some(socket) = self.sockets.get_mut(place) {
            let is_busy = !self.is_pacing || messages >= PACED_MESSAGES_MIN;
            let is_counted = is_busy || socket.reads < PACED_AFTER_READS;
            socket.reads = match is_counted {
                true => (socket.reads + 1).min(PACED_AFTER_READS),
                false => 0,
            };
        }
    }

    /// Whether somebody waits for the end of the hold.
    pub(crate) fn has_paced(&self) -> bool {
        !self.paced.is_empty()
    }

    /// Ends the hold: who was paced is read at once.
    pub(crate) fn release_paced(&mut self) {
        self.to_receive_now.append(&mut self.paced);
    }

    /// Hands new bytes to core: first what completes the request that stands, by copying as little
    /// as that takes, then the rest from where the ring put it.
    fn take_in(&mut self, driver: &mut Driver, place: usize, bytes: &[u8], now: Now) {
        let mut bytes = bytes;
        let mut fresh = bytes.len();
        while !self.sockets[place].input.is_empty() {
            let socket = &mut self.sockets[place];
            let before = socket.input.len();
            let missing = socket.needed.saturating_sub(before);
            let taken = missing.max(COMPLETION_BYTES_MIN).min(bytes.len());
            socket.input.extend_from_slice(&bytes[..taken]);
            // Core looks at it even if it is not enough yet: it counts what is kept, and its cap
            // must hold while the bytes come, not once they are all there.
            let mut input = std::mem::take(&mut socket.input);
            let Some((consumed, next)) = self.hand(driver, place, &input, fresh, now) else {
                return;
            };
            fresh = 0;
            if consumed >= before && matches!(next, Next::Read { .. }) {
                bytes = &bytes[consumed - before..];
                continue;
            }
            input.drain(..consumed);
            bytes = &bytes[taken..];
            let is_over = bytes.is_empty() || !matches!(next, Next::Read { .. });
            if is_over {
                input.extend_from_slice(bytes);
            }
            self.keep(place, input, next);
            if is_over {
                return;
            }
        }
        if let Some((consumed, next)) = self.hand(driver, place, bytes, fresh, now) {
            self.keep(place, bytes[consumed..].to_vec(), next);
        }
    }

    /// Reads what completes a long request, and further ones of its length, without a detour through
    /// the ring's buffers. What the socket says about its end or a fault, the ring's next receive
    /// meets again.
    fn read_long(&mut self, driver: &mut Driver, place: usize, now: Now) {
        let mut left = LONG_BYTES_EACH_TURN;
        // How long the request was that has just been read in this way: the next may be as long.
        let mut last_length = 0;
        loop {
            let Some(socket) = self.sockets.get_mut(place) else {
                return;
            };
            let is_begun = socket.input.len() >= LONG_BYTES_MIN;
            let is_next = socket.input.is_empty() && last_length >= LONG_BYTES_MIN;
            if left == 0 || socket.held || socket.phase != Phase::Open || !(is_begun || is_next) {
                return;
            }
            let mut input = std::mem::take(&mut socket.input);
            let before = input.len();
            let needed = socket.needed.max(last_length);
            // At least a receive's worth: of a line nobody knows how long it will be.
            input.reserve_exact(needed.saturating_sub(before).max(RECEIVE_BYTES));
            let received = recv(&socket.fd, spare_capacity(&mut input), RecvFlags::DONTWAIT);
            let fresh = input.len() - before;
            if received.is_err() || fresh == 0 {
                socket.input = if before > 0 { input } else { Vec::new() };
                return;
            }
            left = left.saturating_sub(fresh);
            if input.len() < needed {
                let Some((consumed, next)) = self.hand(driver, place, &input, fresh, now) else {
                    return;
                };
                input.drain(..consumed);
                self.keep(place, input, next);
                continue;
            }
            // Whole: its payload may stay where it is until the last receiver has it.
            let bytes = driver.shard().lend(input);
            let input = Input::Lent {
                conn: ConnId(place as u32),
                bytes: &bytes,
                fresh,
            };
            let Some((consumed, next)) = driver.offer(self, input, now) else {
                return;
            };
            last_length = consumed;
            self.keep(place, bytes[consumed..].to_vec(), next);
        }
    }

    /// Lets core consume of `bytes` what it can; gives how much that was and what follows, or
    /// `None` if the connection has gone meanwhile.
    fn hand(
        &mut self,
        driver: &mut Driver,
        place: usize,
        bytes: &[u8],
        fresh: usize,
        now: Now,
    ) -> Option<(usize, Next)> {
        let conn = ConnId(place as u32);
        let input = Input::Bytes { conn, bytes, fresh };
        driver.offer(self, input, now)
    }

    /// Keeps what core did not consume, and reads on if core wants that.
    fn keep(&mut self, place: usize, mut rest: Vec<u8>, next: Next) {
        let socket = &mut self.sockets[place];
        if rest.is_empty() {
            // An idle connection keeps no memory.
            rest = Vec::new();
        }
        socket.held = next == Next::Hold;
        match next {
            Next::Read { needed } => {
                socket.needed = needed;
                socket.input = rest;
                self.to_receive.push(place);
            }
            Next::Hold => socket.input = rest,
            // The rest waits for the next turn: a subscriber that takes its output needs to be
            // heard of, or what is written for it would grow to the cap within this one.
            Next::Flush => unreachable!("the driver has written, and holds"),
            Next::Done => {}
        }
    }

    /// Takes the end of a wait for room in: writes on.
    pub(crate) fn writable(&mut self, driver: &mut Driver, completion: Completion, now: Now) {
        let (_, place) = About::of(completion.token);
        self.sockets[place].awaiting_room = false;
        if self.sockets[place].phase == Phase::Closed {
            self.drop_if_ended(place);
        } else {
            self.write(driver, ConnId(place as u32), now);
        }
    }

    /// Forgets a connection: its peer is gone, or its last output is written or given up.
    fn gone(&mut self, driver: &mut Driver, place: usize, now: Now) {
        let socket = &mut self.sockets[place];
        if socket.phase != Phase::Closed {
            socket.phase = Phase::Closed;
            socket.input = Vec::new();
            // Ends what is under way in the ring; closing alone would not.
            let _ = shutdown(&socket.fd, Shutdown::Both);
            driver.closed(ConnId(place as u32), now);
        }
        self.drop_if_ended(place);
    }

    fn drop_if_ended(&mut self, place: usize) {
        let socket = &self.sockets[place];
        if socket.phase == Phase::Closed && !socket.receiving && !socket.awaiting_room {
            self.sockets.remove(place);
        }
    }

    /// Gives up on connections that do not read their last replies; the time of the next is returned.
    pub(crate) fn end_lingering(&mut self, driver: &mut Driver, now: Now) -> Option<u64> {
        // All linger equally long, so the first in line is the first to be given up.
        while let Some(&(until, place)) = self.lingering.front() {
            let still_lingers = self
                .sockets
                .get(place)
                .is_some_and(|socket| socket.phase == Phase::Lingering(until));
            if still_lingers && until > now.monotonic_ns {
                return Some(until);
            }
            self.lingering.pop_front();
            if still_lingers {
                self.gone(driver, place, now);
            }
        }
        None
    }

    /// Queues the receives and waits that became due.
    pub(crate) fn arm(&mut self, ring: &mut Ring) {
        self.much_left = MUCH_BYTES_EACH_TURN;
        self.dials.arm(ring);
        for (place, is_now) in self
            .to_receive_now
            .drain(..)
            .map(|place| (place, true))
            .chain(self.to_receive.drain(..).map(|place| (place, false)))
        {
            let Some(socket) = self.sockets.get_mut(place) else {
                continue;
            };
            let is_due = socket.phase == Phase::Open && !socket.receiving && !socket.held;
            if is_due && !self.reading_ended {
                if self.is_pacing && !is_now && socket.reads >= PACED_AFTER_READS {
                    self.paced.push(place);
                    continue;
                }
                socket.receiving = true;
                let fd = socket.fd.as_raw_fd();
                if socket.brings_much {
                    ring.poll_readable(fd, About::Readable.token(place));
                } else {
                    let expect = if is_now { Expect::Now } else { Expect::Later };
                    ring.receive(fd, About::Receive.token(place), expect);
                }
            }
        }
        for place in self.to_await_room.drain(..) {
            let Some(socket) = self.sockets.get_mut(place) else {
                continue;
            };
            ring.poll_writable(socket.fd.as_raw_fd(), About::Writable.token(place));
        }
    }

    /// Whether nothing waits to be written on any connection.
    pub(crate) fn is_flushed(&self, driver: &Driver) -> bool {
        let mut open = self
            .sockets
            .iter()
            .filter(|(_, socket)| socket.phase != Phase::Closed);
        open.all(|(place, _)| !driver.has_output(ConnId(place as u32)))
    }

    /// Closes connections that have nothing to be written until so many are left, or all are looked at.
    pub(crate) fn send_away(&mut self, driver: &mut Driver, left: usize, now: Now) {
        let open = self
            .sockets
            .iter()
            .filter(|(_, socket)| socket.phase == Phase::Open);
        let places: Vec<usize> = open.map(|(place, _)| place).collect();
        let mut surplus = places.len().saturating_sub(left);
        for place in places {
            if surplus > 0 && !driver.has_output(ConnId(place as u32)) {
                surplus -= 1;
                self.gone(driver, place, now);
            }
        }
    }

    /// Closes all connections.
    pub(crate) fn close_all(&mut self, driver: &mut Driver, now: Now) {
        let places: Vec<usize> = self.sockets.iter().map(|(place, _)| place).collect();
        for place in places {
            self.gone(driver, place, now);
        }
    }
}

impl Sockets for Connections {
    fn write(&mut self, driver: &mut Driver, conn: ConnId, now: Now) {
        let place = conn.0 as usize;
        let Some(socket) = self.sockets.get_mut(place) else {
            return;
        };
        if socket.awaiting_room || socket.phase == Phase::Closed {
            return;
        }
        // Ends when all is written or the socket is full: its buffer is finite.
        while let Some((sent, offered)) = send_pieces(&socket.fd, driver.output(conn)) {
            match sent {
                Ok(count) => driver.sent(conn, count, count < offered),
                Err(SystemError::INTR) => {}
                Err(SystemError::AGAIN) => {
                    driver.sent(conn, 0, true);
                    socket.awaiting_room = true;
                    self.to_await_room.push(place);
                    return;
                }
                Err(error) => {
                    tracing::debug!(conn = place, %error, "sending failed");
                    return self.gone(driver, place, now);
                }
            }
        }
        if matches!(socket.phase, Phase::Lingering(_)) && !driver.has_output(conn) {
            self.gone(driver, place, now);
        }
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason, now: Now) {
        let Some(socket) = self.sockets.get_mut(conn.0 as usize) else {
            return;
        };
        if socket.phase == Phase::Open {
            tracing::debug!(?conn, ?reason, "closing");
            let until = now.monotonic_ns + LINGER_NS;
            socket.phase = Phase::Lingering(until);
            self.lingering.push_back((until, conn.0 as usize));
            // Core has taken it out of its cap.
            socket.input = Vec::new();
        }
    }

    fn resume(&mut self, driver: &mut Driver, conn: ConnId, now: Now) {
        let place = conn.0 as usize;
        let Some(socket) = self.sockets.get_mut(place) else {
            return;
        };
        if !socket.held || socket.phase != Phase::Open {
            return;
        }
        let mut input = std::mem::take(&mut socket.input);
        if let Some((consumed, next)) = self.hand(driver, place, &input, 0, now) {
            input.drain(..consumed);
            self.keep(place, input, next);
        }
    }

    fn is_open(&self, conn: ConnId) -> bool {
        let socket = self.sockets.get(conn.0 as usize);
        socket.is_some_and(|socket| socket.phase == Phase::Open)
    }

    fn dial(&mut self, dial: Dial) {
        self.dials.wanted.push(dial);
    }

    fn move_to(&mut self, driver: &mut Driver, conn: ConnId, to: ShardId, now: Now) {
        let place = conn.0 as usize;
        // Who is held is not read, and nothing was written yet.
        let is_free = |socket: &Socket| {
            socket.phase == Phase::Open && !socket.receiving && !socket.awaiting_room
        };
        if self.sockets.get(place).is_some_and(is_free) {
            driver.closed(conn, now);
            let Socket { fd, input, .. } = self.sockets.remove(place);
            self.moving.push((to, Moved { fd, input }));
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice.is_usual() {
            true => tracing::info!("{notice}"),
            false => tracing::warn!("{notice}"),
        }
    }
}

/// Sends as many pieces as one call takes; gives what came of it and how many bytes were offered, or
/// `None` if there are no pieces.
fn send_pieces<'a>(
    fd: &OwnedFd,
    mut pieces: impl Iterator<Item = &'a [u8]>,
) -> Option<(Result<usize, SystemError>, usize)> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let first = pieces.next()?;
    let Some(second) = pieces.next() else {
        return Some((send(fd, first, flags), first.len()));
    };
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let mut used = 0;
    let mut offered = 0;
    let pieces = [first, second].into_iter().chain(pieces);
    for (slot, piece) in slices.iter_mut().zip(pieces) {
        *slot = IoSlice::new(piece);
        used += 1;
        offered += piece.len();
    }
    let mut none = SendAncillaryBuffer::default();
    let sent = sendmsg(fd, &slices[..used], &mut none, flags);
    Some((sent, offered))
}

/// Takes a descriptor that the ring accepted.
pub(crate) fn own(descriptor: u32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(descriptor as i32) }
}
