//! STS's own public names. What others verify (a cluster, a manager) must be signed for them, whatever endpoint
//! we use ourselves.

/// `sts.eu-west-1.amazonaws.com`.
pub(crate) fn public_sts_host(region: &str) -> String {
    let suffix = if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    };
    format!("sts.{region}.{suffix}")
}
