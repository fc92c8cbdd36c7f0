//! Secrets that the agent's own surroundings hold: variables meant for tasks, and files of its secrets folder. A task
//! comes from outside and may ask for anything, so what is not clearly meant for tasks is not given.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path};

use deputy_logs::redactor::MAX_SECRET_BYTES;
use deputy_task::document::secret::ENVIRONMENT_PREFIX;
use deputy_task::outcome::Failure;

use super::value::{Fetched, SecretValue, Version};

/// A variable of the agent's environment.
pub(super) fn variable(name: &str) -> Result<Fetched, Failure> {
    if !name.starts_with(ENVIRONMENT_PREFIX) {
        return Err(Failure::new(
            "secret.notForTasks",
            format!("the agent's variable {name} is not given to tasks"),
        )
        .hint(format!(
            "only variables whose names begin with {ENVIRONMENT_PREFIX} are meant for tasks"
        )));
    }
    let value = std::env::var_os(name).ok_or_else(|| {
        Failure::new("secret.notFound", format!("the agent has no variable {name}"))
            .hint("set it where the agent is started, or select an agent that has it")
    })?;
    Ok(Fetched {
        value: SecretValue::new(value.into_vec()),
        version: Version {
            from: name.to_owned(),
            version: None,
        },
    })
}

/// A file below the agent's secrets folder. Links are followed, as a mounted Kubernetes Secret needs it, and must stay
/// inside.
pub(super) fn file(folder: Option<&Path>, relative: &str) -> Result<Fetched, Failure> {
    let Some(folder) = folder else {
        let failure = Failure::new("secret.noFolder", "the agent has no secrets folder to read files from");
        return Err(failure.hint("start the agent with --secrets-folder, or name another place of the secret"));
    };
    let refused = || {
        let failure = Failure::new(
            "secret.notForTasks",
            format!("{relative} leads out of the agent's secrets folder"),
        );
        failure.hint("name a file below that folder by its relative path")
    };
    let plain = Path::new(relative)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain || relative.is_empty() {
        return Err(refused());
    }
    let failed = |error: &std::io::Error| {
        let class = if error.kind() == std::io::ErrorKind::NotFound {
            "secret.notFound"
        } else {
            "secret.unreadable"
        };
        Failure::new(
            class,
            format!("the file {relative} of the agent's secrets folder cannot be read"),
        )
        .hint("see that it is mounted there and that the agent's user may read it")
        .caused_by(error)
    };
    let root = folder.canonicalize().map_err(|error| failed(&error))?;
    let path = root.join(relative).canonicalize().map_err(|error| failed(&error))?;
    if !path.starts_with(&root) {
        return Err(refused());
    }
    if !path.is_file() {
        return Err(Failure::new(
            "secret.unreadable",
            format!("{relative} in the agent's secrets folder is not a file"),
        ));
    }
    let mut bytes = Vec::new();
    // A byte more than may be there: who made it so long is told.
    let limit = u64::try_from(MAX_SECRET_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    File::open(&path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|error| failed(&error))?;
    Ok(Fetched {
        value: SecretValue::new(bytes),
        version: Version {
            from: relative.to_owned(),
            version: None,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_read_as_they_are_and_only_below_the_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("secrets");
        std::fs::create_dir_all(root.join("..data")).expect("made");
        std::fs::write(folder.path().join("outside"), "no business").expect("written");
        std::fs::write(root.join("..data/key"), "-----BEGIN-----\r\nx\n\n").expect("written");
        symlink("..data/key", root.join("key.pem")).expect("a link inside");
        symlink("../outside", root.join("out")).expect("a link outside");

        let found = file(Some(&root), "key.pem").expect("read");
        assert_eq!(found.value.bytes(), b"-----BEGIN-----\r\nx\n\n");
        for (path, class) in [
            ("out", "secret.notForTasks"),
            ("../outside", "secret.notForTasks"),
            ("/etc/hostname", "secret.notForTasks"),
            ("", "secret.notForTasks"),
            ("none", "secret.notFound"),
            // A name that begins with two dots is a name.
            ("..data", "secret.unreadable"),
        ] {
            let failed = file(Some(&root), path).map(|_| ()).expect_err(path);
            assert_eq!(failed.class, class, "{path}");
        }
        assert_eq!(
            file(None, "key.pem").map(|_| ()).expect_err("none").class,
            "secret.noFolder"
        );
    }

    #[test]
    fn only_variables_that_are_meant_for_tasks_are_given() {
        assert_eq!(
            variable("PATH").map(|_| ()).expect_err("not meant").class,
            "secret.notForTasks"
        );
        let failed = variable("DEPUTY_SECRET_THAT_IS_NOT_SET")
            .map(|_| ())
            .expect_err("not set");
        assert_eq!(failed.class, "secret.notFound");
    }
}
