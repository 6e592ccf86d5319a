//! Workers: they drive `sapwood_state::worker::Worker` between mailboxes, the log and the store, and hold what it does
//! against the model.
//!
//! Must not know how the log writes. Invariants that are checked: nothing is applied before the log has it durably, or
//! has written it where the whole entry is of `os` streams; every call is answered once, with what the model says of its
//! messages; filters of two workers never meet, and nothing is acknowledged after a failure. Start at
//! [`World::step_worker`].

use super::Sabotage;
use super::client::Draft;
use super::history::Owned;
use super::log_thread::{Proposal, Told};
use super::world::World;
use crate::{Failure, fail};
use sapwood_state::partition::Partition;
use sapwood_state::worker::{ChangeNumber, LogNews, Output, Part, Tag, Worker as Machine};
use sapwood_wire::state::*;
use sapwood_wire::topic::wildcards_overlap;
use std::collections::{BTreeMap, VecDeque};

/// Calls that a worker takes in a turn.
const TURN_CALLS_MAX: usize = 12;

/// What a client asked for.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub number: u64,
    pub worker: usize,
    pub asked: Asked,
    /// Numbers of the messages that it brings.
    pub messages: Vec<u64>,
    pub has_ids: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// Messages for a stream.
    Append(Vec<u8>),
    /// Messages in a batch.
    Batch(Vec<u8>),
    /// A stream is made, changed, or messages of it removed, in this partition.
    Control(usize, Vec<u8>),
    /// A page of a stream of this partition.
    Read(usize, Vec<u8>),
    /// Messages that were published, and nobody asks what became of them.
    Unasked(Vec<Draft>),
    /// Messages that were published, and somebody asks.
    Captured(Vec<Draft>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    Sent,
    Written,
    Synced,
}

/// An entry that the log was offered and the partition has not applied.
#[derive(Debug)]
pub(super) struct Pending {
    entry: Owned,
    is_os: bool,
    reached: Reached,
}

/// What the model says became of a message.
#[derive(Clone, Debug)]
pub(super) struct Done {
    outcome: Outcome,
    /// Empty if the stream was gone.
    name: Vec<u8>,
    is_os: bool,
    place: (usize, u64),
    stream: u32,
}

/// What the model says of calls that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Expected {
    messages: BTreeMap<u64, Done>,
    /// By the first message.
    batches: BTreeMap<u64, (Reply, bool, (usize, u64))>,
    controls: BTreeMap<u64, (Reply, (usize, u64))>,
}

/// A change, with the filters that begin and those that end.
type Change = (ChangeNumber, Vec<Vec<u8>>, Vec<Vec<u8>>);

#[derive(Debug, Default)]
pub(super) struct Worker {
    pub mailbox: VecDeque<Call>,
    pub machine: Option<Machine>,
    /// Proposals for which the log has no room.
    held: VecDeque<Proposal>,
    /// Changes that the shards do not know yet.
    changes: VecDeque<Change>,
    /// What the shards send here.
    pub interest: Vec<Vec<u8>>,
    news: LogNews,
}

impl Worker {
    /// One that has just begun.
    pub fn driving(machine: Machine) -> Worker {
        Worker {
            machine: Some(machine),
            ..Worker::default()
        }
    }

    /// The process is gone.
    pub fn forget(&mut self) {
        *self = Worker::default();
    }
}

impl World {
    /// Which worker owns a partition.
    pub(super) fn worker_of(&self, partition: usize) -> usize {
        partition % self.workers.len()
    }

    /// A partition of a worker.
    pub(super) fn partition(&self, worker: usize, number: usize) -> &Partition {
        let machine = self.workers[worker].machine.as_ref();
        let mut owned = machine.iter().flat_map(|machine| machine.owned());
        let found = owned.find(|one| usize::from(one.id().0) == number);
        // invariant: it is asked for between a start and a crash, of the worker that owns it.
        found.expect("it is owned")
    }

