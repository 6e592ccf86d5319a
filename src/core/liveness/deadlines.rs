//! Connections in the order of a time that each has.
//!
//! Invariant: the list never holds more than twice the connections that stand in it and are open,
//! however many come and go; who puts one in does so once. Start at [`Deadlines::take_due`].

use crate::command::{ClientId, ConnId};
use crate::connection::Connections;
use crate::paged_slab::is_sparse;
use std::collections::VecDeque;

/// When each is due, by the monotonic clock; the first is next.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    list: VecDeque<(u64, ConnId, ClientId)>,
    /// How many of them have left.
    pub gone: usize,
}

impl Deadlines {
    /// When the next is due.
    pub(crate) fn first(&self) -> Option<u64> {
        self.list.front().map(|&(due_ns, ..)| due_ns)
    }

    /// Adds one. Cost: none to speak of if it is due last.
    pub(crate) fn add(&mut self, due_ns: u64, conn: ConnId, client: ClientId) {
        let place = match self.list.back() {
            Some(&(last, ..)) if last > due_ns => {
                self.list.partition_point(|&(other, ..)| other <= due_ns)
            }
            _ => self.list.len(),
        };
        self.list.insert(place, (due_ns, conn, client));
    }

    /// Takes the next one that is due and still there.
    pub(crate) fn take_due(
        &mut self,
        now_ns: u64,
        connections: &Connections,
    ) -> Option<(ConnId, ClientId)> {
        while self.first().is_some_and(|due_ns| due_ns <= now_ns)
            && let Some((_, conn, client)) = self.list.pop_front()
        {
            if connections.is_there(conn, client) {
                return Some((conn, client));
            }
            self.gone -= 1;
        }
        None
    }

    /// Takes note that one of them is gone. Cost: the list, once half of it has gone; so little for
    /// each that goes.
    pub(crate) fn note_gone(&mut self, connections: &Connections) {
        self.gone += 1;
        if self.gone * 2 > self.list.len() {
            self.list
                .retain(|&(_, conn, client)| connections.is_there(conn, client));
            self.gone = 0;
            if is_sparse(self.list.len(), self.list.capacity()) {
                self.list.shrink_to(2 * self.list.len());
            }
        }
    }

    /// How many stand in the list, gone or not.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }
}
