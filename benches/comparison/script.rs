//! What is sent and what must arrive.
//!
//! Owns the messages of a run and the checks of what comes back: content, order and count. A
//! publisher sends its block of different messages over and over; so what each subscriber must
//! read is known to the byte. Knows no sockets.

use crate::dialect::{Asked, Dialect, topic};

/// Largest block. Above it a publisher's messages would no longer fit the CPU's caches, and the
/// generator would measure itself.
const BLOCK_BYTES_MAX: usize = 256 * 1024;

/// Digits of a publisher's number, then of the message's place in its block.
const NUMBER_DIGITS: usize = 3;
const PLACE_DIGITS: usize = 7;

/// The payload of a publisher's message: its number, its place, and filling that differs.
pub fn payload(publisher: usize, place: usize, size: usize) -> Vec<u8> {
    let mut out = format!("{publisher:03}.{place:07}").into_bytes();
    assert!(
        size >= out.len(),
        "a payload of {size} bytes cannot be told from others"
    );
    let mut state = (publisher * 7_919 + place * 104_729 + 1) as u32;
    while out.len() < size {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.push(b'!' + (state >> 24) as u8 % 94);
    }
    out
}

/// One publisher's messages: where each goes and what it carries.
#[derive(Clone, Debug)]
pub struct Script {
    /// The publisher's number.
    pub publisher: usize,
    /// The topic of each message of the block, by number.
    pub topics: Vec<usize>,
    /// Bytes of each payload.
    pub size: usize,
}

impl Script {
    /// All to one topic.
    pub fn on_topic(publisher: usize, topic: usize, size: usize) -> Script {
        let count = (BLOCK_BYTES_MAX / (size + 40)).clamp(4, 10_000);
        Script {
            publisher,
            topics: vec![topic; count],
            size,
        }
    }

    /// Each to another of so many topics, in an order that differs between publishers.
    pub fn interleaved(publisher: usize, topics: usize, size: usize) -> Script {
        let rounds = (BLOCK_BYTES_MAX / (size + 40) / topics).max(1);
        let one = |place: usize| (place * 37 + publisher * 11) % topics;
        Script {
            publisher,
            topics: (0..topics * rounds).map(one).collect(),
            size,
        }
    }

    /// Each message as `encode(topic, payload)`, for those that `wanted` by topic.
    fn block(
        &self,
        wanted: impl Fn(usize) -> bool,
        encode: impl Fn(&[u8], &[u8]) -> Vec<u8>,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        for (place, &number) in self.topics.iter().enumerate() {
            if wanted(number) {
                out.extend(encode(
                    &topic(number),
                    &payload(self.publisher, place, self.size),
                ));
            }
        }
        out
    }

    /// What the publisher sends, over and over.
    pub fn sent(&self, dialect: Dialect) -> Vec<u8> {
        self.block(|_| true, |topic, payload| dialect.publish(topic, payload))
    }

    /// What of it a subscriber gets: of one topic, or of all for `None`.
    pub fn received(
        &self,
        dialect: Dialect,
        number: Option<usize>,
        asked: &Asked,
        sid: usize,
    ) -> Vec<u8> {
        self.block(
            |topic| number.is_none_or(|wanted| wanted == topic),
            |topic, payload| dialect.delivery(topic, payload, asked, sid),
        )
    }
}

/// A check that failed: what was expected and what came.
#[derive(Debug)]
pub struct Mismatch(pub String);

/// Shows both from a little before the first byte that differs.
pub fn mismatch(what: &str, expected: &[u8], got: &[u8]) -> Mismatch {
    let differs = expected
        .iter()
        .zip(got)
        .position(|(a, b)| a != b)
        .unwrap_or(0);
    let shown = |bytes: &[u8]| {
        let from = differs.saturating_sub(40).min(bytes.len());
        let to = (from + 80).min(bytes.len());
        bytes[from..to].escape_ascii().to_string()
    };
    Mismatch(format!(
        "{what}: expected \"{}\", got \"{}\"",
        shown(expected),
        shown(got)
    ))
}

