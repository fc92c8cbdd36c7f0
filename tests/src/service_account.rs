//! A service account's token in a file, as the kubelet keeps it in a pod (IRSA).
//!
//! The emulator checks the claims against the role's trust policy and not the signature, so there is none. Kubernetes
//! writes the audience as a list; AWS compares its one element, the emulator would compare the list.

use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::cloud::Scenery;

/// The file.
#[derive(Debug)]
pub struct ServiceAccount {
    file: PathBuf,
    issuer: String,
    role: String,
}

impl ServiceAccount {
    /// Without a token so far.
    #[must_use]
    pub fn new(folder: &Path, scenery: &Scenery) -> Self {
        Self {
            file: folder.join("service-account-token"),
            issuer: scenery.issuer.clone(),
            role: scenery.agent_role.clone(),
        }
    }

    /// Replaces the token by one of this subject; the token.
    pub fn be(&self, subject: &str) -> Result<String> {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims =
            json!({ "iss": self.issuer, "sub": subject, "aud": "sts.amazonaws.com", "exp": 4_102_444_800_u64 });
        let token = format!(
            "{}.{}.{}",
            part(json!({ "alg": "RS256" })),
            part(claims),
            URL_SAFE_NO_PAD.encode([b'u'; 256])
        );
        let next = self.file.with_extension("next");
        std::fs::write(&next, &token)?;
        std::fs::rename(next, &self.file)?;
        Ok(token)
    }

    /// What the webhook of EKS puts into the environment of a pod, and hides what the harness gives else.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", self.file.display().to_string()),
            ("AWS_ROLE_ARN", self.role.clone()),
            ("AWS_ROLE_SESSION_NAME", "deputy-agent-pod".into()),
            ("AWS_REGION", "eu-west-1".into()),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", String::new()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", String::new()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}
