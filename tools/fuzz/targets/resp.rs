//! Any bytes, cut anywhere, must parse to the same requests as in one piece, and never panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sapwood_wire::resp::{Parser, Progress, ProtocolError, RequestLimits};

type Request = Vec<Vec<u8>>;

fn parse(input: &[u8], step: usize, limits: &RequestLimits) -> (Vec<Request>, Option<ProtocolError>) {
    let mut parser = Parser::new();
    let (mut requests, mut start, mut end) = (Vec::new(), 0, 0);
    while end < input.len() {
        end = (end + step).min(input.len());
        loop {
            match parser.parse(&input[start..end], limits) {
                Err(error) => return (requests, Some(error)),
                Ok(Progress::Incomplete { needed }) => {
                    assert!(needed > end - start, "asks for what it has");
                    break;
                }
                Ok(Progress::Request { length }) => {
                    assert!(length > 0, "a request takes something");
                    let arguments = parser.arguments(&input[start..end]);
                    requests.push(arguments.iter().map(<[u8]>::to_vec).collect());
                    start += length;
                }
            }
        }
    }
    (requests, None)
}

fuzz_target!(|data: (u8, bool, &[u8])| {
    let (step, guest, input) = data;
    let limits = if guest { RequestLimits::GUEST } else { RequestLimits::MEMBER };
    let whole = parse(input, input.len().max(1), &limits);
    assert_eq!(parse(input, usize::from(step).max(1), &limits), whole);
});
