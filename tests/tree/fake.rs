//! A node that is none of ours: it speaks the protocol of nodes by itself, over real sockets, and says what a test wants.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use sapwood_wire::node::events::Events;
use sapwood_wire::node::hello::{ANSWER_BYTES, Dial, Hello};
use sapwood_wire::node::interest::{
    Beat, Change, FilterKind, InterestHead, changes_that_fit, write_interest,
};
use sapwood_wire::node::place::{self, Ask, Confirm, PlaceMessage, Standing};
use sapwood_wire::node::{self, Frame, NodeId, Parsed, VERSIONS, kind};

use crate::common::{Broker, VALUE_SECONDS_MAX};

/// Who it says that it is.
const ID: u64 = 0xfa4e;

/// How often it shows that it lives.
const BEAT: Duration = Duration::from_millis(200);

/// What comes to it.
enum Came {
    Place(PlaceMessage),
    /// Events of this topic.
    Events(Vec<u8>),
}

/// A child of a node, with all lanes.
pub struct FakeNode {
    lanes: Vec<TcpStream>,
    came: Receiver<Came>,
    /// Of the last INTEREST.
    sequence: u64,
}

impl FakeNode {
    /// Takes a place below this node, which must have room.
    pub fn join(node: &Broker) -> FakeNode {
        let (heard, came) = mpsc::channel();
        let mut fake = FakeNode {
            lanes: vec![open_lane(node, 0, &heard)],
            came,
            sequence: 0,
        };
        fake.say(&PlaceMessage::Ask(Ask {
            commits: true,
            standing: Standing::new(false, 0, u8::MAX, NodeId(ID)),
            lost: 0,
            subtree: 1,
            name: "fake".to_string(),
        }));
        let child = loop {
            if let Came::Place(PlaceMessage::Accept(accept)) = fake.next() {
                break accept.lineage.path.last().copied().unwrap();
            }
        };
        fake.say(&PlaceMessage::Confirm(Confirm { child }));
        for lane in 1..node.shards() {
            fake.lanes.push(open_lane(node, lane as u8, &heard));
        }
        fake
    }

    fn next(&self) -> Came {
        let came = self.came.recv_timeout(VALUE_SECONDS_MAX);
        came.expect("the node says something")
    }

    /// Says something about places.
    pub fn say(&mut self, message: &PlaceMessage) {
        let mut frame = Vec::new();
        place::write(message, VERSIONS.1, &mut frame);
        self.lanes[0].write_all(&frame).unwrap();
    }

    /// Says that it wants what these globs match.
    pub fn want_globs(&mut self, globs: &[String]) {
        let change = |glob| Change {
            kind: FilterKind::Glob,
            name: String::as_bytes(glob),
            group: b"",
            listeners: 1,
        };
        let mut rest: Vec<Change<'_>> = globs.iter().map(change).collect();
        while !rest.is_empty() {
            let behind = rest.split_off(changes_that_fit(rest.iter().copied()));
            self.sequence += 1;
            let head = InterestHead {
                sequence: self.sequence,
                everything: false,
                restart: false,
            };
            let mut frame = Vec::new();
            write_interest(&mut frame, VERSIONS.1, head, rest.iter().copied());
            self.lanes[0].write_all(&frame).unwrap();
            rest = behind;
        }
    }

    /// Whether events of this topic come in time.
    pub fn hears(&self, topic: &str, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.came.recv_timeout(left) {
                Ok(Came::Events(came)) if came == topic.as_bytes() => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }
}

/// Opens a lane; a thread reads it, and another one beats.
fn open_lane(node: &Broker, lane: u8, heard: &Sender<Came>) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", node.node_port())).unwrap();
    let dial = Dial {
        versions: VERSIONS,
        sealed: false,
        lane,
    };
    stream.write_all(&dial.bytes()).unwrap();
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[4], VERSIONS.1, "{answer:?}");
    let hello = Hello {
        node: NodeId(ID),
        incarnation: 1,
        link: 7,
        received: 0,
        lane,
        shards: 1,
        advertise: "",
        name: "fake",
    };
    let mut bytes = Vec::new();
    hello.write(VERSIONS.1, &mut bytes);
    beat().write(VERSIONS.1, &mut bytes);
    stream.write_all(&bytes).unwrap();
    let (mut reading, mut beating) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
    let heard = heard.clone();
    thread::spawn(move || while read_frame(&mut reading, &heard).is_some() {});
    thread::spawn(move || {
        let mut frame = Vec::new();
        beat().write(VERSIONS.1, &mut frame);
        // Ends when the connection does.
        while beating.write_all(&frame).is_ok() {
            thread::sleep(BEAT);
        }
    });
    stream
}

fn beat() -> Beat {
    Beat {
        received: 0,
        sent_ns: 1,
        echo_ns: 0,
    }
}

/// Reads a frame; `None` when the connection or its reader has ended.
fn read_frame(stream: &mut TcpStream, heard: &Sender<Came>) -> Option<()> {
    let mut bytes = vec![0; node::HEADER_BYTES];
    stream.read_exact(&mut bytes).ok()?;
    let length = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
    bytes.resize(node::HEADER_BYTES + length, 0);
    stream.read_exact(&mut bytes[node::HEADER_BYTES..]).ok()?;
    let Ok(Parsed::Frame(frame, _)) = node::parse(&bytes, VERSIONS.1, usize::MAX) else {
        panic!("no frame: {bytes:?}");
    };
    match came(&frame) {
        Some(came) => heard.send(came).ok(),
        None => Some(()),
    }
}

fn came(frame: &Frame<'_>) -> Option<Came> {
    match frame.kind {
        kind::PLACE_FIRST..=kind::PLACE_LAST => Some(Came::Place(place::read(frame).unwrap())),
        kind::EVENTS => {
            let events = Events::read(frame).unwrap();
            Some(Came::Events(events.head().topic.to_vec()))
        }
        _ => None,
    }
}
