//! The report of the comparison: its rules, on records made up for each, and that the repository holds what it writes.
//!
//! The modules are the benchmark's own. They take a record and give text, so nothing here measures anything.

// The benchmark and this test each use a part of it.
#[allow(dead_code)]
#[path = "../benches/comparison/crowd.rs"]
mod crowd;
#[path = "../benches/comparison/figures.rs"]
mod figures;
#[path = "../benches/comparison/goals.rs"]
mod goals;
#[allow(dead_code)]
#[path = "../benches/comparison/hops.rs"]
mod hops;
#[path = "../benches/comparison/pieces.rs"]
mod pieces;
#[path = "../benches/comparison/plot.rs"]
mod plot;
#[path = "../benches/comparison/record.rs"]
mod record;
#[path = "../benches/comparison/report.rs"]
mod report;
#[path = "../benches/comparison/svg.rs"]
mod svg;
#[path = "../benches/comparison/verdicts.rs"]
mod verdicts;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crowd::{Arrival, Crowd, Phase, Round};
use figures::{Spread, bytes, count, duration, number, ratio, rows};
use goals::{Finding, Reached, findings};
use hops::Hops;
use plot::{Chart, charts};
use record::{Contender, Kind, Latency, Machine, Record, Run, RunFailure, Who, Workload};
use report::{CHARTS, NOTES, RECORD, files, markdown, opening_lines};
use verdicts::{Standing, Verdict, verdicts};

use Who::{Nats, NatsNow, Redis, Relay, SapwoodNative, SapwoodNats, SapwoodRedis};

/// A run of 10 s at a rate and a cost, with the generator half busy.
fn run(who: Who, rate: f64, cpu_per_million: f64) -> Run {
    let deliveries = (rate * 10.0) as u64;
    Run {
        who,
        variant: String::new(),
        round: 1,
        seconds: 10.0,
        deliveries,
        broker_cpu_seconds: cpu_per_million * deliveries as f64 / 1e6,
        generator_cpu_seconds: 5.0,
        memory_before: 4 << 20,
        memory_peak: 12 << 20,
        connections: 0,
        latency: None,
    }
}

/// Three rounds around a rate and a cost: the medians are those, the spread is a hundredth to each side.
fn runs(who: Who, rate: f64, cpu_per_million: f64) -> Vec<Run> {
    let rounds = [0.99, 1.0, 1.01].into_iter().zip(1..);
    let one = |(factor, round)| Run {
        round,
        ..run(who, rate * factor, cpu_per_million * factor)
    };
    rounds.map(one).collect()
}

/// The same with latencies whose median is given, in nanoseconds.
fn runs_with_latency(who: Who, rate: f64, cpu_per_million: f64, p50: u64) -> Vec<Run> {
    let mut runs = runs(who, rate, cpu_per_million);
    for (run, p50) in runs.iter_mut().zip([p50 - p50 / 100, p50, p50 + p50 / 100]) {
        run.latency = Some(Latency {
            p50,
            p90: p50 * 2,
            p99: p50 * 4,
            p999: p50 * 20,
            max: p50 * 90,
            curve: vec![
                (25.0, p50 / 2),
                (50.0, p50),
                (90.0, p50 * 2),
                (100.0, p50 * 90),
            ],
        });
    }
    runs
}

fn idle_runs(who: Who, bytes_each: u64) -> Vec<Run> {
    let mut runs = runs(who, 0.0, 0.0);
    for run in &mut runs {
        run.connections = 10_000;
        run.memory_peak = run.memory_before + bytes_each * 10_000;
    }
    runs
}

fn with_load(mut runs: Vec<Run>, load: f64) -> Vec<Run> {
    for run in &mut runs {
        run.generator_cpu_seconds = load * run.seconds;
    }
    runs
}

fn in_variant(mut runs: Vec<Run>, variant: &str) -> Vec<Run> {
    for run in &mut runs {
        run.variant = variant.to_string();
    }
    runs
}

