//! What both stores of AWS have in common: the region of an ARN, and versions that are gone.

use aws_config::{Region, SdkConfig};
use deputy_credentials::TaskIdentity;
use deputy_task::document::region_of_arn;
use deputy_task::outcome::Failure;

/// The configuration of a client for a name or an ARN, which may name another region than the task's. The client adds
/// its task's `.interceptor(identity.pace())`.
pub(super) fn in_region_of(identity: &TaskIdentity, id: &str) -> Result<SdkConfig, Failure> {
    let config = identity.sdk_config()?;
    let region = region_of_arn(id).map_err(|bad| {
        Failure::new(
            "secret.refused",
            format!("{bad}, and stands where an ARN has its region"),
        )
        .hint("correct the ARN of the secret")
    })?;
    Ok(match region.filter(|region| *region != identity.region()) {
        Some(region) => config.into_builder().region(Region::new(region.to_owned())).build(),
        None => config,
    })
}

/// The version that an earlier attempt has read does not exist any more.
pub(super) fn gone(on: &str, version: &str, detail: String) -> Failure {
    let failure = Failure::new(
        "secret.gone",
        format!("version {version} of {on}, which an earlier attempt of this run had read, does not exist any more"),
    );
    Failure { detail, ..failure }.hint("`deputy retry` begins a new run with the version that there is now")
}
