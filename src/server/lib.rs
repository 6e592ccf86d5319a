//! sapwood-server