fn workload(id: &str, kind: Kind, runs: &[Vec<Run>]) -> Workload {
    Workload {
        id: id.to_string(),
        title: format!("the {id} one"),
        about: "One sends and one reads.".to_string(),
        kind,
        runs: runs.concat(),
        failures: Vec::new(),
    }
}

fn record(workloads: Vec<Workload>) -> Record {
    let contender = |id| Contender {
        id,
        version: "1.2.3".to_string(),
        missing: None,
    };
    Record {
        quick: false,
        command: "tools/compare".to_string(),
        date: "2026-01-02".to_string(),
        commit: "abc1234".to_string(),
        machine: Machine {
            cpu: "Abacus".to_string(),
            cpus: 2,
            memory: 8 << 30,
            kernel: "6.1".to_string(),
            rustc: "rustc 1.90.0".to_string(),
        },
        rounds: 3,
        contenders: Who::ALL.map(contender).to_vec(),
        workloads,
    }
}

/// Something of every kind, with variants, losses and all contenders.
fn full() -> Record {
    let throughput = [
        runs(Redis, 400e3, 2.0),
        runs(Nats, 1.5e6, 0.6),
        runs(SapwoodRedis, 1.7e6, 0.25),
        in_variant(runs(SapwoodRedis, 2.5e6, 0.28), "2 shards"),
        runs(SapwoodNative, 2.0e6, 0.2),
        with_load(runs(Relay, 3.0e6, 0.14), 0.97),
    ];
    let closed = [
        runs_with_latency(Redis, 20e3, 20.0, 50_000),
        runs_with_latency(SapwoodRedis, 18e3, 22.0, 55_000),
    ];
    let latency = [
        runs_with_latency(Redis, 10e3, 18.0, 40_000),
        runs_with_latency(SapwoodRedis, 10e3, 17.0, 42_000),
        in_variant(
            runs_with_latency(SapwoodRedis, 10e3, 95.0, 15_000),
            "--latency spin",
        ),
        runs_with_latency(Relay, 10e3, 8.0, 42_000),
    ];
    record(vec![
        workload("pipelined-128", Kind::Throughput, &throughput),
        workload("closed-1", Kind::Closed, &closed),
        workload("latency-10k", Kind::Latency, &latency),
        workload(
            "idle-10000",
            Kind::Idle,
            &[idle_runs(Redis, 9_800), idle_runs(SapwoodRedis, 700)],
        ),
    ])
}

/// The one verdict on a throughput of Sapwood's against redis-server's.
#[track_caller]
fn check_verdict(ours: Vec<Run>, theirs: Vec<Run>, standing: Standing, sentences: &str) {
    let workload = workload("pipelined-128", Kind::Throughput, &[ours, theirs]);
    let rows = rows(&workload);
    let found: Vec<Verdict<'_>> = verdicts(&rows, workload.kind);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].sentences(), sentences);
    assert_eq!(found[0].standing(), standing);
    let page = markdown(&record(vec![workload.clone()]), &[], "");
    assert!(page.contains(sentences), "{page}");
}

/// A chart of the record.
#[track_caller]
fn chart(record: &Record, file: &str) -> Chart {
    let found = charts(record).into_iter().find(|chart| chart.file == file);
    found.unwrap_or_else(|| panic!("no {file}"))
}

/// The finding of a goal, by the words of the goal.
#[track_caller]
fn finding(record: &Record, workload: &str, words: &str) -> Finding {
    let found: Vec<_> = findings(record)
        .into_iter()
        .filter(|found| found.workload == workload && found.goal.words() == words)
        // Those of the NATS protocol say the same words.
        .filter(|found| found.goal.who != SapwoodNats)
        .collect();
    let [found] = found.as_slice() else {
        panic!("{workload}, {words}: {found:?}")
    };
    found.clone()
}

fn spread(values: &[f64]) -> Spread {
    Spread::of(values.to_vec()).unwrap()
}

