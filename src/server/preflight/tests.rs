//! Real refusals: each test takes something away from a process of its own and reads what that
//! process then says.

use std::os::unix::process::CommandExt;

use super::*;
use crate::testing::{command, is_alone, passed};

const MODEST: Needs = Needs {
    shards: 1,
    connections: 10,
};

/// What is taken away from a child process.
#[derive(Clone, Copy)]
enum Without {
    /// This system call fails with this error, by a seccomp filter.
    Call(libc::c_long, i32),
    /// Locked memory above this many bytes.
    LockedBytes(u64),
    /// Open files above this soft and this hard limit.
    Files(u64, u64),
}

/// In the child: passes the refusal of `check` to `look`. In the parent: runs the child without the resource, and
/// checks that it passed.
fn refused(path: &str, needs: Needs, without: Without, look: impl FnOnce(&Refusal)) {
    if is_alone(path) {
        let refusal = check(&needs).expect_err("nothing was refused");
        println!("{refusal}");
        return look(&refusal);
    }
    run_without(path, without);
}

fn run_without(path: &str, without: Without) {
    let mut command = command(path);
    // SAFETY: `take_away` makes system calls only, without allocating or locking, as a forked child
    // must.
    unsafe { command.pre_exec(move || take_away(without)) };
    passed(command.output().unwrap());
}

