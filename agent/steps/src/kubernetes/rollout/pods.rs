//! What pods say about why they do not run, and how certain that is.
//!
//! | what | certain |
//! |---|---|
//! | image name not valid, image never pulled by policy | at once |
//! | image pull refused in words that will not change (not found, denied) | at once |
//! | image pull failing otherwise | after 20 s: a registry may recover |
//! | container configuration (a missing ConfigMap, Secret or key), container cannot be created | after 10 s |
//! | crash loop: waiting in `CrashLoopBackOff`, or ended badly, with at least 2 restarts | at once |
//! | unschedulable, an autoscaler says it cannot help | at once |
//! | unschedulable, an autoscaler is bringing a node | never by itself |
//! | unschedulable otherwise | after 30 s: longer than an autoscaler takes to say something |
//!
//! Only pods of the revision being rolled out are looked at: an old one's trouble is not this deployment's.

use std::time::Duration;

use deputy_task::outcome::Failure;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Event, Pod};

use super::super::echo::said;
use super::assessment::Problem;

/// Restarts after which a container that keeps ending counts as a crash loop.
pub(crate) const CRASH_LOOP_RESTARTS: i32 = 2;

const AT_ONCE: Duration = Duration::ZERO;
const PULL_GRACE: Duration = Duration::from_secs(20);
const CONFIG_GRACE: Duration = Duration::from_secs(10);
const SCHEDULE_GRACE: Duration = Duration::from_secs(30);

/// Words of a registry or runtime after which no retry helps.
const FINAL_PULL_WORDS: [&str; 10] = [
    "not found",
    "manifest unknown",
    "manifest for",
    "name unknown",
    "does not exist",
    "no such image",
    "pull access denied",
    "denied:",
    "unauthorized",
    "no match for platform",
];

/// Why `pods` do not run. `events` may be those of a whole namespace.
pub(crate) fn problems(pods: &[&Pod], events: &[Event]) -> Vec<Problem> {
    pods.iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .flat_map(|pod| of_pod(pod, events))
        .collect()
}

fn of_pod(pod: &Pod, events: &[Event]) -> Vec<Problem> {
    let Some(status) = &pod.status else { return Vec::new() };
    let init = status.init_container_statuses.iter().flatten();
    let mut found: Vec<Problem> = init
        .chain(status.container_statuses.iter().flatten())
        .filter_map(|container| of_container(pod, container))
        .collect();
    found.extend(unschedulable(pod, events));
    found
}

fn of_container(pod: &Pod, container: &ContainerStatus) -> Option<Problem> {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting
        .and_then(|waiting| waiting.reason.as_deref())
        .unwrap_or_default();
    let message = waiting
        .and_then(|waiting| waiting.message.as_deref())
        .unwrap_or_default();
    let image = &container.image;
    let place = format!("container {} of pod {}", container.name, name_of(pod));
    let problem = |class: &str, grace, summary: String, hint: &str| {
        let key = format!("{reason}/{}/{}", name_of(pod), container.name);
        Some(Problem {
            key,
            grace,
            failure: Failure::new(class, summary).hint(hint),
        })
    };
    match reason {
        "InvalidImageName" => problem(
            "kubernetes.image",
            AT_ONCE,
            format!("{place}: {image} is not a valid image name"),
            "correct the image in the manifest",
        ),
        "ErrImageNeverPull" => problem(
            "kubernetes.image",
            AT_ONCE,
            format!("{place}: image {image} is not on the node, and imagePullPolicy is Never"),
            "set another imagePullPolicy",
        ),
        "ErrImagePull" | "ImagePullBackOff" | "ImageInspectError" | "RegistryUnavailable" => {
            let lower = message.to_lowercase();
            let last = FINAL_PULL_WORDS.iter().any(|words| lower.contains(words));
            let grace = if last { AT_ONCE } else { PULL_GRACE };
            let summary = format!("{place}: image {image} cannot be pulled{}", words(reason, message));
            problem(
                "kubernetes.imagePull",
                grace,
                summary,
                "check that the image and tag exist, and that the nodes may pull it",
            )
        }
        "CreateContainerConfigError" => problem(
            "kubernetes.containerConfig",
            CONFIG_GRACE,
            format!("{place} cannot be configured{}", words(reason, message)),
            "a ConfigMap, Secret or key that the pod refers to is missing",
        ),
        "CreateContainerError" | "RunContainerError" | "PreCreateHookError" | "PostStartHookError" => problem(
            "kubernetes.containerStart",
            CONFIG_GRACE,
            // Of a hook the kubelet says which command it was and what that printed.
            format!(
                "{place} cannot be started{}",
                words(reason, if reason == "PostStartHookError" { "" } else { message })
            ),
            "check the container's command, mounts and security context",
        ),
        "CrashLoopBackOff" if container.restart_count >= CRASH_LOOP_RESTARTS => problem(
            "kubernetes.crashLoop",
            AT_ONCE,
            format!("{place} crashes again and again: {}", how_it_ends(container)),
            "see what the container logged: kubectl logs --previous",
        ),
        "" if container.restart_count >= CRASH_LOOP_RESTARTS && ended_badly(container) => problem(
            "kubernetes.crashLoop",
            AT_ONCE,
            format!("{place} crashes again and again: {}", how_it_ends(container)),
            "see what the container logged: kubectl logs --previous",
        ),
        _ => None,
    }
}

