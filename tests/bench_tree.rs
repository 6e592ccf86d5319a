//! The benchmark of hops between nodes: its checks notice what is lost, doubled, out of order or changed on the way, and
//! its section of BENCHMARKS.md says what the runs say. That the repository holds that section is tested with the rest
//! of the page, in `bench_report.rs`.

// A benchmark and this test each use a part of these.
#[allow(dead_code)]
#[path = "../benches/tree/course.rs"]
mod course;
#[allow(dead_code)]
#[path = "../benches/comparison/dialect.rs"]
mod dialect;
#[allow(dead_code)]
#[path = "../benches/comparison/figures.rs"]
mod figures;
#[allow(dead_code)]
#[path = "../benches/comparison/generator.rs"]
mod generator;
#[allow(dead_code)]
#[path = "../benches/comparison/hops.rs"]
mod hops;
#[allow(dead_code)]
#[path = "../benches/comparison/measure.rs"]
mod measure;
#[path = "../benches/comparison/pieces.rs"]
mod pieces;
#[path = "../benches/comparison/questions.rs"]
mod questions;
#[allow(dead_code)]
#[path = "../benches/comparison/record.rs"]
mod record;
#[allow(dead_code)]
#[path = "../benches/comparison/script.rs"]
mod script;
#[allow(dead_code)]
#[path = "../benches/comparison/servers.rs"]
mod servers;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use course::{Figures, PAYLOAD_BYTES, Way};
use dialect::{Dialect, topic};
use generator::Trouble;
use hops::{Hops, Load, Run, Single, section};
use record::{Contender, Machine, RunFailure, Who};

/// The event that a fault hits: in the warm-up, behind all probes.
const HIT: usize = 30;

/// Seconds that a run of a fake chain is measured.
const SECONDS: f64 = 0.1;

/// What happens on the way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// The first probes come to nothing, as before a subscription is known.
    Unheard,
    Lost,
    Doubled,
    Swapped,
    Changed,
    /// Nothing comes any more.
    Broken,
}

/// Copies frames, which are the same from a publisher and to a subscriber, with a fault.
fn carry(mut from: TcpStream, mut to: TcpStream, fault: Fault) -> std::io::Result<()> {
    let frame = Dialect::Native.publish(&topic(0), &[0; PAYLOAD_BYTES]);
    let (mut frame, mut kept) = (vec![0; frame.len()], Vec::new());
    // Ends with the publisher's connection.
    for number in 0.. {
        from.read_exact(&mut frame)?;
        let out = match fault {
            Fault::Unheard if number < 3 => Vec::new(),
            Fault::Lost if number == HIT => Vec::new(),
            Fault::Broken if number >= HIT => Vec::new(),
            Fault::Doubled if number == HIT => frame.repeat(2),
            Fault::Swapped if number == HIT => {
                kept = frame.clone();
                Vec::new()
            }
            Fault::Swapped if number == HIT + 1 => [&*frame, &*kept].concat(),
            Fault::Changed if number == HIT => {
                let mut frame = frame.clone();
                frame[50] ^= 1;
                frame
            }
            _ => frame.clone(),
        };
        to.write_all(&out)?;
    }
    Ok(())
}

/// A run through a chain that is nothing but a fault.
fn run(load: Load, fault: Fault) -> Result<Figures, Trouble> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let connect = || -> std::io::Result<[TcpStream; 2]> {
        let near = TcpStream::connect(listener.local_addr()?)?;
        let far = listener.accept()?.0;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        Ok([near, far])
    };
    let ([publisher, from], [subscriber, to]) = (connect()?, connect()?);
    publisher.set_nonblocking(true)?;
    thread::spawn(move || carry(from, to, fault));
    let mut way = Way::between(publisher, subscriber, Dialect::Native, 0)?;
    way.run(load, SECONDS, &|| Ok(vec![Duration::ZERO; 4]))
}

#[test]
fn faults_on_the_way_are_noticed_under_every_load() {
    let faults = [Fault::Lost, Fault::Doubled, Fault::Swapped, Fault::Changed];
    for load in Load::ALL {
        for fault in faults {
            let error = run(load, fault).err().map(|trouble| trouble.to_string());
            let error = error.unwrap_or_else(|| panic!("{load:?}, {fault:?}: not noticed"));
            assert!(
                error.contains("wrong or out of order"),
                "{load:?}, {fault:?}: {error}"
            );
        }
    }
}

