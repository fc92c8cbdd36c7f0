//! Checks of the sources that agents fetch themselves.

use super::super::aws::{bucket_problem, check_region};
use super::super::origin::{GitRef, url_problem};
use super::super::source::Finding;
use super::super::tree::{Entry, Node};
use super::whole::Check;

impl Check<'_> {
    /// A source from git or S3.
    pub(super) fn fetched_source(&mut self, kind: &Entry, source: &Node) {
        if source.get("name").is_none() {
            let finding = Finding::error(kind.key_span, "this source has no name");
            self.findings
                .push(finding.hint("add `name`, by which steps refer to it"));
        }
        if kind.key == "git" {
            self.git(&kind.value);
        } else {
            self.needs_aws(kind, "a source in S3");
            self.s3(&kind.value);
        }
    }

    fn git(&mut self, git: &Node) {
        let url = git.get("url").and_then(|node| Some((node, self.known_text(node)?)));
        if let Some((node, url)) = &url
            && let Some(problem) = url_problem(url)
        {
            let finding = Finding::error(node.span, format!("the address of the repository {problem}"));
            self.findings.push(finding);
        }
        for entry in git.get("ref").map(Node::entries).unwrap_or_default() {
            let Some(text) = self.known_text(&entry.value) else {
                continue;
            };
            let reference = match entry.key.as_str() {
                "branch" => GitRef::Branch(text),
                "tag" => GitRef::Tag(text),
                "commit" => GitRef::Commit(text),
                _ => continue,
            };
            if let Some(problem) = reference.problem() {
                self.findings
                    .push(Finding::error(entry.value.span, format!("this {problem}")));
            }
        }
        if let Some(folder) = git.get("subfolder") {
            self.not_empty(folder, "the subfolder of a source");
            self.relative(folder, "a subfolder");
        }
        for auth in git.get("auth").map(Node::entries).unwrap_or_default() {
            let (scheme, secret) = match auth.key.as_str() {
                "httpsToken" => ("https://", "token"),
                "sshKey" => ("ssh://", "key"),
                _ => continue,
            };
            if url.as_ref().is_some_and(|(_, url)| !url.starts_with(scheme)) {
                let message = format!("`{}` is for addresses that begin with {scheme}", auth.key);
                self.findings
                    .push(Finding::error(auth.key_span, message).hint("correct `url` or `auth`"));
            }
            if let Some(reference) = auth.value.get(secret) {
                self.secret_ref(reference);
            }
            for key in ["username", "knownHosts"] {
                if let Some(node) = auth.value.get(key) {
                    self.not_empty(node, &format!("`{key}`"));
                }
            }
        }
    }

    fn s3(&mut self, s3: &Node) {
        for key in ["key", "versionId"] {
            if let Some(node) = s3.get(key) {
                self.not_empty(node, &format!("`{key}`"));
            }
        }
        if let Some(node) = s3.get("region")
            && let Some(region) = self.known_text(node)
            && let Err((message, hint)) = check_region(&region)
        {
            self.findings.push(Finding::error(node.span, message).hint(hint));
        }
        if let Some(node) = s3.get("bucket")
            && let Some(bucket) = self.known_text(node)
            && let Some(rule) = bucket_problem(&bucket)
        {
            let shown: String = bucket.chars().take(60).collect();
            let finding = Finding::error(node.span, format!("`{shown}` cannot be the name of a bucket"));
            self.findings.push(finding.hint(rule));
        }
        if let Some(node) = s3.get("key")
            && let Some(key) = self.known_text(node)
            && super::super::origin::packing_of(&key).is_none()
        {
            let finding = Finding::error(node.span, "it cannot be told from this name how the object is packed");
            self.findings
                .push(finding.hint("names end with .tar.zst, .tzst or .tar"));
        }
    }
}
