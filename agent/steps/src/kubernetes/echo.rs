//! What a cluster's words repeat of its objects, and what of that may be told. An API server quotes the value that it
//! refuses, and with server-side apply that is the merged object: what other field managers wrote into it too. Called
//! where an answer is read, and by `rollout` for what controllers say; nothing above sees the words as they came.
//!
//! Told are reasons, fields, kinds of fault and prose. A value is told only if it stands in the task's own manifest.

use std::borrow::Borrow;
use std::collections::BTreeSet;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use deputy_logs::redactor::MAX_SECRET_BYTES;
use deputy_logs::{Redactor, SecretRefused};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause};
use serde_json::Value;

use super::quoted::without_values;
use super::refusal::{Complete, Refusal, is_of_pod_security, outline, outline_of_volume};
use super::vocabulary;

/// Of one message; what is longer names every field that there is.
const MAX_TOLD_BYTES: usize = 16 * 1024;

/// Faults of one refusal that are told.
const MAX_CAUSES: usize = 64;

/// Kinds of fault, which may be told whatever follows them (`field.ErrorType`).
const FAULTS: [&str; 10] = [
    "Required value",
    "Forbidden",
    "Invalid value",
    "Unsupported value",
    "Duplicate value",
    "Not found",
    "Too long",
    "Too short",
    "Too many",
    "Too few",
];

/// In the place of words in which nobody could look for what is in the cluster.
const LEFT_OUT: &str = "(what it said is left out: it may repeat what is in the cluster)";

/// What the API server itself writes into objects, where nobody wrote anything.
const DEFAULTS: [&str; 25] = [
    "default",
    "default-scheduler",
    "Always",
    "IfNotPresent",
    "HTTP",
    "Never",
    "OnFailure",
    "ClusterFirst",
    "File",
    "/dev/termination-log",
    "RollingUpdate",
    "Recreate",
    "OnDelete",
    "OrderedReady",
    "Retain",
    "Delete",
    "Filesystem",
    "Opaque",
    "ClusterIP",
    "Cluster",
    "None",
    "SingleStack",
    "IPv4",
    "NonIndexed",
    "TerminatingOrFailed",
];

/// What a request brought, and what was there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Echo {
    /// The task's own: its values may be told.
    pub(crate) own: Value,
    /// What was in the cluster: none of its values may be told, however they are written.
    pub(crate) live: Vec<Value>,
}

impl Echo {
    /// A refusal without what it quotes, and without the secrets of the task.
    pub(crate) fn status(&self, mut status: Status, secrets: &Redactor) -> Status {
        let words = self.words(secrets);
        let causes = status.details.as_mut().and_then(|details| details.causes.as_mut());
        let mut of_fields = Vec::new();
        if let Some(causes) = causes {
            causes.truncate(MAX_CAUSES);
            causes.iter_mut().for_each(|cause| words.cause(cause));
            of_fields = faults_of_fields(causes);
        }
        status.message = status.message.map(|message| match message.split_once(" is invalid: ") {
            // The message says once more what the causes say.
            Some((what, _)) if !of_fields.is_empty() => {
                format!("{}: {}", words.invalid(what), of_fields.join("; "))
            }
            _ => words.told(&message),
        });
        status
    }

    /// What may be told and what not, at hand for several messages.
    pub(crate) fn words(&self, secrets: &Redactor) -> Words {
        Texts::of(&self.own, &self.live).words(secrets)
    }
}

/// What may be told and what not, before anything is built to look for it.
#[derive(Debug)]
pub(crate) struct Texts {
    own: BTreeSet<String>,
    hidden: BTreeSet<String>,
}

impl Texts {
    /// `own` is the task's, `live` what is in the cluster, one after the other.
    pub(crate) fn of(own: &Value, live: impl IntoIterator<Item = impl Borrow<Value>>) -> Self {
        let mut told = BTreeSet::new();
        of_task(own, &mut told);
        let mut hidden = BTreeSet::new();
        of_secrets(own, &mut hidden);
        for live in live {
            of_secrets(live.borrow(), &mut hidden);
            of_cluster(live.borrow(), &mut hidden);
        }
        hidden.retain(|value| !told.contains(value) && !DEFAULTS.contains(&value.as_str()));
        Self { own: told, hidden }
    }

