//! The file in which a script leaves its outputs: `name=value` lines, and heredocs for values of
//! several lines. Called by the shell program when the script has ended well; the file is whatever
//! the script made of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::time::SystemTime;

use deputy_folder::{Folder, ReadError};
use deputy_task::document::output_name;
use deputy_task::record::MAX_RECORD_BYTES;
use serde_json::{Map, Value};

/// The file may be this large.
pub(super) const MAX_FILE_BYTES: u64 = 256 * 1024;

/// What is left for outputs in a record, which holds more than them.
const MAX_VALUES_BYTES: usize = MAX_RECORD_BYTES - 8 * 1024;

/// May lines that cannot be read be shown?
#[derive(Clone, Copy)]
pub(super) enum Quoting<'a> {
    /// Yes, without the secrets that this takes out.
    Lines(&'a dyn Fn(&str) -> String),
    /// No: the script writes secrets, and a line in the wrong form may be one.
    Nothing,
}

/// Values by name; the last one of a name.
pub(super) type Written = BTreeMap<String, String>;

/// The outputs cannot be used. Values are never in the message: they may be secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutputProblem {
    #[error("the output file cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("the output file is not a regular file any more")]
    NotAFile,
    #[error("the output file is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge,
    #[error("the outputs need {bytes} bytes and a record holds {MAX_VALUES_BYTES}")]
    TooMuch { bytes: usize },
    #[error("line {line} of the output file is not UTF-8")]
    NotText { line: usize },
    #[error("line {line} of the output file is neither `name=value` nor `name<<END`{shown}")]
    BadLine { line: usize, shown: String },
    #[error(
        "line {line} of the output file has a name that is not made of {RULE}{name}",
        RULE = output_name::RULE
    )]
    BadName { line: usize, name: String },
    #[error("line {line} of the output file begins a value of several lines that no line ends{shown}")]
    Unended { line: usize, shown: String },
    #[error(
        "the name of an output holds a secret, and names are recorded and shown; the secret belongs after the `=`, as in `name=value`"
    )]
    SecretName,
}

/// The file, in the open folder of its step: whatever the script makes of it, what is read is in that folder.
#[derive(Clone, Copy)]
pub(super) struct OutputFile<'a> {
    folder: &'a Folder,
    name: &'a OsStr,
}

impl<'a> OutputFile<'a> {
    pub(super) fn of(folder: &'a Folder, name: &'a str) -> Self {
        Self {
            folder,
            name: name.as_ref(),
        }
    }

    /// Size and time of its last change or move, if it is a file.
    pub(super) fn version(self) -> Option<(u64, SystemTime)> {
        self.folder.version_of(self.name)
    }
}

/// Reads the file. One that is gone holds nothing.
pub(super) fn read(file: OutputFile<'_>, quoting: Quoting<'_>) -> Result<Written, OutputProblem> {
    parse(&bytes_of(file)?, quoting)
}

/// What a script that still runs has written, in order and as it is, text or not; a name may come several times. What is
/// not in the form yet is passed over. Of a value of several lines each line counts alone, and all of it once it has
/// ended.
pub(super) fn so_far(file: OutputFile<'_>) -> Result<Vec<(String, Vec<u8>)>, OutputProblem> {
    let bytes = bytes_of(file)?;
    let mut written = Vec::new();
    let mut lines = lines_of(&bytes);
    while let Some(line) = lines.next() {
        let Some(at) = line.iter().position(|byte| matches!(byte, b'=' | b'<')) else {
            continue;
        };
        let (name, rest) = line.split_at(at);
        let name = String::from_utf8_lossy(name).trim().to_owned();
        if let Some(value) = rest.strip_prefix(b"=") {
            written.push((name, value.to_owned()));
        } else if let Some(end) = rest.strip_prefix(b"<<") {
            let end = String::from_utf8_lossy(end);
            let mut value = Vec::new();
            let mut has_ended = false;
            for line in lines.by_ref() {
                if line == end.trim().as_bytes() {
                    has_ended = true;
                    break;
                }
                value.push(line);
            }
            written.extend(value.iter().map(|line| (name.clone(), (*line).to_owned())));
            if has_ended && value.len() > 1 {
                written.push((name, value.join(&b'\n')));
            }
        }
    }
    Ok(written)
}

