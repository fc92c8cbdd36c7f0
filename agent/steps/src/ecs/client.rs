//! The ECS client of one step: guarded, as the task's identity, in one cluster.

use aws_sdk_ecs::Client;
use aws_sdk_ecs::config::Builder;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use deputy_credentials::TaskIdentity;
use deputy_task::outcome::Failure;
use serde_json::Value;

use crate::aws::capture::Capture;
use crate::aws::explain::Asked;
use crate::aws::guard::{Guard, Pass};
use crate::context::StepContext;
use crate::failure::StepError;

/// ECS in one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Ecs {
    pub(crate) client: Client,
    pub(crate) identity: TaskIdentity,
    /// Name or ARN, as the document has it.
    pub(crate) cluster: String,
}

impl Ecs {
    /// As the task's identity; sends nothing.
    pub(crate) async fn of(ctx: &StepContext, cluster: &str) -> Result<Self, StepError> {
        let identity = ctx.identity().await?;
        let config = identity
            .sdk_config()
            .map_err(|error| StepError::from(error.failure()))?;
        let config = Builder::from(&config).interceptor(Guard).interceptor(identity.pace());
        let client = Client::from_conf(config.build());
        Ok(Self {
            client,
            identity,
            cluster: cluster.to_owned(),
        })
    }

    /// For explaining what AWS answers.
    pub(crate) fn asked<'a>(&'a self, action: &'static str, on: &'a str) -> Asked<'a> {
        Asked {
            action,
            on,
            identity: &self.identity,
        }
    }

    /// A read that failed, with the words for what is known about ECS.
    pub(crate) fn failure<E>(&self, action: &'static str, on: &str, error: &SdkError<E, HttpResponse>) -> Failure
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.known(self.asked(action, on).failure(error))
    }

    /// `failure`, in better words where the class is one of ECS's common ones.
    pub(crate) fn known(&self, failure: Failure) -> Failure {
        if failure.class != "ecs.clusterNotFound" {
            return failure;
        }
        let region = self.identity.region();
        let summary = format!(
            "there is no ECS cluster {} in {region} in the account of the task's identity",
            self.cluster
        );
        let mut better = Failure::new("ecs.unknownCluster", summary)
            .hint("check the cluster's name, spec.aws.region, and the account of the last role in spec.aws.assumeRole");
        better.detail = failure.detail;
        better
    }
}

/// What a changing call needs beside its arguments.
pub(crate) fn overrides(pass: &Pass, capture: &Capture) -> Builder {
    aws_sdk_ecs::Config::builder()
        .interceptor(pass.clone())
        .interceptor(capture.clone())
        .retry_classifier(pass.retry_rule())
}

/// Sends `body` in place of what the SDK made of its typed arguments, so that fields it does not know
/// reach AWS. Runs before signing.
pub(crate) fn send_instead(body: &Value) -> impl Fn(&mut HttpRequest) + Send + Sync + 'static {
    let text = body.to_string();
    move |request| {
        request.headers_mut().insert("content-length", text.len().to_string());
        *request.body_mut() = SdkBody::from(text.as_str());
    }
}
