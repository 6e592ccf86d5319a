//! One node's state plane, its disk, its clients, and what happens to them.
//!
//! Owns all parts of a history and the order in which they take steps. Start at [`World::play`].

use super::client::Client;
use super::history::History;
use super::io::{Faults, Io};
use super::log_thread::LogThread;
use super::model::ModelPartition;
use super::start::Came;
use super::worker::{Call, Expected, Pending, Worker};
use super::{Sabotage, Story, Sum};
use crate::rng::{Rng, Trace};
use crate::{Failure, fail};
use sapwood_state::log::{RECORDS_OFFSET, Remembered, Settings};
use sapwood_state::store::{Family, MemoryStore};
use sapwood_state::streams::Floors;
use sapwood_wire::state::PartitionId;
use std::collections::{BTreeMap, VecDeque};

pub(super) const SECRET: [u8; 16] = *b"one of directory";

/// Steps after which everything must be answered once nothing goes wrong any more.
const DRAIN_STEPS: usize = 20_000;

/// Longest commands of an entry: one long body has room.
const COMMAND_BYTES_MAX: usize = 5_000;

/// A partition, and what it must be.
pub(super) struct Place {
    pub model: ModelPartition,
    /// Entries that were handed to the log and not applied.
    pub pending: VecDeque<Pending>,
    /// The numbers of its proposals, by index.
    pub numbers: BTreeMap<u64, u64>,
    /// Calls that change streams, in the order in which the worker took them.
    pub controls: VecDeque<u64>,
}

pub(crate) struct World {
    pub(super) io: Io,
    pub(super) history: History,
    pub(super) store: MemoryStore,
    /// As the store's last flush has it.
    pub(super) remembered: Remembered,
    floors: Floors,
    /// A flush that goes on: what it remembers, and when it is durable.
    flush: Option<(Remembered, u64)>,
    /// Longest flush.
    flush_ms_max: usize,
    pub(super) settings: Settings,
    pub(super) partitions: usize,
    pub(super) places: Vec<Place>,
    pub(super) log: Option<LogThread>,
    pub(super) inbox_max: usize,
    pub(super) mailbox_max: usize,
    pub(super) workers: Vec<Worker>,
    pub(super) clients: Vec<Client>,
    /// Calls that are not answered.
    pub(super) calls: BTreeMap<u64, Call>,
    pub(super) expected: Expected,
    /// Calls of which nobody knows what became; those with ids may be made again.
    pub(super) unknown: Vec<Call>,
    pub(super) next_call: u64,
    pub(super) next_message: u64,
    /// What the sequences of `fsync` streams mean.
    pub(super) seen: BTreeMap<(usize, u32, u64), Vec<u8>>,
    /// Up to where readers have read.
    pub(super) cursors: BTreeMap<(usize, u32), u64>,
    pub(super) clock_steps_back: bool,
    pub(super) is_draining: bool,
    pub(super) trace: Trace,
    steps: u64,
    story: Story,
}

impl World {
    pub(crate) fn new(story: Story) -> World {
        let mut rng = Rng::new(story.seed ^ 0x57A7E);
        let faults = faults_of(&mut rng);
        let partitions = rng.within(1..9);
        let settings = settings_of(&mut rng);
        let (workers, clients) = (rng.within(1..4).min(partitions), rng.within(1..7));
        World {
            history: History::new(partitions),
            store: MemoryStore::default(),
            remembered: Remembered::default(),
            floors: Floors::default(),
            flush: None,
            flush_ms_max: rng.pick(&[1, 30, 400]),
            settings,
            partitions,
            places: Vec::new(),
            log: None,
            inbox_max: rng.within(1..7),
            mailbox_max: rng.within(2..9),
            workers: (0..workers).map(|_| Worker::default()).collect(),
            clients: (0..clients).map(|_| Client::default()).collect(),
            calls: BTreeMap::new(),
            expected: Expected::default(),
            unknown: Vec::new(),
            next_call: 1,
            next_message: 1,
            seen: BTreeMap::new(),
            cursors: BTreeMap::new(),
            clock_steps_back: faults.clock_steps > 0,
            is_draining: false,
            trace: Trace::default(),
            steps: 0,
            io: Io {
                disk: Default::default(),
                rng,
                faults,
                sabotage: story.sabotage,
                now_ms: 0,
                wall_ms: 1_700_000_000_000,
                has_failed: false,
                sum: Sum::default(),
            },
            story,
        }
    }

    /// Steps taken so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Plays the history through.
    pub(crate) fn play(&mut self) -> Result<Sum, Failure> {
        if self.start()? == Came::Refused {
            return Ok(self.sum());
        }
        for _ in 0..self.story.steps {
            let is_hopeless = self.io.has_failed && self.io.rng.percent(2);
            if is_hopeless || self.io.happens(self.io.faults.crash) {
                self.crash();
                if self.start()? == Came::Refused {
                    return Ok(self.sum());
                }
            }
            self.step()?;
        }
        self.io.faults = Faults {
            sync_ms_max: 20,
            ..Faults::default()
        };
        self.drain()?;
        // What was acknowledged last must survive too.
        self.crash();
        self.start()?;
        self.compare_replica()?;
        Ok(self.sum())
    }

    fn sum(&self) -> Sum {
        Sum {
            trace: self.trace.0,
            ..self.io.sum.clone()
        }
    }

    /// Nothing goes wrong any more: everything is answered.
    fn drain(&mut self) -> Result<(), Failure> {
        if self.io.has_failed {
            self.crash();
            self.start()?;
        }
        self.is_draining = true;
        for _ in 0..DRAIN_STEPS {
            if self.calls.is_empty() {
                self.is_draining = false;
                return self.compare_all();
            }
            self.step()?;
        }
        let log = self.log.as_ref().map(LogThread::describe);
        let open = self.calls.keys().take(5);
        let text = format!(
            "{} calls, such as {:?}; log: {log:?}",
            self.calls.len(),
            open.collect::<Vec<_>>()
        );
        fail("unanswered", text)
    }

