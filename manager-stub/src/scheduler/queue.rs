//! The queue: tasks in classes of equal requirement, fair among submitters within a class, first
//! come first served otherwise. Work per scheduling decision does not grow with the queue.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deputy_task::attempt::{Epoch, Run};
use deputy_task::id::{AgentId, InstanceId, Project};
use deputy_task::state::TaskState;

use crate::store::clock::StoreTime;
use crate::store::task::{TaskBundle, TaskKey};

use super::eligibility::{Requirement, refusals};
use super::fleet::Fleet;
use super::selector::Selector;

/// Where a live task is in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In its class's queue.
    Ready,
    /// Behind the holder of its exclusive key.
    BehindKey,
    /// Declined a moment ago, or released with a request in flight; waits a little.
    Delayed,
    /// With an agent.
    Held,
}

/// A live task.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it needs.
    pub requirement: Arc<Requirement>,
    /// Who submitted it.
    pub submitter: Arc<str>,
    /// Its exclusive key; empty for none.
    pub exclusive: Arc<str>,
    /// Its state, as last committed.
    pub state: TaskState,
    /// Its run.
    pub run: Run,
    /// Its newest attempt.
    pub epoch: Epoch,
    /// The instance of the newest attempt.
    pub instance: Option<InstanceId>,
    /// When it was submitted.
    pub submitted_at: StoreTime,
    /// When its run was first started; zero if not yet.
    pub started_at: StoreTime,
    /// Not offered before then: a request of the attempt that released it may be in flight. Zero for at once.
    pub not_before: StoreTime,
    /// How long a run may wait for its first start.
    pub queue_timeout: Option<Duration>,
    /// The wish that it be cancelled; empty for none.
    pub cancel: String,
    /// The canonical document, if it is small.
    pub document: Bytes,
    /// Its packed folders.
    pub bundles: Arc<[TaskBundle]>,
    /// Where it is.
    pub place: Place,
    order: u64,
}

/// A decision of the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// Which task.
    pub key: TaskKey,
    /// At which epoch.
    pub epoch: Epoch,
    /// To which agent.
    pub agent: AgentId,
    /// To which of its instances.
    pub instance: InstanceId,
}

#[derive(Debug, Default)]
struct Class {
    selector: Selector,
    /// Submitters with tasks, in turn.
    turn: VecDeque<Arc<str>>,
    tasks: HashMap<Arc<str>, BTreeMap<u64, TaskKey>>,
    /// Agents that can run tasks of this class, as of `fleet_seen`.
    eligible: Vec<InstanceId>,
    fleet_seen: u64,
    cursor: usize,
    /// No agent could take a task at this supply.
    starved_at: Option<u64>,
}

#[derive(Debug, Default)]
struct KeyState {
    holder: Option<TaskKey>,
    behind: VecDeque<TaskKey>,
}

/// All live tasks.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<TaskKey, Entry>,
    classes: HashMap<Arc<Requirement>, Class>,
    /// Classes with tasks, in turn.
    turn: VecDeque<Arc<Requirement>>,
    keys: HashMap<(Project, Arc<str>), KeyState>,
    orders: u64,
    /// Grows whenever what agents offer has changed.
    offers: u64,
}

impl Entry {
    /// An entry for a task that has just been submitted or read from the store.
    #[must_use]
    pub fn new(requirement: Requirement, submitter: &str, exclusive: &str) -> Self {
        Self {
            requirement: Arc::new(requirement),
            submitter: submitter.into(),
            exclusive: exclusive.into(),
            state: TaskState::Queued,
            run: 1,
            epoch: 0,
            instance: None,
            submitted_at: StoreTime::ZERO,
            started_at: StoreTime::ZERO,
            not_before: StoreTime::ZERO,
            queue_timeout: None,
            cancel: String::new(),
            document: Bytes::new(),
            bundles: Arc::from([]),
            place: Place::Held,
            order: 0,
        }
    }
}

