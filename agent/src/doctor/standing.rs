//! The way to the manager, what it says of itself, and what this agent is to it. Nothing is joined, and no join token
//! is used up.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deputy_credentials::Identities;
use deputy_credentials::join_proof::unfit_token;
use deputy_dial::url::Transport;
use deputy_session::identity::Identity;
use deputy_session::join_proof::{Challenge, JoinProof};
use deputy_session::way::{Carrier, Transport as Carrying};
use deputy_task::id::AgentId;
use tokio::net::lookup_host;

use super::report::{Finding, Verdict};
use crate::config::checked::{Config, JoinBy};
use crate::identity_file::IdentityFile;
use crate::join::{membership, proof};

const AREA: &str = "manager";

/// A name that has no answer by then will not have one.
const LOOKUP: Duration = Duration::from_secs(5);

/// Everything about the manager.
pub(crate) async fn findings(config: &Config, identities: &Identities) -> Vec<Finding> {
    let (answered, trust_domain) = answer(config, identities).await;
    let mut findings = vec![way(config).await];
    findings.extend(answered);
    if config.manager.transport() == Transport::Tls {
        let kept = config.state_folder.as_deref().map(IdentityFile::kept_in);
        let (finding, joins_anew) = match &kept {
            Some(Ok(Some(identity))) => certificate(identity, config),
            Some(Err(error)) => (Some(unreadable(error)), true),
            Some(Ok(None)) | None => (None, true),
        };
        findings.extend(finding);
        if joins_anew {
            findings.push(joins(config, identities, trust_domain).await);
        }
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

/// Connection, certificate, clock and trust domain at once: each refusal says which it is. Then whether HTTP/2 passes.
async fn answer(config: &Config, identities: &Identities) -> (Vec<Finding>, Option<String>) {
    // It is told to nobody: a greeting needs no name.
    let Some(agent_id) = config.agent_id.clone().or_else(|| "doctor".parse::<AgentId>().ok()) else {
        return (vec![Finding::skipped(AREA, "answer", "not asked")], None);
    };
    let member = match membership(config, &agent_id, None, identities) {
        Ok(member) => member,
        Err(error) => {
            let why = error.causes().into_iter().next().unwrap_or_else(|| error.to_string());
            let bad = Finding::new(AREA, "answer", Verdict::Bad, why)
                .hint("name the manager's authority with --ca-file, or its hash with --ca-sha256");
            return (vec![bad], None);
        }
    };
    let (greeted, extra) = match config.transport {
        Carrying::Stream => (member.greet(Carrier::Stream).await, None),
        Carrying::Exchange => (
            member.greet(Carrier::Exchange).await,
            Some(Finding::good(AREA, "http2", "not used: transport = exchange")),
        ),
        Carrying::Auto => match member.greet(Carrier::Stream).await {
            Ok(trust_domain) => (Ok(trust_domain), Some(Finding::good(AREA, "http2", "HTTP/2 passes"))),
            Err(problem) => match member.greet(Carrier::Exchange).await {
                Ok(trust_domain) => (Ok(trust_domain), Some(no_http2(&problem))),
                // Neither way: what is wrong is the same for both, most likely.
                Err(_) => (Err(problem), None),
            },
        },
    };
    let trust_domain = greeted.as_ref().ok().cloned();
    let findings = std::iter::once(answered(config, greeted)).chain(extra);
    (findings.collect(), trust_domain)
}

fn no_http2(problem: &str) -> Finding {
    let summary = format!("HTTP/2 does not pass on the way ({problem}): the agent speaks by long polls over HTTP/1.1");
    Finding::new(AREA, "http2", Verdict::Warning, summary).hint(
        "everything works, slower: let the proxy or firewall pass TLS to the manager as it is, HTTP/2 included, and the \
         agent goes back to its stream by itself",
    )
}

fn answered(config: &Config, greeted: Result<String, String>) -> Finding {
    match greeted {
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

/// What is kept, and whether the agent has to join anew all the same.
fn certificate(identity: &Identity, config: &Config) -> (Option<Finding>, bool) {
    let Identity {
        agent_id,
        pool,
        join_rule,
        ..
    } = identity;
    if let Some(own) = config.agent_id.as_ref().filter(|own| own.as_str() != agent_id) {
        let what = format!("is {agent_id}'s, and this agent is {own}");
        let finding = Finding::new(AREA, "certificate", Verdict::Warning, what)
            .hint("give each agent a state folder of its own; this one joins anew at its start");
        return (Some(finding), true);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    let left = u64::try_from(identity.not_after_ms.saturating_sub(now_ms)).unwrap_or(0);
    let who = format!("{agent_id} in pool {pool}, by the rule {join_rule}");
    if left > 0 {
        let left = Duration::from_secs(left / 1000);
        let what = format!("{who}; good for {left:?} more, renewed before");
        return (Some(Finding::good(AREA, "certificate", what)), false);
    }
    match config.join {
        JoinBy::Aws | JoinBy::Kubernetes(_) => {
            let what = format!("{who}; it has ended, and the agent joins anew at its start");
            (Some(Finding::good(AREA, "certificate", what)), true)
        }
        JoinBy::Nothing | JoinBy::Token(_) | JoinBy::TokenFile(_) => {
            let what = format!("{who}; it has ended, and is exchanged at the start while the manager allows it");
            (Some(Finding::new(AREA, "certificate", Verdict::Warning, what)), false)
        }
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

/// Makes the proof that the agent would show. It is shown to nobody.
async fn joins(config: &Config, identities: &Identities, trust_domain: Option<String>) -> Finding {
    let check = "join";
    let (by, hint) = match &config.join {
        JoinBy::Nothing => {
            let what = "not joined yet, and there is nothing to join with";
            return Finding::new(AREA, check, Verdict::Bad, what)
                .hint("give --join aws, --join kubernetes, or a join token with --join-token-file");
        }
        JoinBy::Token(_) => ("the join token that was given".to_owned(), ""),
        JoinBy::TokenFile(path) => (
            format!("the join token in {}", path.display()),
            "mount it there, or name where it is",
        ),
        JoinBy::Aws => (
            "the agent's own AWS identity".to_owned(),
            "give the agent a role: a task role of ECS, IRSA, Pod Identity or an instance profile",
        ),
        JoinBy::Kubernetes(path) => (
            format!("the service-account token in {}", path.display()),
            "mount a projected serviceAccountToken volume there, for the audience deputy/<trust domain>",
        ),
    };
    let trust_domain = config.trust_domain.clone().or(trust_domain).unwrap_or_default();
    let challenge = Challenge {
        nonce: vec![0; 32],
        trust_domain: trust_domain.clone(),
        csr_sha256: [0; 32],
    };
    let made = match proof(&config.join, identities) {
        Some(source) => source.proof(&challenge).await,
        None => Err("there is nothing to show".into()),
    };
    let unfit = match &made {
        Err(why) => Some(why.clone()),
        // Where the manager did not answer, its trust domain may not be known.
        Ok(JoinProof::Kubernetes(token)) if !trust_domain.is_empty() => {
            unfit_token(token, &trust_domain, SystemTime::now()).map(|why| format!("the token {why}"))
        }
        Ok(_) => None,
    };
    match unfit {
        None => Finding::good(AREA, check, format!("not joined yet; joins with {by}")),
        Some(why) => Finding::new(AREA, check, Verdict::Bad, format!("cannot join with {by}: {why}")).hint(hint),
    }
}
