//! The start-up check: whether this process can have what the shards need, and if not, what has to be changed where.
//!
//! Owns the trial of io_uring, the raising of resource limits, and the advice. It is the only place that explains
//! system errors of io_uring to an operator: glommio's own messages blame an old kernel for most of them. Must run
//! before any shard and, because limits belong to the whole process, before other threads start. Start reading at
//! [`check`].

mod limits;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode};

use crate::ring::{Errno, Ring, RingConfig, RingError, Token};
use limits::{Limit, Resource};

/// glommio 0.9 refuses to start an executor below this limit of locked memory, whatever it needs.
const GLOMMIO_LOCKED_BYTES_MIN: u64 = 512 * 1024;
/// Locked memory of one shard where the kernel counts rings as locked memory. Measured on Linux
/// 6.18, by search for the smallest limit that 8 shards start under: glommio's three rings 0.18 MiB
/// at the ring depth of 256 that shards use, and our own ring 0.29 MiB. glommio also registers
/// 64 KiB three times, and does without if it has to. So 16 shards fit the usual limit of 8 MiB.
const SHARD_LOCKED_BYTES: u64 = 512 * 1024;
/// Descriptors of one shard besides its connections: four rings and the duplicate of one, two
/// eventfds, five listeners, and the places kept for connections from this machine.
const SHARD_FILES: u64 = 16;
/// Descriptors of no shard: storage, logs, links between nodes, administration.
const PROCESS_FILES: u64 = 256;
/// Operations that glommio 0.9 checks for at its first executor, where it ends the process if one is missing; the last
/// one is needed by the shard's ring, as are some of the others.
const OPERATIONS: [(&str, u8); 24] = [
    ("NOP", opcode::Nop::CODE),
    ("READV", opcode::Readv::CODE),
    ("WRITEV", opcode::Writev::CODE),
    ("FSYNC", opcode::Fsync::CODE),
    ("READ_FIXED", opcode::ReadFixed::CODE),
    ("WRITE_FIXED", opcode::WriteFixed::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
    ("POLL_REMOVE", opcode::PollRemove::CODE),
    ("SENDMSG", opcode::SendMsg::CODE),
    ("RECVMSG", opcode::RecvMsg::CODE),
    ("TIMEOUT", opcode::Timeout::CODE),
    ("TIMEOUT_REMOVE", opcode::TimeoutRemove::CODE),
    ("ACCEPT", opcode::Accept::CODE),
    ("LINK_TIMEOUT", opcode::LinkTimeout::CODE),
    ("CONNECT", opcode::Connect::CODE),
    ("FALLOCATE", opcode::Fallocate::CODE),
    ("OPENAT", opcode::OpenAt::CODE),
    ("CLOSE", opcode::Close::CODE),
    ("STATX", opcode::Statx::CODE),
    ("READ", opcode::Read::CODE),
    ("WRITE", opcode::Write::CODE),
    ("SEND", opcode::Send::CODE),
    ("RECV", opcode::Recv::CODE),
    ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
];
/// Time-out of the trial request. It takes microseconds; a suspended machine may need longer.
const TRIAL_WAIT: Duration = Duration::from_secs(5);

/// What the configuration needs from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Number of shards.
    pub shards: usize,
    /// Number of client connections that the broker must be able to hold, on all shards together.
    pub connections: u64,
}

/// What the machine grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The kernel's release, as `uname -r` says.
    pub kernel: String,
    /// The limit of open files, after raising it.
    pub open_files: u64,
    /// Number of connections that this limit allows.
    pub connections: u64,
    /// The limit of locked memory in bytes, after raising it; `u64::MAX` is unlimited.
    pub locked_bytes: u64,
    /// Whether rings count against that limit. They do from about Linux 6.14 on, unless the process
    /// has CAP_IPC_LOCK.
    pub rings_are_locked_memory: bool,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Linux {}: {} open files allow {} connections; locked memory {}{}",
            self.kernel,
            self.open_files,
            self.connections,
            Bytes(self.locked_bytes),
            if self.rings_are_locked_memory {
                ", which rings count against"
            } else {
                ""
            }
        )
    }
}

/// What forbids io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidder {
    /// The sysctl `kernel.io_uring_disabled` has this value: 1 for all but the privileged, 2 for
    /// everyone.
    Sysctl(u8),
    /// A seccomp filter, as set up by container runtimes.
    Seccomp,
    /// Neither of them, so most likely a security module such as SELinux.
    Unknown,
}

