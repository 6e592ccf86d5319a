//! Requests in order: paths, methods, bodies, limits, and connections that carry more than one of them.

use super::common::Broker;
use super::common::native::{Event, NativeClient};
use super::refusals::bytes;
use super::web::{Answer, Asked, Cut, Http, ask, check_all, cuts, request};

const MIB: usize = 1024 * 1024;
const PAYLOAD_BYTES_MAX: usize = 64 * MIB;
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

fn count(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    assert_eq!(json.as_object().map(|object| object.len()), Some(1));
    json["count"].as_u64().expect("a count is a number")
}

/// A path, and the topic that it names.
const TOPICS: &[(&str, &[u8])] = &[
    ("/v1/topics/news", b"news"),
    ("/v1/topics/news.today", b"news.today"),
    ("/v1/topics/a/b/c", b"a/b/c"),
    ("/v1/topics/a%2Fb", b"a/b"),
    ("/v1/topics/a%2fb", b"a/b"),
    ("/v1/topics/a//b", b"a//b"),
    ("/v1/topics/a/", b"a/"),
    ("/v1/topics//a", b"/a"),
    ("/v1/topics/a/../b", b"a/../b"),
    ("/v1/topics/../info", b"../info"),
    ("/v1/topics/./a", b"./a"),
    ("/v1/topics/%6e%65%77%73", b"news"),
    ("/v1/topics/a%20b", b"a b"),
    ("/v1/topics/a+b", b"a+b"),
    ("/v1/topics/a%2Bb", b"a+b"),
    ("/v1/topics/100%25", b"100%"),
    ("/v1/topics/%2541", b"%41"),
    ("/v1/topics/caf%C3%A9", "café".as_bytes()),
    ("/v1/topics/%F0%9F%91%8D", "👍".as_bytes()),
    ("/v1/topics/%00", b"\0"),
    ("/v1/topics/%0d%0a", b"\r\n"),
    ("/v1/topics/%ff%fe", b"\xff\xfe"),
    ("/v1/topics/a%3Fb", b"a?b"),
    ("/v1/topics/a%23b", b"a#b"),
    ("/v1/topics/a?_=1", b"a"),
    ("/v1/topics/a?", b"a"),
    ("/v1/topics/a?b&c=d", b"a"),
    ("/v1/topics/*", b"*"),
    ("/v1/topics/a.>", b"a.>"),
    ("/v1/topics/a.%3E", b"a.>"),
    ("/v1/topics/~!'()*;:@&=", b"~!'()*;:@&="),
];

#[test]
fn a_publish_reaches_the_topic_that_its_path_names() {
    let broker = Broker::start(1, &[]);
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe(">");
    let mut http = Http::dial(broker.http_port());
    for (path, topic) in TOPICS {
        let answer = http.ask(&format!("POST {path}"), &[], b"it works");
        assert_eq!(count(&answer), 1, "{path}");
        let heard = listener.message();
        assert_eq!(
            (&heard.topic[..], &heard.payload[..]),
            (*topic, &b"it works"[..]),
            "{path}"
        );
    }
}

#[test]
fn a_publish_carries_reply_headers_and_any_bytes() {
    let broker = Broker::start(1, &[]);
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe("a");
    let mut http = Http::dial(broker.http_port());
    let headers = [
        "Sapwood-Reply: back.1",
        "Sapwood-Header: trace: 7",
        "sapwood-header: Trace: 8",
        "Sapwood-Header: empty:",
        "Sapwood-Header: url: http://x:1/y",
        "Content-Type: text/plain",
    ];
    let payload: Vec<u8> = (0..=255).collect();
    assert_eq!(count(&http.ask("POST /v1/topics/a", &headers, &payload)), 1);
    let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let expected = Event {
        reply: Some(b"back.1".to_vec()),
        headers: vec![
            pair("trace", "7"),
            pair("Trace", "8"),
            pair("empty", ""),
            pair("url", "http://x:1/y"),
        ],
        ..Event::new("a", &payload)
    };
    assert_eq!(listener.message(), expected);
    assert_eq!(count(&http.ask("POST /v1/topics/a", &[], b"")), 1);
    assert_eq!(listener.message(), Event::new("a", ""));
}

