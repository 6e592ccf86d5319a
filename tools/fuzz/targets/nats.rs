//! Any bytes, cut anywhere, must parse to the same operations of NATS as in one piece, and never panic; headers
//! that are read and written are read again alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sapwood_wire::nats::{self, Caps, Connect, Operation, Parsed, Violation};
use sapwood_wire::native::{attributes_headers, flag};

const CAPS: Caps = Caps { line: 200, body: 1000 };

fn parse(input: &[u8], step: usize) -> (Vec<String>, Option<Violation>) {
    let (mut operations, mut start, mut end) = (Vec::new(), 0, 0);
    while end < input.len() {
        end = (end + step).min(input.len());
        loop {
            match nats::parse(&input[start..end], CAPS) {
                Err(violation) => return (operations, Some(violation)),
                Ok(Parsed::Incomplete { needed }) => {
                    assert!(needed > end - start, "asks for what it has");
                    break;
                }
                Ok(Parsed::Operation { operation, length }) => {
                    assert!(length > 0, "an operation takes something");
                    operations.push(format!("{operation:?}"));
                    look(&operation);
                    start += length;
                }
            }
        }
    }
    (operations, None)
}

fn look(operation: &Operation<'_>) {
    match operation {
        Operation::Connect(json) => drop(Connect::default().update(json)),
        Operation::Publish(publish) => {
            if let Some(block) = there_and_back(publish.headers) {
                assert_eq!(there_and_back(&block), Some(block));
            }
        }
        _ => {}
    }
}

fn there_and_back(block: &[u8]) -> Option<Vec<u8>> {
    let mut attributes = vec![0, 0];
    if !nats::read_headers(block, &mut attributes) {
        return None;
    }
    let length = (attributes.len() - 2) as u16;
    attributes[..2].copy_from_slice(&length.to_le_bytes());
    let headers = attributes_headers(flag::HEADERS, &attributes);
    assert!(headers.are_valid());
    let mut out = Vec::new();
    nats::write_headers(headers, &mut out);
    assert_eq!(out.len(), nats::headers_length(headers));
    Some(out)
}

fuzz_target!(|data: (u8, &[u8])| {
    let (step, input) = data;
    let whole = parse(input, input.len().max(1));
    let pieces = parse(input, usize::from(step).max(1));
    // A line too long may be known to be so before its end says that it is no operation at all.
    if whole.1 == pieces.1 {
        assert_eq!(pieces, whole);
    }
});
