//! Resource limits of this process: reading them, and raising them as far as allowed.

use std::io;

/// A limit that start-up depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    /// `RLIMIT_MEMLOCK`, in bytes.
    LockedMemory,
    /// `RLIMIT_NOFILE`, in descriptors.
    OpenFiles,
}

/// Both values of a limit; `u64::MAX` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// The enforced value.
    pub soft: u64,
    /// The maximum to which the process may raise it.
    pub hard: u64,
}

impl Resource {
    fn number(self) -> libc::__rlimit_resource_t {
        match self {
            Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
            Resource::OpenFiles => libc::RLIMIT_NOFILE,
        }
    }

    /// The limit as it stands.
    pub(super) fn read(self) -> io::Result<Limit> {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the kernel writes one `rlimit` to the place passed.
        match unsafe { libc::getrlimit(self.number(), &raw mut limit) } {
            0 => Ok(Limit {
                soft: limit.rlim_cur,
                hard: limit.rlim_max,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sets both values.
    pub(super) fn set(self, limit: Limit) -> io::Result<()> {
        let limit = libc::rlimit {
            rlim_cur: limit.soft,
            rlim_max: limit.hard,
        };
        // SAFETY: the kernel reads one `rlimit` from the place passed.
        match unsafe { libc::setrlimit(self.number(), &raw const limit) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Raises the soft limit to the hard one, and the hard one to `needed` if it is lower and the process is
    /// privileged. Returns the resulting limit, which may be too low.
    pub(super) fn raise(self, needed: u64) -> io::Result<Limit> {
        let found = self.read()?;
        let hard = found.hard.max(needed);
        for wish in [
            Limit { soft: hard, hard },
            Limit {
                soft: found.hard,
                hard: found.hard,
            },
        ] {
            // A refusal shows in the limit read below.
            if self.set(wish).is_ok() {
                break;
            }
        }
        self.read()
    }
}
