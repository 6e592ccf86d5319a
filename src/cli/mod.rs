//! The command line: which commands there are, and what their exit codes mean.
//!
//! Owns the list of commands and what their exit codes mean. What a setting's value may be stands in [`value`], where values
//! come from and which one wins in [`config`]; a command's flags, help and work stand in the file of its name ([`publish`]
//! is `pub`, [`subscribe`] is `sub`). What a tree of nodes may be stands in [`topology`]. Knows the server only by the
//! interface of `sapwood-server`, and other brokers only by that of `sapwood-client`; [`connect`] is where the commands that
//! are clients begin.

mod answers;
mod bench;
mod check;
mod config;
mod connect;
mod data;
mod data_settings;
mod drawing;
mod environment;
mod file;
mod info;
mod latency;
mod limits;
mod logs;
mod manual;
mod nodes;
mod output;
mod payload;
mod ping;
mod problem;
mod publish;
mod quantity;
mod render;
mod reply;
mod request;
mod serve;
mod stop;
mod stream;
mod subscribe;
mod text;
mod topology;
mod trace;
mod tree;
mod trouble;
mod value;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use sapwood_server::StartError;

use data::DataError;
use problem::{Problem, Source};
use trouble::Trouble;

/// The exit code of a run that failed for another reason than its configuration.
const EXIT_RUNTIME: u8 = 1;

/// The exit code of a wrong command line or configuration, which is also clap's.
const EXIT_USAGE: u8 = 2;

/// The exit code of a publish or request that nobody listens to.
const EXIT_NOBODY_LISTENS: u8 = 3;

/// The exit code of a command that waited, and nothing came in time.
const EXIT_NO_ANSWER: u8 = 4;

const ROOT_HELP: &str = "\
Examples:
  sapwood serve                         run a broker, here: ports 7400 and 7463 (Redis)
  sapwood sub 'news.>'                  in another terminal: print what comes to news
  sapwood pub news.art 'hello there'    in a third: publish something
  sapwood reply time.now --command date
  sapwood request time.now ''           ask, and print the answer
  sapwood stream add orders 'orders.>'  keep what is published to orders, for those who read it later
  sapwood bench pub                     measure
  sapwood tree                          draw the tree of nodes, and how they do
  sapwood trace news.art                see which way an event would take through it
  sapwood info                          read every counter of the running broker

`sapwood COMMAND --help` has examples of each command. Clients of other protocols share the broker and its topics:
  Redis   port 7463: redis-cli -p 7463 subscribe news.art
  NATS    port 7422: nats -s nats://127.0.0.1:7422 sub news.art
  native  port 7400: these commands, and the client library
  HTTP    port 7480: http://127.0.0.1:7480/ is a page; HTTP, WebSocket, JSON and server-sent events
  nodes   port 7401: other brokers that form a tree with this one

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 nobody listens, 4 no answer or event in time.";

const SERVE_HELP: &str = "\
Examples:
  sapwood serve
      Listens on 127.0.0.1, which only this machine reaches, one shard for each CPU:
          7463  Redis clients
          7422  NATS clients
          7400  native clients, such as `sapwood sub`
          7480  HTTP: the page, publishing, WebSocket, JSON and server-sent events
          7401  nodes: other brokers that form a tree with this one
  sapwood serve --redis 0.0.0.0:7463 --password-file /etc/sapwood/password
      Listens on every network; clients have to AUTH. Without a password this is refused.
  sapwood serve --shards 2 --cpus 0-1
      Two shards, pinned to CPUs 0 and 1.
  sapwood serve --shards 2 --latency spin
      Two shards that keep their CPUs busy while anything goes on, for a lower latency.
  sapwood serve --redis 127.0.0.1:0 --native off
      Redis clients alone, on any free port; the table at start says which.
  sapwood serve --node-name second --join 127.0.0.1:7401 --node 7501 --native 7500 --redis 7563 --nats 7522 --http 7580
      A second node beside the one above: what is published on one reaches those who subscribed on the other.
  sapwood serve --node 0.0.0.0:7401 --cluster-secret-file secret --join 10.0.0.1:7401
      The same across machines. The secret is made once and copied to all of them:
      head -c 32 /dev/urandom | base64 > secret
  sapwood serve --config sapwood.toml
      Reads settings from a file such as:
          redis = \"127.0.0.1:7463\"
          shards = 2
          log_format = \"json\"
          [limits]
          # the caps, by name: see src/docs/operating.md