/// Why the broker cannot start here. The resource limits may have been raised; nothing else has
/// changed.
#[derive(Debug)]
pub enum Refusal {
    /// The kernel has no io_uring.
    Missing {
        /// The kernel's release.
        kernel: String,
        /// Whether a seccomp filter is active, which may hide io_uring.
        filtered: bool,
    },
    /// io_uring exists, but this process may not use it.
    Forbidden {
        /// The system call that was refused.
        call: &'static str,
        /// Its error.
        errno: Errno,
        /// What forbids it.
        by: Forbidder,
    },
    /// The kernel lacks flags or operations that the broker uses.
    TooOld {
        /// The kernel's release.
        kernel: String,
        /// What is missing.
        lacks: String,
    },
    /// The limit of locked memory is too low.
    LockedMemory {
        /// Number of shards.
        shards: usize,
        /// Bytes needed.
        needed: u64,
        /// Bytes allowed (hard limit).
        allowed: u64,
    },
    /// The limit of open files is too low.
    OpenFiles {
        /// Number of connections.
        connections: u64,
        /// Open files needed.
        needed: u64,
        /// Open files allowed (hard limit).
        allowed: u64,
    },
    /// A system call failed for an unknown reason.
    Unexpected {
        /// What was tried.
        tried: &'static str,
        /// The system's error.
        error: io::Error,
    },
}

/// Tries everything that the shards will need, and raises the limits of open files and locked memory as far as allowed.
///
/// Takes about a millisecond. Logs nothing: show the report, or refuse to start with the refusal's
/// text.
///
/// ```no_run
/// use sapwood_server::preflight::{Needs, check};
/// match check(&Needs { shards: 4, connections: 10_000 }) {
///     Ok(report) => println!("{report}"),
///     Err(refusal) => eprintln!("cannot start: {refusal}"),
/// }
/// ```
pub fn check(wanted: &Needs) -> Result<Report, Refusal> {
    let kernel = kernel_release();
    // The limit comes first: a ring that fails for lack of locked memory would be blamed on the wrong cause.
    let wish = wanted.shards as u64 * SHARD_LOCKED_BYTES;
    let locked = raise(Resource::LockedMemory, wish.max(GLOMMIO_LOCKED_BYTES_MIN))?;
    try_operations(wanted, &locked, &kernel)?;
    let rings_are_locked_memory = rings_count(&locked)?;
    let needed = match rings_are_locked_memory {
        true => wish.max(GLOMMIO_LOCKED_BYTES_MIN),
        false => GLOMMIO_LOCKED_BYTES_MIN,
    };
    if locked.soft < needed {
        let allowed = locked.hard;
        return Err(Refusal::LockedMemory {
            shards: wanted.shards,
            needed,
            allowed,
        });
    }
    try_ring(wanted, &locked, &kernel)?;
    let reserved = PROCESS_FILES + SHARD_FILES * wanted.shards as u64;
    let needed = reserved.saturating_add(wanted.connections);
    let files = raise(Resource::OpenFiles, needed)?;
    if files.soft < needed {
        let connections = wanted.connections;
        return Err(Refusal::OpenFiles {
            connections,
            needed,
            allowed: files.hard,
        });
    }
    Ok(Report {
        kernel,
        open_files: files.soft,
        connections: files.soft - reserved,
        locked_bytes: locked.soft,
        rings_are_locked_memory,
    })
}

fn raise(resource: Resource, needed: u64) -> Result<Limit, Refusal> {
    resource.raise(needed).map_err(|error| Refusal::Unexpected {
        tried: "reading the resource limits",
        error,
    })
}

/// Creates the smallest ring, and asks which operations the kernel knows.
fn try_operations(wanted: &Needs, locked: &Limit, kernel: &str) -> Result<(), Refusal> {
    let explain = |call, error| explain(call, error, wanted, locked, kernel);
    let ring = IoUring::new(1).map_err(|error| explain("io_uring_setup", error))?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| explain("io_uring_register", error))?;
    let lacking: Vec<&str> = OPERATIONS
        .iter()
        .filter_map(|(name, code)| (!probe.is_supported(*code)).then_some(*name))
        .collect();
    match lacking.is_empty() {
        true => Ok(()),
        false => {
            let lacks = format!("the io_uring operations {}", lacking.join(", "));
            Err(Refusal::TooOld {
                kernel: kernel.to_owned(),
                lacks,
            })
        }
    }
}

/// Creates a shard's ring with its flags and buffers, and sends one request through it.
fn try_ring(wanted: &Needs, locked: &Limit, kernel: &str) -> Result<(), Refusal> {
    let explain = |call, error| explain(call, error, wanted, locked, kernel);
    let mut ring = Ring::new(RingConfig::default()).map_err(|error| match error {
        RingError::SetUp(error) => explain("io_uring_setup", error),
        RingError::RegisterBuffers { error, .. } => explain("io_uring_register", error),
        RingError::Map { error, .. } => Refusal::Unexpected {
            tried: "mapping receive buffers",
            error,
        },
        RingError::Config { .. } => {
            let error = io::Error::new(io::ErrorKind::InvalidInput, error.to_string());
            Refusal::Unexpected {
                tried: "making a ring of the default size",
                error,
            }
        }
    })?;
    ring.timeout(Duration::ZERO, Token(0));
    let came = ring
        .submit_and_wait(TRIAL_WAIT)
        .map_err(|error| explain("io_uring_enter", error))?;
    match came {
        true => Ok(()),
        false => Err(Refusal::Unexpected {
            tried: "waiting for a timer of io_uring",
            error: io::ErrorKind::TimedOut.into(),
        }),
    }
}

