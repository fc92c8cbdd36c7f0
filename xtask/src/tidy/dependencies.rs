//! Layers: which of our crates may depend on which, and which crates of others are kept to some layers.
//! The table is the one of ARCHITECTURE.md.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::problem::Problem;

/// Our crates, and those of ours that each may use.
const LAYERS: &[(&str, &[&str])] = &[
    ("deputy-task", &[]),
    ("deputy-process", &[]),
    ("deputy-folder", &[]),
    ("deputy-proto", &[]),
    ("deputy-dial", &[]),
    ("deputy-logs", &["deputy-task"]),
    ("deputy-bundle", &["deputy-task", "deputy-folder"]),
    ("deputy-policy", &["deputy-task"]),
    ("deputy-seal", &["deputy-task"]),
    ("deputy-credentials", &["deputy-task", "deputy-dial"]),
    (
        "deputy-steps",
        &[
            "deputy-task",
            "deputy-dial",
            "deputy-credentials",
            "deputy-process",
            "deputy-folder",
            "deputy-logs",
        ],
    ),
    (
        "deputy-session",
        &["deputy-task", "deputy-proto", "deputy-dial", "deputy-logs"],
    ),
    (
        "deputy-executor",
        &[
            "deputy-task",
            "deputy-process",
            "deputy-folder",
            "deputy-bundle",
            "deputy-policy",
            "deputy-seal",
            "deputy-steps",
            "deputy-credentials",
            "deputy-logs",
        ],
    ),
    (
        "deputy-agent",
        &[
            "deputy-task",
            "deputy-process",
            "deputy-dial",
            "deputy-logs",
            "deputy-policy",
            "deputy-seal",
            "deputy-credentials",
            "deputy-steps",
            "deputy-session",
            "deputy-executor",
        ],
    ),
    ("deputy-manager", &["deputy-proto", "deputy-dial", "deputy-task"]),
    ("deputy-cli", &["deputy-proto", "deputy-dial", "deputy-task"]),
];

/// Crates of others that only some of ours may use directly: a name, or a beginning with `*`.
const KEPT: &[(&str, &[&str])] = &[
    (
        "tonic*",
        &[
            "deputy-proto",
            "deputy-session",
            "deputy-manager",
            "deputy-cli",
            "deputy-tests",
        ],
    ),
    // The command signs tasks by KMS, and asks AWS for nothing else.
    (
        "aws-sdk-kms",
        &["deputy-cli", "deputy-credentials", "deputy-steps", "deputy-tests"],
    ),
    ("aws-sdk-*", &["deputy-credentials", "deputy-steps", "deputy-tests"]),
    ("kube", &["deputy-steps", "deputy-tests"]),
    ("k8s-openapi", &["deputy-steps", "deputy-tests"]),
    ("cedar-policy", &["deputy-policy"]),
    ("rusqlite", &["deputy-manager", "deputy-tests"]),
    ("anyhow", &["deputy-tests", "xtask"]),
];

/// Crates that nothing may pull in, and why.
const BANNED: &[(&str, &str)] = &[
    ("ring", "aws-lc-rs is the one provider of cryptography"),
    ("openssl", "rustls is the one TLS"),
    ("openssl-sys", "rustls is the one TLS"),
    ("native-tls", "rustls is the one TLS"),
    ("reqwest", "hyper is the one HTTP client"),
    ("serde_yaml", "unmaintained"),
    ("chrono", "jiff is the one calendar"),
];

/// What is banned and pulled in all the same by one crate of others, and why that is bearable.
const EXCEPTED: &[(&str, &str)] = &[
    // The formatter that comes with cedar-policy turns on Cedar's `datetime` extension, which needs chrono's
    // calendar arithmetic: no clock, no time zones, no features.
    ("chrono", "cedar-policy-core"),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

/// Everything about the crate graph.
pub(crate) fn check(root: &Path) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let metadata = metadata(root)?;
    for package in metadata
        .packages
        .iter()
        .filter(|package| metadata.workspace_members.contains(&package.id))
    {
        problems.extend(check_package(root, package));
    }
    problems.extend(check_banned(root)?);
    Ok(problems)
}

fn metadata(root: &Path) -> Result<Metadata> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(root)
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform"]);
    let output = cargo
        .arg("x86_64-unknown-linux-gnu")
        .output()
        .context("running cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("reading cargo metadata")
}

fn check_package(root: &Path, package: &Package) -> Vec<Problem> {
    let file = package
        .manifest_path
        .strip_prefix(root)
        .unwrap_or(&package.manifest_path)
        .to_owned();
    let text = std::fs::read_to_string(&package.manifest_path).unwrap_or_default();
    let mut problems = Vec::new();
    let allowed = LAYERS
        .iter()
        .find(|(name, _)| *name == package.name)
        .map(|(_, allowed)| *allowed);
    for dependency in package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind.as_deref() != Some("dev"))
    {
        let line = text
            .lines()
            .position(|line| line.starts_with(&dependency.name))
            .map_or(0, |index| index + 1);
        let mut say = |what: String, mend: &str| {
            problems.push(Problem {
                file: file.clone(),
                line,
                what,
                mend: mend.into(),
            });
        };
        let ours = LAYERS.iter().any(|(name, _)| *name == dependency.name);
        if ours && allowed.is_some_and(|allowed| !allowed.contains(&dependency.name.as_str())) {
            let what = format!(
                "{} must not depend on {}: the arrow would point up",
                package.name, dependency.name
            );
            say(
                what,
                "move what is needed into a lower layer, or pass it in from the agent",
            );
        }
        // The first that fits: what is said of one crate stands above what is said of all of its kind.
        let kept = KEPT.iter().find(|(pattern, _)| match pattern.strip_suffix('*') {
            Some(start) => dependency.name.starts_with(start) && dependency.name != "tonic-prost-build",
            None => dependency.name == *pattern,
        });
        if let Some((_, keepers)) = kept.filter(|(_, keepers)| !keepers.contains(&package.name.as_str())) {
            let what = format!(
                "{} must not use {}: it belongs to {}",
                package.name,
                dependency.name,
                keepers.join(", ")
            );
            say(what, "keep it behind the layer that owns it");
        }
    }
    problems
}

/// By `cargo tree`, because `cargo metadata` also lists optional crates that nobody has turned on.
fn check_banned(root: &Path) -> Result<Vec<Problem>> {
    let everything = tree(root, &["--prefix", "none", "--format", "{p}"])?;
    let present: BTreeSet<&str> = everything.lines().filter_map(|line| line.split(' ').next()).collect();
    let mut problems = Vec::new();
    for (name, why) in BANNED.iter().filter(|(name, _)| present.contains(name)) {
        let users = tree(
            root,
            &["--invert", name, "--prefix", "none", "--format", "{p}", "--depth", "1"],
        )?;
        let users: Vec<&str> = users
            .lines()
            .skip(1)
            .map(|line| line.split(' ').next().unwrap_or(line))
            .filter(|user| !EXCEPTED.contains(&(*name, *user)))
            .collect();
        if users.is_empty() {
            continue;
        }
        problems.push(Problem {
            file: "Cargo.lock".into(),
            line: 0,
            what: format!("{} pulls in {name}: {why}", users.join(", ")),
            mend: "turn off the feature that needs it, or use another crate".into(),
        });
    }
    Ok(problems)
}

fn tree(root: &Path, arguments: &[&str]) -> Result<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(root)
        .args(["tree", "--workspace", "--locked", "--edges", "normal,build"]);
    let output = cargo.args(arguments).output().context("running cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
