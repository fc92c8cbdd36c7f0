//! What kind of refusal an API server's words are, by the words as they came, and an outline of them: what the API server
//! itself puts at fixed places, with none of what it quotes. Called by `api` for the kind, and by `echo` for the outline
//! where values of the cluster cannot be looked for in all of it.

use std::collections::BTreeSet;

use super::quoted::without_values;
use super::vocabulary::VIOLATES;

/// Who or what refuses. It is told from the raw words, so that cleaning them changes no failure's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Refusal {
    /// A webhook, a policy or a Pod Security Standard.
    Admission,
    /// An admission webhook that did not answer.
    WebhookUnreachable,
    /// A ResourceQuota.
    Quota,
    /// Rights that who asks has not and would grant.
    Escalation,
    /// Who asks may not.
    Rights,
    /// The manifest does not fit its kind's schema.
    Schema,
    /// Anything else.
    #[default]
    Other,
}

const WEBHOOK: &str = "admission webhook \"";
const UNREACHABLE: &str = "failed calling webhook \"";
const POLICY: &str = "ValidatingAdmissionPolicy '";
const BINDING: &str = "' with binding '";
const QUOTA: &str = "exceeded quota: ";
const ESCALATION: &str = "attempting to grant RBAC permissions not currently held";
const RIGHTS: &str = " cannot ";
const SCHEMA: &str = "failed to create typed patch object";

/// What the API server says before it says why: of which object, and that it failed itself.
const AFTER_SUBJECT: [&str; 2] = ["\" is forbidden: ", "\" is invalid: "];
const INTERNAL: &str = "Internal error occurred: ";

/// What controllers say before they pass on why something could not be made or deleted: of pods of ReplicaSets, DaemonSets
/// and Jobs; of the Jobs of CronJobs; of the ReplicaSets of Deployments; of pods and claims of StatefulSets. Between
/// beginning and end are names.
const PASSED_ON: [(&str, &str); 7] = [
    ("Error creating: ", ""),
    ("Error deleting: ", ""),
    ("Error creating job: ", ""),
    ("Failed to create new replica set \"", "\": "),
    ("create ", " failed error: "),
    ("update ", " failed error: "),
    ("delete ", " failed error: "),
];

/// What kubelets and the attach controller say before what a driver printed.
const OF_VOLUMES: [&str; 3] = ["MountVolume.", "AttachVolume.", "MapVolume."];

impl Refusal {
    /// Of a message as it came. What begins as only the API server's own words do comes first: a webhook may say
    /// anything, of quotas and rights too.
    pub(crate) fn of(message: &str) -> Self {
        let (_, why) = subject(message);
        if [WEBHOOK, POLICY, VIOLATES].iter().any(|known| why.starts_with(known)) {
            return Self::Admission;
        }
        let by_words = [
            (SCHEMA, Self::Schema),
            (UNREACHABLE, Self::WebhookUnreachable),
            (QUOTA, Self::Quota),
            (ESCALATION, Self::Escalation),
            (WEBHOOK, Self::Admission),
            (POLICY, Self::Admission),
            (VIOLATES, Self::Admission),
        ];
        // Who passes words on speaks first.
        let found = by_words
            .into_iter()
            .filter_map(|(words, refusal)| Some((message.find(words)?, refusal)));
        match found.min_by_key(|(at, _)| *at) {
            Some((_, refusal)) => refusal,
            None if message.contains(RIGHTS) => Self::Rights,
            None => Self::Other,
        }
    }
}

/// Did the Pod Security Standards refuse it?
pub(super) fn is_of_pod_security(message: &str) -> bool {
    subject(message).1.starts_with(VIOLATES)
}

/// Which object was refused and who refused it, up to where others may have put words; all of it if nobody may have.
pub(super) fn outline(message: &str, own: &BTreeSet<String>) -> (String, Complete) {
    let (subject, why) = subject(message);
    let subject = subject.map_or_else(String::new, |Subject { kind, name, said }| {
        let name = if own.contains(name) { name } else { "***" };
        format!("{kind} \"{name}{said}")
    });
    let (who, complete) = refuser(why, own);
    (subject + &who, complete)
}

/// What is said of a volume, up to where its driver speaks; none if it is of something else.
pub(super) fn outline_of_volume(message: &str) -> Option<&str> {
    let is_of_volume = OF_VOLUMES.iter().any(|known| message.starts_with(known));
    is_of_volume.then(|| message.split(" : ").next().unwrap_or_default())
}

