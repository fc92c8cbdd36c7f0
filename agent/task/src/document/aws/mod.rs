//! What AWS documents look like: the shapes of Amazon ECS, so that a misspelt key is found before
//! the API is called, and the form of names that AWS gives. Called by the document's checks.
//!
//! `ecs.json` was generated from botocore 1.43.106, service model `ecs/2014-11-13`: every structure
//! reachable from `RegisterTaskDefinitionRequest`, and from `CreateServiceRequest` and
//! `UpdateServiceRequest` merged into `ServiceRequest`. `[X` is a list of X, `{X` a mapping to X.
//! A key that is not in it is passed through with a warning: the list may be older than the API.

mod arn;
mod spelling;
mod shape;

pub use arn::{BadRegion, bucket_problem, is_region, region_of_arn};
pub(crate) use arn::{check_region, check_role_arn};
pub(crate) use shape::{Lenience, compare};
pub use spelling::{EcsDocument, ecs_spelling};
