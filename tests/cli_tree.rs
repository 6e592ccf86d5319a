//! `sapwood tree` and `sapwood trace` against real brokers that are one tree, with one shard each, with two, and with both.
//!
//! What one node knows of another comes a moment later, so drawings are made again until they show what is awaited.

mod common;
#[path = "common/frames.rs"]
mod frames;
#[path = "common/load.rs"]
mod load;
#[path = "common/nats.rs"]
mod nats;
#[path = "tree/nodes.rs"]
mod nodes;
#[path = "common/web.rs"]
mod web;

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::cli::{Cli, Running, stderr};
use common::native::{Event, NativeClient};
use common::{Broker, VALUE_SECONDS_MAX};
use nodes::{Ear, MIXES, Tree};
use rustix::process::{Pid, Signal};
use serde_json::Value;

/// Each node's name, its place, and the number of its parent among them.
const NODES: [(&str, &str, Option<usize>); 6] = [
    ("oslo", "/", None),
    ("bergen", "/0", Some(0)),
    ("hol", "/1", Some(0)),
    ("moss", "/2", Some(0)),
    ("voss", "/0/0", Some(1)),
    ("geilo", "/1/0", Some(2)),
];

const OSLO: usize = 0;
const VOSS: usize = 4;
const GEILO: usize = 5;

/// Starts them. Voss has a tag, and geilo is in a group of nodes.
fn start(shards: &[usize]) -> Tree {
    let mut tree = Tree { nodes: Vec::new() };
    for (number, (name, _, parent)) in NODES.into_iter().enumerate() {
        let parent = parent.map(|parent| tree.nodes[parent].node_port().to_string());
        let mut args = vec!["--node-name", name];
        if let Some(parent) = &parent {
            args.extend(["--parent", parent]);
        }
        match number {
            VOSS => args.extend(["--node-tags", "edge"]),
            GEILO => args.extend(["--node-groups", "web"]),
            _ => {}
        }
        let shards = shards[number % shards.len()];
        let node = Broker::start_restartable_with(shards, None, &args);
        tree.nodes.push(node);
        // One after the other, so that each has the number that it has above.
        tree.settle();
    }
    tree
}

/// Runs a command until what it prints is right. That no node answers is passed over: those that have just come may not
/// know the way to each other yet.
#[track_caller]
fn until(cli: &Cli, args: &[&str], is_right: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + VALUE_SECONDS_MAX;
    loop {
        let output = cli.run(args);
        let said = stderr(&output);
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 4)), "{args:?}: {code:?} {said}");
        let shown = String::from_utf8(output.stdout).unwrap();
        if code == Some(0) && is_right(&shown) {
            return shown;
        }
        assert!(Instant::now() < deadline, "{args:?}: {shown}{said}");
    }
}

/// The cells of each line of a table, which stand two spaces apart, without the branches before names.
fn cells(table: &str) -> Vec<Vec<&str>> {
    let lines = table.lines().map(|line| {
        let line = line.trim_start_matches(['│', '├', '└', '─', ' ']);
        let cells = line.split("  ").filter(|cell| !cell.is_empty());
        cells.map(str::trim).collect()
    });
    lines.collect()
}

/// The cell of a node in a column of `sapwood tree`.
#[track_caller]
fn cell<'a>(table: &'a str, node: &str, column: &str) -> &'a str {
    let rows = cells(table);
    let place = rows[0].iter().position(|name| *name == column);
    let row = rows.iter().find(|row| row[0] == node);
    row.unwrap_or_else(|| panic!("no {node}: {table}"))[place.unwrap()]
}

/// The same as a number.
#[track_caller]
fn number(table: &str, node: &str, column: &str) -> f64 {
    let text = cell(table, node, column).replace(',', "");
    text.parse().unwrap_or_else(|_| panic!("{text}: {table}"))
}

fn json_lines(text: &str) -> Vec<Value> {
    let lines = text.lines();
    let lines = lines.map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")));
    lines.collect()
}

