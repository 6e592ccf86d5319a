//! The way out: entries that the log has are applied, written as one batch, and answered.
//!
//! Owns what replies mean to those who asked. Invariant: nothing is answered before its batch is written to the store.
//! Start at [`Worker::apply`].

use super::gather::{AppendOrigin, Changing, Origin, Purging, keep_buffer};
use super::streams::{Key, Known};
use super::{InFlight, Output, Place, Tag, Worker, WorkerError};
use crate::limits::APPLY_BYTES_MAX;
use crate::log::{Entry, Index};
use crate::partition::{Applied, Event};
use crate::store::{Store, WriteBatch};
use sapwood_wire::state::{
    Answer, Appended, BatchPart, Creation, Durability, Outcome, Outcomes, Refusal, Reply, Sequence,
    Stored, StreamNumber,
};
use std::sync::Arc;

/// Whether there is more to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not until the log says more.
    Idle,
    /// The bound of one call was reached.
    More,
}

/// What one partition has applied.
struct Settled {
    slot: usize,
    entries: Vec<InFlight>,
    applied: Applied,
}

impl Worker {
    /// How many of a partition's entries the log has as they need it.
    pub(super) fn ready(&self, place: &Place) -> usize {
        let is_ready = |one: &&InFlight| {
            one.number <= self.news.synced
                || (one.durability == Durability::Os && one.number <= self.news.written)
        };
        place.in_flight.iter().take_while(is_ready).count()
    }

    /// Applies entries that the log has, writes them as one batch, and answers. Bounded: 4 MiB and one entry at a time.
    ///
    /// On an error the worker has failed; its partitions may be ahead of the store.
    pub fn apply<S: Store>(&mut self, store: &mut S) -> Result<Progress, WorkerError> {
        if self.has_failed {
            return Ok(Progress::Idle);
        }
        let mut left = APPLY_BYTES_MAX;
        let mut batch = WriteBatch::default();
        let mut settled = Vec::new();
        let mut progress = Progress::Idle;
        for step in 0..self.places.len() {
            let slot = (self.turn + step) % self.places.len();
            let ready = self.ready(&self.places[slot]);
            if ready == 0 {
                continue;
            }
            if left == 0 {
                // The next call begins here.
                self.turn = slot;
                progress = Progress::More;
                break;
            }
            let one = self.apply_place(slot, ready, &mut left, store)?;
            if one.entries.len() < ready {
                progress = Progress::More;
            }
            settled.push(one);
        }
        for one in &mut settled {
            batch.writes.append(&mut one.applied.batch.writes);
        }
        if settled.is_empty() {
            return Ok(Progress::Idle);
        }
        if let Err(error) = store.write(&batch) {
            // Partitions are ahead of the store: nothing is applied any more.
            self.unsettle(settled);
            return Err(WorkerError::Store(error));
        }
        self.counters.batches += 1;
        for one in settled {
            self.settle(one);
        }
        Ok(progress)
    }

    /// Applies the first entries of a partition: at least one.
    fn apply_place<S: Store>(
        &mut self,
        slot: usize,
        ready: usize,
        left: &mut usize,
        store: &S,
    ) -> Result<Settled, WorkerError> {
        let place = &mut self.places[slot];
        let mut count = 0;
        while count < ready && (count == 0 || *left > 0) {
            *left = left.saturating_sub(place.in_flight[count].commands.len());
            count += 1;
        }
        let entries: Vec<InFlight> = place.in_flight.drain(..count).collect();
        let partition = place.partition.id();
        let offered: Vec<_> = entries
            .iter()
            .map(|one| Entry {
                partition,
                index: Index(one.index),
                wall_ms: one.wall_ms,
                commands: &one.commands,
            })
            .collect();
        match place.partition.apply(&offered, store) {
            Ok(applied) => Ok(Settled {
                slot,
                entries,
                applied,
            }),
            Err(error) => {
                let applied = Applied::default();
                self.unsettle(vec![Settled {
                    slot,
                    entries,
                    applied,
                }]);
                Err(WorkerError::Apply(error))
            }
        }
    }

    /// Puts entries back whose batch could not be written, and fails.
    fn unsettle(&mut self, settled: Vec<Settled>) {
        for one in settled {
            let in_flight = &mut self.places[one.slot].in_flight;
            one.entries
                .into_iter()
                .rev()
                .for_each(|entry| in_flight.push_front(entry));
        }
        self.fail();
    }

