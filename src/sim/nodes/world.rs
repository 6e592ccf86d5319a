//! The histories that trees of nodes are put through, and what must hold.

use super::check::Seen;
use super::client::{Came, Client, Word};
use super::faults::Ongoing;
use super::network::{Cut, Health, Network, NodePlan};
use crate::rng::Rng;
use crate::{Failure, fail};
use sapwood_core::limits::Limits;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

pub(super) const MS: u64 = 1_000_000;

/// In a tree of so many nodes each has one shard, because every shard costs as much as a node.
const ONE_SHARD_NODES: usize = 300;

/// Topics that are published.
pub(super) const TOPICS: &[&[u8]] = &[
    b"news.a",
    b"news.b",
    b"news.c",
    b"rest.1.x",
    b"rest.2.x",
    b"quiet",
];

/// Nodes of which a failure says where they stood.
const PLACES_SHOWN: usize = 60;

/// What is to be played.
#[derive(Clone, Debug)]
pub struct Story {
    /// Determines everything.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// How many shards each has; the seed chooses if there is none.
    pub shards: Option<u16>,
    /// Clients of all nodes together.
    pub clients: usize,
    /// Steps of the part with faults, of a few milliseconds each.
    pub steps: usize,
    /// Faults happen.
    pub has_faults: bool,
    /// A rule that the driver breaks, for the checks to notice.
    pub sabotage: Option<Sabotage>,
}

/// A rule that is broken. Each must be noticed: a check that cannot fail is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// An event of the last part is not published, but expected.
    LoseEvent,
    /// An event of the last part is published twice.
    DoubleEvent,
    /// A client of the last part does not subscribe to what it must get.
    HideSubscription,
    /// Clients want what nobody knows of.
    HiddenListener,
    /// Nodes take more children than they are said to.
    MoreChildren,
    /// Lanes keep more than they are said to.
    LargerLanes,
}

impl Sabotage {
    /// Each of them.
    pub const ALL: [Sabotage; 6] = [
        Sabotage::LoseEvent,
        Sabotage::DoubleEvent,
        Sabotage::HideSubscription,
        Sabotage::HiddenListener,
        Sabotage::MoreChildren,
        Sabotage::LargerLanes,
    ];
}

impl Story {
    /// The usual history of a seed: mostly of few nodes, sometimes of many.
    pub fn of(seed: u64) -> Story {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let nodes = match rng.below(1_000) {
            0..2 => 1_000,
            2..7 => 300,
            7..30 => 100,
            30..130 => rng.within(13..60),
            _ => rng.within(1..13),
        };
        Story::of_size(seed, nodes)
    }

    /// The history of a seed with so many nodes.
    pub fn of_size(seed: u64, nodes: usize) -> Story {
        Story {
            seed,
            nodes,
            shards: (nodes >= ONE_SHARD_NODES).then_some(1),
            clients: 12,
            steps: 400,
            has_faults: true,
            sabotage: None,
        }
    }
}

/// What a history came to.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// Simulated milliseconds until all nodes stood in one tree at the start, and after the last fault.
    pub joined_ms: u64,
    /// Two trees that had grown apart were one so long after they could reach each other.
    pub merged_ms: Option<u64>,
    /// See `joined_ms`.
    pub healed_ms: u64,
    /// Levels below the root, at the end.
    pub depth: usize,
    /// Events that clients got, in all and in the last part.
    pub events: u64,
    /// See `events`.
    pub final_events: u64,
    /// Events that came twice to a node and were dropped there.
    pub dropped_twice: u64,
    /// Events that full links lost, before the last part.
    pub lost: u64,
    /// Links were told to send everything, because so many filters were wanted.
    pub asked_for_everything: bool,
    /// The most that the links of a shard kept, in bytes.
    pub kept_bytes_most: u64,
    /// Faults that happened and what they led to, by name.
    pub faults: BTreeMap<&'static str, u64>,
}

/// One history.
pub(crate) struct World {
    pub(super) story: Story,
    pub(super) network: Network,
    pub(super) clients: BTreeMap<usize, Client>,
    next_client: usize,
    /// Clients that may have something to say.
    speaking: BTreeSet<usize>,
    /// Topics and numbers published in the last part, by publisher.
    pub(super) published: BTreeMap<(u32, Vec<u8>), Vec<u64>>,
    pub(super) jobs: u64,
    pub(super) is_final: bool,
    /// What nodes are said to keep.
    pub(super) limits: Limits,
    pub(super) children_max: u8,
    pub(super) ongoing: Vec<Ongoing>,
    pub(super) seen: Seen,
    pub(super) sum: Sum,
}