fn lines_of(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn bytes_of(file: OutputFile<'_>) -> Result<Vec<u8>, OutputProblem> {
    match file.folder.read_own(file.name, MAX_FILE_BYTES) {
        Ok(bytes) => Ok(bytes.unwrap_or_default()),
        Err(ReadError::TooLarge { .. }) => Err(OutputProblem::TooLarge),
        Err(ReadError::Io(error)) => Err(error.into()),
        Err(_) => Err(OutputProblem::NotAFile),
    }
}

/// Does what is not secret fit into a record?
pub(super) fn check_size(values: &Map<String, Value>) -> Result<(), OutputProblem> {
    let bytes = serde_json::to_vec(values).map_or(usize::MAX, |json| json.len());
    if bytes > MAX_VALUES_BYTES {
        Err(OutputProblem::TooMuch { bytes })
    } else {
        Ok(())
    }
}

/// Names are recorded, shown and used as they are: none may hold what has to be hidden.
pub(super) fn check_names<'a>(
    mut names: impl Iterator<Item = &'a String>,
    redact: &dyn Fn(&str) -> String,
) -> Result<(), OutputProblem> {
    if names.any(|name| redact(name) != *name) {
        return Err(OutputProblem::SecretName);
    }
    Ok(())
}

fn parse(bytes: &[u8], quoting: Quoting<'_>) -> Result<Written, OutputProblem> {
    let mut written = Written::new();
    let mut lines = lines_of(bytes).enumerate().map(|(index, line)| {
        std::str::from_utf8(line)
            .map(|text| (index + 1, text))
            .map_err(|_| OutputProblem::NotText { line: index + 1 })
    });
    while let Some(next) = lines.next() {
        let (line, text) = next?;
        if text.trim().is_empty() {
            continue;
        }
        let bad_line = || OutputProblem::BadLine {
            line,
            shown: shown(text, quoting),
        };
        let at = text.find(['=', '<']).ok_or_else(bad_line)?;
        let (name, rest) = text.split_at(at);
        if let Some(value) = rest.strip_prefix('=') {
            written.insert(checked_name(line, name, quoting)?, value.to_owned());
            continue;
        }
        let end = rest
            .strip_prefix("<<")
            .map(str::trim)
            .filter(|end| !end.is_empty())
            .ok_or_else(bad_line)?;
        let name = checked_name(line, name, quoting)?;
        let mut value = Vec::new();
        loop {
            let Some(next) = lines.next() else {
                return Err(OutputProblem::Unended {
                    line,
                    shown: shown(text, quoting),
                });
            };
            match next? {
                (_, text) if text == end => break,
                (_, text) => value.push(text),
            }
        }
        written.insert(name, value.join("\n"));
    }
    Ok(written)
}

fn checked_name(line: usize, name: &str, quoting: Quoting<'_>) -> Result<String, OutputProblem> {
    let name = name.trim();
    if output_name::is_good(name) {
        Ok(name.to_owned())
    } else {
        Err(OutputProblem::BadName {
            line,
            name: shown(name, quoting),
        })
    }
}

