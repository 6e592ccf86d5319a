//! What can be wrong with a setting, and how that is said.
//!
//! A [`Problem`] is where the value came from and what is wrong with it. Its display is one line that names the place,
//! says what was wrong, and what would be right. Nothing here reads or judges a setting.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use sapwood_server::SecretError;

use super::topology::WrongTopology;

/// The place a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody gave it; holds the key.
    Default(&'static str),
    /// A flag, with its dashes.
    Flag(String),
    /// An environment variable.
    Env(String),
    /// A line of the configuration file, with the key it holds, or with none where the text is not TOML.
    File {
        /// As the user named it.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// With the table it stands in: `limits.outbox_bytes_max`.
        key: Option<String>,
    },
}

impl Source {
    /// The line of the file, or 0 for what does not stand in one, which sorts before.
    pub fn line(&self) -> usize {
        match self {
            Source::File { line, .. } => *line,
            Source::Default(_) | Source::Flag(_) | Source::Env(_) => 0,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default(key) => write!(out, "{key}"),
            Source::Flag(flag) => write!(out, "{flag}"),
            Source::Env(name) => write!(out, "{name} in the environment"),
            Source::File {
                path,
                line,
                key: Some(key),
            } => {
                write!(out, "{}:{line}: {key}", path.display())
            }
            Source::File {
                path,
                line,
                key: None,
            } => write!(out, "{}:{line}", path.display()),
        }
    }
}

/// One thing that is wrong with the configuration. Nothing was started or changed.
#[derive(Debug)]
pub struct Problem {
    /// Where it was said.
    pub source: Source,
    /// What is wrong with it.
    pub wrong: Wrong,
}

impl Problem {
    /// How many things are wrong: one, but for what stands for several.
    pub fn count(&self) -> usize {
        match &self.wrong {
            Wrong::Topology(WrongTopology::More(count)) => *count,
            _ => 1,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.source, self.wrong)
    }
}

