//! A state worker's side of the mailboxes: what shards hand to it, and what it says to them.
//!
//! To the mesh a worker is one more peer beside the shards: its number follows theirs, it exchanges [`Batch`]es with each
//! of them, and it has no connections. Owns what waits for each shard, the number of the last change of its filters, and
//! which shards know it. Must not know what is stored, nor what requests and answers mean: they are bytes. Invariants:
//! what a publisher did is read in its order; events are said to a shard only where there is room, answers always, of
//! which a call has one at a time; a shard that knows of a filter hands over every event that it takes from then on.
//! Start at [`WorkerPort::handle_batch`], and give each batch back once what it held was taken in: only that returns
//! credit, so a worker that is behind stalls those who publish what it keeps, and nobody else.
//!
//! A driver's turn: batches that came back ([`WorkerPort::handle_returned`]); batches of shards, as many as it can take
//! in; what is to be said; then [`WorkerPort::take_batch`] for each shard. What it sends must come to a shard by
//! [`crate::driver::Mail::next_said`], apart from the batches of shards.

use crate::command::{Answer, CallId, ConnId, Event, Extent, FilterKind, ShardId, Volume};
use crate::limits::{Limits, SHARDS_MAX, STATE_ANSWERS_BYTES, WORKERS_MAX};
use crate::mailbox::{Addressees, Batch, BatchCursor, Control, Mailboxes, Record, Records};
use crate::routing::interest::Change;
use bytes::Bytes;
use sapwood_wire::native;
use sapwood_wire::run::Span;
use sapwood_wire::scope::Scope;
use sapwood_wire::topic;
use std::sync::Arc;

/// A call that a worker answers, once, to the shard of the asker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Asker {
    /// The shard.
    pub shard: ShardId,
    /// The connection there.
    pub conn: ConnId,
    /// The connection's call.
    pub call: CallId,
}

/// What a worker finds in a batch.
#[derive(Clone, Copy, Debug)]
pub enum Heard<'a> {
    /// Events to be kept.
    Events(Captured<'a>),
    /// A request.
    Asked {
        /// Who waits for the answer.
        asker: Asker,
        /// The request.
        request: &'a [u8],
        /// The same in a buffer that may be kept, if it is long.
        shared: Option<&'a Bytes>,
    },
}

/// Events of one topic that a worker keeps: one, or a run.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// The topic that subscribers see, without a scope.
    pub topic: &'a [u8],
    /// The native message's flags; 0 for a run.
    pub flags: u8,
    /// Reply topic and headers, as `flags` says and encoded as in a native message; empty for a run.
    pub attributes: &'a [u8],
    /// Who is told, in one answer, what became of each event.
    pub ack: Option<Asker>,
    /// Number of events, and the bytes of their payloads.
    pub volume: Volume,
    payloads: Payloads<'a>,
}

/// Where payloads stand.
#[derive(Clone, Copy, Debug)]
enum Payloads<'a> {
    One(&'a [u8], Option<&'a Bytes>),
    Run(&'a [u8], &'a [Span]),
}

impl<'a> Captured<'a> {
    /// The topic where the publisher awaits an acknowledgement, if it gave one. Runs have none.
    pub fn reply(&self) -> Option<&'a [u8]> {
        native::attributes_reply(self.flags, self.attributes)
    }

    /// The payload of each event, in order.
    pub fn payloads(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let payloads = self.payloads;
        (0..self.volume.events as usize).map(move |place| match payloads {
            Payloads::One(payload, _) => payload,
            Payloads::Run(frames, spans) => {
                let (start, end) = spans[place];
                &frames[start as usize..end as usize]
            }
        })
    }

    /// The payload in a buffer that may be kept, if this is a single long event.
    pub fn shared(&self) -> Option<&'a Bytes> {
        match self.payloads {
            Payloads::One(_, shared) => shared,
            Payloads::Run(..) => None,
        }
    }
}

/// Reader of a batch, in the order in which it was written. Where it stops, the cursor it was given is where to read on.
#[derive(Debug)]
pub struct Reading<'a> {
    from: ShardId,
    batch: &'a Batch,
    cursor: &'a mut BatchCursor,
}

impl<'a> Iterator for Reading<'a> {
    type Item = Heard<'a>;

    fn next(&mut self) -> Option<Heard<'a>> {
        let mut records = Records::new(self.batch, *self.cursor);
        let asker = |(conn, call)| Asker {
            shard: self.from,
            conn,
            call,
        };
        let mut ack = None;
        let heard = loop {
            match records.next()? {
                // It stands directly before what it is about.
                Record::Ack(key) => {
                    assert!(ack.is_none(), "an acknowledgement of nothing");
                    ack = Some(asker(key));
                }
                Record::Ask(key, request, shared) => {
                    assert!(ack.is_none(), "a request is answered anyway");
                    break Heard::Asked {
                        asker: asker(key),
                        request,
                        shared,
                    };
                }
                Record::Event(handed) => {
                    let Event {
                        topic,
                        flags,
                        attributes,
                        payload,
                        ..
                    } = handed.event;
                    let volume = handed.event.bare_volume();
                    break Heard::Events(Captured {
                        topic: as_shown(topic),
                        flags,
                        attributes,
                        ack,
                        volume,
                        payloads: Payloads::One(payload, handed.body),
                    });
                }
                Record::Run(run) => {
                    break Heard::Events(Captured {
                        topic: run.topic,
                        flags: 0,
                        attributes: &[],
                        ack,
                        volume: run.volume,
                        payloads: Payloads::Run(run.frames, run.payloads),
                    });
                }
            }
        };
        *self.cursor = records.cursor;
        Some(heard)
    }
}

