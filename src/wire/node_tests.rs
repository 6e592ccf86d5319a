//! Frames between nodes against their page: its examples, streams however they are cut, and bytes that are wrong.
//!
//! Here is also what [`fields`] and [`opening`] share with it: start at [`Sent`], [`check`] and [`Raw`].

use super::events::{Event, Events, EventsHead, Groups, Route, Space, write_events};
use super::hello::{Hello, Welcome};
use super::interest::{
    Beat, Change, FilterKind, Interest, InterestHead, Lost, Needs, write_interest,
};
use super::*;
use proptest::prelude::*;

#[path = "node_field_tests.rs"]
mod fields;
#[path = "node_opening_tests.rs"]
mod opening;

const PAGE: &str = include_str!("NODE.md");

/// The version of the examples.
const VERSION: u8 = 1;

/// A frame before it is written.
#[derive(Clone, Debug)]
enum Sent<'a> {
    Hello(Hello<'a>),
    Welcome(Welcome<'a>),
    Beat(Beat),
    Events(EventsHead<'a>, Vec<Event<'a>>),
    Needs(u64, u64),
    Lost(u64),
    Interest(InterestHead, Vec<Change<'a>>),
}

impl<'a> Sent<'a> {
    fn write(&self) -> Vec<u8> {
        let mut out = b"what stood before".to_vec();
        let before = out.len();
        match self {
            Sent::Hello(hello) => hello.write(VERSION, &mut out),
            Sent::Welcome(welcome) => welcome.write(VERSION, &mut out),
            Sent::Beat(beat) => beat.write(VERSION, &mut out),
            Sent::Events(head, events) => {
                write_events(&mut out, VERSION, head, events.iter().copied());
            }
            Sent::Needs(sequence, known) => {
                let (sequence, known) = (*sequence, *known);
                Needs { sequence, known }.write(VERSION, &mut out);
            }
            Sent::Lost(events) => Lost { events: *events }.write(VERSION, &mut out),
            Sent::Interest(head, changes) => {
                write_interest(&mut out, VERSION, *head, changes.iter().copied());
            }
        }
        out.split_off(before)
    }

    fn read(frame: &Frame<'a>) -> Result<Sent<'a>, FrameError> {
        Ok(match frame.kind {
            kind::HELLO => Sent::Hello(Hello::read(frame)?),
            kind::WELCOME => Sent::Welcome(Welcome::read(frame)?),
            kind::BEAT => Sent::Beat(Beat::read(frame)?),
            kind::EVENTS => {
                let events = Events::read(frame)?;
                Sent::Events(*events.head(), checked_events(frame, &events))
            }
            kind::NEEDS => {
                let Needs { sequence, known } = Needs::read(frame)?;
                Sent::Needs(sequence, known)
            }
            kind::LOST => Sent::Lost(Lost::read(frame)?.events),
            kind::INTEREST => {
                let interest = Interest::read(frame)?;
                Sent::Interest(interest.head(), interest.changes().collect())
            }
            other => return Err(FrameError::Kind(other)),
        })
    }
}

/// The events of a frame, after a look at what its view says of them.
fn checked_events<'a>(frame: &Frame<'a>, events: &Events<'a>) -> Vec<Event<'a>> {
    assert_eq!(events.iter().len(), events.len());
    assert_eq!(events.last() - events.head().first + 1, events.len() as u64);
    let mut bytes = 0;
    let list = events.iter().map(|placed| {
        let payload = placed.event.payload;
        let start = placed.payload_start;
        assert_eq!(&frame.body[start..start + payload.len()], payload);
        bytes += placed.event.attributes.len() + payload.len();
        placed.event
    });
    let list = list.collect();
    assert_eq!(bytes, events.bytes());
    list
}

fn whole(bytes: &[u8]) -> Frame<'_> {
    match parse(bytes, VERSION, NODE_FRAME_BYTES_MAX) {
        Ok(Parsed::Frame(frame, length)) => {
            assert_eq!(length, bytes.len());
            frame
        }
        other => panic!("no frame: {other:?}"),
    }
}

/// Written and read again it is the same, as are its bytes.
fn check(sent: &Sent<'_>) -> Vec<u8> {
    let bytes = sent.write();
    let frame = whole(&bytes);
    let seen = Sent::read(&frame).expect("what was written is read");
    assert_eq!(format!("{seen:?}"), format!("{sent:?}"));
    bytes
}

/// Any body under any kind is refused, or is what its view writes again.
fn check_any(kind: u8, body: &[u8]) -> Result<(), FrameError> {
    let bytes = framed(kind, body);
    let frame = whole(&bytes);
    let seen = Sent::read(&frame)?;
    assert_eq!(seen.write(), bytes, "{seen:?}");
    Ok(())
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame(&mut out, VERSION, kind, 0, |out| {
        out.extend_from_slice(body);
    });
    out
}

/// An archive put together by hand as NODE.md says, without rkyv and without its checks.
#[derive(Default)]
struct Raw {
    slices: Vec<u8>,
    root: Vec<u8>,
    /// Where in the root a box stands, and where in the slices what it points to.
    boxes: Vec<(usize, usize)>,
}

impl Raw {
    fn u8(mut self, value: u8) -> Raw {
        self.root.push(value);
        self
    }

    fn u64(mut self, value: u64) -> Raw {
        self.root.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn slice(mut self, bytes: &[u8], count: usize) -> Raw {
        self.boxes.push((self.root.len(), self.slices.len()));
        self.slices.extend_from_slice(bytes);
        self.root.extend_from_slice(&[0; 4]);
        self.root.extend_from_slice(&(count as u32).to_le_bytes());
        self
    }

    fn bytes(self, bytes: &[u8]) -> Raw {
        self.slice(bytes, bytes.len())
    }

    fn body(mut self) -> Vec<u8> {
        for (at, to) in self.boxes {
            let offset = to as i32 - (self.slices.len() + at) as i32;
            self.root[at..at + 4].copy_from_slice(&offset.to_le_bytes());
        }
        [self.slices, self.root].concat()
    }

    fn of(sent: &Sent<'_>) -> (u8, Vec<u8>) {
        match sent {
            Sent::Hello(hello) => (kind::HELLO, Raw::of_hello(hello)),
            Sent::Welcome(welcome) => (kind::WELCOME, Raw::of_welcome(welcome)),
            Sent::Beat(beat) => {
                let raw = Raw::default().u64(beat.received);
                (kind::BEAT, raw.u64(beat.sent_ns).u64(beat.echo_ns).body())
            }
            Sent::Events(head, events) => (kind::EVENTS, Raw::of_events(head, events)),
            Sent::Needs(sequence, known) => (
                kind::NEEDS,
                Raw::default().u64(*sequence).u64(*known).body(),
            ),
            Sent::Lost(events) => (kind::LOST, Raw::default().u64(*events).body()),
            Sent::Interest(head, changes) => (kind::INTEREST, Raw::of_interest(head, changes)),
        }
    }

    fn of_hello(hello: &Hello<'_>) -> Vec<u8> {
        let raw = Raw::default().u64(hello.node.0).u64(hello.incarnation);
        let raw = raw.u64(hello.link).u64(hello.received);
        let raw = raw.u8(hello.lane).u8(hello.shards);
        let raw = raw.bytes(hello.advertise.as_bytes());
        raw.bytes(hello.name.as_bytes()).body()
    }

    fn of_welcome(welcome: &Welcome<'_>) -> Vec<u8> {
        let raw = Raw::default().u64(welcome.node.0).u64(welcome.incarnation);
        let raw = raw.u64(welcome.received).u8(welcome.shards);
        let raw = raw.u8(u8::from(welcome.resumed));
        let raw = raw.bytes(welcome.advertise.as_bytes());
        raw.bytes(welcome.name.as_bytes()).body()
    }

    fn of_events(head: &EventsHead<'_>, events: &[Event<'_>]) -> Vec<u8> {
        let (mut column, mut bytes, mut groups) = (Vec::new(), Vec::new(), Vec::new());
        for event in events {
            column.push(event.flags);
            column.extend_from_slice(&(event.attributes.len() as u32).to_le_bytes());
            column.extend_from_slice(&(event.payload.len() as u32).to_le_bytes());
            bytes.extend_from_slice(event.attributes);
            bytes.extend_from_slice(event.payload);
        }
        for group in head.route.groups {
            groups.push(group.len() as u8);
            groups.extend_from_slice(group);
        }
        let raw = Raw::default().u64(head.origin.0).u64(head.incarnation);
        let raw = raw.u64(head.first).u8(head.lane);
        let raw = raw.u8(u8::from(head.space == Space::ShardChannel));
        let raw = raw.u8(u8::from(head.route.plain)).u8(head.route.tries);
        let raw = raw.bytes(head.topic).bytes(&groups);
        raw.slice(&column, events.len()).bytes(&bytes).body()
    }

    fn of_interest(head: &InterestHead, changes: &[Change<'_>]) -> Vec<u8> {
        let (mut column, mut bytes) = (Vec::new(), Vec::new());
        for change in changes {
            let kind = FilterKind::ALL.iter().position(|kind| *kind == change.kind);
            column.push(kind.unwrap_or(255) as u8);
            column.push(change.group.len() as u8);
            column.extend_from_slice(&(change.name.len() as u16).to_le_bytes());
            column.extend_from_slice(&change.listeners.to_le_bytes());
            bytes.extend_from_slice(change.name);
            bytes.extend_from_slice(change.group);
        }
        let raw = Raw::default().u64(head.sequence);
        let raw = raw.u8(u8::from(head.everything));
        let raw = raw.u8(u8::from(head.restart));
        raw.slice(&column, changes.len()).bytes(&bytes).body()
    }
}

/// The examples of the page: name and what it stands for.
fn examples() -> Vec<(&'static str, Sent<'static>)> {
    let mut examples = opening_examples();
    examples.extend(events_examples());
    examples.extend(interest_examples());
    examples
}

fn opening_examples() -> Vec<(&'static str, Sent<'static>)> {
    let hello = Hello {
        node: NodeId(0x0102_0304_0506_0708),
        incarnation: 9,
        link: 10,
        received: 11,
        lane: 3,
        shards: 4,
        advertise: "10.0.0.1:7401",
        name: "oslo",
    };
    let welcome = Welcome {
        node: NodeId(12),
        incarnation: 13,
        received: 14,
        shards: 64,
        resumed: true,
        advertise: "",
        name: "bergen",
    };
    let beat = Beat {
        received: 1,
        sent_ns: 2,
        echo_ns: 3,
    };
    vec![
        ("hello", Sent::Hello(hello)),
        ("welcome", Sent::Welcome(welcome)),
        ("beat", Sent::Beat(beat)),
    ]
}

fn events_examples() -> Vec<(&'static str, Sent<'static>)> {
    let head = EventsHead {
        origin: NodeId(12),
        incarnation: 13,
        lane: 63,
        first: 1_000,
        topic: b"news",
        space: Space::Topic,
        route: Route {
            plain: true,
            groups: Groups::default(),
            tries: 0,
        },
    };
    let turn = EventsHead {
        space: Space::ShardChannel,
        topic: b"",
        route: Route {
            plain: false,
            groups: Groups::new(b"\x02wg\x01x"),
            tries: 2,
        },
        ..head
    };
    let event = |flags, attributes, payload| Event {
        flags,
        attributes,
        payload,
    };
    let hi = event(0, b"", b"hi");
    let full = event(7, b"\x01\x00r\x05\x00\x01a\x01\x001", b"done");
    vec![
        ("events", Sent::Events(head, vec![hi])),
        (
            "events_turn",
            Sent::Events(turn, vec![full, event(0, b"", b""), hi]),
        ),
    ]
}

fn interest_examples() -> Vec<(&'static str, Sent<'static>)> {
    let change = |kind, name, group, listeners| Change {
        kind,
        name,
        group,
        listeners,
    };
    let interest = InterestHead {
        sequence: 5,
        everything: false,
        restart: true,
    };
    let changes = vec![
        change(FilterKind::Topic, b"news", b"", 1),
        change(FilterKind::Wildcard, b"a.>", b"wg", 2),
        change(FilterKind::Glob, b"x*", b"", 0),
    ];
    vec![
        ("needs", Sent::Needs(5, 6)),
        ("lost", Sent::Lost(1_000)),
        ("interest", Sent::Interest(interest, changes)),
        (
            "interest_everything",
            Sent::Interest(
                InterestHead {
                    sequence: 6,
                    everything: true,
                    restart: false,
                },
                Vec::new(),
            ),
        ),
    ]
}

/// A block of the page: names and bytes.
fn golden(block: &str) -> Vec<(&'static str, Vec<u8>)> {
    let start = PAGE.find(block).expect("the page has the block") + block.len();
    let lines = PAGE[start..].lines().skip(1);
    let lines = lines.take_while(|line| !line.starts_with("```"));
    let lines = lines.map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let (name, hex) = line.split_once(' ').expect("a name and bytes");
        let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
        let bytes = digits.chunks(2).map(|two| {
            let two = std::str::from_utf8(two).expect("digits");
            u8::from_str_radix(two, 16).expect("hexadecimal digits")
        });
        (name, bytes.collect())
    });
    lines.collect()
}

#[test]
fn the_examples_of_the_page_are_what_is_written_and_read() {
    let (golden, examples) = (golden("```golden"), examples());
    assert_eq!(golden.len(), examples.len());
    for ((name, bytes), (expected, sent)) in golden.iter().zip(&examples) {
        assert_eq!(name, expected);
        assert_eq!(&check(sent), bytes, "{name}: {:02x?}", sent.write());
    }
}

#[test]
fn archives_are_laid_out_as_the_page_says() {
    for (_, sent) in examples() {
        let (kind, body) = Raw::of(&sent);
        assert_eq!(framed(kind, &body), sent.write(), "{sent:?}");
    }
}

#[test]
fn a_beat_is_tiny() {
    assert_eq!(Sent::Beat(Beat::default()).write().len(), 40);
}

#[test]
fn numbered_kinds_are_those_that_must_not_get_lost() {
    let numbered: Vec<_> = (0..=u8::MAX)
        .filter(|kind| kind::is_numbered(*kind))
        .collect();
    let expected = [kind::EVENTS, kind::NEEDS, kind::LOST, kind::INTEREST];
    assert_eq!(numbered, expected);
}

#[test]
fn a_stream_is_the_same_however_it_is_cut() {
    let frames: Vec<_> = examples().iter().map(|(_, sent)| sent.write()).collect();
    let stream = frames.concat();
    for cut in 0..=stream.len() {
        let (mut start, mut seen) = (0, Vec::new());
        for end in [cut, stream.len()] {
            loop {
                match parse(&stream[start..end], VERSION, NODE_FRAME_BYTES_MAX) {
                    Ok(Parsed::Frame(_, length)) => {
                        seen.push(stream[start..start + length].to_vec());
                        start += length;
                    }
                    Ok(Parsed::Incomplete { needed }) => {
                        assert!(needed > end - start, "asks for what it has");
                        break;
                    }
                    Err(error) => panic!("{error} at {cut}"),
                }
            }
        }
        assert_eq!(seen, frames, "cut at {cut}");
    }
}

#[test]
fn a_frame_is_whole_only_with_its_last_byte() {
    for (name, sent) in examples() {
        let bytes = sent.write();
        for length in 0..bytes.len() {
            let parsed = parse(&bytes[..length], VERSION, NODE_FRAME_BYTES_MAX);
            let Ok(Parsed::Incomplete { needed }) = parsed else {
                panic!("{name} of {length} bytes is {parsed:?}");
            };
            let header = length < HEADER_BYTES;
            assert_eq!(needed, if header { HEADER_BYTES } else { bytes.len() });
        }
    }
}

#[test]
fn no_bit_can_be_changed_unnoticed() {
    for (name, sent) in examples() {
        let bytes = sent.write();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let parsed = parse(&bytes, VERSION, NODE_FRAME_BYTES_MAX);
            let waits = matches!(parsed, Ok(Parsed::Incomplete { needed }) if needed > bytes.len());
            assert!(parsed.is_err() || waits, "{name}, bit {bit}");
        }
    }
}

