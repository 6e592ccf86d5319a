//! Wrong use of the NATS protocol, as data: both servers must say the same and close the same.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::time::Duration;

use super::compare::{self, Frame};
use super::run::Connection;

/// How long a server may take to answer, or to close.
const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(5);

/// What a client writes first of all, and whether the server closes then.
pub struct Scenario {
    what: &'static str,
    bytes: Vec<u8>,
    closes: bool,
}

/// One whose bytes are short, in this order.
type Short = (&'static str, &'static str, bool);

const SHORT: &[Short] = &[
    ("garbage", "garbage\r\n", true),
    ("an HTTP request", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", true),
    ("an empty line", "\r\n", true),
    ("a blank before an operation", " PING\r\n", true),
    ("an operation of a server", "MSG a 1 1\r\nx\r\n", true),
    ("an error of the client", "-ERR 'x'\r\n", true),
    ("no CR LF after a payload", "PUB a 1\r\nxyz\r\n", true),
    ("one byte more than said", "PUB a 1\r\nxx\r\n", true),
    ("LF only after a payload", "PUB a 1\r\nx\nPING\r\n", true),
    ("PUB without arguments", "PUB\r\n", true),
    ("PUB with one", "PUB a\r\n", true),
    ("PUB with four", "PUB a b c 1\r\nx\r\n", true),
    ("a negative length", "PUB a -1\r\n", true),
    ("a length that is no number", "PUB a x\r\n", true),
    ("a length of ten digits", "PUB a 1234567890\r\n", true),
    ("a payload above the cap", "PUB a 1048577\r\n", true),
    ("SUB without arguments", "SUB\r\n", true),
    ("SUB with one", "SUB a\r\n", true),
    ("SUB with four", "SUB a b c d\r\n", true),
    ("UNSUB without arguments", "UNSUB\r\n", true),
    ("UNSUB with three", "UNSUB 1 2 3\r\n", true),
    ("CONNECT without arguments", "CONNECT\r\n", true),
    (
        "CONNECT with half an object",
        "CONNECT {\"verbose\":\r\n",
        true,
    ),
    ("CONNECT with a list", "CONNECT []\r\n", true),
    (
        "CONNECT with a number for a flag",
        "CONNECT {\"verbose\":1}\r\n",
        true,
    ),
    (
        "CONNECT with a text for a number",
        "CONNECT {\"protocol\":\"1\"}\r\n",
        true,
    ),
    (
        "CONNECT with a number for a name",
        "CONNECT {\"lang\":3}\r\n",
        true,
    ),
    ("CONNECT with more behind it", "CONNECT {} x\r\n", true),
    (
        "CONNECT with a protocol of tomorrow",
        "CONNECT {\"protocol\":2}\r\n",
        true,
    ),
    (
        "CONNECT with a protocol below 0",
        "CONNECT {\"protocol\":-1}\r\n",
        true,
    ),
    (
        "no responders without headers",
        "CONNECT {\"no_responders\":true}\r\n",
        true,
    ),
    (
        "no responders, and then no headers",
        "CONNECT {\"headers\":true,\"no_responders\":true}\r\nCONNECT {\"headers\":false}\r\n",
        true,
    ),
    (
        "HPUB without headers in CONNECT",
        "HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n",
        true,
    ),
    (
        "HPUB with two arguments",
        "CONNECT {\"headers\":true}\r\nHPUB a 12\r\n",
        true,
    ),
    (
        "HPUB with five",
        "CONNECT {\"headers\":true}\r\nHPUB a b c 12 12\r\n",
        true,
    ),
    (
        "headers longer than all",
        "CONNECT {\"headers\":true}\r\nHPUB a 13 12\r\n",
        true,
    ),
    (
        "headers and payload above the cap",
        "CONNECT {\"headers\":true}\r\nHPUB a 12 1048577\r\n",
        true,
    ),
    ("PUB before CONNECT", "SUB a 1\r\nPUB a 1\r\nx\r\n", false),
    (
        "bad subjects of a pedantic client",
        "PUB a..b 1\r\nx\r\nPUB a.* 1\r\nx\r\nPUB > 0\r\n\r\n",
        false,
    ),
    (
        "bad subjects to subscribe to",
        "SUB a..b 1\r\nSUB .a 1\r\nSUB a. 1\r\nSUB a.>.b 1\r\nSUB > 1\r\n",
        false,
    ),
    (
        "a sid twice",
        "SUB a 1\r\nSUB b 1\r\nPUB b 1\r\nb\r\nPUB a 1\r\na\r\n",
        false,
    ),
    ("UNSUB of nothing", "UNSUB 1\r\nUNSUB x 3\r\n", false),
    (
        "UNSUB with no number",
        "SUB a 1\r\nUNSUB 1 x\r\nPUB a 1\r\nx\r\n",
        false,
    ),
    (
        "UNSUB with a number below 0",
        "SUB a 1\r\nUNSUB 1 -1\r\nPUB a 1\r\nx\r\n",
        false,
    ),
    (
        "UNSUB after the count",
        "SUB a 1\r\nPUB a 1\r\nx\r\nPUB a 1\r\ny\r\nUNSUB 1 1\r\nPUB a 1\r\nz\r\n",
        false,
    ),
    (
        "blanks around words",
        "SUB  a\t1 \r\nPUB \t a  1\t\r\nx\r\nPING \r\nPONG x\r\n",
        false,
    ),
    ("no CR", "SUB a 1\nPUB a 1\nx\r\nPING\n", false),
    (
        "a second CONNECT that says less",
        "CONNECT {\"verbose\":false,\"echo\":false}\r\nCONNECT {}\r\nSUB a 1\r\nPUB a 1\r\nx\r\n",
        false,
    ),
    (
        "fields in capitals",
        "CONNECT {\"Verbose\":false,\"PEDANTIC\":false}\r\nPUB a.* 1\r\nx\r\n",
        false,
    ),
    (
        "fields that are null",
        "CONNECT {\"verbose\":null,\"name\":null}\r\n",
        false,
    ),
    (
        "fields twice",
        "CONNECT {\"verbose\":true,\"verbose\":false}\r\nPUB a 1\r\nx\r\n",
        false,
    ),
    ("what servers say", "+OK\r\nINFO {}\r\nPONG\r\n", false),
    (
        "a payload of no bytes",
        "SUB a 1\r\nPUB a 0\r\n\r\nPUB a 00\r\n\r\n",
        false,
    ),
    (
        "a request that nobody hears",
        "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\nSUB r 1\r\nPUB a r 1\r\nx\r\n",
        false,
    ),
    (
        "one queue group by two subjects",
        "CONNECT {\"verbose\":false}\r\nSUB a q q1\r\nSUB * q q2\r\nPUB a 1\r\nx\r\n",
        false,
    ),
    (
        "a queue group whose only member does not hear itself",
        "CONNECT {\"verbose\":false,\"echo\":false,\"headers\":true,\"no_responders\":true}\r\n\
         SUB a q 1\r\nSUB r 2\r\nPUB a r 1\r\nx\r\n",
        false,
    ),
];

fn read(scenarios: &[Short]) -> Vec<Scenario> {
    let one = |(what, bytes, closes): &Short| Scenario {
        what,
        bytes: bytes.as_bytes().to_vec(),
        closes: *closes,
    };
    scenarios.iter().map(one).collect()
}

pub fn passwords() -> Vec<Scenario> {
    read(PASSWORDS)
}

pub fn tokens() -> Vec<Scenario> {
    read(TOKENS)
}

pub fn wrong_use() -> Vec<Scenario> {
    let long = |what, line: String| Scenario {
        what,
        bytes: line.into_bytes(),
        closes: true,
    };
    let many = |byte: &str| byte.repeat(4097);
    let mut scenarios = read(SHORT);
    scenarios.extend([
        long("a long PUB", format!("PUB {} 1\r\n", many("a"))),
        long(
            "a long PUB without an end",
            format!("PUB {}", many("a").repeat(2)),
        ),
        long("a long SUB", format!("SUB {} 1\r\n", many("a"))),
        long("a long UNSUB", format!("UNSUB {}\r\n", many("1"))),
        long(
            "a long CONNECT",
            format!("CONNECT {{\"name\":\"{}\"}}\r\n", many("n")),
        ),
        Scenario {
            what: "a payload of just the cap",
            bytes: [
                b"PUB a 1048576\r\n",
                vec![b'x'; 1 << 20].as_slice(),
                b"\r\n",
            ]
            .concat(),
            closes: false,
        },
    ]);
    scenarios
}

/// Against a user `alice` with the password `secret`.
const PASSWORDS: &[Short] = &[
    ("PING before CONNECT", "PING\r\n", true),
    ("PUB before CONNECT", "PUB a 1\r\nx\r\n", true),
    ("SUB before CONNECT", "SUB a 1\r\n", true),
    ("garbage before CONNECT", "garbage\r\n", true),
    ("CONNECT with nothing", "CONNECT {}\r\n", true),
    (
        "a wrong password",
        "CONNECT {\"user\":\"alice\",\"pass\":\"wrong\"}\r\n",
        true,
    ),
    ("no password", "CONNECT {\"user\":\"alice\"}\r\n", true),
    (
        "an empty password",
        "CONNECT {\"user\":\"alice\",\"pass\":\"\"}\r\n",
        true,
    ),
    (
        "a wrong user",
        "CONNECT {\"user\":\"bob\",\"pass\":\"secret\"}\r\n",
        true,
    ),
    ("no user", "CONNECT {\"pass\":\"secret\"}\r\n", true),
    (
        "a wrong token",
        "CONNECT {\"auth_token\":\"wrong\"}\r\n",
        true,
    ),
    ("broken JSON", "CONNECT {\"user\":\r\n", true),
    (
        "the right ones",
        "CONNECT {\"user\":\"alice\",\"pass\":\"secret\"}\r\nSUB a 1\r\nPUB a 1\r\nx\r\n",
        false,
    ),
    (
        "a wrong password after the right one",
        "CONNECT {\"user\":\"alice\",\"pass\":\"secret\"}\r\nCONNECT {\"user\":\"alice\",\"pass\":\"x\"}\r\n",
        true,
    ),
];

/// Against the token `secret`.
const TOKENS: &[Short] = &[
    ("PING before CONNECT", "PING\r\n", true),
    ("CONNECT with nothing", "CONNECT {}\r\n", true),
    (
        "a wrong token",
        "CONNECT {\"auth_token\":\"wrong\"}\r\n",
        true,
    ),
    ("an empty token", "CONNECT {\"auth_token\":\"\"}\r\n", true),
    (
        "the right one",
        "CONNECT {\"verbose\":false,\"auth_token\":\"secret\"}\r\nSUB a 1\r\nPUB a 1\r\nx\r\n",
        false,
    ),
];

/// Runs each against both, and lists all that differ.
pub fn check(scenarios: &[Scenario], reference: u16, tested: u16) {
    let mut differing = Vec::new();
    for Scenario {
        what,
        bytes,
        closes,
    } in scenarios
    {
        let expected = [heard(reference, bytes, *closes)];
        let got = [heard(tested, bytes, *closes)];
        let has_ended = expected[0].last() == Some(&Frame::Closed);
        assert_eq!(has_ended, *closes, "{what}: {expected:?}");
        if let Some(difference) = compare::difference(&expected, &got) {
            differing.push((what, difference));
        }
    }
    assert!(differing.is_empty(), "{differing:#?}");
}

/// What libraries go by in INFO.
const PROMISES: &[&str] = &[
    "\"proto\":1,",
    "\"headers\":true",
    "\"max_payload\":1048576",
    "\"auth_required\":true",
    "\"version\":\"2.9.10\"",
    "\"client_ip\":\"127.0.0.1\"",
    "\"tls_required\"",
    "\"nonce\"",
    "\"jetstream\"",
    "\"ldm\"",
];

/// Which of them a server's INFO has.
pub fn promises(port: u16) -> Vec<&'static str> {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server accepts");
    let mut line = String::new();
    let read = BufReader::new(stream).read_line(&mut line);
    read.expect("INFO comes first");
    assert!(line.starts_with("INFO {"), "{line}");
    let has = |promise: &&&str| line.contains(**promise);
    PROMISES.iter().filter(has).copied().collect()
}

/// What a server says to a client that writes that first of all.
pub fn heard(port: u16, bytes: &[u8], closes: bool) -> Vec<Frame> {
    let mut connection = Connection::open_bare(port);
    connection.write(bytes);
    if closes {
        connection.read_to_end(ANSWER_SECONDS_MAX);
    } else {
        let pings = bytes
            .windows(5)
            .filter(|word| *word == b"PING\r" || *word == b"PING\n" || *word == b"PING ");
        connection.barrier(pings.count(), ANSWER_SECONDS_MAX);
    }
    connection.frames
}