    /// A worker does one thing.
    pub(super) fn step_worker(&mut self) -> Result<(), Failure> {
        let worker = self.io.rng.below(self.workers.len());
        if self.workers[worker].machine.is_none() {
            return Ok(());
        }
        if self.io.has_failed && !self.io.is_sabotaged(Sabotage::RetrySync) {
            self.machine(worker).fail();
            self.take_answers(worker)?;
        }
        match self.io.rng.below(20) {
            0..8 => self.gather(worker)?,
            8 => {
                let wall_ms = self.io.wall_ms;
                self.machine(worker).handle_clock(wall_ms);
                self.end_turn(worker);
            }
            9..11 => self.tell_shards(worker)?,
            11..13 => self.answer_reads(worker)?,
            _ => {
                self.hear();
                self.apply(worker)?;
            }
        }
        self.take_answers(worker)
    }

    pub(super) fn machine(&mut self, worker: usize) -> &mut Machine {
        // invariant: it is asked for between a start and a crash.
        self.workers[worker].machine.as_mut().expect("it runs")
    }

    /// Takes calls from the mailbox.
    fn gather(&mut self, worker: usize) -> Result<(), Failure> {
        let wall_ms = self.io.wall_ms;
        self.machine(worker).handle_clock(wall_ms);
        let most = self.io.rng.within(1..TURN_CALLS_MAX + 1);
        for _ in 0..most {
            if !self.workers[worker].held.is_empty() && !self.io.has_failed {
                self.io.note("log's mailbox full");
                break;
            }
            if self.machine(worker).is_full() {
                self.io.note("worker full");
                break;
            }
            let Some(call) = self.workers[worker].mailbox.pop_front() else {
                break;
            };
            self.take_in(worker, call)?;
        }
        self.end_turn(worker);
        Ok(())
    }

    fn take_in(&mut self, worker: usize, call: Call) -> Result<(), Failure> {
        let tag = Tag(call.number);
        let machine = self.machine(worker);
        match &call.asked {
            Asked::Append(bytes) | Asked::Batch(bytes) | Asked::Read(_, bytes) => {
                machine.handle_request(tag, bytes);
            }
            Asked::Unasked(drafts) => {
                machine.capture(drafts.iter().map(Draft::as_message), None);
            }
            Asked::Captured(drafts) => {
                machine.capture(drafts.iter().map(Draft::as_message), Some(tag));
            }
            Asked::Control(partition, bytes) => {
                machine.handle_request(tag, bytes);
                self.places[*partition].controls.push_back(call.number);
            }
        }
        self.take_answers(worker)?;
        // What was answered at the door brings no command.
        if let Asked::Control(partition, _) = call.asked
            && !self.calls.contains_key(&call.number)
        {
            self.places[partition].controls.pop_back();
        }
        Ok(())
    }

    fn end_turn(&mut self, worker: usize) {
        self.machine(worker).end_turn();
        let mut partitions = Vec::new();
        while let Some(proposal) = self.machine(worker).poll_proposal() {
            let partition = usize::from(proposal.partition.0);
            if partitions.contains(&partition) {
                self.io.note("entry at its cap");
            }
            partitions.push(partition);
            let commands = Commands::new(&proposal.commands);
            if commands.count() > 1 {
                self.io.note("several commands in an entry");
            }
            let entry = Owned {
                partition,
                index: proposal.index.0,
                wall_ms: proposal.wall_ms,
                commands: proposal.commands.to_vec(),
            };
            let is_os = proposal.durability == Durability::Os;
            let place = &mut self.places[partition];
            place.numbers.insert(entry.index, proposal.number);
            place.pending.push_back(Pending {
                entry: entry.clone(),
                is_os,
                reached: Reached::Sent,
            });
            self.workers[worker]
                .held
                .push_back(Proposal { entry, is_os });
        }
        let Some(log) = &mut self.log else {
            return;
        };
        while log.has_room()
            && let Some(proposal) = self.workers[worker].held.pop_front()
        {
            log.inbox.push_back(proposal);
        }
    }

