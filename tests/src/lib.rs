//! A world of real processes, and the tests that live in it.
//!
//! A [`world::World`] is a manager, agents and the CLI as processes, in front of an emulated AWS whose EKS is a
//! real Kubernetes. Nothing of Deputy runs inside the test's own process, and nothing is a fake of ours but
//! what `docs/test-cloud.md` lists. Must never reach anything beyond 127.0.0.1.

pub mod demo_world;
pub mod world;

pub mod agent_process;
pub mod manager_process;
pub mod tasks;
pub mod access;

pub mod git_server;
pub mod ssh_server;
pub mod instance_metadata;
pub mod container_credentials;
pub mod service_account;
mod http_server;
pub mod kubernetes;
pub mod refused;

pub mod microburst;
pub mod cloud;
pub mod ecs;
pub mod image;
pub mod podman;

pub mod link;
pub mod connect_proxy;
pub mod middlebox;
pub mod proxy;

pub mod leaks;

pub mod hostile;

pub mod command_output;
pub mod child;
pub mod wall_clock;
pub mod programs;
pub mod ports;
pub mod skip;

pub mod background;
