//! Every cap that a client can reach, set low in the configuration file: it answers, closes and counts as it is named,
//! and nobody else notices.

mod common;
#[path = "common/load.rs"]
mod load;

use std::time::Duration;

use common::Broker;
use common::resp::{RawClient, Value, request};
use load::{File, alone, broker_with_limits, counter, payload, wait_until};

/// A subscriber and a publisher who stay within the caps, and look whether they are still served.
struct Bystanders {
    subscriber: RawClient,
    publisher: RawClient,
    events: u64,
}

impl Bystanders {
    fn new(broker: &Broker) -> Bystanders {
        let mut subscriber = RawClient::connect(broker.port());
        subscriber.call(&["SUBSCRIBE", "quiet"]);
        Bystanders {
            subscriber,
            publisher: RawClient::connect(broker.port()),
            events: 0,
        }
    }

    fn notice_nothing(&mut self) {
        self.events += 1;
        let text = self.events.to_string();
        assert_eq!(
            self.publisher.call(&["PUBLISH", "quiet", &text]),
            Value::Integer(1)
        );
        let words = [
            Value::bulk("message"),
            Value::bulk("quiet"),
            Value::bulk(&text),
        ];
        assert_eq!(self.subscriber.value(), Value::Array(words.to_vec()));
    }

    fn counter(&mut self, name: &str) -> u64 {
        counter(&mut self.publisher, name)
    }
}

/// Places of a shard beyond its cap, for peers on loopback: `limits::CONNECTIONS_KEPT`.
const KEPT: usize = 4;

