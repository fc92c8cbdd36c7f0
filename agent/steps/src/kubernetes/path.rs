//! Paths of the Kubernetes API: the only place that makes them. Their parts come from documents, journals and
//! clusters; what is no name makes no path, for it would lead to another object than was asked about.

use deputy_task::document::kubernetes_name::{namespace_problem, object_problem};
use deputy_task::outcome::Failure;

/// The path of a version of an API group, with its kinds behind it.
///
/// # Errors
/// A part of it is no name.
pub(crate) fn of_version(api_version: &str) -> Result<String, Failure> {
    let root = if api_version.contains('/') { "/apis" } else { "/api" };
    let parts = api_version.split('/');
    if parts.clone().count() > 2 {
        return Err(bad("apiVersion", api_version, "it is `version` or `group/version`"));
    }
    for part in parts {
        good("apiVersion", part, object_problem(part))?;
    }
    Ok(format!("{root}/{api_version}"))
}

/// Percent-encoded for a query.
pub(crate) fn encoded(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes()
        .map(|byte| {
            if keep(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// The path of a resource's list.
///
/// # Errors
/// A part of it is no name.
pub(crate) fn of_list(api_version: &str, plural: &str, namespace: Option<&str>) -> Result<String, Failure> {
    let version = of_version(api_version)?;
    good("resource", plural, object_problem(plural))?;
    match namespace {
        Some(namespace) => {
            good("namespace", namespace, namespace_problem(namespace))?;
            Ok(format!("{version}/namespaces/{namespace}/{plural}"))
        }
        None => Ok(format!("{version}/{plural}")),
    }
}

/// The path of an object in a list.
///
/// # Errors
/// Its name is none.
pub(crate) fn of_object(list: &str, name: &str) -> Result<String, Failure> {
    good("name", name, object_problem(name))?;
    Ok(format!("{list}/{name}"))
}

fn good(what: &str, name: &str, problem: Option<&str>) -> Result<(), Failure> {
    problem.map_or(Ok(()), |rule| Err(bad(what, name, rule)))
}

fn bad(what: &str, name: &str, rule: &str) -> Failure {
    let shown: String = name.chars().take(80).collect();
    Failure::new(
        "kubernetes.badName",
        format!("{shown:?} cannot be a {what} in Kubernetes"),
    )
    .hint(format!("correct it: {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards that no text of a document or a journal leads to another object than it names.
    #[test]
    fn what_is_no_name_makes_no_path() {
        assert_eq!(
            of_list("v1", "secrets", Some("shop")).expect("good"),
            "/api/v1/namespaces/shop/secrets"
        );
        assert_eq!(
            of_list("apps/v1", "deployments", None).expect("good"),
            "/apis/apps/v1/deployments"
        );
        for namespace in ["kube-system/secrets/admin?", "..", "a#", "a%2f", "", "A"] {
            let refused = of_list("v1", "secrets", Some(namespace)).expect_err(namespace);
            assert_eq!(refused.class, "kubernetes.badName");
        }
        for version in ["v1/namespaces/x", "..", "a/..", "v1?x", "", "a/", "/v1"] {
            assert!(of_version(version).is_err(), "{version}");
        }
        assert!(of_list("v1", "pods/exec", Some("a")).is_err());
        for name in ["..", "a/b", "a?x", "a#", "%2e", ""] {
            assert!(of_object("/api/v1/namespaces/shop/secrets", name).is_err(), "{name}");
        }
    }
}
