//! The counters of the node that a native client is connected to, as INFO has them in its sections Server and Sapwood.
//!
//! A node is asked by `$info`, to which each of its shards answers; every node of a tree would, so it is found out first
//! where this one stands. Start at [`ask`].

use std::collections::BTreeMap;

use sapwood_client::Client;
use serde_json::{Map, Value};

use super::{Section, printable};
use crate::cli::Failure;
use crate::cli::answers::{self, TIMEOUT, Wanted};
use crate::cli::config::Environment;
use crate::cli::connect::{self, ConnectArgs, Connector, Threads};
use crate::cli::trouble::Trouble;

/// How often to ask, each time for [`TIMEOUT`]: another node may have come to the place where this one just stood.
const ATTEMPTS: u64 = 5;

/// Gauges of the whole node, which each shard gives, so that a sum would be wrong.
const OF_THE_NODE: [&str; 2] = ["filters", "shared_body_bytes"];

/// Connects, and gives what the node says of itself.
///
/// Errors: wrong settings, exit code 2; a broker that is not there or too old, 1; one that does not answer, 4.
pub fn ask(args: &ConnectArgs, environment: &Environment) -> Result<Vec<Section>, Failure> {
    let connector = Connector::new(args, environment)?;
    let runtime = connect::runtime(Threads::Here)?;
    let shards = runtime.block_on(async {
        let client = connector.connect(connector.builder()).await?;
        ask_shards(&client).await
    })?;
    Ok(sections(&shards))
}

/// What each shard of the node answers, by its number.
async fn ask_shards(client: &Client) -> Result<BTreeMap<u64, Value>, Failure> {
    for _ in 0..ATTEMPTS {
        let Some(here) = answers::here(client, TIMEOUT).await? else {
            continue;
        };
        let id = answers::string(&here, "node");
        let count = answers::number(&here, "shards").max(1);
        let topic = match here["address"].as_str() {
            Some(place) => format!("$to:{place}:$info"),
            None => "$info".to_string(),
        };
        let mut shards = BTreeMap::new();
        answers::ask(client, &topic, TIMEOUT, |answer, _| {
            if answers::string(answer, "node") == id {
                shards.insert(answers::number(answer, "shard"), answer.clone());
            }
            match shards.len() as u64 >= count {
                true => Wanted::Nothing,
                false => Wanted::More,
            }
        })
        .await?;
        if shards.len() as u64 >= count {
            return Ok(shards);
        }
    }
    let seconds = TIMEOUT.as_secs() * ATTEMPTS;
    let what = format!("the broker's shards did not all answer within {seconds} s.");
    Err(Failure::Client(Trouble::NoNode(what)))
}

/// The fields of an answer, fit for a terminal, as INFO would have them.
fn sections(shards: &BTreeMap<u64, Value>) -> Vec<Section> {
    let Some(first) = shards.values().next() else {
        return Vec::new();
    };
    let pair = |name: &str, value: String| (printable(name), printable(&value));
    let mut server = Vec::new();
    for name in ["broker", "node", "name", "address"] {
        server.push(pair(name, answers::string(first, name)));
    }
    let uptime_s = answers::number(first, "uptime_ms") / 1_000;
    server.push(pair("uptime_in_seconds", uptime_s.to_string()));
    let mut own = vec![pair("shards", shards.len().to_string())];
    let mut each = Vec::new();
    let mut sums: Map<String, Value> = Map::new();
    for (shard, answer) in shards {
        let mut line = Vec::new();
        for (name, value) in answer["counters"].as_object().into_iter().flatten() {
            let value = value.as_u64().unwrap_or(0);
            let sum = sums.get(name).and_then(Value::as_u64).unwrap_or(0);
            let sum = match OF_THE_NODE.contains(&name.as_str()) {
                true => sum.max(value),
                false => sum.saturating_add(value),
            };
            sums.insert(name.clone(), sum.into());
            line.push(format!("{name}={value}"));
        }
        each.push(pair(&format!("shard{shard}"), line.join(",")));
    }
    own.extend(sums.iter().map(|(name, sum)| pair(name, sum.to_string())));
    own.extend(each);
    vec![("Server".to_string(), server), ("Sapwood".to_string(), own)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shards_are_summed_but_for_gauges_of_the_node() {
        let shard = |shard: u64, connections: u64| {
            let counters = json!({"connections": connections, "filters": 7});
            let answer = json!({"node": "4f", "name": "os\u{1b}lo", "shard": shard, "shards": 2, "uptime_ms": 5_400, "counters": counters});
            (shard, answer)
        };
        let sections = sections(&BTreeMap::from([shard(0, 3), shard(1, 4)]));
        let text: Vec<String> = sections
            .iter()
            .flat_map(|(_, pairs)| pairs.iter().map(|(key, value)| format!("{key}:{value}")))
            .collect();
        let expected = [
            "broker:",
            "node:4f",
            "name:os\\u{1b}lo",
            "address:",
            "uptime_in_seconds:5",
            "shards:2",
            "connections:7",
            "filters:7",
            "shard0:connections=3,filters=7",
            "shard1:connections=4,filters=7",
        ];
        assert_eq!(text, expected);
    }
}
