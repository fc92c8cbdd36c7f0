//! A run of all integration tests under record: every manager writes down what it receives, every world leaves its
//! files, and every secret that a test knows of is noted. `cargo xtask leaks` asks for it and looks everything through.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The folder of the record, if there is to be one.
pub const VARIABLE: &str = "DEPUTY_TEST_RECORD";

/// The record of one run.
#[derive(Debug, Clone)]
pub struct WholeRun {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Noted {
    name: String,
    /// In base64: a secret may be any bytes.
    value: String,
}

impl WholeRun {
    /// A record in this folder.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: folder.into() }
    }

    /// The record that the environment asks for.
    #[must_use]
    pub fn asked_for() -> Option<Self> {
        std::env::var_os(VARIABLE).map(|folder| Self { folder: folder.into() })
    }

    /// A new folder for what one manager receives.
    pub(crate) fn requests_of_a_manager(&self) -> Result<PathBuf> {
        let folder = self.requests().join(format!("manager-{:016x}", rand::random::<u64>()));
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(folder)
    }

    /// What all managers received.
    #[must_use]
    pub fn requests(&self) -> PathBuf {
        self.folder.join("requests")
    }

    /// What the worlds left, each in a folder of its own.
    #[must_use]
    pub fn worlds(&self) -> PathBuf {
        self.folder.join("worlds")
    }

    /// Keeps the files of a world that ends.
    pub(crate) fn keep(&self, world: &Path) -> Result<()> {
        let name = world.file_name().context("a world's folder has a name")?;
        std::fs::create_dir_all(self.worlds())?;
        std::fs::rename(world, self.worlds().join(name)).with_context(|| world.display().to_string())
    }

    /// Notes a secret. One write of one line: many tests note theirs at the same time.
    ///
    /// # Panics
    /// If it cannot be written: a search for half of the secrets would prove nothing.
    pub(super) fn note(&self, name: &str, value: &[u8]) {
        let noted = Noted {
            name: name.to_owned(),
            value: STANDARD.encode(value),
        };
        let written = serde_json::to_vec(&noted).map_err(Into::into).and_then(|mut line| {
            line.push(b'\n');
            let mut file = OpenOptions::new().create(true).append(true).open(self.notes())?;
            file.write_all(&line)
        });
        assert!(written.is_ok(), "{}: {written:?}", self.notes().display());
    }

    /// Every secret that was noted, with its name.
    pub(super) fn noted(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let text = std::fs::read_to_string(self.notes()).with_context(|| self.notes().display().to_string())?;
        let lines = text.lines().map(|line| {
            let noted: Noted = serde_json::from_str(line).with_context(|| line.to_owned())?;
            Ok((noted.name, STANDARD.decode(noted.value)?))
        });
        lines.collect()
    }

    fn notes(&self) -> PathBuf {
        self.folder.join("secrets.jsonl")
    }
}
