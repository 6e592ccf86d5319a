//! How a glommio task sleeps until the shard's ring has completions, or until another task pokes it.
//!
//! Owns the waiting and nothing else. It must not look at completions, and it never blocks the thread. Start reading at
//! [`Parker::wait`].
//!
//! glommio has no public wait for an arbitrary descriptor. A `glommio::net::TcpStream` does one on
//! the inside: it starts a poll for readability when it is made from a descriptor, its `poll_read`
//! stays pending until that poll ends, and only then calls `recv(2)`, which on a ring's descriptor
//! fails with `ENOTSOCK`. That failure is our "readable". It holds for glommio 0.9.0; the tests
//! here fail should another version behave otherwise. Such a stream is spent after one wait, so
//! each wait that really sleeps costs a `dup` and a `close`.
//!
//! Invariants:
//! - No wake-up is lost. The poll looks at the ring's state when the kernel arms it, which is after
//!   the ring was last looked at here; a poke leaves a mark that the next wait finds.
//! - A poke does not abandon the poll: the armed stream stays for the next wait. Each abandoned one
//!   would hold a clone of the task's waker until glommio's next turn, and glommio aborts the
//!   process at 32,767 clones, a number that two tasks of one executor waking each other can reach
//!   within a single turn.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_io::AsyncRead;
use glommio::net::TcpStream;

use crate::ring::Ring;

/// The reason why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The ring has completions, or work to do in [`Ring::submit`].
    Ring,
    /// [`WakeCell::poke`] was called since the last wait that returned this.
    Poked,
    /// No descriptor is left for the poll (`EMFILE`), so nothing was waited for. Wait a little with
    /// [`Ring::submit_and_wait`] instead.
    NoDescriptor,
}

/// Lets another task of the same executor end the wait of the shard's task. Clones poke the same
/// task.
///
/// Pokes do not count up: any number between two waits make one [`Woken::Poked`]. One task at a
/// time may wait.
#[derive(Clone, Default)]
pub struct WakeCell {
    state: Rc<WakeState>,
}

#[derive(Default)]
struct WakeState {
    poked: Cell<bool>,
    sleeper: Cell<Option<Waker>>,
}

impl WakeCell {
    /// A cell without a poke.
    pub fn new() -> WakeCell {
        WakeCell::default()
    }

    /// Ends the current wait, or else the next one. Costs no system call.
    pub fn poke(&self) {
        self.state.poked.set(true);
        if let Some(sleeper) = self.state.sleeper.take() {
            sleeper.wake();
        }
    }

    /// Takes a poke without waiting, for a task that has just done what pokes ask for.
    pub fn take(&self) -> bool {
        self.state.poked.replace(false)
    }

    /// Stores the waker of the waiting task. Clones it only if it is another one than before.
    fn keep(&self, waker: &Waker) {
        let sleeper = match self.state.sleeper.take() {
            Some(sleeper) if sleeper.will_wake(waker) => sleeper,
            _ => waker.clone(),
        };
        self.state.sleeper.set(Some(sleeper));
    }
}

impl fmt::Debug for WakeCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WakeCell")
            .field("poked", &self.state.poked.get())
            .finish_non_exhaustive()
    }
}

/// Removes the waker when a wait ends in any way, so that an idle cell holds none.
struct Sleeping<'cell>(&'cell WakeCell);

impl Drop for Sleeping<'_> {
    fn drop(&mut self) {
        self.0.state.sleeper.set(None);
    }
}

/// Waits for one ring. Create one for each ring, keep it, and drop it before the executor ends.
#[derive(Debug, Default)]
pub struct Parker {
    /// The poll in flight, if the last wait ended before it did.
    armed: Option<TcpStream>,
}

impl Parker {
    /// A parker without a poll.
    pub fn new() -> Parker {
        Parker::default()
    }

    /// Submits what is queued, then sleeps until the ring has completions or `wake` is poked.
    ///
    /// Resolves at once, without a poll, when either is already so; a poke is reported first. May
    /// rarely report the ring without a completion to show. Dropping an unfinished wait is free and
    /// loses nothing.
    ///
    /// Fails as [`Ring::submit`] does. Must run inside a glommio executor.
    pub async fn wait(&mut self, ring: &mut Ring, wake: &WakeCell) -> io::Result<Woken> {
        let _sleeping = Sleeping(wake);
        let mut fresh = false;
        poll_fn(|context| self.poll_wait(ring, wake, &mut fresh, context)).await
    }

    /// `fresh`: this wait started the armed poll, so that its end is news.
    fn poll_wait(
        &mut self,
        ring: &mut Ring,
        wake: &WakeCell,
        fresh: &mut bool,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Woken>> {
        if wake.take() {
            return Poll::Ready(Ok(Woken::Poked));
        }
        ring.submit()?;
        // Ends in the second round at the latest: a poll that was started here is pending at first,
        // and if not, it is news.
        loop {
            if ring.has_completions() {
                return Poll::Ready(Ok(Woken::Ring));
            }
            let stream = match &mut self.armed {
                Some(stream) => stream,
                empty => {
                    *fresh = true;
                    match poll_readable(ring.as_fd()) {
                        Ok(stream) => empty.insert(stream),
                        Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                            return Poll::Ready(Ok(Woken::NoDescriptor));
                        }
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
            };
            match Pin::new(stream).poll_read(context, &mut [0]) {
                Poll::Pending => {
                    wake.keep(context.waker());
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::ENOTSOCK) => {
                    self.armed = None;
                    if *fresh {
                        return Poll::Ready(Ok(Woken::Ring));
                    }
                    // Left over from an earlier wait, whose completions were collected long ago.
                }
                Poll::Ready(other) => {
                    self.armed = None;
                    return Poll::Ready(Err(unexpected(other)));
                }
            }
        }
    }
}

/// Starts glommio's poll on a duplicate of `ring`, which the stream closes when it is dropped.
fn poll_readable(ring: BorrowedFd<'_>) -> io::Result<TcpStream> {
    let duplicate = ring.try_clone_to_owned()?;
    // SAFETY: the descriptor is open and owned here, and ownership passes to the stream. That it is
    // no socket makes calls on the stream fail, which is what we are after.
    Ok(unsafe { TcpStream::from_raw_fd(duplicate.into_raw_fd()) })
}

fn unexpected(result: io::Result<usize>) -> io::Error {
    let what = match result {
        Ok(bytes) => format!("a read of {bytes} bytes"),
        Err(error) => error.to_string(),
    };
    io::Error::other(format!(
        "waiting for the ring ended with {what} instead of ENOTSOCK: glommio is not the version \
         this was written for (0.9.0); build with the locked dependencies (cargo build --locked)"
    ))
}