    fn settle(&mut self, settled: Settled) {
        let slot = settled.slot;
        assert_eq!(settled.entries.len(), settled.applied.replies.len());
        let mut purged = None;
        for (entry, (index, replies)) in settled.entries.into_iter().zip(settled.applied.replies) {
            assert_eq!(entry.index, index.0);
            assert_eq!(
                entry.origins.len(),
                replies.len(),
                "a reply for each command"
            );
            self.taken_bytes -= entry.commands.len();
            self.taken_commands -= entry.origins.len();
            self.counters.applied += 1;
            for (origin, reply) in entry.origins.into_iter().zip(replies) {
                if self.settle_one(slot, entry.durability, origin, reply) == Goes::On {
                    purged = purged.or(Some(entry.index));
                }
            }
            // The log has let go of it, if it was quick.
            if let Ok(buffer) = Arc::try_unwrap(entry.commands) {
                keep_buffer(&mut self.spare, buffer);
            }
        }
        let partition = self.places[slot].partition.id();
        for event in settled.applied.events {
            if let Event::Appended(stream, first, last) = event {
                self.wake_waits((slot, stream));
                self.outputs.push_back(Output::Stored {
                    partition,
                    stream,
                    first,
                    last,
                });
            }
        }
        self.wake_reads(slot, purged);
    }

    fn settle_one(
        &mut self,
        slot: usize,
        durability: Durability,
        origin: Origin,
        reply: Reply,
    ) -> Goes {
        match origin {
            Origin::Append(append) => self.settle_append(durability, append, reply),
            Origin::Batch(tag, names) => self.settle_batch(tag, durability, &names, reply),
            Origin::Create(changing) => self.settle_create(slot, changing, reply),
            Origin::Update(changing, key) => self.settle_update(slot, changing, key, reply),
            Origin::Delete(tag, key) => self.settle_delete(tag, key, reply),
            Origin::Purge(purging) => return self.settle_purge(slot, purging, reply),
            Origin::DeleteMessage(tag) => match reply {
                Reply::Refused(refusal) => self.refuse_tag(tag, refusal, &[]),
                _ => self.answer(tag, &Answer::MessageDeleted),
            },
            Origin::Maintenance => {}
            Origin::Raise => self.opening -= 1,
        }
        Goes::No
    }

    fn answer(&mut self, tag: Tag, answer: &Answer) {
        let part = self.part_of(tag);
        self.answers.push(tag, part, answer);
    }

    fn settle_append(&mut self, durability: Durability, append: AppendOrigin, reply: Reply) {
        let appended = match reply {
            Reply::Appended(appended) => appended,
            Reply::Refused(refusal) => {
                // Its stream was deleted meanwhile.
                self.refuse_append(&append, refusal);
                return;
            }
            other => panic!("an append is answered by {other:?}"),
        };
        self.count(append.messages, &appended.outcomes);
        for told in append.told {
            let outcomes = slice(&appended.outcomes, told.first, told.count);
            let answer = Answer::Stored(Stored {
                stream: &append.name,
                position: told.position,
                durability,
                outcomes: Appended {
                    stream: appended.stream,
                    outcomes,
                },
            });
            self.answer(told.tag, &answer);
        }
    }

    /// Tells all who wait for an append's messages that they are refused, or not known to be stored.
    pub(super) fn refuse_append(&mut self, append: &AppendOrigin, refusal: Refusal) {
        let of_code = &mut self.counters.refused[usize::from(refusal.code())];
        *of_code += u64::from(append.messages);
        for told in &append.told {
            let outcomes = Outcomes::Each(vec![Outcome::Refused(refusal); told.count as usize]);
            let answer = Answer::Stored(Stored {
                stream: &append.name,
                position: told.position,
                durability: Durability::Fsync,
                outcomes: Appended {
                    stream: StreamNumber(0),
                    outcomes,
                },
            });
            self.answer(told.tag, &answer);
        }
    }

    fn count(&mut self, messages: u32, outcomes: &Outcomes) {
        let each = match outcomes {
            Outcomes::Run { .. } => {
                self.counters.stored += u64::from(messages);
                return;
            }
            Outcomes::Each(each) => each,
        };
        for outcome in each {
            match outcome {
                Outcome::Stored(_) => self.counters.stored += 1,
                Outcome::Duplicate(_) => self.counters.duplicates += 1,
                Outcome::Refused(refusal) => {
                    self.counters.refused[usize::from(refusal.code())] += 1;
                }
            }
        }
    }

    fn settle_batch(
        &mut self,
        tag: Tag,
        durability: Durability,
        names: &[Arc<[u8]>],
        reply: Reply,
    ) {
        match reply {
            Reply::Batch(parts) => {
                for part in &parts {
                    let messages = match &part.outcomes {
                        Outcomes::Run { count, .. } => *count,
                        Outcomes::Each(each) => each.len() as u32,
                    };
                    self.count(messages, &part.outcomes);
                }
                let named = names.iter().zip(parts);
                let parts = named.map(|(stream, outcomes)| BatchPart { stream, outcomes });
                let answer = Answer::BatchStored(durability, parts.collect());
                self.answer(tag, &answer);
            }
            Reply::BatchRefused(position, refusal) => {
                self.counters.refused[usize::from(refusal.code())] += 1;
                self.answer(tag, &Answer::BatchRefused(position, refusal));
            }
            other => panic!("a batch is answered by {other:?}"),
        }
    }

