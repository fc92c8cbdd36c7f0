//! Identities: ambient source, role chain, cache and refresh, per-task endpoint, EKS token, kubeconfig.
//!
//! The agent makes one [`identity::Identities`]; each task gets a [`identity::TaskIdentity`] from it.
//! Keys live in memory and behind the per-task [`endpoint`] only: nothing here writes one to a file,
//! an environment, a log or an error.

pub mod kubeconfig;
pub mod exec_plugin;
pub mod authenticator;
pub mod cluster;
pub mod eks_token;
pub mod join_proof;
pub mod endpoint;
pub mod s3_object;
pub mod data_key;
mod timestamp;
pub mod identity;
mod chain;
pub mod ambient;
mod container;
mod web_identity;
pub mod profile;
mod token_file;
mod sts_host;
mod denial;
mod hop;
pub mod refusal;
mod session;
mod refresh;
pub mod pace;
mod turn;
mod rate;
mod account;
mod throttling;
pub mod backoff;
mod machine;
pub mod instance_metadata;
mod http_client;
mod ca_bundle;
pub mod env;
pub mod error;

pub use identity::{Identities, OidcStart, TaskIdentity};
pub use web_identity::TokenMinter;
