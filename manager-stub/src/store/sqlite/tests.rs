//! The embedded store passes the suite, and what only it can get wrong.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use deputy_proto::v1;
use deputy_task::state::TaskState;
use proptest::prelude::*;

use super::SqliteStore;
use crate::store::clock::StoreTime;
use crate::store::conformance::{Bench, SUITE, assign, complete, instance_id, record, spec, submit};
use crate::store::contract::{Store, StoreError};
use crate::store::op::{Change, Op, OpResult, Write};
use crate::store::task::TaskKey;

fn open(folder: &Path) -> Box<dyn Store> {
    Box::new(SqliteStore::open(&folder.join("deputy.db")).expect("open"))
}

#[test]
fn it_passes_the_conformance_suite() {
    for (name, test) in SUITE {
        let run = std::panic::AssertUnwindSafe(|| test(&mut Bench::new(open)));
        assert!(std::panic::catch_unwind(run).is_ok(), "{name}");
    }
}

#[test]
fn a_second_manager_is_refused_and_the_first_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("deputy.db");
    let mut first = SqliteStore::open(&path).expect("open");
    let refused = SqliteStore::open(&path).err().expect("refused");
    assert!(matches!(refused, StoreError::InUse(_)), "{refused}");
    first
        .apply(StoreTime::from_millis(1), vec![submit("r", spec("t"))])
        .expect("applied");
    drop(first);
    SqliteStore::open(&path).expect("open again");
}

#[test]
fn a_database_of_a_newer_manager_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("deputy.db");
    drop(SqliteStore::open(&path).expect("open"));
    rusqlite::Connection::open(&path)
        .expect("open")
        .pragma_update(None, "user_version", 99)
        .expect("set");
    assert!(matches!(
        SqliteStore::open(&path).err().expect("refused"),
        StoreError::TooNew { found: 99, .. }
    ));
}

#[test]
fn a_database_of_an_older_manager_is_brought_up_with_the_tasks_it_holds() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("deputy.db");
    let mut store = SqliteStore::open(&path).expect("open");
    let now = StoreTime::from_millis(1);
    store.apply(now, vec![submit("r", spec("t"))]).expect("applied");
    let before = store.reads().live().expect("read");
    drop(store);
    rusqlite::Connection::open(&path)
        .expect("open")
        .execute_batch(
            "ALTER TABLE live DROP COLUMN losses; ALTER TABLE history DROP COLUMN losses; \
             DROP TABLE trust; DROP TABLE oidc_key; ALTER TABLE instance DROP COLUMN line; PRAGMA user_version = 2;",
        )
        .expect("as it was");
    let store = SqliteStore::open(&path).expect("migrated");
    assert_eq!(store.reads().live().expect("read"), before);
}

#[test]
fn a_full_disk_refuses_the_batch_and_the_store_goes_on_when_there_is_space() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = SqliteStore::open(&folder.path().join("deputy.db")).expect("open");
    let now = StoreTime::from_millis(1);
    store
        .apply(now, vec![submit("r1", spec("t1")), assign(&spec("t1").key, 0, "i1")])
        .expect("applied");
    store.limit_pages(Some(40));
    let mut large = spec("t2");
    large.document = Bytes::from(vec![b'x'; 1 << 20]);
    let batch = || {
        vec![
            Op::Manage {
                key: spec("t1").key,
                change: Change::Cancel { reason: "x".into() },
            },
            submit("r2", large.clone()),
        ]
    };
    assert!(matches!(store.apply(now, batch()), Err(StoreError::Full)));
    let row = store.reads().task(&spec("t1").key).expect("read").expect("a task");
    assert_eq!(
        (row.head.state, row.head.cancel.as_str()),
        (TaskState::Assigned, ""),
        "nothing of the batch happened"
    );
    assert_eq!(store.reads().live().expect("read").len(), 1);
    store.limit_pages(None);
    let applied = store.apply(now, batch()).expect("applied");
    assert!(matches!(&applied.results[0], OpResult::Task { head, .. } if head.cancel == "x"));
}

