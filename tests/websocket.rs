//! WebSocket as RFC 6455 and WEB.md say it, by raw bytes. The cases are tables; each is sent whole, byte by byte, and cut at
//! every place, or in fewer ways where it is long.

mod common;
#[path = "common/frames.rs"]
mod frames;
#[path = "common/load.rs"]
mod load;
#[path = "common/web.rs"]
mod web;

#[path = "websocket/cases.rs"]
mod cases;
#[path = "websocket/handshake.rs"]
mod handshake;
#[path = "websocket/protocols.rs"]
mod protocols;

use cases::{BROKEN, CLOSED, CUT_CHARACTERS, Case, ECHOED, LEGAL, NO_UTF8, OFFSETS};
use common::Broker;
use frames::{Said, frames, said, short};
use web::{Cut, WebSocket, check_all, cuts};

/// One run of a case: where, what is sent and how, and what has to come back.
struct Run {
    name: String,
    sent: String,
    expected: Vec<Said>,
    cut: Cut,
}

/// Every run of a case. A case that closes nothing is closed at the end.
fn runs(name: &str, sent: &str, expected: &str) -> Vec<Run> {
    let (sent, expected) = match expected.contains("close") {
        true => (sent.to_string(), format!("{expected} end")),
        false => (
            format!("{sent} close:1000"),
            format!("{expected} close:1000 end"),
        ),
    };
    let ways = cuts(frames(&sent).len());
    let run = |cut| Run {
        name: name.to_string(),
        sent: sent.clone(),
        expected: said(&expected),
        cut,
    };
    ways.into_iter().map(run).collect()
}

/// Runs a case where `open` leads to.
fn check(run: &Run, open: impl Fn() -> Result<WebSocket, String>) -> Result<(), String> {
    let result = open().and_then(|mut socket| {
        socket.wire.send_cut(&frames(&run.sent), run.cut);
        let mut came = Vec::new();
        while came.last() != Some(&Said::End) {
            match socket.try_said() {
                Ok(said) => came.push(said),
                Err(error) => return Err(format!("{error}, behind {}", short(&came))),
            }
            // Whole, the broker has to end the connection by itself; else a polite client helps.
            if matches!(came.last(), Some(Said::Close(_))) && run.cut != Cut::Whole {
                socket.wire.finish();
            }
        }
        match came == run.expected {
            true => Ok(()),
            false => Err(format!(
                "{} instead of {}",
                short(&came),
                short(&run.expected)
            )),
        }
    });
    result.map_err(|error| {
        let sent: String = run.sent.chars().take(200).collect();
        format!("{} ({:?}, {sent}): {error}", run.name, run.cut)
    })
}

fn check_echo(broker: &Broker, runs: &[Run]) {
    let port = broker.http_port();
    check_all(runs, |run| {
        check(run, || WebSocket::try_open(port, "/echo", &[]))
    });
}

fn all_runs(tables: &[&[Case]]) -> Vec<Run> {
    let cases = tables.iter().flat_map(|table| table.iter());
    cases
        .flat_map(|(name, sent, expected)| runs(name, sent, expected))
        .collect()
}

#[test]
fn messages_of_all_lengths_and_kinds_come_back() {
    let broker = Broker::start(1, &["--echo"]);
    let runs: Vec<Run> = ECHOED
        .iter()
        .flat_map(|message| runs("an echo", message, message))
        .collect();
    check_echo(&broker, &runs);
}

#[test]
fn what_is_legal_is_answered_as_the_rfc_says() {
    let broker = Broker::start(2, &["--echo"]);
    check_echo(&broker, &all_runs(&[LEGAL, CLOSED]));
}

#[test]
fn what_breaks_the_protocol_closes_the_connection() {
    let broker = Broker::start(2, &["--echo"]);
    check_echo(&broker, &all_runs(&[BROKEN]));
}