/// The beginning of a line, if it may be shown.
fn shown(text: &str, quoting: Quoting<'_>) -> String {
    match quoting {
        // Whole first, then cut: half a secret would be found by nobody.
        Quoting::Lines(redact) => format!(": {}", redact(text).chars().take(40).collect::<String>()),
        Quoting::Nothing => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> String {
        match parse(text.as_bytes(), Quoting::Lines(&str::to_owned)) {
            Ok(written) => written
                .iter()
                .map(|(name, value)| format!("{name}={value:?};"))
                .collect(),
            Err(problem) => problem.to_string(),
        }
    }

    #[test]
    fn lines_and_heredocs_are_read_and_the_last_of_a_name_wins() {
        assert_eq!(check("a=1\nb=x=y<<z\n\na=2\r\n"), r#"a="2";b="x=y<<z";"#);
        assert_eq!(
            check("text<<END\none\n two=2\n\nEND\nc="),
            r#"c="";text="one\n two=2\n";"#
        );
        assert_eq!(check("empty<<END\nEND"), r#"empty="";"#);
        assert_eq!(check(""), "");
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        let cases = ["a=1\nnonsense", "a<b", "a<<", "1a=x", "a b=x", "a.b=x", "x<<END\nvalue"];
        let told: Vec<_> = cases.into_iter().map(check).collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        line 2 of the output file is neither `name=value` nor `name<<END`: nonsense
        line 1 of the output file is neither `name=value` nor `name<<END`: a<b
        line 1 of the output file is neither `name=value` nor `name<<END`: a<<
        line 1 of the output file has a name that is not made of letters, digits, `_` and `-`, beginning with a letter or `_`, at most 128 of them: 1a
        line 1 of the output file has a name that is not made of letters, digits, `_` and `-`, beginning with a letter or `_`, at most 128 of them: a b
        line 1 of the output file has a name that is not made of letters, digits, `_` and `-`, beginning with a letter or `_`, at most 128 of them: a.b
        line 1 of the output file begins a value of several lines that no line ends: x<<END
        "#);
        let redacted = parse(
            b"0123456789012345678901234567890123hunter2 more",
            Quoting::Lines(&|text| text.replace("hunter2 more", "***")),
        );
        let redacted = redacted.expect_err("bad").to_string();
        assert!(redacted.contains("***") && !redacted.contains("hunter"), "{redacted}");
        for secret in ["hunter2 hunter2", "name<<hunter2", "hunter2<<END", "hunter.2=1"] {
            let silent = parse(secret.as_bytes(), Quoting::Nothing).expect_err("bad").to_string();
            assert!(!silent.contains("hunter"), "{silent}");
            let redacted = parse(
                secret.as_bytes(),
                Quoting::Lines(&|text| text.replace("hunter2", "***").replace("hunter.2", "***")),
            );
            let redacted = redacted.expect_err("bad").to_string();
            assert!(redacted.contains("***") && !redacted.contains("hunter"), "{redacted}");
        }
        assert_eq!(
            parse(b"a=1\nb=\xff", Quoting::Lines(&str::to_owned))
                .expect_err("bad")
                .to_string(),
            "line 2 of the output file is not UTF-8"
        );
    }

    #[test]
    fn what_is_half_written_is_read_as_far_as_it_goes() {
        let folder = tempfile::tempdir().expect("folder");
        let held = Folder::open(folder.path()).expect("held");
        let file = folder.path().join("output");
        let text = b"a=1\nnonsense\na=2\r\nkey<<END\none\ntwo\nEND\nb=\xff\none<<E\nline\nE\npem<<E\nhalf\nand";
        std::fs::write(&file, text).expect("written");
        let written = so_far(OutputFile::of(&held, "output")).expect("read");
        let written: Vec<_> = written
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
            .collect();
        let told: [(&str, &[u8]); 9] = [
            ("a", b"1"),
            ("a", b"2"),
            ("key", b"one"),
            ("key", b"two"),
            ("key", b"one\ntwo"),
            ("b", b"\xff"),
            ("one", b"line"),
            ("pem", b"half"),
            ("pem", b"and"),
        ];
        assert_eq!(written, told);
    }

    #[test]
    fn links_pipes_and_floods_are_refused_and_a_missing_file_is_empty() {
        let folder = tempfile::tempdir().expect("folder");
        let held = Folder::open(folder.path()).expect("held");
        let file = folder.path().join("output");
        assert!(
            read(OutputFile::of(&held, "output"), Quoting::Lines(&str::to_owned))
                .expect("nothing")
                .is_empty()
        );
        std::os::unix::fs::symlink("/etc/passwd", &file).expect("link");
        assert!(matches!(
            read(OutputFile::of(&held, "output"), Quoting::Lines(&str::to_owned)),
            Err(OutputProblem::NotAFile)
        ));
        std::fs::remove_file(&file).expect("removed");
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("pipe");
        assert!(matches!(
            read(OutputFile::of(&held, "output"), Quoting::Lines(&str::to_owned)),
            Err(OutputProblem::NotAFile)
        ));
        std::fs::remove_file(&file).expect("removed");
        std::fs::write(&file, vec![b'x'; 300_000]).expect("written");
        assert!(matches!(
            read(OutputFile::of(&held, "output"), Quoting::Lines(&str::to_owned)),
            Err(OutputProblem::TooLarge)
        ));
    }
}
