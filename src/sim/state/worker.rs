//! Workers: each owns some partitions, gathers calls into entries, applies what the log has, answers.
//!
//! Must not know how the log writes. Invariants: nothing is applied before the log has it durably, or has written it where
//! the whole entry is of `os` streams; a call leaves a mailbox only if the log's has room. Start at
//! [`World::step_worker`].

use super::Sabotage;
use super::history::Owned;
use super::log_thread::{Proposal, Told};
use super::world::World;
use crate::{Failure, fail};
use sapwood_state::partition::{Entry, Event};
use sapwood_wire::state::*;
use std::collections::{BTreeMap, VecDeque};

/// Calls that a worker takes in a turn.
const TURN_CALLS_MAX: usize = 12;

/// What a client asked for.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub number: u64,
    pub partition: usize,
    /// One command, as it stands in an entry.
    pub command: Vec<u8>,
    /// What it appends to; none for all else.
    pub streams: Vec<u32>,
    pub has_ids: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    Sent,
    Written,
    Synced,
}

/// An entry that the log has and the partition has not.
#[derive(Debug)]
pub(super) struct Pending {
    entry: Owned,
    /// Who asked for each of its commands; none for the worker itself.
    calls: Vec<Option<u64>>,
    is_os: bool,
    reached: Reached,
}

#[derive(Debug, Default)]
pub(super) struct Worker {
    pub mailbox: VecDeque<Call>,
}

impl World {
    /// Which worker owns a partition.
    pub(super) fn worker_of(&self, partition: usize) -> usize {
        partition % self.workers.len()
    }

    /// A worker does one thing.
    pub(super) fn step_worker(&mut self) -> Result<(), Failure> {
        let worker = self.io.rng.below(self.workers.len());
        if self.io.has_failed && !self.io.is_sabotaged(Sabotage::RetrySync) {
            return self.refuse(worker);
        }
        let count = self.workers.len();
        let owned: Vec<usize> = (worker..self.partitions).step_by(count).collect();
        let number = self.io.rng.pick(&owned);
        match self.io.rng.below(20) {
            0..9 => {
                self.gather(worker);
                Ok(())
            }
            9 => {
                self.maintain(number);
                Ok(())
            }
            _ => {
                self.hear();
                self.apply(number)
            }
        }
    }

    /// After a failure calls are refused, and what is under way stays unanswered.
    fn refuse(&mut self, worker: usize) -> Result<(), Failure> {
        while let Some(call) = self.workers[worker].mailbox.pop_front() {
            self.io.note("call refused after a failure");
            self.answer(call.number, &Reply::Refused(Refusal::StorageFailed))?;
        }
        Ok(())
    }

    fn is_os(&self, call: &Call) -> bool {
        let streams = &self.places[call.partition].model.streams;
        let is_os = |stream: &u32| {
            streams
                .get(stream)
                .is_some_and(|one| one.config.durability == Durability::Os)
        };
        !call.streams.is_empty() && call.streams.iter().all(is_os)
    }

    /// Takes calls from the mailbox and makes an entry for each partition that they are for.
    fn gather(&mut self, worker: usize) {
        let mut entries = BTreeMap::<usize, Vec<Call>>::new();
        let room = self
            .log
            .as_ref()
            .map_or(0, |log| log.inbox_max - log.inbox.len().min(log.inbox_max));
        let most = self.io.rng.within(1..TURN_CALLS_MAX + 1);
        for _ in 0..most {
            let Some(call) = self.workers[worker].mailbox.front() else {
                break;
            };
            let taken = entries.get(&call.partition);
            let bytes = taken
                .iter()
                .flat_map(|calls| calls.iter())
                .map(|one| one.command.len())
                .sum::<usize>();
            if taken.is_none() && entries.len() == room {
                self.io.note("log's mailbox full");
                break;
            }
            if bytes + call.command.len() > self.settings.command_bytes_max {
                self.io.note("entry at its cap");
                break;
            }
            if let Some(call) = self.workers[worker].mailbox.pop_front() {
                entries.entry(call.partition).or_default().push(call);
            }
        }
        for (partition, calls) in entries {
            if calls.len() > 1 {
                self.io.note("several calls in an entry");
            }
            let is_os = calls.iter().all(|call| self.is_os(call));
            let commands = calls.iter().flat_map(|call| call.command.clone()).collect();
            let calls = calls.iter().map(|call| Some(call.number)).collect();
            self.propose(partition, commands, calls, is_os);
        }
    }

