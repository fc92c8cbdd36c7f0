//! Wall-clock times as credential documents write them: RFC 3339, UTC, whole seconds.

use std::time::SystemTime;

/// `2026-02-25T06:03:31Z`; a time outside of what calendars know becomes 1970.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at)
        .unwrap_or_default()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// The time that `text` names.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let at: jiff::Timestamp = text.parse().ok()?;
    SystemTime::try_from(at).ok()
}
