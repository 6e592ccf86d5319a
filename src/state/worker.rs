//! A state worker: it owns some partitions, gathers what is asked for into entries for the log, applies what the log has,
//! and answers.
//!
//! Owns its partitions between the mailboxes and the log: which stream keeps a topic, what is under way, who is to be told
//! what. Performs no I/O and has no thread and no clock: whoever drives it moves requests, messages, proposals and
//! answers, and lends the store. Must not know shards, sessions, protocols, nor how the log writes. Invariants:
//! - each [`Tag`] is answered, in parts of which one is the last, and never again;
//! - nothing is applied, shown or acknowledged before the log has it durably, or has written it where the whole entry is
//!   of `os` streams (rule 7);
//! - what is under way is bounded ([`Worker::is_full`]), and a lone call may go beyond by no more than one request;
//! - after [`Worker::fail`] nothing is acknowledged any more (rule 5); reads go on.
//!
//! # Driving it
//! Make the workers of a directory, all of them before one is driven: they share what filters are taken. Then in turns:
//! [`handle_clock`](Worker::handle_clock); while it [is not full](Worker::is_full), [`capture`](Worker::capture) and
//! [`handle_request`](Worker::handle_request); [`end_turn`](Worker::end_turn), and what
//! [`poll_proposal`](Worker::poll_proposal) gives goes to the log thread, in order;
//! [`handle_news`](Worker::handle_news) of the log; [`apply`](Worker::apply) and [`read`](Worker::read) until they have
//! nothing to do, or while there is room for what they say; [`take_answers`](Worker::take_answers) and
//! [`poll_output`](Worker::poll_output). It may sleep when it does not [want a turn](Worker::wants_turn), until something
//! comes in or [`deadline_ms`](Worker::deadline_ms) passes, a second at most, because the wall clock may step.
//!
//! Start reading at [`Worker::capture`] (`gather.rs`), then `settle.rs` for what is applied, `reads.rs` for reads.

mod gather;
mod proposal;
mod reads;
mod settle;
mod streams;
mod waits;

#[cfg(test)]
mod tests;

use crate::filters::Reservation;
use crate::limits::{
    ANSWERS_BYTES_MAX, MAINTENANCE_STREAMS_MAX, OS_RAISE, OS_UNSYNCED_BYTES_MAX, TAKEN_BYTES_MAX,
    TAKEN_COMMANDS_MAX,
};
use crate::partition::{ApplyError, Partition};
use crate::store::StoreError;
use gather::{Gathering, Origin};
use reads::Reads;
use sapwood_wire::state::{
    Answer, Command, Durability, Index, Lineage, PartitionId, Refusal, Sequence, StreamNumber,
};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use streams::{Known, Streams};
use waits::Waits;

pub use crate::filters::SharedFilters;
pub use proposal::{LogNews, Proposal};
pub use settle::Progress;

/// What whoever asks calls what is asked for; used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// A change of the filters that all shards are to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeNumber(pub u64);

/// Whether an answer has another part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Others follow. Of a read they follow only after [`Worker::handle_more`].
    More,
    /// It is the last.
    Last,
}

/// How the broker ended before this start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastStop {
    /// All that was written is synced: it was stopped in order, or the directory is new.
    Clean,
    /// Entries of `os` streams may be lost that readers have seen: their sequences are raised, so that none of them is
    /// given to another message.
    Unclean,
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Setup {
    /// Its number.
    pub worker: u16,
    /// That of the data directory.
    pub lineage: Lineage,
    /// How many partitions the directory has.
    pub partitions: u16,
    /// Those that it owns, as replay left them, each with the index of its next entry.
    pub owned: Vec<(Partition, Index)>,
    /// The same for all workers of a directory.
    pub filters: SharedFilters,
    /// How the last run ended.
    pub last_stop: LastStop,
    /// Longest commands of an entry; [`ENTRY_COMMAND_BYTES_MAX`](crate::limits::ENTRY_COMMAND_BYTES_MAX) but in tests.
    pub entry_bytes_max: usize,
    /// The wall clock, ms since 1970.
    pub wall_ms: u64,
}

/// Why a worker cannot go on. It has failed, as by [`Worker::fail`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerError {
    /// Entries could not be applied.
    Apply(ApplyError),
    /// Their batch could not be written.
    Store(StoreError),
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerError::Apply(error) => error.fmt(f),
            WorkerError::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for WorkerError {}

/// What a worker wants from whoever drives it, beside answers and proposals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// All shards are to send topics of some filters here from now on, and of others no more. Once all of them know,
    /// [`Worker::handle_known`] is called with the number: whoever made the change is answered then.
    Filters {
        /// Which change.
        change: ChangeNumber,
        /// Begin.
        added: Vec<Vec<u8>>,
        /// End.
        removed: Vec<Vec<u8>>,
    },
    /// Messages were stored, and may be read.
    Stored {
        /// Where.
        partition: PartitionId,
        /// In which stream.
        stream: StreamNumber,
        /// From this one.
        first: Sequence,
        /// To this one.
        last: Sequence,
    },
}

