//! What the machine or container gives the agent: folders, disk, memory, processes, open files.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use deputy_process::{Confinement, Support};
use rustix::process::{Resource, getrlimit};

use super::control_group::{self, MEMORY, PROCESSES};
use super::report::{Finding, Verdict};
use crate::agent_id::found_id;
use crate::config::checked::{Config, Mode};
use crate::exit::StartupError;
use crate::identity_file::Openness;
use crate::work_root::{Found, look_through};

const AREA: &str = "machine";

/// Each task's children and the agent's own connections need some.
const FEW_OPEN_FILES: u64 = 1024;

/// The agent itself needs about 20 MiB; a `kubectl` or `helm` beside it needs 100.
const LITTLE_MEMORY: u64 = 192 << 20;

/// A shell step with a pipeline needs a handful, the AWS CLI some threads.
const FEW_PROCESSES: u64 = 128;

/// What gives it to an agent that has it not.
const NO_LANDLOCK: &str =
    "run the agent on Linux 5.13 or newer, with `landlock` among its security modules and let through by seccomp";

/// What no domain hides.
const READABLE: &str =
    "can read the arguments of other tasks' processes (/proc/PID/cmdline) and hold up their credential endpoints";

/// Less room than this for workspaces is soon used up.
const LITTLE_DISK: u64 = 256 << 20;

/// Everything about the machine.
pub(crate) fn findings(config: &Config) -> Vec<Finding> {
    let work = work_folder(config.work_folder.as_deref(), config.spool_limit_bytes);
    let mut findings = vec![user(), work];
    findings.extend(config.state_folder.as_deref().map(state_folder));
    findings.extend(agent_id(config));
    findings.extend(config.health_listen.and_then(health_address));
    findings.extend(config.secrets_folder.as_deref().and_then(secrets_folder));
    findings.push(children(config.confinement, Confinement::support()));
    findings.push(open_files());
    findings.push(memory(control_group::limit(MEMORY)));
    findings.push(processes(control_group::limit(PROCESSES)));
    findings
}

fn user() -> Finding {
    let user = rustix::process::geteuid();
    if user.is_root() {
        return Finding::new(AREA, "user", Verdict::Warning, "runs as root")
            .hint("nothing that the agent does needs root: run it as a user of its own, for example 65532");
    }
    Finding::good(AREA, "user", format!("user {}", user.as_raw()))
}

fn work_folder(chosen: Option<&Path>, spool_limit: u64) -> Finding {
    let check = "work folder";
    let Found { root, is_there } = match look_through(chosen) {
        Ok(found) => found,
        Err(error) => return unusable(check, &error),
    };
    let shown = if is_there {
        root.display().to_string()
    } else {
        format!(
            "{}, which is missing and which the agent makes at its start,",
            root.display()
        )
    };
    // Where a missing one will be, there is as much room as above it.
    match root.ancestors().find_map(free_bytes) {
        None => Finding::good(AREA, check, format!("{shown} is this user's alone")),
        Some(free) if free < LITTLE_DISK => Finding::new(
            AREA,
            check,
            Verdict::Warning,
            format!("{shown} has {} free", size(free)),
        )
        .hint("workspaces, bundles and logs that wait for the manager lie there: give it a larger disk"),
        Some(free) if free < spool_limit => Finding::new(
            AREA,
            check,
            Verdict::Warning,
            format!(
                "{shown} has {} free, and spool_limit is {}",
                size(free),
                size(spool_limit)
            ),
        )
        .hint("lower spool_limit, or give it a larger disk: a full disk makes gaps in logs"),
        Some(free) => Finding::good(
            AREA,
            check,
            format!("{shown} is this user's alone, {} free", size(free)),
        ),
    }
}

fn state_folder(folder: &Path) -> Finding {
    let check = "state folder";
    let shown = folder.display();
    match Openness::of(folder) {
        Ok(Openness::Closed) => Finding::good(AREA, check, format!("{shown} is this user's alone")),
        Ok(Openness::Missing) => Finding::good(
            AREA,
            check,
            format!("{shown} is missing; the agent makes it at its start, for this user alone"),
        ),
        Ok(Openness::Open { mode }) => Finding::new(
            AREA,
            check,
            Verdict::Warning,
            format!("{shown} is open to others, with mode {mode:04o}; the agent closes it when it starts"),
        )
        .hint(format!(
            "close it now (chmod 700 {shown}), and look at who has written to it"
        )),
        Err(error) => unusable(check, &error),
    }
}

/// A kept id that cannot be used, where it is needed: the agent would not start.
fn agent_id(config: &Config) -> Option<Finding> {
    kept_id(config.state_folder.as_deref().filter(|_| config.agent_id.is_none())?)
}

fn kept_id(folder: &Path) -> Option<Finding> {
    found_id(folder).err().map(|error| unusable("agent id", &error))
}

