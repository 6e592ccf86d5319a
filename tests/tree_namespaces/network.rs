//! Network namespaces on one switch, each with its own addresses and a cable that can be pulled.
//!
//! The switch is a bridge in a namespace of its own, so nothing here touches the machine's own network. Namespaces are
//! named after this process; what a killed run has left is removed by the next. Start at [`Network::new`].

use std::any::Any;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, getpid, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::common::script;
use crate::program::Program;

/// What the names of all namespaces of these tests begin with.
const PREFIX: &str = "sapwood-test-";

/// Where `ip netns` keeps them.
const DIRECTORY: &str = "/run/netns";

/// How a namespace is taken from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// The cable is pulled out: its machine sees that, and forgets by which hardware addresses it reached others.
    Pulled,
    /// The switch does not pass on what comes over the cable: nobody sees it.
    CutOff,
}

/// Namespaces with one cable each, numbered from 0; gone with the value.
pub struct Network {
    /// Of the switch; those of the nodes have a number behind it.
    name: String,
    spaces: Vec<File>,
    /// Carries the frames of slow cables.
    carrier: Option<Mutex<Program>>,
}

impl Network {
    /// So many namespaces; `None` where there can be none, which it says in a line that is seen in any case.
    pub fn new(count: usize) -> Option<Network> {
        Network::make(|network| network.build(count, None))
    }

    /// The same with cables on which every frame takes so many milliseconds, in either direction.
    pub fn slow(count: usize, delay_ms: u32) -> Option<Network> {
        Network::make(|network| network.build(count, Some(delay_ms)))
    }

    fn make(build: impl FnOnce(&mut Network) -> Result<(), String>) -> Option<Network> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_left_over();
        let pid = getpid().as_raw_nonzero();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut network = Network {
            name: format!("{PREFIX}{pid}-{number}"),
            spaces: Vec::new(),
            carrier: None,
        };
        match build(&mut network) {
            Ok(()) => Some(network),
            Err(error) => {
                let thread = thread::current();
                let test = thread.name().unwrap_or_default();
                let line =
                    format!("{test}: NOT TESTED, there can be no such network here: {error}\n");
                // Not by a macro: what a test prints so is shown only when it fails.
                let _ = std::io::stderr().write_all(line.as_bytes());
                None
            }
        }
    }

    fn build(&mut self, count: usize, delay_ms: Option<u32>) -> Result<(), String> {
        let switch = self.name.clone();
        ip(&format!("netns add {switch}"))?;
        ip(&format!("-n {switch} link add switch type bridge"))?;
        ip(&format!("-n {switch} link set switch up"))?;
        match delay_ms {
            None => {
                for number in 0..count {
                    let pair = format!("add {} type veth peer name {}", port(number), end(number));
                    ip(&format!("-n {switch} link {pair}"))?;
                }
            }
            Some(delay_ms) => self.lay_slow_cables(count, delay_ms)?,
        }
        for number in 0..count {
            let (space, port, end) = (self.space(number), port(number), end(number));
            ip(&format!("netns add {space}"))?;
            self.spaces.push(open(&space)?);
            ip(&format!("-n {switch} link set {end} netns {space}"))?;
            ip(&format!("-n {switch} link set {port} master switch up"))?;
            let (v4, v6) = (self.v4(number), self.v6(number));
            ip(&format!("-n {space} addr add {v4}/24 dev {end}"))?;
            ip(&format!("-n {space} addr add {v6}/64 dev {end} nodad"))?;
            ip(&format!("-n {space} link set {end} up"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        Ok(())
    }

    fn lay_slow_cables(&mut self, count: usize, delay_ms: u32) -> Result<(), String> {
        const DEVICE: &str = "/dev/net/tun";
        if !std::fs::exists(DEVICE).unwrap_or(false) {
            return Err(format!("{DEVICE} is missing"));
        }
        let mut command = script::python("slow_cables.py");
        command.arg(delay_ms.to_string());
        command.args((0..count).map(|number| format!("{}:{}", end(number), port(number))));
        let switch = open(&self.name)?;
        let carrier = within(&switch, || Program::start(&mut command));
        carrier.expect(&["ready"]);
        self.carrier = Some(Mutex::new(carrier));
        Ok(())
    }

    fn space(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// Where others reach this namespace, from 10.71.0.1 on.
    pub fn v4(&self, number: usize) -> String {
        format!("10.71.0.{}", number + 1)
    }

    /// The same by version 6.
    pub fn v6(&self, number: usize) -> String {
        format!("fd71::{}", number + 1)
    }

    /// Does something in a namespace: sockets that it opens and processes and threads that it starts belong there.
    pub fn inside<T: Send>(&self, number: usize, work: impl FnOnce() -> T + Send) -> T {
        within(&self.spaces[number], work)
    }

    /// Takes a cable from the network: no reset, no answer, silence.
    pub fn part(&self, number: usize, how: Parting) {
        let change = match how {
            Parting::Pulled => "down",
            Parting::CutOff => "nomaster",
        };
        self.set_port(number, change);
    }

    /// The cable works again.
    pub fn reunite(&self, number: usize) {
        self.set_port(number, "master switch up");
    }

    fn set_port(&self, number: usize, change: &str) {
        ip(&format!(
            "-n {} link set {} {change}",
            self.name,
            port(number)
        ))
        .unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let nodes = (0..self.spaces.len()).map(|number| self.space(number));
        for space in nodes.chain([self.name.clone()]) {
            // Some may not have come about.
            let _ = ip(&format!("netns del {space}"));
        }
    }
}

/// The switch's end of a cable.
fn port(number: usize) -> String {
    format!("port{number}")
}

/// The node's end of a cable.
fn end(number: usize) -> String {
    format!("cable{number}")
}

fn open(space: &str) -> Result<File, String> {
    let path = format!("{DIRECTORY}/{space}");
    File::open(&path).map_err(|error| format!("{path}: {error}"))
}

/// Does something in a thread that has moved to a namespace.
fn within<T: Send>(space: &File, work: impl FnOnce() -> T + Send) -> T {
    let there = move || {
        let moved = move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network));
        moved.expect("who makes a namespace may enter it");
        work()
    };
    thread::scope(|scope| {
        let name = thread::current().name().unwrap_or_default().to_string();
        let thread = thread::Builder::new().name(name).spawn_scoped(scope, there);
        let outcome: Result<T, Box<dyn Any + Send>> = thread.unwrap().join();
        outcome.unwrap_or_else(|why| resume_unwind(why))
    })
}

fn ip(line: &str) -> Result<(), String> {
    let output = Command::new("ip").args(line.split(' ')).output();
    let output = output.map_err(|error| format!("ip: {error} (tools/setup installs iproute2)"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().replace('\n', "; ");
    Err(format!("ip {line}: {said}"))
}

/// Removes namespaces whose run has ended without doing so, and ends what still lives in them.
fn remove_left_over() {
    let entries = std::fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.filter(|pid| pid.parse::<u32>().is_ok()) else {
            continue;
        };
        if std::fs::exists(format!("/proc/{owner}")).unwrap_or(true) {
            continue;
        }
        let pids = Command::new("ip").args(["netns", "pids", &name]).output();
        let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        for pid in pids.unwrap_or_default().lines() {
            let pid = pid.parse().ok().and_then(Pid::from_raw);
            // It may end by itself meanwhile.
            let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
        }
        let _ = ip(&format!("netns del {name}"));
    }
}
