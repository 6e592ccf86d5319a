//! What nodes say to each other about their places in the tree: kinds 0x40 to 0x4f.
//!
//! Each kind is one struct whose archive never changes. Owns the structs and the check of every length and value; must not
//! know what follows from a message, which `core::tree::place` decides. Start at [`PlaceMessage`], [`write`] and [`read`].

#[cfg(test)]
mod tests;

use super::{Frame, FrameError, NodeId, kind, write_frame};
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use rkyv::rancor::Error;
use rkyv::{Archive, Deserialize, Serialize};

/// Most ancestors that are named, the nearest first: a tree that places itself is no deeper.
pub const ANCESTORS_MAX: usize = 32;

/// Most nodes of any other list (the root's children, siblings, candidates): twice the usual number of children, so that a
/// message stays far below a packet of 1,500 bytes in an ordinary tree.
pub const CONTACTS_MAX: usize = 16;

/// Longest path: the depth of a tree that a file describes.
pub const PATH_MAX: usize = 255;

/// Longest name of a node, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Longest body: every list full takes about 2 KiB.
pub const BODY_BYTES_MAX: usize = 4 * 1024;

/// Highest term: nobody counts so far one by one, and adding one to it must not overflow.
pub const TERM_MAX: u64 = 1 << 48;

/// Most nodes that a subtree is said to have.
pub const SUBTREE_MAX: u32 = 1 << 30;

/// The kinds of messages about places. A number is never used again for something else.
pub mod kinds {
    /// Asks for a place.
    pub const ASK: u8 = 0x40;
    /// Answers what places there are.
    pub const OFFER: u8 = 0x41;
    /// Answers that a place is given.
    pub const ACCEPT: u8 = 0x42;
    /// Answers that there will be none.
    pub const REFUSE: u8 = 0x43;
    /// Answers that the node is adrift itself.
    pub const WAIT: u8 = 0x44;
    /// Takes the place.
    pub const CONFIRM: u8 = 0x45;
    /// From parent to child: alive.
    pub const PULSE: u8 = 0x46;
    /// From child to parent: alive, and what stands below.
    pub const REPORT: u8 = 0x47;
    /// From parent to child: where both stand.
    pub const LINEAGE: u8 = 0x48;
    /// From parent to child: find another parent.
    pub const MOVE: u8 = 0x49;
    /// To either: the sender ends the link.
    pub const LEAVE: u8 = 0x4a;
    /// From child to parent: addresses that the root should look at for other trees.
    pub const KNOWN: u8 = 0x4b;
}

/// A node and where it listens. Never changes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    node: u64,
    /// An address of IP version 4 in its mapped form; all zero if there is none.
    ip: [u8; 16],
    /// Zero if there is no address.
    port: u16,
}

impl Contact {
    /// The node at an address; an unspecified address, or one of port 0, is none.
    pub fn new(node: NodeId, address: Option<SocketAddr>) -> Contact {
        let address = address.filter(|address| address.port() != 0 && !is_unspecified(address));
        let ip = match address.map(|address| address.ip()) {
            Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped().octets(),
            Some(IpAddr::V6(ip)) => ip.octets(),
            None => [0; 16],
        };
        let port = address.map_or(0, |address| address.port());
        let node = node.0;
        Contact { node, ip, port }
    }

    /// Who it is.
    pub fn node(&self) -> NodeId {
        NodeId(self.node)
    }

    /// Where it listens, if that is known.
    pub fn address(&self) -> Option<SocketAddr> {
        let ip = Ipv6Addr::from(self.ip).to_canonical();
        (self.port != 0).then(|| SocketAddr::new(ip, self.port))
    }

    fn is_valid(&self) -> bool {
        match self.address() {
            Some(address) => !is_unspecified(&address) && !address.ip().is_multicast(),
            None => self.ip == [0; 16],
        }
    }
}

fn is_unspecified(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_unspecified()
}

/// Which tree a node stands in, and the rank of that tree. Never changes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether the node at the top is a root; else it is adrift, and looks for a parent.
    pub settled: bool,
    /// The higher one ranks first.
    pub term: u64,
    /// Then the lower one.
    pub level: u8,
    root: u64,
}

impl Standing {
    /// Of a tree whose top is this node.
    pub fn new(settled: bool, term: u64, level: u8, root: NodeId) -> Standing {
        Standing {
            settled,
            term: term.min(TERM_MAX),
            level,
            root: root.0,
        }
    }

    /// The node at the top. Of equal terms and levels, the lower one ranks first.
    pub fn root(&self) -> NodeId {
        NodeId(self.root)
    }

