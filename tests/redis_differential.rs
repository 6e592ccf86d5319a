//! The same random history against `redis-server` and Sapwood: every reply and every push is compared.
//!
//! A history is a list of steps of several connections. After each step both servers are brought to
//! rest: `redis-server` by round trips of a control connection, as it is one thread; Sapwood by
//! reading each connection until it has said as much as the reference did there. Each history runs
//! step by step, pipelined (neighbouring steps of a connection in one write) and split at random bytes.
//!
//! Start reading at `INTENDED`, then `history::History::random` and `compare::render`.
//! `SAPWOOD_TEST_SEED=n` runs the one history of that seed, `SAPWOOD_TEST_HISTORIES=n` so many new ones.

mod common;
#[path = "differential/compare.rs"]
mod compare;
#[path = "differential/crowd.rs"]
mod crowd;
#[path = "differential/dice.rs"]
mod dice;
#[path = "differential/history.rs"]
mod history;
#[path = "differential/plan.rs"]
mod plan;
#[path = "differential/run.rs"]
mod run;

use std::time::{Duration, Instant};

use common::{Broker, Reference, against_redis, resp::RawClient, resp::Value};
use compare::Mask;
use history::History;
use plan::{Delivery, ToldOnPanic, seeds};
use run::Pair;

/// How an intended difference is treated.
enum Treatment {
    /// Generated; hidden in both transcripts before they are compared.
    Masked(Mask),
    /// Not generated, as it would change what follows. Asked once, and Sapwood's answer begins like this.
    Asked {
        request: &'static [&'static str],
        answer: Answer,
    },
}

/// What Sapwood is to answer where it differs from `redis-server`.
enum Answer {
    Begins(&'static str),
    Ok,
}

/// A place where Sapwood is to answer something else than `redis-server` 7.0.
struct Difference {
    what: &'static str,
    reason: &'static str,
    treatment: Treatment,
}

/// A channel name of 1,025 bytes, in few tokens.
const LONG_NAME: &str = {
    const BYTES: [u8; 1025] = [b'n'; 1025];
    match std::str::from_utf8(&BYTES) {
        Ok(name) => name,
        Err(_) => unreachable!(),
    }
};
/// A channel name of 65 tokens.
const DEEP_NAME: &str = "t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.\
                         t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t";

const REFUSED: Answer = Answer::Begins("ERR ");

/// Every intended difference. What is not in this table is a bug of Sapwood.
const INTENDED: &[Difference] = &[
    Difference {
        what: "the values of HELLO's server, version, id and modules",
        reason: "Sapwood is another server; the keys and proto must be Redis's own",
        treatment: Treatment::Masked(compare::mask_hello),
    },
    Difference {
        what: "CLIENT ID",
        reason: "each server counts its own connections",
        treatment: Treatment::Masked(compare::mask_client_id),
    },
    Difference {
        what: "CLIENT LIST and CLIENT INFO",
        reason: "addresses, ages and memory differ; the fields that follow from the history must be \
                 there and are compared: name db sub psub ssub multi resp",
        treatment: Treatment::Masked(compare::mask_client_list),
    },
    Difference {
        what: "GET",
        reason: "data commands come with tables; until then they are unknown",
        treatment: Treatment::Asked {
            request: &["GET", "key"],
            answer: Answer::Begins("ERR unknown command 'GET', with args beginning with: 'key' "),
        },
    },
    Difference {
        what: "SET",
        reason: "data commands come with tables; until then they are unknown",
        treatment: Treatment::Asked {
            request: &["SET", "key", "value"],
            answer: Answer::Begins(
                "ERR unknown command 'SET', with args beginning with: 'key' 'value' ",
            ),
        },
    },
    Difference {
        what: "CLIENT SETINFO",
        reason: "clients send it since Redis 7.2; 7.0 does not know it, Sapwood takes it",
        treatment: Treatment::Asked {
            request: &["CLIENT", "SETINFO", "lib-name", "test"],
            answer: Answer::Ok,
        },
    },
    Difference {
        what: "PUBLISH to a name that the broker keeps",
        reason: "they belong to features of NATS",
        treatment: Treatment::Asked {
            request: &["PUBLISH", "$JS.x", "x"],
            answer: REFUSED,
        },
    },
    Difference {
        what: "PUBLISH to a name of more than 1,024 bytes",
        reason: "a topic has a cap",
        treatment: Treatment::Asked {
            request: &["PUBLISH", LONG_NAME, "x"],
            answer: REFUSED,
        },
    },
    Difference {
        what: "SUBSCRIBE to a name of more than 1,024 bytes",
        reason: "a topic has a cap",
        treatment: Treatment::Asked {
            request: &["SUBSCRIBE", LONG_NAME],
            answer: REFUSED,
        },
    },
    Difference {
        what: "SUBSCRIBE to a name of more than 64 tokens",
        reason: "a topic has a cap",
        treatment: Treatment::Asked {
            request: &["SUBSCRIBE", DEEP_NAME],
            answer: REFUSED,
        },
    },
    Difference {
        what: "PUBLISH to a name of more than 64 tokens",
        reason: "a topic has a cap",
        treatment: Treatment::Asked {
            request: &["PUBLISH", DEEP_NAME, "x"],
            answer: REFUSED,
        },
    },
];

/// Histories for each number of shards and each delivery: 1,800 in all, of 60 steps or a few more.
const HISTORIES: u64 = 300;
/// Seeds that have found a bug. They run first, always.
const FOUND: &[u64] = &[];
/// What finding a shorter history may take once one has failed.
const SHRINK_SECONDS_MAX: Duration = Duration::from_secs(20);

#[test]
fn one_shard_answers_as_redis_does_step_by_step() {
    check(1, Delivery::Stepwise);
}

#[test]
fn two_shards_answer_as_redis_does_step_by_step() {
    check(2, Delivery::Stepwise);
}

#[test]
fn one_shard_answers_pipelines_as_redis_does() {
    check(1, Delivery::Pipelined);
}

#[test]
fn two_shards_answer_pipelines_as_redis_does() {
    check(2, Delivery::Pipelined);
}

#[test]
fn one_shard_answers_split_writes_as_redis_does() {
    check(1, Delivery::Split);
}

#[test]
fn two_shards_answer_split_writes_as_redis_does() {
    check(2, Delivery::Split);
}

/// Publishers that write at the same time: each subscriber hears each of them as he wrote.
#[test]
fn messages_of_each_publisher_keep_their_order() {
    let reference = Reference::start();
    let expected = crowd::heard(reference.port());
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let heard = crowd::heard(broker.port());
        for ((who, expected), (_, heard)) in expected.iter().zip(&heard) {
            let differs = expected.iter().zip(heard).position(|(a, b)| a != b);
            assert!(
                expected == heard,
                "{who} with {shards} shards: {} messages for {}, first difference at {differs:?}",
                heard.len(),
                expected.len(),
            );
        }
    }
}

