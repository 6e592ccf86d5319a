//! Clients that are slow, on purpose or not. Each has a connection and a thread of its own, so that all of it takes as long
//! as the slowest.

use std::thread;
use std::time::{Duration, Instant};

use super::common::native::{Event, NativeClient};
use super::common::{Broker, VALUE_SECONDS_MAX};
use super::load::File;
use super::web::{Events, Http, Wire};

/// What WEB.md gives a request's head, and a body's next byte.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is sent at once, and what then comes bit by bit.
struct Slow {
    what: &'static str,
    start: &'static str,
    /// One of these each second.
    then: &'static str,
}

/// Those that are closed after ten seconds.
const CLOSED: &[Slow] = &[
    Slow {
        what: "a request line that never ends",
        start: "GET /",
        then: "x",
    },
    Slow {
        what: "one that does not go on",
        start: "GET /",
        then: "",
    },
    Slow {
        what: "a single byte",
        start: "G",
        then: "",
    },
    Slow {
        what: "headers that never end",
        start: "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        then: "X: y\r\n",
    },
    Slow {
        what: "a header that never ends",
        start: "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
        then: "yyyyyyyyyy",
    },
    Slow {
        what: "a head without its last line",
        start: "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        then: "",
    },
    Slow {
        what: "a body that does not begin",
        start: "POST /v1/topics/slow HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\n",
        then: "",
    },
    Slow {
        what: "a body that does not go on",
        start: "POST /v1/topics/slow HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\nabc",
        then: "",
    },
    Slow {
        what: "a chunked body that does not end",
        start: "POST /v1/topics/slow HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        then: "",
    },
    Slow {
        what: "a second request that does not end",
        start: "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /health HTTP/1.1\r\n",
        then: "X: y\r\n",
    },
    Slow {
        what: "a client that is told to continue and does not",
        start: "POST /v1/topics/slow HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        then: "",
    },
];

/// How long a broker keeps such a connection, and what it says at its end.
fn kept(port: u16, slow: &Slow) -> (Duration, Vec<u8>) {
    let mut wire = Wire::dial(port);
    wire.send(slow.start);
    let begin = Instant::now();
    // Ends: the connection is closed, or fill says that it was not.
    for second in 1..=15 {
        let next = begin + Duration::from_secs(second);
        loop {
            match wire.fill(next) {
                Ok(true) => {}
                Ok(false) => return (begin.elapsed(), wire.unread().to_vec()),
                Err(_) => break,
            }
        }
        wire.send(slow.then);
    }
    (begin.elapsed(), wire.unread().to_vec())
}

fn check(port: u16, slow: &Slow) -> Result<(), String> {
    let (time, said) = kept(port, slow);
    let is_in_time = time > PATIENCE - Duration::from_secs(2) && time < Duration::from_secs(14);
    let said = String::from_utf8_lossy(&said).into_owned();
    let last = said.rsplit("HTTP/1.1 ").next().unwrap_or_default();
    let is_fitting = last.is_empty()
        || last.starts_with("408 ")
        || slow.what.starts_with("a second") && last.starts_with("200 ")
        || slow.what.starts_with("a client that is told") && last.starts_with("100 ");
    match is_in_time && is_fitting {
        true => Ok(()),
        false => Err(format!("{}: {time:?}, {said:?}", slow.what)),
    }
}

/// A body of which a byte comes each second is slow, but goes on arriving.
fn body_that_goes_on(port: u16) -> Result<(), String> {
    let mut http = Http::dial(port);
    http.send("POST /v1/topics/patient HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 6\r\n\r\n");
    for byte in ["p", "a", "t", "i", "e"] {
        thread::sleep(Duration::from_millis(2_400));
        http.send(byte);
    }
    http.send("n");
    let answer = http.answer();
    match answer.status {
        200 => Ok(()),
        other => Err(format!("a slow body: {other}")),
    }
}

/// A connection without a request is kept for longer than a request's head.
fn idle(port: u16) -> Result<(), String> {
    let mut http = Http::dial(port);
    thread::sleep(Duration::from_secs(6));
    assert_eq!(http.ask("GET /health", &[], b"").status, 200);
    thread::sleep(Duration::from_secs(6));
    match http.ask("GET /health", &[], b"").status {
        200 => Ok(()),
        other => Err(format!("an idle connection: {other}")),
    }
}

