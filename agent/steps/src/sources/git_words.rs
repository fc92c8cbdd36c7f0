//! What git said, in words that say what to do. Git has no codes; its English sentences have been the same for years.

use deputy_task::document::origin::{GitRef, GitSource};
use deputy_task::outcome::Failure;

/// Lines of git's own that a failure quotes.
const MAX_LINES: usize = 8;

/// Why a fetch failed. `recorded` is the commit that an attempt before this one had.
pub(super) fn explain(name: &str, source: &GitSource, recorded: Option<&str>, stderr: &str) -> Failure {
    let said = |words: &[&str]| words.iter().any(|word| stderr.contains(word));
    let url = &source.url;
    let (class, summary, hint) = if said(&[
        "Authentication failed",
        "could not read Username",
        "could not read Password",
        "error: 401",
        "error: 403",
        "Permission denied",
        "Permission to",
    ]) {
        (
            "source.denied",
            format!("{url} does not let this agent in"),
            if source.auth.is_some() {
                "check that the secret of the source's `auth` is right and may read the repository"
            } else {
                "give the source an `auth`"
            },
        )
    } else if said(&["Host key verification failed", "certificate", "SSL", "TLS"]) {
        (
            "source.notTrusted",
            format!("{url} cannot prove who it is"),
            "for https, name the certificate authority with GIT_SSL_CAINFO at the agent; for ssh, correct `knownHosts`",
        )
    } else if said(&[
        "not our ref",
        "did not receive expected object",
        "did not send all necessary objects",
        "no such remote ref",
        "unadvertised object",
    ]) && recorded.is_some()
    {
        (
            "source.gone",
            format!(
                "{url} does not have commit {} any more, which an earlier attempt of this run had fetched",
                recorded.unwrap_or_default()
            ),
            "`deputy retry` begins a new run with what there is now",
        )
    } else if said(&[
        "couldn't find remote ref",
        "not our ref",
        "unadvertised object",
        "no such remote ref",
    ]) {
        let what = shown(&source.reference);
        (
            "source.notFound",
            format!("{url} has no {what}"),
            "check `ref` of the source",
        )
    } else if said(&[
        "not found",
        "does not exist",
        "does not appear to be a git repository",
        "error: 404",
    ]) {
        (
            "source.notFound",
            format!("there is no repository {url}, or none that this agent may see"),
            "check `url` of the source, and its `auth`: servers say this too when they know nobody",
        )
    } else if said(&[
        "unable to update url base from redirection",
        "error: 301",
        "error: 302",
        "error: 307",
        "error: 308",
    ]) {
        (
            "source.redirected",
            format!("{url} leads to another address, and redirects are not followed"),
            "write the address it leads to",
        )
    } else if said(&["No user exists for uid"]) {
        (
            "source.noUser",
            "ssh works for no user without a name, and the agent's has none".to_owned(),
            "give the agent's user a line in /etc/passwd of its image, or fetch over https",
        )
    } else if said(&["transport", "not allowed"]) {
        (
            "source.refused",
            format!("{url} is not fetched from"),
            "write an address that begins with https:// or ssh://",
        )
    } else {
        (
            "source.unreachable",
            format!("{url} could not be fetched from"),
            "check the address, and the way from the agent to it (proxy, DNS, firewall)",
        )
    };
    let failure = Failure::new(class, format!("source {name}: {summary}")).hint(hint);
    Failure {
        detail: end_of(stderr),
        ..failure
    }
}

/// A command that asks no server failed.
pub(super) fn failed(name: &str, arguments: &[&str], stderr: &str) -> Failure {
    let command = arguments
        .iter()
        .find(|word| !word.starts_with('-'))
        .copied()
        .unwrap_or_default();
    let failure = Failure::new(
        "source.git",
        format!("source {name}: git {command} failed on the agent"),
    );
    Failure {
        detail: end_of(stderr),
        ..failure
    }
}

/// The agent's disk does not take the files.
pub(super) fn no_room(name: &str, error: &std::io::Error) -> Failure {
    Failure::new(
        "agent.workspace",
        format!("the files of source {name} cannot be written on the agent"),
    )
    .hint("see that the agent's work folder is writable and its disk not full")
    .caused_by(error)
}

fn end_of(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(MAX_LINES)..].join("\n")
}

/// What was asked for, in words.
pub(super) fn shown(reference: &GitRef) -> String {
    match reference {
        GitRef::Branch(name) => format!("branch {name}"),
        GitRef::Tag(name) => format!("tag {name}"),
        GitRef::Commit(hash) => format!("commit {hash}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_becomes_a_reason_and_a_hint() {
        let source = GitSource {
            url: "https://git.example.com/app".into(),
            reference: GitRef::Branch("main".into()),
            subfolder: None,
            auth: None,
        };
        for (stderr, recorded, class) in [
            ("fatal: Authentication failed for 'https://…'", None, "source.denied"),
            (
                "No user exists for uid 65532\r\nfatal: Could not read from remote repository.",
                None,
                "source.noUser",
            ),
            (
                "fatal: could not read Username for 'https://…': terminal prompts disabled",
                None,
                "source.denied",
            ),
            (
                "fatal: couldn't find remote ref refs/heads/main",
                None,
                "source.notFound",
            ),
            (
                "fatal: remote error: upload-pack: not our ref 0a",
                Some("0a"),
                "source.gone",
            ),
            (
                "fatal: remote error: upload-pack: not our ref 0a",
                None,
                "source.notFound",
            ),
            ("fatal: repository 'https://…' not found", None, "source.notFound"),
            (
                "fatal: unable to access '…': server certificate verification failed. CAfile: none CRLfile: none",
                None,
                "source.notTrusted",
            ),
            (
                "Host key verification failed.\nfatal: Could not read from remote repository.",
                None,
                "source.notTrusted",
            ),
            (
                "fatal: unable to access '…': Could not resolve host: git.example.com",
                None,
                "source.unreachable",
            ),
            (
                "fatal: unable to access '…': The requested URL returned error: 302",
                None,
                "source.redirected",
            ),
            ("fatal: transport 'file' not allowed", None, "source.refused"),
        ] {
            let failure = explain("app", &source, recorded, stderr);
            assert_eq!(failure.class, class, "{stderr}");
            assert!(
                !failure.hint.is_empty() && failure.detail.contains("fatal"),
                "{failure:?}"
            );
        }
    }
}
