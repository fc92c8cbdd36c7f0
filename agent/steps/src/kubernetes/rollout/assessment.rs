//! What looking at a workload once tells.

use std::time::Duration;

use deputy_task::outcome::Failure;

/// What one look tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assessment {
    /// How far it is.
    pub(crate) progress: Progress,
    /// What stands in the way; each is certain failure once it has lasted its grace.
    pub(crate) problems: Vec<Problem>,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It is as it was asked to be.
    Steady {
        /// For people and outputs: the revision that runs.
        revision: String,
        /// For people.
        summary: String,
    },
    /// Not yet; what is awaited.
    Waiting(String),
    /// It will never be.
    Failed(Box<Failure>),
}

/// Something that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Tells problems apart over time; the clock of its grace starts when the key is first seen.
    pub(crate) key: String,
    /// How long it must last without a break before it counts as certain; zero means at once.
    pub(crate) grace: Duration,
    /// What is reported then.
    pub(crate) failure: Failure,
}

impl Assessment {
    /// Not yet.
    pub(crate) fn waiting(what: impl Into<String>) -> Self {
        Self {
            progress: Progress::Waiting(what.into()),
            problems: Vec::new(),
        }
    }

    /// It is as it was asked to be.
    pub(crate) fn steady(revision: impl Into<String>, summary: impl Into<String>) -> Self {
        Self {
            progress: Progress::Steady {
                revision: revision.into(),
                summary: summary.into(),
            },
            problems: Vec::new(),
        }
    }

    /// It will never be.
    pub(crate) fn failed(failure: Failure) -> Self {
        Self {
            progress: Progress::Failed(Box::new(failure)),
            problems: Vec::new(),
        }
    }

    /// The same with what stands in the way.
    pub(crate) fn with(mut self, problems: Vec<Problem>) -> Self {
        self.problems = problems;
        self
    }
}

/// The reasons and messages of a test's assessment in one line.
#[cfg(test)]
pub(crate) fn in_short(assessment: &Assessment) -> String {
    let mut text = match &assessment.progress {
        Progress::Steady { revision, summary } => format!("steady at {revision}: {summary}"),
        Progress::Waiting(what) => format!("waiting for {what}"),
        Progress::Failed(failure) => format!("failed ({}): {}", failure.class, failure.summary),
    };
    for problem in &assessment.problems {
        let Problem { grace, failure, .. } = problem;
        text.push_str(&format!(
            "\n  after {} s ({}): {}",
            grace.as_secs(),
            failure.class,
            failure.summary
        ));
    }
    text
}
