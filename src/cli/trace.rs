//! `sapwood trace`: sends events that reach nobody, and prints which way they took and how long each hop takes.
//!
//! Each node on the way answers, and how long each answer takes is measured here, from sending to its coming: so no two
//! clocks are compared. Start at [`run`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use clap::Args;
use sapwood_client::Client;
use serde_json::{Value, json};

use super::Failure;
use super::answers::{self, End, Wanted, number, numbers, shown_name, string, strings};
use super::config::Environment;
use super::connect::{self, ConnectArgs, Connector, Threads};
use super::drawing::{Branches, Placed, Side, Table, counted, depth_first};
use super::output::Output;
use super::stop::Stop;
use super::trouble::Trouble;
use super::{latency, quantity, text, value};

/// How many events are sent unless told otherwise: the median of five leaves two bad ones out.
const COUNT: u64 = 5;

/// The most that can be sent: their times are kept.
const COUNT_MAX: u64 = 10_000;

/// What follows the options in the help.
pub const HELP: &str = "\
Examples:
  sapwood trace news.art                which way an event would take from here to all who want it
  sapwood trace '$to:oslo:news.art'     the way to one node
  sapwood trace '$near:jobs'            where the nearest members of groups are
  sapwood trace news.art --count 100    medians of a hundred events
  sapwood trace news.art --json         one JSON object for each node

The events that are sent reach nobody: neither subscribers nor members of groups see anything. Each line is a node \
on the way, below the one that the event came from. Its columns:

  place           the child numbers that lead to it from the root
  there and back  from sending an event here to this node's answer coming here, the median of all
  adds            how much later this answer comes than that of the node above: the hop and back
  link            the round trip of the link alone, measured by its heartbeats
  subscriptions   how many at this node would get the event

Behind these stand groups with members: how many here, and how many beyond this node. One member of a group gets \
an event, so every node is shown where that might be. All times are measured here, so no two clocks are compared. \
The first event wakes what sleeps, and takes longer than the next ones.

Exit codes: 0 at least one node was reached, 1 failed, 2 wrong usage, 4 no node answered.";

fn parse_count(text: &str) -> Result<u64, String> {
    value::parse_count(text, 1, COUNT_MAX).map_err(|wrong| wrong.to_string())
}

/// The flags of `sapwood trace`.
#[derive(Args, Debug, Default)]
pub struct TraceArgs {
    /// Where an event would be published, with $to: or $near: if it would
    topic: String,
    /// Send so many events, one after the other, and print medians [default: 5]
    #[arg(short = 'n', long, value_name = "N", value_parser = parse_count)]
    count: Option<u64>,
    /// How long to wait for the answers to each [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = quantity::flag(quantity::parse_time))]
    timeout: Option<Duration>,
    /// Print one JSON object a line for each node
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Sends the events, and prints the way.
///
/// Errors: wrong settings or usage, exit code 2; a broker that is not there, went away or is too old, 1; no node that
/// answers, 4.
pub fn run(args: &TraceArgs, environment: &Environment) -> Result<(), Failure> {
    let connector = Connector::new(&args.connect, environment)?;
    let stop = Stop::on_signal()?;
    let output = Output::new()?;
    let runtime = connect::runtime(Threads::Here)?;
    runtime.block_on(async {
        tokio::select! {
            done = trace(args, &connector, output) => done,
            () = stop.wait() => Ok(()),
        }
    })
}

async fn trace(args: &TraceArgs, connector: &Connector, mut output: Output) -> Result<(), Failure> {
    let client = connector.connect(connector.builder()).await?;
    let timeout = args.timeout.unwrap_or(answers::TIMEOUT);
    let events = args.count.unwrap_or(COUNT);
    let mut way = Way::default();
    let mut silent = HashSet::new();
    for _ in 0..events {
        silent.extend(way.follow(&client, &args.topic, timeout).await?);
    }
    if way.steps.is_empty() {
        let what = format!("no node answered within {timeout:?}; --timeout waits longer.");
        return Err(Failure::Client(Trouble::NoNode(what)));
    }
    match args.json {
        true => way.push_json(&mut output.buffer),
        false => {
            way.push_drawing(&mut output.buffer);
            let summary = way.summary(&args.topic, events);
            output.buffer.extend_from_slice(summary.as_bytes());
        }
    }
    let _ = output.flush()?;
    if !silent.is_empty() {
        let mut silent: Vec<String> = silent.iter().map(|id| shown_name("", id)).collect();
        silent.sort_unstable();
        let nodes = silent.join(", ");
        connect::say(&format!(
            "sapwood: not every event was answered within {timeout:?} by {nodes}, where it went; --timeout waits longer.\n"
        ));
    }
    Ok(())
}

/// A node on the way.
#[derive(Debug, Default)]
struct Step {
    id: String,
    name: String,
    place: Option<String>,
    from: Option<String>,
    to: Vec<String>,
    round_trip_us: Option<u64>,
    is_for_this_node: bool,
    subscriptions: u64,
    groups: Vec<Group>,
    /// From sending an event to this node's answer.
    took: Vec<Duration>,
    /// How much longer than the answer of the node it came from, in nanoseconds.
    added: Vec<i128>,
}

/// The members of a group, as a node knows them.
#[derive(Debug, Default)]
struct Group {
    name: String,
    here: u64,
    beyond: u64,
}

impl Step {
    fn read(answer: &Value) -> Step {
        let groups = answer["members"].as_array().into_iter().flatten();
        let groups = groups.map(|group| Group {
            name: string(group, "group"),
            here: number(group, "here"),
            beyond: number(group, "beyond"),
        });
        let groups: Vec<Group> = groups.collect();
        // A group that may take its turn here counts as one.
        let turns = groups.iter().filter(|group| group.here > 0).count() as u64;
        Step {
            id: string(answer, "node"),
            name: string(answer, "name"),
            place: answer["address"].as_str().map(ToString::to_string),
            from: answer["from"].as_str().map(ToString::to_string),
            to: strings(&answer["to"]),
            round_trip_us: answer["round_trip_us"].as_u64(),
            is_for_this_node: answer["is_for_this_node"] == true,
            subscriptions: number(answer, "subscriptions").saturating_sub(turns),
            groups,
            ..Step::default()
        }
    }

