//! What one connection is owed, in order, and what it has read of that under its policy.
//!
//! With the policy `close` a client reads all of it, in order. With `drop-oldest` it reads all
//! answers and some of the events, in order; with `latest` the same, but between two answers only
//! the events of one topic and subscription keep their order, and the newest of them comes in any
//! case, as long as what waits aside fits. Natively a gap says how many are missing: with
//! `drop-oldest` just where they would have stood, with `latest` before the next answer. Must not
//! know how the model came to what is owed. Start at [`Stream::take`].

use crate::expect::{Owed, Part};
use crate::reader::{Frame, Value};
use crate::turns::Turns;
use crate::{Failure, fail};
use sapwood_core::{Policy, Protocol};
use std::collections::{BTreeMap, VecDeque};

/// Most bytes that an event takes while it waits aside, beside its message and the names in its key.
const FRAME_EXTRA: usize = 256;

/// What is the same for the frames that replace each other by the policy `latest`.
type Key = (Part, &'static [u8]);

/// Situations that a stream went through.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Gaps that came between two events.
    pub gaps_between: u64,
    /// Gaps that followed an answer.
    pub gaps_behind_answers: u64,
    /// Events with a shared payload that were lost.
    pub shared_lost: u64,
}

/// What a client read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Answer,
    Event,
    /// A gap, behind an event.
    GapAfterEvent,
    Gap,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Stream {
    pub owed: VecDeque<Owed>,
    pub policy: Policy,
    pub protocol: Protocol,
    /// The policy may have acted since the client last had everything: its last send would have
    /// blocked, or its output was held.
    pub was_behind: bool,
    /// Frames that were passed over and are not accounted for yet: for certain, and turns that may
    /// have been another's.
    passed: (u64, u64),
    /// What gaps have said since losses were last accounted for.
    said: u64,
    /// Events that were lost.
    pub lost: u64,
    /// Those of them that were turns.
    pub turns_lost: u64,
    /// It is not sure which event was read: until the client has caught up, what its gaps say cannot be told
    /// from what it may have lost.
    doubtful: bool,
    /// What gaps said while that was so.
    pub slack: u64,
    last: Last,
    pub seen: Seen,
    /// With `latest`: the largest frame of each key since the last answer.
    keys: BTreeMap<Key, usize>,
    /// With `latest`: so many bytes wait aside without the newest being lost; 0 if that is not
    /// known.
    pub aside_max: usize,
}

impl Stream {
    pub(crate) fn new(protocol: Protocol, policy: Policy, aside_max: usize) -> Stream {
        Stream {
            owed: VecDeque::new(),
            policy,
            protocol,
            was_behind: false,
            passed: (0, 0),
            said: 0,
            lost: 0,
            turns_lost: 0,
            doubtful: false,
            slack: 0,
            last: Last::Answer,
            seen: Seen::default(),
            keys: BTreeMap::new(),
            aside_max,
        }
    }

    /// Turns that were passed over and may have been lost, which is not settled yet.
    pub(crate) fn unsettled_turns(&self) -> u64 {
        self.passed.1
    }

    /// Finds what the client has read among what it is owed and takes it out; gives what it was
    /// owed as, which is nothing for a gap.
    pub(crate) fn take(
        &mut self,
        value: &Value,
        turns: &mut Turns,
    ) -> Result<Option<Owed>, Failure> {
        if let Value::Frame(Frame::Gap(events)) = value {
            return self.take_gap(*events).map(|()| None);
        }
        let mut floated = false;
        // What is passed over if the value is found behind it.
        let mut passed = (0, 0);
        for place in 0..self.owed.len() {
            let owed = &mut self.owed[place];
            let left = owed.left(turns);
            let may_be = (!floated || owed.is_event()) && self.policy_allows(passed, left.1);
            let owed = &mut self.owed[place];
            if may_be {
                let before = owed.clone();
                if let Some(part) = owed.take(value, turns) {
                    let is_between = before.is_event() && self.last == Last::GapAfterEvent;
                    self.seen.gaps_between += u64::from(is_between);
                    self.last = match before.is_event() {
                        true => Last::Event,
                        false => Last::Answer,
                    };
                    let may_lose = self.policy != Policy::Close;
                    let is_turn = matches!(part, Part::Turn(_));
                    // Two events without payload can be the same, and turns among what was passed
                    // over leave open which of them this is.
                    let is_empty = before.event().is_some_and(|event| event.payload.is_empty());
                    let is_doubtful =
                        is_turn && before.is_doubted(turns) || is_empty && passed.1 > 0;
                    self.doubtful |= may_lose && is_doubtful;
                    self.account(place, part, passed, turns)?;
                    return Ok(Some(before));
                }
            }
            if owed.floats && !owed.inside || floated && owed.stands_behind_calls() {
                // The answer of a call may come later, and what was answered at once behind it; only events before it.
                floated = true;
            } else if !owed.is_event() || (self.policy == Policy::Close && left.0 > 0) {
                break;
            } else {
                passed = (passed.0 + left.0, passed.1 + left.1);
            }
        }
        let mut owed = self.owed.iter();
        let next = owed.find(|owed| !owed.is_event() || owed.left(turns).0 > 0);
        let front = next.map(|owed| format!("{owed:?}"));
        let front: String = front.unwrap_or_default().chars().take(400).collect();
        let text = format!(
            "by policy {:?}, {} said to be lost, owed is {front}",
            self.policy, self.said
        );
        fail("stream", text)
    }

