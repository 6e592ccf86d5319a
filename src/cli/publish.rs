//! `sapwood pub`: publishes an argument, a file, stdin or each of its lines.
//!
//! The main thread reads and publishes, and blocks on stdin; another one moves the bytes, so that a line is on its way before
//! the next one is typed. It exits with 0 only if the broker has received everything: it ends with a PING, whose answer
//! proves that, and asks the client what was refused or lost on the way.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use clap::Args;
use sapwood_client::error::PublishError;
use sapwood_client::{Client, Outgoing};
use tokio::runtime::Runtime;

use super::Failure;
use super::config::Environment;
use super::connect::{self, ConnectArgs, Connector, Log, Threads};
use super::output::Output;
use super::payload::{Lines, PayloadArgs};
use super::quantity::{self, Rate};
use super::text;
use super::trouble::Trouble;

/// What follows the options in the help.
pub const HELP: &str = "\
Examples:
  sapwood pub news.art 'hello there'          publish a payload
  date | sapwood pub news.time                publish what stdin holds, as one event
  seq 3 | sapwood pub news.count --lines      publish each line of stdin as an event, as it comes
  sapwood pub news.art --file /etc/hostname   publish a file, byte for byte
  sapwood pub news.art hi -H 'lang: en'       with a header
  sapwood pub tick '' --count 3 --rate 10/s   an empty payload three times, ten a second
  sapwood pub news.art hi --confirm           print how many subscriptions it reached
  sapwood pub news.art hi --require-listeners || echo 'nobody heard it'
  sapwood pub '$to:oslo:config' level=debug || echo 'nobody listens on the node oslo'

A payload is published byte for byte, also a newline at its end; --lines takes one '\\n' off each line. \
Without --confirm, the command ends when the broker has received everything. A group of subscribers \
counts as one subscription. A + behind the number says that other nodes have subscribers too, or may have.

Exit codes: 0 published, 1 failed, 2 wrong usage, 3 nobody listens (with --require-listeners, or on the nodes that a topic with $to: names).";

/// The flags of `sapwood pub`.
#[derive(Args, Debug, Default)]
pub struct PublishArgs {
    /// Where to publish: a name such as news.art, without wildcards
    topic: String,
    #[command(flatten)]
    payload: PayloadArgs,
    /// Publish each line as an event of its own
    #[arg(long, conflicts_with = "message")]
    lines: bool,
    /// Ask for replies on this topic; `sapwood request` does that and waits for them
    #[arg(long, value_name = "TOPIC")]
    reply: Option<String>,
    /// Publish it so many times
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "lines", value_parser = quantity::count)]
    count: Option<u64>,
    /// Publish no faster than this, such as 100/s, 90/m or 5/h
    #[arg(long, value_name = "RATE", value_parser = quantity::flag(quantity::parse_rate))]
    rate: Option<Rate>,
    /// Wait for the broker's answer to each event, and print how many subscriptions of this node it reached, one number a line, with a + if other nodes have some
    #[arg(long)]
    confirm: bool,
    /// Wait for the broker's answer to each event, and exit with 3 if one reached no subscription in the whole tree
    #[arg(long)]
    require_listeners: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Whether a topic says which nodes it is for.
pub fn names_nodes(topic: &str) -> bool {
    topic.starts_with("$to:")
}

/// What a subscriber should know who subscribes to a topic as only publishers name it.
pub fn advice_to_subscriber(topic: &str) -> Option<String> {
    let plain = match topic.strip_prefix("$to:") {
        Some(rest) => rest.split_once(':')?.1,
        None => topic.strip_prefix("$near:")?,
    };
    let (topic, plain) = (
        text::printable(topic.as_bytes()),
        text::printable(plain.as_bytes()),
    );
    Some(format!(
        "{topic} says where an event is published; subscribers get it as {plain}, so subscribe to that"
    ))
}