    /// Whether two say that they stand in the same tree.
    pub fn is_same_tree(&self, other: &Standing) -> bool {
        (self.term, self.level, self.root) == (other.term, other.level, other.root)
    }

    /// Whether the other one's tree gives way to this one's.
    pub fn outranks(&self, other: &Standing) -> bool {
        let place = |standing: &Standing| {
            let term = u64::MAX - standing.term;
            (term, standing.level, standing.root)
        };
        place(self) < place(other)
    }
}

/// Asks for a place, or what places there are. Never changes.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Whether to give a place if there is one; else the answer only says what there is.
    pub commits: bool,
    /// Where the asker stands: it takes no parent in a tree that gives way to its own.
    pub standing: Standing,
    /// The parent it has lost or leaves, or 0.
    pub lost: u64,
    /// Nodes of its subtree, itself included.
    pub subtree: u32,
    /// Its name; may be empty.
    pub name: String,
}

/// What places there are. Never changes.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Where the sender stands.
    pub standing: Standing,
    /// Places free below the sender itself.
    pub room: u8,
    /// Its distance from the root.
    pub depth: u8,
    /// Nodes of its subtree, itself included.
    pub subtree: u32,
    /// The root of its tree.
    pub root: Contact,
    /// Whom to ask instead: children with room below them, the smallest subtree first, or the parent. At most
    /// [`CONTACTS_MAX`].
    pub candidates: Vec<Contact>,
}

/// Where a child stands. Never changes.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// Where parent and child stand.
    pub standing: Standing,
    /// The child's path from the top of the tree, so never empty. At most [`PATH_MAX`] long.
    pub path: Vec<u8>,
    /// The parent's ancestors, the nearest first; the child's are the parent and these. At most [`ANCESTORS_MAX`].
    pub ancestors: Vec<Contact>,
    /// Children of the root. At most [`CONTACTS_MAX`].
    pub root_children: Vec<Contact>,
    /// Other children of the parent. At most [`CONTACTS_MAX`].
    pub siblings: Vec<Contact>,
}

/// A place is given, until it is confirmed or a second is over. Never changes.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// The place. Its path ends with the child's number.
    pub lineage: Lineage,
}

/// There will be no place here. Never changes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refuse {
    code: u8,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefuseWhy {
    /// The asker is above the asked, which would close a loop.
    Below,
    /// Both stand in the same tree, and the asker is its root.
    SameTree,
    /// The node ends soon.
    Draining,
    /// The tree's file does not name the asker here.
    NotNamed,
    /// The asker would be too far from the root.
    TooDeep,
    /// Too many ask at once: later.
    Busy,
}

const REFUSALS: [RefuseWhy; 6] = [
    RefuseWhy::Below,
    RefuseWhy::SameTree,
    RefuseWhy::Draining,
    RefuseWhy::NotNamed,
    RefuseWhy::TooDeep,
    RefuseWhy::Busy,
];

impl Refuse {
    /// For a reason.
    pub fn new(why: RefuseWhy) -> Refuse {
        Refuse {
            code: 1 + why as u8,
        }
    }

    /// The reason.
    pub fn why(&self) -> RefuseWhy {
        REFUSALS[usize::from(self.code) - 1]
    }
}

/// The sender has lost its own place, and can give none until it has found one. Never changes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Where it stands, which is not settled.
    pub standing: Standing,
}

/// The place is taken. Never changes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// The child's number.
    pub child: u8,
}

/// A time to be sent back, for round trips; all by the clocks of who says it. Never changes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// When this was sent, in nanoseconds by a clock of the sender.
    pub sent_ns: u64,
    /// The last `sent_ns` that came, or 0.
    pub echo_ns: u64,
    /// How long ago it came.
    pub held_ns: u64,
}

/// The parent is alive. Never changes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// A number that the node at the top counts up.
    pub beat: u64,
    /// Places free below the parent itself.
    pub room: u8,
    /// For round trips.
    pub echo: Echo,
}

/// The child is alive. Never changes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Nodes of its subtree, itself included, so never 0.
    pub subtree: u32,
    /// Levels below it.
    pub below: u8,
    /// Places free in its subtree.
    pub room: u32,
    /// For round trips.
    pub echo: Echo,
}

/// Find another parent, then leave. Never changes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The receiver becomes the root in the sender's stead.
    pub inherits: bool,
    /// Whom to ask first: the heir, if the sender is the root; without address if there is none.
    pub to: Contact,
}

/// The sender ends the link. Never changes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Whether the sender's node ends; else it has found another place.
    pub drains: bool,
}

