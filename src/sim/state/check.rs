//! What stands in partitions and stores, compared with the model and with a second store.
//!
//! Start at [`World::compare_all`].

use super::client::{FILTERS, TOPICS};
use super::history::Owned;
use super::model::{ModelMessage, ModelStream};
use super::start::apply_all;
use super::world::{Place, World};
use crate::{Failure, fail};
use sapwood_state::partition::Partition;
use sapwood_state::store::{Direction, Family, MemoryStore, Store};
use sapwood_state::streams::{
    self, Floors, Page, PageEnd, PageLimits, ReadError, Resumed, Start, StoredMessage, StreamView,
};
use sapwood_wire::state::*;
use sapwood_wire::topic::wildcard_matches;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// The data directory's.
pub(super) const LINEAGE: Lineage = Lineage(7);

const ALL: PageLimits = PageLimits {
    messages: usize::MAX,
    bytes: usize::MAX,
    looked_at: usize::MAX,
};

/// A message as a reader gets it.
pub(super) type Seen = (u64, u64, Vec<u8>, Vec<u8>);

fn seen(one: &StoredMessage) -> Seen {
    (
        one.sequence.0,
        one.ms,
        one.topic.to_vec(),
        one.body.to_vec(),
    )
}

fn expected((sequence, one): (&u64, &ModelMessage)) -> Seen {
    (*sequence, one.ms, one.topic.clone(), one.body.clone())
}

fn view(
    store: &MemoryStore,
    partition: usize,
    stream: u32,
) -> Result<Option<StreamView<'_, MemoryStore>>, Failure> {
    let place = streams::Place {
        partition: PartitionId(partition as u16),
        stream: StreamNumber(stream),
    };
    StreamView::open(store, place).or_else(|error| fail("store", error.to_string()))
}

impl World {
    /// All partitions hold what the model says.
    pub(super) fn compare_all(&mut self) -> Result<(), Failure> {
        for number in 0..self.places.len() {
            self.compare(number)?;
        }
        Ok(())
    }

    fn compare(&mut self, number: usize) -> Result<(), Failure> {
        let Place { model, .. } = &self.places[number];
        let partition = self.partition(self.worker_of(number), number);
        if partition.applied().0 != model.applied {
            let text = format!(
                "partition {number} applied {}, not {}",
                partition.applied(),
                model.applied
            );
            return fail("applied", text);
        }
        let ours: Vec<_> = model
            .streams
            .iter()
            .map(|(number, one)| (*number, one.config.clone()))
            .collect();
        let theirs: Vec<_> = partition
            .streams()
            .map(|(number, one)| (number.0, one.clone()))
            .collect();
        if ours != theirs {
            return fail(
                "streams",
                format!("partition {number} has {theirs:?}, not {ours:?}"),
            );
        }
        for (&stream, of) in &model.streams {
            compare_stream(&self.store, number, stream, of)?;
            if !self.clock_steps_back {
                check_ids(number, stream, of)?;
            }
            for (sequence, message) in &of.messages {
                see(&mut self.seen, (number, stream, *sequence), &message.body)?;
            }
        }
        Ok(())
    }

    /// Notes what a sequence that somebody was told of means, which is for ever.
    pub(super) fn see_sequence(&mut self, place: (usize, u32, u64)) -> Result<(), Failure> {
        let stream = self.places[place.0].model.streams.get(&place.1);
        match stream.and_then(|stream| stream.messages.get(&place.2)) {
            Some(message) => see(&mut self.seen, place, &message.body),
            None => Ok(()),
        }
    }

    /// The same history on an empty store gives the same live rows.
    pub(super) fn compare_replica(&mut self) -> Result<(), Failure> {
        let mut replica = MemoryStore::default();
        let (mut ours, mut theirs) = (Floors::default(), Floors::default());
        for number in 0..self.partitions {
            let id = PartitionId(number as u16);
            let opened = Partition::open(id, &replica);
            let mut partition = opened.or_else(|error| fail("store", error.to_string()))?;
            let applied = self.places[number].model.applied as usize;
            let entries: &[Owned] = &self.history.partitions[number][..applied];
            apply_all(&mut self.io.rng, &mut partition, &mut replica, entries)?;
            let read = ours
                .read(id, &self.store)
                .and_then(|()| theirs.read(id, &replica));
            read.or_else(|error| fail("store", error.to_string()))?;
        }
        self.io.note("replica compared");
        for family in Family::ALL {
            let one = live_rows(&self.store, &ours, family)?;
            let two = live_rows(&replica, &theirs, family)?;
            if one != two {
                let keys = one.keys().chain(two.keys());
                let key = keys.clone().find(|key| one.get(*key) != two.get(*key));
                let text = format!(
                    "family {family:?}: {} and {} rows, first at {key:?}",
                    one.len(),
                    two.len()
                );
                return fail("replica", text);
            }
        }
        Ok(())
    }

