//! The links to the parent and children: heartbeats, news of positions, and the end of links.
//!
//! Invariant: a link is adopted once and dropped once, in the order of the outputs. Start at [`Place::flush`] for what
//! is sent, and at [`Place::remove_peer`] for what follows the loss of a link.

use super::search::Search;
use super::{Broken, CloseWhy, DEPTH_MAX, Due, Parent, PeerId, Place, PlaceOutput, Relation, Role};
use core::net::SocketAddr;
use sapwood_wire::node::NodeId;
use sapwood_wire::node::place::{
    ANCESTORS_MAX, CONTACTS_MAX, Confirm, Contact, Known, Leave, Lineage, Move, PlaceMessage,
    Pulse, Report, SUBTREE_MAX, Standing,
};

impl Place {
    /// Closes a connection of any kind.
    pub(super) fn close_peer(
        &mut self,
        id: PeerId,
        why: CloseWhy,
        now_ns: u64,
        out: &mut Vec<PlaceOutput>,
    ) {
        if self.peers.contains_key(&id) {
            self.remove_peer(id, why, now_ns, out);
            out.push(PlaceOutput::Close { peer: id, why });
        }
    }

    /// Forgets a connection, and does what follows from that.
    pub(super) fn remove_peer(
        &mut self,
        id: PeerId,
        why: CloseWhy,
        now_ns: u64,
        out: &mut Vec<PlaceOutput>,
    ) {
        let is_lost = matches!(why, CloseWhy::Silent | CloseWhy::Stalled | CloseWhy::Lost);
        if self.is_adopted(id) {
            self.links_lost += u64::from(is_lost);
            out.push(PlaceOutput::Dropped { peer: id });
        }
        let Some(peer) = self.peers.remove(&id) else {
            return;
        };
        match peer.relation {
            Relation::Stranger => self.fail_target(id),
            Relation::Child(number) => {
                if self.is_root() && matches!(why, CloseWhy::Silent | CloseWhy::Lost) {
                    self.bereft_ns = Some(now_ns);
                }
                self.children.remove(&number);
                if self.drains_until_ns.is_some() && self.children.is_empty() {
                    self.childless_ns = Some(now_ns);
                }
                self.memory.add(peer.address);
                self.note_children();
            }
            Relation::Parent => self.lose_parent(why, now_ns, out),
        }
    }

    /// Schedules news of changed children. All nodes learn the root's children soon, because they elect a new root
    /// among them.
    fn note_children(&mut self) {
        let is_top = self.parent.is_none();
        let due = if is_top && self.children.len() <= CONTACTS_MAX {
            Due::Now
        } else {
            Due::AtBeat
        };
        self.lineage_due = self.lineage_due.max(due);
        self.is_report_due = true;
    }

    fn lose_parent(&mut self, why: CloseWhy, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        self.end_search(now_ns, None, out);
        let was_in = self.standing;
        let level = match was_in.level {
            u8::MAX => u8::MAX,
            level => usize::from(level)
                .saturating_add(self.path.len())
                .clamp(1, usize::from(u8::MAX) - 1) as u8,
        };
        let standing = Standing::new(false, was_in.term, level, self.config.node);
        let contacts = self.take_neighbours();
        let lost = contacts.first().map_or(self.config.node, Contact::node);
        self.top(standing);
        if self.drains_until_ns.is_some() {
            return;
        }
        if let Some(parent) = self.config.parent {
            self.search = Some(Search::pinned(parent, now_ns));
            return;
        }
        let mut search = Search::rescue(lost, now_ns);
        // A lost parent comes last in the search: it is still there if only the connection broke.
        let is_loop = why == CloseWhy::Loop;
        let others = contacts.iter().skip(1).chain(contacts.first());
        for contact in others.filter(|_| !is_loop) {
            search.add_contact(contact);
        }
        for contact in contacts.iter().filter(|_| is_loop) {
            search.add_contact(contact);
        }
        for seed in &self.config.seeds {
            search.add(Some(*seed), None, true);
        }
        if why == CloseWhy::Silent {
            search.pass_over_lost();
        }
        self.search = Some(search);
    }

