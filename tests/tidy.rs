//! The house rules that the compiler does not check, as an ordinary test.
//!
//! A rule is a function from files to findings. Each has a test that feeds it a bad snippet, because a rule that cannot
//! fail is no rule, and a good one that is close to bad. Exceptions stand in [`EXCEPTIONS`], each with its reason.

#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/scan.rs"]
mod scan;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use scan::{Source, has_word, is_word, word_starts};

/// The most lines of a file: what one sitting can read.
const FILE_LINES_MAX: usize = 1_000;

/// The most lines of a function: what one screen shows.
const FUNCTION_LINES_MAX: usize = 70;

/// The most files of the server that may name the runtime, which keeps it replaceable.
const RUNTIME_FILES_MAX: usize = 4;

/// Files and functions (`path` or `path:function`) that may be longer, and why.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// Which of our packages a package may use. The binary's own dev-dependencies are free: tests see everything.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("sapwood-wire", &[]),
    ("sapwood-core", &["sapwood-wire"]),
    ("sapwood-state", &["sapwood-wire"]),
    (
        "sapwood-server",
        &["sapwood-core", "sapwood-state", "sapwood-wire"],
    ),
    (
        "sapwood-sim",
        &[
            "sapwood-client",
            "sapwood-core",
            "sapwood-state",
            "sapwood-wire",
        ],
    ),
    ("sapwood-wasi", &["sapwood-core", "sapwood-wire"]),
    (
        "sapwood-fuzz",
        &["sapwood-client", "sapwood-core", "sapwood-wire"],
    ),
    ("sapwood-client", &["sapwood-wire"]),
    ("sapwood", &["sapwood-client", "sapwood-server"]),
];

/// What only the server's manifest may name.
const SERVER_ONLY: &[&str] = &["glommio", "rocksdb"];

/// Parts of `core` that must not know that there are protocols.
const PROTOCOL_BLIND: &[&str] = &["routing", "mailbox"];

/// The layers of `core`, from the lowest: a file imports only what stands before its own layer, or in it. A path is a file
/// or a directory below `src/core`; of several that fit, the longest counts.
const LAYERS: &[&str] = &[
    "limits",
    "paged_slab",
    "split_table",
    "counters",
    "command",
    "guesses",
    "form",
    "outbox",
    "tree/address",
    "tree/position",
    "routing",
    "tree/place",
    "tree/dedup",
    "tree/lane",
    "tree/links",
    "tree/news",
    "tree/notice",
    "tree/config",
    "mailbox",
    "calls",
    "worker",
    "tree/interest_sync",
    "delivery",
    "settings",
    "tree/state",
    "context",
    "tree/session",
    "session",
    "connection",
    "liveness",
    "input",
    "shard",
    "driver",
    "tree",
    "lib",
];

/// What would make `core`, `state` or `wire` something else than a function of its input.
const IMPURE: &[&str] = &[
    "std::net",
    "std::fs",
    "std::thread",
    "std::process",
    "std::env",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::hash::RandomState",
    "std::collections::hash_map",
    "std::collections::hash_set",
];

/// How many lines a group of imports is followed: more than any that rustfmt leaves in one piece here.
const GROUP_LINES_MAX: usize = 40;

/// Directories and files that are not ours to keep tidy, or that tools write. In a worktree `.git` is a file.
const SKIPPED: &[&str] = &[
    "target",
    ".git",
    ".tmp",
    "node_modules",
    "__pycache__",
    "Cargo.lock",
    "package-lock.json",
];

/// What a rule found.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// Counted from 1; 0 is the whole file.
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// A rule on one Rust file.
type Rule = fn(&Source) -> Vec<Finding>;

const RULES: &[Rule] = &[
    core_is_protocol_blind,
    machines_are_pure,
    core_layers_point_down,
    runtime_is_in_server_only,
    unsafe_has_its_reason,
    nothing_is_left_for_later,
    channels_are_bounded,
    unwrap_has_its_invariant,
    files_and_functions_are_short,
    limits_are_documented,
];

