//! `sapwood sub`: subscribes, and prints what comes until it is told to end.
//!
//! One thread does it all: it takes what every subscription has, prints it in one write, and only then lets the connection
//! read on. So when stdout is slow the connection is not read, and the broker's policy for slow readers applies.
//! Invariant: nothing is printed for an event before everything that stood before it in its subscription.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::PoisonError;
use std::task::{Context, Poll};
use std::time::Duration;

use clap::Args;
use futures_core::Stream;
use sapwood_client::error::CloseReason;
use sapwood_client::{Client, Event, Policy, Subscription};
use tokio::time::{Instant, Sleep};

use super::Failure;
use super::config::Environment;
use super::connect::{self, ConnectArgs, Connector, Threads};
use super::output::{Flow, Output};
use super::publish::advice_to_subscriber;
use super::quantity;
use super::render::{Parts, Render, RenderArgs, Topics};
use super::stop::Stop;
use super::text;
use super::trouble::Trouble;

/// How long an ordered end may take. It is one round trip if the broker is there, and if it is not there is nothing to wait
/// for.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// How many events of one subscription are taken before the next one has its turn.
const TURN_EVENTS: usize = 1_024;

/// What follows the options in the help.
pub const HELP: &str = "\
Examples:
  sapwood sub news.art              print what is published to a topic
  sapwood sub 'news.*' 'jobs.>'     several topics, with wildcards
  sapwood sub '>'                   everything, but for topics of the broker itself
  sapwood sub jobs --group workers  share the events with others who say the same
  sapwood sub news.art --count 1    end after one event
  sapwood sub 'news.>' --json | jq --unbuffered -r .data
  sapwood sub backup --raw --count 1 > backup.tar

A topic is a name with dots, such as news.art. In a subscription, * stands for any one part of it, and \
a > at the end for one part or more. Quote them, or the shell takes them for file names.

A line is the topic and the payload, with \\n, \\x1b and the like for what is not printable and \\\\ for \
a backslash; --raw and --json keep every byte. An event that several of the topics match is printed \
for each of them. In a group, events that are under way when it ends are lost with it.

Whoever takes events more slowly than they come is in time disconnected by the broker; with \
--policy drop-oldest, or latest of each topic, it loses events instead, and is told how many. \
Lost connections are made again for ever. Notices on stderr say where events may be missing; with \
--json they are objects.

Exit codes: 0 ended by --count, SIGINT, SIGTERM or the reader of its output, 1 failed, 2 wrong usage, \
4 no event came in time (with --timeout).";

/// The flags of `sapwood sub`.
#[derive(Args, Debug, Default)]
pub struct SubscribeArgs {
    /// What to listen to: names, or wildcards in quotes such as 'news.*' or 'news.>'
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Join a group: each event goes to one of its members
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// End after so many events
    #[arg(short = 'n', long, value_name = "N", value_parser = quantity::count)]
    count: Option<u64>,
    /// Give up, with exit code 4, when no event has come for so long, such as 5s
    #[arg(long, value_name = "TIME", value_parser = quantity::flag(quantity::parse_time))]
    timeout: Option<Duration>,
    #[command(flatten)]
    render: RenderArgs,
    /// What the broker does if this is too slow: close, drop-oldest or latest [default: as the broker is told]
    #[arg(long, value_parser = connect::parse_policy)]
    policy: Option<Policy>,
    /// No notices on stderr but for errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Subscribes and prints.
///
/// Errors: wrong settings or topics, exit code 2; a broker that is not there at first or does not let this client in any
/// more, 1; no event in time, 4. A reader that closes stdout early, such as `head`, is not an error.
pub fn run(args: &SubscribeArgs, environment: &Environment) -> Result<(), Failure> {
    let connector = Connector::new(&args.connect, environment)?.policy(args.policy);
    let stop = Stop::on_signal()?;
    stop.on_closed_stdout()?;
    let output = Output::new()?;
    let runtime = connect::runtime(Threads::Here)?;
    runtime.block_on(subscribe(args, &connector, &stop, output))
}

/// Says a notice, unless the user wants none.
pub fn notify(render: &Render, quiet: Quiet, name: &str, numbers: &[(&str, u64)], sentence: &str) {
    if quiet == Quiet::No {
        connect::say(&render.notice(name, numbers, sentence));
    }
}

/// Whether notices are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiet {
    /// They are not.
    Yes,
    /// They are.
    No,
}

