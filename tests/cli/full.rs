//! A broker that has as many connections as it may: what it says that it may have, and that an operator gets in.

use super::{Broker, Directory, run, sapwood, stderr};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

/// Open files that leave room for few connections, and how many: 256 are kept for the process, 16 for each shard.
const FILES: usize = 400;

fn connections_of(shards: usize) -> usize {
    FILES - 256 - 16 * shards
}

/// A client that has been served.
fn connect(broker: &Broker) -> TcpStream {
    let mut stream = TcpStream::connect(broker.address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    let mut reply = [0; 7];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"+PONG\r\n");
    stream
}

/// Checks that what asks about a broker is answered.
fn check_gets_in(broker: &Broker) {
    for (flag, address) in [
        ("--redis", broker.address()),
        ("--native", broker.listener("native")),
    ] {
        let output = run(&["info", flag, &address], &[]);
        assert_eq!(output.status.code(), Some(0), "{flag}: {}", stderr(&output));
    }
    let varz = get(broker, "/varz");
    assert!(varz.contains("\"max_connections\""), "{varz}");
}

fn get(broker: &Broker, path: &str) -> String {
    let mut stream = TcpStream::connect(broker.listener("http")).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn info_gets_in_where_a_broker_has_as_many_connections_as_it_may() {
    for shards in ["1", "2"] {
        let directory = Directory::new();
        let config = directory.file("broker.toml", "[limits]\nconnections_max = 3\n");
        let args = [
            "--redis",
            "127.0.0.1:0",
            "--shards",
            shards,
            "--config",
            &config,
        ];
        let broker = Broker::start(&args, &[]);
        // Enough that each shard is full, with those places that are kept.
        let _clients: Vec<TcpStream> = (0..80).map(|_| connect(&broker)).collect();
        for _ in 0..5 {
            check_gets_in(&broker);
        }
    }
}

#[test]
fn few_open_files_are_said_to_be_few_connections_and_info_gets_in() {
    for shards in [1, 2] {
        let most = connections_of(shards);
        let shards = shards.to_string();
        let serve = sapwood(&[], &[]);
        let mut command = Command::new("sh");
        for (name, value) in serve.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let line = format!("ulimit -n {FILES} && exec \"$0\" \"$@\"");
        command.args(["-c", &line]).arg(serve.get_program());
        command.args(["serve", "--redis", "127.0.0.1:0", "--shards", &shards]);
        let broker = Broker::start_by(command);
        let output = run(
            &["info", "clients", "--json", "--redis", &broker.address()],
            &[],
        );
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(value["clients"]["maxclients"], most);
        let varz = get(&broker, "/varz");
        assert!(
            varz.contains(&format!("\"max_connections\":{most},")),
            "{varz}"
        );
        // More than fit: those that came first beyond it make room for the others.
        let clients: Vec<TcpStream> = (0..most + 40).map(|_| connect(&broker)).collect();
        check_gets_in(&broker);
        drop(clients);
        let (code, _, log) = broker.end_by("TERM");
        assert_eq!(code, Some(0), "{log}");
        assert!(
            log.contains(&format!("{FILES} open files allow {most} connections")),
            "{log}"
        );
        assert!(!log.contains("raise the limit of open files"), "{log}");
    }
}
