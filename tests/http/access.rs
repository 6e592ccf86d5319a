//! Who may ask: passwords, pages from elsewhere, and names that point here.

use super::common::Broker;
use super::common::native::{Event, NativeClient};
use super::web::{Answer, Asked, Events, Http, ask, request};

/// What is sent as `Authorization`, and whether it lets in. User `default`, or `service` where the broker has that name.
const CREDENTIALS: &[(&str, bool)] = &[
    ("Bearer secret", true),
    ("bearer secret", true),
    ("BEARER secret", true),
    ("Bearer Secret", false),
    ("Bearer secre", false),
    ("Bearer secrets", false),
    ("Bearer secret secret", false),
    ("Bearer", false),
    ("Bearer ", false),
    ("secret", false),
    ("", false),
    // default:secret
    ("Basic ZGVmYXVsdDpzZWNyZXQ=", true),
    ("basic ZGVmYXVsdDpzZWNyZXQ=", true),
    // default:Secret, default:secre, default:, default
    ("Basic ZGVmYXVsdDpTZWNyZXQ=", false),
    ("Basic ZGVmYXVsdDpzZWNyZQ==", false),
    ("Basic ZGVmYXVsdDo=", false),
    ("Basic ZGVmYXVsdA==", false),
    // other:secret, service:secret
    ("Basic b3RoZXI6c2VjcmV0", false),
    ("Basic c2VydmljZTpzZWNyZXQ=", false),
    ("Basic secret", false),
    ("Basic !!!!", false),
    ("Basic", false),
    ("Digest secret", false),
    ("Negotiate ZGVmYXVsdDpzZWNyZXQ=", false),
];

/// What wants a password, where the broker has one.
const GUARDED: &[&str] = &[
    "GET /info",
    "GET /varz",
    "GET /connz",
    "GET /subsz",
    "POST /v1/topics/a",
    "GET /v1/topics/a",
];

#[test]
fn a_password_is_asked_for_everywhere_but_at_health() {
    let broker = Broker::start_guarded(1, "secret", &[]);
    let port = broker.http_port();
    for line in GUARDED {
        let answer = ask(port, line, &[], b"");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "authentication"),
            "{line}"
        );
        // RFC 9110, section 11.6.1: it says which way in there is.
        let ways = answer.headers.iter();
        let ways: Vec<&str> = ways
            .filter(|(name, _)| name.eq_ignore_ascii_case("WWW-Authenticate"))
            .map(|(_, value)| value.split(' ').next().unwrap())
            .collect();
        assert_eq!(ways, ["Basic", "Bearer"], "{line}");
    }
    let answer = ask(port, "GET /health", &[], b"");
    assert_eq!(answer.body, br#"{"status":"ok"}"#);
    // Who may not ask learns nothing about what there is.
    assert_eq!(ask(port, "POST /v1/topics/$JS.x", &[], b"x").status, 401);
}

#[test]
fn the_right_password_lets_in_and_no_other() {
    let broker = Broker::start_guarded(1, "secret", &[]);
    let port = broker.http_port();
    let mut http = Http::dial(port);
    for (credentials, is_right) in CREDENTIALS {
        let header = format!("Authorization: {credentials}");
        let answer = http.ask("POST /v1/topics/a", &[&header], b"");
        let status = if *is_right { 200 } else { 401 };
        assert_eq!(answer.status, status, "{credentials:?}: {answer:?}");
    }
    // Two of them could be read in two ways.
    let right = "Authorization: Bearer secret";
    for second in ["Authorization: Bearer wrong", right] {
        let answer = ask(port, "GET /info", &[right, second], b"");
        assert!(matches!(answer.status, 400 | 401), "{answer:?}");
    }
    // One request's password is not the next one's.
    let mut http = Http::dial(port);
    assert_eq!(http.ask("GET /info", &[right], b"").status, 200);
    assert_eq!(http.ask("GET /info", &[], b"").status, 401);
    let mut events = Events::open(port, "/v1/topics/a", &[right]);
    assert_eq!(ask(port, "POST /v1/topics/a", &[right], b"x").status, 200);
    assert_eq!(
        events.data(),
        serde_json::json!({"topic": "a", "data": "x"})
    );
}

