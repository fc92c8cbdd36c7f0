//! The attempts that were handed to this instance and whose end the manager has not acknowledged:
//! what every Hello says, and what decides whether an attempt is still ours.

use std::collections::BTreeMap;

use deputy_task::attempt::AttemptRef;
use deputy_task::message::WriteVerdict;

use crate::write_queue::OpKind;

/// More are held by no agent: one has at most 4096 slots, and what is offered beyond them is refused at once. A manager
/// that offers without end, and takes no refusal, is not followed.
const MAX_HELD: usize = 8192;

/// Has the manager granted the start?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grant {
    /// Offered; Start is not acknowledged.
    Offered,
    /// Start is acknowledged.
    Started,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    held: BTreeMap<AttemptRef, Grant>,
}

impl Inventory {
    /// An assignment arrived. False if it is held already: the same offer came twice.
    pub(crate) fn offered(&mut self, attempt: &AttemptRef) -> bool {
        if self.held.contains_key(attempt) {
            return false;
        }
        self.held.insert(attempt.clone(), Grant::Offered);
        true
    }

    /// Are so many held that none more is taken?
    pub(crate) fn is_full(&self) -> bool {
        self.held.len() >= MAX_HELD
    }

    /// The manager answered an operation.
    pub(crate) fn answered(&mut self, attempt: &AttemptRef, kind: OpKind, verdict: &WriteVerdict) {
        let ended = match (kind, verdict) {
            (_, WriteVerdict::StaleEpoch) => true,
            (OpKind::Complete | OpKind::Release | OpKind::Refuse, WriteVerdict::Ok { .. }) => true,
            (OpKind::Start, WriteVerdict::Ok { .. }) => {
                if let Some(grant) = self.held.get_mut(attempt) {
                    *grant = Grant::Started;
                }
                false
            }
            _ => false,
        };
        if ended {
            self.held.remove(attempt);
        }
    }

    /// The attempt was taken away. False if it was not held.
    pub(crate) fn revoked(&mut self, attempt: &AttemptRef) -> bool {
        self.held.remove(attempt).is_some()
    }

    /// It has ended, and the manager refused to hear how: what is not held is lost at the next Hello.
    pub(crate) fn given_up(&mut self, attempt: &AttemptRef) {
        self.held.remove(attempt);
    }

    pub(crate) fn holds(&self, attempt: &AttemptRef) -> bool {
        self.held.contains_key(attempt)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = (&AttemptRef, Grant)> {
        self.held.iter().map(|(attempt, grant)| (attempt, *grant))
    }
}
