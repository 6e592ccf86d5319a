//! The ring against real sockets.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;
use crate::testing::alone;

/// Time-out of waits: long enough for any machine, reached only if a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

fn small() -> RingConfig {
    RingConfig {
        submissions: 64,
        completions: 256,
        buffers: 8,
        buffer_bytes: 4096,
    }
}

fn ring(config: RingConfig) -> Ring {
    Ring::new(config).expect("these tests need io_uring")
}

/// Waits until `count` completions have come.
fn collect(ring: &mut Ring, count: usize) -> Vec<Completion> {
    let start = Instant::now();
    let mut done = Vec::new();
    while done.len() < count {
        assert!(
            start.elapsed() < PATIENCE,
            "only {} of {count} completions: {done:?}",
            done.len()
        );
        ring.submit_and_wait(Duration::from_millis(100)).unwrap();
        ring.completions(&mut done);
    }
    assert_eq!(
        done.len(),
        count,
        "more completions than requests: {done:?}"
    );
    done
}

fn one(ring: &mut Ring) -> Completion {
    collect(ring, 1)[0]
}

fn eventfd() -> OwnedFd {
    // SAFETY: eventfd takes no pointers; the new descriptor is owned by nobody else.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    }
}

fn add_to(eventfd: RawFd, count: u64) {
    // SAFETY: eight readable bytes, as eventfd(2) demands.
    let written = unsafe { libc::write(eventfd, (&raw const count).cast(), 8) };
    assert_eq!(written, 8);
}

fn fill(socket: &UnixStream) {
    socket.set_nonblocking(true).unwrap();
    let chunk = [0; 65536];
    while (&*socket).write(&chunk).is_ok() {}
    socket.set_nonblocking(false).unwrap();
}

#[test]
fn one_byte_is_echoed() {
    for expect in [Expect::Now, Expect::Later] {
        let mut ring = ring(small());
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ring.receive(ours.as_raw_fd(), Token(7), expect);
        ring.submit().unwrap();
        assert!(!ring.has_completions());
        theirs.write_all(b"x").unwrap();
        let done = one(&mut ring);
        assert_eq!((done.token, done.result), (Token(7), Ok(1)));
        let id = done.buffer.expect("a byte comes in a buffer");
        (&ours).write_all(ring.buffer(id, 1)).unwrap();
        ring.release(id);
        let mut echo = [0];
        theirs.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"x");
    }
}

#[test]
fn end_of_stream_is_zero_bytes_without_a_buffer() {
    let mut ring = ring(small());
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    // More ended connections than buffers: each must give its buffer back.
    for _ in 0..small().buffers * 4 {
        ring.receive(ours.as_raw_fd(), Token(1), Expect::Now);
        let done = one(&mut ring);
        assert_eq!((done.result, done.buffer), (Ok(0), None));
    }
}

#[test]
fn a_megabyte_arrives_whole_through_few_buffers() {
    const TOTAL: usize = 1 << 20;
    let mut ring = ring(small());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (receiver, _) = listener.accept().unwrap();
    let sent: Vec<u8> = (0..TOTAL).map(|i| (i * 31 + i / 4096) as u8).collect();
    let copy = sent.clone();
    let thread = std::thread::spawn(move || sender.write_all(&copy).unwrap());
    let (mut got, mut said_more, mut expect) = (Vec::new(), 0, Expect::Later);
    while got.len() < TOTAL {
        ring.receive(receiver.as_raw_fd(), Token(3), expect);
        let done = one(&mut ring);
        let id = done.buffer.expect("data comes in a buffer");
        got.extend_from_slice(ring.buffer(id, done.result.unwrap() as usize));
        ring.release(id);
        said_more += usize::from(done.more_waiting);
        expect = if done.more_waiting {
            Expect::Now
        } else {
            Expect::Later
        };
    }
    thread.join().unwrap();
    assert!(got == sent, "bytes differ");
    assert!(
        said_more > 0,
        "a socket with a megabyte behind it never said that more was waiting"
    );
}

