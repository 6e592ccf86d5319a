//! The native protocol against its page: its examples and tables, and streams however they are cut.
//!
//! Here is also what [`fields`] and [`random`] share with it: start at [`Sent`] and [`check`].

use super::*;
use crate::limits::{NATIVE_HELLO_BYTES_MAX, PAYLOAD_BYTES_MAX, TOPIC_BYTES_MAX};
use std::fmt::Debug;

#[path = "native_field_tests.rs"]
mod fields;
#[path = "native_random_tests.rs"]
mod random;

const PAGE: &str = include_str!("NATIVE.md");

type ParseResult<F> = Result<Parsed<F>, FrameError>;

fn parse_client(input: &[u8]) -> ParseResult<ClientFrame<'_>> {
    parse_from_client(input, NATIVE_FRAME_BYTES_MAX)
}

/// A frame of either side before it is written.
#[derive(Clone, Copy, Debug)]
enum Sent<'a> {
    Hello(Hello<'a>),
    Publish(u32, When, Parts<'a>),
    Subscribe(u32, Subscription<'a>),
    Unsubscribe(u32, Subscription<'a>),
    Ping(u32),
    Drain(u32),
    PublishStored(u32, Parts<'a>),
    Call(u32, &'a [u8]),
    Message(Parts<'a>),
    Welcome(Welcome<'a>),
    Ack(u32, u32),
    Error(u32, ErrorCode, &'a str),
    Turn(u32, Parts<'a>),
    Gap(u64),
    Draining(u32),
    Answer(u32, AnswerPart, &'a [u8]),
    Stored(u32, u32, &'a [u8]),
}

impl<'a> Sent<'a> {
    fn write(&self) -> Vec<u8> {
        let mut out = b"what stood before".to_vec();
        let before = out.clone();
        match self {
            Sent::Hello(hello) => write_hello(&mut out, hello),
            Sent::Publish(request, when, parts) => {
                write_publish(&mut out, *request, *when, &message_bytes(parts));
            }
            Sent::Subscribe(request, subscription) => {
                write_subscription(&mut out, kind::SUBSCRIBE, *request, subscription);
            }
            Sent::Unsubscribe(request, subscription) => {
                write_subscription(&mut out, kind::UNSUBSCRIBE, *request, subscription);
            }
            Sent::Ping(request) => write_request(&mut out, kind::PING, *request),
            Sent::Drain(request) => write_request(&mut out, kind::DRAIN, *request),
            Sent::Message(parts) => write_message(&mut out, &message_bytes(parts)),
            Sent::Welcome(welcome) => write_welcome(&mut out, welcome),
            Sent::Ack(request, count) => write_ack(&mut out, *request, *count),
            Sent::Error(request, code, text) => write_error(&mut out, *request, *code, text),
            Sent::Turn(member, parts) => write_turn(&mut out, *member, &message_bytes(parts)),
            Sent::Gap(events) => write_gap(&mut out, *events),
            Sent::Draining(milliseconds) => write_draining(&mut out, *milliseconds),
            Sent::PublishStored(request, parts) => {
                write_publish_stored(&mut out, *request, &message_bytes(parts));
            }
            Sent::Call(request, body) => {
                write_call(&mut out, *request, |out| out.extend_from_slice(body));
            }
            Sent::Answer(request, part, body) => write_answer(&mut out, *request, *part, body),
            Sent::Stored(first, count, answers) => {
                write_stored(&mut out, *first, *count, answers);
            }
        }
        assert!(out.starts_with(&before), "writers append");
        out.split_off(before.len())
    }

    /// What the broker must read from these bytes; `None` if a client must not send it.
    fn for_broker(&self, frame: &'a [u8]) -> Option<ClientFrame<'a>> {
        let fields = &frame[LENGTH_BYTES + 1..];
        Some(match *self {
            Sent::Hello(hello) => ClientFrame::Hello(hello),
            Sent::Publish(request, when, ref parts) => ClientFrame::Publish {
                request,
                when,
                message: message_from(parts, &fields[5..]),
            },
            Sent::Subscribe(request, subscription) => ClientFrame::Subscribe {
                request,
                subscription,
            },
            Sent::Unsubscribe(request, subscription) => ClientFrame::Unsubscribe {
                request,
                subscription,
            },
            Sent::Ping(request) => ClientFrame::Ping { request },
            Sent::Drain(request) => ClientFrame::Drain { request },
            Sent::PublishStored(request, ref parts) => ClientFrame::PublishStored {
                request,
                message: message_from(parts, &fields[5..]),
            },
            Sent::Call(request, body) => ClientFrame::Call { request, body },
            Sent::Message(ref parts) => ClientFrame::Message(message_from(parts, fields)),
            _ => return None,
        })
    }

    /// What a client must read from these bytes.
    fn for_client(&self, frame: &'a [u8]) -> BrokerFrame<'a> {
        let fields = &frame[LENGTH_BYTES + 1..];
        match *self {
            Sent::Message(ref parts) => BrokerFrame::Message(message_from(parts, fields)),
            Sent::Welcome(welcome) => BrokerFrame::Welcome(welcome),
            Sent::Ack(request, count) => BrokerFrame::Ack { request, count },
            Sent::Error(request, code, text) => BrokerFrame::Error {
                request,
                code: code.number(),
                text,
            },
            Sent::Turn(member, ref parts) => BrokerFrame::Turn {
                member,
                message: message_from(parts, &fields[4..]),
            },
            Sent::Gap(events) => BrokerFrame::Gap { events },
            Sent::Draining(milliseconds) => BrokerFrame::Draining { milliseconds },
            Sent::Answer(request, part, body) => BrokerFrame::Answer {
                request,
                part,
                body,
            },
            Sent::Stored(first, count, answers) => BrokerFrame::Stored {
                first,
                count,
                answers,
            },
            _ => BrokerFrame::Unknown(frame[LENGTH_BYTES]),
        }
    }
}

fn message_bytes(parts: &Parts<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    parts.write(&mut out).expect("parts that make a message");
    out
}

/// The message that the parts make, its borders found from their lengths alone.
fn message_from<'a>(parts: &Parts<'_>, bytes: &'a [u8]) -> Message<'a> {
    let (topic_end, payload_start) = (3 + parts.topic.len(), bytes.len() - parts.payload.len());
    let message = Message {
        bytes,
        flags: u8::from(parts.reply.is_some())
            | u8::from(!parts.headers.is_empty()) << 1
            | u8::from(parts.is_end) << 2,
        topic: &bytes[3..topic_end],
        attributes: &bytes[topic_end..payload_start],
        payload: &bytes[payload_start..],
    };
    assert_eq!(message.topic, parts.topic);
    assert_eq!(message.reply(), parts.reply);
    assert_eq!(message.headers().collect::<Vec<_>>(), parts.headers);
    assert!(message.headers().are_valid());
    assert_eq!(message.is_end(), parts.is_end);
    assert_eq!(message.payload, parts.payload);
    message
}

/// Parses the frame at the start of a longer stream: whole, with what follows, and each part of it.
fn check_parser<'a, F: Debug + PartialEq>(
    stream: &'a [u8],
    length: usize,
    frame: F,
    parse: fn(&'a [u8]) -> ParseResult<F>,
) {
    let expected = Ok(Parsed::Frame { frame, length });
    assert_eq!(parse(&stream[..length]), expected, "whole");
    assert_eq!(parse(stream), expected, "with what follows");
    for end in 0..length {
        let needed = if end < LENGTH_BYTES {
            LENGTH_BYTES
        } else {
            length
        };
        let incomplete = Ok(Parsed::Incomplete { needed });
        assert_eq!(parse(&stream[..end]), incomplete, "the first {end} bytes");
    }
}

/// Writes a frame and has both sides parse it.
fn check(sent: &Sent<'_>) {
    let frame = sent.write();
    let stream = [&frame[..], &frame[..], b"\xff"].concat();
    match sent.for_broker(&frame) {
        Some(expected) => check_parser(&stream, frame.len(), expected, parse_client),
        None => {
            let kind = frame[LENGTH_BYTES];
            assert_eq!(parse_client(&stream), Err(FrameError::UnknownKind(kind)));
        }
    }
    let expected = sent.for_client(&frame);
    check_parser(&stream, frame.len(), expected, parse_from_broker);
}

/// Reads what arrives in pieces that end at `cuts`, as a connection does: it collects until as
/// many bytes stand as the parser asked for. Gives the frames, and how many bytes are left over.
fn frames_in_pieces<'a, F>(
    input: &'a [u8],
    cuts: &[usize],
    parse: fn(&'a [u8]) -> ParseResult<F>,
) -> Result<(Vec<F>, usize), FrameError> {
    let (mut frames, mut start, mut needed) = (Vec::new(), 0, 1);
    for &end in cuts.iter().chain([&input.len()]) {
        // Ends because each round takes bytes, or asks for more than there are.
        while end - start >= needed {
            match parse(&input[start..end])? {
                Parsed::Frame { frame, length } => {
                    assert!(length > LENGTH_BYTES && length <= end - start);
                    frames.push(frame);
                    start += length;
                    needed = 1;
                }
                Parsed::Incomplete { needed: more } => {
                    assert!(more > end - start, "asks for what it has");
                    needed = more;
                }
            }
        }
    }
    Ok((frames, input.len() - start))
}

fn framed(kind: u8, fields: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame(&mut out, kind, |out| out.extend_from_slice(fields));
    out
}

/// The examples of the page: name and frame.
fn page_examples() -> Vec<(&'static str, Vec<u8>)> {
    let block = |kind: &str| {
        let start = format!("```{kind}\n");
        let (before, block) = PAGE.split_once(&start).expect("a block of this kind");
        let (block, after) = block.split_once("\n```\n").expect("its end");
        assert!(!before.contains(&start) && !after.contains(&start));
        block
    };
    // The conformance suite knows the first; its agents do not speak of streams.
    let lines = block("golden").lines().chain(block("streams").lines());
    let example = |line: &'static str| {
        let (frame, _) = line.split_once(" # ").expect("what it is, behind #");
        let (name, digits) = frame.split_once(' ').expect("a name and a frame");
        let digits: Vec<u8> = digits.bytes().filter(|byte| *byte != b' ').collect();
        assert_eq!(digits.len() % 2, 0, "half a byte in {name}");
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(pair, 16).expect("hexadecimal digits")
        };
        (name, digits.chunks(2).map(byte).collect())
    };
    lines.map(example).collect()
}

fn message_parts<'a>(topic: &'a [u8], payload: &'a [u8]) -> Parts<'a> {
    Parts {
        topic,
        payload,
        ..Parts::default()
    }
}

fn plain(filter: &[u8]) -> Subscription<'_> {
    Subscription {
        member: 0,
        group: b"",
        filter,
    }
}

/// A part of a read with one message.
const PAGE_ANSWER: &[u8] =
    b"\x01\x0d\0\0\0\0\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\x03\xe8\0\x01a\0\0\0\0\0\0\0\x01!";

/// Two messages that were stored from sequence 40 on.
const STORED_ANSWER: &[u8] = b"\x01\x01\0\x01o\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\x28\0\0\0\x02";

/// What the examples of the page are.
fn examples() -> Vec<(&'static str, Sent<'static>)> {
    let drop_oldest = Hello {
        policy: Some(Policy::DropOldest),
        ..Hello::default()
    };
    let password = Hello {
        versions: (1, 3),
        user: Some(b"ada"),
        password: Some(b"secret"),
        ..Hello::default()
    };
    let welcome = Welcome {
        version: 1,
        client: 7,
        payload_max: 64 << 20,
        ..Welcome::default()
    };
    let full = Parts {
        topic: b"a.b",
        reply: Some(b"r.12"),
        headers: &[(b"id", b"7"), (b"x", b"")],
        is_end: true,
        payload: b"done",
    };
    let request = Parts {
        reply: Some(b"r.1"),
        ..message_parts(b"svc", b"?")
    };
    let group = Subscription {
        member: 9,
        group: b"wg",
        filter: b"jobs*",
    };
    let not_yours = Sent::Error(2, ErrorCode::TopicReserved, "not yours to use");
    let first = vec![
        ("hello", Sent::Hello(drop_oldest)),
        ("hello_password", Sent::Hello(password)),
        ("welcome", Sent::Welcome(welcome)),
        ("message", Sent::Message(message_parts(b"news", b"hello!"))),
        ("message_empty", Sent::Message(message_parts(b"a", b""))),
        ("message_full", Sent::Message(full)),
        (
            "publish",
            Sent::Publish(1, When::Always, message_parts(b"news", b"hel")),
        ),
        ("request", Sent::Publish(2, When::Unheard, request)),
        ("subscribe", Sent::Subscribe(3, plain(b"news.>"))),
        ("subscribe_group", Sent::Subscribe(4, group)),
        ("unsubscribe", Sent::Unsubscribe(5, plain(b"news.>"))),
        ("ping", Sent::Ping(6)),
        ("drain", Sent::Drain(7)),
        ("ack", Sent::Ack(1, 3)),
        ("error", not_yours),
        ("turn", Sent::Turn(9, message_parts(b"jobs", b"xy"))),
        ("gap", Sent::Gap(1_000)),
        ("draining", Sent::Draining(2_000)),
    ];
    first.into_iter().chain(stream_examples()).collect()
}

/// What the examples of streams are.
fn stream_examples() -> Vec<(&'static str, Sent<'static>)> {
    vec![
        (
            "publish_stored",
            Sent::PublishStored(8, message_parts(b"orders", b"7")),
        ),
        ("call", Sent::Call(9, b"\x01\x04\x00\x00\x01o")),
        (
            "answer",
            Sent::Answer(11, AnswerPart::Last, b"\x01\x07\0\0\0\0\0\0\0\x05"),
        ),
        (
            "answer_part",
            Sent::Answer(10, AnswerPart::More, PAGE_ANSWER),
        ),
        ("stored", Sent::Stored(8, 2, STORED_ANSWER)),
    ]
}

fn example(name: &str) -> Vec<u8> {
    let mut examples = page_examples().into_iter();
    let found = examples.find(|(other, _)| *other == name);
    found.expect("an example of the page").1
}

#[test]
fn examples_of_the_page_are_read_and_written_to_the_byte() {
    let (page, known) = (page_examples(), examples());
    let page_names: Vec<_> = page.iter().map(|(name, _)| *name).collect();
    let known_names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
    assert_eq!(page_names, known_names);
    for ((name, frame), (_, sent)) in page.iter().zip(&known) {
        assert_eq!(&sent.write(), frame, "{name}, as it is written");
        check(sent);
    }
    assert_eq!(example("gap").len(), GAP_BYTES);
}

/// The cells of each row of the page's table whose header begins with this cell.
fn table(first: &str) -> Vec<Vec<&'static str>> {
    let start = format!("| {first} |");
    let lines = PAGE.lines().skip_while(|line| !line.starts_with(&start));
    let rows = lines.skip(2).take_while(|line| line.starts_with('|'));
    let cells = |row: &'static str| row.trim_matches('|').split('|').map(str::trim).collect();
    let rows: Vec<_> = rows.map(cells).collect();
    assert!(!rows.is_empty(), "the page has no table of {first}");
    rows
}

#[test]
fn kinds_of_the_page_are_those_of_the_code() {
    let kinds = [
        ("HELLO", kind::HELLO),
        ("PUBLISH", kind::PUBLISH),
        ("SUBSCRIBE", kind::SUBSCRIBE),
        ("UNSUBSCRIBE", kind::UNSUBSCRIBE),
        ("PING", kind::PING),
        ("DRAIN", kind::DRAIN),
        ("CALL", kind::CALL),
        ("MESSAGE", kind::MESSAGE),
        ("WELCOME", kind::WELCOME),
        ("ACK", kind::ACK),
        ("ERROR", kind::ERROR),
        ("TURN", kind::TURN),
        ("GAP", kind::GAP),
        ("DRAINING", kind::DRAINING),
        ("ANSWER", kind::ANSWER),
        ("STORED", kind::STORED),
    ];
    let rows = table("kind");
    let on_page: Vec<_> = rows
        .iter()
        .map(|row| {
            let digits = row[0].strip_prefix("0x").expect("hexadecimal");
            let number = u8::from_str_radix(digits, 16).expect("a number");
            (row[1], number)
        })
        .collect();
    assert_eq!(on_page, kinds);
    // Kinds that the page does not name: the broker refuses them, a client skips them.
    for number in 0..=u8::MAX {
        let row = on_page.iter().position(|(_, other)| *other == number);
        let sender = row.map_or("nobody", |row| rows[row][2]);
        let frame = framed(number, b"");
        assert_eq!(
            parse_client(&frame) == Err(FrameError::UnknownKind(number)),
            !matches!(sender, "client" | "both"),
            "kind {number:#x} from a client"
        );
        let frame = framed(number, &[0xff; 9]);
        let skipped = Parsed::Frame {
            frame: BrokerFrame::Unknown(number),
            length: frame.len(),
        };
        assert_eq!(
            parse_from_broker(&frame) == Ok(skipped),
            !matches!(sender, "broker" | "both"),
            "kind {number:#x} from the broker"
        );
    }
}

/// The number and name of each option in the page's table, and its description.
fn page_options(side: &str) -> Vec<(u8, &'static str, &'static str)> {
    let option = |row: &Vec<&'static str>| {
        let (number, name) = row[0].split_once(' ').expect("number and name");
        (number.parse().expect("a number"), name, row[1])
    };
    let rows = table(&format!("{side} option"));
    rows.iter().map(option).collect()
}

#[test]
fn options_of_the_page_are_those_of_the_code() {
    let mut hello = Hello {
        user: Some(b"u"),
        password: Some(b"p"),
        name: "n",
        library: "l/1",
        ..Hello::default()
    };
    let options = [
        (1, "user", &b"u"[..]),
        (2, "password", b"p"),
        (3, "name", b"n"),
        (4, "library", b"l/1"),
        (5, "policy", b"\x01"),
    ];
    for policy in Policy::ALL {
        hello.policy = Some(policy);
        check(&Sent::Hello(hello));
    }
    hello.policy = Some(Policy::Close);
    let page = page_options("HELLO");
    check_options(&page, &options, &Sent::Hello(hello).write()[11..]);
    let policies = Policy::ALL.map(|policy| format!("{} `{}`", policy.number(), policy.name()));
    assert!(page[4].2.ends_with(&policies.join(", ")), "{}", page[4].2);

    let welcome = Sent::Welcome(Welcome {
        version: 1,
        broker: "sapwood/1",
        client: 2,
        run: "0a",
        payload_max: 3,
    });
    check(&welcome);
    let options = [
        (1, "broker", &b"sapwood/1"[..]),
        (2, "client", &[2, 0, 0, 0, 0, 0, 0, 0]),
        (3, "run", b"0a"),
        (4, "payload_max", &[3, 0, 0, 0]),
    ];
    check_options(&page_options("WELCOME"), &options, &welcome.write()[6..]);
}

/// Compares options with the page's table, and with what was written.
fn check_options(page: &[(u8, &str, &str)], options: &[(u8, &str, &[u8])], mut written: &[u8]) {
    let on_page: Vec<_> = page.iter().map(|&(id, name, _)| (id, name)).collect();
    let known: Vec<_> = options.iter().map(|&(id, name, _)| (id, name)).collect();
    assert_eq!(on_page, known);
    for (id, name, value) in options {
        let length = [value.len() as u8, 0];
        let option = [&[*id], &length[..], value].concat();
        written = written.strip_prefix(&option[..]).expect(name);
    }
    assert_eq!(written, b"", "options that the page does not have");
}

#[test]
fn error_codes_of_the_page_are_those_of_the_code() {
    let rows = table("code");
    let on_page: Vec<_> = rows
        .iter()
        .map(|row| (row[0].parse().expect("a number"), row[1], row[2]))
        .collect();
    let in_code: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|code| (code.number(), code.name(), code.meaning()))
        .collect();
    assert_eq!(on_page, in_code);
    for number in 0..=u16::MAX {
        let code = ErrorCode::from_number(number);
        let listed = ErrorCode::ALL.iter().find(|code| code.number() == number);
        assert_eq!(code, listed.copied(), "{number}");
        assert!(code.is_none_or(|code| code.is_fatal() == (number < 200)));
        assert!(code.is_none_or(|code| code.to_string() == code.name()));
    }
}

#[test]
fn caps_of_the_page_are_those_of_the_code() {
    assert_eq!(NATIVE_FRAME_BYTES_MAX, 67_239_936);
    assert!(PAGE.contains("at most 67,239,936 (64 MiB and 128 KiB)"));
    assert_eq!(PAYLOAD_BYTES_MAX, 64 << 20);
    assert!(PAGE.contains("rest, at most 64 MiB"));
    assert_eq!(NATIVE_HELLO_BYTES_MAX, 16_384);
    assert!(PAGE.contains("its length at most 16,384 (16 KiB)"));
    assert_eq!(
        (TOPIC_BYTES_MAX, crate::limits::TOPIC_TOKENS_MAX),
        (1024, 64)
    );
    assert!(PAGE.contains("at most 1,024, in at most 64 tokens"));
}

#[test]
fn streams_are_read_however_they_are_cut() {
    fn check_stream<'a, F: Clone + Debug + PartialEq>(
        stream: &'a [u8],
        frames: Vec<F>,
        parse: fn(&'a [u8]) -> ParseResult<F>,
    ) {
        for cut in 0..=stream.len() {
            let read = frames_in_pieces(stream, &[cut], parse);
            assert_eq!(read, Ok((frames.clone(), 0)), "split at {cut}");
        }
        let each: Vec<usize> = (0..stream.len()).collect();
        let read = frames_in_pieces(stream, &each, parse);
        assert_eq!(read, Ok((frames, 0)), "byte by byte");
    }
    let written: Vec<_> = examples()
        .iter()
        .map(|(_, sent)| (*sent, sent.write()))
        .collect();
    let (mut from_clients, mut from_broker) = (Vec::new(), Vec::new());
    let (mut for_broker, mut for_client) = (Vec::new(), Vec::new());
    for (sent, frame) in &written {
        if let Some(expected) = sent.for_broker(frame) {
            from_clients.extend_from_slice(frame);
            for_broker.push(expected);
        }
        from_broker.extend_from_slice(frame);
        for_client.push(sent.for_client(frame));
    }
    assert_eq!((for_broker.len(), for_client.len()), (14, 23));
    check_stream(&from_clients, for_broker, parse_client);
    check_stream(&from_broker, for_client, parse_from_broker);
}
