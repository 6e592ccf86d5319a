//! What a partition must hold and answer: streams in sorted maps, one command after the other.
//!
//! Owns a second telling of what commands mean, without rows, blocks, batches or a store. Must not know the log. Start at
//! [`ModelPartition::apply`].

use sapwood_state::limits::BLOCK_SEQUENCES;
use sapwood_wire::state::*;
use sapwood_wire::topic::{wildcard_matches, wildcards_overlap};
use std::collections::{BTreeMap, BTreeSet};

/// A message that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelMessage {
    pub ms: u64,
    pub topic: Vec<u8>,
    pub id: Vec<u8>,
    pub body: Vec<u8>,
    /// 0 for never.
    pub expires_ms: u64,
}

/// Ids that came in within a part of the window, with sequence and time.
#[derive(Clone, Debug)]
struct Bucket {
    start_ms: u64,
    last_ms: u64,
    ids: BTreeMap<Vec<u8>, (u64, u64)>,
}

#[derive(Clone, Debug)]
pub(super) struct ModelStream {
    pub config: StreamConfig,
    pub messages: BTreeMap<u64, ModelMessage>,
    pub next: u64,
    last_ms: u64,
    buckets: Vec<Bucket>,
    buckets_from_ms: u64,
    ttl: BTreeSet<(u64, u64)>,
    ttl_from_ms: u64,
}

#[derive(Clone, Debug)]
pub(super) struct ModelPartition {
    next_stream: u32,
    pub streams: BTreeMap<u32, ModelStream>,
    pub applied: u64,
}

impl ModelStream {
    fn new(config: StreamConfig) -> ModelStream {
        ModelStream {
            config,
            messages: BTreeMap::new(),
            next: 1,
            last_ms: 0,
            buckets: Vec::new(),
            buckets_from_ms: 0,
            ttl: BTreeSet::new(),
            ttl_from_ms: 0,
        }
    }

    /// The first message, or the next one where there is none.
    pub fn floor(&self) -> u64 {
        self.messages
            .first_key_value()
            .map_or(self.next, |(first, _)| *first)
    }

    /// Whether a reader may see a message.
    pub fn is_visible(&self, message: &ModelMessage, now_ms: u64) -> bool {
        let age = self.config.age_ms_max;
        (message.expires_ms == 0 || message.expires_ms > now_ms)
            && (age == 0 || message.ms + age > now_ms)
    }

    fn refusal(&self, message: &Message) -> Option<Refusal> {
        let config = &self.config;
        let filters = &config.filters;
        if !filters.is_empty()
            && !filters
                .iter()
                .any(|one| wildcard_matches(one, message.topic))
        {
            return Some(Refusal::TopicNotKept);
        }
        if message.ttl_ms > 0 && config.message_ttl == MessageTtl::Refused {
            return Some(Refusal::TtlRefused);
        }
        let is_full = config.discard == Discard::New
            && config.messages_max > 0
            && self.messages.len() as u64 + 1 > config.messages_max;
        is_full.then_some(Refusal::StreamFull)
    }

    fn duplicate(&self, id: &[u8], now: u64) -> Option<u64> {
        let window = self.config.duplicate_window_ms;
        let live = self.buckets.iter().rev();
        let mut live = live.take_while(|bucket| bucket.last_ms + window > now);
        let (sequence, ms) = live.find_map(|bucket| bucket.ids.get(id))?;
        (ms + window > now).then_some(*sequence)
    }

    fn note_id(&mut self, id: &[u8], now: u64) {
        let width = (self.config.duplicate_window_ms / 4).max(1);
        let newest = self.buckets.last();
        if newest.is_none_or(|bucket| bucket.start_ms + width <= now) {
            self.forget_ids(now);
            self.buckets.push(Bucket {
                start_ms: now.max(self.buckets_from_ms),
                last_ms: now,
                ids: BTreeMap::new(),
            });
        }
        if let Some(bucket) = self.buckets.last_mut() {
            bucket.last_ms = now;
            bucket.ids.insert(id.to_vec(), (self.next, now));
        }
    }

    fn forget_ids(&mut self, now: u64) {
        let window = self.config.duplicate_window_ms;
        // Ends with the first bucket that is still within the window.
        while let Some(first) = self.buckets.first()
            && first.last_ms + window <= now
        {
            self.buckets_from_ms = first.start_ms + 1;
            self.buckets.remove(0);
        }
    }

    fn wrong(&self, message: &Message) -> Option<Refusal> {
        let last = Sequence(self.next - 1);
        if message
            .expected_last
            .is_some_and(|expected| expected != last)
        {
            return Some(Refusal::WrongLast(last));
        }
        let expected = message.expected_last_of_topic?;
        let of_topic = |(_, one): &(&u64, &ModelMessage)| one.topic == message.topic;
        let last = self.messages.iter().rev().find(of_topic);
        let last = Sequence(last.map_or(0, |(sequence, _)| *sequence));
        (expected != last).then_some(Refusal::WrongLastOfTopic(last))
    }