impl Queue {
    /// One live task.
    #[must_use]
    pub fn get(&self, key: &TaskKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// One live task, to be changed; never its place.
    pub fn get_mut(&mut self, key: &TaskKey) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    /// All live tasks.
    pub fn iter(&self) -> impl Iterator<Item = (&TaskKey, &Entry)> {
        self.entries.iter()
    }

    /// Live tasks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is nothing alive?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What agents offer has changed: eligibility is computed anew when it is needed.
    pub fn offers_changed(&mut self) {
        self.offers += 1;
    }

    /// Takes a task in. It is not queued yet.
    pub fn insert(&mut self, key: TaskKey, mut entry: Entry) {
        self.orders += 1;
        entry.order = self.orders;
        entry.place = Place::Held;
        self.entries.insert(key, entry);
    }

    /// Forgets everything, before a rebuild.
    pub fn clear(&mut self) {
        let offers = self.offers;
        *self = Self {
            offers: offers + 1,
            ..Self::default()
        };
    }

    /// Puts a task that nobody holds where it belongs: into its class, or behind its key.
    pub fn enqueue(&mut self, key: &TaskKey) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if matches!(entry.place, Place::Ready | Place::BehindKey) {
            return;
        }
        if !entry.exclusive.is_empty() {
            let state = self
                .keys
                .entry((key.project.clone(), entry.exclusive.clone()))
                .or_default();
            match &state.holder {
                Some(holder) if holder != key => {
                    entry.place = Place::BehindKey;
                    state.behind.push_back(key.clone());
                    return;
                }
                // Ready tasks hold their key in the model, so that one of each key is ready at a time.
                _ => state.holder = Some(key.clone()),
            }
        }
        entry.place = Place::Ready;
        let class = match self.classes.get_mut(&entry.requirement) {
            Some(class) => class,
            None => {
                let selector = Selector::read(&entry.requirement.needs.selector).unwrap_or_default();
                self.classes.entry(entry.requirement.clone()).or_insert(Class {
                    selector,
                    fleet_seen: u64::MAX,
                    ..Class::default()
                })
            }
        };
        if class.turn.is_empty() {
            self.turn.push_back(entry.requirement.clone());
        }
        let tasks = class.tasks.entry(entry.submitter.clone()).or_default();
        if tasks.is_empty() {
            class.turn.push_back(entry.submitter.clone());
        }
        tasks.insert(entry.order, key.clone());
    }

    /// Takes a task out of its queue, to wait a little. What is half done keeps its key.
    pub fn delay(&mut self, key: &TaskKey) {
        self.unqueue(key);
        if self
            .entries
            .get(key)
            .is_some_and(|entry| entry.started_at == StoreTime::ZERO)
        {
            self.release_key(key);
        }
        if let Some(entry) = self.entries.get_mut(key) {
            entry.place = Place::Delayed;
        }
    }

