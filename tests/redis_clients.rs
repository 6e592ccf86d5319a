//! Unmodified Redis clients of the current versions, used as their documentation shows.
//!
//! Each script in `tests/clients/` runs under RESP2 and RESP3, against one shard and two. It asserts by
//! itself; here it gets its broker, and is told when to expect a restart of it.

mod common;

use common::{Broker, script};

const PASSWORD: &str = "correct horse";

#[test]
fn redis_py_works() {
    for protocol in ["2", "3"] {
        check(|| script::python("redis_py_sync.py"), protocol);
    }
}

#[test]
fn redis_py_asyncio_works() {
    for protocol in ["2", "3"] {
        check(|| script::python("redis_py_async.py"), protocol);
    }
}

#[test]
fn node_redis_works() {
    for protocol in ["2", "3"] {
        check(|| script::node("node_redis.mjs"), protocol);
    }
}

#[test]
fn ioredis_works() {
    for protocol in ["2", "3"] {
        check(|| script::node("ioredis.mjs"), protocol);
    }
}

fn check(command: impl Fn() -> std::process::Command, protocol: &str) {
    for shards in [1, 2] {
        let mut open = Broker::start_restartable(shards, None);
        script::run(command(), &mut open, &[protocol]);
        let mut guarded = Broker::start_restartable(shards, Some(PASSWORD));
        script::run(command(), &mut guarded, &[protocol, PASSWORD]);
    }
}
