//! The tree of nodes: which other nodes this one is linked to, and what goes over the links.
//!
//! Shard 0 finds the node's place (`place`), and tells the others which links there are; every shard has lanes of its own
//! on each link (`links`, `lane`), so that what is published on a shard leaves from there and comes in at one shard of the
//! next node. What is wanted behind a link stands in the filters' entries (`broker/beyond`), kept by deltas over lane 0.
//! `session/node` is the protocol of one connection, `shard` what a shard does with all of it. Start at `shard`.

pub mod address;
mod answers;
mod lane;
pub(crate) mod links;
pub mod place;
mod seen;
mod shard;
mod standing;
pub(crate) mod telling;

use crate::command::{ClientId, ConnId, LinkId};
use crate::interest::Change;
use address::Path;
use core::net::SocketAddr;
use hashbrown::HashMap;
pub use links::Peer;
pub(crate) use links::{Links, to_all};
use place::{ASKED_MAX, CloseWhy, DialId, Place, PlaceConfig, PlaceInput, PlaceOutput};
pub use sapwood_wire::node::NodeId;
use sapwood_wire::node::hello::Refusal;
use sapwood_wire::node::seal::derive_entropy;
pub use sapwood_wire::node::seal::{SecretError, SecretKey};
use sapwood_wire::scope;
pub use standing::Standing;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// What a node is told about itself and the tree.
#[derive(Clone, Debug)]
pub struct TreeConfig {
    /// Who it is, and where it looks for a place.
    pub place: PlaceConfig,
    /// What else it is called: events can be sent to all nodes with a tag.
    pub tags: Vec<String>,
    /// Groups that it belongs to: events can be sent to one node of a group, in turn.
    pub groups: Vec<String>,
    /// Where others can reach it, as it says to them: an unspecified address is completed by who hears it.
    pub advertise: Option<SocketAddr>,
    /// What all nodes of the tree must know; links are sealed with it.
    pub key: Option<SecretKey>,
    /// For the keys of connections; random, and different on each shard.
    pub entropy: [u8; 32],
}

/// A connection that core asks its driver for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Comes back with the connection, or when there is none.
    pub dial: u64,
    /// Where to.
    pub address: SocketAddr,
}

/// Something about links that an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A connection for nodes was refused or given up.
    Refused {
        /// Who is there.
        peer: SocketAddr,
        /// Why.
        why: String,
    },
    /// A link is a branch of the tree now.
    Linked {
        /// Who is there.
        peer: String,
        /// What it is to this node.
        role: &'static str,
    },
    /// A link is none any more.
    Unlinked {
        /// Who was there.
        peer: String,
        /// Why.
        why: String,
    },
    /// Where the node stands.
    Placed(String),
    /// It is a root, because nobody answers where it was to join.
    Alone(String),
    /// A link was full, and dropped events.
    Lost {
        /// Who is there.
        peer: String,
        /// How many, since this was last said.
        events: u64,
    },
    /// The other side of a link was full, and dropped events on their way here.
    LostBefore {
        /// Who is there.
        peer: String,
        /// How many.
        events: u64,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Refused { peer, why } => write!(f, "no link with {peer}: {why}"),
            Notice::Linked { peer, role } => write!(f, "linked with {peer}, the {role}"),
            Notice::Unlinked { peer, why } => write!(f, "link with {peer} ended: {why}"),
            Notice::Placed(place) | Notice::Alone(place) => write!(f, "{place}"),
            Notice::Lost { peer, events } => {
                write!(f, "the link with {peer} is full and lost {events} events")
            }
            Notice::LostBefore { peer, events } => {
                write!(
                    f,
                    "{events} events from {peer} were lost because its link here was full"
                )
            }
        }
    }
}

impl Notice {
    /// Whether it is of the usual course of things.
    pub fn is_usual(&self) -> bool {
        matches!(self, Notice::Linked { .. } | Notice::Placed(_))
    }
}

