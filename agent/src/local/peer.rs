//! The journal's side of a local run: answers the executor as a manager would, after what it answers
//! is on disk where there is a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deputy_executor::local::MemoryJournal;
use deputy_task::message::{Command, Event, WriteOp, WriteVerdict};
use deputy_task::outcome::Completion;
use deputy_task::record::Record;
use tokio::sync::mpsc;

use super::journal_file::{EndedRun, Entry, JournalError, JournalFile};
use super::printer::Printer;

/// Events taken, and synced, at once.
const BATCH: usize = 64;

/// See the module.
pub(crate) struct Peer {
    pub(crate) journal: MemoryJournal,
    pub(crate) file: Option<JournalFile>,
    /// Packed folders by SHA-256.
    pub(crate) bundles: BTreeMap<String, PathBuf>,
    pub(crate) printer: Arc<Printer>,
}

/// How a local run ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// With this result.
    Completed(Box<Completion>),
    /// Given back: it can be started again.
    Released(String),
}

impl Peer {
    /// Answers until the run has ended.
    pub(crate) async fn answer(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        commands: &mpsc::Sender<Command>,
    ) -> Result<Ended, JournalError> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            if events.recv_many(&mut batch, BATCH).await == 0 {
                return Ok(Ended::Released("the executor ended".into()));
            }
            let mut answers = Vec::new();
            for event in batch.drain(..) {
                answers.extend(self.take(event)?);
            }
            // Only now may anybody act on an answer.
            if let Some(file) = &mut self.file {
                file.sync()?;
            }
            for answer in answers {
                // An executor that has ended needs no answers.
                let _ = commands.send(answer).await;
            }
            if let Some(completion) = self.journal.completion() {
                return Ok(Ended::Completed(Box::new(completion.clone())));
            }
            if let Some(reason) = self.journal.released() {
                return Ok(Ended::Released(reason.to_owned()));
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<Option<Command>, JournalError> {
        match event {
            Event::Write { id, attempt, op } => {
                let written = match &op {
                    WriteOp::Append(record) => Some(Record {
                        epoch: attempt.epoch,
                        ..record.clone()
                    }),
                    WriteOp::Start | WriteOp::Complete(_) | WriteOp::Release { .. } | WriteOp::Refuse { .. } => None,
                };
                let is_last = matches!(op, WriteOp::Complete(_));
                let verdict = self.journal.apply(&attempt, op);
                if matches!(verdict, WriteVerdict::Ok { .. }) {
                    self.keep(written)?;
                    if is_last {
                        self.close()?;
                    }
                }
                Ok(Some(Command::Written { id, verdict }))
            }
            Event::FetchBlob { id, blob, path, .. } => {
                let result = self.copy(&blob.sha256, &path);
                Ok(Some(Command::BlobFetched { id, result }))
            }
            Event::MintToken { id, .. } => {
                let why = "a local run has no manager that could vouch for it: leave out spec.aws.oidc, and begin with the agent's own identity";
                let result = Err(why.to_owned());
                Ok(Some(Command::TokenMinted { id, result }))
            }
            Event::Progress { steps, .. } => {
                self.printer.progress(&steps);
                Ok(None)
            }
            Event::GivenUp { .. } | Event::FreeSlots(_) => Ok(None),
        }
    }

    /// What was acknowledged goes into the file, also where it is written again: an intent that is renewed uses
    /// up the decision that allowed it.
    fn keep(&mut self, written: Option<Record>) -> Result<(), JournalError> {
        match (&mut self.file, written) {
            (Some(file), Some(record)) => file.add(&Entry::Record(record)),
            (None, _) | (_, None) => Ok(()),
        }
    }

    /// The result, once there is one, goes into the file.
    fn close(&mut self) -> Result<(), JournalError> {
        match (&mut self.file, self.journal.completion()) {
            (Some(file), Some(completion)) => file.add(&Entry::Ended(Box::new(EndedRun::now(completion.clone())))),
            (None, _) | (_, None) => Ok(()),
        }
    }

    fn copy(&self, sha256: &str, to: &Path) -> Result<(), String> {
        let packed = self.bundles.get(sha256).ok_or("there is no such bundle")?;
        fs::copy(packed, to)
            .map(|_| ())
            .map_err(|error| format!("the bundle cannot be copied: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use deputy_task::attempt::AttemptRef;
    use deputy_task::id::Project;
    use deputy_task::record::{Direction, EffectClass, EffectKey, Intent, RecordBody, Sealing};

    use super::*;

    #[test]
    fn an_intent_that_is_renewed_is_in_the_file_after_the_decision_that_allowed_it() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("journal");
        let intent = Record {
            key: EffectKey::new("two", "run"),
            program_version: 1,
            step_kind: "shell".into(),
            body: RecordBody::Intent(Intent {
                class: EffectClass::Held { retry_safe: false },
                plan_digest: "d".into(),
                direction: Direction::Forward,
                summary: String::new(),
            }),
            epoch: 0,
            sealing: Sealing::default(),
        };
        let mut journal = MemoryJournal::resume(vec![intent.clone()]);
        let attempt = AttemptRef {
            project: Project::default_project(),
            task: "t1".parse().expect("id"),
            run: 1,
            epoch: journal.next_epoch(),
        };
        let mut peer = Peer {
            journal,
            file: Some(JournalFile::open(&path).expect("open").0),
            bundles: BTreeMap::new(),
            printer: Arc::default(),
        };
        let event = Event::Write {
            id: 1,
            attempt,
            op: WriteOp::Append(intent.clone()),
        };
        peer.take(event).expect("taken");
        peer.file.take().expect("file").sync().expect("sync");
        let (_, entries) = JournalFile::open(&path).expect("open");
        assert_eq!(entries, [Entry::Record(Record { epoch: 1, ..intent })]);
    }
}
