//! Links of a shard: carries out the wishes of the place machine, keeps the lanes, and follows shard 0.
//!
//! Must not know what events mean. Invariants: links have the same numbers on all shards, because shard 0 assigns them
//! and its news arrive in order; what a link was told goes to the other shards before the events that need it. Start at
//! [`Shard::act_on_tree`] and [`Shard::end_turn_of_links`].

use super::{Shard, resume_if_free};
use crate::command::{CloseReason, ConnId, LinkId, Now};
use crate::input::{Handled, Outputs};
use crate::limits::{
    LANE_LOOK_NS, LANE_OUTBOX_BYTES, LANE_REDIAL_NS, PLACES_BYTES_MAX, SILENT_BEATS_MAX,
};
use crate::mailbox::Control;
use crate::session::Session;
use crate::tree::address::Path;
use crate::tree::interest_sync;
use crate::tree::lane::Lane;
use crate::tree::links::Peer;
use crate::tree::news::TreeNews;
use crate::tree::notice::{Notice, is_usual, note_place, show_peer};
use crate::tree::place::{PeerId, PlaceInput, PlaceOutput, Role};
use crate::tree::position::Position;
use crate::tree::session::NodeSession;
use crate::tree::state::Purpose;
use sapwood_wire::node::{VERSIONS, place};
use std::sync::Arc;

impl Shard {
    /// The session of a dialed connection; `None` if what it was dialed for is over.
    pub(crate) fn dialed_session(&mut self, dial: u64) -> Option<NodeSession> {
        let tree = self.tree.as_mut()?;
        let (purpose, _) = tree.dials.remove(&dial)?;
        let is_sealed = tree.config.key.is_some();
        Some(NodeSession::dialed(purpose, is_sealed))
    }

    /// Notes that a dial has failed.
    pub(crate) fn dial_failed(&mut self, dial: u64, now: Now) {
        let Some(tree) = &mut self.tree else { return };
        if let Some((purpose, _)) = tree.dials.remove(&dial) {
            self.purpose_failed(purpose, now);
        }
    }

    fn purpose_failed(&mut self, purpose: Purpose, now: Now) {
        let Some(tree) = &mut self.tree else { return };
        match purpose {
            Purpose::Place(dial) => tree.place(PlaceInput::DialFailed { dial }, now.monotonic_ns),
            Purpose::Lane { link, token, lane } => {
                let there = self.links.get(link).filter(|there| there.token == token);
                if there.is_none() {
                    return;
                }
                // A node that cannot be dialed at an address where it just was is gone; other lanes are dialed again.
                if lane == 0 {
                    tree.broken.push(link);
                } else if let Some(lane) = self.links.lane_mut(link, lane) {
                    lane.is_dialing = false;
                }
            }
        }
    }

    /// Notes that a connection between nodes is gone.
    pub(crate) fn node_gone(
        &mut self,
        session: &NodeSession,
        conn: ConnId,
        now: Now,
        outputs: &mut Outputs,
    ) {
        if let Some(purpose) = session.failed_purpose() {
            return self.purpose_failed(purpose, now);
        }
        let Some((link, number)) = session.lane() else {
            return;
        };
        let lane = self.links.lane_mut(link, number);
        let Some(lane) = lane.filter(|lane| lane.conn == Some(conn)) else {
            return;
        };
        lane.conn = None;
        lane.is_dialing = false;
        self.dial_lane(link, number, now, outputs);
    }

    /// Dials a lane that has no connection, if this side is to dial and did not just do so.
    fn dial_lane(&mut self, link: LinkId, number: u16, now: Now, outputs: &mut Outputs) {
        let (Some(tree), Some(there)) = (&mut self.tree, self.links.get(link)) else {
            return;
        };
        let (token, Some(address)) = (there.token, there.dial_to) else {
            return;
        };
        let Some(lane) = self.links.lane_mut(link, number) else {
            return;
        };
        let is_early = now.monotonic_ns < lane.dialed_ns + LANE_REDIAL_NS && lane.dialed_ns > 0;
        if lane.conn.is_some() || lane.is_dialing || is_early {
            return;
        }
        lane.is_dialing = true;
        lane.dialed_ns = now.monotonic_ns;
        let lane = number;
        let purpose = Purpose::Lane { link, token, lane };
        outputs.dials.push(tree.plan_dial(purpose, address));
    }

