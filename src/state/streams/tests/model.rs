//! What streams should do, as plainly as it can be said: a list of messages each.
//!
//! Owns the expectation that tests compare with. Where the rules leave a choice (an id that was once over, a clock that
//! stepped back), it takes the answer that was given.

use crate::limits::{BLOCK_SEQUENCES, MESSAGE_OVERHEAD_BYTES, SCAN_MESSAGES_MAX};
use sapwood_wire::state::*;
use sapwood_wire::topic::{wildcard_matches, wildcards_overlap};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub sequence: u64,
    pub ms: u64,
    pub topic: Vec<u8>,
    pub headers: Vec<u8>,
    pub body: Vec<u8>,
    pub expires_ms: u64,
}

impl Kept {
    fn size(&self) -> u64 {
        (self.topic.len() + self.headers.len() + self.body.len()) as u64 + MESSAGE_OVERHEAD_BYTES
    }
}

#[derive(Clone, Debug)]
struct Id {
    id: Vec<u8>,
    sequence: u64,
    ms: u64,
    /// It was out of the window once, so it may be forgotten.
    may_be_gone: bool,
}

#[derive(Clone, Debug)]
pub(super) struct ModelStream {
    pub config: StreamConfig,
    pub messages: Vec<Kept>,
    pub next: u64,
    /// Every sequence that a message had.
    stored: Vec<u64>,
    pub last_ms: u64,
    ids: Vec<Id>,
    ttl: BTreeSet<(u64, u64)>,
    ttl_cursor_ms: u64,
    /// An id came that may be forgotten or not, and the answer does not say which.
    is_unsure: bool,
}

impl ModelStream {
    pub fn floor(&self) -> u64 {
        self.messages.first().map_or(self.next, |one| one.sequence)
    }

    pub fn bytes(&self) -> u64 {
        self.messages.iter().map(Kept::size).sum()
    }

    pub fn is_over(&self, one: &Kept, now: u64) -> bool {
        let age = self.config.age_ms_max;
        (one.expires_ms > 0 && one.expires_ms <= now) || (age > 0 && one.ms + age <= now)
    }

    fn note_time(&mut self, now: u64) {
        let window = self.config.duplicate_window_ms;
        for id in self.ids.iter_mut().filter(|id| id.ms + window <= now) {
            id.may_be_gone = true;
        }
    }

    fn append(&mut self, message: &Message, now: u64, given: Option<&Outcome>) -> Outcome {
        let config = self.config.clone();
        let refused = Outcome::Refused;
        let filters = &config.filters;
        if !filters.is_empty()
            && !filters
                .iter()
                .any(|one| wildcard_matches(one, message.topic))
        {
            return refused(Refusal::TopicNotKept);
        }
        let bytes = message.headers.len() + message.body.len();
        if config.message_bytes_max > 0 && bytes > config.message_bytes_max as usize {
            return refused(Refusal::MessageTooLong(config.message_bytes_max));
        }
        if message.ttl_ms > 0 && config.message_ttl == MessageTtl::Refused {
            return refused(Refusal::TtlRefused);
        }
        let kept = Kept {
            sequence: self.next,
            ms: now,
            topic: message.topic.to_vec(),
            headers: message.headers.to_vec(),
            body: message.body.to_vec(),
            expires_ms: if message.ttl_ms > 0 {
                now + message.ttl_ms
            } else {
                0
            },
        };
        if config.bytes_max > 0 && kept.size() > config.bytes_max {
            return refused(Refusal::MessageTooLong(config.bytes_max as u32));
        }
        if config.discard == Discard::New {
            let count = self.messages.len() as u64 + 1;
            if (config.messages_max > 0 && count > config.messages_max)
                || (config.bytes_max > 0 && self.bytes() + kept.size() > config.bytes_max)
            {
                return refused(Refusal::StreamFull);
            }
        }
        let window = config.duplicate_window_ms;
        if let Some(duplicate) = self.duplicate(message, now, given) {
            return duplicate;
        }
        if let Some(refusal) = self.condition_fails(message, given) {
            return refused(refusal);
        }
        if !message.id.is_empty() && window > 0 {
            self.ids.push(Id {
                id: message.id.to_vec(),
                sequence: self.next,
                ms: now,
                may_be_gone: false,
            });
        }
        if message.ttl_ms > 0 {
            let row_ms = kept.expires_ms.max(self.ttl_cursor_ms);
            self.ttl.insert((row_ms, self.next));
        }
        self.messages.push(kept);
        self.stored.push(self.next);
        self.next += 1;
        self.last_ms = now;
        Outcome::Stored(Sequence(self.next - 1))
    }

