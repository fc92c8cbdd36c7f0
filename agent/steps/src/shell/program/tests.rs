//! Shell steps with real shells, against a journal in memory.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use deputy_credentials::env::Env;
use deputy_credentials::{Identities, TaskIdentity};
use deputy_logs::{AttemptLog, Logs};
use deputy_task::attempt::AttemptRef;
use deputy_task::boot_time::BootTime;
use deputy_task::document::step::ShellProgram as Interpreter;
use deputy_task::id::Project;
use deputy_task::log_record::LogStream;
use deputy_task::outcome::StopReason;
use deputy_task::record::Direction;
use tokio::sync::watch;

use super::*;
use crate::context::{Begun, Host, refused};

#[derive(Clone)]
struct Lines(Arc<Mutex<Vec<(LogStream, String)>>>);

impl Lines {
    fn of(&self, wanted: LogStream) -> String {
        let lines = self.0.lock().expect("lines");
        lines
            .iter()
            .filter(|(stream, _)| *stream == wanted)
            .map(|(_, text)| text.as_str())
            .collect()
    }
}

/// The executor's part, as far as a shell step sees it.
struct TestHost {
    folder: tempfile::TempDir,
    source: Option<PathBuf>,
    identity: Option<TaskIdentity>,
    log: AttemptLog,
    journal: Mutex<HashMap<String, Recorded<Value>>>,
    halt: watch::Sender<Option<Halt>>,
    /// Of a day, until a test says otherwise.
    lease: watch::Sender<BootTime>,
}

#[async_trait]
impl Host for TestHost {
    fn may_touch(&self, _: &[deputy_task::touch::Touch]) -> Result<(), Halt> {
        Ok(())
    }
    async fn begin(&self, effect: &Effect) -> Result<Begun, Halt> {
        let recorded = self.recorded_effect(&effect.name);
        let permit = self.renew(effect).await?;
        let retry_safe = matches!(effect.class, crate::effect::EffectClass::Held { retry_safe: true });
        Ok(match recorded {
            Recorded::Done(value) => Begun::Done(value),
            Recorded::Refused(failure) => Begun::Done(crate::context::refusal(&failure)),
            Recorded::Never => {
                self.journal
                    .lock()
                    .expect("journal")
                    .insert(effect.name.clone(), Recorded::Open);
                Begun::Act(permit)
            }
            Recorded::Open if retry_safe => Begun::Again(permit),
            Recorded::Open => Begun::LookFirst(permit),
        })
    }
    async fn renew(&self, _effect: &Effect) -> Result<Permit, Halt> {
        Ok(Permit::until(BootTime::NEVER))
    }
    async fn done(&self, effect: &Effect, value: Value) -> Result<(), Halt> {
        let result = refused(&value).map_or(Recorded::Done(value), Recorded::Refused);
        self.journal
            .lock()
            .expect("journal")
            .insert(effect.name.clone(), result);
        Ok(())
    }
    fn recorded_fact(&self, _direction: Direction, _name: &str) -> Option<Value> {
        None
    }
    async fn record_fact(&self, _name: &str, _value: Value, _readers: Readers) -> Result<(), Halt> {
        Ok(())
    }
    fn recorded_effect(&self, name: &str) -> Recorded<Value> {
        self.journal
            .lock()
            .expect("journal")
            .get(name)
            .cloned()
            .unwrap_or(Recorded::Never)
    }
    async fn settle_done(&self, _name: &str, _value: Value) -> Result<(), Halt> {
        Ok(())
    }
    async fn halted(&self) -> Halt {
        let mut halt = self.halt.subscribe();
        let halt = halt.wait_for(Option::is_some).await.expect("a halt").clone();
        halt.expect("some")
    }
    async fn held_halted(&self, _retry_safe: RetrySafe) -> Halt {
        self.halted().await
    }
    fn lease(&self) -> Option<watch::Receiver<BootTime>> {
        Some(self.lease.subscribe())
    }
    fn waiting(&self, _what: String) {}
    async fn workspace(&self) -> Result<PathBuf, StepError> {
        Ok(self.folder.path().to_owned())
    }
    async fn aside(&self) -> Result<PathBuf, StepError> {
        self.workspace().await
    }
    async fn source(&self, _name: Option<&str>) -> Result<PathBuf, StepError> {
        let none = || Failure::new("source.unknown", "the step needs a source and the task has none").into();
        self.source.clone().ok_or_else(none)
    }
    async fn identity(&self) -> Result<TaskIdentity, StepError> {
        self.identity
            .clone()
            .ok_or_else(|| Failure::new("aws.notConfigured", "no spec.aws").into())
    }
    fn log(&self) -> LogWriter {
        self.log.writer("build")
    }
    fn add_secret(&self, value: &[u8], _end: Option<std::time::SystemTime>) -> Result<(), deputy_logs::SecretRefused> {
        self.log.add_secret(value)
    }
    fn mask(&self, text: &str) -> String {
        self.log.redact(text)
    }
}

