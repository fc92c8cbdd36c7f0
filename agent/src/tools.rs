//! Which programs this agent can use. Finding them and reading their first bytes takes well under a
//! millisecond and is part of Hello; asking each for its version takes as long as it takes and
//! follows as a Capabilities frame.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use deputy_process::{ChildCommand, RunError, run_captured};
use deputy_task::capability::Tool;

/// How long a program may take to say its version. `aws` is a Python program on a cold disk.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

/// Most bytes of an answer that are looked at.
const ANSWER_BYTES: usize = 4096;

/// A program that steps may need, and how it says its version; empty: it does not.
struct Known {
    name: &'static str,
    version_args: &'static [&'static str],
}

const KNOWN: [Known; 8] = [
    Known {
        name: "bash",
        version_args: &["--version"],
    },
    Known {
        name: "sh",
        version_args: &[],
    },
    Known {
        name: "git",
        version_args: &["--version"],
    },
    Known {
        name: "aws",
        version_args: &["--version"],
    },
    Known {
        name: "kubectl",
        version_args: &["version", "--client"],
    },
    Known {
        name: "helm",
        version_args: &["version", "--short"],
    },
    Known {
        name: "terraform",
        version_args: &["version"],
    },
    Known {
        name: "aws-iam-authenticator",
        version_args: &["version"],
    },
];

/// The programs that are looked for.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|known| known.name)
}

/// What is on `path`, without running anything.
pub(crate) fn find(path: &OsStr) -> Vec<Tool> {
    let found = KNOWN.iter().filter_map(|known| {
        let found = which::which_in_global(known.name, Some(path)).ok()?.next()?;
        let problem = read_head(&found)
            .and_then(|head| foreign(&head, std::env::consts::ARCH))
            .unwrap_or_default();
        Some(Tool {
            name: known.name.into(),
            version: String::new(),
            path: found.display().to_string(),
            problem,
        })
    });
    found.collect()
}

/// The same tools with their versions; those that cannot be run say why.
pub(crate) async fn ask_versions(mut tools: Vec<Tool>, path: &OsStr) -> Vec<Tool> {
    // One after the other: this is not urgent, and the machine may be small.
    for tool in tools.iter_mut().filter(|tool| tool.problem.is_empty()) {
        let Some(known) = KNOWN.iter().find(|known| known.name == tool.name) else {
            continue;
        };
        if known.version_args.is_empty() {
            continue;
        }
        match ask(Path::new(&tool.path), known.version_args, path).await {
            Ok(answer) => tool.version = version_in(&answer).unwrap_or_default(),
            Err(problem) => tool.problem = problem,
        }
    }
    tools
}

async fn ask(program: &Path, args: &[&str], path: &OsStr) -> Result<String, String> {
    let command = ChildCommand::new(program)
        .args(args.iter().copied())
        .env("PATH", path)
        .env("HOME", "/nonexistent");
    let output = match run_captured(command, VERSION_TIMEOUT, ANSWER_BYTES).await {
        Ok(output) => output,
        Err(RunError::Spawn(error)) => return Err(cannot_run(program, &error.source)),
        Err(RunError::TimedOut { .. }) => return Err(format!("did not say its version within {VERSION_TIMEOUT:?}")),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.exit.succeeded() {
        // Some versions of aws answer on standard error.
        let answer = if output.stdout.is_empty() {
            &output.stderr
        } else {
            &output.stdout
        };
        return Ok(text(answer));
    }
    let said = text(&output.stderr);
    let said = said
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("nothing")
        .trim()
        .to_owned();
    Err(format!(
        "`{} {}` failed ({}); it said: {said}",
        program.display(),
        args.join(" "),
        output.exit
    ))
}

/// The system's word for a broken program is rarely the reason.
fn cannot_run(program: &Path, error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => {
            format!(
                "{} is there, but the program or library that it needs to start is not",
                program.display()
            )
        }
        ErrorKind::PermissionDenied => format!("{} may not be run by this user", program.display()),
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            format!("{} is not a program that this system can run", program.display())
        }
        _ => format!("{} cannot be run: {error}", program.display()),
    }
}

fn read_head(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::with_capacity(20);
    File::open(path).ok()?.take(20).read_to_end(&mut head).ok()?;
    Some(head)
}

