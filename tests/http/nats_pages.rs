//! `/varz` and `/connz` beside those of nats-server, with the same clients and the same traffic.

use serde_json::Value as Json;

use super::common::native::NativeClient;
use super::common::resp::{RawClient, Value};
use super::common::{Broker, NatsReference, free_port};
use super::nats::NatsClient;
use super::web::{Events, WebSocket, ask};

/// Members of theirs that the broker has not, or that follow from the machine and the time.
const NOT_OURS: &[&str] = &["rtt"];
const NOT_EQUAL: &[&str] = &[
    "cid",
    "idle",
    "last_activity",
    "port",
    "start",
    "uptime",
    "server_id",
    "now",
];

/// The clients that both servers have, each with what it says before anything is published.
const CLIENTS: &[(&str, &str)] = &[
    ("publisher", ""),
    ("alone", "SUB alone 1\r\n"),
    ("one of three", "SUB shared 1\r\n"),
    ("two of three", "SUB shared longer-sid\r\n"),
    ("three of three", "SUB shared 1\r\nSUB other 2\r\n"),
    ("ends in a run", "SUB shared 7\r\nUNSUB 7 33\r\n"),
    ("ends alone", "SUB ending 1\r\nUNSUB 1 12\r\n"),
    (
        "many filters",
        "SUB a.* 1\r\nSUB a.> 2\r\nSUB a.b 3\r\nSUB a.b 4\r\n",
    ),
    ("worker", "SUB work crew 1\r\n"),
    ("asked", "SUB question 1\r\n"),
];

/// A server with all clients connected, in their order.
struct Side {
    clients: Vec<NatsClient>,
    http: u16,
}

impl Side {
    fn new(nats: u16, http: u16) -> Side {
        let clients = CLIENTS.iter().map(|(name, says)| {
            let takes_headers = *name != "three of three";
            let json = format!(
                r#"{{"verbose":false,"name":"{name}","lang":"test","version":"1.2.3","headers":{takes_headers},"no_responders":{takes_headers}}}"#,
            );
            let mut client = NatsClient::connect_with(nats, &json);
            client.send(says);
            client.sync();
            client
        });
        Side {
            clients: clients.collect(),
            http,
        }
    }

    /// Publishes; every client reads what it is to get.
    fn run(&mut self) {
        let publisher = &mut self.clients[0];
        let many = |subject: &str, payload: &str, count: usize| {
            format!("PUB {subject} {}\r\n{payload}\r\n", payload.len()).repeat(count)
        };
        publisher.send(&many("shared", "x", 100));
        publisher.send(&many("alone", "twelve bytes", 100));
        publisher.send(&many("ending", "abc", 20));
        publisher.send(&many("a.b", "", 3));
        publisher.send(&many("a.b", "hello", 10));
        publisher.send(&many("nobody", "123", 5));
        publisher.send("HPUB shared 23 26\r\nNATS/1.0\r\nName: Abc\r\n\r\nxyz\r\n");
        publisher.send(&many("work", &"w".repeat(100), 7));
        publisher.send("PUB question publisher.inbox 4\r\nwhy?\r\n");
        let long = "l".repeat(40_000);
        publisher.send(&many("shared", &long, 2));
        publisher.send(&many("alone", &long, 1));
        publisher.sync();
        let counts = [0, 101, 103, 103, 103, 33, 12, 4 * 13, 7, 1];
        for (client, count) in self.clients.iter_mut().zip(counts) {
            client.messages(count);
            client.sync();
        }
    }

    fn page(&self, path: &str) -> (u16, Json) {
        let answer = ask(self.http, &format!("GET {path}"), &[], b"");
        let json = match answer.status {
            200 => serde_json::from_slice(&answer.body).expect("a page is JSON"),
            _ => Json::Null,
        };
        (answer.status, json)
    }
}

/// Both servers, after the same traffic.
fn sides(shards: usize) -> (NatsReference, Broker, [Side; 2]) {
    let http = free_port();
    let reference = NatsReference::start(&["-m", &http.to_string()]);
    let broker = Broker::start(shards, &[]);
    let mut sides = [
        Side::new(reference.nats_port(), http),
        Side::new(broker.nats_port(), broker.http_port()),
    ];
    sides.iter_mut().for_each(Side::run);
    (reference, broker, sides)
}

