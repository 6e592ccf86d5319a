//! What the control groups of this process say about CPUs: version 2, version 1, or both mounted
//! side by side.
//!
//! Owns the file formats. Every limit of an ancestor holds too, so each file is looked for from the
//! process's own group up to the root of the mount. Inside a container the paths in
//! `/proc/self/cgroup` may be those of the host, which do not exist under the container's mount;
//! then the walk simply goes up until it meets the mount itself, which is the container's own
//! group.

use std::fmt;
use std::path::{Path, PathBuf};

/// The longest chain of groups that is walked; the kernel's own default limit on depth is far above
/// any real one.
const DEPTH_MAX: usize = 128;
/// CPU numbers above this are taken for a misread file.
const CPU_MAX: usize = 65_535;

/// A share of CPU time: `quota_us` in each `period_us` (microseconds, neither zero).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    quota_us: u64,
    period_us: u64,
}

impl Quota {
    /// A quota, unless either part is zero, which the kernel never says.
    pub fn new(quota_us: u64, period_us: u64) -> Option<Quota> {
        (quota_us > 0 && period_us > 0).then_some(Quota {
            quota_us,
            period_us,
        })
    }

    /// How many CPUs it keeps busy, rounded up: at least 1.
    pub fn whole_cpus(self) -> usize {
        usize::try_from(self.quota_us.div_ceil(self.period_us)).unwrap_or(usize::MAX)
    }

    fn is_tighter_than(self, other: Quota) -> bool {
        let left = u128::from(self.quota_us) * u128::from(other.period_us);
        left < u128::from(other.quota_us) * u128::from(self.period_us)
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} CPUs",
            self.quota_us as f64 / self.period_us as f64
        )
    }
}

/// The limits found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Groups {
    /// The CPUs of the cpuset; none if no cpuset applies.
    pub cpuset: Option<Vec<usize>>,
    /// The tightest quota.
    pub quota: Option<Quota>,
}

/// Reads the limits below `root`, which is `/` except in tests.
pub(super) fn read(root: &Path) -> Groups {
    let text = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let memberships = parse_memberships(&text("proc/self/cgroup"));
    let mounts = parse_mounts(&text("proc/self/mountinfo"));
    let mut groups = Groups::default();
    for membership in &memberships {
        for mount in mounts.iter().filter(|mount| mount.serves(membership)) {
            for folder in folders(root, mount, &membership.path) {
                groups.tighten(membership, &folder);
            }
        }
    }
    groups
}

impl Groups {
    fn tighten(&mut self, membership: &Membership, folder: &Path) {
        let text = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let (quota, cpuset) = match membership.controllers.is_empty() {
            true => (
                text("cpu.max").and_then(|text| parse_cpu_max(&text)),
                text("cpuset.cpus.effective"),
            ),
            false => (
                text("cpu.cfs_quota_us")
                    .zip(text("cpu.cfs_period_us"))
                    .and_then(|(quota, period)| {
                        // Version 1 writes -1 for "no quota", which fails to parse as it should.
                        Quota::new(quota.trim().parse().ok()?, period.trim().parse().ok()?)
                    }),
                text("cpuset.effective_cpus").or_else(|| text("cpuset.cpus")),
            ),
        };
        if let Some(quota) = quota
            && self.quota.is_none_or(|known| quota.is_tighter_than(known))
        {
            self.quota = Some(quota);
        }
        // An empty file means "as above", not "none".
        if let Some(cpus) = cpuset
            .and_then(|text| parse_cpu_list(&text))
            .filter(|cpus| !cpus.is_empty())
        {
            match &mut self.cpuset {
                Some(known) => known.retain(|cpu| cpus.contains(cpu)),
                none => *none = Some(cpus),
            }
        }
    }
}

/// A line of `/proc/self/cgroup`: the group of this process in one hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Membership {
    /// The controllers of a version 1 hierarchy; empty for version 2.
    controllers: Vec<String>,
    path: String,
}