    /// Clears the ancestors, the root's children and the siblings, remembers their addresses, and returns them in that
    /// order, the parent first.
    fn take_neighbours(&mut self) -> Vec<Contact> {
        let mut contacts = std::mem::take(&mut self.ancestors);
        contacts.append(&mut self.root_children);
        contacts.append(&mut self.siblings);
        contacts.retain(|contact| contact.node() != self.config.node);
        for contact in contacts.iter().rev() {
            self.memory.add(contact.address());
        }
        contacts
    }

    /// Resets the machine to a node without a parent.
    fn top(&mut self, standing: Standing) {
        self.parent = None;
        self.standing = standing;
        self.path.clear();
        self.ancestors.clear();
        self.root_children.clear();
        self.siblings.clear();
        self.stalled_ns = 0;
        self.lineage_due = Due::Now;
        self.has_moved = true;
        self.answers_due = true;
    }

    /// Makes the node a root.
    pub(super) fn become_root(
        &mut self,
        standing: Standing,
        now_ns: u64,
        out: &mut Vec<PlaceOutput>,
    ) {
        self.end_search(now_ns, None, out);
        self.take_neighbours();
        self.top(standing);
        // Other nodes may have become roots at the same time: probe soon.
        let wait_ns = self.config.timings.probe_ns;
        self.probe_at_ns = now_ns + wait_ns / 4 + self.jitter(wait_ns / 4);
    }

    /// Takes the place of the root again from the one that was elected while this node could not be heard: its own
    /// tree's members know it, and either tree joins the other by one new link. It happens once for each loss, and only
    /// in the next term, so that two of them never take turns. True if this node's tree now ranks first.
    pub(super) fn return_as_root(&mut self, other: &Standing, now_ns: u64) -> bool {
        let return_ns = self.config.timings.return_ns;
        let was_lost = self
            .bereft_ns
            .is_some_and(|since_ns| now_ns < since_ns + return_ns);
        // A child that was elected has left, though its old connection has not ended yet on this side.
        let is_child = self
            .confirmed()
            .any(|(_, child)| self.peers[&child.peer].node == other.root());
        let is_recent = was_lost || is_child;
        let is_next = other.settled && other.term == self.standing.term + 1;
        if !is_recent || !is_next || !self.is_root() || self.drains_until_ns.is_some() {
            return false;
        }
        self.bereft_ns = None;
        self.standing = Standing::new(true, other.term + 1, 0, self.config.node);
        self.lineage_due = Due::Now;
        self.has_moved = true;
        self.standing.outranks(other)
    }

