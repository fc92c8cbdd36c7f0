//! The way to the manager, what it says of itself, and what this agent is to it: the certificate is shown, a join asked
//! about. Nothing is joined, and no join token is used up.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deputy_credentials::Identities;
use deputy_credentials::join_proof::unfit_token;
use deputy_dial::url::Transport;
use deputy_session::held::Keeping;
use deputy_session::identity::Identity;
use deputy_session::join_proof::{Challenge, JoinProof};
use deputy_session::membership::{ClockDifference, Greeting, Membership, NotTaken};
use deputy_session::way::{Carrier, Transport as Carrying};
use deputy_task::id::AgentId;
use tokio::net::lookup_host;

use super::report::{Finding, Verdict};
use crate::agent_id::{new_id, presumed_id};
use crate::config::checked::{Config, JoinBy};
use crate::identity_file::IdentityFile;
use crate::join::{membership, proof};

const AREA: &str = "manager";

/// A name that has no answer by then will not have one.
const LOOKUP: Duration = Duration::from_secs(5);

/// Where the agent that is looked at works at the same time.
const IN_USE: &str = "an agent with this id is at work, most likely this one: another start waits until it has been \
                      silent for three heartbeats (30 s)";
const OTHER_AGENT: &str = "if it is another agent, give this one an id of its own (--agent-id)";
const JOINS_AGAIN: &str = "the agent joins again at its start, if it is let in: see below";

/// Everything about the manager.
pub(crate) async fn findings(config: &Config, identities: &Identities) -> Vec<Finding> {
    let (answered, manager) = answer(config, identities).await;
    let mut findings = vec![way(config).await];
    findings.extend(answered);
    if config.manager.transport() == Transport::Tls {
        let kept = config.state_folder.as_deref().map(IdentityFile::kept_in);
        let asking = Asking {
            config,
            identities,
            manager,
        };
        let (finding, joining) = match &kept {
            Some(Ok(Some(identity))) => asking.certificate(identity).await,
            Some(Err(error)) => (Some(unreadable(error)), Joins::Anew),
            Some(Ok(None)) | None => (None, Joins::Anew),
        };
        findings.extend(finding);
        match joining {
            Joins::Not => {}
            Joins::Anew => findings.push(asking.joins(None).await),
            Joins::Again(identity) => findings.push(asking.joins(Some(identity)).await),
        }
    }
    findings
}

/// Does the agent join at its start?
enum Joins<'a> {
    /// It has a certificate.
    Not,
    /// With a new key.
    Anew,
    /// With the key that it has.
    Again(&'a Identity),
}

/// What is asked with, and the manager that answered, by which carrier.
struct Asking<'a> {
    config: &'a Config,
    identities: &'a Identities,
    manager: Option<(Greeting, Carrier)>,
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
async fn answer(config: &Config, identities: &Identities) -> (Vec<Finding>, Option<(Greeting, Carrier)>) {
    // It is told to nobody: a greeting needs no name.
    let Some(agent_id) = config.agent_id.clone().or_else(|| "doctor".parse::<AgentId>().ok()) else {
        return (vec![Finding::skipped(AREA, "answer", "not asked")], None);
    };
    let member = match membership(config, &agent_id, Keeping::default(), identities) {
        Ok(member) => member,
        Err(error) => {
            let why = error.causes().into_iter().next().unwrap_or_else(|| error.to_string());
            let bad = Finding::new(AREA, "answer", Verdict::Bad, why)
                .hint("name the manager's authority with --ca-file, or its hash with --ca-sha256");
            return (vec![bad], None);
        }
    };
    let (greeted, carrier, extra) = match config.transport {
        Carrying::Stream => (member.greet(Carrier::Stream).await, Carrier::Stream, None),
        Carrying::Exchange => (
            member.greet(Carrier::Exchange).await,
            Carrier::Exchange,
            Some(Finding::good(AREA, "http2", "not used: transport = exchange")),
        ),
        Carrying::Auto => match member.greet(Carrier::Stream).await {
            Ok(greeting) => {
                let passes = Finding::good(AREA, "http2", "HTTP/2 passes");
                (Ok(greeting), Carrier::Stream, Some(passes))
            }
            Err(problem) => match member.greet(Carrier::Exchange).await {
                Ok(greeting) => (Ok(greeting), Carrier::Exchange, Some(no_http2(&problem))),
                // Neither way: what is wrong is the same for both, most likely.
                Err(_) => (Err(problem), Carrier::Stream, None),
            },
        },
    };
    let clock = greeted.as_ref().ok().map(|greeting| clock(greeting.clock));
    let manager = greeted.as_ref().ok().map(|greeting| (greeting.clone(), carrier));
    let findings = std::iter::once(answered(config, greeted)).chain(clock).chain(extra);
    (findings.collect(), manager)
}

