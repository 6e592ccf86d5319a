//! INFO and CONFIG GET: facts about the node under the names that redis-server gives them, and its counters.
//!
//! A field is there only if it is true of this broker: what redis-server measures and a broker without keys, forks and
//! replicas has not, is 0 or left out. Start at [`RedisSession::info`].

use super::{REDIS_VERSION, RedisSession};
use crate::command::{Answers, FilterKind, ShardId, counters_of};
use crate::context::Context;
use crate::counters::Counters;
use sapwood_wire::glob::Glob;
use sapwood_wire::resp::{self, Arguments};
use sapwood_wire::topic;
use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;

/// Number of databases that a client may select. They have no keys, and the same topics.
pub(super) const DATABASES: i64 = 16;

/// Writes the fields of a section.
type WriteSection = fn(&mut Section<'_>, &Facts<'_, '_>);

/// The sections of INFO, in redis-server's order.
const SECTIONS: [(&str, WriteSection); 11] = [
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", replication),
    ("CPU", cpu),
    ("Modules", |_, _| {}),
    ("Cluster", |section, _| section.add("cluster_enabled", 0)),
    // A line for each database that has keys.
    ("Keyspace", |_, _| {}),
    ("Sapwood", counters),
];

/// What the sections are made of.
struct Facts<'a, 'b> {
    total: Counters,
    each: Vec<(ShardId, Counters)>,
    cx: &'a Context<'b>,
}

/// One section that is being written.
struct Section<'a>(&'a mut String);

impl Section<'_> {
    fn add(&mut self, name: &str, value: impl Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "{name}:{value}\r\n");
    }

    fn add_zeros(&mut self, names: &[&str]) {
        names.iter().for_each(|name| self.add(name, 0));
    }
}

impl RedisSession {
    /// The text of INFO, from the counters of all shards.
    pub(super) fn info(&self, asked: &[String], answers: Answers, cx: &Context<'_>) -> String {
        let each = counters_of(answers);
        let mut total = Counters::default();
        each.iter().for_each(|(_, counters)| total.add(counters));
        let facts = Facts { total, each, cx };
        let all = ["all", "default", "everything"];
        let wants_all = asked.is_empty() || asked.iter().any(|name| all.contains(&&**name));
        let mut text = String::new();
        for (title, write_fields) in SECTIONS {
            if wants_all || asked.iter().any(|name| title.eq_ignore_ascii_case(name)) {
                let between = if text.is_empty() { "" } else { "\r\n" };
                text += &format!("{between}# {title}\r\n");
                write_fields(&mut Section(&mut text), &facts);
            }
        }
        text
    }

    pub(super) fn config_get(&self, arguments: Arguments<'_>, cx: &mut Context<'_>) {
        let values = config_values(cx);
        let mut found: Vec<(Vec<u8>, &str)> = Vec::new();
        for pattern in arguments
            .iter()
            .skip(2)
            .filter(|name| topic::check_name(name).is_ok())
        {
            let lower = pattern.to_ascii_lowercase();
            let glob = Glob::new(&lower);
            for (name, value) in &values {
                let is_exact = lower == name.as_bytes();
                if !is_exact && !glob.matches_text(name.as_bytes()) {
                    continue;
                }
                // The reply repeats the key as it was asked for.
                let key = if is_exact { pattern } else { name.as_bytes() };
                if !found
                    .iter()
                    .any(|(other, _)| other.eq_ignore_ascii_case(key))
                {
                    found.push((key.to_vec(), value));
                }
            }
        }
        let version = self.version;
        self.write(cx, |out| {
            resp::map(out, version, found.len());
            for (name, value) in &found {
                resp::bulk(out, name);
                resp::bulk(out, value.as_bytes());
            }
        });
    }

    pub(super) fn config_set(&self, arguments: Arguments<'_>, cx: &mut Context<'_>) {
        let name = super::shown(arguments.get(2).unwrap_or_default(), 128);
        let values = config_values(cx);
        let mut known = values.iter();
        let text = if known.any(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name)) {
            [
                b"ERR CONFIG SET failed (possibly related to argument '",
                name,
                b"') - can't set immutable config; set it when the broker starts, see sapwood serve --help",
            ]
            .concat()
        } else {
            [
                b"ERR Unknown option or number of arguments for CONFIG SET - '",
                name,
                b"'",
            ]
            .concat()
        };
        self.error(cx, &text);
    }
}

/// What CONFIG GET knows.
fn config_values(cx: &Context<'_>) -> [(&'static str, String); 14] {
    let payload_max = sapwood_wire::limits::PAYLOAD_BYTES_MAX;
    [
        ("appendonly", "no".to_string()),
        ("cluster-enabled", "no".to_string()),
        ("databases", DATABASES.to_string()),
        // 0 and, below, -1: latencies are not monitored, and no log of slow commands is kept.
        ("latency-monitor-threshold", "0".to_string()),
        ("maxclients", cx.settings().connections_max().to_string()),
        ("maxmemory", "0".to_string()),
        ("maxmemory-policy", "noeviction".to_string()),
        ("notify-keyspace-events", String::new()),
        ("port", cx.identity().local.port().to_string()),
        ("proto-max-bulk-len", payload_max.to_string()),
        ("save", String::new()),
        ("slowlog-log-slower-than", "-1".to_string()),
        ("slowlog-max-len", "0".to_string()),
        ("timeout", "0".to_string()),
    ]
}

