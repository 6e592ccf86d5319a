//! `sapwood stream read`: prints what a stream keeps, from where it is told.
//!
//! One page is asked for at a time, when the one before is printed, so that a slow reader holds up nobody.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use sapwood_client::error::StreamError;
use sapwood_client::stream::{AtHead, ReadOptions, Start, StoredMessage, StreamEvent};
use sapwood_client::tokio::Reading;
use serde_json::{Map, Value, json};
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::super::Failure;
use super::super::config::Environment;
use super::super::connect::{self, ConnectArgs, Connector, Threads};
use super::super::output::Output;
use super::super::quantity;
use super::super::stop::Stop;
use super::super::text;
use super::super::trouble::Trouble;

/// How many messages are printed before stdout is flushed and a signal is looked for.
const TURN_MESSAGES: usize = 256;

/// How long to rest before a page is asked for again whose connection broke.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// The flags of `sapwood stream read`.
#[derive(Args, Debug)]
pub struct ReadArgs {
    /// The stream
    name: String,
    /// Only these topics, or wildcards in quotes such as 'orders.*.paid'
    #[arg(value_name = "TOPIC")]
    topics: Vec<String>,
    /// Go on with what comes, until told to end
    #[arg(short, long)]
    follow: bool,
    /// Where to begin: first, last, new, last-of-each, a sequence, a time as ms:1796144291000, or a token
    #[arg(long, value_name = "WHERE", value_parser = parse_start, default_value = "first")]
    start: Start,
    /// End after so many messages
    #[arg(short = 'n', long, value_name = "N", value_parser = quantity::count)]
    count: Option<u64>,
    /// Print payloads as they are, each with a newline behind it
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Print one JSON object a line: sequence, ms, topic, headers, data (or data_b64 if it is not UTF-8)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

fn parse_start(text: &str) -> Result<Start, String> {
    let number = |text: &str| text.parse::<u64>().ok();
    match text {
        "first" => return Ok(Start::First),
        "last" => return Ok(Start::Last),
        "new" => return Ok(Start::New),
        "last-of-each" => return Ok(Start::LastOfEach),
        _ => {}
    }
    let time = text.strip_prefix("ms:").and_then(number).map(Start::Time);
    let place = time.or_else(|| number(text).map(Start::Sequence));
    let place = place.or_else(|| text.parse().ok().map(Start::Resume));
    place.ok_or_else(|| {
        format!(
            "{text:?} is not one of: first, last, new, last-of-each, a sequence, ms:TIME, or a token such as \
             00000000000000a7-3-1024."
        )
    })
}

/// Prints what a stream keeps.
///
/// Errors: wrong settings or usage, exit code 2; a broker that is not there or refuses, 1. A reader that closes stdout
/// early, such as `head`, is not an error.
pub fn run(args: &ReadArgs, environment: &Environment) -> Result<(), Failure> {
    let connector = Connector::new(&args.connect, environment)?;
    let stop = Stop::on_signal()?;
    stop.on_closed_stdout()?;
    let output = Output::new()?;
    let runtime = connect::runtime(Threads::Here)?;
    runtime.block_on(read(args, &connector, &stop, output))
}

async fn read(
    args: &ReadArgs,
    connector: &Connector,
    stop: &Stop,
    mut output: Output,
) -> Result<(), Failure> {
    let client = tokio::select! {
        client = connector.connect(connector.builder()) => client?,
        () = stop.wait() => return Ok(()),
    };
    let filters = args.topics.iter().map(|topic| topic.clone().into_bytes());
    let options = ReadOptions {
        start: args.start,
        filters: filters.collect(),
        at_head: match args.follow {
            true => AtHead::Follow,
            false => AtHead::End,
        },
    };
    let mut reading = client.stream(&args.name).read(options);
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut pushed = 0;
    // Ends at the count, at the head, or when it is told to.
    while left > 0 && !stop.is_stopped() {
        let mut next = pin!(reading.next());
        let at_once = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
        let event = match at_once {
            Poll::Ready(event) => event,
            Poll::Pending => {
                // Printed before it waits for more.
                if output.flush()?.is_break() {
                    break;
                }
                tokio::select! {
                    event = next => event,
                    () = stop.wait() => break,
                }
            }
        };
        match event {
            None => break,
            Some(Ok(StreamEvent::Message(message))) => {
                push(&mut output.buffer, &message, args);
                left -= 1;
                pushed += 1;
            }
            Some(Ok(event)) => notice(&event, args),
            Some(Err(StreamError::Unknown(doubt))) if args.follow => {
                connect::say(&format!("sapwood: {doubt}; asking again\n"));
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            Some(Err(error)) => {
                // What came before is printed.
                let _ = output.flush()?;
                return Err(Failure::Client(Trouble::Stream(args.name.clone(), error)));
            }
        }
        if pushed % TURN_MESSAGES == 0 && output.write_if_much()?.is_break() {
            break;
        }
    }
    let _ = output.flush()?;
    say_token(&reading, args);
    Ok(())
}

fn push(out: &mut Vec<u8>, message: &StoredMessage, args: &ReadArgs) {
    if args.raw {
        out.extend_from_slice(message.payload());
    } else if args.json {
        text::push_json_value(out, &object(message));
    } else {
        out.extend_from_slice(format!("{} ", message.sequence).as_bytes());
        text::push_printable(out, message.topic());
        out.push(b' ');
        text::push_printable(out, message.payload());
    }
    out.push(b'\n');
}

fn object(message: &StoredMessage) -> Value {
    let words = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes));
    let mut object = Map::new();
    object.insert("sequence".into(), message.sequence.into());
    object.insert("ms".into(), message.ms.into());
    object.insert("topic".into(), words(message.topic()));
    let headers: Vec<Value> = message
        .headers()
        .map(|(name, value)| Value::from(vec![words(name), words(value)]))
        .collect();
    if !headers.is_empty() {
        object.insert("headers".into(), headers.into());
    }
    match std::str::from_utf8(message.payload()) {
        Ok(data) => object.insert("data".into(), data.into()),
        Err(_) => object.insert("data_b64".into(), STANDARD.encode(message.payload()).into()),
    };
    object.into()
}

/// Says on stderr what is missing.
fn notice(event: &StreamEvent, args: &ReadArgs) {
    let (value, sentence) = match event {
        StreamEvent::Gap { from, before } => (
            json!({"gap": {"from": from, "before": before}}),
            format!("messages {from} to {} are gone", before.saturating_sub(1)),
        ),
        _ => (
            json!({"reset": true}),
            "the stream was made anew or restored; what follows begins at its first message"
                .to_string(),
        ),
    };
    match args.json {
        true => say_object(&value),
        false => connect::say(&format!("sapwood: {sentence}\n")),
    }
}

/// Says where to go on, for programs.
fn say_token(reading: &Reading, args: &ReadArgs) {
    if let Some(token) = reading.token().filter(|_| args.json) {
        say_object(&json!({"token": token.to_string()}));
    }
}

fn say_object(value: &Value) {
    let mut line = Vec::new();
    text::push_json_value(&mut line, value);
    line.push(b'\n');
    connect::say(&String::from_utf8_lossy(&line));
}