/// From five minutes on nothing is answered at all, with these words.
fn clock(difference: ClockDifference) -> Finding {
    if !difference.is_much() {
        return Finding::good(
            AREA,
            "clock",
            format!("{} s from the manager's", difference.by.as_secs()),
        );
    }
    let what = format!("this machine's clock is {difference}");
    Finding::new(AREA, "clock", Verdict::Warning, what)
        .hint("set the clock (NTP): with five minutes nothing that is signed is believed, and the agent does not join")
}

fn no_http2(problem: &str) -> Finding {
    let summary = format!("HTTP/2 does not pass on the way ({problem}): the agent speaks by long polls over HTTP/1.1");
    Finding::new(AREA, "http2", Verdict::Warning, summary).hint(
        "everything works, slower: let the proxy or firewall pass TLS to the manager as it is, HTTP/2 included, and the \
         agent goes back to its stream by itself",
    )
}

fn answered(config: &Config, greeted: Result<Greeting, String>) -> Finding {
    match greeted.map(|greeting| greeting.trust_domain) {
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
            format!("its certificate is good; its trust domain is {trust_domain}"),
        ),
        Err(problem) => Finding::new(AREA, "answer", Verdict::Bad, problem)
            .hint("check that it runs, that this network lets the agent out to it, and ca_file or ca_sha256"),
    }
}

impl Asking<'_> {
    /// What is kept, and whether the agent has to join all the same.
    async fn certificate<'a>(&self, identity: &'a Identity) -> (Option<Finding>, Joins<'a>) {
        let Identity {
            agent_id,
            pool,
            join_rule,
            ..
        } = identity;
        if let Some(own) = self.config.agent_id.as_ref().filter(|own| own.as_str() != agent_id) {
            let what = format!("is {agent_id}'s, and this agent is {own}");
            let finding = Finding::new(AREA, "certificate", Verdict::Warning, what)
                .hint("give each agent a state folder of its own; this one joins anew at its start");
            return (Some(finding), Joins::Anew);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let left = u64::try_from(identity.not_after_ms.saturating_sub(now_ms)).unwrap_or(0);
        let who = format!("{agent_id} in pool {pool}, by the rule {join_rule}");
        if left > 0 {
            let left = Duration::from_secs(left / 1000);
            return self.shown(identity, &format!("{who}; good for {left:?} more")).await;
        }
        match self.config.join {
            JoinBy::Aws | JoinBy::Kubernetes(_) => {
                let what = format!("{who}; it has ended, and the agent joins again at its start");
                (Some(Finding::good(AREA, "certificate", what)), Joins::Again(identity))
            }
            JoinBy::Nothing | JoinBy::Token(_) | JoinBy::TokenFile(_) => {
                self.ended(identity, &format!("{who}; it has ended")).await
            }
        }
    }

    /// Only the manager knows whether it exchanges a certificate that has ended; if not, the proof has to do.
    async fn ended<'a>(&self, identity: &'a Identity, what: &str) -> (Option<Finding>, Joins<'a>) {
        let answer = match self.member(Some(identity)) {
            Some((member, carrier)) => member.check_renewal(carrier).await,
            None => Err(NotTaken::Unasked("the manager did not answer".into())),
        };
        let (verdict, words, joins) = match answer {
            Ok(_) => (
                Verdict::Good,
                format!("{what}, and is exchanged at the start"),
                Joins::Not,
            ),
            Err(NotTaken::Unasked(why)) => (
                Verdict::Warning,
                format!("{what}; whether the manager exchanges it is not known: {why}"),
                Joins::Not,
            ),
            Err(NotTaken::InUse) => (Verdict::Warning, format!("{what}, and {IN_USE}"), Joins::Not),
            Err(NotTaken::Refused(why)) => (
                Verdict::Warning,
                format!("{what}, and the manager does not exchange it: {why}"),
                Joins::Again(identity),
            ),
        };
        let finding = Finding::new(AREA, "certificate", verdict, words);
        let finding = match joins {
            Joins::Again(_) => finding.hint(JOINS_AGAIN),
            Joins::Not | Joins::Anew => finding,
        };
        (Some(finding), joins)
    }

    /// Only the manager knows whether it takes a certificate that is good by its dates.
    async fn shown<'a>(&self, identity: &'a Identity, what: &str) -> (Option<Finding>, Joins<'a>) {
        let finding = |verdict, words: String| Finding::new(AREA, "certificate", verdict, words);
        let answer = match self.member(Some(identity)) {
            Some((member, carrier)) => member.show(carrier).await,
            None => Err(NotTaken::Unasked("the manager did not answer".into())),
        };
        match answer {
            Ok(()) => {
                let words = format!("{what}, taken by the manager, renewed before");
                (Some(finding(Verdict::Good, words)), Joins::Not)
            }
            Err(NotTaken::Unasked(why)) => {
                let words = format!("{what} by its dates; the manager was not asked: {why}");
                (Some(finding(Verdict::Warning, words)), Joins::Not)
            }
            Err(NotTaken::Refused(why)) => {
                let words = format!("{what} by its dates, and the manager does not take it: {why}");
                let told = finding(Verdict::Warning, words).hint(JOINS_AGAIN);
                (Some(told), Joins::Again(identity))
            }
            Err(NotTaken::InUse) => {
                let words = format!("{what} by its dates, and {IN_USE}");
                (Some(finding(Verdict::Warning, words)), Joins::Not)
            }
        }
    }

    /// This agent for the manager that answered.
    fn member(&self, identity: Option<&Identity>) -> Option<(Membership, Carrier)> {
        let own = identity.and_then(|identity| identity.agent_id.parse().ok());
        let agent_id = own.unwrap_or_else(|| presumed_id(self.config));
        self.member_as(&agent_id, identity)
    }

    fn member_as(&self, agent_id: &AgentId, identity: Option<&Identity>) -> Option<(Membership, Carrier)> {
        let (_, carrier) = self.manager.as_ref()?;
        let keeping = Keeping {
            identity: identity.cloned(),
            joining_key: self
                .config
                .state_folder
                .as_deref()
                .and_then(IdentityFile::joining_key_in),
            keeper: None,
        };
        let member = membership(self.config, agent_id, keeping, self.identities);
        Some((member.ok()?, *carrier))
    }

    /// Makes the proof that the agent would show, and asks the manager whether it would let it in.
    async fn joins(&self, identity: Option<&Identity>) -> Finding {
        let made = joins(
            self.config,
            self.identities,
            self.manager.as_ref().map(|(greeting, _)| greeting),
        )
        .await;
        let (Verdict::Good, Some((member, carrier))) = (made.verdict, self.member(identity)) else {
            return made;
        };
        match member.check_join(carrier).await {
            Ok((pool, rule)) => {
                let what = format!(
                    "{}, and would be let into the pool {pool} by the rule {rule}",
                    made.summary
                );
                Finding::good(AREA, &made.check, what)
            }
            Err(NotTaken::InUse) => self.at_work(&made).await,
            Err(NotTaken::Unasked(why)) => {
                let what = format!("{}; whether it would be let in is not known: {why}", made.summary);
                Finding::new(AREA, &made.check, Verdict::Warning, what)
            }
            Err(NotTaken::Refused(why)) => {
                let what = format!("{}, and would not be let in: {why}", made.summary);
                Finding::new(AREA, &made.check, Verdict::Bad, what)
                    .hint("see the join rules and tokens (deputy fleet join-rule list, deputy fleet join-token list)")
            }
        }
    }
}

