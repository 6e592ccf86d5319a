//! A partition: it applies the entries of its log, in order, and says what changed.
//!
//! Owns its streams and the applied index. Must not know the log, other partitions, clocks, or who waits for replies.
//! Invariants: an entry is applied once; the same entries give the same live rows, however they are cut into batches; the
//! applied index stands in the batch of its writes. Start at [`Partition::open`] and [`Partition::apply`].

use crate::limits::{EXPIRE_MESSAGES_MAX, PARTITION_STREAMS_MAX};
use crate::log::Entry;
use crate::overlay::Overlay;
use crate::store::{Direction, Family, Store, StoreError, WriteBatch};
use crate::streams::{
    Change, KIND_CONFIG, KIND_PARTITION, KIND_STATE, Place, State, Stream, damaged, decode_config,
    partition_row,
};
use sapwood_wire::state::{
    Append, Appended, Batch, Command, Commands, ConfigError, Creation, DecodeError, Durability,
    Index, Outcome, Outcomes, PartitionId, Purge, Reader, Refusal, Reply, Sequence, StreamConfig,
    StreamNumber, put_u32, put_u64,
};
use sapwood_wire::topic::{check_wildcard, wildcards_overlap};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Why entries could not be applied. The partition is of no use any more: it may be ahead of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyError {
    /// The store cannot be read.
    Store(StoreError),
    /// An entry is not in a form that this build knows.
    Unreadable(Index, DecodeError),
}

impl From<StoreError> for ApplyError {
    fn from(error: StoreError) -> ApplyError {
        ApplyError::Store(error)
    }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplyError::Store(error) => error.fmt(f),
            ApplyError::Unreadable(index, error) => {
                write!(f, "a command in entry {index} cannot be read: {error}")
            }
        }
    }
}

impl std::error::Error for ApplyError {}

/// What happened, for those who follow. At replay nobody does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Messages were stored: from the first to the last.
    Appended(StreamNumber, Sequence, Sequence),
    /// A stream was made or changed.
    Configured(StreamNumber, Arc<StreamConfig>),
    /// A stream is gone.
    Deleted(StreamNumber),
}

/// What entries come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// To be written before the next entries are applied. Empty if all were applied before.
    pub batch: WriteBatch,
    /// For each entry that was applied, an answer to each command, in order.
    pub replies: Vec<(Index, Vec<Reply>)>,
    /// In order.
    pub events: Vec<Event>,
}

impl Stream {
    /// The messages that the entry has stored.
    fn appended(&self) -> Option<Event> {
        let last = self.state.next - 1;
        let first = Sequence(self.entry_next);
        (last >= first.0).then_some(Event::Appended(self.place.stream, first, Sequence(last)))
    }
}

/// A partition.
#[derive(Debug)]
pub struct Partition {
    id: PartitionId,
    applied: Index,
    next_stream: u32,
    streams: BTreeMap<StreamNumber, Stream>,
    names: BTreeMap<Vec<u8>, StreamNumber>,
    /// When something is to be done, and about which stream.
    deadlines: BTreeSet<(u64, StreamNumber)>,
    /// Streams that the entry, or the batch, touched.
    touched: BTreeSet<StreamNumber>,
}

impl Partition {
    /// A partition as it stands in the store.
    ///
    /// Cost: two rows for each of its streams.
    pub fn open(id: PartitionId, store: &impl Store) -> Result<Partition, StoreError> {
        let mut partition = Partition {
            id,
            applied: Index(0),
            next_stream: 1,
            streams: BTreeMap::new(),
            names: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            touched: BTreeSet::new(),
        };
        let mut configs = BTreeMap::new();
        let mut failed = None;
        let mut visit = |key: &[u8], row: &[u8]| match partition.take_row(&mut configs, key, row) {
            Some(()) => ControlFlow::Continue(()),
            None => {
                failed = Some(damaged(Family::Meta, key, "row"));
                ControlFlow::Break(())
            }
        };
        let from = partition_row(id);
        let mut to = from;
        to[2] = u8::MAX;
        store.range(Family::Meta, &from, &to, Direction::Forward, &mut visit)?;
        if let Some(number) = configs.keys().next() {
            let key = partition.place(*number).meta(KIND_STATE);
            failed = Some(damaged(Family::Meta, &key, "absence"));
        }
        failed.map_or(Ok(partition), Err)
    }

