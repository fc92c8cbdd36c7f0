//! YAML (and with it JSON) to a tree with places, within limits that hold for hostile documents:
//! depth, number of values, copies made by aliases. Scalars follow YAML 1.2: `yes`, `on` and `0777`
//! are text. Called by [`super::read`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Tag};
use serde_json::Number;

use super::source::{Finding, SourceText, Span};
use super::tree::{Data, Entry, Node};
use crate::json::Bound;

/// Deepest nesting.
pub(crate) const MAX_DEPTH: usize = 64;

/// Most values, with the copies that aliases make.
pub(crate) const MAX_VALUES: usize = 50_000;

/// What a canonical document and the values of its inputs may have: twice what a reader lets through, for the keys that the canonical form writes out, and what is around a document.
pub const CANONICAL_BOUND: Bound = Bound {
    values: 2 * MAX_VALUES,
    depth: MAX_DEPTH + 4,
};

/// A tree with what was wrong on the way (duplicate keys …), or only what was wrong.
pub(crate) fn parse(source: &SourceText<'_>) -> (Option<Node>, Vec<Finding>) {
    let mut builder = Builder {
        source,
        stack: Vec::new(),
        root: None,
        anchors: BTreeMap::new(),
        values: 0,
        findings: Vec::new(),
    };
    let mut documents = 0;
    for event in Parser::new_from_str(&source.text) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                builder.findings.push(syntax(source, &error));
                return (None, builder.findings);
            }
        };
        let span = Span {
            start: source.byte(span.start.index()),
            end: source.byte(span.end.index()),
        };
        let outcome = match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                documents += 1;
                let second = || {
                    Finding::error(span, "a second document begins here")
                        .hint("a file holds one task; split it at `---`")
                };
                if documents > 1 { Err(second()) } else { Ok(()) }
            }
            Event::Alias(anchor) => builder.alias(anchor, span),
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.as_deref();
                builder.scalar(Scalar { text, style, tag }, anchor, span)
            }
            Event::SequenceStart(anchor, tag) => builder.open(Open::List(Vec::new()), anchor, tag.as_deref(), span),
            Event::MappingStart(anchor, tag) => builder.open(
                Open::Map(Vec::new(), BTreeMap::new(), None),
                anchor,
                tag.as_deref(),
                span,
            ),
            Event::SequenceEnd | Event::MappingEnd => builder.close(span),
        };
        if let Err(finding) = outcome {
            builder.findings.push(finding);
            return (None, builder.findings);
        }
    }
    if builder.root.is_none() && builder.findings.is_empty() {
        builder.findings.push(
            Finding::nowhere("the document is empty").hint("begin with `apiVersion: deputy.dev/v1` and `kind: Task`"),
        );
    }
    (builder.root, builder.findings)
}

struct Scalar<'a> {
    text: Cow<'a, str>,
    style: ScalarStyle,
    tag: Option<&'a Tag>,
}

enum Open {
    List(Vec<Node>),
    /// Entries, where each key stands, and the key whose value comes next.
    Map(Vec<Entry>, BTreeMap<String, Span>, Option<(String, Span)>),
}

struct Container {
    span: Span,
    anchor: usize,
    open: Open,
}

struct Builder<'a> {
    source: &'a SourceText<'a>,
    stack: Vec<Container>,
    root: Option<Node>,
    anchors: BTreeMap<usize, (Node, usize)>,
    values: usize,
    findings: Vec<Finding>,
}

