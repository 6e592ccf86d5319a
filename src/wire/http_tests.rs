//! The grammar, case by case and cut everywhere; the caps; bodies in chunks against plain ones; the calendar.

use super::*;
use proptest::prelude::*;

/// What is to be read of a head, but for its length.
type Told<'a> = (Method, &'a str, &'a str, Body, bool);

fn told<'a>(head: &Head<'a>) -> Told<'a> {
    (
        head.method,
        head.path,
        head.query,
        head.body,
        head.keep_alive,
    )
}

/// Reads a head, and checks that no part of the input says anything else.
fn read(input: &[u8]) -> Result<Option<(String, usize)>, HttpError> {
    let show = |head: Head<'_>| (format!("{head:?}"), head.length);
    let whole = Head::parse(input).map(|head| head.map(show));
    for cut in 0..input.len() {
        let part = Head::parse(&input[..cut]).map(|head| head.map(show));
        let is_whole = matches!(&whole, Ok(Some((_, length))) if cut >= *length);
        let shown = input[..cut].escape_ascii();
        match &part {
            Ok(None) => assert!(!is_whole, "not whole: {shown}"),
            _ => assert_eq!(part, whole, "{shown}"),
        }
    }
    whole
}

#[track_caller]
fn check(input: &str, expected: Told<'_>) {
    let head = Head::parse(input.as_bytes()).unwrap().unwrap();
    assert_eq!(told(&head), expected, "{input:?}");
    let length = input.find("\r\n\r\n").unwrap() + 4;
    assert_eq!(head.length, length, "{input:?}");
    let alone = read(&input.as_bytes()[..length]).unwrap();
    for behind in [
        "x",
        "\n\r\r",
        "\r\n\r\n",
        "GET /b HTTP/1.1\r\n\r\n",
        "\u{0}",
    ] {
        let more = format!("{}{behind}", &input[..length]);
        assert_eq!(
            read(more.as_bytes()).unwrap(),
            alone,
            "{behind:?} behind {input:?}"
        );
    }
}

