//! Bearer tokens: made, known again, ended.

use super::book::{BookError, Edit, MAX_ROWS, Registry, missing, room};
use super::grants::{Grant, Scope};
use super::secret;
use crate::trust::authority::{millis, unix_now};

/// What bearer tokens begin with.
const GRANT_PREFIX: &str = "dpt";
/// An expired bearer token is listed for so long.
const SHOWN_FOR_MS: i64 = 30 * 24 * 3600 * 1000;

/// What a grant is to be.
#[derive(Debug, Clone)]
pub struct NewGrant {
    /// Whom it stands for.
    pub name: String,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// Where; empty means everywhere.
    pub projects: Vec<String>,
    /// How long; 0 means for ever.
    pub life_ms: i64,
    /// Who makes it.
    pub created_by: String,
}

impl Registry {
    /// The grant that a bearer token stands for.
    ///
    /// # Errors
    /// Why it is none; says more only to who has the secret.
    pub fn grant_of(&self, text: &str) -> Result<Grant, String> {
        let unknown = || "the bearer token is not known to this manager".to_owned();
        let (id, secret) = secret::parse(GRANT_PREFIX, text).ok_or_else(unknown)?;
        let grant = self.look(|known| known.grants.get(id).cloned()).ok_or_else(unknown)?;
        if !grant.hashed.is_of(secret) {
            return Err(unknown());
        }
        match grant.refusal(millis(unix_now())) {
            None => Ok(grant),
            Some(why) => Err(why),
        }
    }

    /// The grant with this id.
    #[must_use]
    pub fn grant(&self, id: &str) -> Option<Grant> {
        self.look(|known| known.grants.get(id).cloned())
    }

    /// Every grant, oldest first.
    #[must_use]
    pub fn grants(&self) -> Vec<Grant> {
        let mut all: Vec<Grant> = self.look(|known| known.grants.all().cloned().collect());
        all.sort_by_key(|grant| grant.created_at_ms);
        all
    }

    /// Makes a grant; answers it with its secret.
    ///
    /// # Errors
    /// If there are too many, or the store does not take it.
    pub async fn create_grant(&self, new: NewGrant) -> Result<(Grant, String), BookError> {
        let NewGrant {
            name,
            scopes,
            projects,
            life_ms,
            created_by,
        } = new;
        let made = secret::make(GRANT_PREFIX);
        let now_ms = millis(unix_now());
        let grant = Grant {
            id: made.id.clone(),
            name,
            hashed: made.hashed,
            scopes,
            projects,
            created_at_ms: now_ms,
            expires_at_ms: if life_ms == 0 {
                0
            } else {
                now_ms.saturating_add(life_ms)
            },
            revoked: false,
            created_by,
        };
        let stored = grant.clone();
        self.change(move |known| {
            let mut edit = Edit::default();
            // What ended long ago makes room; until then the list shows why a pipeline does not work any more.
            let over = known
                .grants
                .all()
                .filter(|grant| grant.expires_at_ms != 0 && now_ms.saturating_sub(grant.expires_at_ms) > SHOWN_FOR_MS);
            edit.grants
                .extend(over.map(|grant| known.grants.pending(&grant.id, None)));
            room(known.grants.len() - edit.grants.len(), MAX_ROWS, "bearer tokens")?;
            edit.grants.push(known.grants.pending(&stored.id, Some(stored.clone())));
            Ok((edit, ()))
        })
        .await?;
        Ok((grant, made.text))
    }

    /// Forgets a grant whose secret nobody has seen.
    ///
    /// # Errors
    /// If the store does not take it.
    pub async fn forget_grant(&self, id: &str) -> Result<(), BookError> {
        self.change(|known| {
            let mut edit = Edit::default();
            edit.grants.push(known.grants.pending(id, None));
            Ok((edit, ()))
        })
        .await
    }

    /// Ends a grant.
    ///
    /// # Errors
    /// If there is none, or the store does not take it.
    pub async fn revoke_grant(&self, id: &str) -> Result<(), BookError> {
        self.change(|known| {
            let grant = known.grants.get(id).ok_or_else(|| missing("token", id))?;
            let revoked = Grant {
                revoked: true,
                ..grant.clone()
            };
            let mut edit = Edit::default();
            edit.grants.push(known.grants.pending(id, Some(revoked)));
            Ok((edit, ()))
        })
        .await
    }
}
