//! `sapwood man` and `sapwood completion`: what packagers install, made from the definitions of the command line.
//!
//! Both come out of the binary itself, so they fit its version wherever it was built. A manual page is the command's help in
//! roff: its sections are found by their headings, and examples keep their lines.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::output::Output;
use super::trouble::Trouble;
use super::{Cli, Failure};

/// What follows the options in the help of `sapwood man`.
pub const MAN_HELP: &str = "\
Examples:
  sapwood man                                      the page of sapwood itself, as roff
  sapwood man sub | man -l -                       read the page of a command
  sapwood man --directory /usr/share/man/man1      write all pages, for packagers";

/// What follows the options in the help of `sapwood completion`.
pub const COMPLETION_HELP: &str = "\
Examples:
  source <(sapwood completion bash)                in this shell
  sapwood completion bash > /etc/bash_completion.d/sapwood
  sapwood completion zsh > ~/.zfunc/_sapwood
  sapwood completion fish > ~/.config/fish/completions/sapwood.fish";

/// The flags of `sapwood man`.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// The command whose page it is [default: sapwood itself]
    command: Option<String>,
    /// Write every page into this directory, as sapwood.1, sapwood-sub.1 and so on
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    directory: Option<PathBuf>,
}

/// The flags of `sapwood completion`.
#[derive(Args, Debug)]
pub struct CompletionArgs {
    /// The shell
    shell: Shell,
}

/// Prints a page, or writes all of them.
///
/// Errors: a command that does not exist, exit code 2; a directory that cannot be written to, 1.
pub fn man(args: &ManArgs) -> Result<(), Failure> {
    if let Some(directory) = &args.directory {
        return write_all(directory);
    }
    let pages = pages();
    let name = match &args.command {
        Some(command) => format!("sapwood-{command}"),
        None => "sapwood".to_string(),
    };
    let Some(page) = pages.iter().find(|page| page.get_name() == name) else {
        let names: Vec<_> = pages
            .iter()
            .filter_map(|page| page.get_name().strip_prefix("sapwood-"))
            .collect();
        let what = format!("there is no such command; there are: {}.", names.join(", "));
        return Err(Failure::Client(Trouble::Plan(what)));
    };
    print(&render(page))
}

/// Prints what a shell needs to complete commands and flags.
pub fn completion(args: &CompletionArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sapwood", &mut script);
    print(&script)
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut output = Output::new()?;
    output.buffer.extend_from_slice(bytes);
    // Who reads only a part of it has what was wanted.
    output.flush().map(|_| ())
}

fn write_all(directory: &Path) -> Result<(), Failure> {
    let failed = |path: &Path, error| Failure::Client(Trouble::File(path.to_path_buf(), error));
    fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    for page in pages() {
        let path = directory.join(format!("{}.1", page.get_name()));
        let written = fs::File::create(&path).and_then(|mut file| file.write_all(&render(&page)));
        written.map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

/// The root and each of its commands, under the name of its page.
fn pages() -> Vec<Command> {
    let mut root = Cli::command().disable_help_subcommand(true);
    // Fills in what every command inherits.
    root.build();
    let commands = root.get_subcommands().map(|command| {
        let name = format!("sapwood-{}", command.get_name());
        let called = format!("sapwood {}", command.get_name());
        command
            .clone()
            .name(name)
            .display_name(called.clone())
            .bin_name(called)
            .version(env!("CARGO_PKG_VERSION"))
    });
    let mut pages: Vec<Command> = commands.collect();
    pages.insert(0, root);
    pages
}

fn render(page: &Command) -> Vec<u8> {
    let mut out = Vec::new();
    // invariant: writing to memory does not fail.
    render_to(page, &mut out).expect("memory takes everything");
    out
}

fn render_to(page: &Command, out: &mut Vec<u8>) -> io::Result<()> {
    let man = Man::new(page.clone()).title(page.get_name().to_uppercase());
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    if page.get_arguments().next().is_some() {
        man.render_options_section(out)?;
    }
    if page.has_subcommands() {
        man.render_subcommands_section(out)?;
    }
    let help = page.get_after_help().map(ToString::to_string);
    for (heading, lines) in sections(&help.unwrap_or_default()) {
        let mut roff = Roff::new();
        roff.control("SH", [heading.as_str()]);
        for line in lines {
            match (line.is_empty(), line.starts_with(' ')) {
                (true, _) => roff.control("PP", []),
                (_, false) => roff.text([roman(line)]),
                // Lines that are set off are kept as they are.
                (_, true) => roff.control("nf", []).text([roman(line)]).control("fi", []),
            };
        }
        roff.to_writer(out)?;
    }
    if page.get_name() != "sapwood" {
        let mut roff = Roff::new();
        roff.control("SH", ["SEE ALSO"]);
        roff.text([roman("sapwood(1)")]);
        roff.to_writer(out)?;
    }
    Ok(())
}

/// What follows the options of a help text, taken apart: `Examples:` and `Exit codes:` begin sections of their own, and so
/// does the paragraph after the examples.
fn sections(help: &str) -> Vec<(String, Vec<String>)> {
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    for line in help.lines() {
        if line == "Examples:" {
            sections.push(("EXAMPLES".to_string(), Vec::new()));
            continue;
        }
        if line.starts_with("Exit codes") {
            sections.push(("EXIT STATUS".to_string(), Vec::new()));
        }
        let is_prose = !line.is_empty() && !line.starts_with(' ');
        let is_after_examples = sections
            .last()
            .is_none_or(|(heading, _)| heading == "EXAMPLES");
        if is_prose && is_after_examples {
            sections.push(("NOTES".to_string(), Vec::new()));
        }
        if let Some((_, lines)) = sections.last_mut() {
            lines.push(line.to_string());
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_found_by_their_headings() {
        let help = "Examples:\n  sapwood x\n\nSome words.\nMore.\n\nExit codes: 0 done,\n1 failed.";
        let sections = sections(help);
        let found: Vec<_> = sections
            .iter()
            .map(|(heading, lines)| (heading.as_str(), lines.len()))
            .collect();
        assert_eq!(found, [("EXAMPLES", 2), ("NOTES", 3), ("EXIT STATUS", 2)]);
    }

    #[test]
    fn each_command_has_a_page_with_its_flags_and_examples() {
        let pages = pages();
        assert!(pages.len() > 8);
        for page in &pages {
            let text = String::from_utf8(render(page)).unwrap();
            assert!(text.contains(".SH EXAMPLES"), "{}", page.get_name());
            for argument in page
                .get_arguments()
                .filter_map(|argument| argument.get_long())
            {
                let flag = format!("\\-\\-{}", argument.replace('-', "\\-"));
                assert!(text.contains(&flag), "{}: {flag}", page.get_name());
            }
        }
    }
}
