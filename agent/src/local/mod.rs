//! `deputy-agent task FILE`: the same executor without a manager. The journal is in memory, or in a
//! file so that a run that was killed goes on when it is started again.

mod run;
mod invocation;
mod decision;
mod peer;
mod journal_file;
mod pack;
mod printer;

pub(crate) use invocation::LocalRun;
pub(crate) use run::{document, run};
