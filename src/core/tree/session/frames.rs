//! Frames received on a lane.

use super::*;
use sapwood_wire::scope;

/// Maximum length of the first frame, which proves that the dialer is not replaying an old HELLO.
const FIRST_FRAME_BYTES_MAX: usize = 16 * 1024;

/// Whether a frame was handled.
enum Went {
    On,
    /// Handled; this comes before the next frame.
    OnBut(Then),
    /// Not handled: to be offered again later.
    Not(Then),
}

impl NodeSession {
    pub(super) fn take_frames(
        &mut self,
        input: &[u8],
        tree: &mut Tree,
        cx: &mut Parts<'_>,
    ) -> Result<LinkStep, Fault> {
        if self.sealer.is_none() {
            let (consumed, then) = self.frames(input, tree, cx)?;
            return Ok(LinkStep::Both(consumed, then));
        }
        let mut plain = std::mem::take(&mut self.plain);
        let (done, then) = self.frames(&plain, tree, cx)?;
        plain.drain(..done);
        self.plain = plain;
        if !matches!(then, Then::Read { .. }) {
            return Ok(LinkStep::Then(then));
        }
        // invariant: looked at above.
        let sealer = self.sealer.as_mut().expect("a sealed connection");
        match sealer.open(input, &mut self.plain) {
            Ok(opened) if opened.consumed == 0 => Ok(read(opened.needed)),
            Ok(opened) => Ok(LinkStep::On(opened.consumed)),
            Err(_) if matches!(self.phase, Phase::First(_)) => {
                Err(Fault::Refuse(Refusal::SecretWrong))
            }
            Err(_) => Err(Fault::Other("its seal is broken")),
        }
    }

    /// Handles whole frames. Returns their length in bytes, and what follows.
    fn frames(
        &mut self,
        bytes: &[u8],
        tree: &mut Tree,
        cx: &mut Parts<'_>,
    ) -> Result<(usize, Then), Fault> {
        let mut at = 0;
        loop {
            if cx.outboxes.should_flush(cx.delivery.pending()) {
                return Ok((at, Then::Flush));
            }
            let body_max = match self.phase {
                Phase::First(_) => FIRST_FRAME_BYTES_MAX,
                _ => NODE_FRAME_BYTES_MAX,
            };
            let (frame, length) = match node::parse(&bytes[at..], VERSIONS.1, body_max)? {
                Parsed::Frame(frame, length) => (frame, length),
                Parsed::Incomplete { needed } => return Ok((at, Then::Read { needed })),
            };
            if let Phase::First(guest) = &self.phase {
                let guest = guest.clone();
                if !self.let_in(&guest, tree, cx)? {
                    return Ok((at, self.wait_for_link(tree, cx)));
                }
            }
            let whole = &bytes[at..at + length];
            match self.frame(whole, &frame, tree, cx)? {
                Went::On => at += length,
                Went::OnBut(then) => return Ok((at + length, then)),
                Went::Not(then) => return Ok((at, then)),
            }
        }
    }

    fn wait_for_link(&mut self, tree: &mut Tree, cx: &mut Parts<'_>) -> Then {
        cx.blocked.link = true;
        tree.waiting.push((cx.conn, cx.identity.client));
        Then::Hold
    }

    /// Accepts the dialer after its first frame. False if its link is not known on this shard yet.
    fn let_in(
        &mut self,
        guest: &Guest,
        tree: &mut Tree,
        cx: &mut Parts<'_>,
    ) -> Result<bool, Fault> {
        let found = cx.links.find(guest.token, guest.peer.node);
        if let Some(link) = found {
            let before = self.go_up((link, guest.lane), guest.has, guest.told, tree, cx)?;
            tree.replaced.extend(before);
            self.write_beat(cx);
            return Ok(true);
        }
        if guest.lane > 0 {
            return Ok(false);
        }
        if guest.has > 0 || guest.told > 0 {
            return Err(Fault::Other("its link has ended"));
        }
        let link = cx.links.free_place();
        cx.links.open(link, guest.token, guest.peer.clone(), None);
        self.go_up((link, 0), 0, 0, tree, cx)?;
        self.write_beat(cx);
        let input = PlaceInput::Connected {
            peer: PeerId(u64::from(link.0)),
            node: guest.peer.node,
            incarnation: guest.peer.incarnation,
            address: guest.peer.address,
            dialed: None,
        };
        tree.place(input, cx.now.monotonic_ns);
        Ok(true)
    }

    fn frame(
        &mut self,
        whole: &[u8],
        frame: &Frame<'_>,
        tree: &mut Tree,
        cx: &mut Parts<'_>,
    ) -> Result<Went, Fault> {
        let Phase::Up { link, lane, again } = &mut self.phase else {
            unreachable!("only a lane brings frames");
        };
        let (link, lane) = (*link, *lane);
        let is_numbered = kind::is_numbered(frame.kind);
        if is_numbered && *again > 0 {
            *again -= 1;
            return Ok(Went::On);
        }
        if is_numbered && tree.hands_over {
            // It stays with the sender, who learns from the heartbeats that it was not taken.
            return Ok(Went::On);
        }
        let there = cx.links.lane_mut(link, lane);
        let Some(there) = there.filter(|there| there.conn == Some(cx.conn)) else {
            return Err(Fault::Other("its link has ended"));
        };
        there.silent_ns = 0;
        let went = match frame.kind {
            kind::EVENTS => self.take_events(whole, frame, (link, lane), tree, cx)?,
            kind::NEEDS => {
                there.needs = Needs::read(frame)?;
                Went::On
            }
            kind::LOST => {
                let events = Lost::read(frame)?.events;
                let counters = &mut cx.links.counters;
                counters.events_lost_before = counters.events_lost_before.saturating_add(events);
                if let Some(there) = cx.links.get_mut(link) {
                    there.lost_before = there.lost_before.saturating_add(events);
                }
                Went::On
            }
            kind::INTEREST if lane == 0 => {
                tree.has_news = true;
                let taken = take_interest(&Interest::read(frame)?, link, cx);
                if taken.is_err() {
                    // A new connection would meet the same error.
                    tree.broken.push(link);
                }
                taken?
            }
            kind::BEAT => {
                let beat = Beat::read(frame)?;
                if !there.take_beat(&beat, cx.now.monotonic_ns) {
                    return Err(Fault::Other("it acknowledges what was never sent"));
                }
                Went::On
            }
            kind::PLACE_FIRST..=kind::PLACE_LAST if lane == 0 => {
                let message = place::read(frame)?;
                let peer = PeerId(u64::from(link.0));
                tree.place(PlaceInput::Message { peer, message }, cx.now.monotonic_ns);
                went_on(tree)
            }
            other => return Err(FrameError::Kind(other).into()),
        };
        if is_numbered && !matches!(went, Went::Not(_)) {
            self.count_received((link, lane), whole.len(), cx);
        }
        Ok(went)
    }

