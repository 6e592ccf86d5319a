//! Measures a broker with 5,000 WebSockets and 5,000 streams of server-sent events on one topic:
//!
//! ```sh
//! cargo bench --bench web               # 3 runs of a minute and more each; writes benches/results/web.json
//! cargo bench --bench web -- --quick    # a look at a tenth of it: some seconds; nothing is written
//! ```
//!
//! `cargo bench --bench comparison -- --report` makes its section of BENCHMARKS.md. Start reading at [`course`] (how a
//! run goes), [`listener`] (how every byte is checked), [`audience`] (sockets and times) and [`crowd`] (what is recorded
//! and written). Servers are started as the comparison does, whose modules these are.

#![forbid(unsafe_code)]

mod audience;
mod course;
mod listener;

// Both benchmarks use a part of these.
#[allow(dead_code)]
#[path = "../comparison/crowd.rs"]
mod crowd;
#[allow(dead_code)]
#[path = "../comparison/dialect.rs"]
mod dialect;
#[allow(dead_code)]
#[path = "../comparison/figures.rs"]
mod figures;
#[allow(dead_code)]
#[path = "../comparison/generator.rs"]
mod generator;
#[path = "../comparison/machine.rs"]
mod machine;
#[allow(dead_code)]
#[path = "../comparison/pieces.rs"]
mod pieces;
#[allow(dead_code)]
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

use course::Plan;
use crowd::Crowd;
use generator::Trouble;

/// The CPU of the broker, and the generator's.
const SERVER_CPU: usize = 0;
const GENERATOR_CPU: usize = 1;

/// Measures a broker with 5,000 WebSockets and 5,000 streams of server-sent events on one topic.
#[derive(Debug, Parser)]
struct Arguments {
    /// One run with a tenth of the crowd and of the time; writes nothing.
    #[arg(long)]
    quick: bool,
    /// Runs, each with a broker of its own; the report shows medians.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// cargo says this; it means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A live page's crowd: an event a viewer would notice, five times a second.
const PLAN: Plan = Plan {
    subscribers: 5_000,
    events_per_second: 5,
    seconds: 30,
    payload_bytes: 128,
    flood_payload_bytes: 64 * 1024,
    flood_bytes: 48 * 1024 * 1024,
};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().map(String::as_str) == Some(servers::ON_CPUS) {
        eprintln!("{}", servers::exec_on_cpus(&words[1..]));
        return ExitCode::FAILURE;
    }
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("web: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<(), Trouble> {
    let cpus = std::thread::available_parallelism()?.get() as u32;
    if cpus < 2 {
        return Err(Trouble::Wrong(
            "the broker and the generator need a CPU each; this process may use one".to_string(),
        ));
    }
    machine::raise_file_limit()?;
    servers::pin(&[GENERATOR_CPU])?;
    let (plan, rounds) = match arguments.quick {
        true => (
            Plan {
                subscribers: PLAN.subscribers / 10,
                seconds: PLAN.seconds / 10,
                ..PLAN
            },
            1,
        ),
        false => (PLAN, arguments.rounds),
    };
    let mut crowd = Crowd {
        command: "cargo bench --bench web".to_string(),
        date: machine::date(),
        commit: machine::commit(),
        machine: machine::look(cpus),
        subscribers: plan.subscribers,
        events_per_second: plan.events_per_second,
        seconds: plan.seconds,
        phase_seconds: plan.phase_seconds(),
        payload_bytes: plan.payload_bytes,
        flood_payload_bytes: plan.flood_payload_bytes,
        flood_bytes: plan.flood_bytes,
        rounds: Vec::new(),
    };
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        crowd.rounds.push(course::run(&plan)?);
    }
    println!("{}", crowd::section(&crowd));
    if !arguments.quick {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(crowd::RECORD);
        let text = serde_json::to_string(&crowd).map_err(std::io::Error::other)?;
        std::fs::write(path, text + "\n")?;
    }
    Ok(())
}
