//! The settings of what a node keeps: the data directory, partitions, state workers.
//!
//! Owns the default directory. Must not know what stands in it. Start at [`DataSettings::read`].

use std::path::{Path, PathBuf};

use sapwood_server::{PARTITIONS_MAX, StateSettings, WORKERS_MAX};

use super::config::{Environment, Key, Sourced, Sources};
use super::value;

/// Number of partitions of a data directory unless told otherwise: some for each core of a large machine, and few enough
/// that each gathers many messages in a turn.
const PARTITIONS_DEFAULT: u16 = 64;

/// Where a node keeps what it keeps, and how.
#[derive(Debug)]
pub struct DataSettings {
    /// The directory, or that there is to be none, if that was given.
    given: Option<Sourced<Option<PathBuf>>>,
    /// The directory if none was given; none where the user has no home.
    default: Option<PathBuf>,
    partitions: u16,
    workers: Option<u16>,
}

impl DataSettings {
    pub fn read(sources: &mut Sources<'_>, environment: &Environment) -> DataSettings {
        let count = |most: usize| move |text: &str| value::parse_count(text, 1, most as u64);
        let partitions = sources.choose(Key::Partitions, count(PARTITIONS_MAX));
        let workers = sources.choose(Key::StateWorkers, count(WORKERS_MAX));
        DataSettings {
            given: sources.choose_path_or_off(Key::Data),
            default: default_directory(environment, rustix::process::geteuid().is_root()),
            partitions: partitions.map_or(PARTITIONS_DEFAULT, |given| given.value as u16),
            workers: workers.map(|given| given.value as u16),
        }
    }

    /// Where streams are kept, and how; none if nothing is.
    pub fn state(&self) -> Option<StateSettings> {
        let directory = match &self.given {
            Some(given) => given.value.clone()?,
            None => self.default.clone()?,
        };
        Some(StateSettings {
            directory,
            is_chosen: self.given.is_some(),
            partitions: self.partitions,
            workers: self.workers,
            faults: None,
        })
    }

    /// The directory that was given: there the node also keeps who it is.
    pub fn chosen(self) -> Option<Sourced<PathBuf>> {
        let Sourced { source, value } = self.given?;
        value.map(|value| Sourced { source, value })
    }
}

/// Where data is kept unless told otherwise: `/var/lib/sapwood` as root, else where the user's data is.
fn default_directory(environment: &Environment, is_root: bool) -> Option<PathBuf> {
    if is_root {
        return Some(PathBuf::from("/var/lib/sapwood"));
    }
    let path_of = |name: &str| {
        let text = environment.unfiltered(name)?;
        let path = PathBuf::from(text);
        // A relative path is to be ignored, as the XDG directory specification says.
        path.is_absolute().then_some(path)
    };
    let data = path_of("XDG_DATA_HOME");
    let home = || path_of("HOME").map(|home| home.join(Path::new(".local/share")));
    data.or_else(home).map(|data| data.join("sapwood"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_kept_where_the_users_is() {
        let xdg = Environment::of(&[("XDG_DATA_HOME", "/data"), ("HOME", "/people/ada")]);
        let home = Environment::of(&[("XDG_DATA_HOME", "data"), ("HOME", "/people/ada")]);
        let none = Environment::of(&[]);
        let found = |environment, is_root| default_directory(environment, is_root);
        assert_eq!(found(&xdg, false), Some("/data/sapwood".into()));
        assert_eq!(
            found(&home, false),
            Some("/people/ada/.local/share/sapwood".into())
        );
        assert_eq!(found(&none, false), None);
        assert_eq!(found(&xdg, true), Some("/var/lib/sapwood".into()));
    }
}
