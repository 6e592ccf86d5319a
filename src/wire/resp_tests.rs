//! The parser on whole input, one byte at a time, at every split, on random input and past its caps.

use super::*;
use proptest::prelude::*;

type Words = Vec<Vec<u8>>;

/// Parses all of `input`, offering it in pieces that end at `cuts`; gives the requests.
fn parse_in_pieces(input: &[u8], cuts: &[usize]) -> Result<Vec<Words>, ProtocolError> {
    let mut parser = Parser::new();
    let mut requests = Vec::new();
    let mut start = 0;
    for &cut in cuts.iter().chain([&input.len()]) {
        loop {
            let piece = &input[start..cut.max(start)];
            match parser.parse(piece, &RequestLimits::MEMBER)? {
                Progress::Request { length } => {
                    requests.push(parser.arguments(piece).iter().map(<[u8]>::to_vec).collect());
                    start += length;
                }
                Progress::Incomplete { needed } => {
                    assert!(needed > piece.len(), "asks for what it has");
                    break;
                }
            }
        }
    }
    Ok(requests)
}

fn check(input: &[u8], expected: &[&[&str]]) {
    let expected: Vec<Words> = expected
        .iter()
        .map(|request| {
            request
                .iter()
                .map(|word| word.as_bytes().to_vec())
                .collect()
        })
        .collect();
    assert_eq!(parse_in_pieces(input, &[]).as_ref(), Ok(&expected), "whole");
    for cut in 0..=input.len() {
        assert_eq!(
            parse_in_pieces(input, &[cut]).as_ref(),
            Ok(&expected),
            "split at {cut}"
        );
    }
    let each: Vec<usize> = (0..input.len()).collect();
    assert_eq!(
        parse_in_pieces(input, &each).as_ref(),
        Ok(&expected),
        "byte by byte"
    );
}

fn check_error(input: &[u8], expected: ProtocolError) {
    assert_eq!(parse_in_pieces(input, &[]), Err(expected), "whole");
    let each: Vec<usize> = (0..input.len()).collect();
    assert_eq!(parse_in_pieces(input, &each), Err(expected), "byte by byte");
}

#[test]
fn requests_are_read_however_they_are_cut() {
    check(b"*1\r\n$4\r\nPING\r\n", &[&["PING"]]);
    check(
        b"*3\r\n$7\r\nPUBLISH\r\n$4\r\nnews\r\n$12\r\nhello\r\nthere\r\n*1\r\n$4\r\nPING\r\n",
        &[&["PUBLISH", "news", "hello\r\nthere"], &["PING"]],
    );
}

#[test]
fn empty_requests_and_arguments_are_legal() {
    check(
        b"*0\r\n*-1\r\n\r\n\n*1\r\n$0\r\n\r\n",
        &[&[], &[], &[], &[], &[""]],
    );
}

#[test]
fn inline_requests_take_quotes_and_escapes() {
    check(
        b"  PING   hello \r\nECHO 'a b' \r\n",
        &[&["PING", "hello"], &["ECHO", "a b"]],
    );
    check(
        b"ECHO \"\\x41\\n\\t\\\\\\q\" '\\''\n",
        &[&["ECHO", "A\n\t\\q", "'"]],
    );
    check(b"a\"b c\"\r\n", &[&["ab c"]]);
    check(b"''\r\n", &[&[""]]);
}

#[test]
fn broken_requests_are_refused() {
    check_error(b"*x\r\n", ProtocolError::MultibulkLength);
    check_error(b"*01\r\n", ProtocolError::MultibulkLength);
    check_error(b"*1048577\r\n", ProtocolError::MultibulkLength);
    check_error(b"*1\r\n:1\r\n", ProtocolError::ExpectedDollar(b':'));
    check_error(b"*1\r\n$-1\r\n", ProtocolError::BulkLength);
    check_error(b"*1\r\n$4294967296\r\n", ProtocolError::BulkLength);
    check_error(b"*1\r\n$+1\r\n", ProtocolError::BulkLength);
    check_error(b"*1\r\n$1\r\naXX", ProtocolError::BulkNotTerminated);
    check_error(b"\"open\r\n", ProtocolError::UnbalancedQuotes);
    check_error(b"\"a\"b\r\n", ProtocolError::UnbalancedQuotes);
}

