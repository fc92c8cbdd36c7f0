//! Is the deployment done, hopeless, or still going on? One pure function of what was seen.
//!
//! Without ECS's own circuit breaker a crash loop would go on for ever, so a deployment is given up
//! - when N of its tasks failed and none runs at this look, or
//! - when 3 N of its tasks failed and none has run for a minute,
//!
//! where N is half of the desired tasks, at least 3 and at most 200 (the circuit breaker's own
//! threshold). With a circuit breaker, ECS decides.

use std::time::Duration;

use deputy_task::outcome::Failure;
use serde::{Deserialize, Serialize};

use crate::ecs::document::short;

/// Where ECS gives no rollout state, a service must have looked steady for that long.
const STEADY_FOR: Duration = Duration::from_secs(10);
/// As ECS's circuit breaker.
const FEWEST_FAILURES: usize = 3;
const MOST_FAILURES: usize = 200;
/// Lines about stopped tasks in a failure.
const MAX_LINES: usize = 5;

/// How a deployment ended. Journaled: it is judged once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Verdict {
    /// It is what the service runs now, and all of it runs.
    Steady {
        /// Tasks that run.
        running: i32,
    },
    /// It is certain that it will not get there.
    Failed(Failure),
}

/// What to make of a look.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Judgement {
    /// It goes on; this is awaited.
    Wait(String),
    /// It has ended.
    End(Verdict),
}

/// One look at the service.
#[derive(Debug, Clone, Default)]
pub(crate) struct View<'a> {
    pub(crate) service: &'a str,
    /// What is being deployed.
    pub(crate) task_definition: &'a str,
    /// What ran before; `None` if nothing did.
    pub(crate) previous: Option<&'a str>,
    /// The deployment that is followed; `None` if ECS does not list it any more.
    pub(crate) followed: Option<Followed<'a>>,
    /// The task definition of the PRIMARY deployment.
    pub(crate) primary: &'a str,
    /// How many deployments the service has.
    pub(crate) deployments: usize,
    /// Tasks of the followed deployment that failed.
    pub(crate) failures: usize,
    /// What is known about them, oldest first.
    pub(crate) lines: Vec<&'a str>,
    /// Had one of its tasks run for a minute when the last one failed?
    pub(crate) proven: bool,
    /// Does ECS's circuit breaker watch it?
    pub(crate) breaker: bool,
    /// For how long running equals desired.
    pub(crate) steady_for: Duration,
}

/// The followed deployment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Followed<'a> {
    pub(crate) primary: bool,
    pub(crate) desired: i32,
    pub(crate) running: i32,
    pub(crate) pending: i32,
    pub(crate) rollout: Rollout,
    pub(crate) reason: &'a str,
}

/// What ECS itself says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Rollout {
    /// Nothing.
    #[default]
    Untold,
    InProgress,
    Completed,
    Failed,
}