#[test]
fn slow_clients_are_closed_after_ten_seconds_and_nobody_waits_for_them() {
    let broker = Broker::start(1, &[]);
    let port = broker.http_port();
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe("slow");
    listener.subscribe("patient");
    let wrong: Vec<String> = thread::scope(|scope| {
        let mut threads: Vec<_> = CLOSED
            .iter()
            .map(|slow| scope.spawn(move || check(port, slow)))
            .collect();
        threads.push(scope.spawn(move || body_that_goes_on(port)));
        threads.push(scope.spawn(move || idle(port)));
        // Meanwhile others are served as ever.
        for _ in 0..20 {
            let answer = super::web::ask(port, "GET /health", &[], b"");
            assert_eq!(answer.status, 200);
        }
        let ended = threads.into_iter().map(|thread| thread.join().unwrap());
        ended.filter_map(Result::err).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Of all of them only one body was whole.
    assert_eq!(listener.message(), Event::new("patient", "patien"));
    assert_eq!(listener.ping(), []);
}

/// What a client without the password sends again and again: requests that are answered without one or refused, and pieces of some
/// that do not end.
const GUEST_WAYS: &[(&str, &str, &str)] = &[
    (
        "refused requests",
        "",
        "GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    (
        "a wrong way to ask",
        "",
        "PUT /info HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    (
        "what needs no password",
        "",
        "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    (
        "preflights",
        "",
        "OPTIONS /v1/topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    ("line ends", "", "\r\n"),
    (
        "a head",
        "GET /health HTTP/1.1\r\nHost: localhost\r\nX: ",
        "y",
    ),
    (
        "a body",
        "POST /v1/topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n",
        "y",
    ),
    (
        "a chunked body",
        "POST /v1/topics/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
        "y",
    ),
];

/// Sends a piece every so often until the broker closes, which it must do in time.
fn is_closed(port: u16, start: &str, piece: &str) -> Result<(), String> {
    let mut wire = Wire::dial(port);
    wire.send(start);
    let deadline = Instant::now() + VALUE_SECONDS_MAX;
    while Instant::now() < deadline {
        wire.send(piece);
        // An answer may come or not: the pause is there so that nobody is only busy.
        if let Ok(false) = wire.fill(Instant::now() + Duration::from_millis(100)) {
            return Ok(());
        }
    }
    let said = String::from_utf8_lossy(wire.unread());
    Err(format!("still open, after {:.300}", said))
}

#[test]
fn guests_are_closed_in_time_whatever_they_send_meanwhile() {
    // Closed after this time in all, looked at each 2.5 s; a client that has the password is not.
    let limits = File::new("[limits]\nguest_ms_max = 1000\n");
    for shards in [1, 2] {
        let broker = Broker::start_guarded(shards, "secret", &["--config", limits.path()]);
        let port = broker.http_port();
        let mut known = Http::dial(port);
        let right = ["Authorization: Bearer secret"];
        assert_eq!(known.ask("GET /info", &right, b"").status, 200);
        let mut events = Events::open(port, "/v1/topics/a", &right);
        let mut slow = Http::dial(port);
        slow.send("POST /v1/topics/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\nContent-Length: 2\r\n\r\nx");
        let wrong: Vec<String> = thread::scope(|scope| {
            let threads: Vec<_> = GUEST_WAYS
                .iter()
                .map(|&(what, start, piece)| {
                    scope.spawn(move || {
                        is_closed(port, start, piece).map_err(|error| format!("{what}: {error}"))
                    })
                })
                .collect();
            let ended = threads.into_iter().map(|thread| thread.join().unwrap());
            ended.filter_map(Result::err).collect()
        });
        assert!(wrong.is_empty(), "{shards} shards:\n{}", wrong.join("\n"));
        // Once it has shown the password, its connection may also ask what needs none.
        assert_eq!(known.ask("GET /health", &[], b"").status, 200);
        slow.send("y");
        assert_eq!(slow.answer().status, 200);
        assert_eq!(events.data()["data"], "xy");
    }
}