/// Is it down right now, with an exit code?
fn ended_badly(container: &ContainerStatus) -> bool {
    let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    ended.is_some_and(|ended| ended.exit_code != 0)
}

fn how_it_ends(container: &ContainerStatus) -> String {
    let states = [container.last_state.as_ref(), container.state.as_ref()];
    let ended = states.into_iter().flatten().find_map(|state| state.terminated.as_ref());
    let restarts = format!("{} restarts", container.restart_count);
    match ended {
        Some(ended) => format!("{}, {restarts}", exit(ended)),
        None => restarts,
    }
}

fn exit(ended: &ContainerStateTerminated) -> String {
    let mut text = format!("exit code {}", ended.exit_code);
    if let Some(reason) = ended.reason.as_deref().filter(|reason| *reason != "Error") {
        text.push_str(&format!(" ({reason})"));
    }
    // Not its message: that is what the container wrote, or the end of its log.
    text
}

fn unschedulable(pod: &Pod, events: &[Event]) -> Option<Problem> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let condition = conditions.iter().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    })?;
    let of_this_pod =
        |event: &&Event| event.involved_object.uid.is_some() && event.involved_object.uid == pod.metadata.uid;
    let reasons: Vec<&str> = events
        .iter()
        .filter(of_this_pod)
        .filter_map(|event| event.reason.as_deref())
        .collect();
    // Cluster Autoscaler's and Karpenter's words for "a node is on its way".
    if reasons
        .iter()
        .any(|reason| matches!(*reason, "TriggeredScaleUp" | "Nominated"))
    {
        return None;
    }
    let grace = if reasons.contains(&"NotTriggerScaleUp") {
        AT_ONCE
    } else {
        SCHEDULE_GRACE
    };
    let message = said(condition.message.as_deref().unwrap_or("no node fits"));
    let summary = format!("pod {} fits on no node: {message}", name_of(pod));
    let failure = Failure::new("kubernetes.unschedulable", summary)
        .hint("ask for less, change node selectors or tolerations, or add nodes");
    Some(Problem {
        key: format!("Unschedulable/{}", name_of(pod)),
        grace,
        failure,
    })
}

fn words(reason: &str, message: &str) -> String {
    if message.is_empty() {
        format!(" ({reason})")
    } else {
        format!(" ({reason}): {}", said(message))
    }
}

fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("?")
}

