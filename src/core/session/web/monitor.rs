//! What the node says about itself over HTTP: `/info` in its own words, the rest in the shape of nats-server's monitoring.
//!
//! All counts are sums over the shards, asked at that moment. Start at [`show`].

use super::routes::Connz;
use crate::command::{Answer, ClientRecord, Query, Selection, ShardId};
use crate::context::Context;
use crate::counters::Counters;
use crate::session::BROKER;
use sapwood_wire::http::Moment;
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering;

/// What was asked for.
#[derive(Debug)]
pub(super) enum Asked {
    Info,
    Varz,
    Connz(Connz),
    Subsz,
}

impl Asked {
    /// What the shards are to be asked.
    pub(super) fn query(&self) -> Query {
        match self {
            Asked::Info | Asked::Varz | Asked::Subsz => Query::Counters,
            Asked::Connz(connz) => Query::Clients(Selection {
                with_names: connz.with_subscriptions,
                ..Selection::default()
            }),
        }
    }
}

/// The answer's text.
pub(super) fn show(asked: &Asked, answer: Answer, cx: &Context<'_>) -> String {
    let value = match (asked, answer) {
        (Asked::Connz(connz), Answer::Clients(records)) => show_connz(connz, records, cx),
        (asked, Answer::Counters(mut each)) => {
            each.sort_by_key(|(shard, _)| *shard);
            let mut sum = Counters::default();
            each.iter().for_each(|(_, counters)| sum.add(counters));
            // All shards say the same number of these, for the node.
            if let Some((_, first)) = each.first() {
                sum.shared_body_bytes = first.shared_body_bytes;
                sum.filters = first.filters;
            }
            match asked {
                Asked::Info => show_info(&sum, &each, cx),
                Asked::Varz => show_varz(&sum, each.len(), cx),
                Asked::Subsz | Asked::Connz(_) => show_subsz(&sum),
            }
        }
        (asked, answer) => unreachable!("{answer:?} does not answer {asked:?}"),
    };
    let mut text = value.to_string();
    text.push('\n');
    text
}

fn object(counters: &Counters) -> Map<String, Value> {
    let entries = counters.entries().into_iter();
    entries
        .map(|(name, value)| (name.to_string(), value.into()))
        .collect()
}

fn uptime_s(cx: &Context<'_>) -> u64 {
    cx.now()
        .wall_ms
        .saturating_sub(cx.settings().started_wall_ms)
        / 1_000
}

fn show_info(sum: &Counters, each: &[(ShardId, Counters)], cx: &Context<'_>) -> Value {
    let mut counters = object(sum);
    let shards: Vec<Value> = each
        .iter()
        .map(|(_, counters)| Value::Object(object(counters)))
        .collect();
    counters.insert("each".to_string(), shards.into());
    json!({
        "broker": BROKER,
        "run": cx.settings().run_id,
        "process_id": cx.settings().process_id,
        "uptime_s": uptime_s(cx),
        "shards": each.len(),
        "counters": counters,
    })
}

fn show_varz(sum: &Counters, shards: usize, cx: &Context<'_>) -> Value {
    let vitals = &cx.settings().vitals;
    let limits = &cx.settings().limits;
    json!({
        "server_id": cx.settings().run_id.to_uppercase(),
        "server_name": "sapwood",
        "version": env!("CARGO_PKG_VERSION"),
        "proto": 1,
        "host": cx.identity().local.ip().to_string(),
        "http_host": cx.identity().local.ip().to_string(),
        "http_port": cx.identity().local.port(),
        "auth_required": cx.settings().password.is_some(),
        "max_connections": limits.connections_max * shards,
        "max_payload": cx.settings().nats_payload_max,
        "max_pending": limits.outbox_bytes_max,
        "ping_interval": limits.ping_ms * 1_000_000,
        "start": Moment::of(cx.settings().started_wall_ms).rfc3339(),
        "now": Moment::of(cx.now().wall_ms).rfc3339(),
        "uptime": duration(uptime_s(cx)),
        "mem": vitals.memory_bytes.load(Ordering::Relaxed),
        "cores": shards,
        "cpu": vitals.cpu_permille.load(Ordering::Relaxed) as f64 / 10.0,
        "connections": sum.connections,
        "total_connections": sum.connections_accepted,
        "subscriptions": sum.subscriptions,
        "slow_consumers": sum.closed_outbox_full + sum.closed_outboxes_full,
        "in_msgs": sum.events_published,
        "out_msgs": sum.events_delivered,
        "in_bytes": sum.bytes_in,
        "out_bytes": sum.bytes_out,
    })
}

fn show_subsz(sum: &Counters) -> Value {
    json!({
        "num_subscriptions": sum.subscriptions,
        "num_filters": sum.filters,
    })
}

/// As nats-server writes how long something took: the two largest units that matter, and the smaller ones.
fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{seconds}s"),
        (0, _, _) => format!("{hours}h{minutes}m{seconds}s"),
        _ => format!("{days}d{hours}h{minutes}m{seconds}s"),
    }
}

fn show_connz(connz: &Connz, mut records: Vec<ClientRecord>, cx: &Context<'_>) -> Value {
    if let Some(cid) = connz.cid {
        records.retain(|record| record.id.0 == cid);
    }
    records.sort_by_key(|record| record.id);
    // The largest first, as nats-server sorts all but these.
    let largest_first = |record: &ClientRecord| {
        let traffic = &record.traffic;
        std::cmp::Reverse(match connz.sort.as_slice() {
            b"subs" => record.subscriptions.iter().sum::<usize>() as u64,
            b"pending" => record.output.0 as u64,
            b"msgs_to" => traffic.events_out,
            b"msgs_from" => traffic.events_in,
            b"bytes_to" => traffic.bytes_out,
            b"bytes_from" => traffic.bytes_in,
            b"idle" => record.idle_s,
            b"uptime" => record.age_s,
            _ => 0,
        })
    };
    records.sort_by_key(largest_first);
    let total = records.len();
    let shown = records.iter().skip(connz.offset).take(connz.limit);
    let shown: Vec<Value> = shown.map(|record| show_record(record, connz, cx)).collect();
    json!({
        "server_id": cx.settings().run_id.to_uppercase(),
        "now": Moment::of(cx.now().wall_ms).rfc3339(),
        "num_connections": shown.len(),
        "total": total,
        "offset": connz.offset,
        "limit": connz.limit,
        "connections": shown,
    })
}

fn show_record(record: &ClientRecord, connz: &Connz, cx: &Context<'_>) -> Value {
    let since =
        |seconds: u64| Moment::of(cx.now().wall_ms.saturating_sub(seconds * 1_000)).rfc3339();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut value = json!({
        "cid": record.id.0,
        "kind": "Client",
        "ip": record.peer.ip().to_string(),
        "port": record.peer.port(),
        "start": since(record.age_s),
        "last_activity": since(record.idle_s),
        "uptime": duration(record.age_s),
        "idle": duration(record.idle_s),
        "pending_bytes": record.output.0,
        "in_msgs": record.traffic.events_in,
        "out_msgs": record.traffic.events_out,
        "in_bytes": record.traffic.bytes_in,
        "out_bytes": record.traffic.bytes_out,
        "subscriptions": record.subscriptions.iter().sum::<usize>(),
        "name": text(&record.name),
        "lang": text(&record.library.0),
        "version": text(&record.library.1),
        "shard": record.shard.0,
        "last_command": record.command,
    });
    if connz.with_subscriptions {
        let names: Vec<Value> = record.names.iter().map(|name| text(name).into()).collect();
        value["subscriptions_list"] = names.into();
    }
    value
}
