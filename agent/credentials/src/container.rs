//! The container credential endpoint: an ECS task role, EKS Pod Identity, or another agent's endpoint for a task.

use std::path::PathBuf;

use aws_config::ecs::EcsCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;

use crate::env::Env;
use crate::error::{CredentialsError, chain_of};
use crate::token_file;

/// Names the file of the token that the endpoint wants to see.
const TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";

/// Where it is, and what it wants to see.
pub(crate) struct Container {
    provider: EcsCredentialsProvider,
    token_file: Option<PathBuf>,
    /// For people.
    pub(crate) ambient: String,
}

impl Container {
    /// `provider` knows the endpoint; `env` the token's file.
    pub(crate) fn new(provider: EcsCredentialsProvider, env: &Env, ambient: String) -> Self {
        Self {
            provider,
            token_file: env.get(TOKEN_FILE).map(PathBuf::from),
            ambient,
        }
    }

    pub(crate) async fn credentials(&self) -> Result<Credentials, CredentialsError> {
        // The SDK reads it too, and names neither file nor variable where it cannot.
        if let Some(file) = &self.token_file {
            token_file::read_any(file).map_err(|problem| CredentialsError::ContainerToken {
                ambient: self.ambient.clone(),
                path: file.display().to_string(),
                problem,
            })?;
        }
        let answer = self.provider.provide_credentials().await;
        answer.map_err(|error| self.failed(chain_of(&error)))
    }

    pub(crate) fn failed(&self, cause: String) -> CredentialsError {
        CredentialsError::Ambient {
            ambient: self.ambient.clone(),
            cause,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_file_that_is_gone_or_half_written_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        let env = Env::from_iter([(TOKEN_FILE, file.to_str().expect("UTF-8"))]);
        let provider = EcsCredentialsProvider::builder().build();
        let container = Container::new(provider, &env, "EKS Pod Identity, token from a file".into());
        for (text, told) in [
            (None, "cannot be read: No such file or directory (os error 2)"),
            (Some(" \n"), "is empty"),
            // {"alg":"RS256"}, and a signature of nine bytes.
            (
                Some("eyJhbGciOiJSUzI1NiJ9.e30.c2lnbmF0dXJl"),
                "ends within its signature; it is perhaps written at this moment",
            ),
        ] {
            if let Some(text) = text {
                std::fs::write(&file, text).expect("written");
            }
            let failure = container.credentials().await.expect_err("no token").failure();
            assert_eq!(
                failure.summary,
                format!(
                    "the agent's own AWS identity (EKS Pod Identity, token from a file) cannot be read: \
                     AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names {}, which {told}",
                    file.display()
                )
            );
            assert!(failure.hint.contains("eks-pod-identity-token"), "{}", failure.hint);
        }
    }
}
