//! Where settings come from, and which one wins: flag, then environment, then file, then default.
//!
//! [`resolve`] reads every source and reports everything that is wrong in one go; [`resolve_server`] also refuses what
//! can be read but must not be run. What a value may be is judged in [`value`]. Nothing here starts,
//! connects or logs.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sapwood_server::{Config, Latency, Limits, PAYLOAD_BYTES_MAX, Policy, SHARDS_MAX, WebSettings};

use super::data_settings::DataSettings;
use super::environment;
pub use super::environment::Environment;
use super::file;
use super::nodes::NodeSettings;
use super::problem::{Problem, Source, Wrong};
use super::text;
use super::value::{self, Listen, LogFormat};

/// Where the Redis protocol listens unless told otherwise; it is also where `info` asks.
pub const REDIS_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7463);

/// Where the native protocol listens unless told otherwise; it is also where the commands that publish and subscribe
/// connect.
pub const NATIVE_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7400);

/// Where the NATS protocol listens unless told otherwise.
pub const NATS_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7422);

/// Where HTTP and WebSocket clients connect unless told otherwise.
pub const HTTP_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7480);

/// Where other nodes are taken in unless told otherwise.
pub const NODE_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7401);

/// The longest time that a lame duck may take to send its clients away: a day.
const LAME_DUCK_SECONDS_MAX: u64 = 24 * 3_600;

/// The longest password: past it a password file is some other file. An AUTH fits a connection's cap before
/// authentication many times.
const PASSWORD_BYTES_MAX: u64 = 1_024;

/// A setting that flag, environment and file can all give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Where the Redis protocol listens.
    Redis,
    /// What happens when a Redis client reads too slowly.
    RedisPolicy,
    /// Where the native protocol listens.
    Native,
    /// What happens when a native client reads too slowly that does not say so itself.
    NativePolicy,
    /// Where HTTP listens.
    Http,
    /// What happens when a client of HTTP or WebSocket reads too slowly.
    HttpPolicy,
    /// Whose scripts may use the broker.
    HttpOrigin,
    /// Whether `/echo` is there.
    Echo,
    /// Who may publish to all.
    Broadcast,
    /// Where the NATS protocol listens.
    Nats,
    /// What happens when a NATS client reads too slowly.
    NatsPolicy,
    /// The longest payload that NATS clients may publish.
    MaxPayload,
    /// Where other nodes are taken in.
    Node,
    /// Nodes to ask for a place in the tree.
    Join,
    /// Where others are told that this node is.
    Advertise,
    /// The only parent that this node may have.
    Parent,
    /// This node's name.
    NodeName,
    /// Words for this node.
    NodeTags,
    /// Groups of nodes that this one belongs to.
    NodeGroups,
    /// How many children this node may have.
    ChildrenMax,
    /// How often this node looks whether its neighbours live.
    Heartbeat,
    /// The file that describes the tree.
    Topology,
    /// Where the secret of all nodes stands.
    ClusterSecretFile,
    /// Where data is kept.
    Data,
    /// In how many partitions.
    Partitions,
    /// How many state workers.
    StateWorkers,
    /// How many shards.
    Shards,
    /// Which CPUs.
    Cpus,
    /// Whether each shard stays on its CPU.
    Pin,
    /// Where NATS clients of other nodes are told that they can connect.
    NatsAdvertise,
    /// How shards wait.
    Latency,
    /// How long a lame duck takes to send its clients away.
    LameDuck,
    /// The name that goes with the password.
    User,
    /// Where the password stands.
    PasswordFile,
    /// How log lines look.
    LogFormat,
}

impl Key {
    /// Every key, in the order of the documentation.
    pub const ALL: [Key; 35] = [
        Key::Redis,
        Key::RedisPolicy,
        Key::Native,
        Key::NativePolicy,
        Key::Http,
        Key::HttpPolicy,
        Key::HttpOrigin,
        Key::Echo,
        Key::Nats,
        Key::NatsPolicy,
        Key::NatsAdvertise,
        Key::MaxPayload,
        Key::Broadcast,
        Key::Node,
        Key::Join,
        Key::Advertise,
        Key::Parent,
        Key::NodeName,
        Key::NodeTags,
        Key::NodeGroups,
        Key::ChildrenMax,
        Key::Heartbeat,
        Key::Topology,
        Key::ClusterSecretFile,
        Key::Data,
        Key::Partitions,
        Key::StateWorkers,
        Key::Shards,
        Key::Cpus,
        Key::Pin,
        Key::Latency,
        Key::LameDuck,
        Key::User,
        Key::PasswordFile,
        Key::LogFormat,
    ];

