//! Which agent gets which task: an in-memory model of the queue and the fleet, rebuilt from the
//! store at start. It decides nothing durable: the store's compare-and-set has the last word.

mod queue;
mod eligibility;
mod fleet;
mod selector;

pub use eligibility::{Requirement, refusals};
pub use fleet::{Fleet, Member, Vouched};
pub use queue::{Entry, Pick, Place, Queue};
pub use selector::{Selector, SelectorError};
