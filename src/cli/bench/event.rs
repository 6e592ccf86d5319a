//! What a benchmark publishes, and how what arrives is checked.
//!
//! A payload is 16 bytes of head (publisher u16, run u16, number u32, time u64, little-endian) and a filler that depends on
//! the publisher, whose last four bytes repeat the number if there is room. So an event that is damaged, mixed up, missing,
//! doubled or out of order is noticed, at the cost of one comparison.

use std::time::Duration;

/// The smallest payload.
pub const HEAD_BYTES: usize = 16;

/// Where the repeated number fits.
const TAIL_BYTES: usize = 4;

/// The payload of one publisher's events, changed in place from one to the next.
#[derive(Clone, Debug)]
pub struct Payload {
    bytes: Vec<u8>,
}

impl Payload {
    /// The payload of this size, at least [`HEAD_BYTES`].
    pub fn new(size: usize, publisher: u16, run: u32) -> Payload {
        let mut bytes = vec![0; size.max(HEAD_BYTES)];
        bytes[..2].copy_from_slice(&publisher.to_le_bytes());
        bytes[2..4].copy_from_slice(&(run as u16).to_le_bytes());
        for (at, byte) in bytes.iter_mut().enumerate().skip(HEAD_BYTES) {
            *byte = filler(publisher, at);
        }
        Payload { bytes }
    }

    /// The payload of the event of this number, due or sent at `time`.
    pub fn event(&mut self, number: u32, time: Duration) -> &[u8] {
        self.bytes[4..8].copy_from_slice(&number.to_le_bytes());
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.bytes[8..16].copy_from_slice(&nanos.to_le_bytes());
        if let Some(tail) = tail(self.bytes.len()) {
            self.bytes[tail..].copy_from_slice(&number.to_le_bytes());
        }
        &self.bytes
    }
}

fn filler(publisher: u16, at: usize) -> u8 {
    (at as u8).wrapping_mul(31).wrapping_add(publisher as u8)
}

/// Where the number is repeated, if it fits.
fn tail(size: usize) -> Option<usize> {
    size.checked_sub(TAIL_BYTES)
        .filter(|tail| *tail >= HEAD_BYTES)
}

/// What one subscriber has found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Events that came for the first time, whole.
    pub received: u64,
    /// Events that came twice or out of order.
    pub misordered: u64,
    /// Events whose bytes are not those that were sent, or that were sent by somebody else.
    pub corrupt: u64,
}

/// An event that was as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Who published it.
    pub publisher: usize,
    /// When it was due or sent, in nanoseconds.
    pub nanos: u64,
}

/// Checks what one subscriber receives.
#[derive(Debug)]
pub struct Checker {
    size: usize,
    run: u16,
    topics: Vec<String>,
    /// The filler that each publisher sends.
    fillers: Vec<Vec<u8>>,
    /// For each publisher and topic, the number of the next event.
    next: Vec<u32>,
    /// What was found.
    pub findings: Findings,
}

impl Checker {
    /// For the events of so many publishers, who take turns with these topics.
    pub fn new(size: usize, run: u32, publishers: usize, topics: Vec<String>) -> Checker {
        let mut next = Vec::with_capacity(publishers * topics.len());
        for publisher in 0..publishers {
            for topic in 0..topics.len() {
                next.push(first_number(publisher, topic, topics.len()));
            }
        }
        // A publisher's number counts in the filler by its last eight bits.
        let fillers = (0..publishers.min(256)).map(|publisher| {
            let payload = Payload::new(size, publisher as u16, run);
            payload.bytes[HEAD_BYTES..].to_vec()
        });
        Checker {
            size,
            run: run as u16,
            fillers: fillers.collect(),
            next,
            topics,
            findings: Findings::default(),
        }
    }

    /// Takes an event, and returns what it says unless something is wrong with it.
    pub fn check(&mut self, topic: &[u8], payload: &[u8]) -> Option<Checked> {
        let Some((publisher, number, nanos)) = self.read(payload) else {
            self.findings.corrupt += 1;
            return None;
        };
        let index = topic_index(publisher, number, self.topics.len());
        if self.topics[index].as_bytes() != topic {
            self.findings.corrupt += 1;
            return None;
        }
        let next = &mut self.next[publisher * self.topics.len() + index];
        if number < *next {
            self.findings.misordered += 1;
            return None;
        }
        *next = number.saturating_add(self.topics.len() as u32);
        self.findings.received += 1;
        Some(Checked { publisher, nanos })
    }

