//! `sapwood tree`: asks every node of the tree who it is and how it does, and draws what they say.
//!
//! Two questions, some time apart, make rates of counters. What these questions move themselves is left out of the rates
//! as far as it is known (`tree/view.rs`). How it looks stands in `tree/draw.rs`; how nodes are asked in
//! [`answers`](super::answers). Start at [`run`].

mod draw;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use sapwood_client::Client;
use tokio::time::Instant;

use super::Failure;
use super::answers::{self, End, Gathered, Wanted};
use super::config::Environment;
use super::connect::{self, ConnectArgs, Connector, Threads};
use super::output::Output;
use super::quantity;
use super::stop::Stop;
use super::trouble::Trouble;
use view::{Local, View};

/// How long from one question to the next unless told otherwise: enough events for a rate, and hardly a wait.
const INTERVAL: Duration = Duration::from_millis(500);

/// What clears a terminal and goes to its first line.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J";

/// What follows the options in the help.
pub const HELP: &str = "\
Examples:
  sapwood tree                        draw the tree of the broker on this machine
  sapwood tree --watch                draw it again and again, until Ctrl-C
  sapwood tree --depth 1              the root, its children, and how many nodes are below
  sapwood tree /                      one node, by its place or its name, with all its links
  sapwood tree 'tag=edge'             each node with this tag
  sapwood tree --json                 one JSON object for each node, with all its counters

Each line is a node, below its parent. Its columns:

  place         the child numbers that lead to it from the root
  clients       connections of its clients, without this command's own
  in/s, out/s   events that its clients publish, and that are delivered to them
  round trip    of the link to its parent, measured by the link's heartbeats
  up/s, down/s  events that go over this link to the parent, and to the node
  above, below  filters that have subscribers above the link, and at the node and below it, for
                which events go over the link; `all` if they are too many to be told one by one

Behind these stand a node's tags and groups, how long the root is that, and what is not as it should be: links that \
the node lost, lanes of the link that are down, how often they were connected again, events that it lost, many bytes that the other side does not have yet, shards or nodes that did not answer in \
time. What these questions move themselves is left out of the rates but for a few events.

For one node, `filters` is how many filters are wanted on the other side of a link.

Exit codes: 0 drawn, 1 failed, 2 wrong usage, 4 no node answered.";