    /// Single messages are read by sequence, topic and time.
    pub(super) fn look_up(&mut self) -> Result<(), Failure> {
        let number = self.io.rng.below(self.partitions);
        let now_ms = self.io.wall_ms;
        for (&stream, of) in &self.places[number].model.streams {
            let Some(view) = view(&self.store, number, stream)? else {
                return fail("read", format!("stream {stream} of {number} is not there"));
            };
            let topic = self.io.rng.pick(&TOPICS);
            let mut last = None;
            let read = view.last_of_topic(topic, now_ms, &mut |one| last = Some(one.sequence.0));
            check_read(read)?;
            if last != of.last_visible(topic, now_ms) {
                let text = format!("last of {topic:?} in stream {stream} of {number} is {last:?}");
                return fail("last of topic", text);
            }
            let sequence = of.floor() + self.io.rng.below(10) as u64;
            let mut found = None;
            let read = view.message(Sequence(sequence), now_ms, &mut |one| {
                found = Some(seen(one))
            });
            check_read(read)?;
            let wanted = of.messages.get(&sequence);
            let wanted = wanted.filter(|one| of.is_visible(one, now_ms));
            if found != wanted.map(|one| expected((&sequence, one))) {
                let text = format!("{sequence} in stream {stream} of {number} is {found:?}");
                return fail("message", text);
            }
            let ms = now_ms.saturating_sub(self.io.rng.below(5_000) as u64);
            let first = view.first_at(ms, now_ms);
            let first = first.or_else(|error| fail("read", error.to_string()))?;
            let is_it = |one: &ModelMessage| one.ms >= ms && of.is_visible(one, now_ms);
            let wanted = of.messages.iter().find(|(_, one)| is_it(one));
            if first.0 != wanted.map_or(of.next, |(one, _)| *one) {
                let text = format!("first at {ms} in stream {stream} of {number} is {first}");
                return fail("first at a time", text);
            }
        }
        Ok(())
    }

    /// A reader goes on where it was.
    pub(super) fn read(&mut self) -> Result<(), Failure> {
        let number = self.io.rng.below(self.partitions);
        let streams: Vec<u32> = self.places[number].model.streams.keys().copied().collect();
        if streams.is_empty() {
            return Ok(());
        }
        let stream = self.io.rng.pick(&streams);
        let is_opening = self.io.has_failed || self.machine(self.worker_of(number)).is_full();
        let of = &self.places[number].model.streams[&stream];
        let Some(view) = view(&self.store, number, stream)? else {
            return fail(
                "read",
                format!("stream {stream} of partition {number} is not there"),
            );
        };
        let cursor = self.cursors.entry((number, stream)).or_default();
        let token = ResumeToken {
            lineage: LINEAGE,
            stream: StreamNumber(stream),
            sequence: Sequence(*cursor),
        };
        let start = match (view.resume(&token, LINEAGE), *cursor < of.next) {
            (Resumed::At(sequence), true) => Start::At(sequence),
            // Its sequences are about to be raised above all that were seen.
            (Resumed::Reset, false) if is_opening => return Ok(()),
            other => {
                return fail(
                    "resume",
                    format!("{token} of a stream up to {}: {other:?}", of.next),
                );
            }
        };
        let now_ms = self.io.wall_ms;
        let messages = 1 + self.io.rng.below(20);
        let filter = self.io.rng.percent(30).then(|| self.io.rng.pick(&FILTERS));
        let (page, found) = read_page(&view, of, start, (messages, filter, now_ms))?;
        *cursor = page.next.0 - 1;
        self.io.note(if page.gap.is_some() {
            "gap read"
        } else {
            "page read"
        });
        if self.io.has_failed {
            self.io.note("read after a failure");
        }
        for (sequence, ..) in found {
            self.see_sequence((number, stream, sequence))?;
        }
        Ok(())
    }
}

