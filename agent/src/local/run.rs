//! One task, here and now: read, pack, run, show, and an exit code.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deputy_credentials::Identities;
use deputy_credentials::env::Env;
use deputy_executor::local::MemoryJournal;
use deputy_executor::{AgentFacts, Environment, Executor, ExecutorConfig, WorkFolder};
use deputy_logs::Logs;
use deputy_policy::signers::TrustedSigners;
use deputy_policy::source::PolicySource;
use deputy_process::Confinement;
use deputy_seal::KeyRing;
use deputy_task::attempt::AttemptRef;
use deputy_task::boot_time::BootTime;
use deputy_task::document::source::MAX_DOCUMENT_BYTES;
use deputy_task::document::{Checked, Inputs, read, to_canonical};
use deputy_task::id::{Project, TaskId};
use deputy_task::message::{Assignment, Command};
use deputy_task::record::Record;
use deputy_task::repair::{LocalCommand, Steering};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::decision;
use super::invocation::{self, LocalRun};
use super::journal_file::{EndedRun, Entry, JournalError, JournalFile, unix_ms};
use super::pack::{Packed, pack};
use super::peer::{Ended, Peer};
use super::printer::Printer;
use crate::children::children;
use crate::config::checked::{LogConfig, LogFormat};
use crate::config::key;
use crate::exit::{Exit, StartupError};
use crate::pool_ring;
use crate::telemetry;
use crate::work_root::work_root;

/// How long the executor may take to clean up after the last message.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// What the journal says of the run.
struct Begun {
    task: TaskId,
    age: Duration,
    records: Vec<Record>,
    ended: Option<Box<EndedRun>>,
    file: Option<JournalFile>,
}

/// Runs the task to its end.
pub(crate) fn run(asked: LocalRun) -> Result<Exit, StartupError> {
    telemetry::install(&LogConfig {
        filter: asked.log_filter.clone(),
        format: LogFormat::Text,
    });
    let root = work_root(asked.work_folder.as_deref())?.join("local");
    let ring = asked.pool_key_file.as_deref();
    let hidden = [Some(root.clone()), asked.journal.clone(), secrets_folder()]
        .into_iter()
        .flatten()
        .chain(ring.into_iter().flat_map(pool_ring::places))
        .collect();
    let pool_keys = pool_ring::open(ring, &Identities::new(Env::from_process()))?;
    let kept = children(
        asked.confinement,
        hidden,
        asked.writable_folders.clone(),
        &Env::from_process(),
    )?;
    let command = invocation::command(&asked);
    let checked = document(&asked.file, &asked.inputs)?;
    let bundles = bundles(&asked.file, &checked)?;
    let mut journal = begin(asked.journal.as_deref(), &checked).map_err(broken)?;
    decide(&mut journal, asked.redo, &command)?;
    let printer = Arc::new(Printer::default());
    if let Some(ended) = journal.ended {
        printer.finish(&ended.completion);
        printer.ended_before(ended.at_ms, command.journal.as_deref().unwrap_or_default());
        return Ok(Exit::of(ended.completion.outcome, ended.completion.world));
    }
    let steering = Steering::Local(command);
    // A person who runs a task with his own hands needs nobody's permission, and may try a policy.
    let policy = asked
        .policy
        .map_or_else(PolicySource::by_hand, PolicySource::file_by_hand);
    policy.current().map_err(|why| StartupError::Policy(why.to_string()))?;
    let environment = environment(&root, &printer, (kept.confinement, pool_keys), (steering, policy))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.map_err(StartupError::Threads)?;
    let exit = runtime.block_on(drive(checked, bundles, journal, environment, printer));
    runtime.shutdown_background();
    exit
}

/// Reads and checks a task document.
pub(crate) fn document(path: &Path, given: &BTreeMap<String, String>) -> Result<Checked, StartupError> {
    let unreadable = |source| StartupError::Unreadable {
        path: path.into(),
        source,
    };
    // What a pipe or a device will give is not known before: one byte too many is enough for the reader to refuse it.
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_DOCUMENT_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    let inputs: Inputs = given
        .iter()
        .map(|(name, text)| (name.clone(), Value::from(text.as_str())))
        .collect();
    let name = path.display().to_string();
    let read = read(&name, &bytes, &inputs).map_err(|wrong| StartupError::BadTask(wrong.to_string()))?;
    for warning in read.warnings {
        let _ = writeln!(std::io::stderr().lock(), "{}", warning.one_line(&name));
    }
    Ok(read.checked)
}

