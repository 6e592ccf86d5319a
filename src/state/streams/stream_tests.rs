//! Single behaviours of streams, each with the shortest history that shows it.