impl View<'_> {
    /// The judgement.
    pub(crate) fn judge(&self) -> Judgement {
        let Some(followed) = &self.followed else {
            return self.gone("");
        };
        match followed.rollout {
            Rollout::Failed => return fail(self.given_up_by_ecs(followed.reason)),
            Rollout::Untold | Rollout::InProgress | Rollout::Completed if !followed.primary => {
                return self.gone(followed.reason);
            }
            // Complete means that all run; what is not there yet, or any more, is waited for.
            Rollout::Completed if followed.running >= followed.desired => return steady(followed),
            Rollout::Untold if self.is_steady(followed) => return steady(followed),
            Rollout::Untold | Rollout::InProgress | Rollout::Completed => {}
        }
        let watched = self.breaker && followed.rollout != Rollout::Completed;
        if !watched && self.is_hopeless(followed) {
            return fail(self.hopeless());
        }
        Judgement::Wait(self.awaited(followed))
    }

    fn is_steady(&self, followed: &Followed<'_>) -> bool {
        followed.running == followed.desired
            && followed.pending == 0
            && self.deployments == 1
            && self.steady_for >= STEADY_FOR
    }

    fn is_hopeless(&self, followed: &Followed<'_>) -> bool {
        let half = usize::try_from(followed.desired.max(0)).unwrap_or(0).div_ceil(2);
        let enough = half.clamp(FEWEST_FAILURES, MOST_FAILURES);
        (self.failures >= enough && followed.running == 0) || (self.failures >= 3 * enough && !self.proven)
    }

    fn awaited(&self, followed: &Followed<'_>) -> String {
        let mut text = format!("{} of {} tasks running", followed.running, followed.desired);
        if followed.pending > 0 {
            text.push_str(&format!(", {} starting", followed.pending));
        }
        if self.failures > 0 {
            text.push_str(&format!(", {} failed", self.failures));
        }
        if followed.running >= followed.desired && followed.pending == 0 {
            let what = if self.deployments > 1 {
                ", waiting for the old tasks to stop"
            } else {
                ", waiting for ECS to call it complete"
            };
            text.push_str(what);
        }
        text
    }

    /// The deployment is not the service's own any more: taken back, or overtaken.
    fn gone(&self, reason: &str) -> Judgement {
        if self.previous == Some(self.primary) && self.primary != self.task_definition {
            return fail(self.given_up_by_ecs(reason));
        }
        let now = if self.primary.is_empty() {
            "nothing"
        } else {
            short(self.primary)
        };
        let summary = format!(
            "the deployment of {} to {} was overtaken: the service now deploys {now}",
            short(self.task_definition),
            self.service
        );
        fail(Failure::new("ecs.overtaken", summary).hint("see in CloudTrail who changed the service meanwhile"))
    }

    fn given_up_by_ecs(&self, reason: &str) -> Failure {
        let told = reason.to_ascii_lowercase();
        let rolled_back = self.previous == Some(self.primary) && self.primary != self.task_definition;
        let (class, by) = if told.contains("alarm") {
            ("ecs.alarm", "a CloudWatch alarm stopped it")
        } else if told.contains("circuit breaker") || (reason.is_empty() && rolled_back) {
            ("ecs.circuitBreaker", "ECS's circuit breaker stopped it")
        } else {
            ("ecs.deploymentFailed", "ECS gave it up")
        };
        let back = match self.previous {
            Some(previous) if rolled_back => format!(" and went back to {}", short(previous)),
            _ => String::new(),
        };
        let mut failure = self.failure(class, &format!("{by}{back}"));
        if !reason.is_empty() {
            failure.detail = [reason.trim_end_matches('.'), failure.detail.as_str()]
                .join("; ")
                .trim_end_matches("; ")
                .to_owned();
        }
        failure
    }

    fn hopeless(&self) -> Failure {
        self.failure(
            "ecs.crashLoop",
            &format!("{} of its tasks failed and none stays up", self.failures),
        )
    }

    fn failure(&self, class: &str, what: &str) -> Failure {
        let mut summary = format!(
            "the deployment of {} to {} failed: {what}",
            short(self.task_definition),
            self.service
        );
        if let Some(last) = self.lines.last() {
            summary.push_str(&format!("; {last}"));
        }
        let mut failure = Failure::new(class, summary).hint(hint(&self.lines));
        failure.detail = self
            .lines
            .iter()
            .rev()
            .take(MAX_LINES)
            .copied()
            .collect::<Vec<_>>()
            .join("; ");
        failure
    }
}

fn steady(followed: &Followed<'_>) -> Judgement {
    Judgement::End(Verdict::Steady {
        running: followed.running,
    })
}

fn fail(failure: Failure) -> Judgement {
    Judgement::End(Verdict::Failed(failure))
}

