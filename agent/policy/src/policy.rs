//! A policy: rules that were read, validated in strict mode, and can be asked. Anything that cannot
//! be decided is denied.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use cedar_policy::{Authorizer, Decision, Effect, PolicyId, PolicySet, ValidationMode, Validator};
use deputy_task::outcome::Failure;
use miette::Diagnostic;
use serde::Serialize;

use crate::asserted;
use crate::named_roles::named_roles;
use crate::question::{Asking, Question};
use crate::request::{ManagersWord, request, schema};
use crate::rule::{Rule, RuleEffect, fold, line};

/// The class of a failure for which a policy is the reason.
pub const DENIED: &str = "policy.denied";

/// Why a signed task is asked about as if it were not.
pub const UNCOUNTED: &str = "the signature does not count here";

/// Most mistakes of one file that are told.
const MAX_MISTAKES: usize = 20;

/// What an agent lets tasks do.
#[derive(Debug)]
pub enum Policy {
    /// Everything: the agent was started with `--allow-all`, or a person runs a task by hand.
    AllowAll,
    /// What the rules permit.
    Rules(Box<Rules>),
}

/// The rules of a file.
#[derive(Debug)]
pub struct Rules {
    all: PolicySet,
    known: BTreeMap<PolicyId, Rule>,
    notes: Vec<String>,
}

/// What is wrong with a policy file: one line each, with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct BadPolicy {
    /// `line: what`.
    pub mistakes: Vec<String>,
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "decision", rename_all = "camelCase")]
pub enum Verdict {
    /// By these permits; none if everything is allowed.
    Permitted {
        /// The permits that count.
        by: Vec<Rule>,
    },
    /// And why.
    Denied(Denial),
}

/// Why something is denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Denial {
    /// What was asked, for people.
    pub what: String,
    /// Why not.
    pub reason: DenialReason,
    /// The rules that decided it.
    pub by: Vec<Rule>,
    /// Why the task's signature did not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
}

/// Which way a denial came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DenialReason {
    /// A forbid applies.
    Forbidden,
    /// No permit applies.
    NothingPermits,
    /// It is permitted only if the manager's word is true: so say the permits that apply, or the forbids that would
    /// apply without it.
    OnlyAsserted,
    /// The rules cannot be evaluated.
    Broken(String),
}

impl fmt::Display for DenialReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden => f.write_str("forbidden"),
            Self::NothingPermits => f.write_str("no rule permits it"),
            Self::OnlyAsserted => f.write_str("permitted only on the manager's word, which does not suffice"),
            Self::Broken(why) => write!(f, "cannot be evaluated: {why}"),
        }
    }
}

impl fmt::Display for BadPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mistakes.join("; "))
    }
}

impl Policy {
    /// Reads and validates the text of a policy file.
    ///
    /// # Errors
    /// Every mistake, with its line.
    pub fn parse(text: &str) -> Result<Self, BadPolicy> {
        Rules::parse(text).map(|rules| Self::Rules(Box::new(rules)))
    }

    /// May this be done?
    #[must_use]
    pub fn decide(&self, asking: &Asking, question: &Question) -> Verdict {
        match self {
            Self::AllowAll => Verdict::Permitted { by: Vec::new() },
            Self::Rules(rules) => rules.decide(asking, question),
        }
    }

    /// May all of this be done?
    ///
    /// # Errors
    /// The first denial.
    pub fn admit(&self, asking: &Asking, questions: &[Question]) -> Result<(), Box<Failure>> {
        for question in questions {
            if let Verdict::Denied(denial) = self.decide(asking, question) {
                let mut failure = denial.failure(&asking.agent);
                failure.step.clone_from(&question.step);
                return Err(Box::new(failure));
            }
        }
        Ok(())
    }

    /// What its author should know.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        match self {
            Self::AllowAll => &[],
            Self::Rules(rules) => &rules.notes,
        }
    }

    /// The roles that it lets tasks assume, as far as its permits name them one by one. It may speak of whole families
    /// of roles too, which nobody can list.
    #[must_use]
    pub fn roles(&self) -> BTreeSet<String> {
        match self {
            Self::AllowAll => BTreeSet::new(),
            Self::Rules(rules) => named_roles(&rules.all),
        }
    }

    /// Its rules, in the order of the file.
    #[must_use]
    pub fn rules(&self) -> Vec<&Rule> {
        let mut rules: Vec<&Rule> = match self {
            Self::AllowAll => Vec::new(),
            Self::Rules(rules) => rules.known.values().collect(),
        };
        rules.sort_by_key(|rule| rule.line);
        rules
    }
}

