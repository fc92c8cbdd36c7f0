//! Progress waiting to be sent: per attempt and step the last one wins, and what belongs to an
//! attempt that has ended is thrown away. The conversation empties it at most five times a second.

use std::collections::BTreeMap;

use deputy_task::attempt::AttemptRef;
use deputy_task::progress::StepProgress;

/// Attempts with progress at the same time; more are dropped, progress being best effort.
const MAX_ATTEMPTS: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ProgressDigest {
    pending: BTreeMap<AttemptRef, BTreeMap<String, StepProgress>>,
}

impl ProgressDigest {
    pub(crate) fn merge(&mut self, attempt: AttemptRef, steps: Vec<StepProgress>) {
        if self.pending.len() >= MAX_ATTEMPTS && !self.pending.contains_key(&attempt) {
            return;
        }
        let pending = self.pending.entry(attempt).or_default();
        pending.extend(steps.into_iter().map(|step| (step.name.clone(), step)));
    }

    /// The attempt ends: its result says everything.
    pub(crate) fn forget(&mut self, attempt: &AttemptRef) {
        self.pending.remove(attempt);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The progress of one attempt, taken out.
    pub(crate) fn take_one(&mut self) -> Option<(AttemptRef, Vec<StepProgress>)> {
        self.pending
            .pop_first()
            .map(|(attempt, steps)| (attempt, steps.into_values().collect()))
    }
}

#[cfg(test)]
mod tests {
    use deputy_task::progress::StepStatus;

    use super::*;

    fn step(name: &str, waiting_for: &str) -> StepProgress {
        StepProgress {
            name: name.into(),
            kind: "shell".into(),
            status: StepStatus::Running,
            waiting_for: waiting_for.into(),
            started_at_ms: 1,
            finished_at_ms: 0,
            outputs: serde_json::Map::new(),
        }
    }

    #[test]
    fn the_last_progress_of_a_step_wins_and_an_ended_attempt_sends_none() {
        let attempt: AttemptRef =
            serde_json::from_str(r#"{"project":"p","task":"t","run":1,"epoch":1}"#).expect("attempt");
        let mut digest = ProgressDigest::default();
        digest.merge(attempt.clone(), vec![step("a", "1 of 3"), step("b", "")]);
        digest.merge(attempt.clone(), vec![step("a", "2 of 3")]);
        let (_, steps) = digest.take_one().expect("one");
        assert_eq!(steps, vec![step("a", "2 of 3"), step("b", "")]);
        digest.merge(attempt.clone(), vec![step("a", "3 of 3")]);
        digest.forget(&attempt);
        assert!(digest.is_empty());
    }
}
