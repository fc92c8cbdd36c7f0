//! For which steps of a signed task its signature does not count: those whose arguments are made of what only
//! the manager asserts. A signer vouches for the document, and not for what is put into it later.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::model::Spec;
use super::step::{Manifests, Step, StepKind};
use crate::expression::reference::mentions;
use crate::expression::segment::{Segment, split};
use crate::record::{Record, RecordBody};

/// Names behind `task.` that no signature is over and nobody but the manager says.
const ASSERTED: [&str; 3] = ["id", "run", "submitter"];

/// Variables of every script's environment that have the same.
const GIVEN: [&str; 2] = ["DEPUTY_TASK_ID", "DEPUTY_ATTEMPT"];

/// Where a fact of the task says what was fetched of a source.
const SOURCE: &str = "source/";

/// What an attempt was given in a journal that nobody but the manager vouches for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unsealed {
    /// Steps with records of their own.
    steps: BTreeSet<String>,
    /// Facts of the task itself.
    facts: BTreeSet<String>,
    why: Unsure,
}

/// Why nobody but the manager vouches for a journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unsure {
    /// No key of the pool is behind it.
    #[default]
    Unsealed,
    /// It is sealed, for the task as the manager sent it: the agent that began the run did not know the signer.
    UnknownSigner,
}

/// Why the signature does not count, by step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doubts(BTreeMap<String, String>);

impl Unsealed {
    /// Of these records. `task` stands for a step in the keys of the task itself.
    #[must_use]
    pub fn of(journal: &[Record], task: &str, why: Unsure) -> Self {
        let mut unsealed = Self { why, ..Self::default() };
        let said = journal
            .iter()
            .filter(|record| !matches!(record.body, RecordBody::Decision(_)));
        for record in said {
            match record.key.as_str().split_once('/') {
                Some((step, name)) if step == task => unsealed.facts.insert(name.to_owned()),
                _ => unsealed.steps.insert(record.key.step().to_owned()),
            };
        }
        unsealed
    }

    fn unsure_of(&self, what: &str) -> String {
        match self.why {
            Unsure::Unsealed => format!("{what} comes from a journal that is not sealed; give the pool a pool key"),
            Unsure::UnknownSigner => format!(
                "{what} comes from a run that was begun by an agent that did not know the signer; give every agent of the pool the same trusted signers, and run it anew with `deputy retry`"
            ),
        }
    }
}

impl Doubts {
    /// Of a task that is signed.
    #[must_use]
    pub fn of(spec: &Spec, unsealed: &Unsealed) -> Self {
        let mut doubts = Self::default();
        for step in &spec.steps {
            if let Some(why) = doubts.about(step, unsealed) {
                doubts.0.insert(step.name.clone(), why);
            }
        }
        doubts
    }

    /// Why the signature does not count for this step.
    #[must_use]
    pub fn why(&self, step: &str) -> Option<&str> {
        self.0.get(step).map(String::as_str)
    }

    fn about(&self, step: &Step, unsealed: &Unsealed) -> Option<String> {
        if unsealed.steps.contains(&step.name) {
            let what = format!("what was done of step {} before", step.name);
            return Some(unsealed.unsure_of(&what));
        }
        if let Some(source) = pinned(&step.kind, unsealed) {
            return Some(unsealed.unsure_of(&format!("the version of source {source}")));
        }
        if let Some(name) = given(&step.kind) {
            return Some(format!("{name} is what only the manager says"));
        }
        paths(step).iter().find_map(|path| self.about_path(path, unsealed))
    }

    fn about_path(&self, path: &[String], unsealed: &Unsealed) -> Option<String> {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        match names.as_slice() {
            ["task"] => Some("all of `task` has in it what only the manager says".to_owned()),
            ["task", name, ..] if ASSERTED.contains(name) => Some(format!("task.{name} is what only the manager says")),
            ["agent", ..] if unsealed.facts.contains("agent") => Some(unsealed.unsure_of("agent")),
            ["steps"] => {
                let all = unsealed.steps.iter().chain(self.0.keys());
                all.into_iter().next().map(|step| self.about_outputs(step, unsealed))
            }
            ["steps", step, ..] if unsealed.steps.contains(*step) || self.0.contains_key(*step) => {
                Some(self.about_outputs(step, unsealed))
            }
            _ => None,
        }
    }

    fn about_outputs(&self, step: &str, unsealed: &Unsealed) -> String {
        match self.why(step) {
            Some(why) if !unsealed.steps.contains(step) => format!("steps.{step}.outputs: {why}"),
            _ => unsealed.unsure_of(&format!("steps.{step}.outputs")),
        }
    }
}

/// The variable with the manager's word that a script names. What a file of a source names is not seen.
fn given(kind: &StepKind) -> Option<&'static str> {
    let StepKind::Shell(shell) = kind else { return None };
    let texts = || std::iter::once(&shell.run).chain(shell.env.values());
    GIVEN.into_iter().find(|name| texts().any(|text| text.contains(name)))
}

/// A source that the step has and whose version is on record.
fn pinned(kind: &StepKind, unsealed: &Unsealed) -> Option<String> {
    let of_manifests = |manifests: &Manifests| (!manifests.files.is_empty()).then(|| manifests.source.clone());
    let named = match kind {
        StepKind::Shell(shell) => shell.source.clone(),
        StepKind::KubernetesApply(apply) => of_manifests(&apply.manifests)?,
        StepKind::KubernetesRollingDeploy(deploy) => of_manifests(&deploy.manifests)?,
        StepKind::EcsRollingDeploy(_) | StepKind::NoopEffect(_) => return None,
    };
    // An expression may name any of them.
    let named = named.filter(|name| !name.contains("${{"));
    let mut sources = unsealed.facts.iter().filter_map(|fact| fact.strip_prefix(SOURCE));
    sources
        .find(|source| named.as_deref().is_none_or(|name| name == *source))
        .map(str::to_owned)
}

