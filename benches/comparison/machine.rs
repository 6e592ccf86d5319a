//! What a record says of the machine and of the clone that was measured, and the limit of open files.

use std::path::Path;
use std::process::Command;

use crate::record::Machine;

/// First line that a command prints.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).to_string())
        .unwrap_or_default();
    text.lines().next().unwrap_or_default().to_string()
}

/// UTC, as `2026-11-21`.
pub fn date() -> String {
    said("date", &["-u", "+%F"])
}

/// The clone's commit, shortened; ends in `+` if files were changed.
pub fn commit() -> String {
    let is_changed = !said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
    said("git", &["rev-parse", "--short", "HEAD"]) + if is_changed { "+" } else { "" }
}

/// The machine, of which a benchmark may use so many CPUs.
pub fn look(cpus: u32) -> Machine {
    let field = |file: &str, name: &str| -> String {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default();
        line.trim_matches([':', ' ', '\t']).to_string()
    };
    let memory = field("/proc/meminfo", "MemTotal");
    Machine {
        cpu: field("/proc/cpuinfo", "model name"),
        cpus,
        memory: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024,
        kernel: said("uname", &["-r"]),
        rustc: said("rustc", &["--version"]),
    }
}

/// How many processes wanted a CPU in the last minute.
pub fn load_average() -> std::io::Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    let first = text.split(' ').next().and_then(|word| word.parse().ok());
    first.ok_or_else(|| std::io::Error::other("/proc/loadavg shows no load"))
}

/// 10,000 connections have an end here and one in the server, which inherits the limit.
pub fn raise_file_limit() -> std::io::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    const WANTED: u64 = 24_000;
    let mut limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    limit.current = Some(limit.current.unwrap_or(u64::MAX).max(WANTED.min(hard)));
    Ok(setrlimit(Resource::Nofile, limit)?)
}
