//! What this process does about itself. Called once, by the binary, before it holds anything secret.

use std::io;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// No core dump, and other processes of the same user cannot read this one's memory, environment or open files, nor
/// trace it. Starting another program undoes it for that program.
///
/// # Errors
/// If the kernel refuses.
pub fn protect() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
