//! Bundles: folders packed as tar and zstd by whoever submitted the task. They come from outside, so every name, kind,
//! size and number in them is checked before anything is written.
//!
//! A crate of its own, so that what reads a stranger's archive stands apart from what acts on the world, and can be
//! fed to a fuzzer alone. It knows files and no task.

mod unpack;
mod limits;

pub use limits::BundleLimits;
pub use unpack::{BundleError, unpack, unpack_as};
