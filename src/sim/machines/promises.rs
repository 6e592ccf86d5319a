//! What a machine promises its program, and whether it keeps it.
//!
//! Must not know how a machine is driven. Start at [`Hearing`] and [`Fate`].

use crate::command::{Filter, NO_GROUP, Name, shown};
use crate::native::{Sub, kind_of};
use crate::reader::Frame;
use crate::{Failure, fail};
use sapwood_client::machine::{Machine, Outcome, SubscriptionId, Taken};
use sapwood_wire::native::{self, BrokerFrame, Parsed};
use sapwood_wire::topic;
use std::collections::{BTreeMap, VecDeque};

/// What a subscription must hand its program next.
#[derive(Debug)]
enum Due {
    /// This message.
    Event(Vec<u8>),
    Gap(u64),
    Reconnected,
}

/// The marks that stand between two events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Marks {
    gap: u64,
    is_reconnected: bool,
}

/// A subscription of a machine, and what its program must hear.
#[derive(Debug)]
pub(super) struct Hearing {
    pub(super) id: SubscriptionId,
    name: Name,
    group: Name,
    /// Its number on the broker; 0 without a group.
    pub(super) member: u32,
    /// It was confirmed on some connection: from then on it takes events.
    is_confirmed: bool,
    is_refused: bool,
    is_over: bool,
    due: VecDeque<Due>,
    /// Marks that were taken since the last event.
    taken: Marks,
    /// Connections that it was told of beyond the first.
    pub(super) reconnected: u64,
}

impl Hearing {
    pub(super) fn new(id: SubscriptionId, name: Name, group: Name) -> Hearing {
        Hearing {
            id,
            name,
            group,
            member: 0,
            is_confirmed: false,
            is_refused: false,
            is_over: false,
            due: VecDeque::new(),
            taken: Marks::default(),
            reconnected: 0,
        }
    }

    pub(super) fn filter(&self) -> Filter {
        (kind_of(self.name), self.name, self.group)
    }

    pub(super) fn is_for(&self, sub: &Sub) -> bool {
        self.filter() == sub.filter
    }

    /// Whether the broker has answered it, or it is over.
    pub(super) fn is_answered(&self) -> bool {
        self.is_confirmed || self.is_refused || self.is_over
    }

    /// Whether the broker must know of it.
    pub(super) fn is_standing(&self) -> bool {
        self.is_confirmed && !self.is_refused && !self.is_over
    }

    /// The program wants no more of it.
    pub(super) fn end(&mut self) {
        self.is_over = true;
        self.due.clear();
        self.taken = Marks::default();
    }

    /// The program takes what is next, if there is something.
    pub(super) fn take(&mut self, machine: &mut Machine) -> Result<bool, Failure> {
        if self.is_over {
            return Ok(false);
        }
        match machine.take(self.id) {
            Taken::Batch(batch) => {
                for message in batch {
                    self.check_marks()?;
                    let due = self.due.pop_front();
                    let is_it = match &due {
                        Some(Due::Event(bytes)) => is_message(bytes, &message),
                        _ => false,
                    };
                    if !is_it {
                        return self.fail(&format!("hears {message:?}, due is {due:?}"));
                    }
                }
                Ok(true)
            }
            Taken::Gap { events } => {
                self.taken.gap += events;
                Ok(true)
            }
            Taken::Reconnected => {
                self.taken.is_reconnected = true;
                self.reconnected += 1;
                Ok(true)
            }
            Taken::Refused(_) if self.is_refused => {
                self.is_over = true;
                Ok(true)
            }
            Taken::Refused(refusal) => self.fail(&format!("is refused: {refusal}")),
            Taken::Ended => self.fail("has ended"),
            Taken::Empty => Ok(false),
        }
    }

    /// The marks that were taken are those that are due before the next event.
    fn check_marks(&mut self) -> Result<(), Failure> {
        let mut due = Marks::default();
        while let Some(Due::Gap(_) | Due::Reconnected) = self.due.front() {
            match self.due.pop_front() {
                Some(Due::Gap(events)) => due.gap += events,
                _ => due.is_reconnected = true,
            }
        }
        let taken = std::mem::take(&mut self.taken);
        match taken == due {
            true => Ok(()),
            false => self.fail(&format!("was told {taken:?}, due is {due:?}")),
        }
    }

    /// All is at rest and taken: nothing more is due.
    pub(super) fn finish(&mut self, number: usize) -> Result<(), Failure> {
        if self.is_over {
            return Ok(());
        }
        self.check_marks()?;
        match self.due.front() {
            None => Ok(()),
            Some(due) => self.fail(&format!("of machine {number} never heard {due:?}")),
        }
    }

    fn fail<T>(&self, text: &str) -> Result<T, Failure> {
        let text: String = text.chars().take(400).collect();
        let (name, group) = (shown(self.name), shown(self.group));
        fail("machine", format!("subscription {name} in {group} {text}"))
    }
}

