//! Prepares segments beside the log thread.
//!
//! Must not know records. Invariant: a header is written only after the segment's zeros and its name are durable. Start at
//! [`prepare`].

use super::inbox::{News, Shared};
use crate::state::files::{Files, OpenFile, is_no_space, write_all};
use crate::state::limits::ZEROS_BYTES;
use sapwood_state::log::{Fill, Prepare};
use std::io;
use std::sync::Arc;

/// A segment to prepare, and its file where that is open.
pub(super) type Wanted = (Prepare, Option<Arc<dyn OpenFile>>);

/// Prepares what is asked for, until nobody can ask.
pub(super) fn run(files: &dyn Files, wanted: &flume::Receiver<Wanted>, shared: &Arc<Shared>) {
    let _guard = shared.guard("sapwood-segment");
    while let Ok((segment, open)) = wanted.recv() {
        let result = prepare(files, &segment, open);
        shared.tell(News::Prepared {
            file: segment.file,
            segment: segment.segment,
            result,
        });
    }
}

/// Does what [`Prepare`] says. Where it fails for want of space, what it took is given back.
pub(in crate::state) fn prepare(
    files: &dyn Files,
    segment: &Prepare,
    open: Option<Arc<dyn OpenFile>>,
) -> io::Result<Arc<dyn OpenFile>> {
    let name = segment.file.to_string();
    let file = match (segment.fill, open) {
        (Fill::Kept, Some(open)) => open,
        (Fill::Kept, None) => files.open(&name)?,
        (Fill::Zeros, _) => {
            let file = files.create(&name)?;
            let filled = fill(&*file, segment.bytes);
            if filled.as_ref().is_err_and(is_no_space) {
                // The error that is told is the first.
                let _ = files.create(&name);
            }
            filled?;
            files.sync_directory()?;
            file
        }
    };
    write_all(&*file, 0, &segment.head)?;
    file.sync()?;
    Ok(file)
}

/// Writes zeros and makes them durable, step by step, so that syncs of the log do not wait for all of them.
fn fill(file: &dyn OpenFile, bytes: u32) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let bytes = u64::from(bytes);
    let mut at = 0;
    while at < bytes {
        let step = zeros.len().min((bytes - at) as usize);
        write_all(file, at, &zeros[..step])?;
        file.sync()?;
        at += step as u64;
    }
    Ok(())
}
