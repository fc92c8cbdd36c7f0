//! Replaces secrets in a stream of bytes by `***`, whatever way the stream is cut into writes.
//!
//! The union of all matches is replaced: overlapping and touching ones become one `***`. A stream
//! holds bytes back only while they may be the beginning of a secret, and then at most one byte
//! less than the longest form of one. Called by [`crate::attempt_log`]; must never hand on a byte
//! of which it does not know whether it belongs to a secret.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::automaton::NodeId;
use crate::form::Form;
use crate::matcher::{Matcher, Span};
use crate::secret_forms::{forms_of, whole_forms_of};

/// What is printed instead.
pub const MASK: &[u8] = b"***";

/// Fewer characters cannot be told from ordinary text.
pub const MIN_SECRET_CHARS: usize = 4;

/// AWS Secrets Manager's limit; nothing larger is a secret.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// All forms of all secrets of one attempt.
pub const MAX_FORMS_BYTES: usize = 16 * 1024 * 1024;

/// What ends is hidden for so much longer: clocks differ, and programs print what they have kept.
pub const HIDDEN_LONGER: Duration = Duration::from_secs(60 * 60);

type FormsOf = fn(&[u8]) -> HashSet<Form>;

/// A value cannot be hidden.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretRefused {
    /// It would hide ordinary text.
    #[error("a secret of {chars} characters is too short to be hidden in logs; it needs at least {MIN_SECRET_CHARS}")]
    TooShort {
        /// How many it has.
        chars: usize,
    },
    /// It would cost too much memory.
    #[error("a secret of {bytes} bytes is too long to be hidden in logs; it may have at most {MAX_SECRET_BYTES}")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// All secrets of the attempt together would cost too much memory.
    #[error(
        "all secrets of a task together are too long to be hidden in logs; with this one their forms need {bytes} bytes of at most {MAX_FORMS_BYTES}"
    )]
    TooMany {
        /// With this one.
        bytes: usize,
    },
}

/// The secrets of one attempt. Cheap to clone; clones share the secrets.
#[derive(Clone, Default)]
pub struct Redactor {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Raised with every new secret; streams look at it with every write.
    version: AtomicU64,
    secrets: Mutex<Secrets>,
}

#[derive(Default)]
struct Secrets {
    /// Each with the end of what it belongs to; none if that is the attempt's.
    forms: HashMap<Form, Option<SystemTime>>,
    /// What they cost.
    forms_bytes: usize,
    /// Built when a stream first needs it, so that adding many costs one build.
    built: Option<Arc<Matcher>>,
}

impl Secrets {
    fn matcher(&mut self) -> Arc<Matcher> {
        Arc::clone(self.built.get_or_insert_with(|| {
            let forms: Vec<&[u8]> = self.forms.keys().flat_map(Form::searched).collect();
            Arc::new(Matcher::build(forms))
        }))
    }

    /// What ended long ago is worth nothing to anybody. Answers whether there was any.
    fn forget(&mut self, now: SystemTime) -> bool {
        let before = self.forms.len();
        let is_over = |end: &Option<SystemTime>| end.is_some_and(|end| end + HIDDEN_LONGER < now);
        self.forms.retain(|_, end| !is_over(end));
        self.forms_bytes = self.forms.keys().map(Form::cost).sum();
        let any = self.forms.len() < before;
        if any {
            self.built = None;
        }
        any
    }
}

impl Redactor {
    /// One that hides nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Hides a value from now on, in open streams too, as it is and in the forms in which programs
    /// print it: base64, hexadecimal, URL, JSON and shell escapes, and line by line.
    ///
    /// # Errors
    /// If it is too short or too long to be hidden.
    pub fn add_secret(&self, value: &[u8]) -> Result<(), SecretRefused> {
        self.add(value, forms_of, None, SystemTime::now())
    }

    /// Hides a value that stands in sentences, such as one of another's in what a server says: in all these forms too, but
    /// where their lines are broken. It costs a tenth of a secret.
    ///
    /// # Errors
    /// As [`Self::add_secret`].
    pub fn add_value(&self, value: &[u8]) -> Result<(), SecretRefused> {
        self.add(value, whole_forms_of, None, SystemTime::now())
    }

    /// The same for what ends: some time after `end` it may be forgotten, and the memory is there for what follows it.
    ///
    /// # Errors
    /// As [`Self::add_secret`].
    pub fn add_session(&self, value: &[u8], end: SystemTime) -> Result<(), SecretRefused> {
        self.add(value, forms_of, Some(end), SystemTime::now())
    }

