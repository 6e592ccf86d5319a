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
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, getpid, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

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
}

impl Network {
    /// So many namespaces; `None` where there can be none, which it says in a line that is seen in any case.
    pub fn new(count: usize) -> Option<Network> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_left_over();
        let pid = getpid().as_raw_nonzero();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut network = Network {
            name: format!("{PREFIX}{pid}-{number}"),
            spaces: Vec::new(),
        };
        match network.build(count) {
            Ok(()) => Some(network),
            Err(error) => {
                let test = thread::current().name().unwrap_or_default().to_string();
                let line = format!(
                    "{test}: NOT TESTED, network namespaces cannot be made here: {error}\n"
                );
                // Not by a macro: what a test prints so is shown only when it fails.
                let _ = std::io::stderr().write_all(line.as_bytes());
                None
            }
        }
    }

    fn build(&mut self, count: usize) -> Result<(), String> {
        let switch = self.name.clone();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "switch", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "switch", "up"])?;
        for number in 0..count {
            let space = self.space(number);
            ip(&["netns", "add", &space])?;
            let path = format!("{DIRECTORY}/{space}");
            let file = File::open(&path).map_err(|error| format!("{path}: {error}"))?;
            self.spaces.push(file);
            let (in_space, in_switch) = (["-n", &*space], ["-n", &*switch]);
            let port = port(number);
            let cable = ["link", "add", &port, "type", "veth", "peer"];
            ip(&[&in_switch[..], &cable, &["name", "cable", "netns", &space]].concat())?;
            ip(&[
                &in_switch[..],
                &["link", "set", &port, "master", "switch", "up"],
            ]
            .concat())?;
            let [v4, v6] = [self.v4(number) + "/24", self.v6(number) + "/64"];
            ip(&[&in_space[..], &["addr", "add", &v4, "dev", "cable"]].concat())?;
            ip(&[
                &in_space[..],
                &["addr", "add", &v6, "dev", "cable", "nodad"],
            ]
            .concat())?;
            ip(&[&in_space[..], &["link", "set", "cable", "up"]].concat())?;
            ip(&[&in_space[..], &["link", "set", "lo", "up"]].concat())?;
        }
        // Fails where threads may not change their namespace.
        self.enter(0).map_err(|error| format!("setns: {error}"))
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

    fn enter(&self, number: usize) -> rustix::io::Result<()> {
        let space = self.spaces[number].as_fd();
        // For this thread alone, and those that it starts.
        let enter = || move_into_link_name_space(space, Some(LinkNameSpaceType::Network));
        thread::scope(|scope| {
            scope
                .spawn(enter)
                .join()
                .unwrap_or_else(|why| resume_unwind(why))
        })
    }

    /// Does something in a namespace: sockets that it opens and processes and threads that it starts belong there.
    pub fn inside<T: Send>(&self, number: usize, work: impl FnOnce() -> T + Send) -> T {
        let space = self.spaces[number].as_fd();
        let there = move || {
            move_into_link_name_space(space, Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        thread::scope(|scope| {
            let name = thread::current().name().unwrap_or_default().to_string();
            let thread = thread::Builder::new().name(name).spawn_scoped(scope, there);
            let outcome: Result<T, Box<dyn Any + Send>> = thread.unwrap().join();
            outcome.unwrap_or_else(|why| resume_unwind(why))
        })
    }

    /// Takes a cable from the network: no reset, no answer, silence.
    pub fn part(&self, number: usize, how: Parting) {
        let change = match how {
            Parting::Pulled => "down",
            Parting::CutOff => "nomaster",
        };
        ip(&["-n", &self.name, "link", "set", &port(number), change]).unwrap();
    }

    /// The cable works again.
    pub fn reunite(&self, number: usize) {
        let port = port(number);
        let plug = ["link", "set", &port, "master", "switch", "up"];
        ip(&[&["-n", &*self.name][..], &plug].concat()).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let nodes = (0..self.spaces.len()).map(|number| self.space(number));
        for space in nodes.chain([self.name.clone()]) {
            // Some may not have come about.
            let _ = ip(&["netns", "del", &space]);
        }
    }
}

/// The switch's end of a cable.
fn port(number: usize) -> String {
    format!("port{number}")
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).output();
    let output = output.map_err(|error| format!("ip: {error} (tools/setup installs iproute2)"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "ip {}: {}",
        args.join(" "),
        said.trim().replace('\n', "; ")
    ))
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
        let _ = ip(&["netns", "del", &name]);
    }
}
