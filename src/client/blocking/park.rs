//! Waiting by parking the thread.
//!
//! Owns how a thread waits for the polls of `shared.rs`. Must not know what they wait for.

use std::cell::OnceCell;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    static WAKER: OnceCell<Waker> = const { OnceCell::new() };
}

/// A waker that unparks this thread.
pub(super) fn thread_waker() -> Waker {
    WAKER.with(|waker| {
        let make = || Waker::from(Arc::new(Unpark(thread::current())));
        waker.get_or_init(make).clone()
    })
}

/// Waits until a poll is ready.
pub(super) fn wait<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let waker = thread_waker();
    let mut context = Context::from_waker(&waker);
    // Ends when the poll is ready; a park may return without a reason.
    loop {
        match poll(&mut context) {
            Poll::Ready(ready) => return ready,
            Poll::Pending => thread::park(),
        }
    }
}

/// Waits until a poll is ready, or until the deadline: then `None`.
pub(super) fn wait_until<T>(
    deadline: Instant,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    let waker = thread_waker();
    let mut context = Context::from_waker(&waker);
    // Ends at the deadline at the latest.
    loop {
        if let Poll::Ready(ready) = poll(&mut context) {
            return Some(ready);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}
