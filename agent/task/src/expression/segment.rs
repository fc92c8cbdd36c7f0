//! Splits a string into literal text and `${{ … }}` expressions. Called wherever a string of a
//! document is checked or evaluated; knows nothing of what stands inside the braces.

/// Opens an expression.
pub(crate) const OPEN: &str = "${{";
const CLOSE: &str = "}}";

/// A piece of a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segment<'a> {
    /// Stands for itself.
    Text(&'a str),
    /// What stands between `${{` and `}}`, with the byte offset of its first byte in the string.
    Expression {
        /// Without the braces, not trimmed.
        source: &'a str,
        /// In the whole string.
        offset: usize,
    },
}

/// `${{` without `}}`, at this byte offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unclosed(pub(crate) usize);

/// The pieces of `text`, in order. Empty literal pieces are left out.
pub(crate) fn split(text: &str) -> Result<Vec<Segment<'_>>, Unclosed> {
    let mut segments = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].find(OPEN) {
        let open = at + found;
        if open > at {
            segments.push(Segment::Text(&text[at..open]));
        }
        let offset = open + OPEN.len();
        let length = close(&text[offset..]).ok_or(Unclosed(open))?;
        segments.push(Segment::Expression {
            source: &text[offset..offset + length],
            offset,
        });
        at = offset + length + CLOSE.len();
    }
    if at < text.len() {
        segments.push(Segment::Text(&text[at..]));
    }
    Ok(segments)
}

/// Where the closing braces are, looking past string literals and nested braces.
fn close(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut open_braces = 0_u32;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (quote, byte) {
            (Some(_), b'\\') => at += 1,
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'\'' | b'"') => quote = Some(byte),
            (None, b'{') => open_braces += 1,
            (None, b'}') if open_braces > 0 => open_braces -= 1,
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            (None, _) => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_inside_string_literals_do_not_close_an_expression() {
        let segments = split("a ${{ '}}' ~ {'k': {'n': 1}}['k'] }} b${{x}}").expect("closed");
        assert_eq!(
            segments,
            [
                Segment::Text("a "),
                Segment::Expression {
                    source: " '}}' ~ {'k': {'n': 1}}['k'] ",
                    offset: 5
                },
                Segment::Text(" b"),
                Segment::Expression {
                    source: "x",
                    offset: 41
                },
            ]
        );
    }

    #[test]
    fn an_expression_that_never_ends_is_reported_where_it_begins() {
        assert_eq!(split("ab ${{ x }"), Err(Unclosed(3)));
        assert_eq!(
            split("no expression $ { {{ }}"),
            Ok(vec![Segment::Text("no expression $ { {{ }}")])
        );
    }
}
