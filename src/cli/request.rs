//! `sapwood request`: publishes a request, and prints the replies.
//!
//! The protocol tells at once when nobody listens, so only a responder that is slow costs the time-out.

use std::time::Duration;

use clap::Args;
use sapwood_client::error::RequestError;

use super::Failure;
use super::config::Environment;
use super::connect::{self, ConnectArgs, Connector, Threads};
use super::output::Output;
use super::payload::PayloadArgs;
use super::quantity;
use super::render::{Parts, Render, RenderArgs, Topics};
use super::text;
use super::trouble::Trouble;

/// How long to wait for a reply unless told otherwise: people begin to doubt after some seconds.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What follows the options in the help.
pub const HELP: &str = "\
Examples:
  sapwood request time.now ''                    ask, and print the reply
  sapwood request sum '1 2 3' --timeout 500ms    wait no longer than half a second
  echo hello | sapwood request upper             ask with what stdin holds
  sapwood request list.files '' --replies all    print replies up to the one that is marked as the last
  sapwood request poll '' --replies 3 --json     three replies, as JSON

`sapwood reply` answers requests. The time-out is for the first reply and then for each further one.

Exit codes: 0 answered, 1 failed, 2 wrong usage, 3 nobody listens, which is known at once, \
4 no reply in time.";

/// How many replies a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// So many, or up to the last one if there are fewer.
    Count(u64),
    /// Up to the last one.
    All,
}

fn parse_wanted(text: &str) -> Result<Wanted, String> {
    match text {
        "all" => Ok(Wanted::All),
        _ => quantity::count(text)
            .map(Wanted::Count)
            .map_err(|wrong| format!("{wrong} Or say all.")),
    }
}

/// The flags of `sapwood request`.
#[derive(Args, Debug, Default)]
pub struct RequestArgs {
    /// Whom to ask
    topic: String,
    #[command(flatten)]
    payload: PayloadArgs,
    /// Print so many replies, or all of them [default: 1]
    #[arg(long, value_name = "N", value_parser = parse_wanted)]
    replies: Option<Wanted>,
    /// How long to wait for each reply, such as 2s or 500ms [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = quantity::flag(quantity::parse_time))]
    timeout: Option<Duration>,
    #[command(flatten)]
    render: RenderArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Asks, and prints the replies.
///
/// Errors: wrong settings or usage, exit code 2; a broker that is not there or went away, 1; nobody who listens, 3; no
/// reply in time, 4. What has been printed before stays printed.
pub fn run(args: &RequestArgs, environment: &Environment) -> Result<(), Failure> {
    let connector = Connector::new(&args.connect, environment)?;
    let payload = args.payload.read()?;
    let output = Output::new()?;
    let runtime = connect::runtime(Threads::Here)?;
    runtime.block_on(request(args, &connector, &payload, output))
}

async fn request(
    args: &RequestArgs,
    connector: &Connector,
    payload: &[u8],
    mut output: Output,
) -> Result<(), Failure> {
    let client = connector.connect(connector.builder()).await?;
    let wanted = args.replies.unwrap_or(Wanted::Count(1));
    let timeout = args.timeout.unwrap_or(TIMEOUT);
    let render = Render::new(&args.render, Topics::Hidden);
    let mut printed = 0;
    let failed = |error, replies| {
        let trouble = Trouble::Request(args.topic.clone(), error, replies);
        Err(Failure::Client(trouble))
    };
    let message = args.payload.outgoing(&args.topic, payload);
    let mut replies = match client.request_message_many(&message, Some(timeout)).await {
        Ok(replies) => replies,
        Err(error) => return failed(error, 0),
    };
    // Ends with the last reply, when there are enough, or when none comes for too long.
    while wanted != Wanted::Count(printed) {
        let reply = match replies.next().await {
            None => break,
            Some(Ok(reply)) => reply,
            Some(Err(error @ RequestError::Gap { .. })) => {
                connect::say(&format!("sapwood: {error}\n"));
                continue;
            }
            Some(Err(error)) => return failed(error, printed),
        };
        let is_bare_end = reply.is_end()
            && reply.payload().is_empty()
            && reply.headers().next().is_none()
            && printed > 0;
        if is_bare_end {
            break;
        }
        render.push(&mut output.buffer, &Parts::from(&reply), &text::now());
        printed += 1;
        // Each reply at once: more may take long. If nobody reads, there is nobody to ask for.
        if output.flush()?.is_break() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_a_number_or_all() {
        assert_eq!(parse_wanted("3"), Ok(Wanted::Count(3)));
        assert_eq!(parse_wanted("all"), Ok(Wanted::All));
        for text in ["0", "", "some", "-1"] {
            let message = parse_wanted(text).unwrap_err();
            assert!(message.ends_with("Or say all."), "{text}: {message}");
        }
    }
}
