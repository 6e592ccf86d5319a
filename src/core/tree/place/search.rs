//! The search for a parent, and for other trees.
//!
//! A search tracks *targets*: nodes to dial, to ask, and to choose from. It first asks several at a time which places
//! they have, then asks one for its place. Owns the targets; must not know how places are given. Invariants: at most
//! [`TARGETS_MAX`] targets, of which at most [`ASKED_MAX`] are dialed or asked what they have; at most one more is
//! asked for its place. Start at [`Place::poll_search`].

use super::{
    ASKED_MAX, Broken, CloseWhy, DialId, PeerId, Place, PlaceOutput, PlacePeer, STRANGERS_MAX,
    TARGETS_MAX,
};
use core::net::SocketAddr;
use sapwood_wire::node::NodeId;
use sapwood_wire::node::place::{Ask, Contact, Lineage, Offer, PlaceMessage, RefuseWhy, Standing};

/// Maximum levels that a search goes down before it restarts: the deepest tree, plus some that it may grow meanwhile.
const LEVELS_MAX: u32 = 40;

/// A node that never had a place keeps searching for this many times [`super::Timings::alone_ns`], as long as others
/// answer that they are adrift or busy.
const JOIN_PATIENCE: u64 = 10;

/// The purpose of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// Find the first place.
    Join,
    /// Find a place after the parent was lost.
    Rescue,
    /// A root probes for other trees.
    Probe,
    /// Find another parent while the old one is still there.
    Move,
    /// Reach the only allowed parent.
    Pinned,
}

#[derive(Debug)]
enum Stage {
    Queued,
    Dialing {
        dial: DialId,
        until_ns: u64,
    },
    Asked {
        peer: PeerId,
        at_ns: u64,
        until_ns: u64,
        commits: bool,
    },
    Offered {
        peer: PeerId,
        offer: Offer,
        round_trip_ns: u64,
    },
    Drifting {
        peer: PeerId,
        standing: Standing,
    },
    Failed,
    /// Of no use, or its candidates were added to the targets.
    Used,
}

#[derive(Debug)]
struct SearchTarget {
    address: Option<SocketAddr>,
    node: Option<NodeId>,
    /// Known from the beginning, so kept for retries.
    is_base: bool,
    stage: Stage,
}

impl SearchTarget {
    fn peer(&self) -> Option<PeerId> {
        match self.stage {
            Stage::Asked { peer, .. }
            | Stage::Offered { peer, .. }
            | Stage::Drifting { peer, .. } => Some(peer),
            _ => None,
        }
    }

    fn is_asked(&self) -> bool {
        matches!(self.stage, Stage::Dialing { .. } | Stage::Asked { .. })
    }
}

/// A search in progress.
#[derive(Debug)]
pub(super) struct Search {
    goal: Goal,
    since_ns: u64,
    /// The parent that was lost or is being left.
    lost: NodeId,
    targets: Vec<SearchTarget>,
    retry_at_ns: Option<u64>,
    retries: u32,
    levels: u32,
    first_offer_ns: Option<u64>,
    gather_ns: u64,
    /// Whether some node answered, even without a place to give.
    has_heard: bool,
    /// Whether the lost parent hangs: it would accept a connection, and leave the asker waiting.
    is_lost_hung: bool,
}

/// The retry from which on a hung parent is asked again.
const HUNG_RETRIES: u32 = 3;

impl Search {
    fn new(goal: Goal, lost: NodeId, now_ns: u64) -> Search {
        Search {
            goal,
            since_ns: now_ns,
            lost,
            targets: Vec::new(),
            retry_at_ns: None,
            retries: 0,
            levels: 0,
            first_offer_ns: None,
            gather_ns: 0,
            has_heard: false,
            is_lost_hung: false,
        }
    }

