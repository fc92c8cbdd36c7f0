//! The search: every form of every canary, in bytes and in what is compressed within them, also where that is written
//! in base64, as Helm keeps its releases.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::path::Path;

use aho_corasick::{AhoCorasick, MatchKind};
use anyhow::{Context, Result};
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};
use deputy_task::log_record::HEADER_BYTES;

use super::canary::Canary;
use super::forms::{forms, in_lines, pieces};

/// As much of one compressed stream is unpacked.
const UNPACKED: u64 = 64 << 20;

/// Packed within packed, and no deeper: a release of Helm is gzip in base64 in base64, and may lie in what is packed
/// itself.
const DEEPEST: u32 = 6;

const GZIP: &[u8] = &[0x1f, 0x8b, 0x08];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Both in base64, and gzip in base64 in base64.
const IN_BASE64: [&[u8]; 3] = [b"H4sI", b"KLUv", b"SDRzS"];

/// As it comes: padded or not, of either alphabet, cut off anywhere.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Looks for canaries.
#[derive(Debug)]
pub struct Scanner {
    canaries: Vec<Canary>,
    search: AhoCorasick,
    /// Canary and form of each pattern.
    patterns: Vec<(usize, &'static str)>,
    /// For what programs break into lines.
    search_in_lines: AhoCorasick,
    patterns_in_lines: Vec<(usize, &'static str)>,
    packed: AhoCorasick,
}

/// A canary where it must not be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// The canary's name.
    pub canary: String,
    /// The form it has.
    pub form: String,
    /// Where it was found: a file, a request, a call.
    pub place: String,
}

/// What was looked through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// Files, requests or calls.
    pub places: u64,
    /// Their bytes, before anything was unpacked.
    pub bytes: u64,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {} in {}", self.canary, self.form, self.place)
    }
}

impl Scanner {
    /// For these canaries.
    pub fn new(canaries: Vec<Canary>) -> Result<Self> {
        let mut bytes = Vec::new();
        let mut patterns = Vec::new();
        let mut bytes_in_lines = Vec::new();
        let mut patterns_in_lines = Vec::new();
        for (index, canary) in canaries.iter().enumerate() {
            for (form, pattern) in pieces(&canary.value).into_iter().flat_map(forms) {
                if let Some(in_lines) = in_lines(form) {
                    bytes_in_lines.push(pattern.clone());
                    patterns_in_lines.push((index, in_lines));
                }
                bytes.push(pattern);
                patterns.push((index, form));
            }
        }
        Ok(Self {
            canaries,
            search: AhoCorasick::builder().match_kind(MatchKind::Standard).build(&bytes)?,
            patterns,
            search_in_lines: AhoCorasick::builder()
                .match_kind(MatchKind::Standard)
                .build(&bytes_in_lines)?,
            patterns_in_lines,
            packed: AhoCorasick::new([&[GZIP, ZSTD][..], &IN_BASE64].concat())?,
        })
    }

    /// Everything that is found in these bytes, each canary in each form once.
    #[must_use]
    pub fn scan(&self, place: &str, bytes: &[u8]) -> BTreeSet<Hit> {
        let mut hits = BTreeSet::new();
        self.look(place, bytes, 0, &mut hits);
        hits
    }

    /// Looks through every file below a folder.
    pub fn scan_folder(&self, folder: &Path, extent: &mut Extent) -> Result<BTreeSet<Hit>> {
        let mut hits = BTreeSet::new();
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let entry = entry?;
                let kind = entry.file_type()?;
                // Names carry values too.
                let name = entry.path().display().to_string();
                hits.append(&mut self.scan(&format!("the name {name}"), name.as_bytes()));
                if kind.is_dir() {
                    open.push(entry.path());
                } else if kind.is_file() {
                    hits.append(&mut self.scan_file(&entry.path(), extent)?);
                }
            }
        }
        Ok(hits)
    }

    /// Looks through one file.
    pub fn scan_file(&self, file: &Path, extent: &mut Extent) -> Result<BTreeSet<Hit>> {
        let name = file.display().to_string();
        let bytes = std::fs::read(file).with_context(|| name.clone())?;
        extent.places += 1;
        extent.bytes += u64::try_from(bytes.len())?;
        Ok(self.scan(&name, &bytes))
    }

    fn look(&self, place: &str, bytes: &[u8], depth: u32, hits: &mut BTreeSet<Hit>) {
        let mut hit = |(canary, form): (usize, &str)| {
            hits.insert(Hit {
                canary: self.canaries[canary].name.clone(),
                form: form.to_owned(),
                place: place.to_owned(),
            });
        };
        for found in self.search.find_overlapping_iter(bytes) {
            hit(self.patterns[found.pattern().as_usize()]);
        }
        if bytes.contains(&b'\n') {
            for found in self.search_in_lines.find_overlapping_iter(&without_line_ends(bytes)) {
                hit(self.patterns_in_lines[found.pattern().as_usize()]);
            }
        }
        if depth == DEEPEST {
            return;
        }
        for found in self.packed.find_iter(bytes) {
            let rest = &bytes[found.start()..];
            let (name, unpacked) = match found.pattern().as_usize() {
                0 => ("gzip", unpack(flate2::read::GzDecoder::new(rest))),
                1 => (
                    "zstd",
                    zstd::stream::read::Decoder::new(rest).map(unpack).unwrap_or_default(),
                ),
                _ => ("base64", decoded(rest)),
            };
            if !unpacked.is_empty() {
                self.look(&format!("{name} in {place}"), &unpacked, depth + 1, hits);
            }
        }
    }
}

