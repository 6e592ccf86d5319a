//! Faults that tests put in, to see that the checks notice them.

use std::cell::Cell;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Canary {
    /// A purge forgets ids.
    ForgetIdsAtPurge,
    /// The sequence of a stream's last message is given to the next one, when a batch begins.
    ReuseSequence,
}

thread_local! {
    static SET: Cell<Option<Canary>> = const { Cell::new(None) };
}

/// Puts a fault in, or takes it out.
pub(crate) fn set(canary: Option<Canary>) {
    SET.set(canary);
}

/// Whether this fault is in.
pub(crate) fn is_set(canary: Canary) -> bool {
    SET.get() == Some(canary)
}
