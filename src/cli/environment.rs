//! The environment as a source of settings.
//!
//! Owns how variables are called, and which names are taken for misspelt ones. Which setting wins is decided in
//! [`config`](super::config). Start at [`Environment::given`].

use std::env;
use std::ffi::OsString;

use super::config::{Given, Key, Warning};
use super::file;
use super::problem::{Problem, Source, Wrong};

/// The environment, as a function so that tests can have their own.
pub struct Environment {
    find: Box<LookUp>,
    /// The names of the variables that begin as those of settings do.
    names: Vec<String>,
}

type LookUp = dyn Fn(&str) -> Option<OsString>;

/// What the name of each variable that is a setting begins with.
const VARIABLE_PREFIX: &str = "SAPWOOD_";

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Environment {
        let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        Environment {
            find: Box::new(|name| env::var_os(name)),
            names: names
                .filter(|name| name.starts_with(VARIABLE_PREFIX))
                .collect(),
        }
    }

    #[cfg(test)]
    pub fn of(pairs: &'static [(&'static str, &'static str)]) -> Environment {
        let find = move |name: &str| pairs.iter().find(|(key, _)| *key == name);
        Environment {
            find: Box::new(move |name| find(name).map(|(_, value)| value.into())),
            names: pairs.iter().map(|(name, _)| name.to_string()).collect(),
        }
    }

    /// A variable's value, also an empty one.
    pub fn unfiltered(&self, name: &str) -> Option<OsString> {
        (self.find)(name)
    }

    /// A variable's value; an empty one counts as not set.
    fn variable(&self, name: &str) -> Option<OsString> {
        self.unfiltered(name).filter(|value| !value.is_empty())
    }

    /// The variables that are no setting, but whose names are as near to one as a misspelt key of the file may be. Those that
    /// are near none belong to others: to tools and tests, or to a scheduler that runs a service of the name sapwood.
    pub fn misspelt(&self) -> Vec<Warning> {
        let keys = Key::ALL.into_iter().map(Key::name);
        let keys = keys.chain(["config", "password"]);
        let misspelt = self.names.iter().filter_map(|name| {
            self.variable(name)?;
            let nearest = file::nearest(name.strip_prefix(VARIABLE_PREFIX)?, keys.clone())?;
            let nearest = variable_of(nearest);
            (*name != nearest).then(|| Warning::Misspelt(name.clone(), nearest))
        });
        misspelt.collect()
    }

    /// What a variable gives, if it is set.
    pub fn given(&self, name: &str) -> Option<Result<Given, Problem>> {
        let source = Source::Env(name.to_string());
        Some(match self.variable(name)?.into_string() {
            Ok(text) => Ok(Given {
                source,
                text,
                directory: None,
            }),
            Err(_) => Err(Problem {
                source,
                wrong: Wrong::NotUtf8,
            }),
        })
    }

    /// The log filter, `RUST_LOG`, where one is set.
    pub fn log_filter(&self) -> Option<Result<Given, Problem>> {
        self.given("RUST_LOG")
    }
}

/// The variable that gives what a key of the file does.
pub fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_near_a_setting_are_warned_of_and_others_are_not() {
        let warned = |pairs| {
            let warnings = Environment::of(pairs).misspelt();
            let warnings = warnings.iter().map(Warning::to_string);
            warnings.collect::<Vec<_>>()
        };
        let warnings = warned(&[
            ("SAPWOOD_REDSI", "7463"),
            ("SAPWOOD_PASWORD", "sesame"),
            ("SAPWOOD_redis", "7463"),
            ("SAPWOOD_MAX", "1"),
            ("SAPWOOD_SHARD", ""),
        ]);
        let starts = [
            ("SAPWOOD_REDSI in ", " SAPWOOD_REDIS?"),
            ("SAPWOOD_PASWORD in ", " SAPWOOD_PASSWORD?"),
            ("SAPWOOD_redis in ", " SAPWOOD_REDIS?"),
            ("SAPWOOD_MAX in ", " SAPWOOD_MAX_PAYLOAD?"),
        ];
        assert_eq!(warnings.len(), starts.len(), "{warnings:?}");
        for (warning, (start, end)) in warnings.iter().zip(starts) {
            assert!(
                warning.starts_with(start) && warning.ends_with(end),
                "{warning}"
            );
            assert!(!warning.contains("sesame"), "{warning}");
        }
        // Those of tools, tests and child commands, and what a scheduler sets for a service of the name sapwood.
        let others = warned(&[
            ("SAPWOOD_BENCH_NATS", "x"),
            ("SAPWOOD_BENCH_NATS_NOW", "x"),
            ("SAPWOOD_BENCH_REDIS", "x"),
            ("SAPWOOD_BROKER", "x"),
            ("SAPWOOD_CACHE", "x"),
            ("SAPWOOD_FLOOD_SECONDS", "x"),
            ("SAPWOOD_NODE_MODULES", "x"),
            ("SAPWOOD_PORT", "x"),
            ("SAPWOOD_PORT_7463_TCP", "x"),
            ("SAPWOOD_REPLY", "x"),
            ("SAPWOOD_SEED", "x"),
            ("SAPWOOD_SERVICE_HOST", "x"),
            ("SAPWOOD_STALL_MIB", "x"),
            ("SAPWOOD_TEST_ALL", "x"),
            ("SAPWOOD_TEST_NODES", "x"),
            ("SAPWOOD_TOPIC", "x"),
        ]);
        assert_eq!(others, [""; 0]);
    }
}