/// Where other trees may be found, for the root to remember. Never changes.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Each with an address; the node is 0 if it is not known. At most [`CONTACTS_MAX`].
    pub contacts: Vec<Contact>,
}

/// Any message about places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceMessage {
    /// See [`Ask`].
    Ask(Ask),
    /// See [`Offer`].
    Offer(Offer),
    /// See [`Accept`].
    Accept(Accept),
    /// See [`Refuse`].
    Refuse(Refuse),
    /// See [`Wait`].
    Wait(Wait),
    /// See [`Confirm`].
    Confirm(Confirm),
    /// See [`Pulse`].
    Pulse(Pulse),
    /// See [`Report`].
    Report(Report),
    /// See [`Lineage`].
    Lineage(Lineage),
    /// See [`Move`].
    Move(Move),
    /// See [`Leave`].
    Leave(Leave),
    /// See [`Known`].
    Known(Known),
}

impl PlaceMessage {
    /// The frame's kind.
    pub fn kind(&self) -> u8 {
        match self {
            PlaceMessage::Ask(_) => kinds::ASK,
            PlaceMessage::Offer(_) => kinds::OFFER,
            PlaceMessage::Accept(_) => kinds::ACCEPT,
            PlaceMessage::Refuse(_) => kinds::REFUSE,
            PlaceMessage::Wait(_) => kinds::WAIT,
            PlaceMessage::Confirm(_) => kinds::CONFIRM,
            PlaceMessage::Pulse(_) => kinds::PULSE,
            PlaceMessage::Report(_) => kinds::REPORT,
            PlaceMessage::Lineage(_) => kinds::LINEAGE,
            PlaceMessage::Move(_) => kinds::MOVE,
            PlaceMessage::Leave(_) => kinds::LEAVE,
            PlaceMessage::Known(_) => kinds::KNOWN,
        }
    }

    /// The field that holds what it must not, if one does.
    fn fault(&self) -> Option<&'static str> {
        match self {
            PlaceMessage::Ask(ask) => ask.fault(),
            PlaceMessage::Offer(offer) => offer.fault(),
            PlaceMessage::Accept(accept) => accept.lineage.fault(),
            PlaceMessage::Refuse(refuse) => {
                let is_known = (1..=REFUSALS.len()).contains(&usize::from(refuse.code));
                (!is_known).then_some("code")
            }
            PlaceMessage::Wait(wait) => wait
                .standing
                .fault()
                .or(wait.standing.settled.then_some("standing")),
            PlaceMessage::Confirm(_) | PlaceMessage::Pulse(_) | PlaceMessage::Leave(_) => None,
            PlaceMessage::Report(report) => fault_of_subtree(report.subtree),
            PlaceMessage::Lineage(lineage) => lineage.fault(),
            PlaceMessage::Known(known) => {
                let is_bare = |contact: &Contact| contact.address().is_none();
                fault_of_contacts(&known.contacts, CONTACTS_MAX, "contacts").or(known
                    .contacts
                    .iter()
                    .any(is_bare)
                    .then_some("contacts"))
            }
            PlaceMessage::Move(order) => (!order.to.is_valid()).then_some("address"),
        }
    }
}

fn fault_of_subtree(subtree: u32) -> Option<&'static str> {
    (subtree == 0 || subtree > SUBTREE_MAX).then_some("subtree")
}

fn fault_of_contacts(
    contacts: &[Contact],
    max: usize,
    field: &'static str,
) -> Option<&'static str> {
    let is_valid = contacts.len() <= max && contacts.iter().all(Contact::is_valid);
    (!is_valid).then_some(field)
}

impl Standing {
    fn fault(&self) -> Option<&'static str> {
        (self.term > TERM_MAX).then_some("term")
    }
}

impl Ask {
    fn fault(&self) -> Option<&'static str> {
        let is_name = self.name.len() <= NAME_BYTES_MAX && !self.name.chars().any(char::is_control);
        self.standing
            .fault()
            .or(fault_of_subtree(self.subtree))
            .or((!is_name).then_some("name"))
    }
}

impl Offer {
    fn fault(&self) -> Option<&'static str> {
        self.standing
            .fault()
            .or(fault_of_subtree(self.subtree))
            .or((!self.root.is_valid()).then_some("root"))
            .or(fault_of_contacts(
                &self.candidates,
                CONTACTS_MAX,
                "candidates",
            ))
    }
}

