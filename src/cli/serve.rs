//! `sapwood serve`: settings to a running server, and signals to its end.
//!
//! Owns the order of a start (settings, logs, data directory, signals, server, table) and the table on stdout, which scripts may parse:
//! one line for each listener, and nothing else ever goes to stdout.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread;

use sapwood_server::{Server, Stopper};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use super::config::{self, Environment, Flags, Key, Sourced};
use super::data::Data;
use super::{Failure, ServeArgs, logs, value};

/// Runs the broker until a signal drains it.
///
/// Errors: wrong settings, before anything was started; or the server's own, after it has closed what it opened.
pub fn run(args: &ServeArgs, environment: &Environment) -> Result<(), Failure> {
    let filter = logs::read_filter(environment.log_filter());
    let settings = config::resolve_server(flags(args), environment);
    let (filter, settings) = match (filter, settings) {
        (Ok(filter), Ok(settings)) => (filter, settings),
        (filter, settings) => {
            let problems = settings.err().into_iter().flatten();
            return Err(Failure::Config(problems.chain(filter.err()).collect()));
        }
    };
    let mut config = settings.config;
    let secrets = Secrets {
        has_password: config.password.is_some(),
        has_cluster_secret: config.tree.key.is_some(),
    };

    let logs = logs::start(settings.log_format, filter)
        .map_err(|error| Failure::System("start the log", io::Error::other(error)))?;
    for warning in settings.warnings {
        tracing::warn!("{warning}");
    }
    // Its lock is held to the end of the process.
    let data = settings.data.map(open_data).transpose()?;
    config.tree.identity = data.as_ref().map(|data| (data.node, data.incarnation));
    let stopper = drain_on_signal()?;
    let server = Server::start(config).map_err(Failure::Start)?;
    // A second stopper cannot be there: this is the only place that sets one.
    let _ = stopper.set(server.stopper());
    let place = match server.is_pinned() {
        true => format!("on CPUs {}", value::write_cpus(&server.cpus())),
        false => "not pinned".to_string(),
    };
    let shards = (server.cpus().len(), place);
    let table = table(&server.listeners(), shards, secrets);
    if let Err(error) = io::stdout()
        .write_all(table.as_bytes())
        .and_then(|()| io::stdout().flush())
    {
        tracing::warn!(%error, "the table of listeners could not be written to stdout");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        shards = server.cpus().len(),
        "ready"
    );
    let outcome = server.join().map_err(Failure::Serve);
    tracing::info!(log_lines_dropped = logs.dropped_lines(), "ended");
    outcome
}

fn open_data(directory: Sourced<PathBuf>) -> Result<Data, Failure> {
    let data = Data::open(&directory.value)
        .map_err(|error| Failure::Data(Box::new((directory.source, error))))?;
    tracing::info!(
        node = format!("{:016x}", data.node.0),
        incarnation = data.incarnation,
        "this is the node of {}",
        directory.value.display()
    );
    Ok(data)
}

fn flags(args: &ServeArgs) -> Flags {
    Flags {
        config: args.common.config.clone(),
        given: vec![
            (Key::Redis, args.redis.clone()),
            (Key::RedisPolicy, args.redis_policy.clone()),
            (Key::Native, args.native.clone()),
            (Key::NativePolicy, args.native_policy.clone()),
            (Key::Http, args.http.clone()),
            (Key::HttpPolicy, args.http_policy.clone()),
            (Key::HttpOrigin, args.http_origin.clone()),
            (Key::Echo, args.echo.then(|| "on".to_string())),
            (Key::Broadcast, args.broadcast.clone()),
            (Key::Nats, args.nats.clone()),
            (Key::NatsPolicy, args.nats_policy.clone()),
            (Key::NatsAdvertise, args.nats_advertise.clone()),
            (Key::MaxPayload, args.max_payload.clone()),
            (Key::User, args.user.clone()),
            (Key::LameDuck, args.lame_duck.clone()),
            (Key::Node, args.node.clone()),
            (Key::Join, args.join.clone()),
            (Key::Advertise, args.advertise.clone()),
            (Key::Parent, args.parent.clone()),
            (Key::NodeName, args.node_name.clone()),
            (Key::NodeTags, args.node_tags.clone()),
            (Key::NodeGroups, args.node_groups.clone()),
            (Key::ChildrenMax, args.children_max.clone()),
            (Key::Heartbeat, args.heartbeat.clone()),
            (Key::Topology, args.topology.clone()),
            (Key::ClusterSecretFile, args.cluster_secret_file.clone()),
            (Key::Data, args.data.clone()),
            (Key::Partitions, args.partitions.clone()),
            (Key::StateWorkers, args.state_workers.clone()),
            (Key::Shards, args.shards.clone()),
            (Key::Cpus, args.cpus.clone()),
            (Key::Pin, args.pin.clone()),
            (Key::Latency, args.latency.clone()),
            (Key::PasswordFile, args.common.password_file.clone()),
            (Key::LogFormat, args.log_format.clone()),
        ],
    }
}

