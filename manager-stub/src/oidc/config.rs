//! What the issuer is called, whom it makes tokens for, and for how long.

use std::time::Duration;

use http::Uri;

/// Whom AWS wants a token to be for.
const DEFAULT_AUDIENCE: &str = "sts.amazonaws.com";
/// How short and how long a token may live.
const LIFE: std::ops::RangeInclusive<Duration> = Duration::from_secs(5 * 60)..=Duration::from_secs(15 * 60);
/// The shortest time between two keys: long enough for everybody to have seen the next one.
const MIN_ROTATION: Duration = Duration::from_secs(3_600);

/// Checked settings of the issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcConfig {
    issuer: String,
    path: String,
    audiences: Vec<String>,
    life: Duration,
    rotation: Duration,
}

impl OidcConfig {
    /// Checks what an administrator wrote. No audiences: tokens are for AWS only.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn new(issuer: &str, audiences: &[String], life: Duration, rotation: Duration) -> Result<Self, String> {
        let bad = |why: &str| Err(format!("the issuer {issuer:?} {why}"));
        let uri: Uri = match issuer.parse() {
            Ok(uri) => uri,
            Err(error) => return bad(&format!("is no URL: {error}")),
        };
        let Some(authority) = uri.authority().filter(|_| uri.scheme_str() == Some("https")) else {
            return bad("does not begin with https://, which AWS demands");
        };
        // https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_create_oidc.html
        if authority.as_str() != authority.host() {
            return bad("has a port or a user, which AWS does not take");
        }
        if uri.query().is_some() || issuer.ends_with('/') || issuer.contains('#') {
            return bad("ends with /, or has a query or a fragment");
        }
        if authority.host().bytes().any(|byte| byte.is_ascii_uppercase()) {
            return bad("has capitals in its host, and issuers are compared letter by letter");
        }
        let mut audiences = audiences.to_vec();
        if audiences.is_empty() {
            audiences.push(DEFAULT_AUDIENCE.into());
        }
        let good =
            |audience: &String| !audience.is_empty() && audience.len() <= 255 && !audience.contains(char::is_control);
        if let Some(audience) = audiences.iter().find(|audience| !good(audience)) {
            return Err(format!("{audience:?} is no audience"));
        }
        if !LIFE.contains(&life) {
            return Err(format!("tokens live 5m to 15m, not {life:?}"));
        }
        if rotation < MIN_ROTATION {
            return Err(format!("keys are changed at most every hour, not every {rotation:?}"));
        }
        Ok(Self {
            path: uri.path().trim_end_matches('/').to_owned(),
            issuer: issuer.to_owned(),
            audiences,
            life,
            rotation,
        })
    }

    /// `https://…`, as `iss` says it.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The path of the issuer, without a slash at its end; empty for none.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn life(&self) -> Duration {
        self.life
    }

    pub(super) fn rotation(&self) -> Duration {
        self.rotation
    }

    /// The audience that is asked for, if tokens may be made for it; empty asks for the first.
    pub(super) fn audience(&self, asked: &str) -> Result<&str, String> {
        let found = match asked {
            "" => self.audiences.first(),
            asked => self.audiences.iter().find(|audience| *audience == asked),
        };
        found.map(String::as_str).ok_or_else(|| {
            let shown: String = asked.chars().take(120).collect();
            format!(
                "this manager makes no tokens for {shown:?}, only for {}",
                self.audiences.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_MINUTES: Duration = Duration::from_secs(600);
    const A_MONTH: Duration = Duration::from_secs(30 * 86_400);

    fn issuer(issuer: &str) -> Result<OidcConfig, String> {
        OidcConfig::new(issuer, &[], TEN_MINUTES, A_MONTH)
    }

    #[test]
    fn an_issuer_that_aws_would_not_take_is_refused_at_the_start() {
        let told = [
            issuer("http://deputy.example.com"),
            issuer("https://deputy.example.com:8443"),
            issuer("https://deputy.example.com/"),
            issuer("https://deputy.example.com/x?y"),
            issuer("https://Deputy.example.com"),
            issuer("deputy"),
            OidcConfig::new("https://a", &[String::new()], TEN_MINUTES, A_MONTH),
            OidcConfig::new("https://a", &[], Duration::from_secs(60), A_MONTH),
            OidcConfig::new("https://a", &[], TEN_MINUTES, TEN_MINUTES),
        ]
        .map(|config| config.expect_err("refused"));
        insta::assert_snapshot!(told.join("\n"));
        assert_eq!(issuer("https://example.com/deputy").expect("good").path(), "/deputy");
        assert_eq!(issuer("https://example.com").expect("good").path(), "");
    }

    #[test]
    fn tokens_are_made_for_the_audiences_that_are_allowed() {
        let aws = issuer("https://example.com").expect("good");
        assert_eq!(aws.audience(""), Ok("sts.amazonaws.com"));
        assert_eq!(
            aws.audience("vault").expect_err("not allowed"),
            "this manager makes no tokens for \"vault\", only for sts.amazonaws.com"
        );
    }
}
