//! One run under a pool key. What the agent writes is authenticated here, in the order in which it
//! is written; the journal that a manager hands out is verified here before anything is believed.
//!
//! ```text
//! tag n = MAC(position n, tag n-1, key, kind, version, content)      the MAC key is the run's own
//! ```
//!
//! So a record that is changed, of another run or another task document, under another key of the journal,
//! at another place, or whose forerunner is missing does not verify. What is not seen: that the last records are missing.
//! An intent that is written again is the same record at the same place.

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use deputy_task::attempt::AttemptRef;
use deputy_task::record::{EffectKey, MAC_BYTES, Mac, Payload, PoolKeyId, Record, RecordBody, Sealing};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::canonical::{self, Bytes};
use crate::key_ring::KeyRing;
use crate::pool_key::{PoolKey, Refused};
use crate::subject::Subject;

/// The first byte of everything sealed.
const SEALED_VERSION: u8 = 1;

/// The seal of one run.
pub struct RunSeal {
    key: PoolKeyId,
    mac: hmac::Key,
    digest: hmac::Key,
    aead: RandomizedNonceKey,
    next: u32,
    last: [u8; MAC_BYTES],
    /// The tag before the last one, until it is known that the last record was not refused.
    before: [u8; MAC_BYTES],
    /// Written again, an intent is the record that it was.
    intents: HashMap<EffectKey, Record>,
}

/// A run that goes on.
#[derive(Debug)]
pub struct Resumed {
    /// For what is written from here on.
    pub seal: RunSeal,
    /// Verified and opened.
    pub journal: Vec<Record>,
    /// What its records prove that agents of the pool ran; none if no record proves anything.
    pub begun: Option<Subject>,
}

/// Why a journal is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    /// Written by somebody without a key, or stripped of its proof.
    #[error("the record {0} is not authenticated, and agents of this pool authenticate what they write")]
    Unauthenticated(EffectKey),
    /// No key of the ring.
    #[error("the record {key} is authenticated with the pool key {id}, which this agent does not have")]
    UnknownKey {
        /// Which record.
        key: EffectKey,
        /// Which pool key.
        id: PoolKeyId,
    },
    /// A run keeps the key that it began with.
    #[error("the record {0} is authenticated with another pool key than the one before it")]
    MixedKeys(EffectKey),
    /// A hole.
    #[error("record {0} of the run is missing, and later ones are there")]
    Missing(u32),
    /// Two records at one place.
    #[error("two different records stand at place {0} of the run")]
    Fork(u32),
    /// Out of order.
    #[error("the record {0} does not stand where it was written")]
    Reordered(EffectKey),
    /// Everything else.
    #[error(
        "no agent of this pool wrote the record {0} like this: it was changed, or belongs to another run, task, document, bundle or place"
    )]
    Altered(EffectKey),
    /// The library of cryptography refused.
    #[error("the journal cannot be verified: {0}")]
    NotVerified(#[from] Refused),
}

/// A value cannot be authenticated or sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSealed {
    /// The library of cryptography refused.
    #[error("the record {0} cannot be authenticated: the cryptographic library refused")]
    Refused(EffectKey),
    /// More records than a run can have.
    #[error("the run has too many records")]
    TooMany,
}

impl RunSeal {
    /// Of a run that begins: with the first key of the ring.
    ///
    /// # Errors
    /// If the keys cannot be derived.
    pub fn begin(ring: &KeyRing, attempt: &AttemptRef, subject: &Subject) -> Result<Self, Refused> {
        Self::new(ring.first(), attempt, subject)
    }

    /// Of a run with this journal: verified, its sealed values opened. Decisions without a proof are the
    /// manager's own and are left in; a journal with nothing else begins the run, as `subject`. It may have been
    /// begun as one of the `others`.
    ///
    /// # Errors
    /// The journal is not believed, and nothing of it may be used.
    pub fn resume(
        ring: &KeyRing,
        attempt: &AttemptRef,
        (subject, others): (&Subject, &[Subject]),
        journal: Vec<Record>,
    ) -> Result<Resumed, Forged> {
        let Some(id) = sealing_key(&journal)? else {
            return Ok(Resumed {
                seal: Self::begin(ring, attempt, subject)?,
                journal,
                begun: None,
            });
        };
        let Some(key) = ring.key(&id) else {
            let first = journal.iter().find(|record| record.sealing.mac.is_some());
            let key = first.map_or_else(|| EffectKey::new("", ""), |record| record.key.clone());
            return Err(Forged::UnknownKey { key, id });
        };
        let (mut begun, mut seal) = (subject, Self::new(key, attempt, subject)?);
        for other in others {
            if !seal.began(&journal) {
                (begun, seal) = (other, Self::new(key, attempt, other)?);
            }
        }
        seal.verify(&journal)?;
        let opened = journal
            .into_iter()
            .map(|record| seal.open(record))
            .collect::<Result<_, _>>()?;
        Ok(Resumed {
            seal,
            journal: opened,
            begun: Some(begun.clone()),
        })
    }

