//! The protocol between nodes, as specified in `NODE.md` beside `wire/node.rs`: one connection, which carries a lane of
//! a link.
//!
//! Owns the state of a connection until its lane takes over: preambles, HELLO and WELCOME, and encryption. What frames
//! do is the business of links (`tree`), the place machine, and delivery. Start at [`NodeSession::handle`].

use super::interest_sync;
use super::links::Peer;
use super::news::TreeNews;
use super::notice::refusal_text;
use super::place::{PeerId, PlaceInput};
use super::state::{Purpose, Tree};
use crate::command::{ClientRecord, CloseReason, ConnId, LinkId, ShardId};
use crate::context::{Parts, SessionStep, Then};
use crate::delivery::{Arrival, Received};
use crate::limits::ACKNOWLEDGE_BYTES;
use crate::mailbox::Control;
use crate::outbox::Outboxes;
use crate::routing::interest::Change;
use bytes::Bytes;
use core::net::SocketAddr;
use sapwood_wire::limits::NODE_FRAME_BYTES_MAX;
use sapwood_wire::node::events::{Events, Space};
use sapwood_wire::node::hello::{self, Answer, Dial, Hello, Opening, Refusal, Welcome};
use sapwood_wire::node::interest::{Beat, FilterKind, Interest, Lost, Needs};
use sapwood_wire::node::seal::Sealer;
use sapwood_wire::node::{self, Frame, FrameError, Parsed, VERSIONS, kind, place};
use std::fmt;
use std::sync::Arc;

/// Maximum length of HELLO and WELCOME, and of their sealed forms.
const GREETING_BYTES_MAX: usize = 1024;

/// The state of the handshake: which side dialed, and what is awaited.
#[derive(Debug)]
enum Phase {
    /// Accepted; awaiting the dialer's preamble.
    Preamble,
    /// Accepted; awaiting HELLO.
    Hello,
    /// Accepted and answered; awaiting the dialer's first frame, which proves that HELLO was not replayed.
    First(Box<Guest>),
    /// Dialed; awaiting the answer to the preamble.
    Answer,
    /// Dialed; awaiting WELCOME.
    Welcome,
    /// The connection carries a lane.
    Up {
        link: LinkId,
        lane: u16,
        /// Numbered frames still to be skipped as retransmissions: they arrived on the lane's previous connection.
        again: u64,
    },
}

/// The dialing node, as described by its HELLO.
#[derive(Clone, Debug)]
struct Guest {
    token: u64,
    lane: u16,
    peer: Peer,
    /// Sequence number of the last frame of the lane that it has received.
    has: u64,
    /// Sequence number that it was told in WELCOME as received here.
    told: u64,
}

/// State of a connection between nodes.
#[derive(Debug)]
pub(crate) struct NodeSession {
    phase: Phase,
    dial: Dial,
    /// The purpose of the dial; `None` if the connection was accepted.
    purpose: Option<Purpose>,
    /// The token of a link that begins with this connection.
    token: u64,
    sealer: Option<Box<Sealer>>,
    /// Decrypted bytes that are not yet handled.
    plain: Vec<u8>,
}

/// The reason why a connection between nodes must end.
enum Fault {
    /// A refusal to be sent to the dialer.
    Refuse(Refusal),
    /// A refusal received from the node that was dialed.
    Refused(String),
    Frame(FrameError),
    Other(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Refuse(refusal) => refusal.fmt(f),
            Fault::Refused(text) => f.write_str(text),
            Fault::Frame(error) => error.fmt(f),
            Fault::Other(text) => f.write_str(text),
        }
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Fault {
        Fault::Frame(error)
    }
}

/// The next step within one call.
enum LinkStep {
    /// Continue after this many bytes.
    On(usize),
    Then(Then),
    /// This many bytes were handled; then this follows.
    Both(usize, Then),
}

impl NodeSession {
    /// A session for an accepted connection.
    pub(crate) fn accepted() -> NodeSession {
        NodeSession {
            phase: Phase::Preamble,
            dial: Dial {
                versions: VERSIONS,
                sealed: false,
                lane: 0,
            },
            purpose: None,
            token: 0,
            sealer: None,
            plain: Vec::new(),
        }
    }

    /// A session for a dialed connection.
    pub(crate) fn dialed(purpose: Purpose, is_sealed: bool) -> NodeSession {
        let lane = match purpose {
            Purpose::Place(_) => 0,
            Purpose::Lane { lane, .. } => lane,
        };
        NodeSession {
            phase: Phase::Answer,
            dial: Dial {
                versions: VERSIONS,
                sealed: is_sealed,
                lane: lane as u8,
            },
            purpose: Some(purpose),
            ..NodeSession::accepted()
        }
    }

