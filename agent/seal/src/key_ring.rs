//! The pool keys that an agent has. Keys are changed without a gap by adding the new one behind the
//! old one everywhere, then moving it to the front, then taking the old one away when its last run
//! has ended.
//!
//! ```text
//! # comment
//! deputy-pool-key-v1 <32 bytes, base64url without padding>
//! deputy-pool-key-kms-v1 <ARN of the KMS key> <name of the pool> <what AWS KMS wrapped, base64>
//! ```

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use deputy_task::record::PoolKeyId;
use zeroize::Zeroizing;

use crate::pool_key::{KEY_BYTES, PoolKey};

/// Most keys of a ring.
pub const MAX_KEYS: usize = 16;

/// Most bytes of the text of a ring.
pub const MAX_RING_BYTES: usize = 128 * 1024;

/// Most bytes of a ciphertext: what KMS takes.
const MAX_CIPHERTEXT_BYTES: usize = 6144;

const PLAIN: &str = "deputy-pool-key-v1";
const KMS: &str = "deputy-pool-key-kms-v1";

/// The keys that an agent has: the first seals new runs, every one opens.
#[derive(Debug, Clone)]
pub struct KeyRing {
    keys: Vec<Arc<PoolKey>>,
}

/// One line of the text of a ring.
#[derive(Debug)]
pub enum Entry {
    /// The key stands there.
    Plain(PoolKey),
    /// AWS KMS unwraps the key.
    Kms(Wrapped),
}

/// A key that AWS KMS unwraps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// The ARN of the KMS key.
    pub key_arn: String,
    /// Whose key it is: KMS unwraps it only for who names the same pool.
    pub pool: String,
    /// As KMS gave it.
    pub ciphertext: Vec<u8>,
}

impl Wrapped {
    /// The line for it.
    #[must_use]
    pub fn line(&self) -> String {
        let ciphertext = STANDARD.encode(&self.ciphertext);
        format!("{KMS} {} {} {ciphertext}", self.key_arn, self.pool)
    }

    /// May a pool be called that here? It is one word of a line.
    #[must_use]
    pub fn is_pool_name(text: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        (1..=128).contains(&text.len()) && text.bytes().all(plain)
    }
}

/// A text is no key ring. Never says what stands there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRing {
    /// Not text.
    #[error("it is not UTF-8 text")]
    NotText,
    /// Far too long for what it should hold.
    #[error("it has more than {MAX_RING_BYTES} bytes")]
    TooLong,
    /// A line that no version of ours writes.
    #[error("line {0} is not a pool key: it should be `{PLAIN} KEY` or `{KMS} ARN POOL CIPHERTEXT`")]
    NotAKey(usize),
    /// The key cannot be read.
    #[error("the key in line {0} is not {KEY_BYTES} bytes as base64url without padding")]
    BadKey(usize),
    /// The ciphertext cannot be read.
    #[error("the ciphertext in line {0} is not base64, or longer than AWS KMS makes one")]
    BadCiphertext(usize),
    /// Nothing in it.
    #[error("it holds no key")]
    Empty,
    /// Too many keys.
    #[error("it holds more than {MAX_KEYS} keys")]
    TooMany,
    /// Somebody added what was there.
    #[error("the key {0} is there twice")]
    Twice(PoolKeyId),
}

impl KeyRing {
    /// A ring of these keys; the first seals.
    ///
    /// # Errors
    /// None, too many, or one twice.
    pub fn new(keys: Vec<PoolKey>) -> Result<Self, BadRing> {
        if keys.is_empty() {
            return Err(BadRing::Empty);
        }
        if keys.len() > MAX_KEYS {
            return Err(BadRing::TooMany);
        }
        for (at, key) in keys.iter().enumerate() {
            if keys[..at].iter().any(|before| before.id() == key.id()) {
                return Err(BadRing::Twice(key.id().clone()));
            }
        }
        Ok(Self {
            keys: keys.into_iter().map(Arc::new).collect(),
        })
    }

    /// The key that new runs are sealed with.
    #[must_use]
    pub fn first(&self) -> &Arc<PoolKey> {
        &self.keys[0]
    }

    /// The key of this id.
    #[must_use]
    pub fn key(&self, id: &PoolKeyId) -> Option<&Arc<PoolKey>> {
        self.keys.iter().find(|key| key.id() == id)
    }

    /// The ids in order: what may be shown and told to a manager.
    pub fn ids(&self) -> impl Iterator<Item = &PoolKeyId> {
        self.keys.iter().map(|key| key.id())
    }

    /// What must never be printed.
    pub fn secrets(&self) -> impl Iterator<Item = Zeroizing<Vec<u8>>> {
        self.keys.iter().flat_map(|key| key.secrets())
    }
}

/// The lines of a ring's text.
///
/// # Errors
/// The first line that is none, by its number.
pub fn read(bytes: &[u8]) -> Result<Vec<Entry>, BadRing> {
    if bytes.len() > MAX_RING_BYTES {
        return Err(BadRing::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| BadRing::NotText)?;
    let mut entries = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), at + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        entries.push(entry(line, number)?);
    }
    match entries.len() {
        0 => Err(BadRing::Empty),
        count if count > MAX_KEYS => Err(BadRing::TooMany),
        _ => Ok(entries),
    }
}