    /// Its name in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Key::Redis => "redis",
            Key::RedisPolicy => "redis_policy",
            Key::Native => "native",
            Key::NativePolicy => "native_policy",
            Key::Http => "http",
            Key::HttpPolicy => "http_policy",
            Key::HttpOrigin => "http_origin",
            Key::Echo => "echo",
            Key::Broadcast => "broadcast",
            Key::Nats => "nats",
            Key::NatsPolicy => "nats_policy",
            Key::NatsAdvertise => "nats_advertise",
            Key::MaxPayload => "max_payload",
            Key::Node => "node",
            Key::Join => "join",
            Key::Advertise => "advertise",
            Key::Parent => "parent",
            Key::NodeName => "node_name",
            Key::NodeTags => "node_tags",
            Key::NodeGroups => "node_groups",
            Key::ChildrenMax => "children_max",
            Key::Heartbeat => "heartbeat",
            Key::Topology => "topology",
            Key::ClusterSecretFile => "cluster_secret_file",
            Key::Data => "data",
            Key::Partitions => "partitions",
            Key::StateWorkers => "state_workers",
            Key::Shards => "shards",
            Key::Cpus => "cpus",
            Key::Pin => "pin",
            Key::Latency => "latency",
            Key::LameDuck => "lame_duck",
            Key::User => "user",
            Key::PasswordFile => "password_file",
            Key::LogFormat => "log_format",
        }
    }

    /// A right value, as the file would have it.
    pub const fn example(self) -> &'static str {
        match self {
            Key::Redis | Key::Native | Key::Http | Key::Nats => {
                "\"127.0.0.1:7463\", 7463 or \"off\""
            }
            Key::RedisPolicy | Key::NativePolicy | Key::HttpPolicy | Key::NatsPolicy => {
                "\"close\", \"drop-oldest\" or \"latest\""
            }
            Key::MaxPayload => "\"1 MiB\" or a number of bytes",
            Key::Node => "\"127.0.0.1:7401\", 7401 or \"off\"",
            Key::Join => "\"10.0.0.1:7401\", several with commas between them",
            Key::Advertise | Key::NatsAdvertise | Key::Parent => "\"10.0.0.1:7401\" or 7401",
            Key::NodeName => "a string, such as \"oslo\"",
            Key::NodeTags | Key::NodeGroups => {
                "\"edge\", several with commas between them, or a list of them"
            }
            Key::ChildrenMax => "a whole number, such as 8",
            Key::Heartbeat => "\"250ms\", \"1s\" or a whole number of milliseconds",
            Key::Data => "a string: the path of a directory, or \"off\"",
            Key::Partitions => "a whole number, such as 64",
            Key::Shards | Key::StateWorkers => "a whole number, such as 2",
            Key::Cpus => "\"0-3,6\" or [0, 1, 2, 3, 6]",
            Key::HttpOrigin => {
                "\"https://example.org\", several with commas between them, or \"*\""
            }
            Key::Echo | Key::Pin => "\"on\" or \"off\"",
            Key::Broadcast => "\"anyone\" or \"nobody\"",
            Key::Latency => "\"park\" or \"spin\"",
            Key::LameDuck => "a whole number of seconds, such as 120",
            Key::User => "a string, such as \"service\"",
            Key::PasswordFile | Key::ClusterSecretFile | Key::Topology => {
                "a string: the path of a file"
            }
            Key::LogFormat => "\"text\" or \"json\"",
        }
    }

    fn flag(self) -> String {
        format!("--{}", self.name().replace('_', "-"))
    }

    fn variable(self) -> String {
        environment::variable_of(self.name())
    }
}

/// A value as it was given, before it is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Where it was given.
    pub source: Source,
    /// The value.
    pub text: String,
    /// What a relative path in it is relative to: the file's directory where it came from a file.
    pub directory: Option<PathBuf>,
}

