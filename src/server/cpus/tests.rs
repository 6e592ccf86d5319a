//! Plans as data, and one look at the real machine.

use super::*;

fn machine(allowed: &[usize], quota_us: u64) -> Machine {
    Machine {
        allowed: allowed.to_vec(),
        quota: Quota::new(quota_us, 100_000),
    }
}

#[test]
fn each_shard_gets_a_cpu() {
    type Case<'a> = (Option<usize>, Option<&'a [usize]>, Machine, &'a [usize]);
    let cases: &[Case] = &[
        (None, None, machine(&[0, 1, 2, 3], 0), &[0, 1, 2, 3]),
        (None, None, machine(&[4, 6], 0), &[4, 6]),
        (None, None, machine(&[0, 1, 2, 3], 150_000), &[0, 1]),
        (None, None, machine(&[0, 1], 10_000), &[0]),
        (None, None, machine(&[0], 800_000), &[0]),
        (Some(1), None, machine(&[0, 1, 2, 3], 0), &[0]),
        (Some(2), Some(&[3, 1]), machine(&[0, 1, 2, 3], 0), &[3, 1]),
        (Some(1), Some(&[3, 1]), machine(&[0, 1, 2, 3], 0), &[3]),
        (None, Some(&[2]), machine(&[0, 1, 2, 3], 0), &[2]),
        (Some(5), None, machine(&[0, 1], 0), &[0, 1, 0, 1, 0]),
        (Some(3), Some(&[1]), machine(&[0, 1], 0), &[1, 1, 1]),
    ];
    for (shards, cpus, machine, expected) in cases {
        let plan = plan(*shards, *cpus, machine).unwrap();
        assert_eq!(plan.cpus, *expected, "{shards:?} {cpus:?} {machine:?}");
    }
    let large = machine(&(0..200).collect::<Vec<_>>(), 0);
    assert_eq!(plan(None, None, &large).unwrap().cpus.len(), SHARDS_MAX);
}

#[test]
fn plans_that_will_hurt_carry_a_warning() {
    let two = machine(&[0, 1], 0);
    assert_eq!(plan(Some(2), None, &two).unwrap().warnings, []);
    let shared = PlanWarning::SharedCpus { shards: 5, cpus: 2 };
    assert_eq!(plan(Some(5), None, &two).unwrap().warnings, [shared]);
    let tight = machine(&[0, 1, 2, 3], 150_000);
    let quota = tight.quota.unwrap();
    let over = PlanWarning::OverQuota { shards: 4, quota };
    assert_eq!(plan(Some(4), None, &tight).unwrap().warnings, [over]);
    assert_eq!(
        plan(None, Some(&[0, 1, 2, 3]), &tight).unwrap().warnings,
        [over]
    );
    assert!(
        over.to_string().contains("1.50 CPUs") && over.to_string().contains("at most 2 shards")
    );
}

#[test]
fn impossible_wishes_are_refused_with_what_is_possible() {
    let odd = machine(&[0, 1, 2, 8], 0);
    let refusal = |shards, cpus: Option<&[usize]>| plan(shards, cpus, &odd).unwrap_err();
    assert_eq!(refusal(Some(0), None), PlanError::ShardCount { shards: 0 });
    assert_eq!(
        refusal(Some(65), None),
        PlanError::ShardCount { shards: 65 }
    );
    assert_eq!(refusal(None, Some(&[])), PlanError::NoCpus);
    assert_eq!(refusal(None, Some(&[1, 1])), PlanError::Twice { cpu: 1 });
    let not_allowed = refusal(None, Some(&[0, 3]));
    assert_eq!(
        not_allowed,
        PlanError::NotAllowed {
            cpu: 3,
            allowed: vec![0, 1, 2, 8]
        }
    );
    assert!(
        not_allowed.to_string().contains("CPUs 0-2,8"),
        "{not_allowed}"
    );
    assert_eq!(
        plan(None, None, &machine(&[], 0)),
        Err(PlanError::NothingAllowed)
    );
}

#[test]
fn the_real_machine_yields_a_plan_that_the_scheduler_accepts() {
    let machine = Machine::read().unwrap();
    assert!(machine.allowed.is_sorted());
    for cpu in plan(None, None, &machine).unwrap().cpus {
        std::thread::spawn(move || {
            // SAFETY: a zeroed set is a valid empty one; `cpu` is below its size on any machine
            // that runs tests.
            let result = unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(cpu, &mut set);
                libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
            };
            assert_eq!(result, 0, "CPU {cpu}: {}", io::Error::last_os_error());
            assert_eq!(affinity().unwrap(), [cpu]);
        })
        .join()
        .unwrap();
    }
}
