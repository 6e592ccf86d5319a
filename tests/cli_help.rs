//! What the binary teaches: every example of every help text is run, every flag is documented, and shells and `man` take what
//! is made for them.

mod common;

use std::process::Command;

use common::Broker;
use common::cli::{Cli, Directory, Running, stderr};
use rustix::process::{Pid, Signal};

/// The commands whose examples are run here; those of `serve` and `info` are tested in `cli.rs`, those
/// of `check` in `topology.rs`.
const CLIENTS: [&str; 8] = [
    "pub", "sub", "request", "reply", "ping", "bench", "tree", "trace",
];

fn help(cli: &Cli, command: &str) -> String {
    cli.text(&[command, "--help"])
}

/// The commands of a help text's examples, without what stands behind them to explain.
fn examples(help: &str) -> Vec<String> {
    let after = help
        .split_once("\nExamples:\n")
        .expect("there are examples")
        .1;
    let lines = after.lines().take_while(|line| line.starts_with("  "));
    // Two spaces never stand within a command here.
    lines
        .map(|line| line.trim_start().split("  ").next().unwrap().to_string())
        .collect()
}

fn is_installed(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output();
    let found = found.unwrap().status.success();
    if !found {
        eprintln!("SKIPPED: {program} is not installed, so what needs it is not tested");
    }
    found
}

#[test]
fn every_flag_of_every_command_is_documented_and_every_command_has_examples() {
    let cli = Cli::at("127.0.0.1:1");
    let root = cli.text(&["--help"]);
    for command in
        CLIENTS
            .into_iter()
            .chain(["serve", "info", "check", "stream", "completion", "man"])
    {
        assert!(
            root.contains(&format!("\n  {command} ")),
            "{command}: {root}"
        );
        let help = help(&cli, command);
        assert!(!examples(&help).is_empty(), "{command}");
        if CLIENTS.contains(&command) {
            assert!(help.contains("Exit codes: 0 "), "{command}");
            for flag in [
                "--native",
                "--name",
                "--wait",
                "--config",
                "--password-file",
            ] {
                assert!(help.contains(flag), "{command} {flag}");
            }
        }
        let described = help
            .lines()
            .skip_while(|line| !line.starts_with("Options:"));
        for line in described
            .take_while(|line| !line.is_empty())
            .filter(|line| line.contains("--"))
        {
            // A description stands behind two spaces, or in the next line where the flag is long.
            let flag = line.trim_start();
            assert!(
                flag.contains("  ") || help.contains(&format!("{line}\n          ")),
                "{command}: {line}"
            );
        }
    }
}

#[test]
fn exit_codes_stand_in_help_manual_and_examples() {
    let cli = Cli::at("127.0.0.1:1");
    let page = include_str!("../src/docs/examples.md");
    for (code, meaning) in [("3", "nobody listens"), ("4", "in time")] {
        for text in [cli.text(&["--help"]), cli.text(&["man"]), page.to_string()] {
            assert!(text.contains(meaning) && text.contains(code), "{meaning}");
        }
    }
}

#[test]
fn examples_that_publish_ask_or_ping_succeed() {
    let broker = Broker::start(2, &[]);
    let cli = Cli::of(&broker);
    let _answering = ["time.now", "sum", "upper", "list.files", "poll"]
        .map(|topic| cli.listen(&["reply", topic, "--echo"]));
    let _listening = cli.listen(&["sub", "news.>"]);
    let mut count = 0;
    for command in ["pub", "request", "ping"] {
        for example in examples(&help(&cli, command)) {
            let mut running = Running::start(cli.shell(&example), b"");
            if example == "sapwood ping" {
                // It goes on until somebody ends it.
                running.line();
                continue;
            }
            let output = running.end();
            assert_eq!(
                output.status.code(),
                Some(0),
                "{example}: {}",
                stderr(&output)
            );
            count += 1;
        }
    }
    assert!(count >= 12, "{count}");
}

#[test]
fn examples_that_show_the_tree_succeed() {
    let broker = Broker::start(2, &["--node-name", "oslo", "--node-tags", "edge"]);
    let cli = Cli::of(&broker);
    let mut count = 0;
    for command in ["tree", "trace"] {
        for example in examples(&help(&cli, command)) {
            let mut running = Running::start(cli.shell(&format!("exec {example}")), b"");
            // It goes on until somebody ends it.
            if example.ends_with("--watch") {
                while !running.line().starts_with("1 node, ") {}
                running.signal(Signal::INT);
            }
            let output = running.end();
            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(0), "{example}: {message}");
            let shown = String::from_utf8(output.stdout).unwrap();
            assert!(shown.contains("oslo"), "{example}: {shown}");
            assert_eq!(message, "", "{example}");
            count += 1;
        }
    }
    assert!(count >= 11, "{count}");
}

