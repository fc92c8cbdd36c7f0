//! The agent's own policy: what tasks may do here, in Cedar. The executor asks it before a step,
//! for each role, and about the concrete arguments of every change; `deputy-agent policy` checks
//! and explains one. Cedar's types stay inside this crate.
//!
//! ```text
//! source   the file as it is now, or --allow-all
//!   policy   rules, validated; decide(asking, question) → permitted or denied, and by which rule
//!     request    a question in Cedar's words
//!     asserted   how a rule reads the manager's word
//!     named_roles   which roles it permits by name
//! questions   what a step or a change asks
//! ```

pub mod source;
pub mod signers;
mod guarded;
pub mod policy;
pub mod rule;
mod named_roles;
mod asserted;
mod request;
pub mod questions;
pub mod question;
pub mod image;
