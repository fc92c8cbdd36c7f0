//! The deputy binary.
fn main() {}
