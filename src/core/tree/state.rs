//! The state of a shard for the tree of nodes, apart from its links.
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

/// The purpose of a dialed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The place machine asked for it.
    Place(DialId),
    /// A lane of an existing link.
    Lane { link: LinkId, token: u64, lane: u16 },
}

/// The state of a shard for the tree of nodes, apart from its links.
#[derive(Debug)]
pub(crate) struct Tree {
    pub config: TreeConfig,
    /// The place machine; only on shard 0.
    pub place: Option<Place>,
    /// Outputs of the place machine, to be carried out after the present input.
    pub wishes: Vec<PlaceOutput>,
    /// Dials in progress, by their numbers.
    pub dials: HashMap<u64, (Purpose, SocketAddr), foldhash::fast::FixedState>,
    next_dial: u64,
    /// The latest link tokens sent in search of a place, oldest first. A HELLO with one of them comes from this node
    /// itself.
    greeted: VecDeque<(u64, DialId)>,
    /// Number of draws of randomness.
    drawn: u64,
    /// Connections that wait for news about a link.
    pub waiting: Vec<(ConnId, ClientId)>,
    /// When the lanes are checked next.
    pub look_ns: u64,
    /// Notices for the driver to log.
    pub notices: Vec<Notice>,
    /// The advertised address, as text.
    pub advertised: String,
    /// Links that must be closed.
    pub broken: Vec<LinkId>,
    /// Whether a link has announced interest that lanes may wait for.
    pub has_news: bool,
    /// Connections replaced by newer ones of the same lane.
    pub replaced: Vec<ConnId>,
    /// Whether the node is about to leave: numbered frames are left to the other side, unacknowledged.
    pub hands_over: bool,
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
            hands_over: false,
        }
    }

    /// This node's id.
    pub(crate) fn node(&self) -> NodeId {
        self.config.place.node
    }

    /// Registers a dial, and returns it with its number.
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

    /// A random token for a link.
    pub(crate) fn draw_token(&mut self) -> u64 {
        let bytes = self.draw();
        // invariant: 32 bytes begin with 8.
        u64::from_le_bytes(*bytes.first_chunk().expect("32 bytes"))
    }

    /// A random token for a link that begins with this connection.
    pub(crate) fn greet(&mut self, dial: DialId) -> u64 {
        let token = self.draw_token();
        // No more are dialed at a time.
        if self.greeted.len() == ASKED_MAX {
            self.greeted.pop_front();
        }
        self.greeted.push_back((token, dial));
        token
    }

    /// Handles a HELLO with this node's own id. The token tells whether this node sent it.
    pub(crate) fn meet_itself(&mut self, token: u64, now_ns: u64) {
        let mut greeted = self.greeted.iter();
        if let Some(&(_, dial)) = greeted.find(|(greeted, _)| *greeted == token) {
            self.place(PlaceInput::DialedItself { dial }, now_ns);
        }
    }

    /// Passes an input to the place machine. Its outputs are carried out after the present input.
    pub(crate) fn place(&mut self, input: PlaceInput, now_ns: u64) {
        if let Some(place) = &mut self.place {
            place.handle(input, now_ns, &mut self.wishes);
        }
    }

    /// Whether there is nothing to carry out.
    pub(crate) fn is_quiet(&self) -> bool {
        let is_quiet = self.wishes.is_empty() && self.broken.is_empty();
        let has_words = self.has_news || !self.notices.is_empty();
        is_quiet && self.replaced.is_empty() && !has_words
    }

    /// Takes what is to be carried out: outputs of the place machine, links to close, and replaced connections.
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
