//! Denials that the emulator cannot produce, replayed by microburst in the wording that AWS documents.
//!
//! Unless a case names another page: IAM User Guide, "Troubleshoot access denied error messages",
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html>.

use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::Cloud;
use deputy_tests::proxy::rule::{Canned, Matcher};
use deputy_tests::world::World;
use serde_json::{Value, json};

use crate::recipe;

const SOON: Duration = Duration::from_secs(90);

/// One denial: the end of AWS's message, and words that must be told.
struct Denial {
    name: &'static str,
    says: &'static str,
    verdict: &'static str,
    change: &'static str,
}

const DENIALS: [Denial; 10] = [
    Denial {
        name: "boundary",
        says: "because no permissions boundary allows the ecs:DescribeServices action",
        verdict: "no permissions boundary of the caller allows it",
        change: "in the permissions boundary of arn:aws:iam::222222222222:role/deployer",
    },
    Denial {
        name: "boundary-deny",
        says: "with an explicit deny in a permissions boundary",
        verdict: "the permissions boundary of the caller explicitly denies it",
        change: "remove or narrow the statement",
    },
    Denial {
        name: "session",
        says: "because no session policy allows the ecs:DescribeServices action",
        verdict: "no session policy allows it",
        change: "in the session policy",
    },
    Denial {
        name: "scp",
        says: "because no service control policy allows the ecs:DescribeServices action",
        verdict: "no service control policy allows it",
        change: "ask who administers the organization to allow ecs:DescribeServices for account 222222222222",
    },
    Denial {
        name: "scp-deny",
        says: "with an explicit deny in a service control policy",
        verdict: "a service control policy explicitly denies it",
        change: "to no longer deny ecs:DescribeServices",
    },
    Denial {
        name: "rcp",
        says: "with an explicit deny in a resource control policy",
        verdict: "a resource control policy explicitly denies it",
        change: "the organization that owns",
    },
    Denial {
        name: "endpoint",
        says: "because no VPC endpoint policy allows the ecs:DescribeServices action",
        verdict: "no VPC endpoint policy allows it",
        change: "in the policy of the VPC endpoint through which the agent reaches ecs",
    },
    Denial {
        name: "resource",
        says: "because no resource-based policy allows the ecs:DescribeServices action",
        verdict: "no policy of the resource allows it",
        change: "in the policy of arn:aws:ecs",
    },
    Denial {
        name: "identity-deny",
        says: "with an explicit deny in an identity-based policy: arn:aws:iam::222222222222:policy/no-looking",
        verdict: "an identity policy of the caller explicitly denies it (arn:aws:iam::222222222222:policy/no-looking)",
        change: "what allows it does not help",
    },
    // Across organizations AWS gives no reason.
    Denial {
        name: "untold",
        says: "",
        verdict: "AWS does not say which policy",
        change: "look at its permissions boundary",
    },
];

/// Encoded messages are those of EC2: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/troubleshooting-iam.html>.
const ENCODED: &str =
    "You are not authorized to perform this operation. Encoded authorization failure message: wXVwEXAMPLEwXVwEXAMPLE";

fn message(service: &str, says: &str) -> String {
    format!(
        "User: arn:aws:sts::222222222222:assumed-role/deployer/deputy-1 is not authorized to perform: ecs:DescribeServices \
         on resource: arn:aws:ecs:eu-west-1:222222222222:service/prod/{service} {says}"
    )
    .trim_end()
    .to_owned()
}

fn rule(service: &str, message: &str) -> Value {
    json!({ "service": "ecs", "operation": "DescribeServices", "body": format!("contains(services, '{service}')"),
        "error": { "code": "AccessDeniedException", "status": 400, "message": message } })
}

async fn world(rules: Vec<Value>) -> World {
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = World::builder()
        .cloud(&cloud)
        .faults(Value::Array(rules))
        .start()
        .await
        .expect("a world");
    world.agent(AgentOptions::default().slots(12)).await.expect("an agent");
    world
}

