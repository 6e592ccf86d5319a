//! Which CPUs the shards run on, and how many shards there are.
//!
//! Owns the reading of the scheduler's and the control groups' limits ([`Machine::read`]) and the choice made from them
//! ([`plan`], which is pure). Does not pin threads: the code that starts the shards does. Start reading at [`plan`].
//!
//! A shard is a thread that wants a core to itself. More shards than the quota pays for would only
//! take turns being throttled, so the default is the number of allowed CPUs, capped by the quota
//! rounded up.

mod cgroup;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::Path;

pub use cgroup::Quota;

pub use sapwood_core::limits::SHARDS_MAX;

/// The CPUs and CPU time that this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The CPUs this process may run on, ascending: the scheduler's affinity mask within the
    /// control group's cpuset.
    pub allowed: Vec<usize>,
    /// The tightest CPU quota of the process's control groups, if any.
    pub quota: Option<Quota>,
}

/// The placement of the shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The CPU of each shard, one entry a shard. Repeats when there are more shards than CPUs.
    pub cpus: Vec<usize>,
    /// Warnings for the operator about this placement.
    pub warnings: Vec<PlanWarning>,
}

/// A reason why a placement works, but not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanWarning {
    /// Some shards share a CPU.
    SharedCpus {
        /// Shards in the plan.
        shards: usize,
        /// Distinct CPUs that they run on.
        cpus: usize,
    },
    /// There are more shards than the control group's quota can run at a time.
    OverQuota {
        /// Shards in the plan.
        shards: usize,
        /// The quota.
        quota: Quota,
    },
}

impl fmt::Display for PlanWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanWarning::SharedCpus { shards, cpus } => write!(
                f,
                "{shards} shards share {cpus} CPUs, so they will take turns: configure at most \
                 {cpus} shards, or allow this process more CPUs"
            ),
            PlanWarning::OverQuota { shards, quota } => write!(
                f,
                "{shards} shards run under a CPU quota of {quota}, so the kernel will pause all of \
                 them when it is used up: configure at most {} shards, or raise the quota \
                 (cpu.max, CPUQuota=, --cpus)",
                quota.whole_cpus()
            ),
        }
    }
}

/// Why the requested placement is not possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The number of shards is zero or above [`SHARDS_MAX`].
    ShardCount {
        /// The number asked for.
        shards: usize,
    },
    /// An empty list of CPUs was given.
    NoCpus,
    /// This process may not run on a CPU that was requested.
    NotAllowed {
        /// The CPU requested.
        cpu: usize,
        /// The CPUs it may run on.
        allowed: Vec<usize>,
    },
    /// A CPU was listed twice.
    Twice {
        /// The CPU.
        cpu: usize,
    },
    /// The machine allows no CPU at all, which must be a misreading.
    NothingAllowed,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::ShardCount { shards } => write!(
                f,
                "{shards} shards were asked for, but there must be 1 to {SHARDS_MAX} (each pair of \
                 shards has queues of its own): choose a number in that range, and run several \
                 brokers on a larger machine"
            ),
            PlanError::NoCpus => {
                write!(
                    f,
                    "the list of CPUs is empty: name at least one, or leave the setting out to use \
                     all"
                )
            }
            PlanError::NotAllowed { cpu, allowed } => write!(
                f,
                "CPU {cpu} was asked for, but this process may only run on CPUs {}: choose among \
                 those, or widen the affinity (taskset, CPUAffinity=) or the cpuset (AllowedCPUs=, \
                 --cpuset-cpus)",
                CpuList(allowed)
            ),
            PlanError::Twice { cpu } => write!(
                f,
                "CPU {cpu} is listed twice: list each CPU once; to run more shards than CPUs, set \
                 the number of shards"
            ),
            PlanError::NothingAllowed => write!(
                f,
                "the affinity mask and the cpuset of this process have no CPU in common: check \
                 taskset and cpuset.cpus, or name the CPUs in the configuration"
            ),
        }
    }
}

impl std::error::Error for PlanError {}