/// An address that is not this machine's: the agent would not start. That the port is taken says nothing: the agent that
/// is looked at may have it.
fn health_address(address: SocketAddr) -> Option<Finding> {
    let error = TcpListener::bind((address.ip(), 0)).err()?;
    let what = format!("health checks cannot be served at {}: {error}", address.ip());
    let hint = "choose with --health-listen an address of this machine, for example 0.0.0.0:8080";
    Some(Finding::new(AREA, "health", Verdict::Bad, what).hint(hint))
}

fn secrets_folder(folder: &Path) -> Option<Finding> {
    let error = std::fs::read_dir(folder).err()?;
    let what = format!("{} cannot be read: {error}", folder.display());
    let hint =
        "mount the secrets there, or name with --secrets-folder where they are; steps that refer to its files fail";
    Some(Finding::new(AREA, "secrets folder", Verdict::Warning, what).hint(hint))
}

fn unusable(check: &str, error: &StartupError) -> Finding {
    let mut finding = Finding::new(AREA, check, Verdict::Bad, error.to_string()).hint(error.hint());
    finding.detail = error.causes().join("\n");
    finding
}

fn children(mode: Mode, support: Support) -> Finding {
    let check = "children";
    match (mode, support) {
        (Mode::Off, _) => Finding::new(AREA, check, Verdict::Warning, "are not confined: confinement is off")
            .hint("leave confinement at auto: a step can read what the agent's user can, its tokens too"),
        (Mode::Required, Support::Missing) => {
            Finding::new(AREA, check, Verdict::Bad, "confinement is required, and Landlock is missing").hint(NO_LANDLOCK)
        }
        (Mode::Auto, Support::Missing) => {
            Finding::new(AREA, check, Verdict::Warning, "are not confined: Landlock is missing").hint(format!(
                "{NO_LANDLOCK}. Until then a step can read what the agent's user can, and tasks of different projects or role chains wait for each other"
            ))
        }
        (Mode::Auto | Mode::Required, Support::NoSignals) => Finding::new(
            AREA,
            check,
            Verdict::Warning,
            format!("are confined, and can send signals to the agent, and {READABLE}"),
        )
        .hint("from Linux 6.12 on they cannot send any"),
        (Mode::Auto | Mode::Required, Support::Full) => {
            Finding::good(AREA, check, format!("are confined by Landlock, and {READABLE}"))
        }
    }
}

fn open_files() -> Finding {
    let check = "open files";
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < FEW_OPEN_FILES => {
            Finding::new(AREA, check, Verdict::Warning, format!("at most {limit}")).hint(format!(
                "raise the limit to {FEW_OPEN_FILES} or more (docker: --ulimit nofile=65536; ECS: ulimits)"
            ))
        }
        Some(limit) => Finding::good(AREA, check, format!("up to {limit}")),
        None => Finding::good(AREA, check, "no limit"),
    }
}

fn memory(limit: Option<u64>) -> Finding {
    let check = "memory";
    match limit {
        Some(limit) if limit < LITTLE_MEMORY => Finding::new(
            AREA,
            check,
            Verdict::Warning,
            format!("the container may use {}", size(limit)),
        )
        .hint("kubectl or helm alone may need 100 MiB: give the container 256 MiB or more"),
        Some(limit) => Finding::good(AREA, check, format!("the container may use {}", size(limit))),
        None => Finding::good(AREA, check, "no limit of its own"),
    }
}

