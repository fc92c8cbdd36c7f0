//! The journal of a run as a table: what was intended, done, seen and decided, by whom.

use deputy_proto::v1::{EffectClass, Record, RecordKind};

use super::colour::Colour;
use super::table::table;
use super::words::{safe, since};

/// In commit order; times count from `begin_ms`.
pub(crate) fn journal(records: &[Record], begin_ms: i64, colour: Colour) -> Vec<String> {
    let row = |record: &Record| {
        let kind = match record.kind() {
            RecordKind::Unspecified => "?".to_owned(),
            RecordKind::Intent => colour.active(if record.undo { "intent (undo)" } else { "intent" }),
            RecordKind::Done => colour.good("done"),
            RecordKind::Fact => colour.faint("fact"),
            RecordKind::Decision => colour.careful("decision"),
        };
        let payload = String::from_utf8_lossy(&record.payload);
        let what = match record.kind() {
            RecordKind::Intent => {
                let held = if record.effect_class() == EffectClass::Held {
                    " (held)"
                } else {
                    ""
                };
                format!("{}{held}", safe(&record.summary))
            }
            _ if !record.seal.is_empty() => "(sealed: only agents of the pool can read it)".to_owned(),
            _ => shortened(&safe(&payload)),
        };
        let at = if record.committed_at_ms > 0 {
            format!("+{}", since(record.committed_at_ms - begin_ms))
        } else {
            String::new()
        };
        vec![at, record.epoch.to_string(), kind, safe(&record.key), what]
    };
    let rows: Vec<Vec<String>> = records.iter().map(row).collect();
    table(&["AT", "ATTEMPT", "KIND", "KEY", "WHAT"], &rows)
}

fn shortened(text: &str) -> String {
    if text.chars().count() > 100 {
        format!("{}…", text.chars().take(99).collect::<String>())
    } else {
        text.to_owned()
    }
}
