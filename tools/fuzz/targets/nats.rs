//! Any bytes, cut anywhere, must parse to the same operations of NATS as in one piece, and never panic; headers
//! stay as they came, and read alike as pairs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sapwood_wire::headers::Headers;
use sapwood_wire::nats::{self, Caps, Connect, Operation, Parsed, Violation};

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
            let headers = Headers::of_block(publish.headers);
            assert!(headers.are_valid());
            let (mut pairs, mut block) = (Vec::new(), Vec::new());
            headers.write_pairs(&mut pairs);
            headers.write_block(&mut block);
            assert_eq!(block, publish.headers);
            assert!(Headers::of_pairs(&pairs).zip(headers).all(|(one, other)| one == other));
        }
        _ => {}
    }
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
