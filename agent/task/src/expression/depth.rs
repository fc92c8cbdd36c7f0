//! How deep an expression is, before the template engine sees it: the engine parses, compiles and frees
//! an expression by recursion, and a few thousand `!` would take the process with them. Called by
//! [`super::engine`]; must never answer less than what the engine will build.

/// Deepest tree of one expression: operators, filters and attributes that lie in each other.
const MAX_DEPTH: usize = 100;

/// Deepest nesting of brackets, each of which costs the engine's parser a dozen calls.
const MAX_BRACKETS: usize = 16;

/// Why an expression is too deep, as the rest of a sentence that begins with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TooDeep {
    /// Brackets in brackets.
    #[error("nests brackets deeper than {MAX_BRACKETS} levels")]
    Brackets,
    /// Operators on operators.
    #[error("is nested deeper than {MAX_DEPTH} operators, filters and attributes")]
    Operators,
}

/// Is `source` shallow enough for the engine?
pub(super) fn bounded(source: &str) -> Result<(), TooDeep> {
    let mut levels = vec![Level::default()];
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '\'' | '"' => (Token::Operand, string(rest, first)),
            _ if is_word(first) => word(rest),
            _ if first.is_whitespace() => (Token::Operand, first.len_utf8()),
            '(' | '[' | '{' => (Token::Open, 1),
            ')' | ']' | '}' => (Token::Close, 1),
            ',' | ':' => (Token::Separator, 1),
            '=' | '<' | '>' => (Token::Operator, run(rest, |c| matches!(c, '=' | '<' | '>'))),
            '!' if rest.starts_with("!=") => (Token::Operator, 2),
            '&' if rest.starts_with("&&") => (Token::Chain, 2),
            '|' if rest.starts_with("||") => (Token::Chain, 2),
            // What is no operator either is none of the engine's: it stops there.
            _ => (Token::Operator, first.len_utf8()),
        };
        rest = &rest[length..];
        match token {
            Token::Open if levels.len() > MAX_BRACKETS => return Err(TooDeep::Brackets),
            Token::Open => levels.push(Level::default()),
            Token::Close => close(&mut levels),
            Token::Operator | Token::Chain | Token::Separator | Token::Operand => {
                if let Some(level) = levels.last_mut() {
                    level.take(token);
                }
            }
        }
    }
    while levels.len() > 1 {
        close(&mut levels);
    }
    match levels.first() {
        Some(whole) if whole.depth() > MAX_DEPTH => Err(TooDeep::Operators),
        Some(_) | None => Ok(()),
    }
}

#[derive(Debug, Clone, Copy)]
enum Token {
    /// Adds no depth: names, literals, white space.
    Operand,
    /// Binds what stands beside it: `-`, `==`, `.`, `|`, `not` …
    Operator,
    /// Binds operands with all their operators: `and`, `or`, `if`, `else`.
    Chain,
    /// What stands before it and what stands after it are beside each other.
    Separator,
    Open,
    Close,
}

/// What stands between two brackets.
#[derive(Debug, Default)]
struct Level {
    /// Operators of the current operand.
    operators: usize,
    /// The deepest brackets of the current operand.
    brackets: usize,
    /// The deepest operand since the last separator, without the current one.
    operand: usize,
    /// Chain operators since the last separator.
    chain: usize,
    /// The deepest of what ended at a separator.
    beside: usize,
}

impl Level {
    fn take(&mut self, token: Token) {
        match token {
            Token::Operator => self.operators += 1,
            Token::Chain => {
                self.operand = self.operand.max(self.operators + self.brackets);
                (self.operators, self.brackets) = (0, 0);
                self.chain += 1;
            }
            Token::Separator => {
                *self = Self {
                    beside: self.depth(),
                    ..Self::default()
                };
            }
            Token::Operand | Token::Open | Token::Close => {}
        }
    }

    fn depth(&self) -> usize {
        let current = self.operators + self.brackets;
        self.beside.max(self.chain + self.operand.max(current))
    }
}

/// The brackets are an operator of the operand that they stand in: a group, an index, a call.
fn close(levels: &mut Vec<Level>) {
    if levels.len() > 1
        && let Some(closed) = levels.pop()
        && let Some(around) = levels.last_mut()
    {
        around.operators += 1;
        around.brackets = around.brackets.max(closed.depth());
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn run(text: &str, mut belongs: impl FnMut(char) -> bool) -> usize {
    text.find(|character| !belongs(character)).unwrap_or(text.len())
}

fn word(text: &str) -> (Token, usize) {
    let length = run(text, is_word);
    let token = match &text[..length] {
        "and" | "or" | "if" | "else" => Token::Chain,
        "not" | "in" | "is" => Token::Operator,
        _ => Token::Operand,
    };
    (token, length)
}

/// The bytes of a string literal with its quotes, to the end of the text if it is not closed.
fn string(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_shallow() {
        let many: Vec<String> = (0..90).map(|n| format!("inputs.env == 'e{n}'")).collect();
        let list: Vec<String> = (0..500).map(|n| format!("-{n}")).collect();
        for source in [
            "steps['a-b'].outputs.urls[0] | default('x') | upper if not (agent.id in ['a', 'b']) else -1.5".into(),
            many.join(" || "),
            format!("inputs.n in [{}]", list.join(", ")),
            format!("'{}' == \"{}\"", "!".repeat(500), "(\\\"".repeat(500)),
        ] {
            assert_eq!(bounded(&source), Ok(()), "{source}");
        }
    }

    #[test]
    fn depth_adds_up_over_brackets_that_were_closed() {
        let group = |inner: &str| format!("({inner}{})", ".a".repeat(30));
        let mut source = group("x");
        for _ in 0..2 {
            source = group(&source);
        }
        assert_eq!(bounded(&source), Ok(()));
        assert_eq!(bounded(&group(&source)), Err(TooDeep::Operators));
        assert_eq!(bounded(&format!("[{source}, {source}]")), Ok(()));
    }

    #[test]
    fn the_limits_are_where_they_are_said_to_be() {
        let brackets = |count: usize| format!("{}1{}", "(".repeat(count), ")".repeat(count));
        assert_eq!(bounded(&brackets(MAX_BRACKETS)), Ok(()));
        assert_eq!(bounded(&brackets(MAX_BRACKETS + 1)), Err(TooDeep::Brackets));
        for operator in ["!", "-", "not ", "1 + ", "true and ", "1 if true else "] {
            let per = operator.matches("if").count() + 1;
            let chain = |count: usize| format!("{}1", operator.repeat(count));
            assert_eq!(bounded(&chain(MAX_DEPTH / per)), Ok(()), "{operator}");
            assert_eq!(
                bounded(&chain(MAX_DEPTH / per + 1)),
                Err(TooDeep::Operators),
                "{operator}"
            );
        }
    }
}
