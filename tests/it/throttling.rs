//! AWS throttles: each strategy of `spec.aws.backoff` gets through, waits as it says, and tells the task's log.
//!
//! The table in docs/performance.md: `DEPUTY_THROTTLING_ROUNDS=12 cargo test -p deputy-tests --test it -- --nocapture
//! a_deployment_under_throttling`.

use std::time::Duration;

use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::Cloud;
use deputy_tests::proxy::recording::Call;
use deputy_tests::world::World;
use serde_json::{Value, json};

use crate::recipe;

const SOON: Duration = Duration::from_secs(120);
/// Three of ten calls of ECS are throttled, at random.
fn throttling() -> Value {
    json!([{ "service": "ecs", "probability": 0.3, "error": { "code": "ThrottlingException", "message": "Rate exceeded" } }])
}

/// One strategy, and the least and most wait before a first, second and further retry, in milliseconds.
struct Strategy {
    name: &'static str,
    backoff: &'static str,
    waits: [(u64, u64); 3],
}

const STRATEGIES: [Strategy; 3] = [
    Strategy {
        name: "fixed",
        backoff: "{ fixedDelay: { baseDelayMs: 200, maxRetries: 12 } }",
        waits: [(200, 200); 3],
    },
    Strategy {
        name: "equal",
        backoff: "{ equalJitter: { baseDelayMs: 200, maxDelayMs: 800, maxRetries: 12 } }",
        waits: [(100, 200), (200, 400), (400, 800)],
    },
    Strategy {
        name: "full",
        backoff: "{ fullJitter: { baseDelayMs: 200, maxDelayMs: 800, maxRetries: 12 } }",
        waits: [(0, 200), (0, 400), (0, 800)],
    },
];

/// How many deployments there are at least with each strategy.
fn rounds() -> usize {
    let told = std::env::var("DEPUTY_THROTTLING_ROUNDS").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// The median, and in brackets the least and most.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |index: usize| times.get(index).copied().unwrap_or_default().as_secs_f64();
    format!(
        "{:.2} s ({:.2}–{:.2})",
        at(times.len() / 2),
        at(0),
        at(times.len().saturating_sub(1))
    )
}

fn is_throttled(call: &Call) -> bool {
    call.service == "ecs" && call.status == Some(400)
}

/// The waits between a throttled call and the same call made again, by the number of the retry. Calls of one step
/// come one after the other, so the next call of that operation with the same body is the retry.
fn waits(calls: &[Call]) -> Vec<(usize, Duration)> {
    let mut found = Vec::new();
    let mut retry = 0;
    for pair in calls.windows(2) {
        retry = if is_throttled(&pair[0]) { retry + 1 } else { 0 };
        if retry > 0 {
            assert_eq!(pair[0].body_sha256, pair[1].body_sha256, "{} then {}", pair[0], pair[1]);
            found.push((retry, pair[1].at - pair[0].at));
        }
    }
    found
}

/// The waits that the agent chose, in milliseconds, by the number of the retry: without turns and without the machine.
fn chosen(log: &str) -> Vec<(usize, u64)> {
    let number = |line: &str, name: &str| {
        let (_, rest) = line.split_once(name)?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    };
    let throttled = log.lines().filter(|line| line.contains("AWS throttles action=ecs:"));
    let found = throttled.map(|line| Some((number(line, "tried=")?, number(line, "wait_ms=")?)));
    let found = found.map(|one| one.expect("a wait"));
    found
        .map(|(tried, wait)| (usize::try_from(tried).expect("few"), wait))
        .collect()
}

/// Guards that a deployment under throttling is one deployment, whichever strategy its document chooses, that the
/// waits are within the strategy's bounds and are kept on the wire, and that the throttling is told.
#[tokio::test]
async fn a_deployment_under_throttling_succeeds_with_each_strategy() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut table = String::new();
    for strategy in &STRATEGIES {
        let mut world = World::builder()
            .cloud(&cloud)
            .faults(throttling())
            .start()
            .await
            .expect("a world");
        world.agent(AgentOptions::default()).await.expect("an agent");
        let mut calls = Vec::new();
        let (mut throttled, mut all_waits, mut added) = (0, Vec::new(), Vec::new());
        // Chance may spare a deployment; it does not spare several.
        for round in 0.. {
            assert!(round < rounds() + 12, "nothing was throttled\n{}", world.report());
            let (service, _) = recipe::service(&world, &format!("{}{round}", strategy.name)).await;
            let aws = format!("    backoff: {}\n", strategy.backoff);
            let task = world.submit(&recipe::ecs_update(&service, &aws)).await.expect("queued");
            world.succeeded(&task, SOON).await.expect("succeeded");
            let (revision, count) = recipe::runs(&world, &service).await;
            assert!(revision.ends_with(":2") && count == 3, "{revision} {count}");
            let log = world.logs(&task).await.expect("a log");
            let all: Vec<Call> = world.proxy().expect("a proxy").calls();
            let of_this: Vec<Call> = all
                .into_iter()
                .filter(|call| call.service == "ecs")
                .skip(calls.len())
                .collect();
            let here = of_this.iter().filter(|call| is_throttled(call)).count();
            assert_eq!(
                log.contains("AWS throttles ecs:"),
                here > 0,
                "{log}\n{}",
                world.report()
            );
            let of_retries = waits(&of_this);
            added.push(of_retries.iter().map(|(_, wait)| *wait).sum());
            all_waits.extend(of_retries);
            throttled += here;
            calls.extend(of_this);
            if throttled >= 4 && round + 1 >= rounds() {
                break;
            }
        }
        let chosen = chosen(&world.agents[0].child.log());
        assert_eq!(
            chosen.len(),
            throttled,
            "every throttled call has its wait\n{}",
            world.report()
        );
        assert_eq!(chosen.len(), all_waits.len(), "and its retry\n{}", world.report());
        for ((retry, wait), (of_retry, on_the_wire)) in chosen.into_iter().zip(&all_waits) {
            let (least, most) = strategy.waits[retry.min(3) - 1];
            assert!(
                (least..=most).contains(&wait),
                "{}: {wait} ms were chosen before retry {retry}\n{}",
                strategy.name,
                world.report()
            );
            // A turn and a busy machine come on top.
            assert!(
                retry == *of_retry && *on_the_wire >= Duration::from_millis(wait),
                "{}: {wait} ms were chosen before retry {retry}, and retry {of_retry} came after {on_the_wire:?}\n{}",
                strategy.name,
                world.report()
            );
        }
        for operation in ["RegisterTaskDefinition", "UpdateService"] {
            let done = calls
                .iter()
                .filter(|call| call.operation == operation && call.succeeded())
                .count();
            let refused = calls
                .iter()
                .filter(|call| call.operation == operation && is_throttled(call))
                .count();
            assert_eq!(
                done + refused,
                calls.iter().filter(|call| call.operation == operation).count()
            );
        }
        let fired = world
            .microburst()
            .expect("microburst")
            .fired()
            .await
            .expect("what was fired");
        assert_eq!(
            fired.len(),
            throttled,
            "every throttled call is one of microburst's\n{}",
            world.report()
        );
        table.push_str(&format!(
            "| `{}` | {} | {throttled} | {} | {} |\n",
            strategy.backoff,
            calls.len(),
            spread(all_waits.into_iter().map(|(_, wait)| wait).collect()),
            spread(added)
        ));
    }
    println!("{table}");
}

