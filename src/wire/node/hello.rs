//! How a connection between nodes opens: two preambles in plain bytes, then HELLO and WELCOME.
//!
//! Owns these four, why a connection is refused, and which version is spoken. Must not know lanes' state or the tree.
//! Invariants: the preambles never change, whatever versions come; what was read from an archive keeps the caps that
//! NODE.md states. Start at [`parse_dial`] and [`parse_answer`].

use super::archive::{Stretch, Writer, access, check_packed};
use super::{Frame, FrameError, NodeId, kind, write_frame};
use crate::limits::{
    NODE_ADDRESS_BYTES_MAX, NODE_LANES_MAX, NODE_NAME_BYTES_MAX, NODE_REFUSAL_BYTES_MAX,
    NODE_SHARDS_MAX,
};
use rkyv::{Archive, Serialize};
use std::fmt;

/// What the dialer's preamble begins with.
pub const DIAL_MAGIC: [u8; 8] = *b"SAPWNODE";

/// Bytes of the dialer's preamble: [`DIAL_MAGIC`], oldest version (1 byte), newest version (1), flags (1; see
/// [`FLAG_SEALED`]), zero (1), lane (2), zero (2).
pub const DIAL_BYTES: usize = 16;

/// The bit of the preamble's flags that says: what follows is sealed with a shared secret.
pub const FLAG_SEALED: u8 = 1;

/// What the acceptor's preamble begins with.
pub const ANSWER_MAGIC: [u8; 4] = *b"SAPW";

/// Bytes of the acceptor's preamble without its text: [`ANSWER_MAGIC`], version (1 byte; 0 refuses), code of the refusal
/// (1), length of the text that follows (2).
pub const ANSWER_BYTES: usize = 8;

/// Why a connection is refused. The codes never change; a newer peer may have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No version is known to both.
    Version,
    /// The acceptor has a secret, and the dialer does not seal.
    SecretRequired,
    /// The secrets differ.
    SecretWrong,
    /// The dialer seals, and the acceptor has no secret.
    SealedUnexpectedly,
    /// The acceptor has as many links or connections as it may.
    Full,
    /// A node dialed itself.
    Itself,
    /// The acceptor is about to end.
    Draining,
    /// The dialer broke the protocol.
    Protocol,
    /// The two must not be neighbours: their places in the tree, or a fixed topology, forbid it.
    Place,
}

impl Refusal {
    /// All of them, in the order of their codes.
    pub const ALL: [Refusal; 9] = [
        Refusal::Version,
        Refusal::SecretRequired,
        Refusal::SecretWrong,
        Refusal::SealedUnexpectedly,
        Refusal::Full,
        Refusal::Itself,
        Refusal::Draining,
        Refusal::Protocol,
        Refusal::Place,
    ];

    /// Its stable code, from 1.
    pub fn code(self) -> u8 {
        match self {
            Refusal::Version => 1,
            Refusal::SecretRequired => 2,
            Refusal::SecretWrong => 3,
            Refusal::SealedUnexpectedly => 4,
            Refusal::Full => 5,
            Refusal::Itself => 6,
            Refusal::Draining => 7,
            Refusal::Protocol => 8,
            Refusal::Place => 9,
        }
    }

    /// The refusal of this code, if this build knows it.
    pub fn from_code(code: u8) -> Option<Refusal> {
        let mut all = Refusal::ALL.into_iter();
        all.find(|refusal| refusal.code() == code)
    }

    /// Whether dialing again, unchanged, may succeed by itself.
    pub fn may_pass(self) -> bool {
        matches!(self, Refusal::Full | Refusal::Draining | Refusal::Place)
    }

    /// What was wrong and what to do, for who reads the dialer's log.
    pub fn text(self) -> &'static str {
        match self {
            Refusal::Version => {
                "no version of the protocol between nodes is known to both; upgrade the older node"
            }
            Refusal::SecretRequired => {
                "this node takes only nodes that have its secret; give the other node the same secret file"
            }
            Refusal::SecretWrong => {
                "the secrets of the two nodes differ; give both the same secret file"
            }
            Refusal::SealedUnexpectedly => {
                "this node has no secret, the other has one; give both the same secret file, or none"
            }
            Refusal::Full => "this node has as many links as it may",
            Refusal::Itself => "this node dialed itself; give it another node's address to join",
            Refusal::Draining => "this node is about to end",
            Refusal::Protocol => "what was sent is not the protocol between nodes",
            Refusal::Place => "the two nodes' places in the tree do not allow a link",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The dialer's preamble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Oldest and newest version that it speaks.
    pub versions: (u8, u8),
    /// Whether what follows is sealed.
    pub sealed: bool,
    /// Which of the link's lanes this connection is, below `NODE_LANES_MAX`.
    pub lane: u8,
}

impl Dial {
    /// Its bytes. Panics if the lane is none: our own bug.
    pub fn bytes(&self) -> [u8; DIAL_BYTES] {
        assert!(usize::from(self.lane) < NODE_LANES_MAX, "no such lane");
        let mut bytes = [0; DIAL_BYTES];
        bytes[..8].copy_from_slice(&DIAL_MAGIC);
        bytes[8] = self.versions.0;
        bytes[9] = self.versions.1;
        bytes[10] = if self.sealed { FLAG_SEALED } else { 0 };
        bytes[12..14].copy_from_slice(&u16::from(self.lane).to_le_bytes());
        bytes
    }

