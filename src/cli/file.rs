//! The configuration file: TOML to settings that remember their line.
//!
//! Owns what a key of the file may be called and which TOML type fits it. It does not judge values: a setting leaves here
//! as text, so that the same rule reads it whether it came from the file, the environment or a flag. One reading reports
//! everything that is wrong with the file.

use std::fs;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use sapwood_server::Limits;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::config::{Given, Key};
use super::limits;
use super::problem::{Problem, Source, Wrong};

/// The longest configuration file: 64 KiB is a hundred times one that sets everything.
const CONFIG_FILE_BYTES_MAX: u64 = 64 << 10;

/// How far a misspelt word may be from the one that is suggested, in edits: two catch a missing or doubled letter and a
/// swap, three begin to suggest unrelated words.
pub const SUGGESTION_EDITS_MAX: usize = 2;

/// What a configuration file says.
#[derive(Debug, Default)]
pub struct Settings {
    /// The settings it gives, as text.
    pub given: Vec<(Key, Given)>,
    /// The default limits, with what its `[limits]` table changes.
    pub limits: Limits,
}

/// Reads a file whose name came from `asked_by`, and appends everything that is wrong with it to `problems`.
pub fn read(path: &Path, asked_by: Source, problems: &mut Vec<Problem>) -> Settings {
    match read_text(path, CONFIG_FILE_BYTES_MAX) {
        Ok(text) => Reading {
            path,
            text: &text,
            problems,
            settings: Settings::default(),
        }
        .run(),
        Err(wrong) => {
            problems.push(Problem {
                source: asked_by,
                wrong,
            });
            Settings::default()
        }
    }
}

/// Reads a whole file that has at most `bytes_max` bytes.
pub fn read_capped(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Wrong> {
    let unreadable = |error| Wrong::Unreadable {
        path: path.to_path_buf(),
        error,
    };
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    match bytes.len() as u64 > bytes_max {
        true => Err(Wrong::TooLong {
            path: path.to_path_buf(),
            bytes_max,
        }),
        false => Ok(bytes),
    }
}

/// Reads a whole file of text that has at most `bytes_max` bytes.
pub fn read_text(path: &Path, bytes_max: u64) -> Result<String, Wrong> {
    let bytes = read_capped(path, bytes_max)?;
    String::from_utf8(bytes).map_err(|_| Wrong::Unreadable {
        path: path.to_path_buf(),
        error: io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"),
    })
}

struct Reading<'a> {
    path: &'a Path,
    text: &'a str,
    problems: &'a mut Vec<Problem>,
    settings: Settings,
}

impl Reading<'_> {
    fn run(mut self) -> Settings {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let source = self.source(error.span().unwrap_or_default(), None);
            self.problems.push(Problem {
                source,
                wrong: not_toml(error),
            });
        }
        // What the parser guessed after an error would only repeat that error in other words.
        if errors.is_empty() {
            self.read_root(table.get_ref());
        }
        self.settings
    }

    fn read_root(&mut self, table: &DeTable<'_>) {
        for (key, value) in in_file_order(table) {
            let name: &str = key.get_ref();
            let source = self.source(key.span(), Some(name.to_string()));
            if name == "limits" {
                match value.get_ref().as_table() {
                    Some(table) => self.read_limits(table),
                    None => self.wrong_type(source, value, "a table: [limits]"),
                }
            } else if let Some(setting) =
                Key::ALL.into_iter().find(|setting| setting.name() == name)
            {
                match text_for(setting, value.get_ref()) {
                    Some(text) => {
                        let directory = self.path.parent().map(Path::to_path_buf);
                        self.settings.given.push((
                            setting,
                            Given {
                                source,
                                text,
                                directory,
                            },
                        ));
                    }
                    None => self.wrong_type(source, value, setting.example()),
                }
            } else {
                let nearest = nearest_root_key(name);
                let known = Key::ALL
                    .into_iter()
                    .map(Key::name)
                    .chain(["[limits]"])
                    .collect();
                self.problems.push(Problem {
                    source,
                    wrong: Wrong::UnknownKey { nearest, known },
                });
            }
        }
    }

    fn read_limits(&mut self, table: &DeTable<'_>) {
        for (key, value) in in_file_order(table) {
            let name: &str = key.get_ref();
            let source = self.source(key.span(), Some(format!("limits.{name}")));
            let Some(text) = integer_text(value.get_ref()).or_else(|| string_text(value.get_ref()))
            else {
                self.wrong_type(source, value, "a whole number");
                continue;
            };
            let wrong = match limits::set(&mut self.settings.limits, name, &text) {
                Some(Ok(())) => continue,
                Some(Err(wrong)) => wrong,
                None => Wrong::UnknownKey {
                    nearest: nearest_limit(name),
                    known: limits::KEYS.to_vec(),
                },
            };
            self.problems.push(Problem { source, wrong });
        }
    }

    fn wrong_type(&mut self, source: Source, value: &Spanned<DeValue<'_>>, right: &'static str) {
        let wrong = wrong_type(value.get_ref(), right);
        self.problems.push(Problem { source, wrong });
    }

    fn source(&self, span: Range<usize>, key: Option<String>) -> Source {
        let line = line_at(self.text, span.start);
        Source::File {
            path: PathBuf::from(self.path),
            line,
            key,
        }
    }
}

