//! The page at `/`, in a real browser.
//!
//! `tests/clients/page.mjs` opens it in headless Chromium, subscribes both ways, and looks at what it shows of events from
//! redis-cli, from nats-py and from itself, also after the broker restarted. Here it gets its broker.

mod common;

use common::{Broker, script};

const PASSWORD: &str = "correct horse";

#[test]
fn page_works_with_one_shard() {
    check(1, None);
}

#[test]
fn page_works_with_two_shards_and_a_password() {
    check(2, Some(PASSWORD));
}

fn check(shards: usize, password: Option<&str>) {
    let mut broker = Broker::start_restartable(shards, password);
    let mut command = script::node("page.mjs");
    command
        .env("SAPWOOD_TEST_CHROMIUM", chromium())
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

/// Where Debian puts it.
fn chromium() -> &'static str {
    let path = "/usr/bin/chromium";
    assert!(
        std::path::Path::new(path).exists(),
        "{path} is missing: run tools/setup, or apt-get install chromium"
    );
    path
}
