//! What outputs of a script may be called. Asked by the checks of documents, and again when the script's file is read.

/// Bytes of a name.
const MAX_BYTES: usize = 128;

/// What [`is_good`] asks for, for people.
pub const RULE: &str = "letters, digits, `_` and `-`, beginning with a letter or `_`, at most 128 of them";

/// May an output be called so?
#[must_use]
pub fn is_good(name: &str) -> bool {
    name.len() <= MAX_BYTES
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_and_neither_empty_nor_long() {
        for name in ["token", "_a", "a-1", &"x".repeat(128)] {
            assert!(is_good(name), "{name}");
        }
        for name in ["", "1a", "-a", "a b", "token ", "a.b", "ä", &"x".repeat(129)] {
            assert!(!is_good(name), "{name}");
        }
    }
}
