//! The command that repairs what a task left behind, from how it ended and who can be asked to go on.
//! Called where a result is made: by the executor, and by a manager that ends a task itself. Names
//! nothing that cannot work: an ended task cannot be resolved, and a local run has no manager to ask.

use crate::id::TaskId;
use crate::outcome::{Outcome, World};

/// Who takes a decision about a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steering {
    /// A manager, with the commands of `deputy`.
    Manager,
    /// Nobody but the person who started it.
    Local(LocalCommand),
}

/// How a local run is started, as words for a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalCommand {
    /// `deputy-agent task FILE` and what else was given, without its journal.
    pub start: String,
    /// Its journal, if it is kept in a file.
    pub journal: Option<String>,
}

/// What is known about a task that has ended.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Which task.
    pub task: &'a TaskId,
    /// How it ended.
    pub outcome: Outcome,
    /// What it left behind.
    pub world: World,
    /// The steps of which an undo left something.
    pub left: &'a [String],
}

/// The command, and after `#` what it is for or what must be done first; empty if nothing is to be
/// repaired, or nothing can be by the same task.
#[must_use]
pub fn repair(end: End<'_>, steering: &Steering) -> String {
    match end.outcome {
        Outcome::Succeeded => return String::new(),
        // The same document would be refused again.
        Outcome::Rejected => return String::new(),
        Outcome::Failed | Outcome::Cancelled | Outcome::TimedOut | Outcome::Expired => {}
    }
    let again = again(end.task, steering);
    let looks_first = match end.world {
        World::Unchanged | World::RolledBack => return again,
        World::Changed => return format!("{again}   # begins with the first step; what was done stays"),
        World::RollbackFailed => format!("put back by hand what is left{}", of_steps(end.left)),
        World::Unknown => "find out whether what remains happened, and put it right".to_owned(),
    };
    match steering {
        Steering::Manager => format!("deputy get {} --journal   # {looks_first}; then: {again}", end.task),
        Steering::Local(_) => format!("{again}   # before that, {looks_first}"),
    }
}

/// The command that begins again with the first step.
fn again(task: &TaskId, steering: &Steering) -> String {
    match steering {
        Steering::Manager => format!("deputy retry {task}"),
        Steering::Local(LocalCommand { start, journal: None }) => start.clone(),
        // With the journal of a run that has ended, only its result would be shown again.
        Steering::Local(LocalCommand {
            start,
            journal: Some(journal),
        }) => format!("mv {journal} {journal}.ended && {start} --journal {journal}"),
    }
}

fn of_steps(left: &[String]) -> String {
    match left {
        [] => String::new(),
        [only] => format!(" of step {only}"),
        [rest @ .., last] => format!(" of steps {} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDED: [(Outcome, World); 8] = [
        (Outcome::Succeeded, World::Changed),
        (Outcome::Succeeded, World::Unchanged),
        (Outcome::Rejected, World::Unchanged),
        (Outcome::Expired, World::Unchanged),
        (Outcome::Cancelled, World::RolledBack),
        (Outcome::TimedOut, World::Changed),
        (Outcome::Failed, World::Unknown),
        (Outcome::Failed, World::RollbackFailed),
    ];

    fn table(steering: &Steering, left: &[&str]) -> String {
        let left: Vec<String> = left.iter().map(ToString::to_string).collect();
        let task: TaskId = "t1".parse().expect("id");
        let line = |(outcome, world)| {
            let end = End {
                task: &task,
                outcome,
                world,
                left: &left,
            };
            format!("{outcome:?}, {world:?}: {:?}", repair(end, steering))
        };
        ENDED.map(line).join("\n")
    }

    #[test]
    fn a_manager_is_asked_for_what_it_can_still_do_with_an_ended_task() {
        insta::assert_snapshot!(table(&Steering::Manager, &["api", "db"]), @r#"
        Succeeded, Changed: ""
        Succeeded, Unchanged: ""
        Rejected, Unchanged: ""
        Expired, Unchanged: "deputy retry t1"
        Cancelled, RolledBack: "deputy retry t1"
        TimedOut, Changed: "deputy retry t1   # begins with the first step; what was done stays"
        Failed, Unknown: "deputy get t1 --journal   # find out whether what remains happened, and put it right; then: deputy retry t1"
        Failed, RollbackFailed: "deputy get t1 --journal   # put back by hand what is left of steps api and db; then: deputy retry t1"
        "#);
    }

    #[test]
    fn a_local_run_names_only_itself() {
        let local = Steering::Local(LocalCommand {
            start: "deputy-agent task deploy.yaml".into(),
            journal: None,
        });
        insta::assert_snapshot!(table(&local, &["api"]), @r#"
        Succeeded, Changed: ""
        Succeeded, Unchanged: ""
        Rejected, Unchanged: ""
        Expired, Unchanged: "deputy-agent task deploy.yaml"
        Cancelled, RolledBack: "deputy-agent task deploy.yaml"
        TimedOut, Changed: "deputy-agent task deploy.yaml   # begins with the first step; what was done stays"
        Failed, Unknown: "deputy-agent task deploy.yaml   # before that, find out whether what remains happened, and put it right"
        Failed, RollbackFailed: "deputy-agent task deploy.yaml   # before that, put back by hand what is left of step api"
        "#);
    }

    #[test]
    fn a_local_run_puts_its_ended_journal_aside() {
        let local = Steering::Local(LocalCommand {
            start: "deputy-agent task deploy.yaml --input image=api:2".into(),
            journal: Some("run.journal".into()),
        });
        insta::assert_snapshot!(table(&local, &[]), @r#"
        Succeeded, Changed: ""
        Succeeded, Unchanged: ""
        Rejected, Unchanged: ""
        Expired, Unchanged: "mv run.journal run.journal.ended && deputy-agent task deploy.yaml --input image=api:2 --journal run.journal"
        Cancelled, RolledBack: "mv run.journal run.journal.ended && deputy-agent task deploy.yaml --input image=api:2 --journal run.journal"
        TimedOut, Changed: "mv run.journal run.journal.ended && deputy-agent task deploy.yaml --input image=api:2 --journal run.journal   # begins with the first step; what was done stays"
        Failed, Unknown: "mv run.journal run.journal.ended && deputy-agent task deploy.yaml --input image=api:2 --journal run.journal   # before that, find out whether what remains happened, and put it right"
        Failed, RollbackFailed: "mv run.journal run.journal.ended && deputy-agent task deploy.yaml --input image=api:2 --journal run.journal   # before that, put back by hand what is left"
        "#);
    }
}
