//! Skips what cannot be the beginning of a form. Called by the matcher, for almost all bytes of a log.
//!
//! With a stride of s it looks at every s-th window of four bytes only, and knows the first s windows of every form, so
//! that one of them is met wherever a form begins. The lines of a large secret are thousands of forms, and some of their
//! windows are in every log; so where one is met, the eight bytes from there must be those of a form too, unless
//! the form is shorter than that.
//!
//! A form of a few bytes would leave no stride to all others. There are only some, of short secrets, and they are
//! searched for by themselves, as many bytes at a time as the processor's vectors have.

use aho_corasick::Span;
use aho_corasick::packed::{Config, MatchKind, Searcher};

use crate::secret_forms::MIN_FORM_BYTES;

/// What is looked at where a window of [`MIN_FORM_BYTES`] was met.
pub(crate) const LONG_BYTES: usize = 2 * MIN_FORM_BYTES;

/// A longer stride would need a fuller filter and skip little more.
const MAX_STRIDE: usize = 6;

/// Forms up to this length are brief: with the next longer one the stride is the longest.
const MOST_BRIEF: usize = MIN_FORM_BYTES + MAX_STRIDE - 2;

/// Each of the three has at least 2 KiB and at most 1 MiB, of which a core's own cache keeps what is used: the parts of a
/// few keys are a hundred thousand forms, and of a filter that is nearly full every window sends the automaton on its slow
/// way.
const MIN_BITS: u32 = 14;
const MAX_BITS: u32 = 23;
/// Bits for each window that is known.
const ROOM: usize = 64;

/// Where a form may begin.
pub(crate) struct Filter {
    /// Of all forms but those that are searched for by themselves.
    windows: Windows,
    brief: Option<Searcher>,
}

/// Which windows begin a form.
struct Windows {
    stride: usize,
    /// Of every form.
    windows: Bits,
    /// Of forms too short for the next.
    short: Bits,
    /// The longer windows of all others.
    long: Bits,
}

impl Filter {
    /// Every form must have at least [`MIN_FORM_BYTES`].
    pub(crate) fn build(forms: &[&[u8]]) -> Self {
        let (brief, others): (Vec<&[u8]>, Vec<&[u8]>) = forms.iter().partition(|form| form.len() <= MOST_BRIEF);
        let searched = (!brief.is_empty()).then(|| search_for(&brief)).flatten();
        // Too many, or a processor that cannot.
        let is_searched = searched.is_some() || brief.is_empty();
        Self {
            windows: Windows::build(if is_searched { &others } else { forms }),
            brief: searched,
        }
    }

    /// What goes through one input.
    pub(crate) fn over<'a>(&'a self, input: &'a [u8]) -> Skips<'a> {
        Skips {
            filter: self,
            input,
            window: None,
            form: None,
            #[cfg(test)]
            searches: Vec::new(),
        }
    }
}

/// Goes through one input, from its beginning to its end. What was seen ahead is not looked for again: a form met in
/// every line would else cost a look at all that follows it each time.
pub(crate) struct Skips<'a> {
    filter: &'a Filter,
    input: &'a [u8],
    /// No form but the brief ones begins before, from where it was asked for on.
    window: Option<usize>,
    /// Nor does a brief one before here.
    form: Option<usize>,
    /// From where windows were searched for.
    #[cfg(test)]
    searches: Vec<usize>,
}

impl Skips<'_> {
    /// From where on, `from` or later, the automaton must look: no form begins before. `from` must not be less than
    /// the last time.
    pub(crate) fn skip(&mut self, from: usize) -> usize {
        let found = self.window.filter(|seen| *seen >= from);
        let found = found.unwrap_or_else(|| self.window_from(from));
        let Some(brief) = &self.filter.brief else { return found };
        let form = self.form.filter(|seen| *seen >= from);
        let form = form.unwrap_or_else(|| self.form_between(brief, from, found));
        // One that begins near the end may go on in the next input, also around the one that was found.
        let certain = self.input.len().saturating_sub(MOST_BRIEF - 1);
        found.min(form).min(certain).max(from)
    }

    fn window_from(&mut self, from: usize) -> usize {
        #[cfg(test)]
        self.searches.push(from);
        let found = self.filter.windows.skip(self.input, from);
        *self.window.insert(found)
    }

    fn form_between(&mut self, brief: &Searcher, from: usize, found: usize) -> usize {
        let end = self.input.len().min(found + MOST_BRIEF - 1);
        let first = brief.find_in(self.input, Span { start: from, end });
        *self.form.insert(first.map_or(found, |form| form.start()))
    }
}

fn search_for(forms: &[&[u8]]) -> Option<Searcher> {
    let mut config = Config::new();
    config.match_kind(MatchKind::LeftmostFirst);
    config.builder().extend(forms).build()
}

impl Windows {
    fn build(forms: &[&[u8]]) -> Self {
        let shortest = forms.iter().map(|form| form.len()).min().unwrap_or(usize::MAX);
        let stride = (shortest.saturating_sub(MIN_FORM_BYTES) + 1).min(MAX_STRIDE);
        let room = forms.len() * stride;
        let (mut windows, mut short, mut long) = (Bits::for_many(room), Bits::for_many(room), Bits::for_many(room));
        for form in forms {
            let is_long = form.len() >= LONG_BYTES + stride - 1;
            for from in 0..stride {
                let Some(window) = short_window(form, from) else { break };
                windows.set(window);
                match long_window(form, from) {
                    Some(window) if is_long => long.set(window),
                    Some(_) | None => short.set(window),
                }
            }
        }
        Self {
            stride,
            windows,
            short,
            long,
        }
    }

