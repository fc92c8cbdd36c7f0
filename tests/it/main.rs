//! Tests with real processes on real sockets. One binary, so that one emulated cloud serves all.

mod containers;
mod link;
mod proxy;
mod testbed;
