//! What nodes say to each other: frames of rkyv archives behind a header of our own.
//!
//! rkyv carries no schema and does not notice a wrong one, so the header says what stands behind it, and its
//! checksum covers both. A kind names one struct that never changes: a change is a new kind. `NODE.md` beside this
//! file specifies the protocol. Owns the header and the kinds; must not know links, lanes or the tree. Start at
//! [`parse`] and [`write_frame`].

use crate::limits::NODE_FRAME_BYTES_MAX;
use std::fmt;

mod archive;
pub mod events;
pub mod hello;
pub mod interest;
pub mod place;
pub mod seal;

/// Oldest and newest version of the protocol that this build speaks.
pub const VERSIONS: (u8, u8) = (1, 1);

/// A header: [`MAGIC`], version (1 byte), kind (1), flags (2), reserved and zero (2), length of the body (4), crc32c of
/// the twelve bytes before and the body (4). Numbers are little-endian.
pub const HEADER_BYTES: usize = 16;

/// What each frame begins with.
pub const MAGIC: [u8; 2] = *b"Sw";

/// A node's random number, for ever if it has a data directory, else until it ends. People see 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A whole frame whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What its body is: one of the constants of [`kind`], unless the peer is newer.
    pub kind: u8,
    /// Bits that the kind gives a meaning.
    pub flags: u16,
    /// The archive.
    pub body: &'a [u8],
}

/// What stands at the start of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A frame, and how many bytes it takes.
    Frame(Frame<'a>, usize),
    /// Nothing whole: of use once so many bytes stand; before, only a wrong start is noticed.
    Incomplete {
        /// At least one more than stand.
        needed: usize,
    },
}

/// Why bytes are no frame, or a frame not what its kind says. The connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// It begins with other bytes; holds the first that is wrong, however many stand.
    Magic(u8),
    /// Its version is not the one agreed on.
    Version(u8),
    /// The reserved bytes are not zero.
    Reserved(u16),
    /// The body would be longer than one may be here.
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The most that is allowed here.
        cap: usize,
    },
    /// The checksum differs.
    Checksum,
    /// Nothing of this kind is known, or it must not stand here.
    Kind(u8),
    /// The body is no archive of what the kind says, or holds what it must not: names the field.
    Body(u8, &'static str),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Magic(byte) => {
                write!(f, "a frame begins with {MAGIC:02x?}, not with {byte:#04x}")
            }
            FrameError::Version(version) => {
                write!(f, "a frame of version {version}, which was not agreed on")
            }
            FrameError::Reserved(bits) => write!(
                f,
                "reserved bytes of a frame's header are {bits:#06x}, not zero"
            ),
            FrameError::TooLong { length, cap } => {
                write!(
                    f,
                    "a frame's body has {length} bytes, at most {cap} are allowed here"
                )
            }
            FrameError::Checksum => write!(f, "a frame's checksum is wrong"),
            FrameError::Kind(kind) => write!(f, "a frame of kind {kind:#04x} is not known here"),
            FrameError::Body(kind, field) => {
                write!(f, "a frame of kind {kind:#04x} has a wrong {field}")
            }
        }
    }
}

impl std::error::Error for FrameError {}

/// Finds the frame at the start of the input. `body_max` is the longest body that is acceptable now.
///
/// Cost: the checksum, about 0.1 ns a byte.
pub fn parse(input: &[u8], version: u8, body_max: usize) -> Result<Parsed<'_>, FrameError> {
    let incomplete = |needed| Ok(Parsed::Incomplete { needed });
    // A wrong start is said at once, not when the header is whole.
    let mut pairs = input.iter().zip(MAGIC);
    if let Some((&wrong, _)) = pairs.find(|(byte, expected)| *byte != expected) {
        return Err(FrameError::Magic(wrong));
    }
    let Some(header) = input.first_chunk::<HEADER_BYTES>() else {
        return incomplete(HEADER_BYTES);
    };
    if header[2] != version {
        return Err(FrameError::Version(header[2]));
    }
    let reserved = u16::from_le_bytes([header[6], header[7]]);
    if reserved != 0 {
        return Err(FrameError::Reserved(reserved));
    }
    let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    let cap = body_max.min(NODE_FRAME_BYTES_MAX);
    if length > cap {
        return Err(FrameError::TooLong { length, cap });
    }
    let Some(body) = input.get(HEADER_BYTES..HEADER_BYTES + length) else {
        return incomplete(HEADER_BYTES + length);
    };
    let expected = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    if checksum(&header[..12], body) != expected {
        return Err(FrameError::Checksum);
    }
    let frame = Frame {
        kind: header[3],
        flags: u16::from_le_bytes([header[4], header[5]]),
        body,
    };
    Ok(Parsed::Frame(frame, HEADER_BYTES + length))
}

/// Appends a frame; `encode` appends its body.
pub fn write_frame(
    out: &mut Vec<u8>,
    version: u8,
    kind: u8,
    flags: u16,
    encode: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[version, kind]);
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&[0; HEADER_BYTES - 6]);
    encode(out);
    let length = out.len() - start - HEADER_BYTES;
    assert!(length <= NODE_FRAME_BYTES_MAX, "a frame of {length} bytes");
    out[start + 8..start + 12].copy_from_slice(&(length as u32).to_le_bytes());
    let (header, body) = out[start..].split_at(HEADER_BYTES);
    let sum = checksum(&header[..12], body);
    out[start + 12..start + HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), body)
}

/// The kinds of frames. A number is never used again for something else.
pub mod kind {
    /// Opens a connection, from who dialed.
    pub const HELLO: u8 = 0x01;
    /// The answer to it.
    pub const WELCOME: u8 = 0x02;
    /// Nothing happened: the sender is alive, and has so many frames of the lane.
    pub const BEAT: u8 = 0x03;
    /// Events of one topic and publisher's lane. Numbered.
    pub const EVENTS: u8 = 0x10;
    /// What follows needs the interest of this number to be known. Numbered.
    pub const NEEDS: u8 = 0x11;
    /// Events were lost here. Numbered.
    pub const LOST: u8 = 0x12;
    /// What is wanted on the sender's side changed. Numbered.
    pub const INTEREST: u8 = 0x13;
    /// Of 0x40 to 0x4f: messages about places in the tree.
    pub const PLACE_FIRST: u8 = 0x40;
    /// See [`PLACE_FIRST`].
    pub const PLACE_LAST: u8 = 0x4f;

    /// Whether frames of this kind are numbered, and so kept until they were received.
    pub fn is_numbered(kind: u8) -> bool {
        matches!(kind, EVENTS | NEEDS | LOST | INTEREST)
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
