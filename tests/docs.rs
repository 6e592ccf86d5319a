//! What README.md and the pages of `src/docs` show is done here as it stands: commands in a terminal, programs in other languages,
//! pages in a browser. A page names the default ports; here they are replaced by those of the broker that was started.
//!
//! A fenced block of a language is a program, and the block of text behind it is what the program prints.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use common::cli::{Cli, Directory, Running, stderr};
use common::{Broker, script};
use rustix::process::Signal;

const README: &str = include_str!("../README.md");
const EXAMPLES: &str = include_str!("../src/docs/examples.md");
const OPERATING: &str = include_str!("../src/docs/operating.md");
const TREE: &str = include_str!("../src/docs/tree.md");

/// A part of a page, by its heading.
#[track_caller]
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let mut parts = page.split("\n## ");
    let found = parts.find_map(|part| part.strip_prefix(heading)?.strip_prefix('\n'));
    found.unwrap_or_else(|| panic!("no section {heading:?}"))
}

/// Fenced blocks: what kind they are, and what stands in them.
fn blocks(text: &str) -> Vec<(&str, String)> {
    let mut blocks: Vec<(&str, String)> = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(_) if is_inside => is_inside = false,
            Some(kind) => {
                is_inside = true;
                blocks.push((kind, String::new()));
            }
            None if is_inside => {
                let (_, body) = blocks.last_mut().expect("a block was begun");
                body.push_str(line);
                body.push('\n');
            }
            None => {}
        }
    }
    assert!(!is_inside, "a block without an end");
    blocks
}

/// The programs of a language on the examples page, each with what it prints.
fn programs(language: &str) -> Vec<(String, String)> {
    let blocks = blocks(EXAMPLES);
    let mut programs = Vec::new();
    for pair in blocks.windows(2) {
        if let [(kind, program), (next, printed)] = pair
            && *kind == language
        {
            assert_eq!(*next, "text", "what it prints stands behind\n{program}");
            programs.push((program.clone(), printed.clone()));
        }
    }
    assert!(!programs.is_empty(), "no program in {language}");
    programs
}

/// A text with the broker's ports in place of the default ones.
fn with_ports(broker: &Broker, text: &str) -> String {
    let ports = [
        ("7463", broker.port()),
        ("7400", broker.native_port()),
        ("7422", broker.nats_port()),
        ("7480", broker.http_port()),
        ("7401", broker.node_port()),
    ];
    let replace = |text: String, (port, by): (&str, u16)| text.replace(port, &by.to_string());
    ports.into_iter().fold(text.to_string(), replace)
}

/// Runs the programs of a language, each from a file of this name in a directory of its own.
fn check_programs(language: &str, file: &str, command: impl Fn(&Path) -> Command) {
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        for (program, printed) in programs(language) {
            let directory = Directory::new();
            directory.file(file, with_ports(&broker, &program).as_bytes());
            let mut command = command(directory.path());
            command.current_dir(directory.path()).arg(file);
            let output = Running::start(command, b"").end();
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(0), "{program}\n{said}");
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                printed,
                "{program}\n{said}"
            );
        }
    }
}

#[test]
fn python_programs_print_what_the_page_says() {
    let python = script::cache().join("python/bin/python");
    check_programs("python", "example.py", |_| Command::new(&python));
}

#[test]
fn node_programs_print_what_the_page_says() {
    let modules = script::cache().join("node/node_modules");
    check_programs("js", "example.mjs", |directory| {
        // Node looks for modules beside the program.
        std::os::unix::fs::symlink(&modules, directory.join("node_modules")).unwrap();
        Command::new("node")
    });
}

#[test]
fn go_programs_print_what_the_page_says() {
    check_programs("go", "example.go", |_| {
        let mut command = Command::new("go");
        // Debian's packages of libraries are not modules, and stand there.
        command
            .arg("run")
            .env("GO111MODULE", "off")
            .env("GOPATH", "/usr/share/gocode")
            .env(
                "GOCACHE",
                Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-cache"),
            );
        command
    });
}

#[test]
fn pages_in_a_browser_show_what_the_page_says() {
    for shards in [1, 2] {
        for (page, printed) in programs("html") {
            let site = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{}", site.local_addr().unwrap());
            let mut broker = Broker::start(shards, &["--http-origin", &address]);
            serve(site, with_ports(&broker, &page));
            let mut command = script::node("example_page.mjs");
            command
                .env("SAPWOOD_TEST_CHROMIUM", "/usr/bin/chromium")
                .env("SAPWOOD_TEST_ADDRESS", &address)
                .env("SAPWOOD_TEST_SHOWN", &printed);
            script::run_at(broker.http_port(), command, &mut broker, &["web"]);
        }
    }
}

