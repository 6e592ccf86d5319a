//! sapwood-server
pub mod ring;