/// Checks a stream of bytes that repeats itself.
#[derive(Clone, Debug)]
pub struct Cycle {
    block: Vec<u8>,
    at: usize,
    frame: usize,
    bytes: u64,
}

impl Cycle {
    /// The block consists of frames of equal length.
    pub fn new(block: Vec<u8>, frames: usize) -> Cycle {
        assert!(
            frames > 0 && block.len().is_multiple_of(frames),
            "the frames of a block differ in length"
        );
        Cycle {
            frame: block.len() / frames,
            block,
            at: 0,
            bytes: 0,
        }
    }

    /// One frame over and over, repeated so that long reads are compared in long runs.
    pub fn of_frame(frame: &[u8]) -> Cycle {
        let times = (16 * 1024 / frame.len()).max(1);
        Cycle::new(frame.repeat(times), times)
    }

    /// Takes what was read; answers how many frames are whole now that were not before.
    pub fn take(&mut self, mut input: &[u8]) -> Result<u64, Mismatch> {
        let before = self.bytes / self.frame as u64;
        self.bytes += input.len() as u64;
        while !input.is_empty() {
            let run = input.len().min(self.block.len() - self.at);
            let expected = &self.block[self.at..self.at + run];
            if input[..run] != *expected {
                return Err(mismatch(
                    "a delivery is wrong or out of order",
                    expected,
                    &input[..run],
                ));
            }
            self.at = (self.at + run) % self.block.len();
            input = &input[run..];
        }
        Ok(self.bytes / self.frame as u64 - before)
    }
}

/// Checks a stream in which the messages of several publishers come mixed: each publisher's own in order.
#[derive(Debug)]
pub struct Mixed {
    /// By publisher, from `first` on.
    lists: Vec<(Vec<u8>, usize)>,
    first: usize,
    frame: usize,
    /// Where in a frame the publisher's number stands.
    number_at: usize,
    partial: Vec<u8>,
    /// The publishers of the frames that became whole, for who answers each; kept if some.
    pub seen: Option<Vec<usize>>,
}

impl Mixed {
    /// What must arrive of each publisher, their numbers from `first` on; payloads of `size` bytes,
    /// behind which a frame of `dialect` may end with a line end.
    pub fn new(
        lists: Vec<Vec<u8>>,
        first: usize,
        frame: usize,
        size: usize,
        dialect: Dialect,
    ) -> Mixed {
        assert!(
            lists
                .iter()
                .all(|list| list.len().is_multiple_of(frame) && !list.is_empty())
        );
        let lists = lists.into_iter().map(|list| (list, 0)).collect();
        Mixed {
            lists,
            first,
            frame,
            number_at: frame - dialect.end_bytes() - size,
            partial: Vec::new(),
            seen: None,
        }
    }

    fn frame(&mut self, frame: &[u8]) -> Result<(), Mismatch> {
        let digits = &frame[self.number_at..self.number_at + NUMBER_DIGITS];
        let number = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse::<usize>().ok());
        let number = number.and_then(|number| number.checked_sub(self.first));
        let list = number.and_then(|number| self.lists.get_mut(number));
        let Some((list, at)) = list else {
            return Err(mismatch("a delivery of no publisher", b"", frame));
        };
        if let Some(seen) = &mut self.seen {
            seen.extend(number);
        }
        let expected = &list[*at..*at + frame.len()];
        if frame != expected {
            return Err(mismatch(
                "a delivery is wrong or out of order",
                expected,
                frame,
            ));
        }
        *at = (*at + frame.len()) % list.len();
        Ok(())
    }

    /// As [`Cycle::take`].
    pub fn take(&mut self, mut input: &[u8]) -> Result<u64, Mismatch> {
        let mut count = 0;
        if !self.partial.is_empty() {
            let missing = (self.frame - self.partial.len()).min(input.len());
            self.partial.extend_from_slice(&input[..missing]);
            input = &input[missing..];
            if self.partial.len() < self.frame {
                return Ok(0);
            }
            let whole = std::mem::take(&mut self.partial);
            self.frame(&whole)?;
            count += 1;
        }
        let frames = input.chunks_exact(self.frame);
        let rest = frames.remainder();
        for frame in frames {
            self.frame(frame)?;
            count += 1;
        }
        self.partial.extend_from_slice(rest);
        Ok(count)
    }
}

