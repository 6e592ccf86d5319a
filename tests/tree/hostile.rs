//! Whoever connects to the port for nodes and is none, or none of this tree: refused at once, told why, and neither the
//! node's clients nor its links notice.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use sapwood_wire::node::hello::{ANSWER_BYTES, Dial, Hello, Refusal, Welcome};
use sapwood_wire::node::interest::Beat;
use sapwood_wire::node::place::{Contact, Known, PlaceMessage};
use sapwood_wire::node::{self, NodeId, Parsed, VERSIONS, kind};

use crate::common::native::{Event, NativeClient};
use crate::common::resp::{RawClient, Value, request};
use crate::common::{Broker, VALUE_SECONDS_MAX};
use crate::fake::FakeNode;
use crate::load::{File, alone, wait_until};
use crate::nodes::{Ear, Tree, until_native_heard};

/// Wrong bytes are refused at once; this is the most that a loaded machine makes of it.
const AT_ONCE: Duration = Duration::from_millis(500);
/// How long who says nothing may stay.
const SILENCE_MAX: Duration = Duration::from_secs(12);

const PLAIN: Dial = Dial {
    versions: VERSIONS,
    sealed: false,
    lane: 0,
};

/// A connection to the port for nodes.
struct Guest {
    stream: TcpStream,
    begun: Instant,
}

impl Guest {
    fn dial(node: &Broker) -> Guest {
        let stream = TcpStream::connect(("127.0.0.1", node.node_port())).unwrap();
        stream.set_read_timeout(Some(SILENCE_MAX)).unwrap();
        Guest {
            stream,
            begun: Instant::now(),
        }
    }

    /// The node may have closed: reading tells.
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// All that comes until the node closes, and how long that took.
    fn rest(mut self) -> (Vec<u8>, Duration) {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("not closed: {error}"),
        }
        (bytes, self.begun.elapsed())
    }

    /// The node refuses for this reason, at once.
    fn must_be_refused(self, why: Refusal) {
        let (bytes, took) = self.rest();
        assert!(took < AT_ONCE, "{why:?} after {took:?}");
        assert_eq!(&bytes[..4], b"SAPW", "{bytes:?}");
        assert_eq!((bytes[4], bytes[5]), (0, why.code()), "{why:?}");
        assert_eq!(&bytes[ANSWER_BYTES..], why.text().as_bytes());
    }

    /// Says hello, and gives who is there.
    fn greet(&mut self, id: NodeId) {
        self.send(&PLAIN.bytes());
        let answer = self.read(ANSWER_BYTES);
        assert_eq!(answer[4], VERSIONS.1);
        let mut bytes = Vec::new();
        let hello = Hello {
            node: id,
            incarnation: 1,
            link: 7,
            received: 0,
            lane: 0,
            shards: 1,
            advertise: "",
            name: "stranger",
        };
        hello.write(VERSIONS.1, &mut bytes);
        self.send(&bytes);
    }

    fn welcome(&mut self) -> NodeId {
        let mut bytes = self.read(node::HEADER_BYTES);
        let length = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
        bytes.extend(self.read(length as usize));
        let Ok(Parsed::Frame(frame, _)) = node::parse(&bytes, VERSIONS.1, 1024) else {
            panic!("no frame: {bytes:?}");
        };
        Welcome::read(&frame).unwrap().node
    }
}

/// Clients of a node that goes through all this, and of another one.
struct Bystanders {
    ears: Vec<Ear>,
    publisher: NativeClient,
    redis: RawClient,
    events: u32,
}

impl Bystanders {
    fn new(tree: &Tree) -> Bystanders {
        let ears = tree.ears("quiet");
        let mut publisher = NativeClient::connect(tree.nodes[0].native_port());
        until_native_heard(&mut publisher, "quiet", &ears);
        Bystanders {
            ears,
            publisher,
            redis: RawClient::connect(tree.nodes[0].port()),
            events: 0,
        }
    }

    fn notice_nothing(&mut self) {
        self.events += 1;
        let event = Event::new("quiet", self.events.to_string());
        self.publisher.publish(&event);
        for ear in &self.ears {
            assert_eq!(ear.next(), event);
        }
        let pong = Value::Simple("PONG".to_string());
        assert_eq!(self.redis.call(&["PING"]), pong);
    }
}

/// A line of the node's log gives this as the reason.
fn log_says(node: &Broker, part: &str) {
    wait_until(part, || {
        let text = node.stderr();
        let mut lines = text.lines();
        lines.any(|line| line.contains("no link with") && line.contains(part))
    });
}