    /// Does it hide and let pass what `other` does? It may hide more.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.own == other.own && self.hidden.is_superset(&other.hidden)
    }

    /// How much is to be hidden.
    pub(crate) fn hidden_bytes(&self) -> usize {
        self.hidden.iter().map(String::len).sum()
    }

    /// Builds what looks for it: in time and memory much more than the texts.
    pub(crate) fn words(&self, secrets: &Redactor) -> Words {
        let hidden = Redactor::new();
        let complete = self.hidden.iter().all(|value| hide(&hidden, value));
        if complete {
            hidden.build();
        }
        Words {
            own: self.own.clone(),
            hidden: complete.then_some(hidden),
            secrets: secrets.clone(),
        }
    }
}

/// What controllers, kubelets and others say of an object, without what they quote.
pub(crate) fn said(message: &str) -> String {
    without_values(message, &BTreeSet::new())
}

/// What is told and what is not, at hand.
pub(crate) struct Words {
    own: BTreeSet<String>,
    /// None if there is too much of it.
    hidden: Option<Redactor>,
    /// Of the task.
    secrets: Redactor,
}

impl Words {
    fn told(&self, message: &str) -> String {
        let Some(hidden) = &self.hidden else {
            return self.told_in_outline(message);
        };
        // First what is known: of half a value nobody knows that it is one.
        let is_known = |part: &str| self.is_known(part, message);
        let message = hidden.redact_unless_beside(&self.secrets, message, is_known);
        // A quotation that is cut here has no end, and is left out.
        let told = (0..=MAX_TOLD_BYTES).rev().find_map(|bytes| message.get(..bytes));
        without_values(told.unwrap_or(&message), &self.own)
    }

    /// What controllers and others pass on, for [`said`] to go on with. Where values cannot be looked for, an outline of
    /// what an API server refuses and of what a driver of volumes says; what Kubernetes itself says quotes at known places.
    pub(crate) fn heard(&self, message: &str) -> String {
        match &self.hidden {
            Some(hidden) => {
                let is_known = |part: &str| self.is_known(part, message);
                hidden.redact_unless_beside(&self.secrets, message, is_known)
            }
            None if Refusal::of(message) != Refusal::Other => self.told_in_outline(message),
            None => match outline_of_volume(message) {
                Some(told) => format!("{} {LEFT_OUT}", said(&self.secrets.redact(told))),
                None => self.secrets.redact(message),
            },
        }
    }

    /// Is it the task's own, or a word of the Pod Security Standards in what they say?
    fn is_known(&self, part: &str, message: &str) -> bool {
        self.own.contains(part) || (vocabulary::is_of_pod_security(part) && is_of_pod_security(message))
    }

    /// Where values cannot be looked for: what stands at fixed places.
    fn told_in_outline(&self, message: &str) -> String {
        // First the secrets: of half of one nobody knows that it is one.
        self.outline(&self.secrets.redact(message))
    }

    fn outline(&self, message: &str) -> String {
        let immutable = if message.contains("immutable") {
            "immutable "
        } else {
            ""
        };
        if let Some(fault) = FAULTS.iter().find(|fault| message.starts_with(*fault)) {
            return format!("{fault} {immutable}{LEFT_OUT}");
        }
        match outline(message, &self.own) {
            (told, Complete::Yes) => told,
            (told, Complete::No) => format!("{told}{immutable}{LEFT_OUT}"),
        }
    }

    /// What is invalid, before the faults.
    fn invalid(&self, what: &str) -> String {
        if self.hidden.is_some() {
            return self.told(&format!("{what} is invalid"));
        }
        let (told, _) = outline(&format!("{what} is invalid: "), &self.own);
        let told = told.trim_end_matches(": ");
        if told.is_empty() {
            "it is invalid".into()
        } else {
            self.secrets.redact(told)
        }
    }