    fn duplicate(
        &mut self,
        message: &Message,
        now: u64,
        given: Option<&Outcome>,
    ) -> Option<Outcome> {
        let window = self.config.duplicate_window_ms;
        if message.id.is_empty() || window == 0 {
            return None;
        }
        let known = self.ids.iter().rev().find(|id| id.id == message.id);
        let known = known.filter(|id| id.ms + window > now)?;
        let duplicate = Outcome::Duplicate(Sequence(known.sequence));
        self.is_unsure |= known.may_be_gone && given.is_none();
        let is_one = !known.may_be_gone || given == Some(&duplicate);
        is_one.then_some(duplicate)
    }

    fn condition_fails(&self, message: &Message, given: Option<&Outcome>) -> Option<Refusal> {
        let last = Sequence(self.next - 1);
        if message.expected_last.is_some_and(|one| one != last) {
            return Some(Refusal::WrongLast(last));
        }
        let expected = message.expected_last_of_topic?;
        let last = self.last_of(message.topic).map_or(0, |one| one.sequence);
        if let Some(Outcome::Refused(Refusal::SearchTooLong(reached))) = given {
            assert!(last < reached.0, "{last} would have been found");
            return Some(Refusal::SearchTooLong(*reached));
        }
        (expected.0 != last).then_some(Refusal::WrongLastOfTopic(Sequence(last)))
    }

    pub fn last_of(&self, topic: &[u8]) -> Option<&Kept> {
        self.messages.iter().rev().find(|one| one.topic == topic)
    }

    fn end_entry(&mut self) {
        let config = &self.config;
        let or_all = |limit: u64| if limit > 0 { limit } else { u64::MAX };
        let (count, bytes) = (or_all(config.messages_max), or_all(config.bytes_max));
        while config.discard == Discard::Old
            && (self.messages.len() as u64 > count || self.bytes() > bytes)
        {
            self.messages.remove(0);
        }
    }

    fn purge(&mut self, purge: &Purge) -> (u64, Option<PurgeRest>) {
        let before = self.messages.len();
        let Some(filter) = purge.filter else {
            let most = (before as u64).saturating_sub(purge.keep) as usize;
            let older = self
                .messages
                .iter()
                .take_while(|one| one.sequence < purge.before.0);
            self.messages.drain(..older.count().min(most));
            return ((before - self.messages.len()) as u64, None);
        };
        let (floor, end) = (self.floor(), purge.before.0.min(self.next));
        let looked_at = self.stored.iter().rev();
        let looked_at = looked_at.filter(|one| (floor..end).contains(*one));
        let low = looked_at.take(SCAN_MESSAGES_MAX as usize).last();
        let low = low.copied().unwrap_or(end);
        let mut keep = purge.keep;
        let mut gone = BTreeSet::new();
        for one in self.messages.iter().rev() {
            if (low..end).contains(&one.sequence) && wildcard_matches(filter, &one.topic) {
                match keep {
                    0 => _ = gone.insert(one.sequence),
                    _ => keep -= 1,
                }
            }
        }
        self.messages.retain(|one| !gone.contains(&one.sequence));
        let rest = PurgeRest {
            before: Sequence(low),
            keep,
        };
        let is_more = end > low && low > self.floor();
        (gone.len() as u64, is_more.then_some(rest))
    }

    fn expire_age(&mut self, now: u64, most: u32) -> (u64, Rest) {
        let age = self.config.age_ms_max;
        let is_old = |one: &Kept| age > 0 && one.ms + age <= now;
        let old = self.messages.iter().take_while(|one| is_old(one)).count();
        let gone = old.min(most as usize);
        self.messages.drain(..gone);
        (
            gone as u64,
            if old > gone { Rest::More } else { Rest::Done },
        )
    }

