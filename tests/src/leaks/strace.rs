//! What a process and everything that it started did, as `strace` saw it: programs with their arguments and
//! environment, files opened, files written. Pipes and sockets are left out: the one carry output on its way to the
//! redactor, the other is recorded by whoever receives it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};

use super::scan::Extent;

/// Arguments of `strace` before the program: everything whole, every byte in hexadecimal.
#[must_use]
pub fn arguments(trace: &Path) -> Vec<OsString> {
    let calls = "trace=clone,clone3,fork,vfork,execve,execveat,open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,write,writev,pwrite64,pwritev,pwritev2";
    let fixed = ["-f", "-yy", "-xx", "-v", "-s", "1048576", "-e", calls, "-o"];
    let mut all: Vec<OsString> = fixed.iter().map(OsString::from).collect();
    all.push(trace.into());
    all
}

/// How a process makes another.
const MAKING: [&str; 4] = ["clone", "clone3", "fork", "vfork"];

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The process, or the thread, that made it.
    pub process: u32,
    /// For a finding, for example `execve of /bin/sh, environment`.
    pub place: String,
    /// What it was given.
    pub bytes: Vec<u8>,
}

/// What a trace says.
#[derive(Debug, Default)]
pub struct Trace {
    /// Everything that could hold a secret.
    pub seen: Vec<Seen>,
    /// Who was made by whom.
    pub parents: BTreeMap<u32, u32>,
    /// Programs started.
    pub executions: u64,
    /// Files written to.
    pub files_written: std::collections::BTreeSet<String>,
    /// What was looked through.
    pub extent: Extent,
}

impl Trace {
    /// Reads the file that `strace -o` wrote.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let mut trace = Self::default();
        for line in text.lines() {
            trace.line(line);
        }
        trace.extent.places = u64::try_from(trace.seen.len())?;
        let bytes: usize = trace.seen.iter().map(|seen| seen.bytes.len()).sum();
        trace.extent.bytes = u64::try_from(bytes)?;
        Ok(trace)
    }

    /// Is it the process, or was it made by it, or by what that made?
    #[must_use]
    pub fn descends(&self, mut process: u32, from: u32) -> bool {
        // Ids are used again only after thousands of others; this ends whatever a trace says.
        for _ in 0..1_000 {
            if process == from {
                return true;
            }
            match self.parents.get(&process) {
                Some(parent) => process = *parent,
                None => return false,
            }
        }
        false
    }

    fn line(&mut self, line: &str) {
        let process = line.split(' ').next().and_then(|id| id.parse().ok()).unwrap_or(0);
        self.making(process, line);
        let Some((head, rest)) = line.split_once('(') else {
            return;
        };
        // The rest of a call that was interrupted repeats no argument.
        let name = head.trim_start_matches(|c: char| c.is_ascii_digit()).trim();
        if MAKING.contains(&name) {
            return;
        }
        if name.contains("resumed>") || name.contains("---") || name.contains("+++") {
            return;
        }
        match name {
            "execve" | "execveat" => self.execution(process, rest),
            "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" => self.writing(process, name, rest),
            _ => {
                let strings = strings(rest);
                self.seen.push(Seen {
                    process,
                    place: format!(
                        "{name} of {}",
                        String::from_utf8_lossy(strings.first().map_or(&[], Vec::as_slice))
                    ),
                    bytes: strings.join(&b' '),
                });
            }
        }
    }

    /// `1 clone(…) = 2`, or its end alone: `1 <... clone resumed>…) = 2`.
    fn making(&mut self, process: u32, line: &str) {
        let call = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
        let call = call.trim_start_matches("<... ");
        let name = call.split(['(', ' ']).next().unwrap_or_default();
        if let Some((_, made)) = line.rsplit_once(" = ")
            && MAKING.contains(&name)
            && let Ok(made) = made.trim().parse()
        {
            self.parents.insert(made, process);
        }
    }

    fn execution(&mut self, process: u32, rest: &str) {
        self.executions += 1;
        let mut lists = rest.splitn(3, '[');
        let program = strings(lists.next().unwrap_or_default()).concat();
        let program = String::from_utf8_lossy(&program).into_owned();
        for (what, list) in ["arguments", "environment"].into_iter().zip(lists) {
            self.seen.push(Seen {
                process,
                place: format!("execve of {program}, {what}"),
                bytes: strings(list).join(&0),
            });
        }
    }

    fn writing(&mut self, process: u32, name: &str, rest: &str) {
        let Some(target) = target(rest) else { return };
        self.files_written.insert(target.clone());
        self.seen.push(Seen {
            process,
            place: format!("{name} to {target}"),
            bytes: strings(after_target(rest)).concat(),
        });
    }
}

