//! The parts of a value's encodings that may stand in one line, wherever lines are broken. Called where the forms of a
//! secret are made.
//!
//! What everybody's secrets begin with is no part of anybody's: the armour of PEM and the names of algorithms in it, and
//! of a JSON object what is not one of its secret texts. Else base64 of a public certificate would be taken for a key's.

use std::ops::Range;

use crate::form::Form;

/// Of base64 and hexadecimal each part of so many characters is a form, so that every line of it is hidden, wherever
/// lines are broken; but what is left of the value in a shorter one. Shorter parts would be met by chance.
pub(crate) const PART_BYTES: usize = 13;

/// Longer values have no such parts: each of their bytes would need a hundred.
pub(crate) const MAX_PARTED_BYTES: usize = 8 * 1024;

/// How an armour's line begins and ends (RFC 7468).
const ARMOUR: [&[u8]; 2] = [b"-----BEGIN ", b"-----END "];
const DASHES: &[u8] = b"-----";

/// Its label has at most so many bytes.
const MAX_LABEL_BYTES: usize = 64;

/// What names the algorithm of a key (RFC 8017, 5915, 5958 and 8018), as base64 of its DER has it: RSA and its kin at
/// each of three shifts, elliptic curves alone and within PKCS #8, encryption by a password, Ed25519. Certificates and
/// public keys have the same. By its text, not its place: a short key begins at once. A longer text before its beginning.
const ALGORITHMS: [&[u8]; 12] = [
    b"BgkqhkiG9w0BAQEFAA",
    b"oAoGCCqGSM49",
    b"MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg",
    b"BgkqhkiG9w0B",
    b"CSqGSIb3DQEB",
    b"KoZIhvcNAQ",
    b"MAwGCCqGSIb3DQI",
    b"ByqGSM49AgEG",
    b"BggqhkjOPQMBBw",
    b"BSuBBAAi",
    b"BSuBBAAj",
    b"AwBQYDK2Vw",
];

/// What is long begins so, and with a length of two bytes.
const LONG: &[u8] = b"MII";

/// In a body's first characters the length and version before an algorithm are nobody's either.
const MAX_BEFORE_ALGORITHM: usize = 24;

/// Which bytes of a value are nobody's secret.
pub(crate) struct Public {
    /// How many of the bytes before each place are somebody's.
    secret_before: Vec<usize>,
}

impl Public {
    /// `secret` are the parts of the value that are one; none: all of it.
    pub(crate) fn of(value: &[u8], secret: &[Range<usize>]) -> Self {
        let mut is_secret = vec![secret.is_empty(); value.len()];
        let mut mark = |range: Range<usize>, secret: bool| {
            is_secret
                .get_mut(range)
                .into_iter()
                .for_each(|bytes| bytes.fill(secret));
        };
        secret.iter().for_each(|range| mark(range.clone(), true));
        armour(value).for_each(|range| mark(range, false));
        headers(value).for_each(|range| mark(range, false));
        let mut secret_before = vec![0];
        secret_before.extend(is_secret.iter().scan(0, |count, is_secret| {
            *count += usize::from(*is_secret);
            Some(*count)
        }));
        Self { secret_before }
    }

    /// Is more than half of these bytes somebody's secret?
    fn is_worth_hiding(&self, bytes: &Range<usize>) -> bool {
        let before = |at: usize| self.secret_before.get(at).or(self.secret_before.last()).copied();
        let secret = before(bytes.end).unwrap_or(0) - before(bytes.start).unwrap_or(0);
        2 * secret > bytes.len()
    }

    /// The parts of an encoding that are to be hidden. `bytes_of` says which of the value's bytes are in some of its
    /// characters.
    pub(crate) fn parts_of(&self, encoded: &[u8], bytes_of: impl Fn(Range<usize>) -> Range<usize>) -> Vec<Form> {
        let starts = 0..(encoded.len() + 1).saturating_sub(PART_BYTES);
        let mut forms = Vec::new();
        let mut from = None;
        for start in starts.clone().chain([starts.end]) {
            let hides = starts.contains(&start) && self.is_worth_hiding(&bytes_of(start..start + PART_BYTES));
            match (from, hides) {
                (None, true) => from = Some(start),
                (Some(first), false) => {
                    let run = encoded.get(first..start + PART_BYTES - 1).unwrap_or_default();
                    forms.push(Form::parts(run, PART_BYTES));
                    from = None;
                }
                (None, false) | (Some(_), true) => {}
            }
        }
        forms
    }
}

