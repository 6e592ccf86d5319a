use super::*;
use crate::limits::NODE_FRAME_BYTES_MAX;
use crate::node::{HEADER_BYTES, Parsed, parse};
use core::net::{Ipv4Addr, Ipv6Addr};
use proptest::collection::vec;
use proptest::prelude::*;

fn contact(node: u64) -> Contact {
    let ip = Ipv4Addr::new(10, 0, 0, node as u8);
    Contact::new(NodeId(node), Some(SocketAddr::from((ip, 7401))))
}

fn standing() -> Standing {
    Standing::new(true, 3, 1, NodeId(9))
}

fn lineage() -> Lineage {
    Lineage {
        standing: standing(),
        path: vec![2, 5],
        ancestors: vec![contact(9)],
        root_children: vec![contact(4)],
        siblings: vec![],
    }
}

/// One of each kind.
fn each() -> Vec<PlaceMessage> {
    let echo = Echo {
        sent_ns: 1,
        echo_ns: 2,
        held_ns: 3,
    };
    vec![
        PlaceMessage::Ask(Ask {
            commits: true,
            standing: standing(),
            lost: 7,
            subtree: 1,
            name: "oslo".to_string(),
        }),
        PlaceMessage::Offer(Offer {
            standing: standing(),
            room: 4,
            depth: 2,
            subtree: 3,
            root: contact(9),
            candidates: vec![contact(5)],
        }),
        PlaceMessage::Accept(Accept { lineage: lineage() }),
        PlaceMessage::Refuse(Refuse::new(RefuseWhy::TooDeep)),
        PlaceMessage::Wait(Wait {
            standing: Standing::new(false, 3, 1, NodeId(9)),
        }),
        PlaceMessage::Confirm(Confirm { child: 5 }),
        PlaceMessage::Pulse(Pulse {
            beat: 6,
            room: 1,
            echo,
        }),
        PlaceMessage::Report(Report {
            subtree: 1,
            below: 0,
            room: 8,
            echo,
        }),
        PlaceMessage::Lineage(lineage()),
        PlaceMessage::Move(Move {
            inherits: false,
            to: contact(4),
        }),
        PlaceMessage::Leave(Leave { drains: true }),
        PlaceMessage::Known(Known {
            contacts: vec![contact(4)],
        }),
    ]
}

fn written(message: &PlaceMessage) -> Vec<u8> {
    let mut out = Vec::new();
    write(message, 1, &mut out);
    out
}

fn read_frame(bytes: &[u8]) -> Result<PlaceMessage, FrameError> {
    match parse(bytes, 1, NODE_FRAME_BYTES_MAX)? {
        Parsed::Frame(frame, _) => read(&frame),
        Parsed::Incomplete { .. } => panic!("a whole frame was written"),
    }
}

fn body_of(message: &PlaceMessage) -> Vec<u8> {
    written(message)[HEADER_BYTES..].to_vec()
}

/// Reads a body as if its checksum were right.
fn read_body(kind: u8, body: &[u8]) -> Result<PlaceMessage, FrameError> {
    let flags = 0;
    read(&Frame { kind, flags, body })
}

#[test]
fn every_kind_has_the_bytes_it_always_had() {
    let found: Vec<_> = each()
        .iter()
        .map(|message| {
            let hex: String = body_of(message)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            (message.kind(), hex)
        })
        .collect();
    let found: Vec<_> = found
        .iter()
        .map(|(kind, hex)| (*kind, hex.as_str()))
        .collect();
    assert_eq!(found, GOLDEN);
}

/// Bodies by kind. They never change: a change is a new kind.
const GOLDEN: [(u8, &str); 12] = [
    (
        0x40,
        "010103000000000000000109000000000000000700000000000000010000006f736c6fffffffff",
    ),
    (
        0x41,
        "050000000000000000000000000000000000ffff0a000005e91c01030000000000000001090000000000000004020300\
         0000090000000000000000000000000000000000ffff0a000009e91cb4ffffff01000000",
    ),
    (
        0x42,
        "0205090000000000000000000000000000000000ffff0a000009e91c040000000000000000000000000000000000ffff\
         0a000004e91c010300000000000000010900000000000000b8ffffff02000000b2ffffff01000000c4ffffff01000000\
         d6ffffff00000000",
    ),
    (0x43, "05"),
    (0x44, "000300000000000000010900000000000000"),
    (0x45, "05"),
    (
        0x46,
        "060000000000000001010000000000000002000000000000000300000000000000",
    ),
    (
        0x47,
        "010000000008000000010000000000000002000000000000000300000000000000",
    ),
    (
        0x48,
        "0205090000000000000000000000000000000000ffff0a000009e91c040000000000000000000000000000000000ffff\
         0a000004e91c010300000000000000010900000000000000b8ffffff02000000b2ffffff01000000c4ffffff01000000\
         d6ffffff00000000",
    ),
    (
        0x49,
        "00040000000000000000000000000000000000ffff0a000004e91c",
    ),
    (0x4a, "01"),
    (
        0x4b,
        "040000000000000000000000000000000000ffff0a000004e91ce6ffffff01000000",
    ),
];

