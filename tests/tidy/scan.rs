//! Rust text to lines whose code and comments are told apart, without a parser.
//!
//! Knows strings, characters, comments and braces: enough to find a word in code that is not in a string, the end of an
//! item, and what is compiled only for tests. It knows no rule.

/// One line of a file.
#[derive(Debug, Default)]
pub struct Line {
    /// Without comments, and with empty strings in place of the strings.
    pub code: String,
    /// The text of its comments.
    pub comment: String,
    /// Whether it is compiled only for tests.
    pub is_test: bool,
}

/// One Rust file.
#[derive(Debug)]
pub struct Source {
    /// Relative to the root of the repository, with `/`.
    pub path: String,
    /// Its lines; line 1 is at index 0.
    pub lines: Vec<Line>,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The index of the line with its `fn`.
    pub first: usize,
    /// How many lines it has, with its signature and its last brace.
    pub lines: usize,
}

/// Where the scanner is inside the text.
enum State {
    Code,
    LineComment,
    BlockComment { depth: usize },
    String { raw_hashes: Option<usize> },
}

impl Source {
    /// Splits a file's text.
    pub fn parse(path: &str, text: &str) -> Source {
        let mut source = Source {
            path: path.to_string(),
            lines: split(text),
        };
        let whole = path.ends_with("_tests.rs")
            || path
                .split('/')
                .any(|part| matches!(part, "tests" | "benches" | "fuzz" | "tests.rs"));
        for line in &mut source.lines {
            line.is_test = whole;
        }
        source.mark_tests();
        source
    }

    /// Every function with a body, also one inside another.
    pub fn functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        for (first, line) in self.lines.iter().enumerate() {
            for start in word_starts(&line.code, "fn") {
                let name = line.code[start + 2..].trim_start();
                let name: String = name
                    .chars()
                    .take_while(|character| is_word(*character))
                    .collect();
                if name.is_empty() {
                    continue;
                }
                if let Some((last, true)) = self.item_end(first, start) {
                    functions.push(Function {
                        name,
                        first,
                        lines: last - first + 1,
                    });
                }
            }
        }
        functions
    }

    /// The comments directly above a line, attributes and further lines of its statement skipped.
    pub fn comment_above(&self, index: usize) -> String {
        let mut comments = Vec::new();
        for line in self.lines[..index].iter().rev() {
            let code = line.code.trim();
            let in_statement = !code.is_empty() && !code.ends_with([';', '{', '}', ',']);
            if code.is_empty() && !line.comment.is_empty() {
                comments.push(line.comment.as_str());
            } else if !comments.is_empty() || !(in_statement || code.starts_with("#[")) {
                break;
            }
        }
        comments.reverse();
        comments.join("\n")
    }

    fn mark_tests(&mut self) {
        for first in 0..self.lines.len() {
            let code = &self.lines[first].code;
            let Some(start) = code
                .find("#[cfg(test)]")
                .or_else(|| code.find("#[cfg(all(test"))
            else {
                continue;
            };
            let after = start + "#[cfg(test)]".len();
            let last = self
                .item_end(first, after)
                .map_or(self.lines.len() - 1, |(last, _)| last);
            self.lines[first..=last]
                .iter_mut()
                .for_each(|line| line.is_test = true);
        }
    }

    /// The line where the item ends that begins at a place, and whether it has a body in braces.
    fn item_end(&self, first: usize, column: usize) -> Option<(usize, bool)> {
        let mut round = 0isize;
        let mut curly = 0isize;
        for (index, line) in self.lines.iter().enumerate().skip(first) {
            let from = if index == first { column } else { 0 };
            for character in line.code.get(from..).unwrap_or("").chars() {
                match character {
                    '(' | '[' => round += 1,
                    ')' | ']' => round -= 1,
                    '{' => curly += 1,
                    '}' => curly -= 1,
                    ';' if round <= 0 && curly == 0 => return Some((index, false)),
                    _ => {}
                }
                if character == '}' && curly <= 0 && round <= 0 {
                    return Some((index, true));
                }
            }
        }
        None
    }
}

/// Whether a character can be part of a name.
pub fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Where a word stands in code, not as a part of a longer one.
pub fn word_starts<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(start, _)| start)
        .filter(move |start| {
            let before = code[..*start].chars().next_back();
            let after = code[start + word.len()..].chars().next();
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        })
}

/// Whether a word stands in code.
pub fn has_word(code: &str, word: &str) -> bool {
    word_starts(code, word).next().is_some()
}

fn split(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut state = State::Code;
    for raw in text.lines() {
        let mut line = Line::default();
        let characters: Vec<char> = raw.chars().collect();
        let mut at = 0;
        while at < characters.len() {
            at += step(&mut state, &characters[at..], &mut line);
        }
        if matches!(state, State::LineComment) {
            state = State::Code;
        }
        lines.push(line);
    }
    lines
}

