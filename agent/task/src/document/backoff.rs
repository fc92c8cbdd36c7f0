//! How often an AWS call is made again, and how long is waited before. Part of [`super::model::AwsSpec`];
//! the arithmetic is in the credentials crate.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest wait that a document may ask for: what the AWS SDKs wait at most themselves.
pub const MAX_DELAY_MS: u64 = 20_000;
/// Most retries that a document may ask for.
pub const MAX_RETRIES: u32 = 20;

/// How AWS calls that were throttled, or not answered, are made again. Exactly one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct BackoffSpec {
    /// Always `baseDelayMs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_delay: Option<Delays>,
    /// Half of a delay that doubles from `baseDelayMs` to `maxDelayMs`, and up to its other half by chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equal_jitter: Option<Delays>,
    /// By chance from nothing up to a delay that doubles from `baseDelayMs` to `maxDelayMs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_jitter: Option<Delays>,
}

/// Delays in milliseconds, and how many retries there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delays {
    /// The delay before the first retry, in milliseconds: 1 to 20000.
    #[schemars(range(min = 1, max = 20_000))]
    pub base_delay_ms: u64,
    /// No delay is longer, in milliseconds: `baseDelayMs` to 20000. Default 20000.
    #[serde(default = "default_max_delay")]
    #[schemars(range(min = 1, max = 20_000))]
    pub max_delay_ms: u64,
    /// How often a call is made again after the first time: 0 to 20. Default 5.
    #[serde(default = "default_retries")]
    #[schemars(range(min = 0, max = 20))]
    pub max_retries: u32,
}

fn default_max_delay() -> u64 {
    MAX_DELAY_MS
}

fn default_retries() -> u32 {
    5
}