    /// Takes a meta row: configurations come before states.
    fn take_row(
        &mut self,
        configs: &mut BTreeMap<StreamNumber, StreamConfig>,
        key: &[u8],
        row: &[u8],
    ) -> Option<()> {
        let kind = *key.get(2)?;
        if kind == KIND_PARTITION {
            let mut reader = Reader::new(row);
            self.applied = Index(reader.u64("applied index").ok()?);
            self.next_stream = reader.u32("next stream").ok()?;
            return reader.end().ok();
        }
        let number = StreamNumber(u32::from_be_bytes(*key.get(3..7)?.first_chunk()?));
        match kind {
            KIND_CONFIG => {
                configs.insert(number, decode_config(row).ok()?);
            }
            KIND_STATE => {
                let config = configs.remove(&number)?;
                self.names.insert(config.name.clone(), number);
                let state = State::decode(row).ok()?;
                let mut stream = Stream::new(self.place(number), Arc::new(config), state);
                stream.listed_ms = stream.deadline_ms();
                self.deadlines
                    .extend(stream.listed_ms.map(|ms| (ms, number)));
                self.streams.insert(number, stream);
            }
            _ => return None,
        }
        Some(())
    }

    fn place(&self, stream: StreamNumber) -> Place {
        Place {
            partition: self.id,
            stream,
        }
    }

    /// Which it is.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// The last entry that was applied.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// The stream of a name.
    pub fn stream(&self, name: &[u8]) -> Option<StreamNumber> {
        self.names.get(name).copied()
    }

    /// All streams with their configurations, by number.
    pub fn streams(&self) -> impl Iterator<Item = (StreamNumber, &StreamConfig)> {
        let streams = self.streams.iter();
        streams.map(|(&number, stream)| (number, &*stream.config))
    }

    /// The same, shared.
    pub(crate) fn stream_configs(
        &self,
    ) -> impl Iterator<Item = (StreamNumber, &Arc<StreamConfig>)> {
        let streams = self.streams.iter();
        streams.map(|(&number, stream)| (number, &stream.config))
    }

    /// The configuration of a stream that is there. Panics if it is not: our own bug.
    pub(crate) fn config(&self, stream: StreamNumber) -> &StreamConfig {
        &self.streams[&stream].config
    }

