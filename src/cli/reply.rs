//! `sapwood reply`: answers requests with a fixed text, with what was asked, or with what a command prints.
//!
//! Owns the order of an end: told to stop, it lets the commands that run finish, then ends the subscription, answers what
//! was still on its way, and only then closes. At most `--parallel` commands run at a time; further requests wait in the
//! subscription, whose cap then stops the connection.

use std::process::{ExitStatus, Stdio};
use std::sync::PoisonError;
use std::time::Duration;

use clap::{ArgGroup, Args};
use rustix::process::{Pid, Signal, kill_process_group};
use sapwood_client::error::{CloseReason, PublishError};
use sapwood_client::{Client, Event, Message, Outgoing, Subscription};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::Failure;
use super::config::Environment;
use super::connect::{self, ConnectArgs, Connector, Threads};
use super::payload::{self, PAYLOAD_BYTES_MAX};
use super::publish::advice_to_subscriber;
use super::quantity::{self, Header};
use super::render::{Render, RenderArgs, Topics};
use super::stop::Stop;
use super::subscribe::{Quiet, notify};
use super::text;
use super::trouble::Trouble;

/// How long a command may take unless told otherwise: more than any requester waits by default.
const COMMAND_TIME: Duration = Duration::from_secs(30);

/// The most commands at a time: each is a process or two, and a connection's requests.
const PARALLEL_MAX: u64 = 1_024;

/// What follows the options in the help.
pub const HELP: &str = "\
Examples:
  sapwood reply health ok                               always the same answer
  sapwood reply test --echo                             the request itself, payload and headers
  sapwood reply time.now --command date                 what a command prints
  sapwood reply upper --command 'tr a-z A-Z' --group g  one of several that share the work

A command is run by sh for each request: the payload is its stdin, what it writes to stdout is the \
answer, and SAPWOOD_TOPIC and SAPWOOD_REPLY in its environment say where the request and its answer go. \
If it fails, the answer carries a header `error` that says how. Events that ask for no reply are \
skipped.

Exit codes: 0 ended by --count, SIGINT or SIGTERM, after what was begun was answered; 1 failed, or not \
every request could be answered; 2 wrong usage.";

/// The flags of `sapwood reply`.
#[derive(Args, Debug, Default)]
#[command(
    group = ArgGroup::new("how").args(["answer", "echo", "command"]).required(true),
    override_usage = "sapwood reply [OPTIONS] <TOPIC> <ANSWER|--echo|--command COMMAND>"
)]
pub struct ReplyArgs {
    /// What to answer: a name, or a wildcard in quotes
    topic: String,
    /// The answer
    answer: Option<std::ffi::OsString>,
    /// Answer with the request itself
    #[arg(long)]
    echo: bool,
    /// Answer with what this shell command prints
    #[arg(long, value_name = "COMMAND")]
    command: Option<String>,
    /// How many commands may run at a time [default: 4]
    #[arg(long, value_name = "N", conflicts_with_all = ["answer", "echo"], value_parser = parse_parallel)]
    parallel: Option<u64>,
    /// How long a command may take until it is killed, such as 2s [default: 30s]
    #[arg(long, value_name = "TIME", conflicts_with_all = ["answer", "echo"], value_parser = quantity::flag(quantity::parse_time))]
    timeout: Option<Duration>,
    /// Add a header to each answer; can be given again
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = quantity::flag(quantity::parse_header))]
    headers: Vec<Header>,
    /// Share the requests with others who say the same: each goes to one of them
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// End after so many requests
    #[arg(short = 'n', long, value_name = "N", value_parser = quantity::count)]
    count: Option<u64>,
    /// No notices on stderr but for errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

fn parse_parallel(text: &str) -> Result<u64, String> {
    let rule = |text: &str| super::value::parse_count(text, 1, PARALLEL_MAX);
    quantity::flag(rule)(text)
}

/// Answers requests.
///
/// Errors: wrong settings or usage, exit code 2; a broker that is not there at first or does not let this client in any
/// more, or an answer that could not be given, 1.
pub fn run(args: &ReplyArgs, environment: &Environment) -> Result<(), Failure> {
    let connector = Connector::new(&args.connect, environment)?;
    let stop = Stop::on_signal()?;
    let runtime = connect::runtime(Threads::Here)?;
    runtime.block_on(reply(args, &connector, &stop))
}

