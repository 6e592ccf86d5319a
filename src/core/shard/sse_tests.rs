//! Event streams on shards driven by hand: what time and the end of the node make of them, in chunks and without.

use super::*;
use crate::limits::SSE_HEARTBEAT_MS;

/// Versions of HTTP, what a comment looks like in their bodies, and the end of a body.
const VERSIONS: [(&str, &str, &str); 2] =
    [("1.1", "3\r\n:\n\n\r\n", "0\r\n\r\n"), ("1.0", ":\n\n", "")];

impl Node {
    /// An event stream of `t` at place 0 of shard 0, and what came behind its head.
    fn with_stream(version: &str) -> (Node, String) {
        let mut node = Node::new(2, None, Limits::default());
        node.open_by(Protocol::Web, 0, 0);
        let request = format!("GET /v1/topics/t HTTP/{version}\r\nHost: localhost\r\n\r\n");
        assert_eq!(node.give(0, 0, request.as_bytes()).consumed, request.len());
        node.settle();
        let answer = node.read(0, 0);
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let is_chunked = head.contains("\r\nTransfer-Encoding: chunked");
        assert_eq!(is_chunked, version == "1.1", "{head}");
        (node, body.to_string())
    }
}

#[test]
fn a_stream_begins_with_a_comment_and_gets_one_after_silence() {
    for (version, comment, _) in VERSIONS {
        let (mut node, body) = Node::with_stream(version);
        assert_eq!(body, comment);
        // Timers are looked at in steps: none is due before its time, and each is within twice that.
        node.now.monotonic_ns = (SSE_HEARTBEAT_MS - 1) * 1_000_000;
        node.handle(0, Input::Tick);
        assert_eq!(node.read(0, 0), "");
        node.now.monotonic_ns = 2 * SSE_HEARTBEAT_MS * 1_000_000;
        node.handle(0, Input::Tick);
        assert_eq!(node.read(0, 0), comment);
    }
}

#[test]
fn a_stream_is_whole_at_the_end_of_the_node() {
    for (version, _, end) in VERSIONS {
        let (mut node, _) = Node::with_stream(version);
        // What clients sent before is still read, and what they published then still comes.
        let milliseconds = 1_500;
        node.handle(0, Input::Ending { milliseconds });
        assert_eq!(node.outputs[0].closing, []);
        node.handle(0, Input::HandOver);
        node.settle();
        assert_eq!(node.read(0, 0), end);
        assert_eq!(node.outputs[0].closing, [(ConnId(0), CloseReason::Ending)]);
    }
}
