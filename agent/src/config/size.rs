//! Sizes as people write them: `512KiB`, `256MiB`, `1GiB`.

/// A text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size; write for example 256MiB or 1GiB")]
pub(crate) struct BadSize(String);

const UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// A whole number and a binary unit. The result is in bytes.
pub(crate) fn parse(text: &str) -> Result<u64, BadSize> {
    let bad = || BadSize(text.chars().take(40).collect());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let amount: u64 = text[..digits].parse().map_err(|_| bad())?;
    let (_, unit) = UNITS
        .iter()
        .find(|(name, _)| *name == &text[digits..])
        .ok_or_else(bad)?;
    amount.checked_mul(*unit).filter(|bytes| *bytes > 0).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_needs_a_number_and_a_binary_unit() {
        for (text, bytes) in [
            ("1KiB", Some(1024)),
            ("256MiB", Some(256 << 20)),
            ("1GiB", Some(1 << 30)),
            ("0MiB", None),
            ("1GB", None),
            ("1", None),
            ("GiB", None),
            ("", None),
            ("99999999999TiB", None),
            ("1 GiB", None),
        ] {
            assert_eq!(parse(text).ok(), bytes, "{text}");
        }
    }
}