#[test]
fn who_does_not_speak_the_protocol_is_refused_at_once() {
    let _alone = alone();
    for shards in [1, 2] {
        let tree = Tree::start(2, &[shards], &[]);
        let node = &tree.nodes[0];
        let mut bystanders = Bystanders::new(&tree);
        let garbage: [&[u8]; 5] = [
            &request(&[b"PING"]),
            b"PING\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"CONNECT {}\r\n",
            &[0xff; 100_000],
        ];
        for bytes in garbage {
            let mut guest = Guest::dial(node);
            guest.send(bytes);
            guest.must_be_refused(Refusal::Protocol);
            bystanders.notice_nothing();
        }
        log_says(node, Refusal::Protocol.text());
        for versions in [(9, 9), (2, 1), (0, 0)] {
            let mut guest = Guest::dial(node);
            guest.send(&Dial { versions, ..PLAIN }.bytes());
            guest.must_be_refused(Refusal::Version);
            bystanders.notice_nothing();
        }
        log_says(node, Refusal::Version.text());
        let mut guest = Guest::dial(node);
        let sealed = Dial {
            sealed: true,
            ..PLAIN
        };
        guest.send(&sealed.bytes());
        guest.must_be_refused(Refusal::SealedUnexpectedly);
        log_says(node, Refusal::SealedUnexpectedly.text());
        bystanders.notice_nothing();
    }
}

#[test]
fn a_node_that_meets_itself_is_refused() {
    let _alone = alone();
    for shards in [1, 2] {
        let tree = Tree::start(2, &[shards], &[]);
        let mut bystanders = Bystanders::new(&tree);
        let node = &tree.nodes[0];
        let mut guest = Guest::dial(node);
        guest.greet(NodeId(0xfeed));
        let id = guest.welcome();
        drop(guest);
        let mut guest = Guest::dial(node);
        guest.greet(id);
        guest.must_be_refused(Refusal::Itself);
        log_says(node, Refusal::Itself.text());
        bystanders.notice_nothing();
    }
}

#[test]
fn a_frame_that_claims_too_much_ends_its_connection_at_once() {
    let _alone = alone();
    for shards in [1, 2] {
        let tree = Tree::start(2, &[shards], &[]);
        let mut bystanders = Bystanders::new(&tree);
        let node = &tree.nodes[0];
        let before = node.resident_kib();
        // As the first frame, and behind a good one.
        for is_let_in in [false, true] {
            let mut guest = Guest::dial(node);
            guest.greet(NodeId(0xfeed));
            guest.welcome();
            let mut bytes = Vec::new();
            if is_let_in {
                let beat = Beat {
                    received: 0,
                    sent_ns: 1,
                    echo_ns: 0,
                };
                beat.write(VERSIONS.1, &mut bytes);
            }
            let header = bytes.len();
            node::write_frame(&mut bytes, VERSIONS.1, kind::EVENTS, 0, |_| {});
            let length: u32 = 100 * 1024 * 1024;
            bytes[header + 8..header + 12].copy_from_slice(&length.to_le_bytes());
            bytes.resize(bytes.len() + 10_000, 7);
            guest.send(&bytes);
            let (_, took) = guest.rest();
            assert!(took < AT_ONCE, "closed after {took:?}");
            bystanders.notice_nothing();
        }
        log_says(node, "");
        let grown = node.resident_kib().saturating_sub(before);
        assert!(grown < 20 * 1024, "it took {grown} KiB");
    }
}

#[test]
fn who_connects_and_says_nothing_is_cut() {
    let _alone = alone();
    let config = File::new("[limits]\nguest_ms_max = 900\n");
    for shards in [1, 2] {
        let tree = Tree::start(2, &[shards], &["--config", config.path()]);
        let mut bystanders = Bystanders::new(&tree);
        let node = &tree.nodes[0];
        let mut half = Guest::dial(node);
        half.send(&PLAIN.bytes()[..9]);
        let mut greeted = Guest::dial(node);
        greeted.send(&PLAIN.bytes());
        let mut unproven = Guest::dial(node);
        unproven.greet(NodeId(0xfeed));
        for guest in [Guest::dial(node), half, greeted, unproven] {
            let (_, took) = guest.rest();
            assert!(took < Duration::from_secs(2), "cut after {took:?}");
        }
        bystanders.notice_nothing();
    }
}

/// A second node that is to join the first, with these arguments.
fn second(first: &Broker, shards: usize, args: &[&str]) -> Broker {
    let join = format!("127.0.0.1:{}", first.node_port());
    let mut all = vec!["--join", &*join];
    all.extend_from_slice(args);
    Broker::start(shards, &all)
}

