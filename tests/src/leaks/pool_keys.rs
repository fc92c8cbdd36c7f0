//! The key of a pool as a canary, as bytes and as the text of its file.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use deputy_seal::key_ring::{self, Entry};
use deputy_seal::pool_key::PoolKey;

use super::canary::Canaries;

/// What the key of a pool is called where it is found.
pub const POOL_KEY: &str = "the pool key";

/// The keys that stand in the text of a ring; those that KMS wraps do not.
pub fn of_ring(text: &[u8]) -> Result<Vec<PoolKey>> {
    let entries = key_ring::read(text).context("a ring")?;
    let plain = entries.into_iter().filter_map(|entry| match entry {
        Entry::Plain(key) => Some(key),
        Entry::Kms(_) => None,
    });
    Ok(plain.collect())
}

/// A new one as an operator makes it, noted for the record of the whole run.
pub(crate) async fn make(agent: &Path, file: PathBuf) -> Result<PathBuf> {
    let mut command = Command::new(agent);
    command.args(["pool-key", "new"]).arg(&file);
    let made = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(made.status.success(), "no pool key: {made:?}");
    for key in of_ring(&std::fs::read(&file)?)? {
        Canaries::default().learn_pool_key(&key);
    }
    Ok(file)
}

impl Canaries {
    /// A pool's key, whatever form its file has.
    pub fn learn_pool_key(&self, key: &PoolKey) {
        for secret in key.secrets() {
            self.learn_bytes(POOL_KEY, &secret);
        }
    }
}