/// Publishes to a topic, an event a millisecond or so, until it is dropped.
struct Traffic {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    fn start(node: &Broker, topic: &'static str) -> Traffic {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut client = NativeClient::connect(node.native_port());
        let shared = is_over.clone();
        let thread = thread::spawn(move || {
            while !shared.load(Ordering::Relaxed) {
                client.publish(&Event::new(topic, "x"));
                thread::sleep(Duration::from_millis(1));
            }
        });
        Traffic {
            is_over,
            thread: Some(thread),
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn drawing_holds_every_node_at_its_place() {
    let expected = [
        "oslo         /",
        "├─ bergen    /0",
        "│  └─ voss   /0/0",
        "├─ hol       /1",
        "│  └─ geilo  /1/0",
        "└─ moss      /2",
    ];
    for shards in MIXES {
        let tree = start(shards);
        for node in [OSLO, VOSS] {
            let cli = Cli::of(&tree.nodes[node]);
            let shown = until(&cli, &["tree"], |shown| shown.contains("\n6 nodes, "));
            let lines: Vec<_> = shown.lines().collect();
            assert!(
                lines[0].starts_with("node         place  clients"),
                "{shown}"
            );
            for (line, start) in lines[1..7].iter().zip(expected) {
                assert!(line.starts_with(&format!("{start} ")), "{start}: {shown}");
            }
            let asked_at = format!("; asked at {}", NODES[node].0);
            assert!(
                lines[7].contains("the deepest 2 hops from the root"),
                "{shown}"
            );
            assert!(lines[7].ends_with(&asked_at) && lines.len() == 8, "{shown}");
            assert!(lines[3].ends_with("  tags edge"), "{shown}");
            assert!(lines[5].ends_with("  groups web"), "{shown}");
        }
    }
}

#[test]
fn rates_and_interest_stand_where_events_flow() {
    for shards in MIXES {
        let tree = start(shards);
        let _ear = Ear::native(&tree.nodes[GEILO], "news.>");
        let _traffic = Traffic::start(&tree.nodes[VOSS], "news.art");
        let cli = Cli::of(&tree.nodes[OSLO]);
        let flowing = [
            ("voss", "in/s"),
            ("voss", "up/s"),
            ("bergen", "up/s"),
            ("hol", "down/s"),
            ("geilo", "down/s"),
            ("geilo", "out/s"),
        ];
        let quiet = ["bergen", "voss", "moss"];
        let interest = [
            (&quiet[..], "above", "1"),
            (&quiet, "below", "0"),
            (&["hol", "geilo"], "above", "0"),
            (&["hol", "geilo"], "below", "1"),
            (&["oslo", "bergen", "moss"], "clients", "0"),
            (&["voss", "geilo"], "clients", "1"),
        ];
        // The questions' own events are few a second, and mostly left out.
        until(&cli, &["tree", "--interval", "200ms"], |shown| {
            let flows = |&(node, column): &(&str, &str)| number(shown, node, column) > 50.0;
            let is_quiet = |node: &&str| number(shown, node, "down/s") < 50.0;
            let stands = |&(nodes, column, count): &(&[&str], &str, &str)| {
                nodes.iter().all(|node| cell(shown, node, column) == count)
            };
            shown.contains("\n6 nodes, ")
                && !shown.contains('?')
                && flowing.iter().all(flows)
                && quiet.iter().all(is_quiet)
                && interest.iter().all(stands)
                && cell(shown, "moss", "round trip").ends_with('s')
        });
    }
}

#[test]
fn json_has_every_node_with_all_its_links() {
    let tree = start(&[1, 2]);
    let cli = Cli::of(&tree.nodes[OSLO]);
    let shown = until(&cli, &["tree", "--json"], |shown| {
        shown.lines().count() == 6
    });
    let nodes = json_lines(&shown);
    let places: Vec<_> = nodes
        .iter()
        .map(|node| node["place"].as_str().unwrap())
        .collect();
    assert_eq!(places, ["/", "/0", "/0/0", "/1", "/1/0", "/2"]);
    let root = &nodes[0];
    assert!(
        root["parent"].is_null() && root["is_asked_here"] == true,
        "{root}"
    );
    assert_eq!(root["links"].as_array().unwrap().len(), 3);
    for (node, parent) in [(1, 0), (2, 1), (3, 0), (4, 3), (5, 0)] {
        assert_eq!(nodes[node]["parent"], nodes[parent]["node"]);
        let link = &nodes[node]["links"][0];
        assert_eq!(link["role"], "parent");
        assert_eq!(link["lanes_up"], link["lanes"], "{link}");
        assert_eq!(nodes[node]["shards_answered"], nodes[node]["shards"]);
        assert!(nodes[node]["counters"]["link_events_in"].is_u64());
    }
}

#[test]
fn one_node_is_asked_alone_by_name_place_or_tag() {
    let tree = start(&[1, 2]);
    let cli = Cli::of(&tree.nodes[GEILO]);
    for asked in ["voss", "/0/0", "tag=edge"] {
        let is_right = |shown: &str| shown.contains("\nlink to ");
        let shown = until(&cli, &["tree", asked, "--timeout", "300ms"], is_right);
        assert!(shown.starts_with("node      voss\n"), "{shown}");
        assert!(
            shown.contains("\nplace     /0/0\ntags      edge\n"),
            "{shown}"
        );
        let links = cells(&shown)
            .into_iter()
            .filter(|row| row.first() == Some(&"bergen"));
        let links: Vec<_> = links.collect();
        assert_eq!((links.len(), links[0][2]), (1, "parent"), "{shown}");
    }
    let shown = cli.text(&["tree", "/"]);
    let rows = cells(&shown).into_iter();
    let children: Vec<_> = rows.filter_map(|row| row.first().copied()).collect();
    assert!(children.ends_with(&["bergen", "hol", "moss"]), "{shown}");
    let nodes = json_lines(&cli.text(&["tree", "hol", "--json"]));
    assert_eq!((nodes.len(), &nodes[0]["name"]), (1, &Value::from("hol")));
    for (asked, message) in [
        ("paris", "no node is called paris; `sapwood tree` shows"),
        ("/7", "no node stands at /7; `sapwood tree` shows"),
    ] {
        let output = cli.run(&["tree", asked]);
        let said = stderr(&output);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(4), 0));
        assert!(said.contains(message), "{said}");
    }
}

#[test]
fn deep_levels_are_counted_instead_of_drawn() {
    let tree = start(&[1]);
    let cli = Cli::of(&tree.nodes[OSLO]);
    let shown = until(&cli, &["tree", "--depth", "1"], |shown| {
        shown.contains("\n6 nodes")
    });
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 8, "{shown}");
    assert_eq!(lines[2].split("  ").next(), Some("├─ bergen"), "{shown}");
    assert_eq!(lines[3], "│  └─ ... 1 more node below");
    assert_eq!(lines[5], "│  └─ ... 1 more node below");
}