    /// Takes the place that a node has given.
    pub(super) fn adopt_parent(
        &mut self,
        id: PeerId,
        lineage: Lineage,
        now_ns: u64,
        out: &mut Vec<PlaceOutput>,
    ) {
        self.leave_parent(out);
        let child = lineage.path.last().copied().unwrap_or_default();
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.relation = Relation::Parent;
            peer.waiting = None;
            peer.note_heard(now_ns);
        }
        let room = 0;
        let peer = id;
        self.parent = Some(Parent { peer, child, room });
        self.stalled_ns = 0;
        let message = PlaceMessage::Confirm(Confirm { child });
        out.push(PlaceOutput::Send { peer, message });
        let role = Role::Parent;
        out.push(PlaceOutput::Adopted { peer, role });
        self.apply_lineage(id, lineage);
        self.is_report_due = true;
        self.report_at_ns = now_ns;
        let shared = self.memory.share(CONTACTS_MAX);
        self.tell_known(&shared, out);
    }

    /// Sends the parent addresses that the root should probe. Otherwise what a node knows of other trees would be of no
    /// use unless it is the root, and two trees could exist side by side for ever.
    fn tell_known(&self, addresses: &[SocketAddr], out: &mut Vec<PlaceOutput>) {
        let Some(parent) = self.parent.as_ref().filter(|_| !addresses.is_empty()) else {
            return;
        };
        let contact = |address: &SocketAddr| Contact::new(NodeId(0), Some(*address));
        let contacts = addresses.iter().map(contact);
        let contacts = contacts.filter(|contact| contact.address().is_some());
        let message = PlaceMessage::Known(Known {
            contacts: contacts.collect(),
        });
        let peer = parent.peer;
        out.push(PlaceOutput::Send { peer, message });
    }

    /// Handles addresses from a child. New ones go on to the parent, so each address passes each link once.
    pub(super) fn handle_known(&mut self, known: &Known, out: &mut Vec<PlaceOutput>) {
        let mut news = Vec::new();
        for contact in &known.contacts {
            let address = contact.address();
            let address = address.filter(|address| self.config.may_dial(*address));
            if self.memory.add(address) {
                news.extend(address);
            }
        }
        self.tell_known(&news, out);
    }

    /// Closes the link to the parent, because the node has another one or becomes the root.
    fn leave_parent(&mut self, out: &mut Vec<PlaceOutput>) {
        let Some(Parent { peer, .. }) = self.parent.take() else {
            return;
        };
        let message = PlaceMessage::Leave(Leave { drains: false });
        out.push(PlaceOutput::Send { peer, message });
        out.push(PlaceOutput::Dropped { peer });
        let why = CloseWhy::Moved;
        out.push(PlaceOutput::Close { peer, why });
        self.peers.remove(&peer);
    }

    /// Checks that a parent's description of the node's place is possible.
    pub(super) fn check_lineage(
        &self,
        id: PeerId,
        lineage: &Lineage,
        number: Option<u8>,
    ) -> Result<(), CloseWhy> {
        let parent = self.peers[&id].node;
        if number.is_some_and(|number| lineage.path.last() != Some(&number)) {
            return Err(CloseWhy::Lie("another child number"));
        }
        let depth = lineage.path.len() - 1;
        if lineage.ancestors.len() != depth.min(ANCESTORS_MAX) {
            return Err(CloseWhy::Lie("a path of another length than its ancestors"));
        }
        let top = lineage.ancestors.last().map_or(parent, Contact::node);
        if depth <= ANCESTORS_MAX && top != lineage.standing.root() {
            return Err(CloseWhy::Lie("a root that is not its last ancestor"));
        }
        if self.broken == Some(Broken::PathVector) {
            return Ok(());
        }
        let own = self.config.node;
        let has_loop = |node| lineage.ancestors.iter().any(|above| above.node() == node);
        if has_loop(own) || has_loop(parent) || lineage.standing.root() == own {
            return Err(CloseWhy::Loop);
        }
        if lineage.path.len() > self.depth_max() {
            return Err(CloseWhy::TooDeep);
        }
        Ok(())
    }

    fn apply_lineage(&mut self, id: PeerId, lineage: Lineage) {
        let own = self.config.node;
        let mut ancestors = Vec::with_capacity(lineage.ancestors.len() + 1);
        ancestors.push(self.peers[&id].contact());
        ancestors.extend(lineage.ancestors);
        ancestors.truncate(DEPTH_MAX);
        let was_settled = self.standing.settled;
        let is_same_place = self.standing == lineage.standing && self.path == lineage.path;
        if !is_same_place {
            self.has_moved = true;
        }
        if !is_same_place || self.ancestors != ancestors {
            self.lineage_due = Due::Now;
        } else if self.root_children != lineage.root_children {
            self.lineage_due = self.lineage_due.max(Due::AtBeat);
        }
        self.standing = lineage.standing;
        self.path = lineage.path;
        self.ancestors = ancestors;
        self.root_children = lineage.root_children;
        self.siblings = lineage.siblings;
        self.siblings.retain(|contact| contact.node() != own);
        self.answers_due |= was_settled != self.standing.settled;
    }

    pub(super) fn handle_lineage(
        &mut self,
        id: PeerId,
        lineage: Lineage,
        _now_ns: u64,
    ) -> Result<(), CloseWhy> {
        let number = self.parent.as_ref().map(|parent| parent.child);
        self.check_lineage(id, &lineage, number)?;
        self.apply_lineage(id, lineage);
        Ok(())
    }

    pub(super) fn handle_pulse(
        &mut self,
        id: PeerId,
        pulse: &Pulse,
        now_ns: u64,
    ) -> Result<(), CloseWhy> {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.echo.take(&pulse.echo, now_ns);
        }
        if let Some(parent) = &mut self.parent {
            parent.room = pulse.room;
        }
        if pulse.beat != self.beat {
            self.beat = pulse.beat;
            self.stalled_ns = 0;
        }
        self.is_parent_alive = true;
        Ok(())
    }

    pub(super) fn handle_report(
        &mut self,
        id: PeerId,
        number: u8,
        report: &Report,
        now_ns: u64,
    ) -> Result<(), CloseWhy> {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.echo.take(&report.echo, now_ns);
        }
        let Some(child) = self.children.get_mut(&number) else {
            return Ok(());
        };
        if !child.is_confirmed {
            return Err(CloseWhy::Lie("a report before the place was taken"));
        }
        child.expected = 0;
        let news = (report.subtree, report.below, report.room);
        if news != (child.subtree, child.below, child.room) {
            (child.subtree, child.below, child.room) = news;
            self.is_report_due = true;
        }
        Ok(())
    }

    pub(super) fn handle_confirm(
        &mut self,
        id: PeerId,
        number: u8,
        said: u8,
        out: &mut Vec<PlaceOutput>,
    ) -> Result<(), CloseWhy> {
        let Some(child) = self.children.get_mut(&number) else {
            return Ok(());
        };
        if said != number {
            return Err(CloseWhy::Lie("another child number"));
        }
        if child.is_confirmed {
            return Err(CloseWhy::Lie("a place taken twice"));
        }
        child.is_confirmed = true;
        let role = Role::Child(number);
        out.push(PlaceOutput::Adopted { peer: id, role });
        self.note_children();
        Ok(())
    }

    pub(super) fn handle_leave(
        &mut self,
        id: PeerId,
        _leave: Leave,
        now_ns: u64,
        out: &mut Vec<PlaceOutput>,
    ) {
        self.close_peer(id, CloseWhy::Left, now_ns, out);
    }

    pub(super) fn handle_move(
        &mut self,
        order: Move,
        now_ns: u64,
        out: &mut Vec<PlaceOutput>,
    ) -> Result<(), CloseWhy> {
        let is_pinned = self.config.parent.is_some() || self.config.is_static;
        if is_pinned || self.drains_until_ns.is_some() {
            return Ok(());
        }
        let lost = self.ancestors.first().map(Contact::node);
        if order.inherits {
            if self.path.len() != 1 {
                return Err(CloseWhy::Lie("an inheritance from who is no root"));
            }
            let term = self.standing.term + 1;
            self.leave_parent(out);
            self.become_root(Standing::new(true, term, 0, self.config.node), now_ns, out);
            return Ok(());
        }
        self.end_search(now_ns, None, out);
        let mut search = Search::relocate(lost.unwrap_or_default(), now_ns);
        search.add_contact(&order.to);
        let others = self.ancestors.iter().skip(1).chain(&self.root_children);
        for contact in others.filter(|contact| Some(contact.node()) != lost) {
            search.add_contact(contact);
        }
        self.search = Some(search);
        Ok(())
    }

    /// The lineage message for the child of this number.
    pub(super) fn lineage_of(&self, number: u8) -> Lineage {
        let contacts = |skipped: Option<u8>| -> Vec<Contact> {
            let others = self
                .confirmed()
                .filter(|(other, _)| Some(*other) != skipped);
            let contacts = others.map(|(_, child)| self.peers[&child.peer].contact());
            contacts.take(CONTACTS_MAX).collect()
        };
        let mut path = self.path.clone();
        path.push(number);
        let mut ancestors = self.ancestors.clone();
        ancestors.truncate(ANCESTORS_MAX);
        let (root_children, siblings) = if self.parent.is_none() {
            (contacts(None), Vec::new())
        } else {
            (self.root_children.clone(), contacts(Some(number)))
        };
        Lineage {
            standing: self.standing,
            path,
            ancestors,
            root_children,
            siblings,
        }
    }

    /// Sends everything that is due.
    pub(super) fn flush(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        if self.is_drained {
            if std::mem::take(&mut self.has_moved) {
                out.push(PlaceOutput::Moved);
            }
            return;
        }
        if !self.standing.is_same_tree(&self.reign_since.0) {
            self.reign_since = (self.standing, now_ns);
        }
        if now_ns >= self.beat_at_ns {
            self.beat(now_ns, out);
        }
        if self.lineage_due == Due::Now {
            self.lineage_due = Due::No;
            self.send_lineages(now_ns, out);
        }
        if self.is_report_due && now_ns >= self.report_at_ns {
            self.send_report(now_ns, out);
        }
        if std::mem::take(&mut self.is_parent_alive) {
            self.answer_deferred(now_ns, out);
        }
        if std::mem::take(&mut self.answers_due) {
            self.answer_waiting(now_ns, out);
            if !self.standing.settled {
                self.answer_deferred(now_ns, out);
            }
        }
        if std::mem::take(&mut self.has_moved) {
            out.push(PlaceOutput::Moved);
        }
    }

    /// Counts one beat without a sign of life. However late it comes it counts as one interval: what others sent
    /// meanwhile was read before, so a node that got no CPU itself takes nobody for silent.
    pub(super) fn count_silence(&mut self) {
        let beat_ns = self.config.timings.beat_ns;
        if self.parent.is_some() {
            self.stalled_ns = self.stalled_ns.saturating_add(beat_ns);
        }
        for peer in self.peers.values_mut() {
            peer.silent_ns = peer.silent_ns.saturating_add(beat_ns);
        }
    }

    fn beat(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        let beat_ns = self.config.timings.beat_ns;
        self.beat_at_ns = now_ns + beat_ns;
        if self.parent.is_none() {
            self.beat = self.beat.wrapping_add(1);
        }
        if self.lineage_due == Due::AtBeat {
            self.lineage_due = Due::Now;
        }
        self.is_report_due = true;
        self.report_at_ns = now_ns;
        for (_, child) in self.confirmed() {
            let peer = child.peer;
            let message = PlaceMessage::Pulse(Pulse {
                beat: self.beat,
                room: self.room(),
                echo: self.peers[&peer].echo.give(now_ns),
            });
            out.push(PlaceOutput::Send { peer, message });
        }
    }

    /// Tells the children their positions. Those that would be too deep are closed.
    fn send_lineages(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        let children: Vec<_> = self
            .children
            .iter()
            .map(|(&number, child)| (number, child.peer))
            .collect();
        for (number, peer) in children {
            if self.path.len() >= self.depth_max() {
                self.close_peer(peer, CloseWhy::TooDeep, now_ns, out);
                continue;
            }
            let message = PlaceMessage::Lineage(self.lineage_of(number));
            out.push(PlaceOutput::Send { peer, message });
        }
    }

    fn send_report(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        self.is_report_due = false;
        self.report_at_ns = now_ns + self.config.timings.report_ns;
        let Some(parent) = &self.parent else {
            return;
        };
        let peer = parent.peer;
        let below = self.confirmed().map(|(_, child)| u64::from(child.room));
        let room = below.sum::<u64>() + u64::from(self.room());
        let message = PlaceMessage::Report(Report {
            subtree: self.subtree(),
            below: self.below(),
            room: room.min(u64::from(SUBTREE_MAX)) as u32,
            echo: self.peers[&peer].echo.give(now_ns),
        });
        out.push(PlaceOutput::Send { peer, message });
    }
}
