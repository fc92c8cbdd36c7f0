//! The line of `/proc/PID/stat`, and who is on the machine. Called by those who look for descendants and for orphans.

use std::fs;

use rustix::process::Pid;

/// What of it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Dead; a zombie can be signalled all the same.
    pub(crate) dead: bool,
    /// Its parent; 0 for none.
    pub(crate) parent: i32,
    /// Its process group.
    pub(crate) group: u32,
}

/// Every process that can be seen. Those that end meanwhile are left out.
pub(crate) fn processes() -> impl Iterator<Item = (Pid, Stat)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter_map(Pid::from_raw).filter_map(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, read(&line)?))
    })
}

/// proc_pid_stat(5): pid, (comm), state, ppid, pgrp; the name may itself have blanks and brackets.
fn read(line: &str) -> Option<Stat> {
    let mut fields = line.rsplit_once(") ")?.1.split(' ');
    Some(Stat {
        dead: matches!(fields.next()?, "Z" | "X" | "x"),
        parent: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_be_nasty() {
        let read = |line| read(line).map(|stat| (stat.dead, stat.parent, stat.group));
        assert_eq!(read("12 (sleep) S 1 77 77 0 -1"), Some((false, 1, 77)));
        assert_eq!(read("12 (a) R (b) S 1 78 77 0 -1"), Some((false, 1, 78)));
        assert_eq!(read("12 (a) S (b) Z 3 77 77 0 -1"), Some((true, 3, 77)));
        assert_eq!(read(""), None);
    }
}
