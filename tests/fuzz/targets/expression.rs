//! Expressions from a stranger, in a text, as a `when` and as a selector: bounded in steps, depth and result.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use deputy_task::expression::{
    AgentNames, MAX_RESULT_BYTES, Scope, StepNames, TaskNames, evaluate_bool, evaluate_selector, evaluate_text,
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

static SCOPE: LazyLock<Scope> = LazyLock::new(|| Scope {
    task: TaskNames {
        name: "checkout-api".into(),
        run: 1,
        ..TaskNames::default()
    },
    agent: AgentNames {
        id: "agent-1".into(),
        labels: BTreeMap::from([("env".into(), "prod".into())]),
    },
    inputs: object(
        json!({ "image": "registry/api:1.4.2", "count": 3, "list": [1, "two", null], "deep": { "a": { "b": true } } }),
    ),
    steps: BTreeMap::from([(
        "stage".into(),
        StepNames {
            outputs: object(json!({ "url": "https://stage.example.com", "arns": ["a", "b"] })),
        },
    )]),
});

fuzz_target!(|text: &str| {
    let result = evaluate_text(text, &SCOPE);
    assert_eq!(result, evaluate_text(text, &SCOPE), "evaluated again it is another");
    if !text.contains("${{") {
        assert_eq!(
            result.as_deref().ok(),
            Some(text),
            "what holds no expression is changed"
        );
    }
    if let Ok(result) = result {
        // Every expression of the text may come to so much, and has at least seven characters.
        assert!(result.len() <= text.len() + (text.len() / 7 + 1) * MAX_RESULT_BYTES);
    }
    drop(evaluate_bool(text, &SCOPE));
    drop(evaluate_selector(text, &SCOPE.agent.labels));
});
