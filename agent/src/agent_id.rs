//! Who this agent is: as configured, as kept in the state folder, or generated.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use deputy_executor::at_work;
use deputy_task::id::{AgentId, InstanceId};

use crate::config::checked::Config;
use crate::exit::StartupError;
use crate::work_root::{Found, WORKSPACES, look};

/// File of the state folder that keeps the generated id.
const FILE: &str = "agent-id";

/// More than an id is long.
const MAX_BYTES: u64 = 4096;

/// Bytes of the host name that go into a generated id.
const HOST_BYTES: usize = 40;

/// The agent's id. A generated one is kept if there is a state folder.
pub(crate) fn agent_id(config: &Config) -> Result<AgentId, StartupError> {
    if let Some(id) = &config.agent_id {
        return Ok(id.clone());
    }
    let Some(folder) = &config.state_folder else {
        return Ok(generate());
    };
    kept_id(folder)
}

/// The id that is kept in the state folder; none: it is generated at the start. Asked by the agent and by the doctor.
///
/// # Errors
/// What is there is no agent id.
pub(crate) fn found_id(folder: &Path) -> Result<Option<AgentId>, StartupError> {
    let path = folder.join(FILE);
    let unusable = |why: String| StartupError::AgentId {
        path: path.clone(),
        why,
    };
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => return Ok(None),
        Err(error) => return Err(unusable(error.to_string())),
    };
    let mut text = String::new();
    file.take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| unusable(error.to_string()))?;
    let id = text.trim();
    if id.is_empty() {
        return Err(unusable("it is empty".into()));
    }
    id.parse().map(Some).map_err(|error| unusable(format!("{error}")))
}

/// The id that the agent has, where one is at work in the same work folder, or would have; nothing is kept.
pub(crate) fn presumed_id(config: &Config) -> AgentId {
    // One that cannot be read is told by who looks at the machine.
    let kept = || found_id(config.state_folder.as_ref()?).ok()?;
    let at_work = || {
        let Found { root, is_there: true } = look(config.work_folder.as_deref()).ok()? else {
            return None;
        };
        // Of several, none is more likely to be meant.
        match &*at_work(&root.join(WORKSPACES)) {
            [one] => one.parse().ok(),
            _ => None,
        }
    };
    let id = config.agent_id.clone().or_else(kept).or_else(at_work);
    id.unwrap_or_else(generate)
}

/// An id that nobody has: one that would be generated differs at every start.
pub(crate) fn new_id() -> AgentId {
    generate()
}

fn kept_id(folder: &Path) -> Result<AgentId, StartupError> {
    if let Some(id) = found_id(folder)? {
        return Ok(id);
    }
    let id = generate();
    written(folder, &id).map_err(|source| StartupError::Folder {
        what: "the state folder",
        path: folder.to_owned(),
        source: Box::new(source),
    })?;
    Ok(id)
}

/// Whole or not at all: half an id would be another agent.
fn written(folder: &Path, id: &AgentId) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{id}")?;
    file.as_file().sync_all()?;
    file.persist(folder.join(FILE))?;
    // The agent joins under it: it is there after a crash of the machine too.
    fs::File::open(folder)?.sync_all()
}

/// The host name, as far as it fits an id, and a random suffix: containers share host names.
fn generate() -> AgentId {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    let instance = InstanceId::generate();
    let suffix: String = instance.as_str().chars().take(8).collect();
    let host: String = host
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' })
        .skip_while(|c| *c == '-')
        .take(HOST_BYTES)
        .collect();
    let id = if host.is_empty() {
        format!("agent-{suffix}")
    } else {
        format!("{host}-{suffix}")
    };
    id.parse()
        .expect("letters, digits and dashes, not beginning with a dash, are an id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_id_is_kept_and_read_again() {
        let folder = tempfile::tempdir().expect("folder");
        let first = kept_id(folder.path()).expect("made");
        assert_eq!(kept_id(folder.path()).expect("read"), first);
    }

    /// Guards that the words help: the file, what it has to hold, and what becomes of the agent without it.
    #[test]
    fn an_id_that_cannot_be_used_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(FILE);
        let told = || {
            let told = kept_id(folder.path()).expect_err("refused").explained();
            assert_eq!(found_id(folder.path()).expect_err("alike").explained(), told);
            told.replace(&folder.path().display().to_string(), "STATE")
        };
        fs::write(&path, "../x\n").expect("damage");
        assert!(told().contains("STATE/agent-id"), "{}", told());
        fs::write(&path, "\n").expect("damage");
        insta::assert_snapshot!(told(), @r"
        error: cannot use STATE/agent-id as this agent's id: it is empty
        hint: it holds the id that the agent generated, on one line: put that back (the fleet list has it), or give the id with --agent-id; without the file the agent generates a new id at its next start, and joins under it as another agent
        ");
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        assert!(told().contains("Is a directory"), "{}", told());
    }

    #[test]
    fn two_generated_ids_differ() {
        assert_ne!(generate(), generate());
    }
}
