//! What a command prints for an event or a reply: a line for people, the payload alone, or a JSON object.
//!
//! Owns the three forms, which scripts rely on; src/docs/examples.md and the help texts describe them. Knows neither connections nor
//! stdout: it appends to a buffer. Notices, which are about events that are missing, have the same forms but go to stderr.
//! Start at [`Render::push`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use sapwood_client::Message;

use super::quantity::{self, Separator};
use super::text;

/// The flags that choose how events are printed.
#[derive(Args, Debug, Default)]
pub struct RenderArgs {
    /// Print the headers and the reply topic too, each on a line of its own
    #[arg(long, conflicts_with_all = ["raw", "json"])]
    pub headers: bool,
    /// Print when each arrived here
    #[arg(long, conflicts_with = "raw")]
    pub timestamps: bool,
    /// Print payloads as they are and nothing else, control characters included
    #[arg(long, conflicts_with = "json")]
    pub raw: bool,
    /// What stands behind each payload, with \n \r \t \0 \\ \xHH for bytes that are hard to type [default: \n]
    #[arg(long, value_name = "TEXT", requires = "raw", value_parser = quantity::flag(quantity::parse_separator))]
    pub separator: Option<Separator>,
    /// Print one JSON object a line: topic, reply, headers, data (or data_b64 if it is not UTF-8), time
    #[arg(long)]
    pub json: bool,
}

/// Whether a line for people begins with the topic, which it need not where all are answers to one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topics {
    /// It does.
    Shown,
    /// It does not.
    Hidden,
}

#[derive(Debug, PartialEq, Eq)]
enum Form {
    Text { headers: bool, timestamps: bool },
    Raw { separator: Vec<u8> },
    Json,
}

/// How events are printed.
#[derive(Debug)]
pub struct Render {
    form: Form,
    topics: Topics,
}

/// The parts of an event.
#[derive(Clone, Debug, Default)]
pub struct Parts<'a> {
    /// Where it was published.
    pub topic: &'a [u8],
    /// Where replies go.
    pub reply: Option<&'a [u8]>,
    /// Names and values, in order.
    pub headers: Vec<(&'a [u8], &'a [u8])>,
    /// The end mark of replies.
    pub is_end: bool,
    /// What was published.
    pub payload: &'a [u8],
}

impl<'a> From<&'a Message> for Parts<'a> {
    fn from(message: &'a Message) -> Parts<'a> {
        Parts {
            topic: message.topic(),
            reply: message.reply(),
            headers: message.headers().collect(),
            is_end: message.is_end(),
            payload: message.payload(),
        }
    }
}

impl Render {
    /// As the flags say.
    pub fn new(args: &RenderArgs, topics: Topics) -> Render {
        let form = if args.json {
            Form::Json
        } else if args.raw {
            let separator = args.separator.as_ref();
            Form::Raw {
                separator: separator.map_or(b"\n".to_vec(), |separator| separator.0.clone()),
            }
        } else {
            Form::Text {
                headers: args.headers,
                timestamps: args.timestamps,
            }
        };
        Render { form, topics }
    }

    /// Whether [`push`](Render::push) wants to know the time.
    pub fn wants_time(&self) -> bool {
        match self.form {
            Form::Text { timestamps, .. } => timestamps,
            Form::Raw { .. } => false,
            Form::Json => true,
        }
    }

    /// Appends an event that arrived at `time`.
    pub fn push(&self, out: &mut Vec<u8>, event: &Parts<'_>, time: &str) {
        match &self.form {
            Form::Raw { separator } => {
                out.extend_from_slice(event.payload);
                out.extend_from_slice(separator);
            }
            Form::Json => push_json_event(out, event, time),
            Form::Text {
                headers,
                timestamps,
            } => {
                if *timestamps {
                    out.extend_from_slice(time.as_bytes());
                    out.push(b' ');
                }
                if self.topics == Topics::Shown {
                    text::push_printable(out, event.topic);
                    out.push(b' ');
                }
                text::push_printable(out, event.payload);
                out.push(b'\n');
                if *headers {
                    push_attributes(out, event);
                }
            }
        }
    }

    /// A notice as it stands on stderr, its line end included: a name and numbers for programs, a sentence for people.
    pub fn notice(&self, name: &str, numbers: &[(&str, u64)], sentence: &str) -> String {
        if self.form != Form::Json {
            return format!("sapwood: {sentence}\n");
        }
        let mut out = b"{\"notice\":".to_vec();
        text::push_json(&mut out, name);
        for (name, number) in numbers {
            out.extend_from_slice(format!(",\"{name}\":{number}").as_bytes());
        }
        out.extend_from_slice(b",\"text\":");
        text::push_json(&mut out, sentence);
        push_time(&mut out, &text::now());
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// The lines below an event. No header's name has a space in it, so none can pass for one of ours.
fn push_attributes(out: &mut Vec<u8>, event: &Parts<'_>) {
    if let Some(reply) = event.reply {
        out.extend_from_slice(b"  reply topic: ");
        text::push_printable(out, reply);
        out.push(b'\n');
    }
    for (name, value) in &event.headers {
        out.extend_from_slice(b"  ");
        text::push_printable(out, name);
        out.extend_from_slice(b": ");
        text::push_printable(out, value);
        out.push(b'\n');
    }
    if event.is_end {
        out.extend_from_slice(b"  last reply\n");
    }
}

fn push_json_event(out: &mut Vec<u8>, event: &Parts<'_>, time: &str) {
    out.push(b'{');
    push_json_bytes(out, "topic", event.topic);
    if let Some(reply) = event.reply {
        out.push(b',');
        push_json_bytes(out, "reply", reply);
    }
    if !event.headers.is_empty() {
        out.extend_from_slice(b",\"headers\":");
        for (index, (name, value)) in event.headers.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"[{" } else { b",{" });
            push_json_bytes(out, "name", name);
            out.push(b',');
            push_json_bytes(out, "value", value);
            out.push(b'}');
        }
        out.push(b']');
    }
    if event.is_end {
        out.extend_from_slice(b",\"last\":true");
    }
    out.push(b',');
    push_json_bytes(out, "data", event.payload);
    push_time(out, time);
}

