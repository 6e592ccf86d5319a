//! What the text of each setting may be: addresses, counts, CPU lists, sizes.
//!
//! Pure functions from text to value, but for the look-up of a host name. They know neither where the text came from
//! nor which setting it is for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use sapwood_server::{Latency, Policy};

use super::problem::{AddressReason, CpuReason, Wrong};

/// The highest CPU number that is taken for one: Linux's own compile-time most, `CONFIG_NR_CPUS` of 8,192, is above any
/// machine that is sold, and a list of it costs 64 KiB.
pub const CPU_NUMBER_MAX: usize = 8_191;

/// Where a protocol listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// On this address; port 0 is any free one.
    At(SocketAddr),
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Reads what happens when a client reads too slowly.
pub fn parse_policy(text: &str) -> Result<Policy, Wrong> {
    Policy::from_name(text).ok_or_else(|| Wrong::Choice {
        given: text.to_string(),
        choices: &["close", "drop-oldest", "latest"],
    })
}

/// Reads `off`, `HOST:PORT`, `[V6]:PORT` or a bare port, which means 127.0.0.1. A name is looked up, and its first
/// address taken. An error suggests the usual port.
pub fn parse_listen(text: &str, usual_port: u16) -> Result<Listen, Wrong> {
    if text == "off" {
        return Ok(Listen::Off);
    }
    let address = parse_address(text).and_then(|address| match address {
        Address::Numeric(address) => Ok(address),
        Address::Named(host, port) => look_up(host, port),
    });
    address.map(Listen::At).map_err(|reason| Wrong::Address {
        given: text.to_string(),
        reason,
        usual_port,
    })
}

/// Reads the brokers that a client may connect to, with commas between them, each `HOST:PORT`, `[V6]:PORT` or a bare port
/// of 127.0.0.1. Names stay names: what they stand for may change between one connection and the next. Empty where
/// there is none to connect to: one is `off`, or has port 0.
pub fn parse_brokers(text: &str) -> Result<Vec<String>, Wrong> {
    let mut brokers = Vec::new();
    for part in text.split(',').map(str::trim) {
        if part == "off" {
            return Ok(Vec::new());
        }
        let address = parse_address(part).map_err(|reason| Wrong::Broker {
            given: part.to_string(),
            reason,
        })?;
        let port = match address {
            Address::Numeric(address) => {
                brokers.push(reachable(address).to_string());
                address.port()
            }
            Address::Named(host, port) => {
                brokers.push(format!("{host}:{port}"));
                port
            }
        };
        if port == 0 {
            return Ok(Vec::new());
        }
    }
    Ok(brokers)
}

/// Reads where another node is: as [`parse_nodes`], but one, and a name's first address.
pub fn parse_node(text: &str) -> Result<SocketAddr, Wrong> {
    let wrong = |reason| Wrong::Node {
        given: text.to_string(),
        reason,
    };
    let addresses = look_up_node(text).map_err(wrong)?;
    let first = addresses.into_iter().next();
    first.ok_or_else(|| wrong(not_found()))
}

/// Reads where others are told that this node is: as [`parse_node`], but an address that means every network stays one,
/// because who is told completes it.
pub fn parse_advertised(text: &str) -> Result<SocketAddr, Wrong> {
    let address = parse_address(text).and_then(|address| match address {
        Address::Numeric(address) => Ok(address),
        Address::Named(host, port) => look_up(host, port),
    });
    let address = address.and_then(|address| match address.port() {
        0 => Err(AddressReason::ZeroPort),
        _ => Ok(address),
    });
    address.map_err(|reason| Wrong::Node {
        given: text.to_string(),
        reason,
    })
}

