//! The turns of groups: each event goes to one member of each group.
//!
//! Who gets a turn is the broker's to choose. The model knows which members it may choose among; the
//! one who reads it settles it, and nobody may read it again. Owns all turns of a history. Must not
//! know connections or shards. Start at [`Turns::open`].

use crate::command::{Event, Name};
use std::rc::Rc;

/// One event's turn in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TurnId(usize);

#[derive(Debug)]
struct Turn {
    event: Rc<Event>,
    group: Name,
    /// The shard that it was published on.
    from: usize,
    taken: bool,
    doubted: bool,
    /// It has come back so often for certain.
    returned: u8,
}

/// All turns of a history.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    turns: Vec<Turn>,
}

impl Turns {
    /// An event was published that a group listens to.
    pub(crate) fn open(&mut self, from: usize, event: &Rc<Event>, group: Name) -> TurnId {
        self.turns.push(Turn {
            event: Rc::clone(event),
            group,
            from,
            taken: false,
            doubted: false,
            returned: 0,
        });
        TurnId(self.turns.len() - 1)
    }

    pub(crate) fn event(&self, id: TurnId) -> &Rc<Event> {
        &self.turns[id.0].event
    }

    pub(crate) fn group(&self, id: TurnId) -> Name {
        self.turns[id.0].group
    }

    pub(crate) fn origin(&self, id: TurnId) -> usize {
        self.turns[id.0].from
    }

    /// Whether two turns are of one event, in different groups.
    pub(crate) fn is_of_same_event(&self, one: TurnId, other: TurnId) -> bool {
        Rc::ptr_eq(self.event(one), self.event(other))
    }

    /// Whether somebody has read it.
    pub(crate) fn is_taken(&self, id: TurnId) -> bool {
        self.turns[id.0].taken
    }

    /// Somebody reads it, the first to do so.
    pub(crate) fn take(&mut self, id: TurnId) {
        self.turns[id.0].taken = true;
    }

    /// It may have come back, so that who reads it may have been given it at either time.
    pub(crate) fn doubt(&mut self, id: TurnId) {
        self.turns[id.0].doubted = true;
    }

    pub(crate) fn is_doubted(&self, id: TurnId) -> bool {
        self.turns[id.0].doubted
    }

    /// It has come back for certain, from the shard it went to behind so many others.
    pub(crate) fn come_back(&mut self, id: TurnId, tries: u8) {
        self.turns[id.0].returned = tries + 1;
    }

    /// Whether an event that went out for it behind so many shards may still bring it.
    pub(crate) fn is_under_way(&self, id: TurnId, tries: u8) -> bool {
        tries >= self.turns[id.0].returned
    }

    /// Those that nobody has read.
    pub(crate) fn untaken(&self) -> impl Iterator<Item = TurnId> {
        let all = self.turns.iter().enumerate();
        all.filter(|(_, turn)| !turn.taken)
            .map(|(place, _)| TurnId(place))
    }
}
