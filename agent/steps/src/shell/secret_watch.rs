//! Reads along in the output file while a script runs: what the script prints after it has written a secret output
//! must not show it, nor may its failure. Called by the shell program before output goes on to the log, and beside it.
//!
//! What a script prints *before* it names it as secret cannot be known to be one.

use std::collections::HashSet;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use deputy_logs::redactor::MAX_SECRET_BYTES;
use deputy_logs::{LogWriter, SecretRefused};

use super::outputs::{self, MAX_FILE_BYTES, OutputFile, OutputProblem};

/// Two changes within a tick of the kernel's clock have one time: a file is read again while its last change is not
/// older than that. The tick is 10 ms at most (CONFIG_HZ=100).
const TICK: Duration = Duration::from_millis(20);

/// A value that stays for so long is seen, whatever the script prints meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Values of which it is remembered that they are known; one that is forgotten is only made known again.
const MOST_KNOWN: usize = 4096;

/// What a script has written as secret cannot be hidden. Values are never in the message.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unhidden {
    #[error("secret output {name}: {refused}")]
    Refused { name: String, refused: SecretRefused },
    #[error("{problem}, and nothing that is secret in it ({names}) can be hidden")]
    Unread { names: String, problem: OutputProblem },
}

impl Unhidden {
    /// What to do.
    pub(super) fn hint(&self) -> String {
        match self {
            Self::Refused {
                refused: SecretRefused::TooMany { .. },
                ..
            } => "give the task fewer or shorter secrets and secret outputs".to_owned(),
            Self::Refused { .. } => format!(
                "give out a secret of at most {MAX_SECRET_BYTES} bytes, or where it is kept, so that the step that needs it fetches it there"
            ),
            Self::Unread { .. } => format!(
                "what $DEPUTY_OUTPUT names has to stay a file of at most {MAX_FILE_BYTES} bytes for as long as the script runs"
            ),
        }
    }
}

/// The secret outputs of one running script.
pub(super) struct SecretWatch<'a> {
    file: OutputFile<'a>,
    names: &'a [String],
    log: &'a LogWriter,
    seen: Mutex<Seen>,
}

/// What was seen of them.
struct Seen {
    /// Size and time of the last change, when the file was last read.
    version: Option<(u64, SystemTime)>,
    /// Hashes of values that the redactor knows, or refuses: a script may write new ones for as long as it runs.
    known: HashSet<u64>,
    hashing: RandomState,
    /// From then on nothing is shown.
    unhidden: Option<Unhidden>,
}

impl<'a> SecretWatch<'a> {
    /// Watches `file` for the outputs `names`.
    pub(super) fn new(file: OutputFile<'a>, names: &'a [String], log: &'a LogWriter) -> Self {
        Self {
            file,
            names,
            log,
            seen: Mutex::new(Seen {
                version: None,
                known: HashSet::new(),
                hashing: RandomState::new(),
                unhidden: None,
            }),
        }
    }

    /// Makes known to the redactor what the script has written since the last look. Answers whether what the script
    /// prints may be shown: not any more once there was a value that cannot be hidden, or may have been one.
    pub(super) fn look(&self) -> bool {
        let mut seen = self.seen();
        if !self.names.is_empty() && seen.unhidden.is_none() {
            seen.unhidden = self.look_again(&mut seen).err();
            if let Some(unhidden) = &seen.unhidden {
                self.log
                    .narrate(&format!("{unhidden}; what the script prints from here on is not shown"));
            }
        }
        seen.unhidden.is_none()
    }

    /// Looks again and again, for what is gone by the time that the script prints it.
    pub(super) async fn keep_looking(&self) -> Infallible {
        if !self.names.is_empty() {
            while self.look() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        std::future::pending().await
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What could not be hidden while the script ran, whatever the file says now.
    pub(super) fn into_unhidden(self) -> Option<Unhidden> {
        self.seen.into_inner().unwrap_or_else(PoisonError::into_inner).unhidden
    }

    fn look_again(&self, seen: &mut Seen) -> Result<(), Unhidden> {
        let version = self.file.version();
        let is_old = |changed: SystemTime| changed.elapsed().is_ok_and(|age| age > TICK);
        if version.is_some() && seen.version == version {
            return Ok(());
        }
        // What was changed just now may be changed once more at the same time.
        seen.version = version.filter(|(_, changed)| is_old(*changed));
        let written = outputs::so_far(self.file).map_err(|problem| Unhidden::Unread {
            names: self.names.join(", "),
            problem,
        })?;
        for (name, value) in written {
            if !self.names.contains(&name) || !seen.remember(&value) {
                continue;
            }
            match self.log.add_secret(&value) {
                // One that is written by and by begins so, and a line of a longer one may be so.
                Ok(()) | Err(SecretRefused::TooShort { .. }) => {}
                Err(refused) => return Err(Unhidden::Refused { name, refused }),
            }
        }
        Ok(())
    }
}

impl Seen {
    /// Is it new?
    fn remember(&mut self, value: &[u8]) -> bool {
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        self.known.insert(self.hashing.hash_one(value))
    }
}
