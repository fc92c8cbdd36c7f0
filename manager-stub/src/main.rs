//! The deputy-manager binary.
fn main() {}
