//! `sapwood stream`: makes, lists, reads and empties streams, and publishes into them.
//!
//! Owns the flags, and how streams are printed. What is read is printed by `stream/read.rs`. Every answer comes before the
//! command ends: what `publish` has reported is as safe as the stream promises.

mod read;

use std::time::Duration;

use clap::{Args, Subcommand};
use sapwood_client::Client;
use sapwood_client::error::StreamError;
use sapwood_client::stream::{
    Creation, Discard, Durability, MessageTtl, Purge, StoredAt, StreamConfig, StreamInfo,
};
use serde_json::{Value, json};

use super::Failure;
use super::config::Environment;
use super::connect::{self, ConnectArgs, Connector, Threads};
use super::output::Output;
use super::payload::PayloadArgs;
use super::quantity;
use super::text;
use super::trouble::Trouble;
use super::value;

/// The largest size that can be asked for: what a signed count of bytes holds.
const BYTES_MAX: u64 = 1 << 62;

/// What follows the options in the help.
pub const HELP: &str = "\
Examples:
  sapwood stream add orders 'orders.>'         keep what is published to these topics
  sapwood stream publish orders.new 'one cup'  publish, and wait until the disk has it
  sapwood stream read orders                   print what is kept
  sapwood stream read orders --follow --start new
  sapwood stream ls                            list the streams there are
  sapwood stream info orders                   what one is, and holds
  sapwood stream purge orders --keep 100       remove all but the newest 100
  sapwood stream rm orders                     remove the stream with all it keeps

A stream keeps the messages of its topics on disk and numbers them: 1, 2, 3 (their sequence). Anybody publishes to the
topics as always, by any protocol; subscribers get every message at once, and whoever reads the stream later gets it again.
The broker needs a data directory: sapwood serve --data DIR. `sapwood stream COMMAND --help` says more.

Exit codes: 0 done, 1 failed or refused, 2 wrong usage.";

const ADD_HELP: &str = "\
Examples:
  sapwood stream add orders 'orders.>'
  sapwood stream add sensors 'sensors.*.temperature' --max-age 24h --durability os
  sapwood stream add audit audit --max-bytes 10GiB --discard new

A stream that exists with the same settings is no error. Two streams cannot keep the same topic. Limits remove the oldest
messages, unless --discard new refuses new ones. fsync answers a publish when the disk has it; os when it is written, and
the disk has it within 100 ms: a crash of the machine, not of the broker, may lose those.";

const READ_HELP: &str = "\
Examples:
  sapwood stream read orders                    all that is kept, then end
  sapwood stream read orders 'orders.*.paid'    of these topics alone
  sapwood stream read orders --follow           all, then what comes, until Ctrl-C
  sapwood stream read orders --start 1000 --count 10
  sapwood stream read orders --start last-of-each
  sapwood stream read orders --json | jq -r .data

A line is the sequence, the topic and the payload, with \\n, \\x1b and the like for what is not printable. Where messages are
gone that should stand there, stderr says so (gap). With --json the last object on stderr has a token: --start TOKEN goes on
from there, also after days. Lost connections are made again with --follow.

Exit codes: 0 at the end, by --count, SIGINT, SIGTERM or the reader of its output, 1 failed, 2 wrong usage.";

/// The flags of `sapwood stream`.
#[derive(Args, Debug)]
pub struct StreamArgs {
    #[command(subcommand)]
    command: StreamCommand,
}

#[derive(Debug, Subcommand)]
enum StreamCommand {
    /// List streams
    Ls(ListArgs),
    /// Print what a stream is, and holds
    Info(InfoArgs),
    /// Make a stream
    #[command(after_help = ADD_HELP)]
    Add(AddArgs),
    /// Remove a stream with all it keeps
    Rm(RemoveArgs),
    /// Print what a stream keeps
    #[command(after_help = READ_HELP)]
    Read(read::ReadArgs),
    /// Publish, and wait until a stream has stored it
    Publish(PublishArgs),
    /// Remove messages
    Purge(PurgeArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Only those whose names begin so
    #[arg(default_value = "")]
    prefix: String,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Args, Debug)]
