//! When a CustomResourceDefinition or a Namespace can be used.

use deputy_task::outcome::Failure;
use serde_json::Value;

use super::super::echo::said;
use super::assessment::Assessment;

/// Looks at a CustomResourceDefinition once.
pub(crate) fn assess_definition(definition: &Value) -> Assessment {
    let name = definition
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or("?");
    let conditions = definition.pointer("/status/conditions").and_then(Value::as_array);
    let condition = |kind: &str| {
        let found = conditions
            .into_iter()
            .flatten()
            .find(|c| c.get("type").and_then(Value::as_str) == Some(kind));
        found.map(|c| {
            let text = |key: &str| c.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            (text("status"), text("message"))
        })
    };
    if let Some((status, message)) = condition("NamesAccepted")
        && status == "False"
    {
        let summary = format!("CustomResourceDefinition {name} is not accepted: {}", said(&message));
        return Assessment::failed(
            Failure::new("kubernetes.names", summary).hint("another definition has these names already"),
        );
    }
    match condition("Established") {
        Some((status, _)) if status == "True" => {
            Assessment::steady("established", format!("CustomResourceDefinition {name}: established"))
        }
        _ => Assessment::waiting(format!("CustomResourceDefinition {name}: not established yet")),
    }
}

/// Looks at a Namespace once.
pub(crate) fn assess_namespace(namespace: &Value) -> Assessment {
    let name = namespace
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or("?");
    match namespace.pointer("/status/phase").and_then(Value::as_str) {
        Some("Active") => Assessment::steady("active", format!("Namespace {name}: active")),
        Some("Terminating") => Assessment::failed(
            Failure::new("kubernetes.terminating", format!("Namespace {name} is being deleted"))
                .hint("wait until it is gone, then retry the task"),
        ),
        _ => Assessment::waiting(format!("Namespace {name}: not active yet")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::assessment::in_short;
    use super::*;

    #[test]
    fn definitions_and_namespaces_are_awaited_until_they_can_be_used() {
        let definition = |conditions: Value| {
            in_short(&assess_definition(
                &json!({"metadata": {"name": "widgets.example.com"}, "status": {"conditions": conditions}}),
            ))
        };
        let namespace = |phase: &str| {
            in_short(&assess_namespace(
                &json!({"metadata": {"name": "shop"}, "status": {"phase": phase}}),
            ))
        };
        let table = [
            definition(json!([])),
            definition(json!([{"type": "Established", "status": "True"}])),
            definition(
                json!([{"type": "NamesAccepted", "status": "False", "message": "\"widgets\" is already in use"}]),
            ),
            namespace(""),
            namespace("Active"),
            namespace("Terminating"),
        ];
        insta::assert_snapshot!(table.join("\n"), @r##"
        waiting for CustomResourceDefinition widgets.example.com: not established yet
        steady at established: CustomResourceDefinition widgets.example.com: established
        failed (kubernetes.names): CustomResourceDefinition widgets.example.com is not accepted: "widgets" is already in use
        waiting for Namespace shop: not active yet
        steady at active: Namespace shop: active
        failed (kubernetes.terminating): Namespace shop is being deleted
        "##);
    }
}
