//! Can this agent ever run this task? Every reason why not, in words: the scheduler asks whether
//! the list is empty, `deputy explain` shows it.

use std::collections::BTreeMap;

use deputy_proto::v1;

use crate::store::task::Needs;

use super::selector::Selector;

/// What a task needs of an agent, and which journal the agent must be able to replay.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// What the document needs.
    pub needs: Needs,
    /// Step kinds with the program versions that the run's journal was written with.
    pub versions: Vec<(String, u32)>,
}

impl Requirement {
    /// The requirement of a run with these records in its journal.
    #[must_use]
    pub fn new(needs: Needs, journal: &[v1::Record]) -> Self {
        let mut versions: Vec<(String, u32)> = journal
            .iter()
            .filter(|record| !record.step_kind.is_empty())
            .map(|record| (record.step_kind.clone(), record.program_version))
            .collect();
        versions.sort();
        versions.dedup();
        Self { needs, versions }
    }
}

/// Every reason why an agent that offers this cannot run a task that needs that.
#[must_use]
pub fn refusals(requirement: &Requirement, selector: &Selector, offered: &v1::Capabilities) -> Vec<String> {
    let mut reasons = Vec::new();
    if !offered.holds_back.is_empty() {
        reasons.push(format!("it takes no tasks: {}", offered.holds_back));
    }
    let labels: BTreeMap<String, String> = offered
        .labels
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !selector.matches(&labels) {
        let shown: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let shown = if shown.is_empty() {
            "it has none".into()
        } else {
            format!("it has {}", shown.join(", "))
        };
        reasons.push(format!(
            "its labels do not match the selector {}: {shown}",
            requirement.needs.selector
        ));
    }
    for kind in &requirement.needs.steps {
        if !offered.steps.iter().any(|support| support.kind == *kind) {
            reasons.push(format!("it does not know the step kind {kind}"));
        }
    }
    for (kind, version) in &requirement.versions {
        if let Some(support) = offered.steps.iter().find(|support| support.kind == *kind)
            && !(support.min_version..=support.max_version).contains(version)
        {
            reasons.push(format!(
                "it replays journals of {kind} in versions {} to {}; this run's was written by version {version}",
                support.min_version, support.max_version
            ));
        }
    }
    for tool in &requirement.needs.tools {
        match offered.tools.iter().find(|offered| offered.name == *tool) {
            None => reasons.push(format!("it has no {tool}")),
            Some(found) if !found.problem.is_empty() => {
                reasons.push(format!("its {tool} ({}) cannot be used: {}", found.path, found.problem))
            }
            Some(_) => {}
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered() -> v1::Capabilities {
        v1::Capabilities {
            slots: 2,
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            steps: vec![v1::StepSupport {
                kind: "shell".into(),
                min_version: 2,
                max_version: 3,
            }],
            tools: vec![v1::Tool {
                name: "helm".into(),
                path: "/bin/helm".into(),
                problem: "wrong architecture".into(),
                ..v1::Tool::default()
            }],
            ..v1::Capabilities::default()
        }
    }

    #[test]
    fn every_reason_is_named() {
        let requirement = Requirement {
            needs: Needs {
                selector: "env == 'dev'".into(),
                steps: vec!["ecsRollingDeploy".into(), "shell".into()],
                tools: vec!["helm".into(), "sam".into()],
            },
            versions: vec![("shell".into(), 1)],
        };
        let selector = Selector::read(&requirement.needs.selector).expect("good");
        insta::assert_snapshot!(refusals(&requirement, &selector, &offered()).join("\n"), @r"
        its labels do not match the selector env == 'dev': it has env=prod
        it does not know the step kind ecsRollingDeploy
        it replays journals of shell in versions 2 to 3; this run's was written by version 1
        its helm (/bin/helm) cannot be used: wrong architecture
        it has no sam
        ");
    }

    #[test]
    fn an_agent_that_offers_everything_is_not_refused() {
        let requirement = Requirement {
            needs: Needs {
                steps: vec!["shell".into()],
                ..Needs::default()
            },
            versions: vec![("shell".into(), 3)],
        };
        assert_eq!(
            refusals(&requirement, &Selector::default(), &offered()),
            Vec::<String>::new()
        );
    }
}
