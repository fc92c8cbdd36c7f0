//! The manager over gRPC, in this process, driven by a scripted agent.

mod admission;
mod agent;
mod authorization;
mod bad_certificates;
mod bounds;
mod clusters;
mod data_folder;
mod exchange;
mod hand_out;
mod joining;
mod journal;
mod logs;
mod loss;
mod oidc;
mod program;
mod secured;
mod sessions;
mod takeover;
mod uploads;
mod users;
