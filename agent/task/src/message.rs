//! What the session and the executor say to each other. They do not know one another; the agent's
//! supervisor carries these values between them, and `deputy-agent task` answers them itself.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::attempt::AttemptRef;
use crate::boot_time::BootTime;
use crate::document::{Document, Inputs};
use crate::outcome::{Completion, Failure};
use crate::progress::StepProgress;
use crate::record::Record;
use crate::signed::Signed;

/// Names one [`Event::Write`], [`Event::FetchBlob`] or [`Event::MintToken`] until it is answered. Unique per process.
pub type RequestId = u64;

/// A task offered to this agent, checked.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Which attempt this is.
    pub attempt: AttemptRef,
    /// The task, with its input values.
    pub document: Arc<Document>,
    /// The values of `spec.inputs`, after defaults and checks.
    pub inputs: Arc<Inputs>,
    /// SHA-256 of the canonical document as it was sent, in hex: the same for every attempt of a run.
    pub digest: String,
    /// As it was signed, if it was. Nobody has looked at the signature.
    pub signed: Option<Arc<Signed>>,
    /// Who submitted it.
    pub submitter: String,
    /// The run's journal so far, in commit order.
    pub journal: Vec<Record>,
    /// Without Start acknowledged by then, the task goes elsewhere.
    pub start_deadline: BootTime,
    /// A cancel was already wished.
    pub cancel: Option<String>,
    /// Packed folders by source name.
    pub bundles: BTreeMap<String, BlobRef>,
    /// How long this run has been going on, on the store's clock, at the moment of assignment.
    pub run_age: Duration,
}

/// A blob by content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRef {
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// Bytes.
    pub size_bytes: u64,
}

/// An OIDC token about an attempt. Whoever has it can be the attempt for some minutes.
#[derive(Clone, PartialEq, Eq)]
pub struct MintedToken(pub String);

/// Shows nothing of the token.
impl fmt::Debug for MintedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MintedToken(…)")
    }
}

/// One journaled operation.
#[derive(Debug, Clone)]
pub enum WriteOp {
    /// Take the task. Nothing is done before it is granted.
    Start,
    /// Append to the journal.
    Append(Record),
    /// The run has ended.
    Complete(Box<Completion>),
    /// Hand the task back with its journal.
    Release {
        /// For people.
        reason: String,
    },
    /// Not taken.
    Refuse {
        /// For people.
        reason: String,
        /// Given if nobody should be offered it again.
        permanent: Option<Failure>,
    },
}

/// How the manager answered an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteVerdict {
    /// On disk. Deadlines of bounded intents count from `sent_at`.
    Ok {
        /// When the acknowledged frame was sent.
        sent_at: BootTime,
    },
    /// The attempt is not this instance's any more: stop without touching the world.
    StaleEpoch,
    /// A forward intent after Decision(undo).
    UndoDecided,
    /// The same key with another digest or value.
    Nondeterministic(String),
    /// Too large or malformed.
    Invalid(String),
}

/// From the executor outwards.
#[derive(Debug)]
pub enum Event {
    /// Write to the journal; answered by [`Command::Written`]. Writes of one attempt keep their
    /// order, survive reconnects and are answered exactly once.
    Write {
        /// Answered with the same id.
        id: RequestId,
        /// Whose.
        attempt: AttemptRef,
        /// What.
        op: WriteOp,
    },
    /// What steps do. Best effort; the last one wins.
    Progress {
        /// Whose.
        attempt: AttemptRef,
        /// The steps that changed.
        steps: Vec<StepProgress>,
    },
    /// Bring a blob to a file; answered by [`Command::BlobFetched`].
    FetchBlob {
        /// Answered with the same id.
        id: RequestId,
        /// The attempt it is for.
        attempt: AttemptRef,
        /// Which blob.
        blob: BlobRef,
        /// Where to. The file does not exist yet.
        path: PathBuf,
    },
    /// Have the manager vouch for an attempt; answered by [`Command::TokenMinted`].
    MintToken {
        /// Answered with the same id.
        id: RequestId,
        /// The attempt that the token is about.
        attempt: AttemptRef,
        /// Whom it is for; empty for the manager's default.
        audience: String,
    },
    /// The last message of this attempt was refused, and there is none other to give: it is held no more,
    /// so that the manager can find it lost.
    GivenUp {
        /// Which attempt.
        attempt: AttemptRef,
    },
    /// The number of free slots has changed.
    FreeSlots(u32),
}

/// Towards the executor.
#[derive(Debug)]
pub enum Command {
    /// Here is a task.
    Assign(Box<Assignment>),
    /// Answers [`Event::Write`].
    Written {
        /// The request.
        id: RequestId,
        /// The answer.
        verdict: WriteVerdict,
    },
    /// Answers [`Event::FetchBlob`]; the error is for people.
    BlobFetched {
        /// The request.
        id: RequestId,
        /// The answer.
        result: Result<(), String>,
    },
    /// Answers [`Event::MintToken`]; the error is for people.
    TokenMinted {
        /// The request.
        id: RequestId,
        /// The answer.
        result: Result<MintedToken, String>,
    },
    /// Somebody wishes the task to be cancelled.
    Cancel {
        /// Which attempt.
        attempt: AttemptRef,
        /// For people.
        reason: String,
    },
    /// The attempt is not ours any more: stop without touching the world.
    Revoke {
        /// Which attempt.
        attempt: AttemptRef,
        /// For people.
        reason: String,
    },
    /// The lease of this instance now lasts until then.
    Lease {
        /// Measured from the send time of the acknowledged frame.
        until: BootTime,
    },
    /// Take nothing new; release bounded work at its next effect boundary; let held work finish
    /// until `deadline`.
    Drain {
        /// When held work is stopped and released.
        deadline: BootTime,
        /// For people.
        reason: String,
    },
}
