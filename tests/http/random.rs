//! What clients do to the port of HTTP without meaning anything by it: bytes at random, and answers that nobody reads.

use std::net::Shutdown;
use std::thread;

use super::common::Broker;
use super::common::native::{Event, NativeClient};
use super::common::resp::RawClient;
use super::frames::{Said, frames, write_frame};
use super::load::{File, baseline_kib, check_peak, counter, memory_cap_kib, wait_until};
use super::web::{Asked, Cut, Http, WebSocket, Wire, ask, request, upgrade_headers};

/// Requests of every kind, to be changed here and there.
fn seeds(port: u16) -> Vec<Vec<u8>> {
    let upgrade = |target: &str, protocol: &str, behind: &[u8]| {
        let fixed = upgrade_headers();
        let mut headers: Vec<&str> = fixed.iter().map(String::as_str).collect();
        headers.extend((!protocol.is_empty()).then_some(protocol));
        [&request(port, target, &headers, b""), behind].concat()
    };
    let json = "{\"op\":\"subscribe\",\"filter\":\"noise.>\",\"id\":1}\n{\"op\":\"publish\",\"topic\":\"noise.a\",\"data_b64\":\"AAEC\",\"headers\":[[\"a\",\"b\"]],\"id\":2}\n{\"op\":\"drain\"}\n";
    let mut messages = Vec::new();
    for line in json.lines() {
        write_frame(&mut messages, 0x81, [1, 2, 3, 4], line.as_bytes());
    }
    let text =
        frames("text:SUBSCRIBE<20>noise.a text-:PUBLISH<20> ping:x cont:noise.a<20>x close:1000");
    let chunked = "POST /v1/topics/noise.a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nT: x\r\n\r\n";
    vec![
        request(
            port,
            "GET /v1/topics/noise.*?topic=noise.b",
            &["Last-Event-ID: 1"],
            b"",
        ),
        [
            request(
                port,
                "POST /v1/topics/noise.a",
                &["Sapwood-Header: a: b"],
                b"abc",
            ),
            request(port, "GET /info", &[], b""),
        ]
        .concat(),
        [
            request(port, "GET /connz", &["Connection: keep-alive"], b""),
            chunked.into(),
        ]
        .concat(),
        upgrade("GET /ws", "", &text),
        upgrade("GET /ws", "Sec-WebSocket-Protocol: sapwood.json", &messages),
        upgrade(
            "GET /echo",
            "",
            &frames("binary-:ab cont:cd text:<c3a9> close:1001,bye"),
        ),
        json.into(),
    ]
}

#[test]
fn what_random_bytes_do_to_one_connection_stays_there() {
    let seed = std::env::var("SAPWOOD_SEED")
        .map_or(1, |text| text.parse().expect("SAPWOOD_SEED is a number"));
    println!("SAPWOOD_SEED={seed}");
    let mut state: u64 = seed;
    let mut below = |limit: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    let broker = Broker::start(2, &["--echo"]);
    let port = broker.http_port();
    let seeds = seeds(port);
    let mut bystander = NativeClient::connect(broker.native_port());
    bystander.subscribe("quiet");
    let mut asker = RawClient::connect(broker.port());
    for round in 0..1_500 {
        let mut bytes = seeds[below(seeds.len())].clone();
        for _ in 0..below(4) {
            let place = below(bytes.len());
            match below(3) {
                0 => bytes[place] = below(256) as u8,
                1 => drop(bytes.remove(place)),
                _ => bytes.insert(place, b"\r\n :,;\0\x80{\""[below(10)]),
            }
        }
        if below(3) == 0 {
            bytes.truncate(below(bytes.len()) + 1);
        }
        let mut wire = Wire::dial(port);
        let cut = Cut::At(below(bytes.len()));
        wire.send_cut(&bytes, cut);
        // A stream of events or a WebSocket that is open ends with its client.
        let _ = wire.stream().shutdown(Shutdown::Write);
        if below(2) == 0 {
            let rest = wire.try_rest();
            assert!(
                rest.is_ok(),
                "round {round}, {cut:?}: {rest:?}: \"{}\"",
                bytes.escape_ascii()
            );
        }
        if round % 100 == 0 {
            let event = Event::new("quiet", round.to_string());
            bystander.publish(&event);
            assert_eq!(bystander.message(), event);
        }
    }
    wait_until("only the bystander and the asker are left", || {
        counter(&mut asker, "connections") == 2
    });
    assert_eq!(counter(&mut asker, "input_bytes"), 0);
    assert_eq!(counter(&mut asker, "subscriptions"), 1);
}