/// Findings for each line that `judge` has something to say about.
fn by_line(source: &Source, judge: impl Fn(usize, &scan::Line) -> Option<String>) -> Vec<Finding> {
    let found = source.lines.iter().enumerate().filter_map(|(index, line)| {
        let what = judge(index, line)?;
        Some(Finding {
            path: source.path.clone(),
            line: index + 1,
            what,
        })
    });
    found.collect()
}

fn core_is_protocol_blind(source: &Source) -> Vec<Finding> {
    let inside = source
        .path
        .strip_prefix("src/core/")
        .and_then(|path| path.split(['/', '.']).next());
    if !inside.is_some_and(|module| PROTOCOL_BLIND.contains(&module)) {
        return Vec::new();
    }
    by_line(source, |_, line| {
        has_word(&line.code, "session")
            .then(|| "routing and mailbox never mention session".to_string())
    })
}

/// The layer that a path of modules of `core`, such as `tree/links/Link`, belongs to. What stands in no other is the
/// root's.
fn layer_of(modules: &str) -> usize {
    let fits = |layer: &&&str| {
        let rest = modules.strip_prefix(**layer);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let longest = LAYERS.iter().filter(fits).max_by_key(|layer| layer.len());
    let place = longest.and_then(|longest| LAYERS.iter().position(|layer| layer == longest));
    place.unwrap_or(LAYERS.len() - 1)
}

/// Imports inside `core` that point up. As the layers are in a line, there are no circles where there are none.
fn core_layers_point_down(source: &Source) -> Vec<Finding> {
    let Some(file) = source.path.strip_prefix("src/core/") else {
        return Vec::new();
    };
    let modules = file.trim_end_matches(".rs").trim_end_matches("/mod");
    let parent = modules.rsplit_once('/').map_or("", |(parent, _)| parent);
    let own = layer_of(modules);
    // `pub(crate)` and `pub(super)` are no paths.
    let is_path = |(_, path): &(usize, String)| path.contains("::");
    let from_root = paths(source, "crate").into_iter().filter(is_path);
    let from_root = from_root.map(|(line, path)| (line, path["crate".len()..].to_string()));
    let from_parent = paths(source, "super").into_iter().filter(is_path);
    let from_parent = from_parent.map(|(line, path)| {
        let mut above = parent;
        let mut rest = &path["super".len()..];
        while let Some(further) = rest.strip_prefix("::super") {
            above = above.rsplit_once('/').map_or("", |(above, _)| above);
            rest = further;
        }
        (line, format!("::{above}{rest}"))
    });
    let mut findings = Vec::new();
    for (line, path) in from_root.chain(from_parent) {
        let imported = path.trim_start_matches("::").replace("::", "/");
        let imported = imported.trim_end_matches('/');
        if layer_of(imported) > own && !source.lines[line].is_test {
            findings.push(Finding {
                path: source.path.clone(),
                line: line + 1,
                what: format!("{imported} stands above {modules}: see LAYERS"),
            });
        }
    }
    findings
}

fn machines_are_pure(source: &Source) -> Vec<Finding> {
    let pure = ["src/core/", "src/wire/", "src/state/"];
    let is_in = |directory: &&str| source.path.starts_with(*directory);
    if !pure.iter().any(is_in) {
        return Vec::new();
    }
    let mut findings = by_line(source, |_, line| {
        let word = ["async", "await"]
            .into_iter()
            .find(|word| has_word(&line.code, word))?;
        (!line.is_test).then(|| {
            format!("no {word} here: core, state and wire are plain functions of their input")
        })
    });
    for (index, path) in paths(source, "std") {
        let impure = IMPURE.iter().find(|impure| {
            path.strip_prefix(**impure)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        });
        if let Some(impure) = impure.filter(|_| !source.lines[index].is_test) {
            let what = format!(
                "no {impure} here: core, state and wire are plain functions of their input"
            );
            findings.push(Finding {
                path: source.path.clone(),
                line: index + 1,
                what,
            });
        }
    }
    findings
}

/// Every path of a file that begins with this word, such as `std`, with its line; groups such as `std::{fs, net}` are
/// taken apart.
fn paths(source: &Source, first: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in source.lines.iter().enumerate() {
        for start in word_starts(&line.code, first) {
            // A group may go on in the next lines; it ends with the statement.
            let following = source.lines[index + 1..]
                .iter()
                .map(|line| line.code.as_str());
            let mut text = line.code[start..].to_string();
            following
                .take(GROUP_LINES_MAX)
                .for_each(|code| text.push_str(code));
            let mut flat = Vec::new();
            flatten(&text, "", &mut flat);
            found.extend(flat.into_iter().map(|path| (index, path)));
        }
    }
    found
}

/// Reads one path, or each path of a group, and returns how many bytes it took.
fn flatten(text: &str, prefix: &str, found: &mut Vec<String>) -> usize {
    let path_bytes = text
        .bytes()
        .take_while(|byte| is_word(char::from(*byte)) || *byte == b':')
        .count();
    let path = format!("{prefix}{}", &text[..path_bytes]);
    if !path.ends_with("::") || !text[path_bytes..].starts_with('{') {
        found.push(path);
        return path_bytes;
    }
    let mut at = path_bytes + 1;
    // Ends at the closing brace, or at the end of the text: each turn takes at least one byte.
    while at < text.len() && !text[at..].starts_with('}') {
        if text[at..].starts_with(|character: char| is_word(character)) {
            at += flatten(&text[at..], &path, found);
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at + 1
}

fn runtime_is_in_server_only(source: &Source) -> Vec<Finding> {
    if source.path.starts_with("src/server/") {
        return Vec::new();
    }
    by_line(source, |_, line| {
        has_word(&line.code, "glommio").then(|| "only src/server knows glommio".to_string())
    })
}

/// The server's files that name the runtime, where they are too many.
fn runtime_is_in_few_files(sources: &[Source]) -> Vec<Finding> {
    let names_it = |source: &&Source| {
        source.path.starts_with("src/server/")
            && source
                .lines
                .iter()
                .any(|line| has_word(&line.code, "glommio"))
    };
    let paths: Vec<_> = sources
        .iter()
        .filter(names_it)
        .map(|source| source.path.as_str())
        .collect();
    if paths.len() <= RUNTIME_FILES_MAX {
        return Vec::new();
    }
    let what = format!(
        "more than {RUNTIME_FILES_MAX} files name glommio: {}",
        paths.join(", ")
    );
    vec![Finding {
        path: "src/server".to_string(),
        line: 0,
        what,
    }]
}

/// Crate roots, but for the server's, that do not forbid unsafe code. The WASI module's denies it, because exported names are
/// unsafe, and nothing else there is.
fn unsafe_is_forbidden(sources: &[Source]) -> Vec<Finding> {
    let is_root = |source: &&Source| {
        let parts: Vec<_> = source.path.split('/').collect();
        matches!(
            parts.as_slice(),
            ["src", "main.rs"] | ["src", _, "lib.rs" | "main.rs"]
        ) && parts[1] != "server"
    };
    let missing = sources.iter().filter(is_root).filter(|source| {
        !source.lines.iter().any(|line| {
            let is_wasi = source.path.starts_with("src/wasi/");
            let wanted = if is_wasi { "deny" } else { "forbid" };
            line.code.contains(&format!("#![{wanted}(unsafe_code)]"))
        })
    });
    let finding = |source: &Source| Finding {
        path: source.path.clone(),
        line: 0,
        what: "this crate root has to say #![forbid(unsafe_code)]".to_string(),
    };
    missing.map(finding).collect()
}

fn unsafe_has_its_reason(source: &Source) -> Vec<Finding> {
    by_line(source, |index, line| {
        let needs_reason = word_starts(&line.code, "unsafe").any(|start| {
            let after = line.code[start + "unsafe".len()..].trim_start();
            after.is_empty() || after.starts_with('{') || after.starts_with("impl")
        });
        let has_reason =
            line.comment.contains("SAFETY:") || source.comment_above(index).contains("SAFETY:");
        (needs_reason && !has_reason)
            .then(|| "unsafe needs a // SAFETY: comment right above".to_string())
    })
}

fn nothing_is_left_for_later(source: &Source) -> Vec<Finding> {
    by_line(source, |_, line| {
        let in_code = ["todo!", "unimplemented!", "#[ignore"].into_iter();
        let mut left = in_code.filter(|word| line.code.contains(word)).chain(
            ["TODO", "FIXME"]
                .into_iter()
                .filter(|word| has_word(&line.code, word) || has_word(&line.comment, word)),
        );
        left.next()
            .map(|word| format!("{word}: what is left is said in the issue, not in the code"))
    })
}

fn channels_are_bounded(source: &Source) -> Vec<Finding> {
    by_line(source, |_, line| {
        let everywhere = ["unbounded(", "unbounded::<", "unbounded_channel("].into_iter();
        let not_in_tests = ["mpsc::channel("].into_iter().filter(|_| !line.is_test);
        let mut found = everywhere
            .chain(not_in_tests)
            .filter(|call| line.code.contains(call));
        found
            .next()
            .map(|call| format!("{call}) has no bound; give the channel a capacity"))
    })
}

fn unwrap_has_its_invariant(source: &Source) -> Vec<Finding> {
    by_line(source, |index, line| {
        let panics = line.code.contains(".unwrap()") || line.code.contains(".expect(");
        let above = index
            .checked_sub(1)
            .map_or("", |above| source.lines[above].comment.as_str());
        let has_reason = [&*line.comment, above]
            .iter()
            .any(|comment| comment.contains("invariant:"));
        (panics && !line.is_test && !has_reason).then(|| {
            "unwrap only beside // invariant:, on the same line or the one above".to_string()
        })
    })
}

fn files_and_functions_are_short(source: &Source) -> Vec<Finding> {
    long_parts(source)
        .into_iter()
        .filter(|(name, _)| !EXCEPTIONS.iter().any(|(exception, _)| exception == name))
        .map(|(_, finding)| finding)
        .collect()
}

/// What is too long in a file, under the name an exception would have.
fn long_parts(source: &Source) -> Vec<(String, Finding)> {
    let finding = |line, what| Finding {
        path: source.path.clone(),
        line,
        what,
    };
    let mut long = Vec::new();
    if source.lines.len() > FILE_LINES_MAX {
        let what = format!(
            "{} lines; split it, {FILE_LINES_MAX} is the most",
            source.lines.len()
        );
        long.push((source.path.clone(), finding(0, what)));
    }
    for function in source
        .functions()
        .iter()
        .filter(|function| function.lines > FUNCTION_LINES_MAX)
    {
        let what = format!(
            "{} has {} lines; split it, {FUNCTION_LINES_MAX} is the most",
            function.name, function.lines
        );
        let name = format!("{}:{}", source.path, function.name);
        long.push((name, finding(function.first + 1, what)));
    }
    long
}

/// Exceptions that nothing needs any more.
fn exceptions_are_needed(sources: &[Source], exceptions: &[(&str, &str)]) -> Vec<Finding> {
    let long: BTreeSet<_> = sources
        .iter()
        .flat_map(long_parts)
        .map(|(name, _)| name)
        .collect();
    let stale = exceptions.iter().filter(|(name, _)| !long.contains(*name));
    let finding = |(name, _): &(&str, &str)| Finding {
        path: name.to_string(),
        line: 0,
        what: "is short enough, so take it out of EXCEPTIONS".to_string(),
    };
    stale.map(finding).collect()
}

fn limits_are_documented(source: &Source) -> Vec<Finding> {
    if source.path.rsplit('/').next() != Some("limits.rs") {
        return Vec::new();
    }
    by_line(source, |index, line| {
        let code = line.code.trim_start();
        let code = code
            .strip_prefix("pub(crate) ")
            .or(code.strip_prefix("pub "))
            .unwrap_or(code);
        let is_constant = code.starts_with("const ") && !code.starts_with("const fn ");
        // A doc comment's text begins with the third slash.
        let has_doc = source
            .comment_above(index)
            .lines()
            .any(|text| text.starts_with('/'));
        (is_constant && !line.is_test && !has_doc)
            .then(|| "a limit's doc says why that number, and its worst memory".to_string())
    })
}

/// Tabs, spaces at the end of a line, and what only means something on one machine, in any text file.
fn text_is_clean(path: &str, text: &str) -> Vec<Finding> {
    // Taken apart, so that this file passes its own rule.
    let machine = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
        concat!("/tm", "p/wt-"),
        concat!("crates", ".io"),
        concat!("npm", "js."),
        concat!("py", "pi.org"),
    ];
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut found = |what: String| {
            findings.push(Finding {
                path: path.to_string(),
                line: index + 1,
                what,
            });
        };
        if line.contains('\t') {
            found("a tab; indent with spaces".to_string());
        }
        if line.ends_with([' ', '\r']) {
            found("a space at the end of the line".to_string());
        }
        if let Some(part) = machine.iter().find(|part| line.contains(*part)) {
            found(format!("{part} means nothing on another machine"));
        }
    }
    findings
}

/// Dependencies of a manifest that point the wrong way.
fn dependencies_point_one_way(path: &str, text: &str) -> Vec<Finding> {
    let finding = |what: String| Finding {
        path: path.to_string(),
        line: 0,
        what,
    };
    let manifest: toml::Table = match text.parse() {
        Ok(manifest) => manifest,
        Err(error) => return vec![finding(format!("cannot be read: {error}"))],
    };
    let name = manifest
        .get("package")
        .and_then(|package| package.get("name")?.as_str());
    let Some(name) = name else { return Vec::new() };
    let Some((_, allowed)) = DIRECTIONS.iter().find(|(of, _)| *of == name) else {
        return vec![finding(format!(
            "{name} has no line in DIRECTIONS: say what it may use"
        ))];
    };
    let mut findings = Vec::new();
    for used in used_packages(&manifest, name == "sapwood") {
        if used.starts_with("sapwood") && !allowed.contains(&used.as_str()) {
            findings.push(finding(format!("{name} must not use {used}")));
        }
        if SERVER_ONLY.contains(&used.as_str()) && name != "sapwood-server" {
            findings.push(finding(format!("only the server uses {used}")));
        }
    }
    findings
}

/// The real names of the packages that a manifest uses, for any target.
fn used_packages(manifest: &toml::Table, free_tests: bool) -> BTreeSet<String> {
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let targets = targets
        .into_iter()
        .flat_map(|targets| targets.values().filter_map(toml::Value::as_table));
    let mut used = BTreeSet::new();
    for table in targets.chain([manifest]) {
        for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let packages = table.get(kind).and_then(toml::Value::as_table);
            if kind == "dev-dependencies" && free_tests {
                continue;
            }
            for (key, value) in packages.into_iter().flatten() {
                let renamed = value.get("package").and_then(toml::Value::as_str);
                used.insert(renamed.unwrap_or(key).to_string());
            }
        }
    }
    used
}

