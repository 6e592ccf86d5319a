//! The handshake (RFC 6455, sections 4.1 and 4.2): which requests open a WebSocket, and how the others are answered.

use super::common::Broker;
use super::frames::{Said, accept_of};
use super::web::{
    ACCEPT, Answer, Asked, Cut, Http, KEY, WebSocket, ask, check_all, cuts, request,
    upgrade_headers,
};

/// A request is the usual one with edits: `Name: value` replaces a header or adds it, `-Name` takes it away, `+Name: value`
/// adds it beside those there are, and `> ` begins another request line.
type Edits = &'static [&'static str];

/// What opens a WebSocket.
const OPENING: &[(&str, Edits)] = &[
    ("the usual request", &[]),
    ("Upgrade in another case", &["Upgrade: WebSocket"]),
    ("all of it in upper case", &["Upgrade: WEBSOCKET"]),
    ("Upgrade as a list", &["Upgrade: h2c, websocket"]),
    ("Connection in lower case", &["Connection: upgrade"]),
    ("Connection as a list", &["Connection: keep-alive, Upgrade"]),
    ("a list without blanks", &["Connection: keep-alive,UPGRADE"]),
    ("a list with many", &["Connection: Upgrade ,  keep-alive"]),
    (
        "Connection in two lines",
        &["Connection: keep-alive", "+Connection: Upgrade"],
    ),
    (
        "names in lower case",
        &[
            "-Upgrade",
            "-Connection",
            "-Sec-WebSocket-Version",
            "upgrade: websocket",
            "connection: Upgrade",
            "sec-websocket-version: 13",
        ],
    ),
    (
        "blanks around values",
        &["Upgrade:   websocket  ", "Sec-WebSocket-Version:13"],
    ),
    (
        "extensions, which are not used",
        &["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-other"],
    ),
    (
        "other headers",
        &["User-Agent: test", "Cookie: a=b", "Pragma: no-cache"],
    ),
];

/// What does not, and the statuses that fit.
const REFUSED: &[(&str, Edits, &[u16])] = &[
    ("no Upgrade", &["-Upgrade"], &[400, 426]),
    ("another Upgrade", &["Upgrade: h2c"], &[400, 426]),
    ("a longer word", &["Upgrade: websockets"], &[400, 426]),
    ("no Connection", &["-Connection"], &[400, 426]),
    (
        "another Connection",
        &["Connection: keep-alive"],
        &[400, 426],
    ),
    (
        "a longer word there",
        &["Connection: Upgraded"],
        &[400, 426],
    ),
    ("no version", &["-Sec-WebSocket-Version"], &[400, 426]),
    ("version 8", &["Sec-WebSocket-Version: 8"], &[426]),
    ("version 12", &["Sec-WebSocket-Version: 12"], &[426]),
    ("version 14", &["Sec-WebSocket-Version: 14"], &[426]),
    ("version 013", &["Sec-WebSocket-Version: 013"], &[400, 426]),
    ("version 1 3", &["Sec-WebSocket-Version: 1 3"], &[400, 426]),
    ("no number", &["Sec-WebSocket-Version: abc"], &[400, 426]),
    ("no key", &["-Sec-WebSocket-Key"], &[400]),
    ("an empty key", &["Sec-WebSocket-Key: "], &[400]),
    (
        "a key of 15 bytes",
        &["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA"],
        &[400],
    ),
    (
        "a key of 17 bytes",
        &["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA="],
        &[400],
    ),
    (
        "a key of 18 bytes",
        &["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAAA"],
        &[400],
    ),
    (
        "a key without padding",
        &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"],
        &[400],
    ),
    (
        "a key that is no base64",
        &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!Q=="],
        &[400],
    ),
    (
        "a key of the other alphabet",
        &["Sec-WebSocket-Key: _-hlIHNhbXBsZSBub25jZQ=="],
        &[400],
    ),
    (
        "two keys",
        &["+Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="],
        &[400],
    ),
    ("HTTP/1.0", &["> GET /echo HTTP/1.0"], &[400, 426, 505]),
    ("a body", &["Content-Length: 5"], &[400]),
    ("a chunked body", &["Transfer-Encoding: chunked"], &[400]),
    ("no Host", &["-Host"], &[400]),
    ("two of Host", &["+Host: 127.0.0.1"], &[400]),
    ("another place", &["> GET /echo/x HTTP/1.1"], &[404]),
];

/// The request for a WebSocket with edits.
fn edited(port: u16, edits: &[&str]) -> Vec<u8> {
    let mut line = "GET /echo HTTP/1.1".to_string();
    let mut headers = vec![format!("Host: 127.0.0.1:{port}")];
    headers.extend(upgrade_headers());
    for edit in edits {
        let name = |header: &str| header.split(':').next().unwrap().to_string();
        match edit.as_bytes()[0] {
            b'>' => line = edit[2..].to_string(),
            b'+' => headers.push(edit[1..].to_string()),
            b'-' => headers.retain(|header| name(header) != edit[1..]),
            _ => {
                headers.retain(|header| name(header) != name(edit));
                headers.push(edit.to_string());
            }
        }
    }
    format!("{line}\r\n{}\r\n\r\n", headers.join("\r\n")).into_bytes()
}