fn take_away(without: Without) -> io::Result<()> {
    let (resource, soft, hard) = match without {
        Without::Call(number, errno) => return forbid(number, errno),
        Without::LockedBytes(bytes) => (Resource::LockedMemory, bytes, bytes),
        Without::Files(soft, hard) => (Resource::OpenFiles, soft, hard),
    };
    resource.set(Limit { soft, hard })?;
    // CAP_IPC_LOCK and CAP_SYS_RESOURCE of linux/capability.h. The unprivileged have neither, and
    // may not ask.
    for capability in [14, 24] {
        // SAFETY: this prctl takes plain numbers.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    Ok(())
}

/// Installs a filter that answers one system call with an error and lets all others pass.
fn forbid(number: libc::c_long, errno: i32) -> io::Result<()> {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut program = [
        // The number of the call stands at the start of `seccomp_data`.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(equal, 0, 1, number as u32),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | errno as u32,
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program, which is alive here, before the second call returns.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const filter,
            )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn assert_says(refusal: &Refusal, parts: &[&str]) {
    let text = refusal.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

const ALL_REMEDIES: [&str; 3] = ["\n  bare metal", "systemd", "\n  docker, podman"];

#[test]
fn a_seccomp_filter_is_named_as_what_forbids_io_uring() {
    let path = "preflight::tests::a_seccomp_filter_is_named_as_what_forbids_io_uring";
    refused(
        path,
        MODEST,
        Without::Call(libc::SYS_io_uring_setup, libc::EPERM),
        |refusal| {
            assert!(matches!(
                refusal,
                Refusal::Forbidden {
                    call: "io_uring_setup",
                    by: Forbidder::Seccomp,
                    ..
                }
            ));
            assert_says(
                refusal,
                &[
                    "Operation not permitted",
                    "--security-opt seccomp=unconfined",
                ],
            );
            assert_says(
                refusal,
                &["io_uring_setup, io_uring_enter and io_uring_register"],
            );
            assert_says(refusal, &ALL_REMEDIES);
        },
    );
}

#[test]
fn a_filter_on_io_uring_register_is_found() {
    let path = "preflight::tests::a_filter_on_io_uring_register_is_found";
    refused(
        path,
        MODEST,
        Without::Call(libc::SYS_io_uring_register, libc::EPERM),
        |refusal| {
            assert_says(
                refusal,
                &[
                    "io_uring_register failed: Operation not permitted",
                    "seccomp",
                ],
            );
        },
    );
}

#[test]
fn a_filter_on_io_uring_enter_is_found() {
    let path = "preflight::tests::a_filter_on_io_uring_enter_is_found";
    refused(
        path,
        MODEST,
        Without::Call(libc::SYS_io_uring_enter, libc::EPERM),
        |refusal| {
            assert_says(
                refusal,
                &["io_uring_enter failed: Operation not permitted", "seccomp"],
            );
        },
    );
}

#[test]
fn a_filter_that_pretends_there_is_no_io_uring_is_suspected() {
    let path = "preflight::tests::a_filter_that_pretends_there_is_no_io_uring_is_suspected";
    refused(
        path,
        MODEST,
        Without::Call(libc::SYS_io_uring_setup, libc::ENOSYS),
        |refusal| {
            assert!(matches!(refusal, Refusal::Missing { filtered: true, .. }));
            assert_says(
                refusal,
                &["Function not implemented", "pretends", "seccomp=unconfined"],
            );
        },
    );
}

#[test]
fn unknown_flags_mean_an_old_kernel() {
    let path = "preflight::tests::unknown_flags_mean_an_old_kernel";
    refused(
        path,
        MODEST,
        Without::Call(libc::SYS_io_uring_setup, libc::EINVAL),
        |refusal| {
            assert!(matches!(refusal, Refusal::TooOld { .. }));
            assert_says(
                refusal,
                &[&kernel_release(), "Linux 6.0 or newer is needed"],
            );
            assert_says(refusal, &ALL_REMEDIES);
        },
    );
}

#[test]
fn no_locked_memory_is_refused_with_the_limit_to_set() {
    let path = "preflight::tests::no_locked_memory_is_refused_with_the_limit_to_set";
    refused(path, MODEST, Without::LockedBytes(0), |refusal| {
        assert!(
            matches!(refusal, Refusal::LockedMemory { allowed: 0, .. }),
            "{refusal:?}"
        );
        assert_says(
            refusal,
            &[
                "0 KiB are allowed",
                "ulimit -l",
                "LimitMEMLOCK=",
                "--ulimit memlock=",
            ],
        );
        assert_says(refusal, &ALL_REMEDIES);
    });
}

#[test]
fn locked_memory_for_one_shard_does_not_do_for_sixty_four_where_rings_count() {
    let path = "preflight::tests::locked_memory_for_one_shard_does_not_do_for_sixty_four_where_rings_count";
    if !is_alone(path) {
        return run_without(path, Without::LockedBytes(2 << 20));
    }
    let before = Resource::LockedMemory.read().unwrap();
    let report = check(&MODEST).unwrap();
    assert_eq!(
        Resource::LockedMemory.read().unwrap(),
        before,
        "the trial changed the limit"
    );
    match check(&Needs {
        shards: 64,
        connections: 10,
    }) {
        Ok(_) => assert!(!report.rings_are_locked_memory),
        Err(refusal) => {
            assert!(report.rings_are_locked_memory);
            assert_says(
                &refusal,
                &[
                    "64 shards need 32 MiB",
                    "2 MiB are allowed",
                    "ulimit -l 32768",
                ],
            );
        }
    }
}

#[test]
fn too_few_open_files_are_refused_with_the_limit_to_set() {
    let path = "preflight::tests::too_few_open_files_are_refused_with_the_limit_to_set";
    let needs = Needs {
        shards: 2,
        connections: 10_000,
    };
    refused(path, needs, Without::Files(300, 3000), |refusal| {
        assert_says(
            refusal,
            &[
                "10000 connections need 10288 open files",
                "3000 are allowed",
            ],
        );
        assert_says(
            refusal,
            &["ulimit -n 10288", "LimitNOFILE=10288", "nofile=10288:10288"],
        );
        assert_says(refusal, &ALL_REMEDIES);
    });
}

#[test]
fn the_soft_limit_of_open_files_is_raised_to_the_hard_one() {
    let path = "preflight::tests::the_soft_limit_of_open_files_is_raised_to_the_hard_one";
    if !is_alone(path) {
        return run_without(path, Without::Files(300, 3000));
    }
    let report = check(&Needs {
        shards: 2,
        connections: 2000,
    })
    .unwrap();
    assert_eq!((report.open_files, report.connections), (3000, 3000 - 288));
    assert_eq!(Resource::OpenFiles.read().unwrap().soft, 3000);
}

#[test]
fn a_machine_that_passes_can_start_what_was_checked_for() {
    let path = "preflight::tests::a_machine_that_passes_can_start_what_was_checked_for";
    crate::testing::alone(path, || {
        let shards = 4;
        println!(
            "{}",
            check(&Needs {
                shards,
                connections: 100
            })
            .unwrap()
        );
        let start = || {
            glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound)
                .io_memory(65536)
                .ring_depth(1024)
                .spawn(|| async { Ring::new(RingConfig::default()).map(drop) })
                .unwrap()
        };
        let executors: Vec<_> = (0..shards).map(|_| start()).collect();
        for executor in executors {
            executor.join().unwrap().unwrap();
        }
    });
}

#[test]
fn the_sysctl_is_blamed_only_when_it_can_be_the_cause() {
    let cases = [
        ("0\n", false, Forbidder::Unknown),
        ("0\n", true, Forbidder::Seccomp),
        ("", false, Forbidder::Unknown),
        ("", true, Forbidder::Seccomp),
        ("1\n", false, Forbidder::Sysctl(1)),
        ("1\n", true, Forbidder::Seccomp),
        ("2\n", false, Forbidder::Sysctl(2)),
        ("2\n", true, Forbidder::Sysctl(2)),
    ];
    for (sysctl, filtered, culprit) in cases {
        assert_eq!(
            forbidder(sysctl, filtered),
            culprit,
            "{sysctl:?} {filtered}"
        );
    }
    for (value, whom) in [(1, "unprivileged"), (2, "everyone")] {
        let by = Forbidder::Sysctl(value);
        let refusal = Refusal::Forbidden {
            call: "io_uring_setup",
            errno: Errno(libc::EPERM),
            by,
        };
        assert_says(
            &refusal,
            &["kernel.io_uring_disabled is", whom, "sysctl -w"],
        );
        assert_says(&refusal, &ALL_REMEDIES);
    }
    assert!(is_filtered("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
    assert!(!is_filtered("Seccomp:\t0\nSeccomp_filters:\t2\n"));
}
