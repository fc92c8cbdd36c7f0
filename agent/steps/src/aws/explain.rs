//! AWS said no, or nothing: who asked for what, why not, and what to change. Also what an answer
//! means for an effect: refused, unknown, or never sent.

use std::error::Error;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use deputy_credentials::TaskIdentity;
use deputy_credentials::error::CredentialsError;
use deputy_credentials::refusal::{Refusal, denied, is_denial};
use deputy_task::outcome::Failure;

use crate::aws::guard::Pass;
use crate::failure::StepError;

/// What was asked of AWS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// The IAM action, for example `ecs:UpdateService`.
    pub(crate) action: &'static str,
    /// On what, in words, for example `the service checkout-api`.
    pub(crate) on: &'a str,
    /// As whom.
    pub(crate) identity: &'a TaskIdentity,
}

impl Asked<'_> {
    /// The answer to the call of an effect.
    pub(crate) fn acted<T, E>(&self, pass: &Pass, answer: Result<T, SdkError<E, HttpResponse>>) -> Result<T, StepError>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let error = match answer {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        // A further try is made only after a refusal, so an expired pass means that nothing happened.
        if pass.has_expired() {
            return Err(StepError::NotSent);
        }
        let failure = self.failure(&error);
        if pass.may_have_acted() {
            Err(StepError::WorldUnknown(Box::new(failure)))
        } else {
            Err(failure.into())
        }
    }

    /// The failure that an error amounts to.
    pub(crate) fn failure<E>(&self, error: &SdkError<E, HttpResponse>) -> Failure
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        if let Some(cause) = credentials_error(error) {
            return cause.failure();
        }
        let mut failure = match error {
            SdkError::ServiceError(answer) => {
                let request = answer
                    .raw()
                    .headers()
                    .get("x-amzn-requestid")
                    .unwrap_or("unknown")
                    .to_owned();
                let code = answer.err().code().unwrap_or("Unknown");
                let message = answer.err().message().unwrap_or("no message");
                let mut failure = self.refusal(code, message);
                failure.detail = format!("{code}: {message} (request {request})");
                return failure;
            }
            SdkError::TimeoutError(_) => self.unanswered("did not answer in time"),
            SdkError::DispatchFailure(_) => self.unanswered("could not be reached"),
            SdkError::ResponseError(_) => self.unanswered("gave an answer that cannot be read"),
            _ => Failure::new(
                "aws.request",
                format!("{} on {} could not be asked for", self.action, self.on),
            ),
        };
        failure = failure.caused_by(error);
        failure
    }

    fn unanswered(&self, how: &str) -> Failure {
        let service = self.action.split(':').next().unwrap_or("AWS");
        let region = self.identity.region();
        Failure::new(
            "aws.unreachable",
            format!(
                "{} in {region} {how} ({} on {})",
                service.to_uppercase(),
                self.action,
                self.on
            ),
        )
        .hint("check spec.aws.region, and the way from the agent to the AWS API (VPC endpoint, proxy, DNS)")
    }

    /// The failure that a code and a message of AWS amount to.
    pub(crate) fn refusal(&self, code: &str, message: &str) -> Failure {
        match code {
            denial if is_denial(denial) => self.denial(message),
            "ThrottlingException" | "Throttling" | "RequestLimitExceeded" | "TooManyRequestsException" => Failure::new(
                "aws.throttled",
                format!("AWS throttled {} on {}: {message}", self.action, self.on),
            )
            .hint("retry later; other clients of the account use up its rate"),
            "ExpiredTokenException" | "ExpiredToken" | "UnrecognizedClientException" | "InvalidClientTokenId" => {
                Failure::new(
                    "aws.badCredentials",
                    format!("AWS does not accept the task's credentials: {message}"),
                )
                .hint("check the agent's own identity, the role chain, and the clock of the agent's host")
            }
            _ => Failure::new(
                self.class_of(code),
                format!("{} on {} was refused: {message}", self.action, self.on),
            ),
        }
    }

    /// `ecs.invalidParameter` for `InvalidParameterException`.
    fn class_of(&self, code: &str) -> String {
        let service = self.action.split(':').next().unwrap_or("aws");
        let code = code.strip_suffix("Exception").unwrap_or(code);
        let mut letters = code.chars();
        let first = letters.next().map(|first| first.to_ascii_lowercase()).unwrap_or('x');
        format!("{service}.{first}{}", letters.as_str())
    }

    fn denial(&self, message: &str) -> Failure {
        let role = self.identity.role_arn().unwrap_or("the agent's own identity");
        let asked = (self.action, self.on);
        denied(&Refusal::read(message), role, &self.identity.lineage(), asked)
    }
}

fn credentials_error<E: Error + 'static>(error: &SdkError<E, HttpResponse>) -> Option<&CredentialsError> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<CredentialsError>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use deputy_credentials::Identities;
    use deputy_credentials::env::Env;

    fn told(code: &str, message: &str) -> String {
        let keys: Env = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]
            .into_iter()
            .collect();
        let identity = Identities::new(keys)
            .for_task("eu-west-1", &[], "deputy-x")
            .expect("no hops");
        let asked = Asked {
            action: "ecs:UpdateService",
            on: "the service checkout-api",
            identity: &identity,
        };
        let failure = asked.refusal(code, message);
        format!("{} | {} | {}", failure.class, failure.summary, failure.hint)
    }

    #[test]
    fn refusals_say_who_what_why_and_what_to_change() {
        let user = "User: arn:aws:sts::222222222222:assumed-role/onlooker/deputy-1 is not authorized to perform: iam:PassRole on resource: arn:aws:iam::222222222222:role/task";
        let text = [
            told(
                "AccessDeniedException",
                &format!("{user} because no identity-based policy allows the iam:PassRole action"),
            ),
            told(
                "AccessDeniedException",
                &format!("{user} with an explicit deny in a service control policy"),
            ),
            told(
                "InvalidParameterException",
                "Container.image should not be null or empty.",
            ),
            told("ThrottlingException", "Rate exceeded"),
        ]
        .join("\n");
        insta::assert_snapshot!(text);
    }

    #[tokio::test]
    async fn a_missing_identity_is_told_as_one_and_not_as_a_broken_connection() {
        let identity = Identities::new(Env::default())
            .for_task("eu-west-1", &[], "deputy-x")
            .expect("no hops");
        let config = identity.sdk_config().expect("no bundle");
        let asked = Asked {
            action: "ecs:DescribeServices",
            on: "the service x",
            identity: &identity,
        };
        let error = aws_sdk_ecs::Client::new(&config)
            .describe_services()
            .services("x")
            .send()
            .await
            .expect_err("nobody");
        assert_eq!(asked.failure(&error).class, "aws.noIdentity");
    }
}
