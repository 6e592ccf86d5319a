//! Requests and answers: golden bytes, cuts, mutations.

use super::tests::{CONFIG_HEX, Random, config, full, hex, plain};
use super::*;

const MESSAGES_HEX: &str = "00000003 00 00036f2e61 000000027879 \
    3f 0169 0000000000000008 0000000000000009 000000000000000a 0000000168 00000000 \
    00 00036f2e62 00000000";

fn append(stream: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    write_append(&mut out, stream, |push| {
        push(&plain(b"o.a", b"xy"));
        push(&full(b"o.a"));
        push(&plain(b"o.b", b""));
    });
    out
}

fn batch() -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = BatchToWriter::new(&mut out);
    writer.push(None, |push| push(&plain(b"a", b"1")));
    writer.push(Some(b"s"), |push| push(&full(b"b")));
    out
}

fn ask(ask: Ask) -> Vec<u8> {
    let mut out = Vec::new();
    let order = Order::Now;
    Request { order, ask }.write(&mut out);
    out
}

fn read(start: ReadStart) -> Vec<u8> {
    ask(Ask::Read(Read {
        stream: b"or",
        start,
        filters: vec![b"o.*", b"p"],
        messages: 5,
        bytes: 6,
    }))
}

fn token() -> ResumeToken {
    ResumeToken {
        lineage: Lineage(0xa7),
        stream: StreamNumber(3),
        sequence: Sequence(9),
    }
}

fn requests() -> Vec<(Vec<u8>, String)> {
    let purge = |filter| {
        ask(Ask::Purge(PurgeOf {
            stream: b"or",
            filter,
            before: Sequence(7),
            keep: 2,
        }))
    };
    let list = List {
        after: b"a",
        prefix: b"",
        most: 256,
    };
    let behind = {
        let mut out = Vec::new();
        let request = Request {
            order: Order::BehindWrites,
            ask: Ask::Info(b"or"),
        };
        request.write(&mut out);
        out
    };
    let mut all = vec![
        (ask(Ask::Create(config())), format!("010100 {CONFIG_HEX}")),
        (ask(Ask::Update(config())), format!("010200 {CONFIG_HEX}")),
        (
            append(Some(b"or")),
            format!("010600 00026f72 {MESSAGES_HEX}"),
        ),
        (append(None), format!("010600 0000 {MESSAGES_HEX}")),
    ];
    let plain = [
        (ask(Ask::Delete(b"or")), "010300 00026f72"),
        (behind, "010401 00026f72"),
        (ask(Ask::List(list)), "010500 000161 0000 0100"),
        (
            batch(),
            "010700 0002 0000000f 0000 00000001 00 000161 0000000131 \
             0000002e 000173 00000001 3e 000162 0169 0000000000000008 0000000000000009 000000000000000a 0000000168 00000000",
        ),
        (
            purge(None),
            "010800 00026f72 00 0000000000000007 0000000000000002",
        ),
        (
            purge(Some(b"o.*")),
            "010800 00026f72 01 00036f2e2a 0000000000000007 0000000000000002",
        ),
        (
            ask(Ask::DeleteMessage(b"or", Sequence(5))),
            "010900 00026f72 0000000000000005",
        ),
        (
            ask(Ask::Get(b"or", Which::Sequence(Sequence(5)))),
            "010a00 00026f72 01 0000000000000005",
        ),
        (
            ask(Ask::Get(b"or", Which::LastOf(b"o.a"))),
            "010a00 00026f72 02 00036f2e61",
        ),
        (
            ask(Ask::Get(b"or", Which::FirstAt(5))),
            "010a00 00026f72 03 0000000000000005",
        ),
    ];
    all.extend(plain.map(|(bytes, golden)| (bytes, golden.to_string())));
    all.extend(reads());
    all
}

fn wait() -> (Vec<u8>, String) {
    let wait = Wait {
        stream: b"or",
        token: token(),
        ms: 5,
    };
    let golden = format!("010c00 00026f72 {TOKEN_HEX} 0000000000000005");
    (ask(Ask::Wait(wait)), golden)
}

fn reads() -> Vec<(Vec<u8>, String)> {
    let starts = [
        (ReadStart::First, "01"),
        (ReadStart::Last, "02"),
        (ReadStart::New, "03"),
        (ReadStart::Sequence(Sequence(5)), "04 0000000000000005"),
        (ReadStart::Time(5), "05 0000000000000005"),
        (ReadStart::LastOfEach, "06"),
        (
            ReadStart::Resume(token()),
            "07 00000000000000a7 00000003 0000000000000009",
        ),
    ];
    let golden = starts.map(|(start, golden)| {
        let golden = format!("010b00 00026f72 {golden} 02 00036f2e2a 000170 00000005 00000006");
        (read(start), golden)
    });
    let mut all: Vec<_> = golden.into();
    all.push(wait());
    all
}

