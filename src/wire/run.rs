//! Runs: publishes of one topic that stand next to each other in what a client sent.
//!
//! A client that pipelines repeats the same bytes before each payload, so that one comparison takes
//! the place of parsing. Owns the finding of such runs in both protocols; must not know what becomes
//! of them. Invariants: every frame of a run is whole, and is one that the protocol's own parser takes
//! for the same publish; what is not exactly in the form that libraries write is no run, and is
//! left to that parser, errors and all. Start at [`Head::of_resp`] and [`Head::scan`].

use crate::limits::PAYLOAD_BYTES_MAX;
use crate::native::{LENGTH_BYTES, WHEN_STORED, kind};

/// What a PUBLISH in the Redis protocol begins with; the word may have letters of any case.
const RESP_PUBLISH: &[u8] = b"*3\r\n$7\r\nPUBLISH\r\n$";
/// Where its first letter stands.
const RESP_WORD_AT: usize = 8;
/// What a PUB in the NATS protocol begins with; the word may have letters of any case.
const NATS_PUBLISH: &[u8] = b"PUB ";
/// Digits of the longest payload's length.
const LENGTH_DIGITS_MAX: usize = 8;
/// A native MESSAGE up to its topic: length, kind, flags, the topic's length.
const NATIVE_TOPIC_AT: usize = LENGTH_BYTES + 4;
/// Where the request of a native PUBLISH stands.
const NATIVE_REQUEST_AT: usize = LENGTH_BYTES + 1;
/// Where what follows it does: when, flags, the topic's length, the topic.
const NATIVE_WHEN_AT: usize = NATIVE_REQUEST_AT + 4;

/// Which protocol a run came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// PUBLISH of the Redis protocol.
    Resp,
    /// MESSAGE without flags of the native protocol.
    Native,
    /// PUB of the NATS protocol, without a reply subject and not empty.
    Nats,
    /// A frame of another node, in which the payloads stand; there is nothing to scan.
    Node,
    /// PUBLISH of the native protocol that is answered once it is stored, without flags; the requests are consecutive.
    NativeStored,
}

/// What all frames of a run have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// Which protocol.
    pub source: Source,
    /// Where they are published.
    pub topic: &'a [u8],
    /// The common bytes: up to the payload's length, or from behind the frame's length to the payload, of a PUBLISH from
    /// behind its request.
    common: &'a [u8],
    /// The request of the first frame; 0 if they are no requests.
    pub first_request: u32,
}

/// Where a payload stands in the input.
pub type Span = (u32, u32);

