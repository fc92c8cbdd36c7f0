//! What an API server's refusal means to people: what happened, to which thing, why, what to do next.
//! Called wherever a request fails for good. It asks the server who we are; it changes nothing.

use deputy_task::outcome::Failure;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause};

use super::api::{Api, ApiError};
use super::bearer::BearerError;
use super::refusal::Refusal;

/// What was being done when an error came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Doing {
    verb: &'static str,
    what: String,
}

impl Doing {
    /// For example `apply`, `Deployment web in namespace shop`.
    pub(crate) fn new(verb: &'static str, what: impl ToString) -> Self {
        Self {
            verb,
            what: what.to_string(),
        }
    }
}

/// The failure that a task reports for `error`.
pub(crate) async fn explain(api: &Api, error: &ApiError, doing: &Doing) -> Failure {
    let who = match error.code() {
        Some(403) => api.who_am_i().await.ok(),
        _ => None,
    };
    in_words(error, doing, &api.place().cluster, &api.place().server, who.as_deref()).caused_by(error)
}

fn in_words(error: &ApiError, doing: &Doing, cluster: &str, server: &str, who: Option<&str>) -> Failure {
    let Doing { verb, what } = doing;
    match error {
        ApiError::NotSent => Failure::new(
            "kubernetes.notSent",
            format!("{what} was not sent to cluster {cluster}: the permit for it was over"),
        ),
        ApiError::Bearer(error) => bearer(error, cluster),
        ApiError::Unreadable(why) => Failure::new(
            "kubernetes.unreadable",
            format!("cluster {cluster} gave an answer that cannot be read when asked to {verb} {what}: {why}"),
        ),
        ApiError::NoAnswer { detail, .. } => no_answer(detail, doing, cluster, server),
        ApiError::Status { code, refusal, status } => {
            let message = status.message.as_deref().unwrap_or_default();
            match code.as_u16() {
                401 => Failure::new("kubernetes.unauthorized", format!("cluster {cluster} does not know the task's AWS identity"))
                    .hint(
                        "give the role an EKS access entry (aws eks create-access-entry --cluster-name … --principal-arn …) \
                         and an access policy, or map it in the aws-auth ConfigMap",
                    ),
                403 => forbidden(*refusal, message, doing, cluster, who),
                404 => not_found(status, doing, cluster),
                409 => conflict(status, doing),
                400 | 422 => invalid(*refusal, status, doing),
                500 if *refusal == Refusal::Schema => {
                    let (_, problem) = message.split_once("): ").unwrap_or(("", message));
                    Failure::new("kubernetes.invalid", format!("the cluster finds {what} not valid: {problem}")).hint("correct the manifest")
                }
                413 => Failure::new("kubernetes.tooLarge", format!("{what} is too large for cluster {cluster}: {message}")),
                429 => Failure::new("kubernetes.throttled", format!("cluster {cluster} is throttling: {message}")),
                _ if *refusal == Refusal::WebhookUnreachable => Failure::new(
                    "kubernetes.webhookUnreachable",
                    format!("{what} could not be {}: {message}", past(verb)),
                )
                .hint("an admission webhook of the cluster does not answer; repair it, or its failurePolicy"),
                other => Failure::new("kubernetes.server", format!("{what} could not be {}: {other} {message}", past(verb))),
            }
        }
    }
}

fn bearer(error: &BearerError, cluster: &str) -> Failure {
    Failure::new(
        "kubernetes.token",
        format!("there is no token for cluster {cluster}: {error}"),
    )
    .hint("`deputy-agent doctor` shows whether the authenticator runs here and which identity the agent has")
}

fn no_answer(detail: &str, doing: &Doing, cluster: &str, server: &str) -> Failure {
    let Doing { verb, what } = doing;
    let lower = detail.to_lowercase();
    if lower.contains("certificate") || lower.contains("unknownissuer") || lower.contains("tls") {
        return Failure::new("kubernetes.tls", format!("{server} does not show the certificate of cluster {cluster}: {detail}"))
            .hint("something between the agent and the cluster answers in its place (a TLS-inspecting proxy?); let it pass this host");
    }
    Failure::new("kubernetes.unreachable", format!("cluster {cluster} at {server} does not answer ({detail}), asked to {verb} {what}"))
        .hint(
            "if the cluster's API endpoint is private, the agent must run where it can reach it: in its VPC or a connected one, \
             with a security group that lets it in on port 443 (DescribeCluster answers from everywhere, the endpoint does not)",
        )
}

