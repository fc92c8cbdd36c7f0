//! Mints tokens and shows the keys they are verified with. Keys are changed when somebody asks for either: a key set
//! that nobody reads needs no new key.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::claims::{Claims, Facts};
use super::config::OidcConfig;
use super::key_ring::{Due, KeyTimes, Rhythm, due, signer};
use super::signing_key::{KeyError, SigningKey};
use crate::dispatcher::DispatcherHandle;
use crate::store::contract::{Reads, StoreError};
use crate::store::op::Op;

/// Where the key set is, below the issuer.
pub(super) const KEYS_PATH: &str = "/.well-known/jwks.json";
/// Where the discovery document is, below the issuer (OpenID Connect Discovery 1.0, section 4).
pub(super) const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";

/// The issuer. One per manager.
pub struct Issuer {
    config: OidcConfig,
    dispatcher: DispatcherHandle,
    /// In the order in which they sign.
    keys: Mutex<Vec<SigningKey>>,
}

/// A token and its end.
#[derive(Clone, PartialEq, Eq)]
pub struct Minted {
    /// The signed token. Whoever has it can be the attempt until its end.
    pub token: String,
    /// Unix milliseconds.
    pub expires_at_ms: i64,
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// Tokens are not made for what was asked.
    #[error("{0}")]
    NotFor(String),
    /// There is no key to sign with now.
    #[error("the OIDC issuer cannot sign now: {0}")]
    NoKey(String),
}

/// The issuer cannot work.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// Its keys cannot be read.
    #[error("the keys of the OIDC issuer cannot be read: {0}")]
    Store(#[from] StoreError),
    /// A key is broken.
    #[error("{0}")]
    Key(String),
}

impl From<KeyError> for IssuerError {
    fn from(error: KeyError) -> Self {
        Self::Key(error.to_string())
    }
}

impl Issuer {
    /// An issuer with the keys of the store.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn open(config: OidcConfig, dispatcher: DispatcherHandle, reads: &dyn Reads) -> Result<Arc<Self>, IssuerError> {
        let keys = reads.oidc_keys()?.into_iter().map(SigningKey::read);
        let keys = keys.collect::<Result<_, _>>()?;
        Ok(Arc::new(Self {
            config,
            dispatcher,
            keys: Mutex::new(keys),
        }))
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &OidcConfig {
        &self.config
    }

    /// A token for `audience` (empty: the first that is allowed) about `facts`.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn mint(&self, facts: &Facts, audience: &str, now: SystemTime) -> Result<Minted, MintError> {
        let audience = self.config.audience(audience).map_err(MintError::NotFor)?;
        let sub = facts.subject().map_err(MintError::NotFor)?;
        let iat = seconds(now);
        let exp = iat + self.config.life().as_secs();
        let claims = Claims {
            iss: self.config.issuer(),
            sub,
            aud: audience,
            iat,
            exp,
            jti: uuid::Uuid::new_v4().to_string(),
            tags: facts.tags(),
        };
        let claims = serde_json::to_vec(&claims).map_err(|error| MintError::NoKey(error.to_string()))?;
        let mut keys = self.keys.lock().await;
        let now_ms = millis(now);
        let tended = self.tend(&mut keys, now_ms).await;
        let times: Vec<KeyTimes> = keys.iter().map(KeyTimes::of).collect();
        let key = match (signer(&times, now_ms), tended) {
            (Some(index), Ok(())) => &keys[index],
            (Some(index), Err(why)) => {
                tracing::warn!(%why, "the keys of the OIDC issuer could not be changed; the old one signs on");
                &keys[index]
            }
            (None, Err(why)) => return Err(MintError::NoKey(why)),
            (None, Ok(())) => return Err(MintError::NoKey("there is no key".into())),
        };
        let token = key.sign(&claims).map_err(|error| MintError::NoKey(error.to_string()))?;
        Ok(Minted {
            token,
            expires_at_ms: i64::try_from(exp).unwrap_or(i64::MAX).saturating_mul(1_000),
        })
    }

    /// The key set, as JSON.
    pub(super) async fn key_set(&self, now: SystemTime) -> Bytes {
        let mut keys = self.keys.lock().await;
        if let Err(why) = self.tend(&mut keys, millis(now)).await {
            tracing::warn!(%why, "the keys of the OIDC issuer could not be changed");
        }
        let keys: Vec<Value> = keys.iter().map(SigningKey::jwk).collect();
        Bytes::from(json!({ "keys": keys }).to_string())
    }

    /// The discovery document, as JSON.
    pub(super) fn discovery(&self) -> Bytes {
        let issuer = self.config.issuer();
        let document = json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}{KEYS_PATH}"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid"],
            "claims_supported": ["iss", "sub", "aud", "iat", "exp", "jti", "https://aws.amazon.com/tags"],
        });
        Bytes::from(document.to_string())
    }

    /// Does what is due. A key is used and shown only once it is on disk.
    async fn tend(&self, keys: &mut Vec<SigningKey>, now_ms: i64) -> Result<(), String> {
        let rhythm = Rhythm {
            rotation: self.config.rotation(),
            token_life: self.config.life(),
        };
        loop {
            let times: Vec<KeyTimes> = keys.iter().map(KeyTimes::of).collect();
            match due(&times, rhythm, now_ms) {
                None => return Ok(()),
                Some(Due::Make { signs_from_ms }) => {
                    let made = tokio::task::spawn_blocking(move || SigningKey::generate(now_ms, signs_from_ms));
                    let made = made.await.map_err(|error| error.to_string())?;
                    let made = made.map_err(|error| error.to_string())?;
                    self.commit(Op::PutOidcKey(Box::new(made.row.clone()))).await?;
                    tracing::info!(kid = %made.row.kid, signs_from_ms, "a signing key of the OIDC issuer was made");
                    keys.push(made);
                    keys.sort_by(|a, b| (a.row.signs_from_ms, &a.row.kid).cmp(&(b.row.signs_from_ms, &b.row.kid)));
                }
                Some(Due::Forget { kid }) => {
                    self.commit(Op::ForgetOidcKey { kid: kid.clone() }).await?;
                    tracing::info!(%kid, "a signing key of the OIDC issuer was forgotten: its last token has ended");
                    keys.retain(|key| key.row.kid != kid);
                }
            }
        }
    }

    async fn commit(&self, op: Op) -> Result<(), String> {
        let done = self.dispatcher.commit(vec![op]).await;
        done.map_err(|refused| format!("the store did not take the change: {refused:?}"))
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn millis(at: SystemTime) -> i64 {
    i64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}
