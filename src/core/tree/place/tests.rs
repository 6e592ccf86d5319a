use super::*;
use core::net::Ipv4Addr;
use sapwood_wire::node::place::{Accept, Confirm, Known, Lineage, Refuse, RefuseWhy, Report, Wait};

const MS: u64 = 1_000_000;

/// One node under test, and the messages that the test sends in the name of others.
struct Rig {
    place: Place,
    now_ns: u64,
    next_peer: u64,
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 0, 0, number), 7401))
}

fn contact(number: u8) -> Contact {
    Contact::new(NodeId(u64::from(number)), Some(address(number)))
}

/// The root that the others are below.
const ROOT: u8 = 1;

/// The node under test.
const OWN: u8 = 50;

fn config(seeds: &[u8]) -> PlaceConfig {
    let mut config = PlaceConfig::new(NodeId(u64::from(OWN)), 1, Some(address(OWN)));
    config.seeds = seeds.iter().map(|seed| address(*seed)).collect();
    config
}

fn standing() -> Standing {
    Standing::new(true, 1, 0, NodeId(u64::from(ROOT)))
}

fn lineage() -> Lineage {
    Lineage {
        standing: standing(),
        path: vec![3],
        ancestors: Vec::new(),
        root_children: vec![contact(OWN), contact(7)],
        siblings: Vec::new(),
    }
}

fn ask(commits: bool) -> PlaceMessage {
    PlaceMessage::Ask(Ask {
        commits,
        standing: Standing::new(false, 0, 255, NodeId(9)),
        lost: 0,
        subtree: 1,
        name: String::new(),
    })
}

impl Rig {
    fn new(config: PlaceConfig) -> (Rig, Vec<PlaceOutput>) {
        let place = Place::new(config);
        let mut rig = Rig {
            place,
            now_ns: 1_000 * MS,
            next_peer: 0,
        };
        let outputs = rig.handle(PlaceInput::Tick);
        (rig, outputs)
    }

    fn handle(&mut self, input: PlaceInput) -> Vec<PlaceOutput> {
        let mut out = Vec::new();
        self.place.handle(input, self.now_ns, &mut out);
        out
    }

    /// Lets time pass by the node's own deadlines; returns the outputs.
    fn pass(&mut self, ms: u64) -> Vec<PlaceOutput> {
        let until_ns = self.now_ns + ms * MS;
        let mut all = Vec::new();
        while let Some(due_ns) = self.place.next_deadline().filter(|ns| *ns <= until_ns) {
            self.now_ns = due_ns.max(self.now_ns + 1);
            all.extend(self.handle(PlaceInput::Tick));
        }
        self.now_ns = until_ns;
        all
    }

    fn connect(&mut self, number: u8, dialed: Option<DialId>) -> (PeerId, Vec<PlaceOutput>) {
        let peer = PeerId(self.next_peer);
        self.next_peer += 1;
        let outputs = self.handle(PlaceInput::Connected {
            peer,
            node: NodeId(u64::from(number)),
            incarnation: 1,
            address: Some(address(number)),
            dialed,
        });
        (peer, outputs)
    }

    fn say(&mut self, peer: PeerId, message: PlaceMessage) -> Vec<PlaceOutput> {
        self.handle(PlaceInput::Message { peer, message })
    }

    /// A confirmed child of this number.
    fn child(&mut self, number: u8) -> PeerId {
        let (peer, _) = self.connect(number, None);
        let outputs = self.say(peer, ask(true));
        let [
            PlaceOutput::Send {
                message: PlaceMessage::Accept(accept),
                ..
            },
        ] = &outputs[..]
        else {
            panic!("{outputs:?}");
        };
        let child = *accept.lineage.path.last().unwrap();
        let outputs = self.say(peer, PlaceMessage::Confirm(Confirm { child }));
        let role = Role::Child(child);
        assert!(outputs.contains(&PlaceOutput::Adopted { peer, role }));
        peer
    }
}

/// A node with the root as its parent, and that connection.
fn member() -> (Rig, PeerId) {
    let (mut rig, peer) = asking();
    let outputs = rig.say(peer, PlaceMessage::Accept(Accept { lineage: lineage() }));
    let role = Role::Parent;
    assert!(outputs.contains(&PlaceOutput::Adopted { peer, role }));
    assert!(outputs.contains(&PlaceOutput::Moved));
    (rig, peer)
}

