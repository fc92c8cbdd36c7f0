//! Agents: as a table, and one in detail.

use deputy_proto::v1::{AgentInfo, AgentStatus, Capabilities};

use super::colour::Colour;
use super::table::table;
use super::words::{count, moment, safe, short_id, since};

fn status(status: AgentStatus, colour: Colour) -> String {
    match status {
        AgentStatus::Unspecified => "unknown".to_owned(),
        AgentStatus::Online => colour.good("online"),
        AgentStatus::Draining => colour.careful("draining"),
        AgentStatus::Disconnected => colour.bad("disconnected"),
        AgentStatus::Gone => colour.faint("gone"),
    }
}

/// How it stands, and that it speaks by long polls, if it does: the other way needs no word.
fn standing(agent: &AgentInfo, colour: Colour) -> String {
    let status = status(agent.status(), colour);
    if agent.transport == "exchange" {
        format!("{status} {}", colour.careful("(exchange)"))
    } else {
        status
    }
}

fn labels(capabilities: &Capabilities) -> String {
    let mut labels: Vec<String> = capabilities
        .labels
        .iter()
        .map(|(name, value)| format!("{}={}", safe(name), safe(value)))
        .collect();
    labels.sort();
    labels.join(" ")
}

fn lease(agent: &AgentInfo) -> String {
    if agent.lease_remaining_ms > 0 {
        since(agent.lease_remaining_ms)
    } else {
        "over".to_owned()
    }
}

/// By agent id, as the manager answers.
pub(crate) fn agents(agents: &[AgentInfo], colour: Colour) -> Vec<String> {
    let row = |agent: &AgentInfo| {
        let capabilities = agent.capabilities.clone().unwrap_or_default();
        vec![
            safe(&agent.agent_id),
            standing(agent, colour),
            format!("{}/{}", agent.attempts.len(), capabilities.slots),
            lease(agent),
            safe(&agent.version),
            if capabilities.ambient.is_empty() {
                "-".to_owned()
            } else {
                safe(&capabilities.ambient)
            },
            labels(&capabilities),
        ]
    };
    let rows: Vec<Vec<String>> = agents.iter().map(row).collect();
    let mut lines = table(
        &["AGENT", "STATUS", "TASKS", "LEASE", "VERSION", "IDENTITY", "LABELS"],
        &rows,
    );
    for agent in agents {
        let warnings = agent.capabilities.iter().flat_map(|offered| &offered.warnings);
        lines.extend(warnings.map(|warning| format!("{}: {}", colour.careful(&safe(&agent.agent_id)), safe(warning))));
    }
    lines
}

/// Everything about one agent. `now_ms` is on the store's clock, or 0 if it is not known.
pub(crate) fn agent_detail(agent: &AgentInfo, notes: &[String], colour: Colour) -> Vec<String> {
    let capabilities = agent.capabilities.clone().unwrap_or_default();
    let mut lines = vec![format!(
        "{} {}",
        colour.strong(&safe(&agent.agent_id)),
        status(agent.status(), colour)
    )];
    let mut say = |label: &str, text: String| {
        if !text.is_empty() {
            lines.push(format!("  {} {text}", colour.faint(&format!("{label:<9}"))));
        }
    };
    say("instance", safe(&agent.instance_id));
    say(
        "version",
        format!("{} on {}", safe(&agent.version), safe(&capabilities.platform)),
    );
    match agent.transport.as_str() {
        "exchange" => say("session", "by long polls over HTTP/1.1 (exchange)".to_owned()),
        "stream" => say("session", "by a stream of HTTP/2".to_owned()),
        other => say("session", safe(other)),
    }
    say("lease", lease(agent));
    say("slots", format!("{} free of {}", agent.free_slots, capabilities.slots));
    say("identity", safe(&capabilities.ambient));
    if !agent.join_rule.is_empty() {
        say(
            "pool",
            format!("{}, joined by the rule {}", safe(&agent.pool), safe(&agent.join_rule)),
        );
        say("certified", format!("until {}", moment(agent.certificate_ends_ms)));
    }
    say("labels", labels(&capabilities));
    if agent.spool_bytes > 0 {
        say("spool", format!("{} bytes of log not yet uploaded", agent.spool_bytes));
    }
    for (index, step) in capabilities.steps.iter().enumerate() {
        let versions = if step.min_version == step.max_version {
            format!("{}", step.max_version)
        } else {
            format!("{} to {}", step.min_version, step.max_version)
        };
        say(
            if index == 0 { "steps" } else { "" },
            format!("{} (program {versions})", safe(&step.kind)),
        );
    }
    for (index, tool) in capabilities.tools.iter().enumerate() {
        let text = if tool.problem.is_empty() {
            format!(
                "{} {} {}",
                safe(&tool.name),
                safe(&tool.version),
                colour.faint(&safe(&tool.path))
            )
        } else {
            format!(
                "{} {} {}",
                safe(&tool.name),
                colour.bad("cannot be used:"),
                safe(&tool.problem)
            )
        };
        say(if index == 0 { "tools" } else { "" }, text);
    }
    for attempt in &agent.attempts {
        say(
            "holds",
            format!(
                "{} run {} attempt {}",
                short_id(&attempt.task_id),
                attempt.run,
                attempt.epoch
            ),
        );
    }
    if agent.attempts.is_empty() {
        say("holds", count(0, "task"));
    }
    for warning in capabilities.warnings.iter().chain(notes) {
        say("note", safe(warning));
    }
    lines
}
