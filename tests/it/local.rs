//! `deputy-agent task`: a document without a manager.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use deputy_tests::programs::{Binaries, workspace};

use crate::recipe;

const SOON: Duration = Duration::from_secs(30);

fn local(folder: &Path, file: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(Binaries::beside_this().expect("built").agent);
    command.env_clear().env("HOME", folder).env("TMPDIR", folder);
    command
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .arg("task")
        .arg(file)
        .args(more)
        .current_dir(folder);
    command
}

/// Where scripts may write: beside them, the work folder and the journal are hidden.
fn scripts(folder: &Path) -> PathBuf {
    let scripts = folder.join("scripts");
    std::fs::create_dir_all(&scripts).expect("a folder");
    scripts
}

async fn output(mut command: Command) -> Output {
    let run = tokio::task::spawn_blocking(move || command.output());
    let output = tokio::time::timeout(SOON, run).await.expect("in time");
    output.expect("joined").expect("run")
}

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}\n{err}")
}

/// Guards the example of the README, and the exit codes that scripts around it rely on.
#[tokio::test]
async fn a_local_task_ends_0_1_or_2_and_shows_its_output() {
    let folder = tempfile::tempdir().expect("a folder");
    let example = output(local(folder.path(), &workspace().join("examples/shell.yaml"), &[])).await;
    assert_eq!(example.status.code(), Some(0), "{}", said(&example));
    assert!(said(&example).contains("Hello from Linux"), "{}", said(&example));
    assert!(
        said(&example).contains("task hello ran on kernel"),
        "{}",
        said(&example)
    );

    let file = folder.path().join("task.yaml");
    std::fs::write(&file, recipe::script("fails", "", "", "echo so far; exit 3")).expect("written");
    let failed = output(local(folder.path(), &file, &[])).await;
    assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
    assert!(said(&failed).contains("so far"), "{}", said(&failed));

    let bad = output(local(
        folder.path(),
        &workspace().join("tests/bad/misspelt-keys.yaml"),
        &[],
    ))
    .await;
    assert_eq!(bad.status.code(), Some(2), "{}", said(&bad));
    assert!(said(&bad).contains("error: "), "{}", said(&bad));
    assert!(!said(&bad).contains("panicked"), "{}", said(&bad));
}

/// Runs the file with a journal, and kills the run once its last step has written to `runs`.
async fn killed_in_its_last_step(folder: &Path, file: &Path, runs: &Path) {
    killed_with(local(folder, file, &["--journal", "journal"]), runs).await;
}

async fn killed_with(mut command: Command, runs: &Path) {
    let mut first = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let deadline = tokio::time::Instant::now() + SOON;
    while recipe::lines(runs).is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the last step did not begin");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    first.kill().expect("killed");
    first.wait().expect("its end");
}

/// Guards that a journal file makes a killed run go on: what is done is not done again, what is retry-safe is.
#[tokio::test]
async fn a_local_run_that_was_killed_goes_on_from_its_journal_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (done, runs) = (scripts(folder.path()).join("done"), scripts(folder.path()).join("runs"));
    let steps = format!(
        "    - name: first\n      shell: {{ run: \"echo once >> {}\" }}\n    - name: second\n      shell:\n        retrySafe: true\n        run: |\n          echo run >> {runs}\n          if [ $(wc -l < {runs}) -lt 2 ]; then sleep 300; fi\n          echo resumed\n",
        done.display(),
        runs = runs.display(),
    );
    let file = folder.path().join("task.yaml");
    std::fs::write(&file, recipe::task("resumes", "", &steps)).expect("written");
    killed_in_its_last_step(folder.path(), &file, &runs).await;
    let second = output(local(folder.path(), &file, &["--journal", "journal"])).await;
    assert_eq!(second.status.code(), Some(0), "{}", said(&second));
    assert!(said(&second).contains("resumed"), "{}", said(&second));
    assert_eq!(recipe::lines(&done).len(), 1, "the first step is not run again");
    assert_eq!(recipe::lines(&runs).len(), 2, "the second is");
    let third = output(local(folder.path(), &file, &["--journal", "journal"])).await;
    assert_eq!(third.status.code(), Some(0), "{}", said(&third));
    assert!(said(&third).contains("this run ended at 2"), "{}", said(&third));
    assert!(
        said(&third).contains("nothing was run now; remove or rename journal to run the task again"),
        "{}",
        said(&third)
    );
    assert_eq!(recipe::lines(&runs).len(), 2, "and nothing was");
}