/// Why a file with these first bytes cannot run on `arch`; none if it can, or if it is no binary.
fn foreign(head: &[u8], arch: &str) -> Option<String> {
    match head {
        [] => Some("the file is empty".into()),
        [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => Some("it is a program for macOS".into()),
        [b'M', b'Z', ..] => Some("it is a program for Windows".into()),
        [0x7f, b'E', b'L', b'F', _, order, ..] => {
            let machine: [u8; 2] = head.get(18..20)?.try_into().ok()?;
            let machine = if *order == 2 {
                u16::from_be_bytes(machine)
            } else {
                u16::from_le_bytes(machine)
            };
            let built_for = match machine {
                3 => "x86",
                21 => "powerpc64",
                22 => "s390x",
                40 => "arm",
                62 => "x86_64",
                183 => "aarch64",
                243 => "riscv64",
                258 => "loongarch64",
                _ => "another kind of CPU",
            };
            // An x86_64 kernel usually runs x86 programs too.
            let runs = built_for == arch || (built_for == "x86" && arch == "x86_64");
            (!runs)
                .then(|| format!("it is built for {built_for}, and this machine is {arch}; install the {arch} build"))
        }
        _ => None,
    }
}

/// The first thing that looks like a version: digits, a dot, digits, and what follows.
fn version_in(answer: &str) -> Option<String> {
    let words = answer.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_')));
    let looks_right = |word: &&str| {
        let mut parts = word.split('.');
        let digits = |part: Option<&str>| part.is_some_and(|part| part.starts_with(|c: char| c.is_ascii_digit()));
        digits(parts.next()) && digits(parts.next())
    };
    words
        .map(|word| word.rsplit_once("cli-").map_or(word, |(_, version)| version))
        .map(|word| word.trim_start_matches('v'))
        .find(looks_right)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (answer, version) in [
            (
                "GNU bash, version 5.2.15(1)-release (x86_64-pc-linux-gnu)",
                Some("5.2.15"),
            ),
            ("git version 2.39.5", Some("2.39.5")),
            ("aws-cli/2.17.1 Python/3.11.6 Linux/5.10", Some("2.17.1")),
            ("Client Version: v1.35.0\nKustomize Version: v5.7.1", Some("1.35.0")),
            ("v3.14.0+g3fc9f4b", Some("3.14.0+g3fc9f4b")),
            ("Terraform v1.9.0\non linux_amd64", Some("1.9.0")),
            (r#"{"Version":"v0.7.2","Commit":"abc"}"#, Some("0.7.2")),
            ("no idea", None),
            ("", None),
        ] {
            assert_eq!(version_in(answer).as_deref(), version, "{answer}");
        }
    }

    #[test]
    fn a_program_for_another_cpu_or_system_is_explained() {
        let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 183, 0];
        let problem = foreign(&elf, "x86_64").expect("foreign");
        assert_eq!(
            problem,
            "it is built for aarch64, and this machine is x86_64; install the x86_64 build"
        );
        assert_eq!(foreign(&elf, "aarch64"), None);
        elf[18] = 62;
        assert_eq!(foreign(&elf, "x86_64"), None);
        assert_eq!(foreign(b"#!/bin/sh\n", "x86_64"), None);
        assert_eq!(
            foreign(&[0xcf, 0xfa, 0xed, 0xfe], "x86_64").as_deref(),
            Some("it is a program for macOS")
        );
        assert_eq!(foreign(&[], "x86_64").as_deref(), Some("the file is empty"));
        assert_eq!(
            foreign(&[0x7f, b'E', b'L', b'F', 2, 1], "x86_64"),
            None,
            "cut short: left to running it"
        );
    }

    #[tokio::test]
    async fn a_broken_program_is_found_and_says_why() {
        let folder = tempfile::tempdir().expect("folder");
        let script = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode");
        };
        script("git", "#!/bin/sh\necho git version 9.8.7\n");
        script("helm", "#!/bin/sh\necho no such thing >&2\nexit 3\n");
        script("kubectl", "#!/no/such/interpreter\n");
        let tools = ask_versions(find(folder.path().as_os_str()), OsStr::new("/usr/bin:/bin")).await;
        let of = |name: &str| tools.iter().find(|tool| tool.name == name).expect("found").clone();
        assert_eq!((of("git").version.as_str(), of("git").problem.as_str()), ("9.8.7", ""));
        assert!(
            of("helm").problem.contains("it said: no such thing"),
            "{}",
            of("helm").problem
        );
        assert!(
            of("kubectl").problem.contains("needs to start is not"),
            "{}",
            of("kubectl").problem
        );
        assert_eq!(tools.len(), 3);
    }
}