impl TreeConfig {
    /// How topics call the node.
    pub(crate) fn names(&self) -> Vec<Box<[u8]>> {
        let tags = self.tags.iter().map(|tag| (scope::TAG, tag));
        let groups = self.groups.iter().map(|group| (scope::GROUP, group));
        let name = Some(&self.place.name).filter(|name| !name.is_empty());
        let names = name.into_iter().map(|name| (&[][..], name));
        let all = names.chain(tags).chain(groups);
        all.map(|(prefix, name)| [prefix, name.as_bytes()].concat().into())
            .collect()
    }
}

/// What shard 0 tells the others about links; `Told` and `Known` stand before every event that relies on them.
#[derive(Clone, Debug)]
pub enum TreeNews {
    /// The node stands elsewhere, or other links lead from it.
    Stands(Arc<Standing>),
    /// There is a link, a branch of the tree from now on.
    Up {
        /// Its number.
        link: LinkId,
        /// The number that its lanes are opened with.
        token: u64,
        /// Who is there.
        peer: Arc<Peer>,
        /// Where its lanes are to be dialed, if that is this side's to do.
        dial_to: Option<SocketAddr>,
    },
    /// A link is gone.
    Down {
        /// Its number.
        link: LinkId,
    },
    /// A link was told of interest up to this number.
    Told {
        /// Its number.
        link: LinkId,
        /// The last frame's.
        number: u64,
    },
    /// A link told of interest.
    Known {
        /// Its number.
        link: LinkId,
        /// The frame's.
        number: u64,
        /// All that was said before is void.
        restart: bool,
        /// Any event may be wanted there.
        everything: bool,
        /// What changed.
        changes: Arc<[Change]>,
    },
}

/// Why a connection is dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The node looks for its place.
    Place(DialId),
    /// A lane of a link that there is.
    Lane { link: LinkId, token: u64, lane: u16 },
}

/// What a shard knows about the tree beside its links.
#[derive(Debug)]
pub(crate) struct Tree {
    pub config: TreeConfig,
    /// Where the node stands, on shard 0.
    pub place: Option<Place>,
    /// What it wishes, to be carried out behind the input that led to it.
    pub wishes: Vec<PlaceOutput>,
    /// Connections under way, by the numbers that the driver gives back.
    pub dials: HashMap<u64, (Purpose, SocketAddr), foldhash::fast::FixedState>,
    next_dial: u64,
    /// The numbers that were said last in search of a place, the oldest first: who says one to this node is this node.
    greeted: VecDeque<(u64, DialId)>,
    /// How much randomness was used.
    drawn: u64,
    /// Connections that wait for news about a link.
    pub waiting: Vec<(ConnId, ClientId)>,
    /// When the lanes are looked at next.
    pub look_ns: u64,
    /// For the driver to log.
    pub notices: Vec<Notice>,
    /// The address that others are told, as text.
    pub advertised: String,
    /// Links that cannot go on.
    pub broken: Vec<LinkId>,
    /// A link has told of interest, which lanes may wait for.
    pub has_news: bool,
    /// Connections whose lane another one carries now.
    pub replaced: Vec<ConnId>,
}

