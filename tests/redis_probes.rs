//! What clients and tools of Redis ask of a server before they use it, or to watch it: the answers beside those of a
//! redis-server that has no keys, scripts, functions, modules, replicas or cluster either.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::resp::{RawClient, Value};
use common::{Broker, Reference, VALUE_SECONDS_MAX};

/// Requests that are answered with the same bytes, one by one on one connection, in both versions of the protocol.
const SAME: &[&str] = &[
    "CLIENT CACHING YES",
    "CLIENT TRACKING ON",
    "CLIENT CACHING YES",
    "CLIENT TRACKING ON BCAST",
    "CLIENT TRACKING ON OPTIN",
    "CLIENT CACHING YES",
    "CLIENT CACHING NO",
    "CLIENT CACHING x",
    "CLIENT TRACKING ON OPTOUT",
    "CLIENT TRACKING ON BCAST OPTIN",
    "CLIENT TRACKING ON PREFIX a",
    "CLIENT TRACKING x OPTIN",
    "CLIENT TRACKING ON x",
    "CLIENT TRACKING ON PREFIX",
    "CLIENT TRACKING ON REDIRECT x",
    "CLIENT TRACKING OFF",
    "CLIENT TRACKING ON OPTIN OPTOUT",
    "CLIENT TRACKING ON BCAST PREFIX a: PREFIX b: NOLOOP",
    "CLIENT TRACKING ON OPTIN BCAST",
    "CLIENT CACHING NO",
    "RESET",
    "CLIENT CACHING NO",
    "CLIENT TRACKING ON OPTOUT",
    "CLIENT CACHING NO",
    "CLIENT CACHING YES",
    "CLIENT TRACKING",
    "FUNCTION FLUSH",
    "FUNCTION FLUSH ASYNC",
    "FUNCTION FLUSH x",
    "FUNCTION LIST",
    "FUNCTION LIST LIBRARYNAME x*",
    "FUNCTION KILL",
    "FUNCTION x",
    "SCRIPT FLUSH",
    "SCRIPT FLUSH SYNC",
    "SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db x",
    "SCRIPT EXISTS",
    "SCRIPT KILL",
    "CLUSTER INFO",
    "CLUSTER SLOTS",
    "CLUSTER SHARDS",
    "CLUSTER NODES",
    "CLUSTER MYID",
    "CLUSTER KEYSLOT a",
    "CLUSTER HELP",
    "CLUSTER",
    "READONLY",
    "READWRITE",
    "ASKING",
    "SLOWLOG GET",
    "SLOWLOG GET 1",
    "SLOWLOG GET -1",
    "SLOWLOG GET -2",
    "SLOWLOG GET x",
    "SLOWLOG LEN",
    "SLOWLOG RESET",
    "LATENCY LATEST",
    "LATENCY HISTORY command",
    "LATENCY HISTOGRAM nosuch",
    "LATENCY RESET",
    "LATENCY RESET command",
    "ACL WHOAMI",
    "ACL USERS",
    "MEMORY USAGE a",
    "MEMORY USAGE a SAMPLES 5",
    "MEMORY PURGE",
    "MODULE LIST",
    "DBSIZE",
    "SCAN 0",
    "SCAN 0 MATCH a* COUNT 100 TYPE string",
    "SCAN 17",
    "SCAN x",
    "SCAN 0 MATCH",
    "SCAN 0 COUNT 0",
    "SCAN 0 COUNT x",
    "SCAN 0 x y",
    "COMMAND INFO nosuch",
    "COMMAND DOCS nosuch",
    "COMMAND x",
    "PUBSUB x",
    "PUBSUB HELP x",
    "CONFIG GET slowlog-log-slower-tha",
    "CONFIG GET maxmemory-policy",
    "CONFIG GET notify-keyspace-events",
    "CONFIG GET latency-monitor-threshold",
    "INFO cluster",
    "INFO keyspace",
    "INFO modules",
    "INFO modules cluster keyspace",
    "INFO KEYSPACE nosuch",
    "INFO nosuch",
];

