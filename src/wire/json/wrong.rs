//! What is wrong with a frame that is no request, in words of our own, and where.
//!
//! Reads the frame a second time, by its outline alone: what stands in lists and objects is passed over, so this costs no
//! memory but for the names of its fields. Start at [`Wrong::of`].

use super::ID_MAX;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// The longest part of a field's name that is repeated, in characters.
const NAME_CHARACTERS_MAX: usize = 32;

/// What a request looks like, for those who sent something else.
const EXAMPLE: &str = r#"a request is one JSON object such as {"op":"ping","id":1}"#;

/// What a field has to be.
const TEXT: &str = "a string";
const ID: &str = "a whole number from 1 to 9007199254740991";
const MEMBER: &str = "a whole number from 0 to 4294967295";
const HEADERS: &str = r#"a list of pairs of strings such as [["name","value"]]"#;

/// Every field that a request may have, and what it has to be.
const FIELDS: [(&str, &str); 18] = [
    ("op", TEXT),
    ("id", ID),
    ("topic", TEXT),
    ("data", TEXT),
    ("data_b64", TEXT),
    ("reply", TEXT),
    ("headers", HEADERS),
    ("last", "true or false"),
    ("when", TEXT),
    ("filter", TEXT),
    ("group", TEXT),
    ("member", MEMBER),
    ("user", TEXT),
    ("password", TEXT),
    ("name", TEXT),
    ("library", TEXT),
    ("policy", TEXT),
    ("version", "a whole number"),
];

/// A JSON value, as far as it has to be known to say what is wrong with it.
enum Outline {
    Null,
    Flag,
    /// A number that is whole and not negative.
    Whole(u64),
    Number,
    Text,
    List,
    Object,
}

impl Outline {
    fn is_fit_for(&self, what: &str) -> bool {
        match self {
            Outline::Text => what == TEXT,
            Outline::Flag => what == "true or false",
            Outline::List => what == HEADERS,
            Outline::Whole(number) => match what {
                MEMBER => u32::try_from(*number).is_ok(),
                _ => what.starts_with("a whole number"),
            },
            Outline::Null | Outline::Number | Outline::Object => false,
        }
    }

    fn shown(&self) -> &'static str {
        match self {
            Outline::Null => "null",
            Outline::Flag => "true or false",
            Outline::Whole(_) | Outline::Number => "this number",
            Outline::Text => TEXT,
            Outline::List => "this list",
            Outline::Object => "an object",
        }
    }
}

struct Looks;

impl<'de> Visitor<'de> for Looks {
    type Value = Outline;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Outline, E> {
        Ok(Outline::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Outline, E> {
        Ok(Outline::Flag)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Outline, E> {
        Ok(Outline::Whole(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Outline, E> {
        Ok(Outline::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Outline, E> {
        Ok(Outline::Number)
    }

    fn visit_str<E>(self, _: &str) -> Result<Outline, E> {
        Ok(Outline::Text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Outline, A::Error> {
        // Ends with the list, which is no longer than the frame.
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Outline::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Outline, A::Error> {
        // Ends with the object.
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Outline::Object)
    }
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Outline, D::Error> {
        deserializer.deserialize_any(Looks)
    }
}

/// What is found by reading a frame as an object.
#[derive(Default)]
struct Findings {
    id: Option<u64>,
    seen: [bool; FIELDS.len()],
    /// The first thing that is wrong.
    text: Option<String>,
}

impl Findings {
    fn take(&mut self, name: &str, value: &Outline) {
        let Some(place) = FIELDS.iter().position(|&(known, _)| known == name) else {
            let name: String = name.chars().take(NAME_CHARACTERS_MAX).collect();
            let name = name.escape_debug();
            return self.note(|| format!("a request has no field `{name}`"));
        };
        if std::mem::replace(&mut self.seen[place], true) {
            // Whose it is cannot be told if it says two ids.
            self.id = self.id.filter(|_| name != "id");
            return self.note(|| format!("the field `{name}` stands there twice"));
        }
        let (_, what) = FIELDS[place];
        match value {
            Outline::Whole(id) if name == "id" => self.id = Some(*id),
            _ if value.is_fit_for(what) => {}
            _ => {
                let found = value.shown();
                self.note(|| format!("the field `{name}` is {what}, not {found}"));
            }
        }
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        self.text.get_or_insert_with(text);
    }
}

struct Finds;

impl<'de> Visitor<'de> for Finds {
    type Value = Findings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Findings, A::Error> {
        let mut findings = Findings::default();
        // Ends with the object.
        while let Some(name) = object.next_key::<super::Text<'de>>()? {
            let value = object.next_value()?;
            findings.take(&name.0, &value);
        }
        Ok(findings)
    }
}

impl<'de> Deserialize<'de> for Findings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Findings, D::Error> {
        deserializer.deserialize_map(Finds)
    }
}

/// Why a frame is no request.
pub(super) struct Wrong {
    /// The id of the request, if it has one that can be read.
    pub id: Option<u64>,
    /// What is wrong, and what would be right.
    pub text: String,
}

impl Wrong {
    /// What is wrong with a frame that could not be read as a request.
    pub(super) fn of(frame: &[u8]) -> Wrong {
        match serde_json::from_slice::<Findings>(frame) {
            Ok(findings) => {
                let text = findings.text.unwrap_or_else(|| match findings.seen[0] {
                    // What an outline does not show is what stands in a list.
                    true => format!("the field `headers` is {HEADERS}"),
                    false => format!("the field `op` is missing: {EXAMPLE}"),
                });
                let id = findings.id.filter(|id| (1..=ID_MAX).contains(id));
                Wrong { id, text }
            }
            Err(error) => Wrong {
                id: None,
                text: match error.classify() {
                    serde_json::error::Category::Data => format!("this is no object: {EXAMPLE}"),
                    _ => no_json(frame, &error),
                },
            },
        }
    }
}

/// Where a text ceases to be JSON.
fn no_json(frame: &[u8], error: &serde_json::Error) -> String {
    let why = match std::str::from_utf8(frame) {
        Err(error) => format!("byte {} is not UTF-8", error.valid_up_to() + 1),
        Ok(text) => what_stands_there(text, error),
    };
    format!("this is no JSON: {why}; {EXAMPLE}")
}

fn what_stands_there(text: &str, error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let place = match text.contains('\n') {
        true => format!("byte {column} of line {line}"),
        false => format!("byte {column}"),
    };
    if error.is_eof() {
        return format!("it ends too early, at {place}");
    }
    let lines = text.split('\n').nth(line.saturating_sub(1));
    let there = column.checked_sub(1).and_then(|at| lines?.get(at..));
    match there.and_then(|there| there.chars().next()) {
        // Behind the end of the line, where the parser did not expect it.
        None if column == 0 => format!(
            "line {} ends within a string, where \\n is written",
            line.saturating_sub(1)
        ),
        None => format!("{place} cannot be read"),
        Some(control @ '\0'..' ') => format!(
            "at {place} stands the byte {:#04x}, which is written \\u{:04x} in a string",
            u32::from(control),
            u32::from(control)
        ),
        Some('\'') => format!("at {place} stands ', and strings stand in double quotes"),
        Some(character) => format!("at {place} stands `{character}`"),
    }
}
