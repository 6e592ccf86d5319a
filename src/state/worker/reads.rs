//! Reads: of what is applied, in parts, one step at a time.
//!
//! Owns the reads that are open and where each is. A read that is to come behind its caller's writes waits until all that
//! its partition had gathered when it came is applied: that is the caller's own and more, costs no table of callers, and
//! ends with the same sync. A read of several parts goes on when its reader asks for more. Must not know what rows mean.
//! Start at [`Worker::read`].

use super::{Part, Tag, Worker};
use crate::limits::{OPEN_READS_BYTES_MAX, OPEN_READS_MAX, READ_STEP_MESSAGES_MAX};
use crate::store::{Store, StoreError};
use crate::streams::{self, Page, PageLimits, ReadError, Resumed, Start, StreamView};
use sapwood_wire::limits::{ANSWER_PART_BYTES, LIST_STREAMS_MAX};
use sapwood_wire::state::{
    Answer, Ask, List, Order, Read, ReadEnd, ReadHead, ReadPageWriter, ReadStart, Refusal, Request,
    Rest, ResumeToken, Sequence, StoredMessage, StreamInfo, StreamNumber, Which,
};
use sapwood_wire::topic::check_wildcard;
use std::collections::{BTreeMap, VecDeque};

/// A read that is not answered to its end.
#[derive(Debug)]
struct Open {
    tag: Tag,
    /// The request; it is small, and read again at each step.
    request: Vec<u8>,
    cursor: Option<Cursor>,
}

/// Where a read is.
#[derive(Clone, Debug)]
struct Cursor {
    /// Another creation of the name is not read on.
    stream: StreamNumber,
    place: Reached,
    /// What is left of the limits.
    messages: u32,
    bytes: u32,
    /// To be said with the next part.
    is_reset: bool,
    gap: Option<(Sequence, Sequence)>,
}

#[derive(Clone, Debug)]
enum Reached {
    /// This message comes next.
    At(Start),
    /// Topics behind this one come next, with messages up to the sequence.
    Topics(Option<Vec<u8>>, Sequence),
}

/// All reads of a worker.
#[derive(Debug, Default)]
pub(super) struct Reads {
    ready: VecDeque<Open>,
    /// By place: behind which entry.
    waiting: Vec<(usize, u64, Open)>,
    /// Until their readers want more.
    paused: BTreeMap<Tag, Open>,
    count: usize,
    bytes: usize,
    /// A buffer for pages.
    spare: Vec<u8>,
}

impl Reads {
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn close(&mut self, open: &Open) {
        self.count -= 1;
        self.bytes -= open.request.len();
    }
}

/// Whether a read goes on.
enum Step {
    /// It is answered.
    Done,
    /// A part was given; the reader says when it wants more.
    Given,
    /// Nothing was found yet.
    Goes,
}

/// Why a read ends early.
enum Stop {
    Refused(Refusal),
    Store(StoreError),
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Stop {
        match error {
            ReadError::Store(error) => Stop::Store(error),
            ReadError::NoMessage => Stop::Refused(Refusal::NoMessage),
            ReadError::SearchTooLong(reached) => Stop::Refused(Refusal::SearchTooLong(reached)),
        }
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        Stop::Store(error)
    }
}

impl Worker {
    /// Takes a read in. It is carried out by [`Worker::read`].
    pub(super) fn open_read(&mut self, tag: Tag, request: &Request, bytes: &[u8]) {
        let reads = &mut self.reads;
        let is_full = reads.count >= OPEN_READS_MAX || reads.bytes >= OPEN_READS_BYTES_MAX;
        if is_full {
            return self.refuse_tag(tag, Refusal::Busy, &[]);
        }
        reads.count += 1;
        reads.bytes += bytes.len();
        let open = Open {
            tag,
            request: bytes.to_vec(),
            cursor: None,
        };
        if request.order == Order::BehindWrites
            && let Some(name) = request.stream()
            && let Some(slot) = self.slot_of(name)
        {
            let place = &self.places[slot];
            // What is gathered becomes the next entry, and what does not fit one behind that.
            let last = place.next_index - u64::from(place.gathering.is_empty());
            if last > place.partition.applied().0 {
                if self.has_failed {
                    self.reads.close(&open);
                    return self.refuse_tag(tag, Refusal::StorageFailed, &[]);
                }
                self.reads.waiting.push((slot, last, open));
                return;
            }
        }
        self.reads.ready.push_back(open);
    }

