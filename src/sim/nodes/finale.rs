//! The last part of a history: nothing breaks any more, and everything must come, once and in order.
//!
//! Must not know how nodes are driven. Start at [`World::play_final`].

use super::client::Word;
use super::world::{Sabotage, TOPICS, World};
use crate::{Failure, fail};
use sapwood_core::tree::address::Path;
use std::collections::{BTreeMap, BTreeSet};

/// Most clients that ask a question each: a name for each answer is told to every node.
const ASKING_MAX: usize = 50;

/// A name that clients do not want.
const UNWANTED: &[u8] = b"unwanted";

impl World {
    /// Everything that is published now must come, once and in order.
    pub(super) fn play_final(&mut self) -> Result<(), Failure> {
        for node in 0..self.network.nodes.len() {
            let key = self.add_client_at(node);
            if self.story.sabotage == Some(Sabotage::HideSubscription) && node == 0 {
                self.client(key).pretend(b"news.>");
            }
            if self.story.sabotage == Some(Sabotage::HiddenListener) {
                self.client(key).subscribe_hidden(UNWANTED);
            }
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
        let mut visitors = Vec::new();
        for _ in 0..20 {
            for _ in 0..10 {
                let key = self.network.rng.pick(&keys);
                self.publish(key);
            }
            let key = self.network.rng.pick(&keys);
            self.send_job(key);
            self.visit(&mut visitors);
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
        self.check_idle(&keys)
    }

    /// Three members of a group, on nodes of the seed's choice.
    fn add_workers(&mut self, keys: &[usize]) -> Vec<usize> {
        let mut workers = Vec::new();
        for _ in 0..3 {
            let key = self.network.rng.pick(keys);
            if !workers.contains(&key) {
                workers.push(key);
                self.client(key).join(b"job.*", b"workers", 1);
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
        let client = self.client(key);
        client.publish(b"job.1", &word.bytes(0), None);
    }

    /// Lets some clients ask a question of which the answer finds the way back, and one that nobody hears.
    fn ask(&mut self, keys: &[usize]) -> Vec<usize> {
        let answering = self.network.rng.pick(keys);
        self.client(answering).subscribe(b"ask");
        // It must be known everywhere that somebody answers.
        for _ in 0..500 {
            if self.tick(1).is_err() {
                return Vec::new();
            }
        }
        let mut asked = Vec::new();
        let step = keys.len().div_ceil(ASKING_MAX);
        for (place, &key) in keys.iter().step_by(step).enumerate() {
            let reply = format!("reply.{key}.{place}");
            let client = self.client(key);
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
                let got = client.finals.get(&(*publisher, topic.clone()));
                let got = got.map_or(&[][..], |got| &got[..]);
                let expected = if client.wants(topic) {
                    &sequences[..]
                } else {
                    &[]
                };
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

    /// Clients come and go, who want the same as others: those must not miss anything.
    fn visit(&mut self, visitors: &mut Vec<usize>) {
        if self.network.rng.percent(60) {
            visitors.push(self.add_client());
        }
        if self.network.rng.percent(50) && !visitors.is_empty() {
            let place = self.network.rng.below(visitors.len());
            let key = visitors.swap_remove(place);
            self.network.disconnect_client(key);
            self.client(key).is_gone = true;
        }
    }

    /// An event goes over a link only if somebody behind it wants it, and only once.
    fn check_idle(&mut self, keys: &[usize]) -> Result<(), Failure> {
        const COUNT: u64 = 5;
        let paths: Option<Vec<Path>> = (0..self.network.nodes.len())
            .map(|node| Path::new(&self.network.path(node)?).ok())
            .collect();
        let Some(paths) = paths else {
            return fail("idle links", "the tree does not stand still".into());
        };
        let by_path: BTreeMap<&Path, usize> = paths.iter().zip(0..).collect();
        let before = self.link_events_out();
        let mut expected = vec![0; paths.len()];
        let topics = TOPICS.iter().chain([&UNWANTED, &UNWANTED]).copied();
        for topic in topics.collect::<Vec<_>>() {
            let key = self.network.rng.pick(keys);
            for _ in 0..COUNT {
                self.client(key).publish(topic, b"-", None);
            }
            let from = self.clients[&key].node;
            for (one, _) in self.steps(&paths, &by_path, from, topic) {
                expected[one] += COUNT;
            }
        }
        self.pass(1_000)?;
        let after = self.link_events_out();
        for (node, expected) in expected.into_iter().enumerate() {
            let sent = after[node] - before[node];
            // Links that were told to send everything may be sent more.
            let is_right = match self.sum.asked_for_everything {
                true => sent >= expected,
                false => sent == expected,
            };
            if !is_right {
                let text = format!("node {node} sent {sent} events over links, not {expected}");
                return fail("idle links", text);
            }
        }
        Ok(())
    }

    /// The steps from node to node that an event takes to all who want it, each once.
    fn steps(
        &self,
        paths: &[Path],
        by_path: &BTreeMap<&Path, usize>,
        from: usize,
        topic: &[u8],
    ) -> BTreeSet<(usize, usize)> {
        let mut steps = BTreeSet::new();
        let wanting = self
            .clients
            .values()
            .filter(|client| !client.is_gone && client.wants(topic));
        let nodes: BTreeSet<usize> = wanting.map(|client| client.node).collect();
        for node in nodes {
            let mut at = from;
            for path in paths[from].route(&paths[node]).skip(1) {
                let next = by_path[&path];
                steps.insert((at, next));
                at = next;
            }
        }
        steps
    }

    fn link_events_out(&self) -> Vec<u64> {
        let nodes = 0..self.network.nodes.len();
        let of = |node| {
            let counters = self.network.counters_of(node);
            counters.map(|counters| counters.link_events_out).sum()
        };
        nodes.map(of).collect()
    }
}