/// Files, although they are among the devices.
const MEMORY_FILES: [&str; 2] = ["/dev/shm/", "/dev/mqueue/"];

/// The path behind a file descriptor; none for pipes, sockets and devices.
fn target(rest: &str) -> Option<String> {
    let shown = rest.split_once('<')?.1;
    let shown = shown.split(['>', '<']).next()?;
    if !shown.starts_with("\\x2f") {
        return None;
    }
    let path = String::from_utf8_lossy(&unescaped(shown)).into_owned();
    let is_device = path.starts_with("/dev/") && !MEMORY_FILES.iter().any(|folder| path.starts_with(folder));
    (!is_device).then_some(path)
}

fn after_target(rest: &str) -> &str {
    rest.split_once(", ").map_or("", |(_, after)| after)
}

/// Every quoted string.
fn strings(text: &str) -> Vec<Vec<u8>> {
    let quoted = text.split('"').skip(1).step_by(2);
    quoted.map(unescaped).collect()
}

/// `\x2f\x74` as bytes.
fn unescaped(text: &str) -> Vec<u8> {
    let digits = text.split("\\x").skip(1);
    digits
        .filter_map(|two| u8::from_str_radix(two.get(..2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_real_trace_says_what_was_started_and_written() {
        let missing = Command::new("strace").arg("-V").output().is_err();
        let missing = missing.then(|| "strace is not installed".to_owned());
        if crate::skip::skips("a_real_trace_says_what_was_started_and_written", missing) {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let trace = folder.path().join("trace");
        let shared = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
        let shared = shared.path().join("out");
        let script = "echo written > out; printf piped | cat > /dev/null; MARK=in-environment /bin/echo in-arguments; echo in-memory > SHARED";
        let script = script.replace("SHARED", &shared.display().to_string());
        let run = Command::new("strace")
            .args(arguments(&trace))
            .args(["/bin/sh", "-c", &script])
            .current_dir(folder.path())
            .output();
        assert!(run.expect("strace is installed").status.success());
        let trace = Trace::read(&trace).expect("a trace");
        let place_of = |bytes: &str| {
            let with = |seen: &&Seen| String::from_utf8_lossy(&seen.bytes).contains(bytes);
            trace.seen.iter().rev().find(with).map(|seen| seen.place.clone())
        };
        assert_eq!(
            place_of("in-environment").as_deref(),
            Some("execve of /bin/echo, environment")
        );
        assert_eq!(
            place_of("written\n").as_deref(),
            Some(format!("write to {}", folder.path().join("out").display()).as_str())
        );
        assert_eq!(
            place_of("in-memory\n").as_deref(),
            Some(format!("write to {}", shared.display()).as_str())
        );
        let arguments = trace
            .seen
            .iter()
            .filter(|seen| seen.place == "execve of /bin/echo, arguments");
        assert_eq!(
            arguments.map(|seen| seen.bytes.clone()).collect::<Vec<_>>(),
            [b"/bin/echo\0in-arguments"]
        );
        assert!(
            !trace.seen.iter().any(|seen| seen.bytes == b"piped"),
            "a pipe is no file"
        );
        assert!(trace.executions >= 2);
        let process = |program: &str| {
            let place = format!("execve of {program}, arguments");
            trace
                .seen
                .iter()
                .find(|seen| seen.place == place)
                .expect("started")
                .process
        };
        let (shell, echo) = (process("/bin/sh"), process("/bin/echo"));
        assert!(shell != echo && trace.descends(echo, shell) && !trace.descends(shell, echo));
        assert!(trace.files_written.iter().any(|file| file.ends_with("/out")));
    }
}
