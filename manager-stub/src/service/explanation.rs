//! Why a task is where it is, in one sentence, and what a person could do about it.

use deputy_proto::v1;

/// Says why.
pub(super) fn explain(task: v1::Task, agents: Vec<v1::AgentVerdict>) -> v1::ExplainResponse {
    let id = task.task_id.clone();
    let agent = if task.agent_id.is_empty() {
        "an agent".to_owned()
    } else {
        task.agent_id.clone()
    };
    let mut next = Vec::new();
    let summary = match task.state() {
        v1::TaskState::Queued if agents.is_empty() => {
            next.push("start an agent: deputy-agent run".into());
            "it waits: no agent is known".into()
        }
        v1::TaskState::Queued if agents.iter().any(|verdict| verdict.eligible) => "it is about to be assigned".into(),
        v1::TaskState::Queued => {
            next.push(format!("deputy cancel {id}"));
            waiting(&agents)
        }
        v1::TaskState::Assigned => format!("{agent} was offered it and has not started it yet"),
        v1::TaskState::Running if task.cancel_reason.is_empty() => {
            let awaited: Vec<String> = task
                .steps
                .iter()
                .filter(|step| step.status() == v1::StepStatus::Running)
                .map(|step| {
                    if step.waiting_for.is_empty() {
                        format!("step {}", step.name)
                    } else {
                        format!("step {} (waiting for {})", step.name, step.waiting_for)
                    }
                })
                .collect();
            if awaited.is_empty() {
                format!("it runs on {agent}")
            } else {
                format!("it runs on {agent}: {}", awaited.join(", "))
            }
        }
        v1::TaskState::Running => format!(
            "it runs on {agent}, which was asked to cancel it: {}",
            task.cancel_reason
        ),
        v1::TaskState::Lost => {
            next.push(format!("bring {agent} back"));
            for (resolution, what) in [
                ("resume", "go on elsewhere; an interrupted held effect is run again"),
                ("rollback", "undo elsewhere"),
                ("fail", "give it up"),
            ] {
                next.push(format!("deputy resolve {id} {resolution}   # {what}"));
            }
            format!("its agent {agent} is lost; {}", task.condition)
        }
        v1::TaskState::Succeeded => "it has ended: every step succeeded".into(),
        v1::TaskState::Failed
        | v1::TaskState::Cancelled
        | v1::TaskState::TimedOut
        | v1::TaskState::Expired
        | v1::TaskState::Rejected
        | v1::TaskState::Unspecified => {
            let failure = task.result.as_ref().and_then(|result| result.failure.as_ref());
            let why = failure.map_or_else(|| "no reason was given".into(), |failure| failure.summary.clone());
            if let Some(failure) = failure.filter(|failure| !failure.hint.is_empty()) {
                next.push(failure.hint.clone());
            }
            if let Some(repair) = task
                .result
                .as_ref()
                .map(|result| result.repair.clone())
                .filter(|repair| !repair.is_empty())
            {
                next.push(repair);
            }
            format!("it has ended: {why}")
        }
    };
    v1::ExplainResponse {
        task: Some(task),
        summary,
        agents,
        next,
    }
}

fn waiting(agents: &[v1::AgentVerdict]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for verdict in agents {
        if let [only] = verdict.reasons.as_slice() {
            match counts.iter_mut().find(|(reason, _)| reason == only) {
                Some((_, count)) => *count += 1,
                None => counts.push((only, 1)),
            }
        }
    }
    let known = if agents.len() == 1 {
        "1 agent is known".to_owned()
    } else {
        format!("{} agents are known", agents.len())
    };
    match counts.iter().max_by_key(|(_, count)| *count) {
        Some((reason, count)) if *count == agents.len() => format!("it waits: {known}, and for each: {reason}"),
        _ => format!("it waits: {known}, and none can take it now"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(agent: &str, reasons: &[&str]) -> v1::AgentVerdict {
        v1::AgentVerdict {
            agent_id: agent.into(),
            eligible: reasons.is_empty(),
            reasons: reasons.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_waiting_task_is_explained_in_one_sentence() {
        let task = v1::Task {
            task_id: "t1".into(),
            state: v1::TaskState::Queued.into(),
            ..v1::Task::default()
        };
        let cases = [
            vec![],
            vec![
                verdict("a", &["all its 2 slots are taken"]),
                verdict("b", &["all its 2 slots are taken"]),
            ],
            vec![verdict("a", &["it is not connected", "it has no helm"])],
            vec![verdict("a", &[])],
        ];
        let said: Vec<String> = cases
            .into_iter()
            .map(|agents| explain(task.clone(), agents).summary)
            .collect();
        insta::assert_snapshot!(said.join("\n"), @r"
        it waits: no agent is known
        it waits: 2 agents are known, and for each: all its 2 slots are taken
        it waits: 1 agent is known, and none can take it now
        it is about to be assigned
        ");
    }

    #[test]
    fn an_ended_task_is_told_what_repairs_it_and_nothing_else_that_begins_it_again() {
        let ended = |repair: &str| v1::Task {
            task_id: "t1".into(),
            state: v1::TaskState::Failed.into(),
            result: Some(v1::Result {
                failure: Some(v1::Failure {
                    summary: "a1 was lost".into(),
                    ..v1::Failure::default()
                }),
                repair: repair.into(),
                ..v1::Result::default()
            }),
            ..v1::Task::default()
        };
        let explained = explain(ended("deputy get t1 --journal"), Vec::new());
        assert_eq!(explained.next, ["deputy get t1 --journal"]);
        assert!(explain(ended(""), Vec::new()).next.is_empty());
    }

    #[test]
    fn a_lost_task_names_the_commands_that_resolve_it() {
        let task = v1::Task {
            task_id: "t1".into(),
            agent_id: "a1".into(),
            state: v1::TaskState::Lost.into(),
            condition: "held: onAgentLoss is hold".into(),
            ..v1::Task::default()
        };
        let explained = explain(task, Vec::new());
        assert_eq!(explained.summary, "its agent a1 is lost; held: onAgentLoss is hold");
        assert!(
            explained
                .next
                .iter()
                .any(|line| line.starts_with("deputy resolve t1 rollback"))
        );
    }
}