    fn step(&mut self) -> Result<(), Failure> {
        self.steps += 1;
        let passes = self.io.rng.pick(&[0, 0, 0, 1, 1, 5]);
        self.io.now_ms += passes;
        self.io.wall_ms += passes;
        match self.io.rng.below(100) {
            0..22 => self.step_client(),
            22..50 => self.step_worker()?,
            50..80 => {
                if let Some(log) = &mut self.log {
                    log.step(&mut self.io, &mut self.history);
                }
            }
            80..89 => {
                if let Some(log) = &mut self.log {
                    log.step_preparing(&mut self.io);
                }
            }
            89..93 => self.read()?,
            93 => self.look_up()?,
            94..97 => self.step_flush()?,
            97 => self.compact()?,
            98 => self.step_clock(),
            _ => self.io.wall_ms += self.io.rng.below(1_500) as u64,
        }
        Ok(())
    }

    fn step_clock(&mut self) {
        if self.io.happens(self.io.faults.clock_steps) {
            let by = self.io.rng.below(40_000) as u64;
            match self.io.rng.percent(50) {
                true => {
                    self.io.note("clock steps back");
                    self.io.wall_ms -= by;
                }
                false => {
                    self.io.note("clock steps forward");
                    self.io.wall_ms += by;
                }
            }
        }
    }

    /// Begins a flush of the store, or ends the one that goes on.
    fn step_flush(&mut self) -> Result<(), Failure> {
        let Some(log) = self.log.as_mut().filter(|log| !log.writer.is_failed()) else {
            return Ok(());
        };
        let Some((remembered, end_ms)) = self.flush else {
            if self.io.rng.percent(40) {
                let places = &self.places;
                let applied = |of: PartitionId| {
                    places
                        .get(usize::from(of.0))
                        .map_or(0, |place| place.model.applied)
                };
                let remembered = log.writer.remember(applied);
                self.flush = Some((
                    remembered,
                    self.io.now_ms + self.io.rng.below(self.flush_ms_max) as u64,
                ));
                if self.io.is_sabotaged(Sabotage::FlushedTooEarly) {
                    log.writer.handle_flushed(remembered);
                }
            }
            return Ok(());
        };
        if end_ms > self.io.now_ms {
            return Ok(());
        }
        self.flush = None;
        self.store.flush();
        log.writer.handle_flushed(remembered);
        self.remembered = remembered;
        self.floors = self.floors_now()?;
        self.io.note("store flushed");
        Ok(())
    }

    fn floors_now(&self) -> Result<Floors, Failure> {
        let mut floors = Floors::default();
        for number in 0..self.partitions as u16 {
            let read = floors.read(PartitionId(number), &self.store);
            read.or_else(|error| fail("store", error.to_string()))?;
        }
        Ok(floors)
    }

    fn compact(&mut self) -> Result<(), Failure> {
        if self.io.is_sabotaged(Sabotage::UnflushedFloor) {
            self.floors = self.floors_now()?;
        }
        let floors = &self.floors;
        let rows = |store: &MemoryStore| Family::ALL.map(|family| store.len(family));
        let before = rows(&self.store);
        self.store
            .compact(|family, key, value| floors.is_dead(family, key, value));
        if rows(&self.store) != before {
            self.io.note("dead rows compacted");
        }
        Ok(())
    }

    /// The process ends without a word, or all power does.
    pub(super) fn crash(&mut self) {
        let (disk, rng) = (&mut self.io.disk, &mut self.io.rng);
        match rng.percent(50) {
            true => {
                disk.power_cut(rng);
                self.history.lost_power = true;
                self.io.note("power cut");
            }
            false => self.io.note("kill"),
        }
        if self.flush.take().is_some() {
            self.io.note("crash during a flush");
        }
        self.store.crash();
        if let Some(log) = self.log.take()
            && !log.is_idle()
        {
            self.io.note("crash with entries under way");
        }
        self.places.clear();
        self.workers.iter_mut().for_each(Worker::forget);
        self.expected = Expected::default();
        self.clients.iter_mut().for_each(Client::forget);
        if !self.calls.is_empty() {
            self.io.note("calls in flight at a crash");
        }
        self.unknown
            .extend(std::mem::take(&mut self.calls).into_values());
    }
}

/// Segments in which a few of the longest records have room.
pub(super) fn settings_of(rng: &mut Rng) -> Settings {
    let record_bytes_max = COMMAND_BYTES_MAX + 200 + rng.below(1_500);
    let least = RECORDS_OFFSET as usize + record_bytes_max + 100;
    let mut size = || (least + rng.below(6_000)) as u32;
    Settings {
        first_segment_bytes: size(),
        segment_bytes: size(),
        command_bytes_max: COMMAND_BYTES_MAX,
        record_bytes_max,
        append_bytes_max: 8_000,
    }
}

fn faults_of(rng: &mut Rng) -> Faults {
    Faults {
        sync_fails: rng.pick(&[0, 0, 2, 10]),
        write_fails: rng.pick(&[0, 0, 1, 3]),
        no_space: rng.pick(&[0, 0, 1, 10]),
        crash: rng.pick(&[2, 5, 12]),
        crash_in_start: rng.pick(&[0, 10, 60]),
        flip: rng.pick(&[0, 20, 60]),
        clock_steps: rng.pick(&[0, 0, 300]),
        sync_ms_max: rng.pick(&[2, 40, 400]),
    }
}
