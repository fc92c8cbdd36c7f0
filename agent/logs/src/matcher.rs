//! Finds every occurrence of every form of every secret in a stream. Called by the redactor only.
//!
//! An Aho-Corasick automaton walks the bytes, and its state is the stream's state. Almost all bytes
//! of a log are nowhere near a secret, so where no form has got far a small filter skips ahead.

use crate::automaton::{Automaton, NodeId, TooLarge};
use crate::filter::{Filter, LONG_BYTES};

/// A part of a buffer, `start` inclusive, `end` exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// The forms of all secrets, ready to be searched for.
#[derive(Default)]
pub(crate) enum Matcher {
    /// There are no secrets.
    #[default]
    Nothing,
    /// These.
    Forms(Box<FormAutomaton>),
    /// The automaton could not be built: rather than print a secret, nothing is printed.
    Everything,
}

/// The automaton and what skips ahead for it.
pub(crate) struct FormAutomaton {
    automaton: Automaton,
    filter: Filter,
}

impl Matcher {
    /// Every form must have at least [`crate::secret_forms::MIN_FORM_BYTES`].
    pub(crate) fn build(mut forms: Vec<&[u8]>) -> Self {
        if forms.is_empty() {
            return Self::Nothing;
        }
        forms.sort_unstable();
        forms.dedup();
        match FormAutomaton::build(&forms) {
            Ok(found) => Self::Forms(Box::new(found)),
            Err(error) => {
                tracing::error!(%error, "secrets cannot be searched for; the log of this task is not written");
                Self::Everything
            }
        }
    }

    const fn forms(&self) -> Option<&FormAutomaton> {
        match self {
            Self::Forms(found) => Some(found),
            Self::Nothing | Self::Everything => None,
        }
    }

    /// Bytes at the end of what was scanned that may be the beginning of a form.
    pub(crate) fn depth(&self, at: NodeId) -> usize {
        self.forms().map_or(0, |found| found.automaton.depth(at))
    }

    /// Goes on from `at` over `input` and calls `each(end, length)` for the longest form that
    /// ends at each place; `length` may reach back before `input`.
    pub(crate) fn scan(&self, from: NodeId, input: &[u8], mut each: impl FnMut(usize, usize)) -> NodeId {
        let Some(FormAutomaton { automaton, filter }) = self.forms() else {
            return from;
        };
        let (mut node, mut at) = (from, 0);
        let mut skips = filter.over(input);
        loop {
            // With many forms nearly every byte begins one, and the automaton would never come back to its start: so it
            // is left already while no form has got further than what the filter can see. Of hexadecimal every four
            // characters begin one of a large secret's.
            let depth = automaton.depth(node);
            if depth < LONG_BYTES && depth <= at {
                let from = skips.skip(at - depth);
                if from >= at {
                    (node, at) = (NodeId::default(), from);
                }
            }
            let Some(byte) = input.get(at) else { return node };
            node = automaton.next(node, *byte);
            at += 1;
            let longest = automaton.longest(node);
            if longest > 0 {
                each(at, usize::try_from(longest).unwrap_or(usize::MAX));
            }
        }
    }
}

impl FormAutomaton {
    fn build(forms: &[&[u8]]) -> Result<Self, TooLarge> {
        Ok(Self {
            automaton: Automaton::build(forms)?,
            filter: Filter::build(forms),
        })
    }
}
