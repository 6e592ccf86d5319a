//! Fields of frames at their caps and beyond, put together by hand.

use super::*;
use crate::limits::{
    NODE_CHANGES_MAX, NODE_EVENTS_MAX, NODE_GROUPS_BYTES_MAX, NODE_INTEREST_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
};
use crate::native::attributes_are_valid;

fn head() -> EventsHead<'static> {
    EventsHead {
        origin: NodeId(1),
        incarnation: 2,
        lane: 0,
        first: 1,
        topic: b"t",
        space: Space::Topic,
        route: Route::default(),
    }
}

const EVENT: Event<'_> = Event {
    flags: 0,
    attributes: b"",
    payload: b"x",
};

/// What is wrong with these events.
fn refused(head: &EventsHead<'_>, events: &[Event<'_>]) -> FrameError {
    let body = Raw::of_events(head, events);
    check_any(kind::EVENTS, &body).expect_err("they are refused")
}

fn events_error(field: &'static str) -> FrameError {
    FrameError::Body(kind::EVENTS, field)
}

#[test]
fn events_with_a_wrong_head_are_refused_by_the_field() {
    let long = [b'x'; 1_025];
    let tokens = [b'.'; 64];
    let cases = [
        ("lane", EventsHead { lane: 64, ..head() }),
        (
            "topic",
            EventsHead {
                topic: &long,
                ..head()
            },
        ),
        (
            "topic",
            EventsHead {
                topic: &tokens,
                ..head()
            },
        ),
        ("first", EventsHead { first: 0, ..head() }),
        (
            "first",
            EventsHead {
                first: u64::MAX,
                ..head()
            },
        ),
    ];
    for (field, head) in cases {
        assert_eq!(refused(&head, &[EVENT]), events_error(field));
    }
    assert_eq!(refused(&head(), &[]), events_error("number of events"));
    let many = vec![EVENT; NODE_EVENTS_MAX + 1];
    assert_eq!(refused(&head(), &many), events_error("number of events"));
}

#[test]
fn events_at_their_caps_are_read() {
    let topic = [b'x'; 1_024];
    let capped = EventsHead {
        lane: 63,
        first: u64::MAX - NODE_EVENTS_MAX as u64,
        topic: &topic,
        ..head()
    };
    let empty = Event {
        payload: b"",
        ..EVENT
    };
    check(&Sent::Events(capped, vec![empty; NODE_EVENTS_MAX]));
}

#[test]
fn one_event_of_the_greatest_size_fits_with_all_its_groups() {
    let (payload, mut attributes) = (vec![b'p'; PAYLOAD_BYTES_MAX], vec![0, 4]);
    attributes.extend_from_slice(&[b'r'; 1_024]);
    attributes.extend_from_slice(&u16::MAX.to_le_bytes());
    attributes.extend_from_slice(&[1, b'h']);
    attributes.extend_from_slice(&(u16::MAX - 4).to_le_bytes());
    attributes.extend_from_slice(&vec![b'v'; usize::from(u16::MAX) - 4]);
    let event = Event {
        flags: 3,
        attributes: &attributes,
        payload: &payload,
    };
    let mut groups = Vec::new();
    while groups.len() < NODE_GROUPS_BYTES_MAX {
        Groups::push(&mut groups, &[b'g'; 255]);
    }
    let route = Route {
        groups: Groups::new(&groups),
        ..Route::default()
    };
    let bytes = Sent::Events(EventsHead { route, ..head() }, vec![event]).write();
    let read = Events::read(&whole(&bytes)).expect("the greatest event");
    assert_eq!(read.iter().next().map(|placed| placed.event), Some(event));
    assert_eq!(read.head().route.groups.count(), 4_096);
    let longer = [&payload[..], b"p"].concat();
    let event = Event {
        payload: &longer,
        ..EVENT
    };
    assert_eq!(refused(&head(), &[event]), events_error("event"));
}

