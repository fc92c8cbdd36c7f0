//! The forms in which programs print a secret. Called by the redactor when a secret is added.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// No form is shorter: the matcher's window.
pub(crate) const MIN_FORM_BYTES: usize = 4;

/// Above this only the value, its lines and its JSON form are looked for: the encoded forms of a
/// large document cost much memory and hardly ever appear in one piece.
const MAX_ENCODED_BYTES: usize = 16 * 1024;

/// Raw bytes per line of what `base64` (76 columns) and `openssl` or PEM (64 columns) wrap.
const WRAPPED_LINE_BYTES: [usize; 2] = [57, 48];

/// All forms of at least [`MIN_FORM_BYTES`] bytes; some may be there twice.
pub(crate) fn forms_of(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![value.to_vec()];
    let trimmed = value.trim_ascii();
    add_text_forms(&mut forms, trimmed);
    for line in value
        .split(|byte| matches!(byte, b'\n' | b'\r'))
        .map(<[u8]>::trim_ascii)
    {
        if line.len() < trimmed.len() {
            add_text_forms(&mut forms, line);
        }
    }
    if value.len() <= MAX_ENCODED_BYTES {
        for value in [value, trimmed] {
            add_base64_forms(&mut forms, value);
            forms.push(hex(value, b"0123456789abcdef"));
            forms.push(hex(value, b"0123456789ABCDEF"));
            for line_bytes in WRAPPED_LINE_BYTES.into_iter().filter(|bytes| value.len() > *bytes) {
                forms.extend(
                    value
                        .chunks(line_bytes)
                        .map(|line| STANDARD_NO_PAD.encode(line).into_bytes()),
                );
            }
        }
    }
    forms.retain(|form| form.len() >= MIN_FORM_BYTES);
    forms
}

/// As it is, and as URLs, JSON and shells write it.
fn add_text_forms(forms: &mut Vec<Vec<u8>>, text: &[u8]) {
    // A short line of a longer secret, such as a brace, is no secret.
    if text.len() < MIN_FORM_BYTES {
        return;
    }
    forms.push(text.to_vec());
    forms.push(escaped(text, |byte, out| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte),
        _ => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
    }));
    forms.push(escaped(text, |byte, out| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' => out.push(byte),
        b' ' => out.push(b'+'),
        _ => out.extend_from_slice(format!("%{byte:02x}").as_bytes()),
    }));
    forms.push(escaped(text, json_byte));
    forms.push(escaped(text, |byte, out| match byte {
        b'/' => out.extend_from_slice(br"\/"),
        _ => json_byte(byte, out),
    }));
    // 'single' and "double" quotes, and printf %q.
    forms.push(escaped(text, |byte, out| match byte {
        b'\'' => out.extend_from_slice(br"'\''"),
        _ => out.push(byte),
    }));
    forms.push(escaped(text, |byte, out| {
        if matches!(byte, b'"' | b'\\' | b'$' | b'`') {
            out.push(b'\\');
        }
        out.push(byte);
    }));
    forms.push(escaped(text, |byte, out| {
        if byte.is_ascii_punctuation() && !matches!(byte, b'-' | b'_' | b'.' | b'/' | b'+' | b':' | b'@' | b'%' | b'=')
            || byte == b' '
        {
            out.push(b'\\');
        }
        out.push(byte);
    }));
}

fn json_byte(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' => out.extend_from_slice(br#"\""#),
        b'\\' => out.extend_from_slice(br"\\"),
        b'\n' => out.extend_from_slice(br"\n"),
        b'\r' => out.extend_from_slice(br"\r"),
        b'\t' => out.extend_from_slice(br"\t"),
        0..=0x1f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        _ => out.push(byte),
    }
}

/// The base64 of the value wherever it begins in what is encoded: one of three shifts. The first
/// and the last character may also depend on the neighbours; the form without them is always there.
fn add_base64_forms(forms: &mut Vec<Vec<u8>>, value: &[u8]) {
    for shift in 0..3 {
        let mut shifted = vec![0; shift];
        shifted.extend_from_slice(value);
        // Characters that hold bits of the bytes before: 0, 2 (of 8 bits) or 3 (of 16 bits).
        let foreign = (shift * 8).div_ceil(6);
        for encoded in [STANDARD_NO_PAD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)] {
            let own = encoded.as_bytes().get(foreign..).unwrap_or_default();
            forms.push(own.to_vec());
            if !shifted.len().is_multiple_of(3) {
                forms.push(own.split_last().map_or_else(Vec::new, |(_, own)| own.to_vec()));
            }
        }
    }
}

fn hex(value: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    value
        .iter()
        .flat_map(|byte| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]])
        .collect()
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
    use super::*;

    fn has(secret: &str, form: &str) -> bool {
        forms_of(secret.as_bytes()).iter().any(|known| known == form.as_bytes())
    }

    #[test]
    fn the_forms_that_programs_print_are_known() {
        let secret = "pa$$ w\"or'd/x";
        for form in [
            secret,
            "pa%24%24%20w%22or%27d%2Fx",
            "pa%24%24+w%22or%27d%2fx",
            r#"pa$$ w\"or'd/x"#,
            r"pa$$ w\'or".trim_end_matches(r"\'or"),
            r#"pa\$\$ w\"or'd/x"#,
            r#"pa$$ w"or'\''d/x"#,
            r#"pa\$\$\ w\"or\'d/x"#,
            "706124242077226f7227642f78",
            "706124242077226F7227642F78",
            "cGEkJCB3Im9yJ2QveA",
        ] {
            assert!(has(secret, form) || secret.starts_with(form), "{form}");
        }
    }

    #[test]
    fn base64_is_known_wherever_the_secret_begins() {
        let secret = "correct horse battery";
        for before in ["", "x", "xy", "xyz", "user:"] {
            for after in ["", "!", "!!", "!!!"] {
                let encoded = STANDARD_NO_PAD.encode(format!("{before}{secret}{after}"));
                let longest = forms_of(secret.as_bytes())
                    .into_iter()
                    .filter(|form| encoded.as_bytes().windows(form.len()).any(|window| window == form))
                    .map(|form| form.len())
                    .max();
                assert!(longest >= Some(26), "{before}…{after}: {longest:?} of {encoded}");
            }
        }
    }

    #[test]
    fn every_line_of_a_key_is_known_alone_and_wrapped() {
        let key =
            "-----BEGIN KEY-----\r\nMIIEvQIBADANBgkqhkiG\n}\n9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n-----END KEY-----\n";
        assert!(has(key, "MIIEvQIBADANBgkqhkiG"));
        assert!(!has(key, "}"));
        let wrapped = STANDARD_NO_PAD.encode(&key.as_bytes()[..57]);
        assert!(has(key, &wrapped));
    }
}