    fn propose(
        &mut self,
        partition: usize,
        commands: Vec<u8>,
        calls: Vec<Option<u64>>,
        is_os: bool,
    ) {
        let place = &mut self.places[partition];
        let index = place.next_index;
        place.next_index += 1;
        let entry = Owned {
            partition,
            index,
            wall_ms: self.io.wall_ms,
            commands,
        };
        let pending = Pending {
            entry: entry.clone(),
            calls,
            is_os,
            reached: Reached::Sent,
        };
        place.pending.push_back(pending);
        if let Some(log) = &mut self.log {
            log.inbox.push_back(Proposal { entry, is_os });
        }
    }

    /// Proposes what is due.
    fn maintain(&mut self, number: usize) {
        if !self.log.as_ref().is_some_and(|log| log.has_room()) {
            return;
        }
        let due = self.places[number]
            .partition
            .maintenance(self.io.wall_ms, 4);
        if due.is_empty() {
            return;
        }
        self.io.note("maintenance proposed");
        let mut commands = Vec::new();
        for command in &due {
            push_command(&mut commands, |out| command.write(out));
        }
        self.propose(number, commands, vec![None; due.len()], false);
    }

    fn hear(&mut self) {
        let Some(log) = &mut self.log else {
            return;
        };
        let count = self.io.rng.below(log.told.len() + 1);
        for told in log.told.drain(..count) {
            let (Told::Written(partition, index) | Told::Synced(partition, index)) = told;
            let pending = self.places[partition].pending.iter_mut();
            if let Some(one) = pending.into_iter().find(|one| one.entry.index == index) {
                one.reached = match told {
                    Told::Written(..) => Reached::Written,
                    Told::Synced(..) => Reached::Synced,
                };
            }
        }
    }

    /// Applies entries that the log has, writes their batch, and answers.
    fn apply(&mut self, number: usize) -> Result<(), Failure> {
        let is_early = self.io.is_sabotaged(Sabotage::AcknowledgeBeforeSync);
        let place = &mut self.places[number];
        let is_ready = |one: &&Pending| match one.reached {
            Reached::Sent => false,
            Reached::Written => one.is_os || is_early,
            Reached::Synced => true,
        };
        let ready = place.pending.iter().take_while(is_ready).count();
        if ready == 0 {
            return Ok(());
        }
        let count = self.io.rng.within(1..ready + 1);
        let done: Vec<Pending> = place.pending.drain(..count).collect();
        let entries: Vec<_> = done
            .iter()
            .map(|one| Entry {
                partition: PartitionId(number as u16),
                index: Index(one.entry.index),
                wall_ms: one.entry.wall_ms,
                commands: &one.entry.commands,
            })
            .collect();
        let applied = place.partition.apply(&entries, &self.store);
        let applied = applied.or_else(|error| fail("apply", error.to_string()))?;
        let written = sapwood_state::store::Store::write(&mut self.store, &applied.batch);
        written.or_else(|error| fail("store", error.to_string()))?;
        if count > 1 {
            self.io.note("several entries in a batch");
        }
        let replies: BTreeMap<u64, Vec<Reply>> = applied
            .replies
            .into_iter()
            .map(|(index, replies)| (index.0, replies))
            .collect();
        let told = told_by_events(&applied.events);
        let mut wanted = told_by_replies(replies.values().flatten());
        for one in done {
            if one.reached == Reached::Written {
                self.io.note("applied before the sync");
            }
            self.settle(number, one, &replies)?;
        }
        // Of a stream that is gone nobody needs to hear what it got before.
        let streams = &self.places[number].model.streams;
        let is_there = |(stream, _): &(u32, Change)| streams.contains_key(stream);
        wanted.retain(|one| matches!(one.1, Change::Deleted) || is_there(one));
        let told: Vec<_> = told
            .into_iter()
            .filter(|one| matches!(one.1, Change::Deleted) || is_there(one))
            .collect();
        if told != wanted {
            let text = format!("partition {number} told {told:?}, not {wanted:?}");
            return fail("events", text);
        }
        Ok(())
    }

