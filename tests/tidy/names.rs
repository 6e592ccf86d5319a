//! No two types of `core` share a name: whoever reads one, or searches for it, means one thing.

use super::Finding;
use super::scan::{Source, is_word};
use std::collections::BTreeMap;

/// Types of `core` whose name an earlier file has already; those of traits' items and of tests are free.
pub fn core_types_have_names_of_their_own(sources: &[Source]) -> Vec<Finding> {
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    let mut findings = Vec::new();
    let is_core = |source: &&Source| {
        let path = source.path.as_str();
        path.starts_with("src/core/") && !path.ends_with("tests.rs")
    };
    for source in sources.iter().filter(is_core) {
        for (index, line) in source.lines.iter().enumerate() {
            let Some(name) = declared(&line.code).filter(|_| !line.is_test) else {
                continue;
            };
            let other = *first.entry(name).or_insert(&source.path);
            if other != source.path {
                findings.push(Finding {
                    path: source.path.clone(),
                    line: index + 1,
                    what: format!("{name} is a type of {other}, too"),
                });
            }
        }
    }
    findings
}

/// The type that a line of code declares. What is indented is inside of something else.
fn declared(code: &str) -> Option<&str> {
    let code = code
        .strip_prefix("pub(crate) ")
        .or_else(|| code.strip_prefix("pub(super) "))
        .or_else(|| code.strip_prefix("pub "))
        .unwrap_or(code);
    let kinds = ["struct ", "enum ", "trait ", "type "];
    let rest = kinds.iter().find_map(|kind| code.strip_prefix(kind))?;
    rest.split(|character| !is_word(character)).next()
}

#[test]
fn types_of_one_name_are_found() {
    let source = |path: &str, text: &str| Source::parse(path, text);
    let sources = [
        source("src/core/a.rs", "pub struct Peer {}\nenum One {}\n"),
        source(
            "src/core/b.rs",
            "\npub(crate) enum Peer {}\nimpl Iterator for One {\n    type Item = u8;\n}\n",
        ),
        source(
            "src/core/c.rs",
            "struct Two;\n#[cfg(test)]\nmod tests {\n    struct Peer;\n}\n",
        ),
        source("src/core/c_tests.rs", "struct Peer;\n"),
        source("src/wire/a.rs", "struct Peer;\n"),
    ];
    let found = core_types_have_names_of_their_own(&sources);
    let places: Vec<(&str, usize)> = found
        .iter()
        .map(|one| (one.path.as_str(), one.line))
        .collect();
    assert_eq!(places, [("src/core/b.rs", 2)]);
}