    fn settle_create(&mut self, slot: usize, changing: Changing, reply: Reply) {
        let Changing {
            tag,
            config,
            name,
            reservation,
        } = changing;
        match reply {
            Reply::Created(number, Creation::New) => {
                let added = config.filters.clone();
                self.streams.insert(Known {
                    slot,
                    number,
                    name,
                    config,
                    reservation: Some(reservation),
                    updates: 0,
                    open: None,
                });
                let answer = Answer::Created(Creation::New);
                self.announce(added, Vec::new(), Some((tag, &answer)), None);
            }
            Reply::Created(_, Creation::Existing) => {
                self.filters.release(reservation);
                // Whoever made it may still wait for the shards, and this one must not be told before.
                self.hold_behind(tag, &Answer::Created(Creation::Existing));
            }
            Reply::Refused(refusal) => {
                self.filters.release(reservation);
                self.refuse_tag(tag, refusal, &[]);
            }
            other => panic!("a create is answered by {other:?}"),
        }
    }

    /// Answers once the changes that are under way are known.
    fn hold_behind(&mut self, tag: Tag, answer: &Answer) {
        match self.held.last_entry() {
            None => self.answer(tag, answer),
            Some(mut last) => last.get_mut().add(tag, answer),
        }
    }

    fn settle_update(&mut self, slot: usize, changing: Changing, key: Key, reply: Reply) {
        let is_there = match &reply {
            Reply::Updated(number) => self.streams.numbered(slot, *number, &changing.name),
            // It is refused for its filters, or the stream is gone.
            _ => self.streams.named(&changing.name).filter(|one| *one == key),
        };
        if let Some(key) = is_there {
            let updates = &mut self.streams.of_mut(key).updates;
            *updates = updates.saturating_sub(1);
        }
        if let (Reply::Updated(_), Some(key)) = (&reply, is_there) {
            let before = self.streams.configure(key, changing.config.clone());
            let known = self.streams.of_mut(key);
            let release = known.reservation.replace(changing.reservation);
            let lacks = |of: &[Vec<u8>], one: &&Vec<u8>| !of.contains(one);
            let now = &changing.config.filters;
            let added = now
                .iter()
                .filter(|one| lacks(&before.filters, one))
                .cloned();
            let removed = before.filters.iter().filter(|one| lacks(now, one)).cloned();
            let (added, removed) = (added.collect(), removed.collect());
            let answer = Some((changing.tag, &Answer::Updated));
            return self.announce(added, removed, answer, release);
        }
        self.filters.release(changing.reservation);
        match reply {
            Reply::Refused(refusal) => self.refuse_tag(changing.tag, refusal, &[]),
            other => panic!("an update is answered by {other:?}"),
        }
    }

    fn settle_delete(&mut self, tag: Tag, key: Key, reply: Reply) {
        match reply {
            Reply::Deleted(_, messages) => {
                let known = self.streams.remove(key);
                self.wake_waits((known.slot, known.number));
                let removed = known.config.filters.clone();
                let answer = Answer::Deleted(messages);
                self.announce(Vec::new(), removed, Some((tag, &answer)), known.reservation);
            }
            Reply::Refused(refusal) => self.refuse_tag(tag, refusal, &[]),
            other => panic!("a delete is answered by {other:?}"),
        }
    }

    fn settle_purge(&mut self, slot: usize, mut purging: Purging, reply: Reply) -> Goes {
        match reply {
            Reply::Purged(_, messages, rest) => {
                purging.gone += messages;
                if let Some(rest) = rest {
                    self.gather_purge(slot, rest.before, rest.keep, purging);
                    return Goes::On;
                }
                self.answer(purging.tag, &Answer::Purged(purging.gone));
            }
            // The stream was deleted while the purge went on: nothing is left of it.
            Reply::Refused(Refusal::NoStream) if purging.gone > 0 => {
                self.answer(purging.tag, &Answer::Purged(purging.gone));
            }
            Reply::Refused(refusal) => self.refuse_tag(purging.tag, refusal, &[]),
            other => panic!("a purge is answered by {other:?}"),
        }
        Goes::No
    }
}

/// Whether a command is followed by another of the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    On,
    No,
}

/// The outcomes of some of an append's messages.
fn slice(outcomes: &Outcomes, from: u32, count: u32) -> Outcomes {
    let each = match outcomes {
        Outcomes::Run { first, .. } => {
            let first = Sequence(first.0 + u64::from(from));
            return Outcomes::Run { first, count };
        }
        Outcomes::Each(each) => &each[from as usize..(from + count) as usize],
    };
    match each {
        [Outcome::Stored(first), ..] if is_run(each, first.0) => {
            let first = *first;
            Outcomes::Run { first, count }
        }
        each => Outcomes::Each(each.to_vec()),
    }
}

fn is_run(each: &[Outcome], first: u64) -> bool {
    let mut numbered = each.iter().zip(first..);
    numbered.all(|(one, sequence)| *one == Outcome::Stored(Sequence(sequence)))
}