/// Guards that each kind of policy is named, with who was denied, by which chain the agent became it, and what to
/// change; and that AWS's own words follow.
#[tokio::test]
async fn every_kind_of_policy_that_denies_is_named_in_words() {
    let rules = DENIALS
        .iter()
        .map(|denial| rule(denial.name, &message(denial.name, denial.says)));
    let world = world(rules.collect()).await;
    let mut submitted = Vec::new();
    for denial in &DENIALS {
        let task = world
            .submit(&recipe::ecs_update(denial.name, ""))
            .await
            .expect("queued");
        submitted.push((task, denial));
    }
    for (task, denial) in &submitted {
        let (ended, failure) = recipe::failure(&world, task, SOON).await;
        let lines: Vec<&str> = failure.summary.lines().collect();
        let [who, what] = lines.as_slice() else {
            panic!("{}: two lines: {failure:#?}", denial.name)
        };
        let chain = "assumed-role/deployer/deputy-1, from the agent's own identity (";
        assert!(
            who.contains(chain) && who.contains("then arn:aws:iam::222222222222:role/deployer (session deputy-"),
            "{failure:#?}"
        );
        let asked = format!("may not ecs:DescribeServices on the service {}", denial.name);
        assert!(
            what.starts_with(&asked) && what.ends_with(denial.verdict),
            "{}: {failure:#?}",
            denial.name
        );
        assert!(failure.hint.contains(denial.change), "{}: {failure:#?}", denial.name);
        assert!(
            failure.detail.contains(&message(denial.name, denial.says)),
            "{failure:#?}"
        );
        assert_eq!(failure.class, "aws.accessDenied");
        assert_eq!(ended.result.map(|result| result.world()), Some(v1::World::Unchanged));
    }
}

/// Guards that an encoded message is decoded where the role may, and that its own denial is told where it may not.
#[tokio::test]
async fn an_encoded_message_is_decoded_where_the_role_may() {
    let refused = "User: arn:aws:sts::222222222222:assumed-role/deployer/deputy-1 is not authorized to perform: \
                   sts:DecodeAuthorizationMessage because no identity-based policy allows the sts:DecodeAuthorizationMessage action";
    let may_not = json!({ "service": "sts", "operation": "DecodeAuthorizationMessage",
        "error": { "code": "AccessDenied", "status": 403, "message": refused } });
    let world = world(vec![rule("encoded", ENCODED), may_not]).await;
    let task = world.submit(&recipe::ecs_update("encoded", "")).await.expect("queued");
    let (_, failure) = recipe::failure(&world, &task, SOON).await;
    assert!(
        failure.summary.contains("AWS does not say which policy"),
        "{failure:#?}"
    );
    let told = "the encoded message was not decoded (AccessDenied: User: arn:aws:sts::222222222222";
    assert!(failure.detail.contains(told), "{failure:#?}");
    assert!(
        failure.detail.contains("allow sts:DecodeAuthorizationMessage"),
        "{failure:#?}"
    );

    // The emulator does not know the call. The answer is the one that the STS API Reference documents:
    // https://docs.aws.amazon.com/STS/latest/APIReference/API_DecodeAuthorizationMessage.html
    let decoded = json!({ "allowed": false, "explicitDeny": true, "matchedStatements": { "items": [] },
        "context": { "principal": { "id": "AROAEXAMPLE:deputy-1", "arn": "arn:aws:sts::222222222222:assumed-role/deployer/deputy-1" },
            "action": "ec2:CreateNetworkInterface", "resource": "arn:aws:ec2:eu-west-1:222222222222:subnet/subnet-1" } });
    let escaped = decoded.to_string().replace('"', "&quot;");
    let body = format!(
        "<DecodeAuthorizationMessageResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><DecodeAuthorizationMessageResult>\
         <DecodedMessage>{escaped}</DecodedMessage></DecodeAuthorizationMessageResult></DecodeAuthorizationMessageResponse>"
    );
    let proxy = world.proxy().expect("a proxy");
    let asked = proxy.answer(Matcher::on("sts", "DecodeAuthorizationMessage"), Canned::xml(200, body));
    let task = world.submit(&recipe::ecs_update("encoded", "")).await.expect("queued");
    let (_, failure) = recipe::failure(&world, &task, SOON).await;
    assert_eq!(asked.count(), 1, "{}", world.report());
    let what = "may not ec2:CreateNetworkInterface on arn:aws:ec2:eu-west-1:222222222222:subnet/subnet-1: a policy explicitly denies it";
    assert!(failure.summary.contains(what), "{failure:#?}");
    assert!(
        failure.detail.contains("Encoded authorization failure message") && failure.detail.contains("decoded:"),
        "{failure:#?}"
    );
}

