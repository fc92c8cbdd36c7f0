//! What a request asks for, in the words of AWS or of Kubernetes.

use http::Method;
use http::request::Parts;

/// Whose protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// AWS JSON, query, and the REST of EKS.
    Aws,
    /// The Kubernetes API.
    Kubernetes,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `ecs`, `sts`, `eks`, … from the signature's scope; `kubernetes`.
    pub service: String,
    /// `UpdateService`; for Kubernetes a verb and a resource: `apply deployments`, `patch deployments/scale`.
    pub operation: String,
    /// From the signature's scope; empty for Kubernetes.
    pub access_key: String,
}

impl Dialect {
    /// Reads a request.
    #[must_use]
    pub fn classify(self, parts: &Parts, body: &[u8]) -> Asked {
        match self {
            Self::Aws => aws(parts, body),
            Self::Kubernetes => Asked {
                service: "kubernetes".into(),
                operation: kubernetes_operation(parts),
                access_key: String::new(),
            },
        }
    }
}

fn aws(parts: &Parts, body: &[u8]) -> Asked {
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let scope = header("authorization").split("Credential=").nth(1).unwrap_or_default();
    let mut scope = scope.split([',', ' ']).next().unwrap_or_default().split('/');
    let access_key = scope.next().unwrap_or_default().to_owned();
    let service = scope.nth(2).unwrap_or("unsigned").to_owned();
    let operation = if let Some((_, operation)) = header("x-amz-target").rsplit_once('.') {
        operation.to_owned()
    } else if let Some((_, operation)) = parts.uri.path().rsplit_once("/operation/") {
        operation.to_owned()
    } else if let Some(action) = form_value(body, "Action").or_else(|| form_value(query(parts), "Action")) {
        action
    } else {
        rest_operation(&parts.method, parts.uri.path())
    };
    Asked {
        service,
        operation,
        access_key,
    }
}

/// The token of an `AssumeRoleWithWebIdentity`. It needs no decoding: three parts in url-safe base64.
pub(super) fn web_identity_token(body: &[u8]) -> Option<String> {
    form_value(body, "WebIdentityToken")
}

fn query(parts: &Parts) -> &[u8] {
    parts.uri.query().unwrap_or_default().as_bytes()
}

fn form_value(form: &[u8], key: &str) -> Option<String> {
    let form = std::str::from_utf8(form).ok()?;
    form.split('&')
        .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
        .map(str::to_owned)
}

fn rest_operation(method: &Method, path: &str) -> String {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (method, segments.as_slice()) {
        (&Method::GET, ["clusters"]) => "ListClusters".into(),
        (&Method::POST, ["clusters"]) => "CreateCluster".into(),
        (&Method::GET, ["clusters", _]) => "DescribeCluster".into(),
        (&Method::DELETE, ["clusters", _]) => "DeleteCluster".into(),
        _ => format!("{method} {path}"),
    }
}

fn kubernetes_operation(parts: &Parts) -> String {
    let query = parts.uri.query().unwrap_or_default();
    let segments: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    let rest = match segments.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => return format!("{} {}", parts.method, parts.uri.path()),
    };
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let (resource, named) = match rest {
        [] => return format!("discover {}", parts.uri.path()),
        [resource] => ((*resource).to_owned(), false),
        [resource, _] => ((*resource).to_owned(), true),
        [resource, _, sub @ ..] => (format!("{resource}/{}", sub.join("/")), true),
    };
    let content_type = parts
        .headers
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let verb = match parts.method {
        Method::GET
            if query
                .split('&')
                .any(|pair| matches!(pair, "watch=true" | "watch=1" | "watch")) =>
        {
            "watch"
        }
        Method::GET if named => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH if content_type.starts_with("application/apply-patch") => "apply",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => parts.method.as_str(),
    };
    let dry = if query.split('&').any(|pair| pair.starts_with("dryRun=")) {
        "dry-run "
    } else {
        ""
    };
    format!("{dry}{verb} {resource}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(dialect: Dialect, request: http::request::Builder, body: &str) -> (String, String) {
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let asked = dialect.classify(&parts, body.as_bytes());
        (asked.service, asked.operation)
    }

    #[test]
    fn aws_requests_are_named_in_every_protocol() {
        let signed = |service: &str| {
            let credential = format!(
                "AWS4-HMAC-SHA256 Credential=AKIA/20261123/eu-west-1/{service}/aws4_request, SignedHeaders=host"
            );
            http::Request::builder().header("authorization", credential)
        };
        let target = signed("ecs").header("x-amz-target", "AmazonEC2ContainerServiceV20141113.UpdateService");
        assert_eq!(
            asked(Dialect::Aws, target, "{}"),
            ("ecs".into(), "UpdateService".into())
        );
        let form = "Version=2011-06-15&Action=AssumeRole&RoleArn=x";
        assert_eq!(
            asked(Dialect::Aws, signed("sts"), form),
            ("sts".into(), "AssumeRole".into())
        );
        let rest = signed("eks").uri("/clusters/prod");
        assert_eq!(asked(Dialect::Aws, rest, ""), ("eks".into(), "DescribeCluster".into()));
    }

    #[test]
    fn kubernetes_requests_are_named_by_verb_and_resource() {
        for (method, uri, expected) in [
            ("GET", "/api/v1/namespaces/shop", "get namespaces"),
            (
                "GET",
                "/apis/apps/v1/namespaces/shop/deployments?watch=true",
                "watch deployments",
            ),
            ("GET", "/api/v1/namespaces/shop/pods?limit=5", "list pods"),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/shop/deployments/web?fieldManager=deputy",
                "patch deployments",
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/shop/deployments/web?dryRun=All",
                "dry-run patch deployments",
            ),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/shop/deployments/web",
                "delete deployments",
            ),
            (
                "PUT",
                "/apis/apps/v1/namespaces/shop/deployments/web/scale",
                "update deployments/scale",
            ),
            ("GET", "/version", "GET /version"),
        ] {
            let request = http::Request::builder().method(method).uri(uri);
            assert_eq!(asked(Dialect::Kubernetes, request, "").1, expected, "{method} {uri}");
        }
    }
}