    /// Writes the preamble if this side dialed.
    pub(crate) fn greet(&self, conn: ConnId, outboxes: &mut Outboxes) {
        if matches!(self.phase, Phase::Answer) {
            outboxes.reply_bare(conn, |out| out.extend_from_slice(&self.dial.bytes()));
        }
    }

    pub(crate) fn awaits_auth(&self) -> bool {
        !matches!(self.phase, Phase::Up { .. })
    }

    /// The lane that the connection carries.
    pub(crate) fn lane(&self) -> Option<(LinkId, u16)> {
        match self.phase {
            Phase::Up { link, lane, .. } => Some((link, lane)),
            _ => None,
        }
    }

    /// The purpose of the dial, if the connection was dialed and has not become a lane.
    pub(crate) fn failed_purpose(&self) -> Option<Purpose> {
        self.purpose.filter(|_| self.awaits_auth())
    }

    pub(crate) fn kept_bytes(&self) -> usize {
        self.plain.len()
    }

    pub(crate) fn forget_unfinished(&mut self) {
        self.plain = Vec::new();
    }

    pub(crate) fn describe(&self, record: &mut ClientRecord) {
        record.command = "node";
    }

    /// Writes whole frames, encrypted if the connection is.
    pub(crate) fn write(&mut self, frames: &Bytes, conn: ConnId, outboxes: &mut Outboxes) {
        match self.sealer {
            None => outboxes.carry(conn, frames),
            Some(_) => self.write_sealed(frames, conn, outboxes),
        }
    }

    fn write_sealed(&mut self, frames: &[u8], conn: ConnId, outboxes: &mut Outboxes) {
        if let Some(sealer) = &mut self.sealer {
            // Fails when the key has sealed its maximum of messages: the other side then sees silence and gives up.
            outboxes.reply_bare(conn, |out| sealer.seal(frames, out).unwrap_or_default());
        }
    }

    /// Writes one short frame.
    pub(crate) fn write_frame(
        &mut self,
        conn: ConnId,
        outboxes: &mut Outboxes,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        match self.sealer {
            None => outboxes.reply_bare(conn, encode),
            Some(_) => {
                let mut frame = Vec::new();
                encode(&mut frame);
                self.write_sealed(&frame, conn, outboxes);
            }
        }
    }

    /// Handles input as far as the connection may go on.
    pub(crate) fn handle(&mut self, input: &[u8], cx: &mut Parts<'_>) -> SessionStep {
        let mut consumed = 0;
        let Some(mut tree) = cx.tree.take() else {
            let then = Then::Close(CloseReason::Protocol);
            return SessionStep { consumed, then };
        };
        let then = loop {
            let rest = &input[consumed..];
            match self.step(rest, &mut tree, cx) {
                Ok(LinkStep::On(taken)) => consumed += taken,
                Ok(LinkStep::Then(then)) => break then,
                Ok(LinkStep::Both(taken, then)) => {
                    consumed += taken;
                    break then;
                }
                Err(fault) => {
                    consumed = input.len();
                    self.give_up(&fault, &mut tree, cx);
                    break Then::Close(CloseReason::Protocol);
                }
            }
        };
        *cx.tree = Some(tree);
        SessionStep { consumed, then }
    }

    /// Reports why the connection ends: in the log, and by a refusal to a dialer that was not accepted yet.
    fn give_up(&mut self, fault: &Fault, tree: &mut Tree, cx: &mut Parts<'_>) {
        cx.counters.errors += 1;
        tree.note_refused(cx.identity.peer, fault);
        let is_told = matches!(self.phase, Phase::Preamble | Phase::Hello);
        if let (Fault::Refuse(refusal), true) = (fault, is_told) {
            let text = refusal.text();
            cx.outboxes
                .reply_bare(cx.conn, |out| hello::write_refused(out, *refusal, text));
        }
    }

    fn step(
        &mut self,
        input: &[u8],
        tree: &mut Tree,
        cx: &mut Parts<'_>,
    ) -> Result<LinkStep, Fault> {
        match self.phase {
            Phase::Preamble => self.take_preamble(input, tree, cx),
            Phase::Answer => self.take_answer(input, tree, cx),
            Phase::Hello | Phase::Welcome => self.take_greeting(input, tree, cx),
            Phase::First(_) | Phase::Up { .. } => self.take_frames(input, tree, cx),
        }
    }