    /// Carries out the wishes of the place machine, and what follows from them.
    pub(crate) fn act_on_tree(&mut self, now: Now, outputs: &mut Outputs) {
        // Ends because each round takes what the round before added, and a link ends once.
        while let Some(tree) = &mut self.tree
            && !tree.is_quiet()
        {
            outputs.notices.append(&mut tree.notices);
            if std::mem::take(&mut tree.has_news) {
                self.resume_waiting(outputs);
                continue;
            }
            let (wishes, broken, replaced) = tree.take_work();
            let may_stand_elsewhere = wishes.iter().any(PlaceOutput::is_of_standing);
            for conn in replaced {
                self.begin_close(conn, CloseReason::Stale, outputs);
            }
            for link in broken {
                self.end_link(link, "its connection is lost", now, outputs);
            }
            let mut dropped = Vec::new();
            for wish in wishes {
                if let PlaceOutput::Dropped { peer } = wish {
                    dropped.push(link_of(peer));
                }
                self.carry_out(wish, now, outputs);
            }
            for link in dropped {
                self.end_link(link, "it is no branch of the tree any more", now, outputs);
            }
            if may_stand_elsewhere {
                self.find_standing();
            }
        }
    }

    /// Finds the node's position in the tree, and tells the other shards if it has changed.
    fn find_standing(&mut self) {
        let Some(place) = self.place() else { return };
        let path = place.path().and_then(|numbers| Path::new(numbers).ok());
        let position = Position {
            path,
            up: place.parent().map(|parent| link_of(parent.peer)),
            down: place
                .children()
                .map(|child| (child.number, link_of(child.peer)))
                .collect(),
        };
        if *self.broker.position() == position {
            return;
        }
        self.delivery.settle(&mut self.broker, &mut self.outboxes);
        let news = Arc::new(position.clone());
        self.broker.set_position(position);
        for shard in self.mailboxes.others() {
            let news = TreeNews::Stands(Arc::clone(&news));
            self.mailboxes.push_control(shard, Control::Tree(news));
        }
    }

    fn carry_out(&mut self, wish: PlaceOutput, now: Now, outputs: &mut Outputs) {
        match wish {
            PlaceOutput::Dial { dial, address } => {
                if let Some(tree) = &mut self.tree {
                    outputs
                        .dials
                        .push(tree.plan_dial(Purpose::Place(dial), address));
                }
            }
            PlaceOutput::Send { peer, message } => {
                let mut frame = Vec::new();
                place::write(&message, VERSIONS.1, &mut frame);
                self.write_to_lane(link_of(peer), |out| out.extend_from_slice(&frame));
            }
            PlaceOutput::Close { peer, why } => {
                let link = link_of(peer);
                if let (Some(there), false) = (self.links.get(link), is_usual(&why)) {
                    outputs.notices.push(Notice::Unlinked {
                        peer: show_peer(&there.peer),
                        why: why.to_string(),
                    });
                }
                self.close_link(link, outputs);
            }
            PlaceOutput::Adopted { peer, role } => self.adopt(link_of(peer), role, now, outputs),
            PlaceOutput::Dropped { peer } => self.unadopt(link_of(peer)),
            PlaceOutput::Moved => {
                let place = self.tree.as_ref().and_then(|tree| tree.place.as_ref());
                if let Some(place) = place {
                    outputs.notices.push(note_place(place));
                }
            }
        }
    }

    /// Writes a frame to the first lane of a link, or keeps it until that lane has a connection.
    fn write_to_lane(&mut self, link: LinkId, encode: impl FnOnce(&mut Vec<u8>)) {
        let lane = self.links.lane_mut(link, 0);
        match lane.and_then(|lane| lane.conn) {
            Some(conn) => self.write_to(conn, encode),
            None => {
                let there = self.links.get_mut(link);
                // Anything beyond this only repeats what was said before.
                let there = there.filter(|there| there.places_waiting.len() < PLACES_BYTES_MAX);
                if let Some(there) = there {
                    encode(&mut there.places_waiting);
                }
            }
        }
    }

    fn write_to(&mut self, conn: ConnId, encode: impl FnOnce(&mut Vec<u8>)) {
        if let Some(connection) = self.connections.get_mut(conn)
            && let Session::Node(session) = &mut connection.session
        {
            session.write_frame(conn, &mut self.outboxes, encode);
        }
    }

    /// Writes the messages about places that waited for the link's first lane to have a connection.
    fn write_waiting_places(&mut self, link: LinkId, number: u16) {
        let conn = self.links.lane_mut(link, number).and_then(|lane| lane.conn);
        let (Some(conn), Some(there), 0) = (conn, self.links.get_mut(link), number) else {
            return;
        };
        let waiting = std::mem::take(&mut there.places_waiting);
        if !waiting.is_empty() {
            self.write_to(conn, |out| out.extend_from_slice(&waiting));
        }
    }