fn check_accepted(answer: &Answer) -> Result<(), String> {
    let is_right = answer.status == 101
        && answer.header("Sec-WebSocket-Accept") == Some(ACCEPT)
        && answer
            .header("Upgrade")
            .is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
        && answer
            .header("Connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("upgrade"))
        && answer.header("Sec-WebSocket-Extensions").is_none()
        && answer.header("Content-Length").is_none()
        && answer.header("Transfer-Encoding").is_none();
    match is_right {
        true => Ok(()),
        false => Err(format!("{answer:?}")),
    }
}

#[test]
fn a_request_in_order_opens_a_websocket_however_it_is_cut() {
    assert_eq!(accept_of(KEY), ACCEPT, "the example of the RFC");
    let broker = Broker::start(2, &["--echo"]);
    let port = broker.http_port();
    let mut runs = Vec::new();
    for (name, edits) in OPENING {
        // A message right behind the request is no less welcome than one later.
        let early = super::frames::frames("text:early");
        let bytes = [edited(port, edits), early].concat();
        let mut ways = cuts(bytes.len());
        if edits.is_empty() {
            ways.extend((1..bytes.len()).map(Cut::At));
        }
        runs.extend(ways.into_iter().map(|cut| (*name, bytes.clone(), cut)));
    }
    check_all(&runs, |(name, bytes, cut)| {
        let mut http = Http::dial(port);
        http.wire.send_cut(bytes, *cut);
        let result = http.try_head().and_then(|answer| {
            let answer = answer.ok_or("closed without an answer")?;
            check_accepted(&answer)?;
            if answer.header("Sec-WebSocket-Protocol").is_some() {
                return Err(format!("a sub-protocol that nobody asked for: {answer:?}"));
            }
            let mut socket = WebSocket::of(http.wire, answer);
            match socket.try_said()? {
                Said::Text(text) if text == "early" => Ok(()),
                other => Err(format!("{other:?} instead of the message")),
            }
        });
        result.map_err(|error| format!("{name} ({cut:?}): {error}"))
    });
}

#[test]
fn other_requests_are_refused_and_say_why() {
    let broker = Broker::start(1, &["--echo"]);
    let port = broker.http_port();
    let mut runs = Vec::new();
    for (name, edits, statuses) in REFUSED {
        for cut in [Cut::Whole, Cut::Pieces(1)] {
            runs.push((*name, edited(port, edits), *statuses, cut));
        }
    }
    check_all(&runs, |(name, bytes, statuses, cut)| {
        let mut http = Http::dial(port);
        http.wire.send_cut(bytes, *cut);
        let result = http.try_answer(Asked::Other).and_then(|answer| {
            let answer = answer.ok_or("closed without an answer")?;
            if !statuses.contains(&answer.status) {
                return Err(format!("{} instead of {statuses:?}", answer.status));
            }
            let code = match answer.status {
                404 => "not_found",
                _ => "request_invalid",
            };
            if answer.code() != code {
                return Err(format!("{} instead of {code}", answer.code()));
            }
            let version = answer.header("Sec-WebSocket-Version");
            match (answer.status == 426) == (version == Some("13")) {
                true => Ok(()),
                false => Err(format!("version {version:?} with {}", answer.status)),
            }
        });
        result.map_err(|error| format!("{name} ({cut:?}): {error}"))
    });
}

#[test]
fn only_get_opens_a_websocket() {
    let broker = Broker::start(1, &["--echo"]);
    let port = broker.http_port();
    let fixed = upgrade_headers();
    let headers: Vec<&str> = fixed.iter().map(String::as_str).collect();
    for line in ["POST /echo", "POST /ws", "PUT /ws", "DELETE /ws"] {
        let answer = ask(port, line, &headers, b"");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (405, "method"),
            "{line}"
        );
        let allow = answer.header("Allow").unwrap_or_default();
        assert!(allow.split(", ").any(|method| method == "GET"), "{allow}");
    }
}

/// What a client offers, and which sub-protocol is spoken then; `None`: the request is refused.
const OFFERS: &[(&[&str], Option<&str>)] = &[
    (&["sapwood.text"], Some("sapwood.text")),
    (&["sapwood.json"], Some("sapwood.json")),
    (&["sapwood.native"], Some("sapwood.native")),
    (&["sapwood.json, sapwood.text"], Some("sapwood.json")),
    (&["sapwood.native,sapwood.json"], Some("sapwood.native")),
    (&["other, sapwood.native"], Some("sapwood.native")),
    (&["a, b", "sapwood.json"], Some("sapwood.json")),
    (&["sapwood.text", "sapwood.json"], Some("sapwood.text")),
    (&["other"], None),
    (&["sapwood"], None),
    (&["sapwood.jso"], None),
    (&["sapwood.json2"], None),
    (&["mqtt, stomp"], None),
];