    fn count_received(&mut self, (link, lane): (LinkId, u16), bytes: usize, cx: &mut Parts<'_>) {
        let Some(lane) = cx.links.lane_mut(link, lane) else {
            return;
        };
        lane.received += 1;
        lane.unsaid_bytes += bytes;
        if lane.unsaid_bytes >= ACKNOWLEDGE_BYTES {
            self.write_beat(cx);
        }
    }

    fn take_events(
        &mut self,
        whole: &[u8],
        frame: &Frame<'_>,
        (link, lane): (LinkId, u16),
        tree: &mut Tree,
        cx: &mut Parts<'_>,
    ) -> Result<Went, Fault> {
        let events = Events::read(frame)?;
        let Some(there) = cx.links.get(link) else {
            return Ok(Went::On);
        };
        if u16::from(events.head().lane) % there.lanes_total != lane {
            return Err(Fault::Other("events on a lane that is not theirs"));
        }
        let head = events.head();
        if !cx.links.is_plausible(head, events.len() as u64) {
            return Err(Fault::Other("an event with a number that no node comes to"));
        }
        // What clients may not publish, nodes may not say for them.
        let is_topic = head.space == Space::Topic;
        if is_topic && scope::Scope::parse(head.topic).is_err() {
            return Err(Fault::Other("an event with a name that nobody may publish"));
        }
        if !there.is_adopted {
            // The link is no longer a branch of the tree, which the other side may not know yet.
            return Ok(Went::On);
        }
        let (known, told) = (there.known, there.told);
        let needs = cx.links.lane_mut(link, lane).map(|lane| lane.needs);
        let needs = needs.unwrap_or_default();
        if needs.sequence > known || needs.known > told {
            return Ok(Went::Not(self.wait_for_link(tree, cx)));
        }
        interest_sync::tell(cx.broker, cx.links, cx.mailboxes, &cx.settings.limits);
        let (delivery, mut egress) = cx.delivery();
        let arrival = Arrival {
            link,
            frame: whole,
            events: &events,
        };
        Ok(match delivery.receive_events(&mut egress, arrival) {
            Received::All => {
                cx.counters.commands += events.len() as u64;
                if let Some(there) = cx.links.get_mut(link) {
                    there.events_in += events.len() as u64;
                }
                Went::On
            }
            Received::Part => Went::Not(Then::Flush),
        })
    }
}

/// A frame was handled. What it caused is carried out first, because the next frame may depend on it.
fn went_on(tree: &Tree) -> Went {
    match tree.wishes.is_empty() {
        true => Went::On,
        false => Went::OnBut(Then::Flush),
    }
}

/// Applies the interest announced by a link's other side, and tells the other shards.
fn take_interest(interest: &Interest<'_>, link: LinkId, cx: &mut Parts<'_>) -> Result<Went, Fault> {
    let head = interest.head();
    let filters_max = cx.settings.limits.filters_max;
    if cx.broker.filters().len_with_nodes() + interest.changes().len() > filters_max {
        return Err(Fault::Other(
            "it wants more filters than this node may know",
        ));
    }
    cx.settle();
    let Some(there) = cx.links.get_mut(link) else {
        return Ok(Went::On);
    };
    if head.sequence != there.known + 1 {
        return Err(Fault::Other("its interest is out of order"));
    }
    there.known = head.sequence;
    if !there.is_adopted {
        return Ok(Went::On);
    }
    let changes: Arc<[Change]> = interest.changes().map(as_change).collect();
    cx.broker
        .apply_interest(link, (head.restart, head.everything), &changes);
    for shard in cx.mailboxes.others() {
        let news = TreeNews::Known {
            link,
            number: head.sequence,
            restart: head.restart,
            everything: head.everything,
            changes: Arc::clone(&changes),
        };
        cx.mailboxes.push_control(shard, Control::Tree(news));
    }
    Ok(Went::On)
}

fn as_change(change: sapwood_wire::node::interest::Change<'_>) -> Change {
    Change {
        kind: match change.kind {
            FilterKind::Topic => crate::command::FilterKind::Topic,
            FilterKind::ShardChannel => crate::command::FilterKind::ShardChannel,
            FilterKind::Glob => crate::command::FilterKind::Glob,
            FilterKind::Wildcard => crate::command::FilterKind::Wildcard,
            FilterKind::Node => crate::command::FilterKind::Node,
        },
        name: change.name.into(),
        group: change.group.into(),
        listeners: change.listeners,
    }
}