    /// Whether what was said to be lost leads here. Two events can be the same to the byte.
    fn policy_allows(&self, passed: (u64, u64), own: u64) -> bool {
        self.policy != Policy::DropOldest
            || self.protocol == Protocol::Redis
            || self.doubtful
            || (passed.0..=passed.0 + passed.1 + own).contains(&self.said)
    }

    fn take_gap(&mut self, events: u64) -> Result<(), Failure> {
        if self.policy == Policy::Close || events == 0 || !self.was_behind {
            let text = format!(
                "a gap of {events} by policy {:?}, behind {}",
                self.policy, self.was_behind
            );
            return fail("gap", text);
        }
        self.said += events;
        self.seen.gaps_behind_answers += u64::from(self.last == Last::Answer);
        self.last = match self.last {
            Last::Event => Last::GapAfterEvent,
            _ => Last::Gap,
        };
        Ok(())
    }

    /// Takes account of a part that was found at this place, and of what it passed over.
    fn account(
        &mut self,
        place: usize,
        part: Part,
        passed: (u64, u64),
        turns: &Turns,
    ) -> Result<(), Failure> {
        if self.policy == Policy::Latest && self.owed[place].is_event() {
            self.replace_older(place, part, turns);
            return Ok(());
        }
        self.check_newest(place, turns)?;
        self.passed = (self.passed.0 + passed.0, self.passed.1 + passed.1);
        let kept: Vec<Owed> = self
            .owed
            .drain(..place)
            .filter(|owed| !owed.is_event())
            .collect();
        let place = kept.len();
        kept.into_iter()
            .rev()
            .for_each(|owed| self.owed.push_front(owed));
        // Turns of the same event may have been lost just before.
        let own = match self.owed[place].is_event() {
            true => self.owed[place].left(turns).1,
            false => 0,
        };
        if self.owed[place].is_done() {
            self.owed.remove(place);
        }
        self.settle(own)
    }

    /// With `latest`: older events of the same key will not come any more.
    fn replace_older(&mut self, place: usize, part: Part, turns: &Turns) {
        // invariant: only events have parts other than replies.
        let topic = self.owed[place].event().expect("an event").topic;
        self.note_key(place, part);
        for older in 0..place {
            let owed = &mut self.owed[older];
            if owed.event().is_some_and(|event| event.topic == topic) {
                let is_large = owed.has_large_payload();
                let (certain, possible) = owed.strike(part, turns);
                self.seen.shared_lost += if is_large { certain } else { 0 };
                self.passed = (self.passed.0 + certain, self.passed.1 + possible);
                if certain + possible > 0 {
                    self.note_key(older, part);
                }
            }
        }
        let mut at = 0;
        self.owed.retain(|owed| {
            at += 1;
            at > place + 1 || !owed.is_event() || !owed.is_done()
        });
    }

    fn note_key(&mut self, place: usize, part: Part) {
        let Some(event) = self.owed[place].event() else {
            return;
        };
        let bytes = event.payload.len() + event.attributes.len() + 2 * event.topic.len();
        let bytes = bytes + FRAME_EXTRA;
        let largest = self.keys.entry((part, event.topic)).or_default();
        *largest = bytes.max(*largest);
    }

