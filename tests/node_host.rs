//! The core as a WASI module behind a Node server that owns the WebSockets: what clients get is what they get from the
//! broker, to the byte, and nothing stays of a hundred thousand messages.
//!
//! `tools/test` builds the module before.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::{Broker, script};

/// The module that cargo built, beside this test's own target.
fn module() -> PathBuf {
    let release = Path::new(env!("CARGO_BIN_EXE_sapwood")).parent().unwrap();
    let module = release
        .parent()
        .unwrap()
        .join("wasm32-wasip1/release/sapwood_wasi.wasm");
    assert!(
        module.exists(),
        "{} is missing: cargo build --release --target wasm32-wasip1 -p sapwood-wasi",
        module.display()
    );
    module
}

/// The Node host, in a directory where it finds its modules without installing them once more.
struct Installed(PathBuf);

impl Installed {
    fn new(name: &str) -> Installed {
        let directory =
            std::env::temp_dir().join(format!("sapwood-node-host-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/node-host");
        for file in [
            "server.mjs",
            "sapwood.mjs",
            "middleware.mjs",
            "package.json",
        ] {
            fs::copy(source.join(file), directory.join(file)).unwrap();
        }
        let modules = script::cache().join("node/node_modules");
        symlink(modules, directory.join("node_modules")).unwrap();
        Installed(directory)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        // What is left in the directory for temporary files harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running host.
struct Host {
    child: Child,
    url: String,
    _installed: Installed,
}

impl Host {
    fn start(name: &str, args: &[&str]) -> Host {
        let installed = Installed::new(name);
        let mut child = Command::new("node")
            .arg("--no-warnings")
            .arg(installed.0.join("server.mjs"))
            .args(["--listen", "127.0.0.1:0", "--module"])
            .arg(module())
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is installed");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("node-host ").map(str::to_string);
        let address = address.unwrap_or_else(|| panic!("the host said {line:?}"));
        Host {
            child,
            url: format!("ws://{address}/"),
            _installed: installed,
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ok(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).expect("JSON is UTF-8")
}

fn trace(url: &str) -> String {
    ok(script::node("trace.mjs").arg(url).output().unwrap())
}

#[test]
fn clients_get_the_same_from_the_module_as_from_the_broker() {
    let host = Host::start("trace", &[]);
    let by_module = trace(&host.url);
    assert_eq!(by_module.lines().count(), 6, "{by_module}");
    for part in [
        "hello there, it works",
        "to everybody",
        "\"data_b64\":\\\"AAEC",
    ] {
        let part = part.replace("\"data_b64\":\\\"", "\\\"data_b64\\\":\\\"");
        assert!(
            by_module.contains(&part),
            "{part} is missing in {by_module}"
        );
    }
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let by_broker = trace(&format!("ws://127.0.0.1:{}/ws", broker.http_port()));
        let lines = by_broker.lines().zip(by_module.lines());
        for (of_broker, of_module) in lines {
            assert_eq!(of_broker, of_module, "{shards} shards");
        }
        assert_eq!(by_broker, by_module, "{shards} shards");
    }
}

#[test]
fn nothing_stays_of_a_hundred_thousand_messages() {
    let installed = Installed::new("many");
    let mut command = script::node("many.mjs");
    // The flag is Node's, so it stands before the script.
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let modules = script::cache().join("node/node_modules");
    command = Command::new("node");
    command
        .args(["--no-warnings", "--expose-gc"])
        .args(args)
        .arg(&installed.0)
        .arg(module())
        .env("SAPWOOD_NODE_MODULES", modules);
    ok(command.output().unwrap());
}

#[test]
fn middleware_keeps_strangers_and_floods_out() {
    let args = ["--token", "right", "--rate", "20", "--password", "secret"];
    let host = Host::start("guard", &args);
    let mut command = script::node("guarded.mjs");
    ok(command.arg(&host.url).output().unwrap());
}
