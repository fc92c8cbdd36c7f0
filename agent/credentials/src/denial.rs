//! STS said no: who asked, for what, which kind of denial it probably is, and what to change.

use std::fmt;

use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::RequestId;

use crate::error::{CredentialsError, RefusedHop, chain_of};
use crate::hop::Hop;
use crate::refusal::{Policy, Refusal, is_denial};

/// What STS, or the way to it, answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// AWS's error code; empty if no answer came.
    pub(crate) code: String,
    /// AWS's message, or what happened to the connection.
    pub(crate) message: String,
    /// For AWS's support; may be empty.
    pub(crate) request_id: String,
}

impl Answer {
    /// No answer, and why.
    pub(crate) fn of_transport(message: impl Into<String>) -> Self {
        Self {
            code: String::new(),
            message: message.into(),
            request_id: String::new(),
        }
    }

    /// Code and words as AWS gave them.
    pub(crate) fn raw(&self) -> String {
        let mut raw = if self.code.is_empty() {
            self.message.clone()
        } else {
            format!("{}: {}", self.code, self.message)
        };
        if !self.request_id.is_empty() {
            raw.push_str(&format!(" (request {})", self.request_id));
        }
        raw
    }

    pub(crate) fn is_denial(&self) -> bool {
        is_denial(&self.code)
    }

    /// AWS's denials begin with `User: <arn> is not authorized …`.
    pub(crate) fn caller(&self) -> Option<&str> {
        let arn = self.message.split_once("User: ")?.1.split_whitespace().next()?;
        arn.starts_with("arn:").then_some(arn)
    }
}

/// The code and the words of an error, whether AWS answered or the way to it failed.
pub(crate) fn answer_of<E, R>(error: &SdkError<E, R>) -> Answer
where
    E: ProvideErrorMetadata + std::error::Error + RequestId + 'static,
    R: fmt::Debug + 'static,
{
    match error {
        SdkError::ServiceError(answer) => Answer {
            code: answer.err().code().unwrap_or("Unknown").to_owned(),
            message: answer.err().message().unwrap_or("no message").to_owned(),
            request_id: answer.err().request_id().unwrap_or_default().to_owned(),
        },
        other => Answer::of_transport(chain_of(other)),
    }
}

/// Explains why `hop` could not be taken by `caller` (an ARN, or words where it is not known), which the agent became
/// by `chain`.
pub(crate) fn explain(hop: &Hop, (caller, chain): (&str, &str), answer: &Answer) -> CredentialsError {
    let refused = |(cause, hint): (String, String)| {
        let untold = Refusal::read(&answer.message);
        Box::new(RefusedHop {
            may_want_external_id: answer.is_denial()
                && hop.external_id.is_none()
                && matches!(untold.policy, Policy::Untold | Policy::Trust)
                && !untold.explicit,
            hop: hop.number,
            hops: hop.of,
            role: hop.role_arn.clone(),
            caller: caller.to_owned(),
            chain: chain.to_owned(),
            cause,
            hint,
            raw: answer.raw(),
        })
    };
    if answer.is_denial() {
        CredentialsError::AssumeRoleDenied(refused(denial(hop, caller, &answer.message)))
    } else {
        CredentialsError::AssumeRoleFailed(refused(failure(hop, answer)))
    }
}

