//! Colours by meaning, or none at all.

use deputy_task::document::Paint;

/// Whether to colour; decided once per stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Off,
    On,
}

impl Colour {
    /// The same for the diagnostics of documents.
    pub(crate) const fn paint(self) -> Paint {
        match self {
            Self::Off => Paint::Plain,
            Self::On => Paint::Ansi,
        }
    }

    fn wrapped(self, code: &str, text: &str) -> String {
        match self {
            Self::Off => text.to_owned(),
            Self::On => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.wrapped("32", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.wrapped("1;31", text)
    }

    pub(crate) fn careful(self, text: &str) -> String {
        self.wrapped("33", text)
    }

    pub(crate) fn active(self, text: &str) -> String {
        self.wrapped("36", text)
    }

    pub(crate) fn strong(self, text: &str) -> String {
        self.wrapped("1", text)
    }

    pub(crate) fn faint(self, text: &str) -> String {
        self.wrapped("2", text)
    }
}
