//! `--help` of every command, so that a change of words is a change that somebody sees.

use crate::transcript;

#[test]
fn help_teaches() {
    for command in [
        "",
        "submit",
        "validate",
        "get",
        "list",
        "logs",
        "watch",
        "cancel",
        "retry",
        "resolve",
        "explain",
        "fleet",
        "fleet join-rule create",
        "fleet join-token create",
        "fleet token create",
        "schema",
        "completion",
    ] {
        let arguments: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let name = if command.is_empty() {
            "deputy".to_owned()
        } else {
            command.replace(' ', "-")
        };
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(format!("help_{name}"), transcript(&arguments));
        });
    }
}