/// Is everything told?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Complete {
    Yes,
    No,
}

struct Subject<'a> {
    kind: &'a str,
    name: &'a str,
    said: &'a str,
}

/// `deployments.apps "web" is forbidden: WHY`, or only why.
fn subject(message: &str) -> (Option<Subject<'_>>, &str) {
    let passed_on = |(begin, end): (&str, &str)| Some(message.strip_prefix(begin)?.split_once(end)?.1);
    let message = PASSED_ON.into_iter().find_map(passed_on).unwrap_or(message);
    let message = message.strip_prefix(INTERNAL).unwrap_or(message);
    let of_object = || {
        let (kind, rest) = message.split_once(" \"")?;
        let at = rest.find('"')?;
        let (name, rest) = rest.split_at_checked(at)?;
        let said = AFTER_SUBJECT.into_iter().find(|said| rest.starts_with(said))?;
        let is_kind = !kind.is_empty() && is_word(kind);
        is_kind.then_some((Subject { kind, name, said }, rest.get(said.len()..)?))
    };
    of_object().map_or((None, message), |(subject, why)| (Some(subject), why))
}

fn refuser(why: &str, own: &BTreeSet<String>) -> (String, Complete) {
    let named = |before: &str, end: char| {
        let name = why.strip_prefix(before)?.split(end).next()?;
        is_word(name).then_some(name)
    };
    let more = |told: String| (told, Complete::No);
    if let Some(name) = named(WEBHOOK, '"') {
        return more(format!("{WEBHOOK}{name}\" denied the request: "));
    }
    if let Some(name) = named(UNREACHABLE, '"') {
        return more(format!("{UNREACHABLE}{name}\": "));
    }
    if let Some(name) = named(POLICY, '\'') {
        let rest = why.get(POLICY.len() + name.len()..).unwrap_or_default();
        let binding = rest.strip_prefix(BINDING).and_then(|rest| rest.split('\'').next());
        let binding = binding.filter(|binding| is_word(binding));
        let binding = binding.map_or_else(String::new, |binding| format!(" with binding '{binding}'"));
        return more(format!("{POLICY}{name}'{binding} denied request: "));
    }
    if let Some(level) = named(VIOLATES, '"') {
        return more(format!("{VIOLATES}{level}\": "));
    }
    if let Some(quota) = why.strip_prefix(QUOTA) {
        return if is_of_quota(quota) {
            (why.to_owned(), Complete::Yes)
        } else {
            more(QUOTA.into())
        };
    }
    if why.starts_with("User \"") && why.contains(RIGHTS) {
        return (rights(why), Complete::Yes);
    }
    if why.contains(ESCALATION) {
        return more(format!("{ESCALATION}: "));
    }
    // Of the request alone: nothing has been merged yet.
    if why.starts_with(SCHEMA) {
        return (without_values(why, own), Complete::Yes);
    }
    more(String::new())
}

/// `small, requested: cpu=2,memory=1Gi, used: cpu=1, limited: cpu=2`: names and quantities.
fn is_of_quota(text: &str) -> bool {
    let is_part = |part: &str| {
        part.split(',').all(|amount| {
            let amount = amount.split_once('=');
            amount.is_some_and(|(what, much)| {
                is_word(what) && much.starts_with(|c: char| c.is_ascii_digit()) && is_word(much)
            })
        })
    };
    let parts = || {
        let (name, rest) = text.split_once(", requested: ")?;
        let (requested, rest) = rest.split_once(", used: ")?;
        let (used, limited) = rest.split_once(", limited: ")?;
        Some(is_word(name) && [requested, used, limited].into_iter().all(is_part))
    };
    parts().unwrap_or_default()
}

/// Who may not do what where. What an authorizer adds as its reason follows it.
fn rights(why: &str) -> String {
    const NAMESPACE: &str = " in the namespace \"";
    const CLUSTER: &str = " at the cluster scope";
    let end = match (why.find(NAMESPACE), why.find(CLUSTER)) {
        (Some(at), _) => {
            let name = at + NAMESPACE.len();
            why.get(name..)
                .and_then(|rest| rest.find('"'))
                .map(|ends| name + ends + 1)
        }
        (None, Some(at)) => Some(at + CLUSTER.len()),
        (None, None) => None,
    };
    let told = end.and_then(|end| why.get(..end)).unwrap_or(why);
    without_values(told, &BTreeSet::new())
}

