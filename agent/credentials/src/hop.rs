//! One hop of a role chain, checked against AWS's rules before anything is sent.

use std::time::Duration;

use deputy_task::document::{RoleHop, duration};

use crate::error::CredentialsError;

const DEFAULT_DURATION: Duration = Duration::from_secs(3_600);
const MIN_DURATION: Duration = Duration::from_secs(900);
const MAX_DURATION: Duration = Duration::from_secs(12 * 3_600);
/// What AWS allows for a role that is assumed with another role's credentials.
const MAX_CHAINED_DURATION: Duration = Duration::from_secs(3_600);
const MAX_TAGS: usize = 50;

/// A hop that AWS's own validation will accept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Hop {
    /// Counted from 1.
    pub(crate) number: usize,
    /// Length of the chain.
    pub(crate) of: usize,
    pub(crate) role_arn: String,
    pub(crate) external_id: Option<String>,
    pub(crate) session_name: String,
    pub(crate) duration: Duration,
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) transitive_tag_keys: Vec<String>,
    pub(crate) source_identity: Option<String>,
}

/// Whose credentials assume the role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A user's long-lived keys.
    Keys,
    /// Another role: AWS calls it role chaining and limits the session to one hour.
    Role,
}

impl Hop {
    pub(crate) fn check(
        hop: &RoleHop,
        number: usize,
        of: usize,
        caller: Caller,
        default_session_name: &str,
    ) -> Result<Self, CredentialsError> {
        let session_name = hop
            .session_name
            .clone()
            .unwrap_or_else(|| session_name_from(default_session_name));
        checks(hop, &session_name, caller)
            .map(|duration| Self {
                number,
                of,
                role_arn: hop.role_arn.clone(),
                external_id: hop.external_id.clone(),
                session_name,
                duration,
                tags: hop
                    .session_tags
                    .iter()
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect(),
                transitive_tag_keys: hop.transitive_tag_keys.clone(),
                source_identity: hop.source_identity.clone(),
            })
            .map_err(|problem| CredentialsError::BadHop {
                hop: number,
                role: hop.role_arn.clone(),
                problem,
            })
    }
}

/// A name of ours made fit: other characters become `-`, and it ends after 64.
pub(crate) fn session_name_from(text: &str) -> String {
    let name: String = text
        .chars()
        .map(|c| if is_name_char(c) { c } else { '-' })
        .take(64)
        .collect();
    if name.len() < 2 { "deputy".into() } else { name }
}

fn checks(hop: &RoleHop, session_name: &str, caller: Caller) -> Result<Duration, String> {
    check_role_arn(&hop.role_arn)?;
    check_text("the session name", session_name, 2..=64, is_name_char)?;
    if let Some(id) = &hop.external_id {
        check_text("externalId", id, 2..=1224, |c| {
            is_name_char(c) || matches!(c, ':' | '/')
        })?;
    }
    if let Some(source) = &hop.source_identity {
        check_text("sourceIdentity", source, 2..=64, is_name_char)?;
    }
    if hop.session_tags.len() > MAX_TAGS {
        return Err(format!(
            "{} session tags, and AWS allows {MAX_TAGS}",
            hop.session_tags.len()
        ));
    }
    for (key, value) in &hop.session_tags {
        check_text("the key of a session tag", key, 1..=128, is_tag_char)?;
        check_text(&format!("the session tag {key}"), value, 0..=256, is_tag_char)?;
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(format!(
                "the session tag {key} begins with aws:, which AWS keeps for itself"
            ));
        }
    }
    if let Some(key) = hop
        .transitive_tag_keys
        .iter()
        .find(|key| !hop.session_tags.contains_key(*key))
    {
        return Err(format!("transitiveTagKeys names {key}, which is not among sessionTags"));
    }
    check_duration(hop.duration.as_deref(), caller)
}

pub(crate) fn check_role_arn(arn: &str) -> Result<(), String> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let good = matches!(
        parts.as_slice(),
        ["arn", partition, "iam", "", account, resource]
            if partition.starts_with("aws") && account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit())
                && resource.strip_prefix("role/").is_some_and(|name| !name.is_empty() && name.is_ascii())
    );
    if good {
        Ok(())
    } else {
        Err("roleArn must look like arn:aws:iam::123456789012:role/name".into())
    }
}

