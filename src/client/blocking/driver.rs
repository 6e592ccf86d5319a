//! The two threads that move bytes between a socket and the machine.
//!
//! Owns the socket. Must not know what the bytes mean. One thread connects, writes and keeps time; each connection has
//! another thread that reads. While the first one resolves a name or connects, which `connect_timeout` and the system's
//! resolver bound, `close` has to wait. Invariants: the reader ends before its connection does; a write times out
//! regularly, so that deadlines are kept while the socket takes nothing; the lock of `Shared` is never held across a
//! system call.

use super::park;
use crate::error::{CloseReason, Disconnect};
use crate::limits::{READ_BYTES, READ_BYTES_KEPT_MAX};
use crate::machine::{Action, Transmit};
use crate::shared::{Busy, Shared, Wait};
use bytes::BytesMut;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a write may block before the thread checks its deadlines, which are seconds.
const WRITE_TIMEOUT: Duration = Duration::from_millis(200);

/// State shared by the reader and the writer of a connection.
#[derive(Debug, Default)]
struct Ending {
    /// The writer asks the reader to end.
    is_over: AtomicBool,
    /// The reason why the reader has ended.
    reason: Mutex<Option<Disconnect>>,
}

struct Connection {
    stream: TcpStream,
    ending: Arc<Ending>,
    reader: JoinHandle<()>,
}

/// The writing thread, see the module.
pub(super) struct Driver {
    shared: Arc<Shared>,
    addresses: Vec<String>,
    connect_timeout: Duration,
    connection: Option<Connection>,
    transmit: Transmit,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>) -> Driver {
        let (addresses, connect_timeout) = shared.machine(|machine| {
            let config = machine.config();
            (config.addresses.clone(), config.connect_timeout)
        });
        Driver {
            shared,
            addresses,
            connect_timeout,
            connection: None,
            transmit: Transmit::default(),
        }
    }

    /// Runs until the client is closed.
    pub(super) fn run(mut self) {
        // Ends when the client is closed, at the latest with its last handle.
        loop {
            let order = self.shared.drive(&mut self.transmit);
            if order.is_closed {
                return;
            }
            if let Some(action) = order.action {
                self.act(action);
            } else if let Some(reason) = self.reader_ended() {
                self.end(reason);
            } else if self.connection.is_some() && !self.transmit.is_written() {
                self.write();
            } else {
                self.park();
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Connect { address } => {
                let connected = connect(&self.addresses[address], self.connect_timeout)
                    .and_then(|stream| self.begin(stream));
                match connected {
                    Ok(connection) => {
                        self.connection = Some(connection);
                        self.shared.handle_connected();
                    }
                    Err(error) => self.end(error.into()),
                }
            }
            Action::Disconnect => self.end(Disconnect::Closed),
        }
    }

    /// Starts the reader thread of a connection.
    fn begin(&self, stream: TcpStream) -> io::Result<Connection> {
        // Frames are already batched, so Nagle's algorithm would only delay them.
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let ending = Arc::new(Ending::default());
        let reader = Reader {
            shared: self.shared.clone(),
            stream: stream.try_clone()?,
            ending: ending.clone(),
            writer: park::thread_waker(),
        };
        let reader = thread::Builder::new()
            .name("sapwood-read".to_string())
            .spawn(move || reader.run())?;
        Ok(Connection {
            stream,
            ending,
            reader,
        })
    }

    fn reader_ended(&self) -> Option<Disconnect> {
        let ending = &self.connection.as_ref()?.ending;
        ending
            .reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Ends the connection.
    fn end(&mut self, reason: Disconnect) {
        if let Some(connection) = self.connection.take() {
            connection.ending.is_over.store(true, Ordering::Release);
            // Fails if the other side has closed it, which is as good.
            let _ = connection.stream.shutdown(Shutdown::Both);
            connection.reader.thread().unpark();
            // Fails if the reader panicked, which its own message has reported.
            let _ = connection.reader.join();
        }
        self.shared.handle_disconnected(&mut self.transmit, reason);
    }

    fn write(&mut self) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        match connection.stream.write(self.transmit.bytes()) {
            Ok(written) => self.transmit.advance(written),
            Err(error) if is_patient(error.kind()) => {}
            Err(error) => self.end(error.into()),
        }
    }

    fn park(&mut self) {
        let parked = self.shared.park(&park::thread_waker(), Wait::default());
        match parked {
            Err(Busy) => {}
            Ok(None) => thread::park(),
            Ok(Some(deadline)) => {
                let left = deadline.saturating_sub(self.shared.now());
                thread::park_timeout(left);
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared
            .machine(|machine| machine.close(CloseReason::Closed));
        self.end(Disconnect::Closed);
    }
}

/// Whether a read or write failed only because it should be retried.
fn is_patient(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Connects to the first of a name's addresses that accepts.
fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + timeout;
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

struct Reader {
    shared: Arc<Shared>,
    stream: TcpStream,
    ending: Arc<Ending>,
    writer: Waker,
}

impl Reader {
    fn run(mut self) {
        let reason = self.read();
        *self
            .ending
            .reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(reason);
        self.writer.wake_by_ref();
    }

    fn is_over(&self) -> bool {
        self.ending.is_over.load(Ordering::Acquire)
    }

    fn read(&mut self) -> Disconnect {
        let mut read = vec![0; READ_BYTES];
        let mut input = BytesMut::new();
        // Ends with the connection, on either side.
        loop {
            park::wait(|cx| match self.is_over() {
                true => Poll::Ready(()),
                false => self.shared.poll_reads(cx),
            });
            if self.is_over() {
                return Disconnect::Closed;
            }
            match self.stream.read(&mut read) {
                Ok(0) => return Disconnect::ClosedByBroker,
                Ok(length) => {
                    if input.is_empty() && input.capacity() > READ_BYTES_KEPT_MAX {
                        input = BytesMut::new();
                    }
                    input.extend_from_slice(&read[..length]);
                    self.shared.handle_bytes(&mut input);
                }
                Err(error) if is_patient(error.kind()) => {}
                Err(error) => return error.into(),
            }
        }
    }
}