    /// A path of names; keys of lists that others wrote can be in it.
    fn field(&self, field: &str) -> String {
        let Some(hidden) = &self.hidden else {
            return self.secrets.redact(&self.field_in_outline(field));
        };
        hidden.redact_unless_beside(&self.secrets, field, |part| self.own.contains(part))
    }

    /// With indices and the task's own keys only.
    fn field_in_outline(&self, field: &str) -> String {
        let mut parts = field.split('[');
        let mut told = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (key, after) = part.split_once(']').unwrap_or((part, ""));
            let is_index = key.chars().all(|c| c.is_ascii_digit());
            told.push('[');
            told.push_str(if is_index || self.own.contains(key) { key } else { "***" });
            told.push(']');
            // The bracket was within a key.
            if after.contains(['"', ']']) {
                return told + "***";
            }
            told.push_str(after);
        }
        told
    }

    fn cause(&self, cause: &mut StatusCause) {
        if let Some(message) = &mut cause.message {
            // What follows the first line is a comparison of objects.
            let first = message.lines().next().unwrap_or_default();
            *message = self.told(first);
        }
        cause.field = cause.field.as_deref().map(|field| self.field(field));
    }
}

/// What is wrong with which field, as the message says it.
fn faults_of_fields(causes: &[StatusCause]) -> Vec<String> {
    let of_a_field = |cause: &&StatusCause| {
        let reason = cause.reason.as_deref().unwrap_or_default();
        reason.starts_with("Field") && reason != "FieldManagerConflict"
    };
    let told = |cause: &StatusCause| {
        let message = cause.message.as_deref().unwrap_or("is not valid");
        format!("{}: {message}", cause.field.as_deref().unwrap_or("?"))
    };
    causes.iter().filter(of_a_field).map(told).collect()
}

/// Hides a value, by its lines if it is long. Answers whether it is hidden.
fn hide(hidden: &Redactor, value: &str) -> bool {
    let one = |value: &str| match hidden.add_value(value.as_bytes()) {
        // Too short to be told from prose.
        Ok(()) | Err(SecretRefused::TooShort { .. }) => true,
        Err(SecretRefused::TooLong { .. } | SecretRefused::TooMany { .. }) => false,
    };
    if value.len() <= MAX_SECRET_BYTES {
        one(value)
    } else {
        value.lines().all(one)
    }
}

/// The keys and scalars of a manifest. Not a Secret's content: a file of manifests is not known to the manager.
fn of_task(manifest: &Value, own: &mut BTreeSet<String>) {
    match manifest {
        Value::Object(map) => {
            let is_secret = map.get("kind").and_then(Value::as_str) == Some("Secret");
            for (key, value) in map {
                if !(is_secret && matches!(key.as_str(), "data" | "stringData")) {
                    of_task(value, own);
                }
                own.insert(key.clone());
            }
        }
        Value::Array(items) => items.iter().for_each(|item| of_task(item, own)),
        Value::Null => {}
        Value::String(text) => {
            own.insert(text.clone());
        }
        Value::Bool(_) | Value::Number(_) => {
            own.insert(manifest.to_string());
        }
    }
}

/// What Secrets hold, as it is written in them and as it is read out of them.
fn of_secrets(object: &Value, values: &mut BTreeSet<String>) {
    match object {
        Value::Object(map) if map.get("kind").and_then(Value::as_str) == Some("Secret") => {
            let held = |part: &str| {
                map.get(part)
                    .and_then(Value::as_object)
                    .into_iter()
                    .flat_map(|held| held.values())
            };
            held("stringData").for_each(|value| texts(value, values));
            for text in held("data").filter_map(Value::as_str) {
                values.insert(text.to_owned());
                values.extend(decoded(text));
            }
        }
        Value::Object(map) => map.values().for_each(|value| of_secrets(value, values)),
        Value::Array(items) => items.iter().for_each(|item| of_secrets(item, values)),
        _ => {}
    }
}

