//! The `sapwood` binary: reads the command line and runs one command.
//!
//! Start reading at [`cli`].

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;
use tikv_jemallocator::Jemalloc;

/// glibc's keeps what a burst took for ever: 283 of 300 MiB when 500,000 subscriptions have ended, where this one keeps 7
/// more than at start. Its background threads give pages back within ten seconds, and sleep when there is nothing to give.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    cli::run()
}