#[test]
fn requests_are_read_whole_cut_and_with_more_behind() {
    use Method::{Delete, Get, Head as HeadOnly, Options, Other, Post, Put};
    let none = Body::Length(0);
    let lines = [
        ("GET / HTTP/1.1", (Get, "/", "", none, true)),
        ("HEAD /a HTTP/1.1", (HeadOnly, "/a", "", none, true)),
        ("OPTIONS * HTTP/1.1", (Options, "/", "", none, true)),
        ("DELETE /a HTTP/1.1", (Delete, "/a", "", none, true)),
        ("PUT /a HTTP/1.1", (Put, "/a", "", none, true)),
        ("PATCH /a HTTP/1.1", (Other, "/a", "", none, true)),
        ("get / HTTP/1.1", (Other, "/", "", none, true)),
        ("GET /a?b=c?d HTTP/1.1", (Get, "/a", "b=c?d", none, true)),
        ("GET /? HTTP/1.1", (Get, "/", "", none, true)),
        ("GET //h/a HTTP/1.1", (Get, "//h/a", "", none, true)),
        ("GET /%20%2f HTTP/1.1", (Get, "/%20%2f", "", none, true)),
        ("GET http://h HTTP/1.1", (Get, "/", "", none, true)),
        ("GET HTTP://H/a?b HTTP/1.1", (Get, "/a", "b", none, true)),
        ("GET http://h?b HTTP/1.1", (Get, "/", "b", none, true)),
        ("GET / HTTP/1.0", (Get, "/", "", none, false)),
    ];
    for (line, expected) in lines {
        check(&format!("{line}\r\nHost: h\r\n\r\n"), expected);
        check(&format!("\r\n{line}\r\nhOST:h \r\n\r\n"), expected);
    }
    let fields = [
        ("Content-Length: 0", none, true),
        ("Content-Length: 5", Body::Length(5), true),
        ("content-length:\t0005 ", Body::Length(5), true),
        ("Transfer-Encoding: chunked", Body::Chunked, true),
        ("transfer-encoding:CHUNKED", Body::Chunked, true),
        ("Connection: close", none, false),
        ("Connection: x, CLOSE ,y", none, false),
        ("Connection: keep-alive\r\nConnection: close", none, false),
        ("Connection: closed", none, true),
        ("Expect: 100-Continue", none, true),
        ("X: \u{e9}", none, true),
        ("X:", none, true),
    ];
    for (field, body, keep_alive) in fields {
        let input = format!("POST /a HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n");
        check(&input, (Post, "/a", "", body, keep_alive));
    }
    // HTTP/1.0 has no need of a host, and goes on only if it says so.
    check("GET / HTTP/1.0\r\n\r\n", (Get, "/", "", none, false));
    let stays = "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
    check(stays, (Get, "/", "", none, true));
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let lines = [
        ("GET / HTTP/1.1\nHost: h", 400),
        ("GET / HTTP/1.1\r\nHost: h\nX: y", 400),
        ("GET / HTTP/1.1\r\nHost: h\rX: y", 400),
        ("GET / HTTP/1.1\r\r\nHost: h", 400),
        ("\nGET / HTTP/1.1\r\nHost: h", 400),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: h\nX: y", 400),
        ("\r\n\r\n\r\nGET / HTTP/1.1\nHost: h", 400),
        ("GET / HTTP/2.0\r\nHost: h", 505),
        ("GET / HTTP/1.2\r\nHost: h", 505),
        ("GET /a#b HTTP/1.1\r\nHost: h", 400),
        ("GET a HTTP/1.1\r\nHost: h", 400),
        ("GET https://h/ HTTP/1.1\r\nHost: h", 400),
        ("GET * HTTP/1.1\r\nHost: h", 400),
        ("GET /\u{e9} HTTP/1.1\r\nHost: h", 400),
        ("GET  / HTTP/1.1\r\nHost: h", 400),
        ("GET / a HTTP/1.1\r\nHost: h", 505),
        ("GE(T / HTTP/1.1\r\nHost: h", 400),
        ("GET / HTTP/1.1\r\nX: y", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nHost: h", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nhost: i", 400),
        ("GET / HTTP/1.0\r\nHost: h\r\nHost: h", 400),
        ("GET / HTTP/1.1\r\nHost : h", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\n X: y", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\n\tX: y", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nX", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\n: y", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nX: \u{1}", 400),
    ];
    for (text, status) in lines {
        let refused = read(format!("{text}\r\n\r\n").as_bytes());
        assert_eq!(refused.map_err(|error| error.status), Err(status), "{text}");
    }
    let fields = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        ("Content-Length: 5\r\nContent-Length: 5", 400),
        ("Content-Length: 5\r\ncontent-length: 6", 400),
        ("Content-Length: 5, 5", 400),
        ("Content-Length: +5", 400),
        ("Content-Length: -5", 400),
        ("Content-Length: 0x5", 400),
        ("Content-Length: 5 5", 400),
        ("Content-Length:", 400),
        ("Content-Length: 99999999999999999999", 400),
        ("Transfer-Encoding: gzip, chunked", 400),
        ("Transfer-Encoding: chunked, chunked", 400),
        ("Transfer-Encoding: identity", 400),
        ("Transfer-Encoding: \"chunked\"", 400),
        ("Transfer-Encoding:", 400),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            400,
        ),
        ("Expect: 200-ok", 417),
        ("Expect: 100-continue\r\nExpect: x", 417),
    ];
    for (field, status) in fields {
        let refused = read(format!("POST /a HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n").as_bytes());
        let refused = refused.map_err(|error| error.status);
        assert_eq!(refused, Err(status), "{field}");
    }
    let old = read(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(old.map_err(|error| error.status), Err(400));
}

