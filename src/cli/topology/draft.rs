//! What a topology file says of each node by itself, before the nodes are looked at together.
//!
//! Owns the keys and their forms. What cannot be read is reported and left out, so that the rest can still be judged.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::file::{in_file_order, line_at, not_toml, wrong_type};
use super::super::problem::Wrong;
use super::super::text;
use super::{AddressReason, Problems, WrongTopology, nearest};

/// The longest name of a node, tag or group: what a line of a table shows.
pub const NAME_BYTES_MAX: usize = 64;

/// The keys of a node.
const KEYS: [&str; 4] = ["address", "parent", "tags", "groups"];

/// What the parser says of a key or table that is there twice.
const DUPLICATE: &str = "duplicate key";

/// One node, as the file has it. Bytes are places in the file.
#[derive(Debug)]
pub struct Draft {
    /// What stands after `node.`, right or wrong.
    pub name: String,
    /// Where that stands.
    pub byte: usize,
    /// Its address, and where that stands; none if there is none that can be read.
    pub address: Option<(SocketAddr, usize)>,
    /// Its parent.
    pub parent: Parent,
    /// Those of its tags that are right.
    pub tags: Vec<String>,
    /// The same of its groups.
    pub groups: Vec<String>,
}

/// What a node says of its parent.
#[derive(Debug)]
pub enum Parent {
    /// Nothing.
    Absent,
    /// This name, at this byte.
    Named { name: String, byte: usize },
    /// Something that is no name.
    Unreadable,
}

impl Draft {
    /// The key of one of its values, as one would find it; that of the node itself if the name is empty.
    pub fn key(&self, of: &str) -> String {
        let separator = if of.is_empty() { "" } else { "." };
        format!("node.{}{separator}{of}", written(&self.name))
    }

    /// Where its parent is named, or it stands itself.
    pub fn parent_byte(&self) -> usize {
        match self.parent {
            Parent::Named { byte, .. } => byte,
            Parent::Absent | Parent::Unreadable => self.byte,
        }
    }
}

/// A key as the file has to have it: in quotes where it holds more than letters, digits, '-' and '_'.
fn written(key: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match !key.is_empty() && key.bytes().all(is_bare) {
        true => key.to_string(),
        false => format!("\"{}\"", text::printable(key.as_bytes())),
    }
}

/// The nodes of a file, in its order; none if it is not TOML or has no nodes, which has been reported then.
pub fn read(text: &str, problems: &mut Problems<'_>) -> Option<Vec<Draft>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let headers = match errors.is_empty() {
        true => Vec::new(),
        false => headers(text),
    };
    let mut is_toml = true;
    // Where nodes that are there twice stand for the second time.
    let mut doubled: Vec<Range<usize>> = Vec::new();
    for error in &errors {
        let span = error.span().unwrap_or_default();
        let byte = span.start;
        let at = headers.partition_point(|header| header.start <= byte);
        let header = at.checked_sub(1).and_then(|before| headers.get(before));
        let table = header.map_or("", |header| {
            text[header.clone()].trim_matches(['[', ']', ' '])
        });
        if error.message() != DUPLICATE {
            is_toml = false;
            problems.push(byte, None, || not_toml(error));
        } else if let Some(header) = header.filter(|header| header.contains(&byte)) {
            let end = headers.get(at).map_or(text.len(), |next| next.start);
            doubled.push(header.start..end);
            problems.push_topology(byte, text::printable(table.as_bytes()), || {
                let same = |other: &&Range<usize>| text[(*other).clone()] == text[header.clone()];
                let first = headers[..at - 1].iter().find(same);
                let line = first.map(|first| line_at(text, first.start));
                WrongTopology::SameName { line }
            });
        } else if !doubled.last().is_some_and(|node| node.contains(&byte)) {
            let separator = if table.is_empty() { "" } else { "." };
            let key = text.get(span).unwrap_or_default();
            let place = text::printable(format!("{table}{separator}{key}").as_bytes());
            problems.push_topology(byte, place, || WrongTopology::SameKey);
        }
        // The keys of a node that is there twice are there twice because of that.
    }
    // What the parser guessed after an error would only repeat that error in other words. What is there twice is taken as
    // it was at first.
    match is_toml {
        true => read_root(root.get_ref(), &doubled, problems),
        false => None,
    }
}