    fn add(
        &self,
        value: &[u8],
        forms_of: FormsOf,
        end: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<(), SecretRefused> {
        let text = value.trim_ascii();
        let chars = std::str::from_utf8(text).map_or(text.len(), |text| text.chars().count());
        if chars < MIN_SECRET_CHARS {
            return Err(SecretRefused::TooShort { chars });
        }
        if value.len() > MAX_SECRET_BYTES {
            return Err(SecretRefused::TooLong { bytes: value.len() });
        }
        let mut secrets = self.shared.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if secrets.forget(now) {
            self.shared.version.fetch_add(1, Ordering::Release);
        }
        let mut new = forms_of(value);
        // What belongs to two is hidden as long as either.
        new.retain(|form| match secrets.forms.get_mut(form) {
            None => true,
            Some(known) => {
                *known = known.zip(end).map(|(known, end)| known.max(end));
                false
            }
        });
        let bytes = secrets.forms_bytes + new.iter().map(Form::cost).sum::<usize>();
        if bytes > MAX_FORMS_BYTES {
            return Err(SecretRefused::TooMany { bytes });
        }
        if !new.is_empty() {
            secrets.forms.extend(new.into_iter().map(|form| (form, end)));
            secrets.forms_bytes = bytes;
            secrets.built = None;
            self.shared.version.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    /// Builds now what texts are looked through with, for which the first one would wait else.
    pub fn build(&self) {
        let mut secrets = self.shared.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if !secrets.forms.is_empty() {
            drop(secrets.matcher());
        }
    }

    /// A new stream. Each stream of a child has its own.
    #[must_use]
    pub fn stream(&self) -> RedactedStream {
        RedactedStream {
            redactor: self.clone(),
            version: 0,
            matcher: Arc::default(),
            state: NodeId::default(),
            held: Held::default(),
            out: Vec::new(),
        }
    }

    /// A whole text at once.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        if self.shared.version.load(Ordering::Acquire) == 0 {
            return text.to_owned();
        }
        let mut stream = self.stream();
        let mut whole = stream.write(text.as_bytes()).to_vec();
        whole.extend_from_slice(stream.finish());
        String::from_utf8_lossy(&whole).into_owned()
    }

    /// A whole text, in which what is known anyway stays: a part that would be replaced and that `is_known`.
    #[must_use]
    pub fn redact_unless(&self, text: &str, is_known: impl Fn(&str) -> bool) -> String {
        self.redact_unless_beside(&Self::new(), text, is_known)
    }

    /// The same, and without what `always` hides, whether it is known or not. Looked for at once: where a part of each
    /// overlaps, both are replaced whole, and nothing of the one hides that the other was there.
    #[must_use]
    pub fn redact_unless_beside(&self, always: &Self, text: &str, is_known: impl Fn(&str) -> bool) -> String {
        let (Some(mut found), Some(more)) = (self.found_in(text), always.found_in(text)) else {
            return String::from_utf8_lossy(MASK).into_owned();
        };
        // What begins or ends within a character cannot be looked for.
        found.retain(|span| !text.get(span.start..span.end).is_some_and(&is_known));
        found.extend(more);
        found.sort_by_key(|span| span.end);
        let mut hidden = Vec::new();
        for span in found {
            hide(&mut hidden, span.start, span.end);
        }
        let mut whole = Vec::with_capacity(text.len());
        let mut from = 0;
        for Span { start, end } in hidden {
            whole.extend_from_slice(text.as_bytes().get(from..start).unwrap_or_default());
            whole.extend_from_slice(MASK);
            from = end;
        }
        whole.extend_from_slice(text.as_bytes().get(from..).unwrap_or_default());
        String::from_utf8_lossy(&whole).into_owned()
    }

    /// Where a text has something to hide; none if all of it is.
    fn found_in(&self, text: &str) -> Option<Vec<Span>> {
        let matcher = {
            let mut secrets = self.shared.secrets.lock().unwrap_or_else(PoisonError::into_inner);
            if secrets.forms.is_empty() {
                return Some(Vec::new());
            }
            secrets.matcher()
        };
        if matches!(*matcher, Matcher::Everything) {
            return None;
        }
        let mut found = Vec::new();
        matcher.scan(NodeId::default(), text.as_bytes(), |end, len| {
            hide(&mut found, end.saturating_sub(len), end);
        });
        Some(found)
    }
}

/// One stream being redacted.
pub struct RedactedStream {
    redactor: Redactor,
    version: u64,
    matcher: Arc<Matcher>,
    state: NodeId,
    held: Held,
    out: Vec<u8>,
}

/// Bytes at the end of the stream that may be the beginning of a secret.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    /// Parts of `bytes` that are secret already; sorted, apart from each other.
    hidden: Vec<Span>,
    /// What was handed on last is a mask, and it reaches up to `bytes`.
    after_mask: bool,
    /// Of what that mask hides, the last bytes that may go on as a longer form.
    masked: Vec<u8>,
}

impl Held {
    /// The first `end` bytes are handed on: the last `reach` of them, and of what was masked before, stay known.
    fn keep_masked(&mut self, end: usize, reach: usize) {
        let new = reach.min(end);
        let old = (reach - new).min(self.masked.len());
        self.masked.drain(..self.masked.len() - old);
        self.masked
            .extend_from_slice(self.bytes.get(end - new..end).unwrap_or_default());
    }
}

