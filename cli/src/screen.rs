//! Standard output: lines that stay, and on a terminal a few below them that are drawn again in
//! place. The only place that writes to it.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;
use unicode_width::UnicodeWidthChar;

use crate::error::{Class, CliError, Exit};
use crate::render::Colour;

/// Standard output.
#[derive(Debug)]
pub(crate) struct Screen {
    /// Whether to colour what goes to standard output.
    pub(crate) colour: Colour,
    live: Live,
}

#[derive(Debug)]
enum Live {
    /// Not a terminal: nothing is ever drawn again.
    Never,
    /// How many lines are below the lines that stay, and their text.
    Lines(Vec<String>),
}

impl Screen {
    pub(crate) fn of_stdout() -> Self {
        let stdout = io::stdout();
        let colour = colour_of(anstream::AutoStream::choice(&stdout));
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let live = if stdout.is_terminal() && !dumb {
            Live::Lines(Vec::new())
        } else {
            Live::Never
        };
        Self { colour, live }
    }

    /// Is it a terminal on which lines can be drawn again?
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.live, Live::Lines(_))
    }

    /// Lines that stay.
    pub(crate) fn say(&mut self, lines: &[String]) -> Result<(), CliError> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut text = self.erase();
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(&self.draw());
        write(text.as_bytes())
    }

    /// Bytes that stay, as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        write(bytes)
    }

    /// One JSON value: indented alone, on one line in a stream.
    pub(crate) fn json(&mut self, value: &Value, form: JsonForm) -> Result<(), CliError> {
        let text = match form {
            JsonForm::Alone => format!("{value:#}\n"),
            JsonForm::Stream => format!("{value}\n"),
        };
        write(text.as_bytes())
    }

    /// Replaces the lines that are drawn again; without a terminal nothing happens.
    pub(crate) fn live(&mut self, lines: Vec<String>) -> Result<(), CliError> {
        let Live::Lines(shown) = &self.live else { return Ok(()) };
        if *shown == lines {
            return Ok(());
        }
        let mut text = self.erase();
        let width = width();
        self.live = Live::Lines(lines.iter().map(|line| cut(line, width)).collect());
        text.push_str(&self.draw());
        write(text.as_bytes())
    }

    fn erase(&self) -> String {
        match &self.live {
            Live::Lines(lines) if !lines.is_empty() => format!("\x1b[{}A\r\x1b[J", lines.len()),
            Live::Lines(_) | Live::Never => String::new(),
        }
    }

    fn draw(&self) -> String {
        match &self.live {
            Live::Lines(lines) => lines.iter().map(|line| format!("{line}\n")).collect(),
            Live::Never => String::new(),
        }
    }
}

/// How JSON is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JsonForm {
    /// The only value.
    Alone,
    /// One of many.
    Stream,
}

/// Whether to colour what goes to standard error.
pub(crate) fn stderr_colour() -> Colour {
    colour_of(anstream::AutoStream::choice(&io::stderr()))
}

/// Text for people beside the output: warnings, errors, what was lost and is back.
pub(crate) fn to_stderr(text: &str) {
    // Nobody is left to tell if this fails.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

fn colour_of(choice: anstream::ColorChoice) -> Colour {
    if choice == anstream::ColorChoice::Never {
        Colour::Off
    } else {
        Colour::On
    }
}

fn write(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // The reader has seen enough, as `head` does.
            CliError::new(Exit::Succeeded, "")
        } else {
            CliError::new(Exit::Unreachable, "cannot write to standard output")
                .class(Class::Local)
                .caused_by(&error)
        }
    })
}

fn width() -> usize {
    rustix::termios::tcgetwinsize(io::stdout())
        .map_or(80, |size| usize::from(size.ws_col))
        .max(20)
}

/// The line without what would not fit: a line that wraps cannot be drawn again in place.
fn cut(line: &str, width: usize) -> String {
    let mut text = String::new();
    let mut used = 0;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\x1b' {
            text.push(character);
            for character in characters.by_ref() {
                text.push(character);
                if character.is_ascii_alphabetic() {
                    break;
                }
            }
            continue;
        }
        let cells = character.width().unwrap_or(0);
        if used + cells >= width {
            text.push_str("…\x1b[0m");
            break;
        }
        used += cells;
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_by_cells_and_end_their_colours() {
        assert_eq!(cut("short", 10), "short");
        assert_eq!(cut("\x1b[31mabcdefghijkl\x1b[0m", 6), "\x1b[31mabcde…\x1b[0m");
        assert_eq!(cut("名前名前", 6), "名前…\x1b[0m");
    }
}
