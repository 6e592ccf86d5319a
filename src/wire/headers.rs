//! Headers of a message, as the pairs of the native protocol or as the block that a NATS client sent.
//!
//! Owns both forms and what may stand in them. A block travels as it came, and whoever wants pairs reads them out of
//! it: what cannot be a header there is left out. Must not know messages. Invariant: reading ends on any bytes. Start
//! at [`Headers`].

use memchr::{memchr, memmem};

/// What a block begins with; behind it may stand a status.
const BLOCK_VERSION: &[u8] = b"NATS/1.0";

const LINE_END: &[u8] = b"\r\n";

/// The name under which a status of a NATS block travels in other protocols.
pub const STATUS: &[u8] = b"NATS-Status";

/// The status of an empty message that says that nobody will answer.
pub const NO_RESPONDERS: &[u8] = b"503";

/// Names and values, in order.
///
/// Cost: nothing until they are read, and then a look at each byte of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    /// What has not been read.
    rest: &'a [u8],
    layout: Layout,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Layout {
    /// `u8` length, name, `u16` length, value, for each.
    #[default]
    Pairs,
    /// A block from its first line on.
    Block,
    /// A block behind its first line.
    Lines,
}

impl<'a> Headers<'a> {
    /// Those of the native protocol. What is cut off at the end is left out.
    pub fn of_pairs(pairs: &'a [u8]) -> Headers<'a> {
        Headers {
            rest: pairs,
            layout: Layout::Pairs,
        }
    }

    /// Those of a NATS block. A status comes first, under the name [`STATUS`]. A line that cannot be a header of the
    /// native protocol is left out, and so is all of what is no block.
    pub fn of_block(block: &'a [u8]) -> Headers<'a> {
        Headers {
            rest: block,
            layout: Layout::Block,
        }
    }

    /// The value of the first header of this name, upper and lower case being the same.
    pub fn find(self, name: &[u8]) -> Option<&'a [u8]> {
        let mut headers = self;
        headers.find_map(|(other, value)| other.eq_ignore_ascii_case(name).then_some(value))
    }

    /// Whether names and values hold only bytes that they may hold.
    pub fn are_valid(mut self) -> bool {
        self.all(|(name, value)| is_name(name) && is_value(value))
    }

    /// Writes them as pairs, as many as a message may have.
    pub fn write_pairs(self, out: &mut Vec<u8>) {
        let start = out.len();
        for (name, value) in self {
            if out.len() - start + 3 + name.len() + value.len() > usize::from(u16::MAX) {
                return;
            }
            out.push(name.len() as u8);
            out.extend_from_slice(name);
            out.extend_from_slice(&(value.len() as u16).to_le_bytes());
            out.extend_from_slice(value);
        }
    }

    /// Writes them as a NATS block: one that came as such is not changed, and of pairs a status stands where statuses
    /// do.
    pub fn write_block(self, out: &mut Vec<u8>) {
        if self.layout != Layout::Pairs {
            return out.extend_from_slice(self.rest);
        }
        out.extend_from_slice(BLOCK_VERSION);
        if let Some(status) = self.find(STATUS) {
            out.push(b' ');
            out.extend_from_slice(status);
        }
        out.extend_from_slice(LINE_END);
        for (name, value) in self {
            if !name.eq_ignore_ascii_case(STATUS) {
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(value);
                out.extend_from_slice(LINE_END);
            }
        }
        out.extend_from_slice(LINE_END);
    }

    /// What [`write_block`](Headers::write_block) writes, in bytes.
    pub fn block_length(self) -> usize {
        if self.layout != Layout::Pairs {
            return self.rest.len();
        }
        let status = self.find(STATUS).map_or(0, |status| 1 + status.len());
        let lines = self
            .filter(|(name, _)| !name.eq_ignore_ascii_case(STATUS))
            .map(|(name, value)| name.len() + value.len() + 2 * LINE_END.len());
        BLOCK_VERSION.len() + status + 2 * LINE_END.len() + lines.sum::<usize>()
    }

    fn next_pair(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let (&length, rest) = self.rest.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(length))?;
        let (&length, rest) = rest.split_first_chunk::<2>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(length)))?;
        self.rest = rest;
        Some((name, value))
    }

    fn next_line(&mut self) -> Option<&'a [u8]> {
        let end = memmem::find(self.rest, LINE_END)?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + LINE_END.len()..];
        (!line.is_empty()).then_some(line)
    }

    /// The status in the first line, if it is one.
    fn read_first_line(&mut self) -> Option<&'a [u8]> {
        self.layout = Layout::Lines;
        let line = self
            .next_line()
            .and_then(|line| line.strip_prefix(BLOCK_VERSION));
        if line.is_none() {
            self.rest = &[];
        }
        let status = line?.trim_ascii();
        (!status.is_empty() && is_value(status)).then_some(status)
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.layout == Layout::Pairs {
            return self.next_pair();
        }
        if self.layout == Layout::Block
            && let Some(status) = self.read_first_line()
        {
            return Some((STATUS, status));
        }
        // Ends because each round takes a line.
        while let Some(line) = self.next_line() {
            let Some(colon) = memchr(b':', line) else {
                continue;
            };
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            let value = value.strip_prefix(b" ").unwrap_or(value);
            if is_name(name) && is_value(value) {
                return Some((name, value));
            }
        }
        self.rest = &[];
        None
    }
}

