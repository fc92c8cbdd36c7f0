//! Reads along in the output file while a script runs: what the script prints after it has written a secret output
//! must not show it, nor may its failure. Called by the shell program before output goes on to the log.
//!
//! What a script prints *before* it names it as secret cannot be known to be one.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use deputy_logs::LogWriter;

use super::outputs::{self, OutputFile};

/// Two changes within a tick of the kernel's clock have one time: a file is read again while its last change is not
/// older than that. The tick is 10 ms at most (CONFIG_HZ=100).
const TICK: Duration = Duration::from_millis(20);

/// The secret outputs of one running script.
pub(super) struct SecretWatch<'a> {
    file: OutputFile<'a>,
    names: &'a [String],
    log: &'a LogWriter,
    /// Size and time of the last change, when the file was last read.
    seen: Option<(u64, SystemTime)>,
    told: BTreeSet<String>,
}

impl<'a> SecretWatch<'a> {
    /// Watches `file` for the outputs `names`.
    pub(super) fn new(file: OutputFile<'a>, names: &'a [String], log: &'a LogWriter) -> Self {
        Self {
            file,
            names,
            log,
            seen: None,
            told: BTreeSet::new(),
        }
    }

    /// Makes known to the redactor what the script has written since the last look.
    pub(super) fn look(&mut self) {
        if self.names.is_empty() {
            return;
        }
        let Some(version) = self.file.version() else { return };
        let is_old = |changed: SystemTime| changed.elapsed().is_ok_and(|age| age > TICK);
        if self.seen == Some(version) && is_old(version.1) {
            return;
        }
        self.seen = Some(version);
        for (name, value) in outputs::so_far(self.file) {
            if self.names.contains(&name) && self.told.insert(value.clone()) {
                // One that cannot be hidden fails the step when it ends, and says why.
                drop(self.log.add_secret(value.as_bytes()));
            }
        }
    }
}