    fn notes(&self) -> String {
        let mut notes = Vec::new();
        if !self.is_for_this_node {
            notes.push("only on the way".to_string());
        }
        notes.extend(self.groups.iter().map(|group| {
            let name = text::printable(group.name.as_bytes());
            format!("{name}: {} here, {} beyond", group.here, group.beyond)
        }));
        notes.join("  ")
    }
}

/// All ways that events took, by the nodes' numbers.
#[derive(Debug, Default)]
struct Way {
    steps: BTreeMap<String, Step>,
}

impl Way {
    /// Sends one event and follows it; the nodes that it went to and that did not answer.
    async fn follow(
        &mut self,
        client: &Client,
        topic: &str,
        timeout: Duration,
    ) -> Result<HashSet<String>, Failure> {
        let mut steps: HashMap<String, Step> = HashMap::new();
        let mut awaited = HashSet::new();
        let mut has_begun = false;
        let topic = format!("$trace:{topic}");
        let end = answers::ask(client, &topic, timeout, |answer, took| {
            let mut step = Step::read(answer);
            if step.id.is_empty() || steps.contains_key(&step.id) {
                return Wanted::More;
            }
            has_begun |= step.from.is_none();
            step.took.push(took);
            awaited.remove(&step.id);
            let further = step.to.iter().filter(|id| !steps.contains_key(*id));
            awaited.extend(further.cloned());
            steps.insert(step.id.clone(), step);
            match has_begun && awaited.is_empty() {
                true => Wanted::Nothing,
                false => Wanted::More,
            }
        });
        if end.await? == End::Nobody {
            return Ok(HashSet::new());
        }
        self.add(steps);
        Ok(awaited)
    }

    /// Adds the steps of one event.
    fn add(&mut self, steps: HashMap<String, Step>) {
        let took: HashMap<String, Duration> = steps
            .values()
            .filter_map(|step| Some((step.id.clone(), *step.took.first()?)))
            .collect();
        for (id, mut step) in steps {
            let from = step.from.as_ref();
            let before = match from {
                None => Some(&Duration::ZERO),
                Some(from) => took.get(from),
            };
            if let (Some(before), Some(now)) = (before, took.get(&id)) {
                step.added
                    .push(now.as_nanos() as i128 - before.as_nanos() as i128);
            }
            if let Some(known) = self.steps.remove(&id) {
                step.took.extend(known.took);
                step.added.extend(known.added);
            }
            self.steps.insert(id, step);
        }
    }

    fn order(&self) -> Vec<Placed<'_>> {
        let mut first = Vec::new();
        let mut children: HashMap<&str, Vec<&str>> = HashMap::new();
        for step in self.steps.values() {
            match step
                .from
                .as_deref()
                .filter(|from| self.steps.contains_key(*from))
            {
                Some(from) => children.entry(from).or_default().push(&step.id),
                None => first.push(step.id.as_str()),
            }
        }
        let key = |id: &&str| {
            let place = self.steps.get(*id).and_then(|step| step.place.as_deref());
            place.map(numbers)
        };
        first.sort_by_key(key);
        children
            .values_mut()
            .for_each(|below| below.sort_by_key(key));
        depth_first(&first, &children)
    }