    fn skip(&self, input: &[u8], from: usize) -> usize {
        let mut at = from;
        while let Some(window) = short_window(input, at) {
            if self.windows.has(window) && self.may_begin(input, at, window) {
                // A form whose window this is may have begun up to a stride before.
                return from.max((at + 1).saturating_sub(self.stride));
            }
            at += self.stride;
        }
        // Forms that begin after the last window that was looked at are not excluded.
        from.max((at + 1).saturating_sub(self.stride)).min(input.len())
    }

    #[inline]
    fn may_begin(&self, input: &[u8], at: usize, window: u64) -> bool {
        // At the end of the input nobody knows what follows.
        self.short.has(window) || long_window(input, at).is_none_or(|long| self.long.has(long))
    }
}

fn short_window(bytes: &[u8], at: usize) -> Option<u64> {
    let window: &[u8; MIN_FORM_BYTES] = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*window).into())
}

fn long_window(bytes: &[u8], at: usize) -> Option<u64> {
    let window: &[u8; LONG_BYTES] = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*window))
}

/// A bit for the hash of each window.
struct Bits {
    words: Box<[u64]>,
    /// What is left of a hash is the place of its bit.
    shift: u32,
}

impl Bits {
    fn for_many(windows: usize) -> Self {
        let bits = (windows * ROOM)
            .next_power_of_two()
            .trailing_zeros()
            .clamp(MIN_BITS, MAX_BITS);
        Self {
            words: vec![0; 1 << (bits - 6)].into(),
            shift: u64::BITS - bits,
        }
    }

    const fn place(&self, window: u64) -> (usize, u64) {
        let hash = window.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift;
        let word = (hash >> 6) as usize;
        (word, 1 << (hash & 63))
    }

    fn set(&mut self, window: u64) {
        let (word, bit) = self.place(window);
        if let Some(word) = self.words.get_mut(word) {
            *word |= bit;
        }
    }

    #[inline]
    fn has(&self, window: u64) -> bool {
        let (word, bit) = self.place(window);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Where the first form begins that is in the input whole, or whose beginning the input ends with.
    fn first(forms: &[Vec<u8>], input: &[u8], from: usize) -> usize {
        let begins = |at: usize| {
            let rest = input.get(at..).unwrap_or_default();
            forms
                .iter()
                .any(|form| form.starts_with(rest) || rest.starts_with(form))
        };
        (from..input.len()).find(|at| begins(*at)).unwrap_or(input.len())
    }

    proptest! {
        /// Guards that no form is passed over, whatever is short and whatever is long, at whatever place.
        #[test]
        fn nothing_that_begins_a_form_is_passed_over(
            forms in prop_oneof![
                prop::collection::vec("[ab]{4,14}", 1..40),
                prop::collection::vec("[ab]{4,8}", 1..4),
            ],
            input in "[abc]{0,120}",
            from in 0_usize..130,
        ) {
            let forms: Vec<Vec<u8>> = forms.into_iter().map(String::into_bytes).collect();
            let borrowed: Vec<&[u8]> = forms.iter().map(Vec::as_slice).collect();
            let (filter, from) = (Filter::build(&borrowed), from.min(input.len()));
            let skipped = filter.over(input.as_bytes()).skip(from);
            prop_assert!(skipped >= from && skipped <= input.len());
            prop_assert!(skipped <= first(&forms, input.as_bytes(), from), "{skipped}");
        }
    }

    /// Guards that a brief form found at the end hides none that begins before it and goes on in the next input.
    #[test]
    fn a_form_within_another_at_the_end_does_not_hide_it() {
        let filter = Filter::build(&[b"(corg)", b"corg"]);
        for before in 0..20 {
            let input = [&b" ".repeat(before)[..], b"(corg"].concat();
            let skipped = filter.over(&input).skip(0);
            assert!(skipped <= before, "{skipped} of {before}");
        }
    }

    /// Guards that a write costs one look, however often a brief form is met in it: each look goes up to its end.
    #[test]
    fn what_was_looked_through_is_not_looked_through_again() {
        let input = b"env=prod cluster=production\n".repeat(1000);
        for forms in [&[&b"prod"[..]][..], &[b"prod", b"a secret of some length"]] {
            let filter = Filter::build(forms);
            let mut skips = filter.over(&input);
            let (mut at, mut met) = (0, 0);
            while let from @ ..27_900 = skips.skip(at) {
                met += usize::from(input.get(from..).unwrap_or_default().starts_with(b"prod"));
                at = from + 1;
            }
            assert!(met > 1_900, "{met}");
            assert_eq!(skips.searches, [0]);
        }
    }

    /// Guards that the long way is passed over, with a brief form among others too.
    #[test]
    fn what_begins_no_form_is_passed_over() {
        let forms: [&[u8]; 3] = [b"x7!q", b"a secret of some length", b"0123456789abcdef"];
        for forms in [&forms[..], &forms[1..], &forms[..1]] {
            let input = b"ordinary words of a log; ".repeat(40);
            let skipped = Filter::build(forms).over(&input).skip(0);
            assert!(skipped > 980, "{skipped}");
        }
    }
}