impl RedactedStream {
    /// Takes bytes and answers those that may be handed on now.
    pub fn write<'a>(&'a mut self, input: &'a [u8]) -> &'a [u8] {
        self.refresh();
        match &*self.matcher {
            Matcher::Nothing => return input,
            Matcher::Everything => return &[],
            Matcher::Forms(_) if input.is_empty() => return input,
            Matcher::Forms(_) => {}
        }
        let offset = self.held.bytes.len();
        let hidden = &mut self.held.hidden;
        self.state = self.matcher.scan(self.state, input, |end, len| {
            hide(hidden, (offset + end).saturating_sub(len), offset + end)
        });
        let total = offset + input.len();
        let depth = self.matcher.depth(self.state);
        let undecided = covered_until(hidden, total - depth.min(total));
        let reach = depth.saturating_sub(total - undecided);
        if offset == 0 && hidden.is_empty() {
            // The usual case: nothing to hide, nothing copied but the few bytes held back.
            let (decided, rest) = input.split_at(undecided);
            self.held.keep_masked(0, reach);
            self.held.bytes.extend_from_slice(rest);
            self.held.after_mask &= decided.is_empty();
            self.let_go();
            return decided;
        }
        self.held.bytes.extend_from_slice(input);
        self.held.keep_masked(undecided, reach);
        self.hand_on(undecided);
        self.let_go();
        &self.out
    }

    /// Is it nowhere near a secret?
    fn is_idle(&self) -> bool {
        self.state == NodeId::default() && self.held.bytes.is_empty() && self.held.masked.is_empty()
    }

    /// Keeps the matcher only in the midst of what may be a secret: a quiet stream would else keep one for good that has
    /// been made anew since, and a task has two streams for every step.
    fn let_go(&mut self) {
        if self.is_idle() {
            self.matcher = Arc::default();
            self.version = 0;
        }
    }

    /// The stream has ended: what was held back goes out. The stream may be used again.
    pub fn finish(&mut self) -> &[u8] {
        if !self.is_idle() {
            self.refresh();
        }
        let all = self.held.bytes.len();
        self.state = NodeId::default();
        self.held.masked.clear();
        self.hand_on(all);
        self.held.after_mask = false;
        self.let_go();
        &self.out
    }

    /// Moves the first `end` bytes that are held to `out`, masked.
    fn hand_on(&mut self, end: usize) -> &[u8] {
        let held = &mut self.held;
        self.out.clear();
        let mut from = 0;
        let decided = held.hidden.partition_point(|span| span.end <= end);
        for span in held.hidden.drain(..decided) {
            if !(span.start == 0 && held.after_mask) {
                self.out
                    .extend_from_slice(held.bytes.get(from..span.start).unwrap_or_default());
                self.out.extend_from_slice(MASK);
            }
            from = span.end;
        }
        self.out
            .extend_from_slice(held.bytes.get(from..end).unwrap_or_default());
        if end > 0 {
            held.after_mask = from == end;
        }
        for span in &mut held.hidden {
            *span = Span {
                start: span.start - end,
                end: span.end - end,
            };
        }
        held.bytes.drain(..end);
        &self.out
    }

    /// Takes over secrets that were added since, and looks for them in what is held and what goes on from a mask.
    fn refresh(&mut self) {
        let version = self.redactor.shared.version.load(Ordering::Acquire);
        if version == self.version {
            return;
        }
        self.version = version;
        self.matcher = self
            .redactor
            .shared
            .secrets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .matcher();
        let mut spans = std::mem::take(&mut self.held.hidden);
        let masked = self.matcher.scan(NodeId::default(), &self.held.masked, |_, _| {});
        self.state = self.matcher.scan(masked, &self.held.bytes, |end, len| {
            spans.push(Span {
                start: end.saturating_sub(len),
                end,
            });
        });
        spans.sort_unstable_by_key(|span| (span.end, span.start));
        for span in spans {
            hide(&mut self.held.hidden, span.start, span.end);
        }
    }
}

/// Adds a match that ends last to the sorted spans, joining those it overlaps or touches.
fn hide(hidden: &mut Vec<Span>, mut start: usize, end: usize) {
    while let Some(last) = hidden.last()
        && last.end >= start
    {
        start = start.min(last.start);
        hidden.pop();
    }
    hidden.push(Span { start, end });
}

/// Where the undecided bytes begin, if they would begin at `from`: bytes that are hidden already
/// are decided.
fn covered_until(hidden: &[Span], from: usize) -> usize {
    let around = hidden.iter().rev().find(|span| span.start <= from);
    around.map_or(from, |span| from.max(span.end))
}

#[cfg(test)]
mod tests;
