//! Unmodified Redis clients of the current versions, used as their documentation shows.
//!
//! Each script in `tests/clients/` runs under RESP2 and RESP3, against one shard and two, without and with a
//! password: any two of these together, and all three with `tools/test --all`. It asserts by itself; here it
//! gets its broker, and is told when to expect a restart of it.

mod common;

use common::{Broker, is_played, script};

const PASSWORD: &str = "correct horse";

#[test]
fn redis_py_works() {
    check(|| script::python("redis_py_sync.py"));
}

#[test]
fn redis_py_asyncio_works() {
    check(|| script::python("redis_py_async.py"));
}

#[test]
fn node_redis_works() {
    check(|| script::node("node_redis.mjs"));
}

#[test]
fn ioredis_works() {
    check(|| script::node("ioredis.mjs"));
}

fn check(command: impl Fn() -> std::process::Command) {
    for protocol in ["2", "3"] {
        for shards in [1, 2] {
            for password in [None, Some(PASSWORD)] {
                if is_played([protocol == "3", shards == 2, password.is_some()]) {
                    let mut broker = Broker::start_restartable(shards, password);
                    let args: Vec<&str> = [protocol].into_iter().chain(password).collect();
                    script::run(command(), &mut broker, &args);
                }
            }
        }
    }
}
