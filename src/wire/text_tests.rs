//! Each command as it may be written, what is none, and that a message cut short never means another channel.

use super::*;
use proptest::prelude::*;

/// A command in words, for comparing.
fn read(message: &[u8]) -> Result<String, TextError> {
    let list = |names: Names<'_>| {
        let names: Vec<String> = names
            .iter()
            .map(|name| name.escape_ascii().to_string())
            .collect();
        names.join("|")
    };
    Ok(match parse(message)? {
        Command::Subscribe(names) => format!("subscribe {}", list(names)),
        Command::Unsubscribe(names) => format!("unsubscribe {}", list(names)),
        Command::PatternSubscribe(names) => format!("psubscribe {}", list(names)),
        Command::PatternUnsubscribe(names) => format!("punsubscribe {}", list(names)),
        Command::Publish { channel, payload } => {
            format!(
                "publish {}|{}",
                channel.escape_ascii(),
                payload.escape_ascii()
            )
        }
        Command::Ping(text) => format!("ping {}", text.escape_ascii()),
        Command::Auth(proof) => format!("auth {}", proof.escape_ascii()),
    })
}

#[test]
fn every_command_is_read() {
    let cases: &[(&[u8], &str)] = &[
        (b"SUBSCRIBE a", "subscribe a"),
        (b"subscribe a b", "subscribe a|b"),
        (b"Subscribe  a  b ", "subscribe a|b"),
        (b"SUBSCRIBE a\tb c\n", "subscribe a\\tb|c\\n"),
        (b"SUBSCRIBE \xff\0", "subscribe \\xff\\x00"),
        (b"UNSUBSCRIBE", "unsubscribe "),
        (b"UNSUBSCRIBE ", "unsubscribe "),
        (b"UNSUBSCRIBE a b", "unsubscribe a|b"),
        (b"PSUBSCRIBE a.* [b]?", "psubscribe a.*|[b]?"),
        (b"PUNSUBSCRIBE", "punsubscribe "),
        (b"pUnSubscribe a.*", "punsubscribe a.*"),
        (b"PUBLISH a b", "publish a|b"),
        (b"PUBLISH a ", "publish a|"),
        (b"PUBLISH a  b ", "publish a| b "),
        (b"PUBLISH a \r\nb\r\n", "publish a|\\r\\nb\\r\\n"),
        (b"PUBLISH a\nb c", "publish a\\nb|c"),
        (b"publish \xff \0\xff", "publish \\xff|\\x00\\xff"),
        (b"PING", "ping "),
        (b"PING ", "ping "),
        (b"PING  a b", "ping  a b"),
        (b"AUTH p", "auth p"),
        (b"AUTH u p", "auth u p"),
        (b"auth  u  p ", "auth  u  p "),
    ];
    for (message, expected) in cases {
        let read = read(message);
        assert_eq!(read.as_deref(), Ok(*expected), "{}", message.escape_ascii());
    }
}

#[test]
fn what_is_no_command_is_refused_with_what_is_wrong() {
    let usage = |usage| Err(TextError::Usage(usage));
    let unknown = |word: &str| Err(TextError::Unknown(word.to_string()));
    let cases: &[(&[u8], Result<String, TextError>)] = &[
        (b"", unknown("")),
        (b" SUBSCRIBE a", unknown("")),
        (b"SUB a", unknown("SUB")),
        (b"SUBSCRIBEa", unknown("SUBSCRIBEa")),
        (b"PUBLISHa b", unknown("PUBLISHa")),
        (b"\xff'\n", unknown("\\xff\\'\\n")),
        (b"SUBSCRIBE\na", unknown("SUBSCRIBE\\na")),
        (&[b'x'; 33], unknown(&"x".repeat(32))),
        (&[b'x'; 32], unknown(&"x".repeat(32))),
        (b"SUBSCRIBE", usage("SUBSCRIBE ch [ch ...]")),
        (b"SUBSCRIBE    ", usage("SUBSCRIBE ch [ch ...]")),
        (b"PSUBSCRIBE ", usage("PSUBSCRIBE pat [pat ...]")),
        (b"PUBLISH", usage("PUBLISH ch msg")),
        (b"PUBLISH ", usage("PUBLISH ch msg")),
        (b"PUBLISH a", usage("PUBLISH ch msg")),
        (b"PUBLISH  a b", usage("PUBLISH ch msg")),
        (b"AUTH", usage("AUTH [user] password")),
        (b"AUTH ", usage("AUTH [user] password")),
    ];
    for (message, expected) in cases {
        assert_eq!(&read(message), expected, "{}", message.escape_ascii());
        let text = parse(message).unwrap_err().to_string();
        assert!(
            text.is_ascii() && !text.contains(['\r', '\n', '\0']),
            "{text}"
        );
    }
}

proptest! {
    /// A publish goes to its channel with all that stands behind it; cut short it is none, or the start of the same.
    #[test]
    fn a_publish_keeps_every_byte(
        channel in prop::collection::vec(any::<u8>().prop_filter("a blank", |byte| *byte != b' '), 1..20),
        payload in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let message = [b"PUBLISH ", &channel[..], b" ", &payload].concat();
        let start = message.len() - payload.len();
        for cut in 0..=message.len() {
            let part = parse(&message[..cut]);
            match cut < start {
                true => prop_assert!(part.is_err(), "cut at {}", cut),
                false => prop_assert_eq!(
                    part,
                    Ok(Command::Publish { channel: &channel, payload: &payload[..cut - start] })
                ),
            }
        }
    }

    /// Names come out as they were put in, whatever blanks stand between them.
    #[test]
    fn names_are_separated_by_blanks(
        names in prop::collection::vec("[!-~]{1,8}", 1..8),
        blanks in prop::collection::vec(" {1,3}", 8),
        command in prop::sample::select(&["SUBSCRIBE", "unsubscribe", "pSubscribe", "PUNSUBSCRIBE"][..]),
    ) {
        let mut message = command.to_string();
        for (name, blank) in names.iter().zip(&blanks) {
            message.extend([blank.as_str(), name]);
        }
        let names: Vec<String> =
            names.iter().map(|name| name.as_bytes().escape_ascii().to_string()).collect();
        let expected = format!("{} {}", command.to_lowercase(), names.join("|"));
        prop_assert_eq!(read(message.as_bytes()), Ok(expected));
    }

    #[test]
    fn any_bytes_are_a_command_or_none(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Err(error) = parse(&bytes) {
            prop_assert!(error.to_string().len() < 300);
        }
    }
}