/// Every text file of the repository, by its path from the root.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    // Ends: each directory is listed once, and links are not followed.
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
                directories.push(entry.path());
            } else if kind.is_file() && !SKIPPED.contains(&name.as_str()) {
                let path = entry
                    .path()
                    .strip_prefix(root)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                if let Ok(text) = fs::read_to_string(entry.path()) {
                    files.push((path, text));
                }
            }
        }
    }
    files.sort();
    files
}

#[test]
fn repository_is_tidy() {
    let files = files();
    let is_rust = |(path, _): &&(String, String)| path.ends_with(".rs");
    let sources: Vec<_> = files
        .iter()
        .filter(is_rust)
        .map(|(path, text)| Source::parse(path, text))
        .collect();
    let is_manifest = |(path, _): &&(String, String)| Path::new(path).ends_with("Cargo.toml");
    let manifests: Vec<_> = files.iter().filter(is_manifest).collect();
    assert!(
        sources.len() > 5 && manifests.len() > 3,
        "the repository was not found"
    );

    let mut findings = Vec::new();
    for (path, text) in &files {
        findings.extend(text_is_clean(path, text));
    }
    for (path, text) in manifests {
        findings.extend(dependencies_point_one_way(path, text));
    }
    for source in &sources {
        findings.extend(RULES.iter().flat_map(|rule| rule(source)));
    }
    findings.extend(runtime_is_in_few_files(&sources));
    findings.extend(unsafe_is_forbidden(&sources));
    findings.extend(names::core_types_have_names_of_their_own(&sources));
    findings.extend(exceptions_are_needed(&sources, EXCEPTIONS));
    let lines: Vec<_> = findings.iter().map(Finding::to_string).collect();
    assert!(
        lines.is_empty(),
        "{} findings:\n{}",
        lines.len(),
        lines.join("\n")
    );
}

