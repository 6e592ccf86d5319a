//! Answers to nodes that ask for a place: a place, candidates to ask instead, a refusal, or a request to wait.
//!
//! Invariants: an adrift node gives no place; an ancestor gets none; a place that is not confirmed in time is free
//! again. Start at [`Place::handle_ask`].

use super::{
    Broken, Child, CloseWhy, PeerId, Place, PlaceOutput, PlacePeer, Relation, STRANGERS_MAX,
};
use sapwood_wire::node::NodeId;
use sapwood_wire::node::place::{
    Accept, Ask, CONTACTS_MAX, Contact, Offer, PlaceMessage, Refuse, RefuseWhy, SUBTREE_MAX, Wait,
};

/// The answer to a question.
enum Verdict {
    Say(PlaceMessage),
    /// Says that this node is adrift, and answers again when its own standing changes.
    Wait,
    /// Deferred until the parent shows a sign of life.
    Later,
    /// Gives the place of this child number.
    Give(u8),
}

fn refuse(why: RefuseWhy) -> Verdict {
    Verdict::Say(PlaceMessage::Refuse(Refuse::new(why)))
}

impl Place {
    /// Adds a connection that another node opened. At the cap, an idle one that has been answered is closed, or else
    /// the new one.
    pub(super) fn take_stranger(
        &mut self,
        id: PeerId,
        peer: PlacePeer,
        out: &mut Vec<PlaceOutput>,
    ) {
        let is_stranger = |id: PeerId, peer: &PlacePeer| {
            peer.relation == Relation::Stranger && !self.is_target(id)
        };
        let strangers = self
            .peers
            .iter()
            .filter(|(id, peer)| is_stranger(**id, peer));
        let strangers: Vec<_> = strangers
            .map(|(&id, peer)| (peer.waiting.is_some(), peer.heard_ns, id))
            .collect();
        if strangers.len() >= STRANGERS_MAX {
            let why = CloseWhy::Busy;
            let idle = strangers.iter().filter(|stranger| !stranger.0).min();
            let is_answered = |ns: u64| ns < peer.heard_ns;
            let sent_away = idle.filter(|idle| is_answered(idle.1)).map(|idle| idle.2);
            let sent_away = sent_away.unwrap_or(id);
            let message = PlaceMessage::Refuse(Refuse::new(RefuseWhy::Busy));
            let peer_id = sent_away;
            out.push(PlaceOutput::Send {
                peer: peer_id,
                message,
            });
            out.push(PlaceOutput::Close { peer: peer_id, why });
            self.peers.remove(&sent_away);
            if sent_away == id {
                return;
            }
        }
        self.peers.insert(id, peer);
    }

    pub(super) fn handle_ask(
        &mut self,
        id: PeerId,
        ask: Ask,
        now_ns: u64,
        out: &mut Vec<PlaceOutput>,
    ) -> Result<(), CloseWhy> {
        if ask.standing.settled && !self.config.is_static {
            self.return_as_root(&ask.standing, now_ns);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.waiting = Some(ask);
            peer.is_deferred = false;
        }
        self.answer(id, now_ns, out);
        Ok(())
    }

    /// Answers the nodes that were told to wait.
    pub(super) fn answer_waiting(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        let is_waiting = |peer: &PlacePeer| peer.waiting.is_some() && !peer.is_deferred;
        self.answer_those(is_waiting, now_ns, out);
    }

    /// Answers the deferred questions: the parent lives.
    pub(super) fn answer_deferred(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        self.answer_those(|peer| peer.is_deferred, now_ns, out);
    }

    fn answer_those(
        &mut self,
        which: impl Fn(&PlacePeer) -> bool,
        now_ns: u64,
        out: &mut Vec<PlaceOutput>,
    ) {
        let waiting = self.peers.iter().filter(|(_, peer)| which(peer));
        let waiting: Vec<_> = waiting.map(|(&id, _)| id).collect();
        for id in waiting {
            self.answer(id, now_ns, out);
        }
    }

