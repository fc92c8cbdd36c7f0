//! What the agent's own policy lets tasks do, and which roles it names.

use std::collections::BTreeSet;
use std::path::Path;

use deputy_policy::policy::Policy;
use deputy_policy::signers::TrustedSigners;
use deputy_policy::source::PolicySource;

use super::report::{Finding, Verdict};

const AREA: &str = "policy";

/// Whose signatures count here.
pub(crate) fn signers(signers: &TrustedSigners, pool_key: Option<&Path>) -> Option<Finding> {
    if signers.is_empty() {
        return None;
    }
    let warning = signers.without_pool_key().filter(|_| pool_key.is_none());
    Some(match signers.names() {
        Ok(names) if names.is_empty() => Finding::new(
            AREA,
            "signers",
            Verdict::Warning,
            "there are none: every signed task counts as unsigned",
        )
        .hint("put their public keys there, NAME.pem each"),
        Ok(names) => match warning {
            None => Finding::good(AREA, "signers", names.join(", ")),
            Some(warning) => {
                let summary = format!("{}; {warning}", names.join(", "));
                Finding::new(AREA, "signers", Verdict::Warning, summary)
                    .hint("`deputy-agent pool-key new FILE` makes one; every agent of the pool has the same (docs/sealed-journal.md)")
            }
        },
        Err(bad) => Finding::new(
            AREA,
            "signers",
            Verdict::Bad,
            format!("signed tasks are not taken: {bad}"),
        )
        .hint("a folder of public keys in PEM (`-----BEGIN PUBLIC KEY-----`), Ed25519 or ECDSA P-256, NAME.pem each"),
    })
}

/// What is to be said of the policy, and the roles that it names.
pub(crate) fn findings(source: &PolicySource) -> (Vec<Finding>, BTreeSet<String>) {
    let policy = match source.current() {
        Ok(policy) => policy,
        Err(unusable) => {
            let finding = Finding::new(AREA, "rules", Verdict::Bad, format!("nothing runs here: {unusable}"))
                .hint("`deputy-agent policy check FILE` says what is wrong with a file; examples/policies has some to begin with");
            return (vec![finding], BTreeSet::new());
        }
    };
    let finding = match policy.as_ref() {
        Policy::AllowAll => Finding::new(
            AREA,
            "rules",
            Verdict::Warning,
            "everything that the manager sends is run (--allow-all)",
        )
        .hint("write a policy and name it with --policy-file"),
        Policy::Rules(_) => Finding::good(AREA, "rules", format!("{} rules, all valid", policy.rules().len())),
    };
    let notes = policy
        .notes()
        .iter()
        .map(|note| Finding::new(AREA, "note", Verdict::Warning, note.clone()));
    (std::iter::once(finding).chain(notes).collect(), policy.roles())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signers_without_a_pool_key_are_a_warning() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
        std::fs::write(folder.path().join("pipeline.pem"), key).expect("written");
        let trusted = TrustedSigners::at(folder.path().to_owned());
        let without = signers(&trusted, None).expect("a finding");
        assert_eq!(without.verdict, Verdict::Warning, "{}", without.summary);
        assert!(without.summary.contains("can neither go on nor be undone"));
        let with = signers(&trusted, Some(Path::new("pool-key"))).expect("a finding");
        assert_eq!((with.verdict, with.summary.as_str()), (Verdict::Good, "pipeline"));
        assert!(signers(&TrustedSigners::default(), None).is_none());
    }
}