#[test]
fn groups_that_are_empty_or_cut_or_too_many_are_refused() {
    let too_many = [1, b'g'].repeat(NODE_GROUPS_BYTES_MAX / 2 + 1);
    let cases: [&[u8]; 4] = [b"\x00", b"\x02g", b"\x01g\x00", &too_many];
    for groups in cases {
        let raw = Raw::default().u64(1).u64(2).u64(3);
        let raw = raw.u8(0).u8(0).u8(1).u8(0).bytes(b"t").bytes(groups);
        let body = raw.slice(&[0; 9], 1).bytes(b"").body();
        let expected = Err(events_error("groups"));
        assert_eq!(check_any(kind::EVENTS, &body), expected);
    }
}

#[test]
fn lengths_of_events_that_do_not_add_up_are_refused() {
    let with = |column: &[u8], bytes: &[u8]| {
        let raw = Raw::default().u64(1).u64(2).u64(3);
        let raw = raw.u8(0).u8(0).u8(1).u8(0).bytes(b"t").bytes(b"");
        let body = raw.slice(column, column.len() / 9).bytes(bytes).body();
        check_any(kind::EVENTS, &body)
    };
    let of = |payload: u32| [&[0; 5][..], &payload.to_le_bytes()].concat();
    let attributes = [&[0, 2, 0, 0, 0][..], &[0; 4]].concat();
    assert_eq!(with(&of(2), b"xy"), Ok(()));
    assert_eq!(with(&of(1), b"xy"), Err(events_error("bytes")));
    assert_eq!(with(&of(3), b"xy"), Err(events_error("bytes")));
    assert_eq!(with(&of(u32::MAX), b"xy"), Err(events_error("bytes")));
    assert_eq!(with(&attributes, b"xy"), Err(events_error("event")));
    let two = [of(2), of(u32::MAX)].concat();
    assert_eq!(with(&two, b"xy"), Err(events_error("bytes")));
}

#[test]
fn numbers_that_stand_for_nothing_are_refused() {
    let with = |space: u8, plain: u8| {
        let raw = Raw::default().u64(1).u64(2).u64(3);
        let raw = raw.u8(0).u8(space).u8(plain).u8(0).bytes(b"t").bytes(b"");
        let body = raw.slice(&[0; 9], 1).bytes(b"").body();
        check_any(kind::EVENTS, &body)
    };
    assert_eq!(with(1, 1), Ok(()));
    assert_eq!(with(2, 1), Err(events_error("space")));
    assert_eq!(with(1, 2), Err(events_error("archive")));
}

#[test]
fn bytes_that_nothing_points_to_are_refused() {
    for (name, sent) in examples() {
        let (kind, body) = Raw::of(&sent);
        let body = [b"?", &body[..]].concat();
        let expected = Err(FrameError::Body(kind, "length"));
        assert_eq!(check_any(kind, &body), expected, "{name}");
    }
}

#[test]
fn slices_that_overlap_are_refused() {
    let with = |topic: i32, bytes: i32| {
        let mut body = b"abc".to_vec();
        body.extend_from_slice(&[0; 28]);
        for (offset, count) in [(topic, 3u32), (-11, 0), (-19, 0), (bytes, 3)] {
            body.extend_from_slice(&offset.to_le_bytes());
            body.extend_from_slice(&count.to_le_bytes());
        }
        check_any(kind::EVENTS, &body)
    };
    let expected = Err(events_error("archive"));
    assert_eq!(with(-31, -55), expected);
    assert_eq!(with(-31, -54), expected);
    assert_eq!(with(i32::MIN, i32::MAX), expected);
}