/// What to do next, from the reasons that ECS gives.
fn hint(lines: &[&str]) -> &'static str {
    let told = |needles: &[&str]| {
        lines
            .iter()
            .any(|line| needles.iter().any(|needle| line.contains(needle)))
    };
    if told(&[
        "CannotPullContainer",
        "pull access denied",
        "manifest unknown",
        "No such image",
        "ImageNotFound",
    ]) {
        "check the image's name and tag, that the execution role may pull it, and the way from the tasks to its registry"
    } else if told(&["OutOfMemory", "exit code 137"]) {
        "give the container more memory, or find why it needs that much"
    } else if told(&["ResourceInitializationError"]) {
        "check that the execution role may read the secrets and write the logs, and the way from the tasks to those services"
    } else if told(&["health check", "health checks"]) {
        "check the health check's path, port and grace period, and the container's logs"
    } else if told(&["exited"]) {
        "read the container's logs: it ends by itself"
    } else {
        "see the service's events in ECS"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = "arn:aws:ecs:eu-west-1:2:task-definition/shop:42";
    const OLD: &str = "arn:aws:ecs:eu-west-1:2:task-definition/shop:41";

    fn view(rollout: Rollout, running: i32) -> View<'static> {
        View {
            service: "checkout-api",
            task_definition: NEW,
            previous: Some(OLD),
            followed: Some(Followed {
                primary: true,
                desired: 3,
                running,
                pending: 0,
                rollout,
                reason: "",
            }),
            primary: NEW,
            deployments: 1,
            ..View::default()
        }
    }

    fn told(view: &View<'_>) -> String {
        match view.judge() {
            Judgement::Wait(text) => format!("wait: {text}"),
            Judgement::End(Verdict::Steady { running }) => format!("steady: {running}"),
            Judgement::End(Verdict::Failed(failure)) => {
                format!("{}: {} [{}]", failure.class, failure.summary, failure.hint)
            }
        }
    }

    #[test]
    fn ecs_own_word_is_taken() {
        assert_eq!(told(&view(Rollout::Completed, 3)), "steady: 3");
        assert_eq!(told(&view(Rollout::Completed, 1)), "wait: 1 of 3 tasks running");
        assert_eq!(told(&view(Rollout::InProgress, 2)), "wait: 2 of 3 tasks running");
        assert_eq!(
            told(&view(Rollout::InProgress, 3)),
            "wait: 3 of 3 tasks running, waiting for ECS to call it complete"
        );
        let mut failed = view(Rollout::Failed, 0);
        failed.followed.as_mut().expect("there").reason = "ECS deployment circuit breaker: tasks failed to start.";
        failed.primary = OLD;
        failed.lines = vec!["task ab12 stopped: CannotPullContainerError: no such host"];
        insta::assert_snapshot!(told(&failed), @"ecs.circuitBreaker: the deployment of shop:42 to checkout-api failed: ECS's circuit breaker stopped it and went back to shop:41; task ab12 stopped: CannotPullContainerError: no such host [check the image's name and tag, that the execution role may pull it, and the way from the tasks to its registry]");
    }

    #[test]
    fn without_a_rollout_state_steady_is_believed_after_a_while() {
        let mut steady = view(Rollout::Untold, 3);
        assert!(told(&steady).starts_with("wait:"));
        steady.steady_for = STEADY_FOR;
        assert_eq!(told(&steady), "steady: 3");
        steady.deployments = 2;
        assert_eq!(
            told(&steady),
            "wait: 3 of 3 tasks running, waiting for the old tasks to stop"
        );
    }

    #[test]
    fn a_crash_loop_is_given_up_only_without_a_circuit_breaker() {
        let mut looping = view(Rollout::InProgress, 0);
        looping.lines = vec!["task ab12 stopped: Essential container in task exited (app exited with 3)"];
        looping.failures = 2;
        assert_eq!(told(&looping), "wait: 0 of 3 tasks running, 2 failed");
        looping.failures = 3;
        insta::assert_snapshot!(told(&looping), @"ecs.crashLoop: the deployment of shop:42 to checkout-api failed: 3 of its tasks failed and none stays up; task ab12 stopped: Essential container in task exited (app exited with 3) [read the container's logs: it ends by itself]");
        looping.breaker = true;
        assert!(told(&looping).starts_with("wait:"), "ECS decides");
    }

    #[test]
    fn a_task_that_runs_gives_more_time_and_one_that_stays_up_gives_all() {
        let mut flapping = view(Rollout::InProgress, 1);
        flapping.failures = 8;
        assert!(told(&flapping).starts_with("wait:"));
        flapping.failures = 9;
        assert!(told(&flapping).starts_with("ecs.crashLoop"));
        flapping.proven = true;
        assert!(told(&flapping).starts_with("wait:"));
    }

    #[test]
    fn a_deployment_that_is_not_the_services_own_any_more_has_failed() {
        let mut taken_back = view(Rollout::InProgress, 0);
        taken_back.followed = None;
        taken_back.primary = OLD;
        assert!(
            told(&taken_back).starts_with("ecs.circuitBreaker"),
            "{}",
            told(&taken_back)
        );
        let mut overtaken = view(Rollout::InProgress, 3);
        overtaken.followed.as_mut().expect("there").primary = false;
        overtaken.primary = "arn:aws:ecs:eu-west-1:2:task-definition/shop:43";
        assert!(told(&overtaken).starts_with(
            "ecs.overtaken: the deployment of shop:42 to checkout-api was overtaken: the service now deploys shop:43"
        ));
    }
}
