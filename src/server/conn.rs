//! Client sockets: input goes to the driver, core's output is written to the socket.
//!
//! Owns the descriptors, each connection's unconsumed input, and its requests in progress on the ring. Must not know
//! protocols. Invariants: at most one receive and one wait for writability for each socket; a slot is reused only after
//! both have ended, so a completion never meets another connection; nothing here blocks. Start at
//! [`Connections::received`].

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
use sapwood_core::{Input, Next, Protocol};
use slab::Slab;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Output slices in one system call: enough for a megabyte of shared payloads.
const SLICES_MAX: usize = 64;

/// How long a closing connection may take to read its last replies.
const LINGER_NS: u64 = 1_000_000_000;

/// Number of reads after which a connection is busy enough to be paced.
const PACED_AFTER_READS: u8 = 32;

/// A paced connection whose read brings fewer messages than this is no longer paced.
const PACED_MESSAGES_MIN: u64 = 2;

/// Bytes copied at least to complete a request: more than the head of a small one.
const COMPLETION_BYTES_MIN: usize = 512;

/// Once this much of a request has arrived, the rest is read directly into its own buffer, which saves a copy.
const LONG_BYTES_MIN: usize = 16 * 1024;

/// The shared buffer for reading connections that bring much at a time. It stays in the processor's cache, unlike the
/// ring's many buffers: a quarter less CPU for each message of a pipelining publisher. A held connection keeps at most
/// this much input, besides an incomplete request.
const MUCH_BYTES: usize = 128 * 1024;

/// Maximum bytes read in one turn into the shared buffer and for long requests, and moved with buffers that grow; the
/// remaining connections are read first in the next.
const MUCH_BYTES_EACH_TURN: usize = 4 * 1024 * 1024;

/// Maximum bytes read directly for a long request of one connection in one turn.
const LONG_BYTES_EACH_TURN: usize = 256 * 1024;

/// What a completion is about. With the connection's slot in the lower half, it makes a token.
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
    /// Input not consumed by core, from the first unconsumed byte.
    input: Vec<u8>,
    /// The request in `input` is incomplete below this length.
    needed: usize,
    receiving: bool,
    awaiting_room: bool,
    /// The last receive left more in the socket, or the last read brought more than a receive would have. Then the ring
    /// only waits for readability, and the socket is read directly into the shared buffer.
    brings_much: bool,
    /// The request in `input` was read as long as it was said to be, and is longer: it has many arguments. Lending it to
    /// core piece by piece would copy all of it each time.
    is_open_ended: bool,
    /// Core said to stop reading (back-pressure).
    held: bool,
    /// Reads with input since the last one that brought too little for pacing; counts up to [`PACED_AFTER_READS`].
    reads: u8,
    /// The connection leads to another node: it is read until the very end.
    is_link: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Core has closed it; its last output is being written, until this time.
    Lingering(u64),
    /// Core has removed it; its requests on the ring have to end.
    Closed,
}

/// An accepted connection, with its listener and addresses.
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
    /// Connections that are gone, whose places core still needs.
    leaving: Vec<usize>,
    /// Connections to receive from first in the next turn, without waiting for readability: they found no receive
    /// buffer, came after the turn's byte limit was used up, or were paced.
    to_receive_now: Vec<usize>,
    /// Connections to receive from as soon as the ring is available.
    to_receive: Vec<usize>,
    to_await_room: Vec<usize>,
    /// Closing connections and their deadlines.
    lingering: VecDeque<(u64, usize)>,
    /// Connections that are not read before the pacing hold ends.
    paced: Vec<usize>,
    /// The shared buffer for connections that bring much at a time.
    much: Vec<u8>,
    /// Bytes that may still be read into it in this turn.
    much_left: usize,
    /// Whether busy connections are paced, see [`crate::pace`].
    pub is_pacing: bool,
    /// Whether reading of clients has ended, because the node drains.
    pub reading_ended: bool,
    /// Dials to other nodes.
    pub dials: Dials,
    /// Connections to hand to other shards.
    pub moving: Vec<(ShardId, Moved)>,
}