    /// Skips the lost parent at first, so that the search does not wait for a parent that hangs.
    pub(super) fn pass_over_lost(&mut self) {
        self.is_lost_hung = true;
        let lost = self.lost;
        for target in &mut self.targets {
            if target.node == Some(lost) {
                target.stage = Stage::Failed;
            }
        }
    }

    /// A search for the first place.
    pub(super) fn join(seeds: &[SocketAddr], now_ns: u64) -> Search {
        let mut search = Search::new(Goal::Join, NodeId(0), now_ns);
        for seed in seeds {
            search.add(Some(*seed), None, true);
        }
        search
    }

    /// A search for the only allowed parent.
    pub(super) fn pinned(parent: SocketAddr, now_ns: u64) -> Search {
        let mut search = Search::new(Goal::Pinned, NodeId(0), now_ns);
        search.add(Some(parent), None, true);
        search
    }

    /// A search for a place after the parent was lost.
    pub(super) fn rescue(lost: NodeId, now_ns: u64) -> Search {
        Search::new(Goal::Rescue, lost, now_ns)
    }

    /// A search for another parent.
    pub(super) fn relocate(lost: NodeId, now_ns: u64) -> Search {
        Search::new(Goal::Move, lost, now_ns)
    }

    /// Whether the node keeps its parent during this search.
    pub(super) fn is_for_member(&self) -> bool {
        self.goal == Goal::Move
    }

    pub(super) fn add_contact(&mut self, contact: &Contact) {
        self.add(contact.address(), Some(contact.node()), true);
    }

    /// Adds a target, unless it is known or there are too many.
    pub(super) fn add(&mut self, address: Option<SocketAddr>, node: Option<NodeId>, is_base: bool) {
        let is_there = |target: &SearchTarget| {
            target.address == address || (target.node.is_some() && target.node == node)
        };
        if address.is_none()
            || self.targets.len() >= TARGETS_MAX
            || self.targets.iter().any(is_there)
        {
            return;
        }
        self.targets.push(SearchTarget {
            address,
            node,
            is_base,
            stage: Stage::Queued,
        });
    }

    pub(super) fn asked(&self) -> usize {
        self.targets
            .iter()
            .filter(|target| target.is_asked())
            .count()
    }

    pub(super) fn len(&self) -> usize {
        self.targets.len()
    }

    fn of_peer(&mut self, peer: PeerId) -> Option<&mut SearchTarget> {
        self.targets
            .iter_mut()
            .find(|target| target.peer() == Some(peer))
    }

    fn of_dial(&mut self, wanted: DialId) -> Option<&mut SearchTarget> {
        self.targets
            .iter_mut()
            .find(|target| matches!(target.stage, Stage::Dialing { dial, .. } if dial == wanted))
    }

    /// When the search has to act on time alone.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let gathered_ns = self.first_offer_ns.map(|ns| ns + self.gather_ns);
        let until = self.targets.iter().filter_map(|target| match target.stage {
            Stage::Dialing { until_ns, .. } | Stage::Asked { until_ns, .. } => Some(until_ns),
            _ => None,
        });
        until.chain(self.retry_at_ns).chain(gathered_ns).min()
    }

    /// Queues all targets again.
    fn restart(&mut self) {
        self.retry_at_ns = None;
        self.first_offer_ns = None;
        self.levels = 0;
        self.targets
            .retain(|target| target.is_base || matches!(target.stage, Stage::Drifting { .. }));
        let is_passed_over = self.is_lost_hung && self.retries < HUNG_RETRIES;
        for target in &mut self.targets {
            let is_asked = !is_passed_over || target.node != Some(self.lost);
            if is_asked && matches!(target.stage, Stage::Failed | Stage::Used) {
                target.stage = Stage::Queued;
            }
        }
    }
}

impl Place {
    /// Advances the search until it needs new input.
    pub(super) fn poll_search(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        // Ends: each step uses up a target, and few are added beyond the cap.
        for _ in 0..2 * TARGETS_MAX {
            if !self.step_search(now_ns, out) {
                return;
            }
        }
    }

