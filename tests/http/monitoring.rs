//! What the node says about itself, counted exactly: `/info`, and the pages that tools for nats-server poll.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value as Json;

use super::common::Broker;
use super::common::native::{Event, NativeClient};
use super::common::resp::RawClient;
use super::load::{counter, signal};
use super::nats::NatsClient;
use super::web::{Events, Http, WebSocket, ask};

fn page(http: &mut Http, path: &str) -> Json {
    let answer = http.ask(&format!("GET {path}"), &[], b"");
    assert_eq!(answer.status, 200, "{path}");
    answer.json()
}

fn number(json: &Json, name: &str) -> u64 {
    json[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} is no number in {json}"))
}

#[test]
fn info_has_the_counters_that_redis_clients_see() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut redis = RawClient::connect(broker.port());
        let mut clients: Vec<NativeClient> = (0..6)
            .map(|_| {
                let mut client = NativeClient::connect(broker.native_port());
                client.subscribe("a.*");
                client
            })
            .collect();
        for _ in 0..10 {
            clients[0].publish(&Event::new("a.b", "x"));
        }
        assert_eq!(clients[0].ping().len(), 10);
        for client in &mut clients[1..] {
            (0..10).for_each(|_| drop(client.message()));
        }
        let mut http = Http::dial(broker.http_port());
        let info = page(&mut http, "/info");
        let name = info["broker"].as_str().unwrap();
        assert!(name.starts_with("sapwood/"), "{name}");
        let run = info["run"].as_str().unwrap();
        assert!(run.len() == 40 && run.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(number(&info, "shards"), shards as u64);
        assert!(number(&info, "uptime_s") < 100);
        let each = info["counters"]["each"].as_array().expect("each shard's");
        assert_eq!(each.len(), shards);
        for name in [
            "events_published",
            "events_delivered",
            "subscriptions",
            "connections",
        ] {
            let sum = number(&info["counters"], name);
            assert_eq!(sum, counter(&mut redis, name), "{name}");
            let of_each: u64 = each.iter().map(|shard| number(shard, name)).sum();
            assert_eq!(of_each, sum, "{name}");
        }
        assert_eq!(number(&info["counters"], "events_published"), 10);
        assert_eq!(number(&info["counters"], "events_delivered"), 60);
        assert_eq!(number(&info["counters"], "subscriptions"), 6);
        // Six native clients, the one of Redis and this.
        assert_eq!(number(&info["counters"], "connections"), 8);
        let again = page(&mut http, "/info");
        assert_eq!(again["run"], info["run"]);
    }
}

#[test]
fn varz_counts_connections_subscriptions_messages_and_bytes() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut http = Http::dial(broker.http_port());
        let before = page(&mut http, "/varz");
        let mut nats: Vec<NatsClient> = (0..5)
            .map(|_| {
                let mut client = NatsClient::connect(broker.nats_port());
                client.send("SUB a.* 1\r\nSUB b 2\r\n");
                client.sync();
                client
            })
            .collect();
        for _ in 0..20 {
            nats[0].publish("a.b", "hello");
        }
        for client in &mut nats {
            assert_eq!(client.messages(20).len(), 20);
            client.sync();
        }
        let after = page(&mut http, "/varz");
        let grown = |name: &str| number(&after, name) - number(&before, name);
        assert_eq!(grown("connections"), 5);
        assert_eq!(grown("total_connections"), 5);
        assert_eq!(grown("subscriptions"), 10);
        assert_eq!(grown("in_msgs"), 20);
        assert_eq!(grown("out_msgs"), 100);
        assert!(grown("in_bytes") >= 20 * 5, "{after}");
        assert!(grown("out_bytes") >= 100 * 5, "{after}");
        assert_eq!(grown("slow_consumers"), 0);
        for name in ["server_id", "version", "now", "start", "uptime"] {
            assert!(after[name].is_string(), "{name} in {after}");
        }
        // Memory is looked at now and then, so that it may not be known yet.
        assert!(
            number(&after, "cores") > 0 && after["mem"].is_u64(),
            "{after}"
        );
        assert!(number(&after, "max_payload") == 64 * 1024 * 1024);
        assert_eq!(number(&after, "http_port"), u64::from(broker.http_port()));
        nats.truncate(2);
        super::load::wait_until("three are gone", || {
            let now = page(&mut http, "/varz");
            number(&now, "connections") == number(&before, "connections") + 2
                && number(&now, "subscriptions") == number(&before, "subscriptions") + 4
        });
        let now = page(&mut http, "/varz");
        let total = number(&now, "total_connections");
        assert_eq!(
            total,
            number(&after, "total_connections"),
            "a sum only grows"
        );
    }
}