impl World {
    /// A page that a worker gave must be a piece of what the model has.
    pub(super) fn check_page(
        &mut self,
        number: usize,
        request: &[u8],
        page: &ReadPage,
    ) -> Result<(), Failure> {
        let Ok(Request {
            order,
            ask: Ask::Read(asked),
        }) = Request::read(request)
        else {
            return fail("read", "it asked for no page".into());
        };
        let streams = self.places[number].model.streams.iter();
        let named = |(_, one): &(&u32, &ModelStream)| one.config.name == asked.stream;
        let Some((&stream, of)) = streams.clone().find(named) else {
            return fail("read", format!("{:?} is not there", asked.stream));
        };
        let now_ms = self.io.wall_ms;
        let visible = |(_, one): &(&u64, &ModelMessage)| of.is_visible(one, now_ms);
        let from = begin_of(of, asked.start, (now_ms, page.head.is_reset));
        let may_reset =
            |token: ResumeToken| token.stream.0 != stream || token.sequence.0 >= of.next;
        let is_reset = matches!(asked.start, ReadStart::Resume(token) if may_reset(token));
        let is_wanted = |(_, one): &(&u64, &ModelMessage)| {
            let mut filters = asked.filters.iter();
            asked.filters.is_empty() || filters.any(|filter| wildcard_matches(filter, &one.topic))
        };
        let wanted = of.messages.range(from..).filter(visible).filter(is_wanted);
        let wanted: Vec<Seen> = wanted
            .take(asked.messages as usize + 1)
            .map(expected)
            .collect();
        let (now, rest) = wanted.split_at(wanted.len().min(asked.messages as usize));
        let found: Vec<Seen> = page
            .messages
            .map(|one| {
                (
                    one.sequence.0,
                    one.ms,
                    one.topic.to_vec(),
                    one.body.to_vec(),
                )
            })
            .collect();
        let Some(end) = page.head.end else {
            return fail("read", format!("{page:?} has no end"));
        };
        let is_it = found == now
            && (rest.is_empty() || end.rest == Rest::More)
            && page.head.is_reset == is_reset
            && page.head.gap.is_some() == (from < of.floor())
            && rest.iter().all(|next| next.0 > end.token.sequence.0)
            && found.iter().all(|one| one.0 <= end.token.sequence.0);
        if !is_it {
            let text = format!(
                "{asked:?} from {from}: {:?} with {found:?}, not {wanted:?}",
                page.head
            );
            return fail("read", text);
        }
        self.io.note(match order {
            Order::Now => "page of a worker",
            Order::BehindWrites => "page behind writes",
        });
        for (sequence, ..) in found {
            self.see_sequence((number, stream, sequence))?;
        }
        Ok(())
    }
}

/// Where a page begins; `how`: the time, and whether the read was told of a reset.
fn begin_of(of: &ModelStream, start: ReadStart, how: (u64, bool)) -> u64 {
    let (now_ms, is_reset) = how;
    let visible = |(_, one): &(&u64, &ModelMessage)| of.is_visible(one, now_ms);
    match start {
        ReadStart::Last => {
            let last = of.messages.iter().rev().find(visible);
            last.map_or(of.next, |(one, _)| *one)
        }
        ReadStart::New => of.next,
        ReadStart::Sequence(sequence) => sequence.0.min(of.next),
        ReadStart::Time(ms) => {
            let mut all = of.messages.iter().filter(visible);
            all.find(|(_, one)| one.ms >= ms)
                .map_or(of.next, |(one, _)| *one)
        }
        ReadStart::Resume(token) if !is_reset => token.sequence.0 + 1,
        _ => of.floor(),
    }
}