/// Guards that a sealed journal file makes a killed run go on with its key, and with nothing else.
#[tokio::test]
async fn a_local_run_with_a_pool_key_goes_on_from_its_journal_file_with_that_key_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (seen, runs) = (scripts(folder.path()).join("seen"), scripts(folder.path()).join("runs"));
    for name in ["pool-key", "other-key"] {
        let mut made = Command::new(Binaries::beside_this().expect("built").agent);
        made.args(["pool-key", "new", name]).current_dir(folder.path());
        assert_eq!(output(made).await.status.code(), Some(0));
    }
    let source = scripts(folder.path()).join("source");
    std::fs::write(&source, "sesame-Value-8812").expect("written");
    let steps = format!(
        "    - name: first\n      shell: {{ secretOutputs: [ TOKEN ], run: 'echo TOKEN=$(cat {source}) >> \"$DEPUTY_OUTPUT\"' }}\n    - name: second\n      shell:\n        retrySafe: true\n        env: {{ TOKEN: \"${{{{ steps.first.outputs.TOKEN }}}}\" }}\n        run: |\n          echo run >> {runs}\n          if [ $(wc -l < {runs}) -lt 2 ]; then sleep 300; fi\n          printf %s \"$TOKEN\" > {seen}\n",
        source = source.display(),
        runs = runs.display(),
        seen = seen.display(),
    );
    let file = folder.path().join("task.yaml");
    std::fs::write(&file, recipe::task("sealed", "", &steps)).expect("written");
    let sealed = ["--journal", "journal", "--pool-key-file", "pool-key"];
    killed_with(local(folder.path(), &file, &sealed), &runs).await;
    let journal = std::fs::read(folder.path().join("journal")).expect("the journal");
    assert!(!String::from_utf8_lossy(&journal).contains("sesame-Value-8812"));
    let before = |name: &str| std::fs::copy(folder.path().join("journal"), folder.path().join(name)).expect("copied");
    before("for-nobody");
    before("for-another");
    let without = output(local(folder.path(), &file, &["--journal", "for-nobody"])).await;
    assert!(
        said(&without).contains("this agent has no pool key"),
        "{}",
        said(&without)
    );
    let other = ["--journal", "for-another", "--pool-key-file", "other-key"];
    let other = output(local(folder.path(), &file, &other)).await;
    assert_eq!(other.status.code(), Some(7), "{}", said(&other));
    assert!(
        said(&other).contains("which this agent does not have"),
        "{}",
        said(&other)
    );
    assert_eq!(recipe::lines(&runs).len(), 1, "nothing was run");
    let second = output(local(folder.path(), &file, &sealed)).await;
    assert_eq!(second.status.code(), Some(0), "{}", said(&second));
    assert_eq!(std::fs::read_to_string(&seen).expect("written"), "sesame-Value-8812");
}

/// Guards that a script that may have run is never run again without being asked, and that the question stays open.
#[tokio::test]
async fn a_local_run_asks_before_it_runs_an_interrupted_script_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let runs = scripts(folder.path()).join("runs");
    let steps = format!(
        "    - name: second\n      shell:\n        run: |\n          echo run >> {runs}\n          if [ $(wc -l < {runs}) -lt 2 ]; then sleep 300; fi\n          echo resumed\n",
        runs = runs.display(),
    );
    let file = folder.path().join("task.yaml");
    std::fs::write(&file, recipe::task("asks", "  onFailure: rollback\n", &steps)).expect("written");
    killed_in_its_last_step(folder.path(), &file, &runs).await;
    for _ in 0..2 {
        let open = output(local(folder.path(), &file, &["--journal", "journal"])).await;
        assert_eq!(open.status.code(), Some(7), "{}", said(&open));
        let asked = format!("deputy-agent task {} --journal journal --redo second", file.display());
        assert!(said(&open).contains(&asked), "{}", said(&open));
        assert!(!said(&open).contains("deputy resolve"), "{}", said(&open));
    }
    let other = output(local(
        folder.path(),
        &file,
        &["--journal", "journal", "--redo", "first"],
    ))
    .await;
    assert_eq!(other.status.code(), Some(2), "{}", said(&other));
    assert_eq!(recipe::lines(&runs).len(), 1, "nothing was run without a decision");
    let again = output(local(
        folder.path(),
        &file,
        &["--journal", "journal", "--redo", "second"],
    ))
    .await;
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
    assert_eq!(recipe::lines(&runs).len(), 2);
}

/// Guards that what is hidden from a step's programs is not read for it by the agent, which no domain confines.
#[tokio::test]
async fn a_link_that_a_step_plants_among_manifests_is_not_followed_out_of_the_source() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("app/k8s")).expect("made");
    std::fs::create_dir(folder.path().join("secrets")).expect("made");
    let hidden = folder.path().join("secrets/hidden.yaml");
    std::fs::write(&hidden, "apiVersion: { password: canary }\n").expect("written");
    let hidden = hidden.display();
    for (plant, told) in [
        (format!("ln -s {hidden} k8s/x.yaml"), "k8s/x.yaml is a link to"),
        (
            format!("rmdir k8s; ln -s {} k8s", folder.path().join("secrets").display()),
            "k8s is a link to",
        ),
        (
            "mkfifo k8s/x.yaml".to_owned(),
            "k8s/x.yaml is neither a file nor a folder",
        ),
    ] {
        let steps = format!(
            "    - name: plant\n      shell: {{ source: app, run: '! cat {hidden} && {plant}' }}\n    - name: apply\n      kubernetesApply: {{ cluster: prod, source: app, files: [ k8s ] }}\n"
        );
        let more = format!("{}  sources: [ {{ name: app, bundle: ./app }} ]\n", recipe::AWS);
        let file = folder.path().join("task.yaml");
        std::fs::write(&file, recipe::task("links", &more, &steps)).expect("written");
        let more = ["--confinement", "required"];
        let mut command = local(folder.path(), &file, &more);
        command.env("DEPUTY_SECRETS_FOLDER", folder.path().join("secrets"));
        let run = output(command).await;
        let said = said(&run);
        assert_eq!(run.status.code(), Some(1), "{said}");
        assert!(said.contains(told) && !said.contains("canary"), "{said}");
    }
}