impl Given {
    /// The path that it is, made whole with the directory.
    fn path(&self) -> PathBuf {
        let directory = self.directory.as_deref().unwrap_or(Path::new(""));
        directory.join(&self.text)
    }
}

/// A value with the place it came from, which is named where it has to be refused.
#[derive(Debug)]
pub struct Sourced<T> {
    /// Where it was given.
    pub source: Source,
    /// The value.
    pub value: T,
}

/// A password, which no debug output shows.
pub struct Password(pub Vec<u8>);

impl fmt::Debug for Password {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Password(hidden)")
    }
}

/// Something that works, but that the operator should know.
#[derive(Debug)]
pub enum Warning {
    /// Every user of the machine can read this file, which holds this.
    FileReadable(PathBuf, &'static str),
    /// A variable that nothing reads, and the one that it was probably meant to be.
    Misspelt(String, String),
}

impl fmt::Display for Warning {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::FileReadable(path, what) => {
                let path = path.display();
                write!(
                    out,
                    "every user of this machine can read the {what} file {path}; run: chmod o-rwx {path}"
                )
            }
            Warning::Misspelt(name, nearest) => write!(
                out,
                "{} in the environment is no setting and does nothing; did you mean {nearest}?",
                text::printable(name.as_bytes())
            ),
        }
    }
}

/// What the flags of a command gave.
#[derive(Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<String>,
    /// The rest.
    pub given: Vec<(Key, Option<String>)>,
}

/// Every setting, read and in range.
#[derive(Debug)]
pub struct Settings {
    /// Where the Redis protocol listens.
    pub redis: Sourced<Listen>,
    /// Where the native protocol listens.
    pub native: Sourced<Listen>,
    nats: Sourced<Listen>,
    http: Sourced<Listen>,
    nodes: NodeSettings,
    http_policy: Policy,
    http_origins: Vec<String>,
    has_echo: bool,
    may_broadcast: bool,
    redis_policy: Policy,
    native_policy: Policy,
    nats_policy: Policy,
    nats_advertise: Option<SocketAddr>,
    max_payload: Option<usize>,
    data: DataSettings,
    shards: Option<Sourced<usize>>,
    cpus: Option<Sourced<Vec<usize>>>,
    is_pinned: bool,
    latency: Latency,
    lame_duck: Option<Duration>,
    user: Option<Sourced<String>>,
    /// What clients have to AUTH with.
    pub password: Option<Password>,
    /// A password was given, though perhaps a wrong one.
    is_password_given: bool,
    log_format: LogFormat,
    limits: Limits,
    /// What the operator should know.
    pub warnings: Vec<Warning>,
}

impl Settings {
    /// Where each protocol listens, if that may be.
    fn addresses(&self, problems: &mut Vec<Problem>) -> Vec<Option<SocketAddr>> {
        let mut addresses = Vec::new();
        let listeners = [
            ("--redis", &self.redis),
            ("--native", &self.native),
            ("--nats", &self.nats),
            ("--http", &self.http),
        ];
        for (flag, listen) in listeners {
            let address = match listen.value {
                Listen::Off => None,
                Listen::At(address) => Some(address),
            };
            if let Some(address) = address
                && !self.is_password_given
                && !value::is_loopback(address)
            {
                let wrong = Wrong::OpenToAll(flag, address);
                problems.push(Problem {
                    source: listen.source.clone(),
                    wrong,
                });
            }
            addresses.push(address);
        }
        addresses
    }

