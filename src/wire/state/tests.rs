use super::*;

pub(super) const CONFIG_HEX: &str = "00026f72020003 6f2e3e000170 0000000000000001 0000000000000002 0000000000000003 01 0000000000000004 00000005 01 01";

pub(super) fn config() -> StreamConfig {
    StreamConfig {
        name: b"or".to_vec(),
        filters: vec![b"o.>".to_vec(), b"p".to_vec()],
        age_ms_max: 1,
        bytes_max: 2,
        messages_max: 3,
        discard: Discard::New,
        duplicate_window_ms: 4,
        message_bytes_max: 5,
        durability: Durability::Os,
        message_ttl: MessageTtl::Allowed,
    }
}

pub(super) fn plain<'a>(topic: &'a [u8], body: &'a [u8]) -> Message<'a> {
    Message {
        topic,
        body,
        ..Message::default()
    }
}

pub(super) fn full<'a>(topic: &'a [u8]) -> Message<'a> {
    Message {
        topic,
        id: b"i",
        expected_last: Some(Sequence(8)),
        expected_last_of_topic: Some(Sequence(9)),
        ttl_ms: 10,
        headers: b"h",
        body: b"",
    }
}

fn append() -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = AppendWriter::new(&mut out, StreamNumber(7));
    writer.push(&plain(b"o.a", b"xy"));
    writer.push(&full(b"o.a"));
    writer.push(&plain(b"o.b", b""));
    out
}

fn batch() -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = BatchWriter::new(&mut out);
    writer.push(StreamNumber(1), |part| part.push(&plain(b"a", b"1")));
    writer.push(StreamNumber(2), |part| part.push(&full(b"b")));
    out
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn commands() -> Vec<(Vec<u8>, &'static str)> {
    assert_eq!(CONFIG_HEX.replace(' ', ""), {
        let mut out = Vec::new();
        config().write(&mut out);
        hex(&out)
    });
    let encode = |command: Command| {
        let mut out = Vec::new();
        command.write(&mut out);
        out
    };
    let stream = StreamNumber(7);
    let purge = |filter| {
        Command::Purge(Purge {
            stream,
            filter,
            before: Sequence(u64::MAX),
            keep: 2,
        })
    };
    vec![
        (
            encode(Command::Create(config())),
            "0101 00026f720200036f2e3e000170000000000000000100000000000000020000000000000003010000000000000004000000050101",
        ),
        (
            encode(Command::Update(stream, config())),
            "0102 00000007 00026f720200036f2e3e000170000000000000000100000000000000020000000000000003010000000000000004000000050101",
        ),
        (encode(Command::Delete(stream)), "0103 00000007"),
        (
            append(),
            "0104 00000007 00000003 00 00036f2e61 000000027879 \
             3f 0169 0000000000000008 0000000000000009 000000000000000a 0000000168 00000000 \
             00 00036f2e62 00000000",
        ),
        (
            batch(),
            "0105 0002 00000011 00000001 00000001 00 000161 0000000131 \
             0000002f 00000002 00000001 3e 000162 0169 0000000000000008 0000000000000009 000000000000000a 0000000168 00000000",
        ),
        (
            encode(purge(None)),
            "0106 00000007 00 ffffffffffffffff 0000000000000002",
        ),
        (
            encode(purge(Some(b"a.*"))),
            "0106 00000007 01 0003612e2a ffffffffffffffff 0000000000000002",
        ),
        (
            encode(Command::DeleteMessage(stream, Sequence(5))),
            "0107 00000007 0000000000000005",
        ),
        (
            encode(Command::ExpireAge(stream, 100)),
            "0108 00000007 00000064",
        ),
        (
            encode(Command::ExpireTtl(stream, 100)),
            "0109 00000007 00000064",
        ),
        (encode(Command::PruneIds(stream)), "010a 00000007"),
        (
            encode(Command::Raise(1_000_000_000)),
            "010b 000000003b9aca00",
        ),
        (encode(Command::RaiseOs(1)), "010c 0000000000000001"),
    ]
}

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::NoStream,
        Refusal::StreamExists(StreamNumber(1)),
        Refusal::Config(ConfigError::FiltersOverlap),
        Refusal::FiltersTaken(StreamNumber(2)),
        Refusal::StreamsFull,
        Refusal::TopicNotKept,
        Refusal::MessageTooLong(3),
        Refusal::IdInvalid,
        Refusal::TtlRefused,
        Refusal::WrongLast(Sequence(4)),
        Refusal::WrongLastOfTopic(Sequence(5)),
        Refusal::StreamFull,
        Refusal::NoMessage,
        Refusal::SearchTooLong(Sequence(6)),
        Refusal::FilterInvalid,
        Refusal::StorageFailed,
        Refusal::TooLarge(7),
        Refusal::Unknown,
        Refusal::BatchSpans,
        Refusal::RequestInvalid,
        Refusal::Busy,
    ]
}

