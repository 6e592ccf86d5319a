//! Unmodified NATS clients of the current versions, used as their documentation shows.
//!
//! The scripts in `tests/clients/` and the Rust client below assert by themselves, against one shard and two, without
//! and with a password; here they get their broker, and are told when to expect a restart of it.

#[path = "nats_clients/checks.rs"]
mod checks;
mod common;
#[path = "common/load.rs"]
mod load;
#[path = "nats_clients/rust.rs"]
mod rust;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use common::{Broker, script};
use load::File;
use rust::{Server, WAIT_MAX};

const PASSWORD: &str = "correct horse";

/// Twice what the largest ordinary message here has; the scripts know it as well.
const PAYLOAD_MAX: &[&str] = &["--max-payload", "2MiB"];

#[test]
fn nats_py_works() {
    for_each_broker(|broker, password| run(script::python("nats_py.py"), broker, password));
}

#[test]
fn nats_js_works() {
    for_each_broker(|broker, password| run(script::node("nats_js.mjs"), broker, password));
}

#[test]
fn nats_c_works() {
    let program = script::c("nats_c.c", &["-lnats"]);
    for shards in [1, 2] {
        let mut broker = Broker::start(shards, PAYLOAD_MAX);
        let port = broker.nats_port();
        script::run_at(port, Command::new(&program), &mut broker, &[]);
    }
}

#[test]
fn clients_of_all_protocols_hear_each_other() {
    for shards in [1, 2] {
        let mut broker = Broker::start(shards, &[]);
        let mut command = script::python("mixed.py");
        command
            .env("SAPWOOD_TEST_BINARY", env!("CARGO_BIN_EXE_sapwood"))
            .env("SAPWOOD_TEST_REDIS_PORT", broker.port().to_string())
            .env(
                "SAPWOOD_NATIVE",
                format!("127.0.0.1:{}", broker.native_port()),
            );
        let port = broker.nats_port();
        script::run_at(port, command, &mut broker, &["mixed"]);
    }
}

#[test]
fn async_nats_works() {
    for_each_broker(|broker, password| {
        let server = Server::new(broker.nats_port(), password);
        runtime().block_on(async {
            checks::publish_and_subscribe(&server).await;
            checks::wildcards(&server).await;
            checks::queue_groups(&server).await;
            checks::requests(&server).await;
            checks::many_replies(&server).await;
            checks::no_responders(&server).await;
            checks::headers(&server).await;
            checks::auto_unsubscribe(&server).await;
            checks::no_echo(&server).await;
            checks::large_payloads(&server).await;
            checks::drain(&server).await;
            checks::authentication(&server).await;
            checks::slow_consumer(&server).await;
            checks::order(&server).await;
            server.check();
            checks::reconnect(&server, broker).await;
        });
    });
}

/// The clients' own tasks go on while a check waits for the broker.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

#[test]
fn a_client_that_stops_reading_is_closed_and_others_go_on() {
    const MESSAGES: usize = 768;
    const MESSAGE_BYTES: usize = 64 * 1024;
    let config = File::new("[limits]\noutbox_bytes_max = \"6MiB\"\n");
    for shards in [1, 2] {
        let broker = Broker::start(shards, &["--config", config.path()]);
        let server = Server::new(broker.nats_port(), None);
        let slow = [0; 3].map(|_| subscribe_and_stop(broker.nats_port()));
        runtime().block_on(async {
            let (publisher, quick) = (server.connect().await, server.connect().await);
            let mut all = rust::subscribed(&quick, "flood").await;
            for number in 0..MESSAGES {
                let payload = vec![number as u8; MESSAGE_BYTES];
                rust::publish(&publisher, "flood", payload.clone()).await;
                // One at a time: nothing waits for who reads.
                let got = rust::next_payload(&mut all).await;
                assert!(got == payload, "message {number}");
            }
            server.check();
        });
        for mut slow in slow {
            let bytes = read_to_end(&mut slow);
            assert!(bytes < MESSAGES * MESSAGE_BYTES / 2, "{bytes} bytes came");
        }
    }
}

/// A client that asks for a flood and reads no more.
fn subscribe_and_stop(port: u16) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("the broker listens");
    socket.set_read_timeout(Some(WAIT_MAX)).unwrap();
    socket
        .write_all(b"CONNECT {\"verbose\":false}\r\nSUB flood 1\r\nPING\r\n")
        .unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"PONG\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("INFO and PONG");
        said.push(byte[0]);
    }
    socket
}

/// What the broker had sent before it closed the connection, in bytes.
fn read_to_end(socket: &mut TcpStream) -> usize {
    let mut bytes = 0;
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match socket.read(&mut chunk) {
            Ok(0) => return bytes,
            Ok(length) => bytes += length,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return bytes,
            Err(error) => panic!("the connection is not closed after {bytes} bytes: {error}"),
        }
    }
}

fn run(command: std::process::Command, broker: &mut Broker, password: Option<&str>) {
    let args: Vec<&str> = ["nats"].into_iter().chain(password).collect();
    script::run_at(broker.nats_port(), command, broker, &args);
}

fn for_each_broker(check: impl Fn(&mut Broker, Option<&'static str>)) {
    for shards in [1, 2] {
        for password in [None, Some(PASSWORD)] {
            let mut broker = Broker::start_restartable_with(shards, password, PAYLOAD_MAX);
            check(&mut broker, password);
        }
    }
}
