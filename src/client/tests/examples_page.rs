//! The program in the examples page is this package's example, word for word, and prints what the page says.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

const EXAMPLE: &str = include_str!("../examples/publish_subscribe.rs");

#[test]
fn program_in_examples_page_runs_as_it_stands() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, behind) = page.split_once("```rust\n").expect("a program in the page");
    let (program, _) = behind.split_once("```").expect("its end");
    assert_eq!(program, EXAMPLE);

    let broker = support::Broker::start();
    let output = Command::new(example())
        .arg(broker.address())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "news.art: hello\n"
    );
}

/// Path of the example that cargo built beside the tests. It is missing only if this test was built alone.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let built = profile.join("examples/publish_subscribe");
    if !built.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args([
            "build",
            "--package",
            "sapwood-client",
            "--example",
            "publish_subscribe",
        ]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success());
    }
    built
}