#[test]
fn the_count_is_of_subscriptions_on_all_shards_and_of_all_protocols() {
    let broker = Broker::start(2, &[]);
    let mut natives: Vec<NativeClient> = (0..9)
        .map(|_| {
            let mut client = NativeClient::connect(broker.native_port());
            client.subscribe("a.*");
            client
        })
        .collect();
    let mut redis = super::common::resp::RawClient::connect(broker.port());
    redis.call(&["SUBSCRIBE", "a.b"]);
    redis.call(&["PSUBSCRIBE", "a*"]);
    for _ in 0..4 {
        let answer = ask(broker.http_port(), "POST /v1/topics/a.b", &[], b"x");
        assert_eq!(count(&answer), 11);
    }
    let answer = ask(broker.http_port(), "POST /v1/topics/other", &[], b"x");
    assert_eq!(count(&answer), 0);
    for native in &mut natives {
        for _ in 0..4 {
            assert_eq!(native.message(), Event::new("a.b", "x"));
        }
        assert_eq!(native.ping(), []);
    }
}

/// A request line, headers, the status and the code that it is refused with.
const ERRORS: &[(&str, &[&str], u16, &str)] = &[
    ("GET /nothing", &[], 404, "not_found"),
    ("POST /v1/topics/a%", &[], 400, "request_invalid"),
    ("POST /v1/topics/a?topic=b", &[], 400, "request_invalid"),
    ("POST /v1/topics?topic=b", &[], 400, "request_invalid"),
    ("POST /v1/topics/a?_=%", &[], 400, "request_invalid"),
    ("POST /v1/topics/a%4", &[], 400, "request_invalid"),
    ("POST /v1/topics/a%zz", &[], 400, "request_invalid"),
    ("POST /v1/topics/a%+1", &[], 400, "request_invalid"),
    ("GET /v2/topics/a", &[], 404, "not_found"),
    ("GET /v1", &[], 404, "not_found"),
    ("GET /v1/topic/a", &[], 404, "not_found"),
    ("POST /v1/topicsa", &[], 404, "not_found"),
    ("GET /healthy", &[], 404, "not_found"),
    ("GET /health/", &[], 404, "not_found"),
    ("GET //health", &[], 404, "not_found"),
    ("GET /Health", &[], 404, "not_found"),
    ("GET /../health", &[], 404, "not_found"),
    ("GET /x/../health", &[], 404, "not_found"),
    ("POST /nothing", &[], 404, "not_found"),
    ("DELETE /nothing", &[], 404, "not_found"),
    ("POST /health", &[], 405, "method"),
    ("POST /", &[], 405, "method"),
    ("POST /info", &[], 405, "method"),
    ("PUT /v1/topics/a", &[], 405, "method"),
    ("DELETE /v1/topics/a", &[], 405, "method"),
    ("PATCH /varz", &[], 405, "method"),
    ("TRACE /health", &[], 405, "method"),
    ("POST /v1/topics/$JS.x", &[], 403, "topic_reserved"),
    (
        "POST /v1/topics/%24SYS.REQ.info",
        &[],
        403,
        "topic_reserved",
    ),
    (
        "POST /v1/topics/a",
        &["Sapwood-Header: no colon"],
        400,
        "headers_invalid",
    ),
    (
        "POST /v1/topics/a",
        &["Sapwood-Header: : nameless"],
        400,
        "headers_invalid",
    ),
    (
        "POST /v1/topics/a",
        &["Sapwood-Header: a b: c"],
        400,
        "headers_invalid",
    ),
    (
        "POST /v1/topics/a",
        &["Sapwood-Header:"],
        400,
        "headers_invalid",
    ),
];

/// The methods that a path takes, as the table in WEB.md has them.
const METHODS: &[(&str, &[&str])] = &[
    ("/", &["GET"]),
    ("/health", &["GET"]),
    ("/info", &["GET"]),
    ("/varz", &["GET"]),
    ("/connz", &["GET"]),
    ("/subsz", &["GET"]),
    ("/ws", &["GET"]),
    ("/v1/topics/a", &["GET", "POST"]),
];