/// A page, which must be a piece of what the model has from there on. `how`: most messages, a filter, the time.
fn read_page(
    view: &StreamView<'_, MemoryStore>,
    of: &ModelStream,
    start: Start,
    how: (usize, Option<&[u8]>, u64),
) -> Result<(Page, Vec<Seen>), Failure> {
    let (messages, filter, now_ms) = how;
    let from = match start {
        Start::At(sequence) => sequence.0,
        Start::First => of.floor(),
    };
    let limits = PageLimits { messages, ..ALL };
    let mut found = Vec::new();
    let mut visit = |one: &StoredMessage| found.push(seen(one));
    let page = view.page(start, filter.as_slice(), limits, now_ms, &mut visit);
    let page = page.or_else(|error| fail("read", error.to_string()))?;
    let is_wanted = |one: &ModelMessage| {
        of.is_visible(one, now_ms)
            && filter.is_none_or(|filter| wildcard_matches(filter, &one.topic))
    };
    let wanted = of.messages.range(from..).filter(|(_, one)| is_wanted(one));
    let wanted: Vec<_> = wanted.map(expected).collect();
    let is_piece = wanted.get(..found.len()) == Some(&found[..]);
    let is_behind = wanted
        .get(found.len())
        .is_none_or(|next| next.0 >= page.next.0);
    let is_whole = page.end == PageEnd::Limit || found.len() == wanted.len();
    if !is_piece || !is_behind || !is_whole || page.gap.is_some() != (from < of.floor()) {
        let text = format!("{page:?} from {from} with {found:?}, not {wanted:?}");
        return fail("read", text);
    }
    Ok((page, found))
}

fn check_read(read: Result<(), ReadError>) -> Result<(), Failure> {
    match read {
        Ok(()) | Err(ReadError::NoMessage) => Ok(()),
        Err(error) => fail("read", error.to_string()),
    }
}

fn see(
    seen: &mut BTreeMap<(usize, u32, u64), Vec<u8>>,
    place: (usize, u32, u64),
    body: &[u8],
) -> Result<(), Failure> {
    let before = seen.entry(place).or_insert_with(|| body.to_vec());
    match before == body {
        true => Ok(()),
        false => fail(
            "sequence",
            format!("{place:?} was {before:?} and is {body:?}"),
        ),
    }
}

fn compare_stream(
    store: &MemoryStore,
    number: usize,
    stream: u32,
    of: &ModelStream,
) -> Result<(), Failure> {
    let Some(view) = view(store, number, stream)? else {
        return fail(
            "streams",
            format!("partition {number} lacks the rows of stream {stream}"),
        );
    };
    let info = view.info();
    let theirs = (info.messages, info.first.0, info.last.0);
    let ours = (of.messages.len() as u64, of.floor(), of.next - 1);
    let mut found = Vec::new();
    let page = view.page(Start::First, &[], ALL, 0, &mut |one| found.push(seen(one)));
    page.or_else(|error| fail("store", error.to_string()))?;
    let wanted: Vec<_> = of.messages.iter().map(expected).collect();
    if theirs != ours || found != wanted {
        let at = found
            .iter()
            .zip(&wanted)
            .take_while(|(one, two)| one == two)
            .count();
        let text = format!(
            "partition {number}, stream {stream}: {theirs:?}, not {ours:?}; message {at} is {:?}, not {:?}",
            found.get(at),
            wanted.get(at)
        );
        return fail("messages", text);
    }
    Ok(())
}

/// No id twice within the window, told from the messages alone.
fn check_ids(number: usize, stream: u32, of: &ModelStream) -> Result<(), Failure> {
    let mut last = BTreeMap::new();
    for (sequence, message) in of.messages.iter().filter(|(_, one)| !one.id.is_empty()) {
        if let Some((before, ms)) = last.insert(&message.id, (sequence, message.ms))
            && ms + of.config.duplicate_window_ms > message.ms
        {
            let text =
                format!("partition {number}, stream {stream}: {before} and {sequence} have one id");
            return fail("ids", text);
        }
    }
    Ok(())
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn live_rows(store: &MemoryStore, floors: &Floors, family: Family) -> Result<Rows, Failure> {
    let mut rows = Rows::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        if !floors.is_dead(family, key, value) {
            rows.insert(key.to_vec(), value.to_vec());
        }
        ControlFlow::Continue(())
    };
    let range = store.range(family, &[0], &[u8::MAX], Direction::Forward, &mut visit);
    range.or_else(|error| fail("store", error.to_string()))?;
    Ok(rows)
}