/// Whether the kernel counts rings as locked memory, determined by creating one while the limit is zero.
fn rings_count(locked: &Limit) -> Result<bool, Refusal> {
    let tried = "setting the limit of locked memory";
    let set = |soft| {
        Resource::LockedMemory
            .set(Limit {
                soft,
                hard: locked.hard,
            })
            .map_err(|error| Refusal::Unexpected { tried, error })
    };
    set(0)?;
    let ring = IoUring::new(1);
    set(locked.soft)?;
    match ring {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Ok(true),
        Err(error) => Err(Refusal::Unexpected {
            tried: "io_uring_setup with no locked memory",
            error,
        }),
    }
}

fn explain(
    call: &'static str,
    error: io::Error,
    wanted: &Needs,
    locked: &Limit,
    kernel: &str,
) -> Refusal {
    let kernel = kernel.to_owned();
    let filtered = is_filtered(&read_text("/proc/self/status"));
    match error.raw_os_error() {
        Some(libc::ENOSYS) => Refusal::Missing { kernel, filtered },
        Some(code @ (libc::EPERM | libc::EACCES)) => {
            let by = forbidder(&read_text("/proc/sys/kernel/io_uring_disabled"), filtered);
            Refusal::Forbidden {
                call,
                errno: Errno(code),
                by,
            }
        }
        Some(libc::EINVAL) => {
            let lacks = format!("the flags or structures that we pass to {call}");
            Refusal::TooOld { kernel, lacks }
        }
        Some(libc::ENOMEM) => {
            let needed = (wanted.shards as u64 * SHARD_LOCKED_BYTES).max(GLOMMIO_LOCKED_BYTES_MIN);
            Refusal::LockedMemory {
                shards: wanted.shards,
                needed,
                allowed: locked.hard,
            }
        }
        _ => Refusal::Unexpected { tried: call, error },
    }
}

/// Names what forbids io_uring, given the text of `/proc/sys/kernel/io_uring_disabled` (empty if the file is missing).
fn forbidder(sysctl: &str, filtered: bool) -> Forbidder {
    match (sysctl.trim().parse(), filtered) {
        // Above 1 it is off for everyone. At 1 it is off for this process if no filter explains the
        // refusal.
        (Ok(value @ 2..), _) | (Ok(value @ 1), false) => Forbidder::Sysctl(value),
        (_, true) => Forbidder::Seccomp,
        (_, false) => Forbidder::Unknown,
    }
}

/// Whether `/proc/self/status` reports a seccomp filter (mode 2).
fn is_filtered(status: &str) -> bool {
    status
        .lines()
        .filter_map(|line| line.strip_prefix("Seccomp:"))
        .any(|mode| mode.trim() == "2")
}

fn kernel_release() -> String {
    match read_text("/proc/sys/kernel/osrelease").trim() {
        "" => "of unknown release".to_owned(),
        release => release.to_owned(),
    }
}

/// The text of a file in `/proc`, or nothing: it only improves a message.
fn read_text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Bytes in the unit that reads best.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u64::MAX => write!(f, "unlimited"),
            bytes if bytes >= 1 << 20 && bytes % (1 << 20) == 0 => write!(f, "{} MiB", bytes >> 20),
            bytes => write!(f, "{} KiB", bytes.div_ceil(1024)),
        }
    }
}

const OLD_KERNEL_ADVICE: &str = "\n  bare metal, systemd: boot Linux 6.0 or newer (6.1 and later \
 LTS releases are fine)\
 \n  docker, podman: containers use the host's kernel: move to a newer host; gVisor (runsc) has no \
 full io_uring, so use the default runtime";

const SECCOMP_ADVICE: &str = "\n  bare metal: start the broker without the sandbox that filters \
 its system calls\
 \n  systemd: if the unit has SystemCallFilter=, let it allow io_uring_setup io_uring_enter \
 io_uring_register (they are in @aio), then systemctl daemon-reload\
 \n  docker, podman: run with --security-opt seccomp=unconfined, or with a profile that allows \
 io_uring_setup, io_uring_enter and io_uring_register (--security-opt seccomp=profile.json)";

