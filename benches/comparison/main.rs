//! Compares Sapwood with redis-server and nats-server, and with a relay as the floor, on this machine:
//!
//! ```sh
//! cargo bench --bench comparison                       # everything: about 15 minutes; then BENCHMARKS.md is written
//! cargo bench --bench comparison -- --quick            # one run of four workloads, a look and no more
//! cargo bench --bench comparison -- pipelined fanout   # those whose names contain a word; nothing is written
//! ```
//!
//! Start reading at [`workloads`] (what is compared), [`measure`] (how a run goes), [`script`] (how
//! deliveries are checked), [`servers`] (what is started) and [`report`] (what is written). The
//! generator has one thread, epoll and a CPU of its own; it knows nothing of Sapwood but its protocol.

#![forbid(unsafe_code)]

mod crowd;
mod dialect;
mod figures;
mod generator;
mod goals;
// Other benchmarks use more of these.
#[allow(dead_code)]
mod hops;
#[allow(dead_code)]
mod machine;
mod measure;
mod pieces;
mod plot;
mod questions;
mod record;
mod relay;
mod report;
mod script;
// The benchmark of the web asks a server for more.
#[allow(dead_code)]
mod servers;
mod svg;
mod verdicts;
mod workloads;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde::de::DeserializeOwned;

use generator::Trouble;
use measure::Times;
use record::{Contender, Record, Run, RunFailure, Who};
use servers::{Server, Setting};
use workloads::{Variant, Workload};

/// The CPU of the servers, and the generator's.
const SERVER_CPU: usize = 0;
const GENERATOR_CPU: usize = 1;

