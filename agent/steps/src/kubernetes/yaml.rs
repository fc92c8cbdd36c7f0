//! Reads multi-document YAML as `kubectl` reads it. Called by `manifest`; knows nothing of Kubernetes
//! beyond the scalar rules its tools share (YAML 1.1: `0644` is octal, `on` is a boolean).
//! It must never expand an alias bomb, recurse without bound, or let a duplicate key pass.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Number, Value};

/// Deepest nesting. The API server's own limit is far above what anybody writes.
const MAX_DEPTH: usize = 64;

/// Most nodes of one text, those that aliases repeat included.
const MAX_NODES: usize = 500_000;

/// One document of a text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct YamlDocument {
    /// Counts from 1.
    pub(crate) number: usize,
    /// The line it begins at, from 1.
    pub(crate) line: usize,
    /// What it says.
    pub(crate) value: Value,
}

/// Why a text cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("document {document}, line {line}, column {column}: {message}")]
pub(crate) struct YamlError {
    document: usize,
    line: usize,
    column: usize,
    message: String,
}

/// Every document of `text`, empty ones as `null`.
///
/// # Errors
/// The first thing that is not YAML, is repeated, or is larger than the limits.
pub(crate) fn read_documents(text: &str) -> Result<Vec<YamlDocument>, YamlError> {
    let mut reader = Reader {
        number: 0,
        nodes: 0,
        stack: Vec::new(),
        anchors: HashMap::new(),
        documents: Vec::new(),
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| reader.error(*error.marker(), error.info()))?;
        reader.event(event, span)?;
    }
    Ok(reader.documents)
}

/// A collection that is still open.
enum Open {
    List {
        items: Vec<Value>,
        anchor: usize,
    },
    Mapping {
        entries: Map<String, Value>,
        key: Option<String>,
        merges: Vec<Value>,
        anchor: usize,
    },
}

/// What an anchor names, and what another copy of it costs.
#[derive(Clone)]
struct Anchored {
    value: Value,
    nodes: usize,
    depth: usize,
}

struct Reader {
    number: usize,
    nodes: usize,
    stack: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    documents: Vec<YamlDocument>,
}