    fn new(key: &PoolKey, attempt: &AttemptRef, subject: &Subject) -> Result<Self, Refused> {
        let run = subject.of_run(attempt);
        let derived = |label| key.derive(label, &run);
        Ok(Self {
            key: key.id().clone(),
            mac: hmac::Key::new(HMAC_SHA256, derived("deputy journal mac v1")?.as_slice()),
            digest: hmac::Key::new(HMAC_SHA256, derived("deputy plan digest v1")?.as_slice()),
            aead: RandomizedNonceKey::new(&AES_256_GCM, derived("deputy journal seal v1")?.as_slice())?,
            next: 0,
            last: [0; MAC_BYTES],
            before: [0; MAC_BYTES],
            intents: HashMap::new(),
        })
    }

    /// Which pool key it is of.
    #[must_use]
    pub fn key(&self) -> &PoolKeyId {
        &self.key
    }

    /// The record with its proof, at the next place of the run. Records must be written in the order of
    /// these calls. An intent that was written before comes back as it was.
    ///
    /// # Errors
    /// If the record cannot be authenticated; it must not be written.
    pub fn authenticate(&mut self, mut record: Record) -> Result<Record, NotSealed> {
        if let (RecordBody::Intent(_), Some(first)) = (&record.body, self.intents.get(&record.key)) {
            return Ok(first.clone());
        }
        let tag = hmac::sign(&self.mac, &self.proven(self.next, &record));
        let tag = tag
            .as_ref()
            .try_into()
            .map_err(|_| NotSealed::Refused(record.key.clone()))?;
        record.sealing.mac = Some(Mac {
            key: self.key.clone(),
            position: self.next,
            tag,
        });
        self.next = self.next.checked_add(1).ok_or(NotSealed::TooMany)?;
        self.stands(&record, tag);
        Ok(record)
    }

    /// The record was refused and does not stand. Its place is free again, unless another was already put behind it.
    pub fn retract(&mut self, record: &Record) {
        let Some(mac) = &record.sealing.mac else { return };
        let is_last = mac.tag == self.last && mac.position.checked_add(1) == Some(self.next);
        if is_last && self.last != self.before {
            self.next = mac.position;
            self.last = self.before;
            self.intents.remove(&record.key);
        }
    }

