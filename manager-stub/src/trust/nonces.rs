//! Challenges: a nonce is good for one proof, for two minutes, with this manager process. It carries its own time and
//! a keyed digest, so that asking for challenges costs no memory; only those that were used are remembered. They are
//! used up by proofs that are good: what strangers make up is checked and takes no room.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;

/// How long a nonce is good.
pub const LIFE: Duration = Duration::from_secs(120);

/// Used nonces that are remembered: proofs per two minutes.
const MAX_USED: usize = 65_536;

const TIME_BYTES: usize = 8;
const RANDOM_BYTES: usize = 8;
const STAMP_BYTES: usize = TIME_BYTES + RANDOM_BYTES;
const NONCE_BYTES: usize = 32;

/// See the module.
pub struct Nonces {
    key: hmac::Key,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    known: HashSet<[u8; NONCE_BYTES]>,
    order: VecDeque<([u8; NONCE_BYTES], u64)>,
}

/// Why a nonce is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadNonce {
    /// Ask for a new one.
    #[error("the challenge is not of this manager (it may have been started again since); ask for a new one")]
    Foreign,
    /// Ask for a new one.
    #[error("the challenge is older than two minutes; ask for a new one")]
    Old,
    /// A proof is good once.
    #[error("the challenge was used before: a proof is good once")]
    Used,
    /// Try again in a moment.
    #[error("too many agents join at this moment; try again in a minute")]
    Busy,
}

impl Default for Nonces {
    fn default() -> Self {
        let key: [u8; 32] = rand::random();
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            used: Mutex::default(),
        }
    }
}

impl Nonces {
    /// A new nonce; `now` is since 1970.
    #[must_use]
    pub fn make(&self, now: Duration) -> Vec<u8> {
        let mut nonce = Vec::with_capacity(NONCE_BYTES);
        nonce.extend(u64::try_from(now.as_millis()).unwrap_or(0).to_be_bytes());
        nonce.extend(rand::random::<[u8; RANDOM_BYTES]>());
        let digest = hmac::sign(&self.key, &nonce);
        nonce.extend(&digest.as_ref()[..NONCE_BYTES - STAMP_BYTES]);
        nonce
    }

    /// Is a nonce good? It stays so.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check(&self, nonce: &[u8], now: Duration) -> Result<(), BadNonce> {
        let nonce = self.read(nonce, now)?;
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.known.contains(&nonce) {
            return Err(BadNonce::Used);
        }
        Ok(())
    }

    /// Uses a nonce up, by a proof that is good.
    ///
    /// # Errors
    /// Why it is not good.
    pub fn take(&self, nonce: &[u8], now: Duration) -> Result<(), BadNonce> {
        let nonce = self.read(nonce, now)?;
        let (now, life) = (whole_millis(now), whole_millis(LIFE));
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((oldest, made)) = used.order.front().copied()
            && now.saturating_sub(made) > life
        {
            used.order.pop_front();
            used.known.remove(&oldest);
        }
        if used.known.contains(&nonce) {
            return Err(BadNonce::Used);
        }
        if used.order.len() >= MAX_USED {
            return Err(BadNonce::Busy);
        }
        used.known.insert(nonce);
        used.order.push_back((nonce, now));
        Ok(())
    }

    /// A nonce of ours that is not too old.
    fn read(&self, nonce: &[u8], now: Duration) -> Result<[u8; NONCE_BYTES], BadNonce> {
        let nonce = <[u8; NONCE_BYTES]>::try_from(nonce).map_err(|_| BadNonce::Foreign)?;
        let (stamp, digest) = nonce.split_at(STAMP_BYTES);
        let expected = hmac::sign(&self.key, stamp);
        aws_lc_rs::constant_time::verify_slices_are_equal(digest, &expected.as_ref()[..digest.len()])
            .map_err(|_| BadNonce::Foreign)?;
        let made = u64::from_be_bytes(stamp[..TIME_BYTES].try_into().map_err(|_| BadNonce::Foreign)?);
        if whole_millis(now).saturating_sub(made) > whole_millis(LIFE) {
            return Err(BadNonce::Old);
        }
        Ok(nonce)
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_once_for_two_minutes_with_one_manager() {
        let (nonces, other) = (Nonces::default(), Nonces::default());
        let start = Duration::from_secs(1_800_000_000);
        let nonce = nonces.make(start);
        assert_eq!(nonce.len(), 32);
        assert_eq!(other.take(&nonce, start), Err(BadNonce::Foreign));
        for _ in 0..2 {
            assert_eq!(nonces.check(&nonce, start + LIFE), Ok(()), "looking takes nothing");
        }
        assert_eq!(nonces.take(&nonce, start + LIFE), Ok(()));
        assert_eq!(nonces.check(&nonce, start + LIFE), Err(BadNonce::Used));
        assert_eq!(nonces.take(&nonce, start + LIFE), Err(BadNonce::Used));
        let late = nonces.make(start);
        assert_eq!(
            nonces.take(&late, start + LIFE + Duration::from_millis(1)),
            Err(BadNonce::Old)
        );
        let mut forged = nonces.make(start);
        forged[0] ^= 1;
        assert_eq!(nonces.take(&forged, start), Err(BadNonce::Foreign));
        assert_eq!(nonces.take(b"", start), Err(BadNonce::Foreign));
    }
}
