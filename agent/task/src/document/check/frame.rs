//! Checks of everything outside the steps: version, names, identity, times, sources, selector.

use std::time::Duration;

use super::super::aws::{check_region, check_role_arn};
use super::super::diagnostic::meant;
use super::super::duration;
use super::super::inputs;
use super::super::source::Finding;
use super::super::tree::Node;
use super::expressions::Visible;
use super::whole::Check;
use crate::expression::evaluate_text;
use crate::id::StepName;

/// Most sources of a task.
const MAX_SOURCES: usize = 50;
/// Most roles of a chain.
const MAX_ROLES: usize = 20;

const SESSION_NAME: &str = r"^[\w+=,.@-]{2,64}$";
const EXTERNAL_ID: &str = r"^[\w+=,.@:/-]{2,1224}$";

impl<'a> Check<'a> {
    pub(super) fn frame(&mut self) {
        self.constant("apiVersion", "deputy.dev/v1");
        self.constant("kind", "Task");
        if let Some(metadata) = self.root.get("metadata") {
            self.no_expressions(metadata);
            if let Some(name) = metadata.get("name") {
                self.name(name, "the name of a task");
            }
        }
        let Some(spec) = self.spec() else { return };
        if let Some(declared) = spec.get("inputs") {
            self.no_expressions(declared);
            inputs::check_declarations(declared, &mut self.findings);
        }
        if let Some(sources) = spec.get("sources") {
            self.sources(sources);
        }
        if let Some(selector) = spec.get("selector") {
            self.selector(selector);
        }
        for key in ["timeout", "queueTimeout"] {
            if let Some(node) = spec.get(key) {
                self.early(node);
                self.duration(node);
            }
        }
        if let Some(key) = spec.get("exclusiveKey") {
            self.early(key);
            if let Some(text) = self.known_text(key)
                && text.len() > 256
            {
                self.findings.push(Finding::error(
                    key.span,
                    format!("the exclusive key has {} bytes; at most 256", text.len()),
                ));
            }
        }
        if let Some(aws) = spec.get("aws") {
            self.early(aws);
            self.aws(aws);
        }
    }

    fn constant(&mut self, key: &str, wanted: &str) {
        if let Some(node) = self.root.get(key)
            && let Some(text) = node.text()
            && text != wanted
        {
            let hint = format!("write `{key}: {wanted}`");
            self.findings.push(
                Finding::error(
                    node.span,
                    format!("`{key}` is `{text}`, which this version does not know"),
                )
                .hint(hint),
            );
        }
    }

    /// A name that becomes part of ids, keys and file names.
    pub(super) fn name(&mut self, node: &Node, what: &str) {
        if let Some(text) = node.text()
            && text.parse::<StepName>().is_err()
        {
            let shown: String = text.chars().take(60).collect();
            let finding = Finding::error(node.span, format!("`{shown}` cannot be {what}"));
            self.findings
                .push(finding.hint("1 to 128 letters, digits, `.`, `_` or `-`, not beginning with `.` or `-`"));
        }
    }

    /// A duration, if its text is known now.
    pub(super) fn duration(&mut self, node: &Node) -> Option<Duration> {
        let text = self.known_text(node)?;
        match duration::parse(&text) {
            Ok(length) if length.is_zero() => {
                self.findings
                    .push(Finding::error(node.span, "a time of zero leaves no time at all"));
                None
            }
            Ok(length) => Some(length),
            Err(error) => {
                self.findings.push(Finding::error(node.span, error.to_string()));
                None
            }
        }
    }

    /// The text of a node, with its expressions evaluated where that is possible before queueing.
    /// What cannot be evaluated is a finding.
    pub(super) fn known_text(&mut self, node: &Node) -> Option<String> {
        let text = node.text()?;
        if !self.is_evaluated(text) {
            return Some(text.to_owned());
        }
        match evaluate_text(text, self.scope.as_ref()?) {
            Ok(text) => Some(text),
            Err(error) => {
                // Unknown names have been reported with their place.
                if !self.findings.iter().any(|finding| {
                    finding
                        .span
                        .is_some_and(|span| span >= node.span && span.start < node.span.end)
                }) {
                    self.findings.push(Finding::error(node.span, error.to_string()));
                }
                None
            }
        }
    }

    /// Expressions that are resolved before queueing.
    pub(super) fn early(&mut self, node: &Node) {
        if !self.is_literal {
            self.expressions(node, Visible::BeforeQueueing);
        }
    }

    pub(super) fn not_empty(&mut self, node: &Node, what: &str) {
        if node.text().is_some_and(|text| text.trim().is_empty()) {
            self.findings
                .push(Finding::error(node.span, format!("{what} is empty")));
        }
    }

