//! The same random history against `nats-server` and Sapwood: what every client sees is compared.
//!
//! A history is a list of steps of several connections. A step ends with an answered PING of the client that
//! acted, and then one of every other client: all that the step brings stands before those answers. What one
//! shard hands to another may come after, and is waited for. Each history runs step by step, pipelined and
//! split at random bytes.
//!
//! Start reading at `INTENDED`, then `history::History::random` and `compare::render`.
//! `SAPWOOD_TEST_SEED=n` runs the one history of that seed, `SAPWOOD_TEST_HISTORIES=n` so many new ones.

mod common;
#[path = "differential/nats_compare.rs"]
mod compare;
#[path = "differential/nats_crowd.rs"]
mod crowd;
#[path = "differential/dice.rs"]
mod dice;
#[path = "differential/nats_history.rs"]
mod history;
#[path = "differential/plan.rs"]
mod plan;
#[path = "differential/nats_run.rs"]
mod run;
#[path = "differential/nats_scenarios.rs"]
mod scenarios;

use std::time::{Duration, Instant};

use common::{Broker, NatsReference};
use history::History;
use plan::{Delivery, ToldOnPanic, seeds};
use run::Pair;

/// How an intended difference is treated.
enum Treatment {
    /// Made equal before the two are compared.
    Masked,
    /// Not generated: the broker would go on differently.
    Avoided,
    /// Not generated, and asked once.
    Asked {
        bytes: &'static str,
        nats: &'static [&'static str],
        sapwood: &'static [&'static str],
    },
}

/// A place where Sapwood is to do something else than `nats-server` 2.9.10.
struct Difference {
    what: &'static str,
    reason: &'static str,
    treatment: Treatment,
}

/// Every intended difference. What is not in this table is a bug of Sapwood.
const INTENDED: &[Difference] = &[
    Difference {
        what: "-ERR before the end after a wrong operation or wrong arguments",
        reason: "nats-server closes silently after most of them; Sapwood always says why",
        treatment: Treatment::Masked,
    },
    Difference {
        what: "where messages stand among +OK and PONG of the same step, and among those of other subscriptions",
        reason: "nats-server confirms a PUB before its own message, Sapwood after; both deliver before the next PONG",
        treatment: Treatment::Masked,
    },
    Difference {
        what: "which member of a queue group hears a message, and which own subscription hears of no responders",
        reason: "both choose as they like",
        treatment: Treatment::Masked,
    },
    Difference {
        what: "how often a pedantic client is told of an invalid subject in a row",
        reason: "nats-server says it again when the payload does not come with one read",
        treatment: Treatment::Masked,
    },
    Difference {
        what: "digits of a length in MSG",
        reason: "nats-server repeats the publisher's leading zeros",
        treatment: Treatment::Masked,
    },
    Difference {
        what: "a CONNECT that changes headers after a SUB",
        reason: "in Sapwood a subscription keeps what held when it was made; libraries say CONNECT first, and once",
        treatment: Treatment::Avoided,
    },
    Difference {
        what: "an error in a line that has not ended",
        reason: "Sapwood looks at whole lines; one without an end is closed for its length",
        treatment: Treatment::Avoided,
    },
    Difference {
        what: "PUB to a subject that belongs to a feature of nats-server",
        reason: "the features are not there, and what else is published there would be taken for theirs",
        treatment: Treatment::Asked {
            bytes: "SUB $KV.x 1\r\nPUB $KV.x 1\r\nx\r\n",
            nats: &["+OK", "+OK", "$KV.x x", "PONG"],
            sapwood: &[
                "+OK",
                "-ERR 'Permissions Violation for Publish to \"$KV.x\": names that begin with $JS., $KV., $O. or \
                 $SYS.REQ. are the broker's own; $trace: stands first, then $near: or $to:'",
                "PONG",
            ],
        },
    },
    Difference {
        what: "PUB to a subject with an empty token",
        reason: "it is a topic of Sapwood like others, as Redis has such channels; nats-server lets nobody hear it",
        treatment: Treatment::Asked {
            bytes: "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB > 1\r\nPUB a..b 1\r\nx\r\n",
            nats: &["PONG"],
            sapwood: &["a..b x", "PONG"],
        },
    },
    Difference {
        what: "a NUL in a subject",
        reason: "clients in C would see a shorter subject",
        treatment: Treatment::Asked {
            bytes: "SUB a\0b 1\r\nPUB a\0b 1\r\nx\r\n",
            nats: &["+OK", "+OK", "a\\x00b x", "PONG"],
            sapwood: &[
                "-ERR 'Permissions Violation for Subscription to \"a?b\": a subject holds no NUL and no CR'",
                "-ERR 'Permissions Violation for Publish to \"a?b\": a subject holds no NUL and no CR'",
                "PONG",
            ],
        },
    },
    Difference {
        what: "subjects of more than 64 tokens or 1,024 bytes, queue names of more than 255",
        reason: "topics and groups have caps",
        treatment: Treatment::Asked {
            bytes: "SUB t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.\
                    t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t 1\r\n",
            nats: &["+OK", "PONG"],
            sapwood: &[
                "-ERR 'Permissions Violation for Subscription to \"t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.\
                 t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t.t\": the name has 65 \
                 tokens separated by '.', at most 64 are allowed'",
                "PONG",
            ],
        },
    },
    Difference {
        what: "headers of more than 65,535 bytes",
        reason: "a message keeps the length of its headers in 16 bits",
        treatment: Treatment::Avoided,
    },
];

