//! The wall clock of a process under test, which a test may set (`testbed/wall_clock.c`).

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::programs::workspace;

/// A clock that goes with the machine's until it is set.
#[derive(Debug)]
pub struct WallClock {
    file: std::fs::File,
    path: PathBuf,
    preload: PathBuf,
}

impl WallClock {
    /// A clock called `name`, in this folder. Needs the C compiler that Rust links with.
    pub fn new(folder: &Path, name: &str) -> Result<Self> {
        let preload = folder.join(format!("{name}-clock.so"));
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&preload)
            .arg(workspace().join("tests/testbed/wall_clock.c"))
            .arg("-ldl")
            .status()
            .context("running cc")?;
        ensure!(status.success(), "cc cannot compile tests/testbed/wall_clock.c");
        let path = folder.join(format!("{name}-clock"));
        let file = std::fs::File::create(&path)?;
        let clock = Self { file, path, preload };
        clock.step(0)?;
        Ok(clock)
    }

    /// Sets the clock to this many seconds from the machine's.
    pub fn step(&self, seconds: i64) -> Result<()> {
        Ok(self.file.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }

    /// The environment of a process that goes by it.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        vec![
            ("LD_PRELOAD".into(), text(&self.preload)),
            ("WALL_CLOCK_FILE".into(), text(&self.path)),
        ]
    }
}