fn member_with(timings: Timings) -> (Rig, PeerId) {
    let (mut rig, peer) = asking_with(timings);
    rig.say(peer, PlaceMessage::Accept(Accept { lineage: lineage() }));
    (rig, peer)
}

/// A node that has asked the root for its place.
fn asking() -> (Rig, PeerId) {
    asking_with(Timings::default())
}

fn asking_with(timings: Timings) -> (Rig, PeerId) {
    let config = PlaceConfig {
        timings,
        ..config(&[ROOT])
    };
    let (mut rig, outputs) = Rig::new(config);
    let [PlaceOutput::Dial { dial, .. }] = outputs[..] else {
        panic!("{outputs:?}");
    };
    let (peer, _) = rig.connect(ROOT, Some(dial));
    let outputs = rig.say(peer, PlaceMessage::Offer(offer(3)));
    let [
        PlaceOutput::Send {
            message: PlaceMessage::Ask(ask),
            ..
        },
    ] = &outputs[..]
    else {
        panic!("{outputs:?}");
    };
    assert!(ask.commits);
    (rig, peer)
}

fn offer(room: u8) -> sapwood_wire::node::place::Offer {
    sapwood_wire::node::place::Offer {
        standing: standing(),
        room,
        depth: 0,
        subtree: 1,
        root: contact(ROOT),
        candidates: Vec::new(),
    }
}

#[track_caller]
fn check_closed(outputs: &[PlaceOutput], peer: PeerId, why: CloseWhy) {
    let close = PlaceOutput::Close { peer, why };
    assert!(outputs.contains(&close), "{close:?} is not in {outputs:?}");
}

#[test]
fn node_without_seeds_is_root_at_once() {
    let (rig, outputs) = Rig::new(config(&[]));
    assert_eq!(outputs, [PlaceOutput::Moved]);
    assert_eq!(rig.place.path(), Some(&[][..]));
    let reign = rig.place.reign();
    assert_eq!((reign.term, reign.level), (1, 0));
}

#[test]
fn node_whose_seed_does_not_answer_is_root_after_a_second_and_goes_on_asking() {
    let (mut rig, outputs) = Rig::new(config(&[ROOT]));
    let [PlaceOutput::Dial { dial, .. }] = outputs[..] else {
        panic!("{outputs:?}");
    };
    rig.handle(PlaceInput::DialFailed { dial });
    rig.pass(1_100);
    assert!(rig.place.is_root());
    let reign = rig.place.reign();
    assert_eq!((reign.term, reign.level), (0, 255));
    for _ in 0..5 {
        let outputs = rig.pass(2_000);
        let address = address(ROOT);
        let is_dial = |output: &PlaceOutput| matches!(output, PlaceOutput::Dial { address: other, .. } if *other == address);
        assert!(outputs.iter().any(is_dial), "{outputs:?}");
    }
}

#[test]
fn node_that_dials_itself_notices_and_does_not_dial_there_again() {
    let (mut rig, outputs) = Rig::new(config(&[2]));
    let [PlaceOutput::Dial { dial, .. }] = outputs[..] else {
        panic!("{outputs:?}");
    };
    let (peer, outputs) = rig.connect(OWN, Some(dial));
    check_closed(&outputs, peer, CloseWhy::Itself);
    let outputs = rig.pass(10_000);
    let is_dial = |output: &PlaceOutput| matches!(output, PlaceOutput::Dial { .. });
    assert!(!outputs.iter().any(is_dial), "{outputs:?}");
    assert!(rig.place.is_root());
}

#[test]
fn node_that_is_told_that_it_dialed_itself_does_not_dial_there_again() {
    let (mut rig, outputs) = Rig::new(config(&[2]));
    let [PlaceOutput::Dial { dial, .. }] = outputs[..] else {
        panic!("{outputs:?}");
    };
    rig.handle(PlaceInput::DialedItself { dial });
    // The connection fails as well.
    rig.handle(PlaceInput::DialFailed { dial });
    let outputs = rig.pass(10_000);
    let is_dial = |output: &PlaceOutput| matches!(output, PlaceOutput::Dial { .. });
    assert!(!outputs.iter().any(is_dial), "{outputs:?}");
    assert!(rig.place.is_root());
}

