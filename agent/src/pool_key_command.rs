//! `deputy-agent pool-key new|list`: makes the keys of a pool and says which there are. A key goes into
//! its file and nowhere else.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use deputy_seal::key_ring::{self, Entry, MAX_KEYS};
use deputy_seal::pool_key::PoolKey;
use zeroize::Zeroizing;

use crate::exit::{Exit, StartupError};
use crate::pool_ring::entries;

/// What to do with a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// Into a file that does not exist yet.
    Alone,
    /// Behind the keys that are there: it opens, and seals nothing yet.
    Behind,
}

/// Makes a key.
pub(crate) fn new(path: &Path, put: Put) -> Result<Exit, StartupError> {
    let key = PoolKey::generate().map_err(|why| refused(path, why.to_string()))?;
    let line = key_ring::line(&key);
    let id = key.id().as_str();
    add(path, put, (id, &line))?;
    say(&match put {
        Put::Alone => format!(
            "{} holds the pool key {id}. Give this file, and nobody but, to every agent of the pool: --pool-key-file",
            path.display()
        ),
        Put::Behind => format!(
            "{} now holds the pool key {id} as well; it opens, and the first key seals. When every agent of the pool has it, move its line to the front",
            path.display()
        ),
    });
    Ok(Exit::Success)
}

/// Says which keys a ring has.
pub(crate) fn list(path: &Path) -> Result<Exit, StartupError> {
    let entries = entries(path).map_err(|why| refused(path, why.to_string()))?;
    for (at, entry) in entries.iter().enumerate() {
        let role = if at == 0 { "seals and opens" } else { "opens" };
        say(&match entry {
            Entry::Plain(key) => format!("{}  {role}", key.id()),
            Entry::Kms { ciphertext, .. } => format!(
                "{:<16}  {role}, {} bytes that AWS KMS decrypts",
                "(kms)",
                ciphertext.len()
            ),
        });
    }
    Ok(Exit::Success)
}

/// Writes a line with what names its key.
fn add(path: &Path, put: Put, (name, line): (&str, &str)) -> Result<(), StartupError> {
    let failed = |why: std::io::Error| refused(path, format!("it cannot be written: {why}"));
    let text = Zeroizing::new(format!("# {name}\n{line}\n"));
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    match put {
        Put::Alone => {
            let mut file = options.create_new(true).open(path).map_err(failed)?;
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(failed)
        }
        Put::Behind => {
            let known = entries(path).map_err(|why| refused(path, why.to_string()))?;
            if known.len() >= MAX_KEYS {
                return Err(refused(
                    path,
                    format!("it holds {MAX_KEYS} keys, which is all that a ring may"),
                ));
            }
            let mut all = Zeroizing::new(fs::read(path).map_err(failed)?);
            if !all.ends_with(b"\n") {
                all.push(b'\n');
            }
            all.extend_from_slice(text.as_bytes());
            // Whole or not at all: half a ring is none.
            let partial = partial(path);
            let mut file = options.create(true).truncate(true).open(&partial).map_err(failed)?;
            file.write_all(&all)
                .and_then(|()| file.sync_all())
                .and_then(|()| fs::rename(&partial, path))
                .map_err(failed)
        }
    }
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn refused(path: &Path, why: String) -> StartupError {
    StartupError::PoolKey { path: path.into(), why }
}

fn say(line: &str) {
    // Whoever does not listen is told nothing.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::pool_ring::ring;

    #[test]
    fn keys_are_added_behind_and_a_file_is_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pool-key");
        assert!(new(&path, Put::Behind).is_err(), "there is nothing yet");
        assert_eq!(new(&path, Put::Alone).expect("made"), Exit::Success);
        let ids = || -> Vec<String> {
            let ring = ring(entries(&path).expect("read")).expect("a ring");
            ring.ids().map(ToString::to_string).collect()
        };
        let first = ids();
        assert!(new(&path, Put::Alone).is_err());
        assert_eq!(ids(), first);
        new(&path, Put::Behind).expect("added");
        assert_eq!((ids().len(), &ids()[0]), (2, &first[0]));
        let mode = path.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let text = fs::read_to_string(&path).expect("text");
        assert!(
            ids().iter().all(|id| text.contains(&format!("# {id}\n"))),
            "{}",
            text.len()
        );
        assert_eq!(list(&path).expect("listed"), Exit::Success);
        for _ in 2..MAX_KEYS {
            new(&path, Put::Behind).expect("added");
        }
        let full = new(&path, Put::Behind).expect_err("full").explained();
        assert!(full.contains("holds 16 keys"), "{full}");
    }
}