    fn expire_ttl(&mut self, now: u64, most: u32) -> (u64, Rest) {
        let due: Vec<_> = self
            .ttl
            .iter()
            .copied()
            .take_while(|row| row.0 <= now)
            .collect();
        let most = (u64::from(most)).min(SCAN_MESSAGES_MAX) as usize;
        let mut gone = 0;
        for row in due.iter().take(most) {
            self.ttl.remove(row);
            self.ttl_cursor_ms = row.0;
            let at = self.messages.iter().position(|one| one.sequence == row.1);
            if let Some(at) = at {
                self.messages.remove(at);
                gone += 1;
            }
        }
        (
            gone,
            if due.len() > most {
                Rest::More
            } else {
                Rest::Done
            },
        )
    }
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    pub streams: BTreeMap<u32, ModelStream>,
    next_stream: u32,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            streams: BTreeMap::new(),
            next_stream: 1,
        }
    }
}

/// The outcome that was given for one message of an append.
fn given_at(appended: Option<&Appended>, position: usize) -> Option<Outcome> {
    match &appended?.outcomes {
        Outcomes::Run { first, count } => (position < *count as usize)
            .then_some(Outcome::Stored(Sequence(first.0 + position as u64))),
        Outcomes::Each(each) => each.get(position).copied(),
    }
}

impl Model {
    /// Carries an entry out, and returns the answers that are expected.
    pub fn apply(&mut self, wall_ms: u64, commands: &[u8], given: &[Reply]) -> Vec<Reply> {
        let mut replies = Vec::new();
        for (position, command) in Commands::new(commands).enumerate() {
            replies.push(self.command(command.unwrap(), wall_ms, given.get(position)));
        }
        self.streams.values_mut().for_each(ModelStream::end_entry);
        replies
    }

    fn append(
        &mut self,
        append: Append,
        wall_ms: u64,
        given: Option<&Appended>,
    ) -> Option<Appended> {
        let stream = self.streams.get_mut(&append.stream.0)?;
        let now = wall_ms.max(stream.last_ms);
        stream.note_time(now);
        let mut each = Vec::new();
        for (position, message) in append.messages.enumerate() {
            each.push(stream.append(&message, now, given_at(given, position).as_ref()));
        }
        let first = each.first().and_then(|one| match one {
            Outcome::Stored(first) => Some(first.0),
            _ => None,
        });
        let first = first.unwrap_or(stream.next);
        let is_run = each
            .iter()
            .enumerate()
            .all(|(position, one)| *one == Outcome::Stored(Sequence(first + position as u64)));
        let outcomes = match is_run {
            true => Outcomes::Run {
                first: Sequence(first),
                count: each.len() as u32,
            },
            false => Outcomes::Each(each),
        };
        Some(Appended {
            stream: append.stream,
            outcomes,
        })
    }

    fn batch(&mut self, batch: Batch, wall_ms: u64, given: Option<&Reply>) -> Reply {
        let before = self.streams.clone();
        let reply = self.batch_parts(batch, wall_ms, given);
        let is_unsure = self.streams.values().any(|one| one.is_unsure)
            || matches!(
                given,
                Some(Reply::BatchRefused(_, Refusal::SearchTooLong(_)))
            );
        self.streams
            .values_mut()
            .for_each(|one| one.is_unsure = false);
        match (&reply, given) {
            (Reply::Batch(_), Some(Reply::BatchRefused(..))) | (Reply::BatchRefused(..), _) => {
                self.streams = before;
            }
            _ => {}
        }
        match given {
            Some(given @ Reply::BatchRefused(..)) if is_unsure => given.clone(),
            _ => reply,
        }
    }

    fn batch_parts(&mut self, batch: Batch, wall_ms: u64, given: Option<&Reply>) -> Reply {
        let mut parts = Vec::new();
        let mut position = 0;
        for (at, append) in batch.enumerate() {
            let given = match given {
                Some(Reply::Batch(parts)) => parts.get(at),
                _ => None,
            };
            let Some(part) = self.append(append, wall_ms, given) else {
                return Reply::BatchRefused(position, Refusal::NoStream);
            };
            if let Outcomes::Each(each) = &part.outcomes {
                for (at, one) in each.iter().enumerate() {
                    if let Outcome::Refused(refusal) = one {
                        return Reply::BatchRefused(position + at as u32, *refusal);
                    }
                }
            }
            position += append.messages.remaining();
            parts.push(part);
        }
        Reply::Batch(parts)
    }

