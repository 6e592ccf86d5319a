//! Dials to other nodes: non-blocking connects, handed to core once they succeed or fail.
//!
//! Owns sockets that are not connected yet. Must not know why they are dialed. Invariant: a slot is reused only after
//! the ring's wait for it has ended. Start at [`Dials::arm`].

use crate::conn::About;
use crate::ring::{Completion, Ring};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use sapwood_core::command::Now;
use sapwood_core::tree::Dial;
use slab::Slab;
use std::net::SocketAddr;

/// Connect time-out: core expects about a second.
const DIAL_NS: u64 = 1_000_000_000;

#[derive(Debug)]
struct Dialing {
    fd: OwnedFd,
    dial: u64,
    until_ns: u64,
    /// Core was told of the failure; the ring's wait has to end.
    is_over: bool,
}

/// All dials in progress.
#[derive(Debug, Default)]
pub(crate) struct Dials {
    /// Dials requested by core since the last turn.
    pub wanted: Vec<Dial>,
    dialing: Slab<Dialing>,
    /// Slots whose wait has to be queued on the ring.
    begun: Vec<usize>,
    /// Slots whose wait has to be cancelled on the ring.
    late: Vec<usize>,
    failed: Vec<u64>,
}

impl Dials {
    /// Starts the dials requested by core.
    pub(crate) fn begin(&mut self, now: Now) {
        for dial in std::mem::take(&mut self.wanted) {
            match begin(dial.address) {
                Ok(fd) => {
                    let place = self.dialing.insert(Dialing {
                        fd,
                        dial: dial.dial,
                        until_ns: now.monotonic_ns + DIAL_NS,
                        is_over: false,
                    });
                    self.begun.push(place);
                }
                Err(error) => {
                    tracing::debug!(address = %dial.address, %error, "dialing failed");
                    self.failed.push(dial.dial);
                }
            }
        }
    }

    /// Queues the waits that are due, and cancels those of late dials.
    pub(crate) fn arm(&mut self, ring: &mut Ring) {
        for place in self.begun.drain(..) {
            let fd = self.dialing[place].fd.as_raw_fd();
            ring.poll_writable(fd, About::Dialed.token(place));
        }
        for place in self.late.drain(..) {
            ring.cancel(About::Dialed.token(place));
        }
    }

    /// Handles the completion of a wait. Returns the dial's number, with the socket if it is connected.
    pub(crate) fn complete(&mut self, completion: Completion) -> Option<(u64, Option<OwnedFd>)> {
        let (_, place) = About::of(completion.token);
        let Dialing {
            fd, dial, is_over, ..
        } = self.dialing.try_remove(place)?;
        if is_over {
            return None;
        }
        let outcome = sockopt::socket_error(&fd);
        let is_connected = completion.result.is_ok() && matches!(outcome, Ok(Ok(())));
        Some((dial, is_connected.then_some(fd)))
    }

    /// Whether there is a dial to start or a failure to report.
    pub(crate) fn is_due(&self) -> bool {
        !self.wanted.is_empty() || !self.failed.is_empty() || !self.late.is_empty()
    }

    /// Gives up dials that take too long.
    pub(crate) fn end_late(&mut self, now: Now) {
        for (place, dialing) in &mut self.dialing {
            if !dialing.is_over && dialing.until_ns <= now.monotonic_ns {
                dialing.is_over = true;
                self.failed.push(dialing.dial);
                self.late.push(place);
            }
        }
    }

    /// The earliest time-out.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let dialing = self.dialing.iter().filter(|(_, dialing)| !dialing.is_over);
        dialing.map(|(_, dialing)| dialing.until_ns).min()
    }

    /// Takes the numbers of the dials that failed since the last call.
    pub(crate) fn take_failed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.failed)
    }
}

fn begin(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}