    /// Lets reads go on that waited for entries. `purged`: an entry with a purge that goes on in the one to come, which
    /// those must wait for that came behind it.
    pub(super) fn wake_reads(&mut self, slot: usize, purged: Option<u64>) {
        let place = &self.places[slot];
        let (applied, next) = (place.partition.applied().0, place.next_index);
        let mut still = Vec::new();
        for (of, mut index, open) in std::mem::take(&mut self.reads.waiting) {
            if of == slot && purged.is_some_and(|purged| index >= purged) {
                index = index.max(next);
            }
            match of == slot && index <= applied {
                true => self.reads.ready.push_back(open),
                false => still.push((of, index, open)),
            }
        }
        self.reads.waiting = still;
    }

    /// The log failed: what waits for entries will not come.
    pub(super) fn fail_reads(&mut self) {
        for (_, _, open) in std::mem::take(&mut self.reads.waiting) {
            self.reads.close(&open);
            self.refuse_tag(open.tag, Refusal::StorageFailed, &[]);
        }
    }

    /// The reader of a part wants the next one.
    pub fn handle_more(&mut self, tag: Tag) {
        if let Some(open) = self.reads.paused.remove(&tag) {
            self.reads.ready.push_back(open);
        }
    }

    /// How many reads are open.
    pub fn reads_open(&self) -> usize {
        self.reads.count
    }

    /// Nobody waits for a read any more. What is written is written.
    pub fn handle_gone(&mut self, tag: Tag) {
        let Reads {
            ready,
            waiting,
            paused,
            ..
        } = &mut self.reads;
        let is_it = |open: &Open| open.tag == tag;
        let found = paused.remove(&tag);
        let found = found.or_else(|| ready.remove(ready.iter().position(is_it)?));
        let in_waiting = || {
            let at = waiting.iter().position(|(_, _, open)| is_it(open))?;
            Some(waiting.remove(at).2)
        };
        if let Some(open) = found.or_else(in_waiting) {
            self.reads.close(&open);
        }
    }

    /// Takes one step of one read. False if none is ready. A read whose rows are damaged is refused, and the error given
    /// back for the operator: the worker goes on.
    ///
    /// Cost: at most 4,096 messages or topics are looked at, and 64 KiB, or one message, are copied.
    pub fn read<S: Store>(&mut self, store: &S) -> Result<bool, StoreError> {
        let Some(mut open) = self.reads.ready.pop_front() else {
            return Ok(false);
        };
        match self.step(&mut open, store) {
            Ok(Step::Done) => self.reads.close(&open),
            Ok(Step::Goes) => self.reads.ready.push_back(open),
            Ok(Step::Given) => {
                self.reads.paused.insert(open.tag, open);
            }
            Err(stop) => {
                self.reads.close(&open);
                let (refusal, error) = match stop {
                    Stop::Refused(refusal) => (refusal, None),
                    Stop::Store(error) => (Refusal::StorageFailed, Some(error)),
                };
                self.refuse_tag(open.tag, refusal, &[]);
                return error.map_or(Ok(true), Err);
            }
        }
        Ok(true)
    }