    /// One step of the search. True if another may follow at once.
    fn step_search(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) -> bool {
        let Some(search) = &mut self.search else {
            return false;
        };
        match search.retry_at_ns {
            Some(at_ns) if now_ns < at_ns => return false,
            Some(_) => {
                search.restart();
                self.ask_drifting_again(now_ns, out);
            }
            None => {}
        }
        self.give_up_late(now_ns, out);
        self.dial_queued(now_ns, out);
        let Some(search) = &self.search else {
            return false;
        };
        let has_committed =
            |target: &SearchTarget| matches!(target.stage, Stage::Asked { commits, .. } if commits);
        if search.targets.iter().any(has_committed) {
            return false;
        }
        if let Some(best) = self.best_offer(now_ns) {
            self.ask_target(best, true, now_ns, out);
            return false;
        }
        let Some(search) = &self.search else {
            return false;
        };
        let is_busy =
            |target: &SearchTarget| target.is_asked() || matches!(target.stage, Stage::Queued);
        if search.first_offer_ns.is_some() || search.targets.iter().any(is_busy) {
            return false;
        }
        self.go_down(now_ns, out) || self.conclude(now_ns, out)
    }

    fn answer_ns(&self) -> u64 {
        match self.search.as_ref().map(|search| search.goal) {
            Some(Goal::Join | Goal::Pinned) => self.config.timings.first_answer_ns,
            _ => self.config.timings.answer_ns,
        }
    }

    fn give_up_late(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        let Some(search) = &mut self.search else {
            return;
        };
        let mut late = Vec::new();
        for target in &mut search.targets {
            match target.stage {
                Stage::Dialing { until_ns, .. } if now_ns >= until_ns => {
                    target.stage = Stage::Failed
                }
                Stage::Asked { peer, until_ns, .. } if now_ns >= until_ns => {
                    target.stage = Stage::Failed;
                    late.push(peer);
                }
                _ => {}
            }
        }
        for peer in late {
            self.close_peer(peer, CloseWhy::Late, now_ns, out);
        }
    }

    fn dial_queued(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        let until_ns = now_ns + self.answer_ns();
        let Some(search) = &mut self.search else {
            return;
        };
        let mut asked = search.asked();
        for target in &mut search.targets {
            if asked >= ASKED_MAX || !matches!(target.stage, Stage::Queued) {
                continue;
            }
            let is_useless = |address| {
                let is_own = self.memory.is_own(address) || target.node == Some(self.config.node);
                is_own || !self.config.may_dial(address)
            };
            let Some(address) = target.address.filter(|address| !is_useless(*address)) else {
                target.stage = Stage::Used;
                continue;
            };
            let dial = DialId(self.next_dial);
            self.next_dial += 1;
            target.stage = Stage::Dialing { dial, until_ns };
            out.push(PlaceOutput::Dial { dial, address });
            asked += 1;
        }
    }