fn words(request: &str) -> Vec<&str> {
    request.split(' ').collect()
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[test]
fn what_clients_probe_is_answered_as_redis_does() {
    let reference = Reference::start();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        for version in ["2", "3"] {
            let mut theirs = RawClient::connect(reference.port());
            let mut ours = RawClient::connect(broker.port());
            for request in SAME {
                for client in [&mut theirs, &mut ours] {
                    client.call(&["HELLO", version]);
                }
                let theirs = theirs.call_raw(&words(request));
                let ours = ours.call_raw(&words(request));
                assert_eq!(shown(&ours), shown(&theirs), "{request}, RESP{version}");
            }
        }
    }
}

/// The first bytes of rueidis, at once.
#[test]
fn a_client_that_caches_may_begin() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut client = RawClient::connect(broker.port());
        client.send(
            b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n\
              *4\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n$5\r\nOPTIN\r\n\
              *4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$8\r\nLIB-NAME\r\n$7\r\nrueidis\r\n\
              *4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$7\r\nLIB-VER\r\n$6\r\n1.0.66\r\n\
              *3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n\
              *2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n",
        );
        let Value::Map(greeting) = client.value() else {
            panic!("HELLO is answered with a map");
        };
        assert!(greeting.contains(&(Value::bulk("proto"), Value::Integer(3))));
        for _ in 0..4 {
            assert_eq!(client.value(), Value::ok());
        }
        let no_cluster = "ERR This instance has cluster support disabled";
        assert_eq!(client.value(), Value::Error(no_cluster.to_string()));
        let Value::Verbatim(list) = client.call(&["CLIENT", "LIST"]) else {
            panic!("a list of clients is text");
        };
        let list = String::from_utf8(list).expect("a list of clients is text");
        assert!(list.contains(" lib-name=rueidis lib-ver=1.0.66 "), "{list}");
    }
}

/// The sections of an INFO, each with its fields.
fn sections(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let parts = text.split("\r\n\r\n").map(str::trim);
    let each = parts.map(|part| {
        let mut lines = part.lines();
        let title = lines.next().and_then(|line| line.strip_prefix("# "));
        let title = title.unwrap_or_else(|| panic!("no title: {part:?}"));
        let fields = lines.map(|line| {
            let (name, value) = line.split_once(':').expect("a field has a value");
            (name.to_string(), value.to_string())
        });
        (title.to_string(), fields.collect())
    });
    each.collect()
}

fn field(text: &str, name: &str) -> String {
    let fields = sections(text).into_iter().flat_map(|(_, fields)| fields);
    let mut found = fields.filter(|(other, _)| other == name);
    let (_, value) = found.next().unwrap_or_else(|| panic!("no {name}: {text}"));
    assert!(found.next().is_none(), "{name} stands twice: {text}");
    value
}

fn number(text: &str, name: &str) -> u64 {
    let value = field(text, name);
    value.parse().unwrap_or_else(|_| panic!("{name}:{value}"))
}

#[test]
fn info_has_fields_of_redis_where_redis_has_them() {
    let reference = Reference::start();
    let theirs = RawClient::connect(reference.port()).call(&["INFO", "everything"]);
    let theirs = sections(&theirs.text());
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut client = RawClient::connect(broker.port());
        let whole = client.call(&["INFO"]).text();
        for all in ["all", "everything", "default"] {
            let titles = |text: &str| -> Vec<String> {
                sections(text).into_iter().map(|(title, _)| title).collect()
            };
            let text = client.call(&["INFO", all]).text();
            assert_eq!(titles(&text), titles(&whole), "{all}");
        }
        for (title, fields) in sections(&whole) {
            if title == "Sapwood" {
                continue;
            }
            let known = theirs.iter().find(|(other, _)| *other == title);
            let (_, known) = known.unwrap_or_else(|| panic!("redis-server has no {title}"));
            for (name, _) in &fields {
                let is_known = known.iter().any(|(other, _)| other == name);
                assert!(is_known || name == "sapwood_version", "{name} in {title}");
            }
            let one = client.call(&["INFO", &title]).text();
            let names = |fields: &[(String, String)]| -> Vec<String> {
                fields.iter().map(|(name, _)| name.clone()).collect()
            };
            assert_eq!(names(&sections(&one)[0].1), names(&fields), "{title}");
        }
    }
}