/// Checks that a rule finds something on exactly these lines of a file.
#[track_caller]
fn check(rule: Rule, path: &str, text: &str, lines: &[usize]) {
    let found: Vec<_> = rule(&Source::parse(path, text))
        .iter()
        .map(|finding| finding.line)
        .collect();
    assert_eq!(found, lines, "{path}:\n{text}");
}

#[test]
fn session_in_broker_is_found() {
    let text = "// session\nlet sessions = 1;\nuse crate::session::Session;\n";
    for path in [
        "src/core/routing/broker.rs",
        "src/core/routing/subs.rs",
        "src/core/routing/broker/remote.rs",
        "src/core/mailbox.rs",
    ] {
        check(core_is_protocol_blind, path, text, &[3]);
    }
    check(core_is_protocol_blind, "src/core/lib.rs", text, &[]);
}

#[test]
fn import_that_points_up_is_found() {
    let bad = [
        ("src/core/form/resp.rs", "use crate::outbox::Outboxes;"),
        (
            "src/core/tree/links.rs",
            "use super::{dedup::Dedup, session::NodeSession};",
        ),
        (
            "src/core/routing/broker/remote.rs",
            "use super::super::super::delivery::Delivery;",
        ),
        ("src/core/session/native.rs", "use crate::Shard;"),
        (
            "src/core/delivery/mod.rs",
            "fn f() { crate::session::native::g() }",
        ),
        ("src/core/tree/lane.rs", "use super::Notice;"),
    ];
    for (path, text) in bad {
        check(core_layers_point_down, path, text, &[1]);
    }
    let good = [
        (
            "src/core/outbox/mod.rs",
            "use crate::form::{self, sids::Sid};",
        ),
        (
            "src/core/tree/session.rs",
            "use super::{dedup::Dedup, links::Links};",
        ),
        (
            "src/core/routing/broker/remote.rs",
            "use super::super::subs::Filters;",
        ),
        ("src/core/delivery/remote.rs", "use super::Delivery;"),
        (
            "src/core/form/x.rs",
            "#[cfg(test)]\nmod tests { use crate::outbox::Outboxes; }",
        ),
        ("src/sim/driver.rs", "use crate::world::World;"),
    ];
    for (path, text) in good {
        check(core_layers_point_down, path, text, &[]);
    }
}

