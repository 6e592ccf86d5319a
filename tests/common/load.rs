//! What the load and fault tests add to the harness: thousands of subscribers served by one thread, a
//! publisher that stays within a lead, and what the kernel says about the broker's process.

// Each test binary compiles this module for itself and uses a part of it.
#![allow(dead_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::net::sockopt;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process, prlimit,
    setrlimit, waitid,
};

use super::common::Broker;
use super::common::resp::{RawClient, Value, request};

pub const MIB: u64 = 1024 * 1024;

/// When a test that makes no progress is declared stuck: generous, it is no measure of speed.
pub const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Holds off the other tests of this binary: each of these wants the machine for itself.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing behind that the next one could trip over.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes room for so many descriptors in this process, and in the brokers it starts.
pub fn want_descriptors(count: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    assert!(
        hard >= count,
        "this test needs {count} open files and the hard limit is {hard}: raise it with ulimit -Hn"
    );
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// A file for the test, in the directory that cargo gives to tests; gone with the value.
pub struct File(PathBuf);

impl File {
    pub fn new(text: &str) -> File {
        use std::os::unix::fs::PermissionsExt;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("load-{}-{count}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        File(path)
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A broker with these lines in its `[limits]` table.
pub fn broker_with_limits(shards: usize, limits: &str) -> (Broker, File) {
    let config = File::new(&format!("[limits]\n{limits}\n"));
    let broker = Broker::start(shards, &["--config", config.path()]);
    (broker, config)
}

fn pid(of: u32) -> Pid {
    Pid::from_raw(of as i32).expect("a process has a number above zero")
}

/// Sends a signal to the broker.
pub fn signal(broker: &Broker, signal: Signal) {
    kill_process(pid(broker.pid()), signal).unwrap();
}

/// Waits until the broker has ended by itself and gives its exit code; `None` if a signal killed it.
/// Leaves it to the harness to reap it.
pub fn exit_code(broker: &Broker, limit: Duration) -> Option<i32> {
    let deadline = Instant::now() + limit;
    loop {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(pid(broker.pid())), options).unwrap();
        if let Some(status) = status {
            return status.exit_status();
        }
        assert!(
            Instant::now() < deadline,
            "the broker has not ended within {limit:?}: {}",
            broker.stderr()
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Open descriptors of the broker.
pub fn descriptors(broker: &Broker) -> usize {
    let path = format!("/proc/{}/fd", broker.pid());
    std::fs::read_dir(path).unwrap().count()
}

/// Lowers the broker's limit of open files while it runs.
pub fn limit_descriptors(broker: &Broker, most: u64) {
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    prlimit(Some(pid(broker.pid())), Resource::Nofile, limit).unwrap();
}

/// The broker's threads from the oldest on: their names, and the CPUs on which each may run.
pub fn threads(broker: &Broker) -> Vec<(String, String)> {
    let directory = format!("/proc/{}/task", broker.pid());
    let numbers = std::fs::read_dir(&directory).unwrap();
    let mut numbers: Vec<u32> = numbers
        .map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    let texts = numbers.iter().filter_map(|number| {
        // A thread may end while they are listed.
        std::fs::read_to_string(format!("{directory}/{number}/status")).ok()
    });
    let threads = texts.map(|text| {
        let field = |name| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.expect("a status has it").trim().to_string()
        };
        (field("Name:"), field("Cpus_allowed_list:"))
    });
    threads.collect()
}

/// The kernel's timer (`proc(5)`, the field `tr`) of each established connection that has this local port.
pub fn tcp_timers(port: u16) -> Vec<u8> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let timers = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_ours = fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == "01";
        is_ours.then(|| u8::from_str_radix(&fields[5][..2], 16).expect("a timer's number"))
    });
    timers.collect()
}

/// The most resident memory that the broker has had since [`reset_peak`], in KiB.
pub fn peak_kib(broker: &Broker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.expect("a live process has VmHWM")
}

/// Sets the kernel's high-water mark back to what is resident now.
pub fn reset_peak(broker: &Broker) {
    std::fs::write(format!("/proc/{}/clear_refs", broker.pid()), "5").unwrap();
}

/// What a node may keep beyond what it had when idle, in KiB, derived from `limits.rs`:
///
/// - for each shard its receive buffers (256 of 4 KiB, and one of 128 KiB), its spare output buffers (`SPARE_BYTES_MAX`), and the output
///   that gathers within a turn (`UNFLUSHED_BYTES_MAX`, or `UNFLUSHED_BYTES_EACH` for each receiver);
/// - for each pair of shards what is on the way and what waits (`HANDOVER_WINDOW_BYTES`, `HANDOVER_BACKLOG_BYTES`);
/// - `outbox_bytes`, what the outboxes of all shards together may hold in the test.
///
/// All of it twice, because a vector that grows by doubling is at worst half empty.
pub fn memory_cap_kib(shards: usize, receivers: u64, outbox_bytes: u64) -> u64 {
    let shards = shards as u64;
    let receive_buffers = 256 * 4 * 1024 + 128 * 1024;
    let spare = 8 * MIB;
    let unflushed = shards * MIB + receivers * 4 * 1024;
    let mailboxes = shards * (shards - 1) * 2 * MIB;
    2 * (shards * (receive_buffers + spare) + unflushed + mailboxes + outbox_bytes) / 1024
}

/// Checks the peak since the baseline was taken.
pub fn check_peak(what: &str, broker: &Broker, baseline_kib: u64, cap_kib: u64) {
    let growth = peak_kib(broker) - baseline_kib;
    let shards = broker.shards();
    println!(
        "{what}, {shards} shards: resident {baseline_kib} KiB idle, at most {growth} KiB more; the cap is {cap_kib} KiB"
    );
    assert!(
        growth <= cap_kib,
        "{what}: {growth} KiB more than when idle; the cap is {cap_kib} KiB"
    );
}

pub fn baseline_kib(broker: &Broker) -> u64 {
    reset_peak(broker);
    broker.resident_kib()
}

/// A counter of INFO's section of the broker's own, summed over the shards.
pub fn counter(client: &mut RawClient, name: &str) -> u64 {
    let text = client.call(&["INFO", "sapwood"]).text();
    let values = text.lines().filter_map(|line| {
        let (key, value) = line.trim_end().split_once(':')?;
        (key == name).then(|| value.parse().expect("a counter is a number"))
    });
    let values: Vec<u64> = values.collect();
    assert!(!values.is_empty(), "no counter {name} in {text}");
    values.iter().sum()
}

/// Waits until a condition holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + STUCK_AFTER;
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "still not so after a minute: {what}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// A connection to the shard with this number. The kernel chooses, so it takes a few attempts.
pub fn connect_to_shard(port: u16, shard: usize) -> RawClient {
    for _ in 0..1_000 {
        let mut client = RawClient::connect(port);
        let info = client.call(&["CLIENT", "INFO"]).text();
        if info
            .split_whitespace()
            .any(|word| word == format!("shard={shard}"))
        {
            return client;
        }
    }
    panic!("a thousand connections, and none is at shard {shard}");
}

/// Closes a connection by a reset, as when its process vanishes with data unread.
pub fn reset(client: RawClient) {
    sockopt::set_socket_linger(client.stream(), Some(Duration::ZERO)).unwrap();
}

/// The frame of an event as a RESP2 subscriber gets it.
pub fn event(topic: &str, payload: &[u8]) -> Vec<u8> {
    request(&[b"message", topic.as_bytes(), payload])
}

/// A payload of `size` bytes (at least 24) that names its publisher and its number.
pub fn payload(publisher: usize, number: u64, size: usize) -> Vec<u8> {
    let mut bytes = format!("{publisher:03} {number:019} ").into_bytes();
    let filler = (b'a'..=b'z').cycle().skip(number as usize % 26);
    bytes.extend(filler.take(size - bytes.len()));
    bytes
}

/// The publisher and number that stand in a payload of [`payload`].
pub fn numbers(payload: &[u8]) -> (usize, u64) {
    let text = std::str::from_utf8(&payload[..23]).expect("a payload starts with its numbers");
    let (publisher, number) = text.split_once(' ').expect("two numbers");
    (publisher.parse().unwrap(), number.parse().unwrap())
}

/// Many connections that one thread reads, each with what the test remembers of it.
pub struct Crowd<T> {
    epoll: OwnedFd,
    /// Keeps `epoll_wait` quiet about nothing: closed members leave a hole.
    pub members: Vec<Option<(TcpStream, T)>>,
    buffer: Vec<u8>,
    events: Vec<epoll::Event>,
}

impl<T> Crowd<T> {
    pub fn new() -> Crowd<T> {
        Crowd {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
            members: Vec::new(),
            buffer: vec![0; 256 * 1024],
            events: Vec::with_capacity(1024),
        }
    }

    pub fn add(&mut self, stream: TcpStream, state: T) {
        stream.set_nonblocking(true).unwrap();
        let place = epoll::EventData::new_u64(self.members.len() as u64);
        epoll::add(&self.epoll, &stream, place, epoll::EventFlags::IN).unwrap();
        self.members.push(Some((stream, state)));
    }

    /// Reads once from each member that has something, waiting up to 100 ms for the first. `take` gets
    /// the member's place, its state and its bytes: none when it was closed, after which it is gone.
    pub fn read(&mut self, mut take: impl FnMut(usize, &mut T, &[u8])) {
        let most = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        self.events.clear();
        let room = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, room, Some(&most)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("epoll_wait failed: {error}"),
        }
        for event in &self.events {
            let place = { event.data }.u64() as usize;
            let Some((stream, state)) = &mut self.members[place] else {
                continue;
            };
            match stream.read(&mut self.buffer) {
                Ok(count) => {
                    take(place, state, &self.buffer[..count]);
                    if count == 0 {
                        self.members[place] = None;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    take(place, state, &[]);
                    self.members[place] = None;
                }
                Err(error) => panic!("reading member {place} failed: {error}"),
            }
        }
    }
}

/// Connects and subscribes to one topic, and reads the confirmation.
pub fn subscribed(port: u16, topic: &str) -> TcpStream {
    let mut client = RawClient::connect(port);
    let confirmation = client.call(&["SUBSCRIBE", topic]);
    let words = [
        Value::bulk("subscribe"),
        Value::bulk(topic),
        Value::Integer(1),
    ];
    assert_eq!(confirmation, Value::Array(words.to_vec()));
    client
        .stream()
        .try_clone()
        .expect("a descriptor for the copy")
}

/// How far all subscribers are, for a publisher that must not run away from them.
#[derive(Clone, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    pub fn set(&self, events: u64) {
        self.0.store(events, Ordering::Release);
    }

    pub fn events(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A publisher at full speed, in two threads: one writes, the other reads the replies.
pub struct Publisher {
    writer: JoinHandle<u64>,
    replies: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

/// What a publisher does.
pub struct Publishing {
    /// How many events at most.
    pub events: u64,
    /// How many of them it may be ahead of the slowest subscriber. It goes on when half of that is free.
    pub lead: u64,
    /// The count in every reply.
    pub receivers: u64,
}

impl Publishing {
    /// For `receivers`: the count changes, but always has one digit.
    pub const ANY_DIGIT: u64 = u64::MAX;
}

impl Publisher {
    /// Starts to publish; `build` appends the request of the event with the number it is given.
    pub fn start(
        client: &RawClient,
        publishing: Publishing,
        progress: Progress,
        build: impl Fn(u64, &mut Vec<u8>) + Send + 'static,
    ) -> Publisher {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let written = Arc::new(AtomicU64::new(u64::MAX));
        let to_come = Arc::clone(&written);
        let mut output = client.stream().try_clone().unwrap();
        let input = client.stream().try_clone().unwrap();
        input.set_nonblocking(false).unwrap();
        let reply = match publishing.receivers {
            Publishing::ANY_DIGIT => b":?\r\n".to_vec(),
            receivers => format!(":{receivers}\r\n").into_bytes(),
        };
        let writer = thread::spawn(move || {
            let mut number = 0;
            let mut requests = Vec::new();
            let mut waiting_since = Instant::now();
            while number < publishing.events && !stopped.load(Ordering::Relaxed) {
                let until = (progress.events() + publishing.lead).min(publishing.events);
                // In bursts: one event at a time would measure system calls.
                if number + publishing.lead / 2 > until && until < publishing.events {
                    assert!(waiting_since.elapsed() < STUCK_AFTER, "nobody reads on");
                    thread::sleep(Duration::from_micros(200));
                    continue;
                }
                requests.clear();
                while number < until && requests.len() < 256 * 1024 {
                    build(number, &mut requests);
                    number += 1;
                }
                output.write_all(&requests).expect("the broker reads on");
                waiting_since = Instant::now();
            }
            written.store(number, Ordering::Release);
            number
        });
        let replies = thread::spawn(move || read_replies(input, &reply, &to_come));
        Publisher {
            writer,
            replies,
            stop,
        }
    }

    /// Publishes nothing more.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether all is written.
    pub fn is_done(&self) -> bool {
        self.writer.is_finished()
    }

    /// Waits for the last reply; gives how many events were published.
    pub fn join(self) -> u64 {
        let published = self.writer.join().expect("the publisher writes");
        self.replies.join().expect("the replies come");
        published
    }
}

/// Reads replies until there is one for each event; `events` is known once all are written.
fn read_replies(mut input: TcpStream, reply: &[u8], events: &AtomicU64) {
    let mut chunk = vec![0; 64 * 1024];
    let mut taken = 0;
    // A timeout only looks again whether all events are written.
    input
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut waiting_since = Instant::now();
    loop {
        let all = events.load(Ordering::Acquire);
        if taken as u64 == all.saturating_mul(reply.len() as u64) {
            return;
        }
        match input.read(&mut chunk) {
            Ok(0) => panic!("the broker closed the publisher"),
            Ok(count) => {
                for &byte in &chunk[..count] {
                    let wanted = reply[taken % reply.len()];
                    let fits = byte == wanted || wanted == b'?' && byte.is_ascii_digit();
                    assert!(fits, "another count of receivers");
                    taken += 1;
                }
                waiting_since = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(
                    waiting_since.elapsed() < STUCK_AFTER || all == u64::MAX,
                    "no reply in time"
                );
            }
            Err(error) => panic!("the publisher's replies: {error}"),
        }
    }
}

/// A stream of equal-sized events that each subscriber must get whole and in order.
pub struct Expected {
    /// The frames of one period.
    frames: Vec<u8>,
    frame_bytes: usize,
    total_bytes: u64,
}

impl Expected {
    /// `events` events of which the payloads repeat after `period`.
    pub fn new(topic: &str, size: usize, period: u64, events: u64) -> Expected {
        let frames: Vec<u8> = (0..period)
            .flat_map(|number| event(topic, &payload(0, number, size)))
            .collect();
        let frame_bytes = frames.len() / period as usize;
        Expected {
            frame_bytes,
            frames,
            total_bytes: events * frame_bytes as u64,
        }
    }

    pub fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Checks what comes after the first `at` bytes.
    pub fn check(&self, at: u64, bytes: &[u8]) {
        let mut at = (at % self.frames.len() as u64) as usize;
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let count = bytes.len().min(self.frames.len() - at);
            assert!(
                bytes[..count] == self.frames[at..at + count],
                "an event is missing, out of order or changed near {:?}",
                String::from_utf8_lossy(&bytes[..count.min(200)])
            );
            bytes = &bytes[count..];
            at = (at + count) % self.frames.len();
        }
    }

    /// Reads until every member of the crowd has all of it; their state is how many bytes they have.
    pub fn all_arrive(&self, crowd: &mut Crowd<u64>, progress: &Progress) {
        let mut missing = crowd.members.len();
        let mut last_news = Instant::now();
        while missing > 0 {
            crowd.read(|place, have, bytes| {
                assert!(!bytes.is_empty(), "healthy subscriber {place} was closed");
                self.check(*have, bytes);
                *have += bytes.len() as u64;
                missing -= usize::from(*have == self.total_bytes);
                assert!(*have <= self.total_bytes, "more than was published");
                last_news = Instant::now();
            });
            let slowest = crowd.members.iter().flatten().map(|(_, have)| *have).min();
            progress.set(slowest.unwrap_or(0) / self.frame_bytes as u64);
            assert!(
                last_news.elapsed() < STUCK_AFTER,
                "{missing} subscribers wait for more, the slowest has {slowest:?} bytes"
            );
        }
    }
}