    /// The record with its value sealed: nobody outside the pool can read it, and it opens only as
    /// this record of this run.
    ///
    /// # Errors
    /// If it cannot be sealed; it must not be written.
    pub fn seal(&self, mut record: Record) -> Result<Record, NotSealed> {
        let aad = Aad::from(about(&record));
        let (RecordBody::Done(value) | RecordBody::Fact(value)) = &mut record.body else {
            return Ok(record);
        };
        let mut bytes = Zeroizing::new(value.text().as_bytes().to_vec());
        let nonce = self.aead.seal_in_place_append_tag(aad, &mut *bytes);
        let nonce = nonce.map_err(|_| NotSealed::Refused(record.key.clone()))?;
        let mut sealed = vec![SEALED_VERSION];
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&bytes);
        *value = Value::Null.into();
        record.sealing = Sealing { sealed, mac: None };
        Ok(record)
    }

    /// The digest of an effect's plan: the same for the same plan of the same effect of this run, and nobody
    /// without the key can try out what the plan may be. Lower-case hex.
    #[must_use]
    pub fn digest(&self, key: &EffectKey, plan: &Value) -> String {
        let bytes = Bytes::default().text(key.as_str()).field(&canonical::json(plan)).done();
        hex::encode(hmac::sign(&self.digest, &bytes))
    }

    fn proven(&self, position: u32, record: &Record) -> Vec<u8> {
        let bytes = Bytes::default().number(position.into()).field(&self.last);
        bytes.field(&canonical::record(record)).done()
    }

    fn stands(&mut self, record: &Record, tag: [u8; MAC_BYTES]) {
        self.before = std::mem::replace(&mut self.last, tag);
        if matches!(record.body, RecordBody::Intent(_)) {
            self.intents.insert(record.key.clone(), record.clone());
        }
    }

    /// Does the first record of the run prove this seal?
    fn began(&self, journal: &[Record]) -> bool {
        let proves = |record: &Record| {
            let first = record.sealing.mac.as_ref().filter(|mac| mac.position == 0);
            first.is_some_and(|mac| hmac::verify(&self.mac, &self.proven(0, record), &mac.tag).is_ok())
        };
        journal.iter().any(proves)
    }

    fn verify(&mut self, journal: &[Record]) -> Result<(), Forged> {
        let mut proven: Vec<(&Mac, &Record)> = Vec::with_capacity(journal.len());
        let mut reached = None;
        for record in journal {
            let Some(mac) = &record.sealing.mac else { continue };
            // Written again, an intent may stand at its last place: a decision of the manager's is used up by it.
            if matches!(record.body, RecordBody::Done(_) | RecordBody::Fact(_)) {
                if reached.is_some_and(|reached| mac.position < reached) {
                    return Err(Forged::Reordered(record.key.clone()));
                }
                reached = Some(mac.position);
            }
            proven.push((mac, record));
        }
        proven.sort_by_key(|(mac, _)| mac.position);
        for (mac, record) in proven {
            if mac.position > self.next {
                return Err(Forged::Missing(self.next));
            }
            if mac.position < self.next {
                self.verify_repetition(mac, record)?;
                continue;
            }
            let proof = self.proven(self.next, record);
            let altered = || Forged::Altered(record.key.clone());
            hmac::verify(&self.mac, &proof, &mac.tag).map_err(|_| altered())?;
            self.next = self.next.checked_add(1).ok_or_else(altered)?;
            self.stands(record, mac.tag);
        }
        Ok(())
    }

    /// Only an intent stands at a place more than once, and it is the same.
    fn verify_repetition(&self, mac: &Mac, record: &Record) -> Result<(), Forged> {
        let same = self.intents.get(&record.key).is_some_and(|first| {
            first.sealing.mac.as_ref() == Some(mac) && canonical::record(first) == canonical::record(record)
        });
        if same { Ok(()) } else { Err(Forged::Fork(mac.position)) }
    }

    fn open(&self, mut record: Record) -> Result<Record, Forged> {
        if record.sealing.sealed.is_empty() {
            return Ok(record);
        }
        let altered = || Forged::Altered(record.key.clone());
        let (version, rest) = record.sealing.sealed.split_first().ok_or_else(altered)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN).ok_or_else(altered)?;
        if *version != SEALED_VERSION {
            return Err(altered());
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| altered())?;
        let mut bytes = Zeroizing::new(sealed.to_vec());
        let opened = self.aead.open_in_place(nonce, Aad::from(about(&record)), &mut bytes);
        let opened = opened.map_err(|_| altered())?;
        let opened = Payload::read(opened).map_err(|_| altered())?;
        match &mut record.body {
            RecordBody::Done(value) | RecordBody::Fact(value) => *value = opened,
            RecordBody::Intent(_) | RecordBody::Decision(_) => return Err(altered()),
        }
        Ok(record)
    }
}

impl fmt::Debug for RunSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunSeal({}, {} records)", self.key, self.next)
    }
}

/// What a sealed value is bound to besides its run, whose key it is sealed with.
fn about(record: &Record) -> Vec<u8> {
    let kind = match record.body {
        RecordBody::Intent(_) => "intent",
        RecordBody::Done(_) => "done",
        RecordBody::Fact(_) => "fact",
        RecordBody::Decision(_) => "decision",
    };
    Bytes::default().text(record.key.as_str()).text(kind).done()
}

/// The pool key that the records are authenticated with; none if there is nothing but the manager's decisions.
fn sealing_key(journal: &[Record]) -> Result<Option<PoolKeyId>, Forged> {
    let mut found: Option<&PoolKeyId> = None;
    for record in journal {
        match (&record.sealing.mac, &record.body) {
            (Some(mac), _) if found.is_some_and(|found| *found != mac.key) => {
                return Err(Forged::MixedKeys(record.key.clone()));
            }
            (Some(mac), _) => found = Some(&mac.key),
            (None, RecordBody::Decision(_)) if record.sealing.sealed.is_empty() => {}
            (None, _) => return Err(Forged::Unauthenticated(record.key.clone())),
        }
    }
    Ok(found.cloned())
}

#[cfg(test)]
#[path = "run_seal_tests.rs"]
mod tests;
