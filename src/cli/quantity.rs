//! What the text of a command's own options may be: times, rates, headers, separators.
//!
//! Pure functions from text to value, for options that only a flag gives. [`flag`] makes a parser for the command line of
//! one of them, so that what is wrong is said in the same words as for a setting.

use std::fmt;
use std::time::Duration;

use super::problem::{HeaderReason, WrongOption};
use super::value;

/// The longest time an option can ask for: a day. A longer one is a mistyped unit.
pub const TIME_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The most of anything that can be counted on a command line: what a file of JSON numbers still holds exactly.
pub const COUNT_MAX: u64 = 1 << 53;

/// A header, as it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Without the colon.
    pub name: String,
    /// Without the spaces around it.
    pub value: String,
}

/// How many events a second, above zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(pub f64);

impl Rate {
    /// When the event of this number is due, counted from the first, which is number 0.
    pub fn due(self, number: u64) -> Duration {
        Duration::try_from_secs_f64(number as f64 / self.0).unwrap_or(Duration::MAX)
    }
}

/// Makes the parser of an option from a rule about its text.
pub fn flag<T, E: fmt::Display>(
    rule: impl Fn(&str) -> Result<T, E> + Clone,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| rule(text).map_err(|wrong| wrong.to_string())
}

/// Reads how many, at least one.
pub fn count(text: &str) -> Result<u64, String> {
    value::parse_count(text, 1, COUNT_MAX).map_err(|wrong| wrong.to_string())
}

/// Reads a time such as `2s`, `1.5s`, `500ms`, `250us`, `5m` or `1h`; a bare number is seconds.
pub fn parse_time(text: &str) -> Result<Duration, WrongOption> {
    // `ms` before `s`, which it ends in.
    let units = [
        ("us", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3_600.0),
    ];
    let unit = units
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds)));
    let (number, seconds) = unit.unwrap_or((text, 1.0));
    let time = decimal(number.trim_end())
        .and_then(|number| Duration::try_from_secs_f64(number * seconds).ok());
    match time {
        Some(time) if !time.is_zero() && time <= TIME_MAX => Ok(time),
        _ => Err(WrongOption::Time {
            given: text.to_string(),
            max: TIME_MAX,
        }),
    }
}

/// Reads a rate such as `1000`, `1000/s`, `90/m` or `5/h`.
pub fn parse_rate(text: &str) -> Result<Rate, WrongOption> {
    let (number, seconds) = match text.split_once('/') {
        None => (Some(text), 1.0),
        Some((number, "s")) => (Some(number), 1.0),
        Some((number, "m")) => (Some(number), 60.0),
        Some((number, "h")) => (Some(number), 3_600.0),
        Some(_) => (None, 1.0),
    };
    let rate = number.and_then(decimal).map(|number| number / seconds);
    match rate {
        // The ends keep what is computed from a rate within a day of microseconds.
        Some(rate) if (1e-5..=1e9).contains(&rate) => Ok(Rate(rate)),
        _ => Err(WrongOption::Rate(text.to_string())),
    }
}

/// Digits, with at most one point between them. More than `f64` takes is no number a user means, such as `inf`.
fn decimal(text: &str) -> Option<f64> {
    let legal = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('.') {
        Some((whole, fraction)) if legal(whole) && legal(fraction) => text.parse().ok(),
        None if legal(text) => text.parse().ok(),
        _ => None,
    }
}

/// Reads a header written as `name: value`, by the native protocol's rules (NATIVE.md, "The message").
pub fn parse_header(text: &str) -> Result<Header, WrongOption> {
    let wrong = |reason| WrongOption::Header(text.to_string(), reason);
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| wrong(HeaderReason::NoColon))?;
    if !(1..=255).contains(&name.len()) || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong(HeaderReason::BadName));
    }
    let value = value.trim_matches(' ');
    if value.contains(['\r', '\n', '\0']) {
        return Err(wrong(HeaderReason::BadValue));
    }
    Ok(Header {
        name: name.to_string(),
        value: value.to_string(),
    })
}

/// What stands behind each payload; not a list of values, which the command line would take it for as a `Vec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Separator(pub Vec<u8>);

