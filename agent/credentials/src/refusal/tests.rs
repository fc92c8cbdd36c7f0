//! Every form of denial that AWS documents, in its own words.
//!
//! Unless a case names another page, the wording is that of the examples in the IAM User Guide, "Troubleshoot access
//! denied error messages" (<https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html>), with
//! our own action, user and resource.

use serde_json::json;

use super::*;

const WHO: &str = "arn:aws:iam::222222222222:role/deployer";
const USER: &str =
    "User: arn:aws:sts::222222222222:assumed-role/deployer/deputy-1 is not authorized to perform: ecs:UpdateService";
const ON: &str = "on resource: arn:aws:ecs:eu-west-1:222222222222:service/prod/checkout-api";

fn cases() -> Vec<(&'static str, String, Policy, bool)> {
    let no = |kind: &str| format!("{USER} {ON} because no {kind} allows the ecs:UpdateService action");
    let deny = |kind: &str| format!("{USER} {ON} with an explicit deny in {kind}");
    vec![
        ("identity, implicit", no("identity-based policy"), Policy::Identity, false),
        ("identity, explicit", deny("an identity-based policy"), Policy::Identity, true),
        (
            "identity, explicit, named",
            deny("an identity-based policy: arn:aws:iam::222222222222:policy/no-updates"),
            Policy::Identity,
            true,
        ),
        ("resource, implicit", no("resource-based policy"), Policy::Resource, false),
        ("resource, explicit", deny("a resource-based policy"), Policy::Resource, true),
        ("boundary, implicit", no("permissions boundary"), Policy::Boundary, false),
        ("boundary, explicit", deny("a permissions boundary"), Policy::Boundary, true),
        ("session, implicit", no("session policy"), Policy::Session, false),
        ("session, explicit", deny("a session policy"), Policy::Session, true),
        ("service control, implicit", no("service control policy"), Policy::ServiceControl, false),
        ("service control, explicit", deny("a service control policy"), Policy::ServiceControl, true),
        ("resource control, implicit", no("resource control policy"), Policy::ResourceControl, false),
        ("resource control, explicit", deny("a resource control policy"), Policy::ResourceControl, true),
        ("VPC endpoint, implicit", no("VPC endpoint policy"), Policy::VpcEndpoint, false),
        ("VPC endpoint, explicit", deny("a VPC endpoint policy"), Policy::VpcEndpoint, true),
        (
            "trust, implicit",
            "User: arn:aws:sts::000000000000:assumed-role/deputy-agent/x is not authorized to perform: sts:AssumeRole \
             on resource: arn:aws:iam::222222222222:role/deployer because no role trust policy allows the sts:AssumeRole action"
                .into(),
            Policy::Trust,
            false,
        ),
        (
            "trust, explicit",
            "User: arn:aws:sts::000000000000:assumed-role/deputy-agent/x is not authorized to perform: sts:AssumeRole \
             on resource: arn:aws:iam::222222222222:role/deployer with an explicit deny in the role trust policy"
                .into(),
            Policy::Trust,
            true,
        ),
        ("untold", format!("{USER} {ON}"), Policy::Untold, false),
        // re:Post, "How do I troubleshoot explicit deny error messages": https://repost.aws/knowledge-center/iam-explicit-deny-errors
        ("untold, explicit", format!("{USER} {ON} with an explicit deny"), Policy::Untold, true),
        // Amazon S3 User Guide: https://docs.aws.amazon.com/AmazonS3/latest/userguide/troubleshoot-403-errors.html
        ("bare", "Access Denied".into(), Policy::Untold, false),
        // Amazon EC2 User Guide: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/troubleshooting-iam.html
        (
            "encoded",
            "You are not authorized to perform this operation. Encoded authorization failure message: wXVwEXAMPLEwXVwEXAMPLE-denied-by-a-session-policy"
                .into(),
            Policy::Untold,
            false,
        ),
        // The resource's name is no reason.
        (
            "a name that sounds like a reason",
            format!("{USER} on resource: arn:aws:s3:::session-policy because no identity-based policy allows the action"),
            Policy::Identity,
            false,
        ),
    ]
}

#[test]
fn every_documented_form_is_recognized() {
    for (name, message, policy, explicit) in cases() {
        let refusal = Refusal::read(&message);
        assert_eq!(
            (refusal.policy, refusal.explicit),
            (policy, explicit),
            "{name}: {message}"
        );
    }
}

