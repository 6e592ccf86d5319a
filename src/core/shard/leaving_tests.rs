//! Very many subscriptions that begin or end at once: in steps.

use super::*;
use crate::limits::{CHANGES_IN_A_REQUEST, ENDED_AT_ONCE};

const MANY: usize = 10_000;

impl Node {
    /// Gives a request of Redis with these words, and what is left of it in later turns, until it is carried out. Gives
    /// the output, and the number of turns.
    fn request(&mut self, conn: u32, words: &[&str]) -> (String, usize) {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        let mut output = String::new();
        for turn in 1..1_000 {
            let Handled { consumed, next } = self.give(0, conn, request.as_bytes());
            self.shards[0].take_dirty(&mut Vec::new());
            self.settle();
            output += &self.read(0, conn);
            if consumed == request.len() {
                return (output, turn);
            }
            // With other shards, once they know the last changes.
            let is_alone = self.shards.len() == 1;
            let expected = if is_alone { Next::Flush } else { Next::Hold };
            assert_eq!((consumed, next), (0, expected));
            assert!(is_alone || self.outputs[0].resumed.contains(&ConnId(conn)));
            self.outputs[0].resumed.clear();
        }
        panic!("it never ends");
    }

    fn subscriptions(&self) -> u64 {
        self.shards[0].broker.subscriptions()
    }
}

fn names() -> Vec<String> {
    (0..MANY).map(|number| format!("t.{number}")).collect()
}

fn with<'a>(command: &'a str, names: &'a [String]) -> Vec<&'a str> {
    let names = names.iter().map(String::as_str);
    std::iter::once(command).chain(names).collect()
}

#[test]
fn a_request_that_names_very_many_is_carried_out_in_steps() {
    for shards in [1, 2] {
        let mut node = Node::new(shards, None, Limits::default());
        node.open(0, 0);
        node.open(0, 1);
        let names = names();
        let (output, turns) = node.request(0, &with("SUBSCRIBE", &names));
        assert_eq!(turns, MANY.div_ceil(CHANGES_IN_A_REQUEST));
        assert_eq!(node.subscriptions(), MANY as u64);
        // Each is confirmed once, in order, with the count so far.
        for (place, name) in names.iter().enumerate().step_by(997) {
            let confirmed = format!("\r\n{name}\r\n:{}\r\n", place + 1);
            assert_eq!(output.matches(&confirmed).count(), 1, "{name}");
        }
        assert_eq!(output.matches("subscribe").count(), MANY);
        let some = &names[..MANY / 2];
        let (output, turns) = node.request(0, &with("UNSUBSCRIBE", some));
        assert_eq!(turns, (MANY / 2).div_ceil(CHANGES_IN_A_REQUEST));
        assert!(output.ends_with(&format!("\r\nt.{}\r\n:{}\r\n", MANY / 2 - 1, MANY / 2)));
        let (output, turns) = node.request(0, &["UNSUBSCRIBE"]);
        assert_eq!(turns, (MANY / 2).div_ceil(CHANGES_IN_A_REQUEST));
        assert_eq!(output.matches("unsubscribe").count(), MANY / 2);
        assert!(output.ends_with(":0\r\n"));
        assert_eq!(node.subscriptions(), 0);
        // One kind among very many of another.
        node.request(0, &with("SUBSCRIBE", &names));
        node.request(0, &["PSUBSCRIBE", "a*", "b*"]);
        let (output, _) = node.request(0, &["PUNSUBSCRIBE"]);
        assert_eq!(output.matches("punsubscribe").count(), 2);
        assert!(output.ends_with(&format!(":{MANY}\r\n")));
        assert_eq!(node.subscriptions(), MANY as u64);
    }
}

#[test]
fn a_transaction_may_name_very_many() {
    let mut node = Node::new(1, None, Limits::default());
    node.open(0, 0);
    let names = names();
    node.request(0, &["MULTI"]);
    node.request(0, &with("SUBSCRIBE", &names));
    node.request(0, &["PING"]);
    let (mut output, _) = node.request(0, &["EXEC"]);
    for _ in 0..20 {
        node.give(0, 0, b"");
        node.end_turn(0);
        output += &node.read(0, 0);
    }
    assert_eq!(node.subscriptions(), MANY as u64);
    assert!(
        output.starts_with("*2\r\n") && output.ends_with("$4\r\npong\r\n$0\r\n\r\n"),
        "{output}"
    );
}

