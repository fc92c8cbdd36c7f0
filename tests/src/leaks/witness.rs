//! Writes every request that a manager receives into a folder, a file each: its head, then its body as it came.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use deputy_manager::witness::Witness;
use http::request::Parts;

/// Where the manager of a test writes what it receives, if it is to.
pub const VARIABLE: &str = "DEPUTY_TEST_WITNESS";

/// The folder.
#[derive(Debug)]
pub struct FolderWitness {
    folder: PathBuf,
}

impl FolderWitness {
    /// The one that the environment asks for.
    #[must_use]
    pub fn asked_for() -> Option<Self> {
        let folder = std::env::var_os(VARIABLE)?.into();
        Some(Self { folder })
    }

    fn append(&self, number: u64, write: impl FnOnce(&mut File) -> std::io::Result<()>) {
        let path = self.folder.join(format!("request-{number:06}"));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        if let Err(error) = file.and_then(|mut file| write(&mut file)) {
            // A recording with a hole would prove nothing.
            panic!("{}: {error}", path.display());
        }
    }
}

impl Witness for FolderWitness {
    fn begins(&self, number: u64, head: &Parts) {
        self.append(number, |file| {
            writeln!(file, "{} {}", head.method, head.uri)?;
            for (name, value) in &head.headers {
                write!(file, "{name}: ")?;
                file.write_all(value.as_bytes())?;
                writeln!(file)?;
            }
            writeln!(file)
        });
    }

    fn continues(&self, number: u64, bytes: &[u8]) {
        self.append(number, |file| file.write_all(bytes));
    }
}
