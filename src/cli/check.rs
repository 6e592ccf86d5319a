//! `sapwood check`: says whether a topology file is right, and draws the tree that it describes.
//!
//! How a tree looks stands in [`drawing`](super::drawing), what makes one right stands in [`topology`](super::topology). It connects to nothing.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;

use super::Failure;
use super::drawing::{Branches, counted};
use super::output::{Flow, Output};
use super::problem::Source;
use super::topology::{Seat, Topology, nearest};
use super::trouble::Trouble;

/// What follows the options in the help of `sapwood check`.
pub const HELP: &str = "\
Examples:
  sapwood check --topology tree.toml                  say what is wrong, or draw the tree
  sapwood check --topology tree.toml --node bergen    the place of one node

The file has a table for each node, and exactly one node without a parent, the root:

  [node.oslo]
  address = \"10.0.0.1:7401\"
  tags = [\"edge\"]

  [node.bergen]
  address = \"10.0.0.2:7401\"
  parent = \"oslo\"
  groups = [\"workers\"]

An address is the IP address and port where the other nodes connect to it. A node's children
are numbered from 0 in the order of the file, and its path is the numbers that lead to it from
the root: the root is /, bergen is /0.

Exit codes: 0 the file is right, 1 the tree cannot be printed, 2 the file is wrong.";

/// The flags of `sapwood check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The TOML file that names each node, its address and its parent
    #[arg(long, value_name = "FILE")]
    topology: PathBuf,
    /// Print the place of this node instead of the whole tree
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

/// Reads the file, and draws its tree or prints one place of it.
///
/// Errors: a file that is wrong, or a node that is not in it, exit code 2; nothing has been printed then.
pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    let asked_by = Source::Flag("--topology".to_string());
    let topology = Topology::read(&args.topology, asked_by).map_err(Failure::Config)?;
    let mut output = Output::new()?;
    let flow = match &args.node {
        Some(name) => {
            let seat = topology.place_of(name);
            let seat = seat.ok_or_else(|| no_such_node(name, &topology))?;
            push_seat(&mut output.buffer, name, &seat);
            Flow::Continue(())
        }
        None => draw(&topology, &mut output)?,
    };
    match flow {
        // Nobody reads the rest.
        ControlFlow::Break(()) => Ok(()),
        ControlFlow::Continue(()) => output.flush().map(|_| ()),
    }
}

fn no_such_node(name: &str, topology: &Topology) -> Failure {
    let what = match nearest(name, topology.names()) {
        Some(nearest) => {
            format!("--node: no node is called {name:?}; did you mean {nearest:?}?")
        }
        None => {
            format!(
                "--node: no node is called {name:?}; without --node the tree shows all of them."
            )
        }
    };
    Failure::Client(Trouble::Plan(what))
}

fn push_seat(out: &mut Vec<u8>, name: &str, seat: &Seat<'_>) {
    let or_none = |text: String| match text.is_empty() {
        true => "none".to_string(),
        false => text,
    };
    let parent = seat
        .parent
        .map(|(parent, address)| format!("{parent} at {address}"));
    let rows = [
        ("node", name.to_string()),
        ("address", seat.address.to_string()),
        ("path", path_text(&seat.path)),
        (
            "parent",
            parent.unwrap_or_else(|| "none, it is the root".to_string()),
        ),
        ("children", or_none(seat.children.join(", "))),
        ("tags", or_none(seat.tags.join(", "))),
        ("groups", or_none(seat.groups.join(", "))),
    ];
    for (what, text) in rows {
        out.extend_from_slice(format!("{what:<8}  {text}\n").as_bytes());
    }
}

fn path_text(path: &[u8]) -> String {
    match path {
        [] => "/".to_string(),
        numbers => numbers.iter().map(|number| format!("/{number}")).collect(),
    }
}

/// A line for each node, below its parent, in the order of the children's numbers.
fn draw(topology: &Topology, output: &mut Output) -> Result<Flow, Failure> {
    let (mut name_width, mut address_width, mut deepest) = (0, 0, 0);
    let seats = topology
        .names()
        .filter_map(|name| Some((name, topology.place_of(name)?)));
    for (name, seat) in seats {
        name_width = name_width.max(3 * seat.path.len() + name.len());
        address_width = address_width.max(seat.address.to_string().len());
        deepest = deepest.max(seat.path.len());
    }
    let mut branches = Branches::default();
    let mut waiting = vec![(topology.root(), false)];
    // Ends: a tree has each node once.
    while let Some((name, has_siblings)) = waiting.pop() {
        let Some(seat) = topology.place_of(name) else {
            continue;
        };
        let mut start = branches.start(seat.path.len(), has_siblings);
        start.push_str(name);
        let line = format!(
            "{start:<name_width$}  {:<address_width$}{}{}",
            seat.address.to_string(),
            list_text("tags", seat.tags),
            list_text("groups", seat.groups)
        );
        output.buffer.extend_from_slice(line.trim_end().as_bytes());
        output.buffer.push(b'\n');
        if output.write_if_much()?.is_break() {
            return Ok(Flow::Break(()));
        }
        let last_first = seat.children.iter().rev().enumerate();
        waiting.extend(last_first.map(|(after, child)| (*child, after > 0)));
    }
    let nodes = counted(topology.names().count(), "node");
    let hops = counted(deepest, "hop");
    let summary = format!("{nodes}, the deepest {hops} from the root\n");
    output.buffer.extend_from_slice(summary.as_bytes());
    Ok(Flow::Continue(()))
}

fn list_text(what: &str, names: &[String]) -> String {
    match names {
        [] => String::new(),
        names => format!("  {what} {}", names.join(",")),
    }
}