impl Tree {
    pub(crate) fn new(config: TreeConfig, shard: u16) -> Tree {
        let place = (shard == 0).then(|| Place::new(config.place.clone()));
        let advertised = config.advertise.map(|address| address.to_string());
        let advertised = advertised.unwrap_or_default();
        Tree {
            config,
            place,
            wishes: Vec::new(),
            dials: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(1)),
            next_dial: 1,
            greeted: VecDeque::new(),
            drawn: 0,
            waiting: Vec::new(),
            look_ns: 0,
            notices: Vec::new(),
            advertised,
            broken: Vec::new(),
            has_news: false,
            replaced: Vec::new(),
        }
    }

    /// This node's number.
    pub(crate) fn node(&self) -> NodeId {
        self.config.place.node
    }

    /// A number for a connection that is to be dialed.
    pub(crate) fn plan_dial(&mut self, purpose: Purpose, address: SocketAddr) -> Dial {
        let dial = self.next_dial;
        self.next_dial += 1;
        self.dials.insert(dial, (purpose, address));
        Dial { dial, address }
    }

    /// Random bytes for one connection.
    pub(crate) fn draw(&mut self) -> [u8; 32] {
        self.drawn += 1;
        derive_entropy(&self.config.entropy, self.drawn)
    }

    /// A random number for a link.
    pub(crate) fn draw_token(&mut self) -> u64 {
        let bytes = self.draw();
        // invariant: 32 bytes begin with 8.
        u64::from_le_bytes(*bytes.first_chunk().expect("32 bytes"))
    }

    /// A number for a link that is to begin with this connection.
    pub(crate) fn greet(&mut self, dial: DialId) -> u64 {
        let token = self.draw_token();
        // No more are dialed at a time.
        if self.greeted.len() == ASKED_MAX {
            self.greeted.pop_front();
        }
        self.greeted.push_back((token, dial));
        token
    }

    /// A connection says that it is of this node; the number tells whether that is true.
    pub(crate) fn meet_itself(&mut self, token: u64, now_ns: u64) {
        let mut greeted = self.greeted.iter();
        if let Some(&(_, dial)) = greeted.find(|(greeted, _)| *greeted == token) {
            self.place(PlaceInput::DialedItself { dial }, now_ns);
        }
    }

    /// Tells the place machine what happened; what it wishes is carried out behind the present input.
    pub(crate) fn place(&mut self, input: PlaceInput, now_ns: u64) {
        if let Some(place) = &mut self.place {
            place.handle(input, now_ns, &mut self.wishes);
        }
    }

    /// Whether nothing is to be carried out.
    pub(crate) fn is_quiet(&self) -> bool {
        let is_quiet = self.wishes.is_empty() && self.broken.is_empty();
        let has_words = self.has_news || !self.notices.is_empty();
        is_quiet && self.replaced.is_empty() && !has_words
    }

    /// Takes what is to be carried out: wishes, links that cannot go on, connections that others replace.
    fn take_work(&mut self) -> (Vec<PlaceOutput>, Vec<LinkId>, Vec<ConnId>) {
        let wishes = std::mem::take(&mut self.wishes);
        let broken = std::mem::take(&mut self.broken);
        (wishes, broken, std::mem::take(&mut self.replaced))
    }

    pub(crate) fn note_refused(&mut self, peer: SocketAddr, why: &dyn fmt::Display) {
        let why = why.to_string();
        self.notices.push(Notice::Refused { peer, why });
    }
}

/// A peer as people know it.
pub(crate) fn show_peer(peer: &Peer) -> String {
    let address = peer
        .address
        .map_or(String::new(), |address| format!(" at {address}"));
    match peer.name.is_empty() {
        true => format!("node {}{address}", peer.node),
        false => format!("node {} ({}){address}", peer.name, peer.node),
    }
}

/// Where a node stands, for the log.
pub(crate) fn show_place(place: &Place) -> String {
    let standing = place.reign();
    match place.path() {
        Some([]) => format!("this node is the root of the tree, term {}", standing.term),
        Some(path) => format!(
            "this node stands at {} below {}",
            Path::new(path).map_or_else(|error| error.to_string(), |path| path.to_string()),
            standing.root()
        ),
        None => "this node is adrift and looks for a parent".into(),
    }
}

/// The same as a notice; a root that nobody answers may be one by mistake.
fn note_place(place: &Place) -> Notice {
    let text = show_place(place);
    match place.is_alone() {
        true => Notice::Alone(format!(
            "{text}; nobody answers where it was to join, and it goes on trying"
        )),
        false => Notice::Placed(text),
    }
}

/// Whether a reason to close a connection is of the usual course of things.
pub(crate) fn is_usual(why: &CloseWhy) -> bool {
    matches!(
        why,
        CloseWhy::Done | CloseWhy::Idle | CloseWhy::Late | CloseWhy::Moved
    )
}

/// Why a node is refused, in the words of the log.
pub(crate) fn refusal_text(code: u8, text: &str) -> String {
    match Refusal::from_code(code) {
        Some(refusal) => format!("it refuses: {refusal}"),
        // Its own words may hold anything.
        None => format!("it refuses with code {code}: {}", text.escape_debug()),
    }
}