#[test]
fn each_kind_is_read_as_it_was_written_wherever_it_stands() {
    for message in each() {
        assert_eq!(read_frame(&written(&message)).as_ref(), Ok(&message));
        let mut out = vec![0; 3];
        write(&message, 1, &mut out);
        assert_eq!(read_frame(&out[3..]).as_ref(), Ok(&message));
    }
}

#[test]
fn a_body_cut_anywhere_never_panics_and_is_never_the_same_message() {
    for message in each() {
        let body = body_of(&message);
        for end in 0..body.len() {
            assert_ne!(
                read_body(message.kind(), &body[..end]).as_ref(),
                Ok(&message)
            );
        }
    }
}

#[test]
fn changed_bits_and_wrong_kinds_never_panic() {
    for message in each() {
        let body = body_of(&message);
        for kind in 0..=u8::MAX {
            if !(0x40..=0x4f).contains(&kind) {
                continue;
            }
            let _ = read_body(kind, &body);
            for bit in 0..8 * body.len() {
                let mut changed = body.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let _ = read_body(kind, &changed);
            }
        }
    }
}

#[test]
fn changed_bits_of_a_frame_are_refused() {
    for message in each() {
        let frame = written(&message);
        for bit in 8 * HEADER_BYTES..8 * frame.len() {
            let mut changed = frame.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_frame(&changed), Err(FrameError::Checksum));
        }
    }
}

/// Writes what [`write`] would refuse to, and says what is said of it.
#[track_caller]
fn check_refused(message: &PlaceMessage, field: &'static str) {
    assert_eq!(message.fault(), Some(field), "{message:?}");
    let mut body = Vec::new();
    match message {
        PlaceMessage::Ask(archive) => append(archive, &mut body),
        PlaceMessage::Offer(archive) => append(archive, &mut body),
        PlaceMessage::Refuse(archive) => append(archive, &mut body),
        PlaceMessage::Wait(archive) => append(archive, &mut body),
        PlaceMessage::Report(archive) => append(archive, &mut body),
        PlaceMessage::Lineage(archive) => append(archive, &mut body),
        PlaceMessage::Known(archive) => append(archive, &mut body),
        other => panic!("{other:?} has no bounds"),
    }
    let kind = message.kind();
    assert_eq!(read_body(kind, &body), Err(FrameError::Body(kind, field)));
}

#[test]
fn what_is_out_of_bounds_is_refused_by_its_field() {
    let ask = Ask {
        commits: false,
        standing: standing(),
        lost: 0,
        subtree: 1,
        name: String::new(),
    };
    let with = |change: &dyn Fn(&mut Ask)| {
        let mut ask = ask.clone();
        change(&mut ask);
        PlaceMessage::Ask(ask)
    };
    check_refused(&with(&|ask| ask.name = "a".repeat(65)), "name");
    check_refused(&with(&|ask| ask.name = "a\n".to_string()), "name");
    check_refused(&with(&|ask| ask.subtree = 0), "subtree");
    check_refused(&with(&|ask| ask.subtree = SUBTREE_MAX + 1), "subtree");
    check_refused(&with(&|ask| ask.standing.term = TERM_MAX + 1), "term");
    let with = |change: &dyn Fn(&mut Lineage)| {
        let mut lineage = lineage();
        change(&mut lineage);
        PlaceMessage::Lineage(lineage)
    };
    let many = |count: usize| vec![contact(1); count];
    check_refused(&with(&|lineage| lineage.path = Vec::new()), "path");
    check_refused(&with(&|lineage| lineage.path = vec![0; 256]), "path");
    check_refused(&with(&|lineage| lineage.ancestors = many(33)), "ancestors");
    check_refused(
        &with(&|lineage| lineage.root_children = many(17)),
        "root_children",
    );
    check_refused(&with(&|lineage| lineage.siblings = many(17)), "siblings");
    for (ip, port) in [
        ([1; 16], 0),
        ([0; 16], 1),
        (Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets(), 1),
        (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets(), 1),
    ] {
        let wrong = Contact { node: 1, ip, port };
        check_refused(&with(&|lineage| lineage.siblings = vec![wrong]), "siblings");
    }
    let bare = Contact::new(NodeId(1), None);
    let known = Known {
        contacts: vec![bare],
    };
    check_refused(&PlaceMessage::Known(known), "contacts");
    for code in [0, 7, 255] {
        check_refused(&PlaceMessage::Refuse(Refuse { code }), "code");
    }
    let standing = standing();
    check_refused(&PlaceMessage::Wait(Wait { standing }), "standing");
}

