//! How a command becomes a client: the flags that all of them share, the connection, and what is said about it.
//!
//! The commands use the tokio client, for three reasons: one thread can read many subscriptions and write what they
//! have together, the hundreds of connections of `bench` do not need hundreds of threads, and a wait can end by a signal. What
//! blocks (stdin, stdout) stands in the main thread; see [`Threads`] for who moves the bytes then.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use sapwood_client::error::{CloseReason, ConnectError, Disconnect, Refusal};
use sapwood_client::{Builder, Client, ConnectionEvent, Policy};
use tokio::runtime::{self, Runtime};

use super::config::{self, ClientSettings, Environment, Flags, Key};
use super::quantity;
use super::trouble::Trouble;
use super::{CommonArgs, Failure, value};

/// How long to rest between two attempts of `--wait`: a broker starts in about as much.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The longest name of a client, by the protocol.
const NAME_BYTES_MAX: usize = 255;

/// The flags of every command that is a client.
#[derive(Args, Debug, Default)]
pub struct ConnectArgs {
    /// Where the broker listens for native clients; several with commas, to be tried in turn [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDR")]
    native: Vec<String>,
    /// What the broker's lists call this client [default: sapwood]
    #[arg(long, value_parser = parse_name)]
    name: Option<String>,
    /// Go on trying for so long if no broker is there yet, such as 10s
    #[arg(long, value_name = "TIME", value_parser = quantity::flag(quantity::parse_time))]
    wait: Option<Duration>,
    #[command(flatten)]
    common: CommonArgs,
}

impl ConnectArgs {
    /// The flags of a command that only says where the broker is.
    pub fn at(native: String, wait: Option<Duration>, common: CommonArgs) -> ConnectArgs {
        ConnectArgs {
            native: vec![native],
            wait,
            common,
            ..ConnectArgs::default()
        }
    }
}

fn parse_name(text: &str) -> Result<String, String> {
    match text.len() {
        0..=NAME_BYTES_MAX => Ok(text.to_string()),
        bytes => Err(format!(
            "a name has at most {NAME_BYTES_MAX} bytes, not {bytes}."
        )),
    }
}

/// Reads what the flag `--policy` may be.
pub fn parse_policy(text: &str) -> Result<Policy, String> {
    let policy = match value::parse_policy(text).map_err(|wrong| wrong.to_string())? {
        sapwood_server::Policy::Close => Policy::Close,
        sapwood_server::Policy::DropOldest => Policy::DropOldest,
        sapwood_server::Policy::Latest => Policy::Latest,
    };
    Ok(policy)
}

/// Who moves the bytes of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The main thread, whenever it waits: for commands that only react to what comes. Nothing is handed from thread to thread.
    Here,
    /// One other thread: for commands whose main thread blocks on stdin.
    One,
    /// One for each CPU.
    Many,
}

/// Starts what drives the connections.
pub fn runtime(threads: Threads) -> Result<Runtime, Failure> {
    let mut builder = match threads {
        Threads::Here => runtime::Builder::new_current_thread(),
        Threads::One | Threads::Many => runtime::Builder::new_multi_thread(),
    };
    if threads == Threads::One {
        builder.worker_threads(1);
    }
    let runtime = builder.thread_name("sapwood-client").enable_all().build();
    runtime.map_err(|error| Failure::System("start a thread", error))
}

/// Whom to connect to and as whom, read and judged; nothing has been connected.
#[derive(Debug)]
pub struct Connector {
    settings: ClientSettings,
    name: String,
    wait: Duration,
    policy: Option<Policy>,
}

impl Connector {
    /// Reads the settings, and says on stderr what the user should know about them.
    ///
    /// Errors: wrong settings.
    pub fn new(args: &ConnectArgs, environment: &Environment) -> Result<Connector, Failure> {
        let native = (!args.native.is_empty()).then(|| args.native.join(","));
        let flags = Flags {
            config: args.common.config.clone(),
            given: vec![
                (Key::Native, native),
                (Key::PasswordFile, args.common.password_file.clone()),
            ],
        };
        let settings = config::resolve_client(flags, environment).map_err(Failure::Config)?;
        for warning in &settings.warnings {
            say(&format!("sapwood: {warning}\n"));
        }
        Ok(Connector {
            settings,
            name: args.name.clone().unwrap_or_else(|| "sapwood".to_string()),
            wait: args.wait.unwrap_or_default(),
            policy: None,
        })
    }

    /// Chooses what the broker does when this client reads too slowly.
    pub fn policy(mut self, policy: Option<Policy>) -> Connector {
        self.policy = policy;
        self
    }

    /// The addresses, for people.
    pub fn brokers(&self) -> String {
        self.settings.brokers.join(", ")
    }

    /// The client's settings, to be changed where a command knows better.
    pub fn builder(&self) -> Builder<Client> {
        let mut builder = Client::builder().name(self.name.clone());
        for broker in &self.settings.brokers {
            builder = builder.address(broker.clone());
        }
        if let Some(password) = &self.settings.password {
            builder = builder.password(password.0.clone());
        }
        match self.policy {
            Some(policy) => builder.policy(policy),
            None => builder,
        }
    }

    /// Connects with these settings; without `--wait` it fails if no address has a broker now.
    pub async fn connect(&self, builder: Builder<Client>) -> Result<Client, Failure> {
        let deadline = Instant::now() + self.wait;
        // Ends at the deadline at the latest.
        loop {
            match builder.clone().connect().await {
                Ok(client) => return Ok(client),
                Err(ConnectError::Unreachable { .. })
                    if Instant::now() + RETRY_INTERVAL < deadline =>
                {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(error) => {
                    return Err(Failure::Client(Trouble::Connect {
                        error,
                        has_password: self.settings.password.is_some(),
                    }));
                }
            }
        }
    }
}

/// Writes to stderr. Where that is gone there is nobody to tell.
pub fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// What happened to the connection that matters at a command's end.
#[derive(Debug, Default)]
pub struct Log {
    /// The first refusal of an event that was published without asking for an answer.
    pub refused: Option<Refusal>,
    /// Why the client is closed, if it is.
    pub closed: Option<CloseReason>,
}

/// How a command says something about its connection: what it is called, and a sentence.
pub type Sayer = Box<dyn Fn(&str, &str) + Send>;

/// Follows what happens to a connection, and says when it is lost and when it is there again.
pub fn follow(client: &Client, say: Sayer) -> Arc<Mutex<Log>> {
    let mut events = client.events();
    let log = Arc::new(Mutex::new(Log::default()));
    let shared = log.clone();
    tokio::spawn(async move {
        let mut is_lost = false;
        // Ends with the client.
        while let Some(event) = events.next().await {
            let mut log = shared.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                ConnectionEvent::Disconnected {
                    reason: Disconnect::Closed,
                } => {}
                ConnectionEvent::Disconnected { reason } => {
                    is_lost = true;
                    say(
                        "disconnected",
                        &format!("the connection is lost ({reason}); trying again"),
                    );
                }
                ConnectionEvent::Connected { address, .. } if is_lost => {
                    is_lost = false;
                    say("connected", &format!("connected again, to {address}"));
                }
                ConnectionEvent::Refused(refusal) => {
                    log.refused.get_or_insert(refusal);
                }
                ConnectionEvent::Closed(reason) => log.closed = Some(reason),
                _ => {}
            }
        }
    });
    log
}