#[test]
fn intended_differences_are_as_the_table_says() {
    if against_redis() {
        return;
    }
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        for difference in INTENDED {
            let Treatment::Asked { request, answer } = &difference.treatment else {
                continue;
            };
            let reply = RawClient::connect(broker.port()).call(request);
            let fits = match (answer, &reply) {
                (Answer::Begins(start), Value::Error(text)) => text.starts_with(start),
                (Answer::Ok, reply) => *reply == Value::ok(),
                _ => false,
            };
            assert!(
                fits,
                "{} ({}): {reply:?}",
                difference.what, difference.reason
            );
        }
    }
}

/// The canary: a reference that is told something else must be found out.
#[test]
fn a_different_history_is_noticed() {
    let (left, right) = (Reference::start(), Reference::start());
    let mut pair = Pair::new(left.port(), right.port());
    let history = History::random(1);
    pair.run(&history, Delivery::Stepwise)
        .expect("the same history gives the same answers");
    for seed in 1..=5 {
        let history = History::random(seed);
        let (left, right) = (
            history.with_last_message(b"one"),
            history.with_last_message(b"two"),
        );
        let found = pair.run_different(&left, &right);
        let failure = found.expect_err("one changed payload makes a difference");
        assert_eq!(failure.step, left.steps.len() - 1);
        pair.reconnect();
    }
}

fn check(shards: usize, delivery: Delivery) {
    let reference = Reference::start();
    let broker = Broker::start(shards, &[]);
    let mut pair = Pair::new(reference.port(), broker.port());
    for seed in seeds(HISTORIES, FOUND) {
        let history = History::random(seed);
        let _told = ToldOnPanic(seed);
        if let Err(failure) = pair.run(&history, delivery) {
            // A failure that does not come again is not made shorter: this is all there is of it.
            eprintln!("the whole history: {failure}");
            let deadline = Instant::now() + SHRINK_SECONDS_MAX;
            let (shortest, failure) = pair.shrink(history, delivery, failure, deadline);
            panic!(
                "seed {seed}, {shards} shards, {delivery:?}: SAPWOOD_TEST_SEED={seed} runs it again\n\
                 {shortest}\n{failure}\nbroker: {}",
                broker.stderr()
            );
        }
    }
}