struct World {
    host: Arc<TestHost>,
    lines: Lines,
    ctx: StepContext,
}

fn world_with(source: Option<PathBuf>, identity: Option<TaskIdentity>) -> World {
    let lines = Lines(Arc::default());
    let into = lines.clone();
    let logs = Logs::local(move |stream, _, _, bytes| {
        into.0
            .lock()
            .expect("lines")
            .push((stream, String::from_utf8_lossy(bytes).into_owned()));
    });
    let attempt = AttemptRef {
        project: Project::default_project(),
        task: "t1".parse().expect("id"),
        run: 1,
        epoch: 2,
    };
    let host = Arc::new(TestHost {
        folder: tempfile::tempdir().expect("folder"),
        source,
        identity,
        log: logs.open(attempt.clone()),
        journal: Mutex::default(),
        halt: watch::channel(None).0,
        lease: watch::channel(now().after(Duration::from_secs(86_400))).0,
    });
    let shared: Arc<dyn Host> = Arc::clone(&host) as Arc<dyn Host>;
    let ctx = StepContext::new(shared, "build", attempt, Direction::Forward, 1);
    World { host, lines, ctx }
}

fn world() -> World {
    world_with(None, None)
}

fn shell(run: &str) -> Shell {
    Shell {
        run: run.into(),
        shell: Interpreter::Bash,
        source: None,
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        secret_outputs: Vec::new(),
        retry_safe: false,
        cluster: None,
        grace: None,
    }
}

/// A script that can say `await NAME`: it goes on when the test has made that file in its home.
fn awaiting(run: &str) -> Shell {
    let file = "[ -e \"$HOME/$1\" ]";
    shell(&format!(
        "await() {{ for n in $(seq 1000); do {file} && return; sleep 0.01; done; echo \"no $1\" >&2; exit 9; }}; {run}"
    ))
}

