//! How a command that runs for long is told to end: by a signal, or because nobody reads its output any more.
//!
//! The first SIGINT or SIGTERM asks it to finish; a second one ends the process as if there were no handler. Knows nothing
//! of what there is to finish.

use std::io;
use std::sync::Arc;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::watch;

use super::{Failure, serve};

/// Whether a command has been told to end. Clones share it.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// Nothing tells it to end but [`stop`](Stop::stop).
    pub fn new() -> Stop {
        Stop(Arc::new(watch::Sender::new(false)))
    }

    /// Signals tell it to end, from here on.
    pub fn on_signal() -> Result<Stop, Failure> {
        let failed = |error| Failure::System("watch for signals", error);
        let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(failed)?;
        let stop = Stop::new();
        let shared = stop.clone();
        let watch = move || {
            // Ends with the process: the iterator waits for signals for ever.
            for signal in signals.forever() {
                if shared.is_stopped() {
                    serve::end_by(signal);
                }
                shared.stop();
            }
        };
        thread::Builder::new()
            .name("sapwood-signal".to_string())
            .spawn(watch)
            .map_err(failed)?;
        Ok(stop)
    }

    /// The end of whoever reads stdout tells it to end too: `sapwood sub x | head -1` ends with `head`, although nothing
    /// may be published that would make it notice.
    pub fn on_closed_stdout(&self) -> Result<(), Failure> {
        let stop = self.clone();
        let watch = move || {
            let stdout = io::stdout();
            // Ends when nobody reads: what is not asked for, an error or a hang-up, is always told.
            loop {
                let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
                match poll(&mut watched, None) {
                    Ok(0) | Err(Errno::INTR) => {}
                    Ok(_) => return stop.stop(),
                    // Then the next write has to tell.
                    Err(_) => return,
                }
            }
        };
        let spawned = thread::Builder::new()
            .name("sapwood-stdout".to_string())
            .spawn(watch);
        let failed = |error| Failure::System("watch stdout", error);
        spawned.map(|_| ()).map_err(failed)
    }

    /// Tells it to end.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    /// Whether it has been told.
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is told.
    pub async fn wait(&self) {
        let mut told = self.0.subscribe();
        // The sender lives as long as this value, so waiting cannot fail.
        let _ = told.wait_for(|is_told| *is_told).await;
    }
}
