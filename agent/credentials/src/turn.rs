//! The HTTP client of AWS clients that share an account: each transmission waits for its turn
//! ([`super::rate`]), bounded. Knows no retries and no answers.

use std::sync::Arc;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::{RuntimeComponents, RuntimeComponentsBuilder};
use aws_smithy_types::config_bag::ConfigBag;
use tokio::time::Instant;

use crate::rate::{Lane, Rates};

/// Sends through `inner` when it is this account's turn.
#[derive(Debug, Clone)]
pub(crate) struct TakingTurns {
    pub(crate) inner: SharedHttpClient,
    pub(crate) rates: Arc<Rates>,
}

#[derive(Debug)]
struct Connector {
    inner: SharedHttpConnector,
    client: TakingTurns,
}

impl HttpClient for TakingTurns {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector {
            inner: self.inner.http_connector(settings, components),
            client: self.clone(),
        })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        cfg: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.inner.validate_base_client_config(components, cfg)
    }

    fn validate_final_config(&self, components: &RuntimeComponents, cfg: &ConfigBag) -> Result<(), BoxError> {
        self.inner.validate_final_config(components, cfg)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.inner.connector_metadata()
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Some(lane) = request.extension::<Lane>() else {
            let error = "a call without the interceptor that says whose turn it is";
            return HttpConnectorFuture::ready(Err(ConnectorError::other(error.into(), None)));
        };
        let wait = self.client.rates.take(lane, Instant::now());
        if wait.is_zero() {
            return self.inner.call(request);
        }
        tracing::debug!(service = %lane.service, account = %lane.account, wait_ms = wait.as_millis(), "a call waits for its turn");
        let inner = self.inner.clone();
        HttpConnectorFuture::new(async move {
            tokio::time::sleep(wait).await;
            inner.call(request).await
        })
    }
}