const SYSCTL_ADVICE: &str = "\n  bare metal, systemd: sysctl -w kernel.io_uring_disabled=0, and \
 put that line into /etc/sysctl.d to keep it; with the value 1 it is enough to run the broker in \
 the group named by kernel.io_uring_group\
 \n  docker, podman: the setting is the host's: change it there; containers need a seccomp profile \
 that allows io_uring as well";

const MODULE_ADVICE: &str = "\n  bare metal, systemd: look for a denial in the audit log (ausearch \
 -m avc, dmesg) and allow io_uring for the broker in SELinux or AppArmor\
 \n  docker, podman: the same on the host, or --security-opt label=disable (SELinux), \
 --security-opt apparmor=unconfined";

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Missing {
                kernel,
                filtered: false,
            } => write!(
                f,
                "io_uring_setup failed: {}: Linux {kernel} has no io_uring. It is either older \
                 than 5.1 or built without CONFIG_IO_URING, and Linux 6.0 or newer is \
                 needed:{OLD_KERNEL_ADVICE}",
                Errno(libc::ENOSYS)
            ),
            Refusal::Missing {
                kernel,
                filtered: true,
            } => write!(
                f,
                "io_uring_setup failed: {}: Linux {kernel} has no io_uring, or the seccomp filter \
                 that is active here pretends so. If the kernel is 6.0 or newer, let io_uring \
                 through the filter:{SECCOMP_ADVICE}",
                Errno(libc::ENOSYS)
            ),
            Refusal::Forbidden { call, errno, by } => write_forbidden(f, call, *errno, *by),
            Refusal::TooOld { kernel, lacks } => write!(
                f,
                "Linux {kernel} does not know {lacks}: Linux 6.0 or newer is \
                 needed:{OLD_KERNEL_ADVICE}"
            ),
            Refusal::LockedMemory {
                shards,
                needed,
                allowed,
            } => write_locked(f, *shards, *needed, *allowed),
            Refusal::OpenFiles {
                connections,
                needed,
                allowed,
            } => write_files(f, *connections, *needed, *allowed),
            Refusal::Unexpected { tried, error } => write!(
                f,
                "{tried} failed: {error}: this has no known cause; run the broker under strace -f \
                 and report what it shows"
            ),
        }
    }
}

fn write_forbidden(
    f: &mut fmt::Formatter<'_>,
    call: &str,
    errno: Errno,
    by: Forbidder,
) -> fmt::Result {
    match by {
        Forbidder::Sysctl(value) => write!(
            f,
            "{call} failed: {errno}: the sysctl kernel.io_uring_disabled is {value}, which \
             forbids io_uring{}:{SYSCTL_ADVICE}",
            if value == 1 {
                " to unprivileged processes"
            } else {
                " to everyone"
            }
        ),
        Forbidder::Seccomp => write!(
            f,
            "{call} failed: {errno}: a seccomp filter is active (Seccomp: 2 in \
             /proc/self/status) and forbids io_uring, as Docker's default profile does:\
             {SECCOMP_ADVICE}"
        ),
        Forbidder::Unknown => write!(
            f,
            "{call} failed: {errno}: neither kernel.io_uring_disabled nor a seccomp filter \
             forbids io_uring, so most likely a security module does:{MODULE_ADVICE}"
        ),
    }
}

fn write_locked(
    f: &mut fmt::Formatter<'_>,
    shards: usize,
    needed: u64,
    allowed: u64,
) -> fmt::Result {
    write!(
        f,
        "{shards} shards need {} of locked memory (RLIMIT_MEMLOCK), but {} are allowed, \
         and all processes of this user share them; start fewer shards, or raise the \
         limit:\
         \n  bare metal: ulimit -l {} before the start, or in /etc/security/limits.conf: * \
         - memlock {}\
         \n  systemd: LimitMEMLOCK={} in the unit, then systemctl daemon-reload\
         \n  docker, podman: run with --ulimit memlock={needed}:{needed}",
        Bytes(needed),
        Bytes(allowed),
        needed.div_ceil(1024),
        needed.div_ceil(1024),
        needed
    )
}

fn write_files(
    f: &mut fmt::Formatter<'_>,
    connections: u64,
    needed: u64,
    allowed: u64,
) -> fmt::Result {
    write!(
        f,
        "{connections} connections need {needed} open files (RLIMIT_NOFILE), but {allowed} \
         are allowed; configure fewer connections, or raise the limit:\
         \n  bare metal: ulimit -n {needed} before the start, or in \
         /etc/security/limits.conf: * - nofile {needed}\
         \n  systemd: LimitNOFILE={needed} in the unit, then systemctl daemon-reload\
         \n  docker, podman: run with --ulimit nofile={needed}:{needed}"
    )
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Refusal::Unexpected { error, .. } => Some(error),
            _ => None,
        }
    }
}
