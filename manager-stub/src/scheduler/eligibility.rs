//! Can this agent ever run this task? Every reason why not, in words: the scheduler asks whether
//! the list is empty, `deputy explain` shows it.

use std::collections::BTreeMap;

use deputy_proto::v1;
use deputy_task::id::Project;

use crate::store::task::Needs;

use super::fleet::Member;
use super::selector::Selector;

/// What a task needs of an agent, and which journal the agent must be able to replay.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// Whose task it is.
    pub project: Project,
    /// What the document needs.
    pub needs: Needs,
    /// Step kinds with the program versions that the run's journal was written with.
    pub versions: Vec<(String, u32)>,
    /// What the run's journal is authenticated with.
    pub sealing: Sealing,
}

/// What a journal is authenticated with: who goes on with it must be able to verify it, and to be verified.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sealing {
    /// No agent has written to it yet.
    #[default]
    Unbegun,
    /// With nothing.
    Plain,
    /// With these pool keys: one, unless somebody has tampered with it.
    Keys(Vec<String>),
}

impl Requirement {
    /// The requirement of a run with these records in its journal.
    #[must_use]
    pub fn new(project: Project, needs: Needs, journal: &[v1::Record]) -> Self {
        let mut versions: Vec<(String, u32)> = journal
            .iter()
            .filter(|record| !record.step_kind.is_empty())
            .map(|record| (record.step_kind.clone(), record.program_version))
            .collect();
        versions.sort();
        versions.dedup();
        Self {
            project,
            needs,
            versions,
            sealing: Sealing::of(journal),
        }
    }
}

impl Sealing {
    /// The manager's own decisions are never authenticated.
    fn of(journal: &[v1::Record]) -> Self {
        let by_agents = journal
            .iter()
            .filter(|record| record.kind() != v1::RecordKind::Decision || !record.pool_key.is_empty());
        let mut keys: Vec<&str> = by_agents.map(|record| record.pool_key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        let begun = !keys.is_empty();
        keys.retain(|key| !key.is_empty());
        match (begun, keys.is_empty()) {
            (false, _) => Self::Unbegun,
            (true, true) => Self::Plain,
            (true, false) => Self::Keys(keys.into_iter().map(str::to_owned).collect()),
        }
    }

    /// Why an agent with these pool keys cannot go on with the run.
    fn refusal(&self, offered: &[String]) -> Option<String> {
        match self {
            Self::Unbegun => None,
            Self::Plain if offered.is_empty() => None,
            Self::Plain => Some("it has a pool key, and this run was begun by an agent without one".into()),
            Self::Keys(keys) => {
                let missing = keys.iter().find(|key| !offered.contains(key))?;
                let has = match offered {
                    [] => "it has none".to_owned(),
                    offered => format!("it has {}", offered.join(", ")),
                };
                Some(format!(
                    "this run's journal is sealed with the pool key {missing}: {has}"
                ))
            }
        }
    }
}

/// Every reason why this agent cannot run a task that needs that.
#[must_use]
pub fn refusals(requirement: &Requirement, selector: &Selector, member: &Member) -> Vec<String> {
    let offered = &member.offered;
    let mut reasons = Vec::new();
    let projects = &member.vouched.projects;
    if !projects.is_empty() && !projects.contains(&requirement.project) {
        let named: Vec<&str> = projects.iter().map(Project::as_str).collect();
        reasons.push(format!(
            "its join rule is for the projects {}, and not for {}",
            named.join(", "),
            requirement.project
        ));
    }
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
    reasons.extend(requirement.sealing.refusal(&offered.pool_keys));
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

    use crate::scheduler::fleet::Vouched;

    fn member() -> Member {
        let mut member = Member::new("a1".parse().expect("an agent id"));
        member.offer(offered());
        member
    }

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
            project: Project::default_project(),
            needs: Needs {
                selector: "env == 'dev'".into(),
                steps: vec!["ecsRollingDeploy".into(), "shell".into()],
                tools: vec!["helm".into(), "sam".into()],
            },
            versions: vec![("shell".into(), 1)],
            sealing: Sealing::Keys(vec!["0011223344556677".into()]),
        };
        let selector = Selector::read(&requirement.needs.selector).expect("good");
        insta::assert_snapshot!(refusals(&requirement, &selector, &member()).join("\n"), @r"
        its labels do not match the selector env == 'dev': it has env=prod
        it does not know the step kind ecsRollingDeploy
        it replays journals of shell in versions 2 to 3; this run's was written by version 1
        this run's journal is sealed with the pool key 0011223344556677: it has none
        its helm (/bin/helm) cannot be used: wrong architecture
        it has no sam
        ");
    }

