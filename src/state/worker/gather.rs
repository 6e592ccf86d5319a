//! The way in: messages and commands become entries.
//!
//! Owns what a turn has gathered for each partition. Messages for one stream go into one append command, straight from
//! the mailbox into its buffer; commands of other kinds close those that are open before them, so that all that is asked
//! of a stream keeps its order. Start at [`Worker::capture`].

use super::streams::Key;
use super::{InFlight, Part, Tag, Worker};
use crate::filters::Reservation;
use crate::limits::{OS_RAISE, SPARE_BUFFER_BYTES_MAX, SPARE_BUFFERS_MAX};
use crate::log::Index;
use sapwood_wire::limits::{
    MESSAGE_HEADERS_BYTES_MAX, MESSAGE_ID_BYTES_MAX, STATE_REQUEST_BYTES_MAX,
    STORED_BODY_BYTES_MAX, TOPIC_BYTES_MAX,
};
use sapwood_wire::state::{
    Answer, AppendBuffer, AppendTo, Appended, Ask, BatchTo, BatchWriter, Command, Durability,
    Message, Outcome, Outcomes, Purge, PurgeOf, Refusal, Request, Sequence, Stored, StreamConfig,
    StreamNumber, partition_of, push_command,
};
use std::sync::Arc;

/// The shortest form of a message in a command: flags and the length of its body.
const MESSAGE_BYTES_MIN: usize = 5;

/// What an append takes before its messages: lengths, version, kind, stream, count.
const APPEND_BYTES: usize = 14;

/// Who asked for a command.
#[derive(Debug)]
pub(super) enum Origin {
    Append(AppendOrigin),
    Batch(Tag, Vec<Arc<[u8]>>),
    Create(Changing),
    Update(Changing, Key),
    Delete(Tag, Key),
    Purge(Purging),
    DeleteMessage(Tag),
    Maintenance,
    Raise,
}

/// Messages that became one append.
#[derive(Debug)]
pub(super) struct AppendOrigin {
    pub name: Arc<[u8]>,
    pub messages: u32,
    /// Who is to be told of which of them, in order. Of the others nobody hears.
    pub told: Vec<Told>,
}

/// Somebody who is to be told of a range of an append's messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub tag: Tag,
    /// Which message of what was asked for the first is.
    pub position: u32,
    /// Which message of the command it is.
    pub first: u32,
    pub count: u32,
}

/// A stream that is made or changed.
#[derive(Debug)]
pub(super) struct Changing {
    pub tag: Tag,
    pub config: Arc<StreamConfig>,
    pub name: Arc<[u8]>,
    pub reservation: Reservation,
}

/// A purge, which may take several commands.
#[derive(Debug)]
pub(super) struct Purging {
    pub tag: Tag,
    pub stream: StreamNumber,
    pub filter: Option<Vec<u8>>,
    /// Messages that are gone already.
    pub gone: u64,
}

/// An append that grows.
#[derive(Debug)]
struct Open {
    key: Key,
    stream: StreamNumber,
    buffer: AppendBuffer,
    origin: AppendOrigin,
}

/// What a partition has gathered in this turn.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    commands: Vec<u8>,
    /// One for each of the commands.
    origins: Vec<Origin>,
    open: Vec<Open>,
    /// What both take.
    bytes: usize,
    /// Something waits for the sync.
    needs_sync: bool,
}

impl Gathering {
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty() && self.open.is_empty()
    }

    pub fn into_origins(self) -> impl Iterator<Item = Origin> {
        let open = self.open.into_iter().map(|one| Origin::Append(one.origin));
        self.origins.into_iter().chain(open)
    }
}

/// A request while its messages are taken in.
struct Taking {
    tag: Option<Tag>,
    /// The message that comes.
    position: u32,
    /// Answers that will come.
    parts: u32,
    /// The last messages, which were refused at the door.
    refused: Vec<Outcome>,
}

