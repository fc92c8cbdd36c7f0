//! A task document from a stranger: it is read or refused in words, and what was read survives its canonical form.
#![no_main]

use deputy_task::document::origin::GitSource;
use deputy_task::document::{Inputs, Paint, SourceKind, from_canonical, read, to_canonical, validate};
use deputy_task::json::Bound;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    is_counted(bytes);
    if let Err(diagnostics) = validate("task.yaml", bytes) {
        assert!(diagnostics.errors() > 0, "refused without a reason");
        drop(diagnostics.rendered(Paint::Plain));
    }
    match read("task.yaml", bytes, &Inputs::default()) {
        Ok(document) => {
            let canonical = to_canonical(&document.checked).expect("a checked document has a canonical form");
            let again = from_canonical(&canonical).expect("the canonical form can be read");
            assert_eq!(document.checked, again);
            for source in &again.document.spec.sources {
                if let SourceKind::Git(git) = &source.kind {
                    is_read_alike(git);
                }
            }
        }
        Err(diagnostics) => {
            assert!(diagnostics.errors() > 0, "refused without a reason");
            let text = diagnostics.rendered(Paint::Plain);
            assert!(!text.contains("this is a fault of Deputy"), "{text}");
        }
    }
});

/// No more is built of a text than was counted in it: of keys that stand there twice, a reader keeps one.
fn is_counted(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    let bound = Bound { values: usize::MAX, depth: 128 };
    let counted = bound.check(bytes).expect("a reader goes no deeper");
    assert!(counted >= values(&value), "{counted}");
}

fn values(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(values).sum::<usize>(),
        Value::Object(entries) => 1 + entries.values().map(values).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

/// git unescapes an address and then takes it apart: it must come to the host that the policy is asked about.
fn is_read_alike(source: &GitSource) {
    let address = unescaped(source.url.as_bytes());
    let rest = address.splitn(2, |byte| *byte == b':').nth(1).expect("a scheme");
    let rest = rest.strip_prefix(b"//").expect("an authority");
    let authority = rest.split(|byte| *byte == b'/').next().expect("one");
    assert!(!authority.contains(&b'\\') && !authority.starts_with(b"-"), "{}", source.url);
    let mut parts = authority.split(|byte| *byte == b'@');
    let (first, second) = (parts.next().expect("one"), parts.next());
    assert!(parts.next().is_none(), "{}", source.url);
    let place = String::from_utf8(second.unwrap_or(first).to_ascii_lowercase()).expect("text");
    let host = source.host();
    assert!(place == host || place == format!("{host}:443") || place == format!("{host}:22"), "{}", source.url);
}

fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let digits = text.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(escaped) if *byte == b'%' => {
                found.push(escaped);
                at += 3;
            }
            _ => {
                found.push(*byte);
                at += 1;
            }
        }
    }
    found
}
