//! The text of a document: decoding, limits, and where a byte is for people. Used by the parser
//! and by whoever turns a span into a diagnostic.

use std::borrow::Cow;

use super::diagnostic::{Diagnostic, Severity, excerpt};

/// Longest document. A task document names things; what is bigger belongs into a bundle.
pub const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

/// A range of bytes of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Something that is wrong, at a range of the document or at no place.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) span: Option<Span>,
    /// The place by keys, if it cannot be found from the span.
    pub(crate) path: Option<String>,
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Finding {
    pub(crate) fn error(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            span: Some(span),
            path: None,
            message: message.into(),
            hint: String::new(),
        }
    }

    pub(crate) fn warning(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(span, message)
        }
    }

    /// Not at a place of the document: the document as a whole, or what was given beside it.
    pub(crate) fn nowhere(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            span: None,
            path: None,
            message: message.into(),
            hint: String::new(),
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    pub(crate) fn at_path(mut self, path: String) -> Self {
        self.path = Some(path);
        self
    }

    /// "did you mean" if there is something to mean, else the second text.
    pub(crate) fn meant(self, candidate: Option<&str>, otherwise: impl FnOnce() -> String) -> Self {
        match candidate {
            Some(candidate) => self.hint(format!("did you mean `{candidate}`?")),
            None => self.hint(otherwise()),
        }
    }
}

/// A decoded document.
#[derive(Debug)]
pub(crate) struct SourceText<'a> {
    pub(crate) text: Cow<'a, str>,
    line_starts: Vec<usize>,
    /// Byte offset of every character; empty for ASCII, where they are the same.
    characters: Vec<usize>,
}

impl<'a> SourceText<'a> {
    /// Decodes a document within its limits.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Box<Diagnostic>> {
        if bytes.len() > MAX_DOCUMENT_BYTES {
            // Who gave it may have read no further than one byte too many: how long it is, is not known here.
            let message = format!("the document is too large: at most {MAX_DOCUMENT_BYTES} bytes (1 MiB) are read");
            return Err(Box::new(diagnostic_at(
                None,
                Finding::nowhere(message)
                    .hint("put large files into a folder and name it in `spec.sources` as a bundle"),
            )));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        match std::str::from_utf8(bytes) {
            Ok(text) => match text.find('\0') {
                None => Ok(Self::new(whole_characters(text))),
                Some(at) => Err(not_text(
                    text,
                    at,
                    "a zero byte".into(),
                    "the document must be plain text",
                )),
            },
            Err(error) => {
                let at = error.valid_up_to();
                let good = String::from_utf8_lossy(bytes);
                let byte = bytes.get(at).copied().unwrap_or_default();
                let hint = if at < 2 && matches!(byte, 0xff | 0xfe) {
                    "this is UTF-16; save the file as UTF-8"
                } else {
                    "save the file as UTF-8"
                };
                Err(not_text(
                    &good,
                    at,
                    format!("the document is not UTF-8: byte 0x{byte:02x} at offset {at}"),
                    hint,
                ))
            }
        }
    }

    /// Of a document that has no text.
    pub(crate) fn empty() -> Self {
        Self::new(Cow::Borrowed(""))
    }

    fn new(text: Cow<'a, str>) -> Self {
        let line_starts = std::iter::once(0).chain(newlines(&text)).collect();
        let characters = if text.is_ascii() {
            Vec::new()
        } else {
            text.char_indices().map(|(at, _)| at).collect()
        };
        Self {
            text,
            line_starts,
            characters,
        }
    }

    /// The byte offset of the character with this index.
    pub(crate) fn byte(&self, character: usize) -> usize {
        let byte = if self.characters.is_empty() {
            character
        } else {
            self.characters.get(character).copied().unwrap_or(self.text.len())
        };
        byte.min(self.text.len())
    }

