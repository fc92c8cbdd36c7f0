//! Skips what cannot be the beginning of a form. Called by the matcher, for almost all bytes of a log.
//!
//! With a stride of s it looks at every s-th window of four bytes only, and knows the first s windows of every form, so
//! that one of them is met wherever a form begins. The lines of a large secret are thousands of forms, and some of their
//! windows are in every log; so where one is met, the eight bytes from there must be those of a form too, unless
//! the form is shorter than that.

use crate::secret_forms::MIN_FORM_BYTES;

/// What is looked at where a window of [`MIN_FORM_BYTES`] was met.
const LONG_BYTES: usize = 2 * MIN_FORM_BYTES;

/// A longer stride would need a fuller filter and skip little more.
const MAX_STRIDE: usize = 6;

/// At least 2 KiB, and 128 KiB of a core's own cache at most.
const MIN_BITS: u32 = 14;
const MAX_BITS: u32 = 20;
/// Bits for each window that is known.
const ROOM: usize = 64;

/// Which windows begin a form.
pub(crate) struct Filter {
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
        let shortest = forms.iter().map(|form| form.len()).min().unwrap_or(MIN_FORM_BYTES);
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

    /// From where on, `from` or later, the automaton must look: no form begins before.
    pub(crate) fn skip(&self, input: &[u8], from: usize) -> usize {
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
