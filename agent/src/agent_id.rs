//! Who this agent is: as configured, as kept in the state folder, or generated.

use std::fs;
use std::io::Write;
use std::path::Path;

use deputy_executor::at_work;
use deputy_task::id::{AgentId, InstanceId};

use crate::config::checked::Config;
use crate::exit::StartupError;
use crate::work_root::{Found, WORKSPACES, look};

/// File of the state folder that keeps the generated id.
const FILE: &str = "agent-id";

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
    kept_id(folder).map_err(|source| StartupError::Folder {
        what: "the state folder",
        path: folder.clone(),
        source: Box::new(source),
    })
}

/// The id that the agent has, where one is at work in the same work folder, or would have; nothing is kept.
pub(crate) fn presumed_id(config: &Config) -> AgentId {
    let kept = || {
        let text = fs::read_to_string(config.state_folder.as_ref()?.join(FILE)).ok()?;
        text.trim().parse().ok()
    };
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

fn kept_id(folder: &Path) -> std::io::Result<AgentId> {
    fs::create_dir_all(folder)?;
    let path = folder.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let bad = |error| std::io::Error::other(format!("{} is damaged: {error}", path.display()));
            text.trim().parse().map_err(bad)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = generate();
            // Written whole or not at all: half an id would be another agent.
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            writeln!(file, "{id}")?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
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
        fs::write(folder.path().join(FILE), "../x\n").expect("damage");
        assert!(
            kept_id(folder.path())
                .expect_err("refused")
                .to_string()
                .contains("is damaged")
        );
    }

    #[test]
    fn two_generated_ids_differ() {
        assert_ne!(generate(), generate());
    }
}
