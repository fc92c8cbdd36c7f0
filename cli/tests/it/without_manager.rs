//! What happens where no manager is: words and exit codes.

use crate::{deputy, transcript};

#[test]
fn a_manager_that_is_not_there_is_said_at_once() {
    // Port 1 is never bound by an unprivileged program.
    insta::assert_snapshot!(transcript(&["list", "--manager", "http://127.0.0.1:1"]), @r##"
    error: cannot reach the manager at http://127.0.0.1:1
      caused by: cannot connect to 127.0.0.1:1: Connection refused (os error 111)
    hint: is it running? its address is given with --manager or DEPUTY_MANAGER
    exit code 3
    "##);
}

#[test]
fn nothing_is_sent_over_a_network_without_tls() {
    insta::assert_snapshot!(transcript(&["list", "--manager", "http://deputy.example.com:7443"]), @r##"
    error: the manager's address http://deputy.example.com:7443 cannot be used
      caused by: deputy.example.com:7443 is not a loopback address, and without TLS nothing else is dialled: begin it with https://
    hint: for example https://manager.example.com:7443
    exit code 2
    "##);
}

#[test]
fn with_tls_the_command_has_to_know_whom_to_believe() {
    insta::assert_snapshot!(transcript(&["list", "--manager", "https://deputy.example.com:7443"]), @r##"
    error: there is no authority to check the manager at https://deputy.example.com:7443 with
    hint: give its ca.pem with --ca-file or DEPUTY_CA_FILE; the manager writes it into its data folder
    exit code 2
    "##);
    insta::assert_snapshot!(transcript(&["list", "--ca-sha256", "ab"]), @r##"
    error: --ca-sha256 cannot be used
      caused by: "ab" is no SHA-256: 64 hexadecimal digits, with or without colons
    exit code 2
    "##);
}

#[test]
fn a_bad_document_is_not_submitted() {
    let text = transcript(&["submit", "tests/bad/two-kinds.yaml", "--manager", "http://127.0.0.1:1"]);
    assert!(
        text.contains("the task document has") && text.ends_with("exit code 2\n"),
        "{text}"
    );
    insta::assert_snapshot!(transcript(&["submit", "examples/ecs-rolling.yaml", "--input", "image"]), @r##"
    error: `--input image` has no `=`
    hint: write it as --input name=value
    exit code 2
    "##);
    insta::assert_snapshot!(transcript(&["submit", "examples/ecs-rolling.yaml", "--input", "imgae=api:1"]), @r##"
    error: there is no input `imgae`
      --> examples/ecs-rolling.yaml
      = hint: did you mean `image`?

    error: the input `image` is required and was not given
       --> examples/ecs-rolling.yaml:11:5  (spec.inputs.image)
       |
    11 |     image:
       |     ^^^^^
      = hint: add `--input image=…`

    error: the task document has 2 errors; nothing was submitted
    exit code 2
    "##);
    insta::assert_snapshot!(transcript(&["submit", "nowhere.yaml"]), @r##"
    error: cannot read nowhere.yaml
      caused by: No such file or directory (os error 2)
    exit code 2
    "##);
}

#[test]
fn completions_and_schema_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let text = transcript(&["completion", shell]);
        assert!(text.contains("deputy") && text.ends_with("exit code 0\n"));
    }
    assert!(transcript(&["schema"]).contains("ecsRollingDeploy"));
}

/// The one line of standard error, and the exit code.
fn error(arguments: &[&str]) -> (serde_json::Value, Option<i32>) {
    let output = deputy(arguments);
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    (serde_json::from_str(&text).expect("JSON"), output.status.code())
}

#[test]
fn programs_get_every_error_as_one_object() {
    for (arguments, class, code) in [
        (
            &["list", "-o", "json", "--manager", "http://127.0.0.1:1"][..],
            "unreachable",
            3,
        ),
        (&["list", "-o", "json", "--manager", "ftp://x"], "input", 2),
        (&["submit", "nowhere.yaml", "--output=json"], "input", 2),
        (&["lst", "-o", "json"], "usage", 2),
        (&["list", "--limit", "many", "-ojson"], "usage", 2),
        (&["submit", "-o", "json"], "usage", 2),
        (&["submit", "tests/bad/two-kinds.yaml", "-o", "json"], "document", 2),
        (&["validate", "tests/bad/two-kinds.yaml", "-o", "json"], "document", 2),
    ] {
        let (error, exit) = error(arguments);
        assert_eq!(
            (&error["class"], &error["exitCode"], exit),
            (&class.into(), &code.into(), Some(code)),
            "{arguments:?}: {error}"
        );
        assert!(
            error["message"].as_str().is_some_and(|text| !text.is_empty()),
            "{error}"
        );
    }
    let (usage, _) = error(&["lst", "-o", "json"]);
    insta::assert_snapshot!(format!("{usage:#}"), @r#"
    {
      "class": "usage",
      "message": "unrecognized subcommand 'lst'",
      "causes": [],
      "hint": "a similar subcommand exists: 'list'",
      "exitCode": 2,
      "diagnostics": []
    }
    "#);
}

#[test]
fn programs_get_the_places_of_a_bad_document_with_the_error() {
    for command in ["submit", "validate"] {
        let (error, _) = error(&[command, "tests/bad/misspelt-keys.yaml", "-o", "json"]);
        let first = &error["diagnostics"][0];
        assert_eq!(first["file"], "tests/bad/misspelt-keys.yaml");
        assert_eq!(
            (&first["line"], &first["column"], &first["key"], &first["suggestion"]),
            (
                &5.into(),
                &3.into(),
                &"metadata.lables".into(),
                &"did you mean `labels`?".into()
            )
        );
    }
}

#[test]
fn a_file_without_an_end_is_too_large_a_document() {
    for command in ["submit", "validate"] {
        let text = transcript(&[command, "/dev/zero"]);
        assert!(text.contains("error: the document is too large"), "{text}");
        assert!(text.ends_with("exit code 2\n"), "{text}");
    }
}

#[test]
fn without_json_a_wrong_command_line_is_told_to_people() {
    let text = transcript(&["lst"]);
    assert!(text.starts_with("error: ") && text.ends_with("exit code 2\n"), "{text}");
}
