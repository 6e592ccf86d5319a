//! Monitoring over HTTP: `/info` in a form of its own, `/varz`, `/connz` and `/subsz` in that of nats-server.
//!
//! All counts are sums over the shards, asked for at each request. Start at [`show`] and [`ConnzList`].

use super::routes::{NoRoute, invalid};
use crate::command::{
    Answers, ClientId, ClientRecord, Form, Query, Round, Selection, ShardId, Sort, Subscribed,
    counters_of,
};
use crate::context::Context;
use crate::counters::Counters;
use crate::limits::NATS_PINGS_OUT_MAX;
use crate::session::BROKER;
use crate::session::listing::{Listed, Listing};
use sapwood_wire::http::{Head, Moment, query_pairs};
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
        "http_base_path": "",
        "https_port": 0,
        "auth_required": cx.settings().password.is_some(),
        "auth_timeout": limits.guest_ms_max as f64 / 1_000.0,
        "max_connections": cx.settings().connections_max(),
        "max_control_line": limits.control_line_bytes_max,
        "max_payload": cx.settings().nats_payload_max,
        "max_pending": limits.outbox_bytes_max,
        "ping_interval": limits.ping_ms * 1_000_000,
        "ping_max": NATS_PINGS_OUT_MAX,
        "start": Moment::of(cx.settings().started_wall_ms).rfc3339(),
        "config_load_time": Moment::of(cx.settings().started_wall_ms).rfc3339(),
        "now": Moment::of(cx.now().wall_ms).rfc3339(),
        "uptime": duration(uptime_s(cx)),
        "mem": vitals.memory_bytes.load(Ordering::Relaxed),
        "cores": shards,
        "gomaxprocs": shards,
        "cpu": vitals.cpu_permille.load(Ordering::Relaxed) as f64 / 10.0,
        "connections": sum.connections,
        "total_connections": sum.connections_accepted,
        "routes": 0,
        "remotes": 0,
        "leafnodes": 0,
        "subscriptions": sum.subscriptions,
        "slow_consumers": sum.closed_outbox_full + sum.closed_outboxes_full,
        "in_msgs": sum.events_published,
        "out_msgs": sum.events_delivered,
        "in_bytes": sum.payload_bytes_in,
        "out_bytes": sum.payload_bytes_out,
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

/// Number of connections that `/connz` lists unless it is asked for more, as nats-server does.
const CONNZ_LIMIT: usize = 1_024;

/// How the subscriptions of each connection are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Not,
    Names,
    Details,
}

impl Shown {
    /// The member of a connection that is their list.
    fn list(self) -> &'static str {
        match self {
            Shown::Details => "subscriptions_list_detail",
            _ => "subscriptions_list",
        }
    }
}

/// Parameters of `/connz`: which connections are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connz {
    offset: usize,
    limit: usize,
    subscriptions: Shown,
    sort: Sort,
    cid: Option<u64>,
    /// Clients of all protocols, not only of NATS.
    is_for_all: bool,
    /// Closed connections only: none are kept.
    is_for_closed: bool,
}

impl Connz {
    /// Reads the query. What nats-server refuses is refused; what neither knows is ignored, because tools ask for more
    /// than there is here.
    pub(super) fn asked(head: &Head<'_>) -> Result<Connz, NoRoute> {
        let mut connz = Connz {
            offset: 0,
            limit: CONNZ_LIMIT,
            subscriptions: Shown::Not,
            sort: Sort::Id,
            cid: None,
            is_for_all: false,
            is_for_closed: false,
        };
        for pair in query_pairs(head.query) {
            let (name, value) = pair.ok_or_else(|| invalid("the query is not percent-encoded"))?;
            match name.as_slice() {
                b"offset" => connz.offset = whole(&value)?.max(0) as usize,
                b"limit" => {
                    let limit = whole(&value)?;
                    connz.limit = if limit > 0 {
                        limit as usize
                    } else {
                        CONNZ_LIMIT
                    };
                }
                b"cid" => connz.cid = Some(whole(&value)?.unsigned_abs()).filter(|&cid| cid > 0),
                b"subs" if value == b"detail" => connz.subscriptions = Shown::Details,
                b"subs" => {
                    connz.subscriptions = match truth(&value)? {
                        true => Shown::Names,
                        false => Shown::Not,
                    }
                }
                b"all" => connz.is_for_all = truth(&value)?,
                b"sort" => connz.sort = sort(&value)?,
                b"state" => {
                    connz.is_for_closed = match &*value.to_ascii_lowercase() {
                        b"" | b"open" | b"any" | b"all" => false,
                        b"closed" => true,
                        _ => return Err(invalid("`state` is open, closed or all")),
                    }
                }
                _ => {}
            }
        }
        if connz.cid.is_some() {
            (connz.offset, connz.limit) = (0, 1);
        }
        Ok(connz)
    }
}

fn whole(value: &[u8]) -> Result<i64, NoRoute> {
    let text = std::str::from_utf8(value).ok();
    let number = match text {
        Some("") => Some(0),
        text => text.and_then(|text| text.parse().ok()),
    };
    number.ok_or_else(|| invalid("`offset`, `limit` and `cid` are numbers"))
}

/// A truth value as nats-server reads one.
fn truth(value: &[u8]) -> Result<bool, NoRoute> {
    match value {
        b"1" | b"t" | b"T" | b"TRUE" | b"true" | b"True" => Ok(true),
        b"" | b"0" | b"f" | b"F" | b"FALSE" | b"false" | b"False" => Ok(false),
        _ => Err(invalid("`subs` is 1, 0 or detail, and `all` is 1 or 0")),
    }
}