    /// Checks the settings against each other and builds the server's configuration. Appends a problem for each
    /// combination that is refused.
    fn into_broker(self, problems: &mut Vec<Problem>) -> BrokerSettings {
        let addresses = self.addresses(problems);
        let (node, tree) = self.nodes.into_tree(problems);
        if node.is_none() && addresses.iter().all(Option::is_none) {
            problems.push(Problem {
                source: self.redis.source.clone(),
                wrong: Wrong::NothingListens,
            });
        }
        if let (Some(user), false) = (&self.user, self.is_password_given) {
            problems.push(Problem {
                source: user.source.clone(),
                wrong: Wrong::UserWithoutPassword,
            });
        }
        if let (Some(shards), Some(cpus)) = (&self.shards, &self.cpus)
            && shards.value > cpus.value.len()
        {
            let wrong = Wrong::TooFewCpus {
                shards: shards.value,
                cpus: cpus.value.len(),
            };
            problems.push(Problem {
                source: shards.source.clone(),
                wrong,
            });
        }
        let config = Config {
            shards: self.shards.map(|shards| shards.value),
            cpus: self.cpus.map(|cpus| cpus.value),
            is_unpinned: !self.is_pinned,
            redis: addresses[0],
            redis_policy: self.redis_policy,
            native: addresses[1],
            native_policy: self.native_policy,
            nats: addresses[2],
            nats_policy: self.nats_policy,
            nats_advertise: self.nats_advertise,
            http: addresses[3],
            http_policy: self.http_policy,
            node,
            tree,
            web: WebSettings {
                origins: self.http_origins,
                echo: self.has_echo,
                ..WebSettings::default()
            },
            no_broadcast: !self.may_broadcast,
            nats_payload_max: self.max_payload,
            user: self.user.map(|user| user.value.into_bytes()),
            latency: self.latency,
            lame_duck: self.lame_duck,
            password: self.password.map(|password| password.0),
            limits: self.limits,
            state: self.data.state(),
            ..Config::default()
        };
        BrokerSettings {
            config,
            data: self.data.chosen(),
            log_format: self.log_format,
            warnings: self.warnings,
        }
    }
}

/// The settings of `sapwood serve`, checked.
#[derive(Debug)]
pub struct BrokerSettings {
    /// The server's configuration.
    pub config: Config,
    /// The directory where the node keeps who it is.
    pub data: Option<Sourced<PathBuf>>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Warnings to log at the start.
    pub warnings: Vec<Warning>,
}

/// What a client of the broker has to know.
#[derive(Debug)]
pub struct ClientSettings {
    /// `HOST:PORT` of each broker, to be tried in turn; at least one.
    pub brokers: Vec<String>,
    /// What the client shows to be let in.
    pub password: Option<Password>,
    /// What the user should know.
    pub warnings: Vec<Warning>,
}

/// As [`resolve`], for the commands that connect to a broker's native listener: where they connect is where a broker with
/// the same environment and file listens. Settings that only a broker has are not judged.
pub fn resolve_client(
    flags: Flags,
    environment: &Environment,
) -> Result<ClientSettings, Vec<Problem>> {
    let (mut sources, _) = sources(flags, environment);
    let brokers = sources.choose(Key::Native, value::parse_brokers);
    let brokers = match brokers {
        Some(Sourced { source, value }) if value.is_empty() => {
            let wrong = Wrong::NoAddressToAsk("--native", NATIVE_DEFAULT);
            sources.problems.push(Problem { source, wrong });
            value
        }
        Some(brokers) => brokers.value,
        None => vec![NATIVE_DEFAULT.to_string()],
    };
    let mut warnings = environment.misspelt();
    let password = sources.choose_password(&mut warnings);
    sources.finish()?;
    Ok(ClientSettings {
        brokers,
        password,
        warnings,
    })
}

/// Reads flags, environment and file, and lets the first of them that gives a setting decide it.
///
/// A value that another one overrides is judged all the same: it would be wrong on the day the other one goes.
/// Errors: everything that is wrong, flags and environment first, then the file by line; nothing has been started.
pub fn resolve(flags: Flags, environment: &Environment) -> Result<Settings, Vec<Problem>> {
    let (settings, sources) = read(flags, environment);
    sources.finish()?;
    Ok(settings)
}

/// As [`resolve`], for a broker: also refuses settings that must not be run, or not together.
pub fn resolve_server(
    flags: Flags,
    environment: &Environment,
) -> Result<BrokerSettings, Vec<Problem>> {
    let (settings, mut sources) = read(flags, environment);
    let settings = settings.into_broker(&mut sources.problems);
    sources.finish()?;
    Ok(settings)
}

