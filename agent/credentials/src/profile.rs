//! A profile of the shared config files as the agent's own identity, only where the operator names one: keys, a role
//! chain by `source_profile`, IAM Identity Center (SSO) with the cached login, or a `credential_process`.

use aws_config::Region;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_runtime_api::client::http::SharedHttpClient;

/// What the AWS SDK makes of the profile; it reads the files when credentials are asked for.
pub(crate) fn provider(profile: &str, region: Option<&str>, http: SharedHttpClient) -> ProfileFileCredentialsProvider {
    let region = region.map(|region| Region::new(region.to_owned()));
    let config = ProviderConfig::empty()
        .with_http_client(http)
        .with_sleep_impl(TokioSleep::new())
        .with_region(region);
    ProfileFileCredentialsProvider::builder()
        .configure(&config)
        .profile_name(profile)
        .build()
}
