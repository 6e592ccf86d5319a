//! Counts what the broker allocates for messages once it is warm: nothing for those below 16 KiB, whatever they
//! match and however they arrive, but for runs that are kept once for their many receivers. The shards run in this
//! thread, without sockets; every client takes what it gets at once.
//!
//! `cargo test --release --test allocations -- --nocapture` prints the table.

#[path = "common/shards.rs"]
mod shards;

use sapwood_core::Policy;
use shards::{Client, Node, native_message, resp_publish};

/// How often each case is repeated before anything is counted: enough for every buffer to have its size.
const WARM_PASSES: usize = 10;

/// How often it is repeated while allocations are counted.
const COUNTED_PASSES: usize = 10;

/// Messages of one pass.
const MESSAGES: usize = 100;

const PAYLOAD_BYTES: usize = 128;

/// Payloads of this size are shared by their receivers.
const LARGE_BYTES: usize = 64 * 1024;

/// One read of a publisher.
type Read = (Client, Vec<u8>);

/// A way that messages take, and what it may allocate.
struct Case {
    name: &'static str,
    shards: u16,
    /// Connects everybody, and gives what one pass reads.
    set_up: fn(&mut Node) -> Vec<Read>,
    /// Deliveries of a message.
    deliveries: usize,
    /// Allocations of a message, at most.
    allowed: f64,
}