/// Guards that what keeps the agent from a role is told apart: the caller's own permission, the trust policy, and a
/// policy of the organization.
#[tokio::test]
async fn what_keeps_the_agent_from_a_role_is_told_apart() {
    let caller = "arn:aws:sts::000000000000:assumed-role/deputy-agent/ecs-task";
    let causes = [
        (
            "caller",
            "because no identity-based policy allows the sts:AssumeRole action",
            "caller's permission: no identity policy",
            "attach a policy to",
        ),
        (
            "trust",
            "because no role trust policy allows the sts:AssumeRole action",
            "trust policy: no trust policy of the role",
            "in the trust policy of",
        ),
        (
            "scp",
            "with an explicit deny in a service control policy",
            "a service control policy explicitly denies it",
            "account 000000000000",
        ),
        (
            "boundary",
            "because no permissions boundary allows the sts:AssumeRole action",
            "no permissions boundary of the caller",
            "in the permissions boundary of",
        ),
        (
            "either",
            "",
            "most likely the role's trust policy does not name the caller, or asks for another external id",
            "sts:ExternalId",
        ),
    ];
    let role = |name: &str| format!("arn:aws:iam::222222222222:role/{name}");
    let rules = causes.iter().map(|(name, says, ..)| {
        let message = format!(
            "User: {caller} is not authorized to perform: sts:AssumeRole on resource: {} {says}",
            role(name)
        );
        json!({ "service": "sts", "operation": "AssumeRole", "body": format!("RoleArn == '{}'", role(name)),
            "error": { "code": "AccessDenied", "status": 403, "message": message.trim_end() } })
    });
    let world = world(rules.collect()).await;
    let mut submitted = Vec::new();
    for cause in &causes {
        let aws = format!(
            "  aws:\n    region: eu-west-1\n    assumeRole: [ {{ roleArn: \"{}\", externalId: x1 }} ]\n",
            role(cause.0)
        );
        let document = recipe::script(cause.0, &aws, "cluster: prod", "true");
        submitted.push((world.submit(&document).await.expect("queued"), cause));
    }
    for (task, (name, _, verdict, change)) in &submitted {
        let (_, failure) = recipe::failure(&world, task, SOON).await;
        assert_eq!(failure.class, "aws.assumeRoleDenied", "{name}: {failure:#?}");
        assert!(failure.summary.contains(verdict), "{name}: {failure:#?}");
        assert!(failure.hint.contains(change), "{name}: {failure:#?}");
        assert!(
            failure
                .summary
                .contains(&format!("{caller}, from the agent's own identity (")),
            "{name}: {failure:#?}"
        );
    }
}

/// Guards that a denial on the way back is explained like one on the way forward: this is when a person has to repair.
#[tokio::test]
async fn a_denial_while_undoing_says_what_to_change_and_the_raw_message_is_in_the_log() {
    let says = "User: arn:aws:sts::222222222222:assumed-role/deployer/deputy-1 is not authorized to perform: ecs:UpdateService \
                on resource: arn:aws:ecs:eu-west-1:222222222222:service/prod/x with an explicit deny in a service control policy";
    let world = world(vec![json!({
        "service": "ecs", "operation": "UpdateService", "body": "ends_with(taskDefinition, ':1')",
        "error": { "code": "AccessDeniedException", "status": 400, "message": says }
    })])
    .await;
    let (service, _) = recipe::service(&world, "undo-denied").await;
    let steps = format!(
        "    - name: deploy\n      ecsRollingDeploy:\n        cluster: prod\n        service: {service}\n        taskDefinition: {{ family: {service}, containerDefinitions: [ {{ name: app, image: \"a:2\", memory: 64 }} ] }}\n    - name: check\n      shell: {{ run: \"exit 1\" }}\n"
    );
    let aws = format!("{}  onFailure: rollback\n", recipe::AWS);
    let task = world
        .submit(&recipe::task("undo-denied", &aws, &steps))
        .await
        .expect("queued");
    let ended = world.ended(&task, SOON).await.expect("ended");
    let left = ended.result.expect("a result").remains.join("\n");
    for told in [
        "not undone:",
        "a service control policy explicitly denies it",
        "who administers the organization",
    ] {
        assert!(left.contains(told), "{told}: {left}");
    }
    let log = world.logs(&task).await.expect("a log");
    assert!(log.contains(says), "{log}");
}
