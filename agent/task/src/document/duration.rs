//! Durations as people write them: `45m`, `1h30m`, `10s`, `500ms`, `2d`. Called by the document's
//! reader to check them, and by everyone who needs the value of a checked one.

use std::time::Duration;

/// Longest duration of a document.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// A text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {reason}")]
pub struct BadDuration {
    /// What was given.
    pub text: String,
    /// What is wrong with it, and what would be right.
    pub reason: &'static str,
}

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Whole numbers, each with its unit, from the largest unit to the smallest.
///
/// # Errors
/// A missing or unknown unit, a unit out of order, nothing at all, or more than [`LONGEST`].
pub fn parse(text: &str) -> Result<Duration, BadDuration> {
    let bad = |reason| BadDuration {
        text: text.chars().take(40).collect(),
        reason,
    };
    let mut rest = text;
    let mut total: u64 = 0;
    let mut next_unit = 0;
    if rest.is_empty() {
        return Err(bad("is empty; write for example 45m"));
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let amount: u64 = rest[..digits]
            .parse()
            .map_err(|_| bad("is not a duration; write for example 45m, 1h30m, 10s or 500ms"))?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = &rest[..letters];
        rest = &rest[letters..];
        if unit.is_empty() {
            return Err(bad("has no unit; write for example 45m, 1h30m, 10s or 500ms"));
        }
        let index = UNITS.iter().position(|(name, _)| *name == unit);
        let index = index.ok_or_else(|| bad("has an unknown unit; there are d, h, m, s and ms"))?;
        if index < next_unit {
            return Err(bad(
                "has its units out of order; write the largest first, for example 1h30m",
            ));
        }
        next_unit = index + 1;
        let milliseconds = amount
            .checked_mul(UNITS[index].1)
            .and_then(|part| total.checked_add(part));
        total = milliseconds.ok_or_else(|| bad("is longer than 366 days"))?;
    }
    let duration = Duration::from_millis(total);
    if duration > LONGEST {
        Err(bad("is longer than 366 days"))
    } else {
        Ok(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let milliseconds = |text: &str| parse(text).map(|duration| duration.as_millis());
        for (text, expected) in [
            ("45m", 2_700_000),
            ("1h30m", 5_400_000),
            ("10s", 10_000),
            ("500ms", 500),
            ("2d12h", 216_000_000),
            ("0s", 0),
            ("1m5ms", 60_005),
        ] {
            assert_eq!(milliseconds(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_a_reason() {
        for text in [
            "",
            "45",
            "m",
            "1.5h",
            "1m1h",
            "1h1h",
            "10 s",
            "-1s",
            "1y",
            "99999999999999999999s",
            "400d",
            "１s",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