#[test]
fn events_that_never_come_are_noticed() {
    let error = run(Load::Paced, Fault::Broken)
        .err()
        .map(|trouble| trouble.to_string());
    let error = error.unwrap_or_default();
    assert!(error.ends_with("deliveries never came"), "{error}");
}

#[test]
fn all_events_count_once_the_subscriber_is_heard() {
    for load in Load::ALL {
        for fault in [Fault::None, Fault::Unheard] {
            let figures = run(load, fault).unwrap_or_else(|error| panic!("{load:?}: {error}"));
            assert!(figures.events > 0);
            assert_eq!(figures.node_cpu_seconds, [0.0; 4]);
            assert_eq!(figures.latency.is_some(), load == Load::Single);
            let latency = figures.latency.unwrap_or(Single { p50: 1, p99: 2 });
            assert!(0 < latency.p50 && latency.p50 <= latency.p99);
        }
    }
}

/// Three rounds of all loads on all ways. A local delivery costs its node one second for a million events and takes 20 us,
/// a little less and a little more in the other rounds; each further node costs `ratio` times as much, and each hop takes
/// `hop` nanoseconds more.
fn runs(who: Who, ratio: f64, hop: u64) -> Vec<Run> {
    let mut runs = Vec::new();
    for (round, factor) in [(1, 0.5), (2, 1.0), (3, 2.0)] {
        for load in Load::ALL {
            for hops in [0, 1, 3] {
                let cost = |node: usize| match (hops, node) {
                    (0, 0) => factor,
                    (hops, node) if node <= hops => factor * ratio,
                    _ => 0.01,
                };
                let p50 = 20_000 * round + hops as u64 * hop;
                runs.push(Run {
                    who,
                    round: round as u32,
                    hops,
                    load,
                    seconds: 2.0,
                    events: 1_000_000,
                    node_cpu_seconds: (0..4).map(cost).collect(),
                    generator_cpu_seconds: 1.0,
                    generator_waited_seconds: 0.02,
                    latency: (load == Load::Single).then_some(Single { p50, p99: 3 * p50 }),
                });
            }
        }
    }
    runs
}

fn record(runs: &[Vec<Run>]) -> Hops {
    let contender = |id| Contender {
        id,
        version: "1.2.3".to_string(),
        missing: None,
    };
    let contenders = [
        Who::Nats,
        Who::NatsNow,
        Who::SapwoodNats,
        Who::SapwoodNative,
    ];
    Hops {
        command: "tools/hops".to_string(),
        date: "2026-01-02".to_string(),
        commit: "abc1234".to_string(),
        machine: Machine {
            cpu: "Abacus".to_string(),
            cpus: 2,
            memory: 8 << 30,
            kernel: "6.1".to_string(),
            rustc: "rustc 1.90.0".to_string(),
        },
        payload_bytes: 128,
        paced_per_second: 100_000,
        paced_batch: 200,
        window: 16_384,
        single_per_second: 1_000,
        load_averages: vec![0.1, 0.2, 0.3],
        contenders: contenders.map(contender).to_vec(),
        runs: runs.concat(),
        failures: Vec::new(),
    }
}