#[test]
fn member_has_path_and_ancestors_and_knows_its_parent() {
    let (rig, peer) = member();
    assert_eq!(rig.place.path(), Some(&[3][..]));
    assert_eq!(rig.place.ancestors(), [contact(ROOT)]);
    assert_eq!(rig.place.parent().map(|parent| parent.peer), Some(peer));
    assert!(rig.place.reign().is_same_tree(&standing()));
}

#[test]
fn parent_that_says_what_cannot_be_is_cut_off() {
    let change = |change: &dyn Fn(&mut Lineage)| {
        let mut lineage = lineage();
        change(&mut lineage);
        lineage
    };
    let own = contact(OWN);
    for (lineage, why) in [
        (
            change(&|lineage| lineage.path = vec![4]),
            CloseWhy::Lie("another child number"),
        ),
        (
            change(&|lineage| lineage.path = vec![1, 3]),
            CloseWhy::Lie("a path of another length than its ancestors"),
        ),
        (
            change(&|lineage| lineage.standing = Standing::new(true, 1, 0, NodeId(8))),
            CloseWhy::Lie("a root that is not its last ancestor"),
        ),
        (
            change(&|lineage| {
                lineage.path = vec![1, 1, 3];
                lineage.ancestors = vec![own, contact(8)];
                lineage.standing = Standing::new(true, 1, 0, NodeId(8));
            }),
            CloseWhy::Loop,
        ),
    ] {
        let (mut rig, peer) = member();
        let outputs = rig.say(peer, PlaceMessage::Lineage(lineage));
        check_closed(&outputs, peer, why);
        assert!(outputs.contains(&PlaceOutput::Dropped { peer }));
        assert_eq!(rig.place.path(), None);
    }
}

#[test]
fn place_that_nobody_asked_for_is_not_taken() {
    let (mut rig, outputs) = Rig::new(config(&[ROOT]));
    let [PlaceOutput::Dial { dial, .. }] = outputs[..] else {
        panic!("{outputs:?}");
    };
    let (peer, _) = rig.connect(ROOT, Some(dial));
    let outputs = rig.say(peer, PlaceMessage::Accept(Accept { lineage: lineage() }));
    check_closed(
        &outputs,
        peer,
        CloseWhy::Lie("a place that was not asked for"),
    );
    assert_eq!(rig.place.path(), None);
}

#[test]
fn messages_of_a_link_from_a_stranger_are_not_taken() {
    let (mut rig, _) = Rig::new(config(&[]));
    let (peer, _) = rig.connect(9, None);
    let outputs = rig.say(peer, PlaceMessage::Lineage(lineage()));
    let why = CloseWhy::Lie("a message that does not stand here");
    check_closed(&outputs, peer, why);
}

#[test]
fn place_that_is_not_confirmed_within_a_second_is_free_again() {
    let mut config = config(&[]);
    config.children_max = 1;
    let (mut rig, _) = Rig::new(config);
    let (peer, _) = rig.connect(9, None);
    rig.say(peer, ask(true));
    let (other, _) = rig.connect(8, None);
    let outputs = rig.say(other, ask(true));
    assert!(matches!(
        &outputs[..],
        [PlaceOutput::Send { message: PlaceMessage::Offer(offer), .. }] if offer.room == 0
    ));
    let outputs = rig.pass(1_000);
    check_closed(&outputs, peer, CloseWhy::Unconfirmed);
    let outputs = rig.say(other, ask(true));
    assert!(matches!(
        &outputs[..],
        [PlaceOutput::Send {
            message: PlaceMessage::Accept(_),
            ..
        }]
    ));
}

#[test]
fn child_that_takes_another_number_is_cut_off() {
    let (mut rig, _) = Rig::new(config(&[]));
    let (peer, _) = rig.connect(9, None);
    rig.say(peer, ask(true));
    let outputs = rig.say(peer, PlaceMessage::Confirm(Confirm { child: 1 }));
    check_closed(&outputs, peer, CloseWhy::Lie("another child number"));
    assert_eq!(rig.place.children().count(), 0);
}

