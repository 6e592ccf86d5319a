//! What can be wrong with a topology file, beside what can be wrong with any file of settings, and how that is said.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::draft::NAME_BYTES_MAX;

/// What is wrong with a topology file.
#[derive(Debug)]
pub enum WrongTopology {
    /// It names no node.
    NoNodes,
    /// A node stands there a second time; holds the line of the first, if that is clear.
    SameName { line: Option<usize> },
    /// A key stands there a second time.
    SameKey,
    /// A name that holds what it must not, or nothing.
    Name(String),
    /// A name that is too long; holds its bytes.
    LongName(usize),
    /// A name with a dot that stands without quotes; holds the whole name.
    DottedName(String),
    /// A tag or group that a node has twice.
    Repeated(String),
    /// A node has no address.
    NoAddress,
    /// An address that nodes cannot connect to.
    Address {
        /// What was given.
        given: String,
        /// Why not.
        reason: AddressReason,
    },
    /// Two nodes have one address.
    SameAddress {
        /// The address.
        address: SocketAddr,
        /// The node that had it first.
        other: String,
        /// Where.
        line: usize,
    },
    /// A parent that is no node of the file.
    UnknownParent {
        /// What was given.
        given: String,
        /// The nearest name there is, if one is near.
        nearest: Option<String>,
    },
    /// Parents that go round: the first names of the circle, each followed by its parent, and how many it has.
    Circle { names: Vec<String>, count: usize },
    /// Every node has a parent.
    NoRoot,
    /// A second node has no parent; holds the first, and its line.
    SecondRoot { root: String, line: usize },
    /// A node has more children than one can have.
    TooManyChildren {
        /// The node.
        parent: String,
        /// How many it has.
        count: usize,
        /// How many it can have.
        max: usize,
    },
    /// More hops from the root than there can be; holds how many there can be.
    TooDeep(usize),
    /// So many other things are wrong.
    More(usize),
}

/// Why nodes cannot connect to an address.
#[derive(Debug, PartialEq, Eq)]
pub enum AddressReason {
    /// It is not an IP address with a port.
    NotNumeric,
    /// An IP address, but no port.
    NoPort(IpAddr),
    /// The port is 0.
    PortZero,
    /// It is that of every network of a machine.
    EveryNetwork,
    /// It is that of many machines.
    Multicast,
}

impl fmt::Display for WrongTopology {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WrongTopology::NoNodes => write!(
                out,
                "the file has no node; begin with the root: [node.NAME], and below it address = \"10.0.0.1:7401\"."
            ),
            WrongTopology::SameName { line } => {
                write!(out, "this is there twice")?;
                if let Some(line) = line {
                    write!(out, ", first in line {line}")?;
                }
                write!(
                    out,
                    "; give one of the nodes another name, or join the two."
                )
            }
            WrongTopology::SameKey => {
                write!(out, "the key is there twice; keep one of them.")
            }
            WrongTopology::Name(given) => write!(
                out,
                "{given:?} is not a name; write letters, digits, '-', '_' and '.' alone, at least one of them."
            ),
            WrongTopology::LongName(bytes) => write!(
                out,
                "the name has {bytes} bytes, at most {NAME_BYTES_MAX} are allowed; shorten it."
            ),
            WrongTopology::DottedName(name) => write!(
                out,
                "a table within a node means nothing; a name that has a dot stands in quotes: [node.{name:?}]."
            ),
            WrongTopology::Repeated(name) => {
                write!(out, "{name:?} is in the list twice; remove one of them.")
            }
            WrongTopology::NoAddress => write!(
                out,
                "the node has no address; say where the other nodes connect to it, such as address = \"10.0.0.1:7401\"."
            ),
            WrongTopology::Address { given, reason } => write_address(out, given, reason),
            WrongTopology::SameAddress {
                address,
                other,
                line,
            } => write!(
                out,
                "{address} is also the address of {other} (line {line}); each node has one of its own, so change one of them."
            ),
            _ => self.write_shape(out),
        }
    }
}

impl WrongTopology {
    /// What is wrong with the shape of the tree.
    fn write_shape(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WrongTopology::UnknownParent { given, nearest } => {
                write!(out, "no node is called {given:?}; ")?;
                match nearest {
                    Some(nearest) => write!(out, "did you mean {nearest:?}?"),
                    None => write!(out, "write the name of another node of this file."),
                }
            }
            WrongTopology::Circle { names, count } => write_circle(out, names, *count),
            WrongTopology::NoRoot => write!(
                out,
                "every node has a parent, so there is no root; remove the parent of the node that is to be the root."
            ),
            WrongTopology::SecondRoot { root, line } => write!(
                out,
                "the node has no parent, but {root} (line {line}) is the root already; give one of them a parent, \
                 such as parent = {root:?} here."
            ),
            WrongTopology::TooManyChildren { parent, count, max } => write!(
                out,
                "{parent} has {count} children, and a node can have {max}; give some of them another parent."
            ),
            WrongTopology::TooDeep(max) => write!(
                out,
                "the node is more than {max} hops from the root; give it, or one above it, a parent nearer to the root."
            ),
            WrongTopology::More(count) => write!(
                out,
                "{count} more not listed; check again when these are right."
            ),
            _ => Ok(()),
        }
    }
}

fn write_circle(out: &mut fmt::Formatter<'_>, names: &[String], count: usize) -> fmt::Result {
    if let ([name], 1) = (names, count) {
        return write!(
            out,
            "{name} is its own parent; name another node, or none if it is the root."
        );
    }
    write!(out, "the parents go round in a circle: ")?;
    for name in names {
        write!(out, "{name}, ")?;
    }
    if count > names.len() {
        write!(out, "{} more, ", count - names.len())?;
    }
    write!(
        out,
        "and {} again; give one of them a parent outside of it, or none if it is the root.",
        names.first().map_or("", String::as_str)
    )
}

fn write_address(out: &mut fmt::Formatter<'_>, given: &str, reason: &AddressReason) -> fmt::Result {
    match reason {
        AddressReason::NotNumeric => write!(
            out,
            "{given:?} is not an IP address with a port; write one such as 10.0.0.1:7401 or [fd00::1]:7401. Names of \
             hosts may mean something else on each machine."
        ),
        AddressReason::NoPort(ip) => write!(
            out,
            "{given:?} has no port; write {}.",
            SocketAddr::new(*ip, 7401)
        ),
        AddressReason::PortZero => write!(
            out,
            "{given:?} has port 0, to which nobody can connect; write the port that the node listens on, such as 7401."
        ),
        AddressReason::EveryNetwork => write!(
            out,
            "{given:?} means every network of a machine, to which nobody can connect; write the address by which the \
             other nodes reach it, such as 10.0.0.1:7401."
        ),
        AddressReason::Multicast => write!(
            out,
            "{given:?} is an address of many machines; write that of one, such as 10.0.0.1:7401."
        ),
    }
}