    /// Makes a link a branch of the tree: from now on it carries events and interest.
    fn adopt(&mut self, link: LinkId, role: Role, now: Now, outputs: &mut Outputs) {
        let Some(there) = self.links.get_mut(link) else {
            return;
        };
        there.is_adopted = true;
        let peer = Arc::new(there.peer.clone());
        let (token, dial_to) = (there.token, there.dial_to);
        outputs.notices.push(Notice::Linked {
            peer: show_peer(&peer),
            role: match role {
                Role::Parent => "parent",
                Role::Child(_) => "child",
            },
        });
        self.note_same_name(link, &peer, outputs);
        self.delivery.settle(&mut self.broker, &mut self.outboxes);
        self.broker.tell_links(true);
        for shard in self.mailboxes.others() {
            let news = TreeNews::Up {
                link,
                token,
                peer: Arc::clone(&peer),
                dial_to,
            };
            self.mailboxes.push_control(shard, Control::Tree(news));
        }
        self.dial_lanes(link, now, outputs);
        self.resume_waiting(outputs);
    }

    /// Warns of a node that has the name of this one, or of another that is linked with it.
    fn note_same_name(&self, link: LinkId, peer: &Peer, outputs: &mut Outputs) {
        let own = self
            .tree
            .as_ref()
            .map(|tree| tree.config.place.name.as_str());
        let mut others = self.links.iter();
        let other = others
            .find(|(id, other)| *id != link && other.is_adopted && other.peer.name == peer.name);
        let other = match other {
            _ if peer.name.is_empty() => return,
            _ if own == Some(peer.name.as_str()) => "this node".to_string(),
            Some((_, other)) => show_peer(&other.peer),
            None => return,
        };
        let peer = show_peer(peer);
        outputs.notices.push(Notice::SameName { peer, other });
    }

    fn dial_lanes(&mut self, link: LinkId, now: Now, outputs: &mut Outputs) {
        let lanes = self.links.get(link).map(|there| {
            let lanes = there.lanes.iter();
            lanes.map(|lane| lane.number).collect::<Vec<_>>()
        });
        for number in lanes.unwrap_or_default() {
            self.dial_lane(link, number, now, outputs);
        }
    }

    /// Takes a link out of the tree: forgets the interest behind it, and tells the other shards.
    fn unadopt(&mut self, link: LinkId) {
        let Some(there) = self.links.get_mut(link).filter(|there| there.is_adopted) else {
            return;
        };
        there.is_adopted = false;
        self.forget_interest(link);
        for shard in self.mailboxes.others() {
            let news = TreeNews::Down { link };
            self.mailboxes.push_control(shard, Control::Tree(news));
        }
        if self.links.adopted(None).next().is_none() {
            self.broker.tell_links(false);
        }
    }

    fn forget_interest(&mut self, link: LinkId) {
        self.delivery.settle(&mut self.broker, &mut self.outboxes);
        self.broker.forget_wanted(link);
        self.broker.forget_told(link);
    }

    /// Ends a link, and tells the place machine that it is closed.
    fn end_link(&mut self, link: LinkId, why: &str, now: Now, outputs: &mut Outputs) {
        let Some(there) = self.links.get(link) else {
            return;
        };
        if there.is_adopted {
            outputs.notices.push(Notice::Unlinked {
                peer: show_peer(&there.peer),
                why: why.into(),
            });
        }
        self.close_link(link, outputs);
        if let Some(tree) = &mut self.tree {
            let peer = PeerId(u64::from(link.0));
            tree.place(PlaceInput::Closed { peer }, now.monotonic_ns);
        }
    }

    fn close_link(&mut self, link: LinkId, outputs: &mut Outputs) {
        self.unadopt(link);
        self.drop_lanes(link, outputs);
    }

    /// Removes a link's lanes of this shard, and says what they had not handed over.
    fn drop_lanes(&mut self, link: LinkId, outputs: &mut Outputs) {
        let peer = self.links.get(link).map(|there| show_peer(&there.peer));
        let (conns, events) = self.links.close(link);
        for conn in conns {
            self.begin_close(conn, CloseReason::Quit, outputs);
        }
        if let Some(peer) = peer.filter(|_| events > 0) {
            outputs.notices.push(Notice::LostAtEnd { peer, events });
        }
    }