/// From here on the first SIGTERM or SIGINT drains the server, once there is one, and the next one ends the process at
/// once, as does the first before there is a server.
fn drain_on_signal() -> Result<Arc<OnceLock<Stopper>>, Failure> {
    let failed = |error| Failure::System("watch for signals", error);
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR2]).map_err(failed)?;
    let stopper = Arc::new(OnceLock::<Stopper>::new());
    let shared = stopper.clone();
    let watch = move || {
        let mut draining = false;
        // Ends with the process: the iterator waits for signals for ever.
        for signal in signals.forever() {
            match shared.get() {
                // As nats-server does.
                Some(stopper) if signal == SIGUSR2 => {
                    tracing::info!(
                        "lame duck: no more connections, and those there are go bit by bit"
                    );
                    stopper.lame_duck();
                }
                None if signal == SIGUSR2 => {}
                Some(stopper) if !draining => {
                    tracing::info!(
                        signal = signal_name(signal),
                        "draining; a second signal ends at once"
                    );
                    draining = true;
                    stopper.drain();
                }
                _ => end_by(signal),
            }
        }
    };
    thread::Builder::new()
        .name("sapwood-signal".to_string())
        .spawn(watch)
        .map_err(failed)?;
    Ok(stopper)
}

/// Ends the process as the signal would have without a handler, so that whoever started it sees why.
pub fn end_by(signal: i32) {
    if low_level::emulate_default_handler(signal).is_err() {
        low_level::exit(super::EXIT_RUNTIME.into());
    }
}

fn signal_name(signal: i32) -> &'static str {
    low_level::signal_name(signal).unwrap_or("a signal")
}

/// What has to be known to be let in.
#[derive(Clone, Copy, Debug)]
struct Secrets {
    has_password: bool,
    has_cluster_secret: bool,
}

/// The table at start: version, shards with their CPUs, then one line for each listener with how to reach it.
fn table(
    listeners: &[(&'static str, SocketAddr)],
    (shards, place): (usize, String),
    secrets: Secrets,
) -> String {
    let mut rows = vec![
        (
            "sapwood",
            env!("CARGO_PKG_VERSION").to_string(),
            String::new(),
        ),
        ("shards", shards.to_string(), place),
    ];
    for (name, address) in listeners {
        rows.push((
            name,
            address.to_string(),
            how_to_reach(name, *address, secrets),
        ));
    }
    let width = rows
        .iter()
        .map(|(_, middle, _)| middle.len())
        .max()
        .unwrap_or(0);
    let lines = rows.iter().map(|(name, middle, hint)| {
        let line = format!("{name:<8} {middle:<width$}   {hint}");
        format!("{}\n", line.trim_end())
    });
    lines.collect()
}

/// A command that reaches a listener, to be tried at once.
fn how_to_reach(listener: &str, address: SocketAddr, secrets: Secrets) -> String {
    let has_password = secrets.has_password;
    let reachable = value::reachable(address);
    if listener == "native" {
        let at = match reachable == config::NATIVE_DEFAULT {
            true => String::new(),
            false => format!(" --native {reachable}"),
        };
        let password = if has_password {
            " --password-file FILE"
        } else {
            ""
        };
        return format!("sapwood sub{at}{password} '>'");
    }
    if listener == "nats" {
        let user = if has_password { "USER:PASSWORD@" } else { "" };
        return format!("nats -s nats://{user}{reachable} sub '>'");
    }
    if listener == "http" {
        return format!("http://{reachable}/");
    }
    if listener == "node" {
        let secret = match secrets.has_cluster_secret {
            true => " --cluster-secret-file FILE",
            false => "",
        };
        return format!("sapwood serve --join {reachable}{secret}");
    }
    let host = match reachable.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => String::new(),
        ip => format!(" -h {ip}"),
    };
    let password = if has_password { " --askpass" } else { "" };
    format!("redis-cli{host} -p {}{password}", reachable.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Secrets = Secrets {
        has_password: false,
        has_cluster_secret: false,
    };

    #[test]
    fn table_has_one_line_for_each_listener() {
        let table = table(
            &[("redis", "127.0.0.1:7463".parse().unwrap())],
            (3, "on CPUs 0-1,4".to_string()),
            OPEN,
        );
        let expected = format!(
            "sapwood  {}\nshards   3                on CPUs 0-1,4\nredis    127.0.0.1:7463   redis-cli -p 7463\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(table, expected);
    }

    #[test]
    fn hint_names_host_and_password_only_where_needed() {
        for (address, has_password, hint) in [
            ("0.0.0.0:1", true, "redis-cli -p 1 --askpass"),
            ("[::]:1", true, "redis-cli -h ::1 -p 1 --askpass"),
            (
                "192.168.1.2:1",
                true,
                "redis-cli -h 192.168.1.2 -p 1 --askpass",
            ),
            ("127.0.0.1:1", false, "redis-cli -p 1"),
        ] {
            let address = address.parse().unwrap();
            let secrets = Secrets {
                has_password,
                ..OPEN
            };
            assert_eq!(how_to_reach("redis", address, secrets), hint);
        }
        let native = |address: &str| how_to_reach("native", address.parse().unwrap(), OPEN);
        assert_eq!(native("127.0.0.1:7400"), "sapwood sub '>'");
        assert_eq!(native("[::]:1"), "sapwood sub --native [::1]:1 '>'");
    }
}
