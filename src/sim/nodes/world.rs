//! The histories that trees of nodes are put through, and what must hold.

use super::client::{Came, Client, Word};
use super::network::{Health, Network, NodePlan};
use crate::{Failure, fail};
use sapwood_core::limits::Limits;
use sapwood_wire::topic;
use std::collections::BTreeMap;

const MS: u64 = 1_000_000;

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
}

impl Story {
    /// The usual history of a seed.
    pub fn of(seed: u64) -> Story {
        Story {
            seed,
            nodes: 2 + (seed as usize * 7 + 3) % 11,
            shards: None,
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
    /// Faults that happened, by name.
    pub faults: BTreeMap<&'static str, u64>,
}

/// One history.
pub(crate) struct World {
    story: Story,
    network: Network,
    clients: BTreeMap<usize, Client>,
    next_client: usize,
    /// Topics and numbers published in the last part, by publisher.
    published: BTreeMap<(u32, Vec<u8>), Vec<u64>>,
    jobs: u64,
    is_final: bool,
    /// Filters that links are told of one by one.
    filters_max: usize,
    sum: Sum,
}

impl World {
    pub(crate) fn new(story: Story) -> World {
        World {
            network: Network::new(story.seed),
            story,
            clients: BTreeMap::new(),
            next_client: 1,
            published: BTreeMap::new(),
            jobs: 0,
            is_final: false,
            filters_max: 0,
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
        self.found();
        let begin = self.network.now_ns;
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
        self.pass(2_000)?;
        self.play_final()?;
        self.sum.depth = (0..self.network.nodes.len())
            .filter_map(|node| self.network.path(node))
            .map(|path| path.len())
            .max()
            .unwrap_or(0);
        Ok(self.sum.clone())
    }

    /// Starts the nodes, each of which knows one or two that came before.
    fn found(&mut self) {
        let is_sealed = self.network.rng.percent(30);
        let children_max = self.network.rng.pick(&[2, 3, 8]);
        let lane_bytes_max = self.network.rng.pick(&[200_000, 1 << 20, 1 << 25]);
        self.filters_max = self.network.rng.pick(&[3, 100_000, 100_000]);
        self.sum.asked_for_everything = self.filters_max == 3;
        for number in 0..self.story.nodes {
            let rng = &mut self.network.rng;
            let mut seeds = Vec::new();
            if number > 0 {
                seeds.push(rng.below(number));
                seeds.push(rng.below(number));
            }
            let chosen = rng.within(1..5) as u16;
            self.network.add(NodePlan {
                shards: self.story.shards.unwrap_or(chosen),
                children_max,
                seeds,
                limits: Limits {
                    lane_bytes_max,
                    link_filters_max: self.filters_max,
                    ..Limits::default()
                },
                is_sealed,
            });
        }
    }

    /// Lets so many milliseconds pass.
    fn pass(&mut self, milliseconds: u64) -> Result<(), Failure> {
        let until = self.network.now_ns + milliseconds * MS;
        while self.network.now_ns < until {
            self.tick(1)?;
        }
        Ok(())
    }

    fn tick(&mut self, milliseconds: u64) -> Result<(), Failure> {
        self.network.step(milliseconds * MS);
        let clients: Vec<usize> = self.clients.keys().copied().collect();
        for key in clients {
            self.serve_client(key)?;
        }
        Ok(())
    }

    fn serve_client(&mut self, key: usize) -> Result<(), Failure> {
        let bytes = std::mem::take(self.network.delivered.entry(key).or_default());
        let is_over = self.network.ended.contains(&key);
        // invariant: the caller has its keys from there.
        let client = self.clients.get_mut(&key).expect("a client");
        let came = client.take_in(&bytes);
        for came in came {
            self.take(key, came)?;
        }
        // invariant: nothing removes a client.
        let client = self.clients.get_mut(&key).expect("a client");
        client.is_gone |= is_over;
        let outgoing = std::mem::take(&mut client.outgoing);
        if !outgoing.is_empty() && !client.is_gone {
            self.network.send(key, &outgoing);
        }
        Ok(())
    }

    fn take(&mut self, key: usize, came: Came) -> Result<(), Failure> {
        let node = self.clients[&key].node;
        // invariant: it was looked up.
        let client = self.clients.get_mut(&key).expect("a client");
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
        self.sum.events += 1;
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
            self.sum.final_events += 1;
            client.finals.entry(way).or_default().push(word.sequence);
        }
        Ok(())
    }

    /// Adds a client to a node that runs.
    fn add_client(&mut self) -> usize {
        let running: Vec<usize> = (0..self.network.nodes.len())
            .filter(|&node| self.network.nodes[node].health == Health::Runs)
            .collect();
        let node = self.network.rng.pick(&running);
        self.add_client_at(node)
    }

    fn add_client_at(&mut self, node: usize) -> usize {
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
        key
    }

    fn topics(&mut self) -> &'static [u8] {
        self.network.rng.pick(&[
            b"news.a",
            b"news.b",
            b"news.c",
            b"rest.1.x",
            b"rest.2.x",
            b"quiet",
        ])
    }

    fn publish(&mut self, key: usize) {
        let topic = self.topics();
        // Long ones fill lanes, which lose events then: not in the last part.
        let padding = match self.network.rng.percent(3) && !self.is_final {
            true => self.network.rng.below(60_000),
            false => self.network.rng.below(50),
        };
        // invariant: the caller has looked.
        let client = self.clients.get_mut(&key).expect("a client");
        client.published += 1;
        let word = Word {
            publisher: key as u32,
            sequence: client.published,
            is_final: self.is_final,
        };
        if self.is_final {
            let way = (word.publisher, topic.to_vec());
            self.published.entry(way).or_default().push(word.sequence);
        }
        let total = self.published.values().map(Vec::len).sum::<usize>();
        let sabotage = self.story.sabotage.filter(|_| self.is_final && total == 20);
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
            if let Some(client) = self.clients.get_mut(&key) {
                client.is_gone = true;
            }
        }
        let milliseconds = self.network.rng.within(1..30) as u64;
        for _ in 0..milliseconds {
            self.tick(1)?;
        }
        Ok(())
    }