    /// The text of a span.
    pub(crate) fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end.max(span.start)).unwrap_or_default()
    }

    /// The line that a byte is on, without its end.
    pub(crate) fn line_of(&self, byte: usize) -> &str {
        let (index, _) = self.place(byte);
        let begin = self.line_starts[index];
        let end = self.line_starts.get(index + 1).copied().unwrap_or(self.text.len());
        self.text[begin..end].trim_end_matches(['\n', '\r'])
    }

    /// Where the line of a byte begins.
    pub(crate) fn line_start(&self, byte: usize) -> usize {
        self.line_starts[self.place(byte).0]
    }

    /// Index of the line and of the character within it, both from 0.
    fn place(&self, byte: usize) -> (usize, usize) {
        let mut byte = byte.min(self.text.len());
        while !self.text.is_char_boundary(byte) {
            byte -= 1;
        }
        let index = self
            .line_starts
            .partition_point(|start| *start <= byte)
            .saturating_sub(1);
        (index, self.text[self.line_starts[index]..byte].chars().count())
    }

    /// For people, when it is at no place of the document.
    pub(crate) fn diagnostic_nowhere(finding: Finding) -> Diagnostic {
        diagnostic_at(None, finding)
    }

    /// For people. The path is filled in by the caller.
    pub(crate) fn diagnostic(&self, finding: Finding) -> Diagnostic {
        diagnostic_at(Some(self), finding)
    }
}

/// JSON writes characters outside the basic plane as two escapes (`\ud83d\ude00`), which YAML does
/// not know: they become the character.
fn whole_characters(text: &str) -> Cow<'_, str> {
    if !text.trim_start().starts_with('{') || !text.contains("\\u") {
        return Cow::Borrowed(text);
    }
    let mut whole = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        whole.push_str(&rest[..at]);
        rest = &rest[at..];
        let unit = |from: usize| {
            rest.get(from..from + 6)?
                .strip_prefix("\\u")
                .and_then(|hex| u16::from_str_radix(hex, 16).ok())
        };
        let pair = unit(0)
            .zip(unit(6))
            .and_then(|(high, low)| char::decode_utf16([high, low]).next()?.ok());
        let length = match pair.filter(|character| character.len_utf16() == 2) {
            Some(character) => {
                whole.push(character);
                12
            }
            None => {
                // The escaped character goes with its backslash: it may be a backslash itself.
                let length = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                whole.push_str(&rest[..length]);
                length
            }
        };
        rest = &rest[length..];
    }
    whole.push_str(rest);
    Cow::Owned(whole)
}

fn newlines(text: &str) -> impl Iterator<Item = usize> {
    text.bytes()
        .enumerate()
        .filter(|(_, byte)| *byte == b'\n')
        .map(|(at, _)| at + 1)
}

fn not_text(text: &str, at: usize, message: String, hint: &str) -> Box<Diagnostic> {
    let source = SourceText::new(Cow::Borrowed(text));
    Box::new(source.diagnostic(Finding::error(Span { start: at, end: at + 1 }, message).hint(hint)))
}

fn diagnostic_at(source: Option<&SourceText<'_>>, finding: Finding) -> Diagnostic {
    let mut diagnostic = Diagnostic {
        severity: finding.severity,
        line: 0,
        column: 0,
        path: String::new(),
        message: finding.message,
        hint: finding.hint,
        excerpt: String::new(),
        underline_at: 0,
        underline: 1,
    };
    if let (Some(source), Some(span)) = (source, finding.span) {
        let (line, character) = source.place(span.start);
        let text = source.line_of(span.start);
        let on_this_line = source.slice(span).lines().next().unwrap_or_default().chars().count();
        let shown = excerpt(text, character, on_this_line.max(1));
        diagnostic.line = line + 1;
        diagnostic.column = character + 1;
        (diagnostic.excerpt, diagnostic.underline_at, diagnostic.underline) = (shown.text, shown.at, shown.cells);
    }
    diagnostic
}