/// What a worker has counted since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that were stored.
    pub stored: u64,
    /// Messages whose id was stored before.
    pub duplicates: u64,
    /// Messages that were refused, by the refusal's code.
    pub refused: [u64; Counters::CODES],
    /// Requests that were refused as a whole, by the refusal's code.
    pub requests_refused: [u64; Counters::CODES],
    /// Entries that were proposed, and that were applied.
    pub proposed: u64,
    /// See above.
    pub applied: u64,
    /// Batches that were written to the store.
    pub batches: u64,
}

impl Counters {
    /// More than the greatest code of a refusal.
    pub const CODES: usize = 32;
}

/// One of the worker's partitions.
#[derive(Debug)]
struct Place {
    partition: Partition,
    next_index: u64,
    gathering: Gathering,
    /// Entries that the log was offered and that are not applied, in order.
    in_flight: VecDeque<InFlight>,
    /// The last entry with maintenance in it. The next is proposed when that is applied.
    maintained: u64,
}

/// An entry that the log was offered.
#[derive(Debug)]
struct InFlight {
    number: u64,
    index: u64,
    wall_ms: u64,
    commands: Arc<Vec<u8>>,
    durability: Durability,
    /// One for each command.
    origins: Vec<Origin>,
}

/// An answer that waits until all shards know of a change.
#[derive(Debug)]
struct Held {
    /// Who is answered what.
    answers: Vec<(Tag, Vec<u8>)>,
    release: Option<Reservation>,
}

impl Held {
    fn add(&mut self, tag: Tag, answer: &Answer) {
        let mut bytes = Vec::new();
        answer.write(&mut bytes);
        self.answers.push((tag, bytes));
    }
}

/// Answers that were not taken yet, one behind the other.
#[derive(Debug, Default)]
struct Answers {
    bytes: Vec<u8>,
    /// Whose they are, and where each ends.
    marks: Vec<(Tag, Part, usize)>,
}

impl Answers {
    fn push(&mut self, tag: Tag, part: Part, answer: &Answer) {
        self.push_with(tag, part, |out| answer.write(out));
    }

