//! Sources that the agent fetches itself: git repositories and packed folders in S3. Called by the executor when a
//! step first asks for a source. What was fetched is a fact, so that an attempt that goes on has the same files.

pub mod git;
pub mod s3;

mod git_program;
mod access;
mod git_subfolder;
mod git_tree;
mod git_words;
pub mod limits;
