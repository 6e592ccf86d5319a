//! The task that moves bytes between a socket and the machine.
//!
//! Owns the socket, the read buffer and the timer. Must not know what the bytes mean. One task does it all, so a read, what
//! it leads to and the next write need no hand-over. Invariants: nothing here waits while it holds the hub's lock; a
//! poll does a bounded amount of work; if the task is dropped with its runtime, everybody who waits is told.

use crate::error::{CloseReason, Disconnect};
use crate::hub::{Busy, Hub, Order, Wait};
use crate::limits::{READ_BYTES, READ_BYTES_KEPT_MAX};
use crate::machine::{Action, Transmit};
use bytes::BytesMut;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// Rounds of one poll: other tasks of the thread wait meanwhile, at some 50 us a round.
const ROUNDS_MAX: usize = 16;

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

enum Socket {
    None,
    Connecting(Connecting),
    Connected(TcpStream),
}

/// Whether something was done, so that another round may find more to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Made,
    None,
}

/// See the module.
pub(super) struct Driver {
    hub: Arc<Hub>,
    addresses: Vec<String>,
    socket: Socket,
    transmit: Transmit,
    input: BytesMut,
    timer: Pin<Box<Sleep>>,
}

impl Driver {
    pub(super) fn new(hub: Arc<Hub>) -> Driver {
        let addresses = hub.machine(|machine| machine.config().addresses.clone());
        Driver {
            hub,
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

    /// The connection is gone.
    fn end(&mut self, reason: Disconnect) {
        self.socket = Socket::None;
        self.input = BytesMut::new();
        self.hub.handle_disconnected(&mut self.transmit, reason);
    }

    fn poll_connect(&mut self, cx: &mut Context<'_>) -> Progress {
        let Socket::Connecting(connecting) = &mut self.socket else {
            return Progress::None;
        };
        match connecting.as_mut().poll(cx) {
            Poll::Pending => return Progress::None,
            // Frames are written together already; waiting for more would only delay them.
            Poll::Ready(Ok(stream)) => match stream.set_nodelay(true) {
                Ok(()) => {
                    self.socket = Socket::Connected(stream);
                    self.hub.handle_connected();
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
                    self.hub.handle_bytes(&mut self.input);
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

    /// Says whether to go on at once.
    fn poll_park(&mut self, cx: &mut Context<'_>, order: &Order) -> Poll<()> {
        let wait = Wait {
            is_writing: !self.transmit.is_written(),
            reads: Some(order.reads),
            deadline: None,
        };
        let deadline = match self.hub.park(cx.waker(), wait) {
            Err(Busy) => return Poll::Ready(()),
            Ok(None) => return Poll::Pending,
            Ok(Some(deadline)) => self.hub.instant(deadline).map(Instant::from_std),
        };
        let Some(deadline) = deadline else {
            return Poll::Pending;
        };
        // Deadlines mostly move away, and setting a timer costs more than one that fires early now and then.
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
            let order = driver.hub.drive(&mut driver.transmit);
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
    /// The runtime ends, or the client has closed.
    fn drop(&mut self) {
        self.hub
            .machine(|machine| machine.close(CloseReason::Closed));
        self.end(Disconnect::Closed);
    }
}
