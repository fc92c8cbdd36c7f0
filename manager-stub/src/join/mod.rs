//! Who may join: rules that an administrator writes, and one check per kind of proof. The checks know nothing of
//! certificates; who asks them gives one to whom they let in.

pub mod aws_identity;
pub mod kubernetes;
mod proven;
mod rule;
pub mod service_account_rule;
pub mod signed_identity;
mod aws_principal;
pub mod sts_host;
pub mod key_sets;
mod turns;
pub mod unproven;

pub use proven::{Binding, Proven};
pub use rule::{JoinRule, RuleProof};
