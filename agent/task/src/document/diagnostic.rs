//! What is wrong with a document, where, and what was probably meant: for people as text with the
//! line underlined, for programs as data. Made by the document's reader, shown by the command line
//! and sent by the manager.

use std::fmt;

use serde::Serialize;
use unicode_width::UnicodeWidthChar;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// The document is not accepted.
    Error,
    /// It is accepted; somebody should look.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Line, from 1; 0 if it is at no place in the document.
    pub line: usize,
    /// Column in characters, from 1; 0 if it is at no place.
    pub column: usize,
    /// The place by keys, for example `spec.steps[0].shell.run`; empty for the whole document.
    pub path: String,
    /// What is wrong, one sentence without its full stop.
    pub message: String,
    /// What was probably meant, or what to do; empty if nothing is known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// The line it is on, made safe to print; empty if it is at no place.
    #[serde(skip)]
    pub excerpt: String,
    /// First underlined character of `excerpt`, in terminal cells.
    #[serde(skip)]
    pub underline_at: usize,
    /// Underlined terminal cells, at least 1.
    #[serde(skip)]
    pub underline: usize,
}

/// Everything that is wrong with one document, by position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostics {
    /// The document's name, as it was given.
    pub source: String,
    /// Errors and warnings, by position.
    pub items: Vec<Diagnostic>,
}

/// Whether to write colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// Only text.
    Plain,
    /// ANSI escape sequences.
    Ansi,
}

impl Diagnostics {
    /// How many errors there are.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.items
            .iter()
            .filter(|item| item.severity == Severity::Error)
            .count()
    }

    /// Everything as text for people, with colours or without.
    #[must_use]
    pub fn rendered(&self, paint: Paint) -> String {
        let mut text = String::new();
        for item in &self.items {
            item.write(&mut text, &self.source, paint);
            text.push('\n');
        }
        text
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rendered(Paint::Plain).trim_end())
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostic {
    /// The same on one line, for lists and logs.
    #[must_use]
    pub fn one_line(&self, source: &str) -> String {
        let place = if self.line == 0 {
            source.to_owned()
        } else {
            format!("{source}:{}:{}", self.line, self.column)
        };
        let hint = if self.hint.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.hint)
        };
        format!("{place}: {}{hint}", self.message)
    }

    fn write(&self, text: &mut String, source: &str, paint: Paint) {
        let colour = Colours::of(paint, self.severity);
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let Colours {
            severity,
            bold,
            faint,
            end,
        } = colour;
        text.push_str(&format!("{severity}{word}{end}{bold}: {}{end}\n", self.message));
        if self.line == 0 {
            text.push_str(&format!("  {faint}-->{end} {source}\n"));
        } else {
            let number = self.line.to_string();
            let gutter = " ".repeat(number.len());
            let path = if self.path.is_empty() {
                String::new()
            } else {
                format!("  {faint}({}){end}", self.path)
            };
            text.push_str(&format!(
                "{gutter} {faint}-->{end} {source}:{}:{}{path}\n",
                self.line, self.column
            ));
            text.push_str(&format!("{gutter} {faint}|{end}\n"));
            text.push_str(&format!("{faint}{number} |{end} {}\n", self.excerpt));
            let carets = "^".repeat(self.underline.max(1));
            text.push_str(&format!(
                "{gutter} {faint}|{end} {}{severity}{carets}{end}\n",
                " ".repeat(self.underline_at)
            ));
        }
        if !self.hint.is_empty() {
            text.push_str(&format!("  {faint}={end} {bold}hint{end}: {}\n", self.hint));
        }
    }
}

struct Colours {
    severity: &'static str,
    bold: &'static str,
    faint: &'static str,
    end: &'static str,
}

impl Colours {
    const fn of(paint: Paint, severity: Severity) -> Self {
        match (paint, severity) {
            (Paint::Plain, _) => Self {
                severity: "",
                bold: "",
                faint: "",
                end: "",
            },
            (Paint::Ansi, Severity::Error) => Self {
                severity: "\x1b[1;31m",
                bold: "\x1b[1m",
                faint: "\x1b[34m",
                end: "\x1b[0m",
            },
            (Paint::Ansi, Severity::Warning) => Self {
                severity: "\x1b[1;33m",
                bold: "\x1b[1m",
                faint: "\x1b[34m",
                end: "\x1b[0m",
            },
        }
    }
}

