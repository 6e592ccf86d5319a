//! Whether delaying reads pays.
//!
//! A publisher that writes each message by itself makes the shard read, deliver and write each by
//! itself, which costs ten times as much as a few at once. Where a shard is never idle and its turns
//! carry little, it tries to read such connections only every [`HOLD_NS`], and goes on if more
//! messages got through; clients that wait for answers get fewer through, so the trial itself
//! rejects it for them. Only reads are delayed, never output. Owns the decision alone: what is held
//! is the business of [`crate::conn`]. Knows no clock: time is told. Start at [`Pacer::turn_ended`].

/// How long a paced connection is not read: long enough for some tens of messages, short beside
/// what a saturated shard makes them wait anyway.
pub(crate) const HOLD_NS: u64 = 100_000;

/// What is judged at once: long enough to count hundreds of messages, short enough that a trial that
/// fails costs little.
const EPOCH_NS: u64 = 4_000_000;

/// Epochs of a trial; the first is not judged, because what waited before counts in it.
const TRIAL_EPOCHS: u32 = 3;

/// A shard that sleeps for more than this share of its time has time to be prompt. Publishers that
/// are the slower for every answer they have to read let it sleep a little.
const IDLE_SHARE_MAX: f64 = 0.2;

/// Turns that carry more messages gain nothing by waiting for more.
const MESSAGES_EACH_TURN_MAX: u64 = 64;

/// Fewer messages in an epoch than this (10,000/s) are not worth a trial.
const MESSAGES_MIN: u64 = 40;

/// A trial must let through so much more.
const GAIN_MIN: f64 = 1.15;

/// Epochs until the next trial, after one that failed: doubled each time, so that trials cost
/// clients that wait for answers less than a fiftieth of their rate in the end.
const PAUSE_EPOCHS: (u32, u32) = (8, 256);

/// Epochs until it is looked whether pacing still pays.
const PACED_EPOCHS: u32 = 128;

/// So many epochs in a row that are worse than before end it: one may be the scheduler's.
const WORSE_EPOCHS: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Prompt,
    /// So many epochs are left; messages a nanosecond before, and in the best epoch since.
    Trial {
        left: u32,
        before: f64,
        best: f64,
    },
    /// The same; and for so many epochs it was worse than before.
    Paced {
        left: u32,
        before: f64,
        worse: u32,
    },
}

/// The decision of one shard, and what it rests on.
#[derive(Debug)]
pub(crate) struct Pacer {
    mode: Mode,
    epoch_began: u64,
    messages_before: u64,
    turns: u64,
    cpu_before: u64,
    /// Epochs until a trial may begin.
    pause: u32,
    next_pause: u32,
    /// Trials that were kept so far.
    pub kept: u64,
}

impl Pacer {
    pub(crate) fn new() -> Pacer {
        Pacer {
            mode: Mode::Prompt,
            epoch_began: 0,
            messages_before: 0,
            turns: 0,
            cpu_before: 0,
            pause: 0,
            next_pause: PAUSE_EPOCHS.0,
            kept: 0,
        }
    }

    /// Whether reads of busy connections are delayed now.
    pub(crate) fn is_pacing(&self) -> bool {
        self.mode != Mode::Prompt
    }

    /// Takes note of a turn: the time, and the messages that the shard has handled in all. `cpu_ns` is the
    /// CPU time that it has used in all, and asked for once an epoch.
    pub(crate) fn turn_ended(&mut self, now_ns: u64, messages: u64, cpu_ns: impl FnOnce() -> u64) {
        self.turns += 1;
        let elapsed = now_ns.saturating_sub(self.epoch_began);
        if elapsed < EPOCH_NS {
            return;
        }
        // Time asleep cannot be told by clocks around the waits: the kernel receives in the same call.
        let cpu_ns = cpu_ns();
        let idle_ns = elapsed.saturating_sub(cpu_ns.saturating_sub(self.cpu_before));
        let count = messages.saturating_sub(self.messages_before);
        let is_busy = (idle_ns as f64) < elapsed as f64 * IDLE_SHARE_MAX;
        let is_thin = count < self.turns * MESSAGES_EACH_TURN_MAX;
        let rate = count as f64 / elapsed as f64;
        self.judge(is_busy && is_thin && count >= MESSAGES_MIN, rate);
        self.epoch_began = now_ns;
        self.messages_before = messages;
        self.turns = 0;
        self.cpu_before = cpu_ns;
    }

