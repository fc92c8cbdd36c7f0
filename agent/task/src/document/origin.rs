//! Where a source comes from: a folder beside the document, a git repository, an object in S3. Used by the frame of a
//! document; credentials are references, never values.

use std::net::Ipv6Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::secret::SecretRef;

/// Where a source comes from; the key names the kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SourceKind {
    /// A folder beside the document, packed by `deputy submit`.
    Bundle(String),
    /// A commit of a git repository, fetched by the agent.
    Git(GitSource),
    /// A packed folder in S3, fetched by the agent.
    S3(S3Source),
}

/// A commit of a git repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitSource {
    /// `https://host/path` or `ssh://user@host/path`.
    pub url: String,
    /// Which commit: the one that a branch or tag names when the task first needs it, or this one.
    #[serde(rename = "ref")]
    pub reference: GitRef,
    /// Only this folder of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subfolder: Option<String>,
    /// How the agent proves who it is; default: not at all, whatever keys its user has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<GitAuth>,
}

/// Which commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum GitRef {
    /// Its newest commit.
    Branch(String),
    /// The commit that it names.
    Tag(String),
    /// All digits of its hash.
    Commit(String),
}

/// How the agent proves to a git server who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum GitAuth {
    /// With a token or password, over https.
    HttpsToken(HttpsToken),
    /// With a private key, over ssh.
    SshKey(SshKey),
}

/// A token or password for https.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpsToken {
    /// Default `git`, which servers that take tokens do not look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Where the token is.
    pub token: SecretRef,
}

/// A private key for ssh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SshKey {
    /// Where the private key is; without a passphrase.
    pub key: SecretRef,
    /// The server's public keys, as `ssh-keyscan` prints them.
    pub known_hosts: String,
}

/// A packed folder in S3: `.tar`, `.tar.zst` or `.tzst`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Source {
    /// The bucket.
    pub bucket: String,
    /// The object; its name says how it is packed.
    pub key: String,
    /// This version of it; default: the newest when the task first needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// The bucket's region; default: that of `spec.aws`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// How a folder is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// tar.
    Tar,
    /// tar in zstd.
    TarZstd,
}

/// How an object of this name is packed, if that can be told.
#[must_use]
pub fn packing_of(key: &str) -> Option<Packing> {
    if key.ends_with(".tar.zst") || key.ends_with(".tzst") {
        Some(Packing::TarZstd)
    } else if key.ends_with(".tar") {
        Some(Packing::Tar)
    } else {
        None
    }
}

/// What is wrong with the address of a repository. Whatever two readers of addresses could read differently is
/// wrong: the policy is asked about the host that stands here, and git takes it apart once more.
#[must_use]
pub fn url_problem(url: &str) -> Option<&'static str> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Some("is no URL: write https://host/path or ssh://user@host/path");
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    if !matches!(scheme, "https" | "ssh") {
        Some("is neither https nor ssh, and nothing else is fetched from")
    } else if url.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
        Some("has a space or another character that no URL has")
    } else if url.contains(['?', '#']) {
        Some("has a query or a fragment, and a repository has neither")
    } else if authority.contains('%') {
        Some("has a % before its path, where names are written as they are")
    } else if user.contains(':') || (scheme == "https" && authority.contains('@')) {
        Some("has credentials in it, which everybody sees: name them in `auth`")
    } else if !user.is_empty() && !is_plain(user, "._-") || (user.is_empty() && authority.contains('@')) {
        Some("has a user that is no plain name")
    } else if place.is_empty() || path.is_empty() {
        Some("lacks a host or a path")
    } else if !is_place(place) {
        Some("has a host that is none: write a name or an address, and behind it at most a port")
    } else if !is_plain_path(path) {
        Some("has a path that could be read as another one")
    } else {
        None
    }
}

/// Letters and digits of ASCII and these; the first is a letter or digit.
fn is_plain(text: &str, others: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

/// `git.example.com`, `10.0.0.1:8443`, `[2001:db8::1]:22`.
fn is_place(place: &str) -> bool {
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address.parse::<Ipv6Addr>().is_ok(), None),
        Some((address, rest)) => (
            address.parse::<Ipv6Addr>().is_ok(),
            Some(rest.strip_prefix(':').unwrap_or("")),
        ),
        None => {
            let (name, port) = place
                .split_once(':')
                .map_or((place, None), |(name, port)| (name, Some(port)));
            (name.split('.').all(|label| is_plain(label, "_-")), port)
        }
    };
    let is_port = |port: &str| port.starts_with(|c: char| matches!(c, '1'..='9')) && port.parse::<u16>().is_ok();
    host && port.is_none_or(is_port)
}

/// No `.` and `..`, and nothing escaped that has a meaning of its own.
fn is_plain_path(path: &str) -> bool {
    let mut escaped = path.split('%');
    escaped.next();
    let good = |rest: &str| {
        let byte = rest.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        byte.is_some_and(|byte| byte >= b' ' && byte != 0x7f && !b"/.\\%?#@:".contains(&byte))
            && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit())
    };
    escaped.all(good) && path.split('/').all(|part| !matches!(part, "." | ".."))
}