#[test]
fn examples_that_listen_hear_what_is_published() {
    let broker = Broker::start(2, &[]);
    let cli = Cli::of(&broker);
    let directory = Directory::new();
    for command in ["sub", "reply"] {
        for example in examples(&help(&cli, command)) {
            if example.contains("| jq") && !is_installed("jq") {
                continue;
            }
            let topic = example
                .split_whitespace()
                .nth(2)
                .unwrap()
                .trim_matches('\'');
            let topic = topic.replace(['*', '>'], "x");
            let mut shell = cli.shell(&example);
            // A group of its own, so that all of a pipe can be told to end.
            std::os::unix::process::CommandExt::process_group(&mut shell, 0);
            shell.current_dir(directory.path());
            let mut running = Running::start(shell, b"");
            running.wait_for_stderr(&["listening to", "answering"]);
            match command {
                "sub" => assert_eq!(cli.text(&["pub", &topic, "heard", "--confirm"]), "1\n"),
                _ => assert!(
                    !cli.text(&["request", &topic, "asked"]).is_empty(),
                    "{example}"
                ),
            }
            if command == "sub" && !example.contains("> backup") {
                assert!(running.line().contains("heard"), "{example}");
            }
            let group = Pid::from_raw(running.id() as i32).unwrap();
            // It fails if --count has ended it.
            let _ = rustix::process::kill_process_group(group, Signal::TERM);
            let output = running.end();
            assert!(
                !stderr(&output).contains("panicked"),
                "{example}: {}",
                stderr(&output)
            );
        }
    }
    let backup = std::fs::read(directory.path().join("backup.tar")).unwrap();
    assert_eq!(backup, b"heard\n");
}

#[test]
fn examples_that_measure_are_right() {
    // They take seconds each, so this sees only that they get as far as looking for a broker.
    let cli = Cli::at("127.0.0.1:1");
    let examples = examples(&help(&cli, "bench"));
    assert!(examples.len() >= 7);
    for example in examples {
        let output = Running::start(cli.shell(&example), b"").end();
        assert_eq!(
            output.status.code(),
            Some(1),
            "{example}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains("nothing listens"),
            "{example}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn bash_completes_commands_and_flags() {
    if !is_installed("bash") {
        return;
    }
    let cli = Cli::at("127.0.0.1:1");
    let complete = |words: &str, at: usize| {
        let script = format!(
            "source <(sapwood completion bash); COMP_WORDS=({words}); COMP_CWORD={at}; \
             _sapwood sapwood \"${{COMP_WORDS[{at}]}}\" \"${{COMP_WORDS[{at}-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let output = cli.shell(&script).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete("sapwood req", 1), "request\n");
    assert_eq!(complete("sapwood sub --times", 2), "--timestamps\n");
    assert_eq!(complete("sapwood bench fan", 2), "fanout\n");
}

#[test]
fn other_shells_are_given_a_script_that_knows_the_commands() {
    let cli = Cli::at("127.0.0.1:1");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = cli.text(&["completion", shell]);
        for word in ["request", "require-listeners", "password-file"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn manual_pages_are_written_and_render_without_a_warning() {
    let cli = Cli::at("127.0.0.1:1");
    let directory = Directory::new();
    // It is made where it is missing.
    let pages = directory.path().join("share/man1");
    cli.text(&["man", "--directory", pages.to_str().unwrap()]);
    let has_man = is_installed("man");
    for command in
        CLIENTS
            .into_iter()
            .chain(["serve", "info", "check", "stream", "completion", "man"])
    {
        let path = pages.join(format!("sapwood-{command}.1"));
        let page = std::fs::read(&path).unwrap();
        assert_eq!(page, cli.text(&["man", command]).as_bytes(), "{command}");
        if !has_man {
            continue;
        }
        let mut man = Command::new("man");
        man.env("MANWIDTH", "200")
            .env("LC_ALL", "C")
            .args(["--warnings", "-l"])
            .arg(&path);
        let output = man.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output), "", "{command}");
        // Without the overstrikes that make it bold.
        let plain = String::from_utf8_lossy(&output.stdout).into_owned();
        let text: String = plain.split('\u{8}').collect::<Vec<_>>().join("");
        for example in examples(&help(&cli, command)) {
            let words = example.replace(['\'', '-'], "");
            let shown = text.replace(['\'', '\u{2019}', '`', '-'], "");
            assert!(shown.contains(&words), "{command}: {words}\n{shown}");
        }
    }
    let root = std::fs::read_to_string(pages.join("sapwood.1")).unwrap();
    assert!(root.contains("EXIT STATUS"), "{root}");
}