struct InfoArgs {
    /// The stream
    name: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Args, Debug)]
struct AddArgs {
    /// What it is called
    name: String,
    /// What it keeps: topics, or wildcards in quotes such as 'orders.>'
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// How long a message is kept, such as 24h [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = quantity::flag(quantity::parse_time))]
    max_age: Option<Duration>,
    /// How many bytes are kept, such as 10GiB [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_bytes: Option<u64>,
    /// How many messages are kept [default: no limit]
    #[arg(long, value_name = "N", value_parser = quantity::count)]
    max_messages: Option<u64>,
    /// What goes at a limit: old messages, or new ones are refused
    #[arg(long, value_name = "WHICH", value_parser = parse_discard, default_value = "old")]
    discard: Discard,
    /// For how long a message with the same Nats-Msg-Id is not stored again [default: not looked at]
    #[arg(long, value_name = "TIME", value_parser = quantity::flag(quantity::parse_time))]
    duplicate_window: Option<Duration>,
    /// When a message counts as stored: fsync or os
    #[arg(long, value_name = "WHEN", value_parser = parse_durability, default_value = "fsync")]
    durability: Durability,
    /// Messages may say how long they live, by the header Nats-TTL
    #[arg(long)]
    allow_ttl: bool,
    /// Change the stream of this name to these settings
    #[arg(long)]
    update: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Args, Debug)]
struct RemoveArgs {
    /// The stream
    name: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Args, Debug)]
struct PublishArgs {
    /// Where to publish: a topic that a stream keeps
    topic: String,
    #[command(flatten)]
    payload: PayloadArgs,
    /// Publish each line as a message of its own
    #[arg(long, conflicts_with = "message")]
    lines: bool,
    /// Print one JSON object for each message
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Args, Debug)]
struct PurgeArgs {
    /// The stream
    name: String,
    /// Only messages of this topic or wildcard
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Only messages before this sequence
    #[arg(long, value_name = "SEQUENCE")]
    before: Option<u64>,
    /// Leave so many of the newest
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep: u64,
    #[command(flatten)]
    connect: ConnectArgs,
}

fn parse_size(text: &str) -> Result<u64, String> {
    value::parse_size(text, 1, BYTES_MAX).map_err(|wrong| wrong.to_string())
}

fn parse_discard(text: &str) -> Result<Discard, String> {
    match text {
        "old" => Ok(Discard::Old),
        "new" => Ok(Discard::New),
        _ => Err(format!("{text:?} is not one of: old, new.")),
    }
}

fn parse_durability(text: &str) -> Result<Durability, String> {
    match text {
        "fsync" => Ok(Durability::Fsync),
        "os" => Ok(Durability::Os),
        _ => Err(format!("{text:?} is not one of: fsync, os.")),
    }
}

/// Carries out one of the commands.
///
/// Errors: wrong settings or usage, exit code 2; a broker that is not there or refuses, 1.
pub fn run(args: &StreamArgs, environment: &Environment) -> Result<(), Failure> {
    match &args.command {
        StreamCommand::Read(args) => read::run(args, environment),
        StreamCommand::Publish(args) => publish(args, environment),
        StreamCommand::Ls(args) => list(args, environment),
        StreamCommand::Info(args) => info(args, environment),
        StreamCommand::Add(args) => add(args, environment),
        StreamCommand::Rm(args) => {
            let work = async |client: Client| client.stream(&args.name).delete().await;
            let messages = ask(&args.connect, environment, &args.name, work)?;
            print_line(&format!(
                "removed {}, which kept {messages} messages",
                shown(&args.name)
            ))
        }
        StreamCommand::Purge(args) => {
            let purge = Purge {
                filter: args.topic.as_ref().map(|topic| topic.clone().into_bytes()),
                before: args.before,
                keep: args.keep,
            };
            let work = async |client: Client| client.stream(&args.name).purge(&purge).await;
            let messages = ask(&args.connect, environment, &args.name, work)?;
            print_line(&format!("removed {messages} messages"))
        }
    }
}