impl Rules {
    fn parse(text: &str) -> Result<Self, BadPolicy> {
        let all = PolicySet::from_str(text).map_err(|errors| BadPolicy {
            mistakes: errors
                .iter()
                .take(MAX_MISTAKES)
                .map(|error| placed(text, error))
                .collect(),
        })?;
        let mut mistakes = Vec::new();
        if all.templates().next().is_some() {
            mistakes.push("templates (?principal, ?resource) have no meaning here".to_owned());
        }
        let known = known(text, &all, &mut mistakes);
        let schema = schema().map_err(|error| BadPolicy { mistakes: vec![error] })?;
        let validated = Validator::new(schema.clone()).validate(&all, ValidationMode::Strict);
        mistakes.extend(one_a_line(
            validated.validation_errors().map(|error| placed(text, error)),
        ));
        if known.is_empty() && mistakes.is_empty() {
            mistakes.push("it has no rules, so nothing is permitted; write at least one permit".to_owned());
        }
        if !mistakes.is_empty() {
            mistakes.truncate(MAX_MISTAKES);
            return Err(BadPolicy { mistakes });
        }
        let mut notes = one_a_line(validated.validation_warnings().map(|warning| placed(text, warning)));
        notes.extend(
            all.policies()
                .filter_map(|policy| note(policy, known.get(policy.id())?)),
        );
        Ok(Self { all, known, notes })
    }

    fn decide(&self, asking: &Asking, question: &Question) -> Verdict {
        let denied = |reason, by| {
            Verdict::Denied(Denial {
                what: question.to_string(),
                reason,
                by,
                doubt: question.doubt.clone().filter(|_| asking.signer.is_some()),
            })
        };
        let (decision, by) = match evaluate(&self.all, asking, question, ManagersWord::With) {
            Ok(answer) => answer,
            Err(broken) => return denied(DenialReason::Broken(broken), Vec::new()),
        };
        match decision {
            Decision::Deny if by.is_empty() => denied(DenialReason::NothingPermits, Vec::new()),
            Decision::Deny => denied(DenialReason::Forbidden, self.rules(&by)),
            // It must be permitted, and by the same permit, when the manager says nothing.
            Decision::Allow => match evaluate(&self.all, asking, question, ManagersWord::Without) {
                Err(broken) => denied(DenialReason::Broken(broken), Vec::new()),
                Ok((Decision::Deny, forbids)) if !forbids.is_empty() => {
                    denied(DenialReason::OnlyAsserted, self.rules(&forbids))
                }
                Ok((_, without)) => {
                    let counting: BTreeSet<PolicyId> = by.intersection(&without).cloned().collect();
                    if counting.is_empty() {
                        denied(DenialReason::OnlyAsserted, self.rules(&by))
                    } else {
                        Verdict::Permitted {
                            by: self.rules(&counting),
                        }
                    }
                }
            },
        }
    }

    fn rules(&self, ids: &BTreeSet<PolicyId>) -> Vec<Rule> {
        let mut rules: Vec<Rule> = ids.iter().filter_map(|id| self.known.get(id).cloned()).collect();
        rules.sort_by_key(|rule| rule.line);
        rules
    }
}

/// The decision, and the rules that made it.
///
/// # Errors
/// A rule cannot be evaluated. Cedar would leave it out, and a forbid that is left out permits.
fn evaluate(
    rules: &PolicySet,
    asking: &Asking,
    question: &Question,
    word: ManagersWord,
) -> Result<(Decision, BTreeSet<PolicyId>), String> {
    let (request, entities) = request(asking, question, word)?;
    let response = Authorizer::new().is_authorized(&request, rules, &entities);
    if let Some(error) = response.diagnostics().errors().next() {
        return Err(error.to_string());
    }
    Ok((response.decision(), response.diagnostics().reason().cloned().collect()))
}

