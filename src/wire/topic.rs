//! Names of topics, and how patterns match them.
//!
//! A topic is bytes, at most [`TOPIC_BYTES_MAX`](crate::limits::TOPIC_BYTES_MAX) long, in at most
//! [`TOPIC_TOKENS_MAX`](crate::limits::TOPIC_TOKENS_MAX) tokens separated by `.`. Two kinds of
//! patterns match topics: globs as Redis has them ([`Glob`](crate::glob::Glob)) and token wildcards as NATS
//! has them ([`wildcard_matches`]). The matchers compare one pattern with one topic; the
//! broker's index in `sapwood-core` must agree with them on every input.

use crate::limits::{TOPIC_BYTES_MAX, TOPIC_TOKENS_MAX};
use std::fmt;

/// Why a name cannot be a topic. Nothing was changed by the request that carried it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicError {
    /// Longer than `TOPIC_BYTES_MAX`; holds the length in bytes.
    TooLong(usize),
    /// More than `TOPIC_TOKENS_MAX` tokens; holds their number.
    TooManyTokens(usize),
    /// A wildcard with `>` before its last token.
    TailNotLast,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicError::TooLong(bytes) => {
                write!(
                    f,
                    "the name has {bytes} bytes, at most {TOPIC_BYTES_MAX} are allowed"
                )
            }
            TopicError::TooManyTokens(tokens) => write!(
                f,
                "the name has {tokens} tokens separated by '.', at most {TOPIC_TOKENS_MAX} are allowed"
            ),
            TopicError::TailNotLast => write!(f, "'>' is only allowed as the last token"),
        }
    }
}

impl std::error::Error for TopicError {}

/// Checks the size of a topic, pattern or wildcard. Any bytes are legal, the empty name too.
pub fn check_name(name: &[u8]) -> Result<(), TopicError> {
    if name.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong(name.len()));
    }
    // A name shorter than the cap on tokens cannot have too many of them.
    if name.len() >= TOPIC_TOKENS_MAX {
        let tokens = memchr::memchr_iter(b'.', name).count() + 1;
        if tokens > TOPIC_TOKENS_MAX {
            return Err(TopicError::TooManyTokens(tokens));
        }
    }
    Ok(())
}

/// Checks a token wildcard: a name in which `>` stands at most once, as the last token.
pub fn check_wildcard(name: &[u8]) -> Result<(), TopicError> {
    check_name(name)?;
    let mut tokens = name.split(|&byte| byte == b'.').peekable();
    while let Some(token) = tokens.next() {
        if token == b">" && tokens.peek().is_some() {
            return Err(TopicError::TailNotLast);
        }
    }
    Ok(())
}

/// Whether a filter of a native or NATS subscription is a wildcard: one of its tokens is `*`, or
/// its last is `>`. If not, it is the topic itself. A `>` before the end makes it a wildcard too,
/// which [`check_wildcard`] refuses.
pub fn is_wildcard(filter: &[u8]) -> bool {
    let mut tokens = filter.split(|&byte| byte == b'.');
    tokens.any(|token| token == b"*" || token == b">")
}

/// Whether the broker keeps this name for itself: clients cannot publish there.
pub fn is_reserved(topic: &[u8]) -> bool {
    topic.first() == Some(&b'$')
}

/// Whether a pattern may see a topic at all: names that start with `$` are seen only by
/// patterns that start with `$` too.
pub fn pattern_may_see(pattern: &[u8], topic: &[u8]) -> bool {
    !is_reserved(topic) || is_reserved(pattern)
}