#[test]
fn median_is_the_middle_or_the_mean_of_the_middle_two() {
    let check = |values: &[f64], median: f64, min: f64, max: f64| {
        assert_eq!(spread(values), Spread { median, min, max }, "{values:?}");
    };
    check(&[7.0], 7.0, 7.0, 7.0);
    check(&[9.0, 1.0, 3.0], 3.0, 1.0, 9.0);
    check(&[9.0, 1.0, 3.0, 4.0], 3.5, 1.0, 9.0);
    check(&[2.0, 1.0], 1.5, 1.0, 2.0);
    assert_eq!(Spread::of(Vec::new()), None);
    assert_eq!(Spread::of(vec![1.0, f64::INFINITY]), None);
}

#[test]
fn spreads_overlap_where_they_touch() {
    assert!(spread(&[1.0, 3.0]).overlaps(&spread(&[3.0, 4.0])));
    assert!(spread(&[1.0, 9.0]).overlaps(&spread(&[3.0, 4.0])));
    assert!(!spread(&[1.0, 2.9]).overlaps(&spread(&[3.0, 4.0])));
    assert!(!spread(&[3.0, 4.0]).overlaps(&spread(&[1.0, 2.9])));
}

#[test]
fn numbers_have_three_significant_digits_and_their_unit() {
    for (value, shown) in [
        (0.0, "0"),
        (0.5924, "0.592"),
        (0.000_123_4, "0.000123"),
        (1.7, "1.7"),
        (12.34, "12.3"),
        (99.96, "100"),
        (1_234.0, "1230"),
    ] {
        assert_eq!(number(value), shown);
    }
    for (value, shown) in [
        (950.0, "950"),
        (999.6, "1k"),
        (20_030.0, "20k"),
        (999_999.0, "1M"),
        (1_704_000.0, "1.7M"),
    ] {
        assert_eq!(count(value), shown);
    }
    assert_eq!(
        [
            duration(950.0),
            duration(12_340.0),
            duration(1.5e6),
            duration(2e9)
        ],
        ["950 ns", "12.3 us", "1.5 ms", "2 s"]
    );
    assert_eq!(
        [bytes(712.0), bytes(1_500.0), bytes(41.0 * 1024.0 * 1024.0)],
        ["712 B", "1.46 KiB", "41 MiB"]
    );
    assert_eq!(
        [ratio(4.1), ratio(1.0 / 7.3), ratio(0.95), ratio(0.5)],
        ["4.1x", "0.137x", "0.95x", "0.5x"]
    );
}

#[test]
fn a_win_is_said_with_both_ratios() {
    check_verdict(
        runs(SapwoodRedis, 1.64e6, 0.2),
        runs(Redis, 400e3, 1.46),
        Standing::Ahead,
        "Sapwood needs 0.137x redis-server's CPU and delivers 4.1x as much.",
    );
}

#[test]
fn a_loss_is_said_to_be_one() {
    check_verdict(
        runs(SapwoodRedis, 320e3, 3.0),
        runs(Redis, 400e3, 2.0),
        Standing::Behind,
        "Sapwood is slower here: it needs 1.5x redis-server's CPU and delivers 0.8x as much.",
    );
    check_verdict(
        runs(SapwoodRedis, 400e3, 3.0),
        runs(Redis, 400e3, 2.0),
        Standing::Behind,
        "Sapwood costs more here: it needs 1.5x redis-server's CPU. No difference beyond the spread in rate.",
    );
}

#[test]
fn a_win_and_a_loss_are_both_said() {
    check_verdict(
        runs(SapwoodRedis, 320e3, 1.0),
        runs(Redis, 400e3, 2.0),
        Standing::Mixed,
        "Sapwood needs 0.5x redis-server's CPU. Sapwood is slower here: it delivers 0.8x as much.",
    );
}

#[test]
fn overlapping_spreads_are_no_difference() {
    check_verdict(
        runs(SapwoodRedis, 404e3, 1.98),
        runs(Redis, 400e3, 2.0),
        Standing::Even,
        "No difference beyond the spread in CPU and rate.",
    );
    // Half a percent is none, even without any spread.
    check_verdict(
        vec![run(SapwoodRedis, 401e3, 1.995)],
        vec![run(Redis, 400e3, 2.0)],
        Standing::Even,
        "No difference beyond the spread in CPU and rate.",
    );
}