    fn answer(&mut self, id: PeerId, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(mut ask) = peer.waiting.take() else {
            return;
        };
        let was_deferred = std::mem::take(&mut peer.is_deferred);
        let node = peer.node;
        if was_deferred {
            ask.lost = 0;
        }
        let standing = ask.standing;
        let answer = self.judge(node, &ask);
        let message = match answer {
            Verdict::Later => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.is_deferred = true;
                    peer.waiting = Some(ask);
                }
                return;
            }
            Verdict::Wait => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    // The later answer must not give a place: one is given only to a node that asks for it at that
                    // time.
                    ask.commits = false;
                    peer.waiting = Some(ask);
                }
                PlaceMessage::Wait(Wait {
                    standing: self.standing,
                })
            }
            Verdict::Say(message) => message,
            Verdict::Give(number) => return self.give_place(id, number, now_ns, out),
        };
        out.push(PlaceOutput::Send { peer: id, message });
        let is_other_root = standing.settled && standing.root() == node;
        if is_other_root && self.is_root() && standing.outranks(&self.standing) {
            self.probe_peer(id, now_ns, out);
        }
    }

    fn judge(&mut self, node: NodeId, ask: &Ask) -> Verdict {
        let is_path_checked = self.broken != Some(Broken::PathVector);
        let is_above = |contact: &Contact| contact.node() == node;
        if is_path_checked && self.ancestors.iter().any(is_above) {
            return refuse(RefuseWhy::Below);
        }
        if self.drains_until_ns.is_some() {
            return refuse(RefuseWhy::Draining);
        }
        let names = self.config.allowed_children.as_ref();
        if names.is_some_and(|names| !names.contains(&ask.name)) {
            return refuse(RefuseWhy::NotNamed);
        }
        if !self.standing.settled && self.broken != Some(Broken::AcceptAdrift) {
            return Verdict::Wait;
        }
        let is_root = ask.standing.settled && ask.standing.root() == node;
        if is_root && ask.standing.is_same_tree(&self.standing) {
            return refuse(RefuseWhy::SameTree);
        }
        if is_root && ask.standing.outranks(&self.standing) && self.broken != Some(Broken::Rank) {
            return Verdict::Say(self.offer(0, Vec::new()));
        }
        let lost = NodeId(ask.lost);
        let parent = self.ancestors.first().filter(|_| self.parent.is_some());
        if ask.lost != 0 && parent.is_some_and(|parent| parent.node() == lost) {
            // A node that moves away from a draining parent must not come back below it.
            let drains = ask.standing.settled;
            return if drains {
                refuse(RefuseWhy::Draining)
            } else {
                Verdict::Later
            };
        }
        if self.path.len() >= self.depth_max() {
            return refuse(RefuseWhy::TooDeep);
        }
        match self.free_number(node, &ask.name) {
            Some(number) if ask.commits => Verdict::Give(number),
            // Who has a place here already, on an old connection, finds it though there is no other.
            Some(_) => Verdict::Say(self.offer(self.room().max(1), Vec::new())),
            None => {
                let candidates = self.candidates(node, ask);
                Verdict::Say(self.offer(0, candidates))
            }
        }
    }

    fn offer(&self, room: u8, candidates: Vec<Contact>) -> PlaceMessage {
        let own = Contact::new(self.config.node, self.config.address);
        // Reserved places count at once, so that many nodes joining together spread.
        let reserved = self.children.len() - self.confirmed().count();
        PlaceMessage::Offer(Offer {
            standing: self.standing,
            room,
            depth: self.path.len().min(usize::from(u8::MAX)) as u8,
            subtree: (self.subtree() + reserved as u32).min(SUBTREE_MAX),
            root: self.ancestors.last().copied().unwrap_or(own),
            candidates,
        })
    }

    /// Free places for children of this node.
    pub(super) fn room(&self) -> u8 {
        if self.drains_until_ns.is_some() {
            return 0;
        }
        self.config
            .children_max
            .saturating_sub(self.children.len().min(usize::from(u8::MAX)) as u8)
    }

    /// A free child number: the one the file gives, the one this node has already, or else the lowest.
    fn free_number(&self, node: NodeId, name: &str) -> Option<u8> {
        let is_free = |number: &u8| match self.children.get(number) {
            Some(child) => self.peers[&child.peer].node == node,
            None => true,
        };
        if let Some(names) = &self.config.allowed_children {
            let number = names.iter().position(|other| other == name)?;
            let number = u8::try_from(number).ok()?;
            return is_free(&number).then_some(number);
        }
        let own = self
            .children
            .iter()
            .find(|(_, child)| self.peers[&child.peer].node == node)
            .map(|(&number, _)| number);
        own.or_else(|| (0..self.config.children_max).find(is_free))
    }

    /// Nodes to ask instead: the children with the smallest subtrees and room first, then the parent. The asker is
    /// counted in the first child's expected size.
    fn candidates(&mut self, asker: NodeId, ask: &Ask) -> Vec<Contact> {
        let mut children: Vec<_> = self
            .children
            .iter()
            .filter(|(_, child)| child.is_confirmed)
            .map(|(&number, child)| {
                let contact = self.peers[&child.peer].contact();
                let subtree = child.subtree.saturating_add(child.expected);
                (child.room == 0, subtree, contact, number)
            })
            .filter(|(_, _, contact, _)| contact.address().is_some() && contact.node() != asker)
            .collect();
        children.sort_by_key(|&(is_full, subtree, contact, _)| (is_full, subtree, contact.node()));
        if let Some((.., number)) = children.first()
            && let Some(child) = self.children.get_mut(number)
        {
            child.expected = child.expected.saturating_add(ask.subtree);
        }
        let contacts = children.into_iter().map(|(_, _, contact, _)| contact);
        let mut contacts: Vec<_> = contacts.take(CONTACTS_MAX / 2).collect();
        let parent = self.parent.as_ref().filter(|parent| parent.room > 0);
        let parent = parent.map(|parent| self.peers[&parent.peer].contact());
        contacts.extend(parent.filter(|parent| parent.address().is_some()));
        contacts
    }

    fn give_place(&mut self, id: PeerId, number: u8, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        // The node may have this place already, on an old connection whose loss only the other side has noticed.
        let old = self.children.get(&number).map(|child| child.peer);
        if let Some(old) = old {
            self.close_peer(old, CloseWhy::Replaced, now_ns, out);
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.relation = Relation::Child(number);
        peer.waiting = None;
        let child = Child {
            peer: id,
            is_confirmed: false,
            reserved_until_ns: now_ns + self.config.timings.reserve_ns,
            subtree: 1,
            below: 0,
            room: 0,
            expected: 0,
        };
        self.children.insert(number, child);
        let lineage = self.lineage_of(number);
        let message = PlaceMessage::Accept(Accept { lineage });
        out.push(PlaceOutput::Send { peer: id, message });
    }
}