    /// When [`maintenance`](Partition::maintenance) has something to propose, by the proposer's wall clock.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|&(ms, _)| ms)
    }

    /// Commands that are due, for at most so many streams. Proposed again they do nothing, so they need not be waited for.
    pub fn maintenance(&self, now_ms: u64, streams_max: usize) -> Vec<Command<'static>> {
        let due = self.deadlines.iter().take_while(|(ms, _)| *ms <= now_ms);
        let mut commands = Vec::new();
        for &(_, number) in due.take(streams_max) {
            let stream = &self.streams[&number];
            let is_due = |ms: Option<u64>| ms.is_some_and(|ms| ms <= now_ms);
            let [age, ttl, ids] = stream.deadlines_ms().map(is_due);
            let most = EXPIRE_MESSAGES_MAX;
            commands.extend(age.then_some(Command::ExpireAge(number, most)));
            commands.extend(ttl.then_some(Command::ExpireTtl(number, most)));
            commands.extend(ids.then_some(Command::PruneIds(number)));
        }
        commands
    }

    /// Applies entries. The batch has to be written before the next call. Entries that were applied before are skipped;
    /// one that is missing is a bug of the caller, who is stopped.
    ///
    /// On an error the partition must be dropped: it may be ahead of the store.
    pub fn apply<S: Store>(&mut self, entries: &[Entry], store: &S) -> Result<Applied, ApplyError> {
        let mut overlay = Overlay::new(store);
        let mut applied = Applied::default();
        let mut batch_touched = BTreeSet::new();
        for entry in entries {
            assert_eq!(entry.partition, self.id, "an entry of another partition");
            if entry.index <= self.applied {
                continue;
            }
            let expected = Index(self.applied.0 + 1);
            assert_eq!(entry.index, expected, "an entry of the log is missing");
            #[cfg(test)]
            self.reuse_sequences();
            let replies = self.apply_entry(entry, &mut overlay, &mut applied.events)?;
            applied.replies.push((entry.index, replies));
            self.applied = entry.index;
            batch_touched.append(&mut self.touched);
        }
        if applied.replies.is_empty() {
            return Ok(applied);
        }
        for number in batch_touched {
            self.end_batch_of(number, &mut overlay);
        }
        let mut row = Vec::with_capacity(12);
        put_u64(&mut row, self.applied.0);
        put_u32(&mut row, self.next_stream);
        overlay.put(Family::Meta, &partition_row(self.id), row);
        applied.batch = overlay.into_batch();
        Ok(applied)
    }

    fn end_batch_of<S: Store>(&mut self, number: StreamNumber, overlay: &mut Overlay<S>) {
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        stream.end_batch(overlay);
        let deadline = stream.deadline_ms();
        if deadline != stream.listed_ms {
            let before = std::mem::replace(&mut stream.listed_ms, deadline);
            before.map(|ms| self.deadlines.remove(&(ms, number)));
            self.deadlines.extend(deadline.map(|ms| (ms, number)));
        }
    }

    /// The fault that a test puts in.
    #[cfg(test)]
    fn reuse_sequences(&mut self) {
        use crate::streams::canary::{Canary, is_set};
        let emptied = |stream: &&mut Stream| stream.state.messages == 0 && stream.state.next > 1;
        for stream in self.streams.values_mut().filter(emptied) {
            if is_set(Canary::ReuseSequence) {
                stream.reuse_sequence();
            }
        }
    }

    fn apply_entry<S: Store>(
        &mut self,
        entry: &Entry,
        overlay: &mut Overlay<S>,
        events: &mut Vec<Event>,
    ) -> Result<Vec<Reply>, ApplyError> {
        let mut replies = Vec::new();
        for command in Commands::new(entry.commands) {
            let command = command.map_err(|error| ApplyError::Unreadable(entry.index, error))?;
            replies.push(self.apply_command(command, entry.wall_ms, overlay, events)?);
        }
        for number in &self.touched {
            let Some(stream) = self.streams.get_mut(number) else {
                continue;
            };
            events.extend(stream.appended());
            stream.end_entry(overlay)?;
        }
        Ok(replies)
    }

    fn apply_command<S: Store>(
        &mut self,
        command: Command,
        wall_ms: u64,
        overlay: &mut Overlay<S>,
        events: &mut Vec<Event>,
    ) -> Result<Reply, StoreError> {
        let number = match &command {
            Command::Create(config) => return Ok(self.create(config, overlay, events)),
            Command::Batch(batch) => return self.append_batch(*batch, wall_ms, overlay),
            Command::Raise(by) => return Ok(self.raise(*by, |_| true, overlay, events)),
            Command::RaiseOs(by) => {
                let is_os = |config: &StreamConfig| config.durability == Durability::Os;
                return Ok(self.raise(*by, is_os, overlay, events));
            }
            Command::Delete(stream) => return Ok(self.delete(*stream, overlay, events)),
            Command::Update(stream, config) => {
                return Ok(self.update(*stream, config, overlay, events));
            }
            Command::Append(append) => append.stream,
            Command::Purge(purge) => purge.stream,
            Command::DeleteMessage(stream, _)
            | Command::ExpireAge(stream, _)
            | Command::ExpireTtl(stream, _)
            | Command::PruneIds(stream) => *stream,
        };
        let Some(stream) = self.streams.get_mut(&number) else {
            return Ok(Reply::Refused(Refusal::NoStream));
        };
        self.touched.insert(number);
        let now = wall_ms.max(stream.state.last_ms);
        Ok(match command {
            Command::Append(append) => {
                Reply::Appended(append_to(stream, append, wall_ms, overlay)?)
            }
            Command::Purge(purge) => apply_purge(stream, &purge, overlay)?,
            Command::DeleteMessage(_, sequence) => {
                match stream.delete_message(overlay, sequence.0)? {
                    true => Reply::MessageDeleted(number),
                    false => Reply::Refused(Refusal::NoMessage),
                }
            }
            Command::ExpireAge(_, most) => {
                let (gone, rest) = stream.expire_age(overlay, now, u64::from(most))?;
                Reply::Expired(number, gone, rest)
            }
            Command::ExpireTtl(_, most) => {
                let (gone, rest) = stream.expire_ttl(overlay, now, u64::from(most))?;
                Reply::Expired(number, gone, rest)
            }
            _ => {
                stream.prune_ids(now);
                Reply::Pruned(number)
            }
        })
    }

    /// A stream of the partition, but for one, that has a filter which matches the same topics.
    fn overlapping(
        &self,
        config: &StreamConfig,
        but: Option<StreamNumber>,
    ) -> Option<StreamNumber> {
        let others = self.streams().filter(|(number, _)| Some(*number) != but);
        let mut overlapping = others.filter(|(_, other)| {
            let ours = config.filters.iter();
            ours.flat_map(|one| other.filters.iter().map(move |two| (one, two)))
                .any(|(one, two)| wildcards_overlap(one, two))
        });
        overlapping.next().map(|(number, _)| number)
    }

    fn create<S: Store>(
        &mut self,
        config: &StreamConfig,
        overlay: &mut Overlay<S>,
        events: &mut Vec<Event>,
    ) -> Reply {
        if let Err(error) = config.check() {
            return Reply::Refused(Refusal::Config(error));
        }
        if let Some(number) = self.stream(&config.name) {
            let is_same = *self.streams[&number].config == *config;
            return match is_same {
                true => Reply::Created(number, Creation::Existing),
                false => Reply::Refused(Refusal::StreamExists(number)),
            };
        }
        if let Some(other) = self.overlapping(config, None) {
            return Reply::Refused(Refusal::FiltersTaken(other));
        }
        if self.streams.len() >= PARTITION_STREAMS_MAX || self.next_stream == u32::MAX {
            return Reply::Refused(Refusal::StreamsFull);
        }
        let number = StreamNumber(self.next_stream);
        self.next_stream += 1;
        let config = Arc::new(config.clone());
        let mut stream = Stream::new(self.place(number), config.clone(), State::default());
        stream.write_config(overlay);
        self.names.insert(config.name.clone(), number);
        self.streams.insert(number, stream);
        self.touched.insert(number);
        events.push(Event::Configured(number, config));
        Reply::Created(number, Creation::New)
    }

    fn update<S: Store>(
        &mut self,
        number: StreamNumber,
        config: &StreamConfig,
        overlay: &mut Overlay<S>,
        events: &mut Vec<Event>,
    ) -> Reply {
        let Some(stream) = self.streams.get(&number) else {
            return Reply::Refused(Refusal::NoStream);
        };
        let error = config.check().err();
        let renamed = (stream.config.name != config.name).then_some(ConfigError::NameChanged);
        if let Some(error) = error.or(renamed) {
            return Reply::Refused(Refusal::Config(error));
        }
        if let Some(other) = self.overlapping(config, Some(number)) {
            return Reply::Refused(Refusal::FiltersTaken(other));
        }
        let config = Arc::new(config.clone());
        if let Some(stream) = self.streams.get_mut(&number) {
            // What is gathered was checked against the filters before.
            stream.flush_messages(overlay);
            stream.config = config.clone();
            stream.write_config(overlay);
        }
        self.touched.insert(number);
        events.push(Event::Configured(number, config));
        Reply::Updated(number)
    }

    fn raise<S: Store>(
        &mut self,
        by: u64,
        is_meant: impl Fn(&StreamConfig) -> bool,
        overlay: &mut Overlay<S>,
        events: &mut Vec<Event>,
    ) -> Reply {
        let all = self.streams.iter_mut();
        for (number, stream) in all.filter(|(_, stream)| is_meant(&stream.config)) {
            // A run has no hole.
            stream.flush_messages(overlay);
            events.extend(stream.appended());
            stream.state.raise(by);
            stream.entry_next = stream.state.next;
            stream.change = Change::Unwritten;
            self.touched.insert(*number);
        }
        Reply::Raised
    }

    fn delete<S: Store>(
        &mut self,
        number: StreamNumber,
        overlay: &mut Overlay<S>,
        events: &mut Vec<Event>,
    ) -> Reply {
        let Some(stream) = self.streams.remove(&number) else {
            return Reply::Refused(Refusal::NoStream);
        };
        self.names.remove(&stream.config.name);
        stream
            .listed_ms
            .map(|ms| self.deadlines.remove(&(ms, number)));
        // Its other rows are dead with it: its number is never used again.
        for kind in [KIND_CONFIG, KIND_STATE] {
            overlay.delete(Family::Meta, &stream.place.meta(kind));
        }
        events.push(Event::Deleted(number));
        Reply::Deleted(number, stream.state.messages)
    }

    fn append_batch<S: Store>(
        &mut self,
        batch: Batch,
        wall_ms: u64,
        overlay: &mut Overlay<S>,
    ) -> Result<Reply, StoreError> {
        let mut before: BTreeMap<StreamNumber, Stream> = BTreeMap::new();
        let mut parts = Vec::new();
        let mut position = 0;
        let mut refused = None;
        overlay.set_savepoint();
        for append in batch {
            let Some(stream) = self.streams.get_mut(&append.stream) else {
                refused = Some((position, Refusal::NoStream));
                break;
            };
            before
                .entry(append.stream)
                .or_insert_with(|| stream.clone());
            self.touched.insert(append.stream);
            let messages = append.messages.remaining();
            let part = append_to(stream, append, wall_ms, overlay)?;
            if let Outcomes::Each(outcomes) = &part.outcomes {
                let refusal = |(at, outcome): (usize, &Outcome)| match outcome {
                    Outcome::Refused(refusal) => Some((position + at as u32, *refusal)),
                    _ => None,
                };
                refused = outcomes.iter().enumerate().find_map(refusal);
            }
            if refused.is_some() {
                break;
            }
            position += messages;
            parts.push(part);
        }
        if let Some((position, refusal)) = refused {
            overlay.rollback();
            self.streams.extend(before);
            return Ok(Reply::BatchRefused(position, refusal));
        }
        overlay.release_savepoint();
        Ok(Reply::Batch(parts))
    }
}