#[test]
fn impurity_in_core_state_and_wire_is_found() {
    let bad = [
        "use std::net::TcpStream;",
        "use std::{fmt, fs};",
        "use std::{\n    fmt,\n    collections::{BTreeMap, HashMap},\n};",
        "fn f() { std::thread::sleep(d) }",
        "let now = std::time::Instant::now();",
        "use std::time::{Duration, SystemTime};",
        "pub async fn f() {}",
        "let s = std::collections::HashSet::new();",
    ];
    for text in bad {
        check(machines_are_pure, "src/core/x.rs", text, &[1]);
        check(machines_are_pure, "src/wire/x.rs", text, &[1]);
        check(machines_are_pure, "src/state/x.rs", text, &[1]);
        check(machines_are_pure, "src/server/x.rs", text, &[]);
        check(
            machines_are_pure,
            "src/core/x.rs",
            &format!("#[cfg(test)]\nmod t {{\n{text}\n}}"),
            &[],
        );
    }
    let good = "use hashbrown::HashMap;\nuse std::time::Duration;\n// std::fs\nlet a = \"async\";\nuse std::fmt;\n\
                use std::{fmt, mem};\nfn f() { fs() }\n";
    check(machines_are_pure, "src/core/x.rs", good, &[]);
}

#[test]
fn runtime_outside_server_is_found() {
    let text = "// glommio\nuse glommio::Task;\nlet glommio_like = \"glommio\";\n";
    check(runtime_is_in_server_only, "src/core/x.rs", text, &[2]);
    check(runtime_is_in_server_only, "tests/x.rs", text, &[2]);
    check(runtime_is_in_server_only, "src/server/x.rs", text, &[]);
}

