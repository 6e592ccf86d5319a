//! The task that moves bytes between a socket and the machine.
//!
//! Owns the socket, the read buffer and the timer. Must not know what the bytes mean. One task does everything, so a
//! read, its effects and the next write need no hand-over. Invariants: the lock of `Shared` is never held across a
//! wait; a poll does a bounded amount of work; if the task is dropped with its runtime, all waiters are told.

use crate::error::{CloseReason, Disconnect};
use crate::limits::{READ_BYTES, READ_BYTES_KEPT_MAX};
use crate::machine::{Action, Transmit};
use crate::shared::{Busy, Order, Shared, Wait};
use bytes::BytesMut;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// Rounds of one poll, some 50 us each: other tasks of the thread wait meanwhile.
const ROUNDS_MAX: usize = 16;

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

enum Socket {
    None,
    Connecting(Connecting),
    Connected(TcpStream),
}

/// Whether a round did something, so that another may find more to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Made,
    None,
}

/// The driver task, see the module.
pub(super) struct Driver {
    shared: Arc<Shared>,
    addresses: Vec<String>,
    socket: Socket,
    transmit: Transmit,
    input: BytesMut,
    timer: Pin<Box<Sleep>>,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>) -> Driver {
        let addresses = shared.machine(|machine| machine.config().addresses.clone());
        Driver {
            shared,
            addresses,
            socket: Socket::None,
            transmit: Transmit::default(),
            input: BytesMut::new(),
            timer: Box::pin(tokio::time::sleep_until(Instant::now())),
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Connect { address } => {
                let address = self.addresses[address].clone();
                self.socket = Socket::Connecting(Box::pin(TcpStream::connect(address)));
            }
            Action::Disconnect => self.end(Disconnect::Closed),
        }
    }

    /// Ends the connection.
    fn end(&mut self, reason: Disconnect) {
        self.socket = Socket::None;
        self.input = BytesMut::new();
        self.shared.handle_disconnected(&mut self.transmit, reason);
    }

    fn poll_connect(&mut self, cx: &mut Context<'_>) -> Progress {
        let Socket::Connecting(connecting) = &mut self.socket else {
            return Progress::None;
        };
        match connecting.as_mut().poll(cx) {
            Poll::Pending => return Progress::None,
            // Frames are already batched, so Nagle's algorithm would only delay them.
            Poll::Ready(Ok(stream)) => match stream.set_nodelay(true) {
                Ok(()) => {
                    self.socket = Socket::Connected(stream);
                    self.shared.handle_connected();
                }
                Err(error) => self.end(error.into()),
            },
            Poll::Ready(Err(error)) => self.end(error.into()),
        }
        Progress::Made
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Progress {
        let Socket::Connected(stream) = &mut self.socket else {
            return Progress::None;
        };
        if self.transmit.is_written() {
            return Progress::None;
        }
        // Ends because each round waits, ends the connection or writes.
        while let Poll::Ready(ready) = stream.poll_write_ready(cx) {
            match ready.and_then(|()| stream.try_write(self.transmit.bytes())) {
                Ok(written) => {
                    self.transmit.advance(written);
                    if self.transmit.is_written() {
                        return Progress::Made;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.end(error.into());
                    return Progress::Made;
                }
            }
        }
        Progress::None
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Progress {
        let Socket::Connected(stream) = &mut self.socket else {
            return Progress::None;
        };
        if self.input.is_empty() && self.input.capacity() > READ_BYTES_KEPT_MAX {
            self.input = BytesMut::new();
        }
        if self.input.capacity() - self.input.len() < READ_BYTES / 2 {
            self.input.reserve(READ_BYTES);
        }
        // Ends because each round waits, ends the connection or returns.
        while let Poll::Ready(ready) = stream.poll_read_ready(cx) {
            match ready.and_then(|()| stream.try_read_buf(&mut self.input)) {
                Ok(0) => {
                    self.end(Disconnect::ClosedByBroker);
                    return Progress::Made;
                }
                Ok(_) => {
                    self.shared.handle_bytes(&mut self.input);
                    return Progress::Made;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.end(error.into());
                    return Progress::Made;
                }
            }
        }
        Progress::None
    }

    /// Parks the driver. Ready if it must go on at once.
    fn poll_park(&mut self, cx: &mut Context<'_>, order: &Order) -> Poll<()> {
        let wait = Wait {
            is_writing: !self.transmit.is_written(),
            reads: Some(order.reads),
            deadline: None,
        };
        let deadline = match self.shared.park(cx.waker(), wait) {
            Err(Busy) => return Poll::Ready(()),
            Ok(None) => return Poll::Pending,
            Ok(Some(deadline)) => self.shared.instant(deadline).map(Instant::from_std),
        };
        let Some(deadline) = deadline else {
            return Poll::Pending;
        };
        // Deadlines mostly move later, and setting a timer costs more than one that fires early now and then.
        if self.timer.is_elapsed() || deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(cx)
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = &mut *self;
        for _ in 0..ROUNDS_MAX {
            let order = driver.shared.drive(&mut driver.transmit);
            if order.is_closed {
                return Poll::Ready(());
            }
            if let Some(action) = order.action {
                driver.act(action);
                continue;
            }
            let connected = driver.poll_connect(cx);
            let written = driver.poll_write(cx);
            let read = match order.reads {
                true => driver.poll_read(cx),
                false => Progress::None,
            };
            if [connected, written, read].contains(&Progress::Made) {
                continue;
            }
            if driver.poll_park(cx, &order).is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Driver {
    /// Closes the client when the runtime ends. Does nothing if it is already closed.
    fn drop(&mut self) {
        self.shared
            .machine(|machine| machine.close(CloseReason::Closed));
        self.end(Disconnect::Closed);
    }
}
