//! The poking thread: wakes a shard whose wake-up was lost.
//!
//! glommio 0.9 can park with a runnable task, and a bell can be missed by a bug. So a plain thread checks, each
//! [`LOOK_EVERY`], whether a shard stands still although it has something to do: its bell was rung, its inbox holds
//! something, or its ring has completions. Such a shard is poked; one that sleeps with nothing to do is left alone.
//! Once all shards have stood still for [`QUIET_LOOKS`], the thread dozes: it blocks in `poll(2)` on the shards' rings
//! and on an alarm that senders ring ([`Watch::rouse`]), so an idle broker costs nothing but measuring its vitals.
//!
//! Must not know what shards do. Invariant: a thread that is about to doze says so before its last look, and a sender
//! checks whether it dozes after sending, so one of the two notices. Start at [`Poker::run`].

#[cfg(test)]
mod tests;

use crate::mesh::Doors;
use crate::vitals::{self, Meter};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsFd, OwnedFd};
use sapwood_core::Vitals;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::JoinHandle;
use std::time::Duration;

/// Interval of looks while shards move. A lost wake-up delays events by one to two of these.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Consecutive looks that find all shards still before the thread dozes: long enough that steady traffic, however slow,
/// does not rouse it for each message, and short enough that one event a second costs a few looks.
const QUIET_LOOKS: u32 = 10;

/// State of the poking thread's doze, and the alarm by which senders rouse it.
#[derive(Debug)]
pub(crate) struct Watch {
    is_dozing: AtomicBool,
    alarm: OwnedFd,
}

impl Watch {
    /// Fails if no descriptor is left.
    pub(crate) fn new() -> io::Result<Watch> {
        Ok(Watch {
            is_dozing: AtomicBool::new(false),
            alarm: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Makes the thread look again if it dozes; otherwise costs one load. The caller must first have made its changes
    /// visible by a `SeqCst` fence.
    pub(crate) fn rouse(&self) {
        if self.is_dozing.load(Ordering::Relaxed) && self.is_dozing.swap(false, Ordering::AcqRel) {
            // Fails only if the counter is at its maximum, and then the alarm is ringing already.
            let _ = rustix::io::write(&self.alarm, &1u64.to_ne_bytes());
        }
    }

    #[cfg(test)]
    pub(crate) fn is_dozing(&self) -> bool {
        self.is_dozing.load(Ordering::Acquire)
    }
}

/// The poking thread's handles of a shard, besides its door.
#[derive(Debug)]
pub(crate) struct Sleeper {
    /// Pokes the shard.
    pub poke: flume::Sender<()>,
    /// A duplicate of its ring's descriptor, which is readable while completions wait.
    pub ring: OwnedFd,
}

/// A running poking thread.
#[derive(Debug)]
pub(crate) struct PokingThread {
    doors: Arc<Doors>,
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl PokingThread {
    /// Ends the thread and waits for it.
    pub(crate) fn end(self) {
        self.ended.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        self.doors.watch().rouse();
        // The thread can only fail by a panic, which was printed.
        let _ = self.thread.join();
    }
}

/// Starts the poking thread.
pub(crate) fn start(
    doors: Arc<Doors>,
    sleepers: Vec<Sleeper>,
    vitals: Arc<Vitals>,
) -> io::Result<PokingThread> {
    start_dozing(doors, sleepers, vitals, vitals::EVERY)
}

/// Like [`start`], with another maximum of a doze.
fn start_dozing(
    doors: Arc<Doors>,
    sleepers: Vec<Sleeper>,
    vitals: Arc<Vitals>,
    doze: Duration,
) -> io::Result<PokingThread> {
    let ended = Arc::new(AtomicBool::new(false));
    let mut meter = Meter::new(vitals);
    meter.look();
    let mut poker = Poker {
        doors: Arc::clone(&doors),
        still: vec![false; sleepers.len()],
        turns: vec![0; sleepers.len()],
        sleepers,
        ended: Arc::clone(&ended),
        meter,
        doze,
    };
    let thread = std::thread::Builder::new()
        .name("sapwood-poker".to_string())
        .spawn(move || poker.run())?;
    Ok(PokingThread {
        doors,
        ended,
        thread,
    })
}

/// The state of the thread.
struct Poker {
    doors: Arc<Doors>,
    sleepers: Vec<Sleeper>,
    /// For each shard, its turns at the last look, and whether it stood still since the look before.
    turns: Vec<u64>,
    still: Vec<bool>,
    ended: Arc<AtomicBool>,
    meter: Meter,
    /// Maximum length of a doze, because the process is measured in between.
    doze: Duration,
}

impl Poker {
    fn run(&mut self) {
        let mut quiet_looks = 0;
        while !self.ended.load(Ordering::Acquire) {
            self.meter.look();
            self.look();
            let is_moving = self.still.contains(&false);
            if self.poke_who_has_work() || is_moving {
                quiet_looks = 0;
            } else {
                quiet_looks += 1;
            }
            if quiet_looks < QUIET_LOOKS {
                std::thread::sleep(LOOK_EVERY);
            } else if self.doze() {
                quiet_looks = 0;
                // Takes the present turn counts: a shard that does not move on from here is poked at the next look.
                self.look();
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }

    /// Records which shards have done a turn since the last look.
    fn look(&mut self) {
        let shards = self.doors.iter().zip(&mut self.turns).zip(&mut self.still);
        for ((door, seen), still) in shards {
            let turns = door.turns();
            *still = turns == std::mem::replace(seen, turns);
        }
    }

    /// Pokes each shard that stands still with something to do. Returns whether there was one.
    fn poke_who_has_work(&self) -> bool {
        if !self.still.contains(&true) {
            return false;
        }
        let have_completions = self.wait(Some(Duration::ZERO));
        let mut any = false;
        for (place, sleeper) in self.sleepers.iter().enumerate() {
            if self.still[place] && (have_completions[place] || self.doors.has_pending(place)) {
                any = true;
                // Fails if a poke is still unread; one is enough.
                let _ = sleeper.poke.try_send(());
            }
        }
        any
    }

    /// Sleeps until a shard's ring has something, a sender rings the alarm, or it is time to measure. Returns whether
    /// the shards must be watched again.
    fn doze(&self) -> bool {
        let watch = self.doors.watch();
        watch.is_dozing.store(true, Ordering::Relaxed);
        // Pairs with the fence of callers of `rouse`: either they see that the thread dozes, or it sees what they sent.
        fence(Ordering::SeqCst);
        let has_pending = (0..self.sleepers.len()).any(|place| self.doors.has_pending(place));
        let has_ended = self.ended.load(Ordering::Acquire);
        let is_roused = has_pending || has_ended || self.wait(Some(self.doze)).contains(&true);
        watch.is_dozing.store(false, Ordering::Relaxed);
        let mut count = [0; 8];
        // Fails if the alarm has not rung, which is as good.
        let _ = rustix::io::read(&watch.alarm, &mut count);
        is_roused
    }

    /// Waits until a ring has completions or the alarm rings. Returns which of them, the alarm last. After a signal
    /// nothing is known, so all are false.
    fn wait(&self, at_most: Option<Duration>) -> Vec<bool> {
        let rings = self.sleepers.iter().map(|sleeper| sleeper.ring.as_fd());
        let all = rings.chain([self.doors.watch().alarm.as_fd()]);
        let mut polled: Vec<PollFd<'_>> = all
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let at_most = at_most.map(|time| Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        // Fails by a signal, or if the kernel is short of memory: retried at the next look.
        let _ = poll(&mut polled, at_most.as_ref());
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        polled.iter().map(is_ready).collect()
    }
}