impl World {
    pub(crate) fn new(story: Story) -> World {
        World {
            network: Network::new(story.seed),
            story,
            clients: BTreeMap::new(),
            next_client: 1,
            speaking: BTreeSet::new(),
            published: BTreeMap::new(),
            jobs: 0,
            is_final: false,
            limits: Limits::default(),
            children_max: 0,
            ongoing: Vec::new(),
            seen: Seen::default(),
            sum: Sum::default(),
        }
    }

    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        let lines = self.network.log.iter();
        let log: Vec<&str> = lines.map(String::as_str).collect();
        let text = format!(
            "{}\nseed {}\n{}",
            failure.text,
            self.story.seed,
            log.join("\n")
        );
        Failure { text, ..failure }
    }

    /// Plays the history through.
    pub(crate) fn play(&mut self) -> Result<Sum, Failure> {
        let nodes = self.story.nodes;
        let is_parted = self.story.has_faults && nodes > 3 && self.network.rng.percent(30);
        self.found(is_parted.then_some(nodes / 2));
        let begin = self.network.now_ns;
        if is_parted {
            self.grow_apart(nodes / 2)?;
        }
        self.settle("joining", 30_000)?;
        self.sum.joined_ms = (self.network.now_ns - begin) / MS;
        for _ in 0..self.story.clients {
            self.add_client();
        }
        self.pass(500)?;
        for _ in 0..self.story.steps {
            self.work()?;
        }
        self.end_faults();
        let begin = self.network.now_ns;
        self.settle("healing", 60_000)?;
        self.sum.healed_ms = (self.network.now_ns - begin) / MS;
        // A lane of which only one side has the connection is found by silence, and dialed again; perhaps twice.
        self.pass(5_000)?;
        self.play_final()?;
        self.sum.depth = (0..self.network.nodes.len())
            .filter_map(|node| self.network.path(node))
            .map(|path| path.len())
            .max()
            .unwrap_or(0);
        Ok(self.sum.clone())
    }

    /// Starts the nodes and waits until they stand in one tree.
    pub(super) fn stand(&mut self) -> Result<(), Failure> {
        self.found(None);
        self.settle("joining", 30_000)?;
        self.pass(1_000)
    }

    /// Starts the nodes, each of which knows one or two that came before; in two parts, if it is said where the second begins,
    /// of which only the first node knows one of the other.
    fn found(&mut self, second: Option<usize>) {
        let rng = &mut self.network.rng;
        let is_sealed = rng.percent(30);
        self.children_max = rng.pick(&[2, 3, 8]);
        self.limits = Limits {
            lane_bytes_max: rng.pick(&[200_000, 1 << 20, 1 << 25]),
            link_filters_max: rng.pick(&[3, 100_000, 100_000]),
            ..Limits::default()
        };
        self.sum.asked_for_everything = self.limits.link_filters_max == 3;
        let mut limits = self.limits.clone();
        let mut children_max = self.children_max;
        match self.story.sabotage {
            Some(Sabotage::LargerLanes) => limits.lane_bytes_max *= 100,
            Some(Sabotage::MoreChildren) => children_max += 3,
            _ => {}
        }
        for number in 0..self.story.nodes {
            let rng = &mut self.network.rng;
            let first = second.filter(|&second| number > second).unwrap_or(0);
            let mut seeds = Vec::new();
            if number > 0 {
                seeds.push(first + rng.below(number - first));
                seeds.push(first + rng.below(number - first));
            }
            let chosen = rng.within(1..5) as u16;
            self.network.add(NodePlan {
                shards: self.story.shards.unwrap_or(chosen),
                children_max,
                seeds,
                limits: limits.clone(),
                is_sealed,
            });
        }
    }

    /// Lets two parts of the nodes grow into a tree each, and then meet.
    fn grow_apart(&mut self, second: usize) -> Result<(), Failure> {
        let count = self.story.nodes;
        let sides = (0..count).map(|node| node >= second).collect();
        self.network.weather.cut(Cut::Parts { sides }, u64::MAX);
        let until = self.network.now_ns + 30_000 * MS;
        // Ends with the time that there is.
        while !self.is_tree(0..second) || !self.is_tree(second..count) {
            self.tick(5)?;
            if self.network.now_ns > until {
                return self.fail_settling("each of two parts");
            }
        }
        self.count_fault("two trees meet");
        self.network.mend();
        let begin = self.network.now_ns;
        self.settle("meeting", 60_000)?;
        self.sum.merged_ms = Some((self.network.now_ns - begin) / MS);
        Ok(())
    }

    /// Lets so many milliseconds pass.
    pub(super) fn pass(&mut self, milliseconds: u64) -> Result<(), Failure> {
        let until = self.network.now_ns + milliseconds * MS;
        while self.network.now_ns < until {
            self.tick(1)?;
        }
        Ok(())
    }

    pub(super) fn tick(&mut self, milliseconds: u64) -> Result<(), Failure> {
        self.network.step(milliseconds * MS);
        for (key, (bytes, is_over)) in self.network.take_delivered() {
            let client = self.client(key);
            let came = client.take_in(&bytes);
            client.is_gone |= is_over;
            for came in came {
                self.take(key, came)?;
            }
        }
        for key in std::mem::take(&mut self.speaking) {
            // invariant: nothing removes a client.
            let client = self.clients.get_mut(&key).expect("a client");
            let outgoing = std::mem::take(&mut client.outgoing);
            if !outgoing.is_empty() && !client.is_gone {
                self.network.send(key, &outgoing);
            }
        }
        self.look()
    }

    /// A client that there is; what it says is sent with the next tick.
    pub(super) fn client(&mut self, key: usize) -> &mut Client {
        self.speaking.insert(key);
        // invariant: nothing removes a client.
        self.clients.get_mut(&key).expect("a client")
    }

    fn take(&mut self, key: usize, came: Came) -> Result<(), Failure> {
        self.sum.events += u64::from(matches!(came, Came::Event { .. }));
        let node = self.clients[&key].node;
        let client = self.client(key);
        let Came::Event {
            topic,
            word,
            reply,
            member,
        } = came
        else {
            if let Came::Ack(..) = came {
                client.acknowledged += 1;
            }
            return Ok(());
        };
        if topic.starts_with(b"reply.") {
            if topic.starts_with(format!("reply.{key}.").as_bytes()) {
                client.replies.push(word.sequence);
            }
            return Ok(());
        }
        if let Some(reply) = reply {
            if client.filters.iter().any(|filter| filter == b"ask") {
                client.publish(&reply, &word.bytes(0), None);
            }
            return Ok(());
        }
        if member.is_some() {
            client.turns += u64::from(word.is_final);
            return Ok(());
        }
        let way = (word.publisher, topic.clone());
        let last = client.last.insert(way.clone(), word.sequence).unwrap_or(0);
        if word.sequence <= last {
            let text = format!(
                "client {key} of node {node} got event {} of publisher {} on {} behind {last}",
                word.sequence,
                word.publisher,
                String::from_utf8_lossy(&topic)
            );
            return fail("twice or out of order", text);
        }
        if word.is_final {
            client.finals.entry(way).or_default().push(word.sequence);
            self.sum.final_events += 1;
        }
        Ok(())
    }

    /// Adds a client to a node that runs.
    pub(super) fn add_client(&mut self) -> usize {
        let running: Vec<usize> = (0..self.network.nodes.len())
            .filter(|&node| self.network.nodes[node].health == Health::Runs)
            .collect();
        let node = self.network.rng.pick(&running);
        self.add_client_at(node)
    }

    pub(super) fn add_client_at(&mut self, node: usize) -> usize {
        let key = self.next_client;
        self.next_client += 1;
        let shards = usize::from(self.network.shards_of(node));
        let shard = self.network.rng.below(shards);
        self.network.connect_client(key, node, shard);
        let mut client = Client::new(node);
        let rng = &mut self.network.rng;
        for _ in 0..rng.below(3) {
            let filter: &[u8] = rng.pick(&[
                b"news.a",
                b"news.b",
                b"news.*",
                b"news.>",
                b"rest.*.x",
                ">".as_bytes(),
                b"rest.1.x",
            ]);
            if !client.filters.iter().any(|other| other == filter) {
                client.subscribe(filter);
            }
        }
        self.clients.insert(key, client);
        self.speaking.insert(key);
        key
    }

    fn topics(&mut self) -> &'static [u8] {
        self.network.rng.pick(TOPICS)
    }

    pub(super) fn publish(&mut self, key: usize) {
        let topic = self.topics();
        // Long ones fill lanes, which lose events then: not in the last part.
        let padding = match self.network.rng.percent(3) && !self.is_final {
            true => self.network.rng.below(60_000),
            false => self.network.rng.below(50),
        };
        let is_final = self.is_final;
        let client = self.client(key);
        client.published += 1;
        let word = Word {
            publisher: key as u32,
            sequence: client.published,
            is_final,
        };
        if self.is_final {
            let way = (word.publisher, topic.to_vec());
            self.published.entry(way).or_default().push(word.sequence);
        }
        let total = self.published.values().map(Vec::len).sum::<usize>();
        let sabotage = self.story.sabotage.filter(|_| self.is_final && total == 20);
        let client = self.client(key);
        if sabotage != Some(Sabotage::LoseEvent) {
            client.publish(topic, &word.bytes(padding), None);
        }
        if sabotage == Some(Sabotage::DoubleEvent) {
            client.publish(topic, &word.bytes(padding), None);
        }
    }

    /// A step of the part with faults.
    fn work(&mut self) -> Result<(), Failure> {
        if self.story.has_faults {
            self.misbehave();
        }
        let alive: Vec<usize> = self
            .clients
            .iter()
            .filter(|(_, client)| !client.is_gone)
            .map(|(&key, _)| key)
            .collect();
        let has_node = self
            .network
            .nodes
            .iter()
            .any(|node| node.health == Health::Runs);
        if alive.len() < self.story.clients && has_node {
            self.add_client();
        }
        for _ in 0..self.network.rng.below(6) {
            if alive.is_empty() {
                break;
            }
            let key = self.network.rng.pick(&alive);
            for _ in 0..self.network.rng.within(1..20) {
                self.publish(key);
            }
        }
        if self.network.rng.percent(4) && !alive.is_empty() {
            let key = self.network.rng.pick(&alive);
            self.network.disconnect_client(key);
            self.client(key).is_gone = true;
        }
        let milliseconds = self.network.rng.within(1..30) as u64;
        for _ in 0..milliseconds {
            self.tick(1)?;
        }
        Ok(())
    }

    pub(super) fn forget_clients(&mut self, node: usize) {
        for client in self.clients.values_mut() {
            client.is_gone |= client.node == node;
        }
    }

    /// Waits until all nodes stand in one tree, so many milliseconds at most.
    fn settle(&mut self, what: &'static str, milliseconds: u64) -> Result<(), Failure> {
        let until = self.network.now_ns + milliseconds * MS;
        while self.network.now_ns < until {
            self.tick(5)?;
            if self.is_tree(0..self.network.nodes.len()) {
                return Ok(());
            }
        }
        self.fail_settling(what)
    }

    fn fail_settling(&self, what: &'static str) -> Result<(), Failure> {
        let nodes = 0..self.network.nodes.len();
        let places = nodes.map(|node| {
            let path = self.network.path(node);
            format!("{node}: {path:?} root {:?}", self.network.root(node))
        });
        let places: Vec<String> = places.take(PLACES_SHOWN).collect();
        let text = format!("{what} took too long: {}", places.join(", "));
        fail("no tree", text)
    }

    /// Whether these nodes stand in one tree, and agree about it.
    fn is_tree(&self, nodes: Range<usize>) -> bool {
        let mut paths = Vec::new();
        let root = self.network.root(nodes.start);
        for node in nodes {
            match self.network.path(node) {
                Some(path) if self.network.root(node) == root => paths.push(path),
                _ => return false,
            }
        }
        paths.sort();
        let before = paths.len();
        paths.dedup();
        let has_parent = |path: &Vec<u8>| match path.split_last() {
            Some((_, parent)) => paths.binary_search_by(|path| path[..].cmp(parent)).is_ok(),
            None => true,
        };
        paths.len() == before && paths.iter().all(has_parent)
    }
}
