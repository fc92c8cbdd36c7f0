//! `cargo xtask fuzz`: the targets of `tests/fuzz`, built once with coverage and run within bounds.

pub(crate) mod run;

mod build;
mod libfuzzer;
mod target;
