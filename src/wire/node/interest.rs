//! The other frames on lanes: what is wanted on the sender's side, what must be known of it, what was lost, and signs
//! of life.
//!
//! Owns the archives of these kinds and the views on them. Must not know the tables that interest is kept in.
//! Invariant: a name that was read is one that the broker would take from a client that subscribes. Start at
//! [`InterestHead`] and [`Beat`].

use super::archive::{Stretch, Writer, access, check_packed, write_root};
use super::{Frame, FrameError, HEADER_BYTES, kind, write_frame};
use crate::limits::{NODE_CHANGES_MAX, NODE_INTEREST_BYTES_MAX};
use crate::topic;
use rkyv::{Archive, Serialize};

/// How a filter's name is matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FilterKind {
    /// The topic itself.
    Topic,
    /// The shard channel itself.
    ShardChannel,
    /// A Redis glob over topics.
    Glob,
    /// A token wildcard over topics.
    Wildcard,
    /// Nodes that are called so: a name, `tag=` and a tag, or `group=` and a group.
    Node,
}

impl FilterKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [FilterKind; 5] = [
        FilterKind::Topic,
        FilterKind::ShardChannel,
        FilterKind::Glob,
        FilterKind::Wildcard,
        FilterKind::Node,
    ];

    fn number(self) -> u8 {
        match self {
            FilterKind::Topic => 0,
            FilterKind::ShardChannel => 1,
            FilterKind::Glob => 2,
            FilterKind::Wildcard => 3,
            FilterKind::Node => 4,
        }
    }
}

/// One filter has so many listeners on the sender's side from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// How the name is matched.
    pub kind: FilterKind,
    /// What it matches.
    pub name: &'a [u8],
    /// The group whose members listen, at most 255 bytes; empty for those who get every event.
    pub group: &'a [u8],
    /// How many; 0 ends it.
    pub listeners: u32,
}

impl Change<'_> {
    fn check(&self) -> Result<(), FrameError> {
        let checked = match self.kind {
            FilterKind::Wildcard => topic::check_wildcard(self.name),
            _ => topic::check_name(self.name),
        };
        if checked.is_err() {
            return Err(FrameError::Body(kind::INTEREST, "name"));
        }
        if self.group.len() > usize::from(u8::MAX) {
            return Err(FrameError::Body(kind::INTEREST, "group"));
        }
        Ok(())
    }
}

/// What a change is, without its bytes.
#[derive(Archive, Serialize)]
struct ChangeArchive {
    kind: u8,
    group_bytes: u8,
    name_bytes: u16,
    listeners: u32,
}

/// The archive of kind INTEREST, which never changes. `bytes` holds name and group of each change, one behind the other.
#[derive(Archive, Serialize)]
struct InterestArchive {
    sequence: u64,
    everything: bool,
    restart: bool,
    changes: Stretch<ChangeArchive>,
    bytes: Stretch<u8>,
}

/// All of a frame of interest but the changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterestHead {
    /// Grows by 1 with each such frame of a link.
    pub sequence: u64,
    /// The sender wants every topic, exact filters notwithstanding.
    pub everything: bool,
    /// All that was said before is void.
    pub restart: bool,
}

/// What a change takes beside its bytes.
const CHANGE_ROOM_BYTES: usize = size_of::<ArchivedChangeArchive>();

/// What a body holds beside its changes.
const ROOT_BYTES: usize = size_of::<ArchivedInterestArchive>();

/// How many of the changes, from the first on, fit into one frame. At least one does.
pub fn changes_that_fit<'c>(changes: impl Iterator<Item = Change<'c>>) -> usize {
    let mut bytes = ROOT_BYTES;
    let fitting = changes.take(NODE_CHANGES_MAX).take_while(|change| {
        bytes += CHANGE_ROOM_BYTES + change.name.len() + change.group.len();
        bytes <= NODE_INTEREST_BYTES_MAX
    });
    fitting.count()
}

