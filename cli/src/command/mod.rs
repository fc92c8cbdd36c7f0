//! One file per group of commands. Each takes its arguments and the context, says what there is to
//! say on the screen, and answers the exit code.

mod submit;
mod validate;
mod look;
mod logs;
mod watch;
mod steer;
mod fleet;
mod access;
mod new_key;
mod context;

pub(crate) use context::Context;
pub(crate) use fleet::fleet;
pub(crate) use logs::logs;
pub(crate) use look::{explain, get, list};
pub(crate) use steer::{cancel, resolve, retry};
pub(crate) use submit::submit;
pub(crate) use validate::validate;
pub(crate) use watch::watch;
