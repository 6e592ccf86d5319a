//! Where what is published comes from: an argument, a file, stdin; whole, or each line an event.
//!
//! Payloads are bytes: nothing is decoded, added or trimmed, but for the line ends that separate events.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use sapwood_client::Outgoing;

use super::Failure;
use super::quantity::{self, Header};
use super::trouble::Trouble;

/// The longest payload that the protocol has. A broker may take less, and says so itself.
pub const PAYLOAD_BYTES_MAX: u64 = 64 << 20;

/// How much of a file or of stdin is read at once: as much as a pipe holds.
const READ_BYTES: usize = 64 * 1024;

/// The flags of what is published.
#[derive(Args, Debug, Default)]
pub struct PayloadArgs {
    /// The payload; without it and without --file, stdin is read to its end
    message: Option<OsString>,
    /// Take the payload from this file, - is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "message")]
    file: Option<PathBuf>,
    /// Add a header; can be given again
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = quantity::flag(quantity::parse_header))]
    header: Vec<Header>,
}

impl PayloadArgs {
    /// A message to this topic with the headers that were given.
    pub fn outgoing<'a>(&'a self, topic: &'a str, payload: &'a [u8]) -> Outgoing<'a> {
        with_headers(Outgoing::new(topic, payload), &self.header)
    }

    /// Reads the whole payload.
    pub fn read(&self) -> Result<Vec<u8>, Failure> {
        if let Some(message) = &self.message {
            return Ok(message.as_bytes().to_vec());
        }
        let source = self.open()?;
        let mut payload = Vec::new();
        let mut capped = source.reader.take(PAYLOAD_BYTES_MAX + 1);
        match capped.read_to_end(&mut payload) {
            Ok(length) if length as u64 > PAYLOAD_BYTES_MAX => {
                Err(Failure::Client(Trouble::TooLong(PAYLOAD_BYTES_MAX)))
            }
            Ok(_) => Ok(payload),
            Err(error) => Err(Failure::Client(Trouble::Input(source.path, error))),
        }
    }

    /// Opens the file or stdin, to be read line by line.
    pub fn lines(&self) -> Result<Lines, Failure> {
        let source = self.open()?;
        Ok(Lines {
            source,
            line: Vec::new(),
        })
    }

    fn open(&self) -> Result<Source, Failure> {
        let path = self.file.clone().filter(|path| path.as_os_str() != "-");
        let opened = match &path {
            Some(path) => File::open(path),
            // Somebody who typed the command and forgot the message would wait for ever without knowing why.
            None if self.file.is_none() && io::stdin().is_terminal() => {
                return Err(Failure::Client(Trouble::NoMessage));
            }
            None => io::stdin().as_fd().try_clone_to_owned().map(File::from),
        };
        match opened {
            Ok(file) => Ok(Source {
                path,
                reader: BufReader::with_capacity(READ_BYTES, file),
            }),
            Err(error) => Err(Failure::Client(Trouble::Input(path, error))),
        }
    }
}

/// Adds headers to a message.
pub fn with_headers<'a>(mut message: Outgoing<'a>, headers: &'a [Header]) -> Outgoing<'a> {
    for Header { name, value } in headers {
        message = message.header(name, value);
    }
    message
}

struct Source {
    path: Option<PathBuf>,
    reader: BufReader<File>,
}

/// The lines of a file or of stdin, each as soon as it is there.
pub struct Lines {
    source: Source,
    line: Vec<u8>,
}

impl Lines {
    /// The next line without its `\n`; none at the end. A last line needs no `\n`.
    pub fn next(&mut self) -> Result<Option<&[u8]>, Failure> {
        let Lines { source, line } = self;
        line.clear();
        let mut capped = source.reader.by_ref().take(PAYLOAD_BYTES_MAX + 1);
        match capped.read_until(b'\n', line) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(Failure::Client(Trouble::Input(source.path.clone(), error))),
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() as u64 > PAYLOAD_BYTES_MAX {
            return Err(Failure::Client(Trouble::TooLong(PAYLOAD_BYTES_MAX)));
        }
        Ok(Some(line))
    }
}