#[test]
fn a_user_of_another_name_is_asked_for_by_that_name() {
    let broker = Broker::start_guarded(1, "secret", &["--user", "service"]);
    for (credentials, status) in [
        ("Basic c2VydmljZTpzZWNyZXQ=", 200),
        ("Basic ZGVmYXVsdDpzZWNyZXQ=", 401),
        ("Bearer secret", 200),
    ] {
        let header = format!("Authorization: {credentials}");
        let answer = ask(broker.http_port(), "GET /info", &[&header], b"");
        assert_eq!(answer.status, status, "{credentials}");
    }
}

#[test]
fn a_password_with_a_colon_is_read_whole() {
    let broker = Broker::start_guarded(1, "a:b", &[]);
    // default:a:b
    let header = "Authorization: Basic ZGVmYXVsdDphOmI=";
    assert_eq!(
        ask(broker.http_port(), "GET /info", &[header], b"").status,
        200
    );
}

/// Origins, and whether their scripts may do what changes or opens something; `{port}` is the broker's.
const ORIGINS: &[(&str, bool)] = &[
    ("http://127.0.0.1:{port}", true),
    ("https://app.example", true),
    ("https://app.example:8443", false),
    ("http://app.example", false),
    ("https://app.example.evil.example", false),
    ("https://xapp.example", false),
    ("https://evil.example", false),
    ("http://127.0.0.1", false),
    ("http://127.0.0.1:1", false),
    ("http://127.0.0.1:{port}0", false),
    ("http://127.0.0.1:{port}.evil.example", false),
    ("http://evil.example:{port}", false),
    ("http://127.0.0.1:{port}@evil.example", false),
    ("127.0.0.1:{port}", false),
    ("null", false),
    ("*", false),
    ("", false),
    ("https://app.example, http://127.0.0.1:{port}", false),
];

#[test]
fn a_page_from_elsewhere_can_only_look() {
    let broker = Broker::start(1, &["--http-origin", "https://app.example"]);
    let port = broker.http_port();
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe("a");
    for (origin, may) in ORIGINS {
        let origin = origin.replace("{port}", &port.to_string());
        let header = format!("Origin: {origin}");
        let allowed = |answer: &Answer| {
            let allow = answer.header("Access-Control-Allow-Origin");
            let with = answer.header("Access-Control-Allow-Credentials");
            assert_eq!(with, allow.map(|_| "true"), "{origin:?}: {answer:?}");
            assert_eq!(answer.header("Vary"), allow.map(|_| "Origin"));
            match may {
                // The broker's own page needs no leave.
                true if origin.starts_with("http://") => {
                    assert!(allow.is_none() || allow == Some(&origin), "{answer:?}")
                }
                true => assert_eq!(allow, Some(origin.as_str()), "{answer:?}"),
                false => assert_eq!(allow, None, "{origin:?}: {answer:?}"),
            }
        };
        // A GET that opens nothing is answered; whether the page may read it is the browser's to say.
        let answer = ask(port, "GET /health", &[&header], b"");
        assert_eq!(answer.status, 200, "{origin:?}");
        allowed(&answer);
        let answer = ask(port, "POST /v1/topics/a", &[&header], b"x");
        allowed(&answer);
        let mut http = Http::dial(port);
        http.send(request(port, "GET /v1/topics/a", &[&header], b""));
        let stream = http.try_head().unwrap().expect("an answer");
        allowed(&stream);
        if *may {
            assert_eq!((answer.status, stream.status), (200, 200), "{origin:?}");
            assert_eq!(listener.message(), Event::new("a", "x"));
        } else {
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (403, "origin"),
                "{origin:?}"
            );
            assert_eq!(stream.status, 403, "{origin:?}");
        }
    }
    assert_eq!(listener.ping(), []);
}

#[test]
fn any_origin_may_where_that_was_said() {
    let broker = Broker::start(1, &["--http-origin", "*"]);
    for origin in ["https://evil.example", "null", "http://localhost:3000"] {
        let header = format!("Origin: {origin}");
        // Without a password, one that is sent is none.
        for kept in ["X: y", "Authorization: Basic ZGVmYXVsdDpzZWNyZXQ="] {
            let answer = ask(
                broker.http_port(),
                "POST /v1/topics/a",
                &[&header, kept],
                b"x",
            );
            assert_eq!(answer.status, 200, "{origin}");
            assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("*"));
            assert_eq!(answer.header("Access-Control-Allow-Credentials"), None);
        }
    }
}

