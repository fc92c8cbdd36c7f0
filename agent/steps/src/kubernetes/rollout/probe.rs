//! What a kubelet says of a probe, without what the container answered. A probe that is a command prints what it likes,
//! and the kubelet repeats it: whether a probe is one is told by the pod's spec, never by the words. Called by `event`.

use k8s_openapi::api::core::v1::{Container, Event, Pod, Probe};

/// What was wrong with a probe over the network, in words that every kubelet has.
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
/// The body follows.
const REDIRECTED: &str = "Probe terminated redirects";

/// How `pkg/kubelet/prober` ends, begins and goes on: `Readiness probe failed: …`, `… probe warning: …`,
/// `… probe errored and resulted in unknown state: …`.
const OUTCOMES: [&str; 3] = ["failed", "warning", "errored"];

/// What is told of an event about a probe; none if it is about something else.
pub(super) fn told(event: &Event, pods: &[Pod]) -> Option<String> {
    let is_of_probe = matches!(event.reason.as_deref(), Some("Unhealthy" | "ProbeWarning"));
    let message = event.message.as_deref().unwrap_or_default().trim();
    let words = message.split_once(" probe ").and_then(|(which, rest)| {
        let which = ["Readiness", "Liveness", "Startup"]
            .into_iter()
            .find(|known| *known == which)?;
        let outcome = OUTCOMES.into_iter().find(|outcome| rest.starts_with(outcome))?;
        Some((which, outcome, rest.split_once(": ").map_or("", |(_, why)| why)))
    });
    let Some((which, outcome, why)) = words else {
        return is_of_probe.then(|| "a probe failed (see what it said: kubectl get events)".into());
    };
    let fault = probe(event, pods, which)
        .filter(|probe| is_over_network(probe))
        .and(fault(why));
    Some(match fault {
        Some(fault) => format!("{which} probe {outcome}: {fault}"),
        None => format!("{which} probe {outcome} (see what it said: kubectl get events)"),
    })
}

fn fault(why: &str) -> Option<&str> {
    if why == UNHEALTHY {
        return Some(why);
    }
    if why.starts_with(REDIRECTED) {
        return Some(REDIRECTED);
    }
    if let Some(code) = why.strip_prefix(STATUS) {
        return (code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit())).then_some(why);
    }
    FAULTS.into_iter().find(|fault| why.ends_with(fault))
}

/// The probe that an event is about, by the spec of its pod. A pod's probes cannot change.
fn probe<'a>(event: &Event, pods: &'a [Pod], which: &str) -> Option<&'a Probe> {
    let object = &event.involved_object;
    let (_, container) = object.field_path.as_deref()?.split_once('{')?;
    let container = container.strip_suffix('}')?;
    let of_event = |pod: &&Pod| pod.metadata.uid.is_some() && pod.metadata.uid == object.uid;
    let spec = pods.iter().find(of_event)?.spec.as_ref()?;
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let container: &Container = containers.find(|one| one.name == container)?;
    match which {
        "Readiness" => container.readiness_probe.as_ref(),
        "Liveness" => container.liveness_probe.as_ref(),
        _ => container.startup_probe.as_ref(),
    }
}

fn is_over_network(probe: &Probe) -> bool {
    probe.exec.is_none() && (probe.http_get.is_some() || probe.tcp_socket.is_some() || probe.grpc.is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As `pkg/kubelet/prober` and `pkg/probe` write them.
    const SAID: [(&str, &str); 13] = [
        ("Unhealthy", "Readiness probe failed: no login with canary"),
        (
            "Unhealthy",
            "Readiness probe failed: timeout expired: postgres://app:canary@db",
        ),
        ("Unhealthy", "Readiness probe failed: timeout: canary: i/o timeout"),
        ("Unhealthy", "Readiness probe failed: EOF"),
        (
            "Unhealthy",
            "Readiness probe failed: dial tcp canary:80: connect: connection refused",
        ),
        (
            "Unhealthy",
            "Readiness probe failed: Get \"http://canary:80/ok\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
        ),
        (
            "Unhealthy",
            "Liveness probe failed: HTTP probe failed with statuscode: 500",
        ),
        (
            "Unhealthy",
            "Liveness probe failed: HTTP probe failed with statuscode: canary",
        ),
        (
            "ProbeWarning",
            "Readiness probe warning: Probe terminated redirects, Response body: canary",
        ),
        (
            "Unhealthy",
            "Startup probe errored and resulted in unknown state: rpc error: command timed out: \"sh -c canary\", stdout: canary",
        ),
        (
            "Unhealthy",
            "Startup probe failed: service unhealthy (responded with \"NOT_SERVING\")",
        ),
        ("Unhealthy", "canary"),
        ("Failed", "Error: ErrImagePull"),
    ];

    fn of(probe: &serde_json::Value) -> String {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [
            {"name": "other", "readinessProbe": {"httpGet": {"port": 80}}},
            {"name": "app", "readinessProbe": probe, "livenessProbe": probe, "startupProbe": probe}]}}))
        .expect("a pod");
        let told = SAID.map(|(reason, message)| {
            let event = json!({"metadata": {}, "reason": reason, "message": message,
                "involvedObject": {"uid": "u", "fieldPath": "spec.containers{app}"}});
            let event: Event = serde_json::from_value(event).expect("an event");
            told(&event, std::slice::from_ref(&pod)).unwrap_or_else(|| "of no probe".into())
        });
        told.join("\n")
    }

    #[test]
    fn nothing_that_a_container_answers_is_told_and_of_a_command_nothing_at_all() {
        let network = [
            json!({"httpGet": {"port": 80}}),
            json!({"tcpSocket": {"port": 80}}),
            json!({"grpc": {"port": 80}}),
        ]
        .map(|probe| of(&probe));
        assert!(network.iter().all(|told| *told == network[0]), "{network:?}");
        let commands = [json!({"exec": {"command": ["check"]}}), json!(null)].map(|probe| of(&probe));
        assert_eq!(commands[0], commands[1], "what is not known is taken for a command");
        insta::assert_snapshot!(format!("{}\n\n{}", network[0], commands[0]), @r##"
        Readiness probe failed (see what it said: kubectl get events)
        Readiness probe failed (see what it said: kubectl get events)
        Readiness probe failed: i/o timeout
        Readiness probe failed: EOF
        Readiness probe failed: connection refused
        Readiness probe failed: (Client.Timeout exceeded while awaiting headers)
        Liveness probe failed: HTTP probe failed with statuscode: 500
        Liveness probe failed (see what it said: kubectl get events)
        Readiness probe warning: Probe terminated redirects
        Startup probe errored (see what it said: kubectl get events)
        Startup probe failed: service unhealthy (responded with "NOT_SERVING")
        a probe failed (see what it said: kubectl get events)
        of no probe

        Readiness probe failed (see what it said: kubectl get events)
        Readiness probe failed (see what it said: kubectl get events)
        Readiness probe failed (see what it said: kubectl get events)
        Readiness probe failed (see what it said: kubectl get events)
        Readiness probe failed (see what it said: kubectl get events)
        Readiness probe failed (see what it said: kubectl get events)
        Liveness probe failed (see what it said: kubectl get events)
        Liveness probe failed (see what it said: kubectl get events)
        Readiness probe warning (see what it said: kubectl get events)
        Startup probe errored (see what it said: kubectl get events)
        Startup probe failed (see what it said: kubectl get events)
        a probe failed (see what it said: kubectl get events)
        of no probe
        "##);
    }
}
