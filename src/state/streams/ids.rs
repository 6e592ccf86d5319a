//! De-duplication: an id is stored once within the stream's window.
//!
//! Owns the buckets. An id stands in the bucket that was open when its message was stored; a bucket is as wide as a part
//! of the window, and goes as a whole when its last id is older than the window, by moving a cursor. Buckets stand in the
//! state, so they survive a change of the window, a purge and a restart. Must not know messages.

use super::keys::{PREFIX_BYTES, number_at};
use super::state::Bucket;
use super::stream::{Change, Stream};
use crate::limits::DEDUP_BUCKETS;
use crate::overlay::Overlay;
use crate::store::{Family, Store, StoreError};

impl Stream {
    /// The sequence under which an id was stored within the window.
    ///
    /// Cost: a look-up for each live bucket, [`DEDUP_BUCKETS`] and one more at most.
    pub(super) fn find_id<S: Store>(
        &mut self,
        overlay: &Overlay<S>,
        id: &[u8],
        now: u64,
    ) -> Result<Option<u64>, StoreError> {
        let window = self.config.duplicate_window_ms;
        let is_over = |ms: u64| ms.saturating_add(window) <= now;
        let mut row = Vec::new();
        let live = self.state.buckets.iter().rev();
        for bucket in live.take_while(|bucket| !is_over(bucket.last_ms)) {
            let key = self.place.id(bucket.start_ms, id);
            if !overlay.get(Family::Dedup, &key, &mut row)? {
                continue;
            }
            let (sequence, ms) = (number_at(&row, 0), number_at(&row, 8));
            let (Some(sequence), Some(ms)) = (sequence, ms) else {
                return Err(super::scan::damaged(Family::Dedup, &key, "value"));
            };
            // The newest that there is: older ones are over too.
            return Ok((!is_over(ms)).then_some(sequence));
        }
        Ok(None)
    }

    /// Notes the id of a message that was stored.
    pub(super) fn add_id<S: Store>(
        &mut self,
        overlay: &mut Overlay<S>,
        id: &[u8],
        sequence: u64,
        now: u64,
    ) {
        let width = (self.config.duplicate_window_ms / DEDUP_BUCKETS).max(1);
        let newest = self.state.buckets.last();
        if newest.is_none_or(|bucket| bucket.start_ms.saturating_add(width) <= now) {
            self.prune_ids(now);
            let start_ms = now.max(self.state.dedup_cursor);
            self.state.buckets.push(Bucket {
                start_ms,
                last_ms: now,
            });
        }
        // invariant: pushed just now, if there was none.
        let bucket = self.state.buckets.last_mut().expect("one is open");
        bucket.last_ms = now;
        let key = self.place.id(bucket.start_ms, id);
        debug_assert!(key.len() == PREFIX_BYTES + 8 + id.len());
        let value = [sequence.to_be_bytes(), now.to_be_bytes()].concat();
        overlay.put(Family::Dedup, &key, value);
    }

    /// Drops buckets that are older than the window.
    pub fn prune_ids(&mut self, now: u64) {
        let window = self.config.duplicate_window_ms;
        let buckets = &mut self.state.buckets;
        let live = buckets
            .iter()
            .position(|bucket| bucket.last_ms.saturating_add(window) > now);
        let gone = live.unwrap_or(buckets.len());
        if let Some(last) = buckets.drain(..gone).next_back() {
            self.state.dedup_cursor = last.start_ms + 1;
            self.change = Change::Unwritten;
        }
    }

    /// Forgets all ids: what a purge must not do.
    #[cfg(test)]
    pub(super) fn forget_ids(&mut self) {
        if let Some(last) = self.state.buckets.drain(..).next_back() {
            self.state.dedup_cursor = last.start_ms + 1;
        }
    }
}