/// The topic that subscribers see, without a scope.
fn as_shown(name: &[u8]) -> &[u8] {
    match topic::is_reserved(name) {
        true => Scope::parse(name).map_or(name, |scope| scope.name),
        false => name,
    }
}

/// A state worker's mailboxes for all shards. Performs no I/O and reads no clock.
#[derive(Debug)]
pub struct WorkerPort {
    me: ShardId,
    mailboxes: Mailboxes,
    /// Number of the last change of filters.
    told: u64,
    /// The last that each shard knows.
    known: Vec<u64>,
    /// Bytes of answers that each shard has not handled.
    answer_bytes: Vec<usize>,
}

impl WorkerPort {
    /// The port of the worker with this number, from 0, on a node of so many shards.
    pub fn new(worker: u16, shards: u16, limits: &Limits) -> WorkerPort {
        assert!(
            usize::from(worker) < WORKERS_MAX,
            "too large a worker's number"
        );
        assert!((1..=SHARDS_MAX).contains(&usize::from(shards)));
        let me = ShardId(shards + worker);
        WorkerPort {
            me,
            mailboxes: Mailboxes::new(me, (shards, 0), limits),
            told: 0,
            known: vec![0; usize::from(shards)],
            answer_bytes: vec![0; usize::from(shards)],
        }
    }

    /// Its number among the peers of shards.
    pub fn peer(&self) -> ShardId {
        self.me
    }

    /// All shards.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        self.mailboxes.others()
    }

    /// Begins to read a batch of a shard, or reads on from `cursor`; that of a new batch is the default. The batch goes
    /// back to the shard once all of it was taken in.
    pub fn handle_batch<'a>(
        &mut self,
        from: ShardId,
        batch: &'a Batch,
        cursor: &'a mut BatchCursor,
    ) -> Reading<'a> {
        assert!(batch.control.is_empty(), "workers get no control");
        let known = &mut self.known[from.index()];
        // Changes that the batch does not acknowledge were before.
        *known = batch.known.max(*known);
        assert!(*known <= self.told, "{from:?} knows what was not told");
        Reading {
            from,
            batch,
            cursor,
        }
    }

    /// Takes back a batch that a shard has handled, and with it the credit.
    pub fn handle_returned(&mut self, by: ShardId, batch: Batch) {
        self.answer_bytes[by.index()] -= batch.answer_bytes;
        self.mailboxes.returned(by, batch);
    }

    /// Announces to all shards that the events of these filters (topics and wildcards, of streams) are kept from now on, and
    /// those of others are not any more. Gives the number of the change, for [`is_known`](WorkerPort::is_known). Filters
    /// of different workers must not overlap: else one of them gets the event.
    pub fn set_filters(&mut self, added: &[&[u8]], removed: &[&[u8]]) -> u64 {
        let each = removed.iter().map(|&name| (name, 0));
        let each = each.chain(added.iter().map(|&name| (name, 1)));
        let changes = each.map(|(name, listeners)| Change {
            kind: FilterKind::of_tokens(name),
            name: name.into(),
            group: Box::default(),
            listeners,
        });
        let changes: Arc<[Change]> = changes.collect();
        self.told += 1;
        for shard in self.mailboxes.others() {
            let interest = Control::Interest {
                sequence: self.told,
                changes: Arc::clone(&changes),
            };
            self.mailboxes.push_control(shard, interest);
        }
        self.told
    }

    /// Whether all shards know a change, so that whatever is published on this node from now on is kept by it. Events from
    /// before a removal are all in batches that were handled.
    pub fn is_known(&self, change: u64) -> bool {
        self.known.iter().all(|&known| known >= change)
    }

    /// Whether a shard has room for more events: their bytes that wait are below the cap.
    pub fn may_publish(&self, by: ShardId) -> bool {
        self.mailboxes.has_room(by)
    }

    /// Has an event published by a shard for the whole tree, as if by a client of it; no worker keeps it. Events of a
    /// topic that must keep their order go by the same shard. The caller has asked [`may_publish`](Self::may_publish).
    pub fn publish(&mut self, by: ShardId, event: Event<'_>) {
        let addressees = Addressees {
            plain: true,
            groups: std::iter::empty(),
            tries: 0,
        };
        self.mailboxes.push(by, addressees, event, None);
    }

    /// Whether the answers on the way to a shard are below their cap, so that reads for it may go on. What tells that
    /// something is stored is short, and asks for no room.
    pub fn may_read(&self, to: ShardId) -> bool {
        self.answer_bytes[to.index()] < STATE_ANSWERS_BYTES
    }

    /// Answers a call. Of a part ([`Extent::More`]) the worker keeps nothing: the asker, if it still wants more, asks on by
    /// a request that says from where.
    pub fn answer(&mut self, asker: Asker, bytes: Bytes, extent: Extent) {
        let Asker { shard, conn, call } = asker;
        let length = bytes.len();
        self.answer_bytes[shard.index()] += length;
        let answer = Answer::State { bytes, extent };
        self.mailboxes
            .push_answer(shard, (conn, call), answer, length);
    }

    /// Takes the next batch for a shard, if something waits and credit allows it.
    pub fn take_batch(&mut self, to: ShardId) -> Option<Batch> {
        self.mailboxes.take(to)
    }

    /// Whether something waits for a shard that had no credit for it: then batches that came back are to be handed in at
    /// once.
    pub fn wants_credit(&self) -> bool {
        self.mailboxes.is_waiting()
    }

    /// Whether nothing waits and no batch is on the way.
    pub fn is_idle(&self) -> bool {
        self.mailboxes.is_idle()
    }

    /// Frees the spare buffers of an idle worker.
    pub fn release_spares(&mut self) {
        self.mailboxes.release_spares();
    }
}
