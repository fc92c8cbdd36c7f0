//! The closed set of step kinds, and what a step may ask of the executor that runs it.
//!
//! A step is a durable program: it changes the world only through [`context::StepContext::effect`]
//! and lets itself be steered only by [`context::StepContext::fact`]s. It contains no gRPC.

pub mod registry;

pub mod shell;
pub mod sources;
pub mod secrets;
pub mod ecs;
pub mod kubernetes;
pub mod noop;

mod aws;
mod proxies;

pub mod program;
pub mod context;
pub mod failpoint;
pub mod effect;
pub mod failure;
pub mod permit;