/// Guards that a script's own AWS programs try as often as the document says.
#[tokio::test]
async fn a_script_is_told_how_often_to_try() {
    let world = World::with_shared_cloud().await.expect("a world");
    let aws = format!(
        "{}    backoff: {{ fixedDelay: {{ baseDelayMs: 10, maxRetries: 7 }} }}\n",
        recipe::AWS
    );
    let run = "echo \"$AWS_RETRY_MODE $AWS_MAX_ATTEMPTS\"";
    let task = world
        .submit(&recipe::script("told", &aws, "", run))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    let log = world.logs(&task).await.expect("a log");
    assert!(log.contains("standard 8"), "{log}");
    let aws = format!(
        "{}    backoff: {{ fixedDelay: {{ baseDelayMs: 10, maxRetries: 7 }} }}\n",
        recipe::AWS
    );
    let task = world
        .submit(&recipe::script("own", &aws, "env: { AWS_MAX_ATTEMPTS: \"2\" }", run))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    let log = world.logs(&task).await.expect("a log");
    assert!(log.contains("standard 2"), "the step's own wish wins: {log}");
}

/// Guards that the document bounds the tries, and that the failure says what was throttled.
#[tokio::test]
async fn throttling_without_an_end_fails_the_step_unchanged_after_the_documents_retries() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let rules = json!([{ "service": "ecs", "operation": "DescribeServices",
        "error": { "code": "ThrottlingException", "message": "Rate exceeded" } }]);
    let mut world = World::builder()
        .cloud(&cloud)
        .faults(rules)
        .start()
        .await
        .expect("a world");
    world.agent(AgentOptions::default()).await.expect("an agent");
    let (service, before) = recipe::service(&world, "endless").await;
    let aws = "    backoff: { fixedDelay: { baseDelayMs: 50, maxRetries: 3 } }\n";
    let task = world.submit(&recipe::ecs_update(&service, aws)).await.expect("queued");
    let (ended, failure) = recipe::failure(&world, &task, SOON).await;
    assert_eq!(failure.class, "aws.throttled", "{failure:#?}");
    assert!(failure.summary.contains("ecs:DescribeServices"), "{failure:#?}");
    let world_is = ended.result.as_ref().map(|result| result.world());
    assert_eq!(world_is, Some(deputy_proto::v1::World::Unchanged), "{ended:#?}");
    assert_eq!(
        world.proxy().expect("a proxy").count("ecs", "DescribeServices"),
        4,
        "{}",
        world.report()
    );
    assert_eq!(recipe::runs(&world, &service).await, (before, 2));
}

/// Guards that tasks which share an account get through together, also without a word about it in their documents.
#[tokio::test]
async fn many_tasks_of_one_agent_get_through_together() {
    const TASKS: usize = 8;
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = World::builder()
        .cloud(&cloud)
        .faults(throttling())
        .start()
        .await
        .expect("a world");
    let slots = u32::try_from(TASKS).expect("few");
    world
        .agent(AgentOptions::default().slots(slots))
        .await
        .expect("an agent");
    let mut submitted = Vec::new();
    for number in 0..TASKS {
        let (service, _) = recipe::service(&world, &format!("together{number}")).await;
        let task = world.submit(&recipe::ecs_update(&service, "")).await.expect("queued");
        submitted.push((task, service));
    }
    for (task, service) in &submitted {
        world.succeeded(task, SOON).await.expect("succeeded");
        let (revision, count) = recipe::runs(&world, service).await;
        assert!(revision.ends_with(":2") && count == 3, "{revision} {count}");
    }
    let proxy = world.proxy().expect("a proxy");
    assert!(proxy.calls().iter().any(is_throttled), "{}", world.report());
    assert_eq!(
        proxy.successes("ecs", "UpdateService"),
        TASKS,
        "each service was updated once\n{}",
        world.report()
    );
}