    /// Publisher, number and time, if every byte is as it was sent.
    fn read(&self, payload: &[u8]) -> Option<(usize, u32, u64)> {
        if payload.len() != self.size {
            return None;
        }
        let (head, rest) = payload.split_first_chunk::<HEAD_BYTES>()?;
        let [p0, p1, r0, r1, n0, n1, n2, n3, time @ ..] = *head;
        let publisher = usize::from(u16::from_le_bytes([p0, p1]));
        let number = u32::from_le_bytes([n0, n1, n2, n3]);
        let filler = self.fillers.get(publisher % 256)?;
        let filled = rest.len() - tail(self.size).map_or(0, |_| TAIL_BYTES);
        let is_whole = publisher < self.next.len() / self.topics.len()
            && u16::from_le_bytes([r0, r1]) == self.run
            && rest[..filled] == filler[..filled]
            && (filled == rest.len() || rest[filled..] == number.to_le_bytes());
        is_whole.then_some((publisher, number, u64::from_le_bytes(time)))
    }
}

/// The topic of a publisher's event: each publisher begins with another one.
pub fn topic_index(publisher: usize, number: u32, topics: usize) -> usize {
    (publisher + number as usize) % topics
}

/// The number of a publisher's first event on a topic.
fn first_number(publisher: usize, topic: usize, topics: usize) -> u32 {
    ((topic + topics - publisher % topics) % topics) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u32 = 0x1234_5678;

    fn topics(count: usize) -> Vec<String> {
        (0..count).map(|topic| format!("t.{topic}")).collect()
    }

    /// The events of one publisher, in order, each with its topic.
    fn events(
        size: usize,
        publisher: u16,
        topics: &[String],
        count: u32,
    ) -> Vec<(String, Vec<u8>)> {
        let mut payload = Payload::new(size, publisher, RUN);
        let event = |number| {
            let topic = topic_index(publisher.into(), number, topics.len());
            let bytes = payload.event(number, Duration::from_nanos(number.into()));
            (topics[topic].clone(), bytes.to_vec())
        };
        (0..count).map(event).collect()
    }

    #[test]
    fn whole_and_ordered_events_are_received() {
        for (size, publishers, topic_count) in [(16, 1, 1), (17, 2, 3), (20, 3, 7), (128, 300, 4)] {
            let topics = topics(topic_count);
            let mut checker = Checker::new(size, RUN, publishers, topics.clone());
            for publisher in 0..publishers {
                for (number, (topic, bytes)) in events(size, publisher as u16, &topics, 50)
                    .iter()
                    .enumerate()
                {
                    let expected = Checked {
                        publisher,
                        nanos: number as u64,
                    };
                    let checked = checker.check(topic.as_bytes(), bytes);
                    assert_eq!(checked, Some(expected), "{size} {publishers} {topic_count}");
                }
            }
            assert_eq!(checker.findings.received, 50 * publishers as u64);
        }
    }

    #[test]
    fn each_flipped_bit_but_of_the_time_is_noticed() {
        let topics = topics(3);
        for size in [16, 18, 20, 40] {
            let (topic, bytes) = events(size, 1, &topics, 1).remove(0);
            for bit in (0..8 * size).filter(|bit| !(64..128).contains(bit)) {
                let mut checker = Checker::new(size, RUN, 2, topics.clone());
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let checked = checker.check(topic.as_bytes(), &flipped);
                // With neither filler nor tail, a bit of the number can only show as another topic or as a gap.
                let is_number = (32..64).contains(&bit) && size < 20;
                assert!(checked.is_none() || is_number, "{size} {bit}");
            }
        }
    }

    #[test]
    fn doubled_swapped_short_and_strange_events_are_noticed() {
        let topics = topics(1);
        let sent = events(32, 0, &topics, 4);
        let check = |order: &[usize]| {
            let mut checker = Checker::new(32, RUN, 1, topics.clone());
            for index in order {
                checker.check(sent[*index].0.as_bytes(), &sent[*index].1);
            }
            let Findings {
                received,
                misordered,
                corrupt,
            } = checker.findings;
            (received, misordered, corrupt)
        };
        assert_eq!(check(&[0, 1, 2, 3]), (4, 0, 0));
        assert_eq!(check(&[0, 1, 1, 2, 3]), (4, 1, 0));
        assert_eq!(check(&[0, 2, 1, 3]), (3, 1, 0));
        assert_eq!(check(&[0, 3]), (2, 0, 0));
        let mut checker = Checker::new(32, RUN, 1, topics.clone());
        assert!(checker.check(b"t.0", &sent[0].1[..31]).is_none());
        assert!(checker.check(b"t.1", &sent[0].1).is_none());
        let other = Payload::new(32, 0, RUN + 1).bytes;
        assert!(checker.check(b"t.0", &other).is_none());
        assert_eq!(checker.findings.corrupt, 3);
    }
}