#[test]
fn sockets_beyond_the_buffers_fail_and_succeed_when_asked_again() {
    const SOCKETS: u64 = 100;
    let mut ring = ring(small());
    let pairs: Vec<_> = (0..SOCKETS).map(|_| UnixStream::pair().unwrap()).collect();
    for (index, (ours, theirs)) in pairs.iter().enumerate() {
        ring.receive(ours.as_raw_fd(), Token(index as u64), Expect::Later);
        (&mut &*theirs).write_all(&[index as u8]).unwrap();
    }
    let first = collect(&mut ring, SOCKETS as usize);
    let (served, starved): (Vec<_>, Vec<_>) =
        first.into_iter().partition(|done| done.result.is_ok());
    assert_eq!(served.len(), usize::from(small().buffers));
    assert!(
        starved
            .iter()
            .all(|done| done.result == Err(Errno::NO_BUFFERS) && done.buffer.is_none())
    );
    let mut seen = HashMap::new();
    let mut round = served;
    let mut waiting: Vec<Token> = starved.iter().map(|done| done.token).collect();
    loop {
        for done in round.drain(..) {
            let id = done.buffer.unwrap();
            assert_eq!(ring.buffer(id, 1)[0], done.token.0 as u8);
            ring.release(id);
            assert_eq!(seen.insert(done.token.0, ()), None);
        }
        let next: Vec<Token> = waiting
            .drain(..waiting.len().min(usize::from(small().buffers)))
            .collect();
        if next.is_empty() {
            break;
        }
        for token in &next {
            ring.receive(pairs[token.0 as usize].0.as_raw_fd(), *token, Expect::Now);
        }
        round = collect(&mut ring, next.len());
    }
    assert_eq!(seen.len(), SOCKETS as usize);
}

#[test]
fn accept_brings_a_working_close_on_exec_blocking_socket() {
    let mut ring = ring(small());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    ring.accept(listener.as_raw_fd(), Token(11));
    ring.submit().unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let done = one(&mut ring);
    assert_eq!((done.token, done.buffer), (Token(11), None));
    // SAFETY: the completion of an accept hands over a new descriptor that nobody else owns.
    let mut socket = unsafe { TcpStream::from_raw_fd(done.result.unwrap() as RawFd) };
    // SAFETY: F_GETFD and F_GETFL take no pointers.
    let (descriptor, status) = unsafe {
        (
            libc::fcntl(socket.as_raw_fd(), libc::F_GETFD),
            libc::fcntl(socket.as_raw_fd(), libc::F_GETFL),
        )
    };
    assert_eq!(
        (descriptor & libc::FD_CLOEXEC, status & libc::O_NONBLOCK),
        (libc::FD_CLOEXEC, 0)
    );
    client.write_all(b"hello").unwrap();
    let mut got = [0; 5];
    socket.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
}

#[test]
fn a_full_socket_turns_writable_when_the_peer_reads() {
    let mut ring = ring(small());
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    fill(&ours);
    ring.poll_writable(ours.as_raw_fd(), Token(5));
    ring.submit().unwrap();
    assert!(!ring.submit_and_wait(Duration::from_millis(1)).unwrap());
    theirs.set_nonblocking(true).unwrap();
    let mut sink = vec![0; 1 << 20];
    while theirs.read(&mut sink).is_ok() {}
    let done = one(&mut ring);
    assert_eq!(done.token, Token(5));
    assert_ne!(done.result.unwrap() & libc::POLLOUT as u32, 0);
}

#[test]
fn a_socket_turns_readable_when_the_peer_writes_or_closes() {
    let mut ring = ring(small());
    let (ours, theirs) = UnixStream::pair().unwrap();
    ring.poll_readable(ours.as_raw_fd(), Token(5));
    ring.submit().unwrap();
    assert!(!ring.submit_and_wait(Duration::from_millis(1)).unwrap());
    (&theirs).write_all(b"x").unwrap();
    let done = one(&mut ring);
    assert_eq!((done.token, done.buffer), (Token(5), None));
    assert_ne!(done.result.unwrap() & libc::POLLIN as u32, 0);
    let mut byte = [0];
    (&ours).read_exact(&mut byte).unwrap();
    ring.poll_readable(ours.as_raw_fd(), Token(6));
    drop(theirs);
    assert_ne!(one(&mut ring).result.unwrap() & libc::POLLIN as u32, 0);
}

