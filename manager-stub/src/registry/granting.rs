//! Bearer tokens: made, known again, ended.

use std::time::Duration;

use super::book::{BookError, Edit, MAX_ROWS, Registry, missing, room};
use super::grants::{Grant, Scope};
use super::secret;
use crate::trust::authority::{millis, unix_now};

/// What bearer tokens begin with.
const GRANT_PREFIX: &str = "dpt";
/// An expired bearer token is listed for so long.
const SHOWN_FOR_MS: i64 = 30 * 24 * 3600 * 1000;
/// What lasts looks so often whether its token has expired.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(30);

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

impl NewGrant {
    /// The grant from now on, and its secret. It is good for nothing before it is kept.
    #[must_use]
    pub fn with_secret(self) -> (Grant, String) {
        let made = secret::make(GRANT_PREFIX);
        let now_ms = millis(unix_now());
        let grant = Grant {
            id: made.id,
            name: self.name,
            hashed: made.hashed,
            scopes: self.scopes,
            projects: self.projects,
            created_at_ms: now_ms,
            expires_at_ms: if self.life_ms == 0 {
                0
            } else {
                now_ms.saturating_add(self.life_ms)
            },
            revoked: false,
            created_by: self.created_by,
        };
        (grant, made.text)
    }

    /// The same, ended with the one who makes it if it had no end.
    ///
    /// # Errors
    /// If it could do something that its maker cannot, or administers and is bound to projects.
    pub fn made_by(self, maker: Option<&Grant>, now_ms: i64) -> Result<Self, BookError> {
        if self.scopes.contains(&Scope::Administer) && !self.projects.is_empty() {
            return Err(BookError::Invalid(
                "a token with the scope administer is for every project: who can make tokens and join rules is bound by \
                 none; leave out the projects, or the scope"
                    .into(),
            ));
        }
        let Some(maker) = maker else { return Ok(self) };
        let who = format!("the token {} of {}", maker.id, maker.name);
        if let Some(scope) = self.scopes.iter().find(|scope| !maker.scopes.contains(scope)) {
            return Err(BookError::Denied(format!(
                "{who} does not have the scope {scope}, and cannot give what it does not have"
            )));
        }
        let is_within = |project: &String| maker.projects.contains(project);
        if !maker.projects.is_empty() && (self.projects.is_empty() || !self.projects.iter().all(is_within)) {
            return Err(BookError::Denied(format!(
                "{who} is for {} only, and cannot make one for more",
                maker.projects.join(", ")
            )));
        }
        if maker.expires_at_ms == 0 {
            return Ok(self);
        }
        let left_ms = maker.expires_at_ms.saturating_sub(now_ms).max(1);
        match self.life_ms {
            0 => Ok(Self {
                life_ms: left_ms,
                ..self
            }),
            life_ms if life_ms <= left_ms => Ok(self),
            _ => Err(BookError::Denied(format!(
                "{who} ends in {} s, and cannot make one that lives longer",
                left_ms / 1000
            ))),
        }
    }
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

    /// Waits until a grant is not good any more; answers why.
    pub async fn ended(&self, id: &str) -> String {
        let mut changes = self.shared.grants_changed.subscribe();
        loop {
            // Before the look, so that no change falls between.
            changes.mark_unchanged();
            let now_ms = millis(unix_now());
            let Some(grant) = self.grant(id) else {
                return format!("the token {id} is not known to this manager any more");
            };
            if let Some(why) = grant.refusal(now_ms) {
                return why;
            }
            // Looked at again now and then: the wall clock may be set.
            let left_ms = match grant.expires_at_ms {
                0 => i64::MAX,
                at_ms => at_ms.saturating_sub(now_ms),
            };
            let wait = LOOKED_AT_EVERY.min(Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)));
            // Its other end lives as long as the registry that is asked here.
            drop(tokio::time::timeout(wait, changes.changed()).await);
        }
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
        let (grant, secret) = new.with_secret();
        self.keep_grant(grant.clone()).await?;
        Ok((grant, secret))
    }

    /// Keeps a grant whose secret is with its owner already.
    ///
    /// # Errors
    /// If there are too many, or the store does not take it.
    pub async fn keep_grant(&self, grant: Grant) -> Result<(), BookError> {
        let now_ms = grant.created_at_ms;
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
            edit.grants.push(known.grants.pending(&grant.id, Some(grant.clone())));
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_000_000;

    fn maker(scopes: &[Scope], projects: &[&str], expires_at_ms: i64) -> Grant {
        Grant {
            id: "0123456789abcdef".into(),
            name: "ops".into(),
            hashed: secret::make(GRANT_PREFIX).hashed,
            scopes: scopes.to_vec(),
            projects: projects.iter().map(ToString::to_string).collect(),
            created_at_ms: 0,
            expires_at_ms,
            revoked: false,
            created_by: "test".into(),
        }
    }

    fn new(scopes: &[Scope], projects: &[&str], life_ms: i64) -> NewGrant {
        NewGrant {
            name: "ci".into(),
            scopes: scopes.to_vec(),
            projects: projects.iter().map(ToString::to_string).collect(),
            life_ms,
            created_by: "ops".into(),
        }
    }

    #[test]
    fn a_token_is_never_more_than_the_one_it_is_made_with() {
        use Scope::{Administer, Read, Submit};
        let all = maker(&[Read, Submit, Administer], &[], 0);
        let some = maker(&[Read, Administer], &["shop", "web"], NOW_MS + 60_000);
        let told = [
            new(&[Read, Administer], &["shop"], 0).made_by(Some(&all), NOW_MS),
            new(&[Administer], &["shop"], 0).made_by(None, NOW_MS),
            new(&[Read, Submit], &["shop"], 0).made_by(Some(&some), NOW_MS),
            new(&[Administer], &[], 0).made_by(Some(&some), NOW_MS),
            new(&[Read], &["shop", "bank"], 0).made_by(Some(&some), NOW_MS),
            new(&[Read], &["shop"], 60_001).made_by(Some(&some), NOW_MS),
        ]
        .map(|made| made.expect_err("refused").to_string());
        insta::assert_snapshot!(told.join("\n"), @r"
        a token with the scope administer is for every project: who can make tokens and join rules is bound by none; leave out the projects, or the scope
        a token with the scope administer is for every project: who can make tokens and join rules is bound by none; leave out the projects, or the scope
        the token 0123456789abcdef of ops does not have the scope submit, and cannot give what it does not have
        the token 0123456789abcdef of ops is for shop, web only, and cannot make one for more
        the token 0123456789abcdef of ops is for shop, web only, and cannot make one for more
        the token 0123456789abcdef of ops ends in 60 s, and cannot make one that lives longer
        ");
        let life = |made: NewGrant, maker| made.made_by(Some(maker), NOW_MS).expect("good").life_ms;
        assert_eq!(life(new(&[Submit], &["shop"], 0), &all), 0);
        assert_eq!(life(new(&[Read], &["web"], 0), &some), 60_000, "it ends with its maker");
        assert_eq!(life(new(&[Read], &["web"], 1000), &some), 1000);
    }
}