/// What is wrong with a value, key or file.
#[derive(Debug)]
pub enum Wrong {
    /// The value is not UTF-8.
    NotUtf8,
    /// An address that cannot be read.
    Address {
        /// What was given.
        given: String,
        /// Why it cannot be read.
        reason: AddressReason,
        /// The port of a right one.
        usual_port: u16,
    },
    /// The address of a broker to connect to that cannot be read.
    Broker {
        /// What was given.
        given: String,
        /// Why it cannot be read.
        reason: AddressReason,
    },
    /// The address of another node that cannot be read.
    Node {
        /// What was given.
        given: String,
        /// Why it cannot be read.
        reason: AddressReason,
    },
    /// A number that is none, or is out of its range.
    Number {
        /// What was given.
        given: String,
        /// The least that is right.
        min: u64,
        /// The most that is right.
        max: u64,
        /// Whether `32 MiB` would be right too.
        size: bool,
    },
    /// A list of CPUs that cannot be read; holds the part that is wrong.
    CpuList {
        /// What was given.
        given: String,
        /// Why it cannot be read.
        reason: CpuReason,
    },
    /// More shards than CPUs to pin them to.
    TooFewCpus {
        /// Shards asked for.
        shards: usize,
        /// CPUs listed.
        cpus: usize,
    },
    /// A word that is none of those allowed.
    Choice {
        /// What was given.
        given: String,
        /// The words that are right.
        choices: &'static [&'static str],
    },
    /// A value of the file has the wrong TOML type.
    TomlType {
        /// The type it has.
        found: &'static str,
        /// What would be right, as it would be written.
        right: &'static str,
    },
    /// A key that means nothing.
    UnknownKey {
        /// The nearest key that does, if one is near.
        nearest: Option<String>,
        /// All the keys that do, there.
        known: Vec<&'static str>,
    },
    /// The text is not TOML; holds the parser's reason.
    NotToml(String),
    /// The file could not be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// The file is longer than any right one.
    TooLong {
        /// The file.
        path: PathBuf,
        /// How long it may be.
        bytes_max: u64,
    },
    /// The password is empty.
    EmptyPassword,
    /// `SAPWOOD_PASSWORD` and `SAPWOOD_PASSWORD_FILE` are both set.
    TwoPasswords,
    /// An origin is not written as browsers write it.
    Origin(String),
    /// A listener that other machines can reach, without a password; the flag that names it, and where it is.
    OpenToAll(&'static str, SocketAddr),
    /// Two settings that cannot both be there; holds where the other stands, and what the two have to do with each other.
    Excluded(Box<Source>, &'static str),
    /// An interval between heartbeats that cannot be read, or is out of its range; holds what was given.
    Heartbeat(String),
    /// A listener for nodes that other machines can reach, without a secret.
    NodesOpenToAll(SocketAddr),
    /// A node on another machine, without a secret.
    LinkOpenToAll(SocketAddr),
    /// Others are told of a listener for nodes that is off.
    NothingToAdvertise,
    /// The file of the tree has no node of this name.
    NotInTopology(Box<Absent>),
    /// The secret of all nodes is none.
    Secret(SecretError),
    /// Every listener is off.
    NothingListens,
    /// A command needs a broker to connect to, but the address is `off` or has port 0; holds the flag that names one and
    /// its usual value.
    NoAddressToAsk(&'static str, SocketAddr),
    /// A user without a password.
    UserWithoutPassword,
    /// The log filter cannot be read; holds the parser's reason.
    Filter(String),
    /// Something in a topology file.
    Topology(WrongTopology),
}

/// A name that no node of the tree's file has.
#[derive(Debug)]
pub struct Absent {
    /// The name.
    pub name: String,
    /// Whether somebody gave it; otherwise it is the host's.
    pub is_given: bool,
    /// The nearest name there is, if one is near.
    pub nearest: Option<String>,
    /// The name of the root.
    pub root: String,
}

/// Why an address cannot be read.
#[derive(Debug)]
pub enum AddressReason {
    /// There is no text.
    Empty,
    /// A port, but no host.
    NoHost(u16),
    /// An address, but no port.
    NoPort(IpAddr),
    /// A name, but no port.
    NamedWithoutPort,
    /// The port is 0, where nothing can be reached.
    ZeroPort,
    /// The port is not a number up to 65535.
    BadPort,
    /// The host is neither an address nor a name.
    BadHost,
    /// The name has no address.
    UnknownName(io::Error),
}

/// Why a header cannot be read.
#[derive(Debug)]
pub enum HeaderReason {
    /// No colon ends the name.
    NoColon,
    /// The name is empty, longer than 255 bytes, or holds a byte that it must not hold.
    BadName,
    /// The value holds a line break or a NUL.
    BadValue,
}

/// Why a list of CPUs cannot be read.
#[derive(Debug)]
pub enum CpuReason {
    /// There is no CPU in it.
    Empty,
    /// A part that is neither a number nor a range.
    NotANumber(String),
    /// A range whose end is before its start.
    Backwards(usize, usize),
    /// A number above any CPU's.
    TooHigh(usize),
    /// A CPU that is there twice.
    Twice(usize),
}

/// What is wrong with the value of an option that only a flag gives.
#[derive(Debug)]
pub enum WrongOption {
    /// A time that cannot be read, or is out of range.
    Time {
        /// What was given.
        given: String,
        /// The longest that is right.
        max: Duration,
    },
    /// A rate that cannot be read.
    Rate(String),
    /// A header that is none; holds what was given, and why.
    Header(String, HeaderReason),
    /// A backslash in a separator that means nothing; holds what follows it.
    Escape(String),
}

/// How a secret for all nodes is made.
const MAKE_SECRET: &str = "head -c 32 /dev/urandom | base64 > secret";

/// What is to be done where nodes need a secret.
const GIVE_SECRET: &str =
    "make a secret, copy it to every node, and name its file with --cluster-secret-file FILE";

const NOTHING_LISTENS: &str = "every listener is off, so nobody could connect; give --redis an address, such as \
    127.0.0.1:7463, or --native one.";

const USER_WITHOUT_PASSWORD: &str =
    "a user is of no use without a password; set SAPWOOD_PASSWORD or --password-file too";

impl fmt::Display for Wrong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::NotUtf8 => write!(out, "the value is not UTF-8 text."),
            Wrong::Address { .. } | Wrong::Broker { .. } | Wrong::Node { .. } => {
                self.write_of_addresses(out)
            }
            Wrong::Number {
                given,
                min,
                max,
                size,
            } => write_number(out, given, *min, *max, *size),
            Wrong::CpuList { given, reason } => write_cpu_list(out, given, reason),
            Wrong::TooFewCpus { shards, cpus } => write!(
                out,
                "{shards} shards need {shards} CPUs, but cpus lists {cpus}; list more, or ask for at most {cpus} shards."
            ),
            Wrong::Choice { given, choices } => {
                write!(out, "{given:?} is not one of: {}.", choices.join(", "))
            }
            Wrong::TomlType { found, right } => {
                write!(out, "{found} does not fit here; write {right}.")
            }
            Wrong::UnknownKey { nearest, known } => {
                write_unknown_key(out, nearest.as_deref(), known)
            }
            Wrong::NotToml(reason) => write!(out, "this is not TOML: {reason}."),
            Wrong::Unreadable { path, error } => {
                write!(out, "cannot read {}: {error}.", path.display())
            }
            Wrong::TooLong { path, bytes_max } => write!(
                out,
                "{} is longer than {bytes_max} bytes; is it the right file?",
                path.display()
            ),
            Wrong::EmptyPassword => {
                write!(
                    out,
                    "the password is empty; give one, or none at all to let everybody in on loopback."
                )
            }
            Wrong::TwoPasswords => {
                write!(
                    out,
                    "SAPWOOD_PASSWORD_FILE is set too, and only one can hold the password; unset one of them."
                )
            }
            Wrong::Origin(given) => write_origin(out, given),
            Wrong::OpenToAll(flag, address) => write_open_to_all(out, flag, *address),
            Wrong::NothingListens => out.write_str(NOTHING_LISTENS),
            Wrong::UserWithoutPassword => out.write_str(USER_WITHOUT_PASSWORD),
            Wrong::NoAddressToAsk(flag, usual) => write!(
                out,
                "there is no broker to ask at this address; give the one that `sapwood serve` printed, such as {flag} {usual}."
            ),
            Wrong::Topology(wrong) => write!(out, "{wrong}"),
            Wrong::Filter(reason) => write!(
                out,
                "the log filter cannot be read ({reason}); write a level such as info or debug, or target=level,target=level."
            ),
            _ => self.write_of_nodes(out),
        }
    }
}

