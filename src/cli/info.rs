//! `sapwood info`: asks a running broker for its counters, and prints them for people or for programs.
//!
//! Over the native protocol as a client of that, see [`native`]. Otherwise it speaks just enough of the Redis protocol (RESP2, redis.io/docs/latest/develop/reference/protocol-spec) for `AUTH` and
//! `INFO` over a blocking socket. It takes the reply as foreign bytes: capped, and control characters are escaped before
//! they reach a terminal.

mod native;

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Map, Value};

use super::config::{self, Environment, Flags, Key, Password};
use super::connect::{self, ConnectArgs};
use super::problem::{Problem, Wrong};
use super::value::{self, Listen};
use super::{Failure, InfoArgs};

/// The longest reply that is read: all counters of a thousand shards fit many times.
const REPLY_BYTES_MAX: u64 = 4 << 20;

/// The longest line of a reply that is not its body: an error's text.
const LINE_BYTES_MAX: u64 = 4 << 10;

/// How long to wait to be connected, and for each part of the reply: a healthy broker answers in under a millisecond.
const WAIT: Duration = Duration::from_secs(5);

/// One section of INFO: its name and its pairs, in the broker's order.
type Section = (String, Vec<(String, String)>);

/// Why the counters could not be printed.
#[derive(Debug)]
pub enum InfoError {
    /// No connection.
    Connect(SocketAddr, io::Error),
    /// The connection ended or stalled.
    Broken(SocketAddr, io::Error),
    /// The broker refused; holds its own words, and whether a password was sent.
    Refused(String, bool),
    /// What answers does not speak the Redis protocol, or not as expected.
    NotRedis(SocketAddr),
    /// There is no such section.
    UnknownSection {
        /// What was asked for.
        asked: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Stdout does not take the output.
    Output(io::Error),
}

impl InfoError {
    /// Whether the command line was wrong, rather than the broker.
    pub fn is_usage(&self) -> bool {
        matches!(self, InfoError::UnknownSection { .. })
    }
}

impl fmt::Display for InfoError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InfoError::Connect(address, error) if error.kind() == ErrorKind::ConnectionRefused => {
                write!(
                    out,
                    "nothing listens on {address}. Start a broker with `sapwood serve`, or name another address with --redis (or \
                     SAPWOOD_REDIS) or --native."
                )
            }
            InfoError::Connect(address, error) => {
                write!(
                    out,
                    "cannot connect to {address}: {error}. Name another address with --redis."
                )
            }
            InfoError::Broken(address, error) if error.kind() == ErrorKind::WouldBlock => {
                write!(out, "{address} did not answer within {} s.", WAIT.as_secs())
            }
            InfoError::Broken(address, error) => {
                write!(out, "{address} did not answer to the end: {error}.")
            }
            InfoError::Refused(reason, _) if reason.starts_with("NOAUTH") => write!(
                out,
                "the broker wants a password. Give it with --password-file FILE, or as SAPWOOD_PASSWORD in the environment."
            ),
            InfoError::Refused(reason, true) if reason.starts_with("WRONGPASS") => {
                write!(out, "the broker does not take this password.")
            }
            InfoError::Refused(reason, _) => {
                write!(out, "the broker refused: {}", printable(reason))
            }
            InfoError::NotRedis(address) => {
                write!(
                    out,
                    "what listens on {address} does not answer INFO as the Redis protocol has it."
                )
            }
            InfoError::UnknownSection { asked, known } => {
                write!(
                    out,
                    "there is no section {asked:?}; there are: {}.",
                    known.join(", ")
                )
            }
            InfoError::Output(error) => write!(out, "cannot write to stdout: {error}."),
        }
    }
}

/// Asks and prints.
///
/// Errors: wrong settings or section, exit code 2; a broker that cannot be asked, exit code 1. A reader that closes
/// stdout early, such as `head`, is not an error.
pub fn run(args: &InfoArgs, environment: &Environment) -> Result<(), Failure> {
    let sections = match &args.native {
        Some(native) => {
            let args = ConnectArgs::at(native.clone(), args.wait, args.common.clone());
            native::ask(&args, environment)?
        }
        None => ask_redis(args, environment)?,
    };
    let sections = choose(sections, args.section.as_deref()).map_err(Failure::Info)?;
    let output = match args.json {
        true => format!("{:#}\n", json(&sections)),
        false => table(&sections),
    };
    match io::stdout()
        .write_all(output.as_bytes())
        .and_then(|()| io::stdout().flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Info(InfoError::Output(error)))
        }
        _ => Ok(()),
    }
}

