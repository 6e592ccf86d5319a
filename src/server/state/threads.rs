//! Threads of the state plane: named, without signals, and ahead of others where that is allowed.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Signals that a bug raises in the thread itself: blocked, they would end the process without a word.
const OWN_SIGNALS: [i32; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
];

/// Starts a thread. Signals are for other threads: a sync that one interrupts would have to count as failed.
pub(super) fn spawn(
    name: &'static str,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_string()).spawn(move || {
        block_signals();
        body();
    })
}

fn block_signals() {
    // SAFETY: the set is initialized by sigfillset before it is read; only this thread's mask changes. A call that fails
    // leaves the mask as it was.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        for signal in OWN_SIGNALS {
            libc::sigdelset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Lets the calling thread run before all ordinary ones, where the system allows that, and says whether it does. Children
/// and threads that it starts do not inherit it.
pub(super) fn become_real_time() -> bool {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads one `sched_param`; 0 is the calling thread.
    let result = unsafe {
        let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
        libc::sched_setscheduler(0, policy, &raw const priority)
    };
    result == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of_own_thread(field: &str) -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line[field.len()..].trim().to_string()
    }

    #[test]
    fn threads_have_a_name_and_take_no_signals() {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let body = move || {
            let blocked = u64::from_str_radix(&status_of_own_thread("SigBlk:"), 16).unwrap();
            tell.send((status_of_own_thread("Name:"), blocked)).unwrap();
        };
        spawn("sapwood-log", body).unwrap().join().unwrap();
        let (name, blocked) = told.recv().unwrap();
        assert_eq!(name, "sapwood-log");
        let is_blocked = |signal: i32| blocked & 1 << (signal - 1) != 0;
        assert!(is_blocked(libc::SIGTERM) && is_blocked(libc::SIGCHLD));
        assert!(!is_blocked(libc::SIGSEGV));
    }
}