#[test]
fn a_changed_archive_with_a_right_checksum_is_refused_or_read_as_it_stands() {
    for (_, sent) in examples() {
        let (kind, body) = Raw::of(&sent);
        for bit in 0..body.len() * 8 {
            let mut body = body.clone();
            body[bit / 8] ^= 1 << (bit % 8);
            let _ = check_any(kind, &body);
        }
        for length in 0..body.len() {
            let refused = check_any(kind, &body[..length]);
            assert!(refused.is_err(), "{kind:#x} of {length} bytes");
            let refused = check_any(kind, &body[body.len() - length..]);
            assert!(refused.is_err(), "the last {length} bytes of {kind:#x}");
        }
    }
}

#[test]
fn an_archive_of_another_kind_is_refused() {
    for (_, sent) in examples() {
        let (own, body) = Raw::of(&sent);
        for kind in 0..=u8::MAX {
            let result = check_any(kind, &body);
            assert_eq!(result.is_ok(), kind == own, "{own:#x} as {kind:#x}");
        }
    }
}

#[test]
fn a_view_refuses_a_frame_that_is_not_its_own() {
    let bytes = Sent::Needs(1, 2).write();
    let frame = whole(&bytes);
    let expected = FrameError::Kind(kind::NEEDS);
    assert_eq!(Lost::read(&frame), Err(expected));
    assert_eq!(Beat::read(&frame), Err(expected));
    assert_eq!(Hello::read(&frame), Err(expected));
    assert_eq!(Welcome::read(&frame), Err(expected));
    assert_eq!(Events::read(&frame).err(), Some(expected));
    assert_eq!(Interest::read(&frame).err(), Some(expected));
    let flags = 1;
    let frame = Frame { flags, ..frame };
    assert_eq!(
        Needs::read(&frame),
        Err(FrameError::Body(kind::NEEDS, "flags"))
    );
}

