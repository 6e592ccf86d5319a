//! The budget of a turn for finding routes.
//!
//! Costs are in steps of about a nanosecond. Start at [`LookUps::are_spent`].

use crate::limits::LOOK_UPS_AT_ONCE;

/// Cost of the look-ups of a turn.
#[derive(Debug, Default)]
pub(crate) struct LookUps {
    spent: u64,
    /// `spent` when the present input began.
    before: u64,
}

impl LookUps {
    /// Another turn begins.
    pub(crate) fn begin_turn(&mut self) {
        *self = LookUps::default();
    }

    /// Another input begins.
    pub(super) fn begin_input(&mut self) {
        self.before = self.spent;
    }

    /// Adds the cost of a look-up.
    pub(super) fn add(&mut self, cost: u64) {
        self.spent += cost;
    }

    /// Whether the turn's budget is used up and the present input used some of it. So every input gets on by one event
    /// at least, and an input that needs no look-up is never held up.
    pub(crate) fn are_spent(&self) -> bool {
        self.spent >= LOOK_UPS_AT_ONCE && self.spent > self.before
    }
}
