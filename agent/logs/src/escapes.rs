//! How URLs, JSON and shells write a text. Called by [`crate::secret_forms`].
//!
//! Encoders differ in what they leave as it is and in the case of their digits; each way that is in use is a form of
//! its own. For most secrets they come to the same few.

use std::collections::HashSet;
use std::fmt::Write as _;

/// What encoders of a part of a URL leave as it is beside letters, digits, `-`, `.` and `_`: RFC 3986's unreserved
/// (Go's `QueryEscape`, Python's `quote_plus`, PHP's `rawurlencode`, git), `encodeURIComponent`, Python's `quote`, forms
/// (`URLSearchParams`, Java), PHP's `urlencode`, and .NET's `UrlEncode`.
const PART_OF_URL: [&[u8]; 6] = [b"~", b"~!'()*", b"~/", b"*", b"", b"!()*"];

/// The same of what writes a whole URL, or escapes for one place in it, and blanks never as `+`.
const WHOLE_URL: [(&[u8], Case); 20] = [
    // RFC 3986: user information, a segment, a path, a query. Java's `URI` too.
    (b"!$&'()*+,:;=~", Case::Both),
    (b"!$&'()*+,:;=@~", Case::Both),
    (b"!$&'()*+,/:;=@~", Case::Both),
    (b"!$&'()*+,/:;=?@~", Case::Both),
    (b"!$&'()*+,/:;=?@[]~", Case::Upper),
    // Go: `PathEscape`, `UserPassword`, and a `URL`'s path and fragment.
    (b"$&+:=@~", Case::Upper),
    (b"$&+,;=~", Case::Upper),
    (b"$&+,/:;=@~", Case::Upper),
    (b"!$&()*+,/:;=?@~", Case::Upper),
    // JavaScript: `encodeURI`, `escape`.
    (b"!#$&'()*+,/:;=?@~", Case::Upper),
    (b"*+/@", Case::Upper),
    // WHATWG, so browsers, node and Rust: user information, path (two versions), query (two kinds of schemes), fragment.
    (b"!$%&'()*+,~", Case::Upper),
    (b"!$%&'()*+,/:;=@[\\]|~", Case::Upper),
    (b"!$%&'()*+,/:;=@[\\]^|~", Case::Upper),
    (b"!$%&()*+,/:;=?@[\\]^`{|}~", Case::Upper),
    (b"!$%&'()*+,/:;=?@[\\]^`{|}~", Case::Upper),
    (b"!#$%&'()*+,/:;=?@[\\]^{|}~", Case::Upper),
    (b"!#$%&'()*+,/:;=?@[\\]^`{|}~", Case::Upper),
    // .NET's `EscapeUriString`, Python's requests.
    (b"!#$&'()*+,/:;=?@[]~", Case::Upper),
    (b"!#$%&'()*+,/:;=?@[]~", Case::Upper),
];

/// What is longer is in no whole URL: no server takes a line of that length.
const LONGEST_IN_URL_BYTES: usize = 8 * 1024;

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

/// The digits that are in use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Upper,
    Both,
}

fn add_urls(forms: &mut HashSet<Vec<u8>>, text: &[u8]) {
    for kept in PART_OF_URL {
        for digits in [Digits::Upper, Digits::Lower] {
            for space in [&b"%20"[..], b"+"] {
                forms.insert(url(text, kept, digits, space));
            }
        }
    }
    if text.len() > LONGEST_IN_URL_BYTES {
        return;
    }
    for (kept, case) in WHOLE_URL {
        forms.insert(url(text, kept, Digits::Upper, b"%20"));
        if case == Case::Both {
            forms.insert(url(text, kept, Digits::Lower, b"%20"));
        }
    }
}

