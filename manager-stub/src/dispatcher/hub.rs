//! Wakes those who watch. A wake-up is only a hint to read the store again; what is sent to a
//! watcher always comes from there, so that nothing is missed and nothing is sent twice.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use deputy_task::id::Project;
use tokio::sync::watch;

use crate::store::task::TaskKey;

/// Everyone who watches.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    tasks: Arc<Mutex<HashMap<TaskKey, watch::Sender<u64>>>>,
    projects: Arc<Mutex<HashMap<Project, watch::Sender<u64>>>>,
}

impl Hub {
    /// Wakes up whenever something about this task is new.
    #[must_use]
    pub fn task(&self, key: &TaskKey) -> watch::Receiver<u64> {
        subscribe(&self.tasks, key)
    }

    /// Wakes up whenever something in this project is new.
    #[must_use]
    pub fn project(&self, project: &Project) -> watch::Receiver<u64> {
        subscribe(&self.projects, project)
    }

    /// Something about these tasks is new.
    pub fn wake(&self, keys: &[TaskKey]) {
        wake(&self.tasks, keys.iter());
        wake(&self.projects, keys.iter().map(|key| &key.project));
    }
}

fn subscribe<K: Clone + Eq + Hash>(watched: &Mutex<HashMap<K, watch::Sender<u64>>>, key: &K) -> watch::Receiver<u64> {
    let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    watched.retain(|_, sender| sender.receiver_count() > 0);
    watched
        .entry(key.clone())
        .or_insert_with(|| watch::Sender::new(0))
        .subscribe()
}

fn wake<'a, K: Eq + Hash + 'a>(watched: &Mutex<HashMap<K, watch::Sender<u64>>>, keys: impl Iterator<Item = &'a K>) {
    let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    if watched.is_empty() {
        return;
    }
    for key in keys {
        if let Some(sender) = watched.get(key) {
            sender.send_modify(|news| *news += 1);
        }
    }
}
