//! One stream: what it holds in memory between batches, and how messages come into it.
//!
//! Owns state, the blocks that this batch touched, the run and the `last` row that this entry is gathering. Must not know
//! other streams. Invariants: at the end of an entry nothing is gathered any more; at the end of a batch every change is
//! in the overlay; the counts of the state are the sums of the blocks' counts. Start at [`Stream::append`].

use super::block::{Block, block_of, offset_of};
use super::keys::{KIND_CONFIG, KIND_STATE, Place};
use super::run::{RunWriter, size_of};
use super::scan::{self, LastOfTopic, damaged};
use super::state::State;
use crate::limits::SCAN_MESSAGES_MAX;
use crate::overlay::Overlay;
use crate::store::{Family, Store, StoreError};
use sapwood_wire::state::{
    DecodeError, Discard, Message, MessageTtl, Outcome, Reader, Refusal, Sequence, StreamConfig,
};
use sapwood_wire::topic::{check_name, wildcard_matches};
use std::collections::BTreeMap;
use std::sync::Arc;

const CONFIG_VERSION: u8 = 1;

/// A stream.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub place: Place,
    pub config: Arc<StreamConfig>,
    pub state: State,
    /// By number; those that this batch touched, and the last.
    blocks: BTreeMap<u64, (Block, Change)>,
    run: RunWriter,
    /// The topic of the last message that was stored in this entry, and its sequence: not in the overlay yet.
    last: Option<(Vec<u8>, u64)>,
    /// A buffer for keys and topics.
    spare: Vec<u8>,
    /// Whether the state differs from its row.
    pub change: Change,
    /// The next sequence at the start of the entry.
    pub entry_next: u64,
    /// The deadline under which the partition lists it.
    pub listed_ms: Option<u64>,
}

/// Whether something differs from what stands in the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Written,
    Unwritten,
}

/// The row of a configuration.
pub(crate) fn encode_config(config: &StreamConfig) -> Vec<u8> {
    let mut row = vec![CONFIG_VERSION];
    config.write(&mut row);
    row
}

/// A configuration from its row.
pub(crate) fn decode_config(row: &[u8]) -> Result<StreamConfig, DecodeError> {
    let mut reader = Reader::new(row);
    match reader.u8("version")? {
        CONFIG_VERSION => {}
        version => return Err(DecodeError::Version(version)),
    }
    let config = StreamConfig::read(&mut reader)?;
    reader.end()?;
    Ok(config)
}

impl Stream {
    /// A stream as it stands in the store, or a new one.
    pub fn new(place: Place, config: Arc<StreamConfig>, state: State) -> Stream {
        Stream {
            place,
            config,
            entry_next: state.next,
            state,
            blocks: BTreeMap::new(),
            run: RunWriter::default(),
            last: None,
            spare: Vec::new(),
            change: Change::Written,
            listed_ms: None,
        }
    }

    /// Writes the configuration's row.
    pub fn write_config<S: Store>(&mut self, overlay: &mut Overlay<S>) {
        let key = self.place.meta(KIND_CONFIG);
        overlay.put(Family::Meta, &key, encode_config(&self.config));
        self.change = Change::Unwritten;
    }

    /// Stores one message, or says why not. `now` is at least the time of the last message.
    pub fn append<S: Store>(
        &mut self,
        overlay: &mut Overlay<S>,
        message: &Message,
        now: u64,
    ) -> Result<Outcome, StoreError> {
        let is_same_topic = matches!(&self.last, Some((topic, _)) if topic == message.topic);
        if !is_same_topic && !self.is_kept(message.topic) {
            return Ok(Outcome::Refused(Refusal::TopicNotKept));
        }
        if let Some(refusal) = self.refuses(message) {
            return Ok(Outcome::Refused(refusal));
        }
        let has_id = !message.id.is_empty() && self.config.duplicate_window_ms > 0;
        if has_id && let Some(sequence) = self.find_id(overlay, message.id, now)? {
            return Ok(Outcome::Duplicate(Sequence(sequence)));
        }
        if let Some(refusal) = self.condition_fails(overlay, message)? {
            return Ok(Outcome::Refused(refusal));
        }
        if !is_same_topic {
            self.flush_last(overlay);
        }
        let sequence = self.store_message(overlay, message, now)?;
        if has_id {
            self.add_id(overlay, message.id, sequence, now);
        }
        Ok(Outcome::Stored(Sequence(sequence)))
    }

    fn is_kept(&self, topic: &[u8]) -> bool {
        let filters = &self.config.filters;
        check_name(topic).is_ok()
            && (filters.is_empty() || filters.iter().any(|one| wildcard_matches(one, topic)))
    }