#[test]
fn full_node_names_the_smaller_of_its_children_first() {
    let mut config = config(&[]);
    config.children_max = 2;
    let (mut rig, _) = Rig::new(config);
    for (number, subtree) in [(2, 30), (3, 20)] {
        let peer = rig.child(number);
        let report = Report {
            subtree,
            below: 3,
            room: 5,
            echo: Echo::default(),
        };
        rig.say(peer, PlaceMessage::Report(report));
    }
    let (peer, _) = rig.connect(9, None);
    let outputs = rig.say(peer, ask(true));
    let [
        PlaceOutput::Send {
            message: PlaceMessage::Offer(offer),
            ..
        },
    ] = &outputs[..]
    else {
        panic!("{outputs:?}");
    };
    assert_eq!(offer.candidates, [contact(3), contact(2)]);
    assert_eq!(rig.place.subtree(), 51);
}

#[test]
fn node_that_is_adrift_gives_no_place_and_says_so() {
    let (mut rig, parent) = member();
    rig.child(9);
    let outputs = rig.handle(PlaceInput::Closed { peer: parent });
    assert!(outputs.contains(&PlaceOutput::Dropped { peer: parent }));
    let told = outputs.iter().any(|output| matches!(output,
        PlaceOutput::Send { message: PlaceMessage::Lineage(lineage), .. } if !lineage.standing.settled));
    assert!(told, "the child is told at once: {outputs:?}");
    let (peer, _) = rig.connect(8, None);
    let outputs = rig.say(peer, ask(true));
    let standing = rig.place.reign();
    let message = PlaceMessage::Wait(Wait { standing });
    assert_eq!(outputs, [PlaceOutput::Send { peer, message }]);
}

#[test]
fn ancestor_gets_no_place() {
    let (mut rig, _) = member();
    let (peer, _) = rig.connect(ROOT, None);
    let outputs = rig.say(peer, ask(true));
    let message = PlaceMessage::Refuse(Refuse::new(RefuseWhy::Below));
    assert_eq!(outputs, [PlaceOutput::Send { peer, message }]);
}

#[test]
fn silent_parent_is_lost_after_eight_beats() {
    let (mut rig, parent) = member();
    let outputs = rig.pass(1_999);
    assert!(!outputs.contains(&PlaceOutput::Dropped { peer: parent }));
    let outputs = rig.pass(252);
    check_closed(&outputs, parent, CloseWhy::Silent);
}

#[test]
fn others_are_asked_without_waiting_for_a_parent_that_hangs() {
    let dialed = |outputs: &[PlaceOutput]| -> Vec<Option<SocketAddr>> {
        let dials = outputs.iter().filter_map(|output| match output {
            PlaceOutput::Dial { address, .. } => Some(Some(*address)),
            _ => None,
        });
        dials.collect()
    };
    let (mut rig, parent) = member();
    let outputs = rig.pass(2_251);
    check_closed(&outputs, parent, CloseWhy::Silent);
    assert!(dialed(&outputs).contains(&contact(7).address()));
    assert!(!dialed(&outputs).contains(&contact(ROOT).address()));
    // Perhaps only the connection to it was silent, so it is asked in the end.
    let mut later = Vec::new();
    for _ in 0..40 {
        for output in rig.pass(100) {
            if let PlaceOutput::Dial { dial, address } = output {
                later.push(Some(address));
                rig.handle(PlaceInput::DialFailed { dial });
            }
        }
    }
    assert!(later.contains(&contact(ROOT).address()));
    // A broken connection says nothing about the node at its other side.
    let (mut rig, parent) = member();
    let outputs = rig.handle(PlaceInput::Closed { peer: parent });
    assert!(dialed(&outputs).contains(&contact(ROOT).address()));
}

#[test]
fn parent_whose_root_counts_no_further_is_lost_after_sixteen_beats() {
    let (mut rig, parent) = member();
    for _ in 0..18 {
        let pulse = sapwood_wire::node::place::Pulse {
            beat: 5,
            room: 0,
            echo: Echo::default(),
        };
        rig.say(parent, PlaceMessage::Pulse(pulse));
        let outputs = rig.pass(250);
        if outputs.contains(&PlaceOutput::Dropped { peer: parent }) {
            return check_closed(&outputs, parent, CloseWhy::Stalled);
        }
    }
    panic!("still there");
}

