//! What is looked for: one way in which a secret is printed, whole or any part of it. Called by whoever makes forms and
//! by the redactor, which keeps them.

/// Keeping a form and finding it cost so much beside its bytes.
const OVERHEAD: usize = 64;

/// One way in which a secret is printed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    bytes: Box<[u8]>,
    /// Each part of so many bytes is looked for; all of it if it is as long.
    part: usize,
}

impl Form {
    pub(crate) fn whole(bytes: Vec<u8>) -> Self {
        Self {
            part: bytes.len(),
            bytes: bytes.into(),
        }
    }

    /// Every part of so many bytes; none if there are fewer.
    pub(crate) fn parts(bytes: &[u8], part: usize) -> Self {
        Self {
            bytes: bytes.into(),
            part,
        }
    }

    /// What the matcher is given.
    pub(crate) fn searched(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.windows(self.part.max(1))
    }

    /// What all that costs: a byte of a form is a node of the automaton.
    pub(crate) const fn cost(&self) -> usize {
        let parts = (self.bytes.len() + 1).saturating_sub(self.part);
        parts.saturating_mul(self.part) + OVERHEAD
    }
}
