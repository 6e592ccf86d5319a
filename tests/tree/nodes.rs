//! Several brokers that are one tree, and listeners on them, whatever their protocol.
//!
//! A confirmed subscription is known to its own node; the others hear of it a moment later. So tests publish probes
//! until they are heard ([`until_heard`]), and listeners leave probes out of what they give.

// Each test binary compiles this module for itself and uses a part of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use sapwood_wire::native::{BrokerFrame, Policy};

use crate::common::native::{Event, NativeClient};
use crate::common::resp::{RawClient, Value};
use crate::common::{Broker, VALUE_SECONDS_MAX};
use crate::load::counter;
use crate::nats::{NatsClient, Said};

/// What the payload of a probe begins with.
pub const PROBE: &[u8] = b"probe ";

/// How long silence is listened to.
const QUIET: Duration = Duration::from_millis(60);

/// The numbers of shards that tests run with, node by node, over and over.
pub const MIXES: [&[usize]; 3] = [&[1], &[2], &[1, 2]];

/// Nodes that joined through the first.
pub struct Tree {
    pub nodes: Vec<Broker>,
}

impl Tree {
    /// So many nodes of which each takes two children; waits until each has its place.
    pub fn start(count: usize, shards: &[usize], args: &[&str]) -> Tree {
        Tree::start_each(count, shards, args, |_| Vec::new())
    }

    /// The same, with arguments for each node by its number.
    pub fn start_each(
        count: usize,
        shards: &[usize],
        args: &[&str],
        own: impl Fn(usize) -> Vec<String>,
    ) -> Tree {
        let mut tree = Tree { nodes: Vec::new() };
        let mut args = args.to_vec();
        if !args.contains(&"--children-max") {
            args.extend(["--children-max", "2"]);
        }
        for number in 0..count {
            let own = own(number);
            let shards = shards[number % shards.len()];
            let args = [
                &args[..],
                &own.iter().map(String::as_str).collect::<Vec<_>>(),
            ]
            .concat();
            tree.join(shards, &args);
        }
        tree.settle();
        tree
    }

    /// One node more, which joins through the first.
    pub fn join(&mut self, shards: usize, args: &[&str]) {
        let first = self.nodes.first();
        let join = first.map(|first| format!("127.0.0.1:{}", first.node_port()));
        let join = join.as_ref().map(|join| ["--join", join]);
        let args = [args, join.as_ref().map_or(&[], |join| &join[..])].concat();
        let node = Broker::start_restartable_with(shards, None, &args);
        self.nodes.push(node);
    }