    fn step<S: Store>(&mut self, open: &mut Open, store: &S) -> Result<Step, Stop> {
        let Open {
            tag,
            request,
            cursor,
        } = open;
        // invariant: it was read when it came in.
        let request = Request::read(request).expect("read before");
        match request.ask {
            Ask::Info(name) => {
                let (view, of) = self.view(store, name)?;
                let answer = Answer::Info(self.info(&view, of));
                self.answers.push(*tag, Part::Last, &answer);
            }
            Ask::List(list) => {
                let (infos, rest) = self.list(store, &list)?;
                self.answers
                    .push(*tag, Part::Last, &Answer::List(infos, rest));
            }
            Ask::Get(name, which) => self.get(*tag, store, name, which)?,
            Ask::Wait(wait) => {
                let (view, of) = self.view(store, wait.stream)?;
                let next = view.info().last.0 + 1;
                let is_at_end = matches!(
                    view.resume(&wait.token, self.lineage),
                    Resumed::At(sequence) if sequence.0 == next
                );
                if !is_at_end {
                    self.end_wait(*tag, wait.token, Rest::More);
                } else if self.waits.is_full() {
                    return Err(Stop::Refused(Refusal::Busy));
                } else {
                    // invariant: a stream that is read is one of the worker's.
                    let slot = self.slot_of(wait.stream).expect("its own stream");
                    self.wait_for(*tag, (slot, of.stream), &wait);
                }
            }
            Ask::Read(read) => {
                let (view, of) = self.view(store, read.stream)?;
                let mut now = match cursor.take() {
                    Some(cursor) if cursor.stream == of.stream => cursor,
                    Some(_) => return Err(Stop::Refused(Refusal::NoStream)),
                    None => self.begin(&view, of, &read)?,
                };
                let step = match now.place.clone() {
                    Reached::At(start) => self.page(*tag, &view, start, &read, &mut now)?,
                    Reached::Topics(after, up_to) => {
                        self.topics(*tag, &view, (after, up_to), &read, &mut now)?
                    }
                };
                *cursor = Some(now);
                return Ok(step);
            }
            // Others are never opened as reads.
            _ => unreachable!("a request that reads nothing"),
        }
        Ok(Step::Done)
    }