impl Denial {
    /// For the deployer: who says no, to what, by which rule.
    #[must_use]
    pub fn failure(&self, agent: &str) -> Failure {
        let what = &self.what;
        let cited: Vec<String> = self
            .by
            .iter()
            .map(|rule| format!("{} (line {})", rule.id, rule.line))
            .collect();
        let cited = cited.join(", ");
        let summary = match &self.reason {
            DenialReason::Forbidden => format!("the policy of agent {agent} forbids {what}: {cited}"),
            DenialReason::NothingPermits => format!("the policy of agent {agent} has no rule that permits {what}"),
            DenialReason::OnlyAsserted => format!(
                "the policy of agent {agent} permits {what} only on the manager's word, which does not suffice: {cited}"
            ),
            DenialReason::Broken(why) => format!("the policy of agent {agent} cannot be evaluated for {what}: {why}"),
        };
        let hint = match &self.reason {
            DenialReason::OnlyAsserted => "sign the task, or write the rule without context.asserted",
            DenialReason::Forbidden | DenialReason::NothingPermits | DenialReason::Broken(_) => {
                "change the task, or ask who keeps the agent's policy; `deputy-agent policy explain POLICY TASK` shows every question"
            }
        };
        let doubt = self.doubt.as_ref().map(|why| format!("{UNCOUNTED}: {why}; "));
        let mut failure = Failure::new(DENIED, summary).hint(format!("{}{hint}", doubt.unwrap_or_default()));
        failure.detail = self
            .by
            .iter()
            .map(|rule| rule.text.as_str())
            .collect::<Vec<_>>()
            .join("\n");
        failure
    }
}

/// The rules by Cedar's ids, with their place in the text.
fn known(text: &str, all: &PolicySet, mistakes: &mut Vec<String>) -> BTreeMap<PolicyId, Rule> {
    let mut numbered: Vec<_> = all
        .policies()
        .map(|policy| {
            // `policy0`, `policy1` … in the order of the text.
            let number: usize = policy
                .id()
                .to_string()
                .trim_start_matches("policy")
                .parse()
                .unwrap_or(0);
            (number, policy)
        })
        .collect();
    numbered.sort_by_key(|(number, _)| *number);
    let mut known = BTreeMap::new();
    let mut names = BTreeSet::new();
    let mut from = 0;
    for (number, policy) in numbered {
        let source = policy.to_string();
        let at = text
            .get(from..)
            .and_then(|rest| rest.find(&source))
            .map_or(from, |at| from + at);
        from = at;
        if text.get(at..).is_some_and(|rest| rest.starts_with(&source)) {
            from += source.len();
        }
        let id = policy.annotation("id").filter(|id| !id.is_empty());
        let id = id.map_or_else(|| format!("rule {}", number + 1), str::to_owned);
        let line = line(text, at);
        if !names.insert(id.clone()) {
            mistakes.push(format!("line {line}: there are two rules called {id}"));
        }
        let rule = Rule {
            id,
            line,
            text: fold(&source),
            effect: match policy.effect() {
                Effect::Permit => RuleEffect::Permit,
                Effect::Forbid => RuleEffect::Forbid,
            },
        };
        known.insert(policy.id().clone(), rule);
    }
    known
}

/// What its author should know of a rule that reads the manager's word.
fn note(policy: &cedar_policy::Policy, rule: &Rule) -> Option<String> {
    let json = policy.to_json().unwrap_or_default();
    let what = match policy.effect() {
        Effect::Permit if asserted::mentions(&json) => {
            "it permits only what it would permit without the manager's word"
        }
        Effect::Forbid if asserted::applies_without(&json) => {
            "what it forbids without the manager's word stays forbidden, whatever the manager says"
        }
        Effect::Permit | Effect::Forbid => return None,
    };
    Some(format!(
        "line {}: {} reads context.asserted: {what}",
        rule.line, rule.id
    ))
}

/// The same mistake is found once for every action that a rule is about.
fn one_a_line(mistakes: impl Iterator<Item = String>) -> Vec<String> {
    let mut sorted: Vec<String> = mistakes.collect();
    sorted.sort();
    sorted.dedup_by(|a, b| a.split_once(':').map(|(line, _)| line) == b.split_once(':').map(|(line, _)| line));
    sorted
}

/// `line 3: what, help`. Cedar's own names of rules say nothing to people.
fn placed(text: &str, error: &dyn Diagnostic) -> String {
    let offset = error
        .labels()
        .and_then(|mut labels| labels.next())
        .map(|label| label.offset());
    let help = error.help().map_or_else(String::new, |help| format!("; {help}"));
    let error = error.to_string();
    let what = error
        .strip_prefix("for policy `")
        .and_then(|rest| rest.split_once("`, "))
        .map_or(error.as_str(), |(_, what)| what);
    match offset {
        Some(offset) => format!("line {}: {what}{help}", line(text, offset)),
        None => format!("{what}{help}"),
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