/// Connects, and asks one thing of the stream of this name.
fn ask<T>(
    args: &ConnectArgs,
    environment: &Environment,
    name: &str,
    work: impl AsyncFnOnce(Client) -> Result<T, StreamError>,
) -> Result<T, Failure> {
    let connector = Connector::new(args, environment)?;
    let runtime = connect::runtime(Threads::Here)?;
    let answer = runtime.block_on(async {
        let client = connector.connect(connector.builder()).await?;
        Ok::<_, Failure>(work(client).await)
    })?;
    answer.map_err(|error| Failure::Client(Trouble::Stream(name.to_string(), error)))
}

fn shown(name: &str) -> String {
    text::printable(name.as_bytes())
}

fn print_line(line: &str) -> Result<(), Failure> {
    let mut output = Output::new()?;
    output.buffer.extend_from_slice(line.as_bytes());
    output.buffer.push(b'\n');
    output.flush().map(|_| ())
}

fn list(args: &ListArgs, environment: &Environment) -> Result<(), Failure> {
    let work = async |client: Client| client.streams(&args.prefix).await;
    let infos = ask(&args.connect, environment, &args.prefix, work)?;
    let mut output = Output::new()?;
    if !args.json {
        push_table(&mut output.buffer, &infos);
        return output.flush().map(|_| ());
    }
    for info in &infos {
        push_object(&mut output.buffer, info);
        if output.write_if_much()?.is_break() {
            return Ok(());
        }
    }
    output.flush().map(|_| ())
}

/// Names and what they hold, in columns.
fn push_table(out: &mut Vec<u8>, infos: &[StreamInfo]) {
    let names = infos.iter().map(|info| text::printable(&info.config.name));
    let names: Vec<String> = names.collect();
    let width = names.iter().map(|name| name.chars().count()).max();
    let width = width.unwrap_or(0).max("stream".len());
    let mut line = |name: &str, messages: &str, bytes: &str, last: &str, topics: &str| {
        let line = format!("{name:<width$}  {messages:>12}  {bytes:>12}  {last:>12}  {topics}\n");
        out.extend_from_slice(line.as_bytes());
    };
    line("stream", "messages", "bytes", "last", "topics");
    for (name, info) in names.iter().zip(infos) {
        line(
            name,
            &info.messages.to_string(),
            &info.bytes.to_string(),
            &info.last.to_string(),
            &topics(&info.config),
        );
    }
}

fn topics(config: &StreamConfig) -> String {
    let topics = config.filters.iter().map(|filter| text::printable(filter));
    topics.collect::<Vec<_>>().join(" ")
}

fn push_object(out: &mut Vec<u8>, info: &StreamInfo) {
    text::push_json_value(out, &object(info));
    out.push(b'\n');
}

fn object(info: &StreamInfo) -> Value {
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let config = &info.config;
    json!({
        "stream": words(&config.name),
        "topics": config.filters.iter().map(|filter| words(filter)).collect::<Vec<_>>(),
        "messages": info.messages,
        "bytes": info.bytes,
        "first": info.first.0,
        "last": info.last.0,
        "first_ms": info.first_ms,
        "last_ms": info.last_ms,
        "partition": info.partition.0,
        "max_age_ms": config.age_ms_max,
        "max_bytes": config.bytes_max,
        "max_messages": config.messages_max,
        "discard": if config.discard == Discard::Old { "old" } else { "new" },
        "duplicate_window_ms": config.duplicate_window_ms,
        "durability": durability(config.durability),
        "allow_ttl": config.message_ttl == MessageTtl::Allowed,
    })
}

fn durability(durability: Durability) -> &'static str {
    match durability {
        Durability::Fsync => "fsync",
        Durability::Os => "os",
    }
}