#[test]
fn a_node_that_does_not_answer_is_drawn_as_such() {
    let tree = start(&[1]);
    let cli = Cli::of(&tree.nodes[OSLO]);
    until(&cli, &["tree"], |shown| shown.contains("\n6 nodes"));
    let moss = Pid::from_raw(tree.nodes[3].pid() as i32).unwrap();
    let deadline = Instant::now() + VALUE_SECONDS_MAX;
    // Once more if the tree gives it up before it is asked.
    loop {
        rustix::process::kill_process(moss, Signal::STOP).unwrap();
        let output = cli.run(&["tree", "--timeout", "50ms", "--interval", "1ms"]);
        rustix::process::kill_process(moss, Signal::CONT).unwrap();
        assert_eq!(output.status.code(), Some(0));
        let shown = String::from_utf8(output.stdout.clone()).unwrap();
        let line = shown.lines().find(|line| line.contains("moss"));
        if line
            .is_some_and(|line| line.starts_with("└─ moss      /2 ") && line.ends_with("no answer"))
        {
            assert!(
                stderr(&output).contains("moss did not answer"),
                "{}",
                stderr(&output)
            );
            return;
        }
        assert!(Instant::now() < deadline, "{shown}");
    }
}

#[test]
fn trace_names_exactly_the_nodes_on_the_way_in_order() {
    for shards in MIXES {
        let tree = start(shards);
        let ear = Ear::native(&tree.nodes[GEILO], "news");
        let cli = Cli::of(&tree.nodes[VOSS]);
        let expected = [
            ("voss", "/0/0"),
            ("bergen", "/0"),
            ("oslo", "/"),
            ("hol", "/1"),
            ("geilo", "/1/0"),
        ];
        let way = |shown: &str| {
            let rows = cells(shown);
            let rows = rows.iter().take(rows.len() - 1).skip(1);
            let pairs = rows.map(|row| (row[0].to_string(), row[1].to_string()));
            pairs.collect::<Vec<_>>()
        };
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let pairs = pairs.iter();
            pairs
                .map(|(name, place)| (name.to_string(), place.to_string()))
                .collect()
        };
        let shown = until(&cli, &["trace", "news"], |shown| {
            way(shown) == own(&expected)
        });
        assert_eq!(cell(&shown, "geilo", "subscriptions"), "1", "{shown}");
        assert_eq!(cell(&shown, "oslo", "subscriptions"), "0", "{shown}");
        let summary = "\n5 nodes, 5 events; one on news would reach 1 subscription\n";
        assert!(shown.ends_with(summary), "{shown}");
        // Each below the one it came from.
        assert!(shown.contains("\n         └─ geilo"), "{shown}");
        ear.hears_nothing();

        let shown = cli.text(&["trace", "$to:hol:news", "--count", "1"]);
        assert_eq!(way(&shown), own(&expected[..4]), "{shown}");
        assert!(shown.contains("only on the way"), "{shown}");
        assert!(
            shown.ends_with("\n4 nodes, 1 event; nobody listens on $to:hol:news\n"),
            "{shown}"
        );

        // A link that is new has not measured its round trip yet.
        let has_times = |shown: &str| {
            let unmeasured = "\"link_round_trip_us\":null";
            shown.matches(unmeasured).count() == 1
        };
        let steps = json_lines(&until(&cli, &["trace", "news", "--json"], has_times));
        assert_eq!(steps.len(), 5);
        for (hop, step) in steps.iter().enumerate() {
            assert_eq!(
                (step["hops"].as_u64(), step["answers"].as_u64()),
                (Some(hop as u64), Some(5))
            );
            assert!(step["there_and_back_us"].as_f64() > Some(0.0), "{step}");
            assert_eq!(step["from"].is_null(), hop == 0, "{step}");
            assert_eq!(step["link_round_trip_us"].is_null(), hop == 0, "{step}");
        }
        ear.hears_nothing();
    }
}