/// Reads a separator, in which `\n`, `\r`, `\t`, `\0`, `\\` and `\x1f` stand for bytes that are hard to type.
pub fn parse_separator(text: &str) -> Result<Separator, WrongOption> {
    let mut bytes = Vec::new();
    let mut rest = text;
    // Ends because each round takes at least one byte off the rest.
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let (byte, length) = match after.as_bytes().first() {
            Some(b'n') => (Some(b'\n'), 1),
            Some(b'r') => (Some(b'\r'), 1),
            Some(b't') => (Some(b'\t'), 1),
            Some(b'0') => (Some(0), 1),
            Some(b'\\') => (Some(b'\\'), 1),
            Some(b'x') => (after.get(1..3).and_then(hexadecimal), 3),
            _ => (None, 0),
        };
        bytes.push(byte.ok_or_else(|| WrongOption::Escape(after.chars().take(3).collect()))?);
        rest = &after[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(Separator(bytes))
}

fn hexadecimal(digits: &str) -> Option<u8> {
    let legal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    legal.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_documented_form() {
        for (text, micros) in [
            ("2s", 2_000_000),
            ("2", 2_000_000),
            ("0.2", 200_000),
            ("1.5s", 1_500_000),
            ("500ms", 500_000),
            ("250us", 250),
            ("5m", 300_000_000),
            ("1h", 3_600_000_000),
            ("2 s", 2_000_000),
        ] {
            let expected = Duration::from_micros(micros);
            assert_eq!(parse_time(text).unwrap(), expected, "{text}");
        }
        for text in [
            "", "0", "0ms", "s", "-1s", "1e3", "inf", "NaN", "1.s", ".5", "25h", "1d",
        ] {
            let message = parse_time(text).unwrap_err().to_string();
            assert!(message.contains("500ms"), "{text}: {message}");
        }
    }

    #[test]
    fn rates_are_read_in_every_documented_form() {
        for (text, rate) in [
            ("1000", 1000.0),
            ("1000/s", 1000.0),
            ("90/m", 1.5),
            ("3600/h", 1.0),
        ] {
            assert_eq!(parse_rate(text).unwrap(), Rate(rate), "{text}");
        }
        for text in [
            "",
            "0",
            "0/s",
            "/s",
            "10/d",
            "10/",
            "1/s/s",
            "-1",
            "1e10",
            "99999999999",
        ] {
            let message = parse_rate(text).unwrap_err().to_string();
            assert!(message.contains("1000/s"), "{text}: {message}");
        }
        assert_eq!(Rate(4.0).due(6), Duration::from_millis(1_500));
        assert_eq!(Rate(4.0).due(0), Duration::ZERO);
    }

    #[test]
    fn header_keeps_its_value_but_for_spaces_around_it() {
        for (text, name, value) in [
            ("id: 7", "id", "7"),
            ("id:7", "id", "7"),
            ("id:", "id", ""),
            ("a:  b : c ", "a", "b : c"),
            ("X-Y: \t", "X-Y", "\t"),
        ] {
            let expected = Header {
                name: name.to_string(),
                value: value.to_string(),
            };
            assert_eq!(parse_header(text).unwrap(), expected, "{text}");
        }
        for (text, part) in [
            ("id", "has no colon"),
            (": 7", "the name in"),
            ("a b: 7", "the name in"),
            ("gr\u{fc}n: 7", "the name in"),
            ("id: a\nb", "the value in"),
            ("id: a\0", "the value in"),
        ] {
            let message = parse_header(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
            assert!(
                message.ends_with("write a header as 'name: value'."),
                "{message}"
            );
        }
        assert!(parse_header(&format!("{}: x", "n".repeat(255))).is_ok());
        assert!(parse_header(&format!("{}: x", "n".repeat(256))).is_err());
    }

    #[test]
    fn separator_stands_for_bytes_that_are_hard_to_type() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("\\n", b"\n"),
            ("a\\tb\\\\n", b"a\tb\\n"),
            ("\\0\\x1f\\xFF", b"\x00\x1f\xff"),
            ("\u{2028}", "\u{2028}".as_bytes()),
        ] {
            assert_eq!(parse_separator(text).unwrap().0, bytes, "{text}");
        }
        for text in ["\\", "\\q", "\\x1", "\\x+1", "\\xg0", "\\x\u{e9}"] {
            let message = parse_separator(text).unwrap_err().to_string();
            assert!(message.contains("means nothing here"), "{text}: {message}");
        }
    }
}