/// Each `[header]` of a table, where it stands. A line of a list of lists may be taken for one, which does no harm: they
/// are only looked at where something is there twice.
fn headers(text: &str) -> Vec<Range<usize>> {
    let mut headers = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with('[') {
            let end = line.find(']').map_or(line.len(), |bracket| bracket + 1);
            headers.push(start..start + end);
        }
        start += line.len();
    }
    headers
}

fn read_root(
    root: &DeTable<'_>,
    doubled: &[Range<usize>],
    problems: &mut Problems<'_>,
) -> Option<Vec<Draft>> {
    const RIGHT: &str = "a table for each node: [node.NAME]";
    let mut nodes = None;
    for (key, value) in in_file_order(root) {
        let name: &str = key.get_ref();
        match (name, value.get_ref()) {
            ("node", DeValue::Table(table)) => nodes = Some(table),
            ("node", value) => {
                let place = Some(name.to_string());
                problems.push(key.span().start, place, || wrong_type(value, RIGHT));
                return None;
            }
            _ => problems.push(key.span().start, Some(written(name)), || {
                let near = nearest(name, ["node"].into_iter());
                let is_node = value.get_ref().as_table().is_some() || near.is_some();
                Wrong::UnknownKey {
                    nearest: is_node.then(|| "[node.NAME]".to_string()),
                    known: vec!["[node.NAME]"],
                }
            }),
        }
    }
    let drafts: Vec<_> = nodes
        .map(|table| in_file_order(table))
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| read_node(key, value, doubled, problems))
        .collect();
    // Where something else stands there, that has been said.
    if drafts.is_empty() && problems.listed.is_empty() {
        problems.push_topology(0, "node".to_string(), || WrongTopology::NoNodes);
    }
    (!drafts.is_empty()).then_some(drafts)
}

/// Reads a node, but for what stands in `doubled`.
fn read_node(
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    doubled: &[Range<usize>],
    problems: &mut Problems<'_>,
) -> Draft {
    let mut draft = Draft {
        name: key.get_ref().to_string(),
        byte: key.span().start,
        address: None,
        parent: Parent::Absent,
        tags: Vec::new(),
        groups: Vec::new(),
    };
    let Some(table) = value.get_ref().as_table() else {
        problems.push(draft.byte, Some(draft.key("")), || {
            wrong_type(value.get_ref(), "a table: [node.NAME]")
        });
        // Nothing is known of its place.
        draft.parent = Parent::Unreadable;
        return draft;
    };
    let mut is_dotted = false;
    for (key, value) in in_file_order(table) {
        let byte = key.span().start;
        let before = doubled.partition_point(|node| node.end <= byte);
        if doubled.get(before).is_some_and(|node| node.contains(&byte)) {
            continue;
        }
        match &**key.get_ref() {
            "address" => read_address(&mut draft, value, problems),
            "parent" => read_parent(&mut draft, value, problems),
            "tags" => draft.tags = read_names(&draft, "tags", value, problems),
            "groups" => draft.groups = read_names(&draft, "groups", value, problems),
            unknown => {
                let place = draft.key(&written(unknown));
                if value.get_ref().as_table().is_some() {
                    is_dotted = true;
                    let meant = format!("{}.{unknown}", draft.name);
                    problems.push_topology(byte, place, || WrongTopology::DottedName(meant));
                } else {
                    problems.push(byte, Some(place), || Wrong::UnknownKey {
                        nearest: nearest(unknown, KEYS.into_iter()).map(|key| format!("{key:?}")),
                        known: KEYS.to_vec(),
                    });
                }
            }
        }
    }
    if is_dotted && KEYS.iter().all(|key| !table.contains_key(*key)) {
        // There is no such node, only the first part of another's name.
        draft.parent = Parent::Unreadable;
        return draft;
    }
    if let Some(wrong) = wrong_name(&draft.name) {
        problems.push_topology(draft.byte, draft.key(""), || wrong);
    }
    if !table.contains_key("address") {
        problems.push_topology(draft.byte, draft.key(""), || WrongTopology::NoAddress);
    }
    draft
}