/// Most terminal cells of a line that are shown.
const EXCERPT_CELLS: usize = 110;

/// A line made safe to print, and where in it the underlined part is.
pub(crate) struct Excerpt {
    pub(crate) text: String,
    pub(crate) at: usize,
    pub(crate) cells: usize,
}

/// The part of `line` around `count` characters from the character `first` (from 0).
pub(crate) fn excerpt(line: &str, first: usize, count: usize) -> Excerpt {
    let line = line.trim_end();
    let safe: Vec<char> = line.chars().take(first + EXCERPT_CELLS).map(printable).collect();
    let begin = if safe.len() <= EXCERPT_CELLS {
        0
    } else {
        first.saturating_sub(20)
    };
    let mut text = String::new();
    let (mut at, mut cells, mut width) = (0, 0, 0);
    if begin > 0 {
        text.push('…');
        width = 1;
    }
    for (index, &character) in safe.iter().enumerate().skip(begin) {
        let character_width = character.width().unwrap_or(1);
        if width + character_width > EXCERPT_CELLS {
            text.push('…');
            break;
        }
        if index == first {
            at = width;
        }
        if (first..first + count).contains(&index) {
            cells += character_width;
        }
        text.push(character);
        width += character_width;
    }
    if first >= safe.len() {
        at = width;
    }
    Excerpt {
        text,
        at,
        cells: cells.max(1),
    }
}

/// Control characters could move the cursor or colour the terminal; bidirectional ones could lie.
fn printable(character: char) -> char {
    match character {
        '\t' => ' ',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}' | '\u{feff}' => '\u{fffd}',
        character if character.is_control() => '\u{fffd}',
        character => character,
    }
}

/// The name that was probably meant: at most two edits away, or the same but for case, dashes and underscores.
pub(crate) fn meant<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| {
        text.chars()
            .filter(|c| c.is_alphanumeric())
            .flat_map(char::to_lowercase)
            .collect::<String>()
    };
    let wanted = plain(given);
    let distance = |candidate: &str| {
        if !wanted.is_empty() && plain(candidate) == wanted {
            0
        } else {
            strsim::damerau_levenshtein(given, candidate)
        }
    };
    if given.len() > 64 {
        return None;
    }
    let limit = if given.chars().count() <= 3 { 1 } else { 2 };
    let best = known
        .into_iter()
        .filter(|candidate| *candidate != given)
        .map(|candidate| (distance(candidate), candidate));
    best.filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// As [`meant`], and also a key whose name begins like the given one: `environment` for `env`.
pub(crate) fn meant_or_begun<'a>(given: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let begun = |candidate: &&str| {
        let (short, long) = if candidate.len() < given.len() {
            (*candidate, given)
        } else {
            (given, *candidate)
        };
        short.len() >= 3 && long.starts_with(short)
    };
    meant(given, known.clone()).or_else(|| known.into_iter().filter(|candidate| *candidate != given).find(begun))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_close_and_never_the_same() {
        let known = ["timeout", "steps", "cpu", "taskDefinition"];
        assert_eq!(meant("tiemout", known), Some("timeout"));
        assert_eq!(meant("task_definition", known), Some("taskDefinition"));
        assert_eq!(meant("TaskDefinition", known), Some("taskDefinition"));
        assert_eq!(meant("memory", known), None);
        assert_eq!(meant("timeout", known), None);
        assert_eq!(meant("cp", known), Some("cpu"));
    }

    #[test]
    fn long_and_hostile_lines_are_cut_and_made_harmless() {
        let line = format!("{}\x1b[31mkey\u{202e}: {}", "x".repeat(400), "y".repeat(1_000));
        let shown = excerpt(&line, 400, 4);
        assert!(shown.text.chars().count() <= EXCERPT_CELLS + 2, "{}", shown.text);
        assert!(!shown.text.contains(['\x1b', '\u{202e}']));
        assert_eq!(shown.text.chars().nth(shown.at), Some('\u{fffd}'));
        let wide = excerpt("名前: x", 0, 2);
        assert_eq!((wide.at, wide.cells), (0, 4));
    }
}
