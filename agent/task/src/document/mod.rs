//! The task document: what a user submits.
//!
//! [`model`] is the document as checked Rust types; everything else turns text into it and
//! explains what is wrong with the text.

pub mod read;
pub mod recheck;
mod check;
mod inputs;
mod aws;
pub mod shape;
mod parse;
mod static_key;
mod tree;
pub mod source;
pub mod diagnostic;
pub mod checked;
mod evaluated;
pub mod doubt;
pub mod duration;
pub mod model;
pub mod backoff;
pub mod step;
pub mod origin;
pub mod kubernetes_name;
pub mod variable;
pub mod output_name;
pub mod secret;

pub use aws::{BadRegion, EcsDocument, bucket_problem, ecs_spelling, is_region, region_of_arn};
pub use backoff::{BackoffSpec, Delays};
pub use checked::{Checked, MAX_CANONICAL_BYTES, NotCanonical, decode_canonical, to_canonical};
pub use diagnostic::{Diagnostic, Diagnostics, Paint, Severity};
pub use doubt::{Doubts, Unsealed, Unsure};
pub use model::{AwsSpec, Document, Inputs, Metadata, OidcRole, OnAgentLoss, OnFailure, RoleHop, Source, Spec};
pub use origin::SourceKind;
pub use parse::CANONICAL_BOUND;
pub use read::{ReadDocument, read, read_values, validate};
pub use recheck::{BadCanonical, TooLarge, fits, from_canonical};
pub use shape::{schema, schema_text};
pub use step::{Step, StepKind};

#[cfg(test)]
mod tests;