#[test]
fn lines_without_end_are_refused_at_the_cap() {
    let endless = |first: &[u8]| [first, &vec![b'1'; LINE_BYTES_MAX + 1]].concat();
    for (input, expected) in [
        (endless(b"*"), ProtocolError::MultibulkLineTooBig),
        (endless(b"*1\r\n$"), ProtocolError::BulkLineTooBig),
        (endless(b"x"), ProtocolError::InlineTooBig),
    ] {
        assert_eq!(parse_in_pieces(&input, &[]), Err(expected));
    }
}

#[test]
fn guests_are_held_to_less() {
    let parse = |input: &[u8]| Parser::new().parse(input, &RequestLimits::GUEST);
    assert_eq!(parse(b"*11\r\n"), Err(ProtocolError::GuestMultibulkLength));
    assert_eq!(
        parse(b"*1\r\n$16385\r\n"),
        Err(ProtocolError::GuestBulkLength)
    );
    assert!(matches!(
        parse(b"*1\r\n$16384\r\n"),
        Ok(Progress::Incomplete { .. })
    ));
}

#[test]
fn a_claimed_length_reserves_nothing() {
    let mut parser = Parser::new();
    let claimed = b"*1048576\r\n$67108864\r\n";
    assert_eq!(
        parser.parse(claimed, &RequestLimits::MEMBER),
        Ok(Progress::Incomplete {
            needed: claimed.len() + 67_108_864 + 2
        })
    );
    assert_eq!(parser.ranges.capacity(), 0);
}

#[test]
fn a_request_beyond_the_cap_is_refused_before_it_is_kept() {
    let mut parser = Parser::new();
    let mut input = b"*3\r\n$1048576\r\n".to_vec();
    input.resize(input.len() + 1_048_576, b'x');
    input.extend_from_slice(b"\r\n$67108864\r\n");
    assert_eq!(
        parser.parse(&input, &RequestLimits::MEMBER),
        Err(ProtocolError::RequestTooBig)
    );
}

#[test]
fn integers_are_canonical() {
    let cases: &[(&str, Option<i64>)] = &[
        ("0", Some(0)),
        ("-1", Some(-1)),
        ("9223372036854775807", Some(i64::MAX)),
        ("-9223372036854775808", Some(i64::MIN)),
        ("9223372036854775808", None),
        ("-0", None),
        ("00", None),
        ("+1", None),
        ("", None),
        ("-", None),
        (" 1", None),
    ];
    for &(text, expected) in cases {
        assert_eq!(parse_integer(text.as_bytes()), expected, "{text:?}");
    }
}

#[test]
fn errors_cannot_forge_a_reply() {
    let mut out = Vec::new();
    error(&mut out, b"ERR no\r\n+OK");
    assert_eq!(out, b"-ERR no  +OK\r\n");
}

proptest! {
    #[test]
    fn what_is_encoded_is_read_back(
        requests in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5), 1..5),
        cuts in prop::collection::vec(0usize..400, 0..6),
    ) {
        let mut input = Vec::new();
        for request in &requests {
            array(&mut input, request.len());
            for argument in request {
                bulk(&mut input, argument);
            }
        }
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
        cuts.sort_unstable();
        prop_assert_eq!(parse_in_pieces(&input, &cuts), Ok(requests));
    }

    #[test]
    fn cuts_change_nothing_on_any_input(input in "[*$0-9a\"' \r\n\\\\x]{0,60}", cuts in prop::collection::vec(0usize..60, 0..6)) {
        let input = input.as_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
        cuts.sort_unstable();
        prop_assert_eq!(parse_in_pieces(input, &cuts), parse_in_pieces(input, &[]));
    }
}
