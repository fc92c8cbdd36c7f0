//! The places where a secret may be: docs/threat-model.md has them with the reason, and nothing else is let pass.

use std::path::Path;

use deputy_tests::container_credentials::{SECRET_KEY, SESSION_TOKEN};
use deputy_tests::leaks::scan::Hit;

/// What a container platform gives an agent in its environment.
const FROM_PLATFORM: [&str; 5] = [
    crate::run::GIT_CANARY,
    crate::run::SECRET_VARIABLE_CANARY,
    "the token of the credential endpoint",
    SECRET_KEY,
    SESSION_TOKEN,
];

/// What the manager is meant to receive: a request that was signed with a session names the session.
pub(crate) fn in_request(hit: &Hit) -> bool {
    let joins = || {
        let request = std::fs::read(&hit.place).unwrap_or_default();
        let head = request.split(|byte| *byte == b'\n').next().unwrap_or_default();
        // Doctor only asks whether it would be let in.
        ["/deputy.v1.Enrollment/Join", "/deputy.v1.Enrollment/CheckJoin"]
            .iter()
            .any(|call| head.ends_with(call.as_bytes()))
    };
    hit.canary == SESSION_TOKEN && hit.form == "raw" && joins()
}

/// What the platform mounts for the agent: token files, a profile's file.
pub(crate) fn in_file(hit: &Hit) -> bool {
    hit.place.contains("/mounted/")
}

/// Whose call it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The shell that the step with the secret started, or what it started.
    Script,
    /// Anybody else.
    Other,
}

/// Is this one of the documented places?
pub(crate) fn is_documented(hit: &Hit, agent: &Path, caller: Caller) -> bool {
    let agent_itself = format!("execve of {}, environment", agent.display());
    // What the platform gives the agent, the agent's own processes inherit, until they are told otherwise.
    let from_platform = hit.place == agent_itself && FROM_PLATFORM.contains(&hit.canary.as_str());
    // A step that asks for a secret as a variable has it in its children's environment, and in no other's.
    let asked_for = caller == Caller::Script
        && hit.canary == crate::run::SECRET_VARIABLE_CANARY
        && hit.form == "raw"
        && hit.place.starts_with("execve of ")
        && hit.place.ends_with(", environment");
    // A script may write its own secret where only its own task can read; what it calls an output is taken out at the end.
    let own_output = caller == Caller::Script
        && hit.canary == crate::run::SECRET_VARIABLE_CANARY
        && hit.place.starts_with("write to ")
        && hit.place.contains("/step-careless-")
        && hit.place.ends_with("/output");
    // git is told by its environment what header to send, and hands it to its own helpers.
    let to_git = hit.canary == crate::run::GIT_CANARY
        && hit.place.starts_with("execve of ")
        && hit.place.ends_with(", environment")
        && hit.place.contains("/git");
    // The agent and what goes through the customer's proxy have its address, with the password.
    let to_proxied = hit.canary == crate::run::PROXY_CANARY
        && hit.form == "URL"
        && hit.place.starts_with("execve of ")
        && hit.place.ends_with(", environment");
    to_proxied || from_platform || asked_for || own_output || to_git
}

/// What an agent that was killed in a step left: the script's own files, until the next start's sweep.
pub(crate) fn while_a_step_runs(hit: &Hit) -> bool {
    let in_step = hit.place.contains("/step-");
    in_step && (hit.place.contains("/secrets/") || hit.place.ends_with("/output"))
}
