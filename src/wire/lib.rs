//! sapwood-wire