#[test]
fn what_a_browser_keeps_is_no_proof_from_any_page() {
    // Of two origins given by name and by `*`, the first may use what the browser keeps.
    let args = ["--http-origin", "*,https://app.example"];
    let broker = Broker::start_guarded(1, "secret", &args);
    let port = broker.http_port();
    let bearer = "Authorization: Bearer secret";
    let basic = "Authorization: Basic ZGVmYXVsdDpzZWNyZXQ=";
    for (origin, credentials, may) in [
        ("https://evil.example", bearer, true),
        ("https://evil.example", basic, false),
        (
            "https://evil.example",
            "authorization: bASIC ZGVmYXVsdDpzZWNyZXQ=",
            false,
        ),
        ("null", basic, false),
        ("https://app.example", basic, true),
        ("https://app.example", bearer, true),
        (&format!("http://127.0.0.1:{port}"), basic, true),
    ] {
        let origin = format!("Origin: {origin}");
        let mut headers = super::web::upgrade_headers();
        headers.extend([origin.clone(), credentials.to_string()]);
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        for (line, right) in [
            ("POST /v1/topics/a", 200),
            ("GET /v1/topics/a", 200),
            ("GET /ws", 101),
        ] {
            let headers = match line {
                "GET /ws" => &headers[..],
                _ => &headers[headers.len() - 2..],
            };
            let mut http = Http::dial(port);
            http.send(request(port, line, headers, b""));
            let answer = http.try_head().unwrap().expect("an answer");
            let status = if may { right } else { 403 };
            assert_eq!(answer.status, status, "{line} {origin} {credentials}");
        }
    }
}

/// Headers that libraries of event streams and of `fetch` send beside their own.
const SENT: &str = "authorization,cache-control,content-type,last-event-id,pragma,sapwood-header,sapwood-reply,x-requested-with";

#[test]
fn a_browser_that_asks_beforehand_is_told() {
    // A script that sends a header of its own, such as the password, makes the browser ask by OPTIONS first.
    let args = ["--http-origin", "https://app.example,*"];
    for (args, any) in [
        (&args[..], Some("*")),
        (&["--http-origin", "https://app.example"][..], None),
    ] {
        let broker = Broker::start_guarded(1, "secret", args);
        let port = broker.http_port();
        let asked = |origin: &str, method: &str, headers: &str| {
            let headers = [
                &*format!("Origin: {origin}"),
                &*format!("Access-Control-Request-Method: {method}"),
                &*format!("Access-Control-Request-Headers: {headers}"),
            ];
            let mut http = Http::dial(port);
            http.send(request(port, "OPTIONS /v1/topics/a", &headers, b""));
            http.try_answer(Asked::Other).unwrap().expect("an answer")
        };
        let list = |answer: &Answer, name: &str| {
            let value = answer.header(name).unwrap_or_default().to_lowercase();
            value
                .split(',')
                .map(|word| word.trim().to_string())
                .collect::<Vec<_>>()
        };
        for method in ["GET", "POST"] {
            let answer = asked("https://app.example", method, SENT);
            assert!(matches!(answer.status, 200 | 204), "{answer:?}");
            let header = |name: &str| answer.header(name);
            assert_eq!(
                header("Access-Control-Allow-Origin"),
                Some("https://app.example")
            );
            assert_eq!(header("Access-Control-Allow-Credentials"), Some("true"));
            assert!(list(&answer, "Vary").contains(&"origin".to_string()));
            let methods = list(&answer, "Access-Control-Allow-Methods");
            assert!(methods.contains(&method.to_lowercase()), "{answer:?}");
            let headers = list(&answer, "Access-Control-Allow-Headers");
            for name in SENT.split(',') {
                // `*` does not stand for Authorization, nor for anything where credentials are sent.
                assert!(headers.iter().any(|header| header == name), "{answer:?}");
            }
        }
        let answer = asked("https://evil.example", "POST", SENT);
        assert_eq!(answer.header("Access-Control-Allow-Origin"), any);
        assert_eq!(answer.header("Access-Control-Allow-Credentials"), None);
        assert_eq!(answer.status >= 400, any.is_none(), "{answer:?}");
    }
}

