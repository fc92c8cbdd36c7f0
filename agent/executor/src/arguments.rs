//! What a step is asked to do, its expressions evaluated: over the task, its inputs, the outputs of
//! earlier steps, and what the first attempt said of its agent. Called by [`crate::forward`] and
//! [`crate::undo`].

use std::collections::BTreeMap;

use deputy_steps::context::Outputs;
use deputy_steps::effect::Readers;
use deputy_steps::failure::Halt;
use deputy_task::document::{Step, StepKind};
use deputy_task::expression::{AgentNames, ExpressionError, Scope, StepNames, evaluate_bool};
use deputy_task::outcome::Failure;
use deputy_task::record::{EffectKey, Record, RecordBody, Sealing};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::attempt::{Attempt, TASK};
use crate::hidden::Hidden;

/// The fact that a step has ended, with its outputs.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RecordedOutputs {
    /// Not secret.
    pub(crate) values: Map<String, Value>,
    /// The names of those that are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) secrets: Vec<String>,
}

/// The names that expressions of this attempt can see so far. Nothing is put together before the
/// first expression asks.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    scope: Option<Box<Scope>>,
    /// Of steps that ended before there was a scope.
    ended: BTreeMap<String, StepNames>,
    agent: AgentSeen,
    /// Secret outputs that were made by an attempt before this one.
    lost: Vec<LostOutput>,
    /// Secret outputs that were made by this attempt.
    secrets: Vec<SecretOutput>,
}

#[derive(Debug)]
struct SecretOutput {
    step: String,
    name: String,
    value: String,
}

#[derive(Debug)]
struct LostOutput {
    step: String,
    name: String,
}

/// What a step is asked to do.
#[derive(Debug)]
pub(crate) struct Evaluated {
    /// The step with its expressions evaluated.
    pub(crate) kind: StepKind,
    /// What of it comes from secret outputs.
    pub(crate) hidden: Hidden,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum AgentSeen {
    #[default]
    NotYet,
    Recorded,
}

impl Arguments {
    fn scope(&mut self, attempt: &Attempt) -> &mut Scope {
        let ended = std::mem::take(&mut self.ended);
        let scope = self.scope.get_or_insert_with(|| Box::new(attempt.names()));
        scope.steps.extend(ended);
        scope
    }

    /// A step ended in this attempt.
    pub(crate) fn ended(&mut self, step: &str, outputs: Outputs) {
        let secrets = outputs.secrets.iter().map(|(name, value)| SecretOutput {
            step: step.to_owned(),
            name: name.clone(),
            value: value.clone(),
        });
        self.secrets.extend(secrets);
        let mut names = outputs.values;
        names.extend(
            outputs
                .secrets
                .into_iter()
                .map(|(name, value)| (name, Value::String(value))),
        );
        self.ended.insert(step.to_owned(), StepNames { outputs: names });
    }

    /// A step ended in an attempt before this one. `kept` are those of its secret outputs that were sealed.
    pub(crate) fn replayed(&mut self, step: &str, outputs: RecordedOutputs, kept: BTreeMap<String, String>) {
        let lost = outputs.secrets.into_iter().filter(|name| !kept.contains_key(name));
        self.lost.extend(lost.map(|name| LostOutput {
            step: step.to_owned(),
            name,
        }));
        let outputs = Outputs {
            values: outputs.values,
            secrets: kept,
        };
        self.ended(step, outputs);
    }

    /// Lets names stand for the secret outputs that are lost. For undo: what it puts back is recorded, so it needs
    /// no secret, and it must not depend on which agent runs it.
    pub(crate) fn name_lost(&mut self) {
        for lost in &self.lost {
            if let Some(names) = self.ended.get_mut(&lost.step) {
                let stand_in = placeholder(&lost.step, &lost.name);
                names.outputs.insert(lost.name.clone(), stand_in.into());
            }
        }
    }

    /// Is the step to be run?
    pub(crate) async fn wanted(&mut self, attempt: &Attempt, step: &Step) -> Result<bool, ArgumentError> {
        let Some(when) = &step.when else { return Ok(true) };
        if when.contains("agent") {
            self.see_agent(attempt).await?;
        }
        evaluate_bool(when, self.scope(attempt)).map_err(|error| self.explain(step, "when", &error))
    }

