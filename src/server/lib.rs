//! sapwood-server
pub mod cpus;
pub mod park;
pub mod preflight;
pub mod ring;
#[cfg(test)]
mod testing;