    fn judge(&mut self, is_worth_it: bool, rate: f64) {
        self.mode = match self.mode {
            Mode::Prompt if !is_worth_it => Mode::Prompt,
            Mode::Prompt if self.pause > 0 => {
                self.pause -= 1;
                Mode::Prompt
            }
            Mode::Prompt => Mode::Trial {
                left: TRIAL_EPOCHS,
                before: rate,
                best: 0.0,
            },
            Mode::Trial { left, before, best } if left > 1 => Mode::Trial {
                left: left - 1,
                before,
                best: if left < TRIAL_EPOCHS { rate } else { best },
            },
            Mode::Trial { before, best, .. } if rate.max(best) >= before * GAIN_MIN => {
                self.next_pause = PAUSE_EPOCHS.0;
                self.kept += 1;
                Mode::Paced {
                    left: PACED_EPOCHS,
                    before,
                    worse: 0,
                }
            }
            Mode::Trial { .. } => {
                self.pause = self.next_pause;
                self.next_pause = (2 * self.next_pause).min(PAUSE_EPOCHS.1);
                Mode::Prompt
            }
            // No longer what it was: whoever comes now is prompt until a trial says otherwise.
            Mode::Paced { left, worse, .. } if left == 1 || worse >= WORSE_EPOCHS => Mode::Prompt,
            Mode::Paced {
                left,
                before,
                worse,
            } => Mode::Paced {
                left: left - 1,
                before,
                worse: if rate < before { worse + 1 } else { 0 },
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shard whose turns take `turn_ns` and handle `messages` each; both may depend on pacing.
    struct Load {
        pacer: Pacer,
        now: u64,
        slept: u64,
        messages: u64,
    }

    impl Load {
        fn new() -> Load {
            Load {
                pacer: Pacer::new(),
                now: 0,
                slept: 0,
                messages: 0,
            }
        }

        /// Runs for so long; gives the share of time that it was paced.
        fn run(
            &mut self,
            milliseconds: u64,
            turn: impl Fn(bool) -> (u64, u64),
            slept_ns: u64,
        ) -> f64 {
            let (begin, end) = (self.now, self.now + milliseconds * 1_000_000);
            let mut paced = 0;
            while self.now < end {
                let is_pacing = self.pacer.is_pacing();
                let (turn_ns, messages) = turn(is_pacing);
                self.now += turn_ns;
                paced += if is_pacing { turn_ns } else { 0 };
                self.messages += messages;
                self.slept += slept_ns;
                let cpu = self.now - self.slept;
                self.pacer.turn_ended(self.now, self.messages, || cpu);
            }
            paced as f64 / (self.now - begin) as f64
        }
    }

    #[test]
    fn a_publisher_that_gets_more_through_is_paced() {
        let mut load = Load::new();
        let turn = |is_pacing| if is_pacing { (100_000, 30) } else { (8_000, 1) };
        assert!(load.run(2_000, turn, 0) > 0.9);
        assert!(load.pacer.kept > 1, "it is looked again whether it pays");
    }

    #[test]
    fn clients_that_wait_for_answers_are_left_alone() {
        let mut load = Load::new();
        // Delayed, each still has one request under way.
        let turn = |is_pacing| {
            if is_pacing {
                (100_000, 10)
            } else {
                (40_000, 10)
            }
        };
        load.run(2_000, turn, 0);
        let share = load.run(10_000, turn, 0);
        assert!(share < 0.02, "paced for {share} of the time");
        assert_eq!(load.pacer.kept, 0);
    }

    #[test]
    fn a_shard_that_sleeps_or_carries_much_is_left_alone() {
        let better = |is_pacing: bool| (8_000, if is_pacing { 10 } else { 1 });
        assert_eq!(Load::new().run(1_000, better, 2_000), 0.0);
        assert_eq!(Load::new().run(1_000, |_| (50_000, 500), 0), 0.0);
        assert_eq!(Load::new().run(1_000, |_| (1_000_000, 1), 0), 0.0);
    }

    #[test]
    fn pacing_ends_with_what_it_was_good_for() {
        let mut load = Load::new();
        let turn = |is_pacing| if is_pacing { (100_000, 30) } else { (8_000, 1) };
        load.run(500, turn, 0);
        assert!(load.pacer.is_pacing());
        load.run(20, |_| (100_000, 1), 90_000);
        assert!(!load.pacer.is_pacing());
    }
}
