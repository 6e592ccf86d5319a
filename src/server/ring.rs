//! A shard's own io_uring: it carries every accept, wait and timer of the shard, and the reads of all connections that
//! do not bring much at a time.
//!
//! Owns the ring's file descriptor, the receive buffers, and all memory that the kernel reads or
//! writes for a request. Knows nothing of connections, protocols or glommio. Sends are not here on
//! purpose: plain `send(2)` measured 1.6-2.1 times cheaper than sends through the ring.
//!
//! The turn of a shard reads: queue requests ([`Ring::receive`] and its siblings), [`Ring::submit`]
//! or [`Ring::submit_and_wait`], [`Ring::completions`], work, [`Ring::release`] the buffers. Start
//! reading at [`Ring::new`].
//!
//! Invariants:
//! - All requests are one-shot: each queued request yields exactly one [`Completion`] (cancels
//!   yield none).
//! - A request is never lost. What the submission queue cannot take waits in `backlog`, in order.
//! - The kernel never holds the address of memory that Rust code may free: receive buffers, timer
//!   values and the counter sink live in mappings which outlast the ring; see `Drop`.
//! - Set-up flags are `SINGLE_ISSUER | COOP_TASKRUN`, so a `Ring` stays on the thread that made it
//!   (it is not `Send`), and never `DEFER_TASKRUN`: glommio waits on our descriptor, and with that
//!   flag it would hang for ever.
//!
//! File descriptors must be in blocking mode. With `O_NONBLOCK` the kernel answers `EAGAIN` at once
//! instead of waiting; whoever sends on the same socket passes `MSG_DONTWAIT` instead.

mod buffers;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

pub use buffers::BufferId;
use buffers::{Buffers, Mapping};

/// The one group of provided buffers of a ring; groups are numbered for each ring on its own.
const BUFFER_GROUP: u16 = 0;
/// The most buffers a buffer ring can have (`io_uring_register_buf_ring(3)`).
const BUFFERS_MAX: u16 = 32_768;
/// User data of cancel requests, whose own completions are dropped.
const SWALLOWED: u64 = u64::MAX;
/// `IORING_RECVSEND_POLL_FIRST` of `linux/io_uring.h`, which the crate does not export.
const RECEIVE_POLL_FIRST: u16 = 1;
/// A counter read transfers one `u64` (`eventfd(2)`).
const COUNTER_BYTES: usize = 8;
/// How long closing a ring waits until the kernel has ended its requests. Cancelling takes microseconds; should it ever
/// take longer than this, the memory is leaked rather than freed under the kernel.
const CANCEL_WAIT: Duration = Duration::from_secs(2);

/// Default size of a receive buffer in bytes: more than clients without pipelining send at a time. Pipelining clients
/// are better read into one large buffer after [`Ring::poll_readable`].
pub const RECEIVE_BYTES: usize = 4 * 1024;

/// The caller's name for a request, returned with its completion. Any value except `u64::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// An error number of the kernel (positive, as in `errno(3)`); compare with the constants of
/// `libc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Every receive buffer was in use. Release some and queue the receive again.
    pub const NO_BUFFERS: Errno = Errno(libc::ENOBUFS);
    /// The request was cancelled before it did anything.
    pub const CANCELLED: Errno = Errno(libc::ECANCELED);
    /// A timeout has expired: the normal end of [`Ring::timeout`].
    pub const TIME_OUT: Errno = Errno(libc::ETIME);
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.0)
    }
}

/// Whether a receive is likely to find data already waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Try to read first, wait if there is nothing: for a socket whose last completion said
    /// `more_waiting`.
    Now,
    /// Wait first, without the read that would come back empty: for a drained or new socket.
    Later,
}

/// The completion of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The caller's name for the request.
    pub token: Token,
    /// Bytes received (zero: the peer has closed), the accepted descriptor, the poll mask, or bytes read from a
    /// counter; or the error.
    pub result: Result<u32, Errno>,
    /// The buffer with the received bytes. Present exactly if a receive brought at least one byte; must be released.
    pub buffer: Option<BufferId>,
    /// More bytes were waiting in the socket when this receive finished.
    pub more_waiting: bool,
}