#[test]
fn runtime_in_five_files_is_found() {
    let file =
        |number: usize| Source::parse(&format!("src/server/{number}.rs"), "use glommio::Task;");
    let mut sources: Vec<_> = (0..RUNTIME_FILES_MAX).map(file).collect();
    sources.push(Source::parse("src/server/x.rs", "// glommio"));
    assert!(runtime_is_in_few_files(&sources).is_empty());
    sources.push(file(RUNTIME_FILES_MAX));
    assert_eq!(runtime_is_in_few_files(&sources).len(), 1);
}

#[test]
fn crate_root_without_forbid_is_found() {
    let bare = |path: &str| {
        unsafe_is_forbidden(&[Source::parse(path, "// #![forbid(unsafe_code)]\n")]).len()
    };
    assert_eq!(
        ["src/main.rs", "src/core/lib.rs", "src/wasi/main.rs"].map(bare),
        [1, 1, 1]
    );
    assert_eq!(
        [
            "src/server/lib.rs",
            "src/core/subs/lib.rs",
            "src/cli/mod.rs"
        ]
        .map(bare),
        [0, 0, 0]
    );
    let root = Source::parse("src/core/lib.rs", "//! Core.\n#![forbid(unsafe_code)]\n");
    assert!(unsafe_is_forbidden(&[root]).is_empty());
}