    /// Marks a task as held by an agent, with its key.
    pub fn hold(&mut self, key: &TaskKey) {
        self.unqueue(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.place = Place::Held;
        if !entry.exclusive.is_empty() {
            let state = self
                .keys
                .entry((key.project.clone(), entry.exclusive.clone()))
                .or_default();
            let other = state.holder.replace(key.clone()).filter(|other| other != key);
            if let Some(other) = other {
                // Only the model was ahead: the other one goes back behind the key.
                self.unqueue(&other);
                if let Some(entry) = self.entries.get_mut(&other)
                    && entry.place == Place::Ready
                {
                    entry.place = Place::BehindKey;
                    if let Some(state) = self.keys.get_mut(&(key.project.clone(), entry.exclusive.clone())) {
                        state.behind.push_front(other);
                    }
                }
            }
        }
    }

    /// The task's key is free for the next one.
    pub fn release_key(&mut self, key: &TaskKey) {
        let Some(entry) = self.entries.get(key) else { return };
        if entry.exclusive.is_empty() {
            return;
        }
        let name = (key.project.clone(), entry.exclusive.clone());
        let Some(state) = self.keys.get_mut(&name) else { return };
        if state.holder.as_ref() != Some(key) {
            return;
        }
        state.holder = None;
        match state.behind.pop_front() {
            Some(next) => {
                if let Some(entry) = self.entries.get_mut(&next) {
                    entry.place = Place::Delayed;
                }
                self.enqueue(&next);
            }
            None => {
                self.keys.remove(&name);
            }
        }
    }

    /// The task has ended.
    pub fn remove(&mut self, key: &TaskKey) -> Option<Entry> {
        self.unqueue(key);
        self.release_key(key);
        if let Some(entry) = self.entries.get(key)
            && entry.place == Place::BehindKey
            && let Some(state) = self.keys.get_mut(&(key.project.clone(), entry.exclusive.clone()))
        {
            state.behind.retain(|waiting| waiting != key);
        }
        self.entries.remove(key)
    }

    /// Who holds the key of a waiting task.
    #[must_use]
    pub fn key_holder(&self, key: &TaskKey) -> Option<&TaskKey> {
        let entry = self.entries.get(key)?;
        let state = self.keys.get(&(key.project.clone(), entry.exclusive.clone()))?;
        state.holder.as_ref().filter(|holder| *holder != key)
    }

    fn unqueue(&mut self, key: &TaskKey) {
        let Some(entry) = self.entries.get(key) else { return };
        if entry.place != Place::Ready {
            return;
        }
        let Some(class) = self.classes.get_mut(&entry.requirement) else {
            return;
        };
        if let Some(tasks) = class.tasks.get_mut(&entry.submitter) {
            tasks.remove(&entry.order);
            if tasks.is_empty() {
                class.tasks.remove(&entry.submitter);
                class.turn.retain(|submitter| *submitter != entry.submitter);
            }
        }
        if class.turn.is_empty() {
            let requirement = entry.requirement.clone();
            self.turn.retain(|other| *other != requirement);
        }
    }

    /// Gives tasks to agents until there are no tasks or no slots; both sides of the model are
    /// changed at once, before anything is committed.
    pub fn schedule(&mut self, fleet: &mut Fleet) -> Vec<Pick> {
        let mut picks = Vec::new();
        let mut fruitless = 0;
        while fruitless < self.turn.len() {
            let Some(requirement) = self.turn.front().cloned() else {
                break;
            };
            match self.pick(&requirement, fleet) {
                Some(pick) => {
                    fruitless = 0;
                    picks.push(pick);
                }
                None => fruitless += 1,
            }
            if self.turn.front() == Some(&requirement) {
                self.turn.rotate_left(1);
            }
        }
        picks
    }

    fn pick(&mut self, requirement: &Arc<Requirement>, fleet: &mut Fleet) -> Option<Pick> {
        let offers = self.offers;
        let class = self.classes.get_mut(requirement)?;
        if class.fleet_seen != offers {
            class.fleet_seen = offers;
            class.starved_at = None;
            class.eligible = fleet
                .iter()
                .filter(|(_, member)| member.connected && refusals(requirement, &class.selector, member).is_empty())
                .map(|(instance, _)| instance.clone())
                .collect();
        }
        if class.starved_at == Some(fleet.supply()) {
            return None;
        }
        let Some(place) = fleet.next_free(&class.eligible, class.cursor) else {
            class.starved_at = Some(fleet.supply());
            return None;
        };
        class.cursor = place;
        let instance = class.eligible[place].clone();
        let submitter = class.turn.front()?.clone();
        class.turn.rotate_left(1);
        let key = class.tasks.get(&submitter)?.values().next()?.clone();
        self.hold(&key);
        fleet.hold(&instance, &key);
        let agent = fleet.get(&instance)?.agent.clone();
        let entry = self.entries.get_mut(&key)?;
        entry.instance = Some(instance.clone());
        Some(Pick {
            epoch: entry.epoch,
            key,
            agent,
            instance,
        })
    }
}

#[cfg(test)]
mod tests;
