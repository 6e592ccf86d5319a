//! Where a reader of a stream was, in a form that clients keep.
//!
//! Owns its text. Must not know whether it still means something: whoever reads the stream says that.

use super::{Lineage, Sequence, StreamNumber};
use std::fmt;
use std::str::FromStr;

/// The last message that a reader had. Of another lineage or creation it means nothing, and the reader is told `reset`.
///
/// As text: 16 hexadecimal digits, the stream's number and the sequence, with `-` between: `00000000000000a7-3-1024`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumeToken {
    /// That of the data directory.
    pub lineage: Lineage,
    /// The stream's creation.
    pub stream: StreamNumber,
    /// The last message that was read; 0 before the first.
    pub sequence: Sequence,
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.lineage, self.stream, self.sequence)
    }
}

/// The text is no token. Nothing is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenError;

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a resume token is what the broker gave with a message, such as 00000000000000a7-3-1024")
    }
}

impl std::error::Error for TokenError {}

impl FromStr for ResumeToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<ResumeToken, TokenError> {
        let mut parts = text.split('-');
        let mut next = || parts.next().ok_or(TokenError);
        let (lineage, stream, sequence) = (next()?, next()?, next()?);
        let is_canonical = lineage.len() == 16 && parts.next().is_none();
        let token = ResumeToken {
            lineage: Lineage(u64::from_str_radix(lineage, 16).map_err(|_| TokenError)?),
            stream: StreamNumber(stream.parse().map_err(|_| TokenError)?),
            sequence: Sequence(sequence.parse().map_err(|_| TokenError)?),
        };
        // What `parse` takes beside, such as a sign or leading zeros, was never given out.
        (is_canonical && token.to_string() == text)
            .then_some(token)
            .ok_or(TokenError)
    }
}
