//! The parker inside a real glommio executor.

use std::future::Future;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};

use super::*;
use crate::ring::{Expect, RingConfig, Token};
use crate::testing::alone;

/// More than glommio's 32,767 waker clones, so that one leaked clone a round aborts the test.
const ROUNDS: u64 = 40_000;

fn on_executor<T: Send + 'static, F: Future<Output = T> + 'static>(
    task: impl FnOnce() -> F + Send + 'static,
) -> T {
    LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(65536)
        .ring_depth(256)
        // As in production, where a short timer can lose glommio's wake-ups.
        .preempt_timer(Duration::from_secs(3600 * 24))
        .spawn(task)
        .unwrap()
        .join()
        .unwrap()
}

fn ring() -> Ring {
    Ring::new(RingConfig {
        submissions: 64,
        completions: 256,
        buffers: 8,
        buffer_bytes: 4096,
    })
    .unwrap()
}

fn eventfd() -> OwnedFd {
    // SAFETY: eventfd takes no pointers; the new descriptor is owned by nobody else.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    }
}

fn add_one(eventfd: RawFd) {
    // SAFETY: eight readable bytes, as eventfd(2) demands.
    let written = unsafe { libc::write(eventfd, 1u64.to_ne_bytes().as_ptr().cast(), 8) };
    assert_eq!(written, 8);
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Runs many rounds after a warm-up and checks that they left nothing behind. Only for a process of
/// its own.
async fn leaves_nothing<F: Future<Output = ()>>(mut round: impl FnMut(u64) -> F) {
    for index in 0..1000 {
        round(index).await;
    }
    let (descriptors, resident) = (open_descriptors(), resident_bytes());
    for index in 1000..1000 + ROUNDS {
        round(index).await;
    }
    let (descriptors_after, resident_after) = (open_descriptors(), resident_bytes());
    assert!(
        descriptors_after < descriptors + 2000,
        "{descriptors} -> {descriptors_after}"
    );
    assert!(
        resident_after < resident + ROUNDS as usize * 100,
        "{resident} -> {resident_after}"
    );
}

async fn poll_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    let mut future = future;
    poll_fn(|context| {
        Poll::Ready(match future.as_mut().poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

#[test]
fn a_write_from_another_thread_wakes_the_parked_task_each_time() {
    const WRITES: u64 = 20_000;
    let counter = Arc::new(eventfd());
    let seen = Arc::new(AtomicU64::new(0));
    let (go, wanted) = mpsc::channel::<()>();
    let writer = {
        let counter = counter.clone();
        std::thread::spawn(move || {
            for () in wanted {
                add_one(counter.as_raw_fd());
            }
        })
    };
    let woken = seen.clone();
    on_executor(move || async move {
        let (mut ring, mut parker, wake) = (ring(), Parker::new(), WakeCell::new());
        let mut done = Vec::new();
        for round in 0..WRITES {
            ring.read_counter(counter.as_raw_fd(), Token(round));
            go.send(()).unwrap();
            while done.is_empty() {
                assert_eq!(parker.wait(&mut ring, &wake).await.unwrap(), Woken::Ring);
                ring.completions(&mut done);
            }
            assert_eq!(
                (done.len(), done[0].token, done[0].result),
                (1, Token(round), Ok(8))
            );
            done.clear();
            woken.fetch_add(1, Ordering::Relaxed);
        }
    });
    writer.join().unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), WRITES);
}

#[test]
fn socket_data_wakes_the_parked_task() {
    on_executor(|| async {
        use std::io::Write;
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let (mut ring, mut parker, wake) = (ring(), Parker::new(), WakeCell::new());
        ring.receive(ours.as_raw_fd(), Token(1), Expect::Later);
        let writer = glommio::spawn_local(async move {
            glommio::timer::sleep(Duration::from_millis(2)).await;
            theirs.write_all(b"hello").unwrap();
            theirs
        });
        // Sleeps for good before the write: nothing was queued by anyone but `wait` itself.
        assert_eq!(parker.wait(&mut ring, &wake).await.unwrap(), Woken::Ring);
        ring.submit().unwrap();
        let mut done = Vec::new();
        ring.completions(&mut done);
        assert_eq!(done[0].result, Ok(5));
        writer.await;
    });
}

#[test]
fn pending_completions_and_pokes_resolve_at_once() {
    on_executor(|| async {
        let (mut ring, mut parker, wake) = (ring(), Parker::new(), WakeCell::new());
        ring.cancel(Token(1));
        ring.timeout(Duration::ZERO, Token(2));
        assert!(ring.submit_and_wait(Duration::from_secs(10)).unwrap());
        {
            let wait = std::pin::pin!(parker.wait(&mut ring, &wake));
            assert_eq!(poll_once(wait).await.unwrap().unwrap(), Woken::Ring);
        }
        wake.poke();
        wake.poke();
        {
            let wait = std::pin::pin!(parker.wait(&mut ring, &wake));
            assert_eq!(poll_once(wait).await.unwrap().unwrap(), Woken::Poked);
        }
        assert!(parker.armed.is_none(), "neither needed a poll");
        let mut done = Vec::new();
        while done.is_empty() {
            ring.submit_and_wait(Duration::from_millis(10)).unwrap();
            ring.completions(&mut done);
        }
        let wait = std::pin::pin!(parker.wait(&mut ring, &wake));
        assert!(
            poll_once(wait).await.is_none(),
            "two pokes count once, and the ring is empty"
        );
    });
}

#[test]
fn a_completion_beside_a_poke_is_not_forgotten() {
    on_executor(|| async {
        let counter = eventfd();
        let (mut ring, mut parker, wake) = (ring(), Parker::new(), WakeCell::new());
        ring.read_counter(counter.as_raw_fd(), Token(1));
        let poker = glommio::spawn_local({
            let wake = wake.clone();
            async move {
                add_one(counter.as_raw_fd());
                wake.poke();
                counter
            }
        });
        assert_eq!(parker.wait(&mut ring, &wake).await.unwrap(), Woken::Poked);
        assert_eq!(parker.wait(&mut ring, &wake).await.unwrap(), Woken::Ring);
        let mut done = Vec::new();
        ring.completions(&mut done);
        assert_eq!(done.len(), 1);
        // The poll of the first wait may have ended by now; that is stale and must not end this
        // wait.
        let _counter = poker.await;
        glommio::timer::sleep(Duration::from_millis(1)).await;
        let wait = std::pin::pin!(parker.wait(&mut ring, &wake));
        assert!(poll_once(wait).await.is_none());
    });
}

#[test]
fn pokes_in_a_single_turn_of_the_executor_leak_nothing() {
    alone(
        "park::tests::pokes_in_a_single_turn_of_the_executor_leak_nothing",
        || {
            on_executor(|| async {
                let (wake, reply) = (WakeCell::new(), WakeCell::new());
                let answering = glommio::spawn_local({
                    let (wake, reply) = (wake.clone(), reply.clone());
                    async move {
                        let (mut ring, mut parker) = (ring(), Parker::new());
                        for _ in 0..1000 + ROUNDS {
                            assert_eq!(parker.wait(&mut ring, &reply).await.unwrap(), Woken::Poked);
                            wake.poke();
                        }
                    }
                });
                let state = Rc::new(Cell::new(Some((ring(), Parker::new()))));
                leaves_nothing(|_| {
                    let (wake, reply, state) = (wake.clone(), reply.clone(), state.clone());
                    async move {
                        let (mut ring, mut parker) = state.take().unwrap();
                        reply.poke();
                        assert_eq!(parker.wait(&mut ring, &wake).await.unwrap(), Woken::Poked);
                        state.set(Some((ring, parker)));
                    }
                })
                .await;
                answering.await;
            })
        },
    );
}

#[test]
fn dropping_unfinished_waits_leaks_nothing() {
    alone(
        "park::tests::dropping_unfinished_waits_leaks_nothing",
        || {
            on_executor(|| async {
                let state = Rc::new(Cell::new(Some((ring(), Parker::new()))));
                leaves_nothing(|_| {
                    let state = state.clone();
                    async move {
                        let (mut ring, mut parker) = state.take().unwrap();
                        let wake = WakeCell::new();
                        {
                            let wait = std::pin::pin!(parker.wait(&mut ring, &wake));
                            assert!(poll_once(wait).await.is_none());
                        }
                        assert_eq!(Rc::strong_count(&wake.state), 1);
                        assert!(
                            wake.state.sleeper.take().is_none(),
                            "a dropped wait left its waker behind"
                        );
                        state.set(Some((ring, parker)));
                    }
                })
                .await;
            })
        },
    );
}

#[test]
fn dropping_parkers_in_mid_wait_leaks_nothing() {
    alone(
        "park::tests::dropping_parkers_in_mid_wait_leaks_nothing",
        || {
            on_executor(|| async {
                let state = Rc::new(Cell::new(Some(ring())));
                leaves_nothing(|round| {
                    let state = state.clone();
                    async move {
                        let mut ring = state.take().unwrap();
                        let (mut parker, wake) = (Parker::new(), WakeCell::new());
                        {
                            let wait = std::pin::pin!(parker.wait(&mut ring, &wake));
                            assert!(poll_once(wait).await.is_none());
                        }
                        // A turn of glommio between arming and dropping, or none: submitted polls
                        // are cancelled in the kernel, the others in glommio's queue.
                        if round % 8 == 0 {
                            glommio::timer::sleep(Duration::from_micros(1)).await;
                        }
                        drop(parker);
                        state.set(Some(ring));
                    }
                })
                .await;
            })
        },
    );
}

#[test]
fn a_wait_without_descriptors_left_says_so_and_can_be_repeated() {
    let path = "park::tests::a_wait_without_descriptors_left_says_so_and_can_be_repeated";
    alone(path, || {
        on_executor(|| async {
            let (mut ring, mut parker, wake) = (ring(), Parker::new(), WakeCell::new());
            ring.timeout(Duration::from_millis(1), Token(1));
            let mut files = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                files.push(file);
            }
            let woken = parker.wait(&mut ring, &wake).await.unwrap();
            assert_eq!(woken, Woken::NoDescriptor);
            files.clear();
            assert_eq!(parker.wait(&mut ring, &wake).await.unwrap(), Woken::Ring);
        });
    });
}