/// Sizes of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Submission queue entries, a power of two up to 32,768. A full queue submits by itself, so
    /// this caps the batch, not the number of requests. 64 bytes each.
    pub submissions: u32,
    /// Completion queue entries, a power of two up to 65,536. Beyond it the kernel keeps
    /// completions in memory of its own, slowly. 16 bytes each.
    pub completions: u32,
    /// Receive buffers, a power of two up to 32,768.
    pub buffers: u16,
    /// Size of a receive buffer in bytes: the most that one receive brings. Address space for all
    /// of them is reserved, memory is used as they are filled.
    pub buffer_bytes: u32,
}

impl Default for RingConfig {
    /// 1,024 submissions, 8,192 completions, 256 buffers of [`RECEIVE_BYTES`]: 0.2 MiB of rings and at
    /// most 1 MiB of buffers.
    fn default() -> RingConfig {
        RingConfig {
            submissions: 1024,
            completions: 8192,
            buffers: 256,
            buffer_bytes: RECEIVE_BYTES as u32,
        }
    }
}

/// Why a ring could not be created. Nothing is left behind.
#[derive(Debug)]
pub enum RingError {
    /// A field of [`RingConfig`] is out of range.
    Config {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u32,
        /// The rule it violates.
        rule: &'static str,
    },
    /// `io_uring_setup` failed.
    SetUp(io::Error),
    /// Memory for the buffers could not be mapped.
    Map {
        /// Bytes requested.
        bytes: usize,
        /// The system's error.
        error: io::Error,
    },
    /// The receive buffers could not be registered.
    RegisterBuffers {
        /// Number of buffers.
        buffers: u16,
        /// The system's error.
        error: io::Error,
    },
}

impl RingError {
    /// The error number of the failed system call, if one failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            RingError::Config { .. } => None,
            RingError::SetUp(error)
            | RingError::Map { error, .. }
            | RingError::RegisterBuffers { error, .. } => error.raw_os_error().map(Errno),
        }
    }
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingError::Config { field, value, rule } => {
                write!(
                    f,
                    "ring setting {field} is {value}, but must be {rule}: correct the setting"
                )
            }
            RingError::SetUp(error) => write!(
                f,
                "io_uring_setup failed: {error}: Linux 6.0 or newer is needed, and no seccomp \
                 profile or sysctl may forbid io_uring"
            ),
            RingError::Map { bytes, error } => write!(
                f,
                "mapping {bytes} bytes for receive buffers failed: {error}: configure fewer or \
                 smaller buffers, or raise the address space limit (ulimit -v)"
            ),
            RingError::RegisterBuffers { buffers, error } => write!(
                f,
                "registering {buffers} receive buffers with io_uring failed: {error}: Linux 6.0 or \
                 newer is needed; if memory is short, raise the memlock limit (ulimit -l)"
            ),
        }
    }
}

impl std::error::Error for RingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RingError::Config { .. } => None,
            RingError::SetUp(error)
            | RingError::Map { error, .. }
            | RingError::RegisterBuffers { error, .. } => Some(error),
        }
    }
}

/// A request before it has a place in the submission queue.
#[derive(Clone, Copy, Debug)]
enum Request {
    Receive {
        socket: RawFd,
        token: Token,
        expect: Expect,
    },
    Accept {
        listener: RawFd,
        token: Token,
    },
    Poll {
        socket: RawFd,
        mask: i16,
        token: Token,
    },
    ReadCounter {
        eventfd: RawFd,
        token: Token,
    },
    Timeout {
        after: Duration,
        token: Token,
    },
    Cancel {
        token: Token,
    },
}

