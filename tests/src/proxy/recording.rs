//! What went through a proxy, and questions about it.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::classify::Asked;
use crate::leaks::canary::Canaries;

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    /// `ecs`, `sts`, `eks`, `kubernetes`, …
    pub service: String,
    /// `UpdateService`; `apply deployments`.
    pub operation: String,
    /// Method, path and query.
    pub target: String,
    /// As it was sent.
    pub body: Bytes,
    /// SHA-256 of the body, lower-case hex.
    pub body_sha256: String,
    /// What the server answered; `None`: the request never reached it, or it has not answered yet.
    pub status: Option<u16>,
    /// What the test answered instead of the server.
    pub injected: Option<u16>,
    /// It was answered as before the last change ([`super::relay::Proxy::lag`]).
    pub stale: bool,
    /// The reply reached the caller.
    pub delivered: bool,
    /// The caller's key.
    pub access_key: String,
    /// `arn:aws:sts::222222222222:assumed-role/deployer/…`, learnt from the AssumeRole that this proxy has seen;
    /// empty if it saw none.
    pub caller: String,
    /// When it came, since the proxy was started.
    pub at: Duration,
}

/// Everything that went through a proxy, in order of arrival.
#[derive(Debug, Default)]
pub struct Recording {
    calls: Vec<Call>,
    callers: HashMap<String, String>,
}

impl Call {
    /// The server did it.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// It would change the world.
    #[must_use]
    pub fn is_mutation(&self) -> bool {
        const AWS_READS: [&str; 4] = ["Describe", "List", "Get", "AssumeRole"];
        const KUBERNETES_READS: [&str; 7] = ["get ", "list ", "watch ", "dry-run ", "discover ", "GET ", "HEAD "];
        let reads: &[&str] = if self.service == "kubernetes" {
            &KUBERNETES_READS
        } else {
            &AWS_READS
        };
        let review = self.operation.contains("selfsubject") || self.operation.contains("subjectaccessreviews");
        !review && !reads.iter().any(|read| self.operation.starts_with(read))
    }

    /// The body as text; for a failed assertion's message.
    #[must_use]
    pub fn body_text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `null` if it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        let role = self.caller.rsplit_once("assumed-role/").map_or("", |(_, role)| role);
        write!(
            f,
            "{:>8.3}s {:<10} {:<32} {status:>3}",
            self.at.as_secs_f64(),
            self.service,
            self.operation
        )?;
        if let Some(injected) = self.injected {
            write!(f, " (answered {injected} by the test)")?;
        } else if self.stale {
            f.write_str(" (stale)")?;
        } else if !self.delivered {
            f.write_str(" (reply not delivered)")?;
        }
        if role.is_empty() { Ok(()) } else { write!(f, " {role}") }
    }
}

impl Recording {
    pub(super) fn begin(&mut self, asked: &Asked, target: String, body: Bytes, at: Duration) -> usize {
        use sha2::{Digest, Sha256};
        let body_sha256 = hex::encode(Sha256::digest(&body));
        self.calls.push(Call {
            service: asked.service.clone(),
            operation: asked.operation.clone(),
            target,
            body,
            body_sha256,
            status: None,
            injected: None,
            stale: false,
            delivered: false,
            access_key: asked.access_key.clone(),
            caller: self.callers.get(&asked.access_key).cloned().unwrap_or_default(),
            at,
        });
        self.calls.len() - 1
    }

    pub(super) fn update(&mut self, index: usize, change: impl FnOnce(&mut Call)) {
        if let Some(call) = self.calls.get_mut(index) {
            change(call);
        }
    }

    /// From now on, calls with this key are this caller's.
    pub(super) fn learn(&mut self, access_key: String, caller: String) {
        self.callers.insert(access_key, caller);
    }

    /// Learns who the keys of an `AssumeRole…` answer belong to, and what of it is secret.
    pub(super) fn learn_from(&mut self, operation: &str, answer: &[u8], canaries: &Canaries) {
        match operation {
            "GetSecretValue" => return learn_secret(answer, &["/SecretString", "/SecretBinary"], canaries),
            // The pool key, where KMS wraps it.
            "Decrypt" => return learn_secret(answer, &["/Plaintext"], canaries),
            "GetParameter" => return learn_secret(answer, &["/Parameter/Value"], canaries),
            operation if operation.starts_with("AssumeRole") => {}
            _ => return,
        }
        let text = String::from_utf8_lossy(answer);
        let (key, user) = (element(&text, "AccessKeyId"), element(&text, "AssumedRoleUser"));
        if let (Some(key), Some(arn)) = (key, user.and_then(|user| element(user, "Arn"))) {
            self.learn(key.to_owned(), arn.to_owned());
            for secret in ["SecretAccessKey", "SessionToken"] {
                canaries.learn(
                    &format!("{secret} of {arn}"),
                    element(&text, secret).unwrap_or_default(),
                );
            }
        }
    }

    pub(super) fn calls(&self) -> &[Call] {
        &self.calls
    }
}

/// What Secrets Manager, Parameter Store and KMS answer, and each value within where it is JSON.
fn learn_secret(answer: &[u8], places: &[&str], canaries: &Canaries) {
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    for value in places.iter().filter_map(|place| answer.pointer(place)?.as_str()) {
        canaries.learn("a secret of AWS", value);
        if let Ok(bytes) = STANDARD.decode(value) {
            canaries.learn_bytes("a secret of AWS, binary", &bytes);
        }
        let mut open = vec![serde_json::from_str(value).unwrap_or_default()];
        while let Some(next) = open.pop() {
            match next {
                serde_json::Value::Object(fields) => open.extend(fields.into_iter().map(|(_, value)| value)),
                serde_json::Value::Array(items) => open.extend(items),
                serde_json::Value::String(text) => canaries.learn("a value in a secret of AWS", &text),
                _ => {}
            }
        }
    }
}

fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0.trim())
}