    fn count_fault(&mut self, name: &'static str) {
        *self.sum.faults.entry(name).or_default() += 1;
    }

    /// Something breaks, or is mended.
    fn misbehave(&mut self) {
        let count = self.network.nodes.len();
        let node = self.network.rng.below(count);
        let other = self.network.rng.below(count);
        let health = self.network.nodes[node].health;
        match self.network.rng.below(120) {
            0..2 if health == Health::Runs && self.alive() > 1 => {
                self.count_fault("crash");
                self.network.kill(node);
                self.forget_clients(node);
            }
            2..12 if health == Health::Dead => {
                self.count_fault("restart");
                self.network.start(node);
            }
            12..14 if health == Health::Runs => {
                self.count_fault("hang");
                let until = self.network.now_ns + self.network.rng.below(3_000) as u64 * MS;
                self.network.nodes[node].health = Health::Hangs(until);
            }
            14..20 if self.network.reset_one() => self.count_fault("connection reset"),
            20..22 => {
                self.count_fault("one-way cut");
                self.network.weather.cuts.insert((node, other));
            }
            22..24 => {
                self.count_fault("cut");
                self.network.weather.cuts.insert((node, other));
                self.network.weather.cuts.insert((other, node));
            }
            24..34 => self.network.weather.cuts.clear(),
            34..36 => {
                let most = self.network.rng.pick(&[1, 5, 80]);
                self.network.weather.delay_ns = (MS / 5, most * MS);
                self.network.weather.loss_percent = self.network.rng.pick(&[0, 0, 2, 10]);
            }
            _ => {}
        }
    }

    fn alive(&self) -> usize {
        let nodes = self.network.nodes.iter();
        nodes.filter(|node| node.health != Health::Dead).count()
    }

    fn forget_clients(&mut self, node: usize) {
        for client in self.clients.values_mut() {
            client.is_gone |= client.node == node;
        }
    }

    fn end_faults(&mut self) {
        self.network.weather.cuts.clear();
        self.network.weather.delay_ns = (MS / 5, MS);
        self.network.weather.loss_percent = 0;
        for number in 0..self.network.nodes.len() {
            match self.network.nodes[number].health {
                Health::Dead => self.network.start(number),
                Health::Hangs(_) => self.network.nodes[number].health = Health::Runs,
                Health::Runs => {}
            }
        }
    }

    /// Waits until all nodes stand in one tree, so many milliseconds at most.
    fn settle(&mut self, what: &'static str, milliseconds: u64) -> Result<(), Failure> {
        let until = self.network.now_ns + milliseconds * MS;
        while self.network.now_ns < until {
            self.tick(5)?;
            if self.is_one_tree() {
                return Ok(());
            }
        }
        let nodes = 0..self.network.nodes.len();
        let places = nodes.map(|node| {
            let path = self.network.path(node);
            format!("{node}: {path:?} root {:?}", self.network.root(node))
        });
        let places: Vec<String> = places.collect();
        fail(
            "no tree",
            format!("{what} took too long: {}", places.join(", ")),
        )
    }

    fn is_one_tree(&self) -> bool {
        let mut paths = Vec::new();
        let root = self.network.root(0);
        for node in 0..self.network.nodes.len() {
            match self.network.path(node) {
                Some(path) if self.network.root(node) == root => paths.push(path),
                _ => return false,
            }
        }
        paths.sort();
        let before = paths.len();
        paths.dedup();
        let has_parent = |path: &Vec<u8>| match path.split_last() {
            Some((_, parent)) => paths.binary_search(&parent.to_vec()).is_ok(),
            None => true,
        };
        paths.len() == before && paths.iter().all(has_parent)
    }