    /// The shards hear of a change, and the worker that they did.
    fn tell_shards(&mut self, worker: usize) -> Result<(), Failure> {
        let of = &mut self.workers[worker];
        let Some((change, added, removed)) = of.changes.pop_front() else {
            return Ok(());
        };
        of.interest.retain(|one| !removed.contains(one));
        of.interest.extend(added.iter().cloned());
        self.machine(worker).handle_known(change);
        let others = self
            .workers
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != worker);
        for other in others.flat_map(|(_, one)| &one.interest) {
            if let Some(filter) = added.iter().find(|one| wildcards_overlap(one, other)) {
                let text = format!("{filter:?} and {other:?} are of two workers");
                return fail("filters", text);
            }
        }
        self.io.note("shards told of filters");
        Ok(())
    }

    fn answer_reads(&mut self, worker: usize) -> Result<(), Failure> {
        let wall_ms = self.io.wall_ms;
        self.machine(worker).handle_clock(wall_ms);
        for _ in 0..self.io.rng.within(1..4) {
            let machine = self.workers[worker].machine.as_mut();
            // invariant: as in `machine`.
            let read = machine.expect("it runs").read(&self.store);
            read.or_else(|error| fail("store", error.to_string()))?;
            self.take_answers(worker)?;
        }
        Ok(())
    }

    fn hear(&mut self) {
        let Some(log) = &mut self.log else {
            return;
        };
        let is_early = self.io.is_sabotaged(Sabotage::AcknowledgeBeforeSync);
        let count = self.io.rng.below(log.told.len() + 1);
        for told in log.told.drain(..count) {
            let (Told::Written(partition, index) | Told::Synced(partition, index)) = told;
            let reached = match told {
                Told::Written(..) => Reached::Written,
                Told::Synced(..) => Reached::Synced,
            };
            let place = &mut self.places[partition];
            let pending = place.pending.iter_mut();
            if let Some(one) = pending.into_iter().find(|one| one.entry.index == index) {
                one.reached = reached;
            }
            let number = place.numbers.get(&index).copied().unwrap_or(0);
            let worker = partition % self.workers.len();
            let news = &mut self.workers[worker].news;
            news.written = news.written.max(number);
            if is_early || reached == Reached::Synced {
                news.synced = news.synced.max(number);
            }
        }
    }

    /// Applies entries that the log has, and holds them against the model.
    fn apply(&mut self, worker: usize) -> Result<(), Failure> {
        let news = self.workers[worker].news;
        let count = self.workers.len();
        let owned: Vec<usize> = (worker..self.partitions).step_by(count).collect();
        let machine = self.workers[worker].machine.as_mut();
        let machine = machine.expect("it runs"); // invariant: as in `machine`.
        machine.handle_news(news);
        let applied = machine.apply(&mut self.store);
        applied.or_else(|error| fail("apply", error.to_string()))?;
        let outputs: Vec<_> = std::iter::from_fn(|| machine.poll_output()).collect();
        let mut stored = Vec::new();
        for output in outputs {
            match output {
                Output::Filters {
                    change,
                    added,
                    removed,
                } => {
                    let change = (change, added, removed);
                    self.workers[worker].changes.push_back(change);
                }
                Output::Stored {
                    partition,
                    stream,
                    first,
                    last,
                } => {
                    let of = usize::from(partition.0);
                    stored.extend((first.0..=last.0).map(|one| (of, stream.0, one)));
                }
            }
        }
        let mut wanted = Vec::new();
        for number in owned {
            self.settle(worker, number, &mut wanted)?;
        }
        // Of a stream that is gone nobody needs to hear what it got before.
        let places = &self.places;
        let is_there =
            |(of, stream, _): &(usize, u32, u64)| places[*of].model.streams.contains_key(stream);
        stored.retain(is_there);
        wanted.retain(is_there);
        stored.sort_unstable();
        wanted.sort_unstable();
        if stored != wanted {
            return fail("events", format!("{stored:?} were told, not {wanted:?}"));
        }
        Ok(())
    }

    /// A partition's entries that were applied, held against the model. Notes the messages that were stored.
    fn settle(
        &mut self,
        worker: usize,
        number: usize,
        stored: &mut Vec<(usize, u32, u64)>,
    ) -> Result<(), Failure> {
        let applied = self.partition(worker, number).applied().0;
        let is_early = self.io.is_sabotaged(Sabotage::AcknowledgeBeforeSync);
        let mut entries = 0;
        // Ends with the first that is not applied.
        while self.places[number]
            .pending
            .front()
            .is_some_and(|one| one.entry.index <= applied)
            && let Some(one) = self.places[number].pending.pop_front()
        {
            entries += 1;
            if one.reached == Reached::Written {
                self.io.note("applied before the sync");
            }
            let may_be = match one.reached {
                Reached::Sent => false,
                Reached::Written => one.is_os || is_early,
                Reached::Synced => true,
            };
            if !may_be {
                return fail(
                    "applied early",
                    format!("{:?} of partition {number}", one.entry),
                );
            }
            if one.is_os {
                self.check_os(number, &one.entry)?;
            }
            self.apply_to_model(number, &one, stored)?;
        }
        if entries > 1 {
            self.io.note("several entries in a batch");
        }
        match self.places[number].model.applied == applied {
            true => Ok(()),
            false => fail(
                "applied",
                format!("partition {number} has {applied} of a log without it"),
            ),
        }
    }

    /// Nothing in an entry that is applied before its sync may wait for one.
    fn check_os(&self, number: usize, entry: &Owned) -> Result<(), Failure> {
        let streams = &self.places[number].model.streams;
        let is_os = |stream: StreamNumber| {
            let of = streams.get(&stream.0);
            of.is_none_or(|one| one.config.durability == Durability::Os)
        };
        for command in Commands::new(&entry.commands) {
            let may_be = match command {
                Ok(Command::Append(append)) => is_os(append.stream),
                Ok(Command::Batch(mut batch)) => batch.all(|append| is_os(append.stream)),
                Ok(
                    Command::ExpireAge(stream, _)
                    | Command::ExpireTtl(stream, _)
                    | Command::PruneIds(stream),
                ) => is_os(stream),
                _ => false,
            };
            if !may_be {
                return fail(
                    "durability",
                    format!("{entry:?} was not to wait for its sync"),
                );
            }
        }
        Ok(())
    }

    fn apply_to_model(
        &mut self,
        number: usize,
        one: &Pending,
        stored: &mut Vec<(usize, u32, u64)>,
    ) -> Result<(), Failure> {
        let model = &mut self.places[number].model;
        let names: BTreeMap<u32, Vec<u8>> = model
            .streams
            .iter()
            .map(|(stream, of)| (*stream, of.config.name.clone()))
            .collect();
        let replies = model.apply(&one.entry.commands, one.entry.wall_ms);
        let place = (number, one.entry.index);
        for (command, reply) in Commands::new(&one.entry.commands).zip(replies) {
            note_reply(&mut self.io, &reply);
            let command = command.or_else(|error| fail("log", error.to_string()))?;
            match command {
                Command::Append(append) => {
                    let outcomes = match &reply {
                        Reply::Appended(appended) => each(&appended.outcomes),
                        Reply::Refused(refusal) => {
                            let count = append.messages.remaining() as usize;
                            vec![Outcome::Refused(*refusal); count]
                        }
                        other => return fail("model", format!("{other:?}")),
                    };
                    let stream = append.stream.0;
                    stored.extend(stored_of(&outcomes).map(|one| (number, stream, one)));
                    let name = names.get(&stream).cloned().unwrap_or_default();
                    for (message, outcome) in append.messages.zip(outcomes) {
                        let done = Done {
                            outcome,
                            name: name.clone(),
                            is_os: one.is_os,
                            place,
                            stream,
                        };
                        self.expected.messages.insert(number_of(message.body), done);
                    }
                }
                Command::Batch(mut batch) => {
                    if let Reply::Batch(parts) = &reply {
                        for part in parts {
                            let outcomes = each(&part.outcomes);
                            let of = part.stream.0;
                            stored.extend(stored_of(&outcomes).map(|one| (number, of, one)));
                        }
                    }
                    let first = batch.next().and_then(|mut append| append.messages.next());
                    let first = first.map_or(0, |message| number_of(message.body));
                    self.expected
                        .batches
                        .insert(first, (reply, one.is_os, place));
                }
                Command::ExpireAge(..) | Command::ExpireTtl(..) | Command::PruneIds(_) => {
                    self.io.note("maintenance proposed")
                }
                Command::RaiseOs(_) => {}
                _ => match self.places[number].controls.pop_front() {
                    Some(call) => {
                        self.expected.controls.insert(call, (reply, place));
                    }
                    None => return fail("log", format!("nobody asked for {reply:?}")),
                },
            }
        }
        Ok(())
    }

    fn take_answers(&mut self, worker: usize) -> Result<(), Failure> {
        let mut taken = Vec::new();
        self.machine(worker)
            .take_answers(|tag, bytes, part| taken.push((tag.0, bytes.to_vec(), part)));
        for (call, bytes, part) in taken {
            self.trace.number(call);
            self.trace.bytes(&bytes);
            let answer = match Answer::read(&bytes) {
                Ok(answer) => answer,
                Err(error) => return fail("answer", format!("of call {call}: {error}")),
            };
            let Some(of) = self.calls.get(&call).cloned() else {
                return fail(
                    "answered",
                    format!("call {call} was answered twice: {answer:?}"),
                );
            };
            self.check_answer(&of, &answer)?;
            if part == Part::More {
                self.io.note("answer in parts");
                continue;
            }
            self.calls.remove(&call);
            if is_unknown(&answer) {
                self.unknown.push(of);
            }
            self.clients
                .iter_mut()
                .for_each(|client| client.handle_answer(call));
        }
        Ok(())
    }

    fn check_answer(&mut self, call: &Call, answer: &Answer) -> Result<(), Failure> {
        if self.io.has_failed && is_acknowledged(answer) {
            let text = format!("call {} was acknowledged after a failure", call.number);
            return fail("failed", text);
        }
        match (answer, &call.asked) {
            (Answer::Stored(stored), _) => self.check_stored(call, stored),
            (Answer::Refused(refusal, _), _) => self.check_refused(call, *refusal),
            (_, Asked::Batch(_)) => self.check_batch(call, answer),
            (_, Asked::Control(..)) => self.check_control(call, answer),
            (Answer::Page(page), Asked::Read(partition, bytes)) => {
                self.check_page(*partition, bytes, page)
            }
            _ => fail("answer", format!("{answer:?} of {call:?}")),
        }
    }

    /// Some of a call's messages must have become what the model says.
    fn check_stored(&mut self, call: &Call, stored: &Stored) -> Result<(), Failure> {
        let outcomes = each(&stored.outcomes.outcomes);
        let from = stored.position as usize;
        let Some(messages) = call.messages.get(from..from + outcomes.len()) else {
            return fail("answer", format!("{stored:?} of {call:?}"));
        };
        for (message, outcome) in messages.iter().zip(outcomes) {
            if let Outcome::Refused(Refusal::Unknown | Refusal::StorageFailed) = outcome
                && self.io.has_failed
            {
                self.io.note("call refused after a failure");
                continue;
            }
            if stored.stream.is_empty() && outcome == Outcome::Refused(Refusal::NoStream) {
                self.io.note("topic that nobody keeps");
                continue;
            }
            let Some(done) = self.expected.messages.remove(message) else {
                let text = format!("message {message} became {outcome:?}, and is in no entry");
                return fail("answer", text);
            };
            let is_os = stored.durability == Durability::Os;
            let is_refused = matches!(outcome, Outcome::Refused(_));
            let is_it = outcome == done.outcome
                && (stored.stream == done.name || done.name.is_empty())
                && (is_refused || is_os == done.is_os);
            if !is_it {
                let text = format!("message {message}: {stored:?}, not {done:?}");
                return fail("answer", text);
            }
            if let Outcome::Stored(sequence) = outcome {
                self.history
                    .acknowledge(done.place.0, done.place.1, done.is_os);
                self.see_sequence((done.place.0, done.stream, sequence.0))?;
            } else if let Outcome::Duplicate(_) = outcome {
                self.history
                    .acknowledge(done.place.0, done.place.1, done.is_os);
            }
        }
        if let Asked::Captured(_) = call.asked {
            self.io.note("publish answered");
        }
        Ok(())
    }

    /// The whole of a call was refused.
    fn check_refused(&mut self, call: &Call, refusal: Refusal) -> Result<(), Failure> {
        if self.io.has_failed && matches!(refusal, Refusal::Unknown | Refusal::StorageFailed) {
            self.io.note("call refused after a failure");
            return Ok(());
        }
        if let Some((reply, _)) = self.expected.controls.remove(&call.number) {
            return match reply {
                Reply::Refused(wanted) if wanted == refusal => Ok(()),
                wanted => fail("answer", format!("{refusal:?}, not {wanted:?}")),
            };
        }
        self.io.note("call refused at the door");
        match refusal {
            Refusal::NoStream | Refusal::BatchSpans | Refusal::TooLarge(_) => Ok(()),
            Refusal::FiltersTaken(_) => {
                self.io.note("filters taken");
                Ok(())
            }
            _ => fail("answer", format!("{refusal:?} of {call:?}")),
        }
    }

    fn check_batch(&mut self, call: &Call, answer: &Answer) -> Result<(), Failure> {
        let first = call.messages.first().copied().unwrap_or(0);
        let Some((reply, is_os, place)) = self.expected.batches.remove(&first) else {
            return match answer {
                // One of its streams is not there, or keeps nothing of the kind.
                Answer::BatchRefused(_, Refusal::NoStream) => Ok(()),
                _ => fail(
                    "answer",
                    format!("{answer:?} of {call:?}, which is in no entry"),
                ),
            };
        };
        let is_it = match (answer, &reply) {
            (Answer::BatchStored(durability, parts), Reply::Batch(wanted)) => {
                (*durability == Durability::Os) == is_os
                    && parts.iter().map(|part| &part.outcomes).eq(wanted)
            }
            (Answer::BatchRefused(at, refusal), Reply::BatchRefused(position, wanted)) => {
                at == position && refusal == wanted
            }
            _ => false,
        };
        if !is_it {
            return fail("answer", format!("{answer:?}, not {reply:?}"));
        }
        if let Reply::Batch(_) = reply {
            self.history.acknowledge(place.0, place.1, is_os);
        }
        Ok(())
    }

    fn check_control(&mut self, call: &Call, answer: &Answer) -> Result<(), Failure> {
        let Some((reply, place)) = self.expected.controls.remove(&call.number) else {
            let text = format!("{answer:?} of {call:?}, which is in no entry");
            return fail("answer", text);
        };
        let is_it = match (answer, &reply) {
            (Answer::Created(creation), Reply::Created(_, wanted)) => creation == wanted,
            (Answer::Updated, Reply::Updated(_))
            | (Answer::MessageDeleted, Reply::MessageDeleted(_)) => true,
            (Answer::Deleted(count), Reply::Deleted(_, wanted))
            | (Answer::Purged(count), Reply::Purged(_, wanted, None)) => count == wanted,
            _ => false,
        };
        if !is_it {
            return fail("answer", format!("{answer:?}, not {reply:?}"));
        }
        self.history.acknowledge(place.0, place.1, false);
        Ok(())
    }
}