impl Wrong {
    /// What is wrong with an address.
    fn write_of_addresses(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Address {
                given,
                reason,
                usual_port,
            } => write_address(out, given, reason, (*usual_port, ", or off")),
            Wrong::Broker { given, reason } => write_address(out, given, reason, (7400, "")),
            Wrong::Node { given, reason } => write_address(out, given, reason, (7401, "")),
            _ => Ok(()),
        }
    }

    /// What is wrong with the settings by which nodes form a tree.
    fn write_of_nodes(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Heartbeat(given) => write!(
                out,
                "{given:?} is not a time from 100ms to 60s, such as 250ms, 1s or a number of milliseconds."
            ),
            Wrong::Secret(error) => write!(out, "{error}; make one with: {MAKE_SECRET}"),
            Wrong::Excluded(other, why) => write!(
                out,
                "{} is given too, and {why}; leave one of the two out.",
                other.to_string().trim_end_matches(':')
            ),
            Wrong::NodesOpenToAll(address) => write!(
                out,
                "{address} can be reached from other machines, and no secret is set, so everybody could become a node \
                 and read and write everything. Either listen on this machine alone (--node 127.0.0.1:{port}), or \
                 {GIVE_SECRET} ({MAKE_SECRET}).",
                port = address.port()
            ),
            Wrong::LinkOpenToAll(address) => write!(
                out,
                "{address} is on another machine, and no secret is set, so everybody on the way could read and change \
                 everything; {GIVE_SECRET} ({MAKE_SECRET})."
            ),
            Wrong::NothingToAdvertise => write!(
                out,
                "this node takes in no others, so there is nothing to tell them; give --node an address such as \
                 127.0.0.1:7401, or leave this out."
            ),
            Wrong::NotInTopology(absent) => write_absent(out, absent),
            _ => Ok(()),
        }
    }
}

fn write_absent(out: &mut fmt::Formatter<'_>, absent: &Absent) -> fmt::Result {
    let Absent {
        name,
        is_given,
        nearest,
        root,
    } = absent;
    if !is_given {
        return write!(
            out,
            "the file has no node with this machine's name, {name:?}; say which of its nodes this is, such as \
             --node-name {}.",
            nearest.as_ref().unwrap_or(root)
        );
    }
    write!(out, "the tree's file has no node {name:?}; ")?;
    match nearest {
        Some(nearest) => write!(out, "did you mean {nearest:?}?"),
        None => write!(
            out,
            "name one that it has, such as its root {root:?}; `sapwood check` shows all."
        ),
    }
}

fn write_origin(out: &mut fmt::Formatter<'_>, given: &str) -> fmt::Result {
    write!(
        out,
        "{given:?} is no origin; write https://example.org or http://127.0.0.1:3000, without a path, or * for any."
    )
}