fn replies() -> Vec<(Reply, &'static str)> {
    let stream = StreamNumber(7);
    let run = Appended {
        stream,
        outcomes: Outcomes::Run {
            first: Sequence(1),
            count: 2,
        },
    };
    let each = Appended {
        stream,
        outcomes: Outcomes::Each(vec![
            Outcome::Stored(Sequence(1)),
            Outcome::Duplicate(Sequence(2)),
            Outcome::Refused(Refusal::WrongLast(Sequence(3))),
        ]),
    };
    let rest = PurgeRest {
        before: Sequence(3),
        keep: 1,
    };
    vec![
        (Reply::Created(stream, Creation::New), "0101 00000007 00"),
        (
            Reply::Created(stream, Creation::Existing),
            "0101 00000007 01",
        ),
        (Reply::Updated(stream), "0102 00000007"),
        (Reply::Deleted(stream, 9), "0103 00000007 0000000000000009"),
        (
            Reply::Appended(run.clone()),
            "0104 00000007 00 0000000000000001 00000002",
        ),
        (
            Reply::Appended(each),
            "0104 00000007 01 00000003 00 0000000000000001 01 0000000000000002 02 000a 0000000000000003",
        ),
        (
            Reply::Batch(vec![run]),
            "0105 0001 00000007 00 0000000000000001 00000002",
        ),
        (
            Reply::BatchRefused(3, Refusal::StreamFull),
            "0106 00000003 000c",
        ),
        (
            Reply::Purged(stream, 2, None),
            "0107 00000007 0000000000000002 00",
        ),
        (
            Reply::Purged(stream, 2, Some(rest)),
            "0107 00000007 0000000000000002 01 0000000000000003 0000000000000001",
        ),
        (
            Reply::Expired(stream, 2, Rest::More),
            "0108 00000007 0000000000000002 01",
        ),
        (Reply::Pruned(stream), "0109 00000007"),
        (Reply::Refused(Refusal::NoStream), "010a 0001"),
        (Reply::MessageDeleted(stream), "010b 00000007"),
        (Reply::Raised, "010c"),
    ]
}

#[test]
fn commands_have_their_golden_bytes_and_come_back() {
    for (bytes, golden) in commands() {
        assert_eq!(hex(&bytes), golden.replace(' ', ""));
        let command = Command::read(&bytes).unwrap();
        let mut again = Vec::new();
        command.write(&mut again);
        assert_eq!(hex(&again), hex(&bytes), "{command:?}");
    }
}

#[test]
fn replies_have_their_golden_bytes_and_come_back() {
    for (reply, golden) in replies() {
        let mut bytes = Vec::new();
        reply.write(&mut bytes);
        assert_eq!(hex(&bytes), golden.replace(' ', ""));
        assert_eq!(Reply::read(&bytes), Ok(reply));
    }
}

#[test]
fn refusals_have_codes_and_names_of_their_own_and_come_back() {
    let all = refusals();
    for (position, refusal) in all.iter().enumerate() {
        assert_eq!(usize::from(refusal.code()), position + 1);
        let earlier = &all[..position];
        assert!(earlier.iter().all(|other| other.name() != refusal.name()));
        assert!(!refusal.to_string().is_empty());
        let reply = Reply::Refused(*refusal);
        let mut bytes = Vec::new();
        reply.write(&mut bytes);
        assert_eq!(Reply::read(&bytes), Ok(reply));
    }
}

