//! A stream's configuration and state as JSON.
//!
//! Owns the names of the fields, their defaults, and what is said about a wrong one. Start at [`parse`].

use sapwood_wire::http::HttpError;
use sapwood_wire::state::{
    Discard, Durability, MessageTtl, Refusal, ResumeToken, StreamConfig, StreamInfo, is_plain_name,
};
use serde_json::{Map, Value, json};

/// Milliseconds within which an id is not stored again, unless the configuration says otherwise: two minutes, as in
/// JetStream.
const DUPLICATE_WINDOW_MS: u64 = 120_000;

/// The name of a durability.
pub(super) fn name_of(durability: Durability) -> &'static str {
    match durability {
        Durability::Fsync => "fsync",
        Durability::Os => "os",
    }
}

fn wrong(text: &str) -> HttpError {
    HttpError::new(400, "config_invalid", text)
}

/// Reads the configuration of a stream with this name; an empty body is the default one.
pub(super) fn parse(name: &[u8], body: &[u8]) -> Result<StreamConfig, HttpError> {
    if !is_plain_name(name) {
        let text = "a stream's name has 1 to 255 bytes, without blanks and . * > / \\";
        return Err(wrong(text));
    }
    let fields: Map<String, Value> = match body.trim_ascii() {
        [] => Map::new(),
        body => serde_json::from_slice(body).map_err(|error| {
            wrong(&format!(
                "the body is a JSON object, the configuration: {error}"
            ))
        })?,
    };
    let mut config = StreamConfig {
        name: name.to_vec(),
        duplicate_window_ms: DUPLICATE_WINDOW_MS,
        ..StreamConfig::default()
    };
    for (field, value) in &fields {
        set(&mut config, field, value)?;
    }
    config
        .check()
        .map_err(|error| super::error_of(Refusal::Config(error), b""))?;
    Ok(config)
}

fn set(config: &mut StreamConfig, field: &str, value: &Value) -> Result<(), HttpError> {
    let number = || {
        let text = format!("`{field}` is a whole number, 0 for no limit");
        value.as_u64().ok_or_else(|| wrong(&text))
    };
    match field {
        "topics" => {
            let text = "`topics` is a list of topics and wildcards";
            let all = value.as_array().ok_or_else(|| wrong(text))?;
            let each = all.iter().map(|one| one.as_str().map(Vec::from));
            config.filters = each.collect::<Option<_>>().ok_or_else(|| wrong(text))?;
        }
        "max_age_ms" => config.age_ms_max = number()?,
        "max_bytes" => config.bytes_max = number()?,
        "max_messages" => config.messages_max = number()?,
        "max_message_bytes" => {
            config.message_bytes_max = u32::try_from(number()?).unwrap_or(u32::MAX);
        }
        "duplicate_window_ms" => config.duplicate_window_ms = number()?,
        "durability" => {
            config.durability = match value.as_str() {
                Some("fsync") => Durability::Fsync,
                Some("os") => Durability::Os,
                _ => return Err(wrong("`durability` is \"fsync\" or \"os\"")),
            }
        }
        "discard" => {
            config.discard = match value.as_str() {
                Some("old") => Discard::Old,
                Some("new") => Discard::New,
                _ => return Err(wrong("`discard` is \"old\" or \"new\"")),
            }
        }
        "message_ttl" => {
            config.message_ttl = match value.as_bool() {
                Some(true) => MessageTtl::Allowed,
                Some(false) => MessageTtl::Refused,
                None => return Err(wrong("`message_ttl` is true or false")),
            }
        }
        _ => {
            return Err(wrong(&format!(
                "a configuration has no `{field}`: it has topics, max_age_ms, max_bytes, max_messages, max_message_bytes, duplicate_window_ms, durability, discard and message_ttl"
            )));
        }
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Value {
    String::from_utf8_lossy(bytes).into()
}

/// What a stream is, and holds. Its configuration may be PUT back.
pub(super) fn value_of(info: &StreamInfo) -> Value {
    let config = &info.config;
    let topics: Vec<Value> = config.filters.iter().map(|filter| text(filter)).collect();
    let end = ResumeToken {
        lineage: info.lineage,
        stream: info.number,
        sequence: info.last,
    };
    json!({
        "stream": text(&config.name),
        "config": {
            "topics": topics,
            "max_age_ms": config.age_ms_max,
            "max_bytes": config.bytes_max,
            "max_messages": config.messages_max,
            "max_message_bytes": config.message_bytes_max,
            "duplicate_window_ms": config.duplicate_window_ms,
            "durability": name_of(config.durability),
            "discard": match config.discard {
                Discard::Old => "old",
                Discard::New => "new",
            },
            "message_ttl": config.message_ttl == MessageTtl::Allowed,
        },
        "state": {
            "messages": info.messages,
            "bytes": info.bytes,
            "first_seq": info.first.0,
            "last_seq": info.last.0,
            "first_ms": info.first_ms,
            "last_ms": info.last_ms,
        },
        "resume": end.to_string(),
    })
}

/// The same as text.
pub(super) fn show(info: &StreamInfo) -> Vec<u8> {
    value_of(info).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sapwood_wire::state::{Lineage, PartitionId, Sequence, StreamNumber};

    fn refused(body: &str) -> String {
        let error = parse(b"orders", body.as_bytes()).expect_err(body);
        assert_eq!((error.status, error.code), (400, "config_invalid"));
        error.text
    }

    #[test]
    fn a_configuration_is_read_back_as_it_is_shown() {
        let body = r#"{"topics":["orders.>","audit"],"max_age_ms":1,"max_bytes":2,"max_messages":3,
            "max_message_bytes":4,"duplicate_window_ms":5,"durability":"os","discard":"new","message_ttl":true}"#;
        let config = parse(b"orders", body.as_bytes()).expect("all fields");
        let info = StreamInfo {
            lineage: Lineage(1),
            partition: PartitionId(2),
            number: StreamNumber(3),
            messages: 4,
            bytes: 5,
            first: Sequence(6),
            last: Sequence(7),
            first_ms: 8,
            last_ms: 9,
            config: config.clone(),
        };
        let shown = value_of(&info);
        assert_eq!(shown["resume"], "0000000000000001-3-7");
        let again = shown["config"].to_string();
        assert_eq!(parse(b"orders", again.as_bytes()), Ok(config));
    }

    #[test]
    fn what_is_wrong_in_a_configuration_is_named() {
        assert_eq!(parse(b"a", b"").map(|one| one.filters.len()), Ok(0));
        for (body, word) in [
            ("[]", "JSON object"),
            ("{", "JSON object"),
            (r#"{"topic":"a"}"#, "no `topic`"),
            (r#"{"topics":"a"}"#, "`topics`"),
            (r#"{"topics":[1]}"#, "`topics`"),
            (r#"{"topics":["a.>.b"]}"#, "filter"),
            (r#"{"topics":["$JS.a"]}"#, "$"),
            (r#"{"topics":["a","a"]}"#, "same topics"),
            (r#"{"max_bytes":-1}"#, "`max_bytes`"),
            (r#"{"durability":"disk"}"#, "fsync"),
            (r#"{"discard":1}"#, "`discard`"),
            (r#"{"message_ttl":"1s"}"#, "`message_ttl`"),
            (r#"{"max_message_bytes":99999999999}"#, "1114112"),
        ] {
            let text = refused(body);
            assert!(text.contains(word), "{body}: {text}");
        }
        assert!(parse(b"a.b", b"").is_err());
    }
}