fn forbidden(refusal: Refusal, message: &str, doing: &Doing, cluster: &str, who: Option<&str>) -> Failure {
    let Doing { verb, what } = doing;
    if refusal == Refusal::Quota {
        return Failure::new(
            "kubernetes.quota",
            format!("{what} could not be {}: {message}", past(verb)),
        )
        .hint("raise the ResourceQuota, or ask for less");
    }
    if refusal == Refusal::Escalation {
        return Failure::new("kubernetes.forbidden", format!("{what} was refused: {message}")).hint(
            "nobody may grant what he has not: give the role's access entry these permissions itself, or bind it to a Role with \
             the verbs `escalate` and `bind` on roles",
        );
    }
    if refusal != Refusal::Rights {
        return Failure::new("kubernetes.admission", format!("{what} was refused: {message}"))
            .hint("the cluster's admission rules forbid it; change the manifest, or the rule");
    }
    let who = who.map_or_else(
        || "the task's identity".to_owned(),
        |who| format!("{who} (the task's identity)"),
    );
    // The API server says which verb on which resource in which namespace.
    let asked = message.split_once(" cannot ").map_or(message, |(_, asked)| asked);
    Failure::new(
        "kubernetes.forbidden",
        format!("{who} may not {verb} {what} in cluster {cluster}: it cannot {asked}"),
    )
    .hint(
        "widen the role's EKS access entry (for example access policy AmazonEKSEditPolicy for that namespace), \
         or bind it to a Role with that verb on that resource; a misspelt namespace is refused in the same words",
    )
}

fn not_found(status: &Status, doing: &Doing, cluster: &str) -> Failure {
    let Doing { verb, what } = doing;
    let details = status.details.as_ref();
    if details.and_then(|details| details.kind.as_deref()) == Some("namespaces") && !what.starts_with("Namespace ") {
        let name = details.and_then(|details| details.name.as_deref()).unwrap_or("?");
        return Failure::new(
            "kubernetes.noSuchNamespace",
            format!("{what}: cluster {cluster} has no namespace {name}"),
        )
        .hint("create it, put a Namespace among the manifests, or correct the step's namespace");
    }
    let message = status.message.as_deref().unwrap_or("not found");
    Failure::new(
        "kubernetes.notFound",
        format!("{what} could not be {}: {message}", past(verb)),
    )
}

/// A server-side apply that would take fields from their owners, or a concurrent change.
fn conflict(status: &Status, doing: &Doing) -> Failure {
    let Doing { verb, what } = doing;
    let causes = causes(status);
    let fields: Vec<String> = causes
        .iter()
        .filter(|cause| cause.reason.as_deref() == Some("FieldManagerConflict"))
        .map(|cause| {
            let owner = cause
                .message
                .as_deref()
                .unwrap_or("another manager")
                .trim_start_matches("conflict with ");
            format!("{} belongs to {owner}", cause.field.as_deref().unwrap_or("a field"))
        })
        .collect();
    if fields.is_empty() {
        let message = status.message.as_deref().unwrap_or("conflict");
        return Failure::new(
            "kubernetes.conflict",
            format!("{what} could not be {}: {message}", past(verb)),
        );
    }
    Failure::new(
        "kubernetes.fieldConflict",
        format!("{what} could not be applied: {}", fields.join("; ")),
    )
    .hint("leave these fields out of the manifest, or set forceConflicts: true to take them over")
}

fn invalid(refusal: Refusal, status: &Status, doing: &Doing) -> Failure {
    let Doing { what, .. } = doing;
    let message = status.message.as_deref().unwrap_or("no message");
    if refusal == Refusal::Admission {
        return Failure::new("kubernetes.admission", format!("{what} was refused: {message}"))
            .hint("the cluster's admission rules forbid it; change the manifest, or the rule");
    }
    let causes: Vec<String> = causes(status)
        .iter()
        .map(|cause| {
            let message = cause.message.as_deref().unwrap_or("is not valid");
            cause
                .field
                .as_deref()
                .map_or_else(|| message.to_owned(), |field| format!("{field}: {message}"))
        })
        .collect();
    let words = if causes.is_empty() {
        message.to_owned()
    } else {
        causes.join("; ")
    };
    let failure = Failure::new(
        "kubernetes.invalid",
        format!("the cluster finds {what} not valid: {words}"),
    );
    if words.contains("immutable") {
        return failure.hint("this field cannot change: give the object another name, or delete it first");
    }
    failure.hint("correct the manifest")
}

