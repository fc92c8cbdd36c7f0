//! Checks of references to secrets: that they name something there can be, and that no two things claim one name.

use super::super::aws::region_of_arn;
use super::super::kubernetes_name::{namespace_problem, secret_problem};
use super::super::secret::ENVIRONMENT_PREFIX;
use super::super::source::Finding;
use super::super::tree::{Entry, Node};
use super::super::variable::{refusal, way_out};
use super::whole::Check;

/// Most secrets of a step.
const MAX_SECRETS: usize = 100;

impl Check<'_> {
    /// `secrets` of a step.
    pub(super) fn step_secrets(&mut self, kind: &Entry) {
        let Some(secrets) = kind.value.entry("secrets") else {
            return;
        };
        let entries = secrets.value.entries();
        if entries.len() > MAX_SECRETS {
            let message = format!("the step has {} secrets; at most {MAX_SECRETS}", entries.len());
            self.findings.push(Finding::error(secrets.key_span, message));
        }
        for entry in entries {
            self.variable_name(entry);
            if kind.value.get("env").is_some_and(|env| env.get(&entry.key).is_some()) {
                let message = format!("`{}` is in `env` too", entry.key);
                self.findings
                    .push(Finding::error(entry.key_span, message).hint("give one of them another name"));
            }
            self.secret_ref(&entry.value);
        }
    }

    /// A name that a shell can read, and that a task may set.
    pub(super) fn variable_name(&mut self, entry: &Entry) {
        let good = !entry.key.starts_with(|c: char| c.is_ascii_digit())
            && !entry.key.is_empty()
            && entry
                .key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !good {
            self.findings.push(
                Finding::error(
                    entry.key_span,
                    format!("`{}` cannot be the name of an environment variable", entry.key),
                )
                .hint("letters, digits and `_`, not beginning with a digit"),
            );
        } else if let Some(why) = refusal(&entry.key) {
            let finding = Finding::error(entry.key_span, format!("a step cannot set `{}`: it {why}", entry.key));
            self.findings.push(finding.hint(way_out(&entry.key)));
        }
    }

    /// A reference, wherever it stands.
    pub(super) fn secret_ref(&mut self, reference: &Node) {
        for kind in reference.entries() {
            match kind.key.as_str() {
                "awsSecretsManager" => self.aws_secret(kind, "id", "secretsmanager"),
                "awsParameter" => self.aws_secret(kind, "name", "ssm"),
                "environment" => self.environment(&kind.value),
                "file" => {
                    self.not_empty(&kind.value, "the path of a secret's file");
                    self.relative(&kind.value, "a secret's file");
                }
                "kubernetesSecret" => {
                    self.needs_aws(kind, "a Secret of an EKS cluster");
                    for key in ["cluster", "key"] {
                        if let Some(node) = kind.value.get(key) {
                            self.not_empty(node, &format!("`{key}`"));
                        }
                    }
                    if let Some(node) = kind.value.get("namespace") {
                        self.kubernetes_name(node, "namespace", namespace_problem);
                    }
                    if let Some(node) = kind.value.get("name") {
                        self.kubernetes_name(node, "Secret", secret_problem);
                    }
                }
                _ => {}
            }
        }
    }

    fn aws_secret(&mut self, kind: &Entry, name: &str, service: &str) {
        self.needs_aws(kind, "a secret in AWS");
        let (whole, inner) = (&kind.value, kind.value.get(name));
        let Some(node) = inner.or(whole.text().is_some().then_some(whole)) else {
            return;
        };
        let text = node.text().unwrap_or_default();
        let id = text.split_once('#').map_or(text, |(id, _)| id);
        if id.trim().is_empty() {
            self.findings
                .push(Finding::error(node.span, "the name of the secret is empty"));
        } else if id.starts_with("arn:") && !self.is_evaluated(id) && id.split(':').nth(2) != Some(service) {
            let finding = Finding::error(node.span, format!("this is not an ARN of `{service}`"));
            self.findings.push(finding.hint(format!(
                "`{}` takes a name, or an ARN that begins with arn:aws:{service}:",
                kind.key
            )));
        }
        if !self.is_evaluated(id)
            && let Err(bad) = region_of_arn(id)
        {
            let finding = Finding::error(node.span, bad.to_string());
            self.findings
                .push(finding.hint("the fourth part of an ARN, for example eu-west-1"));
        }
        if inner.is_some() && text.contains('#') {
            let finding = Finding::error(node.span, "`#` cannot stand here");
            self.findings.push(finding.hint("write the key as `jsonKey`"));
        }
        if let (Some(_), Some(stage)) = (whole.get("versionId"), whole.entry("versionStage")) {
            let finding = Finding::error(
                stage.key_span,
                "a version is named by its id or by its stage, not by both",
            );
            self.findings.push(finding.hint("remove one of them"));
        }
        if let Some(node) = whole.get("jsonKey") {
            self.not_empty(node, "`jsonKey`");
        }
        let key = whole.get("jsonKey").unwrap_or(node);
        let pointer = match whole.get("jsonKey") {
            Some(key) => key.text(),
            None => text.split_once('#').map(|(_, key)| key),
        };
        if pointer.is_some_and(|text| text.starts_with('/') && has_bad_escape(text)) {
            let finding = Finding::error(key.span, "in a path of JSON keys, `~` stands only in `~0` and `~1`");
            self.findings
                .push(finding.hint("write `~0` for `~` and `~1` for `/` within a key"));
        }
    }

    fn environment(&mut self, node: &Node) {
        let Some(name) = node.text().filter(|name| !self.is_evaluated(name)) else {
            return;
        };
        if !name.starts_with(ENVIRONMENT_PREFIX) || name.len() == ENVIRONMENT_PREFIX.len() {
            let message = format!(
                "a task cannot have the agent's variable `{}`",
                name.chars().take(60).collect::<String>()
            );
            self.findings.push(Finding::error(node.span, message).hint(format!(
                "only variables whose names begin with {ENVIRONMENT_PREFIX} are meant for tasks; the agent's others may be its own identity"
            )));
        }
    }
}

fn has_bad_escape(pointer: &str) -> bool {
    let mut parts = pointer.split('~');
    parts.next();
    parts.any(|part| !part.starts_with(['0', '1']))
}
