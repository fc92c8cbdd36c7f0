//! STS's own public names. What others verify (a cluster, a manager) must be signed for them, whatever endpoint
//! we use ourselves.

/// `sts.eu-west-1.amazonaws.com`.
pub(crate) fn public_sts_host(region: &str) -> String {
    format!("sts.{region}.{}", dns_suffix(region))
}

/// What the public names of a region's services end with.
pub(crate) fn dns_suffix(region: &str) -> &'static str {
    if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    }
}