    fn view<'s, S: Store>(
        &self,
        store: &'s S,
        name: &[u8],
    ) -> Result<(StreamView<'s, S>, streams::Place), Stop> {
        let no_stream = Stop::Refused(Refusal::NoStream);
        let Some(key) = self.streams.named(name) else {
            return Err(no_stream);
        };
        let known = self.streams.of(key);
        let of = streams::Place {
            partition: self.places[known.slot].partition.id(),
            stream: known.number,
        };
        match StreamView::open(store, of)? {
            Some(view) => Ok((view, of)),
            None => Err(no_stream),
        }
    }

    fn info<S: Store>(&self, view: &StreamView<S>, of: streams::Place) -> StreamInfo {
        let info = view.info();
        StreamInfo {
            lineage: self.lineage,
            partition: of.partition,
            number: of.stream,
            messages: info.messages,
            bytes: info.bytes,
            first: info.first,
            last: info.last,
            first_ms: info.first_ms,
            last_ms: info.last_ms,
            config: view.config().clone(),
        }
    }

    fn list<S: Store>(&self, store: &S, list: &List) -> Result<(Vec<StreamInfo>, Rest), Stop> {
        let (mut infos, mut bytes) = (Vec::new(), 0);
        // Names that begin so stand together, from the prefix on.
        let is_behind = list.after >= list.prefix;
        let from = if is_behind { list.after } else { list.prefix };
        let exact = (!is_behind).then(|| self.streams.named(from)).flatten();
        let exact = exact.map(|key| &self.streams.of(key).name);
        let names = exact
            .into_iter()
            .chain(self.streams.behind(from).map(|(name, _)| name));
        let most = usize::from(list.most.clamp(1, LIST_STREAMS_MAX));
        for name in names.take_while(|name| name.starts_with(list.prefix)) {
            if infos.len() == most || bytes >= ANSWER_PART_BYTES {
                return Ok((infos, Rest::More));
            }
            let (view, of) = self.view(store, name)?;
            let info = self.info(&view, of);
            // Its numbers, and what its configuration says at length.
            let filters = info.config.filters.iter().map(|one| one.len() + 2);
            bytes += 100 + info.config.name.len() + filters.sum::<usize>();
            infos.push(info);
        }
        Ok((infos, Rest::Done))
    }

    fn get<S: Store>(
        &mut self,
        tag: Tag,
        store: &S,
        name: &[u8],
        which: Which,
    ) -> Result<(), Stop> {
        let (view, _) = self.view(store, name)?;
        let now_ms = self.wall_ms;
        let answers = &mut self.answers;
        let mut give = |one: &StoredMessage| {
            answers.push(tag, Part::Last, &Answer::Message(*one));
        };
        match which {
            Which::Sequence(sequence) => view.message(sequence, now_ms, &mut give)?,
            Which::LastOf(topic) => view.last_of_topic(topic, now_ms, &mut give)?,
            Which::FirstAt(ms) => {
                let first = view.first_at(ms, now_ms)?;
                view.message(first, now_ms, &mut give)?;
            }
        }
        Ok(())
    }

    /// Where a read begins.
    fn begin<S: Store>(
        &self,
        view: &StreamView<S>,
        of: streams::Place,
        read: &Read,
    ) -> Result<Cursor, Stop> {
        if read.filters.iter().any(|one| check_wildcard(one).is_err()) {
            return Err(Stop::Refused(Refusal::FilterInvalid));
        }
        let next = Sequence(view.info().last.0 + 1);
        let mut is_reset = false;
        let at = |sequence| Reached::At(Start::At(sequence));
        let place = match read.start {
            ReadStart::First => Reached::At(Start::First),
            ReadStart::Last => at(view.last(self.wall_ms)?.unwrap_or(next)),
            ReadStart::New => at(next),
            // What was not given yet comes next.
            ReadStart::Sequence(sequence) => at(sequence.clamp(Sequence(1), next)),
            ReadStart::Time(ms) => at(view.first_at(ms, self.wall_ms)?),
            ReadStart::LastOfEach => Reached::Topics(None, Sequence(next.0 - 1)),
            ReadStart::Resume(token) => match view.resume(&token, self.lineage) {
                Resumed::At(sequence) => at(sequence),
                Resumed::Reset => {
                    is_reset = true;
                    Reached::At(Start::First)
                }
            },
        };
        Ok(Cursor {
            stream: of.stream,
            place,
            messages: read.messages.max(1),
            bytes: read.bytes.max(1),
            is_reset,
            gap: None,
        })
    }

    fn token(&self, cursor: &Cursor, sequence: Sequence) -> ResumeToken {
        ResumeToken {
            lineage: self.lineage,
            stream: cursor.stream,
            sequence,
        }
    }

    fn page<S: Store>(
        &mut self,
        tag: Tag,
        view: &StreamView<S>,
        start: Start,
        read: &Read,
        cursor: &mut Cursor,
    ) -> Result<Step, Stop> {
        let limits = PageLimits {
            messages: cursor.messages as usize,
            bytes: ANSWER_PART_BYTES.min(cursor.bytes as usize),
            looked_at: READ_STEP_MESSAGES_MAX,
        };
        let mut writer = ReadPageWriter::new(std::mem::take(&mut self.reads.spare));
        let mut bytes = 0;
        let now_ms = self.wall_ms;
        let page = view.page(start, &read.filters, limits, now_ms, &mut |one| {
            bytes += one.topic.len() + one.headers.len() + one.body.len();
            writer.push(one);
        })?;
        let count = writer.count();
        cursor.place = Reached::At(Start::At(page.next));
        cursor.gap = joined(cursor.gap, page.gap);
        let end = cursor.end_of_page(&page, (count, bytes), limits);
        let end = end.map(|rest| ReadEnd {
            rest,
            token: self.token(cursor, Sequence(page.next.0 - 1)),
        });
        if count == 0 && end.is_none() {
            self.reads.spare = writer.finish(&ReadHead::default(), &mut Vec::new());
            return Ok(Step::Goes);
        }
        Ok(self.give(tag, writer, end, cursor))
    }

    /// Gives a part of a read.
    fn give(
        &mut self,
        tag: Tag,
        writer: ReadPageWriter,
        end: Option<ReadEnd>,
        cursor: &mut Cursor,
    ) -> Step {
        let head = ReadHead {
            is_reset: std::mem::take(&mut cursor.is_reset),
            gap: cursor.gap.take(),
            end,
        };
        let (part, step) = match end {
            Some(_) => (Part::Last, Step::Done),
            None => (Part::More, Step::Given),
        };
        let mut buffer = Vec::new();
        self.answers
            .push_with(tag, part, |out| buffer = writer.finish(&head, out));
        // One of a long message is not kept.
        if buffer.capacity() <= 2 * ANSWER_PART_BYTES {
            self.reads.spare = buffer;
        }
        step
    }

    /// The last message of each of some topics.
    fn topics<S: Store>(
        &mut self,
        tag: Tag,
        view: &StreamView<S>,
        from: (Option<Vec<u8>>, Sequence),
        read: &Read,
        cursor: &mut Cursor,
    ) -> Result<Step, Stop> {
        let (after, up_to) = from;
        let now_ms = self.wall_ms;
        let mut found = Vec::new();
        let mut note = |topic: &[u8], sequence| found.push((topic.to_vec(), sequence));
        let most = READ_STEP_MESSAGES_MAX / 8;
        let reached =
            view.last_of_each(after.as_deref(), &read.filters, most, now_ms, &mut note)?;
        let mut writer = ReadPageWriter::new(std::mem::take(&mut self.reads.spare));
        let mut bytes = 0;
        let mut behind = reached;
        for (topic, sequence) in found {
            // What came later is given behind the token.
            if sequence > up_to {
                continue;
            }
            let given = view.message(sequence, now_ms, &mut |one| {
                bytes += one.topic.len() + one.headers.len() + one.body.len();
                writer.push(one);
            });
            match given {
                Ok(()) | Err(ReadError::NoMessage) => {}
                Err(error) => return Err(error.into()),
            }
            if bytes >= ANSWER_PART_BYTES {
                behind = Some(topic);
                break;
            }
        }
        let end = behind.is_none().then(|| ReadEnd {
            rest: Rest::Done,
            token: self.token(cursor, up_to),
        });
        let count = writer.count();
        cursor.place = Reached::Topics(behind, up_to);
        if count == 0 && end.is_none() {
            self.reads.spare = writer.finish(&ReadHead::default(), &mut Vec::new());
            return Ok(Step::Goes);
        }
        Ok(self.give(tag, writer, end, cursor))
    }
}

impl Cursor {
    /// Takes what a page gave from the limits; whether the read ends with it, and whether there is more.
    fn end_of_page(
        &mut self,
        page: &Page,
        given: (u32, usize),
        limits: PageLimits,
    ) -> Option<Rest> {
        let (count, bytes) = given;
        let last_part = self.bytes as usize <= ANSWER_PART_BYTES;
        self.messages -= count;
        self.bytes = self.bytes.saturating_sub(bytes as u32);
        if page.end == streams::PageEnd::Head {
            return Some(Rest::Done);
        }
        // The next message does not fit, or nothing does any more.
        let is_over = count > 0 && last_part && limits.looked_at > count as usize;
        (self.messages == 0 || self.bytes == 0 || is_over).then_some(Rest::More)
    }
}

/// Two gaps that no message stands between.
fn joined(
    one: Option<(Sequence, Sequence)>,
    other: Option<(Sequence, Sequence)>,
) -> Option<(Sequence, Sequence)> {
    match (one, other) {
        (Some((from, _)), Some((_, to))) => Some((from, to)),
        (one, other) => one.or(other),
    }
}
