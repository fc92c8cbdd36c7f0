//! What only the person can decide when a local run is started again: whether a script whose end was
//! never recorded runs once more. Until then nothing runs, and the journal is left as it is.

use std::collections::BTreeMap;

use deputy_task::record::{Decision, Direction, EffectClass, EffectKey, Intent, Record, RecordBody, Sealing};

/// A script that was begun, whose end is not recorded, and that does not say that it may be run again.
/// Steps run one after the other, so there is one at most.
pub(crate) fn undecided(records: &[Record]) -> Option<EffectKey> {
    let mut open = BTreeMap::new();
    for record in records {
        match &record.body {
            RecordBody::Intent(intent) if may_have_run(intent) => {
                open.insert(&record.key, ());
            }
            RecordBody::Done(_) | RecordBody::Decision(Decision::Redo { .. }) => {
                open.remove(&record.key);
            }
            // An undo runs no script: it says what was left.
            RecordBody::Decision(Decision::Undo { .. }) => return None,
            RecordBody::Intent(_) | RecordBody::Fact(_) => {}
        }
    }
    open.into_keys().next().cloned()
}

fn may_have_run(intent: &Intent) -> bool {
    intent.direction == Direction::Forward && intent.class == EffectClass::Held { retry_safe: false }
}

/// The decision that the script of this key runs again. Its next intent uses the decision up.
pub(crate) fn redo(key: EffectKey, records: &[Record]) -> Record {
    Record {
        key,
        program_version: 0,
        step_kind: String::new(),
        body: RecordBody::Decision(Decision::Redo {
            reason: "--redo".into(),
        }),
        epoch: records.last().map_or(0, |record| record.epoch),
        sealing: Sealing::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, body: RecordBody) -> Record {
        Record {
            key: EffectKey::from_journal(key.into()),
            program_version: 1,
            step_kind: "shell".into(),
            body,
            epoch: 1,
            sealing: Sealing::default(),
        }
    }

    fn intent(key: &str, class: EffectClass) -> Record {
        let body = RecordBody::Intent(Intent {
            class,
            plan_digest: "d".into(),
            direction: Direction::Forward,
            summary: String::new(),
        });
        record(key, body)
    }

    fn script() -> Record {
        intent("two/run", EffectClass::Held { retry_safe: false })
    }

    #[test]
    fn only_a_script_without_an_end_that_is_not_retry_safe_waits_for_a_person() {
        let done = || record("two/run", RecordBody::Done(1.into()));
        let redo = || super::redo(EffectKey::from_journal("two/run".into()), &[]);
        let undo = record(
            "@task/undo",
            RecordBody::Decision(Decision::Undo { reason: "no".into() }),
        );
        let call = EffectClass::Bounded {
            budget: std::time::Duration::from_secs(20),
        };
        for (records, waits) in [
            (vec![], false),
            (vec![script()], true),
            (vec![intent("two/run", EffectClass::Held { retry_safe: true })], false),
            (vec![intent("two/call", call)], false),
            (vec![script(), done()], false),
            (vec![script(), redo()], false),
            // A decision is good for one run of the script.
            (vec![script(), redo(), script()], true),
            (vec![script(), redo(), script(), done()], false),
            (vec![script(), undo], false),
        ] {
            assert_eq!(undecided(&records).is_some(), waits, "{records:?}");
        }
    }
}