/// Of names of objects, resources and quantities.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 253 && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `k8s.io/apiserver` (admission's `ToStatusErr`, authorization's `Forbidden`), the quota and Pod Security
    /// admission plugins and RBAC's escalation check write them.
    const SAID: [&str; 16] = [
        r#"admission webhook "rules.example" denied the request: DB_PASSWORD=canary cannot be so: exceeded quota: no"#,
        r#"deployments.apps "web" is forbidden: admission webhook "rules.example" denied the request: canary"#,
        r#"deployments.apps "web" is forbidden: ValidatingAdmissionPolicy 'no-latest' with binding 'all' denied request: canary"#,
        r#"pods "web" is forbidden: violates PodSecurity "restricted:latest": canary"#,
        r#"pods "web" is forbidden: exceeded quota: small, requested: cpu=2,memory=1Gi, used: cpu=1,memory=0, limited: cpu=2,memory=1Gi"#,
        r#"pods "canary" is forbidden: exceeded quota: small, because of canary"#,
        r#"deployments.apps "web" is forbidden: User "u" cannot patch resource "deployments" in API group "apps" in the namespace "shop": canary"#,
        r#"roles.rbac.authorization.k8s.io "web" is forbidden: user "u" (groups=["a" "b"]) is attempting to grant RBAC permissions not currently held: {Verbs:["canary"]}"#,
        r#"Internal error occurred: failed calling webhook "w.example": failed to call webhook: canary"#,
        r#"failed to create typed patch object (shop/web; /v1, Kind=Service): .spec.canary: field not declared in schema"#,
        r#"no such thing as canary"#,
        r#"Failed to create new replica set "web-5": admission webhook "w.example" denied the request: exceeded quota: canary"#,
        r#"create Claim data-web-0 for Pod web-0 in StatefulSet web failed error: persistentvolumeclaims "web" is forbidden: ValidatingAdmissionPolicy 'p' denied request: exceeded quota: canary"#,
        r#"Error creating job: jobs.batch "web" is forbidden: admission webhook "w.example" denied the request: exceeded quota: canary"#,
        r#"binding rejected: admission webhook "w.example" denied the request: exceeded quota: canary"#,
        r#"Error deleting: Internal error occurred: failed calling webhook "w.example": exceeded quota: canary"#,
    ];

    #[test]
    fn a_refusal_is_known_by_its_raw_words_and_its_outline_tells_who_refused() {
        let own = BTreeSet::from(["web".to_owned()]);
        let told = SAID.map(|said| {
            let (outline, complete) = outline(said, &own);
            assert_eq!(outline.contains("canary"), said.contains(".spec.canary"), "{outline}");
            format!(
                "{:?}: {outline}{}",
                Refusal::of(said),
                if complete == Complete::No { "…" } else { "" }
            )
        });
        insta::assert_snapshot!(told.join("\n"), @r##"
        Admission: admission webhook "rules.example" denied the request: …
        Admission: deployments.apps "web" is forbidden: admission webhook "rules.example" denied the request: …
        Admission: deployments.apps "web" is forbidden: ValidatingAdmissionPolicy 'no-latest' with binding 'all' denied request: …
        Admission: pods "web" is forbidden: violates PodSecurity "restricted:latest": …
        Quota: pods "web" is forbidden: exceeded quota: small, requested: cpu=2,memory=1Gi, used: cpu=1,memory=0, limited: cpu=2,memory=1Gi
        Quota: pods "***" is forbidden: exceeded quota: …
        Rights: deployments.apps "web" is forbidden: User "u" cannot patch resource "deployments" in API group "apps" in the namespace "shop"
        Escalation: roles.rbac.authorization.k8s.io "web" is forbidden: attempting to grant RBAC permissions not currently held: …
        WebhookUnreachable: failed calling webhook "w.example": …
        Schema: failed to create typed patch object (shop/web; /v1, Kind=Service): .spec.canary: field not declared in schema
        Other: …
        Admission: admission webhook "w.example" denied the request: …
        Admission: persistentvolumeclaims "web" is forbidden: ValidatingAdmissionPolicy 'p' denied request: …
        Admission: jobs.batch "web" is forbidden: admission webhook "w.example" denied the request: …
        Admission: …
        WebhookUnreachable: failed calling webhook "w.example": …
        "##);
    }
}
