//! The template engine behind expressions, reduced to what is safe with text from strangers: a
//! closed list of filters, no functions, no products (a string times a number is a cheap bomb),
//! limited fuel, limited sizes. Called by [`super::evaluate`] and by the document's reader.

use std::borrow::Cow;
use std::sync::LazyLock;

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};

use super::depth::bounded;
use super::reference::mentions;

/// Longest expression.
pub const MAX_EXPRESSION_BYTES: usize = 4 * 1024;

/// Longest result of one expression, as JSON or text.
pub const MAX_RESULT_BYTES: usize = 256 * 1024;

/// Evaluation steps of one expression.
const FUEL: u64 = 50_000;

/// The filters that an expression may use.
pub const FILTERS: [&str; 27] = [
    "abs",
    "bool",
    "capitalize",
    "count",
    "d",
    "default",
    "first",
    "float",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "lower",
    "max",
    "min",
    "replace",
    "round",
    "sort",
    "split",
    "string",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
];

/// An expression cannot be read, or does not come to a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("${{{{ {expression} }}}} {reason}")]
pub struct ExpressionError {
    /// The expression, without its braces.
    pub expression: String,
    /// What is wrong with it, as the rest of a sentence that begins with the expression.
    pub reason: String,
}

impl ExpressionError {
    pub(crate) fn new(expression: &str, reason: impl Into<String>) -> Self {
        let mut shown: String = expression.trim().chars().take(120).collect();
        if shown.len() < expression.trim().len() {
            shown.push('…');
        }
        Self {
            expression: shown,
            reason: reason.into(),
        }
    }
}

/// How undefined names behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undefined {
    /// An error: a deployment must not go on with a hole in it.
    Refused,
    /// Empty: an agent need not have every label.
    Empty,
}

static STRICT: LazyLock<Environment<'static>> = LazyLock::new(|| environment(UndefinedBehavior::Strict));
static LENIENT: LazyLock<Environment<'static>> = LazyLock::new(|| environment(UndefinedBehavior::Chainable));

/// Is `source` an expression? The error says what is wrong.
pub(crate) fn check(source: &str) -> Result<(), ExpressionError> {
    if source.trim().is_empty() {
        return Err(ExpressionError::new(source, "is empty"));
    }
    if source.len() > MAX_EXPRESSION_BYTES {
        return Err(ExpressionError::new(
            source,
            format!("is longer than {MAX_EXPRESSION_BYTES} bytes"),
        ));
    }
    shallow(source)?;
    if !mentions(source).products.is_empty() {
        return Err(ExpressionError::new(source, "uses '*', which expressions do not have"));
    }
    STRICT
        .compile_expression(&words(source))
        .map(drop)
        .map_err(|error| syntax_error(source, &error))
}

/// The value of `source`, which has passed [`check`] or is checked here.
pub(crate) fn evaluate(source: &str, names: Value, undefined: Undefined) -> Result<Value, ExpressionError> {
    if source.len() > MAX_EXPRESSION_BYTES || source.contains('*') {
        check(source)?;
    }
    shallow(source)?;
    let environment: &Environment<'static> = match undefined {
        Undefined::Refused => &STRICT,
        Undefined::Empty => &LENIENT,
    };
    let spelled = words(source);
    let compiled = environment
        .compile_expression(&spelled)
        .map_err(|error| syntax_error(source, &error))?;
    compiled
        .eval(names)
        .map_err(|error| ExpressionError::new(source, reason(&error)))
}

/// The engine works by recursion: what is too deep for it must not reach it.
fn shallow(source: &str) -> Result<(), ExpressionError> {
    bounded(source).map_err(|too_deep| ExpressionError::new(source, too_deep.to_string()))
}

/// `&&`, `||` and `!` as the engine spells them.
fn words(source: &str) -> Cow<'_, str> {
    if !source.contains(['&', '|', '!']) {
        return Cow::Borrowed(source);
    }
    let mut spelled = String::with_capacity(source.len() + 8);
    let mut quote = None;
    let mut characters = source.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character, characters.peek()) {
            (Some(_), '\\', Some(&next)) => {
                characters.next();
                spelled.extend([character, next]);
            }
            (Some(open), _, _) => {
                spelled.push(character);
                if character == open {
                    quote = None;
                }
            }
            (None, '&', Some('&')) => {
                characters.next();
                spelled.push_str(" and ");
            }
            (None, '|', Some('|')) => {
                characters.next();
                spelled.push_str(" or ");
            }
            (None, '!', next) if next != Some(&'=') => spelled.push_str(" not "),
            (None, _, _) => {
                spelled.push(character);
                if matches!(character, '\'' | '"') {
                    quote = Some(character);
                }
            }
        }
    }
    Cow::Owned(spelled)
}

fn environment(undefined: UndefinedBehavior) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(undefined);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(64);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    let globals: Vec<String> = environment.globals().map(|(name, _)| name.to_owned()).collect();
    for name in globals {
        environment.remove_global(&name);
    }
    for name in BUILT_IN_FILTERS_LEFT_OUT {
        environment.remove_filter(name);
    }
    environment.add_filter("join", join);
    environment.add_filter("tojson", to_json);
    environment
}