#[test]
fn connz_lists_each_connection_once() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut http = Http::dial(broker.http_port());
        let before = number(&page(&mut http, "/connz"), "num_connections");
        let mut nats: Vec<NatsClient> = (0..7)
            .map(|place| {
                let json = format!(r#"{{"verbose":false,"name":"client {place}","lang":"test"}}"#);
                let mut client = NatsClient::connect_with(broker.nats_port(), &json);
                let subscriptions: String = (0..place)
                    .map(|sid| format!("SUB a.{sid} {sid}\r\n"))
                    .collect();
                client.send(&subscriptions);
                client.sync();
                client
            })
            .collect();
        let connz = page(&mut http, "/connz");
        assert_eq!(number(&connz, "num_connections"), before + 7);
        assert_eq!(number(&connz, "total"), before + 7);
        assert_eq!(number(&connz, "offset"), 0);
        assert!(number(&connz, "limit") >= before + 7);
        let list = connz["connections"].as_array().expect("a list");
        assert_eq!(list.len() as u64, before + 7);
        for (place, client) in nats.iter().enumerate() {
            let cid = client.info["client_id"].as_u64().unwrap();
            let mut mine = list.iter().filter(|entry| entry["cid"] == cid);
            let entry = mine.next().unwrap_or_else(|| panic!("no {cid} in {connz}"));
            assert!(mine.next().is_none(), "{cid} stands twice");
            assert_eq!(entry["ip"], "127.0.0.1");
            assert_eq!(number(entry, "subscriptions"), place as u64);
            assert_eq!(entry["name"], format!("client {place}"));
            assert!(number(entry, "port") > 0);
        }
        let mut cids: Vec<u64> = list.iter().map(|entry| number(entry, "cid")).collect();
        cids.sort_unstable();
        cids.dedup();
        assert_eq!(cids.len(), list.len(), "a connection stands once");
        nats.truncate(1);
        super::load::wait_until("six are gone", || {
            number(&page(&mut http, "/connz"), "num_connections") == before + 1
        });
    }
}

#[test]
fn subsz_counts_subscriptions() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut http = Http::dial(broker.http_port());
        let count = |http: &mut Http| number(&page(http, "/subsz"), "num_subscriptions");
        assert_eq!(count(&mut http), 0);
        let mut native = NativeClient::connect(broker.native_port());
        native.subscribe("a");
        native.subscribe("b.*");
        assert_eq!(count(&mut http), 2);
        let mut redis = RawClient::connect(broker.port());
        redis.call(&["SUBSCRIBE", "a"]);
        redis.call(&["PSUBSCRIBE", "a*"]);
        assert_eq!(count(&mut http), 4);
        let stream = Events::open(broker.http_port(), "/v1/topics/a?topic=c", &[]);
        assert_eq!(count(&mut http), 6);
        let mut socket = WebSocket::speaking(broker.http_port(), "sapwood.text");
        socket.send_text("SUBSCRIBE x y z");
        socket.send_text("PING");
        assert_eq!(socket.text(), "PONG");
        assert_eq!(count(&mut http), 9);
        drop((native, redis, stream, socket));
        super::load::wait_until("nobody is left", || count(&mut http) == 0);
    }
}

#[test]
fn health_says_when_clients_are_sent_away() {
    let broker = Broker::start(1, &["--lame-duck", "5"]);
    let mut others: Vec<Http> = (0..20).map(|_| Http::dial(broker.http_port())).collect();
    for http in &mut others {
        assert_eq!(http.ask("GET /health", &[], b"").status, 200);
    }
    signal(&broker, Signal::USR2);
    // The connections go one after the other; one of the last still sees what there is to see.
    let mut seen = None;
    super::load::wait_until("a connection that is left is told", || {
        let mut http = match others.pop() {
            Some(http) => http,
            None => return true,
        };
        http.send("GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        if let Ok(Some(answer)) = http.try_answer(super::web::Asked::Other)
            && answer.status == 503
        {
            seen = Some(answer);
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
        false
    });
    let answer = seen.expect("none of twenty connections was told");
    assert_eq!(answer.body, br#"{"status":"draining"}"#);
}

#[test]
fn the_page_is_html_and_loads_nothing_from_elsewhere() {
    let broker = Broker::start(1, &[]);
    let answer = ask(broker.http_port(), "GET /", &[], b"");
    assert_eq!(answer.status, 200);
    let kind = answer.header("Content-Type").unwrap_or_default();
    assert_eq!(kind.split(';').next(), Some("text/html"));
    let text = String::from_utf8(answer.body).expect("a page is UTF-8");
    assert!(text.to_lowercase().contains("<!doctype html>"));
    for part in [
        "src=\"http",
        "href=\"http",
        "src='http",
        "@import",
        "url(http",
    ] {
        assert!(!text.contains(part), "{part}");
    }
}
