//! What the rules of the examples permit, and what no rule can be made to permit.

use std::fmt::Write as _;

use deputy_task::document::Doubts;
use deputy_task::expression::Scope;
use deputy_task::record::Direction;
use deputy_task::touch::Touch;

use super::*;
use crate::question::{Said, SecretPlace, Wish};
use crate::questions::{Change, beforehand, of_change};

fn asking() -> Asking {
    Asking {
        agent: "agent-1".into(),
        pool: "production".into(),
        signer: None,
        said: Said {
            project: "shop".into(),
            task: "checkout".into(),
            submitter: "alice".into(),
        },
    }
}

fn example(name: &str) -> Policy {
    let path = format!("{}/../../examples/policies/{name}.cedar", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("an example");
    Policy::parse(&text).unwrap_or_else(|bad| panic!("{name}: {bad}"))
}

fn question(wish: Wish) -> Question {
    Question {
        step: "deploy".into(),
        doubt: None,
        wish,
    }
}

/// The names of the rules that permit, or why not.
fn answer(policy: &Policy, asking: &Asking, wish: Wish) -> String {
    match policy.decide(asking, &question(wish)) {
        Verdict::Permitted { by } => by.into_iter().map(|rule| rule.id).collect::<Vec<_>>().join(" "),
        Verdict::Denied(denial) => {
            let mut text = format!("{:?}", denial.reason);
            for rule in denial.by {
                let _ = write!(text, " {}", rule.id);
            }
            text
        }
    }
}

fn role(arn: &str) -> Wish {
    Wish::AssumeRole { role: arn.into() }
}

fn step(kind: &str) -> Wish {
    Wish::RunStep { kind: kind.into() }
}

fn image(image: &str) -> Wish {
    Wish::PullImage { image: image.into() }
}

fn namespace(cluster: &str, namespace: &str) -> Wish {
    Wish::UseNamespace {
        cluster: cluster.into(),
        namespace: namespace.into(),
        region: "eu-west-1".into(),
    }
}

#[test]
fn the_example_of_roles_permits_those_and_no_other() {
    let policy = example("roles");
    let ask = |wish| answer(&policy, &asking(), wish);
    assert_eq!(ask(role("arn:aws:iam::222222222222:role/deployer")), "deployer-roles");
    assert_eq!(ask(role("arn:aws:iam::222222222222:role/admin")), "NothingPermits");
    assert_eq!(
        ask(role("arn:aws:iam::444444444444:role/preview/pr-7")),
        "preview-roles"
    );
    assert_eq!(
        ask(role("arn:aws:iam::555555555555:role/preview/pr-7")),
        "NothingPermits"
    );
    assert_eq!(ask(Wish::UseAgentIdentity { kind: "shell".into() }), "NothingPermits");
    assert_eq!(ask(step("shell")), "steps");
}

/// Guards that what only the manager asserts does not come under a signer's permit, and that the denial says so.
#[test]
fn a_question_in_doubt_is_asked_as_if_nobody_had_signed() {
    let policy = Policy::parse("permit (principal == Signer::\"pipeline\", action, resource);").expect("a policy");
    let signed = Asking {
        signer: Some("pipeline".into()),
        ..asking()
    };
    let in_doubt = Question {
        doubt: Some("task.submitter is what only the manager says".into()),
        ..question(step("shell"))
    };
    assert!(matches!(
        policy.decide(&signed, &question(step("shell"))),
        Verdict::Permitted { .. }
    ));
    let failure = policy
        .admit(&signed, std::slice::from_ref(&in_doubt))
        .expect_err("denied");
    insta::assert_snapshot!(format!("{failure}\n{}", failure.hint), @r"
    the policy of agent agent-1 has no rule that permits running a shell step (step deploy)
    the signature does not count here: task.submitter is what only the manager says; change the task, or ask who keeps the agent's policy; `deputy-agent policy explain POLICY TASK` shows every question
    ");
    let by_context =
        Policy::parse("permit (principal, action, resource) when { context has signed };").expect("a policy");
    assert!(matches!(by_context.decide(&signed, &in_doubt), Verdict::Denied(_)));
    let anyone = Policy::parse("permit (principal is Unsigned, action, resource);").expect("a policy");
    assert!(matches!(anyone.decide(&signed, &in_doubt), Verdict::Permitted { .. }));
}

#[test]
fn the_example_without_shell_forbids_it_and_says_by_which_rule() {
    let policy = example("no-shell");
    assert_eq!(answer(&policy, &asking(), step("ecsRollingDeploy")), "everything");
    assert_eq!(answer(&policy, &asking(), step("shell")), "Forbidden no-shell");
    let failure = policy.admit(&asking(), &[question(step("shell"))]).expect_err("denied");
    insta::assert_snapshot!(format!("{failure}\n{}\n{}", failure.hint, failure.detail), @r#"
    the policy of agent agent-1 forbids running a shell step (step deploy): no-shell (line 6)
    change the task, or ask who keeps the agent's policy; `deputy-agent policy explain POLICY TASK` shows every question
    @id("no-shell") forbid (principal, action == Action::"runStep", resource) when { resource.opaque };
    "#);
}

#[test]
fn the_example_of_namespaces_keeps_to_one_team_in_one_cluster() {
    let policy = example("namespaces");
    let ask = |wish| answer(&policy, &asking(), wish);
    assert_eq!(ask(namespace("production", "payments")), "payments");
    assert_eq!(ask(namespace("production", "payments-eu")), "payments");
    assert_eq!(ask(namespace("production", "kube-system")), "NothingPermits");
    assert_eq!(ask(namespace("staging", "payments")), "NothingPermits");
    let scope = Wish::UseClusterScope {
        cluster: "production".into(),
        region: "eu-west-1".into(),
    };
    assert_eq!(ask(scope), "NothingPermits");
    assert_eq!(ask(step("kubernetesApply")), "kubernetes-steps");
    assert_eq!(ask(step("shell")), "NothingPermits");
}

#[test]
fn the_example_of_registries_knows_where_an_image_really_comes_from() {
    let policy = example("registries");
    let ask = |name| answer(&policy, &asking(), image(name));
    assert_eq!(
        ask("222222222222.dkr.ecr.eu-west-1.amazonaws.com/api:2"),
        "own-registries"
    );
    assert_eq!(ask("ghcr.io/acme/api:2"), "own-registries");
    assert_eq!(ask("ghcr.io/evil/api:2"), "NothingPermits");
    assert_eq!(ask("nginx:1.27"), "NothingPermits");
    assert_eq!(ask("nginx@sha256:00ff"), "pinned");
    assert_eq!(
        ask("evil/222222222222.dkr.ecr.eu-west-1.amazonaws.com/api:2"),
        "NothingPermits"
    );
}

#[test]
fn the_example_of_signers_asks_for_a_signature_and_lets_the_managers_word_only_take_away() {
    let policy = example("signers");
    let unsigned = asking();
    let signed = Asking {
        signer: Some("release-pipeline".into()),
        ..asking()
    };
    assert_eq!(answer(&policy, &signed, step("shell")), "released");
    assert_eq!(answer(&policy, &unsigned, step("shell")), "NothingPermits");
    let other = Asking {
        signer: Some("somebody".into()),
        ..asking()
    };
    assert_eq!(answer(&policy, &other, step("shell")), "NothingPermits");
    let mut sandbox = asking();
    sandbox.pool = "sandbox".into();
    assert_eq!(answer(&policy, &sandbox, step("shell")), "sandbox");
    sandbox.said.submitter = "mallory".into();
    assert_eq!(answer(&policy, &sandbox, step("shell")), "Forbidden not-mallory");
}

/// Guards that nothing that only the manager says can be made into a permit, however it is written.
#[test]
fn a_permit_that_needs_the_managers_word_does_not_count() {
    let only = Policy::parse(
        "@id(\"alice\") permit (principal, action, resource) when { context has asserted && context.asserted.submitter == \"alice\" };",
    )
    .expect("valid");
    assert_eq!(answer(&only, &asking(), step("shell")), "OnlyAsserted alice");
    assert!(
        only.notes()[0].contains("alice reads context.asserted"),
        "{:?}",
        only.notes()
    );
    // Two permits, one that holds only with the word and one only without: neither holds in both.
    let two = Policy::parse(
        "@id(\"with\") permit (principal, action, resource) when { context has asserted };\n@id(\"without\") permit (principal, action, resource) when { !(context has asserted) };",
    )
    .expect("valid");
    assert_eq!(answer(&two, &asking(), step("shell")), "OnlyAsserted with");
    // A permit that the word can only narrow counts.
    let narrowed = Policy::parse(
        "@id(\"all-but\") permit (principal, action, resource) unless { context has asserted && context.asserted.submitter == \"mallory\" };",
    )
    .expect("valid");
    assert_eq!(answer(&narrowed, &asking(), step("shell")), "all-but");
}

/// Guards that the manager cannot lift a forbid by what it says, however the forbid is written.
#[test]
fn no_word_of_the_manager_lifts_a_forbid() {
    for condition in [
        "unless { context has asserted && context.asserted.submitter == \"alice\" }",
        "unless { context has asserted.submitter && context.asserted.submitter == \"alice\" }",
        "unless { !!(context has asserted && context.asserted.submitter == \"alice\") }",
        "when { !(context has asserted && context.asserted.submitter == \"alice\") }",
        "when { if context has asserted then context.asserted.submitter != \"alice\" else true }",
        "when { (context has asserted && context.asserted.submitter == \"alice\") == false }",
    ] {
        let text = format!(
            "@id(\"all\") permit (principal, action, resource);\n@id(\"only-alice\") forbid (principal, action, resource) {condition};"
        );
        let policy = Policy::parse(&text).expect("valid");
        assert_eq!(
            answer(&policy, &asking(), step("shell")),
            "OnlyAsserted only-alice",
            "{condition}"
        );
        let mut other = asking();
        other.said.submitter = "bob".into();
        assert_eq!(
            answer(&policy, &other, step("shell")),
            "Forbidden only-alice",
            "{condition}"
        );
        let signed = Asking {
            signer: Some("pipeline".into()),
            ..asking()
        };
        assert_eq!(
            answer(&policy, &signed, step("shell")),
            "OnlyAsserted only-alice",
            "{condition}"
        );
        assert_eq!(
            policy.notes(),
            [
                "line 2: only-alice reads context.asserted: what it forbids without the manager's word stays forbidden, whatever the manager says"
            ],
            "{condition}"
        );
        let failure = policy.admit(&asking(), &[question(step("shell"))]).expect_err("denied");
        assert_eq!(
            format!("{failure}\n{}", failure.hint),
            "the policy of agent agent-1 permits running a shell step (step deploy) only on the manager's word, which does not suffice: only-alice (line 2)\n\
            sign the task, or write the rule without context.asserted"
        );
    }
}

/// Guards that a forbid by the manager's word still takes away, without a note.
#[test]
fn a_forbid_that_the_managers_word_brings_about_takes_away() {
    for condition in [
        "when { context has asserted && context.asserted.submitter != \"alice\" }",
        "when { context has asserted && !(context.asserted.submitter == \"alice\") }",
    ] {
        let text = format!(
            "@id(\"all\") permit (principal, action, resource);\n@id(\"others\") forbid (principal, action, resource) {condition};"
        );
        let policy = Policy::parse(&text).expect("valid");
        assert_eq!(answer(&policy, &asking(), step("shell")), "all", "{condition}");
        let mut other = asking();
        other.said.submitter = "bob".into();
        assert_eq!(
            answer(&policy, &other, step("shell")),
            "Forbidden others",
            "{condition}"
        );
        assert!(policy.notes().is_empty(), "{condition}: {:?}", policy.notes());
    }
}

#[test]
fn a_rule_that_cannot_be_evaluated_denies() {
    let overflowing = "permit (principal, action, resource);\nforbid (principal, action, resource) when { 9223372036854775807 + 1 > 0 };";
    let policy = Policy::parse(overflowing).expect("valid");
    let said = answer(&policy, &asking(), step("shell"));
    assert!(said.starts_with("Broken"), "{said}");
}

#[test]
fn mistakes_are_told_with_their_lines() {
    let told = |text: &str| Policy::parse(text).expect_err("bad").mistakes.join("\n");
    insta::assert_snapshot!(told("permit (principal, action, resource);\n\npermit (principal, action, resource"), @"line 3: unexpected end of input");
    let types = told(
        "permit (principal, action == Action::\"runShell\", resource);\npermit (principal, action == Action::\"assumeRole\", resource) when { resource.acount == \"2\" };",
    );
    // What Cedar thinks was meant differs from run to run.
    assert!(
        types.contains("line 1: unrecognized action `Action::\"runShell\"`"),
        "{types}"
    );
    assert!(
        types.contains("line 2: attribute `acount` on entity type `Role` not found"),
        "{types}"
    );
    insta::assert_snapshot!(told("permit (principal, action, resource) when { context.asserted.submitter == \"alice\" };"), @r#"line 1: unable to guarantee safety of access to optional attribute `asserted` in context for Action::"assumeRole"; try testing for the attribute's presence with `context has asserted && ..`"#);
    insta::assert_snapshot!(told("@id(\"a\") permit (principal, action, resource);\n@id(\"a\") permit (principal, action, resource);\npermit (principal == ?principal, action, resource);"), @r"
    templates (?principal, ?resource) have no meaning here
    line 2: there are two rules called a
    ");
    insta::assert_snapshot!(told("// nothing\n"), @"it has no rules, so nothing is permitted; write at least one permit");
}

#[test]
fn a_change_asks_for_everything_that_it_touches() {
    let touches = [
        Touch::EcsCluster("arn:aws:ecs:eu-west-1:222222222222:cluster/prod".into()),
        Touch::TaskDefinition("arn:aws:ecs:eu-west-1:222222222222:task-definition/evil:1".into()),
    ];
    let change = Change {
        step: "deploy",
        kind: "ecsRollingDeploy",
        effect: Some("updateService/checkout-api"),
        direction: Direction::Undo,
        adopted: true,
        touches: &touches,
        aws: None,
    };
    let questions = of_change(change);
    let policy = Policy::parse(
        r#"permit (principal, action, resource);
@id("own-definitions")
forbid (principal, action == Action::"effect", resource)
when { context has taskDefinition && !(context.taskDefinition like "*:task-definition/checkout-*") };
@id("own-cluster")
forbid (principal, action == Action::"useCluster", resource is EcsCluster)
unless { resource == EcsCluster::"prod" && resource has account && resource.account == "222222222222" };"#,
    )
    .expect("valid");
    let failure = policy.admit(&asking(), &questions).expect_err("denied");
    insta::assert_snapshot!(failure.to_string(), @"the policy of agent agent-1 forbids the change updateService checkout-api to arn:aws:ecs:eu-west-1:222222222222:task-definition/evil:1 to undo the task (step deploy): own-definitions (line 2)");
    assert_eq!(failure.class, DENIED);
}

#[test]
fn the_example_of_secrets_shows_none_to_a_stranger() {
    let policy = example("secrets");
    let ask = |wish| answer(&policy, &asking(), wish);
    let secret = |kind, name: &str, shown_to: &str| Wish::UseSecret {
        secret: SecretPlace {
            kind,
            name: name.into(),
            cluster: None,
            namespace: None,
        },
        shown_to: shown_to.into(),
    };
    let kubernetes = |namespace: &str| Wish::UseSecret {
        secret: SecretPlace {
            kind: "kubernetesSecret",
            name: "db".into(),
            cluster: Some("prod".into()),
            namespace: Some(namespace.into()),
        },
        shown_to: "script".into(),
    };
    let fetch = |kind, from: &str| Wish::FetchSource {
        kind,
        from: from.into(),
        url: format!("https://{from}/x"),
        key: None,
        reference: None,
    };
    assert_eq!(
        ask(secret("awsSecretsManager", "checkout/db", "script")),
        "team-secrets"
    );
    assert_eq!(ask(secret("file", "git/token", "git.example.com")), "git-token");
    assert_eq!(ask(kubernetes("checkout")), "team-secrets");
    assert_eq!(ask(fetch("git", "git.example.com")), "known-places");
    assert_eq!(ask(fetch("s3", "releases")), "known-places");
    assert_eq!(ask(step("shell")), "everything-else");
    for stranger in [
        secret("file", "git/token", "evil.example"),
        secret("file", "git/token", "script"),
        secret("awsSecretsManager", "checkout/db", "git.example.com"),
        secret("awsSecretsManager", "payments/db", "script"),
        kubernetes("kube-system"),
        fetch("git", "evil.example"),
        fetch("s3", "git.example.com"),
    ] {
        assert_eq!(ask(stranger.clone()), "NothingPermits", "{stranger:?}");
    }
}

/// Guards that a list of scripts cannot be got around by what a script is given: variables, secrets and the folder it
/// works in.
#[test]
fn the_example_of_scripts_bounds_what_they_are_given() {
    let policy = example("scripts");
    let unsigned = asking();
    let signed = Asking {
        signer: Some("release-pipeline".into()),
        ..asking()
    };
    let spec = |source: serde_json::Value, step: serde_json::Value| -> deputy_task::document::Spec {
        let step = serde_json::json!({"name": "main", "shell": step});
        serde_json::from_value(serde_json::json!({"sources": [source], "steps": [step]})).expect("a spec")
    };
    let released = serde_json::json!({"name": "code",
        "git": {"url": "https://git.example.com/shop/deploy.git", "ref": {"tag": "v7"}}});
    let bundle = serde_json::json!({"name": "code", "bundle": "./deploy"});
    let denied = |asking: &Asking, spec: &deputy_task::document::Spec| {
        let asked = beforehand(spec, &Scope::default(), &Doubts::default()).questions;
        let denied = asked
            .iter()
            .filter_map(|question| match policy.decide(asking, question) {
                Verdict::Permitted { .. } => None,
                Verdict::Denied(denial) => Some(denial.what),
            });
        denied.collect::<Vec<_>>().join("\n")
    };
    let step = |env: serde_json::Value| serde_json::json!({"run": "./deploy.sh", "env": env});
    let good = step(serde_json::json!({"VERSION": "7", "APP_COLOUR": "blue", "LOG_LEVEL": "debug"}));
    assert_eq!(denied(&unsigned, &spec(released.clone(), good.clone())), "");
    assert_eq!(denied(&signed, &spec(bundle.clone(), good.clone())), "");
    let other = serde_json::json!({"run": "./deploy.sh; id"});
    assert_eq!(
        denied(&unsigned, &spec(bundle, other)),
        "unpacking the bundle code of the task\nrunning a bash script (step main)"
    );
    let mut branch = released.clone();
    branch["git"]["ref"] = serde_json::json!({"branch": "v7"});
    assert_eq!(
        denied(&unsigned, &spec(branch, good)),
        "fetching a source from https://git.example.com/shop/deploy.git"
    );
    let bad = step(serde_json::json!({"PATH": "/tmp/evil:/bin", "LOG_LEVEL": "$(id)", "GIT_SSH_COMMAND": "id"}));
    assert_eq!(
        denied(&unsigned, &spec(released.clone(), bad)),
        "setting the variable GIT_SSH_COMMAND of a shell step (step main)\n\
        setting the variable LOG_LEVEL of a shell step (step main)\n\
        setting the variable PATH of a shell step (step main)"
    );
    let secret = serde_json::json!({"run": "./deploy.sh",
        "secrets": {"LOG_LEVEL": {"file": "a"}, "PYTHONPATH": {"as": "file", "file": "b"}, "APP_TOKEN": {"file": "c"}}});
    let told = denied(&unsigned, &spec(released, secret));
    for name in ["LOG_LEVEL", "PYTHONPATH"] {
        assert!(told.contains(&format!("setting the variable {name} of")), "{told}");
    }
    assert!(!told.contains("APP_TOKEN of"), "{told}");
}

#[test]
fn the_examples_bound_what_deployed_things_run_as() {
    let pass = |role: &str| answer(&example("roles"), &asking(), Wish::PassRole { role: role.into() });
    assert_eq!(
        pass("arn:aws:iam::222222222222:role/ecs-execution"),
        "application-roles"
    );
    assert_eq!(
        pass("arn:aws:iam::222222222222:role/application/checkout"),
        "application-roles"
    );
    for role in [
        "arn:aws:iam::222222222222:role/admin",
        "arn:aws:iam::333333333333:role/application/x",
        "admin",
    ] {
        assert_eq!(pass(role), "NothingPermits", "{role}");
    }
    assert!(
        !example("roles")
            .roles()
            .iter()
            .any(|role| role.ends_with("ecs-execution")),
        "it is not assumed"
    );
    let account = |namespace: &str, name: &str| {
        let wish = Wish::UseServiceAccount {
            cluster: "production".into(),
            namespace: namespace.into(),
            name: name.into(),
            region: "eu-west-1".into(),
        };
        answer(&example("namespaces"), &asking(), wish)
    };
    assert_eq!(account("payments", "api"), "payments-accounts");
    assert_eq!(account("kube-system", "api"), "NothingPermits");
    assert_eq!(account("payments", "cluster-admin"), "NothingPermits");
}
