//! The agent's own AWS identity: detected from its environment and machine, without any network, and reported.

use std::fmt;

use crate::env::Env;
use crate::machine::Machine;
use crate::web_identity::WebIdentity;

/// Where the agent of EKS Pod Identity answers in every pod.
const POD_IDENTITY_HOSTS: [&str; 2] = ["169.254.170.23", "[fd00:ec2::23]"];

/// Where the agent's own identity comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmbientKind {
    /// The container credential endpoint: an ECS task role, EKS Pod Identity, or another agent's per-task endpoint.
    Container,
    /// The token of a Kubernetes service account, exchanged at STS (IRSA).
    WebIdentity,
    /// The metadata service of an EC2 instance, version 2.
    Instance,
    /// Keys in the environment.
    Environment,
    /// A profile of the shared config files, because the operator named it.
    Profile,
    /// Something this version cannot use; the description says what.
    Unsupported,
    /// Nothing.
    None,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ambient {
    /// Where it comes from.
    pub kind: AmbientKind,
    /// For people and the capability report; names no secret. For example `ecs-task-role`.
    pub description: String,
    /// What people should know; empty if nothing.
    pub warning: String,
    /// Are the credentials a role's session? Then every hop is role chaining, which AWS limits to 1 h.
    pub(crate) is_session: bool,
}

impl Ambient {
    /// Looks at `env` in the order of the AWS SDKs: keys, web identity, container endpoint, instance. A profile is
    /// never found by itself.
    pub(crate) fn detect(env: &Env, machine: Machine) -> Self {
        match (env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")) {
            (Some(_), Some(_)) => {
                let is_session = env.get("AWS_SESSION_TOKEN").is_some();
                let what = if is_session {
                    "environment keys with a session token"
                } else {
                    "environment keys"
                };
                let mut found = Self::new(AmbientKind::Environment, what);
                found.is_session = is_session;
                if is_session {
                    found.warning = "the agent's AWS keys come from its environment and end with their session; nothing renews them".into();
                }
                return found;
            }
            (Some(_), None) => return Self::unusable("AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not"),
            (None, Some(_)) => return Self::unusable("AWS_SECRET_ACCESS_KEY is set and AWS_ACCESS_KEY_ID is not"),
            (None, None) => {}
        }
        match WebIdentity::of(env) {
            Some(Ok(identity)) => {
                return Self::session(
                    AmbientKind::WebIdentity,
                    &format!("web identity (IRSA) as {}", identity.role_arn()),
                );
            }
            Some(Err(half)) => return Self::unusable(half),
            None => {}
        }
        let token = if env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").is_some() {
            ", token from a file"
        } else if env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN").is_some() {
            ", with a token"
        } else {
            ""
        };
        if env.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").is_some() {
            return Self::session(AmbientKind::Container, "ecs-task-role");
        }
        match env.get("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
            Some(uri) if POD_IDENTITY_HOSTS.contains(&host_of(uri).as_str()) => {
                Self::session(AmbientKind::Container, &format!("EKS Pod Identity{token}"))
            }
            Some(uri) => Self::session(
                AmbientKind::Container,
                &format!("container endpoint {}{token}", host_of(uri)),
            ),
            None if env.is_true("AWS_EC2_METADATA_DISABLED") => Self::new(AmbientKind::None, "none"),
            None if machine == Machine::Ec2 || env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").is_some() => {
                let warning = "steps can take the agent's own role from the instance's metadata service, which is open to every process here; give the agent its role in another way (a web identity, an ECS task role), or keep that role to `sts:AssumeRole`";
                Self {
                    warning: warning.to_owned(),
                    ..Self::session(AmbientKind::Instance, "EC2 instance profile (IMDSv2)")
                }
            }
            None => Self::new(AmbientKind::None, "none"),
        }
    }

    /// The operator has said where it comes from: nothing else is looked for.
    pub(crate) fn profile(name: &str) -> Self {
        Self::new(
            AmbientKind::Profile,
            &format!("profile {name} of the shared config files"),
        )
    }

    fn new(kind: AmbientKind, description: &str) -> Self {
        Self {
            kind,
            description: description.to_owned(),
            warning: String::new(),
            is_session: false,
        }
    }

    fn session(kind: AmbientKind, description: &str) -> Self {
        Self {
            is_session: true,
            ..Self::new(kind, description)
        }
    }

    fn unusable(why: &str) -> Self {
        Self {
            warning: format!("no AWS identity: {why}"),
            ..Self::new(AmbientKind::Unsupported, why)
        }
    }
}

impl fmt::Display for Ambient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

/// Scheme, host and port only: a path may identify the task.
fn host_of(uri: &str) -> String {
    uri.parse::<http::Uri>()
        .ok()
        .and_then(|uri| uri.authority().map(|authority| authority.host().to_owned()))
        .unwrap_or_else(|| "with a bad address".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Case = (&'static [(&'static str, &'static str)], AmbientKind, &'static str);

    #[test]
    fn each_source_is_told_from_the_environment_alone() {
        let cases: &[Case] = &[
            (&[], AmbientKind::None, "none"),
            (
                &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")],
                AmbientKind::Environment,
                "environment keys",
            ),
            (
                &[("AWS_ACCESS_KEY_ID", "a")],
                AmbientKind::Unsupported,
                "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not",
            ),
            (&[("AWS_ACCESS_KEY_ID", " ")], AmbientKind::None, "none"),
            (
                &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")],
                AmbientKind::Container,
                "ecs-task-role",
            ),
            (
                &[
                    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/secret-path"),
                    ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "t"),
                ],
                AmbientKind::Container,
                "container endpoint 127.0.0.1, with a token",
            ),
            (
                &[
                    (
                        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                        "http://169.254.170.23/v1/credentials",
                    ),
                    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/var/run/token"),
                ],
                AmbientKind::Container,
                "EKS Pod Identity, token from a file",
            ),
            (
                &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/x")],
                AmbientKind::Unsupported,
                "AWS_WEB_IDENTITY_TOKEN_FILE is set and AWS_ROLE_ARN is not",
            ),
            (
                &[
                    ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/x"),
                    ("AWS_ROLE_ARN", "arn:aws:iam::1:role/x"),
                ],
                AmbientKind::WebIdentity,
                "web identity (IRSA) as arn:aws:iam::1:role/x",
            ),
            (
                &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")],
                AmbientKind::Instance,
                "EC2 instance profile (IMDSv2)",
            ),
        ];
        for (env, kind, description) in cases {
            let found = Ambient::detect(&env.iter().copied().collect(), Machine::Other);
            assert_eq!(
                (found.kind, found.description.as_str()),
                (*kind, *description),
                "{env:?}"
            );
            let silent = !matches!(kind, AmbientKind::Unsupported | AmbientKind::Instance);
            assert_eq!(found.warning.is_empty(), silent, "{env:?}");
        }
    }

    #[test]
    fn an_instance_is_asked_only_where_nothing_else_was_given() {
        let told = |env: &[(&str, &str)]| Ambient::detect(&env.iter().copied().collect(), Machine::Ec2).kind;
        assert_eq!(told(&[]), AmbientKind::Instance);
        assert_eq!(told(&[("AWS_EC2_METADATA_DISABLED", "true")]), AmbientKind::None);
        assert_eq!(
            told(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")]),
            AmbientKind::Container
        );
    }
}