/// Compares Sapwood with redis-server, nats-server and a relay that only copies bytes.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only workloads whose names contain one of these words; `--list` shows the names.
    words: Vec<String>,
    /// One run of four workloads: good for a look, not for a claim.
    #[arg(long)]
    quick: bool,
    /// Runs of each workload and server, interleaved; the report shows medians.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds that each run is measured, after a warm-up of a third.
    #[arg(long, default_value_t = 0.7)]
    seconds: f64,
    /// Only these contenders, by name: redis, nats, sapwood-redis, sapwood-native, relay.
    #[arg(long, value_delimiter = ',')]
    who: Vec<String>,
    /// Shows the workloads and ends.
    #[arg(long)]
    list: bool,
    /// Writes BENCHMARKS.md again from what was recorded, and measures nothing.
    #[arg(long)]
    report: bool,
    /// cargo says this; it means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some(servers::ON_CPUS) => {
            eprintln!("{}", servers::exec_on_cpus(&words[1..]));
            return ExitCode::FAILURE;
        }
        Some(servers::RELAY) => {
            let port = words.get(1).and_then(|port| port.parse().ok()).unwrap_or(0);
            eprintln!("{:?}", relay::run(port));
            return ExitCode::FAILURE;
        }
        _ => {}
    }
    match compare(&Arguments::parse()) {
        Ok(code) => code,
        Err(trouble) => {
            eprintln!("comparison: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &Arguments) -> Result<ExitCode, Trouble> {
    if arguments.report {
        write_report(&read_record()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let all = workloads::all();
    let is_name = |word: &String| all.iter().any(|workload| workload.id == word);
    let chosen = |workload: &Workload| {
        let mut words = arguments.words.iter();
        // A whole name is that workload alone, also if it is a part of another's.
        let is_named = words.any(|word| match is_name(word) {
            true => workload.id == word,
            false => workload.id.contains(word.as_str()),
        });
        (arguments.words.is_empty() || is_named) && (!arguments.quick || workload.quick)
    };
    let workloads: Vec<Workload> = all.iter().filter(|one| chosen(one)).cloned().collect();
    if arguments.list {
        workloads.iter().for_each(|workload| {
            println!("{:20} {}: {}", workload.id, workload.title, workload.about)
        });
        return Ok(ExitCode::SUCCESS);
    }
    if workloads.is_empty() {
        return Err(Trouble::Wrong(
            "no workload has such a name; --list shows all".to_string(),
        ));
    }
    let cpus = std::thread::available_parallelism()?.get() as u32;
    if cpus < 2 {
        return Err(Trouble::Wrong(
            "the servers and the generator need a CPU each; this process may use one".to_string(),
        ));
    }
    machine::raise_file_limit()?;
    servers::pin(&[GENERATOR_CPU])?;
    let mut record = new_record(arguments, cpus)?;
    for contender in &record.contenders {
        match &contender.missing {
            Some(why) => eprintln!("comparison: without {}: {why}", contender.id.title()),
            None => eprintln!(
                "comparison: {}: {}",
                contender.id.title(),
                contender.version
            ),
        }
    }
    run_all(&workloads, &mut record, arguments);
    let is_all = arguments.words.is_empty() && arguments.who.is_empty() && !arguments.quick;
    if is_all {
        std::fs::create_dir_all(results())?;
        let text = serde_json::to_string(&record).map_err(std::io::Error::other)?;
        std::fs::write(recorded(), text + "\n")?;
        // As it will be read again, so that both reports are the same to the last digit.
        write_report(&read_record()?)?;
    }
    let mut failures = record
        .workloads
        .iter()
        .map(|workload| workload.failures.len());
    Ok(match failures.all(|count| count == 0) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Runs the workloads, says how far it is, and prints each one's medians when it is done.
fn run_all(workloads: &[Workload], record: &mut Record, arguments: &Arguments) {
    let count = workloads.len();
    for (index, workload) in workloads.iter().enumerate() {
        let number = index + 1;
        eprintln!("[{number}/{count}] {}: {}", workload.title, workload.about);
        let done = run_workload(workload, record, arguments);
        print!("{}", summary(&done));
        record.workloads.push(done);
    }
}

/// Every contender in every variant, `rounds` times; who begins changes.
fn run_workload(workload: &Workload, record: &Record, arguments: &Arguments) -> record::Workload {
    let mut done = record::Workload {
        id: workload.id.to_string(),
        title: workload.title.to_string(),
        about: workload.about.to_string(),
        kind: workload.work.kind(),
        runs: Vec::new(),
        failures: Vec::new(),
    };
    let is_here = |who: &&Who| {
        record
            .contenders
            .iter()
            .any(|one| one.id == **who && one.missing.is_none())
    };
    let mut entries: Vec<(Who, &Variant)> = Vec::new();
    for who in workload.who.iter().filter(is_here) {
        let variants = if who.is_ours() {
            workload.variants
        } else {
            &workload.variants[..1]
        };
        entries.extend(variants.iter().map(|variant| (*who, variant)));
    }
    for round in 1..=record.rounds {
        for (who, variant) in &entries {
            eprint!(
                "\r\x1b[K  round {round} of {}: {} {}",
                record.rounds,
                who.title(),
                variant.0
            );
            match run_once(workload, *who, variant, round, arguments) {
                Ok(run) => done.runs.push(run),
                Err(trouble) => {
                    eprintln!("\r\x1b[K  {} {}: {trouble}", who.title(), variant.0);
                    done.failures.push(RunFailure {
                        who: *who,
                        round,
                        error: trouble.to_string(),
                    });
                }
            }
        }
        entries.rotate_left(1);
    }
    eprint!("\r\x1b[K");
    done
}

fn run_once(
    workload: &Workload,
    who: Who,
    variant: &Variant,
    round: u32,
    arguments: &Arguments,
) -> Result<Run, Trouble> {
    let (name, more, cpus) = *variant;
    let setting = Setting {
        who,
        arguments: more.iter().map(|word| word.to_string()).collect(),
        cpus: (SERVER_CPU..SERVER_CPU + cpus).collect(),
    };
    let server = Server::start(&setting)?;
    let (memory_before, _) = server.memory()?;
    let times = Times {
        warm_up: Duration::from_secs_f64(arguments.seconds / 3.0),
        measured: Duration::from_secs_f64(arguments.seconds),
    };
    let (figures, memory) = workload.work.run(&server, who, times)?;
    let (_, memory_peak) = server.memory()?;
    let (memory_before, memory_peak) = memory.unwrap_or((memory_before, memory_peak));
    Ok(Run {
        who,
        variant: name.to_string(),
        round,
        seconds: figures.seconds,
        deliveries: figures.deliveries,
        broker_cpu_seconds: figures.broker_cpu,
        generator_cpu_seconds: figures.generator_cpu,
        memory_before,
        memory_peak,
        connections: figures.connections,
        latency: figures.latency,
    })
}

/// A line for each contender, medians, while the rest is still being measured.
fn summary(workload: &record::Workload) -> String {
    let mut entries: Vec<(Who, &str)> = workload
        .runs
        .iter()
        .map(|run| (run.who, run.variant.as_str()))
        .collect();
    entries.sort_unstable();
    entries.dedup();
    let mut out = String::new();
    for (who, variant) in entries {
        let runs: Vec<&Run> = workload
            .runs
            .iter()
            .filter(|run| run.who == who && run.variant == variant)
            .collect();
        let median = |figure: &dyn Fn(&Run) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(|run| figure(run)).collect();
            values.sort_unstable_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let name = format!("{} {variant}", who.title());
        if workload.kind == record::Kind::Idle {
            out += &format!(
                "  {name:38} {:9.0} bytes each\n",
                median(&Run::bytes_per_connection)
            );
            continue;
        }
        out += &format!(
            "  {name:38} {:9.3} M/s  {:8.4} s/M  generator {:3.0} %",
            median(&Run::rate) / 1e6,
            median(&Run::cpu_per_million),
            median(&Run::generator_load) * 100.0,
        );
        if runs[0].latency.is_some() {
            let at = |of: &dyn Fn(&record::Latency) -> u64| {
                median(&|run| {
                    run.latency
                        .as_ref()
                        .map_or(0.0, |latency| of(latency) as f64 / 1e3)
                })
            };
            out += &format!(
                "  p50 {:.1} us  p99 {:.1} us",
                at(&|latency| latency.p50),
                at(&|latency| latency.p99)
            );
        }
        out += "\n";
    }
    out
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn results() -> PathBuf {
    root().join(report::CHARTS)
}

fn recorded() -> PathBuf {
    root().join(report::RECORD)
}

fn read_record() -> Result<Record, Trouble> {
    let text = std::fs::read_to_string(recorded())?;
    Ok(serde_json::from_str(&text).map_err(std::io::Error::other)?)
}

fn write_report(record: &Record) -> Result<(), Trouble> {
    let notes = std::fs::read_to_string(root().join(report::NOTES))?;
    let (crowd, hops) = (read_other(crowd::RECORD)?, read_other(hops::RECORD)?);
    let (crowd, hops) = (crowd.as_ref(), hops.as_ref());
    let sections = [crowd.map(crowd::section), hops.map(hops::section)];
    let sections: Vec<String> = sections.into_iter().flatten().collect();
    std::fs::create_dir_all(results())?;
    for (path, contents) in report::files(record, &sections, &notes) {
        std::fs::write(root().join(path), contents)?;
    }
    Ok(())
}

/// What another benchmark recorded, if it was run.
fn read_other<T: DeserializeOwned>(path: &str) -> Result<Option<T>, Trouble> {
    let path = root().join(path);
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path)?;
    Ok(Some(
        serde_json::from_str(&text).map_err(std::io::Error::other)?,
    ))
}

fn new_record(arguments: &Arguments, cpus: u32) -> Result<Record, Trouble> {
    let is_wanted = |who: &&Who| {
        let name = serde_json::to_string(*who).unwrap_or_default();
        arguments.who.is_empty()
            || arguments
                .who
                .iter()
                .any(|wanted| name.trim_matches('"') == wanted)
    };
    let contenders: Vec<Contender> = Who::ALL
        .iter()
        .filter(is_wanted)
        .map(|who| servers::find(*who))
        .collect();
    if contenders.is_empty() {
        return Err(Trouble::Wrong(
            "--who names nobody; --help lists the contenders".to_string(),
        ));
    }
    Ok(Record {
        quick: arguments.quick,
        command: "cargo bench --bench comparison".to_string(),
        date: machine::date(),
        commit: machine::commit(),
        machine: machine::look(cpus),
        rounds: if arguments.quick { 1 } else { arguments.rounds },
        contenders,
        workloads: Vec::new(),
    })
}