/// Answers every request with this page, until the test ends.
fn serve(site: TcpListener, page: String) {
    thread::spawn(move || {
        for mut stream in site.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            // A browser opens connections that it then does not use.
            if stream.read(&mut request).is_ok_and(|length| length > 0) {
                let length = page.len();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                );
                let _ = stream.write_all(format!("{head}{page}").as_bytes());
            }
        }
    });
}

/// The commands of a part of a page that are shown in a terminal, each with what is printed.
fn transcripts(section: &str) -> Vec<(String, String)> {
    let mut transcripts: Vec<(String, String)> = Vec::new();
    for (kind, body) in blocks(section) {
        for line in body.lines().filter(|_| kind == "console") {
            match line.strip_prefix("$ ") {
                Some(command) => transcripts.push((command.to_string(), String::new())),
                None => {
                    let (_, printed) = transcripts.last_mut().expect("a command comes first");
                    printed.push_str(line);
                    printed.push('\n');
                }
            }
        }
    }
    transcripts
}

/// Runs the commands of a part of a page: those that listen or answer first, until the others are done.
fn check_transcripts(section: &str, least: usize) {
    let broker = Broker::start(2, &[]);
    let cli = Cli::of(&broker);
    let transcripts = transcripts(section);
    assert!(transcripts.len() >= least, "{transcripts:?}");
    let mut listening = Vec::new();
    for (command, printed) in &transcripts {
        // Where it does not write to a terminal, redis-cli prints less and curl more.
        let line = with_ports(&broker, command)
            .replace("redis-cli ", "redis-cli --no-raw ")
            .replace("curl ", "curl --silent --show-error ");
        if ["sapwood sub", "sapwood reply"]
            .iter()
            .any(|name| command.starts_with(name))
        {
            let mut running = Running::start(cli.shell(&format!("exec {line}")), b"");
            running.wait_for_stderr(&["listening to", "answering"]);
            listening.push((command, printed, running));
            continue;
        }
        let output = Running::start(cli.shell(&line), b"").end();
        let shown = [&output.stdout[..], &output.stderr].concat();
        // What HTTP answers has no line's end.
        let shown = String::from_utf8(shown).unwrap();
        assert_eq!(shown.trim_end(), printed.trim_end(), "{command}");
    }
    assert!(!listening.is_empty(), "{transcripts:?}");
    for (command, printed, running) in listening {
        running.signal(Signal::TERM);
        let output = running.end();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{command}: {said}");
        assert_eq!(
            &String::from_utf8(output.stdout).unwrap(),
            printed,
            "{command}"
        );
    }
}

#[test]
fn first_messages_of_the_readme_arrive() {
    check_transcripts(section(README, "Start"), 4);
}

/// What `tools/run` does with the binary before it serves, for a user with this home and path: what it says.
fn offer(home: &Path, path: &str, built: &Path) -> String {
    let script = format!(
        "source tools/common.sh; offer_command '{}'",
        built.display()
    );
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &script])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("HOME", home)
        .env("PATH", path);
    let output = Running::start(bash, b"").end();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stderr(&output)
}

#[test]
fn the_built_binary_becomes_a_command() {
    let directory = Directory::new();
    let (home, built) = (directory.path(), directory.path().join("built here"));
    fs::create_dir(&built).unwrap();
    // Not the binary itself: the link is followed.
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sapwood"), built.join("sapwood")).unwrap();
    let link = home.join(".local/bin/sapwood");
    let version = |path: &str| {
        let mut bash = Command::new("bash");
        bash.args(["-c", "sapwood --version"]).env("PATH", path);
        String::from_utf8(bash.output().unwrap().stdout).unwrap()
    };
    let wanted = format!("sapwood {}\n", env!("CARGO_PKG_VERSION"));
    // Where the shell does not look for a user's programs, the line that is said works.
    let plain = "/usr/bin:/bin";
    let said = offer(home, plain, &built);
    let line = said.split_once("export PATH=").expect(&said).1.trim();
    assert!(!link.exists());
    let mut bash = Command::new("bash");
    bash.args(["-c", &format!("export PATH={line}; sapwood --version")])
        .env("PATH", plain);
    assert_eq!(
        String::from_utf8(bash.output().unwrap().stdout).unwrap(),
        wanted
    );
    // Where it does, a link is made, once.
    let personal = format!("{}/.local/bin:{plain}", home.display());
    assert!(offer(home, &personal, &built).contains("is now a command"));
    assert_eq!(version(&personal), wanted);
    assert_eq!(offer(home, &personal, &built), "");
    // Whatever else is called so is left alone.
    fs::remove_file(&link).unwrap();
    fs::write(&link, "another program").unwrap();
    assert!(offer(home, &personal, &built).contains("export PATH="));
    assert_eq!(fs::read(&link).unwrap(), b"another program");
}