impl Reader {
    fn error(&self, at: Marker, message: impl Into<String>) -> YamlError {
        YamlError {
            document: self.number.max(1),
            line: at.line(),
            column: at.col() + 1,
            message: message.into(),
        }
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlError> {
        let at = span.start;
        match event {
            Event::DocumentStart(_) => {
                self.number += 1;
                self.anchors.clear();
                self.documents.push(YamlDocument {
                    number: self.number,
                    line: at.line(),
                    value: Value::Null,
                });
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                if self.wants_key() {
                    return self.key(&text, style, at);
                }
                let value = scalar(&text, style, tag.as_deref()).map_err(|message| self.error(at, message))?;
                self.value(value, anchor, at)
            }
            Event::SequenceStart(anchor, _) => self.open(
                Open::List {
                    items: Vec::new(),
                    anchor,
                },
                at,
            ),
            Event::MappingStart(anchor, _) => self.open(
                Open::Mapping {
                    entries: Map::new(),
                    key: None,
                    merges: Vec::new(),
                    anchor,
                },
                at,
            ),
            Event::SequenceEnd | Event::MappingEnd => self.close(at),
            Event::Alias(anchor) => {
                let Some(anchored) = self.anchors.get(&anchor).cloned() else {
                    return Err(self.error(at, "an alias within its own anchor"));
                };
                self.fits(anchored.depth, at)?;
                self.count(anchored.nodes, at)?;
                self.place(anchored.value, at)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    /// Is a mapping open that waits for its next key?
    fn wants_key(&self) -> bool {
        matches!(self.stack.last(), Some(Open::Mapping { key: None, .. }))
    }

    fn key(&mut self, text: &str, style: ScalarStyle, at: Marker) -> Result<(), YamlError> {
        self.count(1, at)?;
        let duplicate = match self.stack.last_mut() {
            Some(Open::Mapping { entries, key, .. }) => {
                let merge = text == "<<" && style == ScalarStyle::Plain;
                *key = Some(text.to_owned());
                !merge && entries.contains_key(text)
            }
            Some(Open::List { .. }) | None => false,
        };
        if duplicate {
            Err(self.error(at, format!("the key {text:?} is there twice")))
        } else {
            Ok(())
        }
    }

    fn open(&mut self, open: Open, at: Marker) -> Result<(), YamlError> {
        if self.wants_key() {
            return Err(self.error(at, "a key must be text"));
        }
        self.fits(1, at)?;
        self.stack.push(open);
        Ok(())
    }

    /// Is there room for as many levels as these below what is open? Everything that walks a value, its own end
    /// included, goes a call deeper for each.
    fn fits(&self, depth: usize, at: Marker) -> Result<(), YamlError> {
        if self.stack.len() + depth > MAX_DEPTH {
            return Err(self.error(at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(())
    }

    fn close(&mut self, at: Marker) -> Result<(), YamlError> {
        let (value, anchor) = match self.stack.pop() {
            Some(Open::List { items, anchor }) => (Value::Array(items), anchor),
            Some(Open::Mapping {
                mut entries,
                merges,
                anchor,
                ..
            }) => {
                for merge in merges {
                    self.merge(&mut entries, merge, at)?;
                }
                (Value::Object(entries), anchor)
            }
            None => return Err(self.error(at, "an end without a beginning")),
        };
        self.value(value, anchor, at)
    }

    /// `<<`: keys that are not there yet come from another mapping.
    fn merge(&self, entries: &mut Map<String, Value>, from: Value, at: Marker) -> Result<(), YamlError> {
        match from {
            Value::Object(from) => {
                for (key, value) in from {
                    entries.entry(key).or_insert(value);
                }
                Ok(())
            }
            Value::Array(list) => list.into_iter().try_for_each(|from| self.merge(entries, from, at)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                Err(self.error(at, "`<<` needs a mapping or a list of mappings"))
            }
        }
    }

    fn value(&mut self, value: Value, anchor: usize, at: Marker) -> Result<(), YamlError> {
        self.count(1, at)?;
        if anchor != 0 {
            let anchored = Anchored {
                value: value.clone(),
                nodes: count_nodes(&value),
                depth: depth(&value),
            };
            self.anchors.insert(anchor, anchored);
        }
        self.place(value, at)
    }

    fn place(&mut self, value: Value, at: Marker) -> Result<(), YamlError> {
        match self.stack.last_mut() {
            Some(Open::List { items, .. }) => items.push(value),
            Some(Open::Mapping {
                entries, key, merges, ..
            }) => match key.take() {
                Some(name) if name == "<<" && matches!(value, Value::Object(_) | Value::Array(_)) => merges.push(value),
                Some(name) => {
                    entries.insert(name, value);
                }
                None => return Err(self.error(at, "a key must be text")),
            },
            None => {
                if let Some(document) = self.documents.last_mut() {
                    document.value = value;
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, at: Marker) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(self.error(
                at,
                format!("more than {MAX_NODES} values, those that aliases repeat included"),
            ));
        }
        Ok(())
    }
}

fn count_nodes(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(count_nodes).sum::<usize>() + 1,
        Value::Object(entries) => entries.values().map(count_nodes).sum::<usize>() + entries.len() + 1,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(entries) => 1 + entries.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// What a scalar means.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    if let Some(tag) = tag {
        if !tag.is_yaml_core_schema() {
            return Err(format!(
                "the tag {}{} has no meaning in a manifest",
                tag.handle, tag.suffix
            ));
        }
        if matches!(tag.suffix.as_str(), "str" | "binary") {
            return Ok(Value::String(text.to_owned()));
        }
        return plain(text);
    }
    if style == ScalarStyle::Plain {
        plain(text)
    } else {
        Ok(Value::String(text.to_owned()))
    }
}

fn plain(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Ok(true.into()),
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Ok(false.into()),
        _ => {}
    }
    if let Some(number) = integer(text) {
        return Ok(Value::Number(number));
    }
    let unsigned = text.trim_start_matches(['+', '-']);
    if matches!(unsigned.to_ascii_lowercase().as_str(), ".inf" | ".nan") {
        return Err(format!("{text} is not a number that JSON can carry"));
    }
    let float_like = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    let number = if float_like {
        text.parse::<f64>().ok().and_then(Number::from_f64)
    } else {
        None
    };
    Ok(number.map_or_else(|| Value::String(text.to_owned()), Value::Number))
}

/// Decimal, `0x`, `0o` and `0b`, and the octal of YAML 1.1 (`0644`), with `_` between digits.
fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = digits.replace('_', "");
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0o" | "0O") => (8, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        Some(two) if two.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits.as_str()),
    };
    let magnitude = digits
        .bytes()
        .all(|b| b.is_ascii_alphanumeric())
        .then(|| u64::from_str_radix(digits, radix).ok())??;
    if negative {
        0_i64.checked_sub_unsigned(magnitude).map(Number::from)
    } else {
        Some(magnitude.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(text: &str) -> Value {
        read_documents(text).expect("reads").remove(0).value
    }

    #[test]
    fn scalars_mean_what_kubectl_takes_them_for() {
        let read = one(
            "a: 0644\nb: '0644'\nc: on\nd: 1.5\ne: 1e3\nf: ~\ng: 1.2.3\nh: -7\ni: 0x1F\nj: |\n  no\nk: 1_000\nl: 12e",
        );
        let expected = json!({"a": 420, "b": "0644", "c": true, "d": 1.5, "e": 1000.0, "f": null, "g": "1.2.3",
            "h": -7, "i": 31, "j": "no\n", "k": 1000, "l": "12e"});
        assert_eq!(read, expected);
    }

    #[test]
    fn documents_are_counted_and_empty_ones_are_null() {
        let read = read_documents("---\na: 1\n---\n---\n# nothing\n---\nb: 2\n").expect("reads");
        let numbers: Vec<_> = read.iter().map(|d| (d.number, d.value.is_null())).collect();
        assert_eq!(numbers, [(1, false), (2, true), (3, true), (4, false)]);
    }

    #[test]
    fn anchors_and_merge_keys_are_followed() {
        let read = one("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\n");
        assert_eq!(read["use"], json!({"x": 1, "y": 3}));
    }

    #[test]
    fn what_is_wrong_is_told_with_document_line_and_column() {
        for (text, words) in [
            (
                "a: 1\n---\nb: 1\nb: 2\n",
                "document 2, line 4, column 1: the key \"b\" is there twice",
            ),
            (
                "a: !custom x\n",
                "document 1, line 1, column 4: the tag !custom has no meaning in a manifest",
            ),
            (
                "a: .inf\n",
                "document 1, line 1, column 4: .inf is not a number that JSON can carry",
            ),
            ("? [a]\n: b\n", "document 1, line 1, column 3: a key must be text"),
        ] {
            assert_eq!(read_documents(text).expect_err("bad").to_string(), words);
        }
        assert!(
            read_documents(&"[".repeat(100))
                .expect_err("deep")
                .to_string()
                .contains("nested deeper")
        );
    }

    #[test]
    fn aliases_that_lie_in_each_other_are_refused_as_deep_as_brackets_are() {
        // Each line puts the one before it a level deeper; the list around all is a level itself.
        let tower = |levels: usize| {
            let floors = (1..levels).map(|level| format!("- &a{level} [*a{}]\n", level - 1));
            format!("- &a0 []\n{}", floors.collect::<String>())
        };
        assert_eq!(one(&tower(MAX_DEPTH - 1)).as_array().map(Vec::len), Some(MAX_DEPTH - 1));
        for (levels, line) in [(MAX_DEPTH, MAX_DEPTH), (7_700, MAX_DEPTH)] {
            let error = read_documents(&tower(levels)).expect_err("deep").to_string();
            assert!(error.starts_with(&format!("document 1, line {line}, ")), "{error}");
            assert!(error.ends_with("nested deeper than 64 levels"), "{error}");
        }
    }

    #[test]
    fn an_alias_bomb_is_refused_before_it_grows() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(
            read_documents(&text)
                .expect_err("bomb")
                .to_string()
                .contains("aliases repeat")
        );
    }
}