/// Appends the last pair of an object, and ends its line.
fn push_time(out: &mut Vec<u8>, time: &str) {
    out.extend_from_slice(b",\"time\":");
    text::push_json(out, time);
    out.extend_from_slice(b"}\n");
}

/// Appends a pair: the bytes as text, or under the name with `_b64` as base64 (RFC 4648) if they are not UTF-8.
fn push_json_bytes(out: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    match std::str::from_utf8(bytes) {
        Ok(value) => {
            out.extend_from_slice(b"\":");
            text::push_json(out, value);
        }
        Err(_) => {
            out.extend_from_slice(b"_b64\":\"");
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            out.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-11-21T09:38:31.123456Z";

    fn full() -> Parts<'static> {
        Parts {
            topic: b"a.b",
            reply: Some(b"r.1"),
            headers: vec![(b"id", b"7"), (b"bin", b"\xff"), (b"id", b"8\x1b")],
            is_end: true,
            payload: b"x\xff\ny",
        }
    }

    fn bare() -> Parts<'static> {
        Parts {
            topic: b"a",
            payload: b"hi \xc3\xbc\n",
            ..Parts::default()
        }
    }

    fn push(args: &RenderArgs, topics: Topics, event: &Parts<'_>) -> String {
        let mut out = Vec::new();
        Render::new(args, topics).push(&mut out, event, TIME);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn line_for_people_has_topic_and_escaped_payload() {
        let args = RenderArgs::default();
        assert_eq!(push(&args, Topics::Shown, &full()), "a.b x\\xff\\ny\n");
        assert_eq!(push(&args, Topics::Hidden, &bare()), "hi \u{fc}\\n\n");
    }

    #[test]
    fn headers_and_time_are_printed_if_asked() {
        let args = RenderArgs {
            headers: true,
            timestamps: true,
            ..RenderArgs::default()
        };
        let expected = "2026-11-21T09:38:31.123456Z a.b x\\xff\\ny\n  reply topic: r.1\n  id: 7\n  bin: \\xff\n  id: 8\\x1b\n  last reply\n";
        assert_eq!(push(&args, Topics::Shown, &full()), expected);
    }

    #[test]
    fn raw_is_the_payload_and_the_separator() {
        let render = |separator: Option<&[u8]>| {
            let args = RenderArgs {
                raw: true,
                separator: separator.map(|bytes| Separator(bytes.to_vec())),
                ..RenderArgs::default()
            };
            let mut out = Vec::new();
            Render::new(&args, Topics::Shown).push(&mut out, &full(), "");
            out
        };
        assert_eq!(render(None), b"x\xff\ny\n");
        assert_eq!(render(Some(b"")), b"x\xff\ny");
        assert_eq!(render(Some(b"\0\0")), b"x\xff\ny\0\0");
    }

    #[test]
    fn json_is_one_line_and_keeps_every_byte() {
        let args = RenderArgs {
            json: true,
            ..RenderArgs::default()
        };
        let line = push(&args, Topics::Shown, &full());
        assert_eq!(line.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({
            "topic": "a.b",
            "reply": "r.1",
            "headers": [
                {"name": "id", "value": "7"},
                {"name": "bin", "value_b64": "/w=="},
                {"name": "id", "value": "8\u{1b}"},
            ],
            "last": true,
            "data_b64": "eP8KeQ==",
            "time": TIME,
        });
        assert_eq!(value, expected);
        let line = push(&args, Topics::Hidden, &bare());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({"topic": "a", "data": "hi \u{fc}\n", "time": TIME});
        assert_eq!(value, expected);
    }

    #[test]
    fn notice_is_a_sentence_or_an_object() {
        let text = Render::new(&RenderArgs::default(), Topics::Shown);
        let numbers = [("events", 3)];
        let sentence = "up to 3 events are missing";
        let notice = text.notice("gap", &numbers, sentence);
        assert_eq!(notice, "sapwood: up to 3 events are missing\n");
        let args = RenderArgs {
            json: true,
            ..RenderArgs::default()
        };
        let notice = Render::new(&args, Topics::Shown).notice("gap", &numbers, sentence);
        let value: serde_json::Value = serde_json::from_str(&notice).unwrap();
        assert_eq!(value["notice"], "gap");
        assert_eq!(value["events"], 3);
        assert_eq!(value["text"], sentence);
        assert!(value["time"].is_string());
    }
}