fn info() -> StreamInfo {
    StreamInfo {
        lineage: Lineage(0xa7),
        partition: PartitionId(2),
        number: StreamNumber(3),
        messages: 4,
        bytes: 5,
        first: Sequence(6),
        last: Sequence(7),
        first_ms: 8,
        last_ms: 9,
        config: config(),
    }
}

fn stored_message() -> StoredMessage<'static> {
    StoredMessage {
        sequence: Sequence(7),
        ms: 9,
        topic: b"o.a",
        headers: b"h",
        body: b"xy",
    }
}

const INFO_HEX: &str = "00000000000000a7 0002 00000003 0000000000000004 0000000000000005 0000000000000006 \
    0000000000000007 0000000000000008 0000000000000009";
const MESSAGE_HEX: &str = "0000000000000007 0000000000000009 00036f2e61 0000000168 000000027879";
const TOKEN_HEX: &str = "00000000000000a7 00000003 0000000000000009";

fn write(answer: Answer) -> Vec<u8> {
    let mut out = Vec::new();
    answer.write(&mut out);
    out
}

fn page(head: ReadHead, messages: usize) -> Vec<u8> {
    let mut writer = ReadPageWriter::new(vec![7; 3]);
    (0..messages).for_each(|_| writer.push(&stored_message()));
    let mut out = Vec::new();
    writer.finish(&head, &mut out);
    out
}

fn answers() -> Vec<(Vec<u8>, String)> {
    let run = Appended {
        stream: StreamNumber(3),
        outcomes: Outcomes::Run {
            first: Sequence(7),
            count: 2,
        },
    };
    let run_hex = "00000003 00 0000000000000007 00000002";
    let stored = Stored {
        stream: b"or",
        position: 4,
        durability: Durability::Os,
        outcomes: run.clone(),
    };
    let part = BatchPart {
        stream: b"or",
        outcomes: run,
    };
    let text = |bytes: Vec<u8>, golden: &str| (bytes, golden.to_string());
    vec![
        text(
            write(Answer::Stored(stored)),
            &format!("0101 00026f72 00000004 01 {run_hex}"),
        ),
        text(
            write(Answer::BatchStored(Durability::Fsync, vec![part])),
            &format!("0102 00 0001 00026f72 {run_hex}"),
        ),
        text(
            write(Answer::BatchRefused(3, Refusal::StreamFull)),
            "0103 00000003 000c",
        ),
        text(write(Answer::Created(Creation::New)), "0104 00"),
        text(write(Answer::Created(Creation::Existing)), "0104 01"),
        text(write(Answer::Updated), "0105"),
        text(write(Answer::Deleted(9)), "0106 0000000000000009"),
        text(write(Answer::Purged(9)), "0107 0000000000000009"),
        text(write(Answer::MessageDeleted), "0108"),
        text(
            write(Answer::Refused(Refusal::TooLarge(16), b"or")),
            "0109 0011 00000010 00026f72",
        ),
        text(
            write(Answer::Info(info())),
            &format!("010a {INFO_HEX} {CONFIG_HEX}"),
        ),
        text(
            write(Answer::List(vec![info()], Rest::More)),
            &format!("010b 01 0001 {INFO_HEX} {CONFIG_HEX}"),
        ),
        text(
            write(Answer::Message(stored_message())),
            &format!("010c {MESSAGE_HEX}"),
        ),
    ]
}

fn pages() -> Vec<(Vec<u8>, String)> {
    let end = ReadEnd {
        rest: Rest::More,
        token: token(),
    };
    let head = ReadHead {
        is_reset: true,
        gap: Some((Sequence(1), Sequence(7))),
        end: Some(end),
    };
    let text = |bytes: Vec<u8>, golden: &str| (bytes, golden.to_string());
    vec![
        text(page(ReadHead::default(), 0), "010d 00 00000000"),
        text(
            page(head, 2),
            &format!(
                "010d 07 0000000000000001 0000000000000007 01 {TOKEN_HEX} 00000002 {MESSAGE_HEX} {MESSAGE_HEX}"
            ),
        ),
    ]
}

