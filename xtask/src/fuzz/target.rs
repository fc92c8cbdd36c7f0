//! The targets: what a stranger can send, and who reads it.

use std::path::Path;

/// One program of `tests/fuzz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Folders of the project that are seeds too.
    pub(crate) also: &'static [&'static str],
    /// Executions where everything is only looked over, as in continuous integration: some seconds' worth.
    pub(crate) glance: u64,
}

const fn target(name: &'static str, glance: u64) -> Target {
    Target {
        name,
        also: &[],
        glance,
    }
}

/// In the order in which they run: the slow ones first, so that none is left alone at the end.
pub(crate) const TARGETS: [Target; 11] = [
    target("bundle", 20_000),
    Target {
        name: "task_document",
        also: &["examples", "tests/bad"],
        glance: 20_000,
    },
    target("redactor", 20_000),
    target("join_csr", 50_000),
    target("join_kubernetes", 50_000),
    target("expression", 50_000),
    target("join_token", 200_000),
    target("manager_wire", 200_000),
    target("join_aws", 200_000),
    target("agent_wire", 500_000),
    target("log_records", 500_000),
];

impl Target {
    /// Where inputs are that it begins with, each folder that exists.
    pub(crate) fn seeds(&self, root: &Path) -> Vec<std::path::PathBuf> {
        let own = root.join("tests/fuzz/seeds").join(self.name);
        let also = self.also.iter().map(|folder| root.join(folder));
        std::iter::once(own).chain(also).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than this is not a seed but a corpus.
    const MAX_SEED_BYTES: u64 = 8 * 1024;

    #[test]
    fn every_target_is_one_of_the_package_and_has_small_seeds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let manifest = std::fs::read_to_string(root.join("tests/fuzz/Cargo.toml")).expect("the package");
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
        for target in TARGETS {
            let bin = format!("name = \"{}\"\npath = \"targets/{}.rs\"", target.name, target.name);
            assert!(manifest.contains(&bin), "{} is not in the package", target.name);
            let seeds = std::fs::read_dir(&target.seeds(&root)[0]).expect("seeds");
            let sizes: Vec<u64> = seeds
                .map(|seed| seed.expect("one").metadata().expect("one").len())
                .collect();
            assert!(!sizes.is_empty(), "{} has no seeds", target.name);
            assert!(
                sizes.iter().all(|size| *size <= MAX_SEED_BYTES),
                "{}: {sizes:?}",
                target.name
            );
        }
    }
}
