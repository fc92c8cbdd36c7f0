//! Snapshots of renderings, without colours.

use deputy_proto::v1::{
    AgentInfo, AgentStatus, AgentVerdict, Capabilities, EffectClass, ExplainResponse, Failure, Record, RecordKind,
    Result as Outcome, StepProgress, StepStatus, StepSupport, Task, TaskState, Tool, World,
};

use super::*;

const SUBMITTED: i64 = 1_790_000_000_000;

fn step(name: &str, kind: &str, status: StepStatus, times: (i64, i64)) -> StepProgress {
    let at = |offset: i64| if offset < 0 { 0 } else { SUBMITTED + offset };
    StepProgress {
        name: name.into(),
        kind: kind.into(),
        status: status.into(),
        started_at_ms: at(times.0),
        finished_at_ms: at(times.1),
        ..StepProgress::default()
    }
}

fn running() -> Task {
    let mut deploy = step("deploy", "ecsRollingDeploy", StepStatus::Running, (4_200, -1));
    deploy.waiting_for = "2 of 3 tasks running".into();
    Task {
        task_id: "01a20a2ddb81714fb5bf289d02e061a2".into(),
        name: "checkout-api".into(),
        state: TaskState::Running.into(),
        run: 1,
        epoch: 1,
        agent_id: "agent-1".into(),
        submitted_at_ms: SUBMITTED,
        started_at_ms: SUBMITTED + 40,
        server_time_ms: SUBMITTED + 65_000,
        steps: vec![
            step("build", "shell", StepStatus::Succeeded, (50, 4_100)),
            deploy,
            step("smoke-test", "shell", StepStatus::Pending, (-1, -1)),
        ],
        ..Task::default()
    }
}

fn failed() -> Task {
    let mut task = running();
    task.state = TaskState::Failed.into();
    task.finished_at_ms = SUBMITTED + 95_000;
    task.steps[1] = step("deploy", "ecsRollingDeploy", StepStatus::Undone, (4_200, 94_000));
    task.steps[2].status = StepStatus::Skipped.into();
    task.steps[0].outputs = br#"{"digest":"sha256:12","count":3}"#.as_slice().into();
    task.result = Some(Outcome {
        state: TaskState::Failed.into(),
        world: World::RolledBack.into(),
        failure: Some(Failure {
            class: "ecs.circuitBreaker".into(),
            summary: "the circuit breaker stopped the deployment of checkout-api after 3 failed tasks".into(),
            hint: "the container exits at once; see its log".into(),
            detail: "CannotPullContainerError: image not found\nexit code 1".into(),
            step: "deploy".into(),
        }),
        remains: vec!["the task definition checkout-api:42 stays registered".into()],
        repair: "deputy retry 01a20a2ddb81".into(),
        steps: task.steps.clone(),
    });
    task
}

fn text(lines: &[String]) -> String {
    lines.join("\n")
}