    /// Waits until each node says where it stands in a tree with one root.
    pub fn settle(&self) {
        let deadline = Instant::now() + VALUE_SECONDS_MAX;
        loop {
            let paths: Vec<Option<String>> = self.nodes.iter().map(path).collect();
            let roots = paths.iter().flatten().filter(|path| path.is_empty());
            if paths.iter().all(Option::is_some) && roots.count() == 1 {
                return;
            }
            assert!(Instant::now() < deadline, "no tree: {paths:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The node at this path, such as `/0/1`.
    pub fn at(&self, wanted: &str) -> usize {
        let mut nodes = self.nodes.iter();
        let found = nodes.position(|node| path(node).as_deref() == Some(wanted));
        found.unwrap_or_else(|| {
            let paths: Vec<_> = self.nodes.iter().map(path).collect();
            panic!("nobody stands at {wanted:?}: {paths:?}")
        })
    }

    /// A counter of each node's.
    pub fn counters(&self, name: &str) -> Vec<u64> {
        let nodes = self.nodes.iter();
        nodes
            .map(|node| counter(&mut RawClient::connect(node.port()), name))
            .collect()
    }

    /// A publisher on each node.
    pub fn publishers(&self) -> Vec<NativeClient> {
        let nodes = self.nodes.iter();
        nodes
            .map(|node| NativeClient::connect(node.native_port()))
            .collect()
    }

    /// A native listener on each node.
    pub fn ears(&self, topic: &str) -> Vec<Ear> {
        let nodes = self.nodes.iter();
        nodes.map(|node| Ear::native(node, topic)).collect()
    }
}

/// Where a node last said it stands; empty for the root, `None` while it has no place.
pub fn path(node: &Broker) -> Option<String> {
    let text = node.stderr();
    let is_about_place =
        |line: &&str| line.contains("this node is ") || line.contains("this node stands ");
    let last = text.lines().rev().find(is_about_place)?;
    if last.contains("is the root") {
        return Some(String::new());
    }
    let (_, path) = last.split_once("stands at ")?;
    Some(path.split_once(" below")?.0.to_string())
}

/// What gives up a listener's connection.
enum Hold {
    Stream(TcpStream),
    Process(Child),
}

/// A listener that a thread reads for, so that it never holds anybody up.
pub struct Ear {
    what: String,
    events: Receiver<Event>,
    hold: Hold,
}

impl Drop for Ear {
    fn drop(&mut self) {
        match &mut self.hold {
            // It may have ended by itself.
            Hold::Stream(stream) => drop(stream.shutdown(Shutdown::Both)),
            Hold::Process(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

impl Ear {
    fn of(
        what: String,
        stream: &TcpStream,
        read: impl FnOnce(Sender<Event>) + Send + 'static,
    ) -> Ear {
        let (heard, events) = mpsc::channel();
        let stream = stream.try_clone().unwrap();
        thread::spawn(move || read(heard));
        Ear {
            what,
            events,
            hold: Hold::Stream(stream),
        }
    }

    /// Of a native client that has subscribed to what it wants.
    pub fn of_native(what: String, mut client: NativeClient) -> Ear {
        let stream = client.stream().try_clone().unwrap();
        Ear::of(what, &stream, move |heard| {
            let mut is_open = true;
            while is_open {
                is_open = client.read_each(|frame| match frame {
                    BrokerFrame::Message(message) | BrokerFrame::Turn { message, .. } => {
                        // Nobody listens any more when a test is over.
                        let _ = heard.send(Event::of(&message));
                    }
                    BrokerFrame::Ack { .. } | BrokerFrame::Draining { .. } => {}
                    other => panic!("{other:?} for a listener"),
                });
            }
        })
    }

    pub fn native(node: &Broker, filter: &str) -> Ear {
        let mut client = NativeClient::connect(node.native_port());
        client.subscribe(filter);
        Ear::of_native(format!("native {filter}"), client)
    }

    pub fn native_on_shard(node: &Broker, shard: usize, filter: &str) -> Ear {
        let mut client = NativeClient::connect_to_shard(node, shard, Policy::Close);
        client.subscribe(filter);
        Ear::of_native(format!("native {filter}"), client)
    }

    pub fn member(node: &Broker, group: &str, filter: &str) -> Ear {
        let mut client = NativeClient::connect(node.native_port());
        client.join(group, 1, filter);
        Ear::of_native(format!("member of {group}"), client)
    }

    /// By SUBSCRIBE, PSUBSCRIBE or SSUBSCRIBE.
    pub fn redis(node: &Broker, command: &str, name: &str) -> Ear {
        let mut client = RawClient::connect(node.port());
        client.call(&[command, name]);
        let stream = client.stream().try_clone().unwrap();
        Ear::of(format!("Redis {command} {name}"), &stream, move |heard| {
            while let Ok(Value::Array(mut parts)) = client.try_value(Duration::from_secs(120)) {
                let payload = parts.pop();
                let topic = parts.pop();
                let (Some(Value::Bulk(payload)), Some(Value::Bulk(topic))) = (payload, topic)
                else {
                    panic!("no event: {parts:?}");
                };
                let _ = heard.send(Event {
                    topic,
                    payload,
                    ..Event::default()
                });
            }
        })
    }

    /// A NATS subscription; `queue` may be empty.
    pub fn nats(node: &Broker, subject: &str, queue: &str) -> Ear {
        let mut client = NatsClient::connect(node.nats_port());
        client.send(&format!("SUB {subject} {queue} 1\r\n"));
        client.sync();
        let stream = client.stream().try_clone().unwrap();
        Ear::of(format!("NATS {subject} {queue}"), &stream, move |heard| {
            loop {
                match client.said_within(Duration::from_secs(120)) {
                    Some(Said::Message(message)) => {
                        let lines = message
                            .headers
                            .lines()
                            .filter_map(|line| line.split_once(':'));
                        let headers = lines.map(|(name, value)| (name.into(), value.trim().into()));
                        let _ = heard.send(Event {
                            topic: message.subject.into(),
                            reply: message.reply.map(Into::into),
                            headers: headers.collect(),
                            is_end: false,
                            payload: message.payload,
                        });
                    }
                    Some(Said::Line(line)) if line == "PING" => client.send("PONG\r\n"),
                    Some(Said::Line(line)) => panic!("{line} for a listener"),
                    Some(Said::End) | None => return,
                }
            }
        })
    }

    /// `curl` on a stream of events.
    pub fn curl(node: &Broker, topic: &str) -> Ear {
        let url = format!("http://127.0.0.1:{}/v1/topics/{topic}", node.http_port());
        let mut child = Command::new("curl")
            .args(["--silent", "--no-buffer", &url])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl is there");
        let (heard, events) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let Some(json) = line.strip_prefix("data: ") else {
                    continue;
                };
                let json: serde_json::Value = serde_json::from_str(json).unwrap();
                let text = |name: &str| json[name].as_str().unwrap_or_default().as_bytes().to_vec();
                let _ = heard.send(Event {
                    topic: text("topic"),
                    payload: text("data"),
                    ..Event::default()
                });
            }
        });
        Ear {
            what: format!("curl {topic}"),
            events,
            hold: Hold::Process(child),
        }
    }

    /// The next event, be it a probe or not, if it comes in time.
    pub fn any_within(&self, time: Duration) -> Option<Event> {
        match self.events.recv_timeout(time) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("{} was closed", self.what),
        }
    }

    /// The next event that is no probe, if it comes in time.
    pub fn within(&self, time: Duration) -> Option<Event> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.any_within(left)?;
            if !event.payload.starts_with(PROBE) {
                return Some(event);
            }
        }
    }

    /// The next event that is no probe.
    pub fn next(&self) -> Event {
        let event = self.within(VALUE_SECONDS_MAX);
        event.unwrap_or_else(|| panic!("{} hears nothing", self.what))
    }

    /// All that came before its node closed it, without probes.
    pub fn rest(&self) -> Vec<Event> {
        let events = std::iter::from_fn(|| self.events.recv_timeout(VALUE_SECONDS_MAX).ok());
        events
            .filter(|event| !event.payload.starts_with(PROBE))
            .collect()
    }

    /// Nothing but probes comes for a moment.
    pub fn hears_nothing(&self) {
        if let Some(event) = self.within(QUIET) {
            let text = String::from_utf8_lossy(&event.payload[..event.payload.len().min(40)]);
            panic!("{} hears more: {text}", self.what);
        }
    }
}

/// Publishes probes until each listener has heard one of them: then it hears what this publisher publishes from now on.
pub fn until_heard<'a>(
    mut publish: impl FnMut(&[u8]),
    ears: impl IntoIterator<Item = &'a Ear>,
) -> Duration {
    let begun = Instant::now();
    // So that no probe of another publisher counts.
    let own = format!("probe {begun:?}");
    let mut deaf: Vec<&Ear> = ears.into_iter().collect();
    while !deaf.is_empty() {
        assert!(
            begun.elapsed() < VALUE_SECONDS_MAX,
            "{:?} hear nothing",
            deaf.iter().map(|ear| &ear.what).collect::<Vec<_>>()
        );
        publish(own.as_bytes());
        deaf.retain(|ear| {
            while let Some(event) = ear.any_within(Duration::from_millis(1)) {
                if event.payload == own.as_bytes() {
                    return false;
                }
            }
            true
        });
    }
    begun.elapsed()
}

/// The same for a native publisher.
pub fn until_native_heard<'a>(
    publisher: &mut NativeClient,
    topic: &str,
    ears: impl IntoIterator<Item = &'a Ear>,
) -> Duration {
    until_heard(|probe| publisher.publish(&Event::new(topic, probe)), ears)
}