    /// The version to speak: the newest that both know.
    pub fn choose_version(&self, ours: (u8, u8)) -> Result<u8, Refusal> {
        let (oldest, newest) = self.versions;
        let chosen = newest.min(ours.1);
        // 0 stands for a refusal and is no version.
        if oldest <= newest && chosen >= oldest.max(ours.0).max(1) {
            Ok(chosen)
        } else {
            Err(Refusal::Version)
        }
    }
}

/// What stands at the start of the input of a connection that opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening<T> {
    /// A preamble, and how many bytes it takes.
    Whole(T, usize),
    /// Nothing whole: of use once so many bytes stand.
    Incomplete {
        /// At least one more than stand.
        needed: usize,
    },
}

/// Reads the dialer's preamble, for the acceptor. Wrong bytes are refused as soon as they stand.
pub fn parse_dial(input: &[u8]) -> Result<Opening<Dial>, Refusal> {
    let magic = input.len().min(DIAL_MAGIC.len());
    if input[..magic] != DIAL_MAGIC[..magic] {
        return Err(Refusal::Protocol);
    }
    let Some(bytes) = input.first_chunk::<DIAL_BYTES>() else {
        let needed = DIAL_BYTES;
        return Ok(Opening::Incomplete { needed });
    };
    let lane = u16::from_le_bytes([bytes[12], bytes[13]]);
    let zeros = [bytes[11], bytes[14], bytes[15]];
    if bytes[10] & !FLAG_SEALED != 0 || zeros != [0; 3] || usize::from(lane) >= NODE_LANES_MAX {
        return Err(Refusal::Protocol);
    }
    let dial = Dial {
        versions: (bytes[8], bytes[9]),
        sealed: bytes[10] & FLAG_SEALED != 0,
        lane: lane as u8,
    };
    Ok(Opening::Whole(dial, DIAL_BYTES))
}

/// What the acceptor says to the dialer's preamble, or, if it refuses, to its HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The version that is spoken from now on.
    Accepted {
        /// One that the dialer offered.
        version: u8,
    },
    /// The connection is refused, and ends.
    Refused {
        /// See [`Refusal::from_code`].
        code: u8,
        /// For people; may hold anything that is UTF-8.
        text: &'a str,
    },
}

/// Why an acceptor's preamble is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// It begins with other bytes: who answers is no node.
    Magic,
    /// It chose a version that was not offered.
    Version(u8),
    /// It accepts and refuses at once, or refuses without a code.
    Code(u8),
    /// The text of its refusal is too long, or not UTF-8, or stands where nothing is refused; holds its length.
    Text(usize),
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnswerError::Magic => write!(
                f,
                "who answers does not speak the protocol between nodes; is this the port for nodes?"
            ),
            AnswerError::Version(version) => {
                write!(
                    f,
                    "the other node chose version {version}, which was not offered"
                )
            }
            AnswerError::Code(code) => {
                write!(
                    f,
                    "the other node's answer has {code} as the code of a refusal"
                )
            }
            AnswerError::Text(length) => {
                write!(
                    f,
                    "the other node's answer has a wrong text of {length} bytes"
                )
            }
        }
    }
}

impl std::error::Error for AnswerError {}