/// Checks what one member of a group gets: a part of a publisher's messages, in order. That the
/// members together got each once is seen from [`Share::sum`].
#[derive(Debug)]
pub struct Share {
    list: Vec<u8>,
    frame: usize,
    place_at: usize,
    partial: Vec<u8>,
    last: Option<usize>,
    /// Of places plus one: together with the count it shows what was lost or doubled.
    pub sum: u64,
}

impl Share {
    /// `list` is what would arrive if all came here.
    pub fn new(list: Vec<u8>, frame: usize, size: usize, dialect: Dialect) -> Share {
        let place_at = frame - dialect.end_bytes() - size + NUMBER_DIGITS + 1;
        Share {
            list,
            frame,
            place_at,
            partial: Vec::new(),
            last: None,
            sum: 0,
        }
    }

    /// As [`Cycle::take`].
    pub fn take(&mut self, input: &[u8]) -> Result<u64, Mismatch> {
        self.partial.extend_from_slice(input);
        let waiting = std::mem::take(&mut self.partial);
        let frames = waiting.chunks_exact(self.frame);
        let rest = frames.remainder().to_vec();
        let mut count = 0;
        for frame in frames {
            let digits = &frame[self.place_at..self.place_at + PLACE_DIGITS];
            let place = std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| digits.parse::<usize>().ok());
            let expected =
                place.and_then(|place| self.list.get(place * self.frame..(place + 1) * self.frame));
            let (Some(place), Some(expected)) = (place, expected) else {
                return Err(mismatch("a delivery of no message", b"", frame));
            };
            if expected != frame || self.last == Some(place) {
                return Err(mismatch(
                    "a delivery is wrong or came twice",
                    expected,
                    frame,
                ));
            }
            self.last = Some(place);
            self.sum += place as u64 + 1;
            count += 1;
        }
        self.partial = rest;
        Ok(count)
    }

    /// What [`Share::sum`] of all members must be after so many messages of a block of `places`.
    pub fn sum_of(messages: u64, places: u64) -> u64 {
        let (rounds, rest) = (messages / places, messages % places);
        rounds * (places * (places + 1) / 2) + rest * (rest + 1) / 2
    }
}

/// What a connection must read.
#[derive(Debug)]
pub enum Expect {
    /// The same block over and over.
    Cycle(Cycle),
    /// Several publishers' messages.
    Mixed(Mixed),
    /// A member's turns.
    Share(Share),
}

impl Expect {
    /// Bytes of each frame.
    pub fn frame_bytes(&self) -> usize {
        match self {
            Expect::Cycle(cycle) => cycle.frame,
            Expect::Mixed(mixed) => mixed.frame,
            Expect::Share(share) => share.frame,
        }
    }

    /// Bytes that are missing of a frame that has begun.
    pub fn owed(&self) -> usize {
        let begun = match self {
            Expect::Cycle(cycle) => cycle.at % cycle.frame,
            Expect::Mixed(mixed) => mixed.partial.len(),
            Expect::Share(share) => share.partial.len(),
        };
        (self.frame_bytes() - begun) % self.frame_bytes()
    }

    /// Takes what was read; answers how many frames became whole.
    pub fn take(&mut self, input: &[u8]) -> Result<u64, Mismatch> {
        match self {
            Expect::Cycle(cycle) => cycle.take(input),
            Expect::Mixed(mixed) => mixed.take(input),
            Expect::Share(share) => share.take(input),
        }
    }
}