#[test]
fn requests_have_their_golden_bytes_and_come_back() {
    for (bytes, golden) in requests() {
        assert_eq!(hex(&bytes), golden.replace(' ', ""));
        let request = Request::read(&bytes).unwrap();
        let mut again = Vec::new();
        request.write(&mut again);
        assert_eq!(hex(&again), hex(&bytes), "{request:?}");
    }
}

#[test]
fn answers_have_their_golden_bytes_and_come_back() {
    for (bytes, golden) in answers().into_iter().chain(pages()) {
        assert_eq!(hex(&bytes), golden.replace(' ', ""));
        let answer = Answer::read(&bytes).unwrap();
        assert_eq!(hex(&write(answer.clone())), hex(&bytes), "{answer:?}");
    }
}

#[test]
fn pages_give_their_messages_in_order() {
    let bytes = page(ReadHead::default(), 2);
    let Ok(Answer::Page(page)) = Answer::read(&bytes) else {
        panic!("no page");
    };
    assert_eq!(page.messages.remaining(), 2);
    let messages: Vec<_> = page.messages.collect();
    assert_eq!(messages, [stored_message(), stored_message()]);
}

#[test]
fn requests_name_the_stream_by_which_their_worker_is_found() {
    let by_topic = append(None);
    let in_batch = batch();
    let named = append(Some(b"or"));
    let of = |bytes: &[u8]| Request::read(bytes).unwrap().stream().map(<[u8]>::to_vec);
    assert_eq!(of(&by_topic), None);
    assert_eq!(of(&in_batch), Some(b"s".to_vec()));
    assert_eq!(of(&named), Some(b"or".to_vec()));
    assert_eq!(of(&read(ReadStart::First)), Some(b"or".to_vec()));
    assert_eq!(of(&ask(Ask::Create(config()))), Some(b"or".to_vec()));
}

#[test]
fn cut_longer_and_unknown_forms_are_refused() {
    let check = |bytes: &[u8], is_read: &dyn Fn(&[u8]) -> Result<(), DecodeError>| {
        for cut in 0..bytes.len() {
            assert!(is_read(&bytes[..cut]).is_err(), "{}", hex(&bytes[..cut]));
        }
        let longer = [bytes, &[0]].concat();
        assert!(is_read(&longer).is_err(), "{}", hex(&longer));
        let mut other = bytes.to_vec();
        other[0] = 2;
        assert_eq!(is_read(&other), Err(DecodeError::Version(2)));
        other[..2].copy_from_slice(&[1, 99]);
        assert_eq!(is_read(&other), Err(DecodeError::Kind(99)));
    };
    for (bytes, _) in requests() {
        check(&bytes, &|bytes| Request::read(bytes).map(|_| ()));
    }
    for (bytes, _) in answers().into_iter().chain(pages()) {
        check(&bytes, &|bytes| Answer::read(bytes).map(|_| ()));
    }
}

#[test]
fn mutated_requests_and_answers_never_panic() {
    let seed = 0x5eed_0018;
    println!("seed {seed}");
    let mut random = Random(seed);
    let forms: Vec<_> = requests()
        .into_iter()
        .chain(answers())
        .chain(pages())
        .collect();
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
        match Request::read(&bytes).map(|request| request.ask) {
            Ok(Ask::Append(append)) => append.messages.for_each(|_| {}),
            Ok(Ask::Batch(batch)) => {
                batch.for_each(|append| append.messages.for_each(|_| {}));
            }
            _ => {}
        }
        if let Ok(Answer::Page(page)) = Answer::read(&bytes) {
            let remaining = page.messages.remaining() as usize;
            assert_eq!(page.messages.count(), remaining);
        }
    }
}

#[test]
fn appends_that_grow_are_the_entries_that_are_written_at_once() {
    let mut entry = Vec::new();
    push_command(&mut entry, |out| {
        let mut writer = AppendWriter::new(out, StreamNumber(7));
        writer.push(&plain(b"o.a", b"xy"));
        writer.push(&full(b"o.a"));
    });
    let mut buffer = AppendBuffer::new(b"what stood there".to_vec(), StreamNumber(7));
    buffer.push(&plain(b"o.a", b"xy"));
    buffer.push(&full(b"o.a"));
    assert_eq!(buffer.entry_bytes(), entry.len());
    assert_eq!(hex(&buffer.finish()), hex(&entry));
    let longest = full(b"o.a");
    let before = entry.len();
    assert!(longest.encoded_bytes_max() + before >= entry.len());
}