fn causes(status: &Status) -> &[StatusCause] {
    status
        .details
        .as_ref()
        .and_then(|details| details.causes.as_deref())
        .unwrap_or_default()
}

fn past(verb: &str) -> String {
    match verb {
        "read" => "read".into(),
        "apply" => "applied".into(),
        "put back" => "put back".into(),
        _ if verb.ends_with('e') => format!("{verb}d"),
        _ => format!("{verb}ed"),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::{Value, json};

    use super::super::api::{Reached, status};
    use super::super::echo::Echo;
    use super::*;

    fn told(code: u16, status: Value) -> String {
        let status: Status = serde_json::from_value(status).expect("status");
        let error = ApiError::Status {
            code: StatusCode::from_u16(code).expect("code"),
            refusal: Refusal::of(status.message.as_deref().unwrap_or_default()),
            status: Box::new(status),
        };
        say(&error)
    }

    fn say(error: &ApiError) -> String {
        let doing = Doing::new("apply", "Deployment web in namespace shop");
        let failure = in_words(
            error,
            &doing,
            "prod",
            "https://abc.eks.amazonaws.com",
            Some("arn:aws:sts::1:assumed-role/deployer/x"),
        );
        format!("{}: {}", failure.class, failure.summary)
    }

    /// A live object whose values are too large to be looked for.
    fn refused_of_large(code: u16, message: &str) -> String {
        let live =
            json!({"kind": "Deployment", "spec": {"secret": "hunter2-of-the-cluster", "blob": "x".repeat(100_000)}});
        let echo = Echo {
            own: json!({"kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}}),
            live: vec![live],
        };
        let body = json!({"message": message}).to_string();
        say(&status(
            StatusCode::from_u16(code).expect("code"),
            body.as_bytes(),
            &echo,
            &deputy_logs::Redactor::new(),
        ))
    }

    /// Wordings of `k8s.io/apiserver` (`admission/plugin/webhook/errors`, `admission/plugin/policy/validating`,
    /// `endpoints/handlers/responsewriters`), of the quota plugin and of RBAC's escalation check.
    #[test]
    fn a_refusal_about_a_large_object_says_who_refused_and_is_of_its_class() {
        let table = [
            (
                403,
                r#"deployments.apps "web" is forbidden: exceeded quota: small, requested: count/deployments.apps=1, used: count/deployments.apps=2, limited: count/deployments.apps=2"#,
            ),
            (
                403,
                r#"deployments.apps "web" is forbidden: User "arn:aws:sts::1:assumed-role/d/x" cannot patch resource "deployments" in API group "apps" in the namespace "shop""#,
            ),
            (
                403,
                r#"roles.rbac.authorization.k8s.io "web" is forbidden: user "u" (groups=["a" "b"]) is attempting to grant RBAC permissions not currently held: {APIGroups:["hunter2-of-the-cluster"]}"#,
            ),
            (
                403,
                r#"admission webhook "rules.example" denied the request: PASSWORD=hunter2-of-the-cluster cannot be plain text"#,
            ),
            (
                422,
                r#"deployments.apps "web" is forbidden: ValidatingAdmissionPolicy 'no-latest' with binding 'all' denied request: hunter2-of-the-cluster"#,
            ),
            (
                500,
                r#"Internal error occurred: failed calling webhook "w.example": failed to call webhook: hunter2-of-the-cluster"#,
            ),
            (
                500,
                r#"failed to create typed patch object (shop/web; apps/v1, Kind=Deployment): .spec.prots: field not declared in schema"#,
            ),
        ];
        let told = table.map(|(code, message)| refused_of_large(code, message)).join("\n");
        assert!(!told.contains("hunter2"), "{told}");
        insta::assert_snapshot!(told, @r##"
        kubernetes.quota: Deployment web in namespace shop could not be applied: deployments.apps "web" is forbidden: exceeded quota: small, requested: count/deployments.apps=1, used: count/deployments.apps=2, limited: count/deployments.apps=2
        kubernetes.forbidden: arn:aws:sts::1:assumed-role/deployer/x (the task's identity) may not apply Deployment web in namespace shop in cluster prod: it cannot patch resource "deployments" in API group "apps" in the namespace "shop"
        kubernetes.forbidden: Deployment web in namespace shop was refused: roles.rbac.authorization.k8s.io "web" is forbidden: attempting to grant RBAC permissions not currently held: (what it said is left out: it may repeat what is in the cluster)
        kubernetes.admission: Deployment web in namespace shop was refused: admission webhook "rules.example" denied the request: (what it said is left out: it may repeat what is in the cluster)
        kubernetes.admission: Deployment web in namespace shop was refused: deployments.apps "web" is forbidden: ValidatingAdmissionPolicy 'no-latest' with binding 'all' denied request: (what it said is left out: it may repeat what is in the cluster)
        kubernetes.webhookUnreachable: Deployment web in namespace shop could not be applied: failed calling webhook "w.example": (what it said is left out: it may repeat what is in the cluster)
        kubernetes.invalid: the cluster finds Deployment web in namespace shop not valid: .spec.prots: field not declared in schema
        "##);
    }

    #[test]
    fn refusals_say_who_what_where_and_why() {
        let forbidden = json!({"message": "deployments.apps \"web\" is forbidden: User \"u\" cannot patch resource \"deployments\" in API group \"apps\" in the namespace \"shop\""});
        let quota = json!({"message": "pods \"web\" is forbidden: exceeded quota: small, requested: cpu=2, used: cpu=1, limited: cpu=2"});
        let conflict = json!({"message": "Apply failed with 1 conflict", "details": {"causes": [
            {"reason": "FieldManagerConflict", "message": "conflict with \"kubectl-edit\" using apps/v1", "field": ".spec.replicas"}]}});
        let invalid = json!({"message": "Deployment.apps \"web\" is invalid", "details": {"causes": [
            {"reason": "FieldValueInvalid", "message": "field is immutable", "field": "spec.selector"}]}});
        let namespace =
            json!({"message": "namespaces \"shop\" not found", "details": {"kind": "namespaces", "name": "shop"}});
        let typo = json!({"message": "failed to create typed patch object (shop/web; /v1, Kind=Service): .spec.prots: field not declared in schema"});
        let webhook = json!({"message": "admission webhook \"rules.example\" denied the request: no latest tags"});
        let told: Vec<String> = [
            told(401, json!({})),
            told(403, forbidden),
            told(403, quota),
            told(404, namespace),
            told(409, conflict),
            told(422, invalid),
            told(400, webhook),
            told(500, typo),
            say(&ApiError::NoAnswer {
                reached: Reached::No,
                detail: "tcp connect error: deadline has elapsed".into(),
            }),
            say(&ApiError::NoAnswer {
                reached: Reached::No,
                detail: "invalid peer certificate: UnknownIssuer".into(),
            }),
        ]
        .into();
        insta::assert_snapshot!(told.join("\n"), @r##"
        kubernetes.unauthorized: cluster prod does not know the task's AWS identity
        kubernetes.forbidden: arn:aws:sts::1:assumed-role/deployer/x (the task's identity) may not apply Deployment web in namespace shop in cluster prod: it cannot patch resource "deployments" in API group "apps" in the namespace "shop"
        kubernetes.quota: Deployment web in namespace shop could not be applied: pods "web" is forbidden: exceeded quota: small, requested: cpu=2, used: cpu=1, limited: cpu=2
        kubernetes.noSuchNamespace: Deployment web in namespace shop: cluster prod has no namespace shop
        kubernetes.fieldConflict: Deployment web in namespace shop could not be applied: .spec.replicas belongs to "kubectl-edit" using apps/v1
        kubernetes.invalid: the cluster finds Deployment web in namespace shop not valid: spec.selector: field is immutable
        kubernetes.admission: Deployment web in namespace shop was refused: admission webhook "rules.example" denied the request: no latest tags
        kubernetes.invalid: the cluster finds Deployment web in namespace shop not valid: .spec.prots: field not declared in schema
        kubernetes.unreachable: cluster prod at https://abc.eks.amazonaws.com does not answer (tcp connect error: deadline has elapsed), asked to apply Deployment web in namespace shop
        kubernetes.tls: https://abc.eks.amazonaws.com does not show the certificate of cluster prod: invalid peer certificate: UnknownIssuer
        "##);
    }
}