/// The folders beside the document, packed.
fn bundles(document: &Path, checked: &Checked) -> Result<BTreeMap<String, Packed>, StartupError> {
    let beside = document.parent().unwrap_or(Path::new("."));
    let mut bundles = BTreeMap::new();
    for source in &checked.document.spec.sources {
        let Some(folder) = source.bundle() else { continue };
        let packed = pack(&beside.join(folder));
        let bad = |error| StartupError::BadTask(format!("error: the bundle {} cannot be packed: {error}", source.name));
        bundles.insert(source.name.clone(), packed.map_err(bad)?);
    }
    Ok(bundles)
}

/// A new run, or the one in the file.
fn begin(path: Option<&Path>, checked: &Checked) -> Result<Begun, JournalError> {
    let now = unix_ms();
    let mut begun = Begun {
        task: TaskId::generate(),
        age: Duration::ZERO,
        records: Vec::new(),
        ended: None,
        file: None,
    };
    let Some(path) = path else { return Ok(begun) };
    let (mut file, entries) = JournalFile::open(path)?;
    let digest = digest(checked);
    let mut entries = entries.into_iter();
    match entries.next() {
        None => {
            file.add(&Entry::Begun {
                task: begun.task.clone(),
                document: digest,
                at_ms: now,
            })?;
            file.sync()?;
        }
        Some(Entry::Begun { task, document, at_ms }) if document == digest => {
            begun.task = task;
            begun.age = Duration::from_millis(u64::try_from(now.saturating_sub(at_ms)).unwrap_or(0));
        }
        Some(Entry::Begun { .. }) => return Err(JournalError::OtherTask(path.into())),
        Some(Entry::Record(_) | Entry::Ended(_)) => return Err(JournalError::NotAJournal(path.into())),
    }
    for entry in entries {
        match entry {
            Entry::Record(record) => begun.records.push(record),
            Entry::Ended(ended) => begun.ended = Some(ended),
            Entry::Begun { .. } => return Err(JournalError::NotAJournal(path.into())),
        }
    }
    begun.file = Some(file);
    Ok(begun)
}

fn broken(error: JournalError) -> StartupError {
    StartupError::Journal(error.to_string())
}

/// Puts the decision to run a script again into the journal, where it was given; nothing runs while one is missing.
fn decide(begun: &mut Begun, redo: Option<String>, command: &LocalCommand) -> Result<(), StartupError> {
    let open = decision::undecided(&begun.records).filter(|_| begun.ended.is_none());
    match (open, redo) {
        (None, None) => Ok(()),
        (Some(key), None) => Err(StartupError::Undecided {
            step: key.step().to_owned(),
            again: invocation::redo(command, key.step()),
        }),
        (Some(key), Some(step)) if key.step() == step => {
            let record = decision::redo(key, &begun.records);
            if let Some(file) = &mut begun.file {
                file.add(&Entry::Record(record.clone())).map_err(broken)?;
                file.sync().map_err(broken)?;
            }
            begun.records.push(record);
            Ok(())
        }
        (open, Some(step)) => {
            let why = match open {
                Some(key) => format!("it is the script of step {} that was interrupted", key.step()),
                None if begun.ended.is_some() => "the run has ended".to_owned(),
                None => {
                    "no script of this run was interrupted, or what was may be run again without being asked".to_owned()
                }
            };
            Err(StartupError::NothingToRedo { step, why })
        }
    }
}

fn digest(checked: &Checked) -> String {
    // What was just read serialises; an empty digest would only refuse to resume.
    hex::encode(Sha256::digest(to_canonical(checked).unwrap_or_default()))
}

