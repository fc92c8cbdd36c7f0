//! The programs that steps may need.

use std::ffi::OsStr;

use super::report::{Finding, Verdict};
use crate::tools::{ask_versions, find};

const AREA: &str = "tools";

/// What is on `path`, with versions; what is not there is named in one line.
pub(crate) async fn findings(path: &OsStr) -> Vec<Finding> {
    let tools = ask_versions(find(path), path).await;
    let mut findings: Vec<Finding> = tools
        .iter()
        .map(|tool| {
            let check = tool.name.as_str();
            match (tool.problem.as_str(), tool.version.as_str()) {
                ("", "") => Finding::good(AREA, check, tool.path.clone()),
                ("", version) => Finding::good(AREA, check, format!("{version}, {}", tool.path)),
                (problem, _) => Finding::new(AREA, check, Verdict::Warning, problem)
                    .hint("install a build that runs here, or take it out of PATH: steps that need it will fail"),
            }
        })
        .collect();
    let missing: Vec<&str> = crate::tools::names()
        .filter(|name| !tools.iter().any(|tool| tool.name == *name))
        .collect();
    if !missing.is_empty() {
        findings.push(Finding::skipped(
            AREA,
            "not found",
            format!("{}; only steps that use them need them", missing.join(", ")),
        ));
    }
    findings
}
