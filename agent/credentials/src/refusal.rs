//! What AWS's own words say of a denial: who may not do what on which resource, and which kind of policy said no.
//! Used wherever an AWS call was refused; asks nobody.
//!
//! The forms are those of the IAM User Guide, "Troubleshoot access denied error messages"
//! (<https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html>).

use deputy_task::outcome::Failure;
use serde_json::Value;

use crate::session::account_of;

/// The words before a message that only `sts:DecodeAuthorizationMessage` can read.
const ENCODED: &str = "Encoded authorization failure message: ";

/// Which kind of policy decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Attached to the caller.
    Identity,
    /// Attached to what was asked for.
    Resource,
    /// The same, or there is no such thing in this region: KMS does not say which.
    ResourceIfAny,
    /// The most that the caller's policies can allow.
    Boundary,
    /// Given when the session was made.
    Session,
    /// Of the organization, on the caller's account.
    ServiceControl,
    /// Of the organization, on the resource's account.
    ResourceControl,
    /// On the way.
    VpcEndpoint,
    /// Of the role that was to be assumed.
    Trust,
    /// AWS did not say.
    Untold,
}

/// A denial, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The caller's ARN.
    pub caller: Option<String>,
    /// For example `iam:PassRole`: not always the call that was made.
    pub action: Option<String>,
    /// Its ARN.
    pub resource: Option<String>,
    /// Which kind of policy said no.
    pub policy: Policy,
    /// By a statement that denies; otherwise no statement allows.
    pub explicit: bool,
    /// The policy itself, where AWS names it.
    pub policy_arn: Option<String>,
}

/// What Secrets Manager says where the caller may not use a secret's key.
const KMS_NOT_ALLOWED: &str = "Access to KMS is not allowed";
/// How KMS begins where it does not even say who asked, for what.
const KEY_OF_CIPHERTEXT: &str = "The ciphertext refers to a ";

/// How the kinds are called in AWS's messages.
const NAMES: [(&str, Policy); 11] = [
    ("resource does not exist in this region", Policy::ResourceIfAny),
    ("does not exist, does not exist in this region", Policy::ResourceIfAny),
    ("identity-based policy", Policy::Identity),
    ("resource-based policy", Policy::Resource),
    ("permissions boundary", Policy::Boundary),
    ("permission boundary", Policy::Boundary),
    ("session policy", Policy::Session),
    ("service control policy", Policy::ServiceControl),
    ("resource control policy", Policy::ResourceControl),
    ("vpc endpoint policy", Policy::VpcEndpoint),
    ("trust policy", Policy::Trust),
];

impl Refusal {
    /// Reads a message of AWS's.
    #[must_use]
    pub fn read(message: &str) -> Self {
        let after = |words: &str| {
            let word = message.split_once(words)?.1.split_whitespace().next()?;
            let word = word.trim_end_matches([',', '.', ';']).trim_matches('"').to_owned();
            // What follows a name that is left out.
            (!matches!(word.as_str(), "" | "null" | "because" | "with" | "due")).then_some(word)
        };
        let is_arn = |text: &String| text.starts_with("arn:");
        let is_of_key = message.contains(KMS_NOT_ALLOWED) || message.contains(KEY_OF_CIPHERTEXT);
        let reason = reason(message);
        let lower = reason.to_ascii_lowercase();
        let policy = NAMES
            .iter()
            .find(|(name, _)| lower.contains(name))
            .map_or(Policy::Untold, |found| found.1);
        let policy_arn = reason
            .split_whitespace()
            .map(|word| word.trim_matches([',', '.', '(', ')', '"']).to_owned())
            .find(is_arn);
        Self {
            caller: after("User: ").filter(is_arn),
            action: after("perform: ")
                .or_else(|| after("perform ").filter(|word| word.contains(':')))
                .or_else(|| is_of_key.then(|| "kms:Decrypt".into())),
            resource: after("on resource: ").or_else(|| after("on the resource ").filter(is_arn)),
            policy,
            explicit: lower.contains("explicit deny"),
            policy_arn,
        }
    }