#[test]
fn only_nodes_with_the_same_secret_are_linked() {
    let _alone = alone();
    let [one, other] = ["correct horse battery staple\n", "quite another secret\n"].map(File::new);
    let (one, other) = (
        ["--cluster-secret-file", one.path()],
        ["--cluster-secret-file", other.path()],
    );
    let cases: [(&[&str], &[&str], Refusal); 3] = [
        (&one, &other, Refusal::SecretWrong),
        (&one, &[], Refusal::SecretRequired),
        (&[], &one, Refusal::SealedUnexpectedly),
    ];
    for shards in [1, 2] {
        for (first, joining, why) in cases {
            let tree = Tree::start(2, &[shards, 3 - shards], first);
            let mut bystanders = Bystanders::new(&tree);
            let stranger = second(&tree.nodes[0], shards, joining);
            log_says(&tree.nodes[0], why.text());
            log_says(&stranger, why.text());
            let outside = Ear::native(&stranger, "quiet");
            bystanders.notice_nothing();
            outside.hears_nothing();
        }
    }
}

#[test]
fn a_sealed_tree_carries_events_of_any_size() {
    let _alone = alone();
    let secret = File::new("correct horse battery staple\n");
    let args = ["--cluster-secret-file", secret.path()];
    for shards in [&[1][..], &[2], &[1, 2]] {
        let tree = Tree::start(4, shards, &args);
        let ears = tree.ears("sealed");
        for mut publisher in tree.publishers() {
            until_native_heard(&mut publisher, "sealed", &ears);
            for length in [0, 1, 65_519, 70_000, 2 * 1024 * 1024] {
                let event = Event::new("sealed", vec![0xa5; length]);
                publisher.publish(&event);
                for ear in &ears {
                    assert!(ear.next() == event, "{length} bytes");
                }
            }
        }
    }
}

/// An address of this machine that is not loopback, if it has one.
fn outer_address() -> Option<IpAddr> {
    // Connecting a datagram socket sends nothing.
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    Some(ip).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[test]
fn a_child_without_a_secret_cannot_make_a_node_dial_other_machines() {
    let _alone = alone();
    let Some(outer) = outer_address() else {
        println!("this machine has no address but loopback: nothing is tested");
        return;
    };
    for shards in [1, 2] {
        let node = Broker::start(shards, &[]);
        let listen = |ip: IpAddr| TcpListener::bind((ip, 0)).unwrap();
        let (far, near) = (listen(outer), listen(Ipv4Addr::LOCALHOST.into()));
        far.set_nonblocking(true).unwrap();
        let mut fake = FakeNode::join(&node);
        // The one on loopback is named behind the other, so that it is dialed after it.
        for _ in 0..3 {
            let contacts = [&far, &near]
                .map(|listener| Contact::new(NodeId(0), Some(listener.local_addr().unwrap())));
            fake.say(&PlaceMessage::Known(Known {
                contacts: contacts.to_vec(),
            }));
            near.accept().unwrap();
        }
        let dialed = far.accept().map(|(_, peer)| peer);
        assert_eq!(
            dialed.map_err(|error| error.kind()),
            Err(std::io::ErrorKind::WouldBlock),
            "{shards} shards"
        );
    }
}

/// More than a node keeps for a link.
const GLOBS: usize = 300_000;
/// How long a PING may take meanwhile. Before it was 1.4 s; the rest is room for a busy machine.
const PING_MAX: Duration = Duration::from_millis(600);

#[test]
fn a_node_that_wants_more_globs_than_it_may_gets_everything_and_stops_nobody() {
    let _alone = alone();
    for shards in [1, 2] {
        let node = Broker::start(shards, &[]);
        let mut fake = FakeNode::join(&node);
        let globs: Vec<String> = (0..GLOBS).map(|number| format!("*[ab]{number}*")).collect();
        fake.want_globs(&globs);
        // All of it is known when what nobody asked for comes, as the first globs do not match it.
        let mut publisher = NativeClient::connect(node.native_port());
        wait_until("everything is sent", || {
            publisher.publish(&Event::new("unasked", "-"));
            fake.hears("unasked", Duration::from_millis(20))
        });
        let mut redis = RawClient::connect(node.port());
        let mut longest = Duration::ZERO;
        for number in 0..100 {
            let begun = Instant::now();
            redis.call(&["PUBLISH", &format!("topic{number}"), "-"]);
            longest = longest.max(begun.elapsed());
        }
        println!("{shards} shards, {GLOBS} globs: a PUBLISH takes {longest:?} at most");
        assert!(longest < PING_MAX, "a PUBLISH took {longest:?}");
        // The node's own clients have their patterns all the same.
        let ear = Ear::redis(&node, "PSUBSCRIBE", "own.*");
        let event = Event::new("own.one", "heard");
        publisher.publish(&event);
        assert_eq!(ear.next(), event);
        assert!(fake.hears("own.one", VALUE_SECONDS_MAX));
    }
}