    fn refuses(&self, message: &Message) -> Option<Refusal> {
        let config = &*self.config;
        let bytes = message.headers.len() + message.body.len();
        if config.message_bytes_max > 0 && bytes > config.message_bytes_max as usize {
            return Some(Refusal::MessageTooLong(config.message_bytes_max));
        }
        if message.ttl_ms > 0 && config.message_ttl == MessageTtl::Refused {
            return Some(Refusal::TtlRefused);
        }
        let size = size_of(message.topic, message.headers, message.body.len());
        if config.bytes_max > 0 && size > config.bytes_max {
            // It would go at once. The limit is below the longest message, so it fits.
            let cap = u32::try_from(config.bytes_max).unwrap_or(u32::MAX);
            return Some(Refusal::MessageTooLong(cap));
        }
        let is_above = |limit: u64, value: u64| limit > 0 && value > limit;
        let is_full = config.discard == Discard::New
            && (is_above(config.messages_max, self.state.messages + 1)
                || is_above(config.bytes_max, self.state.bytes + size));
        is_full.then_some(Refusal::StreamFull)
    }

    fn condition_fails<S: Store>(
        &mut self,
        overlay: &mut Overlay<S>,
        message: &Message,
    ) -> Result<Option<Refusal>, StoreError> {
        let last = Sequence(self.state.next - 1);
        if message
            .expected_last
            .is_some_and(|expected| expected != last)
        {
            return Ok(Some(Refusal::WrongLast(last)));
        }
        let Some(expected) = message.expected_last_of_topic else {
            return Ok(None);
        };
        Ok(match self.last_of_topic(overlay, message.topic)? {
            LastOfTopic::Unknown(reached) => Some(Refusal::SearchTooLong(Sequence(reached))),
            LastOfTopic::None if expected.0 == 0 => None,
            LastOfTopic::None => Some(Refusal::WrongLastOfTopic(Sequence(0))),
            LastOfTopic::Live(last) if expected.0 == last => None,
            LastOfTopic::Live(last) => Some(Refusal::WrongLastOfTopic(Sequence(last))),
        })
    }

    /// The last live message of a topic. Where its row names one that was deleted, the row is set right.
    fn last_of_topic<S: Store>(
        &mut self,
        overlay: &mut Overlay<S>,
        topic: &[u8],
    ) -> Result<LastOfTopic, StoreError> {
        if let Some((last, sequence)) = &self.last
            && last == topic
        {
            return Ok(LastOfTopic::Live(*sequence));
        }
        self.flush_last(overlay);
        self.place.topic(topic, &mut self.spare);
        let mut row = Vec::new();
        if !overlay.get(Family::Last, &self.spare, &mut row)? {
            return Ok(LastOfTopic::None);
        }
        let last = super::keys::number_at(&row, 0);
        let last = last.ok_or_else(|| damaged(Family::Last, &self.spare, "sequence"))?;
        if last < self.state.floor {
            return Ok(LastOfTopic::None);
        }
        let block = self.block(overlay, block_of(last))?;
        if block.is_stored_and_not_deleted(offset_of(last)) {
            return Ok(LastOfTopic::Live(last));
        }
        self.settle(overlay);
        let (place, floor) = (self.place, self.state.floor);
        let is_gone = |_: &super::run::Record| false;
        let found =
            scan::last_of_topic(&*overlay, place, topic, floor, SCAN_MESSAGES_MAX, is_gone)?;
        self.place.topic(topic, &mut self.spare);
        match found {
            LastOfTopic::None => overlay.delete(Family::Last, &self.spare),
            LastOfTopic::Live(last) => {
                overlay.put_short(Family::Last, &self.spare, &last.to_be_bytes());
            }
            LastOfTopic::Unknown(_) => {}
        }
        Ok(found)
    }

    fn store_message<S: Store>(
        &mut self,
        overlay: &mut Overlay<S>,
        message: &Message,
        ms: u64,
    ) -> Result<u64, StoreError> {
        let sequence = self.state.next;
        let mut expires_ms = 0;
        if message.ttl_ms > 0 {
            expires_ms = ms.saturating_add(message.ttl_ms);
            // Rows below the cursor are never looked at again. Sequences rise, so this one is not below it.
            let row_ms = expires_ms.max(self.state.ttl_cursor.0);
            overlay.put_short(Family::Ttl, &self.place.pair(row_ms, sequence), &[]);
            self.state.ttl_next_ms = match self.state.ttl_next_ms {
                0 => row_ms,
                next => next.min(row_ms),
            };
        }
        if self.run.is_full_for(message) {
            self.flush_run(overlay);
        }
        if self.run.push(message, sequence, ms, expires_ms) {
            let key = self.place.number(sequence);
            overlay.put(Family::Blobs, &key, message.body.to_vec());
        }
        let size = size_of(message.topic, message.headers, message.body.len());
        self.tail(overlay, sequence)?
            .store(offset_of(sequence), size, ms);
        match &mut self.last {
            Some((_, last)) => *last = sequence,
            None => {
                let mut topic = std::mem::take(&mut self.spare);
                topic.clear();
                topic.extend_from_slice(message.topic);
                self.last = Some((topic, sequence));
            }
        }
        let state = &mut self.state;
        if state.messages == 0 {
            (state.floor, state.first_ms) = (sequence, ms);
        }
        state.next += 1;
        state.messages += 1;
        state.bytes += size;
        state.last_ms = ms;
        self.change = Change::Unwritten;
        Ok(sequence)
    }