fn write_number(
    out: &mut fmt::Formatter<'_>,
    given: &str,
    min: u64,
    max: u64,
    size: bool,
) -> fmt::Result {
    write!(out, "{given:?} is not a whole number from {min} to {max}")?;
    match size {
        true => write!(out, "; a size may also be written as \"32 MiB\"."),
        false => write!(out, "."),
    }
}

fn write_unknown_key(
    out: &mut fmt::Formatter<'_>,
    nearest: Option<&str>,
    known: &[&str],
) -> fmt::Result {
    write!(out, "there is no such key; ")?;
    match nearest {
        Some(nearest) => write!(out, "did you mean {nearest}?"),
        None => write!(out, "the keys here are: {}.", known.join(", ")),
    }
}

fn write_open_to_all(out: &mut fmt::Formatter<'_>, flag: &str, address: SocketAddr) -> fmt::Result {
    write!(
        out,
        "{address} can be reached from other machines, and no password is set, so everybody could read and \
         write everything. Either listen on this machine alone ({flag} 127.0.0.1:{port}), or set a password \
         (--password-file FILE, or SAPWOOD_PASSWORD in the environment).",
        port = address.port()
    )
}

/// Says what is wrong with an address. The last of the arguments is the port in what would be right, and what else would be.
fn write_address(
    out: &mut fmt::Formatter<'_>,
    given: &str,
    reason: &AddressReason,
    (port, or_off): (u16, &str),
) -> fmt::Result {
    match reason {
        AddressReason::Empty => write!(out, "the address is empty")?,
        AddressReason::NoHost(port) => {
            return write!(
                out,
                "{given:?} does not say on which address; write 127.0.0.1:{port} for this machine alone, or \
                 0.0.0.0:{port} for every network."
            );
        }
        AddressReason::NoPort(ip) => {
            return write!(
                out,
                "{given:?} has no port; write {}.",
                SocketAddr::new(*ip, port)
            );
        }
        AddressReason::NamedWithoutPort => {
            return write!(out, "{given:?} has no port; write {given}:{port}{or_off}.");
        }
        AddressReason::ZeroPort => {
            write!(out, "{given:?} has port 0, where nobody can be reached")?;
        }
        AddressReason::BadPort => {
            write!(out, "{given:?} does not end in a port from 0 to 65535")?;
        }
        AddressReason::BadHost => write!(out, "{given:?} is not an address")?,
        AddressReason::UnknownName(error) => {
            return write!(
                out,
                "the name in {given:?} has no address here ({error}); write the address itself, such as 127.0.0.1:{port}."
            );
        }
    }
    write!(
        out,
        "; write HOST:PORT such as 127.0.0.1:{port} or [::1]:{port}, a port such as {port}{or_off}."
    )
}

fn write_cpu_list(out: &mut fmt::Formatter<'_>, given: &str, reason: &CpuReason) -> fmt::Result {
    write!(out, "{given:?} is not a list of CPUs: ")?;
    match reason {
        CpuReason::Empty => write!(out, "it is empty")?,
        CpuReason::NotANumber(part) => write!(out, "{part:?} is neither a number nor a range")?,
        CpuReason::Backwards(first, last) => write!(out, "{first}-{last} runs backwards")?,
        CpuReason::TooHigh(cpu) => write!(out, "no machine has a CPU {cpu}")?,
        CpuReason::Twice(cpu) => write!(out, "{cpu} is there twice")?,
    }
    write!(out, "; write for example 0-3,6.")
}

impl fmt::Display for WrongOption {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WrongOption::Time { given, max } => write!(
                out,
                "{given:?} is not a time above zero and up to {} h; write 2s, 500ms, 250us, 5m or 1h.",
                max.as_secs() / 3_600
            ),
            WrongOption::Rate(given) => write!(
                out,
                "{given:?} is not a rate; write events for each second such as 1000, or 1000/s, 90/m or 5/h."
            ),
            WrongOption::Header(given, reason) => write_header(out, given, reason),
            WrongOption::Escape(after) => write!(
                out,
                "\\{after} means nothing here; write \\n, \\r, \\t, \\0, \\\\ or \\x and two hexadecimal digits."
            ),
        }
    }
}

fn write_header(out: &mut fmt::Formatter<'_>, given: &str, reason: &HeaderReason) -> fmt::Result {
    match reason {
        HeaderReason::NoColon => write!(out, "{given:?} has no colon")?,
        HeaderReason::BadName => write!(
            out,
            "the name in {given:?} is not 1 to 255 printable ASCII characters without spaces"
        )?,
        HeaderReason::BadValue => {
            write!(out, "the value in {given:?} holds a line break or a NUL")?
        }
    }
    write!(out, "; write a header as 'name: value'.")
}
