//! Any bytes, cut anywhere, must give the same request of HTTP and the same body as in one piece; what is accepted is read
//! alike by a second, plain reader, and is within the caps.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sapwood_wire::http::{Body, Chunks, Head, Method, Moment, decode, query_pairs, write_head};
use sapwood_wire::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};

const BODY_BYTES_MAX: usize = 300;

/// What bytes from 128 on stand for, where input is written with them: a request is hard to guess.
const TOKENS: &[&[u8]] = &[
    b"GET ", b"POST ", b"OPTIONS ", b"/", b"/ws", b"http://a", b"?", b"%41", b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n", b"Host: a\r\n", b"Host: a:1\r\n", b"Content-Length: ", b"Transfer-Encoding: ",
    b"chunked", b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n",
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b": ", b" ", b"\t", b"0\r\n", b"5\r\n", b"a\r\n", b"1;x\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n", b"hello", b"hello\r\n",
];

fn expand(input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for &byte in input {
        match TOKENS.get(usize::from(byte).wrapping_sub(128)) {
            Some(token) => out.extend_from_slice(token),
            None => out.push(byte),
        }
    }
    out
}

/// All that a head says, for comparing.
fn told(head: &Head<'_>) -> String {
    format!("{head:?}")
}

fn heads(input: &[u8], step: usize) {
    let whole = Head::parse(input);
    for cut in (0..input.len()).step_by(step) {
        match (Head::parse(&input[..cut]), &whole) {
            (Ok(None), _) => {}
            (Ok(Some(part)), Ok(Some(whole))) => {
                assert!(part.length <= cut);
                assert_eq!(told(&part), told(whole), "another request");
            }
            (Err(_), Err(_)) => {}
            (part, whole) => panic!("cut at {cut}: {part:?}, whole: {whole:?}"),
        }
    }
    if let Ok(Some(head)) = whole {
        look(&head, input);
    }
}

/// Reads what was accepted again, line by line.
fn look(head: &Head<'_>, input: &[u8]) {
    assert!(head.length <= input.len().min(HTTP_HEAD_BYTES_MAX));
    let text = &input[..head.length];
    let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    let (last, lines) = lines.split_last().expect("one part at least");
    assert!(last.is_empty(), "a head ends with a line's end");
    let line = |line: &&[u8]| line.strip_suffix(b"\r").expect("CR and LF").to_vec();
    let lines: Vec<Vec<u8>> = lines.iter().map(line).collect();
    assert!(!lines.iter().any(|line| line.contains(&b'\r')), "a CR stands alone");
    let start = lines.iter().position(|line| !line.is_empty()).expect("a request line");
    let (empty, headers) = lines[start + 1..].split_last().expect("an empty line");
    assert!(empty.is_empty() && headers.len() <= HTTP_HEADERS_MAX);
    let fields: Vec<(Vec<u8>, &[u8])> = headers
        .iter()
        .map(|line| {
            let colon = line.iter().position(|&byte| byte == b':').expect("a colon");
            let name = line[..colon].to_ascii_lowercase();
            assert!(!name.is_empty() && name.iter().all(u8::is_ascii_graphic), "a name");
            (name, line[colon + 1..].trim_ascii())
        })
        .collect();
    let all = |name: &str| -> Vec<&[u8]> {
        let meant = fields.iter().filter(|(other, _)| other == name.as_bytes());
        meant.map(|(_, value)| *value).collect()
    };
    for name in ["host", "content-length", "connection"] {
        assert_eq!(head.values(name).collect::<Vec<_>>(), all(name));
    }
    assert!(all("host").len() == 1 || !head.is_current && all("host").is_empty());
    match (all("content-length").as_slice(), all("transfer-encoding").as_slice()) {
        ([], []) => assert_eq!(head.body, Body::Length(0)),
        ([length], []) => {
            assert!(!length.is_empty() && length.iter().all(u8::is_ascii_digit));
            let length = std::str::from_utf8(length).expect("digits").parse().expect("a number");
            assert_eq!(head.body, Body::Length(length));
        }
        ([], [coding]) => {
            assert!(coding.eq_ignore_ascii_case(b"chunked") && head.is_current);
            assert_eq!(head.body, Body::Chunked);
        }
        other => panic!("two lengths: {other:?}"),
    }
    assert!(head.path.starts_with('/'), "{}", head.path);
    let words: Vec<&[u8]> = lines[start].split(|&byte| byte == b' ').collect();
    let method: &[u8] = match head.method {
        Method::Get => b"GET",
        Method::Head => b"HEAD",
        Method::Post => b"POST",
        Method::Options => b"OPTIONS",
        Method::Other => words[0],
    };
    assert_eq!(words[0], method);
    let target = words[1];
    let end = [head.path, head.query].join("?");
    let is_end = target.ends_with(end.trim_end_matches('?').as_bytes()) || head.path == "/";
    assert!(is_end || target.ends_with(b"?"), "{} is not of {}", end, target.escape_ascii());
    if let Some(path) = decode(head.path, false) {
        assert!(path.len() <= head.path.len());
    }
    query_pairs(head.query).flatten().for_each(drop);
}

