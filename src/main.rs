//! The `sapwood` binary: reads the command line and runs one command.
//!
//! Start reading at [`cli`].

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