#[test]
fn longest_messages_fit() {
    let many = vec![contact(1); CONTACTS_MAX];
    let lineage = Lineage {
        standing: standing(),
        path: vec![1; PATH_MAX],
        ancestors: vec![contact(1); ANCESTORS_MAX],
        root_children: many.clone(),
        siblings: many,
    };
    let message = PlaceMessage::Accept(Accept { lineage });
    let length = body_of(&message).len();
    assert!(length <= BODY_BYTES_MAX, "{length}");
    assert_eq!(read_frame(&written(&message)), Ok(message));
}

#[test]
fn a_body_over_the_cap_and_flags_are_refused() {
    let body = vec![0; BODY_BYTES_MAX + 1];
    assert_eq!(
        read_body(kinds::ASK, &body),
        Err(FrameError::TooLong {
            length: body.len(),
            cap: BODY_BYTES_MAX
        })
    );
    let body = body_of(&each()[0]);
    let frame = Frame {
        kind: kinds::ASK,
        flags: 1,
        body: &body,
    };
    assert_eq!(read(&frame), Err(FrameError::Body(kinds::ASK, "flags")));
}

#[test]
fn ranks_go_by_term_then_level_then_id() {
    let of = |term, level, root| Standing::new(true, term, level, NodeId(root));
    let ranked = [
        of(2, 0, 5),
        of(2, 1, 1),
        of(1, 0, 1),
        of(1, 0, 2),
        of(0, 255, 0),
    ];
    for (index, high) in ranked.iter().enumerate() {
        assert!(!high.outranks(high));
        for low in &ranked[index + 1..] {
            assert!(
                high.outranks(low) && !low.outranks(high),
                "{high:?} {low:?}"
            );
        }
    }
}

#[test]
fn an_address_of_version_4_is_the_same_in_its_mapped_form() {
    let plain: SocketAddr = "10.1.2.3:9".parse().unwrap();
    let mapped: SocketAddr = "[::ffff:10.1.2.3]:9".parse().unwrap();
    for address in [plain, mapped] {
        let contact = Contact::new(NodeId(1), Some(address));
        assert_eq!(contact.address(), Some(plain));
    }
    for none in ["0.0.0.0:9", "[::]:9", "10.1.2.3:0"] {
        let contact = Contact::new(NodeId(1), none.parse().ok());
        assert_eq!(contact.address(), None, "{none}");
    }
}

fn any_contact() -> impl Strategy<Value = Contact> {
    let ip = prop_oneof![
        (1..=223_u8, any::<[u8; 3]>())
            .prop_map(|(first, rest)| IpAddr::from([first, rest[0], rest[1], rest[2]])),
        any::<[u8; 15]>().prop_map(|rest| {
            let mut octets = [0x20; 16];
            octets[1..].copy_from_slice(&rest);
            IpAddr::from(octets)
        }),
    ];
    (any::<u64>(), ip, any::<u16>())
        .prop_map(|(node, ip, port)| Contact::new(NodeId(node), Some(SocketAddr::new(ip, port))))
}

fn any_standing() -> impl Strategy<Value = Standing> {
    (any::<bool>(), 0..=TERM_MAX, any::<u8>(), any::<u64>())
        .prop_map(|(settled, term, level, root)| Standing::new(settled, term, level, NodeId(root)))
}

fn any_lineage() -> impl Strategy<Value = Lineage> {
    let contacts = || vec(any_contact(), 0..=CONTACTS_MAX);
    let path = vec(any::<u8>(), 1..=PATH_MAX);
    let ancestors = vec(any_contact(), 0..=ANCESTORS_MAX);
    (any_standing(), path, ancestors, contacts(), contacts()).prop_map(
        |(standing, path, ancestors, root_children, siblings)| Lineage {
            standing,
            path,
            ancestors,
            root_children,
            siblings,
        },
    )
}

proptest! {
    #[test]
    fn any_lineage_is_read_as_it_was_written(lineage in any_lineage()) {
        for message in [
            PlaceMessage::Lineage(lineage.clone()),
            PlaceMessage::Accept(Accept { lineage: lineage.clone() }),
        ] {
            prop_assert_eq!(read_frame(&written(&message)), Ok(message));
        }
    }

    #[test]
    fn any_question_is_read_as_it_was_written(
        standing in any_standing(), commits: bool, lost: u64, subtree in 1..=SUBTREE_MAX, name in "[^\\p{Cc}]{0,16}",
    ) {
        let message = PlaceMessage::Ask(Ask { commits, standing, lost, subtree, name });
        prop_assert_eq!(read_frame(&written(&message)), Ok(message));
    }

    #[test]
    fn any_offer_is_read_as_it_was_written(
        standing in any_standing(), room: u8, depth: u8, subtree in 1..=SUBTREE_MAX, root in any_contact(),
        candidates in vec(any_contact(), 0..=CONTACTS_MAX),
    ) {
        let message = PlaceMessage::Offer(Offer { standing, room, depth, subtree, root, candidates });
        prop_assert_eq!(read_frame(&written(&message)), Ok(message));
    }

    #[test]
    fn garbage_never_panics(kind in 0x40..=0x4f_u8, body in vec(any::<u8>(), 0..300)) {
        let _ = read_body(kind, &body);
    }
}