/// A control group file system in `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// The group that appears at the mount point.
    group: String,
    point: String,
    version_2: bool,
    /// The super block options, among them the controllers of version 1.
    options: Vec<String>,
}

impl Mount {
    fn serves(&self, membership: &Membership) -> bool {
        match membership.controllers.is_empty() {
            true => self.version_2,
            false => {
                let wanted = ["cpu", "cpuset"];
                !self.version_2
                    && membership.controllers.iter().any(|controller| {
                        wanted.contains(&controller.as_str()) && self.options.contains(controller)
                    })
            }
        }
    }
}

/// The folders of a group and its ancestors, as far as the mount shows them, innermost first.
fn folders(root: &Path, mount: &Mount, group: &str) -> Vec<PathBuf> {
    let point = root.join(mount.point.trim_start_matches('/'));
    let below = group
        .strip_prefix(mount.group.trim_end_matches('/'))
        .unwrap_or(group);
    let mut parts: Vec<&str> = below
        .split('/')
        .filter(|part| !part.is_empty() && *part != "..")
        .take(DEPTH_MAX)
        .collect();
    let mut folders = Vec::new();
    loop {
        folders.push(
            parts
                .iter()
                .fold(point.clone(), |folder, part| folder.join(part)),
        );
        if parts.pop().is_none() {
            return folders;
        }
    }
}

fn parse_memberships(text: &str) -> Vec<Membership> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            // Version 2 is hierarchy 0 without controllers; a named version 1 hierarchy has no
            // limits.
            let controllers: Vec<String> = controllers
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect();
            (number == "0" || !controllers.is_empty()).then(|| Membership {
                controllers,
                path: path.to_owned(),
            })
        })
        .collect()
}

fn parse_mounts(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            // proc_pid_mountinfo(5): optional fields end with a lone hyphen.
            let (place, system) = line.split_once(" - ")?;
            let mut system = system.split(' ');
            let kind = system.next()?;
            let options = system.nth(1).unwrap_or_default();
            let mut place = place.split(' ').skip(3);
            let (group, point) = (place.next()?, place.next()?);
            matches!(kind, "cgroup" | "cgroup2").then(|| Mount {
                group: group.to_owned(),
                point: point.to_owned(),
                version_2: kind == "cgroup2",
                options: options.split(',').map(str::to_owned).collect(),
            })
        })
        .collect()
}

/// `cpu.max`: quota and period in microseconds, or `max` for no quota.
fn parse_cpu_max(text: &str) -> Option<Quota> {
    let (quota, period) = text.trim().split_once(' ')?;
    Quota::new(quota.parse().ok()?, period.parse().ok()?)
}

