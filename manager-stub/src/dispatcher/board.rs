//! What the steps of live tasks do right now, as their agents last said. Not durable.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use deputy_proto::v1;
use deputy_task::attempt::Epoch;

use crate::store::task::TaskKey;

type Steps = HashMap<TaskKey, (Epoch, Vec<v1::StepProgress>)>;

/// The last progress of every live task.
#[derive(Debug, Clone, Default)]
pub struct Board {
    tasks: Arc<Mutex<Steps>>,
}

impl Board {
    /// The steps of a task, as last heard.
    #[must_use]
    pub fn steps(&self, key: &TaskKey) -> Vec<v1::StepProgress> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.get(key).map(|(_, steps)| steps.clone()).unwrap_or_default()
    }

    /// Takes the steps that changed.
    pub(super) fn update(&self, key: &TaskKey, epoch: Epoch, changed: Vec<v1::StepProgress>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, steps) = tasks.entry(key.clone()).or_insert((epoch, Vec::new()));
        if *known != epoch {
            (*known, *steps) = (epoch, Vec::new());
        }
        for step in changed {
            match steps.iter_mut().find(|old| old.name == step.name) {
                Some(old) => *old = step,
                None => steps.push(step),
            }
        }
    }

    pub(super) fn forget(&self, key: &TaskKey) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}