/// Appends a frame of interest. Panics if there are more changes than [`changes_that_fit`] says, or one that
/// [`Interest::read`] does not take: our own bugs.
pub fn write_interest<'c>(
    out: &mut Vec<u8>,
    version: u8,
    head: InterestHead,
    changes: impl Iterator<Item = Change<'c>> + Clone,
) {
    for change in changes.clone() {
        assert_eq!(change.check(), Ok(()));
    }
    let start = out.len();
    write_frame(out, version, kind::INTEREST, 0, |out| {
        let mut writer = Writer(out);
        let column = writer.items(changes.clone().map(|change| ChangeArchive {
            kind: change.kind.number(),
            group_bytes: change.group.len() as u8,
            name_bytes: change.name.len() as u16,
            listeners: change.listeners,
        }));
        assert!(column.count() <= NODE_CHANGES_MAX, "too many changes");
        let bytes = writer.parts(changes.flat_map(|change| [change.name, change.group]));
        writer.root(&InterestArchive {
            sequence: head.sequence,
            everything: head.everything,
            restart: head.restart,
            changes: column,
            bytes,
        });
    });
    let length = out.len() - start - HEADER_BYTES;
    assert!(
        length <= NODE_INTEREST_BYTES_MAX,
        "changes of {length} bytes"
    );
}

/// A frame of interest that was checked.
#[derive(Clone, Copy)]
pub struct Interest<'a> {
    head: InterestHead,
    column: &'a [ArchivedChangeArchive],
    bytes: &'a [u8],
}

impl<'a> Interest<'a> {
    /// Reads it from a frame, and checks all of it.
    pub fn read(frame: &Frame<'a>) -> Result<Interest<'a>, FrameError> {
        let wrong = |field| FrameError::Body(kind::INTEREST, field);
        let (length, cap) = (frame.body.len(), NODE_INTEREST_BYTES_MAX);
        if length > cap {
            return Err(FrameError::TooLong { length, cap });
        }
        let archive = access::<ArchivedInterestArchive>(frame, kind::INTEREST)?;
        let (column, bytes) = (archive.changes.get(), archive.bytes.get());
        let slices = size_of_val(column) + bytes.len();
        check_packed::<ArchivedInterestArchive>(frame, slices)?;
        if column.len() > NODE_CHANGES_MAX {
            return Err(wrong("number of changes"));
        }
        let mut rest = bytes;
        for change in column {
            if usize::from(change.kind) >= FilterKind::ALL.len() {
                return Err(wrong("kind of filter"));
            }
            let (change, behind) = split_change(change, rest).ok_or(wrong("bytes"))?;
            change.check()?;
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(wrong("bytes"));
        }
        let head = InterestHead {
            sequence: archive.sequence.to_native(),
            everything: archive.everything,
            restart: archive.restart,
        };
        Ok(Interest {
            head,
            column,
            bytes,
        })
    }

    /// All but the changes.
    pub fn head(&self) -> InterestHead {
        self.head
    }

    /// The changes, in order.
    pub fn changes(&self) -> Changes<'a> {
        Changes {
            column: self.column.iter(),
            rest: self.bytes,
        }
    }
}

/// The change at the front of the bytes, and what follows it.
fn split_change<'a>(
    change: &ArchivedChangeArchive,
    bytes: &'a [u8],
) -> Option<(Change<'a>, &'a [u8])> {
    let (name, rest) = bytes.split_at_checked(usize::from(change.name_bytes.to_native()))?;
    let (group, rest) = rest.split_at_checked(usize::from(change.group_bytes))?;
    let change = Change {
        kind: *FilterKind::ALL.get(usize::from(change.kind))?,
        name,
        group,
        listeners: change.listeners.to_native(),
    };
    Some((change, rest))
}

/// The changes of a frame, in order.
#[derive(Clone)]
pub struct Changes<'a> {
    column: std::slice::Iter<'a, ArchivedChangeArchive>,
    rest: &'a [u8],
}