fn denial(hop: &Hop, caller: &str, message: &str) -> (String, String) {
    let role = &hop.role_arn;
    let action = if message.contains("sts:TagSession") {
        "sts:TagSession"
    } else if message.contains("sts:SetSourceIdentity") {
        "sts:SetSourceIdentity"
    } else {
        "sts:AssumeRole"
    };
    let refusal = Refusal::read(message);
    if refusal.policy != Policy::Untold || refusal.explicit {
        let kind = match refusal.policy {
            Policy::Trust => "trust policy",
            Policy::Identity => "caller's permission",
            _ => "",
        };
        let cause = match kind {
            "" => refusal.verdict(),
            kind => format!("{kind}: {}", refusal.verdict()),
        };
        return (cause, refusal.change(caller, action, role));
    }
    let id = match &hop.external_id {
        Some(_) => "the sts:ExternalId that it asks for equals the document's externalId",
        None => "if it asks for an sts:ExternalId, the document must give that as externalId",
    };
    let mut actions = "sts:AssumeRole".to_owned();
    if !hop.tags.is_empty() {
        actions.push_str(" and sts:TagSession");
    }
    if hop.source_identity.is_some() {
        actions.push_str(" and sts:SetSourceIdentity");
    }
    let cause = match &hop.external_id {
        Some(_) => {
            "most likely the role's trust policy does not name the caller, or asks for another external id; or the role does not exist"
        }
        None => {
            "most likely the role's trust policy does not name the caller, or asks for an external id that the document does not give; or the role does not exist"
        }
    };
    (
        cause.to_owned(),
        format!(
            "check the trust policy of {role}: it must allow {actions} for {caller}, and {id}; across accounts the caller's own policy must allow {actions} on the role too"
        ),
    )
}

fn failure(hop: &Hop, answer: &Answer) -> (String, String) {
    let words = |cause: &str, hint: &str| (cause.to_owned(), hint.to_owned());
    match answer.code.as_str() {
        "" => words(
            "STS did not answer",
            "check the way from the agent to the STS endpoint of the region (VPC endpoint, proxy, DNS)",
        ),
        "ExpiredToken" | "ExpiredTokenException" => words(
            "the credentials that ask for it are over",
            "check the agent's own identity and the clock of its host",
        ),
        "InvalidClientTokenId" | "UnrecognizedClientException" => words(
            "AWS does not know the keys that ask for it",
            "check the agent's own identity",
        ),
        "SignatureDoesNotMatch" | "RequestExpired" => words(
            "AWS does not accept the signature",
            "check the agent's secret key and the clock of its host",
        ),
        "RegionDisabledException" => words(
            "STS is not enabled in this region for the role's account",
            "enable the region in that account, or use another spec.aws.region",
        ),
        "PackedPolicyTooLarge" => words(
            "the session tags are too large together",
            "use fewer or shorter session tags",
        ),
        "ValidationError" if answer.message.contains("DurationSeconds") => (
            format!(
                "a session of {} minutes is longer than the role allows",
                hop.duration.as_secs() / 60
            ),
            "give the hop a shorter duration, or raise the role's maximum session duration".into(),
        ),
        "NoSuchEntity" => words("the role does not exist", "correct roleArn, or make the role"),
        _ => words(&answer.message, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deputy_task::document::RoleHop;

    const AGENT: &str = "arn:aws:sts::000000000000:assumed-role/agent/x";

    fn hop(external_id: Option<&str>) -> Hop {
        let written = RoleHop {
            role_arn: "arn:aws:iam::222222222222:role/deployer".into(),
            external_id: external_id.map(str::to_owned),
            session_name: None,
            duration: None,
            session_tags: Default::default(),
            transitive_tag_keys: vec![],
            source_identity: None,
        };
        Hop::check(&written, 2, 2, crate::hop::Caller::Role, "deputy-x-1").expect("good")
    }

    fn told(hop: &Hop, code: &str, message: &str) -> String {
        let answer = Answer {
            code: code.into(),
            message: message.into(),
            request_id: "r-1".into(),
        };
        let caller = answer.caller().unwrap_or(AGENT).to_owned();
        let failure = explain(hop, (&caller, "environment keys"), &answer).failure();
        format!(
            "{}\n  {}\n  hint: {}\n  detail: {}",
            failure.class, failure.summary, failure.hint, failure.detail
        )
    }

    #[test]
    fn denials_say_who_what_why_and_what_to_change() {
        let plain = format!(
            "User: {AGENT} is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::222222222222:role/deployer"
        );
        let text = [
            told(&hop(Some("x1")), "AccessDenied", &plain),
            told(
                &hop(None),
                "AccessDenied",
                &format!("{plain} because no identity-based policy allows the sts:AssumeRole action"),
            ),
            told(
                &hop(None),
                "ValidationError",
                "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
            ),
            told(&hop(None), "", "dispatch failure: connection refused"),
        ]
        .join("\n");
        insta::assert_snapshot!(text);
    }
}