impl Builder<'_> {
    fn count(&mut self, values: usize, span: Span) -> Result<(), Finding> {
        self.values = self.values.saturating_add(values);
        if self.values > MAX_VALUES {
            let message =
                format!("the document has more than {MAX_VALUES} values, with the copies that aliases (`*name`) make");
            return Err(Finding::error(span, message).hint("use fewer aliases; put large data into a bundle"));
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Finding> {
        let Some((node, size)) = self.anchors.get(&anchor) else {
            return Err(Finding::error(span, "this alias stands inside the value it names"));
        };
        let (mut node, size) = (node.clone(), *size);
        node.span = span;
        self.count(size, span)?;
        if self.stack.len() + depth(&node) > MAX_DEPTH {
            return Err(too_deep(span));
        }
        self.place(node)
    }

    fn scalar(&mut self, scalar: Scalar<'_>, anchor: usize, span: Span) -> Result<(), Finding> {
        let Scalar { text, style, tag } = scalar;
        self.count(1, span)?;
        // The span of a plain scalar can run on over the white space behind it.
        let trimmed = self.source.slice(span).trim_end().len();
        let span = if style == ScalarStyle::Plain {
            Span {
                start: span.start,
                end: span.start + trimmed,
            }
        } else {
            span
        };
        let wants_key = matches!(
            self.stack.last(),
            Some(Container {
                open: Open::Map(_, _, None),
                ..
            })
        );
        let data = match (tag, style) {
            (Some(tag), _) if tag.is_yaml_core_schema() && tag.suffix == "str" => Data::Text(text.into_owned()),
            (Some(tag), _)
                if !(tag.is_yaml_core_schema() && matches!(tag.suffix.as_str(), "int" | "float" | "bool" | "null")) =>
            {
                return Err(unknown_tag(tag, span));
            }
            (_, ScalarStyle::Plain) if !wants_key => self.plain(&text, span),
            _ => Data::Text(text.into_owned()),
        };
        let node = Node { span, data };
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), 1));
        }
        self.place(node)
    }

    /// The core schema of YAML 1.2, but numbers with a leading zero (account ids) stay text.
    fn plain(&mut self, text: &str, span: Span) -> Data {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
            "true" | "True" | "TRUE" => return Data::Truth(true),
            "false" | "False" | "FALSE" => return Data::Truth(false),
            _ => {}
        }
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let is_whole = !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit());
        if is_whole && (unsigned == "0" || !unsigned.starts_with('0')) {
            let text = text.strip_prefix('+').unwrap_or(text);
            if let Ok(number) = text.parse::<i64>() {
                return Data::Number(number.into());
            }
            if let Ok(number) = text.parse::<u64>() {
                return Data::Number(number.into());
            }
            self.findings.push(
                Finding::error(span, "this number is too large")
                    .hint(format!("if it is a name, put it in quotes: \"{text}\"")),
            );
            return Data::Null;
        }
        if is_decimal(unsigned)
            && let Some(number) = text.parse::<f64>().ok().and_then(Number::from_f64)
        {
            return Data::Number(number);
        }
        Data::Text(text.to_owned())
    }

    fn open(&mut self, open: Open, anchor: usize, tag: Option<&Tag>, span: Span) -> Result<(), Finding> {
        self.count(1, span)?;
        if let Some(tag) =
            tag.filter(|tag| !(tag.is_yaml_core_schema() && matches!(tag.suffix.as_str(), "map" | "seq")))
        {
            return Err(unknown_tag(tag, span));
        }
        if let Some(Container {
            open: Open::Map(_, _, None),
            ..
        }) = self.stack.last()
        {
            return Err(Finding::error(span, "a key must be text, not a list or a mapping")
                .hint("if this is an expression, put it in quotes: \"${{ … }}\""));
        }
        if self.stack.len() >= MAX_DEPTH {
            return Err(too_deep(span));
        }
        self.stack.push(Container { span, anchor, open });
        Ok(())
    }

    fn close(&mut self, span: Span) -> Result<(), Finding> {
        let Some(container) = self.stack.pop() else {
            return Ok(());
        };
        let data = match container.open {
            Open::List(items) => Data::List(items),
            Open::Map(entries, ..) => Data::Map(entries),
        };
        let node = Node {
            span: Span {
                start: container.span.start,
                end: span.end.max(container.span.end),
            },
            data,
        };
        if container.anchor > 0 {
            let size = size(&node);
            self.count(size, container.span)?; // the copy that is kept for its aliases
            self.anchors.insert(container.anchor, (node.clone(), size));
        }
        self.place(node)
    }

    /// The keys that lead to the container that is open, with a last one.
    fn path(&self, last: &str) -> String {
        let mut path = String::new();
        for container in &self.stack {
            match &container.open {
                Open::List(items) => path.push_str(&format!("[{}]", items.len())),
                Open::Map(_, _, Some((key, _))) => {
                    path.push_str(if path.is_empty() { "" } else { "." });
                    path.push_str(key);
                }
                Open::Map(_, _, None) => {}
            }
        }
        if path.is_empty() {
            last.to_owned()
        } else {
            format!("{path}.{last}")
        }
    }

    fn place(&mut self, node: Node) -> Result<(), Finding> {
        let Some(container) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        let (entries, seen, pending) = match &mut container.open {
            Open::List(items) => {
                items.push(node);
                return Ok(());
            }
            Open::Map(entries, seen, pending) => (entries, seen, pending),
        };
        let Some((key, key_span)) = pending.take() else {
            let kind = node.kind();
            let Data::Text(key) = node.data else {
                return Err(Finding::error(node.span, format!("a key must be text, not {kind}")));
            };
            *pending = Some((key, node.span));
            return Ok(());
        };
        if key == "<<" {
            let finding = Finding::error(key_span, "merge keys (`<<`) are not part of YAML 1.2");
            self.findings
                .push(finding.hint("write the keys out, or use an alias for the whole value"));
        } else if let Some(first) = seen.get(&key).copied() {
            let line = self.source.diagnostic(Finding::error(first, "")).line;
            let finding = Finding::error(key_span, format!("the key `{key}` stands here a second time"));
            let finding = finding.hint(format!("its first place is line {line}; remove one of the two"));
            self.findings.push(finding.at_path(self.path(&key)));
        } else {
            seen.insert(key.clone(), key_span);
            entries.push(Entry {
                key,
                key_span,
                value: node,
            });
        }
        Ok(())
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.data {
        Data::List(items) => items.iter().map(size).sum(),
        Data::Map(entries) => entries.iter().map(|entry| size(&entry.value)).sum(),
        Data::Null | Data::Truth(_) | Data::Number(_) | Data::Text(_) => 0,
    }
}

