//! Events: what controllers, the scheduler and kubelets say about an object.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Event, Pod};

use super::super::echo::said;
use super::probe;

/// Is the event about the object with this uid?
pub(crate) fn is_about(event: &Event, uid: Option<&str>) -> bool {
    uid.is_some() && event.involved_object.uid.as_deref() == uid
}

/// Lines for the warnings about objects of `uids` that were not told before. `told` grows.
/// `pods` are those of the objects.
pub(crate) fn news(
    events: &[Event],
    pods: &[Pod],
    uids: &BTreeSet<String>,
    told: &mut BTreeSet<String>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for event in events.iter().filter(|event| event.type_.as_deref() == Some("Warning")) {
        let object = &event.involved_object;
        if !object.uid.as_ref().is_some_and(|uid| uids.contains(uid)) {
            continue;
        }
        let reason = event.reason.as_deref().unwrap_or("Warning");
        let message = without_output(event, pods);
        let line = format!(
            "{} {}: {reason}: {message}",
            object.kind.as_deref().unwrap_or("?"),
            object.name.as_deref().unwrap_or("?")
        );
        // Kubelets repeat an event with a new back-off or attempt in its text; the reason is what is new.
        let once = format!("{}/{reason}", object.uid.as_deref().unwrap_or_default());
        if told.insert(once) {
            lines.push(line);
        }
    }
    lines
}

/// What an event says, without what containers and commands in them answered, and without values.
fn without_output(event: &Event, pods: &[Pod]) -> String {
    if let Some(told) = probe::told(event, pods) {
        return told;
    }
    if matches!(
        event.reason.as_deref(),
        Some("FailedPostStartHook" | "FailedPreStopHook")
    ) {
        return "the command failed (see what it said: kubectl get events)".into();
    }
    said(event.message.as_deref().unwrap_or_default().trim())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_warning_about_ours_is_told_once() {
        let event = |uid: &str, kind: &str, reason: &str| json!({"metadata": {}, "type": kind, "reason": reason, "message": "m\n", "involvedObject": {"uid": uid, "kind": "Pod", "name": "p"}});
        let events: Vec<Event> = serde_json::from_value(json!([
            event("a", "Warning", "BackOff"),
            event("a", "Warning", "BackOff"),
            event("a", "Normal", "Pulled"),
            event("other", "Warning", "BackOff"),
            event("a", "Warning", "Failed"),
        ]))
        .expect("events");
        let mut told = BTreeSet::new();
        let ours = BTreeSet::from(["a".to_owned()]);
        assert_eq!(
            news(&events, &[], &ours, &mut told),
            ["Pod p: BackOff: m", "Pod p: Failed: m"]
        );
        assert_eq!(news(&events, &[], &ours, &mut told), [] as [&str; 0]);
    }

    #[test]
    fn what_commands_in_a_container_print_is_not_told() {
        let said = [
            ("Unhealthy", "Readiness probe failed: no login with canary"),
            ("FailedPostStartHook", "message: \"canary\""),
            (
                "FailedCreate",
                "Error creating: pods \"web-x\" is forbidden: no \"canary\"",
            ),
        ];
        let told = said.map(|(reason, message)| {
            let event = json!({"metadata": {}, "reason": reason, "message": message, "involvedObject": {}});
            without_output(&serde_json::from_value(event).expect("an event"), &[])
        });
        insta::assert_snapshot!(told.join("\n"), @r##"
        Readiness probe failed (see what it said: kubectl get events)
        the command failed (see what it said: kubectl get events)
        Error creating: pods "web-x" is forbidden: no "***"
        "##);
    }
}
