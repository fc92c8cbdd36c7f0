//! Environment variables that nobody but Deputy gives to what a task starts: with them a program does something before
//! what it is told, or in its place, whatever the agent's policy said of it. Asked by the checks of documents, and
//! again by the step that starts a child.

/// Names that only Deputy sets.
pub const RESERVED_PREFIX: &str = "DEPUTY_";

/// Most variables of a step: each is a question to the agent's policy.
pub const MAX_VARIABLES: usize = 200;

/// What a shell runs, or by which it changes how it reads, before the first line of its script.
/// Not `ENV`, which only interactive shells read, and which many people use for a word of their own.
const OF_SHELLS: [&str; 7] = [
    "BASH_ENV",
    "BASHOPTS",
    "SHELLOPTS",
    "IFS",
    "PS4",
    "PROMPT_COMMAND",
    "BASH_LOADABLES_PATH",
];
/// Exported functions: they take the place of programs.
const FUNCTION_PREFIX: &str = "BASH_FUNC_";

/// What the C library takes code or settings from in every program, the shell among them.
const OF_THE_C_LIBRARY: [&str; 5] = ["GCONV_PATH", "GETCONF_DIR", "GLIBC_TUNABLES", "LOCPATH", "NLSPATH"];
/// `LD_PRELOAD`, `LD_AUDIT`, `LD_LIBRARY_PATH` …: the dynamic linker's.
const LINKER_PREFIX: &str = "LD_";

/// Why a task cannot set the variable for a child, or nothing.
#[must_use]
pub fn refusal(name: &str) -> Option<&'static str> {
    if name.starts_with(RESERVED_PREFIX) {
        Some("begins with DEPUTY_, and such variables are set by Deputy only")
    } else if OF_SHELLS.contains(&name) {
        Some("has a shell do something before its script, or read it in another way")
    } else if name.starts_with(FUNCTION_PREFIX) {
        Some("defines a function that takes the place of a program")
    } else if name.starts_with(LINKER_PREFIX) || OF_THE_C_LIBRARY.contains(&name) {
        Some("has every program, the shell too, take code or settings from somewhere else")
    } else {
        None
    }
}

/// What to do about it.
#[must_use]
pub fn way_out(name: &str) -> &'static str {
    if name.starts_with(RESERVED_PREFIX) {
        "give it another name"
    } else {
        "set it within the script, for what needs it: the agent's policy is asked about the whole script"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_before_a_script_or_in_its_place_cannot_be_set() {
        for name in [
            "BASH_ENV",
            "SHELLOPTS",
            "BASHOPTS",
            "PS4",
            "IFS",
            "PROMPT_COMMAND",
            "BASH_FUNC_ls%%",
            "BASH_FUNC_ls",
            "LD_PRELOAD",
            "LD_AUDIT",
            "LD_LIBRARY_PATH",
            "GLIBC_TUNABLES",
            "GCONV_PATH",
            "DEPUTY_OUTPUT",
        ] {
            assert!(refusal(name).is_some(), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "ENV",
            "ENVIRONMENT",
            "BASH",
            "LDAP_HOST",
            "PS",
            "MY_LD_PRELOAD",
            "A",
        ] {
            assert_eq!(refusal(name), None, "{name}");
        }
    }
}