fn url(text: &[u8], kept: &[u8], digits: Digits, space: &[u8]) -> Vec<u8> {
    escaped(text, |byte, out| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(byte),
        b' ' => out.extend_from_slice(space),
        _ if kept.contains(&byte) => out.push(byte),
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

        /// What Python's own encoders of URLs make of a value.
        #[test]
        fn whatever_python_makes_of_a_value_for_a_url_is_a_form(secret in "[ -~äß€]{4,24}") {
            prop_assume!(secret.trim() == secret);
            let script = "import sys; from urllib.parse import *; v = sys.argv[1]; sys.stdout.write('\\0'.join([\
                quote(v), quote(v, safe=''), quote_plus(v), urlencode({'': v}), quote(v, safe='!#$%&\\'()*+,/:;=?@[]~')]))";
            let output = Command::new("python3").args(["-c", script, &secret]).output().expect("python");
            let printed: Vec<&[u8]> = output.stdout.split(|byte| *byte == 0).collect();
            prop_assert_eq!(printed.len(), 5, "{}", String::from_utf8_lossy(&output.stderr));
            for printed in printed {
                prop_assert!(has(&secret, printed), "{}", String::from_utf8_lossy(printed));
            }
        }

        /// What WHATWG's URLs make of a value, as browsers, node and Rust have them.
        #[test]
        fn whatever_a_url_makes_of_a_value_is_a_form(secret in "[ -~äß€]{4,24}") {
            // These a path takes for its own, whoever writes them.
            prop_assume!(secret.trim() == secret && !secret.contains("./") && !secret.contains("/."));
            for base in ["https://host/", "redis://host/"] {
                let url = || url::Url::parse(base).expect("a URL");
                let (mut user, mut password, mut path, mut query, mut fragment) = (url(), url(), url(), url(), url());
                user.set_username(&secret).expect("a host");
                password.set_password(Some(&secret)).expect("a host");
                path.set_path(&format!("x{secret}y"));
                query.set_query(Some(&secret));
                fragment.set_fragment(Some(&secret));
                let mut written = vec![user, password, query, fragment];
                // Of a path that is a hierarchy a backslash becomes a slash.
                written.extend((!secret.contains('\\')).then_some(path));
                for url in written {
                    prop_assert!(has(&secret, url.as_str().as_bytes()), "{url}");
                }
            }
            let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            prop_assert!(has(&secret, form.as_bytes()), "{form}");
        }

        /// What RFC 3986 lets stand, with digits of either case, and blanks as forms write them where they may.
        #[test]
        fn whatever_the_rfc_lets_stand_is_a_form(secret in "[ -~äß€]{4,24}") {
            let (subs, unreserved) = ("!$&'()*+,;=", "-._~");
            for kept in ["", ":", ":@", ":@/", ":@/?"] {
                let subs = if kept.is_empty() { "" } else { subs };
                let keeps = |c: char| c.is_ascii_alphanumeric() || [subs, unreserved, kept].iter().any(|all| all.contains(c));
                let (mut upper, mut lower) = (String::new(), String::new());
                for c in secret.chars() {
                    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                        if keeps(c) {
                            upper.push(c);
                            lower.push(c);
                        } else {
                            upper.push_str(&format!("%{byte:02X}"));
                            lower.push_str(&format!("%{byte:02x}"));
                        }
                    }
                }
                prop_assert!(has(&secret, upper.as_bytes()) && has(&secret, lower.as_bytes()), "{upper}");
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

    /// What Go 1.26, node 20 and Java 17 print of one value: each of their functions keeps something else.
    #[test]
    fn what_go_node_and_java_write_for_a_url_is_a_form() {
        let secret = r##"Zk3+q9/Tx1==a b"c<d>e\f^g`{h|i}%!$&'()*+,-./:;=?@#[]_~ü"##;
        for form in [
            // Go: PathEscape, QueryEscape, UserPassword, URL.Path, URL.Fragment.
            "Zk3+q9%2FTx1==a%20b%22c%3Cd%3Ee%5Cf%5Eg%60%7Bh%7Ci%7D%25%21$&%27%28%29%2A+%2C-.%2F:%3B=%3F@%23%5B%5D_~%C3%BC",
            "Zk3%2Bq9%2FTx1%3D%3Da+b%22c%3Cd%3Ee%5Cf%5Eg%60%7Bh%7Ci%7D%25%21%24%26%27%28%29%2A%2B%2C-.%2F%3A%3B%3D%3F%40%23%5B%5D_~%C3%BC",
            "Zk3+q9%2FTx1==a%20b%22c%3Cd%3Ee%5Cf%5Eg%60%7Bh%7Ci%7D%25%21$&%27%28%29%2A+,-.%2F%3A;=%3F%40%23%5B%5D_~%C3%BC",
            "Zk3+q9/Tx1==a%20b%22c%3Cd%3Ee%5Cf%5Eg%60%7Bh%7Ci%7D%25%21$&%27%28%29%2A+,-./:;=%3F@%23%5B%5D_~%C3%BC",
            "Zk3+q9/Tx1==a%20b%22c%3Cd%3Ee%5Cf%5Eg%60%7Bh%7Ci%7D%25!$&%27()*+,-./:;=?@%23%5B%5D_~%C3%BC",
            // node: encodeURI, encodeURIComponent, URL.password, URL.pathname, URL.search, URL.hash, URLSearchParams.
            "Zk3+q9/Tx1==a%20b%22c%3Cd%3Ee%5Cf%5Eg%60%7Bh%7Ci%7D%25!$&'()*+,-./:;=?@#%5B%5D_~%C3%BC",
            "Zk3%2Bq9%2FTx1%3D%3Da%20b%22c%3Cd%3Ee%5Cf%5Eg%60%7Bh%7Ci%7D%25!%24%26'()*%2B%2C-.%2F%3A%3B%3D%3F%40%23%5B%5D_~%C3%BC",
            "Zk3+q9%2FTx1%3D%3Da%20b%22c%3Cd%3Ee%5Cf%5Eg%60%7Bh%7Ci%7D%!$&'()*+,-.%2F%3A%3B%3D%3F%40%23%5B%5D_~%C3%BC",
            r"Zk3+q9/Tx1==a%20b%22c%3Cd%3Ee\f^g%60%7Bh|i%7D%!$&'()*+,-./:;=%3F@%23[]_~%C3%BC",
            r"Zk3+q9/Tx1==a%20b%22c%3Cd%3Ee\f^g`{h|i}%!$&%27()*+,-./:;=?@%23[]_~%C3%BC",
            r"Zk3+q9/Tx1==a%20b%22c%3Cd%3Ee\f^g`{h|i}%!$&'()*+,-./:;=?@%23[]_~%C3%BC",
            r"Zk3+q9/Tx1==a%20b%22c%3Cd%3Ee\f^g%60{h|i}%!$&'()*+,-./:;=?@#[]_~%C3%BC",
            "Zk3%2Bq9%2FTx1%3D%3Da+b%22c%3Cd%3Ee%5Cf%5Eg%60%7Bh%7Ci%7D%25%21%24%26%27%28%29*%2B%2C-.%2F%3A%3B%3D%3F%40%23%5B%5D_%7E%C3%BC",
        ] {
            assert!(has(secret, form.as_bytes()), "{form}");
        }
        let plain = "Zk3+q9/Tx1==a b?[c]";
        for form in [
            // node: escape. Java: URI's user information, path and query.
            "Zk3+q9/Tx1%3D%3Da%20b%3F%5Bc%5D",
            "Zk3+q9%2FTx1==a%20b%3F%5Bc%5D",
            "Zk3+q9/Tx1==a%20b%3F%5Bc%5D",
            "Zk3+q9/Tx1==a%20b?[c]",
        ] {
            assert!(has(plain, form.as_bytes()), "{form}");
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