    fn take_preamble(
        &mut self,
        input: &[u8],
        tree: &mut Tree,
        cx: &mut Parts<'_>,
    ) -> Result<LinkStep, Fault> {
        let (dial, length) = match hello::parse_dial(input).map_err(Fault::Refuse)? {
            Opening::Whole(dial, length) => (dial, length),
            Opening::Incomplete { needed } => return Ok(read(needed)),
        };
        let home = ShardId(u16::from(dial.lane) % cx.settings.shards);
        if home != cx.settings.shard {
            return Ok(LinkStep::Then(Then::Move(home)));
        }
        let version = dial.choose_version(VERSIONS).map_err(Fault::Refuse)?;
        match (&tree.config.key, dial.sealed) {
            (Some(_), false) => return Err(Fault::Refuse(Refusal::SecretRequired)),
            (None, true) => return Err(Fault::Refuse(Refusal::SealedUnexpectedly)),
            _ => {}
        }
        if cx.settings.is_ending {
            return Err(Fault::Refuse(Refusal::Draining));
        }
        self.dial = dial;
        if let Some(key) = tree.config.key.clone() {
            let prologue = hello::prologue(&dial, version);
            let sealer = Sealer::accept(&key, &prologue, tree.draw());
            self.sealer = Some(Box::new(sealer));
        }
        cx.outboxes
            .reply_bare(cx.conn, |out| hello::write_accepted(out, version));
        self.phase = Phase::Hello;
        Ok(LinkStep::On(length))
    }

    fn take_answer(
        &mut self,
        input: &[u8],
        tree: &mut Tree,
        cx: &mut Parts<'_>,
    ) -> Result<LinkStep, Fault> {
        let answer = hello::parse_answer(input, VERSIONS)
            .map_err(|error| Fault::Refused(error.to_string()))?;
        let (answer, length) = match answer {
            Opening::Whole(answer, length) => (answer, length),
            Opening::Incomplete { needed } => return Ok(read(needed)),
        };
        let version = match answer {
            Answer::Accepted { version } => version,
            Answer::Refused { code, text } => {
                return Err(Fault::Refused(refusal_text(code, text)));
            }
        };
        if let Some(key) = tree.config.key.clone() {
            let prologue = hello::prologue(&self.dial, version);
            let sealer = Sealer::dial(&key, &prologue, tree.draw());
            self.sealer = Some(Box::new(sealer));
        }
        let mut frame = Vec::new();
        self.hello(tree, cx)?.write(VERSIONS.1, &mut frame);
        self.write_greeting(&frame, cx)?;
        self.phase = Phase::Welcome;
        Ok(LinkStep::On(length))
    }

    fn hello<'a>(&mut self, tree: &'a mut Tree, cx: &mut Parts<'_>) -> Result<Hello<'a>, Fault> {
        let (link, received) = match self.purpose {
            Some(Purpose::Place(dial)) => {
                self.token = tree.greet(dial);
                (self.token, 0)
            }
            Some(Purpose::Lane { link, token, lane }) => {
                let lane = cx.links.lane_mut(link, lane);
                let lane = lane.ok_or(Fault::Other("its link has ended meanwhile"))?;
                (token, lane.received)
            }
            None => unreachable!("only who dialed greets"),
        };
        Ok(Hello {
            node: tree.node(),
            incarnation: tree.config.place.incarnation,
            link,
            received,
            lane: self.dial.lane,
            shards: cx.settings.shards as u8,
            advertise: &tree.advertised,
            name: &tree.config.place.name,
        })
    }

    /// Writes HELLO or WELCOME.
    fn write_greeting(&mut self, frame: &[u8], cx: &mut Parts<'_>) -> Result<(), Fault> {
        match &mut self.sealer {
            None => cx
                .outboxes
                .reply_bare(cx.conn, |out| out.extend_from_slice(frame)),
            Some(sealer) => {
                let mut message = Vec::new();
                let written = sealer.write_handshake(frame, &mut message);
                written.map_err(|_| Fault::Other("the seal cannot be made"))?;
                cx.outboxes
                    .reply_bare(cx.conn, |out| out.extend_from_slice(&message));
            }
        }
        Ok(())
    }

