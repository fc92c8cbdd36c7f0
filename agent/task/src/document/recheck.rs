//! A canonical document from somebody who is not believed: what its texts say is checked again. Called by the agent
//! for everything that a manager hands it, and by [`super::read`] for what it has resolved.

use super::check::Check;
use super::checked::{Checked, MAX_CANONICAL_BYTES, NotCanonical, decode_canonical};
use super::diagnostic::Severity;
use super::inputs;
use super::parse::{CANONICAL_BOUND, MAX_DEPTH};
use super::source::{Finding, SourceText};
use super::tree::{Data, Node};
use crate::json::Unread;

/// Most problems that are told of a document from a manager.
const MAX_TOLD: usize = 3;
/// Most problems whose place is looked for.
const MAX_FOUND: usize = 50;

/// A canonical document that no agent takes.
#[derive(Debug, thiserror::Error)]
pub enum TooLarge {
    /// More than a frame is for.
    #[error(
        "the task with its inputs has {0} bytes; at most {MAX_CANONICAL_BYTES} are taken: give what is large as a source"
    )]
    Bytes(usize),
    /// More than memory is for.
    #[error("the task with its inputs is too large: {0}; give what is large as a source, or make two tasks of it")]
    Values(#[source] Unread),
}

/// Does an agent take a canonical document of this size? Nothing is built of it to find out.
///
/// # Errors
/// It has too many bytes or values, or is nested too deep.
pub fn fits(canonical: &[u8]) -> Result<(), TooLarge> {
    if canonical.len() > MAX_CANONICAL_BYTES {
        return Err(TooLarge::Bytes(canonical.len()));
    }
    CANONICAL_BOUND.check(canonical).map_err(TooLarge::Values)?;
    Ok(())
}