#[test]
fn errors_have_a_status_and_a_code_and_the_connection_goes_on() {
    let broker = Broker::start(1, &[]);
    let mut http = Http::dial(broker.http_port());
    for (line, headers, status, code) in ERRORS {
        let answer = http.ask(line, headers, b"");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (*status, *code),
            "{line} {headers:?}"
        );
    }
    let long = format!("POST /v1/topics/{}", "t".repeat(1_025));
    let deep = format!("POST /v1/topics/{}", vec!["x"; 65].join("."));
    for line in [long, deep] {
        let answer = http.ask(&line, &[], b"");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "topic_invalid")
        );
    }
    let answer = http.ask("GET /health", &[], b"");
    assert_eq!(
        (answer.status, answer.body),
        (200, br#"{"status":"ok"}"#.to_vec())
    );
}

#[test]
fn a_method_that_a_path_does_not_take_is_answered_by_those_that_it_takes() {
    let broker = Broker::start(1, &[]);
    let mut http = Http::dial(broker.http_port());
    for (path, methods) in METHODS {
        let answer = http.ask(&format!("DELETE {path}"), &[], b"");
        assert_eq!((answer.status, answer.code().as_str()), (405, "method"));
        let allow = answer.header("Allow").unwrap_or_else(|| panic!("{path}"));
        // Those that HTTP itself gives meaning to may stand there too.
        let mut allowed: Vec<&str> = allow.split(", ").collect();
        allowed.retain(|method| !matches!(*method, "HEAD" | "OPTIONS"));
        allowed.sort_unstable();
        assert_eq!(allowed, *methods, "{path}");
    }
}

#[test]
fn health_says_ok() {
    let broker = Broker::start(1, &[]);
    let answer = ask(broker.http_port(), "GET /health", &[], b"");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, br#"{"status":"ok"}"#);
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
}

/// Requests that are in order though nobody writes them so, and their status.
const ODD: &[(&str, &str, u16)] = &[
    (
        "names in any case",
        "GET /health HTTP/1.1\r\nhOsT: 127.0.0.1\r\n\r\n",
        200,
    ),
    (
        "no blank behind a colon",
        "GET /health HTTP/1.1\r\nHost:127.0.0.1\r\n\r\n",
        200,
    ),
    (
        "many blanks",
        "GET /health HTTP/1.1\r\nHost: \t 127.0.0.1 \t \r\n\r\n",
        200,
    ),
    (
        "an empty value",
        "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX:\r\n\r\n",
        200,
    ),
    (
        "a value of another alphabet",
        "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: \u{e9}\u{ff}\r\n\r\n",
        200,
    ),
    (
        "a tab in a value",
        "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\tb\r\n\r\n",
        200,
    ),
    (
        "every sign of a name",
        "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n!#$%&'*+-.^_`|~0aZ: a\r\n\r\n",
        200,
    ),
    (
        "zeros before a length",
        "POST /v1/topics/odd HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0003\r\n\r\nabc",
        200,
    ),
    (
        "blanks around a length",
        "POST /v1/topics/odd HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length:  3 \r\n\r\nabc",
        200,
    ),
    (
        "no length: no body",
        "POST /v1/topics/odd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        200,
    ),
    (
        "an upgrade that is not known",
        "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n",
        200,
    ),
    (
        "a query",
        "GET /health?x=1&y HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        200,
    ),
    (
        "a name that ends like another",
        "POST /v1/topics/odd HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Content-Length: 5\r\nContent-Length: 3\r\n\r\nabc",
        200,
    ),
];

