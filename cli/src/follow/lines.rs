//! Pieces of log to lines: whole lines per step and stream, with the step's name before them.

use std::collections::BTreeMap;

use deputy_proto::v1::{LogStream, TailLogsResponse};
use serde_json::{Value, json};

use crate::render::{Colour, safe};

/// A line without an end is shown in parts of this size.
const LONGEST_LINE_BYTES: usize = 16 * 1024;

/// Lines that have begun and not ended, and what prefixes look like.
#[derive(Debug, Default)]
pub(crate) struct LogLines {
    begun: BTreeMap<(String, i32), Vec<u8>>,
    name_width: usize,
    epoch: u64,
}

impl LogLines {
    /// Makes room for the names of steps, so that prefixes line up.
    pub(crate) fn names<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        self.name_width = names
            .map(|name| name.chars().count())
            .chain([self.name_width])
            .max()
            .unwrap_or(0);
    }

    /// The lines that a piece completes.
    pub(crate) fn push(&mut self, piece: &TailLogsResponse, colour: Colour) -> Vec<String> {
        let mut lines = Vec::new();
        if self.epoch != piece.epoch {
            if self.epoch != 0 {
                lines.extend(self.flush(colour));
                lines.push(colour.faint(&format!("— attempt {} —", piece.epoch)));
            }
            self.epoch = piece.epoch;
        }
        if piece.gap_bytes > 0 {
            lines.extend(self.flush(colour));
            lines.push(colour.careful(&format!(
                "— {} bytes of log were dropped here: the agent's spool was full —",
                piece.gap_bytes
            )));
        }
        // A line that has not ended when somebody else speaks will not be continued for people.
        let speaks_after =
            |key: &(String, i32)| key.0 != piece.step || (piece.stream() == LogStream::System && key.1 != piece.stream);
        let interrupted: Vec<_> = self.begun.keys().filter(|key| speaks_after(key)).cloned().collect();
        for key in interrupted {
            let line = self.begun.remove(&key).unwrap_or_default();
            lines.push(self.line(&key, &line, colour));
        }
        self.name_width = self.name_width.max(piece.step.chars().count());
        let key = (piece.step.clone(), piece.stream);
        let mut rest = self.begun.remove(&key).unwrap_or_default();
        rest.extend_from_slice(&piece.data);
        while let Some(end) = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .or((rest.len() > LONGEST_LINE_BYTES).then_some(LONGEST_LINE_BYTES))
        {
            let tail = rest.split_off(end);
            let line = std::mem::replace(&mut rest, tail);
            if rest.first() == Some(&b'\n') {
                rest.remove(0);
            }
            lines.push(self.line(&key, &line, colour));
        }
        if !rest.is_empty() {
            self.begun.insert(key, rest);
        }
        lines
    }

    /// What has no line end.
    pub(crate) fn flush(&mut self, colour: Colour) -> Vec<String> {
        let begun = std::mem::take(&mut self.begun);
        begun.iter().map(|(key, line)| self.line(key, line, colour)).collect()
    }

    fn line(&self, (step, stream): &(String, i32), line: &[u8], colour: Colour) -> String {
        let text = String::from_utf8_lossy(line);
        // A progress bar draws its line again and again; what it ended with is the line.
        let text = safe(text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default());
        let pad = " ".repeat(self.name_width.saturating_sub(step.chars().count()));
        let name = colour.faint(&format!("{}{pad} │", safe(step)));
        match LogStream::try_from(*stream) {
            Ok(LogStream::System) => format!("{name} {}", colour.faint(&text)),
            Ok(LogStream::Stderr) => format!("{name} {}", colour.careful(&text)),
            Ok(LogStream::Stdout | LogStream::Unspecified) | Err(_) => format!("{name} {text}"),
        }
    }
}

/// A piece for programs. Bytes that are no text come as text with replacement characters.
pub(crate) fn piece_json(piece: &TailLogsResponse) -> Value {
    let stream = match piece.stream() {
        LogStream::Unspecified => "unknown",
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
        LogStream::System => "system",
    };
    json!({
        "type": "log", "epoch": piece.epoch, "stream": stream, "step": piece.step, "atMs": piece.at_ms,
        "text": String::from_utf8_lossy(&piece.data), "gapBytes": piece.gap_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(step: &str, data: &str) -> TailLogsResponse {
        TailLogsResponse {
            epoch: 1,
            stream: 1,
            step: step.into(),
            data: data.to_owned().into(),
            ..TailLogsResponse::default()
        }
    }

    #[test]
    fn lines_are_put_together_per_step_and_line_up() {
        let mut lines = LogLines::default();
        lines.names(["build", "smoke-test"].into_iter());
        let mut all = lines.push(&piece("build", "one\ntw"), Colour::Off);
        all.extend(lines.push(&piece("smoke-test", "x\n"), Colour::Off));
        all.extend(lines.push(&piece("build", "o\n50%\r100%\r\n\x1b[31mred\x1b[0m\x07"), Colour::Off));
        all.extend(lines.push(
            &TailLogsResponse {
                gap_bytes: 9,
                ..piece("build", "")
            },
            Colour::Off,
        ));
        all.extend(lines.push(
            &TailLogsResponse {
                epoch: 2,
                ..piece("build", "again\n")
            },
            Colour::Off,
        ));
        insta::assert_snapshot!(all.join("\n"), @r##"
        build      │ one
        build      │ tw
        smoke-test │ x
        build      │ o
        build      │ 100%
        build      │ red
        — 9 bytes of log were dropped here: the agent's spool was full —
        — attempt 2 —
        build      │ again
        "##);
    }

    #[test]
    fn a_line_that_never_ends_is_shown_in_parts() {
        let mut lines = LogLines::default();
        let shown = lines.push(&piece("a", &"x".repeat(LONGEST_LINE_BYTES * 2 + 5)), Colour::Off);
        assert_eq!(shown.len(), 2);
        assert_eq!(lines.flush(Colour::Off), ["a │ xxxxx"]);
    }
}
