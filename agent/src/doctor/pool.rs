//! The keys of the pool: which there are, or what follows from there being none.

use std::path::Path;

use deputy_credentials::Identities;
use deputy_seal::key_ring::Entry;

use super::report::{Finding, Verdict};
use crate::pool_ring::{self, RingError};

const AREA: &str = "pool";
const CHECK: &str = "pool key";

/// What is to be said of the pool's keys.
pub(crate) async fn finding(path: Option<&Path>, identities: &Identities) -> Finding {
    let Some(path) = path else {
        return Finding::skipped(
            AREA,
            CHECK,
            "none: journal records are not authenticated, secret outputs die with their agent, and a step that has to keep what could carry a secret refuses to begin",
        );
    };
    match shown(path, identities).await {
        Ok(keys) => Finding::good(AREA, CHECK, format!("{}: {}", path.display(), keys.join("; "))),
        Err(why) => {
            let told = pool_ring::unusable(path, &why);
            Finding {
                detail: told.causes().join("\n"),
                ..Finding::new(AREA, CHECK, Verdict::Bad, told.to_string()).hint(told.hint())
            }
        }
    }
}

/// Each key by its id, where it comes from, and what it is for.
async fn shown(path: &Path, identities: &Identities) -> Result<Vec<String>, RingError> {
    let entries = pool_ring::entries(path)?;
    let source = |entry: &Entry| match entry {
        Entry::Plain(_) => "from the file".to_owned(),
        Entry::Kms(wrapped) => format!("unwrapped by {} for pool {}", wrapped.key_arn, wrapped.pool),
    };
    let sources: Vec<String> = entries.iter().map(source).collect();
    let ring = pool_ring::ring(entries, identities).await?;
    let keys = ring.ids().zip(sources).enumerate().map(|(at, (id, source))| {
        let role = if at == 0 { "seals" } else { "opens" };
        format!("{id} {role}, {source}")
    });
    Ok(keys.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool_key_command::{Put, new};

    #[tokio::test]
    async fn a_key_is_shown_by_its_id_and_where_there_is_none_it_is_said_what_follows() {
        let nobody = Identities::new(deputy_credentials::env::Env::default());
        let finding = async |path: Option<&Path>| finding(path, &nobody).await;
        let none = finding(None).await;
        assert_eq!(none.verdict, Verdict::Skipped);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pool-key");
        let missing = finding(Some(&path)).await;
        assert_eq!(missing.verdict, Verdict::Bad);
        new(&path, Put::Alone, None).expect("made");
        new(&path, Put::Behind, None).expect("added");
        let good = finding(Some(&path)).await;
        let text = std::fs::read_to_string(&path).expect("text");
        let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# ")).collect();
        assert_eq!(good.verdict, Verdict::Good);
        assert!(ids.iter().all(|id| good.summary.contains(id)), "{}", good.summary);
        let keys = text.lines().filter_map(|line| line.split_once(' ')).map(|(_, key)| key);
        assert!(keys.filter(|key| key.len() > 20).all(|key| !good.summary.contains(key)));
    }
}