async fn reply(args: &ReplyArgs, connector: &Connector, stop: &Stop) -> Result<(), Failure> {
    let client = tokio::select! {
        client = connector.connect(connector.builder()) => client?,
        () = stop.wait() => return Ok(()),
    };
    let render = Render::new(&RenderArgs::default(), Topics::Shown);
    let quiet = Quiet::from(args.quiet);
    let log = connect::follow(
        &client,
        Box::new(move |name, sentence| notify(&render, quiet, name, &[], sentence)),
    );
    let group = args.group.as_deref().unwrap_or_default();
    let subscription = client
        .subscription(&args.topic)
        .group(group)
        .subscribe()
        .await
        .map_err(|error| Failure::Client(Trouble::Subscribe(args.topic.clone(), error)))?;
    if quiet == Quiet::No {
        let topic = text::printable(args.topic.as_bytes());
        connect::say(&format!("sapwood: answering requests to {topic}\n"));
        if let Some(advice) = advice_to_subscriber(&args.topic) {
            connect::say(&format!("sapwood: {advice}\n"));
        }
    }
    let mut replier = Replier {
        args,
        client: client.clone(),
        running: JoinSet::new(),
        parallel: args.parallel.unwrap_or(4) as usize,
        requests: 0,
        failed: 0,
    };
    let flushed = match replier.serve(subscription, stop).await? {
        Served::Drained => Ok(()),
        // What was answered has arrived only when the broker says so.
        Served::Connected => client.flush().await,
    };
    let closed = log
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .closed
        .take();
    if let Some(reason @ CloseReason::Rejected(_)) = closed {
        return Err(Failure::Client(Trouble::Closed(reason)));
    }
    let statistics = client.statistics();
    let failed = replier.failed + statistics.refused_publishes + statistics.unconfirmed_publishes;
    match (failed, flushed) {
        (0, Ok(())) => Ok(()),
        (0, Err(error)) => Err(Failure::Client(Trouble::Ping(error))),
        (failed, _) => Err(Failure::Client(Trouble::NotAnswered {
            failed,
            requests: replier.requests,
        })),
    }
}

struct Replier<'a> {
    args: &'a ReplyArgs,
    client: Client,
    running: JoinSet<Answered>,
    parallel: usize,
    requests: u64,
    failed: u64,
}

/// How the serving of requests ended.
enum Served {
    /// The client is closed.
    Drained,
    /// The connection is there.
    Connected,
}

/// Whether a request has been answered well.
type Answered = Result<(), PublishError>;

impl Replier<'_> {
    /// Answers until it is told to stop or has answered enough.
    async fn serve(&mut self, mut requests: Subscription, stop: &Stop) -> Result<Served, Failure> {
        // Ends at the count, or when it is told to.
        while Some(self.requests) != self.args.count {
            tokio::select! {
                biased;
                () = stop.wait() => break,
                Some(answered) = self.running.join_next() => self.note(answered),
                event = requests.next(), if self.running.len() < self.parallel => match event {
                    Some(event) => self.begin(event).await?,
                    // The broker does not let the client in any more, which the caller finds in its log.
                    None => return Ok(Served::Drained),
                },
            }
        }
        self.finish_running().await;
        if stop.is_stopped() {
            self.answer_rest(requests).await?;
            return Ok(Served::Drained);
        }
        Ok(Served::Connected)
    }

    /// Ends the subscription, and answers what was on its way, one at a time.
    async fn answer_rest(&mut self, mut requests: Subscription) -> Result<(), Failure> {
        let client = self.client.clone();
        // The connection stays as long as something of the subscription is unread, so there is a way for the answers.
        let ending = tokio::spawn(async move { client.drain().await });
        // Ends with the subscription, which the drain ends.
        while let Some(event) = requests.next().await {
            self.begin(event).await?;
            self.finish_running().await;
        }
        // It times out if the broker is away; then what was not sent is counted as such.
        let _ = ending.await;
        Ok(())
    }

    async fn finish_running(&mut self) {
        while let Some(answered) = self.running.join_next().await {
            self.note(answered);
        }
    }

    fn note(&mut self, answered: Result<Answered, tokio::task::JoinError>) {
        let problem = match answered {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.failed += 1;
        let problem = text::printable(problem.as_bytes());
        connect::say(&format!("sapwood: a request was not answered: {problem}\n"));
    }

    /// Answers a request, or begins to.
    async fn begin(&mut self, event: Event) -> Result<(), Failure> {
        let message = match event {
            Event::Message(message) => message,
            Event::Refused(refusal) => {
                let topic = self.args.topic.clone();
                return Err(Failure::Client(Trouble::Resubscribe(topic, refusal)));
            }
            Event::Gap { events } => {
                connect::say(&format!(
                    "sapwood: up to {events} requests are missing here, because they were read too slowly\n"
                ));
                return Ok(());
            }
            _ => return Ok(()),
        };
        if message.reply().is_none() {
            return Ok(());
        }
        self.requests += 1;
        let Some(command) = &self.args.command else {
            let answered = self.answer_at_once(&message).await;
            self.note(Ok(answered));
            return Ok(());
        };
        let run = Run {
            command: command.clone(),
            time: self.args.timeout.unwrap_or(COMMAND_TIME),
            headers: self.args.headers.clone(),
            client: self.client.clone(),
        };
        self.running.spawn(run.answer(message));
        Ok(())
    }

    async fn answer_at_once(&self, request: &Message) -> Answered {
        use std::os::unix::ffi::OsStrExt;
        let args = self.args;
        let topic = request.reply().unwrap_or_default();
        let answer = args.answer.as_ref().map(|answer| answer.as_bytes());
        let mut message = Outgoing::new(topic, answer.unwrap_or(request.payload())).end();
        if args.echo {
            for (name, value) in request.headers() {
                message = message.header(name, value);
            }
        }
        let message = payload::with_headers(message, &args.headers);
        self.client.publish_message(&message).await
    }
}

