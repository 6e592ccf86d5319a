//! The matchers never panic, and a pattern without special bytes matches itself alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sapwood_wire::glob::Glob;
use sapwood_wire::topic::{check_name, check_wildcard, is_reserved, wildcard_matches};

fuzz_target!(|data: (&[u8], &[u8])| {
    let (pattern, topic) = data;
    let _ = check_name(topic);
    let glob = Glob::new(pattern);
    let by_glob = glob.matches(topic);
    assert!(!by_glob || topic.starts_with(glob.prefix()));
    if is_reserved(topic) == is_reserved(pattern) {
        assert_eq!(by_glob, glob.matches_text(topic));
    }
    if !pattern.iter().any(|byte| b"*?[\\".contains(byte)) {
        assert_eq!(by_glob, pattern == topic);
    }
    if check_wildcard(pattern).is_ok() {
        let by_wildcard = wildcard_matches(pattern, topic);
        if !pattern.iter().any(|byte| b"*>".contains(byte)) {
            assert_eq!(by_wildcard, pattern == topic);
        }
    }
});