#[test]
fn messages_come_back_with_all_their_fields() {
    let bytes = append();
    let Ok(Command::Append(append)) = Command::read(&bytes) else {
        panic!("no append");
    };
    assert_eq!(append.stream, StreamNumber(7));
    let messages: Vec<_> = append.messages.collect();
    let expected = [plain(b"o.a", b"xy"), full(b"o.a"), plain(b"o.b", b"")];
    assert_eq!(messages, expected);
    let bytes = batch();
    let Ok(Command::Batch(batch)) = Command::read(&bytes) else {
        panic!("no batch");
    };
    let streams: Vec<_> = batch.map(|append| append.stream.0).collect();
    assert_eq!(streams, [1, 2]);
}

#[test]
fn truncated_and_longer_forms_are_refused() {
    for (bytes, _) in commands() {
        for cut in 0..bytes.len() {
            assert!(
                Command::read(&bytes[..cut]).is_err(),
                "{}",
                hex(&bytes[..cut])
            );
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(Command::read(&longer).is_err(), "{}", hex(&longer));
    }
    for (reply, _) in replies() {
        let mut bytes = Vec::new();
        reply.write(&mut bytes);
        for cut in 0..bytes.len() {
            assert!(
                Reply::read(&bytes[..cut]).is_err(),
                "{}",
                hex(&bytes[..cut])
            );
        }
        bytes.push(0);
        assert_eq!(Reply::read(&bytes), Err(DecodeError::Trailing(1)));
    }
}

#[test]
fn unknown_versions_and_kinds_are_said() {
    for (bytes, _) in commands() {
        let mut other = bytes.clone();
        other[0] = 2;
        assert_eq!(Command::read(&other), Err(DecodeError::Version(2)));
        assert_eq!(Reply::read(&other), Err(DecodeError::Version(2)));
        other[..2].copy_from_slice(&[1, 99]);
        assert_eq!(Command::read(&other), Err(DecodeError::Kind(99)));
        assert_eq!(Reply::read(&other), Err(DecodeError::Kind(99)));
    }
    let text = DecodeError::Version(2).to_string();
    assert_eq!(text, "it has version 2, which this build does not know");
}

#[test]
fn claimed_lengths_and_counts_allocate_nothing() {
    // Four billion messages, outcomes and bytes, of which none stands there.
    let forms: [&[u8]; 3] = [
        &[1, 4, 0, 0, 0, 7, 255, 255, 255, 255],
        &[
            1, 4, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 1, 97, 255, 255, 255, 255,
        ],
        &[1, 5, 255, 255, 255, 255, 255, 255],
    ];
    for form in forms {
        assert!(Command::read(form).is_err(), "{}", hex(form));
    }
    assert!(Reply::read(&[1, 4, 0, 0, 0, 7, 1, 255, 255, 255, 255]).is_err());
}

#[test]
fn raise_beyond_its_most_is_refused() {
    let bytes = |by: u64| [&[1, 11][..], &by.to_be_bytes()].concat();
    let most = crate::limits::RAISE_MAX;
    assert_eq!(Command::read(&bytes(most)), Ok(Command::Raise(most)));
    let above = Err(DecodeError::Value("raise"));
    assert_eq!(Command::read(&bytes(most + 1)), above);
    let mut of_os = bytes(most);
    of_os[1] = 12;
    assert_eq!(Command::read(&of_os), Ok(Command::RaiseOs(most)));
}

#[test]
fn first_message_cannot_have_the_topic_of_one_before() {
    let bytes = [1, 4, 0, 0, 0, 7, 0, 0, 0, 1, 1, 0, 0, 0, 0];
    assert_eq!(Command::read(&bytes), Err(DecodeError::Value("flags")));
}

/// A small generator of numbers, of which tests print the seed.
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[test]
fn mutated_forms_never_panic_and_are_walked_to_their_end() {
    let seed = 0x5eed_0017;
    println!("seed {seed}");
    let mut random = Random(seed);
    let forms = commands();
    for _ in 0..200_000 {
        let mut bytes = forms[random.below(forms.len())].0.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            bytes[at] = match random.below(3) {
                0 => random.next() as u8,
                1 => bytes[at] ^ (1 << random.below(8)),
                _ => [0, 1, 127, 128, 255][random.below(5)],
            };
        }
        match Command::read(&bytes) {
            Ok(Command::Append(append)) => {
                let remaining = append.messages.remaining() as usize;
                assert_eq!(append.messages.count(), remaining);
                assert!(remaining <= bytes.len());
            }
            Ok(Command::Batch(batch)) => {
                batch.for_each(|append| append.messages.for_each(|_| {}));
            }
            _ => {}
        }
        let _ = Reply::read(&bytes);
    }
}

