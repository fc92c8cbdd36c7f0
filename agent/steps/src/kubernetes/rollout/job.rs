//! When a Job is done, and when it has failed.

use deputy_task::outcome::Failure;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};

use super::super::echo::said;
use super::assessment::{Assessment, Problem};
use super::pods;

/// Looks once.
pub(crate) fn assess(job: &Job, all_pods: &[Pod], events: &[Event]) -> Assessment {
    let name = job.metadata.name.as_deref().unwrap_or("?");
    let status = job.status.clone().unwrap_or_default();
    let wanted = job.spec.as_ref().and_then(|spec| spec.completions).unwrap_or(1);
    let succeeded = status.succeeded.unwrap_or(0);
    if job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true) {
        return Assessment::steady("suspended", format!("Job {name}: suspended, so nothing is awaited"));
    }
    for condition in status
        .conditions
        .iter()
        .flatten()
        .filter(|condition| condition.status == "True")
    {
        match condition.type_.as_str() {
            "Complete" | "SuccessCriteriaMet" => {
                return Assessment::steady("complete", format!("Job {name}: {succeeded} of {wanted} completions"));
            }
            "Failed" | "FailureTarget" => {
                let reason = condition.reason.as_deref().unwrap_or("Failed");
                let message = said(condition.message.as_deref().unwrap_or("no message"));
                let failure = Failure::new(
                    "kubernetes.jobFailed",
                    format!("Job {name} failed ({reason}): {message}"),
                );
                return Assessment::failed(failure.hint(format!("see what it logged: kubectl logs job/{name}")));
            }
            _ => {}
        }
    }
    let pods: Vec<&Pod> = all_pods.iter().collect();
    // How often a Job may crash is its own backoffLimit's decision.
    let problems: Vec<Problem> = pods::problems(&pods, events)
        .into_iter()
        .filter(|problem| problem.failure.class != "kubernetes.crashLoop")
        .collect();
    let failed = status.failed.unwrap_or(0);
    let failures = if failed > 0 {
        format!(", {failed} failed pods")
    } else {
        String::new()
    };
    Assessment::waiting(format!("Job {name}: {succeeded} of {wanted} completions{failures}")).with(problems)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::assessment::in_short;
    use super::*;

    #[test]
    fn a_job_is_awaited_to_its_end() {
        let told = |spec: Value, status: Value| {
            let job: Job =
                serde_json::from_value(json!({"metadata": {"name": "migrate"}, "spec": spec, "status": status}))
                    .expect("job");
            in_short(&assess(&job, &[], &[]))
        };
        let spec = || json!({"template": {}});
        let condition = |kind: &str| {
            json!({"succeeded": 1, "conditions": [{"type": kind, "status": "True",
            "reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"}]})
        };
        let table = [
            told(spec(), json!({"active": 1, "failed": 2})),
            told(spec(), condition("Complete")),
            told(spec(), condition("Failed")),
            told(json!({"template": {}, "suspend": true}), json!({})),
        ];
        insta::assert_snapshot!(table.join("\n"), @r##"
        waiting for Job migrate: 0 of 1 completions, 2 failed pods
        steady at complete: Job migrate: 1 of 1 completions
        failed (kubernetes.jobFailed): Job migrate failed (BackoffLimitExceeded): Job has reached the specified backoff limit
        steady at suspended: Job migrate: suspended, so nothing is awaited
        "##);
    }
}
