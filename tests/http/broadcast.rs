//! What is published to `$all`: heard once by every client of the native, JSON and text protocols, and by those of the others
//! that subscribed to it.

use serde_json::json;

use super::common::Broker;
use super::common::native::{Event, NativeClient};
use super::common::resp::{RawClient, Value};
use super::frames::Said;
use super::json::JsonClient;
use super::nats::{Msg, NatsClient, Said as NatsSaid};
use super::web::{Events, WebSocket, ask};

/// Clients of each kind: enough that some are on each of two shards.
const EACH: usize = 4;

/// One of each kind, some of them subscribed.
struct Crowd {
    native: Vec<NativeClient>,
    json: Vec<JsonClient>,
    text: Vec<WebSocket>,
    redis: RawClient,
    nats: NatsClient,
    events: Events,
    /// They subscribed to something else, or to nothing.
    redis_elsewhere: RawClient,
    nats_elsewhere: NatsClient,
    events_elsewhere: Events,
}

impl Crowd {
    fn new(broker: &Broker) -> Crowd {
        let port = broker.http_port();
        let mut crowd = Crowd {
            native: (0..EACH)
                .map(|_| NativeClient::connect(broker.native_port()))
                .collect(),
            json: (0..EACH).flat_map(|_| JsonClient::both(broker)).collect(),
            text: (0..EACH)
                .map(|_| WebSocket::open(port, "/ws", &[]))
                .collect(),
            redis: RawClient::connect(broker.port()),
            nats: NatsClient::connect(broker.nats_port()),
            events: Events::open(port, "/v1/topics/$all", &[]),
            redis_elsewhere: RawClient::connect(broker.port()),
            nats_elsewhere: NatsClient::connect(broker.nats_port()),
            events_elsewhere: Events::open(port, "/v1/topics/%3E", &[]),
        };
        // One of each asked for it too, or for everything, and hears it once all the same.
        crowd.native[0].subscribe("$all");
        crowd.native[1].subscribe(">");
        let all = r#"{"op":"subscribe","filter":"$all","id":1}"#;
        crowd.json[0].call(all);
        crowd.json[1].call(all);
        crowd.text[0].send_text("SUBSCRIBE $all");
        crowd.text[0].send_text("PSUBSCRIBE $a*");
        crowd.text[1].send_text("PSUBSCRIBE *");
        crowd.json.iter_mut().for_each(|client| drop(client.sync()));
        crowd.text.iter_mut().for_each(no_more);
        crowd.redis.call(&["SUBSCRIBE", "$all"]);
        crowd.nats.send("SUB $all 5\r\n");
        crowd.nats.sync();
        crowd.redis_elsewhere.call(&["SUBSCRIBE", "all"]);
        crowd.nats_elsewhere.send("SUB > 6\r\n");
        crowd.nats_elsewhere.sync();
        crowd
    }

    /// Everybody hears it, once.
    fn hear(&mut self, payload: &str, what: &str) {
        for client in &mut self.native {
            assert_eq!(client.message(), Event::new("$all", payload), "{what}");
        }
        let message = json!({"op": "message", "topic": "$all", "data": payload});
        for client in &mut self.json {
            assert_eq!(client.frame(), message, "{what}");
        }
        for socket in &mut self.text {
            assert_eq!(socket.text(), payload, "{what}");
        }
        let words = ["message", "$all", payload].map(Value::bulk);
        assert_eq!(self.redis.value(), Value::Array(words.to_vec()), "{what}");
        assert_eq!(self.nats.message(), Msg::plain("$all", "5", payload));
        assert_eq!(
            self.events.data(),
            json!({"topic": "$all", "data": payload}),
            "{what}"
        );
        self.hear_nothing(what);
    }

    /// Nobody hears anything more.
    fn hear_nothing(&mut self, what: &str) {
        for client in &mut self.native {
            assert_eq!(client.ping(), [], "{what}");
        }
        for client in &mut self.json {
            assert_eq!(client.sync(), Vec::<serde_json::Value>::new(), "{what}");
        }
        self.text.iter_mut().for_each(no_more);
        for redis in [&mut self.redis, &mut self.redis_elsewhere] {
            let nothing = [Value::bulk("pong"), Value::bulk("")];
            let came = redis.call(&["PING"]);
            assert_eq!(came, Value::Array(nothing.to_vec()), "{what}");
        }
        self.nats.sync();
        self.nats_elsewhere.sync();
        self.events_elsewhere.wire().hears_nothing();
    }
}

fn no_more(socket: &mut WebSocket) {
    socket.send_text("PING");
    assert_eq!(socket.said(), Said::text("PONG"));
}

