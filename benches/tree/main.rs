//! Measures what a hop between nodes costs, on chains of four nodes of Sapwood and of nats-server:
//!
//! ```sh
//! cargo bench --bench tree               # 5 rounds: about 7 minutes; writes benches/results/tree.json
//! cargo bench --bench tree -- --quick    # a look: one short round; nothing is written
//! ```
//!
//! `cargo bench --bench comparison -- --report` makes its section of BENCHMARKS.md. Start reading at [`course`] (how a
//! run goes), [`chain`] (what is started) and [`hops`] (what is recorded and written). Generator, checks and servers
//! are the comparison's.

#![forbid(unsafe_code)]

mod chain;
mod course;

// The benchmarks use a part of these each.
#[allow(dead_code)]
#[path = "../comparison/dialect.rs"]
mod dialect;
#[allow(dead_code)]
#[path = "../comparison/figures.rs"]
mod figures;
#[allow(dead_code)]
#[path = "../comparison/generator.rs"]
mod generator;
#[path = "../comparison/hops.rs"]
mod hops;
#[allow(dead_code)]
#[path = "../comparison/machine.rs"]
mod machine;
#[allow(dead_code)]
#[path = "../comparison/measure.rs"]
mod measure;
#[path = "../comparison/pieces.rs"]
mod pieces;
#[path = "../comparison/questions.rs"]
mod questions;
#[allow(dead_code)]
#[path = "../comparison/record.rs"]
mod record;
#[allow(dead_code)]
#[path = "../comparison/script.rs"]
mod script;
#[allow(dead_code)]
#[path = "../comparison/servers.rs"]
mod servers;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use chain::{Chain, NODES};
use course::{PACED, PAYLOAD_BYTES, SINGLE, WINDOW, Way};
use generator::Trouble;
use hops::{Hops, Load, Run};
use record::{Contender, RunFailure, Who};

/// The first CPU of all nodes, and the generator's.
const SERVER_CPU: usize = 0;
const GENERATOR_CPU: usize = 1;

/// Who is measured: the same protocol on both sides, and Sapwood's own.
const CONTENDERS: [Who; 4] = [
    Who::Nats,
    Who::NatsNow,
    Who::SapwoodNats,
    Who::SapwoodNative,
];

/// From the first node to itself, to its neighbour, and to the last.
const HOPS: [usize; 3] = [0, 1, NODES - 1];

/// Measures what a hop between nodes costs: CPU of each node, and latency.
#[derive(Debug, Parser)]
struct Arguments {
    /// One round of short runs: good for a look, not for a claim; writes nothing.
    #[arg(long)]
    quick: bool,
    /// Rounds, each with a chain of its own for each contender; the report shows medians.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds that each run is measured, after a warm-up of a third; twice as long for latencies.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Only these contenders, by name: nats, nats-now, sapwood-nats, sapwood-native; writes nothing.
    #[arg(long, value_delimiter = ',')]
    who: Vec<String>,
    /// CPUs of all nodes, and shards of each of Sapwood's; other than one writes nothing.
    #[arg(long, default_value_t = 1)]
    shards: usize,
    /// cargo says this; it means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().map(String::as_str) == Some(servers::ON_CPUS) {
        eprintln!("{}", servers::exec_on_cpus(&words[1..]));
        return ExitCode::FAILURE;
    }
    match measure_all(&Arguments::parse()) {
        Ok(hops) if hops.failures.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(trouble) => {
            eprintln!("tree: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn measure_all(arguments: &Arguments) -> Result<Hops, Trouble> {
    let cpus = std::thread::available_parallelism()?.get() as u32;
    if cpus < 2 {
        return Err(Trouble::Wrong(
            "the nodes and the generator need a CPU each; this process may use one".to_string(),
        ));
    }
    servers::pin(&[GENERATOR_CPU])?;
    let (rounds, seconds) = match arguments.quick {
        true => (1, arguments.seconds.min(0.3)),
        false => (arguments.rounds, arguments.seconds),
    };
    let mut hops = new_record(cpus);
    if !arguments.who.is_empty() {
        let is_wanted = |one: &Contender| {
            let name = serde_json::to_string(&one.id).unwrap_or_default();
            let mut wanted = arguments.who.iter();
            wanted.any(|wanted| name.trim_matches('"') == wanted)
        };
        hops.contenders.retain(is_wanted);
    }
    let is_here = |one: &&Contender| one.missing.is_none();
    let contenders = hops.contenders.iter().filter(is_here);
    let mut contenders: Vec<Who> = contenders.map(|one| one.id).collect();
    let cpus: Vec<usize> = (SERVER_CPU..SERVER_CPU + arguments.shards).collect();
    for round in 1..=rounds {
        hops.load_averages.push(machine::load_average()?);
        for who in &contenders {
            eprintln!("round {round} of {rounds}: {}", who.title());
            if let Err(trouble) = measure_chain((*who, &cpus), round, seconds, &mut hops.runs) {
                let error = trouble.to_string();
                eprintln!("{}: {error}", who.title());
                let who = *who;
                hops.failures.push(RunFailure { who, round, error });
            }
        }
        contenders.rotate_left(1);
    }
    println!("{}", hops::section(&hops));
    if !arguments.quick && arguments.who.is_empty() && arguments.shards == 1 {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(hops::RECORD);
        let text = serde_json::to_string(&hops).map_err(std::io::Error::other)?;
        std::fs::write(path, text + "\n")?;
    }
    Ok(hops)
}

/// All loads on all ways through a chain of its own; who begins changes.
fn measure_chain(
    (who, cpus): (Who, &[usize]),
    round: u32,
    seconds: f64,
    runs: &mut Vec<Run>,
) -> Result<(), Trouble> {
    let chain = Chain::start(who, cpus)?;
    let dialect = servers::dialect(who);
    let mut ways = Vec::new();
    for hops in HOPS {
        // A topic of its own, so that nobody else wants its events.
        let (first, last) = (chain.nodes[0].address, chain.nodes[hops].address);
        ways.push((hops, Way::open(first, last, dialect, hops)?));
    }
    for load in Load::ALL {
        ways.rotate_left(round as usize % HOPS.len());
        for (hops, way) in &mut ways {
            let figures = way.run(load, seconds, &|| chain.cpu())?;
            runs.push(Run {
                who,
                round,
                hops: *hops,
                load,
                seconds: figures.seconds,
                events: figures.events,
                node_cpu_seconds: figures.node_cpu_seconds,
                generator_cpu_seconds: figures.generator_cpu_seconds,
                generator_waited_seconds: figures.generator_waited_seconds,
                latency: figures.latency,
            });
        }
    }
    Ok(())
}

fn new_record(cpus: u32) -> Hops {
    Hops {
        command: "cargo bench --bench tree".to_string(),
        date: machine::date(),
        commit: machine::commit(),
        machine: machine::look(cpus),
        payload_bytes: PAYLOAD_BYTES as u64,
        paced_per_second: PACED.rate,
        paced_batch: PACED.batch,
        window: WINDOW,
        single_per_second: SINGLE.rate,
        load_averages: Vec::new(),
        contenders: CONTENDERS.map(servers::find).to_vec(),
        runs: Vec::new(),
        failures: Vec::new(),
    }
}