    fn push_with(&mut self, tag: Tag, part: Part, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.marks.push((tag, part, self.bytes.len()));
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Worker {
    id: u16,
    lineage: Lineage,
    partitions: u16,
    entry_bytes_max: usize,
    wall_ms: u64,
    places: Vec<Place>,
    /// The place of each partition of the directory; none if another worker has it.
    slots: Vec<Option<usize>>,
    streams: Streams,
    filters: SharedFilters,
    proposals: VecDeque<Proposal>,
    /// The last number that was given to a proposal.
    number: u64,
    news: LogNews,
    /// Entries that were not synced yet and that nobody waits for, by number, and their bytes.
    unsynced: VecDeque<(u64, usize)>,
    unsynced_bytes: usize,
    /// Taken in and not applied.
    taken_bytes: usize,
    taken_commands: usize,
    /// Raises of an unclean start that are not applied.
    opening: usize,
    /// Requests whose messages went to several places: parts that are still to come.
    parts: BTreeMap<Tag, u32>,
    reads: Reads,
    waits: Waits,
    held: BTreeMap<ChangeNumber, Held>,
    changes: u64,
    answers: Answers,
    outputs: VecDeque<Output>,
    /// Where the next turn of applying begins.
    turn: usize,
    /// Buffers of entries that were applied.
    spare: Vec<Vec<u8>>,
    counters: Counters,
    has_failed: bool,
}

impl Worker {
    /// A worker, with what it has to announce in front of its outputs.
    ///
    /// Cost: a little for each stream.
    pub fn new(setup: Setup) -> Worker {
        let mut worker = Worker {
            id: setup.worker,
            lineage: setup.lineage,
            partitions: setup.partitions,
            entry_bytes_max: setup.entry_bytes_max,
            wall_ms: setup.wall_ms,
            places: Vec::new(),
            slots: vec![None; usize::from(setup.partitions)],
            streams: Streams::default(),
            filters: setup.filters,
            proposals: VecDeque::new(),
            number: 0,
            news: LogNews::default(),
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
            taken_bytes: 0,
            taken_commands: 0,
            opening: 0,
            parts: BTreeMap::new(),
            reads: Reads::default(),
            waits: Waits::default(),
            held: BTreeMap::new(),
            changes: 0,
            answers: Answers::default(),
            outputs: VecDeque::new(),
            turn: 0,
            spare: Vec::new(),
            counters: Counters::default(),
            has_failed: false,
        };
        for (partition, next_index) in setup.owned {
            worker.own(partition, next_index.0);
        }
        let all = worker.streams.iter();
        let filters: Vec<_> = all.flat_map(|one| one.config.filters.clone()).collect();
        worker.announce(filters, Vec::new(), None, None);
        if setup.last_stop == LastStop::Unclean {
            worker.raise();
        }
        worker
    }

    fn own(&mut self, partition: Partition, next_index: u64) {
        let slot = self.places.len();
        for (number, config) in partition.stream_configs() {
            let name: Arc<[u8]> = config.name.as_slice().into();
            let reservation = self.filters.hold(&name, &config.filters);
            self.streams.insert(Known {
                slot,
                number,
                name,
                config: config.clone(),
                reservation: Some(reservation),
                updates: 0,
                open: None,
            });
        }
        let of = &mut self.slots[usize::from(partition.id().0)];
        assert!(of.replace(slot).is_none(), "a partition is owned once");
        self.places.push(Place {
            partition,
            next_index,
            gathering: Gathering::default(),
            in_flight: VecDeque::new(),
            maintained: 0,
        });
    }

    /// Readers may have seen messages of `os` streams that are lost: sequences go on above all that were given.
    fn raise(&mut self) {
        for slot in 0..self.places.len() {
            let is_os = |one: &Known| one.slot == slot && one.config.durability == Durability::Os;
            if self.streams.iter().any(is_os) {
                self.opening += 1;
                self.gather(slot, &Command::RaiseOs(OS_RAISE), Origin::Raise);
            }
        }
        self.end_turn();
    }

    /// The wall clock, ms since 1970. Entries that are gathered from here on carry it, and reads go by it.
    pub fn handle_clock(&mut self, wall_ms: u64) {
        self.wall_ms = wall_ms;
        self.end_late_waits();
    }

    /// Whether nothing more should be brought: what was taken in, or what was answered, waits for others. Once it failed
    /// it is never full, because all is refused at once.
    pub fn is_full(&self) -> bool {
        !self.has_failed
            && (self.opening > 0
                || self.taken_bytes >= TAKEN_BYTES_MAX
                || self.taken_commands >= TAKEN_COMMANDS_MAX
                || self.unsynced_bytes >= OS_UNSYNCED_BYTES_MAX
                || self.answers.bytes.len() >= ANSWERS_BYTES_MAX)
    }

    /// The log, or the store, failed: nothing is acknowledged any more. What was not offered to the log is refused, and
    /// what was is unknown.
    pub fn fail(&mut self) {
        if self.has_failed {
            return;
        }
        self.has_failed = true;
        let first_unsent = self.proposals.front().map_or(u64::MAX, |one| one.number);
        self.proposals.clear();
        for slot in 0..self.places.len() {
            for entry in std::mem::take(&mut self.places[slot].in_flight) {
                let refusal = match entry.number < first_unsent {
                    true => Refusal::Unknown,
                    false => Refusal::StorageFailed,
                };
                entry
                    .origins
                    .into_iter()
                    .for_each(|one| self.refuse(one, refusal));
            }
            let gathering = std::mem::take(&mut self.places[slot].gathering);
            for origin in gathering.into_origins() {
                self.refuse(origin, Refusal::StorageFailed);
            }
        }
        for held in std::mem::take(&mut self.held).into_values() {
            for (tag, _) in held.answers {
                self.refuse_tag(tag, Refusal::Unknown, &[]);
            }
        }
        self.fail_reads();
        (self.taken_bytes, self.taken_commands, self.opening) = (0, 0, 0);
    }

    /// Whether it failed.
    pub fn is_failed(&self) -> bool {
        self.has_failed
    }

    /// Tells who waits for a command that it is refused.
    fn refuse(&mut self, origin: Origin, refusal: Refusal) {
        match origin {
            Origin::Append(append) => self.refuse_append(&append, refusal),
            Origin::Batch(tag, _) | Origin::DeleteMessage(tag) | Origin::Delete(tag, ..) => {
                self.refuse_tag(tag, refusal, &[]);
            }
            Origin::Create(change) | Origin::Update(change, _) => {
                self.refuse_tag(change.tag, refusal, &[]);
            }
            Origin::Purge(purge) => self.refuse_tag(purge.tag, refusal, &[]),
            Origin::Maintenance | Origin::Raise => {}
        }
    }

    /// Answers that a request, or a part of one, is refused.
    fn refuse_tag(&mut self, tag: Tag, refusal: Refusal, stream: &[u8]) {
        self.counters.requests_refused[usize::from(refusal.code())] += 1;
        let part = self.part_of(tag);
        let answer = Answer::Refused(refusal, stream);
        self.answers.push(tag, part, &answer);
    }

    /// Whether the part of an answer that comes now is the last.
    fn part_of(&mut self, tag: Tag) -> Part {
        let Some(left) = self.parts.get_mut(&tag) else {
            return Part::Last;
        };
        *left -= 1;
        if *left > 0 {
            return Part::More;
        }
        self.parts.remove(&tag);
        Part::Last
    }

    /// All shards know a change of the filters. Whoever made it is answered.
    pub fn handle_known(&mut self, change: ChangeNumber) {
        let Some(held) = self.held.remove(&change) else {
            return;
        };
        if let Some(reservation) = held.release {
            self.filters.release(reservation);
        }
        for (tag, answer) in held.answers {
            let write = |out: &mut Vec<u8>| out.extend_from_slice(&answer);
            self.answers.push_with(tag, Part::Last, write);
        }
    }

    /// Has a change of the filters announced, and answered when all know it. Without a change that is at once.
    fn announce(
        &mut self,
        added: Vec<Vec<u8>>,
        removed: Vec<Vec<u8>>,
        answer: Option<(Tag, &Answer)>,
        release: Option<Reservation>,
    ) {
        let mut held = Held {
            answers: Vec::new(),
            release,
        };
        if let Some((tag, answer)) = answer {
            held.add(tag, answer);
        }
        self.changes += 1;
        let change = ChangeNumber(self.changes);
        self.held.insert(change, held);
        if added.is_empty() && removed.is_empty() {
            return self.handle_known(change);
        }
        self.outputs.push_back(Output::Filters {
            change,
            added,
            removed,
        });
    }

    /// Ends a turn: what was gathered becomes proposals, maintenance that is due among it.
    ///
    /// Cost: a few nanoseconds a partition, and a copy of what several streams of a partition gathered.
    pub fn end_turn(&mut self) {
        if self.has_failed {
            return;
        }
        for slot in 0..self.places.len() {
            self.maintain(slot);
            self.close_entry(slot);
        }
    }

    /// Gathers what is due in a partition: once what was proposed before is applied, and for a few streams at a time.
    fn maintain(&mut self, slot: usize) {
        let place = &self.places[slot];
        let is_due = place
            .partition
            .deadline_ms()
            .is_some_and(|ms| ms <= self.wall_ms);
        let is_under_way = place.maintained > place.partition.applied().0;
        if !is_due || is_under_way || self.is_full() {
            return;
        }
        let due = place
            .partition
            .maintenance(self.wall_ms, MAINTENANCE_STREAMS_MAX);
        for command in &due {
            self.gather(slot, command, Origin::Maintenance);
        }
        if !due.is_empty() {
            self.places[slot].maintained = self.places[slot].next_index;
        }
    }

    /// When a turn is wanted, by the wall clock, although nothing comes in.
    pub fn deadline_ms(&self) -> Option<u64> {
        let first_wait = self.waits.deadline_ms();
        if self.has_failed {
            return first_wait;
        }
        let waiting = |place: &&Place| place.maintained <= place.partition.applied().0;
        let waiting = self.places.iter().filter(waiting);
        waiting
            .filter_map(|place| place.partition.deadline_ms())
            .chain(first_wait)
            .min()
    }

    /// Whether there is something to do at once.
    pub fn wants_turn(&self) -> bool {
        let has_gathered = |place: &Place| !place.gathering.is_empty();
        !self.proposals.is_empty()
            || self.reads.is_ready()
            || self
                .places
                .iter()
                .any(|place| has_gathered(place) || self.ready(place) > 0)
    }

    /// The next entry for the log, in the order of their numbers.
    pub fn poll_proposal(&mut self) -> Option<Proposal> {
        self.proposals.pop_front()
    }

    /// The next thing that is wanted.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Gives out all answers. Those of one tag come in order.
    pub fn take_answers(&mut self, mut take: impl FnMut(Tag, &[u8], Part)) {
        let mut from = 0;
        for (tag, part, to) in self.answers.marks.drain(..) {
            take(tag, &self.answers.bytes[from..to], part);
            from = to;
        }
        self.answers.bytes.clear();
        if self.answers.bytes.capacity() > ANSWERS_BYTES_MAX {
            self.answers.bytes = Vec::new();
        }
    }

    /// What it has counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many streams it has.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Its partitions.
    pub fn owned(&self) -> impl Iterator<Item = &Partition> {
        self.places.iter().map(|place| &place.partition)
    }

    /// The log came further.
    pub fn handle_news(&mut self, news: LogNews) {
        assert!(news.synced <= news.written && news.written <= self.number);
        self.news.written = self.news.written.max(news.written);
        self.news.synced = self.news.synced.max(news.synced);
        // Ends with the first that is not synced.
        while let Some((number, bytes)) = self.unsynced.front().copied()
            && number <= self.news.synced
        {
            self.unsynced_bytes -= bytes;
            self.unsynced.pop_front();
        }
    }
}