/// What `pods` wait for, for the line that says what is awaited: `2 × ContainerCreating`.
pub(crate) fn awaited(pods: &[&Pod]) -> String {
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let Some(status) = &pod.status else { continue };
        let waiting = status
            .container_statuses
            .iter()
            .chain(&status.init_container_statuses)
            .flatten()
            .find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
        let ready = status
            .conditions
            .iter()
            .flatten()
            .any(|c| c.type_ == "Ready" && c.status == "True");
        let word = match (waiting, status.phase.as_deref()) {
            (Some(reason), _) if reason != "PodInitializing" => reason,
            (_, Some("Running")) if !ready => "not ready".into(),
            (_, Some("Pending")) => "Pending".into(),
            _ => continue,
        };
        *counts.entry(word).or_default() += 1;
    }
    counts
        .into_iter()
        .map(|(word, n)| format!("{n} × {word}"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::assessment::{Assessment, in_short};
    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-1", "uid": "u1"}, "status": status})).expect("pod")
    }

    fn told(status: Value, events: Value) -> String {
        let events: Vec<Event> = serde_json::from_value(events).expect("events");
        let pod = pod(status);
        in_short(&Assessment::waiting("x").with(problems(&[&pod], &events)))
            .replace("waiting for x", "")
            .trim()
            .to_owned()
    }

    fn waiting(reason: &str, message: &str, restarts: i32) -> Value {
        json!({"phase": "Pending", "containerStatuses": [{"name": "app", "image": "shop:9", "imageID": "", "ready": false,
            "restartCount": restarts, "state": {"waiting": {"reason": reason, "message": message}},
            "lastState": {"terminated": {"exitCode": 3, "reason": "Error", "message": "the password is canary\n"}}}]})
    }

    #[test]
    fn each_trouble_has_its_words_and_its_grace() {
        let oom = json!({"phase": "Running", "containerStatuses": [{"name": "app", "image": "shop:9", "imageID": "",
            "ready": false, "restartCount": 4, "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]});
        let unschedulable = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient cpu."}]});
        let event = |reason: &str| json!([{"metadata": {}, "reason": reason, "involvedObject": {"uid": "u1"}}]);
        let table = [
            told(waiting("ContainerCreating", "", 0), json!([])),
            told(waiting("InvalidImageName", "", 0), json!([])),
            told(
                waiting("ErrImagePull", "rpc error: code = NotFound: shop:9: not found", 0),
                json!([]),
            ),
            told(waiting("ImagePullBackOff", "Back-off pulling image", 0), json!([])),
            told(
                waiting("CreateContainerConfigError", "secret \"db\" not found", 0),
                json!([]),
            ),
            told(
                waiting(
                    "PostStartHookError",
                    "Exec lifecycle hook ([sh -c login canary]) for Container \"app\" in Pod \"web-1_shop(u1)\" failed - error: command 'login canary' exited with 1: , message: \"canary\"",
                    0,
                ),
                json!([]),
            ),
            told(waiting("CrashLoopBackOff", "back-off 10s", 1), json!([])),
            told(waiting("CrashLoopBackOff", "back-off 20s", 2), json!([])),
            told(oom, json!([])),
            told(unschedulable.clone(), json!([])),
            told(unschedulable.clone(), event("NotTriggerScaleUp")),
            told(unschedulable, event("TriggeredScaleUp")),
        ];
        insta::assert_snapshot!(table.map(|line| format!("- {line}")).join("\n"), @r##"
        - 
        - after 0 s (kubernetes.image): container app of pod web-1: shop:9 is not a valid image name
        - after 0 s (kubernetes.imagePull): container app of pod web-1: image shop:9 cannot be pulled (ErrImagePull): rpc error: code = NotFound: shop:9: not found
        - after 20 s (kubernetes.imagePull): container app of pod web-1: image shop:9 cannot be pulled (ImagePullBackOff): Back-off pulling image
        - after 10 s (kubernetes.containerConfig): container app of pod web-1 cannot be configured (CreateContainerConfigError): secret "db" not found
        - after 10 s (kubernetes.containerStart): container app of pod web-1 cannot be started (PostStartHookError)
        - 
        - after 0 s (kubernetes.crashLoop): container app of pod web-1 crashes again and again: exit code 3, 2 restarts
        - after 0 s (kubernetes.crashLoop): container app of pod web-1 crashes again and again: exit code 137 (OOMKilled), 4 restarts
        - after 30 s (kubernetes.unschedulable): pod web-1 fits on no node: 0/3 nodes are available: 3 Insufficient cpu.
        - after 0 s (kubernetes.unschedulable): pod web-1 fits on no node: 0/3 nodes are available: 3 Insufficient cpu.
        -
        "##);
    }

    #[test]
    fn a_pod_that_is_going_away_has_no_problems() {
        let mut going = pod(waiting("CrashLoopBackOff", "", 9));
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("time");
        assert_eq!(problems(&[&going], &[]), []);
        assert_eq!(awaited(&[&going]), "");
    }
}
