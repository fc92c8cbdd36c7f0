//! Live objects of another field manager with a secret in each, and the manifests over them that the API server refuses
//! for good. Where it quotes the secret when it does, that is made sure of: a test over it can fail.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// An admission policy is in force some time after it was made.
const IN_FORCE: Duration = Duration::from_secs(30);

/// A manifest that is refused.
#[derive(Debug, Clone)]
pub struct Refused {
    /// What the secret was asked for as.
    pub secret: &'static str,
    /// What is wrong, in the words that a failure must have of it.
    pub words: &'static str,
    /// What is applied over the live object.
    pub manifest: Value,
    /// The refusal as the API server words it.
    pub answer: String,
    /// Does it quote the secret?
    pub quotes: bool,
}

/// A live object, and what is applied over it.
struct Case {
    words: &'static str,
    live: Value,
    over: Value,
    /// Does the refusal quote the secret?
    quotes: bool,
}

/// Around a secret.
type MakeCase = fn(&str) -> Case;

/// Makes the objects in `namespace`, with a secret from `secret` in each, and answers what is refused over them.
///
/// # Errors
/// An object cannot be made, is not refused, or its refusal does not quote what it is here for.
pub async fn refused(client: &Client, namespace: &str, mut secret: impl FnMut(&str) -> String) -> Result<Vec<Refused>> {
    admission(client, namespace).await?;
    let mut all = Vec::new();
    let cases: [(&str, MakeCase); 6] = [
        ("a live Job", job),
        ("a live Pod", pod),
        ("a live StatefulSet", stateful_set),
        ("a live Secret with a type", typed_secret),
        ("a live Service", service),
        ("a live ConfigMap under a policy", by_policy),
    ];
    for (secret_name, case) in cases {
        let value = secret(secret_name);
        let Case {
            words,
            live,
            over,
            quotes,
        } = case(&value);
        let api = api(client, namespace, &live)?;
        let name = live["metadata"]["name"].as_str().context("a name")?;
        api.patch(name, &PatchParams::apply("helm"), &Patch::Apply(&live))
            .await
            .with_context(|| live.to_string())?;
        let answer = refusal(&api, name, &over).await?;
        let told = value
            .split(|c: char| !c.is_ascii_alphanumeric())
            .max_by_key(|part| part.len());
        ensure!(
            !quotes || told.is_some_and(|told| answer.contains(told)),
            "the API server does not quote what it refuses: {answer}"
        );
        all.push(Refused {
            secret: secret_name,
            words,
            manifest: over,
            answer,
            quotes,
        });
    }
    Ok(all)
}

fn api(client: &Client, namespace: &str, object: &Value) -> Result<Api<DynamicObject>> {
    let (group, version) = match object["apiVersion"].as_str().context("an API version")? {
        core if !core.contains('/') => ("", core),
        other => other.split_once('/').context("a group")?,
    };
    let kind = GroupVersionKind::gvk(group, version, object["kind"].as_str().context("a kind")?);
    let resource = ApiResource::from_gvk(&kind);
    Ok(if group == "admissionregistration.k8s.io" {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    })
}

/// What the API server says to it, without doing it.
async fn refusal(api: &Api<DynamicObject>, name: &str, over: &Value) -> Result<String> {
    let parameters = PatchParams::apply("somebody").force().dry_run();
    let until = tokio::time::Instant::now() + IN_FORCE;
    loop {
        match api.patch(name, &parameters, &Patch::Apply(over)).await {
            Err(kube::Error::Api(status)) => return Ok(status.message),
            Err(other) => return Err(other.into()),
            Ok(_) if tokio::time::Instant::now() > until => bail!("{over} is not refused"),
            Ok(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// A rule of the cluster that quotes what was there before.
async fn admission(client: &Client, namespace: &str) -> Result<()> {
    let api_version = "admissionregistration.k8s.io/v1";
    let name = format!("quotes-{namespace}");
    let policy = json!({
        "apiVersion": api_version, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["configmaps"], "resourceNames": ["ruled"],
            }]},
            "validations": [{
                "expression": "!has(object.data.colour) || object.data.colour != 'green'",
                "messageExpression": "'no green beside ' + oldObject.data.kept",
            }],
        },
    });
    let binding = json!({
        "apiVersion": api_version, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {
            "policyName": name, "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}},
        },
    });
    for object in [policy, binding] {
        let api = api(client, namespace, &object)?;
        api.patch(&name, &PatchParams::apply("helm"), &Patch::Apply(&object))
            .await?;
    }
    Ok(())
}

fn container(image: &str, more: Value) -> Value {
    let mut container = json!({"name": "app", "image": image});
    if let (Some(container), Some(more)) = (container.as_object_mut(), more.as_object()) {
        container.extend(more.clone());
    }
    json!([container])
}

fn with_password(image: &str, password: &str) -> Value {
    container(image, json!({"env": [{"name": "PASSWORD", "value": password}]}))
}

fn job(password: &str) -> Case {
    let job = |containers: Value| {
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "migrate"}, "spec": {
            "suspend": true, "template": {"spec": {"restartPolicy": "Never", "containers": containers}}}})
    };
    Case {
        words: "spec.template.spec: Invalid value: ***: field is immutable",
        live: job(with_password("app:1", password)),
        over: job(container("app:2", json!({}))),
        quotes: true,
    }
}

fn pod(password: &str) -> Case {
    let pod = |containers: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"},
            "spec": {"restartPolicy": "Never", "containers": containers}})
    };
    Case {
        words: "spec: Forbidden: pod updates may not change fields other than",
        live: pod(with_password("app:1", password)),
        over: pod(container("app:1", json!({"env": [{"name": "MODE", "value": "x"}]}))),
        quotes: true,
    }
}

fn stateful_set(password: &str) -> Case {
    let set = |service: &str, containers: Value| {
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {
            "replicas": 0, "serviceName": service, "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": containers}}}})
    };
    Case {
        words: "spec.serviceName: Invalid value: \"other\": field is immutable",
        live: set("db", with_password("db:1", password)),
        over: set("other", container("db:1", json!({}))),
        quotes: false,
    }
}

fn typed_secret(password: &str) -> Case {
    Case {
        words: "type: Invalid value: \"example.com/other\": field is immutable",
        live: json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "typed"}, "type": "example.com/one",
            "stringData": {"password": password}}),
        over: json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "typed"}, "type": "example.com/other"}),
        quotes: false,
    }
}

fn service(password: &str) -> Case {
    let service = |more: Value| {
        let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
        if let (Some(service), Some(more)) = (service.as_object_mut(), more.as_object()) {
            service.extend(more.clone());
        }
        service
    };
    Case {
        words: "may not change once set",
        live: service(json!({"metadata": {"name": "web", "annotations": {"password": password}}})),
        over: service(json!({"spec": {"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80}]}})),
        quotes: false,
    }
}

fn by_policy(password: &str) -> Case {
    let map =
        |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ruled"}, "data": data});
    Case {
        words: "no green beside ***",
        live: map(json!({"kept": password})),
        over: map(json!({"colour": "green"})),
        quotes: true,
    }
}