/// Histories for each number of shards and each delivery.
const HISTORIES: u64 = 80;
/// Seeds that have found a bug. They run first, always.
const FOUND: &[u64] = &[1_795_279_341_000_200];
/// What finding a shorter history may take once one has failed.
const SHRINK_SECONDS_MAX: Duration = Duration::from_secs(20);
/// So that both servers allow payloads of the same length.
const PAYLOAD_CAP: &[&str] = &["--max-payload", "1MiB"];

#[test]
fn one_shard_answers_as_nats_does_step_by_step() {
    check(1, Delivery::Stepwise);
}

#[test]
fn two_shards_answer_as_nats_does_step_by_step() {
    check(2, Delivery::Stepwise);
}

#[test]
fn one_shard_answers_pipelines_as_nats_does() {
    check(1, Delivery::Pipelined);
}

#[test]
fn two_shards_answer_pipelines_as_nats_does() {
    check(2, Delivery::Pipelined);
}

#[test]
fn one_shard_answers_split_writes_as_nats_does() {
    check(1, Delivery::Split);
}

#[test]
fn two_shards_answer_split_writes_as_nats_does() {
    check(2, Delivery::Split);
}

/// Publishers that write at the same time: each subscription hears each of them as he wrote.
#[test]
fn messages_of_each_publisher_keep_their_order() {
    let reference = NatsReference::start(&[]);
    let expected = crowd::heard(reference.nats_port());
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let heard = crowd::heard(broker.nats_port());
        for ((who, expected), (_, heard)) in expected.iter().zip(&heard) {
            assert!(
                expected == heard,
                "{who} with {shards} shards: {} messages for {}, first difference at {:?}",
                heard.len(),
                expected.len(),
                expected.iter().zip(heard).position(|(a, b)| a != b)
            );
        }
    }
}

#[test]
fn who_does_not_hear_itself_leaves_its_turn_to_others() {
    let reference = NatsReference::start(&[]);
    let expected = crowd::heard_by_others(reference.nats_port());
    for shards in [1, 2, 4] {
        let broker = Broker::start(shards, &[]);
        let heard = crowd::heard_by_others(broker.nats_port());
        assert_eq!(heard.len(), expected.len(), "{shards} shards");
        assert!(heard == expected, "{shards} shards: {heard:?}");
    }
}

#[test]
fn wrong_use_is_answered_as_nats_does() {
    let reference = NatsReference::start(&[]);
    for shards in [1, 2] {
        let broker = Broker::start(shards, PAYLOAD_CAP);
        scenarios::check(
            &scenarios::wrong_use(),
            reference.nats_port(),
            broker.nats_port(),
        );
    }
}

#[test]
fn passwords_and_tokens_are_asked_for_as_nats_does() {
    let broker = Broker::start_guarded(2, "secret", &["--user", "alice"]);
    let with_user = NatsReference::start(&["--user", "alice", "--pass", "secret"]);
    scenarios::check(
        &scenarios::passwords(),
        with_user.nats_port(),
        broker.nats_port(),
    );
    let with_token = NatsReference::start(&["--auth", "secret"]);
    scenarios::check(
        &scenarios::tokens(),
        with_token.nats_port(),
        broker.nats_port(),
    );
}

#[test]
fn info_promises_what_that_of_nats_does() {
    let reference = NatsReference::start(&[]);
    let broker = Broker::start(1, PAYLOAD_CAP);
    let expected = scenarios::promises(reference.nats_port());
    assert_eq!(scenarios::promises(broker.nats_port()), expected);
    let reference = NatsReference::start(&["--auth", "secret"]);
    let broker = Broker::start_guarded(1, "secret", PAYLOAD_CAP);
    let expected = scenarios::promises(reference.nats_port());
    assert_eq!(scenarios::promises(broker.nats_port()), expected);
}

#[test]
fn intended_differences_are_as_the_table_says() {
    let reference = NatsReference::start(&[]);
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        for difference in INTENDED {
            let what = format!("{} ({})", difference.what, difference.reason);
            if let Treatment::Asked {
                bytes,
                nats,
                sapwood,
            } = difference.treatment
            {
                let heard = |port| scenarios::heard(port, bytes.as_bytes(), false);
                let texts = heard(reference.nats_port());
                assert_eq!(compare::brief(&texts), nats, "nats-server: {what}");
                let texts = heard(broker.nats_port());
                assert_eq!(compare::brief(&texts), sapwood, "{what}");
            }
        }
    }
}

/// The canary: a reference that is told something else must be found out.
#[test]
fn a_different_history_is_noticed() {
    let (left, right) = (NatsReference::start(&[]), NatsReference::start(&[]));
    for seed in 1..=4 {
        let history = History::random(seed);
        let mut pair = Pair::new(left.nats_port(), right.nats_port());
        pair.run(&history, Delivery::Stepwise)
            .expect("the same history gives the same answers");
        println!("seed {seed}: {} messages", pair.messages);
        assert!(pair.messages > 20, "who hears nothing compares nothing");
        let (one, two) = (
            history.with_last_message("one"),
            history.with_last_message("two"),
        );
        let failure = pair
            .run_different(&one, &two)
            .expect_err("one changed payload makes a difference");
        assert_eq!(failure.step, one.steps.len() - 1);
    }
}

fn check(shards: usize, delivery: Delivery) {
    let reference = NatsReference::start(&[]);
    let broker = Broker::start(shards, PAYLOAD_CAP);
    let mut pair = Pair::new(reference.nats_port(), broker.nats_port());
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