#[test]
fn generator_bound_rates_are_not_compared() {
    let limit = "Sapwood needs 0.1x redis-server's CPU. \
                 Only CPU compares: in rate the generator was the limit (load 0.95) and not the server.";
    let (ours, theirs) = (runs(SapwoodRedis, 2e6, 0.2), runs(Redis, 400e3, 2.0));
    let bound = with_load(ours.clone(), 0.95);
    check_verdict(bound, theirs.clone(), Standing::Ahead, limit);
    let bound = with_load(theirs.clone(), 0.95);
    check_verdict(ours.clone(), bound, Standing::Ahead, limit);
    // At nine tenths it is not yet the limit.
    check_verdict(
        with_load(ours, 0.9),
        theirs,
        Standing::Ahead,
        "Sapwood needs 0.1x redis-server's CPU and delivers 5x as much.",
    );
}

#[test]
fn generator_bound_latencies_are_compared_at_fixed_rates_alone() {
    let runs = [
        with_load(runs_with_latency(SapwoodRedis, 20e3, 20.0, 25_000), 0.99),
        runs_with_latency(Redis, 20e3, 20.0, 50_000),
    ];
    for (kind, sentences) in [
        (
            Kind::Closed,
            "No difference beyond the spread in CPU. Only CPU compares: in rate, p50 and p99 the generator was the \
             limit (load 0.99) and not the server.",
        ),
        (
            Kind::Latency,
            "Sapwood has 0.5x redis-server's p50 and 0.5x redis-server's p99. \
             No difference beyond the spread in CPU.",
        ),
    ] {
        let workload = workload("closed-1", kind, &runs);
        assert_eq!(verdicts(&rows(&workload), kind)[0].sentences(), sentences);
    }
}

#[test]
fn the_floor_is_no_rival() {
    let runs = [runs(SapwoodNative, 2e6, 0.2), runs(Relay, 3e6, 0.1)];
    let workload = workload("pipelined-128", Kind::Throughput, &runs);
    let found = verdicts(&rows(&workload), workload.kind);
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].sentences(),
        "Sapwood needs 2x the floor's CPU and delivers 0.667x as much."
    );
    assert_eq!(found[0].short(), "against the floor: CPU 2x, rate 0.667x");
}