const CASES: &[Case] = &[
    case("native, runs of a topic", 1, 1, |node| {
        let publisher = listened_to(node, &["t"], 1, Kind::Native);
        vec![in_one_read(publisher, &native_each(&["t"]))]
    }),
    case("native, one at a time", 1, 1, |node| {
        let publisher = listened_to(node, &["t"], 1, Kind::Native);
        one_at_a_time(publisher, native_each(&["t"]))
    }),
    case("native, over 100 topics", 1, 1, |node| {
        let topics = names("topic", 100);
        let publisher = listened_to(node, &refs(&topics), 1, Kind::Native);
        vec![in_one_read(publisher, &native_each(&refs(&topics)))]
    }),
    case("native, over 100 topics, one at a time", 1, 1, |node| {
        let topics = names("topic", 100);
        let publisher = listened_to(node, &refs(&topics), 1, Kind::Native);
        one_at_a_time(publisher, native_each(&refs(&topics)))
    }),
    Case {
        allowed: shared_run(1),
        ..case("native, to 100, runs of a topic", 1, 100, |node| {
            let publisher = listened_to(node, &["t"], 100, Kind::Native);
            vec![in_one_read(publisher, &native_each(&["t"]))]
        })
    },
    case("native, to 100, one at a time", 1, 100, |node| {
        let publisher = listened_to(node, &["t"], 100, Kind::Native);
        one_at_a_time(publisher, native_each(&["t"]))
    }),
    case("native, to 100 over 100 topics", 1, 100, |node| {
        let topics = names("topic", 100);
        let publisher = listened_to(node, &refs(&topics), 100, Kind::Native);
        vec![in_one_read(publisher, &native_each(&refs(&topics)))]
    }),
    case("Redis, runs of a topic", 1, 1, |node| {
        let publisher = listened_to(node, &["t"], 1, Kind::Resp2);
        vec![in_one_read(publisher, &resp_each(&["t"]))]
    }),
    case("Redis, one at a time", 1, 1, |node| {
        let publisher = listened_to(node, &["t"], 1, Kind::Resp3);
        one_at_a_time(publisher, resp_each(&["t"]))
    }),
    case("Redis, over 100 topics", 1, 1, |node| {
        let topics = names("topic", 100);
        let publisher = listened_to(node, &refs(&topics), 1, Kind::Resp2);
        vec![in_one_read(publisher, &resp_each(&refs(&topics)))]
    }),
    Case {
        allowed: shared_run(3),
        ..case("Redis, to 100 of each form", 1, 300, |node| {
            for kind in [Kind::Native, Kind::Resp2] {
                listened_to(node, &["t"], 100, kind);
            }
            let publisher = listened_to(node, &["t"], 100, Kind::Resp3);
            vec![in_one_read(publisher, &resp_each(&["t"]))]
        })
    },
    case("a publisher that hears itself", 1, 1, |node| {
        let publisher = node.connect_resp3(0);
        node.subscribe_resp(publisher, "SUBSCRIBE", ["t"]);
        vec![in_one_read(publisher, &resp_each(&["t"]))]
    }),
    case("Redis patterns, over 100 topics", 1, 10, |node| {
        let topics = names("topic", 100);
        for _ in 0..10 {
            let client = node.connect_resp2(0);
            node.subscribe_resp(client, "PSUBSCRIBE", ["topic.*"]);
        }
        let publisher = node.connect_resp2(0);
        vec![in_one_read(publisher, &resp_each(&refs(&topics)))]
    }),
    case("native wildcards, over 100 topics", 1, 10, |node| {
        let topics = names("topic", 100);
        for _ in 0..10 {
            let client = node.connect_native(0);
            node.subscribe_native(client, ("", 0), ["topic.*", "*.>", "topic.7"]);
        }
        let publisher = node.connect_native(0);
        vec![in_one_read(publisher, &native_each(&refs(&topics)))]
    }),
    case("native wildcards, one at a time", 1, 10, |node| {
        let topics = names("topic", 100);
        for _ in 0..10 {
            let client = node.connect_native(0);
            node.subscribe_native(client, ("", 0), ["topic.*"]);
        }
        let publisher = node.connect_native(0);
        one_at_a_time(publisher, native_each(&refs(&topics)))
    }),
    case("a group, one topic", 1, 1, |node| {
        in_a_group(node, 0, 10, &["t"]);
        let publisher = node.connect_native(0);
        vec![in_one_read(publisher, &native_each(&["t"]))]
    }),
    case("a group, over 100 topics", 1, 1, |node| {
        let topics = names("topic", 100);
        in_a_group(node, 0, 10, &refs(&topics));
        let publisher = node.connect_native(0);
        vec![in_one_read(publisher, &native_each(&refs(&topics)))]
    }),
    case("a group and others by a wildcard", 1, 11, |node| {
        let topics = names("topic", 100);
        in_a_group(node, 0, 10, &["topic.*"]);
        let publisher = listened_to(node, &refs(&topics), 10, Kind::Native);
        vec![in_one_read(publisher, &native_each(&refs(&topics)))]
    }),
    case("drop-oldest, over 100 topics", 1, 1, |node| {
        lossy_over_topics(node, Policy::DropOldest)
    }),
    case("latest, over 100 topics", 1, 1, |node| {
        lossy_over_topics(node, Policy::Latest)
    }),
    case("two shards, runs of a topic", 2, 2, |node| {
        let publisher = listened_to(node, &["t"], 1, Kind::Native);
        listened_to(node, &["t"], 1, Kind::NativeElsewhere);
        vec![in_one_read(publisher, &native_each(&["t"]))]
    }),
    case("two shards, one at a time", 2, 1, |node| {
        listened_to(node, &["t"], 1, Kind::NativeElsewhere);
        let publisher = node.connect_native(0);
        one_at_a_time(publisher, native_each(&["t"]))
    }),
    case("two shards, Redis, over 100 topics", 2, 100, |node| {
        let topics = names("topic", 100);
        listened_to(node, &refs(&topics), 100, Kind::Resp2Elsewhere);
        let publisher = node.connect_resp2(0);
        vec![in_one_read(publisher, &resp_each(&refs(&topics)))]
    }),
    case("two shards, a wildcard", 2, 1, |node| {
        let topics = names("topic", 100);
        listened_to(node, &["topic.*"], 1, Kind::NativeElsewhere);
        let publisher = node.connect_native(0);
        vec![in_one_read(publisher, &native_each(&refs(&topics)))]
    }),
    case("two shards, a group on both", 2, 1, |node| {
        let topics = names("topic", 100);
        for shard in 0..2 {
            in_a_group(node, shard, 5, &refs(&topics));
        }
        let publisher = node.connect_native(0);
        vec![in_one_read(publisher, &native_each(&refs(&topics)))]
    }),
    case("to 10,000, one at a time", 1, 10_000, |node| {
        let publisher = listened_to(node, &["t"], 10_000, Kind::Native);
        one_at_a_time(publisher, native_each(&["t"]))
    }),
    Case {
        allowed: shared_run(1),
        ..case("to 10,000, runs of a topic", 1, 10_000, |node| {
            let publisher = listened_to(node, &["t"], 10_000, Kind::Native);
            vec![in_one_read(publisher, &native_each(&["t"]))]
        })
    },
    case("NATS, runs of a subject", 1, 1, |node| {
        let publisher = subscribed_nats(node, &["t"], 1, "");
        vec![in_one_read(publisher, &nats_each(&["t"], ""))]
    }),
    case("NATS, with a reply subject", 1, 1, |node| {
        let publisher = subscribed_nats(node, &["t"], 1, "");
        vec![in_one_read(publisher, &nats_each(&["t"], "inbox.7 "))]
    }),
    case("NATS, over 100 subjects", 1, 1, |node| {
        let topics = names("topic", 100);
        let publisher = subscribed_nats(node, &refs(&topics), 1, "");
        vec![in_one_read(publisher, &nats_each(&refs(&topics), ""))]
    }),
    case("NATS, to 100, each by its own name", 1, 100, |node| {
        let publisher = subscribed_nats(node, &["t"], 100, "");
        vec![in_one_read(publisher, &nats_each(&["t"], ""))]
    }),
    case("NATS, to 100 over 100 subjects", 1, 100, |node| {
        let topics = names("topic", 100);
        let publisher = subscribed_nats(node, &refs(&topics), 100, "");
        vec![in_one_read(publisher, &nats_each(&refs(&topics), ""))]
    }),
    case("NATS, a queue group", 1, 1, |node| {
        let publisher = subscribed_nats(node, &["t"], 10, "workers ");
        vec![in_one_read(publisher, &nats_each(&["t"], ""))]
    }),
    case("NATS, wildcards", 1, 20, |node| {
        let topics = names("topic", 100);
        let publisher = subscribed_nats(node, &["topic.*", ">"], 10, "");
        vec![in_one_read(publisher, &nats_each(&refs(&topics), ""))]
    }),
    case("NATS to Redis and native clients", 1, 2, |node| {
        listened_to(node, &["t"], 1, Kind::Native);
        listened_to(node, &["t"], 1, Kind::Resp3);
        let publisher = node.connect_nats(0);
        vec![in_one_read(publisher, &nats_each(&["t"], ""))]
    }),
    case("64 KiB, to 1", 1, 1, |node| {
        let publisher = listened_to(node, &["t"], 1, Kind::Native);
        large_one_at_a_time(publisher)
    }),
    // The payload is shared: it, its counter and the frame's head are allocated once, and a list of pieces for each
    // receiver.
    Case {
        allowed: 4.0 + 100.0,
        ..case("64 KiB, to 100", 1, 100, |node| {
            let publisher = listened_to(node, &["t"], 100, Kind::Native);
            large_one_at_a_time(publisher)
        })
    },
];

