//! Several publishers write pipelines at the same time to several subscribers.
//!
//! How two publishers' messages mix is open. What one subscriber hears of one publisher is not.

use std::thread;

use super::common::resp::{RawClient, Value, request};

const PUBLISHERS: usize = 4;
const MESSAGES: usize = 2000;
const CHANNELS: [&str; 3] = ["crowd.a", "crowd.b", "elsewhere"];

/// What each subscriber wants. One pattern each: the order among several patterns is not defined.
const SUBSCRIBERS: &[&[&[&str]]] = &[
    &[&["SUBSCRIBE", "crowd.a"]],
    &[
        &["HELLO", "3"],
        &["SUBSCRIBE", "crowd.a", "crowd.b"],
        &["PSUBSCRIBE", "crowd.*"],
    ],
    &[&["PSUBSCRIBE", "*"], &["SSUBSCRIBE", "crowd.a"]],
    &[&["HELLO", "3"], &["SSUBSCRIBE", "crowd.b", "elsewhere"]],
    &[&["SUBSCRIBE", "elsewhere"], &["PSUBSCRIBE", "else*"]],
];

/// For each pair of a subscriber and a publisher, what was heard, in order.
pub fn heard(port: u16) -> Vec<(String, Vec<Vec<String>>)> {
    let subscribers: Vec<RawClient> = SUBSCRIBERS
        .iter()
        .map(|wishes| subscribe(port, wishes))
        .collect();
    let publishing: Vec<_> = (0..PUBLISHERS)
        .map(|number| thread::spawn(move || publish(port, number)))
        .collect();
    let hearing: Vec<_> = subscribers
        .into_iter()
        .zip(SUBSCRIBERS)
        .map(|(client, wishes)| thread::spawn(move || listen(client, wishes)))
        .collect();
    for thread in publishing {
        thread.join().expect("a publisher ends well");
    }
    let mut heard = Vec::new();
    for (subscriber, thread) in hearing.into_iter().enumerate() {
        let messages = thread.join().expect("a subscriber ends well");
        for publisher in 0..PUBLISHERS {
            let start = format!("{publisher}:");
            let own =
                |message: &&Vec<String>| message.last().is_some_and(|m| m.starts_with(&start));
            let of_one = messages.iter().filter(own).cloned().collect();
            heard.push((
                format!("subscriber {subscriber} of publisher {publisher}"),
                of_one,
            ));
        }
    }
    heard
}

fn subscribe(port: u16, wishes: &[&[&str]]) -> RawClient {
    let mut client = RawClient::connect(port);
    for wish in wishes {
        client.call(wish);
        // One answer for each name; HELLO has one.
        for _ in 2..wish.len() {
            client.value();
        }
    }
    client
}

/// The channel and the command of a publisher's message.
fn message(publisher: usize, number: usize) -> (&'static str, &'static str) {
    let channel = CHANNELS[(number * 7 + publisher) % CHANNELS.len()];
    (
        if (number / 5).is_multiple_of(3) {
            "SPUBLISH"
        } else {
            "PUBLISH"
        },
        channel,
    )
}

fn publish(port: u16, publisher: usize) {
    let mut client = RawClient::connect(port);
    // Pipelines of several sizes; the replies of one are read before the next is written.
    let mut number = 0;
    for size in [1, 50, 7, 300].into_iter().cycle() {
        let last = (number + size).min(MESSAGES);
        let mut bytes = Vec::new();
        for number in number..last {
            let (command, channel) = message(publisher, number);
            let payload = format!("{publisher}:{number}");
            bytes.extend(request(&[
                command.as_bytes(),
                channel.as_bytes(),
                payload.as_bytes(),
            ]));
        }
        client.send(&bytes);
        for number in number..last {
            let receivers = SUBSCRIBERS
                .iter()
                .map(|w| copies(w, publisher, number))
                .sum::<usize>();
            let receivers = i64::try_from(receivers).expect("a small number");
            assert_eq!(client.value(), Value::Integer(receivers), "receivers");
        }
        number = last;
        if number == MESSAGES {
            return;
        }
    }
}

/// How often a subscriber with these wishes hears that message.
fn copies(wishes: &[&[&str]], publisher: usize, number: usize) -> usize {
    let (command, channel) = message(publisher, number);
    let wanted = |wish: &&&[&str]| match (command, wish[0]) {
        ("SPUBLISH", "SSUBSCRIBE") | ("PUBLISH", "SUBSCRIBE") => wish[1..].contains(&channel),
        ("PUBLISH", "PSUBSCRIBE") => channel.starts_with(wish[1].trim_end_matches('*')),
        _ => false,
    };
    wishes.iter().filter(wanted).count()
}

fn listen(mut client: RawClient, wishes: &[&[&str]]) -> Vec<Vec<String>> {
    let count: usize = (0..PUBLISHERS)
        .map(|publisher| {
            (0..MESSAGES)
                .map(|n| copies(wishes, publisher, n))
                .sum::<usize>()
        })
        .sum();
    (0..count)
        .map(|_| match client.value() {
            Value::Array(items) | Value::Push(items) => items.iter().map(Value::text).collect(),
            other => panic!("not a message: {other:?}"),
        })
        .collect()
}