/// The variables in the expressions of a step, its `when` too.
fn paths(step: &Step) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut look = |source: &str| found.extend(mentions(source).variables.into_iter().map(|variable| variable.path));
    if let Some(when) = &step.when {
        look(when);
    }
    // A step is made of text, numbers and lists of them: it has a JSON form.
    let mut left = vec![serde_json::to_value(&step.kind).unwrap_or_default()];
    while let Some(value) = left.pop() {
        match value {
            Value::String(text) => {
                for segment in split(&text).unwrap_or_default() {
                    if let Segment::Expression { source, .. } = segment {
                        look(source);
                    }
                }
            }
            Value::Array(items) => left.extend(items),
            Value::Object(entries) => left.extend(entries.into_iter().map(|(_, entry)| entry)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::{EffectKey, Sealing};

    fn spec(steps: Value) -> Spec {
        serde_json::from_value(json!({"steps": steps})).expect("a spec")
    }

    fn journal(keys: &[&str]) -> Unsealed {
        let record = |key: &&str| Record {
            key: EffectKey::from_journal((*key).to_owned()),
            program_version: 1,
            step_kind: "shell".into(),
            body: RecordBody::Fact(json!({}).into()),
            epoch: 0,
            sealing: Sealing::default(),
        };
        Unsealed::of(&keys.iter().map(record).collect::<Vec<_>>(), "@task", Unsure::Unsealed)
    }

    fn told(spec: &Spec, unsealed: &Unsealed) -> Vec<String> {
        let doubts = Doubts::of(spec, unsealed);
        doubts.0.iter().map(|(step, why)| format!("{step}: {why}")).collect()
    }

    /// Guards that what only the manager says is found however it comes into a step, also through another step.
    #[test]
    fn a_signature_does_not_count_for_what_only_the_manager_says() {
        let spec = spec(json!([
            {"name": "a", "shell": {"run": "echo ${{ task.name }} ${{ task.project }} ${{ task.labels.x }} ${{ agent.id }}"}},
            {"name": "b", "shell": {"run": "echo ${{ 'by ' ~ task.submitter }}"}},
            {"name": "c", "shell": {"run": "x", "env": {"A": "${{ steps.b.outputs.y }}"}}},
            {"name": "d", "when": "steps['c'].outputs.z == 'x'", "shell": {"run": "x"}},
            {"name": "e", "kubernetesApply": {"cluster": "c", "manifests": [{"metadata": {"name": "x-${{ task['id'] }}"}}]}},
            {"name": "f", "ecsRollingDeploy": {"cluster": "c", "service": "s", "taskDefinition": {"x": ["${{ [task] }}"]}}},
            {"name": "g", "shell": {"run": "echo ${{ steps.a.outputs.o }}"}},
            {"name": "h", "shell": {"run": "echo ${{ steps[inputs.which] }}"}},
            {"name": "i", "shell": {"run": "mkdir \"out-$DEPUTY_TASK_ID\""}},
            {"name": "j", "shell": {"run": "x", "env": {"NAME": "DEPUTY_ATTEMPT"}}},
            {"name": "k", "shell": {"run": "echo $DEPUTY_STEP > $DEPUTY_OUTPUT"}},
        ]));
        insta::assert_snapshot!(told(&spec, &Unsealed::default()).join("\n"), @r"
        b: task.submitter is what only the manager says
        c: steps.b.outputs: task.submitter is what only the manager says
        d: steps.c.outputs: steps.b.outputs: task.submitter is what only the manager says
        e: task.id is what only the manager says
        f: all of `task` has in it what only the manager says
        h: steps.b.outputs: task.submitter is what only the manager says
        i: DEPUTY_TASK_ID is what only the manager says
        j: DEPUTY_ATTEMPT is what only the manager says
        ");
    }

    #[test]
    fn a_signature_does_not_count_for_what_an_unsealed_journal_says() {
        let spec = spec(json!([
            {"name": "a", "shell": {"run": "true"}},
            {"name": "b", "shell": {"run": "echo ${{ steps.a.outputs.o }}", "source": "other"}},
            {"name": "c", "shell": {"run": "echo ${{ steps.b.outputs.o }}", "source": "other"}},
            {"name": "d", "shell": {"run": "true", "source": "code"}},
            {"name": "e", "shell": {"run": "true", "source": "other"}},
            {"name": "f", "shell": {"run": "echo ${{ agent.id }}", "source": "other"}},
            {"name": "g", "kubernetesApply": {"cluster": "c", "files": ["a.yaml"]}},
            {"name": "h", "kubernetesApply": {"cluster": "c", "manifests": [{}]}},
        ]));
        let keys = ["a/outputs", "@task/source/code", "@task/agent", "h/undo:undone"];
        insta::assert_snapshot!(told(&spec, &journal(&keys)).join("\n"), @r"
        a: what was done of step a before comes from a journal that is not sealed; give the pool a pool key
        b: steps.a.outputs comes from a journal that is not sealed; give the pool a pool key
        c: steps.b.outputs: steps.a.outputs comes from a journal that is not sealed; give the pool a pool key
        d: the version of source code comes from a journal that is not sealed; give the pool a pool key
        f: agent comes from a journal that is not sealed; give the pool a pool key
        g: the version of source code comes from a journal that is not sealed; give the pool a pool key
        h: what was done of step h before comes from a journal that is not sealed; give the pool a pool key
        ");
    }
}
