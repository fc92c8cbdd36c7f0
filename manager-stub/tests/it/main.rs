//! The manager over gRPC, in this process, driven by a scripted agent.

mod agent;
mod data_folder;
mod hand_out;
mod journal;
mod logs;
mod loss;
mod program;
mod sessions;
mod uploads;
mod users;
