//! How URLs, JSON and shells write a text. Called by [`crate::secret_forms`].
//!
//! Encoders differ in what they leave as it is and in the case of their digits; each way that is in use is a form of
//! its own. For most secrets they come to the same few.

use std::collections::HashSet;
use std::fmt::Write as _;

/// What encoders of URLs leave as it is beside letters, digits, `-`, `.` and `_`: RFC 3986 and Go, browsers'
/// `encodeURIComponent`, Python's `quote`, and forms.
const URL_UNRESERVED: [&[u8]; 4] = [b"~", b"~!'()*", b"~/", b"*"];

/// What bash's `printf %q` escapes; `#` and `~` only where a word begins.
const BASH_SPECIAL: &[u8] = b" \t!\"$&'()*,;<>?[\\]^`{|}";

/// Adds every form.
pub(crate) fn add_escaped(forms: &mut HashSet<Vec<u8>>, text: &[u8]) {
    add_json(forms, text);
    add_urls(forms, text);
    add_shell(forms, text);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Digits {
    Upper,
    Lower,
}

fn add_urls(forms: &mut HashSet<Vec<u8>>, text: &[u8]) {
    for unreserved in URL_UNRESERVED {
        for digits in [Digits::Upper, Digits::Lower] {
            for space in [&b"%20"[..], b"+"] {
                forms.insert(url(text, unreserved, digits, space));
            }
        }
    }
}

fn url(text: &[u8], unreserved: &[u8], digits: Digits, space: &[u8]) -> Vec<u8> {
    escaped(text, |byte, out| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(byte),
        b' ' => out.extend_from_slice(space),
        _ if unreserved.contains(&byte) => out.push(byte),
        _ if digits == Digits::Upper => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        _ => out.extend_from_slice(format!("%{byte:02x}").as_bytes()),
    })
}

/// What a writer of JSON escapes beyond what it must.
#[derive(Clone, Copy)]
struct Json {
    /// Everything that is not ASCII, as Python does.
    ascii: bool,
    /// `<`, `>` and `&`, as Go does.
    html: bool,
    /// `/`, as PHP does.
    slash: bool,
    /// Control characters by number, though they have a letter: Go until 1.22.
    numbers: bool,
    digits: Digits,
}

fn add_json(forms: &mut HashSet<Vec<u8>>, text: &[u8]) {
    let plain = Json {
        ascii: false,
        html: false,
        slash: false,
        numbers: false,
        digits: Digits::Lower,
    };
    let Ok(characters) = std::str::from_utf8(text) else {
        // No text: nobody writes it as JSON, but for its bytes with what must be escaped.
        forms.insert(escaped(text, |byte, out| match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(br"\n"),
            _ => out.push(byte),
        }));
        return;
    };
    let once = json(characters, plain);
    for bits in 0_u8..32 {
        let kind = Json {
            ascii: bits & 1 != 0,
            html: bits & 2 != 0,
            slash: bits & 4 != 0,
            numbers: bits & 16 != 0,
            digits: if bits & 8 == 0 { Digits::Lower } else { Digits::Upper },
        };
        forms.insert(json(characters, kind).into_bytes());
    }
    // JSON in a text of JSON.
    forms.insert(json(&once, plain).into_bytes());
    forms.insert(once.into_bytes());
}

fn json(text: &str, kind: Json) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    let unit = |out: &mut String, unit: u16| {
        let written = match kind.digits {
            Digits::Lower => write!(out, "\\u{unit:04x}"),
            Digits::Upper => write!(out, "\\u{unit:04X}"),
        };
        debug_assert!(written.is_ok(), "a string takes everything");
    };
    for character in text.chars() {
        let short = match character {
            '"' => r#"\""#,
            '\\' => r"\\",
            '\n' => r"\n",
            '\r' => r"\r",
            '\t' => r"\t",
            '\u{8}' if !kind.numbers => r"\b",
            '\u{c}' if !kind.numbers => r"\f",
            '/' if kind.slash => r"\/",
            _ => "",
        };
        let must = character < ' ' || (kind.ascii && !character.is_ascii()) || (kind.ascii && character == '\u{7f}');
        if !short.is_empty() {
            out.push_str(short);
        } else if must || (kind.html && matches!(character, '<' | '>' | '&')) {
            character
                .encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|one| unit(&mut out, *one));
        } else {
            out.push(character);
        }
    }
    out
}