async fn drive(
    checked: Checked,
    packed: BTreeMap<String, Packed>,
    begun: Begun,
    environment: Environment,
    printer: Arc<Printer>,
) -> Result<Exit, StartupError> {
    let signals = |kind| signal(kind).map_err(StartupError::Threads);
    let (mut term, mut int) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    let (events, mut events_in) = mpsc::channel(256);
    let (commands, commands_in) = mpsc::channel(256);
    let executor = Executor::new(ExecutorConfig::with_slots(1), environment);
    let mut running = JoinSet::new();
    running.spawn(executor.run(commands_in, events));
    let mut journal = MemoryJournal::resume(begun.records.clone());
    let epoch = journal.next_epoch();
    let attempt = AttemptRef {
        project: Project::default_project(),
        task: begun.task,
        run: 1,
        epoch,
    };
    let assignment = Assignment {
        attempt: attempt.clone(),
        digest: digest(&checked),
        document: Arc::new(checked.document),
        inputs: Arc::new(checked.inputs),
        signed: None,
        submitter: "local".into(),
        journal: begun.records,
        start_deadline: BootTime::NEVER,
        cancel: None,
        bundles: packed
            .iter()
            .map(|(name, packed)| (name.clone(), packed.blob.clone()))
            .collect(),
        run_age: begun.age,
    };
    // The channel is new and has room for both.
    let _ = commands.send(Command::Lease { until: BootTime::NEVER }).await;
    let _ = commands.send(Command::Assign(Box::new(assignment))).await;
    let bundles = packed
        .values()
        .map(|packed| (packed.blob.sha256.clone(), packed.file.path().to_owned()))
        .collect();
    let mut peer = Peer {
        journal,
        file: begun.file,
        bundles,
        printer: Arc::clone(&printer),
    };
    let ended = tokio::select! {
        ended = peer.answer(&mut events_in, &commands) => ended.map_err(broken)?,
        () = interrupted(&mut term, &mut int, &commands, &attempt) => return Ok(Exit::Interrupted),
    };
    // The attempt has said its last word; it may still be removing its folder.
    let _ = commands
        .send(Command::Drain {
            deadline: BootTime::from_nanos(0),
            reason: "the task has ended".into(),
        })
        .await;
    let _ = tokio::time::timeout(CLEAN_UP, running.join_next()).await;
    match ended {
        Ended::Completed(completion) => {
            printer.finish(&completion);
            Ok(Exit::of(completion.outcome, completion.world))
        }
        Ended::Released(reason) => {
            let _ = writeln!(
                std::io::stderr().lock(),
                "error: the task was not run to its end: {reason}"
            );
            Ok(Exit::Interrupted)
        }
    }
}

fn environment(
    root: &Path,
    printer: &Arc<Printer>,
    (confinement, pool_keys): (Option<Confinement>, Option<Arc<KeyRing>>),
    (steering, policy): (Steering, PolicySource),
) -> Result<Environment, StartupError> {
    let work = WorkFolder::open(root).map_err(|source| StartupError::Folder {
        what: "the folder of local runs",
        path: root.to_owned(),
        source: Box::new(source),
    })?;
    let printer = Arc::clone(printer);
    Ok(Environment {
        work,
        logs: Logs::local(move |stream, step, _, bytes| printer.log(stream, step, bytes)),
        identities: Identities::new(Env::from_process()),
        policy,
        signers: TrustedSigners::default(),
        pool_keys,
        agent: AgentFacts {
            id: "local".into(),
            labels: BTreeMap::new(),
            version: env!("CARGO_PKG_VERSION").into(),
        },
        confinement,
        steering,
        secrets_folder: secrets_folder(),
    })
}

/// Where local runs find the files of secrets.
fn secrets_folder() -> Option<std::path::PathBuf> {
    std::env::var_os(key::SECRETS_FOLDER.env()).map(Into::into)
}

/// The first signal wishes a cancel; this ends with the second.
async fn interrupted(term: &mut Signal, int: &mut Signal, commands: &mpsc::Sender<Command>, attempt: &AttemptRef) {
    any(term, int).await;
    let _ = writeln!(std::io::stderr().lock(), "cancelling; once more to leave at once");
    let cancel = Command::Cancel {
        attempt: attempt.clone(),
        reason: "interrupted".into(),
    };
    let _ = commands.send(cancel).await;
    any(term, int).await;
}

async fn any(term: &mut Signal, int: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_too_large_a_document() {
        let refused = document(Path::new("/dev/zero"), &BTreeMap::new()).expect_err("refused");
        assert!(matches!(refused, StartupError::BadTask(_)), "{refused}");
        assert!(refused.to_string().contains("the document is too large"), "{refused}");
    }
}