fn info(args: &InfoArgs, environment: &Environment) -> Result<(), Failure> {
    let work = async |client: Client| client.stream(&args.name).info().await;
    let info = ask(&args.connect, environment, &args.name, work)?;
    let mut output = Output::new()?;
    if args.json {
        push_object(&mut output.buffer, &info);
        return output.flush().map(|_| ());
    }
    let config = &info.config;
    let limit = |limit: u64, unit: &str| match limit {
        0 => "no limit".to_string(),
        limit => format!("{limit}{unit}"),
    };
    for (what, is) in [
        ("stream", text::printable(&config.name)),
        ("topics", topics(config)),
        ("messages", info.messages.to_string()),
        ("bytes", info.bytes.to_string()),
        ("first", info.first.to_string()),
        ("last", info.last.to_string()),
        ("durability", durability(config.durability).to_string()),
        ("max age", limit(config.age_ms_max, " ms")),
        ("max bytes", limit(config.bytes_max, "")),
        ("max messages", limit(config.messages_max, "")),
    ] {
        let line = format!("{what:<12}  {is}\n");
        output.buffer.extend_from_slice(line.as_bytes());
    }
    output.flush().map(|_| ())
}

fn add(args: &AddArgs, environment: &Environment) -> Result<(), Failure> {
    let ms = |time: Option<Duration>| time.map_or(0, |time| time.as_millis() as u64);
    let filters = args.topics.iter().map(|topic| topic.clone().into_bytes());
    let config = StreamConfig {
        filters: filters.collect(),
        age_ms_max: ms(args.max_age),
        bytes_max: args.max_bytes.unwrap_or(0),
        messages_max: args.max_messages.unwrap_or(0),
        discard: args.discard,
        duplicate_window_ms: ms(args.duplicate_window),
        durability: args.durability,
        message_ttl: match args.allow_ttl {
            true => MessageTtl::Allowed,
            false => MessageTtl::Refused,
        },
        ..StreamConfig::default()
    };
    let name = shown(&args.name);
    if args.update {
        let work = async |client: Client| client.stream(&args.name).update(&config).await;
        ask(&args.connect, environment, &args.name, work)?;
        return print_line(&format!("changed {name}"));
    }
    let work = async |client: Client| client.stream(&args.name).create(&config).await;
    match ask(&args.connect, environment, &args.name, work)? {
        Creation::New => print_line(&format!("made {name}")),
        Creation::Existing => print_line(&format!("{name} is there already, as asked for")),
    }
}

fn publish(args: &PublishArgs, environment: &Environment) -> Result<(), Failure> {
    let connector = Connector::new(&args.connect, environment)?;
    let mut lines = match args.lines {
        true => Some(args.payload.lines()?),
        false => None,
    };
    let single = match lines {
        None => Some(args.payload.read()?),
        Some(_) => None,
    };
    let runtime = connect::runtime(Threads::One)?;
    let client = runtime.block_on(connector.connect(connector.builder()))?;
    // A publish says by itself which stream keeps its topic.
    let stream = client.stream("");
    let mut output = Output::new()?;
    let mut one = |payload: &[u8]| -> Result<(), Failure> {
        let message = args.payload.outgoing(&args.topic, payload);
        let stored = runtime.block_on(stream.publish_message(&message));
        let stored =
            stored.map_err(|error| Failure::Client(Trouble::Store(args.topic.clone(), error)))?;
        push_stored(&mut output.buffer, &stored, args.json);
        // If nobody reads the answers, publishing goes on.
        output.flush().map(|_| ())
    };
    if let Some(payload) = &single {
        one(payload)?;
    }
    if let Some(lines) = &mut lines {
        // Ends with the input, which may be endless: that is what was asked for.
        while let Some(line) = lines.next()? {
            one(line)?;
        }
    }
    Ok(())
}

fn push_stored(out: &mut Vec<u8>, stored: &StoredAt, is_json: bool) {
    let StoredAt {
        stream, sequence, ..
    } = stored;
    if is_json {
        let value = json!({
            "stream": stream,
            "sequence": sequence,
            "duplicate": stored.is_duplicate,
            "durability": durability(stored.durability),
        });
        text::push_json_value(out, &value);
        out.push(b'\n');
        return;
    }
    let duplicate = if stored.is_duplicate {
        " duplicate"
    } else {
        ""
    };
    let line = format!("{} {sequence}{duplicate}\n", shown(stream));
    out.extend_from_slice(line.as_bytes());
}
