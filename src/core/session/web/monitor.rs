//! Monitoring over HTTP: `/info` in a form of its own, `/varz`, `/connz` and `/subsz` in that of nats-server.
//!
//! All counts are sums over the shards, asked for at each request. Start at [`show`] and [`ConnzList`].

use super::routes::Connz;
use crate::command::{
    Answers, ClientId, ClientRecord, Query, Round, Selection, ShardId, counters_of,
};
use crate::context::Context;
use crate::counters::Counters;
use crate::session::BROKER;
use crate::session::listing::{Listed, Listing};
use sapwood_wire::http::Moment;
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering;

/// Requests that the counters of all shards answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    Info,
    Varz,
    Subsz,
}

/// The text of the response.
pub(super) fn show(asked: Asked, answers: Answers, cx: &Context<'_>) -> String {
    let each = counters_of(answers);
    let mut sum = Counters::default();
    each.iter().for_each(|(_, counters)| sum.add(counters));
    // Every shard reports these for the whole node, so they are not summed.
    if let Some((_, first)) = each.first() {
        sum.shared_body_bytes = first.shared_body_bytes;
        sum.filters = first.filters;
    }
    let value = match asked {
        Asked::Info => show_info(&sum, &each, cx),
        Asked::Varz => show_varz(&sum, each.len(), cx),
        Asked::Subsz => show_subsz(&sum),
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

/// A duration as nats-server writes it, from the largest unit that is not 0 down to seconds.
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

/// The response to `/connz` in progress, written in parts.
#[derive(Debug)]
pub(super) struct ConnzList {
    connz: Connz,
    listing: Listing,
    /// Number of clients written so far.
    shown: usize,
}

impl ConnzList {
    /// A list, and the first query for all shards.
    pub(super) fn new(connz: Connz) -> (ConnzList, Query) {
        let selection = Selection {
            ids: connz.cid.map(ClientId).into_iter().collect(),
            ..Selection::default()
        };
        let range = connz.offset..connz.offset.saturating_add(connz.limit);
        let (listing, first) = Listing::new(selection, connz.sort, range, connz.with_subscriptions);
        let list = ConnzList {
            connz,
            listing,
            shown: 0,
        };
        (list, first)
    }

    /// Whether the first part has been given.
    pub(super) fn is_begun(&self) -> bool {
        self.listing.is_selected()
    }

    /// Bytes of memory that it takes.
    pub(super) fn kept_bytes(&self) -> usize {
        self.listing.kept_bytes()
    }

    /// Takes the answers of a round. Gives the next part of the text, and the next round unless this was the last.
    pub(super) fn answered(
        &mut self,
        answers: Answers,
        cx: &Context<'_>,
    ) -> (String, Option<Round>) {
        let was_begun = self.is_begun();
        let (listed, next) = self.listing.answered(answers);
        let mut text = String::new();
        if self.is_begun() && !was_begun {
            let head = json!({
                "server_id": cx.settings().run_id.to_uppercase(),
                "now": Moment::of(cx.now().wall_ms).rfc3339(),
                "total": self.listing.total(),
                "offset": self.connz.offset,
                "limit": self.connz.limit,
            });
            text += &open(&head, "connections");
        }
        match listed {
            Listed::Nothing => {}
            Listed::Clients(records) => {
                for record in records {
                    if self.shown > 0 {
                        text.push(',');
                    }
                    self.shown += 1;
                    let shown = show_record(&record, cx);
                    if !self.connz.with_subscriptions {
                        text += &shown.to_string();
                        continue;
                    }
                    text += &open(&shown, "subscriptions_list");
                    push_names(&mut text, &record.names, true);
                    if record.names_next.is_none() {
                        text += "]}";
                    }
                }
            }
            Listed::Names(names, has_more) => {
                push_names(&mut text, &names, false);
                if !has_more {
                    text += "]}";
                }
            }
        }
        if next.is_none() {
            text += &format!("],\"num_connections\":{}}}\n", self.shown);
        }
        (text, next)
    }
}

/// The text of an object, left open in a last member that is a list.
fn open(object: &Value, list: &str) -> String {
    let mut text = object.to_string();
    assert_eq!(text.pop(), Some('}'), "an object ends with a brace");
    text + ",\"" + list + "\":["
}

fn push_names(text: &mut String, names: &[Box<[u8]>], is_first: bool) {
    for (place, name) in names.iter().enumerate() {
        if place > 0 || !is_first {
            text.push(',');
        }
        *text += &Value::from(String::from_utf8_lossy(name)).to_string();
    }
}

fn show_record(record: &ClientRecord, cx: &Context<'_>) -> Value {
    let since =
        |seconds: u64| Moment::of(cx.now().wall_ms.saturating_sub(seconds * 1_000)).rfc3339();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    json!({
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
    })
}