#[test]
fn examples_of_the_command_line_print_what_the_page_says() {
    check_transcripts(section(EXAMPLES, "On the command line"), 7);
}

#[test]
fn two_nodes_of_the_tree_page_hear_each_other() {
    let shown = &blocks(section(TREE, "Several nodes"))[0].1;
    let (first, second) = shown.split_once('\n').expect("two commands");
    let first = Broker::start(1, &settings(first));
    let second = with_ports(&first, second);
    // Its own ports are free ones here.
    let mut kept = settings(&second)
        .chunks(2)
        .map(<[&str]>::to_vec)
        .collect::<Vec<_>>();
    kept.retain(|pair| ["--node-name", "--join"].contains(&pair[0]));
    let second = Broker::start(1, &kept.concat());
    let (listening, publishing) = (Cli::of(&first), Cli::of(&second));
    let mut ear = listening.listen(&["sub", "news.>"]);
    // Until the other node knows of it, nobody listens there.
    let publish = ["pub", "news.art", "hello", "--require-listeners"];
    while publishing.run(&publish).status.code() == Some(3) {}
    assert_eq!(ear.line(), "news.art hello");
    let drawn = publishing.text(&["tree"]);
    assert!(
        drawn.contains("oslo") && drawn.contains("bergen"),
        "{drawn}"
    );
}

/// The settings of a command that serves.
#[track_caller]
fn settings(command: &str) -> Vec<&str> {
    let settings = command.trim_end().strip_prefix("sapwood serve ");
    settings.expect("it serves").split(' ').collect()
}

#[test]
fn every_setting_is_documented() {
    let help = Cli::at("127.0.0.1:1").text(&["serve", "--help"]);
    let flags = help
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--"));
    let mut count = 0;
    for flag in flags.filter_map(|rest| rest.split(' ').next()) {
        let begin = [format!("\n| `--{flag}` | "), format!("\n| `--{flag} ")];
        assert!(
            begin.iter().any(|begin| OPERATING.contains(begin)),
            "--{flag}"
        );
        count += 1;
    }
    assert!(count > 25, "{count}: {help}");
}

#[test]
fn every_counter_is_documented() {
    let broker = Broker::start(1, &[]);
    let port = broker.port().to_string();
    let shown = Cli::of(&broker).text(&["info", "sapwood", "--json", "--redis", &port]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let counters = shown["sapwood"]
        .as_object()
        .unwrap_or_else(|| panic!("{shown}"));
    let page = section(OPERATING, "Counters, and when to worry");
    for name in counters.keys().filter(|name| !name.starts_with("shard")) {
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut pages = Vec::new();
    collect_pages(Path::new(env!("CARGO_MANIFEST_DIR")), &mut pages);
    let mut count = 0;
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        for (link, _) in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'))
        {
            if link.contains("://") || link.contains(['{', ' ']) {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            let shown = page.display();
            assert!(target.exists(), "{shown}: {link}");
            if !anchor.is_empty() {
                let there = anchors(&fs::read_to_string(&target).unwrap());
                assert!(there.contains(anchor), "{shown}: {link}: {there:?}");
            }
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

#[test]
fn the_top_level_holds_what_a_visitor_looks_for() {
    let wanted = [
        "BENCHMARKS.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "benches",
        "src",
        "tests",
        "tools",
    ];
    let entries = fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // Cargo's, if it was not told otherwise, and not in the repository.
    let shown = |name: &String| !name.starts_with('.') && name != "target";
    let mut names: Vec<String> = names.filter(shown).collect();
    names.sort();
    assert_eq!(names, wanted);
}

/// All pages of the repository.
fn collect_pages(directory: &Path, pages: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
            collect_pages(&path, pages);
        } else if name.ends_with(".md") {
            pages.push(path);
        }
    }
}

/// Where links into a page can lead, as GitHub names its headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let named = headings.map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
        kept.collect::<String>().replace(' ', "-")
    });
    named.collect()
}
