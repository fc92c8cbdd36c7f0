//! A document as a tree whose every key and value knows where it stands. Made by the parser, read
//! by the checks, and turned into JSON at the end.

use serde_json::{Map, Number, Value};

use super::source::Span;

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) data: Data,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    Null,
    Truth(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn items(&self) -> &[Node] {
        match &self.data {
            Data::List(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The place to point at when something about the whole value is said: its first key, or itself.
    pub(crate) fn label(&self) -> Span {
        self.entries().first().map_or(self.span, |entry| entry.key_span)
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.data {
            Data::Null => "nothing",
            Data::Truth(_) => "true or false",
            Data::Number(_) => "a number",
            Data::Text(_) => "text",
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
        }
    }

    /// A tree of what has no text: the places are numbers in reading order, by which [`Self::path_to`] finds the keys.
    pub(crate) fn of_json(value: Value, next: &mut usize) -> Self {
        *next += 2;
        let start = *next;
        let data = match value {
            Value::Null => Data::Null,
            Value::Bool(truth) => Data::Truth(truth),
            Value::Number(number) => Data::Number(number),
            Value::String(text) => Data::Text(text),
            Value::Array(items) => Data::List(items.into_iter().map(|item| Self::of_json(item, next)).collect()),
            Value::Object(entries) => Data::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| {
                        *next += 2;
                        let key_span = Span {
                            start: *next,
                            end: *next + 1,
                        };
                        let value = Self::of_json(value, next);
                        Entry { key, key_span, value }
                    })
                    .collect(),
            ),
        };
        Self {
            span: Span { start, end: *next + 1 },
            data,
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Truth(truth) => Value::Bool(*truth),
            Data::Number(number) => Value::Number(number.clone()),
            Data::Text(text) => Value::String(text.clone()),
            Data::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Data::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.to_json()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// The keys that lead to a byte of the document, for example `spec.steps[0].shell.run`.
    pub(crate) fn path_to(&self, byte: usize) -> String {
        let mut path = String::new();
        let mut node = self;
        loop {
            match &node.data {
                Data::Map(entries) => {
                    let Some(entry) = entries.iter().rfind(|entry| entry.key_span.start <= byte) else {
                        break;
                    };
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(&entry.key);
                    if byte < entry.value.span.start.max(entry.key_span.end) {
                        break;
                    }
                    node = &entry.value;
                }
                Data::List(items) => {
                    let Some(index) = items
                        .iter()
                        .rposition(|item| item.label().start.min(item.span.start) <= byte)
                    else {
                        break;
                    };
                    path.push_str(&format!("[{index}]"));
                    node = &items[index];
                }
                Data::Null | Data::Truth(_) | Data::Number(_) | Data::Text(_) => break,
            }
        }
        path
    }
}