    /// An entry was applied: its answers must be those of the model.
    fn settle(
        &mut self,
        number: usize,
        one: Pending,
        replies: &BTreeMap<u64, Vec<Reply>>,
    ) -> Result<(), Failure> {
        let index = one.entry.index;
        let wanted = self.places[number]
            .model
            .apply(&one.entry.commands, one.entry.wall_ms);
        let found = replies.get(&index);
        if found != Some(&wanted) {
            let text = format!("entry {index} of partition {number}: {found:?}, not {wanted:?}");
            return fail("answer", text);
        }
        for (call, reply) in one.calls.iter().zip(&wanted) {
            note_reply(&mut self.io, reply);
            let Some(call) = call else {
                continue;
            };
            if self.io.has_failed {
                return fail(
                    "failed",
                    format!("call {call} was acknowledged after a failure"),
                );
            }
            self.history.acknowledge(number, index, one.is_os);
            self.answer(*call, reply)?;
            if let Reply::Appended(appended) = reply
                && let Outcomes::Run { first, count } = appended.outcomes
            {
                for sequence in first.0..first.0 + u64::from(count) {
                    self.see_sequence((number, appended.stream.0, sequence))?;
                }
            }
        }
        Ok(())
    }

    /// A client reads the answer to its call.
    fn answer(&mut self, call: u64, reply: &Reply) -> Result<(), Failure> {
        let Some(of) = self.calls.remove(&call) else {
            return fail(
                "answered",
                format!("call {call} was answered twice: {reply:?}"),
            );
        };
        let mut bytes = Vec::new();
        reply.write(&mut bytes);
        self.trace.number(of.number);
        self.trace.bytes(&bytes);
        self.clients
            .iter_mut()
            .for_each(|client| client.handle_answer(call));
        Ok(())
    }
}

/// What happened to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Stored(u64),
    Configured,
    Deleted,
}

fn told_by_events(events: &[Event]) -> Vec<(u32, Change)> {
    let mut told = Vec::new();
    for event in events {
        match event {
            Event::Appended(stream, first, last) => {
                told.extend((first.0..=last.0).map(|one| (stream.0, Change::Stored(one))));
            }
            Event::Configured(stream, _) => told.push((stream.0, Change::Configured)),
            Event::Deleted(stream) => told.push((stream.0, Change::Deleted)),
        }
    }
    told.sort_unstable();
    told
}

fn told_by_replies<'a>(replies: impl Iterator<Item = &'a Reply>) -> Vec<(u32, Change)> {
    let mut told = Vec::new();
    let store = |one: &Appended| match &one.outcomes {
        Outcomes::Run { first, count } => (first.0..first.0 + u64::from(*count))
            .map(|sequence| (one.stream.0, Change::Stored(sequence)))
            .collect::<Vec<_>>(),
        Outcomes::Each(each) => {
            let stored = each.iter().filter_map(|outcome| match outcome {
                Outcome::Stored(sequence) => Some((one.stream.0, Change::Stored(sequence.0))),
                _ => None,
            });
            stored.collect()
        }
    };
    for reply in replies {
        match reply {
            Reply::Appended(one) => told.extend(store(one)),
            Reply::Batch(parts) => parts.iter().for_each(|one| told.extend(store(one))),
            Reply::Created(stream, Creation::New) | Reply::Updated(stream) => {
                told.push((stream.0, Change::Configured));
            }
            Reply::Deleted(stream, _) => told.push((stream.0, Change::Deleted)),
            _ => {}
        }
    }
    told.sort_unstable();
    told
}

fn note_reply(io: &mut super::io::Io, reply: &Reply) {
    let appended = |outcomes: &Outcomes| match outcomes {
        Outcomes::Run { .. } => "run stored",
        Outcomes::Each(each) if each.iter().any(|one| matches!(one, Outcome::Duplicate(_))) => {
            "duplicate told"
        }
        Outcomes::Each(_) => "message refused",
    };
    io.note(match reply {
        Reply::Created(_, Creation::New) => "stream created",
        Reply::Created(_, Creation::Existing) => "stream created again",
        Reply::Updated(_) => "stream updated",
        Reply::Deleted(..) => "stream deleted",
        Reply::Appended(one) => appended(&one.outcomes),
        Reply::Batch(_) => "batch stored",
        Reply::BatchRefused(..) => "batch refused",
        Reply::Purged(..) => "stream purged",
        Reply::Expired(_, 0, _) => "nothing expired",
        Reply::Expired(..) => "messages expired",
        Reply::Pruned(_) => "ids pruned",
        Reply::Refused(_) => "call refused",
        Reply::MessageDeleted(_) => "message deleted",
        Reply::Raised => "sequences raised",
    });
}