/// Reads where other nodes are, with commas between them, each `HOST:PORT`, `[V6]:PORT` or a bare port of 127.0.0.1. Names
/// are looked up, and may stand for several.
pub fn parse_nodes(text: &str) -> Result<Vec<SocketAddr>, Wrong> {
    let mut nodes = Vec::new();
    for part in text.split(',').map(str::trim) {
        let found = look_up_node(part).map_err(|reason| Wrong::Node {
            given: part.to_string(),
            reason,
        })?;
        for node in found {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
    }
    Ok(nodes)
}

fn look_up_node(text: &str) -> Result<Vec<SocketAddr>, AddressReason> {
    let addresses = match parse_address(text)? {
        Address::Numeric(address) => vec![reachable(address)],
        Address::Named(host, port) => look_up_all(host, port)?,
    };
    match addresses.iter().any(|address| address.port() == 0) {
        true => Err(AddressReason::ZeroPort),
        false => Ok(addresses),
    }
}

/// An address as text has it.
enum Address<'a> {
    Numeric(SocketAddr),
    /// A host's name, not looked up, and a port.
    Named(&'a str, u16),
}

fn parse_address(text: &str) -> Result<Address<'_>, AddressReason> {
    if text.is_empty() {
        return Err(AddressReason::Empty);
    }
    if is_digits(text) {
        let port = parse_port(text)?;
        return Ok(Address::Numeric(SocketAddr::new(
            Ipv4Addr::LOCALHOST.into(),
            port,
        )));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Address::Numeric(address));
    }
    let unbracketed = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Ok(ip) = unbracketed.unwrap_or(text).parse::<IpAddr>() {
        return Err(AddressReason::NoPort(ip));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(match is_host_name(text) {
            true => AddressReason::NamedWithoutPort,
            false => AddressReason::BadHost,
        });
    };
    let port = parse_port(port)?;
    match host {
        "" | "*" => Err(AddressReason::NoHost(port)),
        "localhost" => Ok(Address::Numeric(SocketAddr::new(
            Ipv4Addr::LOCALHOST.into(),
            port,
        ))),
        _ if is_host_name(host) => Ok(Address::Named(host, port)),
        _ => Err(AddressReason::BadHost),
    }
}

fn parse_port(text: &str) -> Result<u16, AddressReason> {
    match is_digits(text) {
        true => text.parse().map_err(|_| AddressReason::BadPort),
        false => Err(AddressReason::BadPort),
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a text could be a name, and is not a mistyped number such as `127.0.0.256`.
fn is_host_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.bytes().all(legal) && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

fn look_up(host: &str, port: u16) -> Result<SocketAddr, AddressReason> {
    let addresses = look_up_all(host, port)?;
    addresses.into_iter().next().ok_or_else(not_found)
}

fn look_up_all(host: &str, port: u16) -> Result<Vec<SocketAddr>, AddressReason> {
    let addresses: Vec<_> = (host, port)
        .to_socket_addrs()
        .map_err(AddressReason::UnknownName)?
        .collect();
    match addresses.is_empty() {
        true => Err(not_found()),
        false => Ok(addresses),
    }
}

fn not_found() -> AddressReason {
    AddressReason::UnknownName(std::io::ErrorKind::NotFound.into())
}

/// Whether only this machine can connect to an address.
pub fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// The address to connect to for a listener: itself, or loopback where it listens on every network.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Reads a whole number in a range.
pub fn parse_count(text: &str, min: u64, max: u64) -> Result<u64, Wrong> {
    let number = is_digits(text).then(|| text.parse::<u64>().ok()).flatten();
    match number {
        Some(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(Wrong::Number {
            given: text.to_string(),
            min,
            max,
            size: false,
        }),
    }
}

/// Reads a whole number in a range, alone or with `KiB`, `MiB` or `GiB` after it.
pub fn parse_size(text: &str, min: u64, max: u64) -> Result<u64, Wrong> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let unit = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    let (number, shift) = unit.unwrap_or((text, 0));
    let number = number.trim_end();
    let bytes = is_digits(number)
        .then(|| number.parse::<u64>().ok()?.checked_mul(1 << shift))
        .flatten();
    match bytes {
        Some(bytes) if (min..=max).contains(&bytes) => Ok(bytes),
        _ => Err(Wrong::Number {
            given: text.to_string(),
            min,
            max,
            size: true,
        }),
    }
}

/// Reads a list of CPUs such as `0-3,6`, in the order given, each once.
pub fn parse_cpus(text: &str) -> Result<Vec<usize>, Wrong> {
    read_cpus(text).map_err(|reason| Wrong::CpuList {
        given: text.to_string(),
        reason,
    })
}

fn read_cpus(text: &str) -> Result<Vec<usize>, CpuReason> {
    if text.trim().is_empty() {
        return Err(CpuReason::Empty);
    }
    let mut cpus = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (read_cpu(first, part)?, read_cpu(last, part)?),
            None => (read_cpu(part, part)?, read_cpu(part, part)?),
        };
        if last < first {
            return Err(CpuReason::Backwards(first, last));
        }
        for cpu in first..=last {
            if !seen.insert(cpu) {
                return Err(CpuReason::Twice(cpu));
            }
            cpus.push(cpu);
        }
    }
    Ok(cpus)
}

fn read_cpu(text: &str, part: &str) -> Result<usize, CpuReason> {
    let text = text.trim();
    let cpu = is_digits(text)
        .then(|| text.parse::<usize>().ok())
        .flatten();
    match cpu {
        Some(cpu) if cpu > CPU_NUMBER_MAX => Err(CpuReason::TooHigh(cpu)),
        Some(cpu) => Ok(cpu),
        None => Err(CpuReason::NotANumber(part.to_string())),
    }
}

