//! The manager over gRPC, in this process, driven by a scripted agent.

mod agent;
mod hand_out;
mod journal;
mod logs;
mod loss;
mod sessions;
mod users;
