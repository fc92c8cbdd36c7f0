//! Checks of the steps: names, times, conditions, and what each kind needs.

use super::super::kubernetes_name::{namespace_problem, object_problem};
use super::super::output_name;
use super::super::source::Finding;
use super::super::tree::{Entry, Node};
use super::super::variable::MAX_VARIABLES;
use super::expressions::{Visible, contains_expression};
use super::whole::Check;

/// Most steps of a task.
const MAX_STEPS: usize = 200;

/// Most names in `secretOutputs` of a step: each line that its script writes is compared with all of them.
const MAX_SECRET_OUTPUTS: usize = 100;

/// Objects whose rollout can be followed.
const WORKLOADS: [&str; 3] = ["Deployment", "StatefulSet", "DaemonSet"];

impl<'a> Check<'a> {
    pub(super) fn steps(&mut self) {
        let Some(entry) = self.spec().and_then(|spec| spec.entry("steps")) else {
            return;
        };
        let steps = entry.value.items();
        if matches!(entry.value.data, super::super::tree::Data::List(_)) && steps.is_empty() {
            self.findings
                .push(Finding::error(entry.key_span, "the task has no steps"));
        }
        if steps.len() > MAX_STEPS {
            self.findings.push(Finding::error(
                entry.key_span,
                format!("the task has {} steps; at most {MAX_STEPS}", steps.len()),
            ));
        }
        let steps = steps.get(..MAX_STEPS).unwrap_or(steps);
        let all: Vec<&str> = steps.iter().filter_map(|step| step.get("name")?.text()).collect();
        let mut earlier: Vec<&str> = Vec::new();
        for step in steps {
            let name = step.get("name");
            if let Some(node) = name {
                self.name(node, "the name of a step");
                if node.text().is_some_and(|text| earlier.contains(&text)) {
                    let text = node.text().unwrap_or_default();
                    self.findings.push(
                        Finding::error(node.span, format!("there is another step `{text}`"))
                            .hint("names of steps are unique: outputs and the journal use them"),
                    );
                }
            }
            self.step(
                step,
                Visible::InStep {
                    earlier: &earlier,
                    all: &all,
                },
            );
            earlier.extend(name.and_then(Node::text));
        }
    }

    fn step(&mut self, step: &'a Node, visible: Visible<'_>) {
        if let Some(when) = step.get("when") {
            self.condition(when, visible);
        }
        if let Some(timeout) = step.get("timeout") {
            self.no_expressions(timeout);
            self.duration(timeout);
        }
        for kind in step.entries() {
            match kind.key.as_str() {
                "shell" => self.shell(kind),
                "ecsRollingDeploy" => self.ecs_rolling_deploy(kind),
                "kubernetesApply" | "kubernetesRollingDeploy" => self.kubernetes(kind),
                _ => continue,
            }
            self.expressions(&kind.value, visible);
        }
    }

    pub(super) fn needs_aws(&mut self, kind: &Entry, why: &str) {
        if self.spec().is_some_and(|spec| spec.get("aws").is_none()) {
            let finding = Finding::error(kind.key_span, format!("{why} needs an AWS region and identity"));
            self.findings.push(
                finding.hint(
                    "add `spec.aws` with `region` and, if the agent's own identity is not to be used, `assumeRole`",
                ),
            );
        }
    }

    fn filled(&mut self, kind: &Entry, keys: &[&str]) {
        for key in keys {
            if let Some(node) = kind.value.get(key) {
                self.not_empty(node, &format!("`{key}`"));
            }
        }
    }

    fn shell(&mut self, kind: &Entry) {
        self.filled(kind, &["run", "cluster"]);
        if let Some(cluster) = kind.value.entry("cluster") {
            self.needs_aws(cluster, "a shell step with a cluster");
        }
        if let Some(grace) = kind.value.get("grace") {
            self.no_expressions(grace);
            self.duration(grace);
        }
        if let Some(source) = kind.value.get("source") {
            self.source(source);
        }
        if let Some(variables) = kind.value.entry("env") {
            let entries = variables.value.entries();
            if entries.len() > MAX_VARIABLES {
                let message = format!("the step has {} variables; at most {MAX_VARIABLES}", entries.len());
                self.findings.push(Finding::error(variables.key_span, message));
            }
            for entry in entries {
                self.variable_name(entry);
            }
        }
        if let Some(names) = kind.value.entry("secretOutputs") {
            self.secret_outputs(names);
        }
        self.step_secrets(kind);
    }

    /// What cannot be the name of an output hides none: the one that is meant would be shown.
    fn secret_outputs(&mut self, names: &Entry) {
        let count = names.value.items().len();
        if count > MAX_SECRET_OUTPUTS {
            let message = format!("the step has {count} secret outputs; at most {MAX_SECRET_OUTPUTS}");
            self.findings.push(Finding::error(names.key_span, message));
        }
        for node in names.value.items() {
            let Some(name) = node.text() else { continue };
            if contains_expression(name) {
                self.no_expressions(node);
            } else if !output_name::is_good(name) {
                self.findings.push(
                    Finding::error(node.span, format!("`{name}` cannot be the name of an output"))
                        .hint(output_name::RULE),
                );
            }
        }
    }

    fn source(&mut self, node: &Node) {
        let known = self.source_names();
        self.declared(node, "source", &known);
    }