#[test]
fn info_says_what_is() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut client = RawClient::connect(broker.port());
        let others: Vec<RawClient> = (0..3)
            .map(|_| {
                let mut client = RawClient::connect(broker.port());
                client.call(&["PING"]);
                client
            })
            .collect();
        let before = client.call(&["INFO"]).text();
        assert_eq!(number(&before, "connected_clients"), 4);
        assert_eq!(number(&before, "tcp_port"), u64::from(broker.port()));
        assert_eq!(number(&before, "process_id"), u64::from(broker.pid()));
        assert_eq!(field(&before, "role"), "master");
        assert_eq!(field(&before, "cluster_enabled"), "0");
        assert_eq!(field(&before, "redis_mode"), "standalone");
        for none in [
            "keyspace_hits",
            "keyspace_misses",
            "blocked_clients",
            "loading",
        ] {
            assert_eq!(number(&before, none), 0, "{none}");
        }
        let resident = broker.resident_kib() * 1024;
        let used = number(&before, "used_memory");
        assert!((resident / 2..resident * 2).contains(&used), "{used}");
        assert!(number(&before, "uptime_in_seconds") < 100);
        for _ in 0..50 {
            client.call(&["PUBLISH", "a", "x"]);
        }
        let after = client.call(&["INFO"]).text();
        let grown = |name: &str| number(&after, name) - number(&before, name);
        // The INFO before counts too.
        assert_eq!(grown("total_commands_processed"), 51);
        assert!(grown("total_net_input_bytes") > 50 * 30);
        drop(others);
    }
}

/// Publishes until the rate is told: it is that of about a second.
#[test]
fn info_tells_the_rate_of_commands() {
    let broker = Broker::start(2, &[]);
    let mut client = RawClient::connect(broker.port());
    let deadline = Instant::now() + VALUE_SECONDS_MAX;
    loop {
        for _ in 0..100 {
            client.call(&["PUBLISH", "a", "x"]);
        }
        let info = client.call(&["INFO", "stats"]).text();
        let kbps = field(&info, "instantaneous_input_kbps");
        let kbps: f64 = kbps.parse().expect("a number");
        if number(&info, "instantaneous_ops_per_sec") > 0 && kbps > 0.0 {
            return;
        }
        assert!(Instant::now() < deadline, "{info}");
    }
}

#[test]
fn help_lists_what_is_answered_and_nothing_else() {
    let reference = Reference::start();
    let groups = "ACL CLIENT COMMAND CONFIG FUNCTION LATENCY MEMORY MODULE PUBSUB SCRIPT SLOWLOG";
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut ours = RawClient::connect(broker.port());
        let mut theirs = RawClient::connect(reference.port());
        for group in groups.split(' ') {
            let [ours_lines, theirs_lines] = [&mut ours, &mut theirs].map(|client| {
                let Value::Array(lines) = client.call(&[group, "HELP"]) else {
                    panic!("{group} HELP is a list");
                };
                let lines = lines.into_iter().map(|line| match line {
                    Value::Simple(line) => line,
                    other => panic!("{group} HELP has {other:?}"),
                });
                lines.collect::<Vec<String>>()
            });
            assert_eq!(ours_lines[0], theirs_lines[0]);
            assert_eq!(ours_lines.len() % 2, 1, "{ours_lines:?}");
            let is_name = |line: &&String| !line.starts_with(' ');
            for line in ours_lines[1..].iter().filter(is_name) {
                let name = line.split(' ').next().unwrap_or_default();
                let is_known = theirs_lines.iter().any(|other| other.starts_with(name));
                // What came with 7.2, which the broker says it speaks.
                let is_newer = ["SETINFO", "NO-TOUCH"].contains(&name);
                assert!(is_known || is_newer, "{group} {name}");
                let reply = ours.call(&[group, name]).text();
                assert!(
                    !reply.contains("unknown subcommand"),
                    "{group} {name}: {reply}"
                );
                ours.call(&["RESET"]);
            }
        }
    }
}

