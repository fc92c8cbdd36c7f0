//! A step with its expressions evaluated. Called by the executor when a step begins: texts become
//! texts, AWS documents and manifests keep the types of their expressions.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::secret::StepSecret;
use super::step::{EcsRollingDeploy, KubernetesApply, KubernetesRollingDeploy, Manifests, NoopEffect, Shell, StepKind};
use crate::expression::{ExpressionError, Scope, evaluate_text, evaluate_tree};

impl StepKind {
    /// The same step with every expression evaluated.
    ///
    /// # Errors
    /// The first expression that cannot be evaluated.
    pub fn evaluated(&self, scope: &Scope) -> Result<Self, ExpressionError> {
        let text = |text: &String| evaluate_text(text, scope);
        let optional = |text: &Option<String>| text.as_deref().map(|text| evaluate_text(text, scope)).transpose();
        Ok(match self {
            Self::Shell(step) => Self::Shell(Shell {
                run: text(&step.run)?,
                shell: step.shell,
                source: optional(&step.source)?,
                env: texts(&step.env, scope)?,
                secrets: secrets(&step.secrets, scope)?,
                secret_outputs: step.secret_outputs.clone(),
                retry_safe: step.retry_safe,
                cluster: optional(&step.cluster)?,
                grace: step.grace.clone(),
            }),
            Self::EcsRollingDeploy(step) => Self::EcsRollingDeploy(EcsRollingDeploy {
                cluster: text(&step.cluster)?,
                service: text(&step.service)?,
                task_definition: map(&step.task_definition, scope)?,
                service_definition: map(&step.service_definition, scope)?,
                allow_unknown_fields: step.allow_unknown_fields,
            }),
            Self::KubernetesApply(step) => Self::KubernetesApply(KubernetesApply {
                cluster: text(&step.cluster)?,
                namespace: optional(&step.namespace)?,
                manifests: manifests(&step.manifests, scope)?,
                force_conflicts: step.force_conflicts,
            }),
            Self::KubernetesRollingDeploy(step) => Self::KubernetesRollingDeploy(KubernetesRollingDeploy {
                cluster: text(&step.cluster)?,
                namespace: optional(&step.namespace)?,
                manifests: manifests(&step.manifests, scope)?,
                force_conflicts: step.force_conflicts,
            }),
            Self::NoopEffect(NoopEffect {}) => Self::NoopEffect(NoopEffect {}),
        })
    }
}

fn texts(entries: &BTreeMap<String, String>, scope: &Scope) -> Result<BTreeMap<String, String>, ExpressionError> {
    entries
        .iter()
        .map(|(key, value)| Ok((key.clone(), evaluate_text(value, scope)?)))
        .collect()
}

fn secrets(
    entries: &BTreeMap<String, StepSecret>,
    scope: &Scope,
) -> Result<BTreeMap<String, StepSecret>, ExpressionError> {
    let evaluated = |secret: &StepSecret| {
        Ok(StepSecret {
            delivery: secret.delivery,
            from: secret.from.map(|text| evaluate_text(text, scope))?,
        })
    };
    entries
        .iter()
        .map(|(name, secret)| Ok((name.clone(), evaluated(secret)?)))
        .collect()
}

fn map(entries: &Map<String, Value>, scope: &Scope) -> Result<Map<String, Value>, ExpressionError> {
    entries
        .iter()
        .map(|(key, value)| Ok((key.clone(), evaluate_tree(value, scope)?)))
        .collect()
}

fn manifests(from: &Manifests, scope: &Scope) -> Result<Manifests, ExpressionError> {
    Ok(Manifests {
        manifests: from
            .manifests
            .iter()
            .map(|object| map(object, scope))
            .collect::<Result<_, _>>()?,
        files: from
            .files
            .iter()
            .map(|file| evaluate_text(file, scope))
            .collect::<Result<_, _>>()?,
        source: from
            .source
            .as_deref()
            .map(|source| evaluate_text(source, scope))
            .transpose()?,
    })
}