#[test]
fn trace_shows_every_node_where_a_member_of_a_group_is() {
    let tree = start(&[1, 2]);
    let near = Ear::member(&tree.nodes[OSLO], "workers", "jobs");
    let far = Ear::member(&tree.nodes[GEILO], "workers", "jobs");
    let cli = Cli::of(&tree.nodes[OSLO]);
    let shown = until(&cli, &["trace", "jobs"], |shown| shown.contains("geilo"));
    assert!(shown.contains("workers: 1 here, 1 beyond"), "{shown}");
    assert!(
        shown.contains("reach 0 subscriptions and one member of 1 group\n"),
        "{shown}"
    );
    let shown = cli.text(&["trace", "$near:jobs"]);
    assert!(shown.contains("\n1 node, "), "{shown}");
    near.hears_nothing();
    far.hears_nothing();
}

/// Checks what is drawn of a broker that is alone.
#[track_caller]
fn check_alone(cli: &Cli, place: &str, note: &str) {
    let shown = until(cli, &["tree"], |shown| cells(shown)[1][1] == place);
    let lines: Vec<_> = shown.lines().collect();
    assert!(lines.len() == 3 && lines[1].ends_with(note), "{shown}");
    let summary = "1 node, the deepest 0 hops from the root, 0 clients, ";
    assert!(lines[2].starts_with(summary), "{shown}");
    let begun = Instant::now();
    let shown = cli.text(&["trace", "news", "--timeout", "60s"]);
    let summary = "\n1 node, 5 events; nobody listens on news\n";
    assert!(shown.ends_with(summary), "{shown}");
    assert!(begun.elapsed() < VALUE_SECONDS_MAX, "it waited for nobody");
}