#[test]
fn a_host_is_a_name_or_address_and_a_port() {
    let good = [
        "",
        "h",
        "h:80",
        "h:",
        "127.0.0.1:7480",
        "[::1]",
        "[::1]:7480",
        "a-b.c_d",
        "h:65535",
    ];
    let bad = [
        "h:x", "h:123456", "h:1:2", "[::1", "[::1]x", "[::1]80", "a b", "a/b", "u@h", "h, i", "a?",
    ];
    let is_taken = |host: &str| {
        read(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
            .is_ok_and(|head| head.is_some())
    };
    assert_eq!(good.map(is_taken), good.map(|_| true));
    assert_eq!(bad.map(is_taken), bad.map(|_| false));
}

#[test]
fn the_host_of_a_target_counts_before_that_of_the_header() {
    for (line, expected) in [
        ("GET /a HTTP/1.1\r\nHost: h:80", Some("h:80")),
        ("GET http://i/a HTTP/1.1\r\nHost: h", Some("i")),
        ("GET http://I:7480?b HTTP/1.1\r\nHost: h", Some("I:7480")),
        ("GET HTTP://[::1]:1/ HTTP/1.1\r\nHost: h", Some("[::1]:1")),
        ("GET http://i HTTP/1.0\r\nHost: h", Some("i")),
        ("GET http://i/ HTTP/1.0\r\nX: y", Some("i")),
        ("GET / HTTP/1.0\r\nX: y", None),
        ("OPTIONS * HTTP/1.1\r\nHost: h", Some("h")),
    ] {
        let input = format!("{line}\r\n\r\n");
        let head = Head::parse(input.as_bytes()).unwrap().expect("a head");
        assert_eq!(head.host, expected.map(str::as_bytes), "{line}");
    }
    for line in [
        "GET http:/// HTTP/1.1\r\nHost: h",
        "GET http://:80/ HTTP/1.1\r\nHost: h",
        "GET http://u@h/ HTTP/1.1\r\nHost: h",
        "GET http://h:x/ HTTP/1.1\r\nHost: h",
        "GET http://h/ HTTP/1.1\r\nHost: u@h",
        "GET http://h/ HTTP/1.1\r\nX: y",
        "GET http://h/ HTTP/1.1\r\nHost: h\r\nHost: h",
    ] {
        let input = format!("{line}\r\n\r\n");
        let refused = Head::parse(input.as_bytes());
        assert_eq!(
            refused.map(|_| ()).map_err(|error| error.status),
            Err(400),
            "{line}"
        );
    }
}

#[test]
fn headers_are_found_by_name_without_regard_to_case() {
    let input = b"GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\nB:  two  \r\na: 3,Four\r\nC: \xff\r\n\r\n";
    let head = Head::parse(input).unwrap().unwrap();
    let values: Vec<&[u8]> = head.values("A").collect();
    assert_eq!(values, [&b"1"[..], b"3,Four"]);
    assert_eq!(head.only("b"), Some(&b"two"[..]));
    assert_eq!(head.only("c"), Some(&b"\xff"[..]));
    assert_eq!([head.only("a"), head.only("d")], [None, None]);
    let listed = ["1", "3", "FOUR", "3,four", ""].map(|word| head.lists("a", word));
    assert_eq!(listed, [true, true, true, false, false]);
    let expects = |text: &str| {
        let input = format!("POST / {text}\r\nHost: h\r\nExpect: 100-continue\r\n\r\n");
        Head::parse(input.as_bytes())
            .unwrap()
            .unwrap()
            .expects_continue
    };
    assert_eq!(["HTTP/1.1", "HTTP/1.0"].map(expects), [true, false]);
}

#[test]
fn a_head_is_taken_up_to_its_caps() {
    let of_length = |length: usize| {
        let start = "GET / HTTP/1.1\r\nHost: h\r\nX: ";
        let rest = length - start.len() - 4;
        format!("{start}{}\r\n\r\n", "x".repeat(rest))
    };
    let status = |input: &str| {
        let head = Head::parse(input.as_bytes());
        head.map(|head| head.map(|head| head.length))
            .map_err(|error| error.status)
    };
    let most = HTTP_HEAD_BYTES_MAX;
    assert_eq!(status(&of_length(most - 1)), Ok(Some(most - 1)));
    assert_eq!(status(&of_length(most)), Ok(Some(most)));
    assert_eq!(status(&format!("{}x", of_length(most))), Ok(Some(most)));
    assert_eq!(status(&of_length(most + 1)), Err(431));
    // One that goes on is refused once it cannot end within the cap any more.
    let endless = of_length(most + 1);
    assert_eq!(status(&endless[..most - 1]), Ok(None));
    assert_eq!(status(&endless[..most]), Err(431));
    let of_headers = |count: usize| {
        let others: String = (1..count)
            .map(|number| format!("X{number}: y\r\n"))
            .collect();
        format!("GET / HTTP/1.1\r\nHost: h\r\n{others}\r\n")
    };
    for (count, expected) in [(63, None), (64, None), (65, Some(431))] {
        assert_eq!(status(&of_headers(count)).err(), expected, "{count}");
    }
    let numbers = of_headers(HTTP_HEADERS_MAX);
    let head = Head::parse(numbers.as_bytes()).unwrap().unwrap();
    assert_eq!(head.only("x63"), Some(&b"y"[..]));
}

#[test]
fn percent_encoding_is_decoded() {
    let every: String = (0..=255).map(|byte| format!("%{byte:02x}")).collect();
    let bytes: Vec<u8> = (0..=255).collect();
    for text in [every.clone(), every.to_uppercase()] {
        assert_eq!(decode(&text, false), Some(bytes.clone()));
        assert_eq!(decode(&text, true), Some(bytes.clone()));
    }
    for (text, path, query) in [
        ("", "", ""),
        ("a/b", "a/b", "a/b"),
        ("a+b", "a+b", "a b"),
        ("%2B%25%2f", "+%/", "+%/"),
        ("%252F", "%2F", "%2F"),
    ] {
        assert_eq!(decode(text, false).as_deref(), Some(path.as_bytes()));
        assert_eq!(decode(text, true).as_deref(), Some(query.as_bytes()));
    }
    for wrong in [
        "%", "a%", "%4", "%g0", "%0g", "%+1", "% 1", "%%41", "%\u{e9}1",
    ] {
        assert_eq!(decode(wrong, false), None, "{wrong}");
    }
    let pairs = |query: &str| -> Vec<Option<(String, String)>> {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let pairs = query_pairs(query);
        pairs
            .map(|pair| pair.map(|(name, value)| (text(name), text(value))))
            .collect()
    };
    let pair = |name: &str, value: &str| Some((name.to_string(), value.to_string()));
    assert_eq!(pairs(""), []);
    assert_eq!(pairs("&&"), []);
    let read = pairs("a=b&a=c+d&e&=f&g=h%3D=i&j=%&k=1");
    let expected = [
        pair("a", "b"),
        pair("a", "c d"),
        pair("e", ""),
        pair("", "f"),
        pair("g", "h==i"),
        None,
        pair("k", "1"),
    ];
    assert_eq!(read, expected);
}

/// What came out, how much of the input it took, and where it stands; or the error's status.
type Taken = Result<(Vec<u8>, usize, Chunks), u16>;

fn take(input: &[u8], cuts: &[usize], body_max: usize) -> Taken {
    let (mut chunks, mut out) = (Chunks::default(), Vec::new());
    let (mut at, mut end) = (0, 0);
    for &cut in cuts.iter().cycle() {
        end = (end + cut).min(input.len());
        let taken = chunks.take(&input[at..end], body_max, &mut out);
        at += taken.map_err(|error| error.status)?;
        if end == input.len() {
            break;
        }
    }
    Ok((out, at, chunks))
}

/// Takes a body whole, byte by byte and at each cut, which all must give the same.
fn take_all(input: &[u8], body_max: usize) -> Taken {
    let whole = take(input, &[input.len().max(1)], body_max);
    let steps = (1..input.len().min(300)).map(|step| take(input, &[step], body_max));
    for (place, cut) in steps.enumerate() {
        assert_eq!(cut, whole, "{} by {}", input.escape_ascii(), place + 1);
    }
    whole
}

#[test]
fn chunks_are_taken_apart() {
    let cases = [
        ("0\r\n\r\n", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", "hello"),
        (
            "a\r\n0123456789\r\nA;x=\"y\"\r\n0123456789\r\n00\r\n\r\n",
            "01234567890123456789",
        ),
        ("00000001;\r\nx\r\n0;last\t\r\n\r\n", "x"),
        ("4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n"),
        ("1\r\nx\r\n0\r\nA: b\r\nc:\r\n\r\n", "x"),
    ];
    for (input, body) in cases {
        let done = Ok((body.as_bytes().to_vec(), input.len(), Chunks::Done));
        assert_eq!(take_all(input.as_bytes(), 20), done, "{input:?}");
        // What stands behind is not touched.
        let more = format!("{input}0\r\n\r\nGET");
        assert_eq!(take(more.as_bytes(), &[more.len()], 20), done, "{input:?}");
        for cut in 0..input.len() {
            let (_, _, chunks) = take_all(&input.as_bytes()[..cut], 20).unwrap();
            assert_ne!(chunks, Chunks::Done, "{input:?} cut at {cut}");
        }
    }
    for (wrong, status) in [
        ("\r\n", 400),
        ("x\r\n", 400),
        ("-1\r\n", 400),
        ("+1\r\n", 400),
        ("0x1\r\n", 400),
        (" 1\r\n", 400),
        ("1 \r\nx\r\n", 400),
        ("000000001\r\n", 400),
        ("1\nx\r\n", 400),
        ("1\rx\r\n", 400),
        ("1;a\rb\r\nx", 400),
        ("1;\u{0}\r\nx", 400),
        ("1\r\nxy\r\n", 400),
        ("1\r\nx\n", 400),
        ("1\r\nx\r\r", 400),
        ("0\r\nA\r\n", 400),
        ("0\r\n: b\r\n", 400),
        ("0\r\nA : b\r\n", 400),
        ("0\r\nA: \u{1}\r\n", 400),
        ("0\r\n A: b\r\n", 400),
        ("0\r\n\n", 400),
        ("ffffffff\r\n", 413),
        ("15\r\n", 413),
        ("14\r\n01234567890123456789\r\n1\r\n", 413),
    ] {
        assert_eq!(take_all(wrong.as_bytes(), 20), Err(status), "{wrong:?}");
    }
}

#[test]
fn chunks_are_written_whatever_length_was_expected() {
    for length in [1, 9, 10, 15, 16, 17, 255, 256, 4_095, 4_096, 70_000] {
        for expected in [0, 1, 15, 16, 300, 70_000, usize::MAX] {
            let body = vec![b'x'; length];
            let mut out = b"before".to_vec();
            write_chunk(&mut out, expected, |out| out.extend_from_slice(&body));
            let written = [format!("before{length:x}\r\n").as_bytes(), &body, b"\r\n"].concat();
            assert_eq!(
                out, written,
                "{length} bytes where {expected} were expected"
            );
            // An empty chunk would end the body.
            write_chunk(&mut out, expected, |_| {});
            assert_eq!(out, written);
            out.extend_from_slice(LAST_CHUNK);
            let (taken, at, chunks) = take_all(&out[6..], length).unwrap();
            assert_eq!((taken, at, chunks), (body, out.len() - 6, Chunks::Done));
        }
    }
}

#[test]
fn chunks_are_taken_up_to_their_caps() {
    let line = |length: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "y".repeat(length - 4));
    let trailers = |length: usize| format!("0\r\nA:{}\r\nB:\r\n\r\n", "y".repeat(length - 10));
    // What is written to a length, its cap, and what stands before it.
    type Make<'a> = &'a dyn Fn(usize) -> String;
    let cases: [(Make<'_>, usize, usize); 2] = [
        (&line, HTTP_CHUNK_LINE_BYTES_MAX, 0),
        (&trailers, HTTP_TRAILERS_BYTES_MAX, "0\r\n".len()),
    ];
    for (input, most, start) in cases {
        for (length, is_taken) in [(most - 1, true), (most, true), (most + 1, false)] {
            let taken = take_all(input(length).as_bytes(), 20);
            assert_eq!(taken.is_ok(), is_taken, "{length} of {most}");
        }
        // A line that does not end is refused at the cap, not kept for ever.
        let endless = input(2 * most);
        let up_to = |length: usize| take(&endless.as_bytes()[..start + length], &[1], 20);
        assert!(up_to(most - 1).is_ok());
        assert_eq!(up_to(most), Err(400));
    }
    for (body_max, expected) in [(4, Err(413)), (5, Ok(())), (6, Ok(()))] {
        let taken = take_all(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", body_max);
        assert_eq!(taken.map(drop), expected, "{body_max}");
    }
}

#[test]
fn what_is_written_is_a_head() {
    for status in [
        100, 101, 200, 204, 400, 401, 403, 404, 405, 408, 413, 417, 426, 431, 503, 505,
    ] {
        let mut out = Vec::new();
        write_head(&mut out, status, &[("A", "b"), ("C", "")]);
        let mut fields = [httparse::EMPTY_HEADER; 4];
        let mut response = httparse::Response::new(&mut fields);
        let length = response.parse(&out).unwrap();
        assert_eq!(length, httparse::Status::Complete(out.len()));
        assert_eq!((response.version, response.code), (Some(1), Some(status)));
        assert_ne!(response.reason, Some("Error"), "{status} has no words");
        let read: Vec<_> = response
            .headers
            .iter()
            .map(|field| (field.name, field.value))
            .collect();
        assert_eq!(read, [("A", &b"b"[..]), ("C", &b""[..])]);
    }
}

#[test]
fn moments_are_those_of_the_calendar() {
    for (seconds, expected) in [
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (68_212_800, "Tue, 29 Feb 1972 12:00:00 GMT"),
        (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
        (946_684_799, "Fri, 31 Dec 1999 23:59:59 GMT"),
        (951_868_799, "Tue, 29 Feb 2000 23:59:59 GMT"),
        (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
        (978_307_199, "Sun, 31 Dec 2000 23:59:59 GMT"),
        (2_147_483_648, "Tue, 19 Jan 2038 03:14:08 GMT"),
        (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
        (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
    ] {
        assert_eq!(Moment::of(seconds * 1_000).http(), expected);
    }
    assert_eq!(
        Moment::of(784_111_777_009).rfc3339(),
        "1994-11-06T08:49:37.009Z"
    );
    // Day by day by the rule that everybody knows.
    let (mut day, mut days) = ((1970, 1, 1), 0);
    while day.0 < 2405 {
        let (year, month, of_month) = day;
        let moment = Moment::of(days * 86_400_000 + 86_399_999);
        let text = format!("{year}-{month:02}-{of_month:02}T23:59:59.999Z");
        assert_eq!(moment.rfc3339(), text);
        assert_eq!(moment.weekday as u64, (days + 4) % 7);
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            2 => 28 + u64::from(is_leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        day = match (month, of_month) {
            (12, 31) => (year + 1, 1, 1),
            (_, last) if last == length => (year, month + 1, 1),
            _ => (year, month, of_month + 1),
        };
        days += 1;
    }
}

/// A body, and how somebody may write it in chunks.
fn any_chunks() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let chunk = (
        prop::collection::vec(any::<u8>(), 1..40),
        prop_oneof![Just(""), Just(";a"), Just("; a=\"b\"")],
        any::<bool>(),
    );
    let trailer = prop_oneof![Just(""), Just("A: b\r\n"), Just("A: b\r\nC:d\r\n")];
    (prop::collection::vec(chunk, 0..6), trailer).prop_map(|(chunks, trailer)| {
        let (mut body, mut written) = (Vec::new(), Vec::new());
        for (bytes, extension, is_upper) in chunks {
            let size = match is_upper {
                true => format!("{:02X}{extension}\r\n", bytes.len()),
                false => format!("{:x}{extension}\r\n", bytes.len()),
            };
            written.extend_from_slice(size.as_bytes());
            written.extend_from_slice(&bytes);
            written.extend_from_slice(END);
            body.extend_from_slice(&bytes);
        }
        written.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
        (body, written)
    })
}

proptest! {
    /// However a body is cut, it comes out as it was put in, and nothing of what follows is touched.
    #[test]
    fn a_chunked_body_is_what_was_written(
        (body, written) in any_chunks(),
        cuts in prop::collection::vec(1..30usize, 1..20),
        behind in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let input = [&written[..], &behind].concat();
        let most = body.len();
        prop_assert_eq!(take(&input, &cuts, most), Ok((body.clone(), written.len(), Chunks::Done)));
        if most > 0 {
            prop_assert_eq!(take(&input, &cuts, most - 1), Err(413));
        }
    }

    /// However a body that is not sound is cut, it is judged alike.
    #[test]
    fn a_spoilt_body_is_judged_alike_however_it_is_cut(
        (_, mut written) in any_chunks(),
        cuts in prop::collection::vec(1..30usize, 1..20),
        place in any::<prop::sample::Index>(),
        byte in prop_oneof![any::<u8>(), prop::sample::select(&b"\r\n;:0f "[..])],
    ) {
        let place = place.index(written.len());
        written[place] = byte;
        let whole = take(&written, &[written.len()], 1_000);
        prop_assert_eq!(take(&written, &cuts, 1_000), whole);
    }

    /// A request of which one byte is another is read as one request or refused, but never in two ways.
    #[test]
    fn a_spoilt_head_is_read_in_one_way(
        place in any::<prop::sample::Index>(),
        byte in prop_oneof![any::<u8>(), prop::sample::select(&b"\r\n: \t,0"[..])],
        is_more in any::<bool>(),
    ) {
        let sound = "POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\nConnection: close\r\n\r\n";
        let mut input = sound.as_bytes().to_vec();
        let place = place.index(input.len());
        match is_more {
            true => input.insert(place, byte),
            false => input[place] = byte,
        }
        let whole = Head::parse(&input).map(|head| head.map(|head| told(&head)));
        for cut in 0..input.len() {
            let part = Head::parse(&input[..cut]);
            match &part {
                Ok(Some(head)) => prop_assert_eq!(Ok(Some(told(head))), whole.clone()),
                Ok(None) => {}
                Err(_) => prop_assert!(whole.is_err(), "{}", input[..cut].escape_ascii()),
            }
        }
        if let Ok(Some(head)) = Head::parse(&input) {
            let head = &input[..head.length];
            let line_ends = head.iter().filter(|&&byte| byte == b'\n').count();
            prop_assert_eq!(line_ends, head.windows(2).filter(|pair| pair == b"\r\n").count());
        }
    }
}