/// Writes a list of CPUs as [`parse_cpus`] reads it: `0-3,6`.
pub fn write_cpus(cpus: &[usize]) -> String {
    let runs = cpus.chunk_by(|before, after| before.checked_add(1) == Some(*after));
    let parts = runs.filter_map(|run| match run {
        [] => None,
        [cpu] => Some(cpu.to_string()),
        [first, .., last] => Some(format!("{first}-{last}")),
    });
    parts.collect::<Vec<_>>().join(",")
}

/// Reads `park` or `spin`.
pub fn parse_latency(text: &str) -> Result<Latency, Wrong> {
    match text {
        "park" => Ok(Latency::Park),
        "spin" => Ok(Latency::Spin),
        _ => Err(Wrong::Choice {
            given: text.to_string(),
            choices: &["park", "spin"],
        }),
    }
}

/// Reads `on` or `off`.
pub fn parse_switch(text: &str) -> Result<bool, Wrong> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(Wrong::Choice {
            given: text.to_string(),
            choices: &["on", "off"],
        }),
    }
}

/// Reads who may publish to all: `anyone` or `nobody`.
pub fn parse_broadcast(text: &str) -> Result<bool, Wrong> {
    match text {
        "anyone" => Ok(true),
        "nobody" => Ok(false),
        _ => Err(Wrong::Choice {
            given: text.to_string(),
            choices: &["anyone", "nobody"],
        }),
    }
}

/// Reads origins with commas between them, each `https://HOST` or `http://HOST:PORT` as browsers write it, or `*`.
pub fn parse_origins(text: &str) -> Result<Vec<String>, Wrong> {
    let origins = text.split(',').map(str::trim);
    let is_origin = |origin: &str| {
        let host = origin
            .strip_prefix("https://")
            .or_else(|| origin.strip_prefix("http://"));
        let is_host = |host: &str| {
            let is_part = |c: char| c.is_ascii_alphanumeric() || ".-:[]_".contains(c);
            !host.is_empty() && host.chars().all(is_part)
        };
        origin == "*" || host.is_some_and(is_host)
    };
    let check = |origin: &str| match is_origin(origin) {
        true => Ok(origin.to_string()),
        false => Err(Wrong::Origin(origin.to_string())),
    };
    origins.map(check).collect()
}