/// Every setting, the default in place of a wrong one, and what is wrong.
fn read(flags: Flags, environment: &Environment) -> (Settings, Sources<'_>) {
    let (mut sources, limits) = sources(flags, environment);
    let mut warnings = environment.misspelt();
    let nodes = NodeSettings::read(&mut sources, &mut warnings);
    let settings = Settings {
        redis: sources.choose_listen(Key::Redis, REDIS_DEFAULT),
        native: sources.choose_listen(Key::Native, NATIVE_DEFAULT),
        nats: sources.choose_listen(Key::Nats, NATS_DEFAULT),
        http: sources.choose_listen(Key::Http, HTTP_DEFAULT),
        nodes,
        http_policy: sources.choose_policy(Key::HttpPolicy),
        http_origins: sources
            .choose(Key::HttpOrigin, value::parse_origins)
            .map_or(Vec::new(), |origins| origins.value),
        has_echo: sources
            .choose(Key::Echo, value::parse_switch)
            .is_some_and(|echo| echo.value),
        may_broadcast: sources
            .choose(Key::Broadcast, value::parse_broadcast)
            .is_none_or(|may| may.value),
        redis_policy: sources.choose_policy(Key::RedisPolicy),
        native_policy: sources.choose_policy(Key::NativePolicy),
        nats_policy: sources.choose_policy(Key::NatsPolicy),
        nats_advertise: sources
            .choose(Key::NatsAdvertise, value::parse_advertised)
            .map(|address| address.value),
        max_payload: sources
            .choose(Key::MaxPayload, |text| {
                value::parse_size(text, 1, PAYLOAD_BYTES_MAX as u64)
            })
            .map(|size| size.value as usize),
        lame_duck: sources
            .choose(Key::LameDuck, |text| {
                value::parse_count(text, 1, LAME_DUCK_SECONDS_MAX)
            })
            .map(|seconds| Duration::from_secs(seconds.value)),
        user: sources.choose(Key::User, |text| Ok(text.to_string())),
        data: DataSettings::read(&mut sources, environment),
        shards: sources.choose(Key::Shards, |text| {
            value::parse_count(text, 1, SHARDS_MAX as u64).map(|shards| shards as usize)
        }),
        cpus: sources.choose(Key::Cpus, value::parse_cpus),
        is_pinned: sources
            .choose(Key::Pin, value::parse_switch)
            .is_none_or(|pin| pin.value),
        latency: sources
            .choose(Key::Latency, value::parse_latency)
            .map_or(Latency::Park, |latency| latency.value),
        log_format: sources
            .choose(Key::LogFormat, value::parse_log_format)
            .map_or(LogFormat::Text, |format| format.value),
        warnings,
        password: None,
        is_password_given: false,
        limits,
    };
    let mut settings = settings;
    let before = sources.problems.len();
    settings.password = sources.choose_password(&mut settings.warnings);
    settings.is_password_given = settings.password.is_some() || sources.problems.len() > before;
    (settings, sources)
}

/// Everything that gives settings, not judged yet but for the file's form, and the limits, which only the file gives.
fn sources(flags: Flags, environment: &Environment) -> (Sources<'_>, Limits) {
    let mut problems = Vec::new();
    let path = flags
        .config
        .map(|path| (Source::Flag("--config".to_string()), path));
    let path = path.or_else(|| match environment.given("SAPWOOD_CONFIG")? {
        Ok(given) => Some((given.source, given.text)),
        Err(problem) => {
            problems.push(problem);
            None
        }
    });
    let file = match path {
        Some((source, path)) => file::read(Path::new(&path), source, &mut problems),
        None => file::Settings::default(),
    };
    let sources = Sources {
        flags: flags.given,
        environment,
        file: file.given,
        problems,
    };
    (sources, file.limits)
}

/// Everything that gives settings, and what is wrong with them so far.
pub struct Sources<'a> {
    flags: Vec<(Key, Option<String>)>,
    environment: &'a Environment,
    file: Vec<(Key, Given)>,
    problems: Vec<Problem>,
}