#[test]
fn a_timeout_ends_after_its_time_and_not_before() {
    let mut ring = ring(small());
    let start = Instant::now();
    ring.timeout(Duration::from_millis(20), Token(2));
    ring.timeout(Duration::from_millis(5), Token(1));
    let done = collect(&mut ring, 2);
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert_eq!(
        done.iter().map(|done| done.token.0).collect::<Vec<_>>(),
        [1, 2]
    );
    assert!(done.iter().all(|done| done.result == Err(Errno::TIME_OUT)));
}

#[test]
fn a_counter_read_wakes_and_resets_the_counter() {
    let mut ring = ring(small());
    let counter = eventfd();
    for round in 0..100 {
        ring.read_counter(counter.as_raw_fd(), Token(round));
        ring.submit().unwrap();
        assert!(!ring.has_completions());
        add_to(counter.as_raw_fd(), 3);
        assert_eq!(one(&mut ring).result, Ok(8));
    }
}

#[test]
fn cancel_ends_every_request_of_its_token_and_no_other() {
    let mut ring = ring(small());
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let counter = eventfd();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    ring.receive(ours.as_raw_fd(), Token(1), Expect::Later);
    ring.receive(ours.as_raw_fd(), Token(1), Expect::Now);
    ring.accept(listener.as_raw_fd(), Token(1));
    ring.timeout(PATIENCE, Token(1));
    ring.read_counter(counter.as_raw_fd(), Token(2));
    ring.submit().unwrap();
    ring.cancel(Token(1));
    let done = collect(&mut ring, 4);
    assert!(
        done.iter()
            .all(|done| done.token == Token(1) && done.result == Err(Errno::CANCELLED)),
        "{done:?}"
    );
    add_to(counter.as_raw_fd(), 1);
    assert_eq!(one(&mut ring).token, Token(2));
    ring.cancel(Token(9));
    ring.submit().unwrap();
    let mut done = Vec::new();
    ring.completions(&mut done);
    assert_eq!(done, [], "a cancel that matched nothing must stay silent");
}

#[test]
fn two_thousand_requests_queued_at_once_all_complete() {
    // Both queues are far too small for this, so it goes through self-submission and completion
    // overflow.
    let mut ring = ring(RingConfig {
        submissions: 16,
        completions: 32,
        ..small()
    });
    let (ours, theirs) = UnixStream::pair().unwrap();
    (&theirs).write_all(&[1]).unwrap();
    for index in 0..2000 {
        match index % 4 {
            0 => ring.timeout(Duration::from_micros(index), Token(index)),
            _ => ring.poll_writable(ours.as_raw_fd(), Token(index)),
        }
    }
    let mut tokens: Vec<u64> = collect(&mut ring, 2000)
        .iter()
        .map(|done| done.token.0)
        .collect();
    tokens.sort_unstable();
    assert!(tokens.into_iter().eq(0..2000));
}

#[test]
fn timers_keep_their_own_durations_when_the_queue_wraps() {
    let mut ring = ring(RingConfig {
        submissions: 4,
        completions: 64,
        ..small()
    });
    for index in 0..40 {
        // Every second timer lasts for ever in this test's terms: a shared or overwritten value
        // would show.
        let after = if index % 2 == 0 {
            Duration::from_millis(1)
        } else {
            PATIENCE
        };
        ring.timeout(after, Token(index));
    }
    let done = collect(&mut ring, 20);
    assert!(done.iter().all(|done| done.token.0 % 2 == 0), "{done:?}");
}

#[test]
fn dropping_a_ring_with_receives_in_flight_leaves_later_memory_alone() {
    const BYTES: usize = 8 * 4096;
    for round in 0..50 {
        let pairs: Vec<_> = (0..8).map(|_| UnixStream::pair().unwrap()).collect();
        let counter = eventfd();
        let mut ring = ring(small());
        for (ours, _) in &pairs {
            ring.receive(
                ours.as_raw_fd(),
                Token(1),
                if round % 2 == 0 {
                    Expect::Now
                } else {
                    Expect::Later
                },
            );
        }
        ring.read_counter(counter.as_raw_fd(), Token(2));
        ring.submit().unwrap();
        // As a parker does, which keeps the kernel's side of the ring alive after the close.
        let _duplicate = ring.as_fd().try_clone_to_owned().unwrap();
        drop(ring);
        // The kernel places a mapping of the same size where the buffers were.
        let heir = Mapping::new(BYTES).unwrap();
        for (_, theirs) in &pairs {
            (&mut &*theirs).write_all(&[0xff; 4096]).unwrap();
        }
        add_to(counter.as_raw_fd(), u64::MAX - 1);
        // SAFETY: a zeroed mapping of that size which nobody writes to; if somebody does, this test
        // is about it.
        let bytes = unsafe { std::slice::from_raw_parts(heir.start(), BYTES) };
        assert!(
            bytes.iter().all(|byte| *byte == 0),
            "the kernel wrote to memory that it had been given back"
        );
    }
}

