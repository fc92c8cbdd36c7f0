//! The way to the manager, what it says of itself, and what this agent is to it. Nothing is joined, and no join token
//! is used up.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deputy_credentials::Identities;
use deputy_dial::url::Transport;
use deputy_session::identity::Identity;
use deputy_task::id::AgentId;
use tokio::net::lookup_host;

use super::report::{Finding, Verdict};
use crate::config::checked::{Config, JoinBy};
use crate::identity_file::IdentityFile;
use crate::join::membership;

const AREA: &str = "manager";

/// A name that has no answer by then will not have one.
const LOOKUP: Duration = Duration::from_secs(5);

/// Everything about the manager.
pub(crate) async fn findings(config: &Config, identities: &Identities) -> Vec<Finding> {
    let mut findings = vec![way(config).await, answer(config, identities).await];
    if config.manager.transport() == Transport::Tls {
        let kept = config.state_folder.as_deref().map(IdentityFile::kept_in);
        findings.push(match kept {
            Some(Ok(Some(identity))) => certificate(&identity, config),
            Some(Err(error)) => unreadable(&error),
            Some(Ok(None)) | None => joins(&config.join),
        });
    }
    findings
}

/// Does its name resolve, or does a proxy do that?
async fn way(config: &Config) -> Finding {
    let (host, port) = (config.manager.host(), config.manager.port());
    if let Some(proxy) = config.proxy.for_host(host, port) {
        return Finding::good(
            AREA,
            "way",
            format!("{} through the proxy {proxy} (HTTPS_PROXY)", config.manager),
        );
    }
    let looked_up = tokio::time::timeout(LOOKUP, lookup_host((host, port))).await;
    match looked_up.ok().and_then(Result::ok).and_then(|mut found| found.next()) {
        Some(address) => Finding::good(AREA, "way", format!("{} at {address}", config.manager)),
        None => Finding::new(AREA, "way", Verdict::Bad, format!("{host} does not resolve here"))
            .hint("check the name in `manager`, the DNS of this network, and whether a proxy is needed (HTTPS_PROXY)"),
    }
}

/// Connection, certificate, clock and trust domain at once: each refusal says which it is.
async fn answer(config: &Config, identities: &Identities) -> Finding {
    // It is told to nobody: a greeting needs no name.
    let Some(agent_id) = config.agent_id.clone().or_else(|| "doctor".parse::<AgentId>().ok()) else {
        return Finding::skipped(AREA, "answer", "not asked");
    };
    let member = match membership(config, &agent_id, None, identities) {
        Ok(member) => member,
        Err(error) => {
            let why = error.causes().into_iter().next().unwrap_or_else(|| error.to_string());
            return Finding::new(AREA, "answer", Verdict::Bad, why)
                .hint("name the manager's authority with --ca-file, or its hash with --ca-sha256");
        }
    };
    match member.greet().await {
        Ok(trust_domain) if config.manager.transport() == Transport::Clear => Finding::new(
            AREA,
            "answer",
            Verdict::Warning,
            format!("in the clear; its trust domain is {trust_domain}"),
        )
        .hint("for tests on one machine only: without TLS nobody is asked who he is"),
        Ok(trust_domain) => Finding::good(
            AREA,
            "answer",
            format!("its certificate and its clock are good; its trust domain is {trust_domain}"),
        ),
        Err(problem) => Finding::new(AREA, "answer", Verdict::Bad, problem)
            .hint("check that it runs, that this network lets the agent out to it, and ca_file or ca_sha256"),
    }
}

fn certificate(identity: &Identity, config: &Config) -> Finding {
    let Identity {
        agent_id,
        pool,
        join_rule,
        ..
    } = identity;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    let left = u64::try_from(identity.not_after_ms.saturating_sub(now_ms)).unwrap_or(0);
    let who = format!("{agent_id} in pool {pool}, by the rule {join_rule}");
    if left > 0 {
        let left = Duration::from_secs(left / 1000);
        return Finding::good(
            AREA,
            "certificate",
            format!("{who}; good for {left:?} more, renewed before"),
        );
    }
    match config.join {
        JoinBy::Aws | JoinBy::Kubernetes(_) => Finding::good(
            AREA,
            "certificate",
            format!("{who}; it has ended, and the agent joins anew at its start"),
        ),
        JoinBy::Nothing | JoinBy::Token(_) | JoinBy::TokenFile(_) => Finding::new(
            AREA,
            "certificate",
            Verdict::Warning,
            format!("{who}; it has ended, and is exchanged at the start while the manager allows it"),
        ),
    }
}

fn unreadable(error: &std::io::Error) -> Finding {
    Finding::new(
        AREA,
        "certificate",
        Verdict::Warning,
        format!("what is kept cannot be used: {error}"),
    )
    .hint("the agent joins anew at its start; a join token has to be good for that")
}

fn joins(join: &JoinBy) -> Finding {
    let check = "join";
    let file = |path: &Path, what: &str| match std::fs::metadata(path) {
        Ok(_) => Finding::good(
            AREA,
            check,
            format!("not joined yet; joins with {what} in {}", path.display()),
        ),
        Err(error) => Finding::new(
            AREA,
            check,
            Verdict::Bad,
            format!("{what} in {} cannot be read: {error}", path.display()),
        )
        .hint("mount it there, or name where it is"),
    };
    match join {
        JoinBy::Nothing => Finding::new(
            AREA,
            check,
            Verdict::Bad,
            "not joined yet, and there is nothing to join with",
        )
        .hint("give --join aws, --join kubernetes, or a join token with --join-token-file"),
        JoinBy::Token(_) => Finding::good(AREA, check, "not joined yet; joins with the join token that was given"),
        JoinBy::TokenFile(path) => file(path, "the join token"),
        JoinBy::Aws => Finding::good(AREA, check, "not joined yet; joins by the agent's own AWS identity"),
        JoinBy::Kubernetes(path) => file(path, "the service-account token"),
    }
}