/// A body's bytes, how many bytes of the input it took, and whether it is whole; or the error's words.
type Taken = Result<(Vec<u8>, usize, bool), String>;

fn take(input: &[u8], step: usize) -> Taken {
    let (mut chunks, mut out) = (Chunks::default(), Vec::new());
    let (mut at, mut end) = (0, 0);
    while end < input.len() {
        end = (end + step).min(input.len());
        let taken = chunks.take(&input[at..end], BODY_BYTES_MAX, &mut out);
        at += taken.map_err(|error| error.to_string())?;
        assert!(at <= end && out.len() <= BODY_BYTES_MAX);
        if chunks == Chunks::Done {
            break;
        }
    }
    Ok((out, at, chunks == Chunks::Done))
}

/// Reads a body that is whole and sound; `None` if it is not, or says more than it must.
fn plain(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    let line = |at: usize| {
        let end = input[at..].windows(2).position(|pair| pair == b"\r\n")?;
        Some(&input[at..at + end])
    };
    // Ends because each chunk has a line.
    loop {
        let size = line(at)?;
        at += size.len() + 2;
        let digits = std::str::from_utf8(size.split(|&byte| byte == b';').next()?).ok()?;
        let size = usize::from_str_radix(digits, 16).ok()?;
        if size == 0 {
            break;
        }
        body.extend_from_slice(input.get(at..at.checked_add(size)?)?);
        at += size + 2;
        assert_eq!(input.get(at - 2..at)?, b"\r\n", "accepted without the end of a chunk");
    }
    // Ends because each trailer is a line.
    loop {
        let trailer = line(at)?;
        at += trailer.len() + 2;
        if trailer.is_empty() {
            return Some((body, at));
        }
    }
}

fn chunks(input: &[u8], step: usize) {
    let whole = take(input, input.len().max(1));
    assert_eq!(take(input, step), whole, "cut into {step}");
    if let Ok((body, length, true)) = whole {
        assert_eq!(plain(input), Some((body, length)));
    }
}

fuzz_target!(|data: (u8, u64, &[u8])| {
    let (how, wall_ms, input) = data;
    let step = usize::from(how % 32) + 1;
    let input = if how < 128 { expand(input) } else { input.to_vec() };
    heads(&input, step);
    chunks(&input, step);
    // What is written is a head that a client's reader takes.
    let wall_ms = wall_ms % 253_402_300_800_000;
    let (date, length) = (Moment::of(wall_ms).http(), input.len().to_string());
    assert_eq!((date.len(), Moment::of(wall_ms).rfc3339().len()), (29, 24), "{date}");
    let mut out = Vec::new();
    write_head(&mut out, 200, &[("Date", &date), ("Content-Length", &length)]);
    assert!(out.starts_with(b"HTTP/1.1 200 OK\r\n") && out.ends_with(b"\r\n\r\n"));
});