fn processes(limit: Option<u64>) -> Finding {
    let check = "processes";
    match limit {
        Some(limit) if limit < FEW_PROCESSES => {
            Finding::new(AREA, check, Verdict::Warning, format!("at most {limit} at a time"))
                .hint("scripts start children of their own: raise the limit (docker: --pids-limit)")
        }
        Some(limit) => Finding::good(AREA, check, format!("up to {limit} at a time")),
        None => Finding::good(AREA, check, "no limit of its own"),
    }
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// In the largest unit that leaves a whole number of at least two digits.
fn size(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(unit, _)| bytes / unit >= 10);
    unit.map_or_else(
        || format!("{bytes} bytes"),
        |(unit, name)| format!("{} {name}", bytes / unit),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity_file::IdentityFile;

    #[test]
    fn little_is_a_warning_and_none_is_no_limit() {
        assert_eq!(memory(None).verdict, Verdict::Good);
        assert_eq!(memory(Some(96 << 20)).verdict, Verdict::Warning);
        assert_eq!(memory(Some(512 << 20)).summary, "the container may use 512 MiB");
        assert_eq!(processes(Some(32)).verdict, Verdict::Warning);
        assert_eq!(processes(Some(1000)).verdict, Verdict::Good);
    }

    #[test]
    fn children_that_are_not_confined_are_told_with_what_to_do() {
        for (mode, support, verdict) in [
            (Mode::Auto, Support::Full, Verdict::Good),
            (Mode::Required, Support::NoSignals, Verdict::Warning),
            (Mode::Auto, Support::Missing, Verdict::Warning),
            (Mode::Off, Support::Full, Verdict::Warning),
            (Mode::Required, Support::Missing, Verdict::Bad),
        ] {
            let found = children(mode, support);
            assert_eq!(found.verdict, verdict, "{found:?}");
            assert_eq!(found.hint.is_empty(), verdict == Verdict::Good, "{found:?}");
        }
    }

    #[test]
    fn what_the_agent_cannot_listen_at_or_read_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address");
        assert!(
            health_address(address).is_none(),
            "the agent beside it may have the port"
        );
        let elsewhere = health_address("192.0.2.1:8080".parse().expect("an address")).expect("not this machine's");
        assert_eq!(elsewhere.verdict, Verdict::Bad, "{elsewhere:?}");
        let folder = tempfile::tempdir().expect("a folder");
        assert!(secrets_folder(folder.path()).is_none());
        let missing = secrets_folder(&folder.path().join("missing")).expect("not there");
        assert_eq!(missing.verdict, Verdict::Warning, "{missing:?}");
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (9_999, "9999 bytes"),
            (20_480, "20 KiB"),
            (5 << 30, "5120 MiB"),
            (77 << 30, "77 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_told_as_the_agent_would_tell_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("a file");
        let error = crate::work_root::work_root(Some(&file)).expect_err("no folder");
        let finding = unusable("work folder", &error);
        assert_eq!(finding.verdict, Verdict::Bad);
        assert!(finding.summary.starts_with("cannot use "), "{finding:?}");
        assert!(finding.detail.starts_with("caused by: "), "{finding:?}");
        assert!(finding.hint.starts_with("choose a folder"), "{finding:?}");
        let found = work_folder(Some(&file), 1);
        assert_eq!((found.summary, found.detail), (finding.summary, finding.detail));
    }

    /// Guards that the exit code says it, as the agent's own would.
    #[test]
    fn what_is_in_the_way_inside_the_folders_is_bad() {
        let folder = tempfile::tempdir().expect("a folder");
        let work = folder.path().join("work-folder");
        crate::work_root::work_root(Some(&work)).expect("made");
        assert_eq!(work_folder(Some(&work), 1).verdict, Verdict::Good);
        std::fs::write(work.join("spool"), "").expect("a file");
        assert_eq!(work_folder(Some(&work), 1).verdict, Verdict::Bad);
        let state = folder.path();
        assert!(kept_id(state).is_none(), "none is kept yet");
        std::fs::write(state.join("agent-id"), "").expect("a file");
        let found = kept_id(state).expect("told");
        assert_eq!(found.verdict, Verdict::Bad, "{found:?}");
        assert!(found.hint.contains("generates a new id"), "{found:?}");
    }

    #[test]
    fn a_missing_work_folder_is_told_and_not_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("not/there");
        let found = work_folder(Some(&missing), 1);
        assert!(
            found
                .summary
                .contains("is missing and which the agent makes at its start"),
            "{found:?}"
        );
        assert!(!folder.path().join("not").exists(), "looking makes nothing");
        crate::work_root::work_root(Some(&missing)).expect("the agent makes it");
        let found = work_folder(Some(&missing), 1);
        assert!(
            found.summary.contains("is this user's alone") && !found.summary.contains("missing"),
            "{found:?}"
        );
        // Its mode lets nobody else in, and it takes no files, whoever asks.
        let unwritable = work_folder(Some(Path::new("/proc/self/fd")), 1);
        assert_eq!(unwritable.verdict, Verdict::Bad, "{unwritable:?}");
    }

    #[test]
    fn a_state_folder_is_judged_as_the_agent_judges_it_and_left_as_it_is() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let mode = || folder.path().metadata().expect("there").permissions().mode() & 0o7777;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o775)).expect("mode");
        let open = state_folder(folder.path());
        assert_eq!((open.verdict, mode()), (Verdict::Warning, 0o775), "{open:?}");
        assert!(
            open.summary.contains("mode 0775; the agent closes it when it starts"),
            "{open:?}"
        );
        IdentityFile::in_folder(folder.path()).expect("the agent closes it");
        assert_eq!((state_folder(folder.path()).verdict, mode()), (Verdict::Good, 0o700));
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("a file");
        // Closed to others, and it takes no files, whoever asks.
        for bad in [file.as_path(), Path::new("/proc/self/fd")] {
            let refused = IdentityFile::in_folder(bad).expect_err("of no use").to_string();
            let found = state_folder(bad);
            assert_eq!((found.verdict, found.summary), (Verdict::Bad, refused));
        }
    }
}