    /// Handles HELLO or WELCOME.
    fn take_greeting(
        &mut self,
        input: &[u8],
        tree: &mut Tree,
        cx: &mut Parts<'_>,
    ) -> Result<LinkStep, Fault> {
        if let Phase::Welcome = self.phase {
            match hello::is_refusal(input) {
                None => return Ok(read(2)),
                Some(true) => return self.take_answer(input, tree, cx),
                Some(false) => {}
            }
        }
        let mut opened = Vec::new();
        let (frame_bytes, length) = match &mut self.sealer {
            None => (input, None),
            Some(sealer) => match sealer.read_handshake(input, &mut opened) {
                Ok(read_in) if read_in.consumed == 0 => return Ok(read(read_in.needed)),
                Ok(read_in) => (&opened[..], Some(read_in.consumed)),
                Err(_) => return Err(Fault::Refuse(Refusal::SecretWrong)),
            },
        };
        let (frame, frame_length) = match node::parse(frame_bytes, VERSIONS.1, GREETING_BYTES_MAX)?
        {
            Parsed::Frame(frame, length) => (frame, length),
            Parsed::Incomplete { needed } if length.is_none() => return Ok(read(needed)),
            Parsed::Incomplete { .. } => return Err(Fault::Other("a greeting is cut short")),
        };
        match self.phase {
            Phase::Hello => self.take_hello(&Hello::read(&frame)?, tree, cx)?,
            _ => self.take_welcome(&Welcome::read(&frame)?, tree, cx)?,
        }
        Ok(LinkStep::On(length.unwrap_or(frame_length)))
    }

    fn take_hello(
        &mut self,
        hello: &Hello<'_>,
        tree: &mut Tree,
        cx: &mut Parts<'_>,
    ) -> Result<(), Fault> {
        if hello.lane != self.dial.lane {
            return Err(Fault::Other("HELLO and preamble name different lanes"));
        }
        if hello.node == tree.node() {
            tree.meet_itself(hello.link, cx.now.monotonic_ns);
            return Err(Fault::Refuse(Refusal::Itself));
        }
        let peer = Peer {
            node: hello.node,
            incarnation: hello.incarnation,
            shards: u16::from(hello.shards),
            name: hello.name.into(),
            address: complete(hello.advertise, cx.identity.peer)?,
        };
        let lane = u16::from(hello.lane);
        let link = cx.links.find(hello.link, hello.node);
        let is_same = |link: &LinkId| cx.links.get(*link).is_some_and(|link| link.peer == peer);
        if link.is_none() && lane == 0 && cx.links.len() >= cx.settings.limits.links_max {
            return Err(Fault::Refuse(Refusal::Full));
        }
        let link = link.filter(is_same);
        let received = link
            .and_then(|link| cx.links.lane_mut(link, lane))
            .map(|lane| lane.received);
        let welcome = Welcome {
            node: tree.node(),
            incarnation: tree.config.place.incarnation,
            received: received.unwrap_or(0),
            shards: cx.settings.shards as u8,
            // This shard learns of the links of other lanes in time, or the connection ends.
            resumed: received.is_some() || lane > 0,
            advertise: &tree.advertised,
            name: &tree.config.place.name,
        };
        let mut frame = Vec::new();
        welcome.write(VERSIONS.1, &mut frame);
        self.write_greeting(&frame, cx)?;
        self.phase = Phase::First(Box::new(Guest {
            token: hello.link,
            lane,
            peer,
            has: hello.received,
            told: received.unwrap_or(0),
        }));
        Ok(())
    }

    fn take_welcome(
        &mut self,
        welcome: &Welcome<'_>,
        tree: &mut Tree,
        cx: &mut Parts<'_>,
    ) -> Result<(), Fault> {
        let peer = Peer {
            node: welcome.node,
            incarnation: welcome.incarnation,
            shards: u16::from(welcome.shards),
            name: welcome.name.into(),
            address: complete(welcome.advertise, cx.identity.peer)?,
        };
        match self.purpose {
            Some(Purpose::Place(dial)) => {
                let link = cx.links.free_place();
                let (node, address) = (peer.node, peer.address.or(Some(cx.identity.peer)));
                let incarnation = peer.incarnation;
                let peer = Peer { address, ..peer };
                cx.links
                    .open(link, self.token, peer, Some(cx.identity.peer));
                self.go_up((link, 0), 0, 0, tree, cx)?;
                let input = PlaceInput::Connected {
                    peer: PeerId(u64::from(link.0)),
                    node,
                    incarnation,
                    address,
                    dialed: Some(dial),
                };
                tree.place(input, cx.now.monotonic_ns);
            }
            Some(Purpose::Lane { link, lane, .. }) => {
                let there = cx
                    .links
                    .get(link)
                    .ok_or(Fault::Other("its link has ended"))?;
                let is_same =
                    (there.peer.node, there.peer.incarnation) == (peer.node, peer.incarnation);
                if !is_same || !welcome.resumed {
                    // A problem of another lane is no news: the first lane meets it as well.
                    if lane == 0 {
                        tree.broken.push(link);
                    }
                    return Err(Fault::Other("the other side knows nothing of the link"));
                }
                self.go_up((link, lane), welcome.received, 0, tree, cx)?;
            }
            None => unreachable!("only who dialed is welcomed"),
        }
        // The other side waits for a frame that proves that HELLO was not replayed.
        self.write_beat(cx);
        Ok(())
    }