#[test]
fn attributes_are_those_of_a_native_message() {
    let check = |flags: u8, attributes: &[u8], valid: bool| {
        let are_valid = attributes_are_valid(flags, attributes);
        assert_eq!(are_valid, valid, "{flags} {attributes:02x?}");
        let event = Event {
            flags,
            attributes,
            ..EVENT
        };
        let body = Raw::of_events(&head(), &[event]);
        assert_eq!(check_any(kind::EVENTS, &body).is_ok(), valid);
    };
    check(0, b"", true);
    check(4, b"", true);
    check(8, b"", false);
    check(0, b"?", false);
    check(4, b"?", false);
    check(1, b"", false);
    check(1, b"\x00\x00", true);
    check(1, b"\x02\x00r1", true);
    check(1, b"\x02\x00r", false);
    check(1, b"\x02\x00r1?", false);
    check(
        1,
        &[b"\x01\x04".to_vec(), vec![b'r'; 1_025]].concat(),
        false,
    );
    check(2, b"\x00\x00", true);
    check(2, b"\x05\x00\x01a\x01\x001", true);
    check(2, b"\x05\x00\x01a\x01\x001?", false);
    check(2, b"\x05\x00\x01a\x02\x001", false);
    check(2, b"\x04\x00\x01a\x01\x00", false);
    check(2, b"\x04\x00\x00\x01\x001", false);
    check(2, b"\x05\x00\x01:\x01\x001", false);
    check(2, b"\x05\x00\x01a\x01\x00\n", false);
    check(3, b"\x01\x00r\x05\x00\x01a\x01\x001", true);
    check(2, b"\x01\x00r\x05\x00\x01a\x01\x001", false);
    // A block of NATS may be anything, but must be whole and alone.
    check(10, b"\x03\x00\x00\r?", true);
    check(11, b"\x01\x00r\x01\x00?", true);
    check(14, b"\x00\x00", true);
    check(10, b"\x03\x00??", false);
    check(10, b"\x03\x00????", false);
    check(9, b"\x01\x00r", false);
    check(16, b"", false);
}

fn change(kind: FilterKind, name: &[u8]) -> Change<'_> {
    Change {
        kind,
        name,
        group: b"",
        listeners: 1,
    }
}

fn interest(changes: &[Change<'_>]) -> Result<(), FrameError> {
    let body = Raw::of_interest(&InterestHead::default(), changes);
    check_any(kind::INTEREST, &body)
}

#[test]
fn names_of_filters_are_those_that_clients_may_subscribe_to() {
    let long = [b'x'; 1_025];
    for kind in FilterKind::ALL {
        assert_eq!(interest(&[change(kind, b"")]), Ok(()));
        assert_eq!(interest(&[change(kind, &long[..1_024])]), Ok(()));
        let wrong = Err(FrameError::Body(kind::INTEREST, "name"));
        assert_eq!(interest(&[change(kind, &long)]), wrong);
        let is_wildcard = kind == FilterKind::Wildcard;
        let result = interest(&[change(kind, b"a.>.b")]);
        assert_eq!(result, if is_wildcard { wrong } else { Ok(()) });
    }
}

#[test]
fn a_kind_of_filter_that_is_not_known_is_refused() {
    let column = [5, 0, 0, 0, 1, 0, 0, 0];
    let raw = Raw::default().u64(1).u8(0).u8(0);
    let body = raw.slice(&column, 1).bytes(b"").body();
    let expected = Err(FrameError::Body(kind::INTEREST, "kind of filter"));
    assert_eq!(check_any(kind::INTEREST, &body), expected);
}

#[test]
fn interest_beyond_its_caps_is_refused_and_never_written() {
    use crate::node::interest::changes_that_fit;
    let small = vec![change(FilterKind::Topic, b"x"); NODE_CHANGES_MAX + 1];
    let fitting = changes_that_fit(small.iter().copied());
    assert_eq!(fitting, NODE_CHANGES_MAX);
    assert_eq!(interest(&small[..fitting]), Ok(()));
    let expected = FrameError::Body(kind::INTEREST, "number of changes");
    assert_eq!(interest(&small), Err(expected));
    let (name, group) = ([b'x'; 1_024], [b'g'; 255]);
    let large = Change {
        group: &group,
        ..change(FilterKind::Topic, &name)
    };
    let large = vec![large; 300];
    let fitting = changes_that_fit(large.iter().copied());
    assert!(fitting * 1_287 <= NODE_INTEREST_BYTES_MAX);
    check(&Sent::Interest(
        InterestHead::default(),
        large[..fitting].to_vec(),
    ));
    let result = interest(&large[..fitting + 1]);
    assert!(
        matches!(result, Err(FrameError::TooLong { .. })),
        "{result:?}"
    );
}

#[test]
fn nothing_lost_is_refused() {
    let expected = Err(FrameError::Body(kind::LOST, "events"));
    assert_eq!(check_any(kind::LOST, &[0; 8]), expected);
}
