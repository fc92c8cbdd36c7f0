//! Finds what an expression mentions: variables with their paths, filters, and operators that are
//! not allowed. Called by the document's reader to check names before queueing, and by the
//! evaluator to explain a missing value. Works on text, because positions are wanted for carets.

/// A variable and the names behind it, as far as they are literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// `steps`, `stage`, `outputs`, `url`.
    pub(crate) path: Vec<String>,
    /// Byte offset of the variable.
    pub(crate) offset: usize,
    /// Bytes up to the end of the path.
    pub(crate) length: usize,
    /// Directly followed by `-name`: what was meant as a name with a dash reads as a subtraction.
    pub(crate) dash: Option<String>,
}

/// Something else that a check wants to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mention {
    /// The name or operator.
    pub(crate) name: String,
    /// Byte offset.
    pub(crate) offset: usize,
}

/// Everything an expression mentions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Mentions {
    /// Variables.
    pub(crate) variables: Vec<Reference>,
    /// Filters.
    pub(crate) filters: Vec<Mention>,
    /// Function calls.
    pub(crate) calls: Vec<Mention>,
    /// `*` and `**`.
    pub(crate) products: Vec<Mention>,
}

const KEYWORDS: [&str; 12] = [
    "and", "or", "not", "in", "is", "if", "else", "true", "false", "none", "True", "False",
];

/// Reads `source`; never fails, for text that is no expression it answers something harmless.
pub(crate) fn mentions(source: &str) -> Mentions {
    let mut reader = Reader {
        source,
        at: 0,
        found: Mentions::default(),
        before: Before::Nothing,
    };
    while reader.at < source.len() {
        reader.step();
    }
    reader.found
}

/// What stood directly before the current token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Pipe,
    Is,
    Dot,
}

struct Reader<'a> {
    source: &'a str,
    at: usize,
    found: Mentions,
    before: Before,
}

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.source.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn step(&mut self) {
        let byte = self.peek(0);
        match byte {
            b'\'' | b'"' => {
                self.string(byte);
                self.before = Before::Nothing;
            }
            b'0'..=b'9' => {
                while self.peek(0).is_ascii_alphanumeric() || matches!(self.peek(0), b'_' | b'.') {
                    self.at += 1;
                }
                self.before = Before::Nothing;
            }
            _ if is_name_start(byte) => self.name(),
            _ if byte.is_ascii_whitespace() => self.at += 1,
            _ => {
                self.before = match byte {
                    b'|' => Before::Pipe,
                    b'.' => Before::Dot,
                    _ => Before::Nothing,
                };
                if byte == b'*' {
                    self.found.products.push(Mention {
                        name: "*".into(),
                        offset: self.at,
                    });
                }
                self.at += self.source[self.at..].chars().next().map_or(1, char::len_utf8);
            }
        }
    }

    /// Reads a string literal and answers its text; escapes are kept as they stand.
    fn string(&mut self, quote: u8) -> String {
        let begin = self.at + 1;
        self.at = begin;
        while self.at < self.source.len() && self.peek(0) != quote {
            self.at += if self.peek(0) == b'\\' { 2 } else { 1 };
        }
        let end = self.at.min(self.source.len());
        self.at = (end + 1).min(self.source.len());
        self.source.get(begin..end).unwrap_or_default().to_owned()
    }

    fn word(&mut self) -> String {
        let begin = self.at;
        while is_name_start(self.peek(0)) || self.peek(0).is_ascii_digit() {
            self.at += 1;
        }
        self.source[begin..self.at].to_owned()
    }

    fn name(&mut self) {
        let offset = self.at;
        let name = self.word();
        let before = std::mem::replace(&mut self.before, Before::Nothing);
        let next = self.source[self.at..].trim_start();
        match before {
            Before::Pipe => self.found.filters.push(Mention { name, offset }),
            Before::Is if name == "not" => self.before = Before::Is,
            Before::Dot | Before::Is => {}
            Before::Nothing if name == "is" => self.before = Before::Is,
            Before::Nothing if KEYWORDS.contains(&name.as_str()) || name == "None" => {}
            Before::Nothing if next.starts_with('(') => self.found.calls.push(Mention { name, offset }),
            Before::Nothing if next.starts_with('=') && !next.starts_with("==") => {}
            Before::Nothing => self.path(name, offset),
        }
    }

    fn path(&mut self, name: String, offset: usize) {
        let mut path = vec![name];
        loop {
            if self.peek(0) == b'.' && is_name_start(self.peek(1)) {
                self.at += 1;
                let word = self.word();
                path.push(word);
            } else if self.peek(0) == b'[' && matches!(self.peek(1), b'\'' | b'"') {
                let back = self.at;
                self.at += 1;
                let text = self.string(self.peek(0));
                if self.peek(0) != b']' {
                    self.at = back + 1;
                    break;
                }
                self.at += 1;
                path.push(text);
            } else {
                break;
            }
        }
        let length = self.at - offset;
        let dash = (self.peek(0) == b'-' && is_name_start(self.peek(1))).then(|| {
            let rest = &self.source[self.at..];
            let end = rest
                .bytes()
                .position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')));
            rest[..end.unwrap_or(rest.len())].to_owned()
        });
        // What follows is the rest of that name, not a variable.
        if let Some(dash) = dash
            .as_deref()
            .filter(|_| matches!(path.as_slice(), [root, _] if root == "steps"))
        {
            self.at += dash.len();
            self.before = Before::Dot;
            while self.peek(0) == b'.' && is_name_start(self.peek(1)) {
                self.at += 1;
                self.word();
            }
            self.before = Before::Nothing;
        }
        self.found.variables.push(Reference {
            path,
            offset,
            length,
            dash,
        });
    }
}

const fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(source: &str) -> Vec<String> {
        mentions(source)
            .variables
            .iter()
            .map(|reference| reference.path.join("/"))
            .collect()
    }

    #[test]
    fn variables_are_found_with_their_paths() {
        assert_eq!(
            paths("steps.stage.outputs.url ~ inputs['a.b'] is defined"),
            ["steps/stage/outputs/url", "inputs/a.b"]
        );
        assert_eq!(
            paths("task.name | default(inputs.x, boolean=true) if not agent.id == 'task.id'"),
            ["task/name", "inputs/x", "agent/id"]
        );
        assert_eq!(paths("a.b[0].c and 1.5 in [x]"), ["a/b", "x"]);
    }

    #[test]
    fn filters_calls_products_and_dashes_are_found() {
        let found = mentions("a | upper | nope(1) and range(3) * steps.my-step.outputs");
        assert_eq!(
            found.filters.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(),
            ["upper", "nope"]
        );
        assert_eq!(found.calls[0].name, "range");
        assert_eq!(found.products.len(), 1);
        assert_eq!(found.variables[1].dash.as_deref(), Some("-step"));
    }
}