/// Takes the next characters of a line, at least one, and returns how many.
fn step(state: &mut State, rest: &[char], line: &mut Line) -> usize {
    let two = (rest[0], rest.get(1).copied().unwrap_or('\n'));
    match state {
        State::Code => step_code(state, rest, line),
        State::LineComment => {
            line.comment.push(rest[0]);
            1
        }
        State::BlockComment { depth } => {
            match two {
                ('/', '*') => *depth += 1,
                ('*', '/') if *depth == 1 => *state = State::Code,
                ('*', '/') => *depth -= 1,
                _ => {
                    line.comment.push(rest[0]);
                    return 1;
                }
            }
            2
        }
        State::String { raw_hashes: None } => match two {
            ('\\', _) => 2,
            ('"', _) => {
                line.code.push('"');
                *state = State::Code;
                1
            }
            _ => 1,
        },
        State::String {
            raw_hashes: Some(hashes),
        } => {
            let closing = rest
                .iter()
                .skip(1)
                .take_while(|character| **character == '#')
                .count();
            if rest[0] != '"' || closing < *hashes {
                return 1;
            }
            let taken = 1 + *hashes;
            line.code.push('"');
            *state = State::Code;
            taken
        }
    }
}

fn step_code(state: &mut State, rest: &[char], line: &mut Line) -> usize {
    match (rest[0], rest.get(1).copied().unwrap_or('\n')) {
        ('/', '/') => {
            *state = State::LineComment;
            2
        }
        ('/', '*') => {
            *state = State::BlockComment { depth: 1 };
            2
        }
        ('"', _) => {
            line.code.push('"');
            *state = State::String { raw_hashes: None };
            1
        }
        ('r', '"' | '#')
            if !line
                .code
                .ends_with(|character| is_word(character) && character != 'b') =>
        {
            let hashes = rest
                .iter()
                .skip(1)
                .take_while(|character| **character == '#')
                .count();
            line.code.push('r');
            if rest.get(1 + hashes) != Some(&'"') {
                return 1;
            }
            line.code.push('"');
            *state = State::String {
                raw_hashes: Some(hashes),
            };
            2 + hashes
        }
        // A character, else a lifetime or a label.
        ('\'', '\\') => {
            let end = rest.iter().skip(3).position(|character| *character == '\'');
            end.map_or(rest.len(), |end| end + 4)
        }
        ('\'', _) if rest.get(2) == Some(&'\'') => 3,
        (character, _) => {
            line.code.push(character);
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<String> {
        split(text).into_iter().map(|line| line.code).collect()
    }

    #[test]
    fn strings_and_comments_are_no_code() {
        assert_eq!(codes("a \"b // c\" d // e"), ["a \"\" d "]);
        assert_eq!(codes("a r#\"b \" c\"# d"), ["a r\"\" d"]);
        assert_eq!(codes("a b\"c\\\"d\" e"), ["a b\"\" e"]);
        assert_eq!(codes("a br\"\\\" e"), ["a br\"\" e"]);
        assert_eq!(codes("a \"b\nc\nd\" e"), ["a \"", "", "\" e"]);
        assert_eq!(codes("a /* b /* c */\nd */ e"), ["a ", " e"]);
        assert_eq!(codes("'\"' '\\'' 'a 'b: '{'"), ["  'a 'b: "]);
        assert_eq!(split("a // b")[0].comment, " b");
    }

    #[test]
    fn functions_are_measured_from_fn_to_last_brace() {
        let text = "fn a() {\n  \"}\";\n}\ntrait T { fn b(&self); }\nfn c<F: Fn()>(\n x: [u8; 4],\n) where F: Copy {\n}\n";
        let functions = Source::parse("src/x.rs", text).functions();
        let measured: Vec<_> = functions
            .iter()
            .map(|f| (f.name.as_str(), f.first, f.lines))
            .collect();
        assert_eq!(measured, [("a", 0, 3), ("c", 4, 4)]);
    }

    #[test]
    fn only_the_item_under_cfg_test_is_test() {
        let text = "fn a() {}\n#[cfg(test)]\nuse b;\nfn c() {}\n#[cfg(test)]\nmod d {\n fn e() {}\n}\nfn f() {}\n";
        let is_test: Vec<_> = Source::parse("src/x.rs", text)
            .lines
            .iter()
            .map(|line| line.is_test)
            .collect();
        assert_eq!(
            is_test,
            [false, true, true, false, true, true, true, true, false]
        );
        let is_test = |path| Source::parse(path, "fn a() {}").lines[0].is_test;
        assert!(is_test("tests/x.rs") && is_test("src/x_tests.rs") && is_test("src/x/tests.rs"));
        assert!(!is_test("src/tests_x.rs") && !is_test("src/contests.rs"));
    }
}
