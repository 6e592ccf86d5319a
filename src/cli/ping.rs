//! `sapwood ping`: round trips to the broker through the client library, as `ping` measures those to a machine.
//!
//! It measures what a program with this client would see: the protocol, the client and the broker, not the network alone.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::Failure;
use super::config::Environment;
use super::connect::{self, ConnectArgs, Connector, Threads};
use super::latency::Latency;
use super::output::Output;
use super::quantity;
use super::stop::Stop;
use super::text;
use super::trouble::Trouble;

/// How long to wait between two pings unless told otherwise.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long an answer may take unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What follows the options in the help.
pub const HELP: &str = "\
Examples:
  sapwood ping                                one round trip a second, until Ctrl-C
  sapwood ping --count 3 --interval 100ms     three, ten a second
  sapwood ping --count 1 --wait 30s           wait until a broker is there

Exit codes: 0 answered, 1 failed, 2 wrong usage, 4 no answer at all.";

/// The flags of `sapwood ping`.
#[derive(Args, Debug, Default)]
pub struct PingArgs {
    /// End after so many
    #[arg(short = 'n', long, value_name = "N", value_parser = quantity::count)]
    count: Option<u64>,
    /// How long from one to the next [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = quantity::flag(quantity::parse_time))]
    interval: Option<Duration>,
    /// How long an answer may take [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = quantity::flag(quantity::parse_time))]
    timeout: Option<Duration>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Pings until it is told to stop.
///
/// Errors: wrong settings, exit code 2; a broker that is not there at first, 1; no answer at all, 4.
pub fn run(args: &PingArgs, environment: &Environment) -> Result<(), Failure> {
    let connector = Connector::new(&args.connect, environment)?;
    let stop = Stop::on_signal()?;
    stop.on_closed_stdout()?;
    let output = Output::new()?;
    let runtime = connect::runtime(Threads::Here)?;
    runtime.block_on(ping(args, &connector, &stop, output))
}

async fn ping(
    args: &PingArgs,
    connector: &Connector,
    stop: &Stop,
    mut output: Output,
) -> Result<(), Failure> {
    let client = tokio::select! {
        client = connector.connect(connector.builder()) => client?,
        () = stop.wait() => return Ok(()),
    };
    let interval = args.interval.unwrap_or(INTERVAL);
    let timeout = args.timeout.unwrap_or(TIMEOUT);
    let mut latency = Latency::new();
    let mut pings = 0;
    let mut due = Instant::now();
    // Ends at the count, or when it is told to.
    while !stop.is_stopped() {
        pings += 1;
        let answer = tokio::select! {
            answer = tokio::time::timeout(timeout, client.ping()) => answer,
            () = stop.wait() => {
                pings -= 1;
                break;
            }
        };
        let line = match answer {
            Ok(Ok(time)) => {
                latency.record(time);
                format!("answer {pings}: {}\n", super::latency::shown(time))
            }
            Ok(Err(error)) => {
                let error = text::printable(error.to_string().as_bytes());
                format!("no answer {pings}: {error}\n")
            }
            Err(_) => format!("no answer {pings} within {timeout:?}\n"),
        };
        output.buffer.extend_from_slice(line.as_bytes());
        if output.flush()?.is_break() || Some(pings) == args.count {
            break;
        }
        due += interval;
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = stop.wait() => {}
        }
    }
    let summary = summary(&connector.brokers(), pings, &latency);
    output.buffer.extend_from_slice(summary.as_bytes());
    let _ = output.flush()?;
    match latency.count() {
        0 if pings > 0 => Err(Failure::Client(Trouble::NoPong(pings))),
        _ => Ok(()),
    }
}

fn summary(brokers: &str, pings: u64, latency: &Latency) -> String {
    let answers = latency.count();
    let lost = pings.saturating_sub(answers);
    let percent = (lost * 100).checked_div(pings).unwrap_or(0);
    let mut summary = format!("--- {brokers}\n{pings} pings, {answers} answers, {percent}% lost\n");
    if answers > 0 {
        let times = [
            latency.min(),
            latency.mean(),
            latency.at(0.5),
            latency.at(0.99),
            latency.max(),
        ];
        let times = times.map(super::latency::shown);
        summary.push_str(&format!("min/mean/p50/p99/max {}\n", times.join(" / ")));
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_counts_answers_and_says_their_times() {
        let mut latency = Latency::new();
        for micros in [100, 200, 300] {
            latency.record(Duration::from_micros(micros));
        }
        let text = summary("127.0.0.1:7400", 4, &latency);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "--- 127.0.0.1:7400");
        assert_eq!(lines[1], "4 pings, 3 answers, 25% lost");
        assert!(
            lines[2].starts_with("min/mean/p50/p99/max 100 us / 200 us / 200 us / 300 us"),
            "{text}"
        );
        assert_eq!(
            summary("b", 0, &Latency::new()),
            "--- b\n0 pings, 0 answers, 0% lost\n"
        );
    }
}
