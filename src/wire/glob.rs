//! Globs as Redis has them: `*`, `?`, `[a-c]`, `[^a]` and `\` as an escape.
//!
//! A glob is parsed once into the parts between its stars. The first part is compared with the beginning of a name and
//! the last with its end; each part between is looked for behind the one before it, at its first occurrence. So a match
//! never goes back, and its cost is known beforehand: [`Glob::cost`]. Agrees with Redis 7 on malformed patterns too (an
//! unclosed class ends with the pattern, a trailing `\` is a literal). Start at [`Glob::matches`].

use crate::limits::TOPIC_BYTES_MAX;
use crate::topic::{is_reserved, pattern_may_see};
use memchr::memmem::Finder;

/// Cost of trying any glob, in steps of about a nanosecond.
const COST_EACH: u64 = 16;

/// Cost of looking for literal parts in a name of the greatest length: several bytes are compared at once, fewer where
/// the name holds many beginnings of the part.
const COST_FIND: u64 = TOPIC_BYTES_MAX as u64 / 4;

/// A part of a glob without a star: so many elements, of which each matches one byte.
#[derive(Clone, Debug)]
enum Part {
    /// Each element is a literal byte.
    Literal(Box<[u8]>),
    /// The elements as they are written, and their number.
    Elements(Box<[u8]>, usize),
}

impl Part {
    fn new(pattern: &[u8]) -> Part {
        let mut literal = Vec::new();
        let (mut at, mut count) = (0, 0);
        let mut is_literal = true;
        while at < pattern.len() {
            match pattern[at] {
                b'?' | b'[' => is_literal = false,
                b'\\' if at + 1 < pattern.len() => literal.push(pattern[at + 1]),
                byte => literal.push(byte),
            }
            at = match_one(pattern, at, 0).1;
            count += 1;
        }
        match is_literal {
            true => Part::Literal(literal.into()),
            false => Part::Elements(pattern.into(), count),
        }
    }

    /// Steps that one comparison takes at most: a class is looked through for each byte.
    fn steps(&self) -> usize {
        match self {
            Part::Literal(literal) => literal.len(),
            Part::Elements(pattern, _) => pattern.len(),
        }
    }

    /// Bytes of a name that it matches.
    fn len(&self) -> usize {
        match self {
            Part::Literal(literal) => literal.len(),
            Part::Elements(_, count) => *count,
        }
    }

    /// Whether it matches these bytes, which are as many as its elements.
    fn matches(&self, bytes: &[u8]) -> bool {
        match self {
            Part::Literal(literal) => **literal == *bytes,
            Part::Elements(pattern, _) => {
                let mut at = 0;
                bytes.iter().all(|&byte| {
                    let (is_match, next) = match_one(pattern, at, byte);
                    at = next;
                    is_match
                })
            }
        }
    }
}

/// A part between two stars, which is looked for.
#[derive(Clone, Debug)]
enum Sought {
    Literal(Box<Finder<'static>>),
    Elements(Part),
}

impl Sought {
    /// Where it ends in a name, where it comes first.
    fn end_in(&self, name: &[u8]) -> Option<usize> {
        match self {
            Sought::Literal(finder) => {
                let start = finder.find(name)?;
                Some(start + finder.needle().len())
            }
            Sought::Elements(part) => {
                let mut windows = name.windows(part.len());
                windows
                    .position(|window| part.matches(window))
                    .map(|start| start + part.len())
            }
        }
    }
}

/// A parsed glob.
#[derive(Clone, Debug)]
pub struct Glob {
    is_reserved: bool,
    /// What a name begins with.
    first: Part,
    /// What follows behind the first star; none if there is no star.
    rest: Option<Rest>,
}

#[derive(Clone, Debug)]
struct Rest {
    between: Box<[Sought]>,
    /// What a name ends with.
    last: Part,
}

impl Glob {
    /// Parses a pattern. Any bytes are one.
    pub fn new(pattern: &[u8]) -> Glob {
        let mut parts: Vec<Part> = Vec::new();
        let (mut start, mut at) = (0, 0);
        while at < pattern.len() {
            if pattern[at] == b'*' {
                parts.push(Part::new(&pattern[start..at]));
                at += 1;
                start = at;
            } else {
                at = match_one(pattern, at, 0).1;
            }
        }
        let last = Part::new(&pattern[start..]);
        let mut parts = parts.into_iter();
        let (first, rest) = match parts.next() {
            None => (last, None),
            Some(first) => {
                let between = parts.filter(|part| part.len() > 0).map(|part| match part {
                    Part::Literal(literal) => {
                        Sought::Literal(Box::new(Finder::new(&*literal).into_owned()))
                    }
                    elements => Sought::Elements(elements),
                });
                let between = between.collect();
                (first, Some(Rest { between, last }))
            }
        };
        Glob {
            is_reserved: is_reserved(pattern),
            first,
            rest,
        }
    }