    /// Everything that is published now must come, once and in order.
    fn play_final(&mut self) -> Result<(), Failure> {
        for node in 0..self.network.nodes.len() {
            self.add_client_at(node);
        }
        let keys: Vec<usize> = self
            .clients
            .iter()
            .filter(|(_, client)| !client.is_gone)
            .map(|(&key, _)| key)
            .collect();
        let workers = self.add_workers(&keys);
        self.pass(2_000)?;
        let before = self.network.counters();
        let twice_before = before.link_events_twice;
        self.sum.lost = before.link_events_lost;
        self.is_final = true;
        let asked = self.ask(&keys);
        for _ in 0..20 {
            for _ in 0..10 {
                let key = self.network.rng.pick(&keys);
                self.publish(key);
            }
            let key = self.network.rng.pick(&keys);
            self.send_job(key);
            self.tick(2)?;
        }
        self.pass(5_000)?;
        self.check_final(&keys, &workers)?;
        self.check_answers(&asked)?;
        let counters = self.network.counters();
        self.sum.dropped_twice = counters.link_events_twice;
        if counters.link_events_twice != twice_before {
            return fail(
                "loop",
                "events came twice to a node while the tree stood still".into(),
            );
        }
        self.check_idle(keys[0])
    }

    /// Three members of a group, on nodes of the seed's choice.
    fn add_workers(&mut self, keys: &[usize]) -> Vec<usize> {
        let mut workers = Vec::new();
        for _ in 0..3 {
            let key = self.network.rng.pick(keys);
            if !workers.contains(&key) {
                workers.push(key);
                if let Some(client) = self.clients.get_mut(&key) {
                    client.join(b"job.*", b"workers", 1);
                }
            }
        }
        workers
    }

    fn send_job(&mut self, key: usize) {
        self.jobs += 1;
        let word = Word {
            publisher: key as u32,
            sequence: self.jobs,
            is_final: true,
        };
        if let Some(client) = self.clients.get_mut(&key) {
            client.publish(b"job.1", &word.bytes(0), None);
        }
    }

    /// Lets some clients ask a question of which the answer finds the way back, and one that nobody hears.
    fn ask(&mut self, keys: &[usize]) -> Vec<usize> {
        let answering = self.network.rng.pick(keys);
        if let Some(client) = self.clients.get_mut(&answering) {
            client.subscribe(b"ask");
        }
        // It must be known everywhere that somebody answers.
        for _ in 0..500 {
            if self.tick(1).is_err() {
                return Vec::new();
            }
        }
        let mut asked = Vec::new();
        for (place, &key) in keys.iter().enumerate() {
            let reply = format!("reply.{key}.{place}");
            if let Some(client) = self.clients.get_mut(&key) {
                // In one breath: the answer must find a subscription that is this new.
                client.subscribe(reply.as_bytes());
                let word = Word {
                    publisher: key as u32,
                    sequence: 7,
                    is_final: false,
                };
                client.request(b"ask", &word.bytes(0), reply.as_bytes());
                asked.push(key);
            }
        }
        asked
    }

    fn check_answers(&self, asked: &[usize]) -> Result<(), Failure> {
        for key in asked {
            let replies = &self.clients[key].replies;
            if replies != &[7] {
                let text = format!("client {key} asked once and got {} answers", replies.len());
                return fail("answers", text);
            }
        }
        Ok(())
    }

    fn check_final(&self, keys: &[usize], workers: &[usize]) -> Result<(), Failure> {
        for key in keys {
            let client = &self.clients[key];
            for ((publisher, topic), sequences) in &self.published {
                let mut filters = client.filters.iter();
                let is_wanted =
                    filters.any(|filter| filter == topic || topic::wildcard_matches(filter, topic));
                let got = client.finals.get(&(*publisher, topic.clone()));
                let got = got.map_or(&[][..], |got| &got[..]);
                let expected = if is_wanted { &sequences[..] } else { &[] };
                if got != expected {
                    let text = format!(
                        "client {key} of node {} got {got:?} of publisher {publisher} on {}, not {expected:?}",
                        client.node,
                        String::from_utf8_lossy(topic)
                    );
                    return fail("not exactly once", text);
                }
            }
        }
        let turns: u64 = workers.iter().map(|key| self.clients[key].turns).sum();
        if turns != self.jobs {
            let text = format!("{} jobs were {turns} turns", self.jobs);
            return fail("turns", text);
        }
        Ok(())
    }

    /// What nobody wants stays where it is published.
    fn check_idle(&mut self, key: usize) -> Result<(), Failure> {
        let wants_all = |client: &Client| client.filters.iter().any(|filter| filter == b">");
        let is_heard = self.filters_max < 100
            || self
                .clients
                .values()
                .any(|client| !client.is_gone && wants_all(client));
        let before = self.network.counters().link_events_out;
        for _ in 0..50 {
            if let Some(client) = self.clients.get_mut(&key) {
                client.publish(b"unwanted", b"-", None);
            }
        }
        self.pass(100)?;
        if !is_heard && self.network.counters().link_events_out != before {
            return fail("idle links", "what nobody wants went over links".into());
        }
        Ok(())
    }
}
