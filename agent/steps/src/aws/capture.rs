//! The body of an answer as it came: fields that the SDK does not know yet are in it too. For
//! before-images, which must be restored whole.

use std::sync::{Arc, Mutex, PoisonError};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::AfterDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use serde_json::Value;

/// Put into one call; keeps what AWS answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Capture(Arc<Mutex<Value>>);

impl Capture {
    /// The last answer; null if there was none, or it was no JSON.
    pub(crate) fn taken(&self) -> Value {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Intercept for Capture {
    fn name(&self) -> &'static str {
        "DeputyCapture"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response().body().bytes().unwrap_or_default();
        let value = serde_json::from_slice(body).unwrap_or(Value::Null);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
        Ok(())
    }
}