    /// Starts to carry a lane of a link; the other side has received frames up to `has`.
    fn go_up(
        &mut self,
        (link, lane): (LinkId, u16),
        has: u64,
        told: u64,
        tree: &mut Tree,
        cx: &mut Parts<'_>,
    ) -> Result<Option<ConnId>, Fault> {
        let there = cx.links.lane_mut(link, lane);
        let there = there.ok_or(Fault::Other("a lane that the link does not have"))?;
        let before = there.conn;
        if !there.resume(cx.conn, has) {
            return Err(Fault::Other("it says that it has what it cannot have"));
        }
        there.silent_ns = 0;
        let is_again = there.reconnects() > 0;
        let again = if self.purpose.is_none() {
            there.received - told
        } else {
            0
        };
        self.phase = Phase::Up { link, lane, again };
        cx.links.list(link, lane);
        cx.links.counters.reconnects += u64::from(is_again);
        if is_again && lane == 0 {
            let peer = PeerId(u64::from(link.0));
            tree.place(PlaceInput::Resumed { peer }, cx.now.monotonic_ns);
        }
        Ok(before)
    }

    /// Writes a heartbeat, which acknowledges the frames received.
    pub(crate) fn write_beat(&mut self, cx: &mut Parts<'_>) {
        let Phase::Up { link, lane, .. } = self.phase else {
            return;
        };
        let now_ns = cx.now.monotonic_ns;
        if let Some(lane) = cx.links.lane_mut(link, lane) {
            let beat = lane.beat(now_ns);
            self.write_frame(cx.conn, cx.outboxes, |out| beat.write(VERSIONS.1, out));
        }
    }
}

fn read(needed: usize) -> LinkStep {
    LinkStep::Then(Then::Read { needed })
}

/// A node's advertised address, with an unspecified IP replaced by the one seen on the connection.
fn complete(advertise: &str, seen: SocketAddr) -> Result<Option<SocketAddr>, Fault> {
    if advertise.is_empty() {
        return Ok(None);
    }
    let mut address: SocketAddr = advertise
        .parse()
        .map_err(|_| Fault::Other("its address is none"))?;
    if address.ip().is_unspecified() {
        address.set_ip(seen.ip());
    }
    // A loopback address is useless from another machine: nobody can dial it there.
    let is_elsewhere = address.ip().is_loopback() && !seen.ip().to_canonical().is_loopback();
    Ok(Some(address).filter(|_| !is_elsewhere))
}

#[path = "session/frames.rs"]
mod frames;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_completed_by_what_is_seen_and_none_where_it_leads_elsewhere() {
        let complete = |advertise: &str, seen: &str| {
            let seen = SocketAddr::new(seen.parse().unwrap(), 40_000);
            let completed = complete(advertise, seen).unwrap_or_else(|fault| panic!("{fault}"));
            completed.map(|address| address.to_string())
        };
        let some = |text: &str| Some(text.to_string());
        assert_eq!(complete("0.0.0.0:7401", "10.0.0.2"), some("10.0.0.2:7401"));
        assert_eq!(complete("10.9.9.9:7401", "10.0.0.2"), some("10.9.9.9:7401"));
        assert_eq!(
            complete("127.0.0.1:7401", "127.0.0.1"),
            some("127.0.0.1:7401")
        );
        assert_eq!(
            complete("127.0.0.1:7401", "::ffff:127.0.0.1"),
            some("127.0.0.1:7401")
        );
        assert_eq!(complete("127.0.0.1:7401", "10.0.0.2"), None);
        assert_eq!(complete("[::1]:7401", "10.0.0.2"), None);
        assert_eq!(complete("", "10.0.0.2"), None);
    }
}