/// Publishes.
///
/// Errors: wrong settings or usage, exit code 2; a broker that is not there, refuses, or went away before it had
/// everything, 1; nobody who listens, if that was asked, 3.
pub fn run(args: &PublishArgs, environment: &Environment) -> Result<(), Failure> {
    let connector = Connector::new(&args.connect, environment)?;
    // What is not there to be published is said before anybody is connected to.
    let source = match args.lines {
        true => Payloads::Lines(args.payload.lines()?),
        false => Payloads::Same(args.payload.read()?, args.count.unwrap_or(1)),
    };
    let runtime = connect::runtime(Threads::One)?;
    let client = runtime.block_on(connector.connect(connector.builder()))?;
    let log = {
        let _inside = runtime.enter();
        connect::follow(
            &client,
            Box::new(|_, sentence| connect::say(&format!("sapwood: {sentence}\n"))),
        )
    };
    let mut publisher = Publisher {
        args,
        runtime: &runtime,
        client: &client,
        output: Output::new()?,
        start: Instant::now(),
        requires_listeners: args.require_listeners || names_nodes(&args.topic),
        events: 0,
        unheard: 0,
    };
    publisher.publish_all(source)?;
    publisher.finish(&log)
}

enum Payloads {
    /// One payload, so many times.
    Same(Vec<u8>, u64),
    Lines(Lines),
}

struct Publisher<'a> {
    args: &'a PublishArgs,
    runtime: &'a Runtime,
    client: &'a Client,
    output: Output,
    start: Instant,
    /// One that reaches nobody is an error.
    requires_listeners: bool,
    events: u64,
    unheard: u64,
}

impl Publisher<'_> {
    fn publish_all(&mut self, payloads: Payloads) -> Result<(), Failure> {
        match payloads {
            Payloads::Same(payload, count) => {
                for _ in 0..count {
                    self.publish(&payload)?;
                }
            }
            Payloads::Lines(mut lines) => {
                // Ends with the input, which may be endless: that is what was asked for.
                while let Some(line) = lines.next()? {
                    self.publish(line)?;
                }
            }
        }
        Ok(())
    }

    fn publish(&mut self, payload: &[u8]) -> Result<(), Failure> {
        let args = self.args;
        if let Some(rate) = args.rate {
            let due = self.start.checked_add(rate.due(self.events));
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            thread::sleep(left.unwrap_or_default());
        }
        let mut message = args.payload.outgoing(&args.topic, payload);
        if let Some(reply) = &args.reply {
            message = message.reply_to(reply);
        }
        let published = match args.confirm || self.requires_listeners {
            true => self.publish_confirmed(&message)?,
            false => self.publish_unconfirmed(&message),
        };
        self.events += 1;
        published.map_err(|error| Failure::Client(Trouble::Publish(args.topic.clone(), error)))
    }

    fn publish_unconfirmed(&self, message: &Outgoing<'_>) -> Result<(), PublishError> {
        match self.client.try_publish_message(message) {
            // Only now is the runtime needed, whose entry costs as much as a publish.
            Err(PublishError::Full) => self.runtime.block_on(self.client.publish_message(message)),
            published => published,
        }
    }

    fn publish_confirmed(
        &mut self,
        message: &Outgoing<'_>,
    ) -> Result<Result<(), PublishError>, Failure> {
        let confirmed = self.client.publish_message_confirmed(message);
        let reached = match self.runtime.block_on(confirmed) {
            Ok(reached) => reached,
            Err(error) => return Ok(Err(error)),
        };
        self.unheard += u64::from(reached.is_nobody());
        if self.args.confirm {
            let line = format!("{reached}\n");
            self.output.buffer.extend_from_slice(line.as_bytes());
            // Whoever wants to see the answers may want to see each at once; and if nobody reads them, publishing goes on.
            let _ = self.output.flush()?;
        }
        Ok(Ok(()))
    }

    /// Waits until the broker has received everything, then judges.
    fn finish(self, log: &Arc<Mutex<Log>>) -> Result<(), Failure> {
        let flushed = self.runtime.block_on(self.client.flush());
        let statistics = self.client.statistics();
        let why = log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .refused
            .take();
        let (refused, unknown) = (
            statistics.refused_publishes,
            statistics.unconfirmed_publishes,
        );
        if refused > 0 || unknown > 0 {
            return Err(Failure::Client(Trouble::NotPublished {
                refused,
                why,
                unknown,
            }));
        }
        flushed.map_err(|error| Failure::Client(Trouble::Ping(error)))?;
        if self.requires_listeners && self.unheard > 0 {
            return Err(Failure::Client(Trouble::NobodyListens {
                topic: self.args.topic.clone(),
                unheard: self.unheard,
                events: self.events,
            }));
        }
        Ok(())
    }
}
