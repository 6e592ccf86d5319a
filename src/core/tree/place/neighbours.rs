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
    /// Handles a connection that the caller reports as closed.
    pub(super) fn handle_closed(
        &mut self,
        id: PeerId,
        why: CloseWhy,
        now_ns: u64,
        out: &mut Vec<PlaceOutput>,
    ) {
        self.remove_peer(id, why, now_ns, out);
    }

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

    fn remove_peer(&mut self, id: PeerId, why: CloseWhy, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        if self.is_adopted(id) {
            out.push(PlaceOutput::Dropped { peer: id });
        }
        let Some(peer) = self.peers.remove(&id) else {
            return;
        };
        match peer.relation {
            Relation::Stranger => self.fail_target(id),
            Relation::Child(number) => {
                self.children.remove(&number);
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
        self.top(standing, now_ns);
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
    fn top(&mut self, standing: Standing, now_ns: u64) {
        self.parent = None;
        self.standing = standing;
        self.path.clear();
        self.ancestors.clear();
        self.root_children.clear();
        self.siblings.clear();
        self.beat_changed_ns = now_ns;
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
        self.top(standing, now_ns);
        // Other nodes may have become roots at the same time: probe soon.
        let wait_ns = self.config.timings.probe_ns;
        self.probe_at_ns = now_ns + wait_ns / 4 + self.jitter(wait_ns / 4);
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
            peer.heard_ns = now_ns;
        }
        let room = 0;
        let peer = id;
        self.parent = Some(Parent { peer, child, room });
        self.beat_changed_ns = now_ns;
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
            if self.memory.add(contact.address()) {
                news.extend(contact.address());
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
            self.beat_changed_ns = now_ns;
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

    fn beat(&mut self, now_ns: u64, out: &mut Vec<PlaceOutput>) {
        let beat_ns = self.config.timings.beat_ns;
        self.beat_at_ns = (self.beat_at_ns + beat_ns).max(now_ns + beat_ns / 2);
        if self.parent.is_none() {
            self.beat = self.beat.wrapping_add(1);
            self.beat_changed_ns = now_ns;
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
