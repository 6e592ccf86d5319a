//! Connections in the order of their due times.
//!
//! Invariant: the list never holds more than twice as many entries as there are open connections in it, however many
//! come and go; each connection is entered once. Start at [`Deadlines::take_due`].

use crate::command::{ClientId, ConnId};
use crate::connection::Connections;
use crate::paged_slab::is_sparse;
use std::collections::VecDeque;

/// Due times by the monotonic clock, the first due at the front.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    list: VecDeque<(u64, ConnId, ClientId)>,
    /// Entries whose connection is gone.
    pub gone: usize,
}

impl Deadlines {
    /// The first due time.
    pub(crate) fn first(&self) -> Option<u64> {
        self.list.front().map(|&(due_ns, ..)| due_ns)
    }

    /// Adds a connection. Cost: constant if it is due last, else an insertion in the middle.
    pub(crate) fn add(&mut self, due_ns: u64, conn: ConnId, client: ClientId) {
        let place = match self.list.back() {
            Some(&(last, ..)) if last > due_ns => {
                self.list.partition_point(|&(other, ..)| other <= due_ns)
            }
            _ => self.list.len(),
        };
        self.list.insert(place, (due_ns, conn, client));
    }

    /// Takes the first connection that is due and still open.
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

    /// Notes that a connection of the list is gone. Cost: a pass over the list once half of it has gone, so constant on
    /// average.
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

    /// Entries in the list, those of closed connections included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }
}
