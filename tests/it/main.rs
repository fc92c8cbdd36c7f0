//! Tests with real processes on real sockets. One binary, so that one emulated cloud serves all.

mod smoke;

mod containers;
mod link;
mod proxy;
mod testbed;