    fn append_one(&mut self, message: &Message, now: u64) -> Outcome {
        if let Some(refusal) = self.refusal(message) {
            return Outcome::Refused(refusal);
        }
        let has_id = !message.id.is_empty() && self.config.duplicate_window_ms > 0;
        if has_id && let Some(sequence) = self.duplicate(message.id, now) {
            return Outcome::Duplicate(Sequence(sequence));
        }
        if let Some(refusal) = self.wrong(message) {
            return Outcome::Refused(refusal);
        }
        if has_id {
            self.note_id(message.id, now);
        }
        let mut expires_ms = 0;
        if message.ttl_ms > 0 {
            expires_ms = now + message.ttl_ms;
            self.ttl
                .insert((expires_ms.max(self.ttl_from_ms), self.next));
        }
        let stored = ModelMessage {
            ms: now,
            topic: message.topic.to_vec(),
            id: message.id.to_vec(),
            body: message.body.to_vec(),
            expires_ms,
        };
        self.messages.insert(self.next, stored);
        self.last_ms = now;
        self.next += 1;
        Outcome::Stored(Sequence(self.next - 1))
    }

    fn append(&mut self, append: Append, wall_ms: u64) -> Appended {
        let now = wall_ms.max(self.last_ms);
        let (first, count) = (Sequence(self.next), append.messages.remaining());
        let each: Vec<_> = append
            .messages
            .map(|message| self.append_one(&message, now))
            .collect();
        let is_run = each.iter().all(|one| matches!(one, Outcome::Stored(_)));
        Appended {
            stream: append.stream,
            outcomes: match is_run {
                true => Outcomes::Run { first, count },
                false => Outcomes::Each(each),
            },
        }
    }

    fn purge(&mut self, purge: &Purge) -> u64 {
        let before = self.messages.len();
        let below = purge.before.0;
        if let Some(filter) = purge.filter {
            let matching = self.messages.range(..below).rev();
            let matching = matching.filter(|(_, one)| wildcard_matches(filter, &one.topic));
            let gone = matching.skip(purge.keep as usize).map(|(one, _)| *one);
            for one in gone.collect::<Vec<_>>() {
                self.messages.remove(&one);
            }
        } else {
            let most = before.saturating_sub(purge.keep as usize);
            let gone = self.messages.range(..below).map(|(one, _)| *one);
            for one in gone.take(most).collect::<Vec<_>>() {
                self.messages.remove(&one);
            }
        }
        (before - self.messages.len()) as u64
    }

    fn expire_age(&mut self, now: u64, most: u32) -> (u64, Rest) {
        let age = self.config.age_ms_max;
        if age == 0 || now < age {
            return (0, Rest::Done);
        }
        let mut gone = 0;
        // Ends with the first that is young enough, or with the bound.
        while let Some(first) = self.messages.first_entry()
            && first.get().ms <= now - age
        {
            if gone == u64::from(most) {
                return (gone, Rest::More);
            }
            first.remove();
            gone += 1;
        }
        (gone, Rest::Done)
    }

    /// The bound of one command is above all that a history brings.
    fn expire_ttl(&mut self, now: u64) -> u64 {
        let mut gone = 0;
        // Ends with the first that is not due.
        while let Some(&(ms, sequence)) = self.ttl.first()
            && ms <= now
        {
            self.ttl.pop_first();
            self.ttl_from_ms = ms;
            gone += u64::from(self.messages.remove(&sequence).is_some());
        }
        gone
    }

    /// Sequences go on at a multiple of what a block row tells about.
    fn raise(&mut self, by: u64) {
        self.next = (self.next + by).next_multiple_of(BLOCK_SEQUENCES);
    }

    /// The last message of a topic that a reader may see.
    pub fn last_visible(&self, topic: &[u8], now_ms: u64) -> Option<u64> {
        let is_it = |one: &ModelMessage| one.topic == topic && self.is_visible(one, now_ms);
        let mut back = self.messages.iter().rev();
        back.find(|(_, one)| is_it(one)).map(|(one, _)| *one)
    }

    fn discard_old(&mut self) {
        let most = self.config.messages_max as usize;
        // Ends with the limit.
        while self.config.discard == Discard::Old && most > 0 && self.messages.len() > most {
            self.messages.pop_first();
        }
    }
}

impl ModelPartition {
    pub fn new() -> ModelPartition {
        ModelPartition {
            next_stream: 1,
            streams: BTreeMap::new(),
            applied: 0,
        }
    }

    /// Applies the next entry; what must be answered.
    pub fn apply(&mut self, commands: &[u8], wall_ms: u64) -> Vec<Reply> {
        let mut replies = Vec::new();
        for command in Commands::new(commands) {
            // invariant: the history's own commands.
            let command = command.expect("a command");
            replies.push(self.apply_one(command, wall_ms));
        }
        self.streams.values_mut().for_each(ModelStream::discard_old);
        self.applied += 1;
        replies
    }