/// The flags of `sapwood tree`.
#[derive(Args, Debug, Default)]
pub struct TreeArgs {
    /// Ask only this node, and print each of its links: a name, a place such as /0/1, or tag=edge for several
    node: Option<String>,
    /// Draw so many levels below the first [default: as many as fit 200 nodes]
    #[arg(long, value_name = "N", conflicts_with_all = ["node", "json"], value_parser = quantity::count)]
    depth: Option<u64>,
    /// Draw again each interval, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// How long to count events for the rates, and to wait between two drawings [default: 500ms]
    #[arg(long, value_name = "TIME", value_parser = quantity::flag(quantity::parse_time))]
    interval: Option<Duration>,
    /// How long to wait for nodes to answer [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = quantity::flag(quantity::parse_time))]
    timeout: Option<Duration>,
    /// Print one JSON object a line for each node
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Asks and draws.
///
/// Errors: wrong settings or usage, exit code 2; a broker that is not there, went away or is too old, 1; no node that
/// answers, 4. What has been drawn before stays drawn.
pub fn run(args: &TreeArgs, environment: &Environment) -> Result<(), Failure> {
    let question = Question::new(args)?;
    let connector = Connector::new(&args.connect, environment)?;
    let stop = Stop::on_signal()?;
    stop.on_closed_stdout()?;
    let output = Output::new()?;
    let runtime = connect::runtime(Threads::Here)?;
    runtime.block_on(async {
        tokio::select! {
            done = tree(args, &question, &connector, output) => done,
            () = stop.wait() => Ok(()),
        }
    })
}

async fn tree(
    args: &TreeArgs,
    question: &Question,
    connector: &Connector,
    mut output: Output,
) -> Result<(), Failure> {
    let client = connector.connect(connector.builder()).await?;
    let interval = args.interval.unwrap_or(INTERVAL);
    let local = local(&client, question.timeout).await?;
    let is_screen = args.watch && !args.json && io::stdout().is_terminal();
    let mut before = question.ask(&client).await?;
    // Ends after one drawing, when nobody reads any more, or with the process.
    loop {
        tokio::time::sleep_until(before.at + interval).await;
        let now = question.ask(&client).await?;
        let view = View::new(&now, &before, local.as_ref(), question.is_of_all());
        if is_screen {
            output.buffer.extend_from_slice(CLEAR);
        }
        let out = &mut output.buffer;
        match (args.json, question.is_of_all()) {
            (true, _) => draw::push_json(out, &view),
            (false, true) => draw::push_tree(out, &view, args.depth),
            (false, false) => draw::push_nodes(out, &view),
        }
        if args.watch && !is_screen && !args.json {
            output.buffer.push(b'\n');
        }
        if output.flush()?.is_break() {
            return Ok(());
        }
        if let Some(missing) = draw::missing(&view, question.timeout) {
            connect::say(&format!("sapwood: {missing}\n"));
        }
        if !args.watch {
            return Ok(());
        }
        before = now;
    }
}

/// What is asked over and over.
struct Question {
    topic: String,
    node: Option<String>,
    timeout: Duration,
}

/// The answers to a question, and when it was asked.
pub struct Asked {
    gathered: Gathered,
    at: Instant,
}

impl Question {
    /// Errors: an argument that cannot be asked twice.
    fn new(args: &TreeArgs) -> Result<Question, Failure> {
        let topic = match &args.node {
            None => "$info".to_string(),
            Some(node) if node.contains("group=") => {
                let what = format!(
                    "{node} is one node of a group, each time another; `sapwood tree` shows who is in which group."
                );
                return Err(Failure::Client(Trouble::Plan(what)));
            }
            Some(node) => format!("$to:{node}:$info"),
        };
        Ok(Question {
            topic,
            node: args.node.clone(),
            timeout: args.timeout.unwrap_or(answers::TIMEOUT),
        })
    }

    fn is_of_all(&self) -> bool {
        self.node.is_none()
    }

    /// Whether it is about one node, as far as names are given once.
    fn is_of_one(&self) -> bool {
        let node = self.node.as_deref();
        node.is_some_and(|node| !node.contains(['*', '=', ',']))
    }

    async fn ask(&self, client: &Client) -> Result<Asked, Failure> {
        let at = Instant::now();
        let mut gathered = Gathered::default();
        let end = answers::ask(client, &self.topic, self.timeout, |answer, _| {
            gathered.take(answer);
            if self.is_of_all() && gathered.is_whole() {
                Wanted::Nothing
            } else if self.is_of_one() && gathered.has_whole_nodes() {
                Wanted::Stragglers
            } else {
                Wanted::More
            }
        });
        let end = end.await?;
        if gathered.len() == 0 {
            return Err(Failure::Client(Trouble::NoNode(self.nobody(end))));
        }
        if self.is_of_all() {
            gathered.add_unheard();
        }
        Ok(Asked { gathered, at })
    }

    /// What it means that nobody answered.
    fn nobody(&self, end: End) -> String {
        let all = "`sapwood tree` shows who is there.";
        match (&self.node, end) {
            (Some(node), End::Nobody) if node.starts_with('/') => {
                format!("no node stands at {node}; {all}")
            }
            (Some(node), End::Nobody) => format!("no node is called {node}; {all}"),
            (Some(node), _) => format!(
                "nobody answered for {node} within {:?}; --timeout waits longer, and {all}",
                self.timeout
            ),
            (None, _) => format!(
                "no node answered within {:?}; --timeout waits longer.",
                self.timeout
            ),
        }
    }
}

/// Finds out which node this client is connected to.
async fn local(client: &Client, timeout: Duration) -> Result<Option<Local>, Failure> {
    let here = answers::here(client, timeout).await?;
    Ok(here.map(|here| Local {
        id: answers::string(&here, "node"),
        place: here["address"].as_str().map(answers::numbers),
    }))
}
