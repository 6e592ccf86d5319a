//! Pacing: whether delaying reads increases the throughput.
//!
//! A publisher that writes each message by itself makes the shard read, deliver and write each one by itself, which
//! costs ten times as much as handling a few at once. If a shard is never idle and its turns carry little, it tries to
//! read such connections only every [`HOLD_NS`], and goes on if more messages got through. With clients that wait for
//! answers fewer get through, so the trial itself rejects pacing for them. Only reads are delayed, never output. Owns
//! the decision alone: holding reads is the business of [`crate::conn`]. Has no clock: time is passed in. Start at
//! [`Pacer::turn_ended`].

/// How long a paced connection is not read: long enough for some tens of messages, short compared with the delay on a
/// saturated shard.
pub(crate) const HOLD_NS: u64 = 100_000;

/// Length of an epoch, the unit of measuring: long enough to count hundreds of messages, short enough that a failed
/// trial costs little.
const EPOCH_NS: u64 = 4_000_000;

/// Epochs of a trial. The first is not judged, because messages that waited before count in it.
const TRIAL_EPOCHS: u32 = 3;

/// A shard that sleeps for a greater share of its time than this is not paced. Publishers slowed down by the answers
/// that they have to read let it sleep a little.
const IDLE_SHARE_MAX: f64 = 0.2;

/// Turns with more messages than this gain nothing from pacing.
const MESSAGES_EACH_TURN_MAX: u64 = 64;

/// Minimum messages in an epoch (10,000/s) for a trial.
const MESSAGES_MIN: u64 = 40;

/// A trial must increase the messages by at least this factor.
const GAIN_MIN: f64 = 1.15;

/// Epochs until the next trial after a failed one, minimum and maximum: doubled each time, so that in the end trials
/// cost clients that wait for answers less than a fiftieth of their rate.
const PAUSE_EPOCHS: (u32, u32) = (8, 256);

/// Epochs of pacing until it is judged again.
const PACED_EPOCHS: u32 = 128;

/// Consecutive worse epochs that end pacing: a single one may be due to the scheduler.
const WORSE_EPOCHS: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Prompt,
    /// A trial: epochs left, the rate before in messages a nanosecond, and the best rate since.
    Trial {
        left: u32,
        before: f64,
        best: f64,
    },
    /// Pacing: epochs left, the rate before the trial, and the number of consecutive worse epochs.
    Paced {
        left: u32,
        before: f64,
        worse: u32,
    },
}

/// The pacing decision of one shard, and its measurements.
#[derive(Debug)]
pub(crate) struct Pacer {
    mode: Mode,
    epoch_began: u64,
    messages_before: u64,
    turns: u64,
    cpu_before: u64,
    /// Epochs until the next trial may begin.
    pause: u32,
    next_pause: u32,
    /// Number of successful trials.
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

    /// Whether reads of busy connections are delayed at present.
    pub(crate) fn is_pacing(&self) -> bool {
        self.mode != Mode::Prompt
    }

    /// Records the end of a turn: the time, and the total of messages that the shard has handled. `cpu_ns` returns its
    /// total CPU time, and is called once an epoch.
    pub(crate) fn turn_ended(&mut self, now_ns: u64, messages: u64, cpu_ns: impl FnOnce() -> u64) {
        self.turns += 1;
        let elapsed = now_ns.saturating_sub(self.epoch_began);
        if elapsed < EPOCH_NS {
            return;
        }
        // Clocks around the waits cannot tell the time asleep: the kernel receives in the same call.
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
            // Conditions may have changed: pacing stops until a trial succeeds.
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

    /// A simulated shard: turns take `turn_ns` and handle `messages` each; both may depend on pacing.
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

        /// Runs for so long. Returns the share of time with pacing.
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
        // When delayed, each client still has one request in flight.
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