#[test]
fn the_protocol_is_the_same_whatever_is_spoken_over_it() {
    let broker = Broker::start(1, &[]);
    let port = broker.http_port();
    for protocol in ["sapwood.text", "sapwood.json", "sapwood.native"] {
        let header = format!("Sec-WebSocket-Protocol: {protocol}");
        let mut runs = all_runs(&[BROKEN, CLOSED]);
        runs.retain(|run| matches!(run.cut, Cut::Whole | Cut::Pieces(_)));
        if protocol == "sapwood.native" {
            // A text message would be refused for being one.
            runs.iter_mut()
                .for_each(|run| run.sent = run.sent.replace("text", "binary"));
        } else {
            // And here, a binary one in JSON.
            runs.iter_mut()
                .for_each(|run| run.sent = run.sent.replace("binary", "text"));
        }
        check_all(&runs, |run| {
            check(run, || WebSocket::try_open(port, "/ws", &[&header]))
        });
    }
}

/// Every way in which a text can fail to be UTF-8, as cases.
fn bad_texts() -> Vec<(String, String, &'static str)> {
    let mut cases = Vec::new();
    for (start, last) in NO_UTF8 {
        let what = format!("{start} {last}");
        let mut add = |name: &str, sent: String, expected| {
            cases.push((format!("{what}, {name}"), sent, expected));
        };
        let bad = format!("<{start}{last}>");
        add("alone", format!("text:{bad}"), "close:1007");
        add(
            "between others",
            format!("text:κ{bad}κ text:behind"),
            "close:1007",
        );
        add(
            "as soon as it shows",
            format!("claim=100000.text:κ{bad}"),
            "close:1007",
        );
        add(
            "in another fragment, as soon as it shows",
            format!("text-:κ claim=100000.cont:{bad}"),
            "close:1007",
        );
        // The ping shows that the start alone was not refused.
        let start = match start {
            &"" => String::new(),
            start => format!("<{start}>"),
        };
        add(
            "cut by a ping",
            format!("text-:κ{start} ping:p cont-:<{last}>"),
            "pong:p close:1007",
        );
        add(
            "in the reason of a close",
            format!("close:1000,κ{bad}"),
            "close:1007",
        );
    }
    for start in CUT_CHARACTERS {
        let name = format!("{start} at the end");
        let sent = [
            format!("text:κ<{start}>"),
            format!("text-:κ<{start}> cont"),
            format!("text-:κ cont:<{start}>"),
            format!("text-:κ<{start}> cont- ping:p cont"),
        ];
        for sent in sent {
            let expected = match sent.contains("ping") {
                true => "pong:p close:1007",
                false => "close:1007",
            };
            cases.push((name.clone(), sent, expected));
        }
    }
    cases
}

#[test]
fn a_text_that_is_no_utf8_is_refused_as_soon_as_it_shows() {
    let broker = Broker::start(2, &["--echo"]);
    let cases = bad_texts();
    let runs: Vec<Run> = cases
        .iter()
        .flat_map(|(name, sent, expected)| runs(name, sent, expected))
        .collect();
    check_echo(&broker, &runs);
}

#[test]
fn a_text_that_is_no_utf8_is_refused_wherever_that_stands() {
    let broker = Broker::start(1, &["--echo"]);
    let mut all = Vec::new();
    for offset in OFFSETS {
        for (start, last) in NO_UTF8 {
            let valid = match offset {
                0 => String::new(),
                count => format!("x*{count}"),
            };
            let sent = [
                format!("claim=100000.text:{valid}<{start}{last}>"),
                format!("text:{valid}<{start}{last}>y*100"),
            ];
            for sent in sent {
                let mut ways = runs(&format!("behind {offset} bytes"), &sent, "close:1007");
                ways.retain(|run| matches!(run.cut, Cut::Whole | Cut::Pieces(1_021)));
                all.append(&mut ways);
            }
        }
        // And what is right stays right there.
        if *offset > 0 {
            let sent = format!("text:x*{offset}👍é*{offset}");
            all.append(&mut runs("valid", &sent, &sent));
        }
    }
    check_echo(&broker, &all);
}

