//! Is a value worth hiding? One that is too short is refused; one that is an ordinary word is hidden, and people are
//! told what that does to their log. It tells them no more than the log itself does, where the word is missing.

/// Values that programs print all the time, in small letters.
const ORDINARY: &[&str] = &[
    "true",
    "false",
    "null",
    "none",
    "test",
    "tests",
    "prod",
    "production",
    "staging",
    "stage",
    "development",
    "default",
    "latest",
    "main",
    "master",
    "admin",
    "administrator",
    "root",
    "user",
    "username",
    "guest",
    "public",
    "private",
    "password",
    "passwd",
    "secret",
    "token",
    "changeme",
    "change-me",
    "example",
    "localhost",
    "127.0.0.1",
    "0.0.0.0",
    "http",
    "https",
    "debug",
    "info",
    "warn",
    "warning",
    "error",
    "enabled",
    "disabled",
    "postgres",
    "postgresql",
    "mysql",
    "redis",
    "name",
    "value",
    "key1",
    "1234",
    "12345",
    "123456",
    "12345678",
    "0000",
    "8080",
    "8443",
    "5432",
    "3306",
    "6379",
    "deploy",
    "deployment",
    "service",
    "task",
    "step",
];

/// What names in journals are made of whatever the task is about: kinds, groups and versions of Kubernetes, parts of
/// ARNs.
const OF_APIS: &[&str] = &[
    "ConfigMap",
    "ControllerRevision.apps",
    "CronJob.batch",
    "CustomResourceDefinition.apiextensions.k8s.io",
    "DaemonSet.apps",
    "Deployment.apps",
    "Endpoints",
    "EndpointSlice.discovery.k8s.io",
    "HorizontalPodAutoscaler.autoscaling",
    "Ingress.networking.k8s.io",
    "IngressClass.networking.k8s.io",
    "Job.batch",
    "LimitRange",
    "Namespace",
    "NetworkPolicy.networking.k8s.io",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "PodDisruptionBudget.policy",
    "PriorityClass.scheduling.k8s.io",
    "ReplicaSet.apps",
    "ResourceQuota",
    "Role.rbac.authorization.k8s.io",
    "RoleBinding.rbac.authorization.k8s.io",
    "ClusterRole.rbac.authorization.k8s.io",
    "ClusterRoleBinding.rbac.authorization.k8s.io",
    "Secret",
    "Service",
    "ServiceAccount",
    "StatefulSet.apps",
    "StorageClass.storage.k8s.io",
    "apps/v1",
    "batch/v1",
    "autoscaling/v2",
    "v1alpha1",
    "v1beta1",
    "apiVersion",
    "namespace",
    "deployments",
    "daemonsets",
    "statefulsets",
    "configmaps",
    "secrets",
    "services",
    "namespaces",
    "kube-system",
    "arn:aws:ecs:",
    "arn:aws:iam::",
    "amazonaws.com",
    "cluster/",
    "service/",
    "task-definition/",
    "ecs-svc/",
];

/// Is it an ordinary word, or of what names are made of anyway? Whoever reads it learns nothing about the secret that it
/// also is.
#[must_use]
pub fn is_word(value: &str) -> bool {
    is_ordinary(value.as_bytes()) || OF_APIS.iter().any(|text| text.contains(value))
}

/// Is it one of the words that ordinary output is made of?
pub(super) fn is_ordinary(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else {
        return false;
    };
    let text = text.trim().to_lowercase();
    ORDINARY.contains(&text.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_from_secrets() {
        assert!(is_word("apps") && is_word("Deployment.apps") && is_word("default") && !is_word("shop"));
        assert!(is_ordinary(b"Production\n") && is_ordinary(b"true"));
        assert!(!is_ordinary(b"correct horse") && !is_ordinary(b"\xff\xfe\xfd\xfc"));
    }
}