#[test]
fn strangers_over_the_cap_are_sent_away() {
    let (mut rig, _) = Rig::new(config(&[]));
    for _ in 0..STRANGERS_MAX {
        let (_, outputs) = rig.connect(9, None);
        assert_eq!(outputs, []);
    }
    let (peer, outputs) = rig.connect(9, None);
    check_closed(&outputs, peer, CloseWhy::Busy);
    assert_eq!(rig.place.counts().strangers, STRANGERS_MAX);
    rig.pass(2_000);
    assert_eq!(rig.place.counts().strangers, 0);
}

#[test]
fn later_start_of_a_child_replaces_the_earlier_one() {
    let (mut rig, _) = Rig::new(config(&[]));
    let old = rig.child(9);
    let outputs = rig.handle(PlaceInput::Connected {
        peer: PeerId(100),
        node: NodeId(9),
        incarnation: 2,
        address: None,
        dialed: None,
    });
    check_closed(&outputs, old, CloseWhy::Replaced);
    assert_eq!(rig.place.children().count(), 0);
    let (stale, outputs) = {
        rig.say(PeerId(100), ask(true));
        rig.connect(9, None)
    };
    check_closed(&outputs, stale, CloseWhy::Replaced);
}

#[test]
fn a_node_that_slept_does_not_take_its_own_silence_for_that_of_others() {
    let (mut rig, parent) = member();
    // However late its beats come, each counts as one.
    for late_ms in [900, 5_000, 300, 1_000, 600, 400] {
        rig.now_ns += late_ms * MS;
        let outputs = rig.handle(PlaceInput::Tick);
        assert!(!outputs.contains(&PlaceOutput::Dropped { peer: parent }));
    }
    rig.handle(PlaceInput::Heard { peer: parent });
    let outputs = rig.pass(1_900);
    assert!(!outputs.contains(&PlaceOutput::Dropped { peer: parent }));
}

#[test]
fn who_has_another_connection_is_told_again_what_may_be_lost() {
    let count = |outputs: &[PlaceOutput], to: PeerId, kind: fn(&PlaceMessage) -> bool| {
        let is_sent = |output: &&PlaceOutput| matches!(output, PlaceOutput::Send { peer, message } if *peer == to && kind(message));
        outputs.iter().filter(is_sent).count()
    };
    let is_lineage = |message: &PlaceMessage| matches!(message, PlaceMessage::Lineage(_));
    let is_report = |message: &PlaceMessage| matches!(message, PlaceMessage::Report(_));
    let (mut rig, parent) = member();
    let child = rig.child(9);
    let quiet = rig.handle(PlaceInput::Heard { peer: child });
    assert_eq!(count(&quiet, child, is_lineage), 0);
    let outputs = rig.handle(PlaceInput::Resumed { peer: child });
    assert_eq!(count(&outputs, child, is_lineage), 1);
    let mut outputs = rig.handle(PlaceInput::Resumed { peer: parent });
    outputs.extend(rig.pass(60));
    assert!(count(&outputs, parent, is_report) > 0, "{outputs:?}");
    // Nobody's number is not an error: the link may have ended meanwhile.
    rig.handle(PlaceInput::Resumed { peer: PeerId(900) });
}

#[test]
fn patience_is_a_nodes_own_and_its_beats_are_not_rarer_for_it() {
    for (heartbeat_ms, least_ms, most_ms) in [
        (100, 800, 901),
        (250, 2_000, 2_251),
        (2_000, 16_000, 16_251),
    ] {
        let timings = Timings::with_heartbeat(heartbeat_ms * MS);
        assert!(timings.beat_ns <= 250 * MS);
        let (mut rig, parent) = member_with(timings);
        let outputs = rig.pass(least_ms - 1);
        assert!(!outputs.contains(&PlaceOutput::Dropped { peer: parent }));
        let outputs = rig.pass(most_ms + 1 - least_ms);
        check_closed(&outputs, parent, CloseWhy::Silent);
    }
}

/// The question of a node that was elected.
fn ask_as_root(term: u64) -> PlaceMessage {
    PlaceMessage::Ask(Ask {
        commits: false,
        standing: Standing::new(true, term, 0, NodeId(9)),
        lost: 0,
        subtree: 3,
        name: String::new(),
    })
}

/// A root whose child was silent, and the connection by which the one that was elected meanwhile asks it for a place.
fn bereft(term: u64) -> (Rig, PeerId) {
    let (mut rig, _) = Rig::new(config(&[]));
    let child = rig.child(9);
    check_closed(&rig.pass(2_300), child, CloseWhy::Silent);
    let (peer, _) = rig.connect(9, None);
    rig.say(peer, ask_as_root(term));
    (rig, peer)
}