#[test]
fn varz_counts_what_nats_server_counts() {
    for shards in [1, 2] {
        let (_reference, _broker, [theirs, ours]) = sides(shards);
        let (_, theirs) = theirs.page("/varz");
        let (_, ours) = ours.page("/varz");
        for name in ["in_msgs", "out_msgs", "in_bytes"] {
            assert_eq!(ours[name], theirs[name], "{name}");
        }
        // There, headers count here even if the receiver does not get them; ours is the sum of `/connz`.
        let bytes = [&ours, &theirs].map(|page| page["out_bytes"].as_u64().expect("a number"));
        assert_eq!(bytes[0] + 23, bytes[1], "out_bytes");
        for name in [
            "slow_consumers",
            "proto",
            "ping_interval",
            "ping_max",
            "max_control_line",
            "routes",
            "remotes",
            "leafnodes",
            "https_port",
            "http_base_path",
        ] {
            assert_eq!(ours[name], theirs[name], "{name}");
        }
        for name in [
            "auth_timeout",
            "cores",
            "gomaxprocs",
            "mem",
            "cpu",
            "max_payload",
        ] {
            assert!(ours[name].is_number() && theirs[name].is_number(), "{name}");
        }
        for name in [
            "server_id",
            "server_name",
            "version",
            "host",
            "start",
            "config_load_time",
        ] {
            assert!(ours[name].is_string() && theirs[name].is_string(), "{name}");
        }
    }
}

/// A page with what is not equal on both servers replaced; the ids become the place among the clients.
fn comparable(mut page: Json, cids: &[Json], is_reference: bool) -> Json {
    let connections = page["connections"].as_array_mut().expect("connections");
    let place = |cid: &Json| cids.iter().position(|other| other == cid).into();
    for connection in connections {
        let members = connection.as_object_mut().expect("a connection");
        members["cid"] = place(&members["cid"]);
        for name in NOT_OURS {
            members.remove(*name);
        }
        if !is_reference {
            // What the broker says beyond nats-server.
            members.remove("shard").expect("a shard");
            members.remove("last_command").expect("a command");
        }
        let list = members.get_mut("subscriptions_list_detail");
        for details in list.and_then(Json::as_array_mut).into_iter().flatten() {
            details["cid"] = place(&details["cid"]);
        }
        for names in ["subscriptions_list", "subscriptions_list_detail"] {
            let list = members.get_mut(names).and_then(Json::as_array_mut);
            if let Some(list) = list {
                list.sort_by_key(Json::to_string);
            }
        }
    }
    replace(&mut page);
    page
}

fn in_order_of_cids(page: &mut Json) {
    let connections = page["connections"].as_array_mut().expect("connections");
    connections.sort_by_key(|connection| connection["cid"].as_u64());
}

fn replace(page: &mut Json) {
    let connections = page["connections"].as_array_mut().expect("connections");
    for connection in connections {
        let members = connection.as_object_mut().expect("a connection");
        for name in NOT_EQUAL.iter().filter(|name| **name != "cid") {
            if let Some(value) = members.get_mut(*name) {
                *value = kind_of(value);
            }
        }
    }
    for name in NOT_EQUAL {
        if let Some(value) = page.get_mut(*name) {
            *value = kind_of(value);
        }
    }
}

fn kind_of(value: &Json) -> Json {
    if value.is_string() { "text" } else { "number" }.into()
}

/// Queries; of those with `cid=`, the number is a place among the clients.
const QUERIES: &[&str] = &[
    "",
    "?subs=1",
    "?subs=true",
    "?subs=0",
    "?subs=detail",
    "?subs=",
    "?subs=x",
    "?offset=2",
    "?offset=2&limit=3",
    "?limit=1",
    "?limit=0",
    "?limit=-5&offset=-1",
    "?offset=1000",
    "?limit=x",
    "?offset=1.5",
    "?cid=x",
    "?sort=",
    "?sort=cid",
    "?sort=start",
    "?sort=subs&limit=1",
    "?sort=pending",
    "?sort=msgs_to&limit=2&offset=3",
    "?sort=msgs_from&limit=1",
    "?sort=bytes_to&limit=2&offset=3",
    "?sort=bytes_from&limit=1",
    "?sort=last",
    "?sort=idle",
    "?sort=uptime",
    "?sort=uptime&limit=2",
    "?sort=stop",
    "?sort=reason",
    "?sort=nosuch",
    "?state=open",
    "?state=closed",
    "?state=any",
    "?state=x",
    "?auth=1&nosuch=1",
];