    /// The step with its expressions evaluated.
    pub(crate) async fn evaluate(&mut self, attempt: &Attempt, step: &Step) -> Result<Evaluated, ArgumentError> {
        if matches!(step.kind, StepKind::NoopEffect(_)) {
            return Ok(Evaluated {
                kind: step.kind.clone(),
                hidden: Hidden::default(),
            });
        }
        if self.agent == AgentSeen::NotYet && mentions_agent(&step.kind) {
            self.see_agent(attempt).await?;
        }
        let kind = step
            .kind
            .evaluated(self.scope(attempt))
            .map_err(|error| self.explain(step, step.kind.name(), &error))?;
        let hidden = self.hidden(attempt, step, &kind);
        Ok(Evaluated { kind, hidden })
    }

    /// The step is evaluated once more, with names in place of secret outputs: what differs is made of them.
    fn hidden(&mut self, attempt: &Attempt, step: &Step, kind: &StepKind) -> Hidden {
        if self.secrets.is_empty() {
            attempt.known.add(kind);
            return Hidden::default();
        }
        let mut scope = self.scope(attempt).clone();
        for secret in &self.secrets {
            if let Some(names) = scope.steps.get_mut(&secret.step) {
                names.outputs.insert(secret.name.clone(), secret.placeholder().into());
            }
        }
        match step.kind.evaluated(&scope) {
            Ok(named) => {
                attempt.known.add(&named);
                Hidden::between(kind, &named)
            }
            // An expression computes with a secret and takes no other text: it needs one that this attempt made.
            Err(_) => Hidden::of(
                self.secrets
                    .iter()
                    .map(|secret| (secret.value.clone(), secret.placeholder()))
                    .collect(),
            ),
        }
    }

    /// What is said of the agent steers the program and would differ in the next attempt: a fact.
    async fn see_agent(&mut self, attempt: &Attempt) -> Result<(), Halt> {
        if self.agent == AgentSeen::Recorded {
            return Ok(());
        }
        let key = task_key("agent");
        let recorded = attempt.replay().fact(&key);
        let value = match recorded {
            Some(value) => value,
            None => {
                let agent = &attempt.shared.environment.agent;
                let value = serde_json::json!({ "id": agent.id, "labels": agent.labels });
                attempt
                    .post_fact(
                        task_record(key, RecordBody::Fact(value.clone().into())),
                        Readers::Everybody,
                    )
                    .await?;
                value
            }
        };
        let labels: BTreeMap<String, String> = value
            .get("labels")
            .cloned()
            .and_then(|labels| serde_json::from_value(labels).ok())
            .unwrap_or_default();
        let id = value.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.scope(attempt).agent = AgentNames { id, labels };
        self.agent = AgentSeen::Recorded;
        Ok(())
    }

    fn explain(&self, step: &Step, place: &str, error: &ExpressionError) -> ArgumentError {
        let mut failure = Failure::new("expression", format!("{place} of step {}: {error}", step.name));
        failure.step.clone_from(&step.name);
        if self.lost.iter().any(|lost| error.to_string().contains(&lost.name)) {
            let lost: Vec<String> = self
                .lost
                .iter()
                .map(|lost| format!("{}.{}", lost.step, lost.name))
                .collect();
            failure = failure.hint(format!(
                "secret outputs live in the agent that made them and are lost with it ({}), unless the pool has a key to seal them with (--pool-key-file); run the task again from its beginning",
                lost.join(", ")
            ));
        }
        ArgumentError::Failed(Box::new(failure))
    }
}

impl SecretOutput {
    fn placeholder(&self) -> String {
        placeholder(&self.step, &self.name)
    }
}

/// What stands for a secret output.
fn placeholder(step: &str, name: &str) -> String {
    format!("<secret {step}.{name}>")
}

/// Why a step cannot be asked for.
#[derive(Debug)]
pub(crate) enum ArgumentError {
    /// An expression has no value.
    Failed(Box<Failure>),
    /// The attempt must stop.
    Halted(Halt),
}

impl From<Halt> for ArgumentError {
    fn from(halt: Halt) -> Self {
        Self::Halted(halt)
    }
}

/// The key of something that belongs to the task itself.
pub(crate) fn task_key(name: &str) -> EffectKey {
    EffectKey::new(TASK, name)
}

/// A record of the task itself.
pub(crate) fn task_record(key: EffectKey, body: RecordBody) -> Record {
    Record {
        key,
        program_version: 1,
        step_kind: String::new(),
        body,
        epoch: 0,
        sealing: Sealing::default(),
    }
}

fn mentions_agent(kind: &StepKind) -> bool {
    serde_json::to_string(kind).is_ok_and(|text| text.contains("${{") && text.contains("agent"))
}