/// The number that every body begins with.
fn number_of(body: &[u8]) -> u64 {
    let digits = body.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

fn each(outcomes: &Outcomes) -> Vec<Outcome> {
    match outcomes {
        Outcomes::Run { first, count } => (first.0..first.0 + u64::from(*count))
            .map(|one| Outcome::Stored(Sequence(one)))
            .collect(),
        Outcomes::Each(each) => each.clone(),
    }
}

fn stored_of(outcomes: &[Outcome]) -> impl Iterator<Item = u64> {
    outcomes.iter().filter_map(|one| match one {
        Outcome::Stored(sequence) => Some(sequence.0),
        _ => None,
    })
}

fn is_unknown(answer: &Answer) -> bool {
    match answer {
        Answer::Stored(stored) => {
            each(&stored.outcomes.outcomes).contains(&Outcome::Refused(Refusal::Unknown))
        }
        Answer::Refused(refusal, _) => *refusal == Refusal::Unknown,
        _ => false,
    }
}

/// Whether an answer says that something was changed.
fn is_acknowledged(answer: &Answer) -> bool {
    match answer {
        Answer::Stored(stored) => each(&stored.outcomes.outcomes)
            .iter()
            .any(|one| !matches!(one, Outcome::Refused(_))),
        Answer::Refused(..) | Answer::BatchRefused(..) | Answer::Page(_) => false,
        _ => true,
    }
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