impl Asking<'_> {
    /// An agent of this id is heard of: most likely the one that is looked at. What its next start needs is asked for
    /// somebody whom the manager does not know.
    async fn at_work(&self, made: &Finding) -> Finding {
        let what = format!("{}, and {IN_USE}", made.summary);
        let finding = |what: String| Finding::new(AREA, &made.check, Verdict::Warning, what);
        if !matches!(self.config.join, JoinBy::Token(_) | JoinBy::TokenFile(_)) {
            return finding(what).hint(OTHER_AGENT);
        }
        let asked = match self.member_as(&new_id(), None) {
            Some((member, carrier)) => member.check_join(carrier).await,
            None => Err(NotTaken::InUse),
        };
        match asked {
            Err(NotTaken::Refused(why)) => {
                let hint =
                    format!("its next start needs another join token, or a state folder that keeps what it is: {why}");
                finding(format!("{what}; its token lets nobody in any more")).hint(hint)
            }
            Ok(_) | Err(NotTaken::InUse | NotTaken::Unasked(_)) => finding(what).hint(OTHER_AGENT),
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

/// Makes the proof that the agent would show.
async fn joins(config: &Config, identities: &Identities, manager: Option<&Greeting>) -> Finding {
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
    let said = manager.map(|greeting| greeting.trust_domain.clone());
    let trust_domain = config.trust_domain.clone().or(said).unwrap_or_default();
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
        None => Finding::good(AREA, check, format!("joins with {by}")),
        Some(why) => Finding::new(AREA, check, Verdict::Bad, format!("cannot join with {by}: {why}")).hint(hint),
    }
}