fn large_one_at_a_time(publisher: Client) -> Vec<Read> {
    let message = native_message("t", LARGE_BYTES);
    one_at_a_time(publisher, vec![message; MESSAGES])
}

/// What one message may allocate where a pass is one run that is kept once for all receivers: the run and its counter
/// for each form.
const fn shared_run(forms: usize) -> f64 {
    (2 * forms) as f64 / MESSAGES as f64
}

/// A case that allocates nothing.
const fn case(
    name: &'static str,
    shards: u16,
    deliveries: usize,
    set_up: fn(&mut Node) -> Vec<Read>,
) -> Case {
    Case {
        name,
        shards,
        set_up,
        deliveries,
        allowed: 0.0,
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Native,
    NativeElsewhere,
    Resp2,
    Resp2Elsewhere,
    Resp3,
}

/// So many subscribers of all these topics, and a publisher of the same protocol on shard 0.
fn listened_to(node: &mut Node, topics: &[&str], subscribers: usize, kind: Kind) -> Client {
    let connect = |node: &mut Node| match kind {
        Kind::Native => node.connect_native(0),
        Kind::NativeElsewhere => node.connect_native(1),
        Kind::Resp2 => node.connect_resp2(0),
        Kind::Resp2Elsewhere => node.connect_resp2(1),
        Kind::Resp3 => node.connect_resp3(0),
    };
    for _ in 0..subscribers {
        let client = connect(node);
        let topics = topics.iter().copied();
        match kind {
            Kind::Native | Kind::NativeElsewhere => node.subscribe_native(client, ("", 0), topics),
            _ => node.subscribe_resp(client, "SUBSCRIBE", topics),
        }
    }
    connect(node)
}

/// So many subscribers of NATS of all these subjects, each with numbers of its own, and a publisher.
fn subscribed_nats(node: &mut Node, subjects: &[&str], subscribers: usize, queue: &str) -> Client {
    for number in 0..subscribers {
        let client = node.connect_nats(0);
        node.subscribe_nats(client, queue, number * 1_000, subjects.iter().copied());
    }
    node.connect_nats(0)
}

/// A pass's messages of NATS, to these subjects in turn; `reply` is empty, or ends in a blank.
fn nats_each(subjects: &[&str], reply: &str) -> Vec<Vec<u8>> {
    let subjects = subjects.iter().cycle().take(MESSAGES);
    let payload = "x".repeat(PAYLOAD_BYTES);
    let message = |subject| format!("PUB {subject} {reply}{PAYLOAD_BYTES}\r\n{payload}\r\n");
    subjects
        .map(|subject| message(subject).into_bytes())
        .collect()
}

/// So many members of a group for all these filters.
fn in_a_group(node: &mut Node, shard: usize, members: u32, filters: &[&str]) {
    for member in 0..members {
        let client = node.connect_native(shard);
        node.subscribe_native(client, ("workers", member), filters.iter().copied());
    }
}

fn lossy_over_topics(node: &mut Node, policy: Policy) -> Vec<Read> {
    let topics = names("topic", 100);
    let client = node.connect_native_with(0, policy);
    node.subscribe_native(client, ("", 0), refs(&topics));
    let publisher = node.connect_native(0);
    vec![in_one_read(publisher, &native_each(&refs(&topics)))]
}

fn names(first: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{first}.{number}"))
        .collect()
}

fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// A pass's messages, to these topics in turn.
fn native_each(topics: &[&str]) -> Vec<Vec<u8>> {
    let topics = topics.iter().cycle().take(MESSAGES);
    topics
        .map(|topic| native_message(topic, PAYLOAD_BYTES))
        .collect()
}

fn resp_each(topics: &[&str]) -> Vec<Vec<u8>> {
    let topics = topics.iter().cycle().take(MESSAGES);
    topics
        .map(|topic| resp_publish(topic, PAYLOAD_BYTES))
        .collect()
}

fn in_one_read(publisher: Client, messages: &[Vec<u8>]) -> Read {
    (publisher, messages.concat())
}

fn one_at_a_time(publisher: Client, messages: Vec<Vec<u8>>) -> Vec<Read> {
    messages
        .into_iter()
        .map(|message| (publisher, message))
        .collect()
}

fn pass(node: &mut Node, reads: &[Read]) {
    for (publisher, bytes) in reads {
        node.give(*publisher, bytes);
        node.turn();
    }
}

/// Allocations of a message, after a warm-up.
fn count(case: &Case) -> f64 {
    let mut node = Node::new(case.shards);
    let reads = (case.set_up)(&mut node);
    (0..WARM_PASSES).for_each(|_| pass(&mut node, &reads));
    let before = node.delivered();
    let counted = allocation_counter::measure(|| {
        (0..COUNTED_PASSES).for_each(|_| pass(&mut node, &reads));
    });
    let messages = COUNTED_PASSES * MESSAGES;
    let delivered = node.delivered() - before;
    assert_eq!(
        delivered,
        (messages * case.deliveries) as u64,
        "deliveries of {}",
        case.name
    );
    counted.count_total as f64 / messages as f64
}

#[test]
fn a_message_allocates_nothing_once_the_broker_is_warm() {
    println!(
        "| way of the messages | deliveries of a message | allocations of a message | allowed |"
    );
    println!("|---|---|---|---|");
    let mut over = Vec::new();
    for case in CASES {
        let allocations = count(case);
        let Case {
            name,
            deliveries,
            allowed,
            ..
        } = case;
        println!("| {name} | {deliveries} | {allocations} | {allowed} |");
        if allocations > *allowed {
            over.push(*name);
        }
    }
    assert!(
        over.is_empty(),
        "these allocate more than they may: {over:?}"
    );
}

#[test]
fn an_allocation_is_counted() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!(counted.count_total, 1);
}