#[test]
fn a_running_task_is_a_tree_that_says_what_is_awaited() {
    let task = running();
    insta::assert_snapshot!(text(&super::task(&task, task.server_time_ms, Colour::Off)), @r##"
    checkout-api 01a20a2ddb81714fb5bf289d02e061a2 running on agent-1 1m04s
      ✓ build       shell               4.0s
      ▸ deploy      ecsRollingDeploy   1m00s  waiting for 2 of 3 tasks running
      · smoke-test  shell
    "##);
}

#[test]
fn a_lost_task_and_a_wished_cancel_are_told() {
    let mut task = running();
    task.state = TaskState::Lost.into();
    task.epoch = 3;
    task.condition = "held: the script of build was running".into();
    task.cancel_reason = "wrong image\x1b[2J".into();
    insta::assert_snapshot!(text(&super::task(&task, task.server_time_ms, Colour::Off)), @r##"
    checkout-api 01a20a2ddb81714fb5bf289d02e061a2 lost on agent-1 1m04s attempt 3
      ! held: the script of build was running
      ! cancel wished: wrong image
      ✓ build       shell               4.0s
      ▸ deploy      ecsRollingDeploy   1m00s  waiting for 2 of 3 tasks running
      · smoke-test  shell
    "##);
}

#[test]
fn an_outcome_says_why_what_remains_and_what_repairs() {
    insta::assert_snapshot!(text(&outcome(&failed(), Colour::Off)), @r##"
    ✗ checkout-api failed after 1m34s
      why      step deploy: the circuit breaker stopped the deployment of checkout-api after 3 failed tasks
      hint     the container exits at once; see its log
      detail   CannotPullContainerError: image not found
               exit code 1
      world    rolledBack, what the task changed has been restored
      remains  the task definition checkout-api:42 stays registered
      repair   deputy retry 01a20a2ddb81
      outputs  build.digest = sha256:12
               build.count = 3
    "##);
    assert!(outcome(&running(), Colour::Off).is_empty());
}

#[test]
fn changes_are_told_once_and_in_order() {
    let queued = Task {
        state: TaskState::Queued.into(),
        steps: Vec::new(),
        epoch: 0,
        agent_id: String::new(),
        ..running()
    };
    let mut again = queued.clone();
    (again.run, again.epoch) = (2, 2);
    let told = [
        changes(None, &queued, Colour::Off),
        changes(Some(&queued), &running(), Colour::Off),
        changes(Some(&running()), &running(), Colour::Off),
        changes(Some(&running()), &failed(), Colour::Off),
        changes(Some(&failed()), &again, Colour::Off),
    ];
    insta::assert_snapshot!(told.map(|lines| text(&lines)).join("\n--\n"), @r##"
    queued
    --
    running on agent-1
    ✓ build succeeded after 4.0s
    ▸ deploy running
    --

    --
    ↺ deploy undone after 1m29s
    − smoke-test skipped
    failed
    --
    queued again, run 2
    "##);
}

#[test]
fn tasks_are_listed_in_columns() {
    let mut waiting = running();
    waiting.name = "名前".into();
    waiting.started_at_ms = 0;
    waiting.agent_id = String::new();
    waiting.steps = Vec::new();
    waiting.state = TaskState::Queued.into();
    waiting.condition = "no agent matches the selector env == 'prod'".into();
    let mut ended = failed();
    ended.server_time_ms = SUBMITTED + 7_200_000;
    let mut lost = running();
    lost.state = TaskState::Lost.into();
    lost.condition = "held: the script of build was running".into();
    insta::assert_snapshot!(text(&listing(&[running(), waiting, lost, ended], Colour::Off)), @r##"
    TASK          NAME          STATE    SUBMITTED  TOOK   AGENT
    01a20a2ddb81  checkout-api  running  1m05s ago  1m04s  agent-1  deploy: waiting for 2 of 3 tasks running
    01a20a2ddb81  名前          queued   1m05s ago  -      -        no agent matches the selector env == 'prod'
    01a20a2ddb81  checkout-api  lost     1m05s ago  1m04s  agent-1  held: the script of build was running
    01a20a2ddb81  checkout-api  failed   2h00m ago  1m34s  agent-1  the circuit breaker stopped the deployment of checkout-api after 3 fa…
    "##);
}

#[test]
fn a_journal_reads_like_a_story() {
    let record = |kind: RecordKind, key: &str, summary: &str, payload: &'static str, at: i64| Record {
        key: key.into(),
        kind: kind.into(),
        summary: summary.into(),
        payload: payload.as_bytes().into(),
        epoch: 1,
        committed_at_ms: SUBMITTED + at,
        ..Record::default()
    };
    let mut held = record(RecordKind::Intent, "build/run", "run make", "", 10);
    held.effect_class = EffectClass::Held.into();
    let records = [
        record(
            RecordKind::Fact,
            "deploy/before",
            "",
            "{\"taskDefinition\":\"checkout-api:41\",\"desiredCount\":2}",
            5,
        ),
        held,
        record(RecordKind::Done, "build/run", "", "{\"exitCode\":0}", 4_100),
        record(RecordKind::Decision, "task/undo", "", "\"undo\"", 94_000),
    ];
    insta::assert_snapshot!(text(&journal(&records, SUBMITTED, Colour::Off)), @r##"
    AT      ATTEMPT  KIND      KEY            WHAT
    +5ms    1        fact      deploy/before  {"taskDefinition":"checkout-api:41","desiredCount":2}
    +10ms   1        intent    build/run      run make (held)
    +4.1s   1        done      build/run      {"exitCode":0}
    +1m34s  1        decision  task/undo      "undo"
    "##);
}

#[test]
fn an_explanation_names_every_agent_and_every_reason() {
    let verdict = |id: &str, eligible, reasons: &[&str]| AgentVerdict {
        agent_id: id.into(),
        eligible,
        reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
    };
    let answer = ExplainResponse {
        task: Some(Task {
            state: TaskState::Queued.into(),
            ..running()
        }),
        summary: "it waits: no agent can take it now".into(),
        agents: vec![
            verdict(
                "agent-1",
                false,
                &[
                    "the selector env == 'prod' does not match",
                    "no free slot: 4 of 4 are taken",
                ],
            ),
            verdict("agent-2", true, &[]),
        ],
        next: vec![
            "start an agent with the label env=prod".into(),
            "deputy cancel 01a20a2ddb81".into(),
        ],
    };
    insta::assert_snapshot!(text(&explanation(&answer, Colour::Off)), @r##"
    checkout-api 01a20a2ddb81714fb5bf289d02e061a2 queued
    it waits: no agent can take it now
      ✗ agent-1  the selector env == 'prod' does not match
                 no free slot: 4 of 4 are taken
      ✓ agent-2  could take it now
    next: start an agent with the label env=prod
          deputy cancel 01a20a2ddb81
    "##);
}

#[test]
fn nobody_is_said_to_take_a_lost_task_now() {
    let answer = ExplainResponse {
        task: Some(Task {
            state: TaskState::Lost.into(),
            ..running()
        }),
        agents: vec![AgentVerdict {
            agent_id: "agent-2".into(),
            eligible: true,
            reasons: Vec::new(),
        }],
        ..ExplainResponse::default()
    };
    let said = text(&explanation(&answer, Colour::Off));
    assert!(said.contains("✓ agent-2  could take it if it is given away"), "{said}");
}

#[test]
fn agents_are_shown_with_what_they_offer() {
    let capabilities = Capabilities {
        slots: 4,
        labels: [("env".to_owned(), "prod".to_owned()), ("az".to_owned(), "a".to_owned())].into(),
        steps: vec![StepSupport {
            kind: "shell".into(),
            min_version: 1,
            max_version: 2,
        }],
        tools: vec![
            Tool {
                name: "kubectl".into(),
                version: "1.36.2".into(),
                path: "/usr/bin/kubectl".into(),
                problem: String::new(),
            },
            Tool {
                name: "helm".into(),
                problem: "built for another CPU: arm64".into(),
                ..Tool::default()
            },
        ],
        ambient: "ecs-task-role".into(),
        platform: "linux/amd64".into(),
        ..Capabilities::default()
    };
    let agent = AgentInfo {
        agent_id: "agent-1".into(),
        instance_id: "e6a8".into(),
        status: AgentStatus::Draining.into(),
        version: "0.1.0".into(),
        capabilities: Some(capabilities),
        free_slots: 3,
        lease_remaining_ms: 45_000,
        transport: "exchange".into(),
        ..AgentInfo::default()
    };
    let gone = AgentInfo {
        agent_id: "a-very-long-agent-id".into(),
        status: AgentStatus::Gone.into(),
        ..AgentInfo::default()
    };
    insta::assert_snapshot!(text(&agents(&[agent.clone(), gone], Colour::Off)), @r##"
    AGENT                 STATUS               TASKS  LEASE  VERSION  IDENTITY       LABELS
    agent-1               draining (exchange)  0/4    45s    0.1.0    ecs-task-role  az=a env=prod
    a-very-long-agent-id  gone                 0/0    over            -
    "##);
    insta::assert_snapshot!(text(&agent_detail(&agent, &["it takes nothing new".into()], Colour::Off)), @r##"
    agent-1 draining
      instance  e6a8
      version   0.1.0 on linux/amd64
      session   by long polls over HTTP/1.1 (exchange)
      lease     45s
      slots     3 free of 4
      identity  ecs-task-role
      labels    az=a env=prod
      steps     shell (program 1 to 2)
      tools     kubectl 1.36.2 /usr/bin/kubectl
                helm cannot be used: built for another CPU: arm64
      holds     0 tasks
      note      it takes nothing new
    "##);
}
