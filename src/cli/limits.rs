//! The keys of the configuration file's `[limits]` table: the fields of the server's `Limits`.
//!
//! The list below is the only place that names them. A field of `Limits` that is missing here does not compile, so a new
//! cap cannot be left without a key.

use sapwood_server::Limits;

use super::problem::Wrong;
use super::value;

/// The most that any limit can be set to, where its type does not end before: a terabyte, more than any machine has.
const LIMIT_MAX: u64 = 1 << 40;

macro_rules! limit_keys {
    ($($field:ident: $type:ty),* $(,)?) => {
        /// Every key, in the order of the documentation.
        pub const KEYS: &[&str] = &[$(stringify!($field)),*];

        /// Sets the limit with this key from its text; `None` where there is no such key. Limits are unchanged where it
        /// fails.
        pub fn set(limits: &mut Limits, key: &str, text: &str) -> Option<Result<(), Wrong>> {
            let Limits { $($field),* } = limits;
            match key {
                $(stringify!($field) => Some(read(key, text, <$type>::MAX as u64).map(|number| {
                    *$field = number as $type;
                })),)*
                _ => None,
            }
        }
    };
}

limit_keys! {
    connections_max: usize,
    outbox_bytes_max: usize,
    outboxes_bytes_max: usize,
    inputs_bytes_max: usize,
    subscriptions_max: usize,
    filters_max: usize,
    globs_max: usize,
    handover_window_bytes: usize,
    handover_backlog_bytes: usize,
    handover_links_bytes: usize,
    transaction_bytes_max: usize,
    guest_ms_max: u64,
    control_line_bytes_max: usize,
    ping_ms: u64,
    links_max: usize,
    lane_bytes_max: usize,
    link_filters_max: usize,
    link_globs_max: usize,
    origins_max: usize,
}

/// Reads a limit, which fits its type because `type_max` is that type's.
fn read(key: &str, text: &str, type_max: u64) -> Result<u64, Wrong> {
    let max = type_max.min(LIMIT_MAX);
    match key.contains("bytes") {
        true => value::parse_size(text, 1, max),
        false => value::parse_count(text, 1, max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_sets_its_own_field() {
        for key in KEYS {
            let mut limits = Limits::default();
            set(&mut limits, key, "1").unwrap().unwrap();
            assert_ne!(limits, Limits::default(), "{key}");
        }
    }

    #[test]
    fn every_key_is_documented() {
        let page = include_str!("../docs/operating.md");
        for key in KEYS {
            assert!(page.contains(&format!("\n| `{key}` | ")), "{key}");
        }
    }

    #[test]
    fn zero_is_refused_and_an_unknown_key_is_none() {
        let mut limits = Limits::default();
        assert!(set(&mut limits, KEYS[0], "0").unwrap().is_err());
        assert!(set(&mut limits, "no_such_limit", "1").is_none());
        assert_eq!(limits, Limits::default());
    }
}
