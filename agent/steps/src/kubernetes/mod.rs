//! `kubernetesApply` and `kubernetesRollingDeploy`: server-side apply as durable effects.
//!
//! Every object is written by exactly one PATCH that carries the annotation `deputy.dev/effect`, so
//! that an apply whose answer was lost is found instead of repeated. What is followed afterwards is
//! only read. No request that changes the cluster leaves without a permit (`guard`).

pub mod kubernetes_apply;
pub mod kubernetes_rolling_deploy;
pub mod introduction;

mod undo;
mod restore;
mod found;
mod occupants;
mod deploy;
mod wait;
mod looking;
mod hearing;
mod rollout;
mod apply;
mod image;
mod before;
mod fields;
mod sending;
mod reading;
mod discovery;
mod connection;
mod explain;
mod api;
mod bearer;
mod guard;
mod echo;
mod refusal;
mod quoted;
mod vocabulary;
mod manifest;
mod yaml;
mod object;
mod path;

pub(crate) use api::ApiError;
pub(crate) use connection::Connection;
pub(crate) use echo::said;
pub(crate) use explain::{Doing, explain};
pub(crate) use object::ObjectRef;