/// Asks where the broker listens for Redis clients.
fn ask_redis(args: &InfoArgs, environment: &Environment) -> Result<Vec<Section>, Failure> {
    let flags = Flags {
        config: args.common.config.clone(),
        given: vec![
            (Key::Redis, args.redis.clone()),
            (Key::PasswordFile, args.common.password_file.clone()),
        ],
    };
    let settings = config::resolve(flags, environment).map_err(Failure::Config)?;
    for warning in &settings.warnings {
        connect::say(&format!("sapwood: {warning}\n"));
    }
    let address = match settings.redis.value {
        Listen::At(address) if address.port() != 0 => value::reachable(address),
        _ => {
            let problem = Problem {
                source: settings.redis.source,
                wrong: Wrong::NoAddressToAsk("--redis", config::REDIS_DEFAULT),
            };
            return Err(Failure::Config(vec![problem]));
        }
    };
    let text = ask(address, settings.password.as_ref()).map_err(Failure::Info)?;
    Ok(parse(&text))
}

/// Connects, authenticates where there is a password, and returns the text of `INFO everything`.
fn ask(address: SocketAddr, password: Option<&Password>) -> Result<String, InfoError> {
    let broken = |error| InfoError::Broken(address, error);
    let mut stream = TcpStream::connect_timeout(&address, WAIT)
        .map_err(|error| InfoError::Connect(address, error))?;
    stream.set_read_timeout(Some(WAIT)).map_err(broken)?;
    stream.set_write_timeout(Some(WAIT)).map_err(broken)?;
    let mut request = Vec::new();
    if let Some(password) = password {
        append_command(&mut request, &[b"AUTH", &password.0]);
    }
    append_command(&mut request, &[b"INFO", b"everything"]);
    stream.write_all(&request).map_err(broken)?;
    let mut reader = BufReader::new(stream);
    // An open broker refuses AUTH but answers INFO all the same, so only INFO's own refusal counts.
    let auth_refusal = match password {
        Some(_) => read_reply(&mut reader, address)?.err(),
        None => None,
    };
    let reply = read_reply(&mut reader, address)?;
    reply.map_err(|reason| InfoError::Refused(auth_refusal.unwrap_or(reason), password.is_some()))
}

fn append_command(request: &mut Vec<u8>, words: &[&[u8]]) {
    request.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        request.extend_from_slice(word);
        request.extend_from_slice(b"\r\n");
    }
}

/// One reply: a string of either form, or the text of an error.
fn read_reply(
    reader: &mut impl BufRead,
    address: SocketAddr,
) -> Result<Result<String, String>, InfoError> {
    let broken = |error| InfoError::Broken(address, error);
    let mut line = Vec::new();
    reader
        .take(LINE_BYTES_MAX)
        .read_until(b'\n', &mut line)
        .map_err(broken)?;
    if line.is_empty() {
        return Err(broken(ErrorKind::UnexpectedEof.into()));
    }
    let text = String::from_utf8_lossy(&line);
    let text = text
        .strip_suffix("\r\n")
        .ok_or(InfoError::NotRedis(address))?;
    match text.split_at_checked(1) {
        Some(("+", status)) => Ok(Ok(status.to_string())),
        Some(("-", reason)) => Ok(Err(reason.to_string())),
        Some(("$", length)) => {
            let length = length
                .parse::<u64>()
                .ok()
                .filter(|length| *length <= REPLY_BYTES_MAX);
            let length = length.ok_or(InfoError::NotRedis(address))?;
            let mut body = Vec::new();
            reader
                .take(length + 2)
                .read_to_end(&mut body)
                .map_err(broken)?;
            if body.len() as u64 != length + 2 {
                return Err(broken(ErrorKind::UnexpectedEof.into()));
            }
            body.truncate(length as usize);
            Ok(Ok(String::from_utf8_lossy(&body).into_owned()))
        }
        _ => Err(InfoError::NotRedis(address)),
    }
}

