//! Why an identity cannot be had, in words for the person who can change it.

use deputy_task::outcome::Failure;

/// Why there are no credentials. Turned into a [`Failure`] with [`CredentialsError::failure`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// No ambient identity was found: give the agent one.
    #[error("the agent has no AWS identity of its own: {found}")]
    NoAmbient {
        /// What was looked for and found instead.
        found: String,
    },
    /// The ambient source was found and did not answer, or refused.
    #[error("the agent's own AWS identity ({ambient}) cannot be read: {cause}")]
    Ambient {
        /// The source, described.
        ambient: String,
        /// What it answered.
        cause: String,
    },
    /// The token that the container credential endpoint wants to see is not in its file.
    #[error(
        "the agent's own AWS identity ({ambient}) cannot be read: AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names {path}, which {problem}"
    )]
    ContainerToken {
        /// The source, described.
        ambient: String,
        /// As set.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The instance's metadata service was expected and gave no credentials.
    #[error("the EC2 instance's metadata service gave no AWS identity: {cause}")]
    Instance {
        /// What it answered, or that it did not.
        cause: String,
    },
    /// The profile that the operator named gave no credentials.
    #[error("the {profile} gave no AWS identity: {cause}")]
    Profile {
        /// Which.
        profile: String,
        /// What the SDK says of it.
        cause: String,
    },
    /// A token, of the agent's service account or about the attempt, was not exchanged for a role's session.
    #[error("{} could not become {}: {}", .0.who, .0.role, .0.cause)]
    WebIdentity(Box<RefusedToken>),
    /// A hop of the document breaks a rule of AWS's; nothing was sent.
    #[error("hop {hop} of the role chain ({role}): {problem}")]
    BadHop {
        /// Counted from 1.
        hop: usize,
        /// The role as written.
        role: String,
        /// Which rule, and what to write instead.
        problem: String,
    },
    /// AWS refused to let the caller assume the role.
    #[error("{}, from {},\nmay not assume {} (hop {} of {}): {}", .0.caller, .0.chain, .0.role, .0.hop, .0.hops, .0.cause)]
    AssumeRoleDenied(Box<RefusedHop>),
    /// Assuming the role failed for another reason.
    #[error("{} could not be assumed (hop {} of {}): {}", .0.role, .0.hop, .0.hops, .0.cause)]
    AssumeRoleFailed(Box<RefusedHop>),
    /// AWS's certificates cannot be checked.
    #[error("AWS_CA_BUNDLE names {path}, which {problem}")]
    CaBundle {
        /// As set.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is a proxy on the way to AWS that is none.
    #[error("HTTPS_PROXY cannot be used: {0}")]
    Proxy(String),
    /// GetCallerIdentity did not answer.
    #[error("AWS did not tell who the caller is: {cause}")]
    CallerUnknown {
        /// AWS's own words, or the transport's.
        cause: String,
    },
}

/// A hop that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedHop {
    /// Counted from 1.
    pub hop: usize,
    /// Length of the chain.
    pub hops: usize,
    /// The role that was asked for.
    pub role: String,
    /// Who asked; empty where it does not matter.
    pub caller: String,
    /// How the agent came to be the caller: from its own identity on.
    pub chain: String,
    /// The likely cause, in words.
    pub cause: String,
    /// What to change; may be empty.
    pub hint: String,
    /// AWS told no reason, and no external id was given: one may be what is missing.
    pub may_want_external_id: bool,
    /// AWS's own words, or the transport's.
    pub raw: String,
}

/// A token that was not exchanged for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedToken {
    /// Whose token it is, in words.
    pub who: &'static str,
    /// The role that was asked for.
    pub role: String,
    /// The likely cause, in words.
    pub cause: String,
    /// What to change; may be empty.
    pub hint: String,
    /// AWS's own words, or the transport's.
    pub raw: String,
}

impl CredentialsError {
    /// What a script can tell apart.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::NoAmbient { .. } => "aws.noIdentity",
            Self::Ambient { .. } | Self::ContainerToken { .. } => "aws.ambientIdentity",
            Self::Instance { .. } => "aws.instanceIdentity",
            Self::Profile { .. } => "aws.profile",
            Self::WebIdentity(_) => "aws.webIdentity",
            Self::BadHop { .. } => "aws.badRole",
            Self::AssumeRoleDenied(_) => "aws.assumeRoleDenied",
            Self::AssumeRoleFailed(_) => "aws.assumeRoleFailed",
            Self::CaBundle { .. } => "aws.caBundle",
            Self::Proxy(_) => "aws.proxy",
            Self::CallerUnknown { .. } => "aws.callerUnknown",
        }
    }

    /// The failure that the task reports.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let failure = Failure::new(self.class(), self.to_string());
        let refused = |hint: &str, raw: &String| {
            let mut failure = failure.clone().hint(hint);
            failure.detail.clone_from(raw);
            failure
        };
        match self {
            Self::AssumeRoleDenied(hop) | Self::AssumeRoleFailed(hop) => refused(&hop.hint, &hop.raw),
            Self::WebIdentity(token) => refused(&token.hint, &token.raw),
            Self::Instance { .. } => failure.hint(
                "attach an instance profile; inside a container the instance's HttpPutResponseHopLimit must be 2 or more, \
                 or give the agent an identity of its own (ECS task role, IRSA, EKS Pod Identity)",
            ),
            Self::Profile { .. } => failure.hint(
                "look at the profile in ~/.aws/config and ~/.aws/credentials (AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE); \
                 for SSO, log in anew: aws sso login --profile …",
            ),
            Self::NoAmbient { .. } => failure.hint(
                "give the agent an ECS task role, IRSA, EKS Pod Identity or an instance profile, or set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY in its environment",
            ),
            Self::Ambient { .. } => failure.hint("check the task role of the agent and its way to the credential endpoint"),
            Self::ContainerToken { .. } => failure.hint(
                "EKS Pod Identity mounts this file into pods that are made after the association (volume eks-pod-identity-token), \
                 and renews it: look whether it is there and whether the agent's user may read it, or make the pod anew",
            ),
            Self::CaBundle { .. } => failure.hint("set AWS_CA_BUNDLE to a readable file of PEM certificates, or unset it"),
            Self::Proxy(_) => failure.hint("HTTPS_PROXY names the proxy, NO_PROXY what is reached without it"),
            Self::BadHop { .. } => failure.hint("correct spec.aws.assumeRole"),
            Self::CallerUnknown { .. } => failure.hint(
                "look whether STS of the region can be reached from here: its name (DNS), HTTPS_PROXY and NO_PROXY as the agent has them, \
                 the security group and the policy of a VPC endpoint for sts",
            ),
        }
    }
}

/// An error and its causes, outermost first; never a `Debug` dump, which could show more than words.
pub(crate) fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    Failure::new("", "").caused_by(error).detail
}

impl From<CredentialsError> for Failure {
    fn from(error: CredentialsError) -> Self {
        error.failure()
    }
}
