//! What a sweep needs to know of a step kind: a world before, a document, and the world after.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use deputy_tests::cloud::Cloud;
use deputy_tests::proxy::recording::Call;
use deputy_tests::world::{Builder, World};
use serde_json::Value;

/// One life of a step kind: an update, a creation, an undo.
#[async_trait]
pub(crate) trait Scenario: Send + Sync {
    /// For the table, for example `update`.
    fn name(&self) -> &'static str;
    /// Only effects whose key contains this are swept; the others are another scenario's.
    fn swept(&self) -> &'static str;
    /// A world without agents.
    async fn world(&self, cloud: &Arc<Cloud>) -> Result<World>;
    /// Makes what is there before the task, under a name of the world's own, and gives that name.
    async fn prepare(&self, world: &World) -> Result<String>;
    /// The task for that target.
    fn document(&self, target: &str) -> String;
    /// The calls that changed the target, in order.
    async fn changes(&self, world: &World, target: &str) -> Result<Vec<Call>>;
    /// How often each kind of change succeeded, as the other side has it on record.
    async fn counts(&self, world: &World, target: &str) -> Result<BTreeMap<String, usize>>;
    /// Everything of the target that must be the same after every run, without what is new each time.
    async fn after(&self, world: &World, target: &str) -> Result<Value>;
    /// Where the service of [`Scenario::changes`] stands in a proxy's rules.
    async fn proxied<'w>(&self, world: &'w World) -> Result<&'w deputy_tests::proxy::relay::Proxy>;
}

/// A world whose manager notices losses within seconds.
pub(crate) fn quick(builder: Builder) -> Builder {
    builder.manager(|options| {
        options.heartbeat = std::time::Duration::from_millis(500);
        options.lease_ttl = std::time::Duration::from_secs(3);
        options.guard = std::time::Duration::from_millis(500);
    })
}

/// `name` out of every text, so that worlds of different targets can be compared.
pub(crate) fn without_name(value: Value, name: &str) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace(name, "NAME")),
        Value::Array(items) => items.into_iter().map(|item| without_name(item, name)).collect(),
        Value::Object(entries) => entries
            .into_iter()
            .map(|(key, item)| (key.replace(name, "NAME"), without_name(item, name)))
            .collect(),
        other => other,
    }
}