/// An io_uring with its receive buffers. Belongs to the thread that made it.
///
/// ```no_run
/// # use std::os::fd::AsRawFd;
/// # use std::time::Duration;
/// # use sapwood_server::ring::{Expect, Ring, RingConfig, Token};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (socket, _peer) = std::os::unix::net::UnixStream::pair()?;
/// let mut ring = Ring::new(RingConfig::default())?;
/// ring.receive(socket.as_raw_fd(), Token(7), Expect::Later);
/// let mut done = Vec::new();
/// while !ring.submit_and_wait(Duration::from_secs(1))? {}
/// ring.completions(&mut done);
/// for completion in done.drain(..) {
///     if let (Ok(len), Some(buffer)) = (completion.result, completion.buffer) {
///         println!("{:?}", ring.buffer(buffer, len as usize));
///         ring.release(buffer);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Ring {
    /// Dropped by hand in `Drop`, which must close the ring before the memory is freed.
    uring: ManuallyDrop<IoUring>,
    buffers: ManuallyDrop<Buffers>,
    /// One timer value for each slot of the submission queue, then the counter sink.
    scratch: ManuallyDrop<Mapping>,
    submissions: u32,
    /// Entries ever put in the submission queue; its low bits name the next slot.
    pushed: u32,
    /// Requests for which the submission queue had no room, oldest first. Bounded by the caller, which has at most a
    /// few requests in progress for each connection.
    backlog: VecDeque<Request>,
    not_send: PhantomData<*mut ()>,
}

impl Ring {
    /// Creates a ring on the current thread, and offers all its buffers to the kernel.
    ///
    /// Fails with a [`RingError`]; `preflight` turns the failures into advice.
    pub fn new(config: RingConfig) -> Result<Ring, RingError> {
        check_config(&config)?;
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            // Lets `submit` see without a system call whether there is anything to run.
            .setup_taskrun_flag()
            // A refused entry must not hold up the ones behind it.
            .setup_submit_all()
            .setup_cqsize(config.completions)
            .build(config.submissions)
            .map_err(RingError::SetUp)?;
        let submissions = uring.params().sq_entries();
        let scratch = Mapping::new(submissions as usize * size_of::<Timespec>() + COUNTER_BYTES)?;
        let buffers = Buffers::new(config.buffers, config.buffer_bytes)?;
        // From here on `Drop` is responsible for the order of release.
        let ring = Ring {
            uring: ManuallyDrop::new(uring),
            buffers: ManuallyDrop::new(buffers),
            scratch: ManuallyDrop::new(scratch),
            submissions,
            pushed: 0,
            backlog: VecDeque::new(),
            not_send: PhantomData,
        };
        let address = ring.buffers.entries_address();
        // SAFETY: the address is that of a page-aligned array of `buffers` entries, which `Drop`
        // keeps mapped until the kernel has confirmed that nothing is in flight and the ring is
        // closed.
        unsafe {
            ring.uring.submitter().register_buf_ring_with_flags(
                address,
                config.buffers,
                BUFFER_GROUP,
                0,
            )
        }
        .map_err(|error| RingError::RegisterBuffers {
            buffers: config.buffers,
            error,
        })?;
        Ok(ring)
    }

    /// Queues one receive into whichever buffer is free when data comes.
    ///
    /// Completes with the byte count, zero at the end of the stream, or [`Errno::NO_BUFFERS`].
    /// Closing the descriptor does not end a pending receive: cancel it, or shut the socket down.
    pub fn receive(&mut self, socket: RawFd, token: Token, expect: Expect) {
        self.queue(
            token,
            Request::Receive {
                socket,
                token,
                expect,
            },
        );
    }

    /// Queues one accept; completes with the new descriptor, close-on-exec and in blocking mode.
    pub fn accept(&mut self, listener: RawFd, token: Token) {
        self.queue(token, Request::Accept { listener, token });
    }

    /// Queues one wait until the socket takes more output; completes with the poll mask (`POLLOUT`,
    /// `POLLHUP`, ...).
    pub fn poll_writable(&mut self, socket: RawFd, token: Token) {
        self.poll(socket, libc::POLLOUT, token);
    }

    /// Queues one wait until the socket has something to read, or its peer has closed; completes with
    /// the poll mask (`POLLIN`, `POLLHUP`, ...).
    pub fn poll_readable(&mut self, socket: RawFd, token: Token) {
        self.poll(socket, libc::POLLIN, token);
    }