    fn source_names(&self) -> Vec<&'a str> {
        let sources = self
            .spec()
            .and_then(|spec| spec.get("sources"))
            .map(Node::items)
            .unwrap_or_default();
        sources
            .iter()
            .map(|source| source.get("name").and_then(Node::text).unwrap_or("bundle"))
            .collect()
    }

    fn ecs_rolling_deploy(&mut self, kind: &Entry) {
        self.needs_aws(kind, "an ECS deployment");
        self.filled(kind, &["cluster", "service"]);
        if let Some(entry) = kind.value.entry("taskDefinition") {
            let definition = &entry.value;
            for required in ["family", "containerDefinitions"] {
                if definition.get(required).is_none() && !definition.entries().is_empty() {
                    self.findings.push(Finding::error(
                        entry.key_span,
                        format!("`taskDefinition` lacks the key `{required}`, which AWS requires"),
                    ));
                }
            }
            if definition.entries().is_empty() && !matches!(definition.data, super::super::tree::Data::Text(_)) {
                self.findings
                    .push(Finding::error(entry.key_span, "`taskDefinition` is empty"));
            }
            for key in ["taskRoleArn", "executionRoleArn"] {
                if let Some(node) = definition
                    .get(key)
                    .filter(|node| node.text().is_some_and(|text| text.starts_with("arn:")))
                {
                    self.role_arn(node);
                }
            }
        }
        if let Some(definition) = kind.value.get("serviceDefinition") {
            for (key, from) in [
                ("cluster", "`cluster`"),
                ("service", "`service`"),
                ("serviceName", "`service`"),
                ("taskDefinition", "`taskDefinition`"),
            ] {
                if let Some(entry) = definition.entry(key) {
                    self.findings.push(
                        Finding::error(
                            entry.key_span,
                            format!("`{key}` cannot stand here: the step's own {from} says it"),
                        )
                        .hint("remove it"),
                    );
                }
            }
        }
    }

    fn kubernetes(&mut self, kind: &Entry) {
        self.needs_aws(kind, "a deployment to an EKS cluster");
        self.filled(kind, &["cluster"]);
        if let Some(node) = kind.value.get("namespace") {
            self.kubernetes_name(node, "namespace", namespace_problem);
        }
        let manifests = kind.value.get("manifests").map(Node::items).unwrap_or_default();
        let files = kind.value.get("files").map(Node::items).unwrap_or_default();
        if manifests.is_empty() && files.is_empty() {
            self.findings.push(
                Finding::error(kind.key_span, format!("`{}` has nothing to apply", kind.key))
                    .hint("add `manifests` with objects, or `files` of a source"),
            );
        }
        for manifest in manifests {
            self.manifest(manifest);
        }
        let followed = |manifest: &Node| {
            manifest
                .get("kind")
                .and_then(Node::text)
                .is_some_and(|kind| WORKLOADS.contains(&kind) || kind.contains("${{"))
        };
        if kind.key == "kubernetesRollingDeploy"
            && files.is_empty()
            && !manifests.is_empty()
            && !manifests.iter().any(followed)
        {
            let finding = Finding::error(kind.key_span, "none of the manifests has a rollout to follow");
            self.findings
                .push(finding.hint(format!("add one of {}, or use `kubernetesApply`", WORKLOADS.join(", "))));
        }
        self.files(kind, files);
    }

    fn manifest(&mut self, manifest: &Node) {
        for key in ["apiVersion", "kind"] {
            if manifest.get(key).and_then(Node::text).is_none() {
                self.findings
                    .push(Finding::error(manifest.label(), format!("this manifest lacks `{key}`")));
            }
        }
        let metadata = manifest.get("metadata");
        for (key, what, problem) in [
            (
                "name",
                "Kubernetes object",
                object_problem as fn(&str) -> Option<&'static str>,
            ),
            ("namespace", "namespace", namespace_problem),
        ] {
            // An empty namespace is none.
            if let Some(node) = metadata.and_then(|metadata| metadata.get(key))
                && node.text().is_some_and(|text| !text.is_empty())
            {
                self.kubernetes_name(node, what, problem);
            }
        }
        if metadata
            .and_then(|metadata| metadata.get("name"))
            .and_then(Node::text)
            .is_none()
        {
            let finding = Finding::error(
                metadata.map_or(manifest.label(), Node::label),
                "this manifest lacks `metadata.name`",
            );
            let hint = if metadata.is_some_and(|metadata| metadata.get("generateName").is_some()) {
                "a generated name could be created twice; give it a name"
            } else {
                ""
            };
            self.findings.push(finding.hint(hint));
        }
    }

    /// A name that becomes a part of a path of the Kubernetes API.
    pub(super) fn kubernetes_name(&mut self, node: &Node, what: &str, problem: fn(&str) -> Option<&'static str>) {
        let Some(name) = node.text().filter(|name| !self.is_evaluated(name)) else {
            return;
        };
        if let Some(rule) = problem(name) {
            let shown: String = name.chars().take(60).collect();
            let finding = Finding::error(node.span, format!("`{shown}` cannot be the name of a {what}"));
            self.findings.push(finding.hint(rule));
        }
    }

    fn files(&mut self, kind: &Entry, files: &[Node]) {
        for file in files {
            self.relative(file, "a manifest file");
            self.not_empty(file, "the path of a manifest file");
        }
        let known = self.source_names();
        match kind.value.get("source") {
            Some(source) => self.declared(source, "source", &known),
            None if files.is_empty() || known.len() == 1 => {}
            None => {
                let at = kind.value.entry("files").map_or(kind.key_span, |entry| entry.key_span);
                let (message, hint) = if known.is_empty() {
                    (
                        "these files are in no source",
                        "add `spec.sources` with a `bundle`".to_owned(),
                    )
                } else {
                    (
                        "these files could be in any of several sources",
                        format!("add `source`: {}", known.join(", ")),
                    )
                };
                self.findings.push(Finding::error(at, message).hint(hint));
            }
        }
    }
}