#[test]
fn binary_messages_may_hold_what_is_no_utf8() {
    let broker = Broker::start(1, &["--echo"]);
    let runs: Vec<Run> = NO_UTF8
        .iter()
        .flat_map(|(start, last)| {
            let sent = format!("binary-:<{start}{last}> cont:<{last}>");
            runs("binary", &sent, &format!("binary:<{start}{last}{last}>"))
        })
        .collect();
    check_echo(&broker, &runs);
}

#[test]
fn a_close_is_read_by_a_client_that_sends_on() {
    // With megabytes unread, a socket that is just closed would answer them with a reset, which may overtake the close
    // frame: the client would never learn why.
    let broker = Broker::start(1, &["--echo"]);
    for (what, code) in [("rsv1.text:a", 1002), ("close:1000", 1000)] {
        let mut socket = WebSocket::open(broker.http_port(), "/echo", &[]);
        socket.send(&format!("{what} binary:x*4000000"));
        assert_eq!(socket.said(), Said::Close(Some(code)), "{what}");
        socket.wire.finish();
        assert_eq!(socket.said(), Said::End, "{what}");
    }
}

#[test]
fn a_connection_that_is_closed_in_order_is_not_reset() {
    let broker = Broker::start(1, &["--echo"]);
    for (sent, code) in [("text:a close:1000", 1000), ("text:a rsv1.text:b", 1002)] {
        let mut socket = WebSocket::open(broker.http_port(), "/echo", &[]);
        socket.send(sent);
        assert_eq!(socket.said(), Said::text("a"));
        socket.expect_close(code);
        assert!(!socket.wire.was_reset, "{sent}");
    }
}

#[test]
fn a_client_that_ends_without_a_close_is_forgotten() {
    let broker = Broker::start(1, &["--echo"]);
    for sent in ["", "text-:a", "claim=100.text:a", "ping:x"] {
        let mut socket = WebSocket::open(broker.http_port(), "/echo", &[]);
        socket.send(sent);
        socket.wire.finish();
        let mut last = socket.said();
        if sent.starts_with("ping") {
            assert_eq!(last, Said::Pong(b"x".to_vec()));
            last = socket.said();
        }
        assert!(matches!(last, Said::End | Said::Close(_)), "{last:?}");
    }
    let mut redis = common::resp::RawClient::connect(broker.port());
    load::wait_until("only the asker is left", || {
        load::counter(&mut redis, "connections") == 1
    });
    assert_eq!(load::counter(&mut redis, "input_bytes"), 0);
}

#[test]
fn ten_thousand_small_messages_in_one_write_come_back_in_order() {
    let broker = Broker::start(1, &["--echo"]);
    let mut socket = WebSocket::open(broker.http_port(), "/echo", &[]);
    let all: String = (0..10_000)
        .map(|number| match number % 10 {
            9 => format!("ping:{number} "),
            5 => format!("binary-:{number} cont:. "),
            _ => format!("text:{number} "),
        })
        .collect();
    let bytes = frames(&all);
    let mut writer = socket.wire.stream().try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        use std::io::Write;
        writer.write_all(&bytes).unwrap();
    });
    for number in 0..10_000 {
        let text = number.to_string();
        let expected = match number % 10 {
            9 => Said::Pong(text.into_bytes()),
            5 => Said::Binary(format!("{text}.").into_bytes()),
            _ => Said::Text(text),
        };
        assert_eq!(socket.said(), expected);
    }
    writing.join().unwrap();
    socket.send("close:1000");
    socket.expect_close(1000);
}

#[test]
fn echo_is_there_only_where_it_was_asked_for() {
    let broker = Broker::start(1, &[]);
    let fixed = web::upgrade_headers();
    let headers: Vec<&str> = fixed.iter().map(String::as_str).collect();
    let answer = web::ask(broker.http_port(), "GET /echo", &headers, b"");
    assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"));
}