fn append_to<S: Store>(
    stream: &mut Stream,
    append: Append,
    wall_ms: u64,
    overlay: &mut Overlay<S>,
) -> Result<Appended, StoreError> {
    let now = wall_ms.max(stream.state.last_ms);
    let first = Sequence(stream.state.next);
    // Empty as long as all are stored one behind the other.
    let mut each = Vec::new();
    for (position, message) in append.messages.enumerate() {
        let outcome = stream.append(overlay, &message, now)?;
        let is_stored = matches!(outcome, Outcome::Stored(_));
        if each.is_empty() && !is_stored {
            let stored = (first.0..stream.state.next).map(|one| Outcome::Stored(Sequence(one)));
            each.extend(stored);
            assert_eq!(each.len(), position, "all before it were stored");
        }
        if !each.is_empty() || !is_stored {
            each.push(outcome);
        }
    }
    let outcomes = match each.is_empty() {
        true => Outcomes::Run {
            first,
            count: append.messages.remaining(),
        },
        false => Outcomes::Each(each),
    };
    Ok(Appended {
        stream: append.stream,
        outcomes,
    })
}

fn apply_purge<S: Store>(
    stream: &mut Stream,
    purge: &Purge,
    overlay: &mut Overlay<S>,
) -> Result<Reply, StoreError> {
    if purge
        .filter
        .is_some_and(|filter| check_wildcard(filter).is_err())
    {
        return Ok(Reply::Refused(Refusal::FilterInvalid));
    }
    let (gone, rest) = stream.purge(overlay, purge)?;
    stream.change = Change::Unwritten;
    Ok(Reply::Purged(purge.stream, gone, rest))
}