impl<'a> Head<'a> {
    /// Looks whether the input begins with a PUBLISH of the Redis protocol. Its name may be any.
    pub fn of_resp(input: &'a [u8]) -> Option<Head<'a>> {
        let start = input.get(..RESP_PUBLISH.len())?;
        if !start.eq_ignore_ascii_case(RESP_PUBLISH) {
            return None;
        }
        let (length, at) = length_line(input, RESP_PUBLISH.len())?;
        let end = at + length;
        let is_followed = input.get(end..end + 3)? == b"\r\n$";
        is_followed.then(|| Head {
            source: Source::Resp,
            topic: &input[at..end],
            common: &input[..end + 3],
            first_request: 0,
        })
    }

    /// Looks whether the input begins with a native MESSAGE without flags.
    pub fn of_native(input: &'a [u8]) -> Option<Head<'a>> {
        let start = input.get(..NATIVE_TOPIC_AT)?;
        if start[LENGTH_BYTES..LENGTH_BYTES + 2] != [kind::MESSAGE, 0] {
            return None;
        }
        let length = usize::from(u16::from_le_bytes([start[6], start[7]]));
        let end = NATIVE_TOPIC_AT + length;
        Some(Head {
            source: Source::Native,
            topic: input.get(NATIVE_TOPIC_AT..end)?,
            common: &input[LENGTH_BYTES..end],
            first_request: 0,
        })
    }

    /// Looks whether the input begins with a native PUBLISH without flags that is answered once it is stored.
    pub fn of_native_stored(input: &'a [u8]) -> Option<Head<'a>> {
        let at = NATIVE_WHEN_AT + 4;
        let start = input.get(..at)?;
        if start[LENGTH_BYTES] != kind::PUBLISH || start[NATIVE_WHEN_AT..at - 2] != [WHEN_STORED, 0]
        {
            return None;
        }
        let request = start[NATIVE_REQUEST_AT..NATIVE_WHEN_AT].try_into().ok()?;
        let first_request = u32::from_le_bytes(request);
        let length = usize::from(u16::from_le_bytes([start[at - 2], start[at - 1]]));
        let topic = input.get(at..at + length)?;
        (first_request > 0).then_some(Head {
            source: Source::NativeStored,
            topic,
            common: &input[NATIVE_WHEN_AT..at + length],
            first_request,
        })
    }

    /// Looks whether the input begins with a PUB of the NATS protocol with a single blank between its
    /// words. Its subject may be any, of at most `subject_max` bytes.
    pub fn of_nats(input: &'a [u8], subject_max: usize) -> Option<Head<'a>> {
        let start = input.get(..NATS_PUBLISH.len())?;
        if !start.eq_ignore_ascii_case(NATS_PUBLISH) {
            return None;
        }
        let rest = &input[start.len()..];
        let window = &rest[..rest.len().min(subject_max + 1)];
        let length = window.iter().position(|&byte| byte <= b' ')?;
        let end = start.len() + length;
        let is_followed = length > 0 && input[end] == b' ';
        is_followed.then(|| Head {
            source: Source::Nats,
            topic: &input[start.len()..end],
            common: &input[..end + 1],
            first_request: 0,
        })
    }

    /// Finds the whole frames with this head at the start of the input, until they have more than
    /// `bytes_max` bytes together, though one at least, or a payload has more than `payload_max`.
    /// Appends where the payloads stand; gives the bytes of the frames.
    pub fn scan(
        &self,
        input: &[u8],
        bytes_max: usize,
        payload_max: usize,
        payloads: &mut Vec<Span>,
    ) -> usize {
        let payload_max = payload_max.min(PAYLOAD_BYTES_MAX);
        let mut at = 0;
        // What stands before the payload of the frame before, and that payload's length.
        let (mut header, mut length): (&[u8], usize) = (&[], 0);
        loop {
            let frame = self.next_alike(input, at, header, length);
            let frame = frame.or_else(|| match self.source {
                Source::Resp | Source::Nats => self.next_line(input, at),
                Source::Native => self.next_native(input, at),
                Source::NativeStored => self.next_request(input, at, payloads.len()),
                Source::Node => None,
            });
            let Some((start, end, next)) = frame else {
                return at;
            };
            (header, length) = (&input[at..start], end - start);
            if end - start > payload_max || at > 0 && next > bytes_max {
                return at;
            }
            payloads.push((start as u32, end as u32));
            at = next;
        }
    }

    /// As [`Head::next_line`], if the frame is as long as the one before, whose header this is. The
    /// processor foresees the answer and goes on before it has the bytes, as it cannot where a length must be
    /// parsed to know where the next frame begins: a sixth less CPU for a pipelined PUBLISH of 128 bytes.
    #[inline]
    fn next_alike(
        &self,
        input: &[u8],
        at: usize,
        header: &[u8],
        length: usize,
    ) -> Option<(usize, usize, usize)> {
        let start = at + header.len();
        let end = start + length;
        if header.is_empty() || input.get(at..start)? != header {
            return None;
        }
        match self.source {
            Source::Resp | Source::Nats => {
                (input.get(end..end + 2)? == b"\r\n").then_some((start, end, end + 2))
            }
            Source::Native => (input.len() >= end).then_some((start, end, end)),
            // Each has a request of its own.
            Source::NativeStored | Source::Node => None,
        }
    }

    /// Where the payload of the frame at `at` begins and ends, and where the frame does.
    fn next_line(&self, input: &[u8], at: usize) -> Option<(usize, usize, usize)> {
        let lengths_at = at + self.common.len();
        if input.get(at..lengths_at)? != self.common {
            return None;
        }
        let (length, start) = length_line(input, lengths_at)?;
        if length == 0 && self.source == Source::Nats {
            // An empty body means something there.
            return None;
        }
        let end = start + length;
        (input.get(end..end + 2)? == b"\r\n").then_some((start, end, end + 2))
    }

    fn next_native(&self, input: &[u8], at: usize) -> Option<(usize, usize, usize)> {
        let (length, rest) = input.get(at..)?.split_first_chunk::<LENGTH_BYTES>()?;
        let length = u32::from_le_bytes(*length) as usize;
        if rest.len() < length || !rest[..length].starts_with(self.common) {
            return None;
        }
        let end = at + LENGTH_BYTES + length;
        Some((at + LENGTH_BYTES + self.common.len(), end, end))
    }

    /// The same for a PUBLISH, `before` of which stand before it.
    fn next_request(
        &self,
        input: &[u8],
        at: usize,
        before: usize,
    ) -> Option<(usize, usize, usize)> {
        let frame = input.get(at..)?;
        let (length, rest) = frame.split_first_chunk::<LENGTH_BYTES>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let request = self
            .first_request
            .checked_add(u32::try_from(before).ok()?)?;
        let is_alike = rest.len() >= length
            && length >= NATIVE_WHEN_AT - LENGTH_BYTES + self.common.len()
            && rest[0] == kind::PUBLISH
            && frame[NATIVE_REQUEST_AT..NATIVE_WHEN_AT] == request.to_le_bytes()
            && frame[NATIVE_WHEN_AT..].starts_with(self.common);
        let end = at + LENGTH_BYTES + length;
        is_alike.then_some((at + NATIVE_WHEN_AT + self.common.len(), end, end))
    }
}

/// A canonical length from `at` to its line end, and where what follows it begins.
fn length_line(input: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut length = 0;
    for digits in 0..=LENGTH_DIGITS_MAX {
        let byte = *input.get(at + digits)?;
        if !byte.is_ascii_digit() {
            let is_line_end = byte == b'\r' && *input.get(at + digits + 1)? == b'\n';
            let is_canonical = digits > 0 && (digits == 1 || input[at] != b'0');
            return (is_line_end && is_canonical).then_some((length, at + digits + 2));
        }
        length = length * 10 + usize::from(byte - b'0');
    }
    None
}

/// Turns frames of a run by [`Source::Resp`] into the pushes that subscribers of exactly that topic get:
/// as long, and different in eight bytes each.
///
/// `payloads` are those of the run's scan.
pub fn turn_into_pushes(mark: u8, frames: &mut [u8], payloads: &[Span]) {
    let mut at = 0;
    for &(_, end) in payloads {
        frames[at] = mark;
        frames[at + RESP_WORD_AT..at + RESP_WORD_AT + 7].copy_from_slice(b"message");
        at = end as usize + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::{ClientFrame, Parsed, parse_from_client};
    use crate::nats::{Caps, Operation, Parsed as Line, parse as parse_line};
    use crate::resp::{Parser, Progress, RequestLimits};
    use proptest::prelude::*;

    fn resp(word: &str, topic: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut out = format!("*3\r\n$7\r\n{word}\r\n${}\r\n", topic.len()).into_bytes();
        out.extend_from_slice(topic);
        out.extend_from_slice(format!("\r\n${}\r\n", payload.len()).as_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
        out
    }

    fn native(topic: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut out = (4 + topic.len() as u32 + payload.len() as u32)
            .to_le_bytes()
            .to_vec();
        out.extend_from_slice(&[kind::MESSAGE, 0]);
        out.extend_from_slice(&(topic.len() as u16).to_le_bytes());
        out.extend_from_slice(topic);
        out.extend_from_slice(payload);
        out
    }

    fn nats(topic: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut out = [b"PUB ", topic, b" "].concat();
        out.extend_from_slice(format!("{}\r\n", payload.len()).as_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
        out
    }

    fn scan(source: Source, input: &[u8], bytes_max: usize) -> (usize, Vec<Vec<u8>>) {
        let head = match source {
            Source::Resp => Head::of_resp(input),
            Source::Native => Head::of_native(input),
            Source::NativeStored => Head::of_native_stored(input),
            Source::Nats => Head::of_nats(input, 100),
            Source::Node => None,
        };
        let mut payloads = Vec::new();
        let length = head.map_or(0, |head| head.scan(input, bytes_max, 1_000, &mut payloads));
        let payloads = payloads
            .iter()
            .map(|&(start, end)| input[start as usize..end as usize].to_vec());
        (length, payloads.collect())
    }

    #[test]
    fn a_run_ends_where_the_topic_does() {
        let input = [
            resp("PUBLISH", b"a", b"1"),
            resp("PUBLISH", b"a", b"22"),
            resp("PUBLISH", b"b", b"3"),
        ];
        let (length, payloads) = scan(Source::Resp, &input.concat(), 10_000);
        assert_eq!(length, input[0].len() + input[1].len());
        assert_eq!(payloads, [&b"1"[..], b"22"]);
        let input = [native(b"a", b"1"), native(b"a", b""), native(b"ab", b"3")];
        let (length, payloads) = scan(Source::Native, &input.concat(), 10_000);
        // The third begins with other bytes, because the topic's length stands before it.
        assert_eq!(
            (length, payloads.len()),
            (input[0].len() + input[1].len(), 2)
        );
    }

    fn native_stored(request: u32, topic: &[u8], payload: &[u8]) -> Vec<u8> {
        let parts = crate::native::Parts {
            topic,
            payload,
            ..Default::default()
        };
        let (mut message, mut out) = (Vec::new(), Vec::new());
        parts
            .write(&mut message)
            .expect("parts that make a message");
        crate::native::write_publish_stored(&mut out, request, &message);
        out
    }

    #[test]
    fn a_run_of_stored_publishes_ends_where_its_requests_do_not_follow_each_other() {
        let run = [
            native_stored(7, b"a", b"1"),
            native_stored(8, b"a", b""),
            native_stored(9, b"a", b"333"),
        ];
        let length: usize = run.iter().map(Vec::len).sum();
        for other in [
            native_stored(9, b"a", b"x"),
            native_stored(11, b"a", b"x"),
            native_stored(10, b"b", b"x"),
            native_stored(10, b"ab", b"x"),
            native(b"a", b"x"),
            native_stored(10, b"a", b"x")[..12].to_vec(),
        ] {
            let input = [&run.concat()[..], &other].concat();
            let (bytes, payloads) = scan(Source::NativeStored, &input, 10_000);
            assert_eq!((bytes, payloads.len()), (length, 3), "{other:?}");
            assert_eq!(payloads, [&b"1"[..], b"", b"333"]);
        }
        let last = native_stored(u32::MAX, b"a", b"x");
        let input = [&last[..], &native_stored(1, b"a", b"x")].concat();
        assert_eq!(scan(Source::NativeStored, &input, 10_000).0, last.len());
        let mut flagged = native_stored(7, b"a", b"x");
        flagged[NATIVE_WHEN_AT + 1] = 4;
        assert_eq!(Head::of_native_stored(&flagged), None);
        for end in 0..run[0].len() {
            let (bytes, _) = scan(Source::NativeStored, &run[0][..end], 10_000);
            assert_eq!(bytes, 0, "the first {end} bytes");
        }
    }

    #[test]
    fn a_run_of_nats_ends_at_a_reply_and_at_an_empty_body() {
        let plain = nats(b"a", b"payload");
        for other in [
            &b"PUB a inbox 2\r\nhi\r\n"[..],
            b"PUB a 5 2\r\nhi\r\n",
            b"PUB a 0\r\n\r\n",
            b"PUB  a 2\r\nhi\r\n",
            b"PUB a\t2\r\nhi\r\n",
            b"PUB ab 2\r\nhi\r\n",
            b"PUB a 02\r\nhi\r\n",
            b"PUB a 2\nhi\r\n",
        ] {
            let input = [&plain, other, &plain].concat();
            assert_eq!(scan(Source::Nats, &input, 10_000).0, plain.len());
        }
        let long = nats(&[b'x'; 101], b"payload");
        assert_eq!(scan(Source::Nats, &long, 10_000).0, 0, "the subject's cap");
    }

    #[test]
    fn the_caps_end_a_run_but_let_one_frame_through() {
        let frame = resp("publish", b"t", b"payload");
        let (length, payloads) = scan(Source::Resp, &frame.repeat(5), 2 * frame.len());
        assert_eq!((length, payloads.len()), (2 * frame.len(), 2));
        assert_eq!(scan(Source::Resp, &frame.repeat(5), 0).0, frame.len());
        let long = resp("publish", b"t", &[b'x'; 1_001]);
        assert_eq!(
            scan(Source::Resp, &[&frame[..], &long].concat(), 10_000).0,
            frame.len()
        );
    }

    #[test]
    fn what_is_not_canonical_is_no_run() {
        let wrong: &[&[u8]] = &[
            b"*3\r\n$7\r\nPUBLISH\r\n$01\r\na\r\n$1\r\nx\r\n",
            b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$01\r\nx\r\n",
            b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$+1\r\nx\r\n",
            b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$\r\n\r\n",
            b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$1\nx\r\n",
            b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$1\r\nxy\r",
            b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$999999999999999999999\r\nx\r\n",
            b"*2\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$1\r\nx\r\n",
        ];
        for input in wrong {
            assert_eq!(
                scan(Source::Resp, input, 10_000).0,
                0,
                "{}",
                input.escape_ascii()
            );
        }
        let mut flagged = native(b"a", b"1");
        flagged[5] = 4;
        assert_eq!(scan(Source::Native, &flagged, 10_000).0, 0);
        // A topic that is longer than its frame.
        assert_eq!(
            scan(
                Source::Native,
                b"\x05\0\0\0\x10\0\x09\0abcdefghijkl",
                10_000
            )
            .0,
            0
        );
    }

    #[test]
    fn pushes_differ_from_publishes_in_eight_bytes() {
        let mut frames = [resp("PUBLISH", b"t", b"one"), resp("PUBLISH", b"t", b"")].concat();
        let mut payloads = Vec::new();
        let length = Head::of_resp(&frames)
            .unwrap()
            .scan(&frames, 10_000, 1_000, &mut payloads);
        assert_eq!(length, frames.len());
        turn_into_pushes(b'>', &mut frames, &payloads);
        let expected = ">3\r\n$7\r\nmessage\r\n$1\r\nt\r\n$3\r\none\r\n>3\r\n$7\r\nmessage\r\n$1\r\nt\r\n$0\r\n\r\n";
        assert_eq!(
            frames.escape_ascii().to_string(),
            expected.as_bytes().escape_ascii().to_string()
        );
    }

    /// Bytes of the publish at the start of `rest`, which the parser must take as the run does.
    fn stored_length(rest: &[u8], input: &[u8], payload: &[u8], place: u32) -> usize {
        let head = Head::of_native_stored(input).expect("what was scanned");
        match parse_from_client(rest, 1_000_000) {
            Ok(Parsed::Frame {
                frame: ClientFrame::PublishStored { request, message },
                length,
            }) => {
                assert_eq!((message.topic, message.flags), (head.topic, 0));
                assert_eq!(request, head.first_request + place);
                assert_eq!(message.payload, payload);
                length
            }
            other => panic!("{other:?} at the start of {}", rest.escape_ascii()),
        }
    }

    /// A frame that publishes, as this protocol has it.
    fn frame(source: Source, request: u32, topic: &[u8], payload: &[u8]) -> Vec<u8> {
        match source {
            Source::Resp => resp("PUBLISH", topic, payload),
            Source::Native => native(topic, payload),
            Source::NativeStored => native_stored(request, topic, payload),
            Source::Nats => nats(topic, payload),
            Source::Node => Vec::new(),
        }
    }

    proptest! {
        /// Every frame of a run is one that the protocol's parser takes for the same, wherever the input is cut.
        #[test]
        fn runs_agree_with_the_parsers(
            topics in proptest::collection::vec(0..2u8, 1..12),
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 12),
            cut in 0..2_000usize,
            flip in proptest::option::of((0..2_000usize, any::<u8>())),
            source in proptest::sample::select(&[Source::Resp, Source::Native, Source::NativeStored, Source::Nats][..]),
        ) {
            let each = topics.iter().zip(&payloads).zip(5..);
            let frames = each.map(|((topic, payload), request)| frame(source, request, &[b'a' + topic], payload));
            let mut input = frames.collect::<Vec<_>>().concat();
            input.truncate(cut);
            if let Some((at, byte)) = flip && let Some(there) = input.get_mut(at) {
                *there = byte;
            }
            let (length, found) = scan(source, &input, usize::MAX);
            let mut at = 0;
            for (payload, place) in found.iter().zip(0..) {
                let rest = &input[at..];
                let taken = match source {
                    Source::Node => unreachable!("nothing of it is scanned"),
                    Source::Resp => {
                        let mut parser = Parser::new();
                        let Ok(Progress::Request { length }) = parser.parse(rest, &RequestLimits::MEMBER) else {
                            panic!("the parser takes no request at {at} of {}", input.escape_ascii());
                        };
                        let arguments = parser.arguments(rest);
                        prop_assert!(arguments.get(0).unwrap().eq_ignore_ascii_case(b"publish"));
                        prop_assert_eq!(arguments.get(1), Head::of_resp(&input).map(|head| head.topic));
                        prop_assert_eq!(arguments.get(2), Some(&payload[..]));
                        length
                    }
                    Source::Native => {
                        let parsed = parse_from_client(rest, 1_000_000);
                        let Ok(Parsed::Frame { frame: ClientFrame::Message(message), length }) = parsed else {
                            panic!("the parser takes no message at {at} of {}", input.escape_ascii());
                        };
                        prop_assert_eq!(Some(message.topic), Head::of_native(&input).map(|head| head.topic));
                        prop_assert_eq!(message.payload, &payload[..]);
                        length
                    }
                    Source::NativeStored => stored_length(rest, &input, payload, place),
                    Source::Nats => {
                        let caps = Caps { line: 4_096, body: 1_000_000 };
                        let parsed = parse_line(rest, caps);
                        let Ok(Line::Operation { operation: Operation::Publish(publish), length }) = parsed else {
                            panic!("the parser takes no PUB at {at} of {}", input.escape_ascii());
                        };
                        prop_assert_eq!(Some(publish.subject), Head::of_nats(&input, 100).map(|head| head.topic));
                        prop_assert_eq!((publish.reply, publish.headers), (None, &b""[..]));
                        prop_assert_eq!(publish.payload, &payload[..]);
                        prop_assert!(!payload.is_empty());
                        length
                    }
                };
                at += taken;
            }
            prop_assert_eq!(at, length);
        }
    }
}