impl Sources<'_> {
    /// Everything that gives a setting, the strongest first.
    fn given(&mut self, key: Key) -> Vec<Given> {
        let mut given = Vec::new();
        let flag = self.flags.iter().find(|(of, _)| *of == key);
        if let Some((_, Some(text))) = flag {
            let source = Source::Flag(key.flag());
            given.push(Given {
                source,
                text: text.clone(),
                directory: None,
            });
        }
        match self.environment.given(&key.variable()) {
            Some(Ok(variable)) => given.push(variable),
            Some(Err(problem)) => self.problems.push(problem),
            None => {}
        }
        given.extend(
            self.file
                .iter()
                .filter(|(of, _)| *of == key)
                .map(|(_, given)| given.clone()),
        );
        given
    }

    /// Whether anything gives a setting, right or wrong.
    pub fn has(&mut self, key: Key) -> bool {
        !self.given(key).is_empty()
    }

    /// Reads every value given for a key, and returns the strongest.
    pub fn choose<T>(
        &mut self,
        key: Key,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Sourced<T>> {
        self.choose_given(key, |given| parse(&given.text))
    }

    /// As [`choose`](Sources::choose), for a path, which is relative to where it was given.
    pub fn choose_path(&mut self, key: Key) -> Option<Sourced<PathBuf>> {
        self.choose_given(key, |given| Ok(given.path()))
    }

    /// A path, or none where the word `off` stands.
    pub fn choose_path_or_off(&mut self, key: Key) -> Option<Sourced<Option<PathBuf>>> {
        self.choose_given(key, |given| Ok((given.text != "off").then(|| given.path())))
    }

    fn choose_given<T>(
        &mut self,
        key: Key,
        parse: impl Fn(&Given) -> Result<T, Wrong>,
    ) -> Option<Sourced<T>> {
        let mut chosen = None;
        for given in self.given(key) {
            match parse(&given) {
                Ok(value) => {
                    chosen.get_or_insert(Sourced {
                        source: given.source,
                        value,
                    });
                }
                Err(wrong) => self.problems.push(Problem {
                    source: given.source,
                    wrong,
                }),
            }
        }
        chosen
    }

    /// Where a protocol listens.
    pub fn choose_listen(&mut self, key: Key, usual: SocketAddr) -> Sourced<Listen> {
        let listen = self.choose(key, |text| value::parse_listen(text, usual.port()));
        listen.unwrap_or(Sourced {
            source: Source::Default(key.name()),
            value: Listen::At(usual),
        })
    }

    /// What was read; what is wrong with it is kept.
    pub fn keep<T>(&mut self, read: Result<T, Vec<Problem>>) -> Option<T> {
        read.map_err(|problems| self.problems.extend(problems)).ok()
    }

    /// What the strongest file of a key holds. Weaker ones are not read, as nobody may be able to.
    pub fn choose_file<T>(
        &mut self,
        key: Key,
        read: impl FnOnce(&Path) -> Result<T, Wrong>,
    ) -> Option<Sourced<T>> {
        let given = self.given(key).into_iter().next()?;
        match read(&given.path()) {
            Ok(value) => Some(Sourced {
                source: given.source,
                value,
            }),
            Err(wrong) => {
                self.problems.push(Problem {
                    source: given.source,
                    wrong,
                });
                None
            }
        }
    }

    fn choose_policy(&mut self, key: Key) -> Policy {
        let policy = self.choose(key, value::parse_policy);
        policy.map_or(Policy::default(), |policy| policy.value)
    }

    /// What is wrong, if anything is: flags and environment first, then the file by line.
    fn finish(mut self) -> Result<(), Vec<Problem>> {
        self.problems.sort_by_key(|problem| problem.source.line());
        match self.problems.is_empty() {
            true => Ok(()),
            false => Err(self.problems),
        }
    }

    fn choose_password(&mut self, warnings: &mut Vec<Warning>) -> Option<Password> {
        let files = self.given(Key::PasswordFile);
        let variable = "SAPWOOD_PASSWORD";
        let direct = self.environment.unfiltered(variable);
        let strongest = files.into_iter().next();
        let by_flag = matches!(
            &strongest,
            Some(Given {
                source: Source::Flag(_),
                ..
            })
        );
        let outcome = match (direct, strongest) {
            (
                Some(_),
                Some(Given {
                    source: Source::Env(_),
                    ..
                }),
            ) => Err((Source::Env(variable.to_string()), Wrong::TwoPasswords)),
            (Some(password), _) if !by_flag => trim_password(password.into_vec())
                .map_err(|wrong| (Source::Env(variable.to_string()), wrong)),
            (_, Some(given)) => {
                read_password(&given, warnings).map_err(|wrong| (given.source, wrong))
            }
            (_, None) => return None,
        };
        match outcome {
            Ok(password) => Some(password),
            Err((source, wrong)) => {
                self.problems.push(Problem { source, wrong });
                None
            }
        }
    }
}

