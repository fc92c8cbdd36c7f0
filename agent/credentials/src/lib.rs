//! Identities: ambient source, role chain, cache and refresh, per-task endpoint, EKS token, kubeconfig.

/// The AWS identity of one task. Cheap to clone. (Interface first; the rest follows.)
#[derive(Debug, Clone)]
pub struct TaskIdentity {}
