//! Clients of HTTP, WebSocket and server-sent events that people use, unmodified: curl, httpx, requests, urllib3, sseclient-py,
//! websockets, npm `ws`, `eventsource` and `event-source-polyfill`; against one shard and two, without and with a password. `eventsource` and the
//! polyfill also in Chromium, from pages of other origins.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Broker, free_port, script};

const PASSWORD: &str = "correct horse";

#[test]
fn clients_in_python_work() {
    for_each_broker(|broker, password| run(script::python("web_py.py"), broker, password));
}

#[test]
fn clients_in_node_work() {
    for_each_broker(|broker, password| run(script::node("web_js.mjs"), broker, password));
}

#[test]
fn event_sources_in_a_browser_work_from_a_named_origin() {
    for (shards, password) in [(1, None), (2, Some(PASSWORD))] {
        let port = free_port();
        let origin = format!("http://127.0.0.1:{port}");
        let args = ["--http-origin", &origin];
        let mut broker = Broker::start_restartable_with(shards, password, &args);
        let mut command = script::node("web_origin.mjs");
        command
            .env("SAPWOOD_TEST_CHROMIUM", script::chromium())
            .env("SAPWOOD_TEST_ORIGIN_PORT", port.to_string());
        run(command, &mut broker, password);
    }
}

fn run(command: Command, broker: &mut Broker, password: Option<&str>) {
    let args: Vec<&str> = ["web"].into_iter().chain(password).collect();
    script::run_at(broker.http_port(), command, broker, &args);
}

fn for_each_broker(check: impl Fn(&mut Broker, Option<&'static str>)) {
    for shards in [1, 2] {
        for password in [None, Some(PASSWORD)] {
            let mut broker = Broker::start_restartable(shards, password);
            check(&mut broker, password);
        }
    }
}

/// What curl prints.
fn curl(args: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("curl is installed");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // It fails where curl does not read what it was given, which its own error then says.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("curl ends");
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("a text")
}

#[test]
fn curl_works() {
    for shards in [1, 2] {
        let broker = Broker::start_guarded(shards, PASSWORD, &["--user", "service"]);
        let base = format!("http://127.0.0.1:{}", broker.http_port());
        let at = |path: &str| format!("{base}{path}");
        let login = format!("service:{PASSWORD}");
        assert_eq!(curl(&[&at("/health")], b""), "{\"status\":\"ok\"}");
        let code = ["--output", "/dev/null", "--write-out", "%{http_code}"];
        let refused = curl(&[&code[..], &[&at("/varz")]].concat(), b"");
        assert_eq!(refused, "401");
        // A subscriber that ends after the second event.
        let url = at("/v1/topics/jobs.%3E?topic=other");
        let events = std::thread::spawn({
            let login = login.clone();
            move || {
                let mut child = Command::new("curl")
                    .args([
                        "--silent",
                        "--no-buffer",
                        "--max-time",
                        "20",
                        "--user",
                        &login,
                    ])
                    .arg(&url)
                    .stdout(Stdio::piped())
                    .spawn()
                    .expect("curl is installed");
                let mut lines = std::io::BufRead::lines(std::io::BufReader::new(
                    child.stdout.take().expect("stdout is piped"),
                ));
                let mut data = Vec::new();
                while data.len() < 2 {
                    let line = lines.next().expect("the stream goes on").expect("a text");
                    data.extend(line.strip_prefix("data: ").map(str::to_string));
                }
                let _ = child.kill();
                let _ = child.wait();
                data
            }
        });
        let publish = |topic: &str, args: &[&str], body: &[u8]| {
            let url = at(&format!("/v1/topics/{topic}"));
            let given = ["--user", login.as_str(), "--data-binary", "@-", &url];
            curl(&[&given[..], args].concat(), body)
        };
        // Until somebody hears it; no other way tells that a stream has begun.
        while publish("jobs.one", &[], b"first\nline two") == "{\"count\":0}" {
            std::thread::sleep(Duration::from_millis(10));
        }
        let chunked = ["--header", "Transfer-Encoding: chunked"];
        assert_eq!(publish("other", &chunked, b"\x00\xff"), "{\"count\":1}");
        let data = events.join().expect("curl hears the events");
        let first = "{\"topic\":\"jobs.one\",\"data\":\"first\\nline two\"}";
        assert_eq!(data, [first, "{\"topic\":\"other\",\"data_b64\":\"AP8=\"}"]);
        // A body above a mebibyte: curl asks for leave to send it.
        let long = vec![7; 3 * 1024 * 1024];
        assert_eq!(publish("nobody", &[], &long), "{\"count\":0}");
        let page = curl(&["--user", &login, "--compressed", &at("/")], b"");
        assert!(page.starts_with("<!doctype html>"), "{page}");
    }
}