/// A command that answers one request.
struct Run {
    command: String,
    time: Duration,
    headers: Vec<Header>,
    client: Client,
}

/// Why a command gave no proper answer.
enum RunError {
    Io(std::io::Error),
    Status(ExitStatus),
    TimedOut(Duration),
    TooLong,
}

impl std::fmt::Display for RunError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RunError::Io(error) => write!(out, "the command could not be run: {error}"),
            RunError::Status(status) => write!(out, "the command failed: {status}"),
            RunError::TimedOut(time) => write!(out, "the command took longer than {time:?}"),
            RunError::TooLong => {
                write!(
                    out,
                    "the command printed more than {PAYLOAD_BYTES_MAX} bytes"
                )
            }
        }
    }
}

impl Run {
    async fn answer(self, request: Message) -> Answered {
        let (printed, error) = match self.run(&request).await {
            Ok((printed, status)) if status.success() => (printed, None),
            Ok((printed, status)) => (printed, Some(RunError::Status(status))),
            Err(error) => (Vec::new(), Some(error)),
        };
        let error = error.map(|error| error.to_string());
        let topic = request.reply().unwrap_or_default();
        let mut message =
            payload::with_headers(Outgoing::new(topic, &printed).end(), &self.headers);
        if let Some(error) = &error {
            connect::say(&format!("sapwood: {error}\n"));
            message = message.header("error", error);
        }
        self.client.publish_message(&message).await
    }

    /// Runs the command to its end, and returns what it printed.
    async fn run(&self, request: &Message) -> Result<(Vec<u8>, ExitStatus), RunError> {
        let reply = request.reply().unwrap_or_default();
        let mut child = Command::new("sh")
            .args(["-c", &self.command])
            .env("SAPWOOD_TOPIC", text::os_string(request.topic()))
            .env("SAPWOOD_REPLY", text::os_string(reply))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C at the terminal ends this program in order, so it must not end the commands that it waits for.
            .process_group(0)
            .spawn()
            .map_err(RunError::Io)?;
        let group = child.id().and_then(|id| Pid::from_raw(id as i32));
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // A command need not read what it is given.
                let _ = stdin.write_all(request.payload()).await;
            }
        };
        let read = async {
            let mut printed = Vec::new();
            if let Some(stdout) = stdout {
                let mut capped = stdout.take(PAYLOAD_BYTES_MAX + 1);
                capped
                    .read_to_end(&mut printed)
                    .await
                    .map_err(RunError::Io)?;
            }
            match printed.len() as u64 > PAYLOAD_BYTES_MAX {
                true => Err(RunError::TooLong),
                false => Ok(printed),
            }
        };
        let whole = async {
            let (printed, ()) = tokio::join!(read, write);
            let printed = printed?;
            let status = child.wait().await.map_err(RunError::Io)?;
            Ok((printed, status))
        };
        let outcome = match tokio::time::timeout(self.time, whole).await {
            Ok(outcome) => outcome,
            Err(_) => Err(RunError::TimedOut(self.time)),
        };
        if outcome.is_err()
            && let Some(group) = group
        {
            // It fails when all have ended, which is what it is for.
            let _ = kill_process_group(group, Signal::KILL);
            let _ = child.wait().await;
        }
        outcome
    }
}
