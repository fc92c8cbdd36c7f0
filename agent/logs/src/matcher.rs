//! Finds every occurrence of every form of every secret in a stream. Called by the redactor only.
//!
//! An Aho-Corasick automaton walks the bytes, and its state is the stream's state. Almost all bytes
//! of a log are nowhere near a secret, so in the start state a small filter over four-byte windows
//! skips ahead: with a stride of s it looks at every s-th window only, and knows the first s windows
//! of every form, so that one of them is met wherever a form begins.

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};

use crate::secret_forms::MIN_FORM_BYTES;

/// 128 KiB of a core's own cache. A filter that is filled to a tenth sends every tenth look into the automaton, which no cache
/// holds: the lines of one secret of 64 KiB did that to 16 KiB, at half the speed.
const FILTER_BITS: u32 = 20;
const FILTER_WORDS: usize = 1 << (FILTER_BITS - 6);

/// A longer stride would need a fuller filter and skip little more.
const MAX_STRIDE: usize = 6;

/// A part of a buffer, `start` inclusive, `end` exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Where a stream is in the automaton. The default belongs to a matcher of nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct State(StateID);

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

/// The automaton and its filter over four-byte prefixes.
pub(crate) struct FormAutomaton {
    nfa: NFA,
    start: StateID,
    /// How many bytes a state has matched of the longest form that is still possible. States are numbered by their place
    /// in the automaton, so this has gaps.
    depths: Vec<u32>,
    /// A bit for the hash of each of a form's first `stride` windows.
    filter: Box<[u64; FILTER_WORDS]>,
    stride: usize,
}

impl Matcher {
    /// Every form must have at least [`MIN_FORM_BYTES`].
    pub(crate) fn build(forms: &[&[u8]]) -> Self {
        if forms.is_empty() {
            return Self::Nothing;
        }
        match FormAutomaton::build(forms) {
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

    pub(crate) fn start(&self) -> State {
        self.forms().map_or_else(State::default, |found| State(found.start))
    }

    /// Bytes at the end of what was scanned that may be the beginning of a form.
    pub(crate) fn depth(&self, state: State) -> usize {
        self.forms().map_or(0, |found| found.depth(state.0))
    }

    /// Goes on from `state` over `input` and calls `found(end, length)` for the longest form that
    /// ends at each place; `length` may reach back before `input`.
    pub(crate) fn scan(&self, state: State, input: &[u8], mut each: impl FnMut(usize, usize)) -> State {
        let Some(found) = self.forms() else { return state };
        let FormAutomaton { nfa, start, .. } = found;
        let mut state = state.0;
        let mut at = 0;
        loop {
            // With many forms nearly every byte begins one, and the automaton would never come back to its start: so it
            // is left already while no form has got further than what the filter can see.
            let depth = found.depth(state);
            if depth < MIN_FORM_BYTES && depth <= at {
                let from = found.skip(input, at - depth);
                if from >= at {
                    (state, at) = (*start, from);
                }
            }
            let Some(byte) = input.get(at) else { return State(state) };
            state = nfa.next_state(Anchored::No, state, *byte);
            at += 1;
            if nfa.is_special(state) && nfa.is_match(state) {
                let longest = (0..nfa.match_len(state))
                    .map(|index| nfa.pattern_len(nfa.match_pattern(state, index)))
                    .max();
                each(at, longest.unwrap_or(0));
            }
        }
    }
}

impl FormAutomaton {
    fn build(forms: &[&[u8]]) -> Result<Self, Box<dyn std::error::Error>> {
        let nfa = NFA::builder()
            .match_kind(MatchKind::Standard)
            .prefilter(false)
            .build(forms)?;
        let start = nfa.start_state(Anchored::No)?;
        let mut depths = Vec::new();
        let mut filter = Box::new([0; FILTER_WORDS]);
        let shortest = forms.iter().map(|form| form.len()).min().unwrap_or(MIN_FORM_BYTES);
        let stride = (shortest.saturating_sub(MIN_FORM_BYTES) + 1).min(MAX_STRIDE);
        for form in forms {
            for window in form
                .windows(MIN_FORM_BYTES)
                .take(stride)
                .filter_map(<[u8]>::first_chunk)
            {
                let (word, bit) = filter_place(*window);
                filter[word] |= bit;
            }
            let mut state = start;
            for (depth, byte) in (1_u32..).zip(form.iter()) {
                state = nfa.next_state(Anchored::No, state, *byte);
                let place = state.as_usize();
                if depths.len() <= place {
                    depths.resize(place + 1, 0);
                }
                depths[place] = depth;
            }
        }
        Ok(Self {
            nfa,
            start,
            depths,
            filter,
            stride,
        })
    }
}

impl FormAutomaton {
    fn depth(&self, state: StateID) -> usize {
        let depth = self.depths.get(state.as_usize()).copied().unwrap_or(0);
        usize::try_from(depth).unwrap_or(usize::MAX)
    }

    /// From where on, `from` or later, the automaton must look: no form begins before.
    fn skip(&self, input: &[u8], from: usize) -> usize {
        let mut at = from;
        while let Some(window) = input.get(at..).and_then(<[u8]>::first_chunk) {
            let (word, bit) = filter_place(*window);
            if self.filter[word] & bit != 0 {
                // A form whose window this is may have begun up to a stride before.
                return from.max((at + 1).saturating_sub(self.stride));
            }
            at += self.stride;
        }
        // Forms that begin after the last window that was looked at are not excluded.
        from.max((at + 1).saturating_sub(self.stride)).min(input.len())
    }
}

/// The word and the bit of a four-byte window in the filter.
fn filter_place(window: [u8; MIN_FORM_BYTES]) -> (usize, u64) {
    let hash = u32::from_le_bytes(window).wrapping_mul(0x9E37_79B1) >> (u32::BITS - FILTER_BITS);
    let word = usize::try_from(hash >> 6).unwrap_or(0) % FILTER_WORDS;
    (word, 1 << (hash & 63))
}