/// Where PEM says what it is.
fn armour(value: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let begins = |at: usize| {
        let rest = value.get(at..)?;
        let label = ARMOUR.into_iter().find(|begin| rest.starts_with(begin))?.len();
        let ends = rest.get(label..)?.windows(DASHES.len()).take(MAX_LABEL_BYTES);
        let length = label + ends.into_iter().position(|window| window == DASHES)? + DASHES.len();
        Some(at..at + length)
    };
    (0..value.len()).filter_map(begins)
}

/// Where bodies begin as all of their kind do, and where algorithms are named.
fn headers(value: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let named = (0..value.len()).filter_map(|at| {
        let rest = value.get(at..)?;
        let algorithm = ALGORITHMS.into_iter().find(|algorithm| rest.starts_with(algorithm))?;
        Some(at..at + algorithm.len())
    });
    let begun = armour(value).filter_map(|armour| {
        // Behind the end of the line, which JSON writes in two characters.
        let rest = value.get(armour.end..)?;
        let begin = armour.end + rest.iter().take(4).position(|byte| *byte == b'M')?;
        let body = value.get(begin..)?;
        let [rsa, ..] = ALGORITHMS;
        let before = body
            .windows(rsa.len())
            .take(MAX_BEFORE_ALGORITHM)
            .position(|window| window == rsa);
        let length = if body.starts_with(LONG) { LONG.len() + 1 } else { 0 };
        Some(begin..begin + before.unwrap_or(length))
    });
    named.chain(begun)
}

/// Is this line nothing but armour?
pub(crate) fn is_armour(line: &[u8]) -> bool {
    armour(line).next() == Some(0..line.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str, secret: &[Range<usize>]) -> Vec<String> {
        let parts = Public::of(value.as_bytes(), secret).parts_of(value.as_bytes(), |characters| characters);
        let parts = parts.iter().flat_map(|form| form.searched().map(<[u8]>::to_vec));
        parts.map(|part| String::from_utf8(part).expect("text")).collect()
    }

    #[test]
    fn every_part_with_more_than_half_of_a_secret_is_looked_for() {
        assert_eq!(
            shown("0123456789abcde", &[]),
            ["0123456789abc", "123456789abcd", "23456789abcde"]
        );
        assert!(shown("0123456789ab", &[]).is_empty());
        let value = r#"{"user": "administrator", "pw": "hunter2"}"#;
        let at = value.find("hunter2").expect("there");
        let secret = at..at + 7;
        assert_eq!(
            shown(value, std::slice::from_ref(&secret)),
            [r#"pw": "hunter2"#, r#"w": "hunter2""#, r#"": "hunter2"}"#]
        );
    }

    #[test]
    fn armour_is_nobodys() {
        let key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhk\n-----END PRIVATE KEY-----\n";
        let parts = shown(key, &[]);
        assert!(parts.contains(&"\nMIIEvQIBADAN".to_owned()) && !parts.contains(&"-----\nMIIEvQI".to_owned()));
        let rsa = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcw\n-----END PRIVATE KEY-----\n";
        assert_eq!(
            shown(rsa, &[]),
            [
                "AQEFAASCBKcw\n",
                "QEFAASCBKcw\n-",
                "EFAASCBKcw\n--",
                "FAASCBKcw\n---",
                "AASCBKcw\n----",
                "ASCBKcw\n-----",
                "SCBKcw\n-----E"
            ]
        );
        assert!(is_armour(b"-----BEGIN CERTIFICATE-----") && !is_armour(b"-----BEGIN CERTIFICATE----- x"));
        assert!(!is_armour(b"") && !is_armour(b"-----BEGIN "));
    }
}
