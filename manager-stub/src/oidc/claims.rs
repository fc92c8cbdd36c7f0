//! What a token says. `sub` is made of facts that somebody vouches for, and of nothing that a user could write as they
//! like; everything else is a session tag.
//!
//! The form of the tags is AWS's: <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html>.

use std::collections::BTreeMap;

use serde::Serialize;

/// Longest subject (OpenID Connect Core 1.0, section 2).
const MAX_SUBJECT_BYTES: usize = 255;
/// Longest value of a session tag.
const MAX_TAG_CHARS: usize = 256;

/// What is known of an attempt and by whose word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The tenant: the store's word.
    pub project: String,
    /// The pool of the agent's certificate; empty if it has none.
    pub pool: String,
    /// The user whose credential submitted the task; empty if nobody was asked for one.
    pub submitter: String,
    /// The task's id.
    pub task: String,
    /// `metadata.name`: the submitter's own words.
    pub name: String,
    /// The run.
    pub run: u32,
    /// The attempt.
    pub epoch: u64,
    /// The agent.
    pub agent: String,
}

/// The claims of one token.
#[derive(Debug, Serialize)]
pub(super) struct Claims<'a> {
    pub(super) iss: &'a str,
    pub(super) sub: String,
    /// One audience as text: AWS takes a list too, some others do not.
    pub(super) aud: &'a str,
    pub(super) iat: u64,
    pub(super) exp: u64,
    pub(super) jti: String,
    #[serde(rename = "https://aws.amazon.com/tags")]
    pub(super) tags: Tags,
}

/// Session tags, in AWS's form.
#[derive(Debug, Serialize)]
pub(super) struct Tags {
    principal_tags: BTreeMap<&'static str, [String; 1]>,
    transitive_tag_keys: [&'static str; 4],
}

impl Facts {
    /// `project:<p>:pool:<pool>:submitter:<s>`. A value that nobody vouches for is empty, and no value can look like
    /// a part of another.
    ///
    /// # Errors
    /// If it is longer than a subject may be.
    pub fn subject(&self) -> Result<String, String> {
        let subject = format!(
            "project:{}:pool:{}:submitter:{}",
            escaped(&self.project),
            escaped(&self.pool),
            escaped(&self.submitter)
        );
        if subject.len() > MAX_SUBJECT_BYTES {
            return Err(format!(
                "the token's subject would have {} characters, and a subject has at most {MAX_SUBJECT_BYTES}: \
                 use shorter names of project, pool and user",
                subject.len()
            ));
        }
        Ok(subject)
    }

    pub(super) fn tags(&self) -> Tags {
        let tags = [
            ("deputy:project", self.project.clone()),
            ("deputy:pool", self.pool.clone()),
            ("deputy:submitter", self.submitter.clone()),
            ("deputy:task", self.task.clone()),
            ("deputy:name", self.name.clone()),
            ("deputy:run", self.run.to_string()),
            ("deputy:attempt", self.epoch.to_string()),
            ("deputy:agent", self.agent.clone()),
        ];
        Tags {
            principal_tags: tags.map(|(key, value)| (key, [tag_value(&value)])).into(),
            transitive_tag_keys: ["deputy:project", "deputy:pool", "deputy:submitter", "deputy:task"],
        }
    }
}

/// Percent-encoded but for what cannot end a part.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._@+".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// What AWS takes as the value of a tag; other characters become `_`.
fn tag_value(text: &str) -> String {
    let allowed = |c: char| c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c);
    text.chars()
        .map(|c| if allowed(c) { c } else { '_' })
        .take(MAX_TAG_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            project: "payments".into(),
            pool: "eu-prod".into(),
            submitter: "ci@example.com".into(),
            task: "0192".into(),
            name: "checkout: the \"api\"".into(),
            run: 1,
            epoch: 2,
            agent: "agent-1".into(),
        }
    }

    #[test]
    fn no_value_can_look_like_another_part() {
        assert_eq!(
            facts().subject().as_deref(),
            Ok("project:payments:pool:eu-prod:submitter:ci@example.com")
        );
        let sly = Facts {
            submitter: "x:pool:admin".into(),
            pool: "a%3Asubmitter".into(),
            ..facts()
        };
        assert_eq!(
            sly.subject().as_deref(),
            Ok("project:payments:pool:a%253Asubmitter:submitter:x%3Apool%3Aadmin")
        );
        let nobody = Facts {
            submitter: String::new(),
            pool: String::new(),
            ..facts()
        };
        assert_eq!(nobody.subject().as_deref(), Ok("project:payments:pool::submitter:"));
        let long = Facts {
            submitter: "é".repeat(100),
            ..facts()
        };
        assert!(long.subject().expect_err("too long").contains("at most 255"));
    }

    #[test]
    fn tags_have_the_form_that_aws_reads() {
        let tags = serde_json::to_value(facts().tags()).expect("JSON");
        assert_eq!(
            tags["principal_tags"]["deputy:project"],
            serde_json::json!(["payments"])
        );
        assert_eq!(
            tags["principal_tags"]["deputy:name"],
            serde_json::json!(["checkout: the _api_"])
        );
        assert_eq!(tags["transitive_tag_keys"][3], "deputy:task");
        let all: BTreeMap<String, Vec<String>> =
            serde_json::from_value(tags["principal_tags"].clone()).expect("lists of one");
        assert!(all.values().all(|values| values.len() == 1));
    }
}