fn sort(value: &[u8]) -> Result<Sort, NoRoute> {
    Ok(match value {
        // Clients are numbered in the order in which they connect.
        b"" | b"cid" | b"start" => Sort::Id,
        b"subs" => Sort::Subscriptions,
        b"pending" => Sort::Pending,
        b"msgs_to" => Sort::EventsOut,
        b"msgs_from" => Sort::EventsIn,
        b"bytes_to" => Sort::BytesOut,
        b"bytes_from" => Sort::BytesIn,
        b"last" => Sort::Last,
        b"idle" => Sort::Idle,
        b"uptime" => Sort::Start,
        _ => {
            return Err(invalid(
                "`sort` is cid, start, subs, pending, msgs_to, msgs_from, bytes_to, bytes_from, last, idle or uptime",
            ));
        }
    })
}

/// The response to `/connz` in progress, written in parts.
#[derive(Debug)]
pub(super) struct ConnzList {
    connz: Connz,
    listing: Listing,
    /// Number of clients written so far.
    shown: usize,
    /// Number of the client whose subscriptions are being written.
    shown_last: u64,
}

impl ConnzList {
    /// A list, and the first query for all shards.
    pub(super) fn new(connz: Connz) -> (ConnzList, Query) {
        let selection = Selection {
            ids: connz.cid.map(ClientId).into_iter().collect(),
            // Who is asked for by number is meant.
            form: (!connz.is_for_all && connz.cid.is_none()).then_some(Form::Nats),
            nobody: connz.is_for_closed,
            ..Selection::default()
        };
        let range = connz.offset..connz.offset.saturating_add(connz.limit);
        let with_subscriptions = connz.subscriptions != Shown::Not;
        let (listing, first) = Listing::new(selection, connz.sort, range, with_subscriptions);
        let list = ConnzList {
            connz,
            listing,
            shown: 0,
            shown_last: 0,
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
                    if record.listens_to.is_empty() {
                        text += &shown.to_string();
                        continue;
                    }
                    self.shown_last = record.id.0;
                    text += &open(&shown, self.connz.subscriptions.list());
                    self.push_subscriptions(&mut text, &record.listens_to);
                    if record.listens_next.is_none() {
                        text += "]}";
                    }
                }
            }
            Listed::Subscriptions(listens_to, has_more) => {
                if !listens_to.is_empty() {
                    text.push(',');
                }
                self.push_subscriptions(&mut text, &listens_to);
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

    fn push_subscriptions(&self, text: &mut String, listens_to: &[Subscribed]) {
        for (place, subscribed) in listens_to.iter().enumerate() {
            if place > 0 {
                text.push(',');
            }
            let shown = match self.connz.subscriptions {
                Shown::Details => show_subscribed(subscribed, self.shown_last),
                _ => string(&subscribed.name).into(),
            };
            *text += &shown.to_string();
        }
    }
}

/// One subscription of a client. What it has none of is left out, as nats-server does.
fn show_subscribed(subscribed: &Subscribed, cid: u64) -> Value {
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| shown.insert(name.to_string(), value);
    put("subject", string(&subscribed.name).into());
    if let Some(group) = &subscribed.group {
        put("qgroup", string(group).into());
    }
    if let Some(named) = &subscribed.named {
        put("sid", string(&named.sid).into());
        put("msgs", named.messages.into());
        if named.messages_max > 0 {
            put("max", named.messages_max.into());
        }
    }
    put("cid", cid.into());
    shown.into()
}

fn string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The text of an object, left open in a last member that is a list.
fn open(object: &Value, list: &str) -> String {
    let mut text = object.to_string();
    assert_eq!(text.pop(), Some('}'), "an object ends with a brace");
    text + ",\"" + list + "\":["
}

/// The name of a client's protocol.
fn type_of(form: Form) -> &'static str {
    match form {
        Form::Resp2 | Form::Resp3 => "redis",
        Form::Native | Form::NativeMessages => "native",
        Form::Nats => "nats",
        Form::Text => "text",
        Form::Json | Form::JsonLines => "json",
        Form::Sse | Form::SsePlain => "http",
    }
}

fn show_record(record: &ClientRecord, cx: &Context<'_>) -> Value {
    let since =
        |seconds: u64| Moment::of(cx.now().wall_ms.saturating_sub(seconds * 1_000)).rfc3339();
    let mut shown = json!({
        "cid": record.id.0,
        "kind": "Client",
        "type": type_of(record.form),
        "ip": record.peer.ip().to_string(),
        "port": record.peer.port(),
        "start": since(record.age_s),
        "last_activity": since(record.idle_s),
        "uptime": duration(record.age_s),
        "idle": duration(record.idle_s),
        "pending_bytes": record.output.0,
        "in_msgs": record.published.events,
        "out_msgs": record.delivered.events,
        "in_bytes": record.published.bytes,
        "out_bytes": record.delivered.bytes,
        "subscriptions": record.subscriptions.iter().sum::<usize>(),
        "shard": record.shard.0,
        "last_command": record.command,
    });
    // What the client has not said is left out, as nats-server does.
    let (library, version) = &record.library;
    for (name, said) in [
        ("name", &record.name),
        ("lang", library),
        ("version", version),
    ] {
        if !said.is_empty() {
            shown[name] = string(said).into();
        }
    }
    shown
}