impl GitSource {
    /// The host that is asked, in small letters, with its port if that is not the scheme's own.
    #[must_use]
    pub fn host(&self) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("", &self.url));
        let authority = rest.split('/').next().unwrap_or_default();
        let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
        let own = match scheme {
            "https" => ":443",
            "ssh" => ":22",
            _ => "",
        };
        place.strip_suffix(own).unwrap_or(place).to_ascii_lowercase()
    }
}

impl GitRef {
    /// What is wrong with it.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        match self {
            Self::Commit(commit) => {
                let digits = matches!(commit.len(), 40 | 64)
                    && commit.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                (!digits).then_some("is no commit: write all 40 digits of its hash, in small letters")
            }
            Self::Branch(name) | Self::Tag(name) => {
                is_bad_name(name).then_some("cannot be the name of a branch or tag")
            }
        }
    }

    /// Its name or hash.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Branch(text) | Self::Tag(text) | Self::Commit(text) => text,
        }
    }
}

/// The rules of `git check-ref-format`, in short.
fn is_bad_name(name: &str) -> bool {
    let bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    name.starts_with('-')
        || name.ends_with('.')
        || name == "@"
        || name.contains("..")
        || name.contains("@{")
        || name.contains([' ', '~', '^', ':', '?', '*', '[', '\\'])
        || name.chars().any(char::is_control)
        || name.split('/').any(bad_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_could_mean_something_else_are_refused() {
        for url in [
            "https://git.example.com/team/app.git",
            "https://git.example.com:8443/app",
            "https://dev.example.com/My%20Team/_git/app~1",
            "ssh://git@example.com/team/app.git",
            "ssh://git@[::1]:2222/app",
        ] {
            assert_eq!(url_problem(url), None, "{url}");
        }
        for url in [
            "git@example.com:team/app.git",
            "http://example.com/app",
            "file:///etc",
            "ext::sh -c id",
            "https://user:token@example.com/app",
            "https://token@example.com/app",
            "ssh://-oProxyCommand=id/app",
            "ssh://-x@host/app",
            "https:///app",
            "https://example.com",
            "https://example.com/a b",
            "https://example.com/a?x=y",
            "--upload-pack=id",
            "ssh://git%40evil.example%2F@git.example.com/x.git",
            "https://git.example.com%2f.evil.example/x",
            "ssh://git@git.example.com%3A22/x",
            "ssh://a@evil.example@git.example.com/x",
            "https://evil.example\\@git.example.com/x",
            "https://@git.example.com/x",
            "ssh://git@[evil.example]/x",
            "ssh://[git@evil.example:22]:22/x",
            "ssh://git@[::1]evil.example/x",
            "ssh://git@[fe80::1%25eth0]/x",
            "ssh://git@-evil.example/x",
            "ssh://git@git.example.com:-1/x",
            "ssh://git@git.example.com:0022/x",
            "ssh://git@git.example.com:22:23/x",
            "https://git.example.com./x",
            "https://git..example.com/x",
            "https://gít.example.com/x",
            "https://git.example.com/x\u{a0}y",
            "https://git.example.com/x\u{85}",
            "https://git.example.com/team/../other/x",
            "https://git.example.com/team/%2e%2e/other/x",
            "https://git.example.com/team%2Fx",
            "https://git.example.com/x%0a",
            "https://git.example.com/x%",
            "https://git.example.com/x%+1",
        ] {
            assert!(url_problem(url).is_some(), "{url}");
        }
        let host = |url: &str| {
            let source = serde_json::json!({"url": url, "ref": {"branch": "main"}});
            serde_json::from_value::<GitSource>(source).expect("a source").host()
        };
        assert_eq!(host("https://Git.example.com:443/a"), "git.example.com");
        assert_eq!(host("ssh://git@git.example.com:443/a"), "git.example.com:443");
        assert_eq!(host("ssh://git@[::1]:22/a"), "[::1]");
    }

    #[test]
    fn names_that_git_would_not_take_are_refused() {
        let branch = |name: &str| GitRef::Branch(name.to_owned()).problem();
        for name in ["main", "release/1.2", "feature/Ärger", "v1.0"] {
            assert_eq!(branch(name), None, "{name}");
        }
        for name in [
            "", "-x", "a..b", "a b", "a:b", "a^", "/a", "a/", "a.lock", ".a", "a\n", "@", "a@{1}", "a/.b",
        ] {
            assert!(branch(name).is_some(), "{name}");
        }
        let commit = |hash: &str| GitRef::Commit(hash.to_owned()).problem();
        assert_eq!(commit(&"0a".repeat(20)), None);
        assert!(commit("0a1b2c3").is_some() && commit(&"0A".repeat(20)).is_some());
    }
}