/// Publishes from oslo; gives the exit code and what it printed.
fn publish(cli: &Cli, args: &[&str]) -> (Option<i32>, String) {
    let output = cli.run(&[&["pub"], args].concat());
    let printed = String::from_utf8(output.stdout.clone()).unwrap();
    (output.status.code(), printed + &stderr(&output))
}

#[test]
fn who_publishes_learns_of_subscribers_in_the_whole_tree() {
    for shards in MIXES {
        let tree = start(shards);
        let cli = Cli::at(&tree.nodes[OSLO].native_port().to_string());
        let (code, said) = publish(&cli, &["news.art", "x", "--require-listeners"]);
        assert_eq!(code, Some(3), "{said}");
        let confirmed = publish(&cli, &["news.art", "x", "--confirm"]);
        assert_eq!(confirmed, (Some(0), "0\n".into()));
        let mut far = NativeClient::connect(tree.nodes[VOSS].native_port());
        far.subscribe("news.*");
        tree.settle();
        let confirmed = publish(&cli, &["news.art", "y", "--confirm", "--require-listeners"]);
        assert_eq!(confirmed, (Some(0), "0+\n".into()));
        let mut near = NativeClient::connect(tree.nodes[OSLO].native_port());
        near.subscribe("news.art");
        let confirmed = publish(&cli, &["news.art", "z", "--confirm"]);
        assert_eq!(confirmed, (Some(0), "1+\n".into()));
        assert_eq!(far.message(), Event::new("news.art", "y"));
        let http = web::ask(
            tree.nodes[OSLO].http_port(),
            "POST /v1/topics/news.art",
            &[],
            b"h",
        );
        assert_eq!(http.json(), serde_json::json!({"count": 1, "beyond": true}));
    }
}

#[test]
fn an_event_for_nodes_that_are_not_there_is_said_to_be_lost() {
    let tree = start(&[2]);
    let cli = Cli::at(&tree.nodes[OSLO].native_port().to_string());
    for topic in [
        "$to:nowhere:orders",
        "$to:/7:orders",
        "$to:group=none:orders",
    ] {
        let (code, said) = publish(&cli, &[topic, "x"]);
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains("no node that it names is known"), "{said}");
    }
    let mut far = NativeClient::connect(tree.nodes[VOSS].native_port());
    far.subscribe("orders");
    tree.settle();
    let sent = publish(&cli, &["$to:voss:orders", "x"]);
    assert_eq!(sent, (Some(0), String::new()));
    assert_eq!(far.message(), Event::new("orders", "x"));
}

#[test]
fn nodes_of_the_same_name_are_warned_of_where_they_are_linked() {
    let join = |node: &Broker, name| {
        let seed = node.node_port().to_string();
        Broker::start(1, &["--node-name", name, "--join", &seed])
    };
    let root = Broker::start(2, &["--node-name", "oslo"]);
    let twin = join(&root, "oslo");
    let (first, second) = (join(&root, "voss"), join(&root, "voss"));
    let other = join(&root, "rana");
    let until_said = |node: &Broker, words: &[&str]| {
        let deadline = Instant::now() + VALUE_SECONDS_MAX;
        let is_said = |line: &str| words.iter().all(|word| line.contains(word));
        while !node.stderr().lines().any(is_said) {
            assert!(Instant::now() < deadline, "{words:?}: {}", node.stderr());
            thread::sleep(Duration::from_millis(2));
        }
    };
    let own = [
        "WARN",
        "node oslo",
        "has the same name as this node",
        "--node-name",
    ];
    until_said(&root, &own);
    until_said(&twin, &own);
    let same = [
        "WARN",
        "node voss",
        "has the same name as node voss",
        "--node-name",
    ];
    until_said(&root, &same);
    for node in [&first, &second, &other] {
        until_said(node, &["linked with node oslo"]);
    }
    until_said(&root, &["linked with node rana"]);
    for node in [&first, &second, &other] {
        assert!(
            !node.stderr().contains("the same name"),
            "{}",
            node.stderr()
        );
    }
    assert_eq!(
        root.stderr().matches("the same name").count(),
        2,
        "{}",
        root.stderr()
    );
}