fn check_duration(text: Option<&str>, caller: Caller) -> Result<Duration, String> {
    let Some(text) = text else { return Ok(DEFAULT_DURATION) };
    let duration = duration::parse(text).map_err(|error| format!("duration {error}"))?;
    if !(MIN_DURATION..=MAX_DURATION).contains(&duration) {
        return Err(format!("duration {text} must be from 15m to 12h"));
    }
    if caller == Caller::Role && duration > MAX_CHAINED_DURATION {
        return Err(format!(
            "duration {text} is longer than 1h, which is the most AWS gives when a role is assumed with another role's credentials \
             (role chaining); sessions are renewed by themselves, so 1h is enough for any task"
        ));
    }
    Ok(duration)
}

fn check_text(
    what: &str,
    text: &str,
    length: std::ops::RangeInclusive<usize>,
    allowed: impl Fn(char) -> bool,
) -> Result<(), String> {
    if !length.contains(&text.chars().count()) {
        return Err(format!(
            "{what} must have {} to {} characters",
            length.start(),
            length.end()
        ));
    }
    match text.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(format!(
            "{what} has the character {c:?}, which AWS does not allow there"
        )),
        None => Ok(()),
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '=' | ',' | '.' | '@' | '-')
}

fn is_tag_char(c: char) -> bool {
    c.is_alphanumeric() || c == ' ' || matches!(c, '_' | '.' | ':' | '/' | '=' | '+' | '-' | '@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop() -> RoleHop {
        RoleHop {
            role_arn: "arn:aws:iam::222222222222:role/deployer".into(),
            external_id: None,
            session_name: None,
            duration: None,
            session_tags: Default::default(),
            transitive_tag_keys: vec![],
            source_identity: None,
        }
    }

    fn problem(change: impl FnOnce(&mut RoleHop), caller: Caller) -> String {
        let mut hop = hop();
        change(&mut hop);
        match Hop::check(&hop, 1, 1, caller, "deputy-x-1") {
            Err(CredentialsError::BadHop { problem, .. }) => problem,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_good_hop_gets_the_defaults() {
        let checked = Hop::check(&hop(), 1, 2, Caller::Role, "deputy-a b-1").expect("good");
        assert_eq!(
            (checked.session_name.as_str(), checked.duration),
            ("deputy-a-b-1", DEFAULT_DURATION)
        );
    }

    #[test]
    fn every_rule_of_aws_is_told_before_anything_is_sent() {
        let told = [
            problem(|hop| hop.role_arn = "deployer".into(), Caller::Keys),
            problem(|hop| hop.role_arn = "arn:aws:iam::22:role/x".into(), Caller::Keys),
            problem(|hop| hop.session_name = Some("x".into()), Caller::Keys),
            problem(|hop| hop.session_name = Some("a b".into()), Caller::Keys),
            problem(|hop| hop.external_id = Some("a\nb".into()), Caller::Keys),
            problem(|hop| hop.duration = Some("1x".into()), Caller::Keys),
            problem(|hop| hop.duration = Some("5m".into()), Caller::Keys),
            problem(|hop| hop.duration = Some("2h".into()), Caller::Role),
            problem(|hop| hop.transitive_tag_keys = vec!["team".into()], Caller::Keys),
            problem(
                |hop| drop(hop.session_tags.insert("aws:x".into(), "y".into())),
                Caller::Keys,
            ),
        ];
        insta::assert_snapshot!(told.join("\n"), @r#"
        roleArn must look like arn:aws:iam::123456789012:role/name
        roleArn must look like arn:aws:iam::123456789012:role/name
        the session name must have 2 to 64 characters
        the session name has the character ' ', which AWS does not allow there
        externalId has the character '\n', which AWS does not allow there
        duration "1x" has an unknown unit; there are d, h, m, s and ms
        duration 5m must be from 15m to 12h
        duration 2h is longer than 1h, which is the most AWS gives when a role is assumed with another role's credentials (role chaining); sessions are renewed by themselves, so 1h is enough for any task
        transitiveTagKeys names team, which is not among sessionTags
        the session tag aws:x begins with aws:, which AWS keeps for itself
        "#);
    }

    #[test]
    fn long_sessions_are_allowed_with_a_users_own_keys() {
        let mut hop = hop();
        hop.duration = Some("12h".into());
        assert_eq!(
            Hop::check(&hop, 1, 1, Caller::Keys, "ab").expect("good").duration,
            MAX_DURATION
        );
    }
}
