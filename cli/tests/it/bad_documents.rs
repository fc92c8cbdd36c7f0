//! `deputy validate` on every document of `tests/bad`: the words, the places, the exit code.

use std::path::Path;

use crate::{deputy, transcript};

#[test]
fn every_bad_document_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut names: Vec<String> = std::fs::read_dir(root.join("tests/bad"))
        .expect("tests/bad")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    names.sort();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        let path = format!("tests/bad/{name}");
        let text = transcript(&["validate", &path]);
        assert!(text.ends_with("exit code 2\n"), "{name}: {text}");
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(format!("bad_{}", name.trim_end_matches(".yaml")), text);
        });
    }
}

#[test]
fn the_examples_are_good() {
    let text = transcript(&[
        "validate",
        "examples/shell.yaml",
        "examples/ecs-rolling.yaml",
        "examples/eks-rolling.yaml",
        "examples/secrets.yaml",
    ]);
    assert!(text.ends_with("all 4 documents are good\nexit code 0\n"), "{text}");
}

#[test]
fn programs_get_places_as_json() {
    let output = deputy(&["validate", "tests/bad/misspelt-keys.yaml", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let first = &json["files"][0]["diagnostics"][0];
    assert_eq!(
        (&first["line"], &first["column"], &first["path"]),
        (&5.into(), &3.into(), &"metadata.lables".into())
    );
    assert_eq!(first["hint"], "did you mean `labels`?");
}
