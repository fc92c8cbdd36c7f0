//! The fleet as the scheduler sees it: one member per agent instance that is connected or holds tasks.

use std::collections::{HashMap, HashSet};

use deputy_proto::v1;
use deputy_task::id::{AgentId, InstanceId, Project};

use crate::store::clock::StoreTime;
use crate::store::task::TaskKey;

/// The label that says which pool an agent is in.
const POOL: &str = "pool";

/// What the manager knows of an agent by its join, whatever it says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vouched {
    /// Its pool; none where nobody is asked who he is: then its own word is as good as any.
    pub pool: Option<String>,
    /// It is given tasks of these only; empty means of all.
    pub projects: Vec<Project>,
    /// The line of keys that it shows; empty where nobody is asked who he is.
    pub line: String,
}

/// One agent instance.
#[derive(Debug, Clone)]
pub struct Member {
    /// The agent.
    pub agent: AgentId,
    /// Its release version.
    pub version: String,
    /// What it offers; set by [`Member::offer`].
    pub offered: v1::Capabilities,
    /// What is known of it by its join.
    pub vouched: Vouched,
    /// Has it a session?
    pub connected: bool,
    /// It said goodbye: whatever it held, it does not run any more.
    pub gone: bool,
    /// Takes nothing new; the text says why. Empty if it does.
    pub draining: String,
    /// The wish that it drain; empty for none.
    pub drain_wish: String,
    /// It says that it can take nothing, although it holds nothing.
    pub withheld: bool,
    /// Connected, but its lease ran out: it does not answer.
    pub lapsed: bool,
    /// Until when its lease lasts.
    pub lease_until: StoreTime,
    /// When it was last heard of.
    pub seen_at: StoreTime,
    /// Bytes of log not yet uploaded.
    pub spool_bytes: u64,
    /// The tasks it holds.
    pub held: HashSet<TaskKey>,
    /// Those of them that its hello did not name, with the time of that hello: it does not run them
    /// any more, and no heartbeat takes them up again.
    pub disowned: HashMap<TaskKey, StoreTime>,
}

impl Member {
    /// A member that has just said hello, or is only remembered.
    #[must_use]
    pub fn new(agent: AgentId) -> Self {
        Self {
            agent,
            version: String::new(),
            offered: v1::Capabilities::default(),
            vouched: Vouched::default(),
            connected: false,
            gone: false,
            draining: String::new(),
            drain_wish: String::new(),
            withheld: false,
            lapsed: false,
            lease_until: StoreTime::ZERO,
            seen_at: StoreTime::ZERO,
            spool_bytes: 0,
            held: HashSet::new(),
            disowned: HashMap::new(),
        }
    }

    /// It offers this now. Its pool is the one that it joined, whatever its labels say.
    pub fn offer(&mut self, mut offered: v1::Capabilities) {
        if let Some(pool) = &self.vouched.pool {
            let said = offered.labels.insert(POOL.into(), pool.clone());
            if let Some(said) = said.filter(|said| said != pool) {
                let said: String = said.chars().take(64).collect();
                offered.warnings.push(format!(
                    "it says of itself that its pool is {said}; it joined as one of the pool {pool}, and that counts"
                ));
            }
        }
        self.offered = offered;
    }

    /// Slots without a task, whether or not it takes one now.
    #[must_use]
    pub fn free(&self) -> usize {
        usize::try_from(self.offered.slots)
            .unwrap_or(usize::MAX)
            .saturating_sub(self.held.len())
    }

    /// Why it takes no task at all right now; `None` if it does.
    #[must_use]
    pub fn busy(&self) -> Option<String> {
        if !self.connected {
            return Some("it is not connected".into());
        }
        if self.lapsed {
            return Some("it is connected and does not answer: its lease ran out".into());
        }
        if !self.draining.is_empty() || !self.drain_wish.is_empty() {
            let why = if self.draining.is_empty() {
                &self.drain_wish
            } else {
                &self.draining
            };
            return Some(format!("it drains: {why}"));
        }
        if self.offered.slots == 0 {
            return Some("it offers no slots".into());
        }
        if self.free() == 0 {
            return Some(format!("all its {} slots are taken", self.offered.slots));
        }
        if self.withheld {
            return Some("it says that it can take nothing now".into());
        }
        None
    }

    fn takes(&self) -> bool {
        self.connected
            && !self.lapsed
            && self.draining.is_empty()
            && self.drain_wish.is_empty()
            && !self.withheld
            && self.free() > 0
    }
}

/// All members.
#[derive(Debug, Default)]
pub struct Fleet {
    members: HashMap<InstanceId, Member>,
    order: Vec<InstanceId>,
    supply: u64,
}

impl Fleet {
    /// Grows whenever an agent may have become able to take a task.
    #[must_use]
    pub fn supply(&self) -> u64 {
        self.supply
    }

    /// Something about an agent changed for the better.
    pub fn supplied(&mut self) {
        self.supply += 1;
    }

    /// One member.
    #[must_use]
    pub fn get(&self, instance: &InstanceId) -> Option<&Member> {
        self.members.get(instance)
    }

    /// One member, to be changed.
    pub fn get_mut(&mut self, instance: &InstanceId) -> Option<&mut Member> {
        self.members.get_mut(instance)
    }

    /// The member of this instance, made if it is new.
    pub fn member(&mut self, agent: &AgentId, instance: &InstanceId) -> &mut Member {
        if !self.members.contains_key(instance) {
            self.order.push(instance.clone());
        }
        self.members
            .entry(instance.clone())
            .or_insert_with(|| Member::new(agent.clone()))
    }

    /// All members, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = (&InstanceId, &Member)> {
        self.order
            .iter()
            .filter_map(|instance| self.members.get(instance).map(|member| (instance, member)))
    }

    /// All members, to be changed, in no order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&InstanceId, &mut Member)> {
        self.members.iter_mut()
    }

    /// A member that can take a task now, the search begun after `cursor` so that work spreads.
    #[must_use]
    pub fn next_free(&self, eligible: &[InstanceId], cursor: usize) -> Option<usize> {
        let count = eligible.len();
        (1..=count)
            .map(|step| (cursor + step) % count)
            .find(|place| self.members.get(&eligible[*place]).is_some_and(Member::takes))
    }

    /// Takes a task from whoever holds it.
    pub fn loosen(&mut self, instance: &InstanceId, key: &TaskKey) {
        if let Some(member) = self.members.get_mut(instance) {
            member.disowned.remove(key);
            if member.held.remove(key) {
                self.supply += 1;
            }
        }
    }

    /// Gives a task to a member.
    pub fn hold(&mut self, instance: &InstanceId, key: &TaskKey) {
        if let Some(member) = self.members.get_mut(instance) {
            member.held.insert(key.clone());
        }
    }

    /// Forgets who holds what, before a rebuild.
    pub fn clear_held(&mut self) {
        for member in self.members.values_mut() {
            member.held.clear();
        }
        self.supply += 1;
    }

    /// Forgets members that are not connected, hold nothing, and whose lease ended before then.
    pub fn forget(&mut self, before: StoreTime) {
        self.members
            .retain(|_, member| member.connected || !member.held.is_empty() || member.lease_until >= before);
        let members = &self.members;
        self.order.retain(|instance| members.contains_key(instance));
    }
}
