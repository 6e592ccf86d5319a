//! What a shard knows about the tree beside its links.
//!
//! Start at [`Tree`].

use super::config::TreeConfig;
use super::notice::{Dial, Notice};
use super::place::{ASKED_MAX, DialId, Place, PlaceInput, PlaceOutput};
use crate::command::{ClientId, ConnId, LinkId};
use core::net::SocketAddr;
use hashbrown::HashMap;
use sapwood_wire::node::NodeId;
use sapwood_wire::node::seal::derive_entropy;
use std::collections::VecDeque;
use std::fmt;

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
    pub(crate) fn take_work(&mut self) -> (Vec<PlaceOutput>, Vec<LinkId>, Vec<ConnId>) {
        let wishes = std::mem::take(&mut self.wishes);
        let broken = std::mem::take(&mut self.broken);
        (wishes, broken, std::mem::take(&mut self.replaced))
    }

    pub(crate) fn note_refused(&mut self, peer: SocketAddr, why: &dyn fmt::Display) {
        let why = why.to_string();
        self.notices.push(Notice::Refused { peer, why });
    }
}
