//! The pool key: what agents of one pool share and the manager never has. It authenticates every
//! record of a run's journal, keys the digests of plans, and seals values that could carry secrets.
//!
//! ```text
//! KeyRing            the first key seals new runs, every key opens
//!   PoolKey            32 secret bytes; everything that is used is derived from them, per run
//!     RunSeal            one run of one Subject: record → authenticated record; journal → verified journal, or Forged
//! ```
//!
//! No IO: the agent reads the ring, the executor uses it. Keys are never printed; their ids may be.

pub mod run_seal;
pub mod subject;
mod canonical;
pub mod key_ring;
pub mod pool_key;

pub use key_ring::KeyRing;
pub use run_seal::{Forged, RunSeal};
pub use subject::Subject;
