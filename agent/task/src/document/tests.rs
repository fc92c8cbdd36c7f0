//! Whole documents through the reader: good ones, inputs, hostile ones.

use proptest::prelude::*;
use serde_json::json;

use super::model::Inputs;
use super::{Diagnostics, ReadDocument, StepKind, from_canonical, read, schema_text, to_canonical, validate};

fn inputs(value: serde_json::Value) -> Inputs {
    value.as_object().cloned().unwrap_or_default()
}

fn read_text(text: &str, given: serde_json::Value) -> Result<ReadDocument, Diagnostics> {
    read("task.yaml", text.as_bytes(), &inputs(given))
}

fn task(spec: &str) -> String {
    format!("apiVersion: deputy.dev/v1\nkind: Task\nmetadata: {{ name: t }}\nspec:\n{spec}")
}

const ONE_STEP: &str = "  steps:\n    - { name: one, shell: { run: 'true' } }\n";

#[test]
fn every_example_is_good_and_survives_its_canonical_form() {
    for (name, text, given) in [
        (
            "shell",
            include_str!("../../../../examples/shell.yaml"),
            json!({ "greeting": "Servus" }),
        ),
        (
            "ecs",
            include_str!("../../../../examples/ecs-rolling.yaml"),
            json!({ "image": "api:1.2", "desiredCount": "3" }),
        ),
        ("secrets", include_str!("../../../../examples/secrets.yaml"), json!({})),
        (
            "eks",
            include_str!("../../../../examples/eks-rolling.yaml"),
            json!({ "image": "api:1.2" }),
        ),
    ] {
        let document = read_text(text, given).unwrap_or_else(|errors| panic!("{name}:\n{errors}"));
        assert!(document.warnings.is_empty(), "{name}: {:?}", document.warnings);
        let canonical = to_canonical(&document.checked).expect("canonical");
        assert_eq!(
            from_canonical(&canonical).expect("read back"),
            document.checked,
            "{name}"
        );
    }
}