/// Values of `Host`, and whether they are an address, `localhost` or the host of an origin that may.
const HOSTS: &[(&str, bool)] = &[
    ("127.0.0.1", true),
    ("127.0.0.1:{port}", true),
    ("127.0.0.1:1", true),
    ("10.1.2.3:7480", true),
    ("[::1]", true),
    ("[::1]:7480", true),
    ("[fe80::1]:7480", true),
    ("localhost", true),
    ("localhost:{port}", true),
    ("LocalHost:{port}", true),
    ("app.example", true),
    ("app.example:8080", true),
    ("APP.example", true),
    ("evil.example", false),
    ("evil.example:{port}", false),
    ("localhost.evil.example", false),
    ("localhost.evil.example:{port}", false),
    ("xlocalhost", false),
    ("127.0.0.1.evil.example", false),
    ("app.example.evil.example", false),
    ("xapp.example", false),
    ("example", false),
    ("127.0.0.1.", false),
    ("1.2.3.4.5", false),
    ("0x7f000001", false),
    ("a", false),
];

#[test]
fn without_a_password_a_name_that_points_here_opens_nothing() {
    let broker = Broker::start(1, &["--http-origin", "https://app.example"]);
    let guarded = Broker::start_guarded(1, "secret", &[]);
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe("a");
    let port = broker.http_port();
    for (host, may) in HOSTS {
        let header = format!("Host: {host}").replace("{port}", &port.to_string());
        for line in ["GET /info", "POST /v1/topics/a", "GET /", "GET /connz"] {
            let answer = ask(port, line, &[&header], b"");
            if *may {
                assert_eq!(answer.status, 200, "{line}, {host}");
            } else {
                assert_eq!(
                    (answer.status, answer.code().as_str()),
                    (403, "host"),
                    "{line}, {host}"
                );
            }
        }
        let stream = request(port, "GET /v1/topics/a", &[&header], b"");
        let mut http = Http::dial(port);
        http.send(stream);
        let answer = http.try_head().unwrap().expect("an answer");
        assert_eq!(answer.status, if *may { 200 } else { 403 }, "{host}");
        if *may {
            assert_eq!(listener.message(), Event::new("a", ""));
        }
        // With a password there is nothing to read without it.
        let headers = [&*header, "Authorization: Bearer secret"];
        let answer = ask(guarded.http_port(), "GET /info", &headers, b"");
        assert_eq!(answer.status, 200, "{host}");
    }
    assert_eq!(listener.ping(), []);
}

#[test]
fn the_host_of_a_target_counts_whatever_the_header_says() {
    let args = ["--http-origin", "https://app.example"];
    let (broker, guarded) = (
        Broker::start(1, &args),
        Broker::start_guarded(1, "secret", &args),
    );
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe("a");
    let port = broker.http_port();
    for (target, host, status) in [
        (format!("http://127.0.0.1:{port}"), "127.0.0.1", 200),
        (format!("http://127.0.0.1:{port}"), "evil.example", 200),
        ("http://localhost".into(), "app.example", 200),
        ("HTTP://app.example".into(), "evil.example:80", 200),
        // A name that others point here is refused, also behind a Host that would do.
        ("http://evil.example".into(), "127.0.0.1", 403),
        (format!("http://evil.example:{port}"), "localhost", 403),
        ("http://localhost.evil.example".into(), "localhost", 403),
        ("http://user@127.0.0.1".into(), "127.0.0.1", 400),
        ("http://".into(), "127.0.0.1", 400),
        ("https://127.0.0.1".into(), "127.0.0.1", 400),
    ] {
        let line = format!("POST {target}/v1/topics/a");
        let host = format!("Host: {host}");
        let answer = ask(port, &line, &[&host], b"x");
        assert_eq!(answer.status, status, "{line}, {host}: {answer:?}");
        if status == 200 {
            assert_eq!(listener.message(), Event::new("a", "x"));
        }
        // Nor does a page come from here whose host is that of the header.
        let origin = host.replace("Host: ", "Origin: http://");
        let headers = [&*host, &origin, "Authorization: Bearer secret"];
        let answer = ask(guarded.http_port(), &line, &headers, b"x");
        let refused = if status == 400 { 400 } else { 403 };
        assert_eq!(answer.status, refused, "{line}, {host}, {origin}");
    }
    assert_eq!(listener.ping(), []);
    let line = "POST http://broker.example:80/v1/topics/a";
    let headers = [
        "Host: a",
        "Origin: http://broker.example:80",
        "Authorization: Bearer secret",
    ];
    assert_eq!(ask(guarded.http_port(), line, &headers, b"x").status, 200);
    // HTTP/1.1 wants a Host all the same.
    let mut http = Http::dial(port);
    http.send(format!(
        "GET http://127.0.0.1:{port}/health HTTP/1.1\r\n\r\n"
    ));
    assert_eq!(http.answer().status, 400);
}