    /// Handles news of shard 0 about links.
    pub(crate) fn handle_tree_news(&mut self, news: TreeNews, now: Now, outputs: &mut Outputs) {
        match news {
            TreeNews::Stands(position) => {
                self.delivery.settle(&mut self.broker, &mut self.outboxes);
                self.broker.set_position(Position::clone(&position));
            }
            TreeNews::Up {
                link,
                token,
                peer,
                dial_to,
            } => {
                let peer = Peer::clone(&peer);
                self.links.open(link, token, peer, dial_to);
                if let Some(there) = self.links.get_mut(link) {
                    there.is_adopted = true;
                }
                self.dial_lanes(link, now, outputs);
                self.resume_waiting(outputs);
            }
            TreeNews::Down { link } => {
                self.forget_interest(link);
                self.drop_lanes(link, outputs);
            }
            TreeNews::Told { link, number } => {
                if let Some(there) = self.links.get_mut(link) {
                    there.told = number;
                }
                self.resume_waiting(outputs);
            }
            TreeNews::Known {
                link,
                number,
                restart,
                everything,
                changes,
            } => {
                let Some(there) = self.links.get_mut(link) else {
                    return;
                };
                there.known = number;
                self.delivery.settle(&mut self.broker, &mut self.outboxes);
                self.broker
                    .apply_interest(link, (restart, everything), &changes);
                self.resume_waiting(outputs);
            }
        }
    }

    /// Resumes the connections that wait for news about links.
    fn resume_waiting(&mut self, outputs: &mut Outputs) {
        let Some(tree) = &mut self.tree else { return };
        for (conn, client) in std::mem::take(&mut tree.waiting) {
            if let Some(connection) = self.connections.of_client(conn, client) {
                connection.blocked.link = false;
                resume_if_free(connection, conn, outputs);
            }
        }
    }

    /// When links need a tick next, by the monotonic clock; `None` if never.
    pub(crate) fn tree_deadline(&self) -> Option<u64> {
        let tree = self.tree.as_ref()?;
        let place = tree.place.as_ref().and_then(|place| place.next_deadline());
        let look = (self.links.len() > 0).then_some(tree.look_ns);
        [place, look].into_iter().flatten().min()
    }

    /// Ticks the place machine if it is due, and checks the lanes.
    pub(crate) fn tick_tree(&mut self, now: Now, outputs: &mut Outputs) {
        let now_ns = now.monotonic_ns;
        let Some(tree) = &mut self.tree else { return };
        let place_due = tree.place.as_ref().and_then(|place| place.next_deadline());
        if place_due.is_some_and(|due_ns| due_ns <= now_ns) {
            tree.place(PlaceInput::Tick, now_ns);
        }
        if tree.look_ns > now_ns || self.links.len() == 0 {
            return;
        }
        tree.look_ns = now_ns + LANE_LOOK_NS.min(tree.config.place.timings.heartbeat_ns);
        let links: Vec<LinkId> = self.links.iter().map(|(link, _)| link).collect();
        for link in links {
            self.look_at_link(link, now, outputs);
        }
    }

    fn look_at_link(&mut self, link: LinkId, now: Now, outputs: &mut Outputs) {
        let (Some(tree), Some(there)) = (&mut self.tree, self.links.get_mut(link)) else {
            return;
        };
        let is_stuck = std::mem::take(&mut there.is_stuck);
        let (mut silent, mut lost) = (Vec::new(), 0);
        let mut is_broken = is_stuck;
        let mut numbers = Vec::new();
        let heartbeat_ns = tree.config.place.timings.heartbeat_ns;
        for lane in &mut there.lanes {
            // A lane that is held is not read: its silence is this side's own doing.
            let connection = lane.conn.and_then(|conn| self.connections.get(conn));
            if connection.is_some_and(|connection| connection.blocked.any()) {
                lane.silent_ns = 0;
            }
            if lane.number == 0 && lane.silent_ns == 0 {
                let peer = PeerId(u64::from(link.0));
                tree.place(PlaceInput::Heard { peer }, now.monotonic_ns);
            }
            lane.note_silence(LANE_LOOK_NS.min(heartbeat_ns));
            lost += lane.take_lost_unsaid();
            let is_silent = lane.silent_ns > SILENT_BEATS_MAX.saturating_mul(heartbeat_ns);
            match lane.conn {
                Some(conn) if is_silent => silent.push(conn),
                Some(_) => numbers.push(lane.number),
                None if there.dial_to.is_some() => numbers.push(lane.number),
                None => is_broken |= lane.number == 0 && is_silent,
            }
        }
        if lost > 0 {
            let peer = show_peer(&there.peer);
            outputs.notices.push(Notice::Lost { peer, events: lost });
        }
        let events = std::mem::take(&mut there.lost_before);
        if events > 0 {
            let peer = show_peer(&there.peer);
            outputs.notices.push(Notice::LostBefore { peer, events });
        }
        if is_broken {
            tree.broken.push(link);
            return;
        }
        for conn in silent {
            self.begin_close(conn, CloseReason::Stale, outputs);
        }
        for number in numbers {
            self.dial_lane(link, number, now, outputs);
            self.write_beat(link, number, now);
        }
    }