/// Filters of the engine that can make much out of little, reach into objects, or mean nothing here.
const BUILT_IN_FILTERS_LEFT_OUT: [&str; 24] = [
    "safe",
    "escape",
    "e",
    "dictsort",
    "reverse",
    "attr",
    "list",
    "batch",
    "slice",
    "sum",
    "indent",
    "select",
    "reject",
    "selectattr",
    "rejectattr",
    "map",
    "groupby",
    "chain",
    "zip",
    "pprint",
    "format",
    "urlencode",
    "tojson",
    "join",
];

fn join(values: Vec<Value>, separator: Option<String>) -> Result<String, Error> {
    let separator = separator.unwrap_or_default();
    let mut joined = String::new();
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            joined.push_str(&separator);
        }
        match value.as_str() {
            Some(text) => joined.push_str(text),
            None => joined.push_str(&value.to_string()),
        }
        if joined.len() > MAX_RESULT_BYTES {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("the joined text is longer than {MAX_RESULT_BYTES} bytes"),
            ));
        }
    }
    Ok(joined)
}

fn to_json(value: Value) -> Result<String, Error> {
    serde_json::to_string(&value).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

fn syntax_error(source: &str, error: &Error) -> ExpressionError {
    ExpressionError::new(source, format!("cannot be read: {}", detail(error)))
}

fn reason(error: &Error) -> String {
    match error.kind() {
        ErrorKind::UndefinedError => "has no value: something in it is not defined".into(),
        ErrorKind::OutOfFuel => "takes too long to evaluate".into(),
        _ => format!("cannot be evaluated: {}", detail(error)),
    }
}

fn detail(error: &Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_on_the_list_exists_and_no_other_does() {
        for name in FILTERS {
            let source = format!("'1' | {name}");
            let answer = evaluate(&source, Value::UNDEFINED, Undefined::Refused);
            assert!(!format!("{answer:?}").contains("unknown"), "{answer:?}");
        }
        for name in BUILT_IN_FILTERS_LEFT_OUT.iter().filter(|name| !FILTERS.contains(name)) {
            let answer = evaluate(&format!("'1' | {name}"), Value::UNDEFINED, Undefined::Refused);
            assert!(format!("{answer:?}").contains("unknown"), "{name}: {answer:?}");
        }
    }

    /// All that can lie in itself: what is repeated before the middle, the middle, what is repeated behind it.
    const TOWERS: [(&str, &str, &str); 35] = [
        ("!", "true", ""),
        ("not ", "true", ""),
        ("-", "1", ""),
        ("- -", "1", ""),
        ("(", "1", ")"),
        ("[", "", "]"),
        ("{1:", "1", "}"),
        ("!(", "true", ")"),
        ("-(", "1", ")"),
        ("x[", "1", "]"),
        ("x[1:", "1", "]"),
        ("x(", "1", ")"),
        ("x|d(", "1", ")"),
        ("x is eq(", "1", ")"),
        ("", "labels", ".a"),
        ("", "labels", "[0]"),
        ("", "labels", "[:]"),
        ("", "labels", "()"),
        ("", "1", "|d"),
        ("", "1", "|d(1)"),
        ("", "1", " is odd"),
        ("", "1", " is not odd"),
        ("", "1", "+1"),
        ("", "1", "~1"),
        ("", "1", "/1"),
        ("", "1", "==1"),
        ("", "1", " in[]"),
        ("", "1", "&&1"),
        ("", "1", "||1"),
        ("", "1", " and 1"),
        ("", "1", " if 1"),
        ("1 if 1 else ", "1", ""),
        ("", "1", " if 1 else 1"),
        ("((", "", ""),
        ("-1+", "1", ""),
    ];

    #[test]
    fn a_tower_is_refused_and_the_highest_that_is_not_fits_into_a_small_stack() {
        let judged = || {
            for (before, middle, after) in TOWERS {
                let tower = |floors: usize| format!("{}{middle}{}", before.repeat(floors), after.repeat(floors));
                let most = (MAX_EXPRESSION_BYTES - middle.len()) / (before.len() + after.len());
                let highest = (1..most).take_while(|floors| bounded(&tower(*floors)).is_ok()).last();
                // The engine may find other things wrong with it, and lives to say so.
                let _ = evaluate(&tower(highest.expect("some")), Value::UNDEFINED, Undefined::Empty);
                for refused in [tower(highest.expect("some") + 1), tower(most)] {
                    let error = check(&refused).expect_err("too deep");
                    assert!(error.reason.contains("deeper than"), "{error}");
                    let again = evaluate(&refused, Value::UNDEFINED, Undefined::Empty);
                    assert_eq!(again.expect_err("too deep"), error);
                }
            }
        };
        // A quarter of what a thread has, and in a test build, whose frames are several times as large.
        let small = std::thread::Builder::new().stack_size(512 * 1024);
        small.spawn(judged).expect("spawned").join().expect("judged");
    }

    #[test]
    fn bombs_are_refused() {
        for bomb in ["'x' * 99999999", "range(99999)", "'a' | replace('a', 'b') ** 9"] {
            assert!(evaluate(bomb, Value::UNDEFINED, Undefined::Refused).is_err(), "{bomb}");
        }
        let long = "a,".repeat(2_000);
        let joined = format!("'{}' | split(',') | join('{}')", &long[..1_500], "y".repeat(1_500));
        assert!(evaluate(&joined, Value::UNDEFINED, Undefined::Refused).is_err());
        assert!(check(&format!("{}1{}", "(".repeat(1_000), ")".repeat(1_000))).is_err());
    }
}