Each setting may stand in a flag, in the environment (--redis is SAPWOOD_REDIS) or in the
file (redis). The flag wins, then the environment, then the file. A password has no flag,
because every process can read a command line: use --password-file, or SAPWOOD_PASSWORD in
the environment. RUST_LOG chooses what is logged, for example RUST_LOG=debug.

Exit codes: 0 ended as asked (SIGTERM and SIGINT drain), 1 failed while running,
2 wrong configuration.";

const INFO_HELP: &str = "\
Examples:
  sapwood info                       every section of the broker on 127.0.0.1:7463
  sapwood info sapwood               one section
  sapwood info --redis 7500          another port of this machine
  sapwood info --native 7400         over the native protocol, where Redis clients are not let in
  sapwood info --json                for a program

A broker with a password wants it here too: --password-file FILE, or SAPWOOD_PASSWORD in
the environment. A broker that has as many connections as it may keeps some places for this machine, so this
command gets in there.";

/// A real-time data broker for clients of Redis, NATS, HTTP, WebSocket, JSON, server-sent events and its own protocol, on one
/// node or a tree of nodes: one shard a core, io_uring.
#[derive(Debug, Parser)]
#[command(name = "sapwood", version, after_help = ROOT_HELP, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker until it is told to end.
    #[command(after_help = SERVE_HELP)]
    Serve(Box<ServeArgs>),
    /// Publish events: an argument, a file, or what stdin holds.
    #[command(after_help = publish::HELP)]
    Pub(publish::PublishArgs),
    /// Print events as they are published.
    #[command(after_help = subscribe::HELP)]
    Sub(subscribe::SubscribeArgs),
    /// Ask a question, and print the replies.
    #[command(after_help = request::HELP)]
    Request(request::RequestArgs),
    /// Answer questions: with a text, with themselves, or with what a command prints.
    #[command(after_help = reply::HELP)]
    Reply(reply::ReplyArgs),
    /// Keep messages in streams, and read them again.
    #[command(after_help = stream::HELP)]
    Stream(stream::StreamArgs),
    /// Measure round trips to the broker.
    #[command(after_help = ping::HELP)]
    Ping(ping::PingArgs),
    /// Measure how many events a broker moves, and how long each takes.
    #[command(after_help = bench::HELP)]
    Bench(bench::BenchArgs),
    /// Print the counters of a running broker.
    #[command(after_help = INFO_HELP)]
    Info(InfoArgs),
    /// Draw the tree of nodes, with rates, round trips and interest.
    #[command(after_help = tree::HELP)]
    Tree(tree::TreeArgs),
    /// Send an event that reaches nobody, and print its way through the tree.
    #[command(after_help = trace::HELP)]
    Trace(trace::TraceArgs),
    /// Check the file that describes a tree of nodes, and draw the tree.
    #[command(after_help = check::HELP)]
    Check(check::CheckArgs),
    /// Print what a shell needs to complete commands and flags.
    #[command(after_help = manual::COMPLETION_HELP)]
    Completion(manual::CompletionArgs),
    /// Print a manual page, or write all of them.
    #[command(after_help = manual::MAN_HELP)]
    Man(manual::ManArgs),
}

