//! Why a task is where it is, in one sentence, and what a person could do about it.

use deputy_proto::v1;

use crate::dispatcher::inbound::{Explained, Holder};

/// Says why.
pub(super) fn explain(task: v1::Task, explained: Explained) -> v1::ExplainResponse {
    let Explained { agents, holder } = explained;
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
            let (lost, back) = lost(&agent, holder);
            next.extend(back);
            for (resolution, what) in [
                ("resume", "go on elsewhere; an interrupted held effect is run again"),
                ("rollback", "undo elsewhere"),
                ("fail", "give it up"),
            ] {
                next.push(format!("deputy resolve {id} {resolution}   # {what}"));
            }
            format!("{lost}; {}", task.condition)
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
                .filter(|repair| !repair.is_empty() && !next.contains(repair))
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

/// What became of the process that had a lost task, and what brings it back, if anything does.
fn lost(agent: &str, holder: Option<Holder>) -> (String, Option<String>) {
    match holder {
        Some(Holder::Awaited) => (
            format!("it is lost: the process of {agent} that has it does not answer"),
            Some(format!(
                "if that process of {agent} still runs, let it reach the manager: it goes on; one that is newly started does not"
            )),
        ),
        Some(Holder::Replaced) => (
            format!(
                "it is lost: the process of {agent} that had it does not answer, and the one that has its id now does not know the task"
            ),
            None,
        ),
        Some(Holder::Gone) | None => (
            format!("it is lost: the process of {agent} that had it has ended, or has lost it"),
            None,
        ),
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
            .map(|agents| explain(task.clone(), Explained { agents, holder: None }).summary)
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
        let explained = explain(ended("deputy get t1 --journal"), Explained::default());
        assert_eq!(explained.next, ["deputy get t1 --journal"]);
        assert!(explain(ended(""), Explained::default()).next.is_empty());
    }

    #[test]
    fn a_lost_task_tells_what_became_of_its_process_and_which_commands_resolve_it() {
        let task = v1::Task {
            task_id: "t1".into(),
            agent_id: "a1".into(),
            state: v1::TaskState::Lost.into(),
            condition: "held: onAgentLoss is hold".into(),
            ..v1::Task::default()
        };
        let said: Vec<String> = [Holder::Awaited, Holder::Replaced, Holder::Gone]
            .into_iter()
            .map(|holder| {
                let explained = Explained {
                    agents: Vec::new(),
                    holder: Some(holder),
                };
                let answer = explain(task.clone(), explained);
                format!("{}\n  {}", answer.summary, answer.next.join("\n  "))
            })
            .collect();
        insta::assert_snapshot!(said.join("\n"), @r"
        it is lost: the process of a1 that has it does not answer; held: onAgentLoss is hold
          if that process of a1 still runs, let it reach the manager: it goes on; one that is newly started does not
          deputy resolve t1 resume   # go on elsewhere; an interrupted held effect is run again
          deputy resolve t1 rollback   # undo elsewhere
          deputy resolve t1 fail   # give it up
        it is lost: the process of a1 that had it does not answer, and the one that has its id now does not know the task; held: onAgentLoss is hold
          deputy resolve t1 resume   # go on elsewhere; an interrupted held effect is run again
          deputy resolve t1 rollback   # undo elsewhere
          deputy resolve t1 fail   # give it up
        it is lost: the process of a1 that had it has ended, or has lost it; held: onAgentLoss is hold
          deputy resolve t1 resume   # go on elsewhere; an interrupted held effect is run again
          deputy resolve t1 rollback   # undo elsewhere
          deputy resolve t1 fail   # give it up
        ");
    }

    #[test]
    fn what_repairs_is_said_once() {
        let task = v1::Task {
            task_id: "t1".into(),
            state: v1::TaskState::Failed.into(),
            result: Some(v1::Result {
                repair: "deputy retry t1".into(),
                ..v1::Result::default()
            }),
            ..v1::Task::default()
        };
        assert_eq!(explain(task, Explained::default()).next, ["deputy retry t1"]);
    }
}