#[test]
fn what_is_outside_the_steps_is_resolved_before_queueing() {
    let text = task(&format!(
        "  inputs:\n    region: {{ type: string }}\n    minutes: {{ type: number, default: 5 }}\n  exclusiveKey: x/${{{{ inputs.region }}}}/${{{{ task.name | upper }}}}\n  timeout: ${{{{ inputs.minutes }}}}m\n  aws:\n    region: ${{{{ inputs.region }}}}\n{ONE_STEP}"
    ));
    let spec = read_text(&text, json!({ "region": "eu-west-1" }))
        .expect("good")
        .checked
        .document
        .spec;
    assert_eq!(
        (spec.exclusive_key.as_str(), spec.timeout.as_str()),
        ("x/eu-west-1/T", "5m")
    );
    assert_eq!(spec.aws.expect("aws").region, "eu-west-1");
    insta::assert_snapshot!(read_text(&text, json!({ "region": "nowhere" })).expect_err("bad region"), @r##"
    error: `nowhere` is not the name of a region
       --> task.yaml:11:13  (spec.aws.region)
       |
    11 |     region: ${{ inputs.region }}
       |             ^^^^^^^^^^^^^^^^^^^^
      = hint: for example eu-west-1
    "##);
}

#[test]
fn keys_of_aws_are_refused_at_their_place() {
    let text = task(&format!(
        "  aws:\n    region: eu-west-1\n    accessKeyId: AKIA\n    aws_secret_access_key: x\n    assumeRole: [ {{ roleArn: 'arn:aws:iam::222222222222:role/x', sessionToken: y }} ]\n{ONE_STEP}"
    ));
    insta::assert_snapshot!(read_text(&text, json!({})).expect_err("keys"));
    let text = task(
        "  steps:\n    - { name: one, shell: { run: 'true', env: { AWS_SESSION_TOKEN: x, SESSION_TOKEN: y } } }\n",
    );
    insta::assert_snapshot!(read_text(&text, json!({})).expect_err("a key"));
}

/// Guards that an AWS key is taken nowhere in a document, nor in the values of its inputs, and that its line is told.
#[test]
fn keys_of_aws_are_refused_wherever_they_stand() {
    let text = task(
        r#"  aws: { region: eu-west-1 }
  inputs:
    key: { type: string, default: AKIAQ3EGR5D7TZ4WXY2A }
  steps:
    - name: script
      shell:
        run: |
          set -u
          export AWS_SECRET_ACCESS_KEY="q3Zk+f9/Tx1mW8bPxRfiCY0sVnLdHj27uKeAoG5t"
          aws s3 ls
        secrets: { AWS_ACCESS_KEY_ID: { awsSecretsManager: "prod/legacy#id" } }
    - name: ecs
      ecsRollingDeploy:
        cluster: prod
        service: api
        taskDefinition:
          family: api
          containerDefinitions:
            - name: app
              image: api:1
              memory: 64
              secrets: [ { name: AWS_SESSION_TOKEN, valueFrom: "arn:aws:ssm:eu-west-1:222222222222:parameter/token" } ]
              environment:
                - { name: AWS_ACCESS_KEY_ID, value: q3Zk+f9/Tx1mW8bPxRfiCY0sVnLdHj27uKeAoG5t }
    - name: apply
      kubernetesApply:
        cluster: prod
        manifests:
          - apiVersion: v1
            kind: Secret
            metadata: { name: keys }
            stringData: { AWS_SECRET_ACCESS_KEY: q3Zk+f9/Tx1mW8bPxRfiCY0sVnLdHj27uKeAoG5t, OTHER: anything }
"#,
    );
    let places = |refused: Diagnostics| {
        let places = refused.items.iter().map(|item| item.one_line("task.yaml"));
        places.collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(places(read_text(&text, json!({})).expect_err("refused")));
    assert!(validate("task.yaml", text.as_bytes()).is_err());
    let text = task(
        "  inputs: { object: { type: object }, AWS_SESSION_TOKEN: { type: string, default: '' } }\n  steps: [ { name: one, shell: { run: 'true' } } ]\n",
    );
    let given = json!({ "object": { "a": ["x AKIAQ3EGR5D7TZ4WXY2A"] }, "AWS_SESSION_TOKEN": "q3Zk+f9/Tx1mW8bPxRfiCY0sVnLdHj27uKeAoG5t" });
    insta::assert_snapshot!(places(read_text(&text, given).expect_err("refused")));
    read_text(&text, json!({ "object": { "a": ["x"] } })).expect("nothing of it is a key");
}

/// Guards that no variable of a document has a shell run anything but its script.
#[test]
fn variables_that_run_something_else_are_refused_at_their_line_and_key() {
    let text = task(
        r#"  steps:
    - name: a
      shell:
        run: ./release
        env:
          BASH_ENV: "$(id >&2)"
          PATH: /opt/tools:/usr/bin
          LD_PRELOAD: ./evil.so
          DEPUTY_OUTPUT: /tmp/x
        secrets:
          PS4: { file: a }
          SHELLOPTS: { as: file, file: a }
          DEPUTY_STEP: { file: a }
          TOKEN: { file: a }
"#,
    );
    let refused = read_text(&text, json!({})).expect_err("refused");
    insta::assert_snapshot!(refused);
    let many: String = (0..201).map(|number| format!(" A{number}: x,")).collect();
    let text = task(&format!(
        "  steps: [ {{ name: a, shell: {{ run: x, env: {{{many} }} }} }} ]\n"
    ));
    let told = read_text(&text, json!({})).expect_err("refused").to_string();
    assert!(told.contains("the step has 201 variables; at most 200"), "{told}");
}

#[test]
fn a_chain_may_begin_with_a_token_of_the_manager() {
    let oidc = |role: &str, duration: &str| {
        task(&format!(
            "  aws:\n    region: eu-west-1\n    oidc: {{ roleArn: '{role}' }}\n    assumeRole: [ {{ roleArn: 'arn:aws:iam::222222222222:role/x', duration: {duration} }} ]\n{ONE_STEP}"
        ))
    };
    let good = read_text(&oidc("arn:aws:iam::222222222222:role/first", "1h"), json!({})).expect("good");
    let aws = good.checked.document.spec.aws.expect("aws");
    assert_eq!(aws.oidc.expect("oidc").role_arn, "arn:aws:iam::222222222222:role/first");
    insta::assert_snapshot!(read_text(&oidc("first", "2h"), json!({})).expect_err("no role, and too long"));
}

/// Guards that nothing in a document leads to another host or object than the policy is asked about.
#[test]
fn names_that_lead_elsewhere_are_refused_at_their_line_and_key() {
    let text = task(
        r#"  aws: { region: eu-west-1 }
  sources:
    - { name: code, git: { url: "ssh://git%40evil.example%2F@git.example.com/x.git", ref: { branch: main } } }
  steps:
    - name: a
      kubernetesApply:
        cluster: prod
        namespace: kube-system/secrets/admin?
        manifests:
          - { apiVersion: v1, kind: ConfigMap, metadata: { name: "a/b", namespace: "a#" } }
    - name: b
      shell:
        run: "true"
        secrets:
          S: { kubernetesSecret: { cluster: prod, namespace: "..", name: "x?y", key: k } }
          T: { kubernetesSecret: { cluster: prod, namespace: "${{ steps.a.outputs.n }}", name: good.name, key: k } }
"#,
    );
    let refused = read_text(&text, json!({})).expect_err("refused");
    let places: Vec<String> = refused.items.iter().map(|item| item.one_line("task.yaml")).collect();
    insta::assert_snapshot!(places.join("\n"), @r"
    task.yaml:7:33: the address of the repository has a % before its path, where names are written as they are
    task.yaml:12:20: `kube-system/secrets/admin?` cannot be the name of a namespace (at most 63 small letters, digits and `-`, with a letter or digit at both ends)
    task.yaml:14:66: `a/b` cannot be the name of a Kubernetes object (at most 253 visible characters without `/`, `%`, `?`, `#` and `\`, and not `.` or `..`)
    task.yaml:14:84: `a#` cannot be the name of a namespace (at most 63 small letters, digits and `-`, with a letter or digit at both ends)
    task.yaml:19:62: `..` cannot be the name of a namespace (at most 63 small letters, digits and `-`, with a letter or digit at both ends)
    task.yaml:19:74: `x?y` cannot be the name of a Secret (at most 253 small letters, digits, `-` and `.`, with a letter or digit at both ends and beside each `.`)
    ");
}

/// Guards that no output is shown because its name in the document cannot be that of any.
#[test]
fn what_cannot_name_a_secret_output_is_refused_at_its_line_and_key() {
    let text = task(
        r#"  inputs: { which: { type: string, default: key } }
  steps:
    - name: a
      shell:
        run: "true"
        secretOutputs: [token, "token ", "${{ inputs.which }}", db.password]
"#,
    );
    let refused = read_text(&text, json!({})).expect_err("refused");
    let places: Vec<String> = refused.items.iter().map(|item| item.one_line("task.yaml")).collect();
    insta::assert_snapshot!(places.join("\n"), @r"
    task.yaml:10:32: `token ` cannot be the name of an output (letters, digits, `_` and `-`, beginning with a letter or `_`, at most 128 of them)
    task.yaml:10:42: expressions are not evaluated here
    task.yaml:10:65: `db.password` cannot be the name of an output (letters, digits, `_` and `-`, beginning with a letter or `_`, at most 128 of them)
    ");
    let many = vec!["x"; 101].join(", ");
    let text = task(&format!(
        "  steps:\n    - {{ name: a, shell: {{ run: 'true', secretOutputs: [{many}] }} }}\n"
    ));
    let refused = read_text(&text, json!({})).expect_err("refused");
    let places: Vec<String> = refused.items.iter().map(|item| item.one_line("task.yaml")).collect();
    insta::assert_snapshot!(places.join("\n"), @"task.yaml:6:40: the step has 101 secret outputs; at most 100");
}

#[test]
fn yaml_of_old_does_not_surprise() {
    let text = task(
        "  steps:\n    - name: one\n      shell:\n        run: 'true'\n        env: { A: yes, B: on, C: 012345678901, D: 1:30, E: 0x1F, F: .5, G: 1_000, H: !!str 5, I: '~' }\n",
    );
    let StepKind::Shell(shell) = read_text(&text, json!({})).expect("good").checked.document.spec.steps[0]
        .kind
        .clone()
    else {
        panic!("a shell step")
    };
    let values: Vec<&str> = shell.env.values().map(String::as_str).collect();
    assert_eq!(
        values,
        ["yes", "on", "012345678901", "1:30", "0x1F", ".5", "1_000", "5", "~"]
    );
}

#[test]
fn json_is_read_with_tabs_and_escapes() {
    let text = "{\n\t\"apiVersion\": \"deputy.dev/v1\", \"kind\": \"Task\",\n\t\"metadata\": { \"name\": \"t\" },\n\t\"spec\": { \"steps\": [\n\t\t{ \"name\": \"one\", \"shell\": { \"run\": \"echo \\u00e9 \\/ \\\"x\\\" \\ud83d\\ude00\" } }\n\t] }\n}\n";
    let StepKind::Shell(shell) = read_text(text, json!({})).expect("good").checked.document.spec.steps[0]
        .kind
        .clone()
    else {
        panic!("a shell step")
    };
    assert_eq!(shell.run, "echo é / \"x\" 😀");
}

#[test]
fn aws_documents_come_out_in_the_spelling_of_the_api() {
    let text = task(
        "  aws: { region: eu-west-1 }\n  steps:\n    - name: one\n      ecsRollingDeploy:\n        cluster: c\n        service: s\n        taskDefinition:\n          Family: f\n          ContainerDefinitions: [ { Name: app, Image: i, NewThing: { Deep: 1 } } ]\n",
    );
    let document = read_text(&text, json!({})).expect("good");
    assert_eq!(document.warnings.len(), 1);
    let StepKind::EcsRollingDeploy(step) = &document.checked.document.spec.steps[0].kind else {
        panic!("an ECS step")
    };
    let expected =
        json!({ "family": "f", "containerDefinitions": [{ "name": "app", "image": "i", "NewThing": { "Deep": 1 } }] });
    assert_eq!(serde_json::Value::Object(step.task_definition.clone()), expected);
}

#[test]
fn given_inputs_are_checked_against_their_declarations() {
    let text = task(&format!(
        "  inputs:\n    image: {{ type: string, required: true, pattern: '[a-z]+:[0-9.]+' }}\n    count: {{ type: number, default: 2 }}\n    size: {{ type: string, allowedValues: [small, large] }}\n    flags: {{ type: object }}\n{ONE_STEP}"
    ));
    let good = read_text(
        &text,
        json!({ "image": "api:1.2", "count": "3", "flags": "{\"a\": [1]}" }),
    )
    .expect("good");
    assert_eq!(
        serde_json::Value::Object(good.checked.inputs),
        json!({ "image": "api:1.2", "count": 3, "flags": { "a": [1] } })
    );
    assert!(
        validate("task.yaml", text.as_bytes()).is_ok(),
        "values are not asked for when there are none"
    );
    let bad = read_text(
        &text,
        json!({ "imgae": "x", "count": "many", "size": "huge", "flags": 3 }),
    )
    .expect_err("bad");
    insta::assert_snapshot!(bad, @r##"
    error: there is no input `imgae`
      --> task.yaml
      = hint: did you mean `image`?

    error: the input `image` is required and was not given
      --> task.yaml:6:5  (spec.inputs.image)
      |
    6 |     image: { type: string, required: true, pattern: '[a-z]+:[0-9.]+' }
      |     ^^^^^
      = hint: add `--input image=…`

    error: the value given for the input `count` is "many", which is not a number
      --> task.yaml:7:5  (spec.inputs.count)
      |
    7 |     count: { type: number, default: 2 }
      |     ^^^^^

    error: the value given for the input `size` is "huge", which is not one of "small", "large"
      --> task.yaml:8:5  (spec.inputs.size)
      |
    8 |     size: { type: string, allowedValues: [small, large] }
      |     ^^^^

    error: the value given for the input `flags` is 3, which is not a list or a mapping
      --> task.yaml:9:5  (spec.inputs.flags)
      |
    9 |     flags: { type: object }
      |     ^^^^^
    "##);
    insta::assert_snapshot!(read_text(&text, json!({ "image": "api:1.2;rm" })).expect_err("bad"), @r##"
    error: the value given for the input `image` is "api:1.2;rm", which does not match the pattern [a-z]+:[0-9.]+
      --> task.yaml:6:5  (spec.inputs.image)
      |
    6 |     image: { type: string, required: true, pattern: '[a-z]+:[0-9.]+' }
      |     ^^^^^
    "##);
}

#[test]
fn ten_megabytes_are_refused_at_once() {
    let error = read("big.yaml", &vec![b'a'; 10_000_000], &Inputs::new()).expect_err("too big");
    insta::assert_snapshot!(error, @r##"
    error: the document is too large: at most 1048576 bytes (1 MiB) are read
      --> big.yaml
      = hint: put large files into a folder and name it in `spec.sources` as a bundle
    "##);
}

#[test]
fn a_megabyte_of_nesting_aliases_or_errors_is_refused() {
    let many_errors = format!(
        "apiVersion: deputy.dev/v1\nspec:\n{}",
        (0..40_000).map(|i| format!("  k{i}: 1\n")).collect::<String>()
    );
    let long_expression = task(&format!(
        "  exclusiveKey: \"{}\"\n{ONE_STEP}",
        "${{ inputs.x }} ".repeat(40_000)
    ));
    for text in [
        "[".repeat(1_000_000),
        "{a: ".repeat(200_000),
        "- ".repeat(500_000),
        "a: &a [*a]\n".into(),
        many_errors,
        long_expression,
        "? ".repeat(400_000),
        "&a ".repeat(300_000),
    ] {
        let errors = validate("bomb.yaml", text.as_bytes()).expect_err("refused");
        assert!(errors.items.len() <= 51);
    }
}

#[test]
fn an_expression_that_nests_by_the_thousand_is_an_error_with_its_place() {
    let when = format!("{}true", "!".repeat(4_000));
    let text = task(&format!(
        "  steps:\n    - name: one\n      when: \"{when}\"\n      shell: {{ run: 'true' }}\n"
    ));
    let errors = read_text(&text, json!({})).expect_err("too deep");
    let shown = errors.items.first().map(|error| error.one_line("task.yaml"));
    let shown = shown.expect("one").replace(&"!".repeat(100), "!<100>");
    insta::assert_snapshot!(shown, @"task.yaml:7:14: the expression `!<100>!!!!!!!!!!!!!!!!!!!!…` is nested deeper than 100 operators, filters and attributes");
}

#[test]
fn the_committed_schema_is_current() {
    let committed = include_str!("../../../../docs/task.schema.json");
    assert!(
        committed == schema_text(),
        "docs/task.schema.json is old: write what `deputy schema` prints into it"
    );
}

/// Bytes that come near to a document: pieces of good ones, glued at random.
fn near_documents() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "apiVersion: deputy.dev/v1\n",
        "kind: Task\n",
        "metadata:\n",
        "  name: x\n",
        "spec:\n",
        "  steps:\n",
        "    - name: a\n",
        "      shell:\n",
        "        run: |\n",
        "          echo ${{ inputs.a }}\n",
        "${{",
        "}}",
        "'",
        "\"",
        "\\",
        "*a",
        "&a ",
        "{",
        "}",
        "[",
        "]",
        ": ",
        "- ",
        "\t",
        "\n",
        "? ",
        "!!str ",
        "!x ",
        "%YAML 1.2\n",
        "---\n",
        "...\n",
        "<<: ",
        "|",
        ">",
        "#",
        "\u{feff}",
        "é",
        "😀",
        "\u{202e}",
        "\0",
        "\r",
        "  inputs: { a: { type: string, default: b } }\n",
        "  aws: { region: x }\n",
        "      when: steps.a.outputs.b\n",
        "~",
        "0x",
        "1e999",
        "-",
    ]);
    prop::collection::vec(pieces, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read("any", &bytes, &Inputs::new());
    }

    #[test]
    fn what_is_nearly_a_document_never_panics(bytes in near_documents()) {
        if let Err(errors) = read("near", &bytes, &Inputs::new()) {
            prop_assert!(errors.errors() > 0);
            let _ = errors.rendered(super::Paint::Ansi);
        }
    }
}

#[test]
fn a_backoff_is_one_strategy_with_numbers_that_can_be_waited_for() {
    let with = |backoff: &str| {
        task(&format!(
            "  aws:\n    region: eu-west-1\n    backoff: {backoff}\n{ONE_STEP}"
        ))
    };
    let good = read_text(&with("{ equalJitter: { baseDelayMs: 100, maxRetries: 7 } }"), json!({})).expect("good");
    let aws = good.checked.document.spec.aws.expect("aws");
    let delays = aws
        .backoff
        .and_then(|backoff| backoff.equal_jitter)
        .expect("equal jitter");
    assert_eq!(
        (delays.base_delay_ms, delays.max_delay_ms, delays.max_retries),
        (100, 20_000, 7)
    );
    let bad = [
        "{}",
        "{ fixedDelay: { baseDelayMs: 1 }, fullJitter: { baseDelayMs: 1 } }",
        "{ fullJiter: { baseDelayMs: 1 } }",
        "{ fullJitter: { baseDelayMs: 0, maxDelayMs: 60000, maxRetries: 21 } }",
        "{ fullJitter: { baseDelayMs: 500, maxDelayMs: 100 } }",
        "{ fixedDelay: { baseDelayMs: 1.5, delay: 3 } }",
        "{ fixedDelay: { maxRetries: many } }",
    ];
    let told: Vec<String> = bad
        .iter()
        .map(|backoff| read_text(&with(backoff), json!({})).expect_err("bad").to_string())
        .collect();
    insta::assert_snapshot!(told.join("\n----\n"));
}