    fn raise(&mut self, by: u64, is_meant: impl Fn(&StreamConfig) -> bool) -> Reply {
        let all = self.streams.values_mut();
        for stream in all.filter(|one| is_meant(&one.config)) {
            stream.next = (stream.next + by).next_multiple_of(BLOCK_SEQUENCES);
        }
        Reply::Raised
    }

    fn command(&mut self, command: Command, wall_ms: u64, given: Option<&Reply>) -> Reply {
        let number = match command {
            Command::Create(config) => return self.create(config),
            Command::Raise(by) => return self.raise(by, |_| true),
            Command::RaiseOs(by) => return self.raise(by, |one| one.durability == Durability::Os),
            Command::Batch(batch) => return self.batch(batch, wall_ms, given),
            Command::Append(append) => {
                let given = match given {
                    Some(Reply::Appended(given)) => Some(given),
                    _ => None,
                };
                let appended = self.append(append, wall_ms, given);
                return appended.map_or(Reply::Refused(Refusal::NoStream), Reply::Appended);
            }
            Command::Delete(number)
            | Command::Update(number, _)
            | Command::DeleteMessage(number, _)
            | Command::ExpireAge(number, _)
            | Command::ExpireTtl(number, _)
            | Command::PruneIds(number) => number,
            Command::Purge(purge) => purge.stream,
        };
        let Some(stream) = self.streams.get_mut(&number.0) else {
            return Reply::Refused(Refusal::NoStream);
        };
        let now = wall_ms.max(stream.last_ms);
        stream.note_time(now);
        match command {
            Command::Delete(_) => {
                let messages = stream.messages.len() as u64;
                self.streams.remove(&number.0);
                Reply::Deleted(number, messages)
            }
            Command::Update(_, config) => {
                stream.config = config;
                stream.note_time(now);
                Reply::Updated(number)
            }
            Command::DeleteMessage(_, sequence) => {
                let at = stream
                    .messages
                    .iter()
                    .position(|one| one.sequence == sequence.0);
                match at {
                    Some(at) => {
                        stream.messages.remove(at);
                        Reply::MessageDeleted(number)
                    }
                    None => Reply::Refused(Refusal::NoMessage),
                }
            }
            Command::ExpireAge(_, most) => {
                let (gone, rest) = stream.expire_age(now, most);
                Reply::Expired(number, gone, rest)
            }
            Command::ExpireTtl(_, most) => {
                let (gone, rest) = stream.expire_ttl(now, most);
                Reply::Expired(number, gone, rest)
            }
            Command::Purge(purge) => {
                let (gone, rest) = stream.purge(&purge);
                Reply::Purged(number, gone, rest)
            }
            _ => Reply::Pruned(number),
        }
    }

    fn create(&mut self, config: StreamConfig) -> Reply {
        let same = self
            .streams
            .iter()
            .find(|(_, one)| one.config.name == config.name);
        if let Some((number, stream)) = same {
            return match stream.config == config {
                true => Reply::Created(StreamNumber(*number), Creation::Existing),
                false => Reply::Refused(Refusal::StreamExists(StreamNumber(*number))),
            };
        }
        let overlaps = |one: &ModelStream| {
            config
                .filters
                .iter()
                .any(|a| one.config.filters.iter().any(|b| wildcards_overlap(a, b)))
        };
        if let Some((number, _)) = self.streams.iter().find(|(_, one)| overlaps(one)) {
            return Reply::Refused(Refusal::FiltersTaken(StreamNumber(*number)));
        }
        let number = self.next_stream;
        self.next_stream += 1;
        self.streams.insert(
            number,
            ModelStream {
                config,
                messages: Vec::new(),
                next: 1,
                stored: Vec::new(),
                last_ms: 0,
                ids: Vec::new(),
                ttl: BTreeSet::new(),
                ttl_cursor_ms: 0,
                is_unsure: false,
            },
        );
        Reply::Created(StreamNumber(number), Creation::New)
    }
}