/// What is written until the broker does not read on; the writer learns of it by its patience.
fn flood(wire: &Wire, bytes: &[u8], times: usize) -> usize {
    use std::io::Write;
    let mut stream = wire.stream().try_clone().unwrap();
    let patience = std::time::Duration::from_millis(700);
    stream.set_write_timeout(Some(patience)).unwrap();
    let mut written = 0;
    for _ in 0..times {
        let mut at = 0;
        while at < bytes.len() {
            match stream.write(&bytes[at..]) {
                Ok(count) => at += count,
                Err(_) => return written + at,
            }
        }
        written += bytes.len();
    }
    written
}

#[test]
fn who_does_not_read_answers_is_not_read_and_loses_none() {
    let limits = File::new("[limits]\noutbox_bytes_max = \"1 MiB\"\n");
    let broker = Broker::start(1, &["--echo", "--config", limits.path()]);
    let port = broker.http_port();
    let baseline = baseline_kib(&broker);
    // Long requests, so that what the kernels keep between is not very many of them.
    let padding = format!("X: {}", "x".repeat(4_000));
    let info = request(port, "GET /info", &[&padding], b"");
    let block = info.repeat(20);
    let mut http = Http::dial(port);
    let written = flood(&http.wire, &block, 5_000);
    assert!(written < 5_000 * block.len(), "the broker took all of it");
    let pings = frames("ping:x*125").repeat(1_000);
    let mut deaf = WebSocket::open(port, "/echo", &[]);
    let pinged = flood(&deaf.wire, &pings, 5_000);
    assert!(pinged < 5_000 * pings.len(), "the broker took all pings");
    let mut echo = WebSocket::open(port, "/echo", &[]);
    let text = frames("binary:x*100000");
    let echoed = flood(&echo.wire, &text, 5_000);
    assert!(echoed < 5_000 * text.len(), "the broker took all messages");
    // What gathers is bounded, and others are served.
    check_peak(
        "answers unread",
        &broker,
        baseline,
        memory_cap_kib(1, 3, 3 * 1024 * 1024),
    );
    assert_eq!(ask(port, "GET /health", &[], b"").status, 200);
    // Whoever reads on gets every answer to what was whole.
    for _ in 0..written / info.len() {
        let answer = http.try_answer(Asked::Other).unwrap().expect("an answer");
        assert_eq!(answer.status, 200);
    }
    let ping = pings.len() / 1_000;
    for _ in 0..pinged / ping {
        assert_eq!(deaf.said(), Said::Pong(vec![b'x'; 125]));
    }
    for _ in 0..echoed / text.len() {
        assert_eq!(echo.binary().len(), 100_000);
    }
}

#[test]
fn a_message_in_very_many_fragments_is_one_message() {
    let broker = Broker::start(1, &["--echo"]);
    let mut socket = WebSocket::open(broker.http_port(), "/echo", &[]);
    let mut bytes = frames("text-:a");
    bytes.extend(frames("cont-").repeat(100_000));
    bytes.extend(frames("cont-:b").repeat(100_000));
    bytes.extend(frames("cont:c"));
    let mut writer = socket.wire.stream().try_clone().unwrap();
    let writing = thread::spawn(move || {
        use std::io::Write;
        writer.write_all(&bytes).unwrap();
    });
    assert_eq!(socket.text(), format!("a{}c", "b".repeat(100_000)));
    writing.join().unwrap();
}
