//! Foreign bytes as text: escaped for people's terminals, as JSON strings, and the time.
//!
//! Owns which characters never reach a terminal as they are: control characters, with which an event could repaint a screen
//! or answer for its user, and the marks that change the direction of writing, with which a text can look like another one.
//! Invariant: what is escaped can be told from what was there before, so nothing is lost.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Appends bytes for people, always on one line. What is not printable becomes `\n`, `\r`, `\t`, `\x1b` (a byte) or `\u{9b}`
/// (a character); a backslash becomes two.
pub fn push_printable(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        push_runs(out, chunk.valid(), |out, escaped| match escaped {
            '"' => out.push(b'"'),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\0'..='\x7f' => push_formatted(out, format_args!("\\x{:02x}", u32::from(escaped))),
            _ => push_formatted(out, format_args!("\\u{{{:x}}}", u32::from(escaped))),
        });
        for byte in chunk.invalid() {
            push_formatted(out, format_args!("\\x{byte:02x}"));
        }
    }
}

/// The same as a string.
pub fn printable(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    push_printable(&mut out, bytes);
    String::from_utf8_lossy(&out).into_owned()
}

/// Bytes as the environment of a command can have them, unchanged.
pub fn os_string(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

/// Appends a JSON string (RFC 8259, section 7), quotes included, that has no character which would harm a terminal.
pub fn push_json(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    push_runs(out, text, |out, escaped| match escaped {
        '\\' => out.extend_from_slice(b"\\\\"),
        '"' => out.extend_from_slice(b"\\\""),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        // Every other one that is escaped is below U+10000, so one escape holds it.
        _ => push_formatted(out, format_args!("\\u{:04x}", u32::from(escaped))),
    });
    out.push(b'"');
}

/// Appends a JSON value on one line, no character of which would harm a terminal.
pub fn push_json_value(out: &mut Vec<u8>, value: &serde_json::Value) {
    // What is escaped here stands within strings: all else of JSON is plain ASCII.
    for character in value.to_string().chars() {
        match character {
            '"' | '\\' => out.push(character as u8),
            _ if is_escaped(character) => {
                push_formatted(out, format_args!("\\u{:04x}", u32::from(character)));
            }
            _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Appends the characters of a text: those that may stand as they are everywhere in runs, the others, and quotes, as
/// `escape` has them.
fn push_runs(out: &mut Vec<u8>, text: &str, escape: impl Fn(&mut Vec<u8>, char)) {
    let mut rest = text;
    // Ends because each round takes at least one character off the rest.
    while !rest.is_empty() {
        let (run, after) = rest.split_at(plain_bytes(rest));
        out.extend_from_slice(run.as_bytes());
        let mut characters = after.chars();
        if let Some(character) = characters.next() {
            escape(out, character);
        }
        rest = characters.as_str();
    }
}

/// How many bytes at the start need no escape.
fn plain_bytes(text: &str) -> usize {
    // Nearly all text is plain ASCII, which is settled a byte at a time.
    let ascii = text
        .bytes()
        .position(|byte| !(b' '..0x7f).contains(&byte) || byte == b'\\' || byte == b'"');
    let Some(start) = ascii else {
        return text.len();
    };
    match text[start..].find(is_escaped) {
        Some(length) => start + length,
        None => text.len(),
    }
}

fn is_escaped(character: char) -> bool {
    let turns_text = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    turns_text || character.is_control() || character == '\\' || character == '"'
}

fn push_formatted(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    let mut text = String::new();
    // invariant: a string takes everything that is written to it.
    text.write_fmt(arguments).expect("a string has no end");
    out.extend_from_slice(text.as_bytes());
}

/// The time as RFC 3339 has it, in UTC with microseconds: `2026-11-21T09:38:31.123456Z`.
pub fn now() -> String {
    let mut text = String::new();
    // A clock that cannot be formatted leaves the line without a time, which is better than no line.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn printable_shows_text_and_escapes_what_a_terminal_obeys() {
        for (bytes, text) in [
            (&b"hello"[..], "hello"),
            (b"", ""),
            (
                "gr\u{fc}\u{df}e \u{1f44b} \"quoted\"".as_bytes(),
                "gr\u{fc}\u{df}e \u{1f44b} \"quoted\"",
            ),
            (b"a\nb\r\tc", "a\\nb\\r\\tc"),
            (b"C:\\x", "C:\\\\x"),
            (b"\x1b[2J", "\\x1b[2J"),
            (b"\x00\x7f", "\\x00\\x7f"),
            (b"\xff\xfe", "\\xff\\xfe"),
            // A control sequence introducer as one character, and text that runs backwards.
            ("\u{9b}2J".as_bytes(), "\\u{9b}2J"),
            ("\u{202e}txt".as_bytes(), "\\u{202e}txt"),
        ] {
            assert_eq!(printable(bytes), text);
        }
    }

    #[test]
    fn json_escapes_what_a_terminal_obeys() {
        let mut out = Vec::new();
        push_json(&mut out, "a\"b\\\n\u{1b}\u{9b}\u{202e}\u{fc}");
        let expected = "\"a\\\"b\\\\\\n\\u001b\\u009b\\u202e\u{fc}\"";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn time_is_rfc_3339_in_utc() {
        let now = now();
        assert_eq!(now.len(), "2026-11-21T09:38:31.123456Z".len(), "{now}");
        assert!(now.ends_with('Z') && now.as_bytes()[10] == b'T', "{now}");
    }

    proptest! {
        #[test]
        fn json_strings_are_read_back_by_another_parser(text in any::<String>()) {
            let mut out = Vec::new();
            push_json(&mut out, &text);
            let read: String = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(read, text);
        }

        #[test]
        fn json_values_are_read_back_and_harm_no_terminal(text in any::<String>()) {
            let value = serde_json::json!({ "a": [text, 1, null] });
            let mut out = Vec::new();
            push_json_value(&mut out, &value);
            let shown = String::from_utf8(out).unwrap();
            prop_assert!(!shown.chars().any(|shown| is_escaped(shown) && !"\"\\".contains(shown)));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }

        #[test]
        fn no_bytes_bring_a_control_character_to_a_terminal(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let shown = printable(&bytes);
            prop_assert!(!shown.chars().any(char::is_control), "{:?}", shown);
        }
    }
}