/// Reads the acceptor's preamble, for the dialer that offered these versions.
pub fn parse_answer(input: &[u8], offered: (u8, u8)) -> Result<Opening<Answer<'_>>, AnswerError> {
    let magic = input.len().min(ANSWER_MAGIC.len());
    if input[..magic] != ANSWER_MAGIC[..magic] {
        return Err(AnswerError::Magic);
    }
    let Some(bytes) = input.first_chunk::<ANSWER_BYTES>() else {
        let needed = ANSWER_BYTES;
        return Ok(Opening::Incomplete { needed });
    };
    let (version, code) = (bytes[4], bytes[5]);
    let length = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
    if (version == 0) != (code != 0) {
        return Err(AnswerError::Code(code));
    }
    if version != 0 {
        if version < offered.0 || version > offered.1 {
            return Err(AnswerError::Version(version));
        }
        if length != 0 {
            return Err(AnswerError::Text(length));
        }
        return Ok(Opening::Whole(Answer::Accepted { version }, ANSWER_BYTES));
    }
    if length > NODE_REFUSAL_BYTES_MAX {
        return Err(AnswerError::Text(length));
    }
    let end = ANSWER_BYTES + length;
    let Some(text) = input.get(ANSWER_BYTES..end) else {
        return Ok(Opening::Incomplete { needed: end });
    };
    let text = std::str::from_utf8(text).map_err(|_| AnswerError::Text(length))?;
    Ok(Opening::Whole(Answer::Refused { code, text }, end))
}

/// Whether what answers a HELLO begins a refusal, in the form of a preamble, and not a frame or a sealed message: these
/// begin with other bytes than [`ANSWER_MAGIC`], which as the length of a sealed WELCOME would be too long. `None`
/// needs a second byte.
pub fn is_refusal(input: &[u8]) -> Option<bool> {
    let start = input.first_chunk::<2>()?;
    Some(start[..] == ANSWER_MAGIC[..2])
}

/// Appends the acceptor's preamble that accepts.
pub fn write_accepted(out: &mut Vec<u8>, version: u8) {
    assert_ne!(version, 0, "0 refuses");
    out.extend_from_slice(&ANSWER_MAGIC);
    out.extend_from_slice(&[version, 0, 0, 0]);
}

/// Appends the acceptor's preamble that refuses. A text that is too long is cut.
pub fn write_refused(out: &mut Vec<u8>, refusal: Refusal, text: &str) {
    let mut end = text.len().min(NODE_REFUSAL_BYTES_MAX);
    // Ends at 0 at the latest.
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text[..end];
    out.extend_from_slice(&ANSWER_MAGIC);
    out.extend_from_slice(&[0, refusal.code()]);
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Bytes of [`prologue`].
pub const PROLOGUE_BYTES: usize = DIAL_BYTES + 1;

/// What both sides of a sealed connection must have seen alike before it was sealed: the dialer's preamble, and the
/// version chosen.
pub fn prologue(dial: &Dial, version: u8) -> [u8; PROLOGUE_BYTES] {
    let mut bytes = [version; PROLOGUE_BYTES];
    bytes[..DIAL_BYTES].copy_from_slice(&dial.bytes());
    bytes
}

/// The archive of kind HELLO, which never changes.
#[derive(Archive, Serialize)]
struct HelloArchive {
    node: u64,
    incarnation: u64,
    link: u64,
    received: u64,
    lane: u8,
    shards: u8,
    advertise: Stretch<u8>,
    name: Stretch<u8>,
}

/// The archive of kind WELCOME, which never changes.
#[derive(Archive, Serialize)]
struct WelcomeArchive {
    node: u64,
    incarnation: u64,
    received: u64,
    shards: u8,
    resumed: bool,
    advertise: Stretch<u8>,
    name: Stretch<u8>,
}

/// What the dialer opens a lane with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Who it is.
    pub node: NodeId,
    /// Grows with each of its starts.
    pub incarnation: u64,
    /// Names the link, over all its lanes and reconnects; chosen at random.
    pub link: u64,
    /// Numbered frames of this lane that it has received since the link began.
    pub received: u64,
    /// The same as in its preamble.
    pub lane: u8,
    /// 1 to 64.
    pub shards: u8,
    /// Where others may dial it, at most 64 bytes without control characters; empty if nowhere.
    pub advertise: &'a str,
    /// For people, at most 64 bytes without control characters.
    pub name: &'a str,
}

/// What the acceptor answers to HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// Who it is.
    pub node: NodeId,
    /// Grows with each of its starts.
    pub incarnation: u64,
    /// Numbered frames of this lane that it has received since the link began.
    pub received: u64,
    /// 1 to 64.
    pub shards: u8,
    /// Whether it knew the link; if not, the lane begins anew, and `received` is 0.
    pub resumed: bool,
    /// Where others may dial it, at most 64 bytes without control characters; empty if nowhere.
    pub advertise: &'a str,
    /// For people, at most 64 bytes without control characters.
    pub name: &'a str,
}

impl<'a> Hello<'a> {
    /// Appends it as a frame. Panics if [`Hello::check`] fails: our own bug.
    pub fn write(&self, version: u8, out: &mut Vec<u8>) {
        assert_eq!(self.check(), Ok(()));
        write_frame(out, version, kind::HELLO, 0, |out| {
            let mut writer = Writer(out);
            let root = HelloArchive {
                node: self.node.0,
                incarnation: self.incarnation,
                link: self.link,
                received: self.received,
                lane: self.lane,
                shards: self.shards,
                advertise: writer.bytes(self.advertise.as_bytes()),
                name: writer.bytes(self.name.as_bytes()),
            };
            writer.root(&root);
        });
    }