#[track_caller]
fn check(hops: &Hops, parts: &[&str]) {
    let page = section(hops);
    for part in parts {
        assert!(page.contains(part), "{part}\n{page}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
}

#[test]
fn goals_are_judged_against_the_local_delivery_of_the_same_round() {
    // Rounds differ by four times, ratios within a round do not differ at all.
    let hops = record(&[
        runs(Who::SapwoodNative, 1.4, 50_000),
        runs(Who::SapwoodNats, 1.6, 70_000),
    ]);
    check(
        &hops,
        &[
            "Of 12 goals, set before measuring and judged by medians, **6 are met and 6 are not**.",
            "| Sapwood, native | 1 hop, paced: each node's CPU | at most 1.5x | node 2: 1.4x | met |",
            "| Sapwood, NATS protocol | 3 hops, full speed: each node's CPU | at most 1.5x | node 4: 1.6x | **not met** |",
            "| Sapwood, native | 1 hop: p50 more than local | at most 60 us | 50 us | met |",
            "| Sapwood, NATS protocol | 3 hops: p50 more than local | at most 60 us a hop: 180 us | 210 us | **not met** |",
        ],
    );
}

#[test]
fn goals_say_where_a_round_went_the_other_way() {
    let mut hops = record(&[runs(Who::SapwoodNative, 1.4, 50_000)]);
    for run in &mut hops.runs {
        if (run.round, run.hops, run.load) == (3, 1, Load::Full) {
            run.node_cpu_seconds[1] = 4.0;
        }
    }
    check(
        &hops,
        &[
            "| node 2: 1.4x (1.4 to 2) | met, within the spread |",
            "| Sapwood, NATS protocol | 1 hop: p50 more than local | at most 60 us | - | not measured |",
            "**6 are met and 0 are not**",
        ],
    );
}

#[test]
fn tables_show_each_node_an_event_passes() {
    let hops = record(&[runs(Who::SapwoodNative, 1.4, 50_000)]);
    let cost = "1.4 (0.7 to 2.8): 1.4x";
    check(
        &hops,
        &[
            "| Sapwood, native | 0 | 1 (0.5 to 2) | - | - | - | 1 (0.5 to 2) | 500k |",
            &format!("| Sapwood, native | 1 | {cost} | {cost} | - | - | 2.8 (1.4 to 5.6) | 500k |"),
            &format!(
                "| Sapwood, native | 3 | {cost} | {cost} | {cost} | {cost} | 5.6 (2.8 to 11.2) | 500k |"
            ),
            "| Sapwood, native | 0 | 40 us (20 to 60) | - | 120 us (60 to 180) | - |",
            "| Sapwood, native | 1 | 90 us (70 to 110) | 50 us | 270 us (210 to 330) | 150 us |",
            "A node of Sapwood that the events do not pass needed at most 0.01 s/M meanwhile.",
        ],
    );
}

#[test]
fn contenders_are_held_against_each_other_by_the_same_rule() {
    let faster = |runs: Vec<Run>| -> Vec<Run> {
        let tenth = |mut run: Run| {
            run.node_cpu_seconds.iter_mut().for_each(|cpu| *cpu /= 10.0);
            run
        };
        runs.into_iter().map(tenth).collect()
    };
    let hops = record(&[
        runs(Who::NatsNow, 1.0, 10_000),
        faster(runs(Who::SapwoodNats, 1.0, 100_000)),
    ]);
    check(
        &hops,
        &[
            "- **Sapwood, NATS protocol, against nats-server, current, 3 hops:** the CPU of all nodes together is 0.1x when \
             paced and 0.1x at full speed, p50 is 4.86x.",
        ],
    );
    let hops = record(&[
        runs(Who::NatsNow, 1.0, 10_000),
        runs(Who::SapwoodNats, 1.1, 11_000),
    ]);
    check(&hops, &["p50 is the same within the spread."]);
}

#[test]
fn who_failed_or_is_missing_has_no_figure() {
    let mut hops = record(&[
        runs(Who::Nats, 1.0, 10_000),
        runs(Who::SapwoodNative, 1.0, 10_000),
    ]);
    hops.contenders[1].missing = Some("not | installed".to_string());
    hops.failures.push(RunFailure {
        who: Who::Nats,
        round: 2,
        error: "an `event`\ntwice".to_string(),
    });
    check(
        &hops,
        &[
            "- nats-server, current **did not take part**, so nothing is said of it: not \\| installed",
            "- **nats-server failed in round 2, so it has no figure:** `an 'event' twice`",
        ],
    );
    assert!(!section(&hops).contains("| nats-server |"));
    // A failure of ours leaves its goals open.
    hops.failures[0].who = Who::SapwoodNative;
    check(&hops, &["**0 are met and 0 are not**"]);
}

#[test]
fn latencies_are_not_judged_where_others_had_the_cpu() {
    let mut hops = record(&[runs(Who::SapwoodNative, 1.4, 50_000)]);
    let quiet = "made the generator wait for its CPU for 1 % of the time.\n";
    check(&hops, &[quiet, "**6 are met and 0 are not**"]);
    for run in &mut hops.runs {
        run.generator_waited_seconds = 0.5;
    }
    check(
        &hops,
        &[
            "**4 are met and 0 are not**",
            "for 25 % of the time. **So the latencies are others' as much as the brokers'**",
        ],
    );
}

#[test]
fn nothing_measured_gives_a_section_without_claims() {
    let mut hops = record(&[]);
    hops.load_averages = Vec::new();
    check(&hops, &["**0 are met and 0 are not**"]);
    // A run in which nothing arrived has no cost.
    hops.runs = runs(Who::SapwoodNative, 1.0, 1_000);
    hops.runs.iter_mut().for_each(|run| run.events = 0);
    check(&hops, &["| node 1, s/M |"]);
}
