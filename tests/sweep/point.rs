//! The instants at which an agent dies, or freezes.

/// One instant in the life of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// SIGKILL before the intent is written.
    BeforeIntent,
    /// SIGKILL with the intent acknowledged and nothing sent.
    AfterIntent,
    /// SIGKILL with the request sent and not forwarded: it never arrives.
    NotForwarded,
    /// SIGKILL with the request carried out and its reply withheld.
    ReplyWithheld,
    /// SIGKILL with the reply read and its result not journaled.
    BeforeJournaled,
    /// SIGSTOP between acknowledgement and sending; SIGCONT when the lease is over and another agent has finished.
    FrozenBeforeSending,
}

impl Point {
    /// All of them, in the order of an effect's life.
    pub(crate) const ALL: [Self; 6] = [
        Self::BeforeIntent,
        Self::AfterIntent,
        Self::NotForwarded,
        Self::ReplyWithheld,
        Self::BeforeJournaled,
        Self::FrozenBeforeSending,
    ];

    /// For the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BeforeIntent => "killed before the intent",
            Self::AfterIntent => "killed after the intent",
            Self::NotForwarded => "killed, request not forwarded",
            Self::ReplyWithheld => "killed, reply withheld",
            Self::BeforeJournaled => "killed before the result is journaled",
            Self::FrozenBeforeSending => "frozen before sending, thawed late",
        }
    }

    /// The agent's fault point for it, where the agent itself is the one that stops.
    pub(crate) fn failpoint(self, key: &str) -> Option<String> {
        let (point, action) = match self {
            Self::BeforeIntent => ("before-intent", "kill"),
            Self::AfterIntent => ("after-intent", "kill"),
            Self::BeforeJournaled => ("after-act", "kill"),
            Self::FrozenBeforeSending => ("after-intent", "stop"),
            Self::NotForwarded | Self::ReplyWithheld => return None,
        };
        Some(format!("{point}@{key}:{action}"))
    }
}
