//! Frames, acknowledgements and resending, in every order.

use std::time::Duration;

use deputy_task::record::{Direction, EffectClass, EffectKey, Intent, Record, Sealing};
use proptest::prelude::*;

use super::*;

fn attempt(epoch: u64) -> AttemptRef {
    AttemptRef {
        project: "p".parse().expect("id"),
        task: "t".parse().expect("id"),
        run: 1,
        epoch,
    }
}

fn record(name: &str, body: RecordBody) -> WriteOp {
    WriteOp::Append(Record {
        key: EffectKey::new("step", name),
        program_version: 1,
        step_kind: "shell".into(),
        body,
        epoch: 0,
        sealing: Sealing::default(),
    })
}

fn intent() -> WriteOp {
    let class = EffectClass::Bounded {
        budget: Duration::from_secs(20),
    };
    let intent = Intent {
        class,
        plan_digest: "00".into(),
        direction: Direction::Forward,
        summary: String::new(),
    };
    record("effect", RecordBody::Intent(intent))
}

fn done(value: &str) -> WriteOp {
    record("effect", RecordBody::Done(value.into()))
}

fn ok(write: &v1::Write) -> v1::WriteAck {
    let result = v1::WriteResult {
        code: v1::WriteCode::Ok.into(),
        message: String::new(),
    };
    v1::WriteAck {
        seq: write.seq,
        results: write.ops.iter().map(|_| result.clone()).collect(),
    }
}

#[test]
fn start_and_the_first_intent_share_a_frame_and_are_answered_in_order() {
    let mut queue = WriteQueue::default();
    queue.push(Some(1), attempt(1), WriteOp::Start);
    queue.push(Some(2), attempt(1), intent());
    let frame = queue.next_frame(BootTime::from_nanos(7)).expect("frame");
    assert_eq!((frame.seq, frame.ops.len()), (1, 2));
    let answers = queue.acknowledge(ok(&frame)).expect("acknowledged");
    let ids: Vec<_> = answers.iter().map(|answer| answer.id).collect();
    assert_eq!(ids, [Some(1), Some(2)]);
    assert!(answers.iter().all(|answer| answer.verdict
        == WriteVerdict::Ok {
            sent_at: BootTime::from_nanos(7)
        }));
    assert!(queue.is_empty());
}

#[test]
fn only_results_and_facts_are_patient() {
    let mut queue = WriteQueue::default();
    assert_eq!(queue.urgency(), Urgency::Idle);
    queue.push(Some(1), attempt(1), done("x"));
    assert_eq!(queue.urgency(), Urgency::Patient);
    queue.push(Some(2), attempt(1), intent());
    assert_eq!(queue.urgency(), Urgency::Urgent);
    let frame = queue.next_frame(BootTime::from_nanos(0)).expect("frame");
    assert_eq!((frame.ops.len(), queue.urgency()), (2, Urgency::Idle));
    queue.connection_lost();
    assert_eq!(queue.urgency(), Urgency::Urgent);
}

#[test]
fn frames_operations_and_bytes_in_flight_are_bounded() {
    let mut queue = WriteQueue::default();
    for id in 0..MAX_OPS {
        queue.push(u64::try_from(id).ok(), attempt(1), WriteOp::Start);
    }
    assert_eq!(queue.room(), 0);
    let mut frames = Vec::new();
    while let Some(frame) = queue.next_frame(BootTime::from_nanos(0)) {
        assert!(frame.ops.len() <= MAX_OPS_PER_FRAME);
        frames.push(frame);
    }
    assert_eq!(frames.len(), MAX_FRAMES_IN_FLIGHT);
    assert_eq!(queue.room(), 0, "what is in flight counts");
    queue.acknowledge(ok(&frames[0])).expect("acknowledged");
    assert_eq!(queue.room(), MAX_OPS_PER_FRAME);
    let mut large = WriteQueue::default();
    for _ in 0..4 {
        large.push(None, attempt(1), done(&"x".repeat(250 * 1024)));
    }
    assert_eq!(large.next_frame(BootTime::from_nanos(0)).expect("frame").ops.len(), 2);
}

#[test]
fn an_acknowledgement_of_something_else_is_an_error_and_changes_nothing() {
    let mut queue = WriteQueue::default();
    queue.push(Some(1), attempt(1), WriteOp::Start);
    assert_eq!(
        queue
            .acknowledge(v1::WriteAck {
                seq: 1,
                results: vec![]
            })
            .expect_err("nothing is in flight"),
        BadAck::Order { got: 1, expected: None }
    );
    let frame = queue.next_frame(BootTime::from_nanos(0)).expect("frame");
    let empty = v1::WriteAck {
        seq: frame.seq,
        results: vec![],
    };
    assert_eq!(
        queue.acknowledge(empty).expect_err("count"),
        BadAck::Count {
            seq: 1,
            sent: 1,
            answered: 0
        }
    );
    assert_eq!(queue.acknowledge(ok(&frame)).expect("still there").len(), 1);
}

proptest! {
    /// 0: push, 1: send, 2: acknowledge the oldest frame, 3: the connection breaks.
    #[test]
    fn whatever_breaks_every_operation_is_answered_once_and_in_order(steps in proptest::collection::vec(0u8..4, 0..200)) {
        let mut queue = WriteQueue::default();
        let mut on_the_wire = VecDeque::new();
        let (mut pushed, mut answered) = (0u64, Vec::new());
        for step in steps.into_iter().chain([3]) {
            match step {
                0 => { pushed += 1; queue.push(Some(pushed), attempt(1), intent()); }
                1 => on_the_wire.extend(queue.next_frame(BootTime::from_nanos(0))),
                2 => if let Some(frame) = on_the_wire.pop_front() {
                    answered.extend(queue.acknowledge(ok(&frame)).expect("in order").into_iter().map(|answer| answer.id));
                },
                _ => { on_the_wire.clear(); queue.connection_lost(); }
            }
        }
        while let Some(frame) = queue.next_frame(BootTime::from_nanos(0)) {
            answered.extend(queue.acknowledge(ok(&frame)).expect("in order").into_iter().map(|answer| answer.id));
        }
        prop_assert_eq!(answered, (1..=pushed).map(Some).collect::<Vec<_>>());
        prop_assert!(queue.is_empty());
    }
}