#[test]
fn a_single_broker_is_a_tree_of_one() {
    let broker = Broker::start(2, &["--node-name", "alone"]);
    check_alone(&Cli::of(&broker), "/", " s");
}

#[test]
fn a_broker_that_takes_no_nodes_in_answers_for_itself() {
    let any = "127.0.0.1:0";
    let args = [
        "serve", "--node", "off", "--shards", "2", "--native", any, "--redis", any,
    ];
    let mut broker = Running::start(Cli::at(any).command(&args), b"");
    let native = loop {
        let line = broker.line();
        let mut words = line.split_whitespace();
        if words.next() == Some("native") {
            break words.next().unwrap().to_string();
        }
    };
    check_alone(&Cli::at(&native), "-", "takes part in no tree");
}

#[test]
fn watching_clears_terminals_alone() {
    let broker = Broker::start(1, &["--node-name", "alone"]);
    let cli = Cli::of(&broker);
    let args = ["tree", "--watch", "--interval", "10ms"];
    let mut running = Running::start(cli.command(&args), b"");
    let mut drawings = 0;
    while drawings < 3 {
        let line = running.line();
        assert!(!line.contains('\u{1b}'), "{line}");
        drawings += usize::from(line.starts_with("1 node, "));
    }
    running.signal(Signal::INT);
    assert_eq!(running.end().status.code(), Some(0));

    let (mut ours, theirs) = terminal();
    let mut command = cli.command(&["tree", "--watch", "--interval", "100ms"]);
    command.stdout(theirs);
    let mut child = command.spawn().unwrap();
    let mut shown = Vec::new();
    let mut chunk = [0; 4096];
    while !String::from_utf8_lossy(&shown).contains("1 node, ") {
        let length = ours.read(&mut chunk).unwrap();
        shown.extend_from_slice(&chunk[..length]);
    }
    let pid = Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    assert!(child.wait().unwrap().success());
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.starts_with("\u{1b}[H\u{1b}[2Jnode"), "{shown:?}");
}

/// Two sides of a terminal: ours, and that of a command.
fn terminal() -> (std::fs::File, std::fs::File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let mut options = std::fs::OpenOptions::new();
    let theirs = options
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    (ours.into(), theirs)
}

#[test]
fn wrong_arguments_are_refused_before_anything_is_asked() {
    let broker = Broker::start(1, &[]);
    let cli = Cli::of(&broker);
    for (args, message) in [
        (&["tree", "os lo"][..], "target 1 is no node"),
        (&["tree", "group=web"], "who is in which group"),
        (&["tree", "a", "--depth", "2"], "--depth"),
        (&["tree", "--depth", "0"], "--depth"),
        (&["tree", "--interval", "soon"], "500ms"),
        (&["trace"], "<TOPIC>"),
        (&["trace", "$KV.a"], "are the broker's own"),
        (&["trace", "news", "--count", "0"], "--count"),
        (&["trace", "news", "--count", "10001"], "10000"),
    ] {
        let output = cli.run(args);
        let said = stderr(&output);
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(2), 0),
            "{args:?}: {said}"
        );
        assert!(said.contains(message), "{args:?}: {said}");
    }
    let nobody = Cli::at("127.0.0.1:1");
    for command in [&["tree"][..], &["trace", "news"]] {
        let output = nobody.run(command);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("nothing listens on 127.0.0.1:1"));
    }
}