/// A chunked body, and what it says.
const CHUNKED: &[(&str, &str)] = &[
    ("0\r\n\r\n", ""),
    ("3\r\nabc\r\n0\r\n\r\n", "abc"),
    ("3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", "abcdef"),
    ("1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n", "abc"),
    ("0003\r\nabc\r\n00\r\n\r\n", "abc"),
    ("00000003\r\nabc\r\n0\r\n\r\n", "abc"),
    ("a\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
    ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
    ("4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n"),
    ("5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n"),
    ("3;a\r\nabc\r\n0\r\n\r\n", "abc"),
    ("3;a=b;c=\"d\"\r\nabc\r\n0;e\r\n\r\n", "abc"),
    ("3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n", "abc"),
    (
        "3\r\nabc\r\n0\r\nContent-Length: 99\r\nTransfer-Encoding: gzip\r\n\r\n",
        "abc",
    ),
    (
        "3\r\nabc\r\n0\r\nSapwood-Header: a: b\r\nSapwood-Reply: c\r\n\r\n",
        "abc",
    ),
];

#[test]
fn odd_requests_in_order_are_answered() {
    let broker = Broker::start(1, &[]);
    let port = broker.http_port();
    let mut runs = Vec::new();
    for (name, text, status) in ODD {
        let request = bytes(text);
        for cut in cuts(request.len()) {
            runs.push((*name, request.clone(), *status, cut));
        }
    }
    check_all(&runs, |(name, request, status, cut)| {
        let mut http = Http::dial(port);
        // What follows shows that the request ended where it should.
        let next = super::web::request(port, "GET /nothing", &[], b"");
        http.wire.send_cut(&[&request[..], &next].concat(), *cut);
        let wrong = |what: String| format!("{name} ({cut:?}): {what}");
        for expected in [*status, 404] {
            let answer = http.try_answer(Asked::Other).map_err(wrong)?;
            let answer = answer.ok_or_else(|| wrong("closed".to_string()))?;
            if answer.status != expected {
                return Err(wrong(format!("{answer:?} instead of {expected}")));
            }
        }
        Ok(())
    });
}

#[test]
fn a_coding_is_read_without_regard_to_case() {
    // RFC 9112, section 7.
    let broker = Broker::start(1, &[]);
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe("a");
    let mut http = Http::dial(broker.http_port());
    for coding in ["chunked", "Chunked", "CHUNKED", "cHuNkEd"] {
        http.send(format!(
            "POST /v1/topics/a HTTP/1.1\r\nHost: localhost\r\nTransfer-encoding: {coding}\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        ));
        assert_eq!(count(&http.answer()), 1, "{coding}");
        assert_eq!(listener.message(), Event::new("a", "abc"));
    }
}

#[test]
fn chunked_bodies_are_put_together_wherever_they_are_cut() {
    let broker = Broker::start(1, &[]);
    let port = broker.http_port();
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe("chunked");
    for (body, payload) in CHUNKED {
        let mut http = Http::dial(port);
        let head = format!(
            "POST /v1/topics/chunked HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        for cut in cuts(body.len()) {
            http.send(&head);
            http.wire.send_cut(body.as_bytes(), cut);
            assert_eq!(count(&http.answer()), 1, "{body:?} ({cut:?})");
            assert_eq!(listener.message(), Event::new("chunked", payload));
        }
        // And with the head.
        let whole = format!("{head}{body}");
        for place in (1..whole.len()).step_by(5) {
            http.wire.send_cut(whole.as_bytes(), Cut::At(place));
            assert_eq!(count(&http.answer()), 1, "{body:?} cut at {place}");
            assert_eq!(listener.message(), Event::new("chunked", payload));
        }
    }
}

#[test]
fn a_hundred_requests_in_one_write_are_answered_in_order() {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let port = broker.http_port();
        let mut listeners: Vec<NativeClient> = (0..10)
            .map(|_| NativeClient::connect(broker.native_port()))
            .collect();
        for (place, listener) in listeners.iter_mut().enumerate() {
            // Topic n is heard by n of them.
            for topic in place + 1..10 {
                listener.subscribe(&format!("topic.{topic}"));
            }
        }
        let mut all = Vec::new();
        for number in 0..100 {
            all.extend(match number % 4 {
                3 => request(port, "GET /health", &[], b""),
                2 => request(port, "GET /nothing", &[], b""),
                1 => format!(
                    "POST /v1/topics/topic.{} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{number:02}\r\n0\r\n\r\n",
                    number % 10
                )
                .into_bytes(),
                _ => {
                    let line = format!("POST /v1/topics/topic.{}", number % 10);
                    request(port, &line, &[], format!("{number:02}").as_bytes())
                }
            });
        }
        for cut in [Cut::Whole, Cut::Pieces(997), Cut::Pieces(61)] {
            let mut http = Http::dial(port);
            http.wire.send_cut(&all, cut);
            for number in 0..100 {
                let answer = http.answer();
                match number % 4 {
                    3 => assert_eq!(answer.status, 200),
                    2 => assert_eq!(answer.status, 404),
                    _ => assert_eq!(count(&answer), number % 10, "request {number}, {cut:?}"),
                }
            }
        }
        // Topic 9 is heard by all: 9 and 29, 49, 69, 89 by chunks, and nothing else ends in 9 and is published.
        for listener in &mut listeners[8..9] {
            for _ in 0..3 {
                for number in ["09", "29", "49", "69", "89"] {
                    assert_eq!(listener.message(), Event::new("topic.9", number));
                }
            }
            assert_eq!(listener.ping(), []);
        }
    }
}

#[test]
fn connections_are_kept_or_closed_as_the_client_asks() {
    let broker = Broker::start(1, &[]);
    let port = broker.http_port();
    let mut http = Http::dial(port);
    for _ in 0..3 {
        let answer = http.ask("GET /health", &["Connection: keep-alive"], b"");
        assert_eq!(answer.status, 200);
        assert_ne!(answer.header("Connection"), Some("close"));
    }
    for close in ["close", "Close", "keep-alive, close", "foo, CLOSE"] {
        let mut http = Http::dial(port);
        let header = format!("Connection: {close}");
        // What stands behind it is not answered.
        http.send(
            [
                request(port, "GET /health", &[&header], b""),
                request(port, "GET /nothing", &[], b""),
            ]
            .concat(),
        );
        let answer = http.answer();
        assert_eq!(
            (answer.status, answer.header("Connection")),
            (200, Some("close")),
            "{close}"
        );
        http.expect_close();
    }
    for line in ["GET /health", "POST /v1/topics/a"] {
        let mut http = Http::dial(port);
        http.send(format!("{line} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"));
        assert_eq!(http.answer().status, 200, "{line}");
        http.expect_close();
    }
    // A client may end its side first, and is answered all the same.
    let mut http = Http::dial(port);
    http.send(request(port, "POST /v1/topics/a", &[], b"last words"));
    http.wire.finish();
    assert_eq!(count(&http.answer()), 0);
    http.expect_close();
}

#[test]
fn a_client_that_waits_for_100_is_told_to_continue() {
    let broker = Broker::start(1, &[]);
    let port = broker.http_port();
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe("a");
    for length in ["Content-Length: 3", "Transfer-Encoding: chunked"] {
        for expect in ["Expect: 100-continue", "expect: 100-Continue"] {
            let mut http = Http::dial(port);
            http.send(format!(
                "POST /v1/topics/a HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n{expect}\r\n\r\n"
            ));
            let answer = http.answer();
            assert_eq!((answer.status, answer.headers.len()), (100, 0));
            http.wire.hears_nothing();
            http.send(match length.starts_with('C') {
                true => "abc",
                false => "3\r\nabc\r\n0\r\n\r\n",
            });
            assert_eq!(count(&http.answer()), 1);
            assert_eq!(listener.message(), Event::new("a", "abc"));
        }
    }
    // What will be refused is refused before its body comes.
    for (line, length, status) in [
        ("POST /nothing", 3, 404),
        ("POST /v1/topics/$JS.x", 3, 403),
        ("POST /v1/topics/a", PAYLOAD_BYTES_MAX + 1, 413),
    ] {
        let mut http = Http::dial(port);
        http.send(format!(
            "{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        ));
        assert_eq!(http.answer().status, status, "{line}");
    }
    let answer = ask(port, "POST /v1/topics/a", &["Expect: a-miracle"], b"x");
    assert_eq!(answer.status, 417);
}

#[test]
fn head_has_the_headers_of_get_and_no_body_or_is_refused() {
    let broker = Broker::start(1, &[]);
    let port = broker.http_port();
    for path in ["/", "/health", "/info", "/nothing"] {
        let mut http = Http::dial(port);
        http.send(request(port, &format!("HEAD {path}"), &[], b""));
        let answer = http.try_answer(Asked::Head).unwrap().expect("an answer");
        assert!(
            matches!(
                (path, answer.status),
                ("/nothing", 404 | 405) | (_, 200 | 405)
            ),
            "{path}: {answer:?}"
        );
        // A body would stand before this.
        let answer = http.ask("GET /health", &[], b"");
        assert_eq!(answer.body, br#"{"status":"ok"}"#, "behind HEAD {path}");
    }
}

/// A request of exactly so many bytes, with its last empty line, and so many headers.
fn head_of(length: usize, headers: usize) -> Vec<u8> {
    let mut text = "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n".to_string();
    (2..headers).for_each(|number| text += &format!("X{number}: a\r\n"));
    let rest = length - text.len() - "P: \r\n\r\n".len();
    text += &format!("P: {}\r\n\r\n", "p".repeat(rest));
    assert_eq!(text.len(), length);
    text.into_bytes()
}

#[test]
fn heads_have_a_longest_and_a_most() {
    let broker = Broker::start(1, &[]);
    let port = broker.http_port();
    let fits = [400, 414, 431];
    for (length, headers, is_taken) in [
        (HEAD_BYTES_MAX, 3, true),
        (HEAD_BYTES_MAX + 1, 3, false),
        (HEAD_BYTES_MAX, HEADERS_MAX, true),
        (2_000, HEADERS_MAX, true),
        (2_000, HEADERS_MAX + 1, false),
        (10_000, 700, false),
    ] {
        for cut in [Cut::Whole, Cut::Pieces(1_000), Cut::At(length - 1)] {
            let mut http = Http::dial(port);
            http.wire.send_cut(&head_of(length, headers), cut);
            let answer = http.answer();
            let what = format!("{length} bytes, {headers} headers, {cut:?}: {answer:?}");
            if is_taken {
                assert_eq!(answer.status, 200, "{what}");
            } else {
                assert!(fits.contains(&answer.status), "{what}");
                assert_eq!(answer.code(), "request_invalid", "{what}");
                http.expect_close();
            }
        }
    }
    // Without an end in sight.
    for start in [
        "",
        "GET /",
        "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
    ] {
        let mut http = Http::dial(port);
        http.send(format!("{start}{}", "x".repeat(2 * HEAD_BYTES_MAX)));
        let answer = http.answer();
        assert!(fits.contains(&answer.status), "{start:?}: {answer:?}");
        http.expect_close();
    }
}

#[test]
fn bodies_have_a_longest() {
    let broker = Broker::start(1, &[]);
    let port = broker.http_port();
    let mut http = Http::dial(port);
    let longest = vec![b'x'; PAYLOAD_BYTES_MAX];
    assert_eq!(count(&http.ask("POST /v1/topics/a", &[], &longest)), 0);
    let too_long = |answer: &Answer| {
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (413, "payload_too_long")
        );
    };
    // Its length is enough to refuse it.
    let over = PAYLOAD_BYTES_MAX + 1;
    let mut http = Http::dial(port);
    http.send(format!(
        "POST /v1/topics/a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {over}\r\n\r\nx"
    ));
    too_long(&http.answer());
    let head =
        "POST /v1/topics/a HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut http = Http::dial(port);
    http.send(format!("{head}{over:x}\r\nx"));
    too_long(&http.answer());
    // In many chunks it is enough once they are more together.
    let mut http = Http::dial(port);
    http.send(head);
    let mut chunk = format!("{MIB:x}\r\n").into_bytes();
    chunk.resize(chunk.len() + MIB, b'y');
    chunk.extend_from_slice(b"\r\n");
    (0..64).for_each(|_| http.send(&chunk));
    http.wire.hears_nothing();
    http.send("1\r\n");
    too_long(&http.answer());
}

#[test]
fn extensions_and_trailers_of_chunks_have_an_end() {
    let broker = Broker::start(1, &[]);
    let head =
        "POST /v1/topics/a HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = "x".repeat(100_000);
    let many = "A: b\r\n".repeat(20_000);
    for body in [
        format!("3;{long}"),
        format!("3\r\nabc\r\n0;{long}"),
        format!("3\r\nabc\r\n0\r\nA: {long}"),
        format!("3\r\nabc\r\n0\r\n{many}"),
        format!("{}3", "0".repeat(100_000)),
    ] {
        let mut http = Http::dial(broker.http_port());
        http.send(format!("{head}{body}"));
        let answer = http.answer();
        let shown: String = body.chars().take(30).collect();
        assert!(
            matches!(answer.status, 400 | 413 | 431),
            "{shown:?}: {answer:?}"
        );
        http.expect_close();
    }
    // Small chunks with long extensions are many times what they carry: the whole must not be read for ever.
    let mut http = Http::dial(broker.http_port());
    http.send(head);
    let small = format!("1;{}\r\na\r\n", "e".repeat(200));
    for _ in 0..2_000 {
        http.send(&small);
    }
    http.send("0\r\n\r\n");
    let answer = http.answer();
    assert!(matches!(answer.status, 200 | 400 | 413), "{answer:?}");
}