    fn poll(&mut self, socket: RawFd, mask: i16, token: Token) {
        let request = Request::Poll {
            socket,
            mask,
            token,
        };
        self.queue(token, request);
    }

    /// Queues one read of an eventfd (in blocking mode), which resets it; completes with 8.
    ///
    /// The count itself is thrown away: a wake-up says only that there is something to look at.
    pub fn read_counter(&mut self, eventfd: RawFd, token: Token) {
        self.queue(token, Request::ReadCounter { eventfd, token });
    }

    /// Queues a timer that starts when it is submitted; completes with [`Errno::TIME_OUT`].
    pub fn timeout(&mut self, after: Duration, token: Token) {
        self.queue(token, Request::Timeout { after, token });
    }

    /// Queues the end of every outstanding request named `token`; each completes, most with
    /// [`Errno::CANCELLED`].
    ///
    /// A request that finished first completes as if nothing had been said. The cancel itself
    /// completes silently.
    pub fn cancel(&mut self, token: Token) {
        self.queue(token, Request::Cancel { token });
    }

    /// Hands what is queued to the kernel and lets it finish what is ready; never waits.
    ///
    /// No system call is made if nothing is queued, no work is pending and no completion is held
    /// back. If the kernel is short of memory, entries stay queued for the next call, and this is
    /// no error.
    pub fn submit(&mut self) -> io::Result<()> {
        // Ends because each round either empties the backlog or finds that the kernel took nothing.
        loop {
            self.push_backlog();
            if !self.needs_enter() {
                return Ok(());
            }
            let taken = self.enter()?;
            if self.backlog.is_empty() || taken == 0 {
                return Ok(());
            }
        }
    }

    /// Submits, then waits until there is at least one completion, for `at_most` at the longest.
    ///
    /// Returns whether there are completions. A signal, or a kernel short of memory, ends the wait
    /// early.
    pub fn submit_and_wait(&mut self, at_most: Duration) -> io::Result<bool> {
        if self.has_completions() || !self.backlog.is_empty() || at_most.is_zero() {
            self.submit()?;
            if self.has_completions() || at_most.is_zero() {
                return Ok(self.has_completions());
            }
        }
        let at_most = Timespec::from(at_most);
        let arguments = SubmitArgs::new().timespec(&at_most);
        match self.uring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => {}
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(self.has_completions())
    }

    /// Whether [`Ring::completions`] would bring something, or the next [`Ring::submit`] would.
    /// Reads memory only.
    pub fn has_completions(&self) -> bool {
        // SAFETY: no other queue view of this ring is alive: views are made and dropped inside
        // methods, and the ring is neither `Send` nor `Sync`.
        let (completions, submissions) = unsafe {
            (
                self.uring.completion_shared(),
                self.uring.submission_shared(),
            )
        };
        !completions.is_empty() || submissions.taskrun() || submissions.cq_overflow()
    }

    /// Appends everything that has completed. Free of system calls.
    pub fn completions(&mut self, into: &mut Vec<Completion>) {
        for entry in self.uring.completion() {
            // Buffers first: a failed receive that still names one must not lose it.
            let mut buffer =
                cqueue::buffer_select(entry.flags()).map(|index| self.buffers.take(index));
            if entry.result() <= 0
                && let Some(id) = buffer.take()
            {
                self.buffers.release(id);
            }
            if entry.user_data() == SWALLOWED {
                continue;
            }
            into.push(Completion {
                token: Token(entry.user_data()),
                result: u32::try_from(entry.result()).map_err(|_| Errno(-entry.result())),
                buffer,
                more_waiting: cqueue::sock_nonempty(entry.flags()),
            });
        }
    }

    /// The first `len` bytes of a buffer that came with a completion.
    ///
    /// Panics if the buffer was released or `len` exceeds its size.
    pub fn buffer(&self, id: BufferId, len: usize) -> &[u8] {
        self.buffers.filled(id, len)
    }

    /// Gives a buffer back for the next receive. Free of system calls. Panics if it was released
    /// already.
    pub fn release(&mut self, id: BufferId) {
        self.buffers.release(id);
    }

