//! The journal's side of a local run: answers the executor as a manager would, after what it answers
//! is on disk where there is a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deputy_executor::local::MemoryJournal;
use deputy_task::message::{Command, Event};
use deputy_task::outcome::Completion;
use tokio::sync::mpsc;

use super::journal_file::{Entry, JournalError, JournalFile};
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
                let known = self.journal.records().len();
                let verdict = self.journal.apply(&attempt, op);
                self.keep(known)?;
                Ok(Some(Command::Written { id, verdict }))
            }
            Event::FetchBlob { id, blob, path, .. } => {
                let result = self.copy(&blob.sha256, &path);
                Ok(Some(Command::BlobFetched { id, result }))
            }
            Event::Progress { steps, .. } => {
                self.printer.progress(&steps);
                Ok(None)
            }
            Event::GivenUp { .. } | Event::FreeSlots(_) => Ok(None),
        }
    }

    /// What the last operation added goes into the file.
    fn keep(&mut self, known: usize) -> Result<(), JournalError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        for record in self.journal.records().get(known..).unwrap_or_default() {
            file.add(&Entry::Record(record.clone()))?;
        }
        match self.journal.completion() {
            Some(completion) => file.add(&Entry::Ended(Box::new(completion.clone()))),
            None => Ok(()),
        }
    }

    fn copy(&self, sha256: &str, to: &Path) -> Result<(), String> {
        let packed = self.bundles.get(sha256).ok_or("there is no such bundle")?;
        fs::copy(packed, to)
            .map(|_| ())
            .map_err(|error| format!("the bundle cannot be copied: {error}"))
    }
}
