//! sapwood-server
pub mod park;
pub mod ring;