fn add_shell(forms: &mut HashSet<Vec<u8>>, text: &[u8]) {
    // 'single quotes': bash and most, dash and Python's shlex.
    for quote in [&br"'\''"[..], br#"'"'"'"#] {
        forms.insert(escaped(text, |byte, out| match byte {
            b'\'' => out.extend_from_slice(quote),
            _ => out.push(byte),
        }));
    }
    // "double quotes"
    forms.insert(backslashed(text, |byte| matches!(byte, b'"' | b'\\' | b'$' | b'`')));
    // Backslashes: bash's printf %q, and what escapes more than it must.
    let quoted = backslashed(text, |byte| BASH_SPECIAL.contains(&byte));
    if let Some(b'#' | b'~') = text.first() {
        forms.insert([br"\", &quoted[..]].concat());
    }
    forms.insert(quoted);
    forms.insert(backslashed(text, |byte| {
        byte == b' '
            || byte.is_ascii_punctuation()
                && !matches!(byte, b'-' | b'_' | b'.' | b'/' | b'+' | b':' | b'@' | b'%' | b'=')
    }));
    // $'dollar quotes', in a locale that knows the characters and in one that does not.
    forms.insert(dollar_quoted(text, |byte| byte >= 0x80));
    forms.insert(dollar_quoted(text, |_| false));
}

/// With a backslash before each byte that `is_special`.
fn backslashed(text: &[u8], is_special: impl Fn(u8) -> bool) -> Vec<u8> {
    escaped(text, |byte, out| {
        if is_special(byte) {
            out.push(b'\\');
        }
        out.push(byte);
    })
}

/// As bash writes `$'…'`: letters for what has one, else three octal digits.
fn dollar_quoted(text: &[u8], is_plain: impl Fn(u8) -> bool) -> Vec<u8> {
    escaped(text, |byte, out| match byte {
        b'\\' | b'\'' => out.extend_from_slice(&[b'\\', byte]),
        0x07..=0x0d => out.extend_from_slice(&[b'\\', b"abtnvfr"[usize::from(byte - 7)]]),
        0x1b => out.extend_from_slice(br"\E"),
        b' '..=b'~' => out.push(byte),
        _ if is_plain(byte) => out.push(byte),
        _ => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
    })
}

fn escaped(text: &[u8], mut escape: impl FnMut(u8, &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 2);
    for byte in text {
        escape(*byte, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn forms(text: &[u8]) -> HashSet<Vec<u8>> {
        let mut forms = HashSet::new();
        add_escaped(&mut forms, text);
        forms
    }

    fn printed(shell: &str, script: &str, value: &str, locale: &str) -> Vec<u8> {
        let mut command = Command::new(shell);
        command.args(["-c", script, shell, value]).env("LC_ALL", locale);
        command.output().expect("a shell").stdout
    }

    fn has(secret: &str, form: &[u8]) -> bool {
        forms(secret.as_bytes())
            .iter()
            .any(|known| form.windows(known.len()).any(|window| window == known))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// What bash itself prints of a value: quoted for reuse, and as it traces a command.
        #[test]
        fn whatever_bash_prints_of_a_value_is_a_form(secret in "[ -~\t\n\u{1b}äß€]{4,24}") {
            prop_assume!(secret.trim_matches(|c: char| c.is_ascii_whitespace()) == secret);
            for script in [r#"printf %q "$1""#, r#"printf %s "${1@Q}""#, r#"export X="$1"; export -p | grep -A99 ' X='"#] {
                for locale in ["C", "C.UTF-8"] {
                    let printed = printed("bash", script, &secret, locale);
                    prop_assert!(has(&secret, &printed), "{script} in {locale}: {}", String::from_utf8_lossy(&printed));
                }
            }
        }

        /// What a writer of JSON that is not ours makes of a value.
        #[test]
        fn whatever_json_makes_of_a_value_is_a_form(secret in "[ -~\t\n\u{8}\u{c}\u{1b}äß€😀]{4,24}") {
            prop_assert!(has(&secret, serde_json::to_string(&secret).expect("a text").as_bytes()));
            let twice = serde_json::to_string(&serde_json::to_string(&secret).expect("a text")).expect("a text");
            prop_assert!(has(&secret, twice.as_bytes()));
        }
    }

    #[test]
    fn encoders_of_urls_and_json_differ_and_each_way_is_known() {
        let secret = "a b/ü<~'\"\u{1f600}";
        for form in [
            "a%20b%2F%C3%BC%3C~%27%22%F0%9F%98%80",
            "a+b%2f%c3%bc%3c~%27%22%f0%9f%98%80",
            "a%20b/%C3%BC%3C~%27%22%F0%9F%98%80",
            "a%20b%2F%C3%BC%3C~'%22%F0%9F%98%80",
            "a+b%2F%C3%BC%3C%7E%27%22%F0%9F%98%80",
            r#"a b/\u00fc<~'\"\ud83d\ude00"#,
            r#"a b\/\u00FC<~'\"\uD83D\uDE00"#,
            r#"a b/ü\u003c~'\"😀"#,
            r#"a b/ü<~'\\\"😀"#,
        ] {
            assert!(forms(secret.as_bytes()).contains(form.as_bytes()), "{form}");
        }
    }
}