/// The flags of `sapwood serve`. Values stay text here, so that flag, environment and file are judged by one rule.
#[derive(Args, Debug, Default)]
struct ServeArgs {
    /// Where Redis clients connect: HOST:PORT, [V6]:PORT, a PORT of 127.0.0.1, or off [default: 127.0.0.1:7463]
    #[arg(long, value_name = "ADDR")]
    redis: Option<String>,
    /// What happens when a Redis client reads too slowly: close, drop-oldest or latest [default: close]
    #[arg(long, value_name = "POLICY")]
    redis_policy: Option<String>,
    /// Where native clients connect [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDR")]
    native: Option<String>,
    /// The same as --redis-policy for native clients, which may also choose themselves [default: close]
    #[arg(long, value_name = "POLICY")]
    native_policy: Option<String>,
    /// Where HTTP and WebSocket clients connect; a browser shows the page there [default: 127.0.0.1:7480]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// The same as --redis-policy for them; JSON and native clients may also choose themselves [default: close]
    #[arg(long, value_name = "POLICY")]
    http_policy: Option<String>,
    /// Web sites whose scripts may use the broker, such as https://example.org, with commas between them; * is any
    /// [default: none]
    #[arg(long, value_name = "LIST")]
    http_origin: Option<String>,
    /// Have a WebSocket at /echo that sends back what it gets, for conformance suites
    #[arg(long)]
    echo: bool,
    /// Where NATS clients connect [default: 127.0.0.1:7422]
    #[arg(long, value_name = "ADDR")]
    nats: Option<String>,
    /// The same as --redis-policy for NATS clients [default: close]
    #[arg(long, value_name = "POLICY")]
    nats_policy: Option<String>,
    /// Where NATS clients of other nodes are told that they can connect [default: where it listens, if that is of use there]
    #[arg(long, value_name = "ADDR")]
    nats_advertise: Option<String>,
    /// The longest payload that NATS clients may publish; they are told when they connect [default: 64 MiB]
    #[arg(long, value_name = "SIZE")]
    max_payload: Option<String>,
    /// Who may publish to all clients, by the topic $all: anyone who is let in, or nobody [default: anyone]
    #[arg(long, value_name = "WHO")]
    broadcast: Option<String>,
    /// Where other nodes are taken in [default: 127.0.0.1:7401]
    #[arg(long, value_name = "ADDR")]
    node: Option<String>,
    /// Nodes to ask for a place in their tree, with commas between them; any of the tree will do [default: none]
    #[arg(long, value_name = "LIST")]
    join: Option<String>,
    /// Where other nodes are told that this one is [default: where it listens for nodes]
    #[arg(long, value_name = "ADDR")]
    advertise: Option<String>,
    /// The only node that may be this one's parent [default: found by asking]
    #[arg(long, value_name = "ADDR")]
    parent: Option<String>,
    /// What people call this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Words for this node, with commas between them: `$to:tag=edge:news` is news on all nodes that have one [default: none]
    #[arg(long, value_name = "LIST")]
    node_tags: Option<String>,
    /// Groups of nodes that this one belongs to: `$to:group=web:news` is news on one node of a group, in turn [default: none]
    #[arg(long, value_name = "LIST")]
    node_groups: Option<String>,
    /// Most nodes that have this one as their parent, 1 to 255 [default: 8]
    #[arg(long, value_name = "N")]
    children_max: Option<String>,
    /// How often this node looks whether its neighbours live, in milliseconds or as 1s: 8 looks without an answer end a link [default: 250ms]
    #[arg(long, value_name = "TIME")]
    heartbeat: Option<String>,
    /// A TOML file that describes the whole tree, in which this node stands by its name; see `sapwood check`
    #[arg(long, value_name = "FILE")]
    topology: Option<String>,
    /// A file with the secret that all nodes of the tree share; links are encrypted with it
    #[arg(long, value_name = "FILE")]
    cluster_secret_file: Option<String>,
    /// The directory where streams are kept, and who this node is among others, made if it is missing; off keeps nothing [default: $XDG_DATA_HOME/sapwood, as root /var/lib/sapwood; there only streams]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// In how many partitions streams are kept, 1 to 256, fixed when the directory is made [default: 64]
    #[arg(long, value_name = "N")]
    partitions: Option<String>,
    /// How many threads store and read streams, 1 to 64 [default: one for two shards]
    #[arg(long, value_name = "N")]
    state_workers: Option<String>,
    /// How many shards, each on a CPU of its own [default: one for each CPU it may use]
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// The CPUs to run on, for example 0-3,6 [default: those it may use]
    #[arg(long, value_name = "LIST")]
    cpus: Option<String>,
    /// Whether each shard stays on a CPU of its own: off lets the kernel move shards, for machines that others use too [default: on]
    #[arg(long, value_name = "WHETHER")]
    pin: Option<String>,
    /// How shards wait: park sleeps, spin keeps its CPU busy for a lower latency [default: park]
    #[arg(long, value_name = "HOW")]
    latency: Option<String>,
    /// Seconds in which SIGUSR2 sends all clients away, bit by bit, before the broker ends [default: 120]
    #[arg(long, value_name = "SECONDS")]
    lame_duck: Option<String>,
    /// The name that goes with the password [default: default]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// How log lines look on stderr: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    #[command(flatten)]
    common: CommonArgs,
}