#[test]
fn everybody_hears_a_broadcast_once_whoever_sends_it() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut crowd = Crowd::new(&broker);
        let mut redis = RawClient::connect(broker.port());
        let mut nats = NatsClient::connect(broker.nats_port());
        for round in 0..3 {
            let what = format!("{shards} shards, round {round}");
            assert!(matches!(
                redis.call(&["PUBLISH", "$all", "redis"]),
                Value::Integer(_)
            ));
            crowd.hear("redis", &what);
            nats.publish("$all", "nats");
            nats.sync();
            crowd.hear("nats", &what);
            let answer = ask(broker.http_port(), "POST /v1/topics/$all", &[], b"http");
            assert_eq!(answer.status, 200, "{answer:?}");
            crowd.hear("http", &what);
            // Who sends it hears it as well.
            crowd.native[round].publish(&Event::new("$all", "native"));
            crowd.hear("native", &what);
            crowd.json[round].send(r#"{"op":"publish","topic":"$all","data":"json"}"#);
            crowd.hear("json", &what);
            crowd.text[round].send_text("PUBLISH $all text");
            crowd.hear("text", &what);
        }
        // And who came in meanwhile.
        crowd
            .native
            .push(NativeClient::connect(broker.native_port()));
        redis.call(&["PUBLISH", "$all", "late"]);
        crowd.hear("late", "a late client");
    }
}

#[test]
fn names_that_only_begin_like_it_are_topics_like_others() {
    let broker = Broker::start(1, &[]);
    let mut crowd = Crowd::new(&broker);
    for topic in ["$al", "$all.x", "$ALL", "$all."] {
        let line = format!("POST /v1/topics/{topic}");
        let answer = ask(broker.http_port(), &line, &[], b"x");
        // One client has a pattern for some of them.
        let is_wanted = topic.starts_with("$a");
        assert_eq!(
            answer.json(),
            json!({"count": u8::from(is_wanted)}),
            "{topic}"
        );
        if is_wanted {
            assert_eq!(crowd.text[0].said(), Said::text("x"));
        }
    }
    crowd.hear_nothing("a name that only begins like it");
}

#[test]
fn who_is_not_let_in_hears_no_broadcast() {
    let broker = Broker::start_guarded(1, "secret", &[]);
    let mut guests = [
        WebSocket::open(broker.http_port(), "/ws", &[]),
        WebSocket::speaking(broker.http_port(), "sapwood.json"),
        WebSocket::speaking(broker.http_port(), "sapwood.native"),
    ];
    let mut native = NativeClient::dial(broker.native_port());
    let answer = ask(
        broker.http_port(),
        "POST /v1/topics/$all",
        &["Authorization: Bearer secret"],
        b"x",
    );
    assert_eq!(answer.status, 200);
    for guest in &mut guests {
        guest.send("ping:a");
        assert_eq!(guest.said(), Said::Pong(b"a".to_vec()));
    }
    let mut hello = Vec::new();
    let options = sapwood_wire::native::Hello {
        password: Some(b"secret"),
        ..Default::default()
    };
    sapwood_wire::native::write_hello(&mut hello, &options);
    native.send(&hello);
    assert!(matches!(
        native.frame(),
        super::common::native::Frame::Welcome { .. }
    ));
    assert_eq!(native.ping(), []);
}

#[test]
fn nobody_may_where_that_was_said() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &["--broadcast", "nobody"]);
        let mut crowd = Crowd::new(&broker);
        let mut redis = RawClient::connect(broker.port());
        let refused = redis.call(&["PUBLISH", "$all", "x"]);
        assert!(matches!(refused, Value::Error(_)), "{refused:?}");
        let mut nats = NatsClient::connect(broker.nats_port());
        nats.publish("$all", "x");
        let NatsSaid::Line(line) = nats.said() else {
            panic!("no refusal")
        };
        assert!(line.starts_with("-ERR 'Permissions Violation"), "{line}");
        nats.hears_nothing();
        let answer = ask(broker.http_port(), "POST /v1/topics/$all", &[], b"x");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "topic_reserved")
        );
        crowd.native[0].publish(&Event::new("$all", "x"));
        assert_eq!(crowd.native[0].error(), (201, 0));
        for client in &mut crowd.json {
            client.send(r#"{"op":"publish","topic":"$all","id":4}"#);
            let error = client.frame();
            assert_eq!(
                (&error["op"], &error["id"], &error["code"]),
                (&json!("error"), &json!(4), &json!("topic_reserved"))
            );
        }
        crowd.text[0].send_text("PUBLISH $all x");
        assert!(crowd.text[0].text().starts_with("ERR "));
        crowd.hear_nothing("nobody may");
    }
}