    #[test]
    fn an_agent_that_offers_everything_is_not_refused() {
        let requirement = Requirement {
            project: Project::default_project(),
            needs: Needs {
                steps: vec!["shell".into()],
                ..Needs::default()
            },
            versions: vec![("shell".into(), 3)],
            sealing: Sealing::Unbegun,
        };
        assert_eq!(
            refusals(&requirement, &Selector::default(), &member()),
            Vec::<String>::new()
        );
    }

    #[test]
    fn who_goes_on_with_a_run_has_the_key_that_it_was_begun_with() {
        let record = |kind: v1::RecordKind, key: &str| v1::Record {
            kind: kind.into(),
            pool_key: key.into(),
            ..v1::Record::default()
        };
        let decision = || record(v1::RecordKind::Decision, "");
        let journal = |key: &str| vec![record(v1::RecordKind::Fact, key), decision()];
        let refusal = |journal: &[v1::Record], offered: &[&str]| {
            let offered: Vec<String> = offered.iter().map(|key| (*key).to_owned()).collect();
            Sealing::of(journal).refusal(&offered).unwrap_or_default()
        };
        for nobody_began in [vec![], vec![decision()]] {
            assert_eq!(refusal(&nobody_began, &[]), "");
            assert_eq!(refusal(&nobody_began, &["a"]), "");
        }
        assert_eq!(refusal(&journal(""), &[]), "");
        assert_eq!(refusal(&journal("a"), &["b", "a"]), "");
        let refused = [
            refusal(&journal(""), &["a"]),
            refusal(&journal("a"), &[]),
            refusal(&journal("a"), &["b", "c"]),
            refusal(&[record(v1::RecordKind::Decision, "a")], &[]),
        ];
        insta::assert_snapshot!(refused.join("\n"), @r"
        it has a pool key, and this run was begun by an agent without one
        this run's journal is sealed with the pool key a: it has none
        this run's journal is sealed with the pool key a: it has b, c
        this run's journal is sealed with the pool key a: it has none
        ");
    }

    #[test]
    fn the_pool_is_what_the_manager_knows_and_not_what_the_agent_says() {
        let requirement = |project: &str| Requirement {
            project: project.parse().expect("a project"),
            needs: Needs::default(),
            versions: Vec::new(),
            sealing: Sealing::Unbegun,
        };
        let mut member = Member::new("a1".parse().expect("an agent id"));
        member.vouched = Vouched {
            pool: Some("dev".into()),
            projects: vec!["shop".parse().expect("a project")],
            line: String::new(),
        };
        let mut lying = offered();
        lying.labels.insert("pool".into(), "prod".into());
        member.offer(lying);
        let refused = |selector: &str, project: &str| {
            let selector = Selector::read(selector).expect("good");
            refusals(&requirement(project), &selector, &member)
        };
        assert_eq!(refused("pool == 'prod'", "shop").len(), 1);
        assert_eq!(refused("pool == 'dev' && env == 'prod'", "shop"), Vec::<String>::new());
        assert_eq!(
            refused("pool == 'dev'", "bank"),
            ["its join rule is for the projects shop, and not for bank"]
        );
        assert_eq!(
            member.offered.warnings,
            ["it says of itself that its pool is prod; it joined as one of the pool dev, and that counts"]
        );
    }
}
