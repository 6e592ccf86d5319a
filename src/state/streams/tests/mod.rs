//! What streams do: single behaviours, and random histories against a model.

mod histories;
mod model;
mod single;
