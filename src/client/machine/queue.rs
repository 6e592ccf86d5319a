//! The bounded queue of one subscription, or of the replies to one request.
//!
//! Owns events between the read that brought them and the consumer that takes them. Must not know how they are matched,
//! nor who reads. Invariants: events stay in order; a drop is always reported, at its place, before what follows; the
//! gauge that all queues share is exact after every call.

use crate::config::Overflow;
use crate::limits::VIEW_BYTES_MIN;
use crate::message::{Batch, frame_length};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::ops::Range;

/// Totals of all queues of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gauge {
    /// Bytes of events in all queues.
    pub(super) bytes: usize,
    /// Number of queues that want reading to stop.
    pub(super) full: usize,
}

/// A place in the queue where events may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    gap_events: u64,
    reconnected: bool,
}

#[derive(Debug)]
enum Item {
    Events(Bytes),
    Mark(Mark),
}

/// What a queue returns.
#[derive(Debug)]
pub(super) enum Given {
    Batch(Batch),
    Gap(u64),
    Reconnected,
}

/// The queue, see the module.
#[derive(Debug)]
pub(super) struct Queue {
    /// What was dropped before the first item.
    lost: Mark,
    items: VecDeque<Item>,
    /// Short runs after the last item, copied together.
    tail: BytesMut,
    bytes: usize,
    bytes_max: usize,
    overflow: Overflow,
}