/// A canonical document that is not used.
#[derive(Debug, thiserror::Error)]
pub enum BadCanonical {
    /// It is none.
    #[error(transparent)]
    Unreadable(#[from] NotCanonical),
    /// It is too large, whatever it says.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// No reader of documents would have let it pass.
    #[error("{0}")]
    Refused(String),
}

/// Reads canonical JSON and checks it by the rules for documents: first its size, before anything is built of it. The documents of AWS inside the steps are left to AWS.
///
/// # Errors
/// The bytes are too many, no canonical document, or one that [`super::read`] would not have made.
pub fn from_canonical(bytes: &[u8]) -> Result<Checked, BadCanonical> {
    fits(bytes)?;
    let checked = decode_canonical(bytes)?;
    let findings = problems(&checked);
    if findings.is_empty() {
        return Ok(checked);
    }
    let told = findings.iter().take(MAX_TOLD).map(|finding| match &finding.path {
        Some(path) if !path.is_empty() => format!("{path}: {}", finding.message),
        Some(_) | None => finding.message.clone(),
    });
    Err(BadCanonical::Refused(told.collect::<Vec<_>>().join("; ")))
}

/// Everything that is wrong with a document whose frame is resolved, by path.
pub(crate) fn problems(checked: &Checked) -> Vec<Finding> {
    let json = match serde_json::to_value(&checked.document) {
        Ok(json) => json,
        Err(error) => return vec![Finding::nowhere(format!("the document cannot be written: {error}"))],
    };
    let root = Node::of_json(json, &mut 0);
    // The checks look at every pair of some things: they get no more than a reader would have let through, and the
    // keys that the canonical form writes out.
    let mut left = CANONICAL_BOUND.values;
    if !is_within(&root, MAX_DEPTH + 2, &mut left) {
        let message = format!(
            "the document has more than {} values, or is nested too deep",
            CANONICAL_BOUND.values
        );
        return vec![Finding::nowhere(message)];
    }
    let text = SourceText::empty();
    let mut check = Check::resolved(&text, &root);
    check.run();
    let mut findings = std::mem::take(&mut check.findings);
    let declared = root.get("spec").and_then(|spec| spec.get("inputs"));
    inputs::resolve(declared, &checked.inputs, &mut findings);
    findings.retain(|finding| finding.severity == Severity::Error);
    findings.truncate(MAX_FOUND);
    for finding in &mut findings {
        finding.path = finding.span.map(|span| root.path_to(span.start));
        finding.span = None;
    }
    findings
}

fn is_within(node: &Node, depth: usize, left: &mut usize) -> bool {
    let Some(fewer) = left.checked_sub(1) else { return false };
    *left = fewer;
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    match &node.data {
        Data::List(items) => items.iter().all(|item| is_within(item, depth, left)),
        Data::Map(entries) => entries.iter().all(|entry| is_within(&entry.value, depth, left)),
        Data::Null | Data::Truth(_) | Data::Number(_) | Data::Text(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Inputs;
    use super::super::{read, to_canonical};
    use super::*;
    use serde_json::{Value, json};

    const HONEST: &str = "
apiVersion: deputy.dev/v1
kind: Task
metadata: { name: honest }
spec:
  inputs: { tag: { type: string, default: v1 } }
  aws: { region: eu-west-1, assumeRole: [ { roleArn: 'arn:aws:iam::222222222222:role/a' } ] }
  sources:
    - { name: app, bundle: ./app }
    - { name: code, git: { url: https://git.example.com/a, ref: { branch: main }, subfolder: deploy,
        auth: { httpsToken: { token: { file: git/token } } } } }
    - { name: packed, s3: { bucket: artefacts, key: app.tar, region: eu-west-1 } }
  steps:
    - name: build
      shell: { source: app, run: make, env: { A: b }, secrets: { TOKEN: { as: file, file: a/b },
        DB: { kubernetesSecret: { cluster: prod, namespace: shop, name: db, key: password } } } }
    - name: apply
      kubernetesApply: { cluster: prod, namespace: shop, source: code, files: [ a.yaml ],
        manifests: [ { apiVersion: v1, kind: ConfigMap, metadata: { name: a, namespace: shop } } ] }
";

    fn canonical() -> Value {
        let read = read("task.yaml", HONEST.as_bytes(), &Inputs::default()).expect("honest");
        serde_json::from_slice(&to_canonical(&read.checked).expect("canonical")).expect("JSON")
    }

    fn refused(change: impl FnOnce(&mut Value)) -> String {
        let mut value = canonical();
        change(&mut value);
        match from_canonical(value.to_string().as_bytes()) {
            Ok(_) => panic!("it was taken: {value}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_a_reader_made_is_taken() {
        assert!(from_canonical(canonical().to_string().as_bytes()).is_ok());
    }

    #[test]
    fn names_paths_and_addresses_that_no_reader_lets_pass_are_refused_with_their_place() {
        let out = "x/../../../../home/agent/.ssh";
        for (pointer, value) in [
            ("/document/metadata/name", out),
            ("/document/spec/sources/0/name", out),
            ("/document/spec/sources/0/name", "/etc/cron.d"),
            ("/document/spec/sources/1/name", ".."),
            ("/document/spec/sources/1/name", "${{ inputs.tag }}/../.."),
            ("/document/spec/sources/0/bundle", "../up"),
            ("/document/spec/sources/1/git/url", "ext::sh -c id"),
            ("/document/spec/sources/1/git/url", "${{ 'https://git.example.com/a' }}"),
            (
                "/document/spec/sources/1/git/url",
                "https://git%40evil.example%2F@git.example.com/a",
            ),
            ("/document/spec/sources/1/git/ref/branch", "--upload-pack=id"),
            ("/document/spec/sources/1/git/subfolder", "../../etc"),
            (
                "/document/spec/sources/1/git/auth/httpsToken/token/file",
                "../../etc/shadow",
            ),
            ("/document/spec/sources/2/s3/key", "app.zip"),
            ("/document/spec/sources/2/s3/region", "evil.example/x"),
            ("/document/spec/sources/2/s3/region", "x@10.0.0.5/"),
            ("/document/spec/sources/2/s3/region", ""),
            ("/document/spec/sources/2/s3/bucket", "evil.example/x"),
            ("/document/spec/aws/region", "evil.example/x"),
            ("/document/spec/aws/region", "${{ 'eu-west-1' }}"),
            ("/document/spec/aws/assumeRole/0/roleArn", "arn:aws:iam::2:role/a"),
            ("/document/spec/timeout", "soon"),
            ("/document/spec/steps/0/name", out),
            ("/document/spec/steps/0/name", "${{ inputs.tag }}/../.."),
            ("/document/spec/steps/1/kubernetesApply/files/0", "/etc/passwd"),
            ("/document/spec/steps/0/shell/secrets/TOKEN/file", "/etc/shadow"),
            (
                "/document/spec/steps/0/shell/secrets/DB/kubernetesSecret/namespace",
                "kube-system/secrets/admin?",
            ),
            (
                "/document/spec/steps/0/shell/secrets/DB/kubernetesSecret/name",
                "../../kube-system/secrets/admin",
            ),
            (
                "/document/spec/steps/1/kubernetesApply/namespace",
                "kube-system/secrets/admin?",
            ),
            ("/document/spec/steps/1/kubernetesApply/namespace", ""),
            ("/document/spec/steps/0/shell/run", "echo AKIAQ3EGR5D7TZ4WXY2A"),
            ("/document/spec/inputs/tag/default", "AKIAQ3EGR5D7TZ4WXY2A"),
            ("/document/spec/steps/1/kubernetesApply/manifests/0/metadata/name", "a#"),
            (
                "/document/spec/steps/1/kubernetesApply/manifests/0/metadata/namespace",
                "kube-system%2f",
            ),
        ] {
            let told = refused(|document| *document.pointer_mut(pointer).expect("there") = value.into());
            let place = pointer
                .trim_start_matches("/document/")
                .split('/')
                .next_back()
                .expect("a key");
            assert!(
                place.parse::<usize>().is_ok() || told.contains(place),
                "{pointer}: {told}"
            );
        }
    }

    #[test]
    fn keys_that_become_names_of_files_or_variables_are_refused() {
        for key in [
            "../../../etc/cron.d/x",
            "/etc/cron.d/x",
            "A-B",
            "",
            "DEPUTY_OUTPUT",
            "BASH_ENV",
        ] {
            let told = refused(|document| {
                document["document"]["spec"]["steps"][0]["shell"]["secrets"][key] = json!({"as": "file", "file": "a"});
            });
            assert!(told.contains("spec.steps[0].shell.secrets"), "{told}");
            let told = refused(|document| document["document"]["spec"]["steps"][0]["shell"]["env"][key] = "x".into());
            assert!(told.contains("spec.steps[0].shell.env"), "{told}");
        }
    }

    #[test]
    fn a_canonical_document_is_bounded_and_judged_in_bounded_time() {
        let begun = std::time::Instant::now();
        let step = |number: usize| json!({"name": format!("s{number}"), "noopEffect": {}});
        let told = refused(|document| {
            document["document"]["spec"]["steps"] = (0..40_000).map(step).collect();
        });
        assert!(told.len() < 2_000, "{told}");
        refused(|document| {
            let bad: serde_json::Map<_, _> = (0..90_000).map(|number| (number.to_string(), "".into())).collect();
            document["document"]["spec"]["steps"][0]["shell"]["env"] = bad.into();
        });
        for item in ["0", "[]", "{\"\":0}"] {
            let text = canonical().to_string();
            let many = format!("[{}]", vec![item; 110_000].join(","));
            let text = text.replacen("\"v1\"", &many, 1);
            let refused = from_canonical(text.as_bytes()).expect_err("too many values");
            assert!(matches!(refused, BadCanonical::TooLarge(_)), "{refused}");
            assert!(refused.to_string().contains("more than 100000 values"), "{refused}");
        }
        let told = refused(|document| {
            document["document"]["spec"]["inputs"]["tag"] = json!({"type": "object"});
            document["inputs"]["tag"] = format!("[{}]", vec!["{}"; 110_000].join(",")).into();
        });
        assert!(told.contains("`tag` has more than"), "{told}");
        refused(|document| {
            let inputs = (0..20_000).map(|number| (format!("i{number}"), json!({"type": "string"})));
            document["document"]["spec"]["inputs"] = inputs.collect::<serde_json::Map<_, _>>().into();
            let unknown =
                (0..20_000).map(|number| (format!("A{number}"), format!("${{{{ inputs.j{number} }}}}").into()));
            document["document"]["spec"]["steps"][0]["shell"]["env"] =
                unknown.collect::<serde_json::Map<_, _>>().into();
        });
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }

    #[test]
    fn inputs_that_the_document_does_not_allow_are_refused() {
        let told = refused(|document| document["inputs"]["other"] = "x".into());
        assert!(told.contains("there is no input `other`"), "{told}");
    }
}