/// What Laravel's broadcaster sends, among others.
#[test]
fn scripts_are_refused_with_what_to_use_instead() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut client = RawClient::connect(broker.port());
        let script = "for i = 2, #ARGV do redis.call('publish', ARGV[i], ARGV[1]) end";
        for name in ["EVAL", "evalsha", "FCALL"] {
            let reply = client.call(&[name, script, "0", "payload", "a", "b"]);
            let Value::Error(text) = reply else {
                panic!("{name}: {reply:?}");
            };
            assert!(
                text.starts_with(&format!("ERR unknown command '{name}'")),
                "{text}"
            );
            assert!(text.contains("PUBLISH"), "{text}");
        }
    }
}

/// A process that is ended with its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn redis_cli_shows_a_line_of_figures() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let child = Command::new("redis-cli")
            .args(["-p", &broker.port().to_string(), "-i", "0.1", "--stat"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-cli is installed");
        let mut child = Ended(child);
        let stdout = child.0.stdout.take().expect("stdout is piped");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let line = lines.find(|line| line.starts_with(char::is_numeric));
        let line = line.expect("a line of figures");
        // Keys, memory, clients, blocked, requests, connections.
        let columns: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(columns[0], "0", "{line}");
        assert!(columns[1].ends_with('M'), "{line}");
        assert_eq!(columns[2..4], ["1", "0"], "{line}");
        assert!(columns[4].parse::<u64>().is_ok(), "{line}");
    }
}

/// The exporter of Debian, as it is started without options.
#[test]
fn the_exporter_for_prometheus_finds_what_it_looks_for() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let port = common::free_port();
        let child = Command::new("prometheus-redis-exporter")
            .args([
                "-redis.addr",
                &format!("redis://127.0.0.1:{}", broker.port()),
            ])
            .args(["-web.listen-address", &format!("127.0.0.1:{port}")])
            .stderr(Stdio::piped())
            .spawn()
            .expect("prometheus-redis-exporter is installed");
        let mut child = Ended(child);
        let stderr = common::capture(child.0.stderr.take().expect("stderr is piped"));
        let text = scrape(port);
        let value = |name: &str| {
            let mut lines = text.lines();
            let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            let line = line.unwrap_or_else(|| panic!("no {name}: {text}"));
            line.parse::<f64>().expect("a number")
        };
        assert_eq!(value("redis_up"), 1.0);
        assert_eq!(value("redis_exporter_last_scrape_error{err=\"\"}"), 0.0);
        assert_eq!(value("redis_connected_clients"), 1.0);
        assert!(value("redis_memory_used_bytes") > 1_000_000.0);
        assert!(value("redis_config_maxclients") > 0.0);
        assert_eq!(value("redis_slowlog_length"), 0.0);
        assert_eq!(value("redis_cluster_enabled"), 0.0);
        let log = stderr.lock().expect("nobody panics with it").clone();
        assert!(!log.contains("level=error"), "{log}");
    }
}

/// The exporter's metrics, once it listens.
fn scrape(port: u16) -> String {
    let deadline = Instant::now() + VALUE_SECONDS_MAX;
    loop {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let request = b"GET /metrics HTTP/1.0\r\n\r\n";
            stream.write_all(request).expect("it reads");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("it answers");
            return text;
        }
        assert!(Instant::now() < deadline, "the exporter does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
}