impl Queue {
    pub(super) fn new(bytes_max: usize, overflow: Overflow) -> Queue {
        Queue {
            lost: Mark::default(),
            items: VecDeque::new(),
            tail: BytesMut::new(),
            bytes: 0,
            bytes_max,
            overflow,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lost == Mark::default() && self.items.is_empty() && self.tail.is_empty()
    }

    fn is_full(&self) -> bool {
        self.overflow == Overflow::Wait && self.bytes >= self.bytes_max
    }

    /// Applies a change to the queue and updates the gauge.
    fn change<R>(&mut self, gauge: &mut Gauge, change: impl FnOnce(&mut Queue) -> R) -> R {
        let (bytes, full) = (self.bytes, self.is_full());
        let result = change(self);
        gauge.bytes = gauge.bytes - bytes + self.bytes;
        gauge.full = gauge.full - usize::from(full) + usize::from(self.is_full());
        result
    }

    /// Appends a run of whole frames, which are in `read`. If all queues together would exceed `gauge_bytes_max`, this
    /// one drops its oldest events down to its own cap.
    pub(super) fn push(
        &mut self,
        gauge: &mut Gauge,
        gauge_bytes_max: usize,
        read: &Bytes,
        run: Range<usize>,
    ) {
        self.change(gauge, |queue| {
            queue.bytes += run.len();
            if run.len() >= VIEW_BYTES_MIN {
                queue.close_tail();
                queue.items.push_back(Item::Events(read.slice(run)));
            } else {
                queue.tail.extend_from_slice(&read[run]);
            }
        });
        let over = match self.overflow {
            Overflow::DropOldest => self.bytes.saturating_sub(self.bytes_max),
            Overflow::Wait => {
                let own = self.bytes.saturating_sub(self.bytes_max);
                own.min(gauge.bytes.saturating_sub(gauge_bytes_max))
            }
        };
        if over > 0 {
            self.change(gauge, |queue| queue.drop_oldest(over));
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.items
                .push_back(Item::Events(self.tail.split().freeze()));
        }
    }

    /// Drops this many bytes of events from the front. The newest event always stays.
    fn drop_oldest(&mut self, bytes: usize) {
        let mut left = bytes;
        self.close_tail();
        // Ends because each round removes a frame or an item.
        while left > 0 {
            let is_last = self.items.len() == 1;
            match self.items.front_mut() {
                Some(Item::Mark(mark)) => {
                    self.lost.gap_events += mark.gap_events;
                    self.lost.reconnected |= mark.reconnected;
                    self.items.pop_front();
                }
                Some(Item::Events(frames)) => {
                    let length = frame_length(frames).unwrap_or(frames.len());
                    if is_last && length == frames.len() {
                        return;
                    }
                    frames.advance(length);
                    self.bytes -= length;
                    left = left.saturating_sub(length);
                    self.lost.gap_events += 1;
                    if frames.is_empty() {
                        self.items.pop_front();
                    }
                }
                None => return,
            }
        }
    }

    /// Appends a mark. Marks without events between them are merged.
    fn mark(&mut self, mark: Mark) {
        self.close_tail();
        let last = match self.items.back_mut() {
            Some(Item::Mark(last)) => last,
            None if self.lost != Mark::default() => &mut self.lost,
            _ => {
                self.items.push_back(Item::Mark(mark));
                return;
            }
        };
        last.gap_events = last.gap_events.saturating_add(mark.gap_events);
        last.reconnected |= mark.reconnected;
    }

    /// Records that the broker dropped events here.
    pub(super) fn mark_gap(&mut self, events: u64) {
        self.mark(Mark {
            gap_events: events,
            reconnected: false,
        });
    }

    /// Records that another connection begins here.
    pub(super) fn mark_reconnected(&mut self) {
        self.mark(Mark {
            gap_events: 0,
            reconnected: true,
        });
    }

    /// Takes the first events or mark.
    pub(super) fn take(&mut self, gauge: &mut Gauge) -> Option<Given> {
        if let Some(given) = take_mark(&mut self.lost) {
            return Some(given);
        }
        if self.items.is_empty() {
            self.close_tail();
        }
        match self.items.front_mut()? {
            Item::Mark(mark) => {
                let given = take_mark(mark);
                if *mark == Mark::default() {
                    self.items.pop_front();
                }
                given
            }
            Item::Events(_) => self.change(gauge, |queue| match queue.items.pop_front() {
                Some(Item::Events(frames)) => {
                    queue.bytes -= frames.len();
                    Some(Given::Batch(Batch::new(frames)))
                }
                _ => None,
            }),
        }
    }

    /// Removes everything.
    pub(super) fn clear(&mut self, gauge: &mut Gauge) {
        self.change(gauge, |queue| {
            queue.lost = Mark::default();
            queue.items.clear();
            queue.tail = BytesMut::new();
            queue.bytes = 0;
        });
    }
}

/// Takes one of the two parts of a mark: first the number of missing events, then the reconnect.
fn take_mark(mark: &mut Mark) -> Option<Given> {
    if mark.gap_events > 0 {
        return Some(Given::Gap(std::mem::take(&mut mark.gap_events)));
    }
    std::mem::take(&mut mark.reconnected).then_some(Given::Reconnected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sapwood_wire::native::{self, Parts};

    /// Frames of so many events of 100 bytes, each with its number as payload.
    fn frames(numbers: Range<u32>) -> Bytes {
        let mut out = Vec::new();
        for number in numbers {
            let mut message = Vec::new();
            let payload = format!("{number:0100}");
            let parts = Parts {
                topic: b"t",
                payload: payload.as_bytes(),
                ..Parts::default()
            };
            parts.write(&mut message).unwrap();
            native::write_message(&mut out, &message);
        }
        Bytes::from(out)
    }

    /// What a queue returns, in words.
    fn told(queue: &mut Queue, gauge: &mut Gauge) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(given) = queue.take(gauge) {
            match given {
                Given::Gap(events) => told.push(format!("gap {events}")),
                Given::Reconnected => told.push("reconnected".to_string()),
                Given::Batch(batch) => told.extend(batch.map(|message| {
                    let number: u32 = message.text().parse().unwrap();
                    number.to_string()
                })),
            }
        }
        told
    }

    fn push(queue: &mut Queue, gauge: &mut Gauge, numbers: Range<u32>) {
        let read = frames(numbers);
        let run = 0..read.len();
        queue.push(gauge, usize::MAX, &read, run);
    }

    #[test]
    fn short_and_long_runs_keep_their_order() {
        let (mut queue, mut gauge) = (Queue::new(1 << 20, Overflow::Wait), Gauge::default());
        push(&mut queue, &mut gauge, 0..3);
        push(&mut queue, &mut gauge, 3..300);
        push(&mut queue, &mut gauge, 300..301);
        let expected: Vec<_> = (0..301).map(|number| number.to_string()).collect();
        assert_eq!(told(&mut queue, &mut gauge), expected);
        assert_eq!(gauge, Gauge::default());
        assert!(queue.is_empty());
    }

    #[test]
    fn oldest_are_dropped_and_told_where_they_were() {
        let one = frames(0..1).len();
        let (mut queue, mut gauge) = (Queue::new(3 * one, Overflow::DropOldest), Gauge::default());
        push(&mut queue, &mut gauge, 0..2);
        queue.mark_reconnected();
        push(&mut queue, &mut gauge, 2..7);
        assert_eq!(gauge.bytes, 3 * one);
        assert_eq!(
            told(&mut queue, &mut gauge),
            ["gap 4", "reconnected", "4", "5", "6"]
        );
        assert_eq!(gauge, Gauge::default());
    }

    #[test]
    fn one_event_above_the_cap_is_kept() {
        let (mut queue, mut gauge) = (Queue::new(10, Overflow::DropOldest), Gauge::default());
        push(&mut queue, &mut gauge, 0..2);
        assert_eq!(told(&mut queue, &mut gauge), ["gap 1", "1"]);
    }

    #[test]
    fn marks_without_events_between_them_become_one() {
        let (mut queue, mut gauge) = (Queue::new(1 << 20, Overflow::Wait), Gauge::default());
        push(&mut queue, &mut gauge, 0..1);
        for _ in 0..1_000 {
            queue.mark_gap(2);
            queue.mark_reconnected();
        }
        assert_eq!(queue.items.len(), 2);
        assert_eq!(
            told(&mut queue, &mut gauge),
            ["0", "gap 2000", "reconnected"]
        );
    }

    #[test]
    fn waiting_queue_is_full_at_its_cap_and_not_below() {
        let one = frames(0..1).len();
        let (mut queue, mut gauge) = (Queue::new(2 * one, Overflow::Wait), Gauge::default());
        push(&mut queue, &mut gauge, 0..1);
        assert_eq!(gauge.full, 0);
        push(&mut queue, &mut gauge, 1..2);
        assert_eq!(gauge.full, 1);
        queue.take(&mut gauge);
        assert_eq!(gauge, Gauge::default());
    }

    #[test]
    fn waiting_queue_drops_only_past_the_cap_of_all() {
        let one = frames(0..1).len();
        let (mut queue, mut gauge) = (Queue::new(2 * one, Overflow::Wait), Gauge::default());
        let read = frames(0..6);
        queue.push(&mut gauge, 6 * one, &read, 0..read.len());
        assert_eq!(gauge.bytes, 6 * one);
        let read = frames(6..7);
        queue.push(&mut gauge, 6 * one, &read, 0..read.len());
        assert_eq!(
            told(&mut queue, &mut gauge),
            ["gap 1", "1", "2", "3", "4", "5", "6"]
        );
    }
}