#[test]
fn dropping_rings_leaks_no_descriptor_and_no_mapping() {
    let count = || {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mappings = std::fs::read_to_string("/proc/self/maps")
            .unwrap()
            .lines()
            .count();
        (descriptors, mappings)
    };
    let round = || {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut ring = ring(RingConfig {
            submissions: 4,
            completions: 4,
            buffers: 1,
            buffer_bytes: 64,
        });
        ring.receive(ours.as_raw_fd(), Token(1), Expect::Later);
        ring.submit().unwrap();
    };
    alone(
        "ring::tests::dropping_rings_leaks_no_descriptor_and_no_mapping",
        || {
            round();
            let before = count();
            for _ in 0..500 {
                round();
            }
            let after = count();
            // The allocator may map a little for itself.
            assert!(
                after.0 == before.0 && after.1 < before.1 + 20,
                "from {before:?} to {after:?}"
            );
        },
    );
}

#[test]
fn untouched_buffers_cost_no_memory() {
    let config = RingConfig {
        buffers: 1024,
        buffer_bytes: 1 << 20,
        ..small()
    };
    let mut ring = ring(config);
    let (ours, theirs) = UnixStream::pair().unwrap();
    ring.receive(ours.as_raw_fd(), Token(1), Expect::Later);
    (&theirs).write_all(b"x").unwrap();
    let done = one(&mut ring);
    assert_eq!(done.result, Ok(1));
    assert_eq!(ring.buffers.resident_pages(), 1);
}

#[test]
#[should_panic(expected = "released twice")]
fn a_buffer_released_twice_is_refused() {
    let mut ring = ring(small());
    let (ours, theirs) = UnixStream::pair().unwrap();
    (&theirs).write_all(b"x").unwrap();
    ring.receive(ours.as_raw_fd(), Token(1), Expect::Now);
    let id = one(&mut ring).buffer.unwrap();
    ring.release(id);
    ring.release(id);
}

#[test]
fn sizes_out_of_range_are_refused_by_name() {
    let cases = [
        (
            "submissions",
            RingConfig {
                submissions: 3,
                ..small()
            },
        ),
        (
            "submissions",
            RingConfig {
                submissions: 0,
                ..small()
            },
        ),
        (
            "submissions",
            RingConfig {
                submissions: 65_536,
                ..small()
            },
        ),
        (
            "completions",
            RingConfig {
                completions: 32,
                ..small()
            },
        ),
        (
            "completions",
            RingConfig {
                completions: 131_072,
                ..small()
            },
        ),
        (
            "buffers",
            RingConfig {
                buffers: 0,
                ..small()
            },
        ),
        (
            "buffers",
            RingConfig {
                buffers: 100,
                ..small()
            },
        ),
        (
            "buffer_bytes",
            RingConfig {
                buffer_bytes: 0,
                ..small()
            },
        ),
    ];
    for (name, config) in cases {
        let error = Ring::new(config).expect_err(name);
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn an_impossible_descriptor_fails_alone() {
    let mut ring = ring(small());
    let (ours, theirs) = UnixStream::pair().unwrap();
    (&theirs).write_all(b"x").unwrap();
    ring.receive(-1, Token(1), Expect::Now);
    ring.receive(ours.as_raw_fd(), Token(2), Expect::Now);
    let mut done = collect(&mut ring, 2);
    done.sort_by_key(|done| done.token.0);
    assert_eq!(
        (done[0].result, done[1].result),
        (Err(Errno(libc::EBADF)), Ok(1))
    );
}
