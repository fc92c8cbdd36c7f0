//! cargo xtask
fn main(){}