/// Chooses a CPU for each shard.
///
/// Without `shards` there is one for each CPU of `cpus`; without either, one for each allowed CPU,
/// but no more than the quota rounded up, and never more than [`SHARDS_MAX`]. With fewer CPUs than
/// shards the CPUs repeat in order. Pure.
///
/// ```
/// use sapwood_server::cpus::{Machine, plan};
/// let machine = Machine { allowed: vec![0, 1, 4, 5], quota: None };
/// assert_eq!(plan(None, None, &machine)?.cpus, [0, 1, 4, 5]);
/// assert_eq!(plan(Some(2), None, &machine)?.cpus, [0, 1]);
/// assert_eq!(plan(Some(3), Some(&[4, 5]), &machine)?.cpus, [4, 5, 4]);
/// # Ok::<(), sapwood_server::cpus::PlanError>(())
/// ```
pub fn plan(
    shards: Option<usize>,
    cpus: Option<&[usize]>,
    machine: &Machine,
) -> Result<Plan, PlanError> {
    let usable = match cpus {
        Some(wanted) => {
            check_wanted(wanted, &machine.allowed)?;
            wanted
        }
        None if machine.allowed.is_empty() => return Err(PlanError::NothingAllowed),
        None => &machine.allowed[..],
    };
    let paid_for = machine.quota.map_or(usize::MAX, Quota::whole_cpus);
    let shards = match (shards, cpus) {
        (Some(shards), _) => shards,
        // An explicit list is not capped; a warning follows below if it exceeds the quota.
        (None, Some(wanted)) => wanted.len(),
        (None, None) => usable.len().min(paid_for).min(SHARDS_MAX),
    };
    if shards == 0 || shards > SHARDS_MAX {
        return Err(PlanError::ShardCount { shards });
    }
    let mut warnings = Vec::new();
    if shards > usable.len() {
        warnings.push(PlanWarning::SharedCpus {
            shards,
            cpus: usable.len(),
        });
    }
    if let Some(quota) = machine.quota
        && shards > paid_for
    {
        warnings.push(PlanWarning::OverQuota { shards, quota });
    }
    Ok(Plan {
        cpus: usable.iter().copied().cycle().take(shards).collect(),
        warnings,
    })
}

fn check_wanted(wanted: &[usize], allowed: &[usize]) -> Result<(), PlanError> {
    if wanted.is_empty() {
        return Err(PlanError::NoCpus);
    }
    for (index, &cpu) in wanted.iter().enumerate() {
        if !allowed.contains(&cpu) {
            return Err(PlanError::NotAllowed {
                cpu,
                allowed: allowed.to_vec(),
            });
        }
        if wanted[..index].contains(&cpu) {
            return Err(PlanError::Twice { cpu });
        }
    }
    Ok(())
}

impl Machine {
    /// Asks the kernel. Fails only if the affinity mask cannot be read. A control group that cannot be read or
    /// understood counts as no limit, because the kernel enforces it all the same.
    pub fn read() -> io::Result<Machine> {
        let mut allowed = affinity()?;
        let groups = cgroup::read(Path::new("/"));
        if let Some(cpuset) = groups.cpuset {
            allowed.retain(|cpu| cpuset.contains(cpu));
        }
        Ok(Machine {
            allowed,
            quota: groups.quota,
        })
    }
}

/// The CPUs in the calling thread's affinity mask, ascending.
fn affinity() -> io::Result<Vec<usize>> {
    // The kernel refuses a mask smaller than its own with EINVAL. 128 KiB stand for a million CPUs,
    // far beyond any kernel's limit (8,192 at most today), so the loop ends.
    let mut mask = vec![0u64; 16];
    loop {
        let bytes = size_of_val(&mask[..]);
        // SAFETY: the kernel writes at most `bytes` bytes to the mask, which has that many.
        let result = unsafe { libc::sched_getaffinity(0, bytes, mask.as_mut_ptr().cast()) };
        if result == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) || mask.len() >= 16 * 1024 {
            return Err(io::Error::new(
                error.kind(),
                format!(
                    "reading the CPU affinity of this process failed: {error}: a seccomp profile \
                     that forbids sched_getaffinity does this; allow it"
                ),
            ));
        }
        mask.resize(mask.len() * 2, 0);
    }
    Ok((0..mask.len() * 64)
        .filter(|cpu| mask[cpu / 64] >> (cpu % 64) & 1 == 1)
        .collect())
}

/// Writes CPUs the way `taskset` and the kernel do: `0-3,8`.
struct CpuList<'cpus>(&'cpus [usize]);

impl fmt::Display for CpuList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut separator = "";
        while let [first, ..] = rest {
            let run = rest
                .iter()
                .zip(*first..)
                .take_while(|(cpu, next)| *cpu == next)
                .count();
            match run {
                1 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{}", first + run - 1)?,
            }
            rest = &rest[run..];
            separator = ",";
        }
        Ok(())
    }
}
