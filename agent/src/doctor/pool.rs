//! The keys of the pool: which there are, or what follows from there being none.

use std::path::Path;

use super::report::{Finding, Verdict};
use crate::pool_ring;

const AREA: &str = "pool";
const CHECK: &str = "pool key";

/// What is to be said of the pool's keys.
pub(crate) fn finding(path: Option<&Path>) -> Finding {
    let Some(path) = path else {
        return Finding::skipped(
            AREA,
            CHECK,
            "none: journal records are not authenticated, secret outputs die with their agent, and a step that has to keep what could carry a secret refuses to begin",
        );
    };
    match pool_ring::entries(path).and_then(pool_ring::ring) {
        Ok(ring) => {
            let first = ring.first().id();
            let others: Vec<String> = ring.ids().skip(1).map(ToString::to_string).collect();
            let opens = if others.is_empty() {
                String::new()
            } else {
                format!("; {} open too", others.join(", "))
            };
            Finding::good(AREA, CHECK, format!("{first} of {} seals{opens}", path.display()))
        }
        Err(why) => Finding::new(
            AREA,
            CHECK,
            Verdict::Bad,
            format!("{} cannot be used, and the agent does not start: {why}", path.display()),
        )
        .hint("`deputy-agent pool-key new FILE` makes such a file: this user's or root's, mode 0600 or 0400 (0440 for a mounted secret)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool_key_command::{Put, new};

    #[test]
    fn a_key_is_shown_by_its_id_and_where_there_is_none_it_is_said_what_follows() {
        let none = finding(None);
        assert_eq!(none.verdict, Verdict::Skipped);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pool-key");
        let missing = finding(Some(&path));
        assert_eq!(missing.verdict, Verdict::Bad);
        new(&path, Put::Alone).expect("made");
        new(&path, Put::Behind).expect("added");
        let good = finding(Some(&path));
        let text = std::fs::read_to_string(&path).expect("text");
        let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# ")).collect();
        assert_eq!(good.verdict, Verdict::Good);
        assert!(ids.iter().all(|id| good.summary.contains(id)), "{}", good.summary);
        let keys = text.lines().filter_map(|line| line.split_once(' ')).map(|(_, key)| key);
        assert!(keys.filter(|key| key.len() > 20).all(|key| !good.summary.contains(key)));
    }
}