impl Lineage {
    fn fault(&self) -> Option<&'static str> {
        let is_path = (1..=PATH_MAX).contains(&self.path.len());
        self.standing
            .fault()
            .or((!is_path).then_some("path"))
            .or(fault_of_contacts(
                &self.ancestors,
                ANCESTORS_MAX,
                "ancestors",
            ))
            .or(fault_of_contacts(
                &self.root_children,
                CONTACTS_MAX,
                "root_children",
            ))
            .or(fault_of_contacts(&self.siblings, CONTACTS_MAX, "siblings"))
    }
}

/// Appends a frame. A message that [`read`] would refuse is a fault of our own.
///
/// # Panics
/// If a list, a name or a number is out of bounds.
pub fn write(message: &PlaceMessage, version: u8, out: &mut Vec<u8>) {
    let fault = message.fault();
    assert!(fault.is_none(), "{fault:?} is out of bounds in {message:?}");
    write_frame(out, version, message.kind(), 0, |out| match message {
        PlaceMessage::Ask(body) => append(body, out),
        PlaceMessage::Offer(body) => append(body, out),
        PlaceMessage::Accept(body) => append(body, out),
        PlaceMessage::Refuse(body) => append(body, out),
        PlaceMessage::Wait(body) => append(body, out),
        PlaceMessage::Confirm(body) => append(body, out),
        PlaceMessage::Pulse(body) => append(body, out),
        PlaceMessage::Report(body) => append(body, out),
        PlaceMessage::Lineage(body) => append(body, out),
        PlaceMessage::Move(body) => append(body, out),
        PlaceMessage::Leave(body) => append(body, out),
        PlaceMessage::Known(body) => append(body, out),
    });
}

type Serializer<'a> =
    rkyv::api::high::HighSerializer<Vec<u8>, rkyv::ser::allocator::ArenaHandle<'a>, Error>;

fn append(body: &impl for<'a> Serialize<Serializer<'a>>, out: &mut Vec<u8>) {
    // Positions in an archive are relative, so that it may stand anywhere; alignment is of no matter.
    let written = rkyv::api::high::to_bytes_in(body, std::mem::take(out));
    // invariant: a vector takes everything, and nothing here is shared or too long for 32 bits.
    *out = written.expect("an archive of bounded lists is written");
}

/// Reads a frame whose kind is one of [`kinds`].
///
/// Fails with `FrameError::Kind` for any other, and with `FrameError::Body` where the body is no archive of its kind or a
/// field is out of bounds. Cost: some hundred nanoseconds, and an allocation for each list.
pub fn read(frame: &Frame<'_>) -> Result<PlaceMessage, FrameError> {
    let message = match frame.kind {
        kinds::ASK => PlaceMessage::Ask(archive::<Ask>(frame)?),
        kinds::OFFER => PlaceMessage::Offer(archive::<Offer>(frame)?),
        kinds::ACCEPT => PlaceMessage::Accept(archive::<Accept>(frame)?),
        kinds::REFUSE => PlaceMessage::Refuse(archive::<Refuse>(frame)?),
        kinds::WAIT => PlaceMessage::Wait(archive::<Wait>(frame)?),
        kinds::CONFIRM => PlaceMessage::Confirm(archive::<Confirm>(frame)?),
        kinds::PULSE => PlaceMessage::Pulse(archive::<Pulse>(frame)?),
        kinds::REPORT => PlaceMessage::Report(archive::<Report>(frame)?),
        kinds::LINEAGE => PlaceMessage::Lineage(archive::<Lineage>(frame)?),
        kinds::MOVE => PlaceMessage::Move(archive::<Move>(frame)?),
        kinds::LEAVE => PlaceMessage::Leave(archive::<Leave>(frame)?),
        kinds::KNOWN => PlaceMessage::Known(archive::<Known>(frame)?),
        other => return Err(FrameError::Kind(other)),
    };
    match message.fault() {
        Some(field) => Err(FrameError::Body(frame.kind, field)),
        None => Ok(message),
    }
}

fn archive<T>(frame: &Frame<'_>) -> Result<T, FrameError>
where
    T: Archive,
    T::Archived: for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'a, Error>>
        + Deserialize<T, rkyv::api::high::HighDeserializer<Error>>,
{
    debug_assert!((kind::PLACE_FIRST..=kind::PLACE_LAST).contains(&frame.kind));
    let (length, cap) = (frame.body.len(), BODY_BYTES_MAX);
    if length > cap {
        return Err(FrameError::TooLong { length, cap });
    }
    if frame.flags != 0 {
        return Err(FrameError::Body(frame.kind, "flags"));
    }
    rkyv::from_bytes::<T, Error>(frame.body).map_err(|_| FrameError::Body(frame.kind, "archive"))
}
