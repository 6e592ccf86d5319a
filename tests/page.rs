//! The page at `/`, in a real browser.
//!
//! `tests/clients/page.mjs` opens it in headless Chromium, subscribes both ways, and looks at what it shows of events from
//! redis-cli, from nats-py and from itself, also after the broker restarted. Here it gets its broker. `page_tree.mjs` looks at
//! the tree of nodes, and gets three of them.

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::{Broker, VALUE_SECONDS_MAX, script};
use serde_json::json;

const PASSWORD: &str = "correct horse";

#[test]
fn page_works_with_one_shard() {
    check(1, None);
}

#[test]
fn page_works_with_two_shards_and_a_password() {
    check(2, Some(PASSWORD));
}

#[test]
fn page_shows_the_tree_of_three_nodes() {
    let node = |name, shards, join: &[&str]| {
        let args = [&["--node-name", name, "--children-max", "1"], join].concat();
        Broker::start(shards, &args)
    };
    let root = node("bergen", 1, &[]);
    let seed = format!("127.0.0.1:{}", root.node_port());
    let mut middle = node("oslo", 2, &["--join", &seed]);
    await_place(&middle, "/0");
    let leaf = node("rana", 1, &["--join", &seed]);
    await_place(&leaf, "/0/0");
    let nodes = [
        ("bergen", "/", &root),
        ("oslo", "/0", &middle),
        ("rana", "/0/0", &leaf),
    ];
    let nodes = nodes.map(|(name, place, node)| {
        json!({
            "name": name,
            "place": place,
            "pid": node.pid(),
            "isHere": node.pid() == middle.pid(),
        })
    });
    let mut command = script::node("page_tree.mjs");
    command
        .env("SAPWOOD_TEST_CHROMIUM", script::chromium())
        .env("SAPWOOD_TEST_NODES", json!(nodes).to_string());
    script::run_at(middle.http_port(), command, &mut middle, &["2"]);
}

/// Waits until a node says that it stands there.
fn await_place(node: &Broker, place: &str) {
    let deadline = Instant::now() + VALUE_SECONDS_MAX;
    let said = format!("stands at {place} below");
    while !node.stderr().contains(&said) {
        assert!(Instant::now() < deadline, "not {place}: {}", node.stderr());
        thread::sleep(Duration::from_millis(2));
    }
}

fn check(shards: usize, password: Option<&str>) {
    let mut broker = Broker::start_restartable(shards, password);
    let mut command = script::node("page.mjs");
    command
        .env("SAPWOOD_TEST_CHROMIUM", script::chromium())
        .env(
            "SAPWOOD_TEST_PYTHON",
            script::cache().join("python/bin/python"),
        )
        .env("SAPWOOD_TEST_REDIS_PORT", broker.port().to_string())
        .env("SAPWOOD_TEST_NATS_PORT", broker.nats_port().to_string())
        .env("SAPWOOD_TEST_VERSION", env!("CARGO_PKG_VERSION"));
    let shards = shards.to_string();
    let args: Vec<&str> = [shards.as_str()].into_iter().chain(password).collect();
    script::run_at(broker.http_port(), command, &mut broker, &args);
}