/// The line for a key.
#[must_use]
pub fn line(key: &PoolKey) -> Zeroizing<String> {
    Zeroizing::new(format!("{PLAIN} {}", *key.to_text()))
}

fn entry(line: &str, number: usize) -> Result<Entry, BadRing> {
    let (form, rest) = line.split_once(' ').ok_or(BadRing::NotAKey(number))?;
    match form {
        PLAIN => {
            let bytes = URL_SAFE_NO_PAD.decode(rest.trim()).map(Zeroizing::new);
            let bytes = bytes.map_err(|_| BadRing::BadKey(number))?;
            let secret = bytes.as_slice().try_into().map_err(|_| BadRing::BadKey(number))?;
            let key = PoolKey::new(Zeroizing::new(secret)).map_err(|_| BadRing::BadKey(number))?;
            Ok(Entry::Plain(key))
        }
        KMS => {
            let mut words = rest.split_ascii_whitespace();
            let (Some(key_arn), Some(pool), Some(text), None) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                return Err(BadRing::NotAKey(number));
            };
            let ciphertext = STANDARD.decode(text).ok();
            let ciphertext = ciphertext.filter(|bytes| !bytes.is_empty() && bytes.len() <= MAX_CIPHERTEXT_BYTES);
            Ok(Entry::Kms(Wrapped {
                key_arn: key_arn.to_owned(),
                pool: pool.to_owned(),
                ciphertext: ciphertext.ok_or(BadRing::BadCiphertext(number))?,
            }))
        }
        _ => Err(BadRing::NotAKey(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(entries: Vec<Entry>) -> Vec<PoolKey> {
        let key = |entry| match entry {
            Entry::Plain(key) => key,
            Entry::Kms(_) => panic!("a ciphertext"),
        };
        entries.into_iter().map(key).collect()
    }

    fn wrapped(ciphertext: &[u8]) -> Wrapped {
        Wrapped {
            key_arn: "arn:aws:kms:eu-west-1:111122223333:key/1234".into(),
            pool: "eu".into(),
            ciphertext: ciphertext.to_vec(),
        }
    }

    #[test]
    fn what_is_written_is_read_and_the_first_key_seals() {
        let (one, two) = (PoolKey::generate().expect("a key"), PoolKey::generate().expect("a key"));
        let text = format!("# the pool eu\n\n{}\n  {}\n", *line(&one), *line(&two));
        let ring = KeyRing::new(plain(read(text.as_bytes()).expect("a ring"))).expect("a ring");
        assert_eq!(ring.ids().collect::<Vec<_>>(), [one.id(), two.id()]);
        assert_eq!(ring.first().id(), one.id());
        assert!(ring.key(two.id()).is_some() && ring.key(PoolKey::generate().expect("a key").id()).is_none());
        assert_eq!(ring.first().to_text(), one.to_text());
    }

    #[test]
    fn a_ciphertext_is_kept_for_kms() {
        let read = read(wrapped(b"from kms").line().as_bytes()).expect("read");
        assert!(matches!(&read[..], [Entry::Kms(read)] if *read == wrapped(b"from kms")));
        for (name, fits) in [
            ("eu", true),
            ("prod/eu-1_a.b", true),
            ("", false),
            ("a b", false),
            ("ü", false),
        ] {
            assert_eq!(Wrapped::is_pool_name(name), fits, "{name}");
        }
    }

    #[test]
    fn what_is_no_ring_is_refused_by_its_line_and_never_shown() {
        let secret = "c2VjcmV0";
        for (text, expected) in [
            (String::new(), BadRing::Empty),
            ("# nothing\n".into(), BadRing::Empty),
            (secret.into(), BadRing::NotAKey(1)),
            (format!("\nAES {secret}"), BadRing::NotAKey(2)),
            (format!("{PLAIN} {secret}"), BadRing::BadKey(1)),
            (format!("{PLAIN} {}=", "A".repeat(43)), BadRing::BadKey(1)),
            (format!("{KMS} {secret}"), BadRing::NotAKey(1)),
            (format!("{KMS} arn pool {secret} more"), BadRing::NotAKey(1)),
            (format!("{KMS} arn pool !"), BadRing::BadCiphertext(1)),
            (wrapped(&[1; 6145]).line(), BadRing::BadCiphertext(1)),
            (format!("{}\n", wrapped(b"x").line()).repeat(17), BadRing::TooMany),
            ("#".repeat(MAX_RING_BYTES + 1), BadRing::TooLong),
        ] {
            let error = read(text.as_bytes()).expect_err("refused");
            assert_eq!(error, expected);
            assert!(!error.to_string().contains(secret));
        }
        assert_eq!(read(&[0xff, 0xfe]).expect_err("refused"), BadRing::NotText);
        let key = PoolKey::generate().expect("a key");
        let twice = KeyRing::new(vec![key.clone(), key.clone()]).expect_err("refused");
        assert_eq!(twice, BadRing::Twice(key.id().clone()));
    }
}