#[test]
fn a_wrong_header_is_refused_for_what_is_wrong() {
    let bytes = Sent::Needs(1, 2).write();
    let parse_changed = |at: usize, value: u8, length: usize| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        parse(&bytes[..length], VERSION, 1_000).map(|_| ())
    };
    assert_eq!(parse_changed(0, b'X', 1), Err(FrameError::Magic(b'X')));
    assert_eq!(parse_changed(1, b'X', 2), Err(FrameError::Magic(b'X')));
    assert_eq!(parse_changed(2, 2, 16), Err(FrameError::Version(2)));
    assert_eq!(parse_changed(7, 1, 16), Err(FrameError::Reserved(256)));
    let too_long = |length, cap| FrameError::TooLong { length, cap };
    let error = parse_changed(10, 1, 16).unwrap_err();
    assert_eq!(error, too_long(65_552, 1_000));
    let text = "a frame's body has 65552 bytes, at most 1000 are allowed here";
    assert_eq!(error.to_string(), text);
    assert_eq!(parse_changed(16, 9, 32), Err(FrameError::Checksum));
    assert_eq!(parse(&bytes, VERSION, 15), Err(too_long(16, 15)));
}

/// Names that a client may publish to.
fn names() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..60).prop_filter("too many tokens", |name| {
        crate::topic::check_name(name).is_ok()
    })
}