#[test]
fn unsafe_without_reason_is_found() {
    check(
        unsafe_has_its_reason,
        "src/server/x.rs",
        "let a = unsafe { b() };\n",
        &[1],
    );
    check(
        unsafe_has_its_reason,
        "src/server/x.rs",
        "// SAFETY: c.\n\nunsafe { b() }\n",
        &[3],
    );
    check(
        unsafe_has_its_reason,
        "src/server/x.rs",
        "// SAFETY: c.\nd();\nunsafe impl E for F {}\n",
        &[3],
    );
    let good = "// SAFETY: c,\n// and d.\nunsafe { b() }\n// SAFETY: e.\nlet a =\n    unsafe { b() };\nunsafe fn f() {}\n\
                // SAFETY: g.\n#[allow(h)]\nunsafe { b() } // \"unsafe {\"\nlet unsafe_ = \"unsafe {\";\n";
    check(unsafe_has_its_reason, "src/server/x.rs", good, &[]);
}

#[test]
fn work_left_for_later_is_found() {
    for text in [
        "todo!()",
        "unimplemented!()",
        "#[ignore]",
        "#[ignore = \"slow\"]",
        "a(); // TODO: b",
        "// FIXME",
    ] {
        check(nothing_is_left_for_later, "tests/x.rs", text, &[1]);
    }
    check(
        nothing_is_left_for_later,
        "src/x.rs",
        "let a = \"TODO\";\n// TODOS\n",
        &[],
    );
}

#[test]
fn unbounded_channel_is_found() {
    for text in [
        "flume::unbounded()",
        "unbounded::<u8>()",
        "let a = mpsc::channel();",
        "unbounded_channel()",
    ] {
        check(channels_are_bounded, "src/x.rs", text, &[1]);
    }
    check(
        channels_are_bounded,
        "tests/x.rs",
        "let a = mpsc::channel();\nflume::unbounded();\n",
        &[2],
    );
    check(
        channels_are_bounded,
        "src/x.rs",
        "// unbounded()\nflume::bounded(1);\n",
        &[],
    );
}

#[test]
fn unwrap_without_invariant_is_found() {
    let bad = "a.unwrap();\nb\n    .expect(\"c\");\n// invariant: d.\n\ne.unwrap();\n";
    check(unwrap_has_its_invariant, "src/x.rs", bad, &[1, 3, 6]);
    let good = "a.unwrap(); // invariant: b.\n// invariant: c.\nd.expect(\"e\");\nf.unwrap_or(g);\n// .unwrap()\n\
                h.expect_err(\"i\");\n#[cfg(test)]\nmod t { fn j() { k.unwrap() } }\n";
    check(unwrap_has_its_invariant, "src/x.rs", good, &[]);
    check(unwrap_has_its_invariant, "tests/x.rs", bad, &[]);
}

