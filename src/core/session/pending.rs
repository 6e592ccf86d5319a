//! Calls of a session that are not answered yet, with what each is for.
//!
//! Invariant: a call is pending from when it is made until its reply is ended. Start at [`PendingCalls::take`].

use crate::command::CallId;

/// Pending calls, in the order of their ids.
#[derive(Debug)]
pub(crate) struct PendingCalls<T>(Vec<(CallId, T)>);

impl<T> Default for PendingCalls<T> {
    fn default() -> PendingCalls<T> {
        PendingCalls(Vec::new())
    }
}

impl<T> PendingCalls<T> {
    /// Whether no call is pending.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All pending calls, and what each is for.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(CallId, T)> {
        self.0.iter()
    }

    /// Adds a call, or one that was taken and goes on.
    pub(crate) fn put(&mut self, call: CallId, what: T) {
        let place = self.0.partition_point(|&(other, _)| other < call);
        self.0.insert(place, (call, what));
    }

    /// Whether a call is pending.
    #[cfg(test)]
    pub(crate) fn has(&self, call: CallId) -> bool {
        let found = self.0.binary_search_by_key(&call, |&(other, _)| other);
        found.is_ok()
    }

    /// Takes the call that is being answered.
    pub(crate) fn take(&mut self, call: CallId) -> T {
        let place = self.0.binary_search_by_key(&call, |&(other, _)| other);
        // invariant: a call is pending until it is over.
        self.0.remove(place.expect("an answer to what was asked")).1
    }
}