    /// With `latest`: before an answer stands the newest event of each key, if what waits aside is
    /// within half the cap even when each is as long as the longest.
    fn check_newest(&mut self, place: usize, turns: &Turns) -> Result<(), Failure> {
        if self.policy != Policy::Latest || self.protocol == Protocol::Redis {
            return Ok(());
        }
        for at in 0..place {
            for part in self.owed[at].parts() {
                self.note_key(at, part);
            }
        }
        let bytes: usize = std::mem::take(&mut self.keys).values().sum();
        // Events without payload cannot be told apart: which of them came is not known.
        let before = self.owed.range(..place);
        let events = before.clone().filter_map(Owed::event);
        let empty = events.filter(|event| event.payload.is_empty());
        let empty: Vec<&[u8]> = empty.map(|event| event.topic).collect();
        let is_missing = |owed: &&Owed| {
            let event = owed.event();
            owed.left(turns).0 > 0 && event.is_some_and(|event| !empty.contains(&event.topic))
        };
        let missing = before.clone().find(is_missing);
        match missing {
            Some(owed) if bytes <= self.aside_max => {
                let text = format!("{owed:?}").chars().take(300).collect::<String>();
                fail("newest", format!("lost, with {bytes} bytes aside: {text}"))
            }
            _ => Ok(()),
        }
    }

    /// Compares what was lost with what the gaps said.
    fn settle(&mut self, own: u64) -> Result<(), Failure> {
        let (certain, possible) = std::mem::take(&mut self.passed);
        let said = std::mem::take(&mut self.said);
        if self.policy == Policy::Close {
            return Ok(());
        }
        if self.doubtful {
            self.lost += said;
            self.slack += said.max(certain);
            return Ok(());
        }
        let lost = match self.protocol {
            Protocol::Native => said,
            _ => certain,
        };
        if lost < certain || lost > certain + possible + own || (lost > 0 && !self.was_behind) {
            let text = format!(
                "{said} are said to be lost and {certain} to {} are, policy {:?}, behind {}",
                certain + possible + own,
                self.policy,
                self.was_behind
            );
            return fail("gap", text);
        }
        self.lost += lost;
        self.turns_lost += lost - certain;
        Ok(())
    }

    /// Nothing more will come: what is still owed was lost.
    pub(crate) fn end(&mut self, turns: &Turns) -> Result<(), Failure> {
        if self.policy == Policy::Close {
            return Ok(());
        }
        self.check_newest(self.owed.len(), turns)?;
        for owed in std::mem::take(&mut self.owed) {
            if !owed.is_event() {
                self.owed.push_back(owed);
                continue;
            }
            let (certain, possible) = owed.left(turns);
            self.passed = (self.passed.0 + certain, self.passed.1 + possible);
        }
        self.settle(0)?;
        self.doubtful = false;
        Ok(())
    }

    /// Whether all has been read that the client is owed for certain. Who is killed by another is not
    /// told what it was waiting for, nor what was answered at once behind that: it would be taken for
    /// the answer that is missing.
    pub(crate) fn is_read(&self, was_killed: bool, turns: &Turns) -> bool {
        let may_lose = self.policy != Policy::Close;
        let mut floated = false;
        for owed in &self.owed {
            // What a policy may drop and who else may have had a turn is seen to elsewhere.
            if owed.is_event() && may_lose || owed.left(turns).0 == 0 {
                continue;
            }
            if was_killed && owed.floats {
                // Nothing comes behind an array that is never whole.
                if owed.inside {
                    return true;
                }
                floated = true;
            } else if !(floated && owed.stands_behind_calls()) {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect::What;

    /// A Redis client that is owed this, and no more.
    fn owing(all: &[What]) -> Stream {
        let mut stream = Stream::new(Protocol::Redis, Policy::Close, 0);
        let owed = all.iter().map(|what| Owed {
            version: 2,
            floats: matches!(what, What::Clients { .. }),
            inside: false,
            what: what.clone(),
        });
        stream.owed.extend(owed);
        stream
    }

    #[test]
    fn who_is_killed_misses_its_calls_and_what_was_answered_behind_them() {
        let turns = Turns::default();
        let (call, error) = (What::Clients { asked: 1 }, What::Error("ERR unknown"));
        let dropped = owing(&[call.clone(), error.clone(), call.clone()]);
        assert!(dropped.is_read(true, &turns));
        assert!(!dropped.is_read(false, &turns), "it was not killed");
        let before = owing(&[error, call.clone()]);
        assert!(!before.is_read(true, &turns), "the error was written");
        let number = owing(&[call, What::Integer(1)]);
        assert!(!number.is_read(true, &turns), "it waits for the call");
    }
}
