//! A folder held open, and what is below it: for folders that a task's programs can change while the agent works there.
//!
//! The agent is not confined, so a link that a step plants could lead it to what is hidden from the step. Whatever the
//! agent makes, reads or removes in such a folder goes through here: name by name from the open folder, so that nothing
//! that is put in the place of a name leads anywhere else. It knows files and no task.

mod removal;
mod reading;
mod folder;

pub use folder::Folder;
pub use reading::{ReadError, Within};
pub use removal::remove_all;
