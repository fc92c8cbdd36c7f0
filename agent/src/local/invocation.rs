//! What `deputy-agent task` was asked for, and how that is typed again: its hints and its result tell a
//! person what to do next.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use deputy_task::repair::LocalCommand;

use crate::config::checked::Mode;

/// What `deputy-agent task` was asked for.
#[derive(Debug)]
pub(crate) struct LocalRun {
    pub(crate) file: PathBuf,
    pub(crate) inputs: BTreeMap<String, String>,
    pub(crate) journal: Option<PathBuf>,
    /// The step whose script, begun and without a recorded end, runs again.
    pub(crate) redo: Option<String>,
    /// None: the user's own.
    pub(crate) work_folder: Option<PathBuf>,
    pub(crate) confinement: Mode,
    pub(crate) writable_folders: Vec<PathBuf>,
    /// None: whoever runs the task may do everything that he may do.
    pub(crate) policy: Option<PathBuf>,
    /// None: the journal is neither authenticated nor sealed.
    pub(crate) pool_key_file: Option<PathBuf>,
    pub(crate) log_filter: String,
}

/// The command that starts the same run, ready for a shell.
pub(crate) fn command(run: &LocalRun) -> LocalCommand {
    let mut start = format!("deputy-agent task {}", path(&run.file));
    for (name, value) in &run.inputs {
        start.push_str(&format!(" --input {}", word(&format!("{name}={value}"))));
    }
    if let Some(folder) = &run.work_folder {
        start.push_str(&format!(" --work-folder {}", path(folder)));
    }
    match run.confinement {
        Mode::Auto => {}
        Mode::Required => start.push_str(" --confinement required"),
        Mode::Off => start.push_str(" --confinement off"),
    }
    if !run.writable_folders.is_empty() {
        let all: Vec<_> = run
            .writable_folders
            .iter()
            .map(|folder| folder.display().to_string())
            .collect();
        start.push_str(&format!(" --writable-folders {}", word(&all.join(","))));
    }
    if let Some(policy) = &run.policy {
        start.push_str(&format!(" --policy {}", path(policy)));
    }
    if let Some(file) = &run.pool_key_file {
        start.push_str(&format!(" --pool-key-file {}", path(file)));
    }
    LocalCommand {
        start,
        journal: run.journal.as_deref().map(path),
    }
}

/// The command that starts it again and runs the script of `step` once more.
pub(crate) fn redo(command: &LocalCommand, step: &str) -> String {
    let mut again = command.start.clone();
    if let Some(journal) = &command.journal {
        again.push_str(&format!(" --journal {journal}"));
    }
    again.push_str(&format!(" --redo {}", word(step)));
    again
}

fn path(path: &Path) -> String {
    word(&path.display().to_string())
}

/// The text as one word of a POSIX shell.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_told_as_a_shell_takes_it() {
        let run = LocalRun {
            file: "deploy it.yaml".into(),
            inputs: BTreeMap::from([("image".into(), "api:2".into()), ("note".into(), "it's $HOME".into())]),
            journal: Some("my journal".into()),
            redo: None,
            work_folder: Some("/var/tmp/mine".into()),
            confinement: Mode::Off,
            writable_folders: vec!["/cache".into(), "/my data".into()],
            policy: Some("agent.cedar".into()),
            pool_key_file: Some("pool key".into()),
            log_filter: "warn".into(),
        };
        let command = command(&run);
        insta::assert_snapshot!(command.start, @r"deputy-agent task 'deploy it.yaml' --input image=api:2 --input 'note=it'\''s $HOME' --work-folder /var/tmp/mine --confinement off --writable-folders '/cache,/my data' --policy agent.cedar --pool-key-file 'pool key'");
        assert_eq!(command.journal.as_deref(), Some("'my journal'"));
    }
}
