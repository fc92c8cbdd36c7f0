//! `cargo xtask tidy`: what the compiler does not check. Every problem is printed with its place, the rule,
//! and how to mend it. Run by `cargo xtask test`, too.

pub(crate) mod run;

pub(crate) mod commands;
pub(crate) mod dependencies;
pub(crate) mod generated;
pub(crate) mod module_order;
pub(crate) mod documents;
pub(crate) mod words;
pub(crate) mod clients;
pub(crate) mod sizes;
pub(crate) mod sources;

pub(crate) mod problem;