/// The line of a byte of a text, counted from 1.
pub fn line_at(text: &str, byte: usize) -> usize {
    let before = text.as_bytes().get(..byte).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// What the parser says of a text that is not TOML.
pub fn not_toml(error: &toml::de::Error) -> Wrong {
    Wrong::NotToml(error.message().trim_end_matches('.').replace('\n', ", "))
}

/// A value has another TOML type than the right one.
pub fn wrong_type(value: &DeValue<'_>, right: &'static str) -> Wrong {
    let found = match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Wrong::TomlType { found, right }
}

/// A key of a table, and its value.
pub type Entry<'a, 'i> = (
    &'a Spanned<std::borrow::Cow<'i, str>>,
    &'a Spanned<DeValue<'i>>,
);

/// The entries of a table, in the order of the file.
pub fn in_file_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<Entry<'a, 'i>> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// The text of a value whose TOML type fits a setting.
fn text_for(setting: Key, value: &DeValue<'_>) -> Option<String> {
    let string = string_text(value);
    match setting {
        Key::Redis
        | Key::Native
        | Key::Http
        | Key::Nats
        | Key::Shards
        | Key::Partitions
        | Key::StateWorkers
        | Key::MaxPayload
        | Key::LameDuck
        | Key::Node
        | Key::Join
        | Key::Advertise
        | Key::NatsAdvertise
        | Key::Parent
        | Key::ChildrenMax
        | Key::Heartbeat => string.or_else(|| integer_text(value)),
        Key::Cpus => string.or_else(|| integer_text(value)).or_else(|| {
            let cpus = value
                .as_array()?
                .iter()
                .map(|cpu| integer_text(cpu.get_ref()));
            Some(cpus.collect::<Option<Vec<_>>>()?.join(","))
        }),
        Key::NodeTags | Key::NodeGroups => string.or_else(|| {
            let names = value.as_array()?.iter();
            let names = names.map(|name| string_text(name.get_ref()));
            Some(names.collect::<Option<Vec<_>>>()?.join(","))
        }),
        Key::RedisPolicy
        | Key::NativePolicy
        | Key::NatsPolicy
        | Key::HttpPolicy
        | Key::HttpOrigin
        | Key::Echo
        | Key::Broadcast
        | Key::User
        | Key::NodeName
        | Key::ClusterSecretFile
        | Key::Topology
        | Key::Data
        | Key::Latency
        | Key::Pin
        | Key::PasswordFile
        | Key::LogFormat => string,
    }
}

fn string_text(value: &DeValue<'_>) -> Option<String> {
    value.as_str().map(str::to_string)
}

fn integer_text(value: &DeValue<'_>) -> Option<String> {
    let integer = value.as_integer()?;
    match i128::from_str_radix(integer.as_str(), integer.radix()) {
        Ok(number) => Some(number.to_string()),
        Err(_) => Some(integer.as_str().to_string()),
    }
}

fn nearest_root_key(name: &str) -> Option<String> {
    let root = nearest(name, Key::ALL.into_iter().map(Key::name).chain(["limits"]));
    let root = root.map(|key| {
        if key == "limits" {
            "[limits]".to_string()
        } else {
            format!("{key:?}")
        }
    });
    root.or_else(|| {
        let limit = nearest(name, limits::KEYS.iter().copied())?;
        Some(format!("{limit:?} under [limits]"))
    })
}

fn nearest_limit(name: &str) -> Option<String> {
    let above = |root| format!("{root:?} above every [table]");
    if let Some(key) = Key::ALL.into_iter().find(|key| key.name() == name) {
        return Some(above(key.name()));
    }
    if let Some(limit) = nearest(name, limits::KEYS.iter().copied()) {
        return Some(format!("{limit:?}"));
    }
    let root = nearest(name, Key::ALL.into_iter().map(Key::name))?;
    Some(above(root))
}

/// The key a misspelt one was meant to be: one that begins with it, or one that is few edits away.
pub fn nearest<'a>(name: &str, keys: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let edits = |key: &&str| strsim::damerau_levenshtein(&name, key);
    let close = keys
        .clone()
        .min_by_key(edits)
        .filter(|key| edits(key) <= SUGGESTION_EDITS_MAX);
    close.or_else(|| {
        let mut longer = keys.filter(|key| name.len() >= 3 && key.starts_with(&name));
        longer.next()
    })
}