#[test]
fn a_root_that_comes_back_takes_its_place_again() {
    let (mut rig, peer) = bereft(2);
    let reign = rig.place.reign();
    assert_eq!(
        (reign.settled, reign.term, reign.root()),
        (true, 3, NodeId(u64::from(OWN)))
    );
    let outputs = rig.say(peer, ask(true));
    assert!(matches!(
        outputs[..],
        [PlaceOutput::Send {
            message: PlaceMessage::Accept(_),
            ..
        }]
    ));
    // Who was elected more than once since has the place for good.
    let (rig, _) = bereft(3);
    assert_eq!(rig.place.reign().term, 1);
    // The old connection of a child that was elected may end later than its question comes by a new one.
    let (mut rig, _) = Rig::new(config(&[]));
    rig.child(9);
    let (peer, _) = rig.connect(9, None);
    rig.say(peer, ask_as_root(2));
    assert_eq!(rig.place.reign().term, 3);
}

#[test]
fn a_root_that_comes_back_late_or_a_second_time_joins() {
    let (mut rig, _) = Rig::new(config(&[]));
    let child = rig.child(9);
    check_closed(&rig.pass(2_300), child, CloseWhy::Silent);
    rig.pass(61_000);
    let (peer, _) = rig.connect(9, None);
    rig.say(peer, ask_as_root(2));
    assert_eq!(rig.place.reign().term, 1);
    let (mut rig, peer) = bereft(2);
    rig.say(peer, ask_as_root(4));
    assert_eq!(rig.place.reign().term, 3);
}

#[test]
fn memory_keeps_what_was_heard_of_last() {
    let mut memory = Memory::new(vec![address(1)], Some(address(2)));
    assert!(!memory.add(Some(address(1))) && !memory.add(Some(address(2))));
    for number in 10..=10 + REMEMBERED_MAX as u8 {
        assert!(memory.add(Some(address(number))));
    }
    assert_eq!(memory.len(), REMEMBERED_MAX);
    assert!(!memory.add(Some(address(11))));
    assert!(memory.add(Some(address(10))));
    let shared = memory.share(16);
    assert_eq!(shared[..3], [address(1), address(10), address(11)]);
    assert_eq!(shared.len(), 16);
}

/// Where a root dials in three seconds after a child has named these addresses.
fn dialed_when_told(is_local: bool, named: &[&str]) -> Vec<String> {
    let config = PlaceConfig {
        is_local,
        seeds: vec![address(1)],
        ..config(&[])
    };
    let (mut rig, outputs) = Rig::new(config);
    let mut dialed = outputs;
    // The seed does not answer, so the node is a root in a moment.
    dialed.extend(rig.pass(1_200));
    let child = rig.child(9);
    let contacts = named.iter().map(|named| {
        let address = named.parse().unwrap();
        Contact::new(NodeId(0), Some(address))
    });
    let known = Known {
        contacts: contacts.collect(),
    };
    dialed.extend(rig.say(child, PlaceMessage::Known(known)));
    for _ in 0..12 {
        rig.handle(PlaceInput::Heard { peer: child });
        dialed.extend(rig.pass(250));
    }
    let dials = dialed.iter().filter_map(|output| match output {
        PlaceOutput::Dial { address, .. } => Some(address.to_string()),
        _ => None,
    });
    let mut dials: Vec<String> = dials.collect();
    dials.sort();
    dials.dedup();
    dials
}

#[test]
fn without_a_secret_others_name_no_addresses_of_other_machines() {
    let named = ["192.0.2.7:22", "[2001:db8::7]:22", "[::ffff:192.0.2.7]:22"];
    assert_eq!(dialed_when_told(true, &named), ["10.0.0.1:7401"]);
    let near = ["127.0.0.1:7402", "[::1]:7403"];
    let dialed = dialed_when_told(true, &near);
    assert!(
        near.iter().all(|near| dialed.contains(&near.to_string())),
        "{dialed:?}"
    );
    // Who has the secret is a member, and may know of nodes elsewhere.
    let dialed = dialed_when_told(false, &named[..1]);
    assert!(dialed.contains(&named[0].to_string()), "{dialed:?}");
}
