//! Any bytes as a text command: what is read is made of the message's own bytes, and a command that is written from what
//! was read is read alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sapwood_wire::text::{Command, Names, parse};

const WORDS: [&str; 8] =
    ["SUBSCRIBE", "unsubscribe", "Psubscribe", "PUNSUBSCRIBE", "publish", "PING", "auth", "PUB"];

fn listed(names: Names<'_>) -> Vec<&[u8]> {
    let names: Vec<_> = names.iter().collect();
    assert!(!names.iter().any(|name| name.is_empty() || name.iter().any(u8::is_ascii_whitespace)));
    names
}

/// The command in its plainest form.
fn write(command: &Command<'_>) -> Vec<u8> {
    let join = |word: &str, words: &[&[u8]]| {
        let mut out = word.as_bytes().to_vec();
        for word in words {
            out.push(b' ');
            out.extend_from_slice(word);
        }
        out
    };
    match *command {
        Command::Subscribe(names) => {
            assert!(names.iter().next().is_some(), "a subscription to nothing");
            join("SUBSCRIBE", &listed(names))
        }
        Command::PatternSubscribe(names) => {
            assert!(names.iter().next().is_some(), "a subscription to nothing");
            join("PSUBSCRIBE", &listed(names))
        }
        Command::Unsubscribe(names) => join("UNSUBSCRIBE", &listed(names)),
        Command::PatternUnsubscribe(names) => join("PUNSUBSCRIBE", &listed(names)),
        Command::Publish { channel, payload } => join("PUBLISH", &[channel, payload]),
        Command::Ping(text) => join("PING", &[text]),
        Command::Auth(proof) => join("AUTH", &[proof]),
    }
}

fn check(message: &[u8]) {
    let command = match parse(message) {
        Ok(command) => command,
        Err(error) => {
            let text = error.to_string();
            assert!(text.is_ascii() && text.len() < 400, "{text}");
            return;
        }
    };
    if let Command::Publish { channel, payload } = command {
        assert_eq!(message.len(), "PUBLISH".len() + 1 + channel.len() + 1 + payload.len());
        assert!(!channel.is_empty() && message.ends_with(payload));
        assert!(!channel.contains(&b' '));
        // A message cut short never goes to another channel.
        for cut in 0..message.len() {
            if let Ok(Command::Publish { channel: other, payload: part }) = parse(&message[..cut]) {
                assert!(other == channel && payload.starts_with(part), "cut at {cut}");
            }
        }
    }
    let again = write(&command);
    let read = parse(&again).unwrap_or_else(|error| panic!("{error}: {}", again.escape_ascii()));
    assert_eq!(write(&read), again);
}

fuzz_target!(|data: (u8, &[u8])| {
    let (word, rest) = data;
    check(rest);
    let word = WORDS[usize::from(word) % WORDS.len()];
    check(&[word.as_bytes(), b" ", rest].concat());
    check(&[word.as_bytes(), rest].concat());
});
