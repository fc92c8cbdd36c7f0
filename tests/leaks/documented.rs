//! The places where a secret may be: docs/threat-model.md has them with the reason, and nothing else is let pass.

use std::path::Path;

use deputy_tests::leaks::scan::Hit;

/// Is this one of the documented places?
pub(crate) fn is_documented(hit: &Hit, agent: &Path) -> bool {
    let agent_itself = format!("execve of {}, environment", agent.display());
    // What the platform gives the agent, the agent's own processes inherit, until they are told otherwise.
    let from_platform = hit.place == agent_itself
        && (hit.canary == crate::run::SECRET_VARIABLE_CANARY || hit.canary == "the token of the credential endpoint");
    // A step that asks for a secret as a variable has it in its children's environment, and in no other's.
    let asked_for = hit.canary == crate::run::SECRET_VARIABLE_CANARY
        && hit.form == "raw"
        && hit.place.starts_with("execve of ")
        && hit.place.ends_with(", environment");
    // A script may write its own secret where only its own task can read; what it calls an output is taken out at the end.
    let own_output = hit.canary == crate::run::SECRET_VARIABLE_CANARY
        && hit.place.starts_with("write to ")
        && hit.place.contains("/step-careless-")
        && hit.place.ends_with("/output");
    from_platform || asked_for || own_output
}