    /// Reads the message that `sts:DecodeAuthorizationMessage` answers with
    /// (<https://docs.aws.amazon.com/STS/latest/APIReference/API_DecodeAuthorizationMessage.html>). It does not say
    /// which kind of policy decided, so `undecoded` may know more of that.
    #[must_use]
    pub fn decoded(decoded: &Value, undecoded: &Self) -> Self {
        let context = &decoded["context"];
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        Self {
            caller: text(&context["principal"]["arn"]).or_else(|| undecoded.caller.clone()),
            action: text(&context["action"]).or_else(|| undecoded.action.clone()),
            resource: text(&context["resource"]).or_else(|| undecoded.resource.clone()),
            policy: undecoded.policy,
            explicit: decoded["explicitDeny"].as_bool().unwrap_or(undecoded.explicit),
            policy_arn: undecoded.policy_arn.clone(),
        }
    }

    /// Which policy said no, in words that follow a colon.
    #[must_use]
    pub fn verdict(&self) -> String {
        let named = self
            .policy_arn
            .as_ref()
            .map(|arn| format!(" ({arn})"))
            .unwrap_or_default();
        if self.policy == Policy::ResourceIfAny {
            return "it does not exist in this region, or its policy does not allow it or explicitly denies it; AWS does \
                    not say which"
                .into();
        }
        match (self.kind(), self.explicit) {
            (Some(kind), true) => format!("{} {kind} explicitly denies it{named}", article(kind)),
            (Some(kind), false) => format!("no {kind} allows it{named}"),
            (None, true) => format!("a policy explicitly denies it{named}; AWS does not say which kind"),
            (None, false) => "AWS does not say which policy".into(),
        }
    }

    fn kind(&self) -> Option<&'static str> {
        Some(match self.policy {
            Policy::Identity => "identity policy of the caller",
            Policy::Resource | Policy::ResourceIfAny => "policy of the resource",
            Policy::Boundary => "permissions boundary of the caller",
            Policy::Session => "session policy",
            Policy::ServiceControl => "service control policy",
            Policy::ResourceControl => "resource control policy",
            Policy::VpcEndpoint => "VPC endpoint policy",
            Policy::Trust => "trust policy of the role",
            Policy::Untold => return None,
        })
    }

    /// What to change: `who` is whose policies count (a role's ARN), `action` and `resource` stand in where the
    /// message names none.
    #[must_use]
    pub fn change(&self, who: &str, action: &str, resource: &str) -> String {
        let on = &*self.thing(action, resource);
        let action = self.action.as_deref().unwrap_or(action);
        let caller = self.caller.as_deref().unwrap_or(who);
        let service = action.split(':').next().unwrap_or("the service");
        let wanted = format!("{action} on {on}");
        let account = |arn: &str| {
            Some(account_of(arn))
                .filter(|id| id.len() == 12)
                .map(|id| format!(" {id}"))
        };
        let of_caller = account(caller).unwrap_or_default();
        let of_resource = account(on).unwrap_or_default();
        let named = self
            .policy_arn
            .as_deref()
            .map(|arn| format!(" ({arn})"))
            .unwrap_or_default();
        match (self.policy, self.explicit) {
            (Policy::Identity, false) => format!("attach a policy to {who} that allows {wanted}"),
            (Policy::Identity, true) => format!(
                "remove or narrow the statement that denies {action} in the policies of {who}{named}; what allows it does not help"
            ),
            (Policy::Resource, false) => format!("allow {action} for {who} in the policy of {on}"),
            (Policy::Resource, true) => {
                format!("remove or narrow the statement that denies {action} to {who} in the policy of {on}")
            }
            (Policy::ResourceIfAny, _) => format!(
                "check that {on} exists in this region and is the one that is meant; then allow {action} for {who} in its policy, \
                 or in one of {who} where its policy leaves that to the account, across accounts in both; no statement may \
                 deny it"
            ),
            (Policy::Boundary, false) => {
                format!("allow {wanted} in the permissions boundary of {who} too; its own policies cannot go beyond it")
            }
            (Policy::Boundary, true) => {
                format!(
                    "remove or narrow the statement that denies {action} in the permissions boundary{named} of {who}"
                )
            }
            (Policy::Session, false) => format!(
                "allow {wanted} in the session policy that whoever made the session passed along; the policies of {who} cannot go beyond it"
            ),
            (Policy::Session, true) => format!(
                "remove the statement that denies {action} from the session policy that the session was made with"
            ),
            (Policy::ServiceControl, explicit) => format!(
                "ask who administers the organization to {} {action} for account{of_caller} in its service control policies{named}; \
                 nothing in the account itself can",
                if explicit { "no longer deny" } else { "allow" }
            ),
            (Policy::ResourceControl, explicit) => format!(
                "ask who administers the organization that owns {on} to {} {action} for {who} in the resource control policies{named} \
                 of account{of_resource}; nothing in the account itself can",
                if explicit { "no longer deny" } else { "allow" }
            ),
            (Policy::VpcEndpoint, explicit) => format!(
                "{} {action} for {who} in the policy of the VPC endpoint{named} through which the agent reaches {service}, \
                 or let it reach {service} another way",
                if explicit { "no longer deny" } else { "allow" }
            ),
            (Policy::Trust, false) => format!("allow {action} for {caller} in the trust policy of {on}"),
            (Policy::Trust, true) => {
                format!("remove or narrow the statement that denies {action} to {caller} in the trust policy of {on}")
            }
            (Policy::Untold, true) => format!(
                "find the statement that denies {action}: in the policies of {who}, its permissions boundary, the policy of {on}, \
                 the service control policies of account{of_caller}, or the policy of the VPC endpoint to {service}"
            ),
            (Policy::Untold, false) => format!(
                "check that a policy of {who} allows {wanted}; if one does, look at its permissions boundary, the policy of {on}, \
                 the service control policies of account{of_caller}, and the policy of the VPC endpoint to {service}"
            ),
        }
    }
}