/// A connection that is being handed to another shard of the node.
#[derive(Debug)]
pub(crate) struct Moved {
    pub fd: OwnedFd,
    /// Received and unconsumed input.
    pub input: Vec<u8>,
}

impl Connections {
    pub(crate) fn new() -> Connections {
        Connections {
            sockets: Slab::new(),
            leaving: Vec::new(),
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

    /// Adds an accepted socket.
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
            is_open_ended: false,
            held: false,
            reads: 0,
            is_link: matches!(
                accepted.front.protocol,
                Protocol::Node | Protocol::NodeDialed { .. }
            ),
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

    /// Adds a connection from another shard, with its unconsumed input.
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

    /// Handles the completion of a receive: passes the input to the driver, and reads on if core wants it.
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

    /// Handles the completion of a wait for readability: reads into the shared buffer.
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

    /// Finishes a read. `before` is the number of commands that core had handled before it.
    fn end_read(&mut self, driver: &mut Driver, place: usize, before: u64, now: Now) {
        self.read_long(driver, place, now);
        self.note_read(place, driver.shard().commands() - before);
    }

    /// Reads once into the shared buffer. End of stream and errors are left to the ring's next receive.
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

    /// Records how many messages a read brought.
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

    /// Whether any connection waits for the end of the pacing hold.
    pub(crate) fn has_paced(&self) -> bool {
        !self.paced.is_empty()
    }

    /// Ends the pacing hold: paced connections are read at once.
    pub(crate) fn release_paced(&mut self) {
        self.to_receive_now.append(&mut self.paced);
    }

    /// Passes new input to core: first what completes the request in progress, copying as little as possible, then the
    /// rest directly from the ring's buffer.
    fn take_in(&mut self, driver: &mut Driver, place: usize, bytes: &[u8], now: Now) {
        let mut bytes = bytes;
        let mut fresh = bytes.len();
        while !self.sockets[place].input.is_empty() {
            let socket = &mut self.sockets[place];
            let before = socket.input.len();
            let missing = socket.needed.saturating_sub(before);
            let taken = missing.max(COMPLETION_BYTES_MIN).min(bytes.len());
            if socket.input.capacity() < before + taken {
                // All of it moves.
                self.much_left = self.much_left.saturating_sub(before);
            }
            socket.input.extend_from_slice(&bytes[..taken]);
            // Core sees even an incomplete request: it counts the kept bytes, and its cap must hold while the bytes
            // arrive, not only once they are complete.
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

    /// Reads the rest of a long request, and further ones of the same length, directly into their own buffers. End of
    /// stream and errors are left to the ring's next receive.
    fn read_long(&mut self, driver: &mut Driver, place: usize, now: Now) {
        let mut left = LONG_BYTES_EACH_TURN.min(self.much_left);
        // Length of the long request that was just read: the next may be as long.
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
            let is_open_ended = socket.is_open_ended;
            let mut input = std::mem::take(&mut socket.input);
            let before = input.len();
            let needed = socket.needed.max(last_length);
            let capacity = input.capacity();
            match needed.saturating_sub(before) {
                missing if missing >= RECEIVE_BYTES => input.reserve_exact(missing),
                // The length of a line or of many arguments is unknown, so there may be much more.
                _ => input.reserve(RECEIVE_BYTES),
            }
            if input.capacity() != capacity {
                // All of it moves.
                self.much_left = self.much_left.saturating_sub(before);
            }
            let received = recv(&socket.fd, spare_capacity(&mut input), RecvFlags::DONTWAIT);
            let fresh = input.len() - before;
            if received.is_err() || fresh == 0 {
                socket.input = if before > 0 { input } else { Vec::new() };
                return;
            }
            left = left.saturating_sub(fresh);
            self.much_left = self.much_left.saturating_sub(fresh);
            if input.len() < needed || is_open_ended {
                let Some((consumed, next)) = self.hand(driver, place, &input, fresh, now) else {
                    return;
                };
                self.sockets[place].is_open_ended = is_open_ended && consumed == 0;
                input.drain(..consumed);
                self.keep(place, input, next);
                continue;
            }
            // Complete: the payload may stay in this buffer until the last receiver has it.
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
            if let Some(socket) = self.sockets.get_mut(place) {
                socket.is_open_ended = consumed == 0 && matches!(next, Next::Read { .. });
            }
            self.keep(place, bytes[consumed..].to_vec(), next);
        }
    }

    /// Lets core consume what it can of `bytes`. Returns how much that was and what follows, or `None` if the
    /// connection was removed meanwhile.
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

    /// Keeps the unconsumed input, and reads on if core wants it.
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
            // The rest waits for the next turn: the acknowledgement of a subscriber's output must be heard first, or
            // its output would grow to the cap within this turn.
            Next::Flush => unreachable!("the driver has written, and holds"),
            Next::Done => {}
        }
    }

    /// Handles the completion of a wait for writability: writes on.
    pub(crate) fn writable(&mut self, driver: &mut Driver, completion: Completion, now: Now) {
        let (_, place) = About::of(completion.token);
        self.sockets[place].awaiting_room = false;
        if self.sockets[place].phase == Phase::Closed {
            self.drop_if_ended(place);
        } else {
            self.write(driver, ConnId(place as u32), now);
        }
    }

    /// Removes a connection: the peer is gone, or its last output was written or given up.
    fn gone(&mut self, driver: &mut Driver, place: usize, now: Now) {
        let socket = &mut self.sockets[place];
        if socket.phase != Phase::Closed {
            socket.phase = Phase::Closed;
            socket.input = Vec::new();
            // Ends its requests on the ring, which closing alone would not do.
            let _ = shutdown(&socket.fd, Shutdown::Both);
            let conn = ConnId(place as u32);
            driver.closed(conn, now);
            if driver.is_leaving(conn) {
                self.leaving.push(place);
            }
        }
        self.drop_if_ended(place);
    }

    /// Frees the places of connections whose subscriptions have all been removed since they were gone.
    fn free_left(&mut self, driver: &Driver) {
        for place in std::mem::take(&mut self.leaving) {
            match driver.is_leaving(ConnId(place as u32)) {
                true => self.leaving.push(place),
                false => self.drop_if_ended(place),
            }
        }
    }

    fn drop_if_ended(&mut self, place: usize) {
        let socket = &self.sockets[place];
        let has_requests = socket.receiving || socket.awaiting_room;
        if socket.phase == Phase::Closed && !has_requests && !self.leaving.contains(&place) {
            self.sockets.remove(place);
        }
    }

    /// Gives up closing connections whose peers do not read. Returns the next deadline.
    pub(crate) fn end_lingering(&mut self, driver: &mut Driver, now: Now) -> Option<u64> {
        self.free_left(driver);
        // All linger equally long, so the first in the queue is due first.
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

    /// Queues the receives and waits that are due.
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
            if is_due && (socket.is_link || !self.reading_ended) {
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

    /// Whether no connection has output to be written.
    pub(crate) fn is_flushed(&self, driver: &Driver) -> bool {
        let mut open = self
            .sockets
            .iter()
            .filter(|(_, socket)| socket.phase != Phase::Closed);
        open.all(|(place, _)| !driver.has_output(ConnId(place as u32)))
    }

    /// Closes connections without pending output until only `left` remain, or all were looked at.
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
        // Ends when everything is written or the socket is full: its buffer is finite.
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
            // Core no longer counts it towards its cap.
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
        // A held connection has no receive in progress, and nothing was written to it yet, so it can move.
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

/// Sends as many slices as one call takes. Returns the result and the bytes offered, or `None` if there is nothing to
/// send.
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

/// Takes ownership of a descriptor that the ring accepted.
pub(crate) fn own(descriptor: u32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(descriptor as i32) }
}