fn depth(node: &Node) -> usize {
    match &node.data {
        Data::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Data::Map(entries) => 1 + entries.iter().map(|entry| depth(&entry.value)).max().unwrap_or(0),
        Data::Null | Data::Truth(_) | Data::Number(_) | Data::Text(_) => 0,
    }
}

fn is_decimal(text: &str) -> bool {
    let (mantissa, exponent) = text
        .split_once(['e', 'E'])
        .map_or((text, None), |(mantissa, exponent)| (mantissa, Some(exponent)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa
        .split_once('.')
        .map_or((mantissa, None), |(whole, fraction)| (whole, Some(fraction)));
    let leading_zero = whole.len() > 1 && whole.starts_with('0');
    let exponent_fits = exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)));
    digits(whole)
        && !leading_zero
        && fraction.is_none_or(digits)
        && exponent_fits
        && (fraction.is_some() || exponent.is_some())
}

fn too_deep(span: Span) -> Finding {
    Finding::error(span, format!("nested deeper than {MAX_DEPTH} levels"))
}

fn unknown_tag(tag: &Tag, span: Span) -> Finding {
    let name: String = format!("{}{}", tag.handle, tag.suffix).chars().take(60).collect();
    Finding::error(span, format!("the tag `{name}` is not supported"))
        .hint("references are written as expressions: \"${{ inputs.name }}\"")
}

fn syntax(source: &SourceText<'_>, error: &ScanError) -> Finding {
    let at = source.byte(error.marker().index());
    let line = source.line_of(at);
    let info = error.info();
    let finding = Finding::error(Span { start: at, end: at + 1 }, format!("this is not YAML: {info}"));
    let indent = line.len() - line.trim_start_matches(' ').len();
    if info.contains("tab") && line[indent..].starts_with('\t') {
        let tab = source.line_start(at) + indent;
        return Finding {
            span: Some(Span {
                start: tab,
                end: tab + 1,
            }),
            ..finding
        }
        .hint("a tab indents this line; YAML wants spaces");
    }
    if line.contains("${{") {
        return finding.hint("put the whole value with its expression in quotes: \"${{ … }}\"");
    }
    if info.contains("mapping values are not allowed") {
        return finding.hint("a value that contains `: ` needs quotes; or a key above is indented differently");
    }
    finding
}