impl<'a> Iterator for Changes<'a> {
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Change<'a>> {
        // Never ends early: `Interest::read` has split all of them.
        let (change, rest) = split_change(self.column.next()?, self.rest)?;
        self.rest = rest;
        Some(change)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.column.size_hint()
    }
}

impl ExactSizeIterator for Changes<'_> {}

/// The archive of kind NEEDS, which never changes.
#[derive(Archive, Serialize)]
struct NeedsArchive {
    sequence: u64,
    known: u64,
}

/// What follows on this lane is to be routed only where two frames of interest are known: one of the sender's, and one of
/// the receiver's own, by which the sender has routed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The sender's, see [`InterestHead::sequence`].
    pub sequence: u64,
    /// The receiver's.
    pub known: u64,
}

impl Needs {
    /// Appends it as a frame.
    pub fn write(self, version: u8, out: &mut Vec<u8>) {
        let Needs { sequence, known } = self;
        let archive = NeedsArchive { sequence, known };
        write_root(out, version, kind::NEEDS, &archive);
    }

    /// Reads it from a frame, checked.
    pub fn read(frame: &Frame<'_>) -> Result<Needs, FrameError> {
        let archive = access::<ArchivedNeedsArchive>(frame, kind::NEEDS)?;
        check_packed::<ArchivedNeedsArchive>(frame, 0)?;
        Ok(Needs {
            sequence: archive.sequence.to_native(),
            known: archive.known.to_native(),
        })
    }
}

/// The archive of kind LOST, which never changes.
#[derive(Archive, Serialize)]
struct LostArchive {
    events: u64,
}

/// So many events were lost where this stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// At least one.
    pub events: u64,
}

impl Lost {
    /// Appends it as a frame. Panics if nothing was lost: our own bug.
    pub fn write(self, version: u8, out: &mut Vec<u8>) {
        let events = self.events;
        assert_ne!(events, 0, "nothing was lost");
        write_root(out, version, kind::LOST, &LostArchive { events });
    }

    /// Reads it from a frame, checked.
    pub fn read(frame: &Frame<'_>) -> Result<Lost, FrameError> {
        let archive = access::<ArchivedLostArchive>(frame, kind::LOST)?;
        check_packed::<ArchivedLostArchive>(frame, 0)?;
        match archive.events.to_native() {
            0 => Err(FrameError::Body(kind::LOST, "events")),
            events => Ok(Lost { events }),
        }
    }
}

/// The archive of kind BEAT, which never changes.
#[derive(Archive, Serialize)]
struct BeatArchive {
    received: u64,
    sent_ns: u64,
    echo_ns: u64,
}

/// A sign of life: what of the lane has arrived, and a time to be sent back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Numbered frames of this lane that the sender has received since the link began.
    pub received: u64,
    /// The sender's clock when this was sent; means nothing to anyone else.
    pub sent_ns: u64,
    /// `sent_ns` of the newest beat that the sender has received, and the time since it came added, so that the receiver
    /// has the round trip by one subtraction; 0 if none came since the last beat.
    pub echo_ns: u64,
}

impl Beat {
    /// Appends it as a frame.
    pub fn write(self, version: u8, out: &mut Vec<u8>) {
        let root = BeatArchive {
            received: self.received,
            sent_ns: self.sent_ns,
            echo_ns: self.echo_ns,
        };
        write_root(out, version, kind::BEAT, &root);
    }

    /// Reads it from a frame, checked.
    pub fn read(frame: &Frame<'_>) -> Result<Beat, FrameError> {
        let archive = access::<ArchivedBeatArchive>(frame, kind::BEAT)?;
        check_packed::<ArchivedBeatArchive>(frame, 0)?;
        Ok(Beat {
            received: archive.received.to_native(),
            sent_ns: archive.sent_ns.to_native(),
            echo_ns: archive.echo_ns.to_native(),
        })
    }
}