#[test]
fn entries_hold_commands_in_order_and_end_at_an_error() {
    let mut entry = Vec::new();
    push_command(&mut entry, |out| {
        Command::Delete(StreamNumber(1)).write(out)
    });
    push_command(&mut entry, |out| {
        Command::PruneIds(StreamNumber(2)).write(out)
    });
    let read = |entry: &[u8]| {
        Commands::new(entry)
            .map(|one| one.map(|_| ()))
            .collect::<Vec<_>>()
    };
    assert_eq!(read(&entry), [Ok(()), Ok(())]);
    let cut = &entry[..entry.len() - 1];
    assert_eq!(read(cut), [Ok(()), Err(DecodeError::Truncated("command"))]);
    assert_eq!(read(&[]), []);
}

#[test]
fn tokens_are_text_and_nothing_else_is_one() {
    let token = ResumeToken {
        lineage: Lineage(0xa7),
        stream: StreamNumber(3),
        sequence: Sequence(1024),
    };
    assert_eq!(token.to_string(), "00000000000000a7-3-1024");
    assert_eq!("00000000000000a7-3-1024".parse(), Ok(token));
    for text in [
        "",
        "00000000000000a7-3",
        "00000000000000a7-3-1024-",
        "a7-3-1024",
        "00000000000000A7-3-1024",
        "00000000000000a7-+3-1024",
        "00000000000000a7-03-1024",
        "00000000000000a7-3-18446744073709551616",
    ] {
        assert_eq!(text.parse::<ResumeToken>(), Err(TokenError), "{text}");
    }
}

#[test]
fn configurations_are_checked() {
    let with = |change: &dyn Fn(&mut StreamConfig)| {
        let mut config = StreamConfig {
            message_bytes_max: 0,
            ..config()
        };
        change(&mut config);
        config.check()
    };
    assert_eq!(with(&|_| {}), Ok(()));
    assert_eq!(with(&|c| c.name.clear()), Err(ConfigError::Name));
    assert_eq!(with(&|c| c.name = vec![b'a'; 1024]), Ok(()));
    assert_eq!(with(&|c| c.name = vec![b'a'; 1025]), Err(ConfigError::Name));
    let many = |count: usize| (0..count).map(|n| n.to_string().into_bytes()).collect();
    assert_eq!(with(&|c| c.filters = many(64)), Ok(()));
    assert_eq!(
        with(&|c| c.filters = many(65)),
        Err(ConfigError::FiltersTooMany)
    );
    let one = |filters: &[&str]| {
        with(&|c| {
            c.filters = filters.iter().map(|one| one.as_bytes().to_vec()).collect();
        })
    };
    assert_eq!(one(&["a.>.b"]), Err(ConfigError::Filter));
    assert_eq!(one(&["$KV.a"]), Err(ConfigError::FilterReserved));
    assert_eq!(one(&["a.*", "*.b"]), Err(ConfigError::FiltersOverlap));
    assert_eq!(one(&["a.*", "a"]), Ok(()));
    assert_eq!(
        with(&|c| c.message_bytes_max = u32::MAX),
        Err(ConfigError::MessageBytes)
    );
    assert!(is_plain_name("bestellungen-ä{1}".as_bytes()));
    for name in ["", "a.b", "a b", "a*", ">", "a/b", "a\u{7}"] {
        assert!(!is_plain_name(name.as_bytes()), "{name:?}");
    }
}