    fn push_drawing(&self, out: &mut Vec<u8>) {
        let mut table = Table::new(&[
            ("node", Side::Left),
            ("place", Side::Left),
            ("there and back", Side::Right),
            ("adds", Side::Right),
            ("link", Side::Right),
            ("subscriptions", Side::Right),
            ("", Side::Left),
        ]);
        let mut branches = Branches::default();
        for placed in self.order() {
            let Some(step) = self.steps.get(placed.id) else {
                continue;
            };
            let start = branches.start(placed.depth, placed.has_siblings);
            let link = step.round_trip_us.map(Duration::from_micros);
            let place = step.place.as_deref().unwrap_or("-");
            table.push(vec![
                format!("{start}{}", shown_name(&step.name, &step.id)),
                text::printable(place.as_bytes()),
                median(&step.took).map_or("?".to_string(), latency::shown),
                median(&step.added).map_or("?".to_string(), shown_difference),
                link.map_or("-".to_string(), latency::shown),
                step.subscriptions.to_string(),
                step.notes(),
            ]);
        }
        table.write(out);
    }

    fn push_json(&self, out: &mut Vec<u8>) {
        for placed in self.order() {
            let Some(step) = self.steps.get(placed.id) else {
                continue;
            };
            let groups = step.groups.iter().map(
                |group| json!({"group": group.name, "here": group.here, "beyond": group.beyond}),
            );
            let micros = |nanos: i128| nanos as f64 / 1e3;
            let value = json!({
                "node": step.id,
                "name": step.name,
                "place": step.place,
                "hops": placed.depth,
                "from": step.from,
                "to": step.to,
                "there_and_back_us": median(&step.took).map(|took| micros(took.as_nanos() as i128)),
                "adds_us": median(&step.added).map(micros),
                "answers": step.took.len(),
                "link_round_trip_us": step.round_trip_us,
                "is_for_this_node": step.is_for_this_node,
                "subscriptions": step.subscriptions,
                "members": groups.collect::<Value>(),
            });
            text::push_json_value(out, &value);
            out.push(b'\n');
        }
    }

    fn summary(&self, topic: &str, events: u64) -> String {
        let events = counted(usize::try_from(events).unwrap_or(usize::MAX), "event");
        let nodes = counted(self.steps.len(), "node");
        let steps = || self.steps.values();
        let subscriptions = steps().map(|step| step.subscriptions);
        let subscriptions = subscriptions.fold(0, u64::saturating_add);
        let groups: HashSet<&str> = steps()
            .flat_map(|step| &step.groups)
            .map(|group| group.name.as_str())
            .collect();
        let topic = text::printable(topic.as_bytes());
        if subscriptions == 0 && groups.is_empty() {
            return format!("{nodes}, {events}; nobody listens on {topic}\n");
        }
        let subscriptions = usize::try_from(subscriptions).unwrap_or(usize::MAX);
        let groups = match groups.len() {
            0 => String::new(),
            groups => format!(" and one member of {}", counted(groups, "group")),
        };
        format!(
            "{nodes}, {events}; one on {topic} would reach {}{groups}\n",
            counted(subscriptions, "subscription")
        )
    }
}

/// The middle one, the lower of two.
fn median<T: Copy + Ord>(values: &[T]) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len().checked_sub(1)? / 2;
    sorted.get(middle).copied()
}

/// A time that may be below zero: an answer can overtake that of a node which is nearer.
fn shown_difference(nanos: i128) -> String {
    let size = u64::try_from(nanos.unsigned_abs()).unwrap_or(u64::MAX);
    let sign = if nanos < 0 { "-" } else { "" };
    format!("{sign}{}", latency::shown(Duration::from_nanos(size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(id: &str, from: Option<&str>, micros: u64) -> (String, Step) {
        let step = Step {
            id: id.to_string(),
            from: from.map(ToString::to_string),
            took: vec![Duration::from_micros(micros)],
            ..Step::default()
        };
        (id.to_string(), step)
    }

    #[test]
    fn medians_are_of_differences_within_each_event() {
        let mut way = Way::default();
        for (near, far) in [(100, 300), (900, 1_000), (200, 500)] {
            way.add(HashMap::from([
                step("a", None, near),
                step("b", Some("a"), far),
            ]));
        }
        let b = &way.steps["b"];
        assert_eq!(median(&b.took), Some(Duration::from_micros(500)));
        assert_eq!(median(&b.added), Some(200_000));
        let order: Vec<_> = way.order().iter().map(|placed| placed.id).collect();
        assert_eq!(order, ["a", "b"]);
    }

    #[test]
    fn times_may_be_below_zero() {
        assert_eq!(shown_difference(-2_000), "-2.00 us");
        assert_eq!(shown_difference(41_234), "41.2 us");
        assert_eq!(median::<u8>(&[]), None);
        assert_eq!(median(&[4, 1, 3, 2]), Some(2));
    }

    #[test]
    fn steps_of_hostile_answers_are_read() {
        let answer = json!({"node": 7, "members": [null, {"here": u64::MAX}], "to": "x", "subscriptions": 0});
        let step = Step::read(&answer);
        assert_eq!((step.subscriptions, step.to.len()), (0, 0));
        let notes = "only on the way  : 0 here, 0 beyond  : 18446744073709551615 here, 0 beyond";
        assert_eq!(step.notes(), notes);
    }
}