#[test]
fn variants_are_rows_of_their_own() {
    let page = markdown(&full(), &[], "");
    for line in [
        "| Sapwood, Redis protocol, 2 shards | 2.5M/s (2.48M to 2.52M) | 0.28 (0.277 to 0.283) |",
        "- **Sapwood, Redis protocol, 2 shards, against redis-server:** Sapwood needs 0.14x redis-server's CPU and \
         delivers 6.25x as much.",
        "- **Sapwood, Redis protocol, 2 shards, against its usual run:** Sapwood delivers 1.47x as much. Sapwood costs \
         more here: it needs 1.12x the usual CPU.",
        "| Sapwood, Redis protocol, --latency spin | 15 us (14.8 to 15.2) |",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
}

#[test]
fn where_every_run_is_a_variant_the_first_stands_for_the_contender() {
    let runs = [
        in_variant(runs(SapwoodNative, 2e6, 0.2), "1 shard"),
        in_variant(runs(SapwoodNative, 3e6, 0.25), "2 shards"),
    ];
    let page = markdown(
        &record(vec![workload("shards-pairs", Kind::Throughput, &runs)]),
        &[],
        "",
    );
    for part in [
        "| 0.2 (1 shard) |",
        "Sapwood, native, 2 shards, against 1 shard: CPU 1.25x, rate 1.5x |",
        "it needs 1.25x the CPU of 1 shard.",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
}

#[test]
fn missing_peers_are_named_with_the_reason() {
    let mut record = full();
    record.contenders[1].missing = Some("nats-server is not | installed".to_string());
    record.workloads[0].runs.retain(|run| run.who != Nats);
    let page = markdown(&record, &[], "");
    let reason = "nats-server is not \\| installed";
    assert!(
        page.contains(&format!("**did not take part:** {reason} |")),
        "{page}"
    );
    assert!(
        page.contains(&format!(
            "- nats-server **did not take part**, so nothing is said of it: {reason}\n"
        )),
        "{page}"
    );
    assert!(
        page.contains("| s/M | 2 | missing | - | 0.25 | - | 0.2 | 0.14 |"),
        "{page}"
    );
    assert!(!page.contains("against nats-server"), "{page}");
}

#[test]
fn a_contender_that_failed_has_no_figure() {
    let mut record = full();
    record.workloads[0].failures.push(RunFailure {
        who: SapwoodRedis,
        round: 2,
        error: "delivery 7\nof `a` came | twice".to_string(),
    });
    let page = markdown(&record, &[], "");
    for part in [
        "| s/M | 2 | 0.6 | - | failed | - | 0.2 | 0.14 | **Sapwood, Redis protocol failed**<br>",
        "- **Sapwood, Redis protocol failed in round 2, so it has no figure:** `delivery 7 of 'a' came | twice`",
        "**failed** in 1 more (the pipelined-128 one)",
        "not measured: Sapwood, Redis protocol failed",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    assert!(
        !page.contains("| Sapwood, Redis protocol | 1.7M/s"),
        "{page}"
    );
    assert!(chart(&record, "cpu.svg").svg.contains(">failed</text>"));
}

#[test]
fn a_quick_look_says_so_before_anything_else() {
    let mut record = full();
    assert!(!markdown(&record, &[], "").contains("quick look"));
    record.quick = true;
    let page = markdown(&record, &[], "");
    assert!(
        page.starts_with(
            "# Benchmarks: a quick look\n\n> **This is a quick look and not a result.**"
        )
    );
}

#[test]
fn the_page_opens_with_a_chart_and_lines_that_say_ahead_even_and_behind() {
    let page = markdown(&full(), &[], "");
    let begin = "# Benchmarks\n\n\
        ![CPU for the same deliveries, divided by the peer's](benches/results/overview.svg)\n\n\
        - **the pipelined-128 one**, Sapwood, Redis protocol: 0.25 s of CPU for a million deliveries, redis-server 2 s; \
        0.125x, **ahead**.\n\
        - **the idle-10000 one**, Sapwood, Redis protocol: 700 B for each, redis-server 9.57 KiB; 0.0714x, **ahead**.\n\
        - **the latency-10k one**, Sapwood, Redis protocol: p50 42 us, redis-server 40 us; 1.05x, **behind**.\n\n\
        Sapwood beside its peers";
    assert!(page.starts_with(begin), "{page}");
    let even = [
        runs_with_latency(Redis, 10e3, 18.0, 40_000),
        runs_with_latency(SapwoodRedis, 10e3, 17.0, 40_100),
    ];
    let record = record(vec![workload("latency-10k", Kind::Latency, &even)]);
    let line = "p50 40.1 us, redis-server 40 us; 1x, **even**, within the spread.";
    assert!(
        opening_lines(&record)[0].ends_with(line),
        "{:?}",
        opening_lines(&record)
    );
}

#[test]
fn the_overview_shows_each_ratio_once_and_hollow_where_it_is_even() {
    let runs = [
        runs(Redis, 400e3, 2.0),
        runs(SapwoodRedis, 400e3, 0.5),
        runs(NatsNow, 400e3, 1.0),
        runs(SapwoodNats, 400e3, 1.002),
    ];
    let record = record(vec![workload("pipelined-128", Kind::Throughput, &runs)]);
    let svg = chart(&record, "overview.svg").svg;
    let document = roxmltree::Document::parse(&svg).unwrap();
    let texts: Vec<_> = document
        .descendants()
        .filter(|node| node.has_tag_name("text"))
        .collect();
    let has = |text: &str| {
        texts
            .iter()
            .filter(|node| node.text() == Some(text))
            .count()
    };
    // The scale has a 1x of its own.
    assert_eq!([has("0.25x"), has("1x")], [1, 2], "{svg}");
    let white = |node: &roxmltree::Node<'_, '_>| {
        node.has_tag_name("rect") && node.attribute("fill") == Some("#ffffff")
    };
    // The background, and one that is hollow.
    assert_eq!(document.descendants().filter(white).count(), 2, "{svg}");
}

#[test]
fn the_summary_counts_where_sapwood_is_ahead_and_where_not() {
    let page = markdown(&full(), &[], "");
    let line = "- Sapwood, Redis protocol is ahead of redis-server in 2 of 4 workloads; better in one figure and worse in \
                another in 1 (the latency-10k one); **behind** in 1 (the closed-1 one).";
    assert!(page.contains(line), "{page}");
}

#[test]
fn nothing_measured_gives_a_page_without_claims() {
    let page = markdown(&record(Vec::new()), &[], "## Note\n\nBy hand.\n");
    assert!(
        !page.contains("ahead of") && !page.contains("svg"),
        "{page}"
    );
    assert!(
        page.contains("**0 of 54 are met, 0 are not met, 54 cannot be judged**"),
        "{page}"
    );
    assert!(page.ends_with("\n\n## Note\n\nBy hand.\n"), "{page}");
    // A run in which nothing arrived has no cost and no ratio.
    let none = workload(
        "pipelined-128",
        Kind::Throughput,
        &[runs(SapwoodRedis, 0.0, 0.0), runs(Redis, 1e5, 1.0)],
    );
    assert!(
        verdicts(&rows(&none), none.kind)
            .iter()
            .all(|found| found.comparisons.len() == 1)
    );
    let page = markdown(&record(vec![none]), &[], "");
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
}

#[test]
fn goals_are_judged_by_medians() {
    let record = full();
    let check = |workload, words, reached, measured: &str| {
        let found = finding(&record, workload, words);
        assert_eq!(
            (&found.reached, &*found.measured_words()),
            (&reached, measured),
            "{found:?}"
        );
    };
    check(
        "pipelined-128",
        "CPU at most 0.143x",
        Reached::Met,
        "0.125x",
    );
    check("pipelined-128", "rate at least 4x", Reached::Met, "4.25x");
    check("pipelined-128", "CPU at most 1.5x", Reached::Met, "1.43x");
    check("closed-1", "rate at least 0.95x", Reached::NotMet, "0.9x");
    check("closed-1", "p50 at most 1.05x", Reached::NotMet, "1.1x");
    check("latency-10k", "p50 at most 1.1x", Reached::Met, "1.05x");
    check("latency-10k", "p50 at most 0.5x", Reached::Met, "0.375x");
    check("latency-10k", "p99 no higher", Reached::NotMet, "1.05x");
    check(
        "idle-10000",
        "memory at most 0.167x",
        Reached::Met,
        "0.0714x",
    );
    let why = "Sapwood, native was not run here".to_string();
    check(
        "idle-10000",
        "memory at most 1.5 KiB",
        Reached::NotMeasured(why),
        "-",
    );
    check(
        "single-1",
        "CPU at most 0.333x",
        Reached::NotMeasured("not run".to_string()),
        "-",
    );
    let page = markdown(&record, &[], "");
    let line = "| `closed-1` | Sapwood, Redis protocol | redis-server | rate at least 0.95x | 0.9x | 18k/s | 20k/s | **not \
                met** |";
    assert!(page.contains(line), "{page}");
}

#[test]
fn goals_say_where_the_spreads_overlap() {
    let runs = [runs(SapwoodRedis, 100e3, 2.02), runs(Redis, 100e3, 2.0)];
    let record = record(vec![workload("single-100", Kind::Throughput, &runs)]);
    let found = finding(&record, "single-100", "CPU no higher");
    assert_eq!(found.words(), "**not met**, within the spread");
}

#[test]
fn goals_are_open_where_the_generator_hides_the_answer() {
    let check = |ours: Vec<Run>, theirs: Vec<Run>, reached: Reached| {
        let record = record(vec![workload(
            "pipelined-128",
            Kind::Throughput,
            &[ours, theirs],
        )]);
        assert_eq!(
            finding(&record, "pipelined-128", "rate at least 4x").reached,
            reached
        );
    };
    let (fast, slow) = (
        || runs(SapwoodRedis, 2e6, 0.2),
        || runs(SapwoodRedis, 1e6, 0.2),
    );
    let theirs = || runs(Redis, 400e3, 2.0);
    let bound = |runs| with_load(runs, 0.95);
    check(bound(fast()), theirs(), Reached::Met);
    check(bound(slow()), theirs(), Reached::NotShown);
    check(fast(), bound(theirs()), Reached::NotShown);
    check(slow(), bound(theirs()), Reached::NotMet);
}

#[test]
fn charts_are_well_formed_whatever_the_text() {
    let mut record = full();
    for workload in &mut record.workloads {
        workload.title =
            "<1> & \"2\" -> '3' \u{1}\u{ffff} of a rather long and winding title that cannot fit"
                .to_string();
        workload.runs[0].variant = "]]> & <!--".to_string();
    }
    let charts = charts(&record);
    let names: Vec<_> = charts.iter().map(|chart| chart.file.as_str()).collect();
    assert_eq!(
        names,
        ["overview.svg", "cpu.svg", "rate.svg", "latency-10k.svg"]
    );
    for chart in charts {
        let document = roxmltree::Document::parse(&chart.svg).unwrap();
        let texts: Vec<_> = document
            .descendants()
            .filter_map(|node| node.text())
            .collect();
        assert!(
            texts.iter().any(|text| text.contains("<1> & \"2\"")),
            "{texts:?}"
        );
        assert!(
            !chart.svg.contains("NaN") && !chart.svg.contains("inf"),
            "{}",
            chart.svg
        );
    }
}

#[test]
fn names_of_lines_that_end_together_stand_apart() {
    let all = Who::ALL.map(|who| runs_with_latency(who, 10e3, 10.0, 40_000));
    let record = record(vec![workload("latency-10k", Kind::Latency, &all)]);
    let svg = &charts(&record)[0].svg;
    let document = roxmltree::Document::parse(svg).unwrap();
    let titles = Who::ALL.map(Who::title);
    let mut heights: Vec<f64> = document
        .descendants()
        .filter(|node| node.text().is_some_and(|text| titles.contains(&text)))
        .filter(|node| node.has_tag_name("text"))
        .map(|node| node.attribute("y").unwrap().parse().unwrap())
        .collect();
    heights.sort_by(f64::total_cmp);
    assert_eq!(heights.len(), titles.len());
    assert!(
        heights.windows(2).all(|pair| pair[1] - pair[0] >= 20.0),
        "{heights:?}"
    );
}

#[test]
fn the_page_shows_every_chart() {
    let written = files(&full(), &[], "");
    let page = &written[0];
    assert_eq!(page.0, "BENCHMARKS.md");
    assert_eq!(written.len(), 5);
    for (path, _) in &written[1..] {
        assert!(page.1.contains(&format!("]({path})")), "{path}");
    }
}

#[test]
fn every_line_of_a_table_has_as_many_cells() {
    let page = markdown(&full(), &[], "");
    let mut cells = None;
    for line in page.lines() {
        let count = line.matches('|').count() - line.matches("\\|").count();
        if !line.starts_with('|') {
            cells = None;
        } else if *cells.get_or_insert(count) != count {
            panic!("{line}");
        }
        assert!(!line.ends_with(' '), "{line:?}");
    }
}

/// A crowd whose figures are the same in three rounds, but for a hundredth; beside the stalled reader all takes so many
/// times as long.
fn crowd(times: u64) -> Crowd {
    let phase = |nanoseconds: u64| {
        let arrivals = |first: u64| {
            let event = |number: u64| Arrival(first, first + number * nanoseconds);
            (1..=3).map(event).collect()
        };
        Phase {
            seconds: 30.0,
            deliveries: 30_000,
            broker_cpu_seconds: 3.0,
            broker_waited_seconds: 0.3,
            generator_cpu_seconds: 6.0,
            generator_waited_seconds: 0.6,
            sockets: arrivals(1_000_000),
            streams: arrivals(2_000_000),
        }
    };
    let round = |part: u64| Round {
        load_average: 0.5,
        memory_before: 1 << 20,
        memory_with_sockets: (1 << 20) + 5_000 * 1_000,
        memory_with_streams: (1 << 20) + 5_000 * 1_700,
        alone: phase(part * 100_000),
        beside_stalled: phase(times * part * 100_000),
        stalled_closed_after: 20.0,
    };
    let record = record(Vec::new());
    Crowd {
        command: "tools/crowd".to_string(),
        date: record.date,
        commit: record.commit,
        machine: record.machine,
        subscribers: 5_000,
        events_per_second: 5,
        seconds: 30,
        phase_seconds: 32,
        payload_bytes: 128,
        flood_payload_bytes: 64 << 10,
        flood_bytes: 48 << 20,
        rounds: [99, 100, 101].map(round).to_vec(),
    }
}

#[test]
fn the_webs_crowd_has_a_section_if_it_was_measured() {
    assert!(!markdown(&full(), &[], "").contains("The web"));
    let page = markdown(&full(), &[crowd::section(&crowd(1))], "");
    let same = "20 ms (19.8 to 20.2)";
    for part in [
        "## The web: 5,000 WebSockets and 5,000 event streams\n\n".to_string(),
        "| memory for each, idle | 1000 B (1000 to 1000) | 700 B (700 to 700) | - | - |"
            .to_string(),
        "| first, p50 | 1 ms (1 to 1) | 2 ms (2 to 2) |".to_string(),
        format!("| spread, p50 | {same} | {same} | {same} | {same} |"),
        "| last, worst | 31 ms (30.7 to 31.3) | 32 ms (31.7 to 32.3) |".to_string(),
        "The spread of the event streams did not change by more than between runs.".to_string(),
        "after 20 s (20 to 20) of 32 s.".to_string(),
        "used 10 % (10 to 10) of its CPU, 100 (100 to 100) s for a million".to_string(),
        "```console\ntools/crowd\n".to_string(),
    ] {
        assert!(page.contains(&part), "{part}\n{page}");
    }
    let page = markdown(&full(), &[crowd::section(&crowd(2))], "");
    let part = "The spread of the WebSockets is 2x what it is without it.";
    assert!(page.contains(part), "{page}");
}

#[test]
fn repository_holds_what_the_record_gives() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| {
        fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let record: Record = serde_json::from_str(&read(RECORD)).unwrap();
    assert!(
        !record.quick,
        "{RECORD} is a quick look, which is no result"
    );
    // Those of other benchmarks, if they were run.
    let exists = |path: &&str| root.join(path).exists();
    let crowd = Some(crowd::RECORD).filter(exists).map(|path| {
        let crowd: Crowd = serde_json::from_str(&read(path)).unwrap();
        crowd::section(&crowd)
    });
    let hops = Some(hops::RECORD).filter(exists).map(|path| {
        let hops: Hops = serde_json::from_str(&read(path)).unwrap();
        hops::section(&hops)
    });
    let sections: Vec<String> = crowd.into_iter().chain(hops).collect();
    let written = files(&record, &sections, &read(NOTES));
    for (path, contents) in &written {
        assert!(
            read(path) == *contents,
            "{path} is not what {RECORD}, {}, {} and {NOTES} give; write the report again",
            crowd::RECORD,
            hops::RECORD
        );
    }
    // README.md quotes lines of the page, so that it says nothing that was not measured.
    let readme = read("README.md");
    let (_, begin) = readme.split_once("BENCHMARKS.md").unwrap();
    let quoted = begin.lines().skip_while(|line| !line.starts_with("- "));
    let quoted: Vec<_> = quoted.take_while(|line| line.starts_with("- ")).collect();
    let lines = opening_lines(&record);
    assert!(
        quoted.len() >= 4
            && quoted
                .iter()
                .all(|line| lines.iter().any(|own| own == line)),
        "README.md has to quote four of these:\n{}",
        lines.join("\n")
    );
    let paths: BTreeSet<_> = written.into_iter().map(|(path, _)| path).collect();
    for entry in fs::read_dir(root.join(CHARTS)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = format!("{CHARTS}/{name}");
        assert!(
            !name.ends_with(".svg") || paths.contains(&path),
            "nothing writes {path} any more"
        );
    }
}