/// The flags that `serve` and `info` share.
#[derive(Args, Clone, Debug, Default)]
struct CommonArgs {
    /// A TOML file with settings, also SAPWOOD_CONFIG
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// A file that holds the password clients AUTH with; one trailing newline is not part of it
    #[arg(long, value_name = "FILE")]
    password_file: Option<String>,
}

/// The flags of `sapwood info`.
#[derive(Args, Debug, Default)]
struct InfoArgs {
    /// Only this section
    section: Option<String>,
    /// Where the broker listens for Redis clients [default: 127.0.0.1:7463]
    #[arg(long, value_name = "ADDR")]
    redis: Option<String>,
    /// Ask over the native protocol instead, where the broker listens for its clients
    #[arg(long, value_name = "ADDR", conflicts_with = "redis")]
    native: Option<String>,
    /// Go on trying for so long if no broker is there yet, such as 10s
    #[arg(long, value_name = "TIME", requires = "native", value_parser = quantity::flag(quantity::parse_time))]
    wait: Option<std::time::Duration>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: CommonArgs,
}

/// Why a command failed; its display is what the user reads after `sapwood: `.
#[derive(Debug)]
enum Failure {
    /// The configuration is wrong; the command did nothing.
    Config(Vec<Problem>),
    /// The data directory cannot be used; with where it was given.
    Data(Box<(Source, DataError)>),
    /// The server did not start.
    Start(StartError),
    /// The server ended by itself.
    Serve(sapwood_server::ServeError),
    /// What the process needs before the server starts was refused by the system.
    System(&'static str, std::io::Error),
    /// `sapwood info` got no answer it could print.
    Info(info::InfoError),
    /// A command that is a client did not do what it should.
    Client(Trouble),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Config(_) => ExitCode::from(EXIT_USAGE),
            // Only the server knows the machine's CPUs, but what was asked of it is configuration.
            Failure::Start(StartError::Plan(_)) => ExitCode::from(EXIT_USAGE),
            Failure::Info(error) if error.is_usage() => ExitCode::from(EXIT_USAGE),
            Failure::Client(trouble) => ExitCode::from(trouble.exit_code()),
            _ => ExitCode::from(EXIT_RUNTIME),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Config(problems) => match problems.as_slice() {
                [problem] => write!(out, "{problem}"),
                _ => {
                    write!(
                        out,
                        "{} things in the configuration are wrong:",
                        problems.iter().map(Problem::count).sum::<usize>()
                    )?;
                    problems
                        .iter()
                        .try_for_each(|problem| write!(out, "\n  {problem}"))
                }
            },
            Failure::Data(data) => write!(out, "{}: {}", data.0, data.1),
            Failure::Start(error) => write!(out, "{error}"),
            Failure::Serve(error) => write!(out, "{error}"),
            Failure::System(what, error) => write!(out, "cannot {what}: {error}."),
            Failure::Info(error) => write!(out, "{error}"),
            Failure::Client(trouble) => write!(out, "{trouble}"),
        }
    }
}

/// Reads the process's arguments, runs the command they name, and says on stderr why it failed if it did.
///
/// Exit codes: 0 done, 1 failed while running, 2 wrong command line or configuration, 3 nobody listens, 4 nothing came in
/// time.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let environment = config::Environment::of_process();
    let outcome = match &cli.command {
        Command::Serve(args) => serve::run(args, &environment),
        Command::Pub(args) => publish::run(args, &environment),
        Command::Sub(args) => subscribe::run(args, &environment),
        Command::Request(args) => request::run(args, &environment),
        Command::Reply(args) => reply::run(args, &environment),
        Command::Stream(args) => stream::run(args, &environment),
        Command::Ping(args) => ping::run(args, &environment),
        Command::Bench(args) => bench::run(args, &environment),
        Command::Info(args) => info::run(args, &environment),
        Command::Tree(args) => tree::run(args, &environment),
        Command::Trace(args) => trace::run(args, &environment),
        Command::Check(args) => check::run(args),
        Command::Completion(args) => manual::completion(args),
        Command::Man(args) => manual::man(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where stderr is gone there is nobody to tell; the exit code says it.
            let _ = writeln!(io::stderr(), "sapwood: {failure}");
            failure.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_flag_takes_a_password() {
        let command = Cli::command();
        for sub in command.get_subcommands() {
            assert!(
                sub.get_arguments()
                    .all(|argument| argument.get_long() != Some("password")),
                "{}",
                sub.get_name()
            );
        }
    }
}