fn read_password(given: &Given, warnings: &mut Vec<Warning>) -> Result<Password, Wrong> {
    let path = given.path();
    // One byte pair more than a password, for the newline that is not part of it.
    let password = trim_password(file::read_capped(&path, PASSWORD_BYTES_MAX + 2)?)?;
    warn_if_readable(&path, "password", warnings)?;
    Ok(password)
}

/// Warns of a file that every user of the machine can read.
pub fn warn_if_readable(
    path: &Path,
    what: &'static str,
    warnings: &mut Vec<Warning>,
) -> Result<(), Wrong> {
    let metadata = path.metadata().map_err(|error| Wrong::Unreadable {
        path: path.to_path_buf(),
        error,
    })?;
    if metadata.is_file() && metadata.permissions().mode() & 0o004 != 0 {
        warnings.push(Warning::FileReadable(path.to_path_buf(), what));
    }
    Ok(())
}

/// Takes one newline off the end, which editors and `echo` leave there.
fn trim_password(mut bytes: Vec<u8>) -> Result<Password, Wrong> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    match bytes.is_empty() {
        true => Err(Wrong::EmptyPassword),
        false => Ok(Password(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(given: &[(Key, &str)]) -> Flags {
        let given = given
            .iter()
            .map(|(key, text)| (*key, Some(text.to_string())));
        Flags {
            config: None,
            given: given.collect(),
        }
    }

    fn messages(problems: Vec<Problem>) -> Vec<String> {
        problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn default_listens_on_loopback_only() {
        let settings = resolve_server(Flags::default(), &Environment::of(&[])).unwrap();
        let config = settings.config;
        assert_eq!(config.redis, Some(REDIS_DEFAULT));
        assert!(config.password.is_none() && config.shards.is_none() && config.cpus.is_none());
    }

    #[test]
    fn flag_wins_over_environment_and_empty_variable_is_unset() {
        let environment = Environment::of(&[("SAPWOOD_REDIS", "7001"), ("SAPWOOD_SHARDS", "")]);
        let settings = resolve(flags(&[(Key::Redis, "7002")]), &environment).unwrap();
        assert_eq!(
            settings.redis.value,
            Listen::At("127.0.0.1:7002".parse().unwrap())
        );
        assert!(settings.shards.is_none());
    }

    #[test]
    fn every_problem_is_reported_at_once_with_its_source() {
        let environment = Environment::of(&[("SAPWOOD_SHARDS", "many"), ("SAPWOOD_CPUS", "0-")]);
        let given = [(Key::Redis, "127.0.0.1"), (Key::LogFormat, "xml")];
        let messages = messages(resolve(flags(&given), &environment).unwrap_err());
        let starts = [
            "--redis: ",
            "SAPWOOD_SHARDS in the environment: ",
            "SAPWOOD_CPUS in the environment: ",
            "--log-format: ",
        ];
        assert_eq!(messages.len(), starts.len(), "{messages:?}");
        for (message, start) in messages.iter().zip(starts) {
            assert!(message.starts_with(start), "{message}");
        }
    }

    #[test]
    fn settings_that_must_not_be_run_are_reported_with_those_that_cannot_be_read() {
        let given = [
            (Key::Redis, "0.0.0.0:7463"),
            (Key::Nats, "nonsense"),
            (Key::Shards, "65"),
            (Key::Heartbeat, "5ms"),
            (Key::Node, "0.0.0.0:7401"),
        ];
        let all = messages(resolve_server(flags(&given), &Environment::of(&[])).unwrap_err());
        for right in [
            "--nats: \"nonsense\" has no port; write nonsense:7422",
            "--shards: \"65\"",
            "from 1 to 64",
            "--heartbeat: \"5ms\"",
            "from 100ms to 60s",
            "--redis: 0.0.0.0:7463 can be reached",
            "--node: 0.0.0.0:7401 can be reached",
        ] {
            let is_said = all.iter().any(|message| message.contains(right));
            assert!(is_said, "{right:?} in {all:?}");
        }
        // A password that cannot be read is one: it is not also said to be missing.
        let wrong = [given[0], (Key::PasswordFile, "/nowhere/password")];
        let messages = messages(resolve_server(flags(&wrong), &Environment::of(&[])).unwrap_err());
        assert_eq!(messages.len(), 1, "{messages:?}");
    }

    #[test]
    fn overridden_value_is_judged_all_the_same() {
        let environment = Environment::of(&[("SAPWOOD_SHARDS", "many")]);
        assert!(resolve(flags(&[(Key::Shards, "2")]), &environment).is_err());
    }

    #[test]
    fn open_listener_is_refused_without_password_and_taken_with_one() {
        let given = [(Key::Redis, "0.0.0.0:7463")];
        let settings = resolve_server(flags(&given), &Environment::of(&[]));
        let messages = messages(settings.unwrap_err());
        assert!(
            messages[0].contains("--redis 127.0.0.1:7463"),
            "{messages:?}"
        );
        assert!(messages[0].contains("--password-file FILE"), "{messages:?}");
        let environment = Environment::of(&[("SAPWOOD_PASSWORD", "sesame")]);
        let settings = resolve(flags(&given), &environment).unwrap();
        assert!(!format!("{settings:?}").contains("sesame"));
        let settings = resolve_server(flags(&given), &environment).unwrap();
        assert_eq!(settings.config.password.as_deref(), Some(&b"sesame"[..]));
    }

    #[test]
    fn password_loses_one_newline_and_no_more() {
        assert_eq!(trim_password(b"a b\r\n".to_vec()).unwrap().0, b"a b");
        assert_eq!(trim_password(b"a\n\n".to_vec()).unwrap().0, b"a\n");
        assert_eq!(trim_password(b"\xff\x00".to_vec()).unwrap().0, b"\xff\x00");
        assert!(trim_password(b"\n".to_vec()).is_err());
        assert!(trim_password(Vec::new()).is_err());
    }

    #[test]
    fn empty_or_doubled_password_in_the_environment_is_refused() {
        for pairs in [
            &[("SAPWOOD_PASSWORD", "")][..],
            &[("SAPWOOD_PASSWORD", "a"), ("SAPWOOD_PASSWORD_FILE", "b")],
        ] {
            let messages =
                messages(resolve(Flags::default(), &Environment::of(pairs)).unwrap_err());
            assert!(
                messages[0].starts_with("SAPWOOD_PASSWORD in"),
                "{messages:?}"
            );
        }
    }

    #[test]
    fn client_connects_where_the_broker_listens_unless_told_otherwise() {
        let brokers = |given: &[(Key, &str)], environment: Environment| {
            let settings = resolve_client(flags(given), &environment);
            settings.map(|settings| settings.brokers)
        };
        let nothing = || Environment::of(&[]);
        assert_eq!(brokers(&[], nothing()).unwrap(), ["127.0.0.1:7400"]);
        let everywhere = || Environment::of(&[("SAPWOOD_NATIVE", "0.0.0.0:7400,b:1")]);
        let expected = ["127.0.0.1:7400", "b:1"];
        assert_eq!(brokers(&[], everywhere()).unwrap(), expected);
        let given = [(Key::Native, "1,2")];
        let expected = ["127.0.0.1:1", "127.0.0.1:2"];
        assert_eq!(brokers(&given, everywhere()).unwrap(), expected);
        let off = messages(brokers(&[(Key::Native, "off")], nothing()).unwrap_err());
        assert!(off[0].contains("--native 127.0.0.1:7400"), "{off:?}");
    }

    #[test]
    fn more_shards_than_cpus_are_refused() {
        let given = [(Key::Shards, "3"), (Key::Cpus, "0-1")];
        let settings = resolve_server(flags(&given), &Environment::of(&[]));
        let messages = messages(settings.unwrap_err());
        assert!(
            messages[0].contains("ask for at most 2 shards"),
            "{messages:?}"
        );
    }
}