/// Splits INFO's text (`# Section`, then `key:value` lines) into its sections.
fn parse(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
    {
        if let Some(name) = line.strip_prefix('#') {
            sections.push((printable(name.trim()), Vec::new()));
        } else if let Some((key, value)) = line.split_once(':') {
            if sections.is_empty() {
                sections.push(("General".to_string(), Vec::new()));
            }
            if let Some((_, pairs)) = sections.last_mut() {
                pairs.push((printable(key), printable(value)));
            }
        }
    }
    sections
}

fn choose(sections: Vec<Section>, asked: Option<&str>) -> Result<Vec<Section>, InfoError> {
    let Some(asked) = asked else {
        return Ok(sections);
    };
    let known: Vec<_> = sections
        .iter()
        .map(|(name, _)| name.to_lowercase())
        .collect();
    let chosen: Vec<_> = sections
        .into_iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(asked))
        .collect();
    match chosen.is_empty() {
        true => Err(InfoError::UnknownSection {
            asked: asked.to_string(),
            known,
        }),
        false => Ok(chosen),
    }
}

fn table(sections: &[Section]) -> String {
    let blocks = sections.iter().map(|(name, pairs)| {
        let width = pairs
            .iter()
            .map(|(key, _)| key.chars().count())
            .max()
            .unwrap_or(0);
        let lines = pairs
            .iter()
            .map(|(key, value)| format!("  {key:<width$}  {value}\n"));
        format!("{name}\n{}", lines.collect::<String>())
    });
    blocks.collect::<Vec<_>>().join("\n")
}

/// One object for each section, under its name in lower case. Whole numbers are numbers, everything else is a string.
fn json(sections: &[Section]) -> Value {
    let sections = sections.iter().map(|(name, pairs)| {
        let pairs = pairs
            .iter()
            .map(|(key, value)| (key.clone(), json_value(value)));
        (
            name.to_lowercase(),
            Value::Object(pairs.collect::<Map<_, _>>()),
        )
    });
    Value::Object(sections.collect())
}

fn json_value(text: &str) -> Value {
    match text.parse::<i64>() {
        // `007` or `+7` would not come back as they were.
        Ok(number) if number.to_string() == text => number.into(),
        _ => text.into(),
    }
}

/// Escapes what could steer a terminal.
fn printable(text: &str) -> String {
    let escaped = text
        .chars()
        .flat_map(|character| match character.is_control() {
            true => character.escape_default().collect::<Vec<_>>(),
            false => vec![character],
        });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Server\r\nredis_version:7.4.0\r\ntcp_port:7463\r\n\r\n# Sapwood\r\nrun_id:007\r\nbad:\x1b[2J\r\n";

    #[test]
    fn table_aligns_each_section_by_itself() {
        let expected = "Server\n  redis_version  7.4.0\n  tcp_port       7463\n\nSapwood\n  run_id  007\n  bad     \\u{1b}[2J\n";
        assert_eq!(table(&parse(TEXT)), expected);
    }

    #[test]
    fn json_keeps_order_and_only_makes_numbers_of_numbers() {
        let text = json(&parse(TEXT)).to_string();
        let expected = r#"{"server":{"redis_version":"7.4.0","tcp_port":7463},"sapwood":{"run_id":"007","bad":"\\u{1b}[2J"}}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn unknown_section_names_those_there_are() {
        let chosen = choose(parse(TEXT), Some("SERVER")).unwrap();
        assert_eq!(chosen.len(), 1);
        let error = choose(parse(TEXT), Some("memory")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no section \"memory\"; there are: server, sapwood."
        );
    }

    #[test]
    fn replies_that_are_not_redis_or_too_long_are_refused() {
        let address = config::REDIS_DEFAULT;
        let read = |bytes: &[u8]| read_reply(&mut io::Cursor::new(bytes.to_vec()), address);
        assert_eq!(read(b"$5\r\nhello\r\n").unwrap().unwrap(), "hello");
        assert_eq!(read(b"-NOAUTH no\r\n").unwrap().unwrap_err(), "NOAUTH no");
        for bytes in [
            &b"$99999999999\r\n"[..],
            b"$-1\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            b"$5\r\nhel",
            b"",
            b"\r\n",
            b"\xff\r\n",
            &[b'-'; 5_000],
        ] {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
    }
}