impl From<bool> for Quiet {
    fn from(quiet: bool) -> Quiet {
        if quiet { Quiet::Yes } else { Quiet::No }
    }
}

async fn subscribe(
    args: &SubscribeArgs,
    connector: &Connector,
    stop: &Stop,
    output: Output,
) -> Result<(), Failure> {
    let quiet = Quiet::from(args.quiet);
    let client = tokio::select! {
        client = connector.connect(connector.builder().drain_timeout(DRAIN_TIME)) => client?,
        () = stop.wait() => return Ok(()),
    };
    let notices = Render::new(&args.render, Topics::Shown);
    let log = connect::follow(
        &client,
        Box::new(move |name, sentence| notify(&notices, quiet, name, &[], sentence)),
    );
    let mut listening = Vec::new();
    for topic in &args.topics {
        let group = args.group.as_deref().unwrap_or_default();
        let subscription = client.subscription(topic).group(group).subscribe().await;
        let subscription = subscription
            .map_err(|error| Failure::Client(Trouble::Subscribe(topic.clone(), error)))?;
        listening.push(Listening {
            topic,
            subscription,
            reconnects: 0,
            is_ended: false,
        });
    }
    let mut printer = Printer {
        args,
        render: Render::new(&args.render, Topics::Shown),
        quiet,
        output,
        events: 0,
        reconnects: 0,
        quiet_until: args.timeout.map(|time| Box::pin(tokio::time::sleep(time))),
    };
    printer.say_subscribed();
    let mut stopping = pin!(stop_client(&client, stop));
    let mut is_over = false;
    let printed = poll_fn(|cx| {
        // It only begins the end, which the subscriptions then tell.
        is_over = is_over || stopping.as_mut().poll(cx).is_ready();
        printer.poll(cx, &mut listening)
    });
    printed.await?;
    client.close();
    let closed = log
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .closed
        .take();
    match closed {
        Some(reason @ CloseReason::Rejected(_)) => Err(Failure::Client(Trouble::Closed(reason))),
        _ => Ok(()),
    }
}

/// Waits until the command is told to end, then ends the subscriptions: what is on its way is still printed.
async fn stop_client(client: &Client, stop: &Stop) {
    stop.wait().await;
    // It times out if the broker is away, and then the client is closed all the same.
    let _ = client.drain().await;
}

struct Listening<'a> {
    topic: &'a str,
    subscription: Subscription,
    reconnects: u64,
    is_ended: bool,
}

struct Printer<'a> {
    args: &'a SubscribeArgs,
    render: Render,
    quiet: Quiet,
    output: Output,
    /// How many were printed.
    events: u64,
    /// How many reconnects were told.
    reconnects: u64,
    quiet_until: Option<Pin<Box<Sleep>>>,
}

