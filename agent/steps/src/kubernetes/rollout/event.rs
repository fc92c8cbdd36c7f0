//! Events: what controllers, the scheduler and kubelets say about an object.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Event;

use super::super::echo::said;

/// How a kubelet's words about a probe over the network begin. Of one that is a command it says what that printed, which
/// may begin in the same way: so only what is known is told.
const OF_NETWORK_PROBES: [&str; 6] = [
    "Get \"",
    "dial tcp ",
    "timeout: ",
    "command timed out",
    "context deadline exceeded",
    "EOF",
];
/// How they end.
const FAULTS: [&str; 11] = [
    "connection refused",
    "connection reset by peer",
    "no route to host",
    "network is unreachable",
    "no such host",
    "i/o timeout",
    "context deadline exceeded",
    "(Client.Timeout exceeded while awaiting headers)",
    "server gave HTTP response to HTTPS client",
    "command timed out",
    "EOF",
];
const STATUS: &str = "HTTP probe failed with statuscode: ";
const UNHEALTHY: &str = "service unhealthy (responded with \"NOT_SERVING\")";

/// Is the event about the object with this uid?
pub(crate) fn is_about(event: &Event, uid: Option<&str>) -> bool {
    uid.is_some() && event.involved_object.uid.as_deref() == uid
}

/// Lines for the warnings about objects of `uids` that were not told before. `told` grows.
pub(crate) fn news(events: &[Event], uids: &BTreeSet<String>, told: &mut BTreeSet<String>) -> Vec<String> {
    let mut lines = Vec::new();
    for event in events.iter().filter(|event| event.type_.as_deref() == Some("Warning")) {
        let object = &event.involved_object;
        if !object.uid.as_ref().is_some_and(|uid| uids.contains(uid)) {
            continue;
        }
        let reason = event.reason.as_deref().unwrap_or("Warning");
        let message = without_output(reason, event.message.as_deref().unwrap_or_default().trim());
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

/// What an event says, without what commands in the container printed and without values.
fn without_output(reason: &str, message: &str) -> String {
    let is_of_hook = matches!(reason, "FailedPostStartHook" | "FailedPreStopHook");
    match message.split_once(" probe failed: ") {
        Some((which, why)) => match network_fault(why) {
            Some(fault) => format!("{which} probe failed: {fault}"),
            None => format!("{which} probe failed (see what it said: kubectl get events)"),
        },
        _ if is_of_hook => "the command failed (see what it said: kubectl get events)".into(),
        _ => said(message),
    }
}

/// What was wrong with a probe over the network, in words that nobody else has put there.
fn network_fault(why: &str) -> Option<&str> {
    if why == UNHEALTHY {
        return Some(why);
    }
    if let Some(code) = why.strip_prefix(STATUS) {
        return (code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit())).then_some(why);
    }
    let begins = OF_NETWORK_PROBES.iter().any(|known| why.starts_with(known));
    let fault = FAULTS.iter().find(|fault| why.ends_with(**fault))?;
    begins.then_some(fault)
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
            news(&events, &ours, &mut told),
            ["Pod p: BackOff: m", "Pod p: Failed: m"]
        );
        assert_eq!(news(&events, &ours, &mut told), [] as [&str; 0]);
    }

    #[test]
    fn what_commands_in_a_container_print_is_not_told() {
        let table = [
            without_output("Unhealthy", "Readiness probe failed: no login with canary"),
            without_output(
                "Unhealthy",
                "Readiness probe failed: timeout expired: postgres://app:canary@db",
            ),
            without_output("Unhealthy", "Readiness probe failed: timeout: canary: i/o timeout"),
            without_output(
                "Unhealthy",
                "Readiness probe failed: Get \"http://10.1.2.3:80/ok\": dial tcp 10.1.2.3:80: connect: connection refused",
            ),
            without_output(
                "Unhealthy",
                "Liveness probe failed: HTTP probe failed with statuscode: 500",
            ),
            without_output("FailedPostStartHook", "message: \"canary\""),
            without_output(
                "FailedCreate",
                "Error creating: pods \"web-x\" is forbidden: no \"canary\"",
            ),
        ];
        insta::assert_snapshot!(table.join("\n"), @r##"
        Readiness probe failed (see what it said: kubectl get events)
        Readiness probe failed (see what it said: kubectl get events)
        Readiness probe failed: i/o timeout
        Readiness probe failed: connection refused
        Liveness probe failed: HTTP probe failed with statuscode: 500
        the command failed (see what it said: kubectl get events)
        Error creating: pods "web-x" is forbidden: no "***"
        "##);
    }
}