/// A list such as `0-3,8`; none if it is malformed.
fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > CPU_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(quota_us: u64, period_us: u64) -> Option<Quota> {
        Quota::new(quota_us, period_us)
    }

    #[test]
    fn cpu_lists_are_read_as_the_kernel_writes_them() {
        let cases: &[(&str, Option<&[usize]>)] = &[
            ("0-3,8\n", Some(&[0, 1, 2, 3, 8])),
            ("5\n", Some(&[5])),
            ("\n", Some(&[])),
            ("7,0-1,1\n", Some(&[0, 1, 7])),
            ("3-1", None),
            ("0-99999999999", None),
            ("0-4294967295", None),
            ("zero", None),
            ("-1", None),
        ];
        for (text, cpus) in cases {
            assert_eq!(parse_cpu_list(text).as_deref(), *cpus, "{text:?}");
        }
    }

    #[test]
    fn quotas_are_rounded_up_and_compared_exactly() {
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("150000 100000\n"), quota(150_000, 100_000));
        assert_eq!(parse_cpu_max("0 100000"), None);
        assert_eq!(parse_cpu_max("100000 0"), None);
        assert_eq!(parse_cpu_max(""), None);
        let cpus = |quota_us| Quota::new(quota_us, 100_000).map(Quota::whole_cpus);
        assert_eq!(
            [cpus(1000), cpus(100_000), cpus(100_001), cpus(250_000)],
            [1, 1, 2, 3].map(Some)
        );
        let (tight, loose) = (
            quota(50_000, 100_000).unwrap(),
            quota(60_000, 100_000).unwrap(),
        );
        assert!(tight.is_tighter_than(loose) && !loose.is_tighter_than(tight));
        assert_eq!(tight.to_string(), "0.50 CPUs");
    }

    /// Lays files out below a fresh folder and reads the limits there.
    fn groups(name: &str, files: &[(&str, &str)]) -> Groups {
        let root =
            std::env::temp_dir().join(format!("sapwood-cgroup-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let groups = read(&root);
        std::fs::remove_dir_all(&root).unwrap();
        groups
    }

    const MOUNT_2: (&str, &str) = (
        "proc/self/mountinfo",
        "22 1 0:20 / /proc rw - proc proc rw\n\
         29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
    );

    #[test]
    fn version_2_takes_the_tightest_quota_of_all_ancestors() {
        let found = groups(
            "v2",
            &[
                MOUNT_2,
                ("proc/self/cgroup", "0::/system.slice/sapwood.service\n"),
                (
                    "sys/fs/cgroup/system.slice/sapwood.service/cpu.max",
                    "max 100000\n",
                ),
                (
                    "sys/fs/cgroup/system.slice/sapwood.service/cpuset.cpus.effective",
                    "0-7\n",
                ),
                ("sys/fs/cgroup/system.slice/cpu.max", "350000 100000\n"),
                ("sys/fs/cgroup/cpuset.cpus.effective", "2-15\n"),
            ],
        );
        assert_eq!(found.quota, quota(350_000, 100_000));
        assert_eq!(found.cpuset, Some(vec![2, 3, 4, 5, 6, 7]));
    }

    #[test]
    fn a_container_finds_its_limits_at_its_own_root() {
        for (name, membership) in [
            ("namespace", "0::/\n"),
            ("host-path", "0::/docker/0123abcd\n"),
        ] {
            let found = groups(
                name,
                &[
                    MOUNT_2,
                    ("proc/self/cgroup", membership),
                    ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
                    ("sys/fs/cgroup/cpuset.cpus.effective", "1\n"),
                ],
            );
            assert_eq!(
                found,
                Groups {
                    cpuset: Some(vec![1]),
                    quota: quota(50_000, 100_000)
                },
                "{name}"
            );
        }
    }

    #[test]
    fn version_1_is_read_from_its_controllers_mounts() {
        let found = groups(
            "v1",
            &[
                (
                    "proc/self/mountinfo",
                    "33 32 0:30 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup \
                     rw,cpu,cpuacct\n34 32 0:31 /docker/abc /sys/fs/cgroup/cpuset ro - cgroup \
                     cgroup rw,cpuset\n35 32 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup \
                     cgroup rw,memory\n",
                ),
                (
                    "proc/self/cgroup",
                    "4:memory:/docker/abc\n3:cpuset:/docker/abc\n2:cpu,cpuacct:/docker/abc\n\
                     1:name=systemd:/docker/abc\n0::/\n",
                ),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/cpuset/cpuset.cpus", "0,2-3\n"),
            ],
        );
        assert_eq!(
            found,
            Groups {
                cpuset: Some(vec![0, 2, 3]),
                quota: quota(200_000, 100_000)
            }
        );
    }

    #[test]
    fn no_quota_and_no_files_mean_no_limit() {
        let none = Groups::default();
        assert_eq!(groups("none", &[("proc/self/cgroup", "0::/\n")]), none);
        assert_eq!(
            groups("junk", &[MOUNT_2, ("proc/self/cgroup", "::::\n0:\n\u{1}")]),
            none
        );
        let unlimited = groups(
            "unlimited",
            &[
                (
                    "proc/self/mountinfo",
                    "33 32 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
                ),
                ("proc/self/cgroup", "1:cpu:/\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ],
        );
        assert_eq!(unlimited, none);
    }
}