#[test]
fn every_form_has_a_verdict_and_something_to_change() {
    let told: Vec<String> = cases()
        .iter()
        .map(|(name, message, ..)| {
            let refusal = Refusal::read(message);
            let change = refusal.change(WHO, "ecs:UpdateService", "the service checkout-api");
            format!("{name}\n  {}\n  {change}", refusal.verdict())
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_decoded_message_fills_in_what_was_not_told() {
    let message = "You are not authorized to perform this operation. Encoded authorization failure message: wXVwEXAMPLEwXVwEXAMPLE (request 1)";
    assert_eq!(encoded(message), Some("wXVwEXAMPLEwXVwEXAMPLE"));
    assert_eq!(encoded("Access Denied"), None);
    // The shape of the decoded message: AWS STS API Reference, DecodeAuthorizationMessage.
    let decoded = json!({
        "allowed": false, "explicitDeny": true, "matchedStatements": { "items": [] }, "failures": { "items": [] },
        "context": { "principal": { "id": "AROAEXAMPLE:deputy-1", "arn": "arn:aws:sts::222222222222:assumed-role/deployer/deputy-1" },
            "action": "ec2:RunInstances", "resource": "arn:aws:ec2:eu-west-1:222222222222:instance/*", "conditions": { "items": [] } } });
    let refusal = Refusal::decoded(&decoded, &Refusal::read(message));
    assert_eq!(refusal.action.as_deref(), Some("ec2:RunInstances"));
    assert!(refusal.explicit && refusal.caller.is_some() && refusal.resource.is_some());
}

/// What a key says no to, in KMS's words and in those of services that use it for the caller.
///
/// Their sources, with our own user: AWS KMS Developer Guide, "Troubleshooting key access"
/// (<https://docs.aws.amazon.com/kms/latest/developerguide/policy-evaluation.html>); as seen in
/// <https://github.com/metaps/genova/issues/375> (ciphertext), <https://github.com/Droplr/aws-env/issues/29> (master key) and
/// <https://github.com/aws-samples/aws-secrets-manager-rotation-lambdas/issues/53> (Secrets Manager).
#[test]
fn a_key_that_is_not_let_use_is_told_as_a_key() {
    let user = "User: arn:aws:sts::222222222222:assumed-role/deployer/deputy-1 is not authorized to perform:";
    let or = "because the resource does not exist in this Region, no resource-based policies allow access, or a \
              resource-based policy explicitly denies access";
    let secret = ("secretsmanager:GetSecretValue", "the secret db");
    let parameter = ("ssm:GetParameter", "the parameter /db");
    let object = ("s3:GetObject", "the object app.tar of the bucket artefacts");
    let told: Vec<String> = [
        (format!("{user} kms:Decrypt on the resource associated with this ciphertext {or}"), parameter),
        (format!("{user} kms:Decrypt on this resource {or}"), object),
        (format!("{user} kms:Decrypt on resource: arn:aws:kms:eu-west-1:222222222222:key/1 {or}"), secret),
        (
            format!(
                "{user} kms:Decrypt on resource: arn:aws:kms:eu-west-1:222222222222:key/1 because no identity-based \
                 policy allows the kms:Decrypt action"
            ),
            secret,
        ),
        ("Access to KMS is not allowed".into(), secret),
        (
            "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are \
             not allowed to access."
                .into(),
            parameter,
        ),
    ]
    .iter()
    .map(|(message, asked)| {
        let failure = denied(&Refusal::read(message), WHO, "the agent's own identity", *asked);
        format!("{message}\n  {}\n  {}", failure.summary.replace('\n', " "), failure.hint)
    })
    .collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn what_is_no_name_is_taken_for_none() {
    let user =
        "User: arn:aws:sts::222222222222:assumed-role/deployer/deputy-1 is not authorized to perform: s3:GetObject";
    for (message, resource) in [
        (
            format!("{user} on resource: \"arn:aws:s3:::b/k\" because no identity-based policy allows it"),
            Some("arn:aws:s3:::b/k"),
        ),
        (
            format!("{user} on resource: * because no identity-based policy allows it"),
            Some("*"),
        ),
        (
            format!("{user} on resource: because no identity-based policy allows it"),
            None,
        ),
        (format!("{user} on resource: null with an explicit deny"), None),
        (format!("{user} on the resource that was asked for"), None),
        (format!("{user} on this resource"), None),
    ] {
        let refusal = Refusal::read(&message);
        assert_eq!(refusal.resource.as_deref(), resource, "{message}");
        assert_eq!(refusal.action.as_deref(), Some("s3:GetObject"), "{message}");
    }
}