    /// The literal bytes that every matching name begins with.
    pub fn prefix(&self) -> &[u8] {
        match &self.first {
            Part::Literal(literal) => literal,
            Part::Elements(pattern, _) => {
                let special = pattern.iter().position(|byte| b"?[\\".contains(byte));
                &pattern[..special.unwrap_or(pattern.len())]
            }
        }
    }

    /// The most that a match costs, in steps of about a nanosecond, whatever the name.
    pub fn cost(&self) -> u64 {
        let mut cost = COST_EACH + self.first.steps() as u64;
        let Some(rest) = &self.rest else {
            return cost;
        };
        cost += rest.last.steps() as u64;
        // Each begins where the one before ended, so literals look at a name once, however many they are.
        let mut finds = false;
        for part in &rest.between {
            cost += COST_EACH;
            match part {
                Sought::Literal(finder) => {
                    finds = true;
                    cost += finder.needle().len() as u64;
                }
                Sought::Elements(part) => cost += (part.steps() * TOPIC_BYTES_MAX) as u64,
            }
        }
        cost + if finds { COST_FIND } else { 0 }
    }

    /// Whether it matches a topic. Names that start with `$` are seen only by patterns that start with `$` too.
    ///
    /// ```
    /// use sapwood_wire::glob::Glob;
    /// assert!(Glob::new(b"news.*").matches(b"news.art.paris"));
    /// assert!(Glob::new(b"h[ae]llo").matches(b"hallo"));
    /// assert!(!Glob::new(b"h[^e]llo").matches(b"hello"));
    /// ```
    pub fn matches(&self, topic: &[u8]) -> bool {
        (self.is_reserved || !is_reserved(topic)) && self.matches_text(topic)
    }

    /// Like [`matches`](Glob::matches), for any text: listings show names that start with `$` too.
    pub fn matches_text(&self, text: &[u8]) -> bool {
        let Some(behind) = text.len().checked_sub(self.first.len()) else {
            return false;
        };
        if !self.first.matches(&text[..self.first.len()]) {
            return false;
        }
        let Some(Rest { between, last }) = &self.rest else {
            return behind == 0;
        };
        // As redis-server has it: no `*` matches the empty name.
        if text.is_empty() || behind < last.len() {
            return false;
        }
        let (mut middle, end) = text[self.first.len()..].split_at(behind - last.len());
        if !last.matches(end) {
            return false;
        }
        between.iter().all(|part| match part.end_in(middle) {
            Some(end) => {
                middle = &middle[end..];
                true
            }
            None => false,
        })
    }
}

/// Whether a glob matches a topic, for those that are tried once.
pub fn matches(pattern: &[u8], topic: &[u8]) -> bool {
    pattern_may_see(pattern, topic) && Glob::new(pattern).matches_text(topic)
}

/// The most that a match of this pattern costs: [`Glob::cost`].
pub fn cost(pattern: &[u8]) -> u64 {
    Glob::new(pattern).cost()
}

/// Matches one byte against the pattern element at `p`; gives where the next element begins.
fn match_one(pattern: &[u8], p: usize, byte: u8) -> (bool, usize) {
    match pattern[p] {
        b'?' => (true, p + 1),
        b'[' => match_class(pattern, p + 1, byte),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte, p + 2),
        literal => (literal == byte, p + 1),
    }
}

