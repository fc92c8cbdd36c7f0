//! The bearer token of a step: from the kubeconfig's exec plugin, by way of the credentials crate,
//! which keeps it until shortly before it expires. Used by `api`. A token is known to the redactor
//! before it is used, and is in no error and no log.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use deputy_credentials::exec_plugin::{ExecPluginError, PluginTokens};
use http::HeaderValue;
use tokio::sync::Mutex;

/// Makes a value known to a redactor before it can be printed, until some time after its end, or says why not.
pub(crate) type Hide = Arc<dyn Fn(&[u8], Option<SystemTime>) -> Result<(), String> + Send + Sync>;

/// Tokens of EKS are good for a quarter of an hour.
const TOKEN_LIFE: Duration = Duration::from_secs(15 * 60);

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BearerError {
    /// The plugin failed.
    #[error(transparent)]
    Plugin(#[from] ExecPluginError),
    /// The plugin's token has characters that no header may have.
    #[error("the plugin's token is not printable text")]
    Unprintable,
    /// The log could not hide it.
    #[error("the token could not be hidden in the task's log: {0}")]
    NotHidden(String),
}

/// Hands out the current token. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Bearer {
    tokens: Arc<PluginTokens>,
    hide: Hide,
    /// The last header and the token in it, which the redactor knows.
    last: Arc<Mutex<Option<(String, HeaderValue)>>>,
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").finish_non_exhaustive()
    }
}

impl Bearer {
    /// Tokens from `tokens`, each given to `hide` before it is used.
    pub(crate) fn new(tokens: PluginTokens, hide: Hide) -> Self {
        Self {
            tokens: Arc::new(tokens),
            hide,
            last: Arc::default(),
        }
    }

    /// The `Authorization` header, marked as sensitive.
    pub(crate) async fn token(&self) -> Result<HeaderValue, BearerError> {
        let token = self.tokens.token().await?;
        let mut last = self.last.lock().await;
        if let Some((known, header)) = last.as_ref()
            && *known == token
        {
            return Ok(header.clone());
        }
        (self.hide)(token.as_bytes(), Some(SystemTime::now() + TOKEN_LIFE)).map_err(BearerError::NotHidden)?;
        let mut header = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| BearerError::Unprintable)?;
        header.set_sensitive(true);
        *last = Some((token, header.clone()));
        Ok(header)
    }

    /// The API server did not accept the token: the next caller gets a fresh one.
    pub(crate) async fn forget(&self) {
        self.tokens.forget().await;
    }
}