    /// The block that a new message goes to.
    fn tail<S: Store>(
        &mut self,
        overlay: &Overlay<S>,
        sequence: u64,
    ) -> Result<&mut Block, StoreError> {
        let number = block_of(sequence);
        let is_known = self
            .blocks
            .last_key_value()
            .is_some_and(|(&last, _)| last == number);
        if !is_known && offset_of(sequence) != 0 && sequence > 1 {
            self.block(overlay, number)?;
        }
        // invariant: the entry is there now, or the block is a new one.
        let (block, change) = self
            .blocks
            .entry(number)
            .or_insert_with(|| (Block::default(), Change::Unwritten));
        *change = Change::Unwritten;
        Ok(block)
    }

    /// A block of the stream; whoever changes it says so by [`Stream::changed_block`].
    pub fn block<S: Store>(
        &mut self,
        overlay: &Overlay<S>,
        number: u64,
    ) -> Result<&mut Block, StoreError> {
        if !self.blocks.contains_key(&number) {
            let block = scan::block(overlay, self.place, number)?;
            let key = self.place.number(number);
            let block = block.ok_or_else(|| damaged(Family::Block, &key, "absence"))?;
            self.blocks.insert(number, (block, Change::Written));
        }
        // invariant: put there just now, if it was not.
        let (block, _) = self.blocks.get_mut(&number).expect("it is there");
        Ok(block)
    }

    /// A block that is going to be changed.
    pub fn changed_block<S: Store>(
        &mut self,
        overlay: &Overlay<S>,
        number: u64,
    ) -> Result<&mut Block, StoreError> {
        self.block(overlay, number)?;
        // invariant: `block` put it there, if it was not.
        let (block, change) = self.blocks.get_mut(&number).expect("it is there");
        *change = Change::Unwritten;
        Ok(block)
    }

    fn flush_run<S: Store>(&mut self, overlay: &mut Overlay<S>) {
        if let Some((last, row)) = self.run.take() {
            overlay.put(Family::Msgs, &self.place.number(last), row);
        }
    }

    fn flush_last<S: Store>(&mut self, overlay: &mut Overlay<S>) {
        if let Some((topic, sequence)) = self.last.take() {
            self.place.topic(&topic, &mut self.spare);
            overlay.put_short(Family::Last, &self.spare, &sequence.to_be_bytes());
            // The longer of both buffers is kept.
            if topic.capacity() > self.spare.capacity() {
                self.spare = topic;
            }
        }
    }

    /// Puts messages into the overlay, so that they can be read there.
    pub fn flush_messages<S: Store>(&mut self, overlay: &mut Overlay<S>) {
        self.flush_run(overlay);
        self.flush_last(overlay);
    }

    /// Puts all but the state into the overlay, so that it can be read there.
    pub fn settle<S: Store>(&mut self, overlay: &mut Overlay<S>) {
        self.flush_messages(overlay);
        for (number, (block, change)) in &mut self.blocks {
            if *change == Change::Unwritten {
                overlay.put(Family::Block, &self.place.number(*number), block.encode());
                *change = Change::Written;
            }
        }
    }

    /// Ends an entry: the limits hold again.
    pub fn end_entry<S: Store>(&mut self, overlay: &mut Overlay<S>) -> Result<(), StoreError> {
        self.flush_messages(overlay);
        if self.config.discard == Discard::Old {
            self.discard_old(overlay)?;
        }
        self.entry_next = self.state.next;
        Ok(())
    }

    /// Ends a batch: every change is in the overlay, and of the blocks only the last is kept in memory.
    pub fn end_batch<S: Store>(&mut self, overlay: &mut Overlay<S>) {
        // What lies below the floor is dead, its blocks too.
        self.blocks = self.blocks.split_off(&block_of(self.state.floor));
        self.settle(overlay);
        let last = self.blocks.pop_last();
        self.blocks.clear();
        self.blocks.extend(last);
        if self.change == Change::Unwritten {
            let key = self.place.meta(KIND_STATE);
            overlay.put(Family::Meta, &key, self.state.encode());
            self.change = Change::Written;
        }
    }

    /// Begins again at 1, as a stream would that takes its next sequence from the messages that it has.
    #[cfg(test)]
    pub fn reuse_sequence(&mut self) {
        (self.state.floor, self.state.next, self.entry_next) = (1, 1, 1);
        self.blocks.clear();
    }

    /// When something is to be done about it.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.deadlines_ms().into_iter().flatten().min()
    }

    /// When messages are too old, when a TTL is over, when ids are.
    pub fn deadlines_ms(&self) -> [Option<u64>; 3] {
        let state = &self.state;
        let age = (self.config.age_ms_max > 0 && state.messages > 0)
            .then(|| state.first_ms.saturating_add(self.config.age_ms_max));
        let ttl = (state.ttl_next_ms > 0).then_some(state.ttl_next_ms);
        let ids = state.buckets.first().map(|bucket| {
            let window = self.config.duplicate_window_ms;
            bucket.last_ms.saturating_add(window)
        });
        [age, ttl, ids]
    }
}
