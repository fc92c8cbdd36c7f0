//! JSON from a stranger. A value in memory takes up to a hundred times the bytes that it is written with, so values are
//! counted in the text, before anything is built of it.

use serde::de::DeserializeOwned;

/// How much of a text is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Most values: texts, numbers, lists, mappings and what is in them. Keys are not counted.
    pub values: usize,
    /// Deepest nesting of lists and mappings.
    pub depth: usize,
}

/// A text that is not read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// Too many values.
    #[error("it has more than {0} values (texts, numbers, lists, mappings)")]
    Values(usize),
    /// Lists and mappings in each other.
    #[error("its lists and mappings are nested deeper than {0}")]
    Depth(usize),
    /// It is no JSON, or says something else.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl Bound {
    /// How many values the text has, if it is within the bound. One pass over the bytes, which keeps nothing. Of a text
    /// that is no JSON, at least what a reader would have built before it found that out is counted.
    ///
    /// # Errors
    /// Which bound it exceeds.
    pub fn check(self, text: &[u8]) -> Result<usize, Unread> {
        let (mut values, mut depth) = (1_usize, 0_usize);
        let mut last = b' ';
        let mut bytes = text.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => continue,
                b'"' => skip_text(&mut bytes),
                b'[' | b'{' => {
                    depth += 1;
                    // Its first element; taken back where there is none.
                    values += 1;
                }
                b']' | b'}' => {
                    depth = depth.saturating_sub(1);
                    values = values.saturating_sub(usize::from(matches!(last, b'[' | b'{')));
                }
                b',' => values += 1,
                _ => {}
            }
            last = *byte;
            if depth > self.depth {
                return Err(Unread::Depth(self.depth));
            }
            if values > self.values.saturating_add(usize::from(matches!(last, b'[' | b'{'))) {
                return Err(Unread::Values(self.values));
            }
        }
        Ok(values)
    }

    /// Reads the text, if it is within the bound.
    ///
    /// # Errors
    /// It is not, or it is no JSON of that form.
    pub fn read<T: DeserializeOwned>(self, text: &[u8]) -> Result<T, Unread> {
        self.check(text)?;
        Ok(serde_json::from_slice(text)?)
    }
}

/// To the end of a text that was begun.
fn skip_text(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn count(value: &Value) -> (usize, usize) {
        let add = |of: &mut dyn Iterator<Item = &Value>| {
            of.map(count).fold((1, 1), |(values, depth), (more, deep)| {
                (values + more, depth.max(deep + 1))
            })
        };
        match value {
            Value::Array(items) => add(&mut items.iter()),
            Value::Object(entries) => add(&mut entries.values()),
            _ => (1, 0),
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            r#"[\\\[\]{},:" a]{0,6}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((r#"[\\\[\]{},:" a]{0,4}"#, inner), 0..5)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn as_many_values_are_counted_as_a_reader_builds(value in any_json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.expect("JSON").into_bytes();
            let (values, depth) = count(&value);
            let exact = Bound { values, depth };
            prop_assert_eq!(exact.check(&text).ok(), Some(values));
            let fewer = Bound { values: values - 1, ..exact };
            let is_refused = fewer.check(&text).is_err();
            prop_assert!(is_refused);
            if let Some(less) = depth.checked_sub(1) {
                let flatter = Bound { depth: less, ..exact };
                let is_refused = flatter.check(&text).is_err();
                prop_assert!(is_refused);
            }
        }
    }

    #[test]
    fn what_is_no_json_is_counted_as_far_as_it_could_be_built_and_never_panics() {
        let bound = Bound { values: 3, depth: 2 };
        for (text, fits) in [
            (&b""[..], true),
            (b"\"\\", true),
            (b"]]]]", true),
            (b"[1,2", true),
            (b"[1,2,3", false),
            (b"[[[", false),
            (b"\"[,,,,,,\"", true),
            (b"\"\\\"[,,,,,,", true),
        ] {
            assert_eq!(bound.check(text).is_ok(), fits, "{}", String::from_utf8_lossy(text));
        }
    }
}