fn read_address(draft: &mut Draft, value: &Spanned<DeValue<'_>>, problems: &mut Problems<'_>) {
    let byte = value.span().start;
    let place = draft.key("address");
    let Some(given) = value.get_ref().as_str() else {
        return problems.push(byte, Some(place), || {
            wrong_type(value.get_ref(), "a string such as \"10.0.0.1:7401\"")
        });
    };
    match parse_address(given) {
        Ok(address) => draft.address = Some((address, byte)),
        Err(reason) => problems.push_topology(byte, place, || WrongTopology::Address {
            given: given.to_string(),
            reason,
        }),
    }
}

/// Reads an address that other machines can connect to, and that means the same on all of them.
fn parse_address(given: &str) -> Result<SocketAddr, AddressReason> {
    let Ok(address) = given.parse::<SocketAddr>() else {
        let without_brackets = given.trim_start_matches('[').trim_end_matches(']');
        return Err(match without_brackets.parse::<IpAddr>() {
            Ok(ip) => AddressReason::NoPort(ip),
            Err(_) => AddressReason::NotNumeric,
        });
    };
    match address {
        _ if address.port() == 0 => Err(AddressReason::PortZero),
        _ if address.ip().is_unspecified() => Err(AddressReason::EveryNetwork),
        _ if address.ip().is_multicast() => Err(AddressReason::Multicast),
        _ => Ok(address),
    }
}

fn read_parent(draft: &mut Draft, value: &Spanned<DeValue<'_>>, problems: &mut Problems<'_>) {
    let byte = value.span().start;
    draft.parent = match value.get_ref().as_str() {
        Some(name) => Parent::Named {
            name: name.to_string(),
            byte,
        },
        None => {
            problems.push(byte, Some(draft.key("parent")), || {
                wrong_type(value.get_ref(), "a string: the name of a node")
            });
            Parent::Unreadable
        }
    };
}

/// Reads a list of names, and gives those that are right.
fn read_names(
    draft: &Draft,
    of: &str,
    value: &Spanned<DeValue<'_>>,
    problems: &mut Problems<'_>,
) -> Vec<String> {
    const RIGHT: &str = "a list of strings such as [\"edge\", \"eu\"]";
    let Some(list) = value.get_ref().as_array() else {
        problems.push(value.span().start, Some(draft.key(of)), || {
            wrong_type(value.get_ref(), RIGHT)
        });
        return Vec::new();
    };
    let mut names: Vec<String> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for item in list.iter() {
        let byte = item.span().start;
        let Some(name) = item.get_ref().as_str() else {
            problems.push(byte, Some(draft.key(of)), || {
                wrong_type(item.get_ref(), RIGHT)
            });
            continue;
        };
        let wrong = wrong_name(name)
            .or_else(|| (!seen.insert(name)).then(|| WrongTopology::Repeated(name.to_string())));
        match wrong {
            Some(wrong) => problems.push_topology(byte, draft.key(of), || wrong),
            None => names.push(name.to_string()),
        }
    }
    names
}

/// What is wrong with the name of a node, tag or group.
pub fn wrong_name(name: &str) -> Option<WrongTopology> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.len() > NAME_BYTES_MAX {
        return Some(WrongTopology::LongName(name.len()));
    }
    let is_right = !name.is_empty() && name.bytes().all(is_legal);
    (!is_right).then(|| WrongTopology::Name(name.to_string()))
}
