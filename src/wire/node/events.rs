//! Events on their way from node to node.
//!
//! Owns the archive of kind EVENTS and the view on it. Must not know lanes, who listens or where a frame goes.
//! Invariants: a view's parts lie in the frame's body; the names, flags and attributes of a view are such as the broker
//! takes from its clients, so that nobody behind it checks them again. Events do not stand as a struct each but as two
//! columns, what each is and the bytes of all: they are checked in one pass, copied once, and allocate nothing. Start
//! at [`write_events`] and [`Events::read`].

use super::archive::{Stretch, Writer, access, check_packed};
use super::{Frame, FrameError, NodeId, kind, write_frame};
use crate::limits::{
    NATIVE_FRAME_BYTES_MAX, NODE_EVENTS_MAX, NODE_GROUP_BYTES_MAX, NODE_GROUPS_BYTES_MAX,
    NODE_LANES_MAX, PAYLOAD_BYTES_MAX,
};
use crate::native::attributes_are_valid;
use crate::topic;
use rkyv::{Archive, Serialize};

/// Where a name belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Space {
    /// Topics: what every protocol means.
    #[default]
    Topic,
    /// Redis's shard channels: a namespace of their own.
    ShardChannel,
}

/// Names of groups, in the form that they have in a frame: for each a length (1 byte) and its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Groups<'a>(&'a [u8]);

impl<'a> Groups<'a> {
    /// The names that [`Groups::push`] put one behind the other. Panics if they are no such names: our own bug.
    pub fn new(pushed: &'a [u8]) -> Groups<'a> {
        Groups::parse(pushed).expect("what Groups::push wrote") // invariant: the caller's, stated above.
    }

    /// Appends a name. Panics if it is empty or too long: our own bug.
    pub fn push(pushed: &mut Vec<u8>, name: &[u8]) {
        assert!((1..=NODE_GROUP_BYTES_MAX).contains(&name.len()));
        pushed.push(name.len() as u8);
        pushed.extend_from_slice(name);
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    fn parse(bytes: &'a [u8]) -> Option<Groups<'a>> {
        let mut rest = bytes;
        // Ends because each round takes two bytes at least.
        while let Some((&length, behind)) = rest.split_first() {
            if length == 0 {
                return None;
            }
            rest = behind.get(usize::from(length)..)?;
        }
        (bytes.len() <= NODE_GROUPS_BYTES_MAX).then_some(Groups(bytes))
    }
}

impl<'a> Iterator for Groups<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, behind) = self.0.split_first()?;
        let (name, rest) = behind.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some(name)
    }
}

/// Who is to get events below a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route<'a> {
    /// Everyone who gets every event; if not, only groups.
    pub plain: bool,
    /// Groups whose turn is below this link.
    pub groups: Groups<'a>,
    /// How often a turn found nobody so far.
    pub tries: u8,
}

/// All of a frame of events but the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventsHead<'a> {
    /// The node they were published to.
    pub origin: NodeId,
    /// That node's incarnation.
    pub incarnation: u64,
    /// The publisher's lane there, below `NODE_LANES_MAX`.
    pub lane: u8,
    /// The number of the first event, from 1; the others follow it.
    pub first: u64,
    /// What they were published to: any name that [`topic::check_name`] takes.
    pub topic: &'a [u8],
    /// Where that name belongs.
    pub space: Space,
    /// Who is to get them. The only part that a node on the way changes.
    pub route: Route<'a>,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// See [`crate::native::flag`].
    pub flags: u8,
    /// Reply topic and headers, as they stand in a native message.
    pub attributes: &'a [u8],
    /// What it carries.
    pub payload: &'a [u8],
}

impl Event<'_> {
    fn is_valid(&self) -> bool {
        self.payload.len() <= PAYLOAD_BYTES_MAX
            // Most have neither, and then nothing is to be read.
            && ((self.flags == 0 && self.attributes.is_empty())
                || attributes_are_valid(self.flags, self.attributes))
    }
}

/// What an event is, without its bytes.
#[derive(Archive, Serialize)]
struct EventArchive {
    flags: u8,
    attributes_bytes: u32,
    payload_bytes: u32,
}