impl Refusal {
    /// What may not be used. A key that is not named is that of what was asked for.
    fn thing(&self, asked: &str, on: &str) -> String {
        let is_of_key = |action: &str| action.starts_with("kms:");
        match &self.resource {
            Some(resource) => resource.clone(),
            None if !asked.is_empty() && !is_of_key(asked) && self.action.as_deref().is_some_and(is_of_key) => {
                format!("the KMS key of {on}")
            }
            None => on.to_owned(),
        }
    }
}

/// The part of a message that says why, without the names of users and resources.
fn reason(message: &str) -> &str {
    let message = message.split(ENCODED).next().unwrap_or(message);
    let starts = [
        KEY_OF_CIPHERTEXT,
        " because ",
        " with an explicit deny",
        " due to an explicit deny",
        "explicit deny",
    ];
    starts
        .iter()
        .filter_map(|start| message.find(start))
        .min()
        .and_then(|at| message.get(at..))
        .unwrap_or_default()
}

/// The message that `sts:DecodeAuthorizationMessage` can read, if there is one in this text.
#[must_use]
pub fn encoded(text: &str) -> Option<&str> {
    let rest = text.split_once(ENCODED)?.1;
    rest.split([' ', '\n', '('])
        .next()
        .filter(|message| message.len() >= 16)
}

/// The failure of a task whose identity was denied: who, by which chain, may not do what, by which policy, and what to
/// change. `who` is whose policies count; `asked` is the action and, in words, the thing that were asked for.
#[must_use]
pub fn denied(refusal: &Refusal, who: &str, lineage: &str, (action, on): (&str, &str)) -> Failure {
    let caller = refusal.caller.as_deref().unwrap_or(who);
    let did = refusal.action.as_deref().unwrap_or(action);
    let thing = refusal.thing(action, on);
    let thing = match &refusal.resource {
        // Another permission than that of the call itself, as iam:PassRole.
        Some(_) if did != action && !action.is_empty() => format!("{thing}, which {action} on {on} needs"),
        None if thing != on => format!("{thing}, which {action} needs"),
        Some(_) if action.is_empty() => thing,
        Some(_) | None => on.to_owned(),
    };
    Failure::new(
        "aws.accessDenied",
        format!(
            "{caller}, from {lineage},\nmay not {did} on {thing}: {}",
            refusal.verdict()
        ),
    )
    .hint(refusal.change(who, action, on))
}

fn article(kind: &str) -> &'static str {
    if kind.starts_with("identity") {
        "an"
    } else if kind.ends_with("control policy") || kind.starts_with("session") || kind.starts_with("VPC") {
        "a"
    } else {
        "the"
    }
}

/// Is this one of the codes with which AWS denies?
#[must_use]
pub fn is_denial(code: &str) -> bool {
    matches!(
        code,
        "AccessDenied"
            | "AccessDeniedException"
            | "UnauthorizedAccess"
            | "UnauthorizedOperation"
            | "Client.UnauthorizedOperation"
            | "AuthorizationError"
            | "AuthorizationErrorException"
            | "NotAuthorized"
    )
}

#[cfg(test)]
mod tests;
