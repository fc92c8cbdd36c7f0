//! The forms in which programs print a secret. Called by the redactor when a secret is added.
//!
//! A value is looked for as it is, in base64 wherever it begins in what is encoded, in hexadecimal, both also broken
//! into lines, and as URLs, JSON and shells write it ([`crate::escapes`]); a value of several lines line by line too,
//! and one that is a JSON object text by text ([`crate::json_texts`]).

use std::collections::HashSet;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use crate::escapes::add_escaped;
use crate::form::Form;
use crate::json_texts::Texts;
use crate::parts::{MAX_PARTED_BYTES, Public, is_armour};

/// No form is shorter: the matcher's window.
pub(crate) const MIN_FORM_BYTES: usize = 4;

/// Raw bytes per line of what `base64` (76 columns) and `openssl` or PEM (64 columns) wrap.
const WRAPPED_LINE_BYTES: [usize; 2] = [57, 48];

/// The same of what `xxd -p` wraps (60 columns).
const WRAPPED_HEX_BYTES: usize = 30;

const DIGITS: [&[u8; 16]; 2] = [b"0123456789abcdef", b"0123456789ABCDEF"];

/// All forms, each of at least [`MIN_FORM_BYTES`] bytes.
pub(crate) fn forms_of(value: &[u8]) -> HashSet<Form> {
    let texts = Texts::of(value);
    let mut forms = whole_forms(value, &texts);
    if value.len() <= MAX_PARTED_BYTES {
        add_parts(&mut forms, value, &Public::of(value, &texts.places_in(value)));
    }
    forms
}

/// All but what stands in broken lines.
pub(crate) fn whole_forms_of(value: &[u8]) -> HashSet<Form> {
    whole_forms(value, &Texts::of(value))
}

fn whole_forms(value: &[u8], texts: &Texts) -> HashSet<Form> {
    let mut forms = HashSet::from([value.to_vec()]);
    let trimmed = value.trim_ascii();
    add_forms(&mut forms, trimmed);
    if trimmed.len() < value.len() {
        add_encoded(&mut forms, value);
    }
    add_lines(&mut forms, value);
    for text in texts.iter() {
        add_forms(&mut forms, text.as_bytes());
        add_lines(&mut forms, text.as_bytes());
    }
    forms.retain(|form| form.len() >= MIN_FORM_BYTES);
    forms.into_iter().map(Form::whole).collect()
}

/// Those of a value of several lines.
fn add_lines(forms: &mut HashSet<Vec<u8>>, value: &[u8]) {
    // What is no text has no lines.
    let text = if std::str::from_utf8(value).is_ok() { value } else { &[] };
    let whole = text.trim_ascii().len();
    let lines = text.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii);
    for line in lines {
        // A short line of a longer secret, such as a brace, is no secret; nor is what all of a kind begin with.
        if line.len() < whole && line.len() >= MIN_FORM_BYTES && !is_armour(line) {
            add_forms(forms, line);
        }
    }
}

fn add_forms(forms: &mut HashSet<Vec<u8>>, text: &[u8]) {
    forms.insert(text.to_vec());
    add_escaped(forms, text);
    add_encoded(forms, text);
}

fn add_encoded(forms: &mut HashSet<Vec<u8>>, value: &[u8]) {
    add_base64_forms(forms, value);
    for digits in DIGITS {
        forms.insert(hex(value, digits));
        if value.len() > WRAPPED_HEX_BYTES {
            forms.extend(value.chunks(WRAPPED_HEX_BYTES).map(|line| hex(line, digits)));
        }
    }
    for line_bytes in WRAPPED_LINE_BYTES.into_iter().filter(|bytes| value.len() > *bytes) {
        let lines = value.chunks(line_bytes);
        forms.extend(lines.map(|line| STANDARD_NO_PAD.encode(line).into_bytes()));
    }
}

/// The base64 of the value wherever it begins in what is encoded. The last character may also depend on what follows;
/// the form without it is always there.
fn add_base64_forms(forms: &mut HashSet<Vec<u8>>, value: &[u8]) {
    for shift in 0..3 {
        for own in shifted_base64(value, shift) {
            if !(shift + value.len()).is_multiple_of(3)
                && let Some((_, certain)) = own.split_last()
            {
                forms.insert(certain.to_vec());
            }
            forms.insert(own);
        }
    }
}

/// The base64 of the value behind so many other bytes, standard and for URLs, without the characters that hold bits of
/// those: 0, 2 (of 8 bits) or 3 (of 16 bits).
fn shifted_base64(value: &[u8], shift: usize) -> [Vec<u8>; 2] {
    let mut shifted = vec![0; shift];
    shifted.extend_from_slice(value);
    let all = [STANDARD_NO_PAD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)];
    all.map(|encoded| {
        let own = foreign_characters(shift).min(encoded.len());
        encoded.into_bytes().split_off(own)
    })
}