/// The archive of kind EVENTS, which never changes. `bytes` holds attributes and payload of each event, one behind the
/// other.
#[derive(Archive, Serialize)]
struct EventsArchive {
    origin: u64,
    incarnation: u64,
    first: u64,
    lane: u8,
    space: u8,
    plain: bool,
    tries: u8,
    topic: Stretch<u8>,
    groups: Stretch<u8>,
    events: Stretch<EventArchive>,
    bytes: Stretch<u8>,
}

/// Appends a frame of events, in one copy and without allocating but for `out` itself.
///
/// At least one event, at most `NODE_EVENTS_MAX`, with attributes and payloads of `NATIVE_FRAME_BYTES_MAX` bytes
/// together at most: then the frame is never too long, and one event that a client may publish always fits. Panics
/// otherwise, and if a part is not what [`Events::read`] takes: our own bugs.
pub fn write_events<'e>(
    out: &mut Vec<u8>,
    version: u8,
    head: &EventsHead<'_>,
    events: impl Iterator<Item = Event<'e>> + Clone,
) {
    let (mut count, mut bytes) = (0, 0);
    for event in events.clone() {
        assert!(event.is_valid(), "an event whose attributes do not match");
        count += 1;
        bytes += event.attributes.len() + event.payload.len();
    }
    assert_eq!(check_head(head, count), Ok(()));
    assert!(bytes <= NATIVE_FRAME_BYTES_MAX, "events of {bytes} bytes");
    out.reserve(FRAME_ROOM_BYTES + head.topic.len() + count * EVENT_ROOM_BYTES + bytes);
    write_frame(out, version, kind::EVENTS, 0, |out| {
        let mut writer = Writer(out);
        let topic = writer.bytes(head.topic);
        let groups = writer.bytes(head.route.groups.0);
        let column = writer.items(events.clone().map(|event| EventArchive {
            flags: event.flags,
            attributes_bytes: event.attributes.len() as u32,
            payload_bytes: event.payload.len() as u32,
        }));
        let bytes = writer.parts(events.flat_map(|event| [event.attributes, event.payload]));
        writer.root(&archive_of(head, topic, groups, column, bytes));
    });
}

/// Room for a frame's header and root, so that `out` grows once.
const FRAME_ROOM_BYTES: usize = 128;

/// What an event takes beside its bytes.
const EVENT_ROOM_BYTES: usize = size_of::<ArchivedEventArchive>();

fn archive_of(
    head: &EventsHead<'_>,
    topic: Stretch<u8>,
    groups: Stretch<u8>,
    events: Stretch<EventArchive>,
    bytes: Stretch<u8>,
) -> EventsArchive {
    EventsArchive {
        origin: head.origin.0,
        incarnation: head.incarnation,
        first: head.first,
        lane: head.lane,
        space: match head.space {
            Space::Topic => 0,
            Space::ShardChannel => 1,
        },
        plain: head.route.plain,
        tries: head.route.tries,
        topic,
        groups,
        events,
        bytes,
    }
}

/// What must be true of a head with so many events, read or to be written.
fn check_head(head: &EventsHead<'_>, count: usize) -> Result<(), FrameError> {
    let wrong = |field| Err(FrameError::Body(kind::EVENTS, field));
    if usize::from(head.lane) >= NODE_LANES_MAX {
        return wrong("lane");
    }
    if topic::check_name(head.topic).is_err() {
        return wrong("topic");
    }
    if !(1..=NODE_EVENTS_MAX).contains(&count) {
        return wrong("number of events");
    }
    if head.first == 0 || head.first.checked_add(count as u64).is_none() {
        return wrong("first");
    }
    Ok(())
}

/// A frame of events that was checked.
#[derive(Clone, Copy)]
pub struct Events<'a> {
    head: EventsHead<'a>,
    column: &'a [ArchivedEventArchive],
    bytes: &'a [u8],
    /// Where `bytes` begin in the frame's body.
    start: usize,
}