    /// Sends a question to a connected target.
    fn ask_target(&mut self, index: usize, commits: bool, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        let until_ns = now_ns + self.answer_ns();
        let subtree = self.subtree();
        let Some(search) = &mut self.search else {
            return;
        };
        let Some(peer) = search.targets[index].peer() else {
            return;
        };
        search.targets[index].stage = Stage::Asked {
            peer,
            at_ns: now_ns,
            until_ns,
            commits,
        };
        let ask = Ask {
            commits,
            standing: self.standing,
            lost: search.lost.0,
            subtree,
            name: self.config.name.clone(),
        };
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.heard_ns = entry.heard_ns.max(now_ns);
        }
        let message = PlaceMessage::Ask(ask);
        out.push(PlaceOutput::Send { peer, message });
    }

    fn ask_drifting_again(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        let count = self.search.as_ref().map_or(0, Search::len);
        for index in 0..count {
            // Targets beyond the cap need not be asked: they send an offer by themselves once they have a place.
            let is_drifting = self.search.as_ref().is_some_and(|search| {
                search.asked() < ASKED_MAX
                    && matches!(search.targets[index].stage, Stage::Drifting { .. })
            });
            if is_drifting {
                self.ask_target(index, false, now_ns, out);
            }
        }
    }

    /// Whether an offer's tree is acceptable for this goal, whatever its room.
    fn is_acceptable(&self, goal: Goal, standing: &Standing) -> bool {
        let ranks = match goal {
            Goal::Join | Goal::Rescue | Goal::Pinned => true,
            Goal::Probe => {
                standing.outranks(&self.standing)
                    || (self.broken == Some(Broken::Rank) && !standing.is_same_tree(&self.standing))
            }
            Goal::Move => !self.standing.outranks(standing),
        };
        ranks && (standing.settled || self.broken == Some(Broken::AcceptAdrift))
    }

    /// The target to ask for its place, if one should be asked now.
    ///
    /// The nearest (by round trip) among those with about the smallest subtrees; outside a first search, the first good
    /// offer is taken without waiting for others.
    fn best_offer(&mut self, now_ns: u64) -> Option<usize> {
        let gather_ns = self.config.timings.gather_ns;
        let search = self.search.as_ref()?;
        let mut offers = Vec::new();
        for (index, target) in search.targets.iter().enumerate() {
            if let Stage::Offered {
                offer,
                round_trip_ns,
                ..
            } = &target.stage
            {
                let is_deep = usize::from(offer.depth) >= self.depth_max();
                if offer.room > 0 && !is_deep && self.is_acceptable(search.goal, &offer.standing) {
                    offers.push((offer.subtree, *round_trip_ns, target.node, index));
                }
            }
        }
        let Some(smallest) = offers.iter().map(|offer| offer.0).min() else {
            // The offer that was held back for better ones may be gone.
            if let Some(search) = &mut self.search {
                search.first_offer_ns = None;
            }
            return None;
        };
        let is_gathering = search.goal == Goal::Join && search.asked() > 0;
        let since_ns = search.first_offer_ns.unwrap_or(now_ns);
        if let Some(search) = &mut self.search {
            let gathers = is_gathering && now_ns < since_ns + gather_ns;
            search.gather_ns = gather_ns;
            search.first_offer_ns = gathers.then_some(since_ns);
            if gathers {
                return None;
            }
        }
        let small_enough = smallest + smallest / 4 + 1;
        let small = offers.iter().filter(|offer| offer.0 <= small_enough);
        let best = small.min_by_key(|offer| (offer.1, offer.2))?;
        Some(best.3)
    }

    /// Replaces the best full target by the candidates it named. False if there is no full target.
    fn go_down(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) -> bool {
        let Some(search) = &self.search else {
            return false;
        };
        let full = search.targets.iter().enumerate();
        let full = full.filter_map(|(index, target)| match &target.stage {
            Stage::Offered { offer, peer, .. }
                if self.is_acceptable(search.goal, &offer.standing) =>
            {
                Some((
                    offer.candidates.is_empty(),
                    offer.subtree,
                    target.node,
                    index,
                    *peer,
                ))
            }
            _ => None,
        });
        let Some((_, _, _, index, peer)) = full.min() else {
            return false;
        };
        let children: Vec<_> = self.children().map(|child| child.contact.node()).collect();
        let Some(search) = &mut self.search else {
            return false;
        };
        let stage = std::mem::replace(&mut search.targets[index].stage, Stage::Used);
        if let Stage::Offered { offer, .. } = stage
            && search.levels < LEVELS_MAX
        {
            search.levels += 1;
            // Makes room for the next level: targets of no use are removed.
            search.targets.retain(|target| {
                target.is_base || !matches!(target.stage, Stage::Used | Stage::Failed)
            });
            for candidate in &offer.candidates {
                if !children.contains(&candidate.node()) {
                    search.add(candidate.address(), Some(candidate.node()), false);
                }
            }
        }
        self.close_peer(peer, CloseWhy::Done, now_ns, out);
        true
    }

    /// Decides what to do after all targets answered or failed without a place. True if the search goes on at once.
    fn conclude(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) -> bool {
        let timings = self.config.timings;
        let Some(search) = &self.search else {
            return false;
        };
        let lasted_ns = now_ns.saturating_sub(search.since_ns);
        let is_fresh = self.standing.level == u8::MAX;
        let first = self.first_of_fellows();
        let leads = first.is_some_and(|first| self.standing.outranks(&first));
        let (term, level) = (self.standing.term, self.standing.level);
        match search.goal {
            Goal::Probe => {
                self.end_search(now_ns, None, out);
                return false;
            }
            Goal::Move if lasted_ns >= timings.drain_ns => {
                self.end_search(now_ns, None, out);
                return false;
            }
            Goal::Rescue if leads && !is_fresh => {
                let elected = Standing::new(true, term + 1, 0, self.config.node);
                self.become_root(elected, now_ns, out);
                return false;
            }
            Goal::Join | Goal::Rescue => {
                let is_alone = first.is_none() && lasted_ns >= timings.alone_ns;
                let has_waited = match search.goal {
                    Goal::Join if search.has_heard => lasted_ns >= JOIN_PATIENCE * timings.alone_ns,
                    Goal::Join => is_alone,
                    _ => is_alone || lasted_ns >= timings.drift_ns,
                };
                if leads || has_waited {
                    let own = Standing::new(true, term, level, self.config.node);
                    self.become_root(own, now_ns, out);
                    return false;
                }
            }
            Goal::Move | Goal::Pinned => {}
        }
        self.retry_later(now_ns);
        false
    }

    /// The highest rank among the other nodes known to be adrift.
    ///
    /// A node that has had a place ignores newcomers; otherwise, if it lost its link, a newcomer that asks it would
    /// outrank the tree that it was in.
    fn first_of_fellows(&self) -> Option<Standing> {
        let targets = self.search.iter().flat_map(|search| &search.targets);
        let asked = targets.filter_map(|target| match &target.stage {
            Stage::Drifting { standing, .. } => Some(*standing),
            _ => None,
        });
        let asking = self.peers.values().filter_map(|peer| {
            let ask = peer.waiting.as_ref()?;
            (!ask.standing.settled).then_some(ask.standing)
        });
        let is_fellow = |standing: &Standing| {
            let is_other = standing.root() != self.config.node;
            is_other && (standing.level != u8::MAX || self.standing.level == u8::MAX)
        };
        asked
            .chain(asking)
            .filter(is_fellow)
            .reduce(|one, other| if other.outranks(&one) { other } else { one })
    }

    fn retry_later(&mut self, now_ns: u64) {
        let timings = self.config.timings;
        let jitter = self.jitter(1 << 16);
        let Some(search) = &mut self.search else {
            return;
        };
        let wait_ns = timings.retry_ns << search.retries.min(16);
        let wait_ns = wait_ns.min(timings.retry_max_ns);
        let wait_ns = wait_ns - wait_ns * jitter / (1 << 18);
        search.retries += 1;
        let mut at_ns = now_ns + wait_ns;
        let alone_ns = search.since_ns + timings.alone_ns;
        if now_ns < alone_ns {
            at_ns = at_ns.min(alone_ns);
        }
        search.retry_at_ns = Some(at_ns);
    }

    /// A root starts to probe for other trees.
    pub(super) fn start_probe(&mut self, now_ns: u64) {
        if self.config.is_static || self.drains_until_ns.is_some() {
            return;
        }
        let children: Vec<_> = self
            .children()
            .filter_map(|child| child.contact.address())
            .collect();
        let mut search = Search::new(Goal::Probe, NodeId(0), now_ns);
        for address in self.memory.next() {
            if !children.contains(&address) {
                search.add(Some(address), None, false);
            }
        }
        if search.len() > 0 {
            self.search = Some(search);
        }
    }

    /// Asks the root of a tree of higher rank, at the other side of this connection, for a place.
    pub(super) fn probe_peer(&mut self, id: PeerId, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        if self.config.is_static || self.is_target(id) {
            return;
        }
        let Some(entry) = self.peers.get(&id) else {
            return;
        };
        let (address, node) = (entry.address, entry.node);
        let search = self
            .search
            .get_or_insert_with(|| Search::new(Goal::Probe, NodeId(0), now_ns));
        let is_full = search.len() >= TARGETS_MAX || search.asked() >= ASKED_MAX;
        if search.goal != Goal::Probe || is_full {
            return;
        }
        search.targets.push(SearchTarget {
            address,
            node: Some(node),
            is_base: false,
            stage: Stage::Drifting {
                peer: id,
                standing: self.standing,
            },
        });
        let index = search.len() - 1;
        self.ask_target(index, false, now_ns, out);
    }

    /// Whether a connection belongs to the search.
    pub(super) fn is_target(&self, id: PeerId) -> bool {
        let targets = self.search.iter().flat_map(|search| &search.targets);
        targets.into_iter().any(|target| target.peer() == Some(id))
    }

    /// Ends the search and closes its connections, except `keep`.
    pub(super) fn end_search(
        &mut self,
        now_ns: u64,
        keep: Option<PeerId>,
        out: &mut Vec<PlaceOutput>,
    ) {
        let Some(search) = self.search.take() else {
            return;
        };
        for target in &search.targets {
            if let Some(peer) = target.peer().filter(|peer| Some(*peer) != keep) {
                self.close_peer(peer, CloseWhy::Done, now_ns, out);
            }
        }
    }

    /// Handles a dial that led back to this node: its address is remembered as the node's own, and not tried again.
    pub(super) fn handle_dialed_itself(&mut self, dial: DialId) {
        let target = self.search.as_mut().and_then(|search| search.of_dial(dial));
        if let Some(target) = target {
            target.stage = Stage::Used;
            target
                .address
                .into_iter()
                .for_each(|address| self.memory.add_own(address));
        }
    }

    pub(super) fn handle_dial_failed(&mut self, dial: DialId) {
        if let Some(target) = self.search.as_mut().and_then(|search| search.of_dial(dial)) {
            target.stage = Stage::Failed;
        }
    }

    pub(super) fn handle_dialed(
        &mut self,
        id: PeerId,
        peer: PlacePeer,
        dial: DialId,
        now_ns: u64,
        out: &mut Vec<PlaceOutput>,
    ) {
        let why = CloseWhy::Late;
        let close = PlaceOutput::Close { peer: id, why };
        let Some(search) = &mut self.search else {
            return out.push(close);
        };
        let is_asked =
            |target: &SearchTarget| target.node == Some(peer.node) && target.peer().is_some();
        let is_double = search.targets.iter().any(is_asked);
        let Some(index) = search.targets.iter().position(
            |target| matches!(target.stage, Stage::Dialing { dial: other, .. } if other == dial),
        ) else {
            return out.push(close);
        };
        let target = &mut search.targets[index];
        if is_double {
            target.stage = Stage::Used;
            return out.push(close);
        }
        target.node = Some(peer.node);
        target.stage = Stage::Drifting {
            peer: id,
            standing: self.standing,
        };
        let commits = search.goal == Goal::Pinned;
        self.peers.insert(id, peer);
        self.ask_target(index, commits, now_ns, out);
    }

    /// Marks a target as failed, because its connection was closed.
    pub(super) fn fail_target(&mut self, id: PeerId) {
        if let Some(target) = self.search.as_mut().and_then(|search| search.of_peer(id)) {
            target.stage = Stage::Failed;
        }
    }

    pub(super) fn handle_offer(
        &mut self,
        id: PeerId,
        offer: Offer,
        now_ns: u64,
        out: &mut Vec<PlaceOutput>,
    ) -> Result<(), CloseWhy> {
        let own = self.standing;
        let is_probe = self
            .search
            .as_ref()
            .is_some_and(|search| search.goal == Goal::Probe);
        let returns = is_probe && self.return_as_root(&offer.standing, now_ns);
        let has_room = self.counts().strangers < STRANGERS_MAX;
        let Some(search) = &mut self.search else {
            return Err(CloseWhy::Done);
        };
        let goal = search.goal;
        let mut targets = search.targets.iter();
        if returns && let Some(index) = targets.position(|target| target.peer() == Some(id)) {
            // The question said what is no longer so.
            self.ask_target(index, false, now_ns, out);
            return Ok(());
        }
        let Some(target) = search.of_peer(id) else {
            return Err(CloseWhy::Done);
        };
        let node = target.node;
        let round_trip_ns = match target.stage {
            Stage::Asked { at_ns, .. } => now_ns.saturating_sub(at_ns),
            // An adrift target sends an offer by itself once it has a place.
            _ => u64::MAX,
        };
        let is_lower = own.outranks(&offer.standing) && self.broken != Some(Broken::Rank);
        if goal == Goal::Probe && is_lower {
            // The question itself told that node of this tree; its root, if another node, is asked next. The connection
            // stays if there is room for a stranger, because the root may ask on it now.
            target.stage = Stage::Used;
            if Some(offer.root.node()) != node {
                let (address, node) = (offer.root.address(), offer.root.node());
                search.add(address, Some(node), false);
            }
            return if has_room {
                Ok(())
            } else {
                Err(CloseWhy::Busy)
            };
        }
        target.stage = Stage::Offered {
            peer: id,
            offer,
            round_trip_ns,
        };
        search.has_heard = true;
        search.retry_at_ns = None;
        Ok(())
    }

    pub(super) fn handle_wait(&mut self, id: PeerId, standing: Standing) -> Result<(), CloseWhy> {
        let own = self.config.node;
        let Some(target) = self.search.as_mut().and_then(|search| search.of_peer(id)) else {
            return Err(CloseWhy::Done);
        };
        if standing.root() == own {
            // That node is below this one, and will hear so.
            return Err(CloseWhy::Done);
        }
        target.stage = Stage::Drifting { peer: id, standing };
        if let Some(search) = &mut self.search {
            search.has_heard = true;
        }
        Ok(())
    }

    pub(super) fn handle_refuse(&mut self, why: RefuseWhy) -> Result<(), CloseWhy> {
        if let Some(search) = self.search.as_mut().filter(|_| why == RefuseWhy::Busy) {
            search.has_heard = true;
        }
        // Closing the connection fails the target.
        Err(CloseWhy::Done)
    }

    /// Handles a place that was given: takes it, or closes the connection.
    pub(super) fn handle_accept(
        &mut self,
        id: PeerId,
        lineage: Lineage,
        now_ns: u64,
        out: &mut Vec<PlaceOutput>,
    ) -> Result<(), CloseWhy> {
        let Some(search) = &mut self.search else {
            return Err(CloseWhy::Done);
        };
        let goal = search.goal;
        let is_wanted = search
            .of_peer(id)
            .is_some_and(|target| matches!(target.stage, Stage::Asked { commits, .. } if commits));
        if !is_wanted {
            return Err(CloseWhy::Lie("a place that was not asked for"));
        }
        self.check_lineage(id, &lineage, None)?;
        if !self.is_acceptable(goal, &lineage.standing) {
            return Err(CloseWhy::Done);
        }
        self.end_search(now_ns, Some(id), out);
        self.adopt_parent(id, lineage, now_ns, out);
        Ok(())
    }
}