/// Matches one byte against the class whose first element stands at `p`, behind the `[`.
fn match_class(pattern: &[u8], mut p: usize, byte: u8) -> (bool, usize) {
    let negated = pattern.get(p) == Some(&b'^');
    if negated {
        p += 1;
    }
    let mut matched = false;
    while p < pattern.len() {
        if pattern[p] == b'\\' && p + 1 < pattern.len() {
            matched |= pattern[p + 1] == byte;
            p += 2;
        } else if pattern[p] == b']' {
            p += 1;
            break;
        } else if p + 2 < pattern.len() && pattern[p + 1] == b'-' {
            let (low, high) = (
                pattern[p].min(pattern[p + 2]),
                pattern[p].max(pattern[p + 2]),
            );
            matched |= (low..=high).contains(&byte);
            p += 3;
        } else {
            matched |= pattern[p] == byte;
            p += 1;
        }
    }
    (matched != negated, p)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs_match_as_redis_documents() {
        let cases: &[(&str, &str, bool)] = &[
            ("*", "", false),
            ("", "", true),
            ("", "a", false),
            ("a*", "a", true),
            ("a**b", "ab", true),
            ("*a*b*c", "xaybzc", true),
            ("*a*b*c", "xaybz", false),
            ("h?llo", "hallo", true),
            ("h?llo", "hllo", false),
            ("h[a-e]llo", "hbllo", true),
            ("h[e-a]llo", "hbllo", true),
            ("h[^e]llo", "hello", false),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hello", false),
            ("trail\\", "trail\\", true),
            ("[abc", "b", true),
            ("[", "[", false),
            ("[]", "a", false),
            ("[^]", "a", true),
            ("[\\]]", "]", true),
            ("[a-]", "-", false),
            ("[a-]", "^", true),
            ("*\\", "x\\", true),
        ];
        for &(pattern, topic, expected) in cases {
            let matched = matches(pattern.as_bytes(), topic.as_bytes());
            assert_eq!(matched, expected, "{pattern:?} on {topic:?}");
        }
    }

    #[test]
    fn a_match_never_goes_back() {
        let pattern = [&b"*"[..], &[b'a'; 500], b"b*"].concat();
        let glob = Glob::new(&pattern);
        assert!(glob.cost() < 1_000, "{}", glob.cost());
        assert!(!glob.matches(&[b'a'; 1_024]));
        let stars = Glob::new("*a".repeat(500).as_bytes());
        assert!(stars.cost() < 10_000, "{}", stars.cost());
        assert!(stars.matches(&[b'a'; 1_024]));
        // Elements that are not literal are tried at each place: that is what their cost says.
        assert!(Glob::new(b"*a?b*").cost() > 3_000);
        assert!(Glob::new(b"a?b*").cost() < 100);
        // Each byte is compared with the whole of a class.
        let class = ["*[", &"a".repeat(1_000), "]*"].concat();
        assert!(Glob::new(class.as_bytes()).cost() > 1_000_000);
        let class = ["[", &"a".repeat(1_000), "]*"].concat();
        assert!(Glob::new(class.as_bytes()).cost() > 1_000);
    }

    #[test]
    fn a_prefix_is_what_every_match_begins_with() {
        let cases: &[(&str, &str)] = &[
            ("news.*", "news."),
            ("news", "news"),
            ("n\\*ws*", "n*ws"),
            ("n\\*w?", "n"),
            ("h[ae]*", "h"),
            ("*", ""),
            ("", ""),
        ];
        for &(pattern, prefix) in cases {
            assert_eq!(Glob::new(pattern.as_bytes()).prefix(), prefix.as_bytes());
        }
    }

    /// Matches by trying every way to split the topic: slow, and too plain to be wrong.
    fn oracle_glob(pattern: &[u8], topic: &[u8]) -> bool {
        match pattern.first() {
            None => topic.is_empty(),
            Some(b'*') => (0..=topic.len()).any(|n| oracle_glob(&pattern[1..], &topic[n..])),
            Some(_) if topic.is_empty() => false,
            Some(_) => {
                let (matched, next) = match_one(pattern, 0, topic[0]);
                matched && oracle_glob(&pattern[next..], &topic[1..])
            }
        }
    }

    proptest! {
        #[test]
        fn glob_agrees_with_the_oracle(pattern in "[ab*?\\[\\]^\\\\-]{0,8}", topic in "[ab\\-]{1,8}") {
            prop_assert_eq!(
                matches(pattern.as_bytes(), topic.as_bytes()),
                oracle_glob(pattern.as_bytes(), topic.as_bytes())
            );
        }

        #[test]
        fn glob_never_panics(pattern: Vec<u8>, topic: Vec<u8>) {
            matches(&pattern, &topic);
        }

        #[test]
        fn many_parts_agree_with_the_oracle(pattern in "(\\*|[ab]|a\\?){0,10}", topic in "[ab]{1,12}") {
            let glob = Glob::new(pattern.as_bytes());
            let is_match = oracle_glob(pattern.as_bytes(), topic.as_bytes());
            prop_assert_eq!(glob.matches(topic.as_bytes()), is_match);
            prop_assert!(!is_match || topic.as_bytes().starts_with(glob.prefix()));
        }
    }
}
