//! sapwood-server
pub mod park;
pub mod ring;
#[cfg(test)]
mod testing;