/// Runs an [`awaiting`] script, and makes each file when its time has come.
async fn run_beside(
    world: &World,
    program: &ShellProgram,
    files: &[(&str, &(dyn Fn() -> bool + Sync))],
) -> Result<Outputs, StepError> {
    let make = async {
        for (name, is_time) in files {
            while !is_time() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            std::fs::write(world.host.folder.path().join(name), "").expect("a file");
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        ran = program.run(&world.ctx) => ran,
        never = make => match never {},
    }
}

fn failure(result: Result<Outputs, StepError>) -> Failure {
    match result {
        Err(StepError::Failed(failure)) => *failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn outputs_survive_an_early_exit_and_are_replayed_without_running_again() {
    let world = world();
    let program = ShellProgram::new(shell(
        "echo hi; echo again >>\"$HOME/ran\"; echo a=1 >>\"$DEPUTY_OUTPUT\"; printf 'b<<E\\nx\\ny\\nE\\n' >>\"$DEPUTY_OUTPUT\"; exit 0; echo no",
    ));
    for _ in 0..2 {
        let outputs = program.run(&world.ctx).await.expect("succeeded");
        assert_eq!(
            Value::Object(outputs.values),
            serde_json::json!({"a": "1", "b": "x\ny"})
        );
    }
    assert_eq!(world.lines.of(LogStream::Stdout), "hi\n");
    assert_eq!(
        std::fs::read_to_string(world.host.folder.path().join("ran")).expect("file"),
        "again\n"
    );
    let left: Vec<_> = std::fs::read_dir(world.host.folder.path())
        .expect("folder")
        .filter_map(Result::ok)
        .collect();
    assert_eq!(left.len(), 1, "only what the script made stays: {left:?}");
}

#[tokio::test]
async fn a_failing_script_tells_its_exit_code_and_last_words_without_secrets() {
    let world = world();
    world.host.add_secret(b"hunter2hunter2", None).expect("a secret");
    let program = ShellProgram::new(shell(
        "echo trying >&2; echo 'denied for hunter2hunter2' >&2; false; echo no",
    ));
    let failure = failure(program.run(&world.ctx).await);
    assert_eq!(failure.class, "shell.exitCode");
    assert_eq!(failure.summary, "the script of step build ended with exit code 1");
    assert_eq!(failure.detail, "trying\ndenied for ***");
    assert!(matches!(world.host.recorded_effect(RUN), Recorded::Refused(_)));
    let again = self::failure(program.run(&world.ctx).await);
    assert_eq!(again, failure);
}

#[tokio::test]
async fn a_failure_within_a_pipe_counts_in_bash_and_sh_is_taken_when_asked_for() {
    let failing = ShellProgram::new(shell("false | true"));
    assert_eq!(failure(failing.run(&world().ctx).await).class, "shell.exitCode");
    let sh = ShellProgram::new(Shell {
        shell: Interpreter::Sh,
        ..shell("false | true; [ -z \"$BASH_VERSION\" ] || [ \"$0\" ]; false; true")
    });
    assert_eq!(failure(sh.run(&world().ctx).await).class, "shell.exitCode");
}

#[tokio::test]
async fn secret_outputs_are_hidden_kept_out_of_values_and_lost_elsewhere() {
    let world = world();
    let script = "echo token=s3cr3t-token >>$DEPUTY_OUTPUT; echo plain=s3cr3t >>$DEPUTY_OUTPUT";
    let program = ShellProgram::new(Shell {
        secret_outputs: vec!["token".into()],
        ..shell(script)
    });
    let outputs = program.run(&world.ctx).await.expect("succeeded");
    assert_eq!(
        outputs.secrets,
        BTreeMap::from([("token".into(), "s3cr3t-token".into())])
    );
    assert_eq!(Value::Object(outputs.values), serde_json::json!({"plain": "s3cr3t"}));
    let Recorded::Done(recorded) = world.host.recorded_effect(RUN) else {
        panic!("not done")
    };
    assert_eq!(
        recorded,
        serde_json::json!({"exitCode": 0, "outputs": {"plain": "s3cr3t"}, "secretOutputs": ["token"]})
    );
    assert_eq!(world.ctx.host().mask("it is s3cr3t-token"), "it is ***");
    let replayed = program.run(&world.ctx).await.expect("succeeded");
    assert!(replayed.secrets.is_empty());
    assert!(
        world
            .lines
            .of(LogStream::System)
            .contains("the secret outputs token were made by an attempt before")
    );
}

#[tokio::test]
async fn a_secret_output_is_hidden_from_the_moment_it_is_written_even_if_the_script_fails() {
    let world = world();
    let script = "echo token=s3cr3t-token >>$DEPUTY_OUTPUT; echo out s3cr3t-token; sleep 0.1; \
                  printf 'key<<END\\nline-one\\nline-two\\n' >>$DEPUTY_OUTPUT; echo 'err line-two' >&2; exit 1";
    let program = ShellProgram::new(Shell {
        secret_outputs: vec!["token".into(), "key".into()],
        ..shell(script)
    });
    let failure = failure(program.run(&world.ctx).await);
    assert_eq!(failure.detail, "err ***");
    assert_eq!(world.lines.of(LogStream::Stdout), "out ***\n");
    assert_eq!(world.lines.of(LogStream::Stderr), "err ***\n");
}

#[tokio::test]
async fn outputs_that_cannot_be_used_fail_the_step() {
    let cases = [
        (
            "echo nonsense >>$DEPUTY_OUTPUT",
            "line 1 of the output file is neither `name=value` nor `name<<END`: nonsense",
        ),
        (
            "echo key=abc >>$DEPUTY_OUTPUT",
            "secret output key: a secret of 3 characters is too short to be hidden in logs; it needs at least 4",
        ),
        (
            "head -c 300000 /dev/zero >$DEPUTY_OUTPUT",
            "the output file is larger than 262144 bytes",
        ),
        (
            "ln -sf /etc/passwd $DEPUTY_OUTPUT",
            "the output file is not a regular file any more",
        ),
    ];
    for (script, problem) in cases {
        let secret_outputs = if problem.contains("secret") {
            vec!["key".into()]
        } else {
            Vec::new()
        };
        let program = ShellProgram::new(Shell {
            secret_outputs,
            ..shell(script)
        });
        let failure = failure(program.run(&world().ctx).await);
        assert_eq!(failure.class, "shell.outputs");
        assert!(failure.summary.ends_with(problem), "{}", failure.summary);
    }
}

/// Guards that a script which writes new values for as long as it runs neither fills the memory nor shows one of them.
#[tokio::test]
async fn secret_outputs_without_end_are_not_shown_when_no_more_can_be_hidden() {
    let world = world();
    let program = ShellProgram::new(Shell {
        secret_outputs: vec!["token".into()],
        ..awaiting(
            "for n in $(seq 60); do token=$(head -c 45000 /dev/urandom | base64 -w0); echo token=$token > \"$DEPUTY_OUTPUT\"; \
             echo \"round $n $token\"; await shown; sleep 0.03; done; echo token=short > \"$DEPUTY_OUTPUT\"",
        )
    });
    let is_shown = || world.lines.of(LogStream::Stdout).contains("round 1");
    let failure = failure(run_beside(&world, &program, &[("shown", &is_shown)]).await);
    assert_eq!(failure.class, "shell.outputs");
    assert!(
        failure.summary.contains("secret output token: all secrets of a task"),
        "{}",
        failure.summary
    );
    assert!(failure.hint.contains("fewer or shorter secrets"), "{}", failure.hint);
    let shown = world.lines.of(LogStream::Stdout);
    assert!(shown.contains("round 1 ***\n"), "{}", &shown[..200]);
    assert!(!shown.contains("round 60"), "all of 60 values could be hidden");
    let told = world.lines.of(LogStream::System);
    assert!(
        told.contains("secret output token: all secrets of a task together are too long to be hidden in logs"),
        "{told}"
    );
    assert!(
        told.contains("; what the script prints from here on is not shown"),
        "{told}"
    );
}

/// Guards that nothing is shown of a value that could not be hidden, whatever the file says when the script ends.
#[tokio::test]
async fn what_follows_a_secret_output_that_cannot_be_hidden_is_not_shown_and_fails_the_step() {
    let too_long = "is too long to be hidden in logs; it may have at most 65536";
    // What is as long as the message says is moved there: a shell writes in parts, and what is too long is told at once.
    let cases = [
        (
            "echo token=$(head -c 60000 /dev/zero | base64 -w0)word-of-the-tool > aside; mv aside $DEPUTY_OUTPUT",
            format!("secret output token: a secret of 80016 bytes {too_long}"),
            "a secret of at most 65536 bytes",
        ),
        (
            "for n in $(seq 2000); do lines+=\"$n: one of the lines of a long key\"$'\\n'; done; \
             printf 'token<<END\\n%s\\nword-of-the-tool\\nEND\\n' \"$lines\" > aside; mv aside $DEPUTY_OUTPUT",
            format!("secret output token: a secret of 72910 bytes {too_long}"),
            "a secret of at most 65536 bytes",
        ),
        // Half of it is enough.
        (
            "{ printf token=; head -c 70000 /dev/zero | tr '\\0' x; } > aside; mv aside $DEPUTY_OUTPUT; await told; \
             echo word-of-the-tool >> $DEPUTY_OUTPUT",
            format!("secret output token: a secret of 70000 bytes {too_long}"),
            "a secret of at most 65536 bytes",
        ),
        (
            "{ head -c 300000 /dev/zero | tr '\\0' x; printf '\\ntoken=word-of-the-tool\\n'; } > $DEPUTY_OUTPUT",
            "the output file is larger than 262144 bytes, and nothing that is secret in it (key, token) can be hidden"
                .to_owned(),
            "a file of at most 262144 bytes",
        ),
        (
            "echo token=word-of-the-tool > aside; ln -sf \"$PWD/aside\" $DEPUTY_OUTPUT",
            "the output file is not a regular file any more, and nothing that is secret in it (key, token) can be hidden"
                .to_owned(),
            "a file of at most 262144 bytes",
        ),
    ];
    for (writes, told, way_out) in cases {
        let world = world();
        let program = ShellProgram::new(Shell {
            secret_outputs: vec!["key".into(), "token".into()],
            ..awaiting(&format!(
                "echo before; await shown; {writes}; echo bearer word-of-the-tool; echo word-of-the-tool >&2; await told; \
                 rm $DEPUTY_OUTPUT; echo token=short-one > $DEPUTY_OUTPUT; echo after; sleep 0.2; echo word-of-the-tool"
            ))
        });
        let is_shown = || !world.lines.of(LogStream::Stdout).is_empty();
        let is_told = || world.lines.of(LogStream::System).contains("not shown");
        let failure = failure(run_beside(&world, &program, &[("shown", &is_shown), ("told", &is_told)]).await);
        assert_eq!(
            (failure.class.as_str(), failure.summary),
            (
                "shell.outputs",
                format!("the script of step build ended well, but its outputs cannot be used: {told}")
            ),
            "{writes}"
        );
        assert!(failure.hint.contains(way_out), "{}", failure.hint);
        assert_eq!(world.lines.of(LogStream::Stdout), "before\n", "{writes}");
        assert_eq!(world.lines.of(LogStream::Stderr), "", "{writes}");
        let log = world.lines.of(LogStream::System);
        let line = format!("{told}; what the script prints from here on is not shown\n");
        assert_eq!(log.matches(&line).count(), 1, "{writes}: {log}");
    }
}

/// Guards that a secret output counts as a whole, as the bytes that it is, and whatever time its file has.
#[tokio::test]
async fn a_secret_output_is_hidden_however_it_was_written() {
    let cases = [
        // A text of a JSON object that is written over several lines.
        (
            "printf 'token<<END\\n{\\n  \"password\": \"word-of-the-tool\"\\n}\\nEND\\n' > $DEPUTY_OUTPUT",
            "word-of-the-tool",
        ),
        // No text.
        (
            "printf 'token=\\xffword-of-the-tool\\n' > $DEPUTY_OUTPUT",
            "\\xffword-of-the-tool",
        ),
        // Moved here, as long and as old as what was here.
        (
            "echo token=the-one-before-- > one; echo token=word-of-the-tool > two; touch -d 2020-01-01 one two; \
             mv one $DEPUTY_OUTPUT; echo the-one-before--; await seen; mv two $DEPUTY_OUTPUT",
            "word-of-the-tool",
        ),
        // Gone before anything is printed.
        (
            "echo token=word-of-the-tool > $DEPUTY_OUTPUT; await seen; echo token=another-one > $DEPUTY_OUTPUT",
            "word-of-the-tool",
        ),
    ];
    let mut shown = Vec::new();
    for (writes, prints) in cases {
        let world = world();
        let program = ShellProgram::new(Shell {
            secret_outputs: vec!["token".into()],
            ..awaiting(&format!("{writes}; printf 'bearer {prints}.\\n'; sleep 0.2; exit 1"))
        });
        let is_known = |value: &str| world.host.mask(value) != value;
        let is_seen = || !world.lines.of(LogStream::Stdout).is_empty() || is_known("word-of-the-tool");
        let failure = failure(run_beside(&world, &program, &[("seen", &is_seen)]).await);
        assert_eq!(failure.summary, "the script of step build ended with exit code 1");
        shown.push(world.lines.of(LogStream::Stdout));
    }
    let hidden = "bearer ***.\n";
    assert_eq!(shown, [hidden, hidden, "***\nbearer ***.\n", hidden]);
}

/// A name is recorded and shown as it is: base64 that ends in `=` is soon one.
#[tokio::test]
async fn an_output_whose_name_holds_a_secret_fails_the_step_without_showing_it() {
    let token = "aHVudGVyMi1odW50ZXI";
    let cases = [
        "echo \"$TOKEN=\" >>$DEPUTY_OUTPUT",
        "echo \"x-$TOKEN-y=1\" >>$DEPUTY_OUTPUT",
        "echo \"$TOKEN=a $TOKEN\" >>$DEPUTY_OUTPUT",
        "echo made=madeHereByTheScript >>$DEPUTY_OUTPUT; echo madeHereByTheScript=1 >>$DEPUTY_OUTPUT",
        "echo \"made<<$TOKEN\" >>$DEPUTY_OUTPUT",
        "echo \"made<<madeHereByTheScript\" >>$DEPUTY_OUTPUT",
    ];
    for script in cases {
        let world = world();
        world.host.add_secret(token.as_bytes(), None).expect("a secret");
        let program = ShellProgram::new(Shell {
            secret_outputs: vec!["made".into()],
            env: BTreeMap::from([("TOKEN".to_owned(), token.to_owned())]),
            ..shell(script)
        });
        let failure = failure(program.run(&world.ctx).await);
        assert_eq!(failure.class, "shell.outputs", "{script}");
        let journal = format!("{:?}", world.host.journal.lock().expect("journal"));
        let log = world.lines.of(LogStream::System);
        for shown in [&failure.summary, &failure.hint, &failure.detail, &journal, &log] {
            assert!(
                !shown.contains(token) && !shown.contains("madeHereByTheScript"),
                "{script}: {shown}"
            );
        }
    }
}

#[tokio::test]
async fn the_environment_is_deputys_and_the_folder_the_sources() {
    let source = tempfile::tempdir().expect("folder");
    std::fs::write(source.path().join("file.txt"), "from the source").expect("file");
    let world = world_with(Some(source.path().to_owned()), None);
    let env = BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]);
    let script = "cat file.txt; echo; echo $GREETING $DEPUTY_TASK_ID $DEPUTY_STEP $DEPUTY_ATTEMPT; [ \"$HOME\" = \"$TMPDIR\" ]; env -0 | tr '\\0' '\\n' | cut -d= -f1";
    ShellProgram::new(Shell { env, ..shell(script) })
        .run(&world.ctx)
        .await
        .expect("succeeded");
    let out = world.lines.of(LogStream::Stdout);
    assert!(out.starts_with("from the source\nhello t1 build 2\n"), "{out}");
    assert!(!out.contains("CARGO") && !out.contains("AWS_ACCESS"), "{out}");
}

#[tokio::test]
async fn a_step_may_not_set_what_deputy_sets_and_nothing_is_begun() {
    let world = world();
    let env = BTreeMap::from([("DEPUTY_OUTPUT".to_owned(), "/tmp/x".to_owned())]);
    let program = ShellProgram::new(Shell { env, ..shell("true") });
    assert_eq!(failure(program.run(&world.ctx).await).class, "shell.env");
    assert!(matches!(world.host.recorded_effect(RUN), Recorded::Never));
}

#[tokio::test]
async fn a_script_gets_credentials_by_endpoint_and_its_token_is_never_printed() {
    let keys = [
        ("AWS_ACCESS_KEY_ID", "AKIATESTTESTTEST"),
        ("AWS_SECRET_ACCESS_KEY", "secret/key"),
    ];
    let identities = Identities::new(keys.into_iter().collect::<Env>());
    let identity = identities.for_task("eu-west-1", &[], "deputy-t1-2").expect("identity");
    let world = world_with(None, Some(identity));
    let script = r#"
        echo "$AWS_CONTAINER_AUTHORIZATION_TOKEN $AWS_REGION $AWS_DEFAULT_REGION"
        echo -n "$AWS_CONTAINER_AUTHORIZATION_TOKEN" | base64 -w0; echo
        [[ $NO_PROXY = *127.0.0.1* && -z $AWS_SECRET_ACCESS_KEY ]]
        address=${AWS_CONTAINER_CREDENTIALS_FULL_URI#http://}
        exec 3<>"/dev/tcp/${address%%:*}/$(expr "$address" : '[^:]*:\([0-9]*\)')"
        printf 'GET /%s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\nConnection: close\r\n\r\n' "${address#*/}" "${address%%/*}" "$AWS_CONTAINER_AUTHORIZATION_TOKEN" >&3
        cat <&3 | grep -o AKIATESTTESTTEST >&2
    "#;
    ShellProgram::new(shell(script))
        .run(&world.ctx)
        .await
        .expect("succeeded");
    assert_eq!(world.lines.of(LogStream::Stdout), "*** eu-west-1 eu-west-1\n***==\n");
    assert_eq!(world.lines.of(LogStream::Stderr), "AKIATESTTESTTEST\n");
}

#[tokio::test]
async fn a_cancelled_script_is_stopped_and_its_effect_stays_open() {
    let world = world();
    let program = ShellProgram::new(Shell {
        grace: Some("200ms".into()),
        ..shell("trap '' TERM; echo up; while :; do sleep 100; done")
    });
    let cancel = async {
        while world.lines.of(LogStream::Stdout).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world
            .host
            .halt
            .send_replace(Some(Halt::Stopped(StopReason::Cancelled("wrong image".into()))));
    };
    let (result, ()) = tokio::join!(program.run(&world.ctx), cancel);
    assert!(matches!(result, Err(StepError::Halted(Halt::Stopped(_)))), "{result:?}");
    let said = world.lines.of(LogStream::System);
    assert!(
        said.contains("stopping the script (SIGTERM, and SIGKILL after 0.2 s): it was cancelled: wrong image"),
        "{said}"
    );
    assert!(
        said.contains("the script did not end by itself and was killed; it ended with signal 9 (SIGKILL)"),
        "{said}"
    );
    assert!(matches!(world.host.recorded_effect(RUN), Recorded::Open));
    let undone = program.undo(&world.ctx).await.expect("undone");
    assert!(!undone.restored);
    assert_eq!(
        undone.left,
        [
            "the script was begun and interrupted (run trap '' TERM; echo up; while :; do sleep 100; done); what a script changed cannot be restored automatically"
        ]
    );
}

#[tokio::test]
async fn a_retry_safe_script_gets_no_grace_beyond_the_lease() {
    let world = world();
    let of = |retry_safe| {
        let grace = within_lease(&world.ctx, retry_safe, Duration::from_secs(3600));
        grace.as_secs()
    };
    assert_eq!((of(RetrySafe::Yes), of(RetrySafe::No)), (3600, 3600));
    world.host.lease.send_replace(now().after(Duration::from_secs(20)));
    assert_eq!(of(RetrySafe::No), 3600);
    assert!((15..=20).contains(&of(RetrySafe::Yes)));
    world.host.lease.send_replace(BootTime::from_nanos(1));
    assert_eq!((of(RetrySafe::Yes), of(RetrySafe::No)), (0, 3600));
}

#[tokio::test]
async fn a_stale_attempt_kills_its_child_and_says_nothing() {
    let world = world();
    let program = ShellProgram::new(shell("echo up; sleep 100"));
    let revoke = async {
        while world.lines.of(LogStream::Stdout).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.host.halt.send_replace(Some(Halt::Stale));
    };
    let (result, ()) = tokio::join!(program.run(&world.ctx), revoke);
    assert!(matches!(result, Err(StepError::Halted(Halt::Stale))));
    assert_eq!(world.lines.of(LogStream::System), "");
}

#[tokio::test]
async fn an_interrupted_script_is_run_again_only_if_that_is_safe() {
    let world = world();
    let open = || {
        world
            .host
            .journal
            .lock()
            .expect("journal")
            .insert(RUN.to_owned(), Recorded::Open)
    };
    open();
    match ShellProgram::new(shell("echo no")).run(&world.ctx).await {
        Err(StepError::WorldUnknown(failure)) => {
            // The task ends with this: there is nothing left to resolve.
            assert!(!failure.hint.contains("deputy resolve"), "{failure:?}");
            assert!(failure.hint.contains("`deputy retry t1`"), "{failure:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(world.lines.of(LogStream::Stdout), "");
    open();
    ShellProgram::new(Shell {
        retry_safe: true,
        ..shell("echo yes")
    })
    .run(&world.ctx)
    .await
    .expect("succeeded");
    assert_eq!(world.lines.of(LogStream::Stdout), "yes\n");
}