impl Printer<'_> {
    fn say_subscribed(&self) {
        let topics = text::printable(self.args.topics.join(" ").as_bytes());
        let sentence = match &self.args.group {
            Some(group) => format!("listening to {topics} in the group {group}"),
            None => format!("listening to {topics}"),
        };
        notify(&self.render, self.quiet, "subscribed", &[], &sentence);
        for advice in self
            .args
            .topics
            .iter()
            .filter_map(|topic| advice_to_subscriber(topic))
        {
            notify(&self.render, self.quiet, "advice", &[], &advice);
        }
    }

    /// Prints everything that is there. Ready at the end.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        listening: &mut [Listening<'_>],
    ) -> Poll<Result<(), Failure>> {
        let before = self.events;
        match self.print_all(cx, listening) {
            Ok(Flow::Continue(())) => {}
            Ok(Flow::Break(())) => return Poll::Ready(self.output.flush().map(|_| ())),
            Err(failure) => return Poll::Ready(Err(failure)),
        }
        match self.output.flush() {
            Ok(Flow::Continue(())) => {}
            Ok(Flow::Break(())) => return Poll::Ready(Ok(())),
            Err(failure) => return Poll::Ready(Err(failure)),
        }
        self.poll_quiet(cx, before)
    }

    /// Takes turns until no subscription has anything. Break: it is the end.
    fn print_all(
        &mut self,
        cx: &mut Context<'_>,
        listening: &mut [Listening<'_>],
    ) -> Result<Flow, Failure> {
        let time = match self.render.wants_time() {
            // One for all: they were read from the connection before the thread came here.
            true => text::now(),
            false => String::new(),
        };
        // Ends because the connection is not read meanwhile, so what the subscriptions hold only shrinks.
        loop {
            let mut is_idle = true;
            for one in listening.iter_mut().filter(|one| !one.is_ended) {
                for _ in 0..TURN_EVENTS {
                    match Pin::new(&mut one.subscription).poll_next(cx) {
                        Poll::Pending => break,
                        Poll::Ready(None) => {
                            one.is_ended = true;
                            break;
                        }
                        Poll::Ready(Some(event)) => {
                            is_idle = false;
                            if self.handle(one, &event, &time)?.is_break() {
                                return Ok(Flow::Break(()));
                            }
                        }
                    }
                }
            }
            if listening.iter().all(|one| one.is_ended) {
                return Ok(Flow::Break(()));
            }
            if is_idle {
                return Ok(Flow::Continue(()));
            }
        }
    }

    fn handle(
        &mut self,
        one: &mut Listening<'_>,
        event: &Event,
        time: &str,
    ) -> Result<Flow, Failure> {
        match event {
            Event::Message(message) => {
                let buffer = &mut self.output.buffer;
                self.render.push(buffer, &Parts::from(message), time);
                self.events += 1;
                if Some(self.events) == self.args.count {
                    return Ok(Flow::Break(()));
                }
                return self.output.write_if_much();
            }
            Event::Gap { events } => {
                let topic = text::printable(one.topic.as_bytes());
                let sentence = format!(
                    "up to {events} events are missing from {topic} here, because they were read too slowly"
                );
                self.notify_in_place("gap", &[("events", *events)], &sentence)?;
            }
            Event::Reconnected => {
                one.reconnects += 1;
                // Each subscription tells it, but it is one piece of news.
                if one.reconnects > self.reconnects {
                    self.reconnects = one.reconnects;
                    let sentence = "subscribed again; events may be missing here";
                    self.notify_in_place("reconnected", &[], sentence)?;
                }
            }
            Event::Refused(refusal) => {
                let topic = one.topic.to_string();
                return Err(Failure::Client(Trouble::Resubscribe(
                    topic,
                    refusal.clone(),
                )));
            }
            _ => {}
        }
        Ok(Flow::Continue(()))
    }

    /// Says a notice behind the events that stood before it.
    fn notify_in_place(
        &mut self,
        name: &str,
        numbers: &[(&str, u64)],
        sentence: &str,
    ) -> Result<(), Failure> {
        // If nobody reads any more, the next write says so again.
        let _ = self.output.flush()?;
        notify(&self.render, self.quiet, name, numbers, sentence);
        Ok(())
    }

    /// Ready when nothing has come for too long.
    fn poll_quiet(&mut self, cx: &mut Context<'_>, before: u64) -> Poll<Result<(), Failure>> {
        let (Some(time), Some(sleep)) = (self.args.timeout, &mut self.quiet_until) else {
            return Poll::Pending;
        };
        if self.events > before {
            sleep.as_mut().reset(Instant::now() + time);
        }
        match sleep.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                let trouble = Trouble::Quiet(time, self.events);
                Poll::Ready(Err(Failure::Client(trouble)))
            }
        }
    }
}