/// Whether a token wildcard matches a topic: `*` is exactly one token, `>` one or more at the end.
///
/// ```
/// use sapwood_wire::topic::wildcard_matches;
/// assert!(wildcard_matches(b"orders.*.paid", b"orders.7.paid"));
/// assert!(wildcard_matches(b"orders.>", b"orders.7.paid"));
/// assert!(!wildcard_matches(b"orders.>", b"orders"));
/// ```
pub fn wildcard_matches(wildcard: &[u8], topic: &[u8]) -> bool {
    if !pattern_may_see(wildcard, topic) {
        return false;
    }
    let mut tokens = topic.split(|&byte| byte == b'.');
    for expected in wildcard.split(|&byte| byte == b'.') {
        match tokens.next() {
            Some(_) if expected == b">" => return true,
            Some(token) if expected == b"*" || expected == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// Whether some topic is matched by both wildcards, or filters without wildcards, such as [`check_wildcard`] takes.
///
/// ```
/// use sapwood_wire::topic::wildcards_overlap;
/// assert!(wildcards_overlap(b"orders.*.paid", b"orders.7.>"));
/// assert!(!wildcards_overlap(b"orders.*", b"orders.7.paid"));
/// ```
pub fn wildcards_overlap(one: &[u8], other: &[u8]) -> bool {
    // `$` names are seen by nothing that begins otherwise.
    if is_reserved(one) != is_reserved(other) {
        return false;
    }
    let mut ones = one.split(|&byte| byte == b'.');
    let mut others = other.split(|&byte| byte == b'.');
    // Ends with the shorter of both.
    loop {
        match (ones.next(), others.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if a == b">" || b == b">" => return true,
            (Some(a), Some(b)) if a == b || a == b"*" || b == b"*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wildcards_match_whole_tokens() {
        let cases: &[(&str, &str, bool)] = &[
            (">", "a", true),
            (">", "", true),
            ("*", "", true),
            ("*", "a.b", false),
            ("a.*", "a", false),
            ("a.*", "a.", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.b.d", false),
            ("a*", "ab", false),
            (">", "$kv.t", false),
            ("*.t", "$kv.t", false),
            ("$kv.>", "$kv.t", true),
        ];
        for &(wildcard, topic, expected) in cases {
            let matched = wildcard_matches(wildcard.as_bytes(), topic.as_bytes());
            assert_eq!(matched, expected, "{wildcard:?} on {topic:?}");
        }
    }

    #[test]
    fn filters_are_wildcards_by_whole_tokens() {
        let cases: &[(&str, bool)] = &[
            ("", false),
            ("a", false),
            ("a.b", false),
            ("*", true),
            (">", true),
            ("*.a", true),
            ("a.*", true),
            ("a.*.b", true),
            ("a.>", true),
            (".*", true),
            ("*.", true),
            ("..>", true),
            ("$kv.*", true),
            ("a*", false),
            ("*a", false),
            ("**", false),
            (">>", false),
            ("*>", false),
            ("a>", false),
            ("a.b*.c", false),
            ("a.>b", false),
            ("?", false),
            ("[a]", false),
            // Refused by `check_wildcard`, which must be asked and so must see it.
            (">.a", true),
        ];
        for &(filter, expected) in cases {
            assert_eq!(is_wildcard(filter.as_bytes()), expected, "{filter:?}");
        }
    }

    #[test]
    fn names_are_capped() {
        assert_eq!(check_name(&[b'a'; TOPIC_BYTES_MAX]), Ok(()));
        let long = vec![b'a'; TOPIC_BYTES_MAX + 1];
        assert_eq!(
            check_name(&long),
            Err(TopicError::TooLong(TOPIC_BYTES_MAX + 1))
        );
        assert_eq!(check_name(&[b'.'; TOPIC_TOKENS_MAX - 1]), Ok(()));
        let deep = vec![b'.'; TOPIC_TOKENS_MAX];
        assert_eq!(
            check_name(&deep),
            Err(TopicError::TooManyTokens(TOPIC_TOKENS_MAX + 1))
        );
        assert_eq!(check_wildcard(b"a.>.b"), Err(TopicError::TailNotLast));
        assert_eq!(check_wildcard(b"a.*.>"), Ok(()));
    }

    /// Matches tokens by recursion from the front.
    fn oracle_wildcard(wildcard: &[&[u8]], topic: &[&[u8]]) -> bool {
        match (wildcard.first(), topic.first()) {
            (None, None) => true,
            (Some(w), Some(_)) if *w == b">" => wildcard.len() == 1,
            (Some(w), Some(t)) if *w == b"*" || w == t => {
                oracle_wildcard(&wildcard[1..], &topic[1..])
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn wildcards_overlap_where_a_topic_matches_both(one in "[ab*](\\.[ab*]){0,2}(\\.>)?", other in "[ab*](\\.[ab*]){0,2}(\\.>)?") {
            // Every topic of two tokens' alphabet and the longest length that matters.
            let mut topics: Vec<Vec<u8>> = vec![vec![]];
            let mut found = false;
            for _ in 0..4 {
                let longer = topics.iter().flat_map(|topic| {
                    [b'a', b'b', b'c'].map(|byte| {
                        let mut next = topic.clone();
                        if !next.is_empty() {
                            next.push(b'.');
                        }
                        next.push(byte);
                        next
                    })
                });
                topics = longer.collect();
                found |= topics.iter().any(|topic| {
                    wildcard_matches(one.as_bytes(), topic) && wildcard_matches(other.as_bytes(), topic)
                });
            }
            prop_assert_eq!(wildcards_overlap(one.as_bytes(), other.as_bytes()), found);
            prop_assert_eq!(wildcards_overlap(other.as_bytes(), one.as_bytes()), found);
        }

        #[test]
        fn only_wildcards_match_more_than_themselves(filter in "[ab*>$]{0,2}(\\.[ab*>]{0,2}){0,4}", topic in "[ab*>$]{0,2}(\\.[ab*>]{0,2}){0,4}") {
            let (filter, topic) = (filter.as_bytes(), topic.as_bytes());
            if !is_wildcard(filter) {
                prop_assert_eq!(check_wildcard(filter), Ok(()));
                prop_assert_eq!(wildcard_matches(filter, topic), filter == topic);
            } else if check_wildcard(filter).is_ok() {
                let tokens = filter.split(|&byte| byte == b'.');
                let filled: Vec<&[u8]> = tokens
                    .map(|token| if matches!(token, b"*" | b">") { b"x" } else { token })
                    .collect();
                let filled = filled.join(&b'.');
                prop_assert_ne!(&filled, filter);
                prop_assert!(wildcard_matches(filter, &filled));
            }
        }

        #[test]
        fn wildcard_agrees_with_the_oracle(wildcard in "([ab]|\\*)?(\\.([ab]|\\*)?){0,3}(\\.>)?", topic in "[ab]?(\\.[ab]?){0,4}") {
            let expected: Vec<&[u8]> = wildcard.as_bytes().split(|&b| b == b'.').collect();
            let tokens: Vec<&[u8]> = topic.as_bytes().split(|&b| b == b'.').collect();
            prop_assert_eq!(
                wildcard_matches(wildcard.as_bytes(), topic.as_bytes()),
                oracle_wildcard(&expected, &tokens)
            );
        }
    }
}
