//! What comes from the network: never a panic, and what we send reads back as it was.

use std::time::Duration;

use deputy_task::record::Decision;
use proptest::prelude::*;
use prost::Message;
use serde_json::Value;

use super::*;
use crate::to_wire;

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z]{1,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn body() -> impl Strategy<Value = RecordBody> {
    let class = prop_oneof![
        (0u64..20_000).prop_map(|ms| EffectClass::Bounded {
            budget: Duration::from_millis(ms)
        }),
        any::<bool>().prop_map(|retry_safe| EffectClass::Held { retry_safe }),
    ];
    let direction = prop_oneof![Just(Direction::Forward), Just(Direction::Undo)];
    let intent =
        (class, "([0-9a-f]{2}){0,32}", direction, ".*").prop_map(|(class, plan_digest, direction, summary)| {
            RecordBody::Intent(Intent {
                class,
                plan_digest,
                direction,
                summary,
            })
        });
    prop_oneof![
        intent,
        json().prop_map(|value| RecordBody::Done(value.into())),
        json().prop_map(|value| RecordBody::Fact(value.into())),
        ".*".prop_map(|reason| RecordBody::Decision(Decision::Undo { reason })),
        ".*".prop_map(|reason| RecordBody::Decision(Decision::Redo { reason })),
    ]
}

/// A body, and what a pool's key may add to it: the value of a sealed one is null.
fn sealed_body() -> impl Strategy<Value = (RecordBody, Sealing)> {
    let mac = ("[0-9a-f]{16}", any::<u32>(), any::<[u8; MAC_BYTES]>()).prop_map(|(key, position, tag)| Mac {
        key: PoolKeyId::from_journal(key),
        position,
        tag,
    });
    let sealed = proptest::collection::vec(any::<u8>(), 0..40);
    (body(), proptest::option::of(mac), sealed).prop_map(|(mut body, mac, mut sealed)| {
        match &mut body {
            RecordBody::Done(value) | RecordBody::Fact(value) if !sealed.is_empty() => *value = Value::Null.into(),
            RecordBody::Done(_) | RecordBody::Fact(_) => {}
            RecordBody::Intent(_) | RecordBody::Decision(_) => sealed.clear(),
        }
        (body, Sealing { sealed, mac })
    })
}

proptest! {
    #[test]
    fn a_record_survives_the_wire(key in ".+", program_version: u32, step_kind in ".*", (body, sealing) in sealed_body(), epoch: u64) {
        let sent = Record { key: EffectKey::from_journal(key), program_version, step_kind, body, epoch, sealing };
        let bytes = to_wire::record(sent.clone()).encode_to_vec();
        let read = record(v1::Record::decode(bytes.as_slice()).expect("our own bytes")).expect("our own record");
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn any_bytes_are_an_error_or_a_message_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(frame) = v1::SessionResponse::decode(bytes.as_slice()) {
            let _ = frame.frame;
        }
        if let Ok(wire) = v1::Assignment::decode(bytes.as_slice()) {
            let _ = assignment(wire, BootTime::from_nanos(0));
        }
        if let Ok(wire) = v1::Record::decode(bytes.as_slice()) {
            let _ = record(wire);
        }
        if let Ok(wire) = v1::Welcome::decode(bytes.as_slice()) {
            let _ = welcome(wire);
        }
    }

    #[test]
    fn any_field_values_are_an_error_or_a_record_never_a_panic(
        key in ".*", kind in -2i32..9, effect_class in -2i32..5, payload in ".*", seal in ".{0,2}", budget_ms: u32,
    ) {
        let wire = v1::Record {
            key, kind, effect_class, budget_ms,
            payload: payload.into_bytes().into(), seal: seal.into_bytes().into(),
            ..v1::Record::default()
        };
        let _ = record(wire);
    }

    #[test]
    fn any_times_give_an_age_and_a_deadline(server: i64, started: i64, start_deadline_ms: u32) {
        let wire = v1::Assignment {
            attempt: Some(v1::AttemptRef { project: "p".into(), task_id: "t".into(), run: 1, epoch: 1 }),
            document: document_bytes(),
            server_time_ms: server, run_started_at_ms: started, start_deadline_ms,
            ..v1::Assignment::default()
        };
        let read = assignment(wire, BootTime::from_nanos(5)).expect("good");
        prop_assert!(read.start_deadline >= BootTime::from_nanos(5));
    }
}

fn document_bytes() -> Bytes {
    Bytes::from_static(
        br#"{"document":{"apiVersion":"deputy.dev/v1","kind":"Task","metadata":{"name":"t"},"spec":{"steps":[{"name":"a","noopEffect":{}}]}},"inputs":{}}"#,
    )
}

#[test]
fn an_unknown_answer_code_counts_as_a_refusal() {
    let answer = verdict(
        v1::WriteResult {
            code: 77,
            message: String::new(),
        },
        BootTime::from_nanos(1),
    );
    assert!(matches!(answer, WriteVerdict::Invalid(_)), "{answer:?}");
}

#[test]
fn an_unreadable_document_blames_the_document_and_names_the_attempt() {
    let wire = v1::Assignment {
        attempt: Some(v1::AttemptRef {
            project: "p".into(),
            task_id: "t".into(),
            run: 1,
            epoch: 3,
        }),
        document: Bytes::from_static(b"{"),
        ..v1::Assignment::default()
    };
    let bad = assignment(wire, BootTime::from_nanos(0)).expect_err("bad");
    assert_eq!(bad.blame, Blame::Document);
    assert_eq!(bad.attempt.map(|attempt| attempt.epoch), Some(3));
}

#[test]
fn a_document_that_no_reader_lets_pass_is_refused_with_its_reason() {
    let bytes = String::from_utf8(document_bytes().to_vec()).expect("text");
    let document = bytes.replace(
        r#""steps":"#,
        r#""sources":[{"name":"x/../../.ssh","bundle":"a"}],"steps":"#,
    );
    let wire = v1::Assignment {
        attempt: Some(v1::AttemptRef {
            project: "p".into(),
            task_id: "t".into(),
            run: 1,
            epoch: 1,
        }),
        document: document.into(),
        ..v1::Assignment::default()
    };
    let bad = assignment(wire, BootTime::from_nanos(0)).expect_err("bad");
    assert_eq!(bad.blame, Blame::Document);
    assert_eq!(
        bad.error.to_string(),
        "the task document cannot be read: spec.sources[0].name: `x/../../.ssh` cannot be the name of a source"
    );
}

#[test]
fn a_welcome_that_would_make_a_busy_loop_is_refused() {
    let wire = v1::Welcome {
        protocol: 1,
        heartbeat_interval_ms: 0,
        lease_ttl_ms: 60_000,
        ..v1::Welcome::default()
    };
    assert_eq!(
        welcome(wire).expect_err("refused").to_string(),
        "heartbeat_interval_ms is 0"
    );
}

#[test]
fn sizes_that_no_honest_manager_announces_are_refused_before_anything_is_read() {
    let bundle = |size_bytes| {
        let wire = v1::Bundle {
            name: "app".into(),
            sha256: "0".repeat(64),
            size_bytes,
        };
        blob(wire).map(|(_, blob)| blob.size_bytes)
    };
    assert_eq!(bundle(64 << 20).expect("as the command line packs them"), 64 << 20);
    assert!(
        bundle(u64::MAX)
            .expect_err("no disk holds it")
            .to_string()
            .contains("bundle")
    );
    let fact = |bytes: usize| {
        record(v1::Record {
            key: "s/f".into(),
            kind: v1::RecordKind::Fact.into(),
            payload: format!("[{}0]", "0,".repeat(bytes / 2)).into(),
            ..v1::Record::default()
        })
    };
    fact(200 * 1024).expect("a large fact");
    let refused = fact(300 * 1024).expect_err("larger than any agent writes");
    assert!(
        matches!(
            refused,
            WireError::OutOfRange {
                what: "record payload",
                ..
            }
        ),
        "{refused}"
    );
    assert!(
        document(&vec![b' '; MAX_CANONICAL_BYTES + 1])
            .is_err_and(|error| matches!(error, WireError::OutOfRange { .. }))
    );
}

#[test]
fn a_manager_cannot_send_an_agent_away_for_weeks() {
    let told = disconnect(v1::Disconnect {
        code: "busy".into(),
        reason: "x".repeat(1 << 20),
        retry_after_ms: u32::MAX,
    });
    assert_eq!(told.retry_after_ms, 60 * 60 * 1000);
    assert!(told.reason.len() < 5_000);
}
