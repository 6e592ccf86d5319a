//! Delivery to clients that name their subscriptions, as NATS clients do: each message carries the subscription's id,
//! and a subscription may end after a number of messages.
//!
//! Owns those subscriptions and their gathered run: encoded once with the first subscription's id, and rewritten with
//! the id of each other one. Must not know who publishes. Start at [`Named::offer`].

use crate::command::{Event, Form, Member, Volume};
use crate::delivery::is_run_shared;
use crate::form::sids::Sids;
use crate::form::{self, NameMark};
use crate::outbox::{Offer, Outboxes};
use crate::routing::broker::Broker;
use crate::routing::subs::Entry;
use bytes::Bytes;
use sapwood_wire::native::flag;
use sapwood_wire::nats;

/// Frames of one topic, encoded with the id of one subscription.
#[derive(Debug, Default)]
pub(super) struct NamedRun {
    frames: Vec<u8>,
    /// Position of each frame, and of the subscription id in it.
    marks: Vec<NameMark>,
    /// The subscription whose id is written in them, and that id.
    first: u32,
    written: Vec<u8>,
    /// Bytes of all payloads.
    bytes: u64,
    /// Head of the frames, when they are kept.
    head: Box<[u8]>,
}

impl NamedRun {
    /// The first so many messages. The payload of each is what stands between its first line and its end.
    fn volume(&self, messages: usize) -> Volume {
        let bytes = match messages == self.marks.len() {
            true => self.bytes,
            // Only for a subscription that ends within the run.
            false => self
                .marks
                .windows(2)
                .take(messages)
                .map(|pair| {
                    let frame = &self.frames[pair[0].frame_at..pair[1].frame_at];
                    let line = frame.iter().take_while(|&&byte| byte != b'\n').count() + 1;
                    (frame.len() - line - nats::END.len()) as u64
                })
                .sum(),
        };
        Volume {
            events: messages as u64,
            bytes,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Named {
    pub sids: Sids,
    /// The gathered run.
    run: NamedRun,
    /// Scratch buffer for the conflation key of the slow consumer policy: topic and subscription id.
    key: Vec<u8>,
    /// Messages delivered, counted once for each subscription.
    pub delivered: Volume,
    /// Events not delivered because their topic is no NATS subject, counted once for each subscription.
    pub uncarried: u64,
}

impl Named {
    /// No subscriptions yet. The seed keeps outsiders from choosing ids that collide.
    pub(crate) fn new(seed: u64) -> Named {
        Named {
            sids: Sids::new(seed),
            run: NamedRun::default(),
            key: Vec::new(),
            delivered: Volume::default(),
            uncarried: 0,
        }
    }

    /// Bytes of the gathered run.
    pub(crate) fn pending(&self) -> usize {
        self.run.frames.len()
    }

    /// Encodes a run straight into the outbox of a filter's only member.
    pub(crate) fn give_run(
        &mut self,
        how: form::Run<'_>,
        Member { conn, number }: Member,
        outboxes: &mut Outboxes,
    ) {
        let taken = self.sids.take(number, how.volume.events);
        let how = how.first(taken as usize);
        self.delivered += how.volume;
        let (name, marks) = (&self.sids.get(number).name, &mut self.run.marks);
        outboxes.add_run(conn, how.volume, |out| how.encode_named(name, out, marks));
        self.run.marks.clear();
    }

    /// Adds a run to the gathered run for the members of a filter that take NATS frames.
    pub(crate) fn gather_run(&mut self, how: &form::Run<'_>, entry: &Entry, outboxes: &Outboxes) {
        self.begin_run(entry, outboxes);
        let run = &mut self.run;
        how.encode_named(&run.written, &mut run.frames, &mut run.marks);
        run.bytes += how.volume.bytes;
    }

    /// Adds one event to the gathered run.
    pub(crate) fn gather(
        &mut self,
        head: &[u8],
        event: &Event<'_>,
        entry: &Entry,
        outboxes: &Outboxes,
    ) {
        self.begin_run(entry, outboxes);
        let run = &mut self.run;
        let frame_at = run.frames.len();
        run.marks.push(NameMark {
            frame_at,
            name_at: frame_at + head.len(),
        });
        let sid = self.sids.get(run.first);
        form::encode_event(Form::NAMED, head, Some(sid), event, &mut run.frames);
        run.bytes += event.bare_volume().bytes;
    }

    fn begin_run(&mut self, entry: &Entry, outboxes: &Outboxes) {
        if self.run.frames.is_empty() {
            let mut members = entry.members.iter();
            let first = members.find(|member| outboxes.outbox(member.conn).form == Form::NAMED);
            // invariant: the filter counts members of this form.
            let first = first.expect("a filter has a member of this form").number;
            self.run.first = first;
            self.run.written.clear();
            let name = &self.sids.get(first).name;
            self.run.written.extend_from_slice(name);
        }
    }

    /// Takes the gathered run out, to be given later by [`give_kept`](Named::give_kept).
    pub(super) fn keep_run(&mut self, head: &[u8]) -> NamedRun {
        let run = std::mem::take(&mut self.run);
        NamedRun {
            head: head.into(),
            ..run
        }
    }

    /// Delivers a run that was taken out to one member.
    pub(super) fn give_kept(&mut self, run: &NamedRun, member: Member, outboxes: &mut Outboxes) {
        self.give_frames(run, member, &run.head, (0, &mut None), outboxes);
    }

    /// Delivers the gathered run to one member. `shared` is the run as stored once for all members with the same id.
    pub(crate) fn give(
        &mut self,
        member: Member,
        head: &[u8],
        members: u32,
        shared: &mut Option<Bytes>,
        outboxes: &mut Outboxes,
    ) {
        let run = std::mem::take(&mut self.run);
        self.give_frames(&run, member, head, (members, shared), outboxes);
        self.run = run;
    }

    /// Delivers a run to one member, with its own subscription id and no more messages than it may still get.
    fn give_frames(
        &mut self,
        run: &NamedRun,
        Member { conn, number }: Member,
        head: &[u8],
        (members, shared): (u32, &mut Option<Bytes>),
        outboxes: &mut Outboxes,
    ) {
        let taken = self.sids.take(number, run.marks.len() as u64) as usize;
        if taken == 0 {
            return;
        }
        let volume = run.volume(taken);
        self.delivered += volume;
        let (name, written) = (&self.sids.get(number).name, &run.written);
        let end = run.marks.get(taken).map(|next| next.frame_at);
        let frames = &run.frames[..end.unwrap_or(run.frames.len())];
        let is_alike = **name == **written;
        let takes_all = outboxes.takes_all(conn);
        let is_another = number != run.first && end.is_none();
        if is_alike && is_another && takes_all && is_run_shared(frames.len(), members) {
            let body = shared.get_or_insert_with(|| outboxes.share_run(frames));
            return outboxes.add_shared_run(conn, volume, body);
        }
        let marks = &run.marks[..taken];
        let encode = |out: &mut Vec<u8>| match is_alike {
            true => out.extend_from_slice(frames),
            false => form::encode_renamed(frames, marks, written.len(), name, out),
        };
        if takes_all {
            return outboxes.add_run(conn, volume, encode);
        }
        self.key.clear();
        self.key.extend_from_slice(head);
        self.key.extend_from_slice(name);
        let mut renamed = Vec::new();
        encode(&mut renamed);
        // The ids differ in length, so each frame before the last has moved by that difference.
        let before = taken - 1;
        let offer = Offer {
            volume,
            last_at: marks[before].frame_at + before * name.len() - before * written.len(),
            key: &self.key,
        };
        outboxes.offer(conn, &renamed, offer);
    }

    /// Clears the gathered run, after all members have it.
    pub(crate) fn end_run(&mut self) {
        self.run.frames.clear();
        self.run.marks.clear();
        self.run.bytes = 0;
    }

    /// Offers an event to a subscription, unless its message limit is reached. `head` is the frame's encoded head.
    pub(crate) fn offer(
        &mut self,
        member: Member,
        head: &[u8],
        event: &Event<'_>,
        body: Option<&Bytes>,
        outboxes: &mut Outboxes,
    ) {
        let Member { conn, number } = member;
        if self.sids.take(number, 1) == 0 {
            return;
        }
        let sid = self.sids.get(number);
        let volume = match sid.takes_headers {
            true => event.volume(),
            false => event.bare_volume(),
        };
        self.delivered += volume;
        self.key.clear();
        self.key.extend_from_slice(head);
        self.key.extend_from_slice(&sid.name);
        if let Some(body) = body {
            let mut before = Vec::new();
            form::encode_event_before_payload(Form::NAMED, head, Some(sid), event, &mut before);
            let offer = Offer::one(volume, &self.key);
            outboxes.offer_shared(conn, &before, body, nats::END, offer);
        } else {
            let length =
                self.key.len() + event.payload.len() + form::event_room(Form::NAMED, event);
            let offer = Offer::one(volume, &self.key);
            outboxes.offer_with(conn, length, offer, |out| {
                out.reserve(length);
                form::encode_event(Form::NAMED, head, Some(sid), event, out);
            });
        }
        // In NATS, the end of several replies is a message of its own.
        if event.flags & flag::END != 0 && !event.payload.is_empty() {
            let end = Event {
                flags: 0,
                attributes: &[],
                payload: &[],
                ..*event
            };
            self.offer(member, head, &end, None, outboxes);
        }
    }

    /// Removes the subscriptions that have reached their message limit.
    pub(crate) fn end_sids(&mut self, broker: &mut Broker) {
        for number in self.sids.take_ended() {
            self.end_sid(number, broker);
        }
    }

    /// Removes a subscription.
    pub(crate) fn end_sid(&mut self, number: u32, broker: &mut Broker) {
        let sid = self.sids.get(number);
        let member = Member {
            conn: sid.conn,
            number,
        };
        broker.remove_member(member, Form::NAMED, sid.filter);
        self.sids.forget(number);
    }
}
