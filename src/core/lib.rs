//! sapwood-core
