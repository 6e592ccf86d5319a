//! sapwood-server
pub mod cpus;
pub mod park;
pub mod ring;
#[cfg(test)]
mod testing;