const fn foreign_characters(shift: usize) -> usize {
    (shift * 8).div_ceil(6)
}

/// What may stand in one line, however it was broken.
fn add_parts(forms: &mut HashSet<Form>, value: &[u8], public: &Public) {
    for shift in 0..3 {
        let foreign = foreign_characters(shift);
        // Of the shifted bytes six bits are in each character.
        let bytes_of = |characters: Range<usize>| {
            let from = ((foreign + characters.start) * 6 / 8).saturating_sub(shift);
            let to = ((foreign + characters.end) * 6).div_ceil(8).saturating_sub(shift);
            from..to
        };
        for encoded in shifted_base64(value, shift) {
            forms.extend(public.parts_of(&encoded, bytes_of));
        }
    }
    for digits in DIGITS {
        forms.extend(public.parts_of(&hex(value, digits), |characters| {
            characters.start / 2..characters.end.div_ceil(2)
        }));
    }
}

fn hex(value: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    value
        .iter()
        .flat_map(|byte| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]])
        .collect()
}

/// Every text that is looked for.
#[cfg(test)]
pub(crate) fn searched(secret: &[u8]) -> HashSet<Vec<u8>> {
    let forms = forms_of(secret);
    let searched = forms.iter().flat_map(Form::searched);
    searched.map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::PART_BYTES;

    fn has(secret: &str, form: &str) -> bool {
        searched(secret.as_bytes()).contains(form.as_bytes())
    }

    #[test]
    fn the_forms_that_programs_print_are_known() {
        let secret = "pa$$ w\"or'd/x";
        for form in [
            secret,
            "pa%24%24%20w%22or%27d%2Fx",
            "pa%24%24+w%22or%27d%2fx",
            r#"pa$$ w\"or'd/x"#,
            r#"pa$$ w\"or'd\/x"#,
            r#"pa\$\$ w\"or'd/x"#,
            r#"pa$$ w"or'\''d/x"#,
            r#"pa$$ w"or'"'"'d/x"#,
            r#"pa\$\$\ w\"or\'d/x"#,
            "706124242077226f7227642f78",
            "706124242077226F7227642F78",
            "cGEkJCB3Im9yJ2QveA",
        ] {
            assert!(has(secret, form), "{form}");
        }
    }

    #[test]
    fn base64_is_known_wherever_the_secret_begins() {
        let secret = "correct horse battery";
        for before in ["", "x", "xy", "xyz", "user:"] {
            for after in ["", "!", "!!", "!!!"] {
                let encoded = STANDARD_NO_PAD.encode(format!("{before}{secret}{after}"));
                let longest = searched(secret.as_bytes())
                    .into_iter()
                    .filter(|form| encoded.as_bytes().windows(form.len()).any(|window| window == form))
                    .map(|form| form.len())
                    .max();
                assert!(longest >= Some(26), "{before}…{after}: {longest:?} of {encoded}");
            }
        }
    }

    #[test]
    fn every_line_of_a_key_is_known_alone_encoded_and_wrapped() {
        let key =
            "-----BEGIN KEY-----\r\nMIIEvQIBADANBgkqhkiG\n}\n9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n-----END KEY-----\n";
        assert!(has(key, "MIIEvQIBADANBgkqhkiG"));
        assert!(!has(key, "}"));
        let wrapped = STANDARD_NO_PAD.encode(&key.as_bytes()[..57]);
        assert!(has(key, &wrapped));
        assert!(has(key, &STANDARD_NO_PAD.encode("MIIEvQIBADANBgkqhkiG")));
    }

    /// Each line is hidden whole, but what of the value is in one of fewer characters than a part has.
    #[test]
    fn base64_and_hexadecimal_are_known_wherever_lines_are_broken() {
        let secret = b"correct horse battery staple, and a good deal more";
        let forms = searched(secret);
        for before in ["", "x", "user:", "a line of some length that ends: "] {
            let text = [before.as_bytes(), secret, b"!"].concat();
            for (encoded, from) in [
                (
                    STANDARD_NO_PAD.encode(&text).into_bytes(),
                    (before.len() * 8).div_ceil(6),
                ),
                (hex(&text, b"0123456789abcdef"), before.len() * 2),
            ] {
                // The characters that are of the secret alone, as `encoded` has them.
                let to = encoded.len() * (before.len() + secret.len()) / text.len();
                for columns in [20, 60, 64, 76] {
                    for (number, line) in encoded.chunks(columns).enumerate() {
                        let own = from.max(number * columns)..to.min(number * columns + line.len());
                        let Some(piece) = encoded.get(own).filter(|piece| piece.len() >= PART_BYTES) else {
                            continue;
                        };
                        assert!(
                            piece.windows(PART_BYTES).all(|part| forms.contains(part)),
                            "{before}: {}",
                            String::from_utf8_lossy(piece)
                        );
                    }
                }
            }
        }
    }

    /// A set of credentials as RDS keeps it: its password is hidden wherever a script takes it out.
    #[test]
    fn the_texts_of_a_json_object_are_secrets_too() {
        let value =
            r#"{"engine":"postgres","host":"db.example.com","username":"app","password":"s3cr\u0065t-\u20ac/x"}"#;
        for form in ["s3cret-€/x", "s3cret-%E2%82%AC%2Fx", r"s3cret-€\/x"] {
            assert!(has(value, form), "{form}");
        }
        assert!(!has(value, "db.example.com") && !has(value, "postgres"));
    }

    /// Guards that a key within a JSON secret is hidden as one of its own is, indented and line by line too.
    #[test]
    fn each_line_of_a_text_of_a_json_object_is_known() {
        let value = r#"{"user":"app","private_key":"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG\n9w0BAQEFAASCBKcw\n-----END PRIVATE KEY-----\n"}"#;
        assert!(has(value, "MIIEvQIBADANBgkqhkiG") && has(value, "9w0BAQEFAASCBKcw"));
        assert!(!has(value, "-----BEGIN PRIVATE KEY-----"));
    }

    /// Guards that what all keys and all documents begin with is not taken for a secret's.
    #[test]
    fn what_is_public_about_a_secret_is_not_hidden() {
        let key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7yq2bVfLo\n-----END PRIVATE KEY-----\n";
        let set = r#"{"username": "administrator of it", "password": "hunter2-of-the-task"}"#;
        let is_hidden = |secret: &str, text: &str| {
            searched(secret.as_bytes())
                .iter()
                .any(|form| text.as_bytes().windows(form.len()).any(|window| window == form))
        };
        for before in ["", "x", "xy"] {
            let encoded = |text: &str| STANDARD_NO_PAD.encode(format!("{before}{text}"));
            for public in [
                "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBaMQswCQYDVQQGEwJJ",
                "-----BEGIN CERTIFICATE-----\nMIIC5zCCAc+gAwIBAgIBADANBgkqhkiG9w0BAQsFADAVMRMwEQYDVQQDEwprdWJl",
                "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA0Z3VS5JJcds3xfn",
            ] {
                assert!(!is_hidden(key, &encoded(public)), "{public}");
            }
            assert!(is_hidden(key, &encoded("AQC7yq2bVfLo")));
            assert!(!is_hidden(
                set,
                &encoded(r#"{"username": "administrator of it", "age": 7}"#)
            ));
            assert!(is_hidden(set, &encoded(r#"hunter2-of-the-task"#)));
        }
    }

    /// What `xxd -p` makes of what is longer than its line.
    #[test]
    fn hexadecimal_is_known_broken_into_lines() {
        let key = "correct horse battery staple, and a good deal more";
        for line in [
            "636f727265637420686f727365206261747465727920737461706c652c20",
            "616e64206120676f6f64206465616c206d6f7265",
        ] {
            assert!(has(key, line) && has(key, &line.to_uppercase()), "{line}");
        }
    }

    /// However large it is: what the agent takes as a secret it hides in every form.
    #[test]
    fn a_large_value_has_every_form_and_so_has_each_of_its_lines() {
        let line = "key 3: \"it's $HOME & {more}/than+this\"";
        let value = format!("first line of them\n{line}\n").repeat(1024);
        let forms = searched(value.as_bytes());
        let mut of_line = HashSet::new();
        add_forms(&mut of_line, line.as_bytes());
        for form in of_line {
            assert!(forms.contains(&form), "{}", String::from_utf8_lossy(&form));
        }
        let quoted = value.trim().replace('\'', r"'\''");
        let plus = "first+line+of+them%0Akey+3%3A+%22it%27s+%24HOME+%26+%7Bmore%7D%2Fthan%2Bthis%22%0A".repeat(1024);
        for form in [quoted.as_str(), plus.trim_end_matches("%0A")] {
            assert!(forms.contains(form.as_bytes()), "{}", &form[..80]);
        }
    }

    /// The largest values as they are in use cost a part of what an attempt may have.
    #[test]
    fn a_value_of_64_kib_has_its_forms_in_a_bounded_size() {
        let json =
            "  \"client_x509_cert_url\": \"https://www.example.com/robot/v1/metadata/x509/a%40b.example.com\",\n";
        let json: Vec<u8> = json
            .bytes()
            .cycle()
            .take(64 * 1024)
            .enumerate()
            .map(|(n, byte)| match byte {
                b'x' => b"abcdefghijklmnopqrstuvwyz"[n.wrapping_mul(n) / 7 % 25],
                byte => byte,
            })
            .collect();
        let binary: Vec<u8> = (0..64 * 1024_u32)
            .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect();
        for value in [json, binary] {
            let bytes: usize = forms_of(&value).iter().map(Form::cost).sum();
            assert!(bytes <= crate::redactor::MAX_FORMS_BYTES / 2, "{bytes}");
            assert!(searched(&value).contains(STANDARD_NO_PAD.encode(&value).as_bytes()));
        }
    }
}