/// As Kubernetes reads it: Go passes over the ends of lines, and over bits that nobody needs.
fn decoded(text: &str) -> Option<String> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
    );
    let digits: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    String::from_utf8(LENIENT.decode(digits).ok()?).ok()
}

/// The texts of an object of the cluster, but for what says which one it is and who owns what.
fn of_cluster(object: &Value, values: &mut BTreeSet<String>) {
    let Some(map) = object.as_object() else {
        return texts(object, values);
    };
    for (key, value) in map {
        match key.as_str() {
            "apiVersion" | "kind" | "status" => {}
            "metadata" => {
                for key in ["annotations", "labels"] {
                    value.get(key).into_iter().for_each(|value| texts(value, values));
                }
            }
            _ => texts(value, values),
        }
    }
}

fn texts(value: &Value, values: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.values().for_each(|value| texts(value, values)),
        Value::Array(items) => items.iter().for_each(|item| texts(item, values)),
        Value::String(text) => {
            values.insert(text.clone());
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(causes: Value, message: &str) -> Status {
        let status = json!({"message": message, "details": {"causes": causes}});
        serde_json::from_value(status).expect("a status")
    }

    fn job(image: &str) -> Value {
        json!({"kind": "Job", "metadata": {"name": "migrate"}, "spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}})
    }

    #[test]
    fn what_others_wrote_into_a_template_is_not_told_and_its_field_and_fault_are() {
        let template =
            r#"{"spec":{"containers":[{"env":[{"name":"PASSWORD","value":"ca}n\"a: ry"}]}]}}: field is immutable"#;
        let causes = json!([
            {"reason": "FieldValueInvalid", "field": "spec.template", "message": format!("Invalid value: {template}")},
            {"reason": "FieldValueForbidden", "field": "spec", "message": "Forbidden: pod updates may not change fields other than `spec.containers[*].image`\n  core.PodSpec{\n+ Value: \"canary\","},
            {"reason": "FieldValueInvalid", "field": "spec.image", "message": "Invalid value: \"app:2\": is old"},
        ]);
        let message = format!("Job.batch \"migrate\" is invalid: [spec.template: Invalid value: {template}, …]");
        let echo = Echo {
            own: job("app:2"),
            live: vec![],
        };
        let told = echo.status(refused(causes, &message), &Redactor::new());
        assert_eq!(
            told.message.as_deref(),
            Some(
                "Job.batch \"migrate\" is invalid: spec.template: Invalid value: ***: field is immutable; spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`; spec.image: Invalid value: \"app:2\": is old"
            )
        );
        assert!(!json!(told).to_string().contains("canary"));
    }

    #[test]
    fn the_words_of_an_admission_rule_are_told_without_what_is_in_the_cluster() {
        let live = json!({"kind": "Job", "metadata": {"name": "migrate", "labels": {"team": "payments"}},
            "spec": {"env": ["hunter2-of-the-cluster", "app:2", "default", "a \"part\" in quotes"]}});
        let message = r#"admission webhook "rules.example" denied the request: PASSWORD=hunter2-of-the-cluster of payments is weak, app:2 is not, nor is default; hunter2%2dof; a "part" in quotes"#;
        let echo = Echo {
            own: job("app:2"),
            live: vec![live.clone()],
        };
        let told = echo.status(refused(json!([]), message), &Redactor::new()).message;
        assert_eq!(
            told.as_deref(),
            Some(
                r#"admission webhook "rules.example" denied the request: PASSWORD=*** of *** is weak, app:2 is not, nor is default; hunter2%2dof; ***"#
            )
        );
        let large = json!({"data": {"file": "x".repeat(MAX_SECRET_BYTES + 1)}});
        let echo = Echo {
            own: job("app:2"),
            live: vec![live, large],
        };
        assert_eq!(
            echo.status(refused(json!([]), message), &Redactor::new())
                .message
                .as_deref(),
            Some(&*format!(
                "admission webhook \"rules.example\" denied the request: {LEFT_OUT}"
            ))
        );
        let causes = json!([{"reason": "FieldValueForbidden", "field": "data", "message": "Forbidden: field is immutable when `immutable` is set, and a canary"}]);
        let told = echo
            .status(
                refused(causes, "ConfigMap \"migrate\" is invalid: data: Forbidden: …"),
                &Redactor::new(),
            )
            .message;
        assert_eq!(
            told,
            Some(format!(
                "ConfigMap \"migrate\" is invalid: data: Forbidden immutable {LEFT_OUT}"
            ))
        );
    }

    #[test]
    fn what_pods_must_set_is_told_although_others_wrote_the_same_and_only_there() {
        let live = json!({"spec": {"containers": [{"name": "istio-proxy", "securityContext": {
            "capabilities": {"add": ["NET_ADMIN", "CANARY"]}, "seccompProfile": {"type": "Unconfined"}}}]}});
        let echo = Echo {
            own: json!({"kind": "Pod", "metadata": {"name": "web", "labels": {"app.example/team": "x"}},
                "spec": {"containers": [{"name": "app"}, {"name": "side-car"}]}}),
            live: vec![live],
        };
        let told = [
            r#"pods "web" is forbidden: violates PodSecurity "baseline:latest": capabilities (containers "app", "side-car", "istio-proxy" must not include "NET_ADMIN", "CANARY" in securityContext.capabilities.add), seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")"#,
            r#"admission webhook "rules.example" denied the request: "Unconfined" NET_ADMIN of "app.example/team" in ["app", "side-car"]"#,
        ]
        .map(|message| echo.status(refused(json!([]), message), &Redactor::new()).message.expect("words"));
        insta::assert_snapshot!(told.join("\n"), @r##"
        pods "web" is forbidden: violates PodSecurity "baseline:latest": capabilities (containers "app", "side-car", "***" must not include "NET_ADMIN", "***" in securityContext.capabilities.add), seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")
        admission webhook "rules.example" denied the request: "***" *** of "app.example/team" in ["app", "side-car"]
        "##);
    }

    /// Guards that what the API server writes into every probe does not hide what is wrong with it.
    #[test]
    fn a_probes_fault_is_told_whatever_the_api_server_filled_in() {
        let live = json!({"spec": {"readinessProbe": {"httpGet": {"path": "/", "scheme": "HTTP"}}}});
        let words = Echo {
            own: job("app:2"),
            live: vec![live],
        };
        let fault = "Readiness probe failed: HTTP probe failed with statuscode: 503";
        assert_eq!(words.words(&Redactor::new()).heard(fault), fault);
    }

    /// Guards what is passed on of an object too large to be looked through: nobody but Kubernetes itself is quoted.
    #[test]
    fn what_is_passed_on_of_a_large_object_is_told_in_outline() {
        let large = json!({"data": {"file": "x".repeat(MAX_SECRET_BYTES + 1)}});
        let words = Echo {
            own: job("app:2"),
            live: vec![large],
        }
        .words(&Redactor::new());
        let told = [
            r#"Failed to create new replica set "web-5": admission webhook "w.example" denied the request: exceeded quota: canary"#,
            r#"Error creating: Internal error occurred: failed calling webhook "w.example": failed to call webhook: canary"#,
            r#"Error creating: pods "migrate" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2"#,
            r#"MountVolume.SetUp failed for volume "config" : mount failed: exit status 32 of canary:/path"#,
            "Back-off restarting failed container",
        ]
        .map(|message| said(&words.heard(message)));
        insta::assert_snapshot!(told.join("\n"), @r##"
        admission webhook "w.example" denied the request: (what it said is left out: it may repeat what is in the cluster)
        failed calling webhook "w.example": (what it said is left out: it may repeat what is in the cluster)
        pods "migrate" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2
        MountVolume.SetUp failed for volume "config" (what it said is left out: it may repeat what is in the cluster)
        Back-off restarting failed container
        "##);
    }

    #[test]
    fn what_stands_before_the_faults_and_the_fields_are_looked_through_like_all_else() {
        let causes = || {
            json!([{"reason": "FieldValueInvalid", "field": "data[hunter2-of-the-cluster].a[0].b[name=\"hunter2\"].c[app:2]",
            "message": "Invalid value: 1: no"}])
        };
        let message = "admission webhook \"w\" denied the request: hunter2-of-the-cluster is invalid: data: no";
        let live = json!({"data": {"a": "hunter2-of-the-cluster", "b": "hunter2"}});
        let large = json!({"data": {"file": "x".repeat(MAX_SECRET_BYTES + 1)}});
        let told = [vec![live.clone()], vec![live, large]].map(|live| {
            let echo = Echo {
                own: job("app:2"),
                live,
            };
            let told = echo.status(refused(causes(), message), &Redactor::new());
            let field = told.details.and_then(|details| details.causes?.first()?.field.clone());
            format!("{}\n{}", told.message.unwrap_or_default(), field.unwrap_or_default())
        });
        insta::assert_snapshot!(told.join("\n"), @r##"
        admission webhook "w" denied the request: *** is invalid: data[***].a[0].b[name="***"].c[app:2]: Invalid value: ***: no
        data[***].a[0].b[name="***"].c[app:2]
        admission webhook "w" denied the request: data[***].a[0].b[***].c[app:2]: Invalid value (what it said is left out: it may repeat what is in the cluster)
        data[***].a[0].b[***].c[app:2]
        "##);
    }

    #[test]
    fn a_refusal_without_end_is_told_to_a_bound_and_nothing_is_cut_in_the_middle_of_a_value() {
        let words = Echo::default().words(&Redactor::new());
        for before in MAX_TOLD_BYTES - 20..MAX_TOLD_BYTES {
            let told = words.told(&format!("{}\"canary canary\" ü and more", "ü".repeat(before / 2)));
            assert!(told.len() <= MAX_TOLD_BYTES + 8 && !told.contains("can"), "{before}");
        }
    }

    /// Guards that a Secret's content is looked for in prose too, as `echo $PASSWORD` would print it.
    #[test]
    fn what_a_secret_holds_is_not_told_wherever_it_stands() {
        let own = json!({"kind": "Secret", "stringData": {"password": "own-in-clear"}, "data": {"n": "b3duLWVuY29k\r\nZWQ=\n", "m": "bG9vc2Ux"}});
        let live = json!({"kind": "Secret", "data": {"password": "bGl2ZS1vbmU=", "binary": "/////w=="}});
        let message = r#"admission webhook "w" denied the request: own-in-clear, own-encoded, b3duLWVuY29kZWQ=, live-one, bGl2ZS1vbmU= and /////w== are weak"#;
        let words = Echo { own, live: vec![live] }.words(&Redactor::new());
        let expected = r#"admission webhook "w" denied the request: ***, ***, ***, ***, *** and *** are weak"#;
        assert_eq!(words.told(message), expected);
        assert_eq!(words.heard(message), expected);
    }

    /// Guards that nothing of a secret of the task is left when a part of it also stands in the cluster, or the other way.
    #[test]
    fn what_is_in_the_cluster_and_what_is_the_tasks_secret_go_out_together() {
        let secrets = Redactor::new();
        secrets.add_secret(b"alpha-hunter2-omega").expect("a secret");
        let live = json!({"spec": ["hunter2", "omega and beyond"]});
        let words = Echo {
            own: json!(["hunter2"]),
            live: vec![live],
        }
        .words(&secrets);
        let told = words.told("alpha-hunter2-omega and beyond, alpha-hunter2-omega, hunter2 is our own");
        assert_eq!(told, "***, ***, hunter2 is our own");
    }

    #[test]
    fn a_secrets_content_is_not_the_tasks_own_to_tell() {
        let own =
            json!({"kind": "Secret", "type": "Opaque", "stringData": {"password": "hunter2"}, "data": {"n": "eA=="}});
        let words = Echo { own, live: vec![] }.words(&Redactor::new());
        assert_eq!(
            words.told("type: Invalid value: \"Opaque\": no; data: Invalid value: \"hunter2\": no"),
            "type: Invalid value: \"Opaque\": no; data: Invalid value: \"***\": no"
        );
    }
}