    fn apply_one(&mut self, command: Command, wall_ms: u64) -> Reply {
        let number = match command {
            Command::Create(config) => return self.create(config),
            Command::Batch(batch) => return self.batch(batch, wall_ms),
            Command::Update(number, config) => return self.update(number, config),
            Command::Delete(number) => {
                return match self.streams.remove(&number.0) {
                    Some(gone) => Reply::Deleted(number, gone.messages.len() as u64),
                    None => Reply::Refused(Refusal::NoStream),
                };
            }
            Command::Raise(by) => {
                self.streams.values_mut().for_each(|one| one.raise(by));
                return Reply::Raised;
            }
            Command::RaiseOs(by) => {
                let all = self.streams.values_mut();
                let is_os = |one: &&mut ModelStream| one.config.durability == Durability::Os;
                all.filter(is_os).for_each(|one| one.raise(by));
                return Reply::Raised;
            }
            Command::Append(append) => append.stream,
            Command::Purge(purge) => purge.stream,
            Command::DeleteMessage(stream, _)
            | Command::ExpireAge(stream, _)
            | Command::ExpireTtl(stream, _)
            | Command::PruneIds(stream) => stream,
        };
        let Some(stream) = self.streams.get_mut(&number.0) else {
            return Reply::Refused(Refusal::NoStream);
        };
        let now = wall_ms.max(stream.last_ms);
        match command {
            Command::Append(append) => Reply::Appended(stream.append(append, wall_ms)),
            Command::Purge(purge) => Reply::Purged(number, stream.purge(&purge), None),
            Command::DeleteMessage(_, sequence) => match stream.messages.remove(&sequence.0) {
                Some(_) => Reply::MessageDeleted(number),
                None => Reply::Refused(Refusal::NoMessage),
            },
            Command::ExpireAge(_, most) => {
                let (gone, rest) = stream.expire_age(now, most);
                Reply::Expired(number, gone, rest)
            }
            Command::ExpireTtl(..) => Reply::Expired(number, stream.expire_ttl(now), Rest::Done),
            _ => {
                stream.forget_ids(now);
                Reply::Pruned(number)
            }
        }
    }

    fn overlapping(&self, config: &StreamConfig, but: u32) -> Option<StreamNumber> {
        let overlaps = |other: &StreamConfig| {
            let ours = config.filters.iter();
            ours.flat_map(|one| other.filters.iter().map(move |two| (one, two)))
                .any(|(one, two)| wildcards_overlap(one, two))
        };
        let mut others = self.streams.iter().filter(|(number, _)| **number != but);
        others
            .find(|(_, other)| overlaps(&other.config))
            .map(|(number, _)| StreamNumber(*number))
    }

    fn create(&mut self, config: StreamConfig) -> Reply {
        let same_name = |(_, one): &(&u32, &ModelStream)| one.config.name == config.name;
        if let Some((&number, other)) = self.streams.iter().find(same_name) {
            let number = StreamNumber(number);
            return match other.config == config {
                true => Reply::Created(number, Creation::Existing),
                false => Reply::Refused(Refusal::StreamExists(number)),
            };
        }
        if let Some(other) = self.overlapping(&config, 0) {
            return Reply::Refused(Refusal::FiltersTaken(other));
        }
        let number = self.next_stream;
        self.next_stream += 1;
        self.streams.insert(number, ModelStream::new(config));
        Reply::Created(StreamNumber(number), Creation::New)
    }

    fn update(&mut self, number: StreamNumber, config: StreamConfig) -> Reply {
        if !self.streams.contains_key(&number.0) {
            return Reply::Refused(Refusal::NoStream);
        }
        if let Some(other) = self.overlapping(&config, number.0) {
            return Reply::Refused(Refusal::FiltersTaken(other));
        }
        if let Some(stream) = self.streams.get_mut(&number.0) {
            stream.config = config;
        }
        Reply::Updated(number)
    }

    fn batch(&mut self, batch: Batch, wall_ms: u64) -> Reply {
        let before = self.streams.clone();
        let (mut position, mut parts) = (0, Vec::new());
        for append in batch {
            let Some(stream) = self.streams.get_mut(&append.stream.0) else {
                self.streams = before;
                return Reply::BatchRefused(position, Refusal::NoStream);
            };
            let count = append.messages.remaining();
            let part = stream.append(append, wall_ms);
            if let Outcomes::Each(each) = &part.outcomes {
                let refused = (position..).zip(each).find_map(|(at, one)| match one {
                    Outcome::Refused(refusal) => Some((at, *refusal)),
                    _ => None,
                });
                if let Some((at, refusal)) = refused {
                    self.streams = before;
                    return Reply::BatchRefused(at, refusal);
                }
            }
            position += count;
            parts.push(part);
        }
        Reply::Batch(parts)
    }
}