/// Whether bytes can be a header's name.
pub fn is_name(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    !name.is_empty()
        && name.len() <= usize::from(u8::MAX)
        && bytes.all(|&byte| (b'!'..=b'~').contains(&byte) && byte != b':')
}

/// Whether bytes can be a header's value.
pub fn is_value(value: &[u8]) -> bool {
    let mut bytes = value.iter();
    value.len() <= usize::from(u16::MAX) && bytes.all(|byte| !matches!(byte, b'\r' | b'\n' | 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(block: &[u8], expected: &[(&str, &str)]) {
        let headers = Headers::of_block(block);
        let read: Vec<_> = headers
            .map(|(name, value)| {
                (
                    name.escape_ascii().to_string(),
                    value.escape_ascii().to_string(),
                )
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        assert_eq!(read, expected, "{}", block.escape_ascii());
    }

    #[test]
    fn blocks_are_read_as_pairs() {
        check(b"NATS/1.0\r\n\r\n", &[]);
        check(
            b"NATS/1.0\r\nA: b\r\nC:d\r\nA:  e \r\n\r\n",
            &[("A", "b"), ("C", "d"), ("A", " e ")],
        );
        check(b"NATS/1.0 503\r\n\r\n", &[("NATS-Status", "503")]);
        check(
            b"NATS/1.0 404 No Messages\r\nA: b\r\n\r\n",
            &[("NATS-Status", "404 No Messages"), ("A", "b")],
        );
        check(b"NATS/1.0\r\nA: b:c\r\n\r\n", &[("A", "b:c")]);
    }

    #[test]
    fn what_cannot_be_a_header_elsewhere_is_left_out() {
        for nothing in [
            &b""[..],
            b"abc",
            b"NATS/1.0",
            b"NATS/1",
            b"NATS/2.0\r\nA: b\r\n\r\n",
            b"\r\nA: b\r\n\r\n",
        ] {
            check(nothing, &[]);
        }
        check(
            b"NATS/1.0\r\nMy Name: x\r\n: y\r\nno colon\r\nZ: \0\r\nA: b\r\n\r\nB: behind the end\r\n",
            &[("A", "b")],
        );
        let long = format!("NATS/1.0\r\n{}: x\r\nA: b\r\n\r\n", "n".repeat(256));
        check(long.as_bytes(), &[("A", "b")]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_block_that_stays_as_it_is(
            block in prop::collection::vec(any::<u8>(), 0..200),
            is_opened: bool,
        ) {
            let block = if is_opened { [BLOCK_VERSION, &block].concat() } else { block };
            let headers = Headers::of_block(&block);
            let mut out = Vec::new();
            headers.write_block(&mut out);
            prop_assert_eq!(&out, &block);
            prop_assert_eq!(headers.block_length(), block.len());
            prop_assert!(headers.are_valid());
            let mut pairs = Vec::new();
            headers.write_pairs(&mut pairs);
            prop_assert!(headers.eq(Headers::of_pairs(&pairs)));
        }

        #[test]
        fn pairs_are_read_out_of_the_block_that_they_are_written_as(
            names in prop::collection::vec("[!-9;-~]{1,9}", 0..5),
            values in prop::collection::vec("[!-~][ -~]{0,9}", 5),
            status in prop::option::of("[0-9]{3}"),
        ) {
            let status = status.as_deref().map(|status| (STATUS, status.as_bytes()));
            let named = names.iter().map(|name| name.as_bytes());
            let headers = status.into_iter().chain(named.zip(values.iter().map(|value| value.as_bytes())));
            let mut pairs = Vec::new();
            for (name, value) in headers {
                pairs.push(name.len() as u8);
                pairs.extend_from_slice(name);
                pairs.extend_from_slice(&(value.len() as u16).to_le_bytes());
                pairs.extend_from_slice(value);
            }
            let headers = Headers::of_pairs(&pairs);
            let mut block = Vec::new();
            headers.write_block(&mut block);
            prop_assert_eq!(headers.block_length(), block.len());
            prop_assert!(headers.eq(Headers::of_block(&block)));
        }
    }
}