#[test]
fn connz_is_as_nats_server_has_it() {
    for shards in [1, 2] {
        let (_reference, _broker, [theirs, ours]) = sides(shards);
        let cids = [&theirs, &ours].map(|side| {
            let (_, page) = side.page("/connz");
            let connections = page["connections"].as_array().expect("connections");
            let cids = connections
                .iter()
                .map(|connection| connection["cid"].clone());
            cids.collect::<Vec<Json>>()
        });
        assert_eq!([cids[0].len(), cids[1].len()], [CLIENTS.len(); 2]);
        for query in QUERIES {
            let path = format!("/connz{query}");
            let (status, page) = theirs.page(&path);
            let (our_status, our_page) = ours.page(&path);
            assert_eq!(our_status, status, "{path}");
            if status == 200 {
                let mut pages = [
                    comparable(page, &cids[0], true),
                    comparable(our_page, &cids[1], false),
                ];
                // Nothing waits anywhere, and what is an activity differs.
                if ["?sort=pending", "?sort=last", "?sort=idle"].contains(query) {
                    pages.iter_mut().for_each(in_order_of_cids);
                }
                assert_eq!(pages[1], pages[0], "{path}");
            }
        }
        for place in 0..CLIENTS.len() {
            let path = |cids: &[Json]| format!("/connz?subs=detail&cid={}", cids[place]);
            let (_, page) = theirs.page(&path(&cids[0]));
            let (_, our_page) = ours.page(&path(&cids[1]));
            let page = comparable(page, &cids[0], true);
            let our_page = comparable(our_page, &cids[1], false);
            assert_eq!(our_page["connections"], page["connections"], "{place}");
            assert_eq!(our_page["num_connections"], 1);
            assert_eq!(our_page["limit"], page["limit"]);
        }
        // The last client was the last to be read from, the publisher the first; by the clock of one shard.
        let sorts = [("last", CLIENTS.len() - 1), ("idle", 0)];
        for (sort, place) in sorts.into_iter().filter(|_| shards == 1) {
            let (_, page) = ours.page(&format!("/connz?sort={sort}&limit=1"));
            assert_eq!(page["connections"][0]["cid"], cids[1][place], "{sort}");
        }
        let (_, nobody) = ours.page("/connz?cid=123456");
        assert_eq!(nobody["num_connections"], 0);
    }
}

#[test]
fn connz_lists_clients_of_other_protocols_when_asked() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut redis = RawClient::connect(broker.port());
        let Value::Integer(redis_id) = redis.call(&["CLIENT", "ID"]) else {
            panic!("an id is a number");
        };
        redis.call(&["SUBSCRIBE", "a"]);
        let mut native = NativeClient::connect(broker.native_port());
        native.subscribe("a");
        let _stream = Events::open(broker.http_port(), "/v1/topics/a", &[]);
        let _text = WebSocket::speaking(broker.http_port(), "sapwood.text");
        let _json = WebSocket::speaking(broker.http_port(), "sapwood.json");
        let mut nats = NatsClient::connect(broker.nats_port());
        nats.send("SUB a q 1\r\n");
        nats.sync();
        let types = |query: &str| {
            let answer = ask(broker.http_port(), &format!("GET /connz{query}"), &[], b"");
            let page = answer.json();
            let connections = page["connections"].as_array().expect("connections").iter();
            let types = connections.map(|connection| {
                assert_eq!(connection["kind"], "Client");
                connection["type"].as_str().expect("a type").to_string()
            });
            let mut types: Vec<String> = types.collect();
            assert_eq!(page["total"], types.len());
            types.sort();
            types
        };
        assert_eq!(types(""), ["nats"]);
        assert_eq!(types("?all=0"), ["nats"]);
        // Who asks is one of them.
        let all = ["http", "http", "json", "native", "nats", "redis", "text"];
        assert_eq!(types("?all=1"), all);
        assert_eq!(types("?all=true&subs=detail"), all);
        // Asked for by its number, it is shown.
        let id = redis_id.to_string();
        assert_eq!(types(&format!("?cid={id}")), ["redis"]);
    }
}

/// The payload alone counts, whatever protocol it came by and goes to.
#[test]
fn bytes_of_all_protocols_are_those_of_payloads() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let varz = |name: &str| {
            let page = ask(broker.http_port(), "GET /varz", &[], b"").json();
            page[name].as_u64().expect("a number")
        };
        let mut nats = NatsClient::connect(broker.nats_port());
        nats.send("SUB a 1\r\n");
        nats.sync();
        let mut listener = RawClient::connect(broker.port());
        listener.call(&["PSUBSCRIBE", "a*"]);
        let mut native = NativeClient::connect(broker.native_port());
        native.subscribe("*");
        let mut redis = RawClient::connect(broker.port());
        redis.send(&b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$1\r\nx\r\n".repeat(100));
        for _ in 0..100 {
            redis.value();
        }
        assert_eq!((varz("in_msgs"), varz("in_bytes")), (100, 100));
        // They are delivered when everyone has them.
        nats.messages(100);
        (0..100).for_each(|_| drop((listener.value(), native.message())));
        assert_eq!((varz("out_msgs"), varz("out_bytes")), (300, 300));
        let page = ask(broker.http_port(), "GET /connz?all=1", &[], b"").json();
        let connections = page["connections"].as_array().expect("connections");
        let counted = |name: &str| -> Vec<u64> {
            let each = connections.iter();
            let each = each.map(|connection| connection[name].as_u64().expect("a number"));
            let mut counted: Vec<u64> = each.filter(|&count| count > 0).collect();
            counted.sort_unstable();
            counted
        };
        assert_eq!(counted("in_bytes"), [100]);
        assert_eq!(counted("out_bytes"), [100, 100, 100]);
    }
}