#[test]
fn long_file_and_long_function_are_found() {
    let lines = |count: usize| "// a\n".repeat(count);
    check(
        files_and_functions_are_short,
        "src/x.rs",
        &lines(FILE_LINES_MAX + 1),
        &[0],
    );
    check(
        files_and_functions_are_short,
        "src/x.rs",
        &lines(FILE_LINES_MAX),
        &[],
    );
    let function = |lines: usize| format!("\nfn a() {{\n{}}}\n", "    b();\n".repeat(lines - 2));
    check(
        files_and_functions_are_short,
        "src/x.rs",
        &function(FUNCTION_LINES_MAX + 1),
        &[2],
    );
    check(
        files_and_functions_are_short,
        "src/x.rs",
        &function(FUNCTION_LINES_MAX),
        &[],
    );
}

#[test]
fn exception_that_nothing_needs_is_found() {
    let text = format!("fn a() {{\n{}}}\n", "    b();\n".repeat(FUNCTION_LINES_MAX));
    let sources = [Source::parse("src/x.rs", &text)];
    assert!(exceptions_are_needed(&sources, &[("src/x.rs:a", "b")]).is_empty());
    let stale = exceptions_are_needed(&sources, &[("src/x.rs", "b"), ("src/x.rs:c", "d")]);
    assert_eq!(stale.len(), 2);
}

#[test]
fn undocumented_limit_is_found() {
    let bad = "pub const A: u8 = 1;\n// Not a doc.\nconst B: u8 = 1;\n/// For A.\nfn a() {}\npub(crate) const C: u8 = 1;\n";
    check(limits_are_documented, "src/core/limits.rs", bad, &[1, 3, 6]);
    check(limits_are_documented, "src/core/lib.rs", bad, &[]);
    let good = "/// A, because.\n#[allow(a)]\npub const A: u8 = 1;\npub const fn b() {}\n";
    check(limits_are_documented, "src/core/limits.rs", good, &[]);
}

#[test]
fn unclean_text_is_found() {
    let path = concat!("see /wo", "rk/main");
    let host = concat!("from crates", ".io");
    for text in ["a\tb", "a ", "a\r", path, host] {
        assert_eq!(text_is_clean("README.md", text).len(), 1, "{text:?}");
    }
    assert!(text_is_clean("README.md", "a b\n  c\n/etc/sapwood\n").is_empty());
}

#[test]
fn dependency_that_points_back_is_found() {
    let manifest = |name: &str, rest: &str| {
        dependencies_point_one_way(
            "Cargo.toml",
            &format!("[package]\nname = \"{name}\"\n{rest}"),
        )
        .len()
    };
    for (name, rest) in [
        (
            "sapwood-wire",
            "[dependencies]\nsapwood-core.workspace = true",
        ),
        (
            "sapwood-core",
            "[dependencies]\nsapwood-server = { path = \"../server\" }",
        ),
        (
            "sapwood-core",
            "[dev-dependencies]\nsapwood-sim.workspace = true",
        ),
        (
            "sapwood-sim",
            "[dependencies]\nserver = { package = \"sapwood-server\", path = \"../server\" }",
        ),
        (
            "sapwood-client",
            "[dependencies]\nsapwood-core.workspace = true",
        ),
        (
            "sapwood-client",
            "[target.'cfg(unix)'.dependencies]\nglommio = \"0.9\"",
        ),
        ("sapwood-core", "[build-dependencies]\nrocksdb = \"0.25\""),
        ("sapwood", "[dependencies]\nsapwood-core.workspace = true"),
        ("sapwood-new", ""),
        ("sapwood-wire", "[dependencies"),
    ] {
        assert_eq!(manifest(name, rest), 1, "{name}: {rest}");
    }
    for (name, rest) in [
        ("sapwood-wire", "[dependencies]\nbytes = \"1\""),
        (
            "sapwood-server",
            "[dependencies]\nsapwood-core.workspace = true\nglommio = \"0.9\"",
        ),
        (
            "sapwood",
            "[dependencies]\nsapwood-server.workspace = true\n[dev-dependencies]\nsapwood-sim.workspace = true",
        ),
    ] {
        assert_eq!(manifest(name, rest), 0, "{name}: {rest}");
    }
}