impl<'a> Events<'a> {
    /// Reads it from a frame, and checks all of it. Cost: about 2 ns an event, nothing for its bytes.
    pub fn read(frame: &Frame<'a>) -> Result<Events<'a>, FrameError> {
        let wrong = |field| FrameError::Body(kind::EVENTS, field);
        let archive = access::<ArchivedEventsArchive>(frame, kind::EVENTS)?;
        let (column, bytes) = (archive.events.get(), archive.bytes.get());
        let names = archive.topic.len() + archive.groups.len();
        let slices = names + size_of_val(column) + bytes.len();
        check_packed::<ArchivedEventsArchive>(frame, slices)?;
        let head = EventsHead {
            origin: NodeId(archive.origin.to_native()),
            incarnation: archive.incarnation.to_native(),
            lane: archive.lane,
            first: archive.first.to_native(),
            topic: archive.topic.get(),
            space: match archive.space {
                0 => Space::Topic,
                1 => Space::ShardChannel,
                _ => return Err(wrong("space")),
            },
            route: Route {
                plain: archive.plain,
                groups: Groups::parse(archive.groups.get()).ok_or(wrong("groups"))?,
                tries: archive.tries,
            },
        };
        check_head(&head, column.len())?;
        let mut rest = bytes;
        for event in column {
            let (event, behind) = split_event(event, rest).ok_or(wrong("bytes"))?;
            if !event.is_valid() {
                return Err(wrong("event"));
            }
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(wrong("bytes"));
        }
        Ok(Events {
            head,
            column,
            bytes,
            start: offset(frame.body, bytes),
        })
    }

    /// All but the events.
    pub fn head(&self) -> &EventsHead<'a> {
        &self.head
    }

    /// How many events there are; at least one.
    #[allow(clippy::len_without_is_empty)] // There is no empty frame of events.
    pub fn len(&self) -> usize {
        self.column.len()
    }

    /// Attributes and payloads of all, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The number of the last event.
    pub fn last(&self) -> u64 {
        self.head.first + (self.column.len() - 1) as u64
    }

    /// The events, in order.
    pub fn iter(&self) -> EventIter<'a> {
        EventIter {
            column: self.column.iter(),
            rest: self.bytes,
            at: self.start,
        }
    }

    /// Appends the same events for others to get. Cost: two copies of what is there, and the checksum.
    pub fn write_to(&self, route: Route<'_>, version: u8, out: &mut Vec<u8>) {
        let head = EventsHead { route, ..self.head };
        let column = self.column.iter().map(|event| EventArchive {
            flags: event.flags,
            attributes_bytes: event.attributes_bytes.to_native(),
            payload_bytes: event.payload_bytes.to_native(),
        });
        out.reserve(FRAME_ROOM_BYTES + route.groups.0.len() + self.bytes.len());
        write_frame(out, version, kind::EVENTS, 0, |out| {
            let mut writer = Writer(out);
            let topic = writer.bytes(head.topic);
            let groups = writer.bytes(head.route.groups.0);
            let column = writer.items(column);
            let bytes = writer.bytes(self.bytes);
            writer.root(&archive_of(&head, topic, groups, column, bytes));
        });
    }
}

/// The event at the front of the bytes, and what follows it.
fn split_event<'a>(event: &ArchivedEventArchive, bytes: &'a [u8]) -> Option<(Event<'a>, &'a [u8])> {
    let (attributes, rest) = bytes.split_at_checked(event.attributes_bytes.to_native() as usize)?;
    let (payload, rest) = rest.split_at_checked(event.payload_bytes.to_native() as usize)?;
    let flags = event.flags;
    let event = Event {
        flags,
        attributes,
        payload,
    };
    Some((event, rest))
}

/// Where a part of the body begins in it.
fn offset(body: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - body.as_ptr() as usize
}

/// An event in a frame that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed<'a> {
    /// It.
    pub event: Event<'a>,
    /// Where its payload begins in the frame's body.
    pub payload_start: usize,
}

/// The events of a frame, in order.
#[derive(Clone)]
pub struct EventIter<'a> {
    column: std::slice::Iter<'a, ArchivedEventArchive>,
    rest: &'a [u8],
    at: usize,
}

impl<'a> Iterator for EventIter<'a> {
    type Item = Placed<'a>;

    fn next(&mut self) -> Option<Placed<'a>> {
        // Never ends early: `Events::read` has split all of them.
        let (event, rest) = split_event(self.column.next()?, self.rest)?;
        self.rest = rest;
        let payload_start = self.at + event.attributes.len();
        self.at = payload_start + event.payload.len();
        Some(Placed {
            event,
            payload_start,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.column.size_hint()
    }
}

impl ExactSizeIterator for EventIter<'_> {}
