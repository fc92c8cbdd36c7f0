//! Secrets: references followed by the agent, with the task's own identity, right before they are used.
//!
//! Which version was read is a fact, so that an attempt that goes on reads the same one. The value is made known to
//! the redactor before anything else is done with it, is held in memory that is wiped, and is given to whoever asked:
//! it is never in a fact, an effect's plan, a failure or a message to the manager.

mod resolve;
mod worth;
mod aws_secret;
mod aws_parameter;
mod aws_version;
mod kubernetes_secret;
mod of_agent;
mod json_key;
mod value;

pub use resolve::Secrets;
pub use value::SecretValue;
pub use worth::is_word;
