//! One connection's life: pull, heartbeat, journal append, log upload, results. Knows gRPC, not work.
//!
//! Futures only, spawned and joined by the agent's supervisor. [`session::Session`] carries
//! control and journal frames and runs on a thread of its own, so that neither work nor log
//! traffic can delay a heartbeat. [`bulk`] carries log bytes and blobs over TCP connections
//! of its own, because one unread bulk stream can use up a connection's whole flow-control window.
//! Where HTTP/2 does not pass ([`way`] decides), the same frames go by long polls, and the rest as gRPC-Web.
//!
//! The modules are in reading order; a module names only modules below it.

#[cfg(fuzzing)]
pub mod fuzzing;
pub mod session;
mod conversation;
mod core;
pub mod bulk;
mod log_upload;
mod blob_fetch;
mod token_request;
mod dial;
mod exchange;
mod probe;
mod frame_codec;

pub mod config;
pub mod membership;
mod enrollment;
pub mod held;
pub mod join_proof;
pub mod identity;
mod channel;
pub mod way;
mod inventory;
mod write_queue;
mod progress_digest;
mod from_wire;
mod to_wire;
pub mod backoff;
mod clock;
mod status;

#[cfg(test)]
mod scripted_manager;