#[test]
fn the_end_of_very_many_subscriptions_is_carried_out_in_steps() {
    for (shards, is_gone) in [(1, true), (1, false), (2, true), (2, false)] {
        let mut node = Node::new(shards, None, Limits::default());
        node.open_by(Protocol::Nats, 0, 0);
        let subscribe: Vec<String> = (0..MANY)
            .map(|sid| {
                format!(
                    "SUB t.{sid} {} {sid}\r\n",
                    if sid % 2 == 0 { "" } else { "g" }
                )
            })
            .collect();
        let mut rest = &subscribe.concat().into_bytes()[..];
        while !rest.is_empty() {
            rest = &rest[node.give(0, 0, rest).consumed..];
            node.settle();
            node.take(0, 0);
        }
        assert_eq!(node.subscriptions(), MANY as u64);
        match is_gone {
            true => drop(node.handle(0, Input::Closed { conn: ConnId(0) })),
            false => drop(node.give(0, 0, b"nonsense\r\n")),
        }
        assert_eq!(node.subscriptions(), (MANY - ENDED_AT_ONCE) as u64);
        assert!(node.shards[0].is_leaving(ConnId(0)) && node.shards[0].is_turn_due());
        if !is_gone {
            assert!(node.shards[0].has_output(ConnId(0)), "it is closed later");
        }
        // Meanwhile it gets nothing, and is given no turn.
        node.open(0, 1);
        for name in ["t.0", "t.1", "t.2", "t.3"] {
            node.give(0, 1, format!("PUBLISH {name} x\r\n").as_bytes());
        }
        for _ in 0..MANY.div_ceil(ENDED_AT_ONCE) {
            node.settle();
        }
        assert!(!node.shards[0].is_leaving(ConnId(0)));
        assert_eq!(node.subscriptions(), 0);
        assert_eq!(node.shards[0].delivery.named.sids.len(), 0);
        if shards == 2 {
            assert_eq!(node.shards[1].broker.filters().len(), 0, "all shards know");
        }
        let output = node.read(0, 0);
        assert!(!output.contains("MSG"), "{output}");
        assert!(
            !node.shards[0].has_output(ConnId(0)),
            "now it may be closed"
        );
    }
}

#[test]
fn a_place_that_is_taken_again_at_once_has_no_old_subscriptions() {
    let mut node = Node::new(2, None, Limits::default());
    node.open(0, 0);
    let names = names();
    node.request(0, &with("SUBSCRIBE", &names));
    node.handle(0, Input::Closed { conn: ConnId(0) });
    assert!(node.shards[0].is_leaving(ConnId(0)));
    node.open(0, 0);
    assert!(!node.shards[0].is_leaving(ConnId(0)));
    assert_eq!(node.subscriptions(), 0);
    let (output, _) = node.request(0, &["SUBSCRIBE", "t.9999"]);
    assert!(output.ends_with(":1\r\n"));
}

#[test]
fn who_publishes_topics_that_are_costly_to_look_up_gives_way() {
    let mut node = Node::new(1, None, Limits::default());
    node.open_by(Protocol::Nats, 0, 0);
    node.open_by(Protocol::Nats, 0, 1);
    node.open(0, 2);
    let subscribe: Vec<String> = (0..1 << 15)
        .map(|number: usize| {
            let tokens = (0..15).map(|bit| if number >> bit & 1 == 0 { "a" } else { "*" });
            let tokens: Vec<&str> = tokens.collect();
            format!("SUB {}.never {number}\r\n", tokens.join("."))
        })
        .collect();
    let mut answers = String::new();
    let mut rest = &subscribe.concat().into_bytes()[..];
    while !rest.is_empty() {
        rest = &rest[node.give(0, 0, rest).consumed..];
        node.end_turn(0);
        node.shards[0].take_dirty(&mut Vec::new());
        answers += &node.read(0, 0);
    }
    assert!(answers.contains("-ERR"), "the last is one too many");
    node.give(0, 1, b"CONNECT {\"verbose\":false}\r\n");
    let topic = ["a"; 15].join(".");
    let publish: String = (0..10)
        .map(|number| format!("PUB {topic}.{number} 1\r\nx\r\n"))
        .collect();
    let mut rest = publish.as_bytes();
    for left in (0..10).rev() {
        let Handled { consumed, next } = node.give(0, 1, rest);
        rest = &rest[consumed..];
        assert_eq!(rest.len(), publish.len() / 10 * left, "one in a turn");
        assert_eq!(next, Next::Flush, "others have their turn");
        // Not only in the next turn, where that one may come first again.
        node.give(0, 2, b"PING\r\n");
        assert_eq!(node.read(0, 2), "+PONG\r\n");
        node.end_turn(0);
    }
}