/// As much as can be unpacked: what is cut off or was no archive ends it early.
fn unpack(packed: impl Read) -> Vec<u8> {
    let mut unpacked = Vec::new();
    drop(packed.take(UNPACKED).read_to_end(&mut unpacked));
    unpacked
}

/// The bytes as if nobody had broken them into lines, nor written each line as a record of a log by itself.
fn without_line_ends(bytes: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((byte, after)) = rest.split_first() {
        match byte {
            b'\r' | b'\n' => rest = after,
            _ => match record_head(rest) {
                Some(length) => rest = &rest[length..],
                None => {
                    joined.push(*byte);
                    rest = after;
                }
            },
        }
    }
    joined
}

/// How long what a record of a log has before its payload is, if one begins here: kind, length of the step's name, length
/// of the payload, milliseconds of this age, the name.
fn record_head(bytes: &[u8]) -> Option<usize> {
    let (head, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let is_head = matches!(head[0], 1..=3) && head[4] <= 1 && head[5] == 0 && head[11..] == [1, 0, 0];
    let name = usize::from(head[1]);
    (is_head && rest.len() >= name).then_some(HEADER_BYTES + name)
}

/// What the base64 at the beginning of `text` says, also broken into lines.
fn decoded(text: &[u8]) -> Vec<u8> {
    let digits = text.iter().filter(|byte| !matches!(byte, b'\r' | b'\n'));
    let digits = digits.map(|digit| match digit {
        b'-' => b'+',
        b'_' => b'/',
        other => *other,
    });
    let mut digits: Vec<u8> = digits
        .take_while(|digit| digit.is_ascii_alphanumeric() || matches!(digit, b'+' | b'/'))
        .collect();
    if digits.len() % 4 == 1 {
        digits.pop();
    }
    LENIENT.decode(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use deputy_task::log_record::{LogStream, encode_output};

    use super::*;
    use crate::leaks::canary::Canaries;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(bytes).expect("packed");
        writer.finish().expect("packed")
    }

    fn lines(text: &str, columns: usize, end: &str) -> Vec<u8> {
        let lines: Vec<&[u8]> = text.as_bytes().chunks(columns).collect();
        lines.join(end.as_bytes())
    }

    /// Each line written by itself.
    fn in_records(lines: &[u8]) -> Vec<u8> {
        let mut log = Vec::new();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            encode_output(&mut log, LogStream::Stdout, "careless", 1_790_000_000_123, line);
        }
        log
    }

    /// What is left of base64 where the redactor hid its lines but for the last, which is short.
    #[test]
    fn the_rest_of_a_line_is_no_finding() {
        let canaries = Canaries::default();
        let value = canaries.make("password");
        let encoded = STANDARD.encode(format!("x{value}"));
        let rest = &encoded[encoded.len() - 12..];
        let scanner = Scanner::new(canaries.all()).expect("a scanner");
        let left = format!("***\n***\n***\n{rest}\n");
        assert_eq!(scanner.scan("a log", left.as_bytes()), BTreeSet::new());
    }

    /// Guards that no part of a long canary goes unseen; what begins many of a kind alike is no part of it.
    #[test]
    fn a_long_canary_is_found_by_any_of_its_parts() {
        let canaries = Canaries::default();
        let value: String = (0..12).map(|_| format!("{:032x}", rand::random::<u128>())).collect();
        canaries.learn("session token", &value);
        let scanner = Scanner::new(canaries.all()).expect("a scanner");
        for from in 0..=value.len() - 96 {
            let part = &value[from..from + 96];
            for planted in [part.to_owned(), STANDARD.encode(format!("x{part}"))] {
                assert!(!scanner.scan("a log", planted.as_bytes()).is_empty(), "{from}");
            }
        }
        assert_eq!(scanner.scan("a log", &value.as_bytes()[..48]), BTreeSet::new());
    }

    #[test]
    fn a_canary_is_found_in_every_form_and_nowhere_else() {
        let canaries = Canaries::default();
        let value = canaries.make("password");
        let other = canaries.make_plain("token");
        let scanner = Scanner::new(canaries.all()).expect("a scanner");
        let json = serde_json::json!({ "a": value }).to_string();
        let twice = serde_json::json!({ "b": json }).to_string();
        let shifted = |lead: &str| STANDARD.encode(format!("{lead}{value}tail"));
        for (what, planted) in [
            ("raw", value.clone().into_bytes()),
            ("base64 0", shifted("").into_bytes()),
            ("base64 1", shifted("x").into_bytes()),
            ("base64 2", shifted("xy").into_bytes()),
            ("url-safe", URL_SAFE.encode(format!("ab{value}")).into_bytes()),
            ("hex", hex::encode(&value).into_bytes()),
            ("upper hex", hex::encode_upper(&value).into_bytes()),
            ("json", json.clone().into_bytes()),
            ("json in json", twice.into_bytes()),
            ("gzip", gzip(json.as_bytes())),
            ("zstd", zstd::encode_all(value.as_bytes(), 1).expect("packed")),
            ("gzip in base64", STANDARD.encode(gzip(json.as_bytes())).into_bytes()),
            ("a cut-off end of it", {
                let mut text = STANDARD.encode(gzip(value.as_bytes()));
                text.truncate(text.len() - 6);
                text.into_bytes()
            }),
            (
                "a release of Helm in a Secret",
                serde_json::json!({ "data": { "release": STANDARD.encode(STANDARD.encode(gzip(json.as_bytes()))) } })
                    .to_string()
                    .into_bytes(),
            ),
            ("base64 in lines", lines(&shifted("x"), 20, "\n")),
            ("base64 in lines of Windows", lines(&shifted(""), 76, "\r\n")),
            ("base64, a digit a line", lines(&shifted("xy"), 1, "\n")),
            (
                "url-safe base64 in lines",
                lines(&URL_SAFE.encode(format!("x{value}")), 7, "\n"),
            ),
            ("hex as of xxd -p", lines(&hex::encode(format!("ab{value}")), 60, "\n")),
            ("upper hex in lines", lines(&hex::encode_upper(&value), 31, "\r\n")),
            (
                "base64 in records of a log",
                in_records(&lines(&shifted("x"), 20, "\n")),
            ),
            (
                "gzip in base64 in lines",
                lines(&STANDARD.encode(gzip(json.as_bytes())), 76, "\n"),
            ),
            (
                "gzip in zstd",
                zstd::encode_all(gzip(value.as_bytes()).as_slice(), 1).expect("packed"),
            ),
        ] {
            let mut bytes = b"before ".to_vec();
            bytes.extend_from_slice(&planted);
            bytes.extend_from_slice(b" after");
            let hits = scanner.scan(what, &bytes);
            assert!(hits.iter().any(|hit| hit.canary == "password"), "{what}: {hits:?}");
            assert!(!hits.iter().any(|hit| hit.canary == "token"), "{what}: {hits:?}");
        }
        let innocent = format!("canary {} {}", &value[..11], &other[..11]);
        assert_eq!(scanner.scan("nothing", innocent.as_bytes()), BTreeSet::new());
    }

    #[test]
    fn files_are_looked_through_with_their_names() {
        let canaries = Canaries::default();
        let name = canaries.make_plain("a file's name");
        let content = canaries.make("a file's content");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("deep")).expect("a folder");
        std::fs::write(folder.path().join("deep").join(name), content).expect("a file");
        let scanner = Scanner::new(canaries.all()).expect("a scanner");
        let mut extent = Extent::default();
        let hits = scanner.scan_folder(folder.path(), &mut extent).expect("looked through");
        let names: BTreeSet<&str> = hits.iter().map(|hit| hit.canary.as_str()).collect();
        assert_eq!(names, BTreeSet::from(["a file's content", "a file's name"]));
        assert_eq!(extent.places, 1);
    }
}