    fn write_beat(&mut self, link: LinkId, number: u16, now: Now) {
        let Some(lane) = self.links.lane_mut(link, number) else {
            return;
        };
        let Some(conn) = lane.conn else { return };
        let beat = lane.beat(now.monotonic_ns);
        if let Some(connection) = self.connections.get_mut(conn)
            && let Session::Node(session) = &mut connection.session
        {
            session.write_frame(conn, &mut self.outboxes, |out| beat.write(VERSIONS.1, out));
        }
    }

    /// Whether links are told of interest. Who hands over tells them nothing: its neighbours must not forget those behind it
    /// before they know where these have moved.
    pub(super) fn tells_links(&self) -> bool {
        self.tree.as_ref().is_none_or(|tree| !tree.hands_over)
    }

    /// Tells links what interest has changed, and gives lane connections the frames that wait for them.
    pub(crate) fn end_turn_of_links(&mut self) {
        if self.links.len() == 0 {
            return;
        }
        if self.tells_links() {
            interest_sync::tell(
                &mut self.broker,
                &mut self.links,
                &mut self.mailboxes,
                &self.settings.limits,
            );
        }
        for (link, number) in self.links.take_listed() {
            self.write_waiting_places(link, number);
            let Some(lane) = self.links.lane_mut(link, number) else {
                continue;
            };
            let Some(conn) = lane.conn else { continue };
            if let Some(connection) = self.connections.get_mut(conn)
                && let Session::Node(session) = &mut connection.session
            {
                let outboxes = &mut self.outboxes;
                let room = LANE_OUTBOX_BYTES.saturating_sub(outboxes.outbox(conn).len());
                if room > 0 {
                    lane.give(room, |frames| session.write(frames, conn, outboxes));
                }
            }
        }
    }

    /// Notes that a connection was written: a lane with more frames gets them in the next turn.
    pub(crate) fn note_lane_sent(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get(conn) else {
            return;
        };
        if let Session::Node(session) = &connection.session
            && let Some((link, number)) = session.lane()
            && self.outboxes.outbox(conn).len() < LANE_OUTBOX_BYTES / 2
        {
            let lane = self.links.lane_mut(link, number);
            if lane.is_some_and(|lane| lane.conn == Some(conn) && lane.has_more()) {
                self.links.list(link, number);
            }
        }
    }

    /// Closes those that have an end of their own. Takes nothing more from other nodes, tells them what was taken, and the
    /// children to find another parent.
    pub(crate) fn hand_over(&mut self, now: Now, outputs: &mut Outputs) -> Handled {
        self.close_early(outputs);
        let Some(tree) = &mut self.tree else {
            return Handled::DONE;
        };
        tree.hands_over = true;
        let lanes = self.links.iter().flat_map(|(link, there)| {
            let lanes = there.lanes.iter();
            lanes.map(move |lane| (link, lane.number))
        });
        for (link, number) in lanes.collect::<Vec<_>>() {
            self.write_beat(link, number, now);
        }
        if let Some(tree) = &mut self.tree {
            tree.place(PlaceInput::Drain, now.monotonic_ns);
        }
        self.resume_waiting(outputs);
        Handled::DONE
    }

    /// Whether other nodes have acknowledged all that was sent to them by this shard's lanes.
    pub fn has_handed_over(&self) -> bool {
        let branches = self.links.iter().filter(|(_, link)| link.is_adopted);
        let mut lanes = branches.flat_map(|(_, link)| &link.lanes);
        lanes.all(Lane::is_acknowledged)
    }

    /// Leaves the tree once no child is left.
    pub(crate) fn leave_tree(&mut self, now: Now) -> Handled {
        if let Some(tree) = &mut self.tree {
            tree.place(PlaceInput::Leave, now.monotonic_ns);
        }
        Handled::DONE
    }

    /// Whether the node has left the tree, or was in none. Only shard 0 knows.
    pub fn has_left_tree(&self) -> bool {
        self.place().is_none_or(|place| place.is_drained())
    }
}

fn link_of(peer: PeerId) -> LinkId {
    LinkId(peer.0 as u16)
}