fn server(section: &mut Section<'_>, facts: &Facts<'_, '_>) {
    let (settings, now_ms) = (facts.cx.settings(), facts.cx.now().wall_ms);
    let uptime_s = now_ms.saturating_sub(settings.started_wall_ms) / 1000;
    section.add("redis_version", REDIS_VERSION);
    section.add("sapwood_version", env!("CARGO_PKG_VERSION"));
    section.add("redis_mode", "standalone");
    section.add("os", "Linux");
    section.add("arch_bits", 64);
    section.add("multiplexing_api", "io_uring");
    section.add("process_id", settings.process_id);
    section.add("run_id", &settings.run_id);
    section.add("tcp_port", facts.cx.identity().local.port());
    section.add("server_time_usec", now_ms * 1000);
    section.add("uptime_in_seconds", uptime_s);
    section.add("uptime_in_days", uptime_s / 86_400);
}

fn clients(section: &mut Section<'_>, facts: &Facts<'_, '_>) {
    section.add("connected_clients", facts.total.connections);
    section.add("cluster_connections", 0);
    section.add("maxclients", facts.cx.settings().connections_max());
    section.add("blocked_clients", 0);
}

fn memory(section: &mut Section<'_>, facts: &Facts<'_, '_>) {
    let vitals = &facts.cx.settings().vitals;
    // The allocator is not asked: what the process has resident is what it takes from others.
    let bytes = vitals.memory_bytes.load(Ordering::Relaxed);
    let mebibytes = bytes as f64 / (1024.0 * 1024.0);
    section.add("used_memory", bytes);
    section.add("used_memory_human", format_args!("{mebibytes:.2}M"));
    section.add("used_memory_rss", bytes);
    section.add("used_memory_rss_human", format_args!("{mebibytes:.2}M"));
    section.add_zeros(&["number_of_cached_scripts", "number_of_functions"]);
    section.add_zeros(&["number_of_libraries", "maxmemory"]);
    section.add("maxmemory_policy", "noeviction");
}

fn persistence(section: &mut Section<'_>, _: &Facts<'_, '_>) {
    section.add_zeros(&["loading", "async_loading", "rdb_changes_since_last_save"]);
    section.add_zeros(&["rdb_bgsave_in_progress", "rdb_saves", "aof_enabled"]);
    section.add_zeros(&["aof_rewrite_in_progress", "aof_rewrite_scheduled"]);
}

fn stats(section: &mut Section<'_>, facts: &Facts<'_, '_>) {
    let Facts { total, cx, .. } = facts;
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    section.add("total_connections_received", total.connections_accepted);
    section.add("total_commands_processed", total.commands);
    section.add("instantaneous_ops_per_sec", total.commands_per_s);
    section.add("total_net_input_bytes", total.bytes_in);
    section.add("total_net_output_bytes", total.bytes_out);
    let (input, output) = (kib(total.bytes_in_per_s), kib(total.bytes_out_per_s));
    section.add("instantaneous_input_kbps", format_args!("{input:.2}"));
    section.add("instantaneous_output_kbps", format_args!("{output:.2}"));
    section.add("rejected_connections", total.connections_refused);
    section.add_zeros(&["sync_full", "sync_partial_ok", "sync_partial_err"]);
    section.add_zeros(&["expired_keys", "evicted_keys", "evicted_clients"]);
    section.add_zeros(&["keyspace_hits", "keyspace_misses"]);
    section.add("pubsub_channels", cx.filters(FilterKind::Topic));
    section.add("pubsub_patterns", cx.active_globs());
    section.add("pubsubshard_channels", cx.filters(FilterKind::ShardChannel));
    section.add_zeros(&["latest_fork_usec", "total_forks", "tracking_total_keys"]);
    section.add("total_error_replies", total.errors);
}

fn replication(section: &mut Section<'_>, _: &Facts<'_, '_>) {
    section.add("role", "master");
    section.add("connected_slaves", 0);
    section.add("master_failover_state", "no-failover");
    section.add_zeros(&["master_repl_offset", "repl_backlog_active"]);
}

fn cpu(section: &mut Section<'_>, facts: &Facts<'_, '_>) {
    let vitals = &facts.cx.settings().vitals;
    let seconds = |micros: u64| format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    let of = |gauge: &core::sync::atomic::AtomicU64| seconds(gauge.load(Ordering::Relaxed));
    section.add("used_cpu_sys", of(&vitals.cpu_system_us));
    section.add("used_cpu_user", of(&vitals.cpu_user_us));
}

fn counters(section: &mut Section<'_>, facts: &Facts<'_, '_>) {
    let Facts { total, each, .. } = facts;
    section.add("shards", each.len());
    for (name, value) in total.entries() {
        // Every shard reports filters and shared payloads of the whole node, so a sum would be wrong.
        let value = match name {
            "filters" | "shared_body_bytes" => {
                let each = each.iter().map(|(_, counters)| {
                    if name == "filters" {
                        counters.filters
                    } else {
                        counters.shared_body_bytes
                    }
                });
                each.max().unwrap_or(0)
            }
            _ => value,
        };
        section.add(name, value);
    }
    for (shard, counters) in each {
        let entries = counters.entries();
        let line: Vec<String> = entries
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        section.add(&format!("shard{}", shard.0), line.join(","));
    }
}
