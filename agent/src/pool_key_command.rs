//! `deputy-agent pool-key new|list`: makes the keys of a pool and says which there are. A key goes into
//! its file and nowhere else.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use deputy_credentials::Identities;
use deputy_credentials::data_key::{self, Wrapping};
use deputy_credentials::env::Env;
use deputy_seal::key_ring::{self, Entry, MAX_KEYS, Wrapped};
use deputy_seal::pool_key::PoolKey;
use zeroize::Zeroizing;

use crate::exit::{Exit, StartupError};
use crate::pool_ring::{RingError, context, entries, unusable};

/// What to do with a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// Into a file that does not exist yet.
    Alone,
    /// Behind the keys that are there: it opens, and seals nothing yet.
    Behind,
}

/// A KMS key that wraps the new key, and the pool that it is for.
#[derive(Debug, Clone)]
pub(crate) struct Wrap {
    pub(crate) key_arn: String,
    pub(crate) pool: String,
}

/// Makes a key; one that KMS wraps is made there, and nobody sees it.
pub(crate) fn new(path: &Path, put: Put, wrap: Option<&Wrap>) -> Result<Exit, StartupError> {
    let (name, line) = match wrap {
        None => {
            let key = PoolKey::generate().map_err(|why| refused(path, why.to_string()))?;
            (key.id().to_string(), key_ring::line(&key))
        }
        Some(wrap) => {
            let wrapped = made(path, wrap)?;
            (format!("for pool {}", wrapped.pool), Zeroizing::new(wrapped.line()))
        }
    };
    add(path, put, (&name, &line))?;
    let file = path.display();
    say(&match put {
        Put::Alone => format!(
            "{file} holds the pool key {name}. Give this file, and nothing else, to every agent of the pool: --pool-key-file"
        ),
        Put::Behind => format!(
            "{file} now holds the pool key {name} as well; it opens, and the first key seals. When every agent of the pool has it, move its line to the front"
        ),
    });
    Ok(Exit::Success)
}

fn made(path: &Path, wrap: &Wrap) -> Result<Wrapped, StartupError> {
    if !Wrapped::is_pool_name(&wrap.pool) {
        let why = format!("{:?} is no name of a pool; take letters, digits and -_./", wrap.pool);
        return Err(refused(path, why));
    }
    let identities = Identities::new(Env::from_process());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(StartupError::Threads)?;
    let context = context(&wrap.pool);
    let wrapping = Wrapping {
        key_arn: &wrap.key_arn,
        context: &context,
    };
    let made = runtime.block_on(data_key::make(&identities, &wrapping));
    let ciphertext = made.map_err(|failure| unusable(path, &RingError::Kms(Box::new(failure))))?;
    Ok(Wrapped {
        key_arn: wrap.key_arn.clone(),
        pool: wrap.pool.clone(),
        ciphertext,
    })
}

/// Says which keys a ring has.
pub(crate) fn list(path: &Path) -> Result<Exit, StartupError> {
    let entries = entries(path).map_err(|why| refused(path, why.to_string()))?;
    for (at, entry) in entries.iter().enumerate() {
        let role = if at == 0 { "seals and opens" } else { "opens" };
        say(&match entry {
            Entry::Plain(key) => format!("{}  {role}", key.id()),
            Entry::Kms(wrapped) => format!("(for pool {})  {role}, unwrapped by {}", wrapped.pool, wrapped.key_arn),
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
    StartupError::PoolKey {
        path: path.into(),
        why,
        hint: String::new(),
        detail: String::new(),
    }
}

fn say(line: &str) {
    // Whoever does not listen is told nothing.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_added_behind_and_a_file_is_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pool-key");
        assert!(new(&path, Put::Behind, None).is_err(), "there is nothing yet");
        assert_eq!(new(&path, Put::Alone, None).expect("made"), Exit::Success);
        let ids = || -> Vec<String> {
            let id = |entry: &Entry| match entry {
                Entry::Plain(key) => key.id().to_string(),
                Entry::Kms(_) => "kms".into(),
            };
            entries(&path).expect("read").iter().map(id).collect()
        };
        let first = ids();
        assert!(new(&path, Put::Alone, None).is_err());
        assert_eq!(ids(), first);
        new(&path, Put::Behind, None).expect("added");
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
            new(&path, Put::Behind, None).expect("added");
        }
        let full = new(&path, Put::Behind, None).expect_err("full").explained();
        assert!(full.contains("holds 16 keys"), "{full}");
        let nameless = Wrap {
            key_arn: "arn:aws:kms:eu-west-1:111122223333:key/1234".into(),
            pool: "two words".into(),
        };
        let told = new(&path, Put::Alone, Some(&nameless))
            .expect_err("refused")
            .explained();
        assert!(told.contains("is no name of a pool"), "{told}");
    }
}
