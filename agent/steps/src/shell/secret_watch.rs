//! Reads along in the output file while a script runs: what the script prints after it has written a secret output
//! must not show it, nor may its failure. Called by the shell program before output goes on to the log.
//!
//! What a script prints *before* it names it as secret cannot be known to be one.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use deputy_logs::{LogWriter, SecretRefused};

use super::outputs::{self, OutputFile};

/// Two changes within a tick of the kernel's clock have one time: a file is read again while its last change is not
/// older than that. The tick is 10 ms at most (CONFIG_HZ=100).
const TICK: Duration = Duration::from_millis(20);

/// Values of which it is remembered that they are known; one that is forgotten is only made known again.
const MOST_KNOWN: usize = 4096;

/// The secret outputs of one running script.
pub(super) struct SecretWatch<'a> {
    file: OutputFile<'a>,
    names: &'a [String],
    log: &'a LogWriter,
    /// Size and time of the last change, when the file was last read.
    seen: Option<(u64, SystemTime)>,
    /// Hashes of values that the redactor knows, or refuses: a script may write new ones for as long as it runs.
    known: HashSet<u64>,
    hashing: RandomState,
    /// The redactor takes no more.
    is_full: bool,
}

impl<'a> SecretWatch<'a> {
    /// Watches `file` for the outputs `names`.
    pub(super) fn new(file: OutputFile<'a>, names: &'a [String], log: &'a LogWriter) -> Self {
        Self {
            file,
            names,
            log,
            seen: None,
            known: HashSet::new(),
            hashing: RandomState::new(),
            is_full: false,
        }
    }

    /// Makes known to the redactor what the script has written since the last look. Answers whether what the script
    /// prints may be shown: not any more once there was a value for which the redactor has no room.
    pub(super) fn look(&mut self) -> bool {
        if !self.names.is_empty() && !self.is_full {
            self.look_again();
        }
        !self.is_full
    }

    fn look_again(&mut self) {
        let Some(version) = self.file.version() else { return };
        let is_old = |changed: SystemTime| changed.elapsed().is_ok_and(|age| age > TICK);
        if self.seen == Some(version) && is_old(version.1) {
            return;
        }
        self.seen = Some(version);
        for (name, value) in outputs::so_far(self.file) {
            if !self.names.contains(&name) || !self.remember(&value) {
                continue;
            }
            // One that cannot be hidden for its length fails the step when it ends, and says why.
            if let Err(refused @ SecretRefused::TooMany { .. }) = self.log.add_secret(value.as_bytes()) {
                self.log.narrate(&format!(
                    "secret output {name}: {refused}; what the script prints from here on is not shown"
                ));
                self.is_full = true;
                return;
            }
        }
    }

    /// Is it new?
    fn remember(&mut self, value: &str) -> bool {
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        self.known.insert(self.hashing.hash_one(value))
    }
}