/// One random operation on one of three tasks.
fn any_op() -> impl Strategy<Value = (usize, usize, u64)> {
    (0..3_usize, 0..14_usize, 0..4_u64)
}

fn op(task: usize, what: usize, epoch: u64) -> Op {
    let mut spec = spec(&format!("t{task}"));
    spec.exclusive_key = if task < 2 { "k".into() } else { String::new() };
    let key = spec.key.clone();
    let attempt = deputy_task::attempt::AttemptRef {
        project: key.project.clone(),
        task: key.task.clone(),
        run: 1,
        epoch,
    };
    let write = |write| Op::Write {
        attempt: attempt.clone(),
        instance: instance_id("i1"),
        write,
    };
    let manage = |change| Op::Manage {
        key: key.clone(),
        change,
    };
    match what {
        0 => submit(&format!("t{task}"), spec),
        1 => assign(&key, epoch, "i1"),
        2 => write(Write::Start),
        3 => write(record("s/a", v1::RecordKind::Intent, "")),
        4 => write(record("s/a", v1::RecordKind::Done, "1")),
        5 => write(record("s/f", v1::RecordKind::Fact, if epoch == 1 { "1" } else { "2" })),
        6 => write(complete(v1::TaskState::Failed)),
        7 => write(Write::Release { reason: "drain".into() }),
        8 => manage(Change::Lose {
            epoch,
            reason: "silent".into(),
        }),
        9 => manage(Change::GiveAway {
            epoch,
            lease_until: StoreTime::ZERO,
            guard: Duration::ZERO,
            kill_grace: Duration::ZERO,
        }),
        10 => manage(Change::Cancel {
            reason: "enough".into(),
        }),
        11 => manage(Change::Retry { seen_run: 0 }),
        12 => manage(Change::Unassign {
            epoch,
            reason: "late".into(),
        }),
        _ => manage(Change::Reattach {
            run: 1,
            epoch,
            instance: instance_id("i1"),
        }),
    }
}

fn check(store: &dyn Store) -> Result<(), TestCaseError> {
    let live = store.reads().live().expect("read");
    let holders = live
        .iter()
        .filter(|row| row.spec.exclusive_key == "k" && row.head.holds_key())
        .count();
    prop_assert!(holders <= 1, "two tasks hold one key");
    for row in &live {
        prop_assert!(!row.head.state.is_ended());
        prop_assert_eq!(
            row.head.state == TaskState::Assigned,
            row.head.deadline_at > StoreTime::ZERO
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// Any operations in any batches: the rows stay sound, epochs never fall, and a store that is
    /// opened again says the same as one that stayed open.
    #[test]
    fn any_sequence_of_operations_leaves_a_sound_store(batches in proptest::collection::vec(proptest::collection::vec(any_op(), 1..6), 1..20)) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = open(folder.path());
        let mut epochs = [0_u64; 3];
        for (step, batch) in (1_i64..).zip(batches) {
            let now = StoreTime::from_millis(step * 60_000);
            let ops = batch.into_iter().map(|(task, what, epoch)| op(task, what, epoch)).collect();
            store.apply(now, ops).expect("applied");
            check(store.as_ref())?;
            for (task, epoch) in epochs.iter_mut().enumerate() {
                if let Some(row) = store.reads().task(&spec(&format!("t{task}")).key).expect("read") {
                    prop_assert!(row.head.epoch >= *epoch);
                    *epoch = row.head.epoch;
                }
            }
        }
        let rows = |store: &dyn Store| -> Vec<_> {
            (0..3).map(|task| spec(&format!("t{task}")).key).map(|key: TaskKey| store.reads().task(&key).expect("read")).collect()
        };
        let before = rows(store.as_ref());
        drop(store);
        let mut again = open(folder.path());
        prop_assert_eq!(rows(again.as_ref()), before);
        again.apply(StoreTime::from_millis(10_000_000), vec![op(0, 1, epochs[0]), op(1, 1, epochs[1])]).expect("applied");
        check(again.as_ref())?;
    }
}
