//! Kept, keyed and timed topics: partitions that apply commands in the order of a log.
//!
//! A machine without I/O beside `sapwood-core`: whoever drives it moves the bytes of the log and keeps the store. It
//! must not know sockets, shards, sessions, files, clocks or threads: time comes with each command. Core and this crate
//! do not know each other; both speak the types of `sapwood_wire::state`.
//!
//! Start reading at [`log`] for what is kept, at [`worker`] for who asks for it.
#![forbid(unsafe_code)]

mod filters;
pub mod limits;
pub mod log;
pub mod overlay;
pub mod partition;
pub mod store;
pub mod streams;
pub mod worker;
