//! Requests that one program might read in one way and another in another. Each is refused, the connection is closed, and
//! what stands behind it, a publish to a topic that a listener hears, is not done.

use super::common::Broker;
use super::common::native::{Event, NativeClient};
use super::web::{Asked, Cut, Http, check_all};

/// A publish up to the last of its usual headers, and what is given behind.
macro_rules! post {
    ($rest:literal) => {
        concat!(
            "POST /v1/topics/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n",
            $rest
        )
    };
}

/// A publish with a chunked body.
macro_rules! chunks {
    ($body:literal) => {
        concat!(
            "POST /v1/topics/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            $body
        )
    };
}

/// What stands behind each of them. If it is taken for a request of its own, the listener hears it.
const SMUGGLED: &str =
    "POST /v1/topics/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 8\r\n\r\nsmuggled";

/// Lengths that do not agree, or are none. Characters above U+007F stand for single bytes.
const LENGTHS: &[(&str, &str)] = &[
    (
        "CL.TE",
        post!("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG"),
    ),
    (
        "TE.CL",
        post!("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nx\r\n0\r\n\r\n"),
    ),
    (
        "both, and both right",
        post!("Content-Length: 13\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    ),
    (
        "both, and no body",
        post!("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ),
    (
        "CL.CL",
        post!("Content-Length: 3\r\nContent-Length: 0\r\n\r\nabc"),
    ),
    (
        "CL.CL the other way",
        post!("Content-Length: 0\r\nContent-Length: 3\r\n\r\nabc"),
    ),
    (
        "two lengths in a line",
        post!("Content-Length: 3, 0\r\n\r\nabc"),
    ),
    (
        "the same twice in a line",
        post!("Content-Length: 3, 3\r\n\r\nabc"),
    ),
    (
        "names in different case",
        post!("Content-Length: 3\r\ncontent-length: 0\r\n\r\nabc"),
    ),
    ("a plus", post!("Content-Length: +3\r\n\r\nabc")),
    ("a minus", post!("Content-Length: -3\r\n\r\nabc")),
    ("less than nothing", post!("Content-Length: -0\r\n\r\n")),
    ("hexadecimal", post!("Content-Length: 0x3\r\n\r\nabc")),
    ("a letter behind", post!("Content-Length: 3a\r\n\r\nabc")),
    ("a letter", post!("Content-Length: a\r\n\r\nabc")),
    ("a fraction", post!("Content-Length: 3.0\r\n\r\nabc")),
    ("a blank within", post!("Content-Length: 1 0\r\n\r\nabc")),
    ("a tab within", post!("Content-Length: 1\t0\r\n\r\nabc")),
    ("an underscore", post!("Content-Length: 1_0\r\n\r\nabc")),
    ("quotes", post!("Content-Length: \"3\"\r\n\r\nabc")),
    ("no length", post!("Content-Length:\r\n\r\nabc")),
    ("only blanks", post!("Content-Length:   \r\n\r\nabc")),
    ("a comma behind", post!("Content-Length: 3,\r\n\r\nabc")),
    ("a NUL behind", post!("Content-Length: 3\0\r\n\r\nabc")),
    (
        "a vertical tab before",
        post!("Content-Length: \x0b3\r\n\r\nabc"),
    ),
    (
        "2^64 + 3",
        post!("Content-Length: 18446744073709551619\r\n\r\nabc"),
    ),
    (
        "2^128 + 3",
        post!("Content-Length: 340282366920938463463374607431768211459\r\n\r\nabc"),
    ),
    (
        "a length in a GET, and a coding",
        "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
];

/// Codings other than `chunked`, which may stand in any case.
const CODINGS: &[(&str, &str)] = &[
    ("identity", post!("Transfer-Encoding: identity\r\n\r\n")),
    (
        "chunked, identity",
        post!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ),
    (
        "identity, chunked",
        post!("Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        "gzip, chunked",
        post!("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        "chunked twice",
        post!("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        "chunked in two lines",
        post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        "another in a second line",
        post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    ),
    (
        "another in a first line",
        post!("Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        "xchunked",
        post!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        "chunkedx",
        post!("Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n"),
    ),
    (
        "chunked with a parameter",
        post!("Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n"),
    ),
    (
        "chunked in quotes",
        post!("Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    ),
    (
        "chunked with a comma",
        post!("Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n"),
    ),
    (
        "a comma before",
        post!("Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        "a vertical tab before",
        post!("Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        "a NUL behind",
        post!("Transfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n"),
    ),
    (
        "a byte of another alphabet",
        post!("Transfer-Encoding: \u{a0}chunked\r\n\r\n0\r\n\r\n"),
    ),
    ("nothing", post!("Transfer-Encoding:\r\n\r\n0\r\n\r\n")),
    (
        "a blank within",
        post!("Transfer-Encoding: chun ked\r\n\r\n0\r\n\r\n"),
    ),
    (
        "another coding in a GET",
        "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    ),
];

/// Lines that end or go on in other ways.
const LINES: &[(&str, &str)] = &[
    (
        "a blank before the colon",
        post!("Content-Length : 3\r\n\r\nabc"),
    ),
    (
        "a tab before the colon",
        post!("Content-Length\t: 3\r\n\r\nabc"),
    ),
    (
        "a blank before that of a coding",
        post!("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        "a folded header",
        post!("X: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "one folded by a tab",
        post!("X: a\r\n\tb\r\nContent-Length: 0\r\n\r\n"),
    ),
    ("a folded length", post!("Content-Length:\r\n 3\r\n\r\nabc")),
    (
        "a folded coding",
        post!("Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        "a folded line of nothing",
        post!("X: a\r\n \r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "a blank before the first header",
        "POST /v1/topics/smuggled HTTP/1.1\r\n Host: 127.0.0.1\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "LF behind the request line",
        "POST /v1/topics/smuggled HTTP/1.1\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "LF behind a header",
        post!("X: a\nContent-Length: 0\r\n\r\n"),
    ),
    ("LF behind a length", post!("Content-Length: 0\n\r\n")),
    ("LF behind the last line", post!("Content-Length: 0\r\n\n")),
    (
        "LF everywhere",
        "POST /v1/topics/smuggled HTTP/1.1\nHost: 127.0.0.1\nContent-Length: 0\n\n",
    ),
    (
        "CR behind the request line",
        "POST /v1/topics/smuggled HTTP/1.1\rHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "CR behind a header",
        post!("X: a\rContent-Length: 3\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "CR within a value",
        post!("X: a\rb\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "CR before CR LF",
        post!("X: a\r\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "CR within a name",
        post!("X\rY: a\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "CR before the last line",
        post!("Content-Length: 0\r\n\r\r\n"),
    ),
    (
        "NUL in a value",
        post!("X: a\0b\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "NUL in a name",
        post!("X\0: a\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "a control character in a value",
        post!("X: a\x01b\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "an escape in a value",
        post!("X: a\x1bb\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "DEL in a value",
        post!("X: a\x7fb\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "a header without a colon",
        post!("Content-Length 0\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "a header without a name",
        post!(": a\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "a blank in a name",
        post!("X Y: a\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "a parenthesis in a name",
        post!("X(: a\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "a slash in a name",
        post!("X/Y: a\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "quotes in a name",
        post!("\"X\": a\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "another alphabet in a name",
        post!("X\u{e9}: a\r\nContent-Length: 0\r\n\r\n"),
    ),
];

/// Who is asked.
const HOSTS: &[(&str, &str)] = &[
    (
        "no Host",
        "POST /v1/topics/smuggled HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "two of Host",
        post!("Host: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "two that differ",
        post!("Host: 127.0.0.2\r\nContent-Length: 0\r\n\r\n"),
    ),
    (
        "a second in another case",
        post!("hOST: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"),
    ),
    ("no headers at all", "GET /health HTTP/1.1\r\n\r\n"),
];

/// First lines.
const FIRST_LINES: &[(&str, &str)] = &[
    ("HTTP/0.9", "GET /\r\n"),
    (
        "HTTP/0.9 with headers",
        "GET /health\r\nHost: 127.0.0.1\r\n\r\n",
    ),
    ("no target", "GET HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    (
        "two blanks",
        "GET  /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ),
    ("a tab", "GET\t/health\tHTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    (
        "a blank before",
        " GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ),
    (
        "a blank behind",
        "GET /health HTTP/1.1 \r\nHost: 127.0.0.1\r\n\r\n",
    ),
    (
        "something behind",
        "GET /health HTTP/1.1 x\r\nHost: 127.0.0.1\r\n\r\n",
    ),
    (
        "NUL in the target",
        "GET /hea\0lth HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ),
    (
        "a control character there",
        "GET /hea\x01lth HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ),
    (
        "a tab there",
        "GET /hea\tlth HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ),
    ("no method", "/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    (
        "a method that is no word",
        "GE(T /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ),
    (
        "NUL in the method",
        "GE\0T /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ),
    (
        "a target without a slash",
        "GET health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ),
    (
        "a handshake of TLS",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}\r\n\r\n",
    ),
    ("a command of Redis", "*1\r\n$4\r\nPING\r\n\r\n"),
];

/// Chunked bodies that are none.
const CHUNKS: &[(&str, &str)] = &[
    ("a plus", chunks!("+3\r\nabc\r\n0\r\n\r\n")),
    ("a minus", chunks!("-3\r\nabc\r\n0\r\n\r\n")),
    ("0x", chunks!("0x3\r\nabc\r\n0\r\n\r\n")),
    ("a blank before the size", chunks!(" 3\r\nabc\r\n0\r\n\r\n")),
    ("a tab before it", chunks!("\t3\r\nabc\r\n0\r\n\r\n")),
    (
        "a blank within",
        chunks!("1 0\r\nabcdefghijklmnop\r\n0\r\n\r\n"),
    ),
    ("no size", chunks!("\r\nabc\r\n0\r\n\r\n")),
    (
        "no size, but an extension",
        chunks!(";a\r\nabc\r\n0\r\n\r\n"),
    ),
    (
        "a letter that is no digit",
        chunks!("g\r\nabc\r\n0\r\n\r\n"),
    ),
    ("an underscore", chunks!("0_3\r\nabc\r\n0\r\n\r\n")),
    ("a comma", chunks!("3,\r\nabc\r\n0\r\n\r\n")),
    ("a fraction", chunks!("3.\r\nabc\r\n0\r\n\r\n")),
    ("a NUL", chunks!("3\0\r\nabc\r\n0\r\n\r\n")),
    ("2^64 + 3", chunks!("10000000000000003\r\nabc\r\n0\r\n\r\n")),
    (
        "2^68 + 3 with zeros before",
        chunks!("000100000000000000003\r\nabc\r\n0\r\n\r\n"),
    ),
    ("LF behind the size", chunks!("3\nabc\r\n0\r\n\r\n")),
    ("CR behind the size", chunks!("3\rabc\r\n0\r\n\r\n")),
    (
        "CR CR LF behind the size",
        chunks!("3\r\r\nabc\r\n0\r\n\r\n"),
    ),
    ("LF behind the data", chunks!("3\r\nabc\n0\r\n\r\n")),
    ("CR behind the data", chunks!("3\r\nabc\r0\r\n\r\n")),
    ("nothing behind the data", chunks!("3\r\nabc0\r\n\r\n")),
    (
        "more data than it says",
        chunks!("3\r\nabcdef\r\n0\r\n\r\n"),
    ),
    ("less data than it says", chunks!("4\r\nabc\r\n0\r\n\r\n")),
    ("LF behind the last size", chunks!("3\r\nabc\r\n0\n\r\n")),
    ("LF behind all", chunks!("3\r\nabc\r\n0\r\n\n")),
    ("LF in an extension", chunks!("3;a\nb\r\nabc\r\n0\r\n\r\n")),
    ("CR in an extension", chunks!("3;a\rb\r\nabc\r\n0\r\n\r\n")),
    ("NUL in an extension", chunks!("3;a\0b\r\nabc\r\n0\r\n\r\n")),
    ("a trailer without a colon", chunks!("0\r\nabc\r\n\r\n")),
    ("a folded trailer", chunks!("0\r\nA: b\r\n c\r\n\r\n")),
    ("a trailer that ends in LF", chunks!("0\r\nA: b\n\r\n")),
    (
        "a blank before a trailer's colon",
        chunks!("0\r\nA : b\r\n\r\n"),
    ),
];

/// What may be refused in one way or another, or not at all: the statuses. Nothing is smuggled either way.
const EITHER: &[(&str, &str, &[u16])] = &[
    (
        "an absolute target here",
        "GET http://127.0.0.1/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        &[200],
    ),
    (
        "an asterisk",
        "OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        &[200, 204, 400, 404, 405],
    ),
    (
        "an empty line before",
        "\r\nGET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        &[200, 400],
    ),
    (
        "a chunked body of a GET",
        "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        &[200, 400],
    ),
    (
        "two before the version",
        "GET /health  HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 505],
    ),
    (
        "a blank in the target",
        "GET /health x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 505],
    ),
    (
        "no version",
        "GET /health HTTP/\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 505],
    ),
    (
        "a version of one number",
        "GET /health HTTP/1\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 505],
    ),
    (
        "another protocol",
        "GET /health HTCPCP/1.0\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 505],
    ),
    (
        "a version in lower case",
        "GET /health http/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 505],
    ),
    (
        "version 1.10",
        "GET /health HTTP/1.10\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 505],
    ),
    (
        "version 01.1",
        "GET /health HTTP/01.1\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 505],
    ),
    (
        "version 1,1",
        "GET /health HTTP/1,1\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 505],
    ),
    (
        "version +1.1",
        "GET /health HTTP/+1.1\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 505],
    ),
    ("one of NATS", "PUB smuggled 1\r\nx\r\n\r\n", &[400, 505]),
    (
        "HTTP/2 without a beginning",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[400, 505],
    ),
    (
        "version 2.0",
        "GET /health HTTP/2.0\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 505],
    ),
    (
        "version 3.0",
        "GET /health HTTP/3.0\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 505],
    ),
    (
        "version 0.9",
        "GET /health HTTP/0.9\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 505],
    ),
    (
        "a coding in HTTP/1.0",
        "POST /v1/topics/smuggled HTTP/1.0\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    (
        "a host that is none",
        "GET /health HTTP/1.1\r\nHost: a b\r\n\r\n",
        &[400, 403],
    ),
    (
        "a host with a path",
        "GET /health HTTP/1.1\r\nHost: 127.0.0.1/x\r\n\r\n",
        &[400, 403],
    ),
    (
        "a host with a user",
        "GET /health HTTP/1.1\r\nHost: evil@127.0.0.1\r\n\r\n",
        &[400, 403],
    ),
    (
        "a host with a port that is none",
        "GET /health HTTP/1.1\r\nHost: 127.0.0.1:x\r\n\r\n",
        &[400, 403],
    ),
    (
        "an empty host",
        "GET /info HTTP/1.1\r\nHost:\r\n\r\n",
        &[400, 403],
    ),
    (
        "an absolute target elsewhere",
        "GET http://evil.example/info HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        &[403],
    ),
    (
        "an authority",
        "CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 404, 405, 501],
    ),
    (
        "an asterisk in a GET",
        "GET * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 404],
    ),
    (
        "a fragment",
        "GET /health#x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 404],
    ),
    (
        "another alphabet in the target",
        "GET /\u{e9} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 404],
    ),
    (
        "a method in lower case",
        "get /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 405, 501],
    ),
    (
        "a method that nobody knows",
        "SMUGGLE /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        &[400, 405, 501],
    ),
    (
        "2^64 - 1 bytes in a chunk",
        chunks!("ffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        &[400, 413],
    ),
    (
        "2^63 bytes in a chunk",
        chunks!("8000000000000000\r\nabc\r\n0\r\n\r\n"),
        &[400, 413],
    ),
    (
        "2^64 - 1 bytes",
        post!("Content-Length: 18446744073709551615\r\n\r\nabc"),
        &[400, 413],
    ),
    (
        "2^63 bytes",
        post!("Content-Length: 9223372036854775808\r\n\r\nabc"),
        &[400, 413],
    ),
];

/// Characters as single bytes.
pub fn bytes(text: &str) -> Vec<u8> {
    let byte = |character| u8::try_from(u32::from(character)).expect("a byte");
    text.chars().map(byte).collect()
}

struct Run {
    name: String,
    bytes: Vec<u8>,
    statuses: &'static [u16],
    cut: Cut,
}

fn runs(what: &str, name: &str, text: &str, statuses: &'static [u16]) -> Vec<Run> {
    let request = bytes(text);
    // Cut where it matters: in the last part of what is wrong.
    let places = (request.len().saturating_sub(48)..request.len()).step_by(3);
    let cuts = [Cut::Whole, Cut::Pieces(1)]
        .into_iter()
        .chain(places.map(Cut::At));
    let run = |cut| Run {
        name: format!("{what}: {name}"),
        bytes: [&request[..], SMUGGLED.as_bytes()].concat(),
        statuses,
        cut,
    };
    cuts.map(run).collect()
}

fn check(port: u16, run: &Run) -> Result<(), String> {
    let mut http = Http::dial(port);
    http.wire.send_cut(&run.bytes, run.cut);
    let result = http.try_answer(Asked::Other).and_then(|answer| {
        let answer = answer.ok_or("closed without an answer")?;
        if !run.statuses.contains(&answer.status) {
            let Answered { status, code } = Answered::of(&answer);
            return Err(format!("{status} {code} instead of {:?}", run.statuses));
        }
        match answer.status {
            400 | 505 if answer.code() != "request_invalid" => {
                Err(format!("code {}", answer.code()))
            }
            400 | 505 => http
                .wire
                .try_expect_close()
                .map_err(|error| format!("not closed: {error}")),
            _ => Ok(()),
        }
    });
    result.map_err(|error| format!("{} ({:?}): {error}", run.name, run.cut))
}

/// An answer for a message to people.
struct Answered {
    status: u16,
    code: String,
}

impl Answered {
    fn of(answer: &super::web::Answer) -> Answered {
        Answered {
            status: answer.status,
            code: String::from_utf8_lossy(&answer.body).into_owned(),
        }
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_done() {
    let broker = Broker::start(2, &[]);
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe("smuggled");
    listener.subscribe("");
    let tables = [
        ("length", LENGTHS),
        ("coding", CODINGS),
        ("line", LINES),
        ("host", HOSTS),
        ("first line", FIRST_LINES),
        ("chunk", CHUNKS),
    ];
    let mut all = Vec::new();
    for (what, table) in tables {
        for (name, text) in table {
            all.extend(runs(what, name, text, &[400]));
        }
    }
    check_all(&all, |run| check(broker.http_port(), run));
    // Nothing was published by any of them.
    let marker = Event::new("smuggled", "marker");
    listener.publish(&marker);
    assert_eq!(listener.message(), marker);
}

#[test]
fn what_is_refused_one_way_or_another_smuggles_nothing() {
    let broker = Broker::start(2, &[]);
    let mut all = Vec::new();
    for (name, text, statuses) in EITHER {
        all.extend(runs("either", name, text, statuses));
    }
    // Here the rest may be a request of its own, so it is left out.
    for run in &mut all {
        run.bytes.truncate(run.bytes.len() - SMUGGLED.len());
    }
    check_all(&all, |run| check(broker.http_port(), run));
}

/// What is refused though its length is clear, and how a body of that length is announced.
const REFUSED_WITH_BODY: &[(&str, &[&str], u16)] = &[
    ("POST /nothing", &[], 404),
    ("DELETE /v1/topics/smuggled", &[], 405),
    ("POST /health", &[], 405),
    ("GET /health", &[], 400),
    ("POST /v1/topics/$JS.x", &[], 403),
    ("POST /v1/topics/a%", &[], 400),
    (
        "POST /v1/topics/smuggled",
        &["Origin: https://evil.example"],
        403,
    ),
    ("POST /v1/topics/smuggled", &["Host: evil.example"], 403),
    ("POST /v1/topics/smuggled", &["Sapwood-Header: none"], 400),
    ("POST /v1/topics/smuggled", &["Expect: a-miracle"], 417),
];

#[test]
fn the_body_of_a_refused_request_is_not_read_as_the_next_one() {
    let broker = Broker::start(1, &[]);
    let port = broker.http_port();
    let mut listener = NativeClient::connect(broker.native_port());
    listener.subscribe("smuggled");
    let mut runs = Vec::new();
    for case in REFUSED_WITH_BODY {
        for times in [1, 20_000] {
            for cut in [Cut::Whole, Cut::Pieces(1_021), Cut::At(150)] {
                runs.push((case, times, cut));
            }
        }
    }
    check_all(&runs, |((line, headers, status), times, cut)| {
        let body = SMUGGLED.repeat(*times);
        let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        for (how, body) in [
            (format!("Content-Length: {}", body.len()), &body),
            ("Transfer-Encoding: chunked".to_string(), &chunked),
        ] {
            let mut text = format!("{line} HTTP/1.1\r\n");
            if !headers.iter().any(|header| header.starts_with("Host")) {
                text += "Host: 127.0.0.1\r\n";
            }
            for header in *headers {
                text += &format!("{header}\r\n");
            }
            text += &format!("{how}\r\n\r\n{body}GET /info HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
            let mut http = Http::dial(port);
            http.wire.send_cut(text.as_bytes(), *cut);
            let answer = http.try_answer(Asked::Other)?;
            let first = answer.as_ref().map(|answer| answer.status);
            // The connection is closed, or the next request is the one that stands behind the body.
            let next = http.try_answer(Asked::Other)?;
            let is_info = next.is_none_or(|next| next.json()["shards"] == 1);
            if first != Some(*status) || !is_info {
                return Err(format!("{line} {headers:?} {how} {cut:?}: {first:?}"));
            }
        }
        Ok(())
    });
    let marker = Event::new("smuggled", "marker");
    listener.publish(&marker);
    assert_eq!(listener.message(), marker);
}