#[test]
fn connections_past_the_cap_are_told_why_and_closed() {
    let _alone = alone();
    for shards in [1, 2] {
        let (broker, _config) = broker_with_limits(shards, "connections_max = 4");
        let mut bystanders = Bystanders::new(&broker);
        // The kernel chooses the shard: after so many attempts each is full. All come from loopback, so each gets in, and
        // those beyond the cap that came first make room for it.
        let mut clients = Vec::new();
        for _ in 0..60 {
            let mut client = RawClient::connect(broker.port());
            assert_eq!(client.call(&["PING"]), Value::Simple("PONG".to_string()));
            clients.push(client);
        }
        let refused = bystanders.counter("connections_refused");
        assert_eq!(refused as usize, 60 - ((4 + KEPT) * shards - 2));
        assert_eq!(
            bystanders.counter("connections_kept") as usize,
            60 - (4 * shards - 2)
        );
        let mut served = Vec::new();
        for mut client in clients {
            client.send(&request(&[b"PING"]));
            match client.value() {
                Value::Simple(text) if text == "PONG" => served.push(client),
                Value::Error(text) => {
                    assert_eq!(text, "ERR max number of clients reached");
                    client.expect_close();
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(served.len(), (4 + KEPT) * shards - 2);
        bystanders.notice_nothing();
        wait_until("nobody else is there", || {
            bystanders.counter("connections") as usize == (4 + KEPT) * shards
        });
    }
}

#[test]
fn unfinished_requests_past_the_cap_close_their_connection() {
    let _alone = alone();
    for shards in [1, 2] {
        let (broker, _config) = broker_with_limits(shards, "inputs_bytes_max = \"1MiB\"");
        let mut bystanders = Bystanders::new(&broker);
        // One that goes past it alone: it writes less than it promised, so only the cap can close it.
        let mut greedy = RawClient::connect(broker.port());
        greedy.send(b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$67108864\r\n");
        greedy.send(&vec![b'x'; 3 * 1024 * 1024]);
        greedy.expect_close();
        assert_eq!(bystanders.counter("closed_inputs_full"), 1);
        // Many that go past it together.
        let mut many: Vec<RawClient> = (0..20)
            .map(|_| {
                let mut client = RawClient::connect(broker.port());
                client.send(b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$600000\r\n");
                client.send(&vec![b'x'; 300_000]);
                client
            })
            .collect();
        wait_until("all that does not fit is closed", || {
            bystanders.counter("closed_inputs_full") >= 1 + 20 - 3 * shards as u64
        });
        assert!(bystanders.counter("input_bytes") <= shards as u64 * 1024 * 1024);
        bystanders.notice_nothing();
        // Who was not closed can finish what it began.
        let mut finished = 0;
        for client in &mut many {
            client.send(&vec![b'x'; 300_000]);
            client.send(b"\r\n");
            finished +=
                u64::from(client.try_value(Duration::from_secs(10)) == Ok(Value::Integer(0)));
        }
        let closed = bystanders.counter("closed_inputs_full") - 1;
        assert_eq!(
            finished + closed,
            20,
            "{finished} finished, {closed} closed"
        );
        assert!(finished >= 1);
        wait_until("nothing is kept", || bystanders.counter("input_bytes") == 0);
        bystanders.notice_nothing();
    }
}

#[test]
fn subscriptions_past_the_cap_are_refused() {
    let _alone = alone();
    for shards in [1, 2] {
        let (broker, _config) = broker_with_limits(shards, "subscriptions_max = 3");
        let mut bystanders = Bystanders::new(&broker);
        let mut client = RawClient::connect(broker.port());
        client.send(&request(&[b"SUBSCRIBE", b"a", b"b", b"c", b"d", b"a"]));
        let confirmed = |name: &str, count| {
            let words = [
                Value::bulk("subscribe"),
                Value::bulk(name),
                Value::Integer(count),
            ];
            Value::Array(words.to_vec())
        };
        assert_eq!(client.value(), confirmed("a", 1));
        assert_eq!(client.value(), confirmed("b", 2));
        assert_eq!(client.value(), confirmed("c", 3));
        let refusal = "ERR this connection has 3 subscriptions, the most it may; unsubscribe first";
        assert_eq!(client.value(), Value::Error(refusal.to_string()));
        assert_eq!(client.value(), confirmed("a", 3));
        assert_eq!(bystanders.counter("errors"), 1);
        client.call(&["UNSUBSCRIBE", "b"]);
        assert_eq!(client.call(&["SUBSCRIBE", "d"]), confirmed("d", 3));
        bystanders.notice_nothing();
    }
}

#[test]
fn globs_past_the_cap_are_refused_on_every_shard() {
    let _alone = alone();
    for shards in [1, 2] {
        let (broker, _config) = broker_with_limits(shards, "globs_max = 2");
        let mut bystanders = Bystanders::new(&broker);
        let mut clients: Vec<RawClient> = (0..2)
            .map(|shard| load::connect_to_shard(broker.port(), shard % shards))
            .collect();
        assert!(matches!(
            clients[0].call(&["PSUBSCRIBE", "a*"]),
            Value::Array(_)
        ));
        assert!(matches!(
            clients[1].call(&["PSUBSCRIBE", "b*"]),
            Value::Array(_)
        ));
        let refusal = "ERR this node knows 2 different patterns, the most it may";
        for client in &mut clients {
            assert_eq!(
                client.call(&["PSUBSCRIBE", "c*"]),
                Value::Error(refusal.to_string())
            );
        }
        // What the node knows already costs it nothing more.
        assert!(matches!(
            clients[0].call(&["PSUBSCRIBE", "b*"]),
            Value::Array(_)
        ));
        assert_eq!(bystanders.counter("errors"), 2);
        // A pattern that nobody wants any more makes room.
        clients[0].call(&["PUNSUBSCRIBE", "a*"]);
        assert!(matches!(
            clients[1].call(&["PSUBSCRIBE", "c*"]),
            Value::Array(_)
        ));
        bystanders.notice_nothing();
    }
}

#[test]
fn a_transaction_past_the_cap_is_refused_and_carries_nothing_out() {
    let _alone = alone();
    for shards in [1, 2] {
        let (broker, _config) = broker_with_limits(shards, "transaction_bytes_max = \"4KiB\"");
        let mut bystanders = Bystanders::new(&broker);
        let mut client = RawClient::connect(broker.port());
        client.call(&["MULTI"]);
        let queued = Value::Simple("QUEUED".to_string());
        assert_eq!(
            client.call(&["PUBLISH", "quiet", "not to be heard"]),
            queued
        );
        client.send(&request(&[b"PUBLISH", b"quiet", &payload(0, 0, 5_000)]));
        let refusal = "ERR the transaction is larger than 4096 bytes, DISCARD it";
        assert_eq!(client.value(), Value::Error(refusal.to_string()));
        let aborted = client.call(&["EXEC"]).text();
        assert!(aborted.starts_with("EXECABORT"), "{aborted}");
        assert_eq!(bystanders.counter("input_bytes"), 0);
        bystanders.notice_nothing();
        client.call(&["MULTI"]);
        assert_eq!(client.call(&["PING"]), queued);
        assert!(matches!(client.call(&["EXEC"]), Value::Array(_)));
    }
}

#[test]
fn guests_who_do_not_authenticate_in_time_are_closed() {
    let _alone = alone();
    for shards in [1, 2] {
        let config = File::new("[limits]\nguest_ms_max = 500\n");
        let password = File::new("secret\n");
        let arguments = [
            "--config",
            config.path(),
            "--password-file",
            password.path(),
        ];
        let broker = Broker::start(shards, &arguments);
        let member = || {
            let mut client = RawClient::connect(broker.port());
            assert_eq!(client.call(&["AUTH", "secret"]), Value::ok());
            client
        };
        let mut bystanders = Bystanders {
            subscriber: member(),
            publisher: member(),
            events: 0,
        };
        bystanders.subscriber.call(&["SUBSCRIBE", "quiet"]);
        let mut silent = RawClient::connect(broker.port());
        let mut talking = RawClient::connect(broker.port());
        let refusal = "NOAUTH Authentication required.".to_string();
        assert_eq!(talking.call(&["PING"]), Value::Error(refusal));
        silent.expect_close();
        talking.expect_close();
        assert_eq!(bystanders.counter("closed_guest_timeout"), 2);
        bystanders.notice_nothing();
    }
}

#[test]
fn output_of_all_connections_past_the_cap_closes_those_who_are_behind() {
    let _alone = alone();
    for shards in [1, 2] {
        let (broker, _config) = broker_with_limits(shards, "outboxes_bytes_max = \"8MiB\"");
        let mut bystanders = Bystanders::new(&broker);
        let mut stalled: Vec<RawClient> = (0..6)
            .map(|number| {
                let mut client = load::connect_to_shard(broker.port(), number % shards);
                client.call(&["SUBSCRIBE", "much"]);
                client
            })
            .collect();
        // Each stays below the cap of one connection; only together they are too much.
        for number in 0..20_000 {
            let body = payload(0, number, 1_000);
            bystanders
                .publisher
                .send(&request(&[b"PUBLISH", b"much", &body]));
            assert!(matches!(bystanders.publisher.value(), Value::Integer(_)));
        }
        let closed = bystanders.counter("closed_outboxes_full");
        assert!(closed >= 1, "nobody was closed");
        assert_eq!(bystanders.counter("closed_outbox_full"), 0);
        assert!(bystanders.counter("outbox_bytes") <= shards as u64 * 8 * 1024 * 1024);
        bystanders.notice_nothing();
        // Who was not closed gets all of it.
        let mut whole = 0;
        for client in &mut stalled {
            let mut next = 0;
            while let Ok(Value::Array(words)) = client.try_value(Duration::from_secs(10)) {
                assert_eq!(words[2], Value::bulk(payload(0, next, 1_000)));
                next += 1;
                if next == 20_000 {
                    whole += 1;
                    break;
                }
            }
        }
        assert_eq!(whole + closed, 6);
    }
}