fn is_message(bytes: &[u8], message: &sapwood_client::Message) -> bool {
    let mut frame = Vec::new();
    native::write_message(&mut frame, bytes);
    let Ok(Parsed::Frame {
        frame: BrokerFrame::Message(due),
        ..
    }) = native::parse_from_broker(&frame)
    else {
        return false;
    };
    message.topic() == due.topic
        && message.payload() == due.payload
        && message.reply() == due.reply()
        && message.is_end() == due.is_end()
        && message.headers().eq(due.headers())
}

/// A machine reads a frame: what its subscriptions must hear of it.
pub(super) fn expect(hearings: &mut [Hearing], requests: &BTreeMap<u32, usize>, frame: &Frame) {
    let place = match frame {
        Frame::Ack(request, _) | Frame::Error(request, ..) => requests.get(request).copied(),
        _ => None,
    };
    for (at, hearing) in hearings.iter_mut().enumerate() {
        if hearing.is_over || hearing.is_refused {
            continue;
        }
        match frame {
            Frame::Ack(..) if place == Some(at) => hearing.is_confirmed = true,
            Frame::Error(..) if place == Some(at) => hearing.is_refused = true,
            _ if !hearing.is_confirmed => {}
            Frame::Welcome { .. } => hearing.due.push_back(Due::Reconnected),
            Frame::Gap(events) => hearing.due.push_back(Due::Gap(*events)),
            Frame::Message(bytes) if hearing.group == NO_GROUP => {
                let length = usize::from(u16::from_le_bytes([bytes[1], bytes[2]]));
                let name = &bytes[3..3 + length];
                if hearing.name == name || topic::wildcard_matches(hearing.name, name) {
                    hearing.due.push_back(Due::Event(bytes.clone()));
                }
            }
            Frame::Turn(member, bytes) if *member == hearing.member => {
                hearing.due.push_back(Due::Event(bytes.clone()));
            }
            _ => {}
        }
    }
}

/// Something that a program asked for, and how it ended.
#[derive(Debug)]
pub(super) struct Fate {
    what: What,
    outcome: Option<Outcome>,
}

#[derive(Debug)]
enum What {
    /// A publish that is not answered, by its payload.
    Message(Vec<u8>),
    Publish(Vec<u8>),
    Ping,
    /// A subscription, by its place.
    Subscription(usize),
}

impl Fate {
    pub(super) fn of_message(payload: Vec<u8>) -> Fate {
        Fate::of(What::Message(payload))
    }

    pub(super) fn of_publish(payload: Vec<u8>) -> Fate {
        Fate::of(What::Publish(payload))
    }

    pub(super) fn of_ping() -> Fate {
        Fate::of(What::Ping)
    }

    pub(super) fn of_subscription(place: usize) -> Fate {
        Fate::of(What::Subscription(place))
    }

    fn of(what: What) -> Fate {
        let outcome = None;
        Fate { what, outcome }
    }

    /// Whether nothing more is to be told of it.
    pub(super) fn is_known(&self) -> bool {
        self.outcome.is_some() || matches!(self.what, What::Message(_))
    }

    pub(super) fn is_doubtful(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Unknown(_)))
    }

    pub(super) fn end(&mut self, outcome: Outcome) -> Result<(), Failure> {
        match self.outcome.replace(outcome) {
            None => Ok(()),
            Some(first) => fail("machine", format!("{self:?} had ended: {first:?}")),
        }
    }

    /// The subscription that it was, if that came to nothing.
    pub(super) fn failed_subscription(&self) -> Option<usize> {
        match (&self.what, &self.outcome) {
            (_, Some(Outcome::Acknowledged(_))) => None,
            (What::Subscription(place), Some(_)) => Some(*place),
            _ => None,
        }
    }
}

/// Each publish reached a shard once, or not at all, as its outcome says. Gives how many of those
/// that are not answered did not.
pub(super) fn check_fates(
    number: usize,
    fates: &[Fate],
    cuts: u64,
    reached: &dyn Fn(&[u8]) -> u64,
) -> Result<u64, Failure> {
    let mut lost = 0;
    for fate in fates {
        let (What::Message(payload) | What::Publish(payload)) = &fate.what else {
            continue;
        };
        let times = reached(payload);
        let is_right = match &fate.outcome {
            _ if times > 1 => false,
            Some(Outcome::Acknowledged(_)) => times == 1,
            Some(Outcome::Refused(_)) => times == 0,
            Some(Outcome::Unknown(doubt)) => {
                cuts > 0 || *doubt == sapwood_client::error::Doubt::TimedOut
            }
            // Nothing here asks a stream.
            Some(Outcome::Stored(_) | Outcome::Answered(_)) => false,
            Some(Outcome::TimedOut | Outcome::Closed(_)) => false,
            None => matches!(fate.what, What::Message(_)),
        };
        if !is_right {
            let text = format!(
                "machine {number}: {} reached a shard {times} times, {:?}",
                shown(&payload[..payload.len().min(30)]),
                fate.outcome
            );
            return fail("machine", text);
        }
        lost += u64::from(matches!(fate.what, What::Message(_)) && times == 0);
    }
    Ok(lost)
}
