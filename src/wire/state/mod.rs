//! What shards and state workers say to each other, and what stands in the log: commands, replies, records.
//!
//! Owns the encoded forms and their versions. Must not know how commands are applied.
