//! What an effect is made of: its name, its plan, and what looking at the world can tell.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

pub use deputy_task::record::EffectClass;

use deputy_task::outcome::Failure;
use deputy_task::touch::Touch;

/// One change of the world, before it is made.
#[derive(Debug, Clone)]
pub struct Effect {
    /// `<verb>/<natural id>`, unique within the step and direction, for example `updateService/checkout-api`.
    pub name: String,
    /// How long it may be in flight.
    pub class: EffectClass,
    /// The non-secret arguments; their digest must be the same on every replay.
    pub plan: Value,
    /// One line for people, for example `UpdateService checkout-api`.
    pub summary: String,
    /// How long `Absent` is not believed after an intent whose outcome is unknown: the service's
    /// documented read lag.
    pub settle: Duration,
    /// What it touches, with its concrete arguments: the agent's policy is asked about each.
    pub touches: Vec<Touch>,
    /// Who may read its recorded result.
    pub readers: Readers,
}

/// Who may read a recorded value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Whoever has the journal: the manager, and who may read at the manager. It is acted on, so it is recorded as it
    /// is: what nobody may read stops the step, or is sealed.
    Everybody,
    /// Whoever has the journal. It is told to people and nothing is done with it: what nobody may read is masked in it.
    People,
    /// Only agents with the pool's key; everybody, where the pool has none.
    Pool,
}

/// How much a value that is about to be recorded could tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// References and counts, which are acted on.
    Public,
    /// Words for people.
    Told,
    /// What could be guessed from it is worth hiding: sealed where the pool has a key.
    Private,
    /// It could carry a secret: sealed, and without a pool key the step is refused. Says what could
    /// carry it, for people.
    Secret(&'static str),
}

impl Effect {
    /// A bounded effect: one API call, at most 20 s after its intent was acknowledged.
    pub fn bounded(name: impl Into<String>, summary: impl Into<String>, plan: &impl Serialize) -> Self {
        Self {
            name: name.into(),
            class: EffectClass::Bounded {
                budget: deputy_task::record::MAX_BOUNDED_BUDGET,
            },
            plan: serde_json::to_value(plan).unwrap_or(Value::Null),
            summary: summary.into(),
            settle: Duration::from_secs(5),
            touches: Vec::new(),
            readers: Readers::Everybody,
        }
    }

    /// A held effect: an opaque child.
    pub fn held(
        name: impl Into<String>,
        summary: impl Into<String>,
        plan: &impl Serialize,
        retry_safe: RetrySafe,
    ) -> Self {
        Self {
            class: EffectClass::Held {
                retry_safe: retry_safe == RetrySafe::Yes,
            },
            settle: Duration::ZERO,
            // What a child says.
            readers: Readers::People,
            ..Self::bounded(name, summary, plan)
        }
    }

    /// The same with another settle time.
    #[must_use]
    pub fn settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// The same with a result for these readers.
    #[must_use]
    pub fn read_by(mut self, readers: Readers) -> Self {
        self.readers = readers;
        self
    }

    /// The same with what it touches.
    #[must_use]
    pub fn touching(mut self, touches: impl IntoIterator<Item = Touch>) -> Self {
        self.touches.extend(touches);
        self
    }
}

/// May a held effect be run again elsewhere?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetrySafe {
    /// Yes.
    Yes,
    /// No: its task waits for its agent or for an operator.
    No,
}

/// What looking at the world tells about an intent whose result was never recorded.
#[derive(Debug, Clone)]
pub enum Look<T> {
    /// It happened, by us: this is its result.
    Mine(T),
    /// It did not happen.
    Absent,
    /// Somebody else changed the thing since.
    Foreign(Failure),
    /// It cannot be told.
    Unclear(Failure),
}

/// What is recorded about an effect of the forward program, for the undo program.
#[derive(Debug, Clone)]
pub enum Recorded<T> {
    /// No intent: it was never tried.
    Never,
    /// An intent without a result.
    Open,
    /// Its result.
    Done(T),
    /// It failed: a bounded effect changed nothing, a held one ran.
    Refused(Failure),
}

/// What became of an open forward effect, for the undo program.
#[derive(Debug, Clone)]
pub enum Settled<T> {
    /// Never tried, refused, or tried and proven absent: there is nothing recorded to undo.
    Never,
    /// It happened.
    Happened(T),
}