/// Reads `text` or `json`.
pub fn parse_log_format(text: &str) -> Result<LogFormat, Wrong> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(Wrong::Choice {
            given: text.to_string(),
            choices: &["text", "json"],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_documented_form() {
        for (text, address) in [
            ("127.0.0.1:7463", "127.0.0.1:7463"),
            ("7463", "127.0.0.1:7463"),
            ("0", "127.0.0.1:0"),
            ("localhost:7463", "127.0.0.1:7463"),
            ("[::1]:7463", "[::1]:7463"),
            ("0.0.0.0:1", "0.0.0.0:1"),
        ] {
            let expected = Listen::At(address.parse().unwrap());
            assert_eq!(parse_listen(text, 7463).unwrap(), expected, "{text}");
        }
        assert_eq!(parse_listen("off", 7463).unwrap(), Listen::Off);
    }

    #[test]
    fn wrong_addresses_say_what_would_be_right() {
        for (text, advice) in [
            ("", "write HOST:PORT such as 127.0.0.1:7463"),
            (
                ":7463",
                "127.0.0.1:7463 for this machine alone, or 0.0.0.0:7463",
            ),
            (
                "*:7463",
                "127.0.0.1:7463 for this machine alone, or 0.0.0.0:7463",
            ),
            ("127.0.0.1", "has no port; write 127.0.0.1:7463"),
            ("::1", "has no port; write [::1]:7463"),
            ("[::1]", "has no port; write [::1]:7463"),
            ("localhost", "has no port; write localhost:7463"),
            ("127.0.0.1:70000", "a port from 0 to 65535"),
            ("70000", "a port from 0 to 65535"),
            ("127.0.0.1:redis", "a port from 0 to 65535"),
            ("127.0.0.256:7463", "is not an address"),
            ("redis://localhost:7463", "is not an address"),
            ("+7463", "is not an address"),
            ("no-such-name.invalid:7463", "has no address here"),
        ] {
            let message = parse_listen(text, 7463).unwrap_err().to_string();
            assert!(message.contains(advice), "{text}: {message}");
        }
    }

    #[test]
    fn brokers_are_read_one_or_several_and_names_stay_names() {
        for (text, brokers) in [
            ("7400", &["127.0.0.1:7400"][..]),
            ("0.0.0.0:7400", &["127.0.0.1:7400"]),
            ("[::]:1, 2", &["[::1]:1", "127.0.0.1:2"]),
            ("no-such-name.invalid:7400", &["no-such-name.invalid:7400"]),
            ("off", &[]),
            ("127.0.0.1:0", &[]),
        ] {
            assert_eq!(parse_brokers(text).unwrap(), brokers, "{text}");
        }
        for (text, advice) in [
            (
                "",
                "such as 127.0.0.1:7400 or [::1]:7400, a port such as 7400.",
            ),
            ("1,", "the address is empty"),
            ("broker", "has no port; write broker:7400."),
            (
                "1,127.0.0.1",
                "\"127.0.0.1\" has no port; write 127.0.0.1:7400.",
            ),
        ] {
            let message = parse_brokers(text).unwrap_err().to_string();
            assert!(message.contains(advice), "{text}: {message}");
        }
    }

    #[test]
    fn nodes_are_read_one_or_several_each_once() {
        for (text, nodes) in [
            ("7401", &["127.0.0.1:7401"][..]),
            ("10.0.0.1:1, [::1]:2,10.0.0.1:1", &["10.0.0.1:1", "[::1]:2"]),
            ("0.0.0.0:7401,localhost:7401", &["127.0.0.1:7401"]),
        ] {
            let expected: Vec<SocketAddr> = nodes.iter().map(|at| at.parse().unwrap()).collect();
            assert_eq!(parse_nodes(text).unwrap(), expected, "{text}");
            assert_eq!(
                parse_node(text).ok(),
                Some(expected[0]).filter(|_| !text.contains(','))
            );
        }
        for (text, advice) in [
            (
                "",
                "the address is empty; write HOST:PORT such as 127.0.0.1:7401",
            ),
            ("10.0.0.1:1,", "the address is empty"),
            ("10.0.0.1", "has no port; write 10.0.0.1:7401."),
            ("off", "\"off\" has no port; write off:7401."),
            ("1,127.0.0.1:0", "\"127.0.0.1:0\" has port 0"),
            ("no-such-name.invalid:1", "has no address here"),
        ] {
            let message = parse_nodes(text).unwrap_err().to_string();
            assert!(message.contains(advice), "{text}: {message}");
        }
    }

    #[test]
    fn what_is_advertised_may_mean_every_network_but_has_a_port() {
        for text in ["0.0.0.0:7401", "[::]:1", "10.0.0.1:7401"] {
            assert_eq!(
                parse_advertised(text).unwrap(),
                text.parse::<SocketAddr>().unwrap()
            );
        }
        for text in ["0", "0.0.0.0:0", "localhost:0", "10.0.0.1"] {
            assert!(parse_advertised(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpu_lists_round_trip() {
        for text in ["0", "0-3,6", "6,0-3", "1,3,5"] {
            assert_eq!(write_cpus(&parse_cpus(text).unwrap()), text);
        }
        assert_eq!(parse_cpus(" 0 - 1 , 3 ").unwrap(), [0, 1, 3]);
    }

    #[test]
    fn wrong_cpu_lists_name_the_wrong_part() {
        for (text, part) in [
            ("", "it is empty"),
            ("0,,1", "\"\" is neither"),
            ("0-x", "\"0-x\" is neither"),
            ("-1", "\"-1\" is neither"),
            ("3-0", "3-0 runs backwards"),
            ("0-2,1", "1 is there twice"),
            ("0-99999999", "no machine has a CPU 99999999"),
            ("99999999999999999999", "is neither"),
        ] {
            let message = parse_cpus(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn sizes_take_units_and_refuse_overflow() {
        assert_eq!(parse_size("33554432", 1, u64::MAX).unwrap(), 32 << 20);
        assert_eq!(parse_size("32 MiB", 1, u64::MAX).unwrap(), 32 << 20);
        assert_eq!(parse_size("64KiB", 1, u64::MAX).unwrap(), 64 << 10);
        for text in ["", "0", "MiB", "-1", "1.5 MiB", "32 MB", "17179869184 GiB"] {
            assert!(parse_size(text, 1, u64::MAX).is_err(), "{text}");
        }
        assert!(parse_count("1025", 1, 1024).is_err());
    }

    #[test]
    fn only_loopback_is_private() {
        for (text, private) in [
            ("127.0.0.1:1", true),
            ("127.8.8.8:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("192.168.1.2:1", false),
        ] {
            assert_eq!(is_loopback(text.parse().unwrap()), private, "{text}");
        }
    }
}