    /// Reads it from a frame, checked.
    pub fn read(frame: &Frame<'a>) -> Result<Hello<'a>, FrameError> {
        let archive = access::<ArchivedHelloArchive>(frame, kind::HELLO)?;
        let texts = archive.advertise.len() + archive.name.len();
        check_packed::<ArchivedHelloArchive>(frame, texts)?;
        let hello = Hello {
            node: NodeId(archive.node.to_native()),
            incarnation: archive.incarnation.to_native(),
            link: archive.link.to_native(),
            received: archive.received.to_native(),
            lane: archive.lane,
            shards: archive.shards,
            advertise: utf8(kind::HELLO, "advertise", archive.advertise.get())?,
            name: utf8(kind::HELLO, "name", archive.name.get())?,
        };
        hello.check().map(|()| hello)
    }

    /// Whether its fields keep their caps.
    pub fn check(&self) -> Result<(), FrameError> {
        let kind = kind::HELLO;
        if usize::from(self.lane) >= NODE_LANES_MAX {
            return Err(FrameError::Body(kind, "lane"));
        }
        check_shards(kind, self.shards)?;
        check_labels(kind, self.advertise, self.name)
    }
}

impl<'a> Welcome<'a> {
    /// Appends it as a frame. Panics if [`Welcome::check`] fails: our own bug.
    pub fn write(&self, version: u8, out: &mut Vec<u8>) {
        assert_eq!(self.check(), Ok(()));
        write_frame(out, version, kind::WELCOME, 0, |out| {
            let mut writer = Writer(out);
            let root = WelcomeArchive {
                node: self.node.0,
                incarnation: self.incarnation,
                received: self.received,
                shards: self.shards,
                resumed: self.resumed,
                advertise: writer.bytes(self.advertise.as_bytes()),
                name: writer.bytes(self.name.as_bytes()),
            };
            writer.root(&root);
        });
    }

    /// Reads it from a frame, checked.
    pub fn read(frame: &Frame<'a>) -> Result<Welcome<'a>, FrameError> {
        let archive = access::<ArchivedWelcomeArchive>(frame, kind::WELCOME)?;
        let texts = archive.advertise.len() + archive.name.len();
        check_packed::<ArchivedWelcomeArchive>(frame, texts)?;
        let welcome = Welcome {
            node: NodeId(archive.node.to_native()),
            incarnation: archive.incarnation.to_native(),
            received: archive.received.to_native(),
            shards: archive.shards,
            resumed: archive.resumed,
            advertise: utf8(kind::WELCOME, "advertise", archive.advertise.get())?,
            name: utf8(kind::WELCOME, "name", archive.name.get())?,
        };
        welcome.check().map(|()| welcome)
    }

    /// Whether its fields keep their caps.
    pub fn check(&self) -> Result<(), FrameError> {
        let kind = kind::WELCOME;
        if !self.resumed && self.received != 0 {
            return Err(FrameError::Body(kind, "received"));
        }
        check_shards(kind, self.shards)?;
        check_labels(kind, self.advertise, self.name)
    }
}

/// Whether a text can be a node's name in HELLO and WELCOME.
pub fn is_name(text: &str) -> bool {
    is_label(text, NODE_NAME_BYTES_MAX)
}

/// Whether a text can be a node's address in HELLO and WELCOME; that it is one is not known here.
pub fn is_address(text: &str) -> bool {
    is_label(text, NODE_ADDRESS_BYTES_MAX)
}

fn is_label(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max && !text.chars().any(char::is_control)
}

fn check_labels(kind: u8, advertise: &str, name: &str) -> Result<(), FrameError> {
    if !is_address(advertise) {
        return Err(FrameError::Body(kind, "advertise"));
    }
    if !is_name(name) {
        return Err(FrameError::Body(kind, "name"));
    }
    Ok(())
}

fn check_shards(kind: u8, shards: u8) -> Result<(), FrameError> {
    if (1..=NODE_SHARDS_MAX).contains(&usize::from(shards)) {
        Ok(())
    } else {
        Err(FrameError::Body(kind, "shards"))
    }
}

fn utf8<'a>(kind: u8, field: &'static str, bytes: &'a [u8]) -> Result<&'a str, FrameError> {
    std::str::from_utf8(bytes).map_err(|_| FrameError::Body(kind, field))
}
