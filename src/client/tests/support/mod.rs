// A broker for the documentation's examples and for this package's tests. It is included as text, so that it is not
// part of the library. The binary is found where cargo builds it, and built if it is missing.

/// A broker of one shard on a port of its own, killed on drop. What it keeps goes with it.
pub struct Broker {
    child: std::process::Child,
    address: String,
    data: std::path::PathBuf,
}

impl Broker {
    pub fn start() -> Broker {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("sapwood-client-{}-{number}", std::process::id());
        let data = std::env::temp_dir().join(name);
        let mut child = std::process::Command::new(broker_binary())
            .arg("serve")
            .arg("--data")
            .arg(&data)
            .args([
                "--shards",
                "1",
                "--redis",
                "off",
                "--native",
                "127.0.0.1:0",
                "--nats",
                "off",
                "--http",
                "off",
                "--node",
                "off",
            ])
            .env_remove("SAPWOOD_PASSWORD")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("the broker starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
        // The broker prints its addresses as a table: `native  127.0.0.1:43211  ...`.
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("native")).then(|| words.next().expect("an address").to_string())
        });
        // Reads on, because a full pipe would block the broker.
        std::thread::spawn(move || lines.for_each(drop));
        let Some(address) = address else {
            panic!("the broker said no line `native`: {:?}", child.wait());
        };
        Broker {
            child,
            address,
            data,
        }
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Both fail only if the broker has ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

/// The newest `sapwood` that cargo has built.
fn broker_binary() -> std::path::PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let cargo = std::env::var("CARGO").unwrap_or("cargo".to_string());
    let run = |args: &[&str]| {
        let output = std::process::Command::new(&cargo)
            .args(args)
            .current_dir(root)
            .output();
        let output = output.expect("cargo runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "cargo {args:?}: {told}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let metadata = run(&[
        "metadata",
        "--offline",
        "--no-deps",
        "--format-version",
        "1",
    ]);
    let (_, behind) = metadata
        .split_once(r#""target_directory":""#)
        .expect("a directory");
    let target = std::path::Path::new(behind.split('"').next().expect("its end"));
    let newest = || {
        let built = ["release", "debug"].map(|profile| target.join(profile).join("sapwood"));
        let built = built.into_iter().filter(|path| path.exists());
        built.max_by_key(|path| path.metadata().and_then(|it| it.modified()).ok())
    };
    newest().unwrap_or_else(|| {
        run(&["build", "--release", "--bin", "sapwood"]);
        newest().expect("cargo has built it")
    })
}