fn attributes() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let headers = prop::collection::vec(("[a-z]{1,9}", "[ -~]{0,9}"), 0..3);
    let parts = (prop::option::of(names()), headers, any::<bool>());
    let written = parts.prop_map(|(reply, headers, is_end)| {
        let pairs = headers.iter();
        let pairs: Vec<_> = pairs
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        let parts = crate::native::Parts {
            reply: reply.as_deref(),
            headers: &pairs,
            is_end,
            ..Default::default()
        };
        let mut out = Vec::new();
        let flags = parts.write_attributes(&mut out);
        (flags.expect("parts that are in order"), out)
    });
    prop_oneof![Just((0, Vec::new())), written]
}

fn filters() -> impl Strategy<Value = (FilterKind, Vec<u8>)> {
    let kinds = prop::sample::select(&FilterKind::ALL[..]);
    (kinds, names()).prop_filter("no wildcard", |(kind, name)| {
        *kind != FilterKind::Wildcard || crate::topic::check_wildcard(name).is_ok()
    })
}

proptest! {
    #[test]
    fn events_are_read_as_they_were_written(
        numbers in (any::<u64>(), any::<u64>(), 1u64..u64::MAX - 100, 0u8..64, any::<u8>()),
        bits in (any::<bool>(), any::<bool>()),
        topic in names(),
        groups in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..256), 0..4),
        events in prop::collection::vec((attributes(), prop::collection::vec(any::<u8>(), 0..90)), 1..20),
    ) {
        let (origin, incarnation, first, lane, tries) = numbers;
        let mut pushed = Vec::new();
        groups.iter().for_each(|group| Groups::push(&mut pushed, group));
        let route = Route { plain: bits.0, groups: Groups::new(&pushed), tries };
        prop_assert!(route.groups.eq(groups.iter().map(|group| &group[..])));
        let space = if bits.1 { Space::Topic } else { Space::ShardChannel };
        let head = EventsHead { origin: NodeId(origin), incarnation, lane, first, topic: &topic, space, route };
        let events = events.iter().map(|((flags, attributes), payload)| Event { flags: *flags, attributes, payload });
        let sent = Sent::Events(head, events.collect());
        let bytes = check(&sent);
        let (kind, body) = Raw::of(&sent);
        prop_assert_eq!(framed(kind, &body), &bytes[..]);
        let read = Events::read(&whole(&bytes)).expect("events");
        let (mut again, mut other) = (Vec::new(), Vec::new());
        read.write_to(route, VERSION, &mut again);
        prop_assert_eq!(&again, &bytes);
        read.write_to(Route::default(), VERSION, &mut other);
        let other = Events::read(&whole(&other)).expect("events for others").head().to_owned();
        prop_assert_eq!(other, EventsHead { route: Route::default(), ..head });
    }

    #[test]
    fn interest_is_read_as_it_was_written(
        head in (any::<u64>(), any::<bool>(), any::<bool>()),
        changes in prop::collection::vec((filters(), prop::collection::vec(any::<u8>(), 0..256), any::<u32>()), 0..20),
    ) {
        let head = InterestHead { sequence: head.0, everything: head.1, restart: head.2 };
        let changes = changes.iter().map(|((kind, name), group, listeners)| {
            Change { kind: *kind, name, group, listeners: *listeners }
        });
        let sent = Sent::Interest(head, changes.collect());
        let (kind, body) = Raw::of(&sent);
        prop_assert_eq!(framed(kind, &body), check(&sent));
    }

    #[test]
    fn openings_and_beats_are_read_as_they_were_written(
        numbers in (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()),
        small in (0u8..64, 1u8..=64, any::<bool>()),
        advertise in "\\PC{0,16}",
        name in "\\PC{0,16}",
    ) {
        let ((node, incarnation, link, received), (lane, shards, resumed)) = (numbers, small);
        let (advertise, name) = (&advertise[..], &name[..]);
        let node = NodeId(node);
        let hello = Hello { node, incarnation, link, received, lane, shards, advertise, name };
        prop_assume!(hello.check().is_ok());
        let received = if resumed { received } else { 0 };
        let welcome = Welcome { node, incarnation, received, shards, resumed, advertise, name };
        let beat = Beat { received, sent_ns: incarnation, echo_ns: link };
        let sents = [
            Sent::Hello(hello), Sent::Welcome(welcome), Sent::Beat(beat), Sent::Needs(link, received), Sent::Lost(link.max(1)),
        ];
        for sent in sents {
            let (kind, body) = Raw::of(&sent);
            prop_assert_eq!(framed(kind, &body), check(&sent));
        }
    }

    #[test]
    fn garbage_never_panics(input in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..0x20) {
        let _ = parse(&input, VERSION, NODE_FRAME_BYTES_MAX);
        let _ = check_any(kind, &input);
    }

    #[test]
    fn archives_with_several_changes_are_refused_or_read_as_they_stand(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let examples = examples();
        let (kind, mut body) = Raw::of(&examples[which.index(examples.len())].1);
        for (at, value) in changes {
            let at = at.index(body.len());
            body[at] = value;
        }
        let _ = check_any(kind, &body);
    }
}