    fn queue(&mut self, token: Token, request: Request) {
        assert_ne!(
            token.0, SWALLOWED,
            "Token(u64::MAX) is reserved for cancels"
        );
        if self.backlog.is_empty() && self.push(request) {
            return;
        }
        self.backlog.push_back(request);
        // An error is not lost: the queue stays as it is, and the caller's next `submit` meets the
        // same error.
        let _ = self.submit();
    }

    fn push_backlog(&mut self) {
        // Bounded by the submission queue, which `push` fills.
        while let Some(&request) = self.backlog.front() {
            if !self.push(request) {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Puts a request in the submission queue, unless that is full.
    fn push(&mut self, request: Request) -> bool {
        if self.uring.submission().is_full() {
            return false;
        }
        let entry = self.encode(request);
        // SAFETY: all memory the entry points to is in `buffers` or `scratch`, which `Drop` keeps
        // mapped until nothing is in flight; a timer value is not overwritten before the kernel has
        // copied it (see `encode`).
        let pushed = unsafe { self.uring.submission().push(&entry) };
        assert!(
            pushed.is_ok(),
            "a submission queue with room refused an entry"
        );
        self.pushed = self.pushed.wrapping_add(1);
        true
    }

    /// The submission queue entry of a request, for the slot that comes next.
    fn encode(&mut self, request: Request) -> squeue::Entry {
        match request {
            Request::Receive {
                socket,
                token,
                expect,
            } => {
                let priority = if expect == Expect::Later {
                    RECEIVE_POLL_FIRST
                } else {
                    0
                };
                opcode::Recv::new(
                    Fd(socket),
                    std::ptr::null_mut(),
                    self.buffers.buffer_bytes(),
                )
                .buf_group(BUFFER_GROUP)
                .ioprio(priority)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
                .user_data(token.0)
            }
            Request::Accept { listener, token } => {
                opcode::Accept::new(Fd(listener), std::ptr::null_mut(), std::ptr::null_mut())
                    .flags(libc::SOCK_CLOEXEC)
                    .build()
                    .user_data(token.0)
            }
            Request::Poll {
                socket,
                mask,
                token,
            } => opcode::PollAdd::new(Fd(socket), mask as u32)
                .build()
                .user_data(token.0),
            Request::ReadCounter { eventfd, token } => {
                // All reads share the sink: nobody ever looks at it.
                opcode::Read::new(Fd(eventfd), self.counter_sink(), COUNTER_BYTES as u32)
                    .offset(u64::MAX)
                    .build()
                    .user_data(token.0)
            }
            Request::Timeout { after, token } => {
                let slot = self.timer_slot();
                // SAFETY: `timer_slot` is an aligned place inside `scratch` that no reference
                // points to. The kernel copies the value while it consumes the entry, and the slot
                // comes round again only after that.
                unsafe { slot.write(Timespec::from(after)) };
                opcode::Timeout::new(slot).build().user_data(token.0)
            }
            Request::Cancel { token } => {
                opcode::AsyncCancel2::new(CancelBuilder::user_data(token.0).all())
                    .build()
                    .user_data(SWALLOWED)
            }
        }
    }

    fn timer_slot(&self) -> *mut Timespec {
        let slot = (self.pushed & (self.submissions - 1)) as usize;
        // SAFETY: the queue's size is a power of two and `scratch` starts with a timer value for
        // each of its slots.
        unsafe { self.scratch.start().cast::<Timespec>().add(slot) }
    }

    fn counter_sink(&self) -> *mut u8 {
        // SAFETY: `scratch` ends with the sink, right behind the timer values.
        unsafe {
            self.scratch
                .start()
                .add(self.submissions as usize * size_of::<Timespec>())
        }
    }

    /// Whether entering the kernel would do anything at this moment.
    ///
    /// Leaving it out is safe: work that turns up later sets the flag again before anyone could
    /// wait for it, every way of waiting goes through the kernel, and the kernel runs pending work
    /// on any system call of this thread.
    fn needs_enter(&mut self) -> bool {
        let submissions = self.uring.submission();
        !submissions.is_empty() || submissions.taskrun() || submissions.cq_overflow()
    }

    /// One `io_uring_enter` that waits for nothing; returns how many entries the kernel took.
    fn enter(&mut self) -> io::Result<usize> {
        let queued = self.uring.submission().len() as u32;
        // SAFETY: no argument is passed, and the queued entries were checked by `push`.
        let entered = unsafe {
            self.uring.submitter().enter::<libc::sigset_t>(
                queued,
                0,
                EnterFlags::GETEVENTS.bits(),
                None,
            )
        };
        match entered {
            Err(error) if is_passing(&error) => Ok(0),
            entered => entered,
        }
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.uring.as_raw_fd()
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring's descriptor stays open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.uring.as_raw_fd()) }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("fd", &self.as_raw_fd())
            .field("submissions", &self.submissions)
            .field("buffers", &self.buffers.count())
            .field("buffer_bytes", &self.buffers.buffer_bytes())
            .field("backlog", &self.backlog.len())
            .finish()
    }
}

impl Drop for Ring {
    /// Cancels what is in flight, closes the ring, and only then unmaps the memory.
    ///
    /// Closing alone would not do. A parker's duplicate of the descriptor keeps the ring alive in the
    /// kernel, and a receive that got data then would write to whatever is mapped there next; and
    /// even without a duplicate the requests of a closed ring end only in the background. An accept
    /// that finished but was not collected leaves its descriptor open; cancel accepts and collect
    /// completions first.
    fn drop(&mut self) {
        let submitter = self.uring.submitter();
        let cancelled = submitter.register_sync_cancel(
            Some(Timespec::from(CANCEL_WAIT)),
            CancelBuilder::any().all(),
        );
        // Even a receive that escaped the cancel then finds no buffer to write to.
        let unregistered = submitter.unregister_buf_ring(BUFFER_GROUP);
        // SAFETY: `uring` is not used again.
        unsafe { ManuallyDrop::drop(&mut self.uring) };
        // ENOENT: nothing was in flight. EINVAL, ENOENT: `new` could not register the buffers, so
        // nothing was queued.
        let idle = ended_with(&cancelled, &[libc::ENOENT]);
        let detached = ended_with(&unregistered, &[libc::ENOENT, libc::EINVAL]);
        if idle && detached {
            // SAFETY: nothing is in flight and the ring is closed, so the kernel has no use for
            // this memory; the fields are not used again.
            unsafe {
                ManuallyDrop::drop(&mut self.buffers);
                ManuallyDrop::drop(&mut self.scratch);
            }
        }
    }
}

fn ended_with(result: &io::Result<()>, harmless: &[i32]) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => error
            .raw_os_error()
            .is_some_and(|code| harmless.contains(&code)),
    }
}

/// Errors of `io_uring_enter` after which entries are still queued and the next call goes on where
/// this one ended: a signal, a shortage of kernel memory, a completion queue that must be drained
/// first.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
    )
}

fn check_config(config: &RingConfig) -> Result<(), RingError> {
    let check = |field, value: u32, fits: bool, rule| {
        if fits {
            Ok(())
        } else {
            Err(RingError::Config { field, value, rule })
        }
    };
    let RingConfig {
        submissions,
        completions,
        buffers,
        buffer_bytes,
    } = *config;
    let fits = submissions.is_power_of_two() && submissions <= 32_768;
    check(
        "submissions",
        submissions,
        fits,
        "a power of two up to 32768",
    )?;
    let fits = completions.is_power_of_two() && completions <= 65_536 && completions >= submissions;
    check(
        "completions",
        completions,
        fits,
        "a power of two up to 65536 and not below submissions",
    )?;
    let fits = buffers.is_power_of_two() && buffers <= BUFFERS_MAX;
    check(
        "buffers",
        u32::from(buffers),
        fits,
        "a power of two up to 32768",
    )?;
    let fits = buffer_bytes > 0 && buffer_bytes <= 1 << 30;
    check(
        "buffer_bytes",
        buffer_bytes,
        fits,
        "between 1 byte and 1 GiB",
    )
}