impl Worker {
    /// Takes in messages that were published next to each other; each goes to the stream that keeps its topic. With a tag
    /// they are answered, in parts if they go to several streams or entries. Without one what is refused is counted.
    ///
    /// The driver asks [`Worker::is_full`] before. Cost: a copy, and a look-up where the topic changes.
    pub fn capture<'m>(&mut self, messages: impl Iterator<Item = Message<'m>>, tag: Option<Tag>) {
        self.take_messages(None, messages, tag);
    }

    /// Takes in a request; see [`Request`]. Whatever it is, it is answered.
    pub fn handle_request(&mut self, tag: Tag, bytes: &[u8]) {
        let cap = STATE_REQUEST_BYTES_MAX;
        if bytes.len() > cap {
            return self.refuse_tag(tag, Refusal::TooLarge(cap as u32), &[]);
        }
        let Ok(request) = Request::read(bytes) else {
            return self.refuse_tag(tag, Refusal::RequestInvalid, &[]);
        };
        let is_read = matches!(
            request.ask,
            Ask::Info(_) | Ask::List(_) | Ask::Get(..) | Ask::Read(_) | Ask::Wait(_)
        );
        if is_read {
            return self.open_read(tag, &request, bytes);
        }
        if self.has_failed {
            return self.refuse_tag(tag, Refusal::StorageFailed, &[]);
        }
        match request.ask {
            Ask::Append(append) => self.append(tag, &append),
            Ask::Batch(batch) => self.batch(tag, batch),
            Ask::Create(config) => self.create(tag, config),
            Ask::Update(config) => self.update(tag, config),
            Ask::Delete(stream) => self.delete(tag, stream),
            Ask::Purge(purge) => self.purge(tag, &purge),
            Ask::DeleteMessage(stream, sequence) => self.delete_message(tag, stream, sequence),
            Ask::Info(_) | Ask::List(_) | Ask::Get(..) | Ask::Read(_) | Ask::Wait(_) => {}
        }
    }

    fn append(&mut self, tag: Tag, append: &AppendTo) {
        let messages = append.messages;
        if messages.remaining() == 0 {
            return self.refuse_tag(tag, Refusal::RequestInvalid, &[]);
        }
        match append.stream {
            None => self.take_messages(None, messages, Some(tag)),
            Some(name) => match self.streams.named(name) {
                Some(key) => self.take_messages(Some(key), messages, Some(tag)),
                None => self.refuse_tag(tag, Refusal::NoStream, &[]),
            },
        }
    }

    fn take_messages<'m>(
        &mut self,
        stream: Option<Key>,
        messages: impl Iterator<Item = Message<'m>>,
        tag: Option<Tag>,
    ) {
        let mut taking = Taking {
            tag,
            position: 0,
            parts: 0,
            refused: Vec::new(),
        };
        for message in messages {
            match self.admit(stream, &message) {
                Ok(key) => {
                    self.tell_refused(&mut taking, Part::More);
                    self.push_message(key, &message, &mut taking);
                }
                Err(refusal) => {
                    self.counters.refused[usize::from(refusal.code())] += 1;
                    if tag.is_some() {
                        taking.refused.push(Outcome::Refused(refusal));
                    }
                }
            }
            taking.position += 1;
        }
        let last = if taking.parts == 0 {
            Part::Last
        } else {
            Part::More
        };
        self.tell_refused(&mut taking, last);
        if let Some(tag) = tag
            && taking.parts > 1
        {
            self.parts.insert(tag, taking.parts);
        }
    }

    /// What can be said of a message without its stream's state.
    fn admit(&mut self, stream: Option<Key>, message: &Message) -> Result<Key, Refusal> {
        if self.has_failed {
            return Err(Refusal::StorageFailed);
        }
        check_lengths(message)?;
        if APPEND_BYTES + message.encoded_bytes_max() > self.entry_bytes_max {
            return Err(Refusal::TooLarge(self.entry_bytes_max as u32));
        }
        stream
            .or_else(|| self.streams.keeper_of(message.topic))
            .ok_or(Refusal::NoStream)
    }

    /// Answers for the messages that were refused at the door, which stand next to each other.
    fn tell_refused(&mut self, taking: &mut Taking, part: Part) {
        let count = taking.refused.len() as u32;
        let Some(tag) = taking.tag.filter(|_| count > 0) else {
            return;
        };
        let outcomes = Outcomes::Each(std::mem::take(&mut taking.refused));
        let answer = Answer::Stored(Stored {
            stream: &[],
            position: taking.position - count,
            durability: Durability::Fsync,
            outcomes: Appended {
                stream: StreamNumber(0),
                outcomes,
            },
        });
        self.answers.push(tag, part, &answer);
    }

    fn push_message(&mut self, key: Key, message: &Message, taking: &mut Taking) {
        let slot = self.streams.of(key).slot;
        let needed = APPEND_BYTES + message.encoded_bytes_max();
        if self.places[slot].gathering.bytes + needed > self.entry_bytes_max {
            self.close_entry(slot);
        }
        let at = match self.streams.of(key).open {
            Some(at) => at,
            None => self.open_append(key),
        };
        let gathering = &mut self.places[slot].gathering;
        let open = &mut gathering.open[at];
        let before = open.buffer.entry_bytes();
        open.buffer.push(message);
        let grown = open.buffer.entry_bytes() - before;
        gathering.bytes += grown;
        self.taken_bytes += grown;
        let origin = &mut open.origin;
        let first = origin.messages;
        origin.messages += 1;
        let Some(tag) = taking.tag else {
            return;
        };
        if let Some(last) = origin.told.last_mut()
            && last.tag == tag
            && last.position + last.count == taking.position
            && last.first + last.count == first
        {
            last.count += 1;
            return;
        }
        taking.parts += 1;
        origin.told.push(Told {
            tag,
            position: taking.position,
            first,
            count: 1,
        });
    }

    fn open_append(&mut self, key: Key) -> usize {
        let buffer = self.spare.pop().unwrap_or_default();
        let known = self.streams.of_mut(key);
        let gathering = &mut self.places[known.slot].gathering;
        gathering.needs_sync |= !known.is_os();
        let open = Open {
            key,
            stream: known.number,
            buffer: AppendBuffer::new(buffer, known.number),
            origin: AppendOrigin {
                name: known.name.clone(),
                messages: 0,
                told: Vec::new(),
            },
        };
        let bytes = open.buffer.entry_bytes();
        gathering.bytes += bytes;
        gathering.open.push(open);
        known.open = Some(gathering.open.len() - 1);
        self.taken_bytes += bytes;
        self.taken_commands += 1;
        gathering.open.len() - 1
    }

    /// Puts the appends that are open behind the other commands.
    fn close_appends(&mut self, slot: usize) {
        let gathering = &mut self.places[slot].gathering;
        for open in gathering.open.drain(..) {
            // The stream may be gone, and its key another's.
            if self.streams.numbered(slot, open.stream, &open.origin.name) == Some(open.key) {
                self.streams.of_mut(open.key).open = None;
            }
            let mut bytes = open.buffer.finish();
            if gathering.commands.is_empty() {
                std::mem::swap(&mut gathering.commands, &mut bytes);
            } else {
                gathering.commands.extend_from_slice(&bytes);
            }
            keep_buffer(&mut self.spare, bytes);
            gathering.origins.push(Origin::Append(open.origin));
        }
    }

    /// Adds a command behind all that was gathered. Its stream's durability does not count: it waits for the sync, but for
    /// maintenance of `os` streams.
    pub(super) fn gather(&mut self, slot: usize, command: &Command, origin: Origin) {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        push_command(&mut bytes, |out| command.write(out));
        let needs_sync = match (&origin, command) {
            (
                Origin::Maintenance,
                Command::ExpireAge(number, _)
                | Command::ExpireTtl(number, _)
                | Command::PruneIds(number),
            ) => self.places[slot].partition.config(*number).durability == Durability::Fsync,
            _ => true,
        };
        self.gather_bytes(slot, &bytes, origin, needs_sync);
        keep_buffer(&mut self.spare, bytes);
    }

    fn gather_bytes(&mut self, slot: usize, bytes: &[u8], origin: Origin, needs_sync: bool) {
        if self.places[slot].gathering.bytes + bytes.len() > self.entry_bytes_max {
            self.close_entry(slot);
        }
        self.close_appends(slot);
        let gathering = &mut self.places[slot].gathering;
        gathering.commands.extend_from_slice(bytes);
        gathering.origins.push(origin);
        gathering.needs_sync |= needs_sync;
        gathering.bytes += bytes.len();
        self.taken_bytes += bytes.len();
        self.taken_commands += 1;
    }

    /// Proposes what a partition has gathered.
    pub(super) fn close_entry(&mut self, slot: usize) {
        if self.places[slot].gathering.is_empty() {
            return;
        }
        self.close_appends(slot);
        let place = &mut self.places[slot];
        let gathering = std::mem::take(&mut place.gathering);
        assert_eq!(gathering.bytes, gathering.commands.len());
        self.number += 1;
        let entry = InFlight {
            number: self.number,
            index: place.next_index,
            wall_ms: self.wall_ms,
            commands: Arc::new(gathering.commands),
            durability: match gathering.needs_sync {
                true => Durability::Fsync,
                false => Durability::Os,
            },
            origins: gathering.origins,
        };
        place.next_index += 1;
        if entry.durability == Durability::Os {
            self.unsynced.push_back((self.number, entry.commands.len()));
            self.unsynced_bytes += entry.commands.len();
            // What a power cut may take is less than an unclean start raises sequences by.
            assert!(((self.unsynced_bytes / MESSAGE_BYTES_MIN) as u64) < OS_RAISE);
        }
        self.proposals.push_back(super::Proposal {
            worker: self.id,
            number: entry.number,
            partition: place.partition.id(),
            index: Index(entry.index),
            wall_ms: entry.wall_ms,
            commands: entry.commands.clone(),
            durability: entry.durability,
        });
        place.in_flight.push_back(entry);
        self.counters.proposed += 1;
    }

    /// The place of a stream's partition; none if another worker owns it, which is a caller's mistake.
    pub(super) fn slot_of(&self, name: &[u8]) -> Option<usize> {
        self.slots[usize::from(partition_of(name, self.partitions).0)]
    }

    fn create(&mut self, tag: Tag, config: StreamConfig) {
        let Some(slot) = self.slot_of(&config.name) else {
            return self.refuse_tag(tag, Refusal::NoStream, &[]);
        };
        if let Some(changing) = self.reserve(tag, config) {
            let command = Command::Create(StreamConfig::clone(&changing.config));
            self.gather(slot, &command, Origin::Create(changing));
        }
    }

    fn update(&mut self, tag: Tag, config: StreamConfig) {
        let Some(key) = self.streams.named(&config.name) else {
            return self.refuse_tag(tag, Refusal::NoStream, &[]);
        };
        if let Some(changing) = self.reserve(tag, config) {
            let known = self.streams.of_mut(key);
            known.updates += 1;
            let (slot, number) = (known.slot, known.number);
            let command = Command::Update(number, StreamConfig::clone(&changing.config));
            self.gather(slot, &command, Origin::Update(changing, key));
        }
    }

    /// Takes the filters of a configuration, or refuses it.
    fn reserve(&mut self, tag: Tag, config: StreamConfig) -> Option<Changing> {
        if let Err(error) = config.check() {
            self.refuse_tag(tag, Refusal::Config(error), &[]);
            return None;
        }
        let name: Arc<[u8]> = config.name.as_slice().into();
        match self.filters.reserve(&name, &config.filters) {
            Ok(reservation) => Some(Changing {
                tag,
                config: Arc::new(config),
                name,
                reservation,
            }),
            Err(other) => {
                self.refuse_tag(tag, Refusal::FiltersTaken(StreamNumber(0)), &other);
                None
            }
        }
    }

    fn delete(&mut self, tag: Tag, stream: &[u8]) {
        let Some(key) = self.streams.named(stream) else {
            return self.refuse_tag(tag, Refusal::NoStream, &[]);
        };
        let known = self.streams.of(key);
        let (slot, command) = (known.slot, Command::Delete(known.number));
        self.gather(slot, &command, Origin::Delete(tag, key));
    }

    fn purge(&mut self, tag: Tag, purge: &PurgeOf) {
        let Some(key) = self.streams.named(purge.stream) else {
            return self.refuse_tag(tag, Refusal::NoStream, &[]);
        };
        let known = self.streams.of(key);
        let purging = Purging {
            tag,
            stream: known.number,
            filter: purge.filter.map(<[u8]>::to_vec),
            gone: 0,
        };
        self.gather_purge(known.slot, purge.before, purge.keep, purging);
    }

    /// Gathers the next command of a purge.
    pub(super) fn gather_purge(
        &mut self,
        slot: usize,
        before: Sequence,
        keep: u64,
        purging: Purging,
    ) {
        let filter = purging.filter.clone();
        let command = Command::Purge(Purge {
            stream: purging.stream,
            filter: filter.as_deref(),
            before,
            keep,
        });
        self.gather(slot, &command, Origin::Purge(purging));
    }

    fn delete_message(&mut self, tag: Tag, stream: &[u8], sequence: Sequence) {
        let Some(key) = self.streams.named(stream) else {
            return self.refuse_tag(tag, Refusal::NoStream, &[]);
        };
        let known = self.streams.of(key);
        let (slot, command) = (known.slot, Command::DeleteMessage(known.number, sequence));
        self.gather(slot, &command, Origin::DeleteMessage(tag));
    }

    fn batch(&mut self, tag: Tag, batch: BatchTo) {
        let mut parts = Vec::new();
        let mut position = 0;
        for append in batch {
            match self.part_of_batch(&append) {
                Ok(key) => parts.push((key, append)),
                Err((_, Refusal::BatchSpans)) => {
                    return self.refuse_tag(tag, Refusal::BatchSpans, &[]);
                }
                Err((at, refusal)) => {
                    self.counters.refused[usize::from(refusal.code())] += 1;
                    let answer = Answer::BatchRefused(position + at, refusal);
                    return self.answers.push(tag, Part::Last, &answer);
                }
            }
            position += append.messages.remaining();
        }
        let slots = parts.iter().map(|(key, _)| self.streams.of(*key).slot);
        let Some(slot) = slots.clone().next().filter(|_| position > 0) else {
            return self.refuse_tag(tag, Refusal::RequestInvalid, &[]);
        };
        if slots.clone().any(|one| one != slot) {
            return self.refuse_tag(tag, Refusal::BatchSpans, &[]);
        }
        let mut bytes = Vec::new();
        push_command(&mut bytes, |out| {
            let mut writer = BatchWriter::new(out);
            for (key, append) in &parts {
                writer.push(self.streams.of(*key).number, |part| {
                    append.messages.for_each(|message| part.push(&message));
                });
            }
        });
        if bytes.len() > self.entry_bytes_max {
            return self.refuse_tag(tag, Refusal::TooLarge(self.entry_bytes_max as u32), &[]);
        }
        let of = |(key, _): &(Key, AppendTo)| self.streams.of(*key);
        let needs_sync = parts.iter().any(|part| !of(part).is_os());
        let names = parts.iter().map(|part| of(part).name.clone()).collect();
        self.gather_bytes(slot, &bytes, Origin::Batch(tag, names), needs_sync);
    }

    /// The stream of an append within a batch, or which of its messages is refused.
    fn part_of_batch(&mut self, append: &AppendTo) -> Result<Key, (u32, Refusal)> {
        let mut stream = append.stream.map(|name| self.streams.named(name));
        for (message, at) in append.messages.zip(0..) {
            check_lengths(&message).map_err(|refusal| (at, refusal))?;
            if append.stream.is_none() {
                let keeper = self.streams.keeper_of(message.topic);
                if stream.is_some_and(|stream| stream != keeper) {
                    return Err((at, Refusal::BatchSpans));
                }
                stream = Some(keeper);
            }
        }
        stream.flatten().ok_or((0, Refusal::NoStream))
    }
}

/// What the greatest lengths say of a message.
fn check_lengths(message: &Message) -> Result<(), Refusal> {
    if message.body.len() > STORED_BODY_BYTES_MAX {
        return Err(Refusal::TooLarge(STORED_BODY_BYTES_MAX as u32));
    }
    if message.headers.len() > MESSAGE_HEADERS_BYTES_MAX {
        return Err(Refusal::TooLarge(MESSAGE_HEADERS_BYTES_MAX as u32));
    }
    if message.id.len() > MESSAGE_ID_BYTES_MAX {
        return Err(Refusal::IdInvalid);
    }
    if message.topic.len() > TOPIC_BYTES_MAX {
        return Err(Refusal::TopicNotKept);
    }
    Ok(())
}

/// Keeps a buffer for later, if it is not too long and there are not too many.
pub(super) fn keep_buffer(spare: &mut Vec<Vec<u8>>, buffer: Vec<u8>) {
    let is_useful = buffer.capacity() > 0 && buffer.capacity() <= SPARE_BUFFER_BYTES_MAX;
    if is_useful && spare.len() < SPARE_BUFFERS_MAX {
        spare.push(buffer);
    }
}