#[test]
fn the_first_sub_protocol_that_is_known_is_spoken() {
    let broker = Broker::start(1, &[]);
    let port = broker.http_port();
    for (offers, chosen) in OFFERS {
        let lines: Vec<String> = offers
            .iter()
            .map(|offer| format!("Sec-WebSocket-Protocol: {offer}"))
            .collect();
        let mut headers = upgrade_headers();
        headers.extend(lines);
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let mut http = Http::dial(port);
        http.send(request(port, "GET /ws", &headers, b""));
        let Some(chosen) = chosen else {
            let answer = http.answer();
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (400, "request_invalid"),
                "{offers:?}"
            );
            continue;
        };
        let answer = http.try_head().unwrap().expect("an answer");
        check_accepted(&answer).unwrap();
        assert_eq!(
            answer.header("Sec-WebSocket-Protocol"),
            Some(*chosen),
            "{offers:?}"
        );
        // It is also what is spoken.
        let mut socket = WebSocket::of(http.wire, answer);
        match *chosen {
            "sapwood.text" => {
                socket.send_text("PING a");
                assert_eq!(socket.text(), "PONG a");
            }
            "sapwood.json" => {
                socket.send_text(r#"{"op":"ping","id":1}"#);
                assert_eq!(socket.text(), r#"{"op":"ok","id":1,"count":0}"#);
            }
            _ => {
                socket.send_text("x");
                socket.expect_close(1003);
            }
        }
    }
}

/// Origins of a page, which lead to a WebSocket or not; `{port}` is the broker's.
const ORIGINS: &[(&str, &str, bool)] = &[
    ("the broker's own page", "http://127.0.0.1:{port}", true),
    ("an origin that may", "https://app.example", true),
    ("another host", "http://evil.example", false),
    ("another port", "http://127.0.0.1:1", false),
    ("no port", "http://127.0.0.1", false),
    (
        "another name of this host",
        "http://localhost:{port}",
        false,
    ),
    ("an opaque one", "null", false),
    (
        "its host as a part",
        "http://127.0.0.1:{port}.evil.example",
        false,
    ),
    (
        "its host behind another",
        "http://evil.example/127.0.0.1:{port}",
        false,
    ),
    (
        "its host as a user",
        "http://127.0.0.1:{port}@evil.example",
        false,
    ),
    ("the one that may, without TLS", "http://app.example", false),
    (
        "the one that may, with a port",
        "https://app.example:8443",
        false,
    ),
    (
        "the one that may, as a part",
        "https://app.example.evil.example",
        false,
    ),
    ("a part of it", "https://xapp.example", false),
    ("nothing", "", false),
];

#[test]
fn a_page_from_elsewhere_opens_no_websocket() {
    let broker = Broker::start(1, &["--echo", "--http-origin", "https://app.example"]);
    let port = broker.http_port();
    for target in ["/echo", "/ws"] {
        for (name, origin, may) in ORIGINS {
            let header = format!("Origin: {origin}").replace("{port}", &port.to_string());
            let mut headers = upgrade_headers();
            headers.push(header);
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let mut http = Http::dial(port);
            http.send(request(port, &format!("GET {target}"), &headers, b""));
            if *may {
                let answer = http.try_head().unwrap().expect("an answer");
                check_accepted(&answer).unwrap_or_else(|error| panic!("{name}: {error}"));
            } else {
                let answer = http.answer();
                let is_refused = (answer.status, answer.code().as_str()) == (403, "origin");
                assert!(is_refused, "{name}: {answer:?}");
            }
        }
    }
}

#[test]
fn a_name_that_points_here_opens_no_websocket_without_a_password() {
    let broker = Broker::start(1, &["--echo"]);
    let guarded = Broker::start_guarded(1, "secret", &[]);
    let fixed = upgrade_headers();
    for (host, may) in [
        ("Host: localhost", true),
        ("Host: 127.0.0.1:80", true),
        ("Host: [::1]:7480", true),
        ("Host: evil.example", false),
        ("Host: localhost.evil.example:7480", false),
    ] {
        let mut headers: Vec<&str> = fixed.iter().map(String::as_str).collect();
        headers.push(host);
        let mut http = Http::dial(broker.http_port());
        http.send(request(0, "GET /echo", &headers, b""));
        if may {
            let answer = http.try_head().unwrap().expect("an answer");
            check_accepted(&answer).unwrap_or_else(|error| panic!("{host}: {error}"));
        } else {
            let answer = http.answer();
            assert_eq!((answer.status, answer.code().as_str()), (403, "host"));
        }
        // Where a password is asked for, a name may be any.
        let mut http = Http::dial(guarded.http_port());
        headers.push("Authorization: Bearer secret");
        http.send(request(0, "GET /ws", &headers, b""));
        let answer = http.try_head().unwrap().expect("an answer");
        check_accepted(&answer).unwrap_or_else(|error| panic!("{host}: {error}"));
    }
}
