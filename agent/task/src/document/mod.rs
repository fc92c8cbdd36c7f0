//! The task document: what a user submits.
//!
//! [`model`] is the document as checked Rust types; everything else turns text into it and
//! explains what is wrong with the text.

pub mod model;
pub mod step;

pub use model::{AwsSpec, Document, Metadata, OnAgentLoss, OnFailure, RoleHop, Source, SourceKind, Spec};
pub use step::{Step, StepKind};