    fn sources(&mut self, sources: &Node) {
        if sources.items().len() > MAX_SOURCES {
            let message = format!("the task has {} sources; at most {MAX_SOURCES}", sources.items().len());
            self.findings.push(Finding::error(sources.label(), message));
        }
        let mut seen: Vec<&str> = Vec::new();
        for source in sources.items().iter().take(MAX_SOURCES) {
            let name = source.get("name").and_then(Node::text).unwrap_or("bundle");
            let at = source.get("name").map_or(source.label(), |node| node.span);
            if let Some(node) = source.get("name") {
                self.name(node, "the name of a source");
            }
            if seen.contains(&name) {
                self.findings.push(
                    Finding::error(at, format!("there is another source `{name}`"))
                        .hint("give each source its own `name`"),
                );
            }
            seen.push(name);
            for kind in source.entries() {
                match kind.key.as_str() {
                    "git" | "s3" => {
                        self.early(&kind.value);
                        self.fetched_source(kind, source);
                    }
                    _ => self.no_expressions(&kind.value),
                }
            }
            if let Some(bundle) = source.get("bundle") {
                self.not_empty(bundle, "the folder of a bundle");
                self.relative(bundle, "a bundle");
            }
        }
    }

    /// A path that stays inside its folder.
    pub(super) fn relative(&mut self, node: &Node, what: &str) {
        let Some(path) = node.text() else { return };
        let problem = if path.starts_with('/') {
            Some("is absolute")
        } else if path.split('/').any(|part| part == "..") {
            Some("leaves its folder with `..`")
        } else if path.contains('\\') {
            Some("contains `\\`")
        } else {
            None
        };
        if let Some(problem) = problem {
            let shown: String = path.chars().take(80).collect();
            let finding = Finding::error(node.span, format!("the path of {what} {problem}: `{shown}`"));
            self.findings
                .push(finding.hint("paths are relative and stay inside their folder, for example ./deploy"));
        }
    }

    fn aws(&mut self, aws: &'a Node) {
        if let Some(region) = aws.get("region")
            && let Some(text) = self.known_text(region)
            && let Err((message, hint)) = check_region(&text)
        {
            self.findings.push(Finding::error(region.span, message).hint(hint));
        }
        if let Some(backoff) = aws.get("backoff") {
            self.backoff(backoff);
        }
        let oidc = aws.get("oidc");
        if let Some(arn) = oidc.and_then(|oidc| oidc.get("roleArn")) {
            self.role_arn(arn);
        }
        if let Some(audience) = oidc.and_then(|oidc| oidc.get("audience")) {
            self.not_empty(audience, "the audience of a token");
        }
        let hops = aws.get("assumeRole").map(Node::items).unwrap_or_default();
        if let Some(more) = hops.get(MAX_ROLES) {
            let message = format!("the chain has {} roles; at most {MAX_ROLES}", hops.len());
            self.findings.push(Finding::error(more.label(), message));
        }
        for (index, hop) in hops.iter().take(MAX_ROLES).enumerate() {
            if let Some(arn) = hop.get("roleArn") {
                self.role_arn(arn);
            }
            self.matches(
                hop.get("sessionName"),
                SESSION_NAME,
                "a session name has 2 to 64 letters, digits or any of _+=,.@-",
            );
            self.matches(
                hop.get("sourceIdentity"),
                SESSION_NAME,
                "a source identity has 2 to 64 letters, digits or any of _+=,.@-",
            );
            self.matches(
                hop.get("externalId"),
                EXTERNAL_ID,
                "an external id has 2 to 1224 letters, digits or any of _+=,.@:/-",
            );
            if let Some(node) = hop.get("duration")
                && let Some(length) = self.duration(node)
            {
                let is_first = index == 0 && oidc.is_none();
                let longest = if is_first { 12 * 3600 } else { 3600 };
                if length < Duration::from_secs(900) || length > Duration::from_secs(longest) {
                    let hint = if is_first {
                        "15m to 12h"
                    } else {
                        "from the second role of a chain on, AWS allows 15m to 1h"
                    };
                    self.findings
                        .push(Finding::error(node.span, "AWS does not give sessions of this duration").hint(hint));
                }
            }
        }
    }

    pub(super) fn role_arn(&mut self, node: &Node) {
        if let Some(text) = self.known_text(node)
            && let Err((message, hint)) = check_role_arn(&text)
        {
            self.findings.push(Finding::error(node.span, message).hint(hint));
        }
    }

    fn matches(&mut self, node: Option<&Node>, pattern: &str, rule: &str) {
        if let Some(node) = node
            && let Some(text) = self.known_text(node)
            && regex_lite::Regex::new(pattern).is_ok_and(|regex| !regex.is_match(&text))
        {
            self.findings
                .push(Finding::error(node.span, "AWS does not accept this value").hint(rule));
        }
    }

    /// A name that must be one of those declared.
    pub(super) fn declared(&mut self, node: &Node, what: &str, known: &[&str]) {
        let Some(name) = node.text().filter(|name| !known.contains(name)) else {
            return;
        };
        let finding = Finding::error(node.span, format!("there is no {what} `{name}`"));
        self.findings
            .push(finding.meant(meant(name, known.iter().copied()), || {
                if known.is_empty() {
                    format!("the document declares no {what}")
                } else {
                    format!("the document declares: {}", known.join(", "))
                }
            }));
    }
}
