//! Stdout for commands that print much: gathered and written in large pieces, and its end noticed.
//!
//! A reader that goes away, such as `head`, is no error: the command ends as if it had been asked to.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use super::Failure;
use super::trouble::Trouble;

/// How much is gathered before it is written even though more waits: what a pipe takes at once.
const WRITE_BYTES: usize = 64 * 1024;

/// Break: nobody reads any more.
pub type Flow = ControlFlow<()>;

/// See the module. What is pushed and not flushed is lost.
pub struct Output {
    stdout: File,
    /// What is to be written.
    pub buffer: Vec<u8>,
}

impl Output {
    /// Stdout, without the line buffer that the standard library puts before it.
    pub fn new() -> Result<Output, Failure> {
        let stdout = io::stdout().as_fd().try_clone_to_owned();
        let stdout = stdout.map_err(|error| Failure::Client(Trouble::Output(error)))?;
        Ok(Output {
            stdout: File::from(stdout),
            buffer: Vec::with_capacity(WRITE_BYTES),
        })
    }

    /// Writes if much has been gathered.
    pub fn write_if_much(&mut self) -> Result<Flow, Failure> {
        match self.buffer.len() >= WRITE_BYTES {
            true => self.flush(),
            false => Ok(Flow::Continue(())),
        }
    }

    /// Writes what has been gathered.
    pub fn flush(&mut self) -> Result<Flow, Failure> {
        if self.buffer.is_empty() {
            return Ok(Flow::Continue(()));
        }
        let written = self.stdout.write_all(&self.buffer);
        self.buffer.clear();
        match written {
            Ok(()) => Ok(Flow::Continue(())),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Flow::Break(())),
            Err(error) => Err(Failure::Client(Trouble::Output(error))),
        }
    }
}
